//! Pictures as they come and go: encoded bytes on one side, rows of RGB on the other.
//!
//! A picture is hostile: a few hundred bytes may claim to be a hundred thousand pixels wide. The size is read and bounded
//! before anything is decoded, and decoding itself runs under a bound of memory.

use std::io::Cursor;

use bytes::Bytes;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageDecoder, ImageEncoder, ImageReader, Limits, RgbImage};

use crate::AiError;

/// The most pixels along one side.
const MAX_SIDE: u32 = 8192;
/// The most bytes that decoding may take beside its result.
const MAX_DECODING: u64 = 512 << 20;
/// The most pixels in all: 40 megapixels, more than the sensors of common cameras.
const MAX_PIXELS: u64 = 40_000_000;

/// The picture that `bytes` encode (PNG, JPEG, WebP, GIF or BMP; of an animation the first), turned the right way up,
/// in RGB: transparent parts keep the colour that lies under them, as PIL's `convert("RGB")` has it.
///
/// # Errors
/// 5006 that names `property` when they encode none, or one that is too large.
pub(crate) fn decode(bytes: &Bytes, property: &str) -> Result<RgbImage, AiError> {
    let refuse = |why: String| refused(property, why);
    let mut decoder = open(bytes, property)?;
    let orientation = decoder.orientation().unwrap_or(image::metadata::Orientation::NoTransforms);
    let mut picture = image::DynamicImage::from_decoder(decoder).map_err(|error| refuse(error.to_string()))?;
    picture.apply_orientation(orientation);
    Ok(picture.into_rgb8())
}

/// What is known of a picture before it is decoded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    pub(crate) height: usize,
    pub(crate) width: usize,
    /// Bytes that [`decode`] holds at most: the picture as it is encoded, and in RGB. What a decoder keeps beside its
    /// result is not known.
    pub(crate) peak: u64,
}

/// What the picture in `bytes` is, as it lies there.
///
/// # Errors
/// As [`decode`], which may find more.
pub(crate) fn header(bytes: &Bytes, property: &str) -> Result<Header, AiError> {
    let decoder = open(bytes, property)?;
    let (width, height) = decoder.dimensions();
    let rgb = 3 * u64::from(width) * u64::from(height);
    Ok(Header { height: height as usize, width: width as usize, peak: decoder.total_bytes().saturating_add(rgb) })
}

/// A decoder of a picture whose size is not too large.
fn open<'a>(bytes: &'a Bytes, property: &str) -> Result<impl ImageDecoder + 'a, AiError> {
    let refuse = |why: String| refused(property, why);
    let reader = || ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| refuse(e.to_string()));
    if reader()?.format().is_none() {
        return Err(refuse("it is neither PNG, JPEG, WebP, GIF nor BMP".into()));
    }
    let (width, height) = reader()?.into_dimensions().map_err(|error| refuse(error.to_string()))?;
    if width.max(height) > MAX_SIDE || u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(AiError::bad_input(format_args!(
            "'/{property}' has {width} x {height} pixels; at most {MAX_PIXELS} in all and {MAX_SIDE} a side are taken"
        )));
    }
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_DECODING);
    let mut reader = reader()?;
    reader.limits(limits);
    reader.into_decoder().map_err(|error| refuse(error.to_string()))
}

fn refused(property: &str, why: String) -> AiError {
    AiError::bad_input(format_args!("'/{property}' is no picture that can be read: {why}"))
}

/// `picture` as PNG.
///
/// # Errors
/// 3043 when the encoder fails, which it has no reason to.
pub(crate) fn png(picture: &RgbImage) -> Result<Bytes, AiError> {
    let mut bytes = Vec::new();
    let encoder = PngEncoder::new(&mut bytes);
    encoder
        .write_image(picture, picture.width(), picture.height(), ExtendedColorType::Rgb8)
        .map_err(|error| AiError::internal(format_args!("the picture cannot be encoded: {error}")))?;
    Ok(bytes.into())
}

/// `picture` as JPEG of the usual quality.
///
/// # Errors
/// As [`png`].
pub(crate) fn jpeg(picture: &RgbImage) -> Result<Bytes, AiError> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 90)
        .write_image(picture, picture.width(), picture.height(), ExtendedColorType::Rgb8)
        .map_err(|error| AiError::internal(format_args!("the picture cannot be encoded: {error}")))?;
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_can_be_decoded() {
        let picture = RgbImage::from_fn(5, 3, |x, y| image::Rgb([x as u8 * 50, y as u8 * 80, 7]));
        assert_eq!(decode(&png(&picture).unwrap(), "image").unwrap(), picture);
        assert_eq!(decode(&jpeg(&picture).unwrap(), "image").unwrap().dimensions(), (5, 3));
    }

    #[test]
    fn what_is_no_picture_is_refused_by_name() {
        let whole = png(&RgbImage::new(64, 64)).unwrap();
        for bytes in [Bytes::new(), Bytes::from_static(b"RIFF"), whole.slice(..40), whole.slice(..whole.len() / 2)] {
            let error = decode(&bytes, "image").unwrap_err();
            assert!(error.code == 5006 && error.message.contains("'/image'"), "{error}");
        }
    }

    #[test]
    fn a_bomb_is_refused_by_its_header() {
        let mut bomb = png(&RgbImage::new(4, 4)).unwrap().to_vec();
        // Width and height of the header chunk, whose checksum follows.
        bomb[16..20].copy_from_slice(&100_000u32.to_be_bytes());
        bomb[20..24].copy_from_slice(&100_000u32.to_be_bytes());
        assert_eq!(decode(&bomb.into(), "image").unwrap_err().code, 5006);
    }
}
