//! Queues that lose nothing: messages in a file, leased to whoever works on them.
//!
//! A queue is one database of the project's state, so what [`Queue::send`] has answered is on the disk. Delivery is at
//! least once. A consumer takes a [`Batch`] under a lease that ends by itself, and says of each message whether it is
//! done or is to be tried again; what nobody says anything about comes back when the lease ends. A lease is a row's own
//! business, written in a transaction, so two processes over one directory never hold the same message, and a process
//! that is killed takes nothing with it.
//!
//! The order is that of arrival, roughly: retries, delays and batches that run side by side mix it.
//!
//! The crate knows nothing of workers, guests or HTTP: what a message says and who handles it is others' concern. It
//! knows the rules and bounds that Cloudflare documents for queues, since a producer meets them here.

#![deny(clippy::unwrap_used)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod consumer;
mod error;
mod message;
mod presence;
mod queue;
mod queues;
mod store;

pub use consumer::{Batch, Consumer, LEASE, Policy};
pub use error::QueueError;
pub use message::{
    ContentType, Decision, Delivery, MAX_BATCH, MAX_BATCH_BYTES, MAX_DELAY, MAX_MESSAGE_BYTES, NewMessage, Peeked,
    Place,
};
pub use queue::{Info, MAX_BYTES, Metrics, Queue, RETENTION};
pub use queues::{Queues, check_name};
