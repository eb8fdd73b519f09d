//! Logic, choices, moves of bits.

use super::*;

pub(crate) fn logic(op: &str, mods: &mut Mods) -> Option<Selected> {
    let ty = mods.ty()?;
    let run = match (op, ty) {
        ("and", B16 | B32) => lanes!(u32: |a, b| a & b),
        ("or", B16 | B32) => lanes!(u32: |a, b| a | b),
        ("xor", B16 | B32) => lanes!(u32: |a, b| a ^ b),
        ("and", B64) => lanes!(u64: |a, b| a & b),
        ("or", B64) => lanes!(u64: |a, b| a | b),
        ("xor", B64) => lanes!(u64: |a, b| a ^ b),
        ("not", B16) => lanes!(u16: |a| !a),
        ("not", B32) => lanes!(u32: |a| !a),
        ("not", B64) => lanes!(u64: |a| !a),
        ("cnot", B16) => lanes!(u16: |a| u16::from(a == 0)),
        ("cnot", B32) => lanes!(u32: |a| u32::from(a == 0)),
        ("cnot", B64) => lanes!(u64: |a| u64::from(a == 0)),
        // predicates: the decoder hands over predicate numbers, negation is in x
        ("and", Pred) => lanes!(@ |regs, slots, mask| pred2(regs, slots, mask, |a, b| a & b)),
        ("or", Pred) => lanes!(@ |regs, slots, mask| pred2(regs, slots, mask, |a, b| a | b)),
        ("xor", Pred) => lanes!(@ |regs, slots, mask| pred2(regs, slots, mask, |a, b| a ^ b)),
        ("not", Pred) => lanes!(@ |regs, slots, mask| {
            let a = !pred(regs, slots.a, slots.x & 1);
            regs.put_pred(slots.d, a, mask);
        }),
        _ => return None,
    };
    if matches!(op, "not" | "cnot") {
        unary(ty, run)
    } else {
        binary(ty, run)
    }
}

#[inline(always)]
pub(crate) fn pred(regs: &Regs, slot: u16, negate: u32) -> u32 {
    regs.preds[slot as usize] ^ negate.wrapping_neg()
}

#[inline(always)]
pub(crate) fn pred2(regs: &mut Regs, slots: &Slots, mask: u32, f: impl Fn(u32, u32) -> u32) {
    let a = pred(regs, slots.a, slots.x & 1);
    let b = pred(regs, slots.b, slots.x >> 1 & 1);
    regs.put_pred(slots.d, f(a, b), mask);
}

/// `selp` by width: `d = c ? a : b`.
pub(crate) fn select_by_pred(wide: bool) -> LaneFn {
    if wide {
        lanes!(@ |regs, slots, mask| {
            let (a, b) = (u64::get(regs, slots.a), u64::get(regs, slots.b));
            let c = pred(regs, slots.c, slots.x & 1);
            let r = each(|i| if c & (1 << i) != 0 { a[i] } else { b[i] });
            u64::put(regs, slots.d, &r, mask);
        })
    } else {
        lanes!(@ |regs, slots, mask| {
            let (a, b) = (u32::get(regs, slots.a), u32::get(regs, slots.b));
            let c = pred(regs, slots.c, slots.x & 1);
            let r = each(|i| if c & (1 << i) != 0 { a[i] } else { b[i] });
            u32::put(regs, slots.d, &r, mask);
        })
    }
}

/// `slct`: `d = c >= 0 ? a : b`; `c` is s32 or f32.
pub(crate) fn select_by_sign(wide: bool, float: bool, ftz_: bool) -> LaneFn {
    match (wide, float, ftz_) {
        (false, false, _) => {
            lanes!(u32, u32, i32 => u32: |a, b, c| if c >= 0 { a } else { b })
        }
        (true, false, _) => lanes!(u64, u64, i32 => u64: |a, b, c| if c >= 0 { a } else { b }),
        (false, true, false) => {
            lanes!(u32, u32, f32 => u32: |a, b, c| if c >= 0.0 { a } else { b })
        }
        (false, true, true) => {
            lanes!(u32, u32, f32 => u32: |a, b, c| if ftz(c) >= 0.0 { a } else { b })
        }
        (true, true, false) => {
            lanes!(u64, u64, f32 => u64: |a, b, c| if c >= 0.0 { a } else { b })
        }
        (true, true, true) => {
            lanes!(u64, u64, f32 => u64: |a, b, c| if ftz(c) >= 0.0 { a } else { b })
        }
    }
}

/// `mov` by width.
pub(crate) fn copy(wide: bool) -> LaneFn {
    if wide {
        lanes!(u64: |a| a)
    } else {
        lanes!(u32: |a| a)
    }
}

/// `mov.b64 d, {a, b}` of 32-bit halves, and the reverse (`x` is the second result).
pub(crate) fn join64() -> LaneFn {
    lanes!(u32, u32 => u64: |a, b| u64::from(a) | u64::from(b) << 32)
}

/// `mov.b32 d, {a, b}` of 16-bit halves.
pub(crate) fn join32() -> LaneFn {
    lanes!(u32, u32 => u32: |a, b| a & 0xffff | b << 16)
}

/// Bits `x..x + 32` of a 64-bit register, and bits `x..x + 16` of a 32-bit one.
pub(crate) fn part64() -> LaneFn {
    lanes!(@ |regs, slots, mask| {
        let shift = slots.x;
        map1::<u64, u32>(regs, slots, mask, |a| (a >> shift) as u32)
    })
}

pub(crate) fn part32() -> LaneFn {
    lanes!(@ |regs, slots, mask| {
        let shift = slots.x;
        map1::<u32, u16>(regs, slots, mask, |a| (a >> shift) as u16)
    })
}

/// `d = a + x`, 64 bits, `x` signed: addresses from one space to another.
pub(crate) fn add_window() -> LaneFn {
    lanes!(u64: |a, b| a.wrapping_add(b))
}

/// `lop3.b32`: the table is in `x`.
pub(crate) fn lop3(table: u32) -> LaneFn {
    match table {
        // the usual ones without the sum over the table
        0xc0 => lanes!(u32: |a, b, _c| a & b),
        0x80 => lanes!(u32: |a, b, c| a & b & c),
        0xfe => lanes!(u32: |a, b, c| a | b | c),
        0x96 => lanes!(u32: |a, b, c| a ^ b ^ c),
        0xea => lanes!(u32: |a, b, c| (a & b) | c),
        0xf8 => lanes!(u32: |a, b, c| a | (b & c)),
        _ => lanes!(@ |regs, slots, mask| {
            let table = slots.x;
            map3::<u32, u32, u32, u32>(regs, slots, mask, |a, b, c| {
                let mut r = 0;
                for i in 0..8 {
                    let on = (table >> i & 1).wrapping_neg();
                    let x = if i & 4 != 0 { a } else { !a };
                    let y = if i & 2 != 0 { b } else { !b };
                    let z = if i & 1 != 0 { c } else { !c };
                    r |= on & x & y & z;
                }
                r
            })
        }),
    }
}

/// `bfi`: `d = c` with `len` bits of `a` at `pos`; the length comes through `x`, a row number.
pub(crate) fn insert_bits(wide: bool) -> LaneFn {
    macro_rules! with {
        ($t:ty, $width:expr) => {
            lanes!(@ |regs, slots, mask| {
                let (a, b) = (<$t>::get(regs, slots.a), <$t>::get(regs, slots.b));
                let (pos, len) = (u32::get(regs, slots.c), u32::get(regs, slots.x as u16));
                let r = each(|i| {
                    let (pos, len) = (pos[i] & 255, len[i] & 255);
                    if pos >= $width {
                        return b[i];
                    }
                    let have = len.min($width - pos);
                    let field = if have >= $width { <$t>::MAX } else { (1 << have) - 1 };
                    b[i] & !(field << pos) | (a[i] & field) << pos
                });
                <$t>::put(regs, slots.d, &r, mask);
            })
        };
    }
    if wide { with!(u64, 64) } else { with!(u32, 32) }
}
