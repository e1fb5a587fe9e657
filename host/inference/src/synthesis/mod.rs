//! Text to speech computed on this machine's processor: VITS, which MMS-TTS has for a thousand languages.
//!
//! A [`Synthesizer`] owns its model and says one piece of a text at a time; each piece waits in the line of its tenant
//! anew, so a long text holds up nobody, and a listener that reads slowly holds up only itself: the next piece is made
//! when the last was taken. What is kept in memory is one piece.

mod config;
mod decoder;
mod durations;
mod flow;
mod layers;
mod pieces;
mod spline;
#[cfg(test)]
mod tests;
mod text;
mod tokens;
mod vits;

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};

use crate::AiError;
use crate::backend::{SpeakRequest, SpeechStream, TextToSpeech};
use crate::desk::Desk;
use crate::noise::Noise;
use crate::room::{Room, floats};
use crate::store::read_config;
use config::Config;
use pieces::pieces;
use tokens::Tokens;
use vits::{Manner, Vits};

/// What `model_type` says of the models that are read here.
pub const MODEL_TYPE: &str = "vits";
/// Silence between sentences, in seconds: the models know no marks, and are given one sentence at a time.
const PAUSE: f32 = 0.2;

/// How a model runs.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Threads that compute.
    pub threads: NonZeroUsize,
    /// Requests of one tenant that may wait.
    pub queue: NonZeroUsize,
}

/// A text-to-speech model with its thread.
pub struct Synthesizer {
    desk: Arc<Desk<Vits>>,
    room: Room,
    tokens: Tokens,
    rate: u32,
    voices: usize,
}

/// A piece as the model reads it, and whether a pause follows.
type Spoken = (Vec<u32>, bool);

impl Synthesizer {
    /// Reads `config.json`, `vocab.json`, `tokenizer_config.json` where there is one, and the weights of `folder`. Blocks.
    ///
    /// # Errors
    /// What is wrong with which file, in words.
    pub fn load(folder: &Path, settings: Settings) -> Result<Synthesizer, String> {
        Self::open(folder, settings, Room::default())
    }

    /// As [`Self::load`], with memory out of `room` for each piece of a text.
    pub(crate) fn open(folder: &Path, settings: Settings, room: Room) -> Result<Synthesizer, String> {
        let value = read_config(folder).map_err(|error| error.to_string())?;
        let named = |why: String| format!("{}: {why}", folder.join("config.json").display());
        let config = Config::parse(value).map_err(named)?;
        let tokens = Tokens::load(folder, config.vocabulary)?;
        let (rate, voices) = (config.rate, config.voices.as_ref().map_or(1, |voices| voices.count));
        let model = Vits::load(folder, config, settings.threads)?;
        let desk = Desk::open("synthesis", settings.queue, model).map_err(|error| format!("no thread: {error}"))?;
        Ok(Synthesizer { desk: Arc::new(desk), room, tokens, rate, voices })
    }

    /// What of the text is said, piece by piece.
    fn read(&self, request: &SpeakRequest) -> Result<VecDeque<Spoken>, AiError> {
        let property = request.property;
        if self.tokens.phonemes && !request.phonemes {
            return Err(AiError::bad_input(format_args!(
                "'/{property}' is letters, and the model reads phonemes (IPA), which nothing here makes of them; give \
                 phonemes and set '/phonemes' to true, or use a model that reads letters"
            )));
        }
        if request.phonemes && !self.tokens.phonemes {
            return Err(AiError::bad_input("'/phonemes' is true, and the model reads letters"));
        }
        let mut spoken = VecDeque::new();
        for piece in pieces(&request.text) {
            let tokens = self.tokens.encode(&piece.text);
            let tokens = tokens.map_err(|fault| AiError::bad_input(format_args!("'/{property}' {fault}")))?;
            if !tokens.is_empty() {
                spoken.push_back((tokens, piece.ends));
            }
        }
        if spoken.is_empty() {
            return Err(AiError::bad_input(format_args!("'/{property}' has nothing that the model can say")));
        }
        if let Some((_, pause)) = spoken.back_mut() {
            *pause = false;
        }
        Ok(spoken)
    }

    /// The voice of that number.
    fn speaker(&self, speaker: Option<&str>) -> Result<usize, AiError> {
        let Some(name) = speaker else { return Ok(0) };
        let number = name.trim().parse().ok().filter(|number| *number < self.voices);
        number.ok_or_else(|| {
            let known = match self.voices {
                1 => "the model has one voice; leave it out".to_owned(),
                voices => format!("the model's voices are the numbers from 0 to {}", voices - 1),
            };
            AiError::bad_input(format_args!("'/speaker' {name:.40?} is none here: {known}"))
        })
    }

    fn language(&self, asked: Option<&str>) -> Result<(), AiError> {
        match (asked, &self.tokens.language) {
            (Some(asked), Some(spoken)) if !same_language(asked, spoken) => {
                Err(AiError::bad_input(format_args!("'/lang' is {asked:.20?}; the model speaks {spoken:.20?}")))
            }
            _ => Ok(()),
        }
    }
}

/// Whether a code of two letters, or one of those that MeloTTS has, means what the model's file says in three.
fn same_language(asked: &str, spoken: &str) -> bool {
    /// Codes of which the longer one does not begin with the shorter.
    const LONGER: [(&str, &str); 14] = [
        ("es", "spa"),
        ("zh", "zho"),
        ("zh", "cmn"),
        ("jp", "jpn"),
        ("ja", "jpn"),
        ("kr", "kor"),
        ("de", "deu"),
        ("pt", "por"),
        ("pl", "pol"),
        ("nl", "nld"),
        ("sv", "swe"),
        ("tr", "tur"),
        ("cs", "ces"),
        ("id", "ind"),
    ];
    let main = |code: &str| code.split(['-', '_']).next().unwrap_or_default().to_lowercase();
    let (asked, spoken) = (main(asked), main(spoken));
    let longer = LONGER.iter().any(|(short, long)| *short == asked && *long == spoken);
    asked == spoken || longer || (asked.len() >= 2 && spoken.starts_with(&asked) && !known_otherwise(&asked, &LONGER))
}

/// Whether a short code has longer ones that it is no part of, so that one that begins with it is another language's.
fn known_otherwise(short: &str, longer: &[(&str, &str)]) -> bool {
    longer.iter().any(|(known, _)| *known == short)
}

impl TextToSpeech for Synthesizer {
    fn speak(&self, request: SpeakRequest) -> BoxFuture<'_, Result<SpeechStream, AiError>> {
        async move {
            self.language(request.language.as_deref())?;
            let manner = Manner { voice: self.speaker(request.speaker.as_deref())?, speed: request.speed };
            let mut left = self.read(&request)?;
            let noise = Noise::new(request.seed.unwrap_or_else(rand::random));
            let pause = vec![0.0; (PAUSE * self.rate as f32) as usize];
            let (room, property) = (self.room.clone(), request.property);
            let say = move |desk: &Desk<Vits>, (tokens, ends): Spoken, mut noise: Noise, first: bool| {
                let (tenant, pause, room) = (request.tenant.clone(), pause.clone(), room.clone());
                let work = move |model: &mut Vits, ticket: &crate::desk::Ticket| {
                    let what = format!("a sentence of '/{property}'");
                    let reserve = |values| ticket.reserve(&room, floats(values), &what);
                    let mut sound = model.speak(&tokens, manner, &mut noise, &reserve, &|| ticket.check())?;
                    if ends {
                        sound.extend(pause);
                    }
                    Ok((sound, noise))
                };
                if first {
                    desk.run(tenant, request.deadline, work)
                } else {
                    desk.go_on(tenant, request.deadline, work)
                }
            };
            let Some(piece) = left.pop_front() else { return Ok(stream::empty().boxed()) };
            let (sound, noise) = say(&self.desk, piece, noise, true).await?;
            let rest = stream::unfold(Some((self.desk.clone(), say, left, noise)), |state| async move {
                let (desk, say, mut left, noise) = state?;
                match say(&desk, left.pop_front()?, noise, false).await {
                    Ok((sound, noise)) => Some((Ok(sound), Some((desk, say, left, noise)))),
                    Err(error) => Some((Err(error), None)),
                }
            });
            Ok(stream::once(async move { Ok(sound) }).chain(rest).boxed())
        }
        .boxed()
    }

    fn rate(&self) -> u32 {
        self.rate
    }
}
