//! What the parser makes of a module.

use std::collections::HashMap;

/// A register of a function: an index into [`Function::registers`].
pub(crate) type Reg = u32;

/// Types of registers and of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[rustfmt::skip]
pub(crate) enum Type {
    B8, B16, B32, B64, B128, U8, U16, U32, U64, S8, S16, S32, S64,
    F16, F16x2, Bf16, Bf16x2, F32, F64, Pred,
}

impl Type {
    pub fn named(name: &str) -> Option<Type> {
        use Type::*;
        Some(match name {
            "b8" => B8,
            "b16" => B16,
            "b32" => B32,
            "b64" => B64,
            "b128" => B128,
            "u8" => U8,
            "u16" => U16,
            "u32" => U32,
            "u64" => U64,
            "s8" => S8,
            "s16" => S16,
            "s32" => S32,
            "s64" => S64,
            "f16" => F16,
            "f16x2" => F16x2,
            "bf16" => Bf16,
            "bf16x2" => Bf16x2,
            "f32" => F32,
            "f64" => F64,
            "pred" => Pred,
            _ => return None,
        })
    }

    /// Bytes in memory.
    pub fn bytes(self) -> u32 {
        use Type::*;
        match self {
            B8 | U8 | S8 | Pred => 1,
            B16 | U16 | S16 | F16 | Bf16 => 2,
            B32 | U32 | S32 | F32 | F16x2 | Bf16x2 => 4,
            B64 | U64 | S64 | F64 => 8,
            B128 => 16,
        }
    }

    pub fn signed(self) -> bool {
        matches!(self, Type::S8 | Type::S16 | Type::S32 | Type::S64)
    }

    pub fn float(self) -> bool {
        use Type::*;
        matches!(self, F16 | F16x2 | Bf16 | Bf16x2 | F32 | F64)
    }
}

/// State spaces in which variables live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Space {
    Global,
    Const,
    Shared,
    Local,
    Param,
}

/// One element of an initialiser.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Init {
    Bits(u64),
    /// A symbol, whether as a generic address, and what is added.
    Symbol(String, bool, i64),
}

/// A variable or a parameter.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Variable {
    pub name: String,
    pub space: Space,
    pub ty: Type,
    pub align: u32,
    /// Bytes; 0 for an array of unknown length (dynamic shared memory).
    pub bytes: u64,
    pub init: Vec<Init>,
    pub external: bool,
    pub line: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Operand {
    Reg(Reg),
    /// A negated predicate.
    NotReg(Reg),
    /// `%tid.x` and such, by name.
    Special(String),
    Int(i64),
    Float32(u32),
    Float64(u64),
    /// A variable, label or function, by its unique name, plus an offset.
    Symbol(String, i64),
    Vector(Vec<Operand>),
    /// `[base + offset]`; the base is a register, a symbol, or nothing (an absolute address).
    Address(Box<Option<Operand>>, i64),
    /// `a|b`: two results.
    Pair(Box<Operand>, Box<Operand>),
    /// `(a, b, c)` of a call.
    List(Vec<Operand>),
    Discard,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Instruction {
    pub guard: Option<(Reg, bool)>,
    /// Opcode and modifiers, split at dots.
    pub opcode: Vec<String>,
    pub operands: Vec<Operand>,
    pub line: u32,
    /// File number and line of the source.
    pub location: Option<(u32, u32)>,
}

impl Instruction {
    pub fn name(&self) -> String {
        self.opcode.join(".")
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Statement {
    Label(String),
    Instruction(Instruction),
    /// `.branchtargets`: name and labels.
    Targets(String, Vec<String>),
}

#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Function {
    pub name: String,
    pub entry: bool,
    pub params: Vec<Variable>,
    pub returns: Vec<Variable>,
    /// Variables declared inside: shared, local, and parameters of calls.
    pub variables: Vec<Variable>,
    pub registers: Vec<Type>,
    pub body: Vec<Statement>,
    pub defined: bool,
    pub max_threads: Option<u32>,
    pub line: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Ast {
    pub target: String,
    pub files: HashMap<u32, String>,
    pub variables: Vec<Variable>,
    pub functions: Vec<Function>,
}
