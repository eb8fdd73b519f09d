//! What the samples say: quantiles with intervals, speed against plain decoding, where time goes.
//!
//! The unit of every interval is the run: steps of a run are not independent, so runs are drawn
//! whole (a cluster bootstrap). Ratios to plain decoding, and to the read of the weights, draw
//! pairs: the two were timed one soon after the other, for the same prompt and round.

use super::{Record, Sample};
use crate::statistics::{Interval, bootstrap, quantile};
use serde::Serialize;
use std::collections::HashMap;

/// Draws of each bootstrap.
const RESAMPLES: usize = 1000;

/// A bench in figures.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// One for each workload and mode that was run.
    pub lines: Vec<Line>,
    /// Drafts kept by the kind of text.
    pub kinds: Vec<ByKind>,
    /// Gigabytes a second of the plain reads of the target's weights: the median.
    pub read_gb_per_s: Option<Interval>,
    /// Time of such a read: the median.
    pub read_ms: Option<Interval>,
}

/// One mode on one workload. Times are in milliseconds, intervals 95 %.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// What of a sweep this is; empty where nothing is swept.
    pub workload: String,
    /// The mode's place in [`Record::modes`].
    pub mode: usize,
    /// What tables call it.
    pub name: String,
    /// Timed runs.
    pub runs: usize,
    /// Tokens committed.
    pub tokens: usize,
    /// Target passes after the prompts.
    pub passes: usize,
    /// Mean draft tokens kept per target pass.
    pub m: f64,
    /// Tokens committed per target pass.
    pub block_efficiency: f64,
    /// Target passes per committed token.
    pub passes_per_token: f64,
    /// Mean nodes drafted per step.
    pub nodes: f64,
    /// From the request to the first token, over runs.
    pub first_token_ms: Quantiles,
    /// Time per output token after the first step, over tokens: those of a step share its time.
    pub token_ms: Quantiles,
    /// From one arrival of tokens to the next, over steps: what a reader waits.
    pub gap_ms: Quantiles,
    /// Time per output token, the mean over runs.
    pub mean_token_ms: Interval,
    /// Output tokens after the first step per second.
    pub tokens_per_second: Interval,
    /// Plain decoding's time per output token over this one's, the same prompts and rounds: the
    /// geometric mean of the pairs' ratios.
    pub speedup: Option<Interval>,
    /// Where the time of an output token goes.
    pub parts: Parts,
    /// Time of a plain read of the target's weights over that of a target pass: 1 is the limit of
    /// memory. The median over runs.
    pub pass_of_limit: Option<Interval>,
}

/// Quantiles with their intervals.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Quantiles {
    /// The median.
    pub p50: Interval,
    /// 95 of 100 values are at most this.
    pub p95: Interval,
    /// 99 of 100 values are at most this.
    pub p99: Interval,
}

/// Mean milliseconds per output token after the first step, phase by phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Parts {
    /// Drafting.
    pub draft: f64,
    /// Target passes.
    pub target: f64,
    /// Judge, verification and commit.
    pub verify: f64,
    /// What is in none of them.
    pub host: f64,
}

/// A mode on prompts of one kind.
#[derive(Clone, Debug, Serialize)]
pub struct ByKind {
    /// The kind.
    pub kind: String,
    /// The mode's place.
    pub mode: usize,
    /// Tokens committed per target pass.
    pub block_efficiency: f64,
    /// Plain decoding's time per output token over this one's.
    pub speedup: Option<f64>,
}

/// A value of a run, as often as its weight says.
struct Value {
    value: f64,
    weight: f64,
    run: usize,
}

/// The figures of a record, complete or not.
pub fn summarise(record: &Record) -> Summary {
    let mut lines = Vec::new();
    for workload in record.workloads() {
        for mode in 0..record.modes.len() {
            let samples = samples(record, mode, |p| p.workload == workload);
            if !samples.is_empty() {
                lines.push(line(record, workload, mode, &samples));
            }
        }
    }
    let rates: Vec<f64> = record
        .reads
        .iter()
        .map(|r| r.bytes as f64 / r.ms / 1e6)
        .collect();
    let times: Vec<f64> = record.reads.iter().map(|r| r.ms).collect();
    Summary {
        lines,
        kinds: by_kind(record),
        read_gb_per_s: (!rates.is_empty()).then(|| median(&rates)),
        read_ms: (!times.is_empty()).then(|| median(&times)),
    }
}

fn samples(record: &Record, mode: usize, of: impl Fn(&super::PromptSpec) -> bool) -> Vec<&Sample> {
    let wanted = |s: &&Sample| s.mode == mode && of(&record.prompts[s.prompt]);
    record.samples.iter().filter(wanted).collect()
}

fn line(record: &Record, workload: &str, mode: usize, samples: &[&Sample]) -> Line {
    let sum = |count: fn(&Sample) -> usize| samples.iter().map(|s| count(s)).sum::<usize>();
    let (tokens, passes) = (sum(Sample::tokens), sum(Sample::passes));
    let nodes = sum(|s| s.steps.nodes.iter().sum());
    let per_run = |value: fn(&Sample) -> Option<f64>| -> Vec<Value> {
        let runs = samples.iter().enumerate();
        runs.filter_map(|(run, s)| {
            Some(Value {
                value: value(s)?,
                weight: 1.0,
                run,
            })
        })
        .collect()
    };
    let steps = || {
        let runs = samples.iter().enumerate();
        runs.flat_map(|(run, s)| {
            s.later_steps()
                .map(move |(ms, tokens)| (run, ms, tokens as f64))
        })
    };
    let gaps = steps().map(|(run, value, _)| Value {
        value,
        weight: 1.0,
        run,
    });
    let per_token = steps().map(|(run, ms, tokens)| Value {
        value: ms / tokens,
        weight: tokens,
        run,
    });
    // (time, tokens) of each run after its first step
    let totals: Vec<(f64, f64)> = samples
        .iter()
        .map(|s| {
            s.later_steps()
                .fold((0.0, 0.0), |(ms, n), (m, t)| (ms + m, n + t as f64))
        })
        .collect();
    let throughput = bootstrap(totals.len(), RESAMPLES, 0, |drawn| {
        1e3 / ratio(&totals, drawn)
    });
    let means: Vec<(f64, f64)> = samples
        .iter()
        .filter_map(|s| Some((s.token_ms()?, 1.0)))
        .collect();
    let plain = record.modes.iter().position(|m| m.is_plain());
    Line {
        workload: workload.to_owned(),
        mode,
        name: record.modes[mode].name.clone(),
        runs: samples.len(),
        tokens,
        passes,
        m: sum(|s| s.aligned + s.judged) as f64 / passes as f64,
        block_efficiency: tokens as f64 / passes as f64,
        passes_per_token: passes as f64 / tokens as f64,
        nodes: nodes as f64 / passes as f64,
        first_token_ms: quantiles(per_run(Sample::first_token_ms), samples.len()),
        token_ms: quantiles(per_token.collect(), samples.len()),
        gap_ms: quantiles(gaps.collect(), samples.len()),
        mean_token_ms: bootstrap(means.len(), RESAMPLES, 0, |drawn| ratio(&means, drawn)),
        tokens_per_second: throughput,
        speedup: plain
            .filter(|&p| p != mode)
            .map(|plain| pairs(record, plain, samples))
            .filter(|pairs| !pairs.is_empty())
            .map(|pairs| {
                bootstrap(pairs.len(), RESAMPLES, 0, |drawn| {
                    geometric_mean(&pairs, drawn)
                })
            }),
        parts: parts(samples),
        pass_of_limit: pass_of_limit(record, samples),
    }
}

/// Plain's time per token over this mode's, of each run that has a plain one beside it.
fn pairs(record: &Record, plain: usize, samples: &[&Sample]) -> Vec<f64> {
    let plain: HashMap<(usize, usize), f64> = record
        .samples
        .iter()
        .filter(|s| s.mode == plain)
        .filter_map(|s| Some(((s.prompt, s.round), s.token_ms()?)))
        .collect();
    let pair = |s: &&Sample| Some(plain.get(&(s.prompt, s.round))? / s.token_ms()?);
    samples.iter().filter_map(pair).collect()
}

fn parts(samples: &[&Sample]) -> Parts {
    let mut sum = Parts::default();
    let mut tokens = 0;
    for sample in samples {
        let s = &sample.steps;
        for step in 1..s.ms.len() {
            sum.draft += s.draft_ms[step];
            sum.target += s.target_ms[step];
            sum.verify += s.verify_ms[step];
            sum.host += s.ms[step] - s.draft_ms[step] - s.target_ms[step] - s.verify_ms[step];
            tokens += s.tokens[step];
        }
    }
    let each = 1.0 / tokens as f64;
    Parts {
        draft: sum.draft * each,
        target: sum.target * each,
        verify: sum.verify * each,
        host: sum.host * each,
    }
}

fn pass_of_limit(record: &Record, samples: &[&Sample]) -> Option<Interval> {
    let reads: HashMap<(usize, usize), f64> = record
        .reads
        .iter()
        .map(|r| ((r.prompt, r.round), r.ms))
        .collect();
    let shares: Vec<f64> = samples
        .iter()
        .filter_map(|s| {
            let passes = &s.steps.target_ms[1.min(s.steps.target_ms.len())..];
            let mean = passes.iter().sum::<f64>() / passes.len() as f64;
            let share = reads.get(&(s.prompt, s.round))? / mean;
            share.is_finite().then_some(share)
        })
        .collect();
    (!shares.is_empty()).then(|| median(&shares))
}

fn by_kind(record: &Record) -> Vec<ByKind> {
    let mut kinds: Vec<&str> = Vec::new();
    for prompt in &record.prompts {
        if !kinds.contains(&&*prompt.kind) {
            kinds.push(&prompt.kind);
        }
    }
    let plain = record.modes.iter().position(|m| m.is_plain());
    let mut found = Vec::new();
    for kind in kinds {
        for mode in 0..record.modes.len() {
            let samples = samples(record, mode, |p| p.kind == kind);
            let passes: usize = samples.iter().map(|s| s.passes()).sum();
            if passes == 0 {
                continue;
            }
            let tokens: usize = samples.iter().map(|s| s.tokens()).sum();
            let pairs = plain.map(|plain| pairs(record, plain, &samples));
            let all: Vec<usize> = (0..pairs.as_ref().map_or(0, Vec::len)).collect();
            found.push(ByKind {
                kind: kind.to_owned(),
                mode,
                block_efficiency: tokens as f64 / passes as f64,
                speedup: pairs
                    .filter(|p| !p.is_empty())
                    .map(|p| geometric_mean(&p, &all)),
            });
        }
    }
    found
}

/// The ratio of sums over what was drawn.
fn ratio(parts: &[(f64, f64)], drawn: &[usize]) -> f64 {
    let (above, below) = drawn
        .iter()
        .fold((0.0, 0.0), |(a, b), &i| (a + parts[i].0, b + parts[i].1));
    above / below
}

fn geometric_mean(values: &[f64], drawn: &[usize]) -> f64 {
    let logs: f64 = drawn.iter().map(|&i| values[i].ln()).sum();
    (logs / drawn.len() as f64).exp()
}

fn median(values: &[f64]) -> Interval {
    bootstrap(values.len(), RESAMPLES, 0, |drawn| {
        let mut drawn: Vec<f64> = drawn.iter().map(|&i| values[i]).collect();
        drawn.sort_by(f64::total_cmp);
        quantile(&drawn, 0.5)
    })
}

fn quantiles(mut values: Vec<Value>, runs: usize) -> Quantiles {
    values.sort_by(|a, b| a.value.total_cmp(&b.value));
    let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|share| {
        bootstrap(runs, RESAMPLES, 0, |drawn| {
            let mut times = vec![0.0; runs];
            drawn.iter().for_each(|&run| times[run] += 1.0);
            weighted_quantile(&values, &times, share)
        })
    });
    Quantiles { p50, p95, p99 }
}

/// The smallest of ascending values that `share` of all weight lies at or below, each run taken so
/// many times; NaN without values.
fn weighted_quantile(ascending: &[Value], times: &[f64], share: f64) -> f64 {
    let weight = |v: &Value| v.weight * times[v.run];
    let wanted = share * ascending.iter().map(weight).sum::<f64>();
    let mut below = 0.0;
    for value in ascending {
        let weight = weight(value);
        below += weight;
        // sums of whole numbers: exact
        if weight > 0.0 && below >= wanted {
            return value.value;
        }
    }
    f64::NAN
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(list: &[(f64, f64, usize)]) -> Vec<Value> {
        let value = |&(value, weight, run)| Value { value, weight, run };
        list.iter().map(value).collect()
    }

    #[test]
    fn quantiles_count_values_by_weight_and_runs_by_draws() {
        let list = values(&[(1.0, 1.0, 0), (2.0, 3.0, 1), (5.0, 1.0, 0)]);
        for (share, times, expected) in [
            (0.5, [1.0, 1.0], 2.0),
            (0.2, [1.0, 1.0], 1.0),
            (0.81, [1.0, 1.0], 5.0),
            (0.99, [0.0, 1.0], 2.0),
            (0.5, [1.0, 0.0], 1.0),
            (0.51, [1.0, 0.0], 5.0),
        ] {
            assert_eq!(
                weighted_quantile(&list, &times, share),
                expected,
                "{share} {times:?}"
            );
        }
        assert!(weighted_quantile(&[], &[], 0.5).is_nan());
    }

    #[test]
    fn an_interval_of_runs_that_differ_is_wide_however_many_steps_they_have() {
        // four runs, each of a hundred equal steps
        let runs = [1.0, 2.0, 3.0, 4.0];
        let list: Vec<Value> = (0..400)
            .map(|i| Value {
                value: runs[i / 100],
                weight: 1.0,
                run: i / 100,
            })
            .collect();
        let found = quantiles(list, 4).p50;
        assert_eq!(found.value, 2.0);
        assert!(found.low <= 1.0 && found.high >= 3.0, "{found:?}");
    }
}
