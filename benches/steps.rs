//! Whole steps by rule and shape, on the demo pair and on SmolLM2 with its own first layers: draft,
//! target pass, verify and commit, in the device's own times. Elements are steps.
//!
//! Prompts are no text, so little is kept; how long a step takes hardly depends on it. Time per
//! *token* is what `gavel bench` measures.

mod common;

use common::{Endless, greedy, models, open, smollm2, sums, with_drafter};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gavel::device::Step;
use gavel::draft::{Drafter, Ngram};
use gavel::judge::Judge;
use gavel::verify::Rule;
use std::sync::Arc;

fn steps(c: &mut Criterion) {
    let demo = open(&models("demo/target"));
    let judge = Judge::read(&models("demo").join("judge.safetensors")).expect("a judge");
    let judged = |step: Step| Step {
        judge: Some(Arc::new(judge.clone())),
        ..step
    };
    let smollm2 = smollm2();
    let pairs = [
        (
            "demo",
            demo.clone(),
            Drafter::Model(open(&models("demo/draft"))),
        ),
        ("demo ngram", demo, Drafter::Ngram(Ngram::default())),
        (
            "smollm2 self:8",
            smollm2.clone(),
            Drafter::self_layers(&smollm2, 8).expect("30 layers"),
        ),
    ];
    let mut group = c.benchmark_group("steps");
    for (pair, target, drafter) in pairs {
        let mut device = with_drafter(&target, drafter, 512);
        let shape = |text: &str| text.parse().expect("a shape");
        let mut cases = vec![
            ("plain", greedy(gavel::tree::Shape::NONE, Rule::Chain)),
            ("chain 4", greedy(shape("4"), Rule::Chain)),
            ("chain 8", greedy(shape("8"), Rule::Chain)),
            (
                "synthetic=0.8 8",
                greedy(shape("8"), Rule::Synthetic { rate: 0.8 }),
            ),
            ("tree 4x2x2x1", greedy(shape("4x2x2x1"), Rule::Chain)),
        ];
        if pair == "demo" {
            cases.push((
                "judge 8",
                judged(greedy(shape("8"), Rule::Judge { theta: 0.98 })),
            ));
        }
        for (name, step) in cases {
            let mut sequence = Endless::new(&mut *device, (5..69).collect(), 256);
            group.throughput(Throughput::Elements(1));
            group.bench_function(BenchmarkId::new(pair, name), |b| {
                b.iter_custom(|times| {
                    sums(times, || {
                        let times = sequence.step(&step).times;
                        times.draft + times.target + times.verify
                    })
                });
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = steps
}
criterion_main!(benches);
