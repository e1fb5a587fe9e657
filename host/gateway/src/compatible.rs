//! OpenAI's interface in front of the engine's own models, for client libraries that are pointed at a gateway.
//!
//! `v1/chat/completions` and `v1/embeddings` of the provider `workers-ai` take the model's name from the body. Models know
//! the parameters by the same names already, so what is made here is the shape of answers, whole and streamed.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt as _};
use host_inference::AiError;
use host_upstream::Events;
use serde_json::{Map, Value, json};

use crate::run::log_id;
use crate::{Step, WORKERS_AI};

/// Tokens of an answer when nobody says, as the engine has it.
const MAX_TOKENS: u64 = 256;

/// In which shape a step asks the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// That of Workers AI: the endpoint is the model.
    Own,
    Chat,
    Embeddings,
}

fn shape(step: &Step) -> Shape {
    match (step.provider.as_str(), step.endpoint.trim_matches('/')) {
        (WORKERS_AI, "v1/chat/completions") => Shape::Chat,
        (WORKERS_AI, "v1/embeddings") => Shape::Embeddings,
        _ => Shape::Own,
    }
}

impl Step {
    /// Whether its answer stands in the envelope of Cloudflare's REST interface.
    pub fn is_answered_in_an_envelope(&self) -> bool {
        self.provider == WORKERS_AI && shape(self) == Shape::Own
    }

    /// The model of the engine that it asks for.
    pub(crate) fn model_of_engine(&self) -> Result<&str, AiError> {
        match shape(self) {
            Shape::Own => Ok(&self.endpoint),
            _ => self.query.get("model").and_then(Value::as_str).ok_or_else(|| {
                AiError::bad_input("required properties at '/' are 'model', the name of a model as text")
            }),
        }
    }

    /// What the engine's model is asked.
    pub(crate) fn inputs_of_engine(&self) -> Result<Map<String, Value>, AiError> {
        let Value::Object(mut inputs) = self.query.clone() else {
            return Err(AiError::bad_input("type at '/' of inputs not met, expected object"));
        };
        match shape(self) {
            Shape::Own => {}
            Shape::Chat => {
                inputs.remove("model");
                if inputs.remove("n").is_some_and(|n| n.as_u64() != Some(1)) {
                    return Err(AiError::bad_input("value at '/n' must be 1: a model here gives one answer"));
                }
            }
            Shape::Embeddings => {
                let texts = inputs.remove("input");
                let texts = texts.ok_or_else(|| AiError::bad_input("required properties at '/' are 'input'"))?;
                return Ok([("text".to_owned(), texts)].into_iter().collect());
            }
        }
        Ok(inputs)
    }

    /// A whole answer of the engine in the shape that was asked for.
    pub(crate) fn shaped(&self, answer: Value) -> Value {
        match shape(self) {
            Shape::Own => answer,
            Shape::Chat => Completion::new(self).whole(&answer),
            Shape::Embeddings => embeddings(self, &answer),
        }
    }

    /// A streamed answer of the engine in the shape that was asked for.
    pub(crate) fn shaped_stream(
        &self,
        body: BoxStream<'static, Result<Bytes, String>>,
    ) -> BoxStream<'static, Result<Bytes, String>> {
        match shape(self) {
            Shape::Chat => chunks(Completion::new(self), body).boxed(),
            Shape::Own | Shape::Embeddings => body,
        }
    }
}

fn embeddings(step: &Step, answer: &Value) -> Value {
    let vectors = answer.get("data").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let each = |(index, vector)| json!({ "object": "embedding", "index": index, "embedding": vector });
    let data: Vec<Value> = vectors.iter().enumerate().map(each).collect();
    let mut shaped = json!({ "object": "list", "data": data, "model": step.query["model"] });
    if let Some(usage) = answer.get("usage") {
        shaped["usage"] = usage.clone();
    }
    shaped
}

/// An answer of a chat as it is told.
struct Completion {
    id: String,
    created: u64,
    model: Value,
    /// Tokens that it may have: an answer with as many was cut.
    most: u64,
    calls: usize,
    begun: bool,
}

impl Completion {
    fn new(step: &Step) -> Self {
        let number = |name: &str| step.query.get(name).and_then(Value::as_u64);
        Self {
            id: format!("chatcmpl-{}", log_id()),
            created: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            model: step.query["model"].clone(),
            most: number("max_tokens").or_else(|| number("max_completion_tokens")).unwrap_or(MAX_TOKENS),
            calls: 0,
            begun: false,
        }
    }

    fn document(&self, object: &str, choices: Value, usage: Option<&Value>) -> Value {
        let mut document = json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model, "choices": choices,
        });
        if let Some(usage) = usage {
            document["usage"] = usage.clone();
        }
        document
    }

    fn finish(&self, usage: Option<&Value>) -> &'static str {
        let tokens = usage.and_then(|usage| usage.get("completion_tokens")).and_then(Value::as_u64);
        match tokens {
            _ if self.calls > 0 => "tool_calls",
            Some(tokens) if tokens >= self.most => "length",
            _ => "stop",
        }
    }

    /// Calls of tools, whose arguments are a text in this shape.
    fn calls(&mut self, answer: &Value) -> Vec<Value> {
        let calls = answer.get("tool_calls").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let told = calls.iter().map(|call| {
            let arguments = match &call["arguments"] {
                Value::String(text) => text.clone(),
                arguments => arguments.to_string(),
            };
            let index = self.calls;
            self.calls += 1;
            json!({
                "index": index, "id": format!("call_{}", log_id()), "type": "function",
                "function": { "name": call["name"], "arguments": arguments },
            })
        });
        told.collect()
    }

    fn whole(mut self, answer: &Value) -> Value {
        let content = match &answer["response"] {
            Value::Object(object) => Value::Object(object.clone()).to_string().into(),
            text => text.clone(),
        };
        let mut message = json!({ "role": "assistant", "content": content });
        let calls = self.calls(answer);
        if !calls.is_empty() {
            message["tool_calls"] = calls.into();
        }
        let usage = answer.get("usage");
        let choice = json!({ "index": 0, "message": message, "finish_reason": self.finish(usage) });
        self.document("chat.completion", json!([choice]), usage)
    }

    /// What an event of the engine's is in this shape. None for one that says nothing.
    fn chunk(&mut self, data: &str) -> Option<String> {
        if data == "[DONE]" {
            return Some("data: [DONE]\n\n".to_owned());
        }
        let event: Value = serde_json::from_str(data).ok()?;
        if let Some(error) = event.get("error") {
            return Some(format!("data: {}\n\n", json!({ "error": error })));
        }
        let mut delta = Map::new();
        match event.get("response") {
            Some(Value::String(text)) if text.is_empty() => {}
            None | Some(Value::Null) => {}
            Some(text) => drop(delta.insert("content".to_owned(), text.clone())),
        }
        let calls = self.calls(&event);
        if !calls.is_empty() {
            delta.insert("tool_calls".to_owned(), calls.into());
        }
        let usage = event.get("usage");
        if delta.is_empty() && usage.is_none() {
            return None;
        }
        if !std::mem::replace(&mut self.begun, true) {
            delta.insert("role".to_owned(), "assistant".into());
        }
        let finish = usage.map(|_| self.finish(usage));
        let choice = json!({ "index": 0, "delta": delta, "finish_reason": finish });
        Some(format!("data: {}\n\n", self.document("chat.completion.chunk", json!([choice]), usage)))
    }
}

fn chunks(
    completion: Completion,
    body: BoxStream<'static, Result<Bytes, String>>,
) -> impl Stream<Item = Result<Bytes, String>> + Send {
    stream::unfold(Some((body, completion, Events::default())), |state| async move {
        let (mut body, mut completion, mut events) = state?;
        loop {
            match body.next().await? {
                Ok(piece) => events.push(&piece),
                Err(error) => return Some((Err(error), None)),
            }
            let mut told = String::new();
            loop {
                match events.read() {
                    Ok(Some(data)) => told.push_str(&completion.chunk(&data).unwrap_or_default()),
                    Ok(None) => break,
                    Err(error) => return Some((Err(error.to_string()), None)),
                }
            }
            if !told.is_empty() {
                return Some((Ok(told.into()), Some((body, completion, events))));
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(endpoint: &str, query: Value) -> Step {
        Step { provider: WORKERS_AI.into(), endpoint: endpoint.into(), query, ..Step::default() }
    }

    fn chat(query: Value) -> Step {
        step("v1/chat/completions", query)
    }

    #[test]
    fn the_body_names_the_model_and_keeps_its_parameters() {
        let asked = chat(json!({ "model": "m", "messages": [], "max_tokens": 5, "n": 1 }));
        assert_eq!(asked.model_of_engine().unwrap(), "m");
        assert_eq!(Value::Object(asked.inputs_of_engine().unwrap()), json!({ "messages": [], "max_tokens": 5 }));
        assert!(!asked.is_answered_in_an_envelope() && step("m", json!({})).is_answered_in_an_envelope());
        let texts = step("v1/embeddings", json!({ "model": "m", "input": ["a"], "encoding_format": "float" }));
        assert_eq!(Value::Object(texts.inputs_of_engine().unwrap()), json!({ "text": ["a"] }));
        let vectors = texts.shaped(json!({ "shape": [1, 2], "data": [[0.5, 1.0]] }));
        assert_eq!(vectors["data"], json!([{ "object": "embedding", "index": 0, "embedding": [0.5, 1.0] }]));
        for (query, part) in [(json!({}), "'model'"), (json!({ "model": 3 }), "'model'")] {
            assert!(chat(query).model_of_engine().unwrap_err().message.contains(part));
        }
        assert!(chat(json!({ "n": 2 })).inputs_of_engine().unwrap_err().message.contains("'/n'"));
        assert!(step("v1/embeddings", json!({})).inputs_of_engine().unwrap_err().message.contains("'input'"));
    }

    #[test]
    fn answers_say_why_they_ended() {
        let usage = |tokens: u64| json!({ "prompt_tokens": 1, "completion_tokens": tokens });
        let asked = chat(json!({ "model": "m", "max_tokens": 5 }));
        let told = asked.shaped(json!({ "response": "hi", "usage": usage(4) }));
        assert_eq!((&told["object"], &told["usage"]), (&json!("chat.completion"), &usage(4)));
        let choice =
            json!({ "index": 0, "message": { "role": "assistant", "content": "hi" }, "finish_reason": "stop" });
        assert_eq!(told["choices"], json!([choice]));
        assert_eq!(asked.shaped(json!({ "usage": usage(5) }))["choices"][0]["finish_reason"], "length");
        let called = json!({ "response": null, "tool_calls": [{ "name": "f", "arguments": { "a": 1 } }] });
        let told = asked.shaped(called);
        assert_eq!(told["choices"][0]["finish_reason"], "tool_calls");
        let function = json!({ "name": "f", "arguments": "{\"a\":1}" });
        assert_eq!(told["choices"][0]["message"]["tool_calls"][0]["function"], function);
        let object = asked.shaped(json!({ "response": { "a": 1 } }));
        assert_eq!(object["choices"][0]["message"]["content"], "{\"a\":1}");
    }

    #[tokio::test]
    async fn a_stream_is_the_same_however_it_is_cut() {
        let events = "data: {\"response\":\"a\",\"p\":\"x\"}\n\ndata: {\"response\":\"b\"}\n\n\
            data: {\"response\":\"\",\"usage\":{\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";
        for size in [1, 7, events.len()] {
            let pieces: Vec<_> =
                events.as_bytes().chunks(size).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
            let told = chat(json!({ "model": "m" })).shaped_stream(stream::iter(pieces).boxed());
            let told: Vec<Bytes> = told.map(|piece| piece.unwrap()).collect().await;
            let told = String::from_utf8(told.concat()).unwrap();
            let mut data = told.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
            let mut choice = || {
                let chunk: Value = serde_json::from_str(data.next().unwrap()).unwrap();
                (chunk["choices"][0]["delta"].clone(), chunk["choices"][0]["finish_reason"].clone())
            };
            assert_eq!(choice(), (json!({ "content": "a", "role": "assistant" }), Value::Null));
            assert_eq!(choice(), (json!({ "content": "b" }), Value::Null));
            assert_eq!(choice(), (json!({}), json!("stop")));
            assert_eq!(data.next(), Some("[DONE]"));
        }
    }
}
