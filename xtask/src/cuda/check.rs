//! Types and lints of the code for GPUs.
//!
//! The crates behind the feature compile kernels in their build scripts. To check Rust code none of those is needed,
//! so a stand-in for the compiler writes empty files, in a build directory of its own: what it leaves must never be
//! linked.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::toolkit::{CUTLASS, VERSION};
use crate::progress::Progress;
use crate::workspace::Workspace;
use crate::{cache, command};

/// The stand-in.
const COMPILER: &str = include_str!("nvcc.sh");
/// The GPUs that code would be made for (Hopper).
const CAPABILITY: &str = "90";

/// Checks the crates that have code for GPUs, tests included.
pub(crate) fn check(workspace: &Workspace, progress: &Progress) -> Result<()> {
    let directory = workspace.target_dir.join("cuda-check");
    let compiler = stand_in(&directory)?;
    progress.step("checking the code for NVIDIA GPUs, with clippy's lints");
    let mut cargo = workspace.cargo();
    cargo.args(["check", "--package", "host-kernels", "--package", "host-inference", "--tests"]);
    cargo.args(["--features", "host-inference/flash-attn"]);
    command::lint_while_building(&mut cargo);
    cargo.env("CARGO_TARGET_DIR", &directory).env("NVCC", compiler).env("CUDAFORGE_HOME", directory.join("cudaforge"));
    cargo.env("CUDA_COMPUTE_CAP", CAPABILITY).env("CUDARC_CUDA_VERSION", VERSION);
    command::run(&mut cargo)
}

/// Writes what stands in for the compiler and for its headers.
fn stand_in(directory: &Path) -> Result<PathBuf> {
    let headers = directory.join("cudaforge/git/checkouts").join(format!("cutlass-{}", &CUTLASS[..16]));
    cache::create(&headers.join("include"))?;
    let git = headers.join(".git");
    if !git.join("config").exists() {
        command::run(std::process::Command::new("git").args(["init", "--quiet"]).arg(&headers))?;
    }
    write(&git.join("HEAD"), &format!("{CUTLASS}\n"))?;
    let compiler = directory.join("nvcc");
    write(&compiler, COMPILER)?;
    executable(&compiler)?;
    Ok(compiler)
}

/// Leaves a file alone that is as it should be: build scripts look at its time.
fn write(path: &Path, text: &str) -> Result<()> {
    if std::fs::read_to_string(path).is_ok_and(|found| found == text) {
        return Ok(());
    }
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(unix)]
fn executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;

    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot make {} executable", path.display()))
}

#[cfg(not(unix))]
fn executable(path: &Path) -> Result<()> {
    anyhow::bail!("{} is a shell script: check the code for GPUs on Linux", path.display())
}

#[cfg(all(test, unix))]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_stand_in_writes_what_build_scripts_expect() {
        let directory = tempfile::tempdir().unwrap();
        let compiler = stand_in(directory.path()).unwrap();
        let run = |arguments: &[&str]| {
            let output = Command::new(&compiler).args(arguments).current_dir(directory.path()).output().unwrap();
            assert!(output.status.success());
            String::from_utf8(output.stdout).unwrap()
        };
        assert!(run(&["--version"]).contains("release 13.0,"));
        run(&["--ptx", "--output-directory", ".", "kernels/cast.cu"]);
        run(&["-c", "kernels/cast.cu", "-o", "cast.o"]);
        run(&["--lib", "-o", "libmoe.a", "cast.o"]);
        let length = |name: &str| std::fs::metadata(directory.path().join(name)).unwrap().len();
        assert_eq!((length("cast.ptx"), length("cast.o"), length("libmoe.a")), (0, 0, 8));
        // A second time nothing is written anew.
        let written = std::fs::metadata(&compiler).unwrap().modified().unwrap();
        stand_in(directory.path()).unwrap();
        assert_eq!(std::fs::metadata(&compiler).unwrap().modified().unwrap(), written);
    }
}
