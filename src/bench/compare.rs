//! What changed between two benches, beyond noise.
//!
//! The test: each round of a bench gives one number a mode, the mean over prompts of the logarithm
//! of a time. Welch's t-test compares the rounds of the one file with those of the other (two
//! samples, variances of their own, Welch 1947), so what varies from round to round within a bench
//! is the noise that a change must exceed. Holm's step-down correction (Holm 1979) over all tests
//! keeps the chance that anything unchanged is called changed at 5 %.
//!
//! Two benches are two processes, and perhaps two hours. What all of a machine did differently the
//! rounds of neither file can tell from a change of gavel; the plain reads of the weights can, in
//! part: a change that is gone once each round's time is divided by its reads' is called the
//! machine's.

use super::{Record, Sample};
use crate::statistics::Interval;
use serde::Serialize;
use statrs::distribution::{ContinuousCDF, StudentsT};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write;

/// The chance that any of the tests calls changed what is not.
const ALPHA: f64 = 0.05;

/// Differences of logarithms that are nothing but rounding.
const ROUNDING: f64 = 1e-12;

/// Two records side by side.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// What the rounds say, workload by workload and mode by mode.
    pub changes: Vec<Change>,
    /// What else differs, a sentence each.
    pub notes: Vec<String>,
}

/// One time of one mode in both records.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    /// What of a sweep it is.
    pub workload: String,
    /// The mode, or `read of the weights`.
    pub name: String,
    /// `ms/token` or `first token, ms`.
    pub what: &'static str,
    /// Geometric mean in the first record, in milliseconds.
    pub a: f64,
    /// The same in the second.
    pub b: f64,
    /// Second over first, with the 95 % interval of the test; no interval with fewer than two
    /// rounds in one of them.
    pub ratio: Interval,
    /// The same once reads of the weights are divided out.
    pub ratio_to_reads: Option<f64>,
    /// Probability of such a difference where there is none; before correction.
    pub p: Option<f64>,
    /// What to make of it.
    pub verdict: Verdict,
    /// Tokens per target pass in both, which has no noise; absent for reads.
    pub block_efficiency: Option<(f64, f64)>,
    /// Prompts of which the outputs differ; absent for reads.
    pub outputs_differ: Option<usize>,
}

/// Whether a time changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Less time, beyond noise.
    Faster,
    /// More time, beyond noise.
    Slower,
    /// A change beyond noise that the reads of the weights show too.
    Machine,
    /// No change beyond noise.
    Noise,
    /// Fewer than two whole rounds in one of the records.
    TooFew,
}

/// Why two records cannot be compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompareError {
    /// Not one prompt of the one is in the other.
    #[error("found no prompt that both files have (of {a} and {b}); expected the same prompts")]
    Prompts {
        /// Prompts of the first.
        a: usize,
        /// Prompts of the second.
        b: usize,
    },
    /// Not one mode of the one is in the other.
    #[error("found no mode that both files have: {a} and {b}")]
    Modes {
        /// Names in the first.
        a: String,
        /// Names in the second.
        b: String,
    },
}

/// Compares what both records have: prompts by their tokens, modes by what they do.
pub fn compare(a: &Record, b: &Record) -> Result<Comparison, CompareError> {
    let shared = shared_prompts(a, b);
    if shared.is_empty() {
        return Err(CompareError::Prompts {
            a: a.prompts.len(),
            b: b.prompts.len(),
        });
    }
    let place_in_b: HashMap<&str, usize> = b
        .modes
        .iter()
        .enumerate()
        .map(|(place, m)| (&*m.key, place))
        .collect();
    let modes: Vec<(usize, usize)> = a
        .modes
        .iter()
        .enumerate()
        .filter_map(|(place, m)| Some((place, *place_in_b.get(&*m.key)?)))
        .collect();
    if modes.is_empty() {
        let names = |r: &Record| {
            let names: Vec<&str> = r.modes.iter().map(|m| &*m.name).collect();
            names.join(", ")
        };
        return Err(CompareError::Modes {
            a: names(a),
            b: names(b),
        });
    }
    let mut changes = Vec::new();
    for workload in a.workloads() {
        let prompts: Vec<(usize, usize)> = shared
            .iter()
            .copied()
            .filter(|&(p, _)| a.prompts[p].workload == workload)
            .collect();
        if prompts.is_empty() {
            continue;
        }
        let of_a: Vec<usize> = prompts.iter().map(|p| p.0).collect();
        let of_b: Vec<usize> = prompts.iter().map(|p| p.1).collect();
        let reads = (read_rounds(a, &of_a), read_rounds(b, &of_b));
        if let Some(change) = change(&reads.0, &reads.1, None) {
            changes.push(Change {
                workload: workload.to_owned(),
                name: "read of the weights".to_owned(),
                ..change
            });
        }
        for &(in_a, in_b) in &modes {
            let figures: [(&'static str, Figure); 2] = [
                ("ms/token", Sample::token_ms),
                ("first token, ms", Sample::first_token_ms),
            ];
            for (what, time) in figures {
                let rounds = (rounds(a, in_a, &of_a, time), rounds(b, in_b, &of_b, time));
                let Some(change) = change(&rounds.0, &rounds.1, Some(&reads)) else {
                    continue;
                };
                let block_efficiency = (efficiency(a, in_a, &of_a), efficiency(b, in_b, &of_b));
                changes.push(Change {
                    workload: workload.to_owned(),
                    name: a.modes[in_a].name.clone(),
                    what,
                    block_efficiency: Some(block_efficiency),
                    outputs_differ: Some(outputs_differ((a, in_a), (b, in_b), &prompts)),
                    ..change
                });
            }
        }
    }
    decide(&mut changes);
    Ok(Comparison {
        changes,
        notes: notes(a, b, shared.len(), modes.len()),
    })
}

/// A time of a sample.
type Figure = fn(&Sample) -> Option<f64>;

/// Places in both of the prompts that are the same.
fn shared_prompts(a: &Record, b: &Record) -> Vec<(usize, usize)> {
    let mut places: HashMap<(&str, &str), usize> = HashMap::new();
    for (place, p) in b.prompts.iter().enumerate() {
        places.insert((&p.workload, &p.digest), place);
    }
    let prompts = a.prompts.iter().enumerate();
    let found = prompts.filter_map(|(place, p)| {
        let other = places.get(&(&*p.workload, &*p.digest))?;
        Some((place, *other))
    });
    found.collect()
}

/// round -> mean over prompts of ln(time), of the rounds that have all prompts.
type Rounds = BTreeMap<usize, f64>;

fn rounds(
    record: &Record,
    mode: usize,
    prompts: &[usize],
    time: fn(&Sample) -> Option<f64>,
) -> Rounds {
    let samples = record.samples.iter().filter(|s| s.mode == mode);
    means(samples.map(|s| (s.round, s.prompt, time(s))), prompts)
}

fn read_rounds(record: &Record, prompts: &[usize]) -> Rounds {
    let reads = record.reads.iter();
    means(reads.map(|r| (r.round, r.prompt, Some(r.ms))), prompts)
}

fn means(times: impl Iterator<Item = (usize, usize, Option<f64>)>, prompts: &[usize]) -> Rounds {
    let wanted: HashSet<usize> = prompts.iter().copied().collect();
    let mut sums: BTreeMap<usize, (usize, usize, f64)> = BTreeMap::new();
    for (round, _, time) in times.filter(|(_, prompt, _)| wanted.contains(prompt)) {
        let (runs, timed, sum) = sums.entry(round).or_default();
        *runs += 1;
        // an answer of one step has no time per token, in no round of either file
        if let Some(ms) = time.filter(|ms| *ms > 0.0) {
            *timed += 1;
            *sum += ms.ln();
        }
    }
    let whole = sums
        .into_iter()
        .filter(|(_, (runs, timed, _))| *runs == prompts.len() && *timed > 0);
    whole
        .map(|(round, (_, timed, sum))| (round, sum / timed as f64))
        .collect()
}

/// The figures of a change, its verdict for later; nothing where a record has no whole round.
fn change(a: &Rounds, b: &Rounds, reads: Option<&(Rounds, Rounds)>) -> Option<Change> {
    let (in_a, in_b): (Vec<f64>, Vec<f64>) =
        (a.values().copied().collect(), b.values().copied().collect());
    if in_a.is_empty() || in_b.is_empty() {
        return None;
    }
    let welch = Welch::new(&in_a, &in_b);
    let without_reads = reads.and_then(|(of_a, of_b)| {
        let less = |rounds: &Rounds, reads: &Rounds| -> Option<Vec<f64>> {
            rounds
                .iter()
                .map(|(round, t)| Some(t - reads.get(round)?))
                .collect()
        };
        Some(Welch::new(&less(a, of_a)?, &less(b, of_b)?))
    });
    let verdict = match welch.p {
        None => Verdict::TooFew,
        // a change that is no change beside the reads is theirs; `decide` has the last word
        Some(_) => match without_reads.as_ref().and_then(|w| w.p) {
            Some(p) if p > ALPHA => Verdict::Machine,
            _ if welch.difference > 0.0 => Verdict::Slower,
            _ => Verdict::Faster,
        },
    };
    Some(Change {
        workload: String::new(),
        name: String::new(),
        what: "ms",
        a: mean(&in_a).exp(),
        b: mean(&in_b).exp(),
        ratio: welch.ratio(),
        ratio_to_reads: without_reads.map(|w| w.difference.exp()),
        p: welch.p,
        verdict,
        block_efficiency: None,
        outputs_differ: None,
    })
}

/// Holm's correction: from the smallest p on, each must stay below alpha over the tests left.
fn decide(changes: &mut [Change]) {
    let mut order: Vec<usize> = (0..changes.len())
        .filter(|&i| changes[i].p.is_some())
        .collect();
    let p = |i: usize| changes[i].p.unwrap_or(1.0);
    order.sort_by(|&x, &y| p(x).total_cmp(&p(y)));
    let tests = order.len();
    let kept = order
        .iter()
        .enumerate()
        .take_while(|&(rank, &i)| p(i) <= ALPHA / (tests - rank) as f64)
        .count();
    for &i in &order[kept..] {
        changes[i].verdict = Verdict::Noise;
    }
}

/// Welch's t-test of two samples of logarithms.
struct Welch {
    /// Mean of the second less that of the first.
    difference: f64,
    /// Half the width of its 95 % interval.
    half: f64,
    p: Option<f64>,
}

impl Welch {
    fn new(a: &[f64], b: &[f64]) -> Welch {
        let difference = mean(b) - mean(a);
        let test = || {
            let (of_a, of_b) = (variance(a)? / a.len() as f64, variance(b)? / b.len() as f64);
            let error = (of_a + of_b).sqrt();
            let freedom = (of_a + of_b).powi(2)
                / (of_a.powi(2) / (a.len() - 1) as f64 + of_b.powi(2) / (b.len() - 1) as f64);
            if error < ROUNDING {
                // no noise at all: any difference is one
                return Some((f64::from(difference.abs() < ROUNDING), 0.0));
            }
            let t = StudentsT::new(0.0, 1.0, freedom).ok()?;
            let p = 2.0 * t.cdf(-(difference / error).abs());
            Some((p, error * t.inverse_cdf(0.975)))
        };
        match test() {
            Some((p, half)) => Welch {
                difference,
                half,
                p: Some(p),
            },
            None => Welch {
                difference,
                half: f64::NAN,
                p: None,
            },
        }
    }

    fn ratio(&self) -> Interval {
        Interval {
            value: self.difference.exp(),
            low: (self.difference - self.half).exp(),
            high: (self.difference + self.half).exp(),
        }
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The sample variance; absent with fewer than two values.
fn variance(values: &[f64]) -> Option<f64> {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (values.len() > 1).then(|| squares / (values.len() - 1) as f64)
}

fn efficiency(record: &Record, mode: usize, prompts: &[usize]) -> f64 {
    let samples = record.samples.iter();
    let (tokens, passes) = samples
        .filter(|s| s.mode == mode && prompts.contains(&s.prompt))
        .fold((0, 0), |(t, p), s| (t + s.tokens(), p + s.passes()));
    tokens as f64 / passes as f64
}

fn outputs_differ(a: (&Record, usize), b: (&Record, usize), prompts: &[(usize, usize)]) -> usize {
    let output = |(record, mode): (&Record, usize), prompt: usize| {
        let found = record
            .samples
            .iter()
            .find(|s| s.mode == mode && s.prompt == prompt);
        found.map(|s| s.output.clone())
    };
    let differ = |&&(in_a, in_b): &&(usize, usize)| output(a, in_a) != output(b, in_b);
    prompts.iter().filter(differ).count()
}

/// What stands beside the figures when one reads them.
fn notes(a: &Record, b: &Record, prompts: usize, modes: usize) -> Vec<String> {
    let mut notes = Vec::new();
    let mut differs = |what: &str, in_a: String, in_b: String| {
        if in_a != in_b {
            notes.push(format!("{what}: {in_a} and {in_b}"));
        }
    };
    let processor = |r: &Record| {
        let machine = &r.machine;
        format!(
            "{}, {} cores",
            machine.processor.as_deref().unwrap_or(&machine.system),
            machine.cores
        )
    };
    differs("machine", processor(a), processor(b));
    differs("device", a.device.clone(), b.device.clone());
    differs("gavel", a.gavel.clone(), b.gavel.clone());
    differs(
        "debug assertions",
        a.debug_assertions.to_string(),
        b.debug_assertions.to_string(),
    );
    differs(
        "target",
        a.target.fingerprint.clone(),
        b.target.fingerprint.clone(),
    );
    differs(
        "most tokens of a run",
        a.settings.max_tokens.to_string(),
        b.settings.max_tokens.to_string(),
    );
    for (record, which) in [(a, "first"), (b, "second")] {
        if record.was_interrupted() {
            notes.push(format!(
                "the {which} was interrupted; its whole rounds count"
            ));
        }
        let (p, m) = (record.prompts.len() - prompts, record.modes.len() - modes);
        if p + m > 0 {
            notes.push(format!(
                "{p} prompts and {m} modes are in the {which} alone"
            ));
        }
    }
    notes
}

impl Comparison {
    /// The table, and how to read it.
    pub fn text(&self) -> String {
        let swept = self.changes.iter().any(|c| !c.workload.is_empty());
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::ASCII_MARKDOWN);
        let workload = swept.then_some("workload");
        let head = [
            "decoding",
            "time",
            "A, ms",
            "B, ms",
            "B / A",
            "reads taken out",
            "p",
            "changed",
            "tokens/pass",
            "outputs",
        ];
        table.set_header(workload.iter().chain(&head));
        for c in &self.changes {
            let mut cells: Vec<String> = Vec::new();
            cells.extend(swept.then(|| c.workload.clone()));
            let r = c.ratio;
            cells.extend([
                c.name.clone(),
                c.what.to_owned(),
                format!("{:.3}", c.a),
                format!("{:.3}", c.b),
                match r.low.is_nan() {
                    true => format!("{:.3}", r.value),
                    false => super::table::around(r, 3),
                },
                c.ratio_to_reads
                    .map_or(String::new(), |r| format!("{r:.3}")),
                c.p.map_or(String::new(), |p| format!("{p:.1e}")),
                c.verdict.to_string(),
                c.block_efficiency
                    .map_or(String::new(), |(a, b)| match a == b {
                        true => format!("{a:.3}"),
                        false => format!("{a:.3} -> {b:.3}"),
                    }),
                c.outputs_differ.map_or(String::new(), |n| match n {
                    0 => "same".to_owned(),
                    n => format!("{n} differ"),
                }),
            ]);
            table.add_row(cells);
        }
        let mut text = format!("{table}\n\n");
        for note in &self.notes {
            let _ = writeln!(text, "{note}");
        }
        text + "Test: Welch's t on the rounds' mean log times, Holm's correction over all rows, 5 % in all; intervals are 95 %, uncorrected.\n\
                the machine: changed, but not beside the plain reads of the weights (p above 5 %).\n"
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Verdict::Faster => "faster",
            Verdict::Slower => "SLOWER",
            Verdict::Machine => "the machine",
            Verdict::Noise => "no",
            Verdict::TooFew => "too few rounds",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn welchs_test_is_scipys() {
        // scipy 1.17: ttest_ind(b, a, equal_var=False), its p and confidence_interval(0.95)
        let a = [0.10, 0.12, 0.09, 0.11, 0.13];
        let b = [0.20, 0.14, 0.19, 0.16];
        let found = Welch::new(&a, &b);
        assert!((found.difference - 0.0625).abs() < 1e-12);
        let p = found.p.unwrap();
        assert!((p - WELCH_P).abs() < 1e-6, "{p}");
        assert!(
            (found.difference - found.half - WELCH_LOW).abs() < 1e-6,
            "{}",
            found.half
        );
        assert!(Welch::new(&a[..1], &b).p.is_none());
        assert_eq!(Welch::new(&[1.0; 3], &[1.0; 3]).p, Some(1.0));
        assert_eq!(Welch::new(&[1.0; 3], &[2.0; 3]).p, Some(0.0));
    }

    const WELCH_P: f64 = 0.012038734326189234;
    const WELCH_LOW: f64 = 0.021508795383037113;
}
