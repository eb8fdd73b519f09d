//! Events.

use crate::driver::abi::{Handle, Out};
use crate::driver::error::*;
use crate::driver::graph::NodeOp;
use crate::driver::queue::{nudge, wait};
use crate::driver::state::{Event, State, lock};
use crate::driver::work::Op;

const BLOCKING_SYNC: u32 = 1;
const DISABLE_TIMING: u32 = 2;
const INTERPROCESS: u32 = 4;
/// `CU_EVENT_RECORD_EXTERNAL`: in a capture, a node that records the event.
const RECORD_EXTERNAL: u32 = 1;

impl State {
    /// The pending record of an event, if it is pending; an error for one that was recorded in a
    /// capture last.
    fn pending(&self, event: Handle) -> Result<Option<u64>> {
        let event = self.events.get(event)?;
        self.whole(event.context)?;
        if event.captured.is_some() {
            return Err(ERROR_CAPTURED_EVENT);
        }
        Ok(event.pending.filter(|&id| self.queue.is_pending(id)))
    }
}

/// Spoils the capture in which an event was recorded last: what asks for its state does.
fn spoil_captured(state: &mut State, event: Handle) -> Result {
    if let Some((capture, _)) = state.events.get(event)?.captured {
        state.spoil(capture, ERROR_CAPTURED_EVENT);
    }
    Ok(())
}

fn record(event: Handle, stream: Handle, flags: u32) -> Result {
    let mut state = lock()?;
    let stream = state.stream(stream)?;
    let context = state.streams.get(stream)?.context;
    if state.events.get(event)?.context != context {
        return Err(ERROR_INVALID_HANDLE);
    }
    if state.is_capturing(stream)? {
        if flags & RECORD_EXTERNAL != 0 {
            state.record(stream, NodeOp::Record(event), false)?;
            return Ok(());
        }
        // It stands for what the next node would come after.
        let captured = state.streams.get(stream)?.capture.clone();
        state.events.get_mut(event)?.captured = captured;
        return Ok(());
    }
    let id = state.submit(stream, Op::Record(event), false)?;
    let event = state.events.get_mut(event)?;
    (event.pending, event.reached, event.captured) = (Some(id), None, None);
    Ok(())
}

fn elapsed(milliseconds: Out<f32>, start: Handle, end: Handle) -> Result {
    let state = lock()?;
    let mut times = [None; 2];
    for (time, event) in times.iter_mut().zip([start, end]) {
        let pending = state.pending(event)?;
        let event = state.events.get(event)?;
        if event.flags & DISABLE_TIMING != 0 {
            return Err(ERROR_INVALID_HANDLE);
        }
        if pending.is_some() {
            return Err(ERROR_NOT_READY);
        }
        *time = event.reached;
    }
    let [Some(start), Some(end)] = times else {
        return Err(ERROR_INVALID_HANDLE); // never recorded
    };
    let seconds = match end.checked_duration_since(start) {
        Some(after) => after.as_secs_f64(),
        None => -start.duration_since(end).as_secs_f64(),
    };
    milliseconds.set((1e3 * seconds) as f32)
}

api! {
    fn cuEventCreate(event: Out<Handle>, flags: u32) {
        let mut state = lock()?;
        let context = state.current()?;
        if flags & !(BLOCKING_SYNC | DISABLE_TIMING | INTERPROCESS) != 0 || event.is_null() {
            return Err(ERROR_INVALID_VALUE);
        }
        if flags & INTERPROCESS != 0 {
            return Err(ERROR_NOT_SUPPORTED);
        }
        let new = Event { context, flags, pending: None, reached: None, captured: None };
        event.set(state.events.add(new))
    }

    fn cuEventDestroy_v2(event: Handle) {
        // A record that is pending finds the event gone, and is done all the same.
        lock()?.events.remove(event).map(|_| ())
    }

    fn cuEventRecord(event: Handle, stream: Handle) {
        record(event, stream, 0)
    }

    fn cuEventRecordWithFlags(event: Handle, stream: Handle, flags: u32) {
        if flags > RECORD_EXTERNAL {
            return Err(ERROR_INVALID_VALUE);
        }
        record(event, stream, flags)
    }

    fn cuEventQuery(event: Handle) {
        let mut state = lock()?;
        spoil_captured(&mut state, event)?;
        let pending = state.pending(event)?;
        state.not_while_capturing("cuEventQuery")?;
        let Some(id) = pending else {
            return Ok(());
        };
        let state = nudge(state, &[id])?;
        match state.pending(event)? {
            Some(_) => Err(ERROR_NOT_READY),
            None => Ok(()),
        }
    }

    fn cuEventSynchronize(event: Handle) {
        let mut state = lock()?;
        spoil_captured(&mut state, event)?;
        let pending = state.pending(event)?;
        state.not_while_capturing("cuEventSynchronize")?;
        state.report.process.synchronisations += 1;
        let context = state.events.get(event)?.context;
        let state = wait(state, pending.as_slice())?;
        state.whole(context)
    }

    fn cuEventElapsedTime(milliseconds: Out<f32>, start: Handle, end: Handle) {
        elapsed(milliseconds, start, end)
    }

    fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: Handle, end: Handle) {
        elapsed(milliseconds, start, end)
    }
}
