//! The queues of a project, each opened once in a process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use host_state::Directory;

use crate::{Queue, QueueError};

/// The folder of the state that queues lie in.
pub(crate) const FOLDER: &str = "queues";

/// Milliseconds since 1970.
pub(crate) type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// The queues in a directory. Producers and consumers of one process share them, so that a message that is sent wakes
/// who waits for it. Cheap to clone.
#[derive(Clone)]
pub struct Queues {
    directory: Directory,
    clock: Clock,
    open: Arc<Mutex<HashMap<String, Queue>>>,
}

impl Queues {
    /// The queues in a directory. Nothing is made before a queue is used.
    pub fn new(directory: Directory) -> Self {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
        Self::with_clock(directory, now)
    }

    /// As [`Self::new`], with a clock of the caller's: milliseconds since 1970.
    pub fn with_clock(directory: Directory, clock: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Self { directory, clock: Arc::new(clock), open: Arc::default() }
    }

    /// The queue of this name. Its file is opened when it is first needed.
    ///
    /// # Errors
    /// When the name is none.
    pub fn queue(&self, name: &str) -> Result<Queue, QueueError> {
        check_name(name)?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let queue =
            open.entry(name.to_owned()).or_insert_with(|| Queue::new(name, self.directory.clone(), self.clock.clone()));
        Ok(queue.clone())
    }

    /// The names of the queues that have a file, sorted. Blocks on the disk.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn names(&self) -> Result<Vec<String>, QueueError> {
        let mut names = self.directory.names(FOLDER)?;
        names.retain(|name| check_name(name).is_ok());
        Ok(names)
    }
}

/// Whether a queue may have this name: as on Cloudflare, which is also what a file may be called.
///
/// # Errors
/// When it may not.
pub fn check_name(name: &str) -> Result<(), QueueError> {
    let sound = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty() || name.len() > 63 || name.starts_with('-') || !name.bytes().all(sound) {
        return Err(QueueError::Name(name.chars().filter(|c| !c.is_control()).take(100).collect()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_files() {
        for good in ["q", "my-queue-2", &"a".repeat(63)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "-q", "Q", "../q", "a b", "a_b", "q\0", "é", &"a".repeat(64)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
