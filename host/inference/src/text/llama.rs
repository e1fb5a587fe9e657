//! The forward pass of the llama family: Llama 1 to 3, SmolLM2, TinyLlama and what else calls itself `llama` in a GGUF.
//!
//! The model is a function of a ragged batch: any number of spans, each some consecutive tokens of one sequence, with
//! the sequence's blocks in a [`KvStore`] that the caller owns. It keeps nothing between calls but its weights and its
//! buffers, so which sequences run together, and in what pieces, is the scheduler's matter alone. candle's own llama
//! keeps the cache in the model with one position for the whole batch, which rules that out; what is candle's here is
//! the weight types, their decoding and every product that has no kernel of ours (see [`super::weights`]).

use std::collections::HashSet;
use std::num::NonZeroUsize;

use host_kernels::attention::{Span as AttentionSpan, attend};
use host_kernels::elementwise::{add, rms_norm, rope_angles, rope_interleaved, silu_mul};
use host_kernels::kv::{BLOCK_TOKENS, KvShape, KvStore};

use super::gguf::{GgufError, View};
use super::weights::{Compute, Weight, optional_vector, products, vector};

/// Bounds on a model's shape, beyond any published model's, so that sums of products of them cannot overflow.
const MAX_LAYERS: u64 = 1024;
const MAX_WIDTH: u64 = 1 << 17;
const MAX_CONTEXT: u64 = 1 << 24;

/// A model's shape, from `llama.*` in its metadata.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Layers.
    pub layers: usize,
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
    /// Values of a head that turn with the position.
    pub rotated: usize,
    /// The base of the rotation's frequencies.
    pub rope_base: f32,
    /// Positions are divided by this.
    pub rope_scale: f32,
    /// In the norms.
    pub epsilon: f32,
    /// Positions the model was trained for.
    pub context: usize,
}

impl Config {
    /// Reads the shape.
    ///
    /// # Errors
    /// When a key is missing, contradicts another, or asks for something that is not implemented.
    pub fn read(file: View<'_>) -> Result<Self, GgufError> {
        let (width, heads) =
            (required(file, "embedding_length", MAX_WIDTH)?, required(file, "attention.head_count", MAX_WIDTH)?);
        let kv_heads = number(file, "attention.head_count_kv", MAX_WIDTH)?.unwrap_or(heads);
        let head = number(file, "attention.key_length", MAX_WIDTH)?.unwrap_or(width / heads);
        let rotated = number(file, "rope.dimension_count", MAX_WIDTH)?.unwrap_or(head);
        if number(file, "attention.value_length", MAX_WIDTH)?.is_some_and(|length| length != head) {
            let fault = "differs from the length of keys, which is not supported";
            return Err(GgufError::invalid("llama.attention.value_length", fault));
        }
        if head == 0 || !heads.is_multiple_of(kv_heads) || rotated > head || !rotated.is_multiple_of(2) {
            let fault = format!("{heads} heads, {kv_heads} key-value heads, {head} values a head, {rotated} rotated");
            return Err(GgufError::invalid("llama.attention", format!("{fault} do not fit together")));
        }
        if file.unsigned("llama.expert_count")?.unwrap_or(0) > 0 {
            return Err(GgufError::invalid("llama.expert_count", "mixtures of experts are not supported yet"));
        }
        let epsilon = "llama.attention.layer_norm_rms_epsilon";
        let Some(epsilon_value) = file.float(epsilon)? else {
            return Err(GgufError::Missing(format!("metadata {epsilon}")));
        };
        let rope_base = file.float("llama.rope.freq_base")?.unwrap_or(10_000.0);
        Ok(Self {
            layers: required(file, "block_count", MAX_LAYERS)?,
            inner: required(file, "feed_forward_length", MAX_WIDTH)?,
            context: required(file, "context_length", MAX_CONTEXT)?,
            rope_base: positive("llama.rope.freq_base", rope_base)?,
            rope_scale: rope_scale(file)?,
            epsilon: positive(epsilon, epsilon_value)?,
            width,
            heads,
            kv_heads,
            head,
            rotated,
        })
    }

    /// The shape of one token's keys and values.
    pub fn kv_shape(&self) -> KvShape {
        KvShape { layers: self.layers, heads: self.kv_heads, width: self.head }
    }
}

fn number(file: View<'_>, key: &str, bound: u64) -> Result<Option<usize>, GgufError> {
    let key = format!("llama.{key}");
    match file.unsigned(&key)? {
        None => Ok(None),
        Some(value) if (1..=bound).contains(&value) => Ok(usize::try_from(value).ok()),
        Some(value) => Err(GgufError::invalid(key, format!("{value} is not from 1 to {bound}"))),
    }
}

fn required(file: View<'_>, key: &str, bound: u64) -> Result<usize, GgufError> {
    number(file, key, bound)?.ok_or_else(|| GgufError::Missing(format!("metadata llama.{key}")))
}

fn positive(key: &str, value: f32) -> Result<f32, GgufError> {
    if value > 0.0 { Ok(value) } else { Err(GgufError::invalid(key, format!("{value} is not above 0"))) }
}

/// Linear position scaling; anything else in `llama.rope.scaling` would silently be another model.
fn rope_scale(file: View<'_>) -> Result<f32, GgufError> {
    let newer = file.float("llama.rope.scaling.factor")?;
    let factor = newer.or(file.float("llama.rope.scale_linear")?).unwrap_or(1.0);
    let kind = file.text("llama.rope.scaling.type")?.unwrap_or("");
    match kind {
        "" | "none" | "linear" if factor == 1.0 => Ok(1.0),
        "" | "linear" if factor >= 1.0 => Ok(factor),
        _ => {
            let kind: String = kind.chars().take(40).collect();
            Err(GgufError::invalid(
                "llama.rope.scaling",
                format!("type {kind:?} with factor {factor} is not supported"),
            ))
        }
    }
}

struct Layer {
    attention_norm: Vec<f32>,
    query: Weight,
    key: Weight,
    value: Weight,
    output: Weight,
    inner_norm: Vec<f32>,
    gate: Weight,
    up: Weight,
    down: Weight,
}

/// A model, ready to compute.
pub struct Llama {
    config: Config,
    vocabulary: usize,
    embedding: Weight,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    /// None where the embedding serves for the output too.
    head: Option<Weight>,
    frequencies: Vec<f32>,
    compute: Compute,
    buffers: Buffers,
}

#[derive(Default)]
struct Buffers {
    x: Vec<f32>,
    normed: Vec<f32>,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    attended: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    out: Vec<f32>,
    angles: Vec<(f32, f32)>,
    logits: Vec<f32>,
}

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
}

/// What the scheduler runs: a model without a memory of its sequences.
pub trait ForwardPass: Send + 'static {
    /// Reads the spans' tokens, stores their keys and values, and gives a row of [`Self::vocabulary`] logits for each
    /// span that asks for them, in order.
    ///
    /// # Errors
    /// When the batch cannot be computed; no sequence in it has advanced then.
    fn forward(&mut self, store: &mut KvStore, spans: &[Span<'_>]) -> Result<&[f32], ForwardError>;

    /// Logits in a row.
    fn vocabulary(&self) -> usize;
}

impl Layer {
    fn read(file: View<'_>, config: &Config, l: usize, known: &mut HashSet<String>) -> Result<Self, GgufError> {
        let Config { width, inner, heads, kv_heads, head, .. } = *config;
        let mut name = |part: &str| {
            let name = format!("blk.{l}.{part}.weight");
            known.insert(name.clone());
            name
        };
        Ok(Self {
            attention_norm: vector(file, &name("attn_norm"), width)?,
            query: Weight::read(file, &name("attn_q"), heads * head, width)?,
            key: Weight::read(file, &name("attn_k"), kv_heads * head, width)?,
            value: Weight::read(file, &name("attn_v"), kv_heads * head, width)?,
            output: Weight::read(file, &name("attn_output"), width, heads * head)?,
            inner_norm: vector(file, &name("ffn_norm"), width)?,
            gate: Weight::read(file, &name("ffn_gate"), inner, width)?,
            up: Weight::read(file, &name("ffn_up"), inner, width)?,
            down: Weight::read(file, &name("ffn_down"), width, inner)?,
        })
    }
}

impl Llama {
    /// Reads all weights of a file whose vocabulary has `vocabulary` tokens. Nothing of the file is used afterwards.
    ///
    /// # Errors
    /// When a weight is missing, misshapen or not part of this architecture.
    pub fn read(file: View<'_>, config: Config, vocabulary: usize, compute: Compute) -> Result<Self, GgufError> {
        let width = config.width;
        let output = "output.weight";
        let outside = ["token_embd.weight", "output_norm.weight", output, "rope_freqs.weight"];
        let mut known = HashSet::from(outside.map(String::from));
        let mut layers = Vec::new();
        for l in 0..config.layers {
            layers.push(Layer::read(file, &config, l, &mut known)?);
        }
        // A tensor that is not used would mean that the file is another model than it says.
        if let Some(name) = file.tensor_names().into_iter().find(|name| !known.contains(*name)) {
            let name: String = name.chars().take(80).collect();
            let fault = "is not part of the llama architecture as it is implemented here";
            return Err(GgufError::invalid(format!("tensor {name:?}"), fault));
        }
        let head = match file.tensor(output) {
            Some(_) => Some(Weight::read(file, output, vocabulary, width)?),
            None => None,
        };
        Ok(Self {
            embedding: Weight::read(file, "token_embd.weight", vocabulary, width)?,
            norm: vector(file, "output_norm.weight", width)?,
            frequencies: frequencies(file, &config)?,
            buffers: Buffers::default(),
            vocabulary,
            layers,
            head,
            compute,
            config,
        })
    }

    /// Bytes of all weights.
    pub fn bytes(&self) -> usize {
        let layers = self.layers.iter().flat_map(|l| [&l.query, &l.key, &l.value, &l.output, &l.gate, &l.up, &l.down]);
        layers.chain([&self.embedding]).chain(&self.head).map(Weight::bytes).sum()
    }

    fn check(&self, spans: &[Span<'_>]) -> Result<usize, ForwardError> {
        let mut rows = 0;
        for span in spans {
            let room = span.blocks.len() * BLOCK_TOKENS;
            if span.tokens.is_empty() || span.position + span.tokens.len() > room {
                let fault = format!("{} tokens at {} in room for {room}", span.tokens.len(), span.position);
                return Err(ForwardError::Batch(fault));
            }
            if let Some(token) = span.tokens.iter().find(|token| **token as usize >= self.vocabulary) {
                let fault = format!("token {token} is not in the vocabulary of {}", self.vocabulary);
                return Err(ForwardError::Batch(fault));
            }
            rows += span.tokens.len();
        }
        Ok(rows)
    }

    /// Fills `x` with the tokens' embeddings and `angles` with their rotations.
    fn embed(&mut self, spans: &[Span<'_>], rows: usize) -> Result<(), ForwardError> {
        let (width, pairs) = (self.config.width, self.frequencies.len());
        let b = &mut self.buffers;
        b.x.resize(rows * width, 0.0);
        b.angles.resize(rows * pairs, (0.0, 0.0));
        let tokens = spans.iter().flat_map(|span| span.tokens.iter().zip(span.position..));
        let places = b.x.chunks_exact_mut(width).zip(b.angles.chunks_exact_mut(pairs));
        for ((token, position), (x, angles)) in tokens.zip(places) {
            self.embedding.row(*token as usize, x)?;
            rope_angles(position, &self.frequencies, angles);
        }
        Ok(())
    }

    /// Rotates queries and keys and stores keys and values.
    fn store(&mut self, store: &mut KvStore, layer: usize, spans: &[Span<'_>]) {
        let Config { heads, kv_heads, head, .. } = self.config;
        let (pairs, kv_width, isa) = (self.frequencies.len(), kv_heads * head, self.compute.isa);
        let b = &mut self.buffers;
        let queries = b.query.chunks_exact_mut(heads * head).zip(b.key.chunks_exact_mut(kv_width));
        for ((query, key), angles) in queries.zip(b.angles.chunks_exact(pairs)) {
            rope_interleaved(query, head, angles);
            rope_interleaved(key, head, angles);
        }
        let mut rows = b.key.chunks_exact(kv_width).zip(b.value.chunks_exact(kv_width));
        for span in spans {
            let places = span.position..span.position + span.tokens.len();
            for (position, (key, value)) in places.zip(&mut rows) {
                let (block, slot) = (span.blocks[position / BLOCK_TOKENS], position % BLOCK_TOKENS);
                store.write(isa, block, slot, layer, key, value);
            }
        }
    }

    fn layer(
        &mut self,
        store: &mut KvStore,
        l: usize,
        spans: &[Span<'_>],
        ragged: &[AttentionSpan<'_>],
    ) -> Result<(), ForwardError> {
        let Config { width, inner, heads, head, epsilon, .. } = self.config;
        let isa = self.compute.isa;
        let (layer, b) = (&self.layers[l], &mut self.buffers);
        b.normed.resize(b.x.len(), 0.0);
        rms_norm(isa, &b.x, &layer.attention_norm, epsilon, &mut b.normed);
        let mut outputs = [(&layer.query, &mut b.query), (&layer.key, &mut b.key), (&layer.value, &mut b.value)];
        products(&mut self.compute, &b.normed, width, &mut outputs)?;

        self.store(store, l, spans);
        let (layer, b) = (&self.layers[l], &mut self.buffers);
        b.attended.resize(b.query.len(), 0.0);
        let scale = 1.0 / (head as f32).sqrt();
        attend(isa, &self.compute.pool, store, l, ragged, heads, scale, &b.query, &mut b.attended);
        products(&mut self.compute, &b.attended, heads * head, &mut [(&layer.output, &mut b.out)])?;
        add(isa, &mut b.x, &b.out);

        rms_norm(isa, &b.x, &layer.inner_norm, epsilon, &mut b.normed);
        products(&mut self.compute, &b.normed, width, &mut [(&layer.gate, &mut b.gate), (&layer.up, &mut b.up)])?;
        silu_mul(isa, &mut b.gate, &b.up);
        products(&mut self.compute, &b.gate, inner, &mut [(&layer.down, &mut b.out)])?;
        add(isa, &mut b.x, &b.out);
        Ok(())
    }
}

impl ForwardPass for Llama {
    fn forward(&mut self, store: &mut KvStore, spans: &[Span<'_>]) -> Result<&[f32], ForwardError> {
        let rows = self.check(spans)?;
        self.embed(spans, rows)?;
        let mut start = 0;
        let mut ragged = Vec::with_capacity(spans.len());
        let mut wanted = Vec::new();
        for span in spans {
            let end = start + span.tokens.len();
            ragged.push(AttentionSpan { rows: start..end, position: span.position, blocks: span.blocks });
            wanted.extend(span.logits.then_some(end - 1));
            start = end;
        }
        for l in 0..self.config.layers {
            self.layer(store, l, spans, &ragged)?;
        }
        let (width, b) = (self.config.width, &mut self.buffers);
        b.out.clear();
        for row in &wanted {
            b.out.extend_from_slice(&b.x[row * width..(row + 1) * width]);
        }
        b.normed.resize(b.out.len(), 0.0);
        b.logits.clear();
        if !wanted.is_empty() {
            rms_norm(self.compute.isa, &b.out, &self.norm, self.config.epsilon, &mut b.normed);
            let head = self.head.as_ref().unwrap_or(&self.embedding);
            products(&mut self.compute, &b.normed, width, &mut [(head, &mut b.logits)])?;
        }
        Ok(&self.buffers.logits)
    }

    fn vocabulary(&self) -> usize {
        self.vocabulary
    }
}

/// The angle by which each pair turns per position: `base^(-2j / rotated)`, divided by the file's `rope_freqs` (Llama
/// 3's long-context scaling, computed when the file was made) and by the linear scale.
fn frequencies(file: View<'_>, config: &Config) -> Result<Vec<f32>, GgufError> {
    let pairs = config.rotated / 2;
    let factors = optional_vector(file, "rope_freqs.weight", pairs)?.unwrap_or_else(|| vec![1.0; pairs]);
    if factors.iter().any(|factor| *factor <= 0.0) {
        return Err(GgufError::invalid("tensor rope_freqs.weight", "it holds factors that are not above 0"));
    }
    let exponent = |j: usize| -2.0 * j as f32 / config.rotated as f32;
    let angle = |(j, factor): (usize, &f32)| config.rope_base.powf(exponent(j)) / factor / config.rope_scale;
    Ok(factors.iter().enumerate().map(angle).collect())
}

/// How many threads to use when nobody says: what this process may use, at most 16.
pub fn default_threads() -> NonZeroUsize {
    let available = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    available.min(NonZeroUsize::new(16).unwrap_or(available))
}

#[cfg(test)]
mod tests;
