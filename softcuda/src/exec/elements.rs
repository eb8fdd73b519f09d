//! Elements of the lanes, between registers and memory.

use super::lanes::{LANES, Regs, Value, each, wide};
use super::ops::*;

/// The bytes that a warp moves: up to 32 for each lane.
#[repr(C, align(64))]
pub(super) struct Buffer(pub [u8; 32 * LANES]);

/// Registers of an access to one, two or four words of 32 bits a lane, all of which are wanted.
#[inline(always)]
pub(super) fn words(access: &Access) -> Option<&[u16]> {
    let rows = &access.data[..access.count as usize];
    let plain = access.bytes == 4 && !access.wide && access.count <= 4;
    (plain && !rows.contains(&NONE)).then_some(rows)
}

wide! {
/// Words of all lanes, which lie one lane behind the other, to a register for each word.
pub(super) fn words_to_rows(regs: &mut Regs, rows: &[u16], data: &[u8]) {
    match *rows {
        [row] => {
            if let Ok(words) = bytemuck::try_pod_read_unaligned::<[u32; LANES]>(data) {
                regs.rows[row as usize].0 = words;
            }
        }
        [a, b] => {
            if let Ok(words) = bytemuck::try_pod_read_unaligned::<[[u32; 2]; LANES]>(data) {
                u32::put(regs, a, &each(|i| words[i][0]), u32::MAX);
                u32::put(regs, b, &each(|i| words[i][1]), u32::MAX);
            }
        }
        [a, b, c, d] => {
            // four lanes at a time
            for (group, quad) in data.chunks_exact(64).enumerate().take(LANES / 4) {
                let four = transposed(bytemuck::pod_read_unaligned(quad));
                for (row, words) in [a, b, c, d].into_iter().zip(four) {
                    regs.rows[row as usize].0[4 * group..4 * group + 4].copy_from_slice(&words);
                }
            }
        }
        _ => {}
    }
}
}

#[inline(always)]
#[cfg(target_arch = "x86_64")]
fn transposed(words: [[u32; 4]; 4]) -> [[u32; 4]; 4] {
    use std::arch::x86_64::*;
    let [a, b, c, d]: [__m128i; 4] = bytemuck::cast(words);
    // SAFETY: every processor of this architecture has these
    unsafe {
        let (low, high) = (_mm_unpacklo_epi32(a, b), _mm_unpackhi_epi32(a, b));
        let (more_low, more_high) = (_mm_unpacklo_epi32(c, d), _mm_unpackhi_epi32(c, d));
        bytemuck::cast([
            _mm_unpacklo_epi64(low, more_low),
            _mm_unpackhi_epi64(low, more_low),
            _mm_unpacklo_epi64(high, more_high),
            _mm_unpackhi_epi64(high, more_high),
        ])
    }
}

#[inline(always)]
#[cfg(not(target_arch = "x86_64"))]
fn transposed(words: [[u32; 4]; 4]) -> [[u32; 4]; 4] {
    std::array::from_fn(|i| std::array::from_fn(|j| words[j][i]))
}

wide! {
/// Elements of the lanes to registers, widened as the access says.
pub(super) fn to_registers(regs: &mut Regs, access: &Access, buffer: &Buffer, mask: u32) {
    let count = access.count as usize;
    let width = access.bytes as usize;
    for (k, &row) in access.data[..count].iter().enumerate() {
        if row == NONE {
            continue;
        }
        match (width, access.wide) {
            (4, false) => {
                let words: &[u32; 8 * LANES] = bytemuck::cast_ref(&buffer.0);
                let values: [u32; LANES] = match count {
                    1 => each(|i| words[i]),
                    2 => each(|i| words[2 * i + k]),
                    4 => each(|i| words[4 * i + k]),
                    _ => each(|i| words[8 * i + k]),
                };
                u32::put(regs, row, &values, mask);
            }
            (8, true) => {
                let words: &[u64; 4 * LANES] = bytemuck::cast_ref(&buffer.0);
                let values: [u64; LANES] = match count {
                    1 => each(|i| words[i]),
                    2 => each(|i| words[2 * i + k]),
                    _ => each(|i| words[4 * i + k]),
                };
                u64::put(regs, row, &values, mask);
            }
            (2, false) if !access.signed => {
                let words: &[u16; 16 * LANES] = bytemuck::cast_ref(&buffer.0);
                let values: [u32; LANES] =
                    each(|i| words[(count * i + k) % words.len()].into());
                u32::put(regs, row, &values, mask);
            }
            _ => {
                let values: [u64; LANES] = each(|i| {
                    let at = (i * count + k) * width;
                    let mut data = [0; 8];
                    data[..width].copy_from_slice(&buffer.0[at..at + width]);
                    let value = u64::from_le_bytes(data);
                    if access.signed {
                        let shift = 64 - 8 * width as u32;
                        ((value << shift) as i64 >> shift) as u64
                    } else {
                        value
                    }
                });
                if access.wide {
                    u64::put(regs, row, &values, mask);
                } else if access.narrow16 {
                    u16::put(regs, row, &each(|i| values[i] as u16), mask);
                } else {
                    u32::put(regs, row, &each(|i| values[i] as u32), mask);
                }
            }
        }
    }
}
}

/// Elements of the lanes from registers, as they lie in memory.
#[inline(always)]
pub(super) fn from_registers(regs: &Regs, access: &Access, buffer: &mut Buffer) {
    let count = access.count as usize;
    let width = access.bytes as usize;
    for (k, &row) in access.data[..count].iter().enumerate() {
        match (width, access.wide) {
            (4, false) => {
                let values = u32::get(regs, row);
                let words: &mut [u32; 8 * LANES] = bytemuck::cast_mut(&mut buffer.0);
                match count {
                    1 => (0..LANES).for_each(|i| words[i] = values[i]),
                    2 => (0..LANES).for_each(|i| words[2 * i + k] = values[i]),
                    4 => (0..LANES).for_each(|i| words[4 * i + k] = values[i]),
                    _ => (0..LANES).for_each(|i| words[8 * i + k] = values[i]),
                }
            }
            _ => {
                let values: [u64; LANES] = if access.wide {
                    u64::get(regs, row)
                } else {
                    u32::get(regs, row).map(u64::from)
                };
                for (i, value) in values.iter().enumerate() {
                    let at = (i * count + k) * width;
                    buffer.0[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
                }
            }
        }
    }
}
