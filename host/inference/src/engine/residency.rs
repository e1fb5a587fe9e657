//! Which models are in memory: each loaded once, kept while there is room, least recently used out first.
//!
//! Loading takes seconds and happens on a thread of its own, so no async worker waits for a disk, and a caller who
//! leaves does not undo the load for the others who wait for it. Whoever uses a model holds a [`Lease`]; only models
//! without leases may be unloaded, because a model in use would stay in memory anyway and the budget would lie. Out of
//! the same budget comes what models take for the work of requests ([`crate::room`]).

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::Shared;

use crate::AiError;
use crate::backend::Model;
use crate::room::{Lender, Lending, Room};

/// How long to wait before asking again for a model that found no room.
const RETRY_AFTER: Duration = Duration::from_secs(5);

type Outcome = Result<Lease, AiError>;

/// The models in memory.
pub(super) struct Residency(Arc<Books>);

struct Books {
    table: Mutex<Table>,
    /// When something was given back.
    given_back: Condvar,
    budget: Option<u64>,
}

#[derive(Default)]
struct Table {
    slots: HashMap<String, Slot>,
    clock: u64,
    closed: bool,
    /// Bytes set aside for the work of requests.
    reserved: u64,
    /// Places of those who wait for some, in order.
    waiting: VecDeque<u64>,
    places: u64,
}

enum Slot {
    Loading { outcome: Shared<oneshot::Receiver<Outcome>>, bytes: u64 },
    Ready { lease: Lease, bytes: u64, last_used: u64 },
}

impl Slot {
    fn bytes(&self) -> u64 {
        match self {
            Slot::Loading { bytes, .. } | Slot::Ready { bytes, .. } => *bytes,
        }
    }
}

/// A model that stays in memory at least as long as this.
#[derive(Clone)]
pub(super) struct Lease(Arc<Loaded>);

struct Loaded {
    name: String,
    model: Model,
}

impl Lease {
    pub(super) fn model(&self) -> Model {
        self.0.model.clone()
    }

    pub(super) fn name(&self) -> &str {
        &self.0.name
    }

    fn idle(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

impl Residency {
    pub(super) fn new(budget: Option<u64>) -> Self {
        Self(Arc::new(Books { table: Mutex::default(), given_back: Condvar::new(), budget }))
    }

    /// What the model `name` of `weights` bytes asks for the memory of its work.
    pub(super) fn room(&self, name: &str, weights: u64) -> Room {
        if self.0.budget.is_none() {
            return Room::default();
        }
        Room::new(self.0.clone(), name, weights)
    }

    /// A lease on a model that is in memory already.
    pub(super) fn held(&self, name: &str) -> Result<Option<Lease>, AiError> {
        self.0.lock().held(name)
    }

    /// A lease on `name`, loaded by `load` unless it is in memory or on its way there. A failed load is reported to
    /// all who wait for it, and the next request tries again.
    pub(super) async fn acquire(
        &self,
        name: &str,
        bytes: u64,
        load: impl FnOnce() -> Result<Model, AiError> + Send + 'static,
    ) -> Outcome {
        let outcome = {
            let mut table = self.0.lock();
            if let Some(lease) = table.held(name)? {
                return Ok(lease);
            }
            match table.slots.get(name) {
                Some(Slot::Loading { outcome, .. }) => outcome.clone(),
                _ => {
                    let evicted = table.make_room(name, bytes, self.0.budget)?;
                    let (sender, receiver) = oneshot::channel();
                    let outcome = receiver.shared();
                    table.slots.insert(name.to_owned(), Slot::Loading { outcome: outcome.clone(), bytes });
                    if let Err(error) = self.start(name.to_owned(), bytes, evicted, load, sender) {
                        table.slots.remove(name);
                        return Err(AiError::internal(format_args!("no thread to load {name} on: {error}")));
                    }
                    outcome
                }
            }
        };
        outcome.await.unwrap_or_else(|_| Err(AiError::internal(format_args!("loading {name} was given up"))))
    }

    fn start(
        &self,
        name: String,
        bytes: u64,
        evicted: Vec<Slot>,
        load: impl FnOnce() -> Result<Model, AiError> + Send + 'static,
        sender: oneshot::Sender<Outcome>,
    ) -> std::io::Result<()> {
        let shared = Arc::clone(&self.0);
        let work = move || {
            drop(evicted);
            let started = Instant::now();
            tracing::info!(model = name, bytes, "loading model");
            let result = catch_unwind(AssertUnwindSafe(load))
                .unwrap_or_else(|_| Err(AiError::internal(format_args!("loading {name} failed unexpectedly"))));
            let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            match &result {
                Ok(_) => tracing::info!(model = name, bytes, milliseconds, "model loaded"),
                Err(error) => tracing::warn!(model = name, milliseconds, %error, "model failed to load"),
            }
            let outcome = shared.lock().settle(name, bytes, result);
            // Nobody may be waiting any more; the model stays for the next request all the same.
            let _ = sender.send(outcome);
        };
        std::thread::Builder::new().name("model-load".to_owned()).spawn(work).map(drop)
    }

    /// The names of the models in memory.
    pub(super) fn loaded(&self) -> Vec<String> {
        let table = self.0.lock();
        let ready = table.slots.iter().filter(|(_, slot)| matches!(slot, Slot::Ready { .. }));
        ready.map(|(name, _)| name.clone()).collect()
    }

    /// Refuses everything from now on and lets go of the models, off the async workers: freeing gigabytes takes time.
    pub(super) async fn close(&self) {
        let slots = {
            let mut table = self.0.lock();
            table.closed = true;
            std::mem::take(&mut table.slots)
        };
        let (sender, done) = oneshot::channel::<()>();
        let free = move || {
            drop(slots);
            drop(sender);
        };
        if std::thread::Builder::new().name("model-unload".to_owned()).spawn(free).is_ok() {
            let _ = done.await;
        }
    }
}

impl Table {
    fn held(&mut self, name: &str) -> Result<Option<Lease>, AiError> {
        if self.closed {
            return Err(AiError::aborted());
        }
        self.clock += 1;
        let now = self.clock;
        Ok(match self.slots.get_mut(name) {
            Some(Slot::Ready { lease, last_used, .. }) => {
                *last_used = now;
                Some(lease.clone())
            }
            _ => None,
        })
    }

    /// Takes out idle models, least recently used first, until `bytes` more fit into `budget`. Takes out nothing when
    /// that cannot be reached.
    fn make_room(&mut self, name: &str, bytes: u64, budget: Option<u64>) -> Result<Vec<Slot>, AiError> {
        let Some(budget) = budget else { return Ok(Vec::new()) };
        if bytes > budget {
            return Err(AiError::model_unavailable(format_args!(
                "{name} takes {bytes} bytes of memory and the models' budget is {budget}. Raise the budget or use a \
                 smaller model"
            )));
        }
        self.evict(name, bytes, budget).ok_or_else(|| AiError::capacity_exceeded(RETRY_AFTER))
    }

    /// Takes out idle models but `name`, as far as `bytes` more then fit; none when they do not.
    fn evict(&mut self, name: &str, bytes: u64, budget: u64) -> Option<Vec<Slot>> {
        let used: u64 = self.slots.values().map(Slot::bytes).fold(self.reserved, u64::saturating_add);
        let mut excess = used.saturating_add(bytes).saturating_sub(budget);
        let idle = self.slots.iter().filter_map(|(other, slot)| match slot {
            Slot::Ready { lease, bytes, last_used } if lease.idle() && other != name => {
                Some((*last_used, *bytes, other.clone()))
            }
            _ => None,
        });
        let mut idle: Vec<_> = idle.collect();
        idle.sort_unstable();
        let mut leaving = Vec::new();
        for (_, bytes, name) in idle {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(bytes);
            leaving.push(name);
        }
        if excess > 0 {
            return None;
        }
        let unload = |name: String| {
            tracing::info!(model = name, "unloading model to make room");
            self.slots.remove(&name)
        };
        Some(leaving.into_iter().filter_map(unload).collect())
    }

    fn settle(&mut self, name: String, bytes: u64, result: Result<Model, AiError>) -> Outcome {
        self.slots.remove(&name);
        let model = result?;
        if self.closed {
            return Err(AiError::aborted());
        }
        self.clock += 1;
        let lease = Lease(Arc::new(Loaded { name: name.clone(), model }));
        self.slots.insert(name, Slot::Ready { lease: lease.clone(), bytes, last_used: self.clock });
        Ok(lease)
    }
}

impl Books {
    /// The table is valid after every statement, so a panic elsewhere while it was locked does not spoil it.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lender for Books {
    fn lend(&self, name: &str, bytes: u64, place: Option<u64>) -> Lending {
        let mut table = self.lock();
        let first = table.waiting.front().copied();
        if first.is_some_and(|first| Some(first) != place) {
            return Lending::Later;
        }
        let evicted = table.evict(name, bytes, self.budget());
        if evicted.is_some() {
            table.reserved = table.reserved.saturating_add(bytes);
        }
        let under_way = table.reserved > 0;
        // Freeing gigabytes takes time, and a model that ends locks what is its own.
        drop(table);
        match evicted {
            Some(_) => Lending::Lent,
            None if under_way => Lending::Later,
            None => Lending::Full,
        }
    }

    fn give_back(&self, bytes: u64) {
        let mut table = self.lock();
        table.reserved = table.reserved.saturating_sub(bytes);
        drop(table);
        self.given_back.notify_all();
    }

    fn stand(&self) -> u64 {
        let mut table = self.lock();
        table.places += 1;
        let place = table.places;
        table.waiting.push_back(place);
        place
    }

    fn leave(&self, place: u64) {
        self.lock().waiting.retain(|other| *other != place);
        self.given_back.notify_all();
    }

    fn wait(&self, most: Duration) {
        let waited = self.given_back.wait_timeout(self.lock(), most);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn budget(&self) -> u64 {
        self.budget.unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::executor::block_on;
    use futures::future::{BoxFuture, join_all};

    use super::*;
    use crate::Tenant;
    use crate::backend::{Embeddings, Pooling, TextEmbeddings};

    struct Nothing;

    impl TextEmbeddings for Nothing {
        fn embed(&self, _: Tenant, _: Vec<String>, _: Pooling) -> BoxFuture<'_, Result<Embeddings, AiError>> {
            Box::pin(async { Ok(Embeddings { vectors: Vec::new(), tokens: 0 }) })
        }
        fn dimensions(&self) -> usize {
            0
        }
        fn default_pooling(&self) -> Pooling {
            Pooling::Mean
        }
    }

    fn model() -> Result<Model, AiError> {
        Ok(Model::TextEmbeddings(Arc::new(Nothing)))
    }

    #[test]
    fn those_who_come_together_share_one_load() {
        let residency = Residency::new(None);
        let loads = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new(std::sync::Barrier::new(2));
        let ask = |_| {
            let (loads, gate) = (Arc::clone(&loads), Arc::clone(&gate));
            residency.acquire("m", 1, move || {
                loads.fetch_add(1, Ordering::SeqCst);
                gate.wait();
                model()
            })
        };
        let open = Arc::clone(&gate);
        let opener = std::thread::spawn(move || open.wait());
        let leases = block_on(join_all((0..20).map(ask)));
        opener.join().unwrap();
        assert!(leases.iter().all(Result::is_ok));
        assert_eq!(loads.load(Ordering::SeqCst), 1);
        assert_eq!(residency.loaded(), ["m"]);
    }

    #[test]
    fn a_failed_load_is_told_to_all_and_tried_again() {
        let residency = Residency::new(None);
        let failures: [fn() -> Result<Model, AiError>; 2] =
            [|| Err(AiError::model_unavailable("broken")), || panic!("a loader's fault")];
        for fail in failures {
            let failed = block_on(join_all((0..5).map(|_| residency.acquire("m", 1, fail))));
            assert!(failed.iter().all(Result::is_err));
        }
        assert!(residency.loaded().is_empty());
        assert!(block_on(residency.acquire("m", 1, model)).is_ok());
    }

    #[test]
    fn a_caller_who_leaves_does_not_undo_the_load() {
        let residency = Residency::new(None);
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let load = move || {
            wait.recv().unwrap();
            model()
        };
        assert!(residency.acquire("m", 1, load).now_or_never().is_none());
        go.send(()).unwrap();
        let other = || -> Result<Model, AiError> { panic!("the first load goes on") };
        assert!(block_on(residency.acquire("m", 1, other)).is_ok());
    }

    #[test]
    fn models_in_use_stay_and_idle_ones_leave_oldest_first() {
        let residency = Residency::new(Some(10));
        let acquire = |name: &str, bytes| block_on(residency.acquire(name, bytes, model));
        let in_use = acquire("used", 4).unwrap();
        drop(acquire("old", 3).unwrap());
        drop(acquire("young", 3).unwrap());
        drop(acquire("next", 3).unwrap());
        let mut loaded = residency.loaded();
        loaded.sort();
        assert_eq!(loaded, ["next", "used", "young"]);
        let refused = acquire("large", 7).err().unwrap();
        assert_eq!((refused.code, refused.retry_after), (3040, Some(RETRY_AFTER)));
        assert_eq!(residency.loaded().len(), 3, "nothing leaves for what does not fit anyway");
        assert_eq!(acquire("huge", 11).err().unwrap().code, 3046);
        drop(in_use);
        assert!(acquire("large", 7).is_ok());
    }

    /// A model of 4 bytes in a budget of 10, and what it asks for memory.
    fn furnished() -> (Residency, Lease, Room) {
        let residency = Residency::new(Some(10));
        let lease = block_on(residency.acquire("m", 4, model)).unwrap();
        let room = residency.room("m", 4);
        (residency, lease, room)
    }

    fn go_on() -> Result<(), AiError> {
        Ok(())
    }

    fn code<T>(result: Result<T, AiError>) -> u32 {
        result.err().unwrap().code
    }

    #[test]
    fn work_that_never_fits_beside_its_model_is_refused_by_size_and_key() {
        let (_residency, _lease, room) = furnished();
        let refused = room.reserve(7, "a picture", &go_on).err().unwrap();
        assert_eq!((refused.code, refused.retry_after), (5006, None));
        assert!(
            refused.message.contains("a picture takes 1 MiB") && refused.message.contains("memory_mb"),
            "{refused}"
        );
        assert!(room.reserve(6, "a picture", &go_on).is_ok());
        assert!(Residency::new(None).room("m", 4).reserve(u64::MAX, "anything", &go_on).is_ok(), "no budget, no bound");
    }

    #[test]
    fn what_fits_only_one_after_the_other_both_ends_in_order() {
        let (residency, _lease, room) = furnished();
        let first = room.reserve(4, "first", &go_on).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| room.reserve(5, "second", &go_on).map(drop));
            while residency.0.lock().waiting.is_empty() {
                std::thread::yield_now();
            }
            assert!(room.reserve_now(1, "third").unwrap().is_none(), "it fits, but nobody passes one who waits");
            drop(first);
            assert_eq!(second.join().unwrap(), Ok(()));
        });
        assert!(room.reserve_now(6, "fourth").unwrap().is_some(), "all was given back");
        assert_eq!(residency.0.lock().reserved, 0);
    }

    #[test]
    fn a_waiter_who_leaves_holds_up_nobody() {
        let (residency, _lease, room) = furnished();
        let held = room.reserve(4, "first", &go_on).unwrap();
        assert_eq!(code(room.reserve(5, "second", &|| Err(AiError::aborted()))), 3008);
        assert!(residency.0.lock().waiting.is_empty());
        assert!(room.reserve_now(2, "third").unwrap().is_some());
        drop(held);
    }

    #[test]
    fn idle_models_leave_for_work_but_not_the_one_that_works() {
        let (residency, lease, room) = furnished();
        drop(block_on(residency.acquire("old", 3, model)).unwrap());
        drop(block_on(residency.acquire("young", 3, model)).unwrap());
        // Its request was given up, so that only the work itself knows of it.
        drop(lease);
        let held = room.reserve(3, "work", &go_on).unwrap();
        let mut loaded = residency.loaded();
        loaded.sort();
        assert_eq!(loaded, ["m", "young"]);
        assert_eq!(code(block_on(residency.acquire("old", 8, model))), 3040, "what is reserved counts");
        drop(held);
        assert!(block_on(residency.acquire("old", 8, model)).is_ok());
    }

    #[test]
    fn models_in_use_are_not_waited_for_forever() {
        let (residency, _lease, room) = furnished();
        let other = block_on(residency.acquire("other", 6, model)).unwrap();
        let (one, two) = (room.clone(), residency.room("other", 6));
        // Each waits for the other's model to leave.
        let refused = std::thread::scope(|scope| {
            let waits = [
                scope.spawn(move || one.reserve(1, "one", &go_on)),
                scope.spawn(move || two.reserve(1, "two", &go_on)),
            ];
            waits.map(|wait| code(wait.join().unwrap()))
        });
        assert_eq!(refused, [3040, 3040]);
        drop(other);
        assert!(room.reserve(6, "work", &go_on).is_ok());
        assert_eq!(residency.loaded(), ["m"]);
    }

    #[test]
    fn nothing_is_loaded_after_closing() {
        let residency = Residency::new(None);
        let kept = block_on(residency.acquire("m", 1, model)).unwrap();
        block_on(residency.close());
        assert_eq!(residency.held("m").err().unwrap().code, 3008);
        assert_eq!(block_on(residency.acquire("n", 1, model)).err().unwrap().code, 3008);
        assert_eq!(kept.name(), "m");
    }
}
