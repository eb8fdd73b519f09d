//! SmolLM2-135M-Instruct against what transformers answers with the same weights in float32.

mod common;

use common::*;
use gavel::device::{Device, Logits, Want, prefill};
use gavel::model::{ChatTemplate, Tokenizer};

/// Where the reference's two best logits are this close, another choice is no error.
const NEAR_TIE: f64 = 0.02;

#[derive(serde::Deserialize)]
struct Case {
    prompt: String,
    prompt_ids: Vec<u32>,
    greedy_ids: Vec<u32>,
    greedy_text: String,
    greedy_gaps: Vec<f64>,
    first_top8: Top,
}

#[derive(serde::Deserialize)]
struct Top {
    ids: Vec<u32>,
    logits: Vec<f32>,
}

fn cases() -> Vec<Case> {
    let file = root().join("tests/fixtures/smollm2-135m.json");
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

#[test]
fn prompt_ids_after_the_chat_template_are_the_references() {
    let model = smollm2();
    let tokenizer = Tokenizer::open(&model.dir).unwrap();
    let template = ChatTemplate::open(&model.dir).unwrap().unwrap();
    for case in cases() {
        let text = template.ask(None, &case.prompt).unwrap();
        assert_eq!(
            tokenizer.encode(&text, false).unwrap(),
            case.prompt_ids,
            "{}",
            case.prompt
        );
    }
}

#[test]
fn answers_are_the_references_up_to_near_ties() {
    let model = smollm2();
    let tokenizer = Tokenizer::open(&model.dir).unwrap();
    let mut device = cpu(&model);
    let want = Want {
        logits: Logits::Last,
        ..Want::default()
    };
    for case in cases() {
        device.rollback(0);
        let first = prefill(&mut device, &case.prompt_ids, &want)
            .unwrap()
            .logits;
        let mut best: Vec<u32> = (0..first.len() as u32).collect();
        best.sort_by(|&a, &b| first[b as usize].total_cmp(&first[a as usize]));
        let mut worst = 0f32;
        for (&id, &z) in case.first_top8.ids.iter().zip(&case.first_top8.logits) {
            worst = worst.max((first[id as usize] - z).abs());
        }
        println!("{}: first top 8 within {worst:.1e}", case.prompt);
        assert!(worst < 0.05, "{}: off by {worst}", case.prompt);
        assert!(
            best[..8].iter().all(|id| case.first_top8.ids.contains(id)),
            "{}",
            case.prompt
        );

        let mut logits = first;
        let mut found = Vec::new();
        for (&expected, &gap) in case.greedy_ids.iter().zip(&case.greedy_gaps) {
            let token = argmax(&logits);
            if token != expected {
                assert!(
                    gap < NEAR_TIE,
                    "{}: {token} for {expected} after {found:?}",
                    case.prompt
                );
                println!("{}: parted at a near tie of {gap}", case.prompt);
                break;
            }
            found.push(token);
            logits = prefill(&mut device, &[token], &want).unwrap().logits;
        }
        if found.len() == case.greedy_ids.len() {
            assert_eq!(tokenizer.decode(&found, true), case.greedy_text);
        }
        println!(
            "{}: {} of {} tokens equal",
            case.prompt,
            found.len(),
            case.greedy_ids.len()
        );
    }
}
