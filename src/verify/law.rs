//! Sampling laws with integer weights: exact whatever the order of a sum.

use super::math::{self, CHUNK, Real};
use super::policy::{PolicyError, Sampling};
use super::truncate::{Ranking, least, shortest_prefix};

/// The weight of the best token: weights are `round(exp((z - max) / temperature) * 2^40)`.
pub const ONE: u64 = 1 << 40;
pub(super) const ONE_F32: f32 = ONE as f32;

/// A law over the vocabulary: softmax at a temperature, cut by top-k and top-p.
///
/// Token weights are integers, so that support, truncation and draws do not
/// depend on the order in which anything is summed. A law of one token (greedy
/// sampling, a deterministic draft) holds no vector; a truncated one holds its
/// support only. The default law is empty: a placeholder for rows without children.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Law {
    pub(super) total: u64, // sum of the weights; at most 2^40 * 2^23 for 2^23 tokens
    pub(super) weights: Weights,
}

// Weights are kept as f32, which holds each of them exactly (24 bits times a
// power of two) in half the memory and in the form in which they are used.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Weights {
    #[default]
    Empty,
    One(u32),
    Sparse {
        ids: Vec<u32>, // ascending
        weights: Vec<f32>,
    },
    Dense {
        weights: Vec<f32>, // [V]
        chunks: Vec<u64>,  // [V / CHUNK, rounded up] sums of weights
    },
}

/// Why logits have no sampling law.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LawError {
    /// A logit that is NaN or infinite upwards, or a row in which all are -infinity.
    #[error(
        "the logit of token {token} is {value}, expected a finite number (or -inf for some tokens)"
    )]
    NotFinite {
        /// The token.
        token: u32,
        /// Its logit.
        value: f32,
    },
    /// Fewer logits than tokens, or none.
    #[error("{logits} logits, expected at least {vocab} (and more than 0)")]
    Width {
        /// Number of logits.
        logits: usize,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// Temperature or top-p out of range.
    #[error(transparent)]
    Sampling(#[from] PolicyError),
}

/// The highest logit of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Best {
    pub token: u32, // the lowest id on ties
    pub logit: f32,
}

/// Finds the highest logit, the lowest id on ties; refuses NaN, +inf and rows of -inf.
pub(crate) fn best(logits: &[f32]) -> Result<Best, LawError> {
    // Blocks, so that both the maximum and its search stay branch-free inside.
    const BLOCK: usize = 1024;
    const LANES: usize = 16;
    let mut highest = f32::NEG_INFINITY;
    let mut at = 0;
    let mut unordered = false;
    for (b, block) in logits.chunks(BLOCK).enumerate() {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let mut nan = [false; LANES];
        let (whole, rest) = block.as_chunks::<LANES>();
        for x in whole {
            for l in 0..LANES {
                lanes[l] = if x[l] > lanes[l] { x[l] } else { lanes[l] };
                nan[l] |= x[l].is_nan();
            }
        }
        for (l, &x) in rest.iter().enumerate() {
            lanes[l] = if x > lanes[l] { x } else { lanes[l] };
            nan[l] |= x.is_nan();
        }
        unordered |= nan.contains(&true);
        let max = lanes.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if max > highest {
            highest = max;
            at = b * BLOCK;
        }
    }
    let not_finite = |found: Option<usize>| {
        let token = found.unwrap_or(0);
        Err(LawError::NotFinite {
            token: token as u32,
            value: logits.get(token).copied().unwrap_or(f32::NEG_INFINITY),
        })
    };
    if unordered {
        return not_finite(logits.iter().position(|x| x.is_nan()));
    }
    if !highest.is_finite() {
        return not_finite(logits.iter().position(|&x| x == highest));
    }
    let found = logits[at..].iter().position(|&x| x == highest);
    Ok(Best {
        token: (at + found.unwrap_or(0)) as u32,
        logit: highest,
    })
}

/// Weight of a logit `distance` = (z - max) / temperature below the best, an integer.
#[inline(always)]
fn weight(distance: f32) -> f32 {
    // Below 2^23, adding and subtracting 2^23 rounds to an integer, ties to
    // even; from there on every f32 is one.
    const INTEGERS: f32 = 8_388_608.0;
    let scaled = math::exp(distance) * ONE_F32;
    let rounded = (scaled + INTEGERS) - INTEGERS;
    if scaled < INTEGERS { rounded } else { scaled }
}

impl Law {
    /// The law of `sampling` over the first `vocab` of a row of raw logits.
    ///
    /// Order of preference, for both truncations: the higher logit, then the
    /// lower id. Top-p keeps the shortest prefix of that order whose weight is
    /// at least `top_p` times the weight that top-k left, compared as integers.
    ///
    /// # Errors
    /// NaN, +inf or only -inf among the logits; fewer than `vocab` logits or
    /// none; a sampling that [`Sampling::check`] refuses.
    pub fn new(logits: &[f32], vocab: usize, sampling: &Sampling) -> Result<Law, LawError> {
        sampling.check()?;
        match logits.get(..vocab) {
            Some(logits) if vocab > 0 => {
                let best = best(logits)?;
                Ok(Law::of_row(logits, best, sampling))
            }
            _ => Err(LawError::Width {
                logits: logits.len(),
                vocab,
            }),
        }
    }

    /// The law of a row whose best logit is known; all arguments are checked.
    pub(crate) fn of_row(logits: &[f32], best: Best, sampling: &Sampling) -> Law {
        if sampling.is_greedy() {
            return Law::one_hot(best.token);
        }
        let (max, t) = (best.logit, sampling.temperature);
        // By value: a captured reference might alias what is written, and the
        // loop over the vocabulary would not vectorise.
        let weigh = move |z: f32| weight((z - max) / t);
        if sampling.top_k > 0 && sampling.top_k < logits.len() {
            let mut kept = Ranking::new(logits).best_first(sampling.top_k);
            kept.truncate(sampling.top_k);
            let total = kept.iter().map(|&(_, z)| weigh(z) as u64).sum();
            if let Some(need) = least(sampling.top_p, total)
                && let Some(length) = shortest_prefix(&kept, need, weigh)
            {
                kept.truncate(length);
            }
            return Law::of_best(kept, weigh);
        }
        let weights: Vec<f32> = logits.iter().map(|&z| weigh(z)).collect();
        let chunks: Vec<u64> = weights.chunks(CHUNK).map(exact_sum).collect();
        let total = chunks.iter().sum();
        if let Some(need) = least(sampling.top_p, total) {
            let ranking = Ranking::new(logits);
            // Most of the mass lies on few tokens, so ask for few first.
            let counts = std::iter::successors(Some(64), |n| Some(n * 8));
            let kept = counts
                .map(|n| (n, ranking.best_first(n)))
                .find_map(|(n, mut best)| {
                    let length = shortest_prefix(&best, need, weigh);
                    let whole = (n >= logits.len()).then_some(best.len());
                    best.truncate(length.or(whole)?);
                    Some(best)
                });
            return Law::of_best(kept.unwrap_or_default(), weigh);
        }
        Law {
            total,
            weights: Weights::Dense { weights, chunks },
        }
    }

    /// The law of some tokens and their logits.
    fn of_best(mut kept: Vec<(u32, f32)>, weigh: impl Fn(f32) -> f32) -> Law {
        if let [(only, _)] = kept[..] {
            return Law::one_hot(only);
        }
        kept.sort_unstable_by_key(|&(id, _)| id);
        let kept = kept.iter().map(|&(id, z)| (id, weigh(z)));
        let (ids, weights): (Vec<u32>, Vec<f32>) = kept.filter(|&(_, w)| w > 0.0).unzip();
        Law {
            total: weights.iter().map(|&w| w as u64).sum(),
            weights: Weights::Sparse { ids, weights },
        }
    }

    /// All probability on one token, as of a deterministic drafter.
    pub fn one_hot(token: u32) -> Law {
        Law {
            total: ONE,
            weights: Weights::One(token),
        }
    }

    /// Sum of all weights; 0 for the empty law.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Weight of `token`, 0 outside the support.
    pub fn weight(&self, token: u32) -> u64 {
        let found = match &self.weights {
            Weights::Empty => None,
            Weights::One(only) => (*only == token).then_some(ONE_F32),
            Weights::Sparse { ids, weights } => ids.binary_search(&token).ok().map(|i| weights[i]),
            Weights::Dense { weights, .. } => weights.get(token as usize).copied(),
        };
        found.unwrap_or(0.0) as u64
    }

    /// Probability of `token`: its weight over the total, one division.
    pub fn probability<T: Real>(&self, token: u32) -> T {
        ratio(self.weight(token), self.total)
    }

    /// The tokens of positive weight, ascending, with their weights.
    pub fn support(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        let (one, ids, weights): (Option<u32>, &[u32], &[f32]) = match &self.weights {
            Weights::Empty => (None, &[], &[]),
            Weights::One(only) => (Some(*only), &[], &[]),
            Weights::Sparse { ids, weights } => (None, ids, weights),
            Weights::Dense { weights, .. } => (None, &[], weights),
        };
        let many = weights.iter().enumerate().map(move |(i, &w)| {
            let id = if ids.is_empty() { i as u32 } else { ids[i] };
            (id, w as u64)
        });
        let one = one.map(|id| (id, ONE));
        one.into_iter().chain(many.filter(|&(_, w)| w > 0))
    }

    /// The token of a one-token law.
    pub fn certain(&self) -> Option<u32> {
        match self.weights {
            Weights::One(token) => Some(token),
            _ => None,
        }
    }
}

/// `weight / total`, rounded once each on the way to `T`.
fn ratio<T: Real>(weight: u64, total: u64) -> T {
    if weight == 0 {
        T::ZERO
    } else {
        T::from_u64(weight) / T::from_u64(total)
    }
}

/// Sum of integer weights; f64 holds the sum of a chunk exactly (128 * 2^40 < 2^53).
fn exact_sum(chunk: &[f32]) -> u64 {
    let mut lanes = [0.0f64; 8];
    let (whole, rest) = chunk.as_chunks::<8>();
    for w in whole {
        for l in 0..8 {
            lanes[l] += f64::from(w[l]);
        }
    }
    let rest: f64 = rest.iter().map(|&w| f64::from(w)).sum();
    (lanes.iter().sum::<f64>() + rest) as u64
}

/// A law less some tokens, exactly renormalised: what is left to draw without
/// replacement, or to accept once children have been rejected.
#[derive(Clone, Debug)]
pub struct Remaining<'a> {
    pub(super) law: &'a Law,
    pub(super) removed: Vec<u32>, // ascending, all of positive weight
    pub(super) total: u64,
}

impl<'a> Remaining<'a> {
    /// The whole law.
    pub fn new(law: &'a Law) -> Self {
        Remaining {
            law,
            removed: Vec::new(),
            total: law.total,
        }
    }

    /// Takes `token` out of the support.
    pub fn remove(&mut self, token: u32) {
        let weight = self.law.weight(token);
        if weight > 0
            && let Err(at) = self.removed.binary_search(&token)
        {
            self.removed.insert(at, token);
            self.total -= weight;
        }
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Weight that is left.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Weight of `token`, 0 once removed.
    pub fn weight(&self, token: u32) -> u64 {
        if self.removed.binary_search(&token).is_ok() {
            0
        } else {
            self.law.weight(token)
        }
    }

    /// Probability of `token` among what is left.
    pub fn probability<T: Real>(&self, token: u32) -> T {
        ratio(self.weight(token), self.total)
    }

    /// The tokens that are left, ascending, with their weights.
    pub fn support(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        let support = self.law.support();
        support.filter(|(id, _)| self.removed.binary_search(id).is_err())
    }

    /// The token at which 64 random bits point: the first, ascending, whose
    /// running sum of weights exceeds `word * total / 2^64`, cut to an integer.
    /// `None` when nothing is left.
    pub fn draw(&self, word: u64) -> Option<u32> {
        if self.is_empty() {
            return None;
        }
        let mut target = ((u128::from(word) * u128::from(self.total)) >> 64) as u64;
        let left = |id: &u32| self.removed.binary_search(id).is_err();
        let mut walk = |tokens: &mut dyn Iterator<Item = (u32, u64)>| {
            for (id, w) in tokens {
                match target.checked_sub(w) {
                    None => return Some(id),
                    Some(rest) => target = rest,
                }
            }
            None
        };
        let Weights::Dense { weights, chunks } = &self.law.weights else {
            return walk(&mut self.support());
        };
        // Chunk by chunk first, then inside the chunk that holds the target.
        let mut removed = self.removed.iter().map(|&id| id as usize).peekable();
        let mut sums = chunks.iter().zip(0..).map(|(&sum, c)| {
            let gone = std::iter::from_fn(|| removed.next_if(|id| id / CHUNK == c as usize));
            (c, sum - gone.map(|id| weights[id] as u64).sum::<u64>())
        });
        let start = walk(&mut sums)? as usize * CHUNK;
        let inside = weights[start..].iter().take(CHUNK).zip(start as u32..);
        let inside = inside.map(|(&w, id)| (id, w as u64));
        walk(&mut inside.filter(|(id, _)| left(id)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::mass::Mass;
    use super::*;
    use proptest::prelude::*;

    fn sampling(temperature: f32, top_k: usize, top_p: f32) -> Sampling {
        Sampling {
            temperature,
            top_k,
            top_p,
        }
    }

    fn law(logits: &[f32], s: &Sampling) -> Law {
        Law::new(logits, logits.len(), s).unwrap()
    }

    /// Truncation by sorting everything; the weights are the law's own.
    fn sorted_reference(logits: &[f32], s: &Sampling) -> Vec<(u32, u64)> {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weigh = |z: f32| weight((z - max) / s.temperature) as u64;
        let mut tokens: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
        tokens.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap()); // stable: ties by id
        if s.top_k > 0 {
            tokens.truncate(s.top_k);
        }
        let total: u64 = tokens.iter().map(|&(_, z)| weigh(z)).sum();
        let mut kept = Vec::new();
        let mut sum = 0u64;
        for (id, z) in tokens {
            // In 128 bits; the shares of these tests are multiples of 2^-40.
            let share = (f64::from(s.top_p) * 18_446_744_073_709_551_616.0) as u128;
            if u128::from(sum) << 40 >= (share >> 24) * u128::from(total) && sum > 0 {
                break;
            }
            sum += weigh(z);
            kept.push((id, weigh(z)));
        }
        kept.retain(|&(_, w)| w > 0);
        kept.sort_unstable();
        kept
    }

    fn some_logits() -> impl Strategy<Value = Vec<f32>> {
        // Halves, so that ties are common; zeros of both signs; -inf.
        let logit = prop_oneof![
            8 => (-40i32..40).prop_map(|z| z as f32 * 0.5),
            1 => Just(-0.0f32),
            1 => Just(f32::NEG_INFINITY),
            4 => -20.0f32..20.0,
        ];
        proptest::collection::vec(logit, 1..500)
            .prop_filter("a finite logit", |z| z.iter().any(|z| z.is_finite()))
    }

    fn some_sampling() -> impl Strategy<Value = Sampling> {
        let temperature = prop_oneof![Just(1.0f32), 0.05f32..4.0, Just(1e-30), Just(1e30)];
        let top_k = prop_oneof![Just(0usize), 1usize..40];
        // Dyadic shares meet the boundary exactly where logits are equal.
        let top_p = prop_oneof![Just(1.0f32), Just(0.5), Just(0.25), 0.001f32..1.0];
        (temperature, top_k, top_p).prop_map(|(t, k, p)| sampling(t, k, p))
    }

    proptest! {
        #[test]
        fn truncation_is_that_of_a_full_sort(z in some_logits(), s in some_sampling()) {
            let law = law(&z, &s);
            let found: Vec<_> = law.support().collect();
            prop_assert_eq!(&found, &sorted_reference(&z, &s));
            prop_assert_eq!(law.total(), found.iter().map(|&(_, w)| w).sum::<u64>());
            for id in 0..z.len() as u32 + 2 {
                let expected = found.iter().find(|&&(i, _)| i == id).map_or(0, |&(_, w)| w);
                prop_assert_eq!(law.weight(id), expected);
            }
        }

        #[test]
        fn draws_walk_the_running_sum(
            z in some_logits(),
            s in some_sampling(),
            gone in proptest::collection::vec(0u32..500, 0..8),
            word: u64,
        ) {
            let law = law(&z, &s);
            let mut rest = Remaining::new(&law);
            for &id in &gone {
                rest.remove(id);
                rest.remove(id); // removing twice is removing once
            }
            let left: Vec<_> = law.support().filter(|(id, _)| !gone.contains(id)).collect();
            prop_assert_eq!(&left, &rest.support().collect::<Vec<_>>());
            prop_assert_eq!(rest.total(), left.iter().map(|&(_, w)| w).sum::<u64>());
            let mut target = (u128::from(word) * u128::from(rest.total())) >> 64;
            let mut expected = None;
            for (id, w) in left {
                if target < u128::from(w) {
                    expected = Some(id);
                    break;
                }
                target -= u128::from(w);
            }
            prop_assert_eq!(rest.draw(word), expected);
        }

        #[test]
        fn residuals_do_not_depend_on_how_laws_are_stored(
            z in some_logits(),
            y in some_logits(),
            (s, t) in (some_sampling(), some_sampling()),
            gone in proptest::collection::vec(0u32..500, 0..4),
        ) {
            let (p, q) = (law(&z, &s), law(&y, &t));
            let mut rest = Remaining::new(&q);
            gone.iter().for_each(|&id| rest.remove(id));
            let mass = Mass::<f32>::residual(&p, 1.0, &rest);
            let mut again = mass.as_ref().and_then(|m| m.residual_again(&rest));
            let mut expected: Vec<f32> = (0..z.len() as u32).map(|id| p.probability(id)).collect();
            for found in [mass, again.take()] {
                for (id, v) in expected.iter_mut().enumerate() {
                    let q: f32 = if rest.is_empty() { 0.0 } else { rest.probability(id as u32) };
                    *v = (*v - q).max(0.0);
                }
                let total = math::SumTree::dense(&expected).total();
                let Some(found) = found else {
                    prop_assert_eq!(total, 0.0);
                    break;
                };
                prop_assert_eq!(found.total(), total);
                expected.iter_mut().for_each(|v| *v /= total);
                for (id, &v) in expected.iter().enumerate() {
                    prop_assert_eq!(found.probability(id as u32), v);
                }
            }
        }
    }

    #[test]
    fn weights_follow_the_definition() {
        for temperature in [0.3, 1.0, 2.5] {
            let z: Vec<f32> = (0..2_000).map(|i| 10.0 - i as f32 * 0.02).collect();
            let law = law(&z, &Sampling::at(temperature));
            for (id, &z) in z.iter().enumerate() {
                let distance = (z - 10.0) / temperature;
                let exact = f64::from(distance).exp() * ONE as f64;
                let error = (law.weight(id as u32) as f64 - exact).abs();
                assert!(error <= 0.5 + exact * 2.5e-7, "{distance}: off by {error}");
            }
            assert_eq!(law.weight(0), ONE);
        }
    }

    #[test]
    fn equal_logits_are_cut_from_the_highest_id() {
        let flat = [1.0f32; 8];
        for (s, kept) in [
            (sampling(1.0, 3, 1.0), 3),
            (sampling(1.0, 0, 0.5), 4),
            (sampling(1.0, 0, 0.500_000_06), 5), // the next f32 above a half
            (sampling(1.0, 0, 1e-40), 1),
            (sampling(1.0, 4, 0.5), 2),
            (sampling(0.0, 0, 1.0), 1),
            (sampling(1.0, 99, 1.0), 8),
        ] {
            let support: Vec<u32> = law(&flat, &s).support().map(|(id, _)| id).collect();
            assert_eq!(support, (0..kept).collect::<Vec<u32>>(), "{s:?}");
        }
    }

    #[test]
    fn zeros_of_both_signs_tie() {
        let z = [-1.0f32, -0.0, 0.0, -0.0];
        for s in [sampling(1.0, 2, 1.0), sampling(1.0, 0, 0.5)] {
            let support: Vec<u32> = law(&z, &s).support().map(|(id, _)| id).collect();
            assert_eq!(support, [1, 2], "{s:?}");
        }
    }

    #[test]
    fn greedy_is_one_hot_at_the_lowest_best_id() {
        let law = law(&[1.0, 3.0, -1.0, 3.0], &Sampling::GREEDY);
        assert_eq!(law.certain(), Some(1));
        assert_eq!(law.probability::<f32>(1), 1.0);
        assert_eq!(law.probability::<f32>(3), 0.0);
    }

    #[test]
    fn the_best_logit_is_found_anywhere() {
        for n in [1usize, 15, 16, 17, 1023, 1024, 1025, 5000] {
            for at in [0, n / 2, n - 1] {
                let mut z = vec![-1.0f32; n];
                z[at] = 2.0;
                z[n - 1] = 2.0;
                let expected = Best {
                    token: at as u32,
                    logit: 2.0,
                };
                assert_eq!(best(&z), Ok(expected));
                z[at] = f32::NAN;
                let error = Law::new(&z, n, &Sampling::GREEDY).unwrap_err();
                assert_eq!(
                    error.to_string(),
                    format!(
                        "the logit of token {at} is NaN, expected a finite number (or -inf for some tokens)"
                    )
                );
            }
        }
        assert!(best(&[]).is_err());
        assert!(best(&[f32::NEG_INFINITY; 3]).is_err());
        assert!(best(&[0.0, f32::INFINITY]).is_err());
        assert!(Law::new(&[0.0, 1.0], 3, &Sampling::GREEDY).is_err());
        assert!(Law::new(&[0.0, 1.0], 0, &Sampling::GREEDY).is_err());
    }

    #[test]
    fn only_the_vocabulary_is_read() {
        let padded = [0.0, 1.0, f32::NAN];
        let law = Law::new(&padded, 2, &Sampling::at(1.0)).unwrap();
        assert_eq!(law.support().count(), 2);
    }

    #[test]
    fn the_empty_law_draws_nothing() {
        let law = Law::default();
        assert_eq!(Remaining::new(&law).draw(u64::MAX), None);
        assert_eq!(law.probability::<f32>(0), 0.0);
        assert_eq!(law.support().count(), 0);
    }
}
