//! Taking batches from a queue and saying what became of them.
//!
//! A batch is due when it is full, or when its first message has waited for as long as the policy lets it. Messages of
//! this process wake the consumer at once; those of others are found by looking once in a while.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::message::{Decision, Delivery};
use crate::queue::{Queue, oldest, token};
use crate::store::{self, Look, Terms};
use crate::{Metrics, QueueError};

/// How long a lease lasts that nobody renews: how long messages are held up when a process is killed and another one
/// consumes the queue too.
pub const LEASE: Duration = Duration::from_secs(60);
/// How often it is renewed while its batch is being handled.
const RENEW: Duration = Duration::from_secs(20);
/// How often a queue is looked at that other processes may write to.
const LOOK: Duration = Duration::from_secs(1);

/// How messages are delivered. The defaults are Cloudflare's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Messages of one batch.
    pub batch: usize,
    /// How long the first message of a batch waits for others.
    pub wait: Duration,
    /// Deliveries after the first.
    pub retries: u32,
    /// Seconds before a message is delivered again.
    pub retry_delay: u32,
    /// How long a lease lasts.
    pub lease: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self { batch: 10, wait: Duration::from_secs(5), retries: 3, retry_delay: 0, lease: LEASE }
    }
}

impl Policy {
    fn deliveries(&self) -> u32 {
        self.retries.saturating_add(1)
    }
}

/// Who handles the messages of a queue.
pub struct Consumer {
    queue: Queue,
    policy: Policy,
    /// Where messages go whose retries are used up; none for nowhere.
    dead_letters: Option<Queue>,
}

/// Messages under one lease.
#[derive(Debug)]
pub struct Batch {
    token: String,
    /// The messages, at least one. They begin with that which has waited longest.
    pub messages: Vec<Delivery>,
    /// What the queue held when they were leased, they among it.
    pub metrics: Metrics,
}

impl Consumer {
    /// A consumer of `queue`.
    pub fn new(queue: Queue, policy: Policy, dead_letters: Option<Queue>) -> Self {
        Self { queue, policy, dead_letters }
    }

    /// The queue.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// How many messages a batch has at most.
    pub fn batch_size(&self) -> usize {
        self.policy.batch
    }

    /// Waits until a batch is due. Another consumer may lease it first.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub async fn ready(&self) -> Result<(), QueueError> {
        self.queue.join().await?;
        let mut changes = self.queue.changes();
        loop {
            changes.mark_unchanged();
            let look = self.queue.look(self.policy.batch).await?;
            let wait = due(&look, &self.policy, self.queue.now());
            if wait == Some(Duration::ZERO) {
                return Ok(());
            }
            // Either way there may be something new.
            let _ = timeout(wait.unwrap_or(LOOK).min(LOOK), changes.changed()).await;
        }
    }

    /// Waits until a batch is due and leases it. A future that is dropped while it leases leaves the lease behind, which
    /// ends by itself.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub async fn batch(&self) -> Result<Batch, QueueError> {
        loop {
            self.ready().await?;
            if let Some(batch) = self.lease().await? {
                return Ok(batch);
            }
        }
    }

    /// Leases what is there now, if anything is.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub async fn lease(&self) -> Result<Option<Batch>, QueueError> {
        let now = self.queue.now();
        let terms = Terms {
            token: token(32),
            until_ms: self.lease_end(now),
            batch: self.policy.batch,
            deliveries: self.policy.deliveries(),
        };
        let name = terms.token.clone();
        let leased = self.queue.write(move |connection, sql| {
            sql.ok(store::expire(connection, now, oldest(now)))?;
            let (messages, dead) = sql.ok(store::lease(connection, now, &terms))?;
            Ok((messages, dead, sql.ok(store::counts(connection))?))
        });
        let (messages, dead, counts) = leased.await?;
        self.bury(&name, dead).await?;
        Ok((!messages.is_empty()).then_some(Batch { token: name, messages, metrics: counts.into() }))
    }

    fn lease_end(&self, now: i64) -> i64 {
        now.saturating_add(self.policy.lease.as_millis() as i64)
    }

    /// Keeps a lease from ending for as long as the future is polled. Never ready.
    pub async fn keep(&self, batch: &Batch) -> std::convert::Infallible {
        loop {
            sleep(RENEW.min(self.policy.lease / 3)).await;
            let (token, until) = (batch.token.clone(), self.lease_end(self.queue.now()));
            let renewed =
                self.queue.write(move |connection, sql| sql.ok(store::renew(connection, &token, until))).await;
            if let Err(error) = renewed {
                tracing::warn!(queue = self.queue.name(), "a lease cannot be renewed: {error}");
            }
        }
    }

    /// Carries out what was decided of each message of a batch, in its order; messages without a decision are tried
    /// again. What the batch no longer holds, because its lease has ended, is left alone.
    ///
    /// # Errors
    /// When the file cannot be written. Then the messages come back when the lease ends.
    pub async fn settle(&self, batch: Batch, decisions: &[Decision]) -> Result<(), QueueError> {
        let retry = Decision::Retry { delay: None };
        let decisions = decisions.iter().copied().chain(std::iter::repeat(retry));
        let decisions: Vec<_> = batch.messages.iter().map(|message| message.seq).zip(decisions).collect();
        let (now, token) = (self.queue.now(), batch.token.clone());
        let (deliveries, delay) = (self.policy.deliveries(), self.policy.retry_delay);
        let settled = self.queue.write(move |connection, sql| {
            sql.ok(store::settle(connection, now, &token, deliveries, delay, &decisions))
        });
        let dead = settled.await?;
        self.bury(&batch.token, dead).await?;
        self.queue.changed();
        Ok(())
    }

    /// Passes on messages whose retries are used up, and only then removes them: a process that is killed in between
    /// leaves them in both queues rather than in none.
    async fn bury(&self, token: &str, dead: Vec<Delivery>) -> Result<(), QueueError> {
        if dead.is_empty() {
            return Ok(());
        }
        let (queue, count) = (self.queue.name(), dead.len());
        match &self.dead_letters {
            Some(letters) => {
                let (messages, now) = (dead.clone(), letters.now());
                letters.write(move |connection, sql| sql.ok(store::insert_dead(connection, now, &messages))).await?;
                letters.changed();
                tracing::warn!(
                    queue,
                    to = letters.name(),
                    count,
                    "messages have used up their retries and are passed on"
                );
            }
            None => {
                let ids: Vec<&str> = dead.iter().take(10).map(|message| message.id.as_str()).collect();
                let ids = ids.join(", ");
                tracing::warn!(
                    queue,
                    count,
                    ids,
                    "messages have used up their retries and are dropped (no dead_letter_queue)"
                );
            }
        }
        let (token, dropped) = (token.to_owned(), self.dead_letters.is_none());
        self.queue.write(move |connection, sql| sql.ok(store::bury(connection, &token, &dead, dropped))).await
    }
}

/// How long until a batch is due: zero for now, none for as long as nothing changes.
fn due(look: &Look, policy: &Policy, now: i64) -> Option<Duration> {
    if look.paused {
        return None;
    }
    if look.ready >= policy.batch {
        return Some(Duration::ZERO);
    }
    let until = |at: i64| Duration::from_millis(u64::try_from(at.saturating_sub(now)).unwrap_or(0));
    let full = look.since_ms.map(|since| until(since.saturating_add(policy.wait.as_millis() as i64)));
    // The next message may fill the batch.
    let next = look.next_ms.map(|next| until(next).max(Duration::from_millis(1)));
    match (full, next) {
        (Some(full), Some(next)) => Some(full.min(next)),
        (full, next) => full.or(next),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_due_when_it_is_full_or_its_first_message_has_waited() {
        let policy = Policy::default();
        let look = |ready, since_ms, next_ms| Look { ready, since_ms, next_ms, paused: false };
        assert_eq!(due(&look(0, None, None), &policy, 0), None);
        assert_eq!(due(&look(10, Some(0), None), &policy, 0), Some(Duration::ZERO));
        assert_eq!(due(&look(1, Some(1000), None), &policy, 2000), Some(Duration::from_secs(4)));
        assert_eq!(due(&look(1, Some(1000), Some(2500)), &policy, 2000), Some(Duration::from_millis(500)));
        assert_eq!(due(&look(1, Some(1000), Some(9000)), &policy, 7000), Some(Duration::ZERO));
        assert_eq!(due(&look(0, None, Some(9000)), &policy, 7000), Some(Duration::from_secs(2)));
        assert_eq!(due(&Look { paused: true, ..look(10, Some(0), None) }, &policy, 0), None);
        assert_eq!(
            due(&look(1, Some(i64::MAX), None), &policy, i64::MIN),
            Some(Duration::from_millis(i64::MAX as u64))
        );
    }
}
