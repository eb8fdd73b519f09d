//! Tokens to a syntax tree in which every register has a number of its own.

mod body;

use super::LoadError;
use super::ast::*;
use super::lexer::{Kind, Token, tokens};
use std::collections::HashMap;

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
}
