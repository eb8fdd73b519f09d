//! Attention of every row to the committed positions and to its own path.
//!
//! A row sees the slots 0..`contiguous`, which hold the positions of the same
//! number, and then `path`, slots of the running pass that hold the positions
//! from `contiguous` on. Scores are laid out by *position* before anything is
//! summed, positions are cut in splits of [`SPLIT`] at absolute boundaries, and
//! splits are combined in ascending order: a node of a tree has the bits that
//! it would have in plain decoding.
//!
//! Bytes: keys and values of the visible positions once per block of
//! [`PAIRS`] (row, query head) pairs that share a KV head.

use super::cache::{LayerCache, TILE};
use super::lines::Lines;
use super::simd::{Isa, Simd, entry_points, exp};
use super::team::{Shared, Team};
use std::cell::RefCell;

/// Positions of one online-softmax split.
const SPLIT: usize = 512;

/// (row, query head) pairs that a task takes through the cache together.
const PAIRS: usize = 12;

/// What one row of the pass sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RowView {
    /// Absolute position of the row; it sees `position + 1` positions.
    pub position: usize,
    /// Slots 0..contiguous are the positions 0..contiguous.
    pub contiguous: usize,
    /// Slots of the positions contiguous..=position.
    pub path: Vec<usize>,
}

impl RowView {
    /// Positions of the split that starts at `from`, and how many of them are contiguous.
    fn visible(&self, from: usize) -> (usize, usize) {
        let end = (self.position + 1).clamp(from, from + SPLIT);
        let contiguous = self.contiguous.clamp(from, from + SPLIT);
        (end - from, contiguous - from)
    }
}

/// The operands of one layer's attention.
#[derive(Clone, Copy)]
pub(super) struct Attention<'a> {
    pub heads: usize,
    pub kv_heads: usize,
    /// [rows, heads * head_dim], rotated and scaled
    pub q: &'a [f32],
    pub views: &'a [RowView],
    pub cache: LayerCache<'a>,
    /// weights of softmax as the CUDA kernels have them: see [`round_weights`]
    pub rounded: bool,
    /// [rows, heads * head_dim]
    pub out: Shared<'a, f32>,
}

/// Running softmax of one pair: maximum, sum, and the weighted values [value_stride].
struct Partial {
    max: f32,
    sum: f32,
    acc: Vec<f32>,
}

impl Partial {
    fn empty(value_stride: usize) -> Self {
        Partial {
            max: f32::NEG_INFINITY,
            sum: 0.0,
            acc: vec![0.0; value_stride],
        }
    }

    /// Takes in the next split; splits come in ascending order of position.
    fn add(&mut self, next: &Partial) {
        if next.sum == 0.0 {
            return;
        }
        let max = self.max.max(next.max);
        let (a, b) = ((self.max - max).exp(), (next.max - max).exp());
        self.max = max;
        self.sum = self.sum * a + next.sum * b;
        for (x, y) in self.acc.iter_mut().zip(&next.acc) {
            *x = *x * a + *y * b;
        }
    }
}

/// Fills `out`.
pub(super) fn attention(team: &Team, a: Attention<'_>) {
    let isa = team.isa();
    let group = a.heads / a.kv_heads;
    let pairs = a.views.len() * group;
    let blocks = pairs.div_ceil(PAIRS);
    let tasks = a.kv_heads * blocks;
    let longest = a.views.iter().map(|v| v.position + 1).max().unwrap_or(0);
    let splits = longest.div_ceil(SPLIT);
    let block_of = |task: usize| {
        let (kv_head, block) = (task / blocks, task % blocks);
        (kv_head, block * PAIRS..((block + 1) * PAIRS).min(pairs))
    };
    if splits == 1 || tasks >= 4 * team.threads() {
        team.each(tasks, 1, |range| {
            for task in range {
                let (kv_head, block) = block_of(task);
                let mut running = empty(block.len(), a.cache.value_stride);
                for split in 0..splits {
                    let next = one_split(isa, &a, kv_head, block.clone(), split);
                    running.iter_mut().zip(&next).for_each(|(r, n)| r.add(n));
                }
                write(&a, kv_head, block, &running);
            }
        });
    } else {
        // few rows, long context: the splits of a block run side by side
        let mut partials: Vec<Vec<Partial>> = Vec::new();
        partials.resize_with(tasks * splits, Vec::new);
        let slots = Shared::new(&mut partials);
        team.each(tasks * splits, 1, |range| {
            for t in range {
                let (kv_head, block) = block_of(t / splits);
                let partial = one_split(isa, &a, kv_head, block, t % splits);
                // SAFETY: element t is this task's own.
                unsafe { *slots.at(t, 1) = partial };
            }
        });
        for task in 0..tasks {
            let (kv_head, block) = block_of(task);
            let mut running = empty(block.len(), a.cache.value_stride);
            for next in &partials[task * splits..(task + 1) * splits] {
                running.iter_mut().zip(next).for_each(|(r, n)| r.add(n));
            }
            write(&a, kv_head, block, &running);
        }
    }
}

fn empty(pairs: usize, value_stride: usize) -> Vec<Partial> {
    (0..pairs).map(|_| Partial::empty(value_stride)).collect()
}

/// Divides by the sum and writes the heads of a block.
fn write(a: &Attention<'_>, kv_head: usize, block: std::ops::Range<usize>, done: &[Partial]) {
    let (group, d) = (a.heads / a.kv_heads, a.cache.head_dim);
    for (pair, partial) in block.zip(done) {
        let head = kv_head * group + pair % group;
        let out = a.out.at((pair / group * a.heads + head) * d, d);
        // SAFETY: this (row, head) belongs to this block alone.
        let out = unsafe { std::slice::from_raw_parts_mut(out, d) };
        for (out, sum) in out.iter_mut().zip(&partial.acc) {
            *out = sum / partial.sum;
        }
    }
}

/// Softmax and weighted values of one block of pairs over one split.
fn one_split(
    isa: Isa,
    a: &Attention<'_>,
    kv_head: usize,
    block: std::ops::Range<usize>,
    split: usize,
) -> Vec<Partial> {
    let (group, d) = (a.heads / a.kv_heads, a.cache.head_dim);
    let from = split * SPLIT;
    SCORES.with_borrow_mut(|scores| {
        scores.resize(PAIRS * SPLIT);
        let mut pairs: Vec<Pair> = block
            .zip(scores.chunks_exact_mut(SPLIT))
            .map(|(pair, scores)| {
                let view = &a.views[pair / group];
                let (visible, contiguous) = view.visible(from);
                let head = kv_head * group + pair % group;
                Pair {
                    q: a.q[(pair / group * a.heads + head) * d..].as_ptr(),
                    visible,
                    contiguous,
                    path: if visible > contiguous {
                        let first = from + contiguous - view.contiguous;
                        &view.path[first..first + visible - contiguous]
                    } else {
                        &[]
                    },
                    scores,
                    partial: Partial::empty(a.cache.value_stride),
                }
            })
            .collect();
        // SAFETY: slots below `contiguous` and on the paths are inside the cache and
        // written before this region began; q has a row for every view.
        unsafe { split_kernel(isa, &mut pairs, a.cache, kv_head, from, a.rounded) };
        pairs.into_iter().map(|p| p.partial).collect()
    })
}

thread_local! {
    /// Scores of a block's pairs, [PAIRS, SPLIT]; each is written before it is read.
    static SCORES: RefCell<Lines> = RefCell::default();
}

struct Pair<'a> {
    q: *const f32,
    /// positions of the split that this pair sees
    visible: usize,
    /// of these, how many stand in the slots of their own number
    contiguous: usize,
    /// slots of the others
    path: &'a [usize],
    scores: &'a mut [f32], // [SPLIT]
    partial: Partial,
}

entry_points!(unsafe fn split_kernel = split_body(
    pairs: &mut [Pair<'_>],
    cache: LayerCache<'_>,
    kv_head: usize,
    from: usize,
    rounded: bool,
));

#[inline(always)]
unsafe fn split_body<S: Simd>(
    pairs: &mut [Pair<'_>],
    cache: LayerCache<'_>,
    kv_head: usize,
    from: usize,
    rounded: bool,
) {
    // SAFETY: the caller's contract (see one_split).
    unsafe {
        for some in pairs.chunks_mut(6) {
            match some.len() {
                1 => scores::<S, 1>(some, cache, kv_head, from),
                2 => scores::<S, 2>(some, cache, kv_head, from),
                3 => scores::<S, 3>(some, cache, kv_head, from),
                4 => scores::<S, 4>(some, cache, kv_head, from),
                5 => scores::<S, 5>(some, cache, kv_head, from),
                _ => scores::<S, 6>(some, cache, kv_head, from),
            }
        }
        for pair in pairs.iter_mut() {
            softmax::<S>(pair);
            if rounded {
                round_weights(pair);
            }
        }
        for some in pairs.chunks_mut(3) {
            match some.len() {
                1 => values::<S, 1>(some, cache, kv_head, from),
                2 => values::<S, 2>(some, cache, kv_head, from),
                _ => values::<S, 3>(some, cache, kv_head, from),
            }
        }
    }
}

/// Scores of P pairs against every position of the split that they see.
#[inline(always)]
unsafe fn scores<S: Simd, const P: usize>(
    pairs: &mut [Pair<'_>],
    cache: LayerCache<'_>,
    kv_head: usize,
    from: usize,
) {
    let mut q = [std::ptr::null(); P];
    for p in 0..P {
        q[p] = pairs[p].q;
    }
    // SAFETY: the tiles hold visible slots of at least one pair.
    unsafe {
        contiguous_scores::<S, P>(q, pairs, cache, kv_head, from);
        path_scores::<S, P>(q, pairs, cache, kv_head);
    }
}

/// Scores against the tiles of the split; what a pair does not see is overwritten.
#[inline(always)]
unsafe fn contiguous_scores<S: Simd, const P: usize>(
    q: [*const f32; P],
    pairs: &mut [Pair<'_>],
    cache: LayerCache<'_>,
    kv_head: usize,
    from: usize,
) {
    let end = pairs.iter().map(|p| p.contiguous).max().unwrap_or(0);
    for tile in 0..end.div_ceil(TILE) {
        // SAFETY: the tile holds visible slots of at least one pair.
        unsafe {
            let keys = cache.tile(kv_head, from / TILE + tile);
            let sums = tile_scores::<S, P>(q, keys, cache.head_dim);
            for p in 0..P {
                let scores = pairs[p].scores.as_mut_ptr().add(tile * TILE);
                S::store(scores, sums[p].0);
                S::store(scores.add(8), sums[p].1);
            }
        }
    }
}

/// q . k for 16 positions and P pairs: every position in a lane of its own,
/// features in ascending order.
#[inline(always)]
unsafe fn tile_scores<S: Simd, const P: usize>(
    q: [*const f32; P],
    keys: *const f32,
    head_dim: usize,
) -> [(S::V, S::V); P] {
    // SAFETY: keys is [head_dim, 16], every q is [head_dim].
    unsafe {
        let mut sums = [(S::splat(0.0), S::splat(0.0)); P];
        for i in 0..head_dim {
            let low = S::load(keys.add(i * TILE));
            let high = S::load(keys.add(i * TILE + 8));
            for p in 0..P {
                let x = S::splat(*q[p].add(i));
                sums[p].0 = S::fma(x, low, sums[p].0);
                sums[p].1 = S::fma(x, high, sums[p].1);
            }
        }
        sums
    }
}

/// Scores of the positions that stand on the pairs' paths. The heads of a row share its
/// path and the rows of a branch most of theirs, so a tile is read once for all pairs.
#[inline(always)]
unsafe fn path_scores<S: Simd, const P: usize>(
    q: [*const f32; P],
    pairs: &mut [Pair<'_>],
    cache: LayerCache<'_>,
    kv_head: usize,
) {
    let mut done = [0; P];
    loop {
        // paths ascend
        let next = (0..P).filter_map(|p| pairs[p].path.get(done[p]));
        let Some(tile) = next.map(|slot| slot / TILE).min() else {
            break;
        };
        // SAFETY: a path names slots of the cache.
        let sums = unsafe { tile_scores::<S, P>(q, cache.tile(kv_head, tile), cache.head_dim) };
        for p in 0..P {
            let mut lanes = [0f32; TILE];
            // SAFETY: 16 lanes.
            unsafe {
                S::store(lanes.as_mut_ptr(), sums[p].0);
                S::store(lanes.as_mut_ptr().add(8), sums[p].1);
            }
            let pair = &mut pairs[p];
            while let Some(slot) = pair.path.get(done[p]).filter(|&slot| slot / TILE == tile) {
                pair.scores[pair.contiguous + done[p]] = lanes[slot % TILE];
                done[p] += 1;
            }
        }
    }
}

/// Turns scores into weights exp(s - max); lane l sums the positions l mod 8.
#[inline(always)]
unsafe fn softmax<S: Simd>(pair: &mut Pair<'_>) {
    if pair.visible == 0 {
        return;
    }
    let end = pair.visible.next_multiple_of(8);
    pair.scores[pair.visible..end].fill(f32::NEG_INFINITY);
    let scores = pair.scores.as_mut_ptr();
    // SAFETY: `end` is at most SPLIT.
    unsafe {
        let mut max = S::load(scores);
        for at in (8..end).step_by(8) {
            max = S::max(max, S::load(scores.add(at)));
        }
        pair.partial.max = S::largest(max);
        let top = S::splat(pair.partial.max);
        let mut sum = S::splat(0.0);
        for at in (0..end).step_by(8) {
            let e = exp::<S>(S::sub(S::load(scores.add(at)), top));
            S::store(scores.add(at), e);
            sum = S::add(sum, e);
        }
        pair.partial.sum = S::sum(sum);
    }
}

/// Rounds weights exp(s - max) where the CUDA kernels do: exp(s - top) is in f16, where top is the
/// largest score so far among the four tiles of 16 positions that are summed together.
fn round_weights(pair: &mut Pair<'_>) {
    for four in pair.scores[..pair.visible].chunks_mut(4 * TILE) {
        let mut top = 0f32;
        for tile in four.chunks_mut(TILE) {
            top = tile.iter().copied().fold(top, f32::max);
            for weight in tile.iter_mut().filter(|w| **w > 0.0) {
                *weight = half::f16::from_f32(*weight / top).to_f32() * top;
            }
        }
    }
}

/// acc += weight * value, positions ascending. The positions that all P pairs
/// see contiguously are read once for them together.
#[inline(always)]
unsafe fn values<S: Simd, const P: usize>(
    pairs: &mut [Pair<'_>],
    cache: LayerCache<'_>,
    kv_head: usize,
    from: usize,
) {
    let stride = cache.value_stride;
    let common = pairs.iter().map(|p| p.contiguous).min().unwrap_or(0);
    // SAFETY: positions below `contiguous` and on paths are slots of the cache.
    unsafe {
        let mut weights = [std::ptr::null(); P];
        let mut acc = [std::ptr::null_mut(); P];
        for p in 0..P {
            weights[p] = pairs[p].scores.as_ptr();
            acc[p] = pairs[p].partial.acc.as_mut_ptr();
        }
        if common > 0 {
            accumulate::<S, P>(weights, acc, cache.value(kv_head, from), common, stride);
        }
        for pair in pairs.iter_mut() {
            let weights = pair.scores.as_ptr();
            let acc = pair.partial.acc.as_mut_ptr();
            if pair.contiguous > common {
                let value = cache.value(kv_head, from + common);
                let rest = pair.contiguous - common;
                accumulate::<S, 1>([weights.add(common)], [acc], value, rest, stride);
            }
            // a branch's slots follow one another
            let mut at = pair.contiguous;
            for run in pair.path.chunk_by(|a, b| a + 1 == *b) {
                let value = cache.value(kv_head, run[0]);
                accumulate::<S, 1>([weights.add(at)], [acc], value, run.len(), stride);
                at += run.len();
            }
        }
    }
}

#[inline(always)]
unsafe fn accumulate<S: Simd, const P: usize>(
    weights: [*const f32; P],
    acc: [*mut f32; P],
    values: *const f32,
    count: usize,
    stride: usize,
) {
    let mut at = 0;
    while at < stride {
        // SAFETY: `at` counts whole vectors of a value row.
        unsafe {
            match (stride - at) / 8 {
                1 => columns::<S, P, 1>(weights, acc, values, count, stride, at),
                2 => columns::<S, P, 2>(weights, acc, values, count, stride, at),
                3 => columns::<S, P, 3>(weights, acc, values, count, stride, at),
                _ => columns::<S, P, 4>(weights, acc, values, count, stride, at),
            }
        }
        at += 32;
    }
}

/// D vectors of the value rows for P pairs: P * D sums stay in registers.
#[inline(always)]
unsafe fn columns<S: Simd, const P: usize, const D: usize>(
    weights: [*const f32; P],
    acc: [*mut f32; P],
    values: *const f32,
    count: usize,
    stride: usize,
    at: usize,
) {
    // SAFETY: columns at..at + 8 D of `count` value rows, weights for each.
    unsafe {
        let mut sums = [[S::splat(0.0); D]; P];
        for p in 0..P {
            for v in 0..D {
                sums[p][v] = S::load(acc[p].add(at + 8 * v));
            }
        }
        for i in 0..count {
            let row = values.add(i * stride + at);
            let mut w = [S::splat(0.0); P];
            for p in 0..P {
                w[p] = S::splat(*weights[p].add(i));
            }
            // three weights, one value and twelve sums: all registers there are
            for v in 0..D {
                let value = S::load(row.add(8 * v));
                for p in 0..P {
                    sums[p][v] = S::fma(w[p], value, sums[p][v]);
                }
            }
        }
        for p in 0..P {
            for v in 0..D {
                S::store(acc[p].add(at + 8 * v), sums[p][v]);
            }
        }
    }
}
