//! One weight matrix of a decoder, in the form that multiplies fastest here.
//!
//! Q4_0, Q4_1 and Q8_0 are repacked into this project's tiles. Every other type goes through candle: its `QTensor`
//! reads the blocks and its `QMatMul` multiplies, K-quants with candle's own kernels and threads, float types as
//! float32 matrices. The two may be mixed in one model, as published K-quant files do.

use std::sync::Arc;

use candle_core::quantized::{QMatMul, QStorage, QTensor};
use candle_core::{Device, Module, Tensor};
use host_kernels::activations::QuantizedRows;
use host_kernels::isa::Isa;
use host_kernels::matmul::{Product, matmul};
use host_kernels::threads::ThreadPool;
use host_kernels::tiles::{Format, TiledMatrix};

use super::gguf::{GgufError, View};

/// A weight: `rows` outputs by `columns` inputs.
pub struct Weight {
    rows: usize,
    form: Form,
}

enum Form {
    Tiled(TiledMatrix),
    Candle { product: QMatMul, blocks: Arc<QTensor> },
}

/// The threads, instructions and buffers that products use.
pub struct Compute {
    /// The model's threads.
    pub pool: ThreadPool,
    /// What the kernels may use.
    pub isa: Isa,
    quantized: QuantizedRows,
}

impl Compute {
    /// With `pool` and the best instructions there are.
    pub fn new(pool: ThreadPool) -> Self {
        Self { pool, isa: Isa::best(), quantized: QuantizedRows::new() }
    }
}

impl Weight {
    /// Reads the matrix `name` of `rows` by `columns` from a file.
    ///
    /// # Errors
    /// When it is missing or has another shape.
    pub fn read(file: View<'_>, name: &str, rows: usize, columns: usize) -> Result<Self, GgufError> {
        let (info, raw) = file.tensor(name).ok_or_else(|| GgufError::Missing(format!("tensor {name}")))?;
        if info.shape != [rows, columns] {
            let fault = format!("its shape is {:?}, but the model's metadata asks for [{rows}, {columns}]", info.shape);
            return Err(GgufError::invalid(format!("tensor {name}"), fault));
        }
        let form = match Format::from_dtype(info.dtype) {
            Some(format) => {
                let tiled = TiledMatrix::repack(format, rows, columns, raw);
                Form::Tiled(tiled.map_err(|e| GgufError::invalid(format!("tensor {name}"), e.to_string()))?)
            }
            None => {
                let fault = |e: candle_core::Error| GgufError::invalid(format!("tensor {name}"), e.to_string());
                let storage = QStorage::from_data(raw.into(), &Device::Cpu, info.dtype).map_err(fault)?;
                let blocks = Arc::new(QTensor::new(storage, (rows, columns)).map_err(fault)?);
                Form::Candle { product: QMatMul::from_arc(blocks.clone()).map_err(fault)?, blocks }
            }
        };
        Ok(Self { rows, form })
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        match &self.form {
            Form::Tiled(tiled) => tiled.bytes(),
            Form::Candle { blocks, .. } => blocks.storage_size_in_bytes(),
        }
    }

    /// Row `row` as floats, for an embedding.
    ///
    /// # Errors
    /// When candle cannot decode it.
    pub fn row(&self, row: usize, out: &mut [f32]) -> candle_core::Result<()> {
        match &self.form {
            Form::Tiled(tiled) => tiled.dequantize_row(row, out),
            Form::Candle { blocks, .. } => {
                let id = u32::try_from(row).map_err(candle_core::Error::wrap)?;
                let ids = Tensor::new(&[id], &Device::Cpu)?;
                let values = blocks.embedding(&ids)?.flatten_all()?.to_vec1::<f32>()?;
                out.copy_from_slice(&values);
            }
        }
        Ok(())
    }
}

/// Multiplies the rows of `x`, each `columns` long, with each weight; each output gets a row of `weight.rows()` per row.
///
/// # Errors
/// When candle fails on a weight that it multiplies.
pub fn products(
    compute: &mut Compute,
    x: &[f32],
    columns: usize,
    outputs: &mut [(&Weight, &mut Vec<f32>)],
) -> candle_core::Result<()> {
    let rows = x.len() / columns;
    let mut tiled = Vec::with_capacity(outputs.len());
    let mut tensor = None;
    for (weight, out) in outputs.iter_mut() {
        out.resize(rows * weight.rows, 0.0);
        match &weight.form {
            Form::Tiled(matrix) => tiled.push(Product { weight: matrix, out: out.as_mut_slice() }),
            Form::Candle { product, .. } => {
                if tensor.is_none() {
                    tensor = Some(Tensor::from_slice(x, (rows, columns), &Device::Cpu)?);
                }
                if let Some(tensor) = &tensor {
                    let y = product.forward(tensor)?.flatten_all()?.to_vec1::<f32>()?;
                    out.copy_from_slice(&y);
                }
            }
        }
    }
    if !tiled.is_empty() {
        compute.quantized.quantize(compute.isa, &compute.pool, x, columns);
        matmul(compute.isa, &compute.pool, &compute.quantized, &mut tiled);
    }
    Ok(())
}

/// Reads a vector of `length` floats of any type, such as a norm's weights.
///
/// # Errors
/// When it is missing, has another shape, or holds values that are not finite.
pub fn vector(file: View<'_>, name: &str, length: usize) -> Result<Vec<f32>, GgufError> {
    optional_vector(file, name, length)?.ok_or_else(|| GgufError::Missing(format!("tensor {name}")))
}

/// As [`vector`], or none if the file has no such tensor.
///
/// # Errors
/// When it has another shape, or holds values that are not finite.
pub fn optional_vector(file: View<'_>, name: &str, length: usize) -> Result<Option<Vec<f32>>, GgufError> {
    let Some((info, raw)) = file.tensor(name) else { return Ok(None) };
    let what = || format!("tensor {name}");
    if info.shape != [length] {
        let fault = format!("its shape is {:?}, but the model's metadata asks for [{length}]", info.shape);
        return Err(GgufError::invalid(what(), fault));
    }
    let read = || -> candle_core::Result<Vec<f32>> {
        let storage = QStorage::from_data(raw.into(), &Device::Cpu, info.dtype)?;
        QTensor::new(storage, length)?.dequantize(&Device::Cpu)?.to_vec1()
    };
    let values = read().map_err(|e| GgufError::invalid(what(), e.to_string()))?;
    if values.iter().any(|v| !v.is_finite()) {
        return Err(GgufError::invalid(what(), "it holds values that are not finite"));
    }
    Ok(Some(values))
}
