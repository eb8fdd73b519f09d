//! Graphs: nodes and edges, what a capture records, and what an instantiated graph submits.

use super::abi::{EdgeData, Handle};
use super::error::*;
use super::state::{Capture, State, capture_mode, say};
use super::work::Op;
use std::collections::BTreeMap;

/// What a node does.
#[derive(Debug, Clone)]
pub enum NodeOp {
    /// Work as a stream would do it; `Op::Nothing` is an empty node.
    Work(Op),
    /// All nodes of another graph, which this node owns.
    Child(Handle),
    /// Records an event.
    Record(Handle),
    /// Waits for what was recorded last in an event when the graph is launched.
    Await(Handle),
    /// Memory that is allocated for as long as the graph lives.
    Alloc(u64),
    /// The end of such memory's use.
    Free(u64),
}

/// A node of a graph.
#[derive(Debug, Clone)]
pub struct GraphNode {
    pub op: NodeOp,
    /// Nodes that come before, and how.
    pub after: BTreeMap<Handle, EdgeData>,
    /// The node of which this is a copy, where the graph is a clone.
    pub original: Option<Handle>,
    /// What `cuGraphKernelNodeGetParams` points to.
    pub shown: Option<Box<ShownParams>>,
}

/// Copies of a kernel's parameters, and pointers to them, that live as long as the node.
#[derive(Debug, Clone)]
pub struct ShownParams {
    /// Held for the pointers to them.
    pub _values: Vec<Vec<u64>>,
    pub pointers: Vec<usize>,
}

/// A graph.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    pub nodes: BTreeMap<Handle, GraphNode>,
    /// Child of another graph, or the target of a capture: not the program's to destroy.
    pub owned: bool,
}

/// A node of an instantiated graph.
#[derive(Debug, Clone)]
pub struct ExecNode {
    pub op: NodeOp,
    pub after: BTreeMap<Handle, EdgeData>,
    pub enabled: bool,
}

/// An instantiated graph: all nodes, those of children included, by the handles they have in the
/// graph they came from.
#[derive(Debug, Clone)]
pub struct GraphExec {
    pub context: Handle,
    pub flags: u64,
    pub nodes: BTreeMap<Handle, ExecNode>,
    /// An order in which every node comes after what it depends on.
    pub order: Vec<Handle>,
    /// The last launch: a graph never runs beside itself.
    pub last: Option<u64>,
}

impl EdgeData {
    /// The edge that programmatic dependent launch makes between two launches.
    pub const PROGRAMMATIC: EdgeData = EdgeData {
        from_port: 1,
        to_port: 0,
        kind: 1,
        reserved: [0; 5],
    };
}

impl NodeOp {
    /// `CUgraphNodeType`
    pub fn kind(&self) -> u32 {
        match self {
            NodeOp::Work(Op::Kernel(_)) => 0,
            NodeOp::Work(Op::Copy(_)) => 1,
            NodeOp::Work(Op::Fill(_)) => 2,
            NodeOp::Work(Op::Host(_) | Op::Callback { .. }) => 3,
            NodeOp::Child(_) => 4,
            NodeOp::Work(Op::Nothing | Op::Record(_) | Op::Free(_)) => 5,
            NodeOp::Await(_) => 6,
            NodeOp::Record(_) => 7,
            NodeOp::Alloc(_) => 10,
            NodeOp::Free(_) => 11,
        }
    }

    fn is_kernel(&self) -> bool {
        matches!(self, NodeOp::Work(Op::Kernel(_)))
    }
}

/// Sorts nodes so that each comes after what it depends on; those that are free to be in any
/// order keep that of their creation.
fn sorted<'a>(
    edges: impl Iterator<Item = (Handle, &'a BTreeMap<Handle, EdgeData>)>,
) -> Result<Vec<Handle>> {
    let mut left: BTreeMap<Handle, usize> = BTreeMap::new();
    let mut dependents: BTreeMap<Handle, Vec<Handle>> = BTreeMap::new();
    for (node, after) in edges {
        left.insert(node, after.len());
        for &before in after.keys() {
            dependents.entry(before).or_default().push(node);
        }
    }
    let mut order = Vec::with_capacity(left.len());
    let mut free: std::collections::BTreeSet<Handle> = left
        .iter()
        .filter(|(_, count)| **count == 0)
        .map(|(&node, _)| node)
        .collect();
    while let Some(node) = free.pop_first() {
        order.push(node);
        for next in dependents.remove(&node).unwrap_or_default() {
            if let Some(count) = left.get_mut(&next) {
                *count -= 1;
                if *count == 0 {
                    free.insert(next);
                }
            }
        }
    }
    // a circle never becomes free
    if order.len() == left.len() {
        Ok(order)
    } else {
        Err(ERROR_INVALID_VALUE)
    }
}

/// Checks an edge from a node to one that does `op`: programmatic edges lead from launch to launch,
/// and from one of the ports for them; other kinds and ports are unknown.
pub fn check_edge(
    nodes: &BTreeMap<Handle, GraphNode>,
    from: Handle,
    op: &NodeOp,
    edge: &EdgeData,
) -> Result {
    let from = nodes.get(&from).ok_or(ERROR_INVALID_VALUE)?;
    let programmatic = |from_port| EdgeData {
        from_port,
        ..EdgeData::PROGRAMMATIC
    };
    let between_launches = from.op.is_kernel() && op.is_kernel();
    let known = *edge == EdgeData::default()
        || between_launches && (1..=2).any(|port| *edge == programmatic(port));
    if known {
        Ok(())
    } else {
        Err(ERROR_INVALID_VALUE)
    }
}

impl State {
    /// Adds a node to a graph.
    pub fn add_node(
        &mut self,
        graph: Handle,
        op: NodeOp,
        after: impl IntoIterator<Item = (Handle, EdgeData)>,
    ) -> Result<Handle> {
        let after: BTreeMap<_, _> = after.into_iter().collect();
        let nodes = &self.graphs.get(graph)?.nodes;
        for (before, edge) in &after {
            check_edge(nodes, *before, &op, edge)?;
        }
        let node = self.nodes.add(graph);
        let new = GraphNode {
            op,
            after,
            original: None,
            shown: None,
        };
        self.graphs.get_mut(graph)?.nodes.insert(node, new);
        Ok(node)
    }

    /// A node and the graph it belongs to.
    pub fn node(&mut self, node: Handle) -> Result<&mut GraphNode> {
        let graph = *self.nodes.get(node)?;
        self.graphs
            .get_mut(graph)?
            .nodes
            .get_mut(&node)
            .ok_or(ERROR_INVALID_HANDLE)
    }

    /// A copy of a graph with nodes of its own.
    pub fn clone_graph(&mut self, graph: Handle) -> Result<Handle> {
        let from = self.graphs.get(graph)?.nodes.clone();
        let to = self.graphs.add(Graph::default());
        let mut renamed = BTreeMap::new();
        for &node in from.keys() {
            renamed.insert(node, self.nodes.add(to));
        }
        let mut nodes = BTreeMap::new();
        for (old, mut node) in from {
            node.after = node
                .after
                .iter()
                .map(|(from, edge)| (renamed[from], *edge))
                .collect();
            node.original = Some(old);
            node.shown = None;
            if let NodeOp::Child(child) = node.op {
                let child = self.clone_graph(child)?;
                self.graphs.get_mut(child)?.owned = true;
                node.op = NodeOp::Child(child);
            }
            nodes.insert(renamed[&old], node);
        }
        self.graphs.get_mut(to)?.nodes = nodes;
        Ok(to)
    }

    /// Destroys a graph, its nodes and its children.
    pub fn destroy_graph(&mut self, graph: Handle) -> Result {
        let gone = self.graphs.remove(graph)?;
        for (handle, node) in gone.nodes {
            self.nodes.remove(handle)?;
            if let NodeOp::Child(child) = node.op {
                self.destroy_graph(child)?;
            }
        }
        Ok(())
    }

    /// Adds the nodes of a graph and of its children; nodes that wait for no other wait for
    /// `entry`.
    fn flatten(
        &self,
        graph: Handle,
        entry: &BTreeMap<Handle, EdgeData>,
        into: &mut BTreeMap<Handle, ExecNode>,
    ) -> Result {
        for (&handle, node) in &self.graphs.get(graph)?.nodes {
            let after = if node.after.is_empty() {
                entry
            } else {
                &node.after
            };
            let mut exec = ExecNode {
                op: node.op.clone(),
                after: after.clone(),
                enabled: true,
            };
            if let NodeOp::Child(child) = node.op {
                // What comes after the child waits for a node without work, and that one for the
                // child's last nodes.
                self.flatten(child, after, into)?;
                let nodes = &self.graphs.get(child)?.nodes;
                let mut last: BTreeMap<_, _> = nodes
                    .keys()
                    .map(|&node| (node, EdgeData::default()))
                    .collect();
                for before in nodes.values().flat_map(|node| node.after.keys()) {
                    last.remove(before);
                }
                exec.op = NodeOp::Work(Op::Nothing);
                exec.after.extend(last);
            }
            into.insert(handle, exec);
        }
        Ok(())
    }

    /// Instantiates a graph.
    pub fn instantiate(&mut self, context: Handle, graph: Handle, flags: u64) -> Result<GraphExec> {
        let mut nodes = BTreeMap::new();
        self.flatten(graph, &BTreeMap::new(), &mut nodes)?;
        let order = sorted(nodes.iter().map(|(&node, exec)| (node, &exec.after)))?;
        Ok(GraphExec {
            context,
            flags,
            nodes,
            order,
            last: None,
        })
    }

    /// Submits all nodes of an instantiated graph to a stream that is not capturing.
    pub fn launch_graph(&mut self, exec: Handle, stream: Handle) -> Result {
        self.implicit(stream)?;
        let graph = self.graph_execs.get(exec)?.clone();
        for node in graph.nodes.values() {
            // What it uses must still be there.
            match &node.op {
                NodeOp::Work(Op::Kernel(work)) => self.functions.get(work.function).map(|_| ())?,
                NodeOp::Record(event) | NodeOp::Await(event) => {
                    self.events.get(*event).map(|_| ())?;
                }
                _ => {}
            }
        }
        let mut before = self.before(stream)?;
        before.extend(graph.last);
        let mut ids: BTreeMap<Handle, u64> = BTreeMap::new();
        let mut last: BTreeMap<Handle, u64> = BTreeMap::new();
        for handle in &graph.order {
            let node = &graph.nodes[handle];
            let mut after: Vec<u64> = Vec::new();
            let mut overlaps = None;
            for (from, edge) in &node.after {
                // One launch at most can be overlapped; other programmatic edges are full.
                if edge.kind == 1 && overlaps.is_none() {
                    overlaps = Some(ids[from]);
                } else {
                    after.push(ids[from]);
                }
                last.remove(from);
            }
            if node.after.is_empty() {
                after.extend(&before);
            }
            let mut records = None;
            let op = match &node.op {
                NodeOp::Work(op) if node.enabled => op.clone(),
                NodeOp::Record(event) if node.enabled => {
                    records = Some(*event);
                    Op::Record(*event)
                }
                NodeOp::Await(event) => {
                    after.extend(self.events.get(*event)?.pending);
                    Op::Nothing
                }
                _ => Op::Nothing,
            };
            let id = self.submit_node(graph.context, op, &after, overlaps);
            if let Some(event) = records {
                let event = self.events.get_mut(event)?;
                (event.pending, event.reached, event.captured) = (Some(id), None, None);
            }
            ids.insert(*handle, id);
            last.insert(*handle, id);
        }
        let ends: Vec<u64> = if last.is_empty() {
            before
        } else {
            last.into_values().collect()
        };
        let end = self.submit_node(graph.context, Op::Nothing, &ends, None);
        self.streams.get_mut(stream)?.tail = vec![end];
        self.graph_execs.get_mut(exec)?.last = Some(end);
        self.report.process.graph_launches += 1;
        Ok(())
    }
}

/// Captures: what they record, and what may not be called while one goes on.
impl State {
    /// Whether a stream takes part in a capture; an error if that capture was spoiled.
    pub fn is_capturing(&self, stream: Handle) -> Result<bool> {
        let Some((capture, _)) = &self.streams.get(stream)?.capture else {
            return Ok(false);
        };
        if self.captures.get(*capture)?.invalid {
            return Err(ERROR_STREAM_CAPTURE_INVALIDATED);
        }
        Ok(true)
    }

    /// Spoils a capture; gives the code that says why.
    pub fn spoil(&mut self, capture: Handle, code: CUresult) -> CUresult {
        if let Ok(capture) = self.captures.get_mut(capture) {
            capture.invalid = true;
        }
        code
    }

    /// Records a node in the capture of `stream`, which becomes what the next one comes after.
    pub fn record(&mut self, stream: Handle, op: NodeOp, programmatic: bool) -> Result<Handle> {
        let (capture, tail) = self
            .streams
            .get(stream)?
            .capture
            .clone()
            .ok_or(ERROR_ILLEGAL_STATE)?;
        let graph = self.captures.get(capture)?.graph;
        let mut edge = EdgeData::default();
        if programmatic
            && op.is_kernel()
            && let [only] = tail[..]
            && self.node(only)?.op.is_kernel()
        {
            edge = EdgeData::PROGRAMMATIC;
        }
        let node = self.add_node(graph, op, tail.into_iter().map(|before| (before, edge)))?;
        self.streams.get_mut(stream)?.capture = Some((capture, vec![node]));
        Ok(node)
    }

    /// Gives work to a stream: to the device, or to the capture the stream takes part in. Gives
    /// the number of the work where the device got it.
    pub fn enqueue(&mut self, stream: Handle, op: Op, programmatic: bool) -> Result<Option<u64>> {
        if self.is_capturing(stream)? {
            self.record(stream, NodeOp::Work(op), programmatic)?;
            return Ok(None);
        }
        self.submit(stream, op, programmatic).map(Some)
    }

    /// Work in the legacy stream depends on all blocking streams of its context: it is refused
    /// while one of them is capturing, and spoils that capture.
    pub fn implicit(&mut self, stream: Handle) -> Result {
        let capturing = self.implicitly_capturing(stream)?;
        match capturing[..] {
            [] => Ok(()),
            [..] => {
                for capture in capturing {
                    self.spoil(capture, ERROR_STREAM_CAPTURE_IMPLICIT);
                }
                Err(ERROR_STREAM_CAPTURE_IMPLICIT)
            }
        }
    }

    /// Captures of the streams that `stream` waits for where it is the legacy one.
    pub fn implicitly_capturing(&self, stream: Handle) -> Result<Vec<Handle>> {
        let context = self.streams.get(stream)?.context;
        if stream != self.contexts.get(context)?.legacy {
            return Ok(Vec::new());
        }
        let blocking = self
            .streams
            .iter()
            .filter(|(_, other)| other.context == context && other.flags & 1 == 0);
        Ok(blocking
            .filter_map(|(_, other)| other.capture.as_ref().map(|(capture, _)| *capture))
            .collect())
    }

    /// What every call does that a real driver holds unsafe while a capture goes on (allocation,
    /// synchronous copies, queries, loading of modules): refused, as the modes of the captures
    /// and of the thread say, and the captures are spoiled.
    pub fn not_while_capturing(&mut self, call: &str) -> Result {
        const GLOBAL: u32 = 0;
        const RELAXED: u32 = 2;
        let mode = capture_mode(None);
        if mode == RELAXED {
            return Ok(());
        }
        let thread = std::thread::current().id();
        let forbids = |capture: &Capture| {
            (capture.thread == thread && capture.mode != RELAXED)
                || (mode == GLOBAL && capture.mode == GLOBAL)
        };
        let mut forbidden = false;
        for (_, capture) in self.captures.iter_mut() {
            if forbids(capture) {
                capture.invalid = true;
                forbidden = true;
            }
        }
        if forbidden {
            say!("{call} is not permitted while a stream is capturing; the capture is spoiled");
            return Err(ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
        Ok(())
    }

    /// What waits for, or asks for the state of, all work of a context: never possible while one
    /// of its streams is capturing.
    pub fn no_capture_in(&mut self, context: Handle) -> Result {
        let capturing: Vec<Handle> = self
            .streams
            .iter()
            .filter(|(_, stream)| stream.context == context)
            .filter_map(|(_, stream)| stream.capture.as_ref().map(|(capture, _)| *capture))
            .collect();
        match capturing[..] {
            [] => Ok(()),
            [..] => {
                for capture in capturing {
                    self.spoil(capture, ERROR_STREAM_CAPTURE_UNSUPPORTED);
                }
                Err(ERROR_STREAM_CAPTURE_UNSUPPORTED)
            }
        }
    }

    /// Nodes that come before `nodes`, and they themselves.
    pub fn ancestors(&self, graph: Handle, nodes: &[Handle]) -> Result<Vec<Handle>> {
        let graph = self.graphs.get(graph)?;
        let mut found = std::collections::BTreeSet::new();
        let mut open = nodes.to_vec();
        while let Some(node) = open.pop() {
            if found.insert(node)
                && let Some(node) = graph.nodes.get(&node)
            {
                open.extend(node.after.keys());
            }
        }
        Ok(found.into_iter().collect())
    }

    /// Ends the capture that began in `stream`; gives the graph.
    pub fn end_capture(&mut self, stream: Handle) -> Result<Handle> {
        let (handle, tail) = self
            .streams
            .get(stream)?
            .capture
            .clone()
            .ok_or(ERROR_ILLEGAL_STATE)?;
        let capture = self.captures.get(handle)?;
        if capture.origin != stream {
            return Err(self.spoil(handle, ERROR_STREAM_CAPTURE_UNMATCHED));
        }
        if capture.mode != 2 && capture.thread != std::thread::current().id() {
            return Err(ERROR_STREAM_CAPTURE_WRONG_THREAD);
        }
        let (graph, into_graph) = (capture.graph, capture.into_graph);
        let mut outcome = if capture.invalid {
            Err(ERROR_STREAM_CAPTURE_INVALIDATED)
        } else {
            Ok(graph)
        };
        let joined = self.ancestors(graph, &tail)?;
        for (_, other) in self.streams.iter_mut() {
            if let Some((capture, tail)) = &other.capture
                && *capture == handle
            {
                if tail.iter().any(|node| !joined.contains(node)) && outcome.is_ok() {
                    outcome = Err(ERROR_STREAM_CAPTURE_UNJOINED);
                }
                other.capture = None;
            }
        }
        self.captures.remove(handle)?;
        // a graph that the capture began belongs to the program now; one that it went on is left
        if outcome.is_err() && !into_graph {
            self.destroy_graph(graph)?;
        } else if !into_graph {
            self.graphs.get_mut(graph)?.owned = false;
        }
        outcome
    }
}
