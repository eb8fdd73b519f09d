//! From the syntax tree to one straight list of instructions: calls inlined, lanes' meeting
//! points found, registers given rows.

use super::ops::NOWHERE;
use crate::ptx::{Ast, Function, Instruction, LoadError, Operand, Reg, Space, Statement, Type};
use std::collections::HashMap;

/// A kernel with everything it calls, as one list.
#[derive(Debug, Default)]
pub(super) struct Flat {
    pub instructions: Vec<Instruction>,
    pub registers: Vec<Type>,
    /// Labels to positions.
    pub labels: HashMap<String, usize>,
    pub tables: HashMap<String, Vec<String>>,
    /// Variables of functions: local ones and parameters of calls, with their place in local
    /// memory; static shared ones by name.
    pub locals: HashMap<String, u64>,
    pub shared: Vec<crate::ptx::Variable>,
    pub local_bytes: u64,
}

/// Most calls inside each other.
const CALLS: usize = 64;
/// Most instructions of a kernel with all that it calls, and most registers.
const INSTRUCTIONS: usize = 1 << 20;
const REGISTERS: usize = 1 << 20;
/// Most local memory of a thread, as on hardware.
const LOCAL: u64 = 512 << 10;

/// Local memory starts here, so that a null pointer is outside.
const LOCAL_START: u64 = 16;

pub(super) fn flatten(ast: &Ast, kernel: &Function) -> Result<Flat, LoadError> {
    let mut flat = Flat {
        local_bytes: LOCAL_START,
        ..Flat::default()
    };
    let mut stack = Vec::new();
    inline(ast, kernel, HashMap::new(), &mut flat, &mut stack, None)?;
    Ok(flat)
}

fn inline(
    ast: &Ast,
    function: &Function,
    mut names: HashMap<String, String>,
    flat: &mut Flat,
    stack: &mut Vec<String>,
    after: Option<String>,
) -> Result<(), LoadError> {
    if stack.contains(&function.name) {
        return Err(LoadError::unsupported(
            function.line,
            format!(
                "`{}` calls itself, which softcuda does not run",
                function.name
            ),
        ));
    }
    if stack.len() >= CALLS {
        return Err(LoadError::unsupported(
            function.line,
            format!("calls more than {CALLS} deep"),
        ));
    }
    stack.push(function.name.clone());
    let base = flat.registers.len() as Reg;
    let instance = flat.instructions.len();
    flat.registers.extend(&function.registers);
    if flat.registers.len() > REGISTERS || flat.instructions.len() > INSTRUCTIONS {
        return Err(LoadError::unsupported(
            function.line,
            format!(
                "a kernel of more than {INSTRUCTIONS} instructions or {REGISTERS} registers with \
                 all that it calls"
            ),
        ));
    }
    for variable in &function.variables {
        match variable.space {
            Space::Shared => {
                if !flat.shared.iter().any(|v| v.name == variable.name) {
                    flat.shared.push(variable.clone());
                }
            }
            Space::Local | Space::Param => {
                let name = format!("{}#{instance}.{base}", variable.name);
                let align = u64::from(variable.align.max(1));
                let start = flat.local_bytes.next_multiple_of(align);
                flat.local_bytes = start + variable.bytes;
                if flat.local_bytes > LOCAL + LOCAL_START {
                    return Err(LoadError::unsupported(
                        variable.line,
                        format!("more than {LOCAL} bytes of local memory for a thread"),
                    ));
                }
                flat.locals.insert(name.clone(), start);
                names.insert(variable.name.clone(), name);
            }
            // module variables inside functions are found by name
            Space::Global | Space::Const => {}
        }
    }
    for statement in &function.body {
        match statement {
            Statement::Label(name) | Statement::Targets(name, _) => {
                names.insert(name.clone(), format!("{name}#{instance}.{base}"));
            }
            Statement::Instruction(_) => {}
        }
    }
    for statement in &function.body {
        match statement {
            Statement::Label(name) => {
                let at = flat.instructions.len();
                flat.labels.insert(names[name].clone(), at);
            }
            Statement::Targets(name, labels) => {
                let labels = labels.iter().map(|l| rename(&names, l)).collect();
                flat.tables.insert(names[name].clone(), labels);
            }
            Statement::Instruction(instruction) => {
                let mut instruction = instruction.clone();
                if let Some((register, _)) = &mut instruction.guard {
                    *register += base;
                }
                for operand in &mut instruction.operands {
                    remap(operand, base, &names);
                }
                match (instruction.opcode[0].as_str(), &after) {
                    ("call", _) => call(ast, instruction, flat, stack)?,
                    ("ret", Some(label)) => {
                        instruction.opcode = vec!["bra".to_owned()];
                        instruction.operands = vec![Operand::Symbol(label.clone(), 0)];
                        flat.instructions.push(instruction);
                    }
                    ("ret", None) => {
                        instruction.opcode = vec!["exit".to_owned()];
                        flat.instructions.push(instruction);
                    }
                    _ => flat.instructions.push(instruction),
                }
            }
        }
    }
    stack.pop();
    if let Some(label) = after {
        flat.labels.insert(label, flat.instructions.len());
    } else {
        // a kernel may end without a return
        let line = function.line;
        flat.instructions.push(Instruction {
            guard: None,
            opcode: vec!["exit".to_owned()],
            operands: Vec::new(),
            line,
            location: None,
        });
    }
    Ok(())
}

fn call(
    ast: &Ast,
    instruction: Instruction,
    flat: &mut Flat,
    stack: &mut Vec<String>,
) -> Result<(), LoadError> {
    let line = instruction.line;
    let error = |message: String| LoadError::unsupported(line, message);
    let mut operands = instruction.operands.iter().peekable();
    let list = |operand: Option<&Operand>| match operand {
        Some(Operand::List(list)) => list.clone(),
        _ => Vec::new(),
    };
    let results = match operands.peek() {
        Some(Operand::List(_)) => list(operands.next()),
        _ => Vec::new(),
    };
    let Some(Operand::Symbol(name, 0)) = operands.next() else {
        return Err(error("a call through a pointer".to_owned()));
    };
    let arguments = list(operands.next());
    let function = ast.functions.iter().find(|f| f.name == *name);
    let Some(function) = function else {
        return Err(error(format!("a call of `{name}`, which is not declared")));
    };
    if !function.defined {
        if name == "__assertfail" {
            flat.instructions.push(Instruction {
                opcode: vec!["softcuda_assert".to_owned()],
                operands: Vec::new(),
                ..instruction
            });
            return Ok(());
        }
        return Err(error(format!(
            "a call of `{name}`, which is declared but not defined"
        )));
    }
    if results.len() != function.returns.len() || arguments.len() != function.params.len() {
        return Err(error(format!(
            "a call of `{name}` with {} results and {} arguments, expected {} and {}",
            results.len(),
            arguments.len(),
            function.returns.len(),
            function.params.len()
        )));
    }
    let mut names = HashMap::new();
    let formal = function.returns.iter().chain(&function.params);
    for (formal, actual) in formal.zip(results.iter().chain(&arguments)) {
        let Operand::Symbol(actual, 0) = actual else {
            return Err(error("an argument that is no `.param` variable".to_owned()));
        };
        names.insert(formal.name.clone(), actual.clone());
    }
    let after = format!("after@{}", flat.instructions.len());
    let skip = format!("skip@{}", flat.instructions.len());
    if let Some((register, negated)) = instruction.guard {
        flat.instructions.push(Instruction {
            guard: Some((register, !negated)),
            opcode: vec!["bra".to_owned()],
            operands: vec![Operand::Symbol(skip.clone(), 0)],
            line,
            location: instruction.location,
        });
    }
    inline(ast, function, names, flat, stack, Some(after))?;
    flat.labels.insert(skip, flat.instructions.len());
    Ok(())
}

fn rename(names: &HashMap<String, String>, name: &str) -> String {
    names
        .get(name)
        .map_or_else(|| name.to_owned(), String::clone)
}

fn remap(operand: &mut Operand, base: Reg, names: &HashMap<String, String>) {
    match operand {
        Operand::Reg(register) | Operand::NotReg(register) => *register += base,
        Operand::Symbol(name, _) => *name = rename(names, name),
        Operand::Vector(list) | Operand::List(list) => {
            for operand in list {
                remap(operand, base, names);
            }
        }
        Operand::Address(inner, _) => {
            if let Some(operand) = inner.as_mut() {
                remap(operand, base, names);
            }
        }
        Operand::Pair(a, b) => {
            remap(a, base, names);
            remap(b, base, names);
        }
        Operand::Special(_)
        | Operand::Int(_)
        | Operand::Float32(_)
        | Operand::Float64(_)
        | Operand::Discard => {}
    }
}

/// Registers that an operand names.
fn registers(operand: &Operand, into: &mut Vec<Reg>) {
    match operand {
        Operand::Reg(register) | Operand::NotReg(register) => into.push(*register),
        Operand::Vector(list) | Operand::List(list) => {
            for operand in list {
                registers(operand, into);
            }
        }
        Operand::Address(inner, _) => {
            if let Some(operand) = inner.as_ref() {
                registers(operand, into);
            }
        }
        Operand::Pair(a, b) => {
            registers(a, into);
            registers(b, into);
        }
        _ => {}
    }
}

/// Registers that an instruction writes, and those that it reads.
pub(super) fn written_and_read(instruction: &Instruction) -> (Vec<Reg>, Vec<Reg>) {
    let op = instruction.opcode[0].as_str();
    let no_result = match op {
        "st" | "red" | "bra" | "brx" | "exit" | "membar" | "fence" | "cp" | "prefetch"
        | "prefetchu" | "stmatrix" | "griddepcontrol" | "trap" | "nanosleep" | "discard"
        | "applypriority" | "softcuda_assert" | "brkpt" | "pmevent" => true,
        "bar" | "barrier" => !instruction.opcode.iter().any(|m| m == "red"),
        "mbarrier" => {
            let what = instruction.opcode.get(1).map_or("", String::as_str);
            matches!(what, "init" | "inval" | "expect_tx" | "complete_tx")
                || matches!(instruction.operands.first(), Some(Operand::Address(..)))
        }
        _ => false,
    };
    let (mut written, mut read) = (Vec::new(), Vec::new());
    for (i, operand) in instruction.operands.iter().enumerate() {
        if i == 0 && !no_result {
            registers(operand, &mut written);
        } else {
            registers(operand, &mut read);
        }
    }
    if let Some((guard, _)) = instruction.guard {
        read.push(guard);
        // where the guard is false the old value stays
        read.extend(&written);
    }
    (written, read)
}

/// Positions to which control goes from each position.
fn successors(flat: &Flat, at: usize) -> Result<Vec<usize>, LoadError> {
    let instruction = &flat.instructions[at];
    let label = |name: &str| {
        flat.labels.get(name).copied().ok_or_else(|| {
            LoadError::syntax(
                instruction.line,
                format!("no label `{name}` in this function"),
            )
        })
    };
    let mut next = Vec::new();
    let op = instruction.opcode[0].as_str();
    match op {
        "bra" => {
            if let Some(Operand::Symbol(name, _)) = instruction.operands.first() {
                next.push(label(name)?);
            }
        }
        "brx" => {
            if let Some(Operand::Symbol(name, _)) = instruction.operands.get(1) {
                let table = flat.tables.get(name).ok_or_else(|| {
                    LoadError::syntax(instruction.line, format!("no table `{name}`"))
                })?;
                for name in table {
                    next.push(label(name)?);
                }
            }
        }
        _ => {}
    }
    let ends = matches!(op, "bra" | "brx" | "exit" | "trap" | "softcuda_assert");
    if (!ends || instruction.guard.is_some()) && at + 1 < flat.instructions.len() {
        next.push(at + 1);
    }
    next.sort_unstable();
    next.dedup();
    Ok(next)
}

/// Basic blocks of a list.
pub(super) struct Graph {
    /// First position of each block, and one past the last.
    pub starts: Vec<usize>,
    pub block_of: Vec<usize>,
    pub next: Vec<Vec<usize>>,
    /// The block that every path from here passes first; `None`: the end.
    pub meets: Vec<Option<usize>>,
}

pub(super) fn graph(flat: &Flat) -> Result<Graph, LoadError> {
    let count = flat.instructions.len();
    let mut leader = vec![false; count + 1];
    leader[0] = true;
    leader[count] = true;
    for &at in flat.labels.values() {
        leader[at.min(count)] = true;
    }
    for at in 0..count {
        let op = flat.instructions[at].opcode[0].as_str();
        if matches!(op, "bra" | "brx" | "exit" | "trap" | "softcuda_assert") {
            leader[at + 1] = true;
        }
    }
    let starts: Vec<usize> = (0..=count).filter(|&i| leader[i]).collect();
    let blocks = starts.len() - 1;
    let mut block_of = vec![0; count];
    for block in 0..blocks {
        block_of[starts[block]..starts[block + 1]].fill(block);
    }
    let mut next = Vec::with_capacity(blocks);
    for block in 0..blocks {
        let targets = successors(flat, starts[block + 1] - 1)?;
        if let Some(&outside) = targets.iter().find(|&&at| at >= count) {
            return Err(LoadError::syntax(
                flat.instructions[count - 1].line,
                format!("a branch behind the end of the function ({outside})"),
            ));
        }
        next.push(targets.into_iter().map(|at| block_of[at]).collect());
    }
    let meets = post_dominators(&next);
    Ok(Graph {
        starts,
        block_of,
        next,
        meets,
    })
}

/// Immediate post-dominators (Cooper, Harvey and Kennedy's iteration on the reversed graph).
fn post_dominators(next: &[Vec<usize>]) -> Vec<Option<usize>> {
    let blocks = next.len();
    let end = blocks;
    let mut before: Vec<Vec<usize>> = vec![Vec::new(); blocks + 1];
    for (block, targets) in next.iter().enumerate() {
        if targets.is_empty() {
            before[end].push(block);
        }
        for &target in targets {
            before[target].push(block);
        }
    }
    // post order of the reversed graph from the end
    let mut order = Vec::with_capacity(blocks + 1);
    let mut seen = vec![false; blocks + 1];
    let visit = |root: usize, seen: &mut Vec<bool>, order: &mut Vec<usize>| {
        let mut stack = vec![(root, 0)];
        seen[root] = true;
        while let Some((block, i)) = stack.pop() {
            if let Some(&b) = before[block].get(i) {
                stack.push((block, i + 1));
                if !seen[b] {
                    seen[b] = true;
                    stack.push((b, 0));
                }
            } else {
                order.push(block);
            }
        }
    };
    visit(end, &mut seen, &mut order);
    let mut number = vec![usize::MAX; blocks + 1];
    for (i, &block) in order.iter().enumerate() {
        number[block] = i;
    }
    let mut parent = vec![usize::MAX; blocks + 1];
    parent[end] = end;
    let mut changed = true;
    while changed {
        changed = false;
        for &block in order.iter().rev() {
            if block == end {
                continue;
            }
            let ends = next[block].is_empty();
            let targets = next[block].iter().copied().chain(ends.then_some(end));
            let mut found = usize::MAX;
            for target in targets {
                if number[target] == usize::MAX || parent[target] == usize::MAX {
                    continue;
                }
                if found == usize::MAX {
                    found = target;
                    continue;
                }
                let (mut a, mut b) = (found, target);
                while a != b {
                    while number[a] < number[b] {
                        a = parent[a];
                    }
                    while number[b] < number[a] {
                        b = parent[b];
                    }
                }
                found = a;
            }
            if found != parent[block] {
                parent[block] = found;
                changed = true;
            }
        }
    }
    (0..blocks)
        .map(|block| (parent[block] < end).then_some(parent[block]))
        .collect()
}

/// Rows of registers, numbers of predicates.
pub(super) struct Rows {
    /// Row or predicate number of each register.
    pub of: Vec<u16>,
    /// Rows of all registers.
    pub rows: usize,
    pub preds: usize,
    /// 32-bit registers alive at a time, at most: what a compiler needs at the least.
    pub pressure: u32,
}

/// Gives registers that are never alive together the same rows.
pub(super) fn rows(flat: &Flat, graph: &Graph, line: u32) -> Result<Rows, LoadError> {
    let count = flat.registers.len();
    let words = count.div_ceil(64);
    let blocks = graph.next.len();
    let sets: Vec<_> = flat.instructions.iter().map(written_and_read).collect();
    let mut used = vec![0u64; words * blocks];
    let mut killed = vec![0u64; words * blocks];
    for block in 0..blocks {
        let (used, killed) = (
            &mut used[block * words..(block + 1) * words],
            &mut killed[block * words..(block + 1) * words],
        );
        for at in graph.starts[block]..graph.starts[block + 1] {
            let (written, read) = &sets[at];
            for &r in read {
                let (word, bit) = (r as usize / 64, 1u64 << (r % 64));
                if killed[word] & bit == 0 {
                    used[word] |= bit;
                }
            }
            for &r in written {
                killed[r as usize / 64] |= 1 << (r % 64);
            }
        }
    }
    let mut live_in = used.clone();
    let mut live_out = vec![0u64; words * blocks];
    let mut changed = true;
    while changed {
        changed = false;
        for block in (0..blocks).rev() {
            let at = block * words;
            for w in 0..words {
                let mut out = 0;
                for &next in &graph.next[block] {
                    out |= live_in[next * words + w];
                }
                let into = used[at + w] | (out & !killed[at + w]);
                if out != live_out[at + w] || into != live_in[at + w] {
                    live_out[at + w] = out;
                    live_in[at + w] = into;
                    changed = true;
                }
            }
        }
    }
    // from first to last position at which a register is alive
    let (mut first, mut last) = (vec![usize::MAX; count], vec![0usize; count]);
    let mut touch = |r: usize, at: usize| {
        first[r] = first[r].min(at);
        last[r] = last[r].max(at);
    };
    for block in 0..blocks {
        let (start, end) = (graph.starts[block], graph.starts[block + 1]);
        for w in 0..words {
            let (mut a, mut b) = (live_in[block * words + w], live_out[block * words + w]);
            while a != 0 {
                touch(w * 64 + a.trailing_zeros() as usize, start);
                a &= a - 1;
            }
            while b != 0 {
                touch(w * 64 + b.trailing_zeros() as usize, end);
                b &= b - 1;
            }
        }
        for at in start..end {
            for &r in sets[at].0.iter().chain(&sets[at].1) {
                touch(r as usize, at);
            }
        }
    }
    let mut order: Vec<usize> = (0..count).filter(|&r| first[r] != usize::MAX).collect();
    order.sort_by_key(|&r| first[r]);
    let mut of = vec![0u16; count];
    let mut preds = 1usize;
    // banks of registers of one, two and four rows
    let mut next = [0usize; 3];
    let mut free: [Vec<usize>; 3] = Default::default();
    let mut active = std::collections::BinaryHeap::new();
    let (mut now, mut pressure) = (0u32, 0u32);
    let mut places = vec![(0usize, 0usize); count];
    for r in order {
        if flat.registers[r] == Type::Pred {
            of[r] = preds as u16;
            preds += 1;
            continue;
        }
        while let Some(&std::cmp::Reverse((end, old))) = active.peek() {
            if end >= first[r] {
                break;
            }
            active.pop();
            let (bank, place): (usize, usize) = places[old];
            free[bank].push(place);
            now -= 1 << bank;
        }
        let bank = match flat.registers[r].bytes() {
            16 => 2,
            8 => 1,
            _ => 0,
        };
        let place = free[bank].pop().unwrap_or_else(|| {
            next[bank] += 1;
            next[bank] - 1
        });
        places[r] = (bank, place);
        active.push(std::cmp::Reverse((last[r], r)));
        now += 1 << bank;
        pressure = pressure.max(now);
    }
    let starts = [0, next[0], next[0] + 2 * next[1]];
    let rows = starts[2] + 4 * next[2];
    if rows > 60_000 || preds > 60_000 {
        return Err(LoadError::unsupported(
            line,
            format!("{rows} registers alive at a time"),
        ));
    }
    for r in 0..count {
        if flat.registers[r] != Type::Pred {
            let (bank, place) = places[r];
            of[r] = (starts[bank] + (place << bank)) as u16;
        }
    }
    Ok(Rows {
        of,
        rows: rows.max(2),
        preds,
        pressure,
    })
}

/// Position at which the lanes of the branch at `at` meet again.
pub(super) fn meeting(graph: &Graph, at: usize) -> u32 {
    match graph.meets[graph.block_of[at]] {
        Some(block) => graph.starts[block] as u32,
        None => NOWHERE,
    }
}
