//! VITS (Kim et al. 2021) as transformers has it: a text's tokens, how long each lasts, frames, and the waveform.
//!
//! Chance comes from outside, as noise of the shape that a stage asks for, so that each stage can be compared with the
//! reference's.

use std::num::NonZeroUsize;
use std::path::Path;

use super::config::Config;
use super::decoder::Decoder;
use super::durations::DurationPredictor;
use super::flow::Flow;
use super::layers::{Compute, read};
use super::text::{Encoded, TextEncoder};
use crate::AiError;
use crate::noise::Noise;
use crate::room::Reservation;
use crate::tensors::Tensors;

/// Whether to go on; asked between steps.
pub(super) type Check<'a> = &'a dyn Fn() -> Result<(), AiError>;
/// Reserves memory for so many values.
pub(super) type Reserve<'a> = &'a dyn Fn(usize) -> Result<Reservation, AiError>;

/// The longest that a piece of text is spoken, in seconds: far more than any sentence of [`super::pieces::LONGEST`] takes.
const MOST_SECONDS: usize = 120;
/// And in frames, however short they are.
const MOST_FRAMES: usize = 1 << 14;

/// A model and the threads that compute with it.
pub(super) struct Vits {
    pub(super) config: Config,
    pub(super) compute: Compute,
    pub(super) text: TextEncoder,
    pub(super) durations: DurationPredictor,
    pub(super) flow: Flow,
    pub(super) decoder: Decoder,
    /// A row for each voice.
    voices: Vec<f32>,
}

/// How to say something.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    /// Which voice, where there are several.
    pub(super) voice: usize,
    /// How many times as fast as usual.
    pub(super) speed: f32,
}

impl Vits {
    /// Reads the weights of `folder`. The error says what is wrong with which file.
    pub(super) fn load(folder: &Path, config: Config, threads: NonZeroUsize) -> Result<Vits, String> {
        let compute = Compute::new(threads)?;
        let mut tensors = Tensors::open(folder)?;
        let voices = match &config.voices {
            Some(voices) => read(&mut tensors, "embed_speaker.weight", &[voices.count, voices.width])?,
            None => Vec::new(),
        };
        Ok(Vits {
            text: TextEncoder::load(&mut tensors, &config)?,
            durations: DurationPredictor::load(&mut tensors, &config)?,
            flow: Flow::load(&mut tensors, &config)?,
            decoder: Decoder::load(&mut tensors, &config)?,
            voices,
            compute,
            config,
        })
    }

    /// The vector of a voice; empty where there is but one.
    pub(super) fn voice(&self, voice: usize) -> &[f32] {
        match &self.config.voices {
            Some(voices) => &self.voices[voice * voices.width..][..voices.width],
            None => &[],
        }
    }

    /// The waveform of tokens, each less than the vocabulary, with samples from -1 to 1. Memory is reserved once it is known
    /// how long they last; what a sentence's text takes before is little.
    pub(super) fn speak(
        &self,
        tokens: &[u32],
        manner: Manner,
        noise: &mut Noise,
        reserve: Reserve<'_>,
        check: Check<'_>,
    ) -> Result<Vec<f32>, AiError> {
        let _step = self.compute.pool.step();
        let voice = self.voice(manner.voice);
        let encoded = self.text.encode(&self.compute, tokens);
        check()?;
        let chance = noise.take(self.durations.noise() * tokens.len());
        let chance: Vec<f32> = chance.into_iter().map(|value| value * self.config.duration_noise).collect();
        let logs = self.durations.forward(&self.compute, &encoded.states, voice, &chance);
        let frames = self.frames(&logs, manner.speed)?;
        let total: usize = frames.iter().sum();
        let _reserved = reserve(self.peak(total))?;
        let mut x = self.prior(&encoded, &frames, &noise.take(total * self.config.flow_size));
        self.flow.undo(&self.compute, &mut x, voice, check)?;
        let waveform = self.decoder.forward(&self.compute, &x, voice, check)?;
        if waveform.iter().all(|sample| sample.is_finite()) {
            return Ok(waveform);
        }
        Err(AiError::internal("the model's waveform has values that are no numbers; verify the model"))
    }

    /// Values that so many frames and their waveform hold at most: noise, the sample and a layer of the flow, then
    /// a part of the waveform beside the whole.
    fn peak(&self, frames: usize) -> usize {
        let flow = 8 * frames * self.config.flow_size.max(self.config.text.width);
        2 * frames * self.config.flow_size + flow.max(frames * self.config.hop() + self.decoder.peak(frames))
    }

    /// Whole frames for each token. Of a text that would be over at once there is one frame.
    pub(super) fn frames(&self, logs: &[f32], speed: f32) -> Result<Vec<usize>, AiError> {
        let slowness = 1.0 / (self.config.speaking_rate * speed);
        let most = (MOST_SECONDS * self.config.rate as usize / self.config.hop()).min(MOST_FRAMES);
        let mut total = 0_usize;
        let mut frames = Vec::with_capacity(logs.len());
        for log in logs {
            let lasts = (log.exp() * slowness).ceil();
            if lasts.is_nan() || lasts > most as f32 {
                return Err(AiError::internal("the model gives a token no end; verify the model"));
            }
            total += lasts as usize;
            frames.push(lasts as usize);
        }
        if total > most {
            let why =
                format!("the model would speak a sentence for more than {MOST_SECONDS} seconds; verify the model");
            return Err(AiError::internal(why));
        }
        if let (0, Some(first)) = (total, frames.first_mut()) {
            *first = 1;
        }
        Ok(frames)
    }

    /// A sample of the text's distribution for each frame, a row each; `noise` has as many values.
    pub(super) fn prior(&self, encoded: &Encoded, frames: &[usize], noise: &[f32]) -> Vec<f32> {
        let size = self.config.flow_size;
        let rows = encoded.means.chunks_exact(size).zip(encoded.log_deviations.chunks_exact(size));
        let mut noise = noise.iter();
        let mut x = Vec::with_capacity(noise.len());
        for ((means, logs), count) in rows.zip(frames) {
            let deviations: Vec<f32> = logs.iter().map(|log| log.exp() * self.config.noise).collect();
            for _ in 0..*count {
                let row = means.iter().zip(&deviations).zip(noise.by_ref());
                x.extend(row.map(|((mean, deviation), noise)| mean + noise * deviation));
            }
        }
        x
    }
}
