//! `tools` and `tool_choice`: the functions that a model may call, and the calls in its answer.
//!
//! Tools come flat (`{name, description, parameters}`) or in OpenAI's envelope (`{type: "function", function: {…}}`).
//! Each family of models writes calls in its own way ([`CallStyle`]); the answer's grammar holds a call to that way, to
//! the tools' names and to their schemas, so that a call that is made can be read.

use serde_json::{Map, Value, json};

use crate::AiError;
use crate::backend::{AnswerFormat, CallStyle, Tool, ToolCall, ToolChoice as Choice};

/// Tools in one request.
const MAX_TOOLS: usize = 128;
const MAX_NAME: usize = 128;

/// What a request says of tools.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Toolbox {
    /// The tools that the model is told of. Empty when it must not call any.
    pub(crate) tools: Vec<Tool>,
    /// Whether one of them has to be called.
    pub(crate) choice: Choice,
}

/// A call as upstream gives it.
pub(super) fn call_json(call: &ToolCall) -> Value {
    json!({ "name": call.name, "arguments": call.arguments })
}

impl Toolbox {
    /// Reads `tools` and `tool_choice`.
    pub(crate) fn read(tools: Option<&Value>, choice: Option<&Value>) -> Result<Self, AiError> {
        let listed = match tools {
            None => &Vec::new(),
            Some(Value::Array(listed)) if listed.len() <= MAX_TOOLS => listed,
            Some(_) => return Err(invalid("/tools", format_args!("must be an array of at most {MAX_TOOLS} tools"))),
        };
        let mut tools: Vec<Tool> = listed.iter().enumerate().map(tool).collect::<Result<_, _>>()?;
        for (at, tool) in tools.iter().enumerate() {
            if tools[..at].iter().any(|other| other.name == tool.name) {
                return Err(invalid(&format!("/tools/{at}"), format_args!("repeats the name {:?}", tool.name)));
            }
        }
        let choice = match choice {
            None => Choice::Auto,
            Some(Value::String(word)) => match word.as_str() {
                "auto" => Choice::Auto,
                "required" | "any" => Choice::Required,
                "none" => return Ok(Self::default()),
                _ => return Err(unknown_choice()),
            },
            Some(Value::Object(map)) => {
                let function = map.get("function").and_then(Value::as_object).unwrap_or(map);
                let name = function.get("name").and_then(Value::as_str).ok_or_else(unknown_choice)?;
                tools.retain(|tool| tool.name == name);
                if tools.is_empty() {
                    return Err(invalid("/tool_choice", "names a tool that is not among '/tools'"));
                }
                Choice::Named
            }
            Some(_) => return Err(unknown_choice()),
        };
        if tools.is_empty() && choice != Choice::Auto {
            return Err(invalid("/tool_choice", "asks for a call, and there are no '/tools'"));
        }
        Ok(Self { tools, choice })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tools.is_empty()
    }

    /// The grammar of an answer that may, or must, hold calls. What [`CallStyle::Native`] stands for reads none.
    pub(crate) fn format(&self, style: CallStyle) -> AnswerFormat {
        let arguments = match style {
            CallStyle::Hermes | CallStyle::Mistral | CallStyle::Native => "arguments",
            CallStyle::Llama3 => "parameters",
        };
        let mut calls: Vec<Value> = self.tools.iter().map(|tool| call_schema(tool, arguments)).collect();
        if style == CallStyle::Mistral {
            // The format has a place for an id, which a model may fill in or not.
            let id = json!({ "type": "string", "pattern": "^[a-zA-Z0-9]{9}$" });
            calls.iter_mut().for_each(|call| call["properties"]["id"] = id.clone());
        }
        let mut schema = json!({ "anyOf": calls });
        if style == CallStyle::Mistral {
            schema = json!({ "type": "array", "items": schema, "minItems": 1 });
            if self.choice == Choice::Named {
                schema["maxItems"] = 1.into();
            }
        }
        schema["x-guidance"] = json!({ "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": " });
        let more = if self.choice == Choice::Named { "" } else { " (\"\\n\" call)*" };
        AnswerFormat::Lark(match (style, self.choice) {
            (CallStyle::Hermes | CallStyle::Native, Choice::Auto) => format!(
                "start: (begin body end)* REST\nbegin[lazy]: /(.|\\n)*<tool_call>/\nbody: /\\n?/ json\njson: %json {schema}\n\
                 end: /\\n?<\\/tool_call>/\nREST: /(.|\\n)*/"
            ),
            (CallStyle::Hermes | CallStyle::Native, _) => {
                format!("start: call{more}\ncall: \"<tool_call>\\n\" json \"\\n</tool_call>\"\njson: %json {schema}")
            }
            (CallStyle::Llama3, Choice::Auto) => format!(
                "start: \"<|python_tag|>\"? json | TEXT\njson: %json {schema}\n\
                 TEXT: /\\s*([^{{<\\s](.|\\n)*|<([^|](.|\\n)*)?)/"
            ),
            (CallStyle::Llama3, _) => format!("start: json\njson: %json {schema}"),
            (CallStyle::Mistral, Choice::Auto) => format!(
                "start: begin body | REST\nbegin[lazy]: /(.|\\n)*\\[TOOL_CALLS\\]/\nbody: / ?/ json\njson: %json {schema}\n\
                 REST: /(.|\\n)*/"
            ),
            (CallStyle::Mistral, _) => format!("start: \"[TOOL_CALLS]\" / ?/ json\njson: %json {schema}"),
        })
    }
}

fn call_schema(tool: &Tool, arguments: &str) -> Value {
    let parameters = match &tool.parameters {
        Value::Object(map) if map.is_empty() => json!({ "type": "object" }),
        schema => schema.clone(),
    };
    json!({
        "type": "object",
        "properties": { "name": { "const": tool.name }, arguments: parameters },
        "required": ["name", arguments],
        "additionalProperties": false,
    })
}

fn invalid(path: &str, fault: impl std::fmt::Display) -> AiError {
    AiError::bad_input(format!("value at '{path}' {fault}"))
}

fn unknown_choice() -> AiError {
    invalid("/tool_choice", "must be 'auto', 'none', 'required' or an object that names a function")
}

fn tool((at, value): (usize, &Value)) -> Result<Tool, AiError> {
    let path = format!("/tools/{at}");
    let Value::Object(outer) = value else { return Err(invalid(&path, "must be an object")) };
    let function = match outer.get("function") {
        Some(Value::Object(function)) => function,
        Some(_) => return Err(invalid(&format!("{path}/function"), "must be an object")),
        None => outer,
    };
    let name = match function.get("name") {
        Some(Value::String(name)) if (1..=MAX_NAME).contains(&name.len()) => name.clone(),
        _ => return Err(invalid(&format!("{path}/name"), format_args!("must be a string of 1 to {MAX_NAME} bytes"))),
    };
    let description = function.get("description").and_then(Value::as_str).map(str::to_owned);
    let parameters = match function.get("parameters") {
        None | Some(Value::Null) => Value::Object(Map::new()),
        Some(schema @ Value::Object(_)) => schema.clone(),
        Some(_) => return Err(invalid(&format!("{path}/parameters"), "must be a JSON schema")),
    };
    Ok(Tool { name, description, parameters })
}

/// An answer as it is read for calls. Text in front of a call can be shown as it comes; once a call has begun, nothing more
/// is shown until the answer has ended.
#[derive(Debug)]
pub(super) struct Reader {
    style: CallStyle,
    /// All of the answer.
    text: String,
    /// How much of it has been shown.
    shown: usize,
}

const END: &str = "</tool_call>";
const TAG: &str = "<|python_tag|>";

/// What stands in front of calls, for styles in which a text can go before.
fn begin(style: CallStyle) -> Option<&'static str> {
    match style {
        CallStyle::Hermes => Some("<tool_call>"),
        CallStyle::Mistral => Some("[TOOL_CALLS]"),
        CallStyle::Llama3 | CallStyle::Native => None,
    }
}

impl Reader {
    pub(super) fn new(style: CallStyle) -> Self {
        Self { style, text: String::new(), shown: 0 }
    }

    /// Takes more of the answer, and gives what of it is text for sure.
    pub(super) fn push(&mut self, more: &str) -> String {
        self.text.push_str(more);
        let certain = match begin(self.style) {
            Some(mark) => {
                let searched = self.text[self.shown..].find(mark).map(|at| self.shown + at);
                searched.unwrap_or_else(|| self.text.len() - beginning_at_end(&self.text, mark))
            }
            None => {
                let start = self.text.trim_start();
                if start.starts_with(['{']) || start.starts_with(TAG) || TAG.starts_with(start) {
                    0
                } else {
                    self.text.len()
                }
            }
        };
        let certain = certain.max(self.shown);
        let text = self.text[self.shown..certain].to_owned();
        self.shown = certain;
        text
    }

    /// The calls of the whole answer, and the text that has not been shown if there are none.
    pub(super) fn finish(self) -> (Vec<ToolCall>, String) {
        let parts = begin(self.style).into_iter().flat_map(|mark| self.text.split(mark).skip(1));
        let calls: Vec<ToolCall> = match self.style {
            CallStyle::Hermes => {
                parts.filter_map(|part| call(part.split(END).next().unwrap_or(part), "arguments")).collect()
            }
            CallStyle::Mistral => parts.flat_map(list).collect(),
            CallStyle::Native => Vec::new(),
            CallStyle::Llama3 => {
                let text = self.text.trim_start();
                call(text.strip_prefix(TAG).unwrap_or(text), "parameters").into_iter().collect()
            }
        };
        let rest = if calls.is_empty() { self.text[self.shown..].to_owned() } else { String::new() };
        (calls, rest)
    }
}

/// The longest beginning of `text` that `held` ends with.
fn beginning_at_end(held: &str, text: &str) -> usize {
    (1..text.len()).rev().find(|length| text.is_char_boundary(*length) && held.ends_with(&text[..*length])).unwrap_or(0)
}

fn call(text: &str, arguments: &str) -> Option<ToolCall> {
    read_call(serde_json::from_str(text.trim()).ok()?, arguments)
}

/// The calls of a JSON array, whatever follows it.
fn list(text: &str) -> Vec<ToolCall> {
    match serde_json::Deserializer::from_str(text).into_iter().next() {
        Some(Ok(Value::Array(calls))) => calls.into_iter().filter_map(|call| read_call(call, "arguments")).collect(),
        _ => Vec::new(),
    }
}

fn read_call(value: Value, arguments: &str) -> Option<ToolCall> {
    let Value::Object(mut map) = value else { return None };
    let Value::String(name) = map.remove("name")? else { return None };
    let arguments = map.remove(arguments).unwrap_or_else(|| Value::Object(Map::new()));
    Some(ToolCall { name, arguments })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weather() -> Value {
        json!({ "name": "weather", "parameters": { "type": "object", "properties": { "city": { "type": "string" } } } })
    }

    #[test]
    fn both_shapes_of_tools_are_the_same() {
        let flat = Toolbox::read(Some(&json!([weather()])), None).unwrap();
        let enveloped = Toolbox::read(Some(&json!([{ "type": "function", "function": weather() }])), None).unwrap();
        assert_eq!(flat, enveloped);
        assert_eq!(flat.tools[0].name, "weather");
    }

    #[test]
    fn choices_are_taken_in_every_shape() {
        let read = |choice: Value| Toolbox::read(Some(&json!([weather(), { "name": "time" }])), Some(&choice)).unwrap();
        assert!(read(json!("none")).is_empty());
        assert_eq!(read(json!("required")).choice, Choice::Required);
        for choice in [json!({ "type": "function", "function": { "name": "time" } }), json!({ "name": "time" })] {
            let toolbox = read(choice);
            assert_eq!((toolbox.choice, toolbox.tools.len(), &*toolbox.tools[0].name), (Choice::Named, 1, "time"));
        }
    }

    #[test]
    fn what_is_no_tool_is_named() {
        for (tools, choice, part) in [
            (json!({}), json!("auto"), "'/tools' must be"),
            (json!([1]), json!("auto"), "'/tools/0' must be"),
            (json!([{}]), json!("auto"), "'/tools/0/name'"),
            (json!([{ "function": 3 }]), json!("auto"), "'/tools/0/function'"),
            (json!([{ "name": "a", "parameters": 3 }]), json!("auto"), "'/tools/0/parameters'"),
            (json!([{ "name": "a" }, { "name": "a" }]), json!("auto"), "repeats"),
            (json!([{ "name": "a" }]), json!("sometimes"), "'/tool_choice'"),
            (json!([{ "name": "a" }]), json!({ "name": "b" }), "not among"),
            (json!([]), json!("required"), "there are no '/tools'"),
        ] {
            let error = Toolbox::read(Some(&tools), Some(&choice)).unwrap_err();
            assert!(error.code == 5006 && error.message.contains(part), "{error} lacks {part}");
        }
    }

    fn read(style: CallStyle, pieces: &[&str]) -> (String, Vec<Value>, String) {
        let mut reader = Reader::new(style);
        let shown: String = pieces.iter().map(|piece| reader.push(piece)).collect();
        let (calls, rest) = reader.finish();
        (shown, calls.iter().map(call_json).collect(), rest)
    }

    #[test]
    fn calls_are_found_and_never_shown() {
        let call = r#"<tool_call>
{"name": "weather", "arguments": {"city": "Oslo"}}
</tool_call>"#;
        let pieces: Vec<String> = format!("Let me look. {call}\n{call}").chars().map(String::from).collect();
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        let (shown, calls, rest) = read(CallStyle::Hermes, &pieces);
        assert_eq!((&*shown, &*rest), ("Let me look. ", ""));
        assert_eq!(calls, vec![json!({ "name": "weather", "arguments": { "city": "Oslo" } }); 2]);
        for tag in ["", "<|python_tag|>"] {
            let llama = read(CallStyle::Llama3, &[tag, "{\"name\": \"time\"", ", \"parameters\": {}}"]);
            assert_eq!(llama, (String::new(), vec![json!({ "name": "time", "arguments": {} })], String::new()));
        }
    }

    #[test]
    fn lists_of_calls_are_found_and_never_shown() {
        let list = r#"[{"name": "weather", "arguments": {"city": "[TOOL"}, "id": "a1B2c3D4e"}, {"name": "time", "arguments": {}}]"#;
        for (before, space) in [("", " "), ("", ""), ("Let me look [up].", " ")] {
            let pieces: Vec<String> = format!("{before}[TOOL_CALLS]{space}{list}").chars().map(String::from).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (shown, calls, rest) = read(CallStyle::Mistral, &pieces);
            assert_eq!((&*shown, &*rest), (before, ""));
            let weather = json!({ "name": "weather", "arguments": { "city": "[TOOL" } });
            assert_eq!(calls, vec![weather, json!({ "name": "time", "arguments": {} })]);
        }
    }

    #[test]
    fn text_that_is_no_call_is_all_shown() {
        for (style, pieces) in [
            (CallStyle::Hermes, &["a <tool", " shed"][..]),
            (CallStyle::Hermes, &["a <tool_call>nonsense"]),
            (CallStyle::Llama3, &[" ", "{}", " is no call"]),
            (CallStyle::Llama3, &["hello ", "{\"name\""]),
            (CallStyle::Llama3, &["<|py", "thon"]),
            (CallStyle::Mistral, &["[TOOL", "S] [TOOL_CALLS"]),
            (CallStyle::Mistral, &["[TOOL_CALLS] [{\"name\": \"cut"]),
        ] {
            let (shown, calls, rest) = read(style, pieces);
            assert_eq!((format!("{shown}{rest}"), calls.len()), (pieces.concat(), 0));
        }
    }
}
