//! Global memory: allocations, counts, the log, loads and stores.

use super::access::uninitialised;
use super::elements::*;
use super::lanes::LANES;
use super::machine::{Block, Context, close};
use super::ops::*;
use super::order::Met;
use super::races::{Entry, Kind, Observation, Segment};
use super::ranges::*;
use super::warp::{Fault, Warp};
use super::{Rule, code};
use crate::memory::Allocation;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

type Result<T, E = Box<Fault>> = std::result::Result<T, E>;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Read,
    Write,
    Atomic,
}

/// Finds the allocation of the lanes of `mask`; those in another one are left over. Checks bounds
/// and alignment.
#[inline(always)]
pub(super) fn find<'a>(
    cx: &mut Context<'a>,
    warp: &mut Warp,
    address: &Addresses,
    mask: u32,
    bytes: u64,
) -> Result<(usize, &'a Arc<Allocation>, u32, Ranges)> {
    let shape = shape(address, mask, bytes);
    let first = mask.trailing_zeros();
    let run = cx.run;
    let table = run.table.all();
    let start = address[first as usize];
    let holds = |i: usize| {
        table
            .get(i)
            .is_some_and(|a| start >= a.base() && start - a.base() < a.len())
    };
    let index = if holds(warp.last_allocation) {
        warp.last_allocation
    } else {
        match cx.run.table.find(start) {
            Some(index) => index,
            None => return Err(outside(cx, start, first, bytes)),
        }
    };
    warp.last_allocation = index;
    let allocation = &table[index];
    let (base, end) = (allocation.base(), allocation.base() + allocation.len());
    let (place, size) = (start.wrapping_sub(base), end - base);
    let touched = match shape {
        Shape::Row => 32 * bytes,
        Shape::Point => bytes,
        Shape::Other => u64::MAX,
    };
    if start & (bytes - 1) == 0 && place.saturating_add(touched) <= size {
        return Ok((
            index,
            allocation,
            mask,
            Ranges::of(cx.ranges, shape, address, mask, bytes),
        ));
    }
    // vector code over all lanes; lanes that do not take part must not be wrong
    let mut wrong = 0u64;
    for i in 0..LANES {
        let a = address[i];
        let out = u64::from(a < base) | u64::from(a.wrapping_add(bytes) > end);
        let odd = u64::from(a & (bytes - 1) != 0);
        wrong |= (out | odd << 32) & u64::from(mask >> i & 1).wrapping_neg();
    }
    if wrong == 0 {
        return Ok((
            index,
            allocation,
            mask,
            Ranges::of(cx.ranges, shape, address, mask, bytes),
        ));
    }
    let mut same = 0;
    for lane in lanes(mask) {
        let a = address[lane];
        if a & (bytes - 1) != 0 {
            return Err(Fault::new(
                Rule::Misaligned,
                code::MISALIGNED_ADDRESS,
                lane as u32,
                format!("an access of {bytes} bytes at an address that is no multiple of it"),
            )
            .at(a));
        }
        if a >= base && a < end {
            if a + bytes > end {
                return Err(outside(cx, a, lane as u32, bytes));
            }
            same |= 1 << lane;
        }
    }
    let ranges = Ranges::of(cx.ranges, Shape::Other, address, same, bytes);
    Ok((index, allocation, same, ranges))
}

#[cold]
pub(super) fn outside(cx: &Context<'_>, address: u64, lane: u32, bytes: u64) -> Box<Fault> {
    let hint = cx.run.memory.explain(address);
    Fault::new(
        Rule::OutOfBounds,
        code::ILLEGAL_ADDRESS,
        lane,
        format!("{bytes} bytes at {address:#x} are in no allocation{hint}"),
    )
    .at(address)
}

/// Counts an access and notes it in the log.
#[inline(always)]
pub(super) fn note(
    cx: &mut Context<'_>,
    warp: &mut Warp,
    index: usize,
    ranges: &Ranges,
    requested: u64,
    what: What,
    kind: Kind,
) {
    let allocation = &cx.run.table.all()[index];
    let traffic = &mut cx.counts.traffic[index];
    match what {
        What::Read => traffic.bytes_read += requested,
        What::Write => traffic.bytes_written += requested,
        What::Atomic => traffic.bytes_atomic += requested,
    }
    let base = allocation.base();
    let bits = cx.grid.touched[index].get_or_init(|| {
        let words = allocation.len().div_ceil(32 * 64) as usize;
        bytemuck::zeroed_slice_box::<AtomicU64>(words)
    });
    if let [(start, end, _)] = ranges.all() {
        // addresses of allocations are multiples of 256, so sectors do not straddle them
        let (first, last) = ((start - base) / 32, (end - 1 - base) / 32);
        traffic.sectors += last - first + 1;
        touch(bits, first, last);
    } else {
        let mut sectors = [0u64; 4 * LANES];
        let mut count = 0;
        for &(start, end, _) in ranges.all() {
            let (first, last) = ((start - base) / 32, (end - 1 - base) / 32);
            touch(bits, first, last);
            for sector in first..=last {
                if count > 0 && sectors[count - 1] == sector {
                    continue;
                }
                if count < sectors.len() {
                    sectors[count] = sector;
                    count += 1;
                }
            }
        }
        let sectors = &mut sectors[..count];
        if !sectors.is_sorted() {
            sectors.sort_unstable();
        }
        let repeated = sectors.windows(2).filter(|w| w[0] == w[1]).count();
        traffic.sectors += (count - repeated) as u64;
    }
    if warp.view.segment == u32::MAX {
        warp.view.segment = cx.log.segments.len() as u32;
        cx.log.segments.push(Segment {
            grid: cx.grid.index,
            block: warp.view.block,
            warp: warp.index as u8,
            clocks: warp.view.clocks,
            remote: warp.view.remote.clone(),
        });
    }
    for &(start, end, _) in ranges.all() {
        let entry = Entry {
            address: start,
            bytes: (end - start) as u32,
            segment: warp.view.segment,
            pc: cx.pc,
            allocation: index as u32,
            step: warp.instructions as u32,
            kind,
        };
        // what a loop repeats is noted once
        let slot = (start / 4 ^ u64::from(cx.pc)) as usize % cx.recent.len();
        let same = cx
            .log
            .entries
            .get(cx.recent[slot] as usize)
            .is_some_and(|old| entry.repeats(old));
        if !same {
            cx.recent[slot] = cx.log.entries.len() as u32;
            cx.log.entries.push(entry);
        }
    }
}

#[inline(always)]
fn touch(bits: &[AtomicU64], first: u64, last: u64) {
    let mut at = first;
    while at <= last {
        let (word, low) = ((at / 64) as usize, at % 64);
        let take = (64 - low).min(last + 1 - at);
        let mask = if take == 64 {
            u64::MAX
        } else {
            ((1 << take) - 1) << low
        };
        if bits[word].load(Ordering::Relaxed) & mask != mask {
            bits[word].fetch_or(mask, Ordering::Relaxed);
        }
        at += take;
    }
}

/// Notes what an atomic or volatile access to bytes at an address met.
#[inline(always)]
pub(super) fn observe(
    cx: &mut Context<'_>,
    warp: &Warp,
    (address, bytes): (u64, u64),
    segment: u32,
    met: Met,
    idle: bool,
) {
    if (met.seen, met.left) != (0, 0) {
        cx.log.observe(Observation {
            address,
            bytes: bytes as u32,
            segment,
            step: warp.instructions as u32,
            idle,
            met,
        });
    }
}

pub(super) fn kind_of(order: Order, scope: Scope, write: bool) -> Kind {
    match (order, scope, write) {
        (Order::Weak, _, false) => Kind::Read,
        (Order::Weak, _, true) => Kind::Write,
        (_, Scope::Device, false) => Kind::StrongRead,
        (_, Scope::Device, true) => Kind::StrongWrite,
        (_, Scope::Block, false) => Kind::BlockRead,
        (_, Scope::Block, true) => Kind::BlockWrite,
    }
}

#[inline(always)]
pub(super) fn check_initialised(
    allocation: &Allocation,
    ranges: &Ranges,
    address: &Addresses,
    mask: u32,
    bytes: u64,
) -> Result<()> {
    for &(start, end, _) in ranges.all() {
        if let Some(hole) = allocation.first_uninitialised(start - allocation.base(), end - start) {
            let hole = allocation.base() + hole;
            let lane = lanes(mask).find(|&i| address[i] <= hole && hole < address[i] + bytes);
            return Err(uninitialised(lane.unwrap_or(0) as u32, hole, "global"));
        }
    }
    Ok(())
}

pub(super) fn load_global(
    cx: &mut Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    access: &Access,
    address: &Addresses,
    mask: u32,
) -> Result<()> {
    let bytes = u64::from(access.bytes * access.count);
    let (index, allocation, same, ranges) = find(cx, warp, address, mask, bytes)?;
    check_initialised(allocation, &ranges, address, same, bytes)?;
    let kind = if access.non_coherent {
        Kind::NonCoherent
    } else {
        kind_of(access.order, access.scope, false)
    };
    let requested = bytes * u64::from(same.count_ones());
    note(cx, warp, index, &ranges, requested, What::Read, kind);
    let base = allocation.base();
    let width = bytes as usize;
    if access.order == Order::Weak
        && let Some(start) = ranges.row(bytes)
        && let Some(rows) = words(access)
    {
        let at = (start - base) as usize;
        let regs = &mut warp.regs;
        match access.count {
            1 => words_to_rows(regs, rows, &allocation.bytes().array::<{ 4 * LANES }>(at)),
            2 => words_to_rows(regs, rows, &allocation.bytes().array::<{ 8 * LANES }>(at)),
            _ => words_to_rows(regs, rows, &allocation.bytes().array::<{ 16 * LANES }>(at)),
        }
        return Ok(());
    }
    let mut buffer = Buffer([0; 32 * LANES]);
    if access.order != Order::Weak {
        close(cx, block, warp)?;
        let segment = warp.view.segment;
        for lane in lanes(same) {
            let at = (address[lane] - base) as usize;
            let to = &mut buffer.0[lane * width..(lane + 1) * width];
            let read = || allocation.bytes().read(at, to);
            let ((), met) = cx.run.locations.access(
                address[lane],
                &mut warp.view,
                access.order,
                access.scope,
                (true, false),
                read,
            );
            observe(cx, warp, (address[lane], bytes), segment, met, true);
        }
        cx.yield_now = true;
    } else if let Some(start) = ranges.row(bytes) {
        let at = (start - base) as usize;
        allocation.bytes().read(at, &mut buffer.0[..width * LANES]);
    } else {
        for lane in lanes(same) {
            let at = (address[lane] - base) as usize;
            let to = &mut buffer.0[lane * width..(lane + 1) * width];
            allocation.bytes().read(at, to);
        }
    }
    ranges.done(cx.ranges);
    to_registers(&mut warp.regs, access, &buffer, same);
    if same != mask {
        return load_global(cx, block, warp, access, address, mask & !same);
    }
    Ok(())
}

pub(super) fn store_global(
    cx: &mut Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    access: &Access,
    address: &Addresses,
    mask: u32,
    buffer: &Buffer,
) -> Result<()> {
    let bytes = u64::from(access.bytes * access.count);
    let (index, allocation, same, ranges) = find(cx, warp, address, mask, bytes)?;
    let kind = kind_of(access.order, access.scope, true);
    let base = allocation.base();
    let width = bytes as usize;
    cx.progress = true;
    if access.order != Order::Weak {
        close(cx, block, warp)?;
        // in the segment before what is published with it
        let requested = bytes * u64::from(same.count_ones());
        note(cx, warp, index, &ranges, requested, What::Write, kind);
        let segment = warp.view.segment;
        for lane in lanes(same) {
            let at = (address[lane] - base) as usize;
            let from = &buffer.0[lane * width..(lane + 1) * width];
            let write = || allocation.bytes().write(at, from);
            let ((), met) = cx.run.locations.access(
                address[lane],
                &mut warp.view,
                access.order,
                access.scope,
                (false, true),
                write,
            );
            observe(cx, warp, (address[lane], bytes), segment, met, false);
        }
    } else {
        let requested = bytes * u64::from(same.count_ones());
        note(cx, warp, index, &ranges, requested, What::Write, kind);
        if let Some(start) = ranges.row(bytes) {
            let at = (start - base) as usize;
            allocation.bytes().write(at, &buffer.0[..width * LANES]);
        } else {
            for lane in lanes(same) {
                let at = (address[lane] - base) as usize;
                let from = &buffer.0[lane * width..(lane + 1) * width];
                allocation.bytes().write(at, from);
            }
        }
    }
    for &(start, end, _) in ranges.all() {
        allocation.mark_initialised(start - base, end - start);
    }
    ranges.done(cx.ranges);
    if same != mask {
        return store_global(cx, block, warp, access, address, mask & !same, buffer);
    }
    Ok(())
}
