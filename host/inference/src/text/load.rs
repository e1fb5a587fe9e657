//! From files to a running model: what is checked, in which order, before memory is taken.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use host_kernels::kv::{BLOCK_TOKENS, KvStore};
use host_kernels::threads::ThreadPool;

use super::budget::Budget;
use super::decoder::{Decoder, DecoderError};
use super::files::ModelFiles;
use super::lora::{AdapterSource, Adapters, Base};
use super::model::TextModel;
use super::template::TemplateError;
use super::tensors::{TensorCache, TensorDecoder};
use super::tokenizer::TokenizerError;
use super::weights::Compute;
use crate::backend::TextGeneration;
use crate::device::Placement;

/// Bytes of KV cache that a model may have. Only what is used is taken from the system.
pub const DEFAULT_CACHE: u64 = 1 << 30;

/// How to load a model.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Threads that compute; none for what the process may use, at most 16.
    pub threads: Option<NonZeroUsize>,
    /// Upper bound on the context, in tokens; none for what the file says.
    pub context: Option<NonZeroUsize>,
    /// Generations of one tenant that may wait. More are refused with 3040.
    pub queue: usize,
    /// Generations that may run together.
    pub sequences: NonZeroUsize,
    /// Upper bound on the bytes of weights, adapters and KV cache together; none for 1 GiB of cache beside the others.
    pub memory: Option<u64>,
    /// Adapters that requests may name.
    pub adapters: Vec<AdapterSource>,
    /// Where to compute.
    pub placement: Placement,
    /// Whether what an answer says next is guessed from what came before, where that saves time. It changes no answer.
    pub speculation: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        let sequences = NonZeroUsize::new(32).unwrap_or(NonZeroUsize::MIN);
        Self {
            threads: None,
            context: None,
            queue: 256,
            sequences,
            memory: None,
            adapters: Vec::new(),
            placement: Placement::Processor,
            speculation: false,
        }
    }
}

/// Why a model is not loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file is not right.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: DecoderError,
    },
    /// The tokenizer in the file cannot be used.
    #[error("{path}: {source}")]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: TokenizerError,
    },
    /// The chat template in the file cannot be used.
    #[error("{path}: {source}")]
    Template {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: TemplateError,
    },
    /// The budget is too small.
    #[error(
        "{path} needs at least {needed} bytes for its weights and one block of cache, and it may have {budget} bytes"
    )]
    Memory {
        /// The file.
        path: PathBuf,
        /// The least that would do.
        needed: u64,
        /// What is allowed.
        budget: u64,
    },
    /// The device that was chosen cannot be used, or not for this model.
    #[error("{path} cannot be computed on the device: {fault}")]
    Device {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        fault: String,
    },
    /// The system refused a thread.
    #[error("cannot start a thread for the model: {0}")]
    Thread(#[from] std::io::Error),
}

/// As [`TextModel::load`].
///
/// # Errors
/// As [`TextModel::load`].
pub fn load(path: &Path, options: LoadOptions) -> Result<Arc<dyn TextGeneration>, LoadError> {
    Ok(Arc::new(TextModel::load(path, options)?))
}

impl TextModel {
    /// Loads the GGUF file, or the directory of a checkpoint, at `path`. Blocks while it reads and repacks: call it off
    /// the async workers.
    ///
    /// # Errors
    /// When a file is damaged, of a kind that is not supported, or larger than the budget.
    pub fn load(path: &Path, options: LoadOptions) -> Result<Self, LoadError> {
        let started = Instant::now();
        let in_file = |source: DecoderError| LoadError::File { path: path.to_owned(), source };
        let files = ModelFiles::open(path).map_err(in_file)?;
        let mut description = files.describe().map_err(in_file)?;
        let vocabulary = files.vocabulary().map_err(|source| LoadError::Tokenizer { path: path.to_owned(), source })?;
        let template =
            files.template(&vocabulary).map_err(|source| LoadError::Template { path: path.to_owned(), source })?;
        description.limit_vocabulary(vocabulary.len()).map_err(in_file)?;
        // Before memory is taken for the cache.
        description.check(files.source()).map_err(in_file)?;
        let on_device = |fault: String| LoadError::Device { path: path.to_owned(), fault };
        let device = options.placement.open().map_err(on_device)?;
        let adapters = options.adapters.iter().map(|adapter| adapter.bytes).fold(0, u64::saturating_add);
        let weights = files.bytes().saturating_add(adapters);
        let budget = Budget { device: device.as_ref(), weights, allowed: options.memory };
        let blocks = budget.blocks(&description, options.sequences).map_err(|needed| LoadError::Memory {
            path: path.to_owned(),
            needed,
            budget: budget.bytes(),
        })?;
        description.limit_context(options.context.map_or(usize::MAX, NonZeroUsize::get));
        description.limit_context(blocks * BLOCK_TOKENS);
        let context = description.context;
        let adapters = Adapters::read(&options.adapters, &Base::from(&description));
        let source = files.source();
        let this = match device {
            None => {
                let threads = options.threads.unwrap_or_else(default_threads);
                let compute = Compute::new(ThreadPool::new("text-compute", threads)?);
                tracing::debug!(threads, isa = compute.isa.name(), "the model computes with kernels");
                let cache = KvStore::new(description.kv_shape(), blocks);
                let model = Decoder::read(description, source, compute).map_err(in_file)?;
                let bytes = model.bytes();
                drop(files);
                Self::start(model, cache, vocabulary, template, adapters, context, bytes, &options)?
            }
            Some(_) if !options.adapters.is_empty() => {
                let fault = "LoRA adapters are applied on the processor only; set [ai] device = \"cpu\"".to_owned();
                return Err(on_device(fault));
            }
            Some(device) => {
                let model = TensorDecoder::read(description.clone(), source, &device).map_err(in_file)?;
                let bytes = model.bytes();
                drop(files);
                let cache = TensorCache::new(&description, blocks, &device);
                let cache = cache.map_err(|error| on_device(error.to_string()))?;
                Self::start(model, cache, vocabulary, template, adapters, context, bytes, &options)?
            }
        };
        let (path, bytes, placement) = (path.display(), this.weight_bytes(), options.placement);
        let seconds = started.elapsed().as_secs_f64();
        tracing::info!(%path, bytes, context, blocks, ?placement, seconds, "text model loaded");
        Ok(this)
    }
}

/// How many threads to use when nobody says: what this process may use, at most 16.
fn default_threads() -> NonZeroUsize {
    let available = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    available.min(NonZeroUsize::new(16).unwrap_or(available))
}
