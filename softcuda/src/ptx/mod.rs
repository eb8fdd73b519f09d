//! PTX text to kernels: lexer, parser, and the checks that are made when a module is loaded.

mod ast;
mod lexer;
mod parse;

pub(crate) use ast::{Ast, Function, Instruction, Operand, Reg, Space, Statement, Type, Variable};

use crate::device::Model;
use crate::exec::{Kernel, Param, code, decode::decode};
use crate::memory::{Kind, Memory};
use ast::Init;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Why a module cannot be loaded.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("PTX line {line}: {message}")]
pub struct LoadError {
    /// Line of the PTX text, from 1 on; 0 where no line can be named.
    pub line: u32,
    /// What was found and what was expected.
    pub message: String,
    /// The error code of the driver interface (`CUDA_ERROR_INVALID_PTX` and such).
    pub code: u32,
}

impl LoadError {
    pub(crate) fn syntax(line: u32, message: impl Into<String>) -> LoadError {
        LoadError {
            line,
            message: message.into(),
            code: code::INVALID_PTX,
        }
    }

    /// Correct, perhaps, but not run here.
    pub(crate) fn unsupported(line: u32, message: impl Into<String>) -> LoadError {
        LoadError::syntax(line, message)
    }
}

/// A variable of a module, placed in a memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed {
    /// Its address in the memory the module was loaded into.
    pub address: u64,
    /// Its bytes.
    pub bytes: u64,
    /// True for `.const`.
    pub constant: bool,
}

/// A loaded module: its kernels, and its variables placed in a memory.
#[derive(Debug)]
pub struct Module {
    kernels: BTreeMap<String, Arc<Kernel>>,
    variables: BTreeMap<String, Placed>,
}

/// What `ptxas -v` says of a kernel.
#[derive(Debug, Clone, Copy, Default)]
struct Resources {
    registers: Option<u32>,
    spill_bytes: u32,
}

/// Reads the report that `ptxas -v` prints; lines that say nothing of a kernel are skipped.
fn resources(report: &str) -> HashMap<&str, Resources> {
    let mut all: HashMap<&str, Resources> = HashMap::new();
    let mut kernel = None;
    let number_before = |line: &str, what: &str| -> Option<u32> {
        let end = line.find(what)?;
        line[..end].split_whitespace().next_back()?.parse().ok()
    };
    for line in report.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            kernel = rest.split('\'').next();
        } else if let Some((_, rest)) = line.split_once("Function properties for ") {
            // spills of a device function are not those of the kernel before it
            kernel = Some(rest.trim().trim_matches('\''));
        }
        let Some(name) = kernel else { continue };
        let entry = all.entry(name).or_default();
        if let Some(bytes) = number_before(line, " bytes spill stores") {
            entry.spill_bytes = bytes;
        }
        if let Some((_, rest)) = line.split_once("Used ") {
            entry.registers = rest.split_whitespace().next().and_then(|n| n.parse().ok());
        }
    }
    all
}

impl Module {
    /// Parses PTX `text`, checks it for `model`, decodes its kernels and places its variables in
    /// `memory`. `resources` is what `ptxas -v` printed for the same text; it gives the registers
    /// of each kernel. Without it registers are estimated from the live values.
    ///
    /// # Errors
    /// Syntax, an instruction or a modifier that is not known, a target newer than the model, a
    /// kernel beyond the model's limits.
    pub fn load(
        text: &str,
        model: &'static Model,
        memory: &Memory,
        resources: Option<&str>,
    ) -> Result<Module, LoadError> {
        let ast = parse::parse(text)?;
        let target = target(&ast.target, model)?;
        let mut module = Module {
            kernels: BTreeMap::new(),
            variables: BTreeMap::new(),
        };
        let loaded = module.fill(&ast, target, model, memory, resources);
        if let Err(error) = loaded {
            module.unload(memory);
            return Err(error);
        }
        Ok(module)
    }

    fn fill(
        &mut self,
        ast: &Ast,
        target: u32,
        model: &Model,
        memory: &Memory,
        report: Option<&str>,
    ) -> Result<(), LoadError> {
        let mut globals = HashMap::new();
        let mut constant_bytes = 0;
        let inside = ast.functions.iter().flat_map(|f| &f.variables);
        let placed: Vec<&Variable> = ast
            .variables
            .iter()
            .chain(inside)
            .filter(|v| matches!(v.space, Space::Global | Space::Const))
            .collect();
        for variable in &placed {
            if variable.external {
                return Err(LoadError::unsupported(
                    variable.line,
                    format!("`{}` is defined in no module", variable.name),
                ));
            }
            let bytes = variable.bytes.max(1);
            let refused = |e: crate::memory::MemoryError| LoadError {
                line: variable.line,
                message: format!("`{}`: {e}", variable.name),
                code: 2,
            };
            let address = memory
                .alloc_kind(bytes, u64::from(variable.align.max(1)), Kind::Module)
                .map_err(refused)?;
            memory.fill(address, 0, 1, bytes).map_err(refused)?;
            let name = variable.name.split('@').next().unwrap_or("");
            memory.label(address, name).map_err(refused)?;
            globals.insert(variable.name.clone(), address);
            let constant = variable.space == Space::Const;
            if constant {
                constant_bytes += bytes;
            }
            self.variables.insert(
                variable.name.clone(),
                Placed {
                    address,
                    bytes: variable.bytes,
                    constant,
                },
            );
        }
        if constant_bytes > u64::from(model.constant_bytes) {
            return Err(LoadError::syntax(
                0,
                format!(
                    "{constant_bytes} bytes of constant memory, expected at most {}",
                    model.constant_bytes
                ),
            ));
        }
        for variable in &placed {
            let width = variable.ty.bytes() as usize;
            let mut data = Vec::new();
            for item in &variable.init {
                let bits = match item {
                    Init::Bits(bits) => *bits,
                    Init::Symbol(name, _, offset) => match globals.get(name) {
                        Some(address) => address.wrapping_add_signed(*offset),
                        None => {
                            return Err(LoadError::unsupported(
                                variable.line,
                                format!("the address of `{name}`, which is no variable"),
                            ));
                        }
                    },
                };
                data.extend_from_slice(&bits.to_le_bytes()[..width.min(8)]);
            }
            if data.len() as u64 > variable.bytes {
                return Err(LoadError::syntax(
                    variable.line,
                    format!("{} bytes for `{}`", data.len(), variable.name),
                ));
            }
            let address = globals[&variable.name];
            memory
                .write(address, &data)
                .map_err(|e| LoadError::syntax(variable.line, e.to_string()))?;
        }
        let known = resources(report.unwrap_or(""));
        for function in ast.functions.iter().filter(|f| f.entry && f.defined) {
            let (params, param_bytes) = params(function)?;
            let decoded = decode(ast, function, &params, &globals, target)?;
            if decoded.static_shared > model.shared_per_block {
                return Err(LoadError::syntax(
                    function.line,
                    format!(
                        "`{}` has {} bytes of static shared memory, expected at most {}",
                        function.name, decoded.static_shared, model.shared_per_block
                    ),
                ));
            }
            let resources = known.get(function.name.as_str()).copied();
            let resources = resources.unwrap_or_default();
            let most = model.max_registers_per_thread;
            let registers = resources
                .registers
                .filter(|&registers| registers <= most)
                .unwrap_or((decoded.pressure + 8).clamp(16, most));
            // registers are given to warps in units of 256
            let warps = model.registers_per_block / (registers.max(1) * 32).next_multiple_of(256);
            let by_registers = (warps * 32).min(model.max_threads_per_block);
            let kernel = Kernel {
                name: function.name.clone(),
                params,
                param_bytes,
                static_shared: decoded.static_shared,
                // 16 bytes at the start belong to nobody
                local_bytes: decoded.local_bytes - 16,
                constant_bytes: constant_bytes as u32,
                registers,
                max_threads: function.max_threads.unwrap_or(u32::MAX).min(by_registers),
                spill_bytes: resources.spill_bytes,
                target: (target / 10, target % 10),
                code: decoded.code,
            };
            self.kernels.insert(function.name.clone(), Arc::new(kernel));
        }
        Ok(())
    }

    /// Frees the module's variables.
    pub fn unload(&self, memory: &Memory) {
        for variable in self.variables.values() {
            // a variable is freed once: the module owns its address
            let _ = memory.free(variable.address);
        }
    }

    /// The same kernels once more, for a module that places no variables; `None` for one that does.
    pub(crate) fn again(&self) -> Option<Module> {
        self.variables.is_empty().then(|| Module {
            kernels: self.kernels.clone(),
            variables: BTreeMap::new(),
        })
    }

    /// The kernel called `name` (as in the PTX: mangled).
    pub fn kernel(&self, name: &str) -> Option<&Arc<Kernel>> {
        self.kernels.get(name)
    }

    /// All kernels in order of their names.
    pub fn kernels(&self) -> impl Iterator<Item = &Arc<Kernel>> {
        self.kernels.values()
    }

    /// The `.global` or `.const` variable called `name`.
    pub fn variable(&self, name: &str) -> Option<&Placed> {
        self.variables.get(name)
    }
}

/// The number of the target, such as 90, if the model can run it.
fn target(name: &str, model: &Model) -> Result<u32, LoadError> {
    let refused = |message: String| LoadError {
        line: 0,
        message,
        code: code::NO_BINARY_FOR_GPU,
    };
    let digits = name.strip_prefix("sm_").or(name.strip_prefix("compute_"));
    let digits = digits.unwrap_or("");
    let end = digits
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(digits.len());
    let Ok(number) = digits[..end].parse::<u32>() else {
        return Err(refused(format!(
            "the target `{name}`, expected `sm_` and a number"
        )));
    };
    let (major, minor) = model.compute_capability;
    let own = major * 10 + minor;
    let specific = !digits[end..].is_empty();
    if number > own || specific && number != own {
        return Err(refused(format!(
            "the target `{name}` does not run on {} (compute capability {major}.{minor})",
            model.name
        )));
    }
    Ok(number)
}

fn params(function: &Function) -> Result<(Vec<Param>, u32), LoadError> {
    let mut end = 0u64;
    let mut params = Vec::new();
    for variable in &function.params {
        let align = u64::from(variable.align.max(1));
        let offset = end.next_multiple_of(align);
        end = offset + variable.bytes;
        if end > 32764 {
            return Err(LoadError::syntax(
                variable.line,
                format!("{end} bytes of parameters, expected at most 32764"),
            ));
        }
        params.push(Param {
            name: variable.name.clone(),
            offset: offset as u32,
            bytes: variable.bytes as u32,
            align: align as u32,
        });
    }
    Ok((params, end as u32))
}
