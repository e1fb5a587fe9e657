//! What the tests share: a store of numbers.

use std::path::PathBuf;

use host_state::{Database, Directory, StateError};

pub(crate) const MIGRATIONS: &[&str] = &["CREATE TABLE numbers (number INTEGER PRIMARY KEY, text TEXT) STRICT;"];

pub(crate) struct Store {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) database: Database,
}

impl Store {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = directory(&folder).database("kind", "name", MIGRATIONS).unwrap();
        Self { folder, database }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("kind/name.sqlite3")
    }

    pub(crate) fn put(&self, number: i64) -> Result<(), StateError> {
        put(&self.database, number)
    }

    pub(crate) fn count(&self) -> i64 {
        count(&self.database)
    }
}

pub(crate) fn directory(folder: &tempfile::TempDir) -> Directory {
    Directory::new(folder.path())
}

pub(crate) fn put(database: &Database, number: i64) -> Result<(), StateError> {
    let path = database.path().to_owned();
    database.write_blocking(move |connection| {
        let put = connection.execute("INSERT INTO numbers (number) VALUES (?1)", [number]);
        put.map(drop).map_err(|error| StateError::of(&path, &error))
    })
}

pub(crate) fn count(database: &Database) -> i64 {
    let counted = database.read_blocking(|connection| {
        let count = connection.query_row("SELECT count(*) FROM numbers", [], |row| row.get(0));
        count.map_err(|error| StateError::of(database.path(), &error))
    });
    counted.unwrap()
}

/// Opens the file of the store `kind/name` once more, as another process does.
pub(crate) fn open(folder: &tempfile::TempDir) -> Result<Database, StateError> {
    directory(folder).database("kind", "name", MIGRATIONS)
}
