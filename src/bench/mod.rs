//! Latency: ways to decode, side by side in one process.
//!
//! [`run`] decodes every prompt in every [`Mode`], round by round; within a round the modes come in
//! an order drawn anew for each prompt, and a plain read of the weights is timed among them, so that
//! whatever else the machine does hits all alike. What it saw is a [`Record`]: every step of every
//! run, written as JSON and read back. [`summarise`] turns one into figures with intervals,
//! [`pictures`] into plots, and [`compare`] says what changed between two.

mod compare;
mod machine;
mod pictures;
mod prompts;
mod record;
mod run;
mod summary;
mod table;

pub use compare::{Change, CompareError, Comparison, Verdict, compare};
pub use machine::Machine;
pub use pictures::{Picture, PictureError, pictures};
pub use prompts::{Prompt, PromptError, of_length};
pub use record::{
    Difference, ModeSpec, PromptSpec, Read, Record, RecordError, Sample, Settings, StepColumns,
};
pub use run::{Bench, BenchError, begin, run};
pub use summary::{ByKind, Line, Parts, Quantiles, Summary, summarise};

use crate::engine::AdaptiveGamma;
use crate::eval::Row;

/// One way to decode.
#[derive(Clone)]
pub struct Mode {
    /// The step, what drafts for it, and what tables call it.
    pub row: Row,
    /// Draft lengths that are chosen among step by step; absent where the step is repeated.
    pub adaptive: Option<Vec<usize>>,
}

impl Mode {
    /// A step that is repeated.
    pub fn fixed(row: Row) -> Mode {
        Mode {
            row,
            adaptive: None,
        }
    }

    /// The row with a draft length chosen among `gammas`.
    pub fn adaptive(row: &Row, gammas: &[usize]) -> Mode {
        let shape = format!(" {}", row.step.shape);
        let name = row.name.replacen(&shape, " auto", 1);
        Mode {
            row: Row {
                name,
                ..row.clone()
            },
            adaptive: Some(gammas.to_vec()),
        }
    }

    /// Whether it must give plain decoding's tokens: a lossless rule, decoding greedily.
    pub fn is_exact(&self) -> bool {
        let policy = &self.row.step.policy;
        policy.rule.is_lossless() && policy.sampling.temperature == 0.0
    }

    /// Whether the same request must give the same tokens again. Where gamma depends on times,
    /// only exact modes do.
    pub fn repeats(&self) -> bool {
        self.adaptive.is_none() || self.is_exact()
    }

    fn chooser(&self) -> Option<AdaptiveGamma> {
        let gammas = self.adaptive.as_ref()?;
        Some(AdaptiveGamma::new(&self.row.step, gammas))
    }
}
