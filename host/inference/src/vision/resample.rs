//! Pictures in other sizes, byte for byte as PIL makes them.
//!
//! Models were trained on what PIL's `resize` gives, and a smaller picture of another filter is another picture. PIL
//! stretches the filter by the factor of the reduction, turns its weights into integers of 22 bits and runs over rows
//! first, columns second, rounding to bytes after each; so does this. (Recent versions of PIL run over columns first where
//! that is less work, which moves some bytes by one; models were trained before.) A part of the result can be asked for alone, which
//! is the same bytes for less work: the middle of a picture that is a thousand times wider than high.

use image::RgbImage;
use serde::Deserialize;

use crate::AiError;

/// Bits of a weight behind the point.
const PRECISION: u32 = 32 - 8 - 2;

/// How a value comes from its neighbours; the numbers are PIL's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u8")]
pub(super) enum Filter {
    Nearest,
    Lanczos,
    Bilinear,
    Bicubic,
    Box,
    Hamming,
}

impl TryFrom<u8> for Filter {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        Ok(match number {
            0 => Self::Nearest,
            1 => Self::Lanczos,
            2 => Self::Bilinear,
            3 => Self::Bicubic,
            4 => Self::Box,
            5 => Self::Hamming,
            other => return Err(format!("resample is {other}; PIL's filters are 0 to 5")),
        })
    }
}

impl Filter {
    /// How far the filter reaches to each side, in pixels of the smaller picture.
    fn support(self) -> f64 {
        match self {
            Self::Nearest => 0.0,
            Self::Box => 0.5,
            Self::Bilinear | Self::Hamming => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * std::f64::consts::PI).sin() / (x * std::f64::consts::PI) };
        let magnitude = x.abs();
        match self {
            Self::Nearest => 1.0,
            Self::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
            Self::Bilinear => (1.0 - magnitude).max(0.0),
            Self::Hamming if magnitude == 0.0 => 1.0,
            Self::Hamming if magnitude >= 1.0 => 0.0,
            Self::Hamming => sinc(x) * (0.54 + 0.46 * (magnitude * std::f64::consts::PI).cos()),
            // Keys' cubic convolution with a = -0.5.
            Self::Bicubic if magnitude < 1.0 => (1.5 * magnitude - 2.5) * magnitude * magnitude + 1.0,
            Self::Bicubic if magnitude < 2.0 => ((magnitude - 5.0) * magnitude + 8.0) * magnitude * -0.5 + 2.0,
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Bicubic | Self::Lanczos => 0.0,
        }
    }
}

/// A part of one side of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    /// The whole side.
    pub(super) of: u32,
    /// Where the part begins.
    pub(super) start: u32,
    /// Its length.
    pub(super) length: u32,
}

impl Span {
    pub(super) fn whole(of: u32) -> Span {
        Span { of, start: 0, length: of }
    }
}

/// The inputs of one output value: where they begin, and their weights.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

fn taps(input: u32, span: Span, filter: Filter) -> Vec<Taps> {
    let scale = f64::from(input) / f64::from(span.of);
    let stretch = scale.max(1.0);
    let support = filter.support() * stretch;
    if filter == Filter::Nearest {
        return nearest(input, span, scale);
    }
    let one = |output: u32| {
        let center = (f64::from(output) + 0.5) * scale;
        let first = (center - support + 0.5).max(0.0) as usize;
        let last = ((center + support + 0.5) as usize).min(input as usize);
        let mut weights: Vec<f64> = (first..last).map(|x| filter.weight((x as f64 - center + 0.5) / stretch)).collect();
        let sum: f64 = weights.iter().sum();
        if sum != 0.0 {
            weights.iter_mut().for_each(|weight| *weight /= sum);
        }
        let fixed = |weight: &f64| (weight * f64::from(1 << PRECISION)).round() as i32;
        Taps { first, weights: weights.iter().map(fixed).collect() }
    };
    (span.start..span.start + span.length).map(one).collect()
}

/// Places are added up, rounding errors and all, as PIL does it.
fn nearest(input: u32, span: Span, scale: f64) -> Vec<Taps> {
    let places = std::iter::successors(Some(scale * 0.5), |place| Some(place + scale));
    let one = |place: f64| Taps { first: (place as usize).min(input as usize - 1), weights: vec![1 << PRECISION] };
    places.skip(span.start as usize).take(span.length as usize).map(one).collect()
}

fn rounded(sum: i64) -> u8 {
    ((sum + (1 << (PRECISION - 1))) >> PRECISION).clamp(0, 255) as u8
}

/// The part `columns` by `rows` of `picture` in another size.
///
/// # Errors
/// 3043 when the part's size contradicts itself, which no caller asks for.
pub(super) fn resize(picture: &RgbImage, columns: Span, rows: Span, filter: Filter) -> Result<RgbImage, AiError> {
    let (width, height) = picture.dimensions();
    let across = taps(width, columns, filter);
    let down = taps(height, rows, filter);
    let ends = down.iter().map(|taps| (taps.first, taps.first + taps.weights.len()));
    let (top, bottom) = ends.fold((usize::MAX, 0), |(top, bottom), (first, last)| (top.min(first), bottom.max(last)));
    // A side that keeps its length is copied, as in PIL.
    let still = |span: Span, of: u32| span.of == of;
    let line = columns.length as usize * 3;
    let mut narrow = Vec::with_capacity(line * bottom.saturating_sub(top));
    for y in top..bottom {
        let row = &picture.as_raw()[y * width as usize * 3..][..width as usize * 3];
        if still(columns, width) {
            narrow.extend_from_slice(&row[columns.start as usize * 3..][..line]);
            continue;
        }
        for taps in &across {
            let mut sums = [0i64; 3];
            for (pixel, weight) in row[taps.first * 3..].as_chunks::<3>().0.iter().zip(&taps.weights) {
                for (sum, value) in sums.iter_mut().zip(pixel) {
                    *sum += i64::from(*value) * i64::from(*weight);
                }
            }
            narrow.extend(sums.map(rounded));
        }
    }
    let mut data = Vec::with_capacity(line * rows.length as usize);
    let mut sums = vec![0i64; line];
    for (taps, output) in down.iter().zip(rows.start..) {
        if still(rows, height) {
            data.extend_from_slice(&narrow[(output as usize - top) * line..][..line]);
            continue;
        }
        sums.fill(0);
        for (row, weight) in narrow[(taps.first - top) * line..].chunks_exact(line.max(1)).zip(&taps.weights) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += i64::from(*value) * i64::from(*weight);
            }
        }
        data.extend(sums.iter().copied().map(rounded));
    }
    RgbImage::from_raw(columns.length, rows.length, data).ok_or_else(|| AiError::internal("a resized picture's size"))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn bytes_are_those_of_pil() {
        let golden: Value = serde_json::from_str(include_str!("../../tests/golden/vision/golden.json")).unwrap();
        let bytes = bytes::Bytes::from_static(include_bytes!("../../tests/golden/vision/cat.png"));
        let picture = crate::pictures::decode(&bytes, "image").unwrap();
        let filters = ["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"];
        for case in golden["resampling"].as_array().unwrap() {
            let number = filters.iter().position(|name| case["filter"] == *name).unwrap() as u8;
            let side = |at: usize| case["size"][at].as_u64().unwrap() as u32;
            let (columns, rows) = (Span::whole(side(0)), Span::whole(side(1)));
            let got = resize(&picture, columns, rows, Filter::try_from(number).unwrap()).unwrap().into_raw();
            let weighted: u64 = got.iter().enumerate().map(|(at, byte)| u64::from(*byte) * (at as u64 % 251 + 1)).sum();
            assert_eq!(got.iter().map(|byte| u64::from(*byte)).sum::<u64>(), case["sum"].as_u64().unwrap(), "{case}");
            assert_eq!(weighted, case["weighted"].as_u64().unwrap(), "{case}");
        }
    }

    #[test]
    fn a_part_is_the_same_as_out_of_the_whole() {
        let picture = RgbImage::from_fn(40, 23, |x, y| image::Rgb([(x * y) as u8, (x * 7) as u8, (y * 11) as u8]));
        for filter in (0..6).map(|number| Filter::try_from(number).unwrap()) {
            for (width, height) in [(17, 31), (40, 9), (80, 23)] {
                let whole = resize(&picture, Span::whole(width), Span::whole(height), filter).unwrap();
                let (columns, rows) =
                    (Span { of: width, start: 5, length: 7 }, Span { of: height, start: 2, length: 6 });
                let part = resize(&picture, columns, rows, filter).unwrap();
                assert_eq!(
                    part,
                    image::imageops::crop_imm(&whole, 5, 2, 7, 6).to_image(),
                    "{filter:?} {width} {height}"
                );
            }
        }
    }
}
