//! `ldmatrix` and `stmatrix`: 8x8 matrices of halves between shared memory and fragments.

use super::access::*;
use super::banks::count_passes;
use super::lanes::{LANES, Value};
use super::machine::{Block, Context};
use super::ops::*;
use super::ranges::lanes;
use super::warp::{Fault, Warp};
use super::{Rule, code, mma};
use crate::memory::SHARED_WINDOW;

pub(super) fn matrix(
    cx: &mut Context<'_>,
    block: &mut Block,
    warp: &mut Warp,
    matrix: &Matrix,
    mask: u32,
) -> Result<()> {
    whole(
        warp,
        mask,
        if matrix.store { "stmatrix" } else { "ldmatrix" },
    )?;
    let mut address = addresses(&warp.regs, matrix.base, matrix.base_wide, matrix.offset);
    if matrix.generic {
        for lane in 0..LANES {
            let used = lane < 8 * matrix.count;
            if used && generic(address[lane]) != Place::Shared {
                return Err(Fault::new(
                    Rule::OutOfBounds,
                    code::INVALID_ADDRESS_SPACE,
                    lane as u32,
                    "a matrix outside shared memory",
                )
                .at(address[lane]));
            }
            address[lane] = address[lane].wrapping_sub(SHARED_WINDOW);
        }
    }
    let used = if matrix.count == 4 {
        u32::MAX
    } else {
        (1 << (8 * matrix.count)) - 1
    };
    aligned(&address, used, 16)?;
    count_passes(cx, &address, used, 16);
    for lane in lanes(used) {
        let at = address[lane];
        let checked = if matrix.store {
            block.shared.write(warp.index, at, 16, cx.pc)
        } else {
            block.shared.read(warp.index, at, 16, cx.pc)
        };
        checked.map_err(|w| shared_fault(w, lane as u32, at, 16, block))?;
    }
    for m in 0..matrix.count {
        if matrix.store {
            let values = u32::get(&warp.regs, matrix.data[m]);
            for row in 0..8 {
                let at = address[8 * m + row] as usize;
                for column in 0..8 {
                    let half = mma::element_of_matrix(&values, row, column, matrix.transposed);
                    block.shared.data[at + 2 * column..at + 2 * column + 2]
                        .copy_from_slice(&half.to_le_bytes());
                }
            }
            cx.progress = true;
        } else if !matrix.transposed {
            // four neighbours of a row for each of four lanes: a row of 16 bytes as it lies
            let values = &mut warp.regs.rows[matrix.data[m] as usize].0;
            for (row, words) in values.chunks_exact_mut(4).enumerate() {
                let at = address[8 * m + row] as usize;
                let data: &[u8] = &block.shared.data[at..at + 16];
                words.copy_from_slice(&bytemuck::pod_read_unaligned::<[u32; 4]>(data));
            }
        } else {
            let mut rows = [[0u16; 8]; 8];
            for (row, out) in rows.iter_mut().enumerate() {
                let at = address[8 * m + row] as usize;
                for (column, half) in out.iter_mut().enumerate() {
                    let at = at + 2 * column;
                    *half = u16::from_le_bytes([block.shared.data[at], block.shared.data[at + 1]]);
                }
            }
            let values = mma::matrix_to_lanes(&rows, true);
            u32::put(&mut warp.regs, matrix.data[m], &values, u32::MAX);
        }
    }
    Ok(())
}
