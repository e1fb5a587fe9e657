//! What a person sees: one line per step, and a bar where bytes are counted.
//!
//! Everything goes to stderr, so that stdout stays a benchmark's JSON or a server's `Ready` line. Bars and colours
//! appear on a terminal only.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

pub(crate) struct Progress {
    terminal: bool,
    colour: bool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { terminal, colour }
    }

    /// Announces work that is about to be done.
    pub(crate) fn step(&self, text: &str) {
        self.line("==>", "\x1b[1;32m", text);
    }

    /// Says that a step had been done before.
    pub(crate) fn done_before(&self, text: &str) {
        self.line(" ok", "\x1b[2m", text);
    }

    /// Says something a reader must not miss.
    pub(crate) fn note(&self, text: &str) {
        self.line("  !", "\x1b[1;33m", text);
    }

    fn line(&self, mark: &str, colour: &str, text: &str) {
        if self.colour {
            eprintln!("{colour}{mark}\x1b[0m {text}");
        } else {
            eprintln!("{mark} {text}");
        }
    }

    /// A bar over `total` bytes, or a spinner where the total is unknown. Silent when stderr is no terminal.
    pub(crate) fn bytes(&self, total: Option<u64>) -> ProgressBar {
        if !self.terminal {
            return ProgressBar::hidden();
        }
        let (bar, template) = match total {
            Some(total) => (ProgressBar::new(total), "    [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec} {eta}"),
            None => (ProgressBar::new_spinner(), "    {spinner} {bytes} {elapsed}"),
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }
}

/// Bytes as a person reads them.
pub(crate) fn megabytes(bytes: u64) -> String {
    format!("{:.0} MB", bytes as f64 / 1e6)
}
