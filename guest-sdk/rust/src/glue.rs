//! What the attributes expand to, and what calls the handlers they stand on.
//!
//! Each attribute registers its handler, so that they may stand in any module and any of them may be missing. This crate
//! exports the handler of wasi:http once and decides what a request is. The host marks events with a header that it takes
//! from every request of others, so such a request is the host's own.

use crate::body::Outgoing;
use crate::{Context, Env, MessageBatch, Method, Request, Response, ScheduledEvent, sys};
use futures_util::future::LocalBoxFuture;
use std::fmt::Display;

/// The future of a handler.
pub type Handling<T> = LocalBoxFuture<'static, Result<T, String>>;

/// A handler that an attribute registers.
pub enum Handler {
    /// `#[fetch]`.
    Fetch(fn(Request, Env, Context) -> Handling<Response>),
    /// `#[queue]`. What the bodies of the messages are is the handler's own.
    Queue(fn(&MessageBatch<()>, Env, Context) -> Handling<()>),
    /// `#[scheduled]`.
    Scheduled(fn(ScheduledEvent, Env, Context) -> Handling<()>),
}

inventory::collect!(Handler);

/// What the component exports.
pub(crate) struct Dispatcher;

/// What makes a request an event; its value is the kind. The host knows it by the same name.
const EVENT: &str = "x-workers-event";

/// The one handler that `pick` picks.
fn registered<T>(attribute: &str, pick: impl Fn(&Handler) -> Option<T>) -> Result<T, String> {
    let mut found = inventory::iter::<Handler>.into_iter().filter_map(pick);
    match (found.next(), found.next()) {
        (Some(handler), None) => Ok(handler),
        (Some(_), Some(_)) => Err(format!("the worker has more than one handler with {attribute}")),
        (None, _) => Err(format!("the worker has no handler with {attribute}")),
    }
}

/// The handler's answer, or 500 in its place. What went wrong goes to the log alone: it may name things that are none
/// of the client's business.
pub(crate) async fn respond(request: sys::IncomingRequest) -> sys::OutgoingResponse {
    let request = Request::from_host(request);
    if let Some(kind) = event_kind(&request) {
        return handle_event(&kind, request).await;
    }
    let handler = registered("#[fetch]", |handler| match handler {
        Handler::Fetch(fetch) => Some(*fetch),
        _ => None,
    });
    let answer = match handler {
        Ok(fetch) => fetch(request, Env::default(), Context::default()).await,
        Err(error) => Err(error),
    };
    let sent = answer.and_then(|response| response.into_outgoing().map_err(|error| error.to_string()));
    sent.unwrap_or_else(|error| {
        log_failure(&error);
        text(500, "Internal Server Error\n", None)
    })
}

/// The kind of the event that a request is. Headers are copied only where the rest could be one.
fn event_kind(request: &Request) -> Option<String> {
    if request.method() != Method::Post || !request.path().starts_with("/event/") {
        return None;
    }
    request.headers().get(EVENT).ok()?
}

async fn handle_event(kind: &str, mut request: Request) -> sys::OutgoingResponse {
    let payload = match request.text().await {
        Ok(payload) => payload,
        Err(error) => return text(400, &error.to_string(), Some(kind)),
    };
    match kind {
        "queue" => handle_queue(&payload).await,
        "scheduled" => handle_scheduled(&payload).await,
        _ => text(501, &format!("the SDK of this worker knows no event of the kind {kind}"), Some(kind)),
    }
}

async fn handle_queue(payload: &str) -> sys::OutgoingResponse {
    let handler = registered("#[queue]", |handler| match handler {
        Handler::Queue(queue) => Some(*queue),
        _ => None,
    });
    let queue = match handler {
        Ok(queue) => queue,
        Err(error) => return text(501, &error, Some("queue")),
    };
    let batch = match MessageBatch::<()>::read(payload) {
        Ok(batch) => batch,
        Err(error) => return text(400, &error.to_string(), Some("queue")),
    };
    let done = queue(&batch, Env::default(), Context::default()).await;
    if let Err(error) = &done {
        eprintln!("the queue handler failed: {error}");
    }
    let threw = done.as_ref().err().map(|error| error as &dyn Display);
    text(200, &batch.answer(threw), Some("queue"))
}

async fn handle_scheduled(payload: &str) -> sys::OutgoingResponse {
    let handler = registered("#[scheduled]", |handler| match handler {
        Handler::Scheduled(scheduled) => Some(*scheduled),
        _ => None,
    });
    let scheduled = match handler {
        Ok(scheduled) => scheduled,
        Err(error) => return text(501, &error, Some("scheduled")),
    };
    let event = match serde_json::from_str(payload) {
        Ok(event) => event,
        Err(error) => return text(400, &error.to_string(), Some("scheduled")),
    };
    match scheduled(event, Env::default(), Context::default()).await {
        Ok(()) => text(200, "null", Some("scheduled")),
        Err(error) => {
            eprintln!("the scheduled handler failed: {error}");
            text(500, &error, Some("scheduled"))
        }
    }
}

/// An answer; to an event, if it names one.
fn text(status: u16, body: &str, event: Option<&str>) -> sys::OutgoingResponse {
    let mut headers = vec![("content-type".to_owned(), b"text/plain; charset=utf-8".to_vec())];
    headers.extend(event.map(|kind| (EVENT.to_owned(), kind.as_bytes().to_vec())));
    sys::OutgoingResponse { status, headers, body: Outgoing::Bytes(body.as_bytes().to_vec()) }
}

pub(crate) fn log_failure(error: &dyn Display) {
    eprintln!("the fetch handler failed: {error}");
}
