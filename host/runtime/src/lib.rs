//! Runs WebAssembly components that answer HTTP requests.
//!
//! One [`Runtime`] holds the compiler, the instance pool and the clock that bounds guests. It compiles a component
//! once ([`Runtime::compile`]), links it with what a worker was granted ([`Worker::new`]) and then answers requests
//! ([`Worker::handle`]), under limits that are on by default.
//!
//! This crate knows nothing of bindings: whatever a guest can import beyond WASI comes in through [`Extension`]. A
//! guest is hostile. It may spin, allocate, flood its log, answer without end or never; each ends that one request
//! with a [`Failure`], and neither the process nor another worker notices.

mod body;
mod cache;
mod component;
mod control;
mod engine;
mod event;
mod failure;
mod guest_log;
mod limits;
mod link;
mod proxy;
mod script;
mod state;
mod worker;

pub use body::{BodyError, ResponseBody};
pub use cache::CacheError;
pub use component::{CompileError, Compiled, Flavour};
pub use control::{RequestContext, RequestIds};
pub use engine::{Runtime, RuntimeConfig, StartError};
pub use event::EventFault;
pub use failure::Failure;
pub use limits::Limits;
pub use link::{Instances, LinkError, WorkerConfig};
pub use script::{MapStack, Script, ScriptEngine, ScriptEngineError, StartFault};
pub use state::{Extension, OutboundResult, State};
pub use worker::Worker;
