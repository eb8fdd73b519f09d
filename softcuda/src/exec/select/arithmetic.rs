//! Sums and products, fused and with carries.

use super::*;

pub(crate) fn add_sub_mul(op: &str, mods: &mut Mods) -> Option<Selected> {
    if op == "add" && mods.one_of(&["u16x2", "s16x2"]).is_some() {
        return binary(B32, lanes!(u32: |a, b| each2(a, b, u16::wrapping_add)));
    }
    let ty = mods.ty()?;
    match ty {
        F32 => {
            let (ftz_, sat_) = (mods.take("ftz"), mods.take("sat"));
            let mode = mods.round().unwrap_or(Round::Rn);
            let run = match (op, mode) {
                ("add", Round::Rn) => f32_op!(ftz_, sat_, |a, b| a + b),
                ("sub", Round::Rn) => f32_op!(ftz_, sat_, |a, b| a - b),
                ("mul", Round::Rn) => f32_op!(ftz_, sat_, |a, b| a * b),
                (_, Round::Rna) => return None,
                ("add", Round::Rm) => {
                    f32_directed!(mode, ftz_, sat_, |a, b| zero_sum(add_odd(a, b), a, b, true))
                }
                ("sub", Round::Rm) => f32_directed!(mode, ftz_, sat_, |a, b| zero_sum(
                    add_odd(a, -b),
                    a,
                    -b,
                    true
                )),
                ("add", _) => f32_directed!(mode, ftz_, sat_, |a, b| add_odd(a, b)),
                ("sub", _) => f32_directed!(mode, ftz_, sat_, |a, b| add_odd(a, -b)),
                _ => f32_directed!(mode, ftz_, sat_, |a, b| a * b),
            };
            binary(F32, run)
        }
        F64 => {
            let mode = mods.round().unwrap_or(Round::Rn);
            macro_rules! with {
                ($m:expr) => {
                    match op {
                        "add" => lanes!(f64: |a, b| add64(a, b, $m)),
                        "sub" => lanes!(f64: |a, b| add64(a, -b, $m)),
                        _ => lanes!(f64: |a, b| mul64(a, b, $m)),
                    }
                };
            }
            let run = match (op, mode) {
                ("add", Round::Rn) => lanes!(f64: |a, b| a + b),
                ("sub", Round::Rn) => lanes!(f64: |a, b| a - b),
                ("mul", Round::Rn) => lanes!(f64: |a, b| a * b),
                (_, Round::Rz) => with!(Round::Rz),
                (_, Round::Rm) => with!(Round::Rm),
                (_, Round::Rp) => with!(Round::Rp),
                _ => return None,
            };
            binary(F64, run)
        }
        F16 | F16x2 | Bf16 | Bf16x2 => {
            let (rn, ftz_, sat_) = (mods.take("rn"), mods.take("ftz"), mods.take("sat"));
            let _ = rn;
            if matches!(ty, Bf16 | Bf16x2) && (ftz_ || sat_) {
                return None;
            }
            macro_rules! half {
                ($f:ident) => {
                    match (ty, ftz_, sat_) {
                        (F16, false, false) => lanes!(u16: |a, b| $f(a, b)),
                        (F16, true, false) => {
                            lanes!(u16: |a, b| ftz16($f(ftz16(a), ftz16(b))))
                        }
                        (F16, false, true) => lanes!(u16: |a, b| h_sat($f(a, b))),
                        (F16, true, true) => {
                            lanes!(u16: |a, b| h_sat(ftz16($f(ftz16(a), ftz16(b)))))
                        }
                        (_, false, false) => lanes!(u32: |a, b| each2(a, b, $f)),
                        (_, true, false) => {
                            lanes!(u32: |a, b| each2(a, b, |a, b| ftz16($f(ftz16(a), ftz16(b)))))
                        }
                        (_, false, true) => {
                            lanes!(u32: |a, b| each2(a, b, |a, b| h_sat($f(a, b))))
                        }
                        (_, true, true) => lanes!(u32: |a, b| each2(a, b, |a, b| h_sat(ftz16(
                            $f(ftz16(a), ftz16(b))
                        )))),
                    }
                };
            }
            #[inline(always)]
            fn h_add(a: u16, b: u16) -> u16 {
                h_op(a, b, |a, b| a + b)
            }
            #[inline(always)]
            fn h_sub(a: u16, b: u16) -> u16 {
                h_op(a, b, |a, b| a - b)
            }
            #[inline(always)]
            fn h_mul(a: u16, b: u16) -> u16 {
                h_op(a, b, |a, b| a * b)
            }
            #[inline(always)]
            fn b_add(a: u16, b: u16) -> u16 {
                b_op(a, b, |a, b| a + b)
            }
            #[inline(always)]
            fn b_sub(a: u16, b: u16) -> u16 {
                b_op(a, b, |a, b| a - b)
            }
            let run = match (op, ty) {
                ("add", F16 | F16x2) => half!(h_add),
                ("sub", F16 | F16x2) => half!(h_sub),
                ("mul", F16 | F16x2) => half!(h_mul),
                ("add", Bf16) => lanes!(u16: |a, b| b_add(a, b)),
                ("sub", Bf16) => lanes!(u16: |a, b| b_sub(a, b)),
                ("mul", Bf16) => lanes!(u16: |a, b| b_mul(a, b)),
                ("add", _) => lanes!(u32: |a, b| each2(a, b, b_add)),
                ("sub", _) => lanes!(u32: |a, b| each2(a, b, b_sub)),
                _ => lanes!(u32: |a, b| each2(a, b, b_mul)),
            };
            binary(ty, run)
        }
        _ if op == "mul" => {
            let part = mods.one_of(&["lo", "hi", "wide"])?;
            let run = match (part, ty) {
                ("lo", U16 | S16) => lanes!(u16: |a, b| a.wrapping_mul(b)),
                ("lo", U32 | S32) => lanes!(u32: |a, b| a.wrapping_mul(b)),
                ("lo", U64 | S64) => lanes!(u64: |a, b| a.wrapping_mul(b)),
                ("hi", U16) => lanes!(u16: |a, b| (u32::from(a) * u32::from(b) >> 16) as u16),
                ("hi", S16) => lanes!(i16: |a, b| (i32::from(a) * i32::from(b) >> 16) as i16),
                ("hi", U32) => lanes!(u32: |a, b| (u64::from(a) * u64::from(b) >> 32) as u32),
                ("hi", S32) => lanes!(i32: |a, b| (i64::from(a) * i64::from(b) >> 32) as i32),
                ("hi", U64) => lanes!(u64: |a, b| (u128::from(a) * u128::from(b) >> 64) as u64),
                ("hi", S64) => lanes!(i64: |a, b| (i128::from(a) * i128::from(b) >> 64) as i64),
                ("wide", U16) => {
                    return some(
                        lanes!(u16, u16 => u32: |a, b| u32::from(a) * u32::from(b)),
                        U32,
                        &[ty, ty],
                    );
                }
                ("wide", S16) => {
                    return some(
                        lanes!(i16, i16 => i32: |a, b| i32::from(a) * i32::from(b)),
                        S32,
                        &[ty, ty],
                    );
                }
                ("wide", U32) => {
                    return some(
                        lanes!(u32, u32 => u64: |a, b| u64::from(a) * u64::from(b)),
                        U64,
                        &[ty, ty],
                    );
                }
                ("wide", S32) => {
                    return some(
                        lanes!(i32, i32 => i64: |a, b| i64::from(a) * i64::from(b)),
                        S64,
                        &[ty, ty],
                    );
                }
                _ => return None,
            };
            binary(ty, run)
        }
        _ => {
            if mods.take("cc") {
                return carry_out(op, ty, false);
            }
            if mods.take("sat") {
                let run = match (op, ty) {
                    ("add", S32) => lanes!(i32: |a, b| a.saturating_add(b)),
                    ("sub", S32) => lanes!(i32: |a, b| a.saturating_sub(b)),
                    _ => return None,
                };
                return binary(ty, run);
            }
            let run = match (op, ty) {
                ("add", U16 | S16) => lanes!(u16: |a, b| a.wrapping_add(b)),
                ("add", U32 | S32) => lanes!(u32: |a, b| a.wrapping_add(b)),
                ("add", U64 | S64) => lanes!(u64: |a, b| a.wrapping_add(b)),
                ("sub", U16 | S16) => lanes!(u16: |a, b| a.wrapping_sub(b)),
                ("sub", U32 | S32) => lanes!(u32: |a, b| a.wrapping_sub(b)),
                ("sub", U64 | S64) => lanes!(u64: |a, b| a.wrapping_sub(b)),
                _ => return None,
            };
            binary(ty, run)
        }
    }
}

/// Predicate in which the carry is kept.
pub(crate) const CARRY: u16 = 0;

pub(crate) fn carry(op: &str, mods: &mut Mods) -> Option<Selected> {
    let ty = mods.ty()?;
    let out = mods.take("cc");
    macro_rules! with {
        ($t:ty, $add:ident, $out:expr) => {
            match op {
                "addc" => lanes!(@ |regs, slots, mask| {
                    let (a, b) = (<$t>::get(regs, slots.a), <$t>::get(regs, slots.b));
                    let carry = regs.preds[CARRY as usize];
                    let mut all = 0;
                    let r = collect(|i| {
                        let (r, over) = a[i].overflowing_add(b[i]);
                        let (r, more) = r.overflowing_add((carry >> i & 1).into());
                        all |= u32::from(over | more) << i;
                        r
                    });
                    <$t>::put(regs, slots.d, &r, mask);
                    if $out {
                        regs.put_pred(CARRY, all, mask);
                    }
                }),
                _ => lanes!(@ |regs, slots, mask| {
                    let (a, b) = (<$t>::get(regs, slots.a), <$t>::get(regs, slots.b));
                    let carry = regs.preds[CARRY as usize];
                    let mut all = 0;
                    let r = collect(|i| {
                        let (r, over) = a[i].overflowing_sub(b[i]);
                        let (r, more) = r.overflowing_sub((carry >> i & 1).into());
                        all |= u32::from(over | more) << i;
                        r
                    });
                    <$t>::put(regs, slots.d, &r, mask);
                    if $out {
                        regs.put_pred(CARRY, all, mask);
                    }
                }),
            }
        };
    }
    let run = match (ty, out) {
        (U32 | S32, false) => with!(u32, add, false),
        (U32 | S32, true) => with!(u32, add, true),
        (U64 | S64, false) => with!(u64, add, false),
        (U64 | S64, true) => with!(u64, add, true),
        _ => return None,
    };
    binary(ty, run)
}

pub(crate) fn carry_out(op: &str, ty: Type, _: bool) -> Option<Selected> {
    macro_rules! with {
        ($t:ty, $f:ident) => {
            lanes!(@ |regs, slots, mask| {
                let (a, b) = (<$t>::get(regs, slots.a), <$t>::get(regs, slots.b));
                let mut all = 0;
                let r = collect(|i| {
                    let (r, over) = a[i].$f(b[i]);
                    all |= u32::from(over) << i;
                    r
                });
                <$t>::put(regs, slots.d, &r, mask);
                regs.put_pred(CARRY, all, mask);
            })
        };
    }
    let run = match (op, ty) {
        ("add", U32 | S32) => with!(u32, overflowing_add),
        ("add", U64 | S64) => with!(u64, overflowing_add),
        ("sub", U32 | S32) => with!(u32, overflowing_sub),
        ("sub", U64 | S64) => with!(u64, overflowing_sub),
        _ => return None,
    };
    binary(ty, run)
}

/// `mad.cc` and `madc`: with a carry out, with one in, or with both.
pub(crate) fn mad_carry(carry_in: bool, ty: Type, mods: &mut Mods) -> Option<Selected> {
    let high = mods.one_of(&["lo", "hi"])? == "hi";
    let out = mods.take("cc");
    macro_rules! with {
        ($t:ty, $part:expr) => {
            lanes!(@ |regs, slots, mask| {
                let (a, b) = (<$t>::get(regs, slots.a), <$t>::get(regs, slots.b));
                let c = <$t>::get(regs, slots.c);
                let carry = if slots.x & 1 == 1 { regs.preds[CARRY as usize] } else { 0 };
                let mut all = 0;
                let r = collect(|i| {
                    let (r, over) = $part(a[i], b[i]).overflowing_add(c[i]);
                    let (r, more) = r.overflowing_add((carry >> i & 1).into());
                    all |= u32::from(over | more) << i;
                    r
                });
                <$t>::put(regs, slots.d, &r, mask);
                if slots.x & 2 != 0 {
                    regs.put_pred(CARRY, all, mask);
                }
            })
        };
    }
    // the high half depends on the sign of the operands, the low one does not
    let run = match (ty, high) {
        (U32 | S32, false) => with!(u32, u32::wrapping_mul),
        (U64 | S64, false) => with!(u64, u64::wrapping_mul),
        (U32, true) => with!(u32, |a, b| (u64::from(a) * u64::from(b) >> 32) as u32),
        (S32, true) => with!(u32, |a, b| {
            (i64::from(a as i32) * i64::from(b as i32) >> 32) as u32
        }),
        (U64, true) => with!(u64, |a, b| (u128::from(a) * u128::from(b) >> 64) as u64),
        (S64, true) => with!(u64, |a, b| {
            (i128::from(a as i64) * i128::from(b as i64) >> 64) as u64
        }),
        _ => return None,
    };
    let mut selected = ternary(ty, run)?;
    selected.x = u32::from(carry_in) | u32::from(out) << 1;
    Some(selected)
}

pub(crate) fn mad(op: &str, mods: &mut Mods) -> Option<Selected> {
    let ty = mods.ty()?;
    match ty {
        F32 => {
            let (ftz_, sat_) = (mods.take("ftz"), mods.take("sat"));
            let mode = mods.round()?;
            let run = match mode {
                Round::Rn => f32_op!(ftz_, sat_, |a, b, c| a.mul_add(b, c)),
                Round::Rna => return None,
                Round::Rm => f32_directed!(mode, ftz_, sat_, |a, b, c| zero_sum(
                    fma_odd(a, b, c),
                    a * b,
                    c,
                    true
                )),
                _ => f32_directed!(mode, ftz_, sat_, |a, b, c| fma_odd(a, b, c)),
            };
            ternary(F32, run)
        }
        F64 => {
            let run = match mods.round()? {
                Round::Rn => lanes!(f64: |a, b, c| a.mul_add(b, c)),
                Round::Rz => lanes!(f64: |a, b, c| fma64(a, b, c, Round::Rz)),
                Round::Rm => lanes!(f64: |a, b, c| fma64(a, b, c, Round::Rm)),
                Round::Rp => lanes!(f64: |a, b, c| fma64(a, b, c, Round::Rp)),
                Round::Rna => return None,
            };
            ternary(F64, run)
        }
        F16 | F16x2 | Bf16 | Bf16x2 if op == "fma" => {
            let (rn, ftz_, sat_, relu) = (
                mods.take("rn"),
                mods.take("ftz"),
                mods.take("sat"),
                mods.take("relu"),
            );
            if !rn {
                return None;
            }
            let run = match (ty, ftz_, sat_, relu) {
                (F16, false, false, false) => lanes!(u16: |a, b, c| h_fma(a, b, c)),
                (F16, true, false, false) => {
                    lanes!(u16: |a, b, c| ftz16(h_fma(ftz16(a), ftz16(b), ftz16(c))))
                }
                (F16, false, true, false) => lanes!(u16: |a, b, c| h_sat(h_fma(a, b, c))),
                (F16, false, false, true) => {
                    lanes!(u16: |a, b, c| relu16(h_fma(a, b, c), 0x7c00))
                }
                (F16x2, false, false, false) => lanes!(u32: |a, b, c| each3(a, b, c, h_fma)),
                (F16x2, true, false, false) => {
                    lanes!(u32: |a, b, c| each3(a, b, c, |a, b, c| ftz16(h_fma(
                        ftz16(a),
                        ftz16(b),
                        ftz16(c)
                    ))))
                }
                (F16x2, false, true, false) => {
                    lanes!(u32: |a, b, c| each3(a, b, c, |a, b, c| h_sat(h_fma(a, b, c))))
                }
                (F16x2, false, false, true) => {
                    lanes!(u32: |a, b, c| each3(a, b, c, |a, b, c| relu16(
                        h_fma(a, b, c),
                        0x7c00
                    )))
                }
                (Bf16, false, false, false) => lanes!(u16: |a, b, c| b_fma(a, b, c)),
                (Bf16, false, false, true) => {
                    lanes!(u16: |a, b, c| relu16(b_fma(a, b, c), 0x7f80))
                }
                (Bf16x2, false, false, false) => lanes!(u32: |a, b, c| each3(a, b, c, b_fma)),
                (Bf16x2, false, false, true) => {
                    lanes!(u32: |a, b, c| each3(a, b, c, |a, b, c| relu16(
                        b_fma(a, b, c),
                        0x7f80
                    )))
                }
                _ => return None,
            };
            ternary(ty, run)
        }
        _ if op == "mad" && mods.has("cc") => mad_carry(false, ty, mods),
        _ if op == "mad" => {
            let part = mods.one_of(&["lo", "hi", "wide"])?;
            if mods.take("sat") {
                if (part, ty) != ("hi", S32) {
                    return None;
                }
                return ternary(
                    ty,
                    lanes!(i32: |a, b, c| {
                        ((i64::from(a) * i64::from(b) >> 32) as i32).saturating_add(c)
                    }),
                );
            }
            let run = match (part, ty) {
                ("lo", U16 | S16) => lanes!(u16: |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
                ("lo", U32 | S32) => lanes!(u32: |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
                ("lo", U64 | S64) => lanes!(u64: |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
                ("hi", U32) => lanes!(u32: |a, b, c| {
                    ((u64::from(a) * u64::from(b) >> 32) as u32).wrapping_add(c)
                }),
                ("hi", S32) => lanes!(i32: |a, b, c| {
                    ((i64::from(a) * i64::from(b) >> 32) as i32).wrapping_add(c)
                }),
                ("hi", U64) => lanes!(u64: |a, b, c| {
                    ((u128::from(a) * u128::from(b) >> 64) as u64).wrapping_add(c)
                }),
                ("hi", S64) => lanes!(i64: |a, b, c| {
                    ((i128::from(a) * i128::from(b) >> 64) as i64).wrapping_add(c)
                }),
                ("wide", U16) => {
                    return some(
                        lanes!(u16, u16, u32 => u32: |a, b, c| {
                            (u32::from(a) * u32::from(b)).wrapping_add(c)
                        }),
                        U32,
                        &[ty, ty, U32],
                    );
                }
                ("wide", S16) => {
                    return some(
                        lanes!(i16, i16, i32 => i32: |a, b, c| {
                            (i32::from(a) * i32::from(b)).wrapping_add(c)
                        }),
                        S32,
                        &[ty, ty, S32],
                    );
                }
                ("wide", U32) => {
                    return some(
                        lanes!(u32, u32, u64 => u64: |a, b, c| {
                            (u64::from(a) * u64::from(b)).wrapping_add(c)
                        }),
                        U64,
                        &[ty, ty, U64],
                    );
                }
                ("wide", S32) => {
                    return some(
                        lanes!(i32, i32, i64 => i64: |a, b, c| {
                            (i64::from(a) * i64::from(b)).wrapping_add(c)
                        }),
                        S64,
                        &[ty, ty, S64],
                    );
                }
                _ => return None,
            };
            ternary(ty, run)
        }
        _ => None,
    }
}
