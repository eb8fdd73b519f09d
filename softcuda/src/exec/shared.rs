//! Shared memory of a block: bytes, which of them were written, which are still being copied, and
//! which warps touched them since they last met.

use super::decode::SHARED_START;
use super::known::{Clocks, WARPS};
use super::order::{Met, comes_from};

/// Bytes of a page of the trackers.
const PAGE: u32 = 1024;
const WORDS: usize = PAGE as usize / 64;

/// Bytes of one page that one warp touched in one segment.
#[derive(Debug, Clone)]
struct Page {
    read: [u64; WORDS],
    write: [u64; WORDS],
    /// Written by atomics and volatile stores.
    atomic: [u64; WORDS],
    /// Read by volatile loads.
    look: [u64; WORDS],
    read_pc: u32,
    write_pc: u32,
    atomic_pc: u32,
    look_pc: u32,
}

impl Default for Page {
    fn default() -> Page {
        Page {
            read: [0; WORDS],
            write: [0; WORDS],
            atomic: [0; WORDS],
            look: [0; WORDS],
            read_pc: u32::MAX,
            write_pc: u32::MAX,
            atomic_pc: u32::MAX,
            look_pc: u32::MAX,
        }
    }
}

/// What one warp touched since its clock last advanced.
#[derive(Debug, Default)]
struct Tracker {
    pages: Vec<Option<Box<Page>>>,
    touched: Vec<u16>,
}

#[derive(Debug)]
struct Closed {
    warp: usize,
    clocks: Clocks,
    pages: Vec<(u16, Box<Page>)>,
}

/// What an atomic or volatile access met. It is the first access of its segment.
#[derive(Debug)]
struct Observation {
    address: u32,
    bytes: u32,
    warp: usize,
    clock: u32,
    met: Met,
}

impl Observation {
    fn holds(&self, address: u32) -> bool {
        (self.address..self.address + self.bytes).contains(&address)
    }
}

/// How memory is touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Touch {
    /// A plain read.
    Read,
    /// A plain write.
    Write,
    /// An atomic or a volatile store.
    Atomic,
    /// A volatile load.
    Look,
}

impl Page {
    /// Whether something is written at `bit` of `word`, and by which instruction it is touched.
    fn at(&self, word: usize, bit: u64) -> (bool, u32) {
        if self.write[word] & bit != 0 {
            (true, self.write_pc)
        } else if self.atomic[word] & bit != 0 {
            (true, self.atomic_pc)
        } else if self.read[word] & bit != 0 {
            (false, self.read_pc)
        } else {
            (false, self.look_pc)
        }
    }
}

/// Two warps at the same byte without a barrier between them.
#[derive(Debug)]
pub(super) struct SharedRace {
    pub address: u32,
    pub other: usize,
    /// Instructions: of the warp that is checked, and of the other one.
    pub pc: u32,
    pub other_pc: u32,
    pub writes: (bool, bool),
}

#[derive(Debug, Default)]
pub(super) struct Shared {
    pub data: Vec<u8>,
    init: Vec<u64>,
    pending: Vec<u64>,
    pending_bytes: u32,
    trackers: Vec<Tracker>,
    closed: Vec<Closed>,
    observations: Vec<Observation>,
    // pages go back to trackers as they are
    #[allow(clippy::vec_box)]
    spare: Vec<Box<Page>>,
    /// Clocks that mbarriers carry.
    pub mbarriers: std::collections::HashMap<u32, Clocks>,
}

/// What is wrong with a range.
#[derive(Debug, PartialEq)]
pub(super) enum Wrong {
    Bounds,
    Uninitialised(u32),
    Pending(u32),
}

#[inline(always)]
fn bits(words: &[u64], at: u32, len: u32, want: bool) -> Option<u32> {
    if at % 64 + len <= 64 {
        // within a word, as most accesses are
        let mask = ones(len) << (at % 64);
        let found = words[(at / 64) as usize] ^ if want { 0 } else { u64::MAX };
        let found = found & mask;
        return (found != 0).then(|| at / 64 * 64 + found.trailing_zeros());
    }
    let end = at + len;
    let mut at = at;
    while at < end {
        let (word, low) = ((at / 64) as usize, at % 64);
        let take = (64 - low).min(end - at);
        let mask = ones(take) << low;
        let found = if want { words[word] } else { !words[word] } & mask;
        if found != 0 {
            return Some(at - low + found.trailing_zeros());
        }
        at += take;
    }
    None
}

#[inline(always)]
fn set(words: &mut [u64], at: u32, len: u32, on: bool) {
    if at % 64 + len <= 64 {
        let mask = ones(len) << (at % 64);
        let word = &mut words[(at / 64) as usize];
        *word = if on { *word | mask } else { *word & !mask };
        return;
    }
    let end = at + len;
    let mut at = at;
    while at < end {
        let (word, low) = ((at / 64) as usize, at % 64);
        let take = (64 - low).min(end - at);
        let mask = ones(take) << low;
        if on {
            words[word] |= mask;
        } else {
            words[word] &= !mask;
        }
        at += take;
    }
}

#[inline(always)]
fn ones(count: u32) -> u64 {
    if count >= 64 {
        u64::MAX
    } else {
        (1 << count) - 1
    }
}

impl Shared {
    /// Makes it that of a new block. `end` is the first address behind it.
    pub fn reset(&mut self, end: u32, warps: usize) {
        let words = (end as usize).div_ceil(64);
        self.data.resize(end as usize, 0);
        self.init.clear();
        self.init.resize(words, 0);
        self.pending.clear();
        self.pending.resize(words, 0);
        self.pending_bytes = 0;
        let pages = (end as usize).div_ceil(PAGE as usize);
        self.trackers.resize_with(warps, Tracker::default);
        for tracker in &mut self.trackers {
            tracker.pages.resize_with(pages, || None);
        }
        self.mbarriers.clear();
    }

    fn end(&self) -> u32 {
        self.data.len() as u32
    }

    /// Whether a range lies in the memory of the block.
    pub fn holds(&self, at: u64, len: u32) -> bool {
        self.inside(at, len).is_ok()
    }

    #[inline(always)]
    fn inside(&self, at: u64, len: u32) -> Result<u32, Wrong> {
        if at < u64::from(SHARED_START) || at + u64::from(len) > u64::from(self.end()) {
            return Err(Wrong::Bounds);
        }
        Ok(at as u32)
    }

    /// Checks a read of a range and remembers it.
    #[inline(always)]
    pub fn read(&mut self, warp: usize, at: u64, len: u32, pc: u32) -> Result<usize, Wrong> {
        let at = self.inside(at, len)?;
        if let Some(hole) = bits(&self.init, at, len, false) {
            return Err(Wrong::Uninitialised(hole));
        }
        if self.pending_bytes != 0
            && let Some(byte) = bits(&self.pending, at, len, true)
        {
            return Err(Wrong::Pending(byte));
        }
        self.touch(warp, at, len, pc, Touch::Read);
        Ok(at as usize)
    }

    /// Checks a write of a range and remembers it.
    #[inline(always)]
    pub fn write(&mut self, warp: usize, at: u64, len: u32, pc: u32) -> Result<usize, Wrong> {
        let at = self.inside(at, len)?;
        if self.pending_bytes != 0
            && let Some(byte) = bits(&self.pending, at, len, true)
        {
            return Err(Wrong::Pending(byte));
        }
        set(&mut self.init, at, len, true);
        self.touch(warp, at, len, pc, Touch::Write);
        Ok(at as usize)
    }

    /// Checks an atomic or volatile access; such ones do not race with each other. `reads`:
    /// whether it needs what is there.
    pub fn atomic(
        &mut self,
        warp: usize,
        at: u64,
        len: u32,
        pc: u32,
        (kind, reads): (Touch, bool),
    ) -> Result<usize, Wrong> {
        let at = self.inside(at, len)?;
        if !reads {
            set(&mut self.init, at, len, true);
        } else if let Some(hole) = bits(&self.init, at, len, false) {
            return Err(Wrong::Uninitialised(hole));
        }
        if self.pending_bytes != 0
            && let Some(byte) = bits(&self.pending, at, len, true)
        {
            return Err(Wrong::Pending(byte));
        }
        self.touch(warp, at, len, pc, kind);
        Ok(at as usize)
    }

    /// Notes what an atomic or volatile access meets, with the clock of its segment.
    pub fn observe(&mut self, warp: usize, clock: u32, at: u64, bytes: u32, met: Met) {
        // there is no such address elsewhere: the access itself will fail
        let Ok(address) = self.inside(at, bytes) else {
            return;
        };
        if (met.seen, met.left) == (0, 0) {
            return;
        }
        // polling leaves its first note; lanes at one address leave one
        let last = self.observations.iter_mut().rev().take(64);
        for old in last.filter(|o| (o.warp, o.address, o.bytes) == (warp, address, bytes)) {
            if (old.met.left, met.left, old.met.seen) == (0, 0, met.seen) {
                return;
            }
            if old.clock == clock {
                old.met = met;
                return;
            }
        }
        self.observations.push(Observation {
            address,
            bytes,
            warp,
            clock,
            met,
        });
    }

    /// Whether a byte that was written by an atomic or volatile store of a warp's segment was seen
    /// by an access that comes before a segment that knows `clocks`: as in global memory,
    /// that orders the write before what the segment does.
    fn seen(&self, address: u32, (warp, clock): (usize, u32), clocks: &Clocks) -> bool {
        let here = || self.observations.iter().filter(|o| o.holds(address));
        let own = here().filter(|o| (o.warp, o.clock) == (warp, clock));
        let Some(left) = own.map(|o| o.met.left).max().filter(|&left| left != 0) else {
            return false;
        };
        here().any(|o| comes_from(o.met.seen, left) && o.clock <= clocks[o.warp])
    }

    /// The target of a copy that goes on behind the thread's back.
    pub fn begin_copy(&mut self, warp: usize, at: u64, len: u32, pc: u32) -> Result<usize, Wrong> {
        let place = self.write(warp, at, len, pc)?;
        set(&mut self.pending, place as u32, len, true);
        self.pending_bytes += len;
        Ok(place)
    }

    /// The copy was waited for: from now on it counts as a write of the warp.
    pub fn end_copy(&mut self, warp: usize, at: u32, len: u32, pc: u32) {
        set(&mut self.pending, at, len, false);
        self.pending_bytes -= len;
        self.touch(warp, at, len, pc, Touch::Write);
    }

    #[inline(always)]
    fn touch(&mut self, warp: usize, at: u32, len: u32, pc: u32, kind: Touch) {
        let tracker = &mut self.trackers[warp];
        let end = at + len;
        let mut at = at;
        while at < end {
            let number = at / PAGE;
            let low = at % PAGE;
            let take = (PAGE - low).min(end - at);
            let place = &mut tracker.pages[number as usize];
            let page = match place {
                Some(page) => page,
                None => {
                    tracker.touched.push(number as u16);
                    place.insert(self.spare.pop().unwrap_or_default())
                }
            };
            match kind {
                Touch::Read => {
                    set(&mut page.read, low, take, true);
                    page.read_pc = pc;
                }
                Touch::Write => {
                    set(&mut page.write, low, take, true);
                    page.write_pc = pc;
                }
                Touch::Atomic => {
                    set(&mut page.atomic, low, take, true);
                    page.atomic_pc = pc;
                }
                Touch::Look => {
                    set(&mut page.look, low, take, true);
                    page.look_pc = pc;
                }
            }
            at += take;
        }
    }

    /// The warp's clock is about to advance, or its knowledge to grow: checks what it touched
    /// against what others touched that it knows nothing of.
    pub fn close(&mut self, warp: usize, clocks: &Clocks) -> Result<(), SharedRace> {
        let tracker = &mut self.trackers[warp];
        if tracker.touched.is_empty() {
            return Ok(());
        }
        let mut pages = Vec::with_capacity(tracker.touched.len());
        for number in tracker.touched.drain(..) {
            if let Some(page) = tracker.pages[number as usize].take() {
                pages.push((number, page));
            }
        }
        pages.sort_unstable_by_key(|(number, _)| *number);
        for other in &self.closed {
            let clock = other.clocks[other.warp];
            if other.warp == warp || clock <= clocks[other.warp] {
                continue;
            }
            let mut mine = pages.iter().peekable();
            for (number, theirs) in &other.pages {
                while mine.peek().is_some_and(|(n, _)| n < number) {
                    mine.next();
                }
                let Some((_, page)) = mine.peek().filter(|(n, _)| n == number) else {
                    continue;
                };
                let writes = |p: &Page| p.write_pc != u32::MAX || p.atomic_pc != u32::MAX;
                if !writes(page) && !writes(theirs) {
                    continue;
                }
                for word in 0..WORDS {
                    let (r, w) = (page.read[word], page.write[word]);
                    let (or, ow) = (theirs.read[word], theirs.write[word]);
                    let plain = w & (or | ow | theirs.look[word]) | (r | page.look[word]) & ow;
                    // orders of what was seen: theirs before mine, mine before theirs
                    let after = (r | w) & theirs.atomic[word];
                    let ahead = page.atomic[word] & (or | ow);
                    let mut clash = plain | after | ahead;
                    while clash != 0 {
                        let bit = clash & clash.wrapping_neg();
                        clash ^= bit;
                        let byte = u32::from(*number) * PAGE + word as u32 * 64;
                        let address = byte + bit.trailing_zeros();
                        let (me, they) = ((warp, clocks[warp]), (other.warp, clock));
                        if plain & bit == 0
                            && (after & bit == 0 || self.seen(address, they, clocks))
                            && (ahead & bit == 0 || self.seen(address, me, &other.clocks))
                        {
                            continue;
                        }
                        let (write, pc) = page.at(word, bit);
                        let (other_write, other_pc) = theirs.at(word, bit);
                        return Err(SharedRace {
                            address,
                            other: other.warp,
                            pc,
                            other_pc,
                            writes: (write, other_write),
                        });
                    }
                }
            }
        }
        self.closed.push(Closed {
            warp,
            clocks: *clocks,
            pages,
        });
        Ok(())
    }

    /// Forgets what every warp knows of. `least` is the least clock of each warp that any warp
    /// still running knows.
    pub fn forget(&mut self, least: &Clocks) {
        let spare = &mut self.spare;
        self.closed.retain_mut(|closed| {
            let keep = closed.clocks[closed.warp] > least[closed.warp];
            if !keep {
                for (_, mut page) in closed.pages.drain(..) {
                    *page = Page::default();
                    spare.push(page);
                }
            }
            keep
        });
        if self.closed.is_empty() {
            // what is not closed yet may still be looked for
            self.observations.retain(|o| o.clock > least[o.warp]);
        }
    }

    /// Nothing is left of the block.
    pub fn clear(&mut self) {
        self.forget(&[u32::MAX; WARPS]);
    }
}
