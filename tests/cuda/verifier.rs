//! The verifier alone, through the driver: the sequences of another engine are decided as the
//! reference decides them.

use crate::process::on_softcuda;
use crate::verify::{Case, case, check};
use bytemuck::Pod;
use gavel::device::cuda::verifier::{ADVANCES, Ask, PARTS, SAMPLED, Verifier, part_widths};
use gavel::device::cuda::verify::{Policy, Sampling, Stream, Tree, Verdict};
use gavel::device::cuda::{Buffer, Gpu};
use gavel::judge::{Features, Head, Judge, Layout, Meaning, Tap};
use gavel::tree::TokenTree;
use gavel::verify as reference;
use std::sync::Arc;

/// `Verdict::TREE` and `Verdict::DRAFTER_LOGITS` of step.cuh.
const TREE: i32 = 5;
const DRAFTER_LOGITS: i32 = 2;

/// A sequence in device memory.
struct Placed {
    ask: Ask,
    stream: Buffer,
    verdict: Buffer,
    buffers: Vec<Buffer>,
}

impl Placed {
    fn new(gpu: &Arc<Gpu>, case: &Case) -> Placed {
        let mut buffers = Vec::new();
        let mut bring = |label, bytes: &[u8]| {
            let buffer = Buffer::of(gpu, label, bytes).expect("memory");
            let address = buffer.address();
            buffers.push(buffer);
            address
        };
        let guard = case.policy.guard.tokens();
        let guard = match guard {
            [] => 0,
            _ => bring("guard", bytemuck::cast_slice(guard)),
        };
        let sampling = |s: &reference::Sampling| Sampling {
            temperature: s.temperature,
            top_k: s.top_k as i32,
            top_p: s.top_p,
        };
        let stream = Stream {
            seed: case.philox.seed,
            sequence: case.philox.sequence,
            step: case.philox.step,
        };
        let stream = Buffer::of(gpu, "stream", bytemuck::bytes_of(&stream)).expect("memory");
        let verdict = Buffer::zeroed(gpu, "verdict", size_of::<Verdict>()).expect("memory");
        let tree = Tree::of(&case.tree).expect("fits");
        let drafter = case.drafter.as_deref();
        let ask = Ask {
            tree: bring("tree", bytemuck::bytes_of(&tree)),
            target: bring("target", bytemuck::cast_slice(&case.target)),
            drafter: drafter.map_or(0, |rows| bring("drafter", bytemuck::cast_slice(rows))),
            hidden: [0; PARTS],
            scores: match case.scores.as_deref() {
                None | Some([]) => 0,
                Some(scores) => bring("scores", bytemuck::cast_slice(scores)),
            },
            stream: stream.address(),
            verdict: verdict.address(),
            policy: Policy::of(&case.policy, guard),
            draft_sampling: sampling(&case.draft_sampling),
            vocabulary: case.vocabulary as i32,
            target_stride: case.vocabulary as i32,
            drafter_vocabulary: case.drafter_vocabulary as i32,
            drafter_stride: case.drafter_vocabulary as i32,
            hidden_stride: [0; PARTS],
            most_nodes: case.tree.len() as i32,
            flags: ADVANCES | if case.laws.is_some() { SAMPLED } else { 0 },
        };
        Placed {
            ask,
            stream,
            verdict,
            buffers,
        }
    }

    fn read<T: Pod>(buffer: &Buffer) -> T {
        buffer.read(0, 1).expect("a copy")[0]
    }

    fn step(&self) -> u32 {
        Placed::read::<Stream>(&self.stream).step
    }
}

/// One call for all of them.
fn run(gpu: &Arc<Gpu>, verifier: &Verifier, placed: &[Placed]) -> Vec<Verdict> {
    let asks: Vec<Ask> = placed.iter().map(|placed| placed.ask).collect();
    let vocabulary = asks.iter().map(|ask| ask.vocabulary as usize).max();
    let bytes = verifier.workspace_bytes(asks.len(), vocabulary.unwrap_or(1));
    // nobody wrote to it
    let workspace = Buffer::new(gpu, "workspace", bytes).expect("memory");
    // SAFETY: all of it lives until the copies below, which wait.
    let enqueued = unsafe { verifier.enqueue(&asks, workspace.address(), bytes, gpu.stream()) };
    enqueued.expect("launches");
    let verdicts = placed.iter().map(|placed| Placed::read(&placed.verdict));
    verdicts.collect()
}

#[test]
fn sequences_of_another_engine_are_verified_as_by_the_reference() {
    let test = "verifier::sequences_of_another_engine_are_verified_as_by_the_reference";
    on_softcuda(test, &[], || {
        let gpu = Gpu::open(0).expect("softcuda");
        let verifier = Verifier::new(None, 0).expect("kernels");
        let mut random = fastrand::Rng::with_seed(21);
        let mut sampled = 0;
        for (round, (count, most)) in [(1, 300), (2, 2000), (20, 60), (5, 300), (20, 60)]
            .into_iter()
            .enumerate()
        {
            let cases: Vec<Case> = (0..count)
                .map(|_| {
                    let (vocabulary, nodes) = (random.usize(1..=most), random.usize(0..14));
                    case(&mut random, vocabulary, nodes)
                })
                .collect();
            let placed: Vec<Placed> = cases.iter().map(|case| Placed::new(&gpu, case)).collect();
            let verdicts = run(&gpu, &verifier, &placed);
            for (i, ((case, placed), verdict)) in
                cases.iter().zip(&placed).zip(&verdicts).enumerate()
            {
                check(case, verdict, &format!("round {round}, case {i}"));
                assert_eq!(placed.step(), case.philox.step + 1);
                sampled += usize::from(case.laws.is_some() && !case.tree.is_empty());
            }
        }
        assert!(sampled >= 10, "{sampled}");
    });
}

/// A judge of random weights.
fn judge(random: &mut fastrand::Rng, units: usize, features: Features) -> Judge {
    let mut some = |count| -> Vec<f32> { (0..count).map(|_| random.f32() - 0.5).collect() };
    let width = features.len();
    Judge {
        head: match units {
            1 => Head::Linear {
                w: some(width),
                b: 0.25,
            },
            _ => Head::TwoLayer {
                w1: some(units * width),
                b1: some(units),
                w2: some(units),
                b2: -0.125,
            },
        },
        meaning: match units {
            1 => Meaning::Acceptable,
            _ => Meaning::Important,
        },
        features,
        vocab_size: 60,
        target_fingerprint: "of the test".to_owned(),
        draft_fingerprint: None,
        method: "random".to_owned(),
        provenance: String::new(),
        operating_points: None,
        curve: Vec::new(),
    }
}

#[test]
fn a_judge_scores_hidden_states_as_the_reference_does() {
    let test = "verifier::a_judge_scores_hidden_states_as_the_reference_does";
    on_softcuda(test, &[], || {
        let gpu = Gpu::open(0).expect("softcuda");
        let mut random = fastrand::Rng::with_seed(22);
        let two_models = Features {
            layout: Layout::DdDt,
            taps: vec![Tap::Layer(2), Tap::Final],
            target_width: 37,
            draft_width: 20,
        };
        let mut asked = 0;
        for (units, features) in [
            (1, Features::final_hidden(96)),
            (1, two_models.clone()),
            (37, two_models),
        ] {
            let judge = judge(&mut random, units, features);
            let widths = part_widths(&judge).expect("three parts at most");
            let verifier = Verifier::new(Some(&judge), 0).expect("kernels");
            let mut cases = Vec::new();
            let mut placed = Vec::new();
            for _ in 0..4 {
                let mut case = case(&mut random, 60, 9);
                let rows = case.tree.len() + 1;
                case.policy.rule = reference::Rule::Judge { theta: 0.5 };
                case.scores = None;
                let mut of_case = Placed::new(&gpu, &case);
                let mut features = vec![Vec::new(); rows];
                for (part, &width) in widths.iter().enumerate().filter(|(_, w)| **w > 0) {
                    let stride = width + 3;
                    let hidden: Vec<f32> = (0..rows * stride)
                        .map(|_| random.f32() * 2.0 - 1.0)
                        .collect();
                    for (row, features) in features.iter_mut().enumerate() {
                        features.extend_from_slice(&hidden[row * stride..][..width]);
                    }
                    let buffer = Buffer::of(&gpu, "hidden", &hidden).expect("memory");
                    of_case.ask.hidden[part] = buffer.address();
                    of_case.ask.hidden_stride[part] = stride as i32;
                    of_case.buffers.push(buffer);
                }
                case.scores = Some(features[1..].iter().map(|row| judge.score(row)).collect());
                cases.push(case);
                placed.push(of_case);
            }
            let verdicts = run(&gpu, &verifier, &placed);
            for (case, verdict) in cases.iter().zip(&verdicts) {
                check(case, verdict, &format!("{units} units"));
                let scores = &verdict.acceptability[..case.tree.len()];
                asked += scores.iter().filter(|score| !score.is_nan()).count();
            }
        }
        assert!(asked >= 5, "{asked}");
    });
}

#[test]
fn what_is_no_tree_is_refused_and_the_others_are_verified() {
    let test = "verifier::what_is_no_tree_is_refused_and_the_others_are_verified";
    on_softcuda(test, &[], || {
        let gpu = Gpu::open(0).expect("softcuda");
        let verifier = Verifier::new(None, 2).expect("kernels");
        let plain = |rule| Case {
            tree: TokenTree::chain(&[1, 2, 3]),
            vocabulary: 4,
            target: [0.0, 9.0, 0.0, 0.0].repeat(4),
            drafter_vocabulary: 4,
            drafter: Some(vec![0.0; 16]),
            laws: None,
            draft_sampling: reference::Sampling::at(1.0),
            script: None,
            scores: None,
            policy: reference::Policy::new(reference::Sampling::GREEDY, rule),
            philox: reference::Philox::new(1, 0),
        };
        type Spoil = fn(&mut Tree, &mut Ask);
        let spoils: [(Spoil, Option<(i32, i32)>); 7] = [
            (|_, _| (), None),
            (|tree, _| tree.nodes = -1, Some((TREE, -1))),
            (|tree, _| tree.nodes = 300, Some((TREE, 300))),
            (|tree, _| tree.parent[1] = 1, Some((TREE, 1))),
            (|tree, _| tree.token[2] = 4, Some((TREE, 2))),
            (
                |tree, ask| {
                    tree.parent[2] = 0;
                    ask.policy.rule = 1;
                },
                Some((TREE, 2)),
            ),
            (|_, ask| ask.flags |= SAMPLED, None),
        ];
        let case = plain(reference::Rule::Chain);
        let mut placed = Vec::new();
        for (spoil, _) in &spoils {
            let mut one = Placed::new(&gpu, &case);
            let mut tree = Tree::of(&case.tree).expect("fits");
            spoil(&mut tree, &mut one.ask);
            let buffer = Buffer::of(&gpu, "tree", bytemuck::bytes_of(&tree)).expect("memory");
            one.ask.tree = buffer.address();
            one.buffers.push(buffer);
            placed.push(one);
        }
        // a drafter's row that has no law
        let mut unusable = Placed::new(&gpu, &case);
        let rows = [vec![0.0f32; 4], vec![f32::NAN; 4], vec![0.0; 8]].concat();
        let buffer = Buffer::of(&gpu, "drafter", &rows).expect("memory");
        unusable.ask.drafter = buffer.address();
        unusable.ask.flags |= SAMPLED;
        unusable.buffers.push(buffer);
        placed.push(unusable);
        let expected = spoils.iter().map(|(_, expected)| *expected);
        let expected = expected.chain([Some((DRAFTER_LOGITS, 1))]);
        let verdicts = run(&gpu, &verifier, &placed);
        for (i, (verdict, expected)) in verdicts.iter().zip(expected).enumerate() {
            let found = (verdict.error, verdict.at);
            assert_eq!(found, expected.unwrap_or((0, 0)), "sequence {i}");
            if expected.is_none() {
                // node 0 is the target's choice, node 1 is not
                assert_eq!((verdict.length, verdict.path[0], verdict.next), (1, 0, 1));
            }
        }
        // too small a workspace, and a judge that is not there
        let asks = [placed[0].ask];
        let buffer = Buffer::new(&gpu, "workspace", 4096).expect("memory");
        // SAFETY: nothing is enqueued.
        let small = unsafe { verifier.enqueue(&asks, buffer.address(), 4096, gpu.stream()) };
        let small = small.expect_err("too small").to_string();
        assert!(small.contains("found a workspace of 4096 bytes"), "{small}");
        let mut judged = [placed[0].ask];
        judged[0].policy.rule = 2;
        let bytes = verifier.workspace_bytes(1, 4);
        let buffer = Buffer::new(&gpu, "workspace", bytes).expect("memory");
        // SAFETY: nothing is enqueued.
        let refused = unsafe { verifier.enqueue(&judged, buffer.address(), bytes, gpu.stream()) };
        let refused = refused.expect_err("no judge").to_string();
        assert!(refused.contains("neither scores nor a judge"), "{refused}");
        assert!(bytes < verifier.workspace_bytes(64, 151_936));
    });
}
