//! Verification by rule, vocabulary and shape: the scalar reference alone, then as a phase of a
//! device's steps, behind thin models of random weights, in the device's own time.
//!
//! Of the reference: lossless rules are given drafts that they accept to the end, lossy ones
//! drafts that they must rescue at every node, so that each reads every row of
//! its path. Throughput counts the target's logits on that path.

mod common;

use std::hint::black_box;

use common::{Endless, made, sums, with_drafter};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gavel::device;
use gavel::draft::Drafter;
use gavel::tree::{Shape, TokenTree};
use gavel::verify::{Inputs, Law, Philox, Policy, Remaining, Rows, Rule, Sampling, Site, verify};

const VOCABS: [usize; 2] = [49_152, 151_936]; // SmolLM2, Qwen2.5
const SHAPES: [&str; 3] = ["4", "8", "4x2x2x1"];

const TOP_P: Sampling = Sampling {
    temperature: 0.8,
    top_k: 0,
    top_p: 0.95,
};
const TOP_K: Sampling = Sampling {
    temperature: 0.8,
    top_k: 50,
    top_p: 0.95,
};
const FULL: Sampling = Sampling::at(1.0);

/// Logits as a model makes them: a wide bell and a few tokens far ahead.
fn logits(vocab: usize, row: usize) -> Vec<f32> {
    let mut state = row as u64 + 1;
    let mut uniform = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / 16_777_216.0
    };
    let mut z: Vec<f32> = (0..vocab)
        .map(|_| (uniform() + uniform() + uniform() + uniform() - 2.0) * 4.0)
        .collect();
    for lead in [14.0, 13.5, 12.0, 10.0] {
        z[(uniform() * vocab as f32) as usize] = lead;
    }
    z
}

fn best(z: &[f32], count: usize) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..z.len() as u32).collect();
    ids.sort_by(|&a, &b| z[b as usize].total_cmp(&z[a as usize]));
    ids.truncate(count);
    ids
}

struct Step {
    vocab: usize,
    tree: TokenTree,
    depth: usize,
    rows: Vec<f32>, // [N + 1, V]
}

impl Step {
    /// A tree of `shape` over copies of one row, with `token(node, rank among siblings)`.
    fn new(z: &[f32], shape: &str, token: impl Fn(usize, usize) -> u32) -> Step {
        let shape: Shape = shape.parse().unwrap();
        let branching = match &shape {
            Shape::Levels(branching) => branching.clone(),
            shape => vec![1; shape.depth()],
        };
        let mut tree = TokenTree::default();
        let mut level = vec![None];
        for &width in &branching {
            let mut below = Vec::new();
            for parent in level {
                for rank in 0..width {
                    let token = token(tree.len(), rank);
                    below.push(Some(tree.push(parent, token)));
                }
            }
            level = below;
        }
        Step {
            vocab: z.len(),
            rows: z.repeat(tree.len() + 1),
            depth: shape.depth(),
            tree,
        }
    }

    fn read(&self) -> Throughput {
        Throughput::Elements(((self.depth + 1) * self.vocab) as u64)
    }

    fn run(&self, q: Option<&[Law]>, scores: Option<&[f32]>, policy: &Policy) {
        let rows = Rows::new(&self.rows, self.vocab).unwrap();
        let inputs = Inputs {
            tree: &self.tree,
            target: rows,
            q,
            r: Some(rows),
            scores,
        };
        let verdict = verify::<f32, _>(&inputs, policy, &mut Philox::new(1, 1)).unwrap();
        assert_eq!(verdict.path.len(), self.depth);
        black_box(verdict);
    }
}

fn law(c: &mut Criterion) {
    let mut group = c.benchmark_group("law");
    for vocab in VOCABS {
        let z = logits(vocab, 0);
        group.throughput(Throughput::Elements(vocab as u64));
        for (name, sampling) in [
            ("greedy", Sampling::GREEDY),
            ("full", FULL),
            ("top_p", TOP_P),
            ("top_k", TOP_K),
        ] {
            group.bench_function(BenchmarkId::new(name, vocab), |b| {
                b.iter(|| Law::new(black_box(&z), vocab, &sampling).unwrap());
            });
        }
    }
    group.finish();
}

fn accepted(c: &mut Criterion) {
    let mut group = c.benchmark_group("accepted");
    for vocab in VOCABS {
        let z = logits(vocab, 0);
        let ranked = best(&z, 4);
        for shape in SHAPES {
            let greedy = Step::new(&z, shape, |_, rank| ranked[rank]);
            group.throughput(greedy.read());
            let policy = Policy::new(Sampling::GREEDY, Rule::Chain);
            let id = |name| BenchmarkId::new(name, format!("{vocab}/{shape}"));
            group.bench_function(id("greedy"), |b| {
                b.iter(|| greedy.run(None, None, &policy));
            });
            for (name, rule, sampling) in [
                ("chain", Rule::Chain, FULL),
                ("chain_top_p", Rule::Chain, TOP_P),
                ("chain_top_k", Rule::Chain, TOP_K),
                ("block", Rule::Block, FULL),
            ] {
                if rule == Rule::Block && shape.contains('x') {
                    continue;
                }
                let law = Law::new(&z, vocab, &sampling).unwrap();
                let philox = Philox::new(1, 1);
                // With p = q the first child is accepted whatever it is.
                let step = Step::new(&z, shape, |node, rank| match rank {
                    0 => {
                        let word = philox.word(Site::child(node, 0));
                        Remaining::new(&law).draw(word).unwrap()
                    }
                    rank => ranked[rank],
                });
                let q = vec![law; step.tree.len() + 1];
                let policy = Policy::new(sampling, rule);
                group.bench_function(id(name), |b| {
                    b.iter(|| step.run(Some(&q), None, &policy));
                });
            }
        }
    }
    group.finish();
}

/// The dearest outcome of a row: four children rejected one by one, and the
/// target's own token drawn from their residual.
fn rejected(c: &mut Criterion) {
    let mut group = c.benchmark_group("rejected");
    for vocab in VOCABS {
        let (z, y) = (logits(vocab, 0), logits(vocab, 1));
        let law = Law::new(&y, vocab, &FULL).unwrap();
        let tree = TokenTree::new(best(&y, 4), vec![-1; 4]).unwrap();
        let rows = z.repeat(5);
        let q = vec![law; 5];
        let policy = Policy::new(FULL, Rule::Chain);
        group.throughput(Throughput::Elements(vocab as u64));
        group.bench_function(BenchmarkId::new("four_siblings", vocab), |b| {
            b.iter(|| {
                let inputs = Inputs {
                    tree: &tree,
                    target: Rows::new(&rows, vocab).unwrap(),
                    q: Some(&q),
                    r: None,
                    scores: None,
                };
                let verdict = verify::<f32, _>(&inputs, &policy, &mut Philox::new(1, 1)).unwrap();
                assert!(verdict.path.is_empty());
                black_box(verdict)
            });
        });
    }
    group.finish();
}

fn rescued(c: &mut Criterion) {
    let mut group = c.benchmark_group("rescued");
    for vocab in VOCABS {
        let z = logits(vocab, 0);
        let ranked = best(&z, 5);
        for shape in SHAPES {
            let step = Step::new(&z, shape, |_, rank| ranked[rank + 1]);
            let scores = vec![0.9; step.tree.len()];
            group.throughput(step.read());
            for rule in [
                Rule::Judge { theta: 0.5 },
                Rule::Kl {
                    delta: 1.0,
                    reverse: false,
                },
                Rule::Margin { ratio: 0.9 },
                Rule::TYPICAL,
                Rule::Threshold { t: 0.01 },
                Rule::TopK { k: 5 },
            ] {
                let policy = Policy::new(Sampling::GREEDY, rule);
                let id = BenchmarkId::new(rule.to_string(), format!("{vocab}/{shape}"));
                group.bench_function(id, |b| b.iter(|| step.run(None, Some(&scores), &policy)));
            }
        }
    }
    group.finish();
}

/// Elements are steps. What is kept depends on the rule: little, as the draft is the target's first
/// layer's.
fn phase(c: &mut Criterion) {
    let mut group = c.benchmark_group("verify/phase");
    for vocab in VOCABS {
        let made = made(|w| (w.layers, w.vocabulary) = (2, vocab));
        let drafter = Drafter::self_layers(&made.model, 1).expect("two layers");
        let mut device = with_drafter(&made.model, drafter, 512);
        for shape in ["8", "4x2x2x1"] {
            for (name, rule, sampling) in [
                ("greedy", Rule::Chain, Sampling::GREEDY),
                ("chain", Rule::Chain, FULL),
                ("chain_top_p", Rule::Chain, TOP_P),
                ("block", Rule::Block, FULL),
                (
                    "kl",
                    Rule::Kl {
                        delta: 0.1,
                        reverse: false,
                    },
                    Sampling::GREEDY,
                ),
                ("margin", Rule::Margin { ratio: 0.9 }, Sampling::GREEDY),
                ("typical", Rule::TYPICAL, Sampling::GREEDY),
                ("topk", Rule::TopK { k: 5 }, Sampling::GREEDY),
            ] {
                let shape: Shape = shape.parse().expect("a shape");
                if rule == Rule::Block && !shape.is_chain() {
                    continue;
                }
                let id = BenchmarkId::new(name, format!("{vocab}/{shape}"));
                let step = device::Step::new(shape, Policy::new(sampling, rule));
                let prompt = (1..65).collect();
                let mut sequence = Endless::new(&mut *device, prompt, 256);
                group.throughput(Throughput::Elements(1));
                group.bench_function(id, |b| {
                    b.iter_custom(|times| sums(times, || sequence.step(&step).times.verify));
                });
            }
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = law, accepted, rejected, rescued, phase
}
criterion_main!(benches);
