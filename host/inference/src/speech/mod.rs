//! Speech to text.
#![allow(dead_code)]

pub(crate) mod audio;
mod config;
pub(crate) mod mel;
mod network;
#[cfg(test)]
mod testing;

pub use network::Precision;
