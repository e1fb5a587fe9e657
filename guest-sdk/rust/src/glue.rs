//! What `#[fetch]` expands to.

use crate::{Context, Env, Request, Response, sys};
use std::fmt::Display;
use std::future::Future;

/// A type that answers requests; `#[fetch]` makes one of the handler it stands on.
pub trait Worker: 'static {
    /// Answers one request.
    fn fetch(request: Request, env: Env, ctx: Context) -> impl Future<Output = Result<Response, String>>;
}

/// The handler's answer, or 500 in its place. What went wrong goes to the log alone: it may name things that are none
/// of the client's business.
pub(crate) async fn respond<W: Worker>(request: sys::IncomingRequest) -> sys::OutgoingResponse {
    let answer = W::fetch(Request::from_host(request), Env::default(), Context::default()).await;
    let sent = answer.and_then(|response| response.into_outgoing().map_err(|error| error.to_string()));
    sent.unwrap_or_else(|error| {
        log_failure(&error);
        failure()
    })
}

fn failure() -> sys::OutgoingResponse {
    let body = b"Internal Server Error\n";
    sys::OutgoingResponse {
        status: 500,
        headers: vec![("content-type".into(), b"text/plain; charset=utf-8".to_vec())],
        body: crate::body::Outgoing::Bytes(body.to_vec()),
    }
}

pub(crate) fn log_failure(error: &dyn Display) {
    eprintln!("the fetch handler failed: {error}");
}
