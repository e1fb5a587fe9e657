//! What scripts call: the worker's bindings over the host's internal authority, and the `env` that names them.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use host_assets::{Asked, Assets};
use host_runtime::RequestContext;
use http::header::HOST;
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Map, Value, json};
use wasmtime_wasi_http::{Error as HttpError, WasiBody};

use crate::grants::EnvValue;
use crate::site::{Answerer, Site};
use crate::{Bindings, Grants, ai, calls};

impl Grants {
    /// The JSON that a script's `env` is made from: `{"bindings": {NAME: {"type": …}}, "flags": […]}`.
    pub fn script_env(&self) -> String {
        let bindings: Map<String, Value> = self
            .env()
            .iter()
            .map(|(name, value)| {
                let entry = match value {
                    EnvValue::Text(text) => json!({ "type": "text", "value": text }),
                    EnvValue::Json(value) => json!({ "type": "json", "value": value }),
                    EnvValue::Secret(secret) => json!({ "type": "text", "value": secret.expose() }),
                    EnvValue::Ai(_) => json!({ "type": "ai" }),
                    EnvValue::Assets(_) | EnvValue::Service(_) => json!({ "type": "fetcher" }),
                    EnvValue::Callable(callable) => json!({ "type": callable.kind().name() }),
                };
                (name.clone(), entry)
            })
            .collect();
        json!({ "bindings": bindings, "flags": self.flags() }).to_string()
    }
}

/// Answers a call of the binding `name`.
pub(crate) fn call(
    bindings: Bindings,
    context: Option<Arc<RequestContext>>,
    name: &str,
    request: Request<WasiBody>,
) -> BoxFuture<'static, Response<WasiBody>> {
    match bindings.grants().env().get(name) {
        Some(EnvValue::Ai(_)) => ai::answer(bindings.clone(), context, name.to_owned(), request).boxed(),
        Some(EnvValue::Callable(_)) => calls::answer(bindings.clone(), context, name.to_owned(), request).boxed(),
        Some(EnvValue::Assets(assets)) => match fetched(request) {
            Some(request) => from_files(assets.clone(), request).boxed(),
            None => refusal(StatusCode::BAD_REQUEST, NO_ADDRESS.to_owned()),
        },
        Some(EnvValue::Service(service)) => match (fetched(request), bindings.services().find(service)) {
            (Some(request), Some(site)) => from_site(site, request).boxed(),
            (Some(_), None) => {
                let text = format!("Worker {service:?} is not served by this host.");
                refusal(StatusCode::SERVICE_UNAVAILABLE, text)
            }
            (None, _) => refusal(StatusCode::BAD_REQUEST, NO_ADDRESS.to_owned()),
        },
        _ => refusal(StatusCode::NOT_FOUND, format!("No binding {name:?} can be called.")),
    }
}

const NO_ADDRESS: &str = "The call has no absolute address in x-url.";

fn refusal(status: StatusCode, text: String) -> BoxFuture<'static, Response<WasiBody>> {
    std::future::ready(plain(status, text)).boxed()
}

/// The request that a script passed to `fetch` of a binding: its address stands in the header `x-url`.
fn fetched(mut request: Request<WasiBody>) -> Option<Request<WasiBody>> {
    let url = request.headers_mut().remove("x-url")?;
    let url = url.to_str().ok()?.parse::<Uri>().ok().filter(|url| url.authority().is_some())?;
    if let Some(host) = url.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok()) {
        request.headers_mut().insert(HOST, host);
    }
    *request.uri_mut() = url;
    Some(request)
}

async fn from_files(assets: Assets, request: Request<WasiBody>) -> Response<WasiBody> {
    let (head, _) = request.into_parts();
    files(assets.fetch(&Asked::of(&head)).await)
}

fn files(response: Response<host_assets::Body>) -> Response<WasiBody> {
    response.map(|body| body.map_err(|error| HttpError::InternalError(Some(error.to_string()))).boxed_unsync())
}

/// Another worker's answer. Its request is its own: its id, its limits, its CPU time.
async fn from_site(site: Site, request: Request<WasiBody>) -> Response<WasiBody> {
    let (head, body) = request.into_parts();
    let worker = match site.answerer(&head).await {
        Answerer::Files(response) => return files(response),
        Answerer::Nobody => return plain(StatusCode::NOT_FOUND, "Not found".to_owned()),
        Answerer::Worker(worker) => worker,
    };
    let context = worker.admit();
    match worker.handle(&context, Request::from_parts(head, body)).await {
        Ok(response) => {
            response.map(|body| body.map_err(|error| HttpError::InternalError(Some(error.to_string()))).boxed_unsync())
        }
        Err(failure) => {
            let status = StatusCode::from_u16(failure.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            plain(status, format!("{failure} (request {})", context.id()))
        }
    }
}

fn plain(status: StatusCode, text: String) -> Response<WasiBody> {
    let mut response = Response::new(Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}
