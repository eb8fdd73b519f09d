//! Atomics and reductions on global and shared memory.

use super::access::*;
use super::banks::count_passes;
use super::global::*;
use super::lanes::{LANES, Regs, Value};
use super::machine::{Block, Context, close};
use super::ops::*;
use super::ranges::*;
use super::shared::Touch;
use super::warp::{Fault, Warp};
use super::{Rule, code};
use crate::ptx::Type;
use std::sync::atomic::Ordering;

pub(super) fn atomic(
    cx: &mut Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    atomic: &Atomic,
    mask: u32,
) -> Result<()> {
    let address = addresses(&warp.regs, atomic.base, atomic.base_wide, atomic.offset);
    match atomic.place {
        Place::Global => atomic_global(cx, block, warp, atomic, &address, mask),
        Place::Shared => atomic_shared(cx, block, warp, atomic, &address, mask),
        _ => {
            for (place, address, mask) in places(&address, mask) {
                match place {
                    Place::Global => atomic_global(cx, block, warp, atomic, &address, mask)?,
                    Place::Shared => atomic_shared(cx, block, warp, atomic, &address, mask)?,
                    _ => {
                        return Err(Fault::new(
                            Rule::OutOfBounds,
                            code::INVALID_ADDRESS_SPACE,
                            mask.trailing_zeros(),
                            "an atomic on local memory",
                        ));
                    }
                }
            }
            Ok(())
        }
    }
}

/// Operands of a lane.
fn atomic_operands(regs: &Regs, atomic: &Atomic, lane: usize) -> (u64, u64) {
    let value = |row: u16| {
        if row == NONE {
            0
        } else if atomic.ty.bytes() == 8 {
            u64::get(regs, row)[lane]
        } else {
            u64::from(regs.rows[row as usize].0[lane])
        }
    };
    (value(atomic.b), value(atomic.c))
}

fn keep_old(regs: &mut Regs, atomic: &Atomic, lane: usize, old: u64) {
    if atomic.d == NONE {
        return;
    }
    let mask = 1 << lane;
    if atomic.ty.bytes() == 8 {
        u64::put(regs, atomic.d, &[old; LANES], mask);
    } else {
        u32::put(regs, atomic.d, &[old as u32; LANES], mask);
    }
}

fn atomic_global(
    cx: &mut Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    atomic: &Atomic,
    address: &Addresses,
    mask: u32,
) -> Result<()> {
    let bytes = u64::from(atomic.ty.bytes());
    let (index, allocation, same, ranges) = find(cx, warp, address, mask, bytes)?;
    check_initialised(allocation, &ranges, address, same, bytes)?;
    close(cx, block, warp)?;
    let kind = kind_of(Order::Relaxed, atomic.scope, true);
    let requested = bytes * u64::from(same.count_ones());
    note(cx, warp, index, &ranges, requested, What::Atomic, kind);
    let segment = warp.view.segment;
    let mut changed = false;
    for lane in lanes(same) {
        let at = (address[lane] - allocation.base()) as usize;
        let (b, c) = atomic_operands(&warp.regs, atomic, lane);
        let operate = || {
            if bytes == 8 {
                let cell = allocation.bytes().atomic_u64(at);
                let update = |old| Some(combine(atomic, Place::Global, old, b, c));
                let old = cell
                    .fetch_update(Ordering::AcqRel, Ordering::Acquire, update)
                    .unwrap_or_else(|old| old);
                (old, combine(atomic, Place::Global, old, b, c) != old)
            } else if bytes == 4 {
                let cell = allocation.bytes().atomic_u32(at);
                let update =
                    |old: u32| Some(combine(atomic, Place::Global, old.into(), b, c) as u32);
                let old = cell
                    .fetch_update(Ordering::AcqRel, Ordering::Acquire, update)
                    .unwrap_or_else(|old| old);
                (
                    old.into(),
                    combine(atomic, Place::Global, old.into(), b, c) as u32 != old,
                )
            } else {
                let cell = allocation.bytes().atomic_u16(at);
                let update =
                    |old: u16| Some(combine(atomic, Place::Global, old.into(), b, c) as u16);
                let old = cell
                    .fetch_update(Ordering::AcqRel, Ordering::Acquire, update)
                    .unwrap_or_else(|old| old);
                let new = combine(atomic, Place::Global, old.into(), b, c) as u16;
                (old.into(), new != old)
            }
        };
        let ((old, new), met) = cx.run.locations.access(
            address[lane],
            &mut warp.view,
            atomic.order,
            atomic.scope,
            (true, true),
            operate,
        );
        observe(cx, warp, (address[lane], bytes), segment, met, !new);
        changed |= new;
        keep_old(&mut warp.regs, atomic, lane, old);
    }
    cx.progress |= changed;
    if !changed {
        cx.yield_now = true;
    }
    if same != mask {
        return atomic_global(cx, block, warp, atomic, address, mask & !same);
    }
    Ok(())
}

fn atomic_shared(
    cx: &mut Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    atomic: &Atomic,
    address: &Addresses,
    mask: u32,
) -> Result<()> {
    let bytes = atomic.ty.bytes();
    let width = bytes as usize;
    aligned(address, mask, bytes)?;
    count_passes(cx, address, mask, bytes);
    shared_strong(
        cx,
        block,
        warp,
        atomic.order,
        (address, bytes),
        mask,
        (true, true),
    )?;
    let mut changed = false;
    for lane in lanes(mask) {
        let at = block
            .shared
            .atomic(
                warp.index,
                address[lane],
                bytes,
                cx.pc,
                (Touch::Atomic, true),
            )
            .map_err(|w| shared_fault(w, lane as u32, address[lane], bytes, block))?;
        let (b, c) = atomic_operands(&warp.regs, atomic, lane);
        let mut data = [0; 8];
        data[..width].copy_from_slice(&block.shared.data[at..at + width]);
        let old = u64::from_le_bytes(data);
        let new = combine(atomic, Place::Shared, old, b, c);
        block.shared.data[at..at + width].copy_from_slice(&new.to_le_bytes()[..width]);
        changed |= new != old;
        keep_old(&mut warp.regs, atomic, lane, old);
    }
    cx.progress |= changed;
    if !changed {
        cx.yield_now = true;
    }
    Ok(())
}

/// What an atomic leaves in memory of `place`.
fn combine(atomic: &Atomic, place: Place, old: u64, b: u64, c: u64) -> u64 {
    use super::float::*;
    use AtomicOp::*;
    use Type::*;
    let halves = |f: &dyn Fn(u16, u16) -> u16| {
        u64::from(f(old as u16, b as u16))
            | u64::from(f((old >> 16) as u16, (b >> 16) as u16)) << 16
    };
    let half = |a: u16, b: u16| f32_to_f16(f16_to_f32(a) + f16_to_f32(b));
    let brain = |a: u16, b: u16| f32_to_bf16(bf16_to_f32(a) + bf16_to_f32(b));
    match (atomic.op, atomic.ty) {
        (Add, U32 | S32) => u64::from((old as u32).wrapping_add(b as u32)),
        (Add, U64) => old.wrapping_add(b),
        // in global memory denormals are flushed, operands and sum, whatever the instruction says
        (Add, F32) => {
            let fix = |x: f32| if place == Place::Global { ftz(x) } else { x };
            let (old, b) = (f32::from_bits(old as u32), f32::from_bits(b as u32));
            canon(fix(fix(old) + fix(b))).to_bits().into()
        }
        (Add, F64) => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
        (Add, F16) => half(old as u16, b as u16).into(),
        (Add, Bf16) => brain(old as u16, b as u16).into(),
        (Add, F16x2) => halves(&half),
        (Add, _) => halves(&brain),
        (Min, U32) => u64::from((old as u32).min(b as u32)),
        (Min, S32) => u64::from((old as i32).min(b as i32) as u32),
        (Min, U64) => old.min(b),
        (Min, _) => (old as i64).min(b as i64) as u64,
        (Max, U32) => u64::from((old as u32).max(b as u32)),
        (Max, S32) => u64::from((old as i32).max(b as i32) as u32),
        (Max, U64) => old.max(b),
        (Max, _) => (old as i64).max(b as i64) as u64,
        (And, _) => old & b,
        (Or, _) => old | b,
        (Xor, _) => old ^ b,
        (Exch, _) => b,
        (Cas, B16) if old as u16 == b as u16 => c & 0xffff,
        (Cas, B32) if old as u32 == b as u32 => c,
        (Cas, B64) if old == b => c,
        (Cas, _) => old,
        (Inc, _) => {
            if old as u32 >= b as u32 {
                0
            } else {
                u64::from(old as u32 + 1)
            }
        }
        (Dec, _) => {
            if old as u32 == 0 || old as u32 > b as u32 {
                u64::from(b as u32)
            } else {
                u64::from(old as u32 - 1)
            }
        }
    }
}
