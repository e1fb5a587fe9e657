//! From a picture to the values a model was trained on, by its `preprocessor_config.json`.
//!
//! The file is read as transformers reads it, in its older spellings too (`size` a number, `max_size`, `crop_pct`,
//! `feature_extractor_type`). Pictures are always RGB, and every model gets one at a time, so nothing is ever padded to
//! a neighbour's size. timm's checkpoints say the same in other words (`timm`).

mod timm;

use std::path::Path;

use host_kernels::vision::Map;
use image::RgbImage;
use serde::Deserialize;
use serde_json::Value;

use super::resample::{Filter, Span, resize};
use crate::AiError;
use crate::store::read_text;

/// The file has a kilobyte.
const BYTES: u64 = 1 << 20;
/// The longest side that a file may ask for.
const MAX_SIDE: u32 = 4096;
/// The most pixels that a model is given: as many as DETR's largest picture thrice.
const MAX_PIXELS: u64 = 1 << 22;

/// The steps, in their order.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Preprocess {
    resize: Option<Resize>,
    filter: Filter,
    crop: Option<Crop>,
    half: Half,
    /// What a byte is multiplied with.
    rescale: f32,
    mean: [f32; 3],
    deviation: [f32; 3],
}

/// Height and width of what stays of a picture's middle.
type Crop = (u32, u32);

/// Where the middle begins when as many pixels as are cut away are odd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    /// The smaller half is before it, as in transformers.
    Smaller,
    /// Half of them rounded to an even number, as in torchvision.
    Even,
}

/// What size a picture gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resize {
    /// Height and width, whatever the picture's were.
    Exact(u32, u32),
    /// The shorter side, the other in proportion.
    Shortest(u32),
    /// The shorter side, unless the longer would grow beyond a bound.
    Within(u32, u32),
}

#[derive(Deserialize)]
struct Raw {
    #[serde(alias = "feature_extractor_type", default)]
    image_processor_type: Option<String>,
    #[serde(default)]
    do_resize: Option<bool>,
    #[serde(default)]
    size: Option<Size>,
    #[serde(default)]
    max_size: Option<u32>,
    #[serde(default)]
    resample: Option<Filter>,
    #[serde(default)]
    crop_pct: Option<f64>,
    #[serde(default)]
    do_center_crop: Option<bool>,
    #[serde(default)]
    crop_size: Option<Size>,
    #[serde(default)]
    do_rescale: Option<bool>,
    #[serde(default)]
    rescale_factor: Option<f64>,
    #[serde(default)]
    do_normalize: Option<bool>,
    #[serde(default)]
    image_mean: Option<Vec<f32>>,
    #[serde(default)]
    image_std: Option<Vec<f32>>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(untagged)]
enum Size {
    Side(u32),
    Sides {
        height: u32,
        width: u32,
    },
    Edges {
        shortest_edge: u32,
        #[serde(default)]
        longest_edge: Option<u32>,
    },
}

const IMAGENET: ([f32; 3], [f32; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
const CLIP: ([f32; 3], [f32; 3]) =
    ([0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_6, 0.275_777_1]);
const HALF: ([f32; 3], [f32; 3]) = ([0.5; 3], [0.5; 3]);

impl Preprocess {
    /// Reads the file in `folder`. The error names it.
    pub(super) fn load(folder: &Path) -> Result<Preprocess, String> {
        let path = folder.join("preprocessor_config.json");
        let text = read_text(&path, BYTES).map_err(|error| error.to_string())?;
        let parsed = serde_json::from_slice(&text).map_err(|error| error.to_string()).and_then(Self::parse);
        parsed.map_err(|why| format!("{}: {why}", path.display()))
    }

    fn parse(value: Value) -> Result<Preprocess, String> {
        let raw: Raw = serde_json::from_value(value).map_err(|error| error.to_string())?;
        let kind = raw.image_processor_type.as_deref().unwrap_or_default();
        let kind = ["FeatureExtractor", "ImageProcessorFast", "ImageProcessorPil", "ImageProcessor"]
            .into_iter()
            .find_map(|end| kind.strip_suffix(end))
            .unwrap_or(kind);
        let (mean, deviation) = match kind {
            "CLIP" | "Blip" => CLIP,
            "ViT" | "Siglip" => HALF,
            _ => IMAGENET,
        };
        let list = |key: &str, list: &Option<Vec<f32>>, default: [f32; 3]| match list.as_deref() {
            None => Ok(default),
            Some([r, g, b]) if [r, g, b].iter().all(|value| value.is_finite()) => Ok([*r, *g, *b]),
            Some(other) => Err(format!("{key} has {} values, not 3 numbers", other.len())),
        };
        let normalize = raw.do_normalize.unwrap_or(true);
        let deviation = list("image_std", &raw.image_std, deviation)?;
        if deviation.iter().any(|value| *value <= 0.0) {
            return Err("image_std has values that are not above 0".to_owned());
        }
        let rescale = raw.rescale_factor.unwrap_or(1.0 / 255.0) as f32;
        let (resize, crop) = sizes(&raw, kind)?;
        let bilinear = matches!(kind, "ViT" | "Detr" | "YolosImage");
        let this = Preprocess {
            resize: resize.filter(|_| raw.do_resize.unwrap_or(true)),
            filter: raw.resample.unwrap_or(if bilinear { Filter::Bilinear } else { Filter::Bicubic }),
            crop,
            half: Half::Smaller,
            rescale: if raw.do_rescale.unwrap_or(true) { rescale } else { 1.0 },
            mean: if normalize { list("image_mean", &raw.image_mean, mean)? } else { [0.0; 3] },
            deviation: if normalize { deviation } else { [1.0; 3] },
        };
        if this.rescale.is_finite() && this.sides().iter().all(|side| (1..=MAX_SIDE).contains(side)) {
            Ok(this)
        } else {
            Err(format!("sizes must be 1 to {MAX_SIDE} and rescale_factor a number"))
        }
    }

    /// Every length that the file gives.
    fn sides(&self) -> Vec<u32> {
        let mut sides = match self.resize {
            None => Vec::new(),
            Some(Resize::Exact(a, b) | Resize::Within(a, b)) => vec![a, b],
            Some(Resize::Shortest(a)) => vec![a],
        };
        sides.extend(self.crop.iter().flat_map(|(height, width)| [*height, *width]));
        sides
    }

    /// The height and width that every picture gets, where it is always the same.
    pub(super) fn fixed(&self) -> Option<(usize, usize)> {
        let (height, width) = match (self.crop, self.resize) {
            (Some(crop), _) => crop,
            (None, Some(Resize::Exact(height, width))) => (height, width),
            _ => return None,
        };
        Some((height as usize, width as usize))
    }

    /// Height and width of what the model gets of a picture that has these.
    pub(super) fn size(&self, height: usize, width: usize) -> (usize, usize) {
        let of = |side: usize| u32::try_from(side).unwrap_or(u32::MAX).max(1);
        let (height, width) = (of(height), of(width));
        let resized = self.resize.map_or((height, width), |resize| resize.of(height, width));
        let (height, width) = self.crop.unwrap_or(resized);
        // What is larger is refused.
        let height = u64::from(height).min(MAX_PIXELS);
        (height as usize, u64::from(width).min(MAX_PIXELS / height.max(1)) as usize)
    }

    /// The model's values of `picture`.
    ///
    /// # Errors
    /// 5006 that names `property` for a picture too elongated for the model.
    pub(super) fn apply(&self, picture: &RgbImage, property: &str) -> Result<Map, AiError> {
        let (width, height) = picture.dimensions();
        let (tall, wide) = self.resize.map_or((height, width), |resize| resize.of(height, width));
        let (out_height, out_width) = self.crop.unwrap_or((tall, wide));
        if u64::from(out_height) * u64::from(out_width) > MAX_PIXELS {
            return Err(AiError::bad_input(format_args!(
                "'/{property}' has {width} x {height} pixels, which this model reads as {out_width} x {out_height}; it is too \
                 elongated"
            )));
        }
        let (rows, above) = window(tall, out_height, self.half);
        let (columns, before) = window(wide, out_width, self.half);
        let part = resize(picture, columns, rows, self.filter)?;
        let mut map = Map::zeros(out_height as usize, out_width as usize, 3);
        // What a crop adds is black, like any other colour.
        let value =
            |byte: u8, channel: usize| (f32::from(byte) * self.rescale - self.mean[channel]) / self.deviation[channel];
        let black: [f32; 3] = std::array::from_fn(|channel| value(0, channel));
        map.data.as_chunks_mut::<3>().0.fill(black);
        let line = columns.length as usize * 3;
        for (row, bytes) in part.as_raw().chunks_exact(line.max(1)).enumerate() {
            let start = ((above as usize + row) * map.width + before as usize) * 3;
            for (at, (target, byte)) in map.data[start..][..line].iter_mut().zip(bytes).enumerate() {
                *target = value(*byte, at % 3);
            }
        }
        Ok(map)
    }
}

/// What becomes of one side under a crop to its middle: the part that stays, and how much is added before it.
fn window(side: u32, crop: u32, half: Half) -> (Span, u32) {
    if side >= crop {
        let rest = side - crop;
        let start = match half {
            Half::Smaller => rest / 2,
            // 2 k + 1 is rounded to k or k + 1, whichever is even.
            Half::Even => rest / 2 + rest % 4 / 3,
        };
        (Span { of: side, start, length: crop }, 0)
    } else {
        // transformers adds the larger half of an odd rest before.
        (Span::whole(side), (crop - side).div_ceil(2))
    }
}

impl Resize {
    /// Height and width of a picture that had these. Fractions are cut as Python's `int` cuts them; no side becomes 0.
    fn of(self, height: u32, width: u32) -> (u32, u32) {
        let (short, long) = (height.min(width), height.max(width));
        let in_order = |short: u32, long: u32| if width <= height { (long, short) } else { (short, long) };
        let cut = |value: f64| (value as u32).max(1);
        match self {
            Self::Exact(height, width) => (height, width),
            Self::Shortest(edge) => in_order(edge, cut(f64::from(edge) * f64::from(long) / f64::from(short))),
            Self::Within(edge, most) => {
                let (short_side, long_side) = (f64::from(short), f64::from(long));
                let bounded = long_side / short_side * f64::from(edge) > f64::from(most);
                let exact = if bounded { f64::from(most) * short_side / long_side } else { f64::from(edge) };
                let edge = if bounded { (exact.round_ties_even() as u32).max(1) } else { edge };
                if short == edge {
                    return (height, width);
                }
                in_order(edge, cut(exact * long_side / short_side))
            }
        }
    }
}

/// What `size`, `crop_size`, `crop_pct` and `max_size` come to.
fn sizes(raw: &Raw, kind: &str) -> Result<(Option<Resize>, Option<Crop>), String> {
    let crop_size = match raw.crop_size {
        None => None,
        Some(Size::Side(side)) => Some((side, side)),
        Some(Size::Sides { height, width }) => Some((height, width)),
        Some(Size::Edges { .. }) => return Err("crop_size must be a number or have height and width".to_owned()),
    };
    // One flag is enough for those processors that crop unless told otherwise.
    let crops = raw.do_center_crop.unwrap_or(matches!(kind, "CLIP" | "DeiT"));
    let crop = crop_size.filter(|_| crops);
    if crops && crop.is_none() {
        return Err("do_center_crop without a crop_size".to_owned());
    }
    let size = raw.size.ok_or("it has no size")?;
    if kind == "ConvNext" {
        let (Size::Side(edge) | Size::Edges { shortest_edge: edge, .. } | Size::Sides { height: edge, .. }) = size;
        // Larger pictures are warped as a whole, smaller ones shown by their middle.
        if edge >= 384 {
            return Ok((Some(Resize::Exact(edge, edge)), crop));
        }
        let part = raw.crop_pct.unwrap_or(224.0 / 256.0);
        if !(0.05..=1.0).contains(&part) {
            return Err(format!("crop_pct is {part}, not 0.05 to 1"));
        }
        return Ok((Some(Resize::Shortest((f64::from(edge) / part) as u32)), Some((edge, edge))));
    }
    let resize = match (size, raw.max_size) {
        (Size::Sides { height, width }, _) => Resize::Exact(height, width),
        (Size::Edges { shortest_edge, longest_edge: Some(most) }, _)
        | (Size::Edges { shortest_edge, longest_edge: None } | Size::Side(shortest_edge), Some(most)) => {
            Resize::Within(shortest_edge, most)
        }
        (Size::Edges { shortest_edge, longest_edge: None }, None) => Resize::Shortest(shortest_edge),
        (Size::Side(edge), None) => match kind {
            "CLIP" => Resize::Shortest(edge),
            // As the first versions of DETR's files leave it out.
            "Detr" => Resize::Within(edge, 1333),
            _ => Resize::Exact(edge, edge),
        },
    };
    Ok((Some(resize), crop))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;

    fn folder(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/vision").join(name)
    }

    /// Bytes are the same, and float32 holds their normalized values to 2^-22 of a deviation or so.
    #[test]
    fn values_are_those_of_transformers() {
        let golden: Value = serde_json::from_str(include_str!("../../tests/golden/vision/golden.json")).unwrap();
        let read =
            |name: &str| crate::pictures::decode(&Bytes::from(std::fs::read(folder(name)).unwrap()), "image").unwrap();
        let pictures = [read("cat.png"), read("tall.png")];
        for (name, cases) in golden["pixels"].as_object().unwrap() {
            let preprocess = Preprocess::load(&folder(name)).unwrap();
            for (picture, case) in pictures.iter().zip(cases.as_array().unwrap()) {
                let map = preprocess.apply(picture, "image").unwrap();
                assert_eq!(json!([3, map.height, map.width]), case["shape"], "{name}");
                let sum: f64 = map.data.iter().map(|value| f64::from(*value)).sum();
                let magnitude: f64 = map.data.iter().map(|value| f64::from(value.abs())).sum();
                let close =
                    |got: f64, key: &str| (got - case[key].as_f64().unwrap()).abs() < 1e-6 * map.data.len() as f64;
                assert!(close(sum, "sum") && close(magnitude, "magnitude"), "{name}: {sum} {magnitude} {case}");
                for (place, value) in case["places"].as_array().unwrap().iter().zip(case["values"].as_array().unwrap())
                {
                    let place = place.as_u64().unwrap() as usize;
                    let (channel, pixel) = (place / map.pixels(), place % map.pixels());
                    let got = f64::from(map.data[pixel * 3 + channel]);
                    assert!((got - value.as_f64().unwrap()).abs() < 2e-6, "{name} {place}: {got} {value}");
                }
            }
        }
    }

    #[test]
    fn elongated_pictures_cost_what_the_crop_costs() {
        let clip = Preprocess::load(&folder("clip")).unwrap();
        let detr = Preprocess::load(&folder("detr")).unwrap();
        for (width, height) in [(8000, 1), (1, 8000), (1, 1), (3, 2)] {
            let picture = RgbImage::new(width, height);
            assert_eq!(clip.apply(&picture, "image").unwrap().pixels(), 32 * 32);
            let map = detr.apply(&picture, "image").unwrap();
            assert!((1..=160 * 96).contains(&map.pixels()), "{width} {height}: {} {}", map.width, map.height);
        }
        let endless = json!({ "image_processor_type": "ViTImageProcessor", "size": { "shortest_edge": 4096 } });
        let endless = Preprocess::parse(endless).unwrap();
        let error = endless.apply(&RgbImage::new(8000, 1), "image").unwrap_err();
        assert!(error.code == 5006 && error.message.contains("elongated"), "{error}");
    }

    #[test]
    fn a_crop_larger_than_the_picture_adds_black() {
        let config = json!({ "do_resize": false, "size": 1, "do_center_crop": true, "crop_size": 4, "do_normalize": false,
                             "rescale_factor": 1.0 });
        let map =
            Preprocess::parse(config).unwrap().apply(&RgbImage::from_pixel(1, 2, image::Rgb([9; 3])), "image").unwrap();
        let lit: Vec<usize> = (0..16).filter(|pixel| map.data[pixel * 3] == 9.0).collect();
        // As `center_crop` of transformers places them.
        assert_eq!(lit, [6, 10]);
    }

    #[test]
    fn files_that_ask_for_too_much_are_refused() {
        let size = json!({ "height": 32, "width": 32 });
        for config in [
            json!({}),
            json!({ "size": 0 }),
            json!({ "size": 100_000 }),
            json!({ "size": { "height": 32 } }),
            json!({ "size": size, "image_std": [1, 0, 1] }),
            json!({ "size": size, "image_mean": [1] }),
            json!({ "size": size, "resample": 9 }),
            json!({ "size": size, "do_center_crop": true }),
            json!({ "size": 224, "crop_pct": 0, "image_processor_type": "ConvNextImageProcessor" }),
        ] {
            assert!(Preprocess::parse(config.clone()).is_err(), "{config}");
        }
    }
}
