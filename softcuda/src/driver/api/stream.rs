//! Streams, what they wait for, and captures.

use crate::driver::abi::{EdgeData, Handle, HostFn, In, Out, StreamCallback};
use crate::driver::error::*;
use crate::driver::graph::Graph;
use crate::driver::queue::{nudge, wait};
use crate::driver::state::{Capture, Guard, State, capture_mode, lock, say};
use crate::driver::work::{HostCall, Op};

const NON_BLOCKING: u32 = 1;
/// `CU_EVENT_WAIT_EXTERNAL`: in a capture, a node that waits for the event.
const WAIT_EXTERNAL: u32 = 1;
const PRIORITIES: std::ops::RangeInclusive<i32> = -5..=0;

fn create(stream: Out<Handle>, flags: u32, priority: i32) -> Result {
    let mut state = lock()?;
    let context = state.current()?;
    if flags & !NON_BLOCKING != 0 || stream.is_null() {
        return Err(ERROR_INVALID_VALUE);
    }
    let priority = priority.clamp(*PRIORITIES.start(), *PRIORITIES.end());
    stream.set(state.new_stream(context, flags, priority, false))
}

/// What `cuStreamQuery` and `cuStreamSynchronize` share: the stream, which must not be capturing,
/// and the work they ask for.
fn pending(state: &mut State, stream: Handle, call: &str) -> Result<Vec<u64>> {
    let stream = state.stream(stream)?;
    if let Some((capture, _)) = state.streams.get(stream)?.capture {
        say!("{call} is not permitted on a stream that is capturing; the capture is spoiled");
        return Err(state.spoil(capture, ERROR_STREAM_CAPTURE_UNSUPPORTED));
    }
    state.implicit(stream)?;
    state.not_while_capturing(call)?;
    let context = state.streams.get(stream)?.context;
    if stream == state.contexts.get(context)?.legacy {
        return state.before(stream);
    }
    state.tail(stream)
}

fn host_call(stream: Handle, function: HostFn, data: usize) -> Result {
    let mut state = lock()?;
    let stream = state.stream(stream)?;
    if function.is_none() {
        return Err(ERROR_INVALID_VALUE);
    }
    state
        .enqueue(stream, Op::Host(HostCall { function, data }), false)
        .map(|_| ())
}

/// A stream waits for what an event stands for.
fn wait_event(stream: Handle, event: Handle, flags: u32) -> Result {
    if flags & !WAIT_EXTERNAL != 0 {
        return Err(ERROR_INVALID_VALUE);
    }
    let mut state = lock()?;
    let stream = state.stream(stream)?;
    let here = state.streams.get(stream)?.capture.clone();
    let there = state.events.get(event)?.captured.clone();
    match (here, there) {
        (Some((capture, _)), None) => {
            state.is_capturing(stream)?;
            if flags & WAIT_EXTERNAL != 0 {
                let node = crate::driver::graph::NodeOp::Await(event);
                return state.record(stream, node, false).map(|_| ());
            }
            say!("a capturing stream was made to wait for an event that is not captured");
            Err(state.spoil(capture, ERROR_STREAM_CAPTURE_ISOLATION))
        }
        (here, Some((capture, nodes))) => {
            // an event of a capture that has ended
            let of = state
                .captures
                .get(capture)
                .map_err(|_| ERROR_CAPTURED_EVENT)?;
            if of.invalid {
                return Err(ERROR_STREAM_CAPTURE_INVALIDATED);
            }
            let mut tail = match here {
                None => {
                    // The stream joins the capture.
                    let context = state.streams.get(stream)?.context;
                    if stream == state.contexts.get(context)?.legacy {
                        return Err(state.spoil(capture, ERROR_STREAM_CAPTURE_IMPLICIT));
                    }
                    Vec::new()
                }
                Some((same, tail)) if same == capture => tail,
                Some((other, _)) => {
                    state.spoil(other, ERROR_STREAM_CAPTURE_MERGE);
                    return Err(state.spoil(capture, ERROR_STREAM_CAPTURE_MERGE));
                }
            };
            tail.extend(nodes);
            tail.sort_unstable();
            tail.dedup();
            state.streams.get_mut(stream)?.capture = Some((capture, tail));
            Ok(())
        }
        (None, None) => {
            state.implicit(stream)?;
            let pending = state.events.get(event)?.pending;
            let mut tail = state.tail(stream)?;
            tail.extend(pending.filter(|&id| state.queue.is_pending(id)));
            state.streams.get_mut(stream)?.tail = tail;
            Ok(())
        }
    }
}

fn begin(
    mut state: Guard,
    stream: Handle,
    graph: Option<(Handle, Vec<Handle>)>,
    mode: u32,
) -> Result {
    if mode > 2 {
        return Err(ERROR_INVALID_VALUE);
    }
    let stream = state.stream(stream)?;
    let found = state.streams.get(stream)?;
    if stream == state.contexts.get(found.context)?.legacy {
        say!("the legacy default stream cannot be captured");
        return Err(ERROR_STREAM_CAPTURE_UNSUPPORTED);
    }
    if found.capture.is_some() {
        return Err(ERROR_ILLEGAL_STATE);
    }
    let into_graph = graph.is_some();
    let (graph, tail) = match graph {
        Some(given) => given,
        None => (
            state.graphs.add(Graph {
                owned: true,
                ..Graph::default()
            }),
            Vec::new(),
        ),
    };
    let thread = std::thread::current().id();
    let capture = Capture {
        graph,
        origin: stream,
        mode,
        thread,
        invalid: false,
        into_graph,
    };
    let capture = state.captures.add(capture);
    state.streams.get_mut(stream)?.capture = Some((capture, tail));
    Ok(())
}

/// The state of the legacy stream is nobody's to ask for while a stream that it waits for is
/// capturing; that capture goes on.
fn not_beside_a_capture(state: &State, stream: Handle) -> Result {
    match state.implicitly_capturing(stream)?[..] {
        [] => Ok(()),
        [..] => Err(ERROR_STREAM_CAPTURE_IMPLICIT),
    }
}

/// What a capture is told to come after, by edges that are plain: it holds no others.
fn plain(edges: In<EdgeData>, count: usize) -> Result {
    if edges.is_null()
        || edges
            .list(count)?
            .iter()
            .all(|edge| *edge == EdgeData::default())
    {
        return Ok(());
    }
    say!("a capture that goes on from a node by a programmatic edge is not supported");
    Err(ERROR_NOT_SUPPORTED)
}

/// `CU_STREAM_CAPTURE_STATUS_*`
fn status(state: &State, stream: Handle) -> Result<u32> {
    Ok(match &state.streams.get(stream)?.capture {
        None => 0,
        Some((capture, _)) if state.captures.get(*capture)?.invalid => 2,
        Some(_) => 1,
    })
}

/// Where `cuStreamGetCaptureInfo` answers.
struct Info {
    status: Out<u32>,
    id: Out<u64>,
    graph: Out<Handle>,
    nodes: Out<*const Handle>,
    edges: Out<*const EdgeData>,
    count: Out<usize>,
}

fn capture_info(stream: Handle, info: Info) -> Result {
    let mut state = lock()?;
    let stream = state.stream(stream)?;
    not_beside_a_capture(&state, stream)?;
    let found = status(&state, stream)?;
    info.status.set(found)?;
    let Some((capture, tail)) = state.streams.get(stream)?.capture.clone() else {
        return Ok(());
    };
    if found != 1 {
        return Ok(());
    }
    info.id.set_if_asked(capture as u64);
    info.graph.set_if_asked(state.captures.get(capture)?.graph);
    info.count.set_if_asked(tail.len());
    let stream = state.streams.get_mut(stream)?;
    stream.shown_edges = vec![EdgeData::default(); tail.len()];
    stream.shown = tail;
    info.nodes.set_if_asked(stream.shown.as_ptr());
    info.edges.set_if_asked(stream.shown_edges.as_ptr());
    Ok(())
}

fn update_dependencies(stream: Handle, nodes: In<Handle>, count: usize, flags: u32) -> Result {
    let mut state = lock()?;
    let stream = state.stream(stream)?;
    if !state.is_capturing(stream)? {
        return Err(ERROR_ILLEGAL_STATE);
    }
    let nodes = nodes.list(count)?;
    let (capture, old) = state
        .streams
        .get(stream)?
        .capture
        .clone()
        .ok_or(ERROR_ILLEGAL_STATE)?;
    let graph = state.captures.get(capture)?.graph;
    for &node in &nodes {
        if *state.nodes.get(node)? != graph {
            return Err(ERROR_INVALID_VALUE);
        }
    }
    let mut tail = match flags {
        0 => old,        // add
        1 => Vec::new(), // set
        _ => return Err(ERROR_INVALID_VALUE),
    };
    tail.extend(nodes);
    tail.sort_unstable();
    tail.dedup();
    state.streams.get_mut(stream)?.capture = Some((capture, tail));
    Ok(())
}

const fn nowhere<T>() -> Out<T> {
    Out(std::ptr::null_mut())
}

api! {
    fn cuStreamCreate(stream: Out<Handle>, flags: u32) {
        create(stream, flags, 0)
    }

    fn cuStreamCreateWithPriority(stream: Out<Handle>, flags: u32, priority: i32) {
        create(stream, flags, priority)
    }

    fn cuStreamDestroy_v2(stream: Handle) {
        let mut state = lock()?;
        let found = state.streams.get(stream)?;
        if found.is_default {
            return Err(ERROR_INVALID_HANDLE);
        }
        if let Some((capture, _)) = found.capture {
            return Err(state.spoil(capture, ERROR_STREAM_CAPTURE_UNSUPPORTED));
        }
        // Its work goes on: the device knows it apart from the stream.
        state.streams.remove(stream).map(|_| ())
    }

    fn cuStreamGetFlags(stream: Handle, flags: Out<u32>) {
        let mut state = lock()?;
        let stream = state.stream(stream)?;
        flags.set(state.streams.get(stream)?.flags)
    }

    fn cuStreamGetPriority(stream: Handle, priority: Out<i32>) {
        let mut state = lock()?;
        let stream = state.stream(stream)?;
        priority.set(state.streams.get(stream)?.priority)
    }

    fn cuStreamGetId(stream: Handle, id: Out<u64>) {
        let mut state = lock()?;
        let stream = state.stream(stream)?;
        id.set(state.streams.get(stream)?.id)
    }

    fn cuStreamGetDevice(stream: Handle, device: Out<i32>) {
        lock()?.stream(stream)?;
        device.set(0)
    }

    fn cuStreamGetCtx(stream: Handle, context: Out<Handle>) {
        let mut state = lock()?;
        let stream = state.stream(stream)?;
        context.set(state.streams.get(stream)?.context)
    }

    fn cuStreamGetCtx_v2(stream: Handle, context: Out<Handle>, green: Out<Handle>) {
        let mut state = lock()?;
        let stream = state.stream(stream)?;
        green.set_if_asked(0);
        context.set(state.streams.get(stream)?.context)
    }

    fn cuStreamQuery(stream: Handle) {
        let mut state = lock()?;
        let work = pending(&mut state, stream, "cuStreamQuery")?;
        let mut state = nudge(state, &work)?;
        state.stream(stream)?; // what was done may have failed
        if work.iter().any(|&id| state.queue.is_pending(id)) {
            return Err(ERROR_NOT_READY);
        }
        Ok(())
    }

    fn cuStreamSynchronize(stream: Handle) {
        let mut state = lock()?;
        let work = pending(&mut state, stream, "cuStreamSynchronize")?;
        state.report.process.synchronisations += 1;
        let context = state.current()?;
        let state = wait(state, &work)?;
        state.whole(context)
    }

    fn cuStreamWaitEvent(stream: Handle, event: Handle, flags: u32) {
        wait_event(stream, event, flags)
    }

    fn cuLaunchHostFunc(stream: Handle, function: HostFn, data: usize) {
        host_call(stream, function, data)
    }

    fn cuLaunchHostFunc_v2(stream: Handle, function: HostFn, data: usize, _mode: u32) {
        host_call(stream, function, data)
    }

    fn cuStreamAddCallback(stream: Handle, function: StreamCallback, data: usize, flags: u32) {
        let mut state = lock()?;
        let found = state.stream(stream)?;
        if function.is_none() || flags != 0 {
            return Err(ERROR_INVALID_VALUE);
        }
        if let Some((capture, _)) = state.streams.get(found)?.capture {
            return Err(state.spoil(capture, ERROR_STREAM_CAPTURE_UNSUPPORTED));
        }
        state.submit(found, Op::Callback { function, stream, data }, false).map(|_| ())
    }

    fn cuStreamBeginCapture_v2(stream: Handle, mode: u32) {
        begin(lock()?, stream, None, mode)
    }

    fn cuStreamBeginCaptureToGraph(
        stream: Handle, graph: Handle, nodes: In<Handle>, edges: In<EdgeData>, count: usize,
        mode: u32,
    ) {
        let state = lock()?;
        plain(edges, count)?;
        let nodes = nodes.list(count)?;
        let known = &state.graphs.get(graph)?.nodes;
        if nodes.iter().any(|node| !known.contains_key(node)) {
            return Err(ERROR_INVALID_VALUE);
        }
        begin(state, stream, Some((graph, nodes)), mode)
    }

    fn cuStreamEndCapture(stream: Handle, graph: Out<Handle>) {
        let mut state = lock()?;
        let stream = state.stream(stream)?;
        if graph.is_null() {
            return Err(ERROR_INVALID_VALUE);
        }
        match state.end_capture(stream) {
            Ok(ended) => graph.set(ended),
            Err(code) => {
                graph.set(0)?;
                Err(code)
            }
        }
    }

    fn cuStreamIsCapturing(stream: Handle, answer: Out<u32>) {
        let mut state = lock()?;
        let stream = state.stream(stream)?;
        not_beside_a_capture(&state, stream)?;
        answer.set(status(&state, stream)?)
    }

    fn cuStreamGetCaptureInfo(stream: Handle, status: Out<u32>, id: Out<u64>) {
        let info = Info {
            status, id, graph: nowhere(), nodes: nowhere(), edges: nowhere(), count: nowhere(),
        };
        capture_info(stream, info)
    }

    fn cuStreamGetCaptureInfo_v2(
        stream: Handle, status: Out<u32>, id: Out<u64>, graph: Out<Handle>,
        nodes: Out<*const Handle>, count: Out<usize>,
    ) {
        capture_info(stream, Info { status, id, graph, nodes, edges: nowhere(), count })
    }

    fn cuStreamGetCaptureInfo_v3(
        stream: Handle, status: Out<u32>, id: Out<u64>, graph: Out<Handle>,
        nodes: Out<*const Handle>, edges: Out<*const EdgeData>, count: Out<usize>,
    ) {
        capture_info(stream, Info { status, id, graph, nodes, edges, count })
    }

    fn cuStreamUpdateCaptureDependencies(
        stream: Handle, nodes: In<Handle>, count: usize, flags: u32,
    ) {
        update_dependencies(stream, nodes, count, flags)
    }

    fn cuStreamUpdateCaptureDependencies_v2(
        stream: Handle, nodes: In<Handle>, edges: In<EdgeData>, count: usize, flags: u32,
    ) {
        plain(edges, count)?;
        update_dependencies(stream, nodes, count, flags)
    }

    fn cuThreadExchangeStreamCaptureMode(mode: Out<u32>) {
        let wanted = In(mode.0.cast_const()).get()?;
        if wanted > 2 {
            return Err(ERROR_INVALID_VALUE);
        }
        mode.set(capture_mode(Some(wanted)))
    }
}
