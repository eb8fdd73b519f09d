//! One way to step becomes a graph: what its launches read is brought to the device, then they are
//! captured.

use super::{Drafting, Stepper};
use crate::device::cuda::driver::{Arg, Function, Gpu};
use crate::device::cuda::forward::Forward;
use crate::device::cuda::graph::Graph;
use crate::device::cuda::judge::{Parts, rides};
use crate::device::cuda::memory::Buffer;
use crate::device::cuda::verify::{
    self, Level, Lookup, MAX_DEPTH, MAX_NODES, Policy, Sampling, Scoring, ScoringTap, Sequence,
    THREADS, Teams, Verification,
};
use crate::device::{DeviceError, Draw, Step};
use crate::draft::Ngram;
use crate::judge::{Head, Judge, Meaning, Tap};
use crate::tree::Shape;
use crate::verify::{Rule, VerifyError};
use bytemuck::Zeroable;
use std::mem::offset_of;
use std::sync::Arc;

/// Ways to step whose graphs are kept.
const MAX_GRAPHS: usize = 32;
/// Rows of a draft model's first pass in a step: what the target supplied, and an accepted leaf.
const CATCH_UP: usize = 2;
/// Threads of ngram's block.
const NGRAM_THREADS: usize = 512;

/// One way to step, ready to be launched.
pub(super) struct Prepared {
    step: Step,
    pub judge: Option<Arc<Parts>>,
    pub graph: Graph,
    /// What the captured launches read besides the stepper's own buffers.
    _buffers: Vec<Buffer>,
}

/// What a graph's launches read, brought to the device.
struct Brought {
    gpu: Arc<Gpu>,
    buffers: Vec<Buffer>,
}

impl Brought {
    fn new(gpu: &Arc<Gpu>) -> Brought {
        Brought {
            gpu: gpu.clone(),
            buffers: Vec::new(),
        }
    }

    fn bring(&mut self, label: &'static str, bytes: &[u8]) -> Result<u64, DeviceError> {
        let buffer = Buffer::of(&self.gpu, label, bytes)?;
        let address = buffer.address();
        self.buffers.push(buffer);
        Ok(address)
    }
}

impl Stepper {
    /// The graph of a step, captured now if it is new.
    pub(super) fn prepare(
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
        // what is captured allocates nothing
        let mut brought = Brought::new(&self.gpu);
        let shape = &step.shape;
        let model = drafting.model().filter(|_| drafts(shape));
        let judge = judged(step).map(|judge| parts_of(&mut self.judges, judge));
        let draft_judge = judge.as_ref().and_then(|j| j.draft.clone());
        let mut levels = Vec::new();
        if let Some(draft) = model {
            let width = shared_width(target, draft);
            let reads_leaves = draft_judge.is_some();
            for (level, rows, below) in self.levels(step, target, draft, reads_leaves) {
                let at = brought.bring("draft level", bytemuck::bytes_of(&level))?;
                levels.push((at, self.team(rows, width)?, below));
            }
        }
        let lookup = match drafting {
            Drafting::Ngram(ngram) if drafts(shape) => {
                let lookup = self.lookup(ngram, shape, target);
                Some(brought.bring("prompt lookup", bytemuck::bytes_of(&lookup))?)
            }
            _ => None,
        };
        let verification =
            self.verification(step, target, model, judge.as_deref(), &mut brought)?;
        let team = self.team(1, target.model.config.vocab_size)?;

        let graph = self.gpu.capture(|| {
            if let Some(draft) = model {
                draft.enqueue_pass(CATCH_UP, true, None, self.began(0))?;
                for &(level, team, below) in &levels {
                    self.together(self.draft, &[Arg::Ptr(level)], team)?;
                    if below > 0 {
                        draft.enqueue_pass(below, true, None, 0)?;
                    }
                }
                if let Some(judge) = &draft_judge {
                    draft.enqueue_pass(1 + shape.nodes(), false, Some(judge), 0)?;
                }
            }
            if let Some(lookup) = lookup {
                let args = [Arg::Ptr(lookup)];
                // SAFETY: ngram.cu's parameter; the buffers live as long as the graph.
                unsafe {
                    self.gpu
                        .launch(self.ngram, [1, 1, 1], NGRAM_THREADS, 0, &args)?;
                }
            }
            let rows = 1 + if drafts(shape) { shape.nodes() } else { 0 };
            let judge = judge.as_ref().map(|j| &*j.target);
            target.enqueue_pass(rows, true, judge, self.began(1))?;
            self.together(self.verify, &[Arg::Ptr(verification), Arg::I32(1)], team)?;
            target.enqueue_commit()?;
            model.map_or(Ok(()), Forward::enqueue_commit)
        })?;
        self.prepared.push(Prepared {
            step: step.clone(),
            judge,
            graph,
            _buffers: brought.buffers,
        });
        Ok(self.prepared.len() - 1)
    }

    /// Where draft (0) and target pass (1) leave when they began.
    fn began(&self, phase: usize) -> u64 {
        self.sequence.address() + (offset_of!(Sequence, began) + 8 * phase) as u64
    }

    /// How each level of a draft model's tree is chosen, of how many rows, and how many rows the
    /// model reads below it: none below the last one, whose nodes it reads only with the whole tree,
    /// where `reads_leaves` says so.
    fn levels(
        &self,
        step: &Step,
        target: &Forward,
        draft: &Forward,
        reads_leaves: bool,
    ) -> Vec<(Level, usize, usize)> {
        let keep = match step.shape {
            Shape::BestFirst { nodes, .. } => nodes,
            _ => 0,
        };
        let branching = branching(&step.shape);
        let mut levels = Vec::new();
        let mut rows = 1;
        for (depth, &children) in branching.iter().enumerate() {
            let last = depth + 1 == branching.len();
            let level = Level {
                growing: self.growing.address(),
                logits: draft.logits().address(),
                best: bests(target, draft),
                laws: self.laws_of(step),
                stream: self.sequence.address(),
                chosen: self.chosen.address(),
                chosen_score: self.chosen_score.address(),
                sequence: self.sequence.address(),
                draft_rows: match !last || reads_leaves {
                    true => draft.rows().address(),
                    false => 0,
                },
                draft_paths: draft.paths().address(),
                rows: if last { target.rows().address() } else { 0 },
                paths: target.paths().address(),
                sampling: Sampling::of(&step.draft_sampling),
                width: shared_width(target, draft) as i32,
                stride: draft.logits_stride() as i32,
                parts: draft.best_parts() as i32,
                depth: depth as i32,
                children: children as i32,
                keep: keep as i32,
                last: i32::from(last),
            };
            let below = match keep {
                0 => rows * children,
                _ => keep,
            };
            levels.push((level, rows, if last { 0 } else { below }));
            rows = below;
        }
        levels
    }

    /// Where the laws of sampled children lie, 0 where the best are taken; best-first children are no
    /// draws from a law.
    fn laws_of(&self, step: &Step) -> u64 {
        let by_best = matches!(step.shape, Shape::BestFirst { .. });
        match step.draw == Draw::Sampled && !by_best {
            true => self.laws.address(),
            false => 0,
        }
    }

    /// How prompt lookup grows a tree of this shape.
    fn lookup(&self, ngram: &Ngram, shape: &Shape, target: &Forward) -> Lookup {
        let branching = branching(shape);
        let mut children = [0; MAX_DEPTH + 1];
        for (to, &of_level) in children.iter_mut().zip(&branching) {
            *to = of_level as i32;
        }
        let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        Lookup {
            sequence: self.sequence.address(),
            growing: self.growing.address(),
            rows: target.rows().address(),
            paths: target.paths().address(),
            shortest: number(ngram.shortest),
            longest: number(ngram.longest),
            depth: branching.len() as i32,
            most: match shape {
                Shape::BestFirst { nodes, .. } => *nodes as i32,
                _ => 0,
            },
            children,
        }
    }

    /// Brings what verify reads; its address.
    fn verification(
        &self,
        step: &Step,
        target: &Forward,
        model: Option<&Forward>,
        judge: Option<&Parts>,
        brought: &mut Brought,
    ) -> Result<u64, DeviceError> {
        let scoring = match judge {
            None => 0,
            Some(judge) => {
                let (scoring, bias) = scoring(judge, target, model);
                let bias = brought.bring("judge's biases", bytemuck::cast_slice(&bias))?;
                let scoring = Scoring { bias, ..scoring };
                brought.bring("scoring", bytemuck::bytes_of(&scoring))?
            }
        };
        let guard = match step.policy.guard.tokens() {
            [] => 0,
            tokens => brought.bring("guarded tokens", bytemuck::cast_slice(tokens))?,
        };
        let commit = self.commit_of(target, model, step.log_probabilities);
        let commit = brought.bring("commit", bytemuck::bytes_of(&commit))?;
        // best-first levels overwrite each other's logits
        let by_best = matches!(step.shape, Shape::BestFirst { .. });
        let with_logits = model.filter(|_| !by_best);
        let verification = Verification {
            tree: self.growing.address(),
            target: target.logits().address(),
            best: target.bests().address(),
            drafter: with_logits.map_or(0, |d| d.logits().address()),
            drafter_best: with_logits.map_or(0, |d| bests(target, d)),
            laws: with_logits.map_or(0, |_| self.laws_of(step)),
            scores: 0,
            scoring,
            stream: self.sequence.address(),
            script: 0,
            verdict: self.verdict.address(),
            commit,
            policy: Policy::of(&step.policy, guard),
            vocabulary: target.model.config.vocab_size as i32,
            target_stride: target.logits_stride() as i32,
            parts: target.best_parts() as i32,
            drafter_vocabulary: with_logits.map_or(0, |d| shared_width(target, d)) as i32,
            drafter_stride: with_logits.map_or(0, Forward::logits_stride) as i32,
            drafter_parts: with_logits.map_or(0, Forward::best_parts) as i32,
        };
        brought.bring("verification", bytemuck::bytes_of(&verification))
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

/// Ids that target and drafter both have.
fn shared_width(target: &Forward, draft: &Forward) -> usize {
    let [a, b] = [target, draft].map(|m| m.model.config.vocab_size);
    a.min(b)
}

/// Where the drafter's LM head leaves the best logits, 0 where they are of more ids than the target's.
fn bests(target: &Forward, draft: &Forward) -> u64 {
    match draft.model.config.vocab_size == shared_width(target, draft) {
        true => draft.bests().address(),
        false => 0,
    }
}

/// The judge that a step asks.
fn judged(step: &Step) -> Option<&Arc<Judge>> {
    step.judge
        .as_ref()
        .filter(|_| step.policy.rule.needs_scores())
}

/// Whether a step of this shape drafts anything.
pub(super) fn drafts(shape: &Shape) -> bool {
    shape.nodes() > 0 && shape.depth() > 0
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
        // a step's tree is no deeper than it has nodes
        Shape::BestFirst { nodes, depth } => vec![*nodes; (*depth).min(*nodes)],
    }
}

/// Refuses what the kernels cannot do.
fn check(step: &Step, drafting: &Drafting) -> Result<(), DeviceError> {
    step.policy.check().map_err(VerifyError::from)?;
    step.draft_sampling.check().map_err(VerifyError::from)?;
    let (shape, rule) = (&step.shape, step.policy.rule);
    if shape.nodes() > MAX_NODES {
        return Err(DeviceError::Draft(format!(
            "a tree of {} nodes, expected at most {MAX_NODES} (on CUDA)",
            shape.nodes()
        )));
    }
    let levels = branching(shape).len();
    if levels > MAX_DEPTH {
        return Err(DeviceError::Draft(format!(
            "a draft of {levels} tokens on one path, expected at most {MAX_DEPTH} (on CUDA)"
        )));
    }
    if let (Shape::BestFirst { nodes, depth }, Drafting::Model(_)) = (shape, drafting) {
        if nodes.saturating_mul(*depth) > MAX_NODES {
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

/// Dynamic shared memory that verify and draft ask for at most.
pub(super) fn dynamic_shared(gpu: &Gpu) -> usize {
    verify::dynamic_shared(gpu.properties().shared_bytes)
}
