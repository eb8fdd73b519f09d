//! Each family of arithmetic instructions against the host.

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
fn integer_arithmetic_wraps() {
    let rows = pairs(&integers());
    let u = |v: u64| v as u32;
    let s = |v: u64| v as i32;
    let w = |v: u32| u64::from(v);
    check("add.s32", &[4, 4, 4], &rows, |r| {
        w(u(r[0]).wrapping_add(u(r[1])))
    });
    check("sub.s64", &[8, 8, 8], &rows, |r| r[0].wrapping_sub(r[1]));
    check("add.sat.s32", &[4, 4, 4], &rows, |r| {
        w(s(r[0]).saturating_add(s(r[1])) as u32)
    });
    check("mul.lo.u32", &[4, 4, 4], &rows, |r| {
        w(u(r[0]).wrapping_mul(u(r[1])))
    });
    check("mul.hi.s32", &[4, 4, 4], &rows, |r| {
        w((i64::from(s(r[0])) * i64::from(s(r[1])) >> 32) as u32)
    });
    check("mul.hi.u64", &[8, 8, 8], &rows, |r| {
        (u128::from(r[0]) * u128::from(r[1]) >> 64) as u64
    });
    check("mul.wide.s32", &[8, 4, 4], &rows, |r| {
        (i64::from(s(r[0])) * i64::from(s(r[1]))) as u64
    });
    check("mul.wide.u16", &[4, 2, 2], &rows, |r| {
        w(u32::from(r[0] as u16) * u32::from(r[1] as u16))
    });
    check("div.s32", &[4, 4, 4], &rows, |r| {
        w(if s(r[1]) == 0 {
            u32::MAX
        } else {
            s(r[0]).wrapping_div(s(r[1])) as u32
        })
    });
    check("rem.u64", &[8, 8, 8], &rows, |r| {
        r[0].checked_rem(r[1]).unwrap_or(r[0])
    });
    check("min.s32", &[4, 4, 4], &rows, |r| {
        w(s(r[0]).min(s(r[1])) as u32)
    });
    check("max.u16", &[2, 2, 2], &rows, |r| {
        u64::from((r[0] as u16).max(r[1] as u16))
    });
    let three = triples(&integers());
    check("mad.lo.s32", &[4, 4, 4, 4], &three, |r| {
        w(u(r[0]).wrapping_mul(u(r[1])).wrapping_add(u(r[2])))
    });
    check("mad.wide.u32", &[8, 4, 4, 8], &three, |r| {
        (u64::from(u(r[0])) * u64::from(u(r[1]))).wrapping_add(r[2])
    });
    check("sad.u32", &[4, 4, 4, 4], &three, |r| {
        w(u(r[0]).abs_diff(u(r[1])).wrapping_add(u(r[2])))
    });
    check("dp4a.s32.u32", &[4, 4, 4, 4], &three, |r| {
        let dot: i32 = (0..4)
            .map(|i| i32::from((r[0] >> (8 * i)) as u8 as i8) * i32::from((r[1] >> (8 * i)) as u8))
            .sum();
        w((u(r[2])).wrapping_add(dot as u32))
    });
}

#[test]
fn carries_chain() {
    // 128-bit sum of (s0, s1) and (s1, s0): the high word takes the carry
    let text = "$add.cc.u64 %bb, %s0, %s1;\naddc.u64 %d, %s1, %s0;\n";
    check(text, &[8, 8, 8], &pairs(&integers()), |r| {
        let a = u128::from(r[1]) << 64 | u128::from(r[0]);
        let b = u128::from(r[0]) << 64 | u128::from(r[1]);
        (a.wrapping_add(b) >> 64) as u64
    });
    let text = "$sub.cc.u32 %t, %s0, %s1;\nsubc.u32 %d, %s1, %s0;\nmov.u32 %t, %tid.x;\n";
    check(text, &[4, 4, 4], &pairs(&integers()), |r| {
        let a = u64::from(r[1] as u32) << 32 | u64::from(r[0] as u32);
        let b = u64::from(r[0] as u32) << 32 | u64::from(r[1] as u32);
        a.wrapping_sub(b) >> 32
    });
}

#[test]
fn shifts_clamp_and_bits_are_found() {
    let rows = pairs(&integers());
    let w = |v: u32| u64::from(v);
    check("shl.b32", &[4, 4, 4], &rows, |r| {
        let by = r[1] as u32;
        if by > 31 { 0 } else { w((r[0] as u32) << by) }
    });
    check("shr.s32", &[4, 4, 4], &rows, |r| {
        w((r[0] as i32 >> (r[1] as u32).min(31)) as u32)
    });
    check("shr.u64", &[8, 8, 4], &rows, |r| {
        let by = r[1] as u32;
        if by > 63 { 0 } else { r[0] >> by }
    });
    check("shr.s16", &[2, 2, 4], &rows, |r| {
        u64::from((r[0] as i16 >> (r[1] as u32).min(15)) as u16)
    });
    let three = triples(&integers());
    let join = |r: &[u64]| r[0] & 0xffff_ffff | r[1] << 32;
    check("shf.l.wrap.b32", &[4, 4, 4, 4], &three, |r| {
        w((join(r) << (r[2] & 31) >> 32) as u32)
    });
    check("shf.r.clamp.b32", &[4, 4, 4, 4], &three, |r| {
        w((join(r) >> (r[2] as u32).min(32)) as u32)
    });
    check("prmt.b32", &[4, 4, 4, 4], &three, |r| {
        let bytes: Vec<u8> = join(r).to_le_bytes().to_vec();
        (0..4).fold(0, |d, i| {
            let pick = r[2] >> (4 * i) & 15;
            let byte = bytes[(pick & 7) as usize];
            let byte = match (pick & 8 != 0, byte & 0x80 != 0) {
                (false, _) => byte,
                (true, true) => 0xff,
                (true, false) => 0,
            };
            d | u64::from(byte) << (8 * i)
        })
    });
    check(
        "$lop3.b32 %d, %s0, %s1, %s2, 0xd8;\n",
        &[4, 4, 4, 4],
        &three,
        |r| {
            let (a, b, c) = (r[0] as u32, r[1] as u32, r[2] as u32);
            // 0xd8: c ? b : a, by the manual's way to compute tables: the function of 0xf0, 0xcc, 0xaa
            assert_eq!((0xccu8 & 0xaa) | (0xf0 & !0xaau8), 0xd8);
            w((b & c) | (a & !c))
        },
    );
    let single: Vec<Vec<u64>> = integers().iter().map(|&v| vec![v]).collect();
    check("popc.b64", &[4, 8], &single, |r| w(r[0].count_ones()));
    check("clz.b32", &[4, 4], &single, |r| {
        w((r[0] as u32).leading_zeros())
    });
    check("brev.b32", &[4, 4], &single, |r| {
        w((r[0] as u32).reverse_bits())
    });
    check("bfind.u32", &[4, 4], &single, |r| match r[0] as u32 {
        0 => 0xffff_ffff,
        v => w(31 - v.leading_zeros()),
    });
    check("bfind.s32", &[4, 4], &single, |r| {
        let v = r[0] as i32;
        match if v < 0 { !v } else { v } {
            0 => 0xffff_ffff,
            v => w(31 - v.leading_zeros()),
        }
    });
    check("bfe.u32", &[4, 4, 4, 4], &three, |r| {
        let (pos, len) = ((r[1] & 255) as u32, (r[2] & 255) as u32);
        let field = u64::from(r[0] as u32).checked_shr(pos).unwrap_or(0);
        if len >= 32 {
            field
        } else {
            field & ((1 << len) - 1)
        }
    });
    check("bfe.s32", &[4, 4, 4, 4], &three, |r| {
        // the manual's loop, bit by bit
        let (a, pos, len) = (r[0] as u32, (r[1] & 255) as u32, (r[2] & 255) as u32);
        let sign = if len == 0 {
            0
        } else {
            a >> (pos + len - 1).min(31) & 1
        };
        (0..32).fold(0, |d, i| {
            let bit = if i < len && pos + i <= 31 {
                a >> (pos + i) & 1
            } else {
                sign
            };
            d | u64::from(bit) << i
        })
    });
    check(
        "$bfi.b32 %d, %s0, %s1, %s2, 5;\n",
        &[4, 4, 4, 4],
        &three,
        |r| {
            let pos = (r[2] & 255) as u32;
            (0..32u32).fold(0, |d, i| {
                let inside = i >= pos && i < pos + 5;
                let bit = if inside { r[0] >> (i - pos) } else { r[1] >> i };
                d | (bit & 1) << i
            })
        },
    );
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

#[test]
fn double_precision_is_the_hosts_and_directed_products_bracket() {
    let mut values: Vec<u64> = f32_values()
        .iter()
        .map(|v| f64::from(*v).to_bits())
        .collect();
    values.extend([
        1,
        f64::MIN_POSITIVE.to_bits(),
        f64::MAX.to_bits(),
        0x000f_ffff_ffff_ffff,
    ]);
    let values: Vec<u64> = values
        .into_iter()
        .filter(|v| !f64::from_bits(*v).is_nan())
        .collect();
    let rows = pairs(&values);
    let f = f64::from_bits;
    let same = |x: f64, found: u64| x.is_nan() && f(found).is_nan() || x.to_bits() == found;
    for (op, exact) in [
        ("add.rn.f64", (|a, b| a + b) as fn(f64, f64) -> f64),
        ("mul.rn.f64", |a, b| a * b),
        ("div.rn.f64", |a, b| a / b),
    ] {
        for (row, found) in rows.iter().zip(apply(op, &[8, 8, 8], &rows)) {
            let e = exact(f(row[0]), f(row[1]));
            assert!(same(e, found), "{op} {row:x?} {found:x}");
        }
    }
    for op in ["add", "mul"] {
        let near = apply(&format!("{op}.rn.f64"), &[8, 8, 8], &rows);
        let down = apply(&format!("{op}.rm.f64"), &[8, 8, 8], &rows);
        let up = apply(&format!("{op}.rp.f64"), &[8, 8, 8], &rows);
        for i in 0..rows.len() {
            let (n, d, u) = (f(near[i]), f(down[i]), f(up[i]));
            if n.is_nan() {
                continue;
            }
            assert!(d <= n && n <= u, "{op} {:x?}", rows[i]);
            assert!(
                d == u || d.next_up() == u,
                "{op} {:x?} {d:e} {u:e}",
                rows[i]
            );
        }
    }
}
