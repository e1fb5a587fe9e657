//! Providers: who answers a step, and how.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use host_inference::{RunOutput, RunRequest, Tenant};
use host_upstream::{Ask, Patience, Retries, Settings, UpstreamError, Upstreams};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Map, Value, json};

use crate::{Call, GatewayError, Inner, ProviderKind, ProviderSettings, Step, WORKERS_AI};

/// The longest whole answer of a provider, in bytes.
const MAX_ANSWER: usize = 32 << 20;
/// The longest value of a header that is handed on.
const MAX_HEADER: usize = 4096;
/// The version of Anthropic's interface that is asked for where the caller names none.
const ANTHROPIC_VERSION: &str = "2023-06-01";
/// Headers of the caller's that reach a provider, besides those that begin with one of [`HANDED_ON`].
const HEADERS: [&str; 3] = ["content-type", "accept", "accept-language"];
const HANDED_ON: [&str; 3] = ["anthropic-", "openai-", "x-"];

/// A provider that is ready to be asked.
pub(crate) struct Provider {
    kind: ProviderKind,
    has_key: bool,
    upstreams: Upstreams,
}

/// An answer of a provider.
pub(crate) struct Given {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) body: GivenBody,
}

pub(crate) enum GivenBody {
    Whole(Bytes),
    Stream(BoxStream<'static, Result<Bytes, String>>),
}

impl Provider {
    pub(crate) fn new(settings: ProviderSettings) -> Result<Self, String> {
        let has_key = settings.key.is_some();
        let upstreams = Upstreams::new(Settings {
            addresses: settings.addresses,
            key: settings.key,
            patience: Patience { answer: settings.timeout },
            retries: Retries { attempts: settings.attempts.max(1) },
            health: settings.health,
        });
        Ok(Self { kind: settings.kind, has_key, upstreams: upstreams.map_err(|error| error.to_string())? })
    }

    /// What a step's headers are to this provider. Credentials of the caller's go only where the operator has none.
    fn headers(&self, given: &BTreeMap<String, Value>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        if self.kind == ProviderKind::Anthropic {
            headers.insert("anthropic-version", HeaderValue::from_static(ANTHROPIC_VERSION));
        }
        for (name, value) in relevant(given) {
            let credential = name == AUTHORIZATION.as_str() || name == "x-api-key";
            if credential && self.has_key {
                continue;
            }
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(&value)) {
                headers.insert(name, value);
            }
        }
        headers
    }

    async fn ask(&self, step: &Step) -> Result<Given, UpstreamError> {
        let body = match &step.query {
            Value::Null => Bytes::new(),
            query => query.to_string().into(),
        };
        let method = if body.is_empty() { Method::GET } else { Method::POST };
        let ask = Ask { method, path: step.endpoint.clone(), headers: self.headers(&step.headers), body };
        let asked = self.upstreams.run(|attempt| {
            let ask = &ask;
            async move {
                let mut answer = attempt.send(ask).await?;
                // What another attempt may change is an error; what the provider refuses is its answer.
                if answer.status >= 500 || answer.status == 429 || answer.status == 408 {
                    answer = answer.success().await?;
                }
                let content_type = content_type(&answer.headers);
                if answer.media_type() == "text/event-stream" {
                    let first = answer.piece().await?;
                    return Ok((answer, content_type, first, true));
                }
                let whole = answer.whole(MAX_ANSWER).await?;
                Ok((answer, content_type, Some(whole), false))
            }
        });
        let (answer, content_type, first, streamed) = asked.await?;
        let status = answer.status;
        if !streamed {
            return Ok(Given { status, content_type, body: GivenBody::Whole(first.unwrap_or_default()) });
        }
        let rest = stream::unfold(Some(answer), |answer| async move {
            let mut answer = answer?;
            match answer.piece().await {
                Ok(Some(piece)) => Some((Ok(piece), Some(answer))),
                Ok(None) => None,
                Err(error) => {
                    tracing::warn!(%error, "a provider's stream broke off");
                    Some((Err("the provider's answer broke off".to_owned()), None))
                }
            }
        });
        let body = stream::iter(first.map(Ok)).chain(rest).boxed();
        Ok(Given { status, content_type, body: GivenBody::Stream(body) })
    }
}

/// The headers of a step that a provider gets and may answer differently to, in lower case.
pub(crate) fn relevant(headers: &BTreeMap<String, Value>) -> impl Iterator<Item = (String, String)> {
    headers.iter().filter_map(|(name, value)| {
        let name = name.to_ascii_lowercase();
        let credential = name == AUTHORIZATION.as_str();
        let known = HEADERS.contains(&name.as_str()) || HANDED_ON.iter().any(|begin| name.starts_with(begin));
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            _ => return None,
        };
        let forwarded = name.starts_with("x-forwarded") || name == "x-real-ip";
        ((known || credential) && !forwarded && value.len() <= MAX_HEADER).then_some((name, value))
    })
}

fn content_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    value.unwrap_or("application/octet-stream").to_owned()
}

impl Inner {
    /// Asks the provider of a step once.
    pub(crate) async fn ask(&self, call: &Call, step: &Step, timeout: Option<Duration>) -> Result<Given, GatewayError> {
        if step.provider == WORKERS_AI {
            return self.ask_engine(call, step, timeout).await;
        }
        let Some(provider) = self.providers.get(&step.provider) else {
            let name: String = step.provider.chars().filter(|c| !c.is_control()).take(100).collect();
            return Err(GatewayError::Bad(format!(
                "there is no provider {name:?}; describe it in the binding file:\n[[ai.providers]]\nname = {name:?}\n\
                 url = \"https://…\"\nkey = \"NAME_OF_A_SECRET\""
            )));
        };
        provider.ask(step).await.map_err(|error| told(&step.provider, &error))
    }

    async fn ask_engine(&self, call: &Call, step: &Step, timeout: Option<Duration>) -> Result<Given, GatewayError> {
        let model = step.model_of_engine()?;
        (call.allows)(model)?;
        let inputs = step.inputs_of_engine()?;
        let mut options = Map::new();
        if let Some(timeout) = timeout {
            // The engine knows better than to begin what will be of no use.
            let milliseconds = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            options.insert("gateway".to_owned(), json!({ "requestTimeoutMs": milliseconds }));
        }
        let response = self
            .engine
            .run(RunRequest {
                tenant: Tenant(call.worker.clone()),
                model: model.to_owned(),
                inputs,
                attachments: step.attachments.clone(),
                options,
            })
            .await?;
        Ok(match response.output {
            RunOutput::Json(value) => Given {
                status: 200,
                content_type: "application/json".to_owned(),
                body: GivenBody::Whole(step.shaped(value).to_string().into()),
            },
            RunOutput::Stream { content_type, body } => {
                let body = body.map(|piece| piece.map_err(|error| error.to_string())).boxed();
                Given { status: 200, content_type, body: GivenBody::Stream(step.shaped_stream(body)) }
            }
        })
    }
}

/// What an error of a provider is to the caller. Addresses are the operator's and stay in the log.
fn told(provider: &str, error: &UpstreamError) -> GatewayError {
    tracing::warn!(provider, %error, "a provider failed");
    let (status, message) = match error {
        UpstreamError::Unreachable { .. } => (502, format!("the provider {provider} cannot be reached")),
        UpstreamError::Timeout { .. } => (504, format!("the provider {provider} did not answer in time")),
        UpstreamError::AllDown { .. } => (503, format!("the provider {provider} is down")),
        UpstreamError::Status { status, message, .. } => {
            (*status, format!("the provider {provider} answered {status}: {message}"))
        }
        UpstreamError::Request(_) => {
            (400, format!("the endpoint of the provider {provider} is no path below its address"))
        }
        _ => (502, format!("the provider {provider} sent an answer that cannot be used")),
    };
    GatewayError::Provider { status, message, retry_after: error.retry_after() }
}

impl GatewayError {
    /// The HTTP status that goes with it.
    pub fn status(&self) -> u16 {
        match self {
            Self::Bad(_) => 400,
            Self::RateLimited { .. } => 429,
            Self::Ai(error) => error.status,
            Self::Provider { status, .. } => *status,
            Self::NoLog(_) => 404,
            Self::State => 500,
        }
    }

    /// When to come back.
    pub fn retry_after(&self) -> Option<std::time::Duration> {
        match self {
            Self::RateLimited { retry_after } => Some(*retry_after),
            Self::Ai(error) => error.retry_after,
            Self::Provider { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The document that says it, in the shape of Cloudflare's API.
    pub fn document(&self) -> Value {
        let (code, message) = match self {
            Self::Ai(error) => (error.code, error.message.clone()),
            Self::RateLimited { .. } => (2003, "Rate limited".to_owned()),
            Self::NoLog(_) => (7002, self.to_string()),
            _ => (2000, self.to_string()),
        };
        json!({ "success": false, "result": [], "messages": [], "errors": [{ "code": code, "message": message }] })
    }

    /// Whether another attempt may fare better.
    pub(crate) fn may_be_retried(&self) -> bool {
        matches!(self.status(), 408 | 429 | 500 | 502 | 503 | 504 | 529)
    }
}
