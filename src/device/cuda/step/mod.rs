//! Decoding steps on the device: draft, target pass, judge, verify and commit in one graph launch.
//!
//! A [`Stepper`] holds a sequence in device memory and captures one graph for each way to step. What a
//! step needs of the one before it finds on the device, so that steps may be enqueued before the
//! results of earlier ones are read; each leaves a [`Report`] in pinned memory. After the end of the
//! sequence steps do nothing but say so.

mod prepare;

use super::driver::{Arg, Function, Gpu};
use super::forward::Forward;
use super::graph::Event;
use super::judge::Parts;
use super::memory::{Buffer, Pinned};
use super::verify::{
    Commit, Growing, Law, MAX_NODES, RING, Report, Sequence, Stream, THREADS, Teams, Verdict,
};
use crate::device::sequence::{check_prompt, check_tokens};
use crate::device::{
    Committed, DeviceError, Finish, Request, Step, StepReport, StepTimes, TokenReason, Want,
};
use crate::draft::Ngram;
use crate::tree::{MAX_ROWS, TokenTree};
use crate::verify::{LawError, Sampling, VerifyError};
use bytemuck::Zeroable;
use prepare::{Prepared, drafts, dynamic_shared};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Stop tokens that a sequence may have.
const MAX_STOPS: usize = 256;

/// What drafts.
pub enum Drafting {
    /// Nothing.
    None,
    /// A model.
    Model(Box<Forward>),
    /// Prompt lookup.
    Ngram(Ngram),
}

impl Drafting {
    fn model(&self) -> Option<&Forward> {
        match self {
            Drafting::Model(model) => Some(model),
            _ => None,
        }
    }

    fn model_mut(&mut self) -> Option<&mut Forward> {
        match self {
            Drafting::Model(model) => Some(model),
            _ => None,
        }
    }
}

/// A step whose result is not known yet.
struct Pending {
    /// Which report of the sequence it writes.
    report: usize,
    log_probabilities: bool,
    drafts: bool,
}

/// A sequence that decodes on the device.
pub struct Stepper {
    gpu: Arc<Gpu>,
    verify: Function,
    begin: Function,
    draft: Function,
    ngram: Function,
    sequence: Buffer,
    history: Buffer,
    stop: Buffer,
    growing: Buffer,
    verdict: Buffer,
    laws: Buffer,
    chosen: Buffer,
    chosen_score: Buffer,
    /// of teams of each form that was needed
    workspaces: Vec<(Teams, Buffer)>,
    ring: Pinned,
    written: Vec<Event>,
    /// what begins a sequence
    commit: Buffer,
    prepared: Vec<Prepared>,
    judges: Vec<Arc<Parts>>,
    pending: VecDeque<Pending>,
    /// results that were fetched before anybody asked
    fetched: VecDeque<Result<StepReport, DeviceError>>,
    launched: usize,
    /// committed tokens, as far as reports were fetched
    length: usize,
    started: bool,
    /// Whether steps without a draft have left the draft model behind.
    lags: bool,
    context: usize,
    draft_context: usize,
}

/// Device memory of a stepper for this context, beside what the models take; workspaces of teams are
/// some hundred KiB each and come on top.
pub fn bytes(context: usize) -> usize {
    4 * context
        + 4 * MAX_STOPS
        + size_of::<Sequence>()
        + size_of::<Growing>()
        + size_of::<Verdict>()
        + size_of::<Law>() * (MAX_NODES + 1)
        + 2 * CHOSEN
}

/// Bytes of what a level's rows chose: at most as many in all as there are nodes, twice.
const CHOSEN: usize = 4 * (MAX_NODES + 1) * (MAX_NODES + 2);

impl Stepper {
    /// For a target with `context` positions and what drafts for it, whose models' buffers live as
    /// long as this.
    pub fn new(
        gpu: &Arc<Gpu>,
        target: &Forward,
        drafting: &Drafting,
        context: usize,
        draft_context: usize,
    ) -> Result<Stepper, DeviceError> {
        let new = |label, bytes| Buffer::zeroed(gpu, label, bytes);
        let shared = dynamic_shared(gpu);
        let stepper = Stepper {
            verify: gpu.function("verify", "verify", shared)?,
            begin: gpu.function("verify", "begin", 0)?,
            draft: gpu.function("draft", "draft", shared)?,
            ngram: gpu.function("ngram", "ngram", 0)?,
            sequence: new("sequence", size_of::<Sequence>())?,
            history: new("history", 4 * context)?,
            stop: new("stop tokens", 4 * MAX_STOPS)?,
            growing: new("growing tree", size_of::<Growing>())?,
            verdict: new("verdict", size_of::<Verdict>())?,
            laws: new("draft laws", size_of::<Law>() * (MAX_NODES + 1))?,
            chosen: new("chosen children", CHOSEN)?,
            chosen_score: new("scores of chosen children", CHOSEN)?,
            workspaces: Vec::new(),
            ring: Pinned::new(gpu, "reports", RING * size_of::<Report>())?,
            written: (0..RING)
                .map(|_| Event::new(gpu, false))
                .collect::<Result<_, _>>()?,
            commit: new("commit", size_of::<Commit>())?,
            prepared: Vec::new(),
            judges: Vec::new(),
            pending: VecDeque::new(),
            fetched: VecDeque::new(),
            launched: 0,
            length: 0,
            started: false,
            lags: false,
            context,
            draft_context,
            gpu: gpu.clone(),
        };
        let commit = stepper.commit_of(target, drafting.model(), false);
        stepper.commit.write(0, &[commit])?;
        Ok(stepper)
    }

    fn commit_of(
        &self,
        target: &Forward,
        draft: Option<&Forward>,
        log_probabilities: bool,
    ) -> Commit {
        Commit {
            sequence: self.sequence.address(),
            growing: self.growing.address(),
            ring: self.ring.address(),
            rows: target.rows().address(),
            path: target.path().address(),
            draft_rows: draft.map_or(0, |d| d.rows().address()),
            draft_path: draft.map_or(0, |d| d.path().address()),
            log_probabilities: i32::from(log_probabilities),
            reserved: 0,
        }
    }

    /// Forgets the sequence before, and begins one.
    pub fn start(
        &mut self,
        request: &Request,
        target: &mut Forward,
        drafting: &mut Drafting,
    ) -> Result<(), DeviceError> {
        self.started = false;
        self.gpu.wait(|| "ending the sequence before".to_owned())?;
        self.pending.clear();
        self.fetched.clear();
        let config = target.model.config.clone();
        let before = check_prompt(&request.prompt, &config, self.context)?;
        if request.stop_tokens.len() > MAX_STOPS {
            return Err(DeviceError::Draft(format!(
                "{} stop tokens, expected at most {MAX_STOPS} (on CUDA)",
                request.stop_tokens.len()
            )));
        }
        target.len = 0;
        read(target, before)?;
        let length = request.prompt.len();
        let mut drafted = 0;
        if let Some(draft) = drafting.model_mut() {
            draft.len = 0;
            if length <= self.draft_context {
                check_tokens(&request.prompt, draft.model.config.vocab_size)?;
                read(draft, before)?;
                drafted = before.len();
            }
        }
        self.history.write(0, &request.prompt)?;
        self.stop.write(0, &request.stop_tokens)?;
        let sequence = Sequence {
            stream: Stream {
                seed: request.seed,
                sequence: request.sequence,
                step: 0,
            },
            length: length as i32,
            limit: i32::try_from(length.saturating_add(request.max_tokens)).unwrap_or(i32::MAX),
            context: self.context as i32,
            draft_context: drafting.model().map_or(0, |_| self.draft_context) as i32,
            drafted: drafted as i32,
            finish: match request.max_tokens {
                0 => 2,
                _ => 0,
            },
            reports: 0,
            stops: request.stop_tokens.len() as i32,
            stop: self.stop.address(),
            history: self.history.address(),
            began: [0; 2],
        };
        self.sequence.write(0, &[sequence])?;
        self.begin()?;
        (self.launched, self.length) = (0, length);
        self.lags = false;
        self.started = true;
        Ok(())
    }

    /// Enqueues what a step begins with.
    fn begin(&self) -> Result<(), DeviceError> {
        let args = [Arg::Ptr(self.commit.address())];
        // SAFETY: verify.cu's parameter; the buffers that it names live as long as this.
        unsafe { self.gpu.launch(self.begin, [1, 1, 1], THREADS, 0, &args) }
    }

    /// Enqueues a step.
    pub fn enqueue(
        &mut self,
        step: &Step,
        target: &mut Forward,
        drafting: &mut Drafting,
    ) -> Result<(), DeviceError> {
        if !self.started {
            return Err(DeviceError::NotStarted);
        }
        while self.pending.len() >= RING - 1 {
            self.fetch(target)?;
        }
        let drafts = drafts(&step.shape);
        if drafts && self.lags {
            self.catch_up(drafting)?;
        }
        let at = self.prepare(step, target, drafting)?;
        if let Some(judge) = &self.prepared[at].judge {
            let change = || self.gpu.wait(|| "changing the judge".to_owned());
            if !target.has_judge(&judge.target) {
                change()?;
                target.bring_judge(&judge.target)?;
            }
            if let (Some(judge), Some(draft)) = (&judge.draft, drafting.model_mut())
                && !draft.has_judge(judge)
            {
                change()?;
                draft.bring_judge(judge)?;
            }
        }
        // SAFETY: buffers of the stepper, of the models and of the prepared step itself; the latter
        // are dropped only when the stream is at rest.
        unsafe { self.prepared[at].graph.launch()? };
        self.written[self.launched % RING].record(|| "marking the end of a step".to_owned())?;
        self.pending.push_back(Pending {
            report: self.launched,
            log_probabilities: step.log_probabilities,
            drafts,
        });
        self.launched += 1;
        self.lags |= !drafts;
        Ok(())
    }

    /// The result of the oldest step that was not read.
    pub fn read(&mut self, target: &mut Forward) -> Result<StepReport, DeviceError> {
        if self.fetched.is_empty() {
            self.fetch(target)?;
        }
        self.fetched.pop_front().ok_or(DeviceError::NotStarted)?
    }

    /// Waits for all steps, so that the models' buffers are the host's to use.
    pub fn settle(&mut self, target: &mut Forward) -> Result<(), DeviceError> {
        while !self.pending.is_empty() {
            self.fetch(target)?;
        }
        Ok(())
    }

    /// Waits for the oldest step and takes its report.
    fn fetch(&mut self, target: &mut Forward) -> Result<(), DeviceError> {
        let Some(pending) = self.pending.pop_front() else {
            return Ok(());
        };
        self.written[pending.report % RING].wait(|| "a decoding step".to_owned())?;
        let words = &self.ring.words()[pending.report % RING * (size_of::<Report>() / 4)..];
        let mut report = Report::zeroed();
        let to: &mut [u32] = bytemuck::cast_slice_mut(std::slice::from_mut(&mut report));
        for (to, word) in to.iter_mut().zip(words) {
            *to = word.load(Ordering::Acquire);
        }
        let count = (report.committed.max(0) as usize).min(report.token.len());
        self.length += count;
        target.len = self.length - 1;
        let result = match report.error {
            0 => Ok(StepReport {
                committed: (0..count)
                    .map(|i| committed(&report, i, pending.log_probabilities))
                    .collect(),
                nodes: report.nodes as usize,
                depth: report.depth as usize,
                finish: match report.finish {
                    1 => Some(Finish::Stop),
                    2 => Some(Finish::Length),
                    3 => Some(Finish::Context),
                    _ => None,
                },
                times: times(&report, pending.drafts),
            }),
            _ => Err(self.error(&report, target)),
        };
        self.fetched.push_back(result);
        Ok(())
    }

    /// What was wrong with a step. Steps that follow do nothing, so that what it read is still there.
    fn error(&self, report: &Report, target: &Forward) -> DeviceError {
        let at = report.at.max(0) as usize;
        let found = match report.error {
            1 => unusable(target, at).map(|source| {
                DeviceError::NotFinite(VerifyError::Logits {
                    whose: "target",
                    row: at,
                    source,
                })
            }),
            2 => Ok(DeviceError::Draft(format!(
                "drafter: a logit of row {at} is not a finite number"
            ))),
            3 => self.growing.read(0, 1).map(|growing: Vec<Growing>| {
                VerifyError::NotDrawn {
                    node: at,
                    token: growing[0].tree.token[at] as u32,
                }
                .into()
            }),
            _ => Ok(VerifyError::Score { node: at }.into()),
        };
        found.unwrap_or_else(|error| error)
    }

    /// Lets a draft model read what steps without a draft have committed.
    fn catch_up(&mut self, drafting: &mut Drafting) -> Result<(), DeviceError> {
        self.gpu.wait(|| "steps without a draft".to_owned())?;
        self.lags = false;
        let Some(draft) = drafting.model_mut() else {
            return Ok(());
        };
        let mut sequence: Sequence = self.sequence.read(0, 1)?[0];
        let (read_so_far, length) = (sequence.drafted as usize, sequence.length as usize);
        if length > self.draft_context || read_so_far + 1 >= length {
            return self.begin();
        }
        let history: Vec<u32> = self.history.read(0, length)?;
        draft.len = read_so_far;
        read(draft, &history[read_so_far..length - 1])?;
        sequence.drafted = length as i32 - 1;
        self.sequence.write(0, &[sequence])?;
        self.begin()
    }
}

/// A prompt's tokens into the cache of a model.
fn read(model: &mut Forward, tokens: &[u32]) -> Result<(), DeviceError> {
    for chunk in tokens.chunks(MAX_ROWS) {
        model.pass(&TokenTree::chain(chunk), &[], &Want::default())?;
        model.commit(&(0..chunk.len()).collect::<Vec<_>>())?;
    }
    Ok(())
}

/// Time by phase, of the device's own clock.
fn times(report: &Report, drafts: bool) -> StepTimes {
    let [draft, target, verify] = report.began;
    let between = |from: u64, to: u64| Duration::from_nanos(to.saturating_sub(from));
    StepTimes {
        draft: if drafts {
            between(draft, target)
        } else {
            Duration::ZERO
        },
        target: between(target, verify),
        verify: between(verify, report.ended),
    }
}

/// Token i of a report.
fn committed(report: &Report, i: usize, log_probabilities: bool) -> Committed {
    let word = report.token[i];
    Committed {
        token: word & 0x0fff_ffff,
        reason: match word >> 28 {
            0 => TokenReason::Aligned,
            1 => TokenReason::Judged,
            2 => TokenReason::Bonus,
            _ => TokenReason::Residual,
        },
        acceptability: Some(report.acceptability[i]).filter(|a| !a.is_nan()),
        log_probability: log_probabilities.then_some(report.log_probability[i]),
    }
}

/// Why a row of a model's logits has no softmax.
fn unusable(model: &Forward, row: usize) -> Result<LawError, DeviceError> {
    let (stride, width) = (model.logits_stride(), model.model.config.vocab_size);
    let logits: Vec<f32> = model.logits().read(4 * row * stride, stride)?;
    match crate::verify::Law::new(&logits, width, &Sampling::GREEDY) {
        Err(why) => Ok(why),
        Ok(_) => Err(DeviceError::Draft(format!(
            "row {row} of the target's logits had no softmax when it was verified, and has one now"
        ))),
    }
}
