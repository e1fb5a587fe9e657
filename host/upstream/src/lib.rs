//! Servers that the operator named: how they are reached, chosen, retried and given up on.
//!
//! [`Upstreams`] is a set of servers that answer alike. A call is one or more attempts ([`Upstreams::run`]), each on the
//! server with the fewest calls under way; an attempt that failed before anything of it was used may be made again on
//! another. A server that fails again and again is left alone until a health check finds it answering, so that nobody's
//! request is the test of whether it works.
//!
//! What a server sends is hostile: heads, bodies and events are bounded in size, and every wait has an end. Addresses may
//! be private, because the operator wrote them; no guest ever chooses one. The crate knows nothing of models, of JSON or
//! of guests.

#![deny(clippy::unwrap_used)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod address;
mod answer;
mod breaker;
mod connection;
mod error;
mod events;
mod group;
mod scrub;

pub use address::{Address, AddressError};
pub use answer::Answer;
pub use error::UpstreamError;
pub use events::{Events, LONGEST_EVENT};
pub use group::{Ask, Attempt, Key, Patience, Retries, Settings, Upstreams};
