//! `cargo xtask test`: everything CI runs, the cheap checks first.

use std::process::Command;

use anyhow::{Context, Result};

use crate::guests::{self, FLAVOURS, Lints, Wanted};
use crate::progress::Progress;
use crate::toolchain::Toolchain;
use crate::workspace::{Package, Workspace};
use crate::{command, cuda, js, models, wit};

/// A part of the tests that takes long and is run on its own.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum Part {
    /// Writers that are killed.
    Kill,
}

/// Kills writers of each kind of store `rounds` times, and looks whether what was acknowledged is there.
pub(crate) fn kill(workspace: &Workspace, rounds: u32, test_arguments: &[String], progress: &Progress) -> Result<()> {
    progress.step(&format!("killing writers {rounds} times for each kind of store"));
    let mut cargo = cargo(workspace, &["test"]);
    cargo.args(["--test", "kill", "--"]).args(test_arguments).env("HOST_KILL_ROUNDS", rounds.to_string());
    command::run(&mut cargo)
}

pub(crate) fn test(workspace: &Workspace, test_arguments: &[String], progress: &Progress) -> Result<()> {
    progress.step("cargo fmt --check");
    command::run(workspace.cargo().args(["fmt", "--all", "--check"]))
        .context("the sources are not formatted; run `cargo fmt --all`")?;
    wit::vendor(workspace, true, progress)?;
    dependencies(workspace, progress)?;

    progress.step("building the tests, with clippy's lints");
    command::run(&mut cargo(workspace, &["build", "--tests", "--bins"]))?;
    cuda::check(workspace, progress)?;
    // The program is among what was built, which spares a build of it for the set-up alone.
    let host = workspace.target_dir.join("debug").join("host");
    models::pull(workspace, &host, progress)?;
    js::toolchain(workspace, &host, progress)?;
    js::test_packages(workspace, progress)?;
    let toolchain = Toolchain::ready(workspace, progress)?;
    guests::build(workspace, &toolchain, &Wanted::All, Lints::Denied, progress)?;

    progress.step("running the tests, documentation tests included");
    command::run(cargo(workspace, &["test"]).args(test_arguments))?;
    for flavour in FLAVOURS {
        progress.step(&format!("running the tests of the Rust SDK, flavour {flavour}"));
        command::run(&mut sdk(workspace, flavour))?;
    }
    js::sdk(workspace, progress)?;
    progress.done_before("every check passed");
    Ok(())
}

/// A cargo command for what `default-members` names. Every call must select the same packages and features, tests
/// included: dependencies are compiled anew for every other selection.
fn cargo(workspace: &Workspace, command: &[&str]) -> Command {
    let mut cargo = workspace.cargo();
    cargo.args(command).args(selection(workspace, |package| package.tested));
    // The tests that need workers, which have been built by the time they run.
    cargo.args(["--features", "host-cli/end-to-end"]);
    command::lint_while_building(&mut cargo);
    cargo.env("HOST_GUESTS_DIR", workspace.guests_dir());
    cargo
}

/// The tests of what a worker's author touches, built for this machine.
fn sdk(workspace: &Workspace, flavour: &str) -> Command {
    let mut cargo = workspace.cargo();
    cargo.args(["test", "--package", "host-sdk", "--package", "host-sdk-macros"]);
    cargo.args(["--no-default-features", "--features", &format!("host-sdk/{flavour}")]);
    command::lint_while_building(&mut cargo);
    cargo
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

/// `--package NAME` for every wanted package.
fn selection(workspace: &Workspace, wanted: impl Fn(&Package) -> bool) -> Vec<String> {
    let packages = workspace.packages().iter().filter(|package| wanted(package));
    packages.flat_map(|package| ["--package".to_owned(), package.name.clone()]).collect()
}
