//! From one rate to another, chunk by chunk.

use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Indexing, Resampler as _};

use super::RATE;

/// Frames that are resampled at a time.
const CHUNK: usize = 1024;

/// A band-limited change of rate whose own delay is taken off.
pub(crate) struct Resampler {
    resampler: Fft<f32>,
    /// Samples that do not fill a chunk yet.
    waiting: Vec<f32>,
    out: Vec<f32>,
    /// Samples at the begin that are the filter's, not the sound's.
    skip: usize,
    rate: usize,
    to: usize,
    taken: usize,
    given: usize,
}

impl Resampler {
    /// To the rate that models of speech hear at.
    pub(super) fn new(rate: usize) -> Result<Resampler, String> {
        Self::between(rate, RATE)
    }

    /// From `rate` samples a second to `to`.
    pub(crate) fn between(rate: usize, to: usize) -> Result<Resampler, String> {
        let resampler = Fft::new(rate, to, CHUNK, 1, FixedSync::Input).map_err(|error| error.to_string())?;
        let out = vec![0.0; resampler.output_frames_max()];
        let skip = resampler.output_delay();
        Ok(Resampler { resampler, waiting: Vec::new(), out, skip, rate, to, taken: 0, given: 0 })
    }

    /// Takes samples and gives those that can be known by now.
    pub(crate) fn push(&mut self, samples: &[f32], out: &mut Vec<f32>) -> Result<(), String> {
        self.taken += samples.len();
        self.waiting.extend_from_slice(samples);
        let mut used = 0;
        while self.waiting.len() - used >= self.resampler.input_frames_next() {
            used += self.chunk(used, None, out)?;
        }
        self.waiting.drain(..used);
        Ok(())
    }

    /// Gives the rest, so that as much sound comes out as went in.
    pub(crate) fn finish(&mut self, out: &mut Vec<f32>) -> Result<(), String> {
        let whole = (self.taken * self.to).div_ceil(self.rate);
        while self.given < whole {
            let rest = self.waiting.len();
            self.waiting.resize(rest.max(self.resampler.input_frames_next()), 0.0);
            self.chunk(0, Some(rest), out)?;
            self.waiting.clear();
        }
        out.truncate(out.len() - (self.given - whole));
        Ok(())
    }

    /// Resamples one chunk of what waits, from `from` on; gives how much of it was used.
    fn chunk(&mut self, from: usize, partial: Option<usize>, out: &mut Vec<f32>) -> Result<usize, String> {
        let waiting = &self.waiting[from..];
        let input = InterleavedSlice::new(waiting, 1, waiting.len()).map_err(|error| error.to_string())?;
        let room = self.out.len();
        let mut output = InterleavedSlice::new_mut(&mut self.out, 1, room).map_err(|error| error.to_string())?;
        let mut indexing = Indexing::new();
        if let Some(partial) = partial {
            indexing = indexing.partial_len(partial);
        }
        let (used, made) = self
            .resampler
            .process_into_buffer(&input, &mut output, Some(&indexing))
            .map_err(|error| error.to_string())?;
        let skipped = self.skip.min(made);
        self.skip -= skipped;
        out.extend_from_slice(&self.out[skipped..made]);
        self.given += made - skipped;
        Ok(used)
    }
}
