//! Grids, blocks and the threads of the host that run them.

mod limits;
mod violations;
mod worker;

use super::ops::*;
use super::order::{Locations, View};
use super::races::{self, Log};
use super::shared::Shared;
use super::sync::{self, BarrierState};
use super::warp::{self, Fault, Stop, Wait, Warp};
use super::{Launch, Options, Overlap, Rule, Transfer, Violation, code};
use crate::counts::{Counts, Traffic};
use crate::device::Model;
use crate::memory::{Allocation, Kind, Memory, Table};
use limits::*;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use violations::*;

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
    /// From which grid on all before this one are complete once a thread of it has waited for its
    /// predecessor; unset where none did.
    waited_from: OnceLock<usize>,
    /// What its blocks know to be complete from the start.
    known_below: usize,
    /// Sectors touched, by allocation.
    pub touched: Vec<OnceLock<Box<[AtomicU64]>>>,
    order: (u64, u64),
    resident: u64,
    /// Where the counter of the barrier of a cooperative grid lies; 0 for other grids.
    workspace: u64,
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

    /// A thread of `grid` is past its `griddepcontrol.wait`: it knows the grid before to be complete,
    /// and with it the one before that, unless no thread of the grid between waited for it.
    pub fn waited(&self, grid: &Grid, view: &mut View) {
        if grid.launch.concurrent {
            return;
        }
        let first = *grid.waited_from.get_or_init(|| {
            let Some(before) = grid.index.checked_sub(1).map(|i| &self.grids[i]) else {
                return 0;
            };
            match before.waited_from.get() {
                _ if before.launch.concurrent => before.index,
                // it began when all before it were complete
                _ if !before.waits => 0,
                Some(&first) => first,
                None => before.index,
            }
        });
        view.complete(&(first..grid.index));
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

    /// Whether the grid may overlap the one before it or the one behind it, and both are not done.
    fn overlaps(&self, grid: &Grid) -> bool {
        let next = self.grids.get(grid.index + 1);
        next.is_some_and(|next| next.waits) || grid.waits && !self.complete_below(grid.index)
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

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
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
            waited_from: OnceLock::new(),
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
