//! One queue, as its producers and those who look on use it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use host_state::rusqlite::{self, Connection};
use host_state::{Database, Directory};
use serde::Serialize;
use tokio::sync::{OnceCell, watch};

use crate::QueueError;
use crate::message::{NewMessage, Peeked, check};
use crate::presence::Presence;
use crate::queues::{Clock, FOLDER};
use crate::store::{self, Counts, Look};

/// How long a message is kept that nobody handles, in dead-letter queues too: 4 days.
pub const RETENTION: Duration = Duration::from_secs(4 * 24 * 60 * 60);
/// Bytes of bodies that a queue holds: 1 GiB. Beyond it producers are refused; what other queues give up still comes in.
pub const MAX_BYTES: u64 = 1 << 30;

/// Messages that are removed in one transaction.
const PURGE_AT_ONCE: usize = 10_000;

/// A queue. Cheap to clone.
#[derive(Clone)]
pub struct Queue(Arc<Inner>);

struct Inner {
    name: String,
    directory: Directory,
    clock: Clock,
    database: OnceCell<Database>,
    /// That this process consumes the queue, once it does.
    presence: OnceCell<Presence>,
    /// Counts what changed, for those who wait.
    changes: watch::Sender<u64>,
}

/// What a queue holds, as a producer is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Metrics {
    /// Messages in it.
    pub backlog_count: u64,
    /// Bytes of their bodies.
    pub backlog_bytes: u64,
    /// When the oldest of them was sent, in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_message_timestamp: Option<i64>,
}

/// All that a queue counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Info {
    /// Messages in it.
    pub messages: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Messages that wait for a consumer.
    pub ready: u64,
    /// Messages whose delay has not passed.
    pub delayed: u64,
    /// Messages that a consumer has.
    pub leased: u64,
    /// Whether delivery is paused.
    pub paused: bool,
    /// Messages that were passed on to a dead-letter queue, ever.
    pub dead_lettered: u64,
    /// Messages whose retries were used up without a dead-letter queue, ever.
    pub dropped: u64,
    /// Messages that grew too old, ever.
    pub expired: u64,
    /// When the oldest message was sent, in milliseconds since 1970.
    pub oldest_ms: Option<i64>,
}

impl From<Counts> for Metrics {
    fn from(counts: Counts) -> Self {
        Self { backlog_count: counts.messages, backlog_bytes: counts.bytes, oldest_message_timestamp: counts.oldest_ms }
    }
}

impl Queue {
    pub(crate) fn new(name: &str, directory: Directory, clock: Clock) -> Self {
        Self(Arc::new(Inner {
            name: name.to_owned(),
            directory,
            clock,
            database: OnceCell::new(),
            presence: OnceCell::new(),
            changes: watch::Sender::new(0),
        }))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Sends messages: all or none. When this has answered they are on the disk.
    ///
    /// # Errors
    /// When a bound is broken, the queue is full, or the file cannot be written.
    pub async fn send(&self, messages: Vec<NewMessage>) -> Result<Metrics, QueueError> {
        check(&messages)?;
        let messages: Vec<(String, NewMessage)> = messages.into_iter().map(|message| (token(32), message)).collect();
        let (now, name) = (self.now(), self.0.name.clone());
        let sent = self.write(move |connection, sql| {
            sql.ok(store::expire(connection, now, oldest(now)))?;
            let counts = sql.ok(store::counts(connection))?;
            let more: u64 = messages.iter().map(|(_, message)| message.body.len() as u64).sum();
            if counts.bytes.saturating_add(more) > MAX_BYTES {
                return Err(QueueError::Full { queue: name, bytes: counts.bytes, limit: MAX_BYTES });
            }
            sql.ok(store::insert(connection, now, &messages))?;
            sql.ok(store::counts(connection))
        });
        let counts = sent.await?;
        self.changed();
        Ok(counts.into())
    }

    /// What it holds.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn metrics(&self) -> Result<Metrics, QueueError> {
        self.read(|connection, sql| sql.ok(store::counts(connection))).await.map(Metrics::from)
    }

    /// All that it counts.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn info(&self) -> Result<Info, QueueError> {
        let now = self.now();
        let (counts, (ready, delayed, leased)) = self
            .read(move |connection, sql| {
                Ok((sql.ok(store::counts(connection))?, sql.ok(store::places(connection, now))?))
            })
            .await?;
        Ok(Info {
            messages: counts.messages,
            bytes: counts.bytes,
            ready,
            delayed,
            leased,
            paused: counts.paused,
            dead_lettered: counts.dead,
            dropped: counts.dropped,
            expired: counts.expired,
            oldest_ms: counts.oldest_ms,
        })
    }

    /// The oldest messages, up to `most`. They stay where they are.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn peek(&self, most: usize) -> Result<Vec<Peeked>, QueueError> {
        let now = self.now();
        self.read(move |connection, sql| sql.ok(store::peek(connection, now, most))).await
    }

    /// Removes every message that is there now. Gives how many.
    ///
    /// # Errors
    /// When the file cannot be written; then some may be gone.
    pub async fn purge(&self) -> Result<u64, QueueError> {
        let mut purged = 0;
        loop {
            let now = self.write(|connection, sql| sql.ok(store::purge(connection, PURGE_AT_ONCE))).await?;
            purged += now as u64;
            if now < PURGE_AT_ONCE {
                self.changed();
                return Ok(purged);
            }
        }
    }

    /// Pauses delivery, or lets it go on. Producers notice nothing.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub async fn set_paused(&self, paused: bool) -> Result<(), QueueError> {
        self.write(move |connection, sql| sql.ok(store::set_paused(connection, paused))).await?;
        self.changed();
        Ok(())
    }

    pub(crate) async fn look(&self, batch: usize) -> Result<Look, QueueError> {
        let now = self.now();
        self.read(move |connection, sql| sql.ok(store::look(connection, now, batch))).await
    }

    pub(crate) fn now(&self) -> i64 {
        (self.0.clock)()
    }

    /// Tells those who wait in this process that there may be something new.
    pub(crate) fn changed(&self) {
        self.0.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Says that this process consumes the queue. Leases of consumers that have ended are taken back, if no other process
    /// consumes it too.
    pub(crate) async fn join(&self) -> Result<(), QueueError> {
        let joined = self.0.presence.get_or_try_init(|| async {
            self.database().await?;
            let path = self.path("consumers")?;
            let presence = blocking(move || Ok(Presence::take(&path))).await?;
            if presence.is_alone() {
                let now = self.now();
                let released = self.write(move |connection, sql| sql.ok(store::release(connection, now))).await?;
                if released > 0 {
                    tracing::info!(
                        queue = self.name(),
                        released,
                        "messages of a consumer that has ended are delivered again"
                    );
                }
            }
            let share = move || Ok(presence.share());
            blocking(share).await
        });
        joined.await.map(|_| ())
    }

    fn path(&self, extension: &str) -> Result<PathBuf, QueueError> {
        Ok(self.0.directory.file(FOLDER, &self.0.name)?.with_extension(extension))
    }

    async fn database(&self) -> Result<&Database, QueueError> {
        let open = || async {
            let (directory, name) = (self.0.directory.clone(), self.0.name.clone());
            blocking(move || Ok(directory.database(FOLDER, &name, store::MIGRATIONS)?)).await
        };
        self.0.database.get_or_try_init(open).await
    }

    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection, &Explain) -> Result<T, QueueError> + Send + 'static,
    ) -> Result<T, QueueError> {
        let database = self.database().await?;
        let explain = Explain(database.clone());
        database.write(move |connection| work(connection, &explain)).await
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection, &Explain) -> Result<T, QueueError> + Send + 'static,
    ) -> Result<T, QueueError> {
        let database = self.database().await?;
        let explain = Explain(database.clone());
        database.read(move |connection| work(connection, &explain)).await
    }
}

/// What an error of SQLite means for this queue's file.
pub(crate) struct Explain(Database);

impl Explain {
    pub(crate) fn ok<T>(&self, answer: rusqlite::Result<T>) -> Result<T, QueueError> {
        answer.map_err(|error| self.0.error(&error).into())
    }
}

/// When what is too old now was sent.
pub(crate) fn oldest(now: i64) -> i64 {
    now.saturating_sub(RETENTION.as_millis() as i64)
}

/// A name of so many hexadecimal digits that nothing else has.
pub(crate) fn token(digits: usize) -> String {
    let mut bytes = vec![0; digits / 2];
    // Without the system's randomness a name would not be unique, and an empty one is refused by the table.
    if getrandom::fill(&mut bytes).is_err() {
        return String::new();
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Runs `work` on a thread that may wait for the disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, QueueError> + Send + 'static,
) -> Result<T, QueueError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // Only a runtime that shuts down, or a panic, loses it.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
