//! What a pass moves beside what it must, as a table: counted on the software device that plays an
//! H100, not timed. It takes some minutes; `cargo bench --bench economy -- --test` takes one case.

#[path = "../tests/cuda/counting.rs"]
#[allow(dead_code)]
mod counting;
#[path = "../tests/cuda/process.rs"]
#[allow(dead_code)]
mod process;
#[path = "../tests/cuda/widths.rs"]
#[allow(dead_code)]
mod widths;

use counting::{Counted, Passes, count, count_random, smollm2};
use process::is_child;
use widths::{LLAMA_1B, LLAMA_8B, QWEN_7B, Widths};

const ROWS: [usize; 6] = [1, 4, 8, 16, 32, 64];

fn of_smollm2(context: usize, rows: &[usize]) -> Option<Counted> {
    let model = smollm2();
    let passes = Passes {
        model: &model,
        context,
        rows,
    };
    count("SmolLM2-135M", &passes)
}

fn main() {
    if gavel::device::cuda::images().next().is_none() {
        println!("built without CUDA: nothing to count");
        return;
    }
    let short = std::env::args().any(|a| a == "--test");
    // the process that counts is told by its environment
    let (context, rows) = match short {
        true => (64, &ROWS[..3]),
        false => (512, &ROWS[..]),
    };
    let wide: &[Widths] = &[LLAMA_1B, LLAMA_8B, QWEN_7B];
    let names = wide.iter().map(|w| w.name).chain(["SmolLM2-135M"]);
    // a process that counts has one model to run
    let mine = names.clone().find(|name| is_child(name));
    println!("| model | rows | memory / least | L2 / least | launches | instructions a tile |");
    println!("|---|---|---|---|---|---|");
    for name in names.take(if short { 1 } else { usize::MAX }) {
        if mine.is_some_and(|mine| mine != name) {
            continue;
        }
        let counted = match wide.iter().find(|w| w.name == name) {
            Some(widths) => count_random(name, widths, context, rows),
            None => of_smollm2(context, rows),
        };
        if let Some(counted) = counted {
            counted.check(name);
            print!("{}", counted.table(name));
        }
    }
}
