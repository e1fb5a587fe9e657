//! Vector indexes with the interface of Cloudflare's Vectorize, kept on this machine.
//!
//! An index is a file of the state ([`host_state`]), which is the source of truth: vectors, metadata and a log of
//! mutations. What searches look at is made from it in memory, by one process for itself, and follows the log; nothing
//! of it is kept, so nothing of it can be lost or be wrong after a crash.
//!
//! Small indexes are searched exactly. Above some thousands of vectors a graph (HNSW) leads the search; filters and
//! namespaces are sets of slots that it accepts, and where such a set is small it is compared one by one instead.
//!
//! Requests and answers are JSON as Vectorize has them, because every caller has JSON: guests, and NDJSON on the command
//! line. The crate knows nothing of workers or HTTP.

#![deny(clippy::unwrap_used)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod error;
mod filter;
mod graph;
mod index;
mod indexes;
pub mod limits;
mod metadata;
mod metric;
mod request;
mod store;
mod view;

pub use error::VectorizeError;
pub use index::Index;
pub use indexes::Indexes;
pub use metadata::PropertyKind;
pub use metric::Metric;
pub use store::IndexConfig;
