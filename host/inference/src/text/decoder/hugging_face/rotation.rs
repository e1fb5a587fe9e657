//! The rotary embeddings that a configuration asks for.

use serde_json::{Map, Value};

use super::object::Object;
use super::{Family, Shape};
use crate::text::decoder::DecoderError;
use crate::text::decoder::description::{MAX_CONTEXT, Rope};
use crate::text::decoder::rope::{Scaling, rope, yarn_attention};

/// The rotation of all layers, and for Gemma 3 that of layers with a window.
pub(super) fn ropes(config: Object<'_>, family: Family, shape: &Shape) -> Result<Vec<Rope>, DecoderError> {
    let parameters = config.object("rope_parameters")?;
    let older = config.object("rope_scaling")?;
    if family != Family::Gemma3 {
        let empty = Map::new();
        let (path, map) = match (older, parameters) {
            (Some(map), _) if !map.is_empty() => ("rope_scaling.", map),
            (_, Some(map)) => ("rope_parameters.", map),
            _ => ("", &empty),
        };
        return Ok(vec![one_rope(config, Object { path, map }, family, shape, "rope_theta", 10_000.0)?]);
    }
    let mut ropes = Vec::new();
    for (kind, path, key, base) in [
        ("full_attention", "rope_parameters.full_attention.", "rope_theta", 1_000_000.0),
        ("sliding_attention", "rope_parameters.sliding_attention.", "rope_local_base_freq", 10_000.0),
    ] {
        let empty = Map::new();
        let nested = match parameters {
            Some(map) => Object { path: "rope_parameters.", map }.object(kind)?,
            None => older.filter(|_| kind == "full_attention"),
        };
        let object = Object { path, map: nested.unwrap_or(&empty) };
        ropes.push(one_rope(config, object, family, shape, key, base)?);
    }
    Ok(ropes)
}

fn one_rope(
    config: Object<'_>,
    parameters: Object<'_>,
    family: Family,
    shape: &Shape,
    outer_base: &str,
    default_base: f64,
) -> Result<Rope, DecoderError> {
    let base = match parameters.positive("rope_theta")? {
        Some(base) => base,
        None => config.positive(outer_base)?.unwrap_or(default_base),
    };
    let part = match parameters.positive("partial_rotary_factor")? {
        Some(part) => part,
        None => config.positive("partial_rotary_factor")?.unwrap_or(1.0),
    };
    let rotated = (shape.head as f64 * part) as usize;
    if part > 1.0 || rotated == 0 || !rotated.is_multiple_of(2) {
        let fault = format!("{part} of {} values of a head do not make pairs", shape.head);
        return Err(config.invalid("partial_rotary_factor", fault));
    }
    let scaling = scaling(config, parameters, family, shape)?;
    rope(base, rotated, None, &scaling).map_err(|fault| config.invalid("rope_parameters", fault))
}

fn scaling(config: Object<'_>, parameters: Object<'_>, family: Family, shape: &Shape) -> Result<Scaling, DecoderError> {
    let kind = parameters.text("rope_type").or(parameters.text("type")).unwrap_or("default");
    // Early Phi 3 files call it so.
    let kind = if family == Family::Phi3 && matches!(kind, "su" | "yarn") { "longrope" } else { kind };
    let original = || -> Result<usize, DecoderError> {
        let key = "original_max_position_embeddings";
        let own = config.count(key, MAX_CONTEXT)?;
        Ok(own.or(parameters.count(key, MAX_CONTEXT)?).unwrap_or(shape.context))
    };
    let factor = || -> Result<f64, DecoderError> {
        match parameters.positive("factor")? {
            Some(factor) if factor < 1.0 => Err(parameters.invalid("factor", format!("{factor} is below 1"))),
            Some(factor) => Ok(factor),
            None if matches!(kind, "yarn" | "longrope") => Ok(shape.context as f64 / original()? as f64),
            None => Err(parameters.missing("factor")),
        }
    };
    let number = |key: &str| parameters.positive(key)?.ok_or_else(|| parameters.missing(key));
    match kind {
        "default" => Ok(Scaling::None),
        "linear" => Ok(Scaling::Linear { factor: factor()? }),
        "llama3" => {
            let (low, high) = (number("low_freq_factor")?, number("high_freq_factor")?);
            if low >= high {
                let fault = format!("{high} is not above low_freq_factor {low}");
                return Err(parameters.invalid("high_freq_factor", fault));
            }
            Ok(Scaling::Llama3 { factor: factor()?, low, high, original: original()? as f64 })
        }
        "yarn" => {
            let factor = factor()?;
            let scales = (parameters.positive("mscale")?, parameters.positive("mscale_all_dim")?);
            let attention = match (parameters.positive("attention_factor")?, scales) {
                (Some(attention), _) => attention,
                (None, (Some(one), Some(all))) => yarn_attention(factor, one) / yarn_attention(factor, all),
                (None, _) => yarn_attention(factor, 1.0),
            };
            Ok(Scaling::Yarn {
                factor,
                original: original()? as f64,
                fast: parameters.positive("beta_fast")?.unwrap_or(32.0),
                slow: parameters.positive("beta_slow")?.unwrap_or(1.0),
                truncate: parameters.flag("truncate", true)?,
                attention,
            })
        }
        "longrope" => {
            let original = original()?;
            let attention = match (parameters.positive("attention_factor")?, factor()?) {
                (Some(attention), _) => attention,
                (None, factor) if factor <= 1.0 => 1.0,
                (None, factor) => (1.0 + factor.ln() / (original as f64).ln()).sqrt(),
            };
            let (short, long) = (factors(parameters, "short_factor")?, factors(parameters, "long_factor")?);
            Ok(Scaling::Long { short, long, original, attention })
        }
        other => {
            let other: String = other.chars().take(40).collect();
            let fault = format!("{other:?} is not supported; default, linear, llama3, yarn and longrope are");
            Err(parameters.invalid("rope_type", fault))
        }
    }
}

fn factors(parameters: Object<'_>, key: &str) -> Result<Vec<f32>, DecoderError> {
    let list = parameters.get(key).ok_or_else(|| parameters.missing(key))?;
    let fault = || parameters.invalid(key, "it is no list of numbers above 0");
    let number = |value: &Value| value.as_f64().map(|value| value as f32).filter(|v| v.is_finite() && *v > 0.0);
    list.as_array().ok_or_else(fault)?.iter().map(|value| number(value).ok_or_else(fault)).collect()
}
