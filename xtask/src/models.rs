//! The small models of the first run and of the tests. The host's own store knows where they come from, checks their
//! sums, resumes downloads and skips what it has; here stands only which ones are wanted.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::command;
use crate::progress::Progress;
use crate::workspace::Workspace;

/// Chat, two encoders, a reranker and speech recognition.
const WANTED: [&str; 5] =
    ["smollm2-135m-instruct", "bge-small-en-v1.5", "all-minilm-l6-v2", "ms-marco-minilm-l12-v2", "whisper-tiny.en"];
/// What they weigh together, for the message.
const DOWNLOAD_MB: u32 = 390;

/// Builds the host as `serve` runs it and has it fetch the models.
pub(crate) fn fetch(workspace: &Workspace, progress: &Progress) -> Result<()> {
    progress.step("building the host in release mode");
    pull(workspace, &workspace.host()?, progress)
}

/// Has the program `host` fetch the models.
pub(crate) fn pull(workspace: &Workspace, host: &Path, progress: &Progress) -> Result<()> {
    progress.step(&format!("models (about {DOWNLOAD_MB} MB in all where none is present): {}", WANTED.join(" ")));
    let mut pull = Command::new(host);
    pull.args(["models", "pull"]).args(WANTED).current_dir(&workspace.root);
    command::run(&mut pull).context("cannot fetch the models; what has arrived is kept, so run this again")
}
