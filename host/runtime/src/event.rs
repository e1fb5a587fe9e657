//! Events: what a worker handles besides requests, and answers in JSON.
//!
//! A script has an export for them. A component exports the handler of wasi:http and nothing else, so for it an event is
//! a request: `POST http://workers.internal/event/KIND` with the payload as its body and the header [`HEADER`], which is
//! taken from every request that is not an event before a guest sees it. So nobody outside, and no other worker, can make
//! one. The component answers with the same header; an answer without it is that of a component that knows no events.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use wasmtime_wasi_http::WasiBody;

use crate::script::StartFault;
use crate::{Failure, ResponseBody};

/// What makes a request an event, and an answer that of one. Its value is the kind.
pub(crate) const HEADER: HeaderName = HeaderName::from_static("x-workers-event");

/// Bytes of an event's answer.
pub(crate) const MAX_ANSWER: u64 = 4 << 20;
/// Characters of what a component says about a fault.
const MAX_FAULT: usize = 2000;

/// Why an event was not handled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventFault {
    /// The worker is a component that knows no events, or none of this kind.
    #[error("{0}")]
    Unsupported(String),
    /// No instance could be started.
    #[error(transparent)]
    Start(#[from] StartFault),
    /// The handler threw, or there is none. The log has the stack.
    #[error("{0}")]
    Threw(String),
    /// A limit was broken.
    #[error("{0}")]
    Failed(Failure),
}

/// The request that a component gets.
pub(crate) fn request(kind: &str, payload: Bytes) -> Result<Request<WasiBody>, EventFault> {
    let body = Full::new(payload).map_err(|never| match never {}).boxed_unsync();
    Request::builder()
        .method(Method::POST)
        .uri(format!("http://workers.internal/event/{kind}"))
        .header(HEADER, kind)
        .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .body(body)
        .map_err(|_| EventFault::Unsupported(format!("no event is of the kind {kind:?}")))
}

/// What a component's answer says.
pub(crate) async fn answer(kind: &str, response: Response<ResponseBody>) -> Result<Vec<u8>, EventFault> {
    let (head, body) = response.into_parts();
    if head.headers.get(HEADER).is_none_or(|value| value != kind) {
        let help = "build it with a handler for it, as with `#[queue]` or `#[scheduled]` of the SDK";
        return Err(EventFault::Unsupported(format!("the component handles no event of the kind {kind}; {help}")));
    }
    let body = body.collect().await.map_err(|error| match error {
        crate::BodyError::Failed(failure) => EventFault::Failed(failure),
        crate::BodyError::BrokenOff => EventFault::Failed(Failure::Exception),
    })?;
    let bytes = body.to_bytes();
    if head.status == StatusCode::OK {
        return Ok(bytes.into());
    }
    let fault = String::from_utf8_lossy(&bytes).chars().take(MAX_FAULT).collect();
    Err(match head.status {
        StatusCode::NOT_IMPLEMENTED => EventFault::Unsupported(fault),
        _ => EventFault::Threw(fault),
    })
}
