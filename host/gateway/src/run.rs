//! One call: its steps in order, each out of the cache or from its provider, tried as often as the call says.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;
use rand::Rng as _;
use serde_json::Value;

use crate::attachments;
use crate::cache::{Kept, Key, canonical, digest};
use crate::logs::{self, head};
use crate::providers::{Given, GivenBody, relevant};
use crate::rate::Meter;
use crate::record::{Ended, Keep, Record, pass};
use crate::usage::Tokens;
use crate::{Answered, Body, Call, GatewayError, GatewaySettings, Gateways, MAX_STEPS, Options, Step, WORKERS_AI};

/// Gateways whose calls are counted at the same time.
const METERS: usize = 10_000;
/// The longest a caller is made to wait because a provider said so; past it the caller is told instead.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(20);
/// How a kept event stream is given again: in pieces, as it came.
const REPLAYED: usize = 4096;

impl Gateways {
    /// Answers a call with the first of its steps that succeeds.
    ///
    /// Dropping the future, or the body of an answer that streams, gives up the work behind it.
    ///
    /// # Errors
    /// When the call is wrong, the gateway's limit is reached, or every step has failed: then the last step's error.
    pub async fn run(&self, call: Call) -> Result<Answered, GatewayError> {
        check(&call)?;
        let settings = self.settings(&call.gateway).clone();
        self.admit(&call.gateway, &settings)?;
        let mut last = None;
        for (at, step) in call.steps.iter().enumerate() {
            match self.step(&call, &settings, at, step).await {
                Ok(answered) if answered.status < 400 || at + 1 == call.steps.len() => return Ok(answered),
                Ok(answered) => tracing::debug!(step = at, status = answered.status, "a step of a gateway failed"),
                Err(error) => {
                    tracing::debug!(step = at, %error, "a step of a gateway failed");
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| GatewayError::Bad("the call has no step".to_owned())))
    }

    fn admit(&self, gateway: &str, settings: &GatewaySettings) -> Result<(), GatewayError> {
        let Some(limit) = settings.rate_limit else { return Ok(()) };
        let now = Instant::now();
        let mut meters = self.0.meters.lock().unwrap_or_else(PoisonError::into_inner);
        if meters.len() > METERS {
            meters.clear();
        }
        let meter = meters.entry(gateway.to_owned()).or_insert_with(|| Meter::new(now));
        meter.admit(limit, now).map_err(|retry_after| GatewayError::RateLimited { retry_after })
    }

    async fn step(
        &self,
        call: &Call,
        settings: &Arc<GatewaySettings>,
        at: usize,
        step: &Step,
    ) -> Result<Answered, GatewayError> {
        let began = Instant::now();
        let mut options = call.options.clone();
        for (name, value) in &step.headers {
            options.set_header(&name.to_ascii_lowercase(), value)?;
        }
        if step.provider == WORKERS_AI {
            // What is in the cache is no way around a grant.
            (call.allows)(step.model_of_engine()?)?;
        }
        let ttl = options.cache_ttl.or(settings.cache_ttl).filter(|ttl| !ttl.is_zero() && !options.skip_cache);
        let key = match ttl {
            Some(_) => self.key(call, settings, step, &options).await,
            None => None,
        };
        let (ttl, key) = (ttl.filter(|_| key.is_some()), key.unwrap_or_default());
        let meaning = match (&settings.similar, ttl, &options.cache_key) {
            (Some(similar), Some(_), None) => {
                let base = digest([&self.scope(call, settings, step)[..]]);
                self.0.meaning(similar, &call.worker, step, &base).await
            }
            _ => None,
        };
        let found = match ttl {
            Some(_) => self.0.cache.find(key, meaning.clone()).await.unwrap_or_else(|error| {
                tracing::warn!(%error, "the cache cannot be read");
                None
            }),
            None => None,
        };
        let mut record = Record {
            inner: self.0.clone(),
            settings: settings.clone(),
            began,
            log: options
                .collect_log
                .unwrap_or(settings.collect_log)
                .then(|| self.row(call, settings, at, step, &options)),
            custom_cost: options.custom_cost.clone(),
            keep: ttl.map(|ttl| Keep { key, meaning, ttl }),
        };
        let answered = |log_id, status, content_type, cached, body| Answered {
            log_id,
            cached,
            step: at,
            status,
            content_type,
            body,
        };
        if let Some(kept) = found {
            let body = again(&kept);
            let (status, content_type) = (kept.status, kept.content_type.clone());
            let log_id = record.end(of_kept(kept)).await;
            return Ok(answered(log_id, status, content_type, true, body));
        }
        match self.tried(call, step, &options).await {
            Ok(Given { status, content_type, body: GivenBody::Whole(body) }) => {
                let log_id = record.end(of_whole(status, &content_type, &body)).await;
                Ok(answered(log_id, status, content_type, false, Body::Whole(body)))
            }
            Ok(Given { status, content_type, body: GivenBody::Stream(body) }) => {
                let log_id = record.begin(status, &content_type).await;
                let body = pass(record, status, content_type.clone(), body);
                Ok(answered(log_id, status, content_type, false, Body::Stream(body)))
            }
            Err(error) => {
                record.keep = None;
                let body = Bytes::from(error.document().to_string());
                let _ = record.end(of_whole(error.status(), "application/json", &body)).await;
                Err(error)
            }
        }
    }

    /// Asks a step's provider as often as the call says, each time for as long as it says.
    async fn tried(&self, call: &Call, step: &Step, options: &Options) -> Result<Given, GatewayError> {
        let attempts = options.attempts.unwrap_or(1).max(1);
        let mut made = 0;
        loop {
            made += 1;
            let asked = self.0.ask(call, step, options.timeout);
            let error = match options.timeout {
                None => asked.await,
                Some(limit) => tokio::time::timeout(limit, asked).await.unwrap_or_else(|_| Err(out_of_time(step))),
            };
            let error = match error {
                Ok(given) => return Ok(given),
                Err(error) => error,
            };
            let said = error.retry_after().unwrap_or_default();
            if made >= attempts || !error.may_be_retried() || said > LONGEST_RETRY_AFTER {
                return Err(error);
            }
            tokio::time::sleep(options.pause(made).max(said)).await;
        }
    }

    /// What an answer is found by, beside the question: whose it is and who answers.
    fn scope(&self, call: &Call, settings: &GatewaySettings, step: &Step) -> Key {
        let worker = if settings.cache_shared { "" } else { &call.worker };
        let headers: Vec<String> = relevant(&step.headers).map(|(name, value)| format!("{name}: {value}")).collect();
        let headers = headers.join("\n");
        digest([
            call.gateway.as_bytes(),
            worker.as_bytes(),
            step.provider.as_bytes(),
            step.endpoint.as_bytes(),
            headers.as_bytes(),
        ])
    }

    /// By what the answer is found; none when that cannot be told now.
    async fn key(&self, call: &Call, settings: &GatewaySettings, step: &Step, options: &Options) -> Option<Key> {
        let key = match &options.cache_key {
            Some(key) => {
                let worker = if settings.cache_shared { "" } else { &call.worker };
                // Who answers counts all the same: a key says what is asked, not in which shape.
                digest([
                    &b"key"[..],
                    call.gateway.as_bytes(),
                    worker.as_bytes(),
                    step.provider.as_bytes(),
                    step.endpoint.as_bytes(),
                    key.as_bytes(),
                ])
            }
            None => {
                let bytes = attachments::digest_of(&step.attachments).await?;
                digest([&b"body"[..], &self.scope(call, settings, step), canonical(&step.query).as_bytes(), &bytes])
            }
        };
        Some(key)
    }

    fn row(&self, call: &Call, settings: &GatewaySettings, at: usize, step: &Step, options: &Options) -> logs::Log {
        let body = attachments::described(&step.query, &step.attachments).to_string();
        let bytes: usize = step.attachments.iter().map(|attachment| attachment.data.len()).sum();
        let model = match step.provider.as_str() {
            WORKERS_AI => step.model_of_engine().unwrap_or_default().to_owned(),
            _ => step.query.get("model").and_then(Value::as_str).unwrap_or_default().to_owned(),
        };
        logs::Log {
            provider: shortened(&step.provider),
            model: shortened(&model),
            path: shortened(&step.endpoint),
            step: i64::try_from(at).unwrap_or(i64::MAX),
            request_size: i64::try_from(body.len() + bytes).unwrap_or(i64::MAX),
            request_head: settings.log_bodies.then(|| head(body.as_bytes(), &settings.redact)),
            event_id: options.event_id.clone(),
            metadata: options.metadata.clone(),
            ..logs::blank(log_id(), &call.gateway, &call.worker)
        }
    }
}

/// A text of a caller's, fit to be logged.
pub(crate) fn shortened(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// 26 letters and digits, as ids of Cloudflare's log are.
pub(crate) fn log_id() -> String {
    const LETTERS: &[u8] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let mut random = rand::rng();
    (0..26).map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())])).collect()
}

fn check(call: &Call) -> Result<(), GatewayError> {
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if call.gateway.is_empty() || call.gateway.len() > 64 || !call.gateway.bytes().all(sound) {
        return Err(GatewayError::Bad("a gateway's id has letters, digits, `-` and `_`, up to 64".to_owned()));
    }
    if call.steps.is_empty() || call.steps.len() > MAX_STEPS {
        return Err(GatewayError::Bad(format!("a call of a gateway has 1 to {MAX_STEPS} steps")));
    }
    Ok(())
}

fn out_of_time(step: &Step) -> GatewayError {
    if step.provider == WORKERS_AI {
        return host_inference::AiError::timeout().into();
    }
    let message = format!("the provider {} did not begin to answer in the time that the call gave it", step.provider);
    GatewayError::Provider { status: 504, message, retry_after: None }
}

/// A kept answer as the body that it was.
fn again(kept: &Kept) -> Body {
    if !kept.content_type.starts_with("text/event-stream") {
        return Body::Whole(kept.body.clone());
    }
    let mut body = kept.body.clone();
    let mut pieces = Vec::new();
    while !body.is_empty() {
        pieces.push(Ok(body.split_to(body.len().min(REPLAYED))));
    }
    Body::Stream(stream::iter(pieces).boxed())
}

fn of_kept(kept: Kept) -> Ended {
    Ended {
        status: kept.status,
        content_type: kept.content_type,
        success: true,
        cached: true,
        tokens: kept.tokens,
        size: kept.body.len(),
        body: kept.body,
    }
}

fn of_whole(status: u16, content_type: &str, body: &Bytes) -> Ended {
    let mut tokens = Tokens::default();
    if content_type.starts_with("application/json")
        && let Ok(answer) = serde_json::from_slice(body)
    {
        tokens.take(&answer);
    }
    let body = body.clone();
    let (content_type, size, success) = (content_type.to_owned(), body.len(), (200..300).contains(&status));
    Ended { status, content_type, success, cached: false, tokens, size, body }
}
