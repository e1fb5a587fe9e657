//! Log lines: to standard error, in colour on a terminal only.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::args::{Args, Command, LogFormat};

/// Starts logging. A filter that means nothing falls back to `info` and says so.
pub(crate) fn start(args: &Args) {
    // An answer on the terminal is not mixed with what led to it.
    let usual = if matches!(args.command, Command::Ai(_)) { "warn" } else { "info" };
    let asked = args.log.as_deref().unwrap_or(usual);
    let filter = EnvFilter::builder().parse(asked);
    let fault = filter.as_ref().err().map(ToString::to_string);
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| EnvFilter::new("info")))
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .with_target(false);
    match args.log_format {
        LogFormat::Text => lines.compact().init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    if let Some(fault) = fault {
        tracing::warn!("--log {asked:?}: {fault}; logging at info");
    }
}
