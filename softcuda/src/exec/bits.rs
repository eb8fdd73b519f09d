//! From opcode and modifiers to the function that runs them: shifts, fields of bits, products of
//! parts of words.

use super::lanes::*;
use super::select::{Mods, Selected, binary, some, ternary, unary};
use crate::ptx::Type;
use Type::*;

pub(super) fn shift(op: &str, mods: &mut Mods) -> Option<Selected> {
    let ty = mods.ty()?;
    // amounts beyond the width shift everything out
    let run = match (op, ty) {
        ("shl", B16) => lanes!(u16, u32 => u16: |a, b| if b > 15 { 0 } else { a << b }),
        ("shl", B32) => lanes!(u32, u32 => u32: |a, b| if b > 31 { 0 } else { a << (b & 31) }),
        ("shl", B64) => lanes!(u64, u32 => u64: |a, b| if b > 63 { 0 } else { a << (b & 63) }),
        ("shr", B16 | U16) => lanes!(u16, u32 => u16: |a, b| if b > 15 { 0 } else { a >> b }),
        ("shr", B32 | U32) => {
            lanes!(u32, u32 => u32: |a, b| if b > 31 { 0 } else { a >> (b & 31) })
        }
        ("shr", B64 | U64) => {
            lanes!(u64, u32 => u64: |a, b| if b > 63 { 0 } else { a >> (b & 63) })
        }
        ("shr", S16) => lanes!(i16, u32 => i16: |a, b| a >> b.min(15)),
        ("shr", S32) => lanes!(i32, u32 => i32: |a, b| a >> b.min(31)),
        ("shr", S64) => lanes!(i64, u32 => i64: |a, b| a >> b.min(63)),
        _ => return None,
    };
    some(run, ty, &[ty, U32])
}

pub(super) fn bits(op: &str, mods: &mut Mods) -> Option<Selected> {
    match op {
        "shf" => {
            let (left, wrap) = (
                mods.one_of(&["l", "r"])? == "l",
                mods.one_of(&["wrap", "clamp"])? == "wrap",
            );
            if mods.ty()? != B32 {
                return None;
            }
            #[inline(always)]
            fn join(a: u32, b: u32) -> u64 {
                u64::from(a) | u64::from(b) << 32
            }
            let run = match (left, wrap) {
                (true, true) => lanes!(u32: |a, b, c| ((join(a, b) << (c & 31)) >> 32) as u32),
                (true, false) => lanes!(u32: |a, b, c| ((join(a, b) << c.min(32)) >> 32) as u32),
                (false, true) => lanes!(u32: |a, b, c| (join(a, b) >> (c & 31)) as u32),
                (false, false) => lanes!(u32: |a, b, c| (join(a, b) >> c.min(32)) as u32),
            };
            ternary(B32, run)
        }
        "popc" | "clz" => {
            let ty = mods.ty()?;
            let run = match (op, ty) {
                ("popc", B32) => lanes!(u32: |a| a.count_ones()),
                ("popc", B64) => lanes!(u64 => u32: |a| a.count_ones()),
                ("clz", B32) => lanes!(u32: |a| a.leading_zeros()),
                ("clz", B64) => lanes!(u64 => u32: |a| a.leading_zeros()),
                _ => return None,
            };
            some(run, U32, &[ty])
        }
        "brev" => match mods.ty()? {
            B32 => unary(B32, lanes!(u32: |a| a.reverse_bits())),
            B64 => unary(B64, lanes!(u64: |a| a.reverse_bits())),
            _ => None,
        },
        "bfind" => {
            let amount = mods.take("shiftamt");
            #[inline(always)]
            fn find(a: u64, width: u32, amount: bool) -> u32 {
                if a == 0 {
                    return u32::MAX;
                }
                let top = 63 - a.leading_zeros();
                if amount { width - 1 - top } else { top }
            }
            #[inline(always)]
            fn magnitude(a: i64) -> u64 {
                (if a < 0 { !a } else { a }) as u64
            }
            let ty = mods.ty()?;
            let run = match (ty, amount) {
                (U32, false) => lanes!(u32 => u32: |a| find(a.into(), 32, false)),
                (U32, true) => lanes!(u32 => u32: |a| find(a.into(), 32, true)),
                (S32, false) => lanes!(i32 => u32: |a| find(magnitude(a.into()), 32, false)),
                (S32, true) => lanes!(i32 => u32: |a| find(magnitude(a.into()), 32, true)),
                (U64, false) => lanes!(u64 => u32: |a| find(a, 64, false)),
                (U64, true) => lanes!(u64 => u32: |a| find(a, 64, true)),
                (S64, false) => lanes!(i64 => u32: |a| find(magnitude(a), 64, false)),
                (S64, true) => lanes!(i64 => u32: |a| find(magnitude(a), 64, true)),
                _ => return None,
            };
            some(run, U32, &[ty])
        }
        "bfe" => {
            #[inline(always)]
            fn extract(a: u64, pos: u32, len: u32, width: u32, signed: bool) -> u64 {
                let (pos, len) = (pos & 255, len & 255);
                let bit = |i: u32| if i < 64 { a >> i & 1 } else { 0 };
                let top = width - 1;
                let fill = if !signed || len == 0 {
                    0
                } else {
                    bit((pos + len - 1).min(top))
                };
                let field = if pos >= width { 0 } else { a >> pos };
                let have = len.min(width.saturating_sub(pos));
                let keep = if have >= 64 {
                    u64::MAX
                } else {
                    (1 << have) - 1
                };
                let ones = if fill == 1 { !keep } else { 0 };
                (field & keep) | ones
            }
            let ty = mods.ty()?;
            let run = match ty {
                U32 => lanes!(u32, u32, u32 => u32: |a, b, c| {
                    extract(a.into(), b, c, 32, false) as u32
                }),
                S32 => lanes!(u32, u32, u32 => u32: |a, b, c| {
                    extract(a.into(), b, c, 32, true) as u32
                }),
                U64 => lanes!(u64, u32, u32 => u64: |a, b, c| extract(a, b, c, 64, false)),
                S64 => lanes!(u64, u32, u32 => u64: |a, b, c| extract(a, b, c, 64, true)),
                _ => return None,
            };
            some(run, ty, &[ty, U32, U32])
        }
        "prmt" => {
            let mode = mods.one_of(&["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"]);
            if mods.ty()? != B32 {
                return None;
            }
            #[inline(always)]
            fn permute(a: u32, b: u32, c: u32) -> u32 {
                let all = u64::from(a) | u64::from(b) << 32;
                let mut r = 0;
                for i in 0..4 {
                    let pick = c >> (4 * i);
                    let byte = (all >> (8 * (pick & 7))) as u8;
                    let byte = if pick & 8 != 0 {
                        (byte as i8 >> 7) as u8
                    } else {
                        byte
                    };
                    r |= u32::from(byte) << (8 * i);
                }
                r
            }
            // the other modes choose by two bits of c, here the number of a byte of the result
            macro_rules! with {
                (|$n:ident, $i:ident| $byte:expr) => {
                    lanes!(u32: |a, b, c| {
                        let $n = c & 3;
                        permute(a, b, (0..4).fold(0, |picks, $i| picks | ($byte) << (4 * $i)))
                    })
                };
            }
            let run = match mode {
                None => lanes!(u32: |a, b, c| permute(a, b, c)),
                Some("f4e") => with!(|n, i| n + i),
                Some("b4e") => with!(|n, i| n.wrapping_sub(i) & 7),
                Some("rc8") => with!(|n, _i| n),
                Some("ecl") => with!(|n, i| n.max(i)),
                Some("ecr") => with!(|n, i| n.min(i)),
                Some(_) => with!(|n, i| (n & 1) << 1 | i & 1),
            };
            ternary(B32, run)
        }
        "bmsk" => {
            let wrap = mods.one_of(&["clamp", "wrap"])? == "wrap";
            if mods.ty()? != B32 {
                return None;
            }
            #[inline(always)]
            fn ones(pos: u32, len: u32) -> u32 {
                // bits beyond the word are cut off
                let above = u32::MAX.checked_shl(pos).unwrap_or(0);
                let beyond = u32::MAX.checked_shl(pos.saturating_add(len)).unwrap_or(0);
                above & !beyond
            }
            let run = if wrap {
                lanes!(u32: |a, b| ones(a & 31, b & 31))
            } else {
                lanes!(u32: |a, b| ones(a, b))
            };
            binary(B32, run)
        }
        "szext" => {
            let wrap = mods.one_of(&["clamp", "wrap"])? == "wrap";
            #[inline(always)]
            fn extend(a: u32, len: u32, signed: bool) -> u32 {
                match len {
                    0 => 0,
                    1..=31 if signed => (((a << (32 - len)) as i32) >> (32 - len)) as u32,
                    1..=31 => a & ((1 << len) - 1),
                    _ => a,
                }
            }
            let ty = mods.ty()?;
            let run = match (ty, wrap) {
                (U32, false) => lanes!(u32: |a, b| extend(a, b, false)),
                (U32, true) => lanes!(u32: |a, b| extend(a, b & 31, false)),
                (S32, false) => lanes!(u32: |a, b| extend(a, b, true)),
                (S32, true) => lanes!(u32: |a, b| extend(a, b & 31, true)),
                _ => return None,
            };
            some(run, ty, &[ty, U32])
        }
        "fns" => {
            if mods.ty()? != B32 {
                return None;
            }
            // the manual's loop: the offset-th set bit from the base on, upwards or downwards
            #[inline(always)]
            fn find(mask: u32, base: u32, offset: i32) -> u32 {
                let at = |i: i64| (0..32).contains(&i) && mask >> i & 1 == 1;
                let mut pos = i64::from(base);
                if offset == 0 {
                    return if at(pos) { base } else { u32::MAX };
                }
                let step = if offset > 0 { 1 } else { -1 };
                let mut left = i64::from(offset).abs() - 1;
                while (0..32).contains(&pos) {
                    if at(pos) {
                        if left == 0 {
                            return pos as u32;
                        }
                        left -= 1;
                    }
                    pos += step;
                }
                u32::MAX
            }
            some(
                lanes!(u32, u32, i32 => u32: |a, b, c| find(a, b, c)),
                B32,
                &[B32, U32, S32],
            )
        }
        _ => None,
    }
}

/// Products and differences of parts of words.
pub(super) fn products(op: &str, mods: &mut Mods) -> Option<Selected> {
    match op {
        "sad" => {
            let ty = mods.ty()?;
            let run = match ty {
                U16 => lanes!(u16: |a, b, c| a.abs_diff(b).wrapping_add(c)),
                S16 => lanes!(i16, i16, u16 => u16: |a, b, c| a.abs_diff(b).wrapping_add(c)),
                U32 => lanes!(u32: |a, b, c| a.abs_diff(b).wrapping_add(c)),
                S32 => lanes!(i32, i32, u32 => u32: |a, b, c| a.abs_diff(b).wrapping_add(c)),
                U64 => lanes!(u64: |a, b, c| a.abs_diff(b).wrapping_add(c)),
                S64 => lanes!(i64, i64, u64 => u64: |a, b, c| a.abs_diff(b).wrapping_add(c)),
                _ => return None,
            };
            ternary(ty, run)
        }
        "dp4a" => {
            let (tb, ta) = (mods.ty()?, mods.ty()?);
            #[inline(always)]
            fn dot(a: u32, b: u32, c: u32, sa: bool, sb: bool) -> u32 {
                let byte = |v: u32, i: u32, signed: bool| {
                    let byte = (v >> (8 * i)) as u8;
                    if signed {
                        i32::from(byte as i8)
                    } else {
                        i32::from(byte)
                    }
                };
                (0..4).fold(c, |sum, i| {
                    sum.wrapping_add((byte(a, i, sa) * byte(b, i, sb)) as u32)
                })
            }
            let run = match (ta, tb) {
                (U32, U32) => lanes!(u32: |a, b, c| dot(a, b, c, false, false)),
                (U32, S32) => lanes!(u32: |a, b, c| dot(a, b, c, false, true)),
                (S32, U32) => lanes!(u32: |a, b, c| dot(a, b, c, true, false)),
                (S32, S32) => lanes!(u32: |a, b, c| dot(a, b, c, true, true)),
                _ => return None,
            };
            ternary(B32, run)
        }
        "dp2a" => {
            let high = mods.one_of(&["lo", "hi"])? == "hi";
            let (tb, ta) = (mods.ty()?, mods.ty()?);
            #[inline(always)]
            fn dot(a: u32, b: u32, c: u32, sa: bool, sb: bool) -> u32 {
                (0..2).fold(c, |sum, i| {
                    let (half, byte) = ((a >> (16 * i)) as u16, (b >> (8 * i)) as u8);
                    let x = if sa {
                        i32::from(half as i16)
                    } else {
                        half.into()
                    };
                    let y = if sb {
                        i32::from(byte as i8)
                    } else {
                        byte.into()
                    };
                    sum.wrapping_add((x * y) as u32)
                })
            }
            let run = match (ta, tb, high) {
                (U32, U32, false) => lanes!(u32: |a, b, c| dot(a, b, c, false, false)),
                (U32, S32, false) => lanes!(u32: |a, b, c| dot(a, b, c, false, true)),
                (S32, U32, false) => lanes!(u32: |a, b, c| dot(a, b, c, true, false)),
                (S32, S32, false) => lanes!(u32: |a, b, c| dot(a, b, c, true, true)),
                (U32, U32, true) => lanes!(u32: |a, b, c| dot(a, b >> 16, c, false, false)),
                (U32, S32, true) => lanes!(u32: |a, b, c| dot(a, b >> 16, c, false, true)),
                (S32, U32, true) => lanes!(u32: |a, b, c| dot(a, b >> 16, c, true, false)),
                (S32, S32, true) => lanes!(u32: |a, b, c| dot(a, b >> 16, c, true, true)),
                _ => return None,
            };
            ternary(B32, run)
        }
        "mul24" | "mad24" => {
            let high = mods.one_of(&["lo", "hi"])? == "hi";
            let sat = mods.take("sat");
            let ty = mods.ty()?;
            // 24 bits of each operand, and 48 of the product
            #[inline(always)]
            fn unsigned(a: u32, b: u32) -> u64 {
                u64::from(a & 0xff_ffff) * u64::from(b & 0xff_ffff)
            }
            #[inline(always)]
            fn signed(a: i32, b: i32) -> i64 {
                i64::from(a << 8 >> 8) * i64::from(b << 8 >> 8)
            }
            if op == "mul24" {
                let run = match (ty, high) {
                    (U32, false) => lanes!(u32: |a, b| unsigned(a, b) as u32),
                    (U32, true) => lanes!(u32: |a, b| (unsigned(a, b) >> 16) as u32),
                    (S32, false) => lanes!(i32: |a, b| signed(a, b) as i32),
                    (S32, true) => lanes!(i32: |a, b| (signed(a, b) >> 16) as i32),
                    _ => return None,
                };
                return if sat { None } else { binary(ty, run) };
            }
            let run = match (ty, high, sat) {
                (U32, false, false) => {
                    lanes!(u32: |a, b, c| (unsigned(a, b) as u32).wrapping_add(c))
                }
                (U32, true, false) => {
                    lanes!(u32: |a, b, c| ((unsigned(a, b) >> 16) as u32).wrapping_add(c))
                }
                (S32, false, false) => {
                    lanes!(i32: |a, b, c| (signed(a, b) as i32).wrapping_add(c))
                }
                (S32, true, false) => {
                    lanes!(i32: |a, b, c| ((signed(a, b) >> 16) as i32).wrapping_add(c))
                }
                (S32, true, true) => {
                    lanes!(i32: |a, b, c| ((signed(a, b) >> 16) as i32).saturating_add(c))
                }
                _ => return None,
            };
            ternary(ty, run)
        }
        // of the video instructions, those that intrinsics become
        "vabsdiff2" | "vabsdiff4" => {
            let add = mods.take("add");
            if (0..3).any(|_| mods.ty() != Some(U32)) {
                return None;
            }
            #[inline(always)]
            fn parts(a: u32, b: u32, bits: u32) -> impl Iterator<Item = (u32, u32)> {
                let low = (1 << bits) - 1;
                (0..32 / bits).map(move |i| {
                    let shift = i * bits;
                    (shift, (a >> shift & low).abs_diff(b >> shift & low))
                })
            }
            let run = match (op, add) {
                ("vabsdiff4", false) => lanes!(u32: |a, b, _c| {
                    parts(a, b, 8).fold(0, |r, (shift, v)| r | v << shift)
                }),
                ("vabsdiff4", true) => lanes!(u32: |a, b, c| {
                    parts(a, b, 8).fold(c, |r, (_, v)| r.wrapping_add(v))
                }),
                (_, false) => lanes!(u32: |a, b, _c| {
                    parts(a, b, 16).fold(0, |r, (shift, v)| r | v << shift)
                }),
                _ => lanes!(u32: |a, b, c| {
                    parts(a, b, 16).fold(c, |r, (_, v)| r.wrapping_add(v))
                }),
            };
            ternary(B32, run)
        }
        _ => None,
    }
}
