//! Compiled components on disk.
//!
//! Compiling is slow and its result is native code that is run without further checks, so a cached file is loaded only
//! when it carries a MAC made with this host's own key over the engine's settings, the component's hash and the code.
//! The key lies in the cache directory and is readable by its owner alone. A file that was cut, tampered with, or made
//! by another host or version is compiled again and replaced; it is never an error.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

type HmacSha256 = Hmac<Sha256>;

const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 32;
/// No compiled component is larger; a larger file is not read.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// Why the cache cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the cache directory {}: {source}", path.display())]
pub struct CacheError {
    path: PathBuf,
    source: std::io::Error,
}

/// Native code by component and engine.
pub(crate) struct ComponentCache {
    directory: PathBuf,
    key: [u8; KEY_BYTES],
    engine: [u8; 32],
}

impl ComponentCache {
    /// Opens `directory`, making it and its key when they are missing.
    pub(crate) fn open(directory: &Path, engine: &Engine) -> Result<Self, CacheError> {
        let wrap = |source| CacheError { path: directory.to_owned(), source };
        std::fs::create_dir_all(directory).map_err(wrap)?;
        let key = read_or_make_key(&directory.join("key")).map_err(wrap)?;
        let mut hasher = Sha256Hasher(Sha256::new());
        std::hash::Hash::hash(&engine.precompile_compatibility_hash(), &mut hasher);
        Ok(Self { directory: directory.to_owned(), key, engine: hasher.0.finalize().into() })
    }

    /// The name under which the code of a component lies.
    pub(crate) fn path(&self, wasm: &[u8]) -> PathBuf {
        let mut hasher = Sha256::new();
        hasher.update(self.engine);
        hasher.update(wasm);
        let name: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        self.directory.join(name).with_extension("cwasm")
    }

    /// Waits until no other process compiles a component whose name begins as this one's, and keeps others waiting as long
    /// as the file lives: several hosts that start together compile a large component once. None where the directory knows
    /// no locks; then each compiles for itself.
    pub(crate) fn lock(&self, path: &Path) -> Option<std::fs::File> {
        let first = path.file_name()?.to_str()?.get(..1)?;
        let lock = self.directory.join(format!("lock-{first}"));
        let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(lock).ok()?;
        file.lock().ok()?;
        Some(file)
    }

    fn mac(&self, path: &Path, code: &[u8]) -> HmacSha256 {
        // Any key length is valid for HMAC.
        let mut mac = <HmacSha256 as Mac>::new_from_slice(&self.key).unwrap_or_else(|_| unreachable!());
        mac.update(path.file_name().map(|name| name.as_encoded_bytes()).unwrap_or_default());
        mac.update(code);
        mac
    }

    /// The component whose code lies at `path`, if it is there and is ours.
    pub(crate) fn load(&self, engine: &Engine, path: &Path) -> Option<Component> {
        let size = std::fs::metadata(path).ok()?.len();
        if !(TAG_BYTES as u64..=MAX_FILE_BYTES).contains(&size) {
            return None;
        }
        let file = std::fs::read(path).ok()?;
        let (tag, code) = file.split_at_checked(TAG_BYTES)?;
        if self.mac(path, code).verify_slice(tag).is_err() {
            tracing::warn!("{} was not written by this host or was changed; compiling again", path.display());
            return None;
        }
        // SAFETY: `deserialize` trusts its input to be the compiler's output. The MAC shows that this host wrote these
        // very bytes, after compiling them with an engine of the same settings, and that they have not changed since;
        // they are read once, into memory that nothing else can write.
        match unsafe { Component::deserialize(engine, code) } {
            Ok(component) => Some(component),
            Err(error) => {
                tracing::debug!("cannot load {}: {error:#}", path.display());
                None
            }
        }
    }

    /// Keeps the code of a component. Failing to is no fault of the component: it is compiled again next time.
    pub(crate) fn store(&self, path: &Path, component: &Component) {
        let written = component.serialize().map_err(std::io::Error::other).and_then(|code| {
            let tag = self.mac(path, &code).finalize().into_bytes();
            write_whole(path, &[&tag, &code])
        });
        if let Err(error) = written {
            tracing::warn!("cannot keep compiled code in {}: {error}", self.directory.display());
        }
    }
}

/// Writes a file under another name and moves it, so that no reader ever sees a part of it.
fn write_whole(path: &Path, parts: &[&[u8]]) -> std::io::Result<()> {
    let mut suffix = [0u8; 8];
    getrandom::fill(&mut suffix).map_err(std::io::Error::other)?;
    let draft = path.with_extension(format!("{:016x}.part", u64::from_le_bytes(suffix)));
    let result = (|| {
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&draft)?;
        for part in parts {
            file.write_all(part)?;
        }
        file.sync_data()?;
        std::fs::rename(&draft, path)
    })();
    if result.is_err() {
        let _ = std::fs::remove_file(&draft);
    }
    result
}

fn read_or_make_key(path: &Path) -> std::io::Result<[u8; KEY_BYTES]> {
    if let Ok(bytes) = std::fs::read(path)
        && let Ok(key) = <[u8; KEY_BYTES]>::try_from(bytes)
    {
        return Ok(key);
    }
    let mut key = [0u8; KEY_BYTES];
    getrandom::fill(&mut key).map_err(std::io::Error::other)?;
    write_whole(path, &[&key])?;
    Ok(key)
}

/// Feeds what a type hashes into SHA-256, whose value does not change from run to run.
struct Sha256Hasher(Sha256);

impl std::hash::Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}
