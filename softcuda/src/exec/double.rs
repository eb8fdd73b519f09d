//! 64-bit floats rounded in a given direction.

use super::float::{Round, direct64};
use super::select::zero_sum;

pub(super) fn add64(a: f64, b: f64, mode: Round) -> f64 {
    let s = a + b;
    if s.is_infinite() && a.is_finite() && b.is_finite() {
        return overflow(s.is_sign_negative(), mode);
    }
    let t = s - a;
    let error = (a - (s - t)) + (b - t);
    zero_sum(direct64(s, error, mode), a, b, mode == Round::Rm)
}

pub(super) fn mul64(a: f64, b: f64, mode: Round) -> f64 {
    let p = a * b;
    if a == 0.0 || b == 0.0 || !a.is_finite() || !b.is_finite() {
        return p;
    }
    let ((fa, ea), (fb, eb)) = (split(a), split(b));
    let negative = a.is_sign_negative() != b.is_sign_negative();
    round(negative, u128::from(fa) * u128::from(fb), ea + eb, mode)
}

pub(super) fn div64(a: f64, b: f64, mode: Round) -> f64 {
    let q = a / b;
    if a == 0.0 || b == 0.0 || !a.is_finite() || !b.is_finite() {
        return q;
    }
    let ((fa, ea), (fb, eb)) = (normal(a), normal(b));
    let (above, below) = (u128::from(fa) << 74, u128::from(fb));
    let quotient = above / below | u128::from(above % below != 0);
    let negative = a.is_sign_negative() != b.is_sign_negative();
    round(negative, quotient, ea - eb - 74, mode)
}

pub(super) fn sqrt64(a: f64, mode: Round) -> f64 {
    if a <= 0.0 || !a.is_finite() {
        return a.sqrt();
    }
    let (f, e) = normal(a);
    // the exponent must be even
    let shift = 72 + (e & 1) as u32;
    let square = u128::from(f) << shift;
    let root = square.isqrt();
    let inexact = u128::from(root * root != square);
    // one more bit, for what was cut off
    round(false, root << 1 | inexact, (e - shift as i32) / 2 - 1, mode)
}

pub(super) fn fma64(a: f64, b: f64, c: f64, mode: Round) -> f64 {
    let plain = a.mul_add(b, c);
    if !a.is_finite() || !b.is_finite() || !c.is_finite() {
        return plain;
    }
    let negative = a.is_sign_negative() != b.is_sign_negative();
    if a == 0.0 || b == 0.0 {
        let zero = if negative { -0.0 } else { 0.0 };
        return if c == 0.0 {
            zero_sum(zero + c, zero, c, mode == Round::Rm)
        } else {
            c
        };
    }
    let ((fa, ea), (fb, eb)) = (split(a), split(b));
    let product = (negative, u128::from(fa) * u128::from(fb), ea + eb);
    if c == 0.0 {
        return round(product.0, product.1, product.2, mode);
    }
    let (fc, ec) = split(c);
    let addend = (c.is_sign_negative(), u128::from(fc), ec);
    // the top bit of each to bit 124: the larger one stays exact, and the smaller one loses bits
    // only where they tell nothing but that they are there
    let top = |(sign, f, e): (bool, u128, i32)| {
        let shift = f.leading_zeros() - 3;
        (sign, f << shift, e - shift as i32)
    };
    let (x, y) = (top(product), top(addend));
    let (large, small) = if (x.2, x.1) >= (y.2, y.1) {
        (x, y)
    } else {
        (y, x)
    };
    let down = (large.2 - small.2) as u32;
    let moved = if down == 0 {
        small.1
    } else if down > 127 {
        1
    } else {
        small.1 >> down | u128::from(small.1 & ((1 << down) - 1) != 0)
    };
    if large.0 == small.0 {
        return round(large.0, large.1 + moved, large.2, mode);
    }
    match large.1 - moved {
        0 if mode == Round::Rm => -0.0,
        0 => 0.0,
        difference => round(large.0, difference, large.2, mode),
    }
}

/// `f` of the upper 32 bits, of which upper 32 bits are given; denormals are zeros.
pub(super) fn gross(a: f64, f: impl Fn(f64) -> f64) -> f64 {
    let flush = |x: f64| {
        if x.is_subnormal() {
            0f64.copysign(x)
        } else {
            x
        }
    };
    let upper = |x: f64| f64::from_bits(x.to_bits() & !0xffff_ffff);
    let r = f(flush(upper(a)));
    if r.is_nan() {
        // the canonical one
        return f64::from_bits(0x7fff_ffff_0000_0000);
    }
    flush(upper(r))
}

/// Significand and exponent of a finite number that is not zero.
fn split(x: f64) -> (u64, i32) {
    let bits = x.to_bits();
    let e = (bits >> 52 & 0x7ff) as i32;
    let f = bits & ((1 << 52) - 1);
    if e == 0 {
        (f, -1074)
    } else {
        (f | 1 << 52, e - 1075)
    }
}

/// As [`split`], with the significand's top bit at 52.
fn normal(x: f64) -> (u64, i32) {
    let (f, e) = split(x);
    let shift = f.leading_zeros() - 11;
    (f << shift, e - shift as i32)
}

/// What a result beyond all numbers becomes.
fn overflow(negative: bool, mode: Round) -> f64 {
    let away = match mode {
        Round::Rz => false,
        Round::Rm => negative,
        Round::Rp => !negative,
        Round::Rn | Round::Rna => true,
    };
    let magnitude = if away { f64::INFINITY } else { f64::MAX };
    if negative { -magnitude } else { magnitude }
}

/// `f` times 2^`e` rounded; `f` is not zero. Where it is not exact, its lowest bit is set, and it
/// has at least two bits more than a result.
fn round(negative: bool, f: u128, e: i32, mode: Round) -> f64 {
    let top = 127 - f.leading_zeros() as i32 + e;
    if top > 1023 {
        return overflow(negative, mode);
    }
    let last = (top - 52).max(-1074);
    let drop = last - e;
    let (mut kept, rest, half) = if drop <= 0 {
        (f << -drop, 0, 1)
    } else if drop > 127 {
        // so far below the least number that only its being there counts
        (0, 1, 2)
    } else {
        (f >> drop, f & ((1 << drop) - 1), 1 << (drop - 1))
    };
    let up = match mode {
        Round::Rm => negative && rest != 0,
        Round::Rp => !negative && rest != 0,
        Round::Rz => false,
        Round::Rn => rest > half || rest == half && kept & 1 == 1,
        Round::Rna => rest >= half,
    };
    kept += u128::from(up);
    // the exponent of the last bit, counted from that of denormals; a significand that became
    // 2^53 carries into it
    let bits = kept as u64 + (((last + 1074) as u64) << 52);
    let magnitude = f64::from_bits(bits);
    match (magnitude.is_finite(), negative) {
        (false, _) => overflow(negative, mode),
        (true, true) => -magnitude,
        (true, false) => magnitude,
    }
}
