//! The encoder of BERT (Devlin et al. 2018) over packed rows.
//!
//! A batch is one matrix with a row per token of every text and no padding: texts meet only in the products, which
//! treat rows alike, and attention runs text by text. So there are no masks to get wrong, a short text beside a long
//! one costs what it costs alone, and its vector does not depend on its neighbours.

use std::ops::Range;
use std::path::Path;

use host_kernels::encoder;
use host_kernels::isa::Isa;
use host_kernels::linear::{Packed, Rows, linear};

use super::config::Config;
use crate::backend::Pooling;
use crate::tensors::Tensors;

/// Rows that go through a feed-forward block together: its intermediate values then stay in a core's own cache.
const ROWS: usize = 192;
/// Queries whose scores are in memory at once.
const QUERIES: usize = 64;

/// The weights.
pub(super) struct Bert {
    pub(super) config: Config,
    words: Vec<f32>,
    /// Position and segment 0, summed.
    positions: Vec<f32>,
    norm: Norm,
    layers: Vec<Layer>,
}

struct Layer {
    /// Query, key and value beside each other; the query is scaled by the root of the head's width.
    qkv: Linear,
    attention_out: Linear,
    attention_norm: Norm,
    up: Linear,
    down: Linear,
    out_norm: Norm,
}

struct Linear {
    weight: Packed,
    bias: Vec<f32>,
}

struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

/// Memory of one thread, reused from batch to batch.
#[derive(Default)]
pub(super) struct Scratch {
    states: Vec<f32>,
    qkv: Vec<f32>,
    context: Vec<f32>,
    projected: Vec<f32>,
    intermediate: Vec<f32>,
    scores: Vec<f32>,
    keys: Packed,
    values: Packed,
}

impl Bert {
    /// Reads the weights in `folder`. The error says what is wrong with which file.
    pub(super) fn load(folder: &Path, config: Config) -> Result<Bert, String> {
        let tensors = Tensors::open(folder)?;
        // Checkpoints with a task's head on top keep the encoder under a name of its own.
        let words = |prefix: &&str| tensors.shape(&format!("{prefix}embeddings.word_embeddings.weight")).is_some();
        let prefix = ["", "bert."].into_iter().find(words).unwrap_or_default();
        let mut tensors = tensors.below(prefix);
        let hidden = config.hidden;
        let words = tensors.read("embeddings.word_embeddings.weight", &[config.vocabulary, hidden])?;
        let mut positions = tensors.read("embeddings.position_embeddings.weight", &[config.positions, hidden])?;
        let types = tensors.read("embeddings.token_type_embeddings.weight", &[config.types, hidden])?;
        for row in positions.chunks_exact_mut(hidden) {
            row.iter_mut().zip(&types).for_each(|(position, segment)| *position += segment);
        }
        let norm = Norm::load(&mut tensors, "embeddings.LayerNorm", hidden)?;
        let layers: Result<_, _> = (0..config.layers).map(|index| Layer::load(&mut tensors, index, &config)).collect();
        Ok(Bert { words, positions, norm, layers: layers?, config })
    }

    /// Encodes texts given as token ids; one vector of length 1 each. Ids must be below the vocabulary's size and no
    /// text longer than the positions.
    pub(super) fn encode(&self, texts: &[(&[u32], Pooling)], scratch: &mut Scratch) -> Vec<Vec<f32>> {
        let hidden = self.config.hidden;
        let mut spans: Vec<Range<usize>> = Vec::with_capacity(texts.len());
        scratch.states.clear();
        for (tokens, _) in texts {
            let start = spans.last().map_or(0, |span| span.end);
            spans.push(start..start + tokens.len());
            for (position, &token) in tokens.iter().enumerate() {
                let word = &self.words[token as usize * hidden..][..hidden];
                let place = &self.positions[position * hidden..][..hidden];
                scratch.states.extend(word.iter().zip(place).map(|(word, place)| word + place));
            }
        }
        self.norm.apply(&mut scratch.states, &[], self.config.epsilon);
        for layer in &self.layers {
            layer.forward(&self.config, &spans, scratch);
        }
        let pool = |(span, (_, pooling)): (&Range<usize>, &(&[u32], Pooling))| {
            pool(&scratch.states[span.start * hidden..span.end * hidden], hidden, *pooling)
        };
        spans.iter().zip(texts).map(pool).collect()
    }
}

impl Layer {
    fn load(tensors: &mut Tensors, index: usize, config: &Config) -> Result<Layer, String> {
        let (hidden, intermediate) = (config.hidden, config.intermediate);
        let name = |part: &str| format!("encoder.layer.{index}.{part}");
        let mut weight = Vec::new();
        let mut bias = Vec::new();
        for part in ["query", "key", "value"] {
            let mut rows = tensors.read(&name(&format!("attention.self.{part}.weight")), &[hidden, hidden])?;
            let mut shift = tensors.read(&name(&format!("attention.self.{part}.bias")), &[hidden])?;
            if part == "query" {
                let scale = 1.0 / (config.head() as f32).sqrt();
                rows.iter_mut().chain(&mut shift).for_each(|value| *value *= scale);
            }
            weight.append(&mut rows);
            bias.append(&mut shift);
        }
        Ok(Layer {
            qkv: Linear { weight: Packed::from_rows(&weight, 3 * hidden, hidden), bias },
            attention_out: Linear::load(tensors, &name("attention.output.dense"), hidden, hidden)?,
            attention_norm: Norm::load(tensors, &name("attention.output.LayerNorm"), hidden)?,
            up: Linear::load(tensors, &name("intermediate.dense"), intermediate, hidden)?,
            down: Linear::load(tensors, &name("output.dense"), hidden, intermediate)?,
            out_norm: Norm::load(tensors, &name("output.LayerNorm"), hidden)?,
        })
    }

    fn forward(&self, config: &Config, spans: &[Range<usize>], scratch: &mut Scratch) {
        let hidden = config.hidden;
        let Scratch { states, qkv, context, projected, intermediate, scores, keys, values } = scratch;
        self.qkv.apply(states, qkv);
        resize(context, states.len());
        for span in spans {
            let mut attention = Attention { config, qkv, scores, keys, values };
            attention.text(span.clone(), context);
        }
        self.attention_out.apply(context, projected);
        self.attention_norm.apply(states, projected, config.epsilon);
        for block in states.chunks_mut(ROWS * hidden) {
            self.up.apply(block, intermediate);
            encoder::activate(Isa::best(), intermediate, config.activation);
            self.down.apply(intermediate, projected);
            self.out_norm.apply(block, projected, config.epsilon);
        }
    }
}

/// Scaled dot-product attention of one text.
struct Attention<'a> {
    config: &'a Config,
    qkv: &'a [f32],
    scores: &'a mut Vec<f32>,
    keys: &'a mut Packed,
    values: &'a mut Packed,
}

impl Attention<'_> {
    fn text(&mut self, span: Range<usize>, context: &mut [f32]) {
        let (hidden, width, length) = (self.config.hidden, self.config.head(), span.len());
        let stride = 3 * hidden;
        for head in 0..self.config.heads {
            let column = head * width;
            let key = &self.qkv[span.start * stride + hidden + column..];
            self.keys.pack(length, width, |token, value| key[token * stride + value]);
            let value = &self.qkv[span.start * stride + 2 * hidden + column..];
            self.values.pack(width, length, |output, token| value[token * stride + output]);
            for first in (0..length).step_by(QUERIES) {
                let count = QUERIES.min(length - first);
                let query = Rows { data: &self.qkv[(span.start + first) * stride + column..], stride, count };
                resize(self.scores, count * length);
                linear(Isa::best(), query, self.keys, &[], self.scores, length);
                encoder::softmax(Isa::best(), self.scores, length);
                let out = &mut context[(span.start + first) * hidden + column..];
                linear(Isa::best(), Rows::dense(self.scores, length), self.values, &[], out, hidden);
            }
        }
    }
}

impl Linear {
    fn load(tensors: &mut Tensors, name: &str, outputs: usize, inputs: usize) -> Result<Linear, String> {
        let weight = tensors.read(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias = tensors.read(&format!("{name}.bias"), &[outputs])?;
        Ok(Linear { weight: Packed::from_rows(&weight, outputs, inputs), bias })
    }

    fn apply(&self, x: &[f32], y: &mut Vec<f32>) {
        let rows = Rows::dense(x, self.weight.inputs());
        resize(y, rows.count * self.weight.outputs());
        linear(Isa::best(), rows, &self.weight, &self.bias, y, self.weight.outputs());
    }
}

impl Norm {
    fn load(tensors: &mut Tensors, name: &str, width: usize) -> Result<Norm, String> {
        let weight = tensors.read(&format!("{name}.weight"), &[width])?;
        let bias = tensors.read(&format!("{name}.bias"), &[width])?;
        Ok(Norm { weight, bias })
    }

    fn apply(&self, rows: &mut [f32], other: &[f32], epsilon: f32) {
        encoder::add_and_normalize(Isa::best(), rows, other, &self.weight, &self.bias, epsilon);
    }
}

/// Every value is written before it is read, so what the memory held before does not matter.
fn resize(values: &mut Vec<f32>, length: usize) {
    values.resize(length, 0.0);
}

fn pool(states: &[f32], hidden: usize, pooling: Pooling) -> Vec<f32> {
    let mut vector = vec![0.0; hidden];
    let rows = match pooling {
        Pooling::Cls => states.get(..hidden).unwrap_or_default(),
        Pooling::Mean => states,
    };
    for row in rows.chunks_exact(hidden) {
        vector.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    }
    // The mean's divisor is a factor like any other and falls to the normalization.
    let length = vector.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
    }
    vector
}
