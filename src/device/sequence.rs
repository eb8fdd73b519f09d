//! The sequence that a device decodes, on the host's side.

use super::{Committed, DeviceError, Finish, Request, TokenReason};
use crate::tree::TokenTree;
use crate::verify::{NextReason, Reason, Verdict};

/// The sequence under way.
pub(super) struct Sequence {
    /// Prompt and committed tokens; the last one has no keys and values yet.
    pub tokens: Vec<u32>,
    pub request: Request,
    pub step: u32,
    pub finish: Option<Finish>,
}

impl Sequence {
    /// Begins with the prompt of a request.
    pub fn new(request: &Request) -> Sequence {
        Sequence {
            tokens: request.prompt.clone(),
            step: 0,
            finish: (request.max_tokens == 0).then_some(Finish::Length),
            request: request.clone(),
        }
    }

    /// Commits the accepted path and the token after it, up to the first stop token.
    pub fn take_in(
        &mut self,
        tree: &TokenTree,
        verdict: &Verdict,
        context: usize,
    ) -> Vec<Committed> {
        let mut committed = Vec::new();
        let path = verdict.path.iter().map(|&node| Committed {
            token: tree.tokens()[node],
            reason: match verdict.reasons[node] {
                Reason::Judged => TokenReason::Judged,
                _ => TokenReason::Aligned,
            },
            acceptability: Some(verdict.acceptability[node]).filter(|a| !a.is_nan()),
        });
        let next = Committed {
            token: verdict.next,
            reason: match verdict.next_reason {
                NextReason::Bonus => TokenReason::Bonus,
                NextReason::Residual => TokenReason::Residual,
            },
            acceptability: None,
        };
        for token in path.chain([next]) {
            committed.push(token);
            self.tokens.push(token.token);
            if self.request.stop_tokens.contains(&token.token) {
                self.finish = Some(Finish::Stop);
                break;
            }
        }
        if self.finish.is_none() {
            if self.tokens.len() - self.request.prompt.len() >= self.request.max_tokens {
                self.finish = Some(Finish::Length);
            } else if self.tokens.len() >= context {
                self.finish = Some(Finish::Context);
            }
        }
        self.step += 1;
        committed
    }
}

/// The rows of a step's pass: the last committed token, then the nodes.
pub(super) fn rooted(root: u32, tree: &TokenTree) -> TokenTree {
    let mut rows = TokenTree::default();
    rows.push(None, root);
    for (node, &token) in tree.tokens().iter().enumerate() {
        rows.push(Some(tree.parent(node).map_or(0, |p| p + 1)), token);
    }
    rows
}

/// Refuses tokens that have no row in the embedding.
pub(super) fn check_tokens(tokens: &[u32], vocab_size: usize) -> Result<(), DeviceError> {
    match tokens.iter().position(|&t| t as usize >= vocab_size) {
        None => Ok(()),
        Some(place) => Err(DeviceError::Token {
            token: tokens[place],
            place,
            vocab_size,
        }),
    }
}
