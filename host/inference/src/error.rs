//! Errors in the words of the service that programs were written for.

use std::time::Duration;

/// A failed call, as Workers AI reports it: an internal code, the HTTP status that goes with it and a description.
///
/// Its `Display` is `code: description`, which is what an upstream exception's message looks like.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
#[non_exhaustive]
pub struct AiError {
    /// The internal code, for example 5007.
    pub code: u32,
    /// The HTTP status, for example 400.
    pub status: u16,
    /// The description, without the code.
    pub message: String,
    /// After how long trying again may help.
    pub retry_after: Option<Duration>,
}

impl AiError {
    fn new(code: u32, status: u16, message: impl Into<String>) -> Self {
        Self { code, status, message: message.into(), retry_after: None }
    }

    /// 5007: the catalogue has no such model, or the model does another task.
    pub fn no_such_model(model: &str) -> Self {
        Self::new(5007, 400, format!("No such model {} or task", quoted(model)))
    }

    /// 5006: the inputs break the task's schema. `detail` names the property.
    pub fn bad_input(detail: impl std::fmt::Display) -> Self {
        Self::new(5006, 400, format!("Error: {detail}"))
    }

    /// 5021: prompt and requested output together do not fit the model's context.
    pub fn context_exceeded(tokens: usize, limit: usize) -> Self {
        Self::new(
            5021,
            413,
            format!(
                "The estimated number of input and maximum output tokens ({tokens}) exceeded this model context window limit ({limit})"
            ),
        )
    }

    /// 5004: a property that should hold base64 holds something else.
    pub fn bad_base64(kind: &str) -> Self {
        Self::new(5004, 400, format!("Invalid data type for base64 input: {kind}"))
    }

    /// 5005: the model cannot apply adapters.
    pub fn no_adapters(model: &str) -> Self {
        Self::new(5005, 405, format!("The model {} does not support LoRa inference", quoted(model)))
    }

    /// 5024: an answer that had to be JSON is not. `detail` says why.
    pub fn json_mode_failed(detail: impl std::fmt::Display) -> Self {
        Self::new(5024, 400, format!("JSON Mode couldn't be met: {detail}"))
    }

    /// 3003: the request lacks something.
    pub fn missing(what: &str) -> Self {
        Self::new(3003, 400, format!("Request is missing headers or body: {what}"))
    }

    /// 3006: the request is larger than the host takes.
    pub fn too_large() -> Self {
        Self::new(3006, 413, "Request is too large")
    }

    /// 3007: the time allowed for the request is over.
    pub fn timeout() -> Self {
        Self::new(3007, 408, "Request timeout")
    }

    /// 3008: the request was given up by its sender or by the host's shutdown.
    pub fn aborted() -> Self {
        Self::new(3008, 408, "Request was aborted")
    }

    /// 5018: the binding does not grant this model.
    pub fn not_allowed(detail: impl std::fmt::Display) -> Self {
        Self::new(5018, 403, format!("The account is not allowed to access this model: {detail}"))
    }

    /// 3040: the queue of waiting work is full.
    pub fn capacity_exceeded(retry_after: Duration) -> Self {
        Self {
            retry_after: Some(retry_after),
            ..Self::new(3040, 429, "Capacity temporarily exceeded, please try again.")
        }
    }

    /// 2003: the gateway takes no more calls for now.
    pub fn rate_limited(retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(2003, 429, "Rate limited") }
    }

    /// 3040: one request of a worker made more calls than it may.
    pub fn too_many_subrequests() -> Self {
        Self::new(3040, 429, "Too many subrequests by one request of the worker (limits.subrequests)")
    }

    /// 3046: the model is known but its weights are not on this machine, or cannot be used. `detail` says what to do.
    pub fn model_unavailable(detail: impl std::fmt::Display) -> Self {
        Self::new(3046, 503, format!("Model unavailable: {detail}"))
    }

    /// 3043: the host failed. `detail` is for the person who runs it and must hold no secret.
    pub fn internal(detail: impl std::fmt::Display) -> Self {
        Self::new(3043, 500, format!("Internal server error: {detail}"))
    }
}

/// A name from outside, cut to a printable length.
fn quoted(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(200).collect()
}
