//! Files that are not what they should be, and files that go.

use host_state::rusqlite::Connection;
use host_state::{Directory, StateError};

use crate::support::{MIGRATIONS, Store, count, directory, open};

/// A store with something in it, closed, and its bytes.
fn closed() -> (tempfile::TempDir, std::path::PathBuf, Vec<u8>) {
    let store = Store::new();
    for number in 0..500 {
        store.put(number).unwrap();
    }
    let (path, folder) = (store.file(), store.folder);
    drop(store.database);
    // The last connection writes the journal back when it is closed, on a thread of its own.
    let copy = folder.path().join("copy.sqlite3");
    Connection::open(&path).unwrap().execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
    let bytes = std::fs::read(&copy).unwrap();
    std::fs::remove_file(&copy).unwrap();
    (folder, path, bytes)
}

#[test]
fn a_file_that_is_no_store_is_damaged_and_left_as_it_is() {
    let (_folder, _, sound) = closed();
    let foreign = {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("foreign.sqlite3");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
        std::fs::read(path).unwrap()
    };
    let mut flipped = sound.clone();
    flipped[20..100].iter_mut().for_each(|byte| *byte ^= 0xff);
    for (what, bytes) in [
        ("empty", Vec::new()),
        ("text", b"not a database, but long enough to be looked at for a header of one hundred bytes".repeat(4)),
        ("foreign", foreign),
        ("cut off in the header", sound[..60].to_vec()),
        ("flipped", flipped),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kind/name.sqlite3");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &bytes).unwrap();
        for _ in 0..2 {
            let error = open(&folder).err().unwrap_or_else(|| panic!("{what} was opened"));
            assert!(matches!(error, StateError::Damaged { .. }), "{what}: {error:?}");
            assert!(
                error.to_string().contains("name.sqlite3") && error.to_string().contains("host state restore"),
                "{error}"
            );
        }
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{what}");
    }
}

#[test]
fn damage_behind_the_header_is_found_when_it_is_read() {
    let (_folder, _, sound) = closed();
    for damage in 0..8 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kind/name.sqlite3");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut bytes = sound.clone();
        match damage {
            0 => bytes.truncate(sound.len() - 4096),
            // The root of the table.
            _ => bytes[4096..4096 + 16 * damage].iter_mut().for_each(|byte| *byte ^= 0xff),
        }
        std::fs::write(&path, &bytes).unwrap();
        let read = open(&folder).and_then(|database| {
            database.read_blocking(|connection| {
                let sum = connection.query_row("SELECT sum(number) FROM numbers", [], |row| row.get::<_, i64>(0));
                sum.map_err(|error| database.error(&error))
            })
        });
        assert!(matches!(read, Err(StateError::Damaged { .. })), "{damage}: {read:?}");
        let checked = host_state::backup::check(folder.path()).unwrap();
        assert!(checked[0].fault.is_some(), "{damage}: {checked:?}");
    }
}

#[test]
fn a_store_of_a_later_version_is_refused() {
    let store = Store::new();
    let newer: Vec<&str> = MIGRATIONS.iter().copied().chain(["CREATE TABLE more (a) ;"]).collect();
    assert!(directory(&store.folder).database("kind", "name", &newer).is_ok());
    let error = open(&store.folder).err().unwrap();
    assert!(matches!(error, StateError::TooNew { found: 2, known: 1, .. }), "{error:?}");
}

#[test]
fn migrations_are_applied_once_and_whole() {
    let folder = tempfile::tempdir().unwrap();
    let broken = ["CREATE TABLE a (x); CREATE TABLE a (x);"];
    assert!(directory(&folder).database("kind", "name", &broken).is_err());
    assert!(directory(&folder).names("kind").unwrap().is_empty(), "nothing is left of it");
    let leftovers = std::fs::read_dir(folder.path().join("kind")).unwrap().count();
    assert_eq!(leftovers, 0);
    for _ in 0..2 {
        directory(&folder).database("kind", "name", &["CREATE TABLE a (x);", "CREATE TABLE b (x);"]).unwrap();
    }
}

#[test]
fn many_may_create_the_same_store_at_once() {
    let folder = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(count(&open(&folder).unwrap()), 0));
        }
    });
    assert_eq!(directory(&folder).names("kind").unwrap(), ["name"]);
}

#[test]
fn a_removed_store_is_gone_with_its_journal() {
    let store = Store::new();
    store.put(1).unwrap();
    let directory = directory(&store.folder);
    assert!(directory.remove("kind", "name").unwrap());
    assert!(!directory.remove("kind", "name").unwrap());
    assert!(std::fs::read_dir(store.folder.path().join("kind")).unwrap().next().is_none());
    assert_eq!(count(&open(&store.folder).unwrap()), 0);
}

#[test]
fn names_are_those_of_files_and_no_paths() {
    let folder = tempfile::tempdir().unwrap();
    let directory = Directory::new(folder.path());
    for name in ["", "..", "a/b", "A", "a.b", "é", &"x".repeat(65)] {
        let error = directory.database("kind", name, MIGRATIONS).err().unwrap();
        assert!(matches!(error, StateError::Name(_)), "{name}: {error:?}");
        assert!(directory.database(name, "name", MIGRATIONS).is_err());
    }
    assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none());
}

#[cfg(unix)]
#[test]
fn only_the_owner_reads_the_state() {
    use std::os::unix::fs::PermissionsExt as _;
    let store = Store::new();
    let mode = std::fs::metadata(store.folder.path().join("kind")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}
