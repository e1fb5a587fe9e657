//! Notices changes of files.
//!
//! Folders are watched, not files: an editor that saves by renaming leaves a watched file behind, and a file that is yet
//! to come cannot be watched at all. What happens in a folder counts if it is about a file that matters, or gives a name
//! to or takes one from a folder whose names matter. Folders are known by their real paths, since the system reports a
//! folder by one path however many lead to it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use notify::event::{EventKind, ModifyKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::watch;
use tokio::time::Instant;

/// How long nothing may happen before what happened is taken for whole: an editor writes a file in several steps.
const QUIET: Duration = Duration::from_millis(50);
/// How long that is waited for at most.
const PATIENCE: Duration = Duration::from_millis(500);
/// How much older than it is a file's time may be: a few ticks of the kernel's clock.
const LAG: Duration = Duration::from_millis(50);
/// Folders watched at most. A system may allow a user no more than 8192.
const FOLDERS: usize = 4096;

/// What matters.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    /// Files, which need not exist.
    pub(crate) files: BTreeSet<PathBuf>,
    /// Folders in which a new or missing name matters, whatever it is.
    pub(crate) folders: BTreeSet<PathBuf>,
}

/// A watch over files, which can be given others.
pub(crate) struct Watch {
    watcher: Option<RecommendedWatcher>,
    shared: Arc<Mutex<Shared>>,
    told: watch::Sender<()>,
    changes: watch::Receiver<()>,
    complained: bool,
}

#[derive(Clone, Default)]
struct Shared {
    /// Files, by their folder's real path.
    files: BTreeSet<PathBuf>,
    /// Folders whose names matter, by their real path.
    folders: BTreeSet<PathBuf>,
    /// Every folder that is watched.
    watched: BTreeSet<PathBuf>,
}

impl Watch {
    /// A watch over nothing yet. Where the system has none to give, nothing is ever noticed, and the log says so.
    pub(crate) fn start() -> Self {
        let (told, changes) = watch::channel(());
        let shared = Arc::new(Mutex::new(Shared::default()));
        let watcher = notify::recommended_watcher({
            let (shared, told) = (shared.clone(), told.clone());
            move |event: notify::Result<Event>| {
                // An error may stand for anything that was missed.
                if event.map_or(true, |event| lock(&shared).note(&event)) {
                    told.send_replace(());
                }
            }
        });
        let watcher = watcher.inspect_err(|error| tracing::warn!("changes of files are not noticed: {error}")).ok();
        Self { watcher, shared, told, changes, complained: false }
    }

    /// Waits for a change, and until no other follows it. A caller that stops waiting misses nothing.
    pub(crate) async fn changed(&mut self) {
        let mut next = self.changes.clone();
        if next.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        let last = Instant::now() + PATIENCE;
        while Instant::now() < last {
            let quiet = last.min(Instant::now() + QUIET);
            if !matches!(tokio::time::timeout_at(quiet, next.changed()).await, Ok(Ok(()))) {
                break;
            }
        }
        self.changes.borrow_and_update();
    }

    /// Watches other files from now on. What of them has changed since `began` without being watched counts as a change.
    pub(crate) fn follow(&mut self, wanted: Watched, began: SystemTime) {
        let (files, folders) = (wanted.files, wanted.folders);
        let mut next = Shared::default();
        for file in &files {
            next.add_file(file);
            // A link leads to another file that matters as much.
            if let Ok(target) = file.canonicalize() {
                next.add_file(&target);
            }
        }
        for folder in &folders {
            next.add_folder(folder);
        }
        let before = std::mem::replace(&mut *lock(&self.shared), next.clone());
        self.watch(next.watched.difference(&before.watched), before.watched.difference(&next.watched));
        let since = began.checked_sub(LAG).unwrap_or(began);
        let is_new = |path: &Path| modified(path).is_some_and(|modified| modified >= since);
        let mut files = next.files.difference(&before.files);
        let mut folders = next.folders.difference(&before.folders);
        if files.any(|file| is_new(file)) || folders.any(|folder| visible(folder).any(|path| is_new(&path))) {
            self.told.send_replace(());
        }
    }

    fn watch<'a>(&mut self, new: impl Iterator<Item = &'a PathBuf>, gone: impl Iterator<Item = &'a PathBuf>) {
        let Some(watcher) = &mut self.watcher else { return };
        let mut fault = None;
        let mut paths = watcher.paths_mut();
        for folder in gone {
            // A folder that is no longer there is no longer watched either.
            let _ = paths.remove(folder);
        }
        for folder in new {
            if let Err(error) = paths.add(folder, RecursiveMode::NonRecursive) {
                fault.get_or_insert((folder, error));
            }
        }
        if let Err(error) = paths.commit() {
            tracing::warn!("changes of files may not be noticed: {error}");
        }
        if let Some((folder, error)) = fault.filter(|(folder, _)| !self.complained && folder.is_dir()) {
            self.complained = true;
            tracing::warn!("changes in {} are not noticed: {error}", folder.display());
        }
    }
}

impl Shared {
    fn add_file(&mut self, file: &Path) {
        let (Some(parent), Some(name)) = (file.parent(), file.file_name()) else { return };
        match parent.canonicalize() {
            Ok(parent) if self.add(&parent) => {
                self.files.insert(parent.join(name));
            }
            Ok(_) => {}
            Err(_) => self.add_nearest(parent),
        }
    }

    fn add_folder(&mut self, folder: &Path) {
        match folder.canonicalize() {
            Ok(folder) if self.add(&folder) => {
                self.folders.insert(folder);
            }
            Ok(_) => {}
            Err(_) => self.add_nearest(folder),
        }
    }

    /// Watches for a folder that is not there: in the nearest one above it that is, any new name may lead to it.
    fn add_nearest(&mut self, folder: &Path) {
        let there = folder.ancestors().skip(1).find_map(|above| above.canonicalize().ok());
        if let Some(folder) = there.filter(|folder| self.add(folder)) {
            self.folders.insert(folder);
        }
    }

    fn add(&mut self, folder: &Path) -> bool {
        self.watched.contains(folder) || self.watched.len() < FOLDERS && self.watched.insert(folder.to_owned())
    }

    /// Whether an event is a change that matters. A watched folder that it takes away is no longer taken for watched.
    fn note(&mut self, event: &Event) -> bool {
        let names = match event.kind {
            EventKind::Access(_) => return false,
            EventKind::Modify(ModifyKind::Name(_)) | EventKind::Create(_) | EventKind::Remove(_) => true,
            EventKind::Modify(_) => false,
            EventKind::Any | EventKind::Other => true,
        };
        let mut matters = event.need_rescan();
        for path in &event.paths {
            matters |= self.files.contains(path);
            if names {
                matters |= is_visible(path) && path.parent().is_some_and(|folder| self.folders.contains(folder));
                matters |= self.watched.contains(path) && !path.exists() && self.watched.remove(path);
            }
        }
        matters
    }
}

/// Whether a name is one that people give. Editors keep their own beside them.
fn is_visible(path: &Path) -> bool {
    let name = path.file_name().map(OsStr::as_encoded_bytes).unwrap_or_default();
    !name.starts_with(b".") && !name.ends_with(b"~")
}

/// What of a folder may matter.
fn visible(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| is_visible(path))
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().ok()?.modified().ok()
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
