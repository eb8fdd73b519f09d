//! One model on a GPU: a pass over a token tree, five launches a layer.
//!
//! x is the residual stream. Whoever writes it also writes f16(x * gain) for the product that
//! comes next, and partial sums of squares by which that product scales its output (kernels/).

use super::super::range::HEADROOM;
use super::super::{DeviceError, Logits, PassOutput, Want};
use super::attention;
use super::driver::{Arg, Function, Gpu};
use super::graph::Timer;
use super::judge::{self, JudgeRoom};
use super::layout::{GROUP, MAX_ROWS, Path, cache_bytes, capacity};
use super::linear::{Epilogue, Linear, kernel};
use super::memory::{Buffer, Need};
use super::plan::{Chip, GROUPS, Plan, Plans};
use super::rows::{Slots, fit, slots, views};
use super::sizes::{SPLIT, Sizes, attention_record, need};
use super::weights::{Matrix, Norm, Weights};
use crate::judge::{Judge, Tap};
use crate::model::{Config, Model};
use crate::tree::TokenTree;
use bytemuck::Zeroable;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Threads of a block of attention, embed, hidden.
const THREADS: usize = 256;

/// A loaded model with its KV cache.
pub struct Forward {
    gpu: Arc<Gpu>,
    /// The model.
    pub model: Arc<Model>,
    weights: Arc<Weights>,
    /// How its matrices are cut.
    pub plans: Plans,
    /// What it takes.
    pub need: Need,
    functions: HashMap<&'static str, Function>,
    /// Slots of the cache, a multiple of 16.
    capacity: usize,
    /// Committed positions.
    pub len: usize,
    cache: Buffer,
    angles: Buffer,
    rows: Buffer,
    paths: Buffer,
    path: Buffer,
    x: Buffer,
    normed: Buffer,
    q: Buffer,
    attended: Buffer,
    inner: Buffer,
    squares: Buffer,
    partials: Buffer,
    counters: Buffer,
    attention: Buffer,
    arrived: Buffer,
    logits: Buffer,
    best: Buffer,
    hidden: Buffer,
    judge: JudgeRoom,
    timer: Timer,
}

impl Forward {
    /// Loads `model` with room for `positions` positions, the rows of a pass included. No
    /// allocation comes after.
    ///
    /// With `shared`, it uses weights that are there already: those of a model whose first layers,
    /// embedding, norm and head it has.
    ///
    /// # Errors
    /// Those of [`Weights::load`]; [`DeviceError::Draft`] where `shared` are not such weights.
    pub fn load(
        gpu: &Arc<Gpu>,
        model: Arc<Model>,
        positions: usize,
        shared: Option<Arc<Weights>>,
    ) -> Result<Forward, DeviceError> {
        let c = &model.config;
        let chip = chip(gpu);
        let plans = Plans::choose(c, chip);
        let need = need(&model, positions, chip, shared.is_some());
        let capacity = capacity(positions);
        let sizes = Sizes::of(c, &plans, capacity);
        let functions = functions(gpu, c, &plans, &model)?;
        let weights = match shared {
            Some(weights) => weights.check(&model).map(|()| weights)?,
            None => Arc::new(Weights::load(gpu, &model)?),
        };
        let new = |label, bytes| Buffer::zeroed(gpu, label, bytes);
        Ok(Forward {
            plans,
            need,
            functions,
            capacity,
            len: 0,
            cache: new(
                "kv cache",
                cache_bytes(c.layers, c.kv_heads, c.head_dim, capacity),
            )?,
            angles: Buffer::of(gpu, "rotary angles", &angles(c, capacity))?,
            rows: new("rows", sizes.rows)?,
            paths: new("paths", sizes.paths)?,
            path: new("path", sizes.path)?,
            x: new("residual stream", sizes.x)?,
            normed: new("normed", sizes.normed)?,
            q: new("q", sizes.q)?,
            attended: new("attended", sizes.attended)?,
            inner: new("inner", sizes.inner)?,
            squares: new("squares", sizes.squares)?,
            partials: new("partial sums", sizes.partials)?,
            counters: new("counters", sizes.counters)?,
            attention: new("attention states", sizes.attention)?,
            arrived: new("attention counters", sizes.arrived)?,
            logits: new("logits", sizes.logits)?,
            best: new("best logits", sizes.best)?,
            hidden: new("last hidden", sizes.hidden)?,
            judge: JudgeRoom::new(gpu, c)?,
            timer: Timer::new(gpu)?,
            weights,
            model,
            gpu: gpu.clone(),
        })
    }

    /// Runs `tree`, which hangs below the last committed position, or `behind` earlier ones (see
    /// [`crate::device::Device::pass_behind`]). Keys and values stay in the slots behind the
    /// committed ones until the next commit.
    pub fn pass(
        &mut self,
        tree: &TokenTree,
        behind: &[usize],
        want: &Want,
    ) -> Result<PassOutput, DeviceError> {
        assert!(self.len + tree.len() <= self.capacity);
        let slots = slots(tree, behind, self.len);
        let mut output = PassOutput::default();
        let mut first = 0;
        while first < tree.len() {
            let end = first + fit(&slots[first..]);
            let last = end == tree.len();
            let want = Want {
                logits: match want.logits {
                    Logits::Last if !last => Logits::None,
                    logits => logits,
                },
                ..want.clone()
            };
            self.sweep(tree, &slots, first..end, &want, &mut output)?;
            first = end;
        }
        Ok(output)
    }

    /// Some rows of a tree, in one sweep over the weights.
    fn sweep(
        &mut self,
        tree: &TokenTree,
        slots: &[Slots],
        some: Range<usize>,
        want: &Want,
        output: &mut PassOutput,
    ) -> Result<(), DeviceError> {
        let model = self.model.clone();
        let c = &model.config;
        let count = some.len();
        let (rows, paths) = views(
            &tree.tokens()[some.clone()],
            &slots[some.clone()],
            self.len + some.start,
        );
        self.rows.write(0, &[rows])?;
        if !paths.is_empty() {
            self.paths.write(0, &paths)?;
        }
        if let Some(judge) = &want.judge {
            self.judge.bring(judge, &model)?;
        }
        let mut taps = Vec::new();
        self.timer.start()?;
        let parts = self.enqueue_layers(count, want.judge.as_deref(), 0, |layer| {
            if want.taps.contains(&layer) {
                taps.push((layer, self.x.read(0, count * c.hidden_size)?));
            }
            Ok(())
        })?;
        let mut next = PassOutput {
            taps,
            ..PassOutput::default()
        };
        let wanted = match want.logits {
            Logits::None => count..count,
            Logits::Last => count - 1..count,
            Logits::All => 0..count,
        };
        if !wanted.is_empty() {
            self.enqueue_head(wanted.start, wanted.len(), parts)?;
        }
        next.time = self.time(count)?;
        if !wanted.is_empty() {
            next.logits = self.logits_of(wanted.len())?;
        }
        if want.hidden {
            next.last_hidden = self.last_hidden(count, parts)?;
        }
        if let Some(judge) = &want.judge {
            let scales = match judge.features.taps.contains(&Tap::Final) {
                true => self.final_scales(count, parts)?,
                false => vec![1.0; count],
            };
            next.scores = self.judge.scores(judge, count, parts, &scales)?;
        }
        output.append(next);
        Ok(())
    }

    /// Enqueues a pass over the rows that [`Forward::rows`] and [`Forward::paths`] describe on the
    /// device, at most `most_rows` (1 to 256). From the host it reads nothing but constants, so it may be
    /// captured and replayed; `most_rows` chooses grids and kernels, and moves no bit of any row. A pass of
    /// no rows does nothing.
    ///
    /// Keys and values of row r go to slot `base + r`, its state after the last layer to
    /// [`Forward::stream`], and with `logits` those of row r and their bests to row `r + logits_at`
    /// of [`Forward::logits`] and [`Forward::bests`], which must lie below 256.
    /// With a `judge`, which [`Forward::bring_judge`] has brought, its products are left where
    /// [`Forward::judge_dots`] and [`Forward::judge_products`] say. `began` is the address of a u64 that
    /// is told when the pass began, in nanoseconds of the device's clock; 0: none.
    pub fn enqueue_pass(
        &self,
        most_rows: usize,
        logits: bool,
        judge: Option<&Judge>,
        began: u64,
    ) -> Result<(), DeviceError> {
        assert!((1..=MAX_ROWS).contains(&most_rows));
        let parts = self.enqueue_layers(most_rows, judge, began, |_| Ok(()))?;
        match logits {
            true => self.enqueue_head(0, most_rows, parts),
            false => Ok(()),
        }
    }

    /// Enqueues embedding and layers, and the products of the judge; gives the number of partial
    /// sums of squares. `after(l)` is called when l layers are enqueued.
    fn enqueue_layers(
        &self,
        most_rows: usize,
        judge: Option<&Judge>,
        began: u64,
        mut after: impl FnMut(usize) -> Result<(), DeviceError>,
    ) -> Result<usize, DeviceError> {
        let layers = self.model.config.layers;
        self.embed(most_rows, began)?;
        let mut parts = 1;
        for layer in 0..=layers {
            after(layer)?;
            if let Some(judge) = judge {
                self.judge_after(judge, layer, most_rows)?;
            }
            if layer < layers {
                let riding = judge.filter(|_| layer + 1 == layers);
                let riding = riding.map_or((0, 0), |judge| self.judge.riding(judge));
                parts = self.layer(layer, most_rows, parts, riding)?;
            }
        }
        Ok(parts)
    }

    /// The products of a judge that reads the residual stream as it is after `layer` layers.
    fn judge_after(&self, judge: &Judge, layer: usize, rows: usize) -> Result<(), DeviceError> {
        let c = &self.model.config;
        for (t, &tap) in judge.features.taps.iter().enumerate() {
            let here = match tap {
                Tap::Final => layer == c.layers && !judge::rides(judge, tap),
                Tap::Layer(after) => layer == after,
            };
            if !here {
                continue;
            }
            let (weights, products) = self.judge.tap(t);
            let args = [
                Arg::Ptr(self.rows.address()),
                Arg::Ptr(self.x.address()),
                Arg::Ptr(weights),
                Arg::Ptr(self.judge.zeros()),
                Arg::Ptr(products),
                Arg::I32(c.hidden_size as i32),
            ];
            let grid = [rows, judge.head.width(), 1];
            // SAFETY: head.cu's parameters; the room holds MAX_ROWS rows and MAX_WIDTH units.
            unsafe {
                let kernel = self.functions["judge"];
                self.gpu
                    .launch_overlapping(kernel, grid, THREADS, 0, &args)?;
            }
        }
        Ok(())
    }

    /// 1 / sqrt(mean of x^2 + eps) of every row, as the kernels compute it.
    fn final_scales(&self, rows: usize, parts: usize) -> Result<Vec<f32>, DeviceError> {
        let c = &self.model.config;
        let squares: Vec<f32> = self.squares.read(0, parts * MAX_ROWS)?;
        let scale = |row| {
            let sum = (0..parts).fold(0f32, |sum, part| sum + squares[part * MAX_ROWS + row]);
            1.0 / (sum / c.hidden_size as f32 + c.rms_norm_eps).sqrt()
        };
        Ok((0..rows).map(scale).collect())
    }

    fn embed(&self, rows: usize, began: u64) -> Result<(), DeviceError> {
        let c = &self.model.config;
        let table: Matrix = self.weights.embed;
        let args = [
            Arg::Ptr(self.rows.address()),
            Arg::Ptr(table.address),
            Arg::Ptr(self.weights.layers[0].input_norm.gain),
            Arg::Ptr(self.x.address()),
            Arg::Ptr(self.normed.address()),
            Arg::Ptr(self.squares.address()),
            Arg::Ptr(began),
            Arg::I32(c.hidden_size as i32),
            Arg::I32(table.pairs() as i32),
        ];
        // SAFETY: embed.cu's parameters; the buffers hold MAX_ROWS rows.
        unsafe { self.launch("embed", rows, THREADS, 0, &args) }
    }

    /// One layer; the number of partial sums of squares of x before and after it. `judge` and `dots`
    /// are what [`JudgeRoom::riding`] says.
    fn layer(
        &self,
        index: usize,
        rows: usize,
        parts: usize,
        (judge, dots): (u64, u64),
    ) -> Result<usize, DeviceError> {
        let (c, w, plans) = (&self.model.config, &self.weights.layers[index], &self.plans);
        let head_bytes = self.capacity * c.head_dim * 2;
        let of_layer = c.kv_heads * head_bytes;
        let keys = self.cache.address() + (2 * index * of_layer) as u64;
        let values = keys + of_layer as u64;
        // shared weights may have more layers than this model
        let next_norm = match index + 1 < c.layers {
            true => self.weights.layers[index + 1].input_norm,
            false => self.weights.norm,
        };
        let residual = |p: Linear, input: &Buffer, next: Norm| Linear {
            input: input.address(),
            x: self.x.address(),
            gain: next.gain,
            out: self.normed.address(),
            squares: self.squares.address(),
            width: c.hidden_size as i32,
            out_pairs: plans.qkv.pairs as i32,
            ..p
        };

        self.linear(
            &plans.qkv,
            rows,
            self.normed(
                w.input_norm,
                parts,
                Linear {
                    weights: w.qkv.address,
                    bias: w.qkv_bias.unwrap_or(0),
                    q: self.q.address(),
                    keys,
                    values,
                    angles: self.angles.address(),
                    q_gain: w.q_norm.unwrap_or(0),
                    k_gain: w.k_norm.unwrap_or(0),
                    head_bytes: head_bytes as u64,
                    heads: c.heads as i32,
                    kv_heads: c.kv_heads as i32,
                    group: (c.heads / c.kv_heads) as i32,
                    head_dim: c.head_dim as i32,
                    ..Linear::of(&plans.qkv, Epilogue::Qkv)
                },
            ),
        )?;
        self.attend(rows, keys, values)?;
        let o = Linear {
            weights: w.o.address,
            bias: w.o_bias.unwrap_or(0),
            ..Linear::of(&plans.o, Epilogue::Residual)
        };
        self.linear(&plans.o, rows, residual(o, &self.attended, w.post_norm))?;
        let gate_up = Linear {
            weights: w.gate_up.address,
            bias: w.gate_up_bias.unwrap_or(0),
            out: self.inner.address(),
            out_pairs: plans.down.pairs as i32,
            out_scale: HEADROOM,
            ..Linear::of(&plans.gate_up, Epilogue::SwiGlu)
        };
        let gate_up = self.normed(w.post_norm, plans.o.parts(), gate_up);
        self.linear(&plans.gate_up, rows, gate_up)?;
        let down = Linear {
            judge,
            dots,
            input_scale: 1.0 / HEADROOM,
            weights: w.down.address,
            bias: w.down_bias.unwrap_or(0),
            ..Linear::of(&plans.down, Epilogue::Residual)
        };
        self.linear(&plans.down, rows, residual(down, &self.inner, next_norm))?;
        Ok(plans.down.parts())
    }

    fn attend(&self, rows: usize, keys: u64, values: u64) -> Result<(), DeviceError> {
        let c = &self.model.config;
        let group = c.heads / c.kv_heads;
        let tiles = (rows * group).div_ceil(16);
        // of as many positions as there may be: how many there are, the device knows
        let splits = self.capacity.div_ceil(SPLIT);
        let gpu = self.gpu.properties();
        let items = (c.kv_heads * splits, gpu.multiprocessors);
        let row_tiles = attention::choose(c.head_dim, tiles, gpu.shared_bytes, items)
            .ok_or_else(|| head_dim_error(&self.model))?;
        let groups = tiles.div_ceil(row_tiles);
        let kernel =
            attention::kernel(c.head_dim, row_tiles).ok_or_else(|| head_dim_error(&self.model))?;
        let shared = attention::shared_bytes(c.head_dim, row_tiles);
        let of_group = c.kv_heads * splits * row_tiles * attention_record(c);
        let at_once = (self.attention.bytes() / of_group).clamp(1, groups);
        for first in (0..groups).step_by(at_once) {
            let some = at_once.min(groups - first);
            let args = [
                Arg::Ptr(self.attended.address()),
                Arg::Ptr(self.q.address()),
                Arg::Ptr(keys),
                Arg::Ptr(values),
                Arg::Ptr(self.rows.address()),
                Arg::Ptr(self.paths.address()),
                Arg::Ptr(self.attention.address()),
                Arg::Ptr(self.arrived.address()),
                Arg::I32(c.kv_heads as i32),
                Arg::I32(group as i32),
                Arg::I32((self.capacity / 16) as i32),
                Arg::I32(first as i32),
                Arg::I32(some as i32),
                Arg::F32(std::f32::consts::LOG2_E / (c.head_dim as f32).sqrt()),
            ];
            let blocks = gpu.multiprocessors;
            // SAFETY: attention.cu's parameters; the buffers hold MAX_ROWS rows and the states
            // of `some` row groups.
            unsafe { self.launch(kernel, blocks, THREADS, shared, &args)? };
        }
        Ok(())
    }

    /// Since the timer was started.
    fn time(&self, rows: usize) -> Result<Duration, DeviceError> {
        self.timer.stop()?;
        self.timer.time(|| format!("a pass of {rows} rows"))
    }

    /// The first rows of the logits' buffer.
    fn logits_of(&self, count: usize) -> Result<Vec<f32>, DeviceError> {
        let (stride, vocabulary) = (self.logits_stride(), self.model.config.vocab_size);
        let padded: Vec<f32> = self.logits.read(0, count * stride)?;
        let rows = padded.chunks(stride).map(|row| &row[..vocabulary]);
        Ok(rows.flatten().copied().collect())
    }

    /// Enqueues the head for the rows from..from + count of the pass, whose first one has its logits
    /// in row `logits_at`.
    fn enqueue_head(&self, from: usize, count: usize, parts: usize) -> Result<(), DeviceError> {
        let (c, plan) = (&self.model.config, &self.plans.head);
        // one row alone stands anywhere in its group
        let first_group = from / GROUP;
        let rows = from % GROUP + count;
        let head = Linear {
            weights: self.weights.head.address,
            logits: self.logits.address(),
            best: self.best.address(),
            first_group: first_group as i32,
            first_row: from as i32,
            vocabulary: c.vocab_size as i32,
            logits_stride: self.logits_stride() as i32,
            ..Linear::of(plan, Epilogue::Logits)
        };
        self.linear(plan, rows, self.normed(self.weights.norm, parts, head))
    }

    /// `p` with the rows of x, normalised, for input; x's squares lie in `parts` sums.
    fn normed(&self, norm: Norm, parts: usize, p: Linear) -> Linear {
        Linear {
            input: self.normed.address(),
            input_squares: self.squares.address(),
            input_parts: parts as i32,
            inverse_width: 1.0 / self.model.config.hidden_size as f32,
            input_scale: 1.0 / norm.scale,
            ..p
        }
    }

    fn last_hidden(&self, rows: usize, parts: usize) -> Result<Vec<f32>, DeviceError> {
        let c = &self.model.config;
        let args = [
            Arg::Ptr(self.rows.address()),
            Arg::Ptr(self.x.address()),
            Arg::Ptr(self.weights.norm.gain),
            Arg::Ptr(self.squares.address()),
            Arg::Ptr(self.hidden.address()),
            Arg::I32(c.hidden_size as i32),
            Arg::I32(parts as i32),
            Arg::F32(c.rms_norm_eps),
            Arg::F32(1.0 / self.weights.norm.scale),
        ];
        // SAFETY: head.cu's parameters; the buffers hold MAX_ROWS rows.
        unsafe { self.launch("hidden", rows, THREADS, 0, &args)? };
        self.hidden.read(0, rows * c.hidden_size)
    }

    fn linear(&self, plan: &Plan, rows: usize, p: Linear) -> Result<(), DeviceError> {
        let shape = plan.shape(rows);
        let p = Linear {
            partials: self.partials.address(),
            counters: self.counters.address(),
            rows: self.rows.address(),
            eps: self.model.config.rms_norm_eps,
            ..p
        };
        let args = [Arg::Bytes(bytemuck::bytes_of(&p))];
        let name = kernel(plan, &shape);
        // SAFETY: linear.cu's one parameter; the buffers hold MAX_ROWS rows.
        unsafe { self.launch(name, plan.workers, shape.threads, shape.shared_bytes, &args) }
    }

    /// # Safety
    /// As of [`Gpu::launch`].
    unsafe fn launch(
        &self,
        name: &'static str,
        blocks: usize,
        threads: usize,
        shared_bytes: usize,
        args: &[Arg<'_>],
    ) -> Result<(), DeviceError> {
        // SAFETY: the caller vouches for the arguments.
        unsafe {
            self.gpu.launch_overlapping(
                self.functions[name],
                [blocks, 1, 1],
                threads,
                shared_bytes,
                args,
            )
        }
    }

    /// Commits rows of the last pass: a path from its root, ascending.
    pub fn commit(&mut self, path: &[usize]) -> Result<(), DeviceError> {
        let base = self.len;
        self.len += path.len();
        if path.iter().enumerate().all(|(i, &row)| row == i) {
            return Ok(());
        }
        let mut slots = Path::zeroed();
        slots.nodes = path.len() as i32;
        slots.base = base as i32;
        for (slot, row) in slots.slot.iter_mut().zip(path) {
            *slot = (base + row) as i32;
        }
        self.path.write(0, &[slots])?;
        self.enqueue_commit()
    }

    /// Enqueues that keys and values move as [`Forward::path`] says on the device; [`Forward::len`]
    /// stays what it was.
    pub fn enqueue_commit(&self) -> Result<(), DeviceError> {
        let c = &self.model.config;
        let args = [
            Arg::Ptr(self.cache.address()),
            Arg::Ptr(self.path.address()),
            Arg::I32(self.capacity as i32),
            Arg::I32(c.head_dim as i32),
        ];
        let grid = [c.kv_heads, 2 * c.layers, c.head_dim.div_ceil(128)];
        // SAFETY: kv.cu's parameters; slots lie in the cache.
        unsafe {
            self.gpu
                .launch_overlapping(self.functions["kv_commit"], grid, 128, 0, &args)
        }
    }
}

/// Where a pass finds what it is about and leaves what it made, for launches beside it. Addresses
/// stay as long as this.
impl Forward {
    /// A [`Rows`](super::layout::Rows): the rows of the next pass.
    pub fn rows(&self) -> &Buffer {
        &self.rows
    }

    /// i32 \[256 * 512\]: slots of the positions that [`Rows::path_at`](super::layout::Rows::path_at) names.
    pub fn paths(&self) -> &Buffer {
        &self.paths
    }

    /// A [`Path`]: what [`Forward::enqueue_commit`] moves.
    pub fn path(&self) -> &Buffer {
        &self.path
    }

    /// f16 \[layers, keys and values, kv_heads, slots * head_dim\], a head as in layout.cuh.
    pub fn cache(&self) -> &Buffer {
        &self.cache
    }

    /// Slots of the cache.
    pub fn slots(&self) -> usize {
        self.capacity
    }

    /// f32 \[256, logits_stride\]: logits of a pass's rows.
    pub fn logits(&self) -> &Buffer {
        &self.logits
    }

    /// Floats from one row's logits to the next one's: the vocabulary in whole eights.
    pub fn logits_stride(&self) -> usize {
        self.model.config.vocab_size.next_multiple_of(GROUP)
    }

    /// [`Best`](super::layout::Best) \[256, best_parts\]: the two best logits of each part of a row, parts in
    /// ascending order of their tokens.
    pub fn bests(&self) -> &Buffer {
        &self.best
    }

    /// Parts of a row of [`Forward::bests`].
    pub fn best_parts(&self) -> usize {
        self.plans.head.parts()
    }

    /// f32 \[256, hidden_size\]: the residual stream after the last layer, before the final norm.
    pub fn stream(&self) -> &Buffer {
        &self.x
    }

    /// f32 \[square_parts, 256\]: parts of each row's sum of squares of [`Forward::stream`], to be
    /// added in ascending order.
    pub fn squares(&self) -> &Buffer {
        &self.squares
    }

    /// Parts of a row of [`Forward::squares`] and [`Forward::judge_dots`] after a pass.
    pub fn square_parts(&self) -> usize {
        self.plans.down.parts()
    }

    /// Whether this judge's weights are on the device.
    pub fn has_judge(&self, judge: &Arc<Judge>) -> bool {
        self.judge.has(judge)
    }

    /// Brings a judge's weights to the device, unless they are there: before a pass with it is
    /// captured.
    pub fn bring_judge(&mut self, judge: &Arc<Judge>) -> Result<(), DeviceError> {
        let model = self.model.clone();
        self.judge.bring(judge, &model)
    }

    /// Address of f32 \[square_parts, 256\]: parts of each row's product of a linear judge's weights
    /// with the final hidden state, still to be scaled as the final norm scales it; 0 where the
    /// judge has no such part.
    pub fn judge_dots(&self, judge: &Judge) -> u64 {
        self.judge.riding(judge).1
    }

    /// Address of f32 \[width, 256\]: products of a judge's units with tap number `tap`, without
    /// bias; those of the final hidden state still to be scaled as the final norm scales it, and
    /// those of a linear judge in [`Forward::judge_dots`] instead.
    pub fn judge_products(&self, tap: usize) -> u64 {
        self.judge.tap(tap).1
    }

    /// The weights, for a drafter that shares them.
    pub fn weights(&self) -> &Arc<Weights> {
        &self.weights
    }
}

/// The chip that plans are made for.
pub fn chip(gpu: &Gpu) -> Chip {
    let properties = gpu.properties();
    Chip {
        multiprocessors: properties.multiprocessors,
        major: usize::try_from(properties.capability.0).unwrap_or(0),
    }
}

fn head_dim_error(model: &Model) -> DeviceError {
    DeviceError::Shape {
        path: model.dir.clone(),
        name: "head_dim",
        found: model.config.head_dim,
        expected: "16, 32, 48, 64, 80, 96, 112, 128 or 160",
    }
}

/// All kernels of a model's pass, with the shared memory that they may ask for.
fn functions(
    gpu: &Gpu,
    c: &Config,
    plans: &Plans,
    model: &Model,
) -> Result<HashMap<&'static str, Function>, DeviceError> {
    let mut shared: HashMap<&'static str, (&str, usize)> = HashMap::from([
        ("embed", ("embed", 0)),
        ("hidden", ("head", 0)),
        ("judge", ("head", 0)),
        ("kv_commit", ("kv", 0)),
    ]);
    for (_, plan) in plans.named() {
        for groups in GROUPS {
            let shape = plan.shape(groups * GROUP);
            let (_, bytes) = shared.entry(kernel(&plan, &shape)).or_insert(("linear", 0));
            *bytes = shape.shared_bytes.max(*bytes);
        }
    }
    let row_tiles = attention::row_tiles(c.head_dim);
    if row_tiles.is_empty() {
        return Err(head_dim_error(model));
    }
    for &row_tiles in row_tiles {
        let name = attention::kernel(c.head_dim, row_tiles).ok_or_else(|| head_dim_error(model))?;
        let bytes = attention::shared_bytes(c.head_dim, row_tiles);
        // those that do not, no pass chooses
        if bytes <= gpu.properties().shared_bytes {
            shared.insert(name, ("attention", bytes));
        }
    }
    let found = shared
        .into_iter()
        .map(|(name, (file, bytes))| Ok((name, gpu.function(file, name, bytes)?)));
    found.collect()
}

/// (cos, sin) of every position and pair of features, as the CPU device computes them.
fn angles(c: &Config, positions: usize) -> Vec<f32> {
    let frequencies = c.rope.inverse_frequencies(c.head_dim);
    let mut angles = Vec::with_capacity(positions * c.head_dim);
    for position in 0..positions {
        for f in &frequencies {
            let (sin, cos) = (position as f32 * f).sin_cos();
            angles.extend([cos, sin]);
        }
    }
    angles
}
