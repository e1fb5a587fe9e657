//! Running other programs to their end, with an end to it: to their output as to their time.

use std::ffi::OsStr;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::tail::Tail;

/// How long the output of a program that has ended is waited for: another may still hold its pipes.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How often a program is asked whether it has ended.
const POLL: Duration = Duration::from_millis(20);

/// A program that did not do what it was started for.
#[derive(Debug, thiserror::Error)]
#[error("`{command}` {outcome}{}", after(.stderr))]
pub struct CommandError {
    /// The command as a person would type it.
    pub command: String,
    /// How it ended: "failed: exit status: 1".
    pub outcome: String,
    /// The last lines that it printed on stderr.
    pub stderr: String,
}

fn after(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!("\n{stderr}") }
}

/// A command as a person would type it, without its environment.
pub(crate) fn shown(command: &Command) -> String {
    let quoted = |text: &OsStr| {
        let text = text.to_string_lossy();
        if text.contains(char::is_whitespace) { format!("'{text}'") } else { text.into_owned() }
    };
    std::iter::once(command.get_program()).chain(command.get_args()).map(quoted).collect::<Vec<_>>().join(" ")
}

/// Runs a program to its end and gives the last part of its stdout. One that takes longer than `limit` is ended.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Result<String, CommandError> {
    let shown = shown(command);
    let failed = |outcome: String, stderr: String| CommandError { command: shown.clone(), outcome, stderr };
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed(format!("cannot be started: {error}"), String::new()))?;
    let follow = |stream: Option<Box<dyn std::io::Read + Send>>| stream.map(Tail::follow).unzip();
    let (stdout, stdout_end) = follow(child.stdout.take().map(|stream| Box::new(stream) as _));
    let (stderr, stderr_end) = follow(child.stderr.take().map(|stream| Box::new(stream) as _));

    let deadline = Instant::now() + limit;
    let status: Result<ExitStatus, String> = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Ok(status),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(POLL),
            Ok(None) => {
                end(&mut child);
                break Err(format!("had not finished after {} seconds and was ended", limit.as_secs()));
            }
            Err(error) => {
                end(&mut child);
                break Err(format!("cannot be waited for: {error}"));
            }
        }
    };
    for stream_end in [stdout_end, stderr_end].into_iter().flatten() {
        let _ = stream_end.recv_timeout(LAST_WORDS);
    }
    let stderr = stderr.map(|tail| tail.shown()).unwrap_or_default();
    match status {
        Ok(status) if status.success() => Ok(stdout.map(|tail| tail.text()).unwrap_or_default()),
        Ok(status) => Err(failed(format!("failed: {status}"), stderr)),
        Err(outcome) => Err(failed(outcome, stderr)),
    }
}

/// Ends a program and takes its status, so that it leaves nothing in the table of processes.
pub(crate) fn end(child: &mut std::process::Child) {
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(script: &str) -> Command {
        let mut node = Command::new("node");
        node.args(["-e", script]);
        node
    }

    #[test]
    fn output_comes_back() {
        assert_eq!(run(&mut node("console.log('hello')"), Duration::from_secs(60)).unwrap(), "hello\n");
    }

    #[test]
    fn a_failure_names_the_command_and_what_it_said() {
        let script = "console.error('\\x1b[31mno such thing\\x1b[0m'); process.exitCode = 3";
        let error = run(&mut node(script), Duration::from_secs(60)).unwrap_err();
        assert_eq!(error.outcome, "failed: exit status: 3");
        assert_eq!(error.stderr, "no such thing");
        assert!(error.to_string().starts_with("`node -e '"), "{error}");
    }

    #[test]
    fn much_output_is_read_and_little_kept() {
        let script = "for (let i = 0; i < 200000; i++) console.error('line ' + i); process.exitCode = 1";
        let error = run(&mut node(script), Duration::from_secs(60)).unwrap_err();
        assert!(error.stderr.ends_with("line 199999") && error.stderr.len() < 10_000, "{}", error.stderr);
    }

    #[test]
    fn a_program_without_an_end_is_ended() {
        let error = run(&mut node("setInterval(() => {}, 1000)"), Duration::from_millis(200)).unwrap_err();
        assert!(error.outcome.contains("was ended"), "{error}");
    }

    #[test]
    fn a_program_that_does_not_exist_says_so() {
        let error = run(&mut Command::new("/nonexistent/program"), Duration::from_secs(1)).unwrap_err();
        assert!(error.outcome.starts_with("cannot be started"), "{error}");
    }
}
