//! One request's life as seen from both sides: the connection that waits for it and the store that works on it.
//!
//! `ProxyHandler` runs a guest in a task of its own, so dropping the connection's future does not stop the guest. A
//! [`RequestContext`] joins the two: the connection marks it failed (the client left, the body was too large), which
//! wakes the guest's task, whose expiration then drops the store and everything the guest had started.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;
use tokio::sync::{Notify, OwnedSemaphorePermit};

use crate::Failure;

/// One request under way.
#[derive(Debug)]
pub struct RequestContext {
    id: String,
    worker: Arc<str>,
    started: Instant,
    /// How long it may take, where that is not the worker's own limit.
    wall: Option<Duration>,
    failure: OnceLock<Failure>,
    /// What the guest did that would explain a trap, for example a refused growth of memory.
    suspicion: OnceLock<Failure>,
    finished: AtomicBool,
    waker: AtomicWaker,
    /// Told once the request has finished or failed.
    ended: Notify,
    /// One of the worker's permits, given back when the request ends, whoever still holds its body.
    permit: Mutex<Option<OwnedSemaphorePermit>>,
    subrequests: AtomicU32,
    log_bytes: AtomicU64,
}

impl RequestContext {
    pub(crate) fn new(id: String, worker: Arc<str>, wall: Option<Duration>) -> Arc<Self> {
        Arc::new(Self {
            id,
            worker,
            started: Instant::now(),
            wall,
            failure: OnceLock::new(),
            suspicion: OnceLock::new(),
            finished: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            ended: Notify::new(),
            permit: Mutex::new(None),
            subrequests: AtomicU32::new(0),
            log_bytes: AtomicU64::new(0),
        })
    }

    /// The id in logs, error pages and the `x-request-id` header.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The worker's name.
    pub fn worker(&self) -> &str {
        &self.worker
    }

    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// How long it may take, where a worker's requests may take `wall`.
    pub(crate) fn wall(&self, wall: Duration) -> Duration {
        self.wall.unwrap_or(wall)
    }

    /// Counts one outbound request or call of a binding, and says whether it is within `limit`.
    pub(crate) fn charge_subrequest(&self, limit: u32) -> bool {
        self.subrequests.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < limit).then_some(n + 1)).is_ok()
    }

    /// Counts `bytes` of log and gives the total before them.
    pub(crate) fn charge_log(&self, bytes: u64) -> u64 {
        self.log_bytes.fetch_add(bytes, Ordering::Relaxed)
    }

    /// Ends the request. The first reason stays.
    pub(crate) fn fail(&self, failure: Failure) {
        let _ = self.failure.set(failure);
        self.end();
    }

    fn end(&self) {
        drop(self.permit.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.ended.notify_one();
        self.waker.wake();
    }

    /// Keeps `permit` until the request ends.
    pub(crate) fn hold(&self, permit: OwnedSemaphorePermit) {
        *self.permit.lock().unwrap_or_else(PoisonError::into_inner) = Some(permit);
    }

    /// Fails the request at `deadline` unless it has ended by then.
    pub(crate) async fn watch(self: Arc<Self>, deadline: Instant, failure: Failure) {
        if tokio::time::timeout_at(deadline.into(), self.ended.notified()).await.is_err() {
            self.fail(failure);
        }
    }

    /// Why the request was ended, if it was.
    pub(crate) fn failure(&self) -> Option<Failure> {
        self.failure.get().cloned()
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failure.get().is_some()
    }

    /// The best explanation of a trap.
    pub(crate) fn explain_trap(&self) -> Failure {
        self.failure.get().or(self.suspicion.get()).cloned().unwrap_or(Failure::Exception)
    }

    /// The answer has been given in full; the guest may go on with work that follows it.
    pub(crate) fn finish(&self) {
        self.finished.store(true, Ordering::Release);
        self.end();
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    pub(crate) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }
}

/// Ids of requests that do not repeat and cannot be guessed from one another's process.
#[derive(Debug)]
pub struct RequestIds {
    base: u64,
    next: AtomicU64,
}

impl Default for RequestIds {
    fn default() -> Self {
        Self::new()
    }
}

impl RequestIds {
    /// A new sequence.
    pub fn new() -> Self {
        Self { base: getrandom::u64().unwrap_or_default(), next: AtomicU64::new(0) }
    }

    /// The next id: 16 hexadecimal digits.
    pub fn next(&self) -> String {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        // An odd multiplier permutes the 64-bit numbers, so ids differ and do not show how many there were.
        format!("{:016x}", self.base.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }
}

/// The request that an instance works on, shared by the store's meters and the task that drives it. An instance has at
/// most one request whose answer is not finished, so what it uses and writes is that request's.
#[derive(Default)]
pub(crate) struct Slot(Mutex<Option<Arc<RequestContext>>>);

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<RequestContext>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, request: Arc<RequestContext>) {
        *self.lock() = Some(request);
    }

    pub(crate) fn get(&self) -> Option<Arc<RequestContext>> {
        self.lock().clone()
    }

    /// As [`Self::get`] for a look, which spares a count of references where looks are many.
    pub(crate) fn look<T>(&self, at: impl FnOnce(&RequestContext) -> T) -> Option<T> {
        self.lock().as_deref().map(at)
    }

    pub(crate) fn fail(&self, failure: Failure) {
        if let Some(request) = self.get() {
            request.fail(failure);
        }
    }

    /// Remembers what may explain a trap to come.
    pub(crate) fn note(&self, failure: Failure) {
        if let Some(request) = self.get() {
            let _ = request.suspicion.set(failure);
        }
    }
}
