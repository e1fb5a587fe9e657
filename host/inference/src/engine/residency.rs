//! Which models are in memory: each loaded once, kept while there is room, least recently used out first.
//!
//! Loading takes seconds and happens on a thread of its own, so no async worker waits for a disk, and a caller who
//! leaves does not undo the load for the others who wait for it. Whoever uses a model holds a [`Lease`]; only models
//! without leases may be unloaded, because a model in use would stay in memory anyway and the budget would lie.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::Shared;

use crate::AiError;
use crate::backend::Model;

/// How long to wait before asking again for a model that found no room.
const RETRY_AFTER: Duration = Duration::from_secs(5);

type Outcome = Result<Lease, AiError>;

/// The models in memory.
pub(super) struct Residency {
    table: Arc<Mutex<Table>>,
    budget: Option<u64>,
}

#[derive(Default)]
struct Table {
    slots: HashMap<String, Slot>,
    clock: u64,
    closed: bool,
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
        Self { table: Arc::default(), budget }
    }

    /// A lease on a model that is in memory already.
    pub(super) fn held(&self, name: &str) -> Result<Option<Lease>, AiError> {
        lock(&self.table).held(name)
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
            let mut table = lock(&self.table);
            if let Some(lease) = table.held(name)? {
                return Ok(lease);
            }
            match table.slots.get(name) {
                Some(Slot::Loading { outcome, .. }) => outcome.clone(),
                _ => {
                    let evicted = table.make_room(name, bytes, self.budget)?;
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
        let table = Arc::clone(&self.table);
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
            let outcome = lock(&table).settle(name, bytes, result);
            // Nobody may be waiting any more; the model stays for the next request all the same.
            let _ = sender.send(outcome);
        };
        std::thread::Builder::new().name("model-load".to_owned()).spawn(work).map(drop)
    }

    /// The names of the models in memory.
    pub(super) fn loaded(&self) -> Vec<String> {
        let table = lock(&self.table);
        let ready = table.slots.iter().filter(|(_, slot)| matches!(slot, Slot::Ready { .. }));
        ready.map(|(name, _)| name.clone()).collect()
    }

    /// Refuses everything from now on and lets go of the models, off the async workers: freeing gigabytes takes time.
    pub(super) async fn close(&self) {
        let slots = {
            let mut table = lock(&self.table);
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
        let used: u64 = self.slots.values().map(Slot::bytes).fold(0, u64::saturating_add);
        let mut excess = used.saturating_add(bytes).saturating_sub(budget);
        let idle = self.slots.iter().filter_map(|(name, slot)| match slot {
            Slot::Ready { lease, bytes, last_used } if lease.idle() => Some((*last_used, *bytes, name.clone())),
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
            return Err(AiError::capacity_exceeded(RETRY_AFTER));
        }
        let unload = |name: String| {
            tracing::info!(model = name, "unloading model to make room");
            self.slots.remove(&name)
        };
        Ok(leaving.into_iter().filter_map(unload).collect())
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

/// The table is valid after every statement, so a panic elsewhere while it was locked does not spoil it.
fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
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
