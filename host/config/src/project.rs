//! What the host serves: the whole of the binding files, decoded.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::Serialize;

use crate::ai::Ai;
use crate::diagnostic::{Diagnostic, quoted};
use crate::route::is_host;
use crate::source::Report;
use crate::tree::Table;
use crate::worker::Worker;

/// Everything that the binding files say.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Project {
    /// The workers, in the order of the files. Their names and routes are unique. There is at least one.
    pub workers: Vec<Worker>,
    /// The models of the host, of all files. Key `ai`.
    pub ai: Ai,
    /// Where the host listens, of the first file that says. Key `dev`.
    pub dev: Dev,
    /// What the files say that has no effect.
    pub warnings: Vec<Diagnostic>,
    /// Every file that was read, absolute: binding files first, then secrets files. A change of one of them changes
    /// the project.
    pub files: Vec<PathBuf>,
}

impl Project {
    /// The worker of this name.
    pub fn worker(&self, name: &str) -> Option<&Worker> {
        self.workers.iter().find(|worker| worker.name.as_str() == name)
    }
}

/// `[dev]`: where the host listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Dev {
    /// An IP address without brackets, or a host name. Key `ip`, default `localhost`; `*` in the file is every IPv4
    /// address, `0.0.0.0` here.
    pub ip: String,
    /// The port; 0 is any that is free. Key `port`, default 8787.
    pub port: u16,
}

impl Default for Dev {
    fn default() -> Self {
        Dev { ip: "localhost".into(), port: 8787 }
    }
}

impl Dev {
    pub(crate) fn decode(table: &Table, report: &mut Report) -> Self {
        let default = Dev::default();
        let ip = table.text("ip").and_then(|(text, span)| {
            let address = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
            match address {
                Ok(address) => Some(address.to_string()),
                Err(_) if text == "*" => Some("0.0.0.0".into()),
                Err(_) if is_host(&text.to_ascii_lowercase()) => Some(text.to_ascii_lowercase()),
                Err(_) => {
                    let message = format!("`dev.ip`: {} is neither an IP address nor a host name", quoted(text));
                    report.error_with_help(span, message, "write \"localhost\", \"127.0.0.1\", \"::1\" or \"*\"");
                    None
                }
            }
        });
        let port = table.whole("port").and_then(|port| u16::try_from(port).ok());
        Dev { ip: ip.unwrap_or(default.ip), port: port.unwrap_or(default.port) }
    }
}
