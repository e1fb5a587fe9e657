//! `cargo xtask cuda`: the code for NVIDIA GPUs, checked where there is neither a GPU nor NVIDIA's compiler, and built
//! where there is.

mod build;
mod check;
mod toolkit;

use anyhow::Result;
use clap::Subcommand;

pub(crate) use build::{Built, Program, build};
pub(crate) use check::check;
pub(crate) use toolkit::gpu;

use crate::progress::Progress;
use crate::workspace::Workspace;

#[derive(Subcommand)]
pub(crate) enum Cuda {
    /// Checks types and lints of everything behind the features `cuda` and `flash-attn`. Needs no CUDA.
    Check,
    /// Builds `host` with code for this machine's GPU, with NVIDIA's compiler or, where there is none, with its wheels.
    Build {
        /// With FlashAttention's kernels, which take hours of CPU to compile.
        #[arg(long)]
        flash_attn: bool,
    },
}

pub(crate) fn run(workspace: &Workspace, cuda: &Cuda, progress: &Progress) -> Result<()> {
    match cuda {
        Cuda::Check => check(workspace, progress),
        Cuda::Build { flash_attn } => {
            let built = build(workspace, Program::Host, *flash_attn, progress)?;
            progress.done_before(&format!("{}{}", built.program.display(), built.libraries_note()));
            Ok(())
        }
    }
}
