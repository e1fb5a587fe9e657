//! What one worker may use, and the meters that enforce it inside a store.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use wasmtime::{CallHook, ResourceLimiter, Store, UpdateDeadline};

use crate::control::Slot;
use crate::{Extension, Failure, State};

/// The time between two looks at a running guest.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// Table elements of one instance, over all its tables.
const TABLE_ELEMENTS: usize = 1 << 20;

/// Bounds on one worker. Each is enforced for every request; none can be turned off, only set.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Time spent running WebAssembly for one request. Waiting is not counted.
    pub cpu: Duration,
    /// Time from the request's arrival to the end of its answer and of the work that follows it.
    pub wall: Duration,
    /// Bytes of linear memory of one instance, summed over its memories.
    pub memory_bytes: usize,
    /// Requests of the worker under way at once. The next one is refused with 503.
    pub concurrency: usize,
    /// Bytes of one request's body.
    pub request_bytes: u64,
    /// Bytes of one response's body.
    pub response_bytes: u64,
    /// Outbound requests and calls of bindings made by one request.
    pub subrequests: u32,
    /// Bytes that one request may write to standard output and error together.
    pub log_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cpu: Duration::from_secs(30),
            wall: Duration::from_secs(300),
            memory_bytes: 128 << 20,
            concurrency: 256,
            request_bytes: 100 << 20,
            response_bytes: 1 << 30,
            subrequests: 1000,
            log_bytes: 256 << 10,
        }
    }
}

/// The processor's counter where it runs evenly, else the system's clock. Made once: making one asks the processor what it
/// can do, which a virtual machine answers slowly.
pub(crate) static CLOCK: LazyLock<quanta::Clock> = LazyLock::new(quanta::Clock::new);

/// The longest stretch that is charged by the wall clock: what the epoch clock lets pass, and as much again for the
/// time that clock may come late.
const LONGEST_STRETCH: u64 = 2 * TICK.as_nanos() as u64;

/// Adds up the time a guest spends running.
///
/// Wasmtime reports when the guest is entered and left, whether by a call, a built-in of the component model or a look
/// of the epoch clock. So waiting is never counted, and a guest that does not leave by itself is made to every [`TICK`],
/// when it also gives its thread to others.
///
/// A stretch between two such reports is timed by the wall clock, read from the processor's counter where that runs
/// evenly: cheap, since a request has dozens of stretches, and right for the short ones that most requests have. A guest
/// that the epoch clock finds after more than a [`TICK`] is computing, and on a busy machine the wall clock would charge
/// it for the threads it shares a core with: from then on its stretches are timed by the CPU clock of the thread, which
/// takes a call of the kernel to read.
pub(crate) struct CpuMeter {
    /// Reading of the clock in use when the guest was last seen to start running, or 0 while it does not run. A stretch
    /// begins and ends on one thread.
    since: AtomicU64,
    used: AtomicU64,
    /// Whether the next stretches are timed by the thread's CPU clock.
    computing: AtomicBool,
    /// Whether the present stretch is.
    by_thread: AtomicBool,
}

impl CpuMeter {
    fn new() -> Self {
        Self {
            since: AtomicU64::new(0),
            used: AtomicU64::new(0),
            computing: AtomicBool::new(false),
            by_thread: AtomicBool::new(false),
        }
    }

    /// The wall clock's reading in units of its own, at least 1.
    fn wall(&self) -> u64 {
        CLOCK.raw().max(1)
    }

    fn enter(&self) {
        let by_thread = self.computing.load(Relaxed);
        self.by_thread.store(by_thread, Relaxed);
        self.since.store(if by_thread { thread_cpu() } else { self.wall() }, Relaxed);
    }

    fn leave(&self) {
        let since = self.since.swap(0, Relaxed);
        if since == 0 {
            return;
        }
        let stretch = if self.by_thread.load(Relaxed) {
            thread_cpu().saturating_sub(since)
        } else {
            CLOCK.delta_as_nanos(since, self.wall()).min(LONGEST_STRETCH)
        };
        self.used.fetch_add(stretch, Relaxed);
    }

    /// Starts counting for another request.
    pub(crate) fn reset(&self) {
        self.used.store(0, Relaxed);
        self.computing.store(false, Relaxed);
    }

    /// Time spent running since the last reset.
    pub(crate) fn used(&self) -> Duration {
        Duration::from_nanos(self.used.load(Relaxed))
    }
}

/// CPU time of the calling thread in nanoseconds, at least 1.
fn thread_cpu() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock is one that every supported system has, and `time` is a timespec to write to.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    (time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64).max(1)
}

/// Puts a CPU meter on `store` and ends the guest when it has used up `limit`.
pub(crate) fn meter_cpu<X: Extension>(store: &mut Store<State<X>>, limit: Duration, slot: Arc<Slot>) -> Arc<CpuMeter> {
    let meter = Arc::new(CpuMeter::new());
    store.call_hook({
        let meter = meter.clone();
        move |_, hook| {
            match hook {
                CallHook::CallingWasm | CallHook::ReturningFromHost => meter.enter(),
                CallHook::ReturningFromWasm | CallHook::CallingHost => meter.leave(),
            }
            Ok(())
        }
    });
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback({
        let meter = meter.clone();
        move |_| {
            if meter.used() > limit {
                slot.fail(Failure::CpuExceeded { limit });
                return Err(wasmtime::format_err!("the CPU time limit of {limit:?} is used up"));
            }
            // The clock also passes between the requests of an instance, which says nothing of the next.
            if meter.used() < TICK {
                return Ok(UpdateDeadline::Continue(1));
            }
            meter.computing.store(true, Relaxed);
            Ok(UpdateDeadline::Yield(1))
        }
    });
    meter
}

/// Counts the memory of one store over all of its memories.
pub(crate) struct MemoryMeter {
    limit: usize,
    used: usize,
    elements: usize,
    slot: Arc<Slot>,
}

impl MemoryMeter {
    pub(crate) fn new(limit: usize, slot: Arc<Slot>) -> Self {
        Self { limit, used: 0, elements: 0, slot }
    }

    pub(crate) fn used(&self) -> usize {
        self.used
    }
}

impl ResourceLimiter for MemoryMeter {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.used.saturating_add(desired.saturating_sub(current));
        if total > self.limit {
            // The guest sees a failed growth and may go on; most abort. Then this says why.
            self.slot.note(Failure::MemoryExceeded { limit: self.limit });
            return Ok(false);
        }
        self.used = total;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.elements.saturating_add(desired.saturating_sub(current));
        if total > TABLE_ELEMENTS {
            return Ok(false);
        }
        self.elements = total;
        Ok(true)
    }
}
