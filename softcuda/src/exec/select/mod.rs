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

mod arithmetic;
mod compare;
mod functions;
mod halves;
mod moves;

pub(crate) use arithmetic::*;
pub(crate) use compare::*;
pub(crate) use functions::*;
pub(crate) use halves::*;
pub(crate) use moves::*;

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

/// An exact zero sum has the sign that the direction of rounding gives it.
#[inline(always)]
pub(crate) fn zero_sum(x: f64, a: f64, b: f64, down: bool) -> f64 {
    if x == 0.0 && down && !(a == 0.0 && b == 0.0 && a.is_sign_positive() && b.is_sign_positive()) {
        -0.0
    } else {
        x
    }
}
