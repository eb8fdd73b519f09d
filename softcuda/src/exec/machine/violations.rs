//! What is said of a violation.

use super::*;

pub(super) fn thread_of(launch: &Launch, warp: usize, lane: u32) -> [u32; 3] {
    let [nx, ny, _] = launch.block;
    let thread = warp as u32 * 32 + lane;
    [thread % nx, thread / nx % ny, thread / nx / ny]
}

pub(super) fn violation(
    cx: &Context<'_>,
    block: &Block,
    warp: usize,
    pc: u32,
    fault: Fault,
) -> Box<Violation> {
    let launch = cx.grid.launch;
    let pc = fault.pc.unwrap_or(pc);
    Box::new(Violation {
        rule: fault.rule,
        message: fault.message,
        code: fault.code,
        grid: cx.grid.index,
        kernel: launch.kernel.name.clone(),
        line: cx.code.meta.get(pc as usize).map_or(0, |m| m.line),
        location: location(cx.code, pc),
        block: block.ctaid,
        thread: thread_of(launch, warp, fault.lane),
        address: fault.address,
    })
}

pub(super) fn location(code: &Code, pc: u32) -> Option<(String, u32)> {
    let (file, line) = code.meta.get(pc as usize)?.location?;
    let (_, name) = code.files.iter().find(|(number, _)| *number == file)?;
    Some((name.clone(), line))
}

/// No warp of a block can go on.
pub(super) fn stuck(cx: &Context<'_>, block: &Block) -> Box<Violation> {
    let mut found = (0, 0, 0, "nothing");
    for (index, warp) in block.warps.iter().enumerate() {
        for split in &warp.splits {
            let what = match split.wait {
                Wait::Nothing => "memory",
                Wait::Barrier(_) => "a barrier of the block",
                Wait::Members(_) => "lanes of its warp",
                Wait::Grid => "the grid before it",
            };
            found = (index, split.pc, split.mask.trailing_zeros(), what);
        }
    }
    let (warp, pc, lane, what) = found;
    let rule = if what == "lanes of its warp" {
        Rule::Divergent
    } else {
        Rule::Deadlock
    };
    // a split that waits at a barrier stands behind it already
    let pc = if what == "a barrier of the block" {
        pc.saturating_sub(1)
    } else {
        pc
    };
    let fault = Fault {
        rule,
        code: code::LAUNCH_TIMEOUT,
        message: format!("no warp of the block can go on: this one waits for {what}"),
        lane,
        address: None,
        pc: None,
    };
    violation(cx, block, warp, pc, fault)
}

pub(super) fn race_with(mut race: Box<Violation>, hang: &Violation) -> Box<Violation> {
    race.message = format!("{}; then {}", race.message, hang.message);
    race
}

pub(super) fn race_violation(run: &Run, logs: &[Log], race: races::Race) -> Box<Violation> {
    let segment = |(log, entry): (usize, races::Entry)| &logs[log].segments[entry.segment as usize];
    let (first, second) = (segment(race.first), segment(race.second));
    let place = |segment: &races::Segment, entry: races::Entry| {
        let grid = &run.grids[segment.grid];
        let index = segment.block - grid.first_block;
        let [x, y, _] = grid.launch.grid;
        let block = [index % x, index / x % y, index / x / y];
        let line = grid.launch.kernel.code.meta[entry.pc as usize].line;
        let verb = match entry.kind {
            races::Kind::Read => "read",
            races::Kind::NonCoherent => "read through the non-coherent path",
            races::Kind::Write => "written",
            races::Kind::StrongRead | races::Kind::BlockRead => "read atomically",
            races::Kind::StrongWrite | races::Kind::BlockWrite => "written atomically",
        };
        (grid, block, line, verb)
    };
    let (grid, block, _, verb) = place(second, race.second.1);
    let (other_grid, other_block, other_line, other_verb) = place(first, race.first.1);
    let allocation = &run.table.all()[race.first.1.allocation as usize];
    let rule = if race.non_coherent {
        Rule::NonCoherent
    } else {
        Rule::GlobalRace
    };
    let why = if race.non_coherent {
        "while the grid that writes it may live"
    } else {
        "with nothing that orders the two"
    };
    let code = &grid.launch.kernel.code;
    let meta = code.meta[race.second.1.pc as usize];
    Box::new(Violation {
        rule,
        message: format!(
            "byte {} of {} {verb} here and {other_verb} by warp {} of block {other_block:?} of \
             `{}` at PTX line {other_line}, {why}",
            race.address - allocation.base(),
            name(allocation),
            first.warp,
            other_grid.launch.kernel.name,
        ),
        code: code::LAUNCH_FAILED,
        grid: second.grid,
        kernel: grid.launch.kernel.name.clone(),
        line: meta.line,
        location: location(code, race.second.1.pc),
        block,
        thread: thread_of(grid.launch, second.warp as usize, 0),
        address: Some(race.address),
    })
}

pub(super) fn transfer_violation(
    run: &Run,
    logs: &[Log],
    (log, entry, transfer, address): (usize, races::Entry, Transfer, u64),
) -> Box<Violation> {
    let segment = &logs[log].segments[entry.segment as usize];
    let grid = &run.grids[segment.grid];
    let allocation = &run.table.all()[entry.allocation as usize];
    let code = &grid.launch.kernel.code;
    let [x, y, _] = grid.launch.grid;
    let index = segment.block - grid.first_block;
    Box::new(Violation {
        rule: Rule::GlobalRace,
        message: format!(
            "byte {} of {} {} here and {} by a {} of another stream, with nothing that orders the \
             two",
            address - allocation.base(),
            name(allocation),
            if entry.kind.writes() {
                "written"
            } else {
                "read"
            },
            if transfer.writes { "written" } else { "read" },
            if transfer.fill { "fill" } else { "copy" },
        ),
        code: code::LAUNCH_FAILED,
        grid: segment.grid,
        kernel: grid.launch.kernel.name.clone(),
        line: code.meta[entry.pc as usize].line,
        location: location(code, entry.pc),
        block: [index % x, index / x % y, index / x / y],
        thread: thread_of(grid.launch, segment.warp as usize, 0),
        address: Some(address),
    })
}

/// An allocation by its label, or by its place.
pub(super) fn name(allocation: &Allocation) -> String {
    match allocation.label().as_str() {
        "" => format!("the {} bytes at {:#x}", allocation.len(), allocation.base()),
        label => format!("`{label}`"),
    }
}
