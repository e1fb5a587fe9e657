//! The inference engine: `env.AI.run(model, inputs, options)` answered on this machine.
//!
//! This crate knows the catalogue of models, where their weights lie, how each task's JSON looks and how each model
//! computes. It knows nothing of WebAssembly, HTTP or binding files, and is usable as a library of its own:
//! [`Engine::run`] takes a [`RunRequest`] and gives a [`RunResponse`].
//!
//! Everything in a request and in a model file is hostile input: it is answered with an [`AiError`], never with a
//! panic or an allocation that the sender chose.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod backend;
pub mod catalogue;
mod desk;
pub mod device;
pub mod diffusion;
pub mod encoder;
pub mod engine;
mod error;
pub mod mock;
mod nearest;
mod noise;
mod pictures;
pub mod remote;
mod request;
mod room;
pub mod seq2seq;
mod sound;
pub mod speech;
pub mod store;
pub mod synthesis;
pub mod tasks;
mod tensors;
pub mod text;
pub mod vision;

pub use catalogue::Task;
pub use engine::{DeviceChoice, Engine, EngineConfig, EngineError, LocalAdapter, LocalModel, LocalSource};
pub use error::AiError;
pub use request::{Attachment, ByteStream, RunOutput, RunRequest, RunResponse, Tenant};
