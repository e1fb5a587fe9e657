//! Hears what the script says.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;

use super::{Script, ScriptError, split_words};
use crate::AiError;
use crate::backend::{SpeechRecognition, TranscribeRequest, Transcript, TranscriptSegment, TranscriptWord};

/// Seconds of a word.
const WORD: f64 = 0.5;

/// Writes down the script's reply, whatever it is given: one segment, half a second a word.
#[derive(Debug, Clone)]
pub struct MockSpeech {
    script: Arc<Script>,
}

impl MockSpeech {
    /// A model that follows `script`.
    ///
    /// # Errors
    /// When the script has unknown keys or values of the wrong kind.
    pub fn new(script: &Value) -> Result<Self, ScriptError> {
        Ok(Self { script: Arc::new(Script::read(script)?) })
    }

    fn transcript(&self, request: &TranscribeRequest) -> Transcript {
        let text = self.script.reply.replace("{prompt}", &request.audio.len().to_string());
        let word = |(index, word): (usize, &str)| TranscriptWord {
            word: word.to_owned(),
            start: index as f64 * WORD,
            end: (index + 1) as f64 * WORD,
        };
        let words: Vec<TranscriptWord> = split_words(&text).into_iter().enumerate().map(word).collect();
        let duration = words.len() as f64 * WORD;
        let segment =
            TranscriptSegment { end: duration, text, compression_ratio: 1.0, words, ..TranscriptSegment::default() };
        Transcript {
            language: request.language.clone().unwrap_or_else(|| "en".to_owned()),
            language_probability: 1.0,
            duration,
            duration_after_vad: duration,
            segments: vec![segment],
        }
    }
}

impl SpeechRecognition for MockSpeech {
    fn transcribe(&self, request: TranscribeRequest) -> BoxFuture<'_, Result<Transcript, AiError>> {
        async move {
            self.script.pause().await;
            match self.script.fail_at(0) {
                Some(error) => Err(error),
                None => Ok(self.transcript(&request)),
            }
        }
        .boxed()
    }
}
