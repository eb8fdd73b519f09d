//! Integer instructions against the host and the manual's definitions.

mod common;

use common::apply::*;

fn u(v: u64) -> u32 {
    v as u32
}

fn w(v: u32) -> u64 {
    u64::from(v)
}

#[test]
fn products_of_parts_of_words() {
    let (two, three) = (pairs(&integers()), triples(&integers()));
    for (ty, signed) in [("u32", false), ("s32", true)] {
        let part = |v: u64| -> i64 {
            let v = u(v) & 0xff_ffff;
            if signed && v >> 23 == 1 {
                i64::from(v) - (1 << 24)
            } else {
                v.into()
            }
        };
        let product = |r: &[u64]| part(r[0]) * part(r[1]);
        check(&format!("mul24.lo.{ty}"), &[4, 4, 4], &two, |r| {
            w(product(r) as u32)
        });
        check(&format!("mul24.hi.{ty}"), &[4, 4, 4], &two, |r| {
            w((product(r) >> 16) as u32)
        });
        check(&format!("mad24.lo.{ty}"), &[4, 4, 4, 4], &three, |r| {
            w((product(r) as u32).wrapping_add(u(r[2])))
        });
        check(&format!("mad24.hi.{ty}"), &[4, 4, 4, 4], &three, |r| {
            w(((product(r) >> 16) as u32).wrapping_add(u(r[2])))
        });
        let half = |v: u64, i: u32| -> i64 {
            let half = (v >> (16 * i)) as u16;
            if signed {
                i64::from(half as i16)
            } else {
                half.into()
            }
        };
        for (other, signed_b) in [("u32", false), ("s32", true)] {
            let byte = |v: u64, i: u32| -> i64 {
                let byte = (v >> (8 * i)) as u8;
                if signed_b {
                    i64::from(byte as i8)
                } else {
                    byte.into()
                }
            };
            for (mode, first) in [("lo", 0), ("hi", 2)] {
                let op = format!("dp2a.{mode}.{ty}.{other}");
                check(&op, &[4, 4, 4, 4], &three, |r| {
                    let sum: i64 = (0..2).map(|i| half(r[0], i) * byte(r[1], first + i)).sum();
                    w(sum.wrapping_add(r[2] as i64) as u32)
                });
            }
            let op = format!("dp4a.{ty}.{other}");
            check(&op, &[4, 4, 4, 4], &three, |r| {
                let a = |i: u32| {
                    let byte = (r[0] >> (8 * i)) as u8;
                    if signed {
                        i64::from(byte as i8)
                    } else {
                        byte.into()
                    }
                };
                let sum: i64 = (0..4).map(|i| a(i) * byte(r[1], i)).sum();
                w(sum.wrapping_add(r[2] as i64) as u32)
            });
        }
    }
    check("mad24.hi.sat.s32", &[4, 4, 4, 4], &three, |r| {
        let part = |v: u64| i64::from((v as i32) << 8 >> 8);
        let sum = (part(r[0]) * part(r[1]) >> 16) + i64::from(r[2] as i32);
        w(sum.clamp(i32::MIN.into(), i32::MAX.into()) as u32)
    });
    check("mad.hi.sat.s32", &[4, 4, 4, 4], &three, |r| {
        let high = i64::from(r[0] as i32) * i64::from(r[1] as i32) >> 32;
        let sum = high + i64::from(r[2] as i32);
        w(sum.clamp(i32::MIN.into(), i32::MAX.into()) as u32)
    });
    for (bits, name) in [(8u32, "vabsdiff4"), (16, "vabsdiff2")] {
        let part = |v: u64, i: u32| u(v) >> (bits * i) & ((1 << bits) - 1);
        let parts = 32 / bits;
        let op = format!("{name}.u32.u32.u32");
        check(&op, &[4, 4, 4, 4], &three, |r| {
            (0..parts).fold(0, |d, i| {
                d | w(part(r[0], i).abs_diff(part(r[1], i))) << (bits * i)
            })
        });
        let op = format!("{name}.u32.u32.u32.add");
        check(&op, &[4, 4, 4, 4], &three, |r| {
            let sum: u32 = (0..parts)
                .map(|i| part(r[0], i).abs_diff(part(r[1], i)))
                .sum();
            w(sum.wrapping_add(u(r[2])))
        });
    }
}

#[test]
fn carries_run_through_products() {
    // the manual's product of two 64-bit numbers in words of 32 bits
    let text = "$.reg .b32 %al, %ah, %bl, %bh, %r0, %r1, %r2, %r3;\n\
        mov.b64 {%al, %ah}, %s0;\nmov.b64 {%bl, %bh}, %s1;\n\
        mul.lo.u32 %r0, %al, %bl;\nmul.hi.u32 %r1, %al, %bl;\n\
        mad.lo.cc.u32 %r1, %ah, %bl, %r1;\nmadc.hi.u32 %r2, %ah, %bl, 0;\n\
        mad.lo.cc.u32 %r1, %al, %bh, %r1;\nmadc.hi.cc.u32 %r2, %al, %bh, %r2;\n\
        addc.u32 %r3, 0, 0;\n\
        mad.lo.cc.u32 %r2, %ah, %bh, %r2;\nmadc.hi.u32 %r3, %ah, %bh, %r3;\n\
        mov.b64 %d, {%r2, %r3};\n";
    check(text, &[8, 8, 8], &pairs(&integers()), |r| {
        (u128::from(r[0]) * u128::from(r[1]) >> 64) as u64
    });
    // a carry in and out of 64 bits, and the sign of a high half
    let text =
        "$add.cc.u64 %bb, %s0, %s1;\nmadc.lo.cc.u64 %bb, %s0, %s1, %s2;\naddc.u64 %d, 0, 0;\n";
    check(text, &[8, 8, 8, 8], &triples(&integers()), |r| {
        let carry = u64::from(r[0].checked_add(r[1]).is_none());
        let sum = u128::from(r[0].wrapping_mul(r[1])) + u128::from(r[2]) + u128::from(carry);
        (sum >> 64) as u64
    });
    check("madc.hi.s32", &[4, 4, 4, 4], &triples(&integers()), |r| {
        // no carry is set at the start of a kernel
        let high = (i64::from(r[0] as i32) * i64::from(r[1] as i32) >> 32) as u32;
        w(high.wrapping_add(u(r[2])))
    });
}

#[test]
fn masks_extensions_and_set_bits_follow_the_manual() {
    let small: Vec<u64> = (0..40)
        .chain([63, 64, 255, 256, 0x8000_0000, 0xffff_ffff])
        .collect();
    for wrap in [false, true] {
        let mode = if wrap { "wrap" } else { "clamp" };
        check(
            &format!("bmsk.{mode}.b32"),
            &[4, 4, 4],
            &pairs(&small),
            |r| {
                let (a, b) = if wrap {
                    (r[0] & 31, r[1] & 31)
                } else {
                    (r[0], r[1])
                };
                // bit by bit
                (0..32).fold(0, |d, i| d | u64::from(i >= a && i < a + b) << i)
            },
        );
        for signed in [false, true] {
            let op = format!("szext.{mode}.{}", if signed { "s32" } else { "u32" });
            let rows: Vec<Vec<u64>> = integers()
                .iter()
                .flat_map(|&a| small.iter().map(move |&b| vec![a, b]))
                .collect();
            check(&op, &[4, 4, 4], &rows, |r| {
                let n = if wrap { r[1] & 31 } else { r[1].min(32) };
                (0..32).fold(0, |d, i| {
                    let from = if i < n {
                        Some(i)
                    } else if signed && n > 0 {
                        Some(n - 1)
                    } else {
                        None
                    };
                    d | from.map_or(0, |from| r[0] >> from & 1) << i
                })
            });
        }
    }
    let mut rows = Vec::new();
    for &mask in &integers() {
        for base in [0u64, 1, 7, 31] {
            for offset in -34i32..=34 {
                rows.push(vec![mask, base, u64::from(offset as u32)]);
            }
        }
    }
    check("fns.b32", &[4, 4, 4, 4], &rows, |r| {
        let (mask, base, offset) = (u(r[0]), u(r[1]), r[2] as u32 as i32);
        let set = |i: &u32| mask >> i & 1 == 1;
        let found = match offset {
            0 => Some(base).filter(set),
            1.. => (base..32).filter(set).nth(offset as usize - 1),
            _ => (0..=base)
                .rev()
                .filter(set)
                .nth(offset.unsigned_abs() as usize - 1),
        };
        w(found.unwrap_or(u32::MAX))
    });
    let single: Vec<Vec<u64>> = integers().iter().map(|&v| vec![v]).collect();
    check("bfind.shiftamt.u64", &[4, 8], &single, |r| match r[0] {
        0 => 0xffff_ffff,
        v => v.leading_zeros().into(),
    });
    check("cnot.b32", &[4, 4], &single, |r| u64::from(u(r[0]) == 0));
    check("not.b64", &[8, 8], &single, |r| !r[0]);
    check("brev.b64", &[8, 8], &single, |r| r[0].reverse_bits());
    check("abs.s32", &[4, 4], &single, |r| {
        w((r[0] as i32).wrapping_abs() as u32)
    });
    check("neg.s64", &[8, 8], &single, |r| {
        (r[0] as i64).wrapping_neg() as u64
    });
}

#[test]
fn pairs_of_16_bits_are_added_and_compared_apart() {
    let two = pairs(&integers());
    let each = |r: &[u64], f: &dyn Fn(u16, u16) -> u16| {
        let half = |v: u64, i: u32| (v >> (16 * i)) as u16;
        (0..2).fold(0, |d, i| {
            d | u64::from(f(half(r[0], i), half(r[1], i))) << (16 * i)
        })
    };
    let signed =
        |f: &'static dyn Fn(i16, i16) -> i16| move |a: u16, b: u16| f(a as i16, b as i16) as u16;
    type Half = Box<dyn Fn(u16, u16) -> u16>;
    let ops: [(&str, Half); 8] = [
        ("add.u16x2", Box::new(u16::wrapping_add)),
        ("add.s16x2", Box::new(u16::wrapping_add)),
        ("min.u16x2", Box::new(|a, b| a.min(b))),
        ("max.u16x2", Box::new(|a, b| a.max(b))),
        ("min.s16x2", Box::new(signed(&|a, b| a.min(b)))),
        ("max.s16x2", Box::new(signed(&|a, b| a.max(b)))),
        // the toolkit's headers write the suffix behind the type
        ("min.s16x2.relu", Box::new(signed(&|a, b| a.min(b).max(0)))),
        ("max.relu.s16x2", Box::new(signed(&|a, b| a.max(b).max(0)))),
    ];
    for (op, f) in &ops {
        check(op, &[4, 4, 4], &two, |r| each(r, f));
    }
    check("max.s32.relu", &[4, 4, 4], &two, |r| {
        w((r[0] as i32).max(r[1] as i32).max(0) as u32)
    });
    check("min.relu.s32", &[4, 4, 4], &two, |r| {
        w((r[0] as i32).min(r[1] as i32).max(0) as u32)
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

/// The low `bits` of a number, and the same read as a signed one.
fn low(v: u64, bits: u32) -> u64 {
    v & (u64::MAX >> (64 - bits))
}

fn whole(v: u64, bits: u32, is_signed: bool) -> i128 {
    if is_signed {
        i128::from((v << (64 - bits)) as i64 >> (64 - bits))
    } else {
        low(v, bits).into()
    }
}

const WIDTHS: [(&str, u32, bool); 6] = [
    ("u16", 16, false),
    ("s16", 16, true),
    ("u32", 32, false),
    ("s32", 32, true),
    ("u64", 64, false),
    ("s64", 64, true),
];

/// Sums, products, quotients and extremes of every width, in wider integers.
#[test]
fn integers_of_every_width_are_computed_with() {
    let (two, three) = (pairs(&integers()), triples(&integers()));
    for (ty, bits, is_signed) in WIDTHS {
        let bytes = bits as usize / 8;
        let of = |v: u64| whole(v, bits, is_signed);
        let cut = |v: i128| low(v as u64, bits);
        type Two = fn(i128, i128) -> i128;
        let rest: Two = |a, b| if b == 0 { a } else { a % b };
        let quotient: Two = |a, b| if b == 0 { -1 } else { a / b };
        let operations: [(&str, Two); 7] = [
            ("add", |a, b| a + b),
            ("sub", |a, b| a - b),
            ("mul.lo", |a, b| a.wrapping_mul(b)),
            ("div", quotient),
            ("rem", rest),
            ("min", i128::min),
            ("max", i128::max),
        ];
        for (op, f) in operations {
            check(&format!("{op}.{ty}"), &[bytes; 3], &two, |r| {
                cut(f(of(r[0]), of(r[1])))
            });
        }
        // products of unsigned numbers of 64 bits need all 128
        let high = |a: u64, b: u64| -> i128 {
            if is_signed {
                of(a) * of(b) >> bits
            } else {
                (u128::from(low(a, bits)) * u128::from(low(b, bits)) >> bits) as i128
            }
        };
        check(&format!("mul.hi.{ty}"), &[bytes; 3], &two, |r| {
            cut(high(r[0], r[1]))
        });
        check(&format!("mad.lo.{ty}"), &[bytes; 4], &three, |r| {
            cut(of(r[0]).wrapping_mul(of(r[1])).wrapping_add(of(r[2])))
        });
        if bits > 16 {
            check(&format!("mad.hi.{ty}"), &[bytes; 4], &three, |r| {
                cut(high(r[0], r[1]) + of(r[2]))
            });
        }
        if bits < 64 {
            let wide = &[2 * bytes, bytes, bytes, 2 * bytes];
            check(&format!("mul.wide.{ty}"), &wide[..3], &two, |r| {
                low((of(r[0]) * of(r[1])) as u64, 2 * bits)
            });
            check(&format!("mad.wide.{ty}"), wide, &three, |r| {
                low((of(r[0]) * of(r[1]) + i128::from(r[2])) as u64, 2 * bits)
            });
            check(&format!("sad.{ty}"), &[bytes; 4], &three, |r| {
                cut((of(r[0]) - of(r[1])).abs() + of(r[2]))
            });
        }
        if is_signed {
            check(&format!("abs.{ty}"), &[bytes; 2], &two, |r| {
                cut(of(r[0]).abs())
            });
            check(&format!("neg.{ty}"), &[bytes; 2], &two, |r| cut(-of(r[0])));
        }
        let by: Vec<Vec<u64>> = two.iter().map(|r| vec![r[0], r[1]]).collect();
        check(&format!("shr.{ty}"), &[bytes, bytes, 4], &by, |r| {
            cut(of(r[0]) >> (r[1] as u32).min(bits))
        });
        check(&format!("shl.b{bits}"), &[bytes, bytes, 4], &by, |r| {
            let by = r[1] as u32;
            if by >= bits { 0 } else { low(r[0] << by, bits) }
        });
    }
    check("sub.sat.s32", &[4, 4, 4], &two, |r| {
        w((r[0] as i32).saturating_sub(r[1] as i32) as u32)
    });
}

#[test]
fn bits_of_words_of_both_widths_are_found_and_moved() {
    let (two, three) = (pairs(&integers()), triples(&integers()));
    for bits in [32u32, 64] {
        let bytes = bits as usize / 8;
        check(&format!("popc.b{bits}"), &[4, bytes], &two, |r| {
            w(low(r[0], bits).count_ones())
        });
        check(&format!("clz.b{bits}"), &[4, bytes], &two, |r| {
            w(low(r[0], bits).leading_zeros() - (64 - bits))
        });
        check(&format!("brev.b{bits}"), &[bytes, bytes], &two, |r| {
            low(r[0].reverse_bits() >> (64 - bits), bits)
        });
        for is_signed in [false, true] {
            let ty = format!("{}{bits}", if is_signed { "s" } else { "u" });
            for shift in [false, true] {
                let op = format!("bfind{}.{ty}", if shift { ".shiftamt" } else { "" });
                check(&op, &[4, bytes], &two, |r| {
                    let v = whole(r[0], bits, is_signed);
                    // the highest bit that is unlike the sign
                    let v = low(if v < 0 { !v } else { v } as u64, bits);
                    match v {
                        0 => 0xffff_ffff,
                        v if shift => w(bits - 1 - v.ilog2()),
                        v => w(v.ilog2()),
                    }
                });
            }
            // the manual's loop, bit by bit
            check(&format!("bfe.{ty}"), &[bytes, bytes, 4, 4], &three, |r| {
                let (pos, len) = ((r[1] & 255) as u32, (r[2] & 255) as u32);
                let sign = if is_signed && len > 0 {
                    r[0] >> (pos + len - 1).min(bits - 1) & 1
                } else {
                    0
                };
                (0..bits).fold(0, |d, i| {
                    let bit = if i < len && pos + i < bits {
                        r[0] >> (pos + i) & 1
                    } else {
                        sign
                    };
                    d | bit << i
                })
            });
        }
        for len in [0, 1, 7, 32, 64, 255] {
            let text = format!("$bfi.b{bits} %d, %s0, %s1, %s2, {len};\n");
            check(&text, &[bytes, bytes, bytes, 4], &three, |r| {
                let pos = (r[2] & 255) as u32;
                (0..bits).fold(0, |d, i| {
                    let inside = i >= pos && i < pos + len;
                    let bit = if inside { r[0] >> (i - pos) } else { r[1] >> i };
                    d | (bit & 1) << i
                })
            });
        }
    }
    for (mode, most) in [("wrap", 31), ("clamp", 32)] {
        let by = move |v: u64| {
            if most == 31 {
                v as u32 & 31
            } else {
                (v as u32).min(32)
            }
        };
        let both = |r: &[u64]| low(r[0], 32) | r[1] << 32;
        check(&format!("shf.l.{mode}.b32"), &[4; 4], &three, |r| {
            let shifted = u128::from(both(r)) << by(r[2]);
            w((shifted >> 32) as u32)
        });
        check(&format!("shf.r.{mode}.b32"), &[4; 4], &three, |r| {
            w((u128::from(both(r)) >> by(r[2])) as u32)
        });
    }
    // the modes of prmt, by the manual's tables
    for (mode, table) in [
        (
            "f4e",
            [[3, 2, 1, 0], [4, 3, 2, 1], [5, 4, 3, 2], [6, 5, 4, 3]],
        ),
        (
            "b4e",
            [[5, 6, 7, 0], [6, 7, 0, 1], [7, 0, 1, 2], [0, 1, 2, 3]],
        ),
        ("rc8", [[0; 4], [1; 4], [2; 4], [3; 4]]),
        ("ecl", [[3, 2, 1, 0], [3, 2, 1, 1], [3, 2, 2, 2], [3; 4]]),
        ("ecr", [[0; 4], [1, 1, 1, 0], [2, 2, 1, 0], [3, 2, 1, 0]]),
        (
            "rc16",
            [[1, 0, 1, 0], [3, 2, 3, 2], [1, 0, 1, 0], [3, 2, 3, 2]],
        ),
    ] {
        check(&format!("prmt.b32.{mode}"), &[4; 4], &three, |r| {
            let bytes = (low(r[0], 32) | r[1] << 32).to_le_bytes();
            // tables are written from the highest byte to the lowest
            let picks: [usize; 4] = table[(r[2] & 3) as usize];
            let d = picks.map(|i| bytes[i]);
            w(u32::from_be_bytes(d))
        });
    }
}

#[test]
fn carries_are_taken_and_given() {
    // a sum of three parts: the middle one takes a carry and gives one
    for bits in [32u32, 64] {
        let bytes = bits as usize / 8;
        for (op, subtract) in [("add", false), ("sub", true)] {
            for ty in ["u", "s"] {
                let text = format!(
                    "${{ .reg .b{bits} %low, %middle;\n{op}.cc.{ty}{bits} %low, %s0, %s1;\n\
                     {op}c.cc.{ty}{bits} %middle, %s1, %s2;\n{op}c.{ty}{bits} %d, %s2, %s0;\n\
                     xor.b{bits} %d, %d, %middle;\n}}\n"
                );
                check(&text, &[bytes; 4], &triples(&integers()), |r| {
                    let part = |i: usize| u128::from(low(r[i], bits));
                    let (mut carry, mut words) = (0, [0; 3]);
                    for (word, (a, b)) in words.iter_mut().zip([(0, 1), (1, 2), (2, 0)]) {
                        let (a, b) = (part(a), part(b) + carry);
                        let wide = if subtract { a.wrapping_sub(b) } else { a + b };
                        carry = wide >> bits & 1;
                        *word = low(wide as u64, bits);
                    }
                    words[1] ^ words[2]
                });
            }
        }
    }
}
