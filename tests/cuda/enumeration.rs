//! That the verify kernel is lossless: all drafts and all decisions enumerated, as in tests/lossless,
//! with the kernel's own probabilities.

use crate::common::{Device, LEVELS};
use crate::enumerate::{Enumeration, distance, plain, stepwise};
use crate::toy::{Case as Toys, Growth, ROUGH, SAMPLINGS, SMOOTH, Toy, mix};
use crate::verify::{Batch, Case};
use gavel::device::cuda::verify::{Choice, Teams, USES};
use gavel::verify::{Chooser, Mass, Philox, Policy, Remaining, Rule, Site, Use};

/// Sums of products of f32 probabilities.
const TOLERANCE: f64 = 1e-6;
/// Cases of a launch.
const TOGETHER: usize = 400;

/// Decides as the enumeration does, and notes what was decided.
struct Recorder<'a> {
    all: &'a mut Enumeration,
    made: Vec<(Site, i32)>,
}

impl Chooser<f64> for Recorder<'_> {
    fn accept(&mut self, site: Site, probability: f64) -> bool {
        let accepted = Chooser::<f64>::accept(self.all, site, probability);
        self.made.push((site, i32::from(accepted)));
        accepted
    }

    fn draw(&mut self, site: Site, law: &Remaining<'_>) -> Option<u32> {
        let token = Chooser::<f64>::draw(self.all, site, law);
        self.made.push((site, token.map_or(-1, |t| t as i32)));
        token
    }

    fn draw_mass(&mut self, site: Site, mass: &Mass<f64>) -> Option<u32> {
        let token = Chooser::<f64>::draw_mass(self.all, site, mass);
        self.made.push((site, token.map_or(-1, |t| t as i32)));
        token
    }
}

/// One outcome of a step: what the kernel is asked, and the probability of its draft.
struct Leaf {
    case: Case,
    draft: f64,
    made: Vec<(Site, i32)>,
}

fn leaf(toys: &Toys, context: &[u32], all: &mut Enumeration) -> (Leaf, Vec<u32>) {
    let mut recorder = Recorder {
        all,
        made: Vec::new(),
    };
    let proposal = toys.propose::<f64>(context, &mut recorder);
    let draft = recorder.all.weight;
    recorder.made.clear();
    let verdict = toys.judge::<f64>(context, &proposal, &mut recorder);
    let made = recorder.made;
    let tree = &proposal.tree;
    let rows = [None].into_iter().chain((0..tree.len()).map(Some));
    let drafter = rows.flat_map(|node| toys.draft.logits(&toys.context_of(context, tree, node)));
    let mut script = vec![
        Choice {
            made: -1,
            probability: f32::NAN
        };
        (tree.len() + 1) * USES
    ];
    for &(site, choice) in &made {
        script[site.row as usize * USES + site.usage as usize].made = choice;
    }
    let case = Case {
        vocabulary: toys.target.vocab,
        target: toys.target_rows(context, tree),
        drafter_vocabulary: toys.draft.vocab,
        drafter: Some(drafter.collect()),
        laws: proposal.q.clone(),
        draft_sampling: toys.draft_sampling,
        script: Some(script),
        scores: None,
        policy: Policy::new(toys.target_sampling, toys.rule),
        philox: Philox::new(0, 0),
        tree: tree.clone(),
    };
    let tokens = verdict.tokens(tree);
    (Leaf { case, draft, made }, tokens)
}

/// Tokens and probability of every leaf, by the kernel.
fn by_the_kernel(leaves: Vec<Leaf>) -> Vec<(Vec<u32>, f64)> {
    let mut outcomes = Vec::new();
    for (round, leaves) in leaves.chunks(TOGETHER).enumerate() {
        let cases = leaves.iter().map(|l| &l.case);
        let device = Device::new("verify", LEVELS[round % 2], round as u64);
        let batch = Batch::new(device, cases.clone());
        let (verdicts, _) = batch.run(Teams::of(4, batch.vocabulary, 4, 96 << 10));
        let scripts = batch.scripts(cases.map(|c| c.tree.len() + 1));
        for ((leaf, verdict), script) in leaves.iter().zip(&verdicts).zip(&scripts) {
            assert_eq!(verdict.error, 0, "{:?}", leaf.made);
            let probability = leaf.made.iter().map(|&(site, made)| {
                let at = script[site.row as usize * USES + site.usage as usize];
                let p = f64::from(at.probability);
                assert!(!p.is_nan(), "the kernel did not decide at {site:?}");
                match site.usage {
                    Use::Accept | Use::Coin if made == 0 => 1.0 - p.clamp(0.0, 1.0),
                    Use::Accept | Use::Coin => p.clamp(0.0, 1.0),
                    _ => p,
                }
            });
            let tree = &leaf.case.tree;
            let path = verdict.path[..verdict.length as usize].iter();
            let tokens = path.map(|&n| tree.tokens()[n as usize]);
            let tokens = tokens.chain([verdict.next as u32]).collect();
            outcomes.push((tokens, leaf.draft * probability.product::<f64>()));
        }
    }
    outcomes
}

fn check(toys: &Toys) -> usize {
    let expected = plain(&toys.target, &toys.target_sampling, toys.tokens());
    let mut leaves = Vec::new();
    stepwise(toys, &mut |context, all| {
        let (leaf, tokens) = leaf(toys, context, all);
        leaves.push(leaf);
        tokens
    });
    let count = leaves.len();
    // the same outcomes once more, in the same order
    let mut outcomes = by_the_kernel(leaves).into_iter();
    let found = stepwise(toys, &mut |context, all| {
        leaf(toys, context, all);
        let (tokens, weight) = outcomes.next().expect("as many outcomes");
        all.weight = weight;
        tokens
    });
    assert!(outcomes.next().is_none());
    let off = distance(&found, &expected);
    assert!(off <= TOLERANCE, "{toys:?}: off by {off}");
    count
}

#[test]
fn the_kernel_has_the_law_of_plain_sampling() {
    let lossless = Rule::Sglang {
        single: 1.0,
        accumulated: 1.0,
    };
    let mut count = 0;
    for (i, (growth, rule)) in [
        (Growth::Sampled(&[1]), Rule::Chain),
        (Growth::Sampled(&[1, 1]), Rule::Chain),
        (Growth::Sampled(&[1, 1]), Rule::Block),
        (Growth::Best(&[1, 1]), Rule::Block),
        (Growth::Sampled(&[3]), Rule::Chain),
        (Growth::Sampled(&[2, 1]), Rule::Chain),
        (Growth::Best(&[2, 2]), Rule::Chain),
        (Growth::Best(&[2, 1]), lossless),
    ]
    .into_iter()
    .enumerate()
    {
        for (j, (target_sampling, draft_sampling)) in SAMPLINGS.into_iter().enumerate() {
            let seed = mix((8 * i + j) as u64);
            let target = Toy {
                vocab: 2 + (i + j) % 2,
                memory: 1,
                seed,
                palette: if j % 3 == 0 { SMOOTH } else { ROUGH },
            };
            let draft = Toy {
                seed: if j == 3 { seed } else { mix(seed) },
                ..target
            };
            count += check(&Toys {
                target,
                draft,
                target_sampling,
                draft_sampling,
                growth,
                rule,
            });
        }
    }
    println!("{count} outcomes");
}
