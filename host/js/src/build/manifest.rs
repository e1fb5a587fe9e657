//! The record of a build. It lies where anybody may have written to it, so it is believed only as far as it can be
//! checked, and one that cannot be read is as good as none.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::input::Input;
use crate::embedded::hex;
use crate::message::{Level, Message};

/// Changes whenever what is recorded, or what it means, does.
const VERSION: u32 = 1;
/// A manifest names every source, as an answer of the bundler does.
const LARGEST: u64 = 64 * 1024 * 1024;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    version: u32,
    #[serde(flatten)]
    pub(super) key: Key,
    /// The script and its source map.
    pub(super) outputs: [Output; 2],
    /// The sources, and after them what else would change the script.
    pub(super) inputs: Vec<Input>,
    /// How many of the inputs are sources.
    pub(super) sources: usize,
    pub(super) warnings: Vec<Message>,
}

/// What was asked of whom.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Key {
    pub(super) toolchain: String,
    pub(super) entry: PathBuf,
    pub(super) flags: Vec<String>,
    pub(super) minify: bool,
}

/// A file that the bundler wrote.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Output {
    name: String,
    pub(super) bytes: u64,
    sha256: String,
}

impl Manifest {
    pub(super) fn new(
        key: Key,
        outputs: [Output; 2],
        inputs: Vec<Input>,
        sources: usize,
        warnings: Vec<Message>,
    ) -> Self {
        Self { version: VERSION, key, outputs, inputs, sources, warnings }
    }

    /// The manifest in a file, if there is one that can be understood.
    pub(super) fn read(path: &Path) -> Option<Self> {
        let file = File::open(path).ok()?;
        let mut text = Vec::new();
        file.take(LARGEST + 1).read_to_end(&mut text).ok()?;
        if text.len() as u64 > LARGEST {
            return None;
        }
        let mut manifest: Self = serde_json::from_slice(&text).ok()?;
        manifest.warnings.iter_mut().for_each(|warning| warning.level = Level::Warning);
        (manifest.version == VERSION).then_some(manifest)
    }

    /// Puts the manifest into a file, whole or not at all.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let directory = path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::Builder::new().prefix(".worker.").tempfile_in(directory)?;
        serde_json::to_writer_pretty(file.as_file_mut(), self)?;
        file.write_all(b"\n")?;
        file.persist(path).map(drop).map_err(|error| error.error)
    }
}

impl Output {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| io::Error::other("its name is not UTF-8"))?.to_owned();
        let (sha256, bytes) = sha256(path)?;
        Ok(Self { name, bytes, sha256 })
    }

    pub(super) fn path(&self, outdir: &Path) -> PathBuf {
        outdir.join(&self.name)
    }

    /// Whether the file is as it was. It is read whole: it is one file, and it is going to be run.
    pub(super) fn holds(&self, outdir: &Path) -> bool {
        let plain = Path::new(&self.name).file_name() == Some(self.name.as_ref());
        let path = self.path(outdir);
        plain
            && fs::metadata(&path).is_ok_and(|metadata| metadata.is_file() && metadata.len() == self.bytes)
            && sha256(&path).is_ok_and(|(sha256, bytes)| sha256 == self.sha256 && bytes == self.bytes)
    }
}

/// The SHA-256 of a file's bytes, as hexadecimal digits, and their number.
pub(super) fn sha256(path: &Path) -> io::Result<(String, u64)> {
    let mut hash = Sha256::new();
    let bytes = io::copy(&mut File::open(path)?, &mut hash)?;
    Ok((hex(&hash.finalize()), bytes))
}
