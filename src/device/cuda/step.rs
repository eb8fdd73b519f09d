//! Decoding steps on the device: draft, target pass, judge, verify and commit in one graph launch.
//!
//! A [`Stepper`] holds a sequence in device memory and captures one graph for each way to step. What a
//! step needs of the one before it finds on the device, so that steps may be enqueued before the
//! results of earlier ones are read; each leaves a [`Report`] in pinned memory. After the end of the
//! sequence steps do nothing but say so.

use super::super::sequence::{check_prompt, check_tokens};
use super::super::{
    Committed, DeviceError, Draw, Finish, Request, Step, StepReport, StepTimes, TokenReason, Want,
};
use super::driver::{Arg, Function, Gpu};
use super::forward::Forward;
use super::graph::{Event, Graph};
use super::judge::{Parts, rides};
use super::memory::{Buffer, Pinned};
use super::sizes::STEP_ROWS;
use super::verify::{
    Commit, Growing, Law, Level, Lookup, MAX_NODES, Policy, RING, Report, Sampling, Scoring,
    ScoringTap, Sequence, Stream, THREADS, Teams, Verdict, Verification,
};
use crate::draft::Ngram;
use crate::judge::{Head, Judge, Meaning, Tap};
use crate::tree::{MAX_ROWS, Shape, TokenTree};
use crate::verify::{Law as ReferenceLaw, Rule, VerifyError};
use bytemuck::Zeroable;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Stop tokens that a sequence may have.
const MAX_STOPS: usize = 256;
/// Ways to step whose graphs are kept.
const MAX_GRAPHS: usize = 32;
/// Rows of a draft model's first pass in a step: what the target supplied, and an accepted leaf.
const CATCH_UP: usize = 2;
/// Threads of ngram's block.
const NGRAM_THREADS: usize = 512;
/// Static shared memory of verify and draft, rounded up.
const STATIC_SHARED: usize = 16 << 10;
/// Dynamic shared memory that they ask for at most.
const DYNAMIC_SHARED: usize = 96 << 10;

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

/// One way to step, ready to be launched.
struct Prepared {
    step: Step,
    judge: Option<Arc<Parts>>,
    graph: Graph,
    /// What the captured launches read besides the stepper's own buffers.
    _buffers: Vec<Buffer>,
}

/// A step whose result is not known yet.
struct Pending {
    /// Which report of the sequence it writes.
    report: usize,
    log_probabilities: bool,
    /// When it was enqueued.
    since: Instant,
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
    /// when the last report came
    reported: Instant,
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
        + size_of::<Law>() * STEP_ROWS
        + 2 * CHOSEN
}

/// Bytes of what a level's rows chose: at most as many in all as there are nodes, twice.
const CHOSEN: usize = 4 * STEP_ROWS * (STEP_ROWS + 1);

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
            laws: new("draft laws", size_of::<Law>() * STEP_ROWS)?,
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
            reported: Instant::now(),
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
        let drafts = step.shape.nodes() > 0 && step.shape.depth() > 0;
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
            since: Instant::now(),
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
        let ended = Instant::now();
        let before = std::mem::replace(&mut self.reported, ended);
        let count = (report.committed.max(0) as usize).min(STEP_ROWS);
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
                // the host sees no more than when a step ended
                times: StepTimes {
                    target: ended - pending.since.max(before),
                    ..StepTimes::default()
                },
            }),
            _ => Err(self.error(&report, target)),
        };
        self.fetched.push_back(result);
        Ok(())
    }

    /// What was wrong with a step.
    fn error(&self, report: &Report, target: &Forward) -> DeviceError {
        let at = report.at.max(0) as usize;
        match report.error {
            1 => {
                let row = |forward: &Forward| {
                    let stride = forward.logits_stride();
                    let row: Vec<f32> = forward.logits().read(4 * at * stride, stride)?;
                    Ok::<_, DeviceError>(row[..forward.model.config.vocab_size].to_vec())
                };
                let sampling = crate::verify::Sampling::GREEDY;
                match row(target).map(|z| ReferenceLaw::new(&z, z.len(), &sampling)) {
                    Ok(Err(source)) => VerifyError::Logits {
                        whose: "target",
                        row: at,
                        source,
                    }
                    .into(),
                    Ok(Ok(_)) => DeviceError::Draft(format!(
                        "row {at} of the target's logits was not finite when it was verified"
                    )),
                    Err(error) => error,
                }
            }
            2 => DeviceError::Draft(format!(
                "drafter: a logit of row {at} is not a finite number"
            )),
            3 => VerifyError::NotDrawn { node: at, token: 0 }.into(),
            _ => VerifyError::Score { node: at }.into(),
        }
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

    /// The graph of a step, captured now if it is new.
    fn prepare(
        &mut self,
        step: &Step,
        target: &Forward,
        drafting: &Drafting,
    ) -> Result<usize, DeviceError> {
        if let Some(at) = self.prepared.iter().position(|p| same(&p.step, step)) {
            return Ok(at);
        }
        check(step, drafting)?;
        if self.prepared.len() == MAX_GRAPHS {
            self.gpu.wait(|| "forgetting a captured step".to_owned())?;
            self.prepared.remove(0);
        }
        let mut buffers = Vec::new();
        let mut bring = |label, bytes: &[u8]| -> Result<u64, DeviceError> {
            let buffer = Buffer::of(&self.gpu, label, bytes)?;
            let address = buffer.address();
            buffers.push(buffer);
            Ok(address)
        };
        let shape = &step.shape;
        let drafts = shape.nodes() > 0 && shape.depth() > 0;
        let model = drafting.model().filter(|_| drafts);
        // best-first children are no draws from a law
        let by_best = matches!(shape, Shape::BestFirst { .. });
        let sampled = model.is_some() && step.draw == Draw::Sampled && !by_best;
        let vocabulary = target.model.config.vocab_size;
        // what a drafter gives of its own logits
        let width = model.map_or(0, |d| d.model.config.vocab_size.min(vocabulary));
        let bests = model.map_or(0, |d| match d.model.config.vocab_size == width {
            true => d.bests().address(),
            false => 0,
        });

        let judge = judged(step).map(|judge| parts_of(&mut self.judges, judge));
        // where nothing is drafted there is nothing to judge
        let draft_judge = judge.as_ref().and_then(|j| j.draft.clone());

        let branching = branching(shape);
        let mut levels = Vec::new();
        let mut lookup = 0;
        match drafting {
            Drafting::Model(draft) if drafts => {
                let keep = match shape {
                    Shape::BestFirst { nodes, .. } => *nodes,
                    _ => 0,
                };
                let mut rows = 1;
                for (depth, &children) in branching.iter().enumerate() {
                    let last = depth + 1 == branching.len();
                    let reads = !last || draft_judge.is_some();
                    let level = Level {
                        growing: self.growing.address(),
                        logits: draft.logits().address(),
                        best: bests,
                        laws: match sampled {
                            true => self.laws.address(),
                            false => 0,
                        },
                        stream: self.sequence.address(),
                        chosen: self.chosen.address(),
                        chosen_score: self.chosen_score.address(),
                        sequence: self.sequence.address(),
                        draft_rows: if reads { draft.rows().address() } else { 0 },
                        draft_paths: draft.paths().address(),
                        rows: if last { target.rows().address() } else { 0 },
                        paths: target.paths().address(),
                        sampling: Sampling::of(&step.draft_sampling),
                        width: width as i32,
                        stride: draft.logits_stride() as i32,
                        parts: draft.best_parts() as i32,
                        depth: depth as i32,
                        children: children as i32,
                        keep: keep as i32,
                        last: i32::from(last),
                    };
                    let at = bring("draft level", bytemuck::bytes_of(&level))?;
                    let below = match keep {
                        0 => rows * children,
                        _ => keep,
                    };
                    levels.push((at, rows, if last { 0 } else { below }));
                    rows = below;
                }
            }
            Drafting::Ngram(ngram) if drafts => {
                let mut children = [0; STEP_ROWS];
                for (to, &of_level) in children.iter_mut().zip(&branching) {
                    *to = of_level as i32;
                }
                let (depth, most) = match shape {
                    Shape::BestFirst { nodes, depth } => (*depth, *nodes),
                    _ => (branching.len(), 0),
                };
                let of = Lookup {
                    sequence: self.sequence.address(),
                    growing: self.growing.address(),
                    rows: target.rows().address(),
                    paths: target.paths().address(),
                    shortest: ngram.shortest as i32,
                    longest: i32::try_from(ngram.longest).unwrap_or(i32::MAX),
                    depth: depth.min(STEP_ROWS - 1) as i32,
                    most: most as i32,
                    children,
                };
                lookup = bring("prompt lookup", bytemuck::bytes_of(&of))?;
            }
            _ => {}
        }

        let scoring = match &judge {
            None => 0,
            Some(judge) => {
                let (scoring, bias) = scoring(judge, target, model);
                let bias = bring("judge's biases", bytemuck::cast_slice(&bias))?;
                bring("scoring", bytemuck::bytes_of(&Scoring { bias, ..scoring }))?
            }
        };
        let guard = match step.policy.guard.tokens() {
            [] => 0,
            tokens => bring("guarded tokens", bytemuck::cast_slice(tokens))?,
        };
        let commit = self.commit_of(target, model, step.log_probabilities);
        let verification = Verification {
            tree: self.growing.address(),
            target: target.logits().address(),
            best: target.bests().address(),
            // best-first levels overwrite each other's logits
            drafter: model
                .filter(|_| !by_best)
                .map_or(0, |d| d.logits().address()),
            drafter_best: bests,
            laws: match sampled {
                true => self.laws.address(),
                false => 0,
            },
            scores: 0,
            scoring,
            stream: self.sequence.address(),
            script: 0,
            verdict: self.verdict.address(),
            commit: bring("commit", bytemuck::bytes_of(&commit))?,
            policy: Policy::of(&step.policy, guard),
            vocabulary: vocabulary as i32,
            target_stride: target.logits_stride() as i32,
            parts: target.best_parts() as i32,
            drafter_vocabulary: width as i32,
            drafter_stride: model.map_or(0, Forward::logits_stride) as i32,
            drafter_parts: model.map_or(0, Forward::best_parts) as i32,
        };
        let verification = bring("verification", bytemuck::bytes_of(&verification))?;

        // what is captured allocates nothing
        let of_verify = self.team(1, vocabulary)?;
        let of_levels: Vec<(Teams, u64)> = levels
            .iter()
            .map(|&(_, rows, _)| self.team(rows, width))
            .collect::<Result<_, _>>()?;
        let graph = self.gpu.capture(|| {
            if let Some(draft) = model {
                draft.enqueue_pass(CATCH_UP, true, None)?;
                for (&(level, _, below), &team) in levels.iter().zip(&of_levels) {
                    self.together(self.draft, &[Arg::Ptr(level)], team)?;
                    if below > 0 {
                        draft.enqueue_pass(below, true, None)?;
                    }
                }
                if let Some(judge) = &draft_judge {
                    draft.enqueue_pass(1 + shape.nodes(), false, Some(judge))?;
                }
            }
            if lookup > 0 {
                let args = [Arg::Ptr(lookup)];
                // SAFETY: ngram.cu's parameter; the buffers live as long as the graph.
                unsafe {
                    self.gpu
                        .launch(self.ngram, [1, 1, 1], NGRAM_THREADS, 0, &args)?
                };
            }
            let rows = 1 + if drafts { shape.nodes() } else { 0 };
            target.enqueue_pass(rows, true, judge.as_ref().map(|j| &*j.target))?;
            self.together(
                self.verify,
                &[Arg::Ptr(verification), Arg::I32(1)],
                of_verify,
            )?;
            target.enqueue_commit()?;
            model.map_or(Ok(()), Forward::enqueue_commit)
        })?;
        self.prepared.push(Prepared {
            step: step.clone(),
            judge,
            graph,
            _buffers: buffers,
        });
        Ok(self.prepared.len() - 1)
    }

    /// Blocks for so many rows over a vocabulary at a time, and their workspace.
    fn team(&mut self, rows: usize, vocabulary: usize) -> Result<(Teams, u64), DeviceError> {
        let blocks = self.gpu.properties().multiprocessors;
        let teams = Teams::of(rows, vocabulary, blocks, dynamic_shared(&self.gpu));
        if let Some((_, workspace)) = self.workspaces.iter().find(|(t, _)| *t == teams) {
            return Ok((teams, workspace.address()));
        }
        let bytes = teams.teams * teams.workspace;
        let workspace = Buffer::zeroed(&self.gpu, "workspace of teams", bytes)?;
        let address = workspace.address();
        self.workspaces.push((teams, workspace));
        Ok((teams, address))
    }

    /// Enqueues verify or draft on a team.
    fn together(
        &self,
        kernel: Function,
        first: &[Arg<'_>],
        (teams, workspace): (Teams, u64),
    ) -> Result<(), DeviceError> {
        let args = [
            first,
            &[
                Arg::I32(teams.size as i32),
                Arg::Ptr(workspace),
                Arg::Ptr(teams.workspace as u64),
                Arg::I32(teams.slots as i32),
            ],
        ]
        .concat();
        // SAFETY: the parameters of verify.cu and draft.cu; what they name lives as long as the graph.
        unsafe {
            self.gpu.launch_together(
                kernel,
                [teams.blocks(), 1, 1],
                THREADS,
                teams.shared_bytes(),
                &args,
            )
        }
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

/// The judge that a step asks.
fn judged(step: &Step) -> Option<&Arc<Judge>> {
    step.judge
        .as_ref()
        .filter(|_| step.policy.rule.needs_scores())
}

/// Whether one graph serves both.
fn same(a: &Step, b: &Step) -> bool {
    let judges = match (judged(a), judged(b)) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    };
    judges
        && a.shape == b.shape
        && a.draw == b.draw
        && a.draft_sampling == b.draft_sampling
        && a.log_probabilities == b.log_probabilities
        && a.policy == b.policy
}

/// Children of the nodes of each level; best-first, as many as the tree may have nodes.
fn branching(shape: &Shape) -> Vec<usize> {
    match shape {
        Shape::Chain(gamma) => vec![1; *gamma],
        Shape::Levels(branching) => branching.clone(),
        Shape::BestFirst { nodes, depth } => vec![*nodes; *depth],
    }
}

/// Refuses what the kernels cannot do.
fn check(step: &Step, drafting: &Drafting) -> Result<(), DeviceError> {
    step.policy.check().map_err(VerifyError::from)?;
    step.draft_sampling.check().map_err(VerifyError::from)?;
    let (shape, rule) = (&step.shape, step.policy.rule);
    if shape.nodes() >= STEP_ROWS {
        return Err(DeviceError::Draft(format!(
            "a tree of {} nodes, expected at most {} (on CUDA)",
            shape.nodes(),
            STEP_ROWS - 1
        )));
    }
    if let (Shape::BestFirst { nodes, depth }, Drafting::Model(_)) = (shape, drafting) {
        if nodes * depth > MAX_NODES {
            return Err(DeviceError::Draft(format!(
                "tree shape '{shape}': {nodes} nodes on each of {depth} levels may be drafted, expected at most {MAX_NODES} (on CUDA)"
            )));
        }
        if rule.needs_r() {
            return Err(DeviceError::Draft(format!(
                "tree shape '{shape}' with rule '{rule}', expected a chain or children per level such as 4x2x2x1: a tree that grows best-first does not keep the drafter's logits (on CUDA)"
            )));
        }
    }
    if rule == Rule::Block && !shape.is_chain() {
        return Err(VerifyError::BlockTree { node: 1, before: 0 }.into());
    }
    if rule == Rule::Block && step.judge.is_some() {
        return Err(VerifyError::BlockJudge.into());
    }
    if rule.needs_scores() && step.judge.is_none() {
        let what = "a judge's scores";
        return Err(VerifyError::Missing { rule, what }.into());
    }
    Ok(())
}

/// The parts of a judge, as they were made when it was first asked.
fn parts_of(known: &mut Vec<Arc<Parts>>, judge: &Arc<Judge>) -> Arc<Parts> {
    if let Some(parts) = known.iter().find(|p| Arc::ptr_eq(&p.whole, judge)) {
        return parts.clone();
    }
    if known.len() == MAX_GRAPHS {
        known.remove(0);
    }
    let parts = Arc::new(Parts::of(judge));
    known.push(parts.clone());
    parts
}

/// How a judge's score follows from what the passes leave, but for the address of the biases, which
/// come with it.
fn scoring(judge: &Parts, target: &Forward, draft: Option<&Forward>) -> (Scoring, Vec<f32>) {
    let tap = |model: &Forward, part: &Judge, t: usize| {
        let (c, tap) = (&model.model.config, part.features.taps[t]);
        let rides = rides(part, tap);
        let parts = model.square_parts();
        ScoringTap {
            products: match rides {
                true => model.judge_dots(part),
                false => model.judge_products(t),
            },
            squares: match tap {
                Tap::Final => model.squares().address(),
                Tap::Layer(_) => 0,
            },
            count: if rides { parts } else { part.head.width() } as i32,
            is_parts: i32::from(rides),
            parts: parts as i32,
            width: c.hidden_size as f32,
            eps: c.rms_norm_eps,
            reserved: 0,
        }
    };
    let mut scoring = Scoring::zeroed();
    if let (Some(part), Some(draft)) = (&judge.draft, draft) {
        scoring.tap[0] = tap(draft, part, 0);
    }
    for t in 0..judge.target.features.taps.len().min(2) {
        scoring.tap[1 + t] = tap(target, &judge.target, t);
    }
    scoring.units = judge.whole.head.width() as i32;
    scoring.is_importance = i32::from(judge.whole.meaning == Meaning::Important);
    let bias = match &judge.whole.head {
        Head::Linear { b, .. } => vec![*b],
        Head::TwoLayer { b1, w2, b2, .. } => {
            scoring.is_two_layer = 1;
            scoring.last_bias = *b2;
            [&b1[..], w2].concat()
        }
    };
    (scoring, bias)
}

fn dynamic_shared(gpu: &Gpu) -> usize {
    let most = gpu.properties().shared_bytes.saturating_sub(STATIC_SHARED);
    DYNAMIC_SHARED.min(most)
}

// a tree that the kernels hold is larger than any that a step drafts
const _: () = assert!(STEP_ROWS <= MAX_NODES);
