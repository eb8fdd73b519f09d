//! Acceptability: what the lossy rules think of a token (METHODS, section 3).

use super::law::{Best, LawError, best};
use super::math::{self, Real};
use super::policy::Rule;

/// KL never rescues where the target is surer than this (2601.04766).
const KL_MAX_P: f32 = 0.9;

/// How acceptable a token is; larger is better under every rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Acceptability<T> {
    /// | rule | value |
    /// |---|---|
    /// | judge | its score |
    /// | kl | -KL in nats; -infinity where max P > 0.9 |
    /// | margin | z_2 / z_1 of the runner-up; -infinity for other tokens and where z_1 <= 0 |
    /// | typical, threshold | P(x) |
    /// | topk | minus the number of tokens that the target prefers to x |
    pub value: T,
    /// Whether the value reaches the rule's threshold.
    pub reached: bool,
}

/// One row of the target (and drafter), asked about the tokens that may follow it.
///
/// What a rule reads is computed when it is first asked for.
#[derive(Clone, Debug)]
pub struct Parent<'a, T> {
    target: &'a [f32],          // [V] raw logits
    drafter: Option<&'a [f32]>, // [Vd] raw logits
    best: Best,
    normaliser: Option<T>,
    entropy: Option<T>,
    divergence: Option<(bool, T)>, // (reverse, KL)
    runner_up: Option<Best>,
}

impl<'a, T: Real> Parent<'a, T> {
    /// A row of raw target logits and, where a rule needs R, of raw drafter logits.
    ///
    /// # Errors
    /// NaN, +inf or only -inf among the target's logits.
    pub fn new(target: &'a [f32], drafter: Option<&'a [f32]>) -> Result<Self, LawError> {
        Ok(Parent {
            target,
            drafter,
            best: best(target)?,
            normaliser: None,
            entropy: None,
            divergence: None,
            runner_up: None,
        })
    }

    /// The token of the highest raw logit, the lowest id on ties.
    pub fn argmax(&self) -> u32 {
        self.best.token
    }

    pub(crate) fn best(&self) -> Best {
        self.best
    }

    /// The raw logit of `token`, -infinity beyond the row.
    pub fn logit(&self, token: u32) -> f32 {
        let logit = self.target.get(token as usize);
        logit.copied().unwrap_or(f32::NEG_INFINITY)
    }

    /// P(token): the target's full softmax at temperature 1.
    pub fn probability(&mut self, token: u32) -> T {
        let distance = T::from_f32(self.logit(token)) - T::from_f32(self.best.logit);
        distance.exp() / self.normaliser()
    }

    /// The sum of exp(z - max).
    fn normaliser(&mut self) -> T {
        *self
            .normaliser
            .get_or_insert_with(|| normaliser(self.target, self.best.logit))
    }

    /// The entropy of P in nats: ln S - (sum of e^d d) / S with d = z - max and S the sum of e^d.
    pub fn entropy(&mut self) -> T {
        let s = self.normaliser();
        let max = T::from_f32(self.best.logit);
        *self.entropy.get_or_insert_with(|| {
            let weighted: T = math::sum_over(self.target, move |z| {
                let d = T::from_f32(z) - max;
                let e = d.exp();
                // -inf logits and underflow: the limit of e^d d is 0.
                if e > T::ZERO { e * d } else { T::ZERO }
            });
            s.ln() - weighted / s
        })
    }

    /// KL(P, R) in nats, or KL(R, P); over the ids that both rows have.
    ///
    /// A drafter's row may be shorter or padded further than the target's. Ids
    /// that one of them lacks are left out and both laws renormalised, for a
    /// padding id would make the divergence infinite.
    ///
    /// With d = z - max and S the sum of e^d: (sum of e^dp (dp - dr)) / Sp - ln Sp + ln Sr.
    fn divergence(&mut self, reverse: bool) -> Result<Option<T>, LawError> {
        let Some(drafter) = self.drafter else {
            return Ok(None);
        };
        if let Some((direction, known)) = self.divergence
            && direction == reverse
        {
            return Ok(Some(known));
        }
        let shared = self.target.len().min(drafter.len());
        let drafter_best = best(drafter)?;
        let target = Softmax::cut(self.target, shared, self.best, self.normaliser);
        let drafter = Softmax::cut(drafter, shared, drafter_best, None);
        let divergence = match (target, drafter) {
            (Some(p), Some(r)) if reverse => r.divergence(&p),
            (Some(p), Some(r)) => p.divergence(&r),
            _ => T::INFINITY, // one of the laws lives on ids that the other lacks
        };
        self.divergence = Some((reverse, divergence));
        Ok(Some(divergence))
    }

    /// The best token but one.
    fn runner_up(&mut self) -> Option<Best> {
        if self.runner_up.is_none() {
            let (before, after) = self.target.split_at(self.best.token as usize);
            let after = &after[1..];
            let offset = self.best.token + 1;
            let before = best(before).ok();
            let after = best(after).ok().map(|b| Best {
                token: b.token + offset,
                ..b
            });
            self.runner_up = match (before, after) {
                (Some(b), Some(a)) => Some(if a.logit > b.logit { a } else { b }),
                (b, a) => b.or(a),
            };
        }
        self.runner_up
    }

    /// The number of tokens that the target prefers to `token`.
    fn rank(&self, token: u32) -> u32 {
        let z = self.logit(token);
        let (before, after) = self
            .target
            .split_at((token as usize).min(self.target.len()));
        let ties = before.iter().filter(|&&x| x >= z).count();
        (ties + after.iter().filter(|&&x| x > z).count()) as u32
    }

    /// What `rule` thinks of `token` after this row; `score` is the judge's.
    ///
    /// `None` under rules without an acceptability (chain, block, sglang,
    /// synthetic) and where the judge's score or the drafter's row is missing.
    ///
    /// # Errors
    /// NaN, +inf or only -inf among the drafter's logits.
    pub fn acceptability(
        &mut self,
        rule: &Rule,
        token: u32,
        score: Option<f32>,
    ) -> Result<Option<Acceptability<T>>, LawError> {
        let least = T::ZERO - T::INFINITY;
        let (value, reached) = match *rule {
            Rule::Chain | Rule::Block | Rule::Sglang { .. } | Rule::Synthetic { .. } => {
                return Ok(None);
            }
            Rule::Judge { theta } => match score {
                Some(score) => (T::from_f32(score), score >= theta),
                None => return Ok(None),
            },
            Rule::Kl { delta, reverse } => {
                if self.drafter.is_none() {
                    return Ok(None);
                }
                if T::ONE / self.normaliser() > T::from_f32(KL_MAX_P) {
                    (least, false)
                } else {
                    match self.divergence(reverse)? {
                        Some(kl) => (T::ZERO - kl, kl < T::from_f32(delta)),
                        None => return Ok(None),
                    }
                }
            }
            Rule::Margin { ratio } => match self.runner_up() {
                Some(second) if second.token == token && self.best.logit > 0.0 => {
                    let value = T::from_f32(second.logit) / T::from_f32(self.best.logit);
                    (value, value >= T::from_f32(ratio))
                }
                _ => (least, false),
            },
            Rule::Typical { eps, alpha } => {
                let value = self.probability(token);
                let bar = T::from_f32(alpha) * (T::ZERO - self.entropy()).exp();
                let eps = T::from_f32(eps);
                (value, value > if bar < eps { bar } else { eps })
            }
            Rule::Threshold { t } => {
                let value = self.probability(token);
                (value, value >= T::from_f32(t))
            }
            Rule::TopK { k } => {
                let rank = self.rank(token);
                (T::ZERO - T::from_u64(rank.into()), (rank as usize) < k)
            }
        };
        Ok(Some(Acceptability { value, reached }))
    }
}

/// The law e^(z - max) / sum.
struct Softmax<'a, T> {
    row: &'a [f32],
    max: T,
    sum: T,
}

impl<'a, T: Real> Softmax<'a, T> {
    /// The softmax of the first `length` logits of a row whose best logit is
    /// known, and perhaps its normaliser; `None` where all of them are -infinity.
    fn cut(row: &'a [f32], length: usize, whole: Best, sum: Option<T>) -> Option<Self> {
        let part = &row[..length];
        let max = match (whole.token as usize) < length {
            true => whole.logit,
            false => best(part).ok()?.logit,
        };
        let known = sum.filter(|_| length == row.len());
        Some(Softmax {
            row: part,
            max: T::from_f32(max),
            sum: known.unwrap_or_else(|| normaliser(part, max)),
        })
    }

    /// KL(self, other) over rows of one length.
    fn divergence(&self, other: &Self) -> T {
        let (p_max, r_max) = (self.max, other.max);
        let weighted = math::sum_over_pairs(self.row, other.row, move |zp, zr| {
            let dp = T::from_f32(zp) - p_max;
            let dr = T::from_f32(zr) - r_max;
            let e = dp.exp();
            if e > T::ZERO { e * (dp - dr) } else { T::ZERO }
        });
        weighted / self.sum - self.sum.ln() + other.sum.ln()
    }
}

fn normaliser<T: Real>(row: &[f32], max: f32) -> T {
    let max = T::from_f32(max);
    math::sum_over(row, move |z| (T::from_f32(z) - max).exp())
}
