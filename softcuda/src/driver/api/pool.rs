//! Memory in the order of streams, and the pools it comes from.

use crate::driver::abi::{Handle, In, MemAccess, MemLocation, MemPoolProps, Out};
use crate::driver::error::*;
use crate::driver::graph::NodeOp;
use crate::driver::state::{BlockKind, Guard, Pool, driver, lock, say};
use crate::driver::work::Op;

/// `CU_MEMPOOL_ATTR_*` that count bytes in use.
const USED_CURRENT: u32 = 7;

fn allocate(
    mut state: Guard,
    address: Out<u64>,
    bytes: usize,
    pool: Option<Handle>,
    stream: Handle,
) -> Result {
    let stream = state.stream(stream)?;
    if address.is_null() {
        return Err(ERROR_INVALID_VALUE);
    }
    if state.is_capturing(stream)? {
        let found = state.allocate(bytes, BlockKind::Graph)?;
        state.record(stream, NodeOp::Alloc(found), false)?;
        return address.set(found);
    }
    let handle = pool.unwrap_or(state.current_pool);
    state.pools.get(handle)?;
    let found = state.allocate(bytes, BlockKind::Pool(handle))?;
    let pool = state.pools.get_mut(handle)?;
    pool.used += bytes as u64;
    pool.high = pool.high.max(pool.used);
    address.set(found)
}

fn device_zero(device: i32) -> Result {
    driver()?;
    if device == 0 {
        Ok(())
    } else {
        Err(ERROR_INVALID_DEVICE)
    }
}

/// `CU_MEM_ACCESS_FLAGS_PROT_READWRITE`
const READ_WRITE: u32 = 3;

/// Checks that a place is the device.
fn device_of(location: MemLocation) -> Result {
    match location.kind {
        1 => device_zero(location.id),
        _ => Err(ERROR_INVALID_VALUE),
    }
}

/// Checks where a pool is asked for: pinned memory of the device.
fn pool_place(location: MemLocation, kind: u32) -> Result {
    if kind != 1 || matches!(location.kind, 2..=4) {
        return Err(ERROR_NOT_SUPPORTED);
    }
    device_of(location)
}

/// Attributes 1 to 3 and 5 to 6 of a pool count or allow what is not modelled; 4 is a threshold.
fn is_attribute(which: u32) -> bool {
    (1..=8).contains(&which)
}

/// Attributes 1 to 3 are `int`, the others 64-bit.
fn is_int(which: u32) -> bool {
    which <= 3
}

api! {
    fn cuMemAllocAsync(address: Out<u64>, bytes: usize, stream: Handle) {
        allocate(lock()?, address, bytes, None, stream)
    }

    fn cuMemAllocFromPoolAsync(address: Out<u64>, bytes: usize, pool: Handle, stream: Handle) {
        allocate(lock()?, address, bytes, Some(pool), stream)
    }

    fn cuMemFreeAsync(address: u64, stream: Handle) {
        let mut state = lock()?;
        let stream = state.stream(stream)?;
        if address == 0 {
            return Ok(());
        }
        let capturing = state.is_capturing(stream)?;
        let block = state.blocks.get(&address).cloned();
        let node = match block.as_ref().map(|block| block.kind) {
            Some(BlockKind::Graph) if capturing => NodeOp::Free(address),
            Some(BlockKind::Pool(_) | BlockKind::Graph | BlockKind::Device) if !capturing => {
                NodeOp::Work(Op::Free(address))
            }
            _ => {
                say!(
                    "cuMemFreeAsync: no allocation that can be freed here starts at {address:#x}{}",
                    driver()?.memory.explain(address)
                );
                return Err(ERROR_INVALID_VALUE);
            }
        };
        match node {
            NodeOp::Work(op) => {
                state.submit(stream, op, false)?;
            }
            node => {
                state.record(stream, node, false)?;
            }
        }
        state.blocks.remove(&address);
        if let Some(block) = block
            && let BlockKind::Pool(pool) = block.kind
            && let Ok(pool) = state.pools.get_mut(pool)
        {
            pool.used -= block.bytes as u64;
        }
        Ok(())
    }

    fn cuDeviceGetDefaultMemPool(pool: Out<Handle>, device: i32) {
        device_zero(device)?;
        pool.set(lock()?.default_pool)
    }

    fn cuDeviceGetMemPool(pool: Out<Handle>, device: i32) {
        device_zero(device)?;
        pool.set(lock()?.current_pool)
    }

    fn cuDeviceSetMemPool(device: i32, pool: Handle) {
        device_zero(device)?;
        let mut state = lock()?;
        state.pools.get(pool)?;
        state.current_pool = pool;
        Ok(())
    }

    fn cuMemGetDefaultMemPool(pool: Out<Handle>, location: In<MemLocation>, kind: u32) {
        pool_place(location.get()?, kind)?;
        pool.set(lock()?.default_pool)
    }

    fn cuMemGetMemPool(pool: Out<Handle>, location: In<MemLocation>, kind: u32) {
        pool_place(location.get()?, kind)?;
        pool.set(lock()?.current_pool)
    }

    fn cuMemPoolCreate(pool: Out<Handle>, props: In<MemPoolProps>) {
        let props = props.get()?;
        // pinned memory of device 0, not shared with other processes
        if props.alloc_type != 1 || props.location.kind != 1 || props.location.id != 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        if props.handle_types != 0 {
            return Err(ERROR_NOT_SUPPORTED);
        }
        pool.set(lock()?.pools.add(Pool::default()))
    }

    fn cuMemPoolDestroy(pool: Handle) {
        let mut state = lock()?;
        if pool == state.default_pool {
            return Err(ERROR_INVALID_VALUE);
        }
        state.pools.remove(pool)?;
        if state.current_pool == pool {
            state.current_pool = state.default_pool;
        }
        Ok(())
    }

    fn cuMemPoolTrimTo(pool: Handle, _bytes: usize) {
        lock()?.pools.get(pool).map(|_| ())
    }

    fn cuMemPoolSetAccess(pool: Handle, access: In<MemAccess>, count: usize) {
        lock()?.pools.get(pool)?;
        for access in access.list(count)? {
            device_of(access.location)?;
            // that of the device in which a pool lies cannot be taken away
            if access.flags != READ_WRITE {
                return Err(ERROR_INVALID_VALUE);
            }
        }
        Ok(())
    }

    fn cuMemPoolGetAccess(flags: Out<u32>, pool: Handle, location: In<MemLocation>) {
        lock()?.pools.get(pool)?;
        device_of(location.get()?)?;
        flags.set(READ_WRITE)
    }

    fn cuMemPoolSetAttribute(pool: Handle, which: u32, value: In<u32>) {
        let mut state = lock()?;
        let pool = state.pools.get_mut(pool)?;
        let value = if is_int(which) {
            value.get()?.into()
        } else {
            In(value.0.cast::<u64>()).get()?
        };
        match which {
            1..=4 => {
                pool.attributes.insert(which, value);
            }
            // high-water marks can be reset to zero only
            6 if value == 0 => {}
            8 if value == 0 => pool.high = pool.used,
            _ => return Err(ERROR_INVALID_VALUE),
        }
        Ok(())
    }

    fn cuMemPoolGetAttribute(pool: Handle, which: u32, value: Out<u32>) {
        let state = lock()?;
        let pool = state.pools.get(pool)?;
        if !is_attribute(which) {
            return Err(ERROR_INVALID_VALUE);
        }
        let found = match which {
            1..=3 => pool.attributes.get(&which).copied().unwrap_or(1),
            4 => pool.attributes.get(&which).copied().unwrap_or(0),
            5 | USED_CURRENT => pool.used,
            _ => pool.high,
        };
        if is_int(which) {
            value.set(found as u32)
        } else {
            Out(value.0.cast::<u64>()).set(found)
        }
    }
}
