//! Models as files give them, on whatever computes them.

use std::num::NonZeroUsize;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use host_inference::device::Placement;
use host_inference::text::decoder::checkpoint::Checkpoint;
use host_inference::text::decoder::{self, Decoder, Description, Source};
use host_inference::text::gguf::GgufFile;
use host_inference::text::tensors::{TensorCache, TensorDecoder};
use host_inference::text::weights::Compute;
use host_kernels::kv::KvStore;
use host_kernels::threads::ThreadPool;

/// Opens the file or directory at `path` and gives what is in it to `read`.
fn open<T>(path: &Path, read: impl FnOnce(Description, Source<'_>) -> Result<T>) -> Result<T> {
    let what = || format!("cannot read {}", path.display());
    if path.is_dir() {
        let checkpoint = Checkpoint::open(path).with_context(what)?;
        let source = Source::Checkpoint(&checkpoint);
        let description = decoder::hugging_face::describe(&checkpoint.config, source).with_context(what)?;
        read(description, source).with_context(what)
    } else {
        let file = GgufFile::open(path).with_context(what)?;
        let description = decoder::gguf::describe(file.view()).with_context(what)?;
        read(description, Source::Gguf(file.view())).with_context(what)
    }
}

/// With the kernels of the processor.
pub(crate) fn kernels(path: &Path, blocks: usize) -> Result<(Decoder, KvStore)> {
    open(path, |description, source| {
        let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let store = KvStore::new(description.kv_shape(), blocks);
        let compute = Compute::new(ThreadPool::new("kernels", threads)?);
        Ok((Decoder::read(description, source, compute)?, store))
    })
}

/// With tensors.
pub(crate) fn tensors(path: &Path, blocks: usize, placement: Placement) -> Result<(TensorDecoder, TensorCache)> {
    let device = placement.open().map_err(|why| anyhow!(why))?.context("the placement has no device")?;
    open(path, |description, source| {
        let cache = TensorCache::new(&description, blocks, &device)?;
        Ok((TensorDecoder::read(description, source, &device)?, cache))
    })
}
