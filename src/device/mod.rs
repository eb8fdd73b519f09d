//! Where models run. The boundary is a whole decoding step, not a tensor operation.
//!
//! A [`Device`] holds a target, its drafter and one sequence. [`Device::enqueue`]
//! asks for a step (draft, target pass over the token tree, judge, verify,
//! commit) and returns at once; [`Device::read`] waits for its result. Several
//! steps may be in flight: stop tokens and length limits are known to the device,
//! and steps after the end do nothing. [`Device::pass`] is the target pass alone,
//! for prompts, `gavel logits` and mining.

pub mod cpu;
pub mod cuda;
mod range;
mod sequence;

use crate::draft::Drafter;
use crate::judge::Judge;
use crate::model::Model;
use crate::tree::{Shape, TokenTree};
use crate::verify::{Policy, Sampling, VerifyError};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// What a device is opened with.
#[derive(Clone)]
pub struct Setup {
    /// The model whose output the user wants.
    pub target: Arc<Model>,
    /// What proposes tokens.
    pub drafter: Drafter,
    /// Most positions of a sequence, prompt included.
    pub context: usize,
    /// Threads of the CPU device; 0 takes all cores.
    pub threads: usize,
}

/// Context where neither the user nor the model says less.
const DEFAULT_CONTEXT: usize = 8192;

impl Setup {
    /// Positions where nobody says how many: 8,192, or as many as the model was made for.
    pub fn default_context(target: &Model) -> usize {
        DEFAULT_CONTEXT.min(target.config.max_positions)
    }
}

/// Which device: `cpu`, `cuda` or `cuda:INDEX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The CPU.
    Cpu,
    /// GPU number so and so.
    Cuda(usize),
}

/// A name that no device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected cpu or cuda[:INDEX]")]
pub struct UnknownPlace;

impl FromStr for Place {
    type Err = UnknownPlace;

    fn from_str(name: &str) -> Result<Place, UnknownPlace> {
        match (name, name.strip_prefix("cuda")) {
            ("cpu", _) => Ok(Place::Cpu),
            (_, Some("")) => Ok(Place::Cuda(0)),
            (_, Some(rest)) => {
                let index = rest.strip_prefix(':').and_then(|index| index.parse().ok());
                index.map(Place::Cuda).ok_or(UnknownPlace)
            }
            _ => Err(UnknownPlace),
        }
    }
}

impl Place {
    /// Opens the device.
    ///
    /// # Errors
    /// Those of [`cpu::Cpu::open`] or [`cuda::Cuda::open`].
    pub fn open(self, setup: &Setup) -> Result<Box<dyn Device>, DeviceError> {
        Ok(match self {
            Place::Cpu => Box::new(cpu::Cpu::open(setup)?),
            Place::Cuda(index) => Box::new(cuda::Cuda::open(setup, index)?),
        })
    }
}

/// A sequence to decode.
#[derive(Clone, Debug)]
pub struct Request {
    /// Prompt token ids, at least one.
    pub prompt: Vec<u32>,
    /// Most tokens to add.
    pub max_tokens: usize,
    /// Tokens after which the sequence ends; they are committed themselves.
    pub stop_tokens: Vec<u32>,
    /// Key of all random numbers.
    pub seed: u64,
    /// Which of the sequences of a seed this is.
    pub sequence: u32,
}

/// How the children of a node are chosen from the drafter's law.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Draw {
    /// Drawn from q, without replacement where a node has several.
    Sampled,
    /// The most probable ones.
    Top,
}

/// A name that no draw has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected sample or top")]
pub struct UnknownDraw;

impl FromStr for Draw {
    type Err = UnknownDraw;

    fn from_str(name: &str) -> Result<Draw, UnknownDraw> {
        match name {
            "sample" => Ok(Draw::Sampled),
            "top" => Ok(Draw::Top),
            _ => Err(UnknownDraw),
        }
    }
}

/// One decoding step: all that a device needs to know beyond its state.
#[derive(Clone, Debug)]
pub struct Step {
    /// The tree to draft.
    pub shape: Shape,
    /// How the drafter chooses children.
    pub draw: Draw,
    /// The law q from which a sampling drafter draws: temperature, top-k and top-p on its logits.
    pub draft_sampling: Sampling,
    /// What scores the proposed tokens, for [`crate::verify::Rule::Judge`].
    pub judge: Option<Arc<Judge>>,
    /// What is accepted.
    pub policy: Arc<Policy>,
    /// Whether every committed token comes with its [`Committed::log_probability`].
    pub log_probabilities: bool,
}

impl Step {
    /// A step of this shape: chains are drawn from the drafter's law, which is truncated as the
    /// target's is, trees take the best children. No judge, no log-probabilities.
    pub fn new(shape: Shape, policy: Policy) -> Step {
        Step {
            draw: match shape.is_chain() {
                true => Draw::Sampled,
                false => Draw::Top,
            },
            shape,
            draft_sampling: policy.sampling,
            judge: None,
            policy: Arc::new(policy),
            log_probabilities: false,
        }
    }
}

/// A step under way. Tickets are read in the order in which they were given out.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a step's result is read with its ticket"]
pub struct Ticket(u64);

/// Why a token was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenReason {
    /// Drafted, and accepted by the lossless rule.
    Aligned,
    /// Drafted, and rescued by a judge rule.
    Judged,
    /// The target's own, after a path to a leaf.
    Bonus,
    /// The target's own, after a rejection.
    Residual,
}

/// A token added to the sequence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Committed {
    /// Its id.
    pub token: u32,
    /// Why it stands there.
    pub reason: TokenReason,
    /// What a judge rule made of it, where one was asked.
    pub acceptability: Option<f32>,
    /// Logarithm of the probability that the target gives it, at temperature 1 and with nothing
    /// truncated, where the step asked for it.
    pub log_probability: Option<f32>,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Finish {
    /// A stop token was committed.
    Stop,
    /// [`Request::max_tokens`] are there.
    Length,
    /// The context is full.
    Context,
}

/// Time of a step by phase.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepTimes {
    /// Growing the tree, the drafter's passes included.
    pub draft: Duration,
    /// The target pass.
    pub target: Duration,
    /// Judge, verification and commit.
    pub verify: Duration,
}

/// What a step did.
#[derive(Clone, Debug, Default)]
pub struct StepReport {
    /// The accepted path, then the token that the target supplied; nothing after a stop
    /// token. Empty when the sequence had ended before; `finish` then says why again.
    pub committed: Vec<Committed>,
    /// Nodes of the tree.
    pub nodes: usize,
    /// Depth of the tree.
    pub depth: usize,
    /// Whether the sequence is at its end now, and why.
    pub finish: Option<Finish>,
    /// Time by phase.
    pub times: StepTimes,
}

/// Which rows of a pass need logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Logits {
    /// None, as in a prompt's first chunks.
    #[default]
    None,
    /// The last row.
    Last,
    /// Every row.
    All,
}

/// What a pass should return besides the keys and values it leaves behind.
#[derive(Clone, Debug, Default)]
pub struct Want {
    /// Rows with logits.
    pub logits: Logits,
    /// Hidden states after the final norm, of every row.
    pub hidden: bool,
    /// Layers after which the residual stream is wanted; 0 is the embedding.
    pub taps: Vec<usize>,
    /// The judge that scores the token of every row; one that reads the target alone.
    pub judge: Option<Arc<Judge>>,
}

/// What a pass computed, all row major in f32.
#[derive(Clone, Debug, Default)]
pub struct PassOutput {
    /// [rows with logits, V]
    pub logits: Vec<f32>,
    /// [rows, H], after the final norm
    pub last_hidden: Vec<f32>,
    /// (layer, [rows, H]) for each tap
    pub taps: Vec<(usize, Vec<f32>)>,
    /// \[rows\], the judge's acceptability of each row's token
    pub scores: Vec<f32>,
    /// What layers and head took, by the device's own clock; copies to the host count only where
    /// they stand between layers, as those of taps do.
    pub time: Duration,
}

/// Memory of a loaded device in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Weights of target and drafter, mapped from their files.
    pub weights: usize,
    /// KV caches of target and drafter at full context.
    pub kv: usize,
}

/// A plain read, or copy, of memory that was timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Bytes moved.
    pub bytes: usize,
    /// What it took.
    pub time: Duration,
}

/// What can go wrong on a device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The prompt does not fit.
    #[error(
        "the prompt has {found} tokens, the context holds {context}; at least one position must be left for an answer (--context)"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        found: usize,
        /// Positions of the context.
        context: usize,
    },
    /// A step before any sequence.
    #[error("a step was asked for before a sequence was started")]
    NotStarted,
    /// There is nothing to continue.
    #[error("the prompt has no tokens, expected at least one")]
    EmptyPrompt,
    /// A token outside the vocabulary.
    #[error("token {token} at place {place}, expected an id below the vocabulary's {vocab_size}")]
    Token {
        /// The id.
        token: u32,
        /// Where it stands.
        place: usize,
        /// Rows of the embedding.
        vocab_size: usize,
    },
    /// A context that the model was not made for, or none.
    #[error(
        "a context of {context} positions, expected 1 to {most} (the model's max_position_embeddings)"
    )]
    Context {
        /// What was asked for.
        context: usize,
        /// What the model knows.
        most: usize,
    },
    /// A pass that does not fit behind the committed positions.
    #[error("a pass of {rows} rows after {committed} positions, the context holds {context}")]
    Full {
        /// Rows of the pass.
        rows: usize,
        /// Committed positions.
        committed: usize,
        /// Positions of the context.
        context: usize,
    },
    /// A branch of a position that is not committed.
    #[error("root {root} of a pass follows {behind} positions, {committed} are committed")]
    Behind {
        /// Which of the roots.
        root: usize,
        /// What it was to follow.
        behind: usize,
        /// Committed positions.
        committed: usize,
    },
    /// A tap that the model has no layer for.
    #[error("tap after layer {layer}, the model has {layers} layers")]
    Tap {
        /// The tap.
        layer: usize,
        /// Layers of the model.
        layers: usize,
    },
    /// The policy does not fit the proposal or the logits.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// Logits that are no numbers, where activations are f16.
    #[error("{0}; on CUDA activations are f16, infinite beyond 65,504: --device cpu has float32")]
    NotFinite(VerifyError),
    /// The drafter cannot do what the step asks.
    #[error("{0}")]
    Draft(String),
    /// The judge reads what this set-up does not have.
    #[error("{0}")]
    Judge(String),
    /// There is no CUDA device that this build can use; the text says what was found and expected.
    #[error("{0}")]
    NoCuda(String),
    /// A call of the CUDA driver failed.
    #[error("{doing}: {call}: {said}")]
    Cuda {
        /// What the call was for.
        doing: String,
        /// The function.
        call: &'static str,
        /// What the driver said.
        said: String,
    },
    /// Target, drafter and context do not fit the memory of the GPU.
    #[error(
        "the GPU has {free} of free memory, {total} are needed: {weights} for weights, {kv} for the KV cache at a context of {context} (--context), {workspace} of workspace",
        free = MiB(*free), total = MiB(weights + kv + workspace), weights = MiB(*weights), kv = MiB(*kv), workspace = MiB(*workspace)
    )]
    Memory {
        /// Bytes that are free.
        free: usize,
        /// Bytes of packed weights.
        weights: usize,
        /// Bytes of KV caches.
        kv: usize,
        /// Bytes of everything else.
        workspace: usize,
        /// Positions.
        context: usize,
    },
    /// A model that the device's kernels are not made for.
    #[error("{path}: found {name} {found}, expected {expected} (on CUDA)", path = path.display())]
    Shape {
        /// The model's directory.
        path: PathBuf,
        /// Name in config.json.
        name: &'static str,
        /// What it is.
        found: usize,
        /// What it may be.
        expected: &'static str,
    },
    /// The threads could not be started.
    #[error("the worker threads could not be started: {0}")]
    Threads(String),
    /// A ticket that was not given out, or was read before.
    #[error("ticket {found} was read out of turn, the next is {expected}")]
    Ticket {
        /// What came.
        found: u64,
        /// What was due.
        expected: u64,
    },
}

/// Bytes, as messages say them.
struct MiB(usize);

impl fmt::Display for MiB {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} MiB", self.0 as f64 / f64::from(1 << 20))
    }
}

/// A target, its drafter and one sequence, on some hardware.
pub trait Device: Send {
    /// What this is, for `gavel info` and reports.
    fn describe(&self) -> String;

    /// Memory of what is loaded.
    fn memory(&self) -> MemoryPlan;

    /// What else `gavel info` has to say of it: names and values.
    fn details(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Moves as many bytes as a one-row pass of the target reads of its weights, as fast as this device
    /// can and without computing anything of it: the limit of a pass, to be measured beside passes. The
    /// CPU reads the weights; CUDA copies memory of the device, whose bytes count where they are read
    /// and where they are written. `None` where a device has no way to tell.
    fn read_weights(&mut self) -> Result<Option<Reading>, DeviceError> {
        Ok(None)
    }

    /// Forgets the sequence before and reads a new prompt.
    fn start(&mut self, request: &Request) -> Result<(), DeviceError>;

    /// Asks for a decoding step. Does not wait; at least two may be in flight. A judge that
    /// reads what target and drafter do not have is refused; whether it was trained for them
    /// is the caller's to ask, with [`Judge::check`].
    fn enqueue(&mut self, step: &Step) -> Result<Ticket, DeviceError>;

    /// The result of the oldest step not yet read.
    fn read(&mut self, ticket: Ticket) -> Result<StepReport, DeviceError>;

    /// Runs the target over `rows`, hung below the last committed position (or at the
    /// beginning). The rows are not committed.
    fn pass(&mut self, rows: &TokenTree, want: &Want) -> Result<PassOutput, DeviceError> {
        self.pass_behind(rows, &[], want)
    }

    /// As [`Device::pass`], for branches of what is committed: root i of `rows` follows the
    /// first `behind[i]` committed positions and does not see the others. Roots past the end
    /// of `behind` follow the last one.
    fn pass_behind(
        &mut self,
        rows: &TokenTree,
        behind: &[usize],
        want: &Want,
    ) -> Result<PassOutput, DeviceError>;

    /// Commits rows of the last pass: a path from a root that follows the last committed
    /// position, ascending.
    fn commit(&mut self, path: &[usize]);

    /// Goes back to the first `len` committed positions.
    fn rollback(&mut self, len: usize);

    /// Committed positions.
    fn committed(&self) -> usize;
}

/// Commits a prompt in passes of as many rows as one takes; the last pass returns `want`.
pub fn prefill(
    device: &mut dyn Device,
    tokens: &[u32],
    want: &Want,
) -> Result<PassOutput, DeviceError> {
    let mut output = PassOutput::default();
    for chunk in tokens.chunks(crate::tree::MAX_ROWS) {
        let next = device.pass(&TokenTree::chain(chunk), want)?;
        let rows: Vec<usize> = (0..chunk.len()).collect();
        device.commit(&rows);
        output.append(next);
    }
    Ok(output)
}

impl PassOutput {
    /// Appends the rows of the pass that followed.
    pub fn append(&mut self, next: PassOutput) {
        self.logits.extend(next.logits);
        self.last_hidden.extend(next.last_hidden);
        self.scores.extend(next.scores);
        self.time += next.time;
        for (layer, rows) in next.taps {
            match self.taps.iter_mut().find(|(l, _)| *l == layer) {
                Some((_, all)) => all.extend(rows),
                None => self.taps.push((layer, rows)),
            }
        }
    }
}
