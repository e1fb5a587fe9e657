//! Models on other servers: anything that speaks OpenAI's interface (vLLM, TEI, llama.cpp's server, hosted services)
//! answers as if it were a model of this engine.
//!
//! What goes over the wire is the chat completions, completions and embeddings of OpenAI's interface; what a request asks
//! for that it has no form for is refused by name. Answers that stream are read event by event. Which server is asked, how
//! often and for how long is [`host_upstream`]'s concern; a call is tried again only while nothing of its answer has been
//! used. Keys are the operator's and go nowhere but to the servers.

mod chat;
mod embeddings;
mod messages;
mod places;
mod reading;
mod stream;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use host_upstream::{Address, Key, Patience, Retries, Settings, UpstreamError, Upstreams};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};

use crate::AiError;
use crate::backend::{Model, Pooling};
use crate::catalogue::Task;
use places::Places;

/// Where a model on other servers is, and how it is asked.
#[derive(Debug, Clone)]
pub struct RemoteModel {
    /// The servers, each with the path that `chat/completions` is below, as in `http://127.0.0.1:8000/v1`.
    pub addresses: Vec<Address>,
    /// The name under which the servers know the model.
    pub model: String,
    /// What the servers are shown.
    pub key: Option<Key>,
    /// How long an answer, and each piece of it, is waited for.
    pub timeout: Duration,
    /// How often a call is tried, at least once.
    pub attempts: u32,
    /// Calls under way at the same time; more wait.
    pub concurrency: NonZeroUsize,
    /// The length of an encoder's vectors, where it is known before the first answer.
    pub dimensions: Option<usize>,
    /// Texts in one request for vectors; more are sent in several.
    pub batch: NonZeroUsize,
    /// How a schema for an answer is written.
    pub schemas: Schemas,
    /// The path of a health check.
    pub health: String,
}

/// How a server wants the schema that an answer must follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Schemas {
    /// `{type: "json_schema", json_schema: {name, schema}}`, as OpenAI has it.
    #[default]
    JsonSchema,
    /// `{type: "json_object", schema}`, as llama-cpp-python has it.
    JsonObject,
}

/// A model on other servers that is ready to be asked.
#[derive(Clone)]
pub(crate) struct Remote {
    task: Task,
    shared: Arc<Shared>,
}

struct Shared {
    upstreams: Upstreams,
    context: Option<NonZeroUsize>,
    model: String,
    places: Places,
    schemas: Schemas,
    dimensions: Option<usize>,
    batch: NonZeroUsize,
    pooling: Option<Pooling>,
}

impl Remote {
    /// Prepares what a model is asked with. Uses no network.
    pub(crate) fn new(
        settings: RemoteModel,
        task: Option<Task>,
        context: Option<NonZeroUsize>,
        pooling: Option<Pooling>,
        queue: NonZeroUsize,
    ) -> Result<Self, String> {
        let task = task.unwrap_or(Task::TextGeneration);
        if !matches!(task, Task::TextGeneration | Task::TextEmbeddings | Task::Translation | Task::Summarization) {
            return Err(format!(
                "no interface of OpenAI's does {task} here; the tasks of models on other servers are text-generation, \
                 text-embeddings, translation and summarization"
            ));
        }
        let upstreams = Upstreams::new(Settings {
            addresses: settings.addresses,
            key: settings.key,
            patience: Patience { answer: settings.timeout },
            retries: Retries { attempts: settings.attempts.max(1) },
            health: settings.health,
        });
        let shared = Shared {
            upstreams: upstreams.map_err(|error| error.to_string())?,
            context,
            model: settings.model,
            places: Places::new(settings.concurrency, queue),
            schemas: settings.schemas,
            dimensions: settings.dimensions,
            batch: settings.batch,
            pooling,
        };
        Ok(Self { task, shared: Arc::new(shared) })
    }

    pub(crate) fn task(&self) -> Task {
        self.task
    }

    pub(crate) fn dimensions(&self) -> Option<usize> {
        self.shared.dimensions
    }

    /// Tokens of context, where the settings say.
    pub(crate) fn context(&self) -> Option<usize> {
        self.shared.context.map(NonZeroUsize::get)
    }

    /// The servers' addresses.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.shared.upstreams.addresses()
    }

    /// The model as a backend.
    pub(crate) fn model(&self) -> Model {
        match self.task {
            Task::TextEmbeddings => Model::TextEmbeddings(Arc::new(embeddings::Encoder::new(self.shared.clone()))),
            _ => Model::TextGeneration(Arc::new(chat::Chat::new(self.shared.clone()))),
        }
    }
}

/// A request with a JSON body.
fn post(path: &str, body: &serde_json::Value, streamed: bool) -> host_upstream::Ask {
    let accept = if streamed { "text/event-stream" } else { "application/json" };
    let headers = [(CONTENT_TYPE, "application/json"), (ACCEPT, accept)];
    host_upstream::Ask {
        method: Method::POST,
        path: path.to_owned(),
        headers: headers
            .into_iter()
            .map(|(name, value)| (name, HeaderValue::from_static(value)))
            .collect::<HeaderMap>(),
        body: body.to_string().into(),
    }
}

/// What an error of a server is to whoever called the model. Addresses are the operator's and stay in the log.
fn told(model: &str, error: &UpstreamError) -> AiError {
    tracing::warn!(model, %error, "a model on another server failed");
    match error {
        UpstreamError::Unreachable { .. } => {
            AiError::model_unavailable(format_args!("the server of {model} cannot be reached"))
        }
        UpstreamError::Timeout { .. } => AiError::timeout(),
        UpstreamError::AllDown { retry_after, .. } => {
            AiError::capacity_exceeded((*retry_after).max(Duration::from_secs(1)))
        }
        UpstreamError::Status { status, message, retry_after, .. } => match status {
            429 | 503 | 529 => AiError::capacity_exceeded(retry_after.unwrap_or(Duration::from_secs(1))),
            401 | 403 => AiError::model_unavailable(format_args!("the server of {model} refuses the host's key")),
            404 => AiError::model_unavailable(format_args!("the server of {model} has no such model or interface")),
            408 | 504 => AiError::timeout(),
            413 => AiError::too_large(),
            400..500 => AiError::bad_input(format_args!("the server of {model} refuses the request: {message}")),
            _ => AiError::internal(format_args!("the server of {model} failed with status {status}")),
        },
        UpstreamError::Request(_) => AiError::internal("the request cannot be sent to the model's server"),
        _ => AiError::internal(format_args!("the server of {model} sent an answer that cannot be used")),
    }
}
