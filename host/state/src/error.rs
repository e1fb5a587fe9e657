//! What can go wrong with a file of the state.

use std::path::{Path, PathBuf};

/// Why the state could not be read or written.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// A directory or file cannot be made or opened.
    #[error("{}: {reason}", .path.display())]
    Open {
        /// The directory or file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// The file is no database, or a broken one.
    #[error(
        "{}: the store is damaged ({reason}); it was left as it is. Restore a backup with `host state restore`, or move \
         the file away to begin with an empty store",
        .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        reason: String,
    },
    /// The file was written by a later version of the host.
    #[error("{}: the store has version {found} and this host knows versions up to {known}; use a newer host", .path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// The version of its schema.
        found: u32,
        /// The last version that this host knows.
        known: u32,
    },
    /// The disk is full. Nothing of the write was kept, and the store can be read.
    #[error("{}: the disk is full; nothing of this write was kept", .path.display())]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// A statement failed for another reason.
    #[error("{}: {reason}", .path.display())]
    Statement {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        reason: String,
    },
    /// A name that cannot name a file of the state.
    #[error("{0:?} cannot name a store: names have lower-case letters, digits, `-` and `_`, up to 64")]
    Name(String),
    /// A directory that is to be written has something in it.
    #[error("{}: is not empty", .path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// A directory that is to be restored from has no database.
    #[error("{}: there is no backup: it has no databases", .path.display())]
    NoBackup {
        /// The directory.
        path: PathBuf,
    },
    /// The writer has stopped: the process is about to end.
    #[error("{}: the store is closed", .path.display())]
    Closed {
        /// The file.
        path: PathBuf,
    },
}

impl StateError {
    /// What an error of SQLite means for the file at `path`.
    pub fn of(path: &Path, error: &rusqlite::Error) -> Self {
        use rusqlite::ErrorCode;
        let (path, reason) = (path.to_owned(), error.to_string());
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged { path, reason },
            Some(ErrorCode::DiskFull) => Self::Full { path },
            Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
                Self::Open { path, reason }
            }
            _ => Self::Statement { path, reason },
        }
    }

    pub(crate) fn io(path: &Path, error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::StorageFull => Self::Full { path: path.to_owned() },
            _ => Self::Open { path: path.to_owned(), reason: error.to_string() },
        }
    }
}
