//! `env.AI` of a script: the wire that Cloudflare's own binding speaks.
//!
//! `POST /run?version=3` with the model in the header `cf-consn-model-id` and `{"inputs": …, "options": …}` as its body; a
//! binary input is the body itself, named by `x-input-property`, and the JSON then stands in the query's `userInputs`.
//! `GET /models` lists what `env.AI.models()` gives. Errors are `{internalCode, description, name, message}`.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use host_inference::engine::{Availability, ModelInfo};
use host_inference::{AiError, Attachment, RunOutput, RunResponse};
use host_runtime::RequestContext;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use serde_json::{Value, json};
use wasmtime_wasi_http::{Error as HttpError, WasiBody};

use super::{Call, MAX_ATTACHMENT_BYTES, MAX_JSON_BYTES, Object, check, only_object, parsed};
use crate::Bindings;
use crate::gateway::Trace;

const MODEL: &str = "cf-consn-model-id";
const REQUEST_ID: &str = "cf-ai-req-id";
const PROPERTY: &str = "x-input-property";

/// Answers a call of the AI binding `binding`.
pub(crate) async fn answer(
    bindings: Bindings,
    context: Option<Arc<RequestContext>>,
    binding: String,
    request: Request<WasiBody>,
) -> Response<WasiBody> {
    let answered = match (request.method(), request.uri().path()) {
        (&Method::POST, "/run") => run(bindings, context, binding, request).await.and_then(success),
        (&Method::GET, "/models") => models(&bindings, &binding, request.uri().query().unwrap_or_default()),
        _ => Err(AiError::missing("the AI binding has POST /run and GET /models")),
    };
    answered.unwrap_or_else(|error| failure(&error))
}

/// What a call says.
#[derive(Default, serde::Deserialize)]
struct Said {
    #[serde(default)]
    inputs: Value,
    #[serde(default)]
    options: Value,
}

async fn run(
    bindings: Bindings,
    context: Option<Arc<RequestContext>>,
    binding: String,
    request: Request<WasiBody>,
) -> Result<(RunResponse, Option<Trace>), AiError> {
    let (head, body) = request.into_parts();
    let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let model = model(text(MODEL).ok_or_else(|| AiError::missing(MODEL))?).to_owned();
    let property = text(PROPERTY).map(str::to_owned);
    let limit = if property.is_some() { MAX_ATTACHMENT_BYTES } else { MAX_JSON_BYTES + (64 << 10) };
    let body = Limited::new(body, limit).collect().await.map_err(|_| AiError::too_large())?.to_bytes();
    let mut attachments = Vec::new();
    let said = match property {
        None => body,
        Some(property) => {
            let content_type = text("content-type").map(str::to_owned);
            attachments.push(Attachment { property, content_type, data: body });
            let query = head.uri.query().unwrap_or_default();
            let said = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "userInputs");
            Bytes::from(said.map_or_else(|| "{}".to_owned(), |(_, value)| value.into_owned()))
        }
    };
    // The grant and the sizes come first: parsed JSON takes many times its text's size.
    let call = Call { binding, model, inputs: String::new(), attachments, options: String::new() };
    let admitted = check(bindings, context, call)?;
    let (inputs, options) = parsed(said.len(), move || understand(&said)).await?;
    admitted.run_parsed(inputs, options).await
}

fn understand(said: &[u8]) -> Result<(Object, Object), AiError> {
    let said: Said = serde_json::from_slice(said)
        .map_err(|error| AiError::bad_input(format_args!("the call is not JSON: {error}")))?;
    let options = if said.options.is_null() { Object::new() } else { only_object("options", said.options)? };
    Ok((only_object("inputs", said.inputs)?, options))
}

/// The model's name without the prefix that chooses where upstream runs it.
fn model(id: &str) -> &str {
    match id.split_once(':') {
        Some((_, name)) if name.starts_with('@') => name,
        _ => id,
    }
}

fn success((response, trace): (RunResponse, Option<Trace>)) -> Result<Response<WasiBody>, AiError> {
    let (content_type, body) = match response.output {
        RunOutput::Json(value) => (HeaderValue::from_static("application/json"), whole(value.to_string())),
        RunOutput::Stream { content_type, body } => {
            let frames = body.map_ok(Frame::data).map_err(|error| HttpError::InternalError(Some(error.to_string())));
            let content_type = HeaderValue::from_str(&content_type).map_err(AiError::internal)?;
            (content_type, StreamBody::new(frames).boxed_unsync())
        }
    };
    let mut answer = Response::new(body);
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    if let Ok(id) = HeaderValue::from_str(&response.request_id) {
        answer.headers_mut().insert(REQUEST_ID, id);
    }
    if let Some(trace) = trace {
        trace.tell(answer.headers_mut());
    }
    Ok(answer)
}

fn failure(error: &AiError) -> Response<WasiBody> {
    let body = json!({
        "internalCode": error.code,
        "description": error.message,
        "name": "AiError",
        "message": error.to_string(),
    });
    let mut answer = Response::new(whole(body.to_string()));
    *answer.status_mut() = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers: &mut HeaderMap = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(seconds) = super::seconds(error) {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
}

fn whole(text: String) -> WasiBody {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync()
}

/// `env.AI.models()`: names, tasks and what is known of each that the binding may run, filtered as the parameters say. An
/// alias is listed as the model that it stands for, because a program looks for the name that it calls.
fn models(bindings: &Bindings, binding: &str, query: &str) -> Result<Response<WasiBody>, AiError> {
    let parameters: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let parameter = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let number =
        |name: &str, default: usize| match parameter(name) {
            None => Ok(default),
            Some(text) => text.parse::<usize>().ok().filter(|number| (1..=1000).contains(number)).ok_or_else(|| {
                AiError::bad_input(format_args!("value at '/{name}' must be an integer from 1 to 1000"))
            }),
        };
    let (page, per_page) = (number("page", 1)?, number("per_page", 100)?);
    let has = |text: &str, name: &str| {
        parameter(name).is_none_or(|wanted| text.to_ascii_lowercase().contains(&wanted.to_ascii_lowercase()))
    };
    let listed = bindings.engine().models();
    let aliases: HashSet<&str> = listed.iter().flat_map(|model| &model.aliases).map(String::as_str).collect();
    let chosen = listed
        .iter()
        .filter(|model| !matches!(model.availability, Availability::Absent))
        .flat_map(|model| {
            // Where an alias has the name of a model, a call reaches what the alias stands for.
            let own = Some(model.name.as_str()).filter(|name| !aliases.contains(name));
            own.into_iter().chain(model.aliases.iter().map(String::as_str)).map(move |name| (name, model))
        })
        .filter(|(name, _)| bindings.grants().check_ai(binding, name).is_ok())
        .filter(|(name, model)| has(name, "search") && has(name, "author") && has(model.task.title(), "task"));
    let page: Vec<Value> =
        chosen.skip((page - 1) * per_page).take(per_page).map(|(name, model)| listing(name, model)).collect();
    let mut answer = Response::new(whole(Value::from(page).to_string()));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(answer)
}

fn listing(name: &str, model: &ModelInfo) -> Value {
    let mut properties = Vec::new();
    if let Some(context) = model.context {
        properties.push(json!({ "property_id": "context_window", "value": context.to_string() }));
    }
    if let Some(dimensions) = model.dimensions {
        properties.push(json!({ "property_id": "output_dimensions", "value": dimensions.to_string() }));
    }
    let task = model.task.title();
    json!({
        "id": name,
        "source": 1,
        "name": name,
        "description": model.repository.clone().unwrap_or_default(),
        "task": { "id": task, "name": task, "description": "" },
        "tags": [],
        "properties": properties,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_no_part_of_a_models_name() {
        assert_eq!(model("@cf/a/b"), "@cf/a/b");
        assert_eq!(model("dynamic:@cf/a/b"), "@cf/a/b");
        assert_eq!(model("a:b"), "a:b");
    }

    #[tokio::test]
    async fn a_failure_carries_code_status_and_when_to_try_again() {
        let answer = failure(&AiError::capacity_exceeded(std::time::Duration::from_secs(2)));
        assert_eq!((answer.status().as_u16(), &answer.headers()[RETRY_AFTER]), (429, &HeaderValue::from(2)));
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&body["internalCode"], &body["name"]), (&json!(3040), &json!("AiError")));
    }
}
