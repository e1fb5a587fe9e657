//! T5's encoder (Raffel et al. 2020, version 1.1) and its tokenizer: what FLUX reads prompts with.

use std::path::Path;

use host_kernels::encoder::Activation;
use host_kernels::linear::Rows;
use host_kernels::maps::{self, Attention, Pointwise};
use serde_json::json;
use tokenizers::Tokenizer;

use super::super::config::Config;
use super::super::layers::{Compute, Embedding, Linear};
use crate::store::read_text;
use crate::tensors::Tensors;

/// Vocabularies of a million pieces fit.
const BYTES: u64 = 256 << 20;
/// Fills up.
const PAD: u32 = 0;
/// Ends a text.
const END: u32 = 1;

/// The encoder.
pub(super) struct T5 {
    tokens: Embedding,
    vocabulary: usize,
    /// For each bucket of distances one value for each head.
    distances: Vec<f32>,
    buckets: usize,
    farthest: usize,
    layers: Vec<Layer>,
    last: Vec<f32>,
    hidden: usize,
    heads: usize,
    width: usize,
    epsilon: f32,
}

struct Layer {
    before: Vec<f32>,
    queries: Linear,
    keys: Linear,
    values: Linear,
    out: Linear,
    between: Vec<f32>,
    gates: Linear,
    wide: Linear,
    narrow: Linear,
}

impl T5 {
    pub(super) fn load(config: &Config, tensors: &mut Tensors) -> Result<T5, String> {
        config.only("feed_forward_proj", &[json!("gated-gelu")])?;
        let hidden = config.size("d_model", None, 1 << 14)?;
        let (heads, width) = (config.size("num_heads", None, 256)?, config.size("d_kv", None, 1 << 10)?);
        let (inner, wide) = (heads * width, config.size("d_ff", None, 1 << 17)?);
        let count = config.size("num_layers", None, 128)?;
        let layers = (0..count).map(|at| {
            let name = |part: &str| format!("encoder.block.{at}.layer.{part}");
            let t = &mut *tensors;
            Ok(Layer {
                before: t.read(&name("0.layer_norm.weight"), &[hidden])?,
                queries: Linear::load_plain(t, &name("0.SelfAttention.q"), inner, hidden)?,
                keys: Linear::load_plain(t, &name("0.SelfAttention.k"), inner, hidden)?,
                values: Linear::load_plain(t, &name("0.SelfAttention.v"), inner, hidden)?,
                out: Linear::load_plain(t, &name("0.SelfAttention.o"), hidden, inner)?,
                between: t.read(&name("1.layer_norm.weight"), &[hidden])?,
                gates: Linear::load_plain(t, &name("1.DenseReluDense.wi_0"), wide, hidden)?,
                wide: Linear::load_plain(t, &name("1.DenseReluDense.wi_1"), wide, hidden)?,
                narrow: Linear::load_plain(t, &name("1.DenseReluDense.wo"), hidden, wide)?,
            })
        });
        let layers = layers.collect::<Result<_, String>>()?;
        let buckets = config.size("relative_attention_num_buckets", Some(32), 1 << 10)?;
        if buckets < 4 {
            return Err(config.fault(format_args!("relative_attention_num_buckets is {buckets}, too few")));
        }
        let bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
        let vocabulary = config.size("vocab_size", None, 1 << 21)?;
        Ok(T5 {
            tokens: Embedding::load(tensors, "shared", vocabulary, hidden)?,
            vocabulary,
            distances: tensors.read(bias, &[buckets, heads])?,
            buckets,
            farthest: config.size("relative_attention_max_distance", Some(128), 1 << 16)?.max(buckets),
            layers,
            last: tensors.read("encoder.final_layer_norm.weight", &[hidden])?,
            hidden,
            heads,
            width,
            epsilon: config.epsilon("layer_norm_epsilon", 1e-6)?,
        })
    }

    pub(super) fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    pub(super) fn hidden(&self) -> usize {
        self.hidden
    }

    /// Values that [`Self::encode`] holds at most for so many tokens: rows, normalized, as queries, keys and values, and
    /// what they saw, or gates and what they let through; and a bias for each pair of them.
    pub(super) fn peak(&self, tokens: usize) -> usize {
        let wide = self.layers.first().map_or(0, |layer| layer.wide.outputs());
        let inner = self.heads * self.width;
        tokens * (2 * self.hidden + (4 * inner).max(3 * wide)) + tokens * tokens * self.heads
    }

    /// A row for each token, each below the size of the vocabulary.
    pub(super) fn encode(&self, compute: &Compute, ids: &[u32]) -> Vec<f32> {
        let mut rows = vec![0.0; ids.len() * self.hidden];
        for (id, row) in ids.iter().zip(rows.chunks_exact_mut(self.hidden)) {
            self.tokens.row(*id as usize, row);
        }
        let bias = self.bias(ids.len());
        for layer in &self.layers {
            let normal = self.normal(compute, &rows, &layer.before);
            let [queries, keys, values] =
                [&layer.queries, &layer.keys, &layer.values].map(|layer| layer.forward(compute, &normal));
            let inner = self.heads * self.width;
            let attention = Attention {
                queries: Rows::dense(&queries, inner),
                keys: Rows::dense(&keys, inner),
                values: Rows::dense(&values, inner),
                heads: self.heads,
                width: self.width,
                scale: 1.0,
                bias: &bias,
                causal: false,
            };
            let mut seen = vec![0.0; queries.len()];
            maps::attend(compute.isa, &compute.pool, &attention, &mut seen);
            layer.out.add_to(compute, &seen, &mut rows);
            let normal = self.normal(compute, &rows, &layer.between);
            let mut gated = layer.gates.forward(compute, &normal);
            maps::apply(compute.isa, &compute.pool, &mut gated, Pointwise::Of(Activation::GeluTanh));
            let wide = layer.wide.forward(compute, &normal);
            gated.iter_mut().zip(&wide).for_each(|(gate, value)| *gate *= value);
            layer.narrow.add_to(compute, &gated, &mut rows);
        }
        self.normal(compute, &rows, &self.last)
    }

    fn normal(&self, compute: &Compute, rows: &[f32], weight: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; rows.len()];
        maps::rms_norm(&compute.pool, rows, weight, self.epsilon, &mut out);
        out
    }

    /// What distances add to the scores: for each head, for each query, one for each key.
    fn bias(&self, count: usize) -> Vec<f32> {
        let mut bias = Vec::with_capacity(self.heads * count * count);
        for head in 0..self.heads {
            for query in 0..count {
                bias.extend((0..count).map(|key| self.distances[self.bucket(query, key) * self.heads + head]));
            }
        }
        bias
    }

    /// Half of the buckets are for keys that come later; of each half, half are for distances of their own, the others for
    /// ranges that grow by a constant factor.
    fn bucket(&self, query: usize, key: usize) -> usize {
        let half = self.buckets / 2;
        let (side, distance) = if key > query { (half, key - query) } else { (0, query - key) };
        let exact = half / 2;
        if distance < exact {
            return side + distance;
        }
        let share = (distance as f32 / exact as f32).ln() / (self.farthest as f32 / exact as f32).ln();
        side + (exact + (share * (half - exact) as f32) as usize).min(half - 1)
    }
}

/// Texts as T5 reads them.
pub(super) struct Pieces(Tokenizer);

impl Pieces {
    /// Reads `tokenizer.json`.
    pub(super) fn load(folder: &Path, vocabulary: usize) -> Result<Pieces, String> {
        let path = folder.join("tokenizer.json");
        let bytes = read_text(&path, BYTES).map_err(|error| error.to_string())?;
        let fault = |why: String| format!("{}: {why}", path.display());
        let mut tokenizer = Tokenizer::from_bytes(&bytes).map_err(|error| fault(error.to_string()))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| fault(error.to_string()))?;
        let most = tokenizer.get_vocab(true).into_values().max().unwrap_or(0);
        if most as usize >= vocabulary {
            return Err(fault(format!("it has token {most}, the text encoder knows {vocabulary}")));
        }
        Ok(Pieces(tokenizer))
    }

    /// Exactly `length` ids: the text, cut if need be, its end, padding.
    pub(super) fn encode(&self, text: &str, length: usize) -> Result<Vec<u32>, String> {
        let encoding = self.0.encode_fast(text, false).map_err(|error| error.to_string())?;
        let mut ids: Vec<u32> = encoding.get_ids().iter().take(length.saturating_sub(1)).copied().collect();
        ids.push(END);
        ids.resize(length, PAD);
        Ok(ids)
    }
}
