//! AI Gateway as workers reach it: `env.AI.run` with the option `gateway`, and an address for their `fetch`.
//!
//! `http://gateway.internal` is no server but this host: a worker's request to it is answered here, whichever way it is
//! built, so that client libraries of providers can be pointed at it.
//!
//! | request | answer |
//! | --- | --- |
//! | `POST /BINDING/GATEWAY` | one step, or an array of them: the first that succeeds |
//! | `… /BINDING/GATEWAY/PROVIDER/ENDPOINT` | that provider's answer; `workers-ai/v1` speaks as OpenAI does |
//! | `GET` or `PATCH /BINDING/GATEWAY/logs/ID` | an entry of the worker's own log |
//!
//! `BINDING` is an AI binding of the worker, whose grant says which models of the engine it may run.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use host_gateway::{Answered, Body, Call, GatewayError, Gateways, Options, Patch, Step, WORKERS_AI};
use host_inference::{AiError, Attachment, RunOutput, RunResponse};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use serde_json::{Map, Value, json};
use wasmtime_wasi_http::{Error as HttpError, WasiBody};

use crate::Bindings;

/// The authority under which workers reach their gateways.
const AUTHORITY: &str = "gateway.internal";
/// The longest body of a call.
const MAX_BODY: usize = 16 << 20;
const LOG_ID: HeaderName = HeaderName::from_static("cf-aig-log-id");
const CACHE_STATUS: HeaderName = HeaderName::from_static("cf-aig-cache-status");
const STEP: HeaderName = HeaderName::from_static("cf-aig-step");

/// Whether a worker's request is for its gateways.
pub(crate) fn is_for_gateway(uri: &Uri) -> bool {
    uri.authority().is_some_and(|authority| authority.host().eq_ignore_ascii_case(AUTHORITY))
}

/// What the gateway did with a call of `env.AI.run`.
pub(crate) struct Trace {
    log_id: Option<String>,
    cached: bool,
    step: usize,
}

impl Trace {
    fn of(answered: &Answered) -> Self {
        Self { log_id: answered.log_id.clone(), cached: answered.cached, step: answered.step }
    }

    /// Says it in the headers of an answer.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        if let Some(id) = self.log_id.as_deref().and_then(|id| HeaderValue::from_str(id).ok()) {
            headers.insert(LOG_ID, id);
        }
        headers.insert(CACHE_STATUS, HeaderValue::from_static(if self.cached { "HIT" } else { "MISS" }));
        headers.insert(STEP, HeaderValue::from(self.step));
    }
}

/// The gateway that a call's options name, with what they say of it.
pub(crate) fn named(options: &Map<String, Value>) -> Option<(String, &Map<String, Value>)> {
    let gateway = options.get("gateway")?.as_object()?;
    Some((gateway.get("id")?.as_str()?.to_owned(), gateway))
}

/// Runs a model of the engine through a gateway.
pub(crate) async fn run(
    bindings: &Bindings,
    binding: &str,
    gateway: (String, &Map<String, Value>),
    model: String,
    inputs: Map<String, Value>,
    attachments: Vec<Attachment>,
) -> Result<(RunResponse, Trace), AiError> {
    let (id, given) = gateway;
    let options = Options::of_json(given).map_err(as_ai)?;
    let step = Step {
        provider: WORKERS_AI.to_owned(),
        endpoint: model,
        headers: BTreeMap::new(),
        query: Value::Object(inputs),
        attachments,
    };
    let call = call(bindings, binding, id, vec![step], options);
    let answered = bindings.gateways().run(call).await.map_err(as_ai)?;
    let trace = Trace::of(&answered);
    let output = match answered.body {
        Body::Whole(body) if is_json(&answered.content_type) => {
            RunOutput::Json(serde_json::from_slice(&body).map_err(AiError::internal)?)
        }
        // A picture or a sound out of the cache.
        Body::Whole(body) => {
            let body = futures::stream::iter([Ok(body)]);
            RunOutput::Stream { content_type: answered.content_type, body: Box::pin(body) }
        }
        Body::Stream(body) => {
            RunOutput::Stream { content_type: answered.content_type, body: Box::pin(body.map_err(AiError::internal)) }
        }
    };
    let request_id = trace.log_id.clone().unwrap_or_else(|| "-".to_owned());
    Ok((RunResponse { request_id, output }, trace))
}

fn is_json(content_type: &str) -> bool {
    content_type.split(';').next().is_some_and(|media_type| media_type.trim() == "application/json")
}

fn as_ai(error: GatewayError) -> AiError {
    match error {
        GatewayError::Ai(error) => error,
        GatewayError::RateLimited { retry_after } => AiError::rate_limited(retry_after),
        GatewayError::Bad(text) => AiError::bad_input(text),
        other => AiError::internal(other),
    }
}

fn call(bindings: &Bindings, binding: &str, gateway: String, steps: Vec<Step>, options: Options) -> Call {
    let (granting, binding) = (bindings.clone(), binding.to_owned());
    let worker: Arc<str> = bindings.grants().worker().into();
    let lora = steps.first().and_then(|step| step.query.as_object().cloned()).unwrap_or_default();
    let allows = move |model: &str| {
        granting.grants().check_ai(&binding, model)?;
        granting.grants().check_lora(&binding, &lora)
    };
    Call { worker, gateway, steps, options, allows: Arc::new(allows) }
}

/// Answers a worker's request to its gateways.
pub(crate) async fn answer(bindings: Bindings, request: Request<WasiBody>) -> Response<WasiBody> {
    match route(&bindings, request).await {
        Ok(response) => response,
        Err(error) => refusal(&error),
    }
}

async fn route(bindings: &Bindings, request: Request<WasiBody>) -> Result<Response<WasiBody>, GatewayError> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().trim_start_matches('/').to_owned();
    let mut parts = path.splitn(3, '/');
    let (Some(binding), Some(gateway)) = (parts.next(), parts.next().filter(|id| !id.is_empty())) else {
        let text = format!("an address of a gateway is http://{AUTHORITY}/BINDING/GATEWAY, as getUrl() gives it");
        return Err(GatewayError::Bad(text));
    };
    bindings.grants().check_ai_binding(binding)?;
    let rest = parts.next().unwrap_or_default().trim_end_matches('/');
    let body = Limited::new(body, MAX_BODY).collect().await;
    let body = body.map_err(|_| GatewayError::Ai(AiError::too_large()))?.to_bytes();
    if let Some(id) = rest.strip_prefix("logs/") {
        return log(bindings, gateway, id, &head.method, &body).await;
    }
    let mut options = Options::default();
    for (name, value) in &head.headers {
        if let Ok(value) = value.to_str() {
            options.set_header(name.as_str(), &value.into())?;
        }
    }
    let steps = match rest.split_once('/') {
        None if rest.is_empty() => steps(&body)?,
        named => {
            let (provider, endpoint) = named.unwrap_or((rest, ""));
            vec![direct(provider, endpoint, &head, &body)?]
        }
    };
    let call = call(bindings, binding, gateway.to_owned(), steps, options);
    let enveloped: Vec<bool> = call.steps.iter().map(Step::is_answered_in_an_envelope).collect();
    let answered = bindings.gateways().run(call).await?;
    let enveloped = enveloped.get(answered.step) == Some(&true);
    respond(answered, enveloped)
}

/// The steps of a universal call.
fn steps(body: &[u8]) -> Result<Vec<Step>, GatewayError> {
    let bad =
        |error: serde_json::Error| GatewayError::Bad(format!("the call is no step, and no array of steps: {error}"));
    match serde_json::from_slice(body).map_err(bad)? {
        Value::Array(steps) => steps.into_iter().map(serde_json::from_value).collect::<Result<_, _>>().map_err(bad),
        step => Ok(vec![serde_json::from_value(step).map_err(bad)?]),
    }
}

/// The step that a request to a provider's own address is.
fn direct(provider: &str, endpoint: &str, head: &http::request::Parts, body: &[u8]) -> Result<Step, GatewayError> {
    let query = match body {
        [] => Value::Null,
        body => {
            serde_json::from_slice(body).map_err(|error| GatewayError::Bad(format!("the body is not JSON: {error}")))?
        }
    };
    let headers = head.headers.iter().filter_map(|(name, value)| {
        let value = value.to_str().ok()?;
        (!name.as_str().starts_with("cf-aig-")).then(|| (name.as_str().to_owned(), value.into()))
    });
    let endpoint = match provider {
        // The name of a model, which clients may have encoded.
        WORKERS_AI => endpoint.replace("%40", "@"),
        _ => head.uri.query().map_or_else(|| endpoint.to_owned(), |query| format!("{endpoint}?{query}")),
    };
    Ok(Step { provider: provider.to_owned(), endpoint, headers: headers.collect(), query, attachments: Vec::new() })
}

async fn log(
    bindings: &Bindings,
    gateway: &str,
    id: &str,
    method: &Method,
    body: &[u8],
) -> Result<Response<WasiBody>, GatewayError> {
    let (gateways, worker): (&Gateways, _) = (bindings.gateways(), bindings.grants().worker());
    let document = match *method {
        Method::GET => {
            let log = gateways.log(worker, gateway, id).await?;
            serde_json::to_value(&log).map_err(|error| GatewayError::Bad(error.to_string()))?
        }
        Method::PATCH => {
            let patch: Patch = serde_json::from_slice(body)
                .map_err(|error| GatewayError::Bad(format!("what is added to a log is not right: {error}")))?;
            gateways.patch_log(worker, gateway, id, patch).await?;
            json!({})
        }
        _ => return Err(GatewayError::Bad("a log is read with GET and added to with PATCH".to_owned())),
    };
    Ok(whole(200, "application/json", document.to_string().into()))
}

/// An answer as the gateway's address gives it: that of the engine in the envelope of Cloudflare's REST interface.
fn respond(answered: Answered, enveloped: bool) -> Result<Response<WasiBody>, GatewayError> {
    let trace = Trace::of(&answered);
    let mut response = match answered.body {
        Body::Whole(body) if enveloped && is_json(&answered.content_type) => {
            let result: Value = serde_json::from_slice(&body).map_err(|error| GatewayError::Bad(error.to_string()))?;
            let document = json!({ "result": result, "success": true, "errors": [], "messages": [] });
            whole(answered.status, "application/json", document.to_string().into())
        }
        Body::Whole(body) => whole(answered.status, &answered.content_type, body),
        Body::Stream(body) => {
            let frames = body.map_ok(Frame::data).map_err(|error| HttpError::InternalError(Some(error)));
            let mut response = whole(answered.status, &answered.content_type, Bytes::new());
            *response.body_mut() = StreamBody::new(frames).boxed_unsync();
            response
        }
    };
    trace.tell(response.headers_mut());
    Ok(response)
}

fn refusal(error: &GatewayError) -> Response<WasiBody> {
    let mut response = whole(error.status(), "application/json", error.document().to_string().into());
    if let Some(retry_after) = error.retry_after() {
        // Rounded up: who comes back too early is refused again.
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry_after.as_millis().div_ceil(1000) as u64));
    }
    response
}

fn whole(status: u16, content_type: &str, body: Bytes) -> Response<WasiBody> {
    let mut response = Response::new(Full::new(body).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Ok(content_type) = HeaderValue::from_str(content_type) {
        response.headers_mut().insert(CONTENT_TYPE, content_type);
    }
    response
}
