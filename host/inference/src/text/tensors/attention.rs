//! Attention over blocks, built of gathers and products.
//!
//! The sequences of a group become one rectangle: as many tokens as the longest of them has, gathered through their
//! tables. What a sequence has not got comes from a place that holds zeros, and a bias of minus infinity takes it out
//! of the softmax. Query heads that share a key-value head are further rows of one product.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::ops::softmax_last_dim;
use host_kernels::kv::BLOCK_TOKENS;

use super::cache::LayerBlocks;

/// What all layers have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    pub(super) query: usize,
    pub(super) key: usize,
    pub(super) width: usize,
    /// Products of queries and keys are multiplied by this.
    pub(super) scale: f32,
    /// Scaled products are bent to `cap · tanh(x / cap)`.
    pub(super) cap: Option<f32>,
}

/// Numbers that a device is told once, because nothing may be copied to it while a step is recorded.
pub(super) struct Constants {
    /// 0, 1, 2, …, one for each position there may be.
    positions: Tensor,
    /// 0 to 31.
    places: Tensor,
    /// 32.
    block: Tensor,
    /// The place that holds zeros.
    nowhere: Tensor,
    zero: Tensor,
    infinite: Tensor,
}

impl Constants {
    pub(super) fn new(context: usize, spare_block: u32, device: &Device) -> Result<Self> {
        let tokens = BLOCK_TOKENS as u32;
        // Tables of recorded steps are longer than the context by up to a factor of two.
        let positions = context.next_multiple_of(BLOCK_TOKENS).next_power_of_two();
        Ok(Self {
            positions: Tensor::arange(0f32, positions as f32, device)?,
            places: Tensor::arange(0u32, tokens, device)?.reshape((1, 1, BLOCK_TOKENS))?,
            block: Tensor::new(&[[[tokens]]], device)?,
            nowhere: Tensor::new(&[[spare_block * tokens + tokens - 1]], device)?,
            zero: Tensor::new(&[[[0f32]]], device)?,
            infinite: Tensor::new(&[[[f32::NEG_INFINITY]]], device)?,
        })
    }
}

/// A group, as a device knows it.
#[derive(Clone)]
pub(super) struct Gathered {
    /// First row and number of rows.
    rows: (usize, usize),
    sequences: usize,
    tokens: usize,
    /// Which row of the cache each token of each sequence is.
    places: Tensor,
    /// The position of each row, `[sequences, queries, 1]`.
    positions: Tensor,
}

impl Gathered {
    /// For `rows` (first, count) whose positions and whose sequences' tables, of `blocks` blocks each, are given.
    pub(super) fn new(
        constants: &Constants,
        rows: (usize, usize),
        sequences: usize,
        blocks: usize,
        positions: &Tensor,
        tables: &Tensor,
    ) -> Result<Self> {
        let (queries, tokens) = (rows.1 / sequences, blocks * BLOCK_TOKENS);
        let positions = positions.narrow(0, rows.0, rows.1)?.reshape((sequences, queries, 1))?;
        let places = tables.reshape((sequences, blocks, 1))?.broadcast_mul(&constants.block)?;
        let places = places.broadcast_add(&constants.places)?.reshape((sequences, tokens))?;
        let last = positions.narrow(1, queries - 1, 1)?.reshape((sequences, 1))?;
        let held = constants.positions.narrow(0, 0, tokens)?.reshape((1, tokens))?.broadcast_le(&last)?;
        let places = held.where_cond(&places, &constants.nowhere.broadcast_as((sequences, tokens))?)?;
        Ok(Self { rows, sequences, tokens, places: places.flatten_all()?, positions })
    }

    /// What is added to scores so that each row sees what it may: `[sequences, 1, 1, queries, tokens]`.
    pub(super) fn bias(&self, constants: &Constants, window: Option<usize>) -> Result<Tensor> {
        let tokens = constants.positions.narrow(0, 0, self.tokens)?.reshape((1, 1, self.tokens))?;
        let mut seen = tokens.broadcast_le(&self.positions)?;
        if let Some(window) = window {
            // A window of one token is the row's own.
            let oldest = self.positions.affine(1.0, 1.0 - window as f64)?;
            seen = (seen * tokens.broadcast_ge(&oldest)?)?;
        }
        let shape = seen.shape().clone();
        let bias = seen.where_cond(&constants.zero.broadcast_as(&shape)?, &constants.infinite.broadcast_as(&shape)?)?;
        let (sequences, queries, tokens) = bias.dims3()?;
        bias.reshape((sequences, 1, 1, queries, tokens))
    }

    /// Attends with the group's rows of `query`, `[rows, query heads · width]`, and gives them in the same shape.
    pub(super) fn attend(&self, heads: Heads, cache: &LayerBlocks, query: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let Heads { query: query_heads, key: key_heads, width, .. } = heads;
        let (sequences, tokens, group) = (self.sequences, self.tokens, query_heads / key_heads);
        let queries = self.rows.1 / sequences;
        // Half precision is what a GPU has units for; the processor multiplies in float32.
        let dtype = if query.device().is_cpu() { DType::F32 } else { cache.keys.dtype() };
        let gather = |rows: &Tensor| {
            let rows = rows.index_select(&self.places, 0)?.reshape((sequences, tokens, key_heads, width))?;
            rows.transpose(1, 2)?.to_dtype(dtype)?.contiguous()?.reshape((sequences * key_heads, tokens, width))
        };
        let query = query.narrow(0, self.rows.0, self.rows.1)?.affine(f64::from(heads.scale), 0.0)?;
        let query = query.reshape((sequences, queries, key_heads, group, width))?.permute((0, 2, 3, 1, 4))?;
        let query = query.to_dtype(dtype)?.contiguous()?.reshape((sequences * key_heads, group * queries, width))?;
        let scores = query.matmul(&gather(&cache.keys)?.t()?)?.to_dtype(DType::F32)?;
        let scores = match heads.cap {
            Some(cap) => scores.affine(1.0 / f64::from(cap), 0.0)?.tanh()?.affine(f64::from(cap), 0.0)?,
            None => scores,
        };
        let scores = scores.reshape((sequences, key_heads, group, queries, tokens))?.broadcast_add(bias)?;
        let weights = softmax_last_dim(&scores)?.to_dtype(dtype)?;
        let weights = weights.reshape((sequences * key_heads, group * queries, tokens))?;
        let attended = weights.matmul(&gather(&cache.values)?)?.to_dtype(DType::F32)?;
        let attended = attended.reshape((sequences, key_heads, group, queries, width))?.permute((0, 3, 1, 2, 4))?;
        attended.contiguous()?.reshape((self.rows.1, query_heads * width))
    }
}
