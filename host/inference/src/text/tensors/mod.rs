//! Decoders built of candle's tensors: what computes on a GPU.
//!
//! The same [`Description`] and [`Source`] that [`super::decoder::Decoder`] is read from, the same spans and block
//! tables from the same scheduler, so that nothing above [`ForwardPass`] knows where a model computes. Every operation
//! is one that candle has on each of its devices; the tests therefore compare this pass with the kernels on the
//! processor, where both run.
//!
//! What differs from the kernels is what a GPU asks for. Work is laid out in few large operations: rows are sorted so
//! that sequences with one token each are attended to together ([`batch`]), keys and values are gathered through the
//! block tables into one rectangle ([`attention`]; with the feature `flash-attn` FlashAttention reads the blocks where
//! they lie), and steps in which every sequence decodes are recorded once for each size and repeated (`graphs`). The
//! stream of a row stays float32, matrices keep the type of their file, keys and values are half precision as in the
//! kernels' store. A row's result depends on its neighbours in the last bits, because libraries for GPUs choose an
//! algorithm by the shape of a product: equality to the bit is what the kernels promise, not this pass.

mod attention;
mod batch;
mod cache;
#[cfg(feature = "flash-attn")]
mod flash;
#[cfg(any(feature = "cuda", test))]
mod graphs;
mod matrix;
mod network;

use std::sync::Arc;

use candle_core::Device;

pub use cache::TensorCache;

use super::decoder::{DecoderError, Description, Source};
use super::forward::{ForwardError, ForwardPass, Span};
use batch::Batch;
use network::{Network, Step};

/// Bytes of a device's memory to leave free beside weights and cache: keys, values, scores and weights of a group, the
/// rows of the widest step, and what libraries keep.
pub(crate) const STEP_BYTES: u64 = 4 * batch::SCRATCH as u64 + (512 << 20);

/// A decoder on a device.
pub struct TensorDecoder {
    network: Arc<Network>,
    logits: Vec<f32>,
}

impl TensorDecoder {
    /// Reads all weights of `description` out of `source`, which is not used afterwards, onto `device`.
    ///
    /// # Errors
    /// When [`Description::check`] fails, before memory is taken, values are not usable, or the device's memory is full.
    pub fn read(description: Description, source: Source<'_>, device: &Device) -> Result<Self, DecoderError> {
        description.check(source)?;
        let network = Arc::new(Network::read(description, source, device)?);
        Ok(Self { network, logits: Vec::new() })
    }

    /// Bytes of all matrices.
    pub fn bytes(&self) -> usize {
        self.network.bytes()
    }

    fn compute(&mut self, cache: &mut TensorCache, batch: &Batch) -> candle_core::Result<()> {
        self.logits.clear();
        #[cfg(feature = "cuda")]
        if cache.graphs.decode(&self.network, &cache.blocks, batch, &mut self.logits)? {
            return Ok(());
        }
        #[cfg(feature = "cuda")]
        cache.graphs.computed(batch.tokens.len());
        let step = Step::upload(batch, &self.network)?;
        if let Some(logits) = self.network.run(&step, &cache.blocks)? {
            self.logits = logits.flatten_all()?.to_vec1()?;
        }
        Ok(())
    }
}

/// The device's memory being full is told apart: it is no fault of the model's, and less work at once may do.
fn on_device(error: candle_core::Error) -> ForwardError {
    let text = error.to_string();
    if text.contains("OUT_OF_MEMORY") || text.contains("out of memory") {
        let text = text.lines().next().unwrap_or_default().to_owned();
        return ForwardError::DeviceMemory(text);
    }
    ForwardError::Candle(error)
}

impl ForwardPass for TensorDecoder {
    type Cache = TensorCache;
    const PREFILL: usize = 512;

    fn forward(&mut self, cache: &mut TensorCache, spans: &[Span<'_>]) -> Result<&[f32], ForwardError> {
        let batch = Batch::of(spans, self.vocabulary(), &cache.blocks)?;
        match self.compute(cache, &batch).map_err(on_device) {
            Ok(()) => Ok(&self.logits),
            Err(error) => {
                // What recordings hold may be what the next step lacks.
                #[cfg(feature = "cuda")]
                cache.graphs.release();
                Err(error)
            }
        }
    }

    fn vocabulary(&self) -> usize {
        self.network.vocabulary()
    }
}

#[cfg(test)]
mod tests;
