//! One model on the CPU: a pass over a token tree, layer by layer.
//!
//! Four parallel regions a layer (QKV, attention, output, and gate/up then
//! down), each of which reads its weights once. Between them rows are
//! normalised and rotated, which touches kilobytes.

use super::attention::{Attention, RowView, attention};
use super::cache::Cache;
use super::linear::{
    Epilogue, Order, Packed, Product, group, groups, linear, pack, padded, swiglu,
};
use super::lines::Lines;
use super::simd::{Simd, entry_points};
use super::team::{Shared, Team};
use crate::device::range::{HEADROOM, gain_scale};
use crate::device::{Logits, PassOutput, Want};
use crate::model::{Config, Dtype, Layer, Model, Tensor};
use crate::tree::TokenTree;
use std::ops::Range;
use std::sync::Arc;

/// What values are kept in between one operation and the next. The residual stream and sums are
/// f32 in both.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Activations {
    /// as computed
    F32,
    /// rounded where the CUDA kernels round: x * gain before its scale, q, k, v, the weights of
    /// softmax, the output of attention, silu(gate) * up
    F16,
}

impl Activations {
    fn round(self, values: &mut [f32]) {
        self.round_times(1.0, values);
    }

    /// Rounds values that are kept times `scale`, a power of two.
    fn round_times(self, scale: f32, values: &mut [f32]) {
        if self == Activations::F16 {
            for v in values {
                *v = half::f16::from_f32(*v * scale).to_f32() / scale;
            }
        }
    }
}

/// A loaded model with its KV cache.
pub(super) struct Forward {
    pub model: Arc<Model>,
    pub cache: Cache,
    pub activations: Activations,
    inverse_frequencies: Vec<f32>,
    scratch: Scratch,
}

/// Buffers of a pass, kept for the next one.
#[derive(Default)]
struct Scratch {
    /// [rows, hidden], the residual stream
    x: Lines,
    /// [rows, hidden]
    normed: Lines,
    /// [rows, padded(K)] of the product that comes next
    packed: Lines,
    /// [rows, heads * head_dim]
    q: Lines,
    /// [rows, kv_heads * head_dim]
    k: Lines,
    /// [rows, kv_heads * head_dim]
    v: Lines,
    /// [rows, heads * head_dim]
    attended: Lines,
    /// [rows, intermediate]
    gate: Lines,
    /// [rows, intermediate]
    up: Lines,
    /// [rows, head_dim / 2]
    cos: Lines,
    /// [rows, head_dim / 2]
    sin: Lines,
}

/// What each row of a pass sees.
pub(super) fn views(tree: &TokenTree, behind: &[usize], committed: usize) -> Vec<RowView> {
    let mut views: Vec<RowView> = Vec::with_capacity(tree.len());
    for (row, position) in tree.positions(behind, committed).into_iter().enumerate() {
        let slot = committed + row;
        let (contiguous, path) = match tree.parent(row) {
            None => (position, Vec::new()),
            Some(p) => (views[p].contiguous, views[p].path.clone()),
        };
        views.push(if path.is_empty() && slot == position {
            RowView {
                position,
                contiguous: contiguous + 1,
                path,
            }
        } else {
            RowView {
                position,
                contiguous,
                path: [path, vec![slot]].concat(),
            }
        });
    }
    views
}

impl Forward {
    /// `capacity`: committed positions and the rows of one pass together.
    pub fn new(model: Arc<Model>, capacity: usize) -> Forward {
        let config = &model.config;
        Forward {
            cache: Cache::new(config, config.layers, capacity),
            activations: Activations::F32,
            inverse_frequencies: config.rope.inverse_frequencies(config.head_dim),
            scratch: Scratch::default(),
            model,
        }
    }

    /// Runs the rows `first..` of `tree`, which hangs below the last committed position, or
    /// `behind` earlier ones (see [`crate::device::Device::pass_behind`]).
    /// Keys and values stay in the slots behind the committed ones until the next commit,
    /// so that a drafter can grow a tree level by level: rows before `first` are there already.
    pub fn pass(
        &mut self,
        team: &Team,
        tree: &TokenTree,
        behind: &[usize],
        first: usize,
        want: &Want,
    ) -> PassOutput {
        let views = &views(tree, behind, self.cache.len)[first..];
        assert!(self.cache.len + tree.len() <= self.cache.capacity);
        let Forward {
            model,
            cache,
            activations,
            inverse_frequencies,
            scratch,
        } = self;
        let mut run = Run {
            team,
            config: &model.config,
            activations: *activations,
            rows: views.len(),
            base: cache.len + first,
            views,
            s: scratch,
        };
        run.embed(&model.weights.embed, &tree.tokens()[first..]);
        run.angles(inverse_frequencies);
        let mut output = PassOutput::default();
        let layers = &model.weights.layers;
        for layer in 0..=layers.len() {
            if want.taps.contains(&layer) {
                output.taps.push((layer, run.s.x.to_vec()));
            }
            if let Some(weights) = layers.get(layer) {
                run.layer(weights, cache, layer);
            }
        }
        run.head(&model.weights.norm, &model.weights.head, want, &mut output);
        output
    }
}

/// One pass under way.
struct Run<'a> {
    team: &'a Team,
    config: &'a Config,
    activations: Activations,
    rows: usize,
    /// slot of the first row
    base: usize,
    views: &'a [RowView],
    s: &'a mut Scratch,
}

impl Run<'_> {
    /// x = embedding rows
    fn embed(&mut self, embed: &Tensor, tokens: &[u32]) {
        let hidden = self.config.hidden_size;
        self.s.x.resize(self.rows * hidden);
        for (row, &token) in self.s.x.chunks_exact_mut(hidden).zip(tokens) {
            let size = hidden * embed.dtype.size();
            widen(
                embed.dtype,
                &embed.bytes()[token as usize * size..][..size],
                row,
            );
        }
    }

    /// Rotary angles, position times inverse frequency in f32 as transformers computes them.
    fn angles(&mut self, inverse_frequencies: &[f32]) {
        let half = inverse_frequencies.len();
        self.s.cos.resize(self.rows * half);
        self.s.sin.resize(self.rows * half);
        let (views, s) = (self.views, &mut *self.s);
        let (cos, sin) = (Shared::new(&mut s.cos), Shared::new(&mut s.sin));
        self.team.each_row(self.rows, |row| {
            let (cos, sin) = (cos.at(row * half, half), sin.at(row * half, half));
            // SAFETY: this row of both is this task's own.
            let (cos, sin) = unsafe {
                (
                    std::slice::from_raw_parts_mut(cos, half),
                    std::slice::from_raw_parts_mut(sin, half),
                )
            };
            for (i, f) in inverse_frequencies.iter().enumerate() {
                (sin[i], cos[i]) = (views[row].position as f32 * f).sin_cos();
            }
        });
    }

    fn layer(&mut self, w: &Layer, cache: &mut Cache, layer: usize) {
        let (c, rows) = (self.config, self.rows);
        let (q_width, kv_width) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);

        // q, k, v = norm(x) W + b
        self.normalise(&w.input_norm);
        self.s.q.resize(rows * q_width);
        self.s.k.resize(rows * kv_width);
        self.s.v.resize(rows * kv_width);
        let s = &mut *self.s;
        let products = [
            Product::new(&w.q, Epilogue::Store, Shared::new(&mut s.q)),
            Product::new(&w.k, Epilogue::Store, Shared::new(&mut s.k)),
            Product::new(&w.v, Epilogue::Store, Shared::new(&mut s.v)),
        ];
        let orders = [&w.q, &w.k, &w.v].map(|l| Order::of(l.weight.dtype));
        by_order(
            self.team,
            &s.normed,
            rows,
            &mut s.packed,
            &products,
            &orders,
        );

        self.rotate_and_append(w, cache, layer);

        // x += attention(q, k, v) Wo
        self.s.attended.resize(rows * q_width);
        let s = &mut *self.s;
        attention(
            self.team,
            Attention {
                heads: c.heads,
                kv_heads: c.kv_heads,
                q: &s.q,
                views: self.views,
                cache: cache.layer(layer),
                rounded: self.activations == Activations::F16,
                out: Shared::new(&mut s.attended),
            },
        );
        self.activations.round(&mut s.attended);
        let product = [Product::new(&w.o, Epilogue::Add, Shared::new(&mut s.x))];
        let order = [Order::of(w.o.weight.dtype)];
        by_order(
            self.team,
            &s.attended,
            rows,
            &mut s.packed,
            &product,
            &order,
        );

        // x += (silu(norm(x) Wg) * (norm(x) Wu)) Wd
        self.normalise(&w.post_norm);
        let n = c.intermediate_size;
        self.s.gate.resize(rows * n);
        self.s.up.resize(rows * n);
        let s = &mut *self.s;
        let products = [
            Product::new(&w.gate, Epilogue::Store, Shared::new(&mut s.gate)),
            Product::new(&w.up, Epilogue::Store, Shared::new(&mut s.up)),
        ];
        let orders = [&w.gate, &w.up].map(|l| Order::of(l.weight.dtype));
        by_order(
            self.team,
            &s.normed,
            rows,
            &mut s.packed,
            &products,
            &orders,
        );
        swiglu(self.team, &mut s.gate, &s.up, n);
        self.activations.round_times(HEADROOM, &mut s.gate);
        let product = [Product::new(&w.down, Epilogue::Add, Shared::new(&mut s.x))];
        let order = [Order::of(w.down.weight.dtype)];
        by_order(self.team, &s.gate, rows, &mut s.packed, &product, &order);
    }

    /// normed = x / rms(x) * gain, for the product that comes next
    fn normalise(&mut self, gain: &[f32]) {
        self.norm(gain, 0, self.activations);
    }

    /// As [`Run::normalise`], for the rows first..
    fn norm(&mut self, gain: &[f32], first: usize, activations: Activations) {
        let (hidden, eps) = (self.config.hidden_size, self.config.rms_norm_eps);
        let s = &mut *self.s;
        let x = &s.x[first * hidden..];
        s.normed.resize(x.len());
        match activations {
            Activations::F32 => rms_norm(self.team, eps, x, gain, &mut s.normed),
            Activations::F16 => {
                let gain_scale = gain_scale(gain);
                let rows = x.chunks(hidden).zip(s.normed.chunks_mut(hidden));
                rows.for_each(|(x, out)| rounded_norm_row(x, gain, gain_scale, eps, out));
            }
        }
    }

    /// QK-norm, rotation, 1/sqrt(head_dim) on q, and k and v into the cache.
    fn rotate_and_append(&mut self, w: &Layer, cache: &mut Cache, layer: usize) {
        let (c, base) = (self.config, self.base);
        let (d, half) = (c.head_dim, c.head_dim / 2);
        let scale = 1.0 / (d as f32).sqrt();
        let s = &mut *self.s;
        let cache = cache.layer(layer);
        let (isa, activations) = (self.team.isa(), self.activations);
        activations.round(&mut s.v);
        let (q, k) = (Shared::new(&mut s.q), Shared::new(&mut s.k));
        let (v, cos, sin) = (&s.v, &s.cos, &s.sin);
        self.team.each_row(self.rows, |row| {
            {
                let (cos, sin) = (&cos[row * half..][..half], &sin[row * half..][..half]);
                for head in 0..c.heads + c.kv_heads {
                    let (buffer, head, width, norm, scale) = match head.checked_sub(c.heads) {
                        None => (q, head, c.heads, &w.q_norm, scale),
                        Some(head) => (k, head, c.kv_heads, &w.k_norm, 1.0),
                    };
                    let at = buffer.at((row * width + head) * d, d);
                    // SAFETY: this row's heads are this task's own.
                    let x = unsafe { std::slice::from_raw_parts_mut(at, d) };
                    if let Some(gain) = norm {
                        // SAFETY: x and gain are [head_dim]; x may be its own output.
                        unsafe { norm_row(isa, at, gain.as_ptr(), d, c.rms_norm_eps, at) };
                    }
                    for i in 0..half {
                        let (a, b) = (x[i], x[i + half]);
                        x[i] = a * cos[i] - b * sin[i];
                        x[i + half] = b * cos[i] + a * sin[i];
                    }
                    activations.round(x);
                    x.iter_mut().for_each(|x| *x *= scale);
                }
                for head in 0..c.kv_heads {
                    let at = (row * c.kv_heads + head) * d;
                    // SAFETY: this row's slot is this task's own.
                    unsafe {
                        let key = std::slice::from_raw_parts(k.at(at, d), d);
                        cache.write(head, base + row, key, &v[at..at + d]);
                    }
                }
            }
        });
    }

    /// Final norm and LM head for the rows that are wanted.
    fn head(&mut self, norm: &[f32], head: &Tensor, want: &Want, output: &mut PassOutput) {
        let hidden = self.config.hidden_size;
        let first = match want.logits {
            _ if want.hidden => 0,
            Logits::All => 0,
            Logits::Last => self.rows - 1,
            Logits::None => return,
        };
        let rows = self.rows - first;
        self.norm(norm, first, self.activations);
        let logit_rows = match want.logits {
            Logits::All => rows,
            Logits::Last => 1,
            Logits::None => 0,
        };
        if logit_rows > 0 {
            let s = &mut *self.s;
            output.logits = vec![0.0; logit_rows * self.config.vocab_size];
            let x = &s.normed[(rows - logit_rows) * hidden..];
            let product = [Product::of_weight(head, Shared::new(&mut output.logits))];
            let order = [Order::of(head.dtype)];
            by_order(self.team, x, logit_rows, &mut s.packed, &product, &order);
        }
        if want.hidden {
            if self.activations == Activations::F16 {
                self.norm(norm, first, Activations::F32);
            }
            output.last_hidden = self.s.normed.to_vec();
        }
    }
}

/// Products of the same activations, packed once per order that their weight types need.
fn by_order(
    team: &Team,
    x: &[f32],
    rows: usize,
    packed: &mut Lines,
    products: &[Product<'_>],
    orders: &[Order],
) {
    for order in [Order::EvenOdd, Order::Natural] {
        let some: Vec<Product<'_>> = products
            .iter()
            .zip(orders)
            .filter_map(|(p, &o)| (o == order).then_some(*p))
            .collect();
        if !some.is_empty() {
            pack_rows(team, x, rows, order, packed);
            let x = Packed {
                x: packed,
                rows,
                order,
            };
            linear(team, x, &some);
        }
    }
}

fn pack_rows(team: &Team, x: &[f32], rows: usize, order: Order, packed: &mut Lines) {
    let k = x.len() / rows;
    packed.resize(rows * padded(k));
    let (isa, out) = (team.isa(), Shared::new(packed));
    team.each(groups(rows), 4, |some| {
        for g in some {
            let Range {
                start: first,
                end: last,
            } = group(rows, g);
            let size = (last - first) * padded(k);
            let at = out.at(first * padded(k), size);
            // SAFETY: this group is this task's own.
            let to = unsafe { std::slice::from_raw_parts_mut(at, size) };
            pack(isa, &x[first * k..last * k], k, order, to);
        }
    });
}

fn rms_norm(team: &Team, eps: f32, x: &[f32], gain: &[f32], out: &mut [f32]) {
    let n = gain.len();
    let rows = x.len() / n;
    let isa = team.isa();
    let out = Shared::new(out);
    team.each_row(rows, |row| {
        let from = x[row * n..(row + 1) * n].as_ptr();
        // SAFETY: all three are n long; this row of `out` is this task's own.
        unsafe { norm_row(isa, from, gain.as_ptr(), n, eps, out.at(row * n, n)) };
    });
}

entry_points!(unsafe fn norm_row = norm_body(
    x: *const f32,
    gain: *const f32,
    n: usize,
    eps: f32,
    out: *mut f32,
));

/// out = x / sqrt(mean(x^2) + eps) * gain; lane l sums the squares l mod 8.
#[inline(always)]
unsafe fn norm_body<S: Simd>(x: *const f32, gain: *const f32, n: usize, eps: f32, out: *mut f32) {
    // SAFETY: x, gain and out are n long; the last partial vector is read through a copy.
    unsafe {
        let whole = n / 8 * 8;
        let mut squares = S::splat(0.0);
        for i in (0..whole).step_by(8) {
            let v = S::load(x.add(i));
            squares = S::fma(v, v, squares);
        }
        if whole < n {
            let mut rest = [0f32; 8];
            std::ptr::copy_nonoverlapping(x.add(whole), rest.as_mut_ptr(), n - whole);
            let v = S::load(rest.as_ptr());
            squares = S::fma(v, v, squares);
        }
        let scale = 1.0 / (S::sum(squares) / n as f32 + eps).sqrt();
        let scales = S::splat(scale);
        for i in (0..whole).step_by(8) {
            let y = S::mul(S::mul(S::load(x.add(i)), scales), S::load(gain.add(i)));
            S::store(out.add(i), y);
        }
        for i in whole..n {
            *out.add(i) = *x.add(i) * scale * *gain.add(i);
        }
    }
}

/// out = f16(x * gain * gain_scale) / gain_scale / sqrt(mean(x^2) + eps)
fn rounded_norm_row(x: &[f32], gain: &[f32], gain_scale: f32, eps: f32, out: &mut [f32]) {
    let squares: f32 = x.iter().map(|x| x * x).sum();
    let scale = 1.0 / (squares / x.len() as f32 + eps).sqrt();
    for ((out, x), gain) in out.iter_mut().zip(x).zip(gain) {
        *out = x * gain;
    }
    Activations::F16.round_times(gain_scale, out);
    out.iter_mut().for_each(|y| *y *= scale);
}

/// Stored elements as f32.
fn widen(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    let u16s = bytes
        .as_chunks::<2>()
        .0
        .iter()
        .map(|&b| u16::from_le_bytes(b));
    match dtype {
        Dtype::Bf16 => out
            .iter_mut()
            .zip(u16s)
            .for_each(|(o, b)| *o = half::bf16::from_bits(b).to_f32()),
        Dtype::F16 => out
            .iter_mut()
            .zip(u16s)
            .for_each(|(o, b)| *o = half::f16::from_bits(b).to_f32()),
        Dtype::F32 => out
            .iter_mut()
            .zip(bytes.as_chunks::<4>().0)
            .for_each(|(o, &b)| *o = f32::from_le_bytes(b)),
    }
}
