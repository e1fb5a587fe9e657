//! ModernBERT (Warner et al. 2024): norms before each part, rotary positions, gated feed-forward blocks, hardly any
//! biases, and attention to near tokens only in all layers but each third.

use host_kernels::rope::{Rope, Scaling};
use serde_json::Value;

use super::super::config::Keys;
use super::super::description::{Description, FeedIn, HeadKind, LayerKind, Names, Norms, Part, Positions, Qkv};
use super::{HEADS, HIDDEN, INTERMEDIATE, LAYERS, POSITIONS, VOCABULARY, rotated};

/// The indices of the two rotations.
const GLOBAL: usize = 0;
const LOCAL: usize = 1;

pub(super) fn describe(keys: &Keys<'_>) -> Result<Description, String> {
    keys.only("position_embedding_type", &["absolute", "rope"])?;
    let (hidden, heads) = (keys.size(&["hidden_size"], HIDDEN)?, keys.size(&["num_attention_heads"], HEADS)?);
    let width = rotated(hidden, heads)?;
    let norm = keys.flag_or("norm_bias", false)?;
    let attention = keys.flag_or("attention_bias", false)?;
    let mlp = keys.flag_or("mlp_bias", false)?;
    let names = Names {
        prefixes: &["", "model."],
        words: "embeddings.tok_embeddings.weight",
        positions: "",
        types: "",
        embedding_norm: Part::new("embeddings.norm", norm),
        layer: ["layers.", "."],
        qkv: Qkv::Together(Part::new("attn.Wqkv", attention)),
        attention_out: Part::new("attn.Wo", attention),
        attention_norm: Part::new("attn_norm", norm),
        feed_in: FeedIn::Together { part: Part::new("mlp.Wi", mlp), gate_first: true },
        feed_out: Part::new("mlp.Wo", mlp),
        out_norm: Part::new("mlp_norm", norm),
        final_norm: Some(Part::new("final_norm", norm)),
    };
    let mean = match keys.text("classifier_pooling")?.unwrap_or("cls") {
        "cls" => false,
        "mean" => true,
        other => return Err(format!("classifier_pooling is {other:.80?}; cls and mean are known")),
    };
    let rope = |kind, name, base| -> Result<Rope, String> {
        Ok(Rope::new(base_of(keys, kind, name, base)?, width, &Scaling::None))
    };
    Ok(Description {
        vocabulary: keys.size(&["vocab_size"], VOCABULARY)?,
        hidden,
        heads,
        intermediate: keys.size(&["intermediate_size"], INTERMEDIATE)?,
        context: keys.size(&["max_position_embeddings"], POSITIONS)?,
        types: 0,
        epsilon: keys.epsilon("norm_eps", 1e-5)?,
        positions: Positions::Rotary,
        norms: Norms::Pre,
        activation: keys.activation("hidden_activation", "gelu")?,
        ropes: vec![
            rope("full_attention", "global_rope_theta", 160_000.0)?,
            rope("sliding_attention", "local_rope_theta", 10_000.0)?,
        ],
        layers: layers(keys)?,
        names,
        head: HeadKind::Prediction {
            bias: keys.flag_or("classifier_bias", false)?,
            norm_bias: norm,
            activation: keys.activation("classifier_activation", "gelu")?,
            mean,
        },
    })
}

/// Which layers attend to near tokens only: by name, or all but each so manieth.
fn layers(keys: &Keys<'_>) -> Result<Vec<LayerKind>, String> {
    let count = keys.size(&["num_hidden_layers"], LAYERS)?;
    let every = keys.size_or("global_attn_every_n_layers", 3, 1, LAYERS)?;
    let local = LayerKind { window: Some(keys.size_or("local_attention", 128, 1, POSITIONS)? / 2), rope: Some(LOCAL) };
    let global = LayerKind { window: None, rope: Some(GLOBAL) };
    match keys.0.get("layer_types").and_then(Value::as_array) {
        None => Ok((0..count).map(|index| if index.is_multiple_of(every) { global } else { local }).collect()),
        Some(names) if names.len() == count => names
            .iter()
            .map(|name| match name.as_str() {
                Some("full_attention") => Ok(global),
                Some("sliding_attention") => Ok(local),
                _ => Err("layer_types has other names than full_attention and sliding_attention".to_owned()),
            })
            .collect(),
        Some(names) => Err(format!("layer_types has {} names, num_hidden_layers is {count}", names.len())),
    }
}

/// The base of a rotation, as newer or as older files have it.
fn base_of(keys: &Keys<'_>, kind: &str, older: &str, default: f64) -> Result<f64, String> {
    let mut base = keys.number_or(older, default)?;
    let all = keys.object("rope_parameters")?;
    if let Some(parameters) = all.as_ref().map_or(Ok(None), |all| all.object(kind))? {
        parameters.only("rope_type", &["default"])?;
        base = parameters.number_or("rope_theta", base)?;
    }
    if (1.0..=1e12).contains(&base) { Ok(base) } else { Err(format!("{older} is {base}")) }
}
