//! Write an HTTP worker in Rust, run it as a WebAssembly component.
//!
//! ```no_run
//! # mod worker {
//! use host_sdk::*;
//!
//! #[fetch]
//! async fn main(req: Request, env: Env, _ctx: Context) -> Result<Response> {
//!     let input = ai::TextGenerationInput::prompt(format!("Say something about {}", req.path()));
//!     let output: ai::TextGenerationOutput =
//!         env.ai("AI")?.run("@cf/meta/llama-3.1-8b-instruct", &input).await?;
//!     Response::from_json(&output)
//! }
//! # }
//! ```
//!
//! The names are those that users of workers in Rust know. The same source builds for WASI 0.2 (feature `p2`, the
//! default) and WASI 0.3 (feature `p3`). A worker that uses neither `env` nor AI imports nothing but WASI, so that any
//! host that serves `wasi:http` runs it.
//!
//! What this crate may not know: where models run, what the binding file says beyond what it grants, and which worker
//! this is. All of that is the host's.

#![cfg_attr(test, allow(clippy::unwrap_used))]

// The generated bindings and the attributes name this crate from outside, also when they stand inside it.
extern crate self as host_sdk;

pub mod ai;
mod binding;
mod body;
mod context;
mod env;
mod error;
mod fetch;
mod glue;
mod headers;
mod method;
mod queue;
mod request;
mod response;
mod router;
mod scheduled;
mod sys;
#[cfg(test)]
mod testing;
mod time;
pub mod vectorize;

pub use binding::Binding;
pub use body::ByteStream;
pub use context::Context;
pub use env::{BindingKind, Env, Secret, Var};
pub use error::{AiError, BindingError, Error, Result};
pub use fetch::Fetch;
pub use futures_util;
pub use headers::Headers;
pub use host_sdk_macros::{event, fetch, queue, scheduled};
pub use method::Method;
pub use queue::{Message, MessageBatch, Queue, QueueMetrics, QueueRetryOptions, RawMessage, SendMessage};
pub use request::{Request, RequestInit};
pub use response::{Response, StreamBody};
pub use router::{RouteContext, RouteParams, Router};
pub use scheduled::{ScheduleContext, ScheduledEvent};
pub use time::{Delay, sleep};
pub use url::Url;

/// For the code that the macros of this crate write; nothing here is stable.
#[doc(hidden)]
pub mod __private {
    pub use crate::glue::{Handler, Handling};
    pub use crate::scheduled::Outcome;
    pub use crate::sys::generated;
    pub use inventory;
    pub use wit_bindgen;
}

/// Writes a line to the worker's log.
///
/// ```
/// host_sdk::console_log!("{} items", 3);
/// ```
#[macro_export]
macro_rules! console_log {
    ($($arg:tt)*) => { ::std::println!($($arg)*) };
}

/// Writes a line to the worker's log as an error.
///
/// ```
/// host_sdk::console_error!("the cache is {}", "cold");
/// ```
#[macro_export]
macro_rules! console_error {
    ($($arg:tt)*) => { ::std::eprintln!($($arg)*) };
}
