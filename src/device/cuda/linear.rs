//! The parameters of linear.cu's kernels.

use super::plan::{Plan, Shape};

/// `Linear::Epilogue` of layout.cuh: what follows a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Epilogue {
    /// x += y, sums of squares, the next product's input.
    Residual = 0,
    /// silu(gate) * up, the next product's input.
    SwiGlu = 1,
    /// Bias, QK-norm, rotation, cache.
    Qkv = 2,
    /// Logits, and the best of each part.
    Logits = 3,
}

/// `Linear` of layout.cuh: one matrix and what follows it. Addresses are of device memory, 0 where
/// there is nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[allow(missing_docs)] // said in layout.cuh
pub struct Linear {
    pub weights: u64,
    pub input: u64,
    pub partials: u64,
    pub counters: u64,
    pub rows: u64,
    pub input_squares: u64,
    pub bias: u64,
    pub x: u64,
    pub gain: u64,
    pub out: u64,
    pub squares: u64,
    pub judge: u64,
    pub dots: u64,
    pub q: u64,
    pub keys: u64,
    pub values: u64,
    pub angles: u64,
    pub q_gain: u64,
    pub k_gain: u64,
    pub head_bytes: u64,
    pub logits: u64,
    pub best: u64,
    pub epilogue: i32,
    pub pairs: i32,
    pub row_tiles: i32,
    pub block_tiles: i32,
    pub worker_units: i32,
    pub more_units: i32,
    pub first_group: i32,
    pub input_parts: i32,
    pub inverse_width: f32,
    pub eps: f32,
    pub input_scale: f32,
    pub out_scale: f32,
    pub width: i32,
    pub out_pairs: i32,
    pub part_tiles: i32,
    pub heads: i32,
    pub kv_heads: i32,
    pub group: i32,
    pub head_dim: i32,
    pub first_row: i32,
    pub vocabulary: i32,
    pub logits_stride: i32,
}

const _: () = assert!(size_of::<Linear>() == 22 * 8 + 22 * 4, "as in layout.cuh");

impl Linear {
    /// The parameters that a plan says.
    pub fn of(plan: &Plan, epilogue: Epilogue) -> Linear {
        Linear {
            epilogue: epilogue as i32,
            pairs: plan.pairs as i32,
            row_tiles: plan.row_tiles as i32,
            block_tiles: plan.block_tiles as i32,
            worker_units: (plan.units() / plan.workers) as i32,
            more_units: (plan.units() % plan.workers) as i32,
            part_tiles: plan.part_tiles as i32,
            input_scale: 1.0,
            out_scale: 1.0,
            ..Linear::default()
        }
    }
}

/// The kernel for a launch of a plan.
pub fn kernel(plan: &Plan, shape: &Shape) -> &'static str {
    match (shape.groups, plan.warps_k) {
        (1, 1) => "linear_1_1",
        (2, 1) => "linear_2_1",
        (4, 1) => "linear_4_1",
        (8, 1) => "linear_8_1",
        (_, 1) => "linear_32_1",
        (1, _) => "linear_1_8",
        (2, _) => "linear_2_8",
        (4, _) => "linear_4_8",
        (8, _) => "linear_8_8",
        (_, _) => "linear_32_8",
    }
}
