//! What a judge reads.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A point in the target whose hidden state is a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Tap {
    /// After the final norm: `last_hidden_state` of transformers.
    Final,
    /// The residual stream after this many layers, at least 1.
    Layer(usize),
}

/// Why a tap could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tap '{0}': expected 'final' or a number of layers from 1")]
pub struct TapError(String);

impl FromStr for Tap {
    type Err = TapError;

    fn from_str(text: &str) -> Result<Self, TapError> {
        match text.parse() {
            _ if text == "final" => Ok(Tap::Final),
            Ok(layer) if layer > 0 => Ok(Tap::Layer(layer)),
            _ => Err(TapError(text.chars().take(80).collect())),
        }
    }
}

impl TryFrom<String> for Tap {
    type Error = TapError;

    fn try_from(text: String) -> Result<Self, TapError> {
        text.parse()
    }
}

impl From<Tap> for String {
    fn from(tap: Tap) -> String {
        tap.to_string()
    }
}

impl fmt::Display for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Tap::Final => f.write_str("final"),
            Tap::Layer(layer) => write!(f, "{layer}"),
        }
    }
}

/// Whose hidden states a judge reads (AutoJudge, 2504.20039, calls them DT and DD-DT).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Layout {
    /// The target's, with the draft token as input.
    #[serde(rename = "DT")]
    Dt,
    /// The drafter's final hidden state, then the target's.
    #[serde(rename = "DD-DT")]
    DdDt,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Layout::Dt => "DT",
            Layout::DdDt => "DD-DT",
        })
    }
}

/// The features of a node: the drafter's hidden state where the layout has it, then the
/// target's at each tap, in the order of `taps`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Features {
    /// Whose hidden states.
    pub layout: Layout,
    /// Where in the target; at least one, none twice.
    pub taps: Vec<Tap>,
    /// Hidden size of the target.
    pub target_width: usize,
    /// Hidden size of the drafter; 0 where the layout does without.
    pub draft_width: usize,
}

impl Features {
    /// Layout DT with the target's final hidden state.
    pub fn final_hidden(target_width: usize) -> Features {
        Features {
            layout: Layout::Dt,
            taps: vec![Tap::Final],
            target_width,
            draft_width: 0,
        }
    }

    /// F, the number of features.
    pub fn len(&self) -> usize {
        self.taps
            .len()
            .saturating_mul(self.target_width)
            .saturating_add(self.draft_width)
    }

    /// Whether there are no features at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
