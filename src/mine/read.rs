//! The drafter reads an answer along: what would it have said at each position?

use super::PromptError;
use crate::device::{Device, Logits, Want};
use crate::draft::Ngram;
use crate::tree::{Shape, TokenTree};

/// Rows of a pass whose logits are looked at at once: a vocabulary of 150,000 makes them 40 MB.
const ROWS: usize = 64;

/// What reads.
pub enum Reader {
    /// A draft model, on a device of its own as the target of it; it knows what it has read.
    Model {
        /// The device.
        device: Box<dyn Device>,
        /// Tokens in its cache.
        seen: Vec<u32>,
        /// Ids that the target knows: a padded vocabulary has more.
        vocab_size: usize,
    },
    /// Prompt lookup.
    Ngram(Ngram),
}

impl Reader {
    /// Reads with a draft model, opened on `device` as a target.
    pub fn model(device: Box<dyn Device>, vocab_size: usize) -> Reader {
        Reader::Model {
            device,
            seen: Vec::new(),
            vocab_size,
        }
    }

    /// The draft model's device, for its hidden states; what it has read is forgotten.
    pub fn device(&mut self) -> Option<&mut dyn Device> {
        match self {
            Reader::Model { device, seen, .. } => {
                seen.clear();
                Some(device.as_mut())
            }
            Reader::Ngram(_) => None,
        }
    }

    /// The best `ranks` tokens, best first, at each position of `answer` from `from` on,
    /// given the prompt and what stands before the position.
    pub fn read(
        &mut self,
        prompt: &[u32],
        answer: &[u32],
        from: usize,
        ranks: usize,
    ) -> Result<Vec<Vec<u32>>, PromptError> {
        let all = [prompt, answer].concat();
        let from = prompt.len() + from;
        match self {
            Reader::Ngram(ngram) => {
                let shape = Shape::Levels(vec![ranks]);
                let next = |end: usize| ngram.propose(&all[..end], &shape);
                Ok((from..all.len())
                    .map(|end| next(end).tokens().to_vec())
                    .collect())
            }
            Reader::Model {
                device,
                seen,
                vocab_size,
            } => {
                // the row before a position predicts it; what is the same stays in the cache
                let same = seen.iter().zip(&all).take_while(|(a, b)| a == b).count();
                let start = same.min(from - 1);
                device.rollback(start);
                seen.truncate(start);
                let mut best = Vec::new();
                let mut at = start;
                while at + 1 < all.len() {
                    // up to `from` nothing is predicted that anyone asks for
                    let (end, logits) = match at + 1 < from {
                        true => ((at + crate::tree::MAX_ROWS).min(from - 1), Logits::None),
                        false => ((at + ROWS).min(all.len() - 1), Logits::All),
                    };
                    let rows = TokenTree::chain(&all[at..end]);
                    let want = Want {
                        logits,
                        ..Want::default()
                    };
                    let output = device.pass(&rows, &want)?;
                    device.commit(&(0..rows.len()).collect::<Vec<_>>());
                    seen.extend_from_slice(&all[at..end]);
                    if logits == Logits::All {
                        let width = output.logits.len() / rows.len();
                        for (i, row) in output.logits.chunks_exact(width).enumerate() {
                            // the best of them would be any
                            if row.iter().any(|z| z.is_nan()) {
                                return Err(PromptError::NotFinite {
                                    what: "logit of the drafter",
                                    position: at + i + 1 - prompt.len(),
                                    found: f64::NAN,
                                });
                            }
                            best.push(top(&row[..width.min(*vocab_size)], ranks));
                        }
                    }
                    at = end;
                }
                Ok(best)
            }
        }
    }
}

/// The token that greedy decoding takes.
pub(super) fn best(logits: &[f32]) -> u32 {
    top(logits, 1)[0]
}

/// The `k` largest, largest first; ties go to the lowest id.
fn top(logits: &[f32], k: usize) -> Vec<u32> {
    let mut best: Vec<(f32, u32)> = Vec::with_capacity(k + 1);
    for (id, &logit) in logits.iter().enumerate() {
        if best.len() < k || best.last().is_some_and(|last| logit > last.0) {
            let place = best.partition_point(|b| b.0 >= logit);
            best.insert(place, (logit, id as u32));
            best.truncate(k);
        }
    }
    best.into_iter().map(|(_, id)| id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_come_first_and_ties_by_id() {
        assert_eq!(top(&[1.0, 3.0, 2.0, 3.0, -1.0], 3), [1, 3, 2]);
        assert_eq!(top(&[1.0, 1.0], 1), [0]);
        assert_eq!(top(&[1.0], 4), [0]);
    }
}
