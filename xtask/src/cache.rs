//! The directory that outlives a clone: toolchain, peers of the benchmarks, Python environments.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::progress::Progress;

/// `$HOST_CACHE_DIR`, else `$XDG_CACHE_HOME/host`, else `~/.cache/host`; made absolute.
pub(crate) fn directory() -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let directory = match (set("HOST_CACHE_DIR"), set("XDG_CACHE_HOME"), set("HOME")) {
        (Some(own), _, _) => own,
        (None, Some(xdg), _) => xdg.join("host"),
        (None, None, Some(home)) => home.join(".cache/host"),
        (None, None, None) => bail!("neither HOST_CACHE_DIR nor XDG_CACHE_HOME nor HOME is set: set HOST_CACHE_DIR"),
    };
    std::path::absolute(&directory).with_context(|| format!("cannot resolve {}", directory.display()))
}

/// A directory for one thing, with the proof that it is complete.
///
/// The stamp holds what the content was made from; it is written last, so an interrupted run leaves none and the
/// next run starts over.
pub(crate) struct Slot {
    pub(crate) path: PathBuf,
}

impl Slot {
    pub(crate) fn new(cache: &Path, name: &str) -> Self {
        Self { path: cache.join(name) }
    }

    fn stamp(&self) -> PathBuf {
        self.path.join(".complete")
    }

    /// The stamp's text, where the slot is complete.
    pub(crate) fn stamped(&self) -> Option<String> {
        std::fs::read_to_string(self.stamp()).ok()
    }

    pub(crate) fn is_complete(&self, made_from: &str) -> bool {
        self.stamped().is_some_and(|text| text == made_from)
    }

    pub(crate) fn complete(&self, made_from: &str) -> Result<()> {
        let temporary = self.path.join(".complete.partial");
        std::fs::write(&temporary, made_from).with_context(|| format!("cannot write {}", temporary.display()))?;
        std::fs::rename(&temporary, self.stamp()).with_context(|| format!("cannot write {}", self.stamp().display()))
    }

    /// Empties the slot and takes away its stamp.
    pub(crate) fn start_over(&self) -> Result<()> {
        remove(&self.stamp())?;
        remove(&self.path)?;
        create(&self.path)
    }

    /// Waits until no other run works on this slot. The lock ends with the returned file, also when this run is killed.
    pub(crate) fn lock(&self, progress: &Progress) -> Result<File> {
        let mut path = self.path.clone().into_os_string();
        path.push(".lock");
        let path = PathBuf::from(path);
        if let Some(parent) = path.parent() {
            create(parent)?;
        }
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        if file.try_lock().is_err() {
            progress.note(&format!("waiting for another run to finish with {}", self.path.display()));
            file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        }
        Ok(file)
    }
}

/// Creates a directory and its parents.
pub(crate) fn create(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))
}

/// Removes a file or directory; nothing there is fine.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let result = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(_) => return Ok(()),
    };
    result.with_context(|| format!("cannot remove {}", path.display()))
}

/// The bytes of all files below a directory; what cannot be read counts nothing.
pub(crate) fn size(path: &Path) -> u64 {
    let Ok(metadata) = path.symlink_metadata() else { return 0 };
    if !metadata.is_dir() {
        return metadata.len();
    }
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    entries.flatten().map(|entry| size(&entry.path())).sum()
}
