//! How data lies in device memory: the Rust side of kernels/layout.cuh.

use bytemuck::{Pod, Zeroable};

/// Rows that one sweep over the weights serves.
pub const MAX_ROWS: usize = 256;
/// Nodes of a committed path at most.
pub const MAX_PATH: usize = 512;
/// Rows, and columns, of a tile of weights; slots, and features, of a tile of the cache.
pub const TILE: usize = 16;
/// Columns of a pair of tiles.
pub const PAIR: usize = 32;
/// Rows of the pass in a group.
pub const GROUP: usize = 8;
/// Bytes of a pair of tiles.
const PAIR_BYTES: usize = TILE * PAIR * 2;

/// The rows of a pass. Row r writes its key and value to slot `base + r`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Rows {
    /// How many.
    pub rows: i32,
    /// Slot of row 0.
    pub base: i32,
    /// Positions below this lie in the slot of the same number, for every row that sees them.
    pub shared: i32,
    /// Row r has its logits in row `r + logits_at` of the buffer, and none where that is negative.
    pub logits_at: i32,
    /// Token ids.
    pub token: [i32; MAX_ROWS],
    /// Row r sees the positions 0..=position\[r\].
    pub position: [i32; MAX_ROWS],
    /// Position p >= shared of row r lies in slot path\[path_at\[r\] + p - shared\].
    pub path_at: [i32; MAX_ROWS],
}

/// `Best` of layout.cuh: the best of some logits of a row and the best of the others, each the
/// lowest id of its value. A NaN counts as infinity; where there is one logit, the second is
/// -infinity and its token `i32::MAX`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct Best {
    /// The best logit.
    pub value: f32,
    /// Its token.
    pub token: i32,
    /// The best of the others.
    pub second: f32,
    /// Its token.
    pub second_token: i32,
}

/// A path of the last pass: node i moves from slot `slot[i]` to slot `base + i`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Path {
    /// Its nodes.
    pub nodes: i32,
    /// Committed positions before.
    pub base: i32,
    /// Slots of the nodes, ascending, each at least `base + i`.
    pub slot: [i32; MAX_PATH],
}

const _: () = assert!(
    size_of::<Rows>() == 16 + 3 * 4 * MAX_ROWS,
    "as in layout.cuh"
);
const _: () = assert!(size_of::<Best>() == 16, "as in layout.cuh");
const _: () = assert!(size_of::<Path>() == 8 + 4 * MAX_PATH, "as in layout.cuh");

/// Which rows of which matrices make up the rows of a packed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// One matrix of `rows` rows, as they come.
    Plain {
        /// Rows of the matrix.
        rows: usize,
    },
    /// q, k and v, head by head; rotary partners are eight rows apart.
    Qkv {
        /// Query heads.
        heads: usize,
        /// Key heads, and value heads.
        kv_heads: usize,
        /// Rows of a head, a multiple of 16.
        head_dim: usize,
    },
    /// Gate and up, eight rows of each in turn.
    GateUp {
        /// Rows of gate, and of up.
        rows: usize,
    },
}

impl Order {
    /// Rows of tiles.
    pub fn tiles(self) -> usize {
        match self {
            Order::Plain { rows } => rows.div_ceil(TILE),
            Order::Qkv {
                heads,
                kv_heads,
                head_dim,
            } => (heads + 2 * kv_heads) * head_dim / TILE,
            Order::GateUp { rows } => rows.div_ceil(TILE / 2),
        }
    }

    /// Matrix (0 is q or gate, 1 is k or up, 2 is v) and row of it that packed row `at` holds;
    /// `None` where it is padding, which is zero.
    pub fn source(self, at: usize) -> Option<(usize, usize)> {
        let (tile, r) = (at / TILE, at % TILE);
        let half = TILE / 2;
        match self {
            Order::Plain { rows } => (at < rows).then_some((0, at)),
            Order::Qkv {
                heads,
                kv_heads,
                head_dim,
            } => {
                let (head, within) = (at / head_dim, tile % (head_dim / TILE) * half);
                let feature = match r < half {
                    true => within + r,
                    false => head_dim / 2 + within + r - half,
                };
                let (part, head) = match head {
                    q if q < heads => (0, q),
                    k if k < heads + kv_heads => (1, k - heads),
                    v if v < heads + 2 * kv_heads => (2, v - heads - kv_heads),
                    _ => return None,
                };
                Some((part, head * head_dim + feature))
            }
            Order::GateUp { rows } => {
                let row = tile * half + r % half;
                (row < rows).then_some((r / half, row))
            }
        }
    }
}

/// Pairs of tiles that `columns` take, the last one filled up with zeros.
pub fn pairs(columns: usize) -> usize {
    columns.div_ceil(PAIR)
}

/// Bytes of a packed matrix.
pub fn packed_bytes(order: Order, columns: usize) -> usize {
    order.tiles() * pairs(columns) * PAIR_BYTES
}

/// Bytes of activations in B order: `rows` rows of the pass with `columns` features.
pub fn activation_bytes(rows: usize, columns: usize) -> usize {
    rows.div_ceil(GROUP) * pairs(columns) * GROUP * PAIR * 2
}

/// Slots of a KV cache for `positions`: whole tiles.
pub fn capacity(positions: usize) -> usize {
    positions.next_multiple_of(TILE)
}

/// Bytes of a KV cache.
pub fn cache_bytes(layers: usize, kv_heads: usize, head_dim: usize, capacity: usize) -> usize {
    layers * 2 * kv_heads * capacity * head_dim * 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_packed_once_and_the_rest_is_padding() {
        let cases = [
            (Order::Plain { rows: 301 }, vec![301]),
            (
                Order::Qkv {
                    heads: 4,
                    kv_heads: 2,
                    head_dim: 48,
                },
                vec![192, 96, 96],
            ),
            (Order::GateUp { rows: 333 }, vec![333, 333]),
        ];
        for (order, parts) in cases {
            let mut seen: Vec<Vec<usize>> = parts.iter().map(|&rows| vec![0; rows]).collect();
            for at in 0..order.tiles() * TILE {
                if let Some((part, row)) = order.source(at) {
                    seen[part][row] += 1;
                }
            }
            assert!(seen.iter().flatten().all(|&n| n == 1), "{order:?}");
            assert_eq!(order.source(order.tiles() * TILE), None);
        }
    }

    #[test]
    fn rotary_partners_share_a_lane() {
        let head_dim = 64;
        let order = Order::Qkv {
            heads: 3,
            kv_heads: 1,
            head_dim,
        };
        for at in (0..order.tiles() * TILE).filter(|at| at % TILE < 8) {
            let (part, row) = order.source(at).unwrap();
            assert_eq!(order.source(at + 8), Some((part, row + head_dim / 2)));
        }
    }
}
