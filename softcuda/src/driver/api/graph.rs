//! Graphs: building and changing.

use super::launch::{Request, prepare};
use super::transfer::boxes;
use crate::driver::abi::{
    EdgeData, Handle, HostNodeParams, In, KernelNodeParams, KernelNodeParamsV1, Memcpy3d,
    MemsetNodeParams, Out, Text,
};
use crate::driver::error::*;
use crate::driver::graph::{Graph, GraphNode, NodeOp, ShownParams, check_edge};
use crate::driver::state::{State, lock, say};
use crate::driver::work::{Copy, Fill, HostCall, KernelWork, Op, Place};
use std::fmt::Write;
use std::sync::Arc;

/// Flags of an instantiation that change nothing here: free memory at launch, upload, priorities.
pub(super) const KNOWN_FLAGS: u64 = 0b1011;

fn add(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, op: NodeOp) -> Result {
    if node.is_null() {
        return Err(ERROR_INVALID_VALUE);
    }
    let edges = after
        .list(count)?
        .into_iter()
        .map(|before| (before, EdgeData::default()));
    node.set(lock()?.add_node(graph, op, edges)?)
}

pub(super) fn kernel_op(state: &State, params: &KernelNodeParamsV1) -> Result<NodeOp> {
    let request = Request {
        function: params.func,
        grid: params.grid,
        block: params.block,
        shared_bytes: params.shared_bytes,
        params: params.params,
        extra: params.extra,
        cooperative: false,
    };
    Ok(NodeOp::Work(Op::Kernel(prepare(state, &request)?)))
}

/// The function of the second version's parameters: a kernel of a library counts as one.
pub(super) fn of_v2(params: &KernelNodeParams) -> KernelNodeParamsV1 {
    let func = if params.v1.func == 0 {
        params.kernel
    } else {
        params.v1.func
    };
    KernelNodeParamsV1 { func, ..params.v1 }
}

pub(super) fn copy_op(state: &State, params: In<Memcpy3d>) -> Result<NodeOp> {
    let copy = boxes(state, &params.get()?)?;
    Ok(NodeOp::Work(Op::Copy(copy)))
}

pub(super) fn fill_op(params: In<MemsetNodeParams>) -> Result<NodeOp> {
    let p = params.get()?;
    let element_bytes = p.element_bytes as usize;
    if !matches!(element_bytes, 1 | 2 | 4) || p.dst % element_bytes as u64 != 0 {
        return Err(ERROR_INVALID_VALUE);
    }
    if p.height > 1 && p.pitch < p.width * element_bytes {
        return Err(ERROR_INVALID_VALUE);
    }
    let (to, pitch, value) = (p.dst, p.pitch, p.value);
    Ok(NodeOp::Work(Op::Fill(Fill {
        to,
        pitch,
        value,
        element_bytes,
        width: p.width,
        height: p.height,
    })))
}

pub(super) fn host_op(params: In<HostNodeParams>) -> Result<NodeOp> {
    let params = params.get()?;
    if params.function.is_none() {
        return Err(ERROR_INVALID_VALUE);
    }
    let call = HostCall {
        function: params.function,
        data: params.data as usize,
    };
    Ok(NodeOp::Work(Op::Host(call)))
}

/// Replaces what a node of a graph does by something of the same kind.
fn replace(state: &mut State, node: Handle, op: NodeOp) -> Result {
    let found = state.node(node)?;
    if found.op.kind() != op.kind() {
        return Err(ERROR_INVALID_VALUE);
    }
    found.shown = None;
    found.op = keep_cooperation(&found.op, op);
    Ok(())
}

/// The parameters of a node do not say whether a launch is cooperative: it stays what it was.
pub(super) fn keep_cooperation(old: &NodeOp, new: NodeOp) -> NodeOp {
    match (old, new) {
        (NodeOp::Work(Op::Kernel(old)), NodeOp::Work(Op::Kernel(new))) => {
            let mut launch = new.launch.clone();
            launch.cooperative = old.launch.cooperative;
            NodeOp::Work(Op::Kernel(Arc::new(KernelWork {
                function: new.function,
                launch,
            })))
        }
        (_, new) => new,
    }
}

fn kernel_params(node: Handle) -> Result<KernelNodeParamsV1> {
    let mut state = lock()?;
    let node = state.node(node)?;
    let NodeOp::Work(Op::Kernel(work)) = &node.op else {
        return Err(ERROR_INVALID_VALUE);
    };
    let launch = &work.launch;
    if node.shown.is_none() {
        // words, so that every value is aligned
        let word = |piece: &[u8]| {
            let mut bytes = [0; 8];
            bytes[..piece.len()].copy_from_slice(piece);
            u64::from_ne_bytes(bytes)
        };
        let values: Vec<Vec<u64>> = launch
            .kernel
            .params
            .iter()
            .map(|p| {
                let at = p.offset as usize;
                launch.params[at..at + p.bytes as usize]
                    .chunks(8)
                    .map(word)
                    .collect()
            })
            .collect();
        let pointers = values.iter().map(|value| value.as_ptr() as usize).collect();
        node.shown = Some(Box::new(ShownParams {
            _values: values,
            pointers,
        }));
    }
    let shown = node.shown.as_ref().ok_or(ERROR_UNKNOWN)?;
    Ok(KernelNodeParamsV1 {
        func: work.function,
        grid: launch.grid,
        block: launch.block,
        shared_bytes: launch.dynamic_shared,
        params: shown.pointers.as_ptr().cast_mut().cast(),
        extra: std::ptr::null_mut(),
    })
}

fn copy_params(copy: &Copy) -> Memcpy3d {
    let side = |place: &Place| match place {
        Place::Device(address) => (2, 0, *address),
        Place::Host(address) => (1, *address, 0),
        Place::Staged(_) => (1, 0, 0), // never in a graph
    };
    let rows = |pitch: [usize; 2]| pitch[1].checked_div(pitch[0]).unwrap_or(0);
    let ((src_type, src_host, src_device), (dst_type, dst_host, dst_device)) =
        (side(&copy.from), side(&copy.to));
    Memcpy3d {
        src_type,
        src_host,
        src_device,
        src_pitch: copy.from_pitch[0],
        src_height: rows(copy.from_pitch),
        dst_type,
        dst_host,
        dst_device,
        dst_pitch: copy.to_pitch[0],
        dst_height: rows(copy.to_pitch),
        width: copy.width,
        height: copy.height,
        depth: copy.depth,
        ..Memcpy3d::default()
    }
}

/// Writes a list as `cuGraphGetNodes` does: without a place for it, its length alone.
fn list(items: &[Handle], out: Out<Handle>, count: Out<usize>) -> Result {
    if out.is_null() {
        return count.set(items.len());
    }
    let room = In(count.0.cast_const()).get()?;
    for i in 0..room {
        out.at(i).set(items.get(i).copied().unwrap_or(0))?;
    }
    count.set(items.len().min(room))
}

type Edge = (Handle, Handle, EdgeData);

/// Writes edges: to whichever of the lists there is.
fn list_edges(
    edges: &[Edge],
    from: Out<Handle>,
    to: Out<Handle>,
    data: Out<EdgeData>,
    with_data: bool,
    count: Out<usize>,
) -> Result {
    if from.is_null() && to.is_null() {
        if with_data && !data.is_null() {
            return Err(ERROR_INVALID_VALUE);
        }
        return count.set(edges.len());
    }
    if (!with_data || data.is_null()) && edges.iter().any(|edge| edge.2 != EdgeData::default()) {
        return Err(ERROR_LOSSY_QUERY);
    }
    let room = In(count.0.cast_const()).get()?;
    for i in 0..room {
        // places that are left over are emptied
        let edge = edges.get(i).copied().unwrap_or_default();
        from.at_if(i).set_if_asked(edge.0);
        to.at_if(i).set_if_asked(edge.1);
        if with_data {
            data.at_if(i).set_if_asked(edge.2);
        }
    }
    count.set(edges.len().min(room))
}

impl<T> Out<T> {
    /// As `at`, and null where there is no list.
    fn at_if(self, index: usize) -> Out<T> {
        if self.is_null() { self } else { self.at(index) }
    }
}

fn edges(state: &State, graph: Handle) -> Result<Vec<Edge>> {
    let nodes = &state.graphs.get(graph)?.nodes;
    let of = |(&to, node): (&Handle, &GraphNode)| {
        node.after
            .iter()
            .map(|(&from, &data)| (from, to, data))
            .collect::<Vec<_>>()
    };
    Ok(nodes.iter().flat_map(of).collect())
}

/// Edges that end (`into`) or begin at a node.
fn edges_at(node: Handle, into: bool) -> Result<Vec<Edge>> {
    let state = lock()?;
    let graph = *state.nodes.get(node)?;
    let mut edges = edges(&state, graph)?;
    edges.retain(|edge| if into { edge.1 == node } else { edge.0 == node });
    Ok(edges)
}

/// Adds all of the edges, or none.
fn connect(
    graph: Handle,
    from: In<Handle>,
    to: In<Handle>,
    data: In<EdgeData>,
    count: usize,
) -> Result {
    let mut state = lock()?;
    let new = given(from, to, data, count)?;
    let nodes = &mut state.graphs.get_mut(graph)?.nodes;
    for (i, (from, to, data)) in new.iter().enumerate() {
        let node = nodes.get(to).ok_or(ERROR_INVALID_VALUE)?;
        let twice = new[..i].iter().any(|old| (old.0, old.1) == (*from, *to));
        if from == to || twice || node.after.contains_key(from) {
            return Err(ERROR_INVALID_VALUE);
        }
        check_edge(nodes, *from, &node.op, data)?;
    }
    for (from, to, data) in new {
        let node = nodes.get_mut(&to).ok_or(ERROR_INVALID_VALUE)?;
        node.after.insert(from, data);
    }
    Ok(())
}

/// Edges as a program gives them; without data they are plain.
fn given(from: In<Handle>, to: In<Handle>, data: In<EdgeData>, count: usize) -> Result<Vec<Edge>> {
    let data = if data.is_null() {
        vec![EdgeData::default(); count]
    } else {
        data.list(count)?
    };
    let ends = from.list(count)?.into_iter().zip(to.list(count)?);
    Ok(ends
        .zip(data)
        .map(|((from, to), data)| (from, to, data))
        .collect())
}

/// Takes all of the edges away, or none.
fn disconnect(
    graph: Handle,
    from: In<Handle>,
    to: In<Handle>,
    data: In<EdgeData>,
    count: usize,
) -> Result {
    let mut state = lock()?;
    let old = given(from, to, data, count)?;
    let nodes = &mut state.graphs.get_mut(graph)?.nodes;
    for (i, (from, to, data)) in old.iter().enumerate() {
        let node = nodes.get(to).ok_or(ERROR_INVALID_VALUE)?;
        if node.after.get(from) != Some(data) || old[..i].contains(&old[i]) {
            return Err(ERROR_INVALID_VALUE);
        }
    }
    for (from, to, _) in old {
        let node = nodes.get_mut(&to).ok_or(ERROR_INVALID_VALUE)?;
        node.after.remove(&from);
    }
    Ok(())
}

fn event_node(node: Handle) -> Result<Handle> {
    match lock()?.node(node)?.op {
        NodeOp::Record(event) | NodeOp::Await(event) => Ok(event),
        _ => Err(ERROR_INVALID_VALUE),
    }
}

/// A drawing of a graph in the language of Graphviz.
fn drawing(state: &State, graph: Handle) -> Result<String> {
    let mut text = "digraph {\n".to_owned();
    for (handle, node) in &state.graphs.get(graph)?.nodes {
        let name = match &node.op {
            NodeOp::Work(Op::Kernel(work)) => work.launch.kernel.name.clone(),
            NodeOp::Work(Op::Copy(copy)) => {
                format!("copy {} x {} x {}", copy.width, copy.height, copy.depth)
            }
            NodeOp::Work(Op::Fill(fill)) => format!("fill {} x {}", fill.width, fill.height),
            NodeOp::Work(Op::Nothing) => "empty".to_owned(),
            NodeOp::Child(_) => "graph".to_owned(),
            NodeOp::Record(_) => "record".to_owned(),
            NodeOp::Await(_) => "wait".to_owned(),
            NodeOp::Alloc(address) => format!("alloc {address:#x}"),
            NodeOp::Free(address) => format!("free {address:#x}"),
            NodeOp::Work(_) => "host".to_owned(),
        };
        let _ = writeln!(text, "  n{handle:x} [label=\"{name}\"];");
    }
    for (from, to, data) in edges(state, graph)? {
        let style = if data.kind == 1 {
            " [style=dashed]"
        } else {
            ""
        };
        let _ = writeln!(text, "  n{from:x} -> n{to:x}{style};");
    }
    text.push_str("}\n");
    Ok(text)
}

api! {
    fn cuGraphCreate(graph: Out<Handle>, flags: u32) {
        let mut state = lock()?;
        if flags != 0 || graph.is_null() {
            return Err(ERROR_INVALID_VALUE);
        }
        graph.set(state.graphs.add(Graph::default()))
    }

    fn cuGraphDestroy(graph: Handle) {
        let mut state = lock()?;
        let captured = state.captures.iter().any(|(_, capture)| capture.graph == graph);
        if state.graphs.get(graph)?.owned || captured {
            return Err(ERROR_INVALID_VALUE);
        }
        state.destroy_graph(graph)
    }

    fn cuGraphClone(clone: Out<Handle>, graph: Handle) {
        if clone.is_null() {
            return Err(ERROR_INVALID_VALUE);
        }
        clone.set(lock()?.clone_graph(graph)?)
    }

    fn cuGraphAddKernelNode(
        node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize,
        params: In<KernelNodeParamsV1>,
    ) {
        let op = kernel_op(&*lock()?, &params.get()?)?;
        add(node, graph, after, count, op)
    }

    fn cuGraphAddKernelNode_v2(
        node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize,
        params: In<KernelNodeParams>,
    ) {
        let op = kernel_op(&*lock()?, &of_v2(&params.get()?))?;
        add(node, graph, after, count, op)
    }

    fn cuGraphKernelNodeGetParams(node: Handle, params: Out<KernelNodeParamsV1>) {
        params.set(kernel_params(node)?)
    }

    fn cuGraphKernelNodeGetParams_v2(node: Handle, params: Out<KernelNodeParams>) {
        params.set(KernelNodeParams { v1: kernel_params(node)?, kernel: 0, context: 0 })
    }

    fn cuGraphKernelNodeSetParams(node: Handle, params: In<KernelNodeParamsV1>) {
        let mut state = lock()?;
        let op = kernel_op(&state, &params.get()?)?;
        replace(&mut state, node, op)
    }

    fn cuGraphKernelNodeSetParams_v2(node: Handle, params: In<KernelNodeParams>) {
        let mut state = lock()?;
        let op = kernel_op(&state, &of_v2(&params.get()?))?;
        replace(&mut state, node, op)
    }

    fn cuGraphAddMemcpyNode(
        node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, params: In<Memcpy3d>,
        _context: Handle,
    ) {
        let op = copy_op(&*lock()?, params)?;
        add(node, graph, after, count, op)
    }

    fn cuGraphMemcpyNodeGetParams(node: Handle, params: Out<Memcpy3d>) {
        match &lock()?.node(node)?.op {
            NodeOp::Work(Op::Copy(copy)) => params.set(copy_params(copy)),
            _ => Err(ERROR_INVALID_VALUE),
        }
    }

    fn cuGraphMemcpyNodeSetParams(node: Handle, params: In<Memcpy3d>) {
        let mut state = lock()?;
        let op = copy_op(&state, params)?;
        replace(&mut state, node, op)
    }

    fn cuGraphAddMemsetNode(
        node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize,
        params: In<MemsetNodeParams>, _context: Handle,
    ) {
        add(node, graph, after, count, fill_op(params)?)
    }

    fn cuGraphMemsetNodeGetParams(node: Handle, params: Out<MemsetNodeParams>) {
        match &lock()?.node(node)?.op {
            NodeOp::Work(Op::Fill(fill)) => params.set(MemsetNodeParams {
                dst: fill.to,
                pitch: fill.pitch,
                value: fill.value,
                element_bytes: fill.element_bytes as u32,
                width: fill.width,
                height: fill.height,
            }),
            _ => Err(ERROR_INVALID_VALUE),
        }
    }

    fn cuGraphMemsetNodeSetParams(node: Handle, params: In<MemsetNodeParams>) {
        let op = fill_op(params)?;
        replace(&mut *lock()?, node, op)
    }

    fn cuGraphAddHostNode(
        node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize,
        params: In<HostNodeParams>,
    ) {
        add(node, graph, after, count, host_op(params)?)
    }

    fn cuGraphHostNodeGetParams(node: Handle, params: Out<HostNodeParams>) {
        match &lock()?.node(node)?.op {
            NodeOp::Work(Op::Host(call)) => {
                params.set(HostNodeParams { function: call.function, data: call.data as *mut _ })
            }
            _ => Err(ERROR_INVALID_VALUE),
        }
    }

    fn cuGraphHostNodeSetParams(node: Handle, params: In<HostNodeParams>) {
        let op = host_op(params)?;
        replace(&mut *lock()?, node, op)
    }

    fn cuGraphAddEmptyNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize) {
        add(node, graph, after, count, NodeOp::Work(Op::Nothing))
    }

    fn cuGraphAddChildGraphNode(
        node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, child: Handle,
    ) {
        let clone = {
            let mut state = lock()?;
            if graph == child || node.is_null() {
                return Err(ERROR_INVALID_VALUE);
            }
            let clone = state.clone_graph(child)?;
            state.graphs.get_mut(clone)?.owned = true;
            clone
        };
        add(node, graph, after, count, NodeOp::Child(clone))
    }

    fn cuGraphChildGraphNodeGetGraph(node: Handle, graph: Out<Handle>) {
        match lock()?.node(node)?.op {
            NodeOp::Child(child) => graph.set(child),
            _ => Err(ERROR_INVALID_VALUE),
        }
    }

    fn cuGraphAddEventRecordNode(
        node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, event: Handle,
    ) {
        lock()?.events.get(event)?;
        add(node, graph, after, count, NodeOp::Record(event))
    }

    fn cuGraphAddEventWaitNode(
        node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, event: Handle,
    ) {
        lock()?.events.get(event)?;
        add(node, graph, after, count, NodeOp::Await(event))
    }

    fn cuGraphEventRecordNodeGetEvent(node: Handle, event: Out<Handle>) {
        event.set(event_node(node)?)
    }

    fn cuGraphEventWaitNodeGetEvent(node: Handle, event: Out<Handle>) {
        event.set(event_node(node)?)
    }

    fn cuGraphEventRecordNodeSetEvent(node: Handle, event: Handle) {
        let mut state = lock()?;
        state.events.get(event)?;
        replace(&mut state, node, NodeOp::Record(event))
    }

    fn cuGraphEventWaitNodeSetEvent(node: Handle, event: Handle) {
        let mut state = lock()?;
        state.events.get(event)?;
        replace(&mut state, node, NodeOp::Await(event))
    }

    fn cuGraphAddDependencies(graph: Handle, from: In<Handle>, to: In<Handle>, count: usize) {
        connect(graph, from, to, In(std::ptr::null()), count)
    }

    fn cuGraphAddDependencies_v2(
        graph: Handle, from: In<Handle>, to: In<Handle>, data: In<EdgeData>, count: usize,
    ) {
        connect(graph, from, to, data, count)
    }

    fn cuGraphRemoveDependencies(graph: Handle, from: In<Handle>, to: In<Handle>, count: usize) {
        disconnect(graph, from, to, In(std::ptr::null()), count)
    }

    fn cuGraphRemoveDependencies_v2(
        graph: Handle, from: In<Handle>, to: In<Handle>, data: In<EdgeData>, count: usize,
    ) {
        disconnect(graph, from, to, data, count)
    }

    fn cuGraphGetNodes(graph: Handle, nodes: Out<Handle>, count: Out<usize>) {
        let found: Vec<Handle> = lock()?.graphs.get(graph)?.nodes.keys().copied().collect();
        list(&found, nodes, count)
    }

    fn cuGraphGetRootNodes(graph: Handle, nodes: Out<Handle>, count: Out<usize>) {
        let state = lock()?;
        let roots = state.graphs.get(graph)?.nodes.iter().filter(|(_, node)| node.after.is_empty());
        let found: Vec<Handle> = roots.map(|(&node, _)| node).collect();
        list(&found, nodes, count)
    }

    fn cuGraphGetEdges(graph: Handle, from: Out<Handle>, to: Out<Handle>, count: Out<usize>) {
        let edges = edges(&*lock()?, graph)?;
        list_edges(&edges, from, to, Out(std::ptr::null_mut()), false, count)
    }

    fn cuGraphGetEdges_v2(
        graph: Handle, from: Out<Handle>, to: Out<Handle>, data: Out<EdgeData>, count: Out<usize>,
    ) {
        let edges = edges(&*lock()?, graph)?;
        list_edges(&edges, from, to, data, true, count)
    }

    fn cuGraphNodeGetDependencies(node: Handle, from: Out<Handle>, count: Out<usize>) {
        let none = Out(std::ptr::null_mut());
        list_edges(&edges_at(node, true)?, from, none, Out(std::ptr::null_mut()), false, count)
    }

    fn cuGraphNodeGetDependencies_v2(
        node: Handle, from: Out<Handle>, data: Out<EdgeData>, count: Out<usize>,
    ) {
        list_edges(&edges_at(node, true)?, from, Out(std::ptr::null_mut()), data, true, count)
    }

    fn cuGraphNodeGetDependentNodes(node: Handle, to: Out<Handle>, count: Out<usize>) {
        let none = Out(std::ptr::null_mut());
        list_edges(&edges_at(node, false)?, none, to, Out(std::ptr::null_mut()), false, count)
    }

    fn cuGraphNodeGetDependentNodes_v2(
        node: Handle, to: Out<Handle>, data: Out<EdgeData>, count: Out<usize>,
    ) {
        list_edges(&edges_at(node, false)?, Out(std::ptr::null_mut()), to, data, true, count)
    }

    fn cuGraphNodeGetType(node: Handle, kind: Out<u32>) {
        kind.set(lock()?.node(node)?.op.kind())
    }

    fn cuGraphNodeFindInClone(found: Out<Handle>, original: Handle, clone: Handle) {
        let state = lock()?;
        let mut nodes = state.graphs.get(clone)?.nodes.iter();
        let node = nodes.find(|(_, node)| node.original == Some(original));
        found.set(*node.ok_or(ERROR_INVALID_VALUE)?.0)
    }

    fn cuGraphDestroyNode(node: Handle) {
        let mut state = lock()?;
        let graph = *state.nodes.get(node)?;
        let nodes = &mut state.graphs.get_mut(graph)?.nodes;
        let gone = nodes.remove(&node).ok_or(ERROR_INVALID_HANDLE)?;
        for other in nodes.values_mut() {
            other.after.remove(&node);
        }
        state.nodes.remove(node)?;
        match gone.op {
            NodeOp::Child(child) => state.destroy_graph(child),
            _ => Ok(()),
        }
    }

    fn cuGraphDebugDotPrint(graph: Handle, path: Text, _flags: u32) {
        let text = drawing(&*lock()?, graph)?;
        let path = path.get()?;
        std::fs::write(&path, text).map_err(|error| {
            say!("cuGraphDebugDotPrint: {path}: {error}");
            ERROR_OPERATING_SYSTEM
        })
    }
}
