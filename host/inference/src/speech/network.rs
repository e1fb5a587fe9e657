//! Whisper's forward pass (Radford et al. 2022): an encoder over half a minute of spectrogram, and a decoder that writes
//! the text.
//!
//! What decoding reads again and again is computed once: keys and values of the encoder's states for the cross
//! attention, packed for the product kernel, and those of earlier tokens. The latter lie in slots, and a hypothesis is the
//! list of the slots of its tokens, so that a beam search forks and drops hypotheses without moving a value.

mod decoder;
mod encoder;
mod matrix;

use std::num::NonZeroUsize;
use std::path::Path;

use host_kernels::isa::Isa;
use host_kernels::threads::ThreadPool;

pub use host_terms::Precision;

use super::config::Config;
use crate::tensors::Tensors;
pub(crate) use decoder::{Cache, Row};
use decoder::{Cross, Decoder};
use encoder::Encoder;
use matrix::Machine;

/// A model's weights and the threads that compute with them.
pub(crate) struct Network {
    pub(crate) config: Config,
    machine: Machine,
    encoder: Encoder,
    decoder: Decoder,
}

/// The encoder's states of one window, as the decoder reads them.
pub(crate) struct Heard {
    cross: Cross,
}

/// The tokens that one request has read next.
pub(crate) struct Group<'a, 'r> {
    pub(crate) heard: &'a Heard,
    /// Where the keys and values of its tokens are, and those of `rows` go.
    pub(crate) cache: &'a mut Cache,
    pub(crate) rows: &'a [Row<'r>],
    /// The rows whose logits are wanted.
    pub(crate) wanted: &'a [usize],
    pub(crate) watch: Option<&'a mut Watch>,
    /// The logits of the rows `wanted`, in order, once it has been read.
    pub(crate) logits: Vec<f32>,
}

/// Scores of heads of the cross attention, before the softmax: for each head, a row for each token, in it a value for each
/// position of the encoder.
pub(crate) struct Watch {
    /// Layers, and heads of them.
    pub(crate) heads: Vec<(usize, usize)>,
    pub(crate) scores: Vec<Vec<f32>>,
}

impl Network {
    /// Reads the weights of `folder`. The error says what is wrong with which file.
    pub(crate) fn load(
        folder: &Path,
        config: Config,
        precision: Precision,
        threads: NonZeroUsize,
    ) -> Result<Network, String> {
        let pool = ThreadPool::new("speech", threads).map_err(|error| format!("no threads for the model: {error}"))?;
        let mut tensors = Tensors::open(folder)?;
        if tensors.shape("model.encoder.conv1.weight").is_some() {
            tensors = tensors.below("model.");
        }
        let encoder = Encoder::load(&mut tensors, &config, precision)?;
        let decoder = Decoder::load(&mut tensors, &config, precision)?;
        let machine = Machine { isa: Isa::best(), pool };
        Ok(Network { config, machine, encoder, decoder })
    }

    /// Lets go of the buffers that one window leaves to the next.
    pub(crate) fn forget(&mut self) {
        self.encoder.forget();
    }

    /// Reads a spectrogram of [`Config::frames`] frames.
    pub(crate) fn hear(&mut self, spectrogram: &[f32]) -> Heard {
        let _step = self.machine.pool.step();
        let states = self.states(spectrogram);
        Heard { cross: self.decoder.cross(&self.machine, &states) }
    }

    /// The encoder's states, one row for each position.
    fn states(&mut self, spectrogram: &[f32]) -> Vec<f32> {
        assert_eq!(spectrogram.len(), self.config.frames() * self.config.mels, "a spectrogram of the wrong size");
        self.encoder.forward(&self.machine, spectrogram)
    }

    /// Reads the tokens of several requests in one pass over the weights.
    pub(crate) fn read(&mut self, groups: &mut [Group<'_, '_>]) {
        let _step = self.machine.pool.step();
        self.decoder.forward(&self.machine, groups);
    }
}

#[cfg(test)]
mod tests;
