//! Attention by context and by tree, as a pass of a model that has little else: one layer of 32
//! heads in 8 groups of 64, as Llama-3.2-1B has them, over a residual stream of 64.
//!
//! Bytes are the keys and values that one row reads, in f32 (f16 on CUDA: half of them); elements are rows.

mod common;

use common::{device, made, pass};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gavel::device::{Want, prefill};
use gavel::tree::TokenTree;

const CONTEXTS: [usize; 3] = [512, 2048, 8192];

/// Full trees by children per level; the last committed token is their root.
fn tree(branching: &[usize]) -> TokenTree {
    let mut tree = TokenTree::default();
    let mut level = vec![tree.push(None, 1)];
    for &children in branching {
        let parents = level.iter().flat_map(|&p| std::iter::repeat_n(p, children));
        level = parents
            .collect::<Vec<_>>()
            .into_iter()
            .map(|p| tree.push(Some(p), 1))
            .collect();
    }
    tree
}

fn attention(c: &mut Criterion) {
    const KV_HEADS: usize = 8;
    let made = made(|w| (w.heads, w.kv_heads) = (32, KV_HEADS));
    let mut device = device(&made.model, 9000);
    let shapes = [
        ("1", tree(&[])),
        ("chain 8", tree(&[1; 8])),
        ("tree 4x2x2x1", tree(&[4, 2, 2, 1])),
    ];
    let mut group = c.benchmark_group("attention");
    for context in CONTEXTS {
        device.rollback(0);
        prefill(&mut *device, &vec![1; context], &Want::default()).expect("a prompt");
        for (name, rows) in &shapes {
            group.throughput(Throughput::ElementsAndBytes {
                elements: rows.len() as u64,
                bytes: (2 * 4 * KV_HEADS * 64 * context) as u64,
            });
            group.bench_function(BenchmarkId::new(*name, context), |b| {
                pass(b, &mut *device, rows, &Want::default());
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = attention
}
criterion_main!(benches);
