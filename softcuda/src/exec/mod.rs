//! Execution: decoded kernels, warps, schedulers, checks.

mod access;
mod approx;
mod atomic;
mod banks;
mod bits;
mod convert;
mod copies;
pub(crate) mod decode;
mod double;
mod elements;
mod float;
mod flow;
mod global;
mod known;
mod lanes;
mod machine;
mod matrix;
mod mbarrier;
mod mma;
mod ops;
mod order;
mod races;
mod ranges;
mod select;
mod shared;
mod sync;
mod warp;

use crate::counts::Counts;
use crate::device::Model;
use crate::memory::Memory;
use std::fmt;
use std::sync::Arc;

/// Codes of the driver interface that the core gives (`CUresult`).
pub mod code {
    /// `CUDA_ERROR_INVALID_VALUE`
    pub const INVALID_VALUE: u32 = 1;
    /// `CUDA_ERROR_INVALID_IMAGE`
    pub const INVALID_IMAGE: u32 = 200;
    /// `CUDA_ERROR_NO_BINARY_FOR_GPU`
    pub const NO_BINARY_FOR_GPU: u32 = 209;
    /// `CUDA_ERROR_INVALID_PTX`
    pub const INVALID_PTX: u32 = 218;
    /// `CUDA_ERROR_ILLEGAL_ADDRESS`
    pub const ILLEGAL_ADDRESS: u32 = 700;
    /// `CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES`
    pub const LAUNCH_OUT_OF_RESOURCES: u32 = 701;
    /// `CUDA_ERROR_LAUNCH_TIMEOUT`
    pub const LAUNCH_TIMEOUT: u32 = 702;
    /// `CUDA_ERROR_ASSERT`
    pub const ASSERT: u32 = 710;
    /// `CUDA_ERROR_ILLEGAL_INSTRUCTION`
    pub const ILLEGAL_INSTRUCTION: u32 = 715;
    /// `CUDA_ERROR_MISALIGNED_ADDRESS`
    pub const MISALIGNED_ADDRESS: u32 = 716;
    /// `CUDA_ERROR_INVALID_ADDRESS_SPACE`
    pub const INVALID_ADDRESS_SPACE: u32 = 717;
    /// `CUDA_ERROR_LAUNCH_FAILED`
    pub const LAUNCH_FAILED: u32 = 719;
    /// `CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE`
    pub const COOPERATIVE_LAUNCH_TOO_LARGE: u32 = 720;
}

/// A parameter of a kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct Param {
    /// Its name in the PTX.
    pub name: String,
    /// Its offset in the parameter block, in bytes.
    pub offset: u32,
    /// Its bytes.
    pub bytes: u32,
    /// Its alignment.
    pub align: u32,
}

/// A kernel, decoded once and ready to run.
#[derive(Debug)]
pub struct Kernel {
    /// Its name in the PTX.
    pub name: String,
    /// Its parameters in order.
    pub params: Vec<Param>,
    /// Bytes of the parameter block.
    pub param_bytes: u32,
    /// Static shared memory, in bytes.
    pub static_shared: u32,
    /// Local memory of a thread, in bytes.
    pub local_bytes: u32,
    /// Constant memory of its module, in bytes.
    pub constant_bytes: u32,
    /// Registers of a thread.
    pub registers: u32,
    /// Most threads of a block with those registers and with `.maxntid`.
    pub max_threads: u32,
    /// Bytes of spilled registers, from the resource report.
    pub spill_bytes: u32,
    /// Major and minor number of the PTX target.
    pub target: (u32, u32),
    pub(crate) code: ops::Code,
}

/// One grid to run.
#[derive(Debug, Clone)]
pub struct Launch {
    /// What to run.
    pub kernel: Arc<Kernel>,
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block, in bytes.
    pub dynamic_shared: u32,
    /// What the kernel opted in to (`MAX_DYNAMIC_SHARED_SIZE_BYTES`); more than this and more
    /// than the device gives without opting in fails.
    pub dynamic_shared_limit: u32,
    /// The parameter block, laid out as [`Kernel::params`] says.
    pub params: Vec<u8>,
    /// All blocks must be resident together.
    pub cooperative: bool,
    /// Programmatic dependent launch: may overlap the grid before it in the list.
    pub programmatic: bool,
    /// From another stream, with nothing that orders it: may overlap every grid before it in the
    /// list from its start (`griddepcontrol.wait` waits for none of them). The driver sets it.
    pub concurrent: bool,
    /// Copies and fills of other streams that nothing orders with this grid, whenever they are
    /// done. The driver sets them.
    pub transfers: Vec<Transfer>,
}

/// Bytes that a copy reads or writes, or that a fill writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Transfer {
    /// First address.
    pub address: u64,
    /// How many bytes from there on.
    pub bytes: u64,
    /// Whether it writes them.
    pub writes: bool,
    /// A fill, or else a copy.
    pub fill: bool,
}

/// How a programmatic successor runs beside its predecessor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overlap {
    /// Its blocks run as far as they can before the predecessor goes on.
    Early,
    /// Blocks of both in turn.
    #[default]
    Interleaved,
    /// Only when the predecessor is done.
    Late,
}

/// How `mma` adds up in floating point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accumulate {
    /// One product after the other, each sum rounded to nearest.
    #[default]
    Sequential,
    /// Groups of up to 8 products aligned to the largest exponent together with the accumulator,
    /// cut off 24 bits below it, added exactly and cut off to 32 bits, or rounded to nearest where
    /// the sum is in halves: as the tensor cores of compute capability 8.0 were found to do.
    Groups8,
    /// As `Groups8`, in groups of up to 16 and 25 bits: as those of 9.0.
    Groups16,
}

/// What may be chosen for a run.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Order of blocks and warps; changes nothing else.
    pub seed: u64,
    /// How programmatic successors overlap.
    pub overlap: Overlap,
    /// Arithmetic of `mma`.
    pub accumulate: Accumulate,
    /// Perturbs `.approx` results within the bounds of the manual; `None` leaves them rounded.
    pub approx_seed: Option<u64>,
    /// After how much polling without any progress (a store, an atomic that changes memory, other
    /// work, the end of a block) a launch counts as hung: in warp instructions, a turn of a block
    /// that only polls counting 1000 more; 0 for the default, about a second.
    pub patience: u64,
}

/// A rule of which a violation was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// An address outside every allocation, or outside the block's shared or local memory.
    OutOfBounds,
    /// An address that is no multiple of the access's bytes.
    Misaligned,
    /// A read of bytes never written.
    Uninitialised,
    /// Warps of a block touch the same shared memory without a barrier between them.
    SharedRace,
    /// Warps or blocks, of one grid or of two that overlap, touch the same global memory
    /// unordered, or a grid and a copy or fill of another stream do.
    GlobalRace,
    /// A read through the non-coherent path of memory that a live grid writes.
    NonCoherent,
    /// A use of the target of a `cp.async` that was not waited for.
    Pending,
    /// A barrier, or an instruction of the whole warp, reached by part of its threads.
    Divergent,
    /// No warp can go on, or nothing changes any more.
    Deadlock,
    /// An instruction was given what the manual excludes (a lane outside its member mask, say).
    Undefined,
    /// The launch asks for more than device or kernel allow.
    Limit,
    /// `trap`, or a failed assertion.
    Trap,
}

/// Why a launch failed, and where.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// What was found and expected.
    pub message: String,
    /// What a real driver would return.
    pub code: u32,
    /// Index of the grid in the list given to [`launch`].
    pub grid: usize,
    /// Name of the kernel.
    pub kernel: String,
    /// Line of the PTX; 0 where there is none.
    pub line: u32,
    /// File and line of the source, from `.loc`.
    pub location: Option<(String, u32)>,
    /// Block in x, y, z.
    pub block: [u32; 3],
    /// Thread in x, y, z.
    pub thread: [u32; 3],
    /// The address, where there is one.
    pub address: Option<u64>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}: {}", self.kernel, self.rule, self.message)?;
        if self.line != 0 {
            write!(f, ", at PTX line {}", self.line)?;
        }
        if let Some((file, line)) = &self.location {
            write!(f, " ({file}:{line})")?;
        }
        write!(f, ", block {:?}, thread {:?}", self.block, self.thread)?;
        if let Some(address) = self.address {
            write!(f, ", address {address:#x}")?;
        }
        Ok(())
    }
}

/// Runs `grids` in order. Each starts when the one before it is complete, except a programmatic
/// one, which may start when every block of the one before it has called
/// `griddepcontrol.launch_dependents` or ended. Gives the counts of each grid.
///
/// # Errors
/// The first violation found. The grids before it are complete; memory holds what was written
/// until then.
pub fn launch(
    memory: &Memory,
    model: &Model,
    options: &Options,
    grids: &[Launch],
) -> Result<Vec<Counts>, Box<Violation>> {
    machine::launch(memory, model, options, grids)
}
