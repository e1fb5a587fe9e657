//! Opening a file: made once and whole, brought to the version that this host knows, never made anew.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use crate::StateError;

/// "host" in ASCII: which program's file this is (SQLite's `application_id`).
pub(crate) const APPLICATION: i32 = i32::from_be_bytes(*b"host");
/// How long a statement waits for another process.
const BUSY: Duration = Duration::from_secs(10);

/// A connection that may write, to a file of the last version.
pub(crate) fn writer(path: &Path, migrations: &[&str]) -> Result<Connection, StateError> {
    if !path.try_exists().map_err(|error| StateError::io(path, &error))? {
        create(path, migrations)?;
    }
    let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    check(&connection, path)?;
    migrate(&mut connection, path, migrations)?;
    let journal = connection
        .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA journal_size_limit = 67108864;");
    journal.map_err(|error| StateError::of(path, &error))?;
    Ok(connection)
}

/// A connection that cannot write.
pub(crate) fn reader(path: &Path) -> Result<Connection, StateError> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // Opened for writing all the same: a reader of a file in WAL mode may have to make the shared memory beside it.
    connection.execute_batch("PRAGMA query_only = ON;").map_err(|error| StateError::of(path, &error))?;
    Ok(connection)
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, StateError> {
    let failed = |error: rusqlite::Error| StateError::of(path, &error);
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(failed)?;
    connection.busy_timeout(BUSY).map_err(failed)?;
    let settings = "PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;";
    connection.execute_batch(settings).map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Makes a new file beside its place and moves it there when it is whole, so that an empty or half-made file in that
/// place is a damaged one.
fn create(path: &Path, migrations: &[&str]) -> Result<(), StateError> {
    let at = |error: std::io::Error| StateError::io(path, &error);
    let new = unfinished(path);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let made = connect(&new, flags).and_then(|mut connection| {
        let name = format!("PRAGMA application_id = {APPLICATION};");
        connection.execute_batch(&name).map_err(|error| StateError::of(path, &error))?;
        migrate(&mut connection, path, migrations)
    });
    // Another process may have made it meanwhile: a link fails where a rename would replace.
    let placed = made.and_then(|()| match std::fs::hard_link(&new, path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(at(error)),
        _ => Ok(()),
    });
    let _ = std::fs::remove_file(&new);
    placed?;
    let parent = path.parent().unwrap_or(Path::new("."));
    std::fs::File::open(parent).and_then(|directory| directory.sync_all()).map_err(at)
}

fn unfinished(path: &Path) -> PathBuf {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}-{number}", std::process::id()))
}

fn check(connection: &Connection, path: &Path) -> Result<(), StateError> {
    let damaged = |reason: &str| StateError::Damaged { path: path.to_owned(), reason: reason.to_owned() };
    if std::fs::metadata(path).map_err(|error| StateError::io(path, &error))?.len() == 0 {
        return Err(damaged("the file is empty"));
    }
    let application: i32 = connection
        .query_row("PRAGMA application_id", [], |row| row.get(0))
        .map_err(|error| StateError::of(path, &error))?;
    if application == APPLICATION { Ok(()) } else { Err(damaged("it is a file of another program")) }
}

/// Applies the migrations that the file has not had. Its `user_version` counts those that it had.
fn migrate(connection: &mut Connection, path: &Path, migrations: &[&str]) -> Result<(), StateError> {
    let known = u32::try_from(migrations.len()).unwrap_or(u32::MAX);
    let migrated = |connection: &mut Connection| -> rusqlite::Result<u32> {
        let version = |connection: &Connection| connection.query_row("PRAGMA user_version", [], |row| row.get(0));
        let before: u32 = version(connection)?;
        if before >= known {
            return Ok(before);
        }
        // Another process may be doing the same: who comes second finds it done.
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let before: u32 = version(&transaction)?;
        for migration in migrations.iter().skip(before as usize) {
            transaction.execute_batch(migration)?;
        }
        if before < known {
            transaction.execute_batch(&format!("PRAGMA user_version = {known};"))?;
        }
        transaction.commit()?;
        Ok(before)
    };
    match migrated(connection) {
        Ok(found) if found > known => Err(StateError::TooNew { path: path.to_owned(), found, known }),
        Ok(_) => Ok(()),
        Err(error) => Err(StateError::of(path, &error)),
    }
}
