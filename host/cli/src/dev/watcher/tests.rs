use std::fs;

use notify::event::{AccessKind, CreateKind, DataChange, MetadataKind, RemoveKind, RenameMode};

use super::*;

/// Longer than a change takes to be noticed on a loaded machine.
const LONG: Duration = Duration::from_secs(60);

fn shared(folder: &Path, files: &[&str], folders: &[&str]) -> Shared {
    let mut shared = Shared::default();
    files.iter().for_each(|file| shared.add_file(&folder.join(file)));
    folders.iter().for_each(|name| shared.add_folder(&folder.join(name)));
    shared
}

fn event(kind: EventKind, path: PathBuf) -> Event {
    Event::new(kind).add_path(path)
}

const WRITTEN: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));
const CREATED: EventKind = EventKind::Create(CreateKind::File);

#[test]
fn files_matter_whatever_happens_to_them_but_for_being_read() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().canonicalize().unwrap();
    let mut shared = shared(&folder, &["wrangler.toml", ".dev.vars"], &[]);
    for file in ["wrangler.toml", ".dev.vars"] {
        for kind in [
            WRITTEN,
            CREATED,
            EventKind::Remove(RemoveKind::File),
            EventKind::Modify(ModifyKind::Name(RenameMode::To)),
            EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)),
        ] {
            assert!(shared.note(&event(kind, folder.join(file))), "{file} {kind:?}");
        }
        assert!(!shared.note(&event(EventKind::Access(AccessKind::Any), folder.join(file))), "{file}");
    }
    assert!(!shared.note(&event(WRITTEN, folder.join("other.toml"))));
    assert!(!shared.note(&event(CREATED, folder.join("other.toml"))));
}

#[test]
fn names_matter_in_folders_of_sources_alone_and_not_those_of_editors() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().canonicalize().unwrap();
    fs::create_dir(folder.join("src")).unwrap();
    let mut shared = shared(&folder, &["wrangler.toml"], &["src"]);
    assert!(shared.note(&event(CREATED, folder.join("src/new.ts"))));
    assert!(!shared.note(&event(WRITTEN, folder.join("src/new.ts"))));
    assert!(!shared.note(&event(CREATED, folder.join("src/.new.ts.swp"))));
    assert!(!shared.note(&event(CREATED, folder.join("src/new.ts~"))));
    assert!(!shared.note(&event(CREATED, folder.join("new.ts"))));
}

#[test]
fn a_folder_that_is_not_there_is_waited_for_in_the_one_above() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().canonicalize().unwrap();
    let mut shared = shared(&folder, &["a/b/c.ts"], &[]);
    assert_eq!(shared.watched, BTreeSet::from([folder.clone()]));
    assert!(shared.note(&event(EventKind::Create(CreateKind::Folder), folder.join("a"))));
}

#[test]
fn a_watched_folder_that_is_removed_is_watched_no_longer() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().canonicalize().unwrap();
    let sources = folder.join("src");
    fs::create_dir(&sources).unwrap();
    let mut shared = shared(&folder, &["src/a.ts"], &[]);
    fs::remove_dir(&sources).unwrap();
    assert!(shared.note(&event(EventKind::Remove(RemoveKind::Folder), sources)));
    assert!(shared.watched.is_empty());
}

#[test]
fn no_more_folders_are_watched_than_a_system_allows() {
    let directory = tempfile::tempdir().unwrap();
    let mut shared =
        Shared { watched: (0..FOLDERS).map(|n| PathBuf::from(n.to_string())).collect(), ..Shared::default() };
    shared.add_folder(directory.path());
    shared.add_file(&directory.path().join("file"));
    assert_eq!((shared.watched.len(), shared.files.len(), shared.folders.len()), (FOLDERS, 0, 0));
}

#[tokio::test]
async fn changes_are_noticed_by_either_path_of_a_linked_folder_and_after_it_came_back() {
    let directory = tempfile::tempdir().unwrap();
    let real = directory.path().join("real");
    fs::create_dir(&real).unwrap();
    fs::write(real.join("a.txt"), "1").unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(&real, directory.path().join("linked")).unwrap();
    #[cfg(not(unix))]
    fs::rename(&real, directory.path().join("linked")).unwrap();
    let file = directory.path().join("linked/a.txt");
    let wanted = || Watched { files: BTreeSet::from([file.clone()]), folders: BTreeSet::new() };
    let mut watch = Watch::start();
    let later = SystemTime::now() + LONG;
    watch.follow(wanted(), later);

    fs::write(&file, "2").unwrap();
    tokio::time::timeout(LONG, watch.changed()).await.expect("writing is noticed");
    let folder = file.parent().unwrap().canonicalize().unwrap();
    fs::remove_dir_all(&folder).unwrap();
    tokio::time::timeout(LONG, watch.changed()).await.expect("removing is noticed");
    fs::create_dir(&folder).unwrap();
    watch.follow(wanted(), later);
    fs::write(&file, "3").unwrap();
    tokio::time::timeout(LONG, watch.changed()).await.expect("writing is noticed again");
}

#[tokio::test]
async fn what_changed_before_it_was_watched_counts() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.txt");
    let began = SystemTime::now();
    fs::write(&file, "1").unwrap();
    let mut watch = Watch::start();
    watch.follow(Watched { files: BTreeSet::from([file]), folders: BTreeSet::new() }, began);
    tokio::time::timeout(LONG, watch.changed()).await.expect("it is noticed");
}

#[tokio::test]
async fn a_caller_that_stops_waiting_misses_nothing() {
    let mut watch = Watch::start();
    watch.told.send_replace(());
    // The first look sees the change and waits for more, and is dropped meanwhile.
    assert!(poll_once(&mut watch).is_none());
    tokio::time::timeout(LONG, watch.changed()).await.expect("the change is still there");
}

/// Polls `changed` once.
fn poll_once(watch: &mut Watch) -> Option<()> {
    let mut changed = Box::pin(watch.changed());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match changed.as_mut().poll(&mut context) {
        std::task::Poll::Ready(()) => Some(()),
        std::task::Poll::Pending => None,
    }
}
