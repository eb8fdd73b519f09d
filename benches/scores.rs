//! A judge's scores by head, width and rows, the pass that they ride with left out (`judge` times
//! both together). Bytes are the features read; elements are tokens scored.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gavel::judge::{Features, Head, Judge, MAX_WIDTH, Meaning};
use std::hint::black_box;

fn judge(head: Head, width: usize) -> Judge {
    Judge {
        head,
        meaning: Meaning::Acceptable,
        features: Features::final_hidden(width),
        vocab_size: 1,
        target_fingerprint: String::new(),
        draft_fingerprint: None,
        method: "made for the bench".into(),
        provenance: String::new(),
        operating_points: None,
        curve: Vec::new(),
    }
}

fn scores(c: &mut Criterion) {
    let weights = |count: usize| (0..count).map(|i| (i % 7) as f32 * 0.01 - 0.03).collect();
    let mut group = c.benchmark_group("judge");
    for width in [576, 4096] {
        let linear = Head::Linear {
            w: weights(width),
            b: 0.0,
        };
        let two_layer = Head::TwoLayer {
            w1: weights(MAX_WIDTH * width),
            b1: vec![0.0; MAX_WIDTH],
            w2: weights(MAX_WIDTH),
            b2: 0.0,
        };
        for (name, head) in [("linear", linear), ("two-layer", two_layer)] {
            let judge = judge(head, width);
            for rows in [1, 8] {
                let features: Vec<f32> = weights(rows * width);
                group.throughput(Throughput::ElementsAndBytes {
                    elements: rows as u64,
                    bytes: 4 * features.len() as u64,
                });
                let id = BenchmarkId::new(format!("{name}/{width}"), rows);
                group.bench_function(id, |b| {
                    b.iter(|| {
                        let rows = black_box(&features).chunks_exact(width);
                        rows.map(|row| judge.score(row)).sum::<f32>()
                    });
                });
            }
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = scores
}
criterion_main!(benches);
