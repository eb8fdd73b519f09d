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

/// What a lane holds in the register of an element.
fn operand(regs: &Regs, atomic: &Atomic, row: u16, lane: usize) -> u128 {
    let wide = |row: u16| u128::from(u64::get(regs, row)[lane]);
    match atomic.ty.bytes() {
        _ if row == NONE => 0,
        16 => wide(row) | wide(row + 2) << 64,
        8 => wide(row),
        _ => regs.rows[row as usize].0[lane].into(),
    }
}

fn keep_old(regs: &mut Regs, atomic: &Atomic, row: u16, lane: usize, old: u128) {
    let mask = 1 << lane;
    match atomic.ty.bytes() {
        _ if row == NONE => {}
        8 | 16 => {
            u64::put(regs, row, &[old as u64; LANES], mask);
            if atomic.ty.bytes() == 16 {
                u64::put(regs, row + 2, &[(old >> 64) as u64; LANES], mask);
            }
        }
        _ => u32::put(regs, row, &[old as u32; LANES], mask),
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
    let width = atomic.ty.bytes();
    let bytes = u64::from(width * atomic.count);
    let (index, allocation, same, ranges) = find(cx, warp, address, mask, bytes)?;
    check_initialised(allocation, &ranges, address, same, bytes)?;
    close(cx, block, warp)?;
    let kind = kind_of(Order::Relaxed, atomic.scope, true);
    let requested = bytes * u64::from(same.count_ones());
    note(cx, warp, index, &ranges, requested, What::Atomic, kind);
    let segment = warp.view.segment;
    let mut changed = false;
    for lane in lanes(same) {
        let c = operand(&warp.regs, atomic, atomic.c, lane);
        // each element of a vector changes by itself
        for k in 0..atomic.count {
            let place = address[lane] + u64::from(k * width);
            let at = (place - allocation.base()) as usize;
            let b = operand(&warp.regs, atomic, atomic.b[k as usize], lane);
            // behind the lock of the location, which makes 16 bytes change as one
            let operate = || {
                allocation
                    .bytes()
                    .change(at, width, |old| combine(atomic, Place::Global, old, b, c))
            };
            let ((old, new), met) = cx.run.locations.access(
                place,
                &mut warp.view,
                atomic.order,
                atomic.scope,
                (true, true),
                operate,
            );
            observe(cx, warp, (place, width.into()), segment, met, new == old);
            changed |= new != old;
            keep_old(&mut warp.regs, atomic, atomic.d[k as usize], lane, old);
        }
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
    if atomic.count > 1 {
        return Err(Fault::new(
            Rule::OutOfBounds,
            code::INVALID_ADDRESS_SPACE,
            mask.trailing_zeros(),
            "an atomic on a vector in shared memory",
        ));
    }
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
        let b = operand(&warp.regs, atomic, atomic.b[0], lane);
        let c = operand(&warp.regs, atomic, atomic.c, lane);
        let mut data = [0; 16];
        data[..width].copy_from_slice(&block.shared.data[at..at + width]);
        let old = u128::from_le_bytes(data);
        let new = combine(atomic, Place::Shared, old, b, c);
        block.shared.data[at..at + width].copy_from_slice(&new.to_le_bytes()[..width]);
        changed |= new != old;
        keep_old(&mut warp.regs, atomic, atomic.d[0], lane, old);
    }
    cx.progress |= changed;
    if !changed {
        cx.yield_now = true;
    }
    Ok(())
}

/// What an atomic leaves in memory of `place`.
fn combine(atomic: &Atomic, place: Place, old: u128, b: u128, c: u128) -> u128 {
    if atomic.ty == Type::B128 {
        return match atomic.op {
            AtomicOp::Cas if old != b => old,
            AtomicOp::Cas => c,
            _ => b,
        };
    }
    combine64(atomic, place, old as u64, b as u64, c as u64).into()
}

/// Of at most 64 bits.
fn combine64(atomic: &Atomic, place: Place, old: u64, b: u64, c: u64) -> u64 {
    use super::float::*;
    use super::select::h_min;
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
        (Min | Max, F16 | F16x2 | Bf16 | Bf16x2) => {
            let more = atomic.op == Max;
            let number: fn(u16) -> f32 = if matches!(atomic.ty, F16 | F16x2) {
                f16_to_f32
            } else {
                bf16_to_f32
            };
            let choose = |a: u16, b: u16| h_min(a, b, number, more, false);
            if atomic.ty.bytes() == 2 {
                choose(old as u16, b as u16).into()
            } else {
                halves(&choose)
            }
        }
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
