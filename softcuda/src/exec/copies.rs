//! `cp.async`: copies to shared memory behind a thread's back, and the waits for them.

use super::access::*;
use super::banks::count_passes;
use super::elements::Buffer;
use super::global::*;
use super::lanes::{LANES, Value};
use super::machine::{Block, Context};
use super::ops::*;
use super::races::Kind;
use super::ranges::*;
use super::warp::{Copy, Fault, Warp};
use super::{Rule, code};
use crate::memory::SHARED_WINDOW;

pub(super) fn cp_async(
    cx: &mut Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    copy: &CpAsync,
    mask: u32,
) -> Result<()> {
    let mut to = addresses(&warp.regs, copy.to, copy.to_wide, copy.to_offset);
    if copy.generic {
        to = to.map(|a| a.wrapping_sub(SHARED_WINDOW));
    }
    let from = addresses(&warp.regs, copy.from, true, copy.from_offset);
    let bytes = copy.bytes;
    let width = bytes as usize;
    aligned(&to, mask, bytes)?;
    // bytes of the source of each lane; the rest of the target is zero
    let mut sizes = [bytes; LANES];
    if copy.source != NONE {
        let source = u32::get(&warp.regs, copy.source);
        for lane in lanes(mask) {
            if source[lane] > bytes {
                return Err(Fault::new(
                    Rule::Undefined,
                    code::ILLEGAL_INSTRUCTION,
                    lane as u32,
                    format!("a copy of {} of {bytes} bytes", source[lane]),
                ));
            }
            sizes[lane] = source[lane];
        }
    }
    if copy.ignore != NONE {
        let ignore =
            warp.regs.preds[copy.ignore as usize] ^ if copy.ignore_negated { u32::MAX } else { 0 };
        for lane in lanes(mask & ignore) {
            sizes[lane] = 0;
        }
    }
    let mut buffer = Buffer([0; 32 * LANES]);
    let before = warp.copies.len();
    let mut rest = if (copy.source, copy.ignore) == (NONE, NONE) {
        mask
    } else {
        lanes(mask)
            .filter(|&i| sizes[i] == bytes)
            .fold(0u32, |m, i| m | 1 << i)
    };
    let parts = mask & !rest;
    while rest != 0 {
        let (index, allocation, same, ranges) = find(cx, warp, &from, rest, bytes.into())?;
        check_initialised(allocation, &ranges, &from, same, bytes.into())?;
        let requested = u64::from(bytes) * u64::from(same.count_ones());
        note(cx, warp, index, &ranges, requested, What::Read, Kind::Read);
        let base = allocation.base();
        let sum: u64 = ranges.all().iter().map(|(start, end, _)| end - start).sum();
        if same == u32::MAX && sum == 32 * u64::from(bytes) {
            // no two lanes read the same: those of a range follow each other
            for &(start, end, lane) in ranges.all() {
                let place = usize::from(lane) * width;
                let to = &mut buffer.0[place..place + (end - start) as usize];
                allocation.bytes().read((start - base) as usize, to);
            }
        } else {
            for lane in lanes(same) {
                let at = (from[lane] - base) as usize;
                let to = &mut buffer.0[lane * width..(lane + 1) * width];
                allocation.bytes().read(at, to);
            }
        }
        ranges.done(cx.ranges);
        rest &= !same;
    }
    for lane in lanes(parts).filter(|&i| sizes[i] != 0) {
        // a part of the bytes: as single bytes, whose address must be aligned all the same
        let lane_mask = 1 << lane;
        aligned(&from, lane_mask, bytes)?;
        let (index, allocation, ..) = find(cx, warp, &from, lane_mask, 1)?;
        let offset = from[lane] - allocation.base();
        let size = u64::from(sizes[lane]);
        if offset + size > allocation.len() {
            return Err(outside(cx, from[lane], lane as u32, size));
        }
        let ranges = Ranges::new(cx.ranges, &from, lane_mask, size);
        check_initialised(allocation, &ranges, &from, lane_mask, size)?;
        note(cx, warp, index, &ranges, size, What::Read, Kind::Read);
        let to = &mut buffer.0[lane * width..lane * width + size as usize];
        allocation.bytes().read(offset as usize, to);
    }
    count_passes(cx, &to, mask, bytes);
    join(warp, &to, mask, bytes, cx.pc);
    for i in before..warp.copies.len() {
        let copy = warp.copies[i];
        let first = copy.lanes.trailing_zeros();
        let start = to[first as usize];
        let begun = block
            .shared
            .begin_copy(warp.index, start, copy.bytes, cx.pc);
        if let Err(wrong) = begun {
            warp.copies.truncate(i);
            return Err(shared_fault_among(wrong, &to, copy.lanes, bytes, block));
        }
        let (at, len) = (copy.at as usize, copy.bytes as usize);
        let first = first as usize;
        if (copy.lanes >> first).trailing_ones() == copy.lanes.count_ones() {
            let from = &buffer.0[first * width..first * width + len];
            block.shared.data[at..at + len].copy_from_slice(from);
            continue;
        }
        for (lane, to) in lanes(copy.lanes).zip(block.shared.data[at..at + len].chunks_mut(width)) {
            to.copy_from_slice(&buffer.0[lane * width..(lane + 1) * width]);
        }
    }
    Ok(())
}

/// Notes the copies that the lanes of `mask` begin: those of neighbours of one group as one.
fn join(warp: &mut Warp, to: &Addresses, mask: u32, bytes: u32, pc: u32) {
    let group = warp.groups[mask.trailing_zeros() as usize % LANES];
    if warp.groups == [group; LANES] && shape(to, mask, bytes.into()) == Shape::Row {
        warp.copies.push(Copy {
            lanes: mask,
            group,
            at: to[0] as u32,
            bytes: bytes * LANES as u32,
            pc,
        });
        return;
    }
    let before = warp.copies.len();
    for lane in lanes(mask) {
        let (at, group) = (to[lane], warp.groups[lane]);
        let joined = warp.copies[before..]
            .last_mut()
            .filter(|last| last.group == group)
            .filter(|last| u64::from(last.at) + u64::from(last.bytes) == at);
        match joined {
            Some(last) => {
                last.lanes |= 1 << lane;
                last.bytes += bytes;
            }
            None => warp.copies.push(Copy {
                lanes: 1 << lane,
                group,
                at: at as u32,
                bytes,
                pc,
            }),
        }
    }
}

/// Ends the copies that the lanes of `mask` began in all groups but the last `groups`.
pub(super) fn wait_groups(block: &mut Block, warp: &mut Warp, mask: u32, groups: u32) {
    let committed = warp.groups;
    let first = committed[0];
    let alike = committed == [first; LANES];
    wait(block, warp, mask, |copy| {
        let over = |committed: u32| copy.group.saturating_add(groups) < committed;
        if alike {
            return if over(first) { u32::MAX } else { 0 };
        }
        lanes(copy.lanes)
            .filter(|&lane| over(committed[lane]))
            .fold(0, |m, lane| m | 1 << lane)
    });
}

/// Ends all copies of the lanes of `mask`.
pub(super) fn wait_all(block: &mut Block, warp: &mut Warp, mask: u32) {
    wait(block, warp, mask, |_| u32::MAX);
}

/// Ends the parts of copies of those lanes of `mask` that `over` gives.
fn wait(block: &mut Block, warp: &mut Warp, mask: u32, over: impl Fn(&Copy) -> u32) {
    let mut copies = std::mem::take(&mut warp.copies);
    let mut split = Vec::new();
    copies.retain(|copy| {
        let ended = copy.lanes & mask & over(copy);
        if ended == copy.lanes {
            block
                .shared
                .end_copy(warp.index, copy.at, copy.bytes, copy.pc);
        } else if ended != 0 {
            // lanes that parted: each goes on with its own part
            let bytes = copy.bytes / copy.lanes.count_ones();
            for (k, lane) in lanes(copy.lanes).enumerate() {
                let at = copy.at + k as u32 * bytes;
                if ended >> lane & 1 == 1 {
                    block.shared.end_copy(warp.index, at, bytes, copy.pc);
                } else {
                    split.push(Copy {
                        lanes: 1 << lane,
                        at,
                        bytes,
                        ..*copy
                    });
                }
            }
        }
        ended == 0
    });
    copies.extend(split);
    warp.copies = copies;
}
