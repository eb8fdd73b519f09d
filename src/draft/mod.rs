//! What proposes tokens. A drafter is data; a device executes it.

mod ngram;

pub use ngram::Ngram;

use crate::model::{Model, ModelError, Tokenizer, TokenizerError};
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

/// Why nothing can be had that drafts by a name.
#[derive(Debug, thiserror::Error)]
pub enum DrafterError {
    /// `self:` with something else than a number behind it.
    #[error("drafter 'self:{0}': '{0}' is no number of layers")]
    Layers(String),
    /// The draft model cannot be opened, or the target does not have so many layers.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A tokenizer cannot be opened, or the two models' differ.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

impl Drafter {
    /// What a user names: `none`, `ngram`, `self:LAYERS`, or a model by its directory or Hub id.
    ///
    /// # Errors
    /// A name that is none of these, a model that does not open, and one that gives token ids another
    /// meaning than the target does.
    pub fn open(name: &str, target: &Model) -> Result<Drafter, DrafterError> {
        if let Some(layers) = name.strip_prefix("self:") {
            let unreadable = |_| DrafterError::Layers(layers.to_owned());
            let layers = layers.parse().map_err(unreadable)?;
            return Ok(Drafter::self_layers(target, layers)?);
        }
        match name {
            "none" => Ok(Drafter::None),
            "ngram" => Ok(Drafter::Ngram(Ngram::default())),
            _ => {
                let draft = Model::open(&Model::locate(name)?)?;
                Tokenizer::open(&draft.dir)?.agrees_with(&Tokenizer::open(&target.dir)?)?;
                Ok(Drafter::Model(Arc::new(draft)))
            }
        }
    }

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
