//! Comparisons, and what they leave.

use super::*;

/// Comparisons of numbers; the last eight hold for NaN as well, or test for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

impl Compare {
    pub fn named(name: &str) -> Option<Compare> {
        use Compare::*;
        Some(match name {
            "eq" => Eq,
            "ne" => Ne,
            "lt" | "lo" => Lt,
            "le" | "ls" => Le,
            "gt" | "hi" => Gt,
            "ge" | "hs" => Ge,
            "equ" => Equ,
            "neu" => Neu,
            "ltu" => Ltu,
            "leu" => Leu,
            "gtu" => Gtu,
            "geu" => Geu,
            "num" => Num,
            "nan" => Nan,
            _ => return None,
        })
    }
}

/// The function that compares `a` with `b` and hands the lanes for which it holds to `$store`.
#[rustfmt::skip] // rustfmt indents the inner macro further each time
macro_rules! compare {
    ($op:expr, $t:ty, |$x:ident| $fix:expr, $store:ident) => {{
        macro_rules! with {
            ($f:expr) => {
                lanes!(@ |regs, slots, mask| {
                    let bits = test::<$t, $t>(regs, slots, |a, b| {
                        let a = { let $x = a; $fix };
                        let b = { let $x = b; $fix };
                        #[allow(clippy::redundant_closure_call)]
                        ($f)(a, b)
                    });
                    $store(regs, slots, mask, bits);
                })
            };
        }
        use Compare::*;
        #[allow(
            clippy::eq_op,
            clippy::neg_cmp_op_on_partial_ord,
            clippy::double_comparisons
        )]
        match $op {
            Eq => with!(|a, b| a == b),
            Ne => with!(|a, b| (a < b) | (a > b)),
            Lt => with!(|a, b| a < b),
            Le => with!(|a, b| a <= b),
            Gt => with!(|a, b| a > b),
            Ge => with!(|a, b| a >= b),
            Equ => with!(|a, b| !((a < b) | (a > b))),
            Neu => with!(|a, b| a != b),
            Ltu => with!(|a, b| !(a >= b)),
            Leu => with!(|a, b| !(a > b)),
            Gtu => with!(|a, b| !(a <= b)),
            Geu => with!(|a, b| !(a < b)),
            Num => with!(|a, b| (a == a) & (b == b)),
            Nan => with!(|a, b| (a != a) | (b != b)),
        }
    }};
}

pub(crate) fn compare_int(op: Compare) -> bool {
    use Compare::*;
    matches!(op, Eq | Ne | Lt | Le | Gt | Ge)
}

/// No predicate here.
pub(crate) const NO_PRED: u16 = u16::MAX;

/// `x`: bits 0-1 the logic with predicate `c` (none, and, or, xor), bit 2 its negation, the high
/// half the number of the second result.
#[inline(always)]
pub(crate) fn store_pred(regs: &mut Regs, slots: &Slots, mask: u32, bits: u32) {
    let (mut p, mut q) = (bits, !bits);
    if slots.x & 3 != 0 {
        let c = pred(regs, slots.c, slots.x >> 2 & 1);
        (p, q) = match slots.x & 3 {
            1 => (p & c, q & c),
            2 => (p | c, q | c),
            _ => (p ^ c, q ^ c),
        };
    }
    if slots.d != NO_PRED {
        regs.put_pred(slots.d, p, mask);
    }
    let second = (slots.x >> 16) as u16;
    if second != NO_PRED {
        regs.put_pred(second, q, mask);
    }
}

#[inline(always)]
pub(crate) fn store_ones(regs: &mut Regs, slots: &Slots, mask: u32, bits: u32) {
    let r = each(|i| (bits >> i & 1).wrapping_neg());
    u32::put(regs, slots.d, &r, mask);
}

/// 1.0 of a 16-bit float, where it holds.
#[inline(always)]
pub(crate) fn store_short(regs: &mut Regs, slots: &Slots, mask: u32, bits: u32, one: u16) {
    let r = each(|i| if bits >> i & 1 == 1 { one } else { 0 });
    u16::put(regs, slots.d, &r, mask);
}

#[inline(always)]
pub(crate) fn store_half(regs: &mut Regs, slots: &Slots, mask: u32, bits: u32) {
    store_short(regs, slots, mask, bits, 0x3c00);
}

#[inline(always)]
pub(crate) fn store_brain(regs: &mut Regs, slots: &Slots, mask: u32, bits: u32) {
    store_short(regs, slots, mask, bits, 0x3f80);
}

#[inline(always)]
pub(crate) fn store_float(regs: &mut Regs, slots: &Slots, mask: u32, bits: u32) {
    let r = each(|i| if bits >> i & 1 == 1 { 1.0f32 } else { 0.0 });
    f32::put(regs, slots.d, &r, mask);
}

/// A 16-bit float of either format, for comparison.
macro_rules! by_type {
    ($op:expr, $ty:expr, $ftz:expr, $store:ident) => {
        match ($ty, $ftz) {
            (U16 | B16, false) if compare_int($op) => compare!($op, u16, |x| x, $store),
            (S16, false) if compare_int($op) => compare!($op, i16, |x| x, $store),
            (U32 | B32, false) if compare_int($op) => compare!($op, u32, |x| x, $store),
            (S32, false) if compare_int($op) => compare!($op, i32, |x| x, $store),
            (U64 | B64, false) if compare_int($op) => compare!($op, u64, |x| x, $store),
            (S64, false) if compare_int($op) => compare!($op, i64, |x| x, $store),
            (F32, false) => compare!($op, f32, |x| x, $store),
            (F32, true) => compare!($op, f32, |x| ftz(x), $store),
            (F64, false) => compare!($op, f64, |x| x, $store),
            (F16, false) => compare!($op, u16, |x| f16_to_f32(x), $store),
            (F16, true) => compare!($op, u16, |x| f16_to_f32(ftz16(x)), $store),
            (Bf16, false) => compare!($op, u16, |x| bf16_to_f32(x), $store),
            _ => return None,
        }
    };
}

/// `setp`: the function, and the type of its operands.
pub(crate) fn set_pred(op: Compare, ty: Type, ftz_: bool) -> Option<LaneFn> {
    Some(by_type!(op, ty, ftz_, store_pred))
}

/// `set` to all ones or 1.0.
pub(crate) fn set_value(op: Compare, d: Type, ty: Type, ftz_: bool) -> Option<LaneFn> {
    Some(match d {
        U32 | S32 => by_type!(op, ty, ftz_, store_ones),
        F32 => by_type!(op, ty, ftz_, store_float),
        F16 => by_type!(op, ty, ftz_, store_half),
        Bf16 => by_type!(op, ty, ftz_, store_brain),
        _ => return None,
    })
}

pub(crate) fn holds(op: Compare, a: f32, b: f32) -> bool {
    use Compare::*;
    let unordered = a.is_nan() || b.is_nan();
    match op {
        Eq => a == b,
        Ne => a != b && !unordered,
        Lt => a < b,
        Le => a <= b,
        Gt => a > b,
        Ge => a >= b,
        Equ => a == b || unordered,
        Neu => a != b,
        Ltu => a < b || unordered,
        Leu => a <= b || unordered,
        Gtu => a > b || unordered,
        Geu => a >= b || unordered,
        Num => !unordered,
        Nan => unordered,
    }
}

pub(crate) const COMPARES: [Compare; 14] = {
    use Compare::*;
    [
        Eq, Ne, Lt, Le, Gt, Ge, Equ, Neu, Ltu, Leu, Gtu, Geu, Num, Nan,
    ]
};

/// Comparison of packed halves. `x`: the comparison in the low byte; bit 8: bf16; bit 9: denormals
/// to zero; bits 10-11: what is stored (0: two predicates, the second's number in the high half;
/// 1: 1.0 in either half; 2: all ones in either half).
pub(crate) fn set_halves() -> LaneFn {
    lanes!(@ |regs, slots, mask| {
        let (a, b) = (u32::get(regs, slots.a), u32::get(regs, slots.b));
        let op = COMPARES[(slots.x & 15) as usize];
        let (bf16, flush) = (slots.x >> 8 & 1 == 1, slots.x >> 9 & 1 == 1);
        let value = |h: u16| match (bf16, flush) {
            (true, _) => bf16_to_f32(h),
            (false, false) => f16_to_f32(h),
            (false, true) => f16_to_f32(ftz16(h)),
        };
        let (mut low, mut high) = (0u32, 0u32);
        for i in 0..LANES {
            let ((a0, a1), (b0, b1)) = (halves(a[i]), halves(b[i]));
            low |= u32::from(holds(op, value(a0), value(b0))) << i;
            high |= u32::from(holds(op, value(a1), value(b1))) << i;
        }
        match slots.x >> 10 & 3 {
            0 => {
                if slots.d != NO_PRED {
                    regs.put_pred(slots.d, low, mask);
                }
                let second = (slots.x >> 16) as u16;
                if second != NO_PRED {
                    regs.put_pred(second, high, mask);
                }
            }
            kind => {
                let one = match (kind, bf16) {
                    (2, _) => 0xffff,
                    (_, true) => 0x3f80,
                    _ => 0x3c00,
                };
                let r = each(|i| {
                    pack((low >> i & 1) as u16 * one, (high >> i & 1) as u16 * one)
                });
                u32::put(regs, slots.d, &r, mask);
            }
        }
    })
}

/// `testp`: lanes whose float is of a kind, as a predicate.
pub(crate) fn test_pred(kind: &str, ty: Type) -> Option<LaneFn> {
    macro_rules! with {
        ($t:ty, |$x:ident| $e:expr) => {
            lanes!(@ |regs, slots, mask| {
                let a = <$t>::get(regs, slots.a);
                let mut bits = 0;
                for i in 0..LANES {
                    let $x = a[i];
                    bits |= u32::from($e) << i;
                }
                regs.put_pred(slots.d, bits, mask);
            })
        };
    }
    Some(match (kind, ty) {
        ("finite", F32) => with!(f32, |x| x.is_finite()),
        ("infinite", F32) => with!(f32, |x| x.is_infinite()),
        ("number", F32) => with!(f32, |x| !x.is_nan()),
        ("notanumber", F32) => with!(f32, |x| x.is_nan()),
        ("normal", F32) => with!(f32, |x| x.is_normal()),
        ("subnormal", F32) => with!(f32, |x| x.is_subnormal()),
        ("finite", F64) => with!(f64, |x| x.is_finite()),
        ("infinite", F64) => with!(f64, |x| x.is_infinite()),
        ("number", F64) => with!(f64, |x| !x.is_nan()),
        ("notanumber", F64) => with!(f64, |x| x.is_nan()),
        ("normal", F64) => with!(f64, |x| x.is_normal()),
        ("subnormal", F64) => with!(f64, |x| x.is_subnormal()),
        _ => return None,
    })
}
