//! Text classification, `{text}` in and `[{label, score}]` out, and token classification, `{text}` in and
//! `[{entity_group, score, word, start, end}]` out.
//!
//! The first is Cloudflare's: all labels of the model, in its own order. The second is a task of this host, with the
//! answer of transformers' pipeline; `start` and `end` count characters (Unicode code points).

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::kind;
use crate::AiError;
use crate::backend::{TextClassification, TokenClassification};
use crate::request::{RunOutput, RunRequest};

/// Answers one request for the labels of a text.
pub(crate) async fn run_text(model: Arc<dyn TextClassification>, request: RunRequest) -> Result<RunOutput, AiError> {
    let RunRequest { tenant, mut inputs, .. } = request;
    let labels = model.classify(tenant, vec![text(&mut inputs)?]).await?.pop().unwrap_or_default();
    Ok(RunOutput::Json(json!(labels)))
}

/// Answers one request for what the words of a text are.
pub(crate) async fn run_tokens(model: Arc<dyn TokenClassification>, request: RunRequest) -> Result<RunOutput, AiError> {
    let RunRequest { tenant, mut inputs, .. } = request;
    let entities = model.entities(tenant, vec![text(&mut inputs)?]).await?.pop().unwrap_or_default();
    let answer = entities.into_iter().map(|entity| {
        json!({
            "entity_group": entity.label, "score": entity.score, "word": entity.word,
            "start": entity.start, "end": entity.end
        })
    });
    Ok(RunOutput::Json(answer.collect()))
}

fn text(inputs: &mut Map<String, Value>) -> Result<String, AiError> {
    match inputs.remove("text") {
        None | Some(Value::Null) => Err(AiError::bad_input("required properties at '/' are 'text'")),
        Some(Value::String(text)) if text.is_empty() => Err(AiError::bad_input("Length of '/text' must be >= 1 not 0")),
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(AiError::bad_input(format_args!("Type of '/text' must be string not {}", kind(&other)))),
    }
}
