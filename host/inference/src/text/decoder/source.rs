//! Where a decoder's weights come from: tensors by name, whatever the file's format.

use std::collections::BTreeSet;

use candle_core::Device;
use candle_core::quantized::{GgmlDType, QStorage, QTensor};

use super::DecoderError;
use super::checkpoint::Checkpoint;
use super::description::{MatrixAt, VectorAt};
use crate::text::gguf::View;
use crate::text::mapped::Mapped;

/// A file of weights.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// A GGUF file.
    Gguf(View<'a>),
    /// Safetensors, whose types are those of GGUF's that hold floats.
    Checkpoint(&'a Checkpoint),
}

/// A tensor: its values in row-major order, in blocks of `dtype`.
#[derive(Clone, Copy)]
pub struct RawTensor<'a> {
    /// How its values are stored.
    pub dtype: GgmlDType,
    /// Its shape, slowest dimension first.
    pub shape: &'a [usize],
    /// The values.
    pub bytes: &'a [u8],
    /// The file that they are mapped from.
    pub(super) file: Option<&'a Mapped>,
}

impl RawTensor<'_> {
    /// Says that the values were copied, so that the memory that shows them can go.
    pub fn release(&self) {
        if let Some(file) = self.file {
            file.release(self.bytes);
        }
    }
}

impl<'a> Source<'a> {
    /// The tensor `name`, if there is one.
    ///
    /// # Errors
    /// When its values are of a type that is not read.
    pub fn tensor(&self, name: &str) -> Result<Option<RawTensor<'a>>, DecoderError> {
        match self {
            Self::Gguf(file) => {
                let tensor = file.tensor(name);
                Ok(tensor.map(|(info, bytes)| RawTensor {
                    dtype: info.dtype,
                    shape: &info.shape,
                    bytes,
                    file: file.file(),
                }))
            }
            Self::Checkpoint(checkpoint) => checkpoint.tensor(name),
        }
    }

    /// The names of all tensors.
    pub fn names(&self) -> BTreeSet<&'a str> {
        match self {
            Self::Gguf(file) => file.tensor_names().into_iter().collect(),
            Self::Checkpoint(checkpoint) => checkpoint.names(),
        }
    }

    /// The rows of a matrix.
    ///
    /// # Errors
    /// When the tensor is missing or has another shape.
    pub fn matrix(&self, at: &MatrixAt) -> Result<RawTensor<'a>, DecoderError> {
        let tensor = self.of_shape(&at.name, &[at.of_rows, at.columns])?;
        let row = tensor.bytes.len() / at.of_rows;
        match tensor.bytes.get(at.first * row..(at.first + at.rows) * row) {
            Some(bytes) => Ok(RawTensor { bytes, ..tensor }),
            None => {
                let fault = format!("it has {} rows, not {} from {}", at.of_rows, at.rows, at.first);
                Err(DecoderError::invalid(format!("tensor {}", at.name), fault))
            }
        }
    }

    /// The whole tensor of which `at` is a part.
    pub(super) fn vector_bytes(&self, at: &VectorAt) -> Result<RawTensor<'a>, DecoderError> {
        self.of_shape(&at.name, &[at.of_length])
    }

    fn of_shape(&self, name: &str, shape: &[usize]) -> Result<RawTensor<'a>, DecoderError> {
        let tensor = self.tensor(name)?.ok_or_else(|| DecoderError::Missing(format!("tensor {name}")))?;
        if tensor.shape != shape {
            let fault = format!("its shape is {:?}, but the model's metadata asks for {shape:?}", tensor.shape);
            return Err(DecoderError::invalid(format!("tensor {name}"), fault));
        }
        Ok(tensor)
    }

    /// The values of a vector, with its offset added.
    ///
    /// # Errors
    /// When it is missing, has another shape, or holds values that are not finite.
    pub fn vector(&self, at: &VectorAt) -> Result<Vec<f32>, DecoderError> {
        let tensor = self.vector_bytes(at)?;
        let what = || format!("tensor {}", at.name);
        let values = dequantize(tensor.dtype, tensor.shape, tensor.bytes)
            .map_err(|fault| DecoderError::invalid(what(), fault.to_string()))?;
        if values.iter().any(|v| !v.is_finite()) {
            return Err(DecoderError::invalid(what(), "it holds values that are not finite"));
        }
        Ok(values.iter().skip(at.first).take(at.length).map(|v| v + at.offset).collect())
    }

    /// As [`Self::vector`] of a tensor that may be absent.
    ///
    /// # Errors
    /// As [`Self::vector`].
    pub fn optional_vector(&self, at: &VectorAt) -> Result<Option<Vec<f32>>, DecoderError> {
        if self.tensor(&at.name)?.is_none() { Ok(None) } else { self.vector(at).map(Some) }
    }
}

/// All values of a tensor, which may begin at any byte of a file. `bytes` has as many as `dtype` and `shape` give.
pub(crate) fn dequantize(dtype: GgmlDType, shape: &[usize], bytes: &[u8]) -> candle_core::Result<Vec<f32>> {
    let halves = || bytes.as_chunks::<2>().0.iter();
    match dtype {
        GgmlDType::F32 => Ok(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()),
        GgmlDType::F16 => Ok(halves().map(|bytes| half::f16::from_le_bytes(*bytes).to_f32()).collect()),
        GgmlDType::BF16 => Ok(halves().map(|bytes| half::bf16::from_le_bytes(*bytes).to_f32()).collect()),
        dtype => {
            // Blocks are looked at in place, which half-precision scales forbid at an odd address; what is allocated is even.
            let odd = !bytes.as_ptr().addr().is_multiple_of(align_of::<u64>());
            let bytes = if odd { bytes.to_vec().into() } else { bytes.into() };
            let storage = QStorage::from_data(bytes, &Device::Cpu, dtype)?;
            QTensor::new(storage, shape)?.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1()
        }
    }
}
