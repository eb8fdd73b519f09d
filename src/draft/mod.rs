//! What proposes tokens. A drafter is data; a device executes it.

mod ngram;

pub use ngram::Ngram;

use crate::model::{Model, ModelError};
use std::sync::Arc;

/// A proposer of tokens.
#[derive(Clone)]
pub enum Drafter {
    /// Nothing is proposed: plain decoding.
    None,
    /// A model with the target's vocabulary. The target's own first layers under its
    /// own norm and head are such a model too, see [`Drafter::self_layers`].
    Model(Arc<Model>),
    /// Looks up what followed the last tokens where they stood before.
    Ngram(Ngram),
}

impl Drafter {
    /// The target's first `layers` layers under its own norm and head; no second model,
    /// and no second copy of the weights.
    pub fn self_layers(target: &Model, layers: usize) -> Result<Drafter, ModelError> {
        Ok(Drafter::Model(Arc::new(target.truncated(layers)?)))
    }

    /// The model that drafts, if one does.
    pub fn model(&self) -> Option<&Arc<Model>> {
        match self {
            Drafter::Model(model) => Some(model),
            _ => None,
        }
    }
}
