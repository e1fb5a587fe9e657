//! Models that answer from a script: for tests of everything around a model, without weights and without waiting.
//!
//! A script is the `[ai.models.mock]` table of a binding file. Answers are deterministic; every count that a real model
//! would report is reported, and [`MockText::live`] tells how many generations have neither ended nor been dropped,
//! which is how a test sees that a cancelled request stopped its generation.
//!
//! Translation and summarization are those of a language model, which is asked with a prompt of which the last message is
//! the text: `{prompt}` stands for that.
//!
//! | key | of | meaning | default |
//! |---|---|---|---|
//! | `reply` | speech | what is said, half a second a word; `{prompt}` stands for the number of bytes | `"{prompt}"` |
//! | `reply` | text | the answer; `{prompt}` stands for the prompt or the last message | `"{prompt}"` |
//! | `tokens` | text | the answer's words are repeated or cut to this many | as the reply has |
//! | `delay_ms` | both | pause before each token, or before the vectors | 0 |
//! | `fail` | both | `{ code, message?, after? }`: fail with this error, `after` so many tokens | none |
//! | `delay_ms`, `fail` | speaking | as for text; each word is a tenth of a second of a tone | |
//! | `delay_ms`, `fail` | pictures | as above; the picture is stripes that prompt and seed determine | |
//! | `dimensions` | embeddings | length of a vector | 384 |
//! | `labels` | classification | the labels | `NEGATIVE`, `POSITIVE`; `MISC` for words |
//! | `labels` | pictures | what a picture shows, the likeliest first | `picture` |

mod encoders;
mod images;

mod speech_recognition;

mod text_to_image;

mod text_to_speech;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::backend::{
    Embeddings, FinishReason, GenerateEvent, GenerateRequest, GenerateStream, Pooling, Prompt, TextEmbeddings,
    TextGeneration, Usage,
};
use crate::{AiError, Tenant};
pub use speech_recognition::MockSpeech;

pub use encoders::{MockClassification, MockRerank};
pub use images::MockImages;

pub use text_to_image::MockPictures;
pub use text_to_speech::MockVoice;

/// A script that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("mock.{key}: {fault}")]
#[non_exhaustive]
pub struct ScriptError {
    /// The key.
    pub key: String,
    /// What is wrong with it.
    pub fault: String,
}

fn fault(key: &str, fault: impl Into<String>) -> ScriptError {
    ScriptError { key: key.into(), fault: fault.into() }
}

/// Keys a script may have.
const KEYS: [&str; 6] = ["reply", "tokens", "delay_ms", "fail", "dimensions", "labels"];
/// Bounds that keep a mistyped script from taking the machine.
const MAX_TOKENS: u64 = 1_000_000;
const MAX_DIMENSIONS: u64 = 65_536;
const MAX_LABELS: usize = 1000;
const MAX_DELAY: u64 = 3_600_000;

#[derive(Debug, Clone)]
struct Failure {
    error: AiError,
    after: usize,
}

#[derive(Debug, Clone)]
struct Script {
    reply: String,
    tokens: Option<usize>,
    delay: Duration,
    fail: Option<Failure>,
    dimensions: usize,
    /// None given is empty.
    labels: Vec<String>,
}

fn whole(map: &Map<String, Value>, key: &str, most: u64) -> Result<Option<u64>, ScriptError> {
    let Some(value) = map.get(key) else { return Ok(None) };
    match value.as_u64() {
        Some(number) if number <= most => Ok(Some(number)),
        _ => Err(fault(key, format!("must be a whole number from 0 to {most}"))),
    }
}

impl Script {
    fn read(script: &Value) -> Result<Self, ScriptError> {
        let empty = Map::new();
        let map = match script {
            Value::Null => &empty,
            Value::Object(map) => map,
            _ => return Err(fault("", "must be a table")),
        };
        if let Some(key) = map.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(fault(key, format!("is not a key of a mock; those are {}", KEYS.join(", "))));
        }
        let reply = match map.get("reply") {
            None => "{prompt}".to_owned(),
            Some(Value::String(text)) => text.clone(),
            Some(_) => return Err(fault("reply", "must be a string")),
        };
        let dimensions = whole(map, "dimensions", MAX_DIMENSIONS)?.unwrap_or(384) as usize;
        if dimensions == 0 {
            return Err(fault("dimensions", "must be at least 1"));
        }
        Ok(Self {
            reply,
            tokens: whole(map, "tokens", MAX_TOKENS)?.map(|n| n as usize),
            delay: Duration::from_millis(whole(map, "delay_ms", MAX_DELAY)?.unwrap_or(0)),
            fail: map.get("fail").map(failure).transpose()?,
            dimensions,
            labels: map.get("labels").map(labels).transpose()?.unwrap_or_default(),
        })
    }

    async fn pause(&self) {
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
    }

    /// For models whose answer is of one piece.
    async fn pause_or_fail(&self) -> Result<(), AiError> {
        self.pause().await;
        self.fail.as_ref().map_or(Ok(()), |fail| Err(fail.error.clone()))
    }

    fn fail_at(&self, token: usize) -> Option<AiError> {
        self.fail.as_ref().filter(|fail| fail.after == token).map(|fail| fail.error.clone())
    }
}

fn labels(script: &Value) -> Result<Vec<String>, ScriptError> {
    let texts = script.as_array().filter(|labels| (1..=MAX_LABELS).contains(&labels.len()));
    let labels = texts.and_then(|labels| labels.iter().map(|label| label.as_str().map(str::to_owned)).collect());
    labels.ok_or_else(|| fault("labels", format!("must be 1 to {MAX_LABELS} strings")))
}

fn failure(script: &Value) -> Result<Failure, ScriptError> {
    let Some(code) = script.get("code").and_then(Value::as_u64) else {
        return Err(fault("fail.code", "must be a number such as 3040"));
    };
    let message = match script.get("message") {
        None => "scripted failure".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(_) => return Err(fault("fail.message", "must be a string")),
    };
    let after = match script.get("after").map(Value::as_u64) {
        None => 0,
        Some(Some(after)) if after <= MAX_TOKENS => after as usize,
        Some(_) => return Err(fault("fail.after", format!("must be a whole number from 0 to {MAX_TOKENS}"))),
    };
    let error = match code {
        3006 => AiError::too_large(),
        3007 => AiError::timeout(),
        3008 => AiError::aborted(),
        3040 => AiError::capacity_exceeded(Duration::from_secs(1)),
        3043 => AiError::internal(message),
        3046 => AiError::model_unavailable(message),
        5006 => AiError::bad_input(message),
        5018 => AiError::not_allowed(message),
        5021 => AiError::context_exceeded(9000, 8192),
        _ => return Err(fault("fail.code", "is none of 3006, 3007, 3008, 3040, 3043, 3046, 5006, 5018, 5021")),
    };
    Ok(Failure { error, after })
}

/// Generates text from a script, one token a word.
#[derive(Debug, Clone)]
pub struct MockText {
    script: Arc<Script>,
    live: Arc<AtomicUsize>,
}

/// Counts one generation for as long as it exists.
struct Live(Arc<AtomicUsize>);

impl Live {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        let live = count.fetch_add(1, Ordering::SeqCst) + 1;
        tracing::debug!(target: "host_inference::mock", live, "generation started");
        Self(count.clone())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let live = self.0.fetch_sub(1, Ordering::SeqCst) - 1;
        tracing::debug!(target: "host_inference::mock", live, "generation ended");
    }
}

impl MockText {
    /// A model that follows `script`.
    ///
    /// # Errors
    /// When the script has unknown keys or values of the wrong kind.
    pub fn new(script: &Value) -> Result<Self, ScriptError> {
        Ok(Self { script: Arc::new(Script::read(script)?), live: Arc::default() })
    }

    /// Generations that have neither ended nor been dropped.
    pub fn live(&self) -> usize {
        self.live.load(Ordering::SeqCst)
    }

    fn words(&self, prompt: &str, max_tokens: usize) -> (VecDeque<String>, FinishReason) {
        let reply = self.script.reply.replace("{prompt}", prompt);
        let words = split_words(&reply);
        let wanted = self.script.tokens.unwrap_or(words.len());
        let finish = if wanted > max_tokens { FinishReason::Length } else { FinishReason::Stop };
        let words = words.iter().cycle().take(wanted.min(max_tokens)).map(|word| (*word).to_owned()).collect();
        (words, finish)
    }
}

/// The words of a text, each with the spaces in front of it, so that together they are the text.
fn split_words(text: &str) -> Vec<&str> {
    let (mut words, mut start, mut in_word) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        if c.is_whitespace() && in_word {
            words.push(&text[start..at]);
            start = at;
        }
        in_word = !c.is_whitespace();
    }
    if start < text.len() {
        words.push(&text[start..]);
    }
    words
}

impl TextGeneration for MockText {
    fn generate(&self, request: GenerateRequest) -> BoxFuture<'_, Result<GenerateStream, AiError>> {
        let (prompt, prompt_tokens) = match &request.prompt {
            Prompt::Raw(text) => (text.as_str(), split_words(text).len()),
            Prompt::Messages(messages) => (
                messages.last().map_or("", |message| message.content.as_str()),
                messages.iter().map(|message| split_words(&message.content).len()).sum(),
            ),
        };
        let (words, finish) = self.words(prompt, request.max_tokens);
        let usage = Usage { prompt_tokens, completion_tokens: words.len(), total_tokens: prompt_tokens + words.len() };
        let (script, live) = (self.script.clone(), Live::new(&self.live));
        async move {
            match script.fail_at(0) {
                Some(error) => Err(error),
                None => Ok(events(script, live, words, finish, usage)),
            }
        }
        .boxed()
    }
}

fn events(
    script: Arc<Script>,
    live: Live,
    words: VecDeque<String>,
    finish: FinishReason,
    usage: Usage,
) -> GenerateStream {
    stream::unfold(Some((script, live, words, 0usize)), move |state| async move {
        let (script, live, mut words, sent) = state?;
        if let Some(error) = script.fail_at(sent).filter(|_| sent > 0) {
            return Some((GenerateEvent::Failed(error), None));
        }
        match words.pop_front() {
            Some(word) => {
                script.pause().await;
                Some((GenerateEvent::Text(word), Some((script, live, words, sent + 1))))
            }
            None => Some((GenerateEvent::Done { finish, usage }, None)),
        }
    })
    .boxed()
}

/// Embeds texts as unit vectors made from a hash of the text: equal texts have equal vectors, others nearly orthogonal
/// ones.
#[derive(Debug, Clone)]
pub struct MockEmbeddings {
    script: Arc<Script>,
}

impl MockEmbeddings {
    /// A model that follows `script`.
    ///
    /// # Errors
    /// When the script has unknown keys or values of the wrong kind.
    pub fn new(script: &Value) -> Result<Self, ScriptError> {
        Ok(Self { script: Arc::new(Script::read(script)?) })
    }
}

fn unit_vector(text: &str, dimensions: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(dimensions);
    let mut block = 0u64;
    while values.len() < dimensions {
        let digest: [u8; 32] = Sha256::new().chain_update(block.to_le_bytes()).chain_update(text).finalize().into();
        let numbers = digest.as_chunks::<2>().0.iter().map(|bytes| f32::from(i16::from_le_bytes(*bytes)) + 0.5);
        values.extend(numbers.take(dimensions - values.len()));
        block += 1;
    }
    let length = values.iter().map(|v| v * v).sum::<f32>().sqrt();
    values.iter().map(|v| v / length).collect()
}

impl TextEmbeddings for MockEmbeddings {
    fn embed(
        &self,
        _tenant: Tenant,
        texts: Vec<String>,
        _pooling: Pooling,
    ) -> BoxFuture<'_, Result<Embeddings, AiError>> {
        async move {
            self.script.pause_or_fail().await?;
            let tokens = texts.iter().map(|text| split_words(text).len()).sum();
            let vectors = texts.iter().map(|text| unit_vector(text, self.script.dimensions)).collect();
            Ok(Embeddings { vectors, tokens })
        }
        .boxed()
    }

    fn dimensions(&self) -> usize {
        self.script.dimensions
    }

    fn default_pooling(&self) -> Pooling {
        Pooling::Mean
    }
}
