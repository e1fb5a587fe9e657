//! Where models lie on this machine: one folder each, with a manifest of what was put there.
//!
//! A model is a folder `DIR/NAME/` with its files and `manifest.json`, the sums of those files. Folders appear and go
//! in one rename, so whoever reads the store sees whole models or none, however a pull ended. What a pull has fetched
//! so far lies in `DIR/.partial/` until then. Nothing here uses the network but [`Store::pull`] and
//! [`Store::pull_hub`].
//!
//! Names come from requests and command lines; [`ModelName`] is the only thing that becomes a path, and it cannot
//! leave the store. Files come from anywhere: everything read from them is bounded before it is allocated.

mod convert;
mod ctranslate2;
mod deferred;
mod digest;
mod foreign;
mod ggml;
mod hub;
mod import;
mod inspect;
mod name;
mod onnx;
mod package;
mod progress;
mod staging;
mod weights;
mod whisper;

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::backend::Pooling;
use crate::catalogue::{Artefact, Task};

pub use foreign::is_rounded_speech;
pub use hub::{HubEndpoint, HubReference, HubReferenceError};
pub use inspect::{Inspected, Layout, inspect};
pub(crate) use inspect::{read_config, read_text, weight_files};
pub use name::{ModelName, ModelNameError};
pub use progress::{NoProgress, Progress, Waits};
pub(crate) use weights::check_safetensors;

const MANIFEST: &str = "manifest.json";
/// A manifest lists a handful of files.
const MANIFEST_BYTES: u64 = 1 << 20;
/// The version of the manifest's shape.
const FORMAT: u32 = 1;

/// The folder of models on this machine.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
    python: PathBuf,
}

/// A model in the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Installed {
    /// Its name.
    pub name: ModelName,
    /// What was put there.
    pub manifest: Manifest,
    /// Where its weights are.
    pub layout: Layout,
}

impl Installed {
    /// The size of its files in bytes.
    pub fn bytes(&self) -> u64 {
        self.manifest.files.iter().map(|file| file.bytes).fold(0, u64::saturating_add)
    }
}

/// `manifest.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of this shape.
    pub format: u32,
    /// The model's name, which the folder's name encodes.
    pub name: String,
    /// What the model does.
    pub task: Task,
    /// Where it came from.
    pub origin: Origin,
    /// The licence its publisher states.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// Tokens of context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<usize>,
    /// The length of an encoder's vectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<usize>,
    /// How an encoder makes one vector when a request does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pooling: Option<Pooling>,
    /// The files, their sums and sizes.
    pub files: Vec<Artefact>,
}

/// Where a model came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Origin {
    /// A package of the catalogue: `NAME==VERSION`.
    Package(String),
    /// A hub repository: `hf:OWNER/REPOSITORY@COMMIT/FILE`.
    Hub(String),
    /// The user's own files.
    Imported,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::Package(package) => write!(f, "the package {package}"),
            Origin::Hub(reference) => f.write_str(reference),
            Origin::Imported => f.write_str("imported"),
        }
    }
}

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A file or folder could not be used.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was tried: `cannot read`, …
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The files are no model that this host can run.
    #[error("{} is no model that can be used here: {why}", path.display())]
    NotAModel {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// No model of that name in the store.
    #[error("{0} is not in the store; `host models list` shows what is")]
    NotInstalled(String),
    /// The name is taken.
    #[error("{0} is in the store already; remove it first with `host models remove {0}`")]
    Taken(String),
    /// The store's copy is not what was put there.
    #[error("{name} is damaged: {}. Replace it with `host models remove {name}` and then pull or import it again", faults.join("; "))]
    Damaged {
        /// The model.
        name: String,
        /// Every fault found.
        faults: Vec<String>,
    },
    /// What was fetched is not what was promised.
    #[error("{what} has the sha256 {found}, expected {expected}; it was not installed")]
    Mismatch {
        /// The file.
        what: String,
        /// The pinned sum.
        expected: String,
        /// The sum of what came.
        found: String,
    },
    /// Fetching failed.
    #[error("cannot fetch {what}: {why}")]
    Fetch {
        /// What was asked for.
        what: String,
        /// What went wrong and what would help.
        why: String,
    },
}

impl StoreError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError + use<> {
        let path = path.to_path_buf();
        move |source| StoreError::Io { action, path, source }
    }
}

/// `$HOST_MODELS_DIR`, else `$XDG_DATA_HOME/host/models`, else `~/.local/share/host/models`.
pub fn default_directory() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("HOST_MODELS_DIR")
        .or_else(|| variable("XDG_DATA_HOME").map(|data| data.join("host/models")))
        .or_else(|| variable("HOME").map(|home| home.join(".local/share/host/models")))
        .unwrap_or_else(|| PathBuf::from("models"))
}

impl Store {
    /// The store in `directory`, which need not exist yet.
    pub fn open(directory: impl Into<PathBuf>) -> Store {
        Store { directory: directory.into(), python: PathBuf::from("python3") }
    }

    /// Uses another Python than `python3` for packages.
    pub fn with_python(mut self, python: impl Into<PathBuf>) -> Store {
        self.python = python.into();
        self
    }

    /// The folder.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The models here, by name. Folders that are no models are left out, damaged ones are logged.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the folder exists and cannot be read.
    pub fn list(&self) -> Result<Vec<Installed>, StoreError> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(StoreError::io("cannot list", &self.directory)(error)),
        };
        let mut models = Vec::new();
        for entry in entries {
            let entry = entry.map_err(StoreError::io("cannot list", &self.directory))?;
            let Some(name) = entry.file_name().to_str().and_then(ModelName::from_folder) else { continue };
            match self.find(&name) {
                Ok(Some(installed)) => models.push(installed),
                Ok(None) => {}
                Err(error) => tracing::warn!(model = %name, %error, "a model in the store cannot be used"),
            }
        }
        models.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(models)
    }

    /// The model of that name; `None` when it is not here. Reads its manifest, not its weights.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when the manifest is no manifest, [`StoreError::Io`] when it cannot be read.
    pub fn find(&self, name: &ModelName) -> Result<Option<Installed>, StoreError> {
        let folder = self.folder(name);
        let path = folder.join(MANIFEST);
        let file = match fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("cannot read", &path)(error)),
        };
        let mut text = Vec::new();
        file.take(MANIFEST_BYTES).read_to_end(&mut text).map_err(StoreError::io("cannot read", &path))?;
        let damaged = |fault: String| StoreError::Damaged { name: name.to_string(), faults: vec![fault] };
        let manifest: Manifest =
            serde_json::from_slice(&text).map_err(|error| damaged(format!("{MANIFEST} is broken: {error}")))?;
        if manifest.format != FORMAT {
            return Err(damaged(format!("{MANIFEST} has the format {}, this host reads {FORMAT}", manifest.format)));
        }
        if manifest.name != name.as_str() {
            return Err(damaged(format!("{MANIFEST} speaks of {:?}", manifest.name)));
        }
        if let Some(file) = manifest.files.iter().find(|file| !plain_path(&file.file)) {
            return Err(damaged(format!("{MANIFEST} names the file {:?}", file.file)));
        }
        let layout = layout(&folder, &manifest);
        Ok(Some(Installed { name: name.clone(), manifest, layout }))
    }

    /// Compares a model's files with the sums taken when they were installed.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] with every fault found, [`StoreError::NotInstalled`].
    pub fn verify(&self, name: &ModelName, progress: &mut dyn Progress) -> Result<(), StoreError> {
        let installed = self.find(name)?.ok_or_else(|| StoreError::NotInstalled(name.to_string()))?;
        progress.start(&format!("verifying {name}"), Some(installed.bytes()));
        let faults = faults(&self.folder(name), &installed.manifest.files, progress);
        progress.finish();
        if faults.is_empty() { Ok(()) } else { Err(StoreError::Damaged { name: name.to_string(), faults }) }
    }

    /// Deletes a model. A host that has it in memory keeps serving it until it unloads it.
    ///
    /// # Errors
    /// [`StoreError::NotInstalled`], [`StoreError::Io`].
    pub fn remove(&self, name: &ModelName) -> Result<(), StoreError> {
        if !self.folder(name).join(MANIFEST).exists() {
            return Err(StoreError::NotInstalled(name.to_string()));
        }
        staging::discard(self, name)
    }

    fn folder(&self, name: &ModelName) -> PathBuf {
        self.directory.join(name.folder())
    }
}

/// What differs between `files` and what lies in `folder`.
fn faults(folder: &Path, files: &[Artefact], progress: &mut dyn Progress) -> Vec<String> {
    let mut faults = Vec::new();
    for artefact in files {
        match digest::file(&folder.join(&artefact.file), &mut |bytes| progress.advance(bytes)) {
            Ok((sha256, bytes)) if sha256 == artefact.sha256 && bytes == artefact.bytes => {}
            Ok((_, bytes)) if bytes != artefact.bytes => {
                faults.push(format!("{} has {bytes} bytes, not {}", artefact.file, artefact.bytes));
            }
            Ok((sha256, _)) => {
                faults.push(format!("{} has the sha256 {sha256}, not {}", artefact.file, artefact.sha256));
            }
            Err(error) => faults.push(format!("{} cannot be read: {error}", artefact.file)),
        }
    }
    faults
}

fn layout(folder: &Path, manifest: &Manifest) -> Layout {
    match manifest.files.iter().find(|file| inspect::is_gguf_name(&file.file)) {
        Some(file) => Layout::Gguf(folder.join(&file.file)),
        None => Layout::Safetensors(folder.to_path_buf()),
    }
}

/// A name, or one in a folder of such a name, that stays in the folder it is joined to.
fn plain_path(path: &str) -> bool {
    path.split('/').count() <= 2 && path.split('/').all(plain_file_name)
}

/// A name that stays in the folder it is joined to.
fn plain_file_name(name: &str) -> bool {
    !name.is_empty()
        && name != "."
        && name != ".."
        && name != MANIFEST
        && name.len() <= 255
        && !name.contains(['/', '\\', ':'])
        && !name.contains(char::is_control)
}
