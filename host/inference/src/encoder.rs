//! Everything that is computed by an encoder of text on this machine's processor: vectors of texts, scores of pairs,
//! labels of texts and of the words in them.
//!
//! An encoder owns its threads: requests wait in a queue with a lane per tenant, and each thread takes the next few
//! texts of whoever's turn it is, so a tenant who sends three thousand texts delays another's single one by one turn,
//! not by three thousand texts. Texts of different requests share a turn, which is where batching comes from. A turn
//! is bounded by the bytes of its texts, hence in tokens and memory.
//!
//! An architecture is data ([`description`]): one forward pass ([`network`]) of our own runs them all, with the rows of
//! all texts packed without padding, weights packed once and no allocation per operation.

mod attention;
mod config;
mod description;
mod entities;
mod families;
mod head;
mod labels;
mod models;
mod network;
mod parts;
mod pooling;
mod queue;
mod tokens;

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;

use crate::backend::Pooling;
use crate::catalogue::Task;
use crate::room::{Room, floats};
use crate::store::read_config;
use crate::tensors::Tensors;
use crate::{AiError, Tenant};
use head::{Head, Scored};
use labels::Labels;
use network::{Network, Scratch};
use queue::{Input, Output, Outputs, Piece, Queue, Turn, Wanted};
use tokens::{Place, Texts, Tokens};

pub(crate) use families::{MODEL_TYPES, task};
pub use models::{Encoder, Reranker, TextClassifier, TokenClassifier};
pub(crate) use pooling::of_checkpoint;

/// The most tokens of a text that are read when nothing else is configured. Most encoders have positions for less.
const CONTEXT: usize = 8192;
/// When to ask again after a full queue.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How an encoder runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Threads that compute.
    pub threads: NonZeroUsize,
    /// Requests that may wait.
    pub queue: NonZeroUsize,
    /// The most tokens of a text that are read; 8192 when absent, and never more than the model has positions.
    pub context: Option<NonZeroUsize>,
    /// What is used when a request does not say; what the checkpoint asks for when absent, or else the mean.
    pub pooling: Option<Pooling>,
}

/// Reads the model in `folder`, whose `config.json` is `config`, once and lets it go. The error says what is missing.
pub(crate) fn check(folder: &Path, config: &Value) -> Result<(), String> {
    let one = NonZeroUsize::MIN;
    let settings = Settings { threads: one, queue: one, context: None, pooling: None };
    let scored = match families::task(config) {
        Task::Rerank | Task::TextClassification => Some(Scored::Text),
        Task::TokenClassification => Some(Scored::Tokens),
        _ => None,
    };
    Model::load(folder, &settings, scored).map(|_| ())
}

/// A model with its threads. Dropping it ends them once their current turn is done.
struct Pool {
    queue: Arc<Queue>,
    model: Arc<Model>,
}

struct Model {
    network: Network,
    texts: Texts,
    head: Option<Head>,
    labels: Labels,
}

impl Pool {
    /// Reads `config.json`, `tokenizer.json` and `model.safetensors` of `folder` and starts the threads. Blocks.
    fn load(folder: &Path, settings: &Settings, scored: Option<Scored>, room: Room) -> Result<Pool, String> {
        let model = Arc::new(Model::load(folder, settings, scored)?);
        let turn = Turn::within(model.network.fitting(room.most()));
        let pool = Pool { queue: Arc::new(Queue::new(settings.queue, settings.threads, turn)), model };
        for index in 0..settings.threads.get() {
            let (queue, model, room) = (Arc::clone(&pool.queue), Arc::clone(&pool.model), room.clone());
            std::thread::Builder::new()
                .name(format!("encoder-{index}"))
                .spawn(move || work(&queue, &model, &room))
                .map_err(|error| format!("no thread for the encoder: {error}"))?;
        }
        Ok(pool)
    }

    /// One output for each input, in order.
    fn run(&self, tenant: Tenant, inputs: Vec<Input>, wanted: Wanted) -> BoxFuture<'static, Result<Outputs, AiError>> {
        let queued = self.queue.push(tenant, inputs, wanted);
        async move {
            let answer = queued.ok_or_else(|| AiError::capacity_exceeded(RETRY_AFTER))?;
            answer.await.unwrap_or_else(|_| Err(AiError::aborted()))
        }
        .boxed()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl Model {
    fn load(folder: &Path, settings: &Settings, scored: Option<Scored>) -> Result<Model, String> {
        let config = read_config(folder).map_err(|error| error.to_string())?;
        let in_config = |error: String| format!("{}: {error}", folder.join("config.json").display());
        let description = families::describe(&config).map_err(in_config)?;
        let labels = Labels::parse(&config).map_err(in_config)?;
        let limit = settings.context.map_or(CONTEXT, NonZeroUsize::get).min(description.context);
        let texts = Texts::load(folder, limit, description.vocabulary, description.types)?;
        let tensors = Tensors::open(folder)?;
        // Checkpoints with a task's head on top keep the encoder under a name of its own.
        let holds = |prefix: &&&str| tensors.shape(&format!("{prefix}{}", description.names.words)).is_some();
        let prefix = description.names.prefixes.iter().find(holds).copied().unwrap_or_default();
        let mut tensors = tensors.below(prefix);
        let network = Network::load(&mut tensors, description, limit)?;
        let count = labels.names.len();
        let head = scored.map(|scored| Head::load(tensors, prefix, &network.description, scored, count)).transpose()?;
        Ok(Model { network, texts, head, labels })
    }

    fn tokens(&self, input: &Input, wanted: Wanted) -> Result<(Tokens, Vec<Option<Place>>), AiError> {
        let tokens = match (input, wanted) {
            (Input::Text(text), Wanted::TokenScores) => self.texts.encode_with_places(text),
            _ => self.texts.encode(input).map(|tokens| (tokens, Vec::new())),
        };
        tokens.map_err(|error| AiError::bad_input(format_args!("the text cannot be read as tokens: {error}")))
    }

    fn output(&self, wanted: Wanted, states: &[f32], places: Vec<Option<Place>>) -> Result<Output, AiError> {
        let hidden = self.network.description.hidden;
        let head = || self.head.as_ref().ok_or_else(|| AiError::internal("the encoder has no head"));
        let (values, places) = match wanted {
            Wanted::Vector(pooling) => (pooling::pool(states, hidden, pooling), Vec::new()),
            Wanted::Scores => (head()?.text(states), Vec::new()),
            Wanted::TokenScores => {
                let mut rows = Vec::new();
                for (row, place) in states.chunks_exact(hidden).zip(&places) {
                    if place.is_some() {
                        rows.extend_from_slice(row);
                    }
                }
                (head()?.rows(&rows), places.into_iter().flatten().collect())
            }
        };
        if values.iter().any(|value| !value.is_finite()) {
            return Err(AiError::model_unavailable("its weights give values that are no numbers; verify the model"));
        }
        Ok(Output { values, places })
    }
}

/// The life of one thread.
fn work(queue: &Queue, model: &Model, room: &Room) {
    let mut scratch = Scratch::default();
    while let Some(pieces) = queue.take() {
        let computed = catch_unwind(AssertUnwindSafe(|| compute(model, room, &pieces, &mut scratch)));
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

type Encoded = Vec<(Tokens, Vec<Option<Place>>)>;

/// One turn: the outputs and token count of each piece.
fn compute(model: &Model, room: &Room, pieces: &[Piece], scratch: &mut Scratch) -> Vec<Result<Outputs, AiError>> {
    let encode = |piece: &Piece| -> Result<Encoded, AiError> {
        piece.inputs().iter().map(|input| model.tokens(input, piece.wanted())).collect()
    };
    let encoded: Vec<Result<Encoded, AiError>> = pieces.iter().map(encode).collect();
    let batch: Vec<&Tokens> = encoded.iter().flatten().flatten().map(|(tokens, _)| tokens).collect();
    let bytes = floats(model.network.peak(&batch));
    let what =
        format!("{} texts of up to {} tokens", batch.len(), batch.iter().map(|text| text.ids.len()).max().unwrap_or(0));
    let wanted = || if pieces.iter().all(Piece::given_up) { Err(AiError::aborted()) } else { Ok(()) };
    let _reserved = match room.reserve(bytes, &what, &wanted) {
        Ok(reserved) => reserved,
        Err(error) => return pieces.iter().map(|_| Err(error.clone())).collect(),
    };
    let mut spans = model.network.forward(&batch, scratch).into_iter();
    let hidden = model.network.description.hidden;
    let mut outputs = |piece: &Piece, encoded: Encoded| -> Result<Outputs, AiError> {
        let tokens = encoded.iter().map(|(tokens, _)| tokens.ids.len()).sum();
        // All of a piece's spans are used up, whatever fails.
        let spans: Vec<_> = spans.by_ref().take(encoded.len()).collect();
        let output = |((_, places), span): ((_, Vec<Option<Place>>), std::ops::Range<usize>)| {
            model.output(piece.wanted(), &scratch.states[span.start * hidden..span.end * hidden], places)
        };
        let outputs: Result<_, _> = encoded.into_iter().zip(spans).map(output).collect();
        Ok(Outputs { outputs: outputs?, tokens })
    };
    let outputs = pieces.iter().zip(encoded).map(|(piece, encoded)| outputs(piece, encoded?)).collect();
    if room.bounded() {
        *scratch = Scratch::default();
    }
    outputs
}
