//! Copies and fills.

use crate::driver::abi::{Handle, In, Memcpy2d, Memcpy3d};
use crate::driver::error::*;
use crate::driver::queue::wait;
use crate::driver::state::{BlockKind, Guard, LEGACY, State, lock};
use crate::driver::work::{Copy, Fill, Op, Place};

/// Which side of a copy an address of the common address space is on.
fn place(state: &State, address: u64) -> Place {
    match state.block_at(address) {
        Some((_, block)) => match block.kind {
            BlockKind::Host(_) | BlockKind::Registered(_) => Place::Host(address as usize),
            _ => Place::Device(address),
        },
        // variables of modules, and device addresses that are in no allocation
        None if address >= crate::memory::DEVICE_BASE && !is_host_like(address) => {
            Place::Device(address)
        }
        None => Place::Host(address as usize),
    }
}

/// Device addresses count up from 1 TiB; the host's heaps, stacks and maps lie far above.
fn is_host_like(address: u64) -> bool {
    address >= crate::memory::DEVICE_BASE << 4
}

/// How a copy behaves towards the host.
#[derive(Clone, Copy, PartialEq)]
enum Wait {
    /// `cuMemcpyHtoD` and the like return when the copy is done.
    Done,
    /// Asynchronous, as far as the kinds of memory let it be.
    Never,
}

fn is_pinned(state: &State, address: usize) -> bool {
    state.block_at(address as u64).is_some()
}

/// Submits a copy, and waits where a real driver would.
fn copy(mut state: Guard, stream: Handle, mut copy: Copy, mode: Wait) -> Result {
    let stream = state.stream(stream)?;
    let context = state.streams.get(stream)?.context;
    state.fault("copy", ERROR_UNKNOWN)?;
    let rows = |pitch: [usize; 2], copy: &Copy| {
        copy.depth.saturating_sub(1) * pitch[1]
            + copy.height.saturating_sub(1) * pitch[0]
            + copy.width
    };
    if copy.width == 0 || copy.height == 0 || copy.depth == 0 {
        return Ok(());
    }
    for (place, pitch) in [(&copy.from, copy.from_pitch), (&copy.to, copy.to_pitch)] {
        match place {
            Place::Device(address) => state.check_range(*address, rows(pitch, &copy))?,
            Place::Host(0) => return Err(ERROR_INVALID_VALUE),
            _ => {}
        }
    }
    let capturing = state.is_capturing(stream)?;
    if mode == Wait::Done {
        state.implicit(stream)?;
        state.not_while_capturing("a synchronous copy")?;
    }
    // An asynchronous copy from pageable memory takes the bytes as they are now; one to pageable
    // memory returns when it is done.
    let mut blocks = mode == Wait::Done;
    if !capturing {
        if let Place::Host(from) = copy.from
            && !is_pinned(&state, from)
            && !blocks
        {
            let bytes = rows(copy.from_pitch, &copy);
            // SAFETY: the program vouches for the source of a copy that it submits.
            let now = unsafe { std::slice::from_raw_parts(from as *const u8, bytes) };
            copy.from = Place::Staged(now.into());
        }
        if let Place::Host(to) = copy.to {
            blocks |= !is_pinned(&state, to);
        }
        // Between two places of the device, no call waits.
        if let (Place::Device(_), Place::Device(_)) = (&copy.from, &copy.to) {
            blocks = false;
        }
    }
    let id = state.enqueue(stream, Op::Copy(copy), false)?;
    if let Some(id) = id
        && blocks
    {
        state.report.process.synchronisations += 1;
        state = wait(state, &[id])?;
        return state.whole(context);
    }
    Ok(())
}

fn linear(stream: Handle, from: Place, to: Place, bytes: usize, mode: Wait) -> Result {
    copy(lock()?, stream, Copy::linear(from, to, bytes), mode)
}

fn any_to_any(stream: Handle, to: u64, from: u64, bytes: usize, mode: Wait) -> Result {
    let state = lock()?;
    let (from, to) = (place(&state, from), place(&state, to));
    copy(state, stream, Copy::linear(from, to, bytes), mode)
}

/// `CU_MEMORYTYPE_*` and the field that goes with it.
fn side(state: &State, kind: u32, host: usize, device: u64) -> Result<Place> {
    match kind {
        1 => Ok(Place::Host(host)),
        2 => Ok(Place::Device(device)),
        4 => Ok(place(state, device)),
        _ => Err(ERROR_NOT_SUPPORTED), // arrays
    }
}

fn moved(place: Place, by: usize) -> Place {
    match place {
        Place::Device(address) => Place::Device(address + by as u64),
        Place::Host(address) => Place::Host(address + by),
        staged => staged,
    }
}

/// A copy of boxes out of boxes.
pub fn boxes(state: &State, c: &Memcpy3d) -> Result<Copy> {
    let pitch = |pitch: usize| if pitch == 0 { c.width } else { pitch };
    let slice = |rows: usize, pitch: usize| pitch * if rows == 0 { c.height } else { rows };
    let from_pitch = [pitch(c.src_pitch), slice(c.src_height, pitch(c.src_pitch))];
    let to_pitch = [pitch(c.dst_pitch), slice(c.dst_height, pitch(c.dst_pitch))];
    if c.src_lod != 0 || c.dst_lod != 0 || from_pitch[0] < c.width || to_pitch[0] < c.width {
        return Err(ERROR_INVALID_VALUE);
    }
    let from = side(state, c.src_type, c.src_host, c.src_device)?;
    let to = side(state, c.dst_type, c.dst_host, c.dst_device)?;
    let at = |x: usize, y: usize, z: usize, pitch: [usize; 2]| x + y * pitch[0] + z * pitch[1];
    Ok(Copy {
        from: moved(from, at(c.src_x, c.src_y, c.src_z, from_pitch)),
        to: moved(to, at(c.dst_x, c.dst_y, c.dst_z, to_pitch)),
        from_pitch,
        to_pitch,
        width: c.width,
        height: c.height,
        depth: c.depth,
    })
}

fn plane(c: &Memcpy2d) -> Memcpy3d {
    Memcpy3d {
        src_x: c.src_x,
        src_y: c.src_y,
        src_type: c.src_type,
        src_host: c.src_host,
        src_device: c.src_device,
        src_pitch: c.src_pitch,
        dst_x: c.dst_x,
        dst_y: c.dst_y,
        dst_type: c.dst_type,
        dst_host: c.dst_host,
        dst_device: c.dst_device,
        dst_pitch: c.dst_pitch,
        width: c.width,
        height: c.height,
        depth: 1,
        ..Memcpy3d::default()
    }
}

fn copy_boxes(c: &Memcpy3d, stream: Handle, mode: Wait) -> Result {
    let state = lock()?;
    let boxes = boxes(&state, c)?;
    copy(state, stream, boxes, mode)
}

/// A fill of rows; synchronous ones go to the legacy stream, and return before they are done.
fn fill(stream: Handle, fill: Fill, mode: Wait) -> Result {
    let mut state = lock()?;
    let stream = state.stream(stream)?;
    if fill.width == 0 || fill.height == 0 {
        return Ok(());
    }
    let row = fill.width * fill.element_bytes;
    let bytes = (fill.height - 1) * fill.pitch + row;
    if !fill.to.is_multiple_of(fill.element_bytes as u64) || (fill.height > 1 && fill.pitch < row) {
        return Err(ERROR_INVALID_VALUE);
    }
    state.check_range(fill.to, bytes)?;
    if mode == Wait::Done {
        state.implicit(stream)?;
        state.not_while_capturing("a synchronous fill")?;
    }
    state.enqueue(stream, Op::Fill(fill), false)?;
    Ok(())
}

fn fill_row(
    stream: Handle,
    to: u64,
    value: u32,
    element_bytes: usize,
    width: usize,
    mode: Wait,
) -> Result {
    fill(
        stream,
        Fill {
            to,
            pitch: 0,
            value,
            element_bytes,
            width,
            height: 1,
        },
        mode,
    )
}

/// A fill of rows: their pitch, the bytes of an element, elements of a row, rows.
fn fill_rows(stream: Handle, to: u64, sizes: [usize; 4], value: u32, mode: Wait) -> Result {
    let [pitch, element_bytes, width, height] = sizes;
    let rows = Fill {
        to,
        pitch,
        value,
        element_bytes,
        width,
        height,
    };
    fill(stream, rows, mode)
}

api! {
    fn cuMemcpyHtoD_v2(to: u64, from: usize, bytes: usize) {
        linear(LEGACY, Place::Host(from), Place::Device(to), bytes, Wait::Done)
    }

    fn cuMemcpyDtoH_v2(to: usize, from: u64, bytes: usize) {
        linear(LEGACY, Place::Device(from), Place::Host(to), bytes, Wait::Done)
    }

    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) {
        linear(LEGACY, Place::Device(from), Place::Device(to), bytes, Wait::Done)
    }

    fn cuMemcpy(to: u64, from: u64, bytes: usize) {
        any_to_any(LEGACY, to, from, bytes, Wait::Done)
    }

    fn cuMemcpyHtoDAsync_v2(to: u64, from: usize, bytes: usize, stream: Handle) {
        linear(stream, Place::Host(from), Place::Device(to), bytes, Wait::Never)
    }

    fn cuMemcpyDtoHAsync_v2(to: usize, from: u64, bytes: usize, stream: Handle) {
        linear(stream, Place::Device(from), Place::Host(to), bytes, Wait::Never)
    }

    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) {
        linear(stream, Place::Device(from), Place::Device(to), bytes, Wait::Never)
    }

    fn cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: Handle) {
        any_to_any(stream, to, from, bytes, Wait::Never)
    }

    fn cuMemcpyPeer(to: u64, _to_context: Handle, from: u64, _from_context: Handle, bytes: usize) {
        any_to_any(LEGACY, to, from, bytes, Wait::Done)
    }

    fn cuMemcpyPeerAsync(
        to: u64, _to_context: Handle, from: u64, _from_context: Handle, bytes: usize,
        stream: Handle,
    ) {
        any_to_any(stream, to, from, bytes, Wait::Never)
    }

    fn cuMemcpy2D_v2(copy: In<Memcpy2d>) {
        copy_boxes(&plane(&copy.get()?), LEGACY, Wait::Done)
    }

    fn cuMemcpy2DUnaligned_v2(copy: In<Memcpy2d>) {
        copy_boxes(&plane(&copy.get()?), LEGACY, Wait::Done)
    }

    fn cuMemcpy2DAsync_v2(copy: In<Memcpy2d>, stream: Handle) {
        copy_boxes(&plane(&copy.get()?), stream, Wait::Never)
    }

    fn cuMemcpy3D_v2(copy: In<Memcpy3d>) {
        copy_boxes(&copy.get()?, LEGACY, Wait::Done)
    }

    fn cuMemcpy3DAsync_v2(copy: In<Memcpy3d>, stream: Handle) {
        copy_boxes(&copy.get()?, stream, Wait::Never)
    }

    fn cuMemsetD8_v2(to: u64, value: u8, count: usize) {
        fill_row(LEGACY, to, value.into(), 1, count, Wait::Done)
    }

    fn cuMemsetD16_v2(to: u64, value: u16, count: usize) {
        fill_row(LEGACY, to, value.into(), 2, count, Wait::Done)
    }

    fn cuMemsetD32_v2(to: u64, value: u32, count: usize) {
        fill_row(LEGACY, to, value, 4, count, Wait::Done)
    }

    fn cuMemsetD8Async(to: u64, value: u8, count: usize, stream: Handle) {
        fill_row(stream, to, value.into(), 1, count, Wait::Never)
    }

    fn cuMemsetD16Async(to: u64, value: u16, count: usize, stream: Handle) {
        fill_row(stream, to, value.into(), 2, count, Wait::Never)
    }

    fn cuMemsetD32Async(to: u64, value: u32, count: usize, stream: Handle) {
        fill_row(stream, to, value, 4, count, Wait::Never)
    }

    fn cuMemsetD2D8_v2(to: u64, pitch: usize, value: u8, width: usize, height: usize) {
        fill_rows(LEGACY, to, [pitch, 1, width, height], value.into(), Wait::Done)
    }

    fn cuMemsetD2D16_v2(to: u64, pitch: usize, value: u16, width: usize, height: usize) {
        fill_rows(LEGACY, to, [pitch, 2, width, height], value.into(), Wait::Done)
    }

    fn cuMemsetD2D32_v2(to: u64, pitch: usize, value: u32, width: usize, height: usize) {
        fill_rows(LEGACY, to, [pitch, 4, width, height], value, Wait::Done)
    }

    fn cuMemsetD2D8Async(
        to: u64, pitch: usize, value: u8, width: usize, height: usize, stream: Handle,
    ) {
        fill_rows(stream, to, [pitch, 1, width, height], value.into(), Wait::Never)
    }

    fn cuMemsetD2D16Async(
        to: u64, pitch: usize, value: u16, width: usize, height: usize, stream: Handle,
    ) {
        fill_rows(stream, to, [pitch, 2, width, height], value.into(), Wait::Never)
    }

    fn cuMemsetD2D32Async(
        to: u64, pitch: usize, value: u32, width: usize, height: usize, stream: Handle,
    ) {
        fill_rows(stream, to, [pitch, 4, width, height], value, Wait::Never)
    }
}
