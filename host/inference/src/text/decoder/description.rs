//! What a decoder computes, as plain data: the one thing that readers of files make and forward passes run from.
//!
//! An architecture is a set of choices on one skeleton (norm, attention, norm, gated feed-forward), so it is described
//! by its choices and not by its name: a norm, bias or soft cap that it lacks is `None`. A weight is described by the
//! name of a tensor and the rows of it that are meant, which makes fused tensors ordinary. Every size in here was
//! checked against a bound by the reader that made it, so that products of them cannot overflow.

use std::collections::HashSet;
use std::num::NonZeroUsize;

use host_kernels::kv::KvShape;
use host_kernels::rope::Rope as Turns;

use super::DecoderError;
use super::source::Source;

/// Bounds on a model's shape, beyond any published model's.
pub(super) const MAX_LAYERS: u64 = 1024;
pub(super) const MAX_WIDTH: u64 = 1 << 17;
pub(super) const MAX_CONTEXT: u64 = 1 << 24;
pub(super) const MAX_VOCABULARY: u64 = 1 << 21;

/// A matrix: some rows of a tensor of `of_rows` by `columns`.
#[derive(Debug, Clone, PartialEq)]
pub struct MatrixAt {
    /// The tensor.
    pub name: String,
    /// Rows that the tensor has.
    pub of_rows: usize,
    /// The first row of the matrix.
    pub first: usize,
    /// Rows of the matrix: outputs of the product.
    pub rows: usize,
    /// Columns: inputs of the product.
    pub columns: usize,
}

impl MatrixAt {
    /// All of the tensor `name`.
    pub fn whole(name: impl Into<String>, rows: usize, columns: usize) -> Self {
        Self { name: name.into(), of_rows: rows, first: 0, rows, columns }
    }

    /// `rows` rows of this one from `first` on.
    pub fn part(&self, first: usize, rows: usize) -> Self {
        Self { first: self.first + first, rows, ..self.clone() }
    }
}

/// A vector: some values of a tensor of one dimension.
#[derive(Debug, Clone, PartialEq)]
pub struct VectorAt {
    /// The tensor.
    pub name: String,
    /// Values that the tensor has.
    pub of_length: usize,
    /// The first value meant.
    pub first: usize,
    /// Values of the vector.
    pub length: usize,
    /// Added to each value: 1 for norms that are stored as their distance from 1.
    pub offset: f32,
}

impl VectorAt {
    /// All of the tensor `name`.
    pub fn whole(name: impl Into<String>, length: usize) -> Self {
        Self { name: name.into(), of_length: length, first: 0, length, offset: 0.0 }
    }
}

/// Which values of a head turn together in a rotary embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopePairs {
    /// `2j` and `2j + 1`, as GGUF files of the llama family are ordered.
    Interleaved,
    /// `j` and `j + rotated / 2`, as GPT-NeoX has it and every safetensors file.
    Halves,
}

/// One rotary embedding (Su et al. 2021).
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// How each pair turns.
    pub turns: Turns,
    /// What serves instead where the whole context is short (LongRoPE).
    pub short: Option<ShortRope>,
}

/// How pairs turn under LongRoPE (Ding et al. 2024) in contexts up to the length of the first training.
#[derive(Debug, Clone, PartialEq)]
pub struct ShortRope {
    /// The longest context that they serve.
    pub context: usize,
    /// As [`Rope::turns`].
    pub turns: Turns,
}

/// The function in the gate of the feed-forward part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// The tanh approximation of GELU.
    GeluTanh,
}

/// One layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerDescription {
    /// A token sees this many tokens, itself included; none for all before it.
    pub window: Option<NonZeroUsize>,
    /// Which of [`Description::ropes`] turns its queries and keys.
    pub rope: usize,
    /// Before attention.
    pub attention_norm: VectorAt,
    /// To queries.
    pub query: MatrixAt,
    /// To keys.
    pub key: MatrixAt,
    /// To values.
    pub value: MatrixAt,
    /// Added to queries.
    pub query_bias: Option<VectorAt>,
    /// Added to keys.
    pub key_bias: Option<VectorAt>,
    /// Added to values.
    pub value_bias: Option<VectorAt>,
    /// Of each query head, before it turns.
    pub query_norm: Option<VectorAt>,
    /// Of each key head, before it turns.
    pub key_norm: Option<VectorAt>,
    /// From attended values back to the stream.
    pub output: MatrixAt,
    /// Added to the output.
    pub output_bias: Option<VectorAt>,
    /// Of the output, before it is added to the stream.
    pub attention_post_norm: Option<VectorAt>,
    /// Before the feed-forward part.
    pub inner_norm: VectorAt,
    /// To the gate.
    pub gate: MatrixAt,
    /// To what is gated.
    pub up: MatrixAt,
    /// Back to the stream.
    pub down: MatrixAt,
    /// Of the feed-forward part's output, before it is added to the stream.
    pub inner_post_norm: Option<VectorAt>,
}

/// A decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// What the file calls it, for messages.
    pub architecture: String,
    /// Width of the residual stream.
    pub width: usize,
    /// Width inside the feed-forward part.
    pub inner: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Values in a head.
    pub head: usize,
    /// Tokens.
    pub vocabulary: usize,
    /// Positions the model was made for.
    pub context: usize,
    /// In all norms.
    pub epsilon: f32,
    /// How values pair in the rotation.
    pub rope_pairs: RopePairs,
    /// The rotations that layers use.
    pub ropes: Vec<Rope>,
    /// In the gate.
    pub activation: Activation,
    /// Embeddings are multiplied by this.
    pub embedding_scale: f32,
    /// Products of queries and keys are multiplied by this.
    pub attention_scale: f32,
    /// Scaled products are bent to `cap · tanh(x / cap)`.
    pub attention_cap: Option<f32>,
    /// So are logits.
    pub logit_cap: Option<f32>,
    /// A row per token.
    pub embedding: MatrixAt,
    /// The layers, first to last.
    pub layers: Vec<LayerDescription>,
    /// After the last layer.
    pub norm: VectorAt,
    /// To logits; the embedding itself where they are tied.
    pub head_matrix: MatrixAt,
    /// Tensors that the file may hold beside the weights, which were read already or say nothing new.
    pub other: HashSet<String>,
}

impl Description {
    /// The shape of one token's keys and values.
    pub fn kv_shape(&self) -> KvShape {
        KvShape { layers: self.layers.len(), heads: self.kv_heads, width: self.head }
    }

    /// Whether the embedding serves for the output too.
    pub fn tied(&self) -> bool {
        self.embedding == self.head_matrix
    }

    /// Lowers the context to `context` tokens.
    pub fn limit_context(&mut self, context: usize) {
        self.context = self.context.min(context);
        for rope in &mut self.ropes {
            if let Some(short) = rope.short.take_if(|short| self.context <= short.context) {
                rope.turns = short.turns;
            }
        }
    }

    /// Leaves out tokens that the tokenizer does not know: checkpoints pad their vocabulary.
    ///
    /// # Errors
    /// When the tokenizer has more tokens than the model.
    pub fn limit_vocabulary(&mut self, tokens: usize) -> Result<(), DecoderError> {
        if tokens > self.vocabulary {
            let fault = format!("it has {} rows, but the tokenizer has {tokens} tokens", self.vocabulary);
            return Err(DecoderError::invalid(format!("tensor {}", self.embedding.name), fault));
        }
        self.vocabulary = tokens;
        self.embedding.rows = tokens;
        self.head_matrix.rows = tokens;
        Ok(())
    }

    /// Every matrix.
    pub fn matrices(&self) -> impl Iterator<Item = &MatrixAt> {
        let layers = self.layers.iter().flat_map(|l| [&l.query, &l.key, &l.value, &l.output, &l.gate, &l.up, &l.down]);
        layers.chain([&self.embedding, &self.head_matrix])
    }

    /// Every vector.
    pub fn vectors(&self) -> impl Iterator<Item = &VectorAt> {
        let layers = self.layers.iter().flat_map(|l| {
            let optional = [
                &l.query_bias,
                &l.key_bias,
                &l.value_bias,
                &l.query_norm,
                &l.key_norm,
                &l.output_bias,
                &l.attention_post_norm,
                &l.inner_post_norm,
            ];
            optional.into_iter().flatten().chain([&l.attention_norm, &l.inner_norm])
        });
        layers.chain([&self.norm])
    }

    /// Compares the description with what `source` holds, before anything is allocated for a weight: every tensor is
    /// there in its shape, and there is none that a model of this description would not use.
    ///
    /// # Errors
    /// With the name of the first tensor that is missing, misshapen or left over.
    pub fn check(&self, source: Source<'_>) -> Result<(), DecoderError> {
        let mut known: HashSet<&str> = self.other.iter().map(String::as_str).collect();
        for matrix in self.matrices() {
            source.matrix(matrix)?;
            known.insert(&matrix.name);
        }
        for vector in self.vectors() {
            source.vector_bytes(vector)?;
            known.insert(&vector.name);
        }
        // A tensor that is not used would mean that the file is another model than it says.
        match source.names().into_iter().find(|name| !known.contains(name)) {
            None => Ok(()),
            Some(name) => {
                let name: String = name.chars().take(80).collect();
                let fault = format!("is not part of the {} architecture as it is implemented here", self.architecture);
                Err(DecoderError::invalid(format!("tensor {name:?}"), fault))
            }
        }
    }
}
