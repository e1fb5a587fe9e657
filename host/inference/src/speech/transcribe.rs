//! A whole file, window by window, as the reference does it.
//!
//! A window is what the encoder reads at once. The next one begins where the last piece of text ended that the model closed,
//! so no word is cut, and reads what was said before as its prompt. Only the samples of one window are kept.

use std::rc::Rc;

use super::align::{self, Timed, Usual};
use super::audio::{RATE, Sound};
use super::config::{Config, Generation};
use super::mel::{HOP, MelSpectrogram};
use super::network::Heard;
use super::rounds::{Read, Rounds, sequence_rows};
use super::search::{Decoding, Found, Search};
use super::segments::{self, Cut, Piece};
use super::tokens::Tokens;
use super::vad;
use crate::AiError;
use crate::backend::{TranscribeRequest, Transcript, TranscriptSegment, TranscriptWord};
use crate::desk::Ticket;

/// The least that a window goes on: a model that closes its text at once again and again is not followed there.
const LEAST_ADVANCE: usize = 100;
/// Above this temperature a text is no prompt for the next window.
const STEADY: f32 = 0.5;

/// All that it takes to write down a file, but the network, which those who write at the same time share.
pub(crate) struct Voice {
    pub(crate) config: Config,
    pub(crate) tokens: Tokens,
    pub(crate) generation: Generation,
    pub(crate) spectrogram: MelSpectrogram,
}

/// A transcript on its way.
struct Course<'a> {
    request: &'a TranscribeRequest,
    search: Search,
    language: String,
    /// Tokens of the text so far, the initial prompt among them, and from where on they are a prompt.
    said: Vec<u32>,
    forgotten: usize,
    /// When the last word ended, in seconds.
    last_word: f64,
    segments: Vec<TranscriptSegment>,
}

/// A window: where it begins, in frames, how many frames of it are sound, and what the encoder made of it.
struct Window<'a> {
    begin: usize,
    frames: usize,
    heard: &'a Rc<Heard>,
}

impl Window<'_> {
    fn seconds(&self) -> f64 {
        (self.begin * HOP) as f64 / RATE as f64
    }
}

impl Voice {
    /// The transcript of a file. Looks at `ticket` after each token.
    pub(crate) async fn transcribe(
        &self,
        rounds: &Rounds,
        request: &TranscribeRequest,
        ticket: &Ticket,
    ) -> Result<Transcript, AiError> {
        let refuse = |why: String| AiError::bad_input(format_args!("'/audio' cannot be read: {why}"));
        let sound = Sound::open(request.audio.clone()).map_err(refuse)?;
        let mut sound = vad::Heard::new(sound, request.vad_filter);
        let (mut samples, mut begin) = (Vec::new(), 0_usize);
        let mut course = self.begin(request)?;
        let mut probability = 1.0;
        loop {
            ticket.check()?;
            while samples.len() < self.config.window() && !sound.ended() {
                sound.fill(&mut samples, self.config.window()).map_err(refuse)?;
                ticket.check()?;
            }
            let frames = (samples.len() / HOP).min(self.config.frames());
            if frames == 0 {
                break;
            }
            let spectrogram = self.spectrogram.compute(&samples, self.config.frames());
            let heard = Rc::new(rounds.hear(spectrogram).await?);
            if course.language.is_empty() {
                (course.language, probability) = self.language(rounds, &heard).await?;
            }
            let window = Window { begin, frames, heard: &heard };
            let advance = self.window(rounds, &window, &mut course, ticket).await?;
            let advance = advance.clamp(LEAST_ADVANCE.min(frames), frames);
            begin += advance;
            samples.drain(..(advance * HOP).min(samples.len()));
            tracing::debug!(seconds = (begin * HOP) / RATE, segments = course.segments.len(), "transcribed");
            if sound.ended() && samples.len() < HOP {
                break;
            }
        }
        let (duration, duration_after_vad) = sound.seconds();
        let mut segments = course.segments;
        for segment in &mut segments {
            restore(segment, &sound, duration);
        }
        let language = if course.language.is_empty() { "en".to_owned() } else { course.language };
        Ok(Transcript { language, language_probability: probability, duration, duration_after_vad, segments })
    }

    fn begin<'a>(&self, request: &'a TranscribeRequest) -> Result<Course<'a>, AiError> {
        let language = match (&request.language, self.tokens.languages.is_empty()) {
            (Some(code), false) if !self.tokens.languages.iter().any(|(known, _)| known == code) => {
                return Err(AiError::bad_input(format_args!("'/language' {code:.20?} is none that the model knows")));
            }
            (Some(code), true) if code != "en" => {
                return Err(AiError::bad_input(format_args!(
                    "'/language' is {code:.20?}; the model knows English only"
                )));
            }
            (Some(code), _) => code.clone(),
            (None, true) => "en".to_owned(),
            (None, false) => String::new(),
        };
        let encode = |property: &str, text: &Option<String>| {
            let text = text.as_deref().map(str::trim).filter(|text| !text.is_empty());
            let encoded = text.map_or(Ok(Vec::new()), |text| self.tokens.encode(&format!(" {text}")));
            encoded.map_err(|why| AiError::bad_input(format_args!("'/{property}' cannot be read as tokens: {why}")))
        };
        encode("prefix", &request.prefix)?;
        Ok(Course {
            said: encode("initial_prompt", &request.initial_prompt)?,
            search: Search {
                beams: request.beam_size.max(1),
                timestamps: true,
                most_compression: request.compression_ratio_threshold,
                least_log_probability: request.log_prob_threshold,
                most_silence: request.no_speech_threshold,
            },
            request,
            language,
            forgotten: 0,
            last_word: 0.0,
            segments: Vec::new(),
        })
    }

    /// The most probable language, and how probable it is.
    async fn language(&self, rounds: &Rounds, heard: &Rc<Heard>) -> Result<(String, f64), AiError> {
        let read = Read { rows: sequence_rows(&[self.tokens.start]), wanted: vec![0], ..Read::new(heard) };
        let logits = rounds.read(read).await?.logits;
        let of = |token: &u32| f64::from(logits[*token as usize]);
        let languages = &self.tokens.languages;
        let best = languages.iter().max_by(|a, b| of(&a.1).total_cmp(&of(&b.1)));
        let (code, token) = best.ok_or_else(|| AiError::internal("a model of many languages names none"))?;
        let total: f64 = languages.iter().map(|(_, other)| (of(other) - of(token)).exp()).sum();
        Ok((code.clone(), 1.0 / total))
    }

    /// Writes down one window; gives how many frames to go on.
    async fn window(
        &self,
        rounds: &Rounds,
        window: &Window<'_>,
        course: &mut Course<'_>,
        ticket: &Ticket,
    ) -> Result<usize, AiError> {
        let opening = self.tokens.opening(&course.language, course.request.translate);
        let positions = self.config.decoder.positions;
        let mut prompt = Vec::new();
        let before = &course.said[course.forgotten..];
        if !before.is_empty() {
            prompt.push(self.tokens.previous);
            prompt.extend(&before[before.len().saturating_sub(positions / 2 - 1)..]);
        }
        let start = prompt.len();
        prompt.extend(opening);
        let mut given = 0;
        if let (0, Some(text)) = (window.begin, &course.request.prefix) {
            let mut prefix = self.tokens.encode(&format!(" {}", text.trim())).unwrap_or_default();
            // Room is left for what follows it.
            prefix.truncate((positions / 4).min((positions - prompt.len()).saturating_sub(8)));
            if !prefix.is_empty() {
                prompt.push(self.tokens.first_timestamp);
                prompt.extend(&prefix);
                given = prefix.len() + 1;
            }
        }
        let decoding = Decoding { rounds, voice: self, heard: window.heard, ticket };
        let found = decoding.run(&prompt, (start, given), &course.search).await?;
        let understood = found.log_probability > course.search.least_log_probability;
        if found.silence > course.search.most_silence && !understood {
            return Ok(window.frames);
        }
        let cut = segments::cut(&self.tokens, &found.tokens, window.frames);
        ticket.check()?;
        let (segments, words_end) = self.timed(rounds, window, &cut, &found, course).await?;
        // A window whose text is not closed goes on after its last word.
        let spoken = words_end.map(|end| ((end - window.seconds()) * 100.0).round().max(0.0) as usize);
        let advance = spoken.filter(|frames| !cut.whole && *frames > 0).unwrap_or(cut.advance);
        for (segment, piece) in segments.into_iter().zip(&cut.pieces) {
            let silent = segment.start >= segment.end || segment.text.trim().is_empty();
            if !silent {
                course.segments.push(segment);
                course.said.extend(&piece.tokens);
            }
        }
        if !course.request.condition_on_previous_text || found.temperature > STEADY {
            course.forgotten = course.said.len();
        }
        Ok(advance)
    }

    /// The segments of a window with their words, and when the last word ended.
    async fn timed(
        &self,
        rounds: &Rounds,
        window: &Window<'_>,
        cut: &Cut,
        found: &Found,
        course: &mut Course<'_>,
    ) -> Result<(Vec<TranscriptSegment>, Option<f64>), AiError> {
        let text_of = |piece: &Piece| -> Vec<u32> {
            piece.tokens.iter().copied().filter(|token| *token < self.tokens.end).collect()
        };
        let texts: Vec<Vec<u32>> = cut.pieces.iter().map(text_of).collect();
        let all: Vec<u32> = texts.iter().flatten().copied().collect();
        let said = (course.language.as_str(), course.request.translate);
        let mut words = align::align(rounds, window.heard, self, said, &all, window.frames).await?;
        let usual = align::curb(&mut words);
        align::join_signs(&mut words);
        let mut words = words.into_iter().peekable();
        let mut segments = Vec::with_capacity(cut.pieces.len());
        let (mut last_word, mut end, mut used, mut due) = (course.last_word, None, 0, 0);
        for (piece, text) in cut.pieces.iter().zip(&texts) {
            let mut segment = TranscriptSegment {
                start: window.seconds() + piece.start,
                end: window.seconds() + piece.end,
                text: self.tokens.decode(text),
                temperature: f64::from(found.temperature),
                avg_logprob: found.log_probability,
                compression_ratio: found.compression,
                no_speech_prob: found.silence,
                words: Vec::new(),
            };
            due += text.len();
            let mut own = Vec::new();
            while let Some(word) = words.next_if(|_| used < due) {
                used += word.tokens;
                let shift = window.seconds();
                own.push(Timed { start: shift + word.start, end: shift + word.end, ..word });
            }
            fit(&mut segment, &mut own, usual, last_word);
            if let Some(word) = segment.words.last() {
                (last_word, end) = (segment.end, Some(word.end));
            }
            let lonely = course.request.hallucination_silence_threshold.is_some_and(|threshold| {
                let rest = window.seconds() + (window.frames * HOP) as f64 / RATE as f64 - segment.end;
                made_up(&own) && segment.start - course.last_word > threshold && rest > threshold
            });
            if lonely {
                segment.text.clear();
            }
            segments.push(segment);
        }
        course.last_word = last_word;
        Ok((segments, end))
    }
}

/// Makes the times of a segment and of its words agree: a first word that was stretched over the pause before it is cut,
/// and so is a last one that goes on after the segment.
fn fit(segment: &mut TranscriptSegment, words: &mut [Timed], usual: Usual, last_word: f64) {
    let count = words.len();
    if count == 0 {
        return;
    }
    let length = |word: &Timed| word.end - word.start;
    let after_pause = words[0].end - last_word > usual.median * 4.0;
    let stretched = length(&words[0]) > usual.most || (count > 1 && words[1].end - words[0].start > usual.most * 2.0);
    if after_pause && stretched {
        if count > 1 && length(&words[1]) > usual.most {
            let boundary = (words[1].end / 2.0).max(words[1].end - usual.most);
            (words[0].end, words[1].start) = (boundary, boundary);
        }
        words[0].start = (words[0].end - usual.most).max(0.0);
    }
    if segment.start < words[0].end && segment.start - 0.5 > words[0].start {
        words[0].start = (words[0].end - usual.median).min(segment.start).max(0.0);
    } else {
        segment.start = words[0].start;
    }
    let last = &mut words[count - 1];
    if segment.end > last.start && segment.end + 0.5 < last.end {
        last.end = (last.start + usual.median).max(segment.end);
    } else {
        segment.end = last.end;
    }
    let word = |word: &Timed| TranscriptWord { word: word.word.clone(), start: word.start, end: word.end };
    segment.words = words.iter().map(word).collect();
}

/// Whether a segment's words are so improbable, short or long that nobody may have said them.
fn made_up(words: &[Timed]) -> bool {
    let score = |word: &Timed| {
        let length = word.end - word.start;
        f64::from(word.probability < 0.15) + ((0.133 - length) * 15.0).max(0.0) + (length - 2.0).max(0.0)
    };
    let some: Vec<f64> = words.iter().take(8).map(score).collect();
    let total: f64 = some.iter().sum();
    !some.is_empty() && (total >= 3.0 || total + 0.01 >= some.len() as f64)
}

/// Times of the file, in hundredths of a second.
fn restore(segment: &mut TranscriptSegment, sound: &vad::Heard, duration: f64) {
    let original = |seconds: f64| (sound.original(seconds).clamp(0.0, duration) * 100.0).round() / 100.0;
    segment.start = original(segment.start);
    segment.end = original(segment.end).max(segment.start);
    for word in &mut segment.words {
        word.start = original(word.start);
        word.end = original(word.end).max(word.start);
    }
}
