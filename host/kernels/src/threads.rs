//! The threads that compute, and nothing else.
//!
//! A step of a small model is some 150 parallel regions of a few microseconds each, so a region must start and end in
//! about one. Workers therefore spin for a moment after a region and then park, which keeps an idle model at zero CPU
//! time. A pool belongs to one model's thread; nothing here is ever run on an async runtime's workers.
//!
//! A pool's threads are a budget, not a claim. [`ThreadPool::step`] says that a model computes, and while several do,
//! each uses its share of the process's cores: a spinning worker on a core that another model needs would cost both
//! more than it gives. Shares are taken anew for each region, so a model has its whole budget again as soon as it is
//! alone. How many threads run a region changes no result.
//!
//! A panic in a region is carried to the caller once every worker has left the region, so data borrowed by the
//! region is never used after it is gone, and the pool stays usable.

use std::any::Any;
use std::cell::UnsafeCell;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};

/// How often a waiting thread looks before it yields, and then before it parks: some tens of microseconds in all.
const SPINS: u32 = 4_000;
const YIELDS: u32 = 8;

/// Models of this process that are computing.
static COMPUTING: AtomicUsize = AtomicUsize::new(0);

/// Where in `Shared::state` the count of regions begins; below it is the number of workers that run the region.
const GENERATION: usize = 1 << 16;

type Region<'a> = &'a (dyn Fn(usize) + Sync + 'a);

struct Shared {
    /// Counts regions, and says how many workers run the last one: the first ones. One word, so that a worker that comes
    /// late sees both of the same region.
    state: AtomicUsize,
    /// Workers that have not left the current region.
    running: AtomicUsize,
    /// Valid from the moment `state` changes until `running` is 0.
    region: UnsafeCell<Option<Region<'static>>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
    parked: Vec<AtomicBool>,
}

// SAFETY: `region` is written only by the thread in `ThreadPool::run`, while no worker runs (`running` is 0), and read
// by the region's workers only after they have seen the new `state` (released after the write).
unsafe impl Sync for Shared {}

/// A fixed number of threads, the caller being one of them.
pub struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    handles: Vec<Thread>,
    /// One region at a time.
    turn: Mutex<()>,
    /// What the process may use.
    cores: usize,
    /// Counts the models that share these cores.
    computing: &'static AtomicUsize,
}

/// A model's time of computing: see [`ThreadPool::step`].
#[must_use]
pub struct Step(&'static AtomicUsize);

impl Drop for Step {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ThreadPool {
    /// A pool that computes on `threads` threads: the caller's and `threads - 1` of its own, named `name-1`, ….
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(name: &str, threads: NonZeroUsize) -> std::io::Result<Self> {
        let own = threads.get() - 1;
        if own >= GENERATION {
            return Err(std::io::Error::new(
                std::io::ErrorKind::InvalidInput,
                format!("{threads} threads are too many"),
            ));
        }
        let shared = Arc::new(Shared {
            state: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            region: UnsafeCell::new(None),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
            parked: (0..own).map(|_| AtomicBool::new(false)).collect(),
        });
        let (workers, handles) = (Vec::with_capacity(own), Vec::with_capacity(own));
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let mut pool = Self { shared, workers, handles, turn: Mutex::new(()), cores, computing: &COMPUTING };
        for index in 0..own {
            let shared = pool.shared.clone();
            let worker = std::thread::Builder::new()
                .name(format!("{name}-{}", index + 1))
                .spawn(move || work(&shared, index))?;
            pool.handles.push(worker.thread().clone());
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// How many threads run a region at most.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Counts this pool among those that compute, until the value is dropped. A region outside of any step is run as if
    /// its pool were alone beside the others that compute.
    pub fn step(&self) -> Step {
        self.computing.fetch_add(1, Ordering::Relaxed);
        Step(self.computing)
    }

    /// The workers of the next region.
    fn share(&self) -> usize {
        match self.computing.load(Ordering::Relaxed) {
            0 | 1 => self.workers.len(),
            models => self.workers.len().min((self.cores / models).saturating_sub(1)),
        }
    }

    /// Runs `region` once on each of as many threads as the pool has now, with the thread's number from 0, and returns
    /// when all have finished. Which numbers run is not known before: a region must not rely on any but 0.
    ///
    /// # Panics
    /// With the panic of any of them.
    pub fn run(&self, region: &(dyn Fn(usize) + Sync)) {
        let workers = self.share();
        if workers == 0 {
            region(0);
            return;
        }
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: only the lifetime changes. Workers use the reference before they decrement `running`, and this
        // function does not return or unwind before `running` is 0.
        let erased = unsafe { std::mem::transmute::<Region<'_>, Region<'static>>(region) };
        // SAFETY: `turn` is held and `running` is 0: no other thread touches the cell.
        unsafe { *self.shared.region.get() = Some(erased) };
        self.shared.running.store(workers, Ordering::Relaxed);
        // Sequentially consistent, as is the worker's `parked` store: either the worker sees the new state before it
        // parks, or this thread sees that it parked.
        self.shared.advance(workers);
        for (flag, handle) in self.shared.parked.iter().zip(&self.handles).take(workers) {
            if flag.load(Ordering::SeqCst) {
                handle.unpark();
            }
        }
        let own = catch_unwind(AssertUnwindSafe(|| region(0)));
        let mut spins = 0u32;
        while self.shared.running.load(Ordering::Acquire) != 0 {
            spins += 1;
            if spins.is_multiple_of(SPINS) {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
        let theirs = self.shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(turn);
        if let Some(payload) = own.err().or(theirs) {
            resume_unwind(payload);
        }
    }

    /// Runs `body` on parts of `rows`, each of whole rows of `width` values and of at least `least` rows where there are as
    /// many, with the number of the part's first row.
    pub fn for_each_row(&self, rows: &mut [f32], width: usize, least: usize, body: impl Fn(usize, &mut [f32]) + Sync) {
        assert!(width > 0 && rows.len().is_multiple_of(width), "{} by {width}", rows.len());
        let count = rows.len() / width;
        let scatter = Scatter::new(rows);
        let share = count.div_ceil(self.threads() * 4).max(least);
        self.for_each_chunk(
            count,
            share,
            || (),
            |(), range| {
                // SAFETY: ranges do not overlap, and each is handed to one thread, which takes one slice of it.
                body(range.start, unsafe { scatter.slice(range.start * width..range.end * width) });
            },
        );
    }

    /// Runs `body` over `0..items` in ranges of at most `chunk`, handed out as threads become free. Each thread first
    /// makes its own `scratch`.
    pub fn for_each_chunk<S>(
        &self,
        items: usize,
        chunk: usize,
        scratch: impl Fn() -> S + Sync,
        body: impl Fn(&mut S, Range<usize>) + Sync,
    ) {
        let chunk = chunk.max(1);
        if items <= chunk || self.workers.is_empty() {
            if items > 0 {
                body(&mut scratch(), 0..items);
            }
            return;
        }
        let next = AtomicUsize::new(0);
        self.run(&|_| {
            let mut own = None;
            loop {
                let start = next.fetch_add(chunk, Ordering::Relaxed);
                if start >= items {
                    break;
                }
                body(own.get_or_insert_with(&scratch), start..(start + chunk).min(items));
            }
        });
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.advance(0);
        for handle in &self.handles {
            handle.unpark();
        }
        for worker in self.workers.drain(..) {
            // A worker catches every panic of a region, so joining cannot fail; there is nothing to do if it did.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Begins a region of `workers` workers. Only one thread at a time does so.
    fn advance(&self, workers: usize) {
        let generation = self.state.load(Ordering::Relaxed) / GENERATION;
        self.state.store(generation.wrapping_add(1).wrapping_mul(GENERATION) | workers, Ordering::SeqCst);
    }
}

fn work(shared: &Shared, index: usize) {
    let mut seen = 0;
    loop {
        seen = wait(shared, index, seen);
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        if index >= seen % GENERATION {
            continue;
        }
        // SAFETY: the state changed and counts this worker in, so `run` has written the region and waits for `running`
        // to reach 0.
        let region = unsafe { *shared.region.get() };
        if let Some(region) = region
            && let Err(payload) = catch_unwind(AssertUnwindSafe(|| region(index + 1)))
        {
            shared.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
        }
        shared.running.fetch_sub(1, Ordering::Release);
    }
}

/// Waits for a state other than `seen`. A region that counts this worker in cannot be missed: `run` waits for it.
fn wait(shared: &Shared, index: usize, seen: usize) -> usize {
    let mut spins = 0u32;
    loop {
        let state = shared.state.load(Ordering::SeqCst);
        if state != seen {
            return state;
        }
        spins += 1;
        if !spins.is_multiple_of(SPINS) {
            std::hint::spin_loop();
        } else if spins < SPINS * YIELDS {
            std::thread::yield_now();
        } else {
            shared.parked[index].store(true, Ordering::SeqCst);
            if shared.state.load(Ordering::SeqCst) == seen {
                std::thread::park();
            }
            shared.parked[index].store(false, Ordering::SeqCst);
        }
    }
}

/// A buffer that several threads fill, each its own places.
pub(crate) struct Scatter<'a> {
    start: *mut f32,
    len: usize,
    buffer: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer comes from an exclusive borrow; `slice` demands that places do not overlap between threads.
unsafe impl Sync for Scatter<'_> {}

impl<'a> Scatter<'a> {
    pub(crate) fn new(buffer: &'a mut [f32]) -> Self {
        Self { start: buffer.as_mut_ptr(), len: buffer.len(), buffer: std::marker::PhantomData }
    }

    /// The places `range`, for writing.
    ///
    /// # Safety
    /// No two live slices may overlap, on this thread or another.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn slice(&self, range: Range<usize>) -> &mut [f32] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        // SAFETY: in bounds by the assertion, exclusive by the caller's promise, alive as the borrow in `buffer`.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pool that shares its cores with no other test.
    fn pool(threads: usize) -> ThreadPool {
        let mut pool = ThreadPool::new("test", NonZeroUsize::new(threads).unwrap()).unwrap();
        pool.computing = Box::leak(Box::default());
        pool
    }

    #[test]
    fn every_item_is_visited_once() {
        for threads in [1, 2, 3, 5] {
            let pool = pool(threads);
            for round in 0..200 {
                let seen: Vec<AtomicUsize> = (0..round * 3).map(|_| AtomicUsize::new(0)).collect();
                pool.for_each_chunk(
                    seen.len(),
                    7,
                    || (),
                    |(), range| {
                        for item in &seen[range] {
                            item.fetch_add(1, Ordering::Relaxed);
                        }
                    },
                );
                assert!(seen.iter().all(|s| s.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn parked_workers_wake_up() {
        let pool = pool(2);
        let total = AtomicUsize::new(0);
        for _ in 0..3 {
            while !pool.shared.parked[0].load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            pool.run(&|thread| {
                total.fetch_add(thread + 1, Ordering::Relaxed);
            });
        }
        assert_eq!(total.load(Ordering::Relaxed), 9);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_survives() {
        let pool = pool(3);
        for guilty in 0..3 {
            let caught =
                catch_unwind(AssertUnwindSafe(|| pool.run(&|thread| assert!(thread != guilty, "thread {guilty}"))));
            let message = *caught.unwrap_err().downcast::<String>().unwrap();
            assert_eq!(message, format!("thread {guilty}"));
        }
        let total = AtomicUsize::new(0);
        pool.run(&|_| {
            total.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(total.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn models_that_compute_together_share_the_cores() {
        let mut pool = pool(5);
        pool.cores = 6;
        let workers = |models: usize| (6usize / models).saturating_sub(1).min(4);
        let mut steps = Vec::new();
        for models in 1..8 {
            steps.push(pool.step());
            let ran: Vec<AtomicUsize> = (0..5).map(|_| AtomicUsize::new(0)).collect();
            for _ in 0..50 {
                pool.run(&|thread| {
                    ran[thread].fetch_add(1, Ordering::Relaxed);
                });
            }
            let ran: Vec<usize> = ran.iter().map(|r| r.load(Ordering::Relaxed)).collect();
            let expected: Vec<usize> = (0..5).map(|t| if t <= workers(models) { 50 } else { 0 }).collect();
            assert_eq!(ran, expected, "{models} models");
        }
        drop(steps);
        assert_eq!(pool.share(), 4);
    }
}
