//! What the lossy rules accept, what is refused, and what is not looked at.
//! That the lossless rules are lossless is shown in `tests/lossless`.

use super::*;
use proptest::prelude::*;

/// Decides by a fixed answer and notes what it was asked.
struct Always {
    answer: bool,
    asked: Vec<(Site, f64)>,
}

impl Always {
    fn says(answer: bool) -> Self {
        Always {
            answer,
            asked: Vec::new(),
        }
    }
}

impl Chooser<f64> for Always {
    fn accept(&mut self, site: Site, probability: f64) -> bool {
        self.asked.push((site, probability));
        probability >= 1.0 || (self.answer && probability > 0.0)
    }
    fn draw(&mut self, site: Site, law: &Remaining<'_>) -> Option<u32> {
        self.asked.push((site, f64::NAN));
        law.draw(0)
    }
    fn draw_mass(&mut self, site: Site, mass: &Mass<f64>) -> Option<u32> {
        self.asked.push((site, f64::NAN));
        mass.draw(0)
    }
}

const NEVER: f32 = f32::NEG_INFINITY;

/// Softmax in plain f64.
fn softmax(z: &[f32]) -> Vec<f64> {
    let e: Vec<f64> = z.iter().map(|&z| f64::from(z).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.iter().map(|e| e / sum).collect()
}

fn kl(p: &[f64], r: &[f64]) -> f64 {
    let terms = p.iter().zip(r).filter(|&(&p, _)| p > 0.0);
    terms.map(|(p, r)| p * (p / r).ln()).sum()
}

/// A step over a tree whose target rows are all `row`, greedy, nothing accepted by chance.
fn step(tree: &TokenTree, row: &[f32], policy: &Policy, scores: Option<&[f32]>) -> Verdict {
    let rows = row.repeat(tree.len() + 1);
    let inputs = Inputs {
        tree,
        target: Rows::new(&rows, row.len()).unwrap(),
        q: None,
        r: Some(Rows::new(&rows, row.len()).unwrap()),
        scores,
    };
    verify::<f64, _>(&inputs, policy, &mut Always::says(false)).unwrap()
}

#[test]
fn acceptability_is_what_the_table_says() {
    // Token 1 and 4 tie for runner-up, so the lower id is it.
    let z = [2.0f32, 1.5, 0.5, NEVER, 1.5];
    let r = [0.5f32, 2.5, 0.0, -1.0, 1.0];
    let (p, drafter) = (softmax(&z), softmax(&r));
    let entropy: f64 = -p
        .iter()
        .filter(|&&p| p > 0.0)
        .map(|p| p * p.ln())
        .sum::<f64>();
    let bar = (0.3 * (-entropy).exp()).min(0.09);
    let forward = kl(&p, &drafter);
    let ratio = Rule::Margin { ratio: 0.75 };
    let typical = Rule::TYPICAL;
    let least = f64::NEG_INFINITY;
    let delta = |delta: f64, reverse| Rule::Kl {
        delta: delta as f32,
        reverse,
    };
    for (rule, token, value, reached) in [
        (Rule::Judge { theta: 0.5 }, 2, 0.5, true),
        (Rule::Judge { theta: 0.51 }, 2, 0.5, false),
        (delta(forward + 1e-4, false), 2, -forward, true),
        (delta(forward - 1e-4, false), 2, -forward, false),
        // The drafter allows what the target forbids: KL(R, P) is infinite.
        (delta(1e30, true), 2, least, false),
        (ratio, 1, 0.75, true),
        (Rule::Margin { ratio: 0.76 }, 1, 0.75, false),
        (ratio, 4, least, false),
        (ratio, 0, least, false),
        (typical, 2, p[2], p[2] > bar),
        (typical, 1, p[1], p[1] > bar),
        (Rule::Threshold { t: 0.25 }, 1, p[1], p[1] >= 0.25),
        (Rule::Threshold { t: 0.25 }, 2, p[2], p[2] >= 0.25),
        (Rule::Threshold { t: 0.0 }, 3, 0.0, true),
        (Rule::TopK { k: 2 }, 0, 0.0, true),
        (Rule::TopK { k: 2 }, 1, -1.0, true),
        (Rule::TopK { k: 2 }, 4, -2.0, false),
        (Rule::TopK { k: 4 }, 2, -3.0, true),
    ] {
        let score = rule.needs_scores().then_some(0.5f32);
        let in_f64 = Parent::<f64>::new(&z, Some(&r)).unwrap();
        let found = in_f64.clone().acceptability(&rule, token, score).unwrap();
        let found = found.unwrap();
        assert!(
            found.value == value || (found.value - value).abs() < 1e-12,
            "{rule} about {token}: {found:?}, expected {value}"
        );
        assert_eq!(found.reached, reached, "{rule} about {token}: {found:?}");
        let mut in_f32 = Parent::<f32>::new(&z, Some(&r)).unwrap();
        let single = in_f32.acceptability(&rule, token, score).unwrap().unwrap();
        assert_eq!(single.reached, reached);
        assert!(
            f64::from(single.value) == value || (f64::from(single.value) - value).abs() < 1e-6,
            "{rule} about {token}: {single:?}, expected {value}"
        );
    }
    assert!(
        bar < p[2] && bar < 0.09,
        "the entropy decides about the bar"
    );
    for rule in [Rule::Chain, Rule::Block, Rule::Synthetic { rate: 0.5 }] {
        let mut parent = Parent::<f64>::new(&z, Some(&r)).unwrap();
        assert_eq!(parent.acceptability(&rule, 0, Some(0.5)), Ok(None));
    }
}

#[test]
fn typicals_bar_is_the_lower_of_its_two() {
    // A sure target: exp(-H) is nearly 1, so eps is the lower bar.
    let z = [4.0f32, 0.0, -8.0];
    let p = softmax(&z);
    for (eps, reached) in [(p[1] * 0.99, true), (p[1] * 1.01, false)] {
        let rule = Rule::Typical {
            eps: eps as f32,
            alpha: 0.3,
        };
        let found = Parent::<f64>::new(&z, None)
            .unwrap()
            .acceptability(&rule, 1, None);
        assert_eq!(found.unwrap().unwrap().reached, reached);
    }
}

#[test]
fn kl_compares_the_ids_that_both_have_and_stays_away_from_a_sure_target() {
    let rule = |reverse| Rule::Kl {
        delta: 10.0,
        reverse,
    };
    let ask = |z: &[f32], r: &[f32], reverse| {
        let mut parent = Parent::<f64>::new(z, Some(r)).unwrap();
        parent.acceptability(&rule(reverse), 1, None)
    };
    let (z, r) = ([1.0f32, 0.5, 0.0], [0.0f32, 0.5, 1.5]);
    let (p, q) = (softmax(&z), softmax(&r));
    let padding = [-30.0f32, -30.0];
    for (target, drafter) in [
        (z.to_vec(), r.to_vec()),
        ([&z[..], &padding].concat(), r.to_vec()),
        (z.to_vec(), [&r[..], &padding].concat()),
    ] {
        for (reverse, expected) in [(false, kl(&p, &q)), (true, kl(&q, &p))] {
            let found = ask(&target, &drafter, reverse).unwrap().unwrap();
            assert!((found.value + expected).abs() < 1e-12 && found.reached);
        }
    }
    // P(0) = e^d / (e^d + 1) passes 0.9 at d = ln 9 = 2.197.
    for (best, reached) in [(2.19, true), (2.20, false)] {
        let found = ask(&[best, 0.0], &[0.0, 0.0], false).unwrap().unwrap();
        assert_eq!(found.reached, reached);
    }
    // The target's best token is beyond the drafter's ids.
    let found = ask(&[NEVER, NEVER, 1.0], &[0.0, 0.0], false);
    assert!(!found.unwrap().unwrap().reached);
    assert!(ask(&z, &[f32::NAN, 0.0, 0.0], false).is_err());
}

#[test]
fn margin_needs_a_positive_best_logit() {
    for (z, reached) in [
        ([2.0f32, 1.9], true),
        ([0.0, -0.1], false),
        ([-1.0, -1.1], false),
        ([2.0, -1.9], false),
        ([2.0, NEVER], false),
    ] {
        let mut parent = Parent::<f32>::new(&z, None).unwrap();
        let rule = Rule::Margin { ratio: 0.9 };
        let found = parent.acceptability(&rule, 1, None).unwrap().unwrap();
        assert_eq!(found.reached, reached, "{z:?}");
    }
    // One token has no runner-up.
    let mut parent = Parent::<f32>::new(&[1.0], None).unwrap();
    let found = parent.acceptability(&Rule::Margin { ratio: 0.0 }, 0, None);
    assert!(!found.unwrap().unwrap().reached);
}

#[test]
fn a_chain_is_rescued_node_by_node() {
    let row = [3.0f32, 2.9, 2.8, 0.0];
    let tree = TokenTree::chain(&[0, 1, 0, 2, 0]);
    let policy = Policy::new(Sampling::GREEDY, Rule::Margin { ratio: 0.9 });
    let verdict = step(&tree, &row, &policy, None);
    use Reason::*;
    assert_eq!(verdict.path, [0, 1, 2]);
    assert_eq!(
        verdict.reasons,
        [Aligned, Judged, Aligned, Rejected, Unvisited]
    );
    assert_eq!(
        (verdict.next, verdict.next_reason),
        (0, NextReason::Residual)
    );
    assert_eq!(verdict.tokens(&tree), [0, 1, 0, 0]);
    assert_eq!(verdict.acceptability[1], 2.9f32 / 3.0);
    assert_eq!(verdict.acceptability[3], f32::NEG_INFINITY);
    for unasked in [0, 2, 4] {
        assert!(verdict.acceptability[unasked].is_nan());
    }
}

#[test]
fn a_tree_takes_its_best_child_only_when_all_were_rejected() {
    use Reason::*;
    let row = [3.0f32, 1.0, 2.0, 0.5, 2.0];
    let judge = Policy::new(Sampling::GREEDY, Rule::Judge { theta: 0.5 });
    let threshold = Policy::new(Sampling::GREEDY, Rule::Threshold { t: 0.0 });
    let siblings = |tokens: &[u32]| TokenTree::new(tokens.to_vec(), vec![-1; tokens.len()]);
    for (tokens, scores, policy, reasons) in [
        // An aligned child wins over a more acceptable one before it.
        (
            [1, 0, 3],
            [0.9, 0.1, 0.9],
            &judge,
            [Rejected, Aligned, Unvisited],
        ),
        // The largest score, not the first that reaches.
        (
            [1, 2, 3],
            [0.6, 0.5, 0.9],
            &judge,
            [Rejected, Rejected, Judged],
        ),
        (
            [1, 2, 3],
            [0.4, 0.49, 0.5],
            &judge,
            [Rejected, Rejected, Judged],
        ),
        ([1, 2, 3], [0.4, 0.4, 0.4], &judge, [Rejected; 3]),
        // Equal scores: the larger P; equal P too: the earlier child.
        (
            [1, 2, 3],
            [0.7, 0.7, 0.7],
            &judge,
            [Rejected, Judged, Rejected],
        ),
        (
            [1, 4, 2],
            [0.7, 0.7, 0.7],
            &judge,
            [Rejected, Judged, Rejected],
        ),
        (
            [1, 3, 2],
            [0.0; 3],
            &threshold,
            [Rejected, Rejected, Judged],
        ),
    ] {
        let tree = siblings(&tokens).unwrap();
        let verdict = step(&tree, &row, policy, Some(&scores));
        assert_eq!(verdict.reasons, reasons, "{tokens:?} {scores:?}");
    }
    // A rule that scores the parent: the larger P.
    let kl = Policy::new(
        Sampling::GREEDY,
        Rule::Kl {
            delta: 0.1,
            reverse: false,
        },
    );
    let verdict = step(&siblings(&[1, 3, 2]).unwrap(), &row, &kl, None);
    assert_eq!(verdict.reasons, [Rejected, Rejected, Judged]);
}

#[test]
fn a_judge_keeps_its_hands_off_guarded_tokens() {
    use Reason::*;
    let row = [3.0f32, 2.9, 2.8];
    let rules = [
        Rule::Judge { theta: 0.5 },
        Rule::Kl {
            delta: 0.5,
            reverse: false,
        },
        Rule::Margin { ratio: 0.5 },
        Rule::TYPICAL,
        Rule::Threshold { t: 0.1 },
        Rule::Sglang {
            single: 0.1,
            accumulated: 0.1,
        },
        Rule::TopK { k: 2 },
        Rule::Synthetic { rate: 1.0 },
    ];
    let tree = TokenTree::chain(&[1]);
    for rule in rules {
        for (guard, reason) in [
            (&[][..], Judged),
            (&[2], Judged),
            (&[1], Rejected), // the drafted token
            (&[0], Rejected), // the token that the target would say
        ] {
            let policy = Policy {
                sampling: Sampling::at(1.0),
                rule,
                guard: guard.iter().copied().collect(),
            };
            let verdict = step(&tree, &row, &policy, Some(&[0.9]));
            assert_eq!(verdict.reasons, [reason], "{rule} guarding {guard:?}");
        }
    }
    // What the lossless rule accepts needs no rescue.
    let policy = Policy {
        sampling: Sampling::GREEDY,
        rule: Rule::Judge { theta: 0.5 },
        guard: [0].into_iter().collect(),
    };
    let verdict = step(&TokenTree::chain(&[0]), &row, &policy, Some(&[0.0]));
    assert_eq!(verdict.reasons, [Aligned]);
}

#[test]
fn sglangs_coin_is_shared_by_siblings() {
    let row = [1.0f32, 0.8, 0.6, 0.4, 0.2];
    let p = softmax(&row);
    let tokens = [2u32, 0, 4, 1];
    let tree = TokenTree::new(tokens.to_vec(), vec![-1; 4]).unwrap();
    let rows = row.repeat(5);
    let inputs = Inputs {
        tree: &tree,
        target: Rows::new(&rows, 5).unwrap(),
        q: None,
        r: None,
        scores: None,
    };
    for (single, accumulated) in [(1.0, 1.0), (1.0, 0.7), (1.0, 0.4), (0.25, 0.9)] {
        let rule = Rule::Sglang {
            single,
            accumulated,
        };
        let policy = Policy::new(Sampling::at(1.0), rule);
        let mut chooser = Always::says(false);
        verify(&inputs, &policy, &mut chooser).unwrap();
        // What the two tests of each child let through, given that all before it failed.
        let mut fails_all = 1.0;
        let mut accumulated_p = 0.0;
        for (node, &token) in tokens.iter().enumerate() {
            let tests = chooser
                .asked
                .iter()
                .filter(|(site, a)| site.row == node as u32 + 1 && !a.is_nan());
            let fails: f64 = tests.map(|&(_, a)| 1.0 - a.min(1.0)).product();
            fails_all *= fails;
            accumulated_p += p[token as usize];
            let coin = (accumulated_p / f64::from(accumulated)).min(1.0);
            let sure = p[token as usize] >= f64::from(single);
            let expected = if sure { 0.0 } else { 1.0 - coin };
            assert!((fails_all - expected).abs() < 1e-6, "{rule} at node {node}");
            if fails_all < 1e-9 {
                break;
            }
        }
    }
}

#[test]
fn a_synthetic_coin_has_its_rate() {
    let tree = TokenTree::chain(&[1; 4]);
    let rows = [5.0f32, 0.0].repeat(5);
    let inputs = Inputs {
        tree: &tree,
        target: Rows::new(&rows, 2).unwrap(),
        q: None,
        r: None,
        scores: None,
    };
    let policy = Policy::new(Sampling::GREEDY, Rule::Synthetic { rate: 0.75 });
    let (mut accepted, mut tested) = (0.0, 0.0);
    for sequence in 0..20_000 {
        let mut philox = Philox::new(3, sequence);
        let verdict = verify::<f32, _>(&inputs, &policy, &mut philox).unwrap();
        accepted += verdict.path.len() as f64;
        tested += (verdict.path.len() + 1).min(4) as f64;
    }
    let rate = accepted / tested;
    assert!((rate - 0.75).abs() < 0.01, "{rate}");
}

#[test]
fn a_draft_from_the_targets_own_law_is_always_accepted() {
    let vocab = 3_000;
    let mut row: Vec<f32> = (0..vocab).map(|i| ((i * 37) % 911) as f32 * 0.01).collect();
    for (shift, rule) in [(0, Rule::Chain), (1, Rule::Block), (2, Rule::Chain)] {
        row.rotate_left(shift);
        for sampling in [
            Sampling::at(0.8),
            Sampling {
                temperature: 1.0,
                top_k: 50,
                top_p: 0.9,
            },
        ] {
            let law = Law::new(&row, vocab, &sampling).unwrap();
            let q = vec![law.clone(); 9];
            let rows = row.repeat(9);
            for sequence in 0..20 {
                let mut philox = Philox::new(11, sequence);
                let draw = |n| {
                    let rest = Remaining::new(&law);
                    rest.draw(philox.word(Site::child(n, 0))).unwrap()
                };
                let tokens: Vec<u32> = (0..8).map(draw).collect();
                let tree = TokenTree::chain(&tokens);
                let inputs = Inputs {
                    tree: &tree,
                    target: Rows::new(&rows, vocab).unwrap(),
                    q: Some(&q),
                    r: None,
                    scores: None,
                };
                let policy = Policy::new(sampling, rule);
                let verdict = verify::<f32, _>(&inputs, &policy, &mut philox).unwrap();
                assert_eq!(verdict.path.len(), 8);
                assert_eq!(verdict.next_reason, NextReason::Bonus);
            }
        }
    }
}

#[test]
fn rows_that_no_decision_reaches_are_not_read() {
    // Node 0 is rejected, so rows 1 and 2 do not matter.
    let tree = TokenTree::chain(&[1, 0]);
    let mut rows = vec![f32::NAN; 6];
    rows[..2].copy_from_slice(&[1.0, 0.0]);
    for rule in [Rule::Chain, Rule::Block] {
        let inputs = Inputs {
            tree: &tree,
            target: Rows::new(&rows, 2).unwrap(),
            q: None,
            r: None,
            scores: None,
        };
        let policy = Policy::new(Sampling::GREEDY, rule);
        let verdict = verify(&inputs, &policy, &mut Always::says(false)).unwrap();
        assert_eq!(verdict.tokens(&tree), [0]);
        let sure = Policy::new(Sampling::at(1.0), rule);
        let error = verify(&inputs, &sure, &mut Always::says(true)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "row 1 of the target's logits: the logit of token 0 is NaN, \
             expected a finite number (or -inf for some tokens)"
        );
    }
}

#[test]
fn children_beyond_the_draft_laws_support_are_left_alone() {
    // A device with a fixed tree shape may fill up what could not be drawn.
    let tree = TokenTree::new(vec![1, 2, 0], vec![-1; 3]).unwrap();
    let rows = [1.0f32, NEVER, NEVER].repeat(4);
    let mut q = vec![Law::default(); 4];
    q[0] = Law::new(&[NEVER, 1.0, 1.0], 3, &Sampling::at(1.0)).unwrap();
    let mut inputs = Inputs {
        tree: &tree,
        target: Rows::new(&rows, 3).unwrap(),
        q: Some(&q),
        r: None,
        scores: None,
    };
    let policy = Policy::new(Sampling::at(1.0), Rule::Chain);
    let verdict = verify(&inputs, &policy, &mut Always::says(true)).unwrap();
    use Reason::*;
    assert_eq!(verdict.reasons, [Rejected, Rejected, Unvisited]);
    assert_eq!(verdict.next, 0);
    // But a child that the law cannot have given is a mistake.
    let elsewhere = vec![Law::one_hot(2); 4];
    inputs.q = Some(&elsewhere);
    let error = verify(&inputs, &policy, &mut Always::says(true)).unwrap_err();
    assert_eq!(error, VerifyError::NotDrawn { node: 0, token: 1 });
}

#[test]
fn inputs_that_do_not_fit_are_refused_by_name() {
    let tree = TokenTree::new(vec![0, 1], vec![-1, -1]).unwrap();
    let chain = TokenTree::chain(&[0, 1]);
    let rows = [0.0f32; 12];
    let laws = vec![Law::one_hot(0); 2];
    let target = |n: usize, width| Rows::new(&rows[..n * width], width).unwrap();
    let good = Inputs {
        tree: &tree,
        target: target(3, 4),
        q: None,
        r: None,
        scores: None,
    };
    let judge = Rule::Judge { theta: 0.5 };
    let kl = Rule::Kl {
        delta: 0.5,
        reverse: false,
    };
    for (inputs, rule, message) in [
        (
            Inputs {
                target: target(2, 4),
                ..good
            },
            Rule::Chain,
            "rows of target logits: found 2, expected 3 for a tree of 2 nodes",
        ),
        (
            Inputs {
                target: target(3, 1),
                ..good
            },
            Rule::Chain,
            "node 1 has token 1, expected one below 1, the width of the target's logits",
        ),
        (
            Inputs {
                q: Some(&laws),
                ..good
            },
            Rule::Chain,
            "draft laws: found 2, expected 3 for a tree of 2 nodes",
        ),
        (
            Inputs {
                r: Some(target(1, 4)),
                ..good
            },
            kl,
            "rows of drafter logits: found 1, expected 3 for a tree of 2 nodes",
        ),
        (
            Inputs {
                scores: Some(&[0.5]),
                ..good
            },
            judge,
            "judge scores: found 1, expected 2 for a tree of 2 nodes",
        ),
        (
            good,
            judge,
            "rule 'judge=0.5' needs a judge's scores, found none",
        ),
        (
            good,
            kl,
            "rule 'kl=0.5' needs the drafter's logits, found none",
        ),
        (
            Inputs {
                scores: Some(&[0.5, f32::NAN]),
                ..good
            },
            judge,
            "the judge's score of node 1 is NaN",
        ),
        (
            good,
            Rule::Block,
            "rule 'block' verifies chains, found a tree in which node 1 does not follow node 0",
        ),
        (
            Inputs {
                tree: &chain,
                scores: Some(&[0.5, 0.5]),
                ..good
            },
            Rule::Block,
            "rule 'block' takes no judge, found scores",
        ),
        (
            good,
            Rule::Threshold { t: 2.0 },
            "threshold is 2, expected 0 to 1",
        ),
    ] {
        let policy = Policy::new(Sampling::at(1.0), rule);
        let found = verify(&inputs, &policy, &mut Always::says(false));
        assert_eq!(found.unwrap_err().to_string(), message);
    }
    assert!(Rows::new(&rows, 5).is_none() && Rows::new(&rows, 0).is_none());
}

#[test]
fn plain_decoding_is_a_tree_without_nodes() {
    let tree = TokenTree::default();
    for rule in [Rule::Chain, Rule::Block, Rule::TYPICAL] {
        let verdict = step(
            &tree,
            &[0.0, 2.0, 1.0],
            &Policy::new(Sampling::GREEDY, rule),
            None,
        );
        assert_eq!((verdict.next, verdict.next_reason), (1, NextReason::Bonus));
        assert!(verdict.path.is_empty());
    }
}

fn any_float() -> impl Strategy<Value = f32> {
    prop_oneof![
        6 => -5.0f32..5.0,
        1 => any::<f32>(),
        1 => Just(f32::NEG_INFINITY),
        1 => Just(0.0f32),
    ]
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let x = || prop_oneof![4 => 0.0f32..1.0, 1 => any::<f32>()];
    prop_oneof![
        Just(Rule::Chain),
        Just(Rule::Block),
        x().prop_map(|theta| Rule::Judge { theta }),
        (x(), any::<bool>()).prop_map(|(delta, reverse)| Rule::Kl { delta, reverse }),
        x().prop_map(|ratio| Rule::Margin { ratio }),
        (x(), x()).prop_map(|(eps, alpha)| Rule::Typical { eps, alpha }),
        x().prop_map(|t| Rule::Threshold { t }),
        (x(), x()).prop_map(|(single, accumulated)| Rule::Sglang {
            single,
            accumulated
        }),
        (0usize..5).prop_map(|k| Rule::TopK { k }),
        x().prop_map(|rate| Rule::Synthetic { rate }),
    ]
}

fn any_sampling() -> impl Strategy<Value = Sampling> {
    let temperature = prop_oneof![Just(0.0f32), 0.1f32..2.0, any::<f32>()];
    let top_p = prop_oneof![Just(1.0f32), 0.1f32..1.0, any::<f32>()];
    (temperature, 0usize..6, top_p).prop_map(|(temperature, top_k, top_p)| Sampling {
        temperature,
        top_k,
        top_p,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn no_input_panics_and_every_verdict_is_a_path(
        (parents, tokens) in (0usize..7).prop_flat_map(|n| {
            let parents: Vec<_> = (0..n as i32).map(|n| -1..n).collect();
            (parents, proptest::collection::vec(0u32..6, n))
        }),
        as_chain: bool,
        width in 1usize..7,
        drafter_width in 1usize..7,
        logits in proptest::collection::vec(any_float(), 49),
        drafted in proptest::collection::vec(any_float(), 49),
        scores in proptest::option::of(proptest::collection::vec(any_float(), 6)),
        lawful: bool,
        rule in any_rule(),
        (sampling, draft_sampling) in (any_sampling(), any_sampling()),
        guard in proptest::collection::vec(0u32..6, 0..3),
        seed: u64,
    ) {
        let n = tokens.len();
        let tree = match as_chain {
            true => TokenTree::chain(&tokens),
            false => TokenTree::new(tokens, parents).unwrap(),
        };
        let r = Rows::new(&drafted[..(n + 1) * drafter_width], drafter_width).unwrap();
        let laws: Vec<Law> = (0..=n)
            .map(|row| Law::new(r.row(row), drafter_width, &draft_sampling).unwrap_or_default())
            .collect();
        let inputs = Inputs {
            tree: &tree,
            target: Rows::new(&logits[..(n + 1) * width], width).unwrap(),
            q: lawful.then_some(&laws),
            r: Some(r),
            scores: scores.as_ref().map(|s| &s[..n]),
        };
        let policy = Policy { sampling, rule, guard: guard.into_iter().collect() };
        let mut philox = Philox::new(seed, 0);
        let in_f64 = verify::<f64, _>(&inputs, &policy, &mut philox);
        let _ = in_f64.map_err(|e| e.to_string());
        if let Ok(verdict) = verify::<f32, _>(&inputs, &policy, &mut philox) {
            prop_assert!((verdict.next as usize) < width);
            let last = verdict.path.last().map_or(Vec::new(), |&n| tree.path(n));
            prop_assert_eq!(&verdict.path, &last);
            for node in 0..n {
                let kept = matches!(verdict.reasons[node], Reason::Aligned | Reason::Judged);
                prop_assert_eq!(kept, verdict.path.contains(&node));
                if rule.is_lossless() {
                    prop_assert!(verdict.reasons[node] != Reason::Judged);
                }
            }
            let leaf = tree.children(verdict.path.last().copied()).next().is_none();
            prop_assert_eq!(verdict.next_reason == NextReason::Bonus, leaf);
        }
    }

    #[test]
    fn a_judged_chain_is_judge_first_then_alignment(
        logits in proptest::collection::vec(-4.0f32..4.0, 25),
        tokens in proptest::collection::vec(0u32..5, 4),
        scores in proptest::collection::vec(0.0f32..1.0, 4),
    ) {
        // SelfJudge's order (2510.02329): up to the first node that is neither.
        let policy = Policy::new(Sampling::GREEDY, Rule::Judge { theta: 0.5 });
        let tree = TokenTree::chain(&tokens);
        let inputs = Inputs {
            tree: &tree,
            target: Rows::new(&logits, 5).unwrap(),
            q: None,
            r: None,
            scores: Some(&scores),
        };
        let verdict = verify::<f32, _>(&inputs, &policy, &mut Philox::new(0, 0)).unwrap();
        let accepted = (0..4).take_while(|&n| {
            let parent = Parent::<f32>::new(&logits[5 * n..][..5], None).unwrap();
            scores[n] >= 0.5 || parent.argmax() == tokens[n]
        });
        prop_assert_eq!(verdict.path.len(), accepted.count());
    }
}
