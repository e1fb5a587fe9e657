//! Translation: `{text, source_lang?, target_lang}` in, `{translated_text}` out.
//!
//! Languages are codes or English names, as the model knows them: an unknown one is refused by the model, which lists some
//! that it has. Where no source language is given it is English, as upstream, or the one that the model reads.

use serde_json::{Map, Value, json};

use super::kind;
use super::text_generation::deadline;
use crate::AiError;
use crate::backend::{Translation, TranslationRequest};
use crate::request::{RunOutput, RunRequest};

/// Answers one request.
pub(crate) async fn run(model: &dyn Translation, request: RunRequest) -> Result<RunOutput, AiError> {
    let RunRequest { tenant, inputs, options, .. } = request;
    for required in ["text", "target_lang"] {
        if inputs.get(required).is_none_or(Value::is_null) {
            return Err(AiError::bad_input("required properties at '/' are 'text', 'target_lang'"));
        }
    }
    let text = string(&inputs, "text")?.unwrap_or_default();
    if text.is_empty() {
        return Err(AiError::bad_input("Length of '/text' must be >= 1 not 0"));
    }
    let target = string(&inputs, "target_lang")?.unwrap_or_default();
    let source = string(&inputs, "source_lang")?;
    let request = TranslationRequest { tenant, text, source, target, deadline: deadline(&options)? };
    let translated = model.translate(request).await?;
    Ok(RunOutput::Json(json!({ "translated_text": translated })))
}

/// A string property; null is none.
pub(super) fn string(inputs: &Map<String, Value>, name: &str) -> Result<Option<String>, AiError> {
    match inputs.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(AiError::bad_input(format_args!("Type of '/{name}' must be string not {}", kind(other)))),
    }
}
