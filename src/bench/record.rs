//! What a bench saw: a JSON file with every sample, from which all figures follow.

use super::{Machine, Mode};
use crate::eval::{ModelSpec, SamplingSpec, Spec, digest};
use crate::judge::JudgeError;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A whole bench.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`Record::FORMAT`].
    pub format: String,
    /// Version of gavel.
    pub gavel: String,
    /// Whether gavel was built with debug assertions, which take time.
    pub debug_assertions: bool,
    /// Seconds since 1970 at the beginning.
    pub began_at: u64,
    /// Where it ran.
    pub machine: Machine,
    /// The device, in its own words.
    pub device: String,
    /// The command line.
    pub arguments: Vec<String>,
    /// What all modes have in common.
    pub settings: Settings,
    /// The model that answers.
    pub target: ModelSpec,
    /// The models that draft.
    pub drafts: Vec<ModelSpec>,
    /// The ways to decode.
    pub modes: Vec<ModeSpec>,
    /// What was decoded.
    pub prompts: Vec<PromptSpec>,
    /// Every timed run, in the order in which they ran.
    pub samples: Vec<Sample>,
    /// Every plain read of the target's weights.
    pub reads: Vec<Read>,
    /// Outputs that should have been equal and were not; a bench with any of them failed.
    pub differences: Vec<Difference>,
    /// How many runs were asked for; fewer samples where the bench was interrupted.
    pub runs_asked: usize,
}

/// What all modes have in common.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Timed runs of each mode and prompt.
    pub rounds: usize,
    /// Runs of each mode before the first timed one.
    pub warmup: usize,
    /// Most tokens of a run.
    pub max_tokens: usize,
    /// Whether runs go on after end-of-sequence tokens.
    pub ignore_eos: bool,
    /// Positions of the context.
    pub context: usize,
    /// Key of all random numbers, the order of the modes among them.
    pub seed: u64,
    /// The target's sampling.
    pub sampling: SamplingSpec,
}

/// A way to decode, as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModeSpec {
    /// What tables call it.
    pub name: String,
    /// Which line of a plot it belongs to.
    pub series: String,
    /// Digest of what it does; `gavel eval` writes the same.
    pub key: String,
    /// Length of its chain, where it drafts one of fixed length.
    pub gamma: Option<usize>,
    /// Draft lengths that are chosen among.
    pub adaptive: Option<Vec<usize>>,
    /// Whether it must give plain decoding's tokens.
    pub exact: bool,
    /// What it does.
    pub spec: Spec,
}

impl ModeSpec {
    /// What is stored of a mode.
    ///
    /// # Errors
    /// Where its judge has no digest.
    pub fn new(mode: &Mode) -> Result<ModeSpec, JudgeError> {
        let shape = &mode.row.step.shape;
        let mut spec = mode.row.spec()?;
        if let Some(gammas) = &mode.adaptive {
            let list: Vec<String> = gammas.iter().map(usize::to_string).collect();
            spec.shape = format!("auto of {}", list.join(","));
        }
        let fixed = mode.adaptive.is_none() && shape.is_chain();
        Ok(ModeSpec {
            name: mode.row.name.clone(),
            series: mode.row.series.clone(),
            key: spec.key(),
            gamma: (fixed && shape.depth() > 0).then(|| shape.depth()),
            adaptive: mode.adaptive.clone(),
            exact: mode.is_exact(),
            spec,
        })
    }

    /// Whether nothing is drafted.
    pub fn is_plain(&self) -> bool {
        self.spec.shape == "0"
    }
}

/// A prompt, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptSpec {
    /// What of the sweep it belongs to, such as `512 tokens`; empty where nothing is swept.
    pub workload: String,
    /// What sort of text it asks for.
    pub kind: String,
    /// Its length.
    pub tokens: usize,
    /// Digest of its tokens.
    pub digest: String,
}

impl PromptSpec {
    /// What is stored of a prompt.
    pub fn new(workload: &str, kind: &str, tokens: &[u32]) -> PromptSpec {
        PromptSpec {
            workload: workload.to_owned(),
            kind: kind.to_owned(),
            tokens: tokens.len(),
            digest: tokens_digest(tokens),
        }
    }
}

/// 16 hexadecimal digits that tell sequences of tokens apart.
pub(super) fn tokens_digest(tokens: &[u32]) -> String {
    let bytes: Vec<u8> = tokens.iter().flat_map(|t| t.to_le_bytes()).collect();
    digest(&bytes)
}

/// One run of one mode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Its place in [`Record::modes`].
    pub mode: usize,
    /// Its place in [`Record::prompts`].
    pub prompt: usize,
    /// From 0.
    pub round: usize,
    /// Time of the prompt's passes.
    pub prefill_ms: f64,
    /// Digest of the tokens that came out.
    pub output: String,
    /// Tokens accepted by the lossless rule.
    pub aligned: usize,
    /// Tokens rescued by a judge rule.
    pub judged: usize,
    /// Every step.
    pub steps: StepColumns,
}

/// The steps of a run, column by column.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepColumns {
    /// From the step before (from the request, for the first one) to the moment when this step's
    /// tokens were there.
    pub ms: Vec<f64>,
    /// Growing the tree. In the first step a drafter reads the prompt too.
    pub draft_ms: Vec<f64>,
    /// The target pass.
    pub target_ms: Vec<f64>,
    /// Judge, verification and commit.
    pub verify_ms: Vec<f64>,
    /// Nodes drafted.
    pub nodes: Vec<usize>,
    /// Tokens committed.
    pub tokens: Vec<usize>,
}

impl Sample {
    /// Time to the first token.
    pub fn first_token_ms(&self) -> Option<f64> {
        self.steps.ms.first().copied()
    }

    /// Target passes after the prompt.
    pub fn passes(&self) -> usize {
        self.steps.ms.len()
    }

    /// Tokens committed.
    pub fn tokens(&self) -> usize {
        self.steps.tokens.iter().sum()
    }

    /// (time, tokens) of all steps but the first, whose time is that to the first token.
    pub fn later_steps(&self) -> impl Iterator<Item = (f64, usize)> + '_ {
        let steps = self.steps.ms.iter().zip(&self.steps.tokens);
        steps.map(|(&ms, &tokens)| (ms, tokens)).skip(1)
    }

    /// Time per output token after the first step's; absent where there are none.
    pub fn token_ms(&self) -> Option<f64> {
        let (ms, tokens) = self
            .later_steps()
            .fold((0.0, 0), |(ms, tokens), (m, t)| (ms + m, tokens + t));
        (tokens > 0).then(|| ms / tokens as f64)
    }
}

/// One plain read of what a one-row pass reads of the target's weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Read {
    /// The prompt among whose runs it was timed.
    pub prompt: usize,
    /// The round.
    pub round: usize,
    /// Bytes read.
    pub bytes: usize,
    /// What it took.
    pub ms: f64,
}

/// An output that should have been another's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The mode.
    pub mode: String,
    /// What its output was compared with: plain decoding's, or its own of the first round.
    pub with: String,
    /// The prompt's place.
    pub prompt: usize,
    /// The round.
    pub round: usize,
    /// The first token that differs, from 0.
    pub place: usize,
    /// What stands there; absent past the end.
    pub found: Option<u32>,
    /// What should.
    pub expected: Option<u32>,
}

/// A file that is no record.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}; expected what `gavel bench --json` or `--out` writes", path.display())]
pub struct RecordError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

impl Record {
    /// Changes when the meaning of a field does.
    pub const FORMAT: &str = "gavel-bench-1";

    /// Reads a file, and checks that its places are places.
    pub fn read(path: &Path) -> Result<Record, RecordError> {
        let fail = |why: String| RecordError {
            path: path.to_owned(),
            why,
        };
        let bytes = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
        let record: Record = serde_json::from_slice(&bytes).map_err(|e| fail(e.to_string()))?;
        if record.format != Record::FORMAT {
            return Err(fail(format!(
                "found the format '{}', expected '{}'",
                record.format,
                Record::FORMAT
            )));
        }
        for (number, sample) in record.samples.iter().enumerate() {
            let s = &sample.steps;
            let lengths = [
                s.draft_ms.len(),
                s.target_ms.len(),
                s.verify_ms.len(),
                s.nodes.len(),
                s.tokens.len(),
            ];
            if sample.mode >= record.modes.len()
                || sample.prompt >= record.prompts.len()
                || lengths.iter().any(|&l| l != s.ms.len())
            {
                return Err(fail(format!(
                    "sample {number} names mode {} of {} and prompt {} of {}, its columns have {} and {lengths:?} steps",
                    sample.mode,
                    record.modes.len(),
                    sample.prompt,
                    record.prompts.len(),
                    s.ms.len()
                )));
            }
        }
        Ok(record)
    }

    /// Whether it ended before all runs were there.
    pub fn was_interrupted(&self) -> bool {
        self.samples.len() < self.runs_asked
    }

    /// The workloads, in order, each once.
    pub fn workloads(&self) -> Vec<&str> {
        let mut found: Vec<&str> = Vec::new();
        for prompt in &self.prompts {
            if !found.contains(&&*prompt.workload) {
                found.push(&prompt.workload);
            }
        }
        found
    }
}
