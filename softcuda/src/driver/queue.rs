//! The order in which the work that was given to the device is done.
//!
//! Every piece of work waits for the pieces it depends on: the one before it in its stream, events,
//! the legacy stream. Nothing is done when it is submitted. Work is done when a call has to wait
//! for it, by the thread that waits; a thread of the device does the rest once the program has
//! made no call for some time (it may be polling memory). Of what is free to go, the seed chooses;
//! without a seed, only what is waited for is done, in order of submission. So a program that
//! forgets to wait finds old data, and the launches that may overlap are known before they run.

use super::abi::Handle;
use super::error::*;
use super::state::{Driver, Guard, State, driver, in_callback, say};
use super::work::{Copy, Op};
use crate::counts::Counts;
use crate::exec::{self, Launch, Overlap, Transfer, Violation};
use crate::memory::MemoryError;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::c_void;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// The program is idle when it has made no call for this long.
const IDLE: Duration = Duration::from_millis(2);
/// Work that waits for longer is begun although the program keeps calling.
const LONG: Duration = Duration::from_millis(200);

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
