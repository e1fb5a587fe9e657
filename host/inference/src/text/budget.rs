//! How much memory a model gets for its weights and its cache, and of which memory.

use std::num::NonZeroUsize;

use candle_core::Device;
use host_kernels::kv::BLOCK_TOKENS;

use super::DEFAULT_CACHE;
use super::decoder::Decoder;
use super::decoder::Description;
use super::forward::ForwardPass;
use super::tensors::{STEP_BYTES, TensorCache};
use crate::device;

/// What a model may take.
pub(super) struct Budget<'a> {
    /// The device that computes with tensors; none where kernels compute.
    pub(super) device: Option<&'a Device>,
    /// Bytes of the weights.
    pub(super) weights: u64,
    /// What the configuration allows for weights and cache together.
    pub(super) allowed: Option<u64>,
}

impl Budget<'_> {
    /// Bytes of weights and cache together.
    pub(super) fn bytes(&self) -> u64 {
        match self.device.and_then(device::free_memory) {
            Some(free) => self.of_device(free),
            None => self.allowed.unwrap_or(self.weights.saturating_add(DEFAULT_CACHE)),
        }
    }

    /// Of a device with `free` bytes: what is allowed, as far as it is there, with room for the step's own tensors; and
    /// where nothing is said, half of what the weights leave, so that another model finds room too.
    fn of_device(&self, free: u64) -> u64 {
        let usable = free.saturating_sub(STEP_BYTES);
        let half = self.weights.saturating_add(usable.saturating_sub(self.weights) / 2);
        self.allowed.unwrap_or(half).min(usable)
    }

    /// Blocks of the cache: enough for all sequences at full length, as far as the memory goes.
    ///
    /// # Errors
    /// The bytes that would be needed, where there is not one block.
    pub(super) fn blocks(&self, model: &Description, sequences: NonZeroUsize) -> Result<usize, u64> {
        let shape = model.kv_shape();
        let block = if self.device.is_some() { TensorCache::block_bytes(shape) } else { shape.block_bytes() };
        let block = block.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(u64::MAX);
        let wanted = (model.context.div_ceil(BLOCK_TOKENS) as u64).saturating_mul(sequences.get() as u64);
        // On a device one block more is kept.
        let spare = u64::from(self.device.is_some());
        let left = self.bytes().saturating_sub(self.weights);
        let room = ((left - self.working(left, model, sequences)) / block).saturating_sub(spare);
        // Blocks are numbered with 32 bits.
        match usize::try_from(wanted.min(room).min(u64::from(u32::MAX))).unwrap_or(usize::MAX) {
            0 => {
                let least = if self.device.is_some() { 1 + spare } else { 2 };
                Err(self.weights.saturating_add(block.saturating_mul(least)))
            }
            blocks => Ok(blocks),
        }
    }

    /// Of `left` bytes beside the weights, what the kernels' steps take where memory is bounded: rows of activations for
    /// the longest piece of a prompt, and for each sequence its logits and what its sampler makes of them. At most half,
    /// so that a small budget runs, with a small cache.
    fn working(&self, left: u64, model: &Description, sequences: NonZeroUsize) -> u64 {
        if self.device.is_some() || self.allowed.is_none() {
            return 0;
        }
        let value = size_of::<f32>();
        // Logits, adjusted logits, candidates with their tokens.
        let of_sequence = model.vocabulary.saturating_mul(4 * value);
        // The stream, normed, out; queries and attended, keys, values; gate and up.
        let (queries, keys) = (model.heads * model.head, model.kv_heads * model.head);
        let of_row = (3 * model.width + 2 * queries + 2 * keys + 2 * model.inner).saturating_mul(value);
        let sequences = of_sequence.saturating_mul(sequences.get());
        let all = of_row.saturating_mul(Decoder::PREFILL).saturating_add(sequences);
        u64::try_from(all).unwrap_or(u64::MAX).min(left / 2)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::GgmlDType;

    use super::*;
    use crate::text::decoder::gguf;
    use crate::text::gguf::Header;
    use crate::text::testing::tiny_llama;

    fn budget(device: Option<&Device>, weights: u64, allowed: Option<u64>) -> Budget<'_> {
        Budget { device, weights, allowed }
    }

    #[test]
    fn a_device_gives_what_it_has_and_keeps_room_for_the_step() {
        let gib = 1u64 << 30;
        let of = |weights, allowed, free| budget(Some(&Device::Cpu), weights, allowed).of_device(free);
        let usable = 80 * gib - STEP_BYTES;
        assert_eq!(of(4 * gib, Some(20 * gib), 80 * gib), 20 * gib);
        assert_eq!(of(4 * gib, Some(200 * gib), 80 * gib), usable, "no more than there is");
        assert_eq!(of(4 * gib, None, 80 * gib), 4 * gib + (usable - 4 * gib) / 2, "another model finds room");
        assert_eq!(of(4 * gib, None, gib), 0, "refused before anything is taken");
    }

    #[test]
    fn blocks_follow_from_bytes() {
        let bytes = tiny_llama(&[GgmlDType::Q8_0]).bytes();
        let header = Header::parse(&bytes).unwrap();
        let model = gguf::describe(header.view(&bytes)).unwrap();
        let sequences = NonZeroUsize::new(4).unwrap();
        let all = model.context.div_ceil(BLOCK_TOKENS) * 4;
        for device in [None, Some(&Device::Cpu)] {
            let shape = model.kv_shape();
            let block = if device.is_some() { TensorCache::block_bytes(shape) } else { shape.block_bytes() };
            let (block, spare) = (block.unwrap() as u64, u64::from(device.is_some()));
            assert_eq!(budget(device, 100, None).blocks(&model, sequences), Ok(all));
            // What steps take is half of so little.
            let share = if device.is_some() { 1 } else { 2 };
            let three = 100 + (3 + spare) * block * share;
            assert_eq!(budget(device, 100, Some(three)).blocks(&model, sequences), Ok(3));
            assert_eq!(budget(device, 100, Some(three + block - 1)).blocks(&model, sequences), Ok(3));
            let least = 100 + (1 + spare) * block * share;
            assert_eq!(budget(device, 100, Some(least)).blocks(&model, sequences), Ok(1));
            let short = if device.is_some() { least - 1 } else { 100 + block };
            assert_eq!(budget(device, 100, Some(short)).blocks(&model, sequences), Err(least));
        }
    }
}
