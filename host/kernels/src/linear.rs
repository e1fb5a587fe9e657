//! Products with a fixed matrix, `y = x Wᵀ + b`, in float32.
//!
//! A general matrix product repacks its right factor on every call; for a few short texts that costs as much as the
//! product. Here the factor is packed once: panels of 32 outputs, input by input, so that the inner loop loads a
//! panel's row and multiplies it with one broadcast input per text row. The same packing serves attention, whose keys
//! and values are the fixed matrix of one head for a moment.
//!
//! The kernels are those of [`crate::floats`], which have their scalar twin there.

use crate::floats::kernel::{F32, MAX_ROWS, PANEL_ROWS as NR, product};
use crate::isa::Isa;

/// `W`, packed: panel after panel, in each panel input after input, 32 outputs each, zero beyond the last output.
#[derive(Debug, Default, Clone)]
pub struct Packed {
    data: Vec<f32>,
    inputs: usize,
    outputs: usize,
}

impl Packed {
    /// Packs `outputs` rows of `inputs` values in row-major order.
    pub fn from_rows(rows: &[f32], outputs: usize, inputs: usize) -> Packed {
        let mut packed = Packed::default();
        packed.pack(outputs, inputs, |output, input| rows[output * inputs + input]);
        packed
    }

    /// Packs anew, reusing the memory; `at` gives the weight of an output and an input.
    pub fn pack(&mut self, outputs: usize, inputs: usize, at: impl Fn(usize, usize) -> f32) {
        let panels = outputs.div_ceil(NR);
        self.inputs = inputs;
        self.outputs = outputs;
        self.data.clear();
        self.data.resize(panels * inputs * NR, 0.0);
        if inputs == 0 {
            return;
        }
        for (panel, data) in self.data.chunks_exact_mut(inputs * NR).enumerate() {
            let width = NR.min(outputs - panel * NR);
            for (input, row) in data.chunks_exact_mut(NR).enumerate() {
                for (column, value) in row[..width].iter_mut().enumerate() {
                    *value = at(panel * NR + column, input);
                }
            }
        }
    }

    /// Values of a row of `x`.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Values of a row of `y`.
    pub fn outputs(&self) -> usize {
        self.outputs
    }
}

/// A matrix inside a slice: row `i` begins at `i * stride`.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// Where the rows lie.
    pub data: &'a [f32],
    /// Values from one row's begin to the next's.
    pub stride: usize,
    /// Rows.
    pub count: usize,
}

impl<'a> Rows<'a> {
    /// Rows of `width` values, one behind the other.
    pub fn dense(data: &'a [f32], width: usize) -> Self {
        Self { data, stride: width, count: data.len().checked_div(width).unwrap_or(0) }
    }
}

/// `y = x Wᵀ + b`, `y` with its own stride. An empty bias is zero.
pub fn linear(isa: Isa, x: Rows<'_>, weight: &Packed, bias: &[f32], y: &mut [f32], y_stride: usize) {
    let (inputs, outputs) = (weight.inputs, weight.outputs);
    if x.count == 0 || outputs == 0 {
        return;
    }
    assert!((x.count - 1) * x.stride + inputs <= x.data.len(), "x is shorter than its rows");
    assert!((x.count - 1) * y_stride + outputs <= y.len(), "y is shorter than its rows");
    assert!(bias.is_empty() || bias.len() == outputs, "bias and weight differ");
    let mut tile_out = [[0.0_f32; NR]; MAX_ROWS];
    for panel in 0..outputs.div_ceil(NR) {
        let weights = &weight.data[panel * inputs * NR..(panel + 1) * inputs * NR];
        let first = panel * NR;
        let width = NR.min(outputs - first);
        let mut initial = [0.0_f32; NR];
        if !bias.is_empty() {
            initial[..width].copy_from_slice(&bias[first..first + width]);
        }
        let mut row = 0;
        while row < x.count {
            let rows = MAX_ROWS.min(x.count - row);
            let tile_out = &mut tile_out[..rows];
            product::<F32>(isa, as_bytes(weights), &x.data[row * x.stride..], x.stride, Some(&initial), tile_out);
            for (index, values) in tile_out.iter().enumerate() {
                let start = (row + index) * y_stride + first;
                y[start..start + width].copy_from_slice(&values[..width]);
            }
            row += rows;
        }
    }
}

/// Floats as their bytes, in the order of the machine, which is little-endian wherever this runs.
pub(crate) fn as_bytes(values: &[f32]) -> &[u8] {
    // SAFETY: any float is four bytes, and bytes have no alignment.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), std::mem::size_of_val(values)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn every_kernel_agrees_with_a_plain_product() {
        for (rows, inputs, outputs) in [(1, 1, 1), (3, 7, 31), (12, 64, 32), (13, 65, 33), (40, 100, 70)] {
            let (x, w, bias) = (numbers(rows * inputs, 1), numbers(outputs * inputs, 2), numbers(outputs, 3));
            let packed = Packed::from_rows(&w, outputs, inputs);
            let mut y = vec![0.0; rows * outputs];
            linear(Isa::best(), Rows::dense(&x, inputs), &packed, &bias, &mut y, outputs);
            for row in 0..rows {
                for output in 0..outputs {
                    let terms = (0..inputs).map(|k| f64::from(x[row * inputs + k]) * f64::from(w[output * inputs + k]));
                    let expected = terms.sum::<f64>() + f64::from(bias[output]);
                    let got = f64::from(y[row * outputs + output]);
                    // A hundred terms of at most 1, each rounded to 2^-24 of the sum.
                    assert!((got - expected).abs() < 1e-5, "{rows}x{inputs}x{outputs}: {got} {expected}");
                }
            }
        }
    }

    #[test]
    fn kernels_agree_with_their_scalar_twin() {
        let (inputs, stride) = (65, 70);
        let (x, weights) = (numbers(12 * stride, 4), numbers(inputs * NR, 5));
        let initial: [f32; NR] = std::array::from_fn(|index| index as f32 / 8.0);
        for isa in Isa::available() {
            for rows in 1..=MAX_ROWS {
                let (mut expected, mut got) = ([[0.0; NR]; MAX_ROWS], [[0.0; NR]; MAX_ROWS]);
                let weights = as_bytes(&weights);
                product::<F32>(Isa::SCALAR, weights, &x, stride, Some(&initial), &mut expected[..rows]);
                product::<F32>(isa, weights, &x, stride, Some(&initial), &mut got[..rows]);
                for (got, expected) in got.as_flattened().iter().zip(expected.as_flattened()) {
                    assert!((got - expected).abs() < 1e-5, "{isa:?} {rows}: {got} {expected}");
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "x is shorter than its rows")]
    fn rows_beyond_the_slice_are_refused() {
        let packed = Packed::from_rows(&[1.0; 8], 2, 4);
        linear(Isa::best(), Rows { data: &[0.0; 7], stride: 4, count: 2 }, &packed, &[], &mut [0.0; 4], 2);
    }
}
