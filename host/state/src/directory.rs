//! The directory of a project's state.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::{Database, StateError};

/// Where a project's state lies unless it is said otherwise, below the directory of its binding file.
pub const IN_PROJECT: &str = ".host/state";

/// A directory of databases. Each is opened once in a process, whoever asks. Cheap to clone.
#[derive(Clone)]
pub struct Directory(Arc<Inner>);

struct Inner {
    path: PathBuf,
    open: Mutex<HashMap<String, Database>>,
}

impl Directory {
    /// The directory at `path`. It is made when the first database in it is.
    pub fn new(path: &Path) -> Self {
        Self(Arc::new(Inner { path: path.to_owned(), open: Mutex::default() }))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The database `name` in the folder `kind`, as in `vectorize` and `notes`. See [`Database::open`]. Blocks on the disk.
    ///
    /// # Errors
    /// When either is no name for a file, or the file cannot be opened.
    pub fn database(&self, kind: &str, name: &str, migrations: &[&str]) -> Result<Database, StateError> {
        let file = self.file(kind, name)?;
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        let key = format!("{kind}/{name}");
        if let Some(database) = open.get(&key) {
            return Ok(database.clone());
        }
        private_directory(&self.0.path)?;
        private_directory(&self.0.path.join(kind))?;
        let database = Database::open(&file, migrations)?;
        open.insert(key, database.clone());
        Ok(database)
    }

    /// Where the database `name` of the folder `kind` lies, whether it is there or not.
    ///
    /// # Errors
    /// When either is no name for a file.
    pub fn file(&self, kind: &str, name: &str) -> Result<PathBuf, StateError> {
        for part in [kind, name] {
            if !is_name(part) {
                return Err(StateError::Name(part.to_owned()));
            }
        }
        Ok(self.0.path.join(kind).join(format!("{name}.sqlite3")))
    }

    /// The names of the databases in the folder `kind`, sorted.
    ///
    /// # Errors
    /// When the folder cannot be read. One that is not there has none.
    pub fn names(&self, kind: &str) -> Result<Vec<String>, StateError> {
        let folder = self.0.path.join(kind);
        let entries = match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|error| StateError::io(&folder, &error))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| StateError::io(&folder, &error))?;
            let name = entry.file_name();
            let name = name.to_str().and_then(|name| name.strip_suffix(".sqlite3"));
            names.extend(name.filter(|name| self.file(kind, name).is_ok()).map(str::to_owned));
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Forgets the open database of this name, so that the next who asks opens the file that is there then.
    ///
    /// # Errors
    /// When either is no name for a file.
    pub fn close(&self, kind: &str, name: &str) -> Result<(), StateError> {
        self.file(kind, name)?;
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&format!("{kind}/{name}"));
        Ok(())
    }

    /// Closes the database and removes its file, if it is there. Whoever still holds it fails from now on.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn remove(&self, kind: &str, name: &str) -> Result<bool, StateError> {
        let file = self.file(kind, name)?;
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&format!("{kind}/{name}"));
        let mut removed = false;
        // The journal goes first: without its database it would be taken for that of the next one of this name.
        for suffix in ["-wal", "-shm", ""] {
            let mut path = file.clone().into_os_string();
            path.push(suffix);
            match std::fs::remove_file(&path) {
                Ok(()) => removed = suffix.is_empty(),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(StateError::io(Path::new(&path), &error)),
            }
        }
        Ok(removed)
    }
}

/// Whether a folder or a file of the state may have this name.
pub(crate) fn is_name(name: &str) -> bool {
    let sound = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    (1..=64).contains(&name.len()) && name.bytes().all(sound)
}

/// Makes a directory that only its owner reads: what workers keep may be anything.
pub(crate) fn private_directory(path: &Path) -> Result<(), StateError> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|error| StateError::io(path, &error))
}
