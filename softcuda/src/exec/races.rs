//! The log of global accesses, and what is unordered in it by the clocks of [`super::order`].
//!
//! Beside what synchronisation orders, the memory model of PTX orders a write before whatever
//! follows an access that saw its value, or what atomics made of that value ("causality order": an
//! observation, then base causality). That is how the last block to count itself in may set the
//! counter back with a plain store, though no fence orders the atomics of the others before it.

use super::Transfer;
use super::known::{Clocks, Known};
use super::order::{Met, comes_from};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

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
    /// Instructions of the warp until then, of the first of several that are alike.
    pub step: u32,
    pub kind: Kind,
}

impl Entry {
    /// Whether the two differ in nothing but their steps.
    #[inline(always)]
    pub fn repeats(&self, first: &Entry) -> bool {
        *self
            == Entry {
                step: self.step,
                ..*first
            }
    }
}

/// What an atomic or volatile access met at a location.
#[derive(Debug, Clone, Copy)]
pub(super) struct Observation {
    pub address: u64,
    pub bytes: u32,
    pub segment: u32,
    pub step: u32,
    /// It changed nothing, as one that polls.
    pub idle: bool,
    pub met: Met,
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
    observations: Vec<Observation>,
    /// Where the last observation of some locations and segments is.
    recent: Vec<u32>,
}

impl Log {
    /// Notes what an access met. Polling leaves one note, not one for each turn.
    pub fn observe(&mut self, observation: Observation) {
        const RECENT: usize = 64;
        self.recent.resize(RECENT, u32::MAX);
        let Observation {
            address, segment, ..
        } = observation;
        let slot = (address / 4 ^ u64::from(segment).wrapping_mul(0x9e37)) as usize % RECENT;
        let old = self.observations.get_mut(self.recent[slot] as usize);
        if let Some(old) = old
            && (old.address, old.segment) == (address, segment)
            && (old.idle && observation.idle)
        {
            let read = (old.met.left, observation.met.left) == (0, 0);
            if !read && comes_from(observation.met.seen, old.met.left) {
                // an atomic that changed nothing took its turn all the same
                *old = observation;
                return;
            }
            if read && old.met.seen == observation.met.seen {
                return;
            }
        }
        self.recent[slot] = self.observations.len() as u32;
        self.observations.push(observation);
    }
}

/// Two accesses that nothing orders: log and entry of each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Race {
    pub first: (usize, Entry),
    pub second: (usize, Entry),
    pub address: u64,
    pub non_coherent: bool,
}

/// Base causality. An atomic behind a fence is not what the fence publishes: it is ordered by those
/// who see its value, as [`Observed`] finds.
fn before(a: &Segment, b: &Segment) -> bool {
    if b.remote.is_complete(a.grid) {
        return true;
    }
    let clock = a.clocks[a.warp as usize];
    if a.block == b.block {
        return b.clocks[a.warp as usize] >= clock;
    }
    let known = b.remote.block(a.block);
    known.is_some_and(|clocks| clocks[a.warp as usize] >= clock)
}

/// Observations of all logs, by their locations, those of the latest values first.
struct Observed<'a> {
    logs: &'a [Log],
    by_address: BTreeMap<u64, Vec<(usize, &'a Observation)>>,
    /// The last that changed a location, by location, log and segment.
    last: HashMap<(u64, usize, u32), &'a Observation>,
}

impl Observed<'_> {
    fn new(logs: &[Log]) -> Observed<'_> {
        let mut by_address: BTreeMap<u64, Vec<_>> = BTreeMap::new();
        let mut last: HashMap<_, &Observation> = HashMap::new();
        for (l, log) in logs.iter().enumerate() {
            for observation in &log.observations {
                let list = by_address.entry(observation.address).or_default();
                list.push((l, observation));
                if observation.met.left != 0 {
                    last.entry((observation.address, l, observation.segment))
                        .and_modify(|last| {
                            if observation.met.left >= last.met.left {
                                *last = observation;
                            }
                        })
                        .or_insert(observation);
                }
            }
        }
        for list in by_address.values_mut() {
            list.sort_by_key(|(_, o)| std::cmp::Reverse(o.met.seen));
        }
        Observed {
            logs,
            by_address,
            last,
        }
    }

    /// Whether all bytes that both touch of what `write` wrote by atomics or volatile stores were
    /// seen by accesses that come before `other`.
    fn before(&self, write: (usize, &Entry), other: (usize, &Entry)) -> bool {
        let start = write.1.address.max(other.1.address);
        let end = (write.1.address + u64::from(write.1.bytes))
            .min(other.1.address + u64::from(other.1.bytes));
        let mut at = start;
        // a location is of at most 32 bytes
        for (&address, list) in self.by_address.range(start.saturating_sub(31)..end) {
            let Some(last) = self.last.get(&(address, write.0, write.1.segment)) else {
                continue;
            };
            // who saw the latest value usually comes before what relies on it: one look does
            let mut later = list.iter().take_while(|o| o.1.met.seen >= last.met.left);
            let seen = later.any(|&(log, o)| {
                comes_from(o.met.seen, last.met.left) && self.precedes((log, o), other)
            });
            if address > at || !seen {
                return false;
            }
            at = at.max(address + u64::from(last.bytes));
        }
        at >= end
    }

    /// Whether an access comes before another by base causality.
    fn precedes(
        &self,
        (log, o): (usize, &Observation),
        (other_log, entry): (usize, &Entry),
    ) -> bool {
        let a = &self.logs[log].segments[o.segment as usize];
        let b = &self.logs[other_log].segments[entry.segment as usize];
        if (a.block, a.warp) == (b.block, b.warp) {
            o.step < entry.step
        } else {
            before(a, b)
        }
    }
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

/// A write to a page: where it is found, and what tells most others apart without looking there.
#[derive(Clone, Copy)]
struct Written {
    grid: u32,
    /// Grids that are known to be complete at this write, or at one of those behind it in the list.
    complete_below: u32,
    log: u32,
    entry: u32,
    block: u32,
    warp: u8,
    /// First byte within the page, and the one behind the last.
    start: u8,
    end: u8,
}

/// The part of an access that lies in a page.
fn within(entry: &Entry, page: u64) -> (u8, u8) {
    let end = entry.address + u64::from(entry.bytes);
    let start = entry.address.saturating_sub(page * PAGE);
    (start as u8, (end - page * PAGE).min(PAGE) as u8)
}

/// The pages of an access.
fn pages(entry: &Entry) -> std::ops::RangeInclusive<u64> {
    let last = entry.address + u64::from(entry.bytes) - 1;
    entry.address / PAGE..=last / PAGE
}

impl Written {
    fn in_order(list: &mut [Written]) {
        list.sort_by_key(|w| w.grid);
        let mut least = u32::MAX;
        for w in list.iter_mut().rev() {
            least = least.min(w.complete_below);
            w.complete_below = least;
        }
    }

    /// Those that the completion of grids does not order with a segment: in a long chain of launches
    /// that wait for each other they are few.
    fn unordered<'a>(
        list: &'a [Written],
        segment: &Segment,
    ) -> impl Iterator<Item = &'a Written> + use<'a> {
        let grid = segment.grid as u32;
        let known = segment.remote.complete_below as u32;
        let first = list.partition_point(|w| w.grid < known);
        list[first..]
            .iter()
            .take_while(move |w| w.grid <= grid || w.complete_below <= grid)
    }
}

/// Finds accesses of different warps to the same bytes, at least one of them a write, that
/// nothing orders.
pub(super) fn races(logs: &[Log]) -> Option<Race> {
    // writes by allocation and page, in the order of their grids; apart from the others those that are
    // strong for the whole device, which race with no access of their own kind: many may meet at one
    // counter
    #[derive(Default)]
    struct Pages {
        first: u64,
        lists: Vec<[Vec<Written>; 2]>,
    }
    let wide = |kind: Kind| kind.strong() && !kind.block_only();
    let mut ranges: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
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
    let mut written: BTreeMap<u32, Pages> = BTreeMap::new();
    for (&allocation, &(start, end)) in &ranges {
        let first = start / PAGE;
        let lists = vec![Default::default(); (end.div_ceil(PAGE) - first) as usize];
        written.insert(allocation, Pages { first, lists });
    }
    for (l, log) in logs.iter().enumerate() {
        for (e, entry) in log.entries.iter().enumerate() {
            if !entry.kind.writes() {
                continue;
            }
            let Some(of_allocation) = written.get_mut(&entry.allocation) else {
                continue;
            };
            let segment = &log.segments[entry.segment as usize];
            for page in pages(entry) {
                let (start, end) = within(entry, page);
                let lists = &mut of_allocation.lists[(page - of_allocation.first) as usize];
                lists[usize::from(wide(entry.kind))].push(Written {
                    grid: segment.grid as u32,
                    complete_below: segment.remote.complete_below as u32,
                    log: l as u32,
                    entry: e as u32,
                    block: segment.block,
                    warp: segment.warp,
                    start,
                    end,
                });
            }
        }
    }
    for list in written.values_mut().flat_map(|pages| &mut pages.lists) {
        list.iter_mut().for_each(|list| Written::in_order(list));
    }
    let mut observed = None;
    for (l, log) in logs.iter().enumerate() {
        for entry in &log.entries {
            let Some(of_allocation) = written.get(&entry.allocation) else {
                continue;
            };
            let segment = &log.segments[entry.segment as usize];
            for page in pages(entry) {
                let Some([others, strong]) = page
                    .checked_sub(of_allocation.first)
                    .and_then(|i| of_allocation.lists.get(i as usize))
                else {
                    continue;
                };
                let (start, end) = within(entry, page);
                let strong = if wide(entry.kind) { &[] } else { &strong[..] };
                let met = [others, strong].map(|list| Written::unordered(list, segment));
                for written in met.into_iter().flatten() {
                    if start.max(written.start) >= end.min(written.end) {
                        continue;
                    }
                    let same_warp = segment.block == written.block && segment.warp == written.warp;
                    let non_coherent = entry.kind == Kind::NonCoherent
                        && !segment.remote.is_complete(written.grid as usize)
                        && segment.grid >= written.grid as usize;
                    if same_warp && !non_coherent {
                        continue;
                    }
                    let m = written.log as usize;
                    let other = &logs[m].entries[written.entry as usize];
                    if !non_coherent {
                        let other_segment = &logs[m].segments[other.segment as usize];
                        if entry.kind.strong() && other.kind.strong() {
                            let apart = segment.block != other_segment.block;
                            let narrow = entry.kind.block_only() || other.kind.block_only();
                            if !(apart && narrow) {
                                continue;
                            }
                        }
                        if before(segment, other_segment) || before(other_segment, segment) {
                            continue;
                        }
                        // the list is of writes: one of the two is a strong one, or none
                        let (entry, other) = ((l, entry), (m, other));
                        let observed = observed.get_or_insert_with(|| Observed::new(logs));
                        let strong = |e: &Entry| e.kind.strong() && e.kind.writes();
                        if strong(entry.1) && observed.before(entry, other)
                            || strong(other.1) && observed.before(other, entry)
                        {
                            continue;
                        }
                    }
                    return Some(Race {
                        first: (m, *other),
                        second: (l, *entry),
                        address: entry.address.max(other.address),
                        non_coherent,
                    });
                }
            }
        }
    }
    None
}
