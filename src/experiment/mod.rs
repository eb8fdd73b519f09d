//! Experiments on the demo pair: what judges buy, and what that depends on.
//!
//! Each [`Experiment`] mines, trains and decodes what is not there yet in a folder, and
//! writes `NAME.json`, `NAME.svg` and its section of `README.md` in another.

mod decode;
mod judges;
mod lab;
mod price;
mod report;
mod shift;

pub use decode::{Tally, decode};
pub use lab::{Data, Lab, Settings};
pub use price::{BUDGET, Kept, KeptRow, within_budget};

use crate::device::DeviceError;
use crate::eval::{EvalError, RowsError};
use crate::judge::JudgeError;
use crate::judge::samples::SamplesError;
use crate::judge::train::TrainError;
use crate::mine::MineError;
use crate::model::{ChatError, ModelError, TokenizerError};
use crate::output::OutputError;
use crate::plot::PlotError;
use crate::task::TaskError;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// One experiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Experiment {
    /// Accuracy against draft tokens kept, every rule on the same problems.
    Main,
    /// SelfJudge's suffix length.
    Suffix,
    /// The number of training prompts.
    Data,
    /// Linear against two-layer judges.
    TwoLayer,
    /// A threshold chosen on one kind of problems, used on another.
    DomainShift,
}

impl Experiment {
    /// In the order of the report.
    pub const ALL: [Experiment; 5] = [
        Experiment::Main,
        Experiment::Suffix,
        Experiment::Data,
        Experiment::TwoLayer,
        Experiment::DomainShift,
    ];

    /// The name on the command line and of its files.
    pub fn name(self) -> &'static str {
        match self {
            Experiment::Main => "main",
            Experiment::Suffix => "suffix",
            Experiment::Data => "data",
            Experiment::TwoLayer => "two-layer",
            Experiment::DomainShift => "domain-shift",
        }
    }
}

impl fmt::Display for Experiment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Experiment {
    type Err = ExperimentError;

    fn from_str(name: &str) -> Result<Experiment, ExperimentError> {
        let found = Experiment::ALL.into_iter().find(|e| e.name() == name);
        found.ok_or_else(|| ExperimentError::Input {
            what: "experiment".to_owned(),
            found: format!("'{name}'"),
            expected: Experiment::ALL.map(Experiment::name).join(", "),
        })
    }
}

/// Why an experiment could not be carried out. What was done until then is kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExperimentError {
    /// A file or a program cannot be used.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// Something is not as it must be.
    #[error("{what}: found {found}, expected {expected}")]
    Input {
        /// Which part.
        what: String,
        /// What is there.
        found: String,
        /// What belongs there.
        expected: String,
    },
    /// A model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Its tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Its chat template.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// A device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A file of problems.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// Mining.
    #[error(transparent)]
    Mine(#[from] MineError),
    /// Samples.
    #[error(transparent)]
    Samples(#[from] SamplesError),
    /// Training.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// A judge's file.
    #[error(transparent)]
    Judge(#[from] JudgeError),
    /// Rows.
    #[error(transparent)]
    Rows(#[from] RowsError),
    /// Decoding.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// A picture.
    #[error(transparent)]
    Plot(#[from] PlotError),
    /// A file of the report.
    #[error(transparent)]
    Output(#[from] OutputError),
}

impl ExperimentError {
    fn io(path: &Path, source: std::io::Error) -> ExperimentError {
        ExperimentError::Io {
            path: path.to_owned(),
            source,
        }
    }
}

/// Carries an experiment out and writes its part of the report; returns that part as
/// Markdown. `tell` hears what is being done.
pub fn run(
    experiment: Experiment,
    settings: &Settings,
    tell: &(dyn Fn(&str) + Sync),
) -> Result<String, ExperimentError> {
    let lab = Lab::open(settings, tell)?;
    let part = match experiment {
        Experiment::Main => price::run(&lab, &|part| {
            report::write(experiment, settings, part)?;
            Ok(())
        })?,
        Experiment::Suffix => judges::suffix(&lab)?,
        Experiment::Data => judges::data(&lab)?,
        Experiment::TwoLayer => judges::two_layer(&lab)?,
        Experiment::DomainShift => shift::run(&lab)?,
    };
    report::write(experiment, settings, part)
}
