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
const LN_2_HIGH: f32 = 0.693_359_375;
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
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 5.000_000_1e-1;
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
        m = m - 1.0;
    }
    let e = exponent as f32;
    let square = m * m;
    let mut p = 7.037_683_6e-2;
    p = p * m - 1.151_461e-1;
    p = p * m + 1.167_699_9e-1;
    p = p * m - 1.242_014_1e-1;
    p = p * m + 1.424_932_3e-1;
    p = p * m - 1.666_805_8e-1;
    p = p * m + 2.000_071_5e-1;
    p = p * m - 2.499_999_4e-1;
    p = p * m + 3.333_333_1e-1;
    let mut y = p * m * square;
    y = y + e * LN_2_LOW;
    y = y - 0.5 * square;
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
