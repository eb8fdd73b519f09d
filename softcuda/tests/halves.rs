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

type Number = fn(u64) -> f32;

/// What there is of both formats: its name, its number, the pattern of infinity.
const FORMATS: [(&str, Number, u64); 2] = [
    ("f16", |v| half::f16::from_bits(v as u16).to_f32(), 0x7c00),
    ("bf16", |v| half::bf16::from_bits(v as u16).to_f32(), 0x7f80),
];

fn is_nan(v: u64, infinity: u64) -> bool {
    v & 0x7fff > infinity
}

/// Denormals of f16 to zero.
fn flush(v: u64) -> u64 {
    if v & 0x7c00 == 0 { v & 0x8000 } else { v }
}

/// Checks an instruction of one half, and of two at a time.
fn check_both(op: &str, ty: &str, rows: &[Vec<u64>], one: impl Fn(&[u64]) -> u64) {
    let operands = rows[0].len();
    check(&format!("{op}.{ty}"), &vec![2; operands + 1], rows, &one);
    let pair = |i: usize, j: usize| -> Vec<u64> {
        let (low, high) = (&rows[i], &rows[j]);
        low.iter().zip(high).map(|(l, h)| h << 16 | l).collect()
    };
    let pairs: Vec<Vec<u64>> = (0..rows.len())
        .map(|i| pair(i, rows.len() - 1 - i))
        .collect();
    check(
        &format!("{op}.{ty}x2"),
        &vec![4; operands + 1],
        &pairs,
        |r| {
            let part = |shift: u32| -> Vec<u64> { r.iter().map(|v| v >> shift & 0xffff).collect() };
            one(&part(0)) | one(&part(16)) << 16
        },
    );
}

#[test]
fn sums_and_products_of_infinities_and_nan() {
    for (ty, number, infinity) in FORMATS {
        let special = [
            0,
            0x8000,
            infinity,
            infinity | 0x8000,
            infinity + 1,
            0xffff,
            1,
            0x3c00,
        ];
        let rows = pairs(&special);
        for (op, f) in [
            ("add.rn", (|a, b| a + b) as fn(f32, f32) -> f32),
            ("sub.rn", |a, b| a - b),
            ("mul.rn", |a, b| a * b),
        ] {
            let op = &op.replace(".rn", if ty == "f16" { "" } else { ".rn" });
            check_both(op, ty, &rows, |r| {
                // one of the two is special, so that nothing is rounded but denormals
                let exact = f(number(r[0]), number(r[1]));
                match ty {
                    _ if exact.is_nan() => 0x7fff,
                    "f16" => half::f16::from_f32(exact).to_bits().into(),
                    _ => half::bf16::from_f32(exact).to_bits().into(),
                }
            });
        }
    }
}

#[test]
fn differences_are_sums_with_the_sign_turned() {
    for (ty, _, infinity) in FORMATS {
        let finite = |v: &u64| !is_nan(*v, infinity);
        let values: Vec<u64> = half_values().into_iter().filter(finite).collect();
        let rows = pairs(&values);
        let turned: Vec<Vec<u64>> = rows.iter().map(|r| vec![r[0], r[1] ^ 0x8000]).collect();
        let sums = apply(&format!("add.rn.{ty}"), &[2, 2, 2], &turned);
        let differences = apply(&format!("sub.rn.{ty}"), &[2, 2, 2], &rows);
        assert_eq!(sums, differences, "{ty}");
    }
}

#[test]
fn denormal_halves_are_flushed_and_results_clamped_where_it_is_said() {
    let rows = pairs(&half_values());
    let number = FORMATS[0].1;
    for op in ["add", "sub", "mul"] {
        let plain = apply(&format!("{op}.f16"), &[2, 2, 2], &rows);
        let flushed: Vec<Vec<u64>> = rows
            .iter()
            .map(|r| vec![flush(r[0]), flush(r[1])])
            .collect();
        let plain_flushed = apply(&format!("{op}.f16"), &[2, 2, 2], &flushed);
        let clamp = |v: u64| {
            let x = number(v);
            let clamped = if x.is_nan() {
                0.0
            } else {
                x.clamp(0.0, 1.0) + 0.0
            };
            u64::from(half::f16::from_f32(clamped).to_bits())
        };
        let found = |what: &str| apply(&format!("{op}{what}.f16"), &[2, 2, 2], &rows);
        let (ftz, sat, both) = (found(".ftz"), found(".sat"), found(".ftz.sat"));
        for i in 0..rows.len() {
            assert_eq!(ftz[i], flush(plain_flushed[i]), "{op}.ftz {:x?}", rows[i]);
            assert_eq!(sat[i], clamp(plain[i]), "{op}.sat {:x?}", rows[i]);
            let expected = clamp(flush(plain_flushed[i]));
            assert_eq!(both[i], expected, "{op}.ftz.sat {:x?}", rows[i]);
        }
    }
}

#[test]
fn fused_sums_are_flushed_clamped_or_made_positive() {
    for (ty, number, infinity) in FORMATS {
        let rows: Vec<Vec<u64>> = triples(&half_values()).into_iter().step_by(3).collect();
        let plain = |rows: &[Vec<u64>]| apply(&format!("fma.rn.{ty}"), &[2; 4], rows);
        let sums = plain(&rows);
        let by_row = |list: Vec<u64>| -> std::collections::HashMap<Vec<u64>, u64> {
            rows.iter().cloned().zip(list).collect()
        };
        let of = by_row(sums);
        check_both("fma.rn", ty, &rows, |r| of[r]);
        check_both("fma.rn.relu", ty, &rows, |r| {
            let sum = of[r];
            match sum {
                _ if is_nan(sum, infinity) => 0x7fff,
                _ if sum & 0x8000 != 0 => 0,
                _ => sum,
            }
        });
        if ty == "bf16" {
            continue;
        }
        check_both("fma.rn.sat", ty, &rows, |r| {
            let x = number(of[r]);
            let clamped = if x.is_nan() {
                0.0
            } else {
                x.clamp(0.0, 1.0) + 0.0
            };
            half::f16::from_f32(clamped).to_bits().into()
        });
        let flushed: Vec<Vec<u64>> = rows
            .iter()
            .map(|r| r.iter().map(|&v| flush(v)).collect())
            .collect();
        let of = by_row(plain(&flushed));
        check_both("fma.rn.ftz", ty, &rows, |r| flush(of[r]));
    }
}

#[test]
fn the_lesser_and_the_greater_of_halves() {
    for (ty, number, infinity) in FORMATS {
        let mut values = half_values();
        values.extend([infinity, infinity | 0x8000, infinity + 1, 0xffff]);
        let rows = pairs(&values);
        for (op, sign) in [("min", 1.0), ("max", -1.0)] {
            for nan in [false, true] {
                let op = format!("{op}{}", if nan { ".NaN" } else { "" });
                check_both(&op, ty, &rows, |r| {
                    let (a, b) = (r[0], r[1]);
                    match (is_nan(a, infinity), is_nan(b, infinity)) {
                        (true, true) => return 0x7fff,
                        (true, _) | (_, true) if nan => return 0x7fff,
                        (true, false) => return b,
                        (false, true) => return a,
                        _ => {}
                    }
                    // total order puts -0 below +0
                    let order = (sign * number(a)).total_cmp(&(sign * number(b)));
                    if order.is_le() { a } else { b }
                });
            }
        }
    }
}

#[test]
fn signs_of_halves_are_dropped_and_turned() {
    let rows: Vec<Vec<u64>> = (0..=0xffff).map(|v| vec![v]).collect();
    for (ty, _, infinity) in FORMATS {
        let number: Vec<Vec<u64>> = rows
            .iter()
            .filter(|r| !is_nan(r[0], infinity))
            .cloned()
            .collect();
        check_both("abs", ty, &number, |r| r[0] & 0x7fff);
        check_both("neg", ty, &number, |r| r[0] ^ 0x8000);
        if ty == "f16" {
            check_both("abs.ftz", ty, &number, |r| flush(r[0]) & 0x7fff);
            check_both("neg.ftz", ty, &number, |r| flush(r[0]) ^ 0x8000);
        }
    }
}
