//! Checks and times decoders on a GPU, one forward pass after the other, without scheduler, tokenizer or server.
//!
//! `check` compares every model below a directory with this project's kernels on the processor, which tests compare
//! with transformers; `speed` is one measurement of one model, as `gpu_peer.py` makes it of transformers. Each prints
//! one JSON object per line. With `--device tensors` both run on the processor, which is how they are tried out where
//! there is no GPU.

mod check;
mod model;
mod speed;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Result, anyhow};
use clap::{Parser, Subcommand, ValueEnum};
use host_inference::DeviceChoice;
use host_inference::device::{Placement, place};

/// Checks and times decoders on a GPU.
#[derive(Parser)]
struct Arguments {
    /// Where to compute.
    #[arg(long, value_enum, default_value_t = Device::Cuda)]
    device: Device,
    #[command(subcommand)]
    task: Task,
}

#[derive(Clone, Copy, ValueEnum)]
enum Device {
    /// The first NVIDIA GPU.
    Cuda,
    /// The processor, with the tensors that a GPU computes with.
    Tensors,
}

#[derive(Subcommand)]
enum Task {
    /// Compares all models below a directory with the kernels on the processor.
    Check {
        /// Each directory in it holds a checkpoint, GGUF files, or both.
        directory: PathBuf,
    },
    /// Times one model.
    Speed {
        /// A checkpoint's directory, or a GGUF file.
        model: PathBuf,
        /// Sequences at once.
        #[arg(long)]
        streams: NonZeroUsize,
        /// Tokens that each sequence reads first.
        #[arg(long, default_value = "128")]
        prompt: NonZeroUsize,
        /// Tokens that each then makes and that are timed.
        #[arg(long, default_value = "128")]
        tokens: NonZeroUsize,
    },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let placement = match arguments.device {
        Device::Cuda => place(DeviceChoice::Cuda).map_err(|why| anyhow!("there is no GPU to measure: {why}"))?,
        Device::Tensors => Placement::ProcessorTensors,
    };
    match arguments.task {
        Task::Check { directory } => check::check(&directory, placement),
        Task::Speed { model, streams, prompt, tokens } => {
            let work = speed::Work { streams: streams.get(), prompt: prompt.get(), tokens: tokens.get() };
            println!("{}", speed::speed(&model, placement, &work)?);
            Ok(())
        }
    }
}
