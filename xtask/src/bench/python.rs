//! Peers that are Python packages, each set in an environment of its own.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::{self, Slot};
use crate::command;
use crate::progress::Progress;
use crate::workspace::Workspace;

/// The Python of the environment `name` with `packages`, of `megabytes` together, made where it is not there yet.
pub(super) fn environment(
    workspace: &Workspace,
    progress: &Progress,
    name: &str,
    packages: &[&str],
    megabytes: u32,
) -> Result<PathBuf> {
    let slot = Slot::new(&workspace.cache, &format!("bench/{name}"));
    let _lock = slot.lock(progress)?;
    let (python, made_from) = (slot.path.join("bin/python3"), packages.join(" "));
    if slot.is_complete(&made_from) {
        progress.done_before(&format!("{made_from} in {}", slot.path.display()));
        return Ok(python);
    }
    progress.step(&format!("installing {made_from} ({megabytes} MB) into {}", slot.path.display()));
    slot.start_over()?;
    cache::create(&slot.path)?;
    command::run(Command::new("python3").args(["-m", "venv"]).arg(&slot.path))
        .context("cannot make a Python environment (on Debian: install python3-venv)")?;
    let mut pip = Command::new(&python);
    command::run(pip.args(["-m", "pip", "install", "--quiet", "--only-binary", ":all:"]).args(packages))?;
    slot.complete(&made_from)?;
    Ok(python)
}
