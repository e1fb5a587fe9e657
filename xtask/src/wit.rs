//! The WASI interface definitions under `wit/deps`, kept equal to those of the wasmtime release in `Cargo.lock`.
//!
//! Guests and host must be built against one text. The files are vendored because a guest's author has no wasmtime
//! sources; this module copies them again and proves that nobody edited them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cache;
use crate::progress::Progress;
use crate::workspace::{Workspace, metadata};

/// Folders of the wasmtime-wasi-http crate that hold one `.wit` per WASI package.
const SOURCES: [&str; 2] = ["wit/deps", "src/p3/wit/deps"];

/// Copies the files, or with `check` fails when one differs.
pub(crate) fn vendor(workspace: &Workspace, check: bool, progress: &Progress) -> Result<()> {
    let vendored = upstream()?;
    let deps = workspace.root.join("wit/deps");
    let mut faults = Vec::new();
    for (place, text) in &vendored {
        let path = deps.join(place);
        let same = std::fs::read_to_string(&path).is_ok_and(|present| present == *text);
        if same {
            continue;
        }
        if check {
            faults.push(format!("{} differs", path.display()));
        } else {
            cache::create(path.parent().unwrap_or(&deps))?;
            std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            progress.step(&format!("copied {}", path.display()));
        }
    }
    for entry in std::fs::read_dir(&deps).with_context(|| format!("cannot read {}", deps.display()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with("wasi-") && !vendored.keys().any(|place| place.starts_with(&name)) {
            faults.push(format!("{} belongs to no WASI version in use: delete it", deps.join(name).display()));
        }
    }
    if !faults.is_empty() {
        bail!("wit/deps is not what wasmtime-wasi-http ships; run `cargo xtask wit`:\n  {}", faults.join("\n  "));
    }
    progress.done_before(&format!("wit/deps: {} files as wasmtime-wasi-http ships them", vendored.len()));
    Ok(())
}

/// The files as they should be: `wasi-http@0.2.12/http.wit` → text.
fn upstream() -> Result<BTreeMap<PathBuf, String>> {
    let metadata = metadata(&["--locked"])?;
    let manifest = metadata["packages"]
        .as_array()
        .and_then(|packages| packages.iter().find(|package| package["name"] == "wasmtime-wasi-http"))
        .and_then(|package| package["manifest_path"].as_str())
        .context("the workspace does not depend on wasmtime-wasi-http")?;
    let package = Path::new(manifest).parent().context("a manifest has a folder")?;
    let mut files = BTreeMap::new();
    for source in SOURCES {
        let folder = package.join(source);
        for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let path = entry?.path();
            let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let (name, version) = declared(&text)
                .with_context(|| format!("{} declares no `package wasi:NAME@VERSION;`", path.display()))?;
            let place = Path::new(&format!("wasi-{name}@{version}")).join(format!("{name}.wit"));
            files.insert(place, text);
        }
    }
    Ok(files)
}

/// Name and version of `package wasi:http@0.2.12;`.
fn declared(text: &str) -> Option<(&str, &str)> {
    text.lines().find_map(|line| line.trim().strip_prefix("package wasi:")?.strip_suffix(';')?.split_once('@'))
}

#[cfg(test)]
mod tests {
    use super::declared;

    #[test]
    fn the_declaration_may_follow_comments() {
        assert_eq!(declared("// a comment\n\npackage wasi:http@0.2.12;\ninterface types {}"), Some(("http", "0.2.12")));
        assert_eq!(declared("package other:http@0.2.12;"), None);
    }
}
