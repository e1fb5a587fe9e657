//! Progress bars on a terminal, one line a step elsewhere.

use std::io::IsTerminal as _;

use host_inference::store::Progress;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

/// Draws the progress of a pull, import or verification on standard error.
pub(crate) struct Bars {
    bar: Option<ProgressBar>,
    terminal: bool,
}

impl Bars {
    pub(crate) fn new() -> Self {
        Self { bar: None, terminal: std::io::stderr().is_terminal() }
    }
}

impl Progress for Bars {
    fn start(&mut self, step: &str, total_bytes: Option<u64>) {
        if !self.terminal {
            match total_bytes {
                Some(bytes) => eprintln!("{step} ({})", HumanBytes(bytes)),
                None => eprintln!("{step}"),
            }
            return;
        }
        let bar = match total_bytes {
            Some(bytes) => ProgressBar::new(bytes).with_style(
                ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {eta}")
                    .unwrap_or_else(|_| ProgressStyle::default_bar()),
            ),
            None => ProgressBar::new_spinner(),
        };
        bar.set_message(step.to_owned());
        self.bar = Some(bar);
    }

    fn advance(&mut self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
    }
}

/// The steps of a set-up, a line each on standard error.
pub(crate) struct Steps;

impl host_js::Progress for Steps {
    fn step(&mut self, text: &str) {
        eprintln!("==> {text}");
    }

    fn done(&mut self, text: &str) {
        eprintln!(" ok {text}");
    }
}
