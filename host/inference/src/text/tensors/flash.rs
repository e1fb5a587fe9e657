//! Attention by FlashAttention's kernels (Dao 2023), which read keys and values in the blocks where they lie.
//!
//! All rows of a step are one call, whatever their number in each sequence. A mask is never made: each sequence's rows
//! are its last ones, so that a row sees what stands before it, as far as the window goes.

use candle_core::{DType, Device, Result, Tensor};
use candle_flash_attn::flash_attn_varlen_paged_windowed;
use host_kernels::kv::BLOCK_TOKENS;

use super::attention::Heads;
use super::batch::Ragged;
use super::cache::LayerBlocks;

/// Sequences of a step, on the device.
#[derive(Clone)]
pub(super) struct Sequences {
    starts: Tensor,
    ends: Tensor,
    /// `[sequences, blocks]`.
    tables: Tensor,
    /// Rows of the longest.
    rows: usize,
}

impl Sequences {
    /// Copies them to `device`; none where the kernels do not run there or not for such heads.
    pub(super) fn upload(ragged: &Ragged, width: usize, device: &Device) -> Result<Option<Self>> {
        if !device.is_cuda() || !width.is_multiple_of(8) || width > 512 {
            return Ok(None);
        }
        let tables = Tensor::from_slice(&ragged.tables, (ragged.ends.len() - 1, ragged.blocks), device)?;
        let list = |values: &[u32]| Tensor::from_slice(values, values.len(), device);
        Ok(Some(Self { starts: list(&ragged.starts)?, ends: list(&ragged.ends)?, tables, rows: ragged.rows }))
    }

    /// Copies others, as many and as long, to where these lie.
    pub(super) fn refill(&self, ragged: &Ragged) -> Result<()> {
        let device = self.ends.device();
        self.ends.slice_set(&Tensor::from_slice(&ragged.ends, ragged.ends.len(), device)?, 0, 0)?;
        self.tables.slice_set(&Tensor::from_slice(&ragged.tables, self.tables.dims(), device)?, 0, 0)
    }

    /// Attends with `query`, `[rows, query heads · width]`, and gives the same shape.
    pub(super) fn attend(
        &self,
        heads: Heads,
        cache: &LayerBlocks,
        query: &Tensor,
        window: Option<usize>,
    ) -> Result<Tensor> {
        let rows = query.dim(0)?;
        let query = query.reshape((rows, heads.query, heads.width))?.to_dtype(DType::F16)?;
        let paged = |places: &Tensor| places.reshape(((), BLOCK_TOKENS, heads.key, heads.width));
        let attended = flash_attn_varlen_paged_windowed(
            &query,
            &paged(&cache.keys)?,
            &paged(&cache.values)?,
            &self.starts,
            &self.ends,
            &self.tables,
            None,
            self.rows,
            self.tables.dim(1)? * BLOCK_TOKENS,
            heads.scale,
            window.map(|window| window.saturating_sub(1)),
            Some(0),
            BLOCK_TOKENS,
            heads.cap,
        )?;
        attended.to_dtype(DType::F32)?.reshape((rows, heads.query * heads.width))
    }
}
