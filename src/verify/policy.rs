//! What is asked of a verification: sampling, rule and guard.

use std::fmt;
use std::str::FromStr;

/// The target's (or a drafter's) sampling: temperature, then top-k, then top-p.
///
/// Ties go to the lowest id. The default is greedy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 is greedy.
    pub temperature: f32,
    /// How many of the best tokens stay; 0 keeps all.
    pub top_k: usize,
    /// The best tokens stay until they hold this share of what top-k left; 1 keeps all.
    pub top_p: f32,
}

impl Sampling {
    /// The token of the highest logit, always.
    pub const GREEDY: Sampling = Sampling {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
    };

    /// The whole softmax at this temperature.
    pub const fn at(temperature: f32) -> Sampling {
        Sampling {
            temperature,
            ..Sampling::GREEDY
        }
    }

    /// Whether the law is one-hot at the highest logit.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Refuses what is no temperature or no share.
    pub fn check(&self) -> Result<(), PolicyError> {
        let finite = self.temperature.is_finite() && self.temperature >= 0.0;
        within(
            "temperature",
            self.temperature,
            "a finite number, 0 or more",
            finite,
        )?;
        let share = self.top_p > 0.0 && self.top_p <= 1.0;
        within("top-p", self.top_p, "above 0 and at most 1", share)
    }
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling::GREEDY
    }
}

/// How drafted tokens are accepted: METHODS, sections 2 and 3.
///
/// Read and written as on the command line: `chain`, `block`, `kl=D`,
/// `kl=D,reverse`, `margin=R`, `typical`, `typical=EPS,ALPHA`, `threshold=T`,
/// `sglang=SINGLE,ACCUMULATED`, `topk=K`, `synthetic=R`. A judge is no rule of
/// the command line: see [`Rule::with_judge`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Rule {
    /// The lossless rule, chain or tree (2211.17192, 2302.01318, 2305.09781, 2402.12374).
    #[default]
    Chain,
    /// Lossless block verification, chains only (2403.10444).
    Block,
    /// A trained judge's score reaches `theta` (2510.02329, 2501.19309, 2504.20039).
    Judge {
        /// Least score that rescues.
        theta: f32,
    },
    /// Target and drafter agree about the next token (2601.04766).
    Kl {
        /// The divergence, in nats, must stay below it.
        delta: f32,
        /// KL(R, P) in place of KL(P, R).
        reverse: bool,
    },
    /// The token is the target's runner-up, and close (2601.15498).
    Margin {
        /// Least ratio of the runner-up's raw logit to the best one's.
        ratio: f32,
    },
    /// P above a bar that sinks with the entropy (2401.10774).
    Typical {
        /// The bar's ceiling.
        eps: f32,
        /// The bar at entropy 0.
        alpha: f32,
    },
    /// P reaches a fixed bar.
    Threshold {
        /// Least P.
        t: f32,
    },
    /// SGLang's pair of thresholds, sibling by sibling; (1, 1) is lossless.
    Sglang {
        /// A token with at least this p is accepted.
        single: f32,
        /// One coin per parent against accumulated p over this.
        accumulated: f32,
    },
    /// The token is among the target's k best (baseline in 2504.20039).
    TopK {
        /// How many count as best.
        k: usize,
    },
    /// A coin in place of the lossless test: latency apart from draft quality.
    Synthetic {
        /// Probability that a node is accepted.
        rate: f32,
    },
}

impl Rule {
    /// Medusa's setting of the typical rule (2401.10774).
    pub const TYPICAL: Rule = Rule::Typical {
        eps: 0.09,
        alpha: 0.3,
    };

    /// This rule with a trained judge as its second chance.
    ///
    /// Only the lossless chain rule takes one: block verification looks ahead
    /// and a judge would change what it sees, the other rules are second
    /// chances themselves.
    pub fn with_judge(self, theta: f32) -> Result<Rule, PolicyError> {
        match self {
            Rule::Chain => Ok(Rule::Judge { theta }),
            rule => Err(PolicyError::JudgeBeside { rule }),
        }
    }

    /// Whether the output has exactly the target's sampling law.
    pub fn is_lossless(&self) -> bool {
        matches!(self, Rule::Chain | Rule::Block)
    }

    /// Whether the rule reads the drafter's full softmax R.
    pub fn needs_r(&self) -> bool {
        matches!(self, Rule::Kl { .. })
    }

    /// Whether the rule reads a judge's scores.
    pub fn needs_scores(&self) -> bool {
        matches!(self, Rule::Judge { .. })
    }

    /// Refuses parameters that the rule can make no sense of.
    pub fn check(&self) -> Result<(), PolicyError> {
        let share = |name, x: f32| within(name, x, "0 to 1", (0.0..=1.0).contains(&x));
        let part = |name, x: f32| within(name, x, "above 0 and at most 1", x > 0.0 && x <= 1.0);
        match *self {
            Rule::Chain | Rule::Block => Ok(()),
            Rule::Judge { theta } => share("judge's theta", theta),
            Rule::Kl { delta, .. } => within("kl", delta, "0 or more", delta >= 0.0),
            Rule::Margin { ratio } => share("margin", ratio),
            Rule::Typical { eps, alpha } => {
                share("typical's eps", eps)?;
                let positive = alpha.is_finite() && alpha >= 0.0;
                within(
                    "typical's alpha",
                    alpha,
                    "a finite number, 0 or more",
                    positive,
                )
            }
            Rule::Threshold { t } => share("threshold", t),
            Rule::Sglang {
                single,
                accumulated,
            } => {
                part("sglang's single threshold", single)?;
                part("sglang's accumulated threshold", accumulated)
            }
            Rule::TopK { k: 0 } => within("topk", 0.0, "1 or more", false),
            Rule::TopK { .. } => Ok(()),
            Rule::Synthetic { rate } => share("synthetic", rate),
        }
    }
}

fn within(
    what: &'static str,
    found: f32,
    expected: &'static str,
    holds: bool,
) -> Result<(), PolicyError> {
    if holds {
        Ok(())
    } else {
        Err(PolicyError::Range {
            what,
            found,
            expected,
        })
    }
}

impl FromStr for Rule {
    type Err = PolicyError;

    fn from_str(spec: &str) -> Result<Self, PolicyError> {
        let fail = || PolicyError::Spec {
            spec: spec.to_owned(),
        };
        let (name, values) = match spec.split_once('=') {
            Some((name, values)) => (name, values.split(',').collect()),
            None => (spec, Vec::new()),
        };
        let number = |x: &str| x.trim().parse::<f32>().map_err(|_| fail());
        let rule = match (name, values.as_slice()) {
            ("chain", []) => Rule::Chain,
            ("block", []) => Rule::Block,
            ("kl", [delta]) => Rule::Kl {
                delta: number(delta)?,
                reverse: false,
            },
            ("kl", [delta, "reverse"]) => Rule::Kl {
                delta: number(delta)?,
                reverse: true,
            },
            ("margin", [ratio]) => Rule::Margin {
                ratio: number(ratio)?,
            },
            ("typical", []) => Rule::TYPICAL,
            ("typical", [eps, alpha]) => Rule::Typical {
                eps: number(eps)?,
                alpha: number(alpha)?,
            },
            ("threshold", [t]) => Rule::Threshold { t: number(t)? },
            ("sglang", [single, accumulated]) => Rule::Sglang {
                single: number(single)?,
                accumulated: number(accumulated)?,
            },
            ("topk", [k]) => Rule::TopK {
                k: k.trim().parse().map_err(|_| fail())?,
            },
            ("synthetic", [rate]) => Rule::Synthetic {
                rate: number(rate)?,
            },
            _ => return Err(fail()),
        };
        rule.check()?;
        Ok(rule)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::Chain => f.write_str("chain"),
            Rule::Block => f.write_str("block"),
            Rule::Judge { theta } => write!(f, "judge={theta}"),
            Rule::Kl { delta, reverse } => {
                write!(f, "kl={delta}{}", if *reverse { ",reverse" } else { "" })
            }
            Rule::Margin { ratio } => write!(f, "margin={ratio}"),
            Rule::Typical { eps, alpha } => write!(f, "typical={eps},{alpha}"),
            Rule::Threshold { t } => write!(f, "threshold={t}"),
            Rule::Sglang {
                single,
                accumulated,
            } => write!(f, "sglang={single},{accumulated}"),
            Rule::TopK { k } => write!(f, "topk={k}"),
            Rule::Synthetic { rate } => write!(f, "synthetic={rate}"),
        }
    }
}

/// Tokens that no lossy rule may let in or override: end of sequence, special
/// tokens, what the user adds. The default is empty, as in the papers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    tokens: Vec<u32>, // ascending, distinct
}

impl Guard {
    /// Guards nothing.
    pub const NONE: Guard = Guard { tokens: Vec::new() };

    /// Whether `token` is guarded.
    pub fn contains(&self, token: u32) -> bool {
        self.tokens.binary_search(&token).is_ok()
    }

    /// The guarded tokens, ascending.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }
}

impl FromIterator<u32> for Guard {
    fn from_iter<I: IntoIterator<Item = u32>>(tokens: I) -> Self {
        let mut tokens: Vec<u32> = tokens.into_iter().collect();
        tokens.sort_unstable();
        tokens.dedup();
        Guard { tokens }
    }
}

/// Everything a verification is told beside its inputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// The target's sampling.
    pub sampling: Sampling,
    /// How drafted tokens are accepted.
    pub rule: Rule,
    /// What the lossy rules may not touch.
    pub guard: Guard,
}

impl Policy {
    /// A policy without a guard.
    pub fn new(sampling: Sampling, rule: Rule) -> Policy {
        Policy {
            sampling,
            rule,
            guard: Guard::NONE,
        }
    }

    /// Refuses parameters out of range.
    pub fn check(&self) -> Result<(), PolicyError> {
        self.sampling.check()?;
        self.rule.check()
    }
}

/// Why a sampling or a rule was refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PolicyError {
    /// A parameter out of range.
    #[error("{what} is {found}, expected {expected}")]
    Range {
        /// The parameter.
        what: &'static str,
        /// Its value.
        found: f32,
        /// The values it may have.
        expected: &'static str,
    },
    /// No rule is written like that.
    #[error(
        "rule '{spec}' is unknown, expected chain, block, kl=D[,reverse], margin=R, typical[=EPS,ALPHA], \
         threshold=T, sglang=SINGLE,ACCUMULATED, topk=K or synthetic=R"
    )]
    Spec {
        /// What was found.
        spec: String,
    },
    /// A judge was asked for beside a rule that takes none.
    #[error("a judge cannot be combined with rule '{rule}', expected 'chain'")]
    JudgeBeside {
        /// The other rule.
        rule: Rule,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rules_print_as_they_are_read() {
        for spec in [
            "chain",
            "block",
            "kl=0.5",
            "kl=0.5,reverse",
            "margin=0.9",
            "typical=0.09,0.3",
            "threshold=0.25",
            "sglang=0.9,0.8",
            "topk=3",
            "synthetic=0.7",
        ] {
            assert_eq!(spec.parse::<Rule>().unwrap().to_string(), spec);
        }
        assert_eq!("typical".parse::<Rule>().unwrap(), Rule::TYPICAL);
    }

    #[test]
    fn unusable_rules_are_refused_with_what_was_expected() {
        for (spec, message) in [
            ("", "is unknown"),
            ("judge=0.5", "is unknown"),
            ("kl", "is unknown"),
            ("kl=x", "is unknown"),
            ("kl=0.5,forward", "is unknown"),
            ("kl=-1", "kl is -1, expected 0 or more"),
            ("kl=NaN", "expected 0 or more"),
            ("margin=1.5", "expected 0 to 1"),
            ("threshold=-0.1", "expected 0 to 1"),
            ("sglang=0,1", "expected above 0"),
            ("sglang=0.5", "is unknown"),
            ("topk=0", "expected 1 or more"),
            ("topk=1.5", "is unknown"),
            ("synthetic=2", "expected 0 to 1"),
            ("typical=0.1,inf", "expected a finite number"),
        ] {
            let error = spec.parse::<Rule>().unwrap_err().to_string();
            assert!(error.contains(message), "{spec}: {error}");
        }
    }

    #[test]
    fn a_judge_joins_the_chain_rule_alone() {
        let judged = Rule::Chain.with_judge(0.25);
        assert_eq!(judged, Ok(Rule::Judge { theta: 0.25 }));
        for rule in [Rule::Block, Rule::TYPICAL, Rule::Threshold { t: 0.5 }] {
            let refused = PolicyError::JudgeBeside { rule };
            assert_eq!(rule.with_judge(0.25), Err(refused));
        }
    }

    #[test]
    fn sampling_out_of_range_is_refused() {
        for (temperature, top_p, ok) in [
            (0.0, 1.0, true),
            (1.5, 0.5, true),
            (-0.1, 1.0, false),
            (f32::NAN, 1.0, false),
            (f32::INFINITY, 1.0, false),
            (1.0, 0.0, false),
            (1.0, 1.1, false),
            (1.0, f32::NAN, false),
        ] {
            let sampling = Sampling {
                temperature,
                top_k: 0,
                top_p,
            };
            assert_eq!(sampling.check().is_ok(), ok, "{sampling:?}");
        }
    }

    proptest! {
        #[test]
        fn reading_a_rule_never_panics(spec in "\\PC{0,12}|[a-z]{1,9}=\\PC{0,9}") {
            if let Ok(rule) = spec.parse::<Rule>() {
                prop_assert_eq!(rule.to_string().parse::<Rule>(), Ok(rule));
            }
        }
    }

    #[test]
    fn a_guard_is_a_set() {
        let guard: Guard = [7, 2, 7].into_iter().collect();
        assert_eq!(guard.tokens(), [2, 7]);
        assert!(guard.contains(7) && !guard.contains(3));
    }
}
