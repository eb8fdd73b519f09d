//! Work that was given to the device, and the order in which it is done.
//!
//! Every piece of work waits for the pieces it depends on: the one before it in its stream, events,
//! the legacy stream. Nothing is done when it is submitted. Work is done when a call has to wait
//! for it, by the thread that waits; a thread of the device does the rest once the program has
//! made no call for some time (it may be polling memory). Of what is free to go, the seed chooses;
//! without a seed, only what is waited for is done, in order of submission. So a program that
//! forgets to wait finds old data, and the launches that may overlap are known before they run.

use super::abi::{Handle, HostFn};
use super::error::*;
use super::state::{Driver, Guard, State, driver, in_callback, say};
use crate::counts::Counts;
use crate::exec::{self, Launch, Overlap, Transfer, Violation};
use crate::memory::{Memory, MemoryError};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::c_void;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// The program is idle when it has made no call for this long.
const IDLE: Duration = Duration::from_millis(2);
/// Work that waits for longer is begun although the program keeps calling.
const LONG: Duration = Duration::from_millis(200);

/// One end of a copy.
#[derive(Debug, Clone, PartialEq)]
pub enum Place {
    /// An address of the device, or of host memory that it can reach.
    Device(u64),
    /// An address of the host, read or written when the copy is done.
    Host(usize),
    /// Pageable memory as it was when the copy was submitted: a real driver stages it.
    Staged(Arc<[u8]>),
}

/// A copy of `depth` slices of `height` rows of `width` bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Copy {
    pub from: Place,
    pub to: Place,
    /// Bytes from a row to the next, and from a slice to the next.
    pub from_pitch: [usize; 2],
    pub to_pitch: [usize; 2],
    pub width: usize,
    pub height: usize,
    pub depth: usize,
}

/// A fill of `height` rows of `width` elements.
#[derive(Debug, Clone, PartialEq)]
pub struct Fill {
    pub to: u64,
    pub pitch: usize,
    pub value: u32,
    pub element_bytes: usize,
    pub width: usize,
    pub height: usize,
}

/// A function of the program to be called in order with the work of a stream.
#[derive(Debug, Clone)]
pub struct HostCall {
    pub function: HostFn,
    pub data: usize,
}

/// A launch, and the function it was made with.
#[derive(Debug)]
pub struct KernelWork {
    pub function: Handle,
    pub launch: Launch,
}

/// A piece of work.
#[derive(Debug, Clone)]
pub enum Op {
    Kernel(Arc<KernelWork>),
    Copy(Copy),
    Fill(Fill),
    Host(HostCall),
    /// `cuStreamAddCallback`, which is told the stream and the state of the context.
    Callback {
        function: super::abi::StreamCallback,
        stream: Handle,
        data: usize,
    },
    /// Reaches an event.
    Record(Handle),
    /// `cuMemFreeAsync`
    Free(u64),
    /// Joins what it depends on.
    Nothing,
}

#[derive(Debug)]
struct Node {
    context: Handle,
    op: Op,
    after: Vec<u64>,
    /// A launch that may overlap this one: programmatic dependent launch.
    overlaps: Option<u64>,
    waits: usize,
    dependents: Vec<u64>,
    running: bool,
    submitted: Instant,
    /// For a launch: copies and fills already done that nothing orders with it.
    transfers: Vec<Transfer>,
}

/// All work that is not done.
#[derive(Debug, Default)]
pub struct Queue {
    next: u64,
    nodes: BTreeMap<u64, Node>,
    ready: BTreeSet<u64>,
    /// Somebody does work on the device; one at a time does.
    busy: bool,
    steps: u64,
}

impl Copy {
    /// A copy of `bytes` bytes in a row.
    pub fn linear(from: Place, to: Place, bytes: usize) -> Copy {
        Copy {
            from,
            to,
            from_pitch: [0; 2],
            to_pitch: [0; 2],
            width: bytes,
            height: 1,
            depth: 1,
        }
    }

    fn bytes(&self) -> u64 {
        (self.width * self.height * self.depth) as u64
    }

    fn direction(&self) -> &'static str {
        match (&self.from, &self.to) {
            (Place::Device(_), Place::Device(_)) => "device_to_device",
            (Place::Device(_), _) => "device_to_host",
            (_, Place::Device(_)) => "host_to_device",
            _ => "host_to_host",
        }
    }

    /// Copies; gives the first address that was copied to the host although nothing wrote it.
    fn run(&self, memory: &Memory) -> Result<Option<u64>, MemoryError> {
        let mut unwritten = None;
        // rows without gaps between them are one
        let linear = |pitch: [usize; 2]| {
            (self.height == 1 || pitch[0] == self.width)
                && (self.depth == 1 || pitch[1] == self.width * self.height)
        };
        let whole = linear(self.from_pitch) && linear(self.to_pitch);
        let (width, height, depth) = if whole {
            (self.width * self.height * self.depth, 1, 1)
        } else {
            (self.width, self.height, self.depth)
        };
        for (slice, row) in (0..depth).flat_map(|z| (0..height).map(move |y| (z, y))) {
            let from = row * self.from_pitch[0] + slice * self.from_pitch[1];
            let to = row * self.to_pitch[0] + slice * self.to_pitch[1];
            if let (&Place::Device(source), &Place::Device(target)) = (&self.from, &self.to) {
                memory.copy(target + to as u64, source + from as u64, width as u64)?;
                continue;
            }
            let mut bounce = Vec::new();
            let data: &[u8] = match &self.from {
                Place::Device(source) => {
                    let source = source + from as u64;
                    bounce.resize(width, 0);
                    memory.read(source, &mut bounce)?;
                    unwritten = unwritten.or(memory.uninitialised(source, width as u64)?);
                    &bounce
                }
                // SAFETY: the program vouches for the source of a copy until the copy is done.
                Place::Host(source) => unsafe {
                    std::slice::from_raw_parts((source + from) as *const u8, width)
                },
                Place::Staged(bytes) => &bytes[from..from + width],
            };
            match &self.to {
                Place::Device(target) => memory.write(target + to as u64, data)?,
                // SAFETY: the program vouches for the target of a copy until the copy is done.
                Place::Host(target) => unsafe {
                    std::ptr::copy(data.as_ptr(), (target + to) as *mut u8, width);
                },
                Place::Staged(_) => {}
            }
        }
        Ok(unwritten)
    }
}

impl Op {
    /// What a copy or a fill touches of memory that kernels can reach, row by row.
    fn transfers(&self) -> Vec<Transfer> {
        let mut transfers = Vec::new();
        match self {
            Op::Copy(copy) => {
                let ends = [
                    (&copy.from, copy.from_pitch, false),
                    (&copy.to, copy.to_pitch, true),
                ];
                for (place, pitch, writes) in ends {
                    // host memory counts where kernels can reach it: its addresses are their own
                    let address = match place {
                        Place::Device(address) => *address,
                        Place::Host(address) => *address as u64,
                        Place::Staged(_) => continue,
                    };
                    let rows = (0..copy.depth).flat_map(|z| (0..copy.height).map(move |y| (z, y)));
                    transfers.extend(rows.map(|(z, y)| Transfer {
                        address: address + (z * pitch[1] + y * pitch[0]) as u64,
                        bytes: copy.width as u64,
                        writes,
                        fill: false,
                    }));
                }
            }
            Op::Fill(fill) => transfers.extend((0..fill.height).map(|row| Transfer {
                address: fill.to + (row * fill.pitch) as u64,
                bytes: (fill.width * fill.element_bytes) as u64,
                writes: true,
                fill: true,
            })),
            _ => {}
        }
        transfers
    }
}

impl Fill {
    fn run(&self, memory: &Memory) -> Result<(), MemoryError> {
        for row in 0..self.height {
            let to = self.to + (row * self.pitch) as u64;
            memory.fill(to, self.value, self.element_bytes, self.width as u64)?;
        }
        Ok(())
    }
}

impl Queue {
    /// Adds work that waits for what is still pending of `after`, and for `overlaps` to begin.
    fn add(&mut self, context: Handle, op: Op, after: &[u64], overlaps: Option<u64>) -> u64 {
        self.next += 1;
        let id = self.next;
        let mut waits = 0;
        let mut pending = Vec::new();
        let overlaps = overlaps.filter(|before| self.nodes.contains_key(before));
        for before in after
            .iter()
            .copied()
            .filter(|&a| Some(a) != overlaps)
            .chain(overlaps)
        {
            if pending.contains(&before) {
                continue;
            }
            if let Some(node) = self.nodes.get_mut(&before) {
                node.dependents.push(id);
                waits += 1;
                pending.push(before);
            }
        }
        if waits == 0 {
            self.ready.insert(id);
        }
        let node = Node {
            context,
            op,
            after: pending,
            overlaps,
            waits,
            dependents: Vec::new(),
            running: false,
            submitted: Instant::now(),
            transfers: Vec::new(),
        };
        self.nodes.insert(id, node);
        id
    }

    /// Whether work is not done.
    pub fn is_pending(&self, id: u64) -> bool {
        self.nodes.contains_key(&id)
    }

    /// Whether work is a launch that is not done.
    pub fn is_kernel(&self, id: u64) -> bool {
        self.nodes
            .get(&id)
            .is_some_and(|node| matches!(node.op, Op::Kernel(_)))
    }

    /// All work that is not done.
    pub fn all(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    /// All work of a context that is not done.
    pub fn of_context(&self, context: Handle) -> Vec<u64> {
        let of = |(&id, node): (&u64, &Node)| (node.context == context).then_some(id);
        self.nodes.iter().filter_map(of).collect()
    }

    fn done(&mut self, id: u64) {
        self.ready.remove(&id);
        let Some(node) = self.nodes.remove(&id) else {
            return;
        };
        for dependent in node.dependents {
            if let Some(next) = self.nodes.get_mut(&dependent) {
                next.waits -= 1;
                if next.waits == 0 {
                    self.ready.insert(dependent);
                }
            }
        }
    }

    /// All that waits for `id`, and itself.
    fn descendants(&self, id: u64) -> BTreeSet<u64> {
        let mut found = BTreeSet::new();
        let mut open = vec![id];
        while let Some(id) = open.pop() {
            if found.insert(id)
                && let Some(node) = self.nodes.get(&id)
            {
                open.extend(&node.dependents);
            }
        }
        found
    }

    /// A copy or a fill begins: launches that do not wait for it, and for which it did not wait
    /// (else they were done), may run at the same time.
    fn tell_launches(&mut self, id: u64) {
        let transfers = self.nodes[&id].op.transfers();
        if transfers.is_empty() || !self.nodes.keys().any(|&other| self.is_kernel(other)) {
            return;
        }
        let later = self.descendants(id);
        for (other, node) in &mut self.nodes {
            if matches!(node.op, Op::Kernel(_)) && !later.contains(other) {
                for transfer in &transfers {
                    if !node.transfers.contains(transfer) {
                        node.transfers.push(*transfer);
                    }
                }
            }
        }
    }

    /// Copies and fills that nothing orders with the launch `id`, which begins.
    fn transfers_beside(&self, id: u64) -> Vec<Transfer> {
        let mut transfers = self.nodes[&id].transfers.clone();
        let moves = |node: &Node| matches!(node.op, Op::Copy(_) | Op::Fill(_));
        if self.nodes.values().any(moves) {
            let later = self.descendants(id);
            for (other, node) in &self.nodes {
                if moves(node) && !later.contains(other) {
                    transfers.extend(node.op.transfers());
                }
            }
        }
        transfers
    }

    /// `targets` and all that they wait for.
    fn ancestors(&self, targets: &[u64]) -> BTreeSet<u64> {
        let mut found = BTreeSet::new();
        let mut open = targets.to_vec();
        while let Some(id) = open.pop() {
            if let Some(node) = self.nodes.get(&id)
                && found.insert(id)
            {
                open.extend(&node.after);
            }
        }
        found
    }

    /// What is done next: one piece of work, or launches that may overlap, each with what it may
    /// overlap.
    fn choose(&mut self, wanted: Option<&BTreeSet<u64>>, seed: u64) -> Vec<(u64, Beside)> {
        let is_wanted = |id: &u64| wanted.is_none_or(|wanted| wanted.contains(id));
        let may_go = |id: &&u64| {
            // a host function may wait for anything the program does: it runs when it must
            let lazy = seed == 0 || matches!(self.nodes[id].op, Op::Host(_) | Op::Callback { .. });
            !lazy || is_wanted(id)
        };
        let free: Vec<u64> = self.ready.iter().filter(may_go).copied().collect();
        if free.is_empty() {
            return Vec::new();
        }
        self.steps += 1;
        let first = match seed {
            0 => free[0],
            _ => free[(mix(seed ^ self.steps) % free.len() as u64) as usize],
        };
        let mut chosen = vec![(first, Beside::Nothing)];
        let cooperative = |id: u64| match &self.nodes[&id].op {
            Op::Kernel(work) => work.launch.cooperative,
            _ => true,
        };
        if !self.is_kernel(first) {
            return chosen;
        }
        // the chain of programmatic successors whose other dependencies are done
        let mut last = first;
        while let Some(&next) = self.nodes[&last].dependents.iter().find(|&next| {
            let node = &self.nodes[next];
            node.overlaps == Some(last) && node.waits == 1 && !node.running
        }) {
            chosen.push((next, Beside::Predecessor));
            last = next;
        }
        // Launches of other streams that nothing orders: all that are free, whether wanted or
        // not. A cooperative grid needs the device for itself.
        if !cooperative(first) {
            for &id in &self.ready {
                // a seed leaves some for later, so that they meet other launches, too
                let now = seed == 0 || mix(seed ^ mix(self.steps ^ id)) & 3 != 0;
                if id != first && now && self.is_kernel(id) && !cooperative(id) {
                    chosen.push((id, Beside::Everything));
                }
            }
        }
        chosen
    }
}

/// What a launch may overlap.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Beside {
    Nothing,
    Predecessor,
    Everything,
}

/// SplitMix64's output function: a seed's stream of choices.
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl State {
    /// What is still pending of a stream's last work.
    pub fn tail(&self, stream: Handle) -> Result<Vec<u64>> {
        let tail = &self.streams.get(stream)?.tail;
        Ok(tail
            .iter()
            .copied()
            .filter(|&id| self.queue.is_pending(id))
            .collect())
    }

    /// What the next work of `stream` waits for: its own last work, and between the legacy
    /// stream and the blocking streams of its context each other's.
    pub fn before(&self, stream: Handle) -> Result<Vec<u64>> {
        let this = self.streams.get(stream)?;
        let mut before = self.tail(stream)?;
        let legacy = self.contexts.get(this.context)?.legacy;
        if stream == legacy {
            for (handle, other) in self.streams.iter() {
                if other.context == this.context && other.flags & 1 == 0 && handle != stream {
                    before.extend(self.tail(handle)?);
                }
            }
        } else if this.flags & 1 == 0 {
            before.extend(self.tail(legacy)?);
        }
        Ok(before)
    }

    /// Submits work to a stream that is not capturing.
    pub fn submit(&mut self, stream: Handle, op: Op, programmatic: bool) -> Result<u64> {
        self.implicit(stream)?;
        let before = self.before(stream)?;
        // Of what the stream waits for, a launch can only be its own last work: events and graphs
        // end in work of other kinds.
        let own = self
            .tail(stream)?
            .into_iter()
            .find(|&id| self.queue.is_kernel(id));
        let overlaps = own.filter(|_| programmatic);
        let context = self.streams.get(stream)?.context;
        let id = self.submit_node(context, op, &before, overlaps);
        self.streams.get_mut(stream)?.tail = vec![id];
        Ok(id)
    }

    /// Submits work whose dependencies are given: a node of a graph.
    pub fn submit_node(
        &mut self,
        context: Handle,
        op: Op,
        after: &[u64],
        overlaps: Option<u64>,
    ) -> u64 {
        let was_idle = self.queue.ready.is_empty();
        let id = self.queue.add(context, op, after, overlaps);
        if was_idle && let Ok(driver) = driver() {
            driver.changed.notify_all();
        }
        id
    }

    /// A launch or a copy failed: the context is broken, and what waits in it is never done.
    fn fail(&mut self, context: Handle, code: CUresult, message: String) {
        say!("{message}");
        if let Some((name, text)) = describe(code) {
            let (name, text) = (name.to_string_lossy(), text.to_string_lossy());
            say!("the context returns {name} ({code}, {text}) from now on");
        }
        self.report.process.violations.push(message);
        if let Ok(context) = self.contexts.get_mut(context) {
            context.broken.get_or_insert(code);
        }
        for id in self.queue.of_context(context) {
            if !self.queue.nodes[&id].running {
                self.queue.done(id);
            }
        }
    }

    fn copied(&mut self, copy: &Copy, unwritten: Option<u64>) {
        let copies = &mut self.report.process.copies;
        let transfers = copies.entry(copy.direction().to_owned()).or_default();
        transfers.count += 1;
        transfers.bytes += copy.bytes();
        if let Some(address) = unwritten {
            self.report.process.uninitialised_copies += 1;
            say!("a copy to the host reads {address:#x}, which nothing has written");
        }
    }
}

enum Outcome {
    Launched(Result<Vec<Counts>, Box<Violation>>),
    Copied(Result<Option<u64>, MemoryError>),
    Filled(Result<(), MemoryError>),
    Freed(Result<(), MemoryError>),
}

/// Does one step of what is free to go: of what `wanted` holds, or of all. False where nothing is
/// free.
fn step(
    mut state: Guard,
    driver: &'static Driver,
    wanted: Option<&BTreeSet<u64>>,
) -> (Guard, bool) {
    let seed = driver.settings.options.seed;
    let chosen = state.queue.choose(wanted, seed);
    let Some(&(first, _)) = chosen.first() else {
        return (state, false);
    };
    for (id, _) in &chosen {
        state.queue.ready.remove(id);
        if let Some(node) = state.queue.nodes.get_mut(id) {
            node.running = true;
        }
    }
    let mut context = state.queue.nodes[&first].context;
    let op = state.queue.nodes[&first].op.clone();
    let outcome: Box<dyn FnOnce() -> Outcome> = match op.clone() {
        Op::Nothing => {
            state.queue.done(first);
            return (state, true);
        }
        Op::Record(event) => {
            // an event may be destroyed before its record is done
            if let Some(event) = state.events.peek(event)
                && event.pending == Some(first)
            {
                event.pending = None;
                event.reached = Some(Instant::now());
            }
            state.queue.done(first);
            return (state, true);
        }
        Op::Host(call) => {
            let run = move || {
                if let Some(function) = call.function {
                    // SAFETY: the program gave the function and vouches for its argument.
                    unsafe { function(call.data as *mut c_void) };
                }
            };
            in_thread(driver, first, run);
            return (state, true);
        }
        Op::Callback {
            function,
            stream,
            data,
        } => {
            let run = move || {
                if let Some(function) = function {
                    // SAFETY: the program gave the function and vouches for its argument.
                    unsafe { function(stream, SUCCESS, data as *mut c_void) };
                }
            };
            in_thread(driver, first, run);
            return (state, true);
        }
        Op::Copy(copy) => {
            state.queue.tell_launches(first);
            Box::new(move || Outcome::Copied(copy.run(&driver.memory)))
        }
        Op::Fill(fill) => {
            state.queue.tell_launches(first);
            Box::new(move || Outcome::Filled(fill.run(&driver.memory)))
        }
        Op::Free(address) => Box::new(move || Outcome::Freed(driver.memory.free(address))),
        Op::Kernel(_) => {
            let launch = |&(id, beside): &(u64, Beside)| match &state.queue.nodes[&id].op {
                Op::Kernel(work) => Some(Launch {
                    programmatic: beside == Beside::Predecessor,
                    concurrent: beside == Beside::Everything,
                    transfers: state.queue.transfers_beside(id),
                    ..work.launch.clone()
                }),
                _ => None,
            };
            let grids: Vec<Launch> = chosen.iter().filter_map(launch).collect();
            let mut options = driver.settings.options.clone();
            if seed != 0 {
                // Every set of launches has an order of its own, and overlaps in its own way.
                options.seed = mix(seed ^ mix(state.queue.steps));
                let ways = [Overlap::Early, Overlap::Interleaved, Overlap::Late];
                let varied = ways[(options.seed >> 32) as usize % ways.len()];
                options.overlap = driver.settings.overlap.unwrap_or(varied);
            }
            let model = driver.settings.model;
            Box::new(move || {
                Outcome::Launched(exec::launch(&driver.memory, model, &options, &grids))
            })
        }
    };

    state.queue.busy = true;
    drop(state);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(outcome));
    let mut state = driver.lock();
    state.queue.busy = false;
    let fault =
        |what: &str, error: MemoryError| Some((ERROR_ILLEGAL_ADDRESS, format!("{what}: {error}")));
    let failure = match outcome {
        Ok(Outcome::Launched(Ok(counts))) => {
            let keep = driver.settings.report.is_some();
            for count in counts {
                state.report.add(count, keep);
            }
            None
        }
        Ok(Outcome::Launched(Err(violation))) => {
            if let Some(node) = chosen
                .get(violation.grid)
                .and_then(|(id, _)| state.queue.nodes.get(id))
            {
                context = node.context;
            }
            Some((violation.code, violation.to_string()))
        }
        Ok(Outcome::Copied(Ok(unwritten))) => {
            if let Op::Copy(copy) = &op {
                state.copied(copy, unwritten);
            }
            None
        }
        Ok(Outcome::Filled(Ok(()))) => {
            if let Op::Fill(fill) = &op {
                let fills = &mut state.report.process.fills;
                fills.count += 1;
                fills.bytes += (fill.width * fill.height * fill.element_bytes) as u64;
            }
            None
        }
        Ok(Outcome::Freed(Ok(()))) => None,
        Ok(Outcome::Copied(Err(error))) => fault("a copy", error),
        Ok(Outcome::Filled(Err(error))) => fault("a fill", error),
        Ok(Outcome::Freed(Err(error))) => fault("a free in a stream", error),
        Err(_) => Some((
            ERROR_UNKNOWN,
            "an error of softcuda itself, see above".to_owned(),
        )),
    };
    for &(id, _) in &chosen {
        state.queue.done(id);
    }
    if let Some((code, message)) = failure {
        state.fail(context, code, message);
    }
    driver.changed.notify_all();
    (state, true)
}

/// Calls a function of the program on a thread of its own, so that the device can go on.
fn in_thread(driver: &'static Driver, id: u64, run: impl FnOnce() + Send + 'static) {
    let body = move || {
        in_callback(run);
        driver.lock().queue.done(id);
        driver.changed.notify_all();
    };
    if std::thread::Builder::new()
        .name("softcuda host function".to_owned())
        .spawn(body)
        .is_err()
    {
        say!("no thread for a host function");
        std::process::abort();
    }
}

fn sleep(state: Guard, driver: &'static Driver) -> Guard {
    driver
        .changed
        .wait(state)
        .unwrap_or_else(PoisonError::into_inner)
}

/// Waits until all of `targets` is done, doing it.
pub fn wait(mut state: Guard, targets: &[u64]) -> Result<Guard> {
    let driver = driver()?;
    let wanted = state.queue.ancestors(targets);
    while targets.iter().any(|&id| state.queue.is_pending(id)) {
        if state.queue.busy {
            state = sleep(state, driver);
            continue;
        }
        let progress;
        (state, progress) = step(state, driver, Some(&wanted));
        if !progress {
            state = sleep(state, driver); // for a host function
        }
    }
    Ok(state)
}

/// Goes one step towards `targets`: what a program that asks again and again relies on.
pub fn nudge(state: Guard, targets: &[u64]) -> Result<Guard> {
    if state.queue.busy || !targets.iter().any(|&id| state.queue.is_pending(id)) {
        return Ok(state);
    }
    let wanted = state.queue.ancestors(targets);
    Ok(step(state, driver()?, Some(&wanted)).0)
}

/// Starts the thread that works while the program is idle.
pub fn start_device() {
    let body = || {
        let Ok(driver) = driver() else {
            return;
        };
        let mut state = driver.lock();
        loop {
            let Some(first) = state.queue.ready.first() else {
                state = sleep(state, driver);
                continue;
            };
            let waited = state.queue.nodes[first].submitted.elapsed();
            let quiet = state.last_call.elapsed();
            if state.queue.busy {
                state = sleep(state, driver);
            } else if quiet < IDLE && waited < LONG {
                let timeout = IDLE - quiet;
                let woken = driver.changed.wait_timeout(state, timeout);
                state = woken.unwrap_or_else(PoisonError::into_inner).0;
            } else {
                state = step(state, driver, None).0;
            }
        }
    };
    if std::thread::Builder::new()
        .name("softcuda device".to_owned())
        .spawn(body)
        .is_err()
    {
        say!("no thread for the device: work is done only when it is waited for");
    }
}
