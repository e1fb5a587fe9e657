//! Captions: BLIP (Li et al. 2022).
//!
//! A vision transformer sees the picture; a decoder of BERT's layers writes word by word and looks at the picture through
//! cross-attention in every layer. Keys and values of the words written so far are kept, those of the picture are
//! computed once.

use std::path::Path;

use host_kernels::linear::Rows;
use host_kernels::vision::{Activation, Map};
use serde_json::Value;

use super::layers::{
    Compute, Layer, Linear, Mlp, Names, Norm, Patches, Table, Tower, add, attend, attend_dense, finite, whole,
};
use super::telling::{Growing, Telling, Written};
use super::tokens::Texts;
use crate::AiError;
use crate::backend::Caption;
use crate::tensors::Tensors;
use crate::text::sampler::Sampler;

const NAMES: Names = Names {
    before: "layer_norm1",
    qkv: &["self_attn.qkv"],
    out: "self_attn.projection",
    after: "layer_norm2",
    up: "mlp.fc1",
    down: "mlp.fc2",
};

const VISION: Tower =
    Tower { hidden: 768, intermediate: 3072, layers: 12, heads: 12, activation: Activation::Gelu, epsilon: 1e-5 };
const TEXT: Tower =
    Tower { hidden: 768, intermediate: 3072, layers: 12, heads: 8, activation: Activation::Gelu, epsilon: 1e-12 };

/// `BlipForConditionalGeneration`.
pub(super) struct Blip {
    vision: Vision,
    text: Decoder,
    tokens: Texts,
}

struct Vision {
    tower: Tower,
    patches: Patches,
    class: Vec<f32>,
    positions: Vec<f32>,
    layers: Vec<Layer>,
    norm: Norm,
}

struct Decoder {
    tower: Tower,
    words: Table,
    positions: Vec<f32>,
    norm: Norm,
    layers: Vec<DecoderLayer>,
    transform: Linear,
    transform_norm: Norm,
    head: Linear,
    /// Begins every caption.
    begin: u32,
    /// Ends it.
    end: u32,
}

struct DecoderLayer {
    qkv: Linear,
    out: Linear,
    attention_norm: Norm,
    query: Linear,
    key: Linear,
    value: Linear,
    cross_out: Linear,
    cross_norm: Norm,
    mlp: Mlp,
    norm: Norm,
}

/// What a layer remembers of one caption.
struct Memory {
    /// Query, key and value of each word.
    words: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Blip {
    pub(super) fn load(
        folder: &Path,
        tensors: &mut Tensors,
        config: &Value,
        given: Option<(usize, usize)>,
    ) -> Result<Blip, String> {
        let part = |key: &str| config.get(key).cloned().unwrap_or_else(|| Value::Object(serde_json::Map::new()));
        let vision = Vision::load(tensors, &part("vision_config"))?;
        vision.patches.check(given)?;
        let text = Decoder::load(tensors, &part("text_config"), vision.tower.hidden)?;
        // One more than fits, to tell a prompt that is too long from one that just fits.
        let tokens = Texts::load(folder, text.places() + 1, text.words.count())?;
        Ok(Blip { vision, text, tokens })
    }

    /// Values that a caption holds at most.
    pub(super) fn peak(&self, caption: &Caption) -> usize {
        let seen = self.vision.positions.len() / self.vision.tower.hidden;
        let Tower { hidden, layers, .. } = self.text.tower;
        // A prompt may take all places, and so may what is written.
        let words = if caption.prompt.is_some() { usize::MAX } else { caption.max_tokens + 1 }.min(self.text.places());
        let memory = layers * hidden * (3 * words + 2 * seen);
        let reading = self.text.tower.peak(words) + 2 * self.text.head.outputs();
        self.vision.tower.peak(seen).max(memory + reading + seen * self.vision.tower.hidden)
    }

    /// A caption that begins with the prompt, which is part of it, to `telling`.
    ///
    /// # Errors
    /// 5021 for a prompt beyond the model's positions, 3046 for broken weights, and what `check` says between steps.
    pub(super) fn caption(
        &self,
        compute: &Compute,
        picture: &Map,
        caption: &Caption,
        check: &dyn Fn() -> Result<(), AiError>,
        telling: &mut Telling,
    ) -> Result<Written, AiError> {
        let mut ids = vec![self.text.begin];
        if let Some(prompt) = caption.prompt.as_deref().filter(|prompt| !prompt.trim().is_empty()) {
            let read = self.tokens.encode(prompt, "prompt")?;
            // The tokenizer's own begin gives way to the decoder's, its end to what is written.
            ids.extend(read.get(1..read.len().saturating_sub(1)).unwrap_or_default());
        }
        let places = self.text.places();
        if ids.len() >= places {
            return Err(AiError::context_exceeded(ids.len(), places));
        }
        let seen = self.vision.forward(compute, picture, check)?;
        let mut memory: Vec<Memory> = self.text.layers.iter().map(|layer| layer.see(compute, &seen)).collect();
        let end = (ids.len() + caption.max_tokens).min(places);
        let mut sampler = Sampler::new(caption.sampling.clone(), &ids);
        let (mut read, given, mut ended) = (0, ids.len(), false);
        let mut growing = Growing::default();
        while ids.len() < end {
            check()?;
            let logits = self.text.step(compute, &ids[read..], read, &mut memory);
            finite(&logits)?;
            read = ids.len();
            let next = sampler.sample(&logits, None).map_err(AiError::model_unavailable)?;
            if next == self.text.end {
                ended = true;
                break;
            }
            ids.push(next);
            if caption.streamed {
                growing.push(&self.tokens.decode(&ids)?, telling);
            }
        }
        growing.finish(&self.tokens.decode(&ids)?, telling);
        Ok(Written::new(given, ids.len() - given, ended))
    }
}

impl Vision {
    fn load(tensors: &mut Tensors, config: &Value) -> Result<Vision, String> {
        let tower = Tower::parse(config, VISION).map_err(|why| format!("vision_config: {why}"))?;
        let Tower { hidden, epsilon, .. } = tower;
        let name = |part: &str| format!("vision_model.{part}");
        let patches = Patches::load(tensors, &name("embeddings.patch_embedding"), config, hidden, (384, 16))?;
        let class = tensors.read(&name("embeddings.class_embedding"), &[1, 1, hidden])?;
        let positions = tensors.read(&name("embeddings.position_embedding"), &[1, patches.count + 1, hidden])?;
        let layers = Layer::all(tensors, &name("encoder.layers"), &NAMES, &tower)?;
        let norm = Norm::load(tensors, &name("post_layernorm"), hidden, epsilon)?;
        Ok(Vision { tower, patches, class, positions, layers, norm })
    }

    fn forward(
        &self,
        compute: &Compute,
        picture: &Map,
        check: &dyn Fn() -> Result<(), AiError>,
    ) -> Result<Vec<f32>, AiError> {
        let mut states = self.class.clone();
        states.append(&mut self.patches.apply(compute, picture));
        add(&mut states, &self.positions);
        for layer in &self.layers {
            check()?;
            layer.forward(compute, &self.tower, &mut states, false);
        }
        self.norm.apply(compute, &mut states);
        Ok(states)
    }
}

impl Decoder {
    fn load(tensors: &mut Tensors, config: &Value, seen: usize) -> Result<Decoder, String> {
        let named = |why: String| format!("text_config: {why}");
        let tower = Tower::parse(config, TEXT).map_err(named)?;
        let Tower { hidden, epsilon, .. } = tower;
        let vocabulary = whole(config, "vocab_size", Some(30_524), 1 << 21).map_err(named)?;
        let places = whole(config, "max_position_embeddings", Some(512), 1 << 14).map_err(named)?;
        let id = |key: &str, default: u64| match config.get(key).map_or(Some(default), Value::as_u64) {
            Some(id) if id < vocabulary as u64 => Ok(id as u32),
            _ => Err(named(format!("{key} is not below vocab_size {vocabulary}"))),
        };
        let (begin, end) = (id("bos_token_id", 30_522)?, id("sep_token_id", 102)?);
        let name = |part: &str| format!("text_decoder.bert.{part}");
        let words = Table::load(tensors, &name("embeddings.word_embeddings.weight"), vocabulary, hidden)?;
        let positions = tensors.read(&name("embeddings.position_embeddings.weight"), &[places, hidden])?;
        let norm = Norm::load(tensors, &name("embeddings.LayerNorm"), hidden, epsilon)?;
        let layer = |index| DecoderLayer::load(tensors, &name(&format!("encoder.layer.{index}")), &tower, seen);
        let layers = (0..tower.layers).map(layer).collect::<Result<_, _>>()?;
        let name = |part: &str| format!("text_decoder.cls.predictions.{part}");
        let transform = Linear::load(tensors, &name("transform.dense"), hidden, hidden)?;
        let transform_norm = Norm::load(tensors, &name("transform.LayerNorm"), hidden, epsilon)?;
        let own = name("decoder.weight");
        let bias = tensors.read(&name("bias"), &[vocabulary])?;
        let head = if tensors.shape(&own).is_some() {
            Linear::of(&Table::load(tensors, &own, vocabulary, hidden)?, bias)
        } else {
            Linear::of(&words, bias)
        };
        Ok(Decoder { tower, words, positions, norm, layers, transform, transform_norm, head, begin, end })
    }

    /// The most tokens of a caption.
    fn places(&self) -> usize {
        self.positions.len() / self.tower.hidden
    }

    /// Reads `ids`, which stand from place `start` on, and gives the logits of what follows.
    fn step(&self, compute: &Compute, ids: &[u32], start: usize, memory: &mut [Memory]) -> Vec<f32> {
        let hidden = self.tower.hidden;
        let mut states = self.words.rows(ids);
        add(&mut states, &self.positions[start * hidden..]);
        self.norm.apply(compute, &mut states);
        for (layer, memory) in self.layers.iter().zip(memory) {
            layer.forward(compute, &self.tower, &mut states, memory);
        }
        let last = &states[states.len() - hidden..];
        let mut state = self.transform.apply(compute, last);
        compute.activate(&mut state, hidden, self.tower.activation);
        self.transform_norm.apply(compute, &mut state);
        self.head.apply(compute, &state)
    }
}

impl DecoderLayer {
    fn load(tensors: &mut Tensors, root: &str, tower: &Tower, seen: usize) -> Result<DecoderLayer, String> {
        let Tower { hidden, epsilon, .. } = *tower;
        let name = |part: &str| format!("{root}.{part}");
        let qkv: Vec<String> =
            ["query", "key", "value"].iter().map(|part| name(&format!("attention.self.{part}"))).collect();
        Ok(DecoderLayer {
            qkv: Linear::joined(tensors, &qkv, hidden, hidden)?,
            out: Linear::load(tensors, &name("attention.output.dense"), hidden, hidden)?,
            attention_norm: Norm::load(tensors, &name("attention.output.LayerNorm"), hidden, epsilon)?,
            query: Linear::load(tensors, &name("crossattention.self.query"), hidden, hidden)?,
            key: Linear::load(tensors, &name("crossattention.self.key"), hidden, seen)?,
            value: Linear::load(tensors, &name("crossattention.self.value"), hidden, seen)?,
            cross_out: Linear::load(tensors, &name("crossattention.output.dense"), hidden, hidden)?,
            cross_norm: Norm::load(tensors, &name("crossattention.output.LayerNorm"), hidden, epsilon)?,
            mlp: Mlp::load(tensors, &name("intermediate.dense"), &name("output.dense"), tower)?,
            norm: Norm::load(tensors, &name("output.LayerNorm"), hidden, epsilon)?,
        })
    }

    /// The memory of a caption that has no words yet.
    fn see(&self, compute: &Compute, seen: &[f32]) -> Memory {
        Memory { words: Vec::new(), keys: self.key.apply(compute, seen), values: self.value.apply(compute, seen) }
    }

    fn forward(&self, compute: &Compute, tower: &Tower, states: &mut [f32], memory: &mut Memory) {
        let (hidden, heads) = (tower.hidden, tower.heads);
        memory.words.append(&mut self.qkv.apply(compute, states));
        let stride = 3 * hidden;
        let (asked, known) = (states.len() / hidden, memory.words.len() / stride);
        let rows = |start: usize, count| Rows { data: &memory.words[start..], stride, count };
        let parts = [rows((known - asked) * stride, asked), rows(hidden, known), rows(2 * hidden, known)];
        let answer = attend(compute, parts, hidden / heads, heads, true);
        self.attention_norm.add_and_apply(compute, states, &self.out.apply(compute, &answer));
        let queries = self.query.apply(compute, states);
        let answer = attend_dense(compute, &queries, &memory.keys, &memory.values, hidden, heads);
        self.cross_norm.add_and_apply(compute, states, &self.cross_out.apply(compute, &answer));
        let more = self.mlp.apply(compute, states);
        self.norm.add_and_apply(compute, states, &more);
    }
}
