//! `config.json` of a BERT encoder, checked before anything is sized by it.

use host_kernels::encoder::Activation;
use serde::Deserialize;
use serde_json::Value;

/// The shape of an encoder.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Config {
    pub(super) vocabulary: usize,
    pub(super) hidden: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) intermediate: usize,
    pub(super) positions: usize,
    pub(super) types: usize,
    pub(super) epsilon: f32,
    pub(super) activation: Activation,
}

#[derive(Deserialize)]
struct Raw {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    #[serde(default = "default_epsilon")]
    layer_norm_eps: f64,
    #[serde(default = "default_activation")]
    hidden_act: String,
    #[serde(default)]
    position_embedding_type: Option<String>,
}

fn default_epsilon() -> f64 {
    1e-12
}

fn default_activation() -> String {
    "gelu".to_owned()
}

impl Config {
    /// The error names the key and its bounds.
    pub(super) fn parse(value: Value) -> Result<Config, String> {
        let raw: Raw = serde_json::from_value(value).map_err(|error| error.to_string())?;
        let bounded = |key: &str, value: usize, most: usize| {
            if (1..=most).contains(&value) { Ok(value) } else { Err(format!("{key} is {value}, not 1 to {most}")) }
        };
        let config = Config {
            vocabulary: bounded("vocab_size", raw.vocab_size, 1 << 21)?,
            hidden: bounded("hidden_size", raw.hidden_size, 1 << 13)?,
            layers: bounded("num_hidden_layers", raw.num_hidden_layers, 128)?,
            heads: bounded("num_attention_heads", raw.num_attention_heads, 256)?,
            intermediate: bounded("intermediate_size", raw.intermediate_size, 1 << 16)?,
            positions: bounded("max_position_embeddings", raw.max_position_embeddings, 1 << 16)?,
            types: bounded("type_vocab_size", raw.type_vocab_size, 64)?,
            epsilon: raw.layer_norm_eps as f32,
            activation: match raw.hidden_act.as_str() {
                "gelu" => Activation::Gelu,
                "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
                "relu" => Activation::Relu,
                other => return Err(format!("hidden_act is {other:?}; gelu, gelu_new and relu are known")),
            },
        };
        if !config.hidden.is_multiple_of(config.heads) {
            return Err(format!(
                "hidden_size {} is no multiple of num_attention_heads {}",
                config.hidden, config.heads
            ));
        }
        if !(0.0..1.0).contains(&config.epsilon) {
            return Err(format!("layer_norm_eps is {}", raw.layer_norm_eps));
        }
        match raw.position_embedding_type.as_deref() {
            None | Some("absolute") => Ok(config),
            Some(other) => Err(format!("position_embedding_type is {other:?}; only absolute positions are known")),
        }
    }

    /// Values of one attention head.
    pub(super) fn head(&self) -> usize {
        self.hidden / self.heads
    }
}
