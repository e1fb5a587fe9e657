//! Text to speech beside transformers: one model of MMS-TTS's dimensions with random weights, one sentence, the same number
//! of threads. Speed does not depend on what a model has learned.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::figures::{Better, Figure, Side, order};
use super::gpu::{PEER, PEER_MB};
use super::python;
use crate::cache::Slot;
use crate::command;
use crate::progress::Progress;
use crate::workspace::Workspace;

/// The program that measures.
const PROGRAM: &str = "synthesis-bench";
/// What is said: letters that both sides make the same tokens of.
const TEXT: &str = "the lighthouse keeper wrote down every ship that passed, and the colour of the sea on that day, until \
                    there were more books in the tower than steps";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Rounds; in each round both sides are measured once.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Threads of both sides.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

pub(crate) fn bench(workspace: &Workspace, options: &Options, progress: &Progress) -> Result<()> {
    if options.runs == 0 || options.threads == 0 {
        bail!("--runs and --threads must be at least 1");
    }
    progress.step("building the measuring program in release mode");
    let program = workspace.program(PROGRAM)?;
    let python = python::environment(workspace, progress, "transformers", &PEER, PEER_MB)?;
    let peer = workspace.root.join("tests/bench/synthesis_peer.py");
    let model = model(workspace, &python, &peer, progress)?;
    // Seconds of sound for each second of computing, so that a ratio above 1 means faster than the peer.
    let mut figure = Figure::new("tts_rtf", "times real time", Better::Higher).label("threads", options.threads);
    for round in 0..options.runs {
        let mut samples = Vec::new();
        for side in order(round) {
            let mut command = match side {
                Side::Ours => Command::new(&program),
                Side::Peer => Command::new(&python),
            };
            if side == Side::Peer {
                command.arg(&peer).arg("speed");
            }
            command.arg(&model).arg(TEXT).args(["--threads", &options.threads.to_string()]);
            let measured = measured(&mut command)?;
            progress.done_before(&format!("round {}, {side:?}: {measured}", round + 1));
            let number = |key: &str| measured[key].as_f64().with_context(|| format!("no {key} in {measured}"));
            figure.record(side, number("samples")? / number("rate")? / number("seconds")?);
            samples.push(number("samples")?);
        }
        if samples.windows(2).any(|two| two[0] != two[1]) {
            bail!("the two sides made different sounds of the same text: {samples:?} samples");
        }
    }
    println!("{}", figure.line());
    Ok(())
}

fn measured(command: &mut Command) -> Result<Value> {
    let text = command::output(command)?;
    let line = text.lines().rev().find(|line| line.starts_with('{')).context("the measurement printed no JSON")?;
    serde_json::from_str(line).context("the measurement printed broken JSON")
}

/// The model with random weights.
fn model(workspace: &Workspace, python: &Path, peer: &Path, progress: &Progress) -> Result<PathBuf> {
    let slot = Slot::new(&workspace.cache, "bench/synthesis-model");
    let _lock = slot.lock(progress)?;
    let script = std::fs::read_to_string(peer).with_context(|| format!("cannot read {}", peer.display()))?;
    if slot.is_complete(&script) {
        progress.done_before(&format!("a random model of speech in {}", slot.path.display()));
        return Ok(slot.path);
    }
    progress.step(&format!("making a random model of speech in {}", slot.path.display()));
    slot.start_over()?;
    command::run(Command::new(python).arg(peer).arg("make").arg(&slot.path))?;
    slot.complete(&script)?;
    Ok(slot.path)
}
