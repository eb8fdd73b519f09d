//! The decoded form of a kernel.

use super::lanes::{LaneFn, Row, Slots};
use super::select::Class;

/// No register, no predicate, no target.
pub(crate) const NONE: u16 = u16::MAX;
pub(crate) const NOWHERE: u32 = u32::MAX;

/// Where an access goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Generic,
    Global,
    Shared,
    Local,
    Param,
}

/// Threads among which an access is ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    Block,
    Device,
}

/// How an access takes part in the order of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Weak,
    Relaxed,
    Acquire,
    Release,
    AcquireRelease,
}

impl Order {
    pub fn acquires(self) -> bool {
        matches!(self, Order::Acquire | Order::AcquireRelease)
    }
    pub fn releases(self) -> bool {
        matches!(self, Order::Release | Order::AcquireRelease)
    }
}

/// A load or a store.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    pub place: Place,
    /// Bytes of an element in memory: 1, 2, 4, 8.
    pub bytes: u32,
    /// Elements of a thread: 1, 2, 4, 8.
    pub count: u32,
    pub signed: bool,
    /// Bytes of the registers.
    pub wide: bool,
    pub narrow16: bool,
    /// Registers of the elements.
    pub data: [u16; 8],
    /// Register of the address, of one or two rows.
    pub base: u16,
    pub base_wide: bool,
    pub offset: i64,
    pub order: Order,
    pub scope: Scope,
    pub non_coherent: bool,
}

/// What an atomic does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtomicOp {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exch,
    Cas,
    Inc,
    Dec,
}

/// An atomic or a reduction.
#[derive(Debug, Clone)]
pub(crate) struct Atomic {
    pub op: AtomicOp,
    /// Type of an element.
    pub ty: crate::ptx::Type,
    /// Elements of a thread, each of which changes by itself: 1, 2, 4, 8.
    pub count: u32,
    pub place: Place,
    /// Old values; [`NONE`] where they are not wanted.
    pub d: [u16; 8],
    pub base: u16,
    pub base_wide: bool,
    pub offset: i64,
    pub b: [u16; 8],
    /// What `cas` puts there.
    pub c: u16,
    pub order: Order,
    pub scope: Scope,
}

/// Ways in which `shfl` finds its source lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shuffle {
    Up,
    Down,
    Bfly,
    Idx,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vote {
    All,
    Any,
    Uni,
    Ballot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Redux {
    Add,
    Min,
    Max,
    MinSigned,
    MaxSigned,
    And,
    Or,
    Xor,
}

/// Instructions in which the lanes of a member mask meet.
#[derive(Debug, Clone)]
pub(crate) enum Sync {
    Shuffle {
        kind: Shuffle,
        d: u16,
        valid: u16,
        a: u16,
        b: u16,
        c: u16,
    },
    Vote {
        kind: Vote,
        /// Predicate, or register for a ballot.
        d: u16,
        a: u16,
        negate: bool,
    },
    Redux {
        kind: Redux,
        d: u16,
        a: u16,
    },
    Match {
        all: bool,
        wide: bool,
        d: u16,
        valid: u16,
        a: u16,
    },
    Elect {
        d: u16,
        chosen: u16,
    },
    Barrier,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reduce {
    Popc,
    And,
    Or,
}

/// A barrier of the block.
#[derive(Debug, Clone)]
pub(crate) struct Barrier {
    /// Register of the barrier's number, and of the number of threads or [`NONE`].
    pub id: u16,
    pub threads: u16,
    pub waits: bool,
    pub aligned: bool,
    /// Operation, result, predicate, negated.
    pub reduce: Option<(Reduce, u16, u16, bool)>,
}

/// Element types of matrix instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Element {
    F16,
    Bf16,
    Tf32,
    E4m3,
    E5m2,
    S8,
    U8,
    F32,
    S32,
}

#[derive(Debug, Clone)]
pub(crate) struct Mma {
    /// m is 16 and n is 8.
    pub k: usize,
    pub a_type: Element,
    pub b_type: Element,
    /// Type of both c and d, or the two.
    pub c_type: Element,
    pub d_type: Element,
    pub satfinite: bool,
    pub d: [u16; 4],
    pub a: [u16; 4],
    pub b: [u16; 2],
    pub c: [u16; 4],
    pub name: String,
}

#[derive(Debug, Clone)]
pub(crate) struct Matrix {
    pub store: bool,
    pub count: usize,
    pub transposed: bool,
    pub data: [u16; 4],
    pub base: u16,
    pub base_wide: bool,
    pub offset: i64,
    pub generic: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct CpAsync {
    pub to: u16,
    pub to_wide: bool,
    pub to_offset: i64,
    pub from: u16,
    pub from_offset: i64,
    pub bytes: u32,
    /// Register of the source size, or [`NONE`].
    pub source: u16,
    /// Predicate under which the source is ignored (and zeros are written), or [`NONE`].
    pub ignore: u16,
    pub ignore_negated: bool,
    /// Through L2 only: a second, incoherent, path does not exist for it.
    pub generic: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MbarrierOp {
    Init,
    Inval,
    /// Arrive by a count, maybe after expecting bytes, maybe never to come again.
    Arrive,
    ArriveDrop,
    ArriveExpect,
    Expect,
    Complete,
    /// Wait by state or by parity; both give a predicate.
    Test,
    TestParity,
    Pending,
    /// Arrival that follows the thread's own `cp.async`.
    CpAsync,
    CpAsyncNoInc,
}

#[derive(Debug, Clone)]
pub(crate) struct Mbarrier {
    pub op: MbarrierOp,
    /// State, or predicate; [`NONE`] where it is not wanted.
    pub d: u16,
    pub base: u16,
    pub base_wide: bool,
    pub offset: i64,
    pub generic: bool,
    /// Count, state or parity.
    pub value: u16,
    pub acquires: bool,
}

/// What an instruction does.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Lanes(LaneFn),
    /// Target and the instruction at which the lanes meet again.
    Branch(u32, u32),
    /// Branch by a register through a table.
    Table(u16, Box<[u32]>, u32),
    Exit,
    Trap,
    Assert,
    Nop,
    Load(Box<Access>),
    Store(Box<Access>),
    Atomic(Box<Atomic>),
    /// Prefetch: address register, offset; checked only for being an address of something.
    Prefetch,
    Sync(u16, Box<Sync>),
    Activemask(u16),
    Barrier(Box<Barrier>),
    Fence(Scope),
    Mma(Box<Mma>),
    Matrix(Box<Matrix>),
    MoveMatrix(u16, u16),
    CpAsync(Box<CpAsync>),
    CpCommit,
    /// All groups but the last n.
    CpWait(u32),
    /// All copies, in groups or not.
    CpWaitAll,
    Mbarrier(Box<Mbarrier>),
    LaunchDependents,
    GridWait,
    /// Which clock, all 64 bits of it or 32, and how far they lie from the lowest.
    Clock {
        d: u16,
        global: bool,
        wide: bool,
        shift: u32,
    },
    /// `isspacep`: predicate, address, place.
    IsSpace(u16, u16, Place),
}

#[derive(Debug, Clone)]
pub(crate) struct Inst {
    pub op: Op,
    pub slots: Slots,
    /// Predicate of the guard or [`NONE`].
    pub guard: u16,
    pub negated: bool,
    /// The second half of an instruction, which does not count.
    pub part: bool,
}

/// What is known of an instruction beside how to run it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meta {
    pub line: u32,
    pub location: Option<(u32, u32)>,
    /// Class by which it is counted; `None` for the second half of an instruction.
    pub class: Option<Class>,
}

/// Values that are known before the first instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Constant {
    Bits(u64),
    Special(Special),
    /// Parameter bytes: offset, bytes, signed.
    Param(u32, u32, bool),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    Laneid,
    Warpid,
    Nwarpid,
    Smid,
    Nsmid,
    Gridid,
    LaneMask(LaneMask),
    DynamicShared,
    TotalShared,
    /// `%envreg`: what the driver tells the kernel.
    Environment(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum LaneMask {
    Eq,
    Lt,
    Le,
    Gt,
    Ge,
}

/// The code of a kernel and the shape of its register file.
#[derive(Debug, Default)]
pub(crate) struct Code {
    pub insts: Vec<Inst>,
    pub meta: Vec<Meta>,
    /// Rows of the register file, constants included.
    pub rows: usize,
    pub preds: usize,
    /// Constants: row, whether two rows, value.
    pub constants: Vec<(u16, bool, Constant)>,
    pub files: Vec<(u32, String)>,
    /// Offset in shared memory at which dynamic shared memory starts.
    pub dynamic_start: u32,
    pub has_launch_dependents: bool,
}

impl Code {
    /// Rows as every warp of the launch starts with, specials excepted.
    pub fn template(&self, params: &[u8]) -> Vec<Row> {
        let mut rows = vec![Row([0; 32]); self.rows];
        for &(row, wide, constant) in &self.constants {
            let bits = match constant {
                Constant::Bits(bits) => bits,
                Constant::Special(_) => continue,
                Constant::Param(offset, bytes, signed) => {
                    let mut data = [0; 8];
                    for (i, byte) in data.iter_mut().enumerate().take(bytes as usize) {
                        *byte = params.get(offset as usize + i).copied().unwrap_or(0);
                    }
                    let value = u64::from_le_bytes(data);
                    if signed {
                        let shift = 64 - 8 * bytes;
                        ((value << shift) as i64 >> shift) as u64
                    } else {
                        value
                    }
                }
            };
            set_row(&mut rows, row, wide, |_| bits);
        }
        rows
    }
}

/// Sets all lanes of a register.
pub(crate) fn set_row(rows: &mut [Row], row: u16, wide: bool, value: impl Fn(u32) -> u64) {
    let row = row as usize;
    if wide {
        let values: [u64; 32] = std::array::from_fn(|i| value(i as u32));
        let pair: [Row; 2] = bytemuck::cast(values);
        rows[row..row + 2].copy_from_slice(&pair);
    } else {
        rows[row] = Row(std::array::from_fn(|i| value(i as u32) as u32));
    }
}
