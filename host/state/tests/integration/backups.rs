//! Backups: whole while others write, restored whole or not at all.

use host_state::StateError;
use host_state::backup::{backup, check, restore};

use crate::support::{Store, count, directory, open};

#[test]
fn a_backup_is_of_one_moment_while_others_write() {
    let store = Store::new();
    let target = tempfile::tempdir().unwrap();
    let place = target.path().join("backup");
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (0..300).for_each(|number| store.put(number).unwrap()));
        while store.count() == 0 {
            std::thread::yield_now();
        }
        let entries = backup(store.folder.path(), &place).unwrap();
        assert_eq!((entries[0].kind.as_str(), entries[0].name.as_str()), ("kind", "name"));
        writer.join().unwrap();
    });
    assert!(check(&place).unwrap().iter().all(|checked| checked.fault.is_none()));
    let copied =
        count(&host_state::Directory::new(&place).database("kind", "name", crate::support::MIGRATIONS).unwrap());
    assert!((1..=300).contains(&copied), "{copied}");
    let again = backup(store.folder.path(), &place);
    assert!(matches!(again, Err(StateError::NotEmpty { .. })), "{again:?}");
}

#[test]
fn a_backup_is_restored_whole_or_not_at_all() {
    let store = Store::new();
    (0..10).for_each(|number| store.put(number).unwrap());
    directory(&store.folder).database("kind", "other", crate::support::MIGRATIONS).unwrap();
    let target = tempfile::tempdir().unwrap();
    let place = target.path().join("backup");
    assert_eq!(backup(store.folder.path(), &place).unwrap().len(), 2);
    store.put(10).unwrap();
    let state = target.path().join("state");
    assert_eq!(restore(&place, &state, false).unwrap().len(), 2);
    let restored = || host_state::Directory::new(&state).database("kind", "name", crate::support::MIGRATIONS).unwrap();
    assert_eq!(count(&restored()), 10);
    assert!(matches!(restore(&place, &state, false), Err(StateError::NotEmpty { .. })));
    crate::support::put(&restored(), 77).unwrap();
    // A damaged backup changes nothing, force or not.
    let broken = target.path().join("broken");
    backup(store.folder.path(), &broken).unwrap();
    std::fs::write(broken.join("kind/other.sqlite3"), "no database").unwrap();
    let error = restore(&broken, &state, true).unwrap_err();
    assert!(matches!(&error, StateError::Damaged { path, .. } if path.ends_with("other.sqlite3")), "{error:?}");
    assert_eq!(count(&restored()), 11);
    restore(&place, &state, true).unwrap();
    assert_eq!(count(&restored()), 10);
    let names: Vec<_> = std::fs::read_dir(target.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 3, "nothing is left beside: {names:?}");
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(restore(empty.path(), &state, true), Err(StateError::NoBackup { .. })));
    assert_eq!(count(&open(&store.folder).unwrap()), 11);
}
