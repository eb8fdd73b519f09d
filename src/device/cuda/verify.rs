//! The structs of step.cuh: what the verify and draft kernels read and write.

use super::layout::MAX_ROWS;
use crate::tree::TokenTree;
use crate::verify;
use bytemuck::{Pod, Zeroable};

/// Nodes of a token tree at most: with the root they are the rows of one sweep.
pub const MAX_NODES: usize = MAX_ROWS - 1;
/// Levels of a step's tree at most: a path and one token more are what a report holds.
pub const MAX_DEPTH: usize = 63;
/// Threads of a block of verify and draft.
pub const THREADS: usize = 256;
/// Ids whose weights are summed at a time.
pub const CHUNK: usize = verify::math::CHUNK;
/// Parts of rows that a block keeps at a time.
const SLICES: usize = 3;
/// Uses of random numbers, see [`verify::Use`].
pub const USES: usize = 5;

/// A proposal; parent -1 is the last committed token.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Tree {
    /// How many.
    pub nodes: i32,
    /// Their tokens.
    pub token: [i32; MAX_NODES],
    /// Their parents.
    pub parent: [i32; MAX_NODES],
    /// Zero.
    pub reserved: i32,
}

/// Temperature, top-k (0: all), top-p.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[allow(missing_docs)] // as verify::Sampling
pub struct Sampling {
    pub temperature: f32,
    pub top_k: i32,
    pub top_p: f32,
}

/// A law over a row of logits, see step.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct Law {
    /// Sum of the weights.
    pub total: u64,
    /// The best logit.
    pub max: f32,
    /// Temperature.
    pub temperature: f32,
    /// [`order_key`] of the last logit that is kept.
    pub key: u32,
    /// The last id that is kept of those with that logit.
    pub id: i32,
    /// The only token, or -1.
    pub only: i32,
    /// Zero.
    pub reserved: i32,
}

/// How drafted tokens are accepted. See step.cuh for what the numbers mean under each rule.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[allow(missing_docs)] // said in step.cuh
pub struct Policy {
    pub rule: i32,
    pub a: f32,
    pub b: f32,
    pub k: i32,
    pub sampling: Sampling,
    pub guards: i32,
    pub guard: u64,
}

/// Where a sequence's random numbers come from.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[allow(missing_docs)] // as verify::Philox
pub struct Stream {
    pub seed: u64,
    pub sequence: u32,
    pub step: u32,
}

/// A decision that is made in place of a random number, and the probability it had.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct Choice {
    /// 1 or 0 of a test, the token of a draw.
    pub made: i32,
    /// Written by the kernel.
    pub probability: f32,
}

/// What the verification of one sequence came to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct Verdict {
    /// 0, or what was wrong: `Verdict::Error` of step.cuh.
    pub error: i32,
    /// Row, or node, of the error.
    pub at: i32,
    /// Of the accepted path.
    pub length: i32,
    /// The target's own token after it.
    pub next: i32,
    /// 1: drawn after a rejection; 0: a bonus.
    pub residual: i32,
    /// Accepted nodes, root first.
    pub path: [i32; MAX_NODES],
    /// [`verify::Reason`] of every node, in its order.
    pub reason: [i32; MAX_NODES],
    /// NaN where the rule was not asked.
    pub acceptability: [f32; MAX_NODES],
}

/// One sequence's step; addresses of device memory, 0 where there is nothing. See step.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[allow(missing_docs)] // said in step.cuh
pub struct Verification {
    pub tree: u64,
    pub target: u64,
    pub best: u64,
    pub drafter: u64,
    pub drafter_best: u64,
    pub laws: u64,
    pub scores: u64,
    pub scoring: u64,
    pub stream: u64,
    pub script: u64,
    pub verdict: u64,
    pub commit: u64,
    pub policy: Policy,
    pub vocabulary: i32,
    pub target_stride: i32,
    pub parts: i32,
    pub drafter_vocabulary: i32,
    pub drafter_stride: i32,
    pub drafter_parts: i32,
}

/// A tree while it grows, level by level.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct Growing {
    /// What there is of it.
    pub tree: Tree,
    /// First row of the level whose children come next; row 0 is the last committed token.
    pub first_row: i32,
    /// Rows of that level.
    pub rows: i32,
    /// Levels that there is room for.
    pub depth: i32,
    /// A row whose logits are unusable, or -1.
    pub failed_row: i32,
    /// Blocks that are done with the level.
    pub arrived: u32,
    /// Nodes that the draft model reads, or has read.
    pub passed: i32,
    /// Where each node of a finished tree lies in the draft model's cache, below the last committed
    /// token; -1 where it does not.
    pub source: [i32; MAX_NODES],
    /// Cumulative log-probability of each node, best-first.
    pub score: [f32; MAX_NODES],
}

/// How one level's children are chosen, see step.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[allow(missing_docs)] // said in step.cuh
pub struct Level {
    pub growing: u64,
    pub logits: u64,
    pub best: u64,
    pub laws: u64,
    pub stream: u64,
    pub chosen: u64,
    pub chosen_score: u64,
    pub sequence: u64,
    pub draft_rows: u64,
    pub draft_paths: u64,
    pub rows: u64,
    pub paths: u64,
    pub sampling: Sampling,
    pub width: i32,
    pub stride: i32,
    pub parts: i32,
    pub depth: i32,
    pub children: i32,
    pub keep: i32,
    pub last: i32,
}

/// A sequence between two steps, see step.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[allow(missing_docs)] // said in step.cuh
pub struct Sequence {
    pub stream: Stream,
    pub length: i32,
    pub limit: i32,
    pub context: i32,
    pub draft_context: i32,
    pub drafted: i32,
    pub finish: i32,
    pub reports: i32,
    pub stops: i32,
    pub stop: u64,
    pub history: u64,
    pub began: [u64; 2],
}

/// What a step tells the host, see step.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[allow(missing_docs)] // said in step.cuh
pub struct Report {
    pub finish: i32,
    pub committed: i32,
    pub nodes: i32,
    pub depth: i32,
    pub error: i32,
    pub at: i32,
    pub reserved: [i32; 2],
    pub began: [u64; 3],
    pub ended: u64,
    pub token: [u32; MAX_DEPTH + 1],
    pub acceptability: [f32; MAX_DEPTH + 1],
    pub log_probability: [f32; MAX_DEPTH + 1],
}

/// Reports that are kept.
pub const RING: usize = 4;

/// What becomes of a verdict, see step.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[allow(missing_docs)] // said in step.cuh
pub struct Commit {
    pub sequence: u64,
    pub growing: u64,
    pub ring: u64,
    pub rows: u64,
    pub path: u64,
    pub draft_rows: u64,
    pub draft_path: u64,
    pub log_probabilities: i32,
    pub reserved: i32,
}

/// Where a part of a judge's score lies, see step.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[allow(missing_docs)] // said in step.cuh
pub struct ScoringTap {
    pub products: u64,
    pub squares: u64,
    pub count: i32,
    pub is_parts: i32,
    pub parts: i32,
    pub width: f32,
    pub eps: f32,
    pub reserved: i32,
}

/// How a judge scores a row, see step.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[allow(missing_docs)] // said in step.cuh
pub struct Scoring {
    pub tap: [ScoringTap; 3],
    pub bias: u64,
    pub units: i32,
    pub last_bias: f32,
    pub is_two_layer: i32,
    pub is_importance: i32,
}

/// Prompt lookup, see step.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[allow(missing_docs)] // said in step.cuh
pub struct Lookup {
    pub sequence: u64,
    pub growing: u64,
    pub rows: u64,
    pub paths: u64,
    pub shortest: i32,
    pub longest: i32,
    pub depth: i32,
    pub most: i32,
    pub children: [i32; MAX_DEPTH + 1],
}

const _: () = assert!(
    size_of::<Sequence>() == 16 + 8 * 4 + 4 * 8,
    "as in step.cuh"
);
const _: () = assert!(
    size_of::<Report>() == 64 + 3 * 4 * (MAX_DEPTH + 1),
    "as in step.cuh"
);
const _: () = assert!(size_of::<Commit>() == 8 * 8, "as in step.cuh");
const _: () = assert!(size_of::<Scoring>() == 3 * 40 + 8 + 4 * 4, "as in step.cuh");
const _: () = assert!(
    size_of::<Lookup>() == 4 * 8 + 4 * 4 + 4 * (MAX_DEPTH + 1),
    "as in step.cuh"
);
const _: () = assert!(size_of::<Tree>() == 8 + 2 * 4 * MAX_NODES, "as in step.cuh");
const _: () = assert!(size_of::<Law>() == 32, "as in step.cuh");
const _: () = assert!(size_of::<Policy>() == 40, "as in step.cuh");
const _: () = assert!(
    size_of::<Verdict>() == 20 + 3 * 4 * MAX_NODES,
    "as in step.cuh"
);
const _: () = assert!(
    size_of::<Verification>() == 12 * 8 + 40 + 6 * 4,
    "as in step.cuh"
);
const _: () = assert!(
    size_of::<Growing>() == size_of::<Tree>() + 24 + 2 * 4 * MAX_NODES,
    "as in step.cuh"
);
const _: () = assert!(size_of::<Level>() == 12 * 8 + 10 * 4, "as in step.cuh");

impl Tree {
    /// A tree of at most [`MAX_NODES`] nodes; `None` for a larger one.
    pub fn of(tree: &TokenTree) -> Option<Tree> {
        let mut all = Tree::zeroed();
        all.nodes = tree.len() as i32;
        let tokens = all.token.get_mut(..tree.len())?;
        for (to, &token) in tokens.iter_mut().zip(tree.tokens()) {
            *to = token as i32;
        }
        all.parent[..tree.len()].copy_from_slice(tree.parents());
        Some(all)
    }
}

impl Sampling {
    /// The same on the device.
    pub fn of(sampling: &verify::Sampling) -> Sampling {
        Sampling {
            temperature: sampling.temperature,
            top_k: i32::try_from(sampling.top_k).unwrap_or(i32::MAX),
            top_p: sampling.top_p,
        }
    }
}

impl Policy {
    /// The same on the device, where its guard lies at `guard`.
    pub fn of(policy: &verify::Policy, guard: u64) -> Policy {
        use verify::Rule;
        let (rule, a, b, k) = match policy.rule {
            Rule::Chain => (0, 0.0, 0.0, 0),
            Rule::Block => (1, 0.0, 0.0, 0),
            Rule::Judge { theta } => (2, theta, 0.0, 0),
            Rule::Kl { delta, reverse } => (3, delta, 0.0, i32::from(reverse)),
            Rule::Margin { ratio } => (4, ratio, 0.0, 0),
            Rule::Typical { eps, alpha } => (5, eps, alpha, 0),
            Rule::Threshold { t } => (6, t, 0.0, 0),
            Rule::Sglang {
                single,
                accumulated,
            } => (7, single, accumulated, 0),
            Rule::TopK { k } => (8, 0.0, 0.0, i32::try_from(k).unwrap_or(i32::MAX)),
            Rule::Synthetic { rate } => (9, rate, 0.0, 0),
        };
        Policy {
            rule,
            a,
            b,
            k,
            sampling: Sampling::of(&policy.sampling),
            guards: policy.guard.tokens().len() as i32,
            guard,
        }
    }
}

/// Orders as the logits do; both zeros have one.
pub fn order_key(logit: f32) -> u32 {
    let bits = (logit + 0.0).to_bits();
    match bits >> 31 {
        0 => bits ^ 0x8000_0000,
        _ => !bits,
    }
}

/// How blocks share the work on rows over a vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Teams {
    /// Blocks of a sequence.
    pub size: usize,
    /// Sequences that are worked on at a time.
    pub teams: usize,
    /// Chunks of a row that a block may keep in shared memory.
    pub slots: usize,
    /// Bytes of a team's workspace, zero before the first launch.
    pub workspace: usize,
}

impl Teams {
    /// For `sequences` of a vocabulary on `blocks` blocks that are resident together, each with
    /// `shared_bytes` of dynamic shared memory at most.
    pub fn of(sequences: usize, vocabulary: usize, blocks: usize, shared_bytes: usize) -> Teams {
        let size = (blocks / sequences.max(1)).max(1);
        let teams = (blocks / size).clamp(1, sequences.max(1));
        let chunks = vocabulary.div_ceil(CHUNK);
        let own = chunks.div_ceil(size);
        let slots = match own <= shared_bytes / (4 * SLICES * CHUNK) {
            true => own,
            false => 0,
        };
        Teams {
            size,
            teams,
            slots,
            workspace: workspace_bytes(chunks, size, own > slots),
        }
    }

    /// Blocks of a launch.
    pub fn blocks(&self) -> usize {
        self.size * self.teams
    }

    /// Dynamic shared memory of a block.
    pub fn shared_bytes(&self) -> usize {
        4 * SLICES * CHUNK * self.slots
    }
}

/// Static shared memory of verify, draft and laws, rounded up.
const STATIC_SHARED: usize = 16 << 10;
/// Dynamic shared memory that they ask for at most.
const DYNAMIC_SHARED: usize = 144 << 10;

/// Dynamic shared memory that a team's block asks for at most, of the `shared_bytes` that it may.
pub(super) fn dynamic_shared(shared_bytes: usize) -> usize {
    DYNAMIC_SHARED.min(shared_bytes.saturating_sub(STATIC_SHARED))
}

/// `Workspace::bytes` of vocabulary.cuh.
fn workspace_bytes(chunks: usize, size: usize, slices: bool) -> usize {
    const SUMS: usize = 4;
    const BEST: usize = 16;
    let exchange = 16 + 8 * (MAX_NODES + 1) + 2 * BEST * (MAX_NODES + 1) + 8 * MAX_NODES + 8;
    let bins = 3 * 256 * 12;
    let parts = [
        exchange + bins,
        16 * chunks,
        8 * SUMS * chunks,
        4 * chunks,
        BEST * (MAX_NODES + 1) * size,
        match slices {
            true => 4 * SLICES * CHUNK * size * chunks.div_ceil(size),
            false => 0,
        },
    ];
    parts.iter().map(|p| p.next_multiple_of(256)).sum()
}
