//! Programs with code for this machine's GPU, that start on machines without one.
//!
//! candle asks for CUDA's libraries when a program is linked, so that it does not start where one is missing. A copy of
//! candle-core that differs in one word of its manifest opens them when they are first used. Cargo takes the copy for
//! this build alone; the workspace's lock file is put back as it was.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::toolkit::{Toolkit, gpu};
use crate::progress::Progress;
use crate::workspace::{Workspace, metadata};
use crate::{cache, command};

const PATCHED: &str = "candle-core";
const LINKING: &str = "\"dynamic-linking\"";
const LOADING: &str = "\"dynamic-loading\"";

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    Host,
    Bench,
}

impl Program {
    fn package_and_name(self) -> (&'static str, &'static str) {
        match self {
            Self::Host => ("host-cli", "host"),
            Self::Bench => ("host-bench", "gpu-bench"),
        }
    }
}

/// A program that was built.
pub(crate) struct Built {
    pub(crate) program: PathBuf,
    /// Where CUDA's libraries lie, if not where the system looks anyway.
    libraries: Option<PathBuf>,
}

impl Built {
    /// What the program needs in its environment.
    pub(crate) fn environment(&self) -> Option<(&'static str, OsString)> {
        let libraries = self.libraries.clone()?;
        let known = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        let all = std::iter::once(libraries).chain(std::env::split_paths(&known));
        std::env::join_paths(all).ok().map(|paths| ("LD_LIBRARY_PATH", paths))
    }

    pub(super) fn libraries_note(&self) -> String {
        let Some(libraries) = &self.libraries else { return String::new() };
        format!(" (start it with LD_LIBRARY_PATH={}, or install CUDA's libraries)", libraries.display())
    }
}

/// Builds `program` for this machine's GPU, or the one that `CUDA_COMPUTE_CAP` names.
pub(crate) fn build(workspace: &Workspace, program: Program, flash_attn: bool, progress: &Progress) -> Result<Built> {
    let capability = match std::env::var("CUDA_COMPUTE_CAP") {
        Ok(named) => named,
        Err(_) => gpu()?.capability,
    };
    let toolkit = Toolkit::ready(workspace, progress)?;
    let directory = workspace.target_dir.join("cuda");
    let patched = patched(&directory)?;
    let (package, name) = program.package_and_name();
    let feature = if flash_attn { "flash-attn" } else { "cuda" };
    progress.step(&format!("building {name} with code for GPUs (20 minutes of CPU the first time)"));
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--release", "--package", package, "--bin", name]);
    cargo.args(["--features", &format!("{package}/{feature}")]);
    cargo.arg("--config").arg(format!("patch.crates-io.{PATCHED}.path={:?}", patched.display().to_string()));
    cargo.env("CARGO_TARGET_DIR", &directory).env("CUDA_COMPUTE_CAP", capability).envs(toolkit.variables);
    let _lock = Kept::read(&workspace.root.join("Cargo.lock"))?;
    command::run(&mut cargo)?;
    Ok(Built { program: directory.join("release").join(name), libraries: toolkit.libraries })
}

/// Copies candle-core into `directory` and has it open libraries at run time.
fn patched(directory: &Path) -> Result<PathBuf> {
    let metadata = metadata(&["--locked"])?;
    let packages = metadata["packages"].as_array().context("cargo metadata has no `packages`")?;
    let candle = packages.iter().find(|package| package["name"] == PATCHED).context("candle-core is not used")?;
    let manifest = candle["manifest_path"].as_str().context("candle-core has no manifest")?;
    let version = candle["version"].as_str().context("candle-core has no version")?;
    let source = Path::new(manifest).parent().context("candle-core has no directory")?;
    let copy = directory.join(format!("{PATCHED}-{version}"));
    if !copy.join("Cargo.toml").exists() {
        copy_patched(source, &copy)?;
    }
    Ok(copy)
}

/// The manifest is written last, so that half a copy is not taken for one.
fn copy_patched(source: &Path, copy: &Path) -> Result<()> {
    cache::remove(copy)?;
    copy_tree(source, copy)?;
    let manifest = source.join("Cargo.toml");
    let text = std::fs::read_to_string(&manifest).with_context(|| format!("cannot read {}", manifest.display()))?;
    if text.matches(LINKING).count() != 1 {
        bail!("{} does not name {LINKING} once: this candle links CUDA in another way", manifest.display());
    }
    std::fs::write(copy.join("Cargo.toml"), text.replace(LINKING, LOADING))?;
    Ok(())
}

/// Everything but the manifest.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    cache::create(to)?;
    for entry in std::fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else if entry.file_name() != "Cargo.toml" {
            std::fs::copy(entry.path(), &target).with_context(|| format!("cannot copy {}", entry.path().display()))?;
        }
    }
    Ok(())
}

/// A file that is put back as it was.
struct Kept {
    path: PathBuf,
    text: Vec<u8>,
}

impl Kept {
    fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { path: path.to_owned(), text })
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Err(error) = std::fs::write(&self.path, &self.text) {
            eprintln!("error: cannot put {} back: {error}; `git checkout` it", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_differs_in_one_word() {
        let directory = tempfile::tempdir().unwrap();
        let (source, copy) = (directory.path().join("source"), directory.path().join("copy"));
        std::fs::create_dir_all(source.join("src")).unwrap();
        std::fs::write(source.join("src/lib.rs"), "pub fn f() {}").unwrap();
        std::fs::write(source.join("Cargo.toml"), "features = [\"std\", \"dynamic-linking\"]").unwrap();
        copy_patched(&source, &copy).unwrap();
        assert_eq!(std::fs::read_to_string(copy.join("src/lib.rs")).unwrap(), "pub fn f() {}");
        let manifest = std::fs::read_to_string(copy.join("Cargo.toml")).unwrap();
        assert_eq!(manifest, "features = [\"std\", \"dynamic-loading\"]");
        std::fs::write(source.join("Cargo.toml"), "features = []").unwrap();
        assert!(copy_patched(&source, &copy).is_err(), "another candle");
        assert!(!copy.join("Cargo.toml").exists());
    }

    #[test]
    fn a_lock_file_is_put_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("Cargo.lock");
        std::fs::write(&path, "as it was").unwrap();
        let kept = Kept::read(&path).unwrap();
        std::fs::write(&path, "otherwise").unwrap();
        drop(kept);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "as it was");
    }
}
