//! Sound as models of speech take it: one channel at 16 kHz, out of whatever file it came in.
//!
//! A [`Sound`] is read piece by piece, so an hour of speech takes no more memory than its file and half a minute of
//! samples. The file is hostile: headers may claim any length, rate or number of channels. What is allocated follows
//! from packets that are there, never from what a header promises; a decoder that panics is a file that cannot be read.

mod resample;
mod source;

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;

pub(crate) use resample::Resampler;
use source::Source;

/// Samples of a second.
pub(crate) const RATE: usize = 16_000;
/// Longer files are refused: six hours, many times what is sent in one call.
const MAX_SAMPLES: usize = 6 * 3600 * RATE;

/// A file of sound while it is read.
pub(crate) struct Sound {
    source: Source,
    resampler: Option<Resampler>,
    /// Of the source, at its own rate.
    piece: Vec<f32>,
    given: usize,
    ended: bool,
}

impl Sound {
    /// Looks at the file's header. The error says what is wrong with the file.
    pub(crate) fn open(bytes: Bytes) -> Result<Sound, String> {
        let source = guarded(|| Source::open(bytes))?;
        Ok(Sound { source, resampler: None, piece: Vec::new(), given: 0, ended: false })
    }

    /// Appends samples to `out` until it has at least `count`, or the file has ended.
    pub(crate) fn fill(&mut self, out: &mut Vec<f32>, count: usize) -> Result<(), String> {
        while out.len() < count && !self.ended {
            let before = out.len();
            guarded(|| self.more(out))?;
            for sample in &mut out[before..] {
                // A file of floats may hold anything.
                *sample = if sample.is_finite() { sample.clamp(-8.0, 8.0) } else { 0.0 };
            }
            self.given += out.len() - before;
            if self.given > MAX_SAMPLES {
                return Err(format!("it is longer than {} hours", MAX_SAMPLES / RATE / 3600));
            }
        }
        Ok(())
    }

    /// Whether all samples have been given.
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    fn more(&mut self, out: &mut Vec<f32>) -> Result<(), String> {
        self.piece.clear();
        let rate = self.source.next(&mut self.piece)?;
        let Some(rate) = rate else {
            self.ended = true;
            return self.resampler.as_mut().map_or(Ok(()), |resampler| resampler.finish(out));
        };
        if rate == RATE {
            out.append(&mut self.piece);
            return Ok(());
        }
        if self.resampler.is_none() {
            self.resampler = Some(Resampler::new(rate)?);
        }
        self.resampler.as_mut().map_or(Ok(()), |resampler| resampler.push(&self.piece, out))
    }
}

/// Decoders are others' code in the face of hostile files.
fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("its decoder failed on it".to_owned()))
}

#[cfg(test)]
mod tests;
