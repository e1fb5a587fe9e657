//! One weight matrix of a decoder, in the form that multiplies fastest here.
//!
//! Q4_0 to Q8_0 and Q4_K to Q6_K are repacked into this project's tiles, float types into its panels, at the bits they
//! take in the file. The few other types (Q2_K, Q3_K) go through candle, whose `QMatMul` multiplies with its own threads.
//! All may be mixed in one model.

use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{Device, Module, Tensor};
use host_kernels::activations::QuantizedRows;
use host_kernels::floats::{FloatFormat, FloatMatrix, FloatProduct, matmul_floats};
use host_kernels::isa::Isa;
use host_kernels::matmul::{Product, matmul};
use host_kernels::threads::ThreadPool;
use host_kernels::tiles::{Format, TiledMatrix};

/// A weight: `rows` outputs by `columns` inputs.
pub struct Weight {
    rows: usize,
    form: Form,
}

enum Form {
    Tiled(TiledMatrix),
    Float(FloatMatrix),
    Candle { product: QMatMul, blocks: Arc<QTensor> },
}

/// The threads, instructions and buffers that products use.
pub struct Compute {
    /// The model's threads.
    pub pool: ThreadPool,
    /// What the kernels may use.
    pub isa: Isa,
    quantized: QuantizedRows,
    /// Rows between the factors of adapters.
    pub(crate) hidden: Vec<f32>,
}

impl Compute {
    /// With `pool` and the best instructions there are.
    pub fn new(pool: ThreadPool) -> Self {
        Self { pool, isa: Isa::best(), quantized: QuantizedRows::new(), hidden: Vec::new() }
    }
}

impl Weight {
    /// The matrix of `rows` by `columns` whose blocks are `raw`.
    ///
    /// # Errors
    /// When `raw` is no such matrix; the error says why.
    pub fn new(dtype: GgmlDType, rows: usize, columns: usize, raw: &[u8]) -> Result<Self, String> {
        let form = if let Some(format) = Format::from_dtype(dtype) {
            Form::Tiled(TiledMatrix::repack(format, rows, columns, raw).map_err(|error| error.to_string())?)
        } else if let Some(format) = FloatFormat::from_dtype(dtype) {
            Form::Float(FloatMatrix::repack(format, rows, columns, raw).map_err(|error| error.to_string())?)
        } else {
            let read = || -> candle_core::Result<Form> {
                let storage = QStorage::from_data(raw.into(), &Device::Cpu, dtype)?;
                let blocks = Arc::new(QTensor::new(storage, (rows, columns))?);
                Ok(Form::Candle { product: QMatMul::from_arc(blocks.clone())?, blocks })
            };
            read().map_err(|error| error.to_string())?
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
            Form::Float(floats) => floats.bytes(),
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
            Form::Float(floats) => floats.row(row, out),
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
    let mut floats = Vec::new();
    let mut tensor = None;
    for (weight, out) in outputs.iter_mut() {
        out.resize(rows * weight.rows, 0.0);
        match &weight.form {
            Form::Tiled(matrix) => tiled.push(Product { weight: matrix, out: out.as_mut_slice() }),
            Form::Float(matrix) => floats.push(FloatProduct { weight: matrix, out: out.as_mut_slice() }),
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
    if !floats.is_empty() {
        matmul_floats(compute.isa, &compute.pool, x, columns, &mut floats);
    }
    Ok(())
}
