//! Residuals: what a rejection leaves of the target's law, as floats.

use super::law::{Law, ONE_F32, Remaining, Weights};
use super::math::{self, CHUNK, Real};

/// Float weights over the vocabulary, not normalised: what the residual of a
/// rejection leaves.
#[derive(Clone, Debug)]
pub struct Mass<T> {
    ids: Option<Vec<u32>>, // ascending; None: values[id]
    values: Vec<T>,
    sums: math::SumTree<T>,
}

impl<T: Real> Mass<T> {
    /// `max(scale * p - q, 0)`; `None` when that has no mass.
    ///
    /// Per token: `p = weight / total`, `scale * p`, minus `q = weight / total`,
    /// each operation rounded once.
    pub fn residual(p: &Law, scale: T, q: &Remaining<'_>) -> Option<Mass<T>> {
        let total = T::from_u64(p.total);
        let scaled = move |w: f32| scale * (T::from_f32(w) / total);
        let (ids, values) = match &p.weights {
            Weights::Empty => return None,
            Weights::One(only) => (Some(vec![*only]), vec![scaled(ONE_F32)]),
            Weights::Sparse { ids, weights } => (
                Some(ids.clone()),
                weights.iter().map(|&w| scaled(w)).collect(),
            ),
            Weights::Dense { weights, .. } => (None, weights.iter().map(|&w| scaled(w)).collect()),
        };
        Self::less(ids, values, q)
    }

    /// The residual of this, normalised, against a further `q`; `None` when that has no mass.
    pub fn residual_again(&self, q: &Remaining<'_>) -> Option<Mass<T>> {
        let total = self.total();
        let values = self.values.iter().map(|&v| v / total).collect();
        Self::less(self.ids.clone(), values, q)
    }

    /// Subtracts q, cuts at 0 and sums.
    fn less(ids: Option<Vec<u32>>, mut values: Vec<T>, q: &Remaining<'_>) -> Option<Mass<T>> {
        let cut = |v: T, q: T| if v > q { v - q } else { T::ZERO };
        let total = T::from_u64(q.total);
        match (&ids, &q.law.weights) {
            _ if q.is_empty() => {}
            // The common case of two whole softmaxes, as one plain loop.
            (None, Weights::Dense { weights, .. }) => {
                let kept: Vec<(u32, T)> = q
                    .removed
                    .iter()
                    .filter_map(|&id| Some((id, *values.get(id as usize)?)))
                    .collect();
                for (v, &w) in values.iter_mut().zip(weights) {
                    *v = cut(*v, T::from_f32(w) / total);
                }
                for (id, v) in kept {
                    values[id as usize] = v;
                }
            }
            (None, _) => {
                for (id, w) in q.support() {
                    if let Some(v) = values.get_mut(id as usize) {
                        *v = cut(*v, T::from_u64(w) / total);
                    }
                }
            }
            (Some(ids), _) => {
                for (&id, v) in ids.iter().zip(&mut values) {
                    *v = cut(*v, q.probability(id));
                }
            }
        }
        let sums = match &ids {
            None => math::SumTree::dense(&values),
            Some(ids) => math::SumTree::sparse(ids, &values),
        };
        let mass = Mass { ids, values, sums };
        (mass.total() > T::ZERO).then_some(mass)
    }

    /// The sum of all weights, in the order that [`math`] states.
    pub fn total(&self) -> T {
        self.sums.total()
    }

    /// Weight of `token` over the total.
    pub fn probability(&self, token: u32) -> T {
        let at = match &self.ids {
            None => Some(token as usize),
            Some(ids) => ids.binary_search(&token).ok(),
        };
        let value = at.and_then(|at| self.values.get(at));
        value.map_or(T::ZERO, |&v| v / self.total())
    }

    /// The tokens of positive weight, ascending, with their weights.
    pub fn support(&self) -> impl Iterator<Item = (u32, T)> + '_ {
        let id = move |i: usize| self.ids.as_ref().map_or(i as u32, |ids| ids[i]);
        let pairs = self.values.iter().enumerate();
        pairs
            .filter(|&(_, &v)| v > T::ZERO)
            .map(move |(i, &v)| (id(i), v))
    }

    /// The token at which 64 random bits point, see [`math::SumTree::draw`].
    pub fn draw(&self, word: u64) -> Option<u32> {
        self.sums.draw(word, |chunk| {
            let (low, high) = (chunk * CHUNK, (chunk + 1) * CHUNK);
            let range = match &self.ids {
                None => low..high.min(self.values.len()),
                Some(ids) => {
                    let at = |bound| ids.partition_point(|&id| (id as usize) < bound);
                    at(low)..at(high)
                }
            };
            range.map(move |i| {
                let id = self.ids.as_ref().map_or(i as u32, |ids| ids[i]);
                (id, self.values[i])
            })
        })
    }
}
