//! What one worker may use, and the meters that enforce it inside a store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

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

/// Adds up the time a guest spends running.
///
/// Wasmtime reports when the guest is entered and left, whether by a call, a built-in of the component model or a look
/// of the epoch clock. So waiting is never counted, and a guest that does not leave by itself is made to every [`TICK`],
/// when it also gives its thread to others.
pub(crate) struct CpuMeter {
    origin: Instant,
    /// Nanoseconds since `origin` when the guest was last seen to start running, or 0 while it does not run.
    since: AtomicU64,
    used: AtomicU64,
}

impl CpuMeter {
    fn new() -> Self {
        Self { origin: Instant::now(), since: AtomicU64::new(0), used: AtomicU64::new(0) }
    }

    fn now(&self) -> u64 {
        (self.origin.elapsed().as_nanos() as u64).max(1)
    }

    fn enter(&self) {
        self.since.store(self.now(), Relaxed);
    }

    fn leave(&self) {
        let since = self.since.swap(0, Relaxed);
        if since != 0 {
            self.used.fetch_add(self.now().saturating_sub(since), Relaxed);
        }
    }

    /// Starts counting for another request.
    pub(crate) fn reset(&self) {
        self.used.store(0, Relaxed);
    }

    /// Time spent running since the last reset.
    pub(crate) fn used(&self) -> Duration {
        Duration::from_nanos(self.used.load(Relaxed))
    }
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
