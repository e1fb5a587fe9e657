//! `cargo xtask test`: everything CI runs, the cheap checks first.

use std::process::Command;

use anyhow::{Context, Result};

use crate::guests::{self, Wanted};
use crate::progress::Progress;
use crate::toolchain::Toolchain;
use crate::workspace::{GUEST_TARGET, Kind, Workspace};
use crate::{command, models, wit};

pub(crate) fn test(workspace: &Workspace, test_arguments: &[String], progress: &Progress) -> Result<()> {
    progress.step("cargo fmt --check");
    command::run(workspace.cargo().args(["fmt", "--all", "--check"]))
        .context("the sources are not formatted; run `cargo fmt --all`")?;
    wit::vendor(workspace, true, progress)?;
    dependencies(workspace, progress)?;

    let toolchain = Toolchain::ready(workspace, progress)?;
    models::fetch(workspace, progress)?;
    guests::build(workspace, &toolchain, &Wanted::All, progress)?;

    lint(workspace, &toolchain, progress)?;

    progress.step("cargo test, documentation tests included");
    let mut cargo = workspace.cargo();
    cargo.args(["test", "--release"]).args(selection(workspace, |kind| kind == Kind::Native));
    cargo.env("HOST_GUESTS_DIR", workspace.guests_dir());
    cargo.args(test_arguments);
    command::run(&mut cargo)?;
    progress.done_before("every check passed");
    Ok(())
}

/// Licences and advisories. The tool is no part of Rust, so a machine without it is told what was left out.
fn dependencies(workspace: &Workspace, progress: &Progress) -> Result<()> {
    if !command::exists("cargo-deny") {
        progress.note("LEFT OUT: `cargo deny check` (licences, advisories): run `cargo install cargo-deny` to have it");
        return Ok(());
    }
    progress.step("cargo deny check");
    command::run(workspace.cargo().args(["deny", "check", "licenses", "bans", "sources"]))?;
    if let Err(error) = command::run(workspace.cargo().args(["deny", "check", "advisories"])) {
        progress.note(&format!("advisories: {error:#} (reported only: they change without a change here)"));
    }
    Ok(())
}

fn lint(workspace: &Workspace, toolchain: &Toolchain, progress: &Progress) -> Result<()> {
    progress.step("cargo clippy: host crates");
    clippy(&mut workspace.cargo(), selection(workspace, |kind| kind == Kind::Native), &["--all-targets"])?;
    let guests = selection(workspace, |kind| kind != Kind::Native);
    if guests.is_empty() {
        return Ok(());
    }
    if toolchain.has_clippy() {
        progress.step(&format!("cargo clippy: guests, for {GUEST_TARGET}"));
        clippy(&mut workspace.cargo(), guests, &["--target", GUEST_TARGET])
    } else {
        progress.note("cargo clippy: guests are checked for this machine: the packaged compiler has no clippy");
        clippy(&mut workspace.cargo(), guests, &[])
    }
}

fn clippy(cargo: &mut Command, packages: Vec<String>, arguments: &[&str]) -> Result<()> {
    // In the release profile build scripts and macros are the ones that the tests have compiled.
    cargo.args(["clippy", "--release"]).args(packages).args(arguments);
    command::run(cargo.args(["--", "--deny", "warnings"]))
}

/// `--package NAME` for every package of the wanted kind.
fn selection(workspace: &Workspace, wanted: impl Fn(Kind) -> bool) -> Vec<String> {
    let packages = workspace.packages().iter().filter(|package| wanted(package.kind));
    packages.flat_map(|package| ["--package".to_owned(), package.name.clone()]).collect()
}
