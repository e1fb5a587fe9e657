//! The backend `openai` beside real servers: two of llama.cpp's with the same small model, one killed in the middle.
//!
//! It is no part of the tests because llama.cpp's server is compiled for it, ten minutes of CPU or more; what servers may
//! do wrong is tested with scripted ones.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::llm::peer::Peer;
use crate::command;
use crate::models;
use crate::progress::Progress;
use crate::workspace::Workspace;

/// The program that drives them, and the one that knows where the model is.
const PROGRAM: &str = "upstream-check";
const LOCATOR: &str = "llm-bench";
const MODEL: &str = "smollm2-135m-instruct";
/// Calls under way on a server, and tokens that each may have.
const STREAMS: usize = 4;
const CONTEXT: usize = 1024;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// A llama.cpp server (`llama-server`) that is there already; built where it is not given.
    #[arg(long, value_name = "FILE")]
    llama_server: Option<PathBuf>,
    /// Requests of which the kill is in the middle.
    #[arg(long, default_value_t = 48)]
    requests: usize,
}

pub(crate) fn bench(workspace: &Workspace, options: &Options, progress: &Progress) -> Result<()> {
    models::fetch(workspace, progress)?;
    let peer = match &options.llama_server {
        Some(server) => Peer::at(server)?,
        None => Peer::built(workspace, progress)?,
    };
    progress.step("building the driving program in release mode");
    let program = workspace.program(PROGRAM)?;
    let located = command::output(Command::new(workspace.program(LOCATOR)?).args(["locate", MODEL]))?;
    let model = PathBuf::from(located.trim());
    progress.step("starting two servers");
    let stays = peer.serve(&model, 1, STREAMS, CONTEXT)?;
    let dies = peer.serve(&model, 1, STREAMS, CONTEXT)?;
    let mut check = Command::new(program);
    check.arg(format!("{}/v1", stays.address)).arg(format!("{}/v1", dies.address)).arg(dies.id().to_string());
    command::run(check.args(["--requests", &options.requests.to_string()]))
}
