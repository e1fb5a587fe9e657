//! `env.QUEUE`: a queue to send to, called by method.
//!
//! | method | arguments | answer |
//! | --- | --- | --- |
//! | `send` | a message | what the queue holds |
//! | `sendBatch` | messages, `{delaySeconds}` for those without a delay of their own | the same |
//! | `metrics` | | the same |
//!
//! A message is `{"body": text, "contentType": "json" | "text" | "bytes", "delaySeconds": n}`: a JSON text, a text, or
//! base64. What a queue holds is `{"backlogCount", "backlogBytes", "oldestMessageTimestamp": milliseconds}`. The content
//! type `v8` of Cloudflare is refused: it is the serialization of an engine that this host has not got.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use host_queues::{ContentType, MAX_DELAY, MAX_MESSAGE_BYTES, NewMessage, Queue, QueueError};
use serde_json::{Map, Value, json};

use crate::calls::{CallError, Callable, Kind, MethodCall};

/// A worker's binding to a queue.
pub(crate) struct Producer {
    queue: Queue,
    /// Seconds before messages are delivered that say nothing else.
    delay: u32,
}

impl Producer {
    pub(crate) fn new(queue: Queue, delay: u32) -> Self {
        Self { queue, delay }
    }

    async fn send(&self, method: &str, messages: Vec<NewMessage>) -> Result<Value, CallError> {
        let failed = |error: QueueError| match &error {
            QueueError::State(_) => CallError::internal(error),
            _ if error.is_refusal() => bad(method, &error.to_string()),
            _ => CallError { code: 0, status: 429, message: format!("Queue {method} failed: {error}") },
        };
        let metrics = self.queue.send(messages).await.map_err(failed)?;
        Ok(json!(metrics))
    }
}

impl Callable for Producer {
    fn kind(&self) -> Kind {
        Kind::Queue
    }

    fn call(self: Arc<Self>, call: MethodCall) -> BoxFuture<'static, Result<Value, CallError>> {
        async move {
            let MethodCall { method, arguments, .. } = call;
            let mut arguments = arguments.into_iter();
            match method.as_str() {
                "send" => {
                    let message = read("send", arguments.next(), self.delay)?;
                    self.send("send", vec![message]).await
                }
                "sendBatch" => {
                    let Some(Value::Array(messages)) = arguments.next() else {
                        return Err(bad("sendBatch", "the messages are no array"));
                    };
                    let delay = match arguments.next() {
                        Some(Value::Object(options)) => delay("sendBatch", &options, self.delay)?,
                        _ => self.delay,
                    };
                    let messages = messages.into_iter().map(|message| read("sendBatch", Some(message), delay));
                    self.send("sendBatch", messages.collect::<Result<_, _>>()?).await
                }
                "metrics" => self.queue.metrics().await.map(|metrics| json!(metrics)).map_err(CallError::internal),
                _ => Err(CallError::no_method(Kind::Queue, &method)),
            }
        }
        .boxed()
    }
}

fn bad(method: &str, fault: &str) -> CallError {
    CallError::bad(format!("Queue {method} failed: {fault}"))
}

/// Reads a guest's message.
fn read(method: &str, message: Option<Value>, default_delay: u32) -> Result<NewMessage, CallError> {
    let Some(Value::Object(mut message)) = message else { return Err(bad(method, "a message is no object")) };
    let delay = delay(method, &message, default_delay)?;
    let Some(Value::String(body)) = message.remove("body") else { return Err(bad(method, "a message has no body")) };
    let content_type = match message.get("contentType") {
        None | Some(Value::Null) => ContentType::Json,
        Some(Value::String(name)) => ContentType::of(name).ok_or_else(|| {
            let name: String = name.chars().take(100).collect();
            bad(method, &format!("unsupported content type {name:?}: a message is \"json\", \"text\" or \"bytes\""))
        })?,
        Some(_) => return Err(bad(method, "a content type is no text")),
    };
    let body = match content_type {
        ContentType::Text => body.into_bytes(),
        ContentType::Bytes => {
            STANDARD.decode(body).map_err(|error| bad(method, &format!("the bytes are no base64: {error}")))?
        }
        ContentType::Json => {
            // What is too long is refused by its length, unread.
            if body.len() <= MAX_MESSAGE_BYTES {
                serde_json::from_str::<serde::de::IgnoredAny>(&body)
                    .map_err(|error| bad(method, &format!("the body is no JSON: {error}")))?;
            }
            body.into_bytes()
        }
    };
    Ok(NewMessage { body, content_type, delay })
}

/// The delay that an object asks for, in seconds.
fn delay(method: &str, object: &Map<String, Value>, default: u32) -> Result<u32, CallError> {
    let given = match object.get("delaySeconds") {
        None => return Ok(default),
        Some(given) => given,
    };
    let whole = given.as_u64().or_else(|| given.as_f64().filter(|n| n.fract() == 0.0 && *n >= 0.0).map(|n| n as u64));
    match whole.and_then(|seconds| u32::try_from(seconds).ok()).filter(|seconds| *seconds <= MAX_DELAY) {
        Some(seconds) => Ok(seconds),
        None => Err(bad(method, &format!("delaySeconds is a whole number from 0 to {MAX_DELAY}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(message: Value) -> String {
        read("send", Some(message), 0).unwrap_err().message
    }

    #[test]
    fn messages_are_what_their_types_say() {
        let message = read("send", Some(json!({ "body": "[1]" })), 7).unwrap();
        assert_eq!(message, NewMessage { body: b"[1]".to_vec(), content_type: ContentType::Json, delay: 7 });
        let bytes = json!({ "body": "AP8=", "contentType": "bytes", "delaySeconds": 43_200 });
        let message = read("send", Some(bytes), 7).unwrap();
        assert_eq!(message, NewMessage { body: vec![0, 255], content_type: ContentType::Bytes, delay: 43_200 });
        let text = json!({ "body": "{", "contentType": "text", "delaySeconds": 1.0 });
        assert_eq!(read("send", Some(text), 7).unwrap().delay, 1);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        assert!(read("send", None, 0).is_err());
        for message in [json!(1), json!([]), json!({}), json!({ "body": 1 })] {
            assert!(refused(message).starts_with("Queue send failed: a message "));
        }
        assert!(refused(json!({ "body": "{" })).contains("no JSON"));
        assert!(refused(json!({ "body": "?", "contentType": "bytes" })).contains("no base64"));
        assert!(refused(json!({ "body": "1", "contentType": "v8" })).contains("unsupported content type \"v8\""));
        assert!(refused(json!({ "body": "1", "contentType": 8 })).contains("no text"));
        for delay in [json!(-1), json!(43_201), json!(0.5), json!(1e300), json!("1"), json!(null), json!(u64::MAX)] {
            let fault = refused(json!({ "body": "1", "delaySeconds": delay }));
            assert!(fault.contains("whole number from 0 to 43200"), "{fault}");
        }
    }
}
