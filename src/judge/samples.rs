//! Mined samples on disk: what `mine` writes and training reads.
//!
//! A folder holds one run, `run.json`, and its shards, each a pair of files:
//!
//! | file | content |
//! |---|---|
//! | `shard-N.jsonl` | a line a sample: a [`Sample`] |
//! | `shard-N.safetensors` | `features`, float32 [samples, F], the rows in the order of the lines; the metadata key `gavel_samples` names the prompts the shard is made of |
//!
//! The safetensors file is written last: it is what makes a shard exist. Prompts without a
//! mismatch stand in the metadata alone, so that rates per answer count them.

use super::Features;
use crate::model::ModelError;
use crate::model::checkpoint::Header;
use crate::output::{OutputError, write_atomically};
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

const KEY: &str = "gavel_samples";
const VERSION: u32 = 1;

/// How labels are made (METHODS, "Making labels").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// The target's own likelihoods score a substitution (2510.02329).
    #[serde(rename = "selfjudge")]
    SelfJudge,
    /// Semi-greedy search with a checker of final answers (2504.20039).
    #[serde(rename = "autojudge")]
    AutoJudge,
    /// Spans marked by people (Judge Decoding, 2501.19309).
    Labels,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Method::SelfJudge => "selfjudge",
            Method::AutoJudge => "autojudge",
            Method::Labels => "labels",
        })
    }
}

/// What a run mines, and on what: its `run.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Version of the format.
    pub version: u32,
    /// How labels are made.
    pub method: Method,
    /// What the features are.
    pub features: Features,
    /// Vocabulary size of the target.
    pub vocab_size: usize,
    /// [`crate::model::Model::fingerprint`] of the target.
    pub target_fingerprint: String,
    /// The drafter's, where it has weights.
    pub draft_fingerprint: Option<String>,
    /// Substitutes per position: the drafter's best `ranks`.
    pub ranks: usize,
    /// SelfJudge: the suffix lengths N that are scored, ascending; else empty.
    pub suffixes: Vec<usize>,
    /// All other settings by name: a run goes on only where they are equal.
    pub settings: BTreeMap<String, serde_json::Value>,
}

/// A prompt of the prompts file.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prompt {
    /// Its line in the file, from 0.
    pub line: usize,
    /// 16 hexadecimal digits of the text's BLAKE3: the same in every run, so that a prompt
    /// always falls into the same split.
    pub key: String,
}

impl Prompt {
    /// The prompt with this text at this line.
    pub fn new(line: usize, text: &str) -> Prompt {
        let key = blake3::hash(text.as_bytes()).to_hex()[..16].to_owned();
        Prompt { line, key }
    }
}

/// A token, readable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Its text; a lone byte of a character reads as U+FFFD.
    pub text: String,
}

/// A mismatch: the drafter's token in place of the target's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// The prompt that was answered.
    pub prompt: Prompt,
    /// t: place in the answer, from 0.
    pub position: usize,
    /// 1 is the drafter's best token here, 2 its second.
    pub rank: usize,
    /// x̂_t, the drafter's.
    pub draft: Token,
    /// y_t, the target's.
    pub target: Token,
    /// SelfJudge: log P(x̂_t | y_<t) - log P(y_t | y_<t).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<f32>,
    /// SelfJudge: the suffix sums, one for each of [`Run::suffixes`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suffix: Vec<f32>,
    /// SelfJudge: tokens of the answer after t; a sum of N terms has at most so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<usize>,
    /// AutoJudge and given labels: whether the substitution is acceptable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acceptable: Option<bool>,
    /// Whether this substitution alone, the target going on greedily, changes the final
    /// answer: the label on which all methods are compared. Absent where not checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes_answer: Option<bool>,
}

impl Sample {
    /// SelfJudge's score for suffix `which` of [`Run::suffixes`]: prefix + suffix, divided
    /// by the number of terms if `normalise`.
    pub fn score(&self, run: &Run, which: usize, normalise: bool) -> Option<f32> {
        let score = self.prefix? + self.suffix.get(which)?;
        let terms = 1 + (*run.suffixes.get(which)?).min(self.after?);
        Some(if normalise {
            score / terms as f32
        } else {
            score
        })
    }
}

/// Samples in memory, features row major.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shard {
    /// The prompts that were answered, with and without mismatches.
    pub prompts: Vec<Prompt>,
    /// Their mismatches.
    pub samples: Vec<Sample>,
    /// [samples, F]
    pub features: Vec<f32>,
}

/// Why samples could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SamplesError {
    /// A file is not readable as safetensors.
    #[error(transparent)]
    File(#[from] ModelError),
    /// A file could not be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// Part of a file is wrong.
    #[error("{}: {what}: found {found}, expected {expected}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Which part.
        what: String,
        /// What is there.
        found: String,
        /// What belongs there.
        expected: String,
    },
    /// Two runs that cannot be one.
    #[error("{} and {} do not belong together: {what}: {first} and {second}", paths.0.display(), paths.1.display())]
    Mixed {
        /// Their folders.
        paths: (PathBuf, PathBuf),
        /// What differs.
        what: String,
        /// In the first.
        first: String,
        /// In the second.
        second: String,
    },
}

fn wrong(
    path: &Path,
    what: impl ToString,
    found: impl ToString,
    expected: impl ToString,
) -> SamplesError {
    SamplesError::Content {
        path: path.to_owned(),
        what: what.to_string(),
        found: found.to_string(),
        expected: expected.to_string(),
    }
}

fn run_path(dir: &Path) -> PathBuf {
    dir.join("run.json")
}

impl Run {
    /// The version that this code writes.
    pub const VERSION: u32 = VERSION;

    /// Reads a folder's `run.json`.
    pub fn read(dir: &Path) -> Result<Run, SamplesError> {
        let path = run_path(dir);
        let text = std::fs::read_to_string(&path).map_err(|e| ModelError::read(&path, e))?;
        let run: Run = serde_json::from_str(&text)
            .map_err(|e| wrong(&path, "text", e, "a run of gavel judge mine"))?;
        match run.version {
            VERSION => Ok(run),
            version => Err(wrong(&path, "version", version, VERSION)),
        }
    }

    /// Makes the folder and its `run.json`, or checks that the run in it is this one, to go
    /// on with it.
    pub fn begin(&self, dir: &Path) -> Result<(), SamplesError> {
        if !run_path(dir).exists() {
            std::fs::create_dir_all(dir).map_err(|source| OutputError {
                path: dir.to_owned(),
                source,
            })?;
            let text = serde_json::to_string_pretty(self)
                .map_err(|e| wrong(dir, "run.json", e, "a run"))?;
            return Ok(write_atomically(&run_path(dir), |file| {
                writeln!(file, "{text}")
            })?);
        }
        let found = Run::read(dir)?;
        match self.difference(&found, true) {
            None => Ok(()),
            Some((what, asked, there)) => Err(wrong(
                &run_path(dir),
                what,
                there,
                format!("{asked}, as this run asks; give another --out"),
            )),
        }
    }

    /// The first thing in which two runs differ: name, here, there.
    fn difference(&self, other: &Run, settings_too: bool) -> Option<(String, String, String)> {
        let fields = |run: &Run| {
            let mut fields = vec![
                ("method".to_owned(), run.method.to_string()),
                ("target".to_owned(), run.target_fingerprint.clone()),
                (
                    "drafter".to_owned(),
                    run.draft_fingerprint
                        .clone()
                        .unwrap_or_else(|| "without weights".to_owned()),
                ),
                ("vocabulary".to_owned(), run.vocab_size.to_string()),
                (
                    "features".to_owned(),
                    serde_json::to_string(&run.features).unwrap_or_default(),
                ),
                ("suffixes".to_owned(), format!("{:?}", run.suffixes)),
            ];
            if settings_too {
                fields.push(("ranks".to_owned(), run.ranks.to_string()));
                for (name, value) in &run.settings {
                    fields.push((name.clone(), value.to_string()));
                }
            }
            fields
        };
        let (here, there) = (fields(self), fields(other));
        let nothing = || ("settings".to_owned(), "nothing more".to_owned());
        (0..here.len().max(there.len())).find_map(|i| {
            let a = here.get(i).cloned().unwrap_or_else(nothing);
            let b = there.get(i).cloned().unwrap_or_else(nothing);
            match a {
                _ if a == b => None,
                (name, value) if name == b.0 => Some((name, value, b.1)),
                (name, value) => {
                    let both = format!("{name} and {}", b.0);
                    Some((both, value, b.1))
                }
            }
        })
    }
}

impl Shard {
    /// Writes the shard as number `number` of the run in `dir`, whole or not at all.
    pub fn write(&self, dir: &Path, number: usize) -> Result<(), SamplesError> {
        let (index, data) = shard_paths(dir, number);
        let mut lines = String::new();
        for sample in &self.samples {
            let line =
                serde_json::to_string(sample).map_err(|e| wrong(&index, "sample", e, "text"))?;
            lines.push_str(&line);
            lines.push('\n');
        }
        let width = match self.samples.len() {
            0 => 0,
            samples => self.features.len() / samples,
        };
        let bytes: Vec<u8> = self.features.iter().flat_map(|x| x.to_le_bytes()).collect();
        let serial = |e: String| wrong(&data, "features", e, "samples times F numbers");
        let view = TensorView::new(Dtype::F32, vec![self.samples.len(), width], &bytes)
            .map_err(|e| serial(e.to_string()))?;
        let metadata = serde_json::to_string(&self.prompts).map_err(|e| serial(e.to_string()))?;
        let metadata = HashMap::from([(KEY.to_owned(), metadata)]);
        let bytes = safetensors::serialize([("features", view)], Some(metadata))
            .map_err(|e| serial(e.to_string()))?;
        write_atomically(&index, |file| file.write_all(lines.as_bytes()))?;
        Ok(write_atomically(&data, |file| file.write_all(&bytes))?)
    }

    /// Reads shard `number` of the run in `dir`.
    pub fn read(dir: &Path, number: usize, run: &Run) -> Result<Shard, SamplesError> {
        let (index, data) = shard_paths(dir, number);
        let text = std::fs::read_to_string(&index).map_err(|e| ModelError::read(&index, e))?;
        let samples = text
            .lines()
            .enumerate()
            .map(|(i, line)| {
                serde_json::from_str::<Sample>(line)
                    .map_err(|e| wrong(&index, format!("line {}", i + 1), e, "a sample"))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let file = std::fs::read(&data).map_err(|e| ModelError::read(&data, e))?;
        let (header, prompts) = prompts_of(&file, &data)?;
        let Some(entry) = header.tensors.get("features") else {
            return Err(wrong(&data, "features", "no such tensor", "a tensor"));
        };
        let width = if samples.is_empty() {
            0
        } else {
            run.features.len()
        };
        let expected = vec![samples.len(), width];
        if entry.dtype != Dtype::F32 || entry.shape != expected {
            return Err(wrong(
                &data,
                "features",
                format!("{:?} {:?}", entry.dtype, entry.shape),
                format!(
                    "F32 {expected:?}, a row for each line of {}",
                    index.display()
                ),
            ));
        }
        let (quads, _) = file[entry.range.clone()].as_chunks::<4>();
        let features: Vec<f32> = quads.iter().map(|&b| f32::from_le_bytes(b)).collect();
        if let Some(at) = features.iter().position(|x| !x.is_finite()) {
            let (row, column) = (at / width, at % width);
            return Err(wrong(
                &data,
                "features",
                format!("{} in row {row}, column {column}", features[at]),
                "finite numbers",
            ));
        }
        Ok(Shard {
            prompts,
            samples,
            features,
        })
    }

    /// The prompts of shard `number`, without its samples.
    pub fn prompts(dir: &Path, number: usize) -> Result<Vec<Prompt>, SamplesError> {
        let (_, data) = shard_paths(dir, number);
        let file = std::fs::read(&data).map_err(|e| ModelError::read(&data, e))?;
        Ok(prompts_of(&file, &data)?.1)
    }
}

fn shard_paths(dir: &Path, number: usize) -> (PathBuf, PathBuf) {
    let name = |extension| dir.join(format!("shard-{number:06}.{extension}"));
    (name("jsonl"), name("safetensors"))
}

fn prompts_of(file: &[u8], path: &Path) -> Result<(Header, Vec<Prompt>), SamplesError> {
    let header = Header::parse(file, path)?;
    let Some(text) = header.metadata.get(KEY) else {
        return Err(wrong(
            path,
            "metadata",
            format!("no key '{KEY}'"),
            "a shard of gavel judge mine",
        ));
    };
    let prompts =
        serde_json::from_str(text).map_err(|e| wrong(path, KEY, e, "a list of prompts"))?;
    Ok((header, prompts))
}

/// Numbers of the whole shards in a folder, ascending.
pub fn shards(dir: &Path) -> Result<Vec<usize>, SamplesError> {
    let fail = |e| ModelError::read(dir, e);
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        let number = name.to_str().and_then(|name| {
            let number = name.strip_prefix("shard-")?.strip_suffix(".safetensors")?;
            number.parse::<usize>().ok()
        });
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Reads the runs of several folders as one. All must be of one method, target, drafter and
/// kind of features; a prompt that several of them mined is taken from the first.
pub fn read(dirs: &[PathBuf]) -> Result<(Run, Shard), SamplesError> {
    let mut merged: Option<(Run, &PathBuf)> = None;
    let mut all = Shard::default();
    let mut seen = HashSet::new();
    for dir in dirs {
        let run = Run::read(dir)?;
        if let Some((first, first_dir)) = &merged
            && let Some((what, here, there)) = first.difference(&run, false)
        {
            return Err(SamplesError::Mixed {
                paths: ((*first_dir).clone(), dir.clone()),
                what,
                first: here,
                second: there,
            });
        }
        let width = run.features.len();
        let mut of_dir = HashSet::new();
        for number in shards(dir)? {
            let shard = Shard::read(dir, number, &run)?;
            let fresh = |p: &Prompt| !seen.contains(&p.key);
            for (i, sample) in shard.samples.iter().enumerate() {
                if fresh(&sample.prompt) {
                    all.samples.push(sample.clone());
                    all.features
                        .extend_from_slice(&shard.features[i * width..][..width]);
                }
            }
            for prompt in shard.prompts.into_iter().filter(fresh) {
                if of_dir.insert(prompt.key.clone()) {
                    all.prompts.push(prompt);
                }
            }
        }
        seen.extend(of_dir);
        merged.get_or_insert((run, dir));
    }
    match merged {
        Some((run, _)) => Ok((run, all)),
        None => Err(wrong(
            Path::new("."),
            "folders",
            "none",
            "at least one folder of gavel judge mine",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Run {
        Run {
            version: VERSION,
            method: Method::SelfJudge,
            features: Features::final_hidden(2),
            vocab_size: 320,
            target_fingerprint: "target".into(),
            draft_fingerprint: Some("draft".into()),
            ranks: 1,
            suffixes: vec![0, 20],
            settings: BTreeMap::from([("chat".into(), true.into())]),
        }
    }

    fn sample(line: usize) -> Sample {
        let token = |id| Token {
            id,
            text: format!("<{id}>"),
        };
        Sample {
            prompt: Prompt::new(line, &format!("prompt {line}")),
            position: 3,
            rank: 1,
            draft: token(5),
            target: token(6),
            prefix: Some(-1.5),
            suffix: vec![0.0, -4.5],
            after: Some(2),
            acceptable: None,
            changes_answer: Some(true),
        }
    }

    fn shard(lines: &[usize]) -> Shard {
        Shard {
            prompts: lines
                .iter()
                .chain([&99])
                .map(|&l| Prompt::new(l, &format!("prompt {l}")))
                .collect(),
            samples: lines.iter().map(|&l| sample(l)).collect(),
            features: lines.iter().flat_map(|&l| [l as f32, 0.5]).collect(),
        }
    }

    #[test]
    fn what_was_written_is_read_and_merged() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (dir, lines) in [(&one, [1, 2]), (&two, [2, 3])] {
            run().begin(dir.path()).unwrap();
            run().begin(dir.path()).unwrap();
            shard(&lines).write(dir.path(), 7).unwrap();
        }
        assert_eq!(shards(one.path()).unwrap(), [7]);
        assert_eq!(Shard::read(one.path(), 7, &run()).unwrap(), shard(&[1, 2]));
        let dirs = [one.path().to_owned(), two.path().to_owned()];
        let (_, all) = read(&dirs).unwrap();
        assert_eq!(all.features, [1.0, 0.5, 2.0, 0.5, 3.0, 0.5]);
        assert_eq!(all.prompts.len(), 4);
    }

    #[test]
    fn scores_add_prefix_and_suffix_over_the_terms_there_are() {
        assert_eq!(sample(1).score(&run(), 1, false), Some(-6.0));
        assert_eq!(sample(1).score(&run(), 1, true), Some(-2.0));
        assert_eq!(sample(1).score(&run(), 0, true), Some(-1.5));
        assert_eq!(sample(1).score(&run(), 2, false), None);
    }

    #[test]
    fn other_runs_and_damaged_shards_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        run().begin(dir.path()).unwrap();
        let mut other = run();
        other.settings.insert("chat".into(), false.into());
        let error = other.begin(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("chat: found true, expected false"),
            "{error}"
        );

        let elsewhere = tempfile::tempdir().unwrap();
        other = run();
        other.target_fingerprint = "another".into();
        other.begin(elsewhere.path()).unwrap();
        let dirs = [dir.path().to_owned(), elsewhere.path().to_owned()];
        let error = read(&dirs).unwrap_err().to_string();
        assert!(error.contains("target: target and another"), "{error}");

        let mut bad = shard(&[1]);
        bad.features[1] = f32::NAN;
        bad.write(dir.path(), 0).unwrap();
        let error = read(&dirs[..1]).unwrap_err().to_string();
        assert!(error.contains("NaN in row 0, column 1"), "{error}");
        bad.features.pop();
        bad.write(dir.path(), 0).unwrap();
        let error = read(&dirs[..1]).unwrap_err().to_string();
        assert!(error.contains("[1, 1], expected F32 [1, 2]"), "{error}");
    }
}
