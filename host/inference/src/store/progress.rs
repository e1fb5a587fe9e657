//! How long work tells how far it is.

use std::sync::Arc;

/// What is told, from any thread, how many seconds a server still wants to be left alone; 0 when that is over.
pub type Waits = Arc<dyn Fn(u64) + Send + Sync>;

/// Told of each step of a pull, import or verification, so that a command line can draw bars. Steps do not overlap.
pub trait Progress {
    /// A step begins; `total_bytes` where it is known.
    fn start(&mut self, step: &str, total_bytes: Option<u64>);
    /// So many bytes more are done. A resumed step reports at once what was there before.
    fn advance(&mut self, bytes: u64);
    /// The step is over, whether it succeeded or not.
    fn finish(&mut self);
    /// What is told of waits; nobody by default.
    fn waits(&self) -> Waits {
        Arc::new(|_| {})
    }
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn start(&mut self, _: &str, _: Option<u64>) {}
    fn advance(&mut self, _: u64) {}
    fn finish(&mut self) {}
}
