//! The forward pass as operations on tensors.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::num::NonZeroUsize;

use candle_core::{Device, Result, Tensor};
use candle_nn::ops::{rms_norm, silu};
use candle_nn::rotary_emb::rope_thd;

use super::attention::{Constants, Gathered, Heads};
use super::batch::Batch;
use super::cache::{Blocks, LayerBlocks};
use super::matrix::{HeadOrder, Matrix, halves_of_neighbours, optional, vector};
use crate::text::decoder::description::{Activation, Description, LayerDescription, RopePairs};
use crate::text::decoder::{DecoderError, Source};

struct Layer {
    window: Option<usize>,
    rope: usize,
    attention_norm: Tensor,
    query: Matrix,
    key: Matrix,
    value: Matrix,
    query_bias: Option<Tensor>,
    key_bias: Option<Tensor>,
    value_bias: Option<Tensor>,
    query_norm: Option<Tensor>,
    key_norm: Option<Tensor>,
    output: Matrix,
    output_bias: Option<Tensor>,
    attention_post_norm: Option<Tensor>,
    inner_norm: Tensor,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
    inner_post_norm: Option<Tensor>,
}

/// One rotary embedding.
struct Rotation {
    /// The angle of each pair per position, `[1, pairs]`.
    frequencies: Tensor,
    /// Rotated values are multiplied by this.
    scale: f32,
}

/// The weights, and what is computed with them. Shared by recorded steps, which is why it changes nothing.
pub(super) struct Network {
    heads: Heads,
    vocabulary: usize,
    epsilon: f32,
    activation: Activation,
    embedding_scale: f32,
    logit_cap: Option<f32>,
    rotations: Vec<Rotation>,
    embedding: Matrix,
    layers: Vec<Layer>,
    norm: Tensor,
    /// None where the embedding serves for the output too.
    head: Option<Matrix>,
}

/// What a step reads, on the device.
#[derive(Clone)]
pub(super) struct Step {
    tokens: Tensor,
    positions: Tensor,
    slots: Tensor,
    /// None where no logits are wanted.
    wanted: Option<Tensor>,
    groups: Vec<StepGroup>,
    /// The same for FlashAttention, where it runs.
    #[cfg(feature = "flash-attn")]
    sequences: Option<super::flash::Sequences>,
}

#[derive(Clone)]
struct StepGroup {
    rows: (usize, usize),
    sequences: usize,
    blocks: usize,
    tables: Tensor,
}

impl Step {
    /// Copies `batch` to the device of `network`.
    pub(super) fn upload(batch: &Batch, network: &Network) -> Result<Self> {
        let device = network.device();
        #[cfg(feature = "flash-attn")]
        let sequences = super::flash::Sequences::upload(&batch.ragged(), network.heads.width, device)?;
        let groups = batch.groups.iter().map(|group| {
            Ok(StepGroup {
                rows: (group.rows.start, group.rows.len()),
                sequences: group.sequences,
                blocks: group.blocks,
                tables: on(&group.tables, device)?,
            })
        });
        Ok(Self {
            tokens: on(&batch.tokens, device)?,
            positions: on(&batch.positions, device)?,
            slots: on(&batch.slots, device)?,
            wanted: if batch.wanted.is_empty() { None } else { Some(on(&batch.wanted, device)?) },
            groups: groups.collect::<Result<_>>()?,
            #[cfg(feature = "flash-attn")]
            sequences,
        })
    }

    /// Copies `batch`, of the same size as the one this was made from, to where this lies.
    #[cfg(any(feature = "cuda", test))]
    pub(super) fn refill(&self, batch: &Batch) -> Result<()> {
        let device = self.tokens.device();
        self.tokens.slice_set(&on(&batch.tokens, device)?, 0, 0)?;
        self.positions.slice_set(&on(&batch.positions, device)?, 0, 0)?;
        self.slots.slice_set(&on(&batch.slots, device)?, 0, 0)?;
        for (group, from) in self.groups.iter().zip(&batch.groups) {
            group.tables.slice_set(&on(&from.tables, device)?, 0, 0)?;
        }
        #[cfg(feature = "flash-attn")]
        if let Some(sequences) = &self.sequences {
            sequences.refill(&batch.ragged())?;
        }
        Ok(())
    }
}

fn on<T: candle_core::WithDType>(values: &[T], device: &Device) -> Result<Tensor> {
    Tensor::from_slice(values, values.len(), device)
}

impl Layer {
    fn read(
        source: Source<'_>,
        layer: &LayerDescription,
        order: &HeadOrder,
        device: &Device,
    ) -> std::result::Result<Self, DecoderError> {
        // Values of queries and keys may be in an order of ours; nothing else may.
        let as_stored = &None;
        let matrix = |at| Matrix::read(source, at, as_stored, device);
        let optional = |at| optional(source, at, as_stored, device);
        let optional_head = |at| super::matrix::optional(source, at, order, device);
        Ok(Self {
            window: layer.window.map(NonZeroUsize::get),
            rope: layer.rope,
            attention_norm: vector(source, &layer.attention_norm, as_stored, device)?,
            query: Matrix::read(source, &layer.query, order, device)?,
            key: Matrix::read(source, &layer.key, order, device)?,
            value: matrix(&layer.value)?,
            query_bias: optional_head(&layer.query_bias)?,
            key_bias: optional_head(&layer.key_bias)?,
            value_bias: optional(&layer.value_bias)?,
            query_norm: optional_head(&layer.query_norm)?,
            key_norm: optional_head(&layer.key_norm)?,
            output: matrix(&layer.output)?,
            output_bias: optional(&layer.output_bias)?,
            attention_post_norm: optional(&layer.attention_post_norm)?,
            inner_norm: vector(source, &layer.inner_norm, as_stored, device)?,
            gate: matrix(&layer.gate)?,
            up: matrix(&layer.up)?,
            down: matrix(&layer.down)?,
            inner_post_norm: optional(&layer.inner_post_norm)?,
        })
    }
}

impl Network {
    /// Reads the weights. [`Description::check`] must have passed.
    pub(super) fn read(
        description: Description,
        source: Source<'_>,
        device: &Device,
    ) -> std::result::Result<Self, DecoderError> {
        let rotated = 2 * description.ropes.iter().map(|rope| rope.turns.frequencies.len()).max().unwrap_or(0);
        let order = match description.rope_pairs {
            RopePairs::Interleaved => Some(halves_of_neighbours(description.head, rotated)),
            RopePairs::Halves => None,
        };
        let unusable = |error: candle_core::Error| DecoderError::invalid("rotary embedding", error.to_string());
        let rotations = description.ropes.iter().map(|rope| {
            let frequencies = Tensor::from_slice(&rope.turns.frequencies, (1, rope.turns.frequencies.len()), device);
            Ok(Rotation { frequencies: frequencies.map_err(unusable)?, scale: rope.turns.attention_scale })
        });
        let layers = description.layers.iter().map(|layer| Layer::read(source, layer, &order, device));
        let matrix = |at| Matrix::read(source, at, &None, device);
        Ok(Self {
            heads: Heads {
                query: description.heads,
                key: description.kv_heads,
                width: description.head,
                scale: description.attention_scale,
                cap: description.attention_cap,
            },
            vocabulary: description.vocabulary,
            epsilon: description.epsilon,
            activation: description.activation,
            embedding_scale: description.embedding_scale,
            logit_cap: description.logit_cap,
            rotations: rotations.collect::<std::result::Result<_, DecoderError>>()?,
            layers: layers.collect::<std::result::Result<_, _>>()?,
            embedding: matrix(&description.embedding)?,
            norm: vector(source, &description.norm, &None, device)?,
            head: if description.tied() { None } else { Some(matrix(&description.head_matrix)?) },
        })
    }

    pub(super) fn device(&self) -> &Device {
        self.norm.device()
    }

    pub(super) fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    pub(super) fn bytes(&self) -> usize {
        let layers = self.layers.iter().flat_map(|l| [&l.query, &l.key, &l.value, &l.output, &l.gate, &l.up, &l.down]);
        layers.chain([&self.embedding]).chain(&self.head).map(Matrix::bytes).sum()
    }

    /// Computes `step`, storing keys and values in `blocks`: a row of float32 logits for each row that wants them.
    pub(super) fn run(&self, step: &Step, blocks: &Blocks) -> Result<Option<Tensor>> {
        let mut x = self.embedding.rows(&step.tokens)?;
        if self.embedding_scale != 1.0 {
            x = x.affine(f64::from(self.embedding_scale), 0.0)?;
        }
        let angles = self.rotations.iter().map(|rotation| rotation.angles(&step.positions));
        let angles: Vec<(Tensor, Tensor)> = angles.collect::<Result<_>>()?;
        let attention = Attention::new(self, step, &blocks.constants)?;
        // One row for each value of a row, because that is what candle stores by.
        let width = self.heads.key * self.heads.width;
        let slots = step.slots.reshape(((), 1))?.broadcast_as((step.slots.elem_count(), width))?.contiguous()?;
        for (layer, cache) in self.layers.iter().zip(&blocks.layers) {
            x = self.layer(layer, cache, &slots, &angles, &attention, x)?;
        }
        let Some(wanted) = &step.wanted else { return Ok(None) };
        let x = rms_norm(&x.index_select(wanted, 0)?, &self.norm, self.epsilon)?;
        let logits = self.head.as_ref().unwrap_or(&self.embedding).product(&x)?;
        Ok(Some(match self.logit_cap {
            Some(cap) => logits.affine(1.0 / f64::from(cap), 0.0)?.tanh()?.affine(f64::from(cap), 0.0)?,
            None => logits,
        }))
    }

    fn layer(
        &self,
        layer: &Layer,
        cache: &LayerBlocks,
        slots: &Tensor,
        angles: &[(Tensor, Tensor)],
        attention: &Attention,
        x: Tensor,
    ) -> Result<Tensor> {
        let angles = &angles[layer.rope];
        let normed = rms_norm(&x, &layer.attention_norm, self.epsilon)?;
        let query = add_bias(layer.query.product(&normed)?, &layer.query_bias)?;
        let key = add_bias(layer.key.product(&normed)?, &layer.key_bias)?;
        let value = add_bias(layer.value.product(&normed)?, &layer.value_bias)?;
        let query = self.turned(&query, self.heads.query, &layer.query_norm, angles)?;
        let key = self.turned(&key, self.heads.key, &layer.key_norm, angles)?;
        cache.keys.scatter_set(slots, &key.to_dtype(cache.keys.dtype())?, 0)?;
        cache.values.scatter_set(slots, &value.to_dtype(cache.values.dtype())?, 0)?;

        let attended = attention.attend(self.heads, cache, &query, layer.window)?;
        let out = add_bias(layer.output.product(&attended)?, &layer.output_bias)?;
        let x = (x + self.post_norm(out, &layer.attention_post_norm)?)?;

        let normed = rms_norm(&x, &layer.inner_norm, self.epsilon)?;
        let gate = layer.gate.product(&normed)?;
        let gate = match self.activation {
            Activation::Silu => silu(&gate)?,
            Activation::GeluTanh => gate.gelu()?,
        };
        let out = layer.down.product(&(gate * layer.up.product(&normed)?)?)?;
        x + self.post_norm(out, &layer.inner_post_norm)?
    }

    /// Norms and turns the heads of each row.
    fn turned(&self, x: &Tensor, heads: usize, norm: &Option<Tensor>, angles: &(Tensor, Tensor)) -> Result<Tensor> {
        let (rows, width) = (x.dim(0)?, self.heads.width);
        let mut x = x.reshape((1, rows, heads, width))?;
        if let Some(norm) = norm {
            x = rms_norm(&x, norm, self.epsilon)?;
        }
        let (cos, sin) = angles;
        let rotated = 2 * cos.dim(1)?;
        let x = if rotated == width {
            rope_thd(&x, cos, sin)?
        } else {
            let turned = rope_thd(&x.narrow(3, 0, rotated)?.contiguous()?, cos, sin)?;
            Tensor::cat(&[&turned, &x.narrow(3, rotated, width - rotated)?], 3)?
        };
        x.reshape((rows, heads * width))
    }

    fn post_norm(&self, x: Tensor, norm: &Option<Tensor>) -> Result<Tensor> {
        match norm {
            Some(norm) => rms_norm(&x, norm, self.epsilon),
            None => Ok(x),
        }
    }
}

impl Rotation {
    /// Cosines and sines of each row, `[rows, pairs]`.
    fn angles(&self, positions: &Tensor) -> Result<(Tensor, Tensor)> {
        let angles = positions.reshape(((), 1))?.broadcast_mul(&self.frequencies)?;
        let scaled = |x: Tensor| if self.scale == 1.0 { Ok(x) } else { x.affine(f64::from(self.scale), 0.0) };
        Ok((scaled(angles.cos()?)?, scaled(angles.sin()?)?))
    }
}

fn add_bias(x: Tensor, bias: &Option<Tensor>) -> Result<Tensor> {
    match bias {
        Some(bias) => x.broadcast_add(bias),
        None => Ok(x),
    }
}

/// How the rows of a step attend, laid out once for all layers.
struct Attention {
    /// Each with its bias for each window that a layer has.
    groups: Vec<(Gathered, BTreeMap<Option<usize>, Tensor>)>,
    #[cfg(feature = "flash-attn")]
    sequences: Option<super::flash::Sequences>,
}

impl Attention {
    fn new(network: &Network, step: &Step, constants: &Constants) -> Result<Self> {
        #[cfg(feature = "flash-attn")]
        if step.sequences.is_some() {
            return Ok(Self { groups: Vec::new(), sequences: step.sequences.clone() });
        }
        let groups = step.groups.iter().map(|group| {
            let StepGroup { rows, sequences, blocks, tables } = group;
            let gathered = Gathered::new(constants, *rows, *sequences, *blocks, &step.positions, tables)?;
            let mut biases = BTreeMap::new();
            for layer in &network.layers {
                if let Entry::Vacant(entry) = biases.entry(layer.window) {
                    entry.insert(gathered.bias(constants, layer.window)?);
                }
            }
            Ok((gathered, biases))
        });
        Ok(Self {
            groups: groups.collect::<Result<_>>()?,
            #[cfg(feature = "flash-attn")]
            sequences: None,
        })
    }

    fn attend(&self, heads: Heads, cache: &LayerBlocks, query: &Tensor, window: Option<usize>) -> Result<Tensor> {
        #[cfg(feature = "flash-attn")]
        if let Some(sequences) = &self.sequences {
            return sequences.attend(heads, cache, query, window);
        }
        let groups = self.groups.iter().filter_map(|(group, biases)| {
            let bias = biases.get(&window)?;
            Some(group.attend(heads, cache, query, bias))
        });
        let attended: Vec<Tensor> = groups.collect::<Result<_>>()?;
        match attended.as_slice() {
            [whole] => Ok(whole.clone()),
            parts => Tensor::cat(parts, 0),
        }
    }
}
