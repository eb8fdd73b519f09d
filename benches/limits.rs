//! The CPU pass against what the machine can do: every figure is a ratio of two times
//! taken one right after the other in this one process, and the median of these ratios over
//! all rounds. On a shared machine both times of a round suffer alike.
//!
//! `cargo bench --bench limits` prints, for SmolLM2 in bf16:
//! one-row pass over a plain read of the same bytes by the same threads; 8 and 32 rows
//! over one row; prefill of 512 tokens, and of 32 rows, over the measured f32 FMA peak;
//! peak memory of `gavel generate` over weights, KV cache and tokenizer.

use gavel::device::cpu::Cpu;
use gavel::device::{Device, Logits, Setup, Want};
use gavel::draft::Drafter;
use gavel::model::{Model, Tokenizer};
use gavel::tree::TokenTree;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn main() {
    let short = std::env::args().any(|a| a == "--test");
    let rounds = if short { 1 } else { 15 };
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/smollm2-135m");
    assert!(
        dir.is_dir(),
        "{} is missing: run `make smollm2`",
        dir.display()
    );
    let model = Arc::new(Model::open(&dir).expect("a readable model"));
    let setup = Setup {
        target: model.clone(),
        drafter: Drafter::None,
        context: 1024,
        threads: 0,
    };
    let mut device = Cpu::open(&setup).expect("a CPU device");
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    println!("{}; {}", device.describe(), dir.display());

    let mut read = Samples::default();
    let mut rows = [1, 8, 32, 512].map(|n| (n, Samples::default(), Samples::default()));
    for _ in 0..rounds {
        let reading = device.read_weights().expect("a read");
        read.0.push(reading.expect("the CPU device reads").time);
        for (n, samples, peaks) in &mut rows {
            samples.time(|| pass(&mut device, *n));
            peaks.time(|| fma_rounds_on(threads));
        }
    }
    let bytes = model.weights.bytes();
    println!(
        "read of {:.0} MB by {threads} threads   {:8.2} ms  ({:.1} GB/s)",
        bytes as f64 / 1e6,
        1e3 * read.median(),
        bytes as f64 / read.median() / 1e9
    );
    let best = rows
        .iter()
        .map(|(_, _, p)| p.best())
        .fold(f64::MAX, f64::min);
    println!(
        "f32 FMA peak                  {:8.1} GFLOP/s, {:.1} in the best round",
        fma_flops(threads) / rows[0].2.median() / 1e9,
        fma_flops(threads) / best / 1e9
    );
    let [one, eight, many, prompt] = &rows;
    let share = |(n, samples, peaks): &(usize, Samples, Samples)| {
        100.0 * flops(&model, *n) / fma_flops(threads) * peaks.over(samples)
    };
    for row in &rows {
        println!(
            "pass of {:3} rows              {:8.2} ms  {:6.2} x one row, {:5.1} % of the FMA peak",
            row.0,
            1e3 * row.1.median(),
            row.1.over(&one.1),
            share(row)
        );
    }
    println!("\nratio                                      found    limit");
    println!(
        "one row / plain read                      {:6.2}     1.35",
        one.1.over(&read)
    );
    println!(
        "8 rows / one row                          {:6.2}     2.00",
        eight.1.over(&one.1)
    );
    println!(
        "32 rows / one row                         {:6.2}     5.00  (or {:.0} % of peak, 70 asked)",
        many.1.over(&one.1),
        share(many)
    );
    println!(
        "512 rows, % of the FMA peak               {:6.1}     60.0",
        share(prompt)
    );
    memory(&dir, &model);
}

#[derive(Default)]
struct Samples(Vec<Duration>);

impl Samples {
    fn time(&mut self, work: impl FnOnce()) {
        let began = Instant::now();
        work();
        self.0.push(began.elapsed());
    }

    fn best(&self) -> f64 {
        self.0.iter().min().map_or(f64::NAN, Duration::as_secs_f64)
    }

    fn median(&self) -> f64 {
        median(self.0.iter().map(Duration::as_secs_f64).collect())
    }

    /// The median ratio of the times of a round.
    fn over(&self, other: &Samples) -> f64 {
        let pairs = self.0.iter().zip(&other.0);
        median(
            pairs
                .map(|(a, b)| a.as_secs_f64() / b.as_secs_f64())
                .collect(),
        )
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// One pass of a chain behind 16 committed positions (none for a prompt), with the logits
/// that decoding needs: all rows of a step, the last row of a prompt.
fn pass(device: &mut Cpu, rows: usize) {
    let prompt = rows == 512;
    let tokens: Vec<u32> = (0..rows as u32).map(|i| 300 + 7 * i).collect();
    device.rollback(0);
    let want = Want {
        logits: if prompt { Logits::Last } else { Logits::All },
        ..Want::default()
    };
    black_box(
        device
            .pass(&TokenTree::chain(&tokens), &want)
            .expect("a pass"),
    );
}

/// Multiply-adds of the matrices and of attention, two operations each.
fn flops(model: &Model, rows: usize) -> f64 {
    let c = &model.config;
    let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    let layer = c.hidden_size * (2 * q + 2 * kv + 3 * c.intermediate_size);
    let head = c.hidden_size * c.vocab_size * if rows == 512 { 1 } else { rows };
    let attention = rows * (rows + 1) / 2 * 2 * q;
    2.0 * (c.layers * (rows * layer + attention) + head) as f64
}

/// Rounds of one measurement of the FMA peak, about 10 ms.
const FMA_ROUNDS: usize = 4_000_000;

/// Independent fused multiply-adds in registers, on all threads at once.
fn fma_rounds_on(threads: usize) {
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| black_box(fma_rounds(FMA_ROUNDS)));
        }
    });
}

/// Floating-point operations of [`fma_rounds_on`].
fn fma_flops(threads: usize) -> f64 {
    (threads * FMA_ROUNDS * 12 * 8 * 2) as f64
}

#[cfg(target_arch = "x86_64")]
fn fma_rounds(rounds: usize) -> f32 {
    use std::arch::x86_64::*;
    #[target_feature(enable = "avx2,fma")]
    fn with_fma(rounds: usize) -> f32 {
        let mut sums = [_mm256_set1_ps(1.0); 12];
        let (a, b) = (
            black_box(_mm256_set1_ps(0.999)),
            black_box(_mm256_set1_ps(0.001)),
        );
        for _ in 0..rounds {
            for s in &mut sums {
                *s = _mm256_fmadd_ps(*s, a, b);
            }
        }
        sums.iter().map(|&s| _mm256_cvtss_f32(s)).sum()
    }
    assert!(
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
        "the FMA peak is measured with AVX2 and FMA, which this processor lacks"
    );
    // SAFETY: both features were just detected.
    unsafe { with_fma(rounds) }
}

#[cfg(not(target_arch = "x86_64"))]
fn fma_rounds(_: usize) -> f32 {
    panic!("the FMA peak is measured with AVX2 and FMA")
}

/// Peak memory of a generation that fills a context of 1,024, in a process of its own.
fn memory(dir: &Path, model: &Model) {
    let before = resident();
    let tokenizer = Tokenizer::open(dir).expect("a tokenizer");
    let of_tokenizer = resident().zip(before).map(|(after, before)| after - before);
    drop(tokenizer);
    let prompt = "the quick brown fox jumps over the lazy dog and ".repeat(60);
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_gavel"))
        .args([
            "generate",
            "--context",
            "1024",
            "--max-tokens",
            "1024",
            "--ignore-eos",
            "--json",
        ])
        .args(["--prompt", &prompt])
        .arg("--model")
        .arg(dir)
        .output()
        .expect("gavel generate");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let c = &model.config;
    let kv = 2 * 4 * c.layers * c.kv_heads * c.head_dim * 1024;
    match (report["peak_memory_bytes"].as_u64(), of_tokenizer) {
        (Some(peak), Some(of_tokenizer)) => {
            let need = model.weights.bytes() + kv + of_tokenizer;
            println!(
                "peak memory / (weights + KV + tokenizer)  {:6.2}     1.15  ({:.0} MB of {:.0} + {:.0} + {:.0})",
                peak as f64 / need as f64,
                peak as f64 / 1e6,
                model.weights.bytes() as f64 / 1e6,
                kv as f64 / 1e6,
                of_tokenizer as f64 / 1e6
            );
        }
        _ => println!("peak memory: this system does not report it"),
    }
}

/// Bytes of this process in memory.
fn resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<usize>().ok()? * 1024)
}
