//! Where requests wait for a model that computes one at a time, fairly between tenants.
//!
//! A [`Desk`] owns the model and the thread that it computes on. Each tenant has a bounded line of its own and the lines
//! take turns, so one who asks much waits longer and nobody else does. Who stops waiting is passed over, and work that
//! takes long looks at its [`Ticket`] between steps, to stop when nobody waits any more.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::oneshot;

use crate::room::{Reservation, Room};
use crate::{AiError, Tenant};

/// When to ask again after a full line.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A model, its thread and those who wait for it. Dropping it ends the thread once its current work is done; those who
/// wait get 3008.
pub(crate) struct Desk<M> {
    lines: Arc<Lines<Work<M>>>,
}

/// What a piece of work knows of the one who waits for it.
#[derive(Clone)]
pub(crate) struct Ticket {
    left: Arc<AtomicBool>,
    deadline: Option<Instant>,
}

impl Ticket {
    /// To be asked between steps.
    ///
    /// # Errors
    /// 3008 when nobody waits any more, 3007 after the deadline.
    pub(crate) fn check(&self) -> Result<(), AiError> {
        if self.left.load(Ordering::Relaxed) {
            return Err(AiError::aborted());
        }
        match self.deadline {
            Some(deadline) if deadline <= Instant::now() => Err(AiError::timeout()),
            _ => Ok(()),
        }
    }

    /// Waits for `bytes` of memory for `what`.
    ///
    /// # Errors
    /// As [`Room::reserve`], and as [`Self::check`].
    pub(crate) fn reserve(&self, room: &Room, bytes: u64, what: &str) -> Result<Reservation, AiError> {
        room.reserve(bytes, what, &|| self.check())
    }
}

/// Tells the work when the one who waits is gone.
struct Leave(Arc<AtomicBool>);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

type Work<M> = Box<dyn FnOnce(&mut M, &Ticket) + Send>;

impl<M: Send + 'static> Desk<M> {
    /// Starts the thread `name` for `model`. `bound` requests of a tenant may wait.
    pub(crate) fn open(name: &str, bound: NonZeroUsize, mut model: M) -> std::io::Result<Self> {
        let lines = Arc::new(Lines::new(bound));
        let waiting = Arc::clone(&lines);
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            while let Some(Waiting { ticket, work, .. }) = waiting.next() {
                let work: Work<M> = work;
                work(&mut model, &ticket);
            }
        })?;
        Ok(Self { lines })
    }

    /// Lets `work` wait for its turn with the model. Dropping the future gives it up.
    ///
    /// # Errors
    /// 3040 when the tenant's line is full, 3007 after `deadline`, 3008 when the desk closes first, 3043 if the work
    /// panics, and whatever `work` reports.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        tenant: Tenant,
        deadline: Option<Instant>,
        work: impl FnOnce(&mut M, &Ticket) -> Result<T, AiError> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, AiError>> {
        self.queue(tenant, deadline, true, work)
    }

    /// As [`Self::run`], for the next part of work of which the first is done: it waits for its turn, but a full line
    /// does not refuse it.
    pub(crate) fn go_on<T: Send + 'static>(
        &self,
        tenant: Tenant,
        deadline: Option<Instant>,
        work: impl FnOnce(&mut M, &Ticket) -> Result<T, AiError> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, AiError>> {
        self.queue(tenant, deadline, false, work)
    }

    fn queue<T: Send + 'static>(
        &self,
        tenant: Tenant,
        deadline: Option<Instant>,
        bounded: bool,
        work: impl FnOnce(&mut M, &Ticket) -> Result<T, AiError> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, AiError>> {
        self.lines.queue(tenant, deadline, bounded, move |reply| {
            Box::new(move |model: &mut M, ticket: &Ticket| {
                let done = catch_unwind(AssertUnwindSafe(|| ticket.check().and_then(|()| work(model, ticket))));
                let done = done.unwrap_or_else(|_| {
                    tracing::error!("a model's work panicked");
                    Err(AiError::internal("the model's work failed unexpectedly"))
                });
                // Whoever waited may have gone.
                let _ = reply.send(done);
            })
        })
    }
}

impl<M> Drop for Desk<M> {
    fn drop(&mut self) {
        self.lines.close();
    }
}

/// Those who wait, in a line for each tenant. `W` is what is to be done for one of them.
pub(crate) struct Lines<W> {
    state: Mutex<State<W>>,
    arrived: Condvar,
    bound: usize,
}

/// One who waits.
pub(crate) struct Waiting<W> {
    pub(crate) tenant: Tenant,
    pub(crate) ticket: Ticket,
    pub(crate) work: W,
}

struct State<W> {
    /// Tenants with waiting work, next turn first. A tenant is here exactly when its line is not empty.
    turns: VecDeque<Tenant>,
    lines: HashMap<Tenant, VecDeque<Waiting<W>>>,
    closed: bool,
}

impl<W> Lines<W> {
    /// No one waits yet. `bound` requests of a tenant may.
    pub(crate) fn new(bound: NonZeroUsize) -> Self {
        let state = State { turns: VecDeque::new(), lines: HashMap::new(), closed: false };
        Self { state: Mutex::new(state), arrived: Condvar::new(), bound: bound.get() }
    }

    /// Lets the work that `make` gives wait; it is to tell its outcome to the sender. Dropping the future gives it up.
    ///
    /// # Errors
    /// 3040 when the tenant's line is full, 3008 when the lines close or the sender is dropped first, and what is sent.
    pub(crate) fn wait<T: Send + 'static>(
        &self,
        tenant: Tenant,
        deadline: Option<Instant>,
        make: impl FnOnce(oneshot::Sender<Result<T, AiError>>) -> W,
    ) -> BoxFuture<'static, Result<T, AiError>> {
        self.queue(tenant, deadline, true, make)
    }

    /// As [`Self::wait`]; a full line refuses only what is `bounded`.
    fn queue<T: Send + 'static>(
        &self,
        tenant: Tenant,
        deadline: Option<Instant>,
        bounded: bool,
        make: impl FnOnce(oneshot::Sender<Result<T, AiError>>) -> W,
    ) -> BoxFuture<'static, Result<T, AiError>> {
        let (reply, answer) = oneshot::channel();
        let left = Arc::new(AtomicBool::new(false));
        let ticket = Ticket { left: left.clone(), deadline };
        let queued = self.push(Waiting { tenant, ticket, work: make(reply) }, bounded);
        // Made here, so that a future that is never polled tells too.
        let leave = Leave(left);
        async move {
            let _leave = leave;
            if !queued {
                return Err(AiError::capacity_exceeded(RETRY_AFTER));
            }
            answer.await.unwrap_or_else(|_| Err(AiError::aborted()))
        }
        .boxed()
    }

    fn lock(&self) -> MutexGuard<'_, State<W>> {
        // Nothing that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False if there is no room where the line is `bounded`, or nobody works any more.
    fn push(&self, waiting: Waiting<W>, bounded: bool) -> bool {
        let mut state = self.lock();
        if state.closed {
            return false;
        }
        let tenant = waiting.tenant.clone();
        let line = state.lines.entry(tenant.clone()).or_default();
        if line.len() >= self.bound {
            line.retain(|waiting| waiting.ticket.check().is_ok());
        }
        if bounded && line.len() >= self.bound {
            return false;
        }
        line.push_back(waiting);
        if !state.turns.contains(&tenant) {
            state.turns.push_back(tenant);
        }
        drop(state);
        self.arrived.notify_one();
        true
    }

    /// The next whose turn it is and who still waits. Blocks until there is one; none once the lines are closed.
    pub(crate) fn next(&self) -> Option<Waiting<W>> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(waiting) = state.take(|_| true) {
                return Some(waiting);
            }
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next for whom `admit` says so, if one is there. Of each tenant the first is asked about.
    pub(crate) fn next_of(&self, admit: impl FnMut(&Waiting<W>) -> bool) -> Option<Waiting<W>> {
        self.lock().take(admit)
    }

    /// Lets nobody wait any more; those who do get 3008.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.lines.clear();
        state.turns.clear();
        drop(state);
        self.arrived.notify_all();
    }
}

impl<W> State<W> {
    /// Takes out the first whose tenant's turn it is, who still waits and whom `admit` admits. Tenants whose first is not
    /// admitted keep their turn.
    fn take(&mut self, mut admit: impl FnMut(&Waiting<W>) -> bool) -> Option<Waiting<W>> {
        let mut at = 0;
        while let Some(tenant) = self.turns.get(at).cloned() {
            let line = self.lines.entry(tenant.clone()).or_default();
            while line.front().is_some_and(|waiting| waiting.ticket.check() == Err(AiError::aborted())) {
                line.pop_front();
            }
            let taken = if line.front().is_some_and(&mut admit) { line.pop_front() } else { None };
            let empty = line.is_empty();
            if empty {
                self.lines.remove(&tenant);
            }
            if empty || taken.is_some() {
                self.turns.remove(at);
            } else {
                at += 1;
            }
            if !empty && taken.is_some() {
                self.turns.push_back(tenant);
            }
            if taken.is_some() {
                return taken;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const TWO: NonZeroUsize = NonZeroUsize::new(2).unwrap();

    /// A desk whose thread is held up until the sender is used or dropped.
    fn busy(bound: NonZeroUsize) -> (Desk<Vec<u32>>, mpsc::Sender<()>) {
        let desk = Desk::open("desk-test", bound, Vec::new()).unwrap();
        let (go, held) = mpsc::channel();
        let (started, start) = mpsc::channel();
        drop(tokio::spawn(desk.run("first".into(), None, move |_, _| {
            started.send(()).unwrap();
            let _ = held.recv();
            Ok(())
        })));
        start.recv().unwrap();
        (desk, go)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tenants_take_turns() {
        let (desk, go) = busy(NonZeroUsize::new(8).unwrap());
        let note = |tenant: &str, number| {
            desk.run(tenant.into(), None, move |order: &mut Vec<u32>, _| {
                order.push(number);
                Ok(order.clone())
            })
        };
        let waiting = [note("a", 1), note("a", 2), note("a", 3), note("b", 4)];
        drop(go);
        let orders = futures::future::join_all(waiting).await;
        assert_eq!(orders[2], Ok(vec![1, 4, 2, 3]));
    }

    #[tokio::test]
    async fn who_is_not_admitted_keeps_their_turn() {
        let lines = Lines::new(TWO);
        let mut waiting: Vec<_> = [("a", 1), ("a", 2), ("b", 3), ("c", 4)]
            .into_iter()
            .map(|(tenant, number)| lines.wait::<()>(tenant.into(), None, |_| number))
            .collect();
        let next = |admit: fn(&Waiting<i32>) -> bool| lines.next_of(admit).map(|waiting| waiting.work);
        assert_eq!(next(|waiting| waiting.work > 2), Some(3));
        assert_eq!(next(|_| false), None);
        assert_eq!(next(|_| true), Some(1), "it was the turn of a");
        drop(waiting.pop());
        assert_eq!(next(|waiting| waiting.work == 4), None, "c has left");
        assert_eq!((next(|_| true), next(|_| true)), (Some(2), None));
        lines.close();
        assert_eq!(waiting.swap_remove(0).await, Err(AiError::aborted()));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_full_line_is_refused_and_those_who_left_take_no_room() {
        let (desk, go) = busy(TWO);
        let ask = |tenant: &str| desk.run(tenant.into(), None, |_, _| Ok(()));
        let (one, two) = (ask("a"), ask("a"));
        assert_eq!(ask("a").await.map_err(|error| error.code), Err(3040));
        let other = ask("b");
        drop(one);
        let three = ask("a");
        drop(go);
        assert_eq!((two.await, three.await, other.await), (Ok(()), Ok(()), Ok(())));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_goes_on_is_not_refused() {
        let (desk, go) = busy(TWO);
        let (one, two) = (desk.run("a".into(), None, |_, _| Ok(())), desk.run("a".into(), None, |_, _| Ok(())));
        let on = desk.go_on("a".into(), None, |_, _| Ok(()));
        let refused = desk.run("a".into(), None, |_, _| Ok(()));
        assert_eq!(refused.await.map_err(|error| error.code), Err(3040));
        drop(go);
        assert_eq!((one.await, two.await, on.await), (Ok(()), Ok(()), Ok(())));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn work_learns_that_nobody_waits_and_that_it_is_late() {
        let (desk, go) = busy(TWO);
        let late = desk.run("a".into(), Some(Instant::now()), |_, _| Ok(()));
        let (told, heard) = mpsc::channel();
        let (began, begin) = mpsc::channel();
        let given_up = tokio::spawn(desk.run("b".into(), None, move |_, ticket| {
            began.send(()).unwrap();
            while ticket.check().is_ok() {
                std::thread::yield_now();
            }
            told.send(ticket.check()).unwrap();
            Ok(())
        }));
        drop(go);
        assert_eq!(late.await, Err(AiError::timeout()));
        begin.recv().unwrap();
        given_up.abort();
        assert_eq!(heard.recv().unwrap(), Err(AiError::aborted()));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_panic_is_one_request_s_error_and_an_end_is_told() {
        let desk = Desk::open("desk-test", TWO, ()).unwrap();
        let error = desk.run::<()>("a".into(), None, |(), _| panic!("on purpose")).await;
        assert_eq!(error.map_err(|error| error.code), Err(3043));
        assert_eq!(desk.run("a".into(), None, |(), _| Ok(7)).await, Ok(7));
    }
}
