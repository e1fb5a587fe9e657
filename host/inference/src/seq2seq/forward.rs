//! The forward pass on the processor.
//!
//! The encoder runs once for a text and leaves the keys and values that each layer of the decoder attends to. A step of
//! the decoder takes one token of every beam, so that each weight is read once for all of them; buffers stay from step to
//! step. Products and attention run on the pool's threads.

use host_kernels::cross::{Distances, Memory, Past};
use host_kernels::elementwise::{add, rms_norm, scale};
use host_kernels::encoder::{activate, add_and_normalize};
use host_kernels::floats::{FloatProduct, matmul_floats};
use host_kernels::isa::Isa;
use host_kernels::threads::ThreadPool;

use super::beams::{Beams, Rows};
use super::description::{Description, Order, Positions, StackAt};
use super::generation::Generation;
use super::weights::{Attention, FeedForward, Linear, Norm, Stack, Weights};
use crate::tensors::Tensors;

/// Rows that packed keys and values are filled up to a multiple of.
const PADDED: usize = 32;

/// A model, ready to compute.
pub struct Transformer {
    description: Description,
    weights: Weights,
    compute: Compute,
    buffers: Buffers,
}

/// A text as the decoder sees it.
pub struct Encoded {
    /// For each layer of the decoder.
    memories: Vec<Memory>,
    /// The encoder's states, a row for each token.
    pub states: Vec<f32>,
}

/// What all parts compute with.
struct Compute {
    pool: ThreadPool,
    isa: Isa,
    order: Order,
    epsilon: f32,
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
    inner: Vec<f32>,
    out: Vec<f32>,
    biases: Vec<f32>,
    logits: Vec<f32>,
}

impl Transformer {
    /// Reads all weights of `description`.
    ///
    /// # Errors
    /// The tensor and file that are missing or of another shape or type.
    pub(crate) fn read(description: Description, tensors: &mut Tensors, pool: ThreadPool) -> Result<Self, String> {
        let weights = Weights::read(&description, tensors)?;
        let compute = Compute { pool, isa: Isa::best(), order: description.order, epsilon: description.epsilon };
        Ok(Self { description, weights, compute, buffers: Buffers::default() })
    }

    /// What it computes.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Values that a text of so many tokens and its answer hold at most.
    pub(crate) fn peak(&self, tokens: usize, generation: &Generation) -> usize {
        let Description { width, encoder, decoder, .. } = &self.description;
        let of = |stack: &StackAt| {
            let layer = stack.layers.first();
            let inner = layer.map_or(0, |layer| layer.feed_forward.up.outputs);
            let attended = layer.map_or(*width, |layer| layer.attention.query.outputs);
            // The stream before and after its norm, queries, keys, values and what they saw; gates and inner values.
            2 * width + 4 * attended + 2 * inner
        };
        let attended = decoder.layers.first().map_or(*width, |layer| layer.attention.query.outputs);
        let beams = generation.beams;
        let said = generation.max_length.min(self.description.positions_limit);
        let distances =
            if matches!(self.description.positions, Positions::Distances { .. }) { encoder.heads } else { 0 };
        let reading = tokens * of(encoder) + tokens * tokens * distances + 2 * tokens * attended;
        // Keys and values of the text, padded where they are packed, and of what every beam said.
        let source = 2 * decoder.layers.len() * tokens.next_multiple_of(PADDED) * attended;
        let own = 2 * decoder.layers.len() * beams * said * attended;
        let step = beams * (of(decoder) + 2 * self.description.vocabulary()) + said * decoder.heads;
        reading + source + own + step
    }

    /// Lets go of the buffers that one step leaves to the next.
    pub(crate) fn forget(&mut self) {
        self.buffers = Buffers::default();
    }

    /// Lets the encoder read a text of at least one token, each below its vocabulary, and no more than its positions.
    /// `proceed` is asked before each layer.
    ///
    /// # Errors
    /// What `proceed` says.
    pub fn encode<E>(&mut self, tokens: &[u32], proceed: &mut dyn FnMut() -> Result<(), E>) -> Result<Encoded, E> {
        let Self { description, weights, compute, buffers: b } = self;
        let stack = &weights.encoder;
        let _step = compute.pool.step();
        b.x.clear();
        let mut place = 0;
        for token in tokens {
            let placed = description.positions.padding() != Some(*token);
            embed(description, stack, *token, placed.then_some(place), &mut b.x);
            place += usize::from(placed);
        }
        begin(compute, stack, b);
        let biases = description.positions.around(&stack.positions, stack.heads, tokens.len());
        let distances = (!biases.is_empty()).then_some(Distances { values: &biases });
        for layer in &stack.layers {
            proceed()?;
            attention_in(compute, &layer.attention, b);
            let memory = memory_of(compute, &layer.attention, stack.heads, b);
            b.attended.resize(b.query.len(), 0.0);
            let factor = attention_scale(description, &layer.attention, stack.heads);
            memory.attend(compute.isa, &compute.pool, &b.query, factor, distances, &mut b.attended);
            attention_out(compute, &layer.attention, b);
            feed_forward(compute, description, &layer.feed_forward, b);
        }
        end(compute, stack, b);
        let states = std::mem::take(&mut b.x);
        let mut memories = Vec::with_capacity(weights.decoder.layers.len());
        for cross in weights.decoder.layers.iter().filter_map(|layer| layer.cross.as_ref()) {
            proceed()?;
            products(compute, &states, &mut [(&cross.key, &mut b.key), (&cross.value, &mut b.value)]);
            memories.push(memory_of(compute, cross, weights.decoder.heads, b));
        }
        Ok(Encoded { memories, states })
    }

    /// One beam at the start of an answer.
    pub fn begin(&self) -> Beams {
        Beams::new(self.weights.decoder.layers.len())
    }

    /// Gives every beam one more token, each below the decoder's vocabulary, and returns the logits of what may follow: a
    /// row for each beam. No beam may become longer than the positions.
    pub fn step(&mut self, source: &Encoded, beams: &mut Beams, tokens: &[u32]) -> &mut [f32] {
        assert_eq!(tokens.len(), beams.len(), "a token for each beam");
        let Self { description, weights, compute, buffers: b } = self;
        let stack = &weights.decoder;
        let _step = compute.pool.step();
        b.x.clear();
        for (token, counted) in tokens.iter().zip(&mut beams.counted) {
            let placed = description.positions.padding() != Some(*token);
            embed(description, stack, *token, placed.then_some(*counted), &mut b.x);
            // Steps that came before count, with a place or without.
            *counted += 1;
        }
        begin(compute, stack, b);
        beams.grow();
        let length = beams.places.first().map_or(0, Vec::len);
        description.positions.behind(&stack.positions, stack.heads, length, &mut b.biases);
        for (index, (layer, memory)) in stack.layers.iter().zip(&source.memories).enumerate() {
            attention_in(compute, &layer.attention, b);
            beams.write(index, &b.key, &b.value);
            let Rows { keys, values } = &beams.layers[index];
            let width = layer.attention.query.matrix.rows() / stack.heads;
            let factor = attention_scale(description, &layer.attention, stack.heads);
            b.attended.resize(b.query.len(), 0.0);
            let past = Past { keys, values, heads: stack.heads, width };
            past.attend(compute.isa, &compute.pool, &b.query, &beams.places, factor, &b.biases, &mut b.attended);
            attention_out(compute, &layer.attention, b);
            if let Some(cross) = &layer.cross {
                let x = normed(compute, &cross.norm, &b.x, &mut b.normed);
                products(compute, x, &mut [(&cross.query, &mut b.query)]);
                b.attended.resize(b.query.len(), 0.0);
                let factor = attention_scale(description, cross, stack.heads);
                memory.attend(compute.isa, &compute.pool, &b.query, factor, None, &mut b.attended);
                attention_out(compute, cross, b);
            }
            feed_forward(compute, description, &layer.feed_forward, b);
        }
        end(compute, stack, b);
        if description.logit_scale != 1.0 {
            scale(compute.isa, &mut b.x, description.logit_scale);
        }
        let vocabulary = description.vocabulary();
        b.logits.resize(tokens.len() * vocabulary, 0.0);
        let mut head = [FloatProduct { weight: &weights.head, out: &mut b.logits }];
        matmul_floats(compute.isa, &compute.pool, &b.x, description.width, &mut head);
        if !weights.logit_bias.is_empty() {
            b.logits.chunks_exact_mut(vocabulary).for_each(|row| add(compute.isa, row, &weights.logit_bias));
        }
        &mut b.logits
    }
}

/// Appends a token's embedding with its place.
fn embed(description: &Description, stack: &Stack, token: u32, place: Option<usize>, x: &mut Vec<f32>) {
    let start = x.len();
    x.resize(start + description.width, 0.0);
    let row = &mut x[start..];
    stack.embedding.row(token as usize, row);
    if description.embedding_scale != 1.0 {
        row.iter_mut().for_each(|value| *value *= description.embedding_scale);
    }
    if let Some(place) = place {
        description.positions.add(&stack.positions, place, row);
    }
}

/// The norm after the embedding, where there is one.
fn begin(compute: &Compute, stack: &Stack, b: &mut Buffers) {
    if let Some(norm) = &stack.embedding_norm {
        add_and_normalize(compute.isa, &mut b.x, &[], &norm.weight, &norm.bias, compute.epsilon);
    }
}

/// The norm after the last layer, where there is one.
fn end(compute: &Compute, stack: &Stack, b: &mut Buffers) {
    if let Some(norm) = &stack.norm {
        apply(compute, norm, &b.x, &mut b.normed);
        std::mem::swap(&mut b.x, &mut b.normed);
    }
}

fn apply(compute: &Compute, norm: &Norm, x: &[f32], out: &mut Vec<f32>) {
    if norm.bias.is_empty() {
        out.resize(x.len(), 0.0);
        rms_norm(compute.isa, x, &norm.weight, compute.epsilon, out);
    } else {
        out.clear();
        out.extend_from_slice(x);
        add_and_normalize(compute.isa, out, &[], &norm.weight, &norm.bias, compute.epsilon);
    }
}

/// What a part of a layer reads: the stream, or its norm where that stands before the part.
fn normed<'a>(compute: &Compute, norm: &Norm, x: &'a [f32], buffer: &'a mut Vec<f32>) -> &'a [f32] {
    match compute.order {
        Order::Pre => {
            apply(compute, norm, x, buffer);
            buffer
        }
        Order::Post => x,
    }
}

/// Adds what a part of a layer gave to the stream, and norms that where the norm stands after the part.
fn join(compute: &Compute, norm: &Norm, b: &mut Buffers) {
    match compute.order {
        Order::Pre => add(compute.isa, &mut b.x, &b.out),
        Order::Post => add_and_normalize(compute.isa, &mut b.x, &b.out, &norm.weight, &norm.bias, compute.epsilon),
    }
}

fn attention_scale(description: &Description, attention: &Attention, heads: usize) -> f32 {
    let width = attention.query.matrix.rows() / heads;
    if description.scaled_attention { (width as f32).sqrt().recip() } else { 1.0 }
}

/// The keys and values in the buffers.
fn memory_of(compute: &Compute, attention: &Attention, heads: usize, b: &Buffers) -> Memory {
    Memory::pack(&compute.pool, &b.key, &b.value, heads, attention.key.matrix.rows() / heads)
}

/// Queries, keys and values of the stream.
fn attention_in(compute: &Compute, attention: &Attention, b: &mut Buffers) {
    let x = normed(compute, &attention.norm, &b.x, &mut b.normed);
    let outputs =
        &mut [(&attention.query, &mut b.query), (&attention.key, &mut b.key), (&attention.value, &mut b.value)];
    products(compute, x, outputs);
}

/// From attended values to the stream.
fn attention_out(compute: &Compute, attention: &Attention, b: &mut Buffers) {
    products(compute, &b.attended, &mut [(&attention.output, &mut b.out)]);
    join(compute, &attention.norm, b);
}

fn feed_forward(compute: &Compute, description: &Description, part: &FeedForward, b: &mut Buffers) {
    let x = normed(compute, &part.norm, &b.x, &mut b.normed);
    match &part.gate {
        Some(gate) => {
            products(compute, x, &mut [(gate, &mut b.gate), (&part.up, &mut b.inner)]);
            activate(compute.isa, &mut b.gate, description.activation);
            b.inner.iter_mut().zip(&b.gate).for_each(|(value, gate)| *value *= gate);
        }
        None => {
            products(compute, x, &mut [(&part.up, &mut b.inner)]);
            activate(compute.isa, &mut b.inner, description.activation);
        }
    }
    products(compute, &b.inner, &mut [(&part.down, &mut b.out)]);
    join(compute, &part.norm, b);
}

/// Multiplies the rows of `x` with each weight and adds its bias, all in one parallel region.
fn products(compute: &Compute, x: &[f32], outputs: &mut [(&Linear, &mut Vec<f32>)]) {
    let Some(columns) = outputs.first().map(|(linear, _)| linear.matrix.columns()) else { return };
    let rows = x.len() / columns;
    let mut products: Vec<FloatProduct<'_>> = Vec::with_capacity(outputs.len());
    for (linear, out) in outputs.iter_mut() {
        out.resize(rows * linear.matrix.rows(), 0.0);
        products.push(FloatProduct { weight: &linear.matrix, out: out.as_mut_slice() });
    }
    matmul_floats(compute.isa, &compute.pool, x, columns, &mut products);
    for (linear, out) in outputs.iter_mut().filter(|(linear, _)| !linear.bias.is_empty()) {
        out.chunks_exact_mut(linear.bias.len()).for_each(|row| add(compute.isa, row, &linear.bias));
    }
}
