//! What a scheduler knows of a model: a function of a ragged batch.
//!
//! A batch is any number of spans, each some consecutive tokens of one sequence, with the sequence's blocks in a
//! [`KvCache`] that the caller owns. A model keeps nothing between calls but its weights and its buffers, so which
//! sequences run together, and in what pieces, is the scheduler's matter alone.

use host_kernels::kv::KvStore;

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
    /// Whether the token after the last is asked for.
    pub logits: bool,
    /// What is added to the weights for these tokens.
    pub adapter: Option<&'a Adapter>,
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
}

impl KvCache for KvStore {
    fn blocks(&self) -> usize {
        KvStore::blocks(self)
    }
}

/// What the scheduler runs: a model without a memory of its sequences.
pub trait ForwardPass: Send + 'static {
    /// Where it keeps keys and values: on the processor a [`KvStore`].
    type Cache: KvCache;

    /// Reads the spans' tokens, stores their keys and values, and gives a row of [`Self::vocabulary`] logits for each
    /// span that asks for them, in order.
    ///
    /// # Errors
    /// When the batch cannot be computed; no sequence in it has advanced then.
    fn forward(&mut self, cache: &mut Self::Cache, spans: &[Span<'_>]) -> Result<&[f32], ForwardError>;

    /// Logits in a row.
    fn vocabulary(&self) -> usize;
}
