//! Where a decoder's weights come from: tensors by name, whatever the file's format.

use candle_core::Device;
use candle_core::quantized::{GgmlDType, QStorage, QTensor};

use super::DecoderError;
use super::description::{MatrixAt, VectorAt};
use crate::text::gguf::View;

/// A file of weights.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// A GGUF file.
    Gguf(View<'a>),
}

/// A tensor: its values in row-major order, in blocks of `dtype`.
#[derive(Debug, Clone, Copy)]
pub struct RawTensor<'a> {
    /// How its values are stored.
    pub dtype: GgmlDType,
    /// Its shape, slowest dimension first.
    pub shape: &'a [usize],
    /// The values.
    pub bytes: &'a [u8],
}

impl<'a> Source<'a> {
    /// The tensor `name`, if there is one.
    pub fn tensor(&self, name: &str) -> Option<RawTensor<'a>> {
        match self {
            Self::Gguf(file) => {
                let (info, bytes) = file.tensor(name)?;
                Some(RawTensor { dtype: info.dtype, shape: &info.shape, bytes })
            }
        }
    }

    /// The names of all tensors.
    pub fn names(&self) -> Vec<&'a str> {
        match self {
            Self::Gguf(file) => file.tensor_names(),
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
        let tensor = self.tensor(name).ok_or_else(|| DecoderError::Missing(format!("tensor {name}")))?;
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
        let read = || -> candle_core::Result<Vec<f32>> {
            let storage = QStorage::from_data(tensor.bytes.into(), &Device::Cpu, tensor.dtype)?;
            QTensor::new(storage, at.of_length)?.dequantize(&Device::Cpu)?.to_vec1()
        };
        let values = read().map_err(|e| DecoderError::invalid(what(), e.to_string()))?;
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
        if self.tensor(&at.name).is_none() { Ok(None) } else { self.vector(at).map(Some) }
    }
}
