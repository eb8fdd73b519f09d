//! The target pass by rows and by context.
//!
//! SmolLM2-135M, in the device's own time. Elements are rows of the pass, bytes the weights that it reads once however many
//! rows it has.

mod common;

use common::{device, pass, smollm2, sums};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gavel::device::{Device, Logits, Want, prefill};
use gavel::tree::TokenTree;
use std::hint::black_box;

const ROWS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
const CONTEXTS: [usize; 3] = [64, 512, 1536];

fn tokens(count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| 300 + 7 * i).collect()
}

fn decoding() -> Want {
    Want {
        logits: Logits::All,
        ..Want::default()
    }
}

fn by_rows(c: &mut Criterion) {
    let model = smollm2();
    let mut device = device(&model, 1024);
    let bytes = model.weights.bytes() as u64;
    prefill(&mut *device, &tokens(64), &Want::default()).expect("a prompt");
    let mut group = c.benchmark_group("pass/rows");
    for rows in ROWS {
        let tree = TokenTree::chain(&tokens(rows));
        group.throughput(Throughput::ElementsAndBytes {
            elements: rows as u64,
            bytes,
        });
        group.bench_function(BenchmarkId::from_parameter(rows), |b| {
            pass(b, &mut *device, &tree, &decoding());
        });
    }
    group.finish();
}

fn by_context(c: &mut Criterion) {
    let model = smollm2();
    let mut device = device(&model, 2048);
    let mut group = c.benchmark_group("pass/context");
    for context in CONTEXTS {
        device.rollback(0);
        prefill(&mut *device, &tokens(context), &Want::default()).expect("a prompt");
        for rows in [1, 8] {
            let tree = TokenTree::chain(&tokens(rows));
            group.throughput(Throughput::Elements(rows as u64));
            let id = BenchmarkId::new(format!("{rows} rows"), context);
            group.bench_function(id, |b| {
                pass(b, &mut *device, &tree, &decoding());
            });
        }
    }
    group.finish();
}

fn prompt(c: &mut Criterion) {
    let model = smollm2();
    let mut device = device(&model, 1024);
    let mut group = c.benchmark_group("pass/prompt");
    for length in [64, 512] {
        let tokens = tokens(length);
        group.throughput(Throughput::Elements(length as u64));
        group.bench_function(BenchmarkId::from_parameter(length), |b| {
            b.iter_custom(|times| {
                sums(times, || {
                    device.rollback(0);
                    let prompt = black_box(&tokens);
                    let read = prefill(&mut *device, prompt, &Want::default());
                    read.expect("a prompt").time
                })
            });
        });
    }
    group.finish();
}

/// What a pass of one row can at best be: a plain read of the weights, timed by the device.
fn limit(c: &mut Criterion) {
    let model = smollm2();
    let mut device = device(&model, 64);
    let read = |device: &mut dyn Device| {
        let reading = device.read_weights().expect("a read");
        reading.expect("the device reads its weights")
    };
    let mut group = c.benchmark_group("pass/limit");
    group.throughput(Throughput::Bytes(read(&mut *device).bytes as u64));
    group.bench_function("read", |b| {
        b.iter_custom(|times| sums(times, || read(&mut *device).time));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = limit, by_rows, by_context, prompt
}
criterion_main!(benches);
