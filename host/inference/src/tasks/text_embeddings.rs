//! Text embeddings: `{text, pooling?}` in, `{shape, data, pooling}` out; or, as for bge-m3, `{query, contexts}` in and
//! `{response: [{id, score}]}` out, where a score is the cosine of two vectors, and `{contexts}` in and
//! `{response, shape, pooling}` out.
//!
//! The schema's bounds are Cloudflare's, but for the number of texts: their schema says 100, a popular client sends up
//! to 3000 in one call and their service takes it, so 3000 is the bound here. Longer texts than the model reads are
//! cut, as upstream; that is the encoder's matter.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{kind, rerank};
use crate::backend::{Pooling, TextEmbeddings};
use crate::request::{RunOutput, RunRequest};
use crate::{AiError, Tenant};

/// The most texts of one call.
pub const MAX_TEXTS: usize = 3000;

/// Answers one request.
pub(crate) async fn run(model: Arc<dyn TextEmbeddings>, request: RunRequest) -> Result<RunOutput, AiError> {
    let RunRequest { tenant, mut inputs, .. } = request;
    let pooling = pooling(&inputs)?.unwrap_or_else(|| model.default_pooling());
    if let Some(contexts) = rerank::contexts(&mut inputs)? {
        if inputs.get("text").is_some_and(|text| !text.is_null()) {
            return Err(AiError::bad_input("oneOf at '/' not met, 2 matches: 'text' and 'contexts'"));
        }
        let query = rerank::query(&mut inputs)?;
        return run_contexts(&*model, tenant, query, contexts, pooling).await;
    }
    if inputs.get("query").is_some_and(|query| !query.is_null()) {
        return Err(AiError::bad_input("required properties at '/' are 'contexts'"));
    }
    let texts = texts(inputs.remove("text"))?;
    if texts.is_empty() {
        return Ok(RunOutput::Json(json!({ "shape": [0, model.dimensions()], "data": [], "pooling": pooling })));
    }
    let embeddings = model.embed(tenant, texts, pooling).await?;
    let shape = [embeddings.vectors.len(), model.dimensions()];
    Ok(RunOutput::Json(json!({ "shape": shape, "data": embeddings.vectors, "pooling": pooling })))
}

/// How near contexts are to a query, or their vectors where there is none.
async fn run_contexts(
    model: &dyn TextEmbeddings,
    tenant: Tenant,
    query: Option<String>,
    contexts: Vec<String>,
    pooling: Pooling,
) -> Result<RunOutput, AiError> {
    let asked = query.is_some();
    let texts: Vec<String> = query.into_iter().chain(contexts).collect();
    let vectors = if texts.is_empty() { Vec::new() } else { model.embed(tenant, texts, pooling).await?.vectors };
    if !asked {
        let shape = [vectors.len(), model.dimensions()];
        return Ok(RunOutput::Json(json!({ "response": vectors, "shape": shape, "pooling": pooling })));
    }
    let (query, contexts) = vectors.split_first().ok_or_else(|| AiError::internal("no vector for the query"))?;
    // Vectors have length 1.
    let cosine = |vector: &Vec<f32>| query.iter().zip(vector).map(|(one, other)| one * other).sum();
    let scores: Vec<f32> = contexts.iter().map(cosine).collect();
    Ok(RunOutput::Json(rerank::ranking(&scores, None)))
}

pub(super) fn texts(value: Option<Value>) -> Result<Vec<String>, AiError> {
    match value {
        None | Some(Value::Null) => Err(AiError::bad_input("required properties at '/' are 'text'")),
        Some(Value::String(text)) if text.is_empty() => {
            Err(AiError::bad_input("oneOf at '/text' not met: Length of '/text' must be >= 1 not 0"))
        }
        Some(Value::String(text)) => Ok(vec![text]),
        Some(Value::Array(items)) => {
            if items.len() > MAX_TEXTS {
                return Err(AiError::bad_input(format_args!(
                    "Length of '/text' must be <= {MAX_TEXTS} not {}",
                    items.len()
                )));
            }
            items.into_iter().enumerate().map(|(index, item)| text(index, item)).collect()
        }
        Some(other) => {
            Err(AiError::bad_input(format_args!("Type of '/text' must be one of string, array not {}", kind(&other))))
        }
    }
}

fn text(index: usize, item: Value) -> Result<String, AiError> {
    match item {
        Value::String(text) if text.is_empty() => {
            Err(AiError::bad_input(format_args!("Length of '/text/{index}' must be >= 1 not 0")))
        }
        Value::String(text) => Ok(text),
        other => Err(AiError::bad_input(format_args!("Type of '/text/{index}' must be string not {}", kind(&other)))),
    }
}

fn pooling(inputs: &Map<String, Value>) -> Result<Option<Pooling>, AiError> {
    match inputs.get("pooling") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(name)) if name == "mean" => Ok(Some(Pooling::Mean)),
        Some(Value::String(name)) if name == "cls" => Ok(Some(Pooling::Cls)),
        Some(_) => Err(AiError::bad_input("'/pooling' must be one of 'mean', 'cls'")),
    }
}
