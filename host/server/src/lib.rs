//! Listens, decides which worker a request is for, and stops cleanly.
//!
//! A [`Server`] owns sockets and connections; a [`Router`] maps a request to a worker. Whatever a peer sends is hostile:
//! heads have a size and a time, bodies a limit and a pace, and a peer that stops reading is disconnected. A request that
//! cannot be answered gets a JSON page with a code and a request id, and nothing about the inside.

mod connection;
mod page;
mod router;
mod scheduled;
mod triggers;
mod write_timeout;

pub use connection::{BindError, Routes, Server, ServerConfig};
pub use page::Page;
pub use router::{Router, Served};
pub use triggers::Triggers;
