//! `.approx`: functions of which the manual gives bounds of the error, and the exact results of
//! zeros, infinities and NaN.
//!
//! Results are computed in double precision and rounded, which is closer than any of the bounds. A
//! seed moves them within the bounds, by a number that depends on the seed, the opcode and the bits
//! of the operands alone, so that a program that relies on more than the manual says is found out.
//! What the manual states exactly, and denormal results, no seed moves; nor those of the gross
//! approximations in double precision, for which it states no bound.

use super::double::gross;
use super::float::*;
use super::lanes::*;
use super::select::{self, Class, Selected, each1};
use crate::ptx::Type;
use Type::*;

/// A number that depends on seed, opcode and operand bits alone.
#[inline(always)]
fn mix(seed: u64, op: u64, a: u32, b: u32) -> u64 {
    let mut x = seed ^ op.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= u64::from(a) | u64::from(b) << 32;
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// `r` moved by up to `ulps` units of its last place.
fn nudge(r: f32, seed: u64, op: u64, a: u32, b: u32, ulps: i64) -> f32 {
    let magnitude = r.to_bits() & 0x7fff_ffff;
    if seed == 0 || magnitude >= 0x7f80_0000 || magnitude < 0x0080_0000 + ulps as u32 {
        // zero, denormal or next to it: the bounds are relative
        return r;
    }
    let step = (mix(seed, op, a, b) % (2 * ulps as u64 + 1)) as i64 - ulps;
    let moved = (i64::from(magnitude) + step).min(0x7f7f_ffff);
    f32::from_bits(r.to_bits() & 0x8000_0000 | moved as u32)
}

/// `x` rounded to nearest, or with a seed up or down.
#[inline(always)]
fn neighbour(x: f64, seed: u64, op: u64, a: u32) -> f32 {
    let near = x as f32;
    // by its bits: asked whether the root of a negative number is NaN, LLVM gives the processor's
    // NaN for ours
    if near.to_bits() & 0x7fff_ffff > 0x7f80_0000 {
        return f32::from_bits(NAN32);
    }
    if seed == 0 || !near.is_normal() {
        return near;
    }
    let (down, up) = match f64::from(near) {
        n if n > x => (near.next_down(), near),
        n if n < x => (near, near.next_up()),
        _ => return near,
    };
    if mix(seed, op, a, 0) & 1 == 0 {
        down
    } else {
        up
    }
}

/// As [`neighbour`], in a format of 16 bits.
fn narrow(format: Format, x: f64, seed: u64, op: u64, a: u16) -> u16 {
    let near = format.round(x, Round::Rn, false);
    let magnitude = near & 0x7fff;
    if seed == 0 || magnitude < 1 << format.fraction || magnitude >= format.infinity() {
        return near as u16;
    }
    let mode = if mix(seed, op, a.into(), 0) & 1 == 0 {
        Round::Rm
    } else {
        Round::Rp
    };
    format.round(x, mode, false) as u16
}

/// A function of `f64` within `$ulps` of the last place; `$a` is flushed before if `$ftz`.
macro_rules! within {
    ($op:expr, $ulps:expr, $ftz:expr, |$a:ident| $e:expr) => {
        lanes!(@ |regs, slots, mask| {
            let seed = regs.approx;
            map1::<f32, f32>(regs, slots, mask, |a: f32| {
                let bits = a.to_bits();
                let a = if $ftz { ftz(a) } else { a };
                let $a = f64::from(a);
                let r = canon($e as f32);
                // the results of zeros and infinities are exact
                let moves = if a == 0.0 || a.is_infinite() { 0 } else { seed };
                let r = nudge(r, moves, $op, bits, 0, $ulps);
                if $ftz { ftz(r) } else { r }
            })
        })
    };
}

/// A function of `f64` whose bound is one unit of the last place: one of the two neighbours of the
/// exact result.
macro_rules! either {
    ($op:expr, $ftz:expr, |$a:ident| $e:expr) => {
        lanes!(@ |regs, slots, mask| {
            let seed = regs.approx;
            map1::<f32, f32>(regs, slots, mask, |a: f32| {
                let bits = a.to_bits();
                let $a = f64::from(if $ftz { ftz(a) } else { a });
                let r = neighbour($e, seed, $op, bits);
                if $ftz { ftz(r) } else { r }
            })
        })
    };
}

/// A function of `f64` on halves, one or two to a register.
macro_rules! on_halves {
    ($op:expr, $format:ident, $to:ident, $pair:expr, |$a:ident| $e:expr) => {{
        #[inline(always)]
        fn one(h: u16, seed: u64) -> u16 {
            let $a = f64::from($to(h));
            narrow(Format::$format, $e, seed, $op, h)
        }
        if $pair {
            lanes!(@ |regs, slots, mask| {
                let seed = regs.approx;
                map1::<u32, u32>(regs, slots, mask, |a: u32| each1(a, |h| one(h, seed)))
            })
        } else {
            lanes!(@ |regs, slots, mask| {
                let seed = regs.approx;
                map1::<u16, u16>(regs, slots, mask, |h: u16| one(h, seed))
            })
        }
    }};
}

/// bf16 to f32, with denormals flushed; they are those of f32.
#[inline(always)]
fn flushed(h: u16) -> f32 {
    ftz(bf16_to_f32(h))
}

/// A denormal result of bf16 becomes zero.
#[inline(always)]
fn flush(x: f64) -> f64 {
    if x.abs() < f64::from(f32::MIN_POSITIVE) {
        0f64.copysign(x)
    } else {
        x
    }
}

/// The function that runs `op.approx` on `ty`; `None` where the manual has none.
pub(super) fn unary(op: &str, ty: Type, ftz_: bool) -> Option<Selected> {
    macro_rules! by_ftz {
        ($kind:ident, $($arg:expr),+; |$a:ident| $e:expr) => {
            if ftz_ {
                $kind!($($arg),+, true, |$a| $e)
            } else {
                $kind!($($arg),+, false, |$a| $e)
            }
        };
    }
    let pair = matches!(ty, F16x2 | Bf16x2);
    let run = match (op, ty) {
        ("rcp", F32) => by_ftz!(either, 10; |a| 1.0 / a),
        ("sqrt", F32) => by_ftz!(either, 11; |a| a.sqrt()),
        ("rsqrt", F32) => by_ftz!(either, 12; |a| 1.0 / a.sqrt()),
        ("sin", F32) => by_ftz!(within, 13, 1; |a| a.sin()),
        ("cos", F32) => by_ftz!(within, 14, 1; |a| a.cos()),
        ("lg2", F32) => by_ftz!(within, 15, 1; |a| a.log2()),
        ("ex2", F32) => by_ftz!(within, 16, 1; |a| a.exp2()),
        // 2^-11 relative is 4096 units where the fraction is least
        ("tanh", F32) if !ftz_ => within!(17, 4000, false, |a| a.tanh()),
        ("ex2", F16 | F16x2) if !ftz_ => on_halves!(18, F16, f16_to_f32, pair, |a| a.exp2()),
        ("tanh", F16 | F16x2) if !ftz_ => on_halves!(19, F16, f16_to_f32, pair, |a| a.tanh()),
        ("ex2", Bf16 | Bf16x2) if ftz_ => {
            on_halves!(20, BF16, flushed, pair, |a| flush(a.exp2()))
        }
        ("tanh", Bf16 | Bf16x2) if !ftz_ => {
            on_halves!(21, BF16, bf16_to_f32, pair, |a| a.tanh())
        }
        ("rcp", F64) if ftz_ => lanes!(f64: |a| gross(a, |a| 1.0 / a)),
        ("rsqrt", F64) if ftz_ => lanes!(f64: |a| gross(a, |a| 1.0 / a.sqrt())),
        ("rsqrt", F64) => lanes!(f64: |a| 1.0 / a.sqrt()),
        _ => return None,
    };
    let mut selected = select::unary(ty, run)?;
    selected.class = Class::Special;
    Some(selected)
}

/// A quotient within two units of the last place.
macro_rules! quotient {
    ($op:expr, $ftz:expr, |$a:ident, $b:ident| $e:expr) => {
        lanes!(@ |regs, slots, mask| {
            let seed = regs.approx;
            map2::<f32, f32, f32>(regs, slots, mask, |x: f32, y: f32| {
                let ($a, $b) = if $ftz { (ftz(x), ftz(y)) } else { (x, y) };
                let r = nudge(canon($e), seed, $op, x.to_bits(), y.to_bits(), 1);
                if $ftz { ftz(r) } else { r }
            })
        })
    };
}

/// `div.full.f32`: good in the whole range.
pub(super) fn full_quotient(ftz_: bool) -> LaneFn {
    if ftz_ {
        quotient!(4, true, |a, b| a / b)
    } else {
        quotient!(4, false, |a, b| a / b)
    }
}

/// `div.approx.f32`: the dividend times a reciprocal, which is zero for divisors above 2^126.
pub(super) fn quotient(ftz_: bool) -> LaneFn {
    const MOST: f32 = f32::from_bits((126 + 127) << 23);
    #[inline(always)]
    fn divide(a: f32, b: f32) -> f32 {
        if b.abs() > MOST {
            a * 0f32.copysign(b)
        } else {
            a / b
        }
    }
    if ftz_ {
        quotient!(5, true, |a, b| divide(a, b))
    } else {
        quotient!(5, false, |a, b| divide(a, b))
    }
}
