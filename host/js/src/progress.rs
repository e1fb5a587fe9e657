//! What a person waits for.

/// Is told of work that takes a while.
pub trait Progress {
    /// Work is about to be done, or waited for.
    fn step(&mut self, text: &str);
    /// The work that was announced last is done.
    fn done(&mut self, text: &str);
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn step(&mut self, _: &str) {}
    fn done(&mut self, _: &str) {}
}
