//! Memory: allocation, host memory, copies and fills.

use crate::driver::abi::{Handle, In, MemLocation, Memcpy2d, Memcpy3d, Out};
use crate::driver::error::*;
use crate::driver::queue::{Copy, Fill, Op, Place, wait};
use crate::driver::state::{Block, BlockKind, Guard, LEGACY, State, driver, lock, say};
use crate::memory::MemoryError;
use std::alloc::{Layout, alloc_zeroed, dealloc};

/// Host memory is given out in pages.
const PAGE: usize = 4096;

/// The code of an allocation or an access that the memory refused.
pub fn code_of(error: &MemoryError) -> CUresult {
    match error {
        MemoryError::OutOfMemory { .. } => ERROR_OUT_OF_MEMORY,
        _ => ERROR_INVALID_VALUE,
    }
}

fn layout(bytes: usize) -> Result<Layout> {
    let bytes = bytes
        .checked_next_multiple_of(PAGE)
        .ok_or(ERROR_OUT_OF_MEMORY)?;
    Layout::from_size_align(bytes, PAGE).map_err(|_| ERROR_OUT_OF_MEMORY)
}

impl State {
    /// Allocates device memory for the current context.
    pub fn allocate(&mut self, bytes: usize, kind: BlockKind) -> Result<u64> {
        let context = self.current()?;
        if bytes == 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        self.fault("alloc", ERROR_OUT_OF_MEMORY)?;
        let address = driver()?.memory.alloc(bytes as u64, 256).map_err(|error| {
            say!("{error}");
            code_of(&error)
        })?;
        self.blocks.insert(
            address,
            Block {
                context,
                bytes,
                kind,
            },
        );
        Ok(address)
    }

    /// Allocates host memory that kernels can reach, at the same address as on the host.
    fn allocate_host(&mut self, bytes: usize, kind: BlockKind) -> Result<u64> {
        let context = self.current()?;
        if bytes == 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        self.fault("alloc", ERROR_OUT_OF_MEMORY)?;
        let layout = layout(bytes)?;
        // SAFETY: the layout is not empty.
        let memory = unsafe { alloc_zeroed(layout) };
        if memory.is_null() {
            return Err(ERROR_OUT_OF_MEMORY);
        }
        // SAFETY: the memory is freed in `release` only, after it was unregistered.
        if let Err(error) = unsafe { driver()?.memory.register_host(memory, bytes) } {
            say!("{error}");
            // SAFETY: allocated above with this layout.
            unsafe { dealloc(memory, layout) };
            return Err(ERROR_OUT_OF_MEMORY);
        }
        let address = memory as u64;
        self.blocks.insert(
            address,
            Block {
                context,
                bytes,
                kind,
            },
        );
        Ok(address)
    }

    /// Gives back an allocation of any kind. Nothing that is pending may use it.
    pub fn release(&mut self, address: u64) -> Result {
        let block = self.blocks.remove(&address).ok_or(ERROR_INVALID_VALUE)?;
        let memory = &driver()?.memory;
        let done = match block.kind {
            BlockKind::Device | BlockKind::Pool(_) | BlockKind::Graph => memory.free(address),
            BlockKind::Registered(_) => memory.unregister_host(address as *const u8),
            BlockKind::Host(_) | BlockKind::Managed => {
                let done = memory.unregister_host(address as *const u8);
                if done.is_ok() {
                    // SAFETY: allocated in `allocate_host` with this layout, and no longer known
                    // to the device.
                    unsafe { dealloc(address as *mut u8, layout(block.bytes)?) };
                }
                done
            }
        };
        done.map_err(|error| {
            say!("{error}");
            ERROR_INVALID_VALUE
        })
    }

    /// The block that holds `address`, and where it starts.
    pub fn block_at(&self, address: u64) -> Option<(u64, &Block)> {
        let (&base, block) = self.blocks.range(..=address).next_back()?;
        (address - base < block.bytes as u64).then_some((base, block))
    }

    /// Checks that a range lies in one allocation or in a variable of a module.
    pub fn check_range(&self, address: u64, bytes: usize) -> Result {
        if bytes == 0 {
            return Ok(());
        }
        let memory = &driver()?.memory;
        let found = memory.allocation(address);
        let fits = found.is_some_and(|a| bytes as u64 <= a.len() - (address - a.base()));
        if !fits {
            say!(
                "{bytes} bytes at {address:#x} are not in one allocation{}",
                memory.explain(address)
            );
            return Err(ERROR_INVALID_VALUE);
        }
        Ok(())
    }

    /// Says of an allocation that it was never freed, if it could have been: where an error broke
    /// the context every call returns that error, and memory goes with the context.
    pub fn note_leak(&mut self, address: u64) {
        let Some(block) = self.blocks.get(&address) else {
            return;
        };
        if self.whole(block.context).is_err() {
            return;
        }
        let what = match block.kind {
            BlockKind::Device => "cuMemAlloc",
            BlockKind::Pool(_) => "cuMemAllocAsync",
            BlockKind::Graph => "a graph",
            BlockKind::Host(_) => "cuMemHostAlloc",
            BlockKind::Managed => "cuMemAllocManaged",
            BlockKind::Registered(_) => "cuMemHostRegister",
        };
        let label = driver()
            .ok()
            .and_then(|driver| driver.memory.allocation(address))
            .map(|allocation| allocation.label())
            .filter(|label| !label.is_empty())
            .map_or_else(String::new, |label| format!(" `{label}`"));
        let bytes = block.bytes;
        let leak = format!("{bytes} bytes{label} at {address:#x} from {what} were never freed");
        self.report.process.leaks.push(leak);
    }
}

/// Frees memory once all that may use it is done, as a real driver does.
fn free(call: &str, address: u64, of_kind: impl Fn(BlockKind) -> bool) -> Result {
    let mut state = lock()?;
    state.current()?;
    state.not_while_capturing(call)?;
    if address == 0 {
        return Ok(());
    }
    match state.blocks.get(&address) {
        Some(block) if of_kind(block.kind) => {}
        _ => {
            let hint = driver()?.memory.explain(address);
            say!("{call}: no such allocation starts at {address:#x}{hint}");
            return Err(ERROR_INVALID_VALUE);
        }
    }
    let context = state.current()?;
    let work = state.queue.of_context(context);
    let mut state = wait(state, &work)?;
    state.whole(context)?;
    state.release(address)
}

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

/// The value of a `CUpointer_attribute`, in the form of its type.
fn pointer_attribute(state: &State, which: u32, address: u64, value: Out<u8>) -> Result {
    let memory = &driver()?.memory;
    let found = memory.allocation(address).ok_or(ERROR_INVALID_VALUE)?;
    let (context, kind) = match state.block_at(address) {
        Some((_, block)) => (block.context, Some(block.kind)),
        None => (state.current()?, None),
    };
    let is_host = matches!(kind, Some(BlockKind::Host(_) | BlockKind::Registered(_)));
    let wide = Out(value.0.cast::<u64>());
    let int = Out(value.0.cast::<u32>());
    let flag = Out(value.0.cast::<u8>());
    match which {
        1 => wide.set(context as u64),
        2 => int.set(if is_host { 1 } else { 2 }),
        3 => wide.set(address),
        4 if is_host || kind == Some(BlockKind::Managed) => wide.set(address),
        6 => flag.set(0),
        7 => wide.set(found.base()),
        8 => flag.set(u8::from(kind == Some(BlockKind::Managed))),
        9 => int.set(0),
        10 => flag.set(0),
        11 => wide.set(found.base()),
        12 => wide.set(found.len()),
        13 => flag.set(1),
        14 => wide.set(0),
        15 => flag.set(0),
        16 => int.set(3), // read and write
        17 => match kind {
            Some(BlockKind::Pool(pool)) => wide.set(pool as u64),
            _ => wide.set(0),
        },
        _ => Err(ERROR_INVALID_VALUE),
    }
}

api! {
    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) {
        lock()?.current()?;
        let memory = &driver()?.memory;
        free.set((memory.total() - memory.used()) as usize)?;
        total.set(memory.total() as usize)
    }

    fn cuMemAlloc_v2(address: Out<u64>, bytes: usize) {
        let mut state = lock()?;
        state.current()?;
        state.not_while_capturing("cuMemAlloc")?;
        if address.is_null() {
            return Err(ERROR_INVALID_VALUE);
        }
        address.set(state.allocate(bytes, BlockKind::Device)?)
    }

    fn cuMemAllocPitch_v2(
        address: Out<u64>, pitch: Out<usize>, width: usize, height: usize, element: u32,
    ) {
        let mut state = lock()?;
        state.current()?;
        state.not_while_capturing("cuMemAllocPitch")?;
        if address.is_null() || !matches!(element, 4 | 8 | 16) {
            return Err(ERROR_INVALID_VALUE);
        }
        let row = width.checked_next_multiple_of(512).ok_or(ERROR_OUT_OF_MEMORY)?;
        let bytes = row.checked_mul(height).ok_or(ERROR_OUT_OF_MEMORY)?;
        pitch.set(row)?;
        address.set(state.allocate(bytes, BlockKind::Device)?)
    }

    fn cuMemAllocManaged(address: Out<u64>, bytes: usize, flags: u32) {
        let mut state = lock()?;
        state.current()?;
        state.not_while_capturing("cuMemAllocManaged")?;
        if address.is_null() || !(1..=4).contains(&flags) {
            return Err(ERROR_INVALID_VALUE);
        }
        address.set(state.allocate_host(bytes, BlockKind::Managed)?)
    }

    fn cuMemFree_v2(address: u64) {
        free("cuMemFree", address, |kind| {
            matches!(kind, BlockKind::Device | BlockKind::Pool(_) | BlockKind::Managed)
        })
    }

    fn cuMemHostAlloc(pointer: Out<u64>, bytes: usize, flags: u32) {
        let mut state = lock()?;
        state.current()?;
        state.not_while_capturing("cuMemHostAlloc")?;
        if pointer.is_null() || flags & !7 != 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        pointer.set(state.allocate_host(bytes, BlockKind::Host(flags))?)
    }

    fn cuMemAllocHost_v2(pointer: Out<u64>, bytes: usize) {
        let mut state = lock()?;
        state.current()?;
        state.not_while_capturing("cuMemAllocHost")?;
        if pointer.is_null() {
            return Err(ERROR_INVALID_VALUE);
        }
        pointer.set(state.allocate_host(bytes, BlockKind::Host(0))?)
    }

    fn cuMemFreeHost(pointer: u64) {
        free("cuMemFreeHost", pointer, |kind| matches!(kind, BlockKind::Host(_)))
    }

    fn cuMemHostRegister_v2(pointer: usize, bytes: usize, flags: u32) {
        let mut state = lock()?;
        let context = state.current()?;
        state.not_while_capturing("cuMemHostRegister")?;
        if pointer == 0 || bytes == 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        state.fault("alloc", ERROR_OUT_OF_MEMORY)?;
        // SAFETY: the program vouches for the memory until it unregisters it.
        let done = unsafe { driver()?.memory.register_host(pointer as *mut u8, bytes) };
        done.map_err(|error| {
            say!("{error}");
            ERROR_HOST_MEMORY_ALREADY_REGISTERED
        })?;
        let kind = BlockKind::Registered(flags);
        state.blocks.insert(pointer as u64, Block { context, bytes, kind });
        Ok(())
    }

    fn cuMemHostUnregister(pointer: u64) {
        match lock()?.blocks.get(&pointer).map(|block| block.kind) {
            Some(BlockKind::Registered(_)) => {}
            _ => return Err(ERROR_HOST_MEMORY_NOT_REGISTERED),
        }
        free("cuMemHostUnregister", pointer, |kind| matches!(kind, BlockKind::Registered(_)))
    }

    fn cuMemHostGetDevicePointer_v2(address: Out<u64>, pointer: u64, flags: u32) {
        let state = lock()?;
        state.current()?;
        match state.block_at(pointer) {
            Some((_, block)) if flags == 0 => match block.kind {
                BlockKind::Host(_) | BlockKind::Registered(_) => address.set(pointer),
                _ => Err(ERROR_INVALID_VALUE),
            },
            _ => Err(ERROR_INVALID_VALUE),
        }
    }

    fn cuMemHostGetFlags(flags: Out<u32>, pointer: u64) {
        let state = lock()?;
        match state.block_at(pointer).map(|(_, block)| block.kind) {
            // with one address space, all of it is mapped
            Some(BlockKind::Host(found)) => flags.set(found | 2),
            _ => Err(ERROR_INVALID_VALUE),
        }
    }

    fn cuMemGetAddressRange_v2(base: Out<u64>, bytes: Out<usize>, address: u64) {
        lock()?.current()?;
        let found = driver()?.memory.allocation(address).ok_or(ERROR_NOT_FOUND)?;
        base.set_if_asked(found.base());
        bytes.set_if_asked(found.len() as usize);
        Ok(())
    }

    fn cuPointerGetAttribute(value: Out<u8>, which: u32, address: u64) {
        pointer_attribute(&*lock()?, which, address, value)
    }

    fn cuPointerGetAttributes(
        count: u32, which: In<u32>, values: In<Out<u8>>, address: u64,
    ) {
        let state = lock()?;
        let count = count as usize;
        for (which, value) in which.list(count)?.into_iter().zip(values.list(count)?) {
            // Of a pointer that is not known, every attribute is zero.
            match pointer_attribute(&state, which, address, value) {
                Err(_) if driver()?.memory.allocation(address).is_none() => {
                    let wide = matches!(which, 1 | 3 | 4 | 7 | 11 | 12 | 14 | 17);
                    if wide {
                        Out(value.0.cast::<u64>()).set(0)?
                    } else {
                        Out(value.0.cast::<u32>()).set(0)?
                    }
                }
                other => other?,
            }
        }
        Ok(())
    }

    fn cuPointerSetAttribute(_value: In<u8>, which: u32, address: u64) {
        // CU_POINTER_ATTRIBUTE_SYNC_MEMOPS
        lock()?.check_range(address, 1)?;
        if which == 6 { Ok(()) } else { Err(ERROR_INVALID_VALUE) }
    }

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

    fn cuMemAdvise(address: u64, bytes: usize, _advice: u32, _device: i32) {
        lock()?.check_range(address, bytes)
    }

    fn cuMemAdvise_v2(address: u64, bytes: usize, _advice: u32, _location: MemLocation) {
        lock()?.check_range(address, bytes)
    }

    fn cuMemPrefetchAsync(address: u64, bytes: usize, _device: i32, stream: Handle) {
        let mut state = lock()?;
        state.stream(stream)?;
        state.check_range(address, bytes)
    }

    fn cuMemPrefetchAsync_v2(
        address: u64, bytes: usize, _location: MemLocation, _flags: u32, stream: Handle,
    ) {
        let mut state = lock()?;
        state.stream(stream)?;
        state.check_range(address, bytes)
    }

    fn cuStreamAttachMemAsync(stream: Handle, address: u64, bytes: usize, _flags: u32) {
        let mut state = lock()?;
        let stream = state.stream(stream)?;
        if let Some((capture, _)) = state.streams.get(stream)?.capture {
            return Err(state.spoil(capture, ERROR_STREAM_CAPTURE_UNSUPPORTED));
        }
        state.check_range(address, bytes.max(1))
    }
}
