//! Instructions that reach memory.

use super::banks::count_passes;
use super::decode::PARAM_WINDOW;
use super::elements::*;
use super::global::{load_global, store_global};
use super::lanes::{LANES, Regs, Value, each, wide};
use super::machine::{Block, Context, close};
use super::ops::*;
use super::order::Met;
use super::ranges::*;
use super::shared::{Touch, Wrong};
use super::warp::{Fault, Warp};
use super::{Rule, atomic, code, copies, matrix, mbarrier, mma};
use crate::memory::{LOCAL_WINDOW, SHARED_WINDOW};
use std::sync::LazyLock;
use std::time::Instant;

/// `%globaltimer`: one clock for all multiprocessors, which goes on between launches.
fn nanoseconds() -> u64 {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    // a program may take 0 for a time that was never taken
    u64::try_from(BEGAN.elapsed().as_nanos()).map_or(u64::MAX, |n| n + 1)
}

pub(super) type Result<T, E = Box<Fault>> = std::result::Result<T, E>;

wide! {
pub(super) fn addresses(regs: &Regs, base: u16, pair: bool, offset: i64) -> Addresses {
    if pair {
        let a = u64::get(regs, base);
        each(|i| a[i].wrapping_add_signed(offset))
    } else {
        // 32-bit addresses name shared, local or parameter memory
        let a = u32::get(regs, base);
        each(|i| u64::from(a[i]).wrapping_add_signed(offset))
    }
}
}

pub(super) fn run(
    cx: &mut Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    op: &Op,
    mask: u32,
) -> Result<()> {
    match op {
        Op::Load(access) => load(cx, block, warp, access, mask),
        Op::Store(access) => store(cx, block, warp, access, mask),
        Op::Atomic(atomic) => atomic::atomic(cx, block, warp, atomic, mask),
        Op::Fence(scope) => {
            close(cx, block, warp)?;
            warp.view.fence(*scope);
            Ok(())
        }
        Op::Mma(op) => {
            whole(warp, mask, "mma")?;
            mma::run(&mut warp.regs, op, cx.run.options.accumulate);
            Ok(())
        }
        Op::Matrix(matrix) => matrix::matrix(cx, block, warp, matrix, mask),
        Op::MoveMatrix(d, a) => {
            whole(warp, mask, "movmatrix")?;
            mma::transpose(&mut warp.regs, *d, *a);
            Ok(())
        }
        Op::CpAsync(copy) => copies::cp_async(cx, block, warp, copy, mask),
        Op::CpCommit => {
            for lane in lanes(mask) {
                warp.groups[lane] += 1;
            }
            Ok(())
        }
        Op::CpWait(groups) => {
            copies::wait_groups(block, warp, mask, *groups);
            Ok(())
        }
        Op::CpWaitAll => {
            copies::wait_all(block, warp, mask);
            Ok(())
        }
        Op::Mbarrier(op) => mbarrier::mbarrier(cx, block, warp, op, mask),
        Op::Clock {
            d,
            global,
            wide,
            shift,
        } => {
            let now = if *global {
                nanoseconds()
            } else {
                warp.instructions
            };
            let now = now >> shift;
            if *wide {
                u64::put(&mut warp.regs, *d, &[now; LANES], mask);
            } else {
                u32::put(&mut warp.regs, *d, &[now as u32; LANES], mask);
            }
            Ok(())
        }
        Op::IsSpace(d, a, place) => {
            let a = u64::get(&warp.regs, *a);
            let mut bits = 0;
            for lane in lanes(mask) {
                bits |= u32::from(generic(a[lane]) == *place) << lane;
            }
            warp.regs.put_pred(*d, bits, mask);
            Ok(())
        }
        // the loop of the warp runs all others itself
        _ => Ok(()),
    }
}

/// Instructions of the whole warp need all its lanes.
pub(super) fn whole(warp: &Warp, mask: u32, what: &str) -> Result<()> {
    if mask == u32::MAX {
        return Ok(());
    }
    let lane = (!mask).trailing_zeros();
    let gone = if warp.threads >> lane & 1 == 0 {
        "does not exist"
    } else if warp.live >> lane & 1 == 0 {
        "has exited"
    } else {
        "is elsewhere"
    };
    Err(Fault::new(
        Rule::Divergent,
        code::ILLEGAL_INSTRUCTION,
        lane,
        format!("`{what}` needs all 32 lanes: lane {lane} {gone}"),
    ))
}

pub(super) fn generic(address: u64) -> Place {
    match address >> 48 {
        1 => Place::Shared,
        2 => Place::Local,
        3 => Place::Param,
        _ => Place::Global,
    }
}

/// Whether a generic access reaches global memory alone, as most do.
#[inline(always)]
fn all_global(address: &Addresses, mask: u32) -> bool {
    let mut other = 0;
    for i in 0..LANES {
        other |= u32::from(generic(address[i]) != Place::Global) << i;
    }
    other & mask == 0
}

/// Lanes of a generic access by the memory they reach, with addresses there.
pub(super) fn places(address: &Addresses, mask: u32) -> Vec<(Place, Addresses, u32)> {
    let mut parts = Vec::with_capacity(1);
    let mut rest = mask;
    while rest != 0 {
        let place = generic(address[rest.trailing_zeros() as usize]);
        let same = lanes(rest)
            .filter(|&i| generic(address[i]) == place)
            .fold(0u32, |m, i| m | 1 << i);
        let window = match place {
            Place::Shared => SHARED_WINDOW,
            Place::Local => LOCAL_WINDOW,
            _ => 0,
        };
        parts.push((place, address.map(|a| a.wrapping_sub(window)), same));
        rest &= !same;
    }
    parts
}

pub(super) fn uninitialised(lane: u32, address: u64, what: &str) -> Box<Fault> {
    Fault::new(
        Rule::Uninitialised,
        code::LAUNCH_FAILED,
        lane,
        format!("a read of {what} memory that was never written"),
    )
    .at(address)
}

fn load(
    cx: &mut Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    access: &Access,
    mask: u32,
) -> Result<()> {
    let address = addresses(&warp.regs, access.base, access.base_wide, access.offset);
    let place = match access.place {
        Place::Generic => {
            if all_global(&address, mask) {
                return load_global(cx, block, warp, access, &address, mask);
            }
            for (place, address, mask) in places(&address, mask) {
                load_at(cx, block, warp, access, place, &address, mask)?;
            }
            return Ok(());
        }
        place => place,
    };
    load_at(cx, block, warp, access, place, &address, mask)
}

fn load_at(
    cx: &mut Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    access: &Access,
    place: Place,
    address: &Addresses,
    mask: u32,
) -> Result<()> {
    let bytes = access.bytes * access.count;
    let width = bytes as usize;
    match place {
        Place::Global | Place::Generic => load_global(cx, block, warp, access, address, mask),
        Place::Shared => {
            aligned(address, mask, bytes)?;
            count_passes(cx, address, mask, bytes);
            if access.order == Order::Weak
                && let Some(rows) = words(access)
                && shape(address, mask, bytes.into()) == Shape::Row
            {
                let (start, len) = (address[0], bytes * LANES as u32);
                let at = block
                    .shared
                    .read(warp.index, start, len, cx.pc)
                    .map_err(|w| shared_fault_among(w, address, mask, bytes, block))?;
                let data = &block.shared.data[at..at + len as usize];
                words_to_rows(&mut warp.regs, rows, data);
                return Ok(());
            }
            let mut buffer = Buffer([0; 32 * LANES]);
            if access.order != Order::Weak {
                shared_strong(
                    cx,
                    block,
                    warp,
                    access.order,
                    (address, bytes),
                    mask,
                    (true, false),
                )?;
                for lane in lanes(mask) {
                    let at = block
                        .shared
                        .atomic(warp.index, address[lane], bytes, cx.pc, (Touch::Look, true))
                        .map_err(|w| shared_fault(w, lane as u32, address[lane], bytes, block))?;
                    buffer.0[lane * width..(lane + 1) * width]
                        .copy_from_slice(&block.shared.data[at..at + width]);
                }
                cx.yield_now = true;
            } else {
                let ranges = Ranges::new(cx.ranges, address, mask, bytes.into());
                for &(start, end, _) in ranges.all() {
                    block
                        .shared
                        .read(warp.index, start, (end - start) as u32, cx.pc)
                        .map_err(|w| shared_fault_among(w, address, mask, bytes, block))?;
                }
                if let Some(start) = ranges.row(bytes.into()) {
                    let at = start as usize;
                    buffer.0[..width * LANES]
                        .copy_from_slice(&block.shared.data[at..at + width * LANES]);
                } else {
                    for lane in lanes(mask) {
                        let at = address[lane] as usize;
                        buffer.0[lane * width..(lane + 1) * width]
                            .copy_from_slice(&block.shared.data[at..at + width]);
                    }
                }
                ranges.done(cx.ranges);
            }
            to_registers(&mut warp.regs, access, &buffer, mask);
            Ok(())
        }
        Place::Local => {
            let mut buffer = Buffer([0; 32 * LANES]);
            aligned(address, mask, bytes)?;
            for lane in lanes(mask) {
                let at = local(cx, warp, lane, address[lane], bytes)?;
                if let Some(hole) =
                    (at..at + width).find(|&i| warp.local_init[i / 64] >> (i % 64) & 1 == 0)
                {
                    let byte = address[lane] + (hole - at) as u64;
                    return Err(uninitialised(lane as u32, byte, "local"));
                }
                buffer.0[lane * width..(lane + 1) * width]
                    .copy_from_slice(&warp.local[at..at + width]);
            }
            to_registers(&mut warp.regs, access, &buffer, mask);
            Ok(())
        }
        Place::Param => {
            let mut buffer = Buffer([0; 32 * LANES]);
            let params = &cx.grid.launch.params;
            for lane in lanes(mask) {
                let at = address[lane].wrapping_sub(PARAM_WINDOW);
                let range = at as usize..(at as usize).saturating_add(width);
                let Some(data) = params.get(range) else {
                    return Err(Fault::new(
                        Rule::OutOfBounds,
                        code::ILLEGAL_ADDRESS,
                        lane as u32,
                        format!("{bytes} bytes at {at} of {} of parameters", params.len()),
                    )
                    .at(at));
                };
                buffer.0[lane * width..(lane + 1) * width].copy_from_slice(data);
            }
            to_registers(&mut warp.regs, access, &buffer, mask);
            Ok(())
        }
    }
}

fn store(
    cx: &mut Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    access: &Access,
    mask: u32,
) -> Result<()> {
    let address = addresses(&warp.regs, access.base, access.base_wide, access.offset);
    let mut buffer = Buffer([0; 32 * LANES]);
    from_registers(&warp.regs, access, &mut buffer);
    let place = match access.place {
        Place::Generic if all_global(&address, mask) => Place::Global,
        place => place,
    };
    if place != Place::Generic {
        return store_at(cx, block, warp, access, place, &address, mask, &buffer);
    }
    for (place, address, mask) in places(&address, mask) {
        store_at(cx, block, warp, access, place, &address, mask, &buffer)?;
    }
    Ok(())
}

#[allow(clippy::too_many_arguments)] // an access, and where it goes
fn store_at(
    cx: &mut Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    access: &Access,
    place: Place,
    address: &Addresses,
    mask: u32,
    buffer: &Buffer,
) -> Result<()> {
    let bytes = access.bytes * access.count;
    let width = bytes as usize;
    match place {
        Place::Global | Place::Generic => {
            store_global(cx, block, warp, access, address, mask, buffer)
        }
        Place::Shared => {
            aligned(address, mask, bytes)?;
            count_passes(cx, address, mask, bytes);
            cx.progress = true;
            if access.order != Order::Weak {
                shared_strong(
                    cx,
                    block,
                    warp,
                    access.order,
                    (address, bytes),
                    mask,
                    (false, true),
                )?;
                for lane in lanes(mask) {
                    let at = block
                        .shared
                        .atomic(
                            warp.index,
                            address[lane],
                            bytes,
                            cx.pc,
                            (Touch::Atomic, false),
                        )
                        .map_err(|w| shared_fault(w, lane as u32, address[lane], bytes, block))?;
                    block.shared.data[at..at + width]
                        .copy_from_slice(&buffer.0[lane * width..(lane + 1) * width]);
                }
                return Ok(());
            }
            let ranges = Ranges::new(cx.ranges, address, mask, bytes.into());
            for &(start, end, _) in ranges.all() {
                block
                    .shared
                    .write(warp.index, start, (end - start) as u32, cx.pc)
                    .map_err(|w| shared_fault_among(w, address, mask, bytes, block))?;
            }
            ranges.done(cx.ranges);
            for lane in lanes(mask) {
                let at = address[lane] as usize;
                block.shared.data[at..at + width]
                    .copy_from_slice(&buffer.0[lane * width..(lane + 1) * width]);
            }
            Ok(())
        }
        Place::Local => {
            aligned(address, mask, bytes)?;
            for lane in lanes(mask) {
                let at = local(cx, warp, lane, address[lane], bytes)?;
                warp.local[at..at + width]
                    .copy_from_slice(&buffer.0[lane * width..(lane + 1) * width]);
                for i in at..at + width {
                    warp.local_init[i / 64] |= 1 << (i % 64);
                }
            }
            Ok(())
        }
        Place::Param => Err(Fault::new(
            Rule::OutOfBounds,
            code::INVALID_ADDRESS_SPACE,
            mask.trailing_zeros(),
            "a store to the parameters of a kernel",
        )),
    }
}

/// Place of a local address among the local memory of the warp.
fn local(cx: &Context<'_>, warp: &Warp, lane: usize, address: u64, bytes: u32) -> Result<usize> {
    let each = u64::from(cx.grid.launch.kernel.local_bytes) + 16;
    if address < 16 || address + u64::from(bytes) > each || warp.local.is_empty() {
        return Err(Fault::new(
            Rule::OutOfBounds,
            code::ILLEGAL_ADDRESS,
            lane as u32,
            format!(
                "{bytes} bytes at {address:#x} of {} of local memory",
                each - 16
            ),
        )
        .at(address));
    }
    Ok(lane * each as usize + address as usize)
}

pub(super) fn aligned(address: &Addresses, mask: u32, bytes: u32) -> Result<()> {
    let low = u64::from(bytes - 1);
    let any = address.iter().fold(0, |all, a| all | a);
    if any & low == 0 {
        return Ok(());
    }
    let wrong = |i: usize| address[i] & low != 0;
    match lanes(mask).find(|&i| wrong(i)) {
        None => Ok(()),
        Some(lane) => Err(Fault::new(
            Rule::Misaligned,
            code::MISALIGNED_ADDRESS,
            lane as u32,
            format!("an access of {bytes} bytes at an address that is no multiple of it"),
        )
        .at(address[lane])),
    }
}

/// What is wrong with an access whose lanes were looked at together: that of the first lane which
/// is wrong.
pub(super) fn shared_fault_among(
    wrong: Wrong,
    address: &Addresses,
    mask: u32,
    bytes: u32,
    block: &Block,
) -> Box<Fault> {
    let lane = lanes(mask).find(|&lane| match wrong {
        Wrong::Bounds => !block.shared.holds(address[lane], bytes),
        Wrong::Uninitialised(byte) | Wrong::Pending(byte) => {
            (address[lane]..address[lane].saturating_add(bytes.into())).contains(&byte.into())
        }
    });
    let lane = lane.unwrap_or(mask.trailing_zeros() as usize);
    shared_fault(wrong, lane as u32, address[lane], bytes, block)
}

pub(super) fn shared_fault(
    wrong: Wrong,
    lane: u32,
    address: u64,
    bytes: u32,
    block: &Block,
) -> Box<Fault> {
    match wrong {
        Wrong::Bounds => Fault::new(
            Rule::OutOfBounds,
            code::ILLEGAL_ADDRESS,
            lane,
            format!(
                "{bytes} bytes at {address:#x} of shared memory, of which the block has {:#x} to \
                 {:#x}",
                super::decode::SHARED_START,
                block.shared.data.len()
            ),
        )
        .at(address),
        Wrong::Uninitialised(byte) => uninitialised(lane, byte.into(), "shared"),
        Wrong::Pending(byte) => Fault::new(
            Rule::Pending,
            code::LAUNCH_FAILED,
            lane,
            "shared memory that a `cp.async` writes, which was not waited for",
        )
        .at(byte.into()),
    }
}

/// Order of atomics and volatile accesses on shared memory.
pub(super) fn shared_strong(
    cx: &mut Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    order: Order,
    (address, bytes): (&Addresses, u32),
    mask: u32,
    kind: (bool, bool),
) -> Result<()> {
    close(cx, block, warp)?;
    let mut met = [Met::default(); LANES];
    for lane in lanes(mask) {
        // no global address has these bits
        let name = 1 << 63 | u64::from(block.number) << 32 | address[lane];
        (_, met[lane]) =
            cx.run
                .locations
                .access(name, &mut warp.view, order, Scope::Block, kind, || ());
    }
    warp.view.advance();
    let clock = warp.view.clocks[warp.index];
    for lane in lanes(mask) {
        block
            .shared
            .observe(warp.index, clock, address[lane], bytes, met[lane]);
    }
    Ok(())
}
