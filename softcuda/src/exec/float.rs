//! Floating point as PTX defines it: formats, rounding, NaN, denormals.
//!
//! Results are exact: a wider result is computed together with what it lost ("round to odd"), and
//! rounded once to the format.

/// NaN of 32-bit results (PTX ISA, "Floating Point Instructions").
pub(crate) const NAN32: u32 = 0x7fff_ffff;
/// NaN of 16-bit results, of both formats.
pub(crate) const NAN16: u16 = 0x7fff;

/// Directions of rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Round {
    /// To nearest, ties to even.
    Rn,
    /// To nearest, ties away from zero.
    Rna,
    /// Towards zero.
    Rz,
    /// Towards minus infinity.
    Rm,
    /// Towards plus infinity.
    Rp,
}

#[inline(always)]
pub(crate) fn canon(x: f32) -> f32 {
    if x.is_nan() { f32::from_bits(NAN32) } else { x }
}

/// Denormals to zero of the same sign.
#[inline(always)]
pub(crate) fn ftz(x: f32) -> f32 {
    let bits = x.to_bits();
    if bits & 0x7f80_0000 == 0 {
        f32::from_bits(bits & 0x8000_0000)
    } else {
        x
    }
}

/// Clamped to 0..=1; NaN gives +0.
#[inline(always)]
pub(crate) fn sat(x: f32) -> f32 {
    if x >= 1.0 {
        1.0
    } else if x > 0.0 {
        x
    } else {
        0.0
    }
}

#[inline(always)]
pub(crate) fn sat64(x: f64) -> f64 {
    if x >= 1.0 {
        1.0
    } else if x > 0.0 {
        x
    } else {
        0.0
    }
}

/// `.min`: a number wins over NaN, -0 is below +0.
#[inline(always)]
pub(crate) fn min32(a: f32, b: f32) -> f32 {
    let less = a < b || (a == b && a.is_sign_negative()) || b.is_nan();
    canon(if less { a } else { b })
}

#[inline(always)]
pub(crate) fn max32(a: f32, b: f32) -> f32 {
    let more = a > b || (a == b && a.is_sign_positive()) || b.is_nan();
    canon(if more { a } else { b })
}

#[inline(always)]
pub(crate) fn min64(a: f64, b: f64) -> f64 {
    let less = a < b || (a == b && a.is_sign_negative()) || b.is_nan();
    if less { a } else { b }
}

#[inline(always)]
pub(crate) fn max64(a: f64, b: f64) -> f64 {
    let more = a > b || (a == b && a.is_sign_positive()) || b.is_nan();
    if more { a } else { b }
}

/// NaN if either is.
#[inline(always)]
pub(crate) fn nan_or(a: f32, b: f32, r: f32) -> f32 {
    if a.is_nan() || b.is_nan() {
        f32::from_bits(NAN32)
    } else {
        r
    }
}

/// Moves an inexact sum to the neighbour with an odd last bit: `x` is the rounded value, `error`
/// the exact value minus `x`. What is rounded from it to fewer bits is rounded correctly.
#[inline(always)]
fn to_odd(x: f64, error: f64) -> f64 {
    if error == 0.0 || !x.is_finite() || error.is_nan() {
        return x;
    }
    let bits = x.to_bits();
    if bits & 1 == 1 {
        return x;
    }
    // towards the error: away from zero where it has the sign of x
    let away = (error > 0.0) == (x > 0.0) || x == 0.0;
    if away {
        f64::from_bits(bits + 1)
    } else {
        f64::from_bits(bits - 1)
    }
}

/// `a + b` to odd.
#[inline(always)]
pub(crate) fn add_odd(a: f64, b: f64) -> f64 {
    let s = a + b;
    let t = s - a;
    let error = (a - (s - t)) + (b - t);
    to_odd(s, error)
}

/// `a * b + c` to odd, for factors whose product is exact in f64.
#[inline(always)]
pub(crate) fn fma_odd(a: f64, b: f64, c: f64) -> f64 {
    add_odd(a * b, c)
}

/// `a / b` to odd, for operands of 32-bit floats.
pub(crate) fn div_odd(a: f64, b: f64) -> f64 {
    let q = a / b;
    if !q.is_finite() || b.is_infinite() {
        return q;
    }
    // the remainder of a correctly rounded quotient is exact in fused arithmetic
    let r = (-q).mul_add(b, a);
    to_odd(q, if b > 0.0 { r } else { -r })
}

/// Square root to odd.
pub(crate) fn sqrt_odd(a: f64) -> f64 {
    let s = a.sqrt();
    if !s.is_finite() {
        return s;
    }
    to_odd(s, (-s).mul_add(s, a))
}

/// A binary format of up to 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    /// Bits of the fraction as stored.
    pub fraction: u32,
    /// Bits of the exponent.
    pub exponent: u32,
    /// Infinities and NaN as IEEE has them; e4m3 has no infinity and one NaN.
    pub ieee: bool,
}

impl Format {
    pub const F32: Format = Format {
        fraction: 23,
        exponent: 8,
        ieee: true,
    };
    pub const TF32: Format = Format {
        fraction: 10,
        exponent: 8,
        ieee: true,
    };
    pub const BF16: Format = Format {
        fraction: 7,
        exponent: 8,
        ieee: true,
    };
    pub const F16: Format = Format {
        fraction: 10,
        exponent: 5,
        ieee: true,
    };
    pub const E5M2: Format = Format {
        fraction: 2,
        exponent: 5,
        ieee: true,
    };
    pub const E4M3: Format = Format {
        fraction: 3,
        exponent: 4,
        ieee: false,
    };

    fn bias(self) -> i32 {
        (1 << (self.exponent - 1)) - 1
    }

    /// Largest finite number without its sign.
    pub fn largest(self) -> u32 {
        let all = (1u32 << (self.fraction + self.exponent)) - 1;
        if self.ieee {
            all - (1 << self.fraction)
        } else {
            all - 1
        }
    }

    /// Infinity without its sign; NaN where there is none.
    pub fn infinity(self) -> u32 {
        let all = (1u32 << (self.fraction + self.exponent)) - 1;
        if self.ieee {
            all - ((1 << self.fraction) - 1)
        } else {
            all
        }
    }

    /// The NaN that operations give.
    pub fn nan(self) -> u32 {
        (1u32 << (self.fraction + self.exponent)) - 1
    }

    /// Rounds `x` to the format, and beyond the largest finite number as IEEE does, or with
    /// `satfinite` to that number. `x` must be exact or rounded to odd.
    pub fn round(self, x: f64, mode: Round, satfinite: bool) -> u32 {
        let sign = u32::from(x.is_sign_negative()) << (self.fraction + self.exponent);
        if x.is_nan() {
            return self.nan();
        }
        if x == 0.0 {
            return sign;
        }
        if x.is_infinite() {
            let end = if satfinite {
                self.largest()
            } else {
                self.infinity()
            };
            return sign | end;
        }
        let bits = x.to_bits();
        let exponent = ((bits >> 52) & 0x7ff) as i32;
        // value = significand * 2^scale
        let (significand, scale) = if exponent == 0 {
            (bits & ((1 << 52) - 1), -1074)
        } else {
            ((bits & ((1 << 52) - 1)) | (1 << 52), exponent - 1075)
        };
        let top = 63 - significand.leading_zeros() as i32 + scale;
        let least = 1 - self.bias() - self.fraction as i32;
        // weight of the last bit kept
        let last = (top - self.fraction as i32).max(least);
        let drop = last - scale;
        let (mut kept, rest, half) = if drop <= 0 {
            (significand << (-drop).min(63), 0, 1)
        } else if drop > 63 {
            (0, 1, 2)
        } else {
            let rest = significand & ((1 << drop) - 1);
            (significand >> drop, rest, 1u64 << (drop - 1))
        };
        let negative = sign != 0;
        let up = match mode {
            Round::Rn => rest > half || (rest == half && kept & 1 == 1),
            Round::Rna => rest >= half,
            Round::Rz => false,
            Round::Rm => negative && rest != 0,
            Round::Rp => !negative && rest != 0,
        };
        kept += u64::from(up);
        // kept has up to fraction + 1 bits, or one more after a carry; adding the biased exponent
        // to it as an integer does the right thing in every case
        let encoded = if last == least {
            kept
        } else {
            kept + (((last - least) as u64) << self.fraction)
        };
        if encoded > u64::from(self.largest()) {
            let finite = satfinite
                || match mode {
                    Round::Rn | Round::Rna => false,
                    Round::Rz => true,
                    Round::Rm => !negative,
                    Round::Rp => negative,
                };
            return sign
                | if finite {
                    self.largest()
                } else {
                    self.infinity()
                };
        }
        sign | encoded as u32
    }

    /// The number that `bits` stand for.
    pub fn value(self, bits: u32) -> f64 {
        let magnitude = bits & ((1 << (self.fraction + self.exponent)) - 1);
        let negative = bits >> (self.fraction + self.exponent) & 1 == 1;
        let fraction = magnitude & ((1 << self.fraction) - 1);
        let exponent = (magnitude >> self.fraction) as i32;
        let value =
            if self.ieee && magnitude > self.infinity() || !self.ieee && magnitude == self.nan() {
                f64::NAN
            } else if self.ieee && magnitude == self.infinity() {
                f64::INFINITY
            } else if exponent == 0 {
                f64::from(fraction) * exp2(1 - self.bias() - self.fraction as i32)
            } else {
                f64::from(fraction | (1 << self.fraction))
                    * exp2(exponent - self.bias() - self.fraction as i32)
            };
        if negative { -value } else { value }
    }
}

fn exp2(power: i32) -> f64 {
    // in the range of normal numbers for every format here
    f64::from_bits(((power + 1023) as u64) << 52)
}

/// f64 (exact or to odd) to f32.
pub(crate) fn to32(x: f64, mode: Round) -> f32 {
    match mode {
        Round::Rn => x as f32,
        mode => f32::from_bits(Format::F32.round(x, mode, false)),
    }
}

#[inline(always)]
pub(crate) fn bf16_to_f32(h: u16) -> f32 {
    f32::from_bits(u32::from(h) << 16)
}

#[inline(always)]
pub(crate) fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
    if x.is_nan() { NAN16 } else { rounded }
}

#[inline(always)]
pub(crate) fn f16_to_f32(h: u16) -> f32 {
    f16_of(u32::from(h & 0x7fff) << 13, u32::from(h & 0x8000) << 16)
}

/// The f16 whose exponent and fraction (`magnitude`) and sign lie where an f32 has its own.
#[inline(always)]
pub(crate) fn f16_of(magnitude: u32, sign: u32) -> f32 {
    // 2^112 moves the exponent from one bias to the other, and makes denormals normal
    let scaled = f32::from_bits(magnitude) * f32::from_bits(0x7780_0000);
    let special = magnitude | 0x7f80_0000;
    let bits = if magnitude >= 0x0f80_0000 {
        special
    } else {
        scaled.to_bits()
    };
    f32::from_bits(sign | bits)
}

#[inline(always)]
pub(crate) fn f32_to_f16(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = (bits >> 16) as u16 & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    // below 2^-14: adding 0.5 leaves the denormal's bits, rounded, at the end of the fraction
    let small = (f32::from_bits(magnitude) + 0.5)
        .to_bits()
        .wrapping_sub(0x3f00_0000);
    let odd = (magnitude >> 13) & 1;
    let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(0xfff + odd) >> 13;
    let finite = if magnitude < (113 << 23) {
        small
    } else {
        normal
    };
    let result = if magnitude >= 0x4780_0000 {
        0x7c00
    } else {
        finite as u16
    };
    if magnitude > 0x7f80_0000 {
        NAN16
    } else {
        sign | result
    }
}

/// A 64-bit float's sum, product or fused result with directed rounding: `x` rounded to nearest,
/// `error` of the exact value against it.
pub(crate) fn direct64(x: f64, error: f64, mode: Round) -> f64 {
    if error == 0.0 || error.is_nan() || x.is_nan() || x.is_infinite() {
        return x;
    }
    let (down, up) = (error < 0.0, error > 0.0);
    match mode {
        Round::Rn | Round::Rna => x,
        Round::Rz if x > 0.0 && down || x < 0.0 && up => f64::from_bits(x.to_bits() - 1),
        Round::Rz => x,
        Round::Rm if down => x.next_down(),
        Round::Rm => x,
        Round::Rp if up => x.next_up(),
        Round::Rp => x,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_survives_and_f32_rounds_as_half_does() {
        for h in 0..=u16::MAX {
            let expected = half::f16::from_bits(h);
            let found = f16_to_f32(h);
            assert!(
                found.to_bits() == expected.to_f32().to_bits()
                    || expected.is_nan() && found.is_nan()
            );
            let back = if expected.is_nan() { NAN16 } else { h };
            assert_eq!(f32_to_f16(found), back, "{h:#x}");
            assert_eq!(
                Format::F16.round(f64::from(found), Round::Rn, false) as u16,
                back,
                "{h:#x}"
            );
        }
        for bits in (0..=u32::MAX).step_by(4093) {
            let x = f32::from_bits(bits);
            if !x.is_nan() {
                let f16 = half::f16::from_f32(x).to_bits();
                assert_eq!(f32_to_f16(x), f16, "{x:e}");
                assert_eq!(
                    Format::F16.round(f64::from(x), Round::Rn, false) as u16,
                    f16,
                    "{x:e}"
                );
                let bf16 = half::bf16::from_f32(x).to_bits();
                assert_eq!(f32_to_bf16(x), bf16, "{x:e}");
                assert_eq!(
                    Format::BF16.round(f64::from(x), Round::Rn, false) as u16,
                    bf16,
                    "{x:e}"
                );
                assert_eq!(Format::F32.round(f64::from(x), Round::Rp, false), bits);
            }
        }
    }

    #[test]
    fn directed_rounding_brackets_the_value() {
        for bits in (1..0x7ff0_0000_0000_0000u64).step_by(0x0001_2345_6789_abcd) {
            let x = f64::from_bits(bits);
            let down = to32(x, Round::Rm);
            let up = to32(x, Round::Rp);
            assert!(f64::from(down) <= x && x <= f64::from(up), "{x:e}");
            assert_eq!(to32(x, Round::Rz), down);
            assert!(down == up || down.next_up() == up, "{x:e}");
            assert_eq!(to32(-x, Round::Rp), -down);
            let near = f32::from_bits(Format::F32.round(x, Round::Rn, false));
            assert_eq!(near, x as f32);
        }
    }
}
