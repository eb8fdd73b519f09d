//! Which tokens top-k and top-p keep: the best first, on ties the lower id.

use super::math::CHUNK;

/// The least weight that top-p must keep of `total`: `top_p * total`, rounded up.
pub(super) fn least(top_p: f32, total: u64) -> Option<u64> {
    if top_p >= 1.0 {
        return None;
    }
    // top_p = mantissa / 2^shift exactly: no rounding decides what stays.
    let bits = top_p.to_bits();
    let exponent = (bits >> 23).max(1);
    let mantissa = if bits >> 23 == 0 {
        bits
    } else {
        bits & 0x007f_ffff | 0x0080_0000
    };
    let shift = 150 - exponent;
    let product = u128::from(mantissa) * u128::from(total);
    let need = if shift < 128 {
        product.div_ceil(1 << shift)
    } else {
        1
    };
    Some((need as u64).clamp(1, total))
}

/// How many of `best` it takes until their weights reach `need`; `None` if all do not.
pub(super) fn shortest_prefix(
    best: &[(u32, f32)],
    need: u64,
    weigh: impl Fn(f32) -> f32,
) -> Option<usize> {
    let mut sum = 0;
    let reached = best.iter().position(|&(_, z)| {
        sum += weigh(z) as u64;
        sum >= need
    });
    reached.map(|last| last + 1)
}

/// A row of logits that can name its best tokens without sorting them all.
pub(super) struct Ranking<'a> {
    logits: &'a [f32],
    maxima: Vec<f32>, // of each chunk
}

impl<'a> Ranking<'a> {
    pub fn new(logits: &'a [f32]) -> Self {
        let higher = |a: f32, b: &f32| if *b > a { *b } else { a };
        let maximum = |chunk: &[f32]| {
            let mut lanes = [f32::NEG_INFINITY; 16];
            let (whole, rest) = chunk.as_chunks::<16>();
            for x in whole {
                for l in 0..16 {
                    lanes[l] = higher(lanes[l], &x[l]);
                }
            }
            lanes.iter().chain(rest).fold(f32::NEG_INFINITY, higher)
        };
        Ranking {
            logits,
            maxima: logits.chunks(CHUNK).map(maximum).collect(),
        }
    }

    /// The best tokens and their logits, best first: `count` of them and those
    /// that happen to be found with them.
    pub fn best_first(&self, count: usize) -> Vec<(u32, f32)> {
        // At least k logits reach the k-th highest maximum of a chunk: those maxima.
        let few = count <= self.maxima.len();
        let mut bounds = if few { &self.maxima } else { self.logits }.to_vec();
        let bound = match count.checked_sub(1) {
            Some(nth) if nth < bounds.len() => {
                *bounds.select_nth_unstable_by(nth, |a, b| b.total_cmp(a)).1
            }
            _ => f32::NEG_INFINITY,
        };
        let chunks = self.logits.chunks(CHUNK).zip(&self.maxima).enumerate();
        let mut found = Vec::new();
        for (c, (chunk, _)) in chunks.filter(|&(_, (_, &max))| max >= bound) {
            let ids = (c * CHUNK) as u32..;
            // -0 becomes 0, which it ties with.
            let tokens = ids.zip(chunk.iter().map(|&z| z + 0.0));
            found.extend(tokens.filter(|&(_, z)| z >= bound));
        }
        found.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        found
    }
}
