//! A server under measurement: started, found by the line that names its address, ended when dropped.
//!
//! A benchmark that is itself ended by a signal drops nothing. A guard, a shell that waits for this process to let go of
//! its standard input, therefore ends the server by its id whatever became of the benchmark.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::command::shown;

/// Compiling the component on a first start is part of this.
const START: Duration = Duration::from_secs(120);
/// Of /proc in a second: a fixed part of the kernel's interface, whatever its own clock.
const TICKS: f64 = 100.0;

/// It reads a line when the server has been ended already, and the end of its input when the benchmark has gone.
const GUARD: &str = r#"read -r _ || kill -9 "$1""#;

pub(crate) struct Server {
    child: Child,
    guard: Child,
    /// `http://127.0.0.1:PORT`
    pub(crate) address: String,
}

impl Server {
    /// Starts a server and waits for a line that begins with `announcement` and goes on with the address.
    pub(crate) fn start(command: &mut Command, announcement: &'static str) -> Result<Self> {
        Self::start_at(command, move |line| {
            let (_, rest) = line.split_once(announcement)?;
            Some(rest.split_whitespace().next().unwrap_or("").trim_end_matches('/').to_owned())
        })
    }

    /// Starts a server and waits for a line in which `address` finds the address.
    pub(crate) fn start_at(
        command: &mut Command,
        address: impl Fn(&str) -> Option<String> + Send + 'static,
    ) -> Result<Self> {
        let (reader, writer) = std::io::pipe().context("cannot create a pipe")?;
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let mut child = command.spawn().with_context(|| format!("cannot start `{}`", shown(command)))?;
        let guard = match guard(child.id()) {
            Ok(guard) => guard,
            Err(error) => {
                end(&mut child);
                return Err(error);
            }
        };
        // The command keeps its ends of the pipe, and with them open the reader would never see the end.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut server = Self { child, guard, address: String::new() };
        let (found, lines) = mpsc::channel();
        std::thread::spawn(move || {
            // Reading goes on after the address: a server whose pipe is full stands still.
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                let _ = found.send(address(&line).ok_or(line));
            }
        });
        let mut said = Vec::new();
        loop {
            match lines.recv_timeout(START) {
                Ok(Ok(address)) => {
                    server.address = address;
                    return Ok(server);
                }
                Ok(Err(line)) => said.push(line),
                Err(_) => bail!("`{}` named no address; it said:\n{}", shown(command), said.join("\n")),
            }
        }
    }

    /// The process's id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The most memory the process has held so far, in MB.
    pub(crate) fn peak_memory(&self) -> Result<f64> {
        self.read("status", |status| memory_of(status, "VmHWM:"))
    }

    /// The memory the process holds now, in MB.
    pub(crate) fn memory(&self) -> Result<f64> {
        self.read("status", |status| memory_of(status, "VmRSS:"))
    }

    /// The CPU time that all threads of the process have used so far, in seconds.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        self.read("stat", cpu_of)
    }

    fn read(&self, file: &str, value: impl Fn(&str) -> Option<f64>) -> Result<f64> {
        let path = format!("/proc/{}/{file}", self.child.id());
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        value(&text).with_context(|| format!("{path} is not as expected"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The id is the server's own until it has been waited for, so the guard is let go before that.
        let _ = self.child.kill();
        if let Some(mut guard) = self.guard.stdin.take() {
            let _ = guard.write_all(b"ended\n");
        }
        let _ = self.guard.wait();
        let _ = self.child.wait();
    }
}

/// In a process group of its own, because Ctrl-C goes to all of the benchmark's.
fn guard(server: u32) -> Result<Child> {
    let mut guard = Command::new("sh");
    guard.args(["-c", GUARD, "sh", &server.to_string()]).process_group(0);
    guard.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    guard.spawn().context("cannot start `sh`, which ends the server should the benchmark be ended")
}

/// It may have ended by itself; either way it is gone afterwards.
fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// `VmHWM:   1234 kB` in MB.
fn memory_of(status: &str, key: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    let kibibytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024.0 / 1e6)
}

/// User and system time of `PID (NAME) STATE …`, the fields 14 and 15 of proc_pid_stat(5). A name may hold anything.
fn cpu_of(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn the_peak_is_read_in_megabytes() {
        let status = "Name:\thost\nVmHWM:\t    1000 kB\nVmRSS:\t 500 kB\n";
        assert_eq!(memory_of(status, "VmHWM:"), Some(1.024));
        assert_eq!(memory_of(status, "VmRSS:"), Some(0.512));
        assert_eq!(memory_of("Name:\thost\n", "VmHWM:"), None);
    }

    #[test]
    fn the_cpu_time_is_read_past_any_name() {
        let stat = "17 (a b) c) S 1 17 17 0 -1 4194560 3000 40 5 0 250 50 7 8 20 0 9 0";
        assert_eq!(cpu_of(stat), Some(3.0));
        assert_eq!(cpu_of("17 (host) S 1"), None);
    }

    #[test]
    fn the_address_follows_the_announcement() {
        let mut script = Command::new("sh");
        script.args(["-c", "echo starting; echo 'Ready on http://127.0.0.1:1234/' >&2; exec sleep 60"]);
        let server = Server::start(&mut script, "Ready on ").expect("the line is found");
        assert_eq!(server.address, "http://127.0.0.1:1234");
        assert!(server.peak_memory().expect("a running process") > 0.0);
        assert!(server.memory().expect("a running process") > 0.0);
        assert!(server.cpu_seconds().expect("a running process") >= 0.0);
    }

    #[test]
    fn the_guard_ends_the_server_when_the_benchmark_has_gone() {
        let mut server = Command::new("sleep").arg("600").spawn().expect("sleep starts");
        let mut guard = guard(server.id()).expect("sh starts");
        // What the kernel does to a process that was killed.
        drop(guard.stdin.take());
        assert!(guard.wait().expect("the guard ends").success());
        assert_eq!(server.wait().expect("the server ends").signal(), Some(9));
    }

    #[test]
    fn the_guard_leaves_alone_what_was_ended_already() {
        let mut other = Command::new("sleep").arg("600").spawn().expect("sleep starts");
        let mut guard = guard(other.id()).expect("sh starts");
        guard.stdin.take().expect("it is piped").write_all(b"ended\n").expect("the guard reads");
        guard.wait().expect("the guard ends");
        assert!(other.try_wait().expect("a child").is_none());
        end(&mut other);
    }

    #[test]
    fn a_server_that_ends_is_reported_with_what_it_said() {
        let mut script = Command::new("sh");
        script.args(["-c", "echo no such file"]);
        let Err(error) = Server::start(&mut script, "Ready on ") else { panic!("it named no address") };
        assert!(error.to_string().contains("no such file"), "{error}");
    }
}
