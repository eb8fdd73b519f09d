//! What happens before what: vector clocks of warps, carried by barriers, fences with atomics, and
//! waits for a predecessor; and the log of global accesses that is checked against them.
//!
//! A warp's clock advances whenever it may have published what it did. What it did at one value of
//! its clock is a segment. An access is ordered before another if the warp of the other knew that
//! clock at the time.

use super::Transfer;
use super::ops::{Order, Scope};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Most warps of a block.
pub(super) const WARPS: usize = 32;

/// Clocks of the warps of a block.
pub(super) type Clocks = [u32; WARPS];

fn merge_clocks(into: &mut Clocks, from: &Clocks) {
    for (a, b) in into.iter_mut().zip(from) {
        *a = (*a).max(*b);
    }
}

/// What is known of other blocks: clocks by block, and grids that are complete.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Known {
    pub blocks: BTreeMap<u32, Clocks>,
    /// Grids before this one of the list are complete.
    pub complete_below: usize,
}

impl Known {
    fn covers(&self, other: &Known) -> bool {
        self.complete_below >= other.complete_below
            && other.blocks.iter().all(|(block, clocks)| {
                self.blocks
                    .get(block)
                    .is_some_and(|own| own.iter().zip(clocks).all(|(a, b)| a >= b))
            })
    }

    fn merge(&mut self, other: &Known) {
        self.complete_below = self.complete_below.max(other.complete_below);
        for (&block, clocks) in &other.blocks {
            merge_clocks(self.blocks.entry(block).or_insert([0; WARPS]), clocks);
        }
    }
}

/// What a warp knows.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub block: u32,
    pub warp: usize,
    pub clocks: Clocks,
    pub remote: Arc<Known>,
    /// What was published by the last fence, by the fence's scope.
    fence_block: Option<Arc<Known>>,
    fence_device: Option<Arc<Known>>,
    /// What was seen by relaxed reads, to be learned at the next fence.
    seen: Vec<(Scope, Arc<Known>)>,
    /// Segment in the log; `u32::MAX` until something is logged.
    pub segment: u32,
}

impl View {
    pub fn new(block: u32, warp: usize) -> View {
        let mut clocks = [0; WARPS];
        clocks[warp] = 1;
        View {
            block,
            warp,
            clocks,
            remote: Arc::default(),
            fence_block: None,
            fence_device: None,
            seen: Vec::new(),
            segment: u32::MAX,
        }
    }

    /// All that this warp knows and did so far.
    fn published(&self) -> Arc<Known> {
        let mut known = (*self.remote).clone();
        merge_clocks(
            known.blocks.entry(self.block).or_insert([0; WARPS]),
            &self.clocks,
        );
        Arc::new(known)
    }

    /// The next segment begins.
    pub fn advance(&mut self) {
        self.clocks[self.warp] += 1;
        self.segment = u32::MAX;
    }

    fn learn(&mut self, known: &Known) {
        if let Some(own) = known.blocks.get(&self.block) {
            let mine = self.clocks[self.warp];
            merge_clocks(&mut self.clocks, own);
            self.clocks[self.warp] = mine;
            self.segment = u32::MAX;
        }
        if !self.remote.covers(known) {
            Arc::make_mut(&mut self.remote).merge(known);
            self.segment = u32::MAX;
        }
    }

    /// What a barrier of the block carries: clocks and remote knowledge of those who arrived.
    pub fn join(&mut self, clocks: &Clocks, remote: &Known) {
        merge_clocks(&mut self.clocks, clocks);
        if !self.remote.covers(remote) {
            Arc::make_mut(&mut self.remote).merge(remote);
        }
        self.segment = u32::MAX;
    }

    pub fn complete_below(&mut self, grid: usize) {
        if self.remote.complete_below < grid {
            Arc::make_mut(&mut self.remote).complete_below = grid;
            self.segment = u32::MAX;
        }
    }

    pub fn fence(&mut self, scope: Scope) {
        for (seen, known) in std::mem::take(&mut self.seen) {
            // a fence of the block does not order what other blocks published
            if scope == Scope::Device || seen == Scope::Block {
                self.learn(&known);
            } else {
                self.seen.push((seen, known));
            }
        }
        let known = self.published();
        if scope == Scope::Device {
            self.fence_device = Some(known.clone());
        }
        self.fence_block = Some(known);
        self.advance();
    }

    fn release(&mut self, order: Order, scope: Scope) -> Option<(Scope, Arc<Known>)> {
        if order.releases() {
            let known = self.published();
            self.advance();
            return Some((scope, known));
        }
        match (scope, &self.fence_device, &self.fence_block) {
            (Scope::Device, Some(known), _) => Some((Scope::Device, known.clone())),
            (_, _, Some(known)) => Some((Scope::Block, known.clone())),
            _ => None,
        }
    }
}

/// Adds up what arrived at a barrier.
#[derive(Debug, Clone)]
pub(super) struct Gathered {
    pub clocks: Clocks,
    pub remote: Known,
}

impl Default for Gathered {
    fn default() -> Gathered {
        Gathered {
            clocks: [0; WARPS],
            remote: Known::default(),
        }
    }
}

impl Gathered {
    pub fn add(&mut self, view: &View) {
        merge_clocks(&mut self.clocks, &view.clocks);
        if !self.remote.covers(&view.remote) {
            self.remote.merge(&view.remote);
        }
    }
}

/// What writes to a location published.
#[derive(Debug, Default)]
struct Variable {
    device: Option<Arc<Known>>,
    blocks: HashMap<u32, Arc<Known>>,
}

const SHARDS: usize = 64;

/// Locations by which warps synchronise. Locks of a shard make value and knowledge change as one.
#[derive(Debug)]
pub(super) struct Locations {
    shards: Vec<Mutex<HashMap<u64, Variable>>>,
    /// Whether anything was published yet: until then there is nothing to look up.
    any: AtomicBool,
}

impl Locations {
    pub fn new() -> Locations {
        Locations {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            any: AtomicBool::new(false),
        }
    }

    fn shard(&self, address: u64) -> std::sync::MutexGuard<'_, HashMap<u64, Variable>> {
        self.shards[(address / 8) as usize % SHARDS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs the memory operation `f` on `address` for the warp of `view`: reads what is known
    /// there if `reads`, publishes if `f` says that it wrote.
    pub fn access<R>(
        &self,
        address: u64,
        view: &mut View,
        order: Order,
        scope: Scope,
        kind: (bool, bool),
        f: impl FnOnce() -> R,
    ) -> R {
        let (reads, writes) = kind;
        let published = if writes {
            view.release(order, scope)
        } else {
            None
        };
        if published.is_none() && !self.any.load(Ordering::Acquire) {
            // nothing was ever published, so an unlocked access cannot miss anything that an
            // access under the lock would have seen
            return f();
        }
        self.any.store(true, Ordering::Release);
        let mut shard = self.shard(address);
        let result = f();
        if reads && let Some(variable) = shard.get(&address) {
            let device = variable.device.iter().map(|k| (Scope::Device, k.clone()));
            let own = variable.blocks.get(&view.block);
            let seen: Vec<_> = device
                .filter(|_| scope == Scope::Device)
                .chain(own.map(|k| (Scope::Block, k.clone())))
                .collect();
            for (seen_scope, known) in seen {
                if order.acquires() {
                    view.learn(&known);
                } else if !view.seen.iter().any(|(_, k)| Arc::ptr_eq(k, &known)) {
                    view.seen.push((seen_scope, known));
                }
            }
        }
        if writes {
            let variable = shard.entry(address).or_default();
            if !reads {
                // a plain store ends what earlier writes had published here
                *variable = Variable::default();
            }
            if let Some((scope, known)) = published {
                let add = |old: Option<&Arc<Known>>| match old {
                    Some(old) if !known.covers(old) => {
                        let mut sum = (**old).clone();
                        sum.merge(&known);
                        Arc::new(sum)
                    }
                    _ => known.clone(),
                };
                if scope == Scope::Device {
                    variable.device = Some(add(variable.device.as_ref()));
                }
                let own = add(variable.blocks.get(&view.block));
                variable.blocks.insert(view.block, own);
            }
        }
        result
    }
}

/// How an access was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    NonCoherent,
    Write,
    StrongRead,
    StrongWrite,
    /// Atomic or volatile within the block only.
    BlockRead,
    BlockWrite,
}

impl Kind {
    pub fn writes(self) -> bool {
        matches!(self, Kind::Write | Kind::StrongWrite | Kind::BlockWrite)
    }
    fn strong(self) -> bool {
        !matches!(self, Kind::Read | Kind::NonCoherent | Kind::Write)
    }
    fn block_only(self) -> bool {
        matches!(self, Kind::BlockRead | Kind::BlockWrite)
    }
}

/// One access of a warp to a range of one allocation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Entry {
    pub address: u64,
    pub bytes: u32,
    pub segment: u32,
    pub pc: u32,
    pub allocation: u32,
    pub kind: Kind,
}

#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub grid: usize,
    /// Number of the block in the whole list of grids.
    pub block: u32,
    pub warp: u8,
    pub clocks: Clocks,
    pub remote: Arc<Known>,
}

/// What one worker saw.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub entries: Vec<Entry>,
    pub segments: Vec<Segment>,
}

/// Two accesses that nothing orders: log and entry of each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Race {
    pub first: (usize, Entry),
    pub second: (usize, Entry),
    pub address: u64,
    pub non_coherent: bool,
}

fn before(a: &Segment, strong: bool, b: &Segment) -> bool {
    if b.remote.complete_below > a.grid {
        return true;
    }
    // what follows a fence by an atomic is known with the atomic
    let clock = a.clocks[a.warp as usize] - u32::from(strong);
    if a.block == b.block {
        return b.clocks[a.warp as usize] >= clock;
    }
    let known = b.remote.blocks.get(&a.block);
    known.is_some_and(|clocks| clocks[a.warp as usize] >= clock)
}

/// Finds an access of a grid to bytes that a transfer of another stream touches, one of the two a
/// write. Atomic and volatile accesses are left alone: flags are handed over that way.
pub(super) fn transfer_race(
    logs: &[Log],
    transfers: impl Fn(usize) -> Vec<Transfer>,
) -> Option<(usize, Entry, Transfer, u64)> {
    let mut of_grid: HashMap<usize, Vec<Transfer>> = HashMap::new();
    for (l, log) in logs.iter().enumerate() {
        for entry in log
            .entries
            .iter()
            .filter(|e| !e.kind.strong() || e.kind.block_only())
        {
            let grid = log.segments[entry.segment as usize].grid;
            let transfers = of_grid.entry(grid).or_insert_with(|| transfers(grid));
            let end = entry.address + u64::from(entry.bytes);
            for transfer in transfers.iter() {
                let start = entry.address.max(transfer.address);
                let meets = start < end.min(transfer.address + transfer.bytes);
                if meets && (transfer.writes || entry.kind.writes()) {
                    return Some((l, *entry, *transfer, start));
                }
            }
        }
    }
    None
}

/// Pages by which the log is sorted.
const PAGE: u64 = 128;

/// Finds accesses of different warps to the same bytes, at least one of them a write, that
/// nothing orders.
pub(super) fn races(logs: &[Log]) -> Option<Race> {
    // writes by allocation and page
    #[derive(Default)]
    struct Pages {
        first: u64,
        lists: Vec<Vec<(u32, u32)>>,
    }
    let mut ranges: HashMap<u32, (u64, u64)> = HashMap::new();
    for entry in logs.iter().flat_map(|log| &log.entries) {
        if entry.kind.writes() {
            let end = entry.address + u64::from(entry.bytes);
            let range = ranges
                .entry(entry.allocation)
                .or_insert((entry.address, end));
            *range = (range.0.min(entry.address), range.1.max(end));
        }
    }
    if ranges.is_empty() {
        return None;
    }
    let mut written: HashMap<u32, Pages> = HashMap::new();
    for (&allocation, &(start, end)) in &ranges {
        let first = start / PAGE;
        let lists = vec![Vec::new(); (end.div_ceil(PAGE) - first) as usize];
        written.insert(allocation, Pages { first, lists });
    }
    for (l, log) in logs.iter().enumerate() {
        for (e, entry) in log.entries.iter().enumerate() {
            if !entry.kind.writes() {
                continue;
            }
            let Some(pages) = written.get_mut(&entry.allocation) else {
                continue;
            };
            let last = entry.address + u64::from(entry.bytes) - 1;
            for page in entry.address / PAGE..=last / PAGE {
                pages.lists[(page - pages.first) as usize].push((l as u32, e as u32));
            }
        }
    }
    for (l, log) in logs.iter().enumerate() {
        for entry in &log.entries {
            let Some(pages) = written.get(&entry.allocation) else {
                continue;
            };
            let end = entry.address + u64::from(entry.bytes);
            let segment = &log.segments[entry.segment as usize];
            for page in entry.address / PAGE..=(end - 1) / PAGE {
                let Some(list) = page
                    .checked_sub(pages.first)
                    .and_then(|i| pages.lists.get(i as usize))
                else {
                    continue;
                };
                for &(m, e) in list {
                    let other_log = &logs[m as usize];
                    let other = &other_log.entries[e as usize];
                    let other_end = other.address + u64::from(other.bytes);
                    let start = entry.address.max(other.address);
                    if start >= end.min(other_end) {
                        continue;
                    }
                    let other_segment = &other_log.segments[other.segment as usize];
                    let same_warp =
                        segment.block == other_segment.block && segment.warp == other_segment.warp;
                    let non_coherent = entry.kind == Kind::NonCoherent
                        && segment.remote.complete_below <= other_segment.grid
                        && segment.grid >= other_segment.grid;
                    if !non_coherent {
                        if same_warp {
                            continue;
                        }
                        if entry.kind.strong() && other.kind.strong() {
                            let apart = segment.block != other_segment.block;
                            let narrow = entry.kind.block_only() || other.kind.block_only();
                            if !(apart && narrow) {
                                continue;
                            }
                        }
                        if before(segment, entry.kind.strong(), other_segment)
                            || before(other_segment, other.kind.strong(), segment)
                        {
                            continue;
                        }
                    }
                    return Some(Race {
                        first: (m as usize, *other),
                        second: (l, *entry),
                        address: start,
                        non_coherent,
                    });
                }
            }
        }
    }
    None
}
