//! `cargo xtask serve`: from a fresh clone to `Ready on http://…`.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};

use crate::guests::{self, Lints, Wanted};
use crate::progress::Progress;
use crate::toolchain::Toolchain;
use crate::workspace::Workspace;
use crate::{command, js, models};

pub(crate) fn serve(workspace: &Workspace, host_arguments: &[String], progress: &Progress) -> Result<()> {
    let toolchain = Toolchain::ready(workspace, progress)?;
    models::fetch(workspace, progress)?;
    guests::build(workspace, &toolchain, &Wanted::Examples, Lints::Shown, progress)?;
    let program = workspace.host()?;
    js::toolchain(workspace, &program, progress)?;
    let mut host = Command::new(program);
    host.args(["serve", "-c", "wrangler-like.toml"]).args(host_arguments).current_dir(&workspace.root);
    progress.step(&command::shown(&host));
    // The host takes this process's place, so that a signal meant for the server reaches it and its exit status counts.
    Err(host.exec()).with_context(|| format!("cannot start `{}`", command::shown(&host)))
}
