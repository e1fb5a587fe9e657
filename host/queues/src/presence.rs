//! Whether another process consumes a queue.
//!
//! A lease of a process that was killed would otherwise keep its messages until it ends. Each consuming process holds a
//! shared lock on a file beside the queue, and the system lets go of it when the process ends, however it ends. So
//! who gets that lock alone knows that every lease in the queue is of a process that is gone. Where files cannot be
//! locked, nobody is ever alone, and leases end by their time.

use std::fs::{File, OpenOptions};
use std::path::Path;

/// A lock on the file of a queue's consumers, exclusive until it is shared.
pub(crate) struct Presence {
    file: Option<File>,
    alone: bool,
}

impl Presence {
    /// Opens the file and tries to be the only one who has it. Blocks on the disk.
    pub(crate) fn take(path: &Path) -> Self {
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path);
        match file {
            Ok(file) => {
                let alone = file.try_lock().is_ok();
                Self { file: Some(file), alone }
            }
            Err(error) => {
                tracing::debug!("{} cannot be locked: {error}", path.display());
                Self { file: None, alone: false }
            }
        }
    }

    pub(crate) fn is_alone(&self) -> bool {
        self.alone
    }

    /// Lets others consume as well. May wait for another process that is about to do the same.
    pub(crate) fn share(self) -> Self {
        if let Some(file) = &self.file {
            let _ = file.lock_shared();
        }
        self
    }
}
