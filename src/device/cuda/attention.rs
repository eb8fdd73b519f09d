//! The kernels of attention.cu, and the shared memory that their blocks take.

use super::layout::MAX_ROWS;

/// Numbers of warps along row tiles for which a head dimension has kernels, ascending; none where
/// it has no kernel.
pub fn row_warps(head_dim: usize) -> &'static [usize] {
    match head_dim {
        64 | 128 => &[1, 2, 4, 8],
        16 | 32 | 48 | 80 | 96 | 112 | 160 => &[2],
        _ => &[],
    }
}

/// The kernel for heads of `head_dim` and one of [`row_warps`].
pub fn kernel(head_dim: usize, row_warps: usize) -> Option<&'static str> {
    Some(match (head_dim, row_warps) {
        (64, 1) => "attention_64_1",
        (64, 2) => "attention_64_2",
        (64, 4) => "attention_64_4",
        (64, 8) => "attention_64_8",
        (128, 1) => "attention_128_1",
        (128, 2) => "attention_128_2",
        (128, 4) => "attention_128_4",
        (128, 8) => "attention_128_8",
        (16, 2) => "attention_16_2",
        (32, 2) => "attention_32_2",
        (48, 2) => "attention_48_2",
        (80, 2) => "attention_80_2",
        (96, 2) => "attention_96_2",
        (112, 2) => "attention_112_2",
        (160, 2) => "attention_160_2",
        _ => return None,
    })
}

/// Dynamic shared memory of a block in bytes: `Shape::BYTES` of attention.cu.
pub fn shared_bytes(head_dim: usize, row_warps: usize) -> usize {
    let position_warps = 8 / row_warps;
    let own = (head_dim / 8).div_ceil(position_warps);
    let slots = match row_warps {
        1 => 0,
        _ if head_dim > 128 => 2,
        2 => 4,
        4 => 8,
        _ => 12,
    };
    let ring = position_warps * slots * head_dim * 32;
    let limit = match row_warps {
        _ if head_dim > 128 => 16 << 10,
        1 => 64 << 10,
        _ => 32 << 10,
    };
    let round = own.min(limit / (8 * 512 * position_warps));
    let exchange = if position_warps > 1 {
        8 * position_warps * round * 512
    } else {
        0
    };
    let q = row_warps * 16 * (head_dim * 2 + 16);
    let both = if head_dim > 128 {
        exchange + q
    } else {
        exchange.max(q)
    };
    ring + both + 8 * 16 * 8 + MAX_ROWS * 4
}
