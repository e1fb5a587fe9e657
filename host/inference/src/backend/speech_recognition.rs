//! Speech to text.

use std::time::Instant;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::{AiError, Tenant};

/// Writes down what is said.
pub trait SpeechRecognition: Send + Sync + 'static {
    /// The transcript of a file of sound. Must not block: it is called on an async worker. Dropping the future gives the
    /// work up.
    fn transcribe(&self, request: TranscribeRequest) -> BoxFuture<'_, Result<Transcript, AiError>>;
}

/// One transcription.
#[derive(Debug, Clone)]
pub struct TranscribeRequest {
    /// On whose behalf.
    pub tenant: Tenant,
    /// The file: WAV, AIFF, FLAC, MP3, Ogg, MP4 or WebM.
    pub audio: Bytes,
    /// Whether to translate to English what is said in another language.
    pub translate: bool,
    /// The language's code, such as `en`; heard where it is absent.
    pub language: Option<String>,
    /// Whether to leave out what is no speech before the model hears it.
    pub vad_filter: bool,
    /// Text that the transcript is to be taken to continue: names, spelling, style.
    pub initial_prompt: Option<String>,
    /// Text that the transcript of the first window begins with.
    pub prefix: Option<String>,
    /// Hypotheses of the beam search; 1 is greedy.
    pub beam_size: usize,
    /// Whether a window is read as the continuation of those before.
    pub condition_on_previous_text: bool,
    /// See [`Self::log_prob_threshold`]: a window more likely than this to be without speech, and not understood, is
    /// skipped.
    pub no_speech_threshold: f64,
    /// Text that compresses better than this is decoded anew at a higher temperature.
    pub compression_ratio_threshold: f64,
    /// So is text whose tokens have a lower log probability on average.
    pub log_prob_threshold: f64,
    /// Silence of more seconds than this around a text that looks made up has that text left out.
    pub hallucination_silence_threshold: Option<f64>,
    /// When the answer is of no use any more.
    pub deadline: Option<Instant>,
}

impl TranscribeRequest {
    /// A transcription of `audio` with the defaults of the reference.
    pub fn new(tenant: Tenant, audio: Bytes) -> Self {
        Self {
            tenant,
            audio,
            translate: false,
            language: None,
            vad_filter: false,
            initial_prompt: None,
            prefix: None,
            beam_size: 5,
            condition_on_previous_text: true,
            no_speech_threshold: 0.6,
            compression_ratio_threshold: 2.4,
            log_prob_threshold: -1.0,
            hallucination_silence_threshold: None,
            deadline: None,
        }
    }
}

/// What was said.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Transcript {
    /// The code of the language that was asked for or heard.
    pub language: String,
    /// How probable that language is.
    pub language_probability: f64,
    /// Seconds of sound.
    pub duration: f64,
    /// Seconds of it that the model heard.
    pub duration_after_vad: f64,
    /// The text, piece by piece.
    pub segments: Vec<TranscriptSegment>,
}

/// A piece of a transcript, about a sentence. Times are in seconds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TranscriptSegment {
    /// When it begins.
    pub start: f64,
    /// When it ends.
    pub end: f64,
    /// What is said, with the space in front of it.
    pub text: String,
    /// The temperature that it was decoded at.
    pub temperature: f64,
    /// The mean log probability of its window's tokens.
    pub avg_logprob: f64,
    /// How many times smaller the window's text can be made.
    pub compression_ratio: f64,
    /// How probable it is that nothing is said in the window.
    pub no_speech_prob: f64,
    /// Its words.
    pub words: Vec<TranscriptWord>,
}

/// A word of a transcript.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TranscriptWord {
    /// The word with the space in front of it and the signs around it.
    pub word: String,
    /// When it begins.
    pub start: f64,
    /// When it ends.
    pub end: f64,
}
