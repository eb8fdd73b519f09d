//! Grids, blocks and the threads of the host that run them.

use super::ops::*;
use super::order::Locations;
use super::races::{self, Log};
use super::shared::Shared;
use super::sync::{self, BarrierState};
use super::warp::{self, Fault, Stop, Wait, Warp};
use super::{Launch, Options, Overlap, Rule, Transfer, Violation, code};
use crate::counts::{Counts, Traffic};
use crate::device::Model;
use crate::memory::{Allocation, Kind, Memory, Table};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// What a grid of the list is to all workers.
pub(super) struct Grid<'a> {
    pub index: usize,
    pub launch: &'a Launch,
    pub template: Vec<super::lanes::Row>,
    pub blocks: u64,
    /// Number of its first block among the blocks of all grids.
    pub first_block: u32,
    next: AtomicU64,
    pub triggered: AtomicU64,
    completed: AtomicU64,
    /// It may overlap the grid before it.
    pub waits: bool,
    /// What its blocks know to be complete from the start.
    known_below: usize,
    /// Sectors touched, by allocation.
    pub touched: Vec<OnceLock<Box<[AtomicU64]>>>,
    order: (u64, u64),
    resident: u64,
    /// Where the counter of the barrier of a cooperative grid lies; 0 for other grids.
    workspace: u64,
}

impl Grid<'_> {
    /// Grids that are known to be complete after `griddepcontrol.wait`.
    pub fn waited_below(&self) -> usize {
        if self.launch.concurrent {
            0
        } else {
            self.index
        }
    }
}

/// How long nobody has made progress: instructions of rounds in which every worker had a turn. A
/// worker that is off its core ends no round, so that this is no measure of time.
struct Idle {
    /// Whether there is anything to forget; most progress meets nothing.
    begun: AtomicBool,
    state: Mutex<Rounds>,
}

struct Rounds {
    /// Instructions of the rounds that are over.
    instructions: u64,
    /// The longest turn of the round under way.
    longest: u64,
    /// Which workers had a turn in it.
    turns: Vec<bool>,
}

impl Idle {
    fn of(workers: usize) -> Idle {
        Idle {
            begun: AtomicBool::new(false),
            state: Mutex::new(Rounds {
                instructions: 0,
                longest: 0,
                turns: vec![false; workers],
            }),
        }
    }

    /// A worker had a turn without progress; the instructions of all rounds so far.
    fn turn(&self, worker: usize, instructions: u64) -> u64 {
        let mut rounds = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.begun.store(true, Ordering::Relaxed);
        rounds.longest = rounds.longest.max(instructions);
        rounds.turns[worker] = true;
        if rounds.turns.iter().all(|&had| had) {
            rounds.turns.fill(false);
            rounds.instructions += std::mem::take(&mut rounds.longest);
        }
        rounds.instructions
    }

    /// Somebody made progress.
    fn end(&self) {
        if self.begun.load(Ordering::Relaxed) {
            let mut rounds = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            self.begun.store(false, Ordering::Relaxed);
            rounds.turns.fill(false);
            (rounds.instructions, rounds.longest) = (0, 0);
        }
    }
}

/// One call of [`super::launch`].
pub(super) struct Run<'a> {
    pub memory: &'a Memory,
    pub model: &'a Model,
    pub options: &'a Options,
    pub table: Table,
    pub grids: Vec<Grid<'a>>,
    pub locations: Locations,
    failed: AtomicBool,
    violation: Mutex<Option<Box<Violation>>>,
    /// Grids complete, from the first on.
    complete: AtomicUsize,
    idle: Idle,
    wake: (Mutex<u64>, Condvar),
}

impl Run<'_> {
    /// Whether all grids before `index` are complete.
    pub fn complete_below(&self, index: usize) -> bool {
        self.complete.load(Ordering::Acquire) >= index
    }

    /// Something happened that others may wait for.
    pub fn changed(&self) {
        let (lock, condvar) = &self.wake;
        *lock.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        condvar.notify_all();
    }

    fn fail(&self, violation: Box<Violation>) {
        let mut first = self
            .violation
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if first.is_none() {
            *first = Some(violation);
        }
        drop(first);
        self.failed.store(true, Ordering::Release);
        self.changed();
    }

    /// The next block to start, if one may.
    fn next_block(&self, counts: &[u64], workers: u64) -> Option<(usize, u64)> {
        let complete = self.complete.load(Ordering::Acquire);
        let mut found = None;
        for grid in &self.grids[complete.min(self.grids.len())..] {
            let may = grid.index <= complete || grid.launch.concurrent || {
                let before = &self.grids[grid.index - 1];
                grid.waits
                    && self.options.overlap != Overlap::Late
                    && before.triggered.load(Ordering::Acquire) >= before.blocks
            };
            if !may {
                continue;
            }
            if counts[grid.index] >= grid.resident.div_ceil(workers) {
                continue;
            }
            if grid.next.load(Ordering::Relaxed) < grid.blocks {
                found = Some(grid);
                // early: the latest grid that may run goes first
                if self.options.overlap != Overlap::Early {
                    break;
                }
            }
        }
        let grid = found?;
        let number = grid.next.fetch_add(1, Ordering::AcqRel);
        (number < grid.blocks).then_some((grid.index, number))
    }

    fn finished(&self, grid: &Grid) {
        if grid.completed.fetch_add(1, Ordering::AcqRel) + 1 == grid.blocks {
            let mut complete = self.complete.load(Ordering::Acquire);
            while let Some(next) = self.grids.get(complete) {
                if next.completed.load(Ordering::Acquire) < next.blocks {
                    break;
                }
                complete += 1;
            }
            self.complete.fetch_max(complete, Ordering::AcqRel);
            self.changed();
        }
    }
}

/// A resident block.
#[derive(Debug, Default)]
pub(super) struct Block {
    pub grid: usize,
    pub ctaid: [u32; 3],
    /// Its number among the blocks of all grids.
    pub number: u32,
    pub threads: u32,
    pub warps: Vec<Warp>,
    pub shared: Shared,
    pub barriers: Vec<BarrierState>,
    pub triggered: bool,
    pub check_barriers: bool,
    /// Lanes of a warp had to part for good to get on.
    parted: bool,
    spare: Vec<Warp>,
}

/// What one worker counted of one grid.
#[derive(Debug, Default)]
pub(super) struct GridCounts {
    pub pcs: Vec<u64>,
    pub traffic: Vec<Traffic>,
    pub wavefronts: u64,
    pub conflicts: u64,
    pub barriers: u64,
    pub divergent: u64,
    pub longest: u64,
}

/// What an instruction can reach beside its warp and its block.
pub(super) struct Context<'a> {
    pub run: &'a Run<'a>,
    pub grid: &'a Grid<'a>,
    pub code: &'a Code,
    pub counts: &'a mut GridCounts,
    pub log: &'a mut Log,
    pub pc: u32,
    /// The last instruction polled something that did not change.
    pub yield_now: bool,
    /// It did so in this turn.
    pub polled: bool,
    /// Memory changed.
    pub progress: bool,
    pub recent: &'a mut [u32; 64],
    /// Lists and patterns kept from one access to the next.
    pub ranges: &'a mut super::ranges::RangeList,
    pub patterns: &'a mut [super::banks::Pattern; 64],
}

/// A small generator for orders (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }
}

/// Instructions that a turn counts for that did nothing but poll.
const POLL_COST: u64 = 1000;
/// Instructions without progress after which lanes no longer wait where the code would let them
/// meet, and after which a launch counts as hung.
const PART_AFTER: u64 = 100 * POLL_COST;
const PATIENCE: u64 = 20_000 * POLL_COST;

struct Worker {
    index: usize,
    counts: Vec<GridCounts>,
    log: Log,
    resident: VecDeque<Box<Block>>,
    // blocks are large and move between the two lists
    #[allow(clippy::vec_box)]
    spare: Vec<Box<Block>>,
    random: Random,
    recent: Box<[u32; 64]>,
    ranges: super::ranges::RangeList,
    patterns: Box<[super::banks::Pattern; 64]>,
    /// The warp that takes its turn; in its block stands what was here before.
    running: Warp,
}

/// A warp's segment of shared accesses ends: checks it.
pub(super) fn close(cx: &Context<'_>, block: &mut Block, warp: &Warp) -> Result<(), Box<Fault>> {
    block
        .shared
        .close(warp.index, &warp.view.clocks)
        .map_err(|race| {
            let meta = |pc: u32| cx.code.meta.get(pc as usize).map_or(0, |m| m.line);
            let name = |write| if write { "written" } else { "read" };
            let mut fault = Fault::new(
                Rule::SharedRace,
                code::LAUNCH_FAILED,
                0,
                format!(
                    "shared memory {} by warp {} at PTX line {} and {} by warp {} at PTX line {} \
                     without a barrier between them",
                    name(race.writes.1),
                    race.other,
                    meta(race.other_pc),
                    name(race.writes.0),
                    warp.index,
                    meta(race.pc)
                ),
            )
            .at(race.address.into());
            fault.pc = Some(race.pc);
            fault
        })
}

impl Worker {
    fn start(&mut self, run: &Run, grid: &Grid, number: u64) {
        let mut block = self.spare.pop().unwrap_or_default();
        let launch = grid.launch;
        let code = &launch.kernel.code;
        let [gx, gy, _] = launch.grid.map(u64::from);
        let (a, b) = grid.order;
        let index =
            ((u128::from(number) * u128::from(a) + u128::from(b)) % u128::from(grid.blocks)) as u64;
        block.grid = grid.index;
        block.number = grid.first_block + index as u32;
        block.ctaid = [
            (index % gx) as u32,
            (index / gx % gy) as u32,
            (index / gx / gy) as u32,
        ];
        block.threads = launch.block.iter().product();
        block.triggered = false;
        block.check_barriers = false;
        block.parted = false;
        block.barriers.clear();
        block.barriers.resize_with(16, BarrierState::default);
        let warps = block.threads.div_ceil(32) as usize;
        block
            .shared
            .reset(code.dynamic_start + launch.dynamic_shared, warps);
        while block.warps.len() > warps {
            let warp = block.warps.pop();
            block.spare.extend(warp);
        }
        while block.warps.len() < warps {
            let warp = block.spare.pop().unwrap_or_else(Warp::new);
            block.warps.push(warp);
        }
        for i in 0..warps {
            let threads = block.threads - 32 * i as u32;
            let (ctaid, number) = (block.ctaid, block.number);
            let warp = &mut block.warps[i];
            warp.start(i, threads, number);
            warp.regs.rows.clear();
            warp.regs.rows.extend_from_slice(&grid.template);
            warp.regs.preds.clear();
            warp.regs.preds.resize(code.preds, 0);
            warp.regs.approx = run.options.approx_seed.unwrap_or(0);
            warp.view.complete_below(grid.known_below);
            let local = launch.kernel.local_bytes as usize + 16;
            if local > 16 {
                warp.local.clear();
                warp.local.resize(local * 32, 0);
                warp.local_init.clear();
                warp.local_init.resize((local * 32).div_ceil(64), 0);
            }
            specials(run, grid, warp, i as u32, ctaid);
        }
        if run.options.overlap == Overlap::Early {
            self.resident.push_front(block);
        } else {
            self.resident.push_back(block);
        }
    }

    /// Runs a block until it is done, only polls, or waits. True: done.
    fn turn(&mut self, run: &Run, block: &mut Block) -> Result<bool, Box<Violation>> {
        let grid = &run.grids[block.grid];
        let mut polls = 0;
        let mut cx = Context {
            run,
            grid,
            code: &grid.launch.kernel.code,
            counts: &mut self.counts[block.grid],
            log: &mut self.log,
            pc: 0,
            yield_now: false,
            progress: false,
            recent: &mut self.recent,
            ranges: &mut self.ranges,
            patterns: &mut self.patterns,
            polled: false,
        };
        let mut executed = 0u64;
        let done = loop {
            let count = block.warps.len();
            let from = self.random.next() as usize % count;
            let ready = |w: &Warp| w.splits.iter().any(|s| s.wait == Wait::Nothing);
            let next = (from..count)
                .chain(0..from)
                .find(|&i| ready(&block.warps[i]));
            let Some(index) = next else {
                let waits_for_grid = block
                    .warps
                    .iter()
                    .flat_map(|w| &w.splits)
                    .any(|s| s.wait == Wait::Grid);
                if sync::open(block).map_err(|f| violation(&cx, block, 0, 0, *f))? {
                    continue;
                }
                if block.warps.iter().all(Warp::done) {
                    break true;
                }
                if waits_for_grid {
                    if run.complete_below(grid.index) {
                        for warp in &mut block.warps {
                            for i in 0..warp.splits.len() {
                                if warp.splits[i].wait == Wait::Grid {
                                    warp.splits[i].wait = Wait::Nothing;
                                    warp.view.complete_below(grid.waited_below());
                                }
                            }
                        }
                        continue;
                    }
                    break false;
                }
                return Err(stuck(&cx, block));
            };
            let budget = 64u32 << (self.random.next() % 7);
            // the warp leaves the block for its turn, so that both can be changed
            std::mem::swap(&mut block.warps[index], &mut self.running);
            let warp = &mut self.running;
            let before = warp.instructions;
            cx.polled = false;
            let result = warp::run(&mut cx, block, warp, budget);
            executed += warp.instructions - before;
            let polled = cx.polled;
            if let Ok(Stop::Done) = result
                && !warp.copies.is_empty()
            {
                // copies that nobody waited for end with the thread
                for copy in std::mem::take(&mut warp.copies) {
                    block
                        .shared
                        .end_copy(warp.index, copy.at, copy.bytes, copy.pc);
                }
            }
            let closed = match result {
                Ok(Stop::Done) => close(&cx, block, warp),
                _ => Ok(()),
            };
            std::mem::swap(&mut block.warps[index], &mut self.running);
            match result {
                Err((pc, fault)) => return Err(violation(&cx, block, index, pc, *fault)),
                Ok(stop) => {
                    closed.map_err(|f| violation(&cx, block, index, cx.pc, *f))?;
                    if stop == Stop::Done || block.check_barriers {
                        block.check_barriers = false;
                        sync::open(block).map_err(|f| violation(&cx, block, index, cx.pc, *f))?;
                    }
                }
            }
            if polled {
                polls += 1;
            } else {
                polls = 0;
                run.idle.end();
            }
            if polls > 2 * count || run.failed.load(Ordering::Relaxed) {
                break false;
            }
        };
        if cx.progress || done {
            run.idle.end();
        } else {
            // a turn that only polls counts as if it had been longer than it is
            let idle = run.idle.turn(self.index, executed + POLL_COST);
            if (block.parted || idle > PART_AFTER)
                && block.warps.iter_mut().any(Warp::part_for_good)
            {
                block.parted = true;
            }
            let patience = match run.options.patience {
                0 => PATIENCE,
                own => own,
            };
            if idle > patience {
                let mut violation = stuck(&cx, block);
                violation.code = code::LAUNCH_TIMEOUT;
                violation.message =
                    "no thread makes progress: all that run wait for memory to change".to_owned();
                return Err(violation);
            }
        }
        if done {
            let longest = block.warps.iter().map(|w| w.instructions).max();
            cx.counts.longest = cx.counts.longest.max(longest.unwrap_or(0));
            block.shared.clear();
            if !block.triggered {
                block.triggered = true;
                grid.triggered.fetch_add(1, Ordering::AcqRel);
                run.changed();
            }
            run.finished(grid);
        }
        Ok(done)
    }

    fn work(&mut self, run: &Run, workers: u64) {
        let mut held = vec![0u64; run.grids.len()];
        let mut stalled = 0;
        loop {
            if run.failed.load(Ordering::Acquire) {
                return;
            }
            let seen = *run.wake.0.lock().unwrap_or_else(PoisonError::into_inner);
            // a new block when there is none, or when those there are wait
            let early = run.options.overlap == Overlap::Early && run.grids.len() > 1;
            if (self.resident.is_empty() || stalled > 0 || early)
                && let Some((grid, number)) = run.next_block(&held, workers)
            {
                held[grid] += 1;
                self.start(run, &run.grids[grid], number);
                if run.options.overlap != Overlap::Early {
                    // the new one is next
                    self.resident.rotate_right(1);
                }
                stalled = 0;
            }
            let Some(mut block) = self.resident.pop_front() else {
                if run.complete_below(run.grids.len()) {
                    return;
                }
                run.idle.turn(self.index, POLL_COST);
                sleep(run, seen);
                continue;
            };
            match self.turn(run, &mut block) {
                Err(violation) => {
                    run.fail(violation);
                    return;
                }
                Ok(true) => {
                    held[block.grid] -= 1;
                    self.spare.push(block);
                    stalled = 0;
                }
                Ok(false) => {
                    self.resident.push_back(block);
                    stalled += 1;
                    if stalled > self.resident.len() {
                        // all of ours wait: let the other workers run
                        sleep(run, seen);
                    }
                }
            }
        }
    }
}

fn sleep(run: &Run, seen: u64) {
    let (lock, condvar) = &run.wake;
    let count = lock.lock().unwrap_or_else(PoisonError::into_inner);
    if *count == seen {
        // a poll of memory may succeed without notice: never for long
        let _ = condvar.wait_timeout(count, Duration::from_micros(50));
    }
}

fn specials(run: &Run, grid: &Grid, warp: &mut Warp, index: u32, ctaid: [u32; 3]) {
    use super::ops::Special::*;
    let launch = grid.launch;
    let [nx, ny, _] = launch.block;
    for &(row, wide, constant) in &launch.kernel.code.constants {
        let Constant::Special(special) = constant else {
            continue;
        };
        let value = |lane: u32| -> u64 {
            let thread = index * 32 + lane;
            u64::from(match special {
                Tid(0) => thread % nx,
                Tid(1) => thread / nx % ny,
                Tid(_) => thread / nx / ny,
                Ntid(i) => launch.block[i as usize],
                Ctaid(i) => ctaid[i as usize],
                Nctaid(i) => launch.grid[i as usize],
                Laneid => lane,
                Warpid => index,
                Nwarpid => run.model.max_threads_per_multiprocessor / 32,
                Smid => (ctaid[0] + ctaid[1] * 7 + ctaid[2] * 31) % run.model.multiprocessors,
                Nsmid => run.model.multiprocessors,
                Gridid => grid.index as u32,
                LaneMask(kind) => {
                    let own = 1u32 << lane;
                    match kind {
                        super::ops::LaneMask::Eq => own,
                        super::ops::LaneMask::Lt => own - 1,
                        super::ops::LaneMask::Le => own | (own - 1),
                        super::ops::LaneMask::Gt => !(own | (own - 1)),
                        super::ops::LaneMask::Ge => !(own - 1),
                    }
                }
                DynamicShared => launch.dynamic_shared,
                TotalShared => launch.dynamic_shared + launch.kernel.static_shared,
                Environment(1) => (grid.workspace >> 32) as u32,
                Environment(_) => grid.workspace as u32,
            })
        };
        set_row(&mut warp.regs.rows, row, wide, value);
    }
}

fn thread_of(launch: &Launch, warp: usize, lane: u32) -> [u32; 3] {
    let [nx, ny, _] = launch.block;
    let thread = warp as u32 * 32 + lane;
    [thread % nx, thread / nx % ny, thread / nx / ny]
}

fn violation(
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

fn location(code: &Code, pc: u32) -> Option<(String, u32)> {
    let (file, line) = code.meta.get(pc as usize)?.location?;
    let (_, name) = code.files.iter().find(|(number, _)| *number == file)?;
    Some((name.clone(), line))
}

/// No warp of a block can go on.
fn stuck(cx: &Context<'_>, block: &Block) -> Box<Violation> {
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

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn limit(launch: &Launch, index: usize, message: String, code: u32) -> Box<Violation> {
    Box::new(Violation {
        rule: Rule::Limit,
        message,
        code,
        grid: index,
        kernel: launch.kernel.name.clone(),
        line: 0,
        location: None,
        block: [0; 3],
        thread: [0; 3],
        address: None,
    })
}

/// Checks what a launch asks for against device and kernel. Gives the blocks resident at a time.
fn check(model: &Model, launch: &Launch, index: usize) -> Result<u64, Box<Violation>> {
    let kernel = &launch.kernel;
    let fail = |message: String, code: u32| Err(limit(launch, index, message, code));
    for axis in 0..3 {
        let (grid, block) = (launch.grid[axis], launch.block[axis]);
        if grid == 0 || grid > model.max_grid[axis] || block == 0 || block > model.max_block[axis] {
            return fail(
                format!(
                    "a grid of {:?} blocks of {:?} threads, expected at most {:?} and {:?} and no \
                     zero",
                    launch.grid, launch.block, model.max_grid, model.max_block
                ),
                code::INVALID_VALUE,
            );
        }
    }
    let threads: u64 = launch.block.iter().map(|&n| u64::from(n)).product();
    if threads > u64::from(model.max_threads_per_block) {
        return fail(
            format!(
                "{threads} threads in a block, expected at most {}",
                model.max_threads_per_block
            ),
            code::INVALID_VALUE,
        );
    }
    if threads > u64::from(kernel.max_threads) {
        return fail(
            format!(
                "{threads} threads of {} registers in a block, expected at most {} threads",
                kernel.registers, kernel.max_threads
            ),
            code::LAUNCH_OUT_OF_RESOURCES,
        );
    }
    let allowed = launch
        .dynamic_shared_limit
        .max(model.shared_per_block.saturating_sub(kernel.static_shared));
    let total = u64::from(launch.dynamic_shared) + u64::from(kernel.static_shared);
    if launch.dynamic_shared > allowed || total > u64::from(model.shared_per_block_optin) {
        return fail(
            format!(
                "{} bytes of dynamic and {} of static shared memory; the kernel opted in to {}, \
                 the device has {} for a block",
                launch.dynamic_shared,
                kernel.static_shared,
                launch.dynamic_shared_limit,
                model.shared_per_block_optin
            ),
            code::INVALID_VALUE,
        );
    }
    if launch.params.len() != kernel.param_bytes as usize {
        return fail(
            format!(
                "{} bytes of parameters, expected {}",
                launch.params.len(),
                kernel.param_bytes
            ),
            code::INVALID_VALUE,
        );
    }
    let resident = model.resident_blocks(threads as u32, kernel.registers, total as u32);
    let resident = u64::from(resident.max(1)) * u64::from(model.multiprocessors);
    let blocks: u64 = launch.grid.iter().map(|&n| u64::from(n)).product();
    if launch.cooperative && blocks > resident {
        return fail(
            format!("a cooperative grid of {blocks} blocks, expected at most {resident}"),
            code::COOPERATIVE_LAUNCH_TOO_LARGE,
        );
    }
    if blocks > u64::from(u32::MAX >> 1) {
        return fail(
            format!("{blocks} blocks, expected fewer than 2^31"),
            code::INVALID_VALUE,
        );
    }
    Ok(resident)
}

/// Bytes of a grid's workspace: its size, and the counter of its barrier.
const WORKSPACE: u64 = 256;

pub(super) fn launch(
    memory: &Memory,
    model: &Model,
    options: &Options,
    launches: &[Launch],
) -> Result<Vec<Counts>, Box<Violation>> {
    // cooperative groups count the arrivals at a barrier of the grid in memory of the driver
    let asks = |launch: &&Launch| {
        let environment =
            |c: &(u16, bool, Constant)| matches!(c.2, Constant::Special(Special::Environment(_)));
        launch.cooperative && launch.kernel.code.constants.iter().any(environment)
    };
    let mut workspaces = vec![0; launches.len()];
    for (launch, workspace) in launches.iter().zip(&mut workspaces) {
        if asks(&launch)
            && let Ok(address) = memory.alloc_kind(WORKSPACE, 256, Kind::Module)
            && memory.fill(address, 0, 4, WORKSPACE / 4).is_ok()
            && memory.label(address, "workspace of the grid").is_ok()
        {
            *workspace = address;
        }
    }
    let result = launch_with(memory, model, options, launches, &workspaces);
    for workspace in workspaces.into_iter().filter(|&address| address != 0) {
        // it was made above, and nobody else knows it
        let _ = memory.free(workspace);
    }
    result
}

fn launch_with(
    memory: &Memory,
    model: &Model,
    options: &Options,
    launches: &[Launch],
    workspaces: &[u64],
) -> Result<Vec<Counts>, Box<Violation>> {
    let table = memory.table();
    let mut random = Random(options.seed);
    let mut grids = Vec::with_capacity(launches.len());
    let (mut first_block, mut known_below) = (0u32, 0);
    for (index, launch) in launches.iter().enumerate() {
        let resident = check(model, launch, index)?;
        let blocks: u64 = launch.grid.iter().map(|&n| u64::from(n)).product();
        let waits = launch.programmatic && !launch.concurrent && index > 0;
        if launch.concurrent {
            known_below = 0;
        } else if !waits {
            known_below = index;
        }
        // a random affine permutation of the blocks
        let mut step = random.next() % blocks | 1;
        while gcd(step, blocks) != 1 {
            step = step % blocks + 1;
        }
        grids.push(Grid {
            index,
            launch,
            template: launch.kernel.code.template(&launch.params),
            blocks,
            first_block,
            next: AtomicU64::new(0),
            triggered: AtomicU64::new(0),
            completed: AtomicU64::new(0),
            waits,
            known_below,
            touched: (0..table.all().len()).map(|_| OnceLock::new()).collect(),
            order: (step, random.next() % blocks),
            resident,
            workspace: workspaces[index],
        });
        first_block = first_block.wrapping_add(blocks as u32);
    }
    let threads = rayon::current_num_threads().max(1);
    let most: u64 = grids.iter().map(|g| g.blocks).sum();
    let count = threads.min(most.max(1) as usize);
    let run = Run {
        memory,
        model,
        options,
        table,
        grids,
        locations: Locations::new(),
        failed: AtomicBool::new(false),
        violation: Mutex::new(None),
        complete: AtomicUsize::new(0),
        idle: Idle::of(count),
        wake: (Mutex::new(0), Condvar::new()),
    };
    let new_worker = |i: usize| Worker {
        index: i,
        counts: run
            .grids
            .iter()
            .map(|grid| GridCounts {
                pcs: vec![0; grid.launch.kernel.code.insts.len()],
                traffic: vec![Traffic::default(); run.table.all().len()],
                ..GridCounts::default()
            })
            .collect(),
        log: Log::default(),
        resident: VecDeque::new(),
        spare: Vec::new(),
        random: Random(options.seed ^ (i as u64 + 1).wrapping_mul(0xa076_1d64_78bd_642f)),
        recent: Box::new([u32::MAX; 64]),
        ranges: Vec::new(),
        patterns: Box::new(std::array::from_fn(|_| Default::default())),
        running: Warp::new(),
    };
    let mut workers: Vec<Worker> = (0..count).map(new_worker).collect();
    if let [worker] = &mut workers[..] {
        worker.work(&run, 1);
    } else {
        // threads of their own: workers wait for each other, which tasks of a pool must not
        std::thread::scope(|scope| {
            let (first, rest) = workers.split_at_mut(1);
            for worker in rest {
                let run = &run;
                scope.spawn(move || worker.work(run, count as u64));
            }
            first[0].work(&run, count as u64);
        });
    }
    let found = run
        .violation
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    let mut counts: Vec<Vec<GridCounts>> = Vec::new();
    let mut logs = Vec::new();
    for worker in workers {
        counts.push(worker.counts);
        logs.push(worker.log);
    }
    let race = races::races(&logs).map(|race| race_violation(&run, &logs, race));
    let race = race.or_else(|| {
        if launches.iter().all(|launch| launch.transfers.is_empty()) {
            return None;
        }
        let transfers = |grid: usize| launches[grid].transfers.clone();
        races::transfer_race(&logs, transfers).map(|found| transfer_violation(&run, &logs, found))
    });
    // a race explains a fault, a hang above all; but a fault of its own kind comes first
    match (found, race) {
        (Some(found), Some(race)) if found.rule == Rule::Deadlock => {
            return Err(race_with(race, &found));
        }
        (Some(found), _) => return Err(found),
        (None, Some(race)) => return Err(race),
        (None, None) => {}
    }
    Ok((0..run.grids.len())
        .map(|index| sum(&run, index, counts.iter().map(|c| &c[index])))
        .collect())
}

fn race_with(mut race: Box<Violation>, hang: &Violation) -> Box<Violation> {
    race.message = format!("{}; then {}", race.message, hang.message);
    race
}

fn race_violation(run: &Run, logs: &[Log], race: races::Race) -> Box<Violation> {
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

fn transfer_violation(
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
fn name(allocation: &Allocation) -> String {
    match allocation.label().as_str() {
        "" => format!("the {} bytes at {:#x}", allocation.len(), allocation.base()),
        label => format!("`{label}`"),
    }
}

fn sum<'a>(run: &Run, index: usize, parts: impl Iterator<Item = &'a GridCounts>) -> Counts {
    let grid = &run.grids[index];
    let launch = grid.launch;
    let mut counts = Counts {
        kernel: launch.kernel.name.clone(),
        grid: launch.grid,
        block: launch.block,
        static_shared: launch.kernel.static_shared,
        dynamic_shared: launch.dynamic_shared,
        ..Counts::default()
    };
    let code = &launch.kernel.code;
    let mut traffic = vec![Traffic::default(); run.table.all().len()];
    for part in parts {
        for (all, own) in traffic.iter_mut().zip(&part.traffic) {
            all.add(own);
        }
        for (pc, &times) in part.pcs.iter().enumerate() {
            if times == 0 {
                continue;
            }
            if let Some(class) = code.meta[pc].class {
                *counts.classes.entry(class.name().to_owned()).or_default() += times;
                counts.warp_instructions += times;
            }
            if let Op::Mma(mma) = &code.insts[pc].op {
                *counts.mma.entry(mma.name.clone()).or_default() += times;
            }
        }
        counts.shared_wavefronts += part.wavefronts;
        counts.shared_conflicts += part.conflicts;
        counts.barriers += part.barriers;
        counts.divergent_branches += part.divergent;
        counts.longest_warp = counts.longest_warp.max(part.longest);
    }
    for (i, allocation) in run.table.all().iter().enumerate() {
        if let Some(bits) = grid.touched[i].get() {
            traffic[i].unique_sectors = bits
                .iter()
                .map(|word| u64::from(word.load(Ordering::Relaxed).count_ones()))
                .sum();
        }
        if traffic[i].sectors != 0 {
            counts
                .memory
                .entry(allocation.label())
                .or_default()
                .add(&traffic[i]);
        }
    }
    counts
}
