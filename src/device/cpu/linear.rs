//! Matrix products: activations [rows, K] times weights [N, K], both row major.
//!
//! Weights are read in place, in their stored type, once per pass of up to
//! [`SWEEP_ROWS`] rows: N * K * size bytes are the budget, the activations
//! (rows * K * 4 bytes) stay in the first two caches.
//!
//! **The order of every sum is fixed**: element (r, n) has eight lanes that walk
//! K in chunks of 16 (two fused multiply-adds a lane and chunk), added up in the
//! one order of [`Simd::sum`]. Neither the number of rows nor the tile that
//! computes an element changes it, so a row's bits are the same in any company.

use super::simd::{Simd, entry_points};
use super::team::{Shared, Team};
use crate::model::{Dtype, Linear, Tensor};

/// Weight rows that a task takes through all activations before it moves on:
/// a panel of bf16 weights of a 1,536 wide matrix fills a third of a 512 KiB cache.
const PANEL: usize = 48;

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

/// Writes one row of activations in `order`, padded with zeros to whole chunks.
pub(super) fn pack(x: &[f32], order: Order, out: &mut [f32]) {
    debug_assert_eq!(out.len(), padded(x.len()));
    for (from, to) in x.chunks(CHUNK).zip(out.chunks_exact_mut(CHUNK)) {
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

/// A stored element type, read 16 at a time.
trait Stored {
    const BYTES: usize;
    unsafe fn chunk<S: Simd>(p: *const u8) -> (S::V, S::V);
}

struct Bf16;
impl Stored for Bf16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn chunk<S: Simd>(p: *const u8) -> (S::V, S::V) {
        // SAFETY: the caller's pointer is valid for a chunk.
        unsafe { S::bf16_split(p) }
    }
}

struct F16;
impl Stored for F16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn chunk<S: Simd>(p: *const u8) -> (S::V, S::V) {
        // SAFETY: as above.
        unsafe { (S::f16(p), S::f16(p.add(16))) }
    }
}

struct F32;
impl Stored for F32 {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn chunk<S: Simd>(p: *const u8) -> (S::V, S::V) {
        // SAFETY: as above.
        unsafe { (S::load(p.cast()), S::load(p.add(32).cast())) }
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

    fn panels(&self) -> usize {
        self.weight.rows().div_ceil(PANEL)
    }
}

/// Packed activations.
#[derive(Clone, Copy)]
pub(super) struct Packed<'a> {
    /// [rows, padded(K)]
    pub x: &'a [f32],
    pub rows: usize,
    pub order: Order,
}

/// Computes `products` of the same activations, all in one parallel region.
pub(super) fn linear(team: &Team, x: Packed<'_>, products: &[Product<'_>]) {
    let starts: Vec<usize> = products
        .iter()
        .scan(0, |at, p| {
            let start = *at;
            *at += p.panels();
            Some(start)
        })
        .collect();
    let total: usize = products.iter().map(Product::panels).sum();
    team.each(total, team.share(total), |panels| {
        for panel in panels {
            let which = starts.partition_point(|&s| s <= panel) - 1;
            compute_panel(team, x, &products[which], panel - starts[which]);
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

fn compute_panel(team: &Team, x: Packed<'_>, product: &Product<'_>, panel: usize) {
    let (n, k) = (product.weight.rows(), product.weight.cols());
    let first = panel * PANEL;
    let args = Panel {
        weights: product.weight.bytes().as_ptr(),
        k,
        n,
        first,
        last: (first + PANEL).min(n),
        x: x.x.as_ptr(),
        rows: x.rows,
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
    // SAFETY: the sizes above are what the kernel walks; columns first..last of
    // `out` belong to this panel alone.
    unsafe {
        match product.weight.dtype {
            Dtype::Bf16 => panel_bf16(team.isa(), args),
            Dtype::F16 => panel_f16(team.isa(), args),
            Dtype::F32 => panel_f32(team.isa(), args),
        }
    }
}

/// Arguments of the panel kernel: output columns first..last for all rows.
#[derive(Clone, Copy)]
struct Panel {
    weights: *const u8, // [n, k]
    k: usize,
    n: usize,
    first: usize,
    last: usize,
    x: *const f32, // [rows, padded(k)]
    rows: usize,
    bias: *const f32, // [n] or null
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

/// Four rows at a time with three columns (12 sums and 4 operands fill the 16
/// registers; 24 fused multiply-adds per 11 loads), fewer rows with four columns.
#[inline(always)]
unsafe fn panel_body<S: Simd, W: Stored>(p: Panel) {
    // SAFETY: rows and columns below stay inside what the caller promised.
    unsafe {
        let mut row = 0;
        while row < p.rows {
            match p.rows - row {
                1 => strip::<S, W, 4, 1>(p, row),
                2 => strip::<S, W, 4, 2>(p, row),
                3 => strip::<S, W, 4, 3>(p, row),
                _ => strip::<S, W, 3, 4>(p, row),
            }
            row += 4;
        }
    }
}

/// Columns first..last for R rows, M columns at a time.
#[inline(always)]
unsafe fn strip<S: Simd, W: Stored, const M: usize, const R: usize>(p: Panel, row: usize) {
    // SAFETY: as in panel_body.
    unsafe {
        let mut n = p.first;
        while n + M <= p.last {
            tile::<S, W, M, R>(p, row, n);
            n += M;
        }
        while n < p.last {
            tile::<S, W, 1, R>(p, row, n);
            n += 1;
        }
    }
}

#[inline(always)]
unsafe fn tile<S: Simd, W: Stored, const M: usize, const R: usize>(p: Panel, row: usize, n: usize) {
    // SAFETY: M weight rows from n and R activation rows from `row` are inside
    // the matrices; the last, partial chunk is read through a padded copy.
    unsafe {
        let stride = p.k * W::BYTES;
        let w = p.weights.add(n * stride);
        let x_stride = padded(p.k);
        let x = p.x.add(row * x_stride);
        let mut sums = [[S::splat(0.0); R]; M];
        let whole = p.k / CHUNK;
        for c in 0..whole {
            let at = w.add(c * CHUNK * W::BYTES);
            if R == 1 {
                // one row waits for memory: ask for the next tile's weights
                for m in 0..M {
                    S::prefetch(at.wrapping_add((M + m) * stride));
                }
            }
            let mut first = [S::splat(0.0); M];
            let mut second = [S::splat(0.0); M];
            for m in 0..M {
                (first[m], second[m]) = W::chunk::<S>(at.add(m * stride));
            }
            step::<S, M, R>(&mut sums, first, x.add(c * CHUNK), x_stride);
            step::<S, M, R>(&mut sums, second, x.add(c * CHUNK + CHUNK / 2), x_stride);
        }
        if whole * CHUNK < p.k {
            let left = (p.k - whole * CHUNK) * W::BYTES;
            let mut first = [S::splat(0.0); M];
            let mut second = [S::splat(0.0); M];
            for m in 0..M {
                let mut padded = [0u8; 4 * CHUNK];
                let from = w.add(m * stride + whole * CHUNK * W::BYTES);
                std::ptr::copy_nonoverlapping(from, padded.as_mut_ptr(), left);
                (first[m], second[m]) = W::chunk::<S>(padded.as_ptr());
            }
            let at = x.add(whole * CHUNK);
            step::<S, M, R>(&mut sums, first, at, x_stride);
            step::<S, M, R>(&mut sums, second, at.add(CHUNK / 2), x_stride);
        }
        for m in 0..M {
            for r in 0..R {
                let mut y = S::sum(sums[m][r]);
                if !p.bias.is_null() {
                    y += *p.bias.add(n + m);
                }
                let out = p.out.add((row + r) * p.n + n + m);
                *out = if p.add { *out + y } else { y };
            }
        }
    }
}

#[inline(always)]
unsafe fn step<S: Simd, const M: usize, const R: usize>(
    sums: &mut [[S::V; R]; M],
    w: [S::V; M],
    x: *const f32,
    x_stride: usize,
) {
    for r in 0..R {
        // SAFETY: the tile's contract.
        unsafe {
            let v = S::load(x.add(r * x_stride));
            for m in 0..M {
                sums[m][r] = S::fma(w[m], v, sums[m][r]);
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
