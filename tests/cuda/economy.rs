//! What a pass moves beside what it must, counted on the device that softcuda calls h100.

use crate::counting::{Counted, Passes, count, count_random, smollm2};
use crate::widths::{LLAMA_1B, LLAMA_8B, QWEN_7B, Widths};

const ROWS: [usize; 6] = [1, 4, 8, 16, 32, 64];

/// Most memory and L2 traffic over the least, up to 8 rows and up to 64.
struct Budget {
    memory: [f64; 2],
    l2: [f64; 2],
}

const SMOLLM2: Budget = Budget {
    memory: [1.10, 1.60],
    l2: [f64::INFINITY; 2],
};
const ONE_B: Budget = Budget {
    memory: [1.10, 1.25],
    l2: [1.3, 1.9],
};
const WIDE: Budget = Budget {
    memory: [1.10, 1.15],
    l2: [1.2, 1.6],
};

/// Most instructions other than mma that the kernels of these matrices, of 4096 columns and more,
/// execute for each tile of weights at 8 rows.
const MOST_INSTRUCTIONS: f64 = 8.0;
const LONG: [(&str, &str); 6] = [
    ("Llama-3.2-1B", "down"),
    ("Llama-3.1-8B", "qkv"),
    ("Llama-3.1-8B", "o"),
    ("Llama-3.1-8B", "gate, up"),
    ("Llama-3.1-8B", "down"),
    ("Qwen2.5-7B", "down"),
];

fn check_instructions(name: &str, counted: &Counted) {
    let Some(pass) = counted.passes.iter().find(|pass| pass.rows == 8) else {
        return;
    };
    let instructions = counted.instructions_per_tile(pass);
    for (_, matrix) in LONG.iter().filter(|(model, _)| *model == name) {
        for (_, each) in instructions.iter().filter(|(of, _)| of == matrix) {
            assert!(
                *each <= MOST_INSTRUCTIONS,
                "{name}, {matrix}: {each:.2} instructions a tile"
            );
        }
    }
}

fn check(name: &str, counted: &Counted, budget: &Budget) {
    println!("{}", counted.table(name));
    counted.check(name);
    check_instructions(name, counted);
    for pass in &counted.passes {
        let at = usize::from(pass.rows > 8);
        let (memory, l2) = counted.over_least(pass);
        assert!(
            memory <= budget.memory[at],
            "{name}, {} rows: memory {memory:.3}",
            pass.rows
        );
        assert!(
            l2 <= budget.l2[at],
            "{name}, {} rows: L2 {l2:.3}",
            pass.rows
        );
    }
}

fn check_random(test: &str, widths: &Widths, rows: &[usize], budget: &Budget) {
    if let Some(counted) = count_random(test, widths, 512, rows) {
        check(widths.name, &counted, budget);
    }
}

#[test]
fn smollm2_reads_its_weights_once_and_little_else() {
    let test = "economy::smollm2_reads_its_weights_once_and_little_else";
    let model = smollm2();
    let passes = Passes {
        model: &model,
        context: 64,
        rows: &[1, 8, 64],
    };
    if let Some(counted) = count(test, &passes) {
        check("SmolLM2-135M", &counted, &SMOLLM2);
    }
}

#[test]
fn a_layer_of_1b_stays_within_the_budget() {
    let test = "economy::a_layer_of_1b_stays_within_the_budget";
    check_random(test, &LLAMA_1B, &ROWS, &ONE_B);
}

#[test]
#[ignore = "minutes"]
fn a_layer_of_8b_stays_within_the_budget() {
    let test = "economy::a_layer_of_8b_stays_within_the_budget";
    check_random(test, &LLAMA_8B, &ROWS, &WIDE);
}

#[test]
#[ignore = "minutes"]
fn a_layer_of_7b_stays_within_the_budget() {
    let test = "economy::a_layer_of_7b_stays_within_the_budget";
    check_random(test, &QWEN_7B, &ROWS, &WIDE);
}

#[test]
#[ignore = "minutes"]
fn a_layer_of_1b_with_its_whole_vocabulary_stays_within_the_budget() {
    let test = "economy::a_layer_of_1b_with_its_whole_vocabulary_stays_within_the_budget";
    let whole = Widths {
        name: "Llama-3.2-1B, whole vocabulary",
        vocabulary: 128_256,
        ..LLAMA_1B
    };
    check_random(test, &whole, &ROWS, &ONE_B);
}

#[test]
#[ignore = "minutes"]
fn smollm2_stays_within_the_budget_at_512_positions() {
    let test = "economy::smollm2_stays_within_the_budget_at_512_positions";
    let model = smollm2();
    let passes = Passes {
        model: &model,
        context: 512,
        rows: &ROWS,
    };
    if let Some(counted) = count(test, &passes) {
        check("SmolLM2-135M", &counted, &SMOLLM2);
    }
}

#[test]
fn a_prompt_of_600_rows_is_three_sweeps_over_the_weights() {
    let test = "economy::a_prompt_of_600_rows_is_three_sweeps_over_the_weights";
    let small = Widths {
        layers: 2,
        hidden: 256,
        inner: 704,
        heads: 4,
        kv_heads: 2,
        vocabulary: 304,
        ..LLAMA_1B
    };
    let Some(counted) = count_random(test, &small, 601, &[1]) else {
        return;
    };
    let rows: Vec<usize> = counted.prefill.iter().map(|sweep| sweep.rows).collect();
    assert_eq!(rows, [256, 256, 88]);
    let read: u64 = counted
        .prefill
        .iter()
        .map(|sweep| sweep.weight_bytes())
        .sum();
    let (layers, _) = counted.packed_bytes();
    assert_eq!(read, 3 * layers);
    counted.check("a small model");
}
