//! The engine from outside, as one program: each further one would link candle again.

#![allow(missing_docs, clippy::unwrap_used)]

mod decoders;
mod diffusion;
mod edits;
mod embeddings;
mod encoders;
mod engine;
mod hub;
mod import;
mod lora;
mod memory;
mod mobilenet;
mod remote;
#[path = "../../../../tests/support/scripted.rs"]
mod scripted;
mod seq2seq;
mod smollm2;
mod speech;
mod store;
mod support;
mod text_generation;
mod text_to_image;
mod text_to_speech;
mod vision;
