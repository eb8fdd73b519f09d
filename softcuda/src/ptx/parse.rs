//! Tokens to a syntax tree in which every register has a number of its own.

use super::LoadError;
use super::lexer::{Kind, Token, tokens};
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

pub(crate) fn parse(text: &str) -> Result<Ast, LoadError> {
    let tokens = tokens(text)?;
    Parser {
        tokens: &tokens,
        depth: 0,
        at: 0,
        ast: Ast::default(),
        scopes: Vec::new(),
        unique: 0,
        location: None,
    }
    .module()
}

#[derive(Default)]
struct Scope {
    registers: HashMap<String, Reg>,
    /// `%r<10>`: prefix to first register and count.
    ranges: HashMap<String, (Reg, u32)>,
    /// Variables and labels: name to unique name.
    names: HashMap<String, String>,
}

/// Most blocks or lists inside each other.
const DEPTH: u32 = 64;
/// Most bytes of a variable: more than any device has.
const BYTES: u64 = 1 << 40;
/// Most registers that a function declares.
const REGISTERS: usize = 1 << 18;

struct Parser<'a> {
    tokens: &'a [Token<'a>],
    /// Blocks or lists that are open.
    depth: u32,
    at: usize,
    ast: Ast,
    scopes: Vec<Scope>,
    unique: u32,
    location: Option<(u32, u32)>,
}

type Result<T, E = LoadError> = std::result::Result<T, E>;

impl<'a> Parser<'a> {
    fn line(&self) -> u32 {
        let at = self.at.min(self.tokens.len().saturating_sub(1));
        self.tokens.get(at).map_or(1, |t| t.line)
    }

    fn peek(&self) -> Option<Kind<'a>> {
        self.tokens.get(self.at).map(|t| t.kind)
    }

    fn next(&mut self) -> Option<Kind<'a>> {
        let kind = self.peek();
        self.at += 1;
        kind
    }

    fn error<T>(&self, expected: &str) -> Result<T> {
        let found = match self.peek() {
            None => "the end of the text".to_owned(),
            Some(Kind::Punct(b)) => format!("`{}`", b as char),
            Some(Kind::Word(word)) => format!("`{word}`"),
            Some(kind) => format!("{kind:?}"),
        };
        Err(LoadError::syntax(
            self.line(),
            format!("{found}, expected {expected}"),
        ))
    }

    /// Runs `f` inside a block or a list more.
    fn inside<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= DEPTH {
            return self.error(&format!("at most {DEPTH} braces inside each other"));
        }
        self.depth += 1;
        let result = f(self);
        self.depth -= 1;
        result
    }

    fn is(&self, punct: u8) -> bool {
        self.peek() == Some(Kind::Punct(punct))
    }

    fn accept(&mut self, punct: u8) -> bool {
        let found = self.is(punct);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, punct: u8) -> Result<()> {
        if self.accept(punct) {
            return Ok(());
        }
        self.error(&format!("`{}`", punct as char))
    }

    fn accept_word(&mut self, word: &str) -> bool {
        let found = self.peek() == Some(Kind::Word(word));
        self.at += usize::from(found);
        found
    }

    fn word(&mut self, what: &str) -> Result<&'a str> {
        match self.peek() {
            Some(Kind::Word(word)) => {
                self.at += 1;
                Ok(word)
            }
            _ => self.error(what),
        }
    }

    fn int(&mut self, what: &str) -> Result<i64> {
        let negative = self.accept(b'-');
        match self.peek() {
            Some(Kind::Int(value)) => {
                self.at += 1;
                let value = value as i64;
                Ok(if negative {
                    value.wrapping_neg()
                } else {
                    value
                })
            }
            _ => self.error(what),
        }
    }

    fn module(mut self) -> Result<Ast> {
        let mut linkage_external = false;
        while let Some(kind) = self.peek() {
            let Kind::Word(word) = kind else {
                return self.error("a directive");
            };
            match word {
                ".version" => {
                    self.at += 1;
                    match self.next() {
                        Some(Kind::Float64(_) | Kind::Int(_)) => {}
                        _ => return self.error("a version"),
                    }
                }
                ".target" => {
                    self.at += 1;
                    self.ast.target = self.word("a target")?.to_owned();
                    while self.accept(b',') {
                        self.word("a target option")?;
                    }
                }
                ".address_size" => {
                    self.at += 1;
                    if self.int("64")? != 64 {
                        self.at -= 1;
                        return self.error("64");
                    }
                }
                ".file" => {
                    self.at += 1;
                    let number = self.int("a file number")?;
                    let Some(Kind::Text(name)) = self.next() else {
                        self.at -= 1;
                        return self.error("a file name");
                    };
                    self.ast.files.insert(number as u32, name.to_owned());
                    while self.accept(b',') {
                        self.int("a number")?;
                    }
                }
                ".section" => {
                    self.at += 1;
                    self.word("a section name")?;
                    while let Some(Kind::Word(_)) = self.peek() {
                        self.at += 1;
                    }
                    self.expect(b'{')?;
                    let mut depth = 1;
                    while depth > 0 {
                        match self.next() {
                            Some(Kind::Punct(b'{')) => depth += 1,
                            Some(Kind::Punct(b'}')) => depth -= 1,
                            None => return self.error("`}` of the section"),
                            _ => {}
                        }
                    }
                }
                ".extern" => {
                    self.at += 1;
                    linkage_external = true;
                }
                ".visible" | ".weak" | ".common" => self.at += 1,
                ".entry" | ".func" => {
                    self.at += 1;
                    let function = self.function(word == ".entry")?;
                    let old = self
                        .ast
                        .functions
                        .iter()
                        .position(|f| f.name == function.name);
                    match old {
                        Some(i) if !self.ast.functions[i].defined => {
                            self.ast.functions[i] = function;
                        }
                        Some(_) if function.defined => {
                            return Err(LoadError::syntax(
                                function.line,
                                format!("`{}` is defined twice", function.name),
                            ));
                        }
                        Some(_) => {}
                        None => self.ast.functions.push(function),
                    }
                    linkage_external = false;
                }
                ".global" | ".const" | ".shared" => {
                    let mut variables = self.variables()?;
                    for variable in &mut variables {
                        variable.external = linkage_external;
                    }
                    self.ast.variables.extend(variables);
                    linkage_external = false;
                }
                ".pragma" => {
                    self.at += 2;
                    self.expect(b';')?;
                }
                ".alias" => return self.error("no alias (functions under two names)"),
                _ => return self.error("a directive of a module"),
            }
        }
        if self.ast.target.is_empty() {
            return Err(LoadError::syntax(1, "no `.target`"));
        }
        Ok(self.ast)
    }

    /// A declaration from its state space to the semicolon.
    fn variables(&mut self) -> Result<Vec<Variable>> {
        let mut variables = vec![self.variable()?];
        while self.accept(b',') {
            let mut next = variables[0].clone();
            next.line = self.line();
            let name = self.word("a name")?;
            next.name = name.to_owned();
            next.bytes = u64::from(next.ty.bytes());
            self.array_and_init(&mut next)?;
            variables.push(next);
        }
        self.expect(b';')?;
        Ok(variables)
    }

    fn variable(&mut self) -> Result<Variable> {
        let line = self.line();
        let space = match self.word("a state space")? {
            ".global" => Space::Global,
            ".const" => Space::Const,
            ".shared" | ".shared::cta" => Space::Shared,
            ".local" => Space::Local,
            ".param" => Space::Param,
            _ => {
                self.at -= 1;
                return self.error("a state space");
            }
        };
        let (mut align, mut lanes, mut ty) = (0, 1, None);
        while let Some(Kind::Word(word)) = self.peek() {
            let Some(name) = word.strip_prefix('.') else {
                break;
            };
            self.at += 1;
            match name {
                "align" => {
                    let value = self.int("an alignment")?;
                    align = match u32::try_from(value) {
                        Ok(value) if value.is_power_of_two() && value <= 1 << 20 => value,
                        _ => {
                            self.at -= 1;
                            return self.error("an alignment that is a power of two");
                        }
                    };
                }
                "v2" => lanes = 2,
                "v4" => lanes = 4,
                // says what a kernel's parameter points to; nothing depends on it
                "ptr" | "global" | "const" | "shared" | "local" if space == Space::Param => {}
                "attribute" => {
                    while !self.accept(b')') {
                        if self.next().is_none() {
                            return self.error("`)` of the attribute");
                        }
                    }
                }
                _ => match Type::named(name) {
                    Some(found) if ty.is_none() => ty = Some(found),
                    _ => {
                        self.at -= 1;
                        return self.error("a type, `.align`, `.v2` or `.v4`");
                    }
                },
            }
        }
        let Some(ty) = ty else {
            return self.error("a type");
        };
        let name = self.word("a name")?.to_owned();
        let natural = ty.bytes() * lanes;
        let mut variable = Variable {
            name,
            space,
            ty,
            align: if align == 0 { natural } else { align },
            bytes: u64::from(natural),
            init: Vec::new(),
            external: false,
            line,
        };
        self.array_and_init(&mut variable)?;
        Ok(variable)
    }

    fn array_and_init(&mut self, variable: &mut Variable) -> Result<()> {
        // `name<10>`: parameterised names, for variables as well as registers, are not emitted
        while self.accept(b'[') {
            if self.accept(b']') {
                variable.bytes = 0;
                continue;
            }
            let length = self.int("a length")? as u64;
            variable.bytes = variable.bytes.saturating_mul(length);
            if variable.bytes > BYTES {
                return self.error(&format!("a variable of at most {BYTES} bytes"));
            }
            self.expect(b']')?;
        }
        if self.accept(b'=') {
            self.init(&mut variable.init)?;
        }
        Ok(())
    }

    fn init(&mut self, into: &mut Vec<Init>) -> Result<()> {
        if self.accept(b'{') {
            while !self.accept(b'}') {
                self.inside(|this| this.init(into))?;
                if !self.accept(b',') {
                    self.expect(b'}')?;
                    break;
                }
            }
            return Ok(());
        }
        let item = match self.peek() {
            Some(Kind::Word("generic")) => {
                self.at += 1;
                self.expect(b'(')?;
                let name = self.word("a variable")?.to_owned();
                self.expect(b')')?;
                Init::Symbol(name, true, self.offset()?)
            }
            Some(Kind::Word(name)) => {
                self.at += 1;
                Init::Symbol(name.to_owned(), false, self.offset()?)
            }
            Some(Kind::Float32(bits)) => {
                self.at += 1;
                Init::Bits(u64::from(bits))
            }
            Some(Kind::Float64(bits)) => {
                self.at += 1;
                Init::Bits(bits)
            }
            _ => Init::Bits(self.int("a value")? as u64),
        };
        into.push(item);
        Ok(())
    }

    fn offset(&mut self) -> Result<i64> {
        if self.accept(b'+') {
            return self.int("an offset");
        }
        if self.is(b'-') {
            return self.int("an offset");
        }
        Ok(0)
    }

    fn params(&mut self) -> Result<Vec<Variable>> {
        let mut params = Vec::new();
        if !self.accept(b'(') {
            return Ok(params);
        }
        while !self.accept(b')') {
            if self.peek() == Some(Kind::Word(".reg")) {
                return self.error("`.param` (parameters in registers are not used by nvcc)");
            }
            params.push(self.variable()?);
            if !self.accept(b',') {
                self.expect(b')')?;
                break;
            }
        }
        Ok(params)
    }

    fn function(&mut self, entry: bool) -> Result<Function> {
        let mut function = Function {
            entry,
            line: self.line(),
            ..Function::default()
        };
        self.scopes = vec![Scope::default()];
        self.location = None;
        function.returns = self.params()?;
        function.name = self.word("the name of a function")?.to_owned();
        function.params = self.params()?;
        for variable in function.returns.iter().chain(&function.params) {
            let name = variable.name.clone();
            self.scopes[0].names.insert(name.clone(), name);
        }
        loop {
            match self.peek() {
                Some(Kind::Word(directive @ (".maxntid" | ".reqntid"))) => {
                    self.at += 1;
                    let mut threads = self.int("a number of threads")?;
                    while self.accept(b',') {
                        threads = threads.saturating_mul(self.int("a number of threads")?);
                    }
                    let Ok(threads) = u32::try_from(threads) else {
                        return self.error(&format!("a smaller product after `{directive}`"));
                    };
                    function.max_threads = Some(threads);
                }
                Some(Kind::Word(".minnctapersm" | ".maxnreg" | ".maxnctapersm")) => {
                    self.at += 1;
                    self.int("a number")?;
                }
                Some(Kind::Word(".noreturn")) => self.at += 1,
                Some(Kind::Word(".pragma")) => {
                    self.at += 2;
                    self.expect(b';')?;
                }
                _ => break,
            }
        }
        if self.accept(b';') {
            return Ok(function);
        }
        self.expect(b'{')?;
        function.defined = true;
        self.block(&mut function)?;
        Ok(function)
    }

    fn unique(&mut self, name: &str) -> String {
        self.unique += 1;
        format!("{name}@{}", self.unique)
    }

    /// Labels may be used before they stand: they are found by a look ahead over the scope.
    fn labels(&mut self) {
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

    fn block(&mut self, function: &mut Function) -> Result<()> {
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

    fn loc(&mut self) -> Result<()> {
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

    fn registers(&mut self, function: &mut Function) -> Result<()> {
        let name = self.word("a type")?;
        let ty = name.strip_prefix('.').and_then(Type::named);
        let Some(ty) = ty.filter(|ty| *ty != Type::B128) else {
            self.at -= 1;
            return self.error("the type of a register of at most 64 bits");
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

    fn register(&self, name: &str) -> Option<Reg> {
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

    fn resolve(&self, name: &str) -> String {
        let mut scopes = self.scopes.iter().rev();
        scopes
            .find_map(|scope| scope.names.get(name))
            .map_or_else(|| name.to_owned(), String::clone)
    }

    fn instruction(&mut self, line: u32) -> Result<Instruction> {
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

    fn operands(&mut self, end: u8) -> Result<Vec<Operand>> {
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

    fn operand(&mut self) -> Result<Operand> {
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
