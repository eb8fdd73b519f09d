//! The CPU device: the embedded default where there is no GPU, and the reference.
//!
//! A step is what it reads like: draft, one target pass, judge, [`verify`], commit.

mod attention;
mod cache;
mod drafting;
mod forward;
mod linear;
mod lines;
mod reading;
mod simd;
mod team;

use super::sequence::{
    Queue, Sequence, check_context, check_judge, check_pass, check_prompt, check_step, rooted,
};
use super::{
    Device, DeviceError, Logits, MemoryPlan, PassOutput, Reading, Request, Setup, Step, StepReport,
    StepTimes, Ticket, Want,
};
use crate::draft::Drafter;
use crate::judge::{Judge, Layout, Tap};
use crate::tree::{MAX_ROWS, TokenTree};
use crate::verify::{Inputs, Philox, Rows, verify};
use drafting::{Ask, Draft, ModelDrafter};
use forward::{Activations, Forward};
use reading::read_weights;
use simd::Isa;
use std::ops::Range;
use std::time::Instant;
use team::Team;

/// Everything on the processor's cores.
pub struct Cpu {
    team: Team,
    target: Forward,
    drafter: Drafting,
    context: usize,
    sequence: Option<Sequence>,
    queue: Queue,
}

/// What drafts, with its state.
enum Drafting {
    Host(Drafter),
    Model(Box<ModelDrafter>),
}

impl Cpu {
    /// Loads target and drafter. Weights stay where they are mapped.
    pub fn open(setup: &Setup) -> Result<Cpu, DeviceError> {
        Cpu::with_isa(setup, Isa::best())
    }

    /// The device without SIMD instructions of the processor, to test the portable kernels.
    pub fn open_portable(setup: &Setup) -> Result<Cpu, DeviceError> {
        Cpu::with_isa(setup, Isa::Portable)
    }

    /// The device with activations rounded to f16 where the CUDA kernels round them, to compare
    /// those with.
    pub fn open_rounded(setup: &Setup) -> Result<Cpu, DeviceError> {
        let mut cpu = Cpu::with_isa(setup, Isa::best())?;
        cpu.target.activations = Activations::F16;
        Ok(cpu)
    }

    fn with_isa(setup: &Setup, isa: Isa) -> Result<Cpu, DeviceError> {
        check_context(setup)?;
        let team =
            Team::new(setup.threads, isa).map_err(|e| DeviceError::Threads(e.to_string()))?;
        let drafter = match &setup.drafter {
            Drafter::Model(model) => {
                Drafting::Model(Box::new(ModelDrafter::new(model.clone(), setup.context)))
            }
            other => Drafting::Host(other.clone()),
        };
        Ok(Cpu {
            team,
            target: Forward::new(setup.target.clone(), setup.context + MAX_ROWS),
            drafter,
            context: setup.context,
            sequence: None,
            queue: Queue::default(),
        })
    }

    fn step(&mut self, step: &Step) -> Result<StepReport, DeviceError> {
        let Some(sequence) = self.sequence.as_mut() else {
            return Err(DeviceError::NotStarted);
        };
        if sequence.finish.is_some() {
            return Ok(StepReport {
                finish: sequence.finish,
                ..StepReport::default()
            });
        }
        let request = &sequence.request;
        let made = sequence.tokens.len() - request.prompt.len();
        // the token that the target supplies comes on top of the deepest path
        let room = (request.max_tokens - made).min(self.context - sequence.tokens.len());
        let shape = step.shape.cut(room - 1);
        let mut philox = Philox::new(request.seed, request.sequence).at_step(sequence.step);

        let judge = step
            .judge
            .as_deref()
            .filter(|_| step.policy.rule.needs_scores());
        let began = Instant::now();
        let vocab_size = self.target.model.config.vocab_size;
        let draft = match &mut self.drafter {
            Drafting::Model(model) => model.propose(
                &self.team,
                &Ask {
                    tokens: &sequence.tokens,
                    shape: shape.clone(),
                    step,
                    vocab_size,
                    wants_hidden: judge.is_some_and(|j| j.features.layout == Layout::DdDt),
                    philox,
                },
            )?,
            Drafting::Host(Drafter::Ngram(ngram)) => {
                Draft::deterministic(ngram.propose(&sequence.tokens, &shape))
            }
            Drafting::Host(_) => Draft::deterministic(TokenTree::default()),
        };
        let drafted = Instant::now();

        let rows = rooted(sequence.tokens[sequence.tokens.len() - 1], &draft.tree);
        let want = Want {
            logits: Logits::All,
            ..judge.map_or_else(Want::default, what_it_reads)
        };
        let pass = self.target.pass(&self.team, &rows, &[], 0, &want);
        let passed = Instant::now();

        let scores = judge
            .map(|judge| {
                let nodes = 1..1 + draft.tree.len();
                scores(judge, &pass, nodes, |row| draft.hidden(row - 1))
            })
            .transpose()?;
        let logits = Rows::new(&pass.logits, vocab_size).expect("the pass returns whole rows");
        let verdict = verify::<f32, _>(
            &Inputs {
                tree: &draft.tree,
                target: logits,
                q: draft.q.as_deref(),
                r: draft.logits(),
                scores: scores.as_deref(),
            },
            &step.policy,
            &mut philox,
        )?;
        let mut path = vec![0];
        path.extend(verdict.path.iter().map(|n| n + 1));
        let logits = step.log_probabilities.then_some(logits);
        let committed = sequence.take_in(&draft.tree, &verdict, logits, self.context);
        let base = self.target.cache.len;
        let kept: Vec<usize> = path[..committed.len()].iter().map(|r| base + r).collect();
        self.target.cache.commit(&kept);
        if let Drafting::Model(model) = &mut self.drafter {
            model.commit(&verdict.path[..committed.len() - 1]);
        }
        Ok(StepReport {
            nodes: draft.tree.len(),
            depth: draft.tree.depths().into_iter().max().unwrap_or(0),
            committed,
            finish: sequence.finish,
            times: StepTimes {
                draft: drafted - began,
                target: passed - drafted,
                verify: passed.elapsed(),
            },
        })
    }
}

/// What a judge needs of a pass.
fn what_it_reads(judge: &Judge) -> Want {
    let layers = judge.features.taps.iter().filter_map(|tap| match tap {
        Tap::Final => None,
        Tap::Layer(layer) => Some(*layer),
    });
    Want {
        hidden: judge.features.taps.contains(&Tap::Final),
        taps: layers.collect(),
        ..Want::default()
    }
}

/// The judge's acceptability of the tokens of some rows: one dot product a row. `drafted` is the
/// drafter's hidden state.
fn scores<'a>(
    judge: &Judge,
    pass: &PassOutput,
    rows: Range<usize>,
    drafted: impl Fn(usize) -> Option<&'a [f32]>,
) -> Result<Vec<f32>, DeviceError> {
    let hidden_size = judge.features.target_width;
    let mut features = Vec::new();
    let mut scores = Vec::with_capacity(rows.len());
    for row in rows {
        features.clear();
        if judge.features.layout == Layout::DdDt {
            let Some(hidden) = drafted(row) else {
                return Err(DeviceError::Judge(
                    "the judge reads the drafter's hidden states (DD-DT), and this drafter has none"
                        .to_owned(),
                ));
            };
            features.extend_from_slice(hidden);
        }
        for tap in &judge.features.taps {
            let rows = match tap {
                Tap::Final => &pass.last_hidden,
                Tap::Layer(layer) => {
                    let found = pass.taps.iter().find(|(l, _)| l == layer);
                    &found.expect("the pass was asked for this tap").1
                }
            };
            features.extend_from_slice(&rows[row * hidden_size..][..hidden_size]);
        }
        scores.push(judge.score(&features));
    }
    Ok(scores)
}

impl Device for Cpu {
    fn describe(&self) -> String {
        let threads = self.team.threads();
        let plural = if threads == 1 { "" } else { "s" };
        format!("cpu, {threads} thread{plural}, {}", self.team.isa().name())
    }

    fn memory(&self) -> MemoryPlan {
        let (mut weights, mut kv) = (self.target.model.weights.bytes(), self.target.cache.bytes());
        if let Drafting::Model(draft) = &self.drafter {
            kv += draft.forward().cache.bytes();
            // the target's own layers are mapped once
            if draft.forward().model.dir != self.target.model.dir {
                weights += draft.forward().model.weights.bytes();
            }
        }
        MemoryPlan { weights, kv }
    }

    fn read_weights(&mut self) -> Result<Option<Reading>, DeviceError> {
        Ok(Some(read_weights(&self.team, &self.target.model)))
    }

    fn start(&mut self, request: &Request) -> Result<(), DeviceError> {
        self.sequence = None;
        self.queue.clear();
        let config = &self.target.model.config;
        let before = check_prompt(&request.prompt, config, self.context)?;
        self.target.cache.len = 0;
        super::prefill(self, before, &Want::default())?;
        if let Drafting::Model(model) = &mut self.drafter {
            model.restart();
        }
        self.sequence = Some(Sequence::new(request));
        Ok(())
    }

    fn enqueue(&mut self, step: &Step) -> Result<Ticket, DeviceError> {
        let draft = match &self.drafter {
            Drafting::Model(draft) => Some(&*draft.forward().model),
            Drafting::Host(_) => None,
        };
        check_step(step, &self.target.model, draft)?;
        Ok(self.queue.push(step))
    }

    fn read(&mut self, ticket: Ticket) -> Result<StepReport, DeviceError> {
        let step = self.queue.pop(ticket)?;
        self.step(&step)
    }

    fn pass_behind(
        &mut self,
        rows: &TokenTree,
        behind: &[usize],
        want: &Want,
    ) -> Result<PassOutput, DeviceError> {
        let config = &self.target.model.config;
        let committed = self.target.cache.len;
        check_pass(rows, behind, want, config, committed, self.context)?;
        check_judge(want, &self.target.model)?;
        if rows.is_empty() {
            return Ok(PassOutput::default());
        }
        let began = Instant::now();
        let Some(judge) = &want.judge else {
            let output = self.target.pass(&self.team, rows, behind, 0, want);
            let time = began.elapsed();
            return Ok(PassOutput { time, ..output });
        };
        let read = what_it_reads(judge);
        let more = Want {
            hidden: want.hidden || read.hidden,
            taps: [&want.taps[..], &read.taps].concat(),
            ..want.clone()
        };
        let mut output = self.target.pass(&self.team, rows, behind, 0, &more);
        output.time = began.elapsed();
        output.scores = scores(judge, &output, 0..rows.len(), |_| None)?;
        output.taps.retain(|(layer, _)| want.taps.contains(layer));
        if !want.hidden {
            output.last_hidden.clear();
        }
        Ok(output)
    }

    fn commit(&mut self, path: &[usize]) {
        let base = self.target.cache.len;
        let slots: Vec<usize> = path.iter().map(|row| base + row).collect();
        self.target.cache.commit(&slots);
    }

    fn rollback(&mut self, len: usize) {
        self.target.cache.len = self.target.cache.len.min(len);
    }

    fn committed(&self) -> usize {
        self.target.cache.len
    }
}
