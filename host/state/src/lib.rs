//! What outlives the process: SQLite files in one directory, each with one writer.
//!
//! The stores of bindings (vectors, queues, logs) say what they keep as tables and statements; this crate says how it is
//! kept, so that every store has the same promises:
//!
//! - What [`Database::write`] has answered is on the disk, and survives `kill -9` and a loss of power at any instant.
//! - A file has one thread that writes. Writes that arrive together share a transaction and its flush to the disk, each
//!   in a savepoint of its own, so that a failed one takes nothing else with it. No async worker ever waits for a disk.
//! - Readers see the last committed state and never wait for the writer.
//! - A file that is not what it should be is an error with the file's name. Nothing is ever created in its place.
//! - Other processes may read and write the same files at the same time (`host vectorize insert` beside `host serve`).
//!
//! The crate knows nothing of bindings, workers or HTTP.

#![deny(clippy::unwrap_used)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod backup;
mod database;
mod directory;
mod error;
mod open;
mod writer;

pub use database::Database;
pub use directory::{Directory, IN_PROJECT};
pub use error::StateError;
pub use rusqlite;
