//! Calls under way as guests of WASI 0.2 hold them: resources that are polled.

use futures::FutureExt as _;
use wasmtime_wasi::p2::Pollable;
use wasmtime_wasi::runtime::{AbortOnDropJoinHandle, spawn};

/// A call under way, whose answer is taken once. Dropping it aborts its task.
#[expect(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct Pending<A: Send + 'static>(Progress<A>);

enum Progress<A: Send + 'static> {
    Running(AbortOnDropJoinHandle<A>),
    Answered(A),
    Taken,
}

impl<A: Send + 'static> Pending<A> {
    /// A call that a task of its own makes.
    pub(crate) fn running(call: impl Future<Output = A> + Send + 'static) -> Self {
        Self(Progress::Running(spawn(call)))
    }

    /// A call that needed no task.
    pub(crate) fn answered(answer: A) -> Self {
        Self(Progress::Answered(answer))
    }

    /// The answer: none while the call is under way, an error once it was taken.
    pub(crate) fn take(&mut self) -> Option<Result<A, ()>> {
        match std::mem::replace(&mut self.0, Progress::Taken) {
            Progress::Taken => Some(Err(())),
            Progress::Answered(answer) => Some(Ok(answer)),
            Progress::Running(mut task) => match (&mut task).now_or_never() {
                Some(answer) => Some(Ok(answer)),
                None => {
                    self.0 = Progress::Running(task);
                    None
                }
            },
        }
    }
}

#[wasmtime_wasi::async_trait]
impl<A: Send + 'static> Pollable for Pending<A> {
    async fn ready(&mut self) {
        if let Progress::Running(task) = &mut self.0 {
            let answer = task.await;
            self.0 = Progress::Answered(answer);
        }
    }
}
