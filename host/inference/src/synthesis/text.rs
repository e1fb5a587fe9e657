//! The encoder of texts: a transformer whose attention knows how far apart two tokens are (Shaw et al. 2018), up to a
//! window.

use host_kernels::elementwise::scale;
use host_kernels::encoder::softmax;
use host_kernels::linear::{Packed, Rows, linear};

use super::config::{Config, Text};
use super::layers::{Compute, Convolution, Norm, activated, each_row, read};
use crate::tensors::Tensors;

pub(super) struct TextEncoder {
    shape: Text,
    flow_size: usize,
    /// A row for each token.
    embeddings: Vec<f32>,
    layers: Vec<Layer>,
    project: Convolution,
}

struct Layer {
    attention: Attention,
    attention_norm: Norm,
    up: Convolution,
    down: Convolution,
    norm: Norm,
}

struct Attention {
    query: Convolution,
    key: Convolution,
    value: Convolution,
    out: Convolution,
    /// A vector for each distance from `-window` to `window`.
    key_distances: Vec<f32>,
    value_distances: Vec<f32>,
}

/// A text as the rest of the model reads it, a row for each token.
pub(super) struct Encoded {
    pub(super) states: Vec<f32>,
    /// Of what the flow makes a frame of: its mean, and the logarithm of its deviation.
    pub(super) means: Vec<f32>,
    pub(super) log_deviations: Vec<f32>,
}

impl TextEncoder {
    pub(super) fn load(tensors: &mut Tensors, config: &Config) -> Result<TextEncoder, String> {
        let shape = config.text.clone();
        let width = shape.width;
        let layer = |tensors: &mut Tensors, index: usize| {
            let name = format!("text_encoder.encoder.layers.{index}");
            let feed = format!("{name}.feed_forward");
            Ok::<_, String>(Layer {
                attention: Attention::load(tensors, &format!("{name}.attention"), &shape)?,
                attention_norm: Norm::load(tensors, &format!("{name}.layer_norm"), width, shape.epsilon)?,
                up: Convolution::load(
                    tensors,
                    &format!("{feed}.conv_1"),
                    [shape.intermediate, width, shape.kernel],
                    1,
                    true,
                )?,
                down: Convolution::load(
                    tensors,
                    &format!("{feed}.conv_2"),
                    [width, shape.intermediate, shape.kernel],
                    1,
                    true,
                )?,
                norm: Norm::load(tensors, &format!("{name}.final_layer_norm"), width, shape.epsilon)?,
            })
        };
        let embeddings = read(tensors, "text_encoder.embed_tokens.weight", &[config.vocabulary, width])?;
        let layers = (0..shape.layers).map(|index| layer(tensors, index)).collect::<Result<_, _>>()?;
        let project = Convolution::pointwise(tensors, "text_encoder.project", 2 * config.flow_size, width)?;
        Ok(TextEncoder { embeddings, layers, project, flow_size: config.flow_size, shape })
    }

    /// Reads tokens, each less than the vocabulary.
    pub(super) fn encode(&self, compute: &Compute, tokens: &[u32]) -> Encoded {
        let width = self.shape.width;
        let mut x: Vec<f32> =
            tokens.iter().flat_map(|token| &self.embeddings[*token as usize * width..][..width]).copied().collect();
        scale(compute.isa, &mut x, (width as f32).sqrt());
        for layer in &self.layers {
            let seen = layer.attention.forward(compute, &x, &self.shape);
            layer.attention_norm.apply(compute, &mut x, &seen);
            let mut wide = layer.up.forward(compute, &x);
            activated(compute, &mut wide, self.shape.intermediate, self.shape.activation);
            let fed = layer.down.forward(compute, &wide);
            layer.norm.apply(compute, &mut x, &fed);
        }
        let both = self.project.forward(compute, &x);
        let half = |second: bool| {
            let half = |row: &'_ [f32]| if second { self.flow_size..row.len() } else { 0..self.flow_size };
            both.chunks_exact(2 * self.flow_size).flat_map(|row| &row[half(row)]).copied().collect()
        };
        Encoded { means: half(false), log_deviations: half(true), states: x }
    }
}

impl Attention {
    fn load(tensors: &mut Tensors, name: &str, shape: &Text) -> Result<Attention, String> {
        let linear = |tensors: &mut Tensors, part: &str| {
            Convolution::linear(tensors, &format!("{name}.{part}"), shape.width, shape.bias)
        };
        let distances = [1, 2 * shape.window + 1, shape.width / shape.heads];
        Ok(Attention {
            query: linear(tensors, "q_proj")?,
            key: linear(tensors, "k_proj")?,
            value: linear(tensors, "v_proj")?,
            out: linear(tensors, "out_proj")?,
            key_distances: read(tensors, &format!("{name}.emb_rel_k"), &distances)?,
            value_distances: read(tensors, &format!("{name}.emb_rel_v"), &distances)?,
        })
    }

    fn forward(&self, compute: &Compute, x: &[f32], shape: &Text) -> Vec<f32> {
        let (width, head) = (shape.width, shape.width / shape.heads);
        let mut query = self.query.forward(compute, x);
        scale(compute.isa, &mut query, (head as f32).powf(-0.5));
        let (key, value) = (self.key.forward(compute, x), self.value.forward(compute, x));
        let count = x.len() / width;
        let mut seen = vec![0.0; x.len()];
        let (mut keys, mut values) = (Packed::default(), Packed::default());
        for column in (0..width).step_by(head) {
            keys.pack(count, head, |token, index| key[token * width + column + index]);
            values.pack(head, count, |index, token| value[token * width + column + index]);
            each_row(compute, &mut seen, width, |first, rows| {
                let rows_of = rows.len() / width;
                let queries = Rows { data: &query[first * width + column..], stride: width, count: rows_of };
                let mut scores = vec![0.0; rows_of * count];
                linear(compute.isa, queries, &keys, &[], &mut scores, count);
                for (index, scores) in scores.chunks_exact_mut(count).enumerate() {
                    let query = &query[(first + index) * width + column..][..head];
                    for (token, distance) in near(first + index, count, shape.window) {
                        scores[token] += dot(query, &self.key_distances[distance * head..][..head]);
                    }
                }
                softmax(compute.isa, &mut scores, count);
                linear(compute.isa, Rows::dense(&scores, count), &values, &[], &mut rows[column..], width);
                for (index, scores) in scores.chunks_exact(count).enumerate() {
                    let out = &mut rows[index * width + column..][..head];
                    for (token, distance) in near(first + index, count, shape.window) {
                        let vector = &self.value_distances[distance * head..][..head];
                        out.iter_mut().zip(vector).for_each(|(out, value)| *out += scores[token] * value);
                    }
                }
            });
        }
        self.out.forward(compute, &seen)
    }
}

/// The tokens that are within `window` of `token`, with the place of their distance in a table.
fn near(token: usize, count: usize, window: usize) -> impl Iterator<Item = (usize, usize)> {
    (token.saturating_sub(window)..count.min(token + window + 1)).map(move |other| (other, other + window - token))
}

fn dot(x: &[f32], y: &[f32]) -> f32 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}
