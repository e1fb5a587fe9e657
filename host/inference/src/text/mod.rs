//! Text generation from GGUF files and published checkpoints.
//!
//! [`load`] maps the weights, reads the tokenizer and chat template, repacks the weights, drops the map and starts the
//! model's threads: one that runs steps (the scheduler), one that renders and tokenizes prompts so that neither callers
//! nor running answers wait for it, and those that compute. What comes back is a
//! [`crate::backend::TextGeneration`] and knows nothing of JSON or of how the request arrived.
//!
//! The path of a request: [`marks`] → [`template`] → [`tokenizer`] → the scheduler's queue → [`decoder`], or [`tensors`] on
//! a GPU, over the blocks that [`kv_blocks`] hands out → [`sampler`] → detokenizer → [`stop`] → an event.

mod budget;
pub mod decoder;
mod files;
pub mod forward;
pub mod gguf;
mod grammar;
pub mod kv_blocks;
mod load;
pub mod lora;
mod mapped;
pub mod marks;
mod model;
mod prompts;
pub mod sampler;
mod scheduler;
mod sequence;
pub mod stop;
pub mod template;
pub mod tensors;
#[cfg(test)]
mod testing;
pub mod tokenizer;
mod tool_prompt;
pub mod weights;

pub(crate) use decoder::source::dequantize;
pub(crate) use gguf::weight_type;
pub use load::{DEFAULT_CACHE, LoadError, LoadOptions, load};
pub use lora::{AdapterSource, files::AdapterFiles};
pub(crate) use mapped::Mapped;
pub use model::TextModel;
pub use scheduler::Statistics;
pub(crate) use tool_prompt::normalize_calls;

#[cfg(test)]
pub(crate) use testing::request as testing_request;
