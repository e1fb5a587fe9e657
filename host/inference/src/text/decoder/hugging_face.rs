//! Descriptions from the `config.json` of checkpoints as the transformers library writes and reads them.
//!
//! What a key that is absent means is what transformers takes it to mean: older configurations leave out whatever was
//! the default of their class. Rotary parameters stand in `rope_scaling` and beside it in files of before 2026, in
//! `rope_parameters` since. All checkpoints rotate halves of heads.

mod object;
mod rotation;

use std::collections::HashSet;
use std::num::NonZeroUsize;

use serde_json::Value;

use object::{Object, short};
use rotation::ropes;

use super::DecoderError;
use super::description::{
    Activation, Description, LayerDescription, MAX_CONTEXT, MAX_LAYERS, MAX_VOCABULARY, MAX_WIDTH, MatrixAt, RopePairs,
    VectorAt,
};
use super::source::Source;

/// What `model_type` may say.
pub const MODEL_TYPES: [&str; 8] = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gemma3", "phi3"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    Gemma2,
    Gemma3,
    Phi3,
}

struct Shape {
    width: usize,
    inner: usize,
    heads: usize,
    kv_heads: usize,
    head: usize,
    layers: usize,
    context: usize,
}

impl Shape {
    fn read(config: Object<'_>, family: Family) -> Result<Self, DecoderError> {
        let gemma3 = family == Family::Gemma3;
        let count = |key: &str, bound: u64, default: usize| match config.count(key, bound)? {
            None if gemma3 => Ok(default),
            None => Err(config.missing(key)),
            Some(value) => Ok(value),
        };
        let (width, heads) = (count("hidden_size", MAX_WIDTH, 2304)?, count("num_attention_heads", MAX_WIDTH, 8)?);
        let kv_heads = config.count("num_key_value_heads", MAX_WIDTH)?.unwrap_or(match family {
            Family::Mistral => 8,
            Family::Gemma2 | Family::Gemma3 => 4,
            _ => heads,
        });
        let head = config.count("head_dim", MAX_WIDTH)?.unwrap_or(match family {
            Family::Gemma2 | Family::Gemma3 => 256,
            Family::Qwen3 => 128,
            _ => width / heads,
        });
        if head == 0 || !heads.is_multiple_of(kv_heads) {
            let fault = format!("{width} wide, {heads} heads, {kv_heads} key-value heads, {head} values a head");
            return Err(config.invalid("num_attention_heads", format!("{fault} do not fit together")));
        }
        Ok(Self {
            inner: count("intermediate_size", MAX_WIDTH, 9216)?,
            layers: count("num_hidden_layers", MAX_LAYERS, 26)?,
            context: count("max_position_embeddings", MAX_CONTEXT, 131_072)?,
            width,
            heads,
            kv_heads,
            head,
        })
    }
}

/// Reads what the model of `config` computes; `source` tells which of the published names its tensors have.
///
/// # Errors
/// When `model_type` is not one of [`MODEL_TYPES`], or a key is missing, contradicts another, or asks for something that
/// is not implemented.
pub fn describe(config: &Value, source: Source<'_>) -> Result<Description, DecoderError> {
    let Value::Object(map) = config else {
        return Err(DecoderError::invalid("config.json", "it is no object"));
    };
    let outer = Object { path: "", map };
    let model_type = outer.text("model_type").ok_or_else(|| outer.missing("model_type"))?;
    let (family, config) = match model_type {
        "llama" => (Family::Llama, outer),
        "mistral" => (Family::Mistral, outer),
        "qwen2" => (Family::Qwen2, outer),
        "qwen3" => (Family::Qwen3, outer),
        "gemma2" => (Family::Gemma2, outer),
        "gemma3_text" => (Family::Gemma3, outer),
        "gemma3" => {
            let text = outer.object("text_config")?.ok_or_else(|| outer.missing("text_config"))?;
            (Family::Gemma3, Object { path: "text_config.", map: text })
        }
        "phi3" => (Family::Phi3, outer),
        other => return Err(DecoderError::Architecture(other.chars().take(80).collect())),
    };
    refuse_unknown(outer, config)?;
    let shape = Shape::read(config, family)?;
    let gemma = matches!(family, Family::Gemma2 | Family::Gemma3);
    let vocabulary = match config.count("vocab_size", MAX_VOCABULARY)? {
        None if family == Family::Gemma3 => 262_208,
        None => return Err(config.missing("vocab_size")),
        Some(vocabulary) => vocabulary,
    };
    let names = Names::find(source)?;
    let windows = windows(config, family, &shape)?;
    let ropes = ropes(config, family, &shape)?;
    let mut layers = Vec::with_capacity(shape.layers);
    for (l, local) in windows.local.iter().enumerate() {
        let mut layer = layer(config, family, &shape, &format!("{}.layers.{l}", names.model))?;
        layer.window = windows.length.filter(|_| *local).and_then(NonZeroUsize::new);
        layer.rope = usize::from(ropes.len() > 1 && *local);
        layers.push(layer);
    }
    let embedding = MatrixAt::whole(format!("{}.embed_tokens.weight", names.model), vocabulary, shape.width);
    let tied = outer.flag("tie_word_embeddings", gemma)? && config.flag("tie_word_embeddings", gemma)?;
    let output = MatrixAt::whole(names.output, vocabulary, shape.width);
    let mut other = names.other;
    if tied {
        other.insert(output.name.clone());
    }
    other.extend((0..shape.layers).map(|l| format!("{}.layers.{l}.self_attn.rotary_emb.inv_freq", names.model)));
    let divisor = if gemma { config.positive("query_pre_attn_scalar")?.unwrap_or(256.0) } else { shape.head as f64 };
    let cap = |key: &str, default: Option<f64>| -> Result<Option<f32>, DecoderError> {
        // Null takes the cap away; only an absent key means the default.
        let default = if config.map.contains_key(key) { None } else { default };
        Ok(config.positive(key)?.or(default).map(|cap| cap as f32))
    };
    let gemma2 = |cap: f64| (family == Family::Gemma2).then_some(cap);
    Ok(Description {
        architecture: model_type.to_owned(),
        width: shape.width,
        inner: shape.inner,
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        head: shape.head,
        vocabulary,
        context: shape.context,
        epsilon: config.positive("rms_norm_eps")?.unwrap_or(if family == Family::Phi3 { 1e-5 } else { 1e-6 }) as f32,
        rope_pairs: RopePairs::Halves,
        ropes,
        activation: activation(config, gemma)?,
        embedding_scale: if gemma { (shape.width as f32).sqrt() } else { 1.0 },
        attention_scale: divisor.sqrt().recip() as f32,
        attention_cap: cap("attn_logit_softcapping", gemma2(50.0))?,
        logit_cap: cap("final_logit_softcapping", gemma2(30.0))?,
        head_matrix: if tied { embedding.clone() } else { output },
        embedding,
        layers,
        norm: norm(family, format!("{}.norm.weight", names.model), shape.width),
        other,
    })
}

/// What a configuration may ask for and this implementation does not do.
fn refuse_unknown(outer: Object<'_>, config: Object<'_>) -> Result<(), DecoderError> {
    for (object, key) in [(outer, "quantization_config"), (config, "quantization_config")] {
        if object.get(key).is_some() {
            let fault = "quantized checkpoints are not read; take the original one or a GGUF file";
            return Err(object.invalid(key, fault));
        }
    }
    for key in ["mlp_bias", "use_bidirectional_attention"] {
        if config.flag(key, false)? {
            return Err(config.invalid(key, "this is not supported"));
        }
    }
    Ok(())
}

fn activation(config: Object<'_>, gemma: bool) -> Result<Activation, DecoderError> {
    let key = if gemma { "hidden_activation" } else { "hidden_act" };
    match (config.text(key), gemma) {
        (Some("silu" | "swish"), _) | (None, false) => Ok(Activation::Silu),
        (Some("gelu_pytorch_tanh" | "gelu_new"), _) | (None, true) => Ok(Activation::GeluTanh),
        (Some(other), _) => {
            let other: String = other.chars().take(40).collect();
            Err(config.invalid(key, format!("{other:?} is not supported; silu and gelu_pytorch_tanh are")))
        }
    }
}

/// The names that a checkpoint uses: those with a part for images put the language model's under a name of its own.
struct Names {
    model: &'static str,
    output: &'static str,
    /// Tensors of that other part.
    other: HashSet<String>,
}

impl Names {
    fn find(source: Source<'_>) -> Result<Self, DecoderError> {
        let published = [
            ("model", "lm_head.weight"),
            ("language_model.model", "language_model.lm_head.weight"),
            ("model.language_model", "lm_head.weight"),
        ];
        for (model, output) in published {
            if source.tensor(&format!("{model}.embed_tokens.weight"))?.is_none() {
                continue;
            }
            let images =
                ["vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector."];
            let foreign = |name: &str| model != "model" && images.iter().any(|prefix| name.starts_with(prefix));
            let other = source.names().into_iter().filter(|name| foreign(name)).map(str::to_owned).collect();
            return Ok(Self { model, output, other });
        }
        Err(DecoderError::Missing("tensor model.embed_tokens.weight".into()))
    }
}

/// Which layers see a window only, and how long it is.
struct Windows {
    length: Option<usize>,
    local: Vec<bool>,
}

fn windows(config: Object<'_>, family: Family, shape: &Shape) -> Result<Windows, DecoderError> {
    let length = config.count("sliding_window", MAX_CONTEXT)?;
    // Null says that there is none; only an absent key means the default.
    let or_default = || length.or_else(|| (!config.map.contains_key("sliding_window")).then_some(4096));
    let length = match family {
        Family::Llama => None,
        Family::Phi3 => length,
        Family::Mistral | Family::Gemma2 | Family::Gemma3 => or_default(),
        Family::Qwen2 | Family::Qwen3 if config.flag("use_sliding_window", false)? => or_default(),
        Family::Qwen2 | Family::Qwen3 => None,
    };
    Ok(Windows { length: length.filter(|length| *length < shape.context), local: local_layers(config, family, shape)? })
}

fn local_layers(config: Object<'_>, family: Family, shape: &Shape) -> Result<Vec<bool>, DecoderError> {
    let layers = 0..shape.layers;
    let own_types = !matches!(family, Family::Llama | Family::Mistral | Family::Phi3);
    if let Some(types) = config.get("layer_types").filter(|_| own_types) {
        let fault = || config.invalid("layer_types", format!("it is no list of {} types of layers", shape.layers));
        let types = types.as_array().filter(|types| types.len() == shape.layers).ok_or_else(fault)?;
        let local = types.iter().map(|kind| match kind.as_str() {
            Some("sliding_attention") => Ok(true),
            Some("full_attention") => Ok(false),
            _ => Err(config.invalid("layer_types", format!("{} is not supported", short(kind)))),
        });
        return local.collect();
    }
    Ok(match family {
        Family::Llama | Family::Mistral | Family::Phi3 => vec![true; shape.layers],
        Family::Qwen2 | Family::Qwen3 => {
            // The number of layers before the first with a window, which may be 0.
            let first = match config.get("max_window_layers") {
                None => 28,
                Some(value) => {
                    value.as_u64().ok_or_else(|| config.invalid("max_window_layers", "it is no whole number"))?
                }
            };
            layers.map(|l| l as u64 >= first).collect()
        }
        Family::Gemma2 => layers.map(|l| l.is_multiple_of(2)).collect(),
        Family::Gemma3 => {
            let period = config.count("sliding_window_pattern", MAX_LAYERS)?.unwrap_or(6);
            layers.map(|l| !(l + 1).is_multiple_of(period)).collect()
        }
    })
}

fn norm(family: Family, name: String, length: usize) -> VectorAt {
    let offset = if matches!(family, Family::Gemma2 | Family::Gemma3) { 1.0 } else { 0.0 };
    VectorAt { offset, ..VectorAt::whole(name, length) }
}

fn layer(config: Object<'_>, family: Family, shape: &Shape, prefix: &str) -> Result<LayerDescription, DecoderError> {
    let Shape { width, inner, heads, kv_heads, head, .. } = *shape;
    let weight = |part: &str, rows, columns| MatrixAt::whole(format!("{prefix}.{part}.weight"), rows, columns);
    let norm = |part: &str, length| norm(family, format!("{prefix}.{part}.weight"), length);
    let biased = match family {
        Family::Qwen2 => true,
        Family::Mistral | Family::Phi3 => false,
        _ => config.flag("attention_bias", false)?,
    };
    let bias = |part: &str, length| biased.then(|| VectorAt::whole(format!("{prefix}.self_attn.{part}.bias"), length));
    let (q, kv) = (heads * head, kv_heads * head);
    let (query, key, value, gate, up) = if family == Family::Phi3 {
        let (qkv, both) =
            (weight("self_attn.qkv_proj", q + 2 * kv, width), weight("mlp.gate_up_proj", 2 * inner, width));
        (qkv.part(0, q), qkv.part(q, kv), qkv.part(q + kv, kv), both.part(0, inner), both.part(inner, inner))
    } else {
        let attention = |part: &str, rows| weight(&format!("self_attn.{part}"), rows, width);
        let inward = |part: &str| weight(part, inner, width);
        let (gate, up) = (inward("mlp.gate_proj"), inward("mlp.up_proj"));
        (attention("q_proj", q), attention("k_proj", kv), attention("v_proj", kv), gate, up)
    };
    let gemma = matches!(family, Family::Gemma2 | Family::Gemma3);
    let head_norms = matches!(family, Family::Qwen3 | Family::Gemma3);
    // What Gemma norms before its feed-forward part has a name of its own there.
    let inner_norm = if gemma { "pre_feedforward_layernorm" } else { "post_attention_layernorm" };
    Ok(LayerDescription {
        window: None,
        rope: 0,
        attention_norm: norm("input_layernorm", width),
        query,
        key,
        value,
        query_bias: bias("q_proj", q),
        key_bias: bias("k_proj", kv),
        value_bias: bias("v_proj", kv),
        query_norm: head_norms.then(|| norm("self_attn.q_norm", head)),
        key_norm: head_norms.then(|| norm("self_attn.k_norm", head)),
        output: weight("self_attn.o_proj", width, q),
        output_bias: bias("o_proj", width).filter(|_| family != Family::Qwen2),
        attention_post_norm: gemma.then(|| norm("post_attention_layernorm", width)),
        inner_norm: norm(inner_norm, width),
        gate,
        up,
        down: weight("mlp.down_proj", width, inner),
        inner_post_norm: gemma.then(|| norm("post_feedforward_layernorm", width)),
    })
}
