//! Matrix products: activations [rows, K] times weights [N, K], both row major.
//!
//! Weights are read in place, in their stored type, once per pass of any number
//! of rows: N * K * size bytes are the budget. Few rows wait for these bytes: all of
//! them meet a weight at once, which is widened then. Many rows wait for the
//! multiplications: six columns are widened into the first cache, and all rows pass
//! them two at a time.
//!
//! **The order of every sum is fixed**: element (r, n) has eight lanes that walk
//! K in chunks of 16 (two fused multiply-adds a lane and chunk), added up in the
//! one order of [`Simd::sum`]. Neither the number of rows nor the tile that
//! computes an element changes it, so a row's bits are the same in any company.

use super::lines::Lines;
use super::simd::{Isa, Simd, entry_points, reload};
use super::team::{Shared, Team};
use crate::model::{Dtype, Linear, Tensor};
use std::cell::RefCell;
use std::ops::Range;

/// Most columns (rows of the weight) that a task takes.
const WIDEST: usize = 192;

/// Bytes of a panel of weights as stored: a quarter of a 512 KiB second cache.
const PANEL_BYTES: usize = 128 << 10;

/// Most rows that are one tile high. A tile of one column needs a load for each of its
/// multiply-adds; from here on it pays to widen columns first.
const FEW_ROWS: usize = 10;

/// How far ahead of its tile a pass of few rows asks memory for weights.
const TILES_AHEAD: usize = 4;

/// Columns and rows of a tile where there are more rows than that.
const STRIP: usize = 6;
const PAIR: usize = 2;

/// Chunks of K in f32, times rows or columns, that take half of a 32 KiB first cache.
const BLOCK: usize = 288;

/// Bytes of activations that pass the columns of a panel together: half of the second
/// cache, of which the panel takes a quarter.
const ROWS_BYTES: usize = 256 << 10;

/// K is walked in chunks of this many elements.
const CHUNK: usize = 16;

/// Bytes of a cache line.
const LINE_BYTES: usize = 64;

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

/// Rows that packed activations interleave: those of a tile.
fn group_size(rows: usize) -> usize {
    if rows <= FEW_ROWS { rows } else { PAIR }
}

pub(super) fn groups(rows: usize) -> usize {
    rows.div_ceil(group_size(rows))
}

/// The rows of group `g`; the last one may have fewer than the others.
pub(super) fn group(rows: usize, g: usize) -> Range<usize> {
    let size = group_size(rows);
    g * size..((g + 1) * size).min(rows)
}

/// Packs a group of rows of `k` activations as [chunk][row][16]: a tile
/// walks one stream. Elements of a chunk are in `order`; the last chunk is padded with zeros.
pub(super) fn pack(isa: Isa, x: &[f32], k: usize, order: Order, out: &mut [f32]) {
    let rows = x.len() / k;
    assert_eq!(out.len(), rows * padded(k));
    // SAFETY: x is [rows, k], and out has a chunk for every one of them, partial ones too.
    unsafe { pack_group(isa, x.as_ptr(), rows, k, order, out.as_mut_ptr()) };
}

entry_points!(unsafe fn pack_group = pack_body(
    x: *const f32,
    rows: usize,
    k: usize,
    order: Order,
    out: *mut f32,
));

#[inline(always)]
unsafe fn pack_body<S: Simd>(x: *const f32, rows: usize, k: usize, order: Order, out: *mut f32) {
    // SAFETY: the caller's contract; a partial chunk goes through a padded copy.
    unsafe {
        for row in 0..rows {
            for chunk in 0..padded(k) / CHUNK {
                let mut from = x.add(row * k + chunk * CHUNK);
                let mut whole = [0f32; CHUNK];
                if (chunk + 1) * CHUNK > k {
                    std::ptr::copy_nonoverlapping(from, whole.as_mut_ptr(), k - chunk * CHUNK);
                    from = whole.as_ptr();
                }
                let mut halves = (S::load(from), S::load(from.add(CHUNK / 2)));
                if order == Order::EvenOdd {
                    halves = S::unzip(halves.0, halves.1);
                }
                let to = out.add((chunk * rows + row) * CHUNK);
                S::store(to, halves.0);
                S::store(to.add(CHUNK / 2), halves.1);
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
        let shared = n.div_ceil(8 * threads);
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
    let (isa, threads) = (team.isa(), team.threads());
    // where each product's tasks begin: one for each of its panels
    let mut starts = Vec::with_capacity(products.len());
    let mut total = 0;
    for product in products {
        starts.push(total);
        total += product.panels(threads);
    }
    let share = match x.rows <= FEW_ROWS {
        true => team.share(total),
        false => 1,
    };
    team.each(total, share, |tasks| {
        for task in tasks {
            let which = starts.partition_point(|&s| s <= task) - 1;
            let product = &products[which];
            let width = product.panel(threads);
            compute_panel(isa, x, product, (task - starts[which]) * width, width);
        }
    });
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

thread_local! {
    /// Widened columns, and the sums that wait between blocks of K. On the heap: a frame of
    /// many pages is probed at entry, and the probe (seen with LLVM 22 on x86-64)
    /// overwrites a register that already holds an argument.
    static SCRATCH: RefCell<(Lines, Lines)> = RefCell::default();
}

/// Columns first.. of a product, `width` of them or what is left, for all rows.
fn compute_panel(isa: Isa, x: Packed<'_>, product: &Product<'_>, first: usize, width: usize) {
    let (n, k) = (product.weight.rows(), product.weight.cols());
    debug_assert_eq!(
        product.weight.bytes().len(),
        n * k * product.weight.dtype.size()
    );
    debug_assert_eq!(x.x.len(), x.rows * padded(k));
    debug_assert_eq!(x.order, Order::of(product.weight.dtype));
    let columns = width.min(n - first);
    let few = x.rows <= FEW_ROWS;
    SCRATCH.with_borrow_mut(|(wide, waiting)| {
        if few {
            waiting.resize(8 * x.rows * columns);
        } else {
            waiting.resize(8 * STRIP * rows_at_once(k).min(x.rows));
            wide.resize(BLOCK * CHUNK);
        }
        let args = Panel {
            weights: product.weight.bytes().as_ptr(),
            k,
            n,
            first,
            last: first + columns,
            x: x.x.as_ptr(),
            rows: x.rows,
            wide: wide.as_mut_ptr(),
            waiting: waiting.as_mut_ptr(),
            bias: product.bias.map_or(std::ptr::null(), <[f32]>::as_ptr),
            add: product.epilogue == Epilogue::Add,
            out: product.out.at(0, x.rows * n),
        };
        // SAFETY: the sizes above are what the kernels walk; columns first..last of
        // `out` belong to this task alone.
        unsafe {
            match (product.weight.dtype, few) {
                (Dtype::Bf16, true) => few_bf16(isa, args),
                (Dtype::F16, true) => few_f16(isa, args),
                (Dtype::F32, true) => few_f32(isa, args),
                (Dtype::Bf16, false) => many_bf16(isa, args),
                (Dtype::F16, false) => many_f16(isa, args),
                (Dtype::F32, false) => many_f32(isa, args),
            }
        }
    });
}

/// Arguments of the panel kernels: output columns first..last.
#[derive(Clone, Copy)]
struct Panel {
    weights: *const u8, // [n, k]
    k: usize,
    n: usize,
    first: usize,
    last: usize,
    x: *const f32, // packed groups
    rows: usize,
    wide: *mut f32,    // many rows: a strip's block of K, [chunk, half, STRIP, 8]
    waiting: *mut f32, // few rows: [last - first, rows, 8]; many: [rows at once, STRIP, 8]
    bias: *const f32,  // [n] or null
    add: bool,
    out: *mut f32, // [rows, n]
}

/// The panel kernels, one for each stored type.
macro_rules! for_stored {
    ($body:ident: $($name:ident = $named:ident($stored:ty)),*) => {$(
        entry_points!(unsafe fn $name = $named(p: Panel));
        #[inline(always)]
        unsafe fn $named<S: Simd>(p: Panel) {
            // SAFETY: the caller's contract.
            unsafe { $body::<S, $stored>(p) }
        }
    )*};
}
for_stored!(few_rows: few_bf16 = with_few_bf16(Bf16), few_f16 = with_few_f16(F16), few_f32 = with_few_f32(F32));
for_stored!(many_rows: many_bf16 = with_many_bf16(Bf16), many_f16 = with_many_f16(F16), many_f32 = with_many_f32(F32));

/// Up to twelve sums, the weights of a step and one activation stay in the 16 registers.
#[inline(always)]
unsafe fn few_rows<S: Simd, W: Stored>(p: Panel) {
    // SAFETY: rows and columns below stay inside what the caller promised.
    unsafe {
        match p.rows {
            1 => strip::<S, W, 4, 1>(p),
            2 => strip::<S, W, 4, 2>(p),
            3 => strip::<S, W, 3, 3>(p),
            4 => strip::<S, W, 2, 4>(p),
            5 => strip::<S, W, 2, 5>(p),
            6 => strip::<S, W, 2, 6>(p),
            7 => strip::<S, W, 1, 7>(p),
            8 => strip::<S, W, 1, 8>(p),
            9 => strip::<S, W, 1, 9>(p),
            _ => strip::<S, W, 1, FEW_ROWS>(p),
        }
    }
}

/// Columns first..last for R rows, M columns at a time. K is walked in blocks, so that
/// R rows of a block stay in the first cache while the columns pass by; sums wait in
/// `waiting` between blocks, which changes no bit.
#[inline(always)]
unsafe fn strip<S: Simd, W: Stored, const M: usize, const R: usize>(p: Panel) {
    // SAFETY: as in few_rows; `waiting` has 8 R floats for every column.
    unsafe {
        let chunks = padded(p.k) / CHUNK;
        let columns = p.last - p.first;
        let whole = columns / M * M;
        for from in (0..chunks).step_by(BLOCK / R) {
            let range = from..(from + BLOCK / R).min(chunks);
            for n in (0..whole).step_by(M) {
                let waiting = p.waiting.add(8 * R * n);
                let mut sums = resume::<S, M, R>(waiting, from);
                tile::<S, W, M, R>(p, p.first + n, range.clone(), &mut sums);
                if range.end == chunks {
                    finish::<S, M, R>(p, 0, p.first + n, &sums);
                } else {
                    pause::<S, M, R>(waiting, &sums);
                }
            }
        }
        for n in whole..columns {
            let mut sums = [[S::splat(0.0); R]; 1];
            tile::<S, W, 1, R>(p, p.first + n, 0..chunks, &mut sums);
            finish::<S, 1, R>(p, 0, p.first + n, &sums);
        }
    }
}

/// Sums of a tile as the block of K before left them; zeros in the first block.
#[inline(always)]
unsafe fn resume<S: Simd, const M: usize, const R: usize>(
    waiting: *const f32,
    from: usize,
) -> [[S::V; R]; M] {
    // SAFETY: `waiting` has the 8 M R floats of this tile.
    unsafe {
        let mut sums = [[S::splat(0.0); R]; M];
        if from > 0 {
            for i in 0..M * R {
                sums[i % M][i / M] = S::load(waiting.add(8 * i));
            }
        }
        sums
    }
}

/// Puts the sums of a tile aside until the next block of K.
#[inline(always)]
unsafe fn pause<S: Simd, const M: usize, const R: usize>(waiting: *mut f32, sums: &[[S::V; R]; M]) {
    for i in 0..M * R {
        // SAFETY: `waiting` has the 8 M R floats of this tile.
        unsafe { S::store(waiting.add(8 * i), sums[i % M][i / M]) };
    }
}

/// sums += weights n..n + M times activations of R rows, over a range of chunks.
#[inline(always)]
unsafe fn tile<S: Simd, W: Stored, const M: usize, const R: usize>(
    p: Panel,
    n: usize,
    chunks: Range<usize>,
    sums: &mut [[S::V; R]; M],
) {
    // SAFETY: M weight rows from n and the R activation rows are inside
    // the matrices; the last, partial chunk is read through a padded copy.
    unsafe {
        let stride = p.k * W::BYTES;
        let w = p.weights.add(n * stride);
        let x = p.x;
        let whole = chunks.end.min(p.k / CHUNK);
        let mut held = *sums;
        for c in chunks.start..whole {
            let at = w.add(c * CHUNK * W::BYTES);
            if c % 2 == 0 {
                // ask memory for the tile after the next three
                for m in 0..M {
                    S::prefetch(at.wrapping_add((TILES_AHEAD * M + m) * stride));
                }
            }
            let x = x.add(c * R * CHUNK);
            half_chunk::<S, W, M, R, 0>(&mut held, at, stride, x);
            half_chunk::<S, W, M, R, 1>(&mut held, reload(at), stride, x);
        }
        if whole < chunks.end {
            let padded = last_chunk::<W, M>(w, stride, p.k);
            let (at, x) = (padded.as_ptr().cast(), x.add(whole * R * CHUNK));
            half_chunk::<S, W, M, R, 0>(&mut held, at, 4 * CHUNK, x);
            half_chunk::<S, W, M, R, 1>(&mut held, at, 4 * CHUNK, x);
        }
        *sums = held;
    }
}

/// The partial last chunk of M weight rows, padded with zeros.
#[inline(always)]
unsafe fn last_chunk<W: Stored, const M: usize>(
    w: *const u8,
    stride: usize,
    k: usize,
) -> [[u8; 4 * CHUNK]; M] {
    let whole = k / CHUNK * CHUNK;
    let mut padded = [[0u8; 4 * CHUNK]; M];
    for m in 0..M {
        // SAFETY: the rest of row m is inside the matrix, and shorter than a chunk.
        unsafe {
            let from = w.add(m * stride + whole * W::BYTES);
            std::ptr::copy_nonoverlapping(from, padded[m].as_mut_ptr(), (k - whole) * W::BYTES);
        }
    }
    padded
}

/// Rows whose activations stay in the second cache; where K is long, as many as are worth
/// widening the weights for.
fn rows_at_once(k: usize) -> usize {
    let fit = ROWS_BYTES / (padded(k) * size_of::<f32>());
    fit.max(32).next_multiple_of(PAIR)
}

/// Columns first..last, [`STRIP`] at a time: a block of K of them is widened into the first
/// cache, and the activations come by from the second one, [`PAIR`] rows at a time, so that
/// 12 multiply-adds share 8 loads, and nothing else is left in the loop.
#[inline(always)]
unsafe fn many_rows<S: Simd, W: Stored>(p: Panel) {
    // SAFETY: rows and columns below stay inside what the caller promised; `waiting` has
    // 8 STRIP floats for every row that is under way.
    unsafe {
        let chunks = padded(p.k) / CHUNK;
        let at_once = rows_at_once(p.k);
        for first_row in (0..p.rows).step_by(at_once) {
            let last_row = (first_row + at_once).min(p.rows);
            let tiles = chunks.div_ceil(BLOCK / STRIP) * (last_row - first_row).div_ceil(PAIR);
            for n in (p.first..p.last).step_by(STRIP) {
                let mut ahead = Ahead::new::<W>(p, n, tiles);
                for from in (0..chunks).step_by(BLOCK / STRIP) {
                    let range = from..(from + BLOCK / STRIP).min(chunks);
                    widen::<S, W>(p, n, range.clone());
                    for row in (first_row..last_row).step_by(PAIR) {
                        let waiting = p.waiting.add(8 * STRIP * (row - first_row));
                        ahead.fetch::<S>();
                        match last_row - row {
                            1 => wide_tile::<S, 1>(p, row, n, range.clone(), waiting),
                            _ => wide_tile::<S, PAIR>(p, row, n, range.clone(), waiting),
                        }
                    }
                }
            }
        }
    }
}

/// Fetches the strip that is widened next into the second cache, a few lines with each
/// tile: while rows are multiplied, memory has nothing else to do.
struct Ahead {
    at: *const u8,
    lines: usize,
}

impl Ahead {
    /// After column n, over `tiles` tiles.
    #[inline(always)]
    fn new<W: Stored>(p: Panel, n: usize, tiles: usize) -> Ahead {
        let bytes = STRIP * p.k * W::BYTES;
        Ahead {
            at: p.weights.wrapping_add((n + STRIP) * p.k * W::BYTES),
            lines: bytes.div_ceil(LINE_BYTES * tiles),
        }
    }

    #[inline(always)]
    unsafe fn fetch<S: Simd>(&mut self) {
        for _ in 0..self.lines {
            // SAFETY: a prefetch touches nothing.
            unsafe { S::prefetch_second(self.at) };
            self.at = self.at.wrapping_add(LINE_BYTES);
        }
    }
}

/// wide = a block of K of the strip from column n on, in f32: one stream for a tile.
/// Columns past the last one keep whatever is there; their sums are not written.
#[inline(always)]
unsafe fn widen<S: Simd, W: Stored>(p: Panel, n: usize, chunks: Range<usize>) {
    // SAFETY: `wide` has a place for every chunk of a block, and columns n.. before
    // `last` are inside the matrix.
    unsafe {
        let stride = p.k * W::BYTES;
        let whole = chunks.end.min(p.k / CHUNK);
        for m in 0..STRIP.min(p.last - n) {
            let w = p.weights.add((n + m) * stride);
            let mut to = p.wide.add(m * CHUNK / 2);
            for c in chunks.start..whole {
                let at = w.add(c * CHUNK * W::BYTES);
                S::store(to, W::half::<S, 0>(at));
                S::store(to.add(STRIP * CHUNK / 2), W::half::<S, 1>(at));
                to = to.add(STRIP * CHUNK);
            }
            if whole < chunks.end {
                let padded = last_chunk::<W, 1>(w, stride, p.k);
                let at = padded.as_ptr().cast();
                S::store(to, W::half::<S, 0>(at));
                S::store(to.add(STRIP * CHUNK / 2), W::half::<S, 1>(at));
            }
        }
    }
}

/// A block of K of R rows and the strip's columns.
#[inline(always)]
unsafe fn wide_tile<S: Simd, const R: usize>(
    p: Panel,
    row: usize,
    n: usize,
    chunks: Range<usize>,
    waiting: *mut f32,
) {
    // SAFETY: as in many_rows.
    unsafe {
        let all = padded(p.k) / CHUNK;
        let mut x = p.x.add(row * padded(p.k) + chunks.start * R * CHUNK);
        let mut w = p.wide.cast_const();
        if chunks.end == all {
            // a tile writes a few bytes to each row, and would wait for their lines
            for r in 0..R {
                S::prefetch(p.out.wrapping_add((row + r) * p.n + n).cast());
            }
        }
        let mut sums = resume::<S, STRIP, R>(waiting, chunks.start);
        for _ in chunks.clone() {
            for half in [0, CHUNK / 2] {
                let mut v = [S::splat(0.0); R];
                for r in 0..R {
                    v[r] = S::load(x.add(r * CHUNK + half));
                }
                for m in 0..STRIP {
                    let w = S::load(w.add((STRIP * half) + m * CHUNK / 2));
                    for r in 0..R {
                        sums[m][r] = S::fma(w, v[r], sums[m][r]);
                    }
                }
            }
            (w, x) = (w.add(STRIP * CHUNK), x.add(R * CHUNK));
        }
        if chunks.end < all {
            pause::<S, STRIP, R>(waiting, &sums);
        } else if p.last - n >= STRIP {
            finish::<S, STRIP, R>(p, row, n, &sums);
        } else {
            // over all six with a condition, so that sums keep their registers
            for m in 0..STRIP {
                if n + m < p.last {
                    finish::<S, 1, R>(p, row, n + m, &[sums[m]]);
                }
            }
        }
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
        let at = |i: usize| sums[i % M][i / M];
        let mut y = [[0f32; M]; R];
        let flat = y.as_flattened_mut();
        let fours = M * R / 4 * 4;
        for i in (0..fours).step_by(4) {
            let four = S::sum4(at(i), at(i + 1), at(i + 2), at(i + 3));
            flat[i..i + 4].copy_from_slice(&four);
        }
        for i in fours..M * R {
            flat[i] = S::sum(at(i));
        }
        if !p.bias.is_null() {
            let bias = p.bias.add(n).cast::<[f32; M]>().read_unaligned();
            for y in &mut y {
                for m in 0..M {
                    y[m] += bias[m];
                }
            }
        }
        // whole rows at a time: M neighbours are one store
        let out = p.out.add(row * p.n + n);
        for (r, y) in y.iter_mut().enumerate() {
            let out = out.add(r * p.n).cast::<[f32; M]>();
            if p.add {
                let before = out.read_unaligned();
                for m in 0..M {
                    y[m] += before[m];
                }
            }
            out.write_unaligned(*y);
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
