//! What happens before what: vector clocks of warps, carried by barriers, fences with atomics, and
//! waits for a predecessor. [`super::races`] checks the log of global accesses against them.
//!
//! A warp's clock advances whenever it may have published what it did. What it did at one value of
//! its clock is a segment. An access is ordered before another if the warp of the other knew that
//! clock at the time.

use super::known::{Clocks, Known, WARPS, merge_clocks};
use super::ops::{Order, Scope};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

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
        known.add(self.block, &self.clocks);
        Arc::new(known)
    }

    /// The next segment begins.
    pub fn advance(&mut self) {
        self.clocks[self.warp] += 1;
        self.segment = u32::MAX;
    }

    fn learn(&mut self, known: &Known) {
        if let Some(own) = known.block(self.block) {
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

    /// Learns that grids are complete.
    pub fn complete(&mut self, grids: &Range<usize>) {
        if !self.remote.covers_grids(grids) {
            Arc::make_mut(&mut self.remote).complete(grids);
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

/// A place in the order of the values of a location, of which atomics make a chain: the upper half
/// counts plain stores, each of which begins a new chain, the lower half the atomics of the chain.
/// 0 is what was there at the start.
pub(super) type Turn = u64;

/// Whether an access that saw the value of turn `seen` saw what the write of turn `left` left, or
/// what atomics made of it.
pub(super) fn comes_from(seen: Turn, left: Turn) -> bool {
    seen >= left && seen >> 32 == left >> 32
}

/// What an access by atomic or volatile instructions met at its location.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Met {
    /// The value that was there.
    pub seen: Turn,
    /// The value that it left; 0 for a read.
    pub left: Turn,
}

/// What writes to a location published, and how many there were.
#[derive(Debug, Default)]
struct Variable {
    device: Option<Arc<Known>>,
    blocks: HashMap<u32, Arc<Known>>,
    turn: Turn,
}

const SHARDS: usize = 64;

/// Locations by which warps synchronise. Locks of a shard make value and knowledge change as one.
#[derive(Debug)]
pub(super) struct Locations {
    shards: Vec<Mutex<HashMap<u64, Variable>>>,
    /// Whether anything was written here yet: until then there is nothing to look up.
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
    /// there if `reads`, publishes if `writes`. A read may be done twice.
    pub fn access<R>(
        &self,
        address: u64,
        view: &mut View,
        order: Order,
        scope: Scope,
        kind: (bool, bool),
        mut f: impl FnMut() -> R,
    ) -> (R, Met) {
        let (reads, writes) = kind;
        let published = if writes {
            view.release(order, scope)
        } else {
            None
        };
        if writes {
            if !self.any.load(Ordering::SeqCst) {
                self.any.store(true, Ordering::SeqCst);
            }
        } else {
            let result = f();
            if !self.any.load(Ordering::SeqCst) {
                // whoever writes says so before: this value is the first one
                return (result, Met::default());
            }
        }
        let mut shard = self.shard(address);
        let result = f();
        let mut met = Met::default();
        if reads && let Some(variable) = shard.get(&address) {
            met.seen = variable.turn;
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
            if reads {
                variable.turn += 1;
            } else {
                // a plain store ends what earlier writes had published here
                *variable = Variable {
                    turn: ((variable.turn >> 32) + 1) << 32,
                    ..Variable::default()
                };
            }
            met.left = variable.turn;
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
        (result, met)
    }
}
