//! Training at the size that SelfJudge (2510.02329) trained at: 69,000 samples of 4,096
//! features, in float32.
//!
//! `cargo bench --bench train` prints, for a linear and a two-layer head, how long the whole
//! grid of C takes and the most memory the process ever held; `-- linear` and `-- two-layer`
//! do the one or the other, `--test` does a small part.
//! The features have what makes hidden states hard to fit: most of their variance in few
//! directions, and scales and means that differ by orders of magnitude.

use gavel::judge::Features;
use gavel::judge::samples::{Method, Prompt, Run, Sample, Shard, Token};
use gavel::judge::train::{HeadKind, Options, train};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::time::Instant;

/// Directions that carry most of the variance.
const STRONG: usize = 64;

fn main() {
    let short = std::env::args().any(|a| a == "--test");
    let named: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    let (samples, features) = if short { (3_000, 256) } else { (69_000, 4_096) };
    let began = Instant::now();
    let run = Run {
        version: Run::VERSION,
        method: Method::AutoJudge,
        features: Features::final_hidden(features),
        vocab_size: 1,
        target_fingerprint: "made for the bench".into(),
        draft_fingerprint: None,
        ranks: 1,
        suffixes: Vec::new(),
        settings: BTreeMap::new(),
    };
    let shard = make(samples, features);
    let gib = |bytes: f64| bytes / (1u64 << 30) as f64;
    println!(
        "{samples} samples of {features} features, {:.2} GiB, made in {:.0} s, by {} threads",
        gib(4.0 * shard.features.len() as f64),
        began.elapsed().as_secs_f64(),
        rayon::current_num_threads()
    );
    for head in [HeadKind::Linear, HeadKind::TwoLayer(64)] {
        let name = head.to_string();
        if !named.is_empty() && !named.iter().any(|n| name.starts_with(n.as_str())) {
            continue;
        }
        let options = Options {
            head,
            ..Options::default()
        };
        let began = Instant::now();
        let mut last = began;
        let trained = train(&run, &shard, &options, &mut |point| {
            println!(
                "  C {:8e}  AUROC {:.4}  {:5} iterations  {:6.1} s{}",
                point.c,
                point.auroc,
                point.iterations,
                last.elapsed().as_secs_f64(),
                if point.converged {
                    ""
                } else {
                    "  not converged"
                }
            );
            last = Instant::now();
        })
        .expect("samples to train on");
        println!(
            "{head:<14} {:6.1} s in all, AUROC on test {:.4}, most memory so far {:.2} GiB",
            began.elapsed().as_secs_f64(),
            trained.report.test.map_or(f64::NAN, |t| t.auroc.value),
            peak_memory().map_or(f64::NAN, gib)
        );
    }
}

/// Hidden states of a kind, and labels that a noisy line divides, three in ten unacceptable.
fn make(samples: usize, features: usize) -> Shard {
    let mut shard = Shard::default();
    let mut random = fastrand::Rng::with_seed(1);
    let mut normal = move || (0..6).map(|_| random.f32()).sum::<f32>() * 1.414 - 4.242;
    let mixing: Vec<f32> = (0..features * 4).map(|_| normal()).collect();
    let truth: Vec<f32> = (0..features)
        .map(|_| normal() / (features as f32).sqrt())
        .collect();
    shard.features = vec![0.0; samples * features];
    let rows = shard.features.par_chunks_mut(features).enumerate();
    let logits: Vec<f32> = rows
        .map(|(i, row)| {
            let mut random = fastrand::Rng::with_seed(2 + i as u64);
            let mut normal = || (0..6).map(|_| random.f32()).sum::<f32>() * 1.414 - 4.242;
            let strong: Vec<f32> = (0..STRONG).map(|_| normal()).collect();
            let mut logit = -1.2 + normal();
            for (j, x) in row.iter_mut().enumerate() {
                let mixed: f32 = (0..4)
                    .map(|k| mixing[4 * j + k] * strong[(j * (k + 1) + k) % STRONG])
                    .sum();
                let latent = mixed + 0.5 * normal();
                logit += truth[j] * latent;
                let scale = 10f32.powi(j as i32 % 4 - 2);
                *x = scale * (latent + (j % 7) as f32);
            }
            logit
        })
        .collect();
    for (i, logit) in logits.into_iter().enumerate() {
        // some 20 mismatches an answer
        let prompt = Prompt::new(i / 20, &(i / 20).to_string());
        if i % 20 == 0 {
            shard.prompts.push(prompt.clone());
        }
        let token = Token {
            id: 0,
            text: String::new(),
        };
        shard.samples.push(Sample {
            prompt,
            position: i % 20,
            rank: 1,
            draft: token.clone(),
            target: token,
            prefix: None,
            suffix: Vec::new(),
            after: None,
            acceptable: Some(logit < 0.0),
            changes_answer: None,
        });
    }
    shard
}

/// The most memory that this process ever held; only Linux says.
fn peak_memory() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? * 1024.0)
}
