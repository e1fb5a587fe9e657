//! Where keys and values lie: blocks of 32 tokens, outside any model.
//!
//! A sequence owns a list of blocks, so its cache grows without moving and sequences of any lengths share one store;
//! who owns which block is the allocator's matter, not this module's. Values are half precision, which halves both the
//! memory and what a decode step reads. Inside a block each layer and head has its keys transposed (`[width][32]`), so
//! that scores of 32 tokens are one vector, and its values by token (`[32][width]`, padded to a multiple of 32).

use crate::isa::{Isa, Level};

/// Tokens in a block.
pub const BLOCK_TOKENS: usize = 32;

/// The shape of one token's keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// Layers of the model.
    pub layers: usize,
    /// Heads that have keys and values.
    pub heads: usize,
    /// Values in a head.
    pub width: usize,
}

impl KvShape {
    pub(crate) fn padded(self) -> usize {
        self.width.next_multiple_of(BLOCK_TOKENS)
    }

    fn head_values(self) -> usize {
        BLOCK_TOKENS * (self.width + self.padded())
    }

    /// Bytes of one block, all layers together; none if that is more than can be addressed.
    pub fn block_bytes(self) -> Option<usize> {
        let padded = self.width.checked_next_multiple_of(BLOCK_TOKENS)?;
        let head = self.width.checked_add(padded)?.checked_mul(BLOCK_TOKENS * size_of::<u16>())?;
        head.checked_mul(self.heads)?.checked_mul(self.layers)
    }
}

/// The blocks. Memory is taken from the system when a block is first written.
pub struct KvStore {
    shape: KvShape,
    blocks: usize,
    values: Vec<u16>,
    narrow: Vec<u16>,
}

impl KvStore {
    /// A store of `blocks` blocks. Their bytes must be addressable: see [`KvShape::block_bytes`].
    pub fn new(shape: KvShape, blocks: usize) -> Self {
        let per_block = shape.head_values() * shape.heads * shape.layers;
        Self { shape, blocks, values: vec![0; per_block * blocks], narrow: vec![0; shape.heads * shape.width] }
    }

    /// The shape of a token.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    fn start(&self, block: u32, layer: usize, head: usize) -> usize {
        let block = block as usize;
        assert!(block < self.blocks && layer < self.shape.layers && head < self.shape.heads);
        ((block * self.shape.layers + layer) * self.shape.heads + head) * self.shape.head_values()
    }

    /// Stores one token's key and value (each all heads, one after another) of one layer at place `slot` of `block`.
    pub fn write(&mut self, isa: Isa, block: u32, slot: usize, layer: usize, key: &[f32], value: &[f32]) {
        let KvShape { heads, width, .. } = self.shape;
        assert!(slot < BLOCK_TOKENS && key.len() == heads * width && value.len() == heads * width);
        let mut narrow = std::mem::take(&mut self.narrow);
        narrow_row(isa, key, &mut narrow);
        for (head, key) in narrow.chunks_exact(width).enumerate() {
            let start = self.start(block, layer, head);
            let keys = &mut self.values[start..start + BLOCK_TOKENS * width];
            for (place, key) in keys.chunks_exact_mut(BLOCK_TOKENS).zip(key) {
                place[slot] = *key;
            }
        }
        narrow_row(isa, value, &mut narrow);
        for (head, value) in narrow.chunks_exact(width).enumerate() {
            let start = self.start(block, layer, head) + BLOCK_TOKENS * width + slot * self.shape.padded();
            self.values[start..start + width].copy_from_slice(value);
        }
        self.narrow = narrow;
    }

    /// Makes block `to` hold what block `from` holds.
    pub fn copy(&mut self, from: u32, to: u32) {
        assert!((from as usize) < self.blocks && (to as usize) < self.blocks);
        let length = self.shape.head_values() * self.shape.heads * self.shape.layers;
        let start = from as usize * length;
        self.values.copy_within(start..start + length, to as usize * length);
    }

    /// Keys `[width][32]` and values `[32][padded width]` of one layer and head.
    pub(crate) fn head(&self, block: u32, layer: usize, head: usize) -> (&[u16], &[u16]) {
        let start = self.start(block, layer, head);
        self.values[start..start + self.shape.head_values()].split_at(BLOCK_TOKENS * self.shape.width)
    }
}

fn narrow_row(isa: Isa, from: &[f32], to: &mut [u16]) {
    assert_eq!(from.len(), to.len());
    match isa.0 {
        Level::Scalar => {
            for (from, to) in from.iter().zip(to) {
                *to = half::f16::from_f32(*from).to_bits();
            }
        }
        #[cfg(target_arch = "x86_64")]
        // SAFETY: these levels exist only where detection found f16c and avx.
        Level::Avx2 | Level::AvxVnni | Level::Avx512Vnni => unsafe { narrow_f16c(from, to) },
        #[cfg(target_arch = "aarch64")]
        Level::Neon | Level::NeonDot => narrow_neon(from, to),
    }
}

#[cfg(target_arch = "aarch64")]
fn narrow_neon(from: &[f32], to: &mut [u16]) {
    use std::arch::aarch64::{vld1q_f32, vst1_u16};
    let (blocks, rest) = from.as_chunks::<4>();
    let (outs, out_rest) = to.as_chunks_mut::<4>();
    for (block, out) in blocks.iter().zip(outs) {
        // SAFETY: four values of 32 bits are read, four of 16 bits written, both inside their arrays.
        unsafe { vst1_u16(out.as_mut_ptr(), crate::simd::neon::narrow(vld1q_f32(block.as_ptr()))) };
    }
    for (from, to) in rest.iter().zip(out_rest) {
        *to = half::f16::from_f32(*from).to_bits();
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx,f16c")]
fn narrow_f16c(from: &[f32], to: &mut [u16]) {
    use std::arch::x86_64::{_MM_FROUND_TO_NEAREST_INT, _mm_storeu_si128, _mm256_cvtps_ph, _mm256_loadu_ps};
    let (blocks, rest) = from.as_chunks::<8>();
    let (outs, out_rest) = to.as_chunks_mut::<8>();
    for (block, out) in blocks.iter().zip(outs) {
        // SAFETY: eight values of 32 bits are read, eight of 16 bits written, both inside their arrays.
        unsafe {
            let narrow = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(block.as_ptr()));
            _mm_storeu_si128(out.as_mut_ptr().cast(), narrow);
        }
    }
    for (from, to) in rest.iter().zip(out_rest) {
        *to = half::f16::from_f32(*from).to_bits();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else_changes() {
        let shape = KvShape { layers: 2, heads: 2, width: 20 };
        assert_eq!(shape.block_bytes(), Some(2 * 2 * 2 * 32 * (20 + 32)));
        for isa in Isa::available() {
            let mut store = KvStore::new(shape, 3);
            let key: Vec<f32> = (0..40).map(|i| i as f32 + 1.0).collect();
            let value: Vec<f32> = (0..40).map(|i| -(i as f32) - 1.0).collect();
            store.write(isa, 1, 31, 1, &key, &value);
            for head in 0..2 {
                let (keys, values) = store.head(1, 1, head);
                for i in 0..20 {
                    assert_eq!(half::f16::from_bits(keys[i * 32 + 31]).to_f32(), (head * 20 + i) as f32 + 1.0);
                    assert_eq!(half::f16::from_bits(values[31 * 32 + i]).to_f32(), -((head * 20 + i) as f32) - 1.0);
                }
            }
            assert_eq!(store.values.iter().filter(|v| **v != 0).count(), 80);
        }
    }

    #[test]
    fn absurd_shapes_are_noticed() {
        assert_eq!(KvShape { layers: usize::MAX, heads: 2, width: 64 }.block_bytes(), None);
        assert_eq!(KvShape { layers: 1, heads: 1, width: usize::MAX }.block_bytes(), None);
    }
}
