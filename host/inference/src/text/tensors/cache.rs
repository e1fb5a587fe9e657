//! Keys and values on a device, in blocks of 32 tokens.
//!
//! A layer's keys are one matrix with a row for each place of each block, its values another, both half precision: the
//! layout `[blocks, 32, key-value heads, head]` that FlashAttention reads, and from which rows can be gathered by
//! place. One block more than sequences get is kept for what a padded step writes; its last place is never written, so
//! what a sequence does not have can be read from there as zeros. Reading other sequences' leftovers instead, at
//! weight zero, would not do: zero times infinity is no number, and one broken sequence would break others.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use host_kernels::kv::{BLOCK_TOKENS, KvShape};

use super::attention::Constants;
use crate::text::decoder::Description;
use crate::text::forward::KvCache;

/// The keys and values of one layer, each `[places, heads · head width]`.
pub(super) struct LayerBlocks {
    pub(super) keys: Tensor,
    pub(super) values: Tensor,
}

/// The blocks of all layers, written in place by whoever computes with them.
pub(super) struct Blocks {
    /// For sequences.
    pub(super) count: usize,
    pub(super) layers: Vec<LayerBlocks>,
    pub(super) constants: Constants,
    /// Bytes of a block's keys, or values, in one layer.
    pub(super) layer_bytes: usize,
    /// Query heads, which scores have a row for.
    pub(super) heads: usize,
}

impl Blocks {
    /// The block that belongs to no sequence.
    pub(super) fn spare(&self) -> u32 {
        self.count as u32
    }
}

/// The cache of one model.
pub struct TensorCache {
    pub(super) blocks: Arc<Blocks>,
    /// The steps that were recorded with these blocks.
    #[cfg(feature = "cuda")]
    pub(super) graphs: super::graphs::Graphs<host_kernels::cuda::Graph>,
}

impl TensorCache {
    /// Takes the memory for `count` blocks of a model of this description.
    ///
    /// # Errors
    /// When the device has not got it.
    pub fn new(description: &Description, count: usize, device: &Device) -> candle_core::Result<Self> {
        let KvShape { layers, heads, width } = description.kv_shape();
        // Places are told to the device as 32-bit numbers.
        let places = count.checked_add(1).and_then(|blocks| blocks.checked_mul(BLOCK_TOKENS));
        let Some(places) = places.filter(|places| u32::try_from(*places).is_ok()) else {
            candle_core::bail!("a cache of {count} blocks has more places than can be numbered")
        };
        let matrix = || Tensor::zeros((places, heads * width), DType::F16, device);
        let layers = (0..layers).map(|_| Ok(LayerBlocks { keys: matrix()?, values: matrix()? }));
        let blocks = Blocks {
            count,
            layers: layers.collect::<candle_core::Result<_>>()?,
            constants: Constants::new(description.context, count as u32, device)?,
            layer_bytes: BLOCK_TOKENS * heads * width * size_of::<u16>(),
            heads: description.heads,
        };
        Ok(Self {
            blocks: Arc::new(blocks),
            #[cfg(feature = "cuda")]
            graphs: super::graphs::Graphs::default(),
        })
    }

    /// Bytes of one block, all layers together; none if that is more than can be addressed.
    pub fn block_bytes(shape: KvShape) -> Option<usize> {
        let layer =
            BLOCK_TOKENS.checked_mul(2 * size_of::<u16>())?.checked_mul(shape.width)?.checked_mul(shape.heads)?;
        layer.checked_mul(shape.layers)
    }
}

impl KvCache for TensorCache {
    fn blocks(&self) -> usize {
        self.blocks.count
    }
}
