//! What models that look at pictures offer.

use std::time::Instant;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::{GenerateStream, Sampling};
use crate::{AiError, Tenant};

/// A picture to look at.
#[derive(Debug, Clone)]
pub struct ImageRequest {
    /// On whose behalf.
    pub tenant: Tenant,
    /// The picture as it came, encoded: PNG, JPEG, WebP, GIF or BMP.
    pub image: Bytes,
    /// When the answer is of no use any more: it then fails with 3007, waiting or running.
    pub deadline: Option<Instant>,
}

/// Says what a picture shows.
pub trait ImageClassification: Send + Sync + 'static {
    /// Every label with its probability, best first.
    fn classify(&self, request: ImageRequest) -> BoxFuture<'_, Result<Vec<ImageLabel>, AiError>>;
}

/// A label of a picture.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageLabel {
    /// Its name.
    pub label: String,
    /// Its probability.
    pub score: f32,
}

/// Finds objects in a picture.
pub trait ObjectDetection: Send + Sync + 'static {
    /// Everything found, however unsure, in the model's order.
    fn detect(&self, request: ImageRequest) -> BoxFuture<'_, Result<Vec<DetectedObject>, AiError>>;
}

/// An object in a picture.
#[derive(Debug, Clone, PartialEq)]
pub struct DetectedObject {
    /// What it is.
    pub label: String,
    /// The probability of that.
    pub score: f32,
    /// Where it is.
    pub bounds: BoundingBox,
}

/// A part of a picture, in its pixels from the upper left corner. Sides may lie a little beyond the picture's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoundingBox {
    /// The left side.
    pub xmin: f32,
    /// The upper side.
    pub ymin: f32,
    /// The right side.
    pub xmax: f32,
    /// The lower side.
    pub ymax: f32,
}

/// Says in words what a picture shows.
pub trait ImageToText: Send + Sync + 'static {
    /// The words as they are found, with no blank before or behind them. What fails before the first of them is an `Err`,
    /// what fails later [`super::GenerateEvent::Failed`]. Dropping the future or the stream ends the work.
    fn describe(&self, request: ImageRequest, caption: Caption) -> BoxFuture<'_, Result<GenerateStream, AiError>>;
}

/// How to describe a picture.
#[derive(Debug, Clone)]
pub struct Caption {
    /// What to answer or, for models that only caption, how the caption begins.
    pub prompt: Option<String>,
    /// Whether the prompt is taken as it is, with no template around it.
    pub raw: bool,
    /// Upper bound on generated tokens.
    pub max_tokens: usize,
    /// How to pick tokens.
    pub sampling: Sampling,
    /// Whether the words are read as they come. Otherwise all may come at once.
    pub streamed: bool,
}

/// Gives pictures and texts vectors of one space, each of [`Self::dimensions`] values and length 1.
pub trait ImageEmbeddings: Send + Sync + 'static {
    /// The picture's vector.
    fn embed_image(&self, request: ImageRequest) -> BoxFuture<'_, Result<Vec<f32>, AiError>>;

    /// The vectors of texts, in order.
    fn embed_texts(
        &self,
        tenant: Tenant,
        texts: Vec<String>,
        deadline: Option<Instant>,
    ) -> BoxFuture<'_, Result<Vec<Vec<f32>>, AiError>>;

    /// How well each of `descriptions` fits the picture, in order, each from 0 to 1.
    fn classify_by_texts(
        &self,
        request: ImageRequest,
        descriptions: Vec<String>,
    ) -> BoxFuture<'_, Result<Vec<f32>, AiError>>;

    /// The length of a vector.
    fn dimensions(&self) -> usize;
}
