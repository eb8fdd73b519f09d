//! The threads of a CPU device and the buffers that they fill together.

use super::simd::Isa;
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use std::marker::PhantomData;
use std::ops::Range;

/// A thread pool of its own and the instruction set its kernels use.
pub(super) struct Team {
    pool: rayon::ThreadPool,
    isa: Isa,
}

impl Team {
    pub fn new(threads: usize, isa: Isa) -> Result<Team, rayon::ThreadPoolBuildError> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("gavel-cpu-{i}"))
            .build()?;
        Ok(Team { pool, isa })
    }

    pub fn isa(&self) -> Isa {
        self.isa
    }

    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Runs `work` on the pool's threads, so that the regions inside start without a hand-over.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.pool.install(work)
    }

    /// Items per task, when a region has `total`: four tasks a thread even out
    /// threads of unequal speed, and long runs of weights keep the prefetcher busy.
    pub fn share(&self, total: usize) -> usize {
        total.div_ceil(self.threads() * 4).max(1)
    }

    /// A region over the rows of a pass, for work that is too small to hand out row by row.
    pub fn each_row(&self, rows: usize, body: impl Fn(usize) + Sync + Send) {
        self.each(rows, 8, |range| range.for_each(&body));
    }

    /// A parallel region: `body` gets every item of 0..total once, `share` at a time.
    pub fn each(&self, total: usize, share: usize, body: impl Fn(Range<usize>) + Sync + Send) {
        let tasks = total.div_ceil(share);
        if tasks <= 1 || self.threads() == 1 {
            if total > 0 {
                body(0..total);
            }
            return;
        }
        (0..tasks)
            .into_par_iter()
            .with_max_len(1)
            .for_each(|t| body(t * share..((t + 1) * share).min(total)));
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
