//! Results on disk: one line per problem and row, kept as they are made.

use super::{ModelSpec, Spec};
use crate::engine::Stats;
use crate::output::{OutputError, write_atomically};
use crate::task::{Grade, Task};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;

/// What one row made of one problem: a line of `results.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// [`crate::task::Problem::line`].
    pub problem: usize,
    /// [`Spec::key`] of the row.
    pub row: String,
    /// The response; absent where its tokens are those of plain decoding, whose line has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Digest of its tokens.
    pub tokens: String,
    /// Why it ended: `stop`, `length`, `context` or `stop_string`.
    pub finish: String,
    /// How it did.
    pub grade: Grade,
    /// ROUGE-L against plain decoding's text, 1 where the tokens are the same; absent
    /// without a plain row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain_rouge_l: Option<f64>,
    /// Whether the tokens are those of plain decoding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub same_as_plain: Option<bool>,
    /// Negative log-likelihood of the response under the target, in nats, where asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nll: Option<f64>,
    /// Tokens that `nll` is summed over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nll_tokens: Option<usize>,
    /// What it took.
    pub stats: Stats,
}

/// What a run is: `run.json`. A run goes on only where all but the rows is equal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunFile {
    pub version: u32,
    pub task: Task,
    /// Digest of the data file.
    pub data: String,
    pub target: ModelSpec,
    pub chat: bool,
    pub system: Option<String>,
    pub stops: Vec<String>,
    pub stop_tokens: Vec<u32>,
    pub max_tokens: usize,
    pub context: usize,
    pub checker: Option<String>,
    pub seed: u64,
    pub perplexity: bool,
    pub rows: Vec<NamedSpec>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NamedSpec {
    pub key: String,
    pub name: String,
    #[serde(flatten)]
    pub spec: Spec,
}

/// Why results could not be kept or taken up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// A file cannot be written whole.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A file is not what an evaluation writes.
    #[error("{}: found {found}, expected {expected}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is there.
        found: String,
        /// What belongs there.
        expected: String,
    },
    /// The folder holds another evaluation.
    #[error(
        "{}: holds results with {what} {found}, this run has {expected}; give another folder or the same settings",
        path.display()
    )]
    OtherRun {
        /// Its `run.json`.
        path: PathBuf,
        /// The first setting that differs.
        what: String,
        /// Its value there.
        found: String,
        /// Its value now.
        expected: String,
    },
}

/// The outcomes of a run, those of earlier runs in the same folder included.
#[derive(Debug, Default)]
pub struct Results {
    outcomes: Vec<Outcome>,
    index: HashMap<(usize, String), usize>,
    file: Option<(PathBuf, File)>,
}

impl RunFile {
    pub fn new(task: Task, data: String, target: ModelSpec) -> RunFile {
        RunFile {
            version: VERSION,
            task,
            data,
            target,
            chat: true,
            system: None,
            stops: Vec::new(),
            stop_tokens: Vec::new(),
            max_tokens: 0,
            context: 0,
            checker: None,
            seed: 0,
            perplexity: false,
            rows: Vec::new(),
        }
    }

    /// The first setting in which two runs differ, with both values.
    fn difference(&self, other: &RunFile) -> Option<(String, String, String)> {
        let comparable = |run: &RunFile| {
            let mut run = run.clone();
            run.rows.clear();
            // the same model in another place is the same
            run.target.dir.clear();
            match serde_json::to_value(&run) {
                Ok(serde_json::Value::Object(fields)) => fields,
                _ => serde_json::Map::new(),
            }
        };
        let (mine, theirs) = (comparable(self), comparable(other));
        mine.iter().find_map(|(name, value)| {
            let found = theirs.get(name)?;
            (found != value).then(|| (name.clone(), found.to_string(), value.to_string()))
        })
    }
}

impl Results {
    /// Results that are kept in memory alone.
    pub fn in_memory() -> Results {
        Results::default()
    }

    /// Opens a folder for `run`: an empty or new one, or one that holds results of the same
    /// run, which are read. A line that was cut off at the end of `results.jsonl` is dropped.
    pub(super) fn open(dir: &Path, mut run: RunFile) -> Result<Results, StoreError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Io { path, source }
        };
        std::fs::create_dir_all(dir).map_err(io(dir))?;
        let (run_path, path) = (dir.join("run.json"), dir.join("results.jsonl"));
        match std::fs::read(&run_path) {
            Ok(bytes) => {
                let before: RunFile =
                    serde_json::from_slice(&bytes).map_err(|e| StoreError::Content {
                        path: run_path.clone(),
                        found: e.to_string(),
                        expected: "the description of an evaluation".to_owned(),
                    })?;
                if let Some((what, found, expected)) = run.difference(&before) {
                    return Err(StoreError::OtherRun {
                        path: run_path,
                        what,
                        found,
                        expected,
                    });
                }
                // what explains the lines that are there stays
                let new = run.rows.clone();
                run.rows = before.rows;
                for row in new {
                    if !run.rows.contains(&row) {
                        run.rows.push(row);
                    }
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if path.exists() {
                    return Err(StoreError::Content {
                        path: dir.to_owned(),
                        found: "results.jsonl without run.json".to_owned(),
                        expected: "both, or an empty folder".to_owned(),
                    });
                }
            }
            Err(e) => return Err(io(&run_path)(e)),
        }
        let mut results = Results::default();
        let whole = match std::fs::read(&path) {
            Ok(bytes) => results.parse(&bytes, &path)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
            Err(e) => return Err(io(&path)(e)),
        };
        let text = serde_json::to_string_pretty(&run).unwrap_or_default();
        write_atomically(&run_path, |file| writeln!(file, "{text}"))?;
        let file = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(io(&path))?;
        file.set_len(whole as u64).map_err(io(&path))?;
        results.file = Some((path, file));
        Ok(results)
    }

    /// Reads lines; returns how many bytes of whole lines there are.
    fn parse(&mut self, bytes: &[u8], path: &Path) -> Result<usize, StoreError> {
        let mut whole = 0;
        for (line, text) in bytes.split_inclusive(|&b| b == b'\n').enumerate() {
            if text.last() != Some(&b'\n') {
                break; // cut off while it was written
            }
            let outcome = serde_json::from_slice(text).map_err(|e| StoreError::Content {
                path: path.to_owned(),
                found: format!("in line {} {e}", line + 1),
                expected: "an outcome as JSON".to_owned(),
            })?;
            self.keep(outcome);
            whole += text.len();
        }
        Ok(whole)
    }

    fn keep(&mut self, outcome: Outcome) {
        let place = (outcome.problem, outcome.row.clone());
        if !self.index.contains_key(&place) {
            self.index.insert(place, self.outcomes.len());
            self.outcomes.push(outcome);
        }
    }

    /// Adds an outcome, on disk first.
    pub(super) fn add(&mut self, outcome: Outcome) -> Result<(), StoreError> {
        if let Some((path, file)) = &mut self.file {
            let mut line = serde_json::to_vec(&outcome).unwrap_or_default();
            line.push(b'\n');
            // one write a line: after a kill at most the last one is cut off
            let written = file.write_all(&line).and_then(|()| file.flush());
            written.map_err(|source| StoreError::Io {
                path: path.clone(),
                source,
            })?;
        }
        self.keep(outcome);
        Ok(())
    }

    /// What a row, by its key, made of the problem at a line.
    pub fn get(&self, problem: usize, row: &str) -> Option<&Outcome> {
        let place = *self.index.get(&(problem, row.to_owned()))?;
        self.outcomes.get(place)
    }

    /// How many outcomes there are.
    pub fn len(&self) -> usize {
        self.outcomes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.outcomes.is_empty()
    }
}
