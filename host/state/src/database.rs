//! One file: a writer, and readers as they are needed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::writer::{self, Job, Told};
use crate::{StateError, open};

/// Reads of one file at the same time; more wait.
const READERS: usize = 8;

/// A file of the state. Cheap to clone; the file is closed when the last clone is dropped and what was sent is written.
#[derive(Clone)]
pub struct Database(Arc<Inner>);

struct Inner {
    path: PathBuf,
    writer: mpsc::Sender<Job>,
    idle: Mutex<Vec<Connection>>,
    readers: Arc<Semaphore>,
}

impl Database {
    /// Opens the file at `path`, which is made if it is not there, and applies those of `migrations` that it has not had.
    /// A migration is never changed once it was released: a change is a new one at the end. Blocks on the disk.
    ///
    /// # Errors
    /// When the file is damaged, of another program, of a later version, or cannot be opened.
    pub fn open(path: &Path, migrations: &[&str]) -> Result<Self, StateError> {
        let connection = open::writer(path, migrations)?;
        let writer = writer::start(path, connection)?;
        let readers = Arc::new(Semaphore::new(READERS));
        Ok(Self(Arc::new(Inner { path: path.to_owned(), writer, idle: Mutex::default(), readers })))
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Runs `work` in a transaction on the writer's thread. An `Err` of it undoes what it wrote; an `Ok` is answered when
    /// it is on the disk. Dropping the future does not stop a write that was sent.
    ///
    /// # Errors
    /// Those of `work`, and of the transaction around it.
    pub async fn write<T, E>(&self, work: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StateError> + Send + 'static,
    {
        let (job, answer) = job(work);
        self.0.writer.send(job).await.map_err(|_| self.closed())?;
        answer.await.map_err(|_| self.closed())?
    }

    /// As [`Self::write`], for threads that are no async workers.
    ///
    /// # Errors
    /// As there.
    pub fn write_blocking<T, E>(&self, work: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StateError> + Send + 'static,
    {
        let (job, answer) = job(work);
        self.0.writer.blocking_send(job).map_err(|_| self.closed())?;
        answer.blocking_recv().map_err(|_| self.closed())?
    }

    /// Runs `work` on a thread that may block, on the state that was last committed. All of its statements see the same
    /// state. It cannot write.
    ///
    /// # Errors
    /// Those of `work`, and of opening a reader.
    pub async fn read<T, E>(&self, work: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StateError> + Send + 'static,
    {
        let permit = self.0.readers.clone().acquire_owned().await.map_err(|_| self.closed())?;
        let this = self.clone();
        let read = tokio::task::spawn_blocking(move || {
            let answer = this.read_blocking(work);
            drop(permit);
            answer
        });
        read.await.map_err(|_| self.closed())?
    }

    /// As [`Self::read`], for threads that are no async workers.
    ///
    /// # Errors
    /// As there.
    pub fn read_blocking<T, E>(&self, work: impl FnOnce(&Connection) -> Result<T, E>) -> Result<T, E>
    where
        E: From<StateError>,
    {
        let idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => open::reader(&self.0.path)?,
        };
        connection.execute_batch("BEGIN").map_err(|error| self.error(&error))?;
        let answer = work(&connection);
        // A connection whose transaction does not end is not used again.
        if connection.execute_batch("COMMIT").is_ok() {
            let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < READERS {
                idle.push(connection);
            }
        }
        answer
    }

    /// What an error of SQLite means for this file.
    pub fn error(&self, error: &rusqlite::Error) -> StateError {
        StateError::of(&self.0.path, error)
    }

    fn closed(&self) -> StateError {
        StateError::Closed { path: self.0.path.clone() }
    }
}

/// A job for the writer, and where its answer arrives.
fn job<T, E>(work: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static) -> (Job, oneshot::Receiver<Result<T, E>>)
where
    T: Send + 'static,
    E: From<StateError> + Send + 'static,
{
    let (sender, receiver) = oneshot::channel();
    let job: Job = Box::new(move |connection| {
        let answer = work(connection);
        let kept = answer.is_ok();
        let tell: Told = Box::new(move |committed| {
            let answer = match committed {
                Err(error) if answer.is_ok() => Err(E::from(error.clone())),
                _ => answer,
            };
            // Whoever asked may have left.
            let _ = sender.send(answer);
        });
        (kept, tell)
    });
    (job, receiver)
}
