//! Decoder-only transformers: one forward pass for every architecture that is read.
//!
//! A reader ([`gguf`], [`hugging_face`]) turns a file's metadata into a [`Description`], which says what is computed from which tensors;
//! [`Description::check`] compares it with the file; [`Decoder`] loads the weights and computes. Architectures differ
//! in the description alone, so each further one is a few lines in the readers, and another implementation of the
//! forward pass can run from the same description and [`Source`]. candle's own models keep the cache in the model
//! with one position for the whole batch, which rules them out; what is candle's here is the weight types, their
//! decoding and every product that has no kernel of ours (see [`super::weights`]).

pub mod checkpoint;
pub mod description;
mod forward;
pub mod gguf;
pub mod hugging_face;
mod rope;
pub mod source;

pub use description::Description;
pub use forward::Decoder;
pub use source::Source;

use super::gguf::GgufError;
use crate::store::StoreError;

/// Why a model is not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecoderError {
    /// The file is not right.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A directory's files are not right.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A kind of model that is not implemented.
    #[error("it holds a model of architecture {0:?}; the architectures that are read are {known}", known = known())]
    Architecture(String),
    /// A value that contradicts another, is out of bounds, or asks for what is not implemented.
    #[error("{what}: {fault}")]
    Invalid {
        /// The key or tensor.
        what: String,
        /// What is wrong with it.
        fault: String,
    },
    /// A key or tensor that the model needs.
    #[error("{0} is missing from the file")]
    Missing(String),
}

/// Every architecture, by the names that files give them.
fn known() -> String {
    let mut names = gguf::ARCHITECTURES.to_vec();
    names.extend(hugging_face::MODEL_TYPES);
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

impl DecoderError {
    pub(crate) fn invalid(what: impl Into<String>, fault: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), fault: fault.into() }
    }
}

#[cfg(test)]
mod tests;
