//! Arithmetic of 16-bit floats, one and two at a time.

use super::*;

#[inline(always)]
pub(crate) fn halves(v: u32) -> (u16, u16) {
    (v as u16, (v >> 16) as u16)
}

#[inline(always)]
pub(crate) fn pack(lo: u16, hi: u16) -> u32 {
    u32::from(lo) | u32::from(hi) << 16
}

#[inline(always)]
pub(crate) fn each2(a: u32, b: u32, f: impl Fn(u16, u16) -> u16) -> u32 {
    let ((a0, a1), (b0, b1)) = (halves(a), halves(b));
    pack(f(a0, b0), f(a1, b1))
}

#[inline(always)]
pub(crate) fn each3(a: u32, b: u32, c: u32, f: impl Fn(u16, u16, u16) -> u16) -> u32 {
    let ((a0, a1), (b0, b1), (c0, c1)) = (halves(a), halves(b), halves(c));
    pack(f(a0, b0, c0), f(a1, b1, c1))
}

#[inline(always)]
pub(crate) fn each1(a: u32, f: impl Fn(u16) -> u16) -> u32 {
    let (a0, a1) = halves(a);
    pack(f(a0), f(a1))
}

/// Denormal halves (f16) to zero.
#[inline(always)]
pub(crate) fn ftz16(h: u16) -> u16 {
    if h & 0x7c00 == 0 { h & 0x8000 } else { h }
}

#[inline(always)]
pub(crate) fn h_op(a: u16, b: u16, f: impl Fn(f32, f32) -> f32) -> u16 {
    // 24 bits are twice 11 and two more: rounding twice is rounding once for + - *
    f32_to_f16(f(f16_to_f32(a), f16_to_f32(b)))
}

#[inline(always)]
pub(crate) fn b_op(a: u16, b: u16, f: impl Fn(f32, f32) -> f32) -> u16 {
    f32_to_bf16(f(bf16_to_f32(a), bf16_to_f32(b)))
}

/// A product of bf16 numbers may be denormal in f32, so it is rounded from f64.
#[inline(always)]
pub(crate) fn b_mul(a: u16, b: u16) -> u16 {
    let p = f64::from(bf16_to_f32(a)) * f64::from(bf16_to_f32(b));
    Format::BF16.round(p, Round::Rn, false) as u16
}

#[inline(always)]
pub(crate) fn h_fma(a: u16, b: u16, c: u16) -> u16 {
    let (a, b, c) = (f16_to_f32(a), f16_to_f32(b), f16_to_f32(c));
    Format::F16.round(
        fma_odd(f64::from(a), f64::from(b), f64::from(c)),
        Round::Rn,
        false,
    ) as u16
}

#[inline(always)]
pub(crate) fn b_fma(a: u16, b: u16, c: u16) -> u16 {
    let (a, b, c) = (bf16_to_f32(a), bf16_to_f32(b), bf16_to_f32(c));
    Format::BF16.round(
        fma_odd(f64::from(a), f64::from(b), f64::from(c)),
        Round::Rn,
        false,
    ) as u16
}

#[inline(always)]
pub(crate) fn h_sat(h: u16) -> u16 {
    f32_to_f16(sat(f16_to_f32(h)))
}

/// Negative numbers to +0, NaN canonical.
#[inline(always)]
pub(crate) fn relu16(h: u16, infinity: u16) -> u16 {
    if h & 0x7fff > infinity {
        NAN16
    } else if h & 0x8000 != 0 {
        0
    } else {
        h
    }
}

/// NaN (either operand, where `nan` asks for it), then zero signs, then order.
#[inline(always)]
pub(crate) fn h_min(a: u16, b: u16, to: impl Fn(u16) -> f32, more: bool, nan: bool) -> u16 {
    let (x, y) = (to(a), to(b));
    if x.is_nan() && y.is_nan() || nan && (x.is_nan() || y.is_nan()) {
        return NAN16;
    }
    let first = if more {
        x > y || (x == y && x.is_sign_positive()) || y.is_nan()
    } else {
        x < y || (x == y && x.is_sign_negative()) || y.is_nan()
    };
    if first { a } else { b }
}
