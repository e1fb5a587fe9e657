//! Speech to text computed on this machine's processor: Whisper, from tiny.en to large-v3-turbo.
//!
//! A [`Recognizer`] owns its model and computes on as many threads as it was given, several files at a time; others wait
//! in a line for each tenant. The forward pass is our own, because candle's hears another spectrogram than the model was trained
//! on. What is decoded how follows the reference implementation: beam search with fallback to samples, rules of timestamps,
//! windows that begin where the text before them ended, word times from the cross attention.

mod align;
pub(crate) mod audio;
mod config;
mod mel;
mod needs;
mod network;
mod rounds;
mod rules;
mod search;
mod seats;
mod segments;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod tokens;
mod transcribe;
mod vad;

use std::num::NonZeroUsize;
use std::path::Path;

use futures::future::BoxFuture;
use serde_json::Value;

pub use network::Precision;
pub(crate) use tokens::byte_of;

use crate::AiError;
use crate::backend::{SpeechRecognition, TranscribeRequest, Transcript};
use crate::room::Room;
use crate::store::read_config;
use config::{Config, Generation};
use mel::MelSpectrogram;
use network::Network;
use seats::Seats;
use tokens::Tokens;
use transcribe::Voice;

/// Whether a model of this `config.json` can be read. The error names the key that is wrong.
pub(crate) fn check_config(config: &Value) -> Result<(), String> {
    Config::parse(config.clone()).map(|_| ())
}

/// How a model of speech runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Threads that compute.
    pub threads: NonZeroUsize,
    /// Requests of a tenant that may wait.
    pub queue: NonZeroUsize,
    /// How products are computed.
    pub precision: Precision,
}

/// A Whisper model with its threads.
pub struct Recognizer {
    seats: Seats,
}

impl Recognizer {
    /// Reads `config.json`, `generation_config.json` where there is one, `tokenizer.json` and the weights of `folder`.
    /// Blocks.
    ///
    /// # Errors
    /// What is wrong with which file, in words.
    pub fn load(folder: &Path, settings: Settings) -> Result<Recognizer, String> {
        Self::open(folder, settings, Room::default())
    }

    /// As [`Self::load`], with memory out of `room` for each seat.
    pub(crate) fn open(folder: &Path, settings: Settings, room: Room) -> Result<Recognizer, String> {
        let value = read_config(folder).map_err(|error| error.to_string())?;
        let named = |why: String| format!("{}: {why}", folder.join("config.json").display());
        let config = Config::parse(value.clone()).map_err(named)?;
        let generation = Generation::read(folder, &value, &config)?;
        let tokens = Tokens::load(folder, &config, generation.multilingual)?;
        let spectrogram = MelSpectrogram::new(config.mels);
        let network = Network::load(folder, config.clone(), settings.precision, settings.threads)?;
        let voice = Voice { config, tokens, generation, spectrogram };
        let seats = Seats::open(settings.queue, voice, network, room).map_err(|error| format!("no thread: {error}"))?;
        Ok(Recognizer { seats })
    }
}

impl SpeechRecognition for Recognizer {
    fn transcribe(&self, request: TranscribeRequest) -> BoxFuture<'_, Result<Transcript, AiError>> {
        self.seats.transcribe(request)
    }
}
