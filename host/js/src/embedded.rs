//! The files that the toolchain is made from, as part of this binary: a host that was installed as one file can still
//! build workers, and two versions of the host never share a toolchain by mistake.

use std::fs;
use std::io;
use std::path::Path;

use sha2::{Digest as _, Sha256};

/// A file's name, whose parts are separated by `/`, and its bytes.
pub(crate) type File<'a> = (&'a str, &'a [u8]);

/// Below `sdk/` the SDK for JavaScript workers, below `wit/` the interface between the engine and the host.
pub(crate) const FILES: &[File<'static>] = include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// A number for files: the first 16 hexadecimal digits of a SHA-256 over names and bytes, each after its length.
pub(crate) fn hash(files: &[File<'_>]) -> String {
    let mut hash = Sha256::new();
    for (name, bytes) in files {
        for part in [name.as_bytes(), bytes] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    let mut text = hex(&hash.finalize());
    text.truncate(16);
    text
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes files below a directory.
pub(crate) fn write(files: &[File<'_>], directory: &Path) -> io::Result<()> {
    for (name, bytes) in files {
        let path = directory.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_toolchain_needs_is_there_and_nothing_that_was_installed() {
        let has = |wanted: &str| FILES.iter().any(|(name, _)| *name == wanted);
        for wanted in ["sdk/package.json", "sdk/package-lock.json", "sdk/.npmrc", "sdk/bundle.mjs", "wit/js.wit"] {
            assert!(has(wanted), "{wanted} is missing");
        }
        for (name, _) in FILES {
            let odd = ["node_modules", "dist", "test", ".."].iter().any(|odd| name.split('/').any(|part| part == *odd));
            assert!(!odd, "{name}");
        }
    }

    #[test]
    fn every_byte_counts() {
        let files: [&[File<'_>]; 5] =
            [&[("a", b"b")], &[("ab", b"")], &[("a", b"c")], &[("a", b"b"), ("c", b"")], &[("a", b""), ("b", b"")]];
        let hashes: std::collections::HashSet<String> = files.iter().map(|files| hash(files)).collect();
        assert_eq!(hashes.len(), files.len());
        assert!(hashes.iter().all(|hash| hash.len() == 16));
    }
}
