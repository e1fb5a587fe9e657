//! Speech to text: a file of sound in, its text with the times of its words out.
//!
//! Two shapes of answer, by the name that the program asked for: `whisper` and `whisper-tiny-en` list the words of the whole
//! text, every other model answers as `whisper-large-v3-turbo`, with segments and what was heard of the language. Inputs
//! are those of the latter for all of them: whatever a program sends means the same everywhere.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::media::Media;
use super::{kind, text_generation};
use crate::AiError;
use crate::backend::{SpeechRecognition, TranscribeRequest, Transcript, TranscriptSegment, TranscriptWord};
use crate::request::{RunOutput, RunRequest};

/// An hour of speech as WAV is half of it.
pub const MAX_AUDIO: usize = 256 << 20;
/// The most hypotheses of a beam search.
pub const MAX_BEAMS: u64 = 16;
/// The longest `initial_prompt` and `prefix`, of which a model reads some hundred tokens anyway.
pub const MAX_PROMPT: usize = 16 << 10;

/// Answers one request.
pub(crate) async fn run(model: Arc<dyn SpeechRecognition>, mut request: RunRequest) -> Result<RunOutput, AiError> {
    if request.inputs.get("lora").is_some_and(|name| !name.is_null()) {
        return Err(AiError::no_adapters(&request.model));
    }
    let audio = Media::take(&mut request, "audio", MAX_AUDIO).await?;
    let audio = audio.ok_or_else(|| AiError::bad_input("required properties at '/' are 'audio'"))?;
    let inputs = Inputs(&request.inputs);
    let defaults = TranscribeRequest::new(request.tenant.clone(), audio.data);
    let transcription = TranscribeRequest {
        translate: inputs.translate()?,
        language: inputs.language()?,
        vad_filter: inputs.flag("vad_filter")?.unwrap_or(defaults.vad_filter),
        initial_prompt: inputs.text("initial_prompt")?,
        prefix: inputs.text("prefix")?,
        beam_size: inputs.beams()?.unwrap_or(defaults.beam_size),
        condition_on_previous_text: inputs
            .flag("condition_on_previous_text")?
            .unwrap_or(defaults.condition_on_previous_text),
        no_speech_threshold: inputs.number("no_speech_threshold")?.unwrap_or(defaults.no_speech_threshold),
        compression_ratio_threshold: inputs
            .number("compression_ratio_threshold")?
            .unwrap_or(defaults.compression_ratio_threshold),
        log_prob_threshold: inputs.number("log_prob_threshold")?.unwrap_or(defaults.log_prob_threshold),
        hallucination_silence_threshold: inputs.number("hallucination_silence_threshold")?,
        deadline: text_generation::deadline(&request.options)?,
        ..defaults
    };
    let transcript = model.transcribe(transcription).await?;
    Ok(RunOutput::Json(if is_plain(&request.model) { plain(&transcript) } else { detailed(&transcript) }))
}

/// Whether programs expect the shorter shape of a model of this name.
fn is_plain(model: &str) -> bool {
    matches!(model.rsplit('/').next(), Some("whisper" | "whisper-tiny-en" | "whisper-tiny.en"))
}

/// The properties beside the sound.
struct Inputs<'a>(&'a Map<String, Value>);

impl Inputs<'_> {
    fn get(&self, property: &str) -> Option<&Value> {
        self.0.get(property).filter(|value| !value.is_null())
    }

    fn text(&self, property: &str) -> Result<Option<String>, AiError> {
        match self.get(property) {
            None => Ok(None),
            Some(Value::String(text)) if text.len() > MAX_PROMPT => Err(AiError::bad_input(format_args!(
                "Length of '/{property}' must be <= {MAX_PROMPT} not {}",
                text.len()
            ))),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(wrong_type(property, "string", other)),
        }
    }

    fn flag(&self, property: &str) -> Result<Option<bool>, AiError> {
        match self.get(property) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(wrong_type(property, "boolean", other)),
        }
    }

    fn number(&self, property: &str) -> Result<Option<f64>, AiError> {
        match self.get(property) {
            None => Ok(None),
            Some(value) => value.as_f64().map(Some).ok_or_else(|| wrong_type(property, "number", value)),
        }
    }

    fn beams(&self) -> Result<Option<usize>, AiError> {
        let Some(value) = self.get("beam_size") else { return Ok(None) };
        let beams = value.as_u64().filter(|beams| (1..=MAX_BEAMS).contains(beams));
        let refused = || AiError::bad_input(format_args!("'/beam_size' must be a whole number from 1 to {MAX_BEAMS}"));
        beams.map(|beams| Some(beams as usize)).ok_or_else(refused)
    }

    fn translate(&self) -> Result<bool, AiError> {
        match self.text("task")?.as_deref() {
            None | Some("transcribe") => Ok(false),
            Some("translate") => Ok(true),
            Some(_) => Err(AiError::bad_input("'/task' must be one of 'transcribe', 'translate'")),
        }
    }

    /// `en`, also as `en-US`; an empty one is none.
    fn language(&self) -> Result<Option<String>, AiError> {
        let code = self.text("language")?.map(|code| code.trim().to_lowercase());
        let main = code.map(|code| code.split(['-', '_']).next().unwrap_or_default().to_owned());
        Ok(main.filter(|code| !code.is_empty()))
    }
}

fn wrong_type(property: &str, wanted: &str, value: &Value) -> AiError {
    AiError::bad_input(format_args!("Type of '/{property}' must be {wanted} not {}", kind(value)))
}

fn plain(transcript: &Transcript) -> Value {
    let text = text(transcript);
    let words: Vec<Value> = transcript.segments.iter().flat_map(|segment| &segment.words).map(word).collect();
    json!({ "text": text, "word_count": count(&text), "words": words, "vtt": vtt(&transcript.segments) })
}

fn detailed(transcript: &Transcript) -> Value {
    let text = text(transcript);
    json!({
        "transcription_info": {
            "language": transcript.language,
            "language_probability": transcript.language_probability,
            "duration": transcript.duration,
            "duration_after_vad": transcript.duration_after_vad,
        },
        "text": text,
        "word_count": count(&text),
        "segments": transcript.segments.iter().map(segment).collect::<Vec<_>>(),
        "vtt": vtt(&transcript.segments),
    })
}

fn segment(segment: &TranscriptSegment) -> Value {
    json!({
        "start": segment.start,
        "end": segment.end,
        "text": segment.text.trim(),
        "temperature": segment.temperature,
        "avg_logprob": segment.avg_logprob,
        "compression_ratio": segment.compression_ratio,
        "no_speech_prob": segment.no_speech_prob,
        "words": segment.words.iter().map(word).collect::<Vec<_>>(),
    })
}

fn word(word: &TranscriptWord) -> Value {
    json!({ "word": word.word.trim(), "start": word.start, "end": word.end })
}

fn text(transcript: &Transcript) -> String {
    let all: String = transcript.segments.iter().map(|segment| segment.text.as_str()).collect();
    all.trim().to_owned()
}

fn count(text: &str) -> usize {
    text.split_whitespace().count()
}

/// Subtitles (W3C WebVTT), one cue for each segment.
fn vtt(segments: &[TranscriptSegment]) -> String {
    let mut out = "WEBVTT\n\n".to_owned();
    for segment in segments {
        let text = segment.text.trim().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        out.push_str(&format!("{} --> {}\n{text}\n\n", clock(segment.start), clock(segment.end)));
    }
    out
}

/// `HH:MM:SS.mmm`.
fn clock(seconds: f64) -> String {
    let all = (seconds.max(0.0) * 1000.0).round() as u64;
    let (seconds, millis) = (all / 1000, all % 1000);
    format!("{:02}:{:02}:{:02}.{millis:03}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_texts_of_cues_are_what_players_read() {
        let segment = |start, end, text: &str| TranscriptSegment {
            start,
            end,
            text: text.into(),
            ..TranscriptSegment::default()
        };
        let cues = vtt(&[segment(0.0, 2.5, " a <b> &\n\nc"), segment(3661.0004, 3662.9996, " d")]);
        assert_eq!(
            cues,
            "WEBVTT\n\n00:00:00.000 --> 00:00:02.500\na &lt;b&gt; &amp; c\n\n01:01:01.000 --> 01:01:03.000\nd\n\n"
        );
    }

    #[test]
    fn the_shape_is_the_asked_model_s() {
        for (name, plain) in [
            ("@cf/openai/whisper", true),
            ("@cf/openai/whisper-tiny-en", true),
            ("whisper-tiny.en", true),
            ("@cf/openai/whisper-large-v3-turbo", false),
            ("my-whisper", false),
        ] {
            assert_eq!(is_plain(name), plain, "{name}");
        }
    }
}
