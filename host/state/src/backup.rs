//! Backups, restoring them, and looking whether files are sound.
//!
//! A backup is made by SQLite's own copying of a database, page by page inside one transaction, so it is whole and of one
//! moment whoever writes meanwhile. A backup and a restored state are made beside their place and moved there when they
//! are whole and on the disk, so what breaks off leaves what was there before. What a restored state replaces is moved
//! aside first: a loss of power between the two moves leaves it beside its place as `.NAME.old-…`.

use std::path::{Path, PathBuf};

use rusqlite::backup::Backup;
use rusqlite::{Connection, OpenFlags};

use crate::StateError;
use crate::open::APPLICATION;

/// Pages that are copied before others may write.
const PAGES: i32 = 1000;
/// How long a copy waits for who writes.
const BUSY: std::time::Duration = std::time::Duration::from_secs(10);

/// One database of a directory: its kind and name, as in `vectorize` and `notes`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The folder that it lies in.
    pub kind: String,
    /// Its name, without the ending.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
}

/// What is wrong with a file; nothing where it is sound.
#[derive(Debug)]
pub struct Checked {
    /// The file.
    pub entry: Entry,
    /// In words, for people.
    pub fault: Option<String>,
}

/// The databases in `directory`, sorted. Folders and files whose names are none of the state's are passed over.
///
/// # Errors
/// When the directory cannot be read. One that is not there has none.
pub fn entries(directory: &Path) -> Result<Vec<Entry>, StateError> {
    let mut entries = Vec::new();
    for folder in read_directory(directory)? {
        let Some(kind) = sound_name(&folder, "").filter(|_| folder.is_dir()) else { continue };
        for path in read_directory(&folder)? {
            if let Some(name) = sound_name(&path, ".sqlite3") {
                entries.push(Entry { kind: kind.clone(), name, path });
            }
        }
    }
    entries.sort_unstable();
    Ok(entries)
}

fn read_directory(directory: &Path) -> Result<Vec<PathBuf>, StateError> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| StateError::io(directory, &error))?,
    };
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(|error| StateError::io(directory, &error))).collect()
}

fn sound_name(path: &Path, ending: &str) -> Option<String> {
    let name = path.file_name()?.to_str()?.strip_suffix(ending)?;
    crate::directory::is_name(name).then(|| name.to_owned())
}

/// Copies every database of `directory` into `target`, which is made and must not be there yet, or be empty.
///
/// # Errors
/// When a database is damaged or cannot be read, `target` is not empty, or it cannot be written. Then `target` is as it
/// was.
pub fn backup(directory: &Path, target: &Path) -> Result<Vec<Entry>, StateError> {
    if !read_directory(target)?.is_empty() {
        return Err(StateError::NotEmpty { path: target.to_owned() });
    }
    copy(directory, target)
}

/// Puts the databases of the backup `source` in the place of `directory`, where nothing may have the state open. What was
/// in `directory` is replaced if `force` is set.
///
/// # Errors
/// When a database of the backup is damaged, there is none, or `directory` is not empty and `force` is not set. Then
/// `directory` is as it was.
pub fn restore(source: &Path, directory: &Path, force: bool) -> Result<Vec<Entry>, StateError> {
    if entries(source)?.is_empty() {
        return Err(StateError::NoBackup { path: source.to_owned() });
    }
    if !force && !read_directory(directory)?.is_empty() {
        return Err(StateError::NotEmpty { path: directory.to_owned() });
    }
    for checked in check(source)? {
        if let Some(reason) = checked.fault {
            return Err(StateError::Damaged { path: checked.entry.path, reason });
        }
    }
    copy(source, directory)
}

/// Copies beside `target` and moves what was copied there.
fn copy(source: &Path, target: &Path) -> Result<Vec<Entry>, StateError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error: std::io::Error| StateError::io(&path, &error)
    };
    let parent = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(parent).map_err(at(parent))?;
    let beside = |what: &str| {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        parent.join(format!(".{name}.{what}-{}", std::process::id()))
    };
    let (new, old) = (beside("new"), beside("old"));
    let copied = entries(source)?.into_iter().map(|entry| {
        let folder = new.join(&entry.kind);
        crate::directory::private_directory(&folder)?;
        let path = folder.join(format!("{}.sqlite3", entry.name));
        copy_database(&entry.path, &path)?;
        sync(&folder)?;
        Ok(Entry { path: target.join(&entry.kind).join(format!("{}.sqlite3", entry.name)), ..entry })
    });
    let placed = copied.collect::<Result<Vec<_>, StateError>>().and_then(|copied| {
        crate::directory::private_directory(&new)?;
        sync(&new)?;
        let there = target.try_exists().map_err(at(target))?;
        if there {
            std::fs::rename(target, &old).map_err(at(target))?;
        }
        if let Err(error) = std::fs::rename(&new, target) {
            if there {
                std::fs::rename(&old, target).map_err(at(target))?;
            }
            return Err(StateError::io(target, &error));
        }
        sync(parent)?;
        Ok(copied)
    });
    for left in [&new, &old] {
        if placed.is_ok() || left == &new {
            let _ = std::fs::remove_dir_all(left);
        }
    }
    placed
}

fn copy_database(from: &Path, to: &Path) -> Result<(), StateError> {
    let read = |error: rusqlite::Error| StateError::of(from, &error);
    let write = |error: rusqlite::Error| StateError::of(to, &error);
    let source = reading(from)?;
    let mut target = Connection::open(to).map_err(write)?;
    {
        let backup = Backup::new(&source, &mut target).map_err(read)?;
        backup.run_to_completion(PAGES, std::time::Duration::from_millis(1), None).map_err(read)?;
    }
    // One file, without a journal beside it.
    target.execute_batch("PRAGMA journal_mode = DELETE;").map_err(write)?;
    target.close().map_err(|(_, error)| write(error))?;
    std::fs::File::open(to).and_then(|file| file.sync_all()).map_err(|error| StateError::io(to, &error))
}

/// A connection to a file that is there, which may be one that nothing else has open. It holds one transaction's view for
/// the whole of a copy, so that a copy ends however much is written meanwhile.
fn reading(path: &Path) -> Result<Connection, StateError> {
    let failed = |error: rusqlite::Error| StateError::of(path, &error);
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed)?;
    connection.busy_timeout(BUSY).map_err(failed)?;
    connection.execute_batch("PRAGMA query_only = ON; BEGIN;").map_err(failed)?;
    let application: i32 = connection.query_row("PRAGMA application_id", [], |row| row.get(0)).map_err(failed)?;
    if application != APPLICATION {
        let reason = "it is a file of another program, or empty".to_owned();
        return Err(StateError::Damaged { path: path.to_owned(), reason });
    }
    let _: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    Ok(connection)
}

/// Reads every page of every database of `directory`.
///
/// # Errors
/// When the directory cannot be read. What is wrong with a file stands in the answer.
pub fn check(directory: &Path) -> Result<Vec<Checked>, StateError> {
    let checked = |entry: Entry| Checked { fault: fault(&entry.path), entry };
    Ok(entries(directory)?.into_iter().map(checked).collect())
}

fn fault(path: &Path) -> Option<String> {
    let look = || -> Result<Option<String>, StateError> {
        let connection = reading(path)?;
        let failed = |error: rusqlite::Error| StateError::of(path, &error);
        let mut statement = connection.prepare("PRAGMA integrity_check(5)").map_err(failed)?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0)).map_err(failed)?;
        let said: Vec<String> = rows.collect::<Result<_, _>>().map_err(failed)?;
        Ok((said != ["ok"]).then(|| said.join("; ")))
    };
    match look() {
        Ok(fault) => fault,
        Err(StateError::Damaged { reason, .. }) => Some(reason),
        Err(error) => Some(error.to_string()),
    }
}

fn sync(directory: &Path) -> Result<(), StateError> {
    std::fs::File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| StateError::io(directory, &error))
}
