//! Arithmetic that a CPU and a GPU carry out alike: `exp` and `ln` from IEEE
//! additions, multiplications and divisions alone, and the one order in which
//! values are summed over the vocabulary.
//!
//! Nothing here may be contracted into a fused multiply-add; Rust never does
//! so by itself, a kernel must ask for it (`-fmad=false` or `__fmul_rn`).
//!
//! # The order of a sum
//!
//! Ids are cut in chunks of [`CHUNK`] = 128 consecutive ids, missing ones
//! counting as 0. In a chunk, lane `l` of 32 adds its four consecutive values,
//! `((x[4l] + x[4l+1]) + x[4l+2]) + x[4l+3]`; the lanes are then combined by
//! butterfly, lane `l` with lane `l xor 16`, then 8, 4, 2, 1. The chunk sums
//! are summed in the same way again, until one value is left. Adding a zero
//! changes nothing, so a sparse vector sums to the bits of the dense one.
//!
//! A draw from float weights descends the same tree of sums, see
//! [`SumTree::draw`].

use std::fmt::Debug;
use std::ops::{Add, Div, Mul, Sub};

/// Consecutive values that are summed at a time: 32 lanes of four.
pub const CHUNK: usize = 128;

/// The arithmetic of a verification: `f32` in production, `f64` in proofs.
pub trait Real:
    Copy
    + PartialOrd
    + Debug
    + Default
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + 'static
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// Positive infinity.
    const INFINITY: Self;
    /// The nearest value to `x`; exact for both types.
    fn from_f32(x: f32) -> Self;
    /// The nearest value to `x`.
    fn from_u64(x: u64) -> Self;
    /// The nearest `f32`.
    fn to_f32(self) -> f32;
    /// The nearest `f64`; exact for both types.
    fn to_f64(self) -> f64;
    /// e to the power of `self`.
    fn exp(self) -> Self;
    /// The natural logarithm.
    fn ln(self) -> Self;
    /// 64 random bits as a value in [0, 1), cut to the mantissa.
    fn uniform(word: u64) -> Self;
    /// Whether 64 random bits, read as a binary fraction, are below `self`.
    ///
    /// True for every word when `self` is 1 or more, for none when it is 0 or
    /// NaN. The fraction is compared in full, so that a probability far below
    /// the mantissa's resolution is still met.
    fn admits(self, word: u64) -> bool;
}

const TWO_64: f32 = 18_446_744_073_709_551_616.0;

impl Real for f32 {
    const ZERO: f32 = 0.0;
    const ONE: f32 = 1.0;
    const INFINITY: f32 = f32::INFINITY;
    fn from_f32(x: f32) -> f32 {
        x
    }
    fn from_u64(x: u64) -> f32 {
        x as f32
    }
    fn to_f32(self) -> f32 {
        self
    }
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    #[inline(always)]
    fn exp(self) -> f32 {
        exp(self)
    }
    fn ln(self) -> f32 {
        ln(self)
    }
    fn uniform(word: u64) -> f32 {
        (word >> 40) as f32 * (1.0 / 16_777_216.0)
    }
    fn admits(self, word: u64) -> bool {
        self >= 1.0 || word < (self * TWO_64) as u64
    }
}

/// The proofs' arithmetic; `exp` and `ln` are the platform's.
impl Real for f64 {
    const ZERO: f64 = 0.0;
    const ONE: f64 = 1.0;
    const INFINITY: f64 = f64::INFINITY;
    fn from_f32(x: f32) -> f64 {
        f64::from(x)
    }
    fn from_u64(x: u64) -> f64 {
        x as f64
    }
    fn to_f32(self) -> f32 {
        self as f32
    }
    fn to_f64(self) -> f64 {
        self
    }
    fn exp(self) -> f64 {
        f64::exp(self)
    }
    fn ln(self) -> f64 {
        f64::ln(self)
    }
    fn uniform(word: u64) -> f64 {
        (word >> 11) as f64 * (1.0 / 9_007_199_254_740_992.0)
    }
    fn admits(self, word: u64) -> bool {
        self >= 1.0 || word < (self * f64::from(TWO_64)) as u64
    }
}

// ln 2 in two parts; the first has so few bits that its product with an
// exponent is exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// e^x for any `x`, at most 2 ulp from the true value.
///
/// Reduction and polynomial of Cephes' `expf`; no branches, so that loops over
/// a vocabulary vectorise.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 leaves the nearest integer in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    // Beyond these the result is 0 or infinity.
    let x = x.clamp(-104.0, 89.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut p = 1.987_569_1E-4;
    p = p * r + 1.398_199_9E-3;
    p = p * r + 8.333_452E-3;
    p = p * r + 4.166_579_6E-2;
    p = p * r + 1.666_666_6E-1;
    p = p * r + 5E-1;
    let y = (p * (r * r) + r) + 1.0;
    // 2^n in two factors: n reaches beyond the exponents of normal numbers.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let half = n >> 1;
    y * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

/// 2^n for n of normal numbers.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// ln x, at most 2 ulp from the true value; NaN below 0.
///
/// Reduction and polynomial of Cephes' `logf`.
pub fn ln(x: f32) -> f32 {
    if !(x > 0.0 && x < f32::INFINITY) {
        return match x {
            0.0 => f32::NEG_INFINITY,
            f32::INFINITY => f32::INFINITY,
            _ => f32::NAN,
        };
    }
    // Denormals are lifted into the normal range first.
    let (x, lift) = if x < f32::MIN_POSITIVE {
        (x * 8_388_608.0, -23)
    } else {
        (x, 0)
    };
    let bits = x.to_bits();
    let mut exponent = (bits >> 23) as i32 - 126 + lift;
    let mut m = f32::from_bits(bits & 0x007f_ffff | 0x3f00_0000); // [0.5, 1)
    if m < std::f32::consts::FRAC_1_SQRT_2 {
        exponent -= 1;
        m = (m + m) - 1.0;
    } else {
        m -= 1.0;
    }
    let e = exponent as f32;
    let square = m * m;
    let mut p = 7.037_683_6E-2;
    p = p * m - 1.151_461E-1;
    p = p * m + 1.167_699_84E-1;
    p = p * m - 1.242_014_1E-1;
    p = p * m + 1.424_932_3E-1;
    p = p * m - 1.666_805_7E-1;
    p = p * m + 2.000_071_4E-1;
    p = p * m - 2.499_999_4E-1;
    p = p * m + 3.333_333E-1;
    let mut y = p * m * square;
    y += e * LN_2_LOW;
    y -= 0.5 * square;
    (m + y) + e * LN_2_HIGH
}

/// The sum of one chunk, in the order that the module states.
#[inline(always)]
pub fn chunk_sum<T: Real>(x: &[T; CHUNK]) -> T {
    let mut lanes = [T::ZERO; 32];
    for l in 0..32 {
        lanes[l] = ((x[4 * l] + x[4 * l + 1]) + x[4 * l + 2]) + x[4 * l + 3];
    }
    // Folding halves is the butterfly: both partners hold the same sum.
    let mut width = 16;
    while width > 0 {
        for l in 0..width {
            lanes[l] = lanes[l] + lanes[l + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// The sum of `term(a[i])` over all i.
pub fn sum_over<T: Real>(a: &[f32], term: impl Fn(f32) -> T) -> T {
    let mut sums = Vec::with_capacity(a.len().div_ceil(CHUNK));
    let mut terms = [T::ZERO; CHUNK];
    for a in a.chunks(CHUNK) {
        for (t, &a) in terms.iter_mut().zip(a) {
            *t = term(a);
        }
        terms[a.len()..].fill(T::ZERO);
        sums.push(chunk_sum(&terms));
    }
    sum_of_chunk_sums(sums)
}

/// The sum of `term(a[i], b[i])` over the i that both have.
pub fn sum_over_pairs<T: Real>(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> T) -> T {
    let shared = a.len().min(b.len());
    let mut sums = Vec::with_capacity(shared.div_ceil(CHUNK));
    let mut terms = [T::ZERO; CHUNK];
    for (a, b) in a[..shared].chunks(CHUNK).zip(b[..shared].chunks(CHUNK)) {
        for ((t, &a), &b) in terms.iter_mut().zip(a).zip(b) {
            *t = term(a, b);
        }
        terms[a.len()..].fill(T::ZERO);
        sums.push(chunk_sum(&terms));
    }
    sum_of_chunk_sums(sums)
}

fn sum_of_chunk_sums<T: Real>(mut sums: Vec<T>) -> T {
    while sums.len() > 1 {
        sums = chunk_sums(&sums);
    }
    sums.first().copied().unwrap_or(T::ZERO)
}

/// The sum of every chunk of `values`.
fn chunk_sums<T: Real>(values: &[T]) -> Vec<T> {
    let mut padded = [T::ZERO; CHUNK];
    values
        .chunks(CHUNK)
        .map(|chunk| match chunk.try_into() {
            Ok(full) => chunk_sum(full),
            Err(_) => {
                padded[..chunk.len()].copy_from_slice(chunk);
                padded[chunk.len()..].fill(T::ZERO);
                chunk_sum(&padded)
            }
        })
        .collect()
}

/// The sums of a vector at every level, from chunks of ids up to the total.
#[derive(Clone, Debug)]
pub struct SumTree<T> {
    levels: Vec<Vec<T>>, // levels[0]: one sum per chunk of ids; the last level: the total
}

impl<T: Real> SumTree<T> {
    /// Sums a dense vector: `values[id]`.
    pub fn dense(values: &[T]) -> Self {
        Self::above(chunk_sums(values))
    }

    /// Sums a sparse vector: `values[i]` at `ids[i]`, ascending.
    pub fn sparse(ids: &[u32], values: &[T]) -> Self {
        let chunks = ids.last().map_or(0, |&id| id as usize / CHUNK + 1);
        let mut sums = vec![T::ZERO; chunks];
        let mut start = 0;
        while start < ids.len() {
            let chunk = ids[start] as usize / CHUNK;
            let mut terms = [T::ZERO; CHUNK];
            while start < ids.len() && ids[start] as usize / CHUNK == chunk {
                terms[ids[start] as usize % CHUNK] = values[start];
                start += 1;
            }
            sums[chunk] = chunk_sum(&terms);
        }
        Self::above(sums)
    }

    fn above(sums: Vec<T>) -> Self {
        let mut levels = vec![sums];
        while levels[levels.len() - 1].len() > 1 {
            let next = chunk_sums(&levels[levels.len() - 1]);
            levels.push(next);
        }
        SumTree { levels }
    }

    /// The sum of all values.
    pub fn total(&self) -> T {
        let top = &self.levels[self.levels.len() - 1];
        top.first().copied().unwrap_or(T::ZERO)
    }

    /// Finds the id at which 64 random bits point; `leaves(chunk)` yields the
    /// (id, value) pairs of a chunk of ids, ascending. `None` when nothing is positive.
    ///
    /// `r = uniform * total`. From the top down, the values of one chunk are
    /// walked in ascending order: the first with `r < value` is entered, every
    /// other is subtracted from `r`. Where rounding leaves none, the last
    /// positive value is entered.
    pub fn draw<I: IntoIterator<Item = (u32, T)>>(
        &self,
        word: u64,
        leaves: impl FnOnce(usize) -> I,
    ) -> Option<u32> {
        let mut r = T::uniform(word) * self.total();
        let mut chunk = 0;
        for level in self.levels[..self.levels.len() - 1].iter().rev() {
            let start = chunk * CHUNK;
            let values = &level[start..level.len().min(start + CHUNK)];
            let values = values.iter().enumerate();
            chunk = descend(&mut r, values.map(|(i, &v)| (start + i, v)))?;
        }
        descend(&mut r, leaves(chunk))
    }
}

/// One level of [`SumTree::draw`].
fn descend<T: Real, K>(r: &mut T, values: impl IntoIterator<Item = (K, T)>) -> Option<K> {
    let mut last = None;
    for (key, value) in values {
        if *r < value {
            return Some(key);
        }
        *r = *r - value;
        if value > T::ZERO {
            last = Some(key);
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rayon::prelude::*;

    /// Distance of `found` from `exact` in units of the last place of an f32 near `exact`.
    fn ulps(found: f32, exact: f64) -> f64 {
        let near = (exact as f32).abs().max(f32::MIN_POSITIVE);
        let ulp = f64::from(near.next_up()) - f64::from(near);
        (f64::from(found) - exact).abs() / ulp
    }

    fn worst_exp_ulps(bits: impl ParallelIterator<Item = u32>) -> f64 {
        let xs = bits.map(f32::from_bits);
        xs.map(|x| ulps(exp(x), f64::from(x).exp()))
            .reduce(|| 0.0, f64::max)
    }

    // All arguments of a softmax that do not underflow: -0.0 down to -104.
    const NEGATIVE: std::ops::Range<u32> = 0x8000_0000..0xc2d0_0000;

    #[test]
    fn exp_is_within_two_ulps() {
        let worst = worst_exp_ulps(NEGATIVE.into_par_iter().step_by(487));
        assert!(worst <= 2.0, "{worst} ulp");
        let positive = 0u32..0x42b1_0000; // 0 to 88.5
        let worst = worst_exp_ulps(positive.into_par_iter().step_by(487));
        assert!(worst <= 2.0, "{worst} ulp");
        // Every argument of one binade, where the reduction has both its parts.
        let worst = worst_exp_ulps((0xc100_0000..0xc110_0000).into_par_iter());
        assert!(worst <= 2.0, "{worst} ulp");
    }

    #[test]
    fn exp_is_within_two_ulps_everywhere() {
        let worst = worst_exp_ulps(NEGATIVE.into_par_iter());
        assert!(worst <= 2.0, "{worst} ulp");
    }

    #[test]
    fn exp_meets_its_limits() {
        for (x, expected) in [
            (0.0, 1.0),
            (-0.0, 1.0),
            (f32::NEG_INFINITY, 0.0),
            (-1e30, 0.0),
            (f32::INFINITY, f32::INFINITY),
        ] {
            assert_eq!(exp(x), expected, "exp({x})");
        }
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn ln_is_within_two_ulps() {
        let all = (1u32..0x7f80_0000).step_by(487).map(f32::from_bits);
        let near_one = (0x3f7f_0000u32..0x3f81_0000).map(f32::from_bits);
        let worst = all
            .chain(near_one)
            .map(|x| ulps(ln(x), f64::from(x).ln()))
            .fold(0.0, f64::max);
        assert!(worst <= 2.0, "{worst} ulp");
        assert_eq!(ln(1.0), 0.0);
        assert_eq!(ln(0.0), f32::NEG_INFINITY);
        assert_eq!(ln(f32::INFINITY), f32::INFINITY);
        assert!(ln(-1.0).is_nan() && ln(f32::NAN).is_nan());
    }

    /// The stated order, written as a warp would run it: 32 lanes, all of which
    /// take part in every exchange.
    fn as_a_warp(values: &[f32]) -> f32 {
        let at = |i: usize| values.get(i).copied().unwrap_or(0.0);
        let sums: Vec<f32> = (0..values.len().div_ceil(128))
            .map(|c| {
                let lane = |l: usize| {
                    let i = 128 * c + 4 * l;
                    ((at(i) + at(i + 1)) + at(i + 2)) + at(i + 3)
                };
                let mut lanes: Vec<f32> = (0..32).map(lane).collect();
                for distance in [16, 8, 4, 2, 1] {
                    lanes = (0..32).map(|l| lanes[l] + lanes[l ^ distance]).collect();
                }
                assert!(lanes.iter().all(|&x| x == lanes[0]));
                lanes[0]
            })
            .collect();
        if sums.len() > 1 {
            as_a_warp(&sums)
        } else {
            sums.first().copied().unwrap_or(0.0)
        }
    }

    proptest! {
        #[test]
        fn every_sum_has_the_stated_order(
            values in proptest::collection::vec(0.0f32..1.0, 0..400),
            copies in 1usize..60,
        ) {
            let values = values.repeat(copies);
            let expected = as_a_warp(&values);
            prop_assert_eq!(sum_over(&values, |x| x), expected);
            prop_assert_eq!(sum_over_pairs(&values, &values, |x, _| x), expected);
            prop_assert_eq!(SumTree::dense(&values).total(), expected);
        }

        #[test]
        fn a_sparse_vector_sums_and_draws_as_the_dense_one(
            sparse in proptest::collection::btree_map(0u32..40_000, 0.0f32..1.0, 0..300),
            word: u64,
        ) {
            let (ids, values): (Vec<u32>, Vec<f32>) = sparse.into_iter().unzip();
            let mut dense = vec![0.0; 40_000];
            for (&id, &v) in ids.iter().zip(&values) {
                dense[id as usize] = v;
            }
            let (from_sparse, from_dense) = (SumTree::sparse(&ids, &values), SumTree::dense(&dense));
            prop_assert_eq!(from_sparse.total(), from_dense.total());
            let among_sparse = from_sparse.draw(word, |chunk| {
                let pairs = ids.iter().copied().zip(values.iter().copied());
                pairs.filter(move |&(id, _)| id as usize / CHUNK == chunk).collect::<Vec<_>>()
            });
            let among_dense = from_dense.draw(word, |chunk| {
                let start = chunk * CHUNK;
                let end = dense.len().min(start + CHUNK);
                (start..end).map(|i| (i as u32, dense[i])).collect::<Vec<_>>()
            });
            prop_assert_eq!(among_sparse, among_dense);
            if let Some(id) = among_dense {
                prop_assert!(dense[id as usize] > 0.0);
            } else {
                prop_assert!(values.iter().all(|&v| v == 0.0));
            }
        }
    }

    #[test]
    fn draws_follow_the_weights_across_chunks() {
        // 20,000 ids are three levels; evenly spread words must meet each id
        // as often as its weight says, up to the two at its borders.
        let values: Vec<f64> = (0..20_000).map(|i| f64::from(i % 7)).collect();
        let tree = SumTree::dense(&values);
        let draws = 1u64 << 18;
        let mut counts = vec![0u32; values.len()];
        for i in 0..draws {
            let leaves = |chunk: usize| {
                let start = chunk * CHUNK;
                let end = values.len().min(start + CHUNK);
                (start..end)
                    .map(|i| (i, values[i]))
                    .map(|(i, v)| (i as u32, v))
            };
            counts[tree.draw(i << 46, leaves).unwrap() as usize] += 1;
        }
        for (id, (&count, &v)) in counts.iter().zip(&values).enumerate() {
            let expected = v / tree.total() * draws as f64;
            assert!(
                (f64::from(count) - expected).abs() <= 2.0,
                "id {id}: {count} of {expected}"
            );
        }
    }

    #[test]
    fn a_word_is_admitted_by_its_binary_fraction() {
        let half = 1u64 << 63;
        for (p, word, expected) in [
            (0.5f32, half - 1, true),
            (0.5, half, false),
            (1.0, u64::MAX, true),
            (2.0, u64::MAX, true),
            (0.0, 0, false),
            (-1.0, 0, false),
            (f32::NAN, 0, false),
            // Far below the mantissa of a uniform f32.
            (f32::MIN_POSITIVE, 0, false),
            (1e-15, 10_000, true),
            (1e-15, 20_000, false),
        ] {
            assert_eq!(p.admits(word), expected, "{p} admits {word}");
            assert_eq!(f64::from(p).admits(word), expected, "{p} admits {word}");
        }
        assert!(f32::uniform(u64::MAX) < 1.0 && f64::uniform(u64::MAX) < 1.0);
    }
}
