//! What makes JavaScript workers runnable on this machine: the bundler, and the engine that every such worker shares.
//!
//! Both come from npm packages and take a while to get, so they are kept in the cache directory, in a directory whose
//! name is made from everything that was put in. Nothing there is ever changed: another version of the host makes
//! another directory. The work is done in a directory beside it that gets this name when all is there, under a lock, so
//! neither an interruption nor a second host leaves something that looks complete and is not.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::command::{self, CommandError};
use crate::embedded::{self, File};
use crate::{Progress, lock};

/// The oldest major version of Node.js that the packages support.
const OLDEST_NODE: u32 = 20;
/// What the packages take up, measured on Linux on x86-64, for the message.
const INSTALLED: &str = "about 400 MB on disk";
/// npm retries for minutes on a dead network; this is how long it may take on a slow one.
const INSTALL_LIMIT: Duration = Duration::from_secs(30 * 60);
/// How long the engine may take to make: seconds on a free machine.
const BUILD_LIMIT: Duration = Duration::from_secs(15 * 60);
/// How long a program may take to print its version.
const VERSION_LIMIT: Duration = Duration::from_secs(60);

const STAGING: &str = ".partial-";
const RUNTIME: &str = "runtime.wasm";
const BUNDLER: &str = "sdk/bundle.mjs";

/// Bundler and engine, complete on this machine.
#[derive(Clone, Debug)]
pub struct Toolchain {
    directory: PathBuf,
    runtime: PathBuf,
    hash: String,
    node: OsString,
}

/// Why there is no toolchain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ToolchainError {
    /// `node` cannot be run.
    #[error(
        "JavaScript workers need Node.js {OLDEST_NODE} or newer: install it, with npm, so that `node` is on PATH ({0})"
    )]
    NoNode(CommandError),
    /// `node` is too old.
    #[error("JavaScript workers need Node.js {OLDEST_NODE} or newer: `node --version` says {0:?}; install a newer one")]
    OldNode(String),
    /// `npm` cannot be run.
    #[error(
        "JavaScript workers need npm, which most packages of Node.js bring: install it, so that `npm` is on PATH ({0})"
    )]
    NoNpm(CommandError),
    /// The packages cannot be installed.
    #[error("cannot install what makes JavaScript workers runnable: {0}")]
    Install(CommandError),
    /// The engine cannot be made.
    #[error("cannot make the engine for JavaScript workers: {0}")]
    Build(CommandError),
    /// A program said that it was done and left something out.
    #[error("cannot make the toolchain for JavaScript workers: {} was not made", .0.display())]
    Incomplete(PathBuf),
    /// A file or directory.
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        /// What was tried: "write".
        what: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl ToolchainError {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

/// The programs that make a toolchain.
struct Programs {
    node: OsString,
    npm: OsString,
}

impl Toolchain {
    /// Gets the toolchain: at once where it was made before, else by installing packages with npm and making the engine,
    /// which needs the network and takes a minute or so. `cache_root` is the host's cache directory.
    ///
    /// # Errors
    /// Node.js or npm is missing or too old, one of them fails, or the directory cannot be written to. Nothing is left
    /// then that a later call would take for a toolchain.
    pub fn ready(cache_root: &Path, progress: &mut dyn Progress) -> Result<Self, ToolchainError> {
        let programs = Programs { node: "node".into(), npm: "npm".into() };
        Self::make(cache_root, embedded::FILES, programs, progress)
    }

    /// The engine component.
    pub fn runtime(&self) -> &Path {
        &self.runtime
    }

    /// A number for everything the toolchain was made from: 16 hexadecimal digits.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The bundler, ready to be started.
    pub(crate) fn bundler(&self) -> Command {
        let mut command = Command::new(&self.node);
        command.arg(self.directory.join(BUNDLER));
        command
    }

    /// A toolchain in a directory that a test has filled.
    #[cfg(test)]
    pub(crate) fn of_test(directory: &Path, hash: &str) -> Self {
        Self::in_directory(directory.to_owned(), hash.to_owned(), "node".into())
    }

    fn in_directory(directory: PathBuf, hash: String, node: OsString) -> Self {
        Self { runtime: directory.join(RUNTIME), directory, hash, node }
    }

    fn make(
        cache_root: &Path,
        files: &[File<'_>],
        programs: Programs,
        progress: &mut dyn Progress,
    ) -> Result<Self, ToolchainError> {
        let hash = embedded::hash(files);
        let root = std::path::absolute(cache_root).map_err(ToolchainError::io("find", cache_root))?.join("js");
        let toolchain = Self::in_directory(root.join(&hash), hash, programs.node.clone());
        if missing(&toolchain.directory).is_none() {
            return Ok(toolchain);
        }
        fs::create_dir_all(&root).map_err(ToolchainError::io("create", &root))?;
        let lock_path = root.join(".lock");
        let mut waited = false;
        let lock = lock::take(&lock_path, || {
            waited = true;
            progress.step("waiting for another process that makes the toolchain for JavaScript workers");
        });
        let _lock = lock.map_err(ToolchainError::io("lock", &lock_path))?;
        if waited {
            progress.done("the other process is done");
        }
        if missing(&toolchain.directory).is_none() {
            return Ok(toolchain);
        }
        check(&programs)?;
        remove_abandoned(&root);
        let staging = tempfile::Builder::new().prefix(STAGING).tempdir_in(&root);
        let staging = staging.map_err(ToolchainError::io("create a directory in", &root))?;
        fill(staging.path(), files, &programs, progress)?;
        if let Some(missing) = missing(staging.path()) {
            return Err(ToolchainError::Incomplete(missing));
        }
        remove(&toolchain.directory)?;
        fs::rename(staging.path(), &toolchain.directory).map_err(ToolchainError::io("create", &toolchain.directory))?;
        // The directory has another name now, under which it stays.
        let _ = staging.keep();
        Ok(toolchain)
    }
}

/// What is not there. The directory comes into being complete, so this finds only what somebody took away since.
fn missing(directory: &Path) -> Option<PathBuf> {
    let there = |path: &PathBuf| path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() > 0);
    [RUNTIME, BUNDLER].map(|name| directory.join(name)).into_iter().find(|path| !there(path))
}

/// Sees that Node.js and npm are there before anything is fetched.
fn check(programs: &Programs) -> Result<(), ToolchainError> {
    let version = |program: &OsString| command::run(Command::new(program).arg("--version"), VERSION_LIMIT);
    let found = version(&programs.node).map_err(ToolchainError::NoNode)?;
    if major(&found).is_none_or(|major| major < OLDEST_NODE) {
        return Err(ToolchainError::OldNode(crate::text::line(found.trim(), 40)));
    }
    version(&programs.npm).map_err(ToolchainError::NoNpm)?;
    Ok(())
}

/// The major version in `v20.11.1`.
fn major(version: &str) -> Option<u32> {
    version.trim().strip_prefix('v')?.split('.').next()?.parse().ok()
}

fn fill(
    directory: &Path,
    files: &[File<'_>],
    programs: &Programs,
    progress: &mut dyn Progress,
) -> Result<(), ToolchainError> {
    embedded::write(files, directory).map_err(ToolchainError::io("write to", directory))?;
    let sdk = directory.join("sdk");

    progress.step(&format!("installing esbuild and componentize-js with npm ({INSTALLED}, once for this machine)"));
    let started = Instant::now();
    let mut npm = Command::new(&programs.npm);
    // Scripts of packages are not run: none is needed, and they could do anything.
    npm.args(["ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&sdk);
    command::run(&mut npm, INSTALL_LIMIT).map_err(ToolchainError::Install)?;
    progress.done(&format!("installed in {} s", started.elapsed().as_secs()));

    progress.step("making the engine for JavaScript workers (once for this machine)");
    let started = Instant::now();
    let runtime = directory.join(RUNTIME);
    let mut node = Command::new(&programs.node);
    node.arg("build-runtime.mjs").arg(&runtime).arg("--wit").arg(directory.join("wit")).current_dir(&sdk);
    command::run(&mut node, BUILD_LIMIT).map_err(ToolchainError::Build)?;
    let synced = fs::File::open(&runtime).and_then(|file| file.sync_all().and_then(|()| file.metadata()));
    let bytes = synced.map_err(ToolchainError::io("write", &runtime))?.len();
    progress.done(&format!("made in {} s ({:.1} MB)", started.elapsed().as_secs(), bytes as f64 / 1e6));
    Ok(())
}

/// Removes what interrupted processes left. One of their programs may still be writing; what cannot be removed now can
/// be next time, and nothing is ever made in a directory of the same name.
fn remove_abandoned(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(STAGING)) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn remove(directory: &Path) -> Result<(), ToolchainError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ToolchainError::io("remove", directory)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const FILES: &[File<'static>] = &[
        ("sdk/package.json", b"{}"),
        ("sdk/bundle.mjs", b"// bundles"),
        (
            "sdk/build-runtime.mjs",
            b"import fs from 'node:fs'; const [out, wit, dir] = process.argv.slice(2);
            if (wit !== '--wit' || !fs.existsSync(dir + '/js.wit')) process.exit(9);
            fs.copyFileSync('installed', out);",
        ),
        ("wit/js.wit", b"package workers:js;"),
    ];

    /// Remembers what it was told.
    #[derive(Default)]
    struct Told(Vec<String>);

    impl Progress for Told {
        fn step(&mut self, text: &str) {
            self.0.push(text.to_owned());
        }
        fn done(&mut self, text: &str) {
            self.0.push(text.to_owned());
        }
    }

    /// A program that is a line of shell.
    fn program(directory: &Path, name: &str, script: &str) -> OsString {
        let path = directory.join(name);
        let text = path.with_extension("txt");
        fs::write(&text, format!("#!/bin/sh\n{script}\n")).unwrap();
        // Copied by another process: a program that this one has open for writing, which another test's child may have
        // inherited for a moment, cannot be run.
        command::run(Command::new("cp").arg(&text).arg(&path), VERSION_LIMIT).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.into()
    }

    /// Real Node.js, and an npm that runs a line of shell when it shall install.
    fn programs(directory: &Path, install: &str) -> Programs {
        let npm = program(directory, "npm", &format!("if [ \"$1\" = --version ]; then exit 0; fi\n{install}"));
        Programs { node: "node".into(), npm }
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn it_is_made_once() {
        let temporary = tempfile::tempdir().unwrap();
        let install = "echo \"$@\" > arguments; echo engine > installed";
        let mut told = Told::default();
        let made = Toolchain::make(temporary.path(), FILES, programs(temporary.path(), install), &mut told).unwrap();
        assert_eq!(fs::read_to_string(made.runtime()).unwrap(), "engine\n");
        assert_eq!(
            fs::read_to_string(made.directory.join("sdk/arguments")).unwrap(),
            "ci --omit=dev --ignore-scripts --no-audit --no-fund\n"
        );
        assert_eq!(told.0.len(), 4, "{:?}", told.0);
        assert_eq!(names(&temporary.path().join("js")), [".lock", made.hash()]);

        let mut told = Told::default();
        let nothing = Programs { node: "/nonexistent/node".into(), npm: "/nonexistent/npm".into() };
        let found = Toolchain::make(temporary.path(), FILES, nothing, &mut told).unwrap();
        assert_eq!((found.runtime(), told.0.len()), (made.runtime(), 0));
    }

    #[test]
    fn a_failed_installation_leaves_nothing_and_is_tried_again() {
        let temporary = tempfile::tempdir().unwrap();
        let broken = programs(temporary.path(), "echo 'no such package' >&2; exit 1");
        let error = Toolchain::make(temporary.path(), FILES, broken, &mut Told::default()).unwrap_err();
        assert!(matches!(&error, ToolchainError::Install(_)), "{error}");
        assert!(error.to_string().contains("npm ci --omit=dev") && error.to_string().contains("no such package"));
        assert_eq!(names(&temporary.path().join("js")), [".lock"]);

        let works = programs(temporary.path(), "echo engine > installed");
        Toolchain::make(temporary.path(), FILES, works, &mut Told::default()).unwrap();
    }

    #[test]
    fn an_engine_that_cannot_be_made_is_an_error() {
        let temporary = tempfile::tempdir().unwrap();
        let error = Toolchain::make(temporary.path(), FILES, programs(temporary.path(), ""), &mut Told::default());
        let error = error.unwrap_err();
        assert!(matches!(&error, ToolchainError::Build(_)), "{error}");
        let empty = programs(temporary.path(), ": > installed");
        let error = Toolchain::make(temporary.path(), FILES, empty, &mut Told::default()).unwrap_err();
        assert!(matches!(&error, ToolchainError::Incomplete(_)), "{error}");
    }

    #[test]
    fn what_was_abandoned_or_damaged_is_replaced() {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path().join("js");
        fs::create_dir_all(root.join(".partial-old/sdk")).unwrap();
        let directory = root.join(embedded::hash(FILES));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("runtime.wasm"), "").unwrap();
        let works = programs(temporary.path(), "echo engine > installed");
        let made = Toolchain::make(temporary.path(), FILES, works, &mut Told::default()).unwrap();
        assert_eq!(names(&root), [".lock", made.hash()]);
        assert!(missing(&made.directory).is_none());
    }

    #[test]
    fn a_second_process_waits_for_the_first() {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path().join("js");
        fs::create_dir_all(&root).unwrap();
        let lock = lock::take(&root.join(".lock"), || panic!("nobody else is there")).unwrap();
        let (sender, waits) = std::sync::mpsc::channel();
        struct Waits(std::sync::mpsc::Sender<String>);
        impl Progress for Waits {
            fn step(&mut self, text: &str) {
                let _ = self.0.send(text.to_owned());
            }
            fn done(&mut self, _: &str) {}
        }
        std::thread::scope(|scope| {
            let works = programs(temporary.path(), "echo engine > installed");
            let second = scope.spawn(|| Toolchain::make(temporary.path(), FILES, works, &mut Waits(sender)));
            assert!(waits.recv().unwrap().starts_with("waiting for another process"));
            assert_eq!(names(&root), [".lock"]);
            drop(lock);
            second.join().unwrap().unwrap();
        });
    }

    #[test]
    fn what_has_to_be_installed_is_said() {
        let temporary = tempfile::tempdir().unwrap();
        let make = |node: OsString, npm: OsString| {
            Toolchain::make(temporary.path(), FILES, Programs { node, npm }, &mut Told::default()).unwrap_err()
        };
        let error = make("/nonexistent/node".into(), "npm".into());
        assert!(matches!(error, ToolchainError::NoNode(_)) && error.to_string().contains("Node.js 20"), "{error}");
        let old = program(temporary.path(), "node", "echo v18.19.0");
        let error = make(old, "npm".into());
        assert!(matches!(&error, ToolchainError::OldNode(version) if version == "v18.19.0"), "{error}");
        let error = make("node".into(), "/nonexistent/npm".into());
        assert!(matches!(error, ToolchainError::NoNpm(_)), "{error}");
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(major("v20.11.1\n"), Some(20));
        assert_eq!(major("20"), None);
        assert_eq!(major("vx.1"), None);
    }
}
