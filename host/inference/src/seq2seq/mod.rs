//! Encoder-decoders over text: translation and summarization, from published checkpoints.
//!
//! There is one engine for all architectures, run from a [`description`] that [`config`] makes of `config.json`: M2M-100 and
//! NLLB, Marian, BART, mBART, T5 and Flan-T5. The encoder reads a text once; the decoder goes on token by
//! token, all [`beams`] of a search in one step.
//!
//! [`Seq2Seq`] puts texts and requests around that. Texts are cut at the model's positions; answers are bounded by the
//! model's settings, the request and the positions, whichever is least.

pub mod beams;
pub mod config;
pub mod description;
mod forward;
mod generation;
mod languages;
mod model;
mod pair;
mod places;
mod rules;
mod search;
pub mod sentencepiece;
mod tokens;
mod weights;

use std::num::NonZeroUsize;
use std::path::Path;

use host_kernels::threads::ThreadPool;

use crate::store::read_config;
use crate::tensors::Tensors;

pub use forward::{Encoded, Transformer};
pub use generation::{EarlyStopping, Generation};
pub use model::{Seq2Seq, Settings};
pub use search::SearchError;

/// The English name of the language of this code or name.
pub(crate) fn language_name(asked: &str) -> Option<&'static str> {
    languages::find(asked).map(|language| language.name)
}

impl Transformer {
    /// Reads `config.json` and the weights in `folder`, to compute on so many threads. Blocks.
    ///
    /// # Errors
    /// What is wrong with which file, in words.
    pub fn load(folder: &Path, threads: NonZeroUsize) -> Result<Self, String> {
        let config = read_config(folder).map_err(|error| error.to_string())?;
        let path = folder.join("config.json");
        let description = config::describe(&config).map_err(|error| format!("{}: {error}", path.display()))?;
        let pool = ThreadPool::new("seq2seq", threads).map_err(|error| format!("no threads for the model: {error}"))?;
        Self::read(description, &mut Tensors::open(folder)?, pool)
    }
}
