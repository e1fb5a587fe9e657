//! Progress bars on a terminal, one line a step elsewhere.

use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, PoisonError};

use host_inference::store::{Progress, Waits};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

/// Draws the progress of a pull, import or verification on standard error.
pub(crate) struct Bars {
    shown: Arc<Mutex<Shown>>,
    terminal: bool,
}

/// What is drawn now.
#[derive(Default)]
struct Shown {
    bar: Option<ProgressBar>,
    step: String,
    /// Seconds that a server wants to be left alone.
    wait: u64,
}

impl Shown {
    /// Several connections may be told to wait; the longest wait is shown.
    fn wait(&mut self, seconds: u64) {
        let longer = seconds > self.wait;
        self.wait = seconds;
        match &self.bar {
            Some(bar) if seconds == 0 => bar.set_message(self.step.clone()),
            Some(bar) => bar.set_message(format!("{}; the hub asks to wait {seconds} s", self.step)),
            None if longer => eprintln!("the hub asks to wait {seconds} s"),
            None => {}
        }
    }
}

impl Bars {
    pub(crate) fn new() -> Self {
        Self { shown: Arc::default(), terminal: std::io::stderr().is_terminal() }
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
        let mut shown = lock(&self.shown);
        shown.step = step.to_owned();
        shown.bar = Some(bar);
    }

    fn advance(&mut self, bytes: u64) {
        if let Some(bar) = &lock(&self.shown).bar {
            bar.inc(bytes);
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = lock(&self.shown).bar.take() {
            bar.finish();
        }
    }

    fn waits(&self) -> Waits {
        let shown = self.shown.clone();
        Arc::new(move |seconds| lock(&shown).wait(seconds))
    }
}

/// Every change of what is shown is whole.
fn lock(shown: &Mutex<Shown>) -> std::sync::MutexGuard<'_, Shown> {
    shown.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on Ctrl-C ends the program with `note`, also while it waits for a server.
pub(crate) fn end_with(note: &'static str) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (ready, begun) = std::sync::mpsc::channel();
    std::thread::Builder::new().name("interrupt".to_owned()).spawn(move || {
        runtime.block_on(async {
            let interrupted = tokio::signal::ctrl_c();
            tokio::pin!(interrupted);
            // The first look at it takes the signal over.
            let taken = futures::poll!(&mut interrupted);
            let _ = ready.send(());
            if taken.is_pending() && interrupted.await.is_err() {
                // The signal then ends the program by itself.
                return;
            }
            eprintln!("\n{note}");
            std::process::exit(130);
        });
    })?;
    let _ = begun.recv();
    Ok(())
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
