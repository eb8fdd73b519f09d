//! Captures and graphs: what is recorded, what is refused, what is replayed.

use crate::support::raw::*;
use crate::support::{PTX, PTX_90, on_softcuda};
use cudarc::driver::sys::{self, CUresult, CUstreamCaptureMode as Mode};
use std::ffi::c_void;
use std::ptr::{null, null_mut};

const GLOBAL: Mode = Mode::CU_STREAM_CAPTURE_MODE_GLOBAL;
const THREAD: Mode = Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
const RELAXED: Mode = Mode::CU_STREAM_CAPTURE_MODE_RELAXED;

/// Ends a capture; gives the code and the graph.
unsafe fn end(stream: sys::CUstream) -> (CUresult, sys::CUgraph) {
    let mut graph = null_mut();
    // SAFETY: the pointer is valid.
    (
        unsafe { sys::cuStreamEndCapture(stream, &mut graph) },
        graph,
    )
}

unsafe fn begin(stream: sys::CUstream, mode: Mode) {
    // SAFETY: the caller gives a stream.
    ok(unsafe { sys::cuStreamBeginCapture_v2(stream, mode) });
}

unsafe fn instantiate(graph: sys::CUgraph) -> sys::CUgraphExec {
    // SAFETY: the caller gives a graph.
    get(|exec| unsafe { sys::cuGraphInstantiateWithFlags(exec, graph, 0) })
}

#[test]
fn what_may_not_be_called_while_capturing_spoils_the_capture() {
    use CUresult::*;
    let test = "captures::what_may_not_be_called_while_capturing_spoils_the_capture";
    on_softcuda(test, &[], || {
        // SAFETY: handles and memory live until the end.
        unsafe {
            start();
            let (free, captured) = (stream(false), stream(true));
            let (other, event) = (stream(false), event());
            let p = device(&[0; 32]);
            ok(sys::cuEventRecord(event, other));
            let mut host = [0; 32];
            let mut address = 0;
            let module_text = std::ffi::CString::new(PTX).unwrap();
            let unsupported = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
            type Call<'a> = (&'a str, CUresult, Box<dyn FnMut() -> CUresult + 'a>);
            let mut calls: Vec<Call> = vec![
                (
                    "synchronise it",
                    unsupported,
                    Box::new(|| sys::cuStreamSynchronize(captured)),
                ),
                (
                    "query it",
                    unsupported,
                    Box::new(|| sys::cuStreamQuery(captured)),
                ),
                (
                    "synchronise the context",
                    unsupported,
                    Box::new(|| sys::cuCtxSynchronize()),
                ),
                (
                    "query an event",
                    unsupported,
                    Box::new(|| sys::cuEventQuery(event)),
                ),
                (
                    "wait for an event",
                    unsupported,
                    Box::new(|| sys::cuEventSynchronize(event)),
                ),
                (
                    "synchronise another",
                    unsupported,
                    Box::new(|| sys::cuStreamSynchronize(free)),
                ),
                (
                    "allocate",
                    unsupported,
                    Box::new(|| sys::cuMemAlloc_v2(&mut address, 4)),
                ),
                ("free", unsupported, Box::new(|| sys::cuMemFree_v2(p))),
                (
                    "load",
                    unsupported,
                    Box::new(|| {
                        let mut module = null_mut();
                        sys::cuModuleLoadData(&mut module, module_text.as_ptr().cast())
                    }),
                ),
                (
                    "copy",
                    CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,
                    Box::new(|| sys::cuMemcpyDtoH_v2(host.as_mut_ptr().cast(), p, 128)),
                ),
                (
                    "fill",
                    CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,
                    Box::new(|| sys::cuMemsetD32_v2(p, 1, 1)),
                ),
                (
                    "the legacy stream",
                    CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,
                    Box::new(|| sys::cuMemsetD32Async(p, 1, 1, null_mut())),
                ),
                (
                    "uncaptured work",
                    CUDA_ERROR_STREAM_CAPTURE_ISOLATION,
                    Box::new(|| sys::cuStreamWaitEvent(captured, event, 0)),
                ),
                (
                    "add a callback",
                    unsupported,
                    Box::new(|| {
                        extern "C" fn nothing(_: sys::CUstream, _: CUresult, _: *mut c_void) {}
                        sys::cuStreamAddCallback(captured, Some(nothing), null_mut(), 0)
                    }),
                ),
            ];
            for (what, code, call) in &mut calls {
                begin(captured, GLOBAL);
                ok(sys::cuMemsetD32Async(p, 1, 1, captured));
                assert_eq!(call(), *code, "{what}");
                // from then on the capture is spoiled
                let after = sys::cuMemsetD32Async(p, 1, 1, captured);
                assert_eq!(after, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "{what}");
                let status = get(|s| sys::cuStreamIsCapturing(captured, s));
                let spoiled = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_INVALIDATED;
                assert_eq!(status, spoiled, "{what}");
                let (code, graph) = end(captured);
                assert_eq!(
                    (code, graph),
                    (CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, null_mut()),
                    "{what}"
                );
                ok(sys::cuMemsetD32Async(p, 1, 1, captured));
            }
        }
    });
}

#[test]
fn the_mode_says_which_thread_is_held_back() {
    on_softcuda(
        "captures::the_mode_says_which_thread_is_held_back",
        &[],
        || {
            // SAFETY: handles and memory live until the end.
            unsafe {
                let context = start();
                let stream = stream(false);
                let allocate = || {
                    let mut address = 0;
                    sys::cuMemAlloc_v2(&mut address, 4)
                };
                let elsewhere = || {
                    let context = context as usize;
                    std::thread::spawn(move || {
                        ok(sys::cuCtxSetCurrent(context as sys::CUcontext));
                        let mut address = 0;
                        sys::cuMemAlloc_v2(&mut address, 4)
                    })
                    .join()
                    .unwrap()
                };
                let refused = CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
                for (mode, here, there) in [
                    (GLOBAL, refused, refused),
                    (THREAD, refused, CUresult::CUDA_SUCCESS),
                    (RELAXED, CUresult::CUDA_SUCCESS, CUresult::CUDA_SUCCESS),
                ] {
                    begin(stream, mode);
                    assert_eq!(elsewhere(), there, "{mode:?}");
                    let _ = end(stream);
                    begin(stream, mode);
                    assert_eq!(allocate(), here, "{mode:?}");
                    let _ = end(stream);
                }
                // a thread may take the duty off itself
                begin(stream, GLOBAL);
                let mut own = RELAXED;
                ok(sys::cuThreadExchangeStreamCaptureMode(&mut own));
                assert_eq!(own, GLOBAL);
                ok(allocate());
                ok(sys::cuThreadExchangeStreamCaptureMode(&mut own));
                let (code, graph) = end(stream);
                ok(code);
                ok(sys::cuGraphDestroy(graph));
            }
        },
    );
}

#[test]
fn captures_begin_and_end_as_they_must() {
    use CUresult::*;
    on_softcuda("captures::captures_begin_and_end_as_they_must", &[], || {
        // SAFETY: handles and memory live until the end.
        unsafe {
            start();
            let (one, two, three) = (stream(false), stream(false), stream(false));
            let (fork, join) = (event(), event());
            let p = device(&[0; 32]);
            let legacy = sys::cuStreamBeginCapture_v2(null_mut(), RELAXED);
            assert_eq!(legacy, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
            assert_eq!(end(one).0, CUDA_ERROR_ILLEGAL_STATE);
            begin(one, GLOBAL);
            assert_eq!(
                sys::cuStreamBeginCapture_v2(one, GLOBAL),
                CUDA_ERROR_ILLEGAL_STATE
            );
            // a stream joins through an event, and must be joined again
            ok(sys::cuMemsetD32Async(p, 1, 1, one));
            ok(sys::cuEventRecord(fork, one));
            assert_eq!(sys::cuEventSynchronize(fork), CUDA_ERROR_CAPTURED_EVENT);
            let _ = end(one);

            begin(one, GLOBAL);
            ok(sys::cuMemsetD32Async(p, 1, 1, one));
            ok(sys::cuEventRecord(fork, one));
            ok(sys::cuStreamWaitEvent(two, fork, 0));
            ok(sys::cuMemsetD32Async(p + 4, 2, 1, two));
            assert_eq!(end(two).0, CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
            let _ = end(one);

            begin(one, GLOBAL);
            ok(sys::cuEventRecord(fork, one));
            ok(sys::cuStreamWaitEvent(two, fork, 0));
            ok(sys::cuMemsetD32Async(p + 4, 2, 1, two));
            assert_eq!(end(one).0, CUDA_ERROR_STREAM_CAPTURE_UNJOINED);

            // two captures do not mix
            begin(one, RELAXED);
            begin(three, RELAXED);
            ok(sys::cuEventRecord(fork, one));
            let merged = sys::cuStreamWaitEvent(three, fork, 0);
            assert_eq!(merged, CUDA_ERROR_STREAM_CAPTURE_MERGE);
            assert_eq!(end(one).0, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
            assert_eq!(end(three).0, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

            // another thread may not end what this one began
            begin(one, GLOBAL);
            let (stream, context) = (one as usize, get(|c| sys::cuCtxGetCurrent(c)) as usize);
            let elsewhere = std::thread::spawn(move || {
                ok(sys::cuCtxSetCurrent(context as sys::CUcontext));
                end(stream as sys::CUstream).0
            });
            assert_eq!(
                elsewhere.join().unwrap(),
                CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD
            );
            ok(end(one).0);

            // a fork that is joined: three nodes, and the order holds
            begin(one, GLOBAL);
            ok(sys::cuMemsetD32Async(p, 1, 8, one));
            ok(sys::cuEventRecord(fork, one));
            ok(sys::cuStreamWaitEvent(two, fork, 0));
            ok(sys::cuMemsetD32Async(p + 4, 2, 1, two));
            ok(sys::cuEventRecord(join, two));
            ok(sys::cuStreamWaitEvent(one, join, 0));
            ok(sys::cuMemcpyDtoDAsync_v2(p, p + 4, 4, one));
            let (code, graph) = end(one);
            ok(code);
            assert_eq!(get(|n| sys::cuGraphGetNodes(graph, null_mut(), n)), 3);
            assert_eq!(
                get(|n| sys::cuGraphGetEdges(graph, null_mut(), null_mut(), n)),
                3
            );
            let exec = instantiate(graph);
            ok(sys::cuGraphDestroy(graph));
            ok(sys::cuGraphLaunch(exec, one));
            ok(sys::cuStreamSynchronize(one));
            assert_eq!(read(p, 3), [2, 2, 1]);
            ok(sys::cuGraphExecDestroy(exec));
            assert_eq!(sys::cuGraphLaunch(exec, one), CUDA_ERROR_INVALID_HANDLE);
        }
    });
}

#[test]
fn programmatic_launches_become_programmatic_edges() {
    on_softcuda(
        "captures::programmatic_launches_become_programmatic_edges",
        &[],
        || {
            // SAFETY: handles and memory live until the end; the arguments are those of the kernels.
            unsafe {
                start();
                let module = module(PTX_90);
                let (first, second) = (function(module, "first"), function(module, "second"));
                let stream = stream(false);
                let (mut p, mut q) = (device(&[0; 32]), device(&[0; 32]));
                begin(stream, THREAD);
                ok(launch(first, 1, stream, &mut [pointer(&mut p)]));
                let mut attribute = std::mem::zeroed::<sys::CUlaunchAttribute>();
                attribute.id =
                    sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
                attribute.value.programmaticStreamSerializationAllowed = 1;
                let mut config = std::mem::zeroed::<sys::CUlaunchConfig>();
                (config.gridDimX, config.gridDimY, config.gridDimZ) = (1, 1, 1);
                (config.blockDimX, config.blockDimY, config.blockDimZ) = (32, 1, 1);
                (config.hStream, config.attrs, config.numAttrs) = (stream, &mut attribute, 1);
                let mut arguments = [pointer(&mut q), pointer(&mut p)];
                ok(sys::cuLaunchKernelEx(
                    &config,
                    second,
                    arguments.as_mut_ptr(),
                    null_mut(),
                ));
                let (code, graph) = end(stream);
                ok(code);
                // such an edge cannot be told without its data
                let (mut from, mut to, mut count) = ([null_mut(); 1], [null_mut(); 1], 1);
                let lossy =
                    sys::cuGraphGetEdges(graph, from.as_mut_ptr(), to.as_mut_ptr(), &mut count);
                assert_eq!(lossy as u32, 402);
                let exec = instantiate(graph);
                for _ in 0..3 {
                    ok(sys::cuMemsetD32Async(q, 0, 32, stream));
                    ok(sys::cuGraphLaunch(exec, stream));
                    ok(sys::cuStreamSynchronize(stream));
                    assert_eq!(read(q, 32), [8; 32]);
                }
            }
        },
    );
}

#[test]
fn graphs_are_built_changed_and_updated() {
    on_softcuda(
        "captures::graphs_are_built_changed_and_updated",
        &[],
        || {
            // SAFETY: handles and memory live until the end; the arguments are those of the kernels.
            unsafe {
                start();
                let module = module(PTX);
                let (add_to, twice_of) =
                    (function(module, "add"), function(module, "twice_plus_one"));
                let stream = stream(false);
                let mut p = device(&[0; 32]);
                let (mut by, mut n) = (5i32, 32i32);
                let build = |p: &mut u64, by: &mut i32, n: &mut i32| {
                    let graph = get(|g| sys::cuGraphCreate(g, 0));
                    let mut arguments = [pointer(p), pointer(by), pointer(n)];
                    let mut params = std::mem::zeroed::<sys::CUDA_KERNEL_NODE_PARAMS>();
                    (params.func, params.kernelParams) = (add_to, arguments.as_mut_ptr());
                    (params.gridDimX, params.gridDimY, params.gridDimZ) = (1, 1, 1);
                    (params.blockDimX, params.blockDimY, params.blockDimZ) = (32, 1, 1);
                    let first =
                        get(|node| sys::cuGraphAddKernelNode_v2(node, graph, null(), 0, &params));
                    let mut arguments = [pointer(p), pointer(n)];
                    (params.func, params.kernelParams) = (twice_of, arguments.as_mut_ptr());
                    let second =
                        get(|node| sys::cuGraphAddKernelNode_v2(node, graph, &first, 1, &params));
                    (graph, first, second)
                };
                let (graph, first, second) = build(&mut p, &mut by, &mut n);
                let circle = sys::cuGraphAddDependencies(graph, &second, &first, 1);
                ok(circle);
                let mut none = null_mut();
                let refused = sys::cuGraphInstantiateWithFlags(&mut none, graph, 0);
                assert_eq!(refused, CUresult::CUDA_ERROR_INVALID_VALUE);
                ok(sys::cuGraphRemoveDependencies(graph, &second, &first, 1));
                let exec = instantiate(graph);
                let run = |p: u64| {
                    ok(sys::cuMemsetD32Async(p, 0, 32, stream));
                    ok(sys::cuGraphLaunch(exec, stream));
                    ok(sys::cuStreamSynchronize(stream));
                    read(p, 1)[0]
                };
                assert_eq!(run(p), 11);
                // the parameters of a node
                let mut params = get(|params| sys::cuGraphKernelNodeGetParams_v2(first, params));
                assert_eq!(params.func, add_to);
                assert_eq!(*(*params.kernelParams.add(1)).cast::<i32>(), 5);
                let mut six = 6i32;
                let mut arguments = [pointer(&mut p), pointer(&mut six), pointer(&mut n)];
                params.kernelParams = arguments.as_mut_ptr();
                ok(sys::cuGraphExecKernelNodeSetParams_v2(exec, first, &params));
                assert_eq!(run(p), 13);
                // a node is left out
                ok(sys::cuGraphNodeSetEnabled(exec, second, 0));
                assert_eq!(run(p), 6);
                ok(sys::cuGraphNodeSetEnabled(exec, second, 1));
                // the whole from another graph of the same shape
                by = 7;
                let (other, ..) = build(&mut p, &mut by, &mut n);
                let mut info = std::mem::zeroed::<sys::CUgraphExecUpdateResultInfo>();
                ok(sys::cuGraphExecUpdate_v2(exec, other, &mut info));
                assert_eq!(run(p), 15);
                // another shape is refused, and changes nothing
                let mut extra = null_mut();
                ok(sys::cuGraphAddEmptyNode(&mut extra, other, null(), 0));
                let refused = sys::cuGraphExecUpdate_v2(exec, other, &mut info);
                assert_eq!(refused, CUresult::CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE);
                let changed =
                    sys::CUgraphExecUpdateResult::CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
                assert_eq!(info.result, changed);
                assert_eq!(run(p), 15);
                // a graph in a graph, twice in a row
                let whole = get(|g| sys::cuGraphCreate(g, 0));
                let child = get(|c| sys::cuGraphAddChildGraphNode(c, whole, null(), 0, graph));
                get::<sys::CUgraphNode>(|c| {
                    sys::cuGraphAddChildGraphNode(c, whole, &child, 1, graph)
                });
                let exec = instantiate(whole);
                ok(sys::cuMemsetD32Async(p, 0, 32, stream));
                ok(sys::cuGraphLaunch(exec, stream));
                ok(sys::cuStreamSynchronize(stream));
                assert_eq!(read(p, 1), [33]);
                let clone = get(|c| sys::cuGraphClone(c, graph));
                let found = get(|node| sys::cuGraphNodeFindInClone(node, first, clone));
                assert_ne!(found, first);
                for graph in [graph, other, whole, clone] {
                    ok(sys::cuGraphDestroy(graph));
                }
            }
        },
    );
}

#[test]
fn launches_of_graphs_are_captured() {
    on_softcuda("captures::launches_of_graphs_are_captured", &[], || {
        // SAFETY: handles and memory live until the end.
        unsafe {
            start();
            let add_to = function(module(PTX), "add");
            let stream = stream(false);
            let p = device(&[0; 32]);
            begin(stream, GLOBAL);
            ok(add(add_to, stream, p, 1));
            let (code, graph) = end(stream);
            ok(code);
            let inner = instantiate(graph);
            begin(stream, GLOBAL);
            ok(sys::cuGraphLaunch(inner, stream));
            ok(sys::cuGraphLaunch(inner, stream));
            ok(add(add_to, stream, p, 10));
            let (code, graph) = end(stream);
            ok(code);
            let outer = instantiate(graph);
            ok(sys::cuGraphLaunch(outer, stream));
            ok(sys::cuGraphLaunch(outer, stream));
            ok(sys::cuStreamSynchronize(stream));
            assert_eq!(read(p, 32), [24; 32]);
        }
    });
}
