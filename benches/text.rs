//! Tokenizer, chat template, and loading. Bytes are those of the text, or of the checkpoint.

mod common;

use common::{models, smollm2, with_drafter};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use gavel::bench::Prompt;
use gavel::draft::Drafter;
use gavel::model::{ChatTemplate, Message, Model, Tokenizer};
use std::hint::black_box;

/// All built-in prompts as one text.
fn text() -> String {
    let prompts = Prompt::built_in();
    let texts: Vec<String> = prompts.into_iter().map(|p| p.prompt).collect();
    texts.join("\n\n")
}

fn tokenizer(c: &mut Criterion) {
    let text = text();
    let mut group = c.benchmark_group("tokenizer");
    for (name, dir) in [("demo", "demo/target"), ("smollm2", "smollm2-135m")] {
        let tokenizer = Tokenizer::open(&models(dir)).expect("a tokenizer");
        let ids = tokenizer.encode(&text, false).expect("ids");
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(format!("encode/{name}"), |b| {
            b.iter(|| tokenizer.encode(black_box(&text), false).expect("ids"));
        });
        group.bench_function(format!("decode/{name}"), |b| {
            b.iter(|| tokenizer.decode(black_box(&ids), false));
        });
        // token by token, as they are generated
        group.bench_function(format!("stream/{name}"), |b| {
            b.iter(|| {
                let mut stream = tokenizer.stream();
                let shown: usize = ids
                    .iter()
                    .filter_map(|&id| stream.push(id))
                    .map(|t| t.len())
                    .sum();
                shown + stream.finish().len()
            });
        });
    }
    let template = ChatTemplate::open(&models("demo/target")).expect("a template");
    let template = template.expect("the demo target has a template");
    let messages = [Message::new("user", &*text)];
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("template/demo", |b| {
        b.iter(|| template.render(black_box(&messages), true).expect("text"));
    });
    group.finish();
}

fn load(c: &mut Criterion) {
    let mut group = c.benchmark_group("load");
    for (name, dir) in [("demo", "demo/target"), ("smollm2", "smollm2-135m")] {
        let dir = models(dir);
        group.bench_function(format!("tokenizer/{name}"), |b| {
            b.iter(|| Tokenizer::open(black_box(&dir)).expect("a tokenizer"));
        });
        // weights are mapped, not read
        group.bench_function(format!("model/{name}"), |b| {
            b.iter(|| Model::open(black_box(&dir)).expect("a model"));
        });
    }
    let model = smollm2();
    group.bench_function("device/smollm2", |b| {
        b.iter(|| with_drafter(&model, Drafter::None, 1024));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = tokenizer, load
}
criterion_main!(benches);
