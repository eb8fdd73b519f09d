//! Comparisons, choices, logic and moves of bits, of every type that has them.

mod common;

use common::apply::*;

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

fn cut(v: u64, bits: u32) -> u64 {
    v & (u64::MAX >> (64 - bits))
}

fn signed(v: u64, bits: u32) -> i64 {
    (v << (64 - bits)) as i64 >> (64 - bits)
}

#[test]
fn integers_of_every_width_are_compared() {
    let rows = pairs(&integers());
    for bits in [16, 32, 64] {
        let types = [4, bits as usize / 8, bits as usize / 8];
        for (name, holds) in [
            ("eq", (|a, b| a == b) as fn(i128, i128) -> bool),
            ("ne", |a, b| a != b),
            ("lt", |a, b| a < b),
            ("le", |a, b| a <= b),
            ("gt", |a, b| a > b),
            ("ge", |a, b| a >= b),
            ("lo", |a, b| a < b),
            ("ls", |a, b| a <= b),
            ("hi", |a, b| a > b),
            ("hs", |a, b| a >= b),
        ] {
            let kinds = match name {
                "eq" | "ne" => &["u", "s", "b"][..],
                "lo" | "ls" | "hi" | "hs" => &["u"],
                _ => &["u", "s"],
            };
            for kind in kinds {
                // both results, and each with a predicate beside it
                let text = format!(
                    "$setp.{name}.{kind}{bits} %pr|%pq, %s0, %s1;\nselp.b32 %d, 1, 0, %pr;\n\
                     @%pq add.u32 %d, %d, 2;\nsetp.{name}.or.{kind}{bits} %pr|%pq, %s0, %s1, %pq;\n\
                     @%pr add.u32 %d, %d, 4;\n@%pq add.u32 %d, %d, 8;\n\
                     setp.{name}.xor.{kind}{bits} %pq, %s0, %s1, !%pq;\n@%pq add.u32 %d, %d, 16;\n"
                );
                check(&text, &types, &rows, |r| {
                    let of = |v: u64| match *kind {
                        "s" => i128::from(signed(v, bits)),
                        _ => i128::from(cut(v, bits)),
                    };
                    let p = holds(of(r[0]), of(r[1]));
                    // what stands beside p is q = !p: p | q and !p | q; then p ^ !q
                    let words = [(true, 4), (p, 1), (!p, 2), (!p, 8)];
                    words.iter().map(|&(on, bit)| u64::from(on) * bit).sum()
                });
            }
        }
    }
}

fn f16(bits: u64) -> f32 {
    half::f16::from_bits(bits as u16).to_f32()
}

fn bf16(bits: u64) -> f32 {
    half::bf16::from_bits(bits as u16).to_f32()
}

/// NaN of either kind, denormals, zeros and infinities of both formats.
const HALVES: [u64; 17] = [
    0, 0x8000, 1, 0x8001, 0x3ff, 0x83ff, 0x3c00, 0x3c01, 0xbc00, 0x7bff, 0x7c00, 0xfc00, 0x7e00,
    0x7f80, 0xff80, 0x7f81, 0xffff,
];

#[test]
fn floats_of_every_width_are_compared() {
    type Holds = fn(f64, f64) -> bool;
    let compares: [(&str, Holds); 14] = [
        ("eq", |a, b| a == b),
        ("ne", |a, b| !a.is_nan() && !b.is_nan() && a != b),
        ("lt", |a, b| a < b),
        ("le", |a, b| a <= b),
        ("gt", |a, b| a > b),
        ("ge", |a, b| a >= b),
        ("equ", |a, b| a.is_nan() || b.is_nan() || a == b),
        ("neu", |a, b| a.is_nan() || b.is_nan() || a != b),
        ("ltu", |a, b| a.is_nan() || b.is_nan() || a < b),
        ("leu", |a, b| a.is_nan() || b.is_nan() || a <= b),
        ("gtu", |a, b| a.is_nan() || b.is_nan() || a > b),
        ("geu", |a, b| a.is_nan() || b.is_nan() || a >= b),
        ("num", |a, b| !a.is_nan() && !b.is_nan()),
        ("nan", |a, b| a.is_nan() || b.is_nan()),
    ];
    let doubles: Vec<u64> = f32_values()
        .iter()
        .take(52)
        .map(|v| f64::from(*v).to_bits())
        .chain([1, 1 << 63, f64::MAX.to_bits()])
        .collect();
    let flush = |x: f32| if x.is_subnormal() { 0.0 } else { x };
    let flush16 = |v: u64| if v & 0x7c00 == 0 { v & 0x8000 } else { v };
    for (name, holds) in compares {
        type Of<'a> = &'a dyn Fn(u64) -> f64;
        let of64 = |v: u64| f64::from_bits(v);
        let of32 = |v: u64| f64::from(f32_of(v));
        let of32z = |v: u64| f64::from(flush(f32_of(v)));
        let of16 = |v: u64| f64::from(f16(v));
        let of16z = |v: u64| f64::from(f16(flush16(v)));
        let brain = |v: u64| f64::from(bf16(v));
        for (ty, bytes, values, of) in [
            ("f64", 8, &doubles[..], &of64 as Of),
            ("f32", 4, &f32_bits()[..60], &of32),
            ("ftz.f32", 4, &f32_bits()[..60], &of32z),
            ("f16", 2, &HALVES, &of16),
            ("ftz.f16", 2, &HALVES, &of16z),
            ("bf16", 2, &HALVES, &brain),
        ] {
            let rows = pairs(values);
            let text = format!(
                "$setp.{name}.{ty} %pr|%pq, %s0, %s1;\nselp.b32 %d, 1, 2, %pr;\n@%pq add.u32 %d, %d, 4;\n"
            );
            check(&text, &[4, bytes, bytes], &rows, |r| {
                if holds(of(r[0]), of(r[1])) { 1 } else { 6 }
            });
            let (ftz, ty) = ty.split_once('.').map_or(("", ty), |(z, ty)| (z, ty));
            let ftz = if ftz.is_empty() {
                String::new()
            } else {
                format!(".{ftz}")
            };
            let results = [("u32", 0xffff_ffff), ("f32", 0x3f80_0000)];
            // halves have no f32 here
            for (d, yes) in results.into_iter().take(1 + usize::from(bytes > 2)) {
                let op = format!("set.{name}{ftz}.{d}.{ty}");
                check(&op, &[4, bytes, bytes], &rows, |r| {
                    if holds(of(r[0]), of(r[1])) { yes } else { 0 }
                });
            }
        }
        // two at a time
        let two: Vec<u64> = HALVES
            .iter()
            .zip(HALVES.iter().rev())
            .map(|(a, b)| a << 16 | b)
            .collect();
        for (ty, one, of) in [("f16x2", 0x3c00, &of16 as Of), ("bf16x2", 0x3f80, &brain)] {
            let each = |r: &[u64]| {
                let part = |i: u32| holds(of(r[0] >> i & 0xffff), of(r[1] >> i & 0xffff));
                (part(0), part(16))
            };
            let text = format!(
                "$setp.{name}.{ty} %pr|%pq, %s0, %s1;\nselp.b32 %d, 1, 0, %pr;\n@%pq add.u32 %d, %d, 2;\n"
            );
            check(&text, &[4, 4, 4], &pairs(&two), |r| {
                let (low, high) = each(r);
                u64::from(low) | u64::from(high) << 1
            });
            check(
                &format!("set.{name}.{ty}.{ty}"),
                &[4, 4, 4],
                &pairs(&two),
                |r| {
                    let (low, high) = each(r);
                    u64::from(low) * one | (u64::from(high) * one) << 16
                },
            );
        }
    }
}

#[test]
fn floats_are_told_by_their_kind() {
    let single: Vec<Vec<u64>> = f32_bits().iter().map(|&v| vec![v]).collect();
    let double: Vec<Vec<u64>> = f32_values()
        .iter()
        .map(|v| f64::from(*v).to_bits())
        .chain([
            1,
            1 << 63,
            f64::MIN_POSITIVE.to_bits() - 1,
            f64::MAX.to_bits(),
        ])
        .map(|v| vec![v])
        .collect();
    use std::num::FpCategory::*;
    for (name, kinds) in [
        ("finite", &[Zero, Subnormal, Normal][..]),
        ("infinite", &[Infinite]),
        ("number", &[Zero, Subnormal, Normal, Infinite]),
        ("notanumber", &[Nan]),
        ("normal", &[Normal]),
        ("subnormal", &[Subnormal]),
    ] {
        let text = |ty: &str| format!("$testp.{name}.{ty} %pr, %s0;\nselp.b32 %d, 1, 0, %pr;\n");
        check(&text("f32"), &[4, 4], &single, |r| {
            u64::from(kinds.contains(&f32_of(r[0]).classify()))
        });
        check(&text("f64"), &[4, 8], &double, |r| {
            u64::from(kinds.contains(&f64::from_bits(r[0]).classify()))
        });
    }
}

#[test]
fn choices_follow_a_predicate_or_a_sign() {
    let rows = triples(&integers());
    for (ty, bits) in [
        ("b16", 16),
        ("u16", 16),
        ("s16", 16),
        ("b32", 32),
        ("u32", 32),
        ("s32", 32),
        ("f32", 32),
        ("b64", 64),
        ("u64", 64),
        ("s64", 64),
        ("f64", 64),
    ] {
        let bytes = bits as usize / 8;
        for negated in [false, true] {
            let not = if negated { "!" } else { "" };
            let text = format!("$setp.lt.s32 %pr, %s2, 0;\nselp.{ty} %d, %s0, %s1, {not}%pr;\n");
            check(&text, &[bytes, bytes, bytes, 4], &rows, |r| {
                let first = ((r[2] as i32) < 0) != negated;
                cut(if first { r[0] } else { r[1] }, bits)
            });
        }
        check(
            &format!("slct.{ty}.s32"),
            &[bytes, bytes, bytes, 4],
            &rows,
            |r| cut(if r[2] as i32 >= 0 { r[0] } else { r[1] }, bits),
        );
        // NaN chooses the second one, -0 the first, a denormal is flushed to a zero of its sign
        let floats: Vec<Vec<u64>> = f32_bits()
            .iter()
            .map(|&c| vec![0x1234_5678_9abc_def0, !7, c])
            .collect();
        for (ftz, flushed) in [("", false), (".ftz", true)] {
            let op = format!("slct{ftz}.{ty}.f32");
            check(&op, &[bytes, bytes, bytes, 4], &floats, |r| {
                let c = f32_of(r[2]);
                let first = c >= 0.0 || flushed && c.is_subnormal();
                cut(if first { r[0] } else { r[1] }, bits)
            });
        }
    }
}

#[test]
fn bits_are_combined() {
    let rows = pairs(&integers());
    for bits in [16, 32, 64] {
        let bytes = bits as usize / 8;
        for (op, f) in [
            ("and", (|a, b| a & b) as fn(u64, u64) -> u64),
            ("or", |a, b| a | b),
            ("xor", |a, b| a ^ b),
        ] {
            check(&format!("{op}.b{bits}"), &[bytes; 3], &rows, |r| {
                cut(f(r[0], r[1]), bits)
            });
        }
        check(&format!("not.b{bits}"), &[bytes; 2], &rows, |r| {
            cut(!r[0], bits)
        });
        check(&format!("cnot.b{bits}"), &[bytes; 2], &rows, |r| {
            u64::from(cut(r[0], bits) == 0)
        });
    }
    // of predicates, either of them negated
    for (op, f) in [
        ("and", (|a, b| a & b) as fn(bool, bool) -> bool),
        ("or", |a, b| a | b),
        ("xor", |a, b| a ^ b),
    ] {
        for (first, second) in [("", ""), ("!", ""), ("", "!"), ("!", "!")] {
            let text = format!(
                "$setp.lt.s32 %pr, %s0, 0;\nsetp.lt.s32 %pq, %s1, 0;\n{op}.pred %pr, {first}%pr, {second}%pq;\n\
                 not.pred %pq, %pr;\nselp.b32 %d, 1, 0, %pr;\n@%pq add.u32 %d, %d, 2;\n"
            );
            check(&text, &[4, 4, 4], &rows, |r| {
                let of = |v: u64, not: &str| ((v as i32) < 0) == not.is_empty();
                if f(of(r[0], first), of(r[1], second)) {
                    1
                } else {
                    2
                }
            });
        }
    }
    // every table of three inputs, against the manual's way to look it up
    let three: Vec<Vec<u64>> = triples(&integers()).into_iter().step_by(11).collect();
    for table in 0..256u64 {
        let text = format!("$lop3.b32 %d, %s0, %s1, %s2, {table};\n");
        check(&text, &[4; 4], &three, |r| {
            (0..32).fold(0, |d, i| {
                let bit = |v: u64| v >> i & 1;
                d | (table >> (bit(r[0]) << 2 | bit(r[1]) << 1 | bit(r[2])) & 1) << i
            })
        });
    }
}

#[test]
fn registers_are_packed_and_taken_apart() {
    let rows = pairs(&integers());
    check("$mov.b64 %d, {%s0, %s1};\n", &[8, 4, 4], &rows, |r| {
        cut(r[0], 32) | r[1] << 32
    });
    check("$mov.b32 %d, {%s0, %s1};\n", &[4, 2, 2], &rows, |r| {
        cut(r[0], 16) | cut(r[1], 16) << 16
    });
    let text = "${ .reg .b16 %h<4>;\nmov.b64 {%h0, %h1, %h2, %h3}, %s0;\nmov.b64 %d, {%h3, %h0, %h2, %h1};\n}\n";
    check(text, &[8, 8], &rows, |r| {
        let part = |i: u32| cut(r[0] >> (16 * i), 16);
        part(3) | part(0) << 16 | part(2) << 32 | part(1) << 48
    });
    let text = "${ .reg .b32 %low, %high;\nmov.b64 {%low, %high}, %s0;\nmov.b64 {_, %high}, %s1;\n\
                xor.b32 %d, %low, %high;\n}\n";
    check(text, &[4, 8, 8], &rows, |r| cut(r[0], 32) ^ r[1] >> 32);
    let text =
        "${ .reg .b16 %low, %high;\nmov.b32 {%low, %high}, %s0;\nmov.b32 %d, {%high, %low};\n}\n";
    check(text, &[4, 4], &rows, |r| {
        (r[0] as u32).rotate_left(16).into()
    });
    for (ty, bytes) in [
        ("b16", 2),
        ("u32", 4),
        ("s32", 4),
        ("f32", 4),
        ("b64", 8),
        ("f64", 8),
    ] {
        check(&format!("mov.{ty}"), &[bytes, bytes], &rows, |r| {
            cut(r[0], 8 * bytes as u32)
        });
    }
}
