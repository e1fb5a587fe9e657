//! What can go wrong with a queue.

use host_state::StateError;

use crate::message::{MAX_BATCH, MAX_BATCH_BYTES, MAX_DELAY, MAX_MESSAGE_BYTES};

/// Why a queue refused something. The words are those that a producer reads.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// The file cannot be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// No queue has such a name.
    #[error(
        "{0:?} cannot name a queue: names have lower-case letters, digits and `-`, up to 63, and begin with no `-`"
    )]
    Name(String),
    /// One message is too long.
    #[error("message length of {0} bytes exceeds limit of {MAX_MESSAGE_BYTES}")]
    MessageBytes(usize),
    /// Too many messages at once.
    #[error("batch message count of {0} exceeds limit of {MAX_BATCH}")]
    BatchCount(usize),
    /// Messages that are too long together.
    #[error("batch size of {0} bytes exceeds limit of {MAX_BATCH_BYTES}")]
    BatchBytes(usize),
    /// No message at all.
    #[error("sendBatch() requires at least one message")]
    Empty,
    /// A delay that is longer than any may be.
    #[error("a delay of {0} seconds exceeds limit of {MAX_DELAY}")]
    Delay(u64),
    /// The queue holds as much as it may.
    #[error(
        "the queue {queue:?} is full: it holds {bytes} bytes of the {limit} that it may; its consumer has to catch up, or \
         `host queues purge {queue}` empties it"
    )]
    Full {
        /// Its name.
        queue: String,
        /// What it holds.
        bytes: u64,
        /// What it may hold.
        limit: u64,
    },
}

impl QueueError {
    /// Whether the producer is at fault, and sending the same again is of no use.
    pub fn is_refusal(&self) -> bool {
        !matches!(self, Self::State(_) | Self::Full { .. })
    }
}
