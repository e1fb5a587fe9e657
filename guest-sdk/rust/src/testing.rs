//! For the tests of this crate.

use futures_util::FutureExt;
use std::future::Future;

/// The output of a future that never has to wait.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the future waits for something")
}
