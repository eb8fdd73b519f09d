//! Drafting: n-gram lookup by the length of the text, and models by the shape of the draft. Elements
//! are nodes.
//!
//! A model's time is the device's own for that phase of a step.

mod common;

use common::{Endless, greedy, models, open, smollm2, sums, with_drafter};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gavel::draft::{Drafter, Ngram};
use gavel::tree::Shape;
use gavel::verify::Rule;
use std::hint::black_box;

fn ngram(c: &mut Criterion) {
    let mut group = c.benchmark_group("drafting/ngram");
    for length in [128, 1024, 8192] {
        // text of 64 words, so that short keys stand in many places and long ones in few
        let mut random = fastrand::Rng::with_seed(1);
        let text: Vec<u32> = (0..length).map(|_| random.u32(..64)).collect();
        for shape in ["8", "4x2x2x1"] {
            let shape: Shape = shape.parse().expect("a shape");
            let nodes = Ngram::default().propose(&text, &shape).len();
            group.throughput(Throughput::Elements(nodes as u64));
            group.bench_function(BenchmarkId::new(shape.to_string(), length), |b| {
                b.iter(|| Ngram::default().propose(black_box(&text), &shape));
            });
        }
    }
    group.finish();
}

fn model(c: &mut Criterion) {
    let demo = open(&models("demo/target"));
    let smollm2 = smollm2();
    let pairs = [
        ("demo", demo, Drafter::Model(open(&models("demo/draft")))),
        (
            "smollm2 self:8",
            smollm2.clone(),
            Drafter::self_layers(&smollm2, 8).expect("30 layers"),
        ),
    ];
    let mut group = c.benchmark_group("drafting/model");
    for (name, target, drafter) in pairs {
        let mut device = with_drafter(&target, drafter, 512);
        for shape in ["1", "4", "8", "4x2x2x1", "best:16x4"] {
            let shape: Shape = shape.parse().expect("a shape");
            // no more tokens than fit before drafts are cut short
            let mut sequence = Endless::new(&mut *device, (5..69).collect(), 256);
            let step = greedy(shape.clone(), Rule::Chain);
            group.throughput(Throughput::Elements(shape.nodes() as u64));
            group.bench_function(BenchmarkId::new(name, &shape), |b| {
                b.iter_custom(|times| sums(times, || sequence.step(&step).times.draft));
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = ngram, model
}
criterion_main!(benches);
