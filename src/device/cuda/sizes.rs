//! What a pass works in, and what a model takes of a GPU's memory.

use super::judge;
use super::layout::{Best, GROUP, MAX_PATH, MAX_ROWS, Path, Rows, activation_bytes, capacity};
use super::memory::Need;
use super::plan::{Chip, MAX_PARTS, Plan, Plans};
use super::weights::Weights;
use crate::model::{Config, Model};

/// Most bytes of attention's partial states; what needs more is launched in parts.
const ATTENTION_PARTIALS: usize = 64 << 20;
/// Positions of a split of attention.
pub(super) const SPLIT: usize = 512;

/// Sizes in bytes of what a pass works in, by name.
pub(super) struct Sizes {
    pub rows: usize,
    pub paths: usize,
    pub path: usize,
    pub x: usize,
    pub normed: usize,
    pub q: usize,
    pub attended: usize,
    pub inner: usize,
    pub squares: usize,
    pub partials: usize,
    pub counters: usize,
    pub attention: usize,
    pub arrived: usize,
    pub logits: usize,
    pub best: usize,
    pub hidden: usize,
    pub angles: usize,
}

impl Sizes {
    pub fn of(c: &Config, plans: &Plans, capacity: usize) -> Sizes {
        let named = plans.named();
        let most =
            |of: &dyn Fn(&Plan) -> usize| named.iter().map(|(_, p)| of(p)).max().unwrap_or(0);
        let row_groups = (MAX_ROWS * c.heads / c.kv_heads).div_ceil(16);
        Sizes {
            rows: size_of::<Rows>(),
            paths: 4 * MAX_ROWS * MAX_PATH,
            path: size_of::<Path>(),
            x: 4 * MAX_ROWS * c.hidden_size,
            normed: activation_bytes(MAX_ROWS, c.hidden_size),
            q: 2 * MAX_ROWS * c.q_width(),
            attended: activation_bytes(MAX_ROWS, c.q_width()),
            inner: activation_bytes(MAX_ROWS, c.intermediate_size),
            squares: 4 * MAX_PARTS * MAX_ROWS,
            partials: most(&|p| p.partial_buffer_bytes(MAX_ROWS)),
            counters: 4 * most(&|p| p.row_tiles),
            attention: ATTENTION_PARTIALS
                .max(attention_record(c) * 16 * c.kv_heads * capacity.div_ceil(SPLIT)),
            arrived: 4 * row_groups * c.kv_heads,
            logits: 4 * MAX_ROWS * c.vocab_size.next_multiple_of(GROUP),
            best: size_of::<Best>() * MAX_ROWS * plans.head.parts(),
            hidden: 4 * MAX_ROWS * c.hidden_size,
            angles: 4 * capacity * c.head_dim,
        }
    }

    pub fn total(&self) -> usize {
        let Sizes {
            rows,
            paths,
            path,
            x,
            normed,
            q,
            attended,
            inner,
            squares,
            partials,
            counters,
            attention,
            arrived,
            logits,
            best,
            hidden,
            angles,
        } = self;
        [
            rows, paths, path, x, normed, q, attended, inner, squares, partials, counters,
            attention, arrived, logits, best, hidden, angles,
        ]
        .into_iter()
        .sum()
    }
}

/// Bytes of the partial state of a row tile, as attention.cu lays it out.
pub(super) fn attention_record(c: &Config) -> usize {
    c.head_dim * 64 + 128
}

/// What a model with room for `positions` needs, known before anything is loaded; without weights
/// where it `shares` those of another.
pub fn need(model: &Model, positions: usize, chip: Chip, shares: bool) -> Need {
    let plans = Plans::choose(&model.config, chip);
    let sizes = Sizes::of(&model.config, &plans, capacity(positions));
    let all = Need::of(model, positions);
    let (weights, staging) = match shares {
        true => (0, 0),
        false => (all.weights, Weights::staging_bytes(model)),
    };
    Need {
        weights,
        workspace: sizes.total() + judge::bytes(&model.config) + staging,
        ..all
    }
}
