//! Launches and occupancy.

use crate::device::Model;
use crate::driver::abi::{BlockSizeToShared, Handle, In, LaunchAttribute, LaunchConfig, Out};
use crate::driver::error::*;
use crate::driver::state::{Function, State, driver, lock, say};
use crate::driver::work::{KernelWork, Op};
use crate::exec::{Kernel, Launch};
use std::ffi::c_void;
use std::sync::Arc;

/// Keys of the `extra` argument.
const PARAM_BUFFER_END: usize = 0;
const PARAM_BUFFER_POINTER: usize = 1;
const PARAM_BUFFER_SIZE: usize = 2;

/// What a program asks of a launch.
pub struct Request {
    pub function: Handle,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared_bytes: u32,
    pub params: *mut *mut c_void,
    pub extra: *mut *mut c_void,
    pub cooperative: bool,
}

/// The parameter block that a program describes by one pointer for each parameter, or as bytes.
fn parameters(
    kernel: &Kernel,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Result<Vec<u8>> {
    let mut block = vec![0u8; kernel.param_bytes as usize];
    if kernel.params.is_empty() {
        return Ok(block);
    }
    if !params.is_null() {
        let pointers = In(params.cast_const().cast::<*const u8>());
        for (param, from) in kernel
            .params
            .iter()
            .zip(pointers.list(kernel.params.len())?)
        {
            let value = In(from).list(param.bytes as usize)?;
            let at = param.offset as usize;
            block
                .get_mut(at..at + value.len())
                .ok_or(ERROR_INVALID_VALUE)?
                .copy_from_slice(&value);
        }
        return Ok(block);
    }
    let words = In(extra.cast_const().cast::<usize>());
    if words.is_null() {
        say!(
            "{}: {} parameters expected, none given",
            kernel.name,
            kernel.params.len()
        );
        return Err(ERROR_INVALID_VALUE);
    }
    let (mut buffer, mut bytes) = (0usize, None);
    let mut at = words;
    loop {
        match at.get()? {
            PARAM_BUFFER_END => break,
            PARAM_BUFFER_POINTER => buffer = In(at.0.wrapping_add(1)).get()?,
            PARAM_BUFFER_SIZE => {
                let size = In(at.0.wrapping_add(1)).get()?;
                bytes = Some(In(size as *const usize).get()?);
            }
            _ => return Err(ERROR_INVALID_VALUE),
        }
        at = In(at.0.wrapping_add(2));
    }
    let given = In(buffer as *const u8).list(bytes.ok_or(ERROR_INVALID_VALUE)?)?;
    // the end of the last parameter; a block may be padded or not
    let needed = kernel
        .params
        .iter()
        .map(|p| (p.offset + p.bytes) as usize)
        .max()
        .unwrap_or(0);
    if given.len() < needed {
        say!(
            "{}: {needed} bytes of parameters expected, {} given",
            kernel.name,
            given.len()
        );
        return Err(ERROR_INVALID_VALUE);
    }
    let kept = given.len().min(block.len());
    block[..kept].copy_from_slice(&given[..kept]);
    Ok(block)
}

/// Checks a request against the limits of kernel and device.
fn check(model: &Model, function: &Function, request: &Request) -> Result {
    let kernel = &function.kernel;
    let refuse = |code, message: String| {
        say!("{} cannot be launched: {message}", kernel.name);
        Err(code)
    };
    let (grid, block) = (request.grid, request.block);
    for (what, sizes, most) in [
        ("grid", grid, model.max_grid),
        ("block", block, model.max_block),
    ] {
        if sizes.contains(&0) || sizes.iter().zip(most).any(|(&size, most)| size > most) {
            let message = format!("{what} {sizes:?}: expected at least 1, at most {most:?}");
            return refuse(ERROR_INVALID_VALUE, message);
        }
    }
    let threads = block.iter().map(|&n| u64::from(n)).product::<u64>();
    if threads > u64::from(model.max_threads_per_block) {
        let message = format!(
            "{threads} threads in a block, at most {}",
            model.max_threads_per_block
        );
        return refuse(ERROR_INVALID_VALUE, message);
    }
    let threads = threads as u32;
    let warps = threads.div_ceil(model.warp_size);
    let registers = warps * (kernel.registers.max(1) * model.warp_size).next_multiple_of(256);
    if registers > model.registers_per_block {
        let message = format!(
            "{threads} threads of {} registers need {registers}, a block has at most {}",
            kernel.registers, model.registers_per_block
        );
        return refuse(ERROR_LAUNCH_OUT_OF_RESOURCES, message);
    }
    if threads > kernel.max_threads {
        let message = format!(
            "{threads} threads in a block, it was built for {}",
            kernel.max_threads
        );
        return refuse(ERROR_INVALID_VALUE, message);
    }
    if request.shared_bytes > function.dynamic_shared_limit {
        let message = format!(
            "{} bytes of dynamic shared memory, at most {} without \
             CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES for more",
            request.shared_bytes, function.dynamic_shared_limit
        );
        return refuse(ERROR_INVALID_VALUE, message);
    }
    if request.cooperative {
        let blocks = grid.iter().map(|&n| u64::from(n)).product::<u64>();
        let shared = kernel.static_shared + request.shared_bytes;
        let resident = model.resident_blocks(threads, kernel.registers, shared);
        let most = u64::from(resident) * u64::from(model.multiprocessors);
        if blocks > most {
            let message = format!("{blocks} blocks in a cooperative launch, {most} fit at a time");
            return refuse(ERROR_COOPERATIVE_LAUNCH_TOO_LARGE, message);
        }
    }
    Ok(())
}

/// Checks a request and makes a launch of it.
pub fn prepare(state: &State, request: &Request) -> Result<Arc<KernelWork>> {
    let function = state.functions.get(request.function)?;
    check(driver()?.settings.model, function, request)?;
    let launch = Launch {
        kernel: function.kernel.clone(),
        grid: request.grid,
        block: request.block,
        dynamic_shared: request.shared_bytes,
        dynamic_shared_limit: function.dynamic_shared_limit,
        params: parameters(&function.kernel, request.params, request.extra)?,
        cooperative: request.cooperative,
        programmatic: false,
        concurrent: false,
        transfers: Vec::new(),
    };
    Ok(Arc::new(KernelWork {
        function: request.function,
        launch,
    }))
}

fn launch(request: Request, stream: Handle, programmatic: bool) -> Result {
    let mut state = lock()?;
    let stream = state.stream(stream)?;
    let work = prepare(&state, &request)?;
    if state.functions.get(request.function)?.context != state.streams.get(stream)?.context {
        say!(
            "{}: function and stream are of different contexts",
            work.launch.kernel.name
        );
        return Err(ERROR_INVALID_CONTEXT);
    }
    state.fault("launch", ERROR_LAUNCH_OUT_OF_RESOURCES)?;
    state
        .enqueue(stream, Op::Kernel(work), programmatic)
        .map(|_| ())
}

/// What the attributes of a launch ask for.
#[derive(Default)]
struct Wishes {
    cooperative: bool,
    programmatic: bool,
}

fn wishes(model: &Model, attributes: &[LaunchAttribute]) -> Result<Wishes> {
    let mut wishes = Wishes::default();
    for attribute in attributes {
        let value = attribute.value[0];
        match attribute.id {
            2 => wishes.cooperative = value != 0,
            4 | 11 => {
                let cluster = &attribute.value[..3];
                if cluster.iter().any(|&n| n > 1) {
                    say!("clusters of {cluster:?} blocks are not supported, of one block are");
                    return Err(ERROR_NOT_SUPPORTED);
                }
            }
            6 => {
                if value != 0 && model.compute_capability < (9, 0) {
                    say!(
                        "programmatic dependent launch needs compute capability 9.0, {} has not",
                        model.device_name
                    );
                    return Err(ERROR_NOT_SUPPORTED);
                }
                wishes.programmatic = value != 0;
            }
            // ignored, access policy, synchronisation policy, cluster scheduling, priority,
            // memory domains, carveout, scheduling hints: they change no result
            0 | 1 | 3 | 5 | 8 | 9 | 10 | 14 | 16 | 17 | 18 => {}
            other => {
                say!("launch attribute {other} is not supported");
                return Err(ERROR_NOT_SUPPORTED);
            }
        }
    }
    Ok(wishes)
}

/// Blocks that a multiprocessor holds of a function.
fn resident_of(state: &State, function: Handle, threads: i32, shared: usize) -> Result<u32> {
    resident(&state.functions.get(function)?.kernel, threads, shared)
}

fn resident(kernel: &Kernel, threads: i32, shared: usize) -> Result<u32> {
    let model = driver()?.settings.model;
    let threads = u32::try_from(threads)
        .ok()
        .filter(|&n| n > 0)
        .ok_or(ERROR_INVALID_VALUE)?;
    if threads > kernel.max_threads.min(model.max_threads_per_block) {
        return Ok(0);
    }
    let shared = u32::try_from(shared).unwrap_or(u32::MAX / 2) + kernel.static_shared;
    if shared > model.shared_per_block_optin {
        return Ok(0);
    }
    Ok(model.resident_blocks(threads, kernel.registers, shared))
}

/// Checks the flags of an occupancy query: `CU_OCCUPANCY_DISABLE_CACHING_OVERRIDE` changes nothing.
fn caching(flags: u32) -> Result {
    if flags > 1 {
        return Err(ERROR_INVALID_VALUE);
    }
    Ok(())
}

/// Clusters, all of one block, that the device holds of a launch.
fn resident_clusters(function: Handle, config: In<LaunchConfig>) -> Result<i32> {
    let config = config.get()?;
    let model = driver()?.settings.model;
    wishes(model, &config.attrs.list(config.num_attrs as usize)?)?;
    let mut sizes = config.block.iter();
    let threads = sizes.try_fold(1i32, |all, &n| all.checked_mul(i32::try_from(n).ok()?));
    let threads = threads.ok_or(ERROR_INVALID_VALUE)?;
    let blocks = resident_of(&*lock()?, function, threads, config.shared_bytes as usize)?;
    Ok((blocks * model.multiprocessors) as i32)
}

/// The block size that fills a multiprocessor best, the largest such, and the grid that fills the
/// device with it.
fn potential(
    grid: Out<i32>,
    block: Out<i32>,
    function: Handle,
    shared_of: BlockSizeToShared,
    shared: usize,
    limit: i32,
) -> Result {
    let state = lock()?;
    state.current()?;
    let model = driver()?.settings.model;
    let kernel = state.functions.get(function)?.kernel.clone();
    // what the program is asked for may call the driver
    drop(state);
    let limit = u32::try_from(limit).map_err(|_| ERROR_INVALID_VALUE)?;
    let most = kernel.max_threads.min(model.max_threads_per_block);
    let most = if limit > 0 { most.min(limit) } else { most };
    let step = model.warp_size;
    let mut best = (0, 0, 0);
    let mut threads = most;
    while threads > 0 {
        let bytes = match shared_of {
            // SAFETY: the program gave the function for this purpose.
            Some(function) => unsafe { function(threads as i32) },
            None => shared,
        };
        let blocks = resident(&kernel, threads as i32, bytes)?;
        if blocks * threads > best.0 {
            best = (blocks * threads, threads, blocks);
        }
        threads = if threads.is_multiple_of(step) {
            threads - step
        } else {
            threads - threads % step
        };
    }
    block.set(best.1 as i32)?;
    grid.set((best.2 * model.multiprocessors) as i32)
}

api! {
    fn cuLaunchKernel(
        function: Handle, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32,
        block_z: u32, shared_bytes: u32, stream: Handle, params: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) {
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let cooperative = false;
        let request = Request { function, grid, block, shared_bytes, params, extra, cooperative };
        launch(request, stream, false)
    }

    fn cuLaunchCooperativeKernel(
        function: Handle, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32,
        block_z: u32, shared_bytes: u32, stream: Handle, params: *mut *mut c_void,
    ) {
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let (extra, cooperative) = (std::ptr::null_mut(), true);
        let request = Request { function, grid, block, shared_bytes, params, extra, cooperative };
        launch(request, stream, false)
    }

    fn cuLaunchKernelEx(
        config: In<LaunchConfig>, function: Handle, params: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) {
        let config = config.get()?;
        let attributes = config.attrs.list(config.num_attrs as usize)?;
        let wishes = wishes(driver()?.settings.model, &attributes)?;
        let request = Request {
            function,
            grid: config.grid,
            block: config.block,
            shared_bytes: config.shared_bytes,
            params,
            extra,
            cooperative: wishes.cooperative,
        };
        launch(request, config.stream, wishes.programmatic)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks: Out<i32>, function: Handle, threads: i32, shared: usize,
    ) {
        blocks.set(resident_of(&*lock()?, function, threads, shared)? as i32)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks: Out<i32>, function: Handle, threads: i32, shared: usize, flags: u32,
    ) {
        caching(flags)?;
        blocks.set(resident_of(&*lock()?, function, threads, shared)? as i32)
    }

    fn cuOccupancyMaxPotentialBlockSize(
        grid: Out<i32>, block: Out<i32>, function: Handle, shared_of: BlockSizeToShared,
        shared: usize, limit: i32,
    ) {
        potential(grid, block, function, shared_of, shared, limit)
    }

    fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        grid: Out<i32>, block: Out<i32>, function: Handle, shared_of: BlockSizeToShared,
        shared: usize, limit: i32, flags: u32,
    ) {
        caching(flags)?;
        potential(grid, block, function, shared_of, shared, limit)
    }

    fn cuOccupancyAvailableDynamicSMemPerBlock(
        bytes: Out<usize>, function: Handle, blocks: i32, threads: i32,
    ) {
        let state = lock()?;
        let kernel = &state.functions.get(function)?.kernel;
        let model = driver()?.settings.model;
        let blocks = u32::try_from(blocks).ok().filter(|&n| n > 0).ok_or(ERROR_INVALID_VALUE)?;
        if resident(kernel, threads, 0)? < blocks {
            return Err(ERROR_INVALID_VALUE);
        }
        // the share of each block, in the units in which shared memory is given out
        let share = (model.shared_per_multiprocessor / blocks)
            .saturating_sub(model.reserved_shared_per_block) / 128 * 128;
        let share = share.min(model.shared_per_block_optin);
        bytes.set(share.saturating_sub(kernel.static_shared) as usize)
    }

    fn cuOccupancyMaxPotentialClusterSize(
        size: Out<i32>, function: Handle, config: In<LaunchConfig>,
    ) {
        resident_clusters(function, config)?;
        size.set(1)
    }

    fn cuOccupancyMaxActiveClusters(
        clusters: Out<i32>, function: Handle, config: In<LaunchConfig>,
    ) {
        clusters.set(resident_clusters(function, config)?)
    }
}
