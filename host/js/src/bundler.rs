//! The bundler: a program for Node.js that waits for requests, because starting it anew would take longer than most
//! bundles.
//!
//! It reads sources that nobody vouches for, so what it says is bounded in size and time, and a bundler that has ended,
//! stalls or talks nonsense is an error of one request: the next one gets a new bundler.

mod process;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::message::{Level, List, Message};
use crate::{CommandError, Toolchain};
use process::Process;

/// How long a bundle may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a line of the bundler may be: it names every source.
const LONGEST_REPLY: usize = 64 * 1024 * 1024;
/// How long a request may be. It has to fit into a pipe, so that a bundler that does not read cannot hold up its host.
const LONGEST_REQUEST: usize = 16 * 1024;

/// What to bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleRequest {
    /// The module that exports the handlers.
    pub entry: PathBuf,
    /// Where the script and its source map go; made if need be.
    pub outdir: PathBuf,
    /// Compatibility flags: `nodejs_compat`.
    pub flags: Vec<String>,
    /// Whether to make the script small.
    pub minify: bool,
}

/// A script that the engine can evaluate.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// The script.
    pub script: PathBuf,
    /// Its source map, for [`Mapper`](crate::Mapper).
    pub map: PathBuf,
    /// The files that it was made from, as absolute paths.
    pub inputs: Vec<PathBuf>,
    /// The size of the script.
    pub bytes: u64,
    /// How long it took.
    pub duration: Duration,
    /// What may be wrong with the sources.
    pub warnings: Vec<Message>,
}

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The sources have faults, which are printed one below the other.
    #[error("{}", List(.0))]
    Source(Vec<Message>),
    /// The request cannot be put to the bundler.
    #[error("{0}")]
    Request(String),
    /// The bundler cannot be started, or ended before it had answered.
    #[error("the bundler of JavaScript workers: {0}")]
    Ended(CommandError),
    /// The bundler has not answered in time and was ended.
    #[error("the bundler of JavaScript workers had not answered after {} seconds and was ended", .0.as_secs())]
    Silent(Duration),
    /// The bundler's answer is no answer.
    #[error("the bundler of JavaScript workers answered with what is no answer: {0}")]
    Protocol(String),
    /// A file or directory.
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        /// What was tried: "create".
        what: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl BundleError {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

/// The line of a request.
#[derive(Serialize)]
struct RequestLine<'a> {
    id: u64,
    entry: &'a str,
    outdir: &'a str,
    flags: &'a [String],
    minify: bool,
}

/// The line of an answer.
#[derive(Deserialize)]
struct Reply {
    id: u64,
    ok: bool,
    script: Option<PathBuf>,
    map: Option<PathBuf>,
    #[serde(default)]
    inputs: Vec<PathBuf>,
    #[serde(default)]
    warnings: Vec<Message>,
    #[serde(default)]
    errors: Vec<Message>,
}

/// A running bundler. It ends when this is dropped, and by itself when this process is gone.
pub struct Bundler {
    toolchain: Toolchain,
    process: Option<Process>,
    next: u64,
    patience: Duration,
    longest_reply: usize,
}

impl Bundler {
    /// Starts a bundler.
    ///
    /// # Errors
    /// [`BundleError::Ended`] where it cannot be started.
    pub fn start(toolchain: &Toolchain) -> Result<Self, BundleError> {
        Self::start_with(toolchain, PATIENCE, LONGEST_REPLY)
    }

    fn start_with(toolchain: &Toolchain, patience: Duration, longest_reply: usize) -> Result<Self, BundleError> {
        let process = Some(Process::start(toolchain, longest_reply)?);
        Ok(Self { toolchain: toolchain.clone(), process, next: 0, patience, longest_reply })
    }

    /// Bundles a worker and waits until that is done. A bundler that has ended since the last call is started again.
    ///
    /// # Errors
    /// [`BundleError::Source`] where the sources have faults. After any other error but [`BundleError::Request`] and
    /// [`BundleError::Io`] the bundler has been ended, and the next call starts another.
    pub fn bundle(&mut self, request: &BundleRequest) -> Result<Bundle, BundleError> {
        let started = Instant::now();
        let entry = absolute(&request.entry)?;
        let outdir = absolute(&request.outdir)?;
        self.next += 1;
        let id = self.next;
        let line = RequestLine {
            id,
            entry: utf8(&entry)?,
            outdir: utf8(&outdir)?,
            flags: &request.flags,
            minify: request.minify,
        };
        let mut line = serde_json::to_vec(&line).map_err(|error| BundleError::Request(error.to_string()))?;
        line.push(b'\n');
        if line.len() > LONGEST_REQUEST {
            return Err(BundleError::Request(format!(
                "the paths and compatibility flags of {} are longer than {LONGEST_REQUEST} bytes",
                entry.display()
            )));
        }
        fs::create_dir_all(&outdir).map_err(BundleError::io("create", &outdir))?;

        if self.process.as_mut().is_some_and(|process| !process.is_running()) {
            tracing::debug!("the bundler has ended and is started again");
            self.process = None;
        }
        // Put back only when the answer is a good one: dropping it ends it.
        let mut process = match self.process.take() {
            Some(process) => process,
            None => Process::start(&self.toolchain, self.longest_reply)?,
        };
        let reply = process.ask(&line, id, self.patience)?;
        let bundle = bundle(reply, &outdir, started);
        if matches!(bundle, Ok(_) | Err(BundleError::Source(_))) {
            self.process = Some(process);
        }
        bundle
    }
}

impl std::fmt::Debug for Bundler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bundler").field("toolchain", &self.toolchain).finish_non_exhaustive()
    }
}

fn absolute(path: &Path) -> Result<PathBuf, BundleError> {
    std::path::absolute(path).map_err(BundleError::io("find", path))
}

fn utf8(path: &Path) -> Result<&str, BundleError> {
    path.to_str().ok_or_else(|| BundleError::Request(format!("the path {} is not UTF-8", path.display())))
}

/// What an answer says, once it is seen that it can be true.
fn bundle(reply: Reply, outdir: &Path, started: Instant) -> Result<Bundle, BundleError> {
    if !reply.ok {
        return match reply.errors.is_empty() {
            true => Err(BundleError::Protocol("no bundle and no error".to_owned())),
            false => Err(BundleError::Source(reply.errors)),
        };
    }
    let output = |what: &str, path: Option<PathBuf>| {
        let path = path.ok_or_else(|| BundleError::Protocol(format!("no {what}")))?;
        let metadata = path.metadata().map_err(BundleError::io("read", &path))?;
        if !metadata.is_file() || !is_in(&path, outdir) {
            return Err(BundleError::Protocol(format!("the {what} is not in {}", outdir.display())));
        }
        Ok((path, metadata.len()))
    };
    let (script, bytes) = output("script", reply.script)?;
    let (map, _) = output("source map", reply.map)?;
    if let Some(relative) = reply.inputs.iter().find(|input| !input.is_absolute()) {
        return Err(BundleError::Protocol(format!("the input {} has no absolute path", relative.display())));
    }
    let mut warnings = reply.warnings;
    warnings.iter_mut().for_each(|warning| warning.level = Level::Warning);
    Ok(Bundle { script, map, inputs: reply.inputs, bytes, duration: started.elapsed(), warnings })
}

/// Whether a file is in a directory, whatever links lead to both.
fn is_in(file: &Path, directory: &Path) -> bool {
    let parent = file.parent().and_then(|parent| parent.canonicalize().ok());
    parent.is_some() && parent == directory.canonicalize().ok()
}

#[cfg(test)]
mod tests;
