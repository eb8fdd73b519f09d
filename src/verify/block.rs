//! Block verification of a chain (2403.10444, METHODS section 2).

use std::borrow::Cow;

use super::chooser::{Chooser, Site, Use};
use super::law::{Law, Remaining};
use super::mass::Mass;
use super::math::Real;
use super::{NextReason, Reason, Verdict, VerifyError};

/// Decides about the chain `tokens`.
///
/// `p(row)` is the target's law at a row, `q(row)` the law that token `row`
/// was drawn from. p is asked for in ascending order, and for no row that
/// cannot matter any more.
pub(super) fn verify<'a, T: Real, C: Chooser<T> + ?Sized>(
    tokens: &[u32],
    p: impl Fn(usize) -> Result<Law, VerifyError>,
    q: impl Fn(usize) -> Cow<'a, Law>,
    chooser: &mut C,
    verdict: &mut Verdict,
) -> Result<(), VerifyError> {
    let gamma = tokens.len();
    let residual = |row: usize, law: &Law, prefix: T| match row < gamma {
        true => Mass::residual(law, prefix, &Remaining::new(&q(row))),
        false => None, // nothing was drafted there: the bonus is drawn from p
    };
    let mut laws = vec![p(0)?];
    let mut prefix = T::ONE; // P_i
    let mut length = 0;
    let mut left = residual(0, &laws[0], prefix); // at the accepted length
    for (node, &token) in tokens.iter().enumerate() {
        let drawn: T = q(node).probability(token);
        if drawn <= T::ZERO {
            return Err(VerifyError::NotDrawn { node, token });
        }
        let ratio = prefix * (laws[node].probability::<T>(token) / drawn);
        prefix = if ratio < T::ONE { ratio } else { T::ONE };
        if prefix <= T::ZERO {
            break; // it stays 0, and so does every h that follows
        }
        let row = node + 1;
        laws.push(p(row)?);
        let next = residual(row, &laws[row], prefix);
        let s = next.as_ref().map_or(T::ZERO, Mass::total);
        let missing = T::ONE - prefix;
        let h = if row == gamma {
            prefix
        } else if s + missing > T::ZERO {
            s / (s + missing)
        } else {
            T::ONE
        };
        if chooser.accept(Site::node(node, Use::Accept), h) {
            length = row;
            left = next;
        }
    }
    verdict.path.extend(0..length);
    verdict.reasons[..length].fill(Reason::Aligned);
    let usage = if length < gamma {
        verdict.reasons[length] = Reason::Rejected;
        verdict.next_reason = NextReason::Residual;
        Use::Residual
    } else {
        Use::Bonus
    };
    let site = Site::row(length, usage);
    let next = match &left {
        Some(mass) => chooser.draw_mass(site, mass),
        None => chooser.draw(site, &Remaining::new(&laws[length])),
    };
    verdict.next = next.unwrap_or(0);
    Ok(())
}
