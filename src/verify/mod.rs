//! Verification: which drafted tokens the target keeps, and what it says next.
//!
//! One [`Policy`] names the rules of METHODS sections 2 and 3; [`verify`] is
//! their scalar reference implementation. It knows nothing of models and
//! devices: rows of logits go in, a [`Verdict`] comes out. Its arithmetic
//! ([`Real`]) and its randomness ([`Chooser`]) are parameters, so that the
//! lossless rules can be proven lossless by enumeration in `f64`.
//!
//! Every sum of floats over the vocabulary has the order that [`math`] states,
//! and what truncation and draws compare are integers ([`Law`]): a kernel that
//! follows the same definitions decides equally, given equal logits and seed.

mod block;
mod chooser;
mod law;
mod log_softmax;
mod lossless;
mod mass;
pub mod math;
mod policy;
mod rules;
#[cfg(test)]
mod tests;
mod truncate;

use std::borrow::Cow;

pub use chooser::{Chooser, Philox, Site, Use, philox4x32};
pub use law::{Law, LawError, ONE, Remaining};
pub use log_softmax::LogSoftmax;
pub use mass::Mass;
pub use math::Real;
pub use policy::{Guard, Policy, PolicyError, Rule, Sampling};
pub use rules::{Acceptability, Parent};

use crate::tree::TokenTree;
use lossless::{NotDrawn, State};

/// Rows of raw logits: row r is `data[r * width..][..width]`.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    data: &'a [f32], // [rows, width]
    width: usize,
}

impl<'a> Rows<'a> {
    /// Cuts `data` into rows of `width`; `None` when that leaves a rest or width is 0.
    pub fn new(data: &'a [f32], width: usize) -> Option<Rows<'a>> {
        (width > 0 && data.len().is_multiple_of(width)).then_some(Rows { data, width })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.data.len() / self.width
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Values per row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Row `row`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> &'a [f32] {
        &self.data[row * self.width..][..self.width]
    }
}

/// What one target pass over a tree of N nodes supplies.
///
/// Row 0 belongs to the last committed token, row n + 1 to node n.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The proposal, N nodes.
    pub tree: &'a TokenTree,
    /// The target's raw logits, `[N + 1, V]`.
    pub target: Rows<'a>,
    /// The law from which each row's children were drawn, without replacement
    /// and in the order of their nodes, `[N + 1]`; leaves may have [`Law::default`].
    /// `None`: the drafter is deterministic and siblings are distinct.
    pub q: Option<&'a [Law]>,
    /// The drafter's raw logits, `[N + 1, Vd]`; read by KL at rows with children.
    /// Vd may differ from V, ids are shared.
    pub r: Option<Rows<'a>>,
    /// A judge's score per node, `[N]`.
    pub scores: Option<&'a [f32]>,
}

/// How a node fared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Accepted by the lossless rule.
    Aligned,
    /// Accepted by a lossy rule where the lossless one would not have.
    Judged,
    /// Tested and not accepted.
    Rejected,
    /// Not looked at.
    #[default]
    Unvisited,
}

/// Where the token after the accepted path comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NextReason {
    /// The last accepted node has no children: drawn from p.
    Bonus,
    /// All children were rejected: drawn from what they leave of p.
    Residual,
}

/// The outcome of one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Accepted nodes, root first.
    pub path: Vec<usize>,
    /// The target's own token after them.
    pub next: u32,
    /// Where `next` comes from.
    pub next_reason: NextReason,
    /// How each node fared, `[N]`.
    pub reasons: Vec<Reason>,
    /// What the rule thought of each node, `[N]`; NaN where it was not asked.
    /// See [`Acceptability::value`].
    pub acceptability: Vec<f32>,
}

impl Verdict {
    /// The tokens that this step commits: the accepted path, then `next`.
    pub fn tokens(&self, tree: &TokenTree) -> Vec<u32> {
        let path = self.path.iter().map(|&n| tree.tokens()[n]);
        path.chain([self.next]).collect()
    }
}

/// Why inputs could not be verified.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum VerifyError {
    /// Sampling or rule out of range.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// An input of the wrong length.
    #[error("{what}: found {found}, expected {expected} for a tree of {nodes} nodes")]
    Length {
        /// The input.
        what: &'static str,
        /// Rows or values found.
        found: usize,
        /// Rows or values expected.
        expected: usize,
        /// Nodes in the tree.
        nodes: usize,
    },
    /// A drafted token outside the target's vocabulary.
    #[error(
        "node {node} has token {token}, expected one below {width}, the width of the target's logits"
    )]
    Token {
        /// The node.
        node: usize,
        /// Its token.
        token: u32,
        /// The target's vocabulary.
        width: usize,
    },
    /// A visited row of logits that has no softmax.
    #[error("row {row} of the {whose}'s logits: {source}")]
    Logits {
        /// "target" or "drafter".
        whose: &'static str,
        /// The row.
        row: usize,
        /// What is wrong with it.
        source: LawError,
    },
    /// A judge's score that is NaN.
    #[error("the judge's score of node {node} is NaN")]
    Score {
        /// The node.
        node: usize,
    },
    /// A child that cannot have been drawn as stated.
    #[error(
        "node {node} has token {token}, which the law it is said to be drawn from does not hold (any more)"
    )]
    NotDrawn {
        /// The node.
        node: usize,
        /// Its token.
        token: u32,
    },
    /// The rule reads an input that was not given.
    #[error("rule '{rule}' needs {what}, found none")]
    Missing {
        /// The rule.
        rule: Rule,
        /// The input.
        what: &'static str,
    },
    /// Block verification of a tree.
    #[error(
        "rule 'block' verifies chains, found a tree in which node {node} does not follow node {before}"
    )]
    BlockTree {
        /// The first node out of line.
        node: usize,
        /// The node before it.
        before: usize,
    },
    /// Block verification beside a judge.
    #[error("rule 'block' takes no judge, found scores")]
    BlockJudge,
}

impl<'a> Inputs<'a> {
    /// Refuses inputs whose shapes disagree, or that the rule cannot work with.
    fn check(&self, rule: &Rule) -> Result<(), VerifyError> {
        let nodes = self.tree.len();
        let length = |what, found: Option<usize>, expected| match found {
            Some(found) if found != expected => Err(VerifyError::Length {
                what,
                found,
                expected,
                nodes,
            }),
            _ => Ok(()),
        };
        length("rows of target logits", Some(self.target.len()), nodes + 1)?;
        length("draft laws", self.q.map(<[Law]>::len), nodes + 1)?;
        length("rows of drafter logits", self.r.map(|r| r.len()), nodes + 1)?;
        length("judge scores", self.scores.map(<[f32]>::len), nodes)?;
        let width = self.target.width();
        let outside = |&(_, &token): &(usize, &u32)| token as usize >= width;
        if let Some((node, &token)) = self.tree.tokens().iter().enumerate().find(outside) {
            return Err(VerifyError::Token { node, token, width });
        }
        let missing = |what| VerifyError::Missing { rule: *rule, what };
        if rule.needs_r() && self.r.is_none() && nodes > 0 {
            return Err(missing("the drafter's logits"));
        }
        if rule.needs_scores() && self.scores.is_none() {
            return Err(missing("a judge's scores"));
        }
        if *rule == Rule::Block {
            let parents = self.tree.parents().iter().enumerate();
            let bent = parents.clone().find(|&(n, &p)| p != n as i32 - 1);
            if let Some((node, _)) = bent {
                let before = node.saturating_sub(1);
                return Err(VerifyError::BlockTree { node, before });
            }
            if self.scores.is_some() {
                return Err(VerifyError::BlockJudge);
            }
        }
        Ok(())
    }

    /// The rows that the rule reads after row `row`.
    fn parent<T: Real>(&self, row: usize, rule: &Rule) -> Result<Parent<'a, T>, VerifyError> {
        let drafter = self.r.filter(|_| rule.needs_r()).map(|r| r.row(row));
        Parent::new(self.target.row(row), drafter).map_err(|source| VerifyError::Logits {
            whose: "target",
            row,
            source,
        })
    }
}

/// Decides which drafted tokens are kept and draws the one that follows.
///
/// Rows are read as the path reaches them: of a row that no decision visits,
/// nothing is looked at. Greedy sampling reads a row's maximum only, and so
/// does margin, with the runner-up.
///
/// # Errors
/// See [`VerifyError`]; nothing panics, whatever the inputs.
pub fn verify<T, C>(
    inputs: &Inputs<'_>,
    policy: &Policy,
    chooser: &mut C,
) -> Result<Verdict, VerifyError>
where
    T: Real,
    C: Chooser<T> + ?Sized,
{
    policy.check()?;
    inputs.check(&policy.rule)?;
    let nodes = inputs.tree.len();
    let mut verdict = Verdict {
        path: Vec::new(),
        next: 0,
        next_reason: NextReason::Bonus,
        reasons: vec![Reason::Unvisited; nodes],
        acceptability: vec![f32::NAN; nodes],
    };
    if policy.rule == Rule::Block {
        verify_block(inputs, policy, chooser, &mut verdict)?;
        return Ok(verdict);
    }
    let mut row = 0usize;
    loop {
        let parent = row.checked_sub(1);
        let children: Vec<usize> = inputs.tree.children(parent).collect();
        let mut logits: Parent<'_, T> = inputs.parent(row, &policy.rule)?;
        let p = Law::of_row(inputs.target.row(row), logits.best(), &policy.sampling);
        if children.is_empty() {
            let next = chooser.draw(Site::row(row, Use::Bonus), &Remaining::new(&p));
            verdict.next = next.unwrap_or(logits.argmax());
            return Ok(verdict);
        }
        // SGLang's rule knows the target only.
        let q = match policy.rule {
            Rule::Sglang { .. } => None,
            _ => inputs.q.map(|q| &q[row]),
        };
        let mut step = Step {
            inputs,
            policy,
            p: &p,
            state: State::new(&p, q),
            parent: &mut logits,
            verdict: &mut verdict,
        };
        let mut accepted = step.first_accepted(&children, chooser)?;
        if accepted.is_none() {
            accepted = step.second_chance(&children, row)?;
        }
        match accepted {
            Some(child) => row = child + 1,
            None => {
                let next = step.state.draw(chooser, Site::row(row, Use::Residual));
                verdict.next = next.unwrap_or(logits.argmax());
                verdict.next_reason = NextReason::Residual;
                return Ok(verdict);
            }
        }
    }
}

/// The decisions about the children of one row.
struct Step<'s, 'a, T> {
    inputs: &'s Inputs<'a>,
    policy: &'s Policy,
    p: &'s Law,
    state: State<'s, T>,
    parent: &'s mut Parent<'a, T>,
    verdict: &'s mut Verdict,
}

impl<T: Real> Step<'_, '_, T> {
    fn accept(&mut self, node: usize, reason: Reason) -> Option<usize> {
        self.verdict.reasons[node] = reason;
        self.verdict.path.push(node);
        Some(node)
    }

    /// Whether a lossy rule must keep its hands off `token`.
    fn guarded(&self, token: u32) -> bool {
        let guard = &self.policy.guard;
        guard.contains(token) || guard.contains(self.parent.argmax())
    }

    /// Tests the children in the order in which they were drafted.
    ///
    /// This is the lossless rule. SGLang's pair gives each child its second
    /// chance before the next child's first; a synthetic coin replaces the test.
    fn first_accepted<C: Chooser<T> + ?Sized>(
        &mut self,
        children: &[usize],
        chooser: &mut C,
    ) -> Result<Option<usize>, VerifyError> {
        let mut accumulated = 0; // weight of the children so far
        for &node in children {
            if self.state.exhausted() {
                break; // what is left was not drawn: no law was left to draw it from
            }
            let token = self.inputs.tree.tokens()[node];
            let coin = Site::node(node, Use::Coin);
            match self.policy.rule {
                Rule::Synthetic { rate } if !self.guarded(token) => {
                    if chooser.accept(coin, T::from_f32(rate)) {
                        return Ok(self.accept(node, Reason::Judged));
                    }
                }
                rule => {
                    let chance = self.state.chance(token);
                    let chance =
                        chance.map_err(|NotDrawn| VerifyError::NotDrawn { node, token })?;
                    if chooser.accept(Site::node(node, Use::Accept), chance) {
                        return Ok(self.accept(node, Reason::Aligned));
                    }
                    if let Rule::Sglang {
                        single,
                        accumulated: over,
                    } = rule
                    {
                        let before = accumulated;
                        accumulated += self.p.weight(token);
                        let bars = (T::from_f32(single), T::from_f32(over));
                        let relaxed = sglang_chance(self.p, token, before, accumulated, bars);
                        // The lossless test has failed; what it left of the chance.
                        let rest = (relaxed - chance) / (T::ONE - chance);
                        if !self.guarded(token) && chooser.accept(coin, rest) {
                            return Ok(self.accept(node, Reason::Judged));
                        }
                    }
                }
            }
            self.verdict.reasons[node] = Reason::Rejected;
            self.state.reject(token);
        }
        Ok(None)
    }

    /// The most acceptable of the rejected children, if it reaches the rule's
    /// threshold (ties: the larger P, then the earlier child).
    fn second_chance(
        &mut self,
        children: &[usize],
        row: usize,
    ) -> Result<Option<usize>, VerifyError> {
        let rule = &self.policy.rule;
        let mut best: Option<(T, f32, usize)> = None;
        for &node in children {
            let token = self.inputs.tree.tokens()[node];
            if self.verdict.reasons[node] != Reason::Rejected || self.guarded(token) {
                continue;
            }
            let score = self.inputs.scores.map(|scores| scores[node]);
            if rule.needs_scores() && score.is_some_and(f32::is_nan) {
                return Err(VerifyError::Score { node });
            }
            let found = self.parent.acceptability(rule, token, score);
            let found = found.map_err(|source| VerifyError::Logits {
                whose: "drafter",
                row,
                source,
            })?;
            let Some(a) = found else {
                continue;
            };
            self.verdict.acceptability[node] = a.value.to_f32();
            let logit = self.parent.logit(token);
            let better =
                best.is_none_or(|(value, z, _)| a.value > value || (a.value == value && logit > z));
            if a.reached && better {
                best = Some((a.value, logit, node));
            }
        }
        Ok(best.and_then(|(.., node)| self.accept(node, Reason::Judged)))
    }
}

/// SGLang's pair as the probability of accepting this child once all before it
/// were rejected.
///
/// SGLang holds one coin per parent against min(1, accumulated p / t_acc) at
/// each sibling. Given that the coin exceeded the value before, A, it is at
/// most the value now, B, with probability (B - A) / (1 - A).
fn sglang_chance<T: Real>(p: &Law, token: u32, before: u64, now: u64, (single, over): (T, T)) -> T {
    if p.probability::<T>(token) >= single {
        return T::ONE;
    }
    let reach = |weight: u64| {
        let share = T::from_u64(weight) / T::from_u64(p.total()) / over;
        if share < T::ONE { share } else { T::ONE }
    };
    let (before, now) = (reach(before), reach(now));
    if now < T::ONE {
        (now - before) / (T::ONE - before)
    } else {
        T::ONE
    }
}

/// [`Rule::Block`]: fills in the verdict about a chain.
fn verify_block<T: Real, C: Chooser<T> + ?Sized>(
    inputs: &Inputs<'_>,
    policy: &Policy,
    chooser: &mut C,
    verdict: &mut Verdict,
) -> Result<(), VerifyError> {
    let tokens = inputs.tree.tokens();
    let p = |row: usize| {
        let parent: Parent<'_, T> = inputs.parent(row, &policy.rule)?;
        let row = inputs.target.row(row);
        Ok(Law::of_row(row, parent.best(), &policy.sampling))
    };
    let q = |row: usize| match inputs.q {
        Some(q) => Cow::Borrowed(&q[row]),
        None => Cow::Owned(Law::one_hot(tokens[row])),
    };
    block::verify(tokens, p, q, chooser, verdict)
}
