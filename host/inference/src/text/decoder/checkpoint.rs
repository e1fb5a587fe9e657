//! A directory as checkpoints are published: `config.json` beside safetensors, in one file or in shards.
//!
//! Headers are checked before anything is mapped: their length against the file's, every tensor's type, shape and place
//! against each other (see [`crate::store`]). Shards are found through `model.safetensors.index.json`, whose file
//! names must stay in the directory, and a tensor that two shards have is refused.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::path::Path;

use candle_core::quantized::GgmlDType;
use safetensors::Dtype;
use serde_json::Value;

use super::DecoderError;
use super::source::RawTensor;
use crate::store::{check_safetensors, read_config, weight_files};
use crate::text::mapped::Mapped;

struct Entry {
    shard: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

/// An open checkpoint.
pub struct Checkpoint {
    /// What `config.json` says.
    pub config: Value,
    shards: Vec<Mapped>,
    tensors: HashMap<String, Entry>,
}

impl Checkpoint {
    /// Reads `config.json` and the headers of the weights in `directory`, and maps the weights.
    ///
    /// # Errors
    /// When a file is missing or not what its name says.
    pub fn open(directory: &Path) -> Result<Self, DecoderError> {
        let config = read_config(directory)?;
        let mut this = Self { config, shards: Vec::new(), tensors: HashMap::new() };
        for path in weight_files(directory)? {
            this.add(&path)?;
        }
        Ok(this)
    }

    fn add(&mut self, path: &Path) -> Result<(), DecoderError> {
        let fault = |fault: String| DecoderError::invalid(path.display().to_string(), fault);
        let header = check_safetensors(path).map_err(fault)?;
        let shard = Mapped::open(path).map_err(|error| fault(format!("cannot be mapped: {error}")))?;
        for (name, info) in header.metadata.tensors() {
            let place = |offset: usize| usize::try_from(header.data_start).ok()?.checked_add(offset);
            let (start, end) = (place(info.data_offsets.0), place(info.data_offsets.1));
            let (Some(start), Some(end)) = (start, end) else {
                return Err(fault(format!("tensor {name:.80} lies beyond what can be addressed")));
            };
            // The file may have been replaced since its header was read.
            if end > shard.len() || start > end {
                return Err(fault(format!("it ends inside tensor {name:.80}; it is truncated")));
            }
            let entry =
                Entry { shard: self.shards.len(), dtype: info.dtype, shape: info.shape.clone(), bytes: start..end };
            if self.tensors.insert(name.clone(), entry).is_some() {
                return Err(fault(format!("tensor {name:.80} is in another file too")));
            }
        }
        self.shards.push(shard);
        Ok(())
    }

    /// Bytes of all weights.
    pub fn length(&self) -> u64 {
        self.shards.iter().map(|shard| shard.len() as u64).sum()
    }

    pub(super) fn tensor(&self, name: &str) -> Result<Option<RawTensor<'_>>, DecoderError> {
        let Some(entry) = self.tensors.get(name) else { return Ok(None) };
        let dtype = match entry.dtype {
            Dtype::F32 => GgmlDType::F32,
            Dtype::F16 => GgmlDType::F16,
            Dtype::BF16 => GgmlDType::BF16,
            other => {
                let fault = format!("it holds {other:?}; F32, F16 and BF16 are read");
                return Err(DecoderError::invalid(format!("tensor {name}"), fault));
            }
        };
        let file = &self.shards[entry.shard];
        Ok(Some(RawTensor { dtype, shape: &entry.shape, bytes: &file[entry.bytes.clone()], file: Some(file) }))
    }

    pub(super) fn names(&self) -> BTreeSet<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }
}
