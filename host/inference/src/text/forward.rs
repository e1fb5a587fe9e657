//! What a scheduler knows of a model: a function of a ragged batch.
//!
//! A batch is any number of spans, each some consecutive tokens of one sequence, with the sequence's blocks in a
//! [`KvCache`] that the caller owns. A model keeps nothing between calls but its weights and its buffers, so which
//! sequences run together, and in what pieces, is the scheduler's matter alone.

use host_kernels::kv::{BLOCK_TOKENS, KvStore};

use super::lora::Adapter;

/// Consecutive tokens of one sequence.
#[derive(Debug, Clone, Copy)]
pub struct Span<'a> {
    /// The tokens.
    pub tokens: &'a [u32],
    /// The first one's position.
    pub position: usize,
    /// The sequence's blocks, which reach beyond the last position.
    pub blocks: &'a [u32],
    /// For how many of the tokens, counted from the last, what follows them is asked for: at most as many as there are.
    pub logits: usize,
    /// What is added to the weights for these tokens.
    pub adapter: Option<&'a Adapter>,
}

impl Span<'_> {
    /// Whether a model of `vocabulary` tokens with a cache of `blocks` blocks can compute it.
    ///
    /// # Errors
    /// With what does not fit.
    pub(crate) fn check(&self, vocabulary: usize, blocks: usize) -> Result<(), ForwardError> {
        let (count, room) = (self.tokens.len(), self.blocks.len().saturating_mul(BLOCK_TOKENS));
        let fault = if count == 0 || self.position.saturating_add(count) > room {
            format!("{count} tokens at {} in room for {room}", self.position)
        } else if self.logits > count {
            format!("logits of {} tokens among {count}", self.logits)
        } else if let Some(token) = self.tokens.iter().find(|token| **token as usize >= vocabulary) {
            format!("token {token} is not in the vocabulary of {vocabulary}")
        } else if let Some(block) = self.blocks.iter().find(|block| **block as usize >= blocks) {
            format!("block {block} is not in the cache of {blocks}")
        } else {
            return Ok(());
        };
        Err(ForwardError::Batch(fault))
    }
}

/// A forward pass that could not be finished.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForwardError {
    /// candle failed on an operation.
    #[error("candle: {0}")]
    Candle(#[from] candle_core::Error),
    /// The batch is not one that this model can run.
    #[error("a batch that cannot be computed: {0}")]
    Batch(String),
    /// The device has no memory left for the step.
    #[error(
        "the GPU's memory is full ({0}); give its models less ([ai] memory) or end other programs that use the GPU"
    )]
    DeviceMemory(String),
}

/// Keys and values of all sequences of a model, in blocks.
pub trait KvCache: Send + 'static {
    /// Blocks that sequences may have.
    fn blocks(&self) -> usize;

    /// Makes block `to` hold what block `from` holds, where that takes less than reading its tokens again. False where it
    /// does not, and nothing was copied.
    fn copy(&mut self, _from: u32, _to: u32) -> bool {
        false
    }
}

impl KvCache for KvStore {
    fn blocks(&self) -> usize {
        KvStore::blocks(self)
    }

    fn copy(&mut self, from: u32, to: u32) -> bool {
        KvStore::copy(self, from, to);
        true
    }
}

/// What the scheduler runs: a model without a memory of its sequences.
pub trait ForwardPass: Send + 'static {
    /// Where it keeps keys and values: on the processor a [`KvStore`].
    type Cache: KvCache;

    /// Tokens that a step reads while nobody is answering: enough that reading the weights costs little beside computing
    /// with them, and no more, since a step's activations are kept for all of them.
    const PREFILL: usize;

    /// Reads the spans' tokens, stores their keys and values, and gives a row of [`Self::vocabulary`] logits for each
    /// token that a span asks for, in order.
    ///
    /// # Errors
    /// When the batch cannot be computed; no sequence in it has advanced then.
    fn forward(&mut self, cache: &mut Self::Cache, spans: &[Span<'_>]) -> Result<&[f32], ForwardError>;

    /// Logits in a row.
    fn vocabulary(&self) -> usize;
}
