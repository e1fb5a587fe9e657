//! A model's streamed output, event by event or untouched.

use super::Usage;
use super::sse::{Event, Parser};
use crate::response::StreamBody;
use crate::{AiError, ByteStream, Error, Result};
use futures_util::{Stream, StreamExt};
use serde_json::Value;
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A model's output while it is being made.
///
/// As a [`Stream`] it gives the events until `[DONE]`; an error that the model reports on the way, and a stream that
/// breaks off before it is done, are an `Err` and the last item. Handed to [`Response::stream`](crate::Response::stream)
/// unread, it goes to the client as it is. Dropping it stops the model.
///
/// ```no_run
/// use futures_util::StreamExt;
/// use host_sdk::*;
///
/// # async fn example(env: Env) -> Result<String> {
/// let input = ai::TextGenerationInput::prompt("Count to ten");
/// let mut events = env.ai("AI")?.run_stream("@cf/meta/llama-3.1-8b-instruct", &input).await?;
/// let mut text = String::new();
/// while let Some(event) = events.next().await {
///     text.push_str(event?.text().unwrap_or_default());
/// }
/// # Ok(text)
/// # }
/// ```
#[derive(Debug)]
pub struct AiStream {
    content_type: String,
    bytes: ByteStream,
    parser: Parser,
    events: VecDeque<Event>,
    /// A reason to stop was given, so that an end without `[DONE]` is no fault.
    finished: bool,
    over: bool,
}

impl AiStream {
    pub(super) fn new(content_type: String, bytes: ByteStream) -> Self {
        Self { content_type, bytes, parser: Parser::default(), events: VecDeque::new(), finished: false, over: false }
    }

    /// The content type that the model states, for text `text/event-stream`.
    ///
    /// ```no_run
    /// # fn example(stream: host_sdk::ai::AiStream) {
    /// assert!(stream.content_type().starts_with("text/event-stream"));
    /// # }
    /// ```
    pub fn content_type(&self) -> &str {
        &self.content_type
    }

    /// The bytes as they are, for output that is no stream of events: an image, a sound.
    ///
    /// ```no_run
    /// # async fn example(stream: host_sdk::ai::AiStream) -> host_sdk::Result<()> {
    /// let png: Vec<u8> = stream.into_bytes().collect_bytes().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn into_bytes(self) -> ByteStream {
        self.bytes
    }

    fn take(&mut self, event: Event) -> Option<Result<StreamEvent>> {
        if event.data == "[DONE]" {
            self.over = true;
            return None;
        }
        let value = match serde_json::from_str::<Value>(&event.data) {
            Ok(value) => value,
            Err(_) if event.name == "error" => Value::String(event.data),
            Err(error) => {
                self.over = true;
                return Some(Err(Error::EventStream(format!("an event is not JSON: {error}"))));
            }
        };
        if let Some(error) = error_in(&event.name, &value) {
            self.over = true;
            return Some(Err(error.into()));
        }
        let event = StreamEvent { value };
        self.finished |= event.finish_reason().is_some();
        Some(Ok(event))
    }
}

impl From<AiStream> for StreamBody {
    fn from(stream: AiStream) -> Self {
        StreamBody { content_type: Some(stream.content_type), bytes: stream.bytes }
    }
}

impl Stream for AiStream {
    type Item = Result<StreamEvent>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if this.over {
                return Poll::Ready(None);
            }
            if let Some(event) = this.events.pop_front() {
                match this.take(event) {
                    Some(item) => return Poll::Ready(Some(item)),
                    None => continue,
                }
            }
            let failure = match this.bytes.poll_next_unpin(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(piece))) => match this.parser.feed(&piece, &mut this.events) {
                    Ok(()) => continue,
                    Err(error) => error,
                },
                Poll::Ready(Some(Err(error))) => error,
                Poll::Ready(None) if this.finished => {
                    this.over = true;
                    return Poll::Ready(None);
                }
                Poll::Ready(None) => Error::EventStream("it ended before `[DONE]`".into()),
            };
            this.over = true;
            return Poll::Ready(Some(Err(failure)));
        }
    }
}

/// The error that an event stands for: one named `error`, or an object with `error` or `errors` and no output.
fn error_in(name: &str, value: &Value) -> Option<AiError> {
    let details = match value {
        Value::Object(object) => match (object.get("error"), object.get("errors").and_then(|list| list.get(0))) {
            (Some(Value::Null) | None, None) if name == "error" => value,
            (Some(Value::Null) | None, None) => return None,
            (Some(Value::Null) | None, Some(first)) => first,
            (Some(error), _) => error,
        },
        _ if name == "error" => value,
        _ => return None,
    };
    let number = |key: &str| details.get(key).and_then(Value::as_u64);
    let message = details.get("message").and_then(Value::as_str).or(details.as_str());
    Some(AiError {
        code: number("code").and_then(|code| u32::try_from(code).ok()).unwrap_or(0),
        status: number("status").and_then(|status| u16::try_from(status).ok()).unwrap_or(500),
        message: message.map_or_else(|| details.to_string(), str::to_owned),
        retry_after: None,
    })
}

/// One event of a streamed output.
///
/// ```
/// use host_sdk::ai::StreamEvent;
///
/// let event: StreamEvent = serde_json::json!({ "response": " the", "p": "abcd" }).into();
/// assert_eq!(event.text(), Some(" the"));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct StreamEvent {
    value: Value,
}

impl From<Value> for StreamEvent {
    fn from(value: Value) -> Self {
        Self { value }
    }
}

impl StreamEvent {
    /// The text that this event adds, whether it is of the native shape (`response`) or a chat completion's delta.
    ///
    /// ```
    /// # use host_sdk::ai::StreamEvent;
    /// let chunk: StreamEvent = serde_json::json!({ "choices": [{ "delta": { "content": "Hi" } }] }).into();
    /// assert_eq!(chunk.text(), Some("Hi"));
    /// ```
    pub fn text(&self) -> Option<&str> {
        let native = self.value.get("response");
        native.or_else(|| self.value.pointer("/choices/0/delta/content")).and_then(Value::as_str)
    }

    /// How many tokens the call took, in the event that says so, which is the last.
    ///
    /// ```
    /// # use host_sdk::ai::StreamEvent;
    /// let usage = serde_json::json!({ "prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7 });
    /// let last: StreamEvent = serde_json::json!({ "response": "", "usage": usage }).into();
    /// assert_eq!(last.usage().map(|usage| usage.total_tokens), Some(7));
    /// ```
    pub fn usage(&self) -> Option<Usage> {
        let usage = self.value.get("usage")?;
        serde::Deserialize::deserialize(usage).ok()
    }

    /// Why the model stopped, in a chat completion's last delta.
    ///
    /// ```
    /// # use host_sdk::ai::StreamEvent;
    /// let chunk: StreamEvent = serde_json::json!({ "choices": [{ "delta": {}, "finish_reason": "stop" }] }).into();
    /// assert_eq!(chunk.finish_reason(), Some("stop"));
    /// ```
    pub fn finish_reason(&self) -> Option<&str> {
        self.value.pointer("/choices/0/finish_reason").and_then(Value::as_str)
    }

    /// The event as it came.
    ///
    /// ```
    /// # use host_sdk::ai::StreamEvent;
    /// let event: StreamEvent = serde_json::json!({ "tool_calls": [] }).into();
    /// assert!(event.value()["tool_calls"].is_array());
    /// ```
    pub fn value(&self) -> &Value {
        &self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::now;
    use futures_util::stream;

    fn open(text: &str, size: usize) -> AiStream {
        let pieces: Vec<Result<Vec<u8>>> = text.as_bytes().chunks(size).map(|piece| Ok(piece.to_vec())).collect();
        AiStream::new("text/event-stream".into(), ByteStream::new(stream::iter(pieces)))
    }

    fn all(text: &str) -> Vec<Result<StreamEvent>> {
        now(open(text, 5).collect::<Vec<_>>())
    }

    #[test]
    fn events_end_at_done_and_what_follows_is_ignored() {
        let text = "data: {\"response\":\"a\",\"p\":\"xy\"}\n\ndata: {\"response\":\"b\"}\n\ndata: {\"response\":\"\",\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2,\"total_tokens\":3}}\n\ndata: [DONE]\n\ndata: nonsense\n\n";
        for size in [1, 3, 7, 1000] {
            let events: Vec<_> = now(open(text, size).collect::<Vec<_>>()).into_iter().map(Result::unwrap).collect();
            let written: String = events.iter().filter_map(StreamEvent::text).collect();
            assert_eq!((written.as_str(), events.len()), ("ab", 3));
            assert_eq!(events[2].usage().unwrap().total_tokens, 3);
        }
    }

    #[test]
    fn an_error_on_the_way_is_the_last_item() {
        for (event, code, message) in [
            (r#"data: {"error":{"code":3040,"status":429,"message":"full"}}"#, 3040, "full"),
            (r#"data: {"errors":[{"code":3007,"message":"late"}]}"#, 3007, "late"),
            (r#"data: {"error":"plain"}"#, 0, "plain"),
            ("event: error\ndata: not json", 0, "not json"),
            ("event: error\ndata: {\"code\":5006,\"message\":\"bad\"}", 5006, "bad"),
        ] {
            let items = all(&format!("data: {{\"response\":\"a\"}}\n\n{event}\n\ndata: {{\"response\":\"b\"}}\n\n"));
            assert_eq!(items.len(), 2, "{event}");
            match &items[1] {
                Err(Error::Ai(error)) => assert_eq!((error.code, error.message.as_str()), (code, message)),
                other => panic!("{event}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_null_error_is_none() {
        let items = all("data: {\"response\":\"a\",\"error\":null}\n\ndata: [DONE]\n\n");
        assert_eq!(items.len(), 1);
        assert!(items[0].is_ok());
    }

    #[test]
    fn a_stream_that_breaks_off_is_told_from_one_that_is_done() {
        let cut = all("data: {\"response\":\"a\"}\n\n");
        assert!(matches!(cut.last(), Some(Err(Error::EventStream(_)))));
        let stopped = all("data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n");
        assert!(stopped.iter().all(Result::is_ok));
        assert!(matches!(all("data: {\n\n")[..], [Err(Error::EventStream(_))]));
    }

    #[test]
    fn an_unread_stream_keeps_its_bytes_and_its_type() {
        let text = "data: {\"response\":\"a\"}\n\ndata: [DONE]\n\n";
        let mut response = crate::Response::stream(open(text, 4)).unwrap();
        assert_eq!(response.headers().get("content-type").unwrap().unwrap(), "text/event-stream");
        assert_eq!(now(response.text()).unwrap(), text);
    }
}
