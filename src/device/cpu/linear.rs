//! Matrix products: activations [rows, K] times weights [N, K], both row major.
//!
//! Weights are read in place, in their stored type, once per pass of up to
//! any number of rows: N * K * size bytes are the budget, the activations
//! (rows * K * 4 bytes) stay in the first two caches.
//!
//! **The order of every sum is fixed**: element (r, n) has eight lanes that walk
//! K in chunks of 16 (two fused multiply-adds a lane and chunk), added up in the
//! one order of [`Simd::sum`]. Neither the number of rows nor the tile that
//! computes an element changes it, so a row's bits are the same in any company.

use super::simd::{Simd, entry_points, reload};
use super::team::{Shared, Team};
use crate::model::{Dtype, Linear, Tensor};

/// Most weight rows that a task takes through all activations before it moves on.
const WIDEST: usize = 192;

/// Bytes of weights in such a panel: a third of a 512 KiB second cache.
const PANEL_BYTES: usize = 128 << 10;

/// Bytes of activations that stay in the second cache beside a panel.
const ROW_BYTES: usize = 96 << 10;

/// Most rows of a decoding step that share one sweep over the weights.
const STEP_ROWS: usize = 64;

/// Chunks of K whose activations, six rows of them, fit half of a 32 KiB first cache.
const BLOCK: usize = 48;

/// K is walked in chunks of this many elements.
const CHUNK: usize = 16;

/// `k` rounded up to whole chunks: the stride of packed activations.
pub(super) fn padded(k: usize) -> usize {
    k.next_multiple_of(CHUNK)
}

/// How the elements of a chunk are ordered in packed activations, so that they
/// meet the lanes into which a weight type widens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Order {
    /// As stored: f16 and f32 weights.
    Natural,
    /// The eight even elements, then the eight odd ones: bf16 weights.
    EvenOdd,
}

impl Order {
    pub fn of(dtype: Dtype) -> Order {
        match dtype {
            Dtype::Bf16 => Order::EvenOdd,
            Dtype::F16 | Dtype::F32 => Order::Natural,
        }
    }
}

/// Rows that a tile takes at most, and that packed activations interleave.
pub(super) const GROUP: usize = 6;

/// Packs a group of up to [`GROUP`] rows of `k` activations as [chunk][row][16]: a tile
/// walks one stream. Elements of a chunk are in `order`; the last chunk is padded with zeros.
pub(super) fn pack(x: &[f32], k: usize, order: Order, out: &mut [f32]) {
    let rows = x.len() / k;
    debug_assert_eq!(out.len(), rows * padded(k));
    for (r, row) in x.chunks_exact(k).enumerate() {
        let places = out.chunks_exact_mut(CHUNK).skip(r).step_by(rows);
        for (from, to) in row.chunks(CHUNK).zip(places) {
            let mut whole = [0f32; CHUNK];
            whole[..from.len()].copy_from_slice(from);
            match order {
                Order::Natural => to.copy_from_slice(&whole),
                Order::EvenOdd => {
                    for i in 0..CHUNK / 2 {
                        to[i] = whole[2 * i];
                        to[CHUNK / 2 + i] = whole[2 * i + 1];
                    }
                }
            }
        }
    }
}

/// A stored element type, read 16 at a time: half 0 and half 1 of a packed chunk.
trait Stored {
    const BYTES: usize;
    unsafe fn half<S: Simd, const H: usize>(p: *const u8) -> S::V;
}

struct Bf16;
impl Stored for Bf16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn half<S: Simd, const H: usize>(p: *const u8) -> S::V {
        // SAFETY: the caller's pointer is valid for a chunk.
        unsafe {
            if H == 0 {
                S::bf16_even(p)
            } else {
                S::bf16_odd(p)
            }
        }
    }
}

struct F16;
impl Stored for F16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn half<S: Simd, const H: usize>(p: *const u8) -> S::V {
        // SAFETY: as above.
        unsafe { S::f16(p.add(16 * H)) }
    }
}

struct F32;
impl Stored for F32 {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn half<S: Simd, const H: usize>(p: *const u8) -> S::V {
        // SAFETY: as above.
        unsafe { S::load(p.add(32 * H).cast()) }
    }
}

/// What happens to a finished element.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Epilogue {
    /// out = y
    Store,
    /// out += y: the residual stream
    Add,
}

/// One product, as the kernels see it.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    weight: &'a Tensor,
    bias: Option<&'a [f32]>,
    epilogue: Epilogue,
    /// [rows, N]
    out: Shared<'a, f32>,
}

impl<'a> Product<'a> {
    /// `out` must hold [rows, N].
    pub fn new(linear: &'a Linear, epilogue: Epilogue, out: Shared<'a, f32>) -> Self {
        Product {
            weight: &linear.weight,
            bias: linear.bias.as_deref(),
            epilogue,
            out,
        }
    }

    /// The product with a bare weight, as the LM head is.
    pub fn of_weight(weight: &'a Tensor, out: Shared<'a, f32>) -> Self {
        Product {
            weight,
            bias: None,
            epilogue: Epilogue::Store,
            out,
        }
    }

    /// Columns of a panel: what the second cache holds, and no fewer panels than keep
    /// `threads` busy. Columns are independent, so no bit depends on it.
    fn panel(&self, threads: usize) -> usize {
        let (n, k) = (self.weight.rows(), self.weight.cols());
        let fits = PANEL_BYTES / (k * self.weight.dtype.size());
        let shared = n.div_ceil(4 * threads);
        fits.min(shared).clamp(12, WIDEST) / 12 * 12
    }

    fn panels(&self, threads: usize) -> usize {
        self.weight.rows().div_ceil(self.panel(threads))
    }
}

/// Packed activations.
#[derive(Clone, Copy)]
pub(super) struct Packed<'a> {
    /// groups of rows one after the other, each as [`pack`] writes it
    pub x: &'a [f32],
    pub rows: usize,
    pub order: Order,
}

/// Computes `products` of the same activations, all in one parallel region.
pub(super) fn linear(team: &Team, x: Packed<'_>, products: &[Product<'_>]) {
    let k = products.first().map_or(CHUNK, |p| p.weight.cols());
    let rows = rows_at_once(x.rows, k);
    let blocks = x.rows.div_ceil(rows);
    // where each product's tasks begin: its panels, and in each of them the blocks of rows
    let mut starts = Vec::with_capacity(products.len());
    let mut total = 0;
    for product in products {
        starts.push(total);
        total += product.panels(team.threads()) * blocks;
    }
    let share = if blocks > 1 { 1 } else { team.share(total) };
    team.each(total, share, |tasks| {
        for task in tasks {
            let which = starts.partition_point(|&s| s <= task) - 1;
            let (panel, block) = (
                (task - starts[which]) / blocks,
                (task - starts[which]) % blocks,
            );
            let top = block * rows;
            let bottom = (top + rows).min(x.rows);
            compute_panel(team, x, &products[which], panel, top..bottom);
        }
    });
}

/// Rows that a task takes through its panel. A step's rows stay together, so that weights
/// come from memory once; the many rows of a prompt are cut into blocks that the second
/// cache holds beside the panel. Rows are independent, so no bit depends on it.
fn rows_at_once(rows: usize, k: usize) -> usize {
    if rows <= STEP_ROWS {
        return rows.max(1);
    }
    let fits = ROW_BYTES / (4 * padded(k));
    (fits / GROUP * GROUP).max(GROUP)
}

/// gate = silu(gate) * up, both [rows, n].
pub(super) fn swiglu(team: &Team, gate: &mut [f32], up: &[f32], n: usize) {
    let isa = team.isa();
    let gate = Shared::new(gate);
    team.each_row(up.len() / n, |row| {
        // SAFETY: this row is this task's own, and both buffers have it.
        unsafe { swiglu_row(isa, gate.at(row * n, n), up[row * n..][..n].as_ptr(), n) };
    });
}

fn compute_panel(
    team: &Team,
    x: Packed<'_>,
    product: &Product<'_>,
    panel: usize,
    rows: std::ops::Range<usize>,
) {
    let (n, k) = (product.weight.rows(), product.weight.cols());
    let width = product.panel(team.threads());
    let first = panel * width;
    // On the heap: a frame of many pages is probed at entry, and the probe (seen with
    // LLVM 22 on x86-64) overwrites a register that already holds an argument.
    let mut waiting = vec![
        0f32;
        if padded(k) / CHUNK > BLOCK {
            8 * GROUP * width
        } else {
            0
        }
    ];
    let args = Panel {
        weights: product.weight.bytes().as_ptr(),
        k,
        n,
        first,
        last: (first + width).min(n),
        x: x.x.as_ptr(),
        top: rows.start,
        bottom: rows.end,
        waiting: waiting.as_mut_ptr(),
        bias: product.bias.map_or(std::ptr::null(), <[f32]>::as_ptr),
        add: product.epilogue == Epilogue::Add,
        out: product.out.at(0, x.rows * n),
    };
    debug_assert_eq!(
        product.weight.bytes().len(),
        n * k * product.weight.dtype.size()
    );
    debug_assert_eq!(x.x.len(), x.rows * padded(k));
    debug_assert_eq!(x.order, Order::of(product.weight.dtype));
    // SAFETY: the sizes above are what the kernel walks; columns first..last of these
    // rows of `out` belong to this task alone.
    unsafe {
        match product.weight.dtype {
            Dtype::Bf16 => panel_bf16(team.isa(), args),
            Dtype::F16 => panel_f16(team.isa(), args),
            Dtype::F32 => panel_f32(team.isa(), args),
        }
    }
}

/// Arguments of the panel kernel: output columns first..last for rows top..bottom.
#[derive(Clone, Copy)]
struct Panel {
    weights: *const u8, // [n, k]
    k: usize,
    n: usize,
    first: usize,
    last: usize,
    x: *const f32, // packed groups
    top: usize,
    bottom: usize,
    waiting: *mut f32, // [last - first, GROUP, 8]
    bias: *const f32,  // [n] or null
    add: bool,
    out: *mut f32, // [rows, n]
}

entry_points!(unsafe fn panel_bf16 = panel_body_bf16(p: Panel));
entry_points!(unsafe fn panel_f16 = panel_body_f16(p: Panel));
entry_points!(unsafe fn panel_f32 = panel_body_f32(p: Panel));

#[inline(always)]
unsafe fn panel_body_bf16<S: Simd>(p: Panel) {
    // SAFETY: the caller's contract.
    unsafe { panel_body::<S, Bf16>(p) }
}
#[inline(always)]
unsafe fn panel_body_f16<S: Simd>(p: Panel) {
    // SAFETY: the caller's contract.
    unsafe { panel_body::<S, F16>(p) }
}
#[inline(always)]
unsafe fn panel_body_f32<S: Simd>(p: Panel) {
    // SAFETY: the caller's contract.
    unsafe { panel_body::<S, F32>(p) }
}

/// Six rows at a time with two columns: 12 sums, 2 weights and 1 activation stay in the 16
/// registers, and 12 fused multiply-adds share 8 loads.
#[inline(always)]
unsafe fn panel_body<S: Simd, W: Stored>(p: Panel) {
    // SAFETY: rows and columns below stay inside what the caller promised.
    unsafe {
        let mut row = p.top;
        while row < p.bottom {
            let rows = (p.bottom - row).min(GROUP);
            match rows {
                1 => strip::<S, W, 4, 1>(p, row),
                2 => strip::<S, W, 4, 2>(p, row),
                3 => strip::<S, W, 3, 3>(p, row),
                4 => strip::<S, W, 2, 4>(p, row),
                5 => strip::<S, W, 2, 5>(p, row),
                _ => strip::<S, W, 2, 6>(p, row),
            }
            row += rows;
        }
    }
}

/// Columns first..last for R rows, M columns at a time. K is walked in blocks, so that
/// R rows of a block stay in the first cache while the columns pass by; sums wait in
/// `waiting` between blocks, which changes no bit.
#[inline(always)]
unsafe fn strip<S: Simd, W: Stored, const M: usize, const R: usize>(p: Panel, row: usize) {
    // SAFETY: as in panel_body; `waiting` has 8 R floats for every column.
    unsafe {
        let chunks = padded(p.k) / CHUNK;
        let columns = p.last - p.first;
        let whole = columns / M * M;
        if chunks * R <= BLOCK * 6 {
            for n in (0..whole).step_by(M) {
                let mut sums = [[S::splat(0.0); R]; M];
                tile::<S, W, M, R>(p, row, p.first + n, 0..chunks, &mut sums);
                finish::<S, M, R>(p, row, p.first + n, &sums);
            }
        } else {
            for from in (0..chunks).step_by(BLOCK) {
                let block = from..(from + BLOCK).min(chunks);
                for n in (0..whole).step_by(M) {
                    let waiting = p.waiting.add(8 * R * n);
                    let mut sums = [[S::splat(0.0); R]; M];
                    if from > 0 {
                        for i in 0..M * R {
                            sums[i % M][i / M] = S::load(waiting.add(8 * i));
                        }
                    }
                    tile::<S, W, M, R>(p, row, p.first + n, block.clone(), &mut sums);
                    if block.end == chunks {
                        finish::<S, M, R>(p, row, p.first + n, &sums);
                    } else {
                        for i in 0..M * R {
                            S::store(waiting.add(8 * i), sums[i % M][i / M]);
                        }
                    }
                }
            }
        }
        for n in whole..columns {
            let mut sums = [[S::splat(0.0); R]; 1];
            tile::<S, W, 1, R>(p, row, p.first + n, 0..chunks, &mut sums);
            finish::<S, 1, R>(p, row, p.first + n, &sums);
        }
    }
}

/// sums += weights n..n + M times activations of R rows, over a range of chunks.
#[inline(always)]
unsafe fn tile<S: Simd, W: Stored, const M: usize, const R: usize>(
    p: Panel,
    row: usize,
    n: usize,
    chunks: std::ops::Range<usize>,
    sums: &mut [[S::V; R]; M],
) {
    // SAFETY: M weight rows from n and R activation rows from `row` are inside
    // the matrices; the last, partial chunk is read through a padded copy.
    unsafe {
        let stride = p.k * W::BYTES;
        let w = p.weights.add(n * stride);
        let x = p.x.add(row * padded(p.k));
        let whole = chunks.end.min(p.k / CHUNK);
        let mut held = *sums;
        for c in chunks.start..whole {
            let at = w.add(c * CHUNK * W::BYTES);
            if row == p.top && c % 2 == 0 {
                // the first rows wait for memory: ask for the tile after the next
                for m in 0..M {
                    S::prefetch(at.wrapping_add((2 * M + m) * stride));
                }
            }
            let x = x.add(c * R * CHUNK);
            half_chunk::<S, W, M, R, 0>(&mut held, at, stride, x);
            half_chunk::<S, W, M, R, 1>(&mut held, reload(at), stride, x);
        }
        if whole < chunks.end {
            let left = (p.k - whole * CHUNK) * W::BYTES;
            let mut padded = [[0u8; 4 * CHUNK]; M];
            for m in 0..M {
                let from = w.add(m * stride + whole * CHUNK * W::BYTES);
                std::ptr::copy_nonoverlapping(from, padded[m].as_mut_ptr(), left);
            }
            let (at, x) = (padded.as_ptr().cast(), x.add(whole * R * CHUNK));
            half_chunk::<S, W, M, R, 0>(&mut held, at, 4 * CHUNK, x);
            half_chunk::<S, W, M, R, 1>(&mut held, at, 4 * CHUNK, x);
        }
        *sums = held;
    }
}

/// Adds up the lanes and writes M columns of R rows.
#[inline(always)]
unsafe fn finish<S: Simd, const M: usize, const R: usize>(
    p: Panel,
    row: usize,
    n: usize,
    sums: &[[S::V; R]; M],
) {
    // SAFETY: these elements of `out` belong to this panel; bias is [n] or null.
    unsafe {
        let write = |i: usize, y: f32| {
            let (r, m) = (i / M, i % M);
            let y = if p.bias.is_null() {
                y
            } else {
                y + *p.bias.add(n + m)
            };
            let out = p.out.add((row + r) * p.n + n + m);
            *out = if p.add { *out + y } else { y };
        };
        let at = |i: usize| sums[i % M][i / M];
        let fours = M * R / 4 * 4;
        for i in (0..fours).step_by(4) {
            let y = S::sum4(at(i), at(i + 1), at(i + 2), at(i + 3));
            for j in 0..4 {
                write(i + j, y[j]);
            }
        }
        for i in fours..M * R {
            write(i, S::sum(at(i)));
        }
    }
}

/// sums += weights * activations over half H of a chunk.
#[inline(always)]
unsafe fn half_chunk<S: Simd, W: Stored, const M: usize, const R: usize, const H: usize>(
    sums: &mut [[S::V; R]; M],
    w: *const u8,
    stride: usize,
    x: *const f32,
) {
    // SAFETY: the tile's contract.
    unsafe {
        let mut weights = [S::splat(0.0); M];
        for m in 0..M {
            weights[m] = W::half::<S, H>(w.add(m * stride));
        }
        for r in 0..R {
            let v = S::load(x.add(r * CHUNK + H * CHUNK / 2));
            for m in 0..M {
                sums[m][r] = S::fma(weights[m], v, sums[m][r]);
            }
        }
    }
}

entry_points!(unsafe fn swiglu_row = swiglu_body(gate: *mut f32, up: *const f32, n: usize));

/// gate = silu(gate) * up over n elements.
#[inline(always)]
unsafe fn swiglu_body<S: Simd>(gate: *mut f32, up: *const f32, n: usize) {
    // SAFETY: whole vectors are inside the n elements; the rest goes through
    // padded copies, so an element's bits do not depend on where it stands.
    unsafe {
        let mut i = 0;
        while i + 8 <= n {
            let y = silu_mul::<S>(S::load(gate.add(i)), S::load(up.add(i)));
            S::store(gate.add(i), y);
            i += 8;
        }
        if i < n {
            let (mut g, mut u) = ([0f32; 8], [0f32; 8]);
            std::ptr::copy_nonoverlapping(gate.add(i), g.as_mut_ptr(), n - i);
            std::ptr::copy_nonoverlapping(up.add(i), u.as_mut_ptr(), n - i);
            let y = silu_mul::<S>(S::load(g.as_ptr()), S::load(u.as_ptr()));
            S::store(g.as_mut_ptr(), y);
            std::ptr::copy_nonoverlapping(g.as_ptr(), gate.add(i), n - i);
        }
    }
}

#[inline(always)]
unsafe fn silu_mul<S: Simd>(g: S::V, u: S::V) -> S::V {
    // SAFETY: the caller grants S's instruction set.
    unsafe {
        let one = S::splat(1.0);
        let e = super::simd::exp::<S>(S::sub(S::splat(0.0), g));
        S::mul(S::div(g, S::add(one, e)), u)
    }
}
