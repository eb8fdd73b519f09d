//! Graphs built node by node: every kind of node, its parameters before and after instantiation,
//! and what the edges say.

use crate::support::raw::*;
use crate::support::{PTX, on_softcuda};
use cudarc::driver::sys::{self, CUresult};
use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicUsize, Ordering};

static CALLED: AtomicUsize = AtomicUsize::new(0);

/// Adds what `data` counts.
extern "C" fn call(data: *mut c_void) {
    CALLED.fetch_add(data as usize, Ordering::SeqCst);
}

fn host(times: usize) -> sys::CUDA_HOST_NODE_PARAMS {
    sys::CUDA_HOST_NODE_PARAMS {
        fn_: Some(call),
        userData: std::ptr::without_provenance_mut(times),
    }
}

fn fill(dst: u64, value: u32, width: usize) -> sys::CUDA_MEMSET_NODE_PARAMS {
    sys::CUDA_MEMSET_NODE_PARAMS {
        dst,
        pitch: 0,
        value,
        elementSize: 4,
        width,
        height: 1,
    }
}

fn row(from: u64, to: u64, bytes: usize) -> sys::CUDA_MEMCPY3D {
    let device = sys::CUmemorytype::CU_MEMORYTYPE_DEVICE;
    let mut copy = boxes(device, device);
    (copy.srcDevice, copy.dstDevice) = (from, to);
    (copy.WidthInBytes, copy.Height, copy.Depth) = (bytes, 1, 1);
    copy
}

#[test]
fn nodes_of_every_kind_run_and_are_changed() {
    on_softcuda(
        "graphs::nodes_of_every_kind_run_and_are_changed",
        &[],
        || {
            use sys::CUgraphNodeType::*;
            // SAFETY: handles and memory live until the end.
            unsafe {
                let context = start();
                let stream = stream(false);
                let (p, q) = (device(&[0; 8]), device(&[0; 8]));
                let (first, second) = (event(), event());
                let graph = get(|g| sys::cuGraphCreate(g, 0));
                let filled = get(|n| {
                    sys::cuGraphAddMemsetNode(n, graph, null(), 0, &fill(p, 5, 8), context)
                });
                let copied = get(|n| {
                    sys::cuGraphAddMemcpyNode(n, graph, &filled, 1, &row(p, q, 16), context)
                });
                let called = get(|n| sys::cuGraphAddHostNode(n, graph, &copied, 1, &host(1)));
                let recorded = get(|n| sys::cuGraphAddEventRecordNode(n, graph, &called, 1, first));
                let waited = get(|n| sys::cuGraphAddEventWaitNode(n, graph, null(), 0, first));
                let kinds = [
                    (filled, CU_GRAPH_NODE_TYPE_MEMSET),
                    (copied, CU_GRAPH_NODE_TYPE_MEMCPY),
                    (called, CU_GRAPH_NODE_TYPE_HOST),
                    (recorded, CU_GRAPH_NODE_TYPE_EVENT_RECORD),
                    (waited, CU_GRAPH_NODE_TYPE_WAIT_EVENT),
                ];
                for (node, kind) in kinds {
                    assert_eq!(get(|k| sys::cuGraphNodeGetType(node, k)), kind);
                }
                // edges, from either end
                let mut nodes = [null_mut(); 4];
                let mut count = 4;
                ok(sys::cuGraphGetRootNodes(
                    graph,
                    nodes.as_mut_ptr(),
                    &mut count,
                ));
                assert!(count == 2 && nodes[..2].contains(&filled) && nodes[..2].contains(&waited));
                count = 4;
                ok(sys::cuGraphNodeGetDependencies(
                    called,
                    nodes.as_mut_ptr(),
                    &mut count,
                ));
                assert_eq!((count, nodes[0]), (1, copied));
                count = 4;
                ok(sys::cuGraphNodeGetDependentNodes(
                    called,
                    nodes.as_mut_ptr(),
                    &mut count,
                ));
                assert_eq!((count, nodes[0]), (1, recorded));

                let exec = get(|exec| sys::cuGraphInstantiateWithFlags(exec, graph, 0));
                let run = || {
                    ok(sys::cuMemsetD32Async(q, 0, 8, stream));
                    ok(sys::cuGraphLaunch(exec, stream));
                    ok(sys::cuStreamSynchronize(stream));
                    (read(p, 8), read(q, 8), CALLED.swap(0, Ordering::SeqCst))
                };
                assert_eq!(sys::cuEventQuery(second), CUresult::CUDA_SUCCESS);
                assert_eq!(run(), (vec![5; 8], vec![5, 5, 5, 5, 0, 0, 0, 0], 1));
                // what the graph holds is changed: the instance keeps what it was made of
                ok(sys::cuGraphMemsetNodeSetParams(filled, &fill(p, 6, 4)));
                ok(sys::cuGraphMemcpyNodeSetParams(copied, &row(p, q, 8)));
                ok(sys::cuGraphHostNodeSetParams(called, &host(10)));
                ok(sys::cuGraphEventRecordNodeSetEvent(recorded, second));
                ok(sys::cuGraphEventWaitNodeSetEvent(waited, second));
                assert_eq!(get(|v| sys::cuGraphMemsetNodeGetParams(filled, v)).value, 6);
                assert_eq!(
                    get(|v| sys::cuGraphMemcpyNodeGetParams(copied, v)).WidthInBytes,
                    8
                );
                let params = get(|v| sys::cuGraphHostNodeGetParams(called, v));
                assert_eq!(params.userData as usize, 10);
                assert_eq!(
                    get(|e| sys::cuGraphEventRecordNodeGetEvent(recorded, e)),
                    second
                );
                assert_eq!(
                    get(|e| sys::cuGraphEventWaitNodeGetEvent(waited, e)),
                    second
                );
                assert_eq!(run(), (vec![5; 8], vec![5, 5, 5, 5, 0, 0, 0, 0], 1));
                // now the instance
                ok(sys::cuGraphExecMemsetNodeSetParams(
                    exec,
                    filled,
                    &fill(p, 7, 8),
                    context,
                ));
                ok(sys::cuGraphExecMemcpyNodeSetParams(
                    exec,
                    copied,
                    &row(p, q, 4),
                    context,
                ));
                ok(sys::cuGraphExecHostNodeSetParams(exec, called, &host(3)));
                ok(sys::cuGraphExecEventRecordNodeSetEvent(
                    exec, recorded, second,
                ));
                ok(sys::cuGraphExecEventWaitNodeSetEvent(exec, waited, first));
                assert_eq!(run(), (vec![7; 8], vec![7, 0, 0, 0, 0, 0, 0, 0], 3));
                assert_eq!(sys::cuEventQuery(second), CUresult::CUDA_SUCCESS);
                // and the instance from the graph as it is now
                let mut info = std::mem::zeroed::<sys::CUgraphExecUpdateResultInfo>();
                ok(sys::cuGraphExecUpdate_v2(exec, graph, &mut info));
                ok(sys::cuMemsetD32Async(p, 0, 8, stream));
                assert_eq!(
                    run(),
                    (
                        vec![6, 6, 6, 6, 0, 0, 0, 0],
                        vec![6, 6, 0, 0, 0, 0, 0, 0],
                        10
                    )
                );
                // a node of another kind has no such parameters
                let wrong = sys::cuGraphMemsetNodeSetParams(copied, &fill(p, 0, 1));
                assert_eq!(wrong, CUresult::CUDA_ERROR_INVALID_VALUE);
                // a node goes with its edges
                ok(sys::cuGraphDestroyNode(called));
                count = 4;
                ok(sys::cuGraphNodeGetDependencies(
                    recorded,
                    nodes.as_mut_ptr(),
                    &mut count,
                ));
                assert_eq!(count, 0);
                assert_eq!(get(|n| sys::cuGraphGetNodes(graph, null_mut(), n)), 4);
                ok(sys::cuGraphExecDestroy(exec));
                ok(sys::cuGraphDestroy(graph));
            }
        },
    );
}

#[test]
fn memory_of_a_graph_lives_from_its_node_to_its_free() {
    on_softcuda(
        "graphs::memory_of_a_graph_lives_from_its_node_to_its_free",
        &[],
        || {
            // SAFETY: handles and memory live until the end.
            unsafe {
                start();
                let add_to = function(module(PTX), "add");
                let stream = stream(false);
                let out = device(&[0; 32]);
                let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
                ok(sys::cuStreamBeginCapture_v2(stream, mode));
                let p = get(|p| sys::cuMemAllocAsync(p, 128, stream));
                ok(sys::cuMemsetD32Async(p, 40, 32, stream));
                ok(add(add_to, stream, p, 2));
                ok(sys::cuMemcpyDtoDAsync_v2(out, p, 128, stream));
                ok(sys::cuMemFreeAsync(p, stream));
                let graph = get(|g| sys::cuStreamEndCapture(stream, g));
                let exec = get(|exec| sys::cuGraphInstantiateWithFlags(exec, graph, 0));
                for _ in 0..2 {
                    ok(sys::cuMemsetD32Async(out, 0, 32, stream));
                    ok(sys::cuGraphLaunch(exec, stream));
                    ok(sys::cuStreamSynchronize(stream));
                    assert_eq!(read(out, 32), [42; 32]);
                }
                ok(sys::cuGraphExecDestroy(exec));
                ok(sys::cuGraphDestroy(graph));
            }
        },
    );
}
