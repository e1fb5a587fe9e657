//! Tools for templates that know of none.
//!
//! A chat template of a model that was trained on calls takes the tools itself. For any other, they are told of in the
//! system's turn, in the words of the Hermes models, whose way of writing calls the answer's grammar then holds the model
//! to; calls and results of earlier turns become text in the same way.

use serde_json::{Map, Value, json};

use crate::backend::{Message, Tool};

/// The tools as chat templates expect them.
pub(super) fn definitions(tools: &[Tool]) -> Vec<Value> {
    let function = |tool: &Tool| json!({ "name": tool.name, "description": tool.description.clone().unwrap_or_default(), "parameters": tool.parameters });
    tools.iter().map(|tool| json!({ "type": "function", "function": function(tool) })).collect()
}

/// The calls of earlier turns as chat templates expect them: in OpenAI's envelope, with arguments that are no text.
pub(super) fn normalize(messages: Vec<Message>) -> Vec<Message> {
    let normalized = |mut message: Message| {
        if let Some(Value::Array(calls)) = message.extra.get_mut("tool_calls") {
            for call in calls {
                *call = json!({ "type": "function", "function": function(call) });
            }
        }
        message
    };
    messages.into_iter().map(normalized).collect()
}

fn function(call: &Value) -> Value {
    let function = call.get("function").unwrap_or(call);
    let arguments = match function.get("arguments") {
        Some(Value::String(text)) => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone())),
        Some(arguments) => arguments.clone(),
        None => Value::Object(Map::new()),
    };
    json!({ "name": function.get("name").cloned().unwrap_or_default(), "arguments": arguments })
}

/// The conversation for a template that knows no tools.
pub(super) fn spelled_out(messages: Vec<Message>, tools: &[Tool]) -> Vec<Message> {
    let mut messages: Vec<Message> = messages.into_iter().map(as_text).collect();
    if tools.is_empty() {
        return messages;
    }
    let definitions: Vec<String> = definitions(tools).iter().map(Value::to_string).collect();
    let told = format!(
        "You may call functions. Their signatures are within <tools></tools>:\n<tools>\n{}\n</tools>\n\
         For each call, write a JSON object with the function's name and arguments within <tool_call></tool_call>:\n\
         <tool_call>\n{{\"name\": <name>, \"arguments\": <arguments>}}\n</tool_call>",
        definitions.join("\n")
    );
    match messages.first_mut().filter(|message| message.role == "system") {
        Some(system) => system.content = format!("{}\n\n{told}", system.content),
        None => messages.insert(0, Message { role: "system".into(), content: told, extra: Map::new() }),
    }
    messages
}

fn as_text(mut message: Message) -> Message {
    if let Some(Value::Array(calls)) = message.extra.remove("tool_calls") {
        for call in &calls {
            let separator = if message.content.is_empty() { "" } else { "\n" };
            let call = call.get("function").unwrap_or(call);
            message.content.push_str(&format!("{separator}<tool_call>\n{call}\n</tool_call>"));
        }
    }
    if message.role == "tool" {
        message.role = "user".to_owned();
        message.content = format!("<tool_response>\n{}\n</tool_response>", message.content);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(role: &str, content: &str, extra: Value) -> Message {
        let Value::Object(extra) = extra else { panic!("an object") };
        Message { role: role.into(), content: content.into(), extra }
    }

    #[test]
    fn calls_of_both_shapes_become_one() {
        let calls = json!({ "tool_calls": [
            { "name": "a", "arguments": { "x": 1 } },
            { "id": "1", "type": "function", "function": { "name": "a", "arguments": "{\"x\": 1}" } },
        ] });
        let normal = normalize(vec![message("assistant", "", calls)]);
        let call = json!({ "type": "function", "function": { "name": "a", "arguments": { "x": 1 } } });
        assert_eq!(normal[0].extra["tool_calls"], json!([call, call]));
    }

    #[test]
    fn a_conversation_with_tools_is_told_in_text() {
        let tools = [Tool { name: "time".into(), description: Some("Tells it".into()), parameters: json!({}) }];
        let conversation = normalize(vec![
            message("user", "what time is it?", json!({})),
            message("assistant", "", json!({ "tool_calls": [{ "name": "time", "arguments": {} }] })),
            message("tool", "noon", json!({ "name": "time" })),
        ]);
        let told = spelled_out(conversation, &tools);
        let roles: Vec<&str> = told.iter().map(|message| &*message.role).collect();
        assert_eq!(roles, ["system", "user", "assistant", "user"]);
        assert!(told[0].content.contains("\"name\":\"time\"") && told[0].content.contains("Tells it"));
        assert!(told[2].content.starts_with("<tool_call>\n{\"name\":\"time\""), "{}", told[2].content);
        assert_eq!(told[3].content, "<tool_response>\nnoon\n</tool_response>");
    }
}
