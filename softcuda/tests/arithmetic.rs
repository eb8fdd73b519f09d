//! 32-bit floats against the host: arithmetic, comparisons, conversions.

mod common;

use common::apply::*;

#[test]
fn f32_arithmetic_rounds_once_and_gives_the_canonical_nan() {
    let rows = pairs(&f32_bits());
    let f = f32_of;
    check("add.rn.f32", &[4, 4, 4], &rows, |r| {
        canonical(f(r[0]) + f(r[1]))
    });
    check("sub.f32", &[4, 4, 4], &rows, |r| {
        canonical(f(r[0]) - f(r[1]))
    });
    check("mul.rn.f32", &[4, 4, 4], &rows, |r| {
        canonical(f(r[0]) * f(r[1]))
    });
    check("div.rn.f32", &[4, 4, 4], &rows, |r| {
        canonical(f(r[0]) / f(r[1]))
    });
    check("fma.rn.f32", &[4, 4, 4, 4], &triples(&f32_bits()), |r| {
        canonical(f(r[0]).mul_add(f(r[1]), f(r[2])))
    });
    let single: Vec<Vec<u64>> = f32_bits().iter().map(|&v| vec![v]).collect();
    check("sqrt.rn.f32", &[4, 4], &single, |r| {
        canonical(f(r[0]).sqrt())
    });
    check("rcp.rn.f32", &[4, 4], &single, |r| canonical(1.0 / f(r[0])));
    check("neg.f32", &[4, 4], &single, |r| canonical(-f(r[0])));
    check("abs.f32", &[4, 4], &single, |r| canonical(f(r[0]).abs()));
}

#[test]
fn ftz_flushes_operands_and_results_and_sat_clamps() {
    let rows = pairs(&f32_bits());
    let z = |x: f32| {
        if x.is_subnormal() {
            0f32.copysign(x)
        } else {
            x
        }
    };
    let f = |b| z(f32_of(b));
    check("add.ftz.f32", &[4, 4, 4], &rows, |r| {
        canonical(z(f(r[0]) + f(r[1])))
    });
    check("mul.ftz.f32", &[4, 4, 4], &rows, |r| {
        canonical(z(f(r[0]) * f(r[1])))
    });
    let sat = |x: f32| {
        if x.is_nan() {
            0
        } else {
            u64::from((x.clamp(0.0, 1.0) + 0.0).to_bits())
        }
    };
    check("add.sat.f32", &[4, 4, 4], &rows, |r| {
        sat(f32_of(r[0]) + f32_of(r[1]))
    });
    check(
        "fma.rn.ftz.sat.f32",
        &[4, 4, 4, 4],
        &triples(&f32_bits()),
        |r| sat(z(f(r[0]).mul_add(f(r[1]), f(r[2])))),
    );
}

/// Exact sums and products of f32 are sums of at most two f64; the direction is found by
/// comparing the rounded value with the exact one.
#[test]
fn directed_rounding_of_f32_brackets_the_exact_result() {
    let rows = pairs(&f32_bits());
    for (op, exact) in [
        ("mul", (|a, b| a * b) as fn(f64, f64) -> f64),
        // f64 addition of f32 numbers whose exponents are near is exact
        ("add", |a, b| a + b),
    ] {
        let near = |r: &[u64]| {
            let (a, b) = (f32_of(r[0]), f32_of(r[1]));
            op == "mul" || a.abs() > 1e-10 && a.abs() < 1e5 && b.abs() > 1e-10 && b.abs() < 1e5
        };
        let rows: Vec<_> = rows.iter().filter(|r| near(r)).cloned().collect();
        let down = apply(&format!("{op}.rm.f32"), &[4, 4, 4], &rows);
        let up = apply(&format!("{op}.rp.f32"), &[4, 4, 4], &rows);
        let zero = apply(&format!("{op}.rz.f32"), &[4, 4, 4], &rows);
        for (i, row) in rows.iter().enumerate() {
            let e = exact(f64::from(f32_of(row[0])), f64::from(f32_of(row[1])));
            let (d, u, z) = (f32_of(down[i]), f32_of(up[i]), f32_of(zero[i]));
            if e.is_nan() {
                assert!(d.is_nan() && u.is_nan() && z.is_nan());
                continue;
            }
            assert!(f64::from(d) <= e && e <= f64::from(u), "{op} {row:x?}");
            assert!(d == u || d.next_up() == u, "{op} {row:x?}: {d:e} {u:e}");
            let towards = if e > 0.0 { d } else { u };
            assert_eq!(z, towards, "{op} {row:x?}");
        }
    }
}

#[test]
fn minimum_and_maximum_prefer_numbers_and_order_zeros() {
    let rows = pairs(&f32_bits());
    let less = |a: f32, b: f32| a < b || a == b && a.is_sign_negative();
    check("min.f32", &[4, 4, 4], &rows, |r| {
        let (a, b) = (f32_of(r[0]), f32_of(r[1]));
        canonical(if b.is_nan() || less(a, b) { a } else { b })
    });
    check("max.f32", &[4, 4, 4], &rows, |r| {
        let (a, b) = (f32_of(r[0]), f32_of(r[1]));
        canonical(if b.is_nan() || !a.is_nan() && !less(a, b) {
            a
        } else {
            b
        })
    });
    check("max.NaN.f32", &[4, 4, 4], &rows, |r| {
        let (a, b) = (f32_of(r[0]), f32_of(r[1]));
        if a.is_nan() || b.is_nan() {
            return 0x7fff_ffff;
        }
        canonical(if less(a, b) { b } else { a })
    });
}

#[test]
fn comparisons_know_nan() {
    let rows = pairs(&f32_bits());
    for (name, ordered) in [
        ("eq", (|a, b| a == b) as fn(f32, f32) -> bool),
        ("ne", |a, b| a != b),
        ("lt", |a, b| a < b),
        ("le", |a, b| a <= b),
        ("gt", |a, b| a > b),
        ("ge", |a, b| a >= b),
    ] {
        for unordered in [false, true] {
            let suffix = if unordered { "u" } else { "" };
            let text = format!(
                "$setp.{name}{suffix}.f32 %pr|%pq, %s0, %s1;\nselp.b32 %d, 1, 0, %pr;\n\
                         @%pq add.u32 %d, %d, 2;\n"
            );
            check(&text, &[4, 4, 4], &rows, |r| {
                let (a, b) = (f32_of(r[0]), f32_of(r[1]));
                let nan = a.is_nan() || b.is_nan();
                let holds = if nan { unordered } else { ordered(a, b) };
                if holds { 1 } else { 2 }
            });
        }
    }
    let text = "$setp.lt.s64 %pr, %s0, %s1;\nsetp.hi.and.u64 %pq, %s0, 7, !%pr;\n\
                selp.b32 %d, 1, 0, %pq;\n";
    check(text, &[4, 8, 8], &pairs(&integers()), |r| {
        u64::from(r[0] > 7 && (r[0] as i64) >= (r[1] as i64))
    });
    let halves: Vec<u64> = vec![
        0, 0x8000, 0x3c00, 0x3c01, 0xbc00, 1, 0x7c00, 0xfc00, 0x7e00, 0x7f81,
    ];
    for (op, one) in [("set.ltu.f16.f16", 0x3c00), ("set.ltu.bf16.bf16", 0x3f80)] {
        check(op, &[2, 2, 2], &pairs(&halves), |r| {
            let value = |v: u64| match one {
                0x3c00 => half::f16::from_bits(v as u16).to_f32(),
                _ => half::bf16::from_bits(v as u16).to_f32(),
            };
            // less, or not in any order
            let at_least = value(r[0]) >= value(r[1]);
            if at_least { 0 } else { one }
        });
    }
    check("set.nan.u32.f32", &[4, 4, 4], &rows, |r| {
        let nan = f32_of(r[0]).is_nan() || f32_of(r[1]).is_nan();
        if nan { 0xffff_ffff } else { 0 }
    });
    let text = "$set.gt.f16x2.f16x2 %d, %s0, %s1;\n";
    check(text, &[4, 4, 4], &pairs(&integers()), |r| {
        let half = |v: u64, i: u32| half::f16::from_bits((v >> (16 * i)) as u16);
        (0..2).fold(0, |d, i| {
            d | if half(r[0], i) > half(r[1], i) {
                0x3c00 << (16 * i)
            } else {
                0
            }
        })
    });
}

#[test]
fn conversions_round_and_saturate() {
    let single: Vec<Vec<u64>> = f32_bits().iter().map(|&v| vec![v]).collect();
    let f = |r: &[u64]| f32_of(r[0]);
    check("cvt.rzi.s32.f32", &[4, 4], &single, |r| {
        u64::from(f(r) as i32 as u32)
    });
    check("cvt.rni.u32.f32", &[4, 4], &single, |r| {
        u64::from(f(r).round_ties_even() as u32)
    });
    check("cvt.rpi.s32.f32", &[4, 4], &single, |r| {
        u64::from(f(r).ceil() as i32 as u32)
    });
    check("cvt.rmi.s64.f32", &[8, 4], &single, |r| {
        if f(r).is_nan() {
            1 << 63
        } else {
            f(r).floor() as i64 as u64
        }
    });
    check(
        "cvt.rzi.u8.f32",
        &[2, 4],
        &single,
        |r| u64::from(f(r) as u8),
    );
    check("cvt.f64.f32", &[8, 4], &single, |r| {
        f64::from(f(r)).to_bits()
    });
    check("cvt.rn.f16.f32", &[2, 4], &single, |r| {
        if f(r).is_nan() {
            0x7fff
        } else {
            half::f16::from_f32(f(r)).to_bits().into()
        }
    });
    check("cvt.rn.bf16.f32", &[2, 4], &single, |r| {
        if f(r).is_nan() {
            0x7fff
        } else {
            half::bf16::from_f32(f(r)).to_bits().into()
        }
    });
    check("cvt.rni.f32.f32", &[4, 4], &single, |r| {
        canonical(f(r).round_ties_even())
    });
    check("cvt.sat.f32.f32", &[4, 4], &single, |r| {
        if f(r).is_nan() {
            0
        } else {
            (f(r).clamp(0.0, 1.0) + 0.0).to_bits().into()
        }
    });
    check("cvt.rna.tf32.f32", &[4, 4], &single, |r| {
        if f(r).is_nan() {
            return 0x7fff_ffff;
        }
        // half a unit of the tenth bit, then cut
        let bits = r[0] as u32;
        if f(r).is_infinite() {
            bits.into()
        } else {
            u64::from(bits.wrapping_add(0x1000) & !0x1fff)
        }
    });
    let two = pairs(&f32_bits());
    let h = |v: u64| {
        let v = f32_of(v);
        if v.is_nan() {
            0x7fff
        } else {
            u64::from(half::f16::from_f32(v).to_bits())
        }
    };
    check("cvt.rn.f16x2.f32", &[4, 4, 4], &two, |r| {
        h(r[0]) << 16 | h(r[1])
    });
    let whole: Vec<Vec<u64>> = integers().iter().map(|&v| vec![v]).collect();
    check("cvt.rn.f32.s32", &[4, 4], &whole, |r| {
        (r[0] as i32 as f32).to_bits().into()
    });
    check("cvt.rn.f32.u64", &[4, 8], &whole, |r| {
        (r[0] as f32).to_bits().into()
    });
    check("cvt.rz.f32.u32", &[4, 4], &whole, |r| {
        let v = r[0] as u32;
        let cut = if v == 0 {
            0
        } else {
            v & (u32::MAX << (31 - v.leading_zeros()).saturating_sub(23))
        };
        (cut as f32).to_bits().into()
    });
    check("cvt.rn.f64.s64", &[8, 8], &whole, |r| {
        (r[0] as i64 as f64).to_bits()
    });
    check("cvt.u64.u32", &[8, 4], &whole, |r| u64::from(r[0] as u32));
    check("cvt.s64.s32", &[8, 4], &whole, |r| {
        r[0] as i32 as i64 as u64
    });
    check("cvt.s32.s8", &[4, 4], &whole, |r| {
        u64::from(r[0] as i8 as i32 as u32)
    });
    check("cvt.u16.u64", &[2, 8], &whole, |r| u64::from(r[0] as u16));
    check("cvt.sat.s8.s32", &[4, 4], &whole, |r| {
        u64::from((r[0] as i32).clamp(-128, 127) as u32)
    });
    check("cvt.sat.u16.s64", &[2, 8], &whole, |r| {
        (r[0] as i64).clamp(0, 65535) as u64
    });
    let halves: Vec<Vec<u64>> = (0..=0xffff).map(|v| vec![v]).collect();
    check("cvt.f32.f16", &[4, 2], &halves, |r| {
        canonical(half::f16::from_bits(r[0] as u16).to_f32())
    });
    check("cvt.f32.bf16", &[4, 2], &halves, |r| {
        canonical(half::bf16::from_bits(r[0] as u16).to_f32())
    });
    check("cvt.rni.s16.f16", &[2, 2], &halves, |r| {
        let v = half::f16::from_bits(r[0] as u16).to_f32();
        u64::from(v.round_ties_even() as i16 as u16)
    });
}

/// e4m3 and e5m2 by search: the nearest of all 8-bit numbers, ties to the even one.
#[test]
fn eight_bit_floats_are_the_nearest() {
    let value = |bits: u64, e5: bool| -> f64 {
        let (e, m, bias) = if e5 {
            (bits >> 2 & 31, bits & 3, 15)
        } else {
            (bits >> 3 & 15, bits & 7, 7)
        };
        let scale = if e5 { 4.0 } else { 8.0 };
        let m = m as f64 / scale;
        let magnitude = if e == 0 {
            m * 2f64.powi(1 - bias)
        } else {
            (1.0 + m) * 2f64.powi(e as i32 - bias)
        };
        if bits & 0x80 != 0 {
            -magnitude
        } else {
            magnitude
        }
    };
    let rows = pairs(&f32_bits());
    for e5 in [false, true] {
        let largest = if e5 { 0x7bu64 } else { 0x7e };
        let nearest = |bits: u64| -> u64 {
            let x = f32_of(bits);
            if x.is_nan() {
                return 0x7f;
            }
            let sign = u64::from(x.is_sign_negative()) << 7;
            let x = f64::from(x.abs()).min(value(largest, e5));
            let best = (0..=largest).min_by(|&a, &b| {
                let (da, db) = ((value(a, e5) - x).abs(), (value(b, e5) - x).abs());
                da.total_cmp(&db).then((a & 1).cmp(&(b & 1)))
            });
            best.unwrap_or(0) | sign
        };
        let name = if e5 { "e5m2x2" } else { "e4m3x2" };
        let op = format!("cvt.rn.satfinite.{name}.f32");
        check(&op, &[2, 4, 4], &rows, |r| {
            nearest(r[0]) << 8 | nearest(r[1])
        });
        let all: Vec<Vec<u64>> = (0..=0xffff).map(|v| vec![v]).collect();
        check(&format!("cvt.rn.f16x2.{name}"), &[4, 2], &all, |r| {
            let half = |b: u64| {
                let magnitude = b & 0x7f;
                let nan = if e5 {
                    magnitude > 0x7c
                } else {
                    magnitude == 0x7f
                };
                if nan {
                    return 0x7fff;
                }
                if e5 && magnitude == 0x7c {
                    return 0x7c00 | (b & 0x80) << 8;
                }
                u64::from(half::f16::from_f64(value(b, e5)).to_bits())
            };
            half(r[0] >> 8) << 16 | half(r[0] & 0xff)
        });
    }
}
