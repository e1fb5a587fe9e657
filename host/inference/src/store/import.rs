//! The user's own weights into the store.

use std::fs;
use std::path::{Path, PathBuf};

use super::foreign::{self, Foreign};
use super::staging::Staging;
use super::{FORMAT, Installed, Manifest, ModelName, Origin, Progress, Store, StoreError, digest, inspect, plain_path};
use crate::backend::Pooling;
use crate::catalogue::{Artefact, Task};

impl Store {
    /// Puts a GGUF file, or a folder with `config.json`, `tokenizer.json` and `model.safetensors` or with
    /// `model_index.json` and its parts, into the store under `name`. Files are hard-linked where the file system allows, else copied.
    ///
    /// Some other forms become such a folder: Whisper of CTranslate2 (`model.bin`), of whisper.cpp (`ggml-….bin`) and
    /// in GGUF, and encoders in ONNX with `config.json` and `tokenizer.json`.
    ///
    /// # Errors
    /// [`StoreError::Taken`], [`StoreError::NotAModel`] also when `task` is not what the files do, [`StoreError::Io`].
    pub fn import(
        &self,
        name: &ModelName,
        path: &Path,
        task: Option<Task>,
        progress: &mut dyn Progress,
    ) -> Result<Installed, StoreError> {
        let found = match foreign::recognize(path)? {
            Some(foreign) => return self.import_foreign(name, &foreign, task, progress),
            None => inspect(path)?,
        };
        check(path, found.task, task)?;
        let staging = Staging::begin(self, name, progress)?;
        if self.find(name)?.is_some() {
            return Err(StoreError::Taken(name.to_string()));
        }
        progress.start(&format!("importing {name}"), Some(found.bytes));
        let gathered = gather(path, &found.files, &staging.model(), progress);
        progress.finish();
        let manifest = Manifest {
            format: FORMAT,
            name: name.to_string(),
            task: task.unwrap_or(found.task),
            origin: Origin::Imported,
            licence: None,
            context: None,
            dimensions: found.dimensions,
            pooling: found.pooling,
            files: gathered?,
        };
        staging.commit(&manifest)?;
        self.find(name)?.ok_or_else(|| StoreError::NotInstalled(name.to_string()))
    }

    fn import_foreign(
        &self,
        name: &ModelName,
        foreign: &Foreign,
        task: Option<Task>,
        progress: &mut dyn Progress,
    ) -> Result<Installed, StoreError> {
        let staging = Staging::begin(self, name, progress)?;
        if self.find(name)?.is_some() {
            return Err(StoreError::Taken(name.to_string()));
        }
        let model = staging.model();
        let pooling = convert(foreign, &model, name, progress)?;
        let found = inspect(&model)?;
        check(&model, found.task, task)?;
        let manifest = Manifest {
            format: FORMAT,
            name: name.to_string(),
            task: task.unwrap_or(found.task),
            origin: Origin::Imported,
            licence: None,
            context: None,
            dimensions: found.dimensions,
            pooling: pooling.or(found.pooling),
            files: sums(&model, &found.files, name, progress)?,
        };
        staging.commit(&manifest)?;
        self.find(name)?.ok_or_else(|| StoreError::NotInstalled(name.to_string()))
    }
}

/// Whether a model whose files do `found` may be given `task`.
fn check(path: &Path, found: Task, task: Option<Task>) -> Result<(), StoreError> {
    match task.filter(|task| !found.serves(*task)) {
        None => Ok(()),
        Some(task) => {
            let why = format!("its files do {found}, not {task}");
            Err(StoreError::NotAModel { path: path.to_path_buf(), why })
        }
    }
}

/// Writes a model of another form into `folder`.
pub(super) fn convert(
    foreign: &Foreign,
    folder: &Path,
    name: &ModelName,
    progress: &mut dyn Progress,
) -> Result<Option<Pooling>, StoreError> {
    progress.start(&format!("converting {name}, {}", foreign.name()), None);
    let converted = foreign.convert(folder);
    progress.finish();
    converted
}

/// The sums of files that lie in `folder` already.
pub(super) fn sums(
    folder: &Path,
    files: &[PathBuf],
    name: &ModelName,
    progress: &mut dyn Progress,
) -> Result<Vec<Artefact>, StoreError> {
    let bytes = files.iter().filter_map(|file| fs::metadata(file).ok()).map(|metadata| metadata.len()).sum();
    progress.start(&format!("summing {name}"), Some(bytes));
    let sum = |file: &PathBuf| {
        let name = self::name(folder, file).ok_or_else(|| StoreError::NotAModel {
            path: file.clone(),
            why: "its name is not UTF-8; rename it".to_owned(),
        })?;
        let summed = digest::file(file, &mut |bytes| progress.advance(bytes));
        let (sha256, bytes) = summed.map_err(StoreError::io("cannot read", file))?;
        Ok(Artefact { file: name, sha256, bytes })
    };
    let sums = files.iter().map(sum).collect();
    progress.finish();
    sums
}

fn gather(
    root: &Path,
    files: &[PathBuf],
    folder: &Path,
    progress: &mut dyn Progress,
) -> Result<Vec<Artefact>, StoreError> {
    let mut artefacts = Vec::new();
    for from in files {
        // Hub caches hold links to content-addressed files: the name is the link's, the bytes are its target's.
        let real = fs::canonicalize(from).map_err(StoreError::io("cannot read", from))?;
        let file = name(root, from).filter(|name| plain_path(name));
        let file = file.ok_or_else(|| StoreError::NotAModel {
            path: from.clone(),
            why: "its name is not UTF-8 or has characters that file systems give a meaning to; rename it".to_owned(),
        })?;
        // The store tells a model's layout by the extension.
        let file = if files.len() == 1 && !inspect::is_gguf_name(&file) { format!("{file}.gguf") } else { file };
        let to = folder.join(&file);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(StoreError::io("cannot create", parent))?;
        }
        if fs::hard_link(&real, &to).is_err() {
            fs::copy(&real, &to).map_err(StoreError::io("cannot copy", &real))?;
        }
        let (sha256, bytes) =
            digest::file(&to, &mut |bytes| progress.advance(bytes)).map_err(StoreError::io("cannot read", &to))?;
        artefacts.push(Artefact { file, sha256, bytes });
    }
    Ok(artefacts)
}

/// The file's name below `root`, with a slash between folder and name; its name alone where it is the root or a part of
/// none.
fn name(root: &Path, file: &Path) -> Option<String> {
    let below = file.strip_prefix(root).ok().filter(|below| !below.as_os_str().is_empty());
    let below = below.or_else(|| file.file_name().map(Path::new))?;
    let names: Option<Vec<&str>> = below.iter().map(|name| name.to_str()).collect();
    Some(names?.join("/"))
}
