//! Edges of graphs and what kind they are, captures that go on from given nodes, and nodes of
//! launches, by every version of their entry points.

use crate::entry::*;
use crate::support::raw::*;
use crate::support::{PTX, PTX_90, on_softcuda};
use cudarc::driver::sys::{self, CUresult::*};
use std::ffi::{CString, c_void};
use std::ptr::{null, null_mut};

/// A launch of one block of 32 threads.
fn launch_of(function: sys::CUfunction, arguments: &mut [*mut c_void]) -> KernelParams {
    KernelParams {
        function: function as Handle,
        grid: [1, 1, 1],
        block: [32, 1, 1],
        shared: 0,
        arguments: arguments.as_mut_ptr(),
        extra: null_mut(),
        kernel: 0,
        context: 0,
    }
}

/// All edges of a graph, in no order.
fn edges(graph: Handle) -> Vec<(Handle, Handle, Edge)> {
    let mut count = 0;
    // SAFETY: the lists are as long as is said.
    unsafe {
        let nothing = (null_mut(), null_mut(), null_mut());
        ok(cuGraphGetEdges_v2(
            graph, nothing.0, nothing.1, nothing.2, &mut count,
        ));
        let (mut from, mut to) = (vec![9; count + 2], vec![9; count + 2]);
        let mut data = vec![PROGRAMMATIC; count + 2];
        let (found, mut room) = (count, count + 2);
        let lists = (from.as_mut_ptr(), to.as_mut_ptr(), data.as_mut_ptr());
        ok(cuGraphGetEdges_v2(
            graph, lists.0, lists.1, lists.2, &mut room,
        ));
        assert_eq!(room, found);
        // places that are left over are emptied
        assert_eq!((&from[found..], &to[found..]), (&[0, 0][..], &[0, 0][..]));
        (0..found).map(|i| (from[i], to[i], data[i])).collect()
    }
}

#[test]
fn edges_say_of_what_kind_they_are() {
    on_softcuda("edges::edges_say_of_what_kind_they_are", &[], || {
        // SAFETY: handles and memory live until the end.
        unsafe {
            start();
            let module = module(PTX_90);
            let (mut p, mut q) = (device(&[0; 32]), device(&[0; 32]));
            let graph = get(|g| sys::cuGraphCreate(g, 0)) as Handle;
            let mut of_first = [pointer(&mut p)];
            let first = launch_of(function(module, "first"), &mut of_first);
            let mut of_second = [pointer(&mut q), pointer(&mut p)];
            let second = launch_of(function(module, "second"), &mut of_second);
            let first = get(|n| cuGraphAddKernelNode(n, graph, null(), 0, &first));
            let second = get(|n| cuGraphAddKernelNode(n, graph, null(), 0, &second));
            let empty = get(|n| sys::cuGraphAddEmptyNode(n, graph as *mut _, null(), 0)) as Handle;
            let add = |from: &[Handle], to: &[Handle], data: *const Edge| {
                cuGraphAddDependencies_v2(graph, from.as_ptr(), to.as_ptr(), data, from.len())
            };
            let remove = |from: Handle, to: Handle, data: *const Edge| {
                cuGraphRemoveDependencies_v2(graph, &from, &to, data, 1)
            };
            // kinds and ports that there are not, and launches only
            for wrong in [
                Edge {
                    from_port: 0,
                    ..PROGRAMMATIC
                },
                Edge {
                    from_port: 3,
                    ..PROGRAMMATIC
                },
                Edge {
                    to_port: 1,
                    ..PROGRAMMATIC
                },
                Edge {
                    kind: 2,
                    ..PROGRAMMATIC
                },
                Edge {
                    reserved: [0, 0, 1, 0, 0],
                    ..PROGRAMMATIC
                },
                Edge {
                    from_port: 1,
                    ..Edge::default()
                },
            ] {
                assert_eq!(
                    add(&[first], &[second], &wrong),
                    CUDA_ERROR_INVALID_VALUE,
                    "{wrong:?}"
                );
            }
            assert_eq!(
                add(&[first], &[empty], &PROGRAMMATIC),
                CUDA_ERROR_INVALID_VALUE
            );
            assert_eq!(
                add(&[empty], &[second], &PROGRAMMATIC),
                CUDA_ERROR_INVALID_VALUE
            );
            assert_eq!(add(&[first], &[first], null()), CUDA_ERROR_INVALID_VALUE);
            // all edges of a call or none
            let two = [PROGRAMMATIC, PROGRAMMATIC];
            let half = add(&[first, first], &[second, empty], two.as_ptr());
            assert_eq!(half, CUDA_ERROR_INVALID_VALUE);
            let twice = add(&[first, first], &[second, second], two.as_ptr());
            assert_eq!(twice, CUDA_ERROR_INVALID_VALUE);
            assert_eq!(edges(graph), []);

            ok(add(&[first], &[second], &PROGRAMMATIC));
            assert_eq!(
                add(&[first], &[second], null()),
                CUDA_ERROR_INVALID_VALUE,
                "it is there"
            );
            assert_eq!(edges(graph), [(first, second, PROGRAMMATIC)]);
            let data = |find: &dyn Fn(*mut Handle, *mut Edge, *mut usize) -> sys::CUresult| {
                let (mut node, mut data, mut count) = (9, Edge::default(), 1);
                ok(find(&mut node, &mut data, &mut count));
                let nowhere = find(null_mut(), &mut data, &mut count);
                assert_eq!(nowhere, CUDA_ERROR_INVALID_VALUE);
                (count, node, data)
            };
            let before = data(&|n, d, c| cuGraphNodeGetDependencies_v2(second, n, d, c));
            assert_eq!(before, (1, first, PROGRAMMATIC));
            let behind = data(&|n, d, c| cuGraphNodeGetDependentNodes_v2(first, n, d, c));
            assert_eq!(behind, (1, second, PROGRAMMATIC));
            // what has no place for the kind of an edge cannot tell of this one
            const LOSSY_QUERY: u32 = 402;
            let (mut from, mut to, mut count) = (0, 0, 1);
            type Edges = unsafe extern "C" fn(Handle, *mut Handle, *mut Handle, *mut usize) -> u32;
            let old: Edges = named("cuGraphGetEdges");
            assert_eq!(old(graph, &mut from, &mut to, &mut count), LOSSY_QUERY);
            type Nodes = unsafe extern "C" fn(Handle, *mut Handle, *mut Edge, *mut usize) -> u32;
            for (name, node) in [
                ("cuGraphNodeGetDependencies_v2", second),
                ("cuGraphNodeGetDependentNodes_v2", first),
            ] {
                let of: Nodes = named(name);
                assert_eq!(
                    of(node, &mut from, null_mut(), &mut count),
                    LOSSY_QUERY,
                    "{name}"
                );
            }
            assert_eq!(
                remove(first, second, null()),
                CUDA_ERROR_INVALID_VALUE,
                "not a plain one"
            );
            assert_eq!(
                remove(second, first, &PROGRAMMATIC),
                CUDA_ERROR_INVALID_VALUE
            );

            // what it means: the successor may begin early, and sees all once it has waited
            let (mut error, mut log) = (9, [1; 8]);
            let exec = get(|exec| {
                cuGraphInstantiate_v2(exec, graph, &mut error, log.as_mut_ptr(), log.len())
            });
            assert_eq!((error, log[0]), (0, 0));
            ok(sys::cuGraphLaunch(exec as *mut _, null_mut()));
            assert_eq!((read(p, 32), read(q, 32)), (vec![7; 32], vec![8; 32]));
            ok(remove(first, second, &PROGRAMMATIC));
            assert_eq!(edges(graph), []);
            // a circle is no graph
            ok(add(&[first, second], &[second, first], null()));
            let circle = cuGraphInstantiate_v2(&mut error, graph, null_mut(), null_mut(), 0);
            assert_eq!(circle, CUDA_ERROR_INVALID_VALUE);
            ok(sys::cuGraphDestroy(graph as *mut _));
            assert_eq!(add(&[first], &[second], null()), CUDA_ERROR_INVALID_HANDLE);
            let gone = cuGraphNodeGetDependencies_v2(first, null_mut(), null_mut(), &mut count);
            assert_eq!(gone, CUDA_ERROR_INVALID_HANDLE);
        }
    });
}

#[test]
fn graphs_are_drawn() {
    on_softcuda("edges::graphs_are_drawn", &[], || {
        // SAFETY: handles and memory live until the end.
        unsafe {
            start();
            let (module, mut p) = (module(PTX_90), device(&[0; 32]));
            let graph = get(|g| sys::cuGraphCreate(g, 0)) as Handle;
            let mut arguments = [pointer(&mut p)];
            let params = launch_of(function(module, "first"), &mut arguments);
            let first = get(|n| cuGraphAddKernelNode(n, graph, null(), 0, &params));
            let second = get(|n| cuGraphAddKernelNode(n, graph, null(), 0, &params));
            let empty = get(|n| {
                sys::cuGraphAddEmptyNode(n, graph as *mut _, (&raw const second).cast(), 1)
            }) as Handle;
            ok(cuGraphAddDependencies_v2(
                graph,
                &first,
                &second,
                &PROGRAMMATIC,
                1,
            ));
            let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
            let path = folder.join(format!("graph-{}.dot", std::process::id()));
            let name = CString::new(path.to_str().expect("a path")).unwrap();
            ok(cuGraphDebugDotPrint(graph, name.as_ptr(), 0));
            let text = std::fs::read_to_string(&path).expect("the drawing");
            std::fs::remove_file(&path).expect("it is ours");
            let lines = [
                "digraph {".to_owned(),
                format!("  n{first:x} [label=\"first\"];"),
                format!("  n{second:x} [label=\"first\"];"),
                format!("  n{empty:x} [label=\"empty\"];"),
                format!("  n{first:x} -> n{second:x} [style=dashed];"),
                format!("  n{second:x} -> n{empty:x};"),
                "}".to_owned(),
            ];
            assert_eq!(text.lines().collect::<Vec<_>>(), lines);
            let nowhere = CString::new(format!("{}/no/folder", path.display())).unwrap();
            let refused = cuGraphDebugDotPrint(graph, nowhere.as_ptr(), 0);
            assert_eq!(refused, CUDA_ERROR_OPERATING_SYSTEM);
            assert_eq!(
                cuGraphDebugDotPrint(graph, null(), 0),
                CUDA_ERROR_INVALID_VALUE
            );
            ok(sys::cuGraphDestroy(graph as *mut _));
            let gone = cuGraphDebugDotPrint(graph, name.as_ptr(), 0);
            assert_eq!(gone, CUDA_ERROR_INVALID_HANDLE);
        }
    });
}

const GLOBAL: u32 = 0;

/// What `cuStreamGetCaptureInfo` says: state, number, graph, and the nodes that come before the
/// next one.
fn info(stream: sys::CUstream) -> (u32, u64, Handle, Vec<Handle>) {
    let (mut status, mut id, mut graph, mut count) = (9, 0, 0, 0);
    let (mut nodes, mut data) = (null(), null());
    let stream = stream as Handle;
    // SAFETY: what is pointed to stays until the stream is asked again.
    unsafe {
        ok(cuStreamGetCaptureInfo_v3(
            stream,
            &mut status,
            &mut id,
            &mut graph,
            &mut nodes,
            &mut data,
            &mut count,
        ));
        let list = |count| (0..count).map(|i| (*nodes.add(i), *data.add(i)));
        let found: Vec<Handle> = list(count).map(|(node, _)| node).collect();
        assert!(list(count).all(|(_, edge)| edge == Edge::default()));
        // the older ones say the same, and take what is not asked for
        let (mut status2, mut id2, mut graph2, mut count2) = (9, 0, 0, 0);
        ok(cuStreamGetCaptureInfo_v2(
            stream,
            &mut status2,
            &mut id2,
            &mut graph2,
            null_mut(),
            &mut count2,
        ));
        assert_eq!((status2, id2, graph2, count2), (status, id, graph, count));
        let (mut status1, mut id1) = (9, 0);
        ok(cuStreamGetCaptureInfo(stream, &mut status1, &mut id1));
        assert_eq!((status1, id1), (status, id));
        ok(cuStreamGetCaptureInfo(stream, &mut status1, null_mut()));
        (status, id, graph, found)
    }
}

#[test]
fn captures_tell_how_they_stand() {
    on_softcuda("edges::captures_tell_how_they_stand", &[], || {
        // SAFETY: handles and memory live until the end.
        unsafe {
            start();
            let add_to = function(module(PTX), "add");
            let (stream, other) = (stream(true), stream(false));
            let p = device(&[0; 32]);
            assert_eq!(info(stream), (0, 0, 0, vec![]));
            let nowhere = cuStreamGetCaptureInfo(stream as Handle, null_mut(), null_mut());
            assert_eq!(nowhere, CUDA_ERROR_INVALID_VALUE);
            let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
            ok(sys::cuStreamBeginCapture_v2(stream, mode));
            let (status, id, graph, nodes) = info(stream);
            assert_eq!((status, nodes), (1, vec![]));
            assert!(id != 0 && graph != 0);
            ok(add(add_to, stream, p, 1));
            let (.., nodes) = info(stream);
            let [node] = nodes[..] else {
                panic!("{nodes:?}")
            };
            let kind = get(|k| sys::cuGraphNodeGetType(node as *mut _, k));
            assert_eq!(kind, sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_KERNEL);
            // the legacy stream would have to wait for it: it cannot be asked, which spoils nothing
            let mut answer = 9;
            let legacy = cuStreamGetCaptureInfo(0, &mut answer, null_mut());
            assert_eq!(legacy, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
            let mut answer = std::mem::zeroed();
            let legacy = sys::cuStreamIsCapturing(null_mut(), &mut answer);
            assert_eq!(legacy, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
            // another capture has another number
            ok(sys::cuStreamBeginCapture_v2(other, mode));
            let (_, other_id, other_graph, _) = info(other);
            assert!(other_id != id && other_graph != graph);
            // a spoiled one
            assert_eq!(
                sys::cuStreamQuery(other),
                CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
            );
            assert_eq!(info(other), (2, 0, 0, vec![]));
            let ended = sys::cuStreamEndCapture(other, &mut null_mut());
            assert_eq!(ended, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
            let ended = get(|g| sys::cuStreamEndCapture(stream, g));
            assert_eq!((ended as Handle, info(stream).0), (graph, 0));
            ok(sys::cuStreamDestroy_v2(other));
            let gone = cuStreamGetCaptureInfo(other as Handle, &mut 0, null_mut());
            assert_eq!(gone, CUDA_ERROR_INVALID_HANDLE);
        }
    });
}

#[test]
fn captures_go_on_from_given_nodes() {
    on_softcuda("edges::captures_go_on_from_given_nodes", &[], || {
        // SAFETY: handles and memory live until the end.
        unsafe {
            let context = start();
            let add_to = function(module(PTX), "add");
            let (stream, p, q) = (stream(false), device(&[0; 32]), device(&[0; 32]));
            let s = stream as Handle;
            let graph = get(|g| sys::cuGraphCreate(g, 0)) as Handle;
            let elsewhere = get(|g| sys::cuGraphCreate(g, 0));
            let stranger = get(|n| sys::cuGraphAddEmptyNode(n, elsewhere, null(), 0)) as Handle;
            let fill = sys::CUDA_MEMSET_NODE_PARAMS {
                dst: p,
                pitch: 0,
                value: 40,
                elementSize: 4,
                width: 32,
                height: 1,
            };
            let filled =
                get(|n| sys::cuGraphAddMemsetNode(n, graph as *mut _, null(), 0, &fill, context))
                    as Handle;
            let begin = |nodes: &[Handle], edges: *const Edge, mode| {
                cuStreamBeginCaptureToGraph(s, graph, nodes.as_ptr(), edges, nodes.len(), mode)
            };
            assert_eq!(begin(&[stranger], null(), GLOBAL), CUDA_ERROR_INVALID_VALUE);
            assert_eq!(begin(&[filled], null(), 3), CUDA_ERROR_INVALID_VALUE);
            assert_eq!(
                begin(&[filled], &PROGRAMMATIC, GLOBAL),
                CUDA_ERROR_NOT_SUPPORTED
            );
            let legacy = cuStreamBeginCaptureToGraph(0, graph, null(), null(), 0, GLOBAL);
            assert_eq!(legacy, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
            let idle = cuStreamUpdateCaptureDependencies(s, &filled, 1, 0);
            assert_eq!(idle, CUDA_ERROR_ILLEGAL_STATE);

            ok(begin(&[filled], &Edge::default(), GLOBAL));
            assert_eq!(begin(&[filled], null(), GLOBAL), CUDA_ERROR_ILLEGAL_STATE);
            assert_eq!(info(stream).2, graph);
            assert_eq!(
                sys::cuGraphDestroy(graph as *mut _),
                CUDA_ERROR_INVALID_VALUE
            );
            ok(add(add_to, stream, p, 1));
            let first = info(stream).3[0];
            // the next one comes after nothing, the one behind it after both
            let (set, and) = (1, 0);
            ok(cuStreamUpdateCaptureDependencies(s, null(), 0, set));
            ok(sys::cuMemsetD32Async(q, 9, 32, stream));
            let second = info(stream).3[0];
            ok(cuStreamUpdateCaptureDependencies_v2(
                s,
                &first,
                &Edge::default(),
                1,
                and,
            ));
            assert_eq!(info(stream).3, [first, second]);
            ok(add(add_to, stream, p, 1));
            let third = info(stream).3[0];
            for (found, code) in [
                (
                    cuStreamUpdateCaptureDependencies(s, &first, 1, 2),
                    CUDA_ERROR_INVALID_VALUE,
                ),
                (
                    cuStreamUpdateCaptureDependencies(s, &stranger, 1, and),
                    CUDA_ERROR_INVALID_VALUE,
                ),
                (
                    cuStreamUpdateCaptureDependencies_v2(s, &first, &PROGRAMMATIC, 1, and),
                    CUDA_ERROR_NOT_SUPPORTED,
                ),
            ] {
                assert_eq!(found, code);
            }
            let ended = get(|g| sys::cuStreamEndCapture(stream, g)) as Handle;
            assert_eq!(ended, graph);
            let mut found = edges(graph);
            found.sort_by_key(|&(from, to, _)| (to, from));
            let plain = Edge::default();
            let expected = [
                (filled, first, plain),
                (first, third, plain),
                (second, third, plain),
            ];
            assert_eq!(found, expected);
            let exec = get(|exec| sys::cuGraphInstantiateWithFlags(exec, graph as *mut _, 0));
            ok(sys::cuGraphLaunch(exec, stream));
            ok(sys::cuStreamSynchronize(stream));
            assert_eq!((read(p, 32), read(q, 32)), (vec![42; 32], vec![9; 32]));

            // one that is spoiled leaves the graph to the program
            ok(begin(&[third], null(), GLOBAL));
            assert_eq!(
                sys::cuStreamQuery(stream),
                CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
            );
            let late = cuStreamUpdateCaptureDependencies(s, &first, 1, set);
            assert_eq!(late, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
            let ended = sys::cuStreamEndCapture(stream, &mut null_mut());
            assert_eq!(ended, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
            assert_eq!(edges(graph).len(), expected.len());
            ok(sys::cuGraphDestroy(graph as *mut _));
            let gone = cuStreamBeginCaptureToGraph(s, graph, null(), null(), 0, GLOBAL);
            assert_eq!(gone, CUDA_ERROR_INVALID_HANDLE);
        }
    });
}

/// What a program reads and changes of launches in a graph and in its instance.
#[test]
fn launches_of_graphs_are_changed_by_every_version() {
    on_softcuda(
        "edges::launches_of_graphs_are_changed_by_every_version",
        &[],
        || {
            // SAFETY: handles and memory live until the end.
            unsafe {
                start();
                let module = module(PTX);
                let (add_to, twice) = (function(module, "add"), function(module, "twice_plus_one"));
                let (stream, p) = (stream(false), device(&[0; 32]));
                // read by the driver through pointers to them
                let (mut at, mut n) = (p, 32);
                let by = std::cell::Cell::new(1);
                let mut arguments = [pointer(&mut at), by.as_ptr().cast(), pointer(&mut n)];
                let graph = get(|g| sys::cuGraphCreate(g, 0)) as Handle;
                let mut params = launch_of(add_to, &mut arguments);
                let node = get(|node| cuGraphAddKernelNode(node, graph, null(), 0, &params));
                let mut wrong = params;
                wrong.block = [0, 1, 1];
                let refused = cuGraphAddKernelNode(&mut 0, graph, null(), 0, &wrong);
                assert_eq!(refused, CUDA_ERROR_INVALID_VALUE);
                // what it holds are copies
                by.set(100);
                let mut held = params;
                ok(cuGraphKernelNodeGetParams(node, &mut held));
                assert_eq!(
                    (held.function, held.grid, held.block),
                    (add_to as Handle, [1; 3], [32, 1, 1])
                );
                assert_eq!(*(*held.arguments.add(1)).cast::<i32>(), 1);
                // a graph within a graph is a copy, too
                let outer = get(|g| sys::cuGraphCreate(g, 0)) as Handle;
                let child = get(|node| {
                    sys::cuGraphAddChildGraphNode(node, outer as *mut _, null(), 0, graph as *mut _)
                }) as Handle;
                let inner = get(|g| cuGraphChildGraphNodeGetGraph(child, g));
                assert!(inner != graph && inner != 0);
                let no_child = cuGraphChildGraphNodeGetGraph(node, &mut 0);
                assert_eq!(no_child, CUDA_ERROR_INVALID_VALUE);

                let mut asked = Instantiation {
                    flags: 0,
                    stream: 0,
                    error_node: 9,
                    result: 9,
                };
                let exec = get(|exec| cuGraphInstantiateWithParams(exec, graph, &mut asked));
                assert_eq!((asked.result, asked.error_node), (0, 0));
                assert_eq!(get(|flags| cuGraphExecGetFlags(exec, flags)), 0);
                asked.flags = 1 << 20;
                let refused = cuGraphInstantiateWithParams(&mut 0, graph, &mut asked);
                assert_eq!((refused, asked.result), (CUDA_ERROR_INVALID_VALUE, 1));
                let nothing = cuGraphInstantiateWithParams(&mut 0, graph, null_mut());
                assert_eq!(nothing, CUDA_ERROR_INVALID_VALUE);
                let run = |exec: Handle| {
                    ok(sys::cuMemsetD32Async(p, 0, 32, stream));
                    ok(sys::cuGraphLaunch(exec as *mut _, stream));
                    ok(sys::cuStreamSynchronize(stream));
                    read(p, 32)[31]
                };
                ok(cuGraphUpload(exec, stream as Handle));
                assert_eq!(run(exec), 1);
                // of the instance
                ok(cuGraphExecKernelNodeSetParams(exec, node, &params));
                assert_eq!(run(exec), 100);
                let of_nothing = cuGraphExecKernelNodeSetParams(exec, child, &params);
                assert_eq!(of_nothing, CUDA_ERROR_INVALID_VALUE);
                assert_eq!(get(|on| cuGraphNodeGetEnabled(exec, node, on)), 1);
                ok(sys::cuGraphNodeSetEnabled(
                    exec as *mut _,
                    node as *mut _,
                    0,
                ));
                assert_eq!(
                    (get(|on| cuGraphNodeGetEnabled(exec, node, on)), run(exec)),
                    (0, 0)
                );
                ok(sys::cuGraphNodeSetEnabled(
                    exec as *mut _,
                    node as *mut _,
                    1,
                ));
                let of_nothing = cuGraphNodeGetEnabled(exec, child, &mut 0);
                assert_eq!(of_nothing, CUDA_ERROR_INVALID_VALUE);
                // of the graph, which the instance takes over
                by.set(7);
                ok(cuGraphKernelNodeSetParams(node, &params));
                assert_eq!(run(exec), 100);
                let (mut error, mut result) = (9, 9);
                ok(cuGraphExecUpdate(exec, graph, &mut error, &mut result));
                assert_eq!((error, result, run(exec)), (0, 0, 7));
                let mut of_twice = [pointer(&mut at), pointer(&mut n)];
                params.function = 0;
                params.kernel = twice as Handle; // by which the second version names it
                params.arguments = of_twice.as_mut_ptr();
                ok(cuGraphKernelNodeSetParams_v2(node, &params));
                ok(cuGraphExecUpdate(exec, graph, null_mut(), null_mut()));
                assert_eq!(run(exec), 1);
                let of_nothing = cuGraphKernelNodeSetParams_v2(child, &params);
                assert_eq!(of_nothing, CUDA_ERROR_INVALID_VALUE);
                // of another shape
                let changed = cuGraphExecUpdate(exec, elsewhere(graph), &mut error, &mut result);
                assert_eq!((changed, result), (CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, 2));
                // the copy within the other graph is as it was made
                let outer = get(|exec| sys::cuGraphInstantiateWithFlags(exec, outer as *mut _, 0));
                assert_eq!(run(outer as Handle), 1);
                // while its stream is capturing nothing is uploaded
                let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
                ok(sys::cuStreamBeginCapture_v2(stream, mode));
                let spoiled = cuGraphUpload(exec, stream as Handle);
                assert_eq!(spoiled, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
                let ended = sys::cuStreamEndCapture(stream, &mut null_mut());
                assert_eq!(ended, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
                ok(sys::cuGraphExecDestroy(exec as *mut _));
                for gone in [
                    cuGraphUpload(exec, 0),
                    cuGraphExecGetFlags(exec, &mut 0),
                    cuGraphNodeGetEnabled(exec, node, &mut 0),
                    cuGraphExecKernelNodeSetParams(exec, node, &params),
                    cuGraphExecUpdate(exec, graph, null_mut(), null_mut()),
                ] {
                    assert_eq!(gone, CUDA_ERROR_INVALID_HANDLE);
                }
            }
        },
    );
}

/// A copy of a graph with one node more.
unsafe fn elsewhere(graph: Handle) -> Handle {
    // SAFETY: the graph lives.
    unsafe {
        let copy = get(|g| sys::cuGraphClone(g, graph as *mut _));
        get(|node| sys::cuGraphAddEmptyNode(node, copy, null(), 0));
        copy as Handle
    }
}
