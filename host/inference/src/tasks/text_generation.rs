//! The text generation task: the JSON of a request to a [`GenerateRequest`], its events to JSON or an event stream.
//!
//! Inputs are `prompt` or `messages` with the parameters and bounds of Workers AI. A property that is wrong, or that
//! asks for something not implemented, is an error that names it: an answer made without a parameter that the caller
//! set would look right and be wrong. Unknown properties are ignored, as upstream.
//!
//! The output has the upstream shape: `response` and `usage`. That shape has no field for why an answer ended, so an
//! answer cut at `max_tokens` is told by `completion_tokens` being equal to it, and by a line in the log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, stream};
use rand::Rng;
use serde_json::{Map, Value, json};

use super::answer_format;
use super::tools::{Reader, Toolbox, call_json};
use crate::backend::{
    CallStyle, FinishReason, GenerateEvent, GenerateRequest, GenerateStream, Message, Prompt, Sampling, TextGeneration,
    ToolCall, Usage,
};
use crate::nearest::nearest;
use crate::{AiError, RunOutput, RunRequest};

/// Characters in a prompt or a message: the upstream schema's bound.
const MAX_TEXT: usize = 131_072;
/// Messages in a conversation.
const MAX_MESSAGES: usize = 4_096;
/// Stop texts, and characters in each. Upstream has no bound; every token is compared with every one of them.
const MAX_STOPS: usize = 16;
const MAX_STOP: usize = 256;
/// Tokens of an answer when nobody says.
const DEFAULT_MAX_TOKENS: u64 = 256;

/// Properties that change what an answer means and are not implemented.
const UNSUPPORTED: [&str; 3] = ["functions", "requests", "guided_json"];

/// Answers `request` with `model`.
///
/// # Errors
/// 5006 for inputs that break the schema, 5005 where an adapter is asked of a model that takes none, and whatever the model refuses with.
pub async fn run(model: &Arc<dyn TextGeneration>, request: &RunRequest) -> Result<RunOutput, AiError> {
    let inputs = Inputs { map: &request.inputs };
    inputs.refuse_unsupported(request)?;
    let streaming = inputs.boolean("stream")?.unwrap_or(false);
    let wanted = answer_format::read(inputs.get("response_format"))?;
    let toolbox = Toolbox::read(inputs.get("tools"), inputs.get("tool_choice"))?;
    let style = model.call_style();
    let format = match (wanted.format, toolbox.is_empty()) {
        (format, true) => format,
        (None, false) if style == CallStyle::Native => None,
        (None, false) => Some(toolbox.format(style)),
        (Some(_), false) => return Err(invalid("/response_format", "does not go together with '/tools'")),
    };
    let reader = (!toolbox.is_empty() && style != CallStyle::Native).then(|| Reader::new(style));
    let generation = GenerateRequest {
        tenant: request.tenant.clone(),
        prompt: inputs.prompt()?,
        lora: inputs.lora(model.adapters(), &request.model)?,
        tool_choice: toolbox.choice,
        tools: toolbox.tools,
        streamed: streaming,
        temperature_is_chosen: inputs.get("temperature").is_some(),
        sampling: inputs.sampling()?,
        format,
        stop: inputs.stop()?,
        max_tokens: inputs.max_tokens()?,
        deadline: deadline(&request.options)?,
    };
    if !generation.tools.is_empty() && matches!(generation.prompt, Prompt::Raw(_)) {
        return Err(invalid("/raw", "does not go together with '/tools'"));
    }
    let events = model.generate(generation).await?;
    if streaming {
        return Ok(streamed(events, reader, request.model.clone()));
    }
    whole(events, reader, wanted.json, &request.model).await.map(RunOutput::Json)
}

/// When the caller gives up, by the option `gateway.requestTimeoutMs` of the call.
pub(super) fn deadline(options: &Map<String, Value>) -> Result<Option<Instant>, AiError> {
    let timeout = options.get("gateway").and_then(|gateway| gateway.get("requestTimeoutMs"));
    match timeout {
        None | Some(Value::Null) => Ok(None),
        Some(timeout) => match timeout.as_u64().filter(|timeout| *timeout > 0) {
            // One beyond what the clock can tell never comes.
            Some(timeout) => Ok(Instant::now().checked_add(Duration::from_millis(timeout))),
            None => {
                let fault = "the option 'gateway.requestTimeoutMs' must be a whole number of milliseconds above 0";
                Err(AiError::bad_input(fault))
            }
        },
    }
}

/// The document of an answer that is not streamed.
async fn whole(mut events: GenerateStream, reader: Option<Reader>, json: bool, model: &str) -> Result<Value, AiError> {
    let mut answer = String::new();
    let mut calls = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            GenerateEvent::Text(text) => answer.push_str(&text),
            GenerateEvent::Calls(made) => calls = made,
            GenerateEvent::Done { finish, usage } => {
                report(model, finish, usage);
                if let Some(mut reader) = reader {
                    reader.push(&answer);
                    calls = reader.finish().0;
                }
                if !calls.is_empty() {
                    let calls: Vec<Value> = calls.iter().map(call_json).collect();
                    return Ok(json!({ "response": null, "tool_calls": calls, "usage": usage }));
                }
                let response = match json {
                    true => answer_format::parse(&answer, finish == FinishReason::Length)?,
                    false => Value::String(answer),
                };
                return Ok(json!({ "response": response, "usage": usage }));
            }
            GenerateEvent::Failed(error) => return Err(error),
        }
    }
    Err(AiError::internal("the model ended without an answer"))
}

pub(super) fn report(model: &str, finish: FinishReason, usage: Usage) {
    match finish {
        FinishReason::Stop => tracing::debug!(model, ?usage, "generation finished"),
        FinishReason::Length => tracing::info!(model, ?usage, "generation cut at max_tokens"),
    }
}

/// The answer of a request that asked for a stream.
pub(super) fn streamed(events: GenerateStream, reader: Option<Reader>, model: String) -> RunOutput {
    let body = server_sent_events(events, reader, model).map(Ok).boxed();
    RunOutput::Stream { content_type: "text/event-stream".into(), body }
}

/// Events as an upstream event stream: one `data:` line each, then calls of tools if there are some, then the usage, then
/// `[DONE]`. A failure is reported in band, and `[DONE]` is left out so that no client takes the answer for whole.
fn server_sent_events(
    events: GenerateStream,
    reader: Option<Reader>,
    model: String,
) -> impl futures::Stream<Item = Bytes> + Send {
    stream::unfold(Some((events, reader, model)), |state| async move {
        let (mut events, mut reader, model) = state?;
        loop {
            return match events.next().await {
                Some(GenerateEvent::Text(text)) => {
                    let text = reader.as_mut().map_or_else(|| text.clone(), |reader| reader.push(&text));
                    if text.is_empty() {
                        // It may become a call, which is told as a whole.
                        continue;
                    }
                    Some((piece(&text), Some((events, reader, model))))
                }
                Some(GenerateEvent::Calls(calls)) => Some((told_calls(&calls), Some((events, reader, model)))),
                Some(GenerateEvent::Done { finish, usage }) => {
                    report(&model, finish, usage);
                    Some((last(reader, usage), None))
                }
                Some(GenerateEvent::Failed(error)) => Some((failure(&error), None)),
                None => Some((failure(&AiError::internal("the model ended without an answer")), None)),
            };
        }
    })
}

fn piece(text: &str) -> Bytes {
    data(&json!({ "response": text, "p": padding() }))
}

fn last(reader: Option<Reader>, usage: Usage) -> Bytes {
    let mut last = Vec::new();
    if let Some((calls, rest)) = reader.map(Reader::finish) {
        if !rest.is_empty() {
            last.extend(piece(&rest));
        }
        if !calls.is_empty() {
            last.extend(told_calls(&calls));
        }
    }
    last.extend(data(&json!({ "response": "", "usage": usage })));
    last.extend_from_slice(b"data: [DONE]\n\n");
    Bytes::from(last)
}

fn told_calls(calls: &[ToolCall]) -> Bytes {
    let calls: Vec<Value> = calls.iter().map(call_json).collect();
    data(&json!({ "response": "", "tool_calls": calls }))
}

fn data(value: &Value) -> Bytes {
    format!("data: {value}\n\n").into()
}

fn failure(error: &AiError) -> Bytes {
    tracing::warn!(%error, "generation failed while it was streamed");
    data(&json!({ "error": { "code": error.code, "message": error.message } }))
}

/// Text of random length. Without it the sizes of encrypted records tell the lengths of tokens, and with them much of
/// an answer (Weiss, Ayub & Mirsky 2024, "What was your prompt?").
fn padding() -> String {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut random = rand::rng();
    let length = random.random_range(1..=36);
    (0..length).map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())])).collect()
}

/// A 5006 about the property at `path`, a JSON pointer.
fn invalid(path: &str, fault: impl std::fmt::Display) -> AiError {
    AiError::bad_input(format!("value at '{path}' {fault}"))
}

pub(super) struct Inputs<'a> {
    pub(super) map: &'a Map<String, Value>,
}

impl<'a> Inputs<'a> {
    /// The property; null counts as absent.
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    fn refuse_unsupported(&self, request: &RunRequest) -> Result<(), AiError> {
        for name in UNSUPPORTED {
            let harmless = match self.get(name) {
                None => true,
                Some(Value::Array(items)) => items.is_empty(),
                Some(_) => false,
            };
            if !harmless {
                let fault = "asks for something that this host does not support yet";
                return Err(invalid(&format!("/{name}"), fault));
            }
        }
        if request.options.get("queueRequest").and_then(Value::as_bool) == Some(true) {
            return Err(AiError::bad_input(
                "option 'queueRequest' queues a batch, which only the AI binding of a worker does",
            ));
        }
        match request.attachments.first() {
            Some(attachment) => {
                let path = format!("/{}", printable(&attachment.property));
                Err(invalid(&path, "is binary; text generation takes none"))
            }
            None => Ok(()),
        }
    }

    pub(super) fn boolean(&self, name: &str) -> Result<Option<bool>, AiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(_) => Err(invalid(&format!("/{name}"), "must be a boolean")),
        }
    }

    fn number(&self, name: &str, least: f64, most: f64) -> Result<Option<f32>, AiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if (least..=most).contains(&number) => Ok(Some(number as f32)),
            _ => Err(invalid(&format!("/{name}"), format!("must be a number from {least} to {most}"))),
        }
    }

    fn integer(&self, name: &str, least: u64, most: u64) -> Result<Option<u64>, AiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        // 256.0 is an integer too, and some languages write every number so.
        let real = value.as_f64().filter(|n| n.fract() == 0.0 && (0.0..=9e15).contains(n));
        match value.as_u64().or(real.map(|n| n as u64)) {
            Some(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => Err(invalid(&format!("/{name}"), format!("must be an integer from {least} to {most}"))),
        }
    }

    fn prompt(&self) -> Result<Prompt, AiError> {
        let raw = self.boolean("raw")?.unwrap_or(false);
        match (self.get("prompt"), self.get("messages")) {
            (Some(_), Some(_)) => {
                Err(AiError::bad_input("oneOf at '/' not met, 2 matches: give either 'prompt' or 'messages', not both"))
            }
            (Some(Value::String(text)), None) => {
                bounded(text, "/prompt")?;
                if text.is_empty() {
                    return Err(invalid("/prompt", "must not be empty"));
                }
                if raw {
                    return Ok(Prompt::Raw(text.clone()));
                }
                Ok(Prompt::Messages(vec![Message { role: "user".into(), content: text.clone(), extra: Map::new() }]))
            }
            (Some(_), None) => Err(invalid("/prompt", "must be a string")),
            (None, Some(_)) if raw => Err(invalid("/raw", "goes with 'prompt', not with 'messages'")),
            (None, Some(Value::Array(messages))) => {
                if messages.is_empty() || messages.len() > MAX_MESSAGES {
                    return Err(invalid("/messages", format!("must hold 1 to {MAX_MESSAGES} messages")));
                }
                let messages: Result<Vec<Message>, AiError> = messages.iter().enumerate().map(message).collect();
                messages.map(Prompt::Messages)
            }
            (None, Some(_)) => Err(invalid("/messages", "must be an array")),
            (None, None) => Err(AiError::bad_input(
                "oneOf at '/' not met, 0 matches: required properties at '/' are 'prompt', \
                 required properties at '/' are 'messages'",
            )),
        }
    }

    /// The adapter asked for, one of `adapters`.
    fn lora(&self, adapters: Option<Vec<String>>, model: &str) -> Result<Option<String>, AiError> {
        let name = match self.get("lora") {
            None => return Ok(None),
            Some(Value::String(name)) if !name.is_empty() => name,
            Some(_) => return Err(invalid("/lora", "must be the name of an adapter")),
        };
        let adapters = adapters.ok_or_else(|| AiError::no_adapters(model))?;
        if adapters.contains(name) {
            return Ok(Some(name.clone()));
        }
        let near = nearest(name, adapters.iter().map(String::as_str));
        let near = near.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
        let (name, model) = (printable(name), printable(model));
        Err(invalid(
            "/lora",
            format!(
                "is {name:?}, and {model} has no adapter of that name{near}. To give it one, add to the binding file\n  \
                 [[ai.loras]]\n  name = {name:?}\n  path = \"FOLDER\"\n  models = [{model:?}]"
            ),
        ))
    }

    pub(super) fn sampling(&self) -> Result<Sampling, AiError> {
        Ok(Sampling {
            temperature: self.number("temperature", 0.0, 5.0)?.unwrap_or(0.6),
            top_p: self.number("top_p", 0.001, 1.0)?.unwrap_or(1.0),
            top_k: self.integer("top_k", 1, 50)?.map_or(0, |k| k as usize),
            seed: self.integer("seed", 1, 9_999_999_999)?,
            repetition_penalty: self.number("repetition_penalty", 0.0, 2.0)?.unwrap_or(1.0),
            frequency_penalty: self.number("frequency_penalty", -2.0, 2.0)?.unwrap_or(0.0),
            presence_penalty: self.number("presence_penalty", -2.0, 2.0)?.unwrap_or(0.0),
        })
    }

    fn max_tokens(&self) -> Result<usize, AiError> {
        let most = u64::from(u32::MAX);
        let newer = self.integer("max_completion_tokens", 1, most)?;
        let tokens = self.integer("max_tokens", 1, most)?.or(newer).unwrap_or(DEFAULT_MAX_TOKENS);
        usize::try_from(tokens).map_err(|_| invalid("/max_tokens", "is too large"))
    }

    fn stop(&self) -> Result<Vec<String>, AiError> {
        match self.get("stop") {
            None => Ok(Vec::new()),
            Some(Value::Array(stops)) if stops.len() <= MAX_STOPS => {
                stops.iter().enumerate().map(|(i, stop)| stop_text(&format!("/stop/{i}"), stop)).collect()
            }
            Some(Value::Array(_)) => Err(invalid("/stop", format!("must hold at most {MAX_STOPS} texts"))),
            Some(one) => Ok(vec![stop_text("/stop", one)?]),
        }
    }
}

fn stop_text(path: &str, value: &Value) -> Result<String, AiError> {
    match value {
        Value::String(text) if (1..=MAX_STOP).contains(&text.chars().count()) => Ok(text.clone()),
        _ => Err(invalid(path, format!("must be a string of 1 to {MAX_STOP} characters"))),
    }
}

fn bounded(text: &str, path: &str) -> Result<(), AiError> {
    // Bytes bound characters, so most texts need not be counted.
    if text.len() > MAX_TEXT && text.chars().count() > MAX_TEXT {
        return Err(invalid(path, format!("must have at most {MAX_TEXT} characters")));
    }
    Ok(())
}

fn message((i, value): (usize, &Value)) -> Result<Message, AiError> {
    let path = format!("/messages/{i}");
    let lacking = || AiError::bad_input(format!("required properties at '{path}' are 'role,content'"));
    let Value::Object(map) = value else { return Err(invalid(&path, "must be an object")) };
    let role = match map.get("role") {
        Some(Value::String(role)) if !role.is_empty() && role.len() <= 64 => role.clone(),
        Some(_) => return Err(invalid(&format!("{path}/role"), "must be a string of 1 to 64 bytes")),
        None => return Err(lacking()),
    };
    let content = match map.get("content") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            let parts = parts.iter().enumerate().map(|(j, part)| text_part(&format!("{path}/content/{j}"), part));
            parts.collect::<Result<Vec<&str>, AiError>>()?.concat()
        }
        Some(Value::Null) => String::new(),
        // An assistant's turn that only calls tools has no content.
        None if map.contains_key("tool_calls") => String::new(),
        None => return Err(lacking()),
        Some(_) => return Err(invalid(&format!("{path}/content"), "must be a string, null or an array of parts")),
    };
    bounded(&content, &format!("{path}/content"))?;
    let extra = map.iter().filter(|(key, _)| *key != "role" && *key != "content");
    Ok(Message { role, content, extra: extra.map(|(key, value)| (key.clone(), value.clone())).collect() })
}

fn text_part<'a>(path: &str, part: &'a Value) -> Result<&'a str, AiError> {
    let kind = part.get("type").and_then(Value::as_str);
    match (kind, part.get("text").and_then(Value::as_str)) {
        (Some("text"), Some(text)) => Ok(text),
        (Some("text"), None) => Err(invalid(&format!("{path}/text"), "must be a string")),
        (Some(other), _) => {
            let fault = format!("is '{}'; this model reads parts of type 'text' alone", printable(other));
            Err(invalid(&format!("{path}/type"), fault))
        }
        (None, _) => Err(invalid(path, "must be an object with 'type' and 'text'")),
    }
}

/// A name from the request, fit to be printed.
fn printable(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(80).collect()
}
