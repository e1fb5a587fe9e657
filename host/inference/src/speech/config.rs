//! `config.json` of a Whisper checkpoint, checked before anything is sized by it, and what `generation_config.json` says of
//! its tokens.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::mel::HOP;
use crate::store::read_text;

/// `generation_config.json` has some ten kilobytes.
const GENERATION_BYTES: u64 = 1 << 20;
/// The encoder halves the number of frames.
const FRAMES_PER_POSITION: usize = 2;

/// The shape of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) mels: usize,
    pub(crate) vocabulary: usize,
    pub(crate) width: usize,
    pub(crate) encoder: Stack,
    pub(crate) decoder: Stack,
    pub(crate) scale_embedding: bool,
}

/// One of its two halves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stack {
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) intermediate: usize,
    pub(crate) positions: usize,
}

#[derive(Deserialize)]
struct Raw {
    vocab_size: usize,
    num_mel_bins: usize,
    d_model: usize,
    encoder_layers: usize,
    encoder_attention_heads: usize,
    encoder_ffn_dim: usize,
    max_source_positions: usize,
    decoder_layers: usize,
    decoder_attention_heads: usize,
    decoder_ffn_dim: usize,
    max_target_positions: usize,
    #[serde(default)]
    scale_embedding: bool,
    #[serde(default = "default_activation")]
    activation_function: String,
}

fn default_activation() -> String {
    "gelu".to_owned()
}

impl Config {
    /// The error names the key and its bounds.
    pub(crate) fn parse(value: Value) -> Result<Config, String> {
        let raw: Raw = serde_json::from_value(value).map_err(|error| error.to_string())?;
        let bounded = |key: &str, value: usize, least: usize, most: usize| {
            let inside = (least..=most).contains(&value);
            if inside { Ok(value) } else { Err(format!("{key} is {value}, not {least} to {most}")) }
        };
        if raw.activation_function != "gelu" {
            return Err(format!("activation_function is {:?}; gelu is known", raw.activation_function));
        }
        let width = bounded("d_model", raw.d_model, 2, 1 << 13)?;
        for (key, heads) in [("encoder", raw.encoder_attention_heads), ("decoder", raw.decoder_attention_heads)] {
            if !width.is_multiple_of(bounded(&format!("{key}_attention_heads"), heads, 1, 256)?) {
                return Err(format!("d_model {width} is no multiple of {key}_attention_heads {heads}"));
            }
        }
        Ok(Config {
            mels: bounded("num_mel_bins", raw.num_mel_bins, 1, 256)?,
            vocabulary: bounded("vocab_size", raw.vocab_size, 1, 1 << 21)?,
            width,
            encoder: Stack {
                layers: bounded("encoder_layers", raw.encoder_layers, 1, 128)?,
                heads: raw.encoder_attention_heads,
                intermediate: bounded("encoder_ffn_dim", raw.encoder_ffn_dim, 1, 1 << 16)?,
                // At least a second, so that every window brings the transcript forward.
                positions: bounded("max_source_positions", raw.max_source_positions, 50, 3000)?,
            },
            decoder: Stack {
                layers: bounded("decoder_layers", raw.decoder_layers, 1, 128)?,
                heads: raw.decoder_attention_heads,
                intermediate: bounded("decoder_ffn_dim", raw.decoder_ffn_dim, 1, 1 << 16)?,
                positions: bounded("max_target_positions", raw.max_target_positions, 16, 4096)?,
            },
            scale_embedding: raw.scale_embedding,
        })
    }

    /// Frames of the spectrogram that the encoder reads at once.
    pub(crate) fn frames(&self) -> usize {
        self.encoder.positions * FRAMES_PER_POSITION
    }

    /// Samples that the encoder reads at once: half a minute in every published model.
    pub(crate) fn window(&self) -> usize {
        self.frames() * HOP
    }
}

/// What generation needs to know beside the weights.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Generation {
    /// Tokens that never come.
    pub(crate) suppress: Vec<u32>,
    /// Layer and head of the decoder whose attention follows the sound.
    pub(crate) alignment_heads: Vec<(usize, usize)>,
    /// Timestamps, in steps of 20 ms, that the first segment of a window may begin at.
    pub(crate) max_initial_timestamp: Option<usize>,
    /// Whether the model knows more languages than English.
    pub(crate) multilingual: bool,
}

impl Generation {
    /// Reads `generation_config.json` of `folder`, or else what older checkpoints have in their `config.json`. Tokens and
    /// heads that the model lacks are passed over.
    pub(crate) fn read(folder: &Path, main: &Value, config: &Config) -> Result<Generation, String> {
        let path = folder.join("generation_config.json");
        let own = if path.exists() {
            let text = read_text(&path, GENERATION_BYTES).map_err(|error| error.to_string())?;
            serde_json::from_slice(&text).map_err(|error| format!("{} is no JSON: {error}", path.display()))?
        } else {
            Value::Null
        };
        let list = |key: &str| {
            let list = own.get(key).or_else(|| main.get(key)).and_then(Value::as_array);
            list.map(Vec::as_slice).unwrap_or_default().iter()
        };
        let number = |value: &Value| value.as_u64().and_then(|number| usize::try_from(number).ok());
        let token = |value: &Value| number(value).filter(|token| *token < config.vocabulary).map(|token| token as u32);
        let head = |value: &Value| {
            let (layer, head) = (number(value.get(0)?)?, number(value.get(1)?)?);
            (layer < config.decoder.layers && head < config.decoder.heads).then_some((layer, head))
        };
        let mut alignment_heads: Vec<_> = list("alignment_heads").filter_map(head).collect();
        if alignment_heads.is_empty() {
            // The reference's choice where nobody has looked: every head of the upper half of the layers.
            let layers = config.decoder.layers / 2..config.decoder.layers;
            alignment_heads =
                layers.flat_map(|layer| (0..config.decoder.heads).map(move |head| (layer, head))).collect();
        }
        Ok(Generation {
            suppress: list("suppress_tokens").filter_map(token).collect(),
            alignment_heads,
            max_initial_timestamp: own.get("max_initial_timestamp_index").and_then(number),
            // Published English models have 51864 tokens, the others one or two more.
            multilingual: own.get("is_multilingual").and_then(Value::as_bool).unwrap_or(config.vocabulary > 51_864),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tiny() -> Value {
        json!({
            "vocab_size": 51864, "num_mel_bins": 80, "d_model": 384, "encoder_layers": 4, "encoder_attention_heads": 6,
            "encoder_ffn_dim": 1536, "max_source_positions": 1500, "decoder_layers": 4, "decoder_attention_heads": 6,
            "decoder_ffn_dim": 1536, "max_target_positions": 448
        })
    }

    #[test]
    fn a_published_shape_is_half_a_minute() {
        let config = Config::parse(tiny()).unwrap();
        assert_eq!((config.frames(), config.window()), (3000, 480_000));
    }

    #[test]
    fn shapes_beyond_bounds_are_refused_by_name() {
        for (key, value) in [
            ("vocab_size", json!(0)),
            ("d_model", json!(1_u64 << 40)),
            ("encoder_attention_heads", json!(7)),
            ("max_source_positions", json!(1)),
            ("activation_function", json!("relu")),
        ] {
            let mut config = tiny();
            config[key] = value;
            let error = Config::parse(config).unwrap_err();
            assert!(error.contains(key), "{error}");
        }
    }

    #[test]
    fn tokens_and_heads_that_are_not_there_are_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let text = r#"{"suppress_tokens":[1,-1,99999999],"alignment_heads":[[0,1],[9,0],[0,9]]}"#;
        std::fs::write(folder.path().join("generation_config.json"), text).unwrap();
        let config = Config::parse(tiny()).unwrap();
        let generation = Generation::read(folder.path(), &tiny(), &config).unwrap();
        assert_eq!((generation.suppress, generation.alignment_heads), (vec![1], vec![(0, 1)]));
    }
}
