//! The tiled product as a candle operation, for graphs that are built of tensors.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, bail};

use crate::activations::QuantizedRows;
use crate::isa::Isa;
use crate::matmul::{Product, matmul};
use crate::threads::ThreadPool;
use crate::tiles::TiledMatrix;

/// `x · weightᵀ` for a contiguous float32 `x` of any rank whose last dimension is the weight's columns. Use it with
/// [`candle_core::Tensor::apply_op1_no_bwd`].
#[derive(Clone)]
pub struct TiledMatMul {
    weight: Arc<TiledMatrix>,
    pool: Arc<ThreadPool>,
    isa: Isa,
}

impl TiledMatMul {
    /// An operation that multiplies with `weight` on the threads of `pool`.
    pub fn new(weight: Arc<TiledMatrix>, pool: Arc<ThreadPool>) -> Self {
        Self { weight, pool, isa: Isa::best() }
    }
}

impl CustomOp1 for TiledMatMul {
    fn name(&self) -> &'static str {
        "tiled-matmul"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let CpuStorage::F32(values) = storage else { bail!("tiled-matmul takes float32 activations") };
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("tiled-matmul takes contiguous activations")
        };
        let mut dims = layout.dims().to_vec();
        match dims.last_mut() {
            Some(last) if *last == self.weight.columns() => *last = self.weight.rows(),
            _ => bail!("tiled-matmul: activations {:?} do not end in {} columns", layout.dims(), self.weight.columns()),
        }
        let mut x = QuantizedRows::new();
        x.quantize(self.isa, &self.pool, &values[start..end], self.weight.columns());
        let mut out = vec![0f32; x.rows() * self.weight.rows()];
        matmul(self.isa, &self.pool, &x, &mut [Product { weight: &self.weight, out: &mut out }]);
        Ok((CpuStorage::F32(out), Shape::from(dims)))
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use candle_core::quantized::{QMatMul, QTensor};
    use candle_core::{Device, Module, Tensor};

    use super::*;
    use crate::tiles::Format;

    /// candle quantizes activations to 8 bits as well, so the two differ by rounding alone; where a row divides by 256 it
    /// does so by 256 values and not by 32, which makes the differences larger.
    #[test]
    fn it_computes_what_candle_computes() {
        let device = Device::Cpu;
        let pool = Arc::new(ThreadPool::new("test", NonZeroUsize::new(2).unwrap()).unwrap());
        for (dtype, format) in crate::testing::FORMATS {
            let (columns, tolerance) = if format.block_columns() == 256 { (256, 0.8) } else { (128, 0.05) };
            let weight = Tensor::randn(0f32, 1.0, (48, columns), &device).unwrap();
            let weight = QTensor::quantize(&weight, dtype).unwrap();
            let tiled = TiledMatrix::repack(format, 48, columns, &weight.data().unwrap()).unwrap();
            let x = Tensor::randn(0f32, 1.0, (2, 5, columns), &device).unwrap();
            let ours = x.apply_op1_no_bwd(&TiledMatMul::new(Arc::new(tiled), pool.clone())).unwrap();
            let theirs = QMatMul::from_qtensor(weight).unwrap().forward(&x).unwrap();
            assert_eq!(ours.dims(), &[2, 5, 48]);
            let difference = (ours - theirs).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(difference < tolerance, "{format:?} {difference}");
        }
    }

    #[test]
    fn wrong_shapes_are_errors() {
        let pool = Arc::new(ThreadPool::new("test", NonZeroUsize::MIN).unwrap());
        let weight = Arc::new(TiledMatrix::repack(Format::Q8_0, 1, 32, &[0; 34]).unwrap());
        let op = TiledMatMul::new(weight, pool);
        let x = Tensor::zeros((2, 64), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(x.apply_op1_no_bwd(&op).is_err());
        let x = Tensor::zeros((2, 32), candle_core::DType::F16, &Device::Cpu).unwrap();
        assert!(x.apply_op1_no_bwd(&op).is_err());
    }
}
