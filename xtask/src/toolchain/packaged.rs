//! Debian's compiler for Wasm, unpacked into the cache directory.
//!
//! The packages hold rustc, its LLVM, the standard library's source and a C library for WASI, but no built standard
//! library for `wasm32-wasip2`: that is built here once and put where the compiler looks for it. Packages are fetched
//! with a package list of our own, so neither root nor the system's package lock is needed, and the machine's own
//! list may be as old as it likes. `apt-get` checks signatures and sums.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Toolchain, linkers, sysroot, watch};
use crate::cache::{self, Slot};
use crate::command;
use crate::progress::{Progress, megabytes};
use crate::workspace::{GUEST_TARGET, Workspace, cargo_program};

/// Raised when the way of building changes, so that older unpackings are made anew.
const LAYOUT: &str = "1";
/// What a package list of the stable and security archives weighs, for the message.
const LISTS: u64 = 14_000_000;

/// The toolchain of an earlier run, where it is complete.
pub(super) fn existing(workspace: &Workspace) -> Result<Option<Toolchain>> {
    let slot = slot(workspace);
    if slot.is_complete(LAYOUT) { Ok(Some(Toolchain::Packaged(environment(&slot.path)?))) } else { Ok(None) }
}

/// Fetches, unpacks and completes the toolchain where that has not been done.
pub(super) fn ready(workspace: &Workspace, progress: &Progress) -> Result<Toolchain> {
    let slot = slot(workspace);
    let _lock = slot.lock(progress)?;
    if slot.is_complete(LAYOUT) {
        progress.done_before(&format!("{GUEST_TARGET}: packaged compiler in {}", slot.path.display()));
        return environment(&slot.path).map(Toolchain::Packaged);
    }
    if !command::exists("apt-get") || !command::exists("dpkg") {
        bail!("this machine has no apt-get and dpkg; get the {GUEST_TARGET} target from your distribution or rustup");
    }
    let packages = download(&workspace.cache.join("guest-packages"), progress)?;
    slot.start_over()?;
    progress.step(&format!("unpacking {} packages into {}", packages.len(), slot.path.display()));
    for package in &packages {
        command::run(Command::new("dpkg").arg("-x").arg(package).arg(&slot.path))?;
    }
    build_std(&slot.path, progress)?;
    slot.complete(LAYOUT)?;
    cache::remove(&workspace.cache.join("guest-packages"))?;
    environment(&slot.path).map(Toolchain::Packaged)
}

fn slot(workspace: &Workspace) -> Slot {
    Slot::new(&workspace.cache, "guest-toolchain")
}

fn library_directory(root: &Path) -> PathBuf {
    root.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH))
}

/// The environment in which cargo builds for the guest target with the unpacked compiler.
fn environment(root: &Path) -> Result<Vec<(String, String)>> {
    let sysroot = sysroot()?;
    let mut path: Vec<PathBuf> = vec![sysroot.join("bin")];
    path.extend(linkers(&sysroot)?);
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let path = std::env::join_paths(path).context("a directory in PATH has a colon in its name")?;
    let flags = format!("-Clink-self-contained=no -Lnative={}", root.join("usr/lib/wasm32-wasi").display());
    let environment = [
        ("LD_LIBRARY_PATH", library_directory(root).display().to_string()),
        ("RUSTC", root.join("usr/bin/rustc").display().to_string()),
        ("PATH", path.to_string_lossy().into_owned()),
        ("CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS", flags),
    ];
    Ok(environment.map(|(name, value)| (name.to_owned(), value)).to_vec())
}

/// Downloads the packages and names the files. A complete earlier download is used as it is.
fn download(directory: &Path, progress: &Progress) -> Result<Vec<PathBuf>> {
    let finished = directory.join("complete");
    if !finished.is_dir() {
        let apt = Apt { directory: directory.to_owned() };
        progress.step(&format!("refreshing a package list of our own (about {})", megabytes(LISTS)));
        apt.update(progress)?;
        let names = apt.packages()?;
        let total = apt.total(&names)?;
        progress.step(&format!("downloading {} ({})", names.join(" "), megabytes(total)));
        let partial = directory.join("partial-download");
        cache::remove(&partial)?;
        cache::create(&partial)?;
        let mut get = apt.command("apt-get");
        get.arg("download").args(&names).current_dir(&partial);
        watch(&mut get, std::slice::from_ref(&partial), Some(total), progress)?;
        std::fs::rename(&partial, &finished).with_context(|| format!("cannot rename {}", partial.display()))?;
    }
    let entries = std::fs::read_dir(&finished).with_context(|| format!("cannot read {}", finished.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "deb"));
    Ok(files)
}

/// `apt` with lists and caches of its own.
struct Apt {
    directory: PathBuf,
}

impl Apt {
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let option = |key: &str, folder: &str| format!("{key}={}", self.directory.join(folder).display());
        command.args(["-o", &option("Dir::State::lists", "lists")]);
        command.args(["-o", &option("Dir::Cache", "apt")]);
        command.args(["-o", &option("Dir::Cache::archives", "apt/archives")]);
        command.args(["-o", "APT::Sandbox::User="]);
        command.env("LC_ALL", "C");
        command
    }

    /// Some source of the machine may be out of reach; what counts is whether the packages are found afterwards.
    fn update(&self, progress: &Progress) -> Result<()> {
        cache::create(&self.directory.join("lists/partial"))?;
        cache::create(&self.directory.join("apt/archives/partial"))?;
        let mut update = self.command("apt-get");
        update.arg("update");
        if let Err(error) = watch(&mut update, &[self.directory.join("lists")], None, progress) {
            progress.note(&format!("{error:#}"));
        }
        Ok(())
    }

    /// The compiler and what it needs beyond a C compiler's own libraries; some names carry a version.
    fn packages(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> =
            ["rustc-web", "rust-web-src", "libstd-rust-web-dev", "wasi-libc"].map(str::to_owned).to_vec();
        let versioned = self.dependency("libstd-rust-web-dev", "libstd-rust-web-")?;
        names.push(self.dependency(&versioned, "libllvm")?);
        names.push(versioned);
        Ok(names)
    }

    fn dependency(&self, package: &str, prefix: &str) -> Result<String> {
        let text = command::output(self.command("apt-cache").args(["depends", package]))
            .with_context(|| format!("the package archive has no `{package}`"))?;
        text.lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .find(|name| name.starts_with(prefix))
            .map(str::to_owned)
            .with_context(|| format!("package `{package}` names no dependency `{prefix}…`"))
    }

    /// What the packages weigh: `--print-uris` prints address, file, bytes and sum of each.
    fn total(&self, names: &[String]) -> Result<u64> {
        let text = command::output(self.command("apt-get").args(["--print-uris", "download"]).args(names))?;
        Ok(text.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<u64>().ok()).sum())
    }
}

/// Builds the standard library for the guest target and puts it into the unpacked compiler's own directory.
fn build_std(root: &Path, progress: &Progress) -> Result<()> {
    progress.step(&format!("building the standard library for {GUEST_TARGET}, once (about a minute of CPU)"));
    let scratch = tempfile::tempdir().context("cannot create a temporary directory")?;
    let package = scratch.path();
    cache::create(&package.join("src"))?;
    std::fs::write(package.join("src/lib.rs"), "")?;
    std::fs::write(
        package.join("Cargo.toml"),
        "[package]\nname = \"standard-library\"\nversion = \"0.0.0\"\nedition = \"2021\"\n[workspace]\n\
         [profile.release]\nopt-level = 3\ncodegen-units = 1\npanic = \"abort\"\n",
    )?;
    let mut cargo = Command::new(cargo_program());
    cargo.args(["build", "--quiet", "--release", "--target", GUEST_TARGET]);
    cargo.arg("-Zbuild-std=std,panic_abort,proc_macro,test").current_dir(package);
    cargo.envs(environment(root)?).env("RUSTC_BOOTSTRAP", "1").env("CARGO_TARGET_DIR", package.join("target"));
    // Guests may choose link-time optimization or not: the bitcode serves the one, the machine code the other.
    cargo.env("CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS", "-Cembed-bitcode=yes -Clto=off -Clink-self-contained=no");
    command::run(&mut cargo)?;
    let library = root.join("usr/lib/rustlib").join(GUEST_TARGET).join("lib");
    cache::create(&library)?;
    let built = package.join("target").join(GUEST_TARGET).join("release/deps");
    for entry in std::fs::read_dir(&built).with_context(|| format!("cannot read {}", built.display()))? {
        let path = entry?.path();
        let Some(name) = path.file_name().map(|name| name.to_string_lossy().into_owned()) else { continue };
        if name.ends_with(".rlib") && !name.contains("standard_library") {
            std::fs::copy(&path, library.join(&name)).with_context(|| format!("cannot copy {name}"))?;
        }
    }
    Ok(())
}
