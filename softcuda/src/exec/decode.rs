//! From the flat list of a kernel to its decoded form. What is not known here stops the loading.

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
        if found == Type::Pred || (found.bytes() == 8) != (ty.bytes() == 8) {
            return self.error(format!("a register of type {found:?} for a {ty:?}"));
        }
        Ok(self.rows.of[*register as usize])
    }

    /// Row of a value: register, number, special register, address of a variable.
    fn value(&mut self, operand: &Operand, ty: Type) -> Result<u16> {
        let wide = ty.bytes() == 8;
        match operand {
            Operand::Reg(_) => self.register(operand, ty),
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
            // nobody listens to events of the profiler
            "nanosleep" | "pmevent" => {
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

    fn arithmetic(&mut self, instruction: &Instruction) -> Result<()> {
        let mut mods = Mods::new(&instruction.opcode);
        let selected = select(&mut mods);
        let Some(selected) = selected.filter(|_| mods.is_empty()) else {
            return self.unknown(instruction);
        };
        let operands = &instruction.operands;
        self.count(
            instruction,
            selected.args.len() + 1..=selected.args.len() + 1,
        )?;
        let mut slots = Slots {
            x: selected.x,
            ..Slots::default()
        };
        if selected.d == Type::Pred {
            slots.d = self.pred_result(&operands[0])?;
            let (a, negate) = self.pred_operand(&operands[1])?;
            (slots.a, slots.x) = (a, u32::from(negate));
            if let Some(operand) = operands.get(2) {
                let (b, negate) = self.pred_operand(operand)?;
                slots.b = b;
                slots.x |= u32::from(negate) << 1;
            }
        } else {
            slots.d = self.register(&operands[0], selected.d)?;
            let mut rows = [0; 3];
            for (i, ty) in selected.args.iter().enumerate() {
                rows[i] = self.value(&operands[i + 1], *ty)?;
            }
            [slots.a, slots.b, slots.c] = rows;
        }
        self.push(Op::Lanes(selected.run), slots, selected.class);
        Ok(())
    }

    fn mov(&mut self, instruction: &Instruction) -> Result<()> {
        self.count(instruction, 2..=2)?;
        let [d, a] = &instruction.operands[..] else {
            return self.unknown(instruction);
        };
        let mut mods = Mods::new(&instruction.opcode);
        mods.first();
        let (Some(ty), true) = (mods.ty(), mods.is_empty()) else {
            return self.unknown(instruction);
        };
        match (d, a) {
            _ if ty == Type::Pred => {
                let d = self.pred_result(d)?;
                let (a, negate) = match a {
                    Operand::Int(value) => {
                        // constants as predicates: a and not a
                        let run = if *value != 0 { "or" } else { "and" };
                        let opcode = vec![run.to_owned(), "pred".to_owned()];
                        let Some(selected) = select(&mut Mods::new(&opcode)) else {
                            return self.unknown(instruction);
                        };
                        let slots = Slots {
                            d,
                            x: 2,
                            ..Slots::default()
                        };
                        self.push(Op::Lanes(selected.run), slots, Class::Move);
                        return Ok(());
                    }
                    operand => self.pred_operand(operand)?,
                };
                let opcode = vec!["not".to_owned(), "pred".to_owned()];
                let Some(selected) = select(&mut Mods::new(&opcode)) else {
                    return self.unknown(instruction);
                };
                let slots = Slots {
                    d,
                    a,
                    x: u32::from(!negate),
                    ..Slots::default()
                };
                self.push(Op::Lanes(selected.run), slots, Class::Move);
                Ok(())
            }
            (Operand::Vector(list), a) => {
                let part = 8 * ty.bytes() / (list.len() as u32).max(1);
                let a = self.value(a, ty)?;
                let (run, part_ty) = match (ty.bytes(), part) {
                    (8, 32) => (select::part64(), Type::B32),
                    (4, 16) => (select::part32(), Type::B16),
                    (8, 16) => (select::part64(), Type::B16),
                    _ => return self.unknown(instruction),
                };
                let mut class = Some(Class::Move);
                // the source may share its row with no part: rows of one instruction differ
                for (i, operand) in list.iter().enumerate() {
                    if *operand == Operand::Discard {
                        continue;
                    }
                    let slots = Slots {
                        d: self.register(operand, part_ty)?,
                        a,
                        x: i as u32 * part,
                        ..Slots::default()
                    };
                    self.push_part(Op::Lanes(run), slots, class.take());
                }
                if (ty.bytes(), part) == (8, 16) {
                    // 16-bit registers hold nothing above their 16 bits
                    for operand in list.iter().filter(|o| **o != Operand::Discard) {
                        let row = self.register(operand, Type::B16)?;
                        let slots = Slots {
                            d: row,
                            a: row,
                            ..Slots::default()
                        };
                        self.push_part(Op::Lanes(select::part32()), slots, None);
                    }
                }
                Ok(())
            }
            (d, Operand::Vector(list)) => {
                let d = self.register(d, ty)?;
                match (ty.bytes(), &list[..]) {
                    (8, [a, b]) => {
                        let slots = Slots {
                            d,
                            a: self.value(a, Type::B32)?,
                            b: self.value(b, Type::B32)?,
                            ..Slots::default()
                        };
                        self.push(Op::Lanes(select::join64()), slots, Class::Move);
                    }
                    (4, [a, b]) => {
                        let slots = Slots {
                            d,
                            a: self.value(a, Type::B16)?,
                            b: self.value(b, Type::B16)?,
                            ..Slots::default()
                        };
                        self.push(Op::Lanes(select::join32()), slots, Class::Move);
                    }
                    (8, [a, b, e, f]) => {
                        // through two rows of its own
                        let (low, high) = (self.next_row as u16, self.next_row as u16 + 1);
                        self.next_row += 2;
                        let mut class = Some(Class::Move);
                        for (row, x, y) in [(low, a, b), (high, e, f)] {
                            let slots = Slots {
                                d: row,
                                a: self.value(x, Type::B16)?,
                                b: self.value(y, Type::B16)?,
                                ..Slots::default()
                            };
                            self.push_part(Op::Lanes(select::join32()), slots, class.take());
                        }
                        let slots = Slots {
                            d,
                            a: low,
                            b: high,
                            ..Slots::default()
                        };
                        self.push_part(Op::Lanes(select::join64()), slots, None);
                    }
                    _ => return self.unknown(instruction),
                }
                Ok(())
            }
            (d, Operand::Special(name))
                if matches!(
                    name.as_str(),
                    "%clock" | "%clock_hi" | "%clock64" | "%globaltimer" | "%globaltimer_lo"
                ) =>
            {
                let row = self.register(d, ty)?;
                let wide = ty.bytes() == 8;
                self.push(Op::Clock(row, wide), Slots::default(), Class::Move);
                Ok(())
            }
            (d, a) => {
                let slots = Slots {
                    d: self.register(d, ty)?,
                    a: self.value(a, ty)?,
                    ..Slots::default()
                };
                let run = select::copy(ty.bytes() == 8);
                self.push(Op::Lanes(run), slots, Class::Move);
                Ok(())
            }
        }
    }

    fn cvt(&mut self, instruction: &Instruction) -> Result<()> {
        self.count(instruction, 2..=3)?;
        let operands = &instruction.operands;
        let Some(d_type) = self.type_of(&operands[0]) else {
            return self.error("a conversion into no register");
        };
        let mut mods = Mods::new(&instruction.opcode);
        mods.first();
        let selected = convert(&mut mods, d_type.bytes());
        let Some(selected) = selected.filter(|_| mods.is_empty()) else {
            return self.unknown(instruction);
        };
        self.count(
            instruction,
            selected.args.len() + 1..=selected.args.len() + 1,
        )?;
        let mut slots = Slots {
            x: selected.x,
            d: self.register(&operands[0], selected.d)?,
            ..Slots::default()
        };
        // sources may be wider than their type: the low bits count
        let ty = selected.args[0];
        slots.a = match self.type_of(&operands[1]) {
            Some(found) if found.bytes() == 8 && ty.bytes() < 8 => {
                let row = self.register(&operands[1], found)?;
                let low = self.next_row as u16;
                self.next_row += 1;
                let part = Slots {
                    d: low,
                    a: row,
                    ..Slots::default()
                };
                self.push_part(Op::Lanes(select::part64()), part, None);
                low
            }
            _ => self.value(&operands[1], ty)?,
        };
        if let (Some(operand), Some(ty)) = (operands.get(2), selected.args.get(1)) {
            slots.b = self.value(operand, *ty)?;
        }
        self.push(Op::Lanes(selected.run), slots, selected.class);
        Ok(())
    }

    fn cvta(&mut self, instruction: &Instruction) -> Result<()> {
        self.count(instruction, 2..=2)?;
        let mut mods = Mods::new(&instruction.opcode);
        mods.first();
        let to = mods.take("to");
        let space = mods.one_of(&[
            "global",
            "const",
            "shared",
            "shared::cta",
            "local",
            "param",
            "param::entry",
        ]);
        let (Some(space), Some(Type::U64), true) = (space, mods.ty(), mods.is_empty()) else {
            return self.unknown(instruction);
        };
        let window = match space {
            "shared" | "shared::cta" => SHARED_WINDOW,
            "local" => LOCAL_WINDOW,
            // these lie in the generic space at their own addresses
            _ => 0,
        };
        let window = if to { window.wrapping_neg() } else { window };
        let slots = Slots {
            d: self.register(&instruction.operands[0], Type::U64)?,
            a: self.value(&instruction.operands[1], Type::U64)?,
            b: self.bits(window, true),
            ..Slots::default()
        };
        self.push(Op::Lanes(select::add_window()), slots, Class::Integer);
        Ok(())
    }

    fn setp(&mut self, instruction: &Instruction) -> Result<()> {
        self.count(instruction, 3..=4)?;
        let operands = &instruction.operands;
        let mut mods = Mods::new(&instruction.opcode);
        mods.first();
        let (Some(ty), Some(compare)) = (mods.ty(), mods.first().and_then(Compare::named)) else {
            return self.unknown(instruction);
        };
        let logic = match mods.one_of(&["and", "or", "xor"]) {
            None => 0,
            Some("and") => 1,
            Some("or") => 2,
            Some(_) => 3,
        };
        let ftz = mods.take("ftz");
        if !mods.is_empty() || (logic == 0) == (operands.len() == 4) {
            return self.unknown(instruction);
        }
        let (p, q) = match &operands[0] {
            Operand::Pair(p, q) => (self.pred_result(p)?, self.pred_result(q)?),
            operand => (self.pred_result(operand)?, NONE),
        };
        let mut slots = Slots {
            d: p,
            a: self.value(&operands[1], ty)?,
            b: self.value(&operands[2], ty)?,
            c: 0,
            x: u32::from(q) << 16 | logic,
        };
        if matches!(ty, Type::F16x2 | Type::Bf16x2) {
            if logic != 0 {
                return self.unknown(instruction);
            }
            slots.x = u32::from(q) << 16
                | compare as u32
                | u32::from(ty == Type::Bf16x2) << 8
                | u32::from(ftz) << 9;
            self.push(Op::Lanes(select::set_halves()), slots, Class::Half);
            return Ok(());
        }
        if let Some(operand) = operands.get(3) {
            let (c, negate) = self.pred_operand(operand)?;
            slots.c = c;
            slots.x |= u32::from(negate) << 2;
        }
        let Some(run) = select::set_pred(compare, ty, ftz) else {
            return self.unknown(instruction);
        };
        self.push(Op::Lanes(run), slots, compare_class(ty));
        Ok(())
    }

    fn set(&mut self, instruction: &Instruction) -> Result<()> {
        self.count(instruction, 3..=3)?;
        let operands = &instruction.operands;
        let mut mods = Mods::new(&instruction.opcode);
        mods.first();
        let (Some(ty), Some(d_type)) = (mods.ty(), mods.ty()) else {
            return self.unknown(instruction);
        };
        let compare = mods.first().and_then(Compare::named);
        let ftz = mods.take("ftz");
        let (Some(compare), true) = (compare, mods.is_empty()) else {
            return self.unknown(instruction);
        };
        let mut slots = Slots {
            d: self.register(&operands[0], d_type)?,
            a: self.value(&operands[1], ty)?,
            b: self.value(&operands[2], ty)?,
            ..Slots::default()
        };
        if matches!(ty, Type::F16x2 | Type::Bf16x2) {
            let kind = match d_type {
                _ if d_type == ty => 1,
                Type::U32 | Type::S32 => 2,
                _ => return self.unknown(instruction),
            };
            slots.x = compare as u32
                | u32::from(ty == Type::Bf16x2) << 8
                | u32::from(ftz) << 9
                | kind << 10;
            self.push(Op::Lanes(select::set_halves()), slots, Class::Half);
            return Ok(());
        }
        let Some(run) = select::set_value(compare, d_type, ty, ftz) else {
            return self.unknown(instruction);
        };
        self.push(Op::Lanes(run), slots, compare_class(ty));
        Ok(())
    }

    fn selp(&mut self, instruction: &Instruction) -> Result<()> {
        self.count(instruction, 4..=4)?;
        let operands = &instruction.operands;
        let mut mods = Mods::new(&instruction.opcode);
        let op = mods.first();
        let Some(last) = mods.ty() else {
            return self.unknown(instruction);
        };
        if op == Some("selp") {
            if !mods.is_empty() || last == Type::Pred {
                return self.unknown(instruction);
            }
            let (c, negate) = self.pred_operand(&operands[3])?;
            let slots = Slots {
                d: self.register(&operands[0], last)?,
                a: self.value(&operands[1], last)?,
                b: self.value(&operands[2], last)?,
                c,
                x: u32::from(negate),
            };
            let run = select::select_by_pred(last.bytes() == 8);
            self.push(Op::Lanes(run), slots, Class::Move);
            return Ok(());
        }
        let ftz = mods.take("ftz");
        let (Some(ty), true) = (mods.ty(), mods.is_empty()) else {
            return self.unknown(instruction);
        };
        let float = match last {
            Type::S32 => false,
            Type::F32 => true,
            _ => return self.unknown(instruction),
        };
        let slots = Slots {
            d: self.register(&operands[0], ty)?,
            a: self.value(&operands[1], ty)?,
            b: self.value(&operands[2], ty)?,
            c: self.value(&operands[3], last)?,
            x: 0,
        };
        let run = select::select_by_sign(ty.bytes() == 8, float, ftz);
        self.push(Op::Lanes(run), slots, Class::Move);
        Ok(())
    }

    // ---- memory

    /// Modifiers that say nothing about the result: where data is cached.
    fn cache_hints(&self, mods: &mut Mods) -> bool {
        let hint = mods.take("L2::cache_hint");
        while mods
            .one_of(&[
                "L1::evict_normal",
                "L1::evict_unchanged",
                "L1::evict_first",
                "L1::evict_last",
                "L1::no_allocate",
                "L2::evict_normal",
                "L2::evict_first",
                "L2::evict_last",
                "L2::64B",
                "L2::128B",
                "L2::256B",
            ])
            .is_some()
        {}
        hint
    }

    fn scope(&self, mods: &mut Mods) -> Option<Scope> {
        // clusters have one block here
        Some(match mods.one_of(&["cta", "cluster", "gpu", "sys"])? {
            "cta" | "cluster" => Scope::Block,
            _ => Scope::Device,
        })
    }

    fn place(&self, mods: &mut Mods) -> Option<&'static str> {
        mods.one_of(&[
            "global",
            "shared",
            "shared::cta",
            "local",
            "param",
            "param::entry",
            "param::func",
            "const",
        ])
    }

    fn elements(
        &mut self,
        operand: &Operand,
        ty: Type,
        count: u32,
        result: bool,
    ) -> Result<[u16; 8]> {
        let mut rows = [NONE; 8];
        let list = match operand {
            Operand::Vector(list) => &list[..],
            operand => std::slice::from_ref(operand),
        };
        if list.len() != count as usize {
            return self.error(format!("{} elements, expected {count}", list.len()));
        }
        for (row, operand) in rows.iter_mut().zip(list) {
            *row = match operand {
                Operand::Discard if result => NONE,
                Operand::Reg(register) => {
                    let found = self.flat.registers[*register as usize];
                    if found == Type::Pred || found.bytes() < ty.bytes() {
                        return self.error(format!("a register of type {found:?} for a {ty:?}"));
                    }
                    self.rows.of[*register as usize]
                }
                operand if !result => self.value(operand, ty)?,
                _ => return self.error("a load into no register"),
            };
        }
        Ok(rows)
    }

    fn order(&self, mods: &mut Mods) -> Option<(Order, Scope)> {
        if mods.take("volatile") {
            return Some((Order::Relaxed, Scope::Device));
        }
        if mods.take("mmio") {
            return (mods.take("relaxed") && mods.take("sys"))
                .then_some((Order::Relaxed, Scope::Device));
        }
        match mods.one_of(&["weak", "relaxed", "acquire", "release"]) {
            None | Some("weak") => Some((Order::Weak, Scope::Device)),
            Some("relaxed") => Some((Order::Relaxed, self.scope(mods)?)),
            Some("acquire") => Some((Order::Acquire, self.scope(mods)?)),
            Some(_) => Some((Order::Release, self.scope(mods)?)),
        }
    }

    fn vector(&self, mods: &mut Mods) -> u32 {
        match mods.one_of(&["v2", "v4", "v8"]) {
            None => 1,
            Some("v2") => 2,
            Some("v4") => 4,
            Some(_) => 8,
        }
    }

    fn load(&mut self, instruction: &Instruction) -> Result<()> {
        let mut mods = Mods::new(&instruction.opcode);
        mods.first();
        let hint = self.cache_hints(&mut mods);
        self.count(instruction, 2 + usize::from(hint)..=2 + usize::from(hint))?;
        let operands = &instruction.operands;
        let Some((order, scope)) = self.order(&mut mods) else {
            return self.unknown(instruction);
        };
        let mut place = self.place(&mut mods);
        let non_coherent = mods.take("nc");
        mods.one_of(&["ca", "cg", "cs", "lu", "cv"]);
        let count = self.vector(&mut mods);
        let (Some(ty), true) = (mods.ty(), mods.is_empty()) else {
            return self.unknown(instruction);
        };
        let bytes = ty.bytes() * count;
        if ty == Type::Pred
            || ty == Type::B128
            || order == Order::Release
            || bytes > 32
            || bytes > 16 && self.capability < 100
        {
            return self.unknown(instruction);
        }
        let (base, base_wide, offset) = self.address(&operands[1])?;
        // what `.param` names may be a parameter of the kernel or one of a call
        let param = matches!(place, Some("param" | "param::entry" | "param::func"));
        let mut class = Class::Global;
        if param {
            let Operand::Address(inner, at) = &operands[1] else {
                return self.unknown(instruction);
            };
            match inner.as_ref() {
                Some(Operand::Symbol(name, more)) => match self.symbol(name)? {
                    Symbol::Local(_) => place = Some("local"),
                    Symbol::Param(start) => {
                        let offset = start.wrapping_add_signed(at.wrapping_add(*more));
                        let end = offset.saturating_add(bytes.into());
                        if end > self.param_bytes.into() {
                            return self.error(format!(
                                "{bytes} bytes at {offset} of {} of parameters",
                                self.param_bytes
                            ));
                        }
                        return self.load_param(instruction, ty, count, offset as u32);
                    }
                    _ => return self.unknown(instruction),
                },
                _ => place = Some("param"),
            }
            class = Class::Param;
        }
        let d_bytes = match &operands[0] {
            Operand::Vector(list) => {
                let mut types = list.iter().filter_map(|o| self.type_of(o));
                let first = types.next().map_or(4, Type::bytes);
                if types.any(|t| t.bytes() != first) {
                    return self.error("a load into registers of several widths");
                }
                first
            }
            operand => self.type_of(operand).map_or(4, Type::bytes),
        };
        let access = Access {
            place: match place {
                None => Place::Generic,
                Some("global" | "const") => Place::Global,
                Some("shared" | "shared::cta") => Place::Shared,
                Some("local") => Place::Local,
                Some(_) => Place::Param,
            },
            bytes: ty.bytes(),
            count,
            signed: ty.signed(),
            wide: d_bytes == 8,
            narrow16: d_bytes <= 2,
            data: self.elements(&operands[0], ty, count, true)?,
            base,
            base_wide,
            offset,
            order,
            scope,
            non_coherent,
        };
        if !param {
            class = match access.place {
                Place::Shared => Class::Shared,
                Place::Local => Class::Local,
                Place::Param => Class::Param,
                _ => Class::Global,
            };
        }
        self.push(Op::Load(Box::new(access)), Slots::default(), class);
        Ok(())
    }

    /// Parameters of the kernel at fixed offsets are constants of the launch.
    fn load_param(
        &mut self,
        instruction: &Instruction,
        ty: Type,
        count: u32,
        offset: u32,
    ) -> Result<()> {
        let list = match &instruction.operands[0] {
            Operand::Vector(list) => list.clone(),
            operand => vec![operand.clone()],
        };
        if list.len() != count as usize {
            return self.error(format!("{} elements, expected {count}", list.len()));
        }
        let mut class = Some(Class::Param);
        for (i, operand) in list.iter().enumerate() {
            let Some(found) = self.type_of(operand) else {
                continue;
            };
            if found.bytes() < ty.bytes() {
                return self.error(format!("a register of type {found:?} for a {ty:?}"));
            }
            let wide = found.bytes() == 8;
            let at = offset + i as u32 * ty.bytes();
            let mut a = self.constant(Constant::Param(at, ty.bytes(), ty.signed()), wide);
            let d = self.register(operand, found)?;
            if found.bytes() == 2 && ty.signed() {
                a = self.constant(Constant::Param(at, ty.bytes(), true), false);
                let slots = Slots {
                    d,
                    a,
                    ..Slots::default()
                };
                self.push_part(Op::Lanes(select::part32()), slots, class.take());
                continue;
            }
            let slots = Slots {
                d,
                a,
                ..Slots::default()
            };
            self.push_part(Op::Lanes(select::copy(wide)), slots, class.take());
        }
        Ok(())
    }

    fn store(&mut self, instruction: &Instruction) -> Result<()> {
        let mut mods = Mods::new(&instruction.opcode);
        mods.first();
        let hint = self.cache_hints(&mut mods);
        self.count(instruction, 2 + usize::from(hint)..=2 + usize::from(hint))?;
        let operands = &instruction.operands;
        let Some((order, scope)) = self.order(&mut mods) else {
            return self.unknown(instruction);
        };
        let place = self.place(&mut mods);
        mods.one_of(&["wb", "cg", "cs", "wt"]);
        let count = self.vector(&mut mods);
        let (Some(ty), true) = (mods.ty(), mods.is_empty()) else {
            return self.unknown(instruction);
        };
        let bytes = ty.bytes() * count;
        if ty == Type::Pred
            || ty == Type::B128
            || order == Order::Acquire
            || bytes > 32
            || bytes > 16 && self.capability < 100
        {
            return self.unknown(instruction);
        }
        let (base, base_wide, offset) = self.address(&operands[0])?;
        let place = match place {
            None => Place::Generic,
            Some("global") => Place::Global,
            Some("shared" | "shared::cta") => Place::Shared,
            // parameters of calls live in local memory
            Some("local" | "param" | "param::func") => Place::Local,
            Some(_) => return self.unknown(instruction),
        };
        let data = self.elements(&operands[1], ty, count, false)?;
        let wide = match &operands[1] {
            Operand::Vector(list) => list.iter().find_map(|o| self.type_of(o)),
            operand => self.type_of(operand),
        }
        .map_or(ty.bytes() == 8, |t| t.bytes() == 8);
        let access = Access {
            place,
            bytes: ty.bytes(),
            count,
            signed: false,
            wide,
            narrow16: false,
            data,
            base,
            base_wide,
            offset,
            order,
            scope,
            non_coherent: false,
        };
        let class = match place {
            Place::Shared => Class::Shared,
            Place::Local => Class::Local,
            _ => Class::Global,
        };
        self.push(Op::Store(Box::new(access)), Slots::default(), class);
        Ok(())
    }

    fn atomic(&mut self, instruction: &Instruction) -> Result<()> {
        let mut mods = Mods::new(&instruction.opcode);
        let reduction = mods.first() == Some("red");
        let hint = self.cache_hints(&mut mods);
        let order = match mods.one_of(&["relaxed", "acquire", "release", "acq_rel"]) {
            None | Some("relaxed") => Order::Relaxed,
            Some("acquire") => Order::Acquire,
            Some("release") => Order::Release,
            Some(_) => Order::AcquireRelease,
        };
        let scope = self.scope(&mut mods).unwrap_or(Scope::Device);
        let place = match self.place(&mut mods) {
            None => Place::Generic,
            Some("global") => Place::Global,
            Some("shared" | "shared::cta") => Place::Shared,
            Some(_) => return self.unknown(instruction),
        };
        let op = match mods.one_of(&[
            "add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec",
        ]) {
            Some("add") => AtomicOp::Add,
            Some("min") => AtomicOp::Min,
            Some("max") => AtomicOp::Max,
            Some("and") => AtomicOp::And,
            Some("or") => AtomicOp::Or,
            Some("xor") => AtomicOp::Xor,
            Some("exch") => AtomicOp::Exch,
            Some("cas") => AtomicOp::Cas,
            Some("inc") => AtomicOp::Inc,
            Some("dec") => AtomicOp::Dec,
            _ => return self.unknown(instruction),
        };
        let noftz = mods.take("noftz");
        let (Some(ty), true) = (mods.ty(), mods.is_empty()) else {
            return self.unknown(instruction);
        };
        use AtomicOp::*;
        use Type::*;
        let half = matches!(ty, F16 | F16x2 | Bf16 | Bf16x2);
        let known = match op {
            Add => matches!(ty, U32 | S32 | U64 | F32 | F64) || half,
            Min | Max => matches!(ty, U32 | S32 | U64 | S64),
            And | Or | Xor => matches!(ty, B32 | B64),
            Exch => matches!(ty, B32 | B64),
            Cas => matches!(ty, B16 | B32 | B64),
            Inc | Dec => ty == U32,
        };
        if !known || noftz != half || reduction && matches!(op, Exch | Cas) {
            return self.unknown(instruction);
        }
        let extra = usize::from(hint) + usize::from(op == Cas);
        let skip = usize::from(!reduction);
        self.count(instruction, 2 + skip + extra..=2 + skip + extra)?;
        let operands = &instruction.operands;
        let d = if reduction || operands[0] == Operand::Discard {
            NONE
        } else {
            self.register(&operands[0], ty)?
        };
        let (base, base_wide, offset) = self.address(&operands[skip])?;
        let b = self.value(&operands[skip + 1], ty)?;
        let c = if op == Cas {
            self.value(&operands[skip + 2], ty)?
        } else {
            NONE
        };
        let atomic = Atomic {
            op,
            ty,
            place,
            d,
            base,
            base_wide,
            offset,
            b,
            c,
            order,
            scope,
        };
        self.push(
            Op::Atomic(Box::new(atomic)),
            Slots::default(),
            Class::Atomic,
        );
        Ok(())
    }

    // ---- synchronisation

    fn barrier(&mut self, instruction: &Instruction) -> Result<()> {
        let operands = &instruction.operands;
        let mut mods = Mods::new(&instruction.opcode);
        let plain = mods.first() == Some("bar");
        if mods.take("warp") {
            self.count(instruction, 1..=1)?;
            if !mods.take("sync") || !mods.is_empty() {
                return self.unknown(instruction);
            }
            let members = self.value(&operands[0], Type::B32)?;
            let op = Op::Sync(members, Box::new(Sync::Barrier));
            self.push(op, Slots::default(), Class::Barrier);
            return Ok(());
        }
        if mods.take("cluster") {
            // a cluster of one block: arrive and wait are both its own threads
            let wait = match mods.one_of(&["arrive", "wait"]) {
                Some("arrive") => false,
                Some(_) => true,
                None => return self.unknown(instruction),
            };
            mods.one_of(&["release", "relaxed", "acquire"]);
            let aligned = mods.take("aligned");
            if !mods.is_empty() || !operands.is_empty() {
                return self.unknown(instruction);
            }
            let _ = aligned;
            if !wait {
                self.push(Op::Nop, Slots::default(), Class::Barrier);
                return Ok(());
            }
            let barrier = Barrier {
                id: self.bits(0, false),
                threads: NONE,
                waits: true,
                aligned,
                reduce: None,
            };
            self.push(
                Op::Barrier(Box::new(barrier)),
                Slots::default(),
                Class::Barrier,
            );
            return Ok(());
        }
        mods.take("cta");
        let what = mods.one_of(&["sync", "arrive", "red"]);
        let aligned = mods.take("aligned") || plain;
        let mut barrier = Barrier {
            id: NONE,
            threads: NONE,
            waits: true,
            aligned,
            reduce: None,
        };
        match what {
            Some("sync") if mods.is_empty() => {
                self.count(instruction, 1..=2)?;
                barrier.id = self.value(&operands[0], Type::U32)?;
                if let Some(threads) = operands.get(1) {
                    barrier.threads = self.value(threads, Type::U32)?;
                }
            }
            Some("arrive") if mods.is_empty() => {
                self.count(instruction, 2..=2)?;
                barrier.id = self.value(&operands[0], Type::U32)?;
                barrier.threads = self.value(&operands[1], Type::U32)?;
                barrier.waits = false;
            }
            Some("red") => {
                self.count(instruction, 3..=4)?;
                let kind = mods.one_of(&["popc", "and", "or"]);
                let ty = mods.ty();
                let (reduce, d) = match (kind, ty) {
                    (Some("popc"), Some(Type::U32)) => {
                        (Reduce::Popc, self.register(&operands[0], Type::U32)?)
                    }
                    (Some("and"), Some(Type::Pred)) => {
                        (Reduce::And, self.pred_result(&operands[0])?)
                    }
                    (Some("or"), Some(Type::Pred)) => (Reduce::Or, self.pred_result(&operands[0])?),
                    _ => return self.unknown(instruction),
                };
                barrier.id = self.value(&operands[1], Type::U32)?;
                if operands.len() == 4 {
                    barrier.threads = self.value(&operands[2], Type::U32)?;
                }
                let (c, negate) = self.pred_operand(&operands[operands.len() - 1])?;
                barrier.reduce = Some((reduce, d, c, negate));
            }
            _ => return self.unknown(instruction),
        }
        if !mods.is_empty() {
            return self.unknown(instruction);
        }
        self.push(
            Op::Barrier(Box::new(barrier)),
            Slots::default(),
            Class::Barrier,
        );
        Ok(())
    }

    fn fence(&mut self, instruction: &Instruction) -> Result<()> {
        let mut mods = Mods::new(&instruction.opcode);
        let membar = mods.first() == Some("membar");
        let scope = if membar {
            match mods.one_of(&["cta", "gl", "sys"]) {
                Some("cta") => Scope::Block,
                Some(_) => Scope::Device,
                None => return self.unknown(instruction),
            }
        } else if mods.take("mbarrier_init") {
            // orders the initialisation of an mbarrier within the cluster
            if !mods.take("release") || !mods.take("cluster") {
                return self.unknown(instruction);
            }
            Scope::Block
        } else {
            if mods.take("proxy") {
                // no second proxy here: data written by one is seen by all
                if mods.one_of(&["async", "alias", "async.global"]).is_none() {
                    return self.unknown(instruction);
                }
                mods.one_of(&["global", "shared::cta", "shared::cluster"]);
                if !mods.is_empty() {
                    return self.unknown(instruction);
                }
                self.push(Op::Nop, Slots::default(), Class::Fence);
                return Ok(());
            }
            mods.one_of(&["sc", "acq_rel", "acquire", "release"]);
            match self.scope(&mut mods) {
                Some(scope) => scope,
                None => return self.unknown(instruction),
            }
        };
        if !mods.is_empty() {
            return self.unknown(instruction);
        }
        self.push(Op::Fence(scope), Slots::default(), Class::Fence);
        Ok(())
    }

    fn sync(&mut self, instruction: &Instruction) -> Result<()> {
        let operands = &instruction.operands;
        let mut mods = Mods::new(&instruction.opcode);
        let op = mods.first().unwrap_or("");
        if !mods.take("sync") {
            return self.error(format!("`{}` without `.sync`", instruction.name()));
        }
        let members = match operands.last() {
            Some(operand) => self.value(operand, Type::B32)?,
            None => return self.unknown(instruction),
        };
        let pair = |this: &Self, operand: &Operand, ty: Type| -> Result<(u16, u16)> {
            match operand {
                Operand::Pair(d, p) => {
                    let d = match d.as_ref() {
                        Operand::Discard => NONE,
                        d => this.register(d, ty)?,
                    };
                    Ok((d, this.pred_result(p)?))
                }
                operand => Ok((this.register(operand, ty)?, NONE)),
            }
        };
        let sync = match op {
            "shfl" => {
                self.count(instruction, 5..=5)?;
                let kind = match mods.one_of(&["up", "down", "bfly", "idx"]) {
                    Some("up") => Shuffle::Up,
                    Some("down") => Shuffle::Down,
                    Some("bfly") => Shuffle::Bfly,
                    Some(_) => Shuffle::Idx,
                    None => return self.unknown(instruction),
                };
                if mods.ty() != Some(Type::B32) {
                    return self.unknown(instruction);
                }
                let (d, valid) = pair(self, &operands[0], Type::B32)?;
                Sync::Shuffle {
                    kind,
                    d,
                    valid,
                    a: self.value(&operands[1], Type::B32)?,
                    b: self.value(&operands[2], Type::U32)?,
                    c: self.value(&operands[3], Type::U32)?,
                }
            }
            "vote" => {
                self.count(instruction, 3..=3)?;
                let kind = match mods.one_of(&["all", "any", "uni", "ballot"]) {
                    Some("all") => Vote::All,
                    Some("any") => Vote::Any,
                    Some("uni") => Vote::Uni,
                    Some(_) => Vote::Ballot,
                    None => return self.unknown(instruction),
                };
                let d = match (kind, mods.ty()) {
                    (Vote::Ballot, Some(Type::B32)) => self.register(&operands[0], Type::B32)?,
                    (Vote::Ballot, _) => return self.unknown(instruction),
                    (_, Some(Type::Pred)) => self.pred_result(&operands[0])?,
                    _ => return self.unknown(instruction),
                };
                let (a, negate) = match &operands[1] {
                    // predicate 0 is the carry flag, which a vote cannot name: constants are rare
                    Operand::Int(_) => return self.error("a vote on a constant"),
                    operand => self.pred_operand(operand)?,
                };
                Sync::Vote { kind, d, a, negate }
            }
            "redux" => {
                self.count(instruction, 3..=3)?;
                let kind = mods.one_of(&["add", "min", "max", "and", "or", "xor"]);
                let ty = mods.ty();
                let kind = match (kind, ty) {
                    (Some("add"), Some(Type::U32 | Type::S32)) => Redux::Add,
                    (Some("min"), Some(Type::U32)) => Redux::Min,
                    (Some("max"), Some(Type::U32)) => Redux::Max,
                    (Some("min"), Some(Type::S32)) => Redux::MinSigned,
                    (Some("max"), Some(Type::S32)) => Redux::MaxSigned,
                    (Some("and"), Some(Type::B32)) => Redux::And,
                    (Some("or"), Some(Type::B32)) => Redux::Or,
                    (Some("xor"), Some(Type::B32)) => Redux::Xor,
                    _ => return self.unknown(instruction),
                };
                Sync::Redux {
                    kind,
                    d: self.register(&operands[0], Type::B32)?,
                    a: self.value(&operands[1], Type::B32)?,
                }
            }
            "match" => {
                self.count(instruction, 3..=3)?;
                let all = match mods.one_of(&["any", "all"]) {
                    Some("all") => true,
                    Some(_) => false,
                    None => return self.unknown(instruction),
                };
                let ty = match mods.ty() {
                    Some(ty @ (Type::B32 | Type::B64)) => ty,
                    _ => return self.unknown(instruction),
                };
                let (d, valid) = pair(self, &operands[0], Type::B32)?;
                Sync::Match {
                    all,
                    wide: ty == Type::B64,
                    d,
                    valid,
                    a: self.value(&operands[1], ty)?,
                }
            }
            _ => {
                self.count(instruction, 2..=2)?;
                let (d, chosen) = pair(self, &operands[0], Type::B32)?;
                Sync::Elect { d, chosen }
            }
        };
        if !mods.is_empty() {
            return self.unknown(instruction);
        }
        self.push(
            Op::Sync(members, Box::new(sync)),
            Slots::default(),
            Class::Shuffle,
        );
        Ok(())
    }

    // ---- matrices and copies

    fn matrix(&mut self, instruction: &Instruction) -> Result<()> {
        self.count(instruction, 2..=2)?;
        let mut mods = Mods::new(&instruction.opcode);
        let store = mods.first() == Some("stmatrix");
        let ok = mods.take("sync") && mods.take("aligned") && mods.take("m8n8");
        let count = match mods.one_of(&["x1", "x2", "x4"]) {
            Some("x1") => 1,
            Some("x2") => 2,
            Some(_) => 4,
            None => 0,
        };
        let transposed = mods.take("trans");
        let generic = mods.one_of(&["shared", "shared::cta"]).is_none();
        let ty = mods.ty();
        if !ok || count == 0 || ty != Some(Type::B16) || !mods.is_empty() {
            return self.unknown(instruction);
        }
        if store && self.capability < 90 {
            return self.error("`stmatrix` needs sm_90");
        }
        let (address, data) = if store { (0, 1) } else { (1, 0) };
        let (base, base_wide, offset) = self.address(&instruction.operands[address])?;
        let rows = self.elements(&instruction.operands[data], Type::B32, count, !store)?;
        let matrix = Matrix {
            store,
            count: count as usize,
            transposed,
            data: [rows[0], rows[1], rows[2], rows[3]],
            base,
            base_wide,
            offset,
            generic,
        };
        self.push(
            Op::Matrix(Box::new(matrix)),
            Slots::default(),
            Class::Matrix,
        );
        Ok(())
    }

    fn mma(&mut self, instruction: &Instruction) -> Result<()> {
        self.count(instruction, 4..=4)?;
        let mut mods = Mods::new(&instruction.opcode);
        mods.first();
        let ok = mods.take("sync") && mods.take("aligned");
        let k = match mods.one_of(&["m16n8k4", "m16n8k8", "m16n8k16", "m16n8k32"]) {
            Some("m16n8k4") => 4,
            Some("m16n8k8") => 8,
            Some("m16n8k16") => 16,
            Some(_) => 32,
            None => return self.unknown(instruction),
        };
        let ok = ok && mods.take("row") && mods.take("col");
        let satfinite = mods.take("satfinite");
        let element = |name: Option<&str>| {
            Some(match name? {
                "f16" => Element::F16,
                "bf16" => Element::Bf16,
                "tf32" => Element::Tf32,
                "e4m3" => Element::E4m3,
                "e5m2" => Element::E5m2,
                "s8" => Element::S8,
                "u8" => Element::U8,
                "f32" => Element::F32,
                "s32" => Element::S32,
                _ => return None,
            })
        };
        let types = [
            element(mods.first()),
            element(mods.first()),
            element(mods.first()),
            element(mods.first()),
        ];
        let [Some(d_type), Some(a_type), Some(b_type), Some(c_type)] = types else {
            return self.unknown(instruction);
        };
        use Element::*;
        let known = match (a_type, b_type) {
            (F16, F16) => {
                matches!(k, 8 | 16) && matches!(d_type, F16 | F32) && d_type == c_type && !satfinite
            }
            (Bf16, Bf16) => matches!(k, 8 | 16) && (d_type, c_type) == (F32, F32) && !satfinite,
            (Tf32, Tf32) => matches!(k, 4 | 8) && (d_type, c_type) == (F32, F32) && !satfinite,
            (E4m3 | E5m2, E4m3 | E5m2) => {
                if self.capability < 89 {
                    return self.error("8-bit floats in `mma` need sm_89");
                }
                matches!(k, 16 | 32)
                    && matches!(d_type, F16 | F32)
                    && d_type == c_type
                    && !satfinite
            }
            (S8 | U8, S8 | U8) => matches!(k, 16 | 32) && (d_type, c_type) == (S32, S32),
            _ => false,
        };
        if !ok || !known || !mods.is_empty() {
            return self.unknown(instruction);
        }
        let bits = match a_type {
            Tf32 => 32,
            F16 | Bf16 => 16,
            _ => 8,
        };
        // registers of 32 bits that each thread holds
        let a_count = (16 * k * bits / 32 / 32) as u32;
        let b_count = (8 * k * bits / 32 / 32) as u32;
        let c_count = |ty: Element| if ty == F16 { 2 } else { 4 };
        let operands = &instruction.operands;
        let c_scalar = if c_type == F32 { Type::F32 } else { Type::B32 };
        let d = self.elements(&operands[0], Type::B32, c_count(d_type), true)?;
        let a = self.elements(&operands[1], Type::B32, a_count, false)?;
        let b = self.elements(&operands[2], Type::B32, b_count, false)?;
        let c = self.elements(&operands[3], c_scalar, c_count(c_type), false)?;
        let name = instruction.opcode[3..].join(".").replace("row.col.", "");
        let mma = Mma {
            k,
            a_type,
            b_type,
            c_type,
            d_type,
            satfinite,
            d: [d[0], d[1], d[2], d[3]],
            a: [a[0], a[1], a[2], a[3]],
            b: [b[0], b[1]],
            c: [c[0], c[1], c[2], c[3]],
            name,
        };
        self.push(Op::Mma(Box::new(mma)), Slots::default(), Class::Mma);
        Ok(())
    }

    fn cp_async(&mut self, instruction: &Instruction) -> Result<()> {
        let operands = &instruction.operands;
        let mut mods = Mods::new(&instruction.opcode);
        mods.first();
        if !mods.take("async") {
            return self.unknown(instruction);
        }
        if mods.take("commit_group") {
            self.count(instruction, 0..=0)?;
            if !mods.is_empty() {
                return self.unknown(instruction);
            }
            self.push(Op::CpCommit, Slots::default(), Class::Async);
            return Ok(());
        }
        if mods.take("wait_group") {
            let (true, [Operand::Int(groups @ 0..)]) = (mods.is_empty(), &operands[..]) else {
                return self.unknown(instruction);
            };
            let op = Op::CpWait(u32::try_from(*groups).unwrap_or(u32::MAX));
            self.push(op, Slots::default(), Class::Async);
            return Ok(());
        }
        if mods.take("wait_all") {
            if !mods.is_empty() || !operands.is_empty() {
                return self.unknown(instruction);
            }
            self.push(Op::CpWaitAll, Slots::default(), Class::Async);
            return Ok(());
        }
        if mods.take("mbarrier") {
            let ok = mods.take("arrive");
            let no_inc = mods.take("noinc");
            let generic = mods.one_of(&["shared", "shared::cta"]).is_none();
            if !ok || mods.ty() != Some(Type::B64) || !mods.is_empty() {
                return self.unknown(instruction);
            }
            self.count(instruction, 1..=1)?;
            let (base, base_wide, offset) = self.address(&operands[0])?;
            let mbarrier = Mbarrier {
                op: if no_inc {
                    MbarrierOp::CpAsyncNoInc
                } else {
                    MbarrierOp::CpAsync
                },
                d: NONE,
                base,
                base_wide,
                offset,
                generic,
                value: NONE,
                acquires: false,
            };
            self.push(
                Op::Mbarrier(Box::new(mbarrier)),
                Slots::default(),
                Class::Async,
            );
            return Ok(());
        }
        let cache = mods.one_of(&["ca", "cg"]);
        let spaces = mods.one_of(&["shared", "shared::cta"]).is_some() && mods.take("global");
        let hint = self.cache_hints(&mut mods);
        let (Some(cache), true, true) = (cache, spaces, mods.is_empty()) else {
            return self.unknown(instruction);
        };
        let least = 3 + usize::from(hint);
        self.count(instruction, least..=least + 1)?;
        let Operand::Int(bytes @ (4 | 8 | 16)) = operands[2] else {
            return self.error("`cp.async` of other than 4, 8 or 16 bytes");
        };
        if cache == "cg" && bytes != 16 {
            return self.error("`cp.async.cg` of other than 16 bytes");
        }
        let (to, to_wide, to_offset) = self.address(&operands[0])?;
        let (from, from_wide, from_offset) = self.address(&operands[1])?;
        if !from_wide {
            return self.error("a global address of 32 bits");
        }
        let (mut source, mut ignore, mut ignore_negated) = (NONE, NONE, false);
        if operands.len() == least + 1 {
            match &operands[3] {
                Operand::Reg(register) if self.flat.registers[*register as usize] == Type::Pred => {
                    (ignore, ignore_negated) = self.pred_operand(&operands[3])?;
                }
                Operand::NotReg(_) => {
                    (ignore, ignore_negated) = self.pred_operand(&operands[3])?;
                }
                operand => source = self.value(operand, Type::U32)?,
            }
        }
        let copy = CpAsync {
            to,
            to_wide,
            to_offset,
            from,
            from_offset,
            bytes: bytes as u32,
            source,
            ignore,
            ignore_negated,
            generic: false,
        };
        self.push(Op::CpAsync(Box::new(copy)), Slots::default(), Class::Async);
        Ok(())
    }

    fn mbarrier(&mut self, instruction: &Instruction) -> Result<()> {
        let operands = &instruction.operands;
        let mut mods = Mods::new(&instruction.opcode);
        mods.first();
        let what = mods.one_of(&[
            "init",
            "inval",
            "arrive",
            "arrive_drop",
            "expect_tx",
            "complete_tx",
            "test_wait",
            "try_wait",
            "pending_count",
        ]);
        let expect = what == Some("arrive") && mods.take("expect_tx");
        let parity = mods.take("parity");
        mods.take("noComplete");
        let order = mods.one_of(&["relaxed", "release", "acquire"]);
        mods.one_of(&["cta", "cluster"]);
        let generic = mods.one_of(&["shared", "shared::cta"]).is_none();
        if mods.ty() != Some(Type::B64) || !mods.is_empty() {
            return self.unknown(instruction);
        }
        let op = match (what, expect, parity) {
            (Some("init"), ..) => MbarrierOp::Init,
            (Some("inval"), ..) => MbarrierOp::Inval,
            (Some("arrive"), true, _) => MbarrierOp::ArriveExpect,
            (Some("arrive"), ..) => MbarrierOp::Arrive,
            (Some("arrive_drop"), ..) => MbarrierOp::ArriveDrop,
            (Some("expect_tx"), ..) => MbarrierOp::Expect,
            (Some("complete_tx"), ..) => MbarrierOp::Complete,
            (Some("test_wait" | "try_wait"), _, false) => MbarrierOp::Test,
            (Some("test_wait" | "try_wait"), _, true) => MbarrierOp::TestParity,
            (Some("pending_count"), ..) => MbarrierOp::Pending,
            _ => return self.unknown(instruction),
        };
        let has_result = !matches!(operands.first(), Some(Operand::Address(..)) | None);
        let mut rest = &operands[usize::from(has_result)..];
        let d = match (op, operands.first()) {
            (MbarrierOp::Test | MbarrierOp::TestParity, Some(d)) => self.pred_result(d)?,
            (MbarrierOp::Pending, Some(d)) => self.register(d, Type::B32)?,
            (_, Some(Operand::Discard)) => NONE,
            (_, Some(d)) if has_result => self.register(d, Type::B64)?,
            _ => NONE,
        };
        let (mut base, mut base_wide, mut offset) = (NONE, false, 0);
        if op != MbarrierOp::Pending {
            let Some((address, tail)) = rest.split_first() else {
                return self.unknown(instruction);
            };
            (base, base_wide, offset) = self.address(address)?;
            rest = tail;
        }
        let value_type = match op {
            MbarrierOp::Test | MbarrierOp::Pending => Type::B64,
            _ => Type::U32,
        };
        let value = match rest.first() {
            Some(operand) => self.value(operand, value_type)?,
            None if matches!(op, MbarrierOp::Arrive | MbarrierOp::ArriveDrop) => {
                self.bits(1, false)
            }
            None if op == MbarrierOp::Inval => NONE,
            None => return self.unknown(instruction),
        };
        // a suspend-time hint of try_wait changes nothing
        let most = 1 + usize::from(what == Some("try_wait"));
        if rest.len() > most {
            return self.unknown(instruction);
        }
        let waits = matches!(op, MbarrierOp::Test | MbarrierOp::TestParity);
        let mbarrier = Mbarrier {
            op,
            d,
            base,
            base_wide,
            offset,
            generic,
            value,
            acquires: waits && order != Some("relaxed"),
        };
        self.push(
            Op::Mbarrier(Box::new(mbarrier)),
            Slots::default(),
            Class::Async,
        );
        Ok(())
    }
}

fn compare_class(ty: Type) -> Class {
    match ty {
        Type::F32 => Class::F32,
        Type::F64 => Class::F64,
        Type::F16 | Type::Bf16 | Type::F16x2 | Type::Bf16x2 => Class::Half,
        _ => Class::Integer,
    }
}
