//! Messages on their way in and out, and the bounds on them ("Limits", Cloudflare's documentation of Queues).

use serde::Serialize;

use crate::QueueError;

/// Bytes of one message's body.
pub const MAX_MESSAGE_BYTES: usize = 128_000;
/// Messages that are sent at once.
pub const MAX_BATCH: usize = 100;
/// Bytes of the bodies that are sent at once.
pub const MAX_BATCH_BYTES: usize = 256_000;
/// Seconds that a message may be held back: 12 hours.
pub const MAX_DELAY: u32 = 43_200;

/// What the bytes of a body are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ContentType {
    /// A JSON text.
    Json,
    /// UTF-8.
    Text,
    /// Anything.
    Bytes,
}

impl ContentType {
    /// Its name, as producers and consumers write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Text => "text",
            Self::Bytes => "bytes",
        }
    }

    /// The type of this name.
    pub fn of(name: &str) -> Option<Self> {
        [Self::Json, Self::Text, Self::Bytes].into_iter().find(|it| it.name() == name)
    }
}

/// A message to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMessage {
    /// Its body.
    pub body: Vec<u8>,
    /// What that is.
    pub content_type: ContentType,
    /// Seconds before it may be delivered.
    pub delay: u32,
}

/// A message that is being delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub(crate) seq: i64,
    /// Its id: 32 hexadecimal digits, the same at every attempt.
    pub id: String,
    /// When it was sent, in milliseconds since 1970.
    pub sent_ms: i64,
    /// How often it has been delivered, this time included.
    pub attempts: u32,
    /// What its body is.
    pub content_type: ContentType,
    /// Its body.
    pub body: Vec<u8>,
}

/// What becomes of a delivered message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It is done.
    Ack,
    /// It is to be delivered again, after so many seconds, or after the consumer's own delay.
    Retry {
        /// Seconds; more than [`MAX_DELAY`] count as that.
        delay: Option<u32>,
    },
    /// It was not handled at all: it goes back as if it had never been delivered.
    Return,
}

/// A message as somebody who looks on sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peeked {
    /// Its id.
    pub id: String,
    /// When it was sent, in milliseconds since 1970.
    pub sent_ms: i64,
    /// How often it has been delivered.
    pub attempts: u32,
    /// Where it is.
    pub place: Place,
    /// What its body is.
    pub content_type: ContentType,
    /// Its body.
    pub body: Vec<u8>,
}

/// Where a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// It waits for a consumer.
    Ready,
    /// It waits for its delay to pass.
    Delayed,
    /// A consumer has it.
    Leased,
}

/// Whether messages may be sent together.
pub(crate) fn check(messages: &[NewMessage]) -> Result<(), QueueError> {
    if messages.is_empty() {
        return Err(QueueError::Empty);
    }
    if messages.len() > MAX_BATCH {
        return Err(QueueError::BatchCount(messages.len()));
    }
    for message in messages {
        if message.body.len() > MAX_MESSAGE_BYTES {
            return Err(QueueError::MessageBytes(message.body.len()));
        }
        if message.delay > MAX_DELAY {
            return Err(QueueError::Delay(message.delay.into()));
        }
    }
    let bytes = messages.iter().map(|message| message.body.len()).sum();
    if bytes > MAX_BATCH_BYTES { Err(QueueError::BatchBytes(bytes)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: usize) -> NewMessage {
        NewMessage { body: vec![0; bytes], content_type: ContentType::Bytes, delay: 0 }
    }

    #[test]
    fn bounds_hold_to_the_byte() {
        assert!(check(&[message(MAX_MESSAGE_BYTES), message(MAX_MESSAGE_BYTES)]).is_ok());
        assert!(check(&vec![message(2560); MAX_BATCH]).is_ok());
        let refusals = [
            (check(&[]), "sendBatch() requires at least one message"),
            (check(&[message(MAX_MESSAGE_BYTES + 1)]), "message length of 128001 bytes exceeds limit of 128000"),
            (check(&vec![message(0); MAX_BATCH + 1]), "batch message count of 101 exceeds limit of 100"),
            (check(&vec![message(100_000); 3]), "batch size of 300000 bytes exceeds limit of 256000"),
            (
                check(&[NewMessage { delay: MAX_DELAY + 1, ..message(1) }]),
                "a delay of 43201 seconds exceeds limit of 43200",
            ),
        ];
        for (refused, words) in refusals {
            let error = refused.unwrap_err();
            assert_eq!(error.to_string(), words);
            assert!(error.is_refusal());
        }
    }
}
