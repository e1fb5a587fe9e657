//! The stand-in for every model that looks at pictures.
//!
//! It decodes the picture, so that broken ones fail as they do with a real model, and then follows the script: its labels
//! halve in probability from one to the next, a described picture is `{width}x{height}` in the reply, and the first label's
//! object fills the whole picture. Vectors are those of [`super::MockEmbeddings`], made from the pixels.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use futures::FutureExt;
use futures::future::BoxFuture;
use image::RgbImage;
use serde_json::Value;

use super::{Live, Script, ScriptError, unit_vector};
use crate::backend::{
    BoundingBox, Caption, DetectedObject, FinishReason, GenerateStream, ImageClassification, ImageEmbeddings,
    ImageLabel, ImageRequest, ImageToText, ObjectDetection, Usage,
};
use crate::{AiError, Tenant, pictures};

/// Looks at pictures by a script.
#[derive(Debug, Clone)]
pub struct MockImages {
    script: Arc<Script>,
    live: Arc<AtomicUsize>,
}

impl MockImages {
    /// A model that follows `script`.
    ///
    /// # Errors
    /// When the script has unknown keys or values of the wrong kind.
    pub fn new(script: &Value) -> Result<Self, ScriptError> {
        Ok(Self { script: Arc::new(Script::read(script)?), live: Arc::default() })
    }

    async fn picture(&self, request: &ImageRequest) -> Result<RgbImage, AiError> {
        self.begin().await?;
        let image = request.image.clone();
        let decoded = tokio::task::spawn_blocking(move || pictures::decode(&image, "image")).await;
        decoded.unwrap_or_else(|_| Err(AiError::internal("the picture's decoding failed unexpectedly")))
    }

    async fn begin(&self) -> Result<(), AiError> {
        self.script.pause().await;
        self.script.fail.as_ref().map_or(Ok(()), |fail| Err(fail.error.clone()))
    }

    fn labelled(&self) -> Vec<ImageLabel> {
        let labels =
            if self.script.labels.is_empty() { vec!["picture".to_owned()] } else { self.script.labels.clone() };
        let scores = halves(labels.len());
        labels.into_iter().zip(scores).map(|(label, score)| ImageLabel { label, score }).collect()
    }
}

/// Probabilities that halve from one to the next and sum to 1.
fn halves(count: usize) -> Vec<f32> {
    let powers: Vec<f64> = (0..count).map(|at| 0.5f64.powi(at as i32)).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| (power / sum) as f32).collect()
}

impl ImageClassification for MockImages {
    fn classify(&self, request: ImageRequest) -> BoxFuture<'_, Result<Vec<ImageLabel>, AiError>> {
        async move { self.picture(&request).await.map(|_| self.labelled()) }.boxed()
    }
}

impl ObjectDetection for MockImages {
    fn detect(&self, request: ImageRequest) -> BoxFuture<'_, Result<Vec<DetectedObject>, AiError>> {
        async move {
            let picture = self.picture(&request).await?;
            let (xmax, ymax) = (picture.width() as f32, picture.height() as f32);
            let bounds = BoundingBox { xmin: 0.0, ymin: 0.0, xmax, ymax };
            let objects = self.labelled().into_iter();
            Ok(objects.map(|ImageLabel { label, score }| DetectedObject { label, score, bounds }).collect())
        }
        .boxed()
    }
}

impl ImageToText for MockImages {
    fn describe(&self, request: ImageRequest, caption: Caption) -> BoxFuture<'_, Result<GenerateStream, AiError>> {
        async move {
            let picture = self.picture(&request).await?;
            let reply = self.script.reply.replace("{width}", &picture.width().to_string());
            let reply = reply.replace("{height}", &picture.height().to_string());
            let reply = reply.replace("{prompt}", caption.prompt.as_deref().unwrap_or_default());
            let words = super::split_words(reply.trim());
            let finish = if words.len() > caption.max_tokens { FinishReason::Length } else { FinishReason::Stop };
            let words: VecDeque<String> = words.into_iter().take(caption.max_tokens).map(str::to_owned).collect();
            let prompt_tokens = super::split_words(caption.prompt.as_deref().unwrap_or_default()).len();
            let (completion_tokens, total_tokens) = (words.len(), prompt_tokens + words.len());
            let usage = Usage { prompt_tokens, completion_tokens, total_tokens };
            Ok(super::events(self.script.clone(), Live::new(&self.live), words, finish, usage))
        }
        .boxed()
    }
}

impl ImageEmbeddings for MockImages {
    fn embed_image(&self, request: ImageRequest) -> BoxFuture<'_, Result<Vec<f32>, AiError>> {
        async move {
            let picture = self.picture(&request).await?;
            let mut seen = format!("{}x{}:", picture.width(), picture.height());
            for byte in picture.as_raw().iter().take(4096) {
                // Writing to a string cannot fail.
                let _ = write!(seen, "{byte:02x}");
            }
            Ok(unit_vector(&seen, self.script.dimensions))
        }
        .boxed()
    }

    fn embed_texts(
        &self,
        _tenant: Tenant,
        texts: Vec<String>,
        _deadline: Option<Instant>,
    ) -> BoxFuture<'_, Result<Vec<Vec<f32>>, AiError>> {
        async move {
            self.begin().await?;
            Ok(texts.iter().map(|text| unit_vector(text, self.script.dimensions)).collect())
        }
        .boxed()
    }

    fn classify_by_texts(
        &self,
        request: ImageRequest,
        descriptions: Vec<String>,
    ) -> BoxFuture<'_, Result<Vec<f32>, AiError>> {
        async move { self.picture(&request).await.map(|_| halves(descriptions.len())) }.boxed()
    }

    fn dimensions(&self) -> usize {
        self.script.dimensions
    }
}
