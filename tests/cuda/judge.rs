//! A judge beside the pass: its scores, and what they cost.

use crate::common::fixture;
use crate::process::{on_softcuda, softcuda, with_driver};
use gavel::device::cpu::Cpu;
use gavel::device::cuda::Cuda;
use gavel::device::{Device, PassOutput, Setup, Want, prefill};
use gavel::draft::Drafter;
use gavel::judge::{Features, Head, Judge, Layout, Meaning, Tap};
use gavel::model::Model;
use gavel::tree::TokenTree;
use softcuda::report::Report;
use std::sync::Arc;

fn setup(name: &str) -> Setup {
    Setup {
        context: 250,
        target: Arc::new(Model::open(&fixture(name)).expect("a model")),
        drafter: Drafter::None,
        threads: 1,
    }
}

/// A judge with weights that make scores neither 0 nor 1.
pub fn judge(model: &Model, taps: &[Tap], width: usize, seed: u64) -> Arc<Judge> {
    judge_of_both(model, None, taps, width, seed)
}

/// As [`judge`]; one that reads the drafter's final hidden state too, where there is one.
pub fn judge_of_both(
    model: &Model,
    draft: Option<&Model>,
    taps: &[Tap],
    width: usize,
    seed: u64,
) -> Arc<Judge> {
    let mut random = fastrand::Rng::with_seed(seed);
    let hidden = model.config.hidden_size;
    let draft_width = draft.map_or(0, |d| d.config.hidden_size);
    let features = draft_width + taps.len() * hidden;
    let mut numbers = |n: usize, scale: f32| -> Vec<f32> {
        (0..n).map(|_| (random.f32() - 0.5) * scale).collect()
    };
    let scale = 4.0 / (hidden as f32).sqrt();
    let head = match width {
        0 => Head::Linear {
            w: numbers(features, scale),
            b: 0.125,
        },
        width => Head::TwoLayer {
            w1: numbers(width * features, scale),
            b1: numbers(width, 1.0),
            w2: numbers(width, 4.0),
            b2: -0.25,
        },
    };
    Arc::new(Judge {
        head,
        meaning: [Meaning::Acceptable, Meaning::Important][seed as usize % 2],
        features: Features {
            layout: match draft {
                Some(_) => Layout::DdDt,
                None => Layout::Dt,
            },
            taps: taps.to_vec(),
            target_width: hidden,
            draft_width,
        },
        vocab_size: model.config.vocab_size,
        target_fingerprint: String::new(),
        draft_fingerprint: None,
        method: String::new(),
        provenance: String::new(),
        operating_points: None,
        curve: Vec::new(),
    })
}

fn judges(model: &Model) -> Vec<Arc<Judge>> {
    let last = Tap::Layer(model.config.layers);
    let cases: [(&[Tap], usize); 6] = [
        (&[Tap::Final], 0),
        (&[Tap::Layer(1)], 0),
        (&[Tap::Layer(1), Tap::Final], 0),
        (&[Tap::Final], 64),
        (&[Tap::Final, last], 3),
        (&[last], 1),
    ];
    let seeds = cases.iter().zip(0..);
    seeds
        .map(|((taps, width), seed)| judge(model, taps, *width, seed))
        .collect()
}

/// What the judge makes of the hidden states that the pass itself returned.
fn recomputed(judge: &Judge, output: &PassOutput, rows: usize) -> Vec<f32> {
    let score = |row: usize| {
        let mut features = Vec::new();
        for tap in &judge.features.taps {
            let values = match tap {
                Tap::Final => &output.last_hidden,
                Tap::Layer(l) => {
                    &output
                        .taps
                        .iter()
                        .find(|(tap, _)| tap == l)
                        .expect("a tap")
                        .1
                }
            };
            let width = judge.features.target_width;
            features.extend_from_slice(&values[row * width..][..width]);
        }
        judge.score(&features)
    };
    (0..rows).map(score).collect()
}

fn check(device: &mut dyn Device, model: &Model, tolerance: f32) {
    let tokens: Vec<u32> = (0..40).map(|i| (i * 37 + 5) % 300).collect();
    for judge in judges(model) {
        let taps = &judge.features.taps;
        let want = Want {
            hidden: true,
            taps: vec![1, model.config.layers],
            judge: Some(judge.clone()),
            ..Want::default()
        };
        device.rollback(0);
        let output = prefill(device, &tokens, &want).expect("a pass");
        let expected = recomputed(&judge, &output, tokens.len());
        assert_eq!(output.scores.len(), tokens.len());
        let apart = output.scores.iter().zip(&expected);
        let apart = apart.map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(apart <= tolerance, "{taps:?}: {apart}");
        let (least, most) = expected
            .iter()
            .fold((1f32, 0f32), |(l, m), s| (l.min(*s), m.max(*s)));
        assert!(most - least > 0.1, "{taps:?}: scores {least} to {most}");

        // alone, and nothing else wanted
        let want = Want {
            judge: Some(judge.clone()),
            ..Want::default()
        };
        device.rollback(0);
        for (row, token) in tokens.iter().enumerate() {
            let alone = prefill(device, &[*token], &want).expect("a pass");
            assert_eq!(
                alone.scores[0].to_bits(),
                output.scores[row].to_bits(),
                "{taps:?}"
            );
            assert!(alone.last_hidden.is_empty() && alone.taps.is_empty());
        }
        // a second child beside the one on the path
        device.rollback(20);
        let tree =
            TokenTree::new(vec![7, tokens[20], tokens[21]], vec![-1, -1, 1]).expect("a tree");
        let branch = device.pass(&tree, &want).expect("a pass").scores;
        for (node, row) in [(1, 20), (2, 21)] {
            assert_eq!(
                branch[node].to_bits(),
                output.scores[row].to_bits(),
                "{taps:?}"
            );
        }
    }
}

#[test]
fn scores_are_those_of_the_hidden_states() {
    let test = "judge::scores_are_those_of_the_hidden_states";
    on_softcuda(test, &[], || {
        for name in ["llama-odd", "qwen3-qknorm"] {
            let setup = setup(name);
            check(
                &mut Cpu::open(&setup).expect("a CPU device"),
                &setup.target,
                0.0,
            );
            let mut cuda = Cuda::open(&setup, 0).expect("a CUDA device");
            check(&mut cuda, &setup.target, 2e-5);
        }
    });
}

#[test]
fn a_judge_that_the_pass_cannot_serve_is_refused() {
    let test = "judge::a_judge_that_the_pass_cannot_serve_is_refused";
    on_softcuda(test, &[], || {
        let setup = setup("llama-odd");
        let mut device = Cuda::open(&setup, 0).expect("a CUDA device");
        let mut refused = |change: &dyn Fn(&mut Features)| {
            let mut judge = (*judge(&setup.target, &[Tap::Final], 0, 1)).clone();
            change(&mut judge.features);
            let want = Want {
                judge: Some(Arc::new(judge)),
                ..Want::default()
            };
            let error = device.pass(&TokenTree::chain(&[1]), &want);
            error.expect_err("a judge that does not fit").to_string()
        };
        let wide = refused(&|f| f.target_width += 16);
        assert!(wide.contains("hidden_size 208"), "{wide}");
        let deep = refused(&|f| f.taps = vec![Tap::Layer(99)]);
        assert!(deep.contains("after layer 99"), "{deep}");
        let many = refused(&|f| f.taps = vec![Tap::Final, Tap::Layer(1), Tap::Layer(2)]);
        assert!(many.contains("3 places"), "{many}");
        let drafters = refused(&|f| f.layout = Layout::DdDt);
        assert!(
            drafters.contains("DD-DT") || drafters.contains("draft"),
            "{drafters}"
        );
    });
}

/// Launches of a pass and sectors of the judge's weights.
fn costs(test: &str, which: &str) -> Option<(usize, u64)> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let path = file.path().to_str().expect("a path in UTF-8").to_owned();
    let env = [("SOFTCUDA_REPORT", &*path), ("GAVEL_TEST_JUDGE", which)];
    let body = || {
        let setup = setup("llama-odd");
        let taps: Option<&[Tap]> = match &*std::env::var("GAVEL_TEST_JUDGE").expect("set above") {
            "final" => Some(&[Tap::Final]),
            "inner" => Some(&[Tap::Layer(1)]),
            _ => None,
        };
        let want = Want {
            judge: taps.map(|taps| judge(&setup.target, taps, 0, 0)),
            ..Want::default()
        };
        let mut device = Cuda::open(&setup, 0).expect("a CUDA device");
        device
            .pass(&TokenTree::chain(&[5, 6, 7, 8, 9, 10, 11, 12]), &want)
            .expect("a pass");
    };
    with_driver(test, |_| softcuda(), &env, body)?;
    let text = std::fs::read_to_string(&path).expect("a report");
    let report: Report = serde_json::from_str(&text).expect("a report");
    let pass = report.launches.iter();
    let pass: Vec<_> = pass.filter(|l| !l.kernel.starts_with("pack_")).collect();
    let weights = pass.iter().filter_map(|l| l.memory.get("judge weights"));
    Some((pass.len(), weights.map(|t| t.unique_sectors).sum()))
}

#[test]
fn a_linear_judge_costs_one_vector_and_an_inner_layer_one_launch() {
    let test = "judge::a_linear_judge_costs_one_vector_and_an_inner_layer_one_launch";
    let Some((plain, none)) = costs(test, "none") else {
        return;
    };
    let (with_final, vector) = costs(test, "final").expect("the parent");
    let (with_inner, inner) = costs(test, "inner").expect("the parent");
    assert_eq!((with_final, with_inner), (plain, plain + 1));
    // 208 features in f32
    assert_eq!((none, vector, inner), (0, 208 * 4 / 32, 208 * 4 / 32));
}
