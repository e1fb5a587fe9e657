//! The compiler for guests.
//!
//! `rustup target add` is the path every user knows, so it comes first. A machine behind a mirror may be able to
//! download nothing that way; Debian and its derivatives package the same standard library, and [`packaged`] unpacks
//! that into the cache directory, never over the system.

mod packaged;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cache;
use crate::command::{self, shown};
use crate::progress::{Progress, megabytes};
use crate::workspace::{GUEST_TARGET, Workspace, cargo_program};

/// rustup retries for minutes on a dead network; this long without a byte means there is none.
const STALLED: Duration = Duration::from_secs(120);
/// What rustup downloads for the target, roughly, for the message.
const RUSTUP_DOWNLOAD: u64 = 25_000_000;

/// A way to build for the guest target.
pub(crate) enum Toolchain {
    /// The active toolchain has the target.
    Rustup,
    /// Debian's compiler, reached through these variables.
    Packaged(Vec<(String, String)>),
}

impl Toolchain {
    /// Gets the target where it is missing.
    pub(crate) fn ready(workspace: &Workspace, progress: &Progress) -> Result<Self> {
        let wanted = std::env::var("HOST_GUEST_TOOLCHAIN").unwrap_or_default();
        match wanted.as_str() {
            "" => {}
            "rustup" => return rustup(progress).map(|()| Self::Rustup),
            "packaged" => return packaged::ready(workspace, progress),
            other => bail!("HOST_GUEST_TOOLCHAIN is `{other}`: set it to `rustup` or `packaged`, or unset it"),
        }
        if has_target()? {
            progress.done_before(&format!("{GUEST_TARGET}: installed in the active toolchain"));
            return Ok(Self::Rustup);
        }
        if let Some(before) = packaged::existing(workspace)? {
            progress.done_before(&format!("{GUEST_TARGET}: packaged compiler in {}", workspace.cache.display()));
            return Ok(before);
        }
        let Err(rustup) = rustup(progress) else { return Ok(Self::Rustup) };
        progress.note(&format!("rustup could not add {GUEST_TARGET} ({rustup:#}); trying the packaged compiler"));
        packaged::ready(workspace, progress).with_context(|| {
            format!("no way to build for {GUEST_TARGET}: rustup failed ({rustup:#}) and so did the packaged compiler")
        })
    }

    /// `cargo` set up to build guests, and the directory it puts components into.
    pub(crate) fn cargo(&self, workspace: &Workspace) -> (Command, PathBuf) {
        let mut cargo = workspace.cargo();
        let target_dir = match self {
            Self::Rustup => workspace.target_dir.clone(),
            Self::Packaged(environment) => {
                cargo.envs(environment.iter().map(|(name, value)| (name, value)));
                workspace.target_dir.join("guests")
            }
        };
        cargo.env("CARGO_TARGET_DIR", &target_dir);
        (cargo, target_dir.join(GUEST_TARGET).join("release"))
    }

    /// Whether clippy can check guests for the target they run on: its driver has the libraries of rustup's compiler
    /// only.
    pub(crate) fn has_clippy(&self) -> bool {
        matches!(self, Self::Rustup)
    }
}

/// Whether the active toolchain has the target's standard library.
fn has_target() -> Result<bool> {
    let mut rustc = Command::new(rustc_program());
    rustc.args(["--print", "target-libdir", "--target", GUEST_TARGET]);
    let directory = command::output(&mut rustc)?;
    let Ok(entries) = std::fs::read_dir(directory.trim()) else { return Ok(false) };
    Ok(entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-")))
}

/// The compiler beside the running cargo, so that both are of one toolchain.
fn rustc_program() -> PathBuf {
    let beside = cargo_program().with_file_name("rustc");
    if beside.is_absolute() && beside.exists() { beside } else { PathBuf::from("rustc") }
}

/// The active toolchain's directory.
fn sysroot() -> Result<PathBuf> {
    let text = command::output(Command::new(rustc_program()).args(["--print", "sysroot"]))?;
    Ok(PathBuf::from(text.trim()))
}

fn rustup(progress: &Progress) -> Result<()> {
    if has_target()? {
        progress.done_before(&format!("{GUEST_TARGET}: installed in the active toolchain"));
        return Ok(());
    }
    progress.step(&format!("rustup target add {GUEST_TARGET} (about {})", megabytes(RUSTUP_DOWNLOAD)));
    let home = match std::env::var_os("RUSTUP_HOME") {
        Some(home) => PathBuf::from(home),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".rustup"),
    };
    let watched = [home.join("downloads"), home.join("tmp"), sysroot()?.join("lib/rustlib").join(GUEST_TARGET)];
    let mut add = Command::new("rustup");
    add.args(["target", "add", GUEST_TARGET]);
    if let Some(toolchain) = sysroot()?.file_name() {
        add.arg("--toolchain").arg(toolchain);
    }
    watch(&mut add, &watched, None, progress)?;
    if !has_target()? {
        bail!("rustup reports success but the compiler has no {GUEST_TARGET} library");
    }
    Ok(())
}

/// Runs a downloader and shows how the watched paths grow; ends it once they have not changed for [`STALLED`].
fn watch(command: &mut Command, watched: &[PathBuf], total: Option<u64>, progress: &Progress) -> Result<()> {
    let log = tempfile::NamedTempFile::new().context("cannot create a temporary file")?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(log.reopen()?)
        .stderr(log.reopen()?)
        .spawn()
        .with_context(|| format!("cannot start `{}`", shown(command)))?;
    let measure = || watched.iter().map(|path| cache::size(path)).sum::<u64>();
    let before = measure();
    let bar = progress.bytes(total);
    let (mut last, mut since) = (before, Instant::now());
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        let now = measure();
        if now != last {
            (last, since) = (now, Instant::now());
            bar.set_position(now.saturating_sub(before));
        }
        if since.elapsed() > STALLED {
            child.kill()?;
            child.wait()?;
            bar.finish_and_clear();
            bail!("`{}` received nothing for {} s", shown(command), STALLED.as_secs());
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    bar.finish_and_clear();
    if !status.success() {
        let text = std::fs::read_to_string(log.path()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let tail = lines.get(lines.len().saturating_sub(5)..).unwrap_or_default().join("; ");
        bail!("`{}` failed: {status}: {tail}", shown(command));
    }
    Ok(())
}

/// `rust-lld` and `wasm-component-ld` of the active toolchain: the packaged compiler brings none.
fn linkers(sysroot: &Path) -> Result<[PathBuf; 2]> {
    let version = command::output(Command::new(rustc_program()).arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("`rustc -vV` names no host")?;
    let bin = sysroot.join("lib/rustlib").join(host).join("bin");
    Ok([bin.join("gcc-ld"), bin])
}
