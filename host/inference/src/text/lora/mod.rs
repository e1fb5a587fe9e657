//! LoRA adapters (Hu et al. 2021): small updates of a model's weights that a request may ask for by name.
//!
//! An adapter is not merged into the weights: any number of them share one copy of the base model and one batch, in
//! which each row has its own adapter or none ([`AdaptedRows`], over the kernel [`host_kernels::low_rank`]). So a request
//! with an adapter waits for nothing that one without would not.
//!
//! An adapter is a folder as PEFT saves it: `adapter_config.json` ([`config`]) and `adapter_model.safetensors`
//! ([`files`]). Both come from anywhere and are hostile: sizes are bounded by the base model's before anything is
//! allocated, and what an adapter asks for that is not implemented is refused by its name, because an adapter that is
//! applied in part answers plausibly and wrongly. Adapters are read when their model is, so that no step waits for a
//! disk; one that does not fit leaves the model and the other adapters as they are.

pub mod config;
pub mod files;
mod rows;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use host_kernels::low_rank::{LowRank, Values};

use files::{AdapterFiles, Module};
pub(crate) use rows::AdaptedRows;

use super::decoder::description::{Description, RopePairs};

/// Why an adapter is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {fault}", path.display())]
pub struct AdapterError {
    /// The file, or the folder.
    pub path: PathBuf,
    /// The key or tensor, and what is wrong with it.
    pub fault: String,
}

impl AdapterError {
    fn new(path: &Path, fault: impl Into<String>) -> Self {
        Self { path: path.to_owned(), fault: fault.into() }
    }
}

/// What of a model its adapters have to fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Width inside the feed-forward part.
    pub inner: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Values in a head.
    pub head: usize,
    /// Whether the rows of queries and keys are in an order in which neighbours turn together, as converters write them
    /// for GGUF files of the llama family. Adapters have the checkpoint's order, in which halves of a head do.
    pub interleaved: bool,
}

impl From<&Description> for Base {
    fn from(description: &Description) -> Self {
        let Description { width, inner, heads, kv_heads, head, .. } = *description;
        let interleaved = description.rope_pairs == RopePairs::Interleaved;
        Self { layers: description.layers.len(), width, inner, heads, kv_heads, head, interleaved }
    }
}

/// A product of a layer that an adapter may update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Projection {
    Query,
    Key,
    Value,
    Output,
    Gate,
    Up,
    Down,
}

/// How many [`Projection`]s there are.
const PROJECTIONS: usize = 7;

impl Projection {
    /// The rows (outputs) and columns (inputs) of its weight.
    fn shape(self, base: &Base) -> (usize, usize) {
        let (queries, keys) = (base.heads * base.head, base.kv_heads * base.head);
        match self {
            Self::Query => (queries, base.width),
            Self::Key | Self::Value => (keys, base.width),
            Self::Output => (base.width, queries),
            Self::Gate | Self::Up => (base.inner, base.width),
            Self::Down => (base.width, base.inner),
        }
    }

    /// The place in the checkpoint's order of row `row` in the base's.
    fn checkpoint_row(self, base: &Base, row: usize) -> usize {
        match self {
            // Pair `j` of a head is at `2j` and `2j + 1` here, at `j` and `j + head / 2` there.
            Self::Query | Self::Key if base.interleaved => {
                let (head, place) = (row / base.head, row % base.head);
                head * base.head + place % 2 * (base.head / 2) + place / 2
            }
            _ => row,
        }
    }
}

/// An adapter, read for one model.
#[derive(Debug)]
pub struct Adapter {
    id: u64,
    layers: Vec<[Option<LowRank>; PROJECTIONS]>,
}

impl Adapter {
    /// Reads an adapter for `base`.
    ///
    /// # Errors
    /// When a tensor does not fit the base or holds values that are not finite.
    pub fn read(mut files: AdapterFiles, base: &Base) -> Result<Self, AdapterError> {
        let mut layers = Vec::new();
        layers.resize_with(base.layers, Default::default);
        for module in files.take_modules() {
            let shape = |p: &Projection| p.shape(base);
            let outputs = module.projections().iter().map(|p| shape(p).0).sum();
            let inputs = module.projections().first().map_or(0, |p| shape(p).1);
            files.check_shape(&module.down, [module.rank, inputs])?;
            files.check_shape(&module.up, [outputs, module.rank])?;
            let Some(layer) = layers.get_mut(module.layer) else {
                let fault = format!("tensor {}: the model has {} layers", module.down.name, base.layers);
                return Err(files.fault(fault));
            };
            read_module(&mut files, &module, base, layer)?;
        }
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Ok(Self { id: NEXT.fetch_add(1, Ordering::Relaxed), layers })
    }

    /// A number that no other adapter of this process has: sequences with different ones share no cached prefix.
    pub fn id(&self) -> u64 {
        self.id
    }

    fn update(&self, layer: usize, projection: Projection) -> Option<&LowRank> {
        self.layers.get(layer)?[projection as usize].as_ref()
    }
}

fn read_module(
    files: &mut AdapterFiles,
    module: &Module,
    base: &Base,
    layer: &mut [Option<LowRank>; PROJECTIONS],
) -> Result<(), AdapterError> {
    let down = Arc::new(files.values(&module.down, |bytes| bytes)?);
    let mut first = 0;
    for projection in module.projections() {
        let (rows, _) = projection.shape(base);
        let in_order = |bytes: Vec<u8>| {
            let row = bytes.len() / module.outputs().max(1);
            let places = (0..rows).map(|r| (first + projection.checkpoint_row(base, r)) * row);
            places.flat_map(|at| &bytes[at..at + row]).copied().collect()
        };
        let up: Values = files.values(&module.up, in_order)?;
        let update = LowRank::new(module.rank, module.scale, down.clone(), &up);
        if layer[*projection as usize].replace(update).is_some() {
            let fault = format!("tensor {} updates a weight that another tensor updates too", module.up.name);
            return Err(files.fault(fault));
        }
        first += rows;
    }
    Ok(())
}

/// An adapter that a model is to offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterSource {
    /// The name that requests use.
    pub name: String,
    /// The folder.
    pub path: PathBuf,
    /// Bytes that were counted for it. If its files have grown since, it is refused.
    pub bytes: u64,
}

/// The adapters of a loaded model, by name, with those that could not be read and why.
#[derive(Debug, Default)]
pub struct Adapters(BTreeMap<String, Result<Arc<Adapter>, AdapterError>>);

impl Adapters {
    /// Reads `sources` for `base`. Faults are logged and kept for the requests that ask for the adapter.
    pub fn read(sources: &[AdapterSource], base: &Base) -> Self {
        let read = |source: &AdapterSource| {
            let files = AdapterFiles::open(&source.path)?;
            if files.bytes() > source.bytes {
                let fault = format!("has grown to {} bytes since the host started; restart it", files.bytes());
                return Err(AdapterError::new(&source.path, fault));
            }
            Adapter::read(files, base).map(Arc::new)
        };
        let read = sources.iter().map(|source| {
            let adapter = read(source);
            if let Err(error) = &adapter {
                tracing::warn!(adapter = source.name, %error, "an adapter cannot be used");
            }
            (source.name.clone(), adapter)
        });
        Self(read.collect())
    }

    /// The adapter `name`: none where there is none of that name.
    pub fn get(&self, name: &str) -> Option<Result<Arc<Adapter>, AdapterError>> {
        self.0.get(name).cloned()
    }

    /// The names, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}
