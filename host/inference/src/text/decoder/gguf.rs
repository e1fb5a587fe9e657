//! Descriptions from GGUF metadata.
//!
//! Keys and tensor names are those that llama.cpp's converter writes; what a key that is absent means is what
//! llama.cpp takes it to mean. Converters permute the rows of queries and keys of the llama family so that neighbours
//! turn together; other architectures keep the order of their checkpoints. They also add the 1 to Gemma's norms.

use std::collections::HashSet;
use std::num::NonZeroUsize;

use host_kernels::rope::{Scaling, Yarn};

use super::DecoderError;
use super::description::{
    Activation, Description, LayerDescription, MAX_CONTEXT, MAX_LAYERS, MAX_WIDTH, MatrixAt, Rope, RopePairs,
    ShortRope, VectorAt,
};
use super::rope::{rope, turns};
use super::source::Source;
use crate::text::gguf::View;

/// What `general.architecture` may say. Mistral models call themselves `llama`, Qwen 2.5 `qwen2`.
pub const ARCHITECTURES: [&str; 6] = ["llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"];

/// Gemma 3's rotation in layers with a window, where the file does not say.
const LOCAL_BASE: f32 = 10_000.0;

#[derive(Clone, Copy)]
struct Keys<'a> {
    file: View<'a>,
    architecture: &'a str,
}

impl Keys<'_> {
    fn key(&self, part: &str) -> String {
        format!("{}.{part}", self.architecture)
    }

    fn number(&self, part: &str, bound: u64) -> Result<Option<usize>, DecoderError> {
        let key = self.key(part);
        match self.file.unsigned(&key)? {
            None => Ok(None),
            Some(value) if (1..=bound).contains(&value) => Ok(usize::try_from(value).ok()),
            Some(value) => Err(DecoderError::invalid(key, format!("{value} is not from 1 to {bound}"))),
        }
    }

    fn required(&self, part: &str, bound: u64) -> Result<usize, DecoderError> {
        self.number(part, bound)?.ok_or_else(|| DecoderError::Missing(format!("metadata {}", self.key(part))))
    }

    fn positive(&self, part: &str) -> Result<Option<f32>, DecoderError> {
        let key = self.key(part);
        match self.file.float(&key)? {
            Some(value) if value <= 0.0 => Err(DecoderError::invalid(key, format!("{value} is not above 0"))),
            value => Ok(value),
        }
    }

    /// A value of which 0 says that there is none.
    fn cap(&self, part: &str, default: Option<f32>) -> Result<Option<f32>, DecoderError> {
        if self.file.float(&self.key(part))? == Some(0.0) {
            return Ok(None);
        }
        Ok(self.positive(part)?.or(default))
    }

    fn window(&self) -> Result<Option<usize>, DecoderError> {
        let part = "attention.sliding_window";
        if self.file.unsigned(&self.key(part))? == Some(0) {
            return Ok(None);
        }
        self.number(part, MAX_CONTEXT)
    }
}

struct Shape {
    width: usize,
    inner: usize,
    heads: usize,
    kv_heads: usize,
    head: usize,
    rotated: usize,
}

impl Shape {
    fn read(keys: Keys<'_>) -> Result<Self, DecoderError> {
        let width = keys.required("embedding_length", MAX_WIDTH)?;
        let heads = keys.required("attention.head_count", MAX_WIDTH)?;
        let kv_heads = keys.number("attention.head_count_kv", MAX_WIDTH)?.unwrap_or(heads);
        let head = keys.number("attention.key_length", MAX_WIDTH)?.unwrap_or(width / heads);
        let rotated = keys.number("rope.dimension_count", MAX_WIDTH)?.unwrap_or(head);
        if keys.number("attention.value_length", MAX_WIDTH)?.is_some_and(|length| length != head) {
            let fault = "differs from the length of keys, which is not supported";
            return Err(DecoderError::invalid(keys.key("attention.value_length"), fault));
        }
        if head == 0 || !heads.is_multiple_of(kv_heads) || rotated > head || !rotated.is_multiple_of(2) {
            let fault = format!("{heads} heads, {kv_heads} key-value heads, {head} values a head, {rotated} rotated");
            return Err(DecoderError::invalid(keys.key("attention"), format!("{fault} do not fit together")));
        }
        if keys.file.unsigned(&keys.key("expert_count"))?.unwrap_or(0) > 0 {
            let fault = "mixtures of experts are not supported yet";
            return Err(DecoderError::invalid(keys.key("expert_count"), fault));
        }
        let inner = keys.required("feed_forward_length", MAX_WIDTH)?;
        Ok(Self { width, inner, heads, kv_heads, head, rotated })
    }
}

/// Reads what the file's model computes.
///
/// # Errors
/// When the architecture is not one of [`ARCHITECTURES`], or a key is missing, contradicts another, or asks for
/// something that is not implemented.
pub fn describe(file: View<'_>) -> Result<Description, DecoderError> {
    let name = file.text("general.architecture")?.unwrap_or_default();
    if !ARCHITECTURES.contains(&name) {
        return Err(DecoderError::Architecture(name.chars().take(80).collect()));
    }
    let keys = Keys { file, architecture: name };
    let shape = Shape::read(keys)?;
    let count = keys.required("block_count", MAX_LAYERS)?;
    let context = keys.required("context_length", MAX_CONTEXT)?;
    let epsilon = "attention.layer_norm_rms_epsilon";
    let Some(epsilon_value) = keys.positive(epsilon)? else {
        return Err(DecoderError::Missing(format!("metadata {}", keys.key(epsilon))));
    };
    let gemma = matches!(name, "gemma2" | "gemma3");
    let ropes = ropes(keys, shape.rotated)?;
    let window = keys.window()?.or((name == "gemma2").then_some(4096)).filter(|window| *window < context);
    let period = period(keys)?;
    let mut layers = Vec::with_capacity(count);
    for l in 0..count {
        let local = window.is_some() && (period == 1 || l % period < period - 1);
        let mut layer = layer(keys, &shape, l);
        layer.window = window.filter(|_| local).and_then(NonZeroUsize::new);
        // Only Gemma 3 has a second rotation. Its layers keep it where their window is as long as the context.
        layer.rope = usize::from(ropes.len() > 1 && l % period < period - 1);
        layers.push(layer);
    }
    let embedding = "token_embd.weight";
    // The rows are in the file, which bounds them.
    let vocabulary = match file.tensor(embedding) {
        Some((info, _)) => info.shape.first().copied().unwrap_or(0),
        None => return Err(DecoderError::Missing(format!("tensor {embedding}"))),
    };
    let embedding = MatrixAt::whole(embedding, vocabulary, shape.width);
    let output = MatrixAt::whole("output.weight", vocabulary, shape.width);
    let head_matrix = if file.tensor(&output.name).is_some() { output } else { embedding.clone() };
    Ok(Description {
        architecture: name.to_owned(),
        width: shape.width,
        inner: shape.inner,
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        head: shape.head,
        vocabulary,
        context,
        epsilon: epsilon_value,
        rope_pairs: if name == "llama" { RopePairs::Interleaved } else { RopePairs::Halves },
        ropes,
        activation: if gemma { Activation::GeluTanh } else { Activation::Silu },
        embedding_scale: if gemma { (shape.width as f32).sqrt() } else { 1.0 },
        attention_scale: keys.positive("attention.scale")?.unwrap_or(attention_scale(name, count, &shape)),
        attention_cap: keys.cap("attn_logit_softcapping", (name == "gemma2").then_some(50.0))?,
        logit_cap: keys.cap("final_logit_softcapping", (name == "gemma2").then_some(30.0))?,
        embedding,
        layers,
        norm: VectorAt::whole("output_norm.weight", shape.width),
        head_matrix,
        other: HashSet::from(
            ["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"].map(str::to_owned),
        ),
    })
}

/// Of so many layers one sees everything; 1 where all have the window.
fn period(keys: Keys<'_>) -> Result<usize, DecoderError> {
    let default = match keys.architecture {
        "gemma2" => 2,
        "gemma3" => 6,
        _ => 1,
    };
    Ok(keys.number("attention.sliding_window_pattern", MAX_LAYERS)?.unwrap_or(default))
}

/// The largest Gemmas divide by the width per head instead of a head's own; their files do not say so.
fn attention_scale(architecture: &str, layers: usize, shape: &Shape) -> f32 {
    let divisor = match (architecture, layers) {
        ("gemma2", 46) | ("gemma3", 62) => shape.width as f32 / shape.heads as f32,
        _ => shape.head as f32,
    };
    1.0 / divisor.sqrt()
}

fn layer(keys: Keys<'_>, shape: &Shape, l: usize) -> LayerDescription {
    let Shape { width, inner, heads, kv_heads, head, .. } = *shape;
    let name = |part: &str| format!("blk.{l}.{part}");
    let weight = |part: &str, rows, columns| MatrixAt::whole(name(&format!("{part}.weight")), rows, columns);
    let norm = |part: &str, length| VectorAt::whole(name(&format!("{part}.weight")), length);
    let bias = |part: &str, length| {
        let at = VectorAt::whole(name(&format!("{part}.bias")), length);
        let present = keys.file.tensor(&at.name).is_some() || keys.architecture == "qwen2" && part != "attn_output";
        (present && matches!(keys.architecture, "llama" | "qwen2" | "qwen3")).then_some(at)
    };
    let (q, kv) = (heads * head, kv_heads * head);
    let (query, key, value, gate, up) = if keys.architecture == "phi3" {
        let (qkv, both) = (weight("attn_qkv", q + 2 * kv, width), weight("ffn_up", 2 * inner, width));
        (qkv.part(0, q), qkv.part(q, kv), qkv.part(q + kv, kv), both.part(0, inner), both.part(inner, inner))
    } else {
        let (query, key, value) =
            (weight("attn_q", q, width), weight("attn_k", kv, width), weight("attn_v", kv, width));
        (query, key, value, weight("ffn_gate", inner, width), weight("ffn_up", inner, width))
    };
    let head_norms = matches!(keys.architecture, "qwen3" | "gemma3");
    let post_norms = matches!(keys.architecture, "gemma2" | "gemma3");
    LayerDescription {
        window: None,
        rope: 0,
        attention_norm: norm("attn_norm", width),
        query,
        key,
        value,
        query_bias: bias("attn_q", q),
        key_bias: bias("attn_k", kv),
        value_bias: bias("attn_v", kv),
        query_norm: head_norms.then(|| norm("attn_q_norm", head)),
        key_norm: head_norms.then(|| norm("attn_k_norm", head)),
        output: weight("attn_output", width, q),
        output_bias: bias("attn_output", width),
        attention_post_norm: post_norms.then(|| norm("post_attention_norm", width)),
        inner_norm: norm("ffn_norm", width),
        gate,
        up,
        down: weight("ffn_down", width, inner),
        inner_post_norm: post_norms.then(|| norm("post_ffw_norm", width)),
    }
}

/// The rotation of all layers, and for Gemma 3 that of layers with a window.
fn ropes(keys: Keys<'_>, rotated: usize) -> Result<Vec<Rope>, DecoderError> {
    let base = keys.positive("rope.freq_base")?.unwrap_or(10_000.0);
    let fault = |fault: String| DecoderError::invalid(keys.key("rope"), fault);
    let factors = |name: &str| {
        let at = VectorAt::whole(name, rotated / 2);
        let factors = Source::Gguf(keys.file).optional_vector(&at)?;
        if factors.iter().flatten().any(|factor| *factor <= 0.0) {
            let fault = "it holds factors that are not above 0";
            return Err(DecoderError::invalid(format!("tensor {name}"), fault));
        }
        Ok(factors)
    };
    let (short, long) = (factors("rope_factors_short.weight")?, factors("rope_factors_long.weight")?);
    let (base, grown) = (f64::from(base), keys.positive("rope.scaling.attn_factor")?.unwrap_or(1.0));
    let factors_of = |factors: Vec<f32>| Scaling::Factors { factors, attention_scale: grown };
    let global = match (short, long) {
        (Some(short), Some(long)) => {
            let short = turns(base, rotated, &factors_of(short)).map_err(fault)?;
            let short = Some(ShortRope { context: original(keys)?, turns: short });
            Rope { turns: turns(base, rotated, &factors_of(long)).map_err(fault)?, short }
        }
        (None, None) => {
            let scaling = match (factors("rope_freqs.weight")?, scaling(keys)?) {
                (None, scaling) => scaling,
                (Some(factors), Scaling::None) => factors_of(factors),
                (Some(factors), Scaling::Linear { factor }) => {
                    factors_of(factors.iter().map(|divisor| (f64::from(*divisor) * factor) as f32).collect())
                }
                (Some(_), _) => {
                    let fault = "it is not supported together with rope.scaling.type yarn";
                    return Err(DecoderError::invalid("tensor rope_freqs.weight", fault));
                }
            };
            rope(base, rotated, &scaling).map_err(fault)?
        }
        _ => return Err(DecoderError::Missing("tensor rope_factors_short.weight or rope_factors_long.weight".into())),
    };
    let mut ropes = vec![global];
    if keys.architecture == "gemma3" {
        let base = keys.positive("rope.freq_base_swa")?.unwrap_or(LOCAL_BASE);
        ropes.push(rope(base.into(), rotated, &Scaling::None).map_err(fault)?);
    }
    Ok(ropes)
}

/// The context before it was stretched.
fn original(keys: Keys<'_>) -> Result<usize, DecoderError> {
    match keys.number("rope.scaling.original_context_length", MAX_CONTEXT)? {
        Some(original) => Ok(original),
        None => keys.required("context_length", MAX_CONTEXT),
    }
}

/// What `rope.scaling` says; anything unknown in it would silently be another model.
fn scaling(keys: Keys<'_>) -> Result<Scaling, DecoderError> {
    let factor = match keys.positive("rope.scaling.factor")? {
        Some(factor) => factor,
        None => keys.positive("rope.scale_linear")?.unwrap_or(1.0),
    };
    let kind = keys.file.text(&keys.key("rope.scaling.type"))?.unwrap_or("");
    match kind {
        "" | "none" | "linear" | "longrope" if factor == 1.0 => Ok(Scaling::None),
        "" | "linear" if factor >= 1.0 => Ok(Scaling::Linear { factor: factor.into() }),
        "yarn" if factor >= 1.0 => {
            let number = |part: &str, default: f32| -> Result<f64, DecoderError> {
                Ok(f64::from(keys.positive(&format!("rope.scaling.{part}"))?.unwrap_or(default)))
            };
            let factor = f64::from(factor);
            let grown = number("attn_factor", 1.0)? * number("yarn_attn_factor", 1.0)?;
            Ok(Scaling::Yarn(Yarn {
                beta_fast: number("yarn_beta_fast", 32.0)?,
                beta_slow: number("yarn_beta_slow", 1.0)?,
                // The file's factors come on top of the common one.
                attention_factor: Some(grown * (0.1 * factor.ln() + 1.0)),
                ..Yarn::new(factor, original(keys)? as f64)
            }))
        }
        _ => {
            let kind: String = kind.chars().take(40).collect();
            let fault = format!("type {kind:?} with factor {factor} is not supported");
            Err(DecoderError::invalid(keys.key("rope.scaling"), fault))
        }
    }
}
