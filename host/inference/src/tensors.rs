//! Tensors out of safetensors files, as float32.
//!
//! A tensor is read only when the header gives it the very shape that the configuration demands, so what is allocated
//! is bounded by the size of the file, whatever either of them claims. The file is read, not mapped: another program
//! that shortens a mapped file would bring this one down.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use host_kernels::floats::FloatFormat;
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;

use crate::store::{check_safetensors, weight_files};

/// The weights of a model, in one file or in shards. Every error names the file, and the tensor where there is one.
pub(crate) struct Tensors {
    shards: Vec<Shard>,
    tensors: HashMap<String, (usize, TensorInfo)>,
    prefix: String,
}

struct Shard {
    path: PathBuf,
    file: File,
    data_start: u64,
}

impl Tensors {
    /// The weights in `folder`: `model.safetensors`, or the shards that its index names.
    pub(crate) fn open(folder: &Path) -> Result<Tensors, String> {
        Self::open_files(&weight_files(folder).map_err(|error| error.to_string())?)
    }

    /// The weights in `files`, taken together.
    pub(crate) fn open_files(files: &[PathBuf]) -> Result<Tensors, String> {
        let mut this = Tensors { shards: Vec::new(), tensors: HashMap::new(), prefix: String::new() };
        for path in files {
            this.add(path).map_err(|why| format!("{}: {why}", path.display()))?;
        }
        Ok(this)
    }

    fn add(&mut self, path: &Path) -> Result<(), String> {
        let header = check_safetensors(path)?;
        let file = File::open(path).map_err(|error| format!("cannot be opened: {error}"))?;
        for (name, info) in header.metadata.tensors() {
            if self.tensors.insert(name.clone(), (self.shards.len(), info.clone())).is_some() {
                return Err(format!("tensor {name:.80} is in another file too"));
            }
        }
        self.shards.push(Shard { path: path.to_owned(), file, data_start: header.data_start });
        Ok(())
    }

    /// Puts `prefix` before every name that is asked for from now on.
    pub(crate) fn below(mut self, prefix: &str) -> Tensors {
        prefix.clone_into(&mut self.prefix);
        self
    }

    /// The shape of the tensor `name`, slowest dimension first; none if there is no such tensor.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(&format!("{}{name}", self.prefix)).map(|(_, info)| info.shape.as_slice())
    }

    /// The tensor `name`, which must have `shape`, in row-major order.
    pub(crate) fn read(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
        let (format, bytes) = self.raw(name, shape)?;
        let pairs = || bytes.as_chunks::<2>().0.iter();
        Ok(match format {
            FloatFormat::F32 => bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect(),
            FloatFormat::F16 => pairs().map(|two| f16::from_le_bytes(*two).to_f32()).collect(),
            FloatFormat::Bf16 => pairs().map(|two| bf16::from_le_bytes(*two).to_f32()).collect(),
        })
    }

    /// The tensor `name`, which must have `shape`, in row-major order, as the little-endian floats that
    /// the file holds.
    pub(crate) fn raw(&mut self, name: &str, shape: &[usize]) -> Result<(FloatFormat, Vec<u8>), String> {
        let name = format!("{}{name}", self.prefix);
        let Some((shard, info)) = self.tensors.get(&name) else {
            let files: Vec<_> = self.shards.iter().map(|shard| shard.path.display().to_string()).collect();
            return Err(format!("{}: there is no tensor {name}", files.join(", ")));
        };
        let Shard { path, file, data_start } = &mut self.shards[*shard];
        let fault = |why: String| format!("{}: tensor {name} {why}", path.display());
        if info.shape != shape {
            return Err(fault(format!("has the shape {:?}, config.json says {shape:?}", info.shape)));
        }
        let format = match info.dtype {
            Dtype::F32 => FloatFormat::F32,
            Dtype::F16 => FloatFormat::F16,
            Dtype::BF16 => FloatFormat::Bf16,
            other => return Err(fault(format!("holds {other:?}; F32, F16 and BF16 are known"))),
        };
        let (start, end) = info.data_offsets;
        let mut bytes = vec![0; end - start];
        file.seek(SeekFrom::Start(*data_start + start as u64))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|error| fault(format!("cannot be read: {error}")))?;
        Ok((format, bytes))
    }
}
