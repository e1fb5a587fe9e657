//! What a call says of how the gateway treats it: the option `gateway` of `env.AI.run`, or headers `cf-aig-…`.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::GatewayError;

/// Bounds of what a call may ask for.
const MAX_TTL: u64 = 31 * 24 * 3600;
const MAX_KEY: usize = 1024;
const MAX_METADATA: usize = 5;
const MAX_METADATA_TEXT: usize = 1024;
const MAX_ATTEMPTS: u64 = 5;
const MAX_DELAY_MS: u64 = 60_000;
const MAX_TIMEOUT_MS: u64 = 3_600_000;

/// How the gateway treats a call.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options {
    /// The key of the answer in the cache, instead of what is asked.
    pub cache_key: Option<String>,
    /// How long the answer is kept.
    pub cache_ttl: Option<Duration>,
    /// Whether the cache is neither read nor written.
    pub skip_cache: bool,
    /// What is logged with the call: at most 5 entries of text, numbers and flags.
    pub metadata: Map<String, Value>,
    /// Whether the call is logged.
    pub collect_log: Option<bool>,
    /// The caller's own id of the event.
    pub event_id: Option<String>,
    /// How long a step may take to begin to answer.
    pub timeout: Option<Duration>,
    /// How often a step is tried.
    pub attempts: Option<u32>,
    /// The pause between attempts.
    pub retry_delay: Option<Duration>,
    /// How the pause grows.
    pub backoff: Backoff,
    /// What the call costs, by the caller's own account: `per_token_in` and `per_token_out`, or `total_cost`.
    pub custom_cost: Option<Value>,
}

/// How pauses between attempts grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Backoff {
    /// They do not.
    Constant,
    /// By their length with each attempt.
    Linear,
    /// Twofold with each attempt.
    #[default]
    Exponential,
}

fn bad(name: &str, fault: &str) -> GatewayError {
    GatewayError::Bad(format!("the option '{name}' of the gateway {fault}"))
}

impl Options {
    /// Reads the option `gateway` of a call.
    ///
    /// # Errors
    /// When an option has another type or is out of its bounds; the text names it.
    pub fn of_json(given: &Map<String, Value>) -> Result<Self, GatewayError> {
        let mut options = Self::default();
        for (name, value) in given.iter().filter(|(_, value)| !value.is_null()) {
            if name == "retries" {
                for (name, value) in value.as_object().ok_or_else(|| bad("retries", "must be an object"))? {
                    options.set(name, value)?;
                }
            } else {
                options.set(name, value)?;
            }
        }
        Ok(options)
    }

    /// Reads a header `cf-aig-…`; others are left alone.
    ///
    /// # Errors
    /// As [`Options::of_json`].
    pub fn set_header(&mut self, name: &str, value: &Value) -> Result<(), GatewayError> {
        let name = match name {
            "cf-aig-cache-key" => "cacheKey",
            "cf-aig-cache-ttl" => "cacheTtl",
            "cf-aig-skip-cache" => "skipCache",
            "cf-aig-metadata" => "metadata",
            "cf-aig-collect-log" => "collectLog",
            "cf-aig-event-id" => "eventId",
            "cf-aig-request-timeout" => "requestTimeoutMs",
            "cf-aig-max-attempts" => "maxAttempts",
            "cf-aig-retry-delay" => "retryDelayMs",
            "cf-aig-backoff" => "backoff",
            "cf-aig-custom-cost" => "customCost",
            _ => return Ok(()),
        };
        // A header is a text, whatever it says.
        let value = match value {
            Value::String(text) if !matches!(name, "cacheKey" | "eventId" | "backoff") => {
                serde_json::from_str(text).unwrap_or_else(|_| value.clone())
            }
            Value::Number(number) if matches!(name, "cacheKey" | "eventId") => number.to_string().into(),
            value => value.clone(),
        };
        self.set(name, &value)
    }

    fn set(&mut self, name: &str, value: &Value) -> Result<(), GatewayError> {
        let whole = |most: u64| match value.as_u64() {
            Some(number) if number <= most => Ok(number),
            _ => Err(bad(name, &format!("must be a whole number from 0 to {most}"))),
        };
        let flag = || value.as_bool().ok_or_else(|| bad(name, "must be true or false"));
        let text = || match value.as_str() {
            Some(text) if (1..=MAX_KEY).contains(&text.len()) => Ok(text.to_owned()),
            _ => Err(bad(name, &format!("must be a text of 1 to {MAX_KEY} bytes"))),
        };
        match name {
            "cacheKey" => self.cache_key = Some(text()?),
            "eventId" => self.event_id = Some(text()?),
            "cacheTtl" => self.cache_ttl = Some(Duration::from_secs(whole(MAX_TTL)?)),
            "skipCache" => self.skip_cache = flag()?,
            "collectLog" => self.collect_log = Some(flag()?),
            "metadata" => self.metadata = metadata(value)?,
            "requestTimeoutMs" => match whole(MAX_TIMEOUT_MS)? {
                0 => return Err(bad(name, "must be above 0")),
                timeout => self.timeout = Some(Duration::from_millis(timeout)),
            },
            "maxAttempts" => match u32::try_from(whole(MAX_ATTEMPTS)?) {
                Ok(attempts) if attempts > 0 => self.attempts = Some(attempts),
                _ => return Err(bad(name, "must be above 0")),
            },
            "retryDelayMs" => self.retry_delay = Some(Duration::from_millis(whole(MAX_DELAY_MS)?)),
            "backoff" => {
                self.backoff = match value.as_str() {
                    Some("constant") => Backoff::Constant,
                    Some("linear") => Backoff::Linear,
                    Some("exponential") => Backoff::Exponential,
                    _ => return Err(bad(name, "must be 'constant', 'linear' or 'exponential'")),
                }
            }
            "customCost" => self.custom_cost = Some(value.clone()).filter(Value::is_object),
            // What upstream may add is no fault of the program.
            _ => {}
        }
        Ok(())
    }

    /// The pause before another attempt, of which so many were made.
    pub(crate) fn pause(&self, made: u32) -> Duration {
        let delay = self.retry_delay.unwrap_or(Duration::from_millis(500));
        let longest = Duration::from_millis(MAX_DELAY_MS);
        match self.backoff {
            Backoff::Constant => delay,
            Backoff::Linear => delay.saturating_mul(made).min(longest),
            Backoff::Exponential => delay.saturating_mul(1 << (made.saturating_sub(1)).min(16)).min(longest),
        }
    }
}

/// Metadata of a call or of an entry in the log.
pub(crate) fn metadata(value: &Value) -> Result<Map<String, Value>, GatewayError> {
    let entries = value.as_object().ok_or_else(|| bad("metadata", "must be an object"))?;
    if entries.len() > MAX_METADATA {
        return Err(bad("metadata", &format!("must have at most {MAX_METADATA} entries")));
    }
    for (name, value) in entries {
        let fits = match value {
            Value::String(text) => text.len() <= MAX_METADATA_TEXT,
            Value::Number(_) | Value::Bool(_) | Value::Null => true,
            Value::Array(_) | Value::Object(_) => false,
        };
        if !fits || name.len() > MAX_METADATA_TEXT {
            return Err(bad("metadata", "must hold short texts, numbers, true, false or null"));
        }
    }
    Ok(entries.clone())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Result<Options, GatewayError> {
        Options::of_json(value.as_object().unwrap())
    }

    #[test]
    fn options_and_headers_say_the_same() {
        let options =
            read(json!({ "id": "g", "cacheTtl": 60, "skipCache": true, "metadata": { "user": 7 }, "collectLog": null,
            "requestTimeoutMs": 900, "retries": { "maxAttempts": 3, "retryDelayMs": 10, "backoff": "linear" } }))
            .unwrap();
        let mut headers = Options::default();
        for (name, value) in [
            ("cf-aig-cache-ttl", json!("60")),
            ("cf-aig-skip-cache", json!("true")),
            ("cf-aig-metadata", json!("{\"user\":7}")),
            ("cf-aig-request-timeout", json!(900)),
            ("cf-aig-max-attempts", json!("3")),
            ("cf-aig-retry-delay", json!("10")),
            ("cf-aig-backoff", json!("linear")),
            ("x-other", json!("1")),
        ] {
            headers.set_header(name, &value).unwrap();
        }
        assert_eq!(options, headers);
        assert_eq!(options.pause(3), Duration::from_millis(30));
    }

    #[test]
    fn what_breaks_a_bound_is_named() {
        let six: Map<String, Value> = (0..6).map(|n| (n.to_string(), n.into())).collect();
        for (options, part) in [
            (json!({ "cacheTtl": -1 }), "'cacheTtl'"),
            (json!({ "cacheKey": "" }), "'cacheKey'"),
            (json!({ "metadata": six }), "at most 5"),
            (json!({ "metadata": { "a": [] } }), "'metadata'"),
            (json!({ "retries": { "maxAttempts": 0 } }), "'maxAttempts'"),
            (json!({ "retries": { "backoff": "wild" } }), "'backoff'"),
            (json!({ "requestTimeoutMs": 0 }), "'requestTimeoutMs'"),
        ] {
            let error = read(options.clone()).unwrap_err().to_string();
            assert!(error.contains(part), "{options}: {error}");
        }
    }
}
