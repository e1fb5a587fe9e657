//! The thread that writes one file.
//!
//! Writes that wait together become one transaction, because what a write costs is its flush to the disk. Each runs in a
//! savepoint: one that fails is undone alone. Whoever waits hears of success only when the transaction is committed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use rusqlite::Connection;
use tokio::sync::mpsc;

use crate::StateError;

/// Writes that share one transaction at most.
const BATCH: usize = 256;
/// Writes that may wait; more wait outside, with whoever sends them.
const WAITING: usize = 1024;

/// What is told to whoever waits for a write, once it is known whether the transaction was committed.
pub(crate) type Told = Box<dyn FnOnce(Result<(), &StateError>) + Send>;

/// A write: whether it worked, and what tells its sender.
pub(crate) type Job = Box<dyn FnOnce(&Connection) -> (bool, Told) + Send>;

/// Starts the thread. It ends when every sender is gone and what was sent is written.
pub(crate) fn start(path: &Path, connection: Connection) -> Result<mpsc::Sender<Job>, StateError> {
    let (sender, jobs) = mpsc::channel(WAITING);
    let owned = path.to_owned();
    std::thread::Builder::new()
        .name("state-writer".into())
        .spawn(move || write_all(&owned, &connection, jobs))
        .map_err(|error| StateError::io(path, &error))?;
    Ok(sender)
}

fn write_all(path: &Path, connection: &Connection, mut jobs: mpsc::Receiver<Job>) {
    let mut batch = Vec::new();
    while jobs.blocking_recv_many(&mut batch, BATCH) > 0 {
        let mut told = Vec::with_capacity(batch.len());
        let written = transaction(connection, batch.drain(..), &mut told).map_err(|error| {
            let error = StateError::of(path, &error);
            tracing::warn!("{error}");
            error
        });
        batch.clear();
        for tell in told {
            tell(written.as_ref().copied());
        }
    }
}

/// Runs the jobs in one transaction. Those that are dropped unrun tell their senders by that.
fn transaction(
    connection: &Connection,
    jobs: impl Iterator<Item = Job>,
    told: &mut Vec<Told>,
) -> Result<(), rusqlite::Error> {
    let done = (|| {
        connection.execute_batch("BEGIN IMMEDIATE")?;
        for job in jobs {
            connection.execute_batch("SAVEPOINT job")?;
            // A panic of one job must not end the writer of all.
            let kept = match catch_unwind(AssertUnwindSafe(|| job(connection))) {
                Ok((kept, tell)) => {
                    told.push(tell);
                    kept
                }
                Err(_) => false,
            };
            if connection.is_autocommit() {
                // SQLite has undone the whole transaction, as it does on a full disk.
                let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
                return Err(rusqlite::Error::SqliteFailure(code, None));
            }
            connection.execute_batch(if kept { "RELEASE job" } else { "ROLLBACK TO job; RELEASE job" })?;
        }
        connection.execute_batch("COMMIT")
    })();
    if done.is_err() && !connection.is_autocommit() {
        let _ = connection.execute_batch("ROLLBACK");
    }
    done
}
