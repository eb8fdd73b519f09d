//! Bodies of functions: blocks, labels, registers, instructions.

use super::*;

impl<'a> Parser<'a> {
    pub(super) fn unique(&mut self, name: &str) -> String {
        self.unique += 1;
        format!("{name}@{}", self.unique)
    }

    /// Labels may be used before they stand: they are found by a look ahead over the scope.
    pub(super) fn labels(&mut self) {
        let (mut depth, mut at) = (0, self.at);
        let mut found = Vec::new();
        while let Some(token) = self.tokens.get(at) {
            match token.kind {
                Kind::Punct(b'{') => depth += 1,
                Kind::Punct(b'}') if depth == 0 => break,
                Kind::Punct(b'}') => depth -= 1,
                Kind::Word(name) if depth == 0 => {
                    let next = self.tokens.get(at + 1).map(|t| t.kind);
                    if next == Some(Kind::Punct(b':')) {
                        found.push(name);
                    }
                }
                _ => {}
            }
            at += 1;
        }
        for name in found {
            let unique = self.unique(name);
            if let Some(scope) = self.scopes.last_mut() {
                scope.names.insert(name.to_owned(), unique);
            }
        }
    }

    pub(super) fn block(&mut self, function: &mut Function) -> Result<()> {
        self.scopes.push(Scope::default());
        self.labels();
        loop {
            let line = self.line();
            match self.peek() {
                None => return self.error("`}`"),
                Some(Kind::Punct(b'}')) => {
                    self.at += 1;
                    break;
                }
                Some(Kind::Punct(b'{')) => {
                    self.at += 1;
                    self.inside(|this| this.block(function))?;
                }
                Some(Kind::Punct(b';')) => self.at += 1,
                Some(Kind::Word(".reg")) => {
                    self.at += 1;
                    self.registers(function)?;
                }
                Some(Kind::Word(".loc")) => self.loc()?,
                Some(Kind::Word(".pragma")) => {
                    self.at += 2;
                    self.expect(b';')?;
                }
                Some(Kind::Word(
                    ".shared" | ".local" | ".param" | ".global" | ".const" | ".shared::cta",
                )) => {
                    for mut variable in self.variables()? {
                        let unique = self.unique(&variable.name);
                        if let Some(scope) = self.scopes.last_mut() {
                            scope.names.insert(variable.name, unique.clone());
                        }
                        variable.name = unique;
                        function.variables.push(variable);
                    }
                }
                Some(Kind::Word(name))
                    if self.tokens.get(self.at + 1).map(|t| t.kind) == Some(Kind::Punct(b':')) =>
                {
                    self.at += 2;
                    let unique = self.resolve(name);
                    if self.accept_word(".branchtargets") {
                        let mut labels = Vec::new();
                        loop {
                            let label = self.word("a label")?;
                            labels.push(self.resolve(label));
                            if !self.accept(b',') {
                                break;
                            }
                        }
                        self.expect(b';')?;
                        function.body.push(Statement::Targets(unique, labels));
                    } else if let Some(Kind::Word(".callprototype" | ".calltargets")) = self.peek()
                    {
                        return self.error("no indirect call (calls through pointers)");
                    } else {
                        function.body.push(Statement::Label(unique));
                    }
                }
                Some(Kind::Word(_) | Kind::Punct(b'@')) => {
                    let instruction = self.instruction(line)?;
                    function.body.push(Statement::Instruction(instruction));
                }
                _ => return self.error("an instruction"),
            }
        }
        self.scopes.pop();
        Ok(())
    }

    pub(super) fn loc(&mut self) -> Result<()> {
        self.at += 1;
        let file = self.int("a file number")? as u32;
        let line = self.int("a line")? as u32;
        self.int("a column")?;
        if self.accept(b',') {
            // function_name $L__info_string0, inlined_at 1 40 3
            if !self.accept_word("function_name") {
                return self.error("`function_name`");
            }
            self.word("a label")?;
            self.offset()?;
            self.expect(b',')?;
            if !self.accept_word("inlined_at") {
                return self.error("`inlined_at`");
            }
            for _ in 0..3 {
                self.int("a number")?;
            }
        }
        self.location = (line != 0).then_some((file, line));
        Ok(())
    }

    pub(super) fn registers(&mut self, function: &mut Function) -> Result<()> {
        let name = self.word("a type")?;
        let ty = name.strip_prefix('.').and_then(Type::named);
        let Some(ty) = ty else {
            self.at -= 1;
            return self.error("the type of a register");
        };
        loop {
            let name = self.word("a register")?.to_owned();
            let first = function.registers.len() as Reg;
            let mut count = 1;
            let ranged = self.accept(b'<');
            if ranged {
                count = self.int("a number of registers")? as u32;
                self.expect(b'>')?;
            }
            let total = function.registers.len() + count as usize;
            if total > REGISTERS {
                return self.error(&format!("at most {REGISTERS} registers"));
            }
            function.registers.resize(total, ty);
            if let Some(scope) = self.scopes.last_mut() {
                if ranged {
                    scope.ranges.insert(name, (first, count));
                } else {
                    scope.registers.insert(name, first);
                }
            }
            if !self.accept(b',') {
                break;
            }
        }
        self.expect(b';')
    }

    pub(super) fn register(&self, name: &str) -> Option<Reg> {
        let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
        let (prefix, number) = name.split_at(name.len() - digits);
        for scope in self.scopes.iter().rev() {
            if let Some(&register) = scope.registers.get(name) {
                return Some(register);
            }
            if let (Some(&(first, count)), Ok(number)) =
                (scope.ranges.get(prefix), number.parse::<u32>())
                && number < count
            {
                return Some(first + number);
            }
        }
        None
    }

    pub(super) fn resolve(&self, name: &str) -> String {
        let mut scopes = self.scopes.iter().rev();
        scopes
            .find_map(|scope| scope.names.get(name))
            .map_or_else(|| name.to_owned(), String::clone)
    }

    pub(super) fn instruction(&mut self, line: u32) -> Result<Instruction> {
        let guard = if self.accept(b'@') {
            let negated = self.accept(b'!');
            let name = self.word("a predicate")?;
            let Some(register) = self.register(name) else {
                self.at -= 1;
                return self.error("a predicate that was declared");
            };
            Some((register, negated))
        } else {
            None
        };
        let opcode: Vec<String> = self
            .word("an instruction")?
            .split('.')
            .map(str::to_owned)
            .collect();
        let mut operands = Vec::new();
        while !self.is(b';') {
            let mut operand = self.operand()?;
            if self.accept(b'|') {
                operand = Operand::Pair(Box::new(operand), Box::new(self.operand()?));
            }
            operands.push(operand);
            if !self.accept(b',') {
                break;
            }
        }
        self.expect(b';')?;
        Ok(Instruction {
            guard,
            opcode,
            operands,
            line,
            location: self.location,
        })
    }

    pub(super) fn operands(&mut self, end: u8) -> Result<Vec<Operand>> {
        let mut operands = Vec::new();
        while !self.accept(end) {
            operands.push(self.inside(Self::operand)?);
            if !self.accept(b',') {
                self.expect(end)?;
                break;
            }
        }
        Ok(operands)
    }

    pub(super) fn operand(&mut self) -> Result<Operand> {
        Ok(match self.peek() {
            Some(Kind::Punct(b'{')) => {
                self.at += 1;
                Operand::Vector(self.operands(b'}')?)
            }
            Some(Kind::Punct(b'(')) => {
                self.at += 1;
                Operand::List(self.operands(b')')?)
            }
            Some(Kind::Punct(b'[')) => {
                self.at += 1;
                let base = match self.peek() {
                    Some(Kind::Word(_)) => Some(self.operand()?),
                    Some(Kind::Int(_)) => None,
                    _ => return self.error("an address"),
                };
                let (base, mut offset) = match base {
                    Some(Operand::Symbol(name, offset)) => (Some(Operand::Symbol(name, 0)), offset),
                    base => (base, 0),
                };
                if base.is_none() {
                    offset = self.int("an address")?;
                }
                offset = offset.wrapping_add(self.offset()?);
                self.expect(b']')?;
                Operand::Address(Box::new(base), offset)
            }
            Some(Kind::Punct(b'!')) => {
                self.at += 1;
                let name = self.word("a predicate")?;
                match self.register(name) {
                    Some(register) => Operand::NotReg(register),
                    None => return self.error("a predicate that was declared"),
                }
            }
            Some(Kind::Punct(b'-')) => {
                self.at += 1;
                match self.next() {
                    Some(Kind::Int(value)) => Operand::Int((value as i64).wrapping_neg()),
                    Some(Kind::Float32(bits)) => Operand::Float32(bits ^ (1 << 31)),
                    Some(Kind::Float64(bits)) => Operand::Float64(bits ^ (1 << 63)),
                    _ => {
                        self.at -= 1;
                        return self.error("a number");
                    }
                }
            }
            Some(Kind::Int(value)) => {
                self.at += 1;
                Operand::Int(value as i64)
            }
            Some(Kind::Float32(bits)) => {
                self.at += 1;
                Operand::Float32(bits)
            }
            Some(Kind::Float64(bits)) => {
                self.at += 1;
                Operand::Float64(bits)
            }
            Some(Kind::Word("_")) => {
                self.at += 1;
                Operand::Discard
            }
            Some(Kind::Word(word)) => {
                if let Some(register) = self.register(word) {
                    self.at += 1;
                    Operand::Reg(register)
                } else if word.starts_with('%') || matches!(word, "WARP_SZ") {
                    self.at += 1;
                    Operand::Special(word.to_owned())
                } else {
                    self.at += 1;
                    let name = self.resolve(word);
                    let offset = self.offset()?;
                    Operand::Symbol(name, offset)
                }
            }
            _ => return self.error("an operand"),
        })
    }
}
