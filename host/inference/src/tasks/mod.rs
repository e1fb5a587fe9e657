//! The JSON of each task: what a request's inputs must look like and what its answer looks like.
//!
//! A task checks and translates; it computes nothing. Schemas are Cloudflare's, and so are the errors that name the
//! property that breaks them (5006).

mod answer_format;
mod classification;
mod images;
pub(crate) mod media;
pub(crate) mod prompted;
mod rerank;
pub mod speech_recognition;
pub mod summarization;
pub mod text_embeddings;
pub mod text_generation;
pub mod text_to_image;
pub mod text_to_speech;
pub(crate) mod tools;
pub mod translation;

use crate::AiError;
use crate::backend::Model;
use crate::request::{RunOutput, RunRequest};

/// Answers a request with the task that the model does.
pub(crate) async fn run(model: Model, request: RunRequest) -> Result<RunOutput, AiError> {
    match model {
        Model::TextGeneration(model) => text_generation::run(&model, &request).await,
        Model::TextEmbeddings(_) | Model::Translation(_) | Model::Summarization(_)
            if request.inputs.get("lora").is_some_and(|name| !name.is_null()) =>
        {
            Err(AiError::no_adapters(&request.model))
        }
        Model::TextEmbeddings(model) => text_embeddings::run(model, request).await,
        Model::Rerank(model) => rerank::run(model, request).await,
        Model::TextClassification(model) => classification::run_text(model, request).await,
        Model::TokenClassification(model) => classification::run_tokens(model, request).await,
        Model::ImageClassification(model) => images::classify(model, request).await,
        Model::ObjectDetection(model) => images::detect(model, request).await,
        Model::ImageToText(model) => images::describe(model, request).await,
        Model::ImageEmbeddings(model) => images::compare(model, request).await,
        Model::SpeechRecognition(model) => speech_recognition::run(model, request).await,
        Model::TextToSpeech(model) => text_to_speech::run(model, request).await,
        Model::Translation(model) => translation::run(&*model, request).await,
        Model::Summarization(model) => summarization::run(&*model, request).await,
        Model::TextToImage(model) => text_to_image::run(model, request).await,
    }
}

/// What JSON calls the kind of `value`.
fn kind(value: &serde_json::Value) -> &'static str {
    use serde_json::Value;
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
