//! Tokens that no lossy rule lets in or overrides, as users name them.

use crate::model::{Model, Tokenizer};
use crate::verify::Guard;

/// What cannot be guarded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{part}': expected none, digits or a token id below {vocab_size}")]
pub struct UnknownGuard {
    /// As it was given.
    pub part: String,
    /// Ids that there are.
    pub vocab_size: u32,
}

/// End-of-sequence and every special token.
pub fn default_guard(target: &Model, tokenizer: &Tokenizer) -> Vec<u32> {
    let mut ids = target.generation.eos.clone();
    ids.extend(tokenizer.special_ids());
    ids
}

/// What a list guards beside [`default_guard`]: `digits` and token ids, comma-separated; `none` guards
/// nothing at all.
pub fn guard(list: &str, target: &Model, tokenizer: &Tokenizer) -> Result<Guard, UnknownGuard> {
    if list == "none" {
        return Ok(Guard::NONE);
    }
    let vocab_size = target.config.vocab_size as u32;
    let mut ids = default_guard(target, tokenizer);
    let has_digit = |id: &u32| {
        let token = tokenizer.token(*id);
        token.is_some_and(|t| t.chars().any(|c| c.is_ascii_digit()))
    };
    for part in list.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        match part.parse() {
            _ if part == "digits" => ids.extend((0..vocab_size).filter(has_digit)),
            Ok(id) if id < vocab_size => ids.push(id),
            _ => {
                return Err(UnknownGuard {
                    part: part.to_owned(),
                    vocab_size,
                });
            }
        }
    }
    Ok(ids.into_iter().collect())
}
