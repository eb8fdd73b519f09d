//! How each matrix is cut for a device, once at load: what exactness fixes, and what varies with
//! the rows of a pass.

use super::layout::{Best, GROUP, MAX_ROWS, TILE, pairs};
use crate::model::Config;

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
const PARTIALS_WEIGHT: usize = 4;

impl Plan {
    /// Chooses the cut for a matrix of `row_tiles` row tiles and `columns` columns: of those that
    /// do what `follows` asks, those that give every multiprocessor work, where there are such, and of
    /// these the one that moves least beside the weights in a pass of 64 rows.
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
            .min_by_key(|plan| {
                let moved = plan.activation_bytes(64) + PARTIALS_WEIGHT * plan.partial_bytes(64);
                (plan.workers < chip.multiprocessors, moved)
            })
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

    /// Units of work of all workers: pairs of k-tiles of row blocks.
    pub fn units(&self) -> usize {
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

    /// Bytes of partial sums that a pass of `rows` rows writes. It reads all of them again but those of
    /// the last to arrive at each row block.
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
    (3 * stage).max(sums) + groups * GROUP * 4 + warps_m * 8 * GROUP * size_of::<Best>()
}

/// The plans of a model's matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plans {
    /// q, k and v.
    pub qkv: Plan,
    /// Output of attention.
    pub o: Plan,
    /// Gate and up.
    pub gate_up: Plan,
    /// Down.
    pub down: Plan,
    /// LM head.
    pub head: Plan,
}

impl Plans {
    /// Chooses them for a chip.
    pub fn choose(c: &Config, chip: Chip) -> Plans {
        let tiles = |rows: usize| rows.div_ceil(16);
        let qkv = match c.qk_norm() {
            true => Follows::HeadNorm {
                tiles: c.head_dim / 16,
            },
            false => Follows::Nothing,
        };
        let (hidden, inner) = (c.hidden_size, c.intermediate_size);
        let heads = c.q_width() + 2 * c.kv_width();
        Plans {
            qkv: Plan::choose(tiles(heads), hidden, qkv, chip),
            o: Plan::choose(tiles(hidden), c.q_width(), Follows::Squares, chip),
            gate_up: Plan::choose(tiles(2 * inner), hidden, Follows::Nothing, chip),
            down: Plan::choose(tiles(hidden), inner, Follows::Squares, chip),
            head: Plan::choose(tiles(c.vocab_size), hidden, Follows::Nothing, chip),
        }
    }

    /// All of them with their names, in the order in which a token meets them.
    pub fn named(&self) -> [(&'static str, Plan); 5] {
        [
            ("qkv", self.qkv),
            ("o", self.o),
            ("gate, up", self.gate_up),
            ("down", self.down),
            ("head", self.head),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, hidden size, intermediate size, heads, KV heads, head_dim, vocabulary, QK-norm.
    type Widths = (&'static str, usize, usize, usize, usize, usize, usize, bool);

    const MODELS: [Widths; 18] = [
        ("SmolLM2-135M", 576, 1536, 9, 3, 64, 49_152, false),
        ("Llama-3.2-1B", 2048, 8192, 32, 8, 64, 128_256, false),
        ("Llama-3.2-3B", 3072, 8192, 24, 8, 128, 128_256, false),
        ("Llama-3.1-8B", 4096, 14_336, 32, 8, 128, 128_256, false),
        ("Llama-3.1-70B", 8192, 28_672, 64, 8, 128, 128_256, false),
        ("Qwen2.5-0.5B", 896, 4864, 14, 2, 64, 151_936, false),
        ("Qwen2.5-1.5B", 1536, 8960, 12, 2, 128, 151_936, false),
        ("Qwen2.5-3B", 2048, 11_008, 16, 2, 128, 151_936, false),
        ("Qwen2.5-7B", 3584, 18_944, 28, 4, 128, 152_064, false),
        ("Qwen2.5-14B", 5120, 13_824, 40, 8, 128, 152_064, false),
        ("Qwen2.5-32B", 5120, 27_648, 40, 8, 128, 152_064, false),
        ("Qwen2.5-72B", 8192, 29_568, 64, 8, 128, 152_064, false),
        ("Qwen3-0.6B", 1024, 3072, 16, 8, 128, 151_936, true),
        ("Qwen3-1.7B", 2048, 6144, 16, 8, 128, 151_936, true),
        ("Qwen3-4B", 2560, 9728, 32, 8, 128, 151_936, true),
        ("Qwen3-8B", 4096, 12_288, 32, 8, 128, 151_936, true),
        ("Qwen3-14B", 5120, 17_408, 40, 8, 128, 151_936, true),
        ("Qwen3-32B", 5120, 25_600, 64, 8, 128, 151_936, true),
    ];

    const CHIPS: [Chip; 3] = [
        Chip {
            multiprocessors: 108,
            major: 8,
        },
        Chip {
            multiprocessors: 132,
            major: 9,
        },
        Chip {
            multiprocessors: 148,
            major: 10,
        },
    ];

    fn plans(m: &Widths, chip: Chip) -> [(&'static str, Plan); 5] {
        let &(_, hidden, inner, heads, kv_heads, dim, vocabulary, qk_norm) = m;
        let qkv = match qk_norm {
            true => Follows::HeadNorm { tiles: dim / TILE },
            false => Follows::Nothing,
        };
        let choose = |rows: usize, columns, follows| {
            Plan::choose(rows.div_ceil(TILE), columns, follows, chip)
        };
        [
            ("qkv", choose((heads + 2 * kv_heads) * dim, hidden, qkv)),
            ("o", choose(hidden, heads * dim, Follows::Squares)),
            ("gate, up", choose(2 * inner, hidden, Follows::Nothing)),
            ("down", choose(hidden, inner, Follows::Squares)),
            ("head", choose(vocabulary, hidden, Follows::Nothing)),
        ]
    }

    #[test]
    fn every_multiprocessor_has_work_in_every_matrix_and_enough_of_it_under_way() {
        for chip in CHIPS {
            for model in &MODELS {
                for (matrix, plan) in plans(model, chip) {
                    let what =
                        format!("{} {matrix} on {}: {plan:?}", model.0, chip.multiprocessors);
                    assert_eq!(plan.workers % chip.multiprocessors, 0, "{what}");
                    assert!(
                        plan.bytes_in_flight(chip) >= chip.bytes_in_flight(),
                        "{what}"
                    );
                    // with ten units a block or more, one unit more is less than a tenth
                    if plan.units() >= 10 * plan.workers {
                        assert!(
                            plan.tail_waste(chip) < 0.1,
                            "{what}: {}",
                            plan.tail_waste(chip)
                        );
                    }
                    if ["o", "down"].contains(&matrix) {
                        assert!(plan.parts() <= MAX_PARTS, "{what}");
                    }
                    for rows in [1, 8, 9, 33, 64, 65, 256] {
                        let shape = plan.shape(rows);
                        assert!(
                            shape.threads <= if shape.groups > 8 { 256 } else { 512 },
                            "{what}"
                        );
                        assert!(shape.shared_bytes <= 99 << 10, "{what}: {shape:?}");
                        assert!(plan.workers * plan.workers < 1 << 31, "{what}");
                    }
                }
            }
        }
    }

    #[test]
    fn partial_sums_and_activations_stay_within_the_budget_of_wide_models() {
        // L2 traffic over the weights' at 64 rows, attention and logits apart: what the cut decides
        for (name, most) in [
            ("Llama-3.1-8B", 1.6),
            ("Qwen2.5-7B", 1.6),
            ("Llama-3.2-1B", 1.9),
        ] {
            let model = MODELS.iter().find(|m| m.0 == name).expect("listed");
            let plans = plans(model, CHIPS[1]);
            let sum = |of: &dyn Fn(&Plan) -> usize| -> f64 {
                plans[..4].iter().map(|(_, p)| of(p) as f64).sum()
            };
            let weights = sum(&|p| p.weight_bytes());
            let moved = sum(&|p| p.activation_bytes(64) + 2 * p.partial_bytes(64));
            assert!(
                1.0 + moved / weights < most,
                "{name}: {:.3}",
                1.0 + moved / weights
            );
        }
    }
}
