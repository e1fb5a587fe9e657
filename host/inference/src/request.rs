//! The one call of the engine, untyped: what `env.AI.run` takes and gives.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use serde_json::{Map, Value};

use crate::AiError;

/// On whose behalf work is done: a worker's name. Queues are fair between tenants.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tenant(pub Arc<str>);

impl From<&str> for Tenant {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

/// Bytes that stand for one property of the inputs.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// The property's name at the top level of the inputs.
    pub property: String,
    /// The media type, where the caller knows it.
    pub content_type: Option<String>,
    /// The bytes themselves.
    pub data: Bytes,
}

/// `run(model, inputs, options)`.
#[derive(Debug, Clone)]
pub struct RunRequest {
    /// The worker that asks.
    pub tenant: Tenant,
    /// The model's name as the program wrote it; aliases are resolved by the engine.
    pub model: String,
    /// The inputs object.
    pub inputs: Map<String, Value>,
    /// Binary properties.
    pub attachments: Vec<Attachment>,
    /// The options object; unknown keys are ignored, as upstream.
    pub options: Map<String, Value>,
}

/// A body that is made while it is read. Dropping it cancels the work behind it.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, AiError>> + Send>>;

/// What a model gave.
pub enum RunOutput {
    /// A JSON document.
    Json(Value),
    /// Bytes, read as they are made.
    Stream {
        /// The media type: `text/event-stream`, `image/png`, …
        content_type: String,
        /// The bytes. An error ends the stream; event streams report it in band first.
        body: ByteStream,
    },
}

impl std::fmt::Debug for RunOutput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Json(value) => f.debug_tuple("Json").field(value).finish(),
            Self::Stream { content_type, .. } => {
                f.debug_struct("Stream").field("content_type", content_type).finish_non_exhaustive()
            }
        }
    }
}

/// A successful call.
#[derive(Debug)]
pub struct RunResponse {
    /// A random id, also in the log.
    pub request_id: String,
    /// What the model gave.
    pub output: RunOutput,
}
