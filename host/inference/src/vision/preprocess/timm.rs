//! What timm's checkpoints say of preprocessing: `pretrained_cfg` in `config.json`, as timm's transform for evaluation reads
//! it.
//!
//! `input_size` and `crop_pct` count. The `test_…` beside them are sizes at which the network does a little better, and
//! timm does not take them either unless it is asked to.

use serde_json::Value;

use super::super::resample::Filter;
use super::{Half, IMAGENET, Preprocess, Resize};

/// The longest side of a picture: the published networks want 224 to 448.
const MAX_INPUT: u64 = 1024;

impl Preprocess {
    /// Reads `pretrained_cfg` of `config`.
    ///
    /// # Errors
    /// The key that is wrong, or asks for something that is not known here.
    pub(in super::super) fn of_timm(config: &Value) -> Result<Preprocess, String> {
        let given = config.get("pretrained_cfg").filter(|given| given.is_object()).ok_or("it has no pretrained_cfg")?;
        let named = |why: String| format!("pretrained_cfg: {why}");
        let get = |key: &str| given.get(key).filter(|value| !value.is_null());
        let edge = edge(get("input_size")).map_err(named)?;
        let filter = match get("interpolation").map(Value::as_str) {
            None | Some(Some("bicubic")) => Filter::Bicubic,
            Some(Some("bilinear")) => Filter::Bilinear,
            Some(Some("lanczos")) => Filter::Lanczos,
            Some(Some("nearest")) => Filter::Nearest,
            Some(Some("box")) => Filter::Box,
            Some(Some("hamming")) => Filter::Hamming,
            Some(other) => return Err(named(format!("interpolation is {other:.40?}, none of PIL's filters"))),
        };
        let part = get("crop_pct").map_or(Some(0.875), Value::as_f64).filter(|part| (0.05..=1.0).contains(part));
        let part = part.ok_or_else(|| named("crop_pct is not a number from 0.05 to 1".to_owned()))?;
        // At most 20 times 1024.
        let scaled = (f64::from(edge) / part).floor() as u32;
        let resize = match get("crop_mode").map(Value::as_str) {
            None | Some(Some("center")) => Resize::Shortest(scaled),
            Some(Some("squash")) => Resize::Exact(scaled, scaled),
            Some(other) => return Err(named(format!("crop_mode is {other:.40?}; center and squash are known"))),
        };
        let deviation = three("std", get("std"), IMAGENET.1).map_err(named)?;
        if deviation.iter().any(|value| *value <= 0.0) {
            return Err(named("std has values that are not above 0".to_owned()));
        }
        Ok(Preprocess {
            resize: Some(resize),
            filter,
            crop: Some((edge, edge)),
            half: Half::Even,
            rescale: 1.0 / 255.0,
            mean: three("mean", get("mean"), IMAGENET.0).map_err(named)?,
            deviation,
        })
    }
}

/// Each side of `input_size`, which is channels, rows and columns.
fn edge(size: Option<&Value>) -> Result<u32, String> {
    let Some(size) = size else { return Ok(224) };
    let sides: Option<Vec<u64>> = size.as_array().and_then(|sides| sides.iter().map(Value::as_u64).collect());
    match sides.as_deref() {
        Some([3, height, width]) if height == width && (1..=MAX_INPUT).contains(height) => Ok(*height as u32),
        _ => Err(format!("input_size is {size:.80}, not three channels and a side of 1 to {MAX_INPUT} twice")),
    }
}

/// A number for each channel.
fn three(key: &str, list: Option<&Value>, default: [f32; 3]) -> Result<[f32; 3], String> {
    let Some(list) = list else { return Ok(default) };
    let numbers: Option<Vec<f32>> =
        list.as_array().and_then(|list| list.iter().map(|value| value.as_f64().map(|value| value as f32)).collect());
    match numbers.as_deref() {
        Some([r, g, b]) if [r, g, b].iter().all(|value| value.is_finite()) => Ok([*r, *g, *b]),
        _ => Err(format!("{key} is not 3 numbers")),
    }
}

#[cfg(test)]
mod tests {
    use image::RgbImage;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_missing_has_the_defaults_of_timm() {
        let read = Preprocess::of_timm(&json!({ "pretrained_cfg": {} })).unwrap();
        assert_eq!(read.fixed(), Some((224, 224)));
        let (resize, filter) = (read.resize, read.filter);
        assert_eq!((resize, filter), (Some(Resize::Shortest(256)), Filter::Bicubic));
        let squashed =
            json!({ "pretrained_cfg": { "crop_mode": "squash", "crop_pct": 1.0, "input_size": [3, 32, 32] } });
        let map = Preprocess::of_timm(&squashed).unwrap().apply(&RgbImage::new(8000, 1), "image").unwrap();
        assert_eq!((map.height, map.width), (32, 32));
    }

    #[test]
    fn what_is_not_known_is_named() {
        for (key, value) in [
            ("input_size", json!([1, 32, 32])),
            ("input_size", json!([3, 32, 64])),
            ("input_size", json!([3, 4096, 4096])),
            ("interpolation", json!("random")),
            ("crop_pct", json!(0.0)),
            ("crop_mode", json!("border")),
            ("mean", json!([0.5])),
            ("std", json!([0.5, 0.0, 0.5])),
        ] {
            let error = Preprocess::of_timm(&json!({ "pretrained_cfg": { key: value } })).unwrap_err();
            assert!(error.contains("pretrained_cfg") && error.contains(key), "{key}: {error}");
        }
        assert!(Preprocess::of_timm(&json!({})).is_err());
    }
}
