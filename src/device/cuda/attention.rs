//! The kernels of attention.cu, and the shared memory that their blocks take.

use super::layout::MAX_ROWS;

/// Numbers of row tiles of a block for which a head dimension has kernels, ascending; none where it
/// has no kernel.
pub fn row_tiles(head_dim: usize) -> &'static [usize] {
    match head_dim {
        64 | 128 => &[1, 2, 4, 8, 16],
        16 | 32 | 48 | 80 | 96 | 112 | 160 => &[2],
        _ => &[],
    }
}

/// The fewest of [`row_tiles`] that hold the `tiles` of a pass, or the most there are, where a block
/// may have `shared` bytes of shared memory. 16 row tiles are taken only where `blocks` cannot work on
/// the halves of them, 8 each, all at once: there are `items` (KV heads times splits of the positions)
/// for each 16.
pub fn choose(
    head_dim: usize,
    tiles: usize,
    shared: usize,
    (items, blocks): (usize, usize),
) -> Option<usize> {
    let halves = 2 * tiles.div_ceil(16) * items;
    let fits = |row_tiles: usize| {
        shared_bytes(head_dim, row_tiles) <= shared && (row_tiles <= 8 || halves > blocks)
    };
    let mut known = row_tiles(head_dim).iter().copied().filter(|&r| fits(r));
    let most = known.clone().next_back();
    known.find(|&r| r >= tiles).or(most)
}

/// The kernel for heads of `head_dim` and one of [`row_tiles`].
pub fn kernel(head_dim: usize, row_tiles: usize) -> Option<&'static str> {
    Some(match (head_dim, row_tiles) {
        (64, 1) => "attention_64_1",
        (64, 2) => "attention_64_2",
        (64, 4) => "attention_64_4",
        (64, 8) => "attention_64_8",
        (64, 16) => "attention_64_16",
        (128, 1) => "attention_128_1",
        (128, 2) => "attention_128_2",
        (128, 4) => "attention_128_4",
        (128, 8) => "attention_128_8",
        (128, 16) => "attention_128_16",
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
pub fn shared_bytes(head_dim: usize, row_tiles: usize) -> usize {
    let each = row_tiles.div_ceil(8);
    let position_warps = 8 * each / row_tiles;
    let own = (head_dim / 8).div_ceil(position_warps);
    let slots = match row_tiles {
        1 => 0,
        _ if head_dim > 128 => 2,
        2 => 4,
        4 => 8,
        8 => 12,
        _ => 7,
    };
    let ring = position_warps * slots * head_dim * 32;
    let limit = match row_tiles {
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
    let folded = if each > 1 {
        row_tiles * head_dim * 64
    } else {
        0
    };
    let other = exchange + folded;
    let q = row_tiles * 16 * (head_dim * 2 + 16);
    let both = if head_dim > 128 {
        other + q
    } else {
        other.max(q)
    };
    // (top, sum) of rows, and the last position that they see
    let states = 8 * each * (16 * 8 + 8 * 8);
    ring + both + states + MAX_ROWS * 4
}
