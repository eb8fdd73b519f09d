//! How fast this GPU's memory moves bytes, and does nothing else with them: what a pass of one row can
//! at best be.

use super::super::{DeviceError, Reading};
use super::driver::Gpu;
use super::graph::Timer;
use super::memory::Buffer;
use std::sync::Arc;

/// Bytes of one copy at most.
const COPY: usize = 1 << 30;

/// Copies within the device until about `bytes` were read and written, in copies as large as the free
/// memory has room for, and times that. Larger than the second cache by far where `bytes` is.
pub(super) fn read(gpu: &Arc<Gpu>, bytes: usize) -> Result<Reading, DeviceError> {
    let room = gpu.free_bytes()? / 4;
    let size = (bytes / 2).clamp(1, COPY.min(room).max(1));
    let copies = (bytes / (2 * size)).max(1);
    let [from, to] = ["copied from", "copied to"];
    let (from, to) = (
        Buffer::zeroed(gpu, from, size)?,
        Buffer::zeroed(gpu, to, size)?,
    );
    let timer = Timer::new(gpu)?;
    // the first one meets pages and clocks that rest
    to.copy(&from)?;
    timer.start()?;
    for _ in 0..copies {
        to.copy(&from)?;
    }
    timer.stop()?;
    Ok(Reading {
        bytes: 2 * size * copies,
        time: timer.time(|| format!("{copies} copies of {size} bytes"))?,
    })
}
