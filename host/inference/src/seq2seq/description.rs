//! What an encoder-decoder computes, as plain data: what a configuration says in the end.
//!
//! The architectures are choices on one skeleton: where norms stand and of which kind they are, how a token's place is
//! told, what is inside the feed-forward part, and what is done to logits. Weights are described by the names of their
//! tensors and their shapes, so nothing but [`super::config`] knows an architecture's name.

use host_kernels::encoder::Activation;

/// A product: a tensor `{name}.weight` of `outputs` by `inputs`, and `{name}.bias` where there is one.
#[derive(Debug, Clone, PartialEq)]
pub struct LinearAt {
    /// The tensors' name without its end.
    pub name: String,
    /// Rows of the weight.
    pub outputs: usize,
    /// Columns of the weight.
    pub inputs: usize,
    /// Whether there is a bias.
    pub biased: bool,
}

/// A norm over the width of the stream: `{name}.weight`, and `{name}.bias` for a layer norm.
#[derive(Debug, Clone, PartialEq)]
pub struct NormAt {
    /// The tensors' name without its end.
    pub name: String,
}

/// Attention and its norm.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionAt {
    /// Before it or after it, as [`Description::order`] says.
    pub norm: NormAt,
    /// To queries.
    pub query: LinearAt,
    /// To keys.
    pub key: LinearAt,
    /// To values.
    pub value: LinearAt,
    /// Back to the stream.
    pub output: LinearAt,
}

/// The feed-forward part and its norm.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedForwardAt {
    /// Before it or after it, as [`Description::order`] says.
    pub norm: NormAt,
    /// Where it is gated: the product that goes through the activation, to be multiplied with `up`.
    pub gate: Option<LinearAt>,
    /// Inwards.
    pub up: LinearAt,
    /// Back to the stream.
    pub down: LinearAt,
}

/// One layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerAt {
    /// Of the rows on each other.
    pub attention: AttentionAt,
    /// Of a decoder's rows on the encoder's.
    pub cross: Option<AttentionAt>,
    /// What follows.
    pub feed_forward: FeedForwardAt,
}

/// The encoder or the decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct StackAt {
    /// Names that its embedding may have; the first that is there counts.
    pub embedding: Vec<String>,
    /// Rows of the embedding.
    pub vocabulary: usize,
    /// Attention heads.
    pub heads: usize,
    /// The tensor of learned positions, or of biases by distance.
    pub positions: Option<String>,
    /// After the embedding.
    pub embedding_norm: Option<NormAt>,
    /// First to last.
    pub layers: Vec<LayerAt>,
    /// After the last layer.
    pub norm: Option<NormAt>,
}

/// Where norms stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Before each part, inside the residual connection.
    Pre,
    /// After each part and its residual connection.
    Post,
}

/// The kind of all norms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// Layer normalization (Ba et al. 2016).
    Layer,
    /// Root mean square normalization (Zhang & Sennrich 2019).
    Rms,
}

/// How a token's place is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Positions {
    /// Added sines, then cosines, of `place · 10000^(-i / steps)` for `i` below half the width.
    Sinusoidal {
        /// The place of the first token.
        first: usize,
        /// What the exponent is divided by.
        steps: usize,
        /// This token has no place and takes none.
        padding: Option<u32>,
    },
    /// Added rows of a table.
    Learned {
        /// The row of the first token.
        first: usize,
    },
    /// Biases of attention by distance, one for each bucket and head (Raffel et al. 2020).
    Distances {
        /// How many buckets there are.
        buckets: usize,
        /// From this distance on all fall into the last.
        reach: usize,
    },
}

/// An encoder-decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// What the file calls it, for messages.
    pub architecture: String,
    /// Width of the residual stream.
    pub width: usize,
    /// The most tokens on either side.
    pub positions_limit: usize,
    /// Where norms stand.
    pub order: Order,
    /// Their kind.
    pub norm: NormKind,
    /// In all norms.
    pub epsilon: f32,
    /// How a token's place is told.
    pub positions: Positions,
    /// Embeddings are multiplied by this.
    pub embedding_scale: f32,
    /// Products of queries and keys are multiplied by the inverse root of a head's width.
    pub scaled_attention: bool,
    /// In the feed-forward part.
    pub activation: Activation,
    /// The encoder.
    pub encoder: StackAt,
    /// The decoder.
    pub decoder: StackAt,
    /// Names that the tensor of the product to logits may have; the first that is there counts.
    pub head: Vec<String>,
    /// States are multiplied by this before that product.
    pub logit_scale: f32,
    /// The tensor that is added to logits, where there is one.
    pub logit_bias: Option<String>,
}

impl Description {
    /// Tokens that the decoder knows.
    pub fn vocabulary(&self) -> usize {
        self.decoder.vocabulary
    }
}
