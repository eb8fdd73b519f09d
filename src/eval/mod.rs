//! Ways to decode, compared on a task: accuracy against draft tokens kept.
//!
//! [`Row`]s are the ways, [`Menu`] makes them from what a user names, [`run`] answers every
//! problem in each of them, problem by problem, and [`summarise`] compares: accuracy with its
//! interval, differences to plain decoding paired by problem, m against the chain rule.

mod report;
mod rows;
mod run;
mod store;

pub use report::{Agreement, Report, RowReport, Shares, summarise};
pub use rows::{Menu, NamedJudge, RowsError};
pub use run::{Decoder, EvalError, Evaluation, Prompting, negative_log_likelihood, run};
pub use store::{Outcome, Results, StoreError};

use crate::device::{Draw, Step};
use crate::draft::Drafter;
use crate::judge::JudgeError;
use crate::model::Model;
use crate::verify::Sampling;
use serde::{Deserialize, Serialize};

/// One way to decode.
#[derive(Clone)]
pub struct Row {
    /// What it is called in tables; distinct among the rows of a run.
    pub name: String,
    /// Which line of a plot it belongs to: the rule, without its threshold.
    pub series: String,
    /// What drafts.
    pub drafter: Drafter,
    /// How it decodes, with which judge.
    pub step: Step,
}

/// All that decides what a row generates, beside target, prompt and seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// The rule with its threshold, as [`crate::verify::Rule`] writes it.
    pub rule: String,
    /// The shape that is drafted; 0 is plain decoding.
    pub shape: String,
    /// How children are chosen: `sampled` or `top`.
    pub draw: String,
    /// What drafts: `none`, `ngram SHORTEST-LONGEST`, or a model's fingerprint.
    pub draft: String,
    /// The law from which a drafter samples.
    pub draft_sampling: SamplingSpec,
    /// The target's sampling.
    pub sampling: SamplingSpec,
    /// What scores, for a judge's rule.
    pub judge: Option<JudgeSpec>,
    /// Digest of the guarded tokens.
    pub guard: String,
}

/// [`Sampling`], as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplingSpec {
    /// 0 is greedy.
    pub temperature: f32,
    /// 0 is off.
    pub top_k: usize,
    /// 1 is off.
    pub top_p: f32,
}

/// Which judge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeSpec {
    /// 16 hexadecimal digits of the BLAKE3 of its file.
    pub digest: String,
    /// How it was made, in its own words.
    pub method: String,
}

impl From<Sampling> for SamplingSpec {
    fn from(sampling: Sampling) -> SamplingSpec {
        SamplingSpec {
            temperature: sampling.temperature,
            top_k: sampling.top_k,
            top_p: sampling.top_p,
        }
    }
}

impl Row {
    /// Plain decoding with this step's sampling.
    pub fn is_plain(&self) -> bool {
        self.step.shape.depth() == 0
    }

    /// What the row does.
    ///
    /// # Errors
    /// Where the judge cannot be written as a file, and so has no digest.
    pub fn spec(&self) -> Result<Spec, JudgeError> {
        let policy = &self.step.policy;
        let plain = self.is_plain();
        let judge = match &self.step.judge {
            Some(judge) if policy.rule.needs_scores() && !plain => Some(JudgeSpec {
                digest: digest(&judge.to_bytes()?),
                method: judge.method.clone(),
            }),
            _ => None,
        };
        let guarded: Vec<u8> = policy
            .guard
            .tokens()
            .iter()
            .flat_map(|t| t.to_le_bytes())
            .collect();
        // what a drafter would do that is not asked makes no difference
        Ok(Spec {
            rule: if plain {
                "chain".to_owned()
            } else {
                policy.rule.to_string()
            },
            shape: self.step.shape.to_string(),
            draw: match self.step.draw {
                Draw::Top if !plain => "top".to_owned(),
                _ => "sampled".to_owned(),
            },
            draft: if plain {
                "none".to_owned()
            } else {
                draft_name(&self.drafter)
            },
            draft_sampling: if plain {
                policy.sampling.into()
            } else {
                self.step.draft_sampling.into()
            },
            sampling: policy.sampling.into(),
            judge,
            guard: if policy.rule.is_lossless() || plain {
                digest(&[])
            } else {
                digest(&guarded)
            },
        })
    }
}

impl Spec {
    /// 16 hexadecimal digits that tell this way to decode from others.
    pub fn key(&self) -> String {
        let text = serde_json::to_string(self).unwrap_or_default();
        digest(text.as_bytes())
    }
}

fn draft_name(drafter: &Drafter) -> String {
    match drafter {
        Drafter::None => "none".to_owned(),
        Drafter::Ngram(ngram) => format!("ngram {}-{}", ngram.shortest, ngram.longest),
        Drafter::Model(model) => model.fingerprint().to_owned(),
    }
}

/// The drafters of some rows, each once; plain rows need none of their own.
pub fn drafters(rows: &[Row]) -> Vec<Drafter> {
    let mut found: Vec<Drafter> = Vec::new();
    for row in rows.iter().filter(|r| !r.is_plain()) {
        if !found.iter().any(|d| same_drafter(d, &row.drafter)) {
            found.push(row.drafter.clone());
        }
    }
    if found.is_empty() {
        found.push(Drafter::None);
    }
    found
}

pub(crate) fn same_drafter(a: &Drafter, b: &Drafter) -> bool {
    draft_name(a) == draft_name(b)
}

/// 16 hexadecimal digits of the BLAKE3 of some bytes, such as those of a data file.
pub fn digest(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..16].to_owned()
}

/// A model, as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// Where it was.
    pub dir: String,
    /// [`Model::fingerprint`].
    pub fingerprint: String,
}

impl From<&Model> for ModelSpec {
    fn from(model: &Model) -> ModelSpec {
        ModelSpec {
            dir: model.dir.display().to_string(),
            fingerprint: model.fingerprint().to_owned(),
        }
    }
}
