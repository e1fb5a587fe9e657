//! The process of a bundler: lines in, lines out.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use super::{BundleError, Reply};
use crate::command::{self, CommandError};
use crate::tail::Tail;
use crate::{Toolchain, text};

/// How long a process that has closed its stdout may take to end, and its stderr after that.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How much of a line that is no answer is logged.
const NOISE: usize = 200;

pub(super) struct Process {
    child: Child,
    stdin: ChildStdin,
    pub(super) lines: Receiver<Line>,
    stderr: Tail,
    stderr_end: Receiver<()>,
    command: String,
}

pub(super) enum Line {
    Whole(Vec<u8>),
    TooLong,
}

impl Process {
    pub(super) fn start(toolchain: &Toolchain, longest: usize) -> Result<Self, BundleError> {
        let mut node = toolchain.bundler();
        let command = command::shown(&node);
        let not_started = |why: &dyn std::fmt::Display| {
            let outcome = format!("cannot be started: {why}");
            BundleError::Ended(CommandError { command: command.clone(), outcome, stderr: String::new() })
        };
        node.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = node.spawn().map_err(|error| not_started(&error))?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            command::end(&mut child);
            return Err(not_started(&"it has no pipes"));
        };
        // A bundler that talks while nobody asks has to wait for a reader.
        let (sender, lines) = mpsc::sync_channel(1);
        std::thread::spawn(move || read(stdout, longest, &sender));
        let (stderr, stderr_end) = Tail::follow(stderr);
        Ok(Self { child, stdin, lines, stderr, stderr_end, command })
    }

    /// Whether the process has not ended yet.
    pub(super) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Puts a request and waits for its answer. Lines that are none are skipped.
    pub(super) fn ask(&mut self, line: &[u8], id: u64, patience: Duration) -> Result<Reply, BundleError> {
        let deadline = Instant::now() + patience;
        if self.stdin.write_all(line).and_then(|()| self.stdin.flush()).is_err() {
            return Err(self.ended());
        }
        loop {
            let line = match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Line::Whole(line)) => line,
                Ok(Line::TooLong) => return Err(BundleError::Protocol("a line without an end".to_owned())),
                Err(RecvTimeoutError::Timeout) => return Err(BundleError::Silent(patience)),
                Err(RecvTimeoutError::Disconnected) => return Err(self.ended()),
            };
            match serde_json::from_slice::<Reply>(&line) {
                Ok(reply) if reply.id == id => return Ok(reply),
                Ok(reply) => tracing::debug!(id = reply.id, "the bundler answered what was not asked"),
                Err(error) if answers(&line, id) => return Err(BundleError::Protocol(error.to_string())),
                Err(_) => {
                    let noise = line.get(..4 * NOISE).unwrap_or(&line);
                    tracing::debug!("bundler: {}", text::line(String::from_utf8_lossy(noise).trim_end(), NOISE));
                }
            }
        }
    }

    /// The error for a process that has closed its pipes.
    fn ended(&mut self) -> BundleError {
        let deadline = Instant::now() + LAST_WORDS;
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break status.to_string(),
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
                _ => break "it takes no more requests".to_owned(),
            }
        };
        let _ = self.stderr_end.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        let (command, outcome) = (self.command.clone(), format!("ended: {status}"));
        BundleError::Ended(CommandError { command, outcome, stderr: self.stderr.shown() })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        command::end(&mut self.child);
    }
}

/// Whether a line that cannot be understood is nevertheless the answer to a request.
fn answers(line: &[u8], id: u64) -> bool {
    #[derive(serde::Deserialize)]
    struct Id {
        id: u64,
    }
    serde_json::from_slice::<Id>(line).is_ok_and(|line| line.id == id)
}

/// Passes lines on until there are no more, one is too long, or nobody wants them.
fn read(stdout: ChildStdout, longest: usize, lines: &SyncSender<Line>) {
    let mut stdout = BufReader::new(stdout);
    loop {
        let mut line = Vec::new();
        match stdout.by_ref().take(longest as u64 + 1).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(length) if length > longest => {
                let _ = lines.send(Line::TooLong);
                return;
            }
            Ok(_) if lines.send(Line::Whole(line)).is_err() => return,
            Ok(_) => {}
        }
    }
}
