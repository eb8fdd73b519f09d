//! `mbarrier`: an opaque word of 64 bits in shared memory.

use super::access::*;
use super::copies::wait_all;
use super::lanes::{LANES, Value};
use super::machine::{Block, Context, close};
use super::ops::*;
use super::ranges::*;
use super::shared::Touch;
use super::warp::{Fault, Warp};
use super::{Rule, code};
use crate::memory::SHARED_WINDOW;

/// Fields of the word: arrivals still missing, arrivals of a phase, bytes still missing (biased),
/// and the phase in the top bit.
#[derive(Debug, Clone, Copy)]
struct Phase {
    missing: u32,
    count: u32,
    bytes: i32,
    parity: bool,
}

const BYTES_BIAS: i32 = 1 << 20;
/// Marks a word as an mbarrier; together with the fields it fills 64 bits.
const COUNT_BITS: u32 = 20;

impl Phase {
    fn unpack(word: u64) -> Phase {
        Phase {
            missing: word as u32 & 0xf_ffff,
            count: (word >> COUNT_BITS) as u32 & 0xf_ffff,
            bytes: (word >> 40 & 0x1f_ffff) as i32 - BYTES_BIAS,
            parity: word >> 63 == 1,
        }
    }

    fn pack(self) -> u64 {
        u64::from(self.missing)
            | u64::from(self.count) << COUNT_BITS
            | ((self.bytes + BYTES_BIAS) as u64) << 40
            | u64::from(self.parity) << 63
    }

    /// The next phase begins when nothing is missing.
    fn turn(mut self) -> Phase {
        if self.missing == 0 && self.bytes == 0 {
            self.parity = !self.parity;
            self.missing = self.count;
        }
        self
    }
}

pub(super) fn mbarrier(
    cx: &mut Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    op: &Mbarrier,
    mask: u32,
) -> Result<()> {
    use MbarrierOp::*;
    if op.op == Pending {
        let state = u64::get(&warp.regs, op.value);
        let r = state.map(|s| Phase::unpack(s).missing);
        if op.d != NONE {
            u32::put(&mut warp.regs, op.d, &r, mask);
        }
        return Ok(());
    }
    let mut address = addresses(&warp.regs, op.base, op.base_wide, op.offset);
    if op.generic {
        address = address.map(|a| a.wrapping_sub(SHARED_WINDOW));
    }
    aligned(&address, mask, 8)?;
    if matches!(op.op, CpAsync | CpAsyncNoInc) {
        // the copies of the thread end here, in the segment that the arrival publishes
        wait_all(block, warp, mask);
    }
    close(cx, block, warp)?;
    let mut done = 0u32;
    for lane in lanes(mask) {
        let reads = op.op != Init;
        let at = block
            .shared
            .atomic(warp.index, address[lane], 8, cx.pc, (Touch::Atomic, reads))
            .map_err(|w| shared_fault(w, lane as u32, address[lane], 8, block))?;
        let mut data = [0; 8];
        data.copy_from_slice(&block.shared.data[at..at + 8]);
        let word = u64::from_le_bytes(data);
        let value = match (op.value, op.op) {
            (NONE, _) => 0,
            (row, Test) => u64::get(&warp.regs, row)[lane],
            (row, _) => u64::from(warp.regs.rows[row as usize].0[lane]),
        };
        let bad = |message: String| {
            Fault::new(
                Rule::Undefined,
                code::ILLEGAL_INSTRUCTION,
                lane as u32,
                message,
            )
            .at(address[lane])
        };
        let mut phase = Phase::unpack(word);
        let old = word;
        let key = at as u32;
        match op.op {
            Init => {
                if value == 0 || value >= 1 << COUNT_BITS {
                    return Err(bad(format!("an mbarrier of {value} arrivals")));
                }
                phase = Phase {
                    missing: value as u32,
                    count: value as u32,
                    bytes: 0,
                    parity: false,
                };
                block.shared.mbarriers.insert(key, [0; super::known::WARPS]);
            }
            Inval => {
                block.shared.mbarriers.remove(&key);
            }
            _ if !block.shared.mbarriers.contains_key(&key) => {
                return Err(bad("an mbarrier that was not initialised".to_owned()));
            }
            Arrive | ArriveDrop | ArriveExpect | CpAsync | CpAsyncNoInc => {
                let count = match op.op {
                    Arrive | ArriveDrop => value as u32,
                    // counts itself in first
                    CpAsync => 0,
                    _ => 1,
                };
                if op.op == ArriveExpect {
                    phase.bytes += value as i32;
                }
                if count > phase.missing {
                    return Err(bad(format!(
                        "{count} arrivals at an mbarrier that misses {}",
                        phase.missing
                    )));
                }
                phase.missing -= count;
                if op.op == ArriveDrop {
                    phase.count -= count;
                }
                phase = phase.turn();
                if let Some(clocks) = block.shared.mbarriers.get_mut(&key) {
                    for (a, b) in clocks.iter_mut().zip(&warp.view.clocks) {
                        *a = (*a).max(*b);
                    }
                }
                cx.progress = true;
            }
            Expect => phase.bytes += value as i32,
            Complete => {
                phase.bytes -= value as i32;
                phase = phase.turn();
                cx.progress = true;
            }
            Test | TestParity => {
                // a phase is over when the current one is another
                let over = if op.op == Test {
                    Phase::unpack(value).parity != phase.parity
                } else {
                    (value & 1 == 1) != phase.parity
                };
                done |= u32::from(over) << lane;
            }
            Pending => {}
        }
        block.shared.data[at..at + 8].copy_from_slice(&phase.pack().to_le_bytes());
        if op.d != NONE && !matches!(op.op, Test | TestParity) {
            u64::put(&mut warp.regs, op.d, &[old; LANES], 1 << lane);
        }
    }
    if matches!(op.op, Test | TestParity) {
        if op.d != NONE {
            warp.regs.put_pred(op.d, done, mask);
        }
        if done & mask == mask && op.acquires {
            for lane in lanes(mask) {
                if let Some(clocks) = block.shared.mbarriers.get(&(address[lane] as u32)) {
                    warp.view
                        .join(&clocks.clone(), &super::known::Known::default());
                }
            }
        } else if done == 0 {
            cx.yield_now = true;
        }
    }
    warp.view.advance();
    Ok(())
}
