//! Graphs made ready to run: instantiation, launch, update.

use super::graph::{KNOWN_FLAGS, copy_op, fill_op, host_op, keep_cooperation, kernel_op, of_v2};
use crate::driver::abi::{
    GraphExecUpdateResultInfo, GraphInstantiateParams, Handle, HostNodeParams, In,
    KernelNodeParams, KernelNodeParamsV1, Memcpy3d, MemsetNodeParams, Out,
};
use crate::driver::error::*;
use crate::driver::graph::{ExecNode, Graph, GraphNode, NodeOp};
use crate::driver::queue::wait;
use crate::driver::state::{State, lock};
use crate::driver::work::{Op, Place};
use std::collections::BTreeMap;
use std::ffi::c_char;

/// `CU_GRAPH_EXEC_UPDATE_*`
mod update {
    pub const SUCCESS: u32 = 0;
    pub const TOPOLOGY_CHANGED: u32 = 2;
    pub const NODE_TYPE_CHANGED: u32 = 3;
    pub const FUNCTION_CHANGED: u32 = 4;
    pub const PARAMETERS_CHANGED: u32 = 5;
}

/// Replaces what a node of an instantiated graph does.
fn replace_in_exec(
    exec: Handle,
    node: Handle,
    op: impl FnOnce(&State) -> Result<NodeOp>,
) -> Result {
    let mut state = lock()?;
    let op = op(&state)?;
    let found = state
        .graph_execs
        .get_mut(exec)?
        .nodes
        .get_mut(&node)
        .ok_or(ERROR_INVALID_VALUE)?;
    if found.op.kind() != op.kind() {
        return Err(ERROR_INVALID_VALUE);
    }
    found.op = keep_cooperation(&found.op, op);
    Ok(())
}

fn instantiate(exec: Out<Handle>, graph: Handle, flags: u64) -> Result {
    let mut state = lock()?;
    let context = state.current()?;
    if exec.is_null() || flags & !KNOWN_FLAGS != 0 {
        return Err(ERROR_INVALID_VALUE);
    }
    let made = state.instantiate(context, graph, flags)?;
    exec.set(state.graph_execs.add(made))
}

/// Takes over what the nodes of `graph` do, if it has the shape of the instantiated one. Nodes are
/// matched in order of their creation.
fn update_exec(exec: Handle, graph: Handle) -> Result<(u32, Handle)> {
    let mut state = lock()?;
    let context = state.current()?;
    let new = state.instantiate(context, graph, 0)?;
    let old = state.graph_execs.get_mut(exec)?;
    if old.nodes.len() != new.nodes.len() {
        return Ok((update::TOPOLOGY_CHANGED, 0));
    }
    let renamed: BTreeMap<Handle, Handle> = new
        .nodes
        .keys()
        .copied()
        .zip(old.nodes.keys().copied())
        .collect();
    let mut taken: Vec<(Handle, ExecNode)> = Vec::new();
    for (handle, node) in &new.nodes {
        let target = renamed[handle];
        let before = &old.nodes[&target];
        let after: BTreeMap<_, _> = node
            .after
            .iter()
            .map(|(from, data)| (renamed[from], *data))
            .collect();
        if after != before.after {
            return Ok((update::TOPOLOGY_CHANGED, *handle));
        }
        if node.op.kind() != before.op.kind() {
            return Ok((update::NODE_TYPE_CHANGED, *handle));
        }
        match (&node.op, &before.op) {
            (NodeOp::Work(Op::Kernel(new)), NodeOp::Work(Op::Kernel(old)))
                if new.launch.cooperative != old.launch.cooperative =>
            {
                return Ok((update::FUNCTION_CHANGED, *handle));
            }
            (NodeOp::Work(Op::Copy(new)), NodeOp::Work(Op::Copy(old))) => {
                // A copy keeps its kind of memory on both sides.
                let same =
                    |a: &Place, b: &Place| std::mem::discriminant(a) == std::mem::discriminant(b);
                if !same(&new.from, &old.from) || !same(&new.to, &old.to) {
                    return Ok((update::PARAMETERS_CHANGED, *handle));
                }
            }
            _ => {}
        }
        taken.push((
            target,
            ExecNode {
                after,
                enabled: before.enabled,
                op: node.op.clone(),
            },
        ));
    }
    old.nodes.extend(taken);
    Ok((update::SUCCESS, 0))
}

/// A graph with the nodes of an instantiated one, for a launch that is captured.
fn graph_of(state: &mut State, exec: Handle) -> Result<Handle> {
    let nodes = state.graph_execs.get(exec)?.nodes.clone();
    let graph = state.graphs.add(Graph {
        owned: true,
        ..Graph::default()
    });
    let renamed: BTreeMap<Handle, Handle> = nodes
        .keys()
        .map(|&old| (old, state.nodes.add(graph)))
        .collect();
    let copied = nodes.into_iter().map(|(old, node)| {
        let after = node
            .after
            .iter()
            .map(|(from, data)| (renamed[from], *data))
            .collect();
        let op = if node.enabled {
            node.op
        } else {
            NodeOp::Work(Op::Nothing)
        };
        (
            renamed[&old],
            GraphNode {
                op,
                after,
                original: None,
                shown: None,
            },
        )
    });
    state.graphs.get_mut(graph)?.nodes = copied.collect();
    Ok(graph)
}

api! {
    fn cuGraphInstantiateWithFlags(exec: Out<Handle>, graph: Handle, flags: u64) {
        instantiate(exec, graph, flags)
    }

    fn cuGraphInstantiate_v2(
        exec: Out<Handle>, graph: Handle, error_node: Out<Handle>, log: Out<c_char>, bytes: usize,
    ) {
        error_node.set_if_asked(0);
        if bytes > 0 {
            log.set_if_asked(0);
        }
        instantiate(exec, graph, 0)
    }

    fn cuGraphInstantiateWithParams(
        exec: Out<Handle>, graph: Handle, params: Out<GraphInstantiateParams>,
    ) {
        let given = In(params.0.cast_const()).get()?;
        let outcome = instantiate(exec, graph, given.flags);
        let result = u32::from(outcome.is_err()); // CUDA_GRAPH_INSTANTIATE_SUCCESS, _ERROR
        params.set(GraphInstantiateParams { error_node: 0, result, ..given })?;
        outcome
    }

    fn cuGraphUpload(exec: Handle, stream: Handle) {
        let mut state = lock()?;
        state.graph_execs.get(exec)?;
        let stream = state.stream(stream)?;
        if let Some((capture, _)) = state.streams.get(stream)?.capture {
            return Err(state.spoil(capture, ERROR_STREAM_CAPTURE_UNSUPPORTED));
        }
        Ok(())
    }

    fn cuGraphLaunch(exec: Handle, stream: Handle) {
        let mut state = lock()?;
        let stream = state.stream(stream)?;
        state.fault("launch", ERROR_LAUNCH_OUT_OF_RESOURCES)?;
        if state.is_capturing(stream)? {
            let child = graph_of(&mut state, exec)?;
            return state.record(stream, NodeOp::Child(child), false).map(|_| ());
        }
        state.launch_graph(exec, stream)
    }

    fn cuGraphExecDestroy(exec: Handle) {
        let state = lock()?;
        let last = state.graph_execs.get(exec)?.last;
        // What it launched is done first.
        let mut state = wait(state, last.as_slice())?;
        state.graph_execs.remove(exec).map(|_| ())
    }

    fn cuGraphExecGetFlags(exec: Handle, flags: Out<u64>) {
        flags.set(lock()?.graph_execs.get(exec)?.flags)
    }

    fn cuGraphExecUpdate(
        exec: Handle, graph: Handle, error_node: Out<Handle>, result: Out<u32>,
    ) {
        let (found, node) = update_exec(exec, graph)?;
        error_node.set_if_asked(node);
        result.set_if_asked(found);
        if found == update::SUCCESS { Ok(()) } else { Err(ERROR_GRAPH_EXEC_UPDATE_FAILURE) }
    }

    fn cuGraphExecUpdate_v2(
        exec: Handle, graph: Handle, info: Out<GraphExecUpdateResultInfo>,
    ) {
        let (result, error_node) = update_exec(exec, graph)?;
        info.set(GraphExecUpdateResultInfo { result, error_node, error_from_node: 0 })?;
        if result == update::SUCCESS { Ok(()) } else { Err(ERROR_GRAPH_EXEC_UPDATE_FAILURE) }
    }

    fn cuGraphExecKernelNodeSetParams(
        exec: Handle, node: Handle, params: In<KernelNodeParamsV1>,
    ) {
        let params = params.get()?;
        replace_in_exec(exec, node, |state| kernel_op(state, &params))
    }

    fn cuGraphExecKernelNodeSetParams_v2(
        exec: Handle, node: Handle, params: In<KernelNodeParams>,
    ) {
        let params = of_v2(&params.get()?);
        replace_in_exec(exec, node, |state| kernel_op(state, &params))
    }

    fn cuGraphExecMemcpyNodeSetParams(
        exec: Handle, node: Handle, params: In<Memcpy3d>, _context: Handle,
    ) {
        replace_in_exec(exec, node, |state| copy_op(state, params))
    }

    fn cuGraphExecMemsetNodeSetParams(
        exec: Handle, node: Handle, params: In<MemsetNodeParams>, _context: Handle,
    ) {
        replace_in_exec(exec, node, |_| fill_op(params))
    }

    fn cuGraphExecHostNodeSetParams(exec: Handle, node: Handle, params: In<HostNodeParams>) {
        replace_in_exec(exec, node, |_| host_op(params))
    }

    fn cuGraphExecEventRecordNodeSetEvent(exec: Handle, node: Handle, event: Handle) {
        replace_in_exec(exec, node, |state| {
            state.events.get(event)?;
            Ok(NodeOp::Record(event))
        })
    }

    fn cuGraphExecEventWaitNodeSetEvent(exec: Handle, node: Handle, event: Handle) {
        replace_in_exec(exec, node, |state| {
            state.events.get(event)?;
            Ok(NodeOp::Await(event))
        })
    }

    fn cuGraphNodeSetEnabled(exec: Handle, node: Handle, enabled: u32) {
        let mut state = lock()?;
        let found = state.graph_execs.get_mut(exec)?.nodes.get_mut(&node);
        let found = found.ok_or(ERROR_INVALID_VALUE)?;
        // launches, copies and fills only
        if found.op.kind() > 2 {
            return Err(ERROR_INVALID_VALUE);
        }
        found.enabled = enabled != 0;
        Ok(())
    }

    fn cuGraphNodeGetEnabled(exec: Handle, node: Handle, enabled: Out<u32>) {
        let state = lock()?;
        let found = state.graph_execs.get(exec)?.nodes.get(&node);
        let found = found.filter(|node| node.op.kind() <= 2).ok_or(ERROR_INVALID_VALUE)?;
        enabled.set(u32::from(found.enabled))
    }
}
