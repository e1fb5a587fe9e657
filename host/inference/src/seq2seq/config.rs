//! `config.json` of an encoder-decoder, checked before anything is sized by it.

use host_kernels::encoder::Activation;
use serde_json::{Map, Value};

use super::description::{
    AttentionAt, Description, FeedForwardAt, LayerAt, LinearAt, NormAt, NormKind, Order, Positions, StackAt,
};

/// What `model_type` may say.
pub const MODEL_TYPES: [&str; 5] = ["m2m_100", "marian", "bart", "mbart", "t5"];

const MAX_WIDTH: usize = 1 << 14;
const MAX_INNER: usize = 1 << 17;
const MAX_LAYERS: usize = 256;
const MAX_HEADS: usize = 256;
const MAX_POSITIONS: usize = 1 << 16;
const MAX_VOCABULARY: usize = 1 << 21;

/// The object of the configuration; every error names the key.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a>(pub(super) &'a Map<String, Value>);

impl<'a> Keys<'a> {
    pub(super) fn get(self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// A whole number from `least` to `most`.
    pub(super) fn number(self, key: &str, least: usize, most: usize) -> Result<Option<usize>, String> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
        match number.filter(|number| (least..=most).contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(format!("{key} is {value:.40}, no whole number from {least} to {most}")),
        }
    }

    fn size(self, key: &str, most: usize) -> Result<usize, String> {
        self.number(key, 1, most)?.ok_or_else(|| format!("{key} is missing"))
    }

    pub(super) fn flag(self, key: &str, default: bool) -> Result<bool, String> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(format!("{key} is {other:.40}, no truth value")),
        }
    }

    pub(super) fn text(self, key: &str) -> Option<&'a str> {
        self.get(key).and_then(Value::as_str)
    }
}

fn activation(name: &str, key: &str) -> Result<Activation, String> {
    match name {
        "gelu" => Ok(Activation::Gelu),
        "gelu_new" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        "relu" => Ok(Activation::Relu),
        "silu" | "swish" => Ok(Activation::Silu),
        other => Err(format!("{key} is {other:.40?}; gelu, gelu_new, relu and silu are known")),
    }
}

/// Reads what the model of `config` computes.
///
/// # Errors
/// The key that is missing, out of bounds or asks for what is not implemented.
pub fn describe(config: &Value) -> Result<Description, String> {
    let Value::Object(map) = config else { return Err("it is no object".to_owned()) };
    let keys = Keys(map);
    if keys.get("quantization_config").is_some() {
        return Err("quantization_config: quantized checkpoints are not read; take the original one".to_owned());
    }
    match keys.text("model_type") {
        Some("t5") => t5(keys),
        Some(known) if MODEL_TYPES.contains(&known) => bart(keys, known),
        Some(other) => Err(format!("model_type is {other:.40?}; {} are known", MODEL_TYPES.join(", "))),
        None => Err("model_type is missing".to_owned()),
    }
}

/// BART and those that were made from it.
fn bart(keys: Keys<'_>, family: &str) -> Result<Description, String> {
    let width = keys.size("d_model", MAX_WIDTH)?;
    let vocabulary = keys.size("vocab_size", MAX_VOCABULARY)?;
    let positions_limit = keys.size("max_position_embeddings", MAX_POSITIONS)?;
    let padding = keys.number("pad_token_id", 0, MAX_VOCABULARY)?.unwrap_or(1);
    let scaled = keys.flag("scale_embedding", false)?;
    let shared = keys.flag("share_encoder_decoder_embeddings", true)?;
    let tied = keys.flag("tie_word_embeddings", true)?;
    let learned = matches!(family, "bart" | "mbart");
    if !learned && (!width.is_multiple_of(2) || width < 4) {
        return Err(format!("d_model is {width}, no even number from 4"));
    }
    let positions = match family {
        "m2m_100" => {
            let padding_id = u32::try_from(padding).map_err(|error| error.to_string())?;
            Positions::Sinusoidal { first: padding + 1, steps: width / 2 - 1, padding: Some(padding_id) }
        }
        "marian" => Positions::Sinusoidal { first: 0, steps: width / 2, padding: None },
        // The table has two rows more than there are positions.
        _ => Positions::Learned { first: 2 },
    };
    let stack = |side: &str, vocabulary: usize| -> Result<StackAt, String> {
        let prefix = format!("model.{side}");
        let layers = keys.size(&format!("{side}_layers"), MAX_LAYERS)?;
        let heads = keys.size(&format!("{side}_attention_heads"), MAX_HEADS)?;
        let inner = keys.size(&format!("{side}_ffn_dim"), MAX_INNER)?;
        if !width.is_multiple_of(heads) {
            return Err(format!("d_model {width} is no multiple of {side}_attention_heads {heads}"));
        }
        let layer = |index: usize| bart_layer(&format!("{prefix}.layers.{index}"), width, inner, side == "decoder");
        let own = format!("{prefix}.embed_tokens.weight");
        let common = "model.shared.weight".to_owned();
        Ok(StackAt {
            embedding: if shared { vec![common, own, "lm_head.weight".to_owned()] } else { vec![own, common] },
            vocabulary,
            heads,
            positions: learned.then(|| format!("{prefix}.embed_positions.weight")),
            embedding_norm: learned.then(|| NormAt { name: format!("{prefix}.layernorm_embedding") }),
            layers: (0..layers).map(layer).collect(),
            norm: matches!(family, "m2m_100" | "mbart").then(|| NormAt { name: format!("{prefix}.layer_norm") }),
        })
    };
    let encoder = stack("encoder", vocabulary)?;
    let own = keys.number("decoder_vocab_size", 1, MAX_VOCABULARY)?.filter(|_| family == "marian" && !shared);
    let decoder = stack("decoder", own.unwrap_or(vocabulary))?;
    let head = "lm_head.weight".to_owned();
    let heads = [decoder.embedding.clone(), vec![head.clone()]].concat();
    Ok(Description {
        architecture: family.to_owned(),
        width,
        positions_limit,
        order: if matches!(family, "m2m_100" | "mbart") { Order::Pre } else { Order::Post },
        norm: NormKind::Layer,
        epsilon: 1e-5,
        positions,
        embedding_scale: if scaled { (width as f32).sqrt() } else { 1.0 },
        scaled_attention: true,
        activation: activation(keys.text("activation_function").unwrap_or("gelu"), "activation_function")?,
        encoder,
        decoder,
        head: if tied { heads } else { vec![head] },
        logit_scale: 1.0,
        logit_bias: (family != "m2m_100").then(|| "final_logits_bias".to_owned()),
    })
}

fn bart_layer(prefix: &str, width: usize, inner: usize, decoder: bool) -> LayerAt {
    let linear =
        |name: &str, outputs, inputs| LinearAt { name: format!("{prefix}.{name}"), outputs, inputs, biased: true };
    let norm = |name: &str| NormAt { name: format!("{prefix}.{name}") };
    let attention = |name: &str| AttentionAt {
        norm: norm(&format!("{name}_layer_norm")),
        query: linear(&format!("{name}.q_proj"), width, width),
        key: linear(&format!("{name}.k_proj"), width, width),
        value: linear(&format!("{name}.v_proj"), width, width),
        output: linear(&format!("{name}.out_proj"), width, width),
    };
    LayerAt {
        attention: attention("self_attn"),
        cross: decoder.then(|| attention("encoder_attn")),
        feed_forward: FeedForwardAt {
            norm: norm("final_layer_norm"),
            gate: None,
            up: linear("fc1", inner, width),
            down: linear("fc2", width, inner),
        },
    }
}

/// T5, its version 1.1 and Flan-T5.
fn t5(keys: Keys<'_>) -> Result<Description, String> {
    let width = keys.size("d_model", MAX_WIDTH)?;
    let vocabulary = keys.size("vocab_size", MAX_VOCABULARY)?;
    let heads = keys.size("num_heads", MAX_HEADS)?;
    let head = keys.size("d_kv", MAX_WIDTH)?;
    let inner = keys.size("d_ff", MAX_INNER)?;
    let encoder_layers = keys.size("num_layers", MAX_LAYERS)?;
    let decoder_layers = keys.number("num_decoder_layers", 1, MAX_LAYERS)?.unwrap_or(encoder_layers);
    let buckets = keys.number("relative_attention_num_buckets", 4, 1 << 12)?.unwrap_or(32);
    let reach = keys.number("relative_attention_max_distance", 2, 1 << 20)?.unwrap_or(128);
    if reach <= buckets / 2 {
        return Err(format!("relative_attention_max_distance {reach} is not above half of {buckets} buckets"));
    }
    let epsilon = keys.get("layer_norm_epsilon").and_then(Value::as_f64).unwrap_or(1e-6) as f32;
    if !(0.0..1.0).contains(&epsilon) {
        return Err(format!("layer_norm_epsilon is {epsilon}"));
    }
    let feed_forward = keys.text("feed_forward_proj").unwrap_or("relu");
    let (gated, name) = match feed_forward.strip_prefix("gated-") {
        // What the first gated checkpoints called GELU is its approximation.
        Some("gelu") => (true, "gelu_new"),
        Some(name) => (true, name),
        None => (false, feed_forward),
    };
    let tied = keys.flag("tie_word_embeddings", true)?;
    let stack = |side: &str, layers: usize| StackAt {
        embedding: ["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"]
            .map(str::to_owned)
            .into(),
        vocabulary,
        heads,
        positions: Some(format!("{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight")),
        embedding_norm: None,
        layers: (0..layers).map(|index| t5_layer(side, index, (width, heads * head, inner), gated)).collect(),
        norm: Some(NormAt { name: format!("{side}.final_layer_norm") }),
    };
    let (encoder, decoder) = (stack("encoder", encoder_layers), stack("decoder", decoder_layers));
    let untied = vec!["lm_head.weight".to_owned(), "shared.weight".to_owned()];
    Ok(Description {
        architecture: "t5".to_owned(),
        width,
        positions_limit: keys.number("n_positions", 1, MAX_POSITIONS)?.unwrap_or(512),
        order: Order::Pre,
        norm: NormKind::Rms,
        epsilon,
        positions: Positions::Distances { buckets, reach },
        embedding_scale: 1.0,
        scaled_attention: false,
        activation: activation(name, "feed_forward_proj")?,
        head: if tied { decoder.embedding.clone() } else { untied },
        encoder,
        decoder,
        logit_scale: if tied { (width as f32).sqrt().recip() } else { 1.0 },
        logit_bias: None,
    })
}

fn t5_layer(side: &str, index: usize, (width, attended, inner): (usize, usize, usize), gated: bool) -> LayerAt {
    let prefix = format!("{side}.block.{index}.layer");
    let linear = |name: String, outputs, inputs| LinearAt { name, outputs, inputs, biased: false };
    let attention = |part: usize, name: &str| AttentionAt {
        norm: NormAt { name: format!("{prefix}.{part}.layer_norm") },
        query: linear(format!("{prefix}.{part}.{name}.q"), attended, width),
        key: linear(format!("{prefix}.{part}.{name}.k"), attended, width),
        value: linear(format!("{prefix}.{part}.{name}.v"), attended, width),
        output: linear(format!("{prefix}.{part}.{name}.o"), width, attended),
    };
    let cross = (side == "decoder").then(|| attention(1, "EncDecAttention"));
    let last = if cross.is_some() { 2 } else { 1 };
    let inward = |name: &str| linear(format!("{prefix}.{last}.DenseReluDense.{name}"), inner, width);
    LayerAt {
        attention: attention(0, "SelfAttention"),
        cross,
        feed_forward: FeedForwardAt {
            norm: NormAt { name: format!("{prefix}.{last}.layer_norm") },
            gate: gated.then(|| inward("wi_0")),
            up: inward(if gated { "wi_1" } else { "wi" }),
            down: linear(format!("{prefix}.{last}.DenseReluDense.wo"), width, inner),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bart_config() -> Value {
        json!({
            "model_type": "bart", "vocab_size": 64, "d_model": 24, "max_position_embeddings": 64, "encoder_layers": 2,
            "decoder_layers": 2, "encoder_attention_heads": 3, "decoder_attention_heads": 2, "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 40
        })
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        assert!(describe(&bart_config()).is_ok());
        let cases = [
            ("d_model", json!(0), "d_model is 0, no whole number from 1 to 16384"),
            ("d_model", json!(1_u64 << 40), "d_model is 1099511627776"),
            ("vocab_size", json!("many"), "vocab_size is \"many\""),
            ("decoder_attention_heads", json!(7), "d_model 24 is no multiple of decoder_attention_heads 7"),
            ("decoder_layers", Value::Null, "decoder_layers is missing"),
            ("scale_embedding", json!(1), "scale_embedding is 1, no truth value"),
            ("activation_function", json!("sine"), "activation_function is \"sine\""),
            ("model_type", json!("pegasus"), "model_type is \"pegasus\"; m2m_100, marian, bart, mbart, t5 are known"),
            ("quantization_config", json!({}), "quantized checkpoints are not read"),
        ];
        for (key, value, message) in cases {
            let mut config = bart_config();
            config[key] = value;
            let error = describe(&config).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
    }
}
