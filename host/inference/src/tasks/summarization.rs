//! Summarization: `{input_text, max_length?}` in, `{summary}` out.
//!
//! `max_length` counts tokens of the summary. It is an upper bound: a model that was made for shorter summaries gives
//! those. A text longer than the model reads is cut, as upstream; that is the model's matter.

use serde_json::{Map, Value, json};

use super::kind;
use super::text_generation::deadline;
use super::translation::string;
use crate::AiError;
use crate::backend::{Summarization, SummaryRequest};
use crate::request::{RunOutput, RunRequest};

/// The bound where a request gives none.
const DEFAULT_LENGTH: usize = 1024;
/// Larger numbers mean the same: models bound their answers themselves.
const MOST: usize = 1 << 20;

/// Answers one request.
pub(crate) async fn run(model: &dyn Summarization, request: RunRequest) -> Result<RunOutput, AiError> {
    let RunRequest { tenant, inputs, options, .. } = request;
    let Some(text) = string(&inputs, "input_text")? else {
        return Err(AiError::bad_input("required properties at '/' are 'input_text'"));
    };
    if text.is_empty() {
        return Err(AiError::bad_input("Length of '/input_text' must be >= 1 not 0"));
    }
    let max_length = max_length(&inputs)?;
    let request = SummaryRequest { tenant, text, max_length, deadline: deadline(&options)? };
    let summary = model.summarize(request).await?;
    Ok(RunOutput::Json(json!({ "summary": summary })))
}

fn max_length(inputs: &Map<String, Value>) -> Result<usize, AiError> {
    let value = match inputs.get("max_length") {
        None | Some(Value::Null) => return Ok(DEFAULT_LENGTH),
        Some(value @ Value::Number(_)) => value,
        Some(other) => {
            return Err(AiError::bad_input(format_args!("Type of '/max_length' must be integer not {}", kind(other))));
        }
    };
    // JSON does not tell 100 from 100.0.
    let whole = value.as_f64().filter(|number| number.fract() == 0.0);
    match whole {
        None => Err(AiError::bad_input("Type of '/max_length' must be integer not number")),
        Some(number) if number < 1.0 => Err(AiError::bad_input(format_args!("'/max_length' must be >= 1 not {value}"))),
        Some(number) => Ok((number as usize).min(MOST)),
    }
}
