//! Products with weights of either precision, and what is done to each row of their results.

use half::f16;
use host_kernels::activations::{BLOCK, QuantizedRows};
use host_kernels::elementwise::add;
use host_kernels::floats::{FloatFormat, FloatMatrix, FloatProduct, matmul_floats};
use host_kernels::isa::Isa;
use host_kernels::matmul::{Product, matmul};
use host_kernels::threads::ThreadPool;
use host_kernels::tiles::{Format, TiledMatrix};

use super::Precision;
use crate::tensors::Tensors;

/// What computes.
pub(super) struct Machine {
    pub(super) isa: Isa,
    pub(super) pool: ThreadPool,
}

/// `y = x Wᵀ + b`.
pub(super) struct Linear {
    weight: Weight,
    bias: Vec<f32>,
}

enum Weight {
    Floats(FloatMatrix),
    Integers(TiledMatrix),
}

impl Linear {
    /// `name.weight` of `outputs` rows, and `name.bias` where there is to be one.
    pub(super) fn load(
        tensors: &mut Tensors,
        name: &str,
        [outputs, inputs]: [usize; 2],
        bias: bool,
        precision: Precision,
    ) -> Result<Linear, String> {
        let values = tensors.read(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias = if bias { read_finite(tensors, &format!("{name}.bias"), &[outputs])? } else { Vec::new() };
        Self::new(&values, [outputs, inputs], bias, precision).map_err(|why| format!("tensor {name}.weight {why}"))
    }

    /// Of a matrix in row-major order.
    pub(super) fn new(
        values: &[f32],
        [outputs, inputs]: [usize; 2],
        bias: Vec<f32>,
        precision: Precision,
    ) -> Result<Linear, String> {
        finite(values)?;
        let weight = if precision == Precision::Int8 && inputs.is_multiple_of(BLOCK) {
            let raw = blocks(values);
            let matrix = TiledMatrix::repack(Format::Q8_0, outputs, inputs, &raw);
            Weight::Integers(matrix.map_err(|error| error.to_string())?)
        } else {
            // Half precision wherever it holds the very values: half the memory to read, the same result.
            let halves = values.iter().all(|value| f16::from_f32(*value).to_f32() == *value);
            let (format, raw): (_, Vec<u8>) = if halves {
                (FloatFormat::F16, values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect())
            } else {
                (FloatFormat::F32, values.iter().flat_map(|value| value.to_le_bytes()).collect())
            };
            let matrix = FloatMatrix::repack(format, outputs, inputs, &raw);
            Weight::Floats(matrix.map_err(|error| error.to_string())?)
        };
        Ok(Linear { weight, bias })
    }

    pub(super) fn outputs(&self) -> usize {
        match &self.weight {
            Weight::Floats(matrix) => matrix.rows(),
            Weight::Integers(matrix) => matrix.rows(),
        }
    }

    fn inputs(&self) -> usize {
        match &self.weight {
            Weight::Floats(matrix) => matrix.columns(),
            Weight::Integers(matrix) => matrix.columns(),
        }
    }

    /// Row `row` of the weight.
    pub(super) fn row(&self, row: usize, out: &mut [f32]) {
        match &self.weight {
            Weight::Floats(matrix) => matrix.row(row, out),
            Weight::Integers(matrix) => matrix.dequantize_row(row, out),
        }
    }

    /// Adds the bias, if there is one, to each row.
    pub(super) fn add_bias(&self, isa: Isa, rows: &mut [f32]) {
        if !self.bias.is_empty() {
            for row in rows.chunks_exact_mut(self.bias.len()) {
                add(isa, row, &self.bias);
            }
        }
    }
}

/// Which values no weight has.
pub(super) fn finite(values: &[f32]) -> Result<(), String> {
    if values.iter().all(|value| value.is_finite()) {
        return Ok(());
    }
    Err("has values that are no numbers; verify the model".to_owned())
}

/// A tensor without values that are no numbers.
pub(super) fn read_finite(tensors: &mut Tensors, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
    let values = tensors.read(name, shape)?;
    finite(&values).map_err(|why| format!("tensor {name} {why}"))?;
    Ok(values)
}

/// Q8_0 as ggml defines it: for each 32 values a scale in half precision and 32 integers.
fn blocks(values: &[f32]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(values.len() / BLOCK * (BLOCK + 2));
    for block in values.chunks_exact(BLOCK) {
        let largest = block.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        let scale = f16::from_f32(largest / 127.0);
        let inverse = if scale.to_f32() > 0.0 { 1.0 / scale.to_f32() } else { 0.0 };
        raw.extend(scale.to_le_bytes());
        raw.extend(block.iter().map(|value| (value * inverse).round().clamp(-127.0, 127.0) as i8 as u8));
    }
    raw
}

impl Machine {
    /// The products of the rows of `x` with each weight, without biases. All weights have as many inputs.
    pub(super) fn products(&self, x: &[f32], targets: &mut [(&Linear, &mut [f32])]) {
        let Some(inputs) = targets.first().map(|(linear, _)| linear.inputs()) else { return };
        let (mut floats, mut integers) = (Vec::new(), Vec::new());
        for (linear, out) in targets.iter_mut() {
            match &linear.weight {
                Weight::Floats(weight) => floats.push(FloatProduct { weight, out }),
                Weight::Integers(weight) => integers.push(Product { weight, out }),
            }
        }
        if !floats.is_empty() {
            matmul_floats(self.isa, &self.pool, x, inputs, &mut floats);
        }
        if !integers.is_empty() {
            let mut rows = QuantizedRows::new();
            rows.quantize(self.isa, &self.pool, x, inputs);
            matmul(self.isa, &self.pool, &rows, &mut integers);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_to_eight_bits_is_half_a_step_and_zeros_stay() {
        let values: Vec<f32> = (0..BLOCK).map(|index| (index as f32 * 0.7).sin()).chain([0.0; BLOCK]).collect();
        let linear = Linear::new(&values, [2, BLOCK], Vec::new(), Precision::Int8).unwrap();
        let mut row = vec![0.0; BLOCK];
        linear.row(0, &mut row);
        assert!(row.iter().zip(&values).all(|(a, b)| (a - b).abs() < 0.6 / 127.0));
        linear.row(1, &mut row);
        assert_eq!(row, [0.0; BLOCK]);
    }

    #[test]
    fn a_weight_that_is_no_number_is_refused() {
        for precision in [Precision::Float, Precision::Int8] {
            let mut values = vec![0.5; BLOCK];
            values[3] = f32::NAN;
            assert!(Linear::new(&values, [1, BLOCK], Vec::new(), precision).is_err());
        }
    }
}
