//! A server under measurement: started, found by the line that names its address, ended when dropped.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::command::shown;

/// Compiling the component on a first start is part of this.
const START: Duration = Duration::from_secs(120);

pub(crate) struct Server {
    child: Child,
    /// `http://127.0.0.1:PORT`
    pub(crate) address: String,
}

impl Server {
    /// Starts a server and waits for a line that begins with `announcement` and goes on with the address.
    pub(crate) fn start(command: &mut Command, announcement: &'static str) -> Result<Self> {
        let (reader, writer) = std::io::pipe().context("cannot create a pipe")?;
        command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let child = command.spawn().with_context(|| format!("cannot start `{}`", shown(command)))?;
        // The command keeps its ends of the pipe, and with them open the reader would never see the end.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut server = Self { child, address: String::new() };
        let (found, address) = mpsc::channel();
        std::thread::spawn(move || {
            // Reading goes on after the address: a server whose pipe is full stands still.
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                let message = match line.split_once(announcement) {
                    Some((_, rest)) => {
                        Ok(rest.split_whitespace().next().unwrap_or("").trim_end_matches('/').to_owned())
                    }
                    None => Err(line),
                };
                let _ = found.send(message);
            }
        });
        let mut said = Vec::new();
        loop {
            match address.recv_timeout(START) {
                Ok(Ok(address)) => {
                    server.address = address;
                    return Ok(server);
                }
                Ok(Err(line)) => said.push(line),
                Err(_) => bail!("`{}` named no address; it said:\n{}", shown(command), said.join("\n")),
            }
        }
    }

    /// The most memory the process has held so far, in MB.
    pub(crate) fn peak_memory(&self) -> Result<f64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        peak_of(&status).with_context(|| format!("{path} has no VmHWM"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; either way it must be gone before the next one starts.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `VmHWM:   1234 kB` in MB.
fn peak_of(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024.0 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_in_megabytes() {
        assert_eq!(peak_of("Name:\thost\nVmHWM:\t    1000 kB\nVmRSS:\t 900 kB\n"), Some(1.024));
        assert_eq!(peak_of("Name:\thost\n"), None);
    }

    #[test]
    fn the_address_follows_the_announcement() {
        let mut script = Command::new("sh");
        script.args(["-c", "echo starting; echo 'Ready on http://127.0.0.1:1234/' >&2; exec sleep 60"]);
        let server = Server::start(&mut script, "Ready on ").expect("the line is found");
        assert_eq!(server.address, "http://127.0.0.1:1234");
        assert!(server.peak_memory().expect("a running process") > 0.0);
    }

    #[test]
    fn a_server_that_ends_is_reported_with_what_it_said() {
        let mut script = Command::new("sh");
        script.args(["-c", "echo no such file"]);
        let Err(error) = Server::start(&mut script, "Ready on ") else { panic!("it named no address") };
        assert!(error.to_string().contains("no such file"), "{error}");
    }
}
