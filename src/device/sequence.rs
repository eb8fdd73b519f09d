//! The sequence that a device decodes, on the host's side.

use super::{Committed, DeviceError, Finish, Request, Setup, Step, Ticket, TokenReason, Want};
use crate::model::{Config, Model};
use crate::tree::TokenTree;
use crate::verify::{LogSoftmax, NextReason, Reason, Rows, Rule, Verdict};
use std::collections::VecDeque;

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

    /// Commits the accepted path and the token after it, up to the first stop token. `logits`
    /// are those of the pass, where log-probabilities are wanted: row 0 is the root's.
    pub fn take_in(
        &mut self,
        tree: &TokenTree,
        verdict: &Verdict,
        logits: Option<Rows<'_>>,
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
            log_probability: None,
        });
        let next = Committed {
            token: verdict.next,
            reason: match verdict.next_reason {
                NextReason::Bonus => TokenReason::Bonus,
                NextReason::Residual => TokenReason::Residual,
            },
            acceptability: None,
            log_probability: None,
        };
        // the row that predicts a token is the one before it
        let rows = [0].into_iter().chain(verdict.path.iter().map(|n| n + 1));
        for (mut token, row) in path.chain([next]).zip(rows) {
            token.log_probability =
                logits.map(|logits| LogSoftmax::of(logits.row(row)).log(token.token) as f32);
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

/// Tickets of the steps that were asked for, which are read in their order.
#[derive(Default)]
pub(super) struct Tickets {
    given: u64,
    read: u64,
}

impl Tickets {
    /// The next step's.
    pub fn give(&mut self) -> Ticket {
        self.given += 1;
        Ticket(self.given - 1)
    }

    /// Takes back a ticket, which must be the oldest one that is out.
    pub fn take(&mut self, ticket: Ticket) -> Result<(), DeviceError> {
        if ticket.0 != self.read || self.read == self.given {
            return Err(DeviceError::Ticket {
                found: ticket.0,
                expected: self.read,
            });
        }
        self.read += 1;
        Ok(())
    }

    /// Takes none of those that are out.
    pub fn forget(&mut self) {
        self.read = self.given;
    }
}

/// Steps asked for and not yet read; a step runs when its result is read.
#[derive(Default)]
pub(super) struct Queue {
    steps: VecDeque<Step>,
    tickets: Tickets,
}

impl Queue {
    /// Takes in a step.
    pub fn push(&mut self, step: &Step) -> Ticket {
        self.steps.push_back(step.clone());
        self.tickets.give()
    }

    /// The step whose turn it is, which must be the ticket's.
    pub fn pop(&mut self, ticket: Ticket) -> Result<Step, DeviceError> {
        self.tickets.take(ticket)?;
        self.steps.pop_front().ok_or(DeviceError::NotStarted)
    }

    /// Forgets all steps.
    pub fn clear(&mut self) {
        self.steps.clear();
        self.tickets.forget();
    }
}

/// Refuses a step that reads what target and drafter do not have.
pub(super) fn check_step(
    step: &Step,
    target: &Model,
    draft: Option<&Model>,
) -> Result<(), DeviceError> {
    if matches!(step.policy.rule, Rule::Kl { .. }) && draft.is_none() {
        return Err(DeviceError::Draft(
            "the KL rule compares with the drafter's own distribution; this drafter has none, a model has"
                .to_owned(),
        ));
    }
    match &step.judge {
        None => Ok(()),
        Some(judge) => judge
            .check(target, draft, true)
            .map_err(|e| DeviceError::Judge(e.to_string())),
    }
}

/// Refuses a context that the model was not made for.
pub(super) fn check_context(setup: &Setup) -> Result<(), DeviceError> {
    let (context, most) = (setup.context, setup.target.config.max_positions);
    match (1..=most).contains(&context) {
        true => Ok(()),
        false => Err(DeviceError::Context { context, most }),
    }
}

/// All of a prompt but its last token, which gets its keys and values with the first step.
pub(super) fn check_prompt<'a>(
    prompt: &'a [u32],
    config: &Config,
    context: usize,
) -> Result<&'a [u32], DeviceError> {
    let Some((_, before)) = prompt.split_last() else {
        return Err(DeviceError::EmptyPrompt);
    };
    check_tokens(prompt, config.vocab_size)?;
    match prompt.len() < context {
        true => Ok(before),
        false => Err(DeviceError::PromptTooLong {
            found: prompt.len(),
            context,
        }),
    }
}

/// Refuses a pass that the model or the context has no place for.
pub(super) fn check_pass(
    rows: &TokenTree,
    behind: &[usize],
    want: &Want,
    config: &Config,
    committed: usize,
    context: usize,
) -> Result<(), DeviceError> {
    check_tokens(rows.tokens(), config.vocab_size)?;
    let layers = config.layers;
    if let Some(&layer) = want.taps.iter().find(|&&l| l > layers) {
        return Err(DeviceError::Tap { layer, layers });
    }
    if let Some(root) = behind.iter().position(|&b| b > committed) {
        return Err(DeviceError::Behind {
            root,
            behind: behind[root],
            committed,
        });
    }
    match rows.positions(behind, committed).iter().max() {
        Some(&last) if last >= context => Err(DeviceError::Full {
            rows: rows.len(),
            committed,
            context,
        }),
        _ => Ok(()),
    }
}

/// Refuses a judge that cannot read the target; whether it was trained for it is the caller's to
/// ask.
pub(super) fn check_judge(want: &Want, model: &Model) -> Result<(), DeviceError> {
    match &want.judge {
        None => Ok(()),
        Some(judge) => judge
            .check(model, None, true)
            .map_err(|e| DeviceError::Judge(e.to_string())),
    }
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
