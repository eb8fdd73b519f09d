//! Work that is captured once and replayed, and marks in the stream that the host can wait for.

use super::super::DeviceError;
use super::driver::{Gpu, check};
use cudarc::driver::sys::{self, CUresult};
use std::ptr::null_mut;
use std::sync::Arc;
use std::time::Duration;

/// What was enqueued while it was captured: one launch replays all of it.
pub struct Graph {
    gpu: Arc<Gpu>,
    graph: sys::CUgraphExec,
}

// SAFETY: a handle that the driver takes from every thread in which the context is current.
unsafe impl Send for Graph {}

/// A captured graph that is not instantiated yet, destroyed when dropped.
struct Captured(sys::CUgraph);

impl Drop for Captured {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: the graph that a capture gave, destroyed once.
            let _ = unsafe { sys::cuGraphDestroy(self.0) };
        }
    }
}

/// Ends a capture that a panic left under way.
struct Capturing<'a>(&'a Gpu);

impl Drop for Capturing<'_> {
    fn drop(&mut self) {
        let mut graph = null_mut();
        // SAFETY: the stream lives as long as the device; a place for a graph.
        let _ = unsafe { sys::cuStreamEndCapture(self.0.stream(), &mut graph) };
        drop(Captured(graph));
    }
}

impl Gpu {
    /// Captures what `enqueue` enqueues: it runs nothing now, waits for nothing, copies nothing
    /// that is pageable.
    ///
    /// # Errors
    /// What `enqueue` fails with; [`DeviceError::Cuda`] where it did what cannot be captured. In
    /// either case the capture has ended and the stream takes work again.
    pub fn capture(
        self: &Arc<Gpu>,
        enqueue: impl FnOnce() -> Result<(), DeviceError>,
    ) -> Result<Graph, DeviceError> {
        let doing = || "capturing a step".to_owned();
        self.bind(doing)?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as this.
        let code = unsafe { sys::cuStreamBeginCapture_v2(self.stream(), mode) };
        check(code, "cuStreamBeginCapture", doing)?;
        let capturing = Capturing(self);
        let enqueued = enqueue();
        std::mem::forget(capturing);
        let mut captured = Captured(null_mut());
        // SAFETY: as above; a place for a graph.
        let code = unsafe { sys::cuStreamEndCapture(self.stream(), &mut captured.0) };
        enqueued?;
        check(code, "cuStreamEndCapture", doing)?;
        let mut graph = null_mut();
        // SAFETY: a place for a graph; the capture gave the other.
        let code = unsafe { sys::cuGraphInstantiateWithFlags(&mut graph, captured.0, 0) };
        check(code, "cuGraphInstantiateWithFlags", doing)?;
        let graph = Graph {
            gpu: self.clone(),
            graph,
        };
        // SAFETY: instantiated above.
        let code = unsafe { sys::cuGraphUpload(graph.graph, self.stream()) };
        check(code, "cuGraphUpload", doing)?;
        Ok(graph)
    }
}

impl Graph {
    /// Enqueues all that was captured, after what was enqueued before.
    ///
    /// # Safety
    /// The memory that the captured launches name lives until the replay is done.
    pub unsafe fn launch(&self) -> Result<(), DeviceError> {
        let doing = || "launching a captured step".to_owned();
        self.gpu.bind(doing)?;
        // SAFETY: instantiated by `capture`; the caller vouches for the memory.
        let code = unsafe { sys::cuGraphLaunch(self.graph, self.gpu.stream()) };
        check(code, "cuGraphLaunch", doing)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.gpu.bind(String::new).is_ok() {
            // SAFETY: instantiated by `capture` and destroyed once; the driver waits for replays.
            let _ = unsafe { sys::cuGraphExecDestroy(self.graph) };
        }
    }
}

/// A mark in the stream.
pub struct Event {
    gpu: Arc<Gpu>,
    event: sys::CUevent,
}

// SAFETY: a handle that the driver takes from every thread in which the context is current.
unsafe impl Send for Event {}

impl Event {
    /// A mark that is nowhere yet; only a `timed` one knows when it was passed.
    pub fn new(gpu: &Arc<Gpu>, timed: bool) -> Result<Event, DeviceError> {
        let doing = || "making an event".to_owned();
        gpu.bind(doing)?;
        let flags = match timed {
            true => sys::CUevent_flags::CU_EVENT_DEFAULT,
            false => sys::CUevent_flags::CU_EVENT_DISABLE_TIMING,
        };
        let mut event = null_mut();
        // SAFETY: a place for an event.
        let code = unsafe { sys::cuEventCreate(&mut event, flags as u32) };
        check(code, "cuEventCreate", doing)?;
        Ok(Event {
            gpu: gpu.clone(),
            event,
        })
    }

    /// Sets it after all that was enqueued; `doing` says what that was.
    pub fn record(&self, doing: impl Fn() -> String) -> Result<(), DeviceError> {
        self.set(sys::CUevent_record_flags::CU_EVENT_RECORD_DEFAULT, doing)
    }

    /// As [`Event::record`] in what is being captured: each replay sets the event anew, and the
    /// host can wait for it and ask it as for one that was never captured.
    pub fn record_in_graph(&self, doing: impl Fn() -> String) -> Result<(), DeviceError> {
        self.set(sys::CUevent_record_flags::CU_EVENT_RECORD_EXTERNAL, doing)
    }

    fn set(
        &self,
        flags: sys::CUevent_record_flags,
        doing: impl Fn() -> String,
    ) -> Result<(), DeviceError> {
        self.gpu.bind(&doing)?;
        let stream = self.gpu.stream();
        // SAFETY: both handles live as long as this.
        let code = unsafe { sys::cuEventRecordWithFlags(self.event, stream, flags as u32) };
        check(code, "cuEventRecordWithFlags", doing)
    }

    /// Waits until the device has passed it; `doing` says what came before it. Returns at once
    /// where it was never recorded.
    pub fn wait(&self, doing: impl Fn() -> String) -> Result<(), DeviceError> {
        self.gpu.bind(&doing)?;
        // SAFETY: the event lives as long as this.
        let code = unsafe { sys::cuEventSynchronize(self.event) };
        check(code, "cuEventSynchronize", doing)
    }

    /// Whether the device has passed it.
    pub fn done(&self) -> Result<bool, DeviceError> {
        let doing = || "asking an event".to_owned();
        self.gpu.bind(doing)?;
        // SAFETY: the event lives as long as this.
        match unsafe { sys::cuEventQuery(self.event) } {
            CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            code => check(code, "cuEventQuery", doing).map(|()| true),
        }
    }

    /// Time from `earlier` to this; both are timed and passed.
    pub fn since(&self, earlier: &Event) -> Result<Duration, DeviceError> {
        let doing = || "asking for the time between two events".to_owned();
        self.gpu.bind(doing)?;
        let mut milliseconds = 0f32;
        // SAFETY: a place for a float; the events live as long as their owners.
        let code = unsafe { sys::cuEventElapsedTime(&mut milliseconds, earlier.event, self.event) };
        check(code, "cuEventElapsedTime", doing)?;
        Ok(Duration::from_secs_f64(
            f64::from(milliseconds.max(0.0)) / 1e3,
        ))
    }
}

/// Times a stretch of the stream by the device's clock.
pub struct Timer {
    began: Event,
    ended: Event,
}

impl Timer {
    /// One that has timed nothing yet.
    pub fn new(gpu: &Arc<Gpu>) -> Result<Timer, DeviceError> {
        Ok(Timer {
            began: Event::new(gpu, true)?,
            ended: Event::new(gpu, true)?,
        })
    }

    /// The stretch begins with what is enqueued next.
    pub fn start(&self) -> Result<(), DeviceError> {
        self.began.record(|| "beginning to time".to_owned())
    }

    /// It ends with what was enqueued last.
    pub fn stop(&self) -> Result<(), DeviceError> {
        self.ended.record(|| "ending to time".to_owned())
    }

    /// Waits for the end of it; `doing` says what it was.
    pub fn time(&self, doing: impl Fn() -> String) -> Result<Duration, DeviceError> {
        self.ended.wait(doing)?;
        self.ended.since(&self.began)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.gpu.bind(String::new).is_ok() {
            // SAFETY: created by `new` and destroyed once; the driver waits for its recording.
            let _ = unsafe { sys::cuEventDestroy_v2(self.event) };
        }
    }
}
