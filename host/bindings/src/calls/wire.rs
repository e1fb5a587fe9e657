//! Calls of a script: `POST /call?method=NAME` with the arguments as a JSON array; the answer is JSON. Errors are
//! `{code, message}` with their status.

use std::sync::Arc;

use bytes::Bytes;
use host_runtime::RequestContext;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use serde_json::json;
use wasmtime_wasi_http::WasiBody;

use super::{CallError, MAX_CALL_BYTES, granted};
use crate::Bindings;

/// Answers a call of the binding `binding`.
pub(crate) async fn answer(
    bindings: Bindings,
    context: Option<Arc<RequestContext>>,
    binding: String,
    request: Request<WasiBody>,
) -> Response<WasiBody> {
    let (status, text) = match call(bindings, context, &binding, request).await {
        Ok(text) => (StatusCode::OK, text),
        Err(error) => {
            let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, json!({ "code": error.code, "message": error.message }).to_string())
        }
    };
    let mut answer = Response::new(Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync());
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

async fn call(
    bindings: Bindings,
    context: Option<Arc<RequestContext>>,
    binding: &str,
    request: Request<WasiBody>,
) -> Result<String, CallError> {
    let query = request.uri().query().unwrap_or_default();
    let method = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "method");
    let method = method.map(|(_, value)| value.into_owned());
    let (&Method::POST, "/call", Some(method)) = (request.method(), request.uri().path(), method) else {
        return Err(CallError::bad("the binding has POST /call?method=NAME"));
    };
    let body = Limited::new(request.into_body(), MAX_CALL_BYTES).collect().await;
    let body = body.map_err(|error| {
        let message = format!("The arguments cannot be read, or are longer than {} MiB: {error}", MAX_CALL_BYTES >> 20);
        CallError { code: 0, status: 413, message }
    })?;
    let arguments = String::from_utf8(body.to_bytes().into())
        .map_err(|error| CallError::bad(format!("The arguments are no text: {error}")))?;
    granted(&bindings, context, binding, method, arguments)?.run().await
}
