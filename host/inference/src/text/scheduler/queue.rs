//! The queue between callers and the model's thread.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::text::sequence::Job;
use crate::{AiError, Tenant};

/// After how long a refused caller should try again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A tenant's place in the queue, given back when the job starts or is given up.
pub(crate) struct Place {
    places: Arc<Mutex<HashMap<Tenant, usize>>>,
    tenant: Tenant,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = places.get_mut(&self.tenant) {
            *taken -= 1;
            if *taken == 0 {
                places.remove(&self.tenant);
            }
        }
    }
}

/// What callers leave for the model's thread.
pub(crate) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    /// How many jobs of each tenant wait. The bound is a tenant's own, so that nobody is refused because another asks much.
    places: Arc<Mutex<HashMap<Tenant, usize>>>,
    limit: usize,
}

#[derive(Default)]
struct State {
    arrived: Vec<(Job, Place)>,
    stopping: bool,
}

impl Queue {
    pub(crate) fn new(limit: usize) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), places: Arc::default(), limit }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place.
    ///
    /// # Errors
    /// [`AiError::capacity_exceeded`] when as many of the tenant's jobs wait as may.
    pub(crate) fn place(&self, tenant: &Tenant) -> Result<Place, AiError> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = places.entry(tenant.clone()).or_insert(0);
        if *taken >= self.limit {
            return Err(AiError::capacity_exceeded(RETRY_AFTER));
        }
        *taken += 1;
        Ok(Place { places: self.places.clone(), tenant: tenant.clone() })
    }

    /// Lets `job` wait for its turn.
    pub(crate) fn push(&self, job: Job, place: Place) {
        self.lock().arrived.push((job, place));
        self.changed.notify_one();
    }

    /// Ends the model's thread at its next step.
    pub(crate) fn stop(&self) {
        let mut state = self.lock();
        state.stopping = true;
        state.arrived.clear();
        drop(state);
        self.changed.notify_one();
    }

    /// The jobs that have arrived; with `wait` there is at least one. None when the thread should end.
    pub(super) fn take(&self, wait: bool) -> Option<Vec<(Job, Place)>> {
        let idle = |state: &mut State| wait && !state.stopping && state.arrived.is_empty();
        let mut state = self.changed.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        (!state.stopping).then(|| std::mem::take(&mut state.arrived))
    }
}
