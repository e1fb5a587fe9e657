//! Text to speech, in the two shapes that programs know.
//!
//! MeloTTS: `{prompt, lang?}` in, `{audio}` out, a sound in base64; its bytes as they are made with `stream: true`. Aura:
//! `{text, speaker?, encoding?, container?, sample_rate?}` in, the bytes of a sound out as they are made. Which of them is
//! asked for, the property of the text says. `seed`, `speed` and `phonemes` are this host's own, in both.
//!
//! Sound is a WAV file of 16-bit samples unless another form is asked for, where the service answers with MP3: see
//! [`crate::sound`]. The media type says what it is, and a form that is not there is refused by its name.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde_json::{Map, Value, json};

use super::{kind, text_generation};
use crate::AiError;
use crate::backend::{SpeakRequest, SpeechStream, TextToSpeech};
use crate::request::{ByteStream, RunOutput, RunRequest};
use crate::sound::{Encoding, SoundFormat, SoundWriter};

/// The longest text, in characters: some ten minutes of speech.
pub const MAX_TEXT: usize = 8192;
/// The rates that sound may be asked for at, in samples a second.
pub const RATES: [u32; 7] = [8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000];
/// The slowest and the fastest speech.
const SPEEDS: (f64, f64) = (0.25, 4.0);
const MAX_SEED: u64 = 1 << 53;
/// Encodings that programs may ask for and that are not made here.
const NOT_MADE: [&str; 4] = ["mp3", "opus", "aac", "flac"];

/// Answers one request.
pub(crate) async fn run(model: Arc<dyn TextToSpeech>, request: RunRequest) -> Result<RunOutput, AiError> {
    if request.inputs.get("lora").is_some_and(|name| !name.is_null()) {
        return Err(AiError::no_adapters(&request.model));
    }
    let inputs = Inputs(&request.inputs);
    let (property, text) = inputs.said()?;
    let format = inputs.format(model.rate())?;
    let streamed = property == "text" || inputs.flag("stream")?;
    let asked = SpeakRequest {
        tenant: request.tenant.clone(),
        property,
        text,
        phonemes: inputs.flag("phonemes")?,
        language: inputs.text("lang")?.filter(|code| !code.trim().is_empty()),
        speaker: inputs.speaker()?,
        speed: inputs.speed()?,
        seed: inputs.seed()?,
        deadline: text_generation::deadline(&request.options)?,
    };
    let refused = |why: String| AiError::bad_input(format_args!("'/sample_rate' is not possible: {why}"));
    let writer = SoundWriter::new(model.rate(), format).map_err(refused)?;
    let sound = encoded(model.speak(asked).await?, writer);
    if streamed {
        let header = Bytes::from(format.header(None));
        let body = stream::once(async move { Ok(header) }).chain(sound);
        return Ok(RunOutput::Stream { content_type: format.content_type(), body: Box::pin(body) });
    }
    let mut sound = sound;
    let mut bytes = Vec::new();
    while let Some(part) = sound.next().await {
        bytes.extend_from_slice(&part?);
    }
    let mut whole = format.header(Some(bytes.len()));
    whole.append(&mut bytes);
    Ok(RunOutput::Json(json!({ "audio": STANDARD.encode(&whole) })))
}

/// The bytes of a sound as it is made, with no header.
fn encoded(sound: SpeechStream, writer: SoundWriter) -> ByteStream {
    let failed = |why: String| AiError::internal(format_args!("the sound cannot be written: {why}"));
    Box::pin(stream::unfold(Some((sound, writer)), move |state| async move {
        let (mut sound, mut writer) = state?;
        match sound.next().await {
            Some(Ok(samples)) => {
                let written = writer.write(&samples).map(Bytes::from).map_err(failed);
                let state = written.is_ok().then_some((sound, writer));
                Some((written, state))
            }
            Some(Err(error)) => Some((Err(error), None)),
            None => Some((writer.finish().map(Bytes::from).map_err(failed), None)),
        }
    }))
}

struct Inputs<'a>(&'a Map<String, Value>);

impl Inputs<'_> {
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// The property that the text is in, and the text.
    fn said(&self) -> Result<(&'static str, String), AiError> {
        let property = match (self.get("prompt"), self.get("text")) {
            (Some(_), Some(_)) => {
                return Err(AiError::bad_input("'/prompt' and '/text' are both there; one of them is the text to say"));
            }
            (Some(_), None) => "prompt",
            (None, Some(_)) => "text",
            (None, None) => return Err(AiError::bad_input("required properties at '/' are 'prompt' or 'text'")),
        };
        let text = self.text(property)?.unwrap_or_default();
        if text.trim().is_empty() {
            return Err(AiError::bad_input(format_args!("'/{property}' has nothing to say")));
        }
        match text.len() <= MAX_TEXT || text.chars().count() <= MAX_TEXT {
            true => Ok((property, text)),
            false => {
                let count = text.chars().count();
                Err(AiError::bad_input(format_args!("Length of '/{property}' must be <= {MAX_TEXT} not {count}")))
            }
        }
    }

    fn text(&self, name: &str) -> Result<Option<String>, AiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => {
                Err(AiError::bad_input(format_args!("Type of '/{name}' must be string not {}", kind(other))))
            }
        }
    }

    fn flag(&self, name: &str) -> Result<bool, AiError> {
        match self.get(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => {
                Err(AiError::bad_input(format_args!("Type of '/{name}' must be boolean not {}", kind(other))))
            }
        }
    }

    /// A number, or a text that a model may have as a name.
    fn speaker(&self) -> Result<Option<String>, AiError> {
        match self.get("speaker") {
            None => Ok(None),
            Some(Value::String(name)) => Ok(Some(name.clone())),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(other) => Err(AiError::bad_input(format_args!(
                "Type of '/speaker' must be one of string, integer not {}",
                kind(other)
            ))),
        }
    }

    fn speed(&self) -> Result<f32, AiError> {
        let (least, most) = SPEEDS;
        let Some(value) = self.get("speed") else { return Ok(1.0) };
        let speed = value.as_f64().filter(|speed| (least..=most).contains(speed));
        let refused = || AiError::bad_input(format_args!("'/speed' must be a number from {least} to {most}"));
        speed.map(|speed| speed as f32).ok_or_else(refused)
    }

    /// A whole number, also one that is written as a fraction.
    fn integer(&self, name: &str) -> Result<Option<u64>, AiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let real = value.as_f64().filter(|number| number.fract() == 0.0 && (0.0..=MAX_SEED as f64).contains(number));
        let number = value.as_u64().or(real.map(|number| number as u64)).filter(|number| *number <= MAX_SEED);
        let refused = || AiError::bad_input(format_args!("'/{name}' must be an integer from 0 to {MAX_SEED}"));
        number.map(Some).ok_or_else(refused)
    }

    fn seed(&self) -> Result<Option<u64>, AiError> {
        self.integer("seed")
    }

    /// What the sound is written as; at the model's own rate where none is asked for.
    fn format(&self, own: u32) -> Result<SoundFormat, AiError> {
        let encoding = match self.text("encoding")?.as_deref() {
            None | Some("linear16") => Encoding::Linear16,
            Some("mulaw") => Encoding::MuLaw,
            Some("alaw") => Encoding::ALaw,
            Some(other) if NOT_MADE.contains(&other) => {
                return Err(AiError::bad_input(format_args!(
                    "'/encoding' {other:?} is not made by this host; linear16, mulaw and alaw are"
                )));
            }
            Some(_) => return Err(AiError::bad_input("'/encoding' must be one of 'linear16', 'mulaw', 'alaw'")),
        };
        let wav = match self.text("container")?.as_deref() {
            None | Some("wav") => true,
            Some("none") => false,
            Some("ogg") => {
                return Err(AiError::bad_input("'/container' \"ogg\" is not made by this host; wav and none are"));
            }
            Some(_) => return Err(AiError::bad_input("'/container' must be one of 'wav', 'none'")),
        };
        if self.get("bit_rate").is_some() {
            return Err(AiError::bad_input("'/bit_rate' is of mp3, opus and aac, which are not made by this host"));
        }
        let rate = match self.integer("sample_rate")? {
            None => own,
            Some(rate) => {
                let known = RATES.into_iter().chain([own]).find(|known| u64::from(*known) == rate);
                known.ok_or_else(|| {
                    let rates = RATES.map(|rate| rate.to_string()).join(", ");
                    AiError::bad_input(format_args!("'/sample_rate' must be one of {rates}"))
                })?
            }
        };
        Ok(SoundFormat { encoding, wav, rate })
    }
}
