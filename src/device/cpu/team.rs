//! The threads of a CPU device and the buffers that they fill together.
//!
//! A pass has about ten parallel regions a layer, each of them 10 µs to 1 ms long, and
//! hardly anything between them. Waking a sleeping thread takes as long as the shorter
//! regions, so workers spin from one region to the next, and sleep only where a pass ends.

use super::simd::Isa;
use std::any::Any;
use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, Thread};

/// Looks at the ticket counter before a worker goes to sleep: some 100 µs.
const SPINS_BEFORE_SLEEP: usize = 4_000;

/// Looks at the finished tasks before the caller lets other threads run.
const SPINS_BEFORE_YIELD: usize = 20_000;

/// Threads of its own, the caller among them, and the instruction set their kernels use.
pub(super) struct Team {
    isa: Isa,
    crew: Arc<Crew>,
    workers: Vec<JoinHandle<()>>,
    /// One region at a time, by one caller: the team is not `Sync`.
    in_region: Cell<bool>,
}

/// What caller and workers share.
struct Crew {
    /// The region under way: see [`Tickets`].
    tickets: AtomicU64,
    /// Where the region's closure is and how it is called. Written by the caller before
    /// the region's tickets are out, read only by holders of one of its tickets.
    body: AtomicPtr<()>,
    call: AtomicPtr<()>,
    /// Tasks of the region that are done.
    finished: AtomicUsize,
    /// The first panic of the region.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Worker i sleeps or is about to.
    asleep: Vec<AtomicBool>,
    stop: AtomicBool,
}

/// Region number, its tasks and the next one to do, in one word: whoever takes a ticket
/// knows in the same moment that the region still waits for it.
#[derive(Clone, Copy)]
struct Tickets(u64);

impl Tickets {
    const BITS: u32 = 20;
    const MOST: usize = (1 << Self::BITS) - 1;

    fn new(region: u64, tasks: usize) -> Self {
        Tickets(region << (2 * Self::BITS) | (tasks as u64) << Self::BITS)
    }
    fn region(self) -> u64 {
        self.0 >> (2 * Self::BITS)
    }
    fn tasks(self) -> usize {
        (self.0 >> Self::BITS) as usize & Self::MOST
    }
    fn next(self) -> usize {
        self.0 as usize & Self::MOST
    }
}

type Call = unsafe fn(*const (), usize);

impl Crew {
    /// Does tasks of the region under way until none is left.
    fn work(&self) {
        let mut tickets = Tickets(self.tickets.load(Ordering::Acquire));
        while tickets.next() < tickets.tasks() {
            let taken = self.tickets.compare_exchange_weak(
                tickets.0,
                tickets.0 + 1,
                Ordering::Acquire,
                Ordering::Acquire,
            );
            match taken {
                Err(now) => tickets = Tickets(now),
                Ok(_) => {
                    self.run(tickets.next());
                    tickets = Tickets(self.tickets.load(Ordering::Acquire));
                }
            }
        }
    }

    /// Runs a task whose ticket was taken.
    fn run(&self, task: usize) {
        let body = self.body.load(Ordering::Relaxed);
        let call = self.call.load(Ordering::Relaxed);
        // SAFETY: `each` wrote both from a closure and its `call_with` before the ticket
        // was out, and returns only when this task is counted as finished.
        let done = catch_unwind(AssertUnwindSafe(|| unsafe {
            std::mem::transmute::<*mut (), Call>(call)(body, task)
        }));
        if let Err(panic) = done
            && let Ok(mut first) = self.panic.lock()
        {
            first.get_or_insert(panic);
        }
        self.finished.fetch_add(1, Ordering::Release);
    }

    /// A worker's life.
    fn serve(&self, worker: usize) {
        let mut idle = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let tickets = Tickets(self.tickets.load(Ordering::Acquire));
            if tickets.next() < tickets.tasks() {
                self.work();
                idle = 0;
            } else if idle < SPINS_BEFORE_SLEEP {
                idle += 1;
                std::hint::spin_loop();
            } else {
                self.asleep[worker].store(true, Ordering::SeqCst);
                let tickets = Tickets(self.tickets.load(Ordering::SeqCst));
                if tickets.next() == tickets.tasks() && !self.stop.load(Ordering::SeqCst) {
                    std::thread::park();
                }
                self.asleep[worker].store(false, Ordering::SeqCst);
                idle = 0;
            }
        }
    }
}

impl Team {
    /// `threads` of them; 0 takes one for each core.
    pub fn new(threads: usize, isa: Isa) -> std::io::Result<Team> {
        let threads = match threads {
            0 => std::thread::available_parallelism()?.get(),
            threads => threads,
        };
        let crew = Arc::new(Crew {
            tickets: AtomicU64::new(0),
            body: AtomicPtr::default(),
            call: AtomicPtr::default(),
            finished: AtomicUsize::new(0),
            panic: Mutex::new(None),
            asleep: (1..threads).map(|_| AtomicBool::new(false)).collect(),
            stop: AtomicBool::new(false),
        });
        let mut team = Team {
            isa,
            crew: crew.clone(),
            workers: Vec::new(),
            in_region: Cell::new(false),
        };
        for worker in 0..threads - 1 {
            let crew = crew.clone();
            let thread = std::thread::Builder::new()
                .name(format!("gavel-cpu-{}", worker + 1))
                .spawn(move || crew.serve(worker))?;
            team.workers.push(thread);
        }
        Ok(team)
    }

    pub fn isa(&self) -> Isa {
        self.isa
    }

    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Items per task, when a region has `total`: four tasks a thread even out
    /// threads of unequal speed, and long runs of weights keep the prefetcher busy (with
    /// eight, a one-row pass takes a tenth longer).
    pub fn share(&self, total: usize) -> usize {
        total.div_ceil(self.threads() * 4).max(1)
    }

    /// A region over the rows of a pass, for work that is too small to hand out row by row.
    pub fn each_row(&self, rows: usize, body: impl Fn(usize) + Sync) {
        self.each(rows, 8, |range| range.for_each(&body));
    }

    /// A parallel region: `body` gets every item of 0..total once, `share` at a time.
    /// A panic in it ends the region's other tasks first, then goes on in the caller.
    pub fn each(&self, total: usize, share: usize, body: impl Fn(Range<usize>) + Sync) {
        let share = share.max(total.div_ceil(Tickets::MOST));
        let tasks = total.div_ceil(share);
        if tasks <= 1 || self.workers.is_empty() {
            if total > 0 {
                body(0..total);
            }
            return;
        }
        assert!(!self.in_region.replace(true), "a region inside a region");
        let task = |t: usize| body(t * share..((t + 1) * share).min(total));
        self.region(tasks, &task);
        self.in_region.set(false);
        let panic = self.crew.panic.lock().ok().and_then(|mut p| p.take());
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    fn region<F: Fn(usize) + Sync>(&self, tasks: usize, body: &F) {
        unsafe fn call_with<F: Fn(usize)>(body: *const (), task: usize) {
            // SAFETY: `region` passes an F, which outlives the region.
            unsafe { (*body.cast::<F>())(task) }
        }
        let crew = &*self.crew;
        let before = Tickets(crew.tickets.load(Ordering::Relaxed));
        crew.finished.store(0, Ordering::Relaxed);
        let (body, call): (*const F, Call) = (body, call_with::<F>);
        crew.body.store(body.cast_mut().cast(), Ordering::Relaxed);
        crew.call.store(call as *mut (), Ordering::Relaxed);
        let tickets = Tickets::new(before.region() + 1, tasks);
        // sequentially consistent against a worker that says it sleeps and looks once more
        crew.tickets.store(tickets.0, Ordering::SeqCst);
        for (asleep, worker) in crew.asleep.iter().zip(&self.workers) {
            if asleep.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        crew.work();
        let mut looks = 0;
        while crew.finished.load(Ordering::Acquire) < tasks {
            looks += 1;
            match looks {
                ..SPINS_BEFORE_YIELD => std::hint::spin_loop(),
                _ => std::thread::yield_now(),
            }
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.crew.stop.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            Thread::unpark(worker.thread());
            // a worker catches the panics of its tasks; it has none of its own
            let _ = worker.join();
        }
    }
}

/// A buffer that the tasks of a region write in disjoint parts.
///
/// Holding one says nothing about the right to touch an element: whoever
/// dereferences the pointer of [`Shared::at`] states why its part is its own.
pub(super) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

impl<T> Clone for Shared<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Shared<'_, T> {}

// SAFETY: a Shared only hands out pointers; disjointness is argued where they are used.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub fn new(buffer: &'a mut [T]) -> Self {
        Shared {
            start: buffer.as_mut_ptr(),
            len: buffer.len(),
            life: PhantomData,
        }
    }

    /// The start of `len` elements from `at`.
    pub fn at(&self, at: usize, len: usize) -> *mut T {
        assert!(
            at + len <= self.len,
            "part {at}..{} of {} elements",
            at + len,
            self.len
        );
        self.start.wrapping_add(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_done_once_awake_and_asleep() {
        for threads in [1, 2, 3, 7] {
            let team = Team::new(threads, Isa::Portable).unwrap();
            assert_eq!(team.threads(), threads);
            for round in 0..2000 {
                let total = round % 97;
                let counts: Vec<AtomicUsize> = (0..total).map(|_| AtomicUsize::new(0)).collect();
                team.each(total, 1 + round % 5, |items| {
                    for i in items {
                        counts[i].fetch_add(1, Ordering::Relaxed);
                    }
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
                if round % 500 == 0 {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
            }
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_goes_on() {
        let team = Team::new(3, Isa::Portable).unwrap();
        for culprit in [0, 5, 63] {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                team.each(64, 1, |items| {
                    assert!(!items.contains(&culprit), "item {culprit}")
                });
            }));
            let message = *caught.unwrap_err().downcast::<String>().unwrap();
            assert_eq!(message, format!("item {culprit}"));
            let sum = AtomicUsize::new(0);
            team.each(64, 1, |items| {
                sum.fetch_add(items.start, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 63 * 64 / 2);
        }
    }
}
