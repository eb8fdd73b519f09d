//! What a launch may ask for.

use super::*;

pub(super) fn limit(launch: &Launch, index: usize, message: String, code: u32) -> Box<Violation> {
    Box::new(Violation {
        rule: Rule::Limit,
        message,
        code,
        grid: index,
        kernel: launch.kernel.name.clone(),
        line: 0,
        location: None,
        block: [0; 3],
        thread: [0; 3],
        address: None,
    })
}

/// Checks what a launch asks for against device and kernel. Gives the blocks resident at a time.
pub(super) fn check(model: &Model, launch: &Launch, index: usize) -> Result<u64, Box<Violation>> {
    let kernel = &launch.kernel;
    let fail = |message: String, code: u32| Err(limit(launch, index, message, code));
    for axis in 0..3 {
        let (grid, block) = (launch.grid[axis], launch.block[axis]);
        if grid == 0 || grid > model.max_grid[axis] || block == 0 || block > model.max_block[axis] {
            return fail(
                format!(
                    "a grid of {:?} blocks of {:?} threads, expected at most {:?} and {:?} and no \
                     zero",
                    launch.grid, launch.block, model.max_grid, model.max_block
                ),
                code::INVALID_VALUE,
            );
        }
    }
    let threads: u64 = launch.block.iter().map(|&n| u64::from(n)).product();
    if threads > u64::from(model.max_threads_per_block) {
        return fail(
            format!(
                "{threads} threads in a block, expected at most {}",
                model.max_threads_per_block
            ),
            code::INVALID_VALUE,
        );
    }
    if threads > u64::from(kernel.max_threads) {
        return fail(
            format!(
                "{threads} threads of {} registers in a block, expected at most {} threads",
                kernel.registers, kernel.max_threads
            ),
            code::LAUNCH_OUT_OF_RESOURCES,
        );
    }
    let allowed = launch
        .dynamic_shared_limit
        .max(model.shared_per_block.saturating_sub(kernel.static_shared));
    let total = u64::from(launch.dynamic_shared) + u64::from(kernel.static_shared);
    if launch.dynamic_shared > allowed || total > u64::from(model.shared_per_block_optin) {
        return fail(
            format!(
                "{} bytes of dynamic and {} of static shared memory; the kernel opted in to {}, \
                 the device has {} for a block",
                launch.dynamic_shared,
                kernel.static_shared,
                launch.dynamic_shared_limit,
                model.shared_per_block_optin
            ),
            code::INVALID_VALUE,
        );
    }
    if launch.params.len() != kernel.param_bytes as usize {
        return fail(
            format!(
                "{} bytes of parameters, expected {}",
                launch.params.len(),
                kernel.param_bytes
            ),
            code::INVALID_VALUE,
        );
    }
    let resident = model.resident_blocks(threads as u32, kernel.registers, total as u32);
    let resident = u64::from(resident.max(1)) * u64::from(model.multiprocessors);
    let blocks: u64 = launch.grid.iter().map(|&n| u64::from(n)).product();
    if launch.cooperative && blocks > resident {
        return fail(
            format!("a cooperative grid of {blocks} blocks, expected at most {resident}"),
            code::COOPERATIVE_LAUNCH_TOO_LARGE,
        );
    }
    if blocks > u64::from(u32::MAX >> 1) {
        return fail(
            format!("{blocks} blocks, expected fewer than 2^31"),
            code::INVALID_VALUE,
        );
    }
    Ok(resident)
}
