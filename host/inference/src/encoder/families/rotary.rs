//! Encoders with BERT's norms, rotary positions and gated feed-forward blocks: Nomic's BERT (Nussbaum et al. 2024) and
//! the GTE models (Zhang et al. 2024), whose published checkpoints call themselves `new`.

use host_kernels::encoder::Activation;
use host_kernels::rope::{Rope, Scaling};

use super::super::config::Keys;
use super::super::description::{Description, FeedIn, HeadKind, Names, Norms, Part, Positions, Qkv};
use super::{HEADS, HIDDEN, INTERMEDIATE, LAYERS, POSITIONS, TYPES, VOCABULARY, alike, rotated};

pub(super) fn nomic(keys: &Keys<'_>) -> Result<Description, String> {
    for (name, needed) in [
        ("prenorm", false),
        ("parallel_block", false),
        ("use_rms_norm", false),
        ("rotary_emb_interleaved", false),
        ("causal", false),
    ] {
        if keys.flag_or(name, needed)? != needed {
            return Err(format!("{name} is {}; only {needed} is known", !needed));
        }
    }
    if keys.size_or("moe_every_n_layers", 0, 0, LAYERS)? != 0 {
        return Err("moe_every_n_layers is not 0; mixtures of experts are not known".to_owned());
    }
    let fraction = keys.number_or("rotary_emb_fraction", 1.0)?;
    if fraction.to_bits() != 1.0_f64.to_bits() {
        return Err(format!("rotary_emb_fraction is {fraction}; only 1 is known"));
    }
    let activation = match keys.text("activation_function")?.or(keys.text("hidden_act")?).unwrap_or("swiglu") {
        "swiglu" | "silu" => Activation::Silu,
        "geglu" => Activation::Gelu,
        other => return Err(format!("activation_function is {other:.80?}; swiglu and geglu are known")),
    };
    let (hidden, heads) =
        (keys.size(&["n_embd", "hidden_size"], HIDDEN)?, keys.size(&["n_head", "num_attention_heads"], HEADS)?);
    let base = rope_base(keys, keys.number_or("rotary_emb_base", 1000.0)?)?;
    let qkv = keys.flag_or("qkv_proj_bias", false)?;
    let (first, second) = (keys.flag_or("mlp_fc1_bias", false)?, keys.flag_or("mlp_fc2_bias", false)?);
    let names = Names {
        prefixes: &["", "bert.", "nomic_bert."],
        words: "embeddings.word_embeddings.weight",
        positions: "",
        types: "embeddings.token_type_embeddings.weight",
        embedding_norm: Part::biased("emb_ln"),
        layer: ["encoder.layers.", "."],
        qkv: Qkv::Together(Part::new("attn.Wqkv", qkv)),
        attention_out: Part::new("attn.out_proj", qkv),
        attention_norm: Part::biased("norm1"),
        feed_in: FeedIn::Apart { gate: Part::new("mlp.fc12", first), up: Part::new("mlp.fc11", first) },
        feed_out: Part::new("mlp.fc2", second),
        out_norm: Part::biased("norm2"),
        final_norm: None,
    };
    Ok(Description {
        vocabulary: keys.size(&["vocab_size"], VOCABULARY)?,
        hidden,
        heads,
        intermediate: keys.size(&["n_inner", "intermediate_size"], INTERMEDIATE)?,
        // Beyond the length of its training the model wants another rotation for each length.
        context: keys
            .size(&["max_trained_positions", "n_positions", "max_position_embeddings"], POSITIONS)?
            .min(keys.size(&["n_positions", "max_position_embeddings"], POSITIONS)?),
        types: keys.size_or("type_vocab_size", 2, 0, TYPES)?,
        epsilon: keys.epsilon("layer_norm_epsilon", keys.number_or("layer_norm_eps", 1e-12)?)?,
        positions: Positions::Rotary,
        norms: Norms::Post,
        activation,
        ropes: vec![Rope::new(base, rotated(hidden, heads)?, &Scaling::None)],
        layers: alike(keys.size(&["n_layer", "num_hidden_layers"], LAYERS)?, Some(0)),
        names,
        head: HeadKind::Pooler,
    })
}

pub(super) fn gte(keys: &Keys<'_>) -> Result<Description, String> {
    keys.only("position_embedding_type", &["rope"])?;
    keys.only("layer_norm_type", &["layer_norm"])?;
    if keys.flag_or("logn_attention_scale", false)? {
        return Err("logn_attention_scale is true; only false is known".to_owned());
    }
    let (hidden, heads) = (keys.size(&["hidden_size"], HIDDEN)?, keys.size(&["num_attention_heads"], HEADS)?);
    let names = Names {
        prefixes: &["", "new.", "gte."],
        words: "embeddings.word_embeddings.weight",
        positions: "",
        types: "embeddings.token_type_embeddings.weight",
        embedding_norm: Part::biased("embeddings.LayerNorm"),
        layer: ["encoder.layer.", "."],
        qkv: Qkv::Together(Part::biased("attention.qkv_proj")),
        attention_out: Part::biased("attention.o_proj"),
        attention_norm: Part::biased("attn_ln"),
        feed_in: FeedIn::Together { part: Part::new("mlp.up_gate_proj", false), gate_first: false },
        feed_out: Part::biased("mlp.down_proj"),
        out_norm: Part::biased("mlp_ln"),
        final_norm: None,
    };
    Ok(Description {
        vocabulary: keys.size(&["vocab_size"], VOCABULARY)?,
        hidden,
        heads,
        intermediate: keys.size(&["intermediate_size"], INTERMEDIATE)?,
        context: keys.size(&["max_position_embeddings"], POSITIONS)?,
        types: keys.size_or("type_vocab_size", 0, 0, TYPES)?,
        epsilon: keys.epsilon("layer_norm_eps", 1e-12)?,
        positions: Positions::Rotary,
        norms: Norms::Post,
        activation: keys.activation("hidden_act", "gelu")?,
        ropes: vec![gte_rope(keys, rotated(hidden, heads)?)?],
        layers: alike(keys.size(&["num_hidden_layers"], LAYERS)?, Some(0)),
        names,
        head: HeadKind::Pooler,
    })
}

/// The rotation, with the stretching that the models call `ntk`: the base times the factor, and every frequency divided
/// by its root, so that the slowest pair is interpolated by the whole factor.
fn gte_rope(keys: &Keys<'_>, width: usize) -> Result<Rope, String> {
    let base = rope_base(keys, keys.number_or("rope_theta", 10_000.0)?)?;
    let scaling = keys.object("rope_scaling")?;
    let Some(scaling) = scaling else { return Ok(Rope::new(base, width, &Scaling::None)) };
    match scaling.text("type")?.or(scaling.text("rope_type")?) {
        None | Some("default") => Ok(Rope::new(base, width, &Scaling::None)),
        Some("ntk") => {
            let factor = scaling.number_or("factor", 1.0)?;
            if !(1.0..=1e6).contains(&factor) || scaling.0.get("mixed_b").is_some_and(|mixed| !mixed.is_null()) {
                return Err(format!("rope_scaling of factor {factor} or with mixed_b is not known"));
            }
            let mut rope = Rope::new(base * factor, width, &Scaling::None);
            let divisor = factor.powf(2.0 / width as f64) as f32;
            rope.frequencies.iter_mut().for_each(|frequency| *frequency /= divisor);
            Ok(rope)
        }
        Some(other) => Err(format!("rope_scaling is {other:.80?}; ntk is known")),
    }
}

/// `rope_parameters`, where newer files have them, or `base`.
fn rope_base(keys: &Keys<'_>, base: f64) -> Result<f64, String> {
    let base = match keys.object("rope_parameters")? {
        Some(parameters) => {
            parameters.only("rope_type", &["default"])?;
            parameters.number_or("rope_theta", base)?
        }
        None => base,
    };
    if (1.0..=1e12).contains(&base) { Ok(base) } else { Err(format!("the rotation's base is {base}")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn stretching_interpolates_the_slowest_pair_by_the_whole_factor() {
        let rope = |scaling: serde_json::Value| {
            let config = json!({ "rope_theta": 500_000.0, "rope_scaling": scaling });
            gte_rope(&Keys(config.as_object().unwrap()), 64)
        };
        let (plain, stretched) = (rope(json!(null)).unwrap(), rope(json!({ "type": "ntk", "factor": 2.0 })).unwrap());
        let ratio = |pair: usize| f64::from(plain.frequencies[pair] / stretched.frequencies[pair]);
        // 2^(2 / 64) for the fastest, and that much more for each further pair.
        for pair in [0, 1, 15, 31] {
            assert!((ratio(pair) - 2_f64.powf((pair + 1) as f64 / 32.0)).abs() < 1e-5, "{pair}: {}", ratio(pair));
        }
        assert!(rope(json!({ "type": "ntk", "factor": 1e9 })).is_err());
        assert!(rope(json!({ "type": "ntk", "factor": 2.0, "mixed_b": 0.6 })).is_err());
        assert!(rope(json!({ "type": "yarn", "factor": 2.0 })).unwrap_err().contains("yarn"));
    }
}
