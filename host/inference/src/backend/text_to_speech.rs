//! Speaking.

use std::time::Instant;

use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::{AiError, Tenant};

/// Says texts aloud.
pub trait TextToSpeech: Send + Sync + 'static {
    /// Begins to say a text. What is known by then (an empty text, a voice that is not there, a full queue) comes as
    /// `Err`, everything later in the stream. Must not block: it is called on an async worker.
    fn speak(&self, request: SpeakRequest) -> BoxFuture<'_, Result<SpeechStream, AiError>>;

    /// Samples of a second.
    fn rate(&self) -> u32;
}

/// Sound of one channel as it is made, in samples from -1 to 1. An error ends it; dropping it gives the rest up.
pub type SpeechStream = BoxStream<'static, Result<Vec<f32>, AiError>>;

/// A text to say.
#[derive(Debug, Clone)]
pub struct SpeakRequest {
    /// On whose behalf.
    pub tenant: Tenant,
    /// The property that the text came in, for errors.
    pub property: &'static str,
    /// The text.
    pub text: String,
    /// Whether the text is phonemes, in the alphabet that the model reads.
    pub phonemes: bool,
    /// The language that the text is said to be in, as a code such as `en`.
    pub language: Option<String>,
    /// The voice, by its number from 0; the first where none is asked for.
    pub speaker: Option<String>,
    /// How many times as fast as usual.
    pub speed: f32,
    /// The same seed and request give the same sound, whatever else runs beside; random when absent.
    pub seed: Option<u64>,
    /// When the answer is of no use any more: it then fails with 3007, waiting or running.
    pub deadline: Option<Instant>,
}
