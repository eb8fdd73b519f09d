//! The bench itself: round by round, prompt by prompt, the modes in an order drawn anew.

use super::StepColumns;
use super::record::tokens_digest;
use super::{Difference, Machine, Mode, ModeSpec, PromptSpec, Read, Record, Sample, Settings};
use crate::device::{Device, DeviceError, Request, Step, StepReport};
use crate::engine::{AdaptiveGamma, Ended, Steps, generate};
use crate::eval::{Decoder, ModelSpec, same_drafter};
use crate::judge::JudgeError;
use crate::model::Model;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What is to be benched.
pub struct Bench<'a> {
    /// The ways to decode; the first plain one is what the others are compared with.
    pub modes: &'a [Mode],
    /// The model that answers.
    pub target: &'a Model,
    /// What is decoded: what is stored of each prompt, and its tokens.
    pub prompts: &'a [(PromptSpec, Vec<u32>)],
    /// What all modes have in common.
    pub settings: Settings,
    /// The command line, to be stored.
    pub arguments: Vec<String>,
}

/// Why a bench could not be carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// There is nothing to decode, or no way to.
    #[error("nothing to bench: found {modes} modes and {prompts} prompts, expected some of both")]
    Empty {
        /// Ways to decode.
        modes: usize,
        /// Prompts.
        prompts: usize,
    },
    /// No device has the mode's drafter.
    #[error("mode '{mode}': found no device with its drafter")]
    Decoder {
        /// The mode.
        mode: String,
    },
    /// A judge without a digest.
    #[error("mode '{mode}': {source}")]
    Judge {
        /// The mode.
        mode: String,
        /// What is wrong.
        source: Box<JudgeError>,
    },
    /// A device failed.
    #[error("mode '{mode}', prompt {prompt}: {source}")]
    Device {
        /// The mode.
        mode: String,
        /// The prompt's place, from 0.
        prompt: usize,
        /// What it says.
        source: DeviceError,
    },
}

/// What comes next in a round.
#[derive(Clone, Copy)]
enum Turn {
    Mode(usize),
    Read,
}

/// What runs each mode: the device and, with its memory of costs, the chooser of gamma.
struct Runner {
    decoder: usize,
    chooser: Option<AdaptiveGamma>,
}

/// Runs all rounds and adds to `record`, from [`begin`], what they show, so that it is there even
/// where a later run fails. `on_run` is called after every run, warm-up included. `interrupted` is
/// asked at every step; the run under way is then given up, and the bench ends.
///
/// # Errors
/// Where a device fails, or nothing was asked for. Outputs that differ are no error here: they are
/// in [`Record::differences`].
pub fn run(
    bench: &Bench<'_>,
    decoders: &mut [Decoder],
    record: &mut Record,
    interrupted: &dyn Fn() -> bool,
    on_run: &mut dyn FnMut(),
) -> Result<(), BenchError> {
    let (modes, prompts) = (bench.modes, bench.prompts);
    if modes.is_empty() || prompts.is_empty() {
        return Err(BenchError::Empty {
            modes: modes.len(),
            prompts: prompts.len(),
        });
    }
    let mut runners = runners(modes, decoders)?;
    let settings = &bench.settings;
    let mut outputs = Outputs::default();
    // warm-up is a round whose samples are forgotten, each on another prompt
    for warmup in 0..settings.warmup {
        for mode in 0..modes.len() {
            let prompt = warmup % prompts.len();
            if one(
                bench,
                decoders,
                &mut runners,
                (mode, prompt, 0),
                interrupted,
            )?
            .is_none()
            {
                return Ok(());
            }
            on_run();
        }
    }
    for round in 0..settings.rounds {
        for prompt in 0..prompts.len() {
            for turn in order(settings.seed, round, prompt, modes.len()) {
                match turn {
                    Turn::Read => read(decoders, (prompt, round), record)?,
                    Turn::Mode(mode) => {
                        let at = (mode, prompt, round);
                        let Some((sample, tokens)) =
                            one(bench, decoders, &mut runners, at, interrupted)?
                        else {
                            return Ok(());
                        };
                        record.samples.push(sample);
                        outputs.add(at, tokens);
                        on_run();
                    }
                }
            }
            record
                .differences
                .extend(outputs.differences(modes, prompt, round));
        }
    }
    Ok(())
}

fn runners(modes: &[Mode], decoders: &[Decoder]) -> Result<Vec<Runner>, BenchError> {
    let runner = |mode: &Mode| {
        let same = |d: &Decoder| mode.row.is_plain() || same_drafter(&d.drafter, &mode.row.drafter);
        let decoder = decoders.iter().position(same);
        let decoder = decoder.ok_or_else(|| BenchError::Decoder {
            mode: mode.row.name.clone(),
        })?;
        Ok(Runner {
            decoder,
            chooser: mode.chooser(),
        })
    };
    modes.iter().map(runner).collect()
}

/// The record before the first sample.
///
/// # Errors
/// Where a judge has no digest.
pub fn begin(bench: &Bench<'_>, decoders: &[Decoder]) -> Result<Record, BenchError> {
    let specs = bench.modes.iter().map(|mode| {
        ModeSpec::new(mode).map_err(|source| BenchError::Judge {
            mode: mode.row.name.clone(),
            source: Box::new(source),
        })
    });
    let drafts = decoders.iter().filter_map(|d| d.drafter.model());
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(Record {
        format: Record::FORMAT.to_owned(),
        gavel: env!("CARGO_PKG_VERSION").to_owned(),
        debug_assertions: cfg!(debug_assertions),
        began_at: now.map_or(0, |d| d.as_secs()),
        machine: Machine::here(),
        device: decoders
            .first()
            .map_or(String::new(), |d| d.device.describe()),
        arguments: bench.arguments.clone(),
        settings: bench.settings.clone(),
        target: ModelSpec::from(bench.target),
        drafts: drafts.map(|m| ModelSpec::from(&**m)).collect(),
        modes: specs.collect::<Result<_, _>>()?,
        prompts: bench.prompts.iter().map(|(spec, _)| spec.clone()).collect(),
        samples: Vec::new(),
        reads: Vec::new(),
        differences: Vec::new(),
        runs_asked: bench.settings.rounds * bench.prompts.len() * bench.modes.len(),
    })
}

/// The modes, and a read of the weights, in the order in which they take their turns.
fn order(seed: u64, round: usize, prompt: usize, modes: usize) -> Vec<Turn> {
    let mut turns: Vec<Turn> = (0..modes).map(Turn::Mode).chain([Turn::Read]).collect();
    let of_turn = [seed, round as u64, prompt as u64]
        .map(u64::to_le_bytes)
        .concat();
    let bytes = blake3::hash(&of_turn);
    let mut key = [0; 8];
    key.copy_from_slice(&bytes.as_bytes()[..8]);
    fastrand::Rng::with_seed(u64::from_le_bytes(key)).shuffle(&mut turns);
    turns
}

fn read(
    decoders: &mut [Decoder],
    (prompt, round): (usize, usize),
    record: &mut Record,
) -> Result<(), BenchError> {
    let Some(decoder) = decoders.first_mut() else {
        return Ok(());
    };
    let reading = decoder
        .device
        .read_weights()
        .map_err(|source| BenchError::Device {
            mode: "read of the weights".to_owned(),
            prompt,
            source,
        })?;
    record.reads.extend(reading.map(|r| Read {
        prompt,
        round,
        bytes: r.bytes,
        ms: ms(r.time),
    }));
    Ok(())
}

/// One run, with what came out; nothing where it was interrupted.
fn one(
    bench: &Bench<'_>,
    decoders: &mut [Decoder],
    runners: &mut [Runner],
    (mode, prompt, round): (usize, usize, usize),
    interrupted: &dyn Fn() -> bool,
) -> Result<Option<(Sample, Vec<u32>)>, BenchError> {
    let settings = &bench.settings;
    let request = Request {
        prompt: bench.prompts[prompt].1.clone(),
        max_tokens: settings.max_tokens,
        stop_tokens: match settings.ignore_eos {
            true => Vec::new(),
            false => bench.target.generation.eos.clone(),
        },
        seed: settings.seed,
        sequence: prompt as u32,
    };
    let row = &bench.modes[mode].row;
    let runner = &mut runners[mode];
    let device: &mut dyn Device = decoders[runner.decoder].device.as_mut();
    let steps: &mut dyn Steps = match &mut runner.chooser {
        Some(chooser) => chooser,
        None => &mut &row.step,
    };
    let mut recorder = Recorder::new(steps);
    let done = generate(device, &request, &mut recorder, |_| match interrupted() {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    })
    .map_err(|source| BenchError::Device {
        mode: row.name.clone(),
        prompt,
        source,
    })?;
    if done.ended == Ended::Caller {
        return Ok(None);
    }
    let sample = Sample {
        mode,
        prompt,
        round,
        prefill_ms: ms(done.stats.prefill),
        output: tokens_digest(&done.tokens),
        aligned: done.stats.aligned,
        judged: done.stats.judged,
        steps: recorder.columns,
    };
    Ok(Some((sample, done.tokens)))
}

fn ms(time: Duration) -> f64 {
    // to the tenth of a microsecond: files are read by people too
    (1e7 * time.as_secs_f64()).round() / 1e4
}

/// Writes down what the steps took.
struct Recorder<'a> {
    steps: &'a mut dyn Steps,
    last: Instant,
    columns: StepColumns,
}

impl<'a> Recorder<'a> {
    fn new(steps: &'a mut dyn Steps) -> Recorder<'a> {
        Recorder {
            steps,
            last: Instant::now(),
            columns: StepColumns::default(),
        }
    }
}

impl Steps for Recorder<'_> {
    fn start(&mut self) {
        self.steps.start();
    }

    fn next(&mut self) -> &Step {
        self.steps.next()
    }

    fn done(&mut self, report: &StepReport) {
        self.steps.done(report);
        if report.committed.is_empty() {
            return;
        }
        let now = Instant::now();
        let columns = &mut self.columns;
        columns.ms.push(ms(now - self.last));
        columns.draft_ms.push(ms(report.times.draft));
        columns.target_ms.push(ms(report.times.target));
        columns.verify_ms.push(ms(report.times.verify));
        columns.nodes.push(report.nodes);
        columns.tokens.push(report.committed.len());
        self.last = now;
    }
}

/// What came out, to be compared: with the same run of the first round, and with plain decoding.
#[derive(Default)]
struct Outputs {
    /// (mode, prompt) -> tokens of the first round.
    first: HashMap<(usize, usize), Vec<u32>>,
    /// (mode, prompt) -> tokens of this round where they are others.
    now: HashMap<(usize, usize), Vec<u32>>,
}

impl Outputs {
    fn add(&mut self, (mode, prompt, _): (usize, usize, usize), tokens: Vec<u32>) {
        match self.first.get(&(mode, prompt)) {
            None => {
                self.first.insert((mode, prompt), tokens);
            }
            Some(first) if *first != tokens => {
                self.now.insert((mode, prompt), tokens);
            }
            Some(_) => {}
        }
    }

    /// Everything that is not as it should be about a prompt of which a round is over.
    fn differences(&mut self, modes: &[Mode], prompt: usize, round: usize) -> Vec<Difference> {
        let mut found = Vec::new();
        let plain = modes.iter().position(|m| m.row.is_plain());
        for (place, mode) in modes.iter().enumerate() {
            let Some(first) = self.first.get(&(place, prompt)) else {
                continue;
            };
            let again = self.now.remove(&(place, prompt));
            let mut compare = |with: &str, expected: &[u32], tokens: &[u32]| {
                let at = first_difference(tokens, expected)?;
                found.push(Difference {
                    mode: mode.row.name.clone(),
                    with: with.to_owned(),
                    prompt,
                    round,
                    place: at,
                    found: tokens.get(at).copied(),
                    expected: expected.get(at).copied(),
                });
                Some(())
            };
            if let Some(tokens) = &again
                && mode.repeats()
            {
                compare("its own first round", first, tokens);
            }
            // what repeats needs to be compared with plain decoding once
            let plain = plain.filter(|&p| p != place && mode.is_exact() && round == 0);
            if let Some(expected) = plain.and_then(|p| self.first.get(&(p, prompt))) {
                compare("plain decoding", expected, first);
            }
        }
        found
    }
}

fn first_difference(a: &[u32], b: &[u32]) -> Option<usize> {
    let shared = a.iter().zip(b).position(|(a, b)| a != b);
    shared.or((a.len() != b.len()).then_some(a.len().min(b.len())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draft::{Drafter, Ngram};
    use crate::eval::Row;
    use crate::tree::Shape;
    use crate::verify::{Policy, Rule, Sampling};

    fn mode(name: &str, gamma: usize, rule: Rule, sampling: Sampling) -> Mode {
        Mode::fixed(Row {
            name: name.to_owned(),
            series: name.to_owned(),
            drafter: Drafter::Ngram(Ngram::default()),
            step: Step::new(Shape::Chain(gamma), Policy::new(sampling, rule)),
        })
    }

    #[test]
    fn outputs_that_differ_are_found_and_named() {
        let greedy = Sampling::GREEDY;
        let modes = [
            mode("plain", 0, Rule::Chain, greedy),
            mode("chain 4", 4, Rule::Chain, greedy),
            mode("top-k", 4, Rule::TopK { k: 2 }, greedy),
        ];
        let mut outputs = Outputs::default();
        outputs.add((0, 0, 0), vec![1, 2, 3]);
        outputs.add((1, 0, 0), vec![1, 2]);
        outputs.add((2, 0, 0), vec![9]);
        let found = outputs.differences(&modes, 0, 0);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((&*found[0].mode, found[0].place), ("chain 4", 2));
        assert_eq!((found[0].found, found[0].expected), (None, Some(3)));
        // the next round: plain and top-k no longer give what they gave, the chain does
        outputs.add((0, 0, 1), vec![1, 5, 3]);
        outputs.add((1, 0, 1), vec![1, 2]);
        outputs.add((2, 0, 1), vec![8]);
        let found = outputs.differences(&modes, 0, 1);
        let named: Vec<_> = found
            .iter()
            .map(|d| (&*d.mode, &*d.with, d.place))
            .collect();
        let own = "its own first round";
        assert_eq!(named, [("plain", own, 1), ("top-k", own, 0)]);
        assert!(outputs.differences(&modes, 0, 2).is_empty());
    }

    #[test]
    fn modes_that_choose_by_time_need_not_repeat_unless_they_are_exact() {
        for (rule, temperature, repeats) in [
            (Rule::Chain, 0.0, true),
            (Rule::Chain, 1.0, false),
            (Rule::TopK { k: 2 }, 0.0, false),
        ] {
            let fixed = mode("chain 4", 4, rule, Sampling::at(temperature));
            assert!(fixed.repeats());
            let adaptive = Mode::adaptive(&fixed.row, &[1, 2]);
            assert_eq!(adaptive.repeats(), repeats, "{rule} at {temperature}");
            assert_eq!(adaptive.row.name, "chain auto");
        }
    }

    #[test]
    fn every_order_has_every_turn_and_orders_differ() {
        let names = |round, prompt| -> Vec<usize> {
            let turns = order(7, round, prompt, 5);
            turns
                .iter()
                .map(|turn| match turn {
                    Turn::Mode(mode) => *mode,
                    Turn::Read => 5,
                })
                .collect()
        };
        let mut seen = std::collections::HashSet::new();
        for (round, prompt) in (0..4).flat_map(|r| (0..4).map(move |p| (r, p))) {
            let order = names(round, prompt);
            assert_eq!(order, names(round, prompt));
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4, 5]);
            seen.insert(order);
        }
        assert!(seen.len() > 12, "{} of 16", seen.len());
    }
}
