//! How many calls of a model are under way elsewhere, and how many of each tenant may wait.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{AiError, Tenant};

/// When a tenant whose line is full may come back.
const RETRY_AFTER: Duration = Duration::from_secs(1);

pub(super) struct Places {
    free: Arc<Semaphore>,
    waiting: Arc<Mutex<HashMap<Tenant, usize>>>,
    /// Calls of one tenant that may wait.
    queue: NonZeroUsize,
}

impl Places {
    pub(super) fn new(places: NonZeroUsize, queue: NonZeroUsize) -> Self {
        let places = places.get().min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(places)), waiting: Arc::default(), queue }
    }

    /// A place among the calls under way, waited for in a line of bounded length.
    pub(super) async fn take(&self, tenant: &Tenant) -> Result<OwnedSemaphorePermit, AiError> {
        if let Ok(permit) = self.free.clone().try_acquire_owned() {
            return Ok(permit);
        }
        let _waiting = Waiting::begin(&self.waiting, tenant, self.queue)?;
        self.free.clone().acquire_owned().await.map_err(|_| AiError::aborted())
    }
}

/// A call that waits, counted until it does so no more.
struct Waiting {
    of: Arc<Mutex<HashMap<Tenant, usize>>>,
    tenant: Tenant,
}

impl Waiting {
    fn begin(of: &Arc<Mutex<HashMap<Tenant, usize>>>, tenant: &Tenant, most: NonZeroUsize) -> Result<Self, AiError> {
        let mut counts = of.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(tenant.clone()).or_default();
        if *count >= most.get() {
            return Err(AiError::capacity_exceeded(RETRY_AFTER));
        }
        *count += 1;
        Ok(Self { of: of.clone(), tenant: tenant.clone() })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut counts = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn each_tenant_has_a_line_of_its_own() {
        let one = NonZeroUsize::MIN;
        let places = Places::new(one, one);
        let (a, b) = (Tenant::from("a"), Tenant::from("b"));
        let taken = places.take(&a).await.unwrap();
        let mut first = Box::pin(places.take(&a));
        assert!(first.as_mut().now_or_never().is_none());
        assert_eq!(places.take(&a).await.unwrap_err().code, 3040);
        let other = Box::pin(places.take(&b));
        assert!(other.now_or_never().is_none(), "another's line is empty, and is left");
        drop(taken);
        drop(first.await.unwrap());
        assert!(places.waiting.lock().unwrap().is_empty());
    }
}
