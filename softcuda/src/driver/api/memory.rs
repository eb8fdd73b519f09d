//! Memory: allocation, host memory, what is known of pointers.

use crate::driver::abi::{Handle, In, MemLocation, Out};
use crate::driver::error::*;
use crate::driver::queue::wait;
use crate::driver::state::{Block, BlockKind, State, driver, lock, say};
use crate::memory::MemoryError;
use std::alloc::{Layout, alloc_zeroed, dealloc};

/// `CU_MEM_LOCATION_TYPE_*`
const LOCATION_DEVICE: u32 = 1;
const LOCATION_HOST: u32 = 2;
const LOCATION_HOST_NUMA_CURRENT: u32 = 4;

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

    /// Checks that a range, not an empty one, lies in one managed allocation.
    fn check_managed(&self, address: u64, bytes: usize) -> Result {
        self.check_range(address, bytes)?;
        match self.block_at(address) {
            Some((_, block)) if bytes > 0 && block.kind == BlockKind::Managed => Ok(()),
            _ => Err(ERROR_INVALID_VALUE),
        }
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

/// Where a device number puts memory: -1 is the host.
fn location(device: i32) -> MemLocation {
    let kind = if device == -1 {
        LOCATION_HOST
    } else {
        LOCATION_DEVICE
    };
    MemLocation { kind, id: device }
}

/// Checks a place of memory: the device, or the host or a part of it.
fn check_location(place: MemLocation) -> Result {
    match (place.kind, place.id) {
        (LOCATION_DEVICE, 0) | (LOCATION_HOST..=LOCATION_HOST_NUMA_CURRENT, _) => Ok(()),
        (LOCATION_DEVICE, _) => Err(ERROR_INVALID_DEVICE),
        _ => Err(ERROR_INVALID_VALUE),
    }
}

/// Advice of how managed memory is going to be used: it changes no result.
fn advise(address: u64, bytes: usize, advice: u32, place: MemLocation) -> Result {
    lock()?.check_managed(address, bytes)?;
    match advice {
        // read mostly, and no more; no preferred place
        1 | 2 | 4 => Ok(()),
        // a preferred place; used by a device or the host, and no more
        3 | 5 | 6 => check_location(place),
        _ => Err(ERROR_INVALID_VALUE),
    }
}

fn prefetch(address: u64, bytes: usize, place: MemLocation, stream: Handle) -> Result {
    let mut state = lock()?;
    let stream = state.stream(stream)?;
    if let Some((capture, _)) = state.streams.get(stream)?.capture {
        return Err(state.spoil(capture, ERROR_STREAM_CAPTURE_UNSUPPORTED));
    }
    state.check_managed(address, bytes)?;
    check_location(place)
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

    fn cuPointerSetAttribute(value: In<u8>, which: u32, address: u64) {
        let state = lock()?;
        value.get()?;
        state.check_range(address, 1)?;
        // CU_POINTER_ATTRIBUTE_SYNC_MEMOPS
        if which == 6 { Ok(()) } else { Err(ERROR_INVALID_VALUE) }
    }

    fn cuMemAdvise(address: u64, bytes: usize, advice: u32, device: i32) {
        advise(address, bytes, advice, location(device))
    }

    fn cuMemAdvise_v2(address: u64, bytes: usize, advice: u32, location: MemLocation) {
        advise(address, bytes, advice, location)
    }

    fn cuMemPrefetchAsync(address: u64, bytes: usize, device: i32, stream: Handle) {
        prefetch(address, bytes, location(device), stream)
    }

    fn cuMemPrefetchAsync_v2(
        address: u64, bytes: usize, location: MemLocation, flags: u32, stream: Handle,
    ) {
        if flags != 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        prefetch(address, bytes, location, stream)
    }

    fn cuStreamAttachMemAsync(stream: Handle, address: u64, bytes: usize, flags: u32) {
        let mut state = lock()?;
        let stream = state.stream(stream)?;
        if let Some((capture, _)) = state.streams.get(stream)?.capture {
            return Err(state.spoil(capture, ERROR_STREAM_CAPTURE_UNSUPPORTED));
        }
        // to all streams, to the host alone, or to one stream; an allocation as a whole
        state.check_managed(address, bytes.max(1))?;
        let whole = state.blocks.get(&address).is_some_and(|b| bytes == 0 || bytes == b.bytes);
        if whole && matches!(flags, 1 | 2 | 4) { Ok(()) } else { Err(ERROR_INVALID_VALUE) }
    }
}
