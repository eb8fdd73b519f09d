//! What training found, in figures.

use super::curve::{At, Ranking};
use super::{Options, Part};
use crate::judge::Features;
use crate::judge::samples::{Method, Shard};
use crate::statistics::Interval;
use serde::{Deserialize, Serialize};

/// Everything that was chosen and measured. No times: equal inputs give equal reports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// How labels were made.
    pub method: Method,
    /// SelfJudge: N.
    pub suffix: Option<usize>,
    /// SelfJudge: whether scores are divided by their number of terms.
    pub normalise: bool,
    /// SelfJudge: the threshold of scores.
    pub tau: Option<TauReport>,
    /// The kind of head.
    pub head: String,
    /// What it reads.
    pub features: Features,
    /// Weights of the classes in the loss.
    pub class_weights: String,
    /// Of the split, of the head's start and of intervals.
    pub seed: u64,
    /// Training, tau, validation and test; training as far as it was used.
    pub parts: Vec<PartReport>,
    /// Every C that was tried, ascending.
    pub grid: Vec<GridPoint>,
    /// The one that was chosen.
    pub c: f64,
    /// On the validation part, which also chose C and thresholds.
    pub validation: Quality,
    /// On the test part, at the same thresholds; absent where it has one class only.
    pub test: Option<Quality>,
    /// On the test part against the common label; absent where it has one class only, or
    /// no answers were checked.
    pub common: Option<Common>,
}

/// SelfJudge's threshold, and what it does on the tau part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TauReport {
    /// A substitution is acceptable when its score is at least this.
    pub value: f32,
    /// How it was chosen.
    pub rule: String,
    /// Substitutions that change the final answer.
    pub changing: usize,
    /// Of these, how many count as acceptable.
    pub changing_accepted: usize,
    /// Substitutions that keep it.
    pub keeping: usize,
    /// Of these, how many count as acceptable.
    pub keeping_accepted: usize,
}

/// How many samples a part has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartReport {
    /// Which part.
    pub part: Part,
    /// Prompts, those without mismatches too.
    pub prompts: usize,
    /// Mismatches.
    pub samples: usize,
    /// Labelled acceptable.
    pub acceptable: usize,
    /// Labelled unacceptable.
    pub unacceptable: usize,
    /// Substitutions that were checked and change the final answer.
    pub changing: usize,
    /// Substitutions that were checked and keep it.
    pub keeping: usize,
}

/// One value of C.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GridPoint {
    /// Inverse strength of the penalty.
    pub c: f64,
    /// On the validation part.
    pub auroc: f64,
    /// Of L-BFGS; for a two-layer head the epoch that was kept.
    pub iterations: u64,
    /// Whether the optimum was reached; for a two-layer head, whether AUROC had stopped
    /// rising.
    pub converged: bool,
}

/// How good a judge is on a part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// With its 95 % interval, bootstrapped by prompt.
    pub auroc: Interval,
    /// f1, r90 and mid.
    pub points: Vec<Operating>,
}

/// An operating point on a part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Operating {
    /// f1, r90 or mid.
    pub name: String,
    /// What its threshold does.
    #[serde(flatten)]
    pub at: At,
    /// Unacceptable tokens rescued per answer.
    pub harmful_per_answer: f64,
}

/// How well a judge foresees whether a substitution changes the final answer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Common {
    /// With its 95 % interval, bootstrapped by prompt.
    pub auroc: Interval,
    /// Samples whose substitution changes the answer.
    pub changing: usize,
    /// Samples whose substitution keeps it.
    pub keeping: usize,
}

impl PartReport {
    pub(super) fn of(
        part: Part,
        prompts: usize,
        rows: &[usize],
        samples: &Shard,
        acceptable: &[bool],
    ) -> PartReport {
        let good = rows.iter().filter(|&&i| acceptable[i]).count();
        let checked = |changes: bool| {
            let answer = |&&i: &&usize| samples.samples[i].changes_answer == Some(changes);
            rows.iter().filter(answer).count()
        };
        PartReport {
            part,
            prompts,
            samples: rows.len(),
            acceptable: good,
            unacceptable: rows.len() - good,
            changing: checked(true),
            keeping: checked(false),
        }
    }
}

impl Quality {
    /// At the thresholds of `points`, whatever part they were chosen on.
    pub(super) fn of(
        ranking: &Ranking,
        prompts: usize,
        points: &[At; 3],
        options: &Options,
    ) -> Quality {
        let points = ["f1", "r90", "mid"]
            .iter()
            .zip(points)
            .map(|(name, point)| {
                let at = ranking.at(point.theta);
                Operating {
                    name: (*name).to_owned(),
                    at,
                    harmful_per_answer: at.harmful as f64 / prompts.max(1) as f64,
                }
            });
        Quality {
            auroc: ranking.auroc_interval(prompts, options.resamples, options.seed),
            points: points.collect(),
        }
    }
}

impl Common {
    pub(super) fn of(ranking: &Ranking, prompts: usize, options: &Options) -> Common {
        Common {
            auroc: ranking.auroc_interval(prompts, options.resamples, options.seed),
            changing: ranking.positives(),
            keeping: ranking.len() - ranking.positives(),
        }
    }
}
