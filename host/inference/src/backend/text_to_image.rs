//! Drawing pictures.

use std::time::Instant;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::{AiError, Tenant};

/// Draws pictures of what texts say.
pub trait TextToImage: Send + Sync + 'static {
    /// Draws one picture and gives it encoded. Dropping the future gives the drawing up. Must not block: it is called on
    /// an async worker.
    fn draw(&self, request: DrawRequest) -> BoxFuture<'_, Result<Bytes, AiError>>;

    /// The sizes that it draws.
    fn canvas(&self) -> Canvas;

    /// How programs written for this model expect its answer.
    fn answer(&self) -> PictureAnswer {
        PictureAnswer::Png
    }
}

/// The sizes of pictures, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Canvas {
    /// Height of what the model was trained on, and the height when none is asked for.
    pub height: usize,
    /// Width of what the model was trained on, and the width when none is asked for.
    pub width: usize,
    /// Heights and widths are multiples of this.
    pub unit: usize,
}

/// What an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PictureAnswer {
    /// The bytes of a PNG: Stable Diffusion.
    Png,
    /// JSON with a JPEG in base64: FLUX.
    Json,
}

/// The encodings that a picture may come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PictureFormat {
    /// Without loss.
    Png,
    /// With the usual loss.
    Jpeg,
}

/// A picture that came with a request, still encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentPicture {
    /// The property that it came in, for errors.
    pub property: &'static str,
    /// The bytes, of any common format.
    pub data: Bytes,
}

/// One drawing. What is absent is the model's to choose.
#[derive(Debug, Clone)]
pub struct DrawRequest {
    /// On whose behalf.
    pub tenant: Tenant,
    /// What it shows.
    pub prompt: String,
    /// What it does not.
    pub negative_prompt: Option<String>,
    /// In pixels, a multiple of the canvas' unit.
    pub height: Option<usize>,
    /// In pixels, a multiple of the canvas' unit.
    pub width: Option<usize>,
    /// What to start from.
    pub image: Option<SentPicture>,
    /// Which part of the image to draw anew: where this is light.
    pub mask: Option<SentPicture>,
    /// Steps of the sampler.
    pub steps: usize,
    /// How far from the image to begin, from 0 to 1.
    pub strength: f64,
    /// How much the prompt weighs.
    pub guidance: Option<f64>,
    /// The same seed and request give the same picture, whatever else runs beside; random when absent.
    pub seed: Option<u64>,
    /// How to encode it.
    pub format: PictureFormat,
    /// When the answer is of no use any more: it then fails with 3007, waiting or running.
    pub deadline: Option<Instant>,
}
