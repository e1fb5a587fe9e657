//! Conversations, tools and parameters as OpenAI's interface has them.
//!
//! Programs written for Workers AI send calls and results of tools in more shapes than one: calls flat or in an envelope,
//! arguments as objects or as texts, results without the id of their call. Servers want one shape, in which each result
//! names the call that it answers, so ids are made where there are none.

use serde_json::{Map, Value, json};

use super::Schemas;
use crate::AiError;
use crate::backend::{AnswerFormat, GenerateRequest, Message, Prompt, Tool, ToolChoice};
use crate::text::normalize_calls;

/// The path and the body of a generation.
pub(super) fn body(request: &GenerateRequest, model: &str, schemas: Schemas) -> Result<(&'static str, Value), AiError> {
    let mut body = Map::new();
    body.insert("model".into(), model.into());
    let path = match &request.prompt {
        Prompt::Raw(text) => {
            body.insert("prompt".into(), text.as_str().into());
            "completions"
        }
        Prompt::Messages(messages) => {
            body.insert("messages".into(), conversation(messages.clone()));
            "chat/completions"
        }
    };
    body.insert("max_tokens".into(), request.max_tokens.into());
    sampling(request, &mut body);
    if !request.stop.is_empty() {
        body.insert("stop".into(), request.stop.clone().into());
    }
    if !request.tools.is_empty() {
        body.insert("tools".into(), request.tools.iter().map(definition).collect());
        body.insert("tool_choice".into(), choice(request));
    }
    if let Some(format) = &request.format {
        body.insert("response_format".into(), response_format(format, schemas)?);
    }
    body.insert("stream".into(), request.streamed.into());
    if request.streamed {
        body.insert("stream_options".into(), json!({ "include_usage": true }));
    }
    Ok((path, Value::Object(body)))
}

/// What a request does not set is left to the server, which knows what suits its model.
fn sampling(request: &GenerateRequest, body: &mut Map<String, Value>) {
    let sampling = &request.sampling;
    // The shortest decimal of a float32 is what the caller wrote.
    let number = |value: f32| serde_json::from_str::<Value>(&value.to_string()).unwrap_or_else(|_| value.into());
    let mut add = |name: &str, value: Option<Value>| body.extend(value.map(|value| (name.to_owned(), value)));
    add("temperature", request.temperature_is_chosen.then(|| number(sampling.temperature)));
    add("top_p", (sampling.top_p != 1.0).then(|| number(sampling.top_p)));
    add("top_k", (sampling.top_k != 0).then(|| sampling.top_k.into()));
    add("seed", sampling.seed.map(Value::from));
    add("repetition_penalty", (sampling.repetition_penalty != 1.0).then(|| number(sampling.repetition_penalty)));
    add("frequency_penalty", (sampling.frequency_penalty != 0.0).then(|| number(sampling.frequency_penalty)));
    add("presence_penalty", (sampling.presence_penalty != 0.0).then(|| number(sampling.presence_penalty)));
}

fn definition(tool: &Tool) -> Value {
    let mut function = json!({ "name": tool.name, "parameters": tool.parameters });
    if let Some(description) = &tool.description {
        function["description"] = description.as_str().into();
    }
    if tool.parameters.as_object().is_some_and(Map::is_empty) {
        function["parameters"] = json!({ "type": "object", "properties": {} });
    }
    json!({ "type": "function", "function": function })
}

fn choice(request: &GenerateRequest) -> Value {
    match (request.tool_choice, request.tools.first()) {
        (ToolChoice::Named, Some(tool)) => json!({ "type": "function", "function": { "name": tool.name } }),
        (ToolChoice::Required, _) => "required".into(),
        _ => "auto".into(),
    }
}

fn response_format(format: &AnswerFormat, schemas: Schemas) -> Result<Value, AiError> {
    match (format, schemas) {
        (AnswerFormat::Json(schema), _) if *schema == json!({ "type": "object" }) => {
            Ok(json!({ "type": "json_object" }))
        }
        (AnswerFormat::Json(schema), Schemas::JsonSchema) => {
            Ok(json!({ "type": "json_schema", "json_schema": { "name": "answer", "schema": schema } }))
        }
        (AnswerFormat::Json(schema), Schemas::JsonObject) => Ok(json!({ "type": "json_object", "schema": schema })),
        (AnswerFormat::Regex(_) | AnswerFormat::Lark(_), _) => Err(AiError::bad_input(
            "value at '/response_format/type' is 'regex' or 'grammar', which a model on another server cannot be held to",
        )),
    }
}

fn conversation(messages: Vec<Message>) -> Value {
    normalize_calls(messages).into_iter().map(turn).collect()
}

fn turn(message: Message) -> Value {
    let Message { role, content, mut extra } = message;
    let mut turn = Map::new();
    let calls = match extra.remove("tool_calls") {
        Some(Value::Array(calls)) if !calls.is_empty() => Some(calls.into_iter().map(call).collect::<Vec<_>>()),
        _ => None,
    };
    let silent = calls.is_some() && content.is_empty();
    turn.insert("role".into(), role.into());
    turn.insert("content".into(), if silent { Value::Null } else { content.into() });
    turn.extend(calls.map(|calls| ("tool_calls".to_owned(), Value::Array(calls))));
    for name in ["name", "tool_call_id"] {
        turn.extend(extra.remove(name).filter(Value::is_string).map(|value| (name.to_owned(), value)));
    }
    Value::Object(turn)
}

/// A call as servers want it back: its arguments are a text.
fn call(mut call: Value) -> Value {
    if let Some(arguments) = call.get_mut("function").and_then(|function| function.get_mut("arguments"))
        && !arguments.is_string()
    {
        *arguments = arguments.to_string().into();
    }
    call
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::testing_request;

    fn message(role: &str, content: &str, extra: Value) -> Message {
        let Value::Object(extra) = extra else { panic!("an object") };
        Message { role: role.into(), content: content.into(), extra }
    }

    #[test]
    fn calls_and_results_of_every_shape_become_one() {
        let flat = json!({ "tool_calls": [{ "name": "weather", "arguments": { "city": "Oslo" } }] });
        let spoken = r#"{"name": "weather", "arguments": {"city": "Oslo"}}"#;
        for (assistant, said, result) in [
            (flat, "", json!({ "name": "weather" })),
            (json!({}), spoken, json!({ "name": "weather" })),
            (
                json!({ "tool_calls": [{ "id": "x", "type": "function",
                    "function": { "name": "weather", "arguments": "{\"city\": \"Oslo\"}" } }] }),
                "",
                json!({ "tool_call_id": "x" }),
            ),
        ] {
            let messages = vec![
                message("user", "?", json!({})),
                message("assistant", said, assistant),
                message("tool", "rain", result),
            ];
            let turns = conversation(messages);
            let call = &turns[1]["tool_calls"][0];
            assert_eq!(turns[1]["content"], Value::Null);
            assert_eq!(call["function"]["name"], "weather");
            let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
            assert_eq!(arguments, json!({ "city": "Oslo" }));
            assert!(call["id"].is_string() && call["id"] == turns[2]["tool_call_id"], "{turns}");
        }
    }

    #[test]
    fn what_is_not_chosen_is_left_to_the_server() {
        let request = GenerateRequest { prompt: Prompt::Messages(Vec::new()), ..testing_request("x", 7) };
        let (path, plain) = body(&request, "m", Schemas::JsonSchema).unwrap();
        assert_eq!(path, "chat/completions");
        assert_eq!(plain, json!({ "model": "m", "messages": [], "max_tokens": 7, "stream": false }));
        let mut chosen = GenerateRequest { temperature_is_chosen: true, streamed: true, ..testing_request("x", 7) };
        (chosen.sampling.temperature, chosen.sampling.top_k, chosen.sampling.seed) = (0.3, 5, Some(4));
        let (path, chosen) = body(&chosen, "m", Schemas::JsonSchema).unwrap();
        assert_eq!(path, "completions");
        assert_eq!((&chosen["temperature"], &chosen["top_k"], &chosen["seed"]), (&json!(0.3), &json!(5), &json!(4)));
        assert_eq!(chosen["stream_options"], json!({ "include_usage": true }));
    }

    #[test]
    fn schemas_go_in_the_way_that_the_server_reads() {
        let schema = json!({ "type": "object", "properties": { "a": { "type": "string" } } });
        let format = AnswerFormat::Json(schema.clone());
        assert_eq!(response_format(&format, Schemas::JsonSchema).unwrap()["json_schema"]["schema"], schema);
        assert_eq!(response_format(&format, Schemas::JsonObject).unwrap()["schema"], schema);
        assert_eq!(response_format(&AnswerFormat::Regex("a".into()), Schemas::JsonSchema).unwrap_err().code, 5006);
    }
}
