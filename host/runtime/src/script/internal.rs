//! `http://workers.internal`: what a script's `fetch` reaches inside the host.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /body` | the body of the request that is being handled, once |
//! | `GET /drain` | 204 when the answer's body may be written on |
//! | `GET /held/N` | a body that the host holds, once; `DELETE` gives it up, read or not |
//! | `DELETE /call/N` | ends the call that the header `x-host-call` numbered so, wherever it is |
//! | `/binding/NAME/…` | the worker's binding of that name, by the [`Extension`] |
//!
//! A binding's answer that is not JSON is held: the script gets its number in the header `x-held`, and may read it or
//! hand it on unread. The authority exists for scripts alone and is never looked up; only bindings count as sub-requests.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use wasmtime_wasi_http::{Error as HttpError, WasiBody};

use super::calls::{Call, Name};
use super::exchange::{Exchange, Held};
use crate::control::RequestContext;
use crate::{Extension, OutboundResult};

/// The authority that scripts reach the host under.
const AUTHORITY: &str = "workers.internal";

/// Whether a script's request is for the host itself.
pub(crate) fn is_internal(uri: &Uri) -> bool {
    uri.authority().is_some_and(|authority| authority.as_str().eq_ignore_ascii_case(AUTHORITY))
}

/// Answers a script's request to the host itself. `charge` counts a sub-request and says whether it is granted.
pub(crate) fn send<X: Extension>(
    extension: &X,
    exchange: &mut Exchange,
    context: Option<Arc<RequestContext>>,
    mut request: Request<WasiBody>,
    charge: impl FnOnce() -> bool,
) -> BoxFuture<'static, OutboundResult> {
    if !exchange.is_open() {
        return ready(plain(StatusCode::FORBIDDEN, "Disallowed operation called within global scope"));
    }
    let path = request.uri().path().to_owned();
    let mut parts = path.trim_start_matches('/').splitn(3, '/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some("body"), None, None) => match exchange.incoming.take() {
            Some(body) => ready(Response::new(exchange.calls.unnumbered().body(body))),
            None => ready(plain(StatusCode::GONE, "The body was read before")),
        },
        (Some("drain"), None, None) => match &exchange.outgoing {
            Some(outgoing) => outgoing.drained().map(|()| given(empty(StatusCode::NO_CONTENT))).boxed(),
            None => ready(empty(StatusCode::NO_CONTENT)),
        },
        (Some("held"), Some(number), None) => match number.parse() {
            Ok(number) => ready(held(exchange, number, request.method() == Method::DELETE)),
            Err(_) => ready(plain(StatusCode::NOT_FOUND, "No such path")),
        },
        (Some("call"), Some(number), None) => {
            if let Ok(number) = number.parse() {
                exchange.calls.cancel(Name::Call(number));
            }
            ready(empty(StatusCode::NO_CONTENT))
        }
        (Some("binding"), Some(name), Some(rest)) => {
            if !charge() {
                return ready(plain(StatusCode::TOO_MANY_REQUESTS, "Too many subrequests."));
            }
            let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
            let Ok(target) = format!("/{rest}{query}").parse::<Uri>() else {
                return ready(plain(StatusCode::BAD_REQUEST, "No such path"));
            };
            *request.uri_mut() = target;
            let (held, call) = (exchange.held.clone(), exchange.calls.begin(request.headers_mut()));
            let work = extension.call(context, name, request);
            async move {
                let response = call.run(work).await?;
                given(hold(&held, response, call))
            }
            .boxed()
        }
        _ => ready(plain(StatusCode::NOT_FOUND, "No such path")),
    }
}

/// A body that the host holds; or the end of it, read or not.
fn held(exchange: &Exchange, number: u32, unwanted: bool) -> Response<WasiBody> {
    let body = exchange.held.take(number);
    if unwanted {
        exchange.calls.cancel(Name::Held(number));
        return empty(StatusCode::NO_CONTENT);
    }
    match body {
        Some(body) => Response::new(exchange.calls.named(Name::Held(number)).body(body)),
        None => plain(StatusCode::GONE, "The body was read or given up before"),
    }
}

/// Keeps back the body of an answer that is more than a JSON document.
fn hold(held: &Held, response: Response<WasiBody>, call: Call) -> Response<WasiBody> {
    let json = response.headers().get(CONTENT_TYPE).is_some_and(|value| value == "application/json");
    if json || response.body().is_end_stream() {
        return response.map(|body| call.body(body));
    }
    let (mut head, body) = response.into_parts();
    match held.hold(body) {
        Ok(number) => {
            head.headers.insert("x-held", HeaderValue::from(number));
            Response::from_parts(head, nothing())
        }
        Err(_) => plain(StatusCode::TOO_MANY_REQUESTS, "Too many streams that were neither read nor cancelled."),
    }
}

fn ready(response: Response<WasiBody>) -> BoxFuture<'static, OutboundResult> {
    std::future::ready(given(response)).boxed()
}

fn given(response: Response<WasiBody>) -> OutboundResult {
    let done: Box<dyn Future<Output = Result<(), HttpError>> + Send> = Box::new(std::future::ready(Ok(())));
    Ok((response, done))
}

fn nothing() -> WasiBody {
    http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn empty(status: StatusCode) -> Response<WasiBody> {
    let mut response = Response::new(nothing());
    *response.status_mut() = status;
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<WasiBody> {
    let body = http_body_util::Full::new(Bytes::from_static(text.as_bytes()));
    let mut response = Response::new(body.map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}
