//! Lists the templates that [`new`](src/new.rs) makes projects from, as files of the binary: a host that was installed
//! as one file can still start a project.
//!
//! They are listed instead of written down, so that a new file of a template cannot be forgotten. What a developer has
//! installed or built inside one does not belong to it.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What tools leave in a project. A template has no dot files of its own: see `gitignore` in its README.
const LEFT_OUT: [&str; 4] = ["node_modules", "target", "package-lock.json", "Cargo.lock"];

fn main() -> io::Result<()> {
    let templates = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("../../templates").canonicalize()?;
    watch(&templates);
    let mut files = Vec::new();
    for entry in fs::read_dir(&templates)? {
        let entry = entry?;
        let folder = entry.file_name();
        // The README beside the templates is for their authors.
        if let Some(folder) = folder.to_str().filter(|_| entry.path().is_dir()) {
            watch(&entry.path());
            list(&entry.path(), folder, &mut files)?;
        }
    }
    files.sort();

    let mut table = String::from("&[\n");
    for (name, path) in &files {
        watch(path);
        let path = path.to_str().ok_or_else(|| io::Error::other(format!("{} is not UTF-8", path.display())))?;
        writeln!(table, "    ({name:?}, include_str!({path:?})),").map_err(io::Error::other)?;
    }
    table.push_str("]\n");
    fs::write(PathBuf::from(variable("OUT_DIR")?).join("templates.rs"), table)
}

/// Gathers the files below a folder under the names that they have in the binary.
fn list(folder: &Path, name: &str, files: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let file_name = entry.file_name();
        let Some(file_name) = file_name.to_str() else { continue };
        if file_name.starts_with('.') || LEFT_OUT.contains(&file_name) {
            continue;
        }
        let (path, name) = (entry.path(), format!("{name}/{file_name}"));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            watch(&path);
            list(&path, &name, files)?;
        } else if kind.is_file() {
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
