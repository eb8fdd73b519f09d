//! From opcode and modifiers to the function that runs them: arithmetic, logic, comparison.
//!
//! Every modifier is taken by somebody; one that is left over, or an opcode or type that is not
//! listed, stops the loading of the module.

use super::approx;
use super::bits;
use super::double::*;
use super::float::*;
use super::lanes::*;
use crate::ptx::Type;
use Type::*;

/// Opcode and modifiers of one instruction, of which each must be taken.
#[derive(Debug)]
pub(crate) struct Mods<'a> {
    list: Vec<&'a str>,
}

impl<'a> Mods<'a> {
    pub fn new(opcode: &'a [String]) -> Mods<'a> {
        Mods {
            list: opcode.iter().map(String::as_str).collect(),
        }
    }

    /// Takes `name` if it is there.
    pub fn take(&mut self, name: &str) -> bool {
        let found = self.list.iter().position(|m| *m == name);
        if let Some(i) = found {
            self.list.remove(i);
        }
        found.is_some()
    }

    /// Takes the first of `names` that is there.
    pub fn one_of(&mut self, names: &[&'static str]) -> Option<&'static str> {
        names.iter().copied().find(|name| self.take(name))
    }

    /// Takes the first modifier.
    pub fn first(&mut self) -> Option<&'a str> {
        (!self.list.is_empty()).then(|| self.list.remove(0))
    }

    /// Takes the last modifier, which must be a type.
    pub fn ty(&mut self) -> Option<Type> {
        let ty = Type::named(self.list.last()?)?;
        self.list.pop();
        Some(ty)
    }

    /// Takes the last modifier.
    pub fn last(&mut self) -> Option<&'a str> {
        self.list.pop()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    fn has(&self, name: &str) -> bool {
        self.list.contains(&name)
    }

    fn round(&mut self) -> Option<Round> {
        Some(match self.one_of(&["rn", "rz", "rm", "rp", "rna"])? {
            "rn" => Round::Rn,
            "rz" => Round::Rz,
            "rm" => Round::Rm,
            "rp" => Round::Rp,
            _ => Round::Rna,
        })
    }
}

/// Classes by which instructions are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    Integer,
    F32,
    F64,
    Half,
    Convert,
    Move,
    Control,
    Global,
    Shared,
    Local,
    Param,
    Atomic,
    Barrier,
    Shuffle,
    Mma,
    Matrix,
    Special,
    Async,
    Fence,
}

impl Class {
    pub fn name(self) -> &'static str {
        use Class::*;
        match self {
            Integer => "integer",
            F32 => "f32",
            F64 => "f64",
            Half => "half",
            Convert => "convert",
            Move => "move",
            Control => "control",
            Global => "global",
            Shared => "shared",
            Local => "local",
            Param => "param",
            Atomic => "atomic",
            Barrier => "barrier",
            Shuffle => "shuffle",
            Mma => "mma",
            Matrix => "matrix",
            Special => "special",
            Async => "async",
            Fence => "fence",
        }
    }
}

/// What was found for an instruction `op d, a, b, c`.
pub(crate) struct Selected {
    pub run: LaneFn,
    pub d: Type,
    pub args: Vec<Type>,
    pub class: Class,
    /// What the function expects in `Slots::x`.
    pub x: u32,
}

fn class_of(ty: Type) -> Class {
    match ty {
        F32 => Class::F32,
        F64 => Class::F64,
        F16 | F16x2 | Bf16 | Bf16x2 => Class::Half,
        _ => Class::Integer,
    }
}

pub(super) fn unary(ty: Type, run: LaneFn) -> Option<Selected> {
    some(run, ty, &[ty])
}

pub(super) fn binary(ty: Type, run: LaneFn) -> Option<Selected> {
    some(run, ty, &[ty, ty])
}

pub(super) fn ternary(ty: Type, run: LaneFn) -> Option<Selected> {
    some(run, ty, &[ty, ty, ty])
}

pub(super) fn some(run: LaneFn, d: Type, args: &[Type]) -> Option<Selected> {
    let class = class_of(args.first().copied().unwrap_or(d));
    Some(Selected {
        run,
        d,
        args: args.to_vec(),
        class,
        x: 0,
    })
}

/// The function for an instruction of lanes; `None` where it is not known.
pub(crate) fn select(mods: &mut Mods) -> Option<Selected> {
    let op = mods.first()?;
    match op {
        "add" | "sub" | "mul" => add_sub_mul(op, mods),
        "addc" | "subc" => carry(op, mods),
        "mad" | "fma" => mad(op, mods),
        "div" | "rem" => div(op, mods),
        "min" | "max" => min_max(op, mods),
        "abs" | "neg" => abs_neg(op, mods),
        "and" | "or" | "xor" | "not" | "cnot" => logic(op, mods),
        "shl" | "shr" => bits::shift(op, mods),
        "shf" | "popc" | "clz" | "brev" | "bfind" | "bfe" | "prmt" | "bmsk" | "szext" | "fns" => {
            bits::bits(op, mods)
        }
        "sad" | "dp4a" | "dp2a" | "mul24" | "mad24" | "vabsdiff2" | "vabsdiff4" => {
            bits::products(op, mods)
        }
        "madc" => {
            let ty = mods.ty()?;
            mad_carry(true, ty, mods)
        }
        "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh" => roots(op, mods),
        "copysign" => match mods.ty()? {
            F32 => binary(
                F32,
                lanes!(u32: |a, b| (b & 0x7fff_ffff) | (a & 0x8000_0000)),
            ),
            F64 => binary(F64, lanes!(u64: |a, b| (b & !(1 << 63)) | (a & (1 << 63)))),
            _ => None,
        },
        _ => None,
    }
}

/// As [`each`], for functions that note something beside.
#[inline(always)]
fn collect<T: Value>(mut f: impl FnMut(usize) -> T) -> [T; LANES] {
    let mut values = [T::zeroed(); LANES];
    for i in 0..LANES {
        values[i] = f(i);
    }
    values
}

// ---- halves

#[inline(always)]
fn halves(v: u32) -> (u16, u16) {
    (v as u16, (v >> 16) as u16)
}

#[inline(always)]
fn pack(lo: u16, hi: u16) -> u32 {
    u32::from(lo) | u32::from(hi) << 16
}

#[inline(always)]
fn each2(a: u32, b: u32, f: impl Fn(u16, u16) -> u16) -> u32 {
    let ((a0, a1), (b0, b1)) = (halves(a), halves(b));
    pack(f(a0, b0), f(a1, b1))
}

#[inline(always)]
fn each3(a: u32, b: u32, c: u32, f: impl Fn(u16, u16, u16) -> u16) -> u32 {
    let ((a0, a1), (b0, b1), (c0, c1)) = (halves(a), halves(b), halves(c));
    pack(f(a0, b0, c0), f(a1, b1, c1))
}

#[inline(always)]
pub(super) fn each1(a: u32, f: impl Fn(u16) -> u16) -> u32 {
    let (a0, a1) = halves(a);
    pack(f(a0), f(a1))
}

/// Denormal halves (f16) to zero.
#[inline(always)]
fn ftz16(h: u16) -> u16 {
    if h & 0x7c00 == 0 { h & 0x8000 } else { h }
}

#[inline(always)]
fn h_op(a: u16, b: u16, f: impl Fn(f32, f32) -> f32) -> u16 {
    // 24 bits are twice 11 and two more: rounding twice is rounding once for + - *
    f32_to_f16(f(f16_to_f32(a), f16_to_f32(b)))
}

#[inline(always)]
fn b_op(a: u16, b: u16, f: impl Fn(f32, f32) -> f32) -> u16 {
    f32_to_bf16(f(bf16_to_f32(a), bf16_to_f32(b)))
}

/// A product of bf16 numbers may be denormal in f32, so it is rounded from f64.
#[inline(always)]
fn b_mul(a: u16, b: u16) -> u16 {
    let p = f64::from(bf16_to_f32(a)) * f64::from(bf16_to_f32(b));
    Format::BF16.round(p, Round::Rn, false) as u16
}

#[inline(always)]
fn h_fma(a: u16, b: u16, c: u16) -> u16 {
    let (a, b, c) = (f16_to_f32(a), f16_to_f32(b), f16_to_f32(c));
    Format::F16.round(
        fma_odd(f64::from(a), f64::from(b), f64::from(c)),
        Round::Rn,
        false,
    ) as u16
}

#[inline(always)]
fn b_fma(a: u16, b: u16, c: u16) -> u16 {
    let (a, b, c) = (bf16_to_f32(a), bf16_to_f32(b), bf16_to_f32(c));
    Format::BF16.round(
        fma_odd(f64::from(a), f64::from(b), f64::from(c)),
        Round::Rn,
        false,
    ) as u16
}

#[inline(always)]
fn h_sat(h: u16) -> u16 {
    f32_to_f16(sat(f16_to_f32(h)))
}

/// Negative numbers to +0, NaN canonical.
#[inline(always)]
fn relu16(h: u16, infinity: u16) -> u16 {
    if h & 0x7fff > infinity {
        NAN16
    } else if h & 0x8000 != 0 {
        0
    } else {
        h
    }
}

// ---- add, sub, mul

macro_rules! f32_op {
    ($ftz:expr, $sat:expr, |$($a:ident),+| $e:expr) => {
        match ($ftz, $sat) {
            (false, false) => lanes!(f32: |$($a),+| canon($e)),
            (true, false) => lanes!(f32: |$($a),+| {
                $(let $a = ftz($a);)+
                canon(ftz($e))
            }),
            (false, true) => lanes!(f32: |$($a),+| sat($e)),
            (true, true) => lanes!(f32: |$($a),+| {
                $(let $a = ftz($a);)+
                sat(ftz($e))
            }),
        }
    };
}

/// As `f32_op`, through f64 with directed rounding; `ftz` and `sat` by the rows of the table.
macro_rules! f32_directed {
    ($mode:expr, $ftz:expr, $sat:expr, |$($a:ident),+| $e:expr) => {{
        macro_rules! with {
            ($m:expr) => {
                f32_op!($ftz, $sat, |$($a),+| {
                    $(let $a = f64::from($a);)+
                    to32($e, $m)
                })
            };
        }
        match $mode {
            Round::Rz => with!(Round::Rz),
            Round::Rm => with!(Round::Rm),
            Round::Rp => with!(Round::Rp),
            Round::Rn | Round::Rna => with!(Round::Rn),
        }
    }};
}

/// An exact zero sum has the sign that the direction of rounding gives it.
#[inline(always)]
pub(crate) fn zero_sum(x: f64, a: f64, b: f64, down: bool) -> f64 {
    if x == 0.0 && down && !(a == 0.0 && b == 0.0 && a.is_sign_positive() && b.is_sign_positive()) {
        -0.0
    } else {
        x
    }
}

fn add_sub_mul(op: &str, mods: &mut Mods) -> Option<Selected> {
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

fn carry(op: &str, mods: &mut Mods) -> Option<Selected> {
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

fn carry_out(op: &str, ty: Type, _: bool) -> Option<Selected> {
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
fn mad_carry(carry_in: bool, ty: Type, mods: &mut Mods) -> Option<Selected> {
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

fn mad(op: &str, mods: &mut Mods) -> Option<Selected> {
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

fn div(op: &str, mods: &mut Mods) -> Option<Selected> {
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

/// NaN (either operand, where `nan` asks for it), then zero signs, then order.
#[inline(always)]
fn h_min(a: u16, b: u16, to: impl Fn(u16) -> f32, more: bool, nan: bool) -> u16 {
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

fn min_max(op: &str, mods: &mut Mods) -> Option<Selected> {
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

fn abs_neg(op: &str, mods: &mut Mods) -> Option<Selected> {
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

fn logic(op: &str, mods: &mut Mods) -> Option<Selected> {
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
fn pred(regs: &Regs, slot: u16, negate: u32) -> u32 {
    regs.preds[slot as usize] ^ negate.wrapping_neg()
}

#[inline(always)]
fn pred2(regs: &mut Regs, slots: &Slots, mask: u32, f: impl Fn(u32, u32) -> u32) {
    let a = pred(regs, slots.a, slots.x & 1);
    let b = pred(regs, slots.b, slots.x >> 1 & 1);
    regs.put_pred(slots.d, f(a, b), mask);
}

/// Reciprocals and square roots that round; the approximate ones are in [`super::approx`].
fn roots(op: &str, mods: &mut Mods) -> Option<Selected> {
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

// ---- comparison

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

fn compare_int(op: Compare) -> bool {
    use Compare::*;
    matches!(op, Eq | Ne | Lt | Le | Gt | Ge)
}

/// No predicate here.
pub(crate) const NO_PRED: u16 = u16::MAX;

/// `x`: bits 0-1 the logic with predicate `c` (none, and, or, xor), bit 2 its negation, the high
/// half the number of the second result.
#[inline(always)]
fn store_pred(regs: &mut Regs, slots: &Slots, mask: u32, bits: u32) {
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
fn store_ones(regs: &mut Regs, slots: &Slots, mask: u32, bits: u32) {
    let r = each(|i| (bits >> i & 1).wrapping_neg());
    u32::put(regs, slots.d, &r, mask);
}

/// 1.0 of a 16-bit float, where it holds.
#[inline(always)]
fn store_short(regs: &mut Regs, slots: &Slots, mask: u32, bits: u32, one: u16) {
    let r = each(|i| if bits >> i & 1 == 1 { one } else { 0 });
    u16::put(regs, slots.d, &r, mask);
}

#[inline(always)]
fn store_half(regs: &mut Regs, slots: &Slots, mask: u32, bits: u32) {
    store_short(regs, slots, mask, bits, 0x3c00);
}

#[inline(always)]
fn store_brain(regs: &mut Regs, slots: &Slots, mask: u32, bits: u32) {
    store_short(regs, slots, mask, bits, 0x3f80);
}

#[inline(always)]
fn store_float(regs: &mut Regs, slots: &Slots, mask: u32, bits: u32) {
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

fn holds(op: Compare, a: f32, b: f32) -> bool {
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

const COMPARES: [Compare; 14] = {
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
