//! Contexts: the primary one, and those a program creates.

use crate::driver::abi::{Handle, In, Out};
use crate::driver::error::*;
use crate::driver::queue::wait;
use crate::driver::state::{
    Guard, State, driver, lock, pop_context, push_context, set_context, top_context,
};

const SCHEDULE_MASK: u32 = 7;

fn device_zero(device: i32) -> Result {
    driver()?;
    if device == 0 {
        Ok(())
    } else {
        Err(ERROR_INVALID_DEVICE)
    }
}

/// Ends a context: its work is done first, then all that it owns is gone. What was not freed
/// counts as leaked, unless an error had broken the context.
fn destroy(mut state: Guard, context: Handle) -> Result {
    state.contexts.get(context)?;
    state.no_capture_in(context)?;
    let work = state.queue.of_context(context);
    let mut state = wait(state, &work)?;
    let left: Vec<u64> = state
        .blocks
        .iter()
        .filter(|(_, block)| block.context == context)
        .map(|(&address, _)| address)
        .collect();
    for address in left {
        state.note_leak(address);
        // The context is gone whatever happens to its memory.
        let _ = state.release(address);
    }
    let modules: Vec<Handle> = state
        .modules
        .iter()
        .filter(|(_, module)| module.context == context)
        .map(|(handle, _)| handle)
        .collect();
    for module in modules {
        state.unload(module)?;
    }
    state.streams.retain(|stream| stream.context != context);
    state.events.retain(|event| event.context != context);
    state.graph_execs.retain(|exec| exec.context != context);
    state.contexts.remove(context)?;
    if state.primary == Some(context) {
        (state.primary, state.primary_users) = (None, 0);
    }
    Ok(())
}

fn create(context: Out<Handle>, flags: u32, device: i32) -> Result {
    device_zero(device)?;
    if context.is_null() || flags & SCHEDULE_MASK > 4 {
        return Err(ERROR_INVALID_VALUE);
    }
    let mut state = lock()?;
    state.not_while_capturing("cuCtxCreate")?;
    let handle = state.new_context(flags);
    push_context(handle);
    context.set(handle)
}

fn synchronize(mut state: Guard, context: Handle) -> Result {
    state.no_capture_in(context)?;
    state.not_while_capturing("cuCtxSynchronize")?;
    state.report.process.synchronisations += 1;
    let work = state.queue.of_context(context);
    wait(state, &work)?.whole(context)
}

/// What `CUlimit` asks for where the program set nothing: stack, printf buffer, heap.
fn limit(state: &State, context: Handle, which: u32) -> Result<usize> {
    let default = match which {
        0 => 1024,
        1 => 1 << 20,
        2 => 8 << 20,
        3 => 2,
        4 => 2048,
        5 => 128,
        6 => 0,
        _ => return Err(ERROR_UNSUPPORTED_LIMIT),
    };
    Ok(state
        .contexts
        .get(context)?
        .limits
        .get(&which)
        .copied()
        .unwrap_or(default))
}

api! {
    fn cuDevicePrimaryCtxRetain(context: Out<Handle>, device: i32) {
        device_zero(device)?;
        let mut state = lock()?;
        let handle = match state.primary {
            Some(handle) => handle,
            None => {
                let flags = state.primary_flags;
                state.new_context(flags)
            }
        };
        context.set(handle)?;
        state.primary = Some(handle);
        state.primary_users += 1;
        Ok(())
    }

    fn cuDevicePrimaryCtxRelease_v2(device: i32) {
        device_zero(device)?;
        let mut state = lock()?;
        let context = state.primary.ok_or(ERROR_INVALID_CONTEXT)?;
        if state.primary_users <= 1 {
            return destroy(state, context);
        }
        state.primary_users -= 1;
        Ok(())
    }

    fn cuDevicePrimaryCtxReset_v2(device: i32) {
        device_zero(device)?;
        let state = lock()?;
        match state.primary {
            Some(context) => destroy(state, context),
            None => Ok(()),
        }
    }

    fn cuDevicePrimaryCtxSetFlags_v2(device: i32, flags: u32) {
        device_zero(device)?;
        if flags & SCHEDULE_MASK > 4 {
            return Err(ERROR_INVALID_VALUE);
        }
        let mut state = lock()?;
        state.primary_flags = flags;
        if let Some(context) = state.primary {
            state.contexts.get_mut(context)?.flags = flags;
        }
        Ok(())
    }

    fn cuDevicePrimaryCtxGetState(device: i32, flags: Out<u32>, active: Out<i32>) {
        device_zero(device)?;
        let state = lock()?;
        flags.set(state.primary_flags)?;
        active.set(i32::from(state.primary.is_some()))
    }

    fn cuCtxCreate_v2(context: Out<Handle>, flags: u32, device: i32) {
        create(context, flags, device)
    }

    fn cuCtxCreate_v3(
        context: Out<Handle>, _affinity: In<u8>, count: i32, flags: u32, device: i32,
    ) {
        if count != 0 {
            return Err(ERROR_UNSUPPORTED_EXEC_AFFINITY);
        }
        create(context, flags, device)
    }

    fn cuCtxCreate_v4(context: Out<Handle>, params: In<[usize; 3]>, flags: u32, device: i32) {
        // affinities and sharing with a graphics interface
        if !params.is_null() && params.get()? != [0; 3] {
            return Err(ERROR_NOT_SUPPORTED);
        }
        create(context, flags, device)
    }

    fn cuCtxDestroy_v2(context: Handle) {
        let state = lock()?;
        if state.primary == Some(context) {
            return Err(ERROR_INVALID_CONTEXT);
        }
        if top_context() == Some(context) {
            pop_context();
        }
        destroy(state, context)
    }

    fn cuCtxPushCurrent_v2(context: Handle) {
        lock()?.contexts.get(context)?;
        push_context(context);
        Ok(())
    }

    fn cuCtxPopCurrent_v2(context: Out<Handle>) {
        driver()?;
        let popped = pop_context().ok_or(ERROR_INVALID_CONTEXT)?;
        context.set_if_asked(popped);
        Ok(())
    }

    fn cuCtxSetCurrent(context: Handle) {
        if context != 0 {
            driver()?.lock().contexts.get(context)?;
        }
        set_context(context);
        Ok(())
    }

    fn cuCtxGetCurrent(context: Out<Handle>) {
        driver()?;
        context.set(top_context().unwrap_or(0))
    }

    fn cuCtxGetDevice(device: Out<i32>) {
        driver()?;
        top_context().ok_or(ERROR_INVALID_CONTEXT)?;
        device.set(0)
    }

    fn cuCtxGetDevice_v2(device: Out<i32>, context: Handle) {
        if context == 0 {
            top_context().ok_or(ERROR_INVALID_CONTEXT)?;
        } else {
            lock()?.contexts.get(context)?;
        }
        device.set(0)
    }

    fn cuCtxGetFlags(flags: Out<u32>) {
        let state = lock()?;
        flags.set(state.contexts.get(state.current()?)?.flags)
    }

    fn cuCtxSetFlags(flags: u32) {
        let mut state = lock()?;
        let context = state.current()?;
        if flags & SCHEDULE_MASK > 4 {
            return Err(ERROR_INVALID_VALUE);
        }
        state.contexts.get_mut(context)?.flags = flags;
        Ok(())
    }

    fn cuCtxGetId(context: Handle, id: Out<u64>) {
        let state = lock()?;
        let context = if context == 0 { state.current()? } else { context };
        state.contexts.get(context)?;
        id.set(context as u64)
    }

    fn cuCtxGetApiVersion(context: Handle, version: Out<u32>) {
        let state = lock()?;
        let context = if context == 0 { state.current()? } else { context };
        state.contexts.get(context)?;
        version.set(3020)
    }

    fn cuCtxSynchronize() {
        let state = lock()?;
        let context = state.current()?;
        synchronize(state, context)
    }

    fn cuCtxSynchronize_v2(context: Handle) {
        let state = lock()?;
        let context = if context == 0 { state.current()? } else { context };
        state.whole(context)?;
        synchronize(state, context)
    }

    fn cuCtxSetLimit(which: u32, value: usize) {
        let mut state = lock()?;
        let context = state.current()?;
        limit(&state, context, which)?;
        state.contexts.get_mut(context)?.limits.insert(which, value);
        Ok(())
    }

    fn cuCtxGetLimit(value: Out<usize>, which: u32) {
        let state = lock()?;
        let context = state.current()?;
        value.set(limit(&state, context, which)?)
    }

    fn cuCtxGetCacheConfig(config: Out<u32>) {
        lock()?.current()?;
        config.set(0) // CU_FUNC_CACHE_PREFER_NONE
    }

    fn cuCtxSetCacheConfig(config: u32) {
        lock()?.current()?;
        if config > 3 { Err(ERROR_INVALID_VALUE) } else { Ok(()) }
    }

    fn cuCtxGetSharedMemConfig(config: Out<u32>) {
        lock()?.current()?;
        config.set(1) // four-byte banks
    }

    fn cuCtxSetSharedMemConfig(config: u32) {
        lock()?.current()?;
        if config > 2 { Err(ERROR_INVALID_VALUE) } else { Ok(()) }
    }

    fn cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) {
        lock()?.current()?;
        least.set_if_asked(0);
        greatest.set_if_asked(-5);
        Ok(())
    }

    fn cuCtxResetPersistingL2Cache() {
        lock()?.current().map(|_| ())
    }
}
