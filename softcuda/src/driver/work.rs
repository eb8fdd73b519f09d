//! What pieces of work are: launches, copies, fills, calls of the program; and how copies and fills
//! are done.

use super::abi::{Handle, HostFn, StreamCallback};
use crate::exec::{Launch, Transfer};
use crate::memory::{Memory, MemoryError};
use std::sync::Arc;

/// One end of a copy.
#[derive(Debug, Clone, PartialEq)]
pub enum Place {
    /// An address of the device, or of host memory that it can reach.
    Device(u64),
    /// An address of the host, read or written when the copy is done.
    Host(usize),
    /// Pageable memory as it was when the copy was submitted: a real driver stages it.
    Staged(Arc<[u8]>),
}

/// A copy of `depth` slices of `height` rows of `width` bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Copy {
    pub from: Place,
    pub to: Place,
    /// Bytes from a row to the next, and from a slice to the next.
    pub from_pitch: [usize; 2],
    pub to_pitch: [usize; 2],
    pub width: usize,
    pub height: usize,
    pub depth: usize,
}

/// A fill of `height` rows of `width` elements.
#[derive(Debug, Clone, PartialEq)]
pub struct Fill {
    pub to: u64,
    pub pitch: usize,
    pub value: u32,
    pub element_bytes: usize,
    pub width: usize,
    pub height: usize,
}

/// A function of the program to be called in order with the work of a stream.
#[derive(Debug, Clone)]
pub struct HostCall {
    pub function: HostFn,
    pub data: usize,
}

/// A launch, and the function it was made with.
#[derive(Debug)]
pub struct KernelWork {
    pub function: Handle,
    pub launch: Launch,
}

/// A piece of work.
#[derive(Debug, Clone)]
pub enum Op {
    Kernel(Arc<KernelWork>),
    Copy(Copy),
    Fill(Fill),
    Host(HostCall),
    /// `cuStreamAddCallback`, which is told the stream and the state of the context.
    Callback {
        function: StreamCallback,
        stream: Handle,
        data: usize,
    },
    /// Reaches an event.
    Record(Handle),
    /// `cuMemFreeAsync`
    Free(u64),
    /// Joins what it depends on.
    Nothing,
}

impl Copy {
    /// A copy of `bytes` bytes in a row.
    pub fn linear(from: Place, to: Place, bytes: usize) -> Copy {
        Copy {
            from,
            to,
            from_pitch: [0; 2],
            to_pitch: [0; 2],
            width: bytes,
            height: 1,
            depth: 1,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        (self.width * self.height * self.depth) as u64
    }

    pub(super) fn direction(&self) -> &'static str {
        match (&self.from, &self.to) {
            (Place::Device(_), Place::Device(_)) => "device_to_device",
            (Place::Device(_), _) => "device_to_host",
            (_, Place::Device(_)) => "host_to_device",
            _ => "host_to_host",
        }
    }

    /// Copies; gives the first address that was copied to the host although nothing wrote it.
    pub(super) fn run(&self, memory: &Memory) -> Result<Option<u64>, MemoryError> {
        let mut unwritten = None;
        // rows without gaps between them are one
        let linear = |pitch: [usize; 2]| {
            (self.height == 1 || pitch[0] == self.width)
                && (self.depth == 1 || pitch[1] == self.width * self.height)
        };
        let whole = linear(self.from_pitch) && linear(self.to_pitch);
        let (width, height, depth) = if whole {
            (self.width * self.height * self.depth, 1, 1)
        } else {
            (self.width, self.height, self.depth)
        };
        for (slice, row) in (0..depth).flat_map(|z| (0..height).map(move |y| (z, y))) {
            let from = row * self.from_pitch[0] + slice * self.from_pitch[1];
            let to = row * self.to_pitch[0] + slice * self.to_pitch[1];
            if let (&Place::Device(source), &Place::Device(target)) = (&self.from, &self.to) {
                memory.copy(target + to as u64, source + from as u64, width as u64)?;
                continue;
            }
            let mut bounce = Vec::new();
            let data: &[u8] = match &self.from {
                Place::Device(source) => {
                    let source = source + from as u64;
                    bounce.resize(width, 0);
                    memory.read(source, &mut bounce)?;
                    unwritten = unwritten.or(memory.uninitialised(source, width as u64)?);
                    &bounce
                }
                // SAFETY: the program vouches for the source of a copy until the copy is done.
                Place::Host(source) => unsafe {
                    std::slice::from_raw_parts((source + from) as *const u8, width)
                },
                Place::Staged(bytes) => &bytes[from..from + width],
            };
            match &self.to {
                Place::Device(target) => memory.write(target + to as u64, data)?,
                // SAFETY: the program vouches for the target of a copy until the copy is done.
                Place::Host(target) => unsafe {
                    std::ptr::copy(data.as_ptr(), (target + to) as *mut u8, width);
                },
                Place::Staged(_) => {}
            }
        }
        Ok(unwritten)
    }
}

impl Op {
    /// What a copy or a fill touches of memory that kernels can reach, row by row.
    pub(super) fn transfers(&self) -> Vec<Transfer> {
        let mut transfers = Vec::new();
        match self {
            Op::Copy(copy) => {
                let ends = [
                    (&copy.from, copy.from_pitch, false),
                    (&copy.to, copy.to_pitch, true),
                ];
                for (place, pitch, writes) in ends {
                    // host memory counts where kernels can reach it: its addresses are their own
                    let address = match place {
                        Place::Device(address) => *address,
                        Place::Host(address) => *address as u64,
                        Place::Staged(_) => continue,
                    };
                    let rows = (0..copy.depth).flat_map(|z| (0..copy.height).map(move |y| (z, y)));
                    transfers.extend(rows.map(|(z, y)| Transfer {
                        address: address + (z * pitch[1] + y * pitch[0]) as u64,
                        bytes: copy.width as u64,
                        writes,
                        fill: false,
                    }));
                }
            }
            Op::Fill(fill) => transfers.extend((0..fill.height).map(|row| Transfer {
                address: fill.to + (row * fill.pitch) as u64,
                bytes: (fill.width * fill.element_bytes) as u64,
                writes: true,
                fill: true,
            })),
            _ => {}
        }
        transfers
    }
}

impl Fill {
    pub(super) fn run(&self, memory: &Memory) -> Result<(), MemoryError> {
        for row in 0..self.height {
            let to = self.to + (row * self.pitch) as u64;
            memory.fill(to, self.value, self.element_bytes, self.width as u64)?;
        }
        Ok(())
    }
}
