//! What a loaded model offers, one short trait per task.
//!
//! A backend computes; it never sees JSON, catalogues or queues of other models. Tasks translate between the JSON of
//! a request and these types, so that the candle models, the scripted `mock` and later a remote server answer alike.

mod classification;
mod images;
mod rerank;
mod speech_recognition;
mod summarization;
mod text_to_image;
mod text_to_speech;
mod translation;

use std::sync::Arc;
use std::time::Instant;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde_json::Value;

use crate::{AiError, Tenant};

pub use classification::*;
pub use images::*;
pub use rerank::*;
pub use speech_recognition::*;
pub use summarization::*;
pub use text_to_image::*;
pub use text_to_speech::*;
pub use translation::*;

/// A model that is ready to compute.
#[derive(Clone)]
#[non_exhaustive]
pub enum Model {
    /// Text generation.
    TextGeneration(Arc<dyn TextGeneration>),
    /// Text embeddings.
    TextEmbeddings(Arc<dyn TextEmbeddings>),
    /// Reranking.
    Rerank(Arc<dyn Rerank>),
    /// Classification of texts.
    TextClassification(Arc<dyn TextClassification>),
    /// Classification of the words of texts.
    TokenClassification(Arc<dyn TokenClassification>),
    /// Labels of a picture.
    ImageClassification(Arc<dyn ImageClassification>),
    /// Objects in a picture.
    ObjectDetection(Arc<dyn ObjectDetection>),
    /// A text about a picture.
    ImageToText(Arc<dyn ImageToText>),
    /// Pictures and texts in one space.
    ImageEmbeddings(Arc<dyn ImageEmbeddings>),
    /// Speech to text.
    SpeechRecognition(Arc<dyn SpeechRecognition>),
    /// Text to speech.
    TextToSpeech(Arc<dyn TextToSpeech>),
    /// Translation.
    Translation(Arc<dyn Translation>),
    /// Summarization.
    Summarization(Arc<dyn Summarization>),
    /// Pictures from texts.
    TextToImage(Arc<dyn TextToImage>),
}

/// Generates text.
pub trait TextGeneration: Send + Sync + 'static {
    /// Queues one generation. Errors known at once (too long a prompt, a full queue) come as `Err`, everything later
    /// as [`GenerateEvent::Failed`]. Must not block: it is called on an async worker.
    fn generate(&self, request: GenerateRequest) -> BoxFuture<'_, Result<GenerateStream, AiError>>;

    /// The names of the adapters that requests may ask for; none where the model cannot apply any.
    fn adapters(&self) -> Option<Vec<String>> {
        None
    }

    /// How the model writes calls of tools.
    fn call_style(&self) -> CallStyle {
        CallStyle::Hermes
    }
}

/// How a model writes calls of tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallStyle {
    /// `<tool_call>{"name": …, "arguments": …}</tool_call>`, any number of them: Hermes, Qwen, and models that know no
    /// calls and are told of this one.
    Hermes,
    /// `{"name": …, "parameters": …}` and nothing else, with or without `<|python_tag|>` in front: Llama 3.1 and later.
    Llama3,
    /// `[TOOL_CALLS] [{"name": …, "arguments": …}, …]`, after a text or without: Mistral, versions 1 to 3 of its format.
    Mistral,
    /// Not in its text: the backend takes tools as they are and gives calls as [`GenerateEvent::Calls`].
    Native,
}

/// Whether an answer has to call a tool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// Text or calls, as the model likes.
    #[default]
    Auto,
    /// At least one call.
    Required,
    /// One call of the only tool that there is.
    Named,
}

/// A call of a tool in an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    /// The tool's name.
    pub name: String,
    /// What it is called with: an object, if the model keeps to the tool's schema.
    pub arguments: Value,
}

/// A function that the model may ask its caller to call.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// The JSON schema of its arguments.
    pub parameters: Value,
}

/// The events of one generation: any number of `Text`, at most one `Calls`, then one `Done` or `Failed`. Dropping it cancels the generation.
pub type GenerateStream = BoxStream<'static, GenerateEvent>;

/// One generation.
#[derive(Debug, Clone)]
pub struct GenerateRequest {
    /// On whose behalf.
    pub tenant: Tenant,
    /// What to continue.
    pub prompt: Prompt,
    /// The adapter to apply, one of [`TextGeneration::adapters`].
    pub lora: Option<String>,
    /// What the model may ask to be called; the prompt tells it.
    pub tools: Vec<Tool>,
    /// Whether one of them has to be called. Models that write calls as text are held to it by `format`.
    pub tool_choice: ToolChoice,
    /// Whether the events are read as they come. What is only read whole may be made anew where its maker fails.
    pub streamed: bool,
    /// Whether the request names the temperature, which is a default otherwise.
    pub temperature_is_chosen: bool,
    /// How to pick tokens.
    pub sampling: Sampling,
    /// What the answer must look like, where anything is not good enough.
    pub format: Option<AnswerFormat>,
    /// Texts that end the generation; they are not part of the answer.
    pub stop: Vec<String>,
    /// Upper bound on generated tokens.
    pub max_tokens: usize,
    /// When the answer is of no use any more: it then fails with 3007, waiting or running.
    pub deadline: Option<Instant>,
}

impl GenerateRequest {
    /// A request that asks for nothing else: the answer is read whole and is whatever the model says, at the temperature that
    /// `sampling` has by default.
    pub fn new(tenant: Tenant, prompt: Prompt, sampling: Sampling, max_tokens: usize) -> GenerateRequest {
        GenerateRequest {
            tenant,
            prompt,
            lora: None,
            tools: Vec::new(),
            tool_choice: ToolChoice::Auto,
            streamed: false,
            temperature_is_chosen: false,
            sampling,
            format: None,
            stop: Vec::new(),
            max_tokens,
            deadline: None,
        }
    }
}

/// What an answer must look like, whatever the model would rather say. An answer that ends by itself follows it.
#[derive(Debug, Clone, PartialEq)]
pub enum AnswerFormat {
    /// JSON of this schema (JSON Schema 2020-12 as llguidance reads it).
    Json(Value),
    /// A text that this regular expression matches whole.
    Regex(String),
    /// A text of this grammar, in llguidance's variant of Lark.
    Lark(String),
}

/// What a generation continues.
#[derive(Debug, Clone)]
pub enum Prompt {
    /// Text taken as it is, with no chat template; special tokens in it are recognized.
    Raw(String),
    /// A conversation, rendered with the model's own chat template.
    Messages(Vec<Message>),
}

/// One turn of a conversation.
#[derive(Debug, Clone)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, …
    pub role: String,
    /// The text; null and content arrays have been flattened.
    pub content: String,
    /// Whatever other properties the message had (`name`, `tool_calls`, …), for the template.
    pub extra: serde_json::Map<String, Value>,
}

/// How to pick the next token.
#[derive(Debug, Clone)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f32,
    /// Nucleus sampling: the smallest set of tokens whose probabilities sum to this. 1 is off.
    pub top_p: f32,
    /// Only the k most likely tokens. 0 is off.
    pub top_k: usize,
    /// The same seed, prompt and settings give the same tokens, whatever else runs beside.
    pub seed: Option<u64>,
    /// Divides (positive) or multiplies (negative) the logits of tokens seen in prompt and answer. 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted from a token's logit once per occurrence in the answer. 0 is off.
    pub frequency_penalty: f32,
    /// Subtracted from a token's logit once it occurs in the answer. 0 is off.
    pub presence_penalty: f32,
}

/// What a generation reports.
#[derive(Debug, Clone, PartialEq)]
pub enum GenerateEvent {
    /// More of the answer: valid UTF-8, never part of a stop text.
    Text(String),
    /// Calls of tools, all of the answer's at once: [`CallStyle::Native`] alone.
    Calls(Vec<ToolCall>),
    /// The end.
    Done {
        /// Why it ended.
        finish: FinishReason,
        /// What it cost.
        usage: Usage,
    },
    /// The end, by a fault.
    Failed(AiError),
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended its turn, or a stop text came.
    Stop,
    /// `max_tokens` or the context's end was reached.
    Length,
}

/// Token counts of one generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Usage {
    /// Tokens of the rendered prompt.
    pub prompt_tokens: usize,
    /// Tokens generated, the end-of-turn token not counted.
    pub completion_tokens: usize,
    /// Their sum.
    pub total_tokens: usize,
}

/// Embeds texts.
pub trait TextEmbeddings: Send + Sync + 'static {
    /// One vector for each text, in order, each of [`Self::dimensions`] values and length 1.
    fn embed(&self, tenant: Tenant, texts: Vec<String>, pooling: Pooling)
    -> BoxFuture<'_, Result<Embeddings, AiError>>;

    /// The length of a vector.
    fn dimensions(&self) -> usize;

    /// What the model was trained for, used when a request names no pooling.
    fn default_pooling(&self) -> Pooling;
}

pub use host_terms::Pooling;

/// The vectors of one call.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    /// One vector per text.
    pub vectors: Vec<Vec<f32>>,
    /// Tokens read, special tokens included.
    pub tokens: usize,
}
