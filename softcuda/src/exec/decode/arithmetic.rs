//! Instructions that compute: arithmetic, moves, conversions, comparisons.

use super::*;

impl Decoder<'_> {
    pub(super) fn arithmetic(&mut self, instruction: &Instruction) -> Result<()> {
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

    pub(super) fn mov(&mut self, instruction: &Instruction) -> Result<()> {
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
                    (16, 64) => (select::copy(true), Type::B64),
                    (16, 32) => (select::part64(), Type::B32),
                    _ => return self.unknown(instruction),
                };
                let mut class = Some(Class::Move);
                // the source may share its row with no part: rows of one instruction differ
                for (i, operand) in list.iter().enumerate() {
                    if *operand == Operand::Discard {
                        continue;
                    }
                    // 128 bits are two registers of 64
                    let start = i as u32 * part;
                    let slots = Slots {
                        d: self.register(operand, part_ty)?,
                        a: a + 2 * (start / 64) as u16,
                        x: start % 64,
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
                    (16, [low, high]) => {
                        let mut class = Some(Class::Move);
                        for (d, half) in [(d, low), (d + 2, high)] {
                            let slots = Slots {
                                d,
                                a: self.value(half, Type::B64)?,
                                ..Slots::default()
                            };
                            self.push_part(Op::Lanes(select::copy(true)), slots, class.take());
                        }
                    }
                    (16, [a, b, e, f]) => {
                        let mut class = Some(Class::Move);
                        for (d, low, high) in [(d, a, b), (d + 2, e, f)] {
                            let slots = Slots {
                                d,
                                a: self.value(low, Type::B32)?,
                                b: self.value(high, Type::B32)?,
                                ..Slots::default()
                            };
                            self.push_part(Op::Lanes(select::join64()), slots, class.take());
                        }
                    }
                    _ => return self.unknown(instruction),
                }
                Ok(())
            }
            (d, Operand::Special(name))
                if ty != Type::B128
                    && (name.starts_with("%clock") || name.starts_with("%globaltimer")) =>
            {
                // 64 bits, or one half of them
                let (global, shift) = match name.as_str() {
                    "%clock" | "%clock64" => (false, 0),
                    "%clock_hi" => (false, 32),
                    "%globaltimer" | "%globaltimer_lo" => (true, 0),
                    "%globaltimer_hi" => (true, 32),
                    _ => return self.error(format!("`{name}` is no register that is known")),
                };
                let clock = Op::Clock {
                    d: self.register(d, ty)?,
                    global,
                    wide: ty.bytes() == 8,
                    shift,
                };
                self.push(clock, Slots::default(), Class::Move);
                Ok(())
            }
            (d, a) => {
                let (d, a) = (self.register(d, ty)?, self.value(a, ty)?);
                let run = select::copy(ty.bytes() >= 8);
                let slots = Slots {
                    d,
                    a,
                    ..Slots::default()
                };
                self.push(Op::Lanes(run), slots, Class::Move);
                if ty == Type::B128 {
                    let (d, a) = (d + 2, a + 2);
                    let high = Slots { d, a, ..slots };
                    self.push_part(Op::Lanes(run), high, None);
                }
                Ok(())
            }
        }
    }

    pub(super) fn cvt(&mut self, instruction: &Instruction) -> Result<()> {
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

    pub(super) fn cvta(&mut self, instruction: &Instruction) -> Result<()> {
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

    pub(super) fn setp(&mut self, instruction: &Instruction) -> Result<()> {
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

    pub(super) fn set(&mut self, instruction: &Instruction) -> Result<()> {
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

    pub(super) fn selp(&mut self, instruction: &Instruction) -> Result<()> {
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
}

fn compare_class(ty: Type) -> Class {
    match ty {
        Type::F32 => Class::F32,
        Type::F64 => Class::F64,
        Type::F16 | Type::Bf16 | Type::F16x2 | Type::Bf16x2 => Class::Half,
        _ => Class::Integer,
    }
}
