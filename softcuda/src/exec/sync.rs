//! What lanes of a warp and warps of a block do together.

use super::lanes::{LANES, Value};
use super::machine::{Block, Context};
use super::ops::*;
use super::order::Gathered;
use super::warp::{Fault, Warp};
use super::{Rule, code};

/// Warp, lanes, and where the result of a reduction goes.
type Waiter = (usize, u32, Option<(Reduce, u16)>);

/// A barrier of a block.
#[derive(Debug, Clone, Default)]
pub(super) struct BarrierState {
    /// Threads it was given, if it was.
    pub expected: Option<u32>,
    pub arrived: u32,
    /// Warp and lanes that wait, and where the result goes.
    pub waiting: Vec<Waiter>,
    pub gathered: Gathered,
    pub count: u32,
    pub all: bool,
    pub any: bool,
}

pub(super) fn run(
    cx: &mut Context<'_>,
    warp: &mut Warp,
    sync: &Sync,
    mask: u32,
) -> Result<(), Box<Fault>> {
    let lanes = |m: u32| (0..LANES).filter(move |i| m >> i & 1 == 1);
    let regs = &mut warp.regs;
    match sync {
        Sync::Barrier => {
            cx.counts.barriers += 1;
        }
        Sync::Shuffle {
            kind,
            d,
            valid,
            a,
            b,
            c,
        } => {
            let a = u32::get(regs, *a);
            let b = u32::get(regs, *b);
            let c = u32::get(regs, *c);
            let mut r = [0; LANES];
            let mut ok = 0;
            for i in lanes(mask) {
                let (bval, cval, segment) = (b[i] & 31, c[i] & 31, c[i] >> 8 & 31);
                let lane = i as u32;
                let most = (lane & segment) | (cval & !segment);
                let least = lane & segment;
                let (j, inside) = match kind {
                    Shuffle::Up => {
                        let j = lane as i32 - bval as i32;
                        (j as u32, j >= most as i32)
                    }
                    Shuffle::Down => (lane + bval, lane + bval <= most),
                    Shuffle::Bfly => (lane ^ bval, lane ^ bval <= most),
                    Shuffle::Idx => {
                        let j = least | (bval & !segment);
                        (j, j <= most)
                    }
                };
                let j = if inside { j } else { lane };
                if mask >> j & 1 == 0 {
                    return Err(Fault::new(
                        Rule::Undefined,
                        code::ILLEGAL_INSTRUCTION,
                        lane,
                        format!("a shuffle reads lane {j}, which does not take part"),
                    ));
                }
                r[i] = a[j as usize];
                ok |= u32::from(inside) << i;
            }
            if *d != NONE {
                u32::put(regs, *d, &r, mask);
            }
            if *valid != NONE {
                regs.put_pred(*valid, ok, mask);
            }
        }
        Sync::Vote { kind, d, a, negate } => {
            let a = regs.preds[*a as usize] ^ if *negate { u32::MAX } else { 0 };
            let a = a & mask;
            match kind {
                Vote::Ballot => u32::put(regs, *d, &[a; LANES], mask),
                _ => {
                    let result = match kind {
                        Vote::All => a == mask,
                        Vote::Any => a != 0,
                        _ => a == mask || a == 0,
                    };
                    regs.put_pred(*d, if result { u32::MAX } else { 0 }, mask);
                }
            }
        }
        Sync::Redux { kind, d, a } => {
            let a = u32::get(regs, *a);
            let values = lanes(mask).map(|i| a[i]);
            let r = match kind {
                Redux::Add => values.fold(0u32, u32::wrapping_add),
                Redux::And => values.fold(u32::MAX, |x, y| x & y),
                Redux::Or => values.fold(0, |x, y| x | y),
                Redux::Xor => values.fold(0, |x, y| x ^ y),
                Redux::Min => values.fold(u32::MAX, u32::min),
                Redux::Max => values.fold(0, u32::max),
                Redux::MinSigned => values.fold(i32::MAX, |x, y| x.min(y as i32)) as u32,
                Redux::MaxSigned => values.fold(i32::MIN, |x, y| x.max(y as i32)) as u32,
            };
            u32::put(regs, *d, &[r; LANES], mask);
        }
        Sync::Match {
            all,
            wide,
            d,
            valid,
            a,
        } => {
            let a: [u64; LANES] = if *wide {
                u64::get(regs, *a)
            } else {
                u32::get(regs, *a).map(u64::from)
            };
            let mut r = [0; LANES];
            let mut ok = 0;
            for i in lanes(mask) {
                r[i] = lanes(mask)
                    .filter(|&j| a[j] == a[i])
                    .fold(0, |m, j| m | 1 << j);
            }
            if *all {
                let same = lanes(mask).all(|i| r[i] == mask);
                ok = if same { u32::MAX } else { 0 };
                r = [if same { mask } else { 0 }; LANES];
            }
            if *d != NONE {
                u32::put(regs, *d, &r, mask);
            }
            if *valid != NONE {
                regs.put_pred(*valid, ok, mask);
            }
        }
        Sync::Elect { d, chosen } => {
            let first = mask.trailing_zeros();
            if *d != NONE {
                u32::put(regs, *d, &[first; LANES], mask);
            }
            if *chosen != NONE {
                regs.put_pred(*chosen, 1 << first, mask);
            }
        }
    }
    Ok(())
}

/// Lanes of `mask` arrive at a barrier of the block. Gives the barrier's number if they wait.
pub(super) fn barrier(
    cx: &mut Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    barrier: &Barrier,
    mask: u32,
) -> Result<Option<u8>, Box<Fault>> {
    let lane = mask.trailing_zeros();
    let fault = |rule, message: String| Fault::new(rule, code::ILLEGAL_INSTRUCTION, lane, message);
    if barrier.aligned && mask != warp.live {
        let missing = warp.live & !mask;
        return Err(fault(
            Rule::Divergent,
            format!(
                "a barrier for whole warps was reached by lanes {mask:#010x}; {missing:#010x} are \
                 elsewhere"
            ),
        ));
    }
    let id = warp.regs.rows[barrier.id as usize].0[lane as usize];
    if id > 15 {
        return Err(fault(
            Rule::Undefined,
            format!("barrier {id}, expected 0 to 15"),
        ));
    }
    let expected = if barrier.threads == NONE {
        None
    } else {
        let threads = warp.regs.rows[barrier.threads as usize].0[lane as usize];
        if threads == 0
            || !threads.is_multiple_of(32)
            || threads > block.threads.next_multiple_of(32)
        {
            return Err(fault(
                Rule::Undefined,
                format!("a barrier of {threads} threads, expected a multiple of 32 in the block"),
            ));
        }
        Some(threads)
    };
    super::machine::close(cx, block, warp)?;
    let state = &mut block.barriers[id as usize];
    if state.arrived != 0 && state.expected != expected {
        return Err(fault(
            Rule::Undefined,
            format!(
                "barrier {id} of {expected:?} threads, while others wait at it for {:?}",
                state.expected
            ),
        ));
    }
    if state.arrived == 0 {
        *state = BarrierState {
            expected,
            all: true,
            ..BarrierState::default()
        };
    }
    // with a number of threads, warps count as 32
    state.arrived += match (expected, barrier.aligned) {
        (Some(_), true) => 32,
        _ => mask.count_ones(),
    };
    state.gathered.add(&warp.view);
    if let Some((_, _, p, negated)) = barrier.reduce {
        let p = warp.regs.preds[p as usize] ^ if negated { u32::MAX } else { 0 };
        state.count += (p & mask).count_ones();
        state.all &= p & mask == mask;
        state.any |= p & mask != 0;
    }
    warp.view.advance();
    block.check_barriers = true;
    if !barrier.waits {
        return Ok(None);
    }
    let result = barrier.reduce.map(|(kind, d, ..)| (kind, d));
    state.waiting.push((warp.index, mask, result));
    Ok(Some(id as u8))
}

/// Opens the barriers of a block at which all have arrived. `warps` are all but none: the block's
/// own are complete when this is called.
pub(super) fn open(block: &mut Block) -> Result<bool, Box<Fault>> {
    let mut opened = false;
    let live: u32 = block.warps.iter().map(|w| w.live.count_ones()).sum();
    for id in 0..block.barriers.len() {
        let state = &block.barriers[id];
        if state.arrived == 0 {
            continue;
        }
        let expected = state.expected.unwrap_or(live);
        if state.arrived > expected {
            return Err(Fault::new(
                Rule::Undefined,
                code::ILLEGAL_INSTRUCTION,
                0,
                format!("{} threads at barrier {id} of {expected}", state.arrived),
            ));
        }
        if state.arrived < expected {
            continue;
        }
        opened = true;
        let state = std::mem::take(&mut block.barriers[id]);
        for (index, mask, result) in &state.waiting {
            let warp = &mut block.warps[*index];
            warp.view
                .join(&state.gathered.clocks, &state.gathered.remote);
            match result {
                Some((Reduce::Popc, d)) => {
                    u32::put(&mut warp.regs, *d, &[state.count; LANES], *mask);
                }
                Some((kind, d)) if *d != NONE => {
                    let value = if *kind == Reduce::And {
                        state.all
                    } else {
                        state.any
                    };
                    let bits = if value { u32::MAX } else { 0 };
                    warp.regs.put_pred(*d, bits, *mask);
                }
                _ => {}
            }
            warp.wake(*mask);
        }
        let mut least = [u32::MAX; super::known::WARPS];
        for warp in block.warps.iter().filter(|w| !w.done()) {
            for (a, b) in least.iter_mut().zip(&warp.view.clocks) {
                *a = (*a).min(*b);
            }
        }
        block.shared.forget(&least);
    }
    Ok(opened)
}
