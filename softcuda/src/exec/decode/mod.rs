//! From the flat list of a kernel to its decoded form. What is not known here stops the loading.

mod arithmetic;
mod matrix;
mod memory;
mod sync;

use super::convert::convert;
use super::flow::{Flat, Graph, Rows, flatten, graph, meeting, rows};
use super::lanes::Slots;
use super::ops::*;
use super::select::{self, Class, Compare, Mods, select};
use crate::memory::{LOCAL_WINDOW, SHARED_WINDOW};
use crate::ptx::{Ast, Function, Instruction, LoadError, Operand, Reg, Space, Type, Variable};
use std::collections::HashMap;

/// Shared memory of a block starts here: the system has the first KiB on real devices, too.
pub(crate) const SHARED_START: u32 = 1024;
/// Generic addresses of kernel parameters start here.
pub(crate) const PARAM_WINDOW: u64 = 3 << 48;

/// What a symbol of a kernel stands for.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Symbol {
    Global(u64),
    Shared(u64),
    Local(u64),
    Param(u64),
}

/// What decoding gives beside the code.
pub(crate) struct Decoded {
    pub code: Code,
    pub static_shared: u32,
    pub local_bytes: u32,
    pub pressure: u32,
}

struct Decoder<'a> {
    flat: &'a Flat,
    graph: &'a Graph,
    rows: &'a Rows,
    symbols: HashMap<&'a str, Symbol>,
    constants: HashMap<(Constant, bool), u16>,
    next_row: usize,
    code: Code,
    line: u32,
    location: Option<(u32, u32)>,
    guard: (u16, bool),
    at: usize,
    capability: u32,
    param_bytes: u32,
}

/// Decodes `kernel`. `globals` are the addresses of the module's variables.
pub(crate) fn decode(
    ast: &Ast,
    kernel: &Function,
    params: &[super::Param],
    globals: &HashMap<String, u64>,
    capability: u32,
) -> Result<Decoded, LoadError> {
    let flat = flatten(ast, kernel)?;
    let graph = graph(&flat)?;
    let rows = rows(&flat, &graph, kernel.line)?;
    let mut symbols = HashMap::new();
    for (name, &address) in globals {
        symbols.insert(name.as_str(), Symbol::Global(address));
    }
    // static shared variables first, then dynamic ones, which all start at the same place
    let module_shared = ast.variables.iter().filter(|v| v.space == Space::Shared);
    let used = |v: &&Variable| uses(&flat, &v.name);
    let shared: Vec<&Variable> = module_shared.filter(used).chain(&flat.shared).collect();
    let mut end = u64::from(SHARED_START);
    for variable in shared.iter().filter(|v| v.bytes > 0) {
        let start = end.next_multiple_of(u64::from(variable.align.max(1)));
        end = start + variable.bytes;
        symbols.insert(variable.name.as_str(), Symbol::Shared(start));
    }
    let static_shared = end - u64::from(SHARED_START);
    let align = shared
        .iter()
        .filter(|v| v.bytes == 0)
        .map(|v| v.align)
        .max();
    let dynamic_start = end.next_multiple_of(u64::from(align.unwrap_or(1).max(16)));
    for variable in shared.iter().filter(|v| v.bytes == 0) {
        symbols.insert(variable.name.as_str(), Symbol::Shared(dynamic_start));
    }
    for (name, &offset) in &flat.locals {
        symbols.insert(name.as_str(), Symbol::Local(offset));
    }
    for param in params {
        symbols.insert(param.name.as_str(), Symbol::Param(u64::from(param.offset)));
    }
    let mut decoder = Decoder {
        flat: &flat,
        graph: &graph,
        rows: &rows,
        symbols,
        constants: HashMap::new(),
        next_row: rows.rows,
        code: Code {
            dynamic_start: dynamic_start as u32,
            ..Code::default()
        },
        line: 0,
        location: None,
        guard: (NONE, false),
        at: 0,
        capability,
        param_bytes: params.last().map_or(0, |p| p.offset + p.bytes),
    };
    let mut places = Vec::with_capacity(flat.instructions.len());
    for (at, instruction) in flat.instructions.iter().enumerate() {
        places.push(decoder.code.insts.len() as u32);
        decoder.at = at;
        decoder.line = instruction.line;
        decoder.location = instruction.location;
        decoder.guard = match instruction.guard {
            Some((register, negated)) => (decoder.pred(register)?, negated),
            None => (NONE, false),
        };
        decoder.instruction(instruction)?;
    }
    // positions in the list to positions in the code
    let place = |at: u32| {
        if at == NOWHERE {
            NOWHERE
        } else {
            places[at as usize]
        }
    };
    for inst in &mut decoder.code.insts {
        match &mut inst.op {
            Op::Branch(target, join) => {
                *target = place(*target);
                *join = place(*join);
            }
            Op::Table(_, targets, join) => {
                for target in targets.iter_mut() {
                    *target = place(*target);
                }
                *join = place(*join);
            }
            _ => {}
        }
    }
    if decoder.next_row > usize::from(NONE) - 2 {
        return decoder.error(format!("{} registers and constants", decoder.next_row));
    }
    let mut code = decoder.code;
    code.rows = decoder.next_row;
    code.preds = rows.preds;
    code.files = ast.files.iter().map(|(n, f)| (*n, f.clone())).collect();
    code.has_launch_dependents = code
        .insts
        .iter()
        .any(|i| matches!(i.op, Op::LaunchDependents));
    Ok(Decoded {
        code,
        static_shared: u32::try_from(static_shared).unwrap_or(u32::MAX),
        local_bytes: flat.local_bytes as u32,
        pressure: rows.pressure,
    })
}

fn uses(flat: &Flat, name: &str) -> bool {
    fn names(operand: &Operand, name: &str) -> bool {
        match operand {
            Operand::Symbol(n, _) => n == name,
            Operand::Address(inner, _) => inner.as_ref().as_ref().is_some_and(|o| names(o, name)),
            Operand::Vector(list) | Operand::List(list) => list.iter().any(|o| names(o, name)),
            _ => false,
        }
    }
    let mut all = flat.instructions.iter().flat_map(|i| &i.operands);
    all.any(|operand| names(operand, name))
}

type Result<T, E = LoadError> = std::result::Result<T, E>;

impl Decoder<'_> {
    fn error<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(LoadError::unsupported(self.line, message))
    }

    fn unknown<T>(&self, instruction: &Instruction) -> Result<T> {
        self.error(format!(
            "`{}` is no instruction that softcuda knows",
            instruction.name()
        ))
    }

    fn push(&mut self, op: Op, slots: Slots, class: Class) {
        self.push_part(op, slots, Some(class));
    }

    /// `class` is `None` for all but the first part of an instruction.
    fn push_part(&mut self, op: Op, slots: Slots, class: Option<Class>) {
        self.code.insts.push(Inst {
            op,
            slots,
            guard: self.guard.0,
            negated: self.guard.1,
            part: class.is_none(),
        });
        self.code.meta.push(Meta {
            line: self.line,
            location: self.location,
            class,
        });
    }

    // ---- operands

    fn pred(&self, register: Reg) -> Result<u16> {
        if self.flat.registers[register as usize] != Type::Pred {
            return self.error("a register where a predicate is expected");
        }
        Ok(self.rows.of[register as usize])
    }

    fn pred_operand(&self, operand: &Operand) -> Result<(u16, bool)> {
        match operand {
            Operand::Reg(register) => Ok((self.pred(*register)?, false)),
            Operand::NotReg(register) => Ok((self.pred(*register)?, true)),
            _ => self.error("an operand that is no predicate"),
        }
    }

    fn pred_result(&self, operand: &Operand) -> Result<u16> {
        match operand {
            Operand::Reg(register) => self.pred(*register),
            Operand::Discard => Ok(NONE),
            _ => self.error("a result that is no predicate"),
        }
    }

    fn constant(&mut self, constant: Constant, wide: bool) -> u16 {
        if let Some(&row) = self.constants.get(&(constant, wide)) {
            return row;
        }
        let row = self.next_row as u16;
        self.next_row += 1 + usize::from(wide);
        self.constants.insert((constant, wide), row);
        self.code.constants.push((row, wide, constant));
        row
    }

    fn bits(&mut self, bits: u64, wide: bool) -> u16 {
        self.constant(Constant::Bits(bits), wide)
    }

    /// Type of a register.
    fn type_of(&self, operand: &Operand) -> Option<Type> {
        match operand {
            Operand::Reg(register) => Some(self.flat.registers[*register as usize]),
            _ => None,
        }
    }

    /// Row of a register, which must be as wide as `ty`.
    fn register(&self, operand: &Operand, ty: Type) -> Result<u16> {
        let Operand::Reg(register) = operand else {
            return self.error(format!("{operand:?}, expected a register"));
        };
        let found = self.flat.registers[*register as usize];
        if found == Type::Pred || found.bytes().max(4) != ty.bytes().max(4) {
            return self.error(format!("a register of type {found:?} for a {ty:?}"));
        }
        Ok(self.rows.of[*register as usize])
    }

    /// Row of a value: register, number, special register, address of a variable.
    fn value(&mut self, operand: &Operand, ty: Type) -> Result<u16> {
        let wide = ty.bytes() == 8;
        match operand {
            Operand::Reg(_) => self.register(operand, ty),
            _ if ty == Type::B128 => self.error(format!("{operand:?}, expected a register")),
            Operand::Int(value) => {
                let bits = match ty {
                    Type::F32 => (*value as f32).to_bits().into(),
                    Type::F64 => (*value as f64).to_bits(),
                    _ => *value as u64,
                };
                // a number that does not fit is a mistake, whichever sign is meant
                let width = 8 * ty.bytes();
                if !ty.float()
                    && width < 64
                    && !(-(1i64 << (width - 1))..1i64 << width).contains(value)
                {
                    return self.error(format!("{value}, which does not fit into a {ty:?}"));
                }
                let bits = if wide { bits } else { bits & 0xffff_ffff };
                Ok(self.bits(bits, wide))
            }
            Operand::Float32(bits) => match ty {
                Type::F32 | Type::B32 | Type::U32 | Type::S32 => {
                    Ok(self.bits((*bits).into(), false))
                }
                Type::F64 => {
                    let bits = f64::from(f32::from_bits(*bits)).to_bits();
                    Ok(self.bits(bits, true))
                }
                _ => self.error(format!("a 32-bit float for a {ty:?}")),
            },
            Operand::Float64(bits) => match ty {
                Type::F64 | Type::B64 | Type::U64 | Type::S64 => Ok(self.bits(*bits, true)),
                Type::F32 => {
                    let bits = (f64::from_bits(*bits) as f32).to_bits();
                    Ok(self.bits(bits.into(), false))
                }
                _ => self.error(format!("a 64-bit float for a {ty:?}")),
            },
            Operand::Special(name) => {
                let special = self.special(name)?;
                Ok(self.constant(special, wide))
            }
            Operand::Symbol(name, offset) => {
                let address = match self.symbol(name)? {
                    Symbol::Global(a) | Symbol::Shared(a) | Symbol::Local(a) => a,
                    // generic or not: parameters are reached through their window only
                    Symbol::Param(a) => PARAM_WINDOW + a,
                };
                Ok(self.bits(address.wrapping_add_signed(*offset), wide))
            }
            _ => self.error(format!("{operand:?}, expected a value")),
        }
    }

    fn symbol(&self, name: &str) -> Result<Symbol> {
        match self.symbols.get(name) {
            Some(&symbol) => Ok(symbol),
            None => self.error(format!("`{name}`, which is not declared")),
        }
    }

    fn special(&self, name: &str) -> Result<Constant> {
        use Special::*;
        let axis = |name: &str| match name {
            "x" => Some(0),
            "y" => Some(1),
            "z" => Some(2),
            _ => None,
        };
        let special = match name {
            "%laneid" => Laneid,
            "%warpid" => Warpid,
            "%nwarpid" => Nwarpid,
            "%smid" => Smid,
            "%nsmid" => Nsmid,
            "%gridid" => Gridid,
            "%lanemask_eq" => LaneMask(super::ops::LaneMask::Eq),
            "%lanemask_lt" => LaneMask(super::ops::LaneMask::Lt),
            "%lanemask_le" => LaneMask(super::ops::LaneMask::Le),
            "%lanemask_gt" => LaneMask(super::ops::LaneMask::Gt),
            "%lanemask_ge" => LaneMask(super::ops::LaneMask::Ge),
            "%dynamic_smem_size" => DynamicShared,
            "%total_smem_size" => TotalShared,
            // as cooperative groups find the counter of their barrier
            "%envreg1" => Environment(1),
            "%envreg2" => Environment(2),
            // clusters of one block
            "%cluster_ctarank" | "%cluster_ctaid.x" | "%cluster_ctaid.y" | "%cluster_ctaid.z" => {
                return Ok(Constant::Bits(0));
            }
            "%cluster_nctarank" | "%cluster_nctaid.x" | "%cluster_nctaid.y"
            | "%cluster_nctaid.z" => return Ok(Constant::Bits(1)),
            "WARP_SZ" => return Ok(Constant::Bits(32)),
            _ => {
                let found = name.split_once('.').and_then(|(base, component)| {
                    let axis = axis(component)?;
                    Some(match base {
                        "%tid" => Tid(axis),
                        "%ntid" => Ntid(axis),
                        "%ctaid" | "%clusterid" => Ctaid(axis),
                        "%nctaid" | "%nclusterid" => Nctaid(axis),
                        _ => return None,
                    })
                });
                match found {
                    Some(special) => special,
                    None => return self.error(format!("`{name}` is no register that is known")),
                }
            }
        };
        Ok(Constant::Special(special))
    }

    /// Register and offset of an address, and whether the register is 64 bits wide.
    fn address(&mut self, operand: &Operand) -> Result<(u16, bool, i64)> {
        let Operand::Address(base, offset) = operand else {
            return self.error(format!("{operand:?}, expected an address"));
        };
        match base.as_ref() {
            Some(Operand::Reg(register)) => {
                let ty = self.flat.registers[*register as usize];
                if ty.bytes() < 4 || ty == Type::B128 {
                    return self.error(format!("an address in a register of type {ty:?}"));
                }
                let row = self.rows.of[*register as usize];
                Ok((row, ty.bytes() == 8, *offset))
            }
            Some(Operand::Symbol(name, more)) => {
                let address = match self.symbol(name)? {
                    Symbol::Global(a) | Symbol::Shared(a) | Symbol::Local(a) => a,
                    Symbol::Param(a) => PARAM_WINDOW + a,
                };
                let row = self.bits(address, true);
                Ok((row, true, offset.wrapping_add(*more)))
            }
            None => {
                let row = self.bits(0, true);
                Ok((row, true, *offset))
            }
            Some(_) => self.error("an address that is neither register nor variable"),
        }
    }

    fn count(
        &self,
        instruction: &Instruction,
        counts: std::ops::RangeInclusive<usize>,
    ) -> Result<()> {
        let found = instruction.operands.len();
        if counts.contains(&found) {
            return Ok(());
        }
        self.error(format!(
            "`{}` with {found} operands, expected {counts:?}",
            instruction.name()
        ))
    }

    // ---- instructions

    fn instruction(&mut self, instruction: &Instruction) -> Result<()> {
        let mut mods = Mods::new(&instruction.opcode);
        let op = instruction.opcode[0].as_str();
        let operands = &instruction.operands[..];
        match op {
            "mov" => self.mov(instruction),
            "cvt" => self.cvt(instruction),
            "cvta" => self.cvta(instruction),
            "setp" => self.setp(instruction),
            "set" => self.set(instruction),
            "selp" | "slct" => self.selp(instruction),
            "testp" => {
                self.count(instruction, 2..=2)?;
                mods.first();
                let (Some(ty), Some(kind)) = (mods.ty(), mods.first()) else {
                    return self.unknown(instruction);
                };
                let Some(run) = select::test_pred(kind, ty).filter(|_| mods.is_empty()) else {
                    return self.unknown(instruction);
                };
                let slots = Slots {
                    d: self.pred_result(&operands[0])?,
                    a: self.value(&operands[1], ty)?,
                    ..Slots::default()
                };
                self.push(Op::Lanes(run), slots, Class::F32);
                Ok(())
            }
            "lop3" => {
                self.count(instruction, 5..=5)?;
                mods.first();
                if mods.ty() != Some(Type::B32) || !mods.is_empty() {
                    return self.unknown(instruction);
                }
                let Operand::Int(table @ 0..=255) = operands[4] else {
                    return self.error("a table that is no number of 8 bits");
                };
                let slots = Slots {
                    d: self.register(&operands[0], Type::B32)?,
                    a: self.value(&operands[1], Type::B32)?,
                    b: self.value(&operands[2], Type::B32)?,
                    c: self.value(&operands[3], Type::B32)?,
                    x: table as u32,
                };
                let run = select::lop3(table as u32);
                self.push(Op::Lanes(run), slots, Class::Integer);
                Ok(())
            }
            "bfi" => {
                self.count(instruction, 5..=5)?;
                mods.first();
                let ty = mods.ty();
                let (Some(ty @ (Type::B32 | Type::B64)), true) = (ty, mods.is_empty()) else {
                    return self.unknown(instruction);
                };
                let slots = Slots {
                    d: self.register(&operands[0], ty)?,
                    a: self.value(&operands[1], ty)?,
                    b: self.value(&operands[2], ty)?,
                    c: self.value(&operands[3], Type::U32)?,
                    x: self.value(&operands[4], Type::U32)?.into(),
                };
                let run = select::insert_bits(ty == Type::B64);
                self.push(Op::Lanes(run), slots, Class::Integer);
                Ok(())
            }
            "bra" => {
                mods.first();
                mods.take("uni");
                if !mods.is_empty() {
                    return self.unknown(instruction);
                }
                let Some(Operand::Symbol(name, 0)) = operands.first() else {
                    return self.error("a branch without a label");
                };
                let Some(&target) = self.flat.labels.get(name) else {
                    return self.error(format!("no label `{name}`"));
                };
                let join = meeting(self.graph, self.at);
                let op = Op::Branch(target as u32, join);
                self.push(op, Slots::default(), Class::Control);
                Ok(())
            }
            "brx" => {
                mods.first();
                let ok = mods.take("idx");
                mods.take("uni");
                let (true, true, [index, Operand::Symbol(name, 0)]) =
                    (ok, mods.is_empty(), operands)
                else {
                    return self.unknown(instruction);
                };
                let index = self.register(index, Type::U32)?;
                let labels = &self.flat.tables[name];
                let targets = labels.iter().map(|l| self.flat.labels[l] as u32).collect();
                let join = meeting(self.graph, self.at);
                self.push(
                    Op::Table(index, targets, join),
                    Slots::default(),
                    Class::Control,
                );
                Ok(())
            }
            "exit" | "trap" | "softcuda_assert" | "brkpt" if instruction.opcode.len() == 1 => {
                let op = match op {
                    "exit" => Op::Exit,
                    "softcuda_assert" => Op::Assert,
                    _ => Op::Trap,
                };
                self.push(op, Slots::default(), Class::Control);
                Ok(())
            }
            "ret" => self.error("`ret` outside a function"),
            "ld" | "ldu" => self.load(instruction),
            "st" => self.store(instruction),
            "atom" | "red" => self.atomic(instruction),
            "bar" | "barrier" => self.barrier(instruction),
            "membar" | "fence" => self.fence(instruction),
            "shfl" | "vote" | "match" | "redux" | "elect" => self.sync(instruction),
            "activemask" => {
                if instruction.opcode.len() != 2 || instruction.opcode[1] != "b32" {
                    return self.unknown(instruction);
                }
                self.count(instruction, 1..=1)?;
                let d = self.register(&operands[0], Type::B32)?;
                self.push(Op::Activemask(d), Slots::default(), Class::Shuffle);
                Ok(())
            }
            "prefetch" | "prefetchu" => {
                // no data moves; a prefetch of a bad address is no fault on hardware either
                mods.first();
                while mods
                    .one_of(&[
                        "global",
                        "L1",
                        "L2",
                        "L2::evict_last",
                        "L2::evict_normal",
                        "local",
                    ])
                    .is_some()
                {}
                if !mods.is_empty() {
                    return self.unknown(instruction);
                }
                self.count(instruction, 1..=1)?;
                self.address(&operands[0])?;
                self.push(Op::Prefetch, Slots::default(), Class::Global);
                Ok(())
            }
            // a policy of the cache: its value means nothing here
            "createpolicy" => {
                mods.first();
                let known = mods.one_of(&["fractional", "range"]).is_some();
                mods.take("global");
                self.cache_hints(&mut mods);
                mods.take("L2::evict_unchanged");
                if !known || mods.ty() != Some(Type::B64) || !mods.is_empty() {
                    return self.unknown(instruction);
                }
                self.count(instruction, 1..=4)?;
                let slots = Slots {
                    d: self.register(&operands[0], Type::B64)?,
                    a: self.bits(0, true),
                    ..Slots::default()
                };
                self.push(Op::Lanes(select::copy(true)), slots, Class::Move);
                Ok(())
            }
            // other warps take turns all the same
            "nanosleep" => {
                self.count(instruction, 1..=1)?;
                mods.first();
                if mods.ty() != Some(Type::U32) || !mods.is_empty() {
                    return self.unknown(instruction);
                }
                self.value(&operands[0], Type::U32)?;
                self.push(Op::Nop, Slots::default(), Class::Control);
                Ok(())
            }
            // nobody listens to events of the profiler
            "pmevent" => {
                self.count(instruction, 1..=1)?;
                mods.first();
                mods.take("mask");
                let (true, Operand::Int(0..=0xffff)) = (mods.is_empty(), &operands[0]) else {
                    return self.unknown(instruction);
                };
                self.push(Op::Nop, Slots::default(), Class::Control);
                Ok(())
            }
            "ldmatrix" | "stmatrix" => self.matrix(instruction),
            "movmatrix" => {
                let name = instruction.name();
                if name != "movmatrix.sync.aligned.m8n8.trans.b16" {
                    return self.unknown(instruction);
                }
                self.count(instruction, 2..=2)?;
                let d = self.register(&operands[0], Type::B32)?;
                let a = self.register(&operands[1], Type::B32)?;
                self.push(Op::MoveMatrix(d, a), Slots::default(), Class::Matrix);
                Ok(())
            }
            "mma" => self.mma(instruction),
            "cp" => self.cp_async(instruction),
            "mbarrier" => self.mbarrier(instruction),
            "griddepcontrol" => {
                if self.capability < 90 {
                    return self.error("`griddepcontrol` needs sm_90");
                }
                let op = match (instruction.opcode.len(), instruction.opcode.get(1)) {
                    (2, Some(what)) if what == "wait" => Op::GridWait,
                    (2, Some(what)) if what == "launch_dependents" => Op::LaunchDependents,
                    _ => return self.unknown(instruction),
                };
                self.push(op, Slots::default(), Class::Control);
                Ok(())
            }
            "isspacep" => {
                self.count(instruction, 2..=2)?;
                let place = match instruction.opcode.get(1).map(String::as_str) {
                    Some("global") => Place::Global,
                    Some("shared" | "shared::cta") => Place::Shared,
                    Some("local") => Place::Local,
                    _ => return self.unknown(instruction),
                };
                let d = self.pred_result(&operands[0])?;
                let a = self.value(&operands[1], Type::U64)?;
                self.push(Op::IsSpace(d, a, place), Slots::default(), Class::Integer);
                Ok(())
            }
            _ => self.arithmetic(instruction),
        }
    }

    // ---- memory

    // ---- synchronisation

    // ---- matrices and copies
}
