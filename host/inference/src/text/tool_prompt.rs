//! Tools for templates that know of none.
//!
//! A chat template of a model that was trained on calls takes the tools itself. For any other, they are told of in the
//! system's turn, in the words of the Hermes models, whose way of writing calls the answer's grammar then holds the model
//! to; calls and results of earlier turns become text in the same way.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use crate::backend::{CallStyle, Message, Tool};

/// The tools as chat templates expect them.
pub(super) fn definitions(tools: &[Tool]) -> Vec<Value> {
    let function = |tool: &Tool| json!({ "name": tool.name, "description": tool.description.clone().unwrap_or_default(), "parameters": tool.parameters });
    tools.iter().map(|tool| json!({ "type": "function", "function": function(tool) })).collect()
}

/// The calls and results of earlier turns as chat templates expect them: calls in OpenAI's envelope with arguments that are
/// no text, each result with the name and, where its call has one, the id of the call that it answers.
///
/// A caller may also send a call back as it came, as the text of the assistant's turn; in front of a result, that is read as
/// the call that it is.
pub(super) fn normalize(mut messages: Vec<Message>, style: CallStyle) -> Vec<Message> {
    let mut ids = Ids { short: style == CallStyle::Mistral, given: HashMap::new(), count: 0 };
    // Calls without a result so far: the id that was sent, the one that the template sees, the name.
    let mut open: Vec<(Option<String>, Option<String>, Value)> = Vec::new();
    for at in 0..messages.len() {
        let before_result = messages.get(at + 1).is_some_and(|next| next.role == "tool");
        let message = &mut messages[at];
        if message.role == "tool" {
            let sent = message.extra.get("tool_call_id").and_then(Value::as_str).map(str::to_owned);
            let name = message.extra.get("name").filter(|name| name.is_string()).cloned();
            let answers = |(id, _, called): &(Option<String>, Option<String>, Value)| match (&sent, &name) {
                (Some(sent), _) => id.as_ref() == Some(sent),
                (None, Some(name)) => called == name,
                (None, None) => true,
            };
            let (shown, name) = match open.iter().position(answers) {
                Some(call) => {
                    let (_, shown, called) = open.remove(call);
                    (shown, name.or(Some(called)))
                }
                None => (ids.shown(sent.as_deref()), name),
            };
            message.extra.extend(shown.map(|id| ("tool_call_id".to_owned(), Value::String(id))));
            message.extra.extend(name.map(|name| ("name".to_owned(), name)));
            continue;
        }
        if before_result
            && message.role == "assistant"
            && !message.extra.contains_key("tool_calls")
            && let Some(calls) = spoken(&message.content)
        {
            message.extra.insert("tool_calls".to_owned(), Value::Array(calls));
            message.content.clear();
        }
        if let Some(Value::Array(calls)) = message.extra.get_mut("tool_calls") {
            for call in calls {
                let sent = call.get("id").and_then(Value::as_str).map(str::to_owned);
                let (shown, function) = (ids.shown(sent.as_deref()), function(call));
                open.push((sent, shown.clone(), function["name"].clone()));
                *call = json!({ "type": "function", "function": function });
                if let Some(id) = shown {
                    call["id"] = id.into();
                }
            }
        }
    }
    messages
}

/// As [`normalize`], and every call has an id that its result names.
pub(crate) fn normalize_calls(messages: Vec<Message>) -> Vec<Message> {
    normalize(messages, CallStyle::Mistral)
}

/// The ids that a template sees.
struct Ids {
    /// They must have nine letters and digits, and every call has one.
    short: bool,
    given: HashMap<String, String>,
    count: usize,
}

impl Ids {
    fn shown(&mut self, sent: Option<&str>) -> Option<String> {
        let fits = |id: &str| id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        match sent {
            _ if !self.short => sent.map(str::to_owned),
            Some(id) if fits(id) => Some(id.to_owned()),
            Some(id) => match self.given.get(id) {
                Some(known) => Some(known.clone()),
                None => {
                    let new = self.next();
                    self.given.insert(id.to_owned(), new.clone());
                    Some(new)
                }
            },
            None => Some(self.next()),
        }
    }

    fn next(&mut self) -> String {
        self.count += 1;
        format!("call{:05}", self.count)
    }
}

/// The calls that a text is, if it is nothing else.
fn spoken(text: &str) -> Option<Vec<Value>> {
    let is_call = |value: &Value| function(value)["name"].is_string();
    match serde_json::from_str(text).ok()? {
        Value::Array(calls) if !calls.is_empty() && calls.iter().all(is_call) => Some(calls),
        call @ Value::Object(_) if is_call(&call) => Some(vec![call]),
        _ => None,
    }
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
        let normal = normalize(vec![message("assistant", "", calls)], CallStyle::Hermes);
        let call = json!({ "type": "function", "function": { "name": "a", "arguments": { "x": 1 } } });
        let mut with_id = call.clone();
        with_id["id"] = "1".into();
        assert_eq!(normal[0].extra["tool_calls"], json!([call, with_id]));
    }

    #[test]
    fn ids_have_nine_characters_where_the_format_wants_it_and_results_find_their_calls() {
        let call = |id: Value, name: &str| json!({ "id": id, "type": "function", "function": { "name": name, "arguments": "{}" } });
        let conversation = vec![
            message("user", "?", json!({})),
            message(
                "assistant",
                "",
                json!({ "tool_calls": [call("call_long_id".into(), "a"), call("abcDEF123".into(), "b"), { "name": "c" }] }),
            ),
            message("tool", "3", json!({ "name": "c" })),
            message("tool", "2", json!({ "tool_call_id": "abcDEF123" })),
            message("tool", "1", json!({ "tool_call_id": "call_long_id" })),
            message("tool", "0", json!({})),
        ];
        let normal = normalize(conversation, CallStyle::Mistral);
        let ids: Vec<&Value> =
            normal[1].extra["tool_calls"].as_array().unwrap().iter().map(|call| &call["id"]).collect();
        assert_eq!(ids, ["call00001", "abcDEF123", "call00002"]);
        let results: Vec<(&Value, Option<&Value>)> =
            normal[2..].iter().map(|message| (&message.extra["tool_call_id"], message.extra.get("name"))).collect();
        let named = |id: usize, name| (ids[id].clone(), Some(json!(name)));
        let results: Vec<(Value, Option<Value>)> =
            results.into_iter().map(|(id, name)| (id.clone(), name.cloned())).collect();
        assert_eq!(results, [named(2, "c"), named(1, "b"), named(0, "a"), (json!("call00003"), None)]);
    }

    #[test]
    fn a_call_that_is_sent_back_as_text_is_a_call() {
        let call = r#"{"name":"time","arguments":{"zone":"UTC"}}"#;
        let turns = |content: &str, role: &str| {
            normalize(
                vec![message("assistant", content, json!({})), message(role, "noon", json!({}))],
                CallStyle::Llama3,
            )
        };
        for content in [call.to_owned(), format!("[{call}]")] {
            let normal = turns(&content, "tool");
            assert_eq!(normal[0].content, "");
            assert_eq!(normal[0].extra["tool_calls"][0]["function"]["arguments"]["zone"], "UTC");
            assert_eq!(normal[1].extra["name"], "time");
            assert_eq!(turns(&content, "user")[0].content, content);
        }
        for text in ["[]", "{}", "noon", "[1]"] {
            assert_eq!(turns(text, "tool")[0].content, text);
        }
    }

    #[test]
    fn a_conversation_with_tools_is_told_in_text() {
        let tools = [Tool { name: "time".into(), description: Some("Tells it".into()), parameters: json!({}) }];
        let conversation = normalize(
            vec![
                message("user", "what time is it?", json!({})),
                message("assistant", "", json!({ "tool_calls": [{ "name": "time", "arguments": {} }] })),
                message("tool", "noon", json!({ "name": "time" })),
            ],
            CallStyle::Hermes,
        );
        let told = spelled_out(conversation, &tools);
        let roles: Vec<&str> = told.iter().map(|message| &*message.role).collect();
        assert_eq!(roles, ["system", "user", "assistant", "user"]);
        assert!(told[0].content.contains("\"name\":\"time\"") && told[0].content.contains("Tells it"));
        assert!(told[2].content.starts_with("<tool_call>\n{\"name\":\"time\""), "{}", told[2].content);
        assert_eq!(told[3].content, "<tool_response>\nnoon\n</tool_response>");
    }
}
