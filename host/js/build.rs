//! Lists the files that [`embedded`](src/embedded.rs) holds: the SDK for JavaScript workers as it stands in the
//! repository, and the interface between the engine and the host.
//!
//! They are listed instead of written down, so that a new source file cannot be forgotten. What a developer has
//! installed or built beside them, and files of other kinds than the SDK is made of, do not belong to them.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Folders of the SDK that are not shipped.
const LEFT_OUT: [&str; 3] = ["node_modules", "dist", "test"];
/// What the SDK and the interface are made of, by the end of the name.
const KINDS: [&str; 5] = [".mjs", ".ts", ".json", ".npmrc", ".wit"];
/// What the SDK cannot do without.
const NEEDED: [&str; 4] = ["package.json", "package-lock.json", "build-runtime.mjs", "bundle.mjs"];

fn main() -> io::Result<()> {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("../..").canonicalize()?;
    let mut files = Vec::new();
    let sdk = root.join("guest-sdk/js");
    // The SDK's own folder is not watched: it holds node_modules, whose changes mean nothing here. A new file beside
    // the scripts comes with a change to one that uses it.
    list(&sdk, "sdk", &mut files)?;
    let interface = root.join("wit/deps/workers-js@0.1.0");
    watch(&interface);
    list(&interface, "wit", &mut files)?;
    for needed in NEEDED {
        if !files.iter().any(|(name, _)| name.strip_prefix("sdk/") == Some(needed)) {
            let missing = sdk.join(needed);
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("{} is missing", missing.display())));
        }
    }
    files.sort();

    let mut table = String::from("&[\n");
    for (name, path) in &files {
        watch(path);
        let path = path.to_str().ok_or_else(|| io::Error::other(format!("{} is not UTF-8", path.display())))?;
        writeln!(table, "    ({name:?}, include_bytes!({path:?})),").map_err(io::Error::other)?;
    }
    table.push_str("]\n");
    fs::write(PathBuf::from(variable("OUT_DIR")?).join("embedded.rs"), table)
}

/// Gathers the files below a folder under the names that they have in the binary.
fn list(folder: &Path, name: &str, files: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let file_name = entry.file_name();
        let Some(file_name) = file_name.to_str() else { continue };
        let (path, name) = (entry.path(), format!("{name}/{file_name}"));
        let kind = entry.file_type()?;
        if kind.is_dir() && !LEFT_OUT.contains(&file_name) && !file_name.starts_with('.') {
            watch(&path);
            list(&path, &name, files)?;
        } else if kind.is_file() && KINDS.iter().any(|kind| file_name.ends_with(kind)) {
            files.push((name, path));
        }
    }
    Ok(())
}

fn watch(path: &Path) {
    println!("cargo::rerun-if-changed={}", path.display());
}

fn variable(name: &str) -> io::Result<std::ffi::OsString> {
    std::env::var_os(name).ok_or_else(|| io::Error::other(format!("{name} is not set")))
}
