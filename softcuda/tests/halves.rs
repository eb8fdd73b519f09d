//! Halves against exact rational arithmetic.

mod common;

use common::apply::*;

fn half_values() -> Vec<u64> {
    let mut values = vec![
        0, 0x8000, 1, 0x8001, 0x3ff, 0x400, 0x3c00, 0xbc00, 0x3c01, 0x7bff, 0xfbff, 0x7c00, 0xfc00,
        0x7e00, 0x3555, 0x6400, 0x0001, 0x7f80, 0x3f80, 0x0080, 0x7f7f, 0x007f,
    ];
    let mut x = 7u64;
    for _ in 0..40 {
        x = x
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        values.push(x >> 48);
    }
    values
}

/// Exact rational arithmetic on halves: numbers are integers times a power of two.
mod exact {
    /// Significand and exponent of a finite number of `fraction` and `bits` of exponent.
    pub fn split(h: u64, fraction: u32, bits: u32) -> Option<(i128, i32)> {
        let bias = (1 << (bits - 1)) - 1;
        let e = (h >> fraction & ((1 << bits) - 1)) as i32;
        if e == (1 << bits) - 1 {
            return None;
        }
        let m = (h & ((1 << fraction) - 1)) as i128;
        let (m, e) = if e == 0 {
            (m, 1)
        } else {
            (m | 1 << fraction, e)
        };
        let m = if h >> (fraction + bits) & 1 == 1 {
            -m
        } else {
            m
        };
        Some((m, e - bias - fraction as i32))
    }

    /// m * 2^e rounded to nearest even.
    pub fn round(m: i128, e: i32, fraction: u32, bits: u32) -> u64 {
        let sign = u64::from(m < 0) << (fraction + bits);
        let bias = (1 << (bits - 1)) - 1;
        let magnitude = m.unsigned_abs();
        let mut best = None;
        // all candidates of the format around the value, by brute force over exponents
        for be in 1..(1 << bits) {
            let scale = be - bias - fraction as i32;
            let shift = e - scale;
            let (q, rest, half) = if shift >= 0 {
                if shift > 90 || magnitude.leading_zeros() < shift as u32 + 1 {
                    continue;
                }
                (magnitude << shift, 0, 1)
            } else if -shift > 126 {
                (0, u128::from(magnitude != 0), 2)
            } else {
                let d = -shift;
                (magnitude >> d, magnitude & ((1 << d) - 1), 1u128 << (d - 1))
            };
            if q >= 1 << (fraction + 1) {
                continue;
            }
            let q = q + u128::from(rest > half || rest == half && q & 1 == 1);
            let encoded = if q < 1 << fraction {
                q as u64
            } else {
                q as u64 - (1 << fraction) + ((be as u64) << fraction)
            };
            best = Some(encoded);
            break;
        }
        let infinity = ((1u64 << bits) - 1) << fraction;
        sign | best.unwrap_or(infinity).min(infinity)
    }
}

#[test]
fn halves_round_fused_results_once() {
    for (ty, fraction, bits) in [("f16", 10, 5), ("bf16", 7, 8)] {
        let infinity = ((1u64 << bits) - 1) << fraction;
        let finite = |v: &u64| v & 0x7fff < infinity;
        let values: Vec<u64> = half_values().into_iter().filter(finite).collect();
        let rows = triples(&values);
        check(&format!("fma.rn.{ty}"), &[2, 2, 2, 2], &rows, |r| {
            let part = |h| exact::split(h, fraction, bits).expect("finite");
            let ((a, ea), (b, eb), (c, ec)) = (part(r[0]), part(r[1]), part(r[2]));
            let (p, ep) = (a * b, ea + eb);
            let least = ep.min(ec);
            let wide = |m: i128, e: i32| -> Option<i128> {
                let shift = (e - least) as u32;
                (m == 0 || shift + 128 - m.unsigned_abs().leading_zeros() < 126)
                    .then(|| m << shift.min(127))
            };
            let negative = |h: u64| h >> 15 & 1 == 1;
            match (wide(p, ep), wide(c, ec)) {
                (Some(x), Some(y)) if x + y == 0 => {
                    // an exact zero: the sign of both if they agree, else plus
                    let product = negative(r[0]) != negative(r[1]);
                    if (x, y) == (0, 0) && product && negative(r[2]) {
                        0x8000
                    } else {
                        0
                    }
                }
                (Some(x), Some(y)) => exact::round(x + y, least, fraction, bits),
                // so far apart that the smaller one only tells the side
                (None, _) => exact::round(4 * p + c.signum(), ep - 2, fraction, bits),
                (_, None) => exact::round((c << 20) + p.signum(), ec - 20, fraction, bits),
            }
        });
        let rows = pairs(&values);
        check(&format!("mul.rn.{ty}"), &[2, 2, 2], &rows, |r| {
            let part = |h| exact::split(h, fraction, bits).expect("finite");
            let ((a, ea), (b, eb)) = (part(r[0]), part(r[1]));
            let sign = (r[0] ^ r[1]) & 0x8000;
            exact::round((a * b).abs(), ea + eb, fraction, bits) | sign
        });
        let packed = format!("add.rn.{ty}x2");
        let rows = pairs(
            &values
                .iter()
                .map(|v| v << 16 | (v ^ 0x1234))
                .collect::<Vec<_>>(),
        );
        let single = |v: u64, i: u32| v >> (16 * i) & 0xffff;
        let one = apply(
            &format!("add.rn.{ty}"),
            &[2, 2, 2],
            &rows
                .iter()
                .flat_map(|r| (0..2).map(|i| vec![single(r[0], i), single(r[1], i)]))
                .collect::<Vec<_>>(),
        );
        let two = apply(&packed, &[4, 4, 4], &rows);
        for (i, found) in two.iter().enumerate() {
            assert_eq!(
                *found,
                one[2 * i] | one[2 * i + 1] << 16,
                "{packed} {:x?}",
                rows[i]
            );
        }
    }
}
