//! Passes through the banks of shared memory.

use super::lanes::{LANES, wide};
use super::machine::Context;
use super::ranges::Addresses;

/// Passes through shared memory, with a short cut for neighbours and for one address.
#[inline(always)]
fn passes(address: &Addresses, mask: u32, bytes: u32) -> (u32, u32) {
    if mask == u32::MAX {
        let first = address[0];
        let mut apart = 0;
        let mut spread = 0;
        for i in 0..LANES {
            apart |= address[i] ^ (first + i as u64 * u64::from(bytes));
            spread |= address[i] ^ first;
        }
        if apart == 0 {
            let groups = match bytes {
                0..=4 => 1,
                _ => bytes / 4,
            };
            return (groups, 0);
        }
        if spread == 0 && bytes <= 4 {
            return (1, 0);
        }
    }
    wavefronts(address, mask, bytes)
}

/// Where the lanes of a shared access lay when its instruction last ran, and what it took.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    grid: usize,
    pc: u32,
    mask: u32,
    address: Addresses,
    passes: u32,
    conflicts: u32,
}

impl Default for Pattern {
    fn default() -> Pattern {
        Pattern {
            grid: 0,
            pc: u32::MAX,
            mask: 0,
            address: [0; LANES],
            passes: 0,
            conflicts: 0,
        }
    }
}

wide! {
/// Whether all lanes moved by the same multiple of a row of the banks: banks and words that
/// meet are then the same.
fn moved(from: &Addresses, to: &Addresses, mask: u32) -> bool {
    let first = mask.trailing_zeros() as usize % LANES;
    let by = to[first].wrapping_sub(from[first]);
    let mut apart = 0;
    for i in 0..LANES {
        let taken = u64::from(mask >> i & 1).wrapping_neg();
        apart |= (to[i].wrapping_sub(from[i]) ^ by) & taken;
    }
    apart == 0 && by.is_multiple_of(128)
}
}

/// Counts the passes of a shared access. A loop repeats its patterns, so each is worked out once.
#[inline(always)]
pub(super) fn count_passes(cx: &mut Context<'_>, address: &Addresses, mask: u32, bytes: u32) {
    let at = cx.pc as usize % cx.patterns.len();
    let pattern = &mut cx.patterns[at];
    let key = (cx.grid.index, cx.pc, mask);
    if (pattern.grid, pattern.pc, pattern.mask) != key || !moved(&pattern.address, address, mask) {
        let (passes, conflicts) = passes(address, mask, bytes);
        *pattern = Pattern {
            grid: cx.grid.index,
            pc: cx.pc,
            mask,
            address: *address,
            passes,
            conflicts,
        };
    }
    cx.counts.wavefronts += u64::from(pattern.passes);
    cx.counts.conflicts += u64::from(pattern.conflicts);
}

/// Passes that a warp's access takes: lanes go in groups of 128 bytes, and each pass serves one
/// word of each of the 32 banks. Gives passes, and passes beyond one for each group.
fn wavefronts(addresses: &[u64; 32], mask: u32, bytes: u32) -> (u32, u32) {
    let lanes = match bytes {
        0..=4 => 32,
        8 => 16,
        16 => 8,
        _ => 4,
    };
    let words = bytes.div_ceil(4);
    let (mut passes, mut groups) = (0, 0);
    for start in (0..32).step_by(lanes) {
        let group = (mask >> start) as u64 & ((1u64 << lanes) - 1);
        if group == 0 {
            continue;
        }
        groups += 1;
        // words of each bank that differ
        let mut first = [u64::MAX; 32];
        let mut more: Vec<(u8, u64)> = Vec::new();
        let mut depth = [0u8; 32];
        let mut most = 1;
        for lane in 0..lanes {
            if group >> lane & 1 == 0 {
                continue;
            }
            let word = addresses[start + lane] / 4;
            for word in word..word + u64::from(words) {
                let bank = (word % 32) as usize;
                if first[bank] == word {
                    continue;
                }
                if first[bank] == u64::MAX {
                    first[bank] = word;
                    depth[bank] = 1;
                } else if !more.contains(&(bank as u8, word)) {
                    more.push((bank as u8, word));
                    depth[bank] += 1;
                    most = most.max(depth[bank]);
                }
            }
        }
        passes += u32::from(most);
    }
    (passes, passes - groups)
}
