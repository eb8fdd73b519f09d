//! Barriers, fences, what lanes of a warp exchange, `mbarrier`.

use super::*;

impl Decoder<'_> {
    pub(super) fn barrier(&mut self, instruction: &Instruction) -> Result<()> {
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

    pub(super) fn fence(&mut self, instruction: &Instruction) -> Result<()> {
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

    pub(super) fn sync(&mut self, instruction: &Instruction) -> Result<()> {
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

    pub(super) fn mbarrier(&mut self, instruction: &Instruction) -> Result<()> {
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
