//! Matrix products: activations [rows, K] times weights [N, K], both row major.
//!
//! Weights are read in place, in their stored type, once per pass of any number
//! of rows: N * K * size bytes are the budget. Few rows wait for these bytes and
//! widen a weight when they meet it; many rows wait for the multiplications, so
//! a task widens its panel of weights once and takes all rows through it.
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

/// Bytes of a panel of weights as stored, for few rows: a quarter of a 512 KiB second cache.
const PANEL_BYTES: usize = 128 << 10;

/// Bytes of a widened panel, for many rows: half of that cache.
const WIDE_BYTES: usize = 256 << 10;

/// From this many rows on, a panel is widened first.
const MANY_ROWS: usize = 24;

/// Chunks of K whose activations, six rows of them, fit half of a 32 KiB first cache.
const BLOCK: usize = 48;

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

/// Rows that a tile takes at most, and that packed activations interleave.
const GROUP: usize = 6;

/// As few groups of rows as [`GROUP`] allows.
pub(super) fn groups(rows: usize) -> usize {
    rows.div_ceil(GROUP)
}

/// The rows of group `g`: sizes differ by one at most, so that no group is left with few
/// rows, for which a tile is slow.
pub(super) fn group(rows: usize, g: usize) -> Range<usize> {
    let (size, larger) = (rows / groups(rows), rows % groups(rows));
    let first = g * size + g.min(larger);
    first..first + size + usize::from(g < larger)
}

/// Packs a group of up to [`GROUP`] rows of `k` activations as [chunk][row][16]: a tile
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
    fn panel(&self, rows: usize, threads: usize) -> usize {
        let (n, k) = (self.weight.rows(), padded(self.weight.cols()));
        let fits = match rows < MANY_ROWS {
            true => PANEL_BYTES / (k * self.weight.dtype.size()),
            false => WIDE_BYTES / (k * size_of::<f32>()),
        };
        let shared = n.div_ceil(4 * threads);
        fits.min(shared).clamp(12, WIDEST) / 12 * 12
    }

    fn panels(&self, rows: usize, threads: usize) -> usize {
        self.weight.rows().div_ceil(self.panel(rows, threads))
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
        total += product.panels(x.rows, threads);
    }
    let share = match x.rows < MANY_ROWS {
        true => team.share(total),
        false => 1,
    };
    team.each(total, share, |tasks| {
        for task in tasks {
            let which = starts.partition_point(|&s| s <= task) - 1;
            let product = &products[which];
            let width = product.panel(x.rows, threads);
            compute_panel(
                isa,
                x,
                product,
                (task - starts[which]) * width,
                width,
                threads,
            );
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
    /// A widened panel and the sums that wait between blocks of K. On the heap: a frame of
    /// many pages is probed at entry, and the probe (seen with LLVM 22 on x86-64)
    /// overwrites a register that already holds an argument.
    static SCRATCH: RefCell<(Lines, Lines)> = RefCell::default();
}

/// Columns first.. of a product, `width` of them or what is left, for all rows.
fn compute_panel(
    isa: Isa,
    x: Packed<'_>,
    product: &Product<'_>,
    first: usize,
    width: usize,
    threads: usize,
) {
    let (n, k) = (product.weight.rows(), product.weight.cols());
    debug_assert_eq!(
        product.weight.bytes().len(),
        n * k * product.weight.dtype.size()
    );
    debug_assert_eq!(x.x.len(), x.rows * padded(k));
    debug_assert_eq!(x.order, Order::of(product.weight.dtype));
    // the panel that this thread probably takes next: the others are at those between
    let next = first + threads * width;
    let bytes_of = |column: usize| column.min(n) * k * product.weight.dtype.size();
    let ahead = &product.weight.bytes()[bytes_of(next)..bytes_of(next + width)];
    SCRATCH.with_borrow_mut(|(wide, waiting)| {
        let columns = width.min(n - first);
        waiting.resize(8 * GROUP * columns.next_multiple_of(2));
        if x.rows >= MANY_ROWS {
            wide.resize(columns.next_multiple_of(2) * padded(k));
        }
        let args = Panel {
            weights: product.weight.bytes().as_ptr(),
            k,
            n,
            first,
            last: first + columns,
            ahead: ahead.as_ptr(),
            ahead_bytes: ahead.len(),
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
            match (product.weight.dtype, x.rows < MANY_ROWS) {
                (Dtype::Bf16, true) => panel_bf16(isa, args),
                (Dtype::F16, true) => panel_f16(isa, args),
                (Dtype::F32, true) => panel_f32(isa, args),
                (Dtype::Bf16, false) => wide_bf16(isa, args),
                (Dtype::F16, false) => wide_f16(isa, args),
                (Dtype::F32, false) => wide_f32(isa, args),
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
    ahead: *const u8, // weights of the panel that probably comes next
    ahead_bytes: usize,
    x: *const f32, // packed groups
    rows: usize,
    wide: *mut f32, // [(last - first) / 2, chunks, 2, 16], where there are many rows
    waiting: *mut f32, // [last - first, GROUP, 8]
    bias: *const f32, // [n] or null
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
for_stored!(few_rows: panel_bf16 = few_bf16(Bf16), panel_f16 = few_f16(F16), panel_f32 = few_f32(F32));
for_stored!(many_rows: wide_bf16 = many_bf16(Bf16), wide_f16 = many_f16(F16), wide_f32 = many_f32(F32));

/// Up to twelve sums, the weights of a step and one activation stay in the 16 registers.
#[inline(always)]
unsafe fn few_rows<S: Simd, W: Stored>(p: Panel) {
    // SAFETY: rows and columns below stay inside what the caller promised.
    unsafe {
        for g in 0..groups(p.rows) {
            let rows = group(p.rows, g);
            match rows.len() {
                1 => strip::<S, W, 4, 1>(p, rows.start),
                2 => strip::<S, W, 4, 2>(p, rows.start),
                3 => strip::<S, W, 3, 3>(p, rows.start),
                4 => strip::<S, W, 2, 4>(p, rows.start),
                5 => strip::<S, W, 2, 5>(p, rows.start),
                _ => strip::<S, W, 2, 6>(p, rows.start),
            }
        }
    }
}

/// Columns first..last for R rows, M columns at a time. K is walked in blocks, so that
/// R rows of a block stay in the first cache while the columns pass by; sums wait in
/// `waiting` between blocks, which changes no bit.
#[inline(always)]
unsafe fn strip<S: Simd, W: Stored, const M: usize, const R: usize>(p: Panel, row: usize) {
    // SAFETY: as in few_rows; `waiting` has 8 R floats for every column.
    unsafe {
        let chunks = padded(p.k) / CHUNK;
        let columns = p.last - p.first;
        let whole = columns / M * M;
        let block = if chunks * R <= BLOCK * GROUP {
            chunks
        } else {
            BLOCK
        };
        for from in (0..chunks).step_by(block) {
            let range = from..(from + block).min(chunks);
            for n in (0..whole).step_by(M) {
                let waiting = p.waiting.add(8 * R * n);
                let mut sums = resume::<S, M, R>(waiting, from);
                tile::<S, W, M, R>(p, row, p.first + n, range.clone(), &mut sums);
                if range.end == chunks {
                    finish::<S, M, R>(p, row, p.first + n, &sums);
                } else {
                    pause::<S, M, R>(waiting, &sums);
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
    row: usize,
    n: usize,
    chunks: Range<usize>,
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
            if row == 0 && c % 2 == 0 {
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

/// Widens the panel, then takes groups of five and six rows through it, two columns at a
/// time: 12 multiply-adds share 8 loads, and nothing else is left in the loop.
#[inline(always)]
unsafe fn many_rows<S: Simd, W: Stored>(p: Panel) {
    // SAFETY: rows and columns below stay inside what the caller promised.
    unsafe {
        widen::<S, W>(p);
        let mut ahead = Ahead::new(&p);
        for g in 0..groups(p.rows) {
            let rows = group(p.rows, g);
            match rows.len() {
                5 => wide_strip::<S, 5>(p, rows.start, &mut ahead),
                6 => wide_strip::<S, 6>(p, rows.start, &mut ahead),
                _ => unreachable!("so many rows fall into groups of 5 and 6"),
            }
        }
    }
}

/// Fetches the next panel's weights into the second cache, a few lines with each tile.
struct Ahead {
    at: *const u8,
    end: *const u8,
    lines: usize,
}

impl Ahead {
    fn new(p: &Panel) -> Ahead {
        let blocks = (padded(p.k) / CHUNK).div_ceil(BLOCK);
        let tiles = groups(p.rows) * blocks * (p.last - p.first).div_ceil(2);
        Ahead {
            at: p.ahead,
            end: p.ahead.wrapping_add(p.ahead_bytes),
            lines: p.ahead_bytes.div_ceil(LINE_BYTES * tiles),
        }
    }

    #[inline(always)]
    unsafe fn fetch<S: Simd>(&mut self) {
        if self.at < self.end {
            for _ in 0..self.lines {
                // SAFETY: a prefetch touches nothing.
                unsafe { S::prefetch_second(self.at) };
                self.at = self.at.wrapping_add(LINE_BYTES);
            }
        }
    }
}

/// wide = the panel in f32, each pair of columns chunk by chunk: one stream for a tile.
/// The odd column of a last pair keeps whatever is there; its sums are not written.
#[inline(always)]
unsafe fn widen<S: Simd, W: Stored>(p: Panel) {
    // SAFETY: `wide` has a place for every chunk of the columns first..last.
    unsafe {
        let chunks = padded(p.k) / CHUNK;
        let stride = p.k * W::BYTES;
        for n in 0..p.last - p.first {
            let w = p.weights.add((p.first + n) * stride);
            let to = p.wide.add((n / 2 * chunks * 2 + n % 2) * CHUNK);
            for c in 0..p.k / CHUNK {
                let (at, to) = (w.add(c * CHUNK * W::BYTES), to.add(2 * c * CHUNK));
                S::store(to, W::half::<S, 0>(at));
                S::store(to.add(CHUNK / 2), W::half::<S, 1>(at));
            }
            if !p.k.is_multiple_of(CHUNK) {
                let padded = last_chunk::<W, 1>(w, stride, p.k);
                let (at, to) = (padded.as_ptr().cast(), to.add(2 * (chunks - 1) * CHUNK));
                S::store(to, W::half::<S, 0>(at));
                S::store(to.add(CHUNK / 2), W::half::<S, 1>(at));
            }
        }
    }
}

/// As [`strip`], over a widened panel.
#[inline(always)]
unsafe fn wide_strip<S: Simd, const R: usize>(p: Panel, row: usize, ahead: &mut Ahead) {
    // SAFETY: as in many_rows; `waiting` has 8 R floats for every column.
    unsafe {
        let chunks = padded(p.k) / CHUNK;
        let columns = p.last - p.first;
        let tiles = columns.div_ceil(2);
        for from in (0..chunks).step_by(BLOCK) {
            let range = from..(from + BLOCK).min(chunks);
            let x = p.x.add(row * padded(p.k) + from * R * CHUNK);
            // the activations that come next stand behind these: a share of them a tile
            let next = x.wrapping_add(range.len() * R * CHUNK);
            let lines = (range.len() * R).div_ceil(tiles);
            if range.end == chunks {
                fetch_outputs::<S>(p, row..row + R);
            }
            for tile in 0..tiles {
                ahead.fetch::<S>();
                for line in 0..lines {
                    S::prefetch(next.wrapping_add((tile * lines + line) * CHUNK).cast());
                }
                let n = 2 * tile;
                let waiting = p.waiting.add(8 * R * n);
                let mut sums = resume::<S, 2, R>(waiting, from);
                let mut x = x;
                let mut w = p.wide.add((tile * chunks + from) * 2 * CHUNK).cast_const();
                for _ in range.clone() {
                    for half in [0, CHUNK / 2] {
                        let (a, b) = (S::load(w.add(half)), S::load(w.add(CHUNK + half)));
                        for r in 0..R {
                            let v = S::load(x.add(r * CHUNK + half));
                            sums[0][r] = S::fma(a, v, sums[0][r]);
                            sums[1][r] = S::fma(b, v, sums[1][r]);
                        }
                    }
                    (w, x) = (w.add(2 * CHUNK), x.add(R * CHUNK));
                }
                if range.end < chunks {
                    pause::<S, 2, R>(waiting, &sums);
                } else if n + 1 < columns {
                    finish::<S, 2, R>(p, row, p.first + n, &sums);
                } else {
                    finish::<S, 1, R>(p, row, p.first + n, &[sums[0]]);
                }
            }
        }
    }
}

/// Asks for the places that a strip will write: a tile writes a few bytes to each of its
/// rows, and would wait for every line that is in no cache.
#[inline(always)]
unsafe fn fetch_outputs<S: Simd>(p: Panel, rows: Range<usize>) {
    for row in rows {
        let out = p.out.wrapping_add(row * p.n);
        for n in (p.first..p.last).step_by(LINE_BYTES / size_of::<f32>()) {
            // SAFETY: a prefetch touches nothing.
            unsafe { S::prefetch(out.wrapping_add(n).cast()) };
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
