//! What the foreign forms of a Whisper model have in common: the names under which it was published, its shape read off
//! its tensors, and the files that say both.
//!
//! A reader of such a form gives tensors under published names, or names of the original that [`published`] knows. What
//! comes out is what the loader of speech reads: every tensor that the shape asks for, none else, in half precision,
//! with `config.json` and `generation_config.json`. Which heads of the attention follow the sound, and which tokens are
//! never said, some forms leave out: [`heads`] and [`tokens`] have them.

pub(super) mod heads;
pub(super) mod tokens;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::deferred::{self, Deferred};
use super::{StoreError, read_config};
use crate::speech;

/// Tokens of the models that know English only; the others have more.
const ENGLISH_VOCABULARY: usize = 51_864;
/// Special tokens beside the languages and the timestamps: end, start, translate, transcribe, and four more.
const NAMED: usize = 8;

/// A model under its published names.
pub(super) struct Whisper<'a> {
    /// By published name.
    pub(super) tensors: BTreeMap<String, Deferred<'a>>,
    /// Heads of a layer's attention in the encoder and in the decoder.
    pub(super) heads: [usize; 2],
}

/// What `config.json` says of a model, read off its tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) vocabulary: usize,
    pub(super) width: usize,
    mels: usize,
    pub(super) layers: [usize; 2],
    heads: [usize; 2],
    intermediate: [usize; 2],
    positions: [usize; 2],
}

/// What the tensors do not say.
#[derive(Debug, Default)]
pub(super) struct Hints {
    /// Layers and heads of the decoder that follow the sound, as JSON.
    pub(super) alignment_heads: Option<Value>,
    /// Tokens that never come, as JSON.
    pub(super) suppress: Option<Value>,
    /// Tokens that never come first, as JSON.
    pub(super) suppress_begin: Option<Value>,
}

impl<'a> Whisper<'a> {
    /// The model's shape.
    pub(super) fn shape(&self) -> Result<Shape, String> {
        let [vocabulary, width] = self.sides("model.decoder.embed_tokens.weight")?;
        let [_, mels, _] = self.sides("model.encoder.conv1.weight")?;
        let both = |get: &dyn Fn(&str) -> Result<usize, String>| Ok::<_, String>([get("encoder")?, get("decoder")?]);
        let layers = |side: &str| {
            let has = |layer: &usize| self.tensors.contains_key(&format!("model.{side}.layers.{layer}.fc1.weight"));
            (0..).take_while(has).count()
        };
        Ok(Shape {
            vocabulary,
            width,
            mels,
            layers: ["encoder", "decoder"].map(layers),
            heads: self.heads,
            intermediate: both(&|side| Ok(self.sides::<2>(&format!("model.{side}.layers.0.fc1.weight"))?[0]))?,
            positions: both(&|side| Ok(self.sides::<2>(&format!("model.{side}.embed_positions.weight"))?[0]))?,
        })
    }

    /// The sides of a tensor, of which there must be `N`.
    fn sides<const N: usize>(&self, name: &str) -> Result<[usize; N], String> {
        let tensor = self.tensors.get(name).ok_or_else(|| format!("there is no tensor {name}"))?;
        let dims = tensor.dims();
        <[usize; N]>::try_from(dims).map_err(|_| format!("tensor {name} has the shape {dims:?}, not {N} sides"))
    }

    /// Keeps what the shape asks for. The error names the first tensor that is missing or has another shape.
    fn complete(self, shape: &Shape) -> Result<BTreeMap<String, Deferred<'a>>, String> {
        let mut found = self.tensors;
        let mut tensors = BTreeMap::new();
        for (name, sides) in shape.tensors() {
            let mut tensor = found.remove(&name).ok_or_else(|| format!("there is no tensor {name}"))?;
            if !tensor.settle(&sides) {
                return Err(format!("tensor {name} has the shape {:?}, not {sides:?}", tensor.dims()));
            }
            tensors.insert(name, tensor);
        }
        Ok(tensors)
    }

    /// Writes `model.safetensors`, `config.json` and `generation_config.json` into `folder`. The error says what of the
    /// model is missing or wrong.
    pub(super) fn write(self, folder: &Path, hints: &Hints) -> Result<Result<(), String>, StoreError> {
        let shape = match self.shape() {
            Ok(shape) => shape,
            Err(why) => return Ok(Err(why)),
        };
        let config = shape.config(hints);
        if let Err(why) = speech::check_config(&config) {
            return Ok(Err(why));
        }
        if let Err(why) = self.write_weights(folder, &shape) {
            return Ok(Err(why));
        }
        for (name, value) in [("config.json", config), ("generation_config.json", shape.generation(hints))] {
            let path = folder.join(name);
            fs::write(&path, format!("{value:#}\n")).map_err(StoreError::io("cannot write", &path))?;
        }
        Ok(Ok(()))
    }

    /// Writes `model.safetensors` into `folder`, whose `config.json` must agree with it.
    pub(super) fn write_beside_config(mut self, folder: &Path) -> Result<Result<(), String>, StoreError> {
        let config = read_config(folder)?;
        let number = |key: &str| {
            let value = config.get(key).and_then(Value::as_u64).and_then(|number| usize::try_from(number).ok());
            value.ok_or_else(|| format!("config.json has no {key}"))
        };
        let heads = || Ok::<_, String>([number("encoder_attention_heads")?, number("decoder_attention_heads")?]);
        let written = speech::check_config(&config).and_then(|()| heads()).and_then(|heads| {
            self.heads = heads;
            let shape = self.shape()?;
            for (key, value) in [("vocab_size", shape.vocabulary), ("d_model", shape.width)] {
                if number(key)? != value {
                    return Err(format!("config.json says {key} {}, the tensors have {value}", number(key)?));
                }
            }
            self.write_weights(folder, &shape)
        });
        Ok(written)
    }

    fn write_weights(self, folder: &Path, shape: &Shape) -> Result<(), String> {
        let tensors = self.complete(shape)?;
        deferred::write(&folder.join("model.safetensors"), tensors).map_err(|error| error.to_string())
    }
}

impl Shape {
    /// Whether the model knows English only.
    pub(super) fn english(&self) -> bool {
        self.vocabulary == ENGLISH_VOCABULARY
    }

    /// Languages that have a token: what the other special tokens, the timestamps and the words, of which `words` are
    /// before the token that ends a text, leave of the vocabulary.
    pub(super) fn languages(&self, words: usize) -> Option<usize> {
        self.vocabulary.checked_sub(words + NAMED)?.checked_sub(self.positions[0] + 1)
    }

    /// The token that ends a text, after which the special ones come.
    pub(super) fn end(&self) -> usize {
        if self.english() { 50_256 } else { 50_257 }
    }

    /// Every tensor with its shape.
    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let width = self.width;
        let mut tensors = vec![("model.decoder.embed_tokens.weight".to_owned(), vec![self.vocabulary, width])];
        for (name, inputs) in [("conv1", self.mels), ("conv2", width)] {
            tensors.push((format!("model.encoder.{name}.weight"), vec![width, inputs, 3]));
            tensors.push((format!("model.encoder.{name}.bias"), vec![width]));
        }
        for (at, side) in ["encoder", "decoder"].into_iter().enumerate() {
            tensors.push((format!("model.{side}.embed_positions.weight"), vec![self.positions[at], width]));
            let mut add = |name: String, shape: Option<[usize; 2]>, bias: usize| {
                tensors.push((format!("{name}.weight"), shape.map_or(vec![width], |shape| shape.to_vec())));
                if bias > 0 {
                    tensors.push((format!("{name}.bias"), vec![bias]));
                }
            };
            add(format!("model.{side}.layer_norm"), None, width);
            for layer in 0..self.layers[at] {
                let layer = format!("model.{side}.layers.{layer}");
                let attentions = ["self_attn", "encoder_attn"].into_iter().take(1 + at);
                for attention in attentions {
                    add(format!("{layer}.{attention}_layer_norm"), None, width);
                    for (part, bias) in [("q_proj", width), ("k_proj", 0), ("v_proj", width), ("out_proj", width)] {
                        add(format!("{layer}.{attention}.{part}"), Some([width, width]), bias);
                    }
                }
                let inner = self.intermediate[at];
                add(format!("{layer}.final_layer_norm"), None, width);
                add(format!("{layer}.fc1"), Some([inner, width]), inner);
                add(format!("{layer}.fc2"), Some([width, inner]), width);
            }
        }
        tensors
    }

    fn config(&self, hints: &Hints) -> Value {
        let end = self.end();
        json!({
            "architectures": ["WhisperForConditionalGeneration"],
            "model_type": "whisper",
            "is_encoder_decoder": true,
            "activation_function": "gelu",
            "d_model": self.width,
            "num_mel_bins": self.mels,
            "vocab_size": self.vocabulary,
            "encoder_layers": self.layers[0],
            "decoder_layers": self.layers[1],
            "encoder_attention_heads": self.heads[0],
            "decoder_attention_heads": self.heads[1],
            "encoder_ffn_dim": self.intermediate[0],
            "decoder_ffn_dim": self.intermediate[1],
            "max_source_positions": self.positions[0],
            "max_target_positions": self.positions[1],
            "scale_embedding": false,
            "bos_token_id": end,
            "eos_token_id": end,
            "pad_token_id": end,
            "decoder_start_token_id": end + 1,
            "suppress_tokens": hints.suppress,
            "begin_suppress_tokens": hints.suppress_begin,
            "torch_dtype": "float16"
        })
    }

    fn generation(&self, hints: &Hints) -> Value {
        let end = self.end();
        let languages = if self.english() { 99 } else { self.vocabulary.saturating_sub(51_766) };
        json!({
            "alignment_heads": hints.alignment_heads,
            "bos_token_id": end,
            "eos_token_id": end,
            "pad_token_id": end,
            "decoder_start_token_id": end + 1,
            "is_multilingual": !self.english(),
            "max_initial_timestamp_index": 50,
            "max_length": self.positions[1],
            "no_timestamps_token_id": end + languages + 7,
            "return_timestamps": false,
            "suppress_tokens": hints.suppress,
            "begin_suppress_tokens": hints.suppress_begin
        })
    }
}

/// The published name of a tensor that has its original one, as in `decoder.blocks.0.cross_attn.query.weight`; names that
/// are published ones already stay. None for what is neither.
pub(super) fn published(name: &str) -> Option<String> {
    if name.starts_with("model.") {
        return Some(name.to_owned());
    }
    let (side, rest) = name.split_once('.').filter(|(side, _)| matches!(*side, "encoder" | "decoder"))?;
    let rest = match rest {
        "positional_embedding" => "embed_positions.weight".to_owned(),
        "token_embedding.weight" => "embed_tokens.weight".to_owned(),
        _ => {
            let (path, end) = rest.rsplit_once('.').filter(|(_, end)| matches!(*end, "weight" | "bias"))?;
            format!("{}.{end}", module(path)?)
        }
    };
    Some(format!("model.{side}.{rest}"))
}

fn module(path: &str) -> Option<String> {
    let Some((layer, part)) = path.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) else {
        return match path {
            "ln" | "ln_post" => Some("layer_norm".to_owned()),
            _ => Some(path.to_owned()),
        };
    };
    let layer: usize = layer.parse().ok()?;
    let attention = |part: &str| {
        Some(match part {
            "query" => "q_proj",
            "key" => "k_proj",
            "value" => "v_proj",
            "out" => "out_proj",
            _ => return None,
        })
    };
    let part = match part.split_once('.') {
        Some(("attn", part)) => format!("self_attn.{}", attention(part)?),
        Some(("cross_attn", part)) => format!("encoder_attn.{}", attention(part)?),
        Some(("mlp", "0")) => "fc1".to_owned(),
        Some(("mlp", "2")) => "fc2".to_owned(),
        None => match part {
            "attn_ln" => "self_attn_layer_norm".to_owned(),
            "cross_attn_ln" => "encoder_attn_layer_norm".to_owned(),
            "mlp_ln" => "final_layer_norm".to_owned(),
            _ => return None,
        },
        _ => return None,
    };
    Some(format!("layers.{layer}.{part}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn original_names_become_published_ones() {
        for (from, to) in [
            ("encoder.conv1.weight", "model.encoder.conv1.weight"),
            ("encoder.positional_embedding", "model.encoder.embed_positions.weight"),
            ("encoder.ln_post.bias", "model.encoder.layer_norm.bias"),
            ("decoder.ln.weight", "model.decoder.layer_norm.weight"),
            ("decoder.token_embedding.weight", "model.decoder.embed_tokens.weight"),
            ("decoder.blocks.3.cross_attn.query.bias", "model.decoder.layers.3.encoder_attn.q_proj.bias"),
            ("encoder.blocks.0.attn_ln.weight", "model.encoder.layers.0.self_attn_layer_norm.weight"),
            ("decoder.blocks.1.mlp.2.weight", "model.decoder.layers.1.fc2.weight"),
            ("model.decoder.layers.1.fc2.weight", "model.decoder.layers.1.fc2.weight"),
        ] {
            assert_eq!(published(from).as_deref(), Some(to));
        }
        for name in ["", "encoder", "other.conv1.weight", "encoder.blocks.x.mlp.0.weight", "encoder.blocks.0.y.weight"]
        {
            assert_eq!(published(name), None, "{name}");
        }
    }
}
