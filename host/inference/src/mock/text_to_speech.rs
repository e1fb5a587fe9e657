//! A scripted model that speaks: a tone for each word.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use serde_json::Value;

use super::{Script, ScriptError, split_words};
use crate::AiError;
use crate::backend::{SpeakRequest, SpeechStream, TextToSpeech};

/// Samples of a second.
const RATE: u32 = 16_000;
/// Samples of a word.
const WORD: usize = 1_600;

/// Says each word of a text as a tenth of a second of a tone, higher for longer words; `delay_ms` passes before each.
#[derive(Debug, Clone)]
pub struct MockVoice {
    script: Arc<Script>,
}

impl MockVoice {
    /// A model that follows `script`.
    ///
    /// # Errors
    /// When the script has unknown keys or values of the wrong kind.
    pub fn new(script: &Value) -> Result<Self, ScriptError> {
        Ok(Self { script: Arc::new(Script::read(script)?) })
    }
}

fn tone(letters: usize) -> Vec<f32> {
    let step = std::f32::consts::TAU * (200.0 + 50.0 * letters.min(40) as f32) / RATE as f32;
    (0..WORD).map(|at| 0.5 * (at as f32 * step).sin()).collect()
}

impl TextToSpeech for MockVoice {
    fn speak(&self, request: SpeakRequest) -> BoxFuture<'_, Result<SpeechStream, AiError>> {
        async move {
            if let Some(error) = self.script.fail_at(0) {
                self.script.pause().await;
                return Err(error);
            }
            let words: Vec<usize> =
                split_words(&request.text).iter().map(|word| word.trim().chars().count()).filter(|n| *n > 0).collect();
            let script = self.script.clone();
            let say = move |(index, letters): (usize, usize)| {
                let script = script.clone();
                async move {
                    script.pause().await;
                    script.fail_at(index).map_or_else(|| Ok(tone(letters)), Err)
                }
            };
            Ok(stream::iter(words.into_iter().enumerate()).then(say).boxed())
        }
        .boxed()
    }

    fn rate(&self) -> u32 {
        RATE
    }
}
