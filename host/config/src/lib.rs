//! The binding file, decoded once into types that cannot be wrong.
//!
//! A binding file (`wrangler-like.toml`, `wrangler.toml`, `wrangler.jsonc`) says which workers a host serves, what each
//! is granted, and which models the host has. [`load`] reads it and either gives a [`Project`], in which every name is
//! valid, every path absolute and every limit set, or every fault of every file with its place. Nothing after this
//! crate parses a string of a binding file again.
//!
//! The crate knows nothing of WebAssembly, HTTP or models. It opens no file but the binding files and the secrets file
//! beside each; of components, scripts, assets and models it looks only whether they are there. Binding files are trusted to grant, but
//! not to be well formed: whatever bytes they hold, loading ends in a project or in faults, in bounded time and memory.
//!
//! TOML and JSONC are two front ends of one spanned tree ([`Syntax`]). The keys are data ([`keys`], [`schema`]).
//!
//! ```no_run
//! let options = host_config::LoadOptions { env: Some("staging".into()), ..Default::default() };
//! match host_config::load(&options) {
//!     Ok(project) => println!("{} workers", project.workers.len()),
//!     Err(faults) => eprintln!("{faults}"),
//! }
//! ```

#![deny(clippy::unwrap_used)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod ai;
mod assets;
mod cron;
mod diagnostic;
mod explain;
mod gateways;
mod jsonc_syntax;
pub mod keys;
mod layer;
mod load;
mod lora;
mod names;
mod outbound;
mod paths;
mod project;
mod queues;
mod route;
pub mod schema;
mod seat;
mod secrets;
mod servers;
mod source;
mod toml_syntax;
mod tree;
mod worker;

pub use ai::{Ai, Device, ModelEntry, ModelSource, Pooling, Precision, Task};
pub use assets::{Assets, HtmlHandling, NotFoundHandling, PathGlob, RunWorkerFirst, Turn};
pub use cron::{Cron, CronError};
pub use diagnostic::{Diagnostic, Faults, Severity};
pub use explain::{Missing, explain_missing};
pub use gateways::{GatewayEntry, ProviderEntry, ProviderKind, RateLimit, Similar};
pub use load::{FILE_NAMES, LoadOptions, load};
pub use lora::LoraEntry;
pub use names::{NameError, WorkerName};
pub use outbound::Outbound;
pub use project::{Dev, Project};
pub use queues::QueueConsumer;
pub use route::{HostPattern, PathPattern, Route, RouteError, Specificity};
pub use servers::{OpenAiModel, Servers};
pub use tree::Syntax;
pub use worker::{
    AiGrant, Binding, CompatibilityDate, DateError, Instances, Limits, Main, Secret, VectorIndex, Worker,
};
