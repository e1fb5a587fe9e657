//! Reranking: `{query, contexts: [{text}], top_k?}` in, `{response: [{id, score}]}` out, the best first.
//!
//! An `id` is a context's index. Cloudflare names no bound for the number of contexts; it is that of texts to embed.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::kind;
use super::text_embeddings::MAX_TEXTS;
use crate::AiError;
use crate::backend::Rerank;
use crate::request::{RunOutput, RunRequest};

/// Answers one request.
pub(crate) async fn run(model: Arc<dyn Rerank>, request: RunRequest) -> Result<RunOutput, AiError> {
    let RunRequest { tenant, mut inputs, .. } = request;
    let missing: Vec<_> =
        ["query", "contexts"].into_iter().filter(|name| inputs.get(*name).is_none_or(Value::is_null)).collect();
    if !missing.is_empty() {
        let missing = missing.join("', '");
        return Err(AiError::bad_input(format_args!("required properties at '/' are '{missing}'")));
    }
    let query = query(&mut inputs)?.unwrap_or_default();
    let most = top_k(&inputs)?;
    let contexts = contexts(&mut inputs)?.unwrap_or_default();
    let scores = model.rerank(tenant, query, contexts).await?;
    Ok(RunOutput::Json(ranking(&scores, most)))
}

/// The best `most` scores with their indices, best first; equal ones keep their order.
pub(super) fn ranking(scores: &[f32], most: Option<usize>) -> Value {
    let mut order: Vec<(usize, f32)> = scores.iter().copied().enumerate().collect();
    order.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    order.truncate(most.unwrap_or(usize::MAX));
    let response: Vec<Value> = order.into_iter().map(|(id, score)| json!({ "id": id, "score": score })).collect();
    json!({ "response": response })
}

/// The query, where there is one.
pub(super) fn query(inputs: &mut Map<String, Value>) -> Result<Option<String>, AiError> {
    match inputs.remove("query") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => {
            Err(AiError::bad_input("Length of '/query' must be >= 1 not 0"))
        }
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(AiError::bad_input(format_args!("Type of '/query' must be string not {}", kind(&other)))),
    }
}

/// The contexts' texts, where there are contexts.
pub(super) fn contexts(inputs: &mut Map<String, Value>) -> Result<Option<Vec<String>>, AiError> {
    let contexts = match inputs.remove("contexts") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(contexts)) => contexts,
        Some(other) => {
            let kind = kind(&other);
            return Err(AiError::bad_input(format_args!("Type of '/contexts' must be array not {kind}")));
        }
    };
    if contexts.len() > MAX_TEXTS {
        let count = contexts.len();
        return Err(AiError::bad_input(format_args!("Length of '/contexts' must be <= {MAX_TEXTS} not {count}")));
    }
    contexts.into_iter().enumerate().map(|(index, context)| text(index, context)).collect::<Result<_, _>>().map(Some)
}

fn text(index: usize, context: Value) -> Result<String, AiError> {
    let Value::Object(mut context) = context else {
        let kind = kind(&context);
        return Err(AiError::bad_input(format_args!("Type of '/contexts/{index}' must be object not {kind}")));
    };
    match context.remove("text") {
        Some(Value::String(text)) if text.is_empty() => {
            Err(AiError::bad_input(format_args!("Length of '/contexts/{index}/text' must be >= 1 not 0")))
        }
        Some(Value::String(text)) => Ok(text),
        None | Some(Value::Null) => {
            Err(AiError::bad_input(format_args!("required properties at '/contexts/{index}' are 'text'")))
        }
        Some(other) => Err(AiError::bad_input(format_args!(
            "Type of '/contexts/{index}/text' must be string not {}",
            kind(&other)
        ))),
    }
}

fn top_k(inputs: &Map<String, Value>) -> Result<Option<usize>, AiError> {
    match inputs.get("top_k") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64() {
            Some(0) => Err(AiError::bad_input("'/top_k' must be >= 1")),
            Some(most) => Ok(Some(usize::try_from(most).unwrap_or(usize::MAX))),
            None => Err(AiError::bad_input("Type of '/top_k' must be an integer of at least 1")),
        },
    }
}
