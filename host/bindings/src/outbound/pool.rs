//! Connections that wait for their worker's next request to the same place.
//!
//! A connection is kept for the policy that opened it and for the endpoint it was opened for: the name, the port and
//! whether TLS proved the name. Another worker never gets it, however alike the rules, since a server may have tied
//! state to it. The policy is asked again about the address before reuse, so that no change to how connections get
//! here can turn the pool into a way round the filter. A connection waits for a short while only, so a name that has
//! moved is soon looked up anew.

use super::connection::Connection;
use super::policy::Policy;
use super::target::Endpoint;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::time::Instant;

/// How long a connection waits before it is closed. Most servers wait longer, so they seldom close one under a request.
const IDLE: Duration = Duration::from_secs(20);
/// How often waiting connections are looked over.
const SWEEP: Duration = Duration::from_secs(5);
/// Connections that wait for one worker and one endpoint.
const PER_KEY: usize = 8;
/// Connections that wait in all; the longest waiting makes room.
const IN_ALL: usize = 256;

/// What must be equal for a connection to be used again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    policy: u64,
    endpoint: Endpoint,
}

impl Key {
    /// The key for requests of `policy`'s worker to `endpoint`.
    pub(super) fn new(policy: &Policy, endpoint: &Endpoint) -> Self {
        Self { policy: policy.id(), endpoint: endpoint.clone() }
    }
}

/// The waiting connections, longest waiting first. At most [`IN_ALL`], so a scan is cheaper than an index.
#[derive(Default)]
pub(super) struct Pool(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    connections: VecDeque<Idle>,
    swept: bool,
}

struct Idle {
    key: Key,
    since: Instant,
    connection: Connection,
}

impl Waiting {
    fn prune(&mut self) {
        self.connections.retain(|idle| idle.since.elapsed() < IDLE && !idle.connection.is_closed());
    }
}

impl Pool {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the most recently used connection for `key` whose address `policy` still permits.
    pub(super) fn take(&self, key: &Key, policy: &Policy) -> Option<Connection> {
        let mut waiting = self.waiting();
        waiting.prune();
        let found = waiting
            .connections
            .iter()
            .rposition(|idle| idle.key == *key && policy.permits(&key.endpoint, idle.connection.address()).is_ok())?;
        waiting.connections.remove(found).map(|idle| idle.connection)
    }

    /// Keeps `connection` for `key`, unless enough wait for it already. Must be called on a runtime.
    pub(super) fn put(self: &Arc<Self>, key: Key, connection: Connection) {
        let mut waiting = self.waiting();
        waiting.prune();
        if connection.is_closed() || waiting.connections.iter().filter(|idle| idle.key == key).count() >= PER_KEY {
            return;
        }
        if waiting.connections.len() >= IN_ALL {
            waiting.connections.pop_front();
        }
        waiting.connections.push_back(Idle { key, since: Instant::now(), connection });
        if !waiting.swept {
            waiting.swept = true;
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    /// How many connections wait that could be used.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let mut waiting = self.waiting();
        waiting.prune();
        waiting.connections.len()
    }
}

/// Closes connections that have waited too long, for as long as any wait.
async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut waiting = pool.waiting();
        waiting.prune();
        if waiting.connections.is_empty() {
            waiting.swept = false;
            return;
        }
    }
}
