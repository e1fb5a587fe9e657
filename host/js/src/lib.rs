//! JavaScript and TypeScript workers, from their sources to what the host runs.
//!
//! A worker in JavaScript is a script that a shared engine component evaluates. So there are two things to make:
//!
//! - the engine, once for a machine: [`Toolchain::ready`] installs what makes it and makes it;
//! - the script, whenever the worker's sources change: [`Builder::build`] bundles it, or finds that it still holds.
//!
//! Both are done by programs for Node.js that are part of this crate's binary; this crate starts them, bounds them, and
//! says what went wrong. What the script reports while it runs is about lines that nobody wrote; [`Mapper`] turns them
//! back into those of the sources.
//!
//! The crate knows nothing of WebAssembly, binding files or requests. Its calls block: they belong on a thread that may.

mod build;
mod bundler;
mod command;
mod embedded;
mod lock;
mod message;
mod progress;
pub mod stack;
mod tail;
mod text;
mod toolchain;

pub use build::{BuildError, BuildRequest, Builder, Built};
pub use bundler::{Bundle, BundleError, BundleRequest, Bundler};
pub use command::CommandError;
pub use message::{Level, Message, Note};
pub use progress::{NoProgress, Progress};
pub use stack::Mapper;
pub use toolchain::{Toolchain, ToolchainError};
