//! CLIP's text encoder (Radford et al. 2021): a causal transformer over 77 tokens.

use host_kernels::encoder::Activation;
use host_kernels::linear::Rows;
use host_kernels::maps::{self, Attention, Pointwise};

use super::config::Config;
use super::layers::{Compute, Embedding, LayerNorm, Linear};
use crate::tensors::Tensors;

/// A text encoder.
pub(super) struct Clip {
    tokens: Embedding,
    positions: Embedding,
    layers: Vec<Layer>,
    last: LayerNorm,
    projection: Option<Linear>,
    shape: Shape,
}

struct Shape {
    vocabulary: usize,
    hidden: usize,
    heads: usize,
    positions: usize,
    activation: Pointwise,
    end: u32,
}

struct Layer {
    before: LayerNorm,
    queries: Linear,
    keys: Linear,
    values: Linear,
    out: Linear,
    between: LayerNorm,
    wide: Linear,
    narrow: Linear,
}

/// What an encoder makes of a text.
pub(super) struct Encoded {
    /// A row for each token, after the last layer and its norm.
    pub(super) last: Vec<f32>,
    /// A row for each token, before the last layer.
    pub(super) second_last: Vec<f32>,
    /// One row for the whole text, projected where the encoder has a projection.
    pub(super) pooled: Vec<f32>,
}

impl Clip {
    pub(super) fn load(config: &Config, tensors: &mut Tensors) -> Result<Clip, String> {
        let hidden = config.size("hidden_size", None, 1 << 13)?;
        let activation = match config.text("hidden_act") {
            None | Some("quick_gelu") => Pointwise::QuickGelu,
            Some("gelu") => Pointwise::Of(Activation::Gelu),
            Some(other) => {
                return Err(config.fault(format_args!("hidden_act is {other:.40?}, known are quick_gelu and gelu")));
            }
        };
        let shape = Shape {
            vocabulary: config.size("vocab_size", None, 1 << 21)?,
            hidden,
            heads: config.size("num_attention_heads", None, 256)?,
            positions: config.size("max_position_embeddings", Some(77), 1 << 12)?,
            activation,
            end: config.get("eos_token_id").and_then(serde_json::Value::as_u64).map_or(2, |id| id as u32),
        };
        if !hidden.is_multiple_of(shape.heads) {
            return Err(config
                .fault(format_args!("hidden_size {hidden} is no multiple of num_attention_heads {}", shape.heads)));
        }
        let epsilon = config.epsilon("layer_norm_eps", 1e-5)?;
        let wide = config.size("intermediate_size", None, 1 << 16)?;
        let prefix =
            if tensors.shape("text_model.embeddings.token_embedding.weight").is_some() { "text_model." } else { "" };
        let count = config.size("num_hidden_layers", None, 128)?;
        let layers = (0..count).map(|at| {
            let name = |part: &str| format!("{prefix}encoder.layers.{at}.{part}");
            let t = &mut *tensors;
            Ok(Layer {
                before: LayerNorm::load(t, &name("layer_norm1"), hidden, epsilon)?,
                queries: Linear::load(t, &name("self_attn.q_proj"), hidden, hidden)?,
                keys: Linear::load(t, &name("self_attn.k_proj"), hidden, hidden)?,
                values: Linear::load(t, &name("self_attn.v_proj"), hidden, hidden)?,
                out: Linear::load(t, &name("self_attn.out_proj"), hidden, hidden)?,
                between: LayerNorm::load(t, &name("layer_norm2"), hidden, epsilon)?,
                wide: Linear::load(t, &name("mlp.fc1"), wide, hidden)?,
                narrow: Linear::load(t, &name("mlp.fc2"), hidden, wide)?,
            })
        });
        let layers = layers.collect::<Result<_, String>>()?;
        let projection = if tensors.shape("text_projection.weight").is_some() {
            let width = config.size("projection_dim", None, 1 << 13)?;
            Some(Linear::load_plain(tensors, "text_projection", width, hidden)?)
        } else {
            None
        };
        Ok(Clip {
            tokens: Embedding::load(tensors, &format!("{prefix}embeddings.token_embedding"), shape.vocabulary, hidden)?,
            positions: Embedding::load(
                tensors,
                &format!("{prefix}embeddings.position_embedding"),
                shape.positions,
                hidden,
            )?,
            layers,
            last: LayerNorm::load(tensors, &format!("{prefix}final_layer_norm"), hidden, epsilon)?,
            projection,
            shape,
        })
    }

    pub(super) fn vocabulary(&self) -> usize {
        self.shape.vocabulary
    }

    /// Tokens of a text.
    pub(super) fn positions(&self) -> usize {
        self.shape.positions
    }

    /// Values of a token's row.
    pub(super) fn hidden(&self) -> usize {
        self.shape.hidden
    }

    /// Values of a text's row.
    pub(super) fn pooled(&self) -> usize {
        self.projection.as_ref().map_or(self.shape.hidden, Linear::outputs)
    }

    /// Values that [`Self::encode`] holds at most: rows before and after the last layer, normalized, as queries, keys and
    /// values, and what they saw; or wide.
    pub(super) fn peak(&self) -> usize {
        let wide = self.layers.first().map_or(0, |layer| layer.wide.outputs());
        self.shape.positions * (7 * self.shape.hidden + wide)
    }

    /// Encodes as many tokens as there are positions, each below the size of the vocabulary.
    pub(super) fn encode(&self, compute: &Compute, ids: &[u32]) -> Encoded {
        let width = self.shape.hidden;
        let mut rows = vec![0.0; ids.len() * width];
        let mut position = vec![0.0; width];
        for ((at, id), row) in ids.iter().enumerate().zip(rows.chunks_exact_mut(width)) {
            self.tokens.row(*id as usize, row);
            self.positions.row(at, &mut position);
            row.iter_mut().zip(&position).for_each(|(value, position)| *value += position);
        }
        let mut second_last = Vec::new();
        for (at, layer) in self.layers.iter().enumerate() {
            if at + 1 == self.layers.len() {
                second_last.clone_from(&rows);
            }
            layer.forward(compute, &self.shape, &mut rows);
        }
        let last = self.last.forward(compute, &rows);
        let end = self.end(ids);
        let pooled = &last[end * width..(end + 1) * width];
        let pooled = self.projection.as_ref().map_or_else(|| pooled.to_vec(), |layer| layer.forward(compute, pooled));
        Encoded { last, second_last, pooled }
    }

    /// The token that stands for the text: its end. Configurations of the first CLIP say 2 and mean the highest id.
    fn end(&self, ids: &[u32]) -> usize {
        let end = if self.shape.end == 2 { ids.iter().max().copied().unwrap_or(0) } else { self.shape.end };
        ids.iter().position(|id| *id == end).unwrap_or(0)
    }
}

impl Layer {
    fn forward(&self, compute: &Compute, shape: &Shape, rows: &mut [f32]) {
        let normal = self.before.forward(compute, rows);
        let [queries, keys, values] =
            [&self.queries, &self.keys, &self.values].map(|layer| layer.forward(compute, &normal));
        let head = shape.hidden / shape.heads;
        let attention = Attention {
            queries: Rows::dense(&queries, shape.hidden),
            keys: Rows::dense(&keys, shape.hidden),
            values: Rows::dense(&values, shape.hidden),
            heads: shape.heads,
            width: head,
            scale: 1.0 / (head as f32).sqrt(),
            bias: &[],
            causal: true,
        };
        let mut seen = vec![0.0; rows.len()];
        maps::attend(compute.isa, &compute.pool, &attention, &mut seen);
        self.out.add_to(compute, &seen, rows);
        let mut wide = self.wide.forward(compute, &self.between.forward(compute, rows));
        maps::apply(compute.isa, &compute.pool, &mut wide, shape.activation);
        self.narrow.add_to(compute, &wide, rows);
    }
}
