//! `cvt`: conversions between all types.

use super::float::*;
use super::lanes::*;
use super::select::{Class, Mods, Selected};
use crate::ptx::Type;
use Type::*;

/// Rounding of a conversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum How {
    None,
    /// To a float.
    Float(Round),
    /// To an integer (also within a float type).
    Integer(Round),
}

fn plan(d: Type, args: &[Type], run: LaneFn) -> Option<Selected> {
    Some(Selected {
        run,
        d,
        args: args.to_vec(),
        class: Class::Convert,
        x: 0,
    })
}

/// The function for a `cvt`; `d_bytes` is the width of the register that it writes.
pub(crate) fn convert(mods: &mut Mods, d_bytes: u32) -> Option<Selected> {
    let from = mods.last()?;
    let to = mods.last()?;
    let how = match mods.one_of(&["rni", "rzi", "rmi", "rpi", "rna", "rn", "rz", "rm", "rp"]) {
        None => How::None,
        Some("rni") => How::Integer(Round::Rn),
        Some("rzi") => How::Integer(Round::Rz),
        Some("rmi") => How::Integer(Round::Rm),
        Some("rpi") => How::Integer(Round::Rp),
        Some("rna") => How::Float(Round::Rna),
        Some("rn") => How::Float(Round::Rn),
        Some("rz") => How::Float(Round::Rz),
        Some("rm") => How::Float(Round::Rm),
        Some(_) => How::Float(Round::Rp),
    };
    let (ftz_, sat_) = (mods.take("ftz"), mods.take("sat"));
    let (relu, satfinite) = (mods.take("relu"), mods.take("satfinite"));
    if let Some(found) = packed(to, from, how, ftz_ || sat_, relu, satfinite) {
        return Some(found);
    }
    let (to, from) = (Type::named(to)?, Type::named(from)?);
    if matches!(to, B8 | B16 | B32 | B64 | B128 | Pred | F16x2 | Bf16x2)
        || matches!(from, B8 | B16 | B32 | B64 | B128 | Pred | F16x2 | Bf16x2)
    {
        return None;
    }
    // rounding must be said where it matters, and only there
    let ok = match (to.float(), from.float(), how) {
        (false, false, How::None) => true,
        (false, true, How::Integer(_)) => true,
        (true, false, How::Float(mode)) => mode != Round::Rna,
        (true, true, How::Float(mode)) => mode != Round::Rna && to != from,
        (true, true, How::None) => to == from || to.bytes() > from.bytes(),
        (true, true, How::Integer(_)) => to == from,
        _ => false,
    };
    let f32_in = from == F32 || to == F32;
    if !ok || ftz_ && !f32_in || (relu || satfinite) && !(from == F32 && to.bytes() == 2) {
        return None;
    }
    if !sat_ && !relu && !satfinite && to.bytes() <= d_bytes.max(4) {
        let exact = to.bytes() == d_bytes || to.bytes() == 4;
        if let (true, Some(run)) = (exact, fast(to, from, how, ftz_)) {
            return plan(to, &[from], run);
        }
    }
    let mut selected = plan(to, &[from], slow())?;
    selected.x = Slow {
        to,
        from,
        how,
        ftz: ftz_,
        sat: sat_,
        relu,
        satfinite,
        d_bytes,
    }
    .pack();
    if d_bytes == 8 && to.bytes() < 8 {
        selected.d = if to.signed() { S64 } else { U64 };
    }
    Some(selected)
}

/// The conversions that kernels are made of.
fn fast(to: Type, from: Type, how: How, ftz_: bool) -> Option<LaneFn> {
    use How::*;
    use Round::*;
    if ftz_ {
        return Some(match (to, from, how) {
            (F32, F16, None) => lanes!(u16 => f32: |a| canon(f16_to_f32(a))),
            (F16, F32, Float(Rn)) => lanes!(f32 => u16: |a| f32_to_f16(ftz(a))),
            (S32, F32, Integer(Rz)) => lanes!(f32 => i32: |a| a as i32),
            _ => return Option::None,
        });
    }
    Some(match (to, from, how) {
        (U64 | S64, U32, None) => lanes!(u32 => u64: |a| a.into()),
        (U64 | S64, S32, None) => lanes!(i32 => i64: |a| a.into()),
        (U64 | S64, U16, None) => lanes!(u16 => u64: |a| a.into()),
        (U64 | S64, S16, None) => lanes!(i16 => i64: |a| a.into()),
        (U32 | S32, U64 | S64, None) => lanes!(u64 => u32: |a| a as u32),
        (U32 | S32, U32 | S32, None) => lanes!(u32: |a| a),
        (U64 | S64, U64 | S64, None) => lanes!(u64: |a| a),
        (U32 | S32, U16, None) => lanes!(u16 => u32: |a| a.into()),
        (U32 | S32, S16, None) => lanes!(i16 => i32: |a| a.into()),
        (U32 | S32, U8, None) => lanes!(u8 => u32: |a| a.into()),
        (U32 | S32, S8, None) => lanes!(i8 => i32: |a| a.into()),
        (U16 | S16, U32 | S32, None) => lanes!(u32 => u16: |a| a as u16),
        (U16 | S16, U64 | S64, None) => lanes!(u64 => u16: |a| a as u16),
        (U16 | S16, U16 | S16, None) => lanes!(u16: |a| a),
        (U16 | S16, U8, None) => lanes!(u8 => u16: |a| a.into()),
        (U16 | S16, S8, None) => lanes!(i8 => i16: |a| a.into()),
        (F32, S32, Float(Rn)) => lanes!(i32 => f32: |a| a as f32),
        (F32, U32, Float(Rn)) => lanes!(u32 => f32: |a| a as f32),
        (F32, S64, Float(Rn)) => lanes!(i64 => f32: |a| a as f32),
        (F32, U64, Float(Rn)) => lanes!(u64 => f32: |a| a as f32),
        (F64, S32, Float(Rn)) => lanes!(i32 => f64: |a| a.into()),
        (F64, U32, Float(Rn)) => lanes!(u32 => f64: |a| a.into()),
        (S32, F32, Integer(Rz)) => lanes!(f32 => i32: |a| a as i32),
        (U32, F32, Integer(Rz)) => lanes!(f32 => u32: |a| a as u32),
        (S32, F32, Integer(Rn)) => lanes!(f32 => i32: |a| a.round_ties_even() as i32),
        (S32, F32, Integer(Rm)) => lanes!(f32 => i32: |a| a.floor() as i32),
        (F32, F32, Integer(Rn)) => lanes!(f32: |a| canon(a.round_ties_even())),
        (F32, F32, Integer(Rz)) => lanes!(f32: |a| canon(a.trunc())),
        (F32, F32, Integer(Rm)) => lanes!(f32: |a| canon(a.floor())),
        (F32, F32, Integer(Rp)) => lanes!(f32: |a| canon(a.ceil())),
        (F64, F32, None) => lanes!(f32 => f64: |a| a.into()),
        (F32, F64, Float(Rn)) => lanes!(f64 => f32: |a| canon(a as f32)),
        (F32, F16, None) => lanes!(u16 => f32: |a| canon(f16_to_f32(a))),
        (F32, Bf16, None) => lanes!(u16 => f32: |a| canon(bf16_to_f32(a))),
        (F16, F32, Float(Rn)) => lanes!(f32 => u16: |a| f32_to_f16(a)),
        (Bf16, F32, Float(Rn)) => lanes!(f32 => u16: |a| f32_to_bf16(a)),
        _ => return Option::None,
    })
}

/// Conversions of two numbers at once, and to tf32.
fn packed(
    to: &str,
    from: &str,
    how: How,
    other: bool,
    relu: bool,
    satfinite: bool,
) -> Option<Selected> {
    if other {
        return None;
    }
    match (to, from, how) {
        ("f16x2", "f32", How::Float(Round::Rn)) if !relu && !satfinite => plan(
            F16x2,
            &[F32, F32],
            lanes!(f32, f32 => u32: |a, b| {
                u32::from(f32_to_f16(b)) | u32::from(f32_to_f16(a)) << 16
            }),
        ),
        ("bf16x2", "f32", How::Float(Round::Rn)) if !relu && !satfinite => plan(
            Bf16x2,
            &[F32, F32],
            lanes!(f32, f32 => u32: |a, b| {
                u32::from(f32_to_bf16(b)) | u32::from(f32_to_bf16(a)) << 16
            }),
        ),
        ("f16x2" | "bf16x2", "f32", How::Float(mode @ (Round::Rn | Round::Rz))) => {
            let mut selected = plan(
                B32,
                &[F32, F32],
                lanes!(@ |regs, slots, mask| {
                    let x = slots.x;
                    map2::<f32, f32, u32>(regs, slots, mask, |a, b| {
                        let one = |v: f32| {
                            let format = if x & 1 == 1 { Format::BF16 } else { Format::F16 };
                            let mode = if x & 2 != 0 { Round::Rz } else { Round::Rn };
                            narrow(v, format, mode, x & 4 != 0, x & 8 != 0)
                        };
                        one(b) | one(a) << 16
                    })
                }),
            )?;
            selected.x = u32::from(to == "bf16x2")
                | u32::from(mode == Round::Rz) << 1
                | u32::from(relu) << 2
                | u32::from(satfinite) << 3;
            Some(selected)
        }
        ("tf32", "f32", How::Float(mode @ (Round::Rna | Round::Rn | Round::Rz))) => {
            let mut selected = plan(
                B32,
                &[F32],
                lanes!(@ |regs, slots, mask| {
                    let x = slots.x;
                    map1::<f32, u32>(regs, slots, mask, |a| {
                        let mode = match x & 3 {
                            0 => Round::Rna,
                            1 => Round::Rn,
                            _ => Round::Rz,
                        };
                        if a.is_nan() {
                            return NAN32;
                        }
                        narrow(a, Format::TF32, mode, x & 4 != 0, x & 8 != 0) << 13
                    })
                }),
            )?;
            selected.x = match mode {
                Round::Rna => 0,
                Round::Rn => 1,
                _ => 2,
            } | u32::from(relu) << 2
                | u32::from(satfinite) << 3;
            Some(selected)
        }
        ("e4m3x2" | "e5m2x2", "f32", How::Float(Round::Rn)) if satfinite => {
            let mut selected = plan(
                B16,
                &[F32, F32],
                lanes!(@ |regs, slots, mask| {
                    let x = slots.x;
                    map2::<f32, f32, u16>(regs, slots, mask, |a, b| {
                        let format = if x & 1 == 1 { Format::E5M2 } else { Format::E4M3 };
                        let one = |v: f32| narrow(v, format, Round::Rn, x & 4 != 0, true);
                        (one(b) | one(a) << 8) as u16
                    })
                }),
            )?;
            selected.x = u32::from(to == "e5m2x2") | u32::from(relu) << 2;
            Some(selected)
        }
        ("e4m3x2" | "e5m2x2", "f16x2", How::Float(Round::Rn)) if satfinite => {
            let mut selected = plan(
                B16,
                &[B32],
                lanes!(@ |regs, slots, mask| {
                    let x = slots.x;
                    map1::<u32, u16>(regs, slots, mask, |a| {
                        let format = if x & 1 == 1 { Format::E5M2 } else { Format::E4M3 };
                        let one = |v: u16| {
                            narrow(f16_to_f32(v), format, Round::Rn, x & 4 != 0, true)
                        };
                        (one(a as u16) | one((a >> 16) as u16) << 8) as u16
                    })
                }),
            )?;
            selected.x = u32::from(to == "e5m2x2") | u32::from(relu) << 2;
            Some(selected)
        }
        ("f16x2", "e4m3x2" | "e5m2x2", How::Float(Round::Rn)) if !satfinite => {
            let mut selected = plan(
                B32,
                &[B16],
                lanes!(@ |regs, slots, mask| {
                    let x = slots.x;
                    map1::<u16, u32>(regs, slots, mask, |a| {
                        let format = if x & 1 == 1 { Format::E5M2 } else { Format::E4M3 };
                        let one = |v: u16| {
                            let v = format.value(u32::from(v)) as f32;
                            narrow(v, Format::F16, Round::Rn, x & 4 != 0, false)
                        };
                        one(a & 0xff) | one(a >> 8) << 16
                    })
                }),
            )?;
            selected.x = u32::from(from == "e5m2x2") | u32::from(relu) << 2;
            Some(selected)
        }
        _ => None,
    }
}

/// One f32 to a narrower format.
#[inline]
fn narrow(x: f32, format: Format, mode: Round, relu: bool, satfinite: bool) -> u32 {
    let x = if relu && x <= 0.0 { 0.0 } else { x };
    format.round(f64::from(x), mode, satfinite)
}

/// A conversion as data, for those that are too rare to have code of their own.
#[derive(Debug, Clone, Copy)]
struct Slow {
    to: Type,
    from: Type,
    how: How,
    ftz: bool,
    sat: bool,
    relu: bool,
    satfinite: bool,
    d_bytes: u32,
}

const TYPES: [Type; 12] = [U8, U16, U32, U64, S8, S16, S32, S64, F16, Bf16, F32, F64];
const HOWS: [How; 9] = [
    How::None,
    How::Float(Round::Rn),
    How::Float(Round::Rz),
    How::Float(Round::Rm),
    How::Float(Round::Rp),
    How::Integer(Round::Rn),
    How::Integer(Round::Rz),
    How::Integer(Round::Rm),
    How::Integer(Round::Rp),
];

impl Slow {
    fn pack(self) -> u32 {
        let ty = |ty: Type| TYPES.iter().position(|t| *t == ty).unwrap_or(0) as u32;
        let how = HOWS.iter().position(|h| *h == self.how).unwrap_or(0) as u32;
        ty(self.to)
            | ty(self.from) << 4
            | how << 8
            | u32::from(self.ftz) << 12
            | u32::from(self.sat) << 13
            | u32::from(self.relu) << 14
            | u32::from(self.satfinite) << 15
            | self.d_bytes << 16
    }

    fn unpack(x: u32) -> Slow {
        Slow {
            to: TYPES[(x & 15) as usize],
            from: TYPES[(x >> 4 & 15) as usize],
            how: HOWS[(x >> 8 & 15) as usize],
            ftz: x >> 12 & 1 == 1,
            sat: x >> 13 & 1 == 1,
            relu: x >> 14 & 1 == 1,
            satfinite: x >> 15 & 1 == 1,
            d_bytes: x >> 16,
        }
    }

    fn lane(self, bits: u64) -> u64 {
        if self.from.float() {
            let x = match self.from {
                F16 => f64::from(f16_to_f32(bits as u16)),
                Bf16 => f64::from(bf16_to_f32(bits as u16)),
                F32 => {
                    let x = f32::from_bits(bits as u32);
                    f64::from(if self.ftz { ftz(x) } else { x })
                }
                _ => f64::from_bits(bits),
            };
            if self.to.float() {
                self.float_to_float(x, bits)
            } else {
                self.float_to_int(x)
            }
        } else {
            let value = match self.from {
                U8 => i128::from(bits as u8),
                U16 => i128::from(bits as u16),
                U32 => i128::from(bits as u32),
                U64 => i128::from(bits),
                S8 => i128::from(bits as i8),
                S16 => i128::from(bits as i16),
                S32 => i128::from(bits as i32),
                _ => i128::from(bits as i64),
            };
            if self.to.float() {
                self.int_to_float(value)
            } else {
                self.widen(if self.sat {
                    let (least, most) = self.range();
                    value.clamp(least, most)
                } else {
                    value
                })
            }
        }
    }

    fn range(self) -> (i128, i128) {
        let bits = 8 * self.to.bytes();
        if self.to.signed() {
            (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
        } else {
            (0, (1i128 << bits) - 1)
        }
    }

    /// The low bits as the type says, extended to the register.
    fn widen(self, value: i128) -> u64 {
        let value = match self.to {
            U8 => i64::from(value as u8),
            U16 => i64::from(value as u16),
            U32 => i64::from(value as u32),
            S8 => i64::from(value as i8),
            S16 => i64::from(value as i16),
            S32 => i64::from(value as i32),
            _ => value as i64,
        } as u64;
        match self.d_bytes {
            1 => value & 0xff,
            2 => value & 0xffff,
            4 => value & 0xffff_ffff,
            _ => value,
        }
    }

    fn float_to_int(self, x: f64) -> u64 {
        let How::Integer(mode) = self.how else {
            return 0;
        };
        let (least, most) = self.range();
        if x.is_nan() {
            // the manual: zero, but the top bit where f64 or an integer of 64 bits takes part
            let top = self.from == F64 || self.to.bytes() == 8;
            let bits = 8 * self.to.bytes();
            return self.widen(if top { 1i128 << (bits - 1) } else { 0 });
        }
        let whole = integral(x, mode);
        // `as` clamps to i128, which holds every range here
        self.widen((whole as i128).clamp(least, most))
    }

    fn float_to_float(self, x: f64, bits: u64) -> u64 {
        let x = match self.how {
            How::Integer(mode) => integral(x, mode),
            _ => x,
        };
        let x = if self.sat { super::float::sat64(x) } else { x };
        let x = if self.relu && x <= 0.0 { 0.0 } else { x };
        let mode = match self.how {
            How::Float(mode) => mode,
            _ => Round::Rn,
        };
        match self.to {
            F64 if self.from == F64 && self.how == How::None && !self.sat => bits,
            F64 => x.to_bits(),
            F32 => {
                let r = to32(x, mode);
                let r = canon(if self.ftz { ftz(r) } else { r });
                u64::from(r.to_bits())
            }
            F16 => self.finish16(x, Format::F16, mode),
            _ => self.finish16(x, Format::BF16, mode),
        }
    }

    fn finish16(self, x: f64, format: Format, mode: Round) -> u64 {
        u64::from(format.round(x, mode, self.satfinite))
    }

    fn int_to_float(self, value: i128) -> u64 {
        let How::Float(mode) = self.how else {
            return 0;
        };
        // 64 bits may not fit into the fraction of an f64: keep what is lost in its last bit
        let magnitude = value.unsigned_abs();
        let lost = (128 - magnitude.leading_zeros()).saturating_sub(52);
        let sticky = u128::from(magnitude & ((1 << lost) - 1) != 0);
        let odd = ((magnitude >> lost) | sticky) as f64 * (1u64 << lost) as f64;
        let exact = if value < 0 { -odd } else { odd };
        let exact = if self.sat { sat64(exact) } else { exact };
        match self.to {
            F64 => {
                let near = value as f64;
                // the remainder of a 64-bit integer is small, so it is exact
                let error = (value - near as i128) as f64;
                direct64(near, error, mode).to_bits()
            }
            F32 => u64::from(to32(exact, mode).to_bits()),
            F16 => u64::from(Format::F16.round(exact, mode, false)),
            _ => u64::from(Format::BF16.round(exact, mode, false)),
        }
    }
}

fn integral(x: f64, mode: Round) -> f64 {
    match mode {
        Round::Rn | Round::Rna => x.round_ties_even(),
        Round::Rz => x.trunc(),
        Round::Rm => x.floor(),
        Round::Rp => x.ceil(),
    }
}

fn slow() -> LaneFn {
    lanes!(@ |regs, slots, mask| {
        let plan = Slow::unpack(slots.x);
        let wide = plan.from.bytes() == 8;
        let a: [u64; LANES] = if wide {
            u64::get(regs, slots.a)
        } else {
            u32::get(regs, slots.a).map(u64::from)
        };
        let mut r = [0u64; LANES];
        for i in 0..LANES {
            if mask >> i & 1 == 1 {
                r[i] = plan.lane(a[i]);
            }
        }
        if plan.d_bytes == 8 || plan.to.bytes() == 8 {
            u64::put(regs, slots.d, &r, mask);
        } else {
            u32::put(regs, slots.d, &r.map(|v| v as u32), mask);
        }
    })
}
