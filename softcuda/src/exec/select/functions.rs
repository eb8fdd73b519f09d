//! Division, roots, extremes, signs.

use super::*;

pub(crate) fn div(op: &str, mods: &mut Mods) -> Option<Selected> {
    let ty = mods.ty()?;
    match (op, ty) {
        ("div", F32) => {
            let ftz_ = mods.take("ftz");
            let run = match mods.one_of(&["approx", "full", "rn", "rz", "rm", "rp"])? {
                "approx" => approx::quotient(ftz_),
                "full" => approx::full_quotient(ftz_),
                "rn" => f32_op!(ftz_, false, |a, b| a / b),
                "rz" => f32_directed!(Round::Rz, ftz_, false, |a, b| div_odd(a, b)),
                "rm" => f32_directed!(Round::Rm, ftz_, false, |a, b| div_odd(a, b)),
                _ => f32_directed!(Round::Rp, ftz_, false, |a, b| div_odd(a, b)),
            };
            binary(F32, run)
        }
        ("div", F64) => {
            let run = match mods.round()? {
                Round::Rn => lanes!(f64: |a, b| a / b),
                Round::Rz => lanes!(f64: |a, b| div64(a, b, Round::Rz)),
                Round::Rm => lanes!(f64: |a, b| div64(a, b, Round::Rm)),
                Round::Rp => lanes!(f64: |a, b| div64(a, b, Round::Rp)),
                Round::Rna => return None,
            };
            binary(F64, run)
        }
        // what hardware gives for a zero divisor: all ones, and the dividend
        ("div", U16) => binary(ty, lanes!(u16: |a, b| a.checked_div(b).unwrap_or(u16::MAX))),
        ("div", U32) => binary(ty, lanes!(u32: |a, b| a.checked_div(b).unwrap_or(u32::MAX))),
        ("div", U64) => binary(ty, lanes!(u64: |a, b| a.checked_div(b).unwrap_or(u64::MAX))),
        ("rem", U16) => binary(ty, lanes!(u16: |a, b| a.checked_rem(b).unwrap_or(a))),
        ("rem", U32) => binary(ty, lanes!(u32: |a, b| a.checked_rem(b).unwrap_or(a))),
        ("rem", U64) => binary(ty, lanes!(u64: |a, b| a.checked_rem(b).unwrap_or(a))),
        ("div", S16) => binary(
            ty,
            lanes!(i16: |a, b| if b == 0 { -1 } else { a.wrapping_div(b) }),
        ),
        ("div", S32) => binary(
            ty,
            lanes!(i32: |a, b| if b == 0 { -1 } else { a.wrapping_div(b) }),
        ),
        ("div", S64) => binary(
            ty,
            lanes!(i64: |a, b| if b == 0 { -1 } else { a.wrapping_div(b) }),
        ),
        ("rem", S16) => binary(
            ty,
            lanes!(i16: |a, b| if b == 0 { a } else { a.wrapping_rem(b) }),
        ),
        ("rem", S32) => binary(
            ty,
            lanes!(i32: |a, b| if b == 0 { a } else { a.wrapping_rem(b) }),
        ),
        ("rem", S64) => binary(
            ty,
            lanes!(i64: |a, b| if b == 0 { a } else { a.wrapping_rem(b) }),
        ),
        _ => None,
    }
}

pub(crate) fn min_max(op: &str, mods: &mut Mods) -> Option<Selected> {
    let min = op == "min";
    let relu = mods.take("relu");
    if let Some(pair) = mods.one_of(&["u16x2", "s16x2"]) {
        #[inline(always)]
        fn signed(f: impl Fn(i16, i16) -> i16) -> impl Fn(u16, u16) -> u16 {
            move |a, b| f(a as i16, b as i16) as u16
        }
        let run = match (pair, min, relu) {
            ("u16x2", true, false) => lanes!(u32: |a, b| each2(a, b, u16::min)),
            ("u16x2", false, false) => lanes!(u32: |a, b| each2(a, b, u16::max)),
            ("s16x2", true, false) => lanes!(u32: |a, b| each2(a, b, signed(i16::min))),
            ("s16x2", false, false) => lanes!(u32: |a, b| each2(a, b, signed(i16::max))),
            ("s16x2", true, true) => {
                lanes!(u32: |a, b| each2(a, b, signed(|a, b| a.min(b).max(0))))
            }
            ("s16x2", false, true) => {
                lanes!(u32: |a, b| each2(a, b, signed(|a, b| a.max(b).max(0))))
            }
            _ => return None,
        };
        return binary(B32, run);
    }
    let ty = mods.ty()?;
    if relu && ty != S32 {
        return None;
    }
    let (ftz_, nan) = (mods.take("ftz"), mods.take("NaN"));
    if ftz_ && !matches!(ty, F32 | F16 | F16x2) || nan && !(ty.float() && ty != F64) {
        return None;
    }
    macro_rules! half {
        ($to:expr, $($fix:ident)?) => {{
            match (matches!(ty, F16x2 | Bf16x2), min, nan) {
                (false, true, false) => lanes!(u16: |a, b| h_min($($fix)?(a), $($fix)?(b), $to, false, false)),
                (false, true, true) => lanes!(u16: |a, b| h_min($($fix)?(a), $($fix)?(b), $to, false, true)),
                (false, false, false) => lanes!(u16: |a, b| h_min($($fix)?(a), $($fix)?(b), $to, true, false)),
                (false, false, true) => lanes!(u16: |a, b| h_min($($fix)?(a), $($fix)?(b), $to, true, true)),
                (true, true, false) => lanes!(u32: |a, b| each2(a, b, |a, b| h_min($($fix)?(a), $($fix)?(b), $to, false, false))),
                (true, true, true) => lanes!(u32: |a, b| each2(a, b, |a, b| h_min($($fix)?(a), $($fix)?(b), $to, false, true))),
                (true, false, false) => lanes!(u32: |a, b| each2(a, b, |a, b| h_min($($fix)?(a), $($fix)?(b), $to, true, false))),
                (true, false, true) => lanes!(u32: |a, b| each2(a, b, |a, b| h_min($($fix)?(a), $($fix)?(b), $to, true, true))),
            }
        }};
    }
    let run = match (ty, min) {
        (U16, true) => lanes!(u16: |a, b| a.min(b)),
        (U16, false) => lanes!(u16: |a, b| a.max(b)),
        (S16, true) => lanes!(i16: |a, b| a.min(b)),
        (S16, false) => lanes!(i16: |a, b| a.max(b)),
        (U32, true) => lanes!(u32: |a, b| a.min(b)),
        (U32, false) => lanes!(u32: |a, b| a.max(b)),
        (S32, true) if relu => lanes!(i32: |a, b| a.min(b).max(0)),
        (S32, false) if relu => lanes!(i32: |a, b| a.max(b).max(0)),
        (S32, true) => lanes!(i32: |a, b| a.min(b)),
        (S32, false) => lanes!(i32: |a, b| a.max(b)),
        (U64, true) => lanes!(u64: |a, b| a.min(b)),
        (U64, false) => lanes!(u64: |a, b| a.max(b)),
        (S64, true) => lanes!(i64: |a, b| a.min(b)),
        (S64, false) => lanes!(i64: |a, b| a.max(b)),
        (F32, true) if nan => f32_op!(ftz_, false, |a, b| nan_or(a, b, min32(a, b))),
        (F32, false) if nan => f32_op!(ftz_, false, |a, b| nan_or(a, b, max32(a, b))),
        (F32, true) => f32_op!(ftz_, false, |a, b| min32(a, b)),
        (F32, false) => f32_op!(ftz_, false, |a, b| max32(a, b)),
        (F64, true) => lanes!(f64: |a, b| min64(a, b)),
        (F64, false) => lanes!(f64: |a, b| max64(a, b)),
        (F16 | F16x2, _) if ftz_ => half!(f16_to_f32, ftz16),
        (F16 | F16x2, _) => half!(f16_to_f32,),
        (Bf16 | Bf16x2, _) => half!(bf16_to_f32,),
        _ => return None,
    };
    binary(ty, run)
}

pub(crate) fn abs_neg(op: &str, mods: &mut Mods) -> Option<Selected> {
    let ty = mods.ty()?;
    let abs = op == "abs";
    let ftz_ = mods.take("ftz");
    if ftz_ && !matches!(ty, F32 | F16 | F16x2) {
        return None;
    }
    let run = match (ty, abs, ftz_) {
        (S16, true, _) => lanes!(i16: |a| a.wrapping_abs()),
        (S32, true, _) => lanes!(i32: |a| a.wrapping_abs()),
        (S64, true, _) => lanes!(i64: |a| a.wrapping_abs()),
        (S16, false, _) => lanes!(i16: |a| a.wrapping_neg()),
        (S32, false, _) => lanes!(i32: |a| a.wrapping_neg()),
        (S64, false, _) => lanes!(i64: |a| a.wrapping_neg()),
        (F32, true, false) => lanes!(f32: |a| canon(a.abs())),
        (F32, false, false) => lanes!(f32: |a| canon(-a)),
        (F32, true, true) => lanes!(f32: |a| canon(ftz(a.abs()))),
        (F32, false, true) => lanes!(f32: |a| canon(ftz(-a))),
        (F64, true, _) => lanes!(f64: |a| a.abs()),
        (F64, false, _) => lanes!(f64: |a| -a),
        (F16 | Bf16, true, false) => lanes!(u16: |a| a & 0x7fff),
        (F16 | Bf16, false, false) => lanes!(u16: |a| a ^ 0x8000),
        (F16, true, true) => lanes!(u16: |a| ftz16(a & 0x7fff)),
        (F16, false, true) => lanes!(u16: |a| ftz16(a ^ 0x8000)),
        (F16x2 | Bf16x2, true, false) => lanes!(u32: |a| a & 0x7fff_7fff),
        (F16x2 | Bf16x2, false, false) => lanes!(u32: |a| a ^ 0x8000_8000),
        (F16x2, true, true) => lanes!(u32: |a| each1(a & 0x7fff_7fff, ftz16)),
        (F16x2, false, true) => lanes!(u32: |a| each1(a ^ 0x8000_8000, ftz16)),
        _ => return None,
    };
    unary(ty, run)
}

/// Reciprocals and square roots that round; the approximate ones are in [`super::approx`].
pub(crate) fn roots(op: &str, mods: &mut Mods) -> Option<Selected> {
    let ty = mods.ty()?;
    let ftz_ = mods.take("ftz");
    if mods.take("approx") {
        return approx::unary(op, ty, ftz_);
    }
    macro_rules! rounded {
        ($e:expr) => {
            match mods.round()? {
                Round::Rn => f32_directed!(Round::Rn, ftz_, false, |a| $e(a)),
                Round::Rz => f32_directed!(Round::Rz, ftz_, false, |a| $e(a)),
                Round::Rm => f32_directed!(Round::Rm, ftz_, false, |a| $e(a)),
                Round::Rp => f32_directed!(Round::Rp, ftz_, false, |a| $e(a)),
                Round::Rna => return None,
            }
        };
    }
    let run = match (op, ty) {
        ("rcp", F32) => rounded!(|a| div_odd(1.0, a)),
        ("sqrt", F32) => rounded!(sqrt_odd),
        ("rcp", F64) if !ftz_ => match mods.round()? {
            Round::Rn => lanes!(f64: |a| 1.0 / a),
            Round::Rz => lanes!(f64: |a| div64(1.0, a, Round::Rz)),
            Round::Rm => lanes!(f64: |a| div64(1.0, a, Round::Rm)),
            Round::Rp => lanes!(f64: |a| div64(1.0, a, Round::Rp)),
            Round::Rna => return None,
        },
        ("sqrt", F64) if !ftz_ => match mods.round()? {
            Round::Rn => lanes!(f64: |a| a.sqrt()),
            Round::Rz => lanes!(f64: |a| sqrt64(a, Round::Rz)),
            Round::Rm => lanes!(f64: |a| sqrt64(a, Round::Rm)),
            Round::Rp => lanes!(f64: |a| sqrt64(a, Round::Rp)),
            Round::Rna => return None,
        },
        _ => return None,
    };
    let mut selected = unary(ty, run)?;
    selected.class = Class::Special;
    Some(selected)
}
