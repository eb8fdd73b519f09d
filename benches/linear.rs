//! Matrix products by shape and rows, as the LM head of a model that has little else: one thin layer
//! stands before a head [N, K], and the pass asks for the logits of all rows.
//!
//! Bytes are those of the matrix, in bf16; elements are rows.

mod common;

use common::{device, made, pass};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gavel::device::{Logits, Want};
use gavel::tree::TokenTree;

/// (N, K): SmolLM2's down and gate, Llama-3.2-1B's down, its gate and its q.
const SHAPES: [(usize, usize); 5] = [
    (576, 1536),
    (1536, 576),
    (2048, 8192),
    (8192, 2048),
    (2048, 2048),
];

fn linear(c: &mut Criterion) {
    let mut group = c.benchmark_group("linear");
    for (n, k) in SHAPES {
        let made = made(|w| (w.vocabulary, w.hidden) = (n, k));
        let mut device = device(&made.model, 64);
        let want = Want {
            logits: Logits::All,
            ..Want::default()
        };
        for rows in [1, 8, 32] {
            let tree = TokenTree::chain(&vec![1; rows]);
            group.throughput(Throughput::ElementsAndBytes {
                elements: rows as u64,
                bytes: (2 * n * k) as u64,
            });
            group.bench_function(BenchmarkId::new(format!("{n}x{k}"), rows), |b| {
                pass(b, &mut *device, &tree, &want);
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = linear
}
criterion_main!(benches);
