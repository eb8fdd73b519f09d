//! Loads, stores, atomics and copies, with the modifiers that they share.

use super::*;

impl Decoder<'_> {
    /// Modifiers that say nothing about the result: where data is cached.
    pub(super) fn cache_hints(&self, mods: &mut Mods) -> bool {
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

    pub(super) fn scope(&self, mods: &mut Mods) -> Option<Scope> {
        // clusters have one block here
        Some(match mods.one_of(&["cta", "cluster", "gpu", "sys"])? {
            "cta" | "cluster" => Scope::Block,
            _ => Scope::Device,
        })
    }

    pub(super) fn place(&self, mods: &mut Mods) -> Option<&'static str> {
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

    /// Rows of the elements of a load or a store. An element of 128 bits is two of 64.
    pub(super) fn elements(
        &mut self,
        operand: &Operand,
        ty: Type,
        count: u32,
        result: bool,
    ) -> Result<[u16; 8]> {
        let mut rows = [NONE; 8];
        if ty == Type::B128 {
            if count != 1 {
                return self.error("a vector of more than 128 bits");
            }
            if !(result && *operand == Operand::Discard) {
                let row = self.register(operand, ty)?;
                rows[..2].copy_from_slice(&[row, row + 2]);
            }
            return Ok(rows);
        }
        let list = match operand {
            Operand::Vector(list) => &list[..],
            operand => std::slice::from_ref(operand),
        };
        self.elements_expected(list, count)?;
        for (row, operand) in rows.iter_mut().zip(list) {
            *row = match operand {
                Operand::Discard if result => NONE,
                Operand::Reg(register) => {
                    let found = self.flat.registers[*register as usize];
                    let fits = (ty.bytes()..=8).contains(&found.bytes());
                    if found == Type::Pred || !fits {
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

    fn elements_expected(&self, list: &[Operand], count: u32) -> Result<()> {
        if list.len() != count as usize {
            return self.error(format!("{} elements, expected {count}", list.len()));
        }
        Ok(())
    }

    pub(super) fn order(&self, mods: &mut Mods) -> Option<(Order, Scope)> {
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

    pub(super) fn vector(&self, mods: &mut Mods) -> u32 {
        match mods.one_of(&["v2", "v4", "v8"]) {
            None => 1,
            Some("v2") => 2,
            Some("v4") => 4,
            Some(_) => 8,
        }
    }

    pub(super) fn load(&mut self, instruction: &Instruction) -> Result<()> {
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
            bytes: ty.bytes().min(8),
            count: count * ty.bytes().div_ceil(8),
            signed: ty.signed(),
            wide: d_bytes >= 8,
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
    pub(super) fn load_param(
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
        self.elements_expected(&list, count)?;
        let mut class = Some(Class::Param);
        for (i, operand) in list.iter().enumerate() {
            let Some(found) = self.type_of(operand) else {
                continue;
            };
            if !(ty.bytes()..=8).contains(&found.bytes()) {
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

    pub(super) fn store(&mut self, instruction: &Instruction) -> Result<()> {
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
        .map_or(ty.bytes() == 8, |t| t.bytes() >= 8);
        let access = Access {
            place,
            bytes: ty.bytes().min(8),
            count: count * ty.bytes().div_ceil(8),
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

    pub(super) fn atomic(&mut self, instruction: &Instruction) -> Result<()> {
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
        let count = self.vector(&mut mods);
        let (Some(ty), true) = (mods.ty(), mods.is_empty()) else {
            return self.unknown(instruction);
        };
        use AtomicOp::*;
        use Type::*;
        let half = matches!(ty, F16 | F16x2 | Bf16 | Bf16x2);
        let known = match op {
            // vectors: of at most 16 bytes, in global memory
            _ if count > 1 => {
                self.capability >= 90
                    && count * ty.bytes() <= 16
                    && place != Place::Shared
                    && (half && matches!(op, Add | Min | Max) || op == Add && ty == F32)
            }
            Exch | Cas if ty == B128 => self.capability >= 90,
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
        fn list(operand: &Operand) -> &[Operand] {
            match operand {
                Operand::Vector(list) => list,
                operand => std::slice::from_ref(operand),
            }
        }
        let (mut d, mut b) = ([NONE; 8], [NONE; 8]);
        if !reduction && operands[0] != Operand::Discard {
            let results = list(&operands[0]);
            self.elements_expected(results, count)?;
            for (row, operand) in d.iter_mut().zip(results) {
                if *operand != Operand::Discard {
                    *row = self.register(operand, ty)?;
                }
            }
        }
        let (base, base_wide, offset) = self.address(&operands[skip])?;
        let values = list(&operands[skip + 1]);
        self.elements_expected(values, count)?;
        for (row, operand) in b.iter_mut().zip(values) {
            *row = self.value(operand, ty)?;
        }
        let c = if op == Cas {
            self.value(&operands[skip + 2], ty)?
        } else {
            NONE
        };
        let atomic = Atomic {
            op,
            ty,
            count,
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

    pub(super) fn cp_async(&mut self, instruction: &Instruction) -> Result<()> {
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
}
