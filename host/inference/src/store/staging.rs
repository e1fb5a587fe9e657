//! A model on its way into the store.
//!
//! Work happens in `DIR/.partial/NAME/`: `download/` may hold parts that a later attempt can use, `model/` is begun
//! anew each time and renamed to `DIR/NAME/` when it is whole and on disk. One lock for the store keeps two processes
//! from working on the same folder; the system drops it when its holder dies, however it dies.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::{MANIFEST, Manifest, ModelName, Progress, Store, StoreError};

const PARTIAL: &str = ".partial";
const LOCK: &str = ".lock";

/// The right to put one model into the store.
pub(super) struct Staging {
    root: PathBuf,
    target: PathBuf,
    _lock: File,
}

impl Staging {
    /// Waits until no other process installs anything.
    pub(super) fn begin(store: &Store, name: &ModelName, progress: &mut dyn Progress) -> Result<Staging, StoreError> {
        let lock = lock(store, progress)?;
        let root = store.directory.join(PARTIAL).join(name.folder());
        let staging = Staging { root, target: store.folder(name), _lock: lock };
        remove_folder(&staging.model())?;
        for folder in [staging.model(), staging.download()] {
            fs::create_dir_all(&folder).map_err(StoreError::io("cannot create", &folder))?;
        }
        Ok(staging)
    }

    /// Where the model's files are gathered.
    pub(super) fn model(&self) -> PathBuf {
        self.root.join("model")
    }

    /// Moves what was gathered elsewhere, for something to be made of it in [`Staging::model`].
    pub(super) fn set_aside(&self) -> Result<PathBuf, StoreError> {
        let (model, aside) = (self.model(), self.root.join("raw"));
        remove_folder(&aside)?;
        fs::rename(&model, &aside).map_err(StoreError::io("cannot move", &model))?;
        fs::create_dir_all(&model).map_err(StoreError::io("cannot create", &model))?;
        Ok(aside)
    }

    /// Where parts are kept for a later attempt.
    pub(super) fn download(&self) -> PathBuf {
        self.root.join("download")
    }

    /// Writes the manifest and makes the model visible, in place of an older one of that name.
    pub(super) fn commit(self, manifest: &Manifest) -> Result<(), StoreError> {
        let model = self.model();
        let path = model.join(MANIFEST);
        let mut text = serde_json::to_vec_pretty(manifest)
            .map_err(|error| StoreError::io("cannot write", &path)(io::Error::other(error)))?;
        text.push(b'\n');
        fs::write(&path, text).map_err(StoreError::io("cannot write", &path))?;
        for name in manifest.files.iter().map(|file| file.file.as_str()).chain([MANIFEST]) {
            let path = model.join(name);
            let synced = File::open(&path).and_then(|file| file.sync_all());
            synced.map_err(StoreError::io("cannot write to disk", &path))?;
            if let Some(parent) = path.parent().filter(|parent| *parent != model) {
                sync_folder(parent)?;
            }
        }
        sync_folder(&model)?;
        retire(&self.target, &self.root.join("old"))?;
        fs::rename(&model, &self.target).map_err(StoreError::io("cannot create", &self.target))?;
        if let Some(parent) = self.target.parent() {
            sync_folder(parent)?;
        }
        remove_folder(&self.root)
    }
}

/// Takes a model out of the store in one rename, then deletes it and what is left of earlier attempts.
pub(super) fn discard(store: &Store, name: &ModelName) -> Result<(), StoreError> {
    let _lock = lock(store, &mut super::NoProgress)?;
    let root = store.directory.join(PARTIAL).join(name.folder());
    fs::create_dir_all(&root).map_err(StoreError::io("cannot create", &root))?;
    retire(&store.folder(name), &root.join("old"))?;
    remove_folder(&root)
}

fn lock(store: &Store, progress: &mut dyn Progress) -> Result<File, StoreError> {
    fs::create_dir_all(&store.directory).map_err(StoreError::io("cannot create", &store.directory))?;
    let path = store.directory.join(LOCK);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(StoreError::io("cannot open", &path))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(error)) => return Err(StoreError::io("cannot lock", &path)(error)),
    }
    progress.start("waiting for another process that installs a model", None);
    let locked = file.lock().map_err(StoreError::io("cannot lock", &path));
    progress.finish();
    locked.map(|()| file)
}

fn retire(folder: &Path, to: &Path) -> Result<(), StoreError> {
    remove_folder(to)?;
    match fs::rename(folder, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("cannot remove", folder)(error)),
        _ => Ok(()),
    }
}

pub(super) fn remove_folder(folder: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("cannot remove", folder)(error)),
        _ => Ok(()),
    }
}

fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(StoreError::io("cannot write to disk", folder))
}
