//! The indexes of a project's state, by name.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use host_state::{Directory, StateError};

use crate::error::VectorizeError;
use crate::index::Index;
use crate::limits::MAX_DIMENSIONS;
use crate::store::{self, FOLDER, IndexConfig, MIGRATIONS};

/// The indexes of a directory. Each is opened once in a process. Cheap to clone.
#[derive(Clone)]
pub struct Indexes(Arc<Inner>);

struct Inner {
    directory: Directory,
    open: Mutex<HashMap<String, (Identity, Index)>>,
}

/// Which file an index was opened from: one that another process has deleted, and perhaps created anew, is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity(u64, u64);

impl Indexes {
    /// The indexes that lie in `directory`.
    pub fn new(directory: Directory) -> Self {
        Self(Arc::new(Inner { directory, open: Mutex::default() }))
    }

    /// Where they lie.
    pub fn directory(&self) -> &Directory {
        &self.0.directory
    }

    /// Opens an index. Blocks on the disk.
    ///
    /// # Errors
    /// When there is none of this name, or its file cannot be opened.
    pub fn get(&self, name: &str) -> Result<Index, VectorizeError> {
        let missing = || VectorizeError::NoIndex {
            name: name.to_owned(),
            directory: self.0.directory.path().display().to_string(),
        };
        let file = self.0.directory.file(FOLDER, name)?;
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        let identity = identity(&file);
        if let Some((opened, index)) = open.get(name)
            && Some(*opened) == identity
        {
            return Ok(index.clone());
        }
        open.remove(name);
        self.0.directory.close(FOLDER, name)?;
        let identity = identity.ok_or_else(missing)?;
        let database = self.0.directory.database(FOLDER, name, MIGRATIONS)?;
        let config = database.read_blocking(|connection| {
            store::config(connection).map_err(|error| VectorizeError::State(database.error(&error)))
        })?;
        // A creation that was cut off leaves a file without it.
        let (config, created) = config.ok_or_else(missing)?;
        let index = Index::open(name, database, config, created);
        open.insert(name.to_owned(), (identity, index.clone()));
        Ok(index)
    }

    /// Creates an index. Blocks on the disk.
    ///
    /// # Errors
    /// When the name cannot be one, the dimensions are none, or there is one of this name.
    pub fn create(&self, name: &str, config: IndexConfig) -> Result<Index, VectorizeError> {
        if !(1..=MAX_DIMENSIONS).contains(&config.dimensions) {
            let message = format!("dimensions must be 1 to {MAX_DIMENSIONS}, got {}", config.dimensions);
            return Err(VectorizeError::invalid(message));
        }
        let exists = |index: &Index| VectorizeError::Exists {
            name: name.to_owned(),
            dimensions: index.config().dimensions,
            metric: index.config().metric.to_string(),
        };
        // Looked for first, which also lets go of a file that another process has deleted.
        match self.get(name) {
            Ok(index) => return Err(exists(&index)),
            Err(VectorizeError::NoIndex { .. }) => {}
            Err(error) => return Err(error),
        }
        let database = self.0.directory.database(FOLDER, name, MIGRATIONS)?;
        let path = database.path().to_owned();
        let made = database.write_blocking(move |connection| {
            store::create(connection, &config).map_err(|error| VectorizeError::State(StateError::of(&path, &error)))
        })?;
        let index = self.get(name)?;
        if made { Ok(index) } else { Err(exists(&index)) }
    }

    /// The names of the indexes, sorted. Blocks on the disk.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn names(&self) -> Result<Vec<String>, VectorizeError> {
        Ok(self.0.directory.names(FOLDER)?)
    }

    /// Deletes an index and all that is in it; false where there is none. Blocks on the disk.
    ///
    /// # Errors
    /// When its file cannot be removed.
    pub fn delete(&self, name: &str) -> Result<bool, VectorizeError> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        Ok(self.0.directory.remove(FOLDER, name)?)
    }
}

#[cfg(unix)]
fn identity(file: &std::path::Path) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(file).ok()?;
    Some(Identity(metadata.dev(), metadata.ino()))
}

/// Where files have no number, one is told from another by when it was made.
#[cfg(not(unix))]
fn identity(file: &std::path::Path) -> Option<Identity> {
    let created = std::fs::metadata(file).ok()?.created().ok()?;
    let since = created.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(Identity(since.as_secs(), u64::from(since.subsec_nanos())))
}
