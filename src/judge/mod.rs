//! Trained judges: features in, the probability that a token is acceptable out.
//!
//! ```
//! use gavel::judge::{Features, Head, Judge, Meaning};
//!
//! let judge = Judge {
//!     head: Head::Linear { w: vec![0.5, -1.0], b: 0.25 },
//!     meaning: Meaning::Acceptable,
//!     features: Features::final_hidden(2),
//!     vocab_size: 320,
//!     target_fingerprint: "made for the example".into(),
//!     draft_fingerprint: None,
//!     method: "by hand".into(),
//!     provenance: String::new(),
//!     operating_points: None,
//!     curve: Vec::new(),
//! };
//! assert!((judge.score(&[1.0, 0.75]) - 0.5).abs() < 1e-6);
//! ```

mod features;
mod file;
mod fit;
pub mod samples;
pub mod train;

use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use features::{Features, Layout, Tap, TapError};

use crate::model::ModelError;
use crate::output::OutputError;

/// The widest hidden layer of a two-layer judge: four row tiles of the LM head.
pub const MAX_WIDTH: usize = 64;

/// A judge as it is stored: standardisation folded in, no tie to a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Judge {
    /// From features to a logit.
    pub head: Head,
    /// What the sigmoid of that logit is the probability of.
    pub meaning: Meaning,
    /// What it reads.
    pub features: Features,
    /// Vocabulary size of the target.
    pub vocab_size: usize,
    /// [`crate::model::Model::fingerprint`] of the target it was trained on.
    pub target_fingerprint: String,
    /// The drafter's, where it had weights.
    pub draft_fingerprint: Option<String>,
    /// How labels were made and the head was trained, for people.
    pub method: String,
    /// From which data and by whom, for people.
    pub provenance: String,
    /// Thresholds to choose from; absent where nothing was validated.
    pub operating_points: Option<OperatingPoints>,
    /// The whole validation curve, thresholds ascending; may be empty.
    pub curve: Vec<CurvePoint>,
}

/// From F features to one logit.
#[derive(Clone, Debug, PartialEq)]
pub enum Head {
    /// w . f + b.
    Linear {
        /// \[F\].
        w: Vec<f32>,
        /// Bias.
        b: f32,
    },
    /// w2 . gelu(W1 f + b1) + b2, with the tanh form of [`gelu`].
    TwoLayer {
        /// [width, F], row major; width at most [`MAX_WIDTH`].
        w1: Vec<f32>,
        /// \[width\].
        b1: Vec<f32>,
        /// \[width\].
        w2: Vec<f32>,
        /// Bias.
        b2: f32,
    },
}

/// What a judge was trained to recognise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Meaning {
    /// The sigmoid is P(acceptable): SelfJudge (2510.02329), Judge Decoding (2501.19309).
    Acceptable,
    /// The sigmoid is P(important); a token is acceptable with the rest: AutoJudge (2504.20039).
    Important,
}

/// The thresholds of METHODS, "Training and operating points".
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatingPoints {
    /// Maximises F1 of unacceptable tokens.
    pub f1: OperatingPoint,
    /// The least restrictive with recall of unacceptable tokens of at least 0.9.
    pub r90: OperatingPoint,
    /// The mean of the two in logits.
    pub mid: OperatingPoint,
}

/// A threshold and what validation says of it. The positive class is *unacceptable*.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatingPoint {
    /// A token is rescued when its score is at least this, 0 to 1.
    pub theta: f32,
    /// Of the tokens not rescued, the share that is unacceptable.
    pub precision: f32,
    /// Of the unacceptable tokens, the share that is not rescued.
    pub recall: f32,
    /// Expected number of unacceptable tokens rescued per answer.
    pub harmful_per_answer: f32,
}

/// One threshold of the validation curve.
pub type CurvePoint = OperatingPoint;

/// Where on its curve a judge is to work: `f1`, `r90`, `mid`, `budget=B` or a threshold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum At {
    /// [`OperatingPoints::f1`].
    F1,
    /// [`OperatingPoints::r90`].
    R90,
    /// [`OperatingPoints::mid`].
    Mid,
    /// The least restrictive threshold of [`Judge::curve`] that is expected to rescue at most
    /// so many unacceptable tokens per answer; the most restrictive there is where none keeps
    /// to it.
    Budget(f32),
    /// This threshold.
    Theta(f32),
}

impl FromStr for At {
    type Err = JudgeError;

    fn from_str(text: &str) -> Result<At, JudgeError> {
        match text {
            "f1" => Ok(At::F1),
            "r90" => Ok(At::R90),
            "mid" => Ok(At::Mid),
            other => {
                let at = match other.strip_prefix("budget=") {
                    Some(budget) => budget.parse().ok().map(At::Budget),
                    None => other.parse().ok().map(At::Theta),
                };
                let fits = |at: &At| match at {
                    At::Budget(budget) => budget.is_finite() && *budget >= 0.0,
                    At::Theta(theta) => (0.0..=1.0).contains(theta),
                    _ => true,
                };
                at.filter(fits).ok_or_else(|| JudgeError::At {
                    found: other.chars().take(80).collect(),
                })
            }
        }
    }
}

/// Why a judge could not be read, written or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JudgeError {
    /// The file is not readable as safetensors.
    #[error(transparent)]
    File(#[from] ModelError),
    /// The file could not be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The file is no judge, or part of it is wrong.
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
    /// Part of a judge in memory is wrong.
    #[error("judge: {what}: found {found}, expected {expected}")]
    Invalid {
        /// Which part.
        what: String,
        /// What is there.
        found: String,
        /// What belongs there.
        expected: String,
    },
    /// The judge does not fit the loaded models.
    #[error("the judge does not fit: {what}: the judge has {judge}, {model}{advice}")]
    Misfit {
        /// What differs.
        what: &'static str,
        /// The judge's side.
        judge: String,
        /// The loaded models' side.
        model: String,
        /// What may help; empty or from "; " on.
        advice: &'static str,
    },
    /// The judge in a file does not fit the loaded models.
    #[error("{}: {misfit}", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// Why: [`JudgeError::Misfit`].
        misfit: Box<JudgeError>,
    },
    /// The judge was saved without validation.
    #[error(
        "the judge stores no operating point '{at}': it was not validated; give a threshold from 0 to 1"
    )]
    NoOperatingPoint {
        /// The point asked for.
        at: &'static str,
    },
    /// Neither an operating point nor a threshold.
    #[error(
        "judge threshold '{found}': expected f1, r90, mid, budget=B with B at least 0, or a number from 0 to 1"
    )]
    At {
        /// What was given.
        found: String,
    },
}

impl Judge {
    /// The probability that the token with these features is acceptable: sigma of the
    /// logit, or 1 - sigma where the judge recognises important tokens.
    ///
    /// `features` has [`Features::len`] values. Sums are taken in float64, in a fixed order that
    /// does not depend on the processor.
    pub fn score(&self, features: &[f32]) -> f32 {
        self.acceptability(self.head.logit(features))
    }

    /// As [`Judge::score`], from the products of the first matrix with the features, one for each
    /// of its rows and without bias.
    pub(crate) fn score_of(&self, products: &[f64]) -> f32 {
        self.acceptability(self.head.logit_of(products))
    }

    fn acceptability(&self, logit: f64) -> f32 {
        let acceptable = match self.meaning {
            Meaning::Acceptable => logit,
            Meaning::Important => -logit,
        };
        (1.0 / (1.0 + (-acceptable).exp())) as f32
    }

    /// The threshold that `at` stands for.
    pub fn theta(&self, at: At) -> Result<f32, JudgeError> {
        let (name, point) = match (at, &self.operating_points) {
            (At::Theta(theta), _) => return Ok(theta),
            (At::Budget(budget), _) => {
                let fits = |p: &&CurvePoint| p.harmful_per_answer <= budget;
                (
                    "budget",
                    self.curve.iter().find(fits).or(self.curve.last()).copied(),
                )
            }
            (At::F1, points) => ("f1", points.map(|p| p.f1)),
            (At::R90, points) => ("r90", points.map(|p| p.r90)),
            (At::Mid, points) => ("mid", points.map(|p| p.mid)),
        };
        match point {
            Some(point) => Ok(point.theta),
            None => Err(JudgeError::NoOperatingPoint { at: name }),
        }
    }

    /// Turns a judge of standardised features, (x - mean) / std, into one of the features
    /// themselves. Where std is 0 the feature is constant and std counts as 1, as in
    /// scikit-learn.
    pub fn fold(&mut self, mean: &[f32], std: &[f32]) -> Result<(), JudgeError> {
        let features = self.features.len();
        for (what, values) in [("mean", mean), ("standard deviation", std)] {
            let fits = values.len() == features
                && values.iter().all(|x| x.is_finite())
                && (what == "mean" || values.iter().all(|&x| x >= 0.0));
            if !fits {
                return Err(JudgeError::Invalid {
                    what: what.to_owned(),
                    found: format!("{} values, {values:.3?}", values.len())
                        .chars()
                        .take(80)
                        .collect(),
                    expected: format!("{features} finite values"),
                });
            }
        }
        let mut folded = self.clone();
        match &mut folded.head {
            Head::Linear { w, b } => fold_row(w, b, mean, std),
            Head::TwoLayer { w1, b1, .. } => {
                for (row, b) in w1.chunks_mut(features.max(1)).zip(b1) {
                    fold_row(row, b, mean, std);
                }
            }
        }
        folded.validate()?;
        *self = folded;
        Ok(())
    }
}

fn fold_row(w: &mut [f32], b: &mut f32, mean: &[f32], std: &[f32]) {
    let mut shift = 0.0;
    for ((w, &mean), &std) in w.iter_mut().zip(mean).zip(std) {
        let scaled = f64::from(*w) / if std == 0.0 { 1.0 } else { f64::from(std) };
        shift += scaled * f64::from(mean);
        *w = scaled as f32;
    }
    *b = (f64::from(*b) - shift) as f32;
}

impl Head {
    /// Rows of the first matrix: 1 where there is but one.
    pub fn width(&self) -> usize {
        match self {
            Head::Linear { .. } => 1,
            Head::TwoLayer { w2, .. } => w2.len(),
        }
    }

    /// The logit of [`Judge::score`].
    pub fn logit(&self, features: &[f32]) -> f64 {
        match self {
            Head::Linear { w, .. } => self.logit_of(&[dot(w, features)]),
            Head::TwoLayer { w1, .. } => {
                let rows = w1.chunks(features.len().max(1));
                let products: Vec<f64> = rows.map(|row| dot(row, features)).collect();
                self.logit_of(&products)
            }
        }
    }

    /// The logit, from the products of the first matrix with the features.
    fn logit_of(&self, products: &[f64]) -> f64 {
        match self {
            Head::Linear { b, .. } => products[0] + f64::from(*b),
            Head::TwoLayer { b1, w2, b2, .. } => {
                let hidden = products
                    .iter()
                    .zip(b1)
                    .map(|(p, &b)| gelu(p + f64::from(b)));
                let sum: f64 = hidden.zip(w2).map(|(h, &w)| h * f64::from(w)).sum();
                sum + f64::from(*b2)
            }
        }
    }
}

/// Partial sums of [`dot`].
const LANES: usize = 16;

/// The dot product in float64: [`LANES`] sums, of the products whose places are equal modulo
/// [`LANES`]; then these sums, first to last; then what is left at the end. A product of two
/// float32 is exact in float64, so fused or not, on any processor, the result is the same.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn with_fma(a: &[f32], b: &[f32]) -> f64 {
            sum_of_products(a, b, f64::mul_add)
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: both features were just detected.
            return unsafe { with_fma(a, b) };
        }
    }
    sum_of_products(a, b, |a, b, sum| a * b + sum)
}

#[inline(always)]
fn sum_of_products(a: &[f32], b: &[f32], fused: impl Fn(f64, f64, f64) -> f64) -> f64 {
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            sums[i] = fused(f64::from(a[i]), f64::from(b[i]), sums[i]);
        }
    }
    let rest = a_rest.iter().zip(b_rest);
    rest.fold(sums.iter().sum(), |sum, (&a, &b)| {
        fused(f64::from(a), f64::from(b), sum)
    })
}

/// x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), PyTorch's `gelu` with `approximate="tanh"`.
pub fn gelu(x: f64) -> f64 {
    let inner = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;
    0.5 * x * (1.0 + (inner * (x + 0.044715 * x * x * x)).tanh())
}

#[cfg(test)]
mod tests {
    use super::{LANES, dot, sum_of_products};

    #[test]
    fn dot_products_have_the_same_bits_fused_or_not() {
        let value = |i: usize| ((i * 7919 % 1009) as f32 - 504.0) / 37.0;
        for len in [0, 1, LANES - 1, LANES, 5 * LANES + 3, 576] {
            let a: Vec<f32> = (0..len).map(value).collect();
            let b: Vec<f32> = (0..len).map(|i| value(i + 31)).collect();
            let plain: f64 = a
                .iter()
                .zip(&b)
                .map(|(&a, &b)| f64::from(a) * f64::from(b))
                .sum();
            let portable = sum_of_products(&a, &b, |a, b, sum| a * b + sum);
            assert_eq!(dot(&a, &b).to_bits(), portable.to_bits(), "{len}");
            assert!(
                (portable - plain).abs() <= 1e-11 * (1.0 + plain.abs()),
                "{len}"
            );
        }
    }
}
