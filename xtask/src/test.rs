//! `cargo xtask test`: everything CI runs, the cheap checks first.

use std::process::Command;

use anyhow::{Context, Result};

use crate::guests::{self, Wanted};
use crate::progress::Progress;
use crate::toolchain::Toolchain;
use crate::workspace::{GUEST_TARGET, Kind, Package, Workspace};
use crate::{command, models, wit};

/// Whether the tests that need workers run: those of the feature `end-to-end` of `host-cli`. Off until they have all
/// been seen to pass.
const END_TO_END: bool = false;

pub(crate) fn test(workspace: &Workspace, test_arguments: &[String], progress: &Progress) -> Result<()> {
    progress.step("cargo fmt --check");
    command::run(workspace.cargo().args(["fmt", "--all", "--check"]))
        .context("the sources are not formatted; run `cargo fmt --all`")?;
    wit::vendor(workspace, true, progress)?;
    dependencies(workspace, progress)?;

    progress.step("building the tests, with clippy's lints");
    command::run(&mut cargo(workspace, &["build", "--tests", "--bins"]))?;
    // The program is among what was built, which spares a build of it for the models alone.
    models::pull(workspace, &workspace.target_dir.join("debug").join("host"), progress)?;
    if END_TO_END {
        let toolchain = Toolchain::ready(workspace, progress)?;
        guests::build(workspace, &toolchain, &Wanted::All, progress)?;
        lint_guests(workspace, &toolchain, progress)?;
    } else {
        progress.note("LEFT OUT: the tests that need workers (feature `end-to-end` of host-cli)");
    }

    progress.step("running the tests, documentation tests included");
    command::run(cargo(workspace, &["test"]).args(test_arguments))?;
    progress.done_before("every check passed");
    Ok(())
}

/// A cargo command for what `default-members` names. Every call must select the same packages and features, tests
/// included: dependencies are compiled anew for every other selection.
fn cargo(workspace: &Workspace, command: &[&str]) -> Command {
    let mut cargo = workspace.cargo();
    cargo.args(command).args(selection(workspace, |package| package.tested));
    if END_TO_END {
        cargo.args(["--features", "host-cli/end-to-end"]);
    }
    lint_while_building(&mut cargo);
    cargo.env("HOST_GUESTS_DIR", workspace.guests_dir());
    cargo
}

/// Has clippy's compiler build the workspace's own crates, so that one build both lints and tests them. A separate
/// `cargo clippy` would compile the metadata of every dependency a second time.
fn lint_while_building(cargo: &mut Command) {
    cargo.env("RUSTC_WORKSPACE_WRAPPER", "clippy-driver");
    // clippy-driver reads its arguments from here, each ended by this marker, as `cargo clippy` passes them.
    cargo.env("CLIPPY_ARGS", "-Dwarnings__CLIPPY_HACKERY__");
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

fn lint_guests(workspace: &Workspace, toolchain: &Toolchain, progress: &Progress) -> Result<()> {
    let guests = selection(workspace, |package| package.kind != Kind::Native);
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

/// `--package NAME` for every wanted package.
fn selection(workspace: &Workspace, wanted: impl Fn(&Package) -> bool) -> Vec<String> {
    let packages = workspace.packages().iter().filter(|package| wanted(package));
    packages.flat_map(|package| ["--package".to_owned(), package.name.clone()]).collect()
}
