//! The rotary embeddings that a configuration asks for.

use host_kernels::rope::{Scaling, Yarn, longrope_attention_scale};
use serde_json::{Map, Value};

use super::object::Object;
use super::{Family, Shape};
use crate::text::decoder::DecoderError;
use crate::text::decoder::description::{MAX_CONTEXT, Rope, ShortRope};
use crate::text::decoder::rope::{rope, turns};

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
    let fault = |fault: String| config.invalid("rope_parameters", fault);
    if let Some(long) = long_rope(config, parameters, family, shape)? {
        let short = turns(base, rotated, &long.short).map_err(fault)?;
        let short = Some(ShortRope { context: long.original, turns: short });
        return Ok(Rope { turns: turns(base, rotated, &long.long).map_err(fault)?, short });
    }
    rope(base, rotated, &scaling(config, parameters, shape)?).map_err(fault)
}

fn original(config: Object<'_>, parameters: Object<'_>, shape: &Shape) -> Result<usize, DecoderError> {
    let key = "original_max_position_embeddings";
    let own = config.count(key, MAX_CONTEXT)?;
    Ok(own.or(parameters.count(key, MAX_CONTEXT)?).unwrap_or(shape.context))
}

fn kind<'a>(parameters: Object<'a>) -> &'a str {
    parameters.text("rope_type").or(parameters.text("type")).unwrap_or("default")
}

/// The factor of the context; what it is by their lengths where the parameters may leave it out.
fn factor(parameters: Object<'_>, lengths: Option<(usize, usize)>) -> Result<f64, DecoderError> {
    match (parameters.positive("factor")?, lengths) {
        (Some(factor), _) if factor < 1.0 => Err(parameters.invalid("factor", format!("{factor} is below 1"))),
        (Some(factor), _) => Ok(factor),
        (None, Some((context, original))) => Ok(context as f64 / original as f64),
        (None, None) => Err(parameters.missing("factor")),
    }
}

struct LongRope {
    original: usize,
    short: Scaling,
    long: Scaling,
}

fn long_rope(
    config: Object<'_>,
    parameters: Object<'_>,
    family: Family,
    shape: &Shape,
) -> Result<Option<LongRope>, DecoderError> {
    // Early Phi 3 files have two more names for it.
    match kind(parameters) {
        "longrope" => {}
        "su" | "yarn" if family == Family::Phi3 => {}
        _ => return Ok(None),
    }
    let original = original(config, parameters, shape)?;
    let factor = factor(parameters, Some((shape.context, original)))?;
    let grown = parameters.positive("attention_factor")?;
    let attention_scale = grown.unwrap_or_else(|| longrope_attention_scale(factor, original as f64)) as f32;
    let factors = |key: &str| -> Result<Scaling, DecoderError> {
        Ok(Scaling::Factors { factors: factors(parameters, key)?, attention_scale })
    };
    Ok(Some(LongRope { original, short: factors("short_factor")?, long: factors("long_factor")? }))
}

fn scaling(config: Object<'_>, parameters: Object<'_>, shape: &Shape) -> Result<Scaling, DecoderError> {
    let number = |key: &str| parameters.positive(key)?.ok_or_else(|| parameters.missing(key));
    match kind(parameters) {
        "default" => Ok(Scaling::None),
        "linear" => Ok(Scaling::Linear { factor: factor(parameters, None)? }),
        "llama3" => {
            let (low_freq_factor, high_freq_factor) = (number("low_freq_factor")?, number("high_freq_factor")?);
            if low_freq_factor >= high_freq_factor {
                let fault = format!("{high_freq_factor} is not above low_freq_factor {low_freq_factor}");
                return Err(parameters.invalid("high_freq_factor", fault));
            }
            let factor = factor(parameters, None)?;
            let original_max_position_embeddings = original(config, parameters, shape)? as f64;
            Ok(Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings })
        }
        "yarn" => {
            let original = original(config, parameters, shape)?;
            let common = Yarn::new(factor(parameters, Some((shape.context, original)))?, original as f64);
            Ok(Scaling::Yarn(Yarn {
                beta_fast: parameters.positive("beta_fast")?.unwrap_or(common.beta_fast),
                beta_slow: parameters.positive("beta_slow")?.unwrap_or(common.beta_slow),
                attention_factor: parameters.positive("attention_factor")?,
                mscale: parameters.positive("mscale")?,
                mscale_all_dim: parameters.positive("mscale_all_dim")?,
                truncate: parameters.flag("truncate", true)?,
                ..common
            }))
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
