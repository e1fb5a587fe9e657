//! Queues: sending messages, and the batch that a `#[queue]` handler gets.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::marker::PhantomData;
use std::rc::Rc;

use crate::{Binding, Error, Result};

/// A queue to send to. A message that [`send`](Self::send) has accepted is on the host's disk.
///
/// ```no_run
/// # async fn example(env: host_sdk::Env) -> host_sdk::Result<()> {
/// let queue = env.queue("JOBS")?;
/// queue.send(&serde_json::json!({ "page": 7 })).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Queue {
    binding: Binding,
}

impl Queue {
    pub(crate) fn new(binding: Binding) -> Self {
        Self { binding }
    }

    /// Sends a message: a value that becomes JSON, or a [`SendMessage`].
    ///
    /// # Errors
    /// When the value has no JSON form, the message is too long (128 KB), or the queue is full.
    ///
    /// ```no_run
    /// # async fn example(queue: host_sdk::Queue) -> host_sdk::Result<()> {
    /// use host_sdk::SendMessage;
    ///
    /// queue.send("hello").await?;
    /// queue.send(SendMessage::new("later").with_delay_seconds(60)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send<T: Serialize>(&self, message: impl Into<SendMessage<T>>) -> Result<()> {
        let message = message.into().encode()?;
        let _: Value = self.binding.call("send", &(message,)).await?;
        Ok(())
    }

    /// Sends up to 100 messages of together up to 256 KB: all of them or none.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    ///
    /// ```no_run
    /// # async fn example(queue: host_sdk::Queue) -> host_sdk::Result<()> {
    /// queue.send_batch(["a", "b", "c"]).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send_batch<T: Serialize, M: Into<SendMessage<T>>>(
        &self,
        messages: impl IntoIterator<Item = M>,
    ) -> Result<()> {
        let messages: Vec<Value> =
            messages.into_iter().map(|message| message.into().encode()).collect::<Result<_>>()?;
        let _: Value = self.binding.call("sendBatch", &(messages,)).await?;
        Ok(())
    }

    /// What the queue holds.
    ///
    /// # Errors
    /// When the host cannot read the queue.
    ///
    /// ```no_run
    /// # async fn example(queue: host_sdk::Queue) -> host_sdk::Result<()> {
    /// host_sdk::console_log!("{} messages wait", queue.metrics().await?.backlog_count);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn metrics(&self) -> Result<QueueMetrics> {
        self.binding.call("metrics", &()).await
    }
}

/// What a queue holds.
///
/// ```
/// let metrics = host_sdk::QueueMetrics::default();
/// assert_eq!(metrics.backlog_count, 0);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct QueueMetrics {
    /// Messages in it.
    pub backlog_count: u64,
    /// Bytes of their bodies.
    pub backlog_bytes: u64,
    /// When the oldest of them was sent, in milliseconds since 1970.
    #[serde(default)]
    pub oldest_message_timestamp: Option<u64>,
}

/// A message with more than its body.
///
/// ```
/// use host_sdk::SendMessage;
///
/// let message = SendMessage::new(&[1, 2]).with_delay_seconds(30);
/// # let _ = message;
/// ```
#[derive(Clone, Debug)]
pub struct SendMessage<T> {
    body: Body<T>,
    delay_seconds: Option<u32>,
}

#[derive(Clone, Debug)]
enum Body<T> {
    Json(T),
    Text(String),
    Bytes(Vec<u8>),
}

impl<T: Serialize> SendMessage<T> {
    /// A message whose body is JSON.
    ///
    /// ```
    /// let message = host_sdk::SendMessage::new("hello");
    /// # let _ = message;
    /// ```
    pub fn new(body: T) -> Self {
        Self { body: Body::Json(body), delay_seconds: None }
    }

    fn encode(self) -> Result<Value> {
        let (content_type, body) = match self.body {
            Body::Json(value) => ("json", serde_json::to_string(&value)?),
            Body::Text(text) => ("text", text),
            Body::Bytes(bytes) => ("bytes", STANDARD.encode(bytes)),
        };
        let mut message = Map::new();
        message.insert("body".into(), body.into());
        message.insert("contentType".into(), content_type.into());
        if let Some(seconds) = self.delay_seconds {
            message.insert("delaySeconds".into(), seconds.into());
        }
        Ok(message.into())
    }
}

impl SendMessage<()> {
    /// A message whose body is a text.
    ///
    /// ```
    /// let message = host_sdk::SendMessage::text("hello");
    /// # let _ = message;
    /// ```
    pub fn text(body: impl Into<String>) -> Self {
        Self { body: Body::Text(body.into()), delay_seconds: None }
    }

    /// A message whose body is bytes.
    ///
    /// ```
    /// let message = host_sdk::SendMessage::bytes(vec![1, 2, 3]);
    /// # let _ = message;
    /// ```
    pub fn bytes(body: impl Into<Vec<u8>>) -> Self {
        Self { body: Body::Bytes(body.into()), delay_seconds: None }
    }
}

impl<T> SendMessage<T> {
    /// The same message, held back for so many seconds, up to 12 hours.
    ///
    /// ```
    /// let message = host_sdk::SendMessage::text("later").with_delay_seconds(3600);
    /// # let _ = message;
    /// ```
    pub fn with_delay_seconds(mut self, seconds: u32) -> Self {
        self.delay_seconds = Some(seconds);
        self
    }
}

impl<T: Serialize> From<T> for SendMessage<T> {
    fn from(body: T) -> Self {
        Self::new(body)
    }
}

/// How a message is to be tried again.
///
/// ```
/// use host_sdk::QueueRetryOptions;
///
/// let options = QueueRetryOptions::new().with_delay_seconds(30);
/// # let _ = options;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueRetryOptions {
    delay_seconds: Option<u32>,
}

impl QueueRetryOptions {
    /// As the binding file of the consumer says.
    ///
    /// ```
    /// assert_eq!(host_sdk::QueueRetryOptions::new(), host_sdk::QueueRetryOptions::default());
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// After so many seconds.
    ///
    /// ```
    /// let options = host_sdk::QueueRetryOptions::new().with_delay_seconds(5);
    /// # let _ = options;
    /// ```
    pub fn with_delay_seconds(mut self, seconds: u32) -> Self {
        self.delay_seconds = Some(seconds);
        self
    }
}

/// One word about a message or a batch, as the host reads it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Decision {
    Ack,
    Retry {
        #[serde(rename = "delaySeconds", skip_serializing_if = "Option::is_none")]
        delay_seconds: Option<u32>,
    },
}

impl From<QueueRetryOptions> for Decision {
    fn from(options: QueueRetryOptions) -> Self {
        Self::Retry { delay_seconds: options.delay_seconds }
    }
}

/// What has been said of a batch. Of each message, and of the batch as a whole, the first word counts, and none about a
/// message counts once there was one about the batch.
#[derive(Clone, Debug, Default, Serialize)]
struct Decisions {
    #[serde(skip_serializing_if = "Option::is_none")]
    batch: Option<Decision>,
    messages: BTreeMap<String, Decision>,
}

/// What the host sends for a batch.
#[derive(Debug, Deserialize)]
struct Payload {
    queue: String,
    metrics: QueueMetrics,
    messages: Vec<Incoming>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Incoming {
    id: String,
    timestamp: u64,
    attempts: u32,
    content_type: String,
    body: String,
}

/// What a `#[queue]` handler gets: messages whose bodies are `T`.
///
/// A message is done when the handler returns, and tried again when it fails, unless the handler says otherwise of it or
/// of the batch. The first word counts.
///
/// ```no_run
/// # mod worker {
/// use host_sdk::*;
///
/// #[queue]
/// async fn main(batch: MessageBatch<String>, _env: Env, _ctx: Context) -> Result<()> {
///     for message in batch.messages()? {
///         console_log!("{}: {}", message.id(), message.body());
///         message.ack();
///     }
///     Ok(())
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct MessageBatch<T> {
    payload: Rc<Payload>,
    decisions: Rc<RefCell<Decisions>>,
    bodies: PhantomData<fn() -> T>,
}

impl<T> MessageBatch<T> {
    /// The batch of a `queue` event.
    pub(crate) fn read(payload: &str) -> Result<Self> {
        let payload = Rc::new(serde_json::from_str(payload)?);
        Ok(Self { payload, decisions: Rc::default(), bodies: PhantomData })
    }

    /// The same messages with bodies of another type.
    #[doc(hidden)]
    pub fn retyped<U>(&self) -> MessageBatch<U> {
        MessageBatch { payload: self.payload.clone(), decisions: self.decisions.clone(), bodies: PhantomData }
    }

    /// What the host is told, with the handler's error.
    pub(crate) fn answer(&self, threw: Option<&dyn Display>) -> String {
        let decisions = self.decisions.borrow();
        json!({
            "threw": threw.map(ToString::to_string),
            "batch": decisions.batch,
            "messages": decisions.messages,
        })
        .to_string()
    }

    /// The queue's name.
    pub fn queue(&self) -> String {
        self.payload.queue.clone()
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.payload.messages.len()
    }

    /// Whether there are none. A handler gets no such batch.
    pub fn is_empty(&self) -> bool {
        self.payload.messages.is_empty()
    }

    /// What the queue held when the batch was taken.
    pub fn metrics(&self) -> QueueMetrics {
        self.payload.metrics
    }

    /// The messages, whatever their bodies are.
    pub fn raw_iter(&self) -> impl Iterator<Item = RawMessage> + use<T> {
        let (payload, decisions) = (self.payload.clone(), self.decisions.clone());
        (0..payload.messages.len()).map(move |at| RawMessage {
            payload: payload.clone(),
            at,
            decisions: decisions.clone(),
        })
    }

    /// Marks every message as done of which nothing has been said.
    pub fn ack_all(&self) {
        self.decide(Decision::Ack);
    }

    /// Has every message tried again of which nothing has been said.
    pub fn retry_all(&self) {
        self.retry_all_with_options(&QueueRetryOptions::new());
    }

    /// As [`retry_all`](Self::retry_all), with a delay.
    pub fn retry_all_with_options(&self, options: &QueueRetryOptions) {
        self.decide((*options).into());
    }

    fn decide(&self, decision: Decision) {
        self.decisions.borrow_mut().batch.get_or_insert(decision);
    }
}

impl<T: DeserializeOwned> MessageBatch<T> {
    /// The messages.
    ///
    /// # Errors
    /// When a body is no `T`.
    pub fn messages(&self) -> Result<Vec<Message<T>>> {
        self.iter().collect()
    }

    /// The messages one by one; an error for each whose body is no `T`.
    pub fn iter(&self) -> impl Iterator<Item = Result<Message<T>>> + use<T> {
        self.raw_iter().map(|raw| Ok(Message { body: raw.json()?, raw }))
    }
}

/// A message of a batch, whatever its body is.
#[derive(Clone, Debug)]
pub struct RawMessage {
    payload: Rc<Payload>,
    at: usize,
    decisions: Rc<RefCell<Decisions>>,
}

impl RawMessage {
    fn message(&self) -> Option<&Incoming> {
        self.payload.messages.get(self.at)
    }

    /// Its id, the same at every attempt.
    pub fn id(&self) -> &str {
        self.message().map_or("", |message| &message.id)
    }

    /// When it was sent, in milliseconds since 1970.
    pub fn timestamp(&self) -> u64 {
        self.message().map_or(0, |message| message.timestamp)
    }

    /// How often it has been delivered, this time included.
    pub fn attempts(&self) -> u32 {
        self.message().map_or(0, |message| message.attempts)
    }

    /// What its body is: `json`, `text` or `bytes`.
    pub fn content_type(&self) -> &str {
        self.message().map_or("", |message| &message.content_type)
    }

    /// Its body as bytes: a JSON text, a text, or bytes.
    ///
    /// # Errors
    /// When the host sent no base64.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        let body = self.message().map_or("", |message| &message.body);
        match self.content_type() {
            "bytes" => STANDARD.decode(body).map_err(|error| Error::Body(error.to_string())),
            _ => Ok(body.as_bytes().to_vec()),
        }
    }

    /// Its body as a value. A text is a string; bytes are a list of numbers.
    ///
    /// # Errors
    /// When the body is no `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        let body = self.message().map_or("", |message| &message.body);
        Ok(match self.content_type() {
            "json" => serde_json::from_str(body)?,
            "bytes" => serde_json::from_value(self.bytes()?.into())?,
            _ => serde_json::from_value(body.into())?,
        })
    }

    /// Marks it as done, whatever becomes of the others.
    pub fn ack(&self) {
        self.decide(Decision::Ack);
    }

    /// Has it tried again, whatever becomes of the others.
    pub fn retry(&self) {
        self.retry_with_options(&QueueRetryOptions::new());
    }

    /// As [`retry`](Self::retry), with a delay.
    pub fn retry_with_options(&self, options: &QueueRetryOptions) {
        self.decide((*options).into());
    }

    fn decide(&self, decision: Decision) {
        let mut decisions = self.decisions.borrow_mut();
        if decisions.batch.is_none() {
            decisions.messages.entry(self.id().to_owned()).or_insert(decision);
        }
    }
}

/// A message of a batch.
#[derive(Clone, Debug)]
pub struct Message<T> {
    raw: RawMessage,
    body: T,
}

impl<T> Message<T> {
    /// Its body.
    pub fn body(&self) -> &T {
        &self.body
    }

    /// Its body, without the rest.
    pub fn into_body(self) -> T {
        self.body
    }

    /// The message without its type.
    pub fn raw(&self) -> &RawMessage {
        &self.raw
    }

    /// Its id, the same at every attempt.
    pub fn id(&self) -> &str {
        self.raw.id()
    }

    /// When it was sent, in milliseconds since 1970.
    pub fn timestamp(&self) -> u64 {
        self.raw.timestamp()
    }

    /// How often it has been delivered, this time included.
    pub fn attempts(&self) -> u32 {
        self.raw.attempts()
    }

    /// Marks it as done, whatever becomes of the others.
    pub fn ack(&self) {
        self.raw.ack();
    }

    /// Has it tried again, whatever becomes of the others.
    pub fn retry(&self) {
        self.raw.retry();
    }

    /// As [`retry`](Self::retry), with a delay.
    pub fn retry_with_options(&self, options: &QueueRetryOptions) {
        self.raw.retry_with_options(options);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> MessageBatch<Value> {
        let message = |id: &str, content_type: &str, body: &str| json!({ "id": id, "timestamp": 5, "attempts": 2, "contentType": content_type, "body": body });
        let payload = json!({
            "queue": "q",
            "metrics": { "backlogCount": 3, "backlogBytes": 9 },
            "messages": [message("a", "json", "{\"n\":1}"), message("b", "text", "{"), message("c", "bytes", "AP8=")],
        });
        MessageBatch::read(&payload.to_string()).unwrap()
    }

    #[test]
    fn bodies_are_what_their_types_say() {
        let bodies: Vec<Value> = batch().messages().unwrap().into_iter().map(Message::into_body).collect();
        assert_eq!(bodies, [json!({ "n": 1 }), json!("{"), json!([0, 255])]);
        let bytes: Vec<Vec<u8>> = batch().raw_iter().map(|message| message.bytes().unwrap()).collect();
        assert_eq!(bytes, [&b"{\"n\":1}"[..], b"{", &[0, 255]]);
        assert!(batch().retyped::<u8>().iter().all(|message| message.is_err()));
    }

    #[test]
    fn the_first_word_counts() {
        let batch = batch();
        let messages = batch.messages().unwrap();
        messages[0].ack();
        messages[0].retry();
        messages[1].retry_with_options(&QueueRetryOptions::new().with_delay_seconds(7));
        batch.retry_all();
        batch.ack_all();
        messages[2].ack();
        let answer: Value = serde_json::from_str(&batch.answer(None)).unwrap();
        let expected = json!({
            "threw": null,
            "batch": { "retry": {} },
            "messages": { "a": "ack", "b": { "retry": { "delaySeconds": 7 } } },
        });
        assert_eq!(answer, expected);
    }

    #[test]
    fn messages_are_encoded_by_their_types() {
        let sent = SendMessage::new(&[1, 2]).with_delay_seconds(3).encode().unwrap();
        assert_eq!(sent, json!({ "body": "[1,2]", "contentType": "json", "delaySeconds": 3 }));
        assert_eq!(SendMessage::text("t").encode().unwrap(), json!({ "body": "t", "contentType": "text" }));
        assert_eq!(SendMessage::bytes([0, 255]).encode().unwrap(), json!({ "body": "AP8=", "contentType": "bytes" }));
        assert_eq!(SendMessage::from("s").encode().unwrap(), json!({ "body": "\"s\"", "contentType": "json" }));
    }
}
