//! Weights on a device.

use std::borrow::Cow;
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType, Device, Result, Tensor};

use crate::text::decoder::DecoderError;
use crate::text::decoder::description::{MatrixAt, VectorAt};
use crate::text::decoder::source::Source;

/// A matrix of `outputs` by `inputs`. Quantized blocks stay quantized; candle multiplies with them as they are.
#[derive(Clone)]
pub(super) enum Matrix {
    Quantized(Arc<QTensor>),
    Float(Tensor),
}

/// Where the values of a head go, for those who want another order than the file's: value `i` is the file's `order[i]`.
pub(super) type HeadOrder = Option<Vec<usize>>;

impl Matrix {
    /// Reads the matrix, the rows of each head in `order`.
    pub(super) fn read(
        source: Source<'_>,
        at: &MatrixAt,
        order: &HeadOrder,
        device: &Device,
    ) -> std::result::Result<Self, DecoderError> {
        let tensor = source.matrix(at)?;
        let bytes = reordered(tensor.bytes, at.rows, order);
        let read = || Self::new(tensor.dtype, at.rows, at.columns, bytes, device);
        let matrix = read();
        tensor.release();
        matrix.map_err(|error| DecoderError::invalid(format!("tensor {}", at.name), error.to_string()))
    }

    fn new(dtype: GgmlDType, rows: usize, columns: usize, bytes: Cow<'_, [u8]>, device: &Device) -> Result<Self> {
        // candle reads blocks in place and insists on their alignment, which a file need not keep.
        let bytes =
            if bytes.as_ptr().addr().is_multiple_of(align_of::<f32>()) { bytes } else { bytes.into_owned().into() };
        let float = |stored: DType| {
            let tensor = Tensor::from_raw_buffer(&bytes, stored, &[rows, columns], device)?;
            // The processor multiplies in float32 only; a GPU has units for the others.
            Ok(Self::Float(if device.is_cpu() { tensor.to_dtype(DType::F32)? } else { tensor }))
        };
        match dtype {
            GgmlDType::F32 => float(DType::F32),
            GgmlDType::F16 => float(DType::F16),
            GgmlDType::BF16 => float(DType::BF16),
            _ => {
                let storage = QStorage::from_data(bytes, device, dtype)?;
                Ok(Self::Quantized(Arc::new(QTensor::new(storage, (rows, columns))?)))
            }
        }
    }

    /// `x Wᵀ` for float32 rows `x`, as float32.
    pub(super) fn product(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Quantized(blocks) => x.contiguous()?.apply_op1_no_bwd(blocks.as_ref()),
            Self::Float(weight) => x.to_dtype(weight.dtype())?.matmul(&weight.t()?)?.to_dtype(DType::F32),
        }
    }

    /// The rows `ids` as float32.
    pub(super) fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        match self {
            Self::Quantized(blocks) => blocks.embedding(ids),
            Self::Float(weight) => weight.index_select(ids, 0)?.to_dtype(DType::F32),
        }
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Quantized(blocks) => blocks.storage_size_in_bytes(),
            Self::Float(weight) => weight.elem_count() * weight.dtype().size_in_bytes(),
        }
    }
}

/// Reads a vector of float32, the values of each head in `order`.
pub(super) fn vector(
    source: Source<'_>,
    at: &VectorAt,
    order: &HeadOrder,
    device: &Device,
) -> std::result::Result<Tensor, DecoderError> {
    let mut values = source.vector(at)?;
    if let Some(order) = order {
        values = values.chunks_exact(order.len()).flat_map(|head| order.iter().map(|i| head[*i])).collect();
    }
    let length = values.len();
    Tensor::from_vec(values, length, device)
        .map_err(|error| DecoderError::invalid(format!("tensor {}", at.name), error.to_string()))
}

/// As [`vector`] of one that may be absent.
pub(super) fn optional(
    source: Source<'_>,
    at: &Option<VectorAt>,
    order: &HeadOrder,
    device: &Device,
) -> std::result::Result<Option<Tensor>, DecoderError> {
    at.as_ref().map(|at| vector(source, at, order, device)).transpose()
}

/// The rows of each head in `order`. Blocks lie along rows, so that quantized rows move as they are.
fn reordered<'a>(bytes: &'a [u8], rows: usize, order: &HeadOrder) -> Cow<'a, [u8]> {
    let (Some(order), Some(row)) = (order, bytes.len().checked_div(rows)) else { return Cow::Borrowed(bytes) };
    let mut out = Vec::with_capacity(bytes.len());
    for head in bytes.chunks_exact(row * order.len()) {
        for i in order {
            out.extend_from_slice(&head[i * row..(i + 1) * row]);
        }
    }
    Cow::Owned(out)
}

/// The order in which a rotation of neighbours, `2j` with `2j + 1`, becomes one of halves, `j` with `j + rotated / 2`.
/// Products of queries and keys do not depend on the order of a head's values, as long as both have the same.
pub(super) fn halves_of_neighbours(head: usize, rotated: usize) -> Vec<usize> {
    let pairs = rotated / 2;
    let neighbours = (0..pairs).map(|j| 2 * j).chain((0..pairs).map(|j| 2 * j + 1));
    neighbours.chain(rotated..head).collect()
}
