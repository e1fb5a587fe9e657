//! The model's thread.
//!
//! It outlives every fault of a sequence and ends when the model is dropped.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use super::core::Scheduler;
use super::queue::Queue;
use crate::AiError;
use crate::text::forward::ForwardPass;

/// Runs until the queue is stopped.
pub(crate) fn run<M: ForwardPass>(queue: &Queue, mut scheduler: Scheduler<M>) {
    let mut busy = false;
    loop {
        if busy && scheduler.is_idle() {
            scheduler.report();
        }
        busy = !scheduler.is_idle();
        let Some(arrived) = queue.take(!busy) else { break };
        busy |= !arrived.is_empty();
        for (job, place) in arrived {
            scheduler.submit(job, Some(place));
        }
        if catch_unwind(AssertUnwindSafe(|| scheduler.step(Instant::now()))).is_err() {
            scheduler.fail("the scheduler panicked; the log has the place", &[]);
        }
    }
    scheduler.end(&AiError::aborted());
}
