//! `response_format`: what a request says its answer must look like.
//!
//! Upstream's `json_object` and `json_schema` are taken, the schema bare or in OpenAI's envelope
//! `{name, schema, strict}`; `regex` and `grammar` are this host's own. Whatever is asked for is asked of the model token
//! by token, with and without `stream`.

use serde_json::{Value, json};

use crate::AiError;
use crate::backend::AnswerFormat;

/// What `response_format` asks for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wanted {
    /// What the model is held to; none for any text.
    pub(super) format: Option<AnswerFormat>,
    /// Whether the answer is given as the JSON that it is.
    pub(super) json: bool,
}

/// Reads `response_format`.
pub(super) fn read(value: Option<&Value>) -> Result<Wanted, AiError> {
    let text = Wanted { format: None, json: false };
    let Some(value) = value else { return Ok(text) };
    let Value::Object(map) = value else { return Err(invalid("", "must be an object")) };
    let string = |key: &str| match map.get(key) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
        _ => Err(invalid(&format!("/{key}"), "must be a string that is not empty")),
    };
    let json = |schema| Wanted { format: Some(AnswerFormat::Json(schema)), json: true };
    match map.get("type").and_then(Value::as_str) {
        Some("text") => Ok(text),
        Some("json_object") => Ok(json(json!({ "type": "object" }))),
        Some("json_schema") => match map.get("json_schema").map(schema) {
            Some(schema @ (Value::Object(_) | Value::Bool(_))) => Ok(json(schema.clone())),
            Some(_) => Err(invalid("/json_schema", "must be a JSON schema, or {name, schema} with one")),
            None => Err(invalid("/json_schema", "is missing")),
        },
        Some("regex") => Ok(Wanted { format: Some(AnswerFormat::Regex(string("regex")?)), json: false }),
        Some("grammar") => Ok(Wanted { format: Some(AnswerFormat::Lark(string("grammar")?)), json: false }),
        _ => Err(invalid("/type", "must be one of 'text', 'json_object', 'json_schema', 'regex' and 'grammar'")),
    }
}

/// The schema, taken out of OpenAI's envelope if it is in one.
fn schema(value: &Value) -> &Value {
    match value.get("schema") {
        Some(schema) if value.get("properties").is_none() && value.get("type").is_none() => schema,
        _ => value,
    }
}

fn invalid(path: &str, fault: &str) -> AiError {
    AiError::bad_input(format!("value at '/response_format{path}' {fault}"))
}

/// The JSON that a finished answer is.
///
/// # Errors
/// 5024 when the answer was cut off before it was whole.
pub(super) fn parse(answer: &str, cut: bool) -> Result<Value, AiError> {
    serde_json::from_str(answer).map_err(|_| {
        AiError::json_mode_failed(if cut {
            "the answer was cut off at 'max_tokens'; ask for more"
        } else {
            "the model's answer is not JSON"
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_envelopes_hold_the_same_schema() {
        let schema = json!({ "type": "object", "properties": { "a": { "type": "string" } } });
        let bare = read(Some(&json!({ "type": "json_schema", "json_schema": schema }))).unwrap();
        let envelope = json!({ "name": "x", "strict": true, "schema": schema });
        assert_eq!(read(Some(&json!({ "type": "json_schema", "json_schema": envelope }))).unwrap(), bare);
        assert_eq!(bare, Wanted { format: Some(AnswerFormat::Json(schema)), json: true });
    }

    #[test]
    fn a_property_of_the_name_schema_is_no_envelope() {
        let schema = json!({ "type": "object", "properties": { "schema": { "type": "string" } }, "schema": {} });
        let wanted = read(Some(&json!({ "type": "json_schema", "json_schema": schema }))).unwrap();
        assert_eq!(wanted.format, Some(AnswerFormat::Json(schema)));
    }

    #[test]
    fn what_is_no_format_is_named() {
        for (value, part) in [
            (json!("json"), "'/response_format' must be an object"),
            (json!({ "type": "xml" }), "'/response_format/type'"),
            (json!({ "type": "json_schema" }), "'/response_format/json_schema' is missing"),
            (json!({ "type": "json_schema", "json_schema": 3 }), "'/response_format/json_schema' must be"),
            (json!({ "type": "regex" }), "'/response_format/regex'"),
        ] {
            let error = read(Some(&value)).unwrap_err();
            assert!(error.message.contains(part), "{} lacks {part}", error.message);
        }
    }

    #[test]
    fn a_cut_answer_says_what_to_do() {
        assert_eq!(parse("{\"a\": 1}", false).unwrap(), json!({ "a": 1 }));
        let error = parse("{\"a\": 1", true).unwrap_err();
        assert!(error.code == 5024 && error.message.contains("max_tokens"), "{error}");
    }
}
