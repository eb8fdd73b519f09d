//! The state of the driver: who holds which handle, and the rules that all entry points share.

use super::abi::{EdgeData, Handle};
use super::error::*;
use super::graph::{Graph, GraphExec};
use super::queue::Queue;
use super::settings::Settings;
use crate::exec::Kernel;
use crate::memory::Memory;
use crate::ptx;
use crate::report::Report;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, TryLockResult};
use std::thread::ThreadId;
use std::time::Instant;

/// Prints one line for the user. Standard output belongs to the program; a standard error that is
/// closed is no reason to stop it.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "softcuda: {}", format_args!($($text)*));
    }};
}
pub(crate) use say;

/// The legacy default stream, as a program names it: null or this.
pub const LEGACY: Handle = 1;
/// The default stream of the calling thread.
pub const PER_THREAD: Handle = 2;

/// The one driver of the process.
pub struct Driver {
    /// What the environment chose.
    pub settings: Settings,
    /// Memory of the device; has locks of its own.
    pub memory: Memory,
    state: Mutex<State>,
    /// Signalled when work was added, was done, or failed.
    pub changed: Condvar,
}

/// The locked state.
pub type Guard = MutexGuard<'static, State>;

static DRIVER: OnceLock<Driver> = OnceLock::new();

thread_local! {
    static CONTEXTS: RefCell<Vec<Handle>> = const { RefCell::new(Vec::new()) };
    static IN_CALLBACK: Cell<bool> = const { Cell::new(false) };
    static CAPTURE_MODE: Cell<u32> = const { Cell::new(0) };
}

impl Driver {
    /// Locks the state; a thread that panicked while it held the lock does not stop the others.
    pub fn lock(&'static self) -> Guard {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the state if nobody holds the lock.
    pub fn try_lock(&'static self) -> TryLockResult<Guard> {
        self.state.try_lock()
    }
}

/// The driver, if `cuInit` was called.
pub fn driver() -> Result<&'static Driver> {
    DRIVER.get().ok_or(ERROR_NOT_INITIALIZED)
}

/// Locks the state for a call of the program.
pub fn lock() -> Result<Guard> {
    let mut state = driver()?.lock();
    state.last_call = Instant::now();
    Ok(state)
}

/// `cuInit`: reads the environment once, starts the device.
pub fn init() -> Result {
    static STARTING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if DRIVER.get().is_some() {
        return Ok(());
    }
    let settings = Settings::read(|name| std::env::var(name).ok()).map_err(|message| {
        say!("{message}");
        ERROR_INVALID_VALUE
    })?;
    let report = Report {
        device: settings.model.name.to_owned(),
        seed: settings.options.seed,
        ..Report::default()
    };
    let faults = settings.faults.iter();
    let faults = faults.map(|(&kind, &chosen)| (kind, Fault { seen: 0, chosen }));
    let started = DRIVER.set(Driver {
        memory: Memory::new(settings.model.memory_bytes),
        state: Mutex::new(State::new(report, faults.collect())),
        changed: Condvar::new(),
        settings,
    });
    debug_assert!(started.is_ok(), "one thread at a time gets here");
    super::queue::start_device();
    super::exit::at_exit();
    Ok(())
}

/// Things of one kind by their handles. Handles are never used twice, so that a destroyed one is
/// told from a valid one.
#[derive(Debug)]
pub struct Store<T> {
    name: &'static str,
    prefix: usize,
    issued: usize,
    live: BTreeMap<Handle, T>,
    unknown: CUresult,
}

impl<T> Store<T> {
    fn new(kind: usize, name: &'static str) -> Store<T> {
        let prefix = kind << 40;
        Store {
            name,
            prefix,
            issued: 0,
            live: BTreeMap::new(),
            unknown: ERROR_INVALID_HANDLE,
        }
    }

    /// Keeps `value` and issues its handle.
    pub fn add(&mut self, value: T) -> Handle {
        self.issued += 1;
        let handle = self.prefix + 16 * self.issued;
        self.live.insert(handle, value);
        handle
    }

    /// Says what is wrong with a handle that names nothing.
    fn refuse(&self, handle: Handle) -> CUresult {
        if handle > self.prefix && handle <= self.prefix + 16 * self.issued {
            say!(
                "{:#x} names {} that was destroyed before",
                handle,
                self.name
            );
        }
        self.unknown
    }

    /// What `handle` names.
    pub fn get(&self, handle: Handle) -> Result<&T> {
        self.live.get(&handle).ok_or_else(|| self.refuse(handle))
    }

    /// What `handle` names, to be changed.
    pub fn get_mut(&mut self, handle: Handle) -> Result<&mut T> {
        if !self.live.contains_key(&handle) {
            return Err(self.refuse(handle));
        }
        self.live.get_mut(&handle).ok_or(self.unknown)
    }

    /// What `handle` names, if it is still there.
    pub fn peek(&mut self, handle: Handle) -> Option<&mut T> {
        self.live.get_mut(&handle)
    }

    /// Takes out what `handle` names.
    pub fn remove(&mut self, handle: Handle) -> Result<T> {
        self.live.remove(&handle).ok_or_else(|| self.refuse(handle))
    }

    /// All, in order of their creation.
    pub fn iter(&self) -> impl Iterator<Item = (Handle, &T)> {
        self.live.iter().map(|(&handle, value)| (handle, value))
    }

    /// All, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Handle, &mut T)> {
        self.live.iter_mut().map(|(&handle, value)| (handle, value))
    }

    /// Removes what `keep` rejects.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.live.retain(|_, value| keep(value));
    }
}

/// A context.
#[derive(Debug)]
pub struct Context {
    /// Its flags.
    pub flags: u32,
    /// The error that broke it; every later call returns it.
    pub broken: Option<CUresult>,
    /// Its legacy default stream.
    pub legacy: Handle,
    /// The default streams of the threads that used one.
    pub per_thread: HashMap<ThreadId, Handle>,
    /// Limits that a program set, by `CUlimit`.
    pub limits: BTreeMap<u32, usize>,
}

/// A stream.
#[derive(Debug, Clone)]
pub struct Stream {
    /// Its context.
    pub context: Handle,
    /// `CU_STREAM_NON_BLOCKING` or 0.
    pub flags: u32,
    /// Its priority.
    pub priority: i32,
    /// Its number in its context, for messages and `cuStreamGetId`.
    pub id: u64,
    /// A default stream, which the program cannot destroy.
    pub is_default: bool,
    /// What the next work waits for: the last work and the events waited for since.
    pub tail: Vec<u64>,
    /// The capture it takes part in, and what its next node depends on there.
    pub capture: Option<(Handle, Vec<Handle>)>,
    /// What `cuStreamGetCaptureInfo` pointed to last.
    pub shown: Vec<Handle>,
    pub shown_edges: Vec<EdgeData>,
}

/// An event.
#[derive(Debug)]
pub struct Event {
    /// Its context.
    pub context: Handle,
    /// `CU_EVENT_*`
    pub flags: u32,
    /// The pending record of it, if one is pending.
    pub pending: Option<u64>,
    /// When the last record was reached.
    pub reached: Option<Instant>,
    /// Recorded last in a capture: that capture, and the nodes the event stands for.
    pub captured: Option<(Handle, Vec<Handle>)>,
}

/// A module.
#[derive(Debug)]
pub struct Module {
    /// Its context.
    pub context: Handle,
    /// Its kernels and variables.
    pub loaded: ptx::Module,
    /// Handles of its functions by name.
    pub functions: BTreeMap<String, Handle>,
}

/// A function of a module; a kernel of a library is one, too.
#[derive(Debug)]
pub struct Function {
    /// Its context.
    pub context: Handle,
    /// Its module.
    pub module: Handle,
    /// What runs.
    pub kernel: Arc<Kernel>,
    /// What it opted in to: `MAX_DYNAMIC_SHARED_SIZE_BYTES`.
    pub dynamic_shared_limit: u32,
    /// `PREFERRED_SHARED_MEMORY_CARVEOUT`
    pub carveout: i32,
}

/// Who owns an allocation, and how it was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// Its context.
    pub context: Handle,
    /// Its bytes.
    pub bytes: usize,
    /// How it was made.
    pub kind: BlockKind,
}

/// How an allocation was made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BlockKind {
    /// `cuMemAlloc`
    Device,
    /// `cuMemAllocAsync`, from this pool.
    Pool(Handle),
    /// A node of a graph, or an allocation that was captured into one.
    Graph,
    /// `cuMemHostAlloc`, with its flags.
    Host(u32),
    /// `cuMemHostRegister`, with its flags.
    Registered(u32),
    /// `cuMemAllocManaged`
    Managed,
}

/// A memory pool.
#[derive(Debug, Default)]
pub struct Pool {
    /// Attributes that a program set, by `CUmemPool_attribute`.
    pub attributes: BTreeMap<u32, u64>,
    /// Bytes in use.
    pub used: u64,
    /// Most bytes in use.
    pub high: u64,
}

/// A capture in progress.
#[derive(Debug)]
pub struct Capture {
    /// The graph that grows.
    pub graph: Handle,
    /// The stream in which it began.
    pub origin: Handle,
    /// `CUstreamCaptureMode`
    pub mode: u32,
    /// The thread that began it.
    pub thread: ThreadId,
    /// A forbidden call spoiled it.
    pub invalid: bool,
    /// The graph was the program's own: `cuStreamBeginCaptureToGraph`.
    pub into_graph: bool,
}

/// A call that is to fail.
pub struct Fault {
    /// Calls of its kind so far.
    pub seen: u64,
    /// The one that fails, from 1 on.
    pub chosen: u64,
}

/// Everything behind the lock.
pub struct State {
    pub contexts: Store<Context>,
    pub primary: Option<Handle>,
    pub primary_users: u32,
    pub primary_flags: u32,
    pub streams: Store<Stream>,
    pub events: Store<Event>,
    pub modules: Store<Module>,
    pub functions: Store<Function>,
    /// A library is its module.
    pub libraries: Store<Handle>,
    pub graphs: Store<Graph>,
    /// Graph to which a node belongs.
    pub nodes: Store<Handle>,
    pub graph_execs: Store<GraphExec>,
    pub pools: Store<Pool>,
    pub default_pool: Handle,
    pub current_pool: Handle,
    pub captures: Store<Capture>,
    /// Allocations by address.
    pub blocks: BTreeMap<u64, Block>,
    pub queue: Queue,
    pub report: Report,
    /// Modules that have been loaded and place no variables, by PTX and what ptxas said of it: a
    /// program that loads one again, for a context of its own, need not wait for it again.
    pub known_modules: HashMap<(String, Option<String>), ptx::Module>,
    /// The call that fails of each kind, if any.
    pub faults: BTreeMap<&'static str, Fault>,
    /// When the program last called; work starts by itself some time after.
    pub last_call: Instant,
}

impl State {
    fn new(report: Report, faults: BTreeMap<&'static str, Fault>) -> State {
        let mut contexts = Store::new(0x11, "a context");
        contexts.unknown = ERROR_INVALID_CONTEXT;
        let mut pools = Store::new(0x19, "a memory pool");
        let default_pool = pools.add(Pool::default());
        State {
            contexts,
            primary: None,
            primary_users: 0,
            primary_flags: 0,
            streams: Store::new(0x12, "a stream"),
            events: Store::new(0x13, "an event"),
            modules: Store::new(0x14, "a module"),
            functions: Store::new(0x15, "a function"),
            libraries: Store::new(0x16, "a library"),
            graphs: Store::new(0x17, "a graph"),
            nodes: Store::new(0x18, "a graph node"),
            pools,
            default_pool,
            current_pool: default_pool,
            graph_execs: Store::new(0x1a, "a graph executable"),
            captures: Store::new(0x1b, "a capture"),
            blocks: BTreeMap::new(),
            queue: Queue::default(),
            report,
            known_modules: HashMap::new(),
            faults,
            last_call: Instant::now(),
        }
    }

    /// A new context with its default stream.
    pub fn new_context(&mut self, flags: u32) -> Handle {
        let context = self.contexts.add(Context {
            flags,
            broken: None,
            legacy: 0,
            per_thread: HashMap::new(),
            limits: BTreeMap::new(),
        });
        let legacy = self.new_stream(context, 0, 0, true);
        if let Ok(context) = self.contexts.get_mut(context) {
            context.legacy = legacy;
        }
        context
    }

    /// A new stream of `context`.
    pub fn new_stream(
        &mut self,
        context: Handle,
        flags: u32,
        priority: i32,
        is_default: bool,
    ) -> Handle {
        let id = self.streams.issued as u64;
        let (tail, capture) = (Vec::new(), None);
        let (shown, shown_edges) = (Vec::new(), Vec::new());
        let stream = Stream {
            context,
            flags,
            priority,
            id,
            is_default,
            tail,
            capture,
            shown,
            shown_edges,
        };
        self.streams.add(stream)
    }

    /// The calling thread's current context, which must be whole.
    pub fn current(&self) -> Result<Handle> {
        let context = top_context().ok_or(ERROR_INVALID_CONTEXT)?;
        self.whole(context)?;
        Ok(context)
    }

    /// Checks that a context exists and that no error broke it.
    pub fn whole(&self, context: Handle) -> Result {
        match self.contexts.live.get(&context) {
            None => Err(ERROR_CONTEXT_IS_DESTROYED),
            Some(context) => context.broken.map_or(Ok(()), Err),
        }
    }

    /// The stream that a program means by `handle`, whose context must be whole.
    pub fn stream(&mut self, handle: Handle) -> Result<Handle> {
        let context = self.current()?;
        match handle {
            0 | LEGACY => Ok(self.contexts.get(context)?.legacy),
            PER_THREAD => {
                let thread = std::thread::current().id();
                if let Some(&stream) = self.contexts.get(context)?.per_thread.get(&thread) {
                    return Ok(stream);
                }
                let stream = self.new_stream(context, 0, 0, true);
                self.contexts
                    .get_mut(context)?
                    .per_thread
                    .insert(thread, stream);
                Ok(stream)
            }
            _ => {
                self.whole(self.streams.get(handle)?.context)?;
                Ok(handle)
            }
        }
    }

    /// Counts a call of a kind that can be made to fail, and fails the chosen one.
    pub fn fault(&mut self, kind: &'static str, code: CUresult) -> Result {
        let Some(Fault { seen, chosen }) = self.faults.get_mut(kind) else {
            return Ok(());
        };
        *seen += 1;
        if seen == chosen {
            say!("SOFTCUDA_FAULT: {kind} {seen} fails as asked");
            return Err(code);
        }
        Ok(())
    }
}

/// The calling thread's current context.
pub fn top_context() -> Option<Handle> {
    CONTEXTS.with_borrow(|stack| stack.last().copied())
}

/// Replaces the current context; 0 removes it.
pub fn set_context(context: Handle) {
    CONTEXTS.with_borrow_mut(|stack| {
        stack.pop();
        if context != 0 {
            stack.push(context);
        }
    });
}

/// Makes a context current above the one that is.
pub fn push_context(context: Handle) {
    CONTEXTS.with_borrow_mut(|stack| stack.push(context));
}

/// Takes the current context away.
pub fn pop_context() -> Option<Handle> {
    CONTEXTS.with_borrow_mut(Vec::pop)
}

/// The calling thread's capture mode; `Some` replaces it.
pub fn capture_mode(new: Option<u32>) -> u32 {
    let old = CAPTURE_MODE.get();
    if let Some(new) = new {
        CAPTURE_MODE.set(new);
    }
    old
}

/// Runs a function of the program, in which no call of the driver is permitted.
pub fn in_callback(run: impl FnOnce()) {
    IN_CALLBACK.set(true);
    run();
    IN_CALLBACK.set(false);
}

/// What every entry point does: refuses calls out of callbacks, and keeps panics from crossing
/// into the program.
pub fn entry(name: &'static str, body: impl FnOnce() -> Result) -> CUresult {
    if IN_CALLBACK.get() && !name.starts_with("cuGetError") {
        say!("{name} was called in a host function of a stream, where no call is permitted");
        return ERROR_NOT_PERMITTED;
    }
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)) {
        Ok(Ok(())) => SUCCESS,
        Ok(Err(code)) => code,
        Err(_) => {
            say!("{name}: an error of softcuda itself, see above");
            ERROR_UNKNOWN
        }
    }
}
