//! A file of prompts through a miner, into shards; what was interrupted goes on.

use super::{Labelled, Mined, Miner, PromptError};
use crate::judge::samples::{Prompt, Run, SamplesError, Shard, shards};
use crate::output::OutputError;
use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A shard is written after so many prompts, ...
const PROMPTS: usize = 64;
/// ... so many bytes of features, ...
const BYTES: usize = 64 << 20;
/// ... or so much time: no more than that is lost when the machine fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A prompt to mine.
#[derive(Clone, Debug)]
pub struct Item {
    /// What names it.
    pub prompt: Prompt,
    /// Its token ids.
    pub tokens: Vec<u32>,
    /// A response given by people, where labels are theirs.
    pub response: Option<Labelled>,
}

/// What a run does.
pub struct Job<'a> {
    /// The run's description, checked against what is in the folder.
    pub run: &'a Run,
    /// Its folder.
    pub out: &'a Path,
    /// The prompts.
    pub items: &'a [Item],
}

/// What a run did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// Prompts that were there from a run before.
    pub before: usize,
    /// Whether it was told to stop before the end.
    pub interrupted: bool,
}

/// Why mining stopped. What was mined until then is in the folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MineError {
    /// A prompt could not be mined.
    #[error("prompt of line {line}")]
    Prompt {
        /// Its line, from 1.
        line: usize,
        /// Why.
        source: PromptError,
    },
    /// Samples could not be written or read.
    #[error(transparent)]
    Samples(#[from] SamplesError),
    /// Two runs at once would overwrite each other's shards.
    #[error("{}: another run is mining into this folder, expected none", dir.display())]
    Busy {
        /// The folder.
        dir: PathBuf,
    },
}

impl MineError {
    /// Whether the user's input is at fault, rather than the machine or the moment.
    pub fn is_input(&self) -> bool {
        !matches!(
            self,
            MineError::Samples(SamplesError::Output(_)) | MineError::Busy { .. }
        )
    }
}

/// Mines every item that is not in the folder yet. `progress` is called after each and
/// says whether to stop.
pub fn run(
    miner: &mut Miner<'_>,
    job: &Job<'_>,
    progress: &mut dyn FnMut(&Miner<'_>) -> bool,
) -> Result<Summary, MineError> {
    job.run.begin(job.out)?;
    let _lock = lock(job.out)?;
    let numbers = shards(job.out)?;
    let mut done: HashSet<String> = HashSet::new();
    for &number in &numbers {
        done.extend(Shard::prompts(job.out, number)?.into_iter().map(|p| p.key));
    }
    let mut number = numbers.last().map_or(0, |n| n + 1);
    let mut summary = Summary {
        before: 0,
        interrupted: false,
    };
    let mut shard = Shard::default();
    let mut began = Instant::now();
    for item in job.items {
        if done.contains(&item.prompt.key) {
            summary.before += 1;
            summary.interrupted = progress(miner);
        } else {
            let mined = match &item.response {
                None => miner.mine(&item.prompt, &item.tokens),
                Some(response) => miner.mine_labelled(&item.prompt, &item.tokens, response),
            };
            let Mined { samples, features } = match mined {
                Ok(mined) => mined,
                Err(source) => {
                    // nothing is lost of what was mined before
                    write(&mut shard, job.out, &mut number)?;
                    return Err(MineError::Prompt {
                        line: item.prompt.line + 1,
                        source,
                    });
                }
            };
            done.insert(item.prompt.key.clone());
            shard.prompts.push(item.prompt.clone());
            shard.samples.extend(samples);
            shard.features.extend(features);
            summary.interrupted = progress(miner);
            let full = shard.prompts.len() >= PROMPTS
                || size_of_val(shard.features.as_slice()) >= BYTES
                || began.elapsed() >= PATIENCE;
            if full {
                write(&mut shard, job.out, &mut number)?;
                began = Instant::now();
            }
        }
        if summary.interrupted {
            break;
        }
    }
    write(&mut shard, job.out, &mut number)?;
    Ok(summary)
}

/// Holds the folder until the file is dropped, or the process ends however it ends.
fn lock(dir: &Path) -> Result<File, MineError> {
    let path = dir.join(".lock");
    let file = File::create(&path).map_err(|source| OutputError { path, source });
    let file = file.map_err(SamplesError::from)?;
    #[cfg(unix)]
    {
        use rustix::fs::{FlockOperation, flock};
        // a file system without locks does not stop a run
        if flock(&file, FlockOperation::NonBlockingLockExclusive)
            .is_err_and(|e| e == rustix::io::Errno::WOULDBLOCK)
        {
            return Err(MineError::Busy {
                dir: dir.to_owned(),
            });
        }
    }
    Ok(file)
}

/// Writes a shard that is not empty, and begins the next.
fn write(shard: &mut Shard, out: &Path, number: &mut usize) -> Result<(), SamplesError> {
    if !shard.prompts.is_empty() {
        shard.write(out, *number)?;
        *number += 1;
        *shard = Shard::default();
    }
    Ok(())
}
