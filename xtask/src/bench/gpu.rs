//! Text generation on a GPU: first whether it is right, then how fast it is beside transformers on the same card.
//!
//! Models are llamas of published sizes with random weights, made on the spot, because speed does not depend on what a
//! model knows. Each measurement is a process of its own, so that neither side finds the other's memory taken.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde_json::Value;

use super::figures::{Better, Figure, Side, order};
use super::python;
use crate::cache::Slot;
use crate::command;
use crate::cuda::{self, Built, Program};
use crate::progress::Progress;
use crate::workspace::Workspace;

/// The peer's releases.
pub(super) const PEER: [&str; 2] = ["torch==2.15.0", "transformers==5.24.0"];
/// What they and what they need weigh, for the message.
pub(super) const PEER_MB: u32 = 3000;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Rounds; in each round both sides are measured once for each size and number of streams.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Sizes of model. 8b takes 16 GB on disk and on the card.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "1b,8b")]
    sizes: Vec<Size>,
    /// Numbers of sequences at once.
    #[arg(long, value_delimiter = ',', default_value = "1,8,32")]
    streams: Vec<usize>,
    /// Tokens that each sequence reads, and then makes.
    #[arg(long, default_value_t = 128)]
    tokens: usize,
    /// Build with FlashAttention's kernels, which take hours of CPU to compile.
    #[arg(long)]
    flash_attn: bool,
    /// Only whether it is right.
    #[arg(long)]
    check: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Size {
    #[value(name = "1b")]
    OneB,
    #[value(name = "8b")]
    EightB,
}

impl Size {
    fn name(self) -> &'static str {
        match self {
            Self::OneB => "1b",
            Self::EightB => "8b",
        }
    }
}

pub(crate) fn bench(workspace: &Workspace, options: &Options, progress: &Progress) -> Result<()> {
    if options.runs == 0 || options.tokens == 0 || options.sizes.is_empty() || options.streams.contains(&0) {
        bail!("--runs, --tokens and --streams must be at least 1, and --sizes must name one");
    }
    let gpu = cuda::gpu()?;
    progress.step(&format!("measuring on {}", gpu.name));
    let ours = cuda::build(workspace, Program::Bench, options.flash_attn, progress)?;
    progress.step("comparing the GPU with the processor, architecture by architecture");
    let mut check = program(&ours);
    check.arg("check").arg(workspace.root.join("host/inference/tests/golden/decoders"));
    command::run(&mut check)?;
    if options.check {
        return Ok(());
    }
    let python = python::environment(workspace, progress, "transformers", &PEER, PEER_MB)?;
    let peer = workspace.root.join("tests/bench/gpu_peer.py");
    for size in &options.sizes {
        let model = model(workspace, &python, &peer, *size, progress)?;
        for streams in &options.streams {
            let measurement = Measurement { ours: &ours, python: &python, peer: &peer, model: &model, options };
            for line in measurement.figures(*size, *streams, progress)? {
                println!("{line}");
            }
        }
    }
    Ok(())
}

fn program(built: &Built) -> Command {
    let mut command = Command::new(&built.program);
    command.envs(built.environment());
    command
}

struct Measurement<'a> {
    ours: &'a Built,
    python: &'a Path,
    peer: &'a Path,
    model: &'a Path,
    options: &'a Options,
}

impl Measurement<'_> {
    fn figures(&self, size: Size, streams: usize, progress: &Progress) -> Result<[Value; 2]> {
        let name = |what: &str| format!("gpu_{what}_{}_streams{streams}", size.name());
        let mut prefill = Figure::new(name("prefill"), "tokens/s", Better::Higher);
        let mut decode = Figure::new(name("decode"), "tokens/s", Better::Higher);
        for round in 0..self.options.runs {
            for side in order(round) {
                let measured = self.run(side, streams)?;
                progress.done_before(&format!("{}, round {}, {side:?}: {measured}", size.name(), round + 1));
                for (key, figure) in [("prefill_tps", &mut prefill), ("decode_tps", &mut decode)] {
                    figure.record(side, measured[key].as_f64().with_context(|| format!("{side:?} gave no {key}"))?);
                }
            }
        }
        Ok([prefill.line(), decode.line()])
    }

    fn run(&self, side: Side, streams: usize) -> Result<Value> {
        let mut command = match side {
            Side::Ours => program(self.ours),
            Side::Peer => {
                let mut python = Command::new(self.python);
                python.arg(self.peer);
                python
            }
        };
        let tokens = self.options.tokens.to_string();
        command.arg("speed").arg(self.model).args(["--streams", &streams.to_string()]);
        command.args(["--prompt", &tokens, "--tokens", &tokens]);
        let text = command::output(&mut command)?;
        let line = text.lines().rev().find(|line| line.starts_with('{')).context("the measurement printed no JSON")?;
        serde_json::from_str(line).context("the measurement printed broken JSON")
    }
}

/// A llama with random weights.
fn model(workspace: &Workspace, python: &Path, peer: &Path, size: Size, progress: &Progress) -> Result<PathBuf> {
    let slot = Slot::new(&workspace.cache, &format!("bench/gpu-models/{}", size.name()));
    let _lock = slot.lock(progress)?;
    let script = std::fs::read_to_string(peer).with_context(|| format!("cannot read {}", peer.display()))?;
    if slot.is_complete(&script) {
        progress.done_before(&format!("a random llama of {} in {}", size.name(), slot.path.display()));
        return Ok(slot.path);
    }
    progress.step(&format!("making a random llama of {} in {}", size.name(), slot.path.display()));
    slot.start_over()?;
    command::run(Command::new(python).arg(peer).args(["make", "--size", size.name()]).arg(&slot.path))?;
    slot.complete(&script)?;
    Ok(slot.path)
}
