//! NVIDIA's compiler and libraries: those that are installed, or else their wheels.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::{self, Slot};
use crate::command;
use crate::progress::Progress;
use crate::workspace::Workspace;

/// The headers that candle-flash-attn's build asks for: its build script takes a folder of this name whose git HEAD is
/// this commit for what it would otherwise clone.
pub(super) const CUTLASS: &str = "7d49e6c7e2f8896c47f586706e67e1fb215529dc";
/// The compiler's version, as cudarc writes it. A driver must be as new as the compiler of the code that it takes.
pub(super) const VERSION: &str = "13000";
/// The compiler and what it needs, and the libraries that candle opens.
const WHEELS: [&str; 7] = [
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
    "nvidia-cublas==13.0.*",
    "nvidia-curand==10.4.0.*",
];
/// What they weigh, for the message.
const WHEELS_MB: u32 = 600;

/// A GPU of this machine.
pub(crate) struct Gpu {
    pub(crate) name: String,
    /// As compilers write it: `90` for 9.0.
    pub(super) capability: String,
}

/// The first GPU.
///
/// # Errors
/// When there is none, or no driver.
pub(crate) fn gpu() -> Result<Gpu> {
    let mut ask = Command::new("nvidia-smi");
    ask.args(["--query-gpu=name,compute_cap", "--format=csv,noheader"]);
    let answer = command::output(&mut ask).context(
        "there is no NVIDIA GPU here, or no driver for it: `nvidia-smi` does not run; what needs no GPU is checked by \
         `cargo xtask cuda check` and `cargo test`",
    )?;
    parse(&answer)
}

fn parse(answer: &str) -> Result<Gpu> {
    let line = answer.lines().next().unwrap_or_default();
    let Some((name, capability)) = line.rsplit_once(',') else {
        bail!("there is no NVIDIA GPU here: `nvidia-smi` names none")
    };
    let capability: String = capability.chars().filter(char::is_ascii_digit).collect();
    if capability.is_empty() {
        bail!("`nvidia-smi` does not say what {name} can compute; set CUDA_COMPUTE_CAP")
    }
    Ok(Gpu { name: name.trim().to_owned(), capability })
}

/// What a build and its programs need in their environment.
pub(super) struct Toolkit {
    pub(super) variables: Vec<(&'static str, OsString)>,
    /// Where the libraries lie that programs open, if not where the system looks anyway.
    pub(super) libraries: Option<PathBuf>,
}

impl Toolkit {
    /// The compiler that `NVCC` or the `PATH` names, or the wheels.
    pub(super) fn ready(workspace: &Workspace, progress: &Progress) -> Result<Self> {
        if std::env::var_os("NVCC").is_some() || command::exists("nvcc") {
            return Ok(Self { variables: Vec::new(), libraries: None });
        }
        let slot = Slot::new(&workspace.cache, "cuda/toolkit");
        let _lock = slot.lock(progress)?;
        let (made_from, sdk) = (WHEELS.join(" "), slot.path.join("nvidia/cu13"));
        if slot.is_complete(&made_from) {
            progress.done_before(&format!("CUDA in {}", slot.path.display()));
        } else {
            progress.step(&format!("fetching CUDA ({WHEELS_MB} MB) into {}", slot.path.display()));
            slot.start_over()?;
            let mut pip = Command::new("python3");
            pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "--target"]);
            command::run(pip.arg(&slot.path).args(WHEELS)).context("cannot fetch CUDA, and `nvcc` is not installed")?;
            arrange(&sdk, &slot.path.join("link"))?;
            slot.complete(&made_from)?;
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(std::iter::once(sdk.join("bin")).chain(std::env::split_paths(&path)))?;
        let variables = vec![
            ("CUDA_HOME", sdk.clone().into()),
            ("CUDA_PATH", sdk.clone().into()),
            ("NVCC", sdk.join("bin/nvcc").into()),
            ("PATH", path),
            ("CUDARC_CUDA_VERSION", VERSION.into()),
            ("LIBRARY_PATH", slot.path.join("link").into()),
        ];
        Ok(Self { variables, libraries: Some(sdk.join("lib")) })
    }
}

/// The compiler looks for its libraries in `lib64`. The linker is to find the runtime library in one form only, the
/// static one, so that programs start without it.
fn arrange(sdk: &Path, link: &Path) -> Result<()> {
    cache::create(link)?;
    let runtime = sdk.join("lib/libcudart_static.a");
    std::fs::copy(&runtime, link.join("libcudart.a")).with_context(|| format!("cannot copy {}", runtime.display()))?;
    #[cfg(unix)]
    std::os::unix::fs::symlink("lib", sdk.join("lib64")).context("cannot link CUDA's lib64")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_gpu_is_taken() {
        let gpu = parse("NVIDIA H100 80GB HBM3, 9.0\nNVIDIA A10, 8.6\n").unwrap();
        assert_eq!((gpu.name.as_str(), gpu.capability.as_str()), ("NVIDIA H100 80GB HBM3", "90"));
        assert!(parse("").is_err());
        assert!(parse("NVIDIA K80, [N/A]").is_err_and(|error| error.to_string().contains("CUDA_COMPUTE_CAP")));
    }
}
