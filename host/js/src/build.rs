//! A worker's script, bundled only when that could give another.
//!
//! A manifest beside the script says what it was made from: the toolchain, the request, and every file that the bundler
//! read or would have read. While all of that is as it was, a build reads the manifest, looks at the files and starts
//! no program at all. Whatever is doubtful counts as changed: bundling again is cheap, an old script is a mystery.

mod input;
mod manifest;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use crate::bundler::{Bundle, BundleError, BundleRequest, Bundler};
use crate::message::Message;
use crate::{Toolchain, lock};
use input::Recorder;
use manifest::{Key, Manifest, Output};

const MANIFEST: &str = "worker.manifest.json";
const LOCK: &str = ".worker.lock";

/// What to build. The fields are those of [`BundleRequest`].
pub type BuildRequest = BundleRequest;

/// A script and what it was made from.
#[derive(Clone, Debug)]
pub struct Built {
    /// The script.
    pub script: PathBuf,
    /// Its source map, for [`Mapper`](crate::Mapper).
    pub map: PathBuf,
    /// The files that it was made from, as absolute paths. A change to one of them, or to a file beside them, is a
    /// reason to build again.
    pub inputs: Vec<PathBuf>,
    /// The size of the script.
    pub bytes: u64,
    /// How long the build took.
    pub duration: Duration,
    /// What may be wrong with the sources. Those of an earlier build are told again.
    pub warnings: Vec<Message>,
    /// Whether the script of an earlier build still holds.
    pub cached: bool,
}

/// Why there is no script.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The bundler made none.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A file or directory.
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        /// What was tried: "write".
        what: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl BuildError {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

/// Builds the scripts of workers, with a bundler that is started when the first of them needs it and stays.
#[derive(Debug)]
pub struct Builder {
    toolchain: Toolchain,
    bundler: Option<Bundler>,
}

impl Builder {
    /// A builder that has started nothing yet.
    pub fn new(toolchain: &Toolchain) -> Self {
        Self { toolchain: toolchain.clone(), bundler: None }
    }

    /// Makes a worker's script, or finds that the one of an earlier build still holds. Two workers cannot share an output
    /// directory; processes that build the same worker wait for one another.
    ///
    /// # Errors
    /// [`BundleError::Source`] where the sources have faults, and whatever else keeps the bundler from working.
    pub fn build(&mut self, request: &BuildRequest) -> Result<Built, BuildError> {
        let started = Instant::now();
        let absolute = |path: &Path| std::path::absolute(path).map_err(BuildError::io("find", path));
        let request =
            BundleRequest { entry: absolute(&request.entry)?, outdir: absolute(&request.outdir)?, ..request.clone() };
        let outdir = &request.outdir;
        fs::create_dir_all(outdir).map_err(BuildError::io("create", outdir))?;
        let lock_path = outdir.join(LOCK);
        let _lock = lock::take(&lock_path, || tracing::info!("waiting for another process that builds this worker"))
            .map_err(BuildError::io("lock", &lock_path))?;

        let key = Key {
            toolchain: self.toolchain.hash().to_owned(),
            entry: request.entry.clone(),
            flags: request.flags.clone(),
            minify: request.minify,
        };
        let manifest = outdir.join(MANIFEST);
        if let Some(mut found) = Manifest::read(&manifest)
            && found.key == key
            && found.outputs.iter().all(|output| output.holds(outdir))
            && let Some(moved) = input::hold(&mut found.inputs)
        {
            if moved {
                found.write(&manifest).map_err(BuildError::io("write", &manifest))?;
            }
            return built(found, outdir, started);
        }
        // From here on, what lies there is no longer what it was made from.
        remove(&manifest)?;
        let recorder = Recorder::start(SystemTime::now());
        let bundle = self.bundler()?.bundle(&request)?;
        let made = record(key, &bundle, &recorder)?;
        made.write(&manifest).map_err(BuildError::io("write", &manifest))?;
        Ok(Built {
            script: bundle.script,
            map: bundle.map,
            inputs: bundle.inputs,
            bytes: bundle.bytes,
            duration: started.elapsed(),
            warnings: bundle.warnings,
            cached: false,
        })
    }

    fn bundler(&mut self) -> Result<&mut Bundler, BundleError> {
        let bundler = match self.bundler.take() {
            Some(bundler) => bundler,
            None => Bundler::start(&self.toolchain)?,
        };
        Ok(self.bundler.insert(bundler))
    }
}

/// What a bundle was made from.
fn record(key: Key, bundle: &Bundle, recorder: &Recorder) -> Result<Manifest, BuildError> {
    let output = |path: &Path| Output::of(path).map_err(BuildError::io("read", path));
    let outputs = [output(&bundle.script)?, output(&bundle.map)?];
    let surroundings = input::surroundings(&key.entry);
    let inputs = recorder.record(&bundle.inputs, &surroundings);
    Ok(Manifest::new(key, outputs, inputs, bundle.inputs.len(), bundle.warnings.clone()))
}

/// What an earlier build made.
fn built(manifest: Manifest, outdir: &Path, started: Instant) -> Result<Built, BuildError> {
    let [script, map] = &manifest.outputs;
    let (script, map, bytes) = (script.path(outdir), map.path(outdir), script.bytes);
    let inputs = manifest.inputs.into_iter().take(manifest.sources).map(|input| input.path).collect();
    let (duration, warnings) = (started.elapsed(), manifest.warnings);
    Ok(Built { script, map, inputs, bytes, duration, warnings, cached: true })
}

fn remove(file: &Path) -> Result<(), BuildError> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(BuildError::io("remove", file)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
