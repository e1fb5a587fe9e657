//! The forward pass on the processor.
//!
//! What an architecture has or lacks is asked once per layer and step, outside of every loop over values; buffers are
//! kept from step to step. Products that read the same rows run in one parallel region.

use std::num::NonZeroUsize;

use host_kernels::attention::{Attention, Span as AttentionSpan, attend};
use host_kernels::elementwise::{add, gelu_mul, rms_norm, scale, silu_mul, softcap};
use host_kernels::kv::{BLOCK_TOKENS, KvStore};
use host_kernels::rope::{rope_half, rope_interleaved};

use super::DecoderError;
use super::description::{Activation, Description, LayerDescription, MatrixAt, RopePairs, VectorAt};
use super::source::Source;
use crate::text::forward::{ForwardError, ForwardPass, Span};
use crate::text::lora::{AdaptedRows, Projection};
use crate::text::weights::{Compute, Weight, products};

struct Layer {
    window: Option<NonZeroUsize>,
    rope: usize,
    attention_norm: Vec<f32>,
    query: Weight,
    key: Weight,
    value: Weight,
    query_bias: Option<Vec<f32>>,
    key_bias: Option<Vec<f32>>,
    value_bias: Option<Vec<f32>>,
    query_norm: Option<Vec<f32>>,
    key_norm: Option<Vec<f32>>,
    output: Weight,
    output_bias: Option<Vec<f32>>,
    attention_post_norm: Option<Vec<f32>>,
    inner_norm: Vec<f32>,
    gate: Weight,
    up: Weight,
    down: Weight,
    inner_post_norm: Option<Vec<f32>>,
}

/// A model, ready to compute.
pub struct Decoder {
    description: Description,
    embedding: Weight,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    /// None where the embedding serves for the output too.
    head: Option<Weight>,
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
    /// For each of the description's rotations the turns of every row.
    angles: Vec<Vec<(f32, f32)>>,
    logits: Vec<f32>,
}

fn weight(source: Source<'_>, at: &MatrixAt) -> Result<Weight, DecoderError> {
    let tensor = source.matrix(at)?;
    let weight = Weight::new(tensor.dtype, at.rows, at.columns, tensor.bytes);
    tensor.release();
    weight.map_err(|fault| DecoderError::invalid(format!("tensor {}", at.name), fault))
}

impl Layer {
    fn read(source: Source<'_>, layer: &LayerDescription) -> Result<Self, DecoderError> {
        let optional = |at: &Option<VectorAt>| at.as_ref().map(|at| source.vector(at)).transpose();
        Ok(Self {
            window: layer.window,
            rope: layer.rope,
            attention_norm: source.vector(&layer.attention_norm)?,
            query: weight(source, &layer.query)?,
            key: weight(source, &layer.key)?,
            value: weight(source, &layer.value)?,
            query_bias: optional(&layer.query_bias)?,
            key_bias: optional(&layer.key_bias)?,
            value_bias: optional(&layer.value_bias)?,
            query_norm: optional(&layer.query_norm)?,
            key_norm: optional(&layer.key_norm)?,
            output: weight(source, &layer.output)?,
            output_bias: optional(&layer.output_bias)?,
            attention_post_norm: optional(&layer.attention_post_norm)?,
            inner_norm: source.vector(&layer.inner_norm)?,
            gate: weight(source, &layer.gate)?,
            up: weight(source, &layer.up)?,
            down: weight(source, &layer.down)?,
            inner_post_norm: optional(&layer.inner_post_norm)?,
        })
    }
}

impl Decoder {
    /// Reads all weights of `description` out of `source`, which is not used afterwards.
    ///
    /// # Errors
    /// When [`Description::check`] fails, before memory is taken, or values are not usable.
    pub fn read(description: Description, source: Source<'_>, compute: Compute) -> Result<Self, DecoderError> {
        description.check(source)?;
        let head = if description.tied() { None } else { Some(weight(source, &description.head_matrix)?) };
        Ok(Self {
            embedding: weight(source, &description.embedding)?,
            layers: description.layers.iter().map(|layer| Layer::read(source, layer)).collect::<Result<_, _>>()?,
            norm: source.vector(&description.norm)?,
            buffers: Buffers { angles: vec![Vec::new(); description.ropes.len()], ..Buffers::default() },
            head,
            compute,
            description,
        })
    }

    /// Bytes of all weights.
    pub fn bytes(&self) -> usize {
        let layers = self.layers.iter().flat_map(|l| [&l.query, &l.key, &l.value, &l.output, &l.gate, &l.up, &l.down]);
        layers.chain([&self.embedding]).chain(&self.head).map(Weight::bytes).sum()
    }

    /// Values that a step of so many tokens holds at most, one of which is answered.
    pub(crate) fn peak(&self, tokens: usize) -> usize {
        let Description { width, inner, heads, kv_heads, head, vocabulary, .. } = self.description;
        // The stream before and after its norm and what is added to it, queries and what they saw, keys and values, the
        // gate and what it lets through.
        tokens * (3 * width + 2 * (heads + kv_heads) * head + 2 * inner) + vocabulary
    }

    /// Fills `x` with the tokens' embeddings and `angles` with their rotations.
    fn embed(&mut self, spans: &[Span<'_>], rows: usize) -> Result<(), ForwardError> {
        let (width, factor) = (self.description.width, self.description.embedding_scale);
        let b = &mut self.buffers;
        b.x.resize(rows * width, 0.0);
        let tokens = spans.iter().flat_map(|span| span.tokens);
        for (token, x) in tokens.zip(b.x.chunks_exact_mut(width)) {
            self.embedding.row(*token as usize, x)?;
        }
        if factor != 1.0 {
            scale(self.compute.isa, &mut b.x, factor);
        }
        for (rope, angles) in self.description.ropes.iter().zip(&mut b.angles) {
            let pairs = rope.turns.frequencies.len();
            angles.resize(rows * pairs, (0.0, 0.0));
            let positions = spans.iter().flat_map(|span| span.position..span.position + span.tokens.len());
            for (position, angles) in positions.zip(angles.chunks_exact_mut(pairs)) {
                rope.turns.angles(position, angles);
            }
        }
        Ok(())
    }

    /// Biases, norms and rotates queries and keys and stores keys and values.
    fn store(&mut self, store: &mut KvStore, l: usize, spans: &[Span<'_>]) {
        let Description { heads, kv_heads, head, epsilon, rope_pairs, .. } = self.description;
        let (layer, b, isa) = (&self.layers[l], &mut self.buffers, self.compute.isa);
        add_bias(&mut b.query, layer.query_bias.as_deref());
        add_bias(&mut b.key, layer.key_bias.as_deref());
        add_bias(&mut b.value, layer.value_bias.as_deref());
        for (rows, weight) in [(&mut b.query, &layer.query_norm), (&mut b.key, &layer.key_norm)] {
            if let Some(weight) = weight {
                b.out.resize(rows.len(), 0.0);
                rms_norm(isa, rows, weight, epsilon, &mut b.out);
                std::mem::swap(rows, &mut b.out);
            }
        }
        let kv_width = kv_heads * head;
        let pairs = self.description.ropes[layer.rope].turns.frequencies.len();
        let rotate = match rope_pairs {
            RopePairs::Interleaved => rope_interleaved,
            RopePairs::Halves => rope_half,
        };
        let queries = b.query.chunks_exact_mut(heads * head).zip(b.key.chunks_exact_mut(kv_width));
        for ((query, key), angles) in queries.zip(b.angles[layer.rope].chunks_exact(pairs)) {
            rotate(isa, query, head, angles);
            rotate(isa, key, head, angles);
        }
        let mut rows = b.key.chunks_exact(kv_width).zip(b.value.chunks_exact(kv_width));
        for span in spans {
            let places = span.position..span.position + span.tokens.len();
            for (position, (key, value)) in places.zip(&mut rows) {
                let (block, slot) = (span.blocks[position / BLOCK_TOKENS], position % BLOCK_TOKENS);
                store.write(isa, block, slot, l, key, value);
            }
        }
    }

    fn layer(
        &mut self,
        store: &mut KvStore,
        l: usize,
        spans: &[Span<'_>],
        ragged: &[AttentionSpan<'_>],
        adapted: &AdaptedRows<'_>,
    ) -> Result<(), ForwardError> {
        let Description { width, inner, heads, head, epsilon, activation, attention_scale, attention_cap, .. } =
            self.description;
        let isa = self.compute.isa;
        let (layer, b) = (&self.layers[l], &mut self.buffers);
        b.normed.resize(b.x.len(), 0.0);
        rms_norm(isa, &b.x, &layer.attention_norm, epsilon, &mut b.normed);
        let mut outputs = [(&layer.query, &mut b.query), (&layer.key, &mut b.key), (&layer.value, &mut b.value)];
        products(&mut self.compute, &b.normed, width, &mut outputs)?;
        let mut outputs =
            [(Projection::Query, &mut b.query), (Projection::Key, &mut b.key), (Projection::Value, &mut b.value)];
        adapted.add(&mut self.compute, l, &b.normed, width, &mut outputs);

        self.store(store, l, spans);
        let (layer, b) = (&self.layers[l], &mut self.buffers);
        b.attended.resize(b.query.len(), 0.0);
        let attention = Attention { heads, scale: attention_scale, window: layer.window, softcap: attention_cap };
        attend(isa, &self.compute.pool, store, l, ragged, attention, &b.query, &mut b.attended);
        products(&mut self.compute, &b.attended, heads * head, &mut [(&layer.output, &mut b.out)])?;
        adapted.add(&mut self.compute, l, &b.attended, heads * head, &mut [(Projection::Output, &mut b.out)]);
        add_bias(&mut b.out, layer.output_bias.as_deref());
        post_norm(&self.compute, layer.attention_post_norm.as_deref(), epsilon, b);
        add(isa, &mut b.x, &b.out);

        rms_norm(isa, &b.x, &layer.inner_norm, epsilon, &mut b.normed);
        products(&mut self.compute, &b.normed, width, &mut [(&layer.gate, &mut b.gate), (&layer.up, &mut b.up)])?;
        let mut outputs = [(Projection::Gate, &mut b.gate), (Projection::Up, &mut b.up)];
        adapted.add(&mut self.compute, l, &b.normed, width, &mut outputs);
        match activation {
            Activation::Silu => silu_mul(isa, &mut b.gate, &b.up),
            Activation::GeluTanh => gelu_mul(isa, &mut b.gate, &b.up),
        }
        products(&mut self.compute, &b.gate, inner, &mut [(&layer.down, &mut b.out)])?;
        adapted.add(&mut self.compute, l, &b.gate, inner, &mut [(Projection::Down, &mut b.out)]);
        post_norm(&self.compute, layer.inner_post_norm.as_deref(), epsilon, b);
        add(isa, &mut b.x, &b.out);
        Ok(())
    }
}

/// Adds `bias` to each row.
fn add_bias(rows: &mut [f32], bias: Option<&[f32]>) {
    let Some(bias) = bias else { return };
    for row in rows.chunks_exact_mut(bias.len()) {
        for (value, bias) in row.iter_mut().zip(bias) {
            *value += bias;
        }
    }
}

/// Norms `out` where the architecture does so before it is added to the stream. `normed` is free then.
fn post_norm(compute: &Compute, weight: Option<&[f32]>, epsilon: f32, b: &mut Buffers) {
    let Some(weight) = weight else { return };
    rms_norm(compute.isa, &b.out, weight, epsilon, &mut b.normed);
    std::mem::swap(&mut b.out, &mut b.normed);
}

impl Decoder {
    /// Writes the row that enters for `token`.
    ///
    /// # Errors
    /// When there is no such token.
    pub(crate) fn enter(&self, token: u32, row: &mut [f32]) -> Result<(), ForwardError> {
        if token as usize >= self.description.vocabulary || row.len() != self.description.width {
            return Err(ForwardError::Batch(format!("token {token} for a row of {}", row.len())));
        }
        self.embedding.row(token as usize, row)?;
        if self.description.embedding_scale != 1.0 {
            scale(self.compute.isa, row, self.description.embedding_scale);
        }
        Ok(())
    }

    /// As [`ForwardPass::forward`], with `rows` in place of those of the tokens (see [`Self::enter`]): how a model reads
    /// what is no text.
    ///
    /// # Errors
    /// As there, and when there are not as many rows as tokens.
    pub(crate) fn forward_rows(
        &mut self,
        store: &mut KvStore,
        spans: &[Span<'_>],
        rows: &[f32],
    ) -> Result<&[f32], ForwardError> {
        self.run(store, spans, Some(rows))
    }

    fn run(&mut self, store: &mut KvStore, spans: &[Span<'_>], given: Option<&[f32]>) -> Result<&[f32], ForwardError> {
        let mut rows = 0;
        for span in spans {
            span.check(self.description.vocabulary, store.blocks())?;
            rows += span.tokens.len();
        }
        let _step = self.compute.pool.step();
        self.embed(spans, rows)?;
        if let Some(given) = given {
            if given.len() != self.buffers.x.len() {
                return Err(ForwardError::Batch(format!("{} values for {rows} tokens", given.len())));
            }
            self.buffers.x.copy_from_slice(given);
        }
        let mut start = 0;
        let mut ragged = Vec::with_capacity(spans.len());
        let mut wanted = Vec::new();
        let adapted = AdaptedRows::of(spans);
        for span in spans {
            let end = start + span.tokens.len();
            ragged.push(AttentionSpan { rows: start..end, position: span.position, blocks: span.blocks });
            wanted.extend(end - span.logits..end);
            start = end;
        }
        for l in 0..self.layers.len() {
            self.layer(store, l, spans, &ragged, &adapted)?;
        }
        let (width, b) = (self.description.width, &mut self.buffers);
        b.out.clear();
        for row in &wanted {
            b.out.extend_from_slice(&b.x[row * width..(row + 1) * width]);
        }
        b.normed.resize(b.out.len(), 0.0);
        b.logits.clear();
        if !wanted.is_empty() {
            rms_norm(self.compute.isa, &b.out, &self.norm, self.description.epsilon, &mut b.normed);
            let head = self.head.as_ref().unwrap_or(&self.embedding);
            products(&mut self.compute, &b.normed, width, &mut [(head, &mut b.logits)])?;
            if let Some(cap) = self.description.logit_cap {
                softcap(self.compute.isa, &mut b.logits, cap);
            }
        }
        Ok(&self.buffers.logits)
    }
}

impl ForwardPass for Decoder {
    type Cache = KvStore;
    const PREFILL: usize = 256;

    fn forward(&mut self, store: &mut KvStore, spans: &[Span<'_>]) -> Result<&[f32], ForwardError> {
        self.run(store, spans, None)
    }

    fn vocabulary(&self) -> usize {
        self.description.vocabulary
    }
}
