//! What the tests of several modules share.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use crate::tiles::{Format, TiledMatrix};

/// Each format with candle's name for it.
pub(crate) const FORMATS: [(GgmlDType, Format); 8] = [
    (GgmlDType::Q4_0, Format::Q4_0),
    (GgmlDType::Q4_1, Format::Q4_1),
    (GgmlDType::Q5_0, Format::Q5_0),
    (GgmlDType::Q5_1, Format::Q5_1),
    (GgmlDType::Q8_0, Format::Q8_0),
    (GgmlDType::Q4K, Format::Q4K),
    (GgmlDType::Q5K, Format::Q5K),
    (GgmlDType::Q6K, Format::Q6K),
];

/// A random matrix in tiles, and what candle reads in the same blocks.
pub(crate) fn weight(dtype: GgmlDType, format: Format, rows: usize, columns: usize) -> (TiledMatrix, Vec<Vec<f32>>) {
    let x = Tensor::randn(0f32, 1.0, (rows, columns), &Device::Cpu).unwrap();
    let q = QTensor::quantize(&x, dtype).unwrap();
    let tiled = TiledMatrix::repack(format, rows, columns, &q.data().unwrap()).unwrap();
    (tiled, q.dequantize(&Device::Cpu).unwrap().to_vec2().unwrap())
}
