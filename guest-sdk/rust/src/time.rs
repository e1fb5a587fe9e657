//! Waiting.

use crate::sys;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// Waits for `duration`, while other futures go on.
///
/// ```no_run
/// use std::time::Duration;
///
/// # async fn example() {
/// host_sdk::sleep(Duration::from_millis(250)).await;
/// # }
/// ```
pub async fn sleep(duration: Duration) {
    Delay::from(duration).await;
}

/// A future that is ready after a time. The time runs from the first poll.
///
/// ```no_run
/// use futures_util::future::{Either, select};
/// use host_sdk::*;
/// use std::time::Duration;
///
/// # async fn example() -> Result<Response> {
/// let fetch = Box::pin(Fetch::Url("https://example.com/".parse()?).send());
/// match select(fetch, Delay::from(Duration::from_secs(2))).await {
///     Either::Left((response, _)) => response,
///     Either::Right(_) => Response::error("too slow", 504),
/// }
/// # }
/// ```
pub struct Delay {
    duration: Duration,
    timer: Option<sys::Timer>,
}

impl From<Duration> for Delay {
    fn from(duration: Duration) -> Self {
        Self { duration, timer: None }
    }
}

impl Future for Delay {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let duration = self.duration;
        self.timer.get_or_insert_with(|| sys::Timer::new(duration)).poll_elapsed(cx)
    }
}

impl std::fmt::Debug for Delay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Delay").field(&self.duration).finish()
    }
}
