//! What a launch did: counters per launch and per labelled allocation.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Traffic to one allocation (or to all that carry the same label) during one launch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    /// Bytes that the threads asked to read.
    pub bytes_read: u64,
    /// Bytes that the threads asked to write.
    pub bytes_written: u64,
    /// Bytes that atomics and reductions touched.
    pub bytes_atomic: u64,
    /// 32-byte sectors touched, summed over warp instructions.
    pub sectors: u64,
    /// Different 32-byte sectors touched in the whole launch.
    pub unique_sectors: u64,
}

impl Traffic {
    /// Bytes requested in every way.
    pub fn bytes(&self) -> u64 {
        self.bytes_read + self.bytes_written + self.bytes_atomic
    }

    /// Adds what another launch or allocation did.
    pub fn add(&mut self, other: &Traffic) {
        self.bytes_read += other.bytes_read;
        self.bytes_written += other.bytes_written;
        self.bytes_atomic += other.bytes_atomic;
        self.sectors += other.sectors;
        self.unique_sectors += other.unique_sectors;
    }
}

/// What one grid did. The counts are exact and, for kernels without data races or polling, the
/// same in every run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Name of the kernel (mangled, as in the PTX).
    pub kernel: String,
    /// Grid in x, y, z.
    pub grid: [u32; 3],
    /// Block in x, y, z.
    pub block: [u32; 3],
    /// Static shared memory of a block, in bytes.
    pub static_shared: u32,
    /// Dynamic shared memory of a block, in bytes.
    pub dynamic_shared: u32,
    /// Global traffic by label; allocations without a label are summed under the empty one.
    pub memory: BTreeMap<String, Traffic>,
    /// Warp instructions executed.
    pub warp_instructions: u64,
    /// Warp instructions by class: `integer`, `f32`, `f64`, `half`, `convert`, `move`, `control`,
    /// `global`, `shared`, `local`, `param`, `atomic`, `barrier`, `shuffle`, `mma`, `matrix`,
    /// `special`, `async`, `fence`.
    pub classes: BTreeMap<String, u64>,
    /// Tensor-core instructions by shape and types, such as `m16n8k16.f32.bf16.bf16.f32`.
    pub mma: BTreeMap<String, u64>,
    /// Passes through shared memory: one per conflict-free access of a warp.
    pub shared_wavefronts: u64,
    /// Passes beyond the least that the bytes asked for need.
    pub shared_conflicts: u64,
    /// Barriers that warps arrived at.
    pub barriers: u64,
    /// Branches at which the lanes of a warp parted.
    pub divergent_branches: u64,
    /// Warp instructions of the longest warp.
    pub longest_warp: u64,
}

impl Counts {
    /// Global traffic of all allocations together.
    pub fn traffic(&self) -> Traffic {
        let mut sum = Traffic::default();
        for traffic in self.memory.values() {
            sum.add(traffic);
        }
        sum
    }
}
