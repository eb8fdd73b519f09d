//! The lossless rules about one row's children (METHODS, section 2).

use super::chooser::{Chooser, Site};
use super::law::{Law, Remaining};
use super::mass::Mass;
use super::math::Real;

/// A child that its parent's draft law could not have drawn.
pub(super) struct NotDrawn;

/// The target's law at a row, less what the children rejected so far have taken.
pub(super) enum State<'a, T> {
    /// Children drawn from q without replacement (2305.09781, 2402.12374); a
    /// single child is the chain rule (2211.17192, 2302.01318).
    Sampled(Sampled<'a, T>),
    /// Distinct children of a deterministic drafter.
    Distinct(Remaining<'a>),
}

pub(super) struct Sampled<'a, T> {
    p: &'a Law,
    q: Remaining<'a>,
    residual: Option<Mass<T>>, // None: p itself
    // Rejected, but not yet subtracted: a rescue makes that work needless.
    pending: Option<u32>,
}

impl<'a, T: Real> State<'a, T> {
    pub fn new(p: &'a Law, q: Option<&'a Law>) -> Self {
        match q {
            None => State::Distinct(Remaining::new(p)),
            Some(q) => State::Sampled(Sampled {
                p,
                q: Remaining::new(q),
                residual: None,
                pending: None,
            }),
        }
    }

    /// Probability with which the lossless rule accepts the next child.
    pub fn chance(&mut self, token: u32) -> Result<T, NotDrawn> {
        match self {
            State::Distinct(rest) => Ok(rest.probability(token)),
            State::Sampled(s) => {
                s.settle();
                let q: T = s.q.probability(token);
                if q <= T::ZERO {
                    return Err(NotDrawn);
                }
                let p = match &s.residual {
                    None => s.p.probability(token),
                    Some(mass) => mass.probability(token),
                };
                let ratio = p / q;
                Ok(if ratio < T::ONE { ratio } else { T::ONE })
            }
        }
    }

    /// Notes that a child was rejected.
    pub fn reject(&mut self, token: u32) {
        match self {
            // The last token with mass stays: the law before it is drawn from then.
            State::Distinct(rest) => {
                if rest.weight(token) < rest.total() {
                    rest.remove(token);
                }
            }
            State::Sampled(s) => {
                s.settle();
                s.pending = Some(token);
            }
        }
    }

    /// Whether the draft law has no support left, so that no further child was drawn from it.
    pub fn exhausted(&self) -> bool {
        match self {
            State::Distinct(_) => false,
            State::Sampled(s) => s
                .pending
                .is_some_and(|token| s.q.weight(token) == s.q.total()),
        }
    }

    /// Draws the target's own token from what is left.
    pub fn draw<C: Chooser<T> + ?Sized>(&mut self, chooser: &mut C, site: Site) -> Option<u32> {
        match self {
            State::Distinct(rest) => chooser.draw(site, rest),
            State::Sampled(s) => {
                s.settle();
                match &s.residual {
                    None => chooser.draw(site, &Remaining::new(s.p)),
                    Some(mass) => chooser.draw_mass(site, mass),
                }
            }
        }
    }
}

impl<T: Real> Sampled<'_, T> {
    /// p becomes norm(max(p - q, 0)), unless that has no mass; then q loses the child.
    fn settle(&mut self) {
        let Some(token) = self.pending.take() else {
            return;
        };
        let next = match &self.residual {
            None => Mass::residual(self.p, T::ONE, &self.q),
            Some(mass) => mass.residual_again(&self.q),
        };
        if next.is_some() {
            self.residual = next;
        }
        self.q.remove(token);
    }
}
