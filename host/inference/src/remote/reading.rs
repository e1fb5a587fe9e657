//! What servers say: whole answers, and the pieces of answers that stream. Every property may be missing or of another kind.

use serde_json::{Map, Value};

use crate::backend::{FinishReason, ToolCall, Usage};

/// Calls of tools in one answer, and bytes of the arguments of all of them.
const MAX_CALLS: usize = 128;
const MAX_ARGUMENTS: usize = 1 << 20;
/// Tokens that are believed.
const MAX_COUNT: u64 = 1 << 40;

/// A whole answer.
#[derive(Debug, PartialEq)]
pub(super) struct Whole {
    pub(super) text: String,
    pub(super) calls: Vec<ToolCall>,
    pub(super) finish: FinishReason,
    pub(super) usage: Option<Usage>,
}

/// Reads a whole answer of chat completions or completions.
pub(super) fn whole(body: &[u8]) -> Result<Whole, String> {
    let answer: Value = serde_json::from_slice(body).map_err(|error| format!("it is not JSON: {error}"))?;
    let Some(choice) = answer.pointer("/choices/0") else {
        return Err(refusal(&answer).unwrap_or_else(|| "it has no `choices`".to_owned()));
    };
    let message = choice.get("message").unwrap_or(choice);
    let text = message.get("content").or_else(|| message.get("text")).and_then(Value::as_str).unwrap_or_default();
    let mut gathered = Gathered::default();
    for (at, call) in message.get("tool_calls").and_then(Value::as_array).into_iter().flatten().enumerate() {
        gathered.take(at, call)?;
    }
    Ok(Whole { text: text.to_owned(), calls: gathered.finish()?, finish: finish(choice), usage: usage(&answer) })
}

/// One event of an answer that streams.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) finish: Option<FinishReason>,
    pub(super) usage: Option<Usage>,
}

/// Reads an event. Pieces of calls go into `calls`.
pub(super) fn piece(data: &str, calls: &mut Gathered) -> Result<Piece, String> {
    let event: Value = serde_json::from_str(data).map_err(|error| format!("an event is not JSON: {error}"))?;
    if let Some(reason) = refusal(&event) {
        return Err(reason);
    }
    let mut piece = Piece { usage: usage(&event), ..Piece::default() };
    let Some(choice) = event.pointer("/choices/0") else { return Ok(piece) };
    let delta = choice.get("delta").unwrap_or(choice);
    let text = delta.get("content").or_else(|| delta.get("text")).and_then(Value::as_str);
    piece.text = text.unwrap_or_default().to_owned();
    for (at, call) in delta.get("tool_calls").and_then(Value::as_array).into_iter().flatten().enumerate() {
        let index = call.get("index").and_then(Value::as_u64).and_then(|index| usize::try_from(index).ok());
        calls.take(index.unwrap_or(at), call)?;
    }
    piece.finish = choice.get("finish_reason").filter(|reason| reason.is_string()).map(|_| finish(choice));
    Ok(piece)
}

/// What a server says instead of an answer.
fn refusal(answer: &Value) -> Option<String> {
    let error = answer.get("error").filter(|error| !error.is_null())?;
    let message = error.get("message").unwrap_or(error);
    let message = message.as_str().map_or_else(|| message.to_string(), str::to_owned);
    Some(format!("it holds an error: {}", message.chars().filter(|c| !c.is_control()).take(300).collect::<String>()))
}

fn finish(choice: &Value) -> FinishReason {
    match choice.get("finish_reason").and_then(Value::as_str) {
        Some("length") => FinishReason::Length,
        _ => FinishReason::Stop,
    }
}

fn usage(answer: &Value) -> Option<Usage> {
    let usage = answer.get("usage")?;
    let count = |name: &str| usage.get(name).and_then(Value::as_u64).map(|count| count.min(MAX_COUNT) as usize);
    let prompt_tokens = count("prompt_tokens")?;
    let completion_tokens = count("completion_tokens").unwrap_or(0);
    Some(Usage { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens })
}

/// Calls of tools, put together of their pieces.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    calls: Vec<(String, String)>,
    bytes: usize,
}

impl Gathered {
    fn take(&mut self, index: usize, call: &Value) -> Result<(), String> {
        if index >= MAX_CALLS {
            return Err(format!("it calls more than {MAX_CALLS} tools"));
        }
        if self.calls.len() <= index {
            self.calls.resize_with(index + 1, Default::default);
        }
        let (name, arguments) = &mut self.calls[index];
        let function = call.get("function").unwrap_or(call);
        let (named, argued) = (function.get("name").and_then(Value::as_str), function.get("arguments"));
        let argued = match argued {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            // Some servers give the object that it is.
            Some(other) => other.to_string(),
        };
        self.bytes += named.map_or(0, str::len) + argued.len();
        if self.bytes > MAX_ARGUMENTS {
            return Err(format!("the arguments of its calls are longer than {MAX_ARGUMENTS} bytes"));
        }
        name.push_str(named.unwrap_or_default());
        arguments.push_str(&argued);
        Ok(())
    }

    /// The calls, once all of their pieces are there.
    pub(super) fn finish(self) -> Result<Vec<ToolCall>, String> {
        let call = |(name, arguments): (String, String)| {
            if name.is_empty() {
                return Err("it calls a tool without a name".to_owned());
            }
            let arguments = match arguments.trim() {
                "" => Value::Object(Map::new()),
                text => serde_json::from_str(text).map_err(|_| format!("the arguments of {name:?} are not JSON"))?,
            };
            Ok(ToolCall { name, arguments })
        };
        self.calls.into_iter().map(call).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn whole_answers_of_both_interfaces_are_read() {
        let chat = json!({ "choices": [{ "message": { "content": "hi" }, "finish_reason": "length" }],
            "usage": { "prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 99 } });
        let read = whole(chat.to_string().as_bytes()).unwrap();
        assert_eq!((read.text.as_str(), read.finish), ("hi", FinishReason::Length));
        assert_eq!(read.usage, Some(Usage { prompt_tokens: 3, completion_tokens: 1, total_tokens: 4 }));
        assert_eq!(whole(br#"{"choices":[{"text":"ho"}]}"#).unwrap().text, "ho");
        for (body, part) in [("{", "not JSON"), ("{}", "no `choices`"), (r#"{"error":{"message":"no"}}"#, "error: no")]
        {
            assert!(whole(body.as_bytes()).unwrap_err().contains(part), "{body}");
        }
    }

    #[test]
    fn calls_are_put_together_of_their_pieces() {
        let mut calls = Gathered::default();
        for function in [
            json!({ "name": "weather", "arguments": "" }),
            json!({ "arguments": "{\"city\":" }),
            json!({ "arguments": "\"Oslo\"}" }),
        ] {
            let event = json!({ "choices": [{ "delta": { "tool_calls": [{ "index": 0, "function": function }] } }] });
            piece(&event.to_string(), &mut calls).unwrap();
        }
        let event =
            json!({ "choices": [{ "delta": { "tool_calls": [{ "index": 1, "function": { "name": "time" } }] } }] });
        piece(&event.to_string(), &mut calls).unwrap();
        let weather = ToolCall { name: "weather".into(), arguments: json!({ "city": "Oslo" }) };
        let time = ToolCall { name: "time".into(), arguments: json!({}) };
        assert_eq!(calls.finish().unwrap(), [weather, time]);
    }

    #[test]
    fn what_a_hostile_server_sends_is_an_error() {
        let event = |call: Value| json!({ "choices": [{ "delta": { "tool_calls": [call] } }] }).to_string();
        let mut calls = Gathered::default();
        assert!(piece(&event(json!({ "index": u64::MAX })), &mut calls).is_err());
        let long = "x".repeat(MAX_ARGUMENTS);
        assert!(
            piece(&event(json!({ "index": 0, "function": { "name": "a", "arguments": long } })), &mut calls).is_err()
        );
        let mut calls = Gathered::default();
        piece(&event(json!({ "index": 0, "function": { "name": "a", "arguments": "{" } })), &mut calls).unwrap();
        assert!(calls.finish().unwrap_err().contains("not JSON"));
        for data in ["[]", "3", "{\"choices\": {}}", "{\"choices\": [3]}", "{\"usage\": 3}"] {
            assert_eq!(piece(data, &mut Gathered::default()).unwrap(), Piece::default(), "{data}");
        }
    }
}
