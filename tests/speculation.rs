//! Greedy speculation equals greedy plain decoding token for token: every drafter, chain and tree.

mod common;

use common::*;
use gavel::device::cpu::Cpu;
use gavel::device::{Device, Draw, Logits, Request, Step, Want, prefill};
use gavel::draft::{Drafter, Ngram};
use gavel::engine::{Generation, Stats, generate};
use gavel::model::{ChatTemplate, Model, Tokenizer};
use gavel::tree::Shape;
use gavel::verify::{Policy, Rule, Sampling};
use std::ops::ControlFlow;
use std::sync::Arc;

const SHAPES: [&str; 6] = ["1", "4", "8", "4x2x2x1", "3x3", "best:12x5"];

fn step(shape: Shape, draw: Draw, sampling: Sampling, rule: Rule) -> Step {
    Step {
        draw,
        ..Step::new(shape, Policy::new(sampling, rule))
    }
}

fn greedy(shape: &str, draw: Draw, rule: Rule) -> Step {
    step(shape.parse().unwrap(), draw, Sampling::GREEDY, rule)
}

fn run(
    device: &mut Cpu,
    model: &Model,
    prompt: &[u32],
    max_tokens: usize,
    step: &Step,
) -> Generation {
    let request = Request {
        prompt: prompt.to_vec(),
        max_tokens,
        stop_tokens: model.generation.eos.clone(),
        seed: 1,
        sequence: 0,
    };
    generate(device, &request, step, |_| ControlFlow::Continue(())).unwrap()
}

fn plain() -> Step {
    step(Shape::NONE, Draw::Sampled, Sampling::GREEDY, Rule::Chain)
}

fn prompts(model: &Model, questions: &[String]) -> Vec<Vec<u32>> {
    let tokenizer = Tokenizer::open(&model.dir).unwrap();
    let template = ChatTemplate::open(&model.dir).unwrap().unwrap();
    let ids = |q: &String| {
        let text = template.ask(None, q).unwrap();
        tokenizer.encode(&text, false).unwrap()
    };
    questions.iter().map(ids).collect()
}

fn demo_prompts(count: usize) -> Vec<Vec<u32>> {
    let problems = std::fs::read_to_string(root().join("models/demo/problems.jsonl")).unwrap();
    let question = |line: &str| {
        let problem: serde_json::Value = serde_json::from_str(line).unwrap();
        problem["question"].as_str().unwrap().to_owned()
    };
    prompts(
        &demo_target(),
        &problems
            .lines()
            .take(count)
            .map(question)
            .collect::<Vec<_>>(),
    )
}

fn check(
    target: &Arc<Model>,
    drafters: Vec<(&str, Drafter)>,
    prompts: &[Vec<u32>],
    max_tokens: usize,
    shapes: &[&str],
) {
    let mut expected: Vec<Generation> = Vec::new();
    for (name, drafter) in drafters {
        let mut device = Cpu::open(&setup(target.clone(), drafter.clone())).unwrap();
        if expected.is_empty() {
            expected = prompts
                .iter()
                .map(|p| run(&mut device, target, p, max_tokens, &plain()))
                .collect();
        }
        for shape in shapes {
            let mut stats = Stats::default();
            for (prompt, expected) in prompts.iter().zip(&expected) {
                let is_chain = shape.parse::<Shape>().unwrap().is_chain();
                let draw = if is_chain { Draw::Sampled } else { Draw::Top };
                let found = run(
                    &mut device,
                    target,
                    prompt,
                    max_tokens,
                    &greedy(shape, draw, Rule::Chain),
                );
                assert_eq!(found.tokens, expected.tokens, "{name}, shape {shape}");
                assert_eq!(found.ended, expected.ended, "{name}, shape {shape}");
                stats += &found.stats;
                if is_chain {
                    let block = run(
                        &mut device,
                        target,
                        prompt,
                        max_tokens,
                        &greedy(shape, draw, Rule::Block),
                    );
                    assert_eq!(
                        block.tokens, expected.tokens,
                        "{name}, block, shape {shape}"
                    );
                }
            }
            println!("{name}, shape {shape}: m {:.2}", stats.m());
            // a drafter that is never right would prove nothing
            assert!(
                stats.accepted() > 0,
                "{name}, shape {shape}: nothing was accepted"
            );
        }
    }
}

#[test]
fn on_the_demo_pair_speculation_equals_plain_decoding() {
    let target = demo_target();
    let drafters = vec![
        ("model", Drafter::Model(demo_draft())),
        ("self:2", Drafter::self_layers(&target, 2).unwrap()),
        ("self:3", Drafter::self_layers(&target, 3).unwrap()),
        ("ngram", Drafter::Ngram(Ngram::default())),
    ];
    check(&target, drafters, &demo_prompts(10), 160, &SHAPES);
}

#[test]
fn on_smollm2_speculation_equals_plain_decoding() {
    let target = smollm2();
    let drafters = vec![
        ("ngram", Drafter::Ngram(Ngram::default())),
        ("self:24", Drafter::self_layers(&target, 24).unwrap()),
        // no smaller model shares its vocabulary here: SmolLM2 drafts for itself
        ("model", Drafter::Model(target.clone())),
    ];
    let text = "Repeat after me, twice: one two three four five six seven.".to_owned();
    check(
        &target,
        drafters,
        &prompts(&target, &[text]),
        40,
        &["4", "3x2x1", "best:8x4"],
    );
}

#[test]
fn a_run_repeats_bit_for_bit_from_its_seed_and_another_seed_differs() {
    let target = demo_target();
    let mut device = Cpu::open(&setup(target.clone(), Drafter::Model(demo_draft()))).unwrap();
    let sampling = Sampling {
        temperature: 1.0,
        top_k: 40,
        top_p: 0.95,
    };
    let prompt = &demo_prompts(1)[0];
    for (shape, draw) in [
        ("6", Draw::Sampled),
        ("2x2x1", Draw::Sampled),
        ("2x2x1", Draw::Top),
    ] {
        let step = step(shape.parse().unwrap(), draw, sampling, Rule::Chain);
        let mut with_seed = |seed| {
            let request = Request {
                prompt: prompt.clone(),
                max_tokens: 80,
                stop_tokens: target.generation.eos.clone(),
                seed,
                sequence: 0,
            };
            generate(&mut device, &request, &step, |_| ControlFlow::Continue(()))
                .unwrap()
                .tokens
        };
        let first = with_seed(7);
        assert_eq!(first, with_seed(7), "{shape}");
        assert_ne!(first, with_seed(8), "{shape}");
    }
}

#[test]
fn nothing_is_committed_beyond_a_limit_or_a_stop_token() {
    let target = demo_target();
    let mut device = Cpu::open(&setup(target.clone(), Drafter::Model(demo_draft()))).unwrap();
    let prompt = &demo_prompts(1)[0];
    let all = run(&mut device, &target, prompt, 160, &plain()).tokens;
    for max_tokens in [0, 1, 2, 7, 30] {
        let step = greedy("8", Draw::Sampled, Rule::Chain);
        let found = run(&mut device, &target, prompt, max_tokens, &step);
        assert_eq!(found.tokens, all[..max_tokens]);
    }
    // every token as the stop token: the text ends with its first occurrence
    for stop in [all[3], all[10], all[20]] {
        let request = Request {
            prompt: prompt.clone(),
            max_tokens: 160,
            stop_tokens: vec![stop],
            seed: 1,
            sequence: 0,
        };
        let step = greedy("8", Draw::Sampled, Rule::Chain);
        let found = generate(&mut device, &request, &step, |_| ControlFlow::Continue(())).unwrap();
        let end = all.iter().position(|&t| t == stop).unwrap() + 1;
        assert_eq!(found.tokens, all[..end]);
    }
}

#[test]
fn a_full_context_ends_the_sequence_where_plain_decoding_ends_it() {
    let target = demo_target();
    let prompt = &demo_prompts(1)[0];
    for room in [1, 2, 5, 20] {
        let with_context = |drafter| {
            let mut setup = setup(target.clone(), drafter);
            setup.context = prompt.len() + room;
            Cpu::open(&setup).unwrap()
        };
        let draft = Drafter::Model(demo_draft());
        let plain = run(
            &mut with_context(Drafter::None),
            &target,
            prompt,
            160,
            &plain(),
        );
        let chain = greedy("8", Draw::Sampled, Rule::Chain);
        let chain = run(&mut with_context(draft), &target, prompt, 160, &chain);
        assert_eq!(plain.tokens.len(), room);
        assert_eq!(chain.tokens, plain.tokens);
        assert_eq!(chain.ended, plain.ended);
    }
}

#[test]
fn every_token_comes_with_its_log_probability_where_that_is_asked_for() {
    let target = demo_target();
    let mut device = Cpu::open(&setup(target.clone(), Drafter::Model(demo_draft()))).unwrap();
    let sampling = Sampling {
        temperature: 0.7,
        top_k: 8,
        top_p: 1.0,
    };
    let prompt = &demo_prompts(1)[0];
    for (shape, rule) in [("6", Rule::Chain), ("2x2x1", Rule::TYPICAL)] {
        let asked = Step {
            log_probabilities: true,
            ..step(shape.parse().unwrap(), Draw::Sampled, sampling, rule)
        };
        let request = Request {
            prompt: prompt.clone(),
            max_tokens: 40,
            stop_tokens: target.generation.eos.clone(),
            seed: 3,
            sequence: 0,
        };
        let mut said = Vec::new();
        let made = generate(&mut device, &request, &asked, |committed| {
            said.extend(committed.iter().map(|c| c.log_probability.unwrap()));
            ControlFlow::Continue(())
        })
        .unwrap();
        let all = [&prompt[..], &made.tokens].concat();
        let want = Want {
            logits: Logits::All,
            ..Want::default()
        };
        device.rollback(0);
        let logits = prefill(&mut device, &all, &want).unwrap().logits;
        let rows: Vec<&[f32]> = logits.chunks_exact(target.config.vocab_size).collect();
        assert_eq!(said.len(), made.tokens.len());
        for (i, (&said, &token)) in said.iter().zip(&made.tokens).enumerate() {
            let row = rows[prompt.len() + i - 1];
            let sum: f64 = row.iter().map(|&z| f64::from(z).exp()).sum();
            let expected = f64::from(row[token as usize]) - sum.ln();
            assert!(
                (f64::from(said) - expected).abs() < 1e-5,
                "{shape}: token {i}"
            );
        }
    }
}
