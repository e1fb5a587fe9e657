//! Text embeddings computed on this machine's processor.
//!
//! An [`Encoder`] owns its threads: requests wait in a queue with a lane per tenant, and each thread takes the next few
//! texts of whoever's turn it is, so a tenant who sends three thousand texts delays another's single one by one turn,
//! not by three thousand texts. Texts of different requests share a turn, which is where batching comes from. A turn
//! is bounded by the bytes of its texts, hence in tokens and memory.
//!
//! The forward pass is our own: rows of all texts packed without padding, weights packed once, no allocation per
//! operation. `candle-transformers`' `BertModel` is the oracle it is tested against.

mod bert;
mod config;
mod queue;
mod tokens;

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::backend::{Embeddings, Pooling, TextEmbeddings};
use crate::store::read_config;
use crate::{AiError, Tenant};
use bert::{Bert, Scratch};
use config::Config;
use queue::{Piece, Queue};
use tokens::Texts;

/// The most tokens of a text that are read when nothing else is configured, as the encoders were trained.
const CONTEXT: usize = 512;
/// When to ask again after a full queue.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How an encoder runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Threads that compute.
    pub threads: NonZeroUsize,
    /// Requests that may wait.
    pub queue: NonZeroUsize,
    /// The most tokens of a text that are read; 512 when absent, and never more than the model has positions.
    pub context: Option<NonZeroUsize>,
    /// What is used when a request does not say; mean when absent.
    pub pooling: Option<Pooling>,
}

/// A BERT encoder with its threads. Dropping it ends them once their current turn is done.
pub struct Encoder {
    queue: Arc<Queue>,
    dimensions: usize,
    pooling: Pooling,
}

struct Model {
    bert: Bert,
    texts: Texts,
}

impl Encoder {
    /// Reads `config.json`, `tokenizer.json` and `model.safetensors` of `folder` and starts the threads. Blocks.
    ///
    /// # Errors
    /// What is wrong with which file, in words.
    pub fn load(folder: &Path, settings: Settings) -> Result<Encoder, String> {
        let config = read_config(folder).map_err(|error| error.to_string())?;
        let config =
            Config::parse(config).map_err(|error| format!("{}: {error}", folder.join("config.json").display()))?;
        let context = settings.context.map_or(CONTEXT, NonZeroUsize::get).min(config.positions);
        let texts = Texts::load(folder, context, config.vocabulary)?;
        let bert = Bert::load(folder, config)?;
        let dimensions = bert.config.hidden;
        let queue = Arc::new(Queue::new(settings.queue, settings.threads));
        let encoder = Encoder { queue, dimensions, pooling: settings.pooling.unwrap_or(Pooling::Mean) };
        let model = Arc::new(Model { bert, texts });
        for index in 0..settings.threads.get() {
            let (queue, model) = (Arc::clone(&encoder.queue), Arc::clone(&model));
            std::thread::Builder::new()
                .name(format!("embeddings-{index}"))
                .spawn(move || work(&queue, &model))
                .map_err(|error| format!("no thread for the encoder: {error}"))?;
        }
        Ok(encoder)
    }
}

impl TextEmbeddings for Encoder {
    fn embed(
        &self,
        tenant: Tenant,
        texts: Vec<String>,
        pooling: Pooling,
    ) -> BoxFuture<'_, Result<Embeddings, AiError>> {
        let queued = self.queue.push(tenant, texts, pooling);
        async move {
            let answer = queued.ok_or_else(|| AiError::capacity_exceeded(RETRY_AFTER))?;
            answer.await.unwrap_or_else(|_| Err(AiError::aborted()))
        }
        .boxed()
    }

    fn dimensions(&self) -> usize {
        self.dimensions
    }

    fn default_pooling(&self) -> Pooling {
        self.pooling
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// The life of one thread.
fn work(queue: &Queue, model: &Model) {
    let mut scratch = Scratch::default();
    while let Some(pieces) = queue.take() {
        let computed = catch_unwind(AssertUnwindSafe(|| compute(model, &pieces, &mut scratch)));
        match computed {
            Ok(results) => pieces.into_iter().zip(results).for_each(|(piece, result)| piece.finish(result)),
            Err(_) => {
                tracing::error!("an encoder's turn panicked");
                scratch = Scratch::default();
                for piece in pieces {
                    piece.finish(Err(AiError::internal("the encoder failed unexpectedly")));
                }
            }
        }
    }
}

/// One turn: the vectors and token count of each piece.
fn compute(model: &Model, pieces: &[Piece], scratch: &mut Scratch) -> Vec<Result<Embeddings, AiError>> {
    let mut tokens: Vec<Result<Vec<Vec<u32>>, AiError>> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let encoded: Result<Vec<_>, String> = piece.texts().iter().map(|text| model.texts.encode(text)).collect();
        let unreadable = |error| AiError::bad_input(format_args!("'/text' cannot be read as tokens: {error}"));
        tokens.push(encoded.map_err(unreadable));
    }
    let mut batch: Vec<(&[u32], Pooling)> = Vec::new();
    for (piece, tokens) in pieces.iter().zip(&tokens) {
        batch.extend(tokens.iter().flatten().map(|tokens| (tokens.as_slice(), piece.pooling())));
    }
    let mut vectors = model.bert.encode(&batch, scratch).into_iter();
    let collect = |tokens: Result<Vec<Vec<u32>>, AiError>| {
        let tokens = tokens?;
        let vectors: Vec<Vec<f32>> = vectors.by_ref().take(tokens.len()).collect();
        if vectors.iter().flatten().any(|value| !value.is_finite()) {
            return Err(AiError::model_unavailable("its weights give values that are no numbers; verify the model"));
        }
        Ok(Embeddings { vectors, tokens: tokens.iter().map(Vec::len).sum() })
    };
    tokens.into_iter().map(collect).collect()
}
