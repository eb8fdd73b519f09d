//! How each matrix is cut for a device, once at load: what exactness fixes, and what varies with
//! the rows of a pass.

use super::layout::{GROUP, MAX_ROWS, TILE, pairs};

/// What the plans depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chip {
    /// Streaming multiprocessors.
    pub multiprocessors: usize,
    /// Major compute capability.
    pub major: usize,
}

impl Chip {
    /// Bytes of weights that a multiprocessor should have under way at a time: bandwidth times
    /// latency, shared by all of them.
    pub fn bytes_in_flight(&self) -> usize {
        if self.major >= 10 { 64 << 10 } else { 32 << 10 }
    }
}

/// What follows a product, as far as it limits the cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follows {
    /// Nothing that looks beyond a row tile.
    Nothing,
    /// Sums of squares for the next norm: at most [`MAX_PARTS`] parts.
    Squares,
    /// A norm over the tiles of a head, which must meet in one block.
    HeadNorm {
        /// Row tiles of a head.
        tiles: usize,
    },
}

/// Most partial sums of squares of a row.
pub const MAX_PARTS: usize = 64;

/// Numbers of groups of 8 rows for which there is a kernel.
pub const GROUPS: [usize; 5] = [1, 2, 4, 8, 32];

/// The cut of one matrix. All of it is fixed for a matrix and device, whatever the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Row tiles of the matrix.
    pub row_tiles: usize,
    /// Pairs of k-tiles.
    pub pairs: usize,
    /// Row tiles of a block.
    pub block_tiles: usize,
    /// Warps along k.
    pub warps_k: usize,
    /// Blocks of the grid.
    pub workers: usize,
    /// Row tiles that share a partial sum of squares.
    pub part_tiles: usize,
}

/// One launch of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Groups of 8 rows that the kernel takes.
    pub groups: usize,
    /// Warps along the rows of the matrix.
    pub warps_m: usize,
    /// Threads of a block.
    pub threads: usize,
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: usize,
}

/// A byte of partial sums is written, read and waited for, and comes on top of the weights'
/// traffic; a byte of activations comes from the second cache.
const PARTIALS_WEIGHT: usize = 8;

impl Plan {
    /// Chooses the cut for a matrix of `row_tiles` row tiles and `columns` columns: of those that
    /// keep enough loads under way and do what `follows` asks, the one that moves least beside the
    /// weights in a pass of 64 rows.
    pub fn choose(row_tiles: usize, columns: usize, follows: Follows, chip: Chip) -> Plan {
        let candidates: Vec<Plan> = match follows {
            Follows::HeadNorm { tiles } => {
                let whole = (8 / tiles).max(1) * tiles;
                vec![Plan::cut(row_tiles, columns, whole, 1, whole, chip)]
            }
            _ => [(1, 8), (8, 1), (16, 1)]
                .into_iter()
                .map(|(block, warps_k)| {
                    Plan::cut(row_tiles, columns, block, warps_k, block.min(8), chip)
                })
                .filter(|plan| follows != Follows::Squares || plan.parts() <= MAX_PARTS)
                .collect(),
        };
        *candidates
            .iter()
            .min_by_key(|plan| plan.activation_bytes(64) + PARTIALS_WEIGHT * plan.partial_bytes(64))
            .expect("8 row tiles a block serve any width that a residual stream has")
    }

    fn cut(
        row_tiles: usize,
        columns: usize,
        block_tiles: usize,
        warps_k: usize,
        part_tiles: usize,
        chip: Chip,
    ) -> Plan {
        let pairs = pairs(columns);
        let warp_bytes = 2 * ahead(1, warps_k) * PAIR_TILE_BYTES;
        let blocks = chip
            .bytes_in_flight()
            .div_ceil(block_tiles * warps_k * warp_bytes)
            .clamp(1, 2);
        let units = row_tiles.div_ceil(block_tiles) * pairs;
        Plan {
            row_tiles,
            pairs,
            block_tiles,
            warps_k,
            workers: (chip.multiprocessors * blocks).min(units),
            part_tiles,
        }
    }

    /// Row blocks.
    pub fn row_blocks(&self) -> usize {
        self.row_tiles.div_ceil(self.block_tiles)
    }

    /// Partial sums of squares of a row, or bests.
    pub fn parts(&self) -> usize {
        self.row_tiles.div_ceil(self.part_tiles)
    }

    /// Bytes of the packed matrix.
    pub fn weight_bytes(&self) -> usize {
        self.row_tiles * self.pairs * 2 * PAIR_TILE_BYTES
    }

    /// Units of work of all workers.
    fn units(&self) -> usize {
        self.row_blocks() * self.pairs
    }

    /// The first unit of a worker.
    fn start(&self, worker: usize) -> usize {
        worker * self.units() / self.workers
    }

    /// Segments of row blocks that several workers share.
    pub fn shared_segments(&self) -> usize {
        let mut segments = 0;
        for worker in 0..self.workers {
            let (mut unit, end) = (self.start(worker), self.start(worker + 1));
            while unit < end {
                let after = ((unit / self.pairs + 1) * self.pairs).min(end);
                segments += usize::from(after - unit < self.pairs);
                unit = after;
            }
        }
        segments
    }

    /// Bytes of partial sums that a pass of `rows` rows writes, and reads again.
    pub fn partial_bytes(&self, rows: usize) -> usize {
        self.shared_segments() * self.block_tiles * rows.div_ceil(GROUP) * 512
    }

    /// Bytes of activations that all blocks of a pass of `rows` rows read.
    pub fn activation_bytes(&self, rows: usize) -> usize {
        self.units() * rows.div_ceil(GROUP) * 512
    }

    /// The share of the multiprocessors' time that an uneven cut wastes.
    pub fn tail_waste(&self, chip: Chip) -> f64 {
        let per_block = self.units().div_ceil(self.workers);
        let rounds = self.workers.div_ceil(chip.multiprocessors);
        1.0 - self.units() as f64 / (per_block * rounds * chip.multiprocessors) as f64
    }

    /// Bytes of weights that the resident warps of a multiprocessor have under way in a pass of
    /// up to 8 rows.
    pub fn bytes_in_flight(&self, chip: Chip) -> usize {
        let blocks = self.workers.div_ceil(chip.multiprocessors);
        blocks * self.block_tiles * self.warps_k * 2 * ahead(1, self.warps_k) * PAIR_TILE_BYTES
    }

    /// How a pass of `rows` rows, 1 to [`MAX_ROWS`], is launched.
    pub fn shape(&self, rows: usize) -> Shape {
        debug_assert!((1..=MAX_ROWS).contains(&rows));
        let needed = rows.div_ceil(GROUP);
        let groups = GROUPS
            .into_iter()
            .find(|&g| g >= needed)
            .unwrap_or(GROUPS[4]);
        // more than 8 groups take the registers of two warps
        let warps_m = match groups > 8 {
            true => self.block_tiles.min(self.part_tiles),
            false => self.block_tiles,
        };
        Shape {
            groups,
            warps_m,
            threads: 32 * warps_m * self.warps_k,
            shared_bytes: shared_bytes(groups, self.warps_k, warps_m),
        }
    }

    /// Bytes of the partial sums' buffer for passes of up to `rows` rows.
    pub fn partial_buffer_bytes(&self, rows: usize) -> usize {
        2 * self.workers * self.block_tiles * self.shape(rows).groups * 512
    }
}

/// Bytes of one tile.
const PAIR_TILE_BYTES: usize = TILE * TILE * 2;

// linear.cu's shapes, as layout.cuh computes them.

/// `linear_ahead`.
fn ahead(groups: usize, warps_k: usize) -> usize {
    match (warps_k, groups) {
        (1, 9..) => 2,
        (1, _) | (_, 1) => 4,
        (_, 2) => 2,
        _ => 1,
    }
}

/// `linear_shared_bytes`.
fn shared_bytes(groups: usize, warps_k: usize, warps_m: usize) -> usize {
    let stage_groups = groups.min(8);
    let chunk = ahead(groups, warps_k) * warps_k * stage_groups * 512;
    let stage = match groups > 8 || chunk >= 16384 {
        true => chunk,
        false => 16384 / chunk * chunk,
    };
    let sums = warps_k * warps_m * stage_groups * 512;
    (3 * stage).max(sums) + groups * GROUP * 4 + warps_m * 8 * GROUP * 12
}
