//! What belongs to one request besides the request itself.

use crate::sys;
use std::future::Future;

/// The context of one request.
///
/// ```no_run
/// # mod worker {
/// use host_sdk::*;
///
/// #[fetch]
/// async fn main(req: Request, _env: Env, ctx: Context) -> Result<Response> {
///     let path = req.path();
///     ctx.wait_until(async move { console_log!("served {path}") });
///     Response::ok("done")
/// }
/// # }
/// ```
#[derive(Debug, Default)]
pub struct Context {
    _private: (),
}

impl Context {
    /// Lets `future` go on after the response has been sent. The limits of the request still hold for it.
    ///
    /// ```no_run
    /// # fn example(ctx: &host_sdk::Context) {
    /// ctx.wait_until(async {
    ///     let url = "https://stats.example.com/hit".parse();
    ///     if let Ok(url) = url {
    ///         let _ = host_sdk::Fetch::Url(url).send().await;
    ///     }
    /// });
    /// # }
    /// ```
    pub fn wait_until<F>(&self, future: F)
    where
        F: Future<Output = ()> + 'static,
    {
        sys::spawn(future);
    }

    /// Does nothing: no origin stands behind a worker here that a failed request could pass through to. It is there so
    /// that code written for other hosts compiles.
    ///
    /// ```no_run
    /// # fn example(ctx: &host_sdk::Context) {
    /// ctx.pass_through_on_exception();
    /// # }
    /// ```
    pub fn pass_through_on_exception(&self) {}
}
