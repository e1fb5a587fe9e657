//! Products with a fixed matrix, `y = x Wᵀ + b`, in float32.
//!
//! A general matrix product repacks its right factor on every call; for a few short texts that costs as much as the
//! product. Here the factor is packed once: panels of [`NR`] outputs, input by input, so that the inner loop loads a
//! panel's row and multiplies it with one broadcast input per text row. The same packing serves attention, whose keys
//! and values are the fixed matrix of one head for a moment.
//!
//! Each kernel has the scalar `tile_portable` as its twin.

use crate::isa::{Isa, Level};

/// Outputs per panel: two AVX-512 registers, four AVX2 registers.
const NR: usize = 32;

/// `W`, packed: panel after panel, in each panel input after input, [`NR`] outputs each, zero beyond the last output.
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
    let mut tile_out = [0.0_f32; MAX_ROWS * NR];
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
            let rows = isa.rows().min(x.count - row);
            isa.tile(&x.data[row * x.stride..], x.stride, rows, weights, &initial, &mut tile_out);
            for (index, values) in tile_out.chunks_exact(NR).take(rows).enumerate() {
                let start = (row + index) * y_stride + first;
                y[start..start + width].copy_from_slice(&values[..width]);
            }
            row += rows;
        }
    }
}

/// The most rows any kernel takes at once.
const MAX_ROWS: usize = 12;

/// The kernels of each instruction set.
impl Isa {
    /// Rows of `x` per tile: as many as leave room for the weights among the registers.
    fn rows(self) -> usize {
        match self.0 {
            Level::Scalar => 4,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 | Level::AvxVnni => 3,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Vnni => 12,
        }
    }

    fn tile(self, x: &[f32], stride: usize, rows: usize, weights: &[f32], initial: &[f32; NR], out: &mut Tile) {
        let inputs = weights.len() / NR;
        assert!(rows >= 1 && rows <= self.rows() && (rows - 1) * stride + inputs <= x.len());
        match self.0 {
            Level::Scalar => tile_portable(x, stride, rows, weights, initial, out),
            // SAFETY: an `Isa` of this level exists only where detection found its features; the assertion above is what
            // the kernels' pointers rely on.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 | Level::AvxVnni => unsafe {
                match rows {
                    1 => x86::tile_avx2::<1>(x, stride, weights, initial, out),
                    2 => x86::tile_avx2::<2>(x, stride, weights, initial, out),
                    _ => x86::tile_avx2::<3>(x, stride, weights, initial, out),
                }
            },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Vnni => unsafe {
                match rows {
                    1 => x86::tile_avx512::<1>(x, stride, weights, initial, out),
                    2 => x86::tile_avx512::<2>(x, stride, weights, initial, out),
                    3 => x86::tile_avx512::<3>(x, stride, weights, initial, out),
                    4 => x86::tile_avx512::<4>(x, stride, weights, initial, out),
                    5 => x86::tile_avx512::<5>(x, stride, weights, initial, out),
                    6 => x86::tile_avx512::<6>(x, stride, weights, initial, out),
                    7 => x86::tile_avx512::<7>(x, stride, weights, initial, out),
                    8 => x86::tile_avx512::<8>(x, stride, weights, initial, out),
                    9 => x86::tile_avx512::<9>(x, stride, weights, initial, out),
                    10 => x86::tile_avx512::<10>(x, stride, weights, initial, out),
                    11 => x86::tile_avx512::<11>(x, stride, weights, initial, out),
                    _ => x86::tile_avx512::<12>(x, stride, weights, initial, out),
                }
            },
        }
    }
}

type Tile = [f32; MAX_ROWS * NR];

fn tile_portable(x: &[f32], stride: usize, rows: usize, weights: &[f32], initial: &[f32; NR], out: &mut Tile) {
    for (row, sums) in out.chunks_exact_mut(NR).take(rows).enumerate() {
        sums.copy_from_slice(initial);
        for (value, panel) in x[row * stride..].iter().zip(weights.chunks_exact(NR)) {
            for (sum, weight) in sums.iter_mut().zip(panel) {
                *sum += value * weight;
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_storeu_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
        _mm512_set1_ps, _mm512_storeu_ps,
    };

    use super::{NR, Tile};

    /// # Safety
    /// The processor has AVX-512F, `R` is at most 12 and `x` reaches `(R - 1) * stride + weights.len() / NR` values.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn tile_avx512<const R: usize>(
        x: &[f32],
        stride: usize,
        weights: &[f32],
        initial: &[f32; NR],
        out: &mut Tile,
    ) {
        let (x, inputs) = (x.as_ptr(), weights.len() / NR);
        // SAFETY: every pointer below stays in its slice: rows of `x` by the caller's promise, `weights` because
        // `inputs` counts its panel rows, `initial` and `out` by their types and `R <= 12`.
        unsafe {
            let mut sums = [[_mm512_loadu_ps(initial.as_ptr()), _mm512_loadu_ps(initial.as_ptr().add(16))]; R];
            let mut panel = weights.as_ptr();
            for input in 0..inputs {
                let low = _mm512_loadu_ps(panel);
                let high = _mm512_loadu_ps(panel.add(16));
                panel = panel.add(NR);
                for (row, sum) in sums.iter_mut().enumerate() {
                    let value = _mm512_set1_ps(*x.add(row * stride + input));
                    sum[0] = _mm512_fmadd_ps(value, low, sum[0]);
                    sum[1] = _mm512_fmadd_ps(value, high, sum[1]);
                }
            }
            for (row, sum) in sums.iter().enumerate() {
                _mm512_storeu_ps(out.as_mut_ptr().add(row * NR), sum[0]);
                _mm512_storeu_ps(out.as_mut_ptr().add(row * NR + 16), sum[1]);
            }
        }
    }

    /// # Safety
    /// The processor has AVX2 and FMA, `R` is at most 12 and `x` reaches `(R - 1) * stride + weights.len() / NR` values.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn tile_avx2<const R: usize>(
        x: &[f32],
        stride: usize,
        weights: &[f32],
        initial: &[f32; NR],
        out: &mut Tile,
    ) {
        let (x, inputs) = (x.as_ptr(), weights.len() / NR);
        // SAFETY: as in `tile_avx512`.
        unsafe {
            let start = initial.as_ptr();
            let row = [0, 8, 16, 24].map(|offset| _mm256_loadu_ps(start.add(offset)));
            let mut sums = [row; R];
            let mut panel = weights.as_ptr();
            for input in 0..inputs {
                let columns = [
                    _mm256_loadu_ps(panel),
                    _mm256_loadu_ps(panel.add(8)),
                    _mm256_loadu_ps(panel.add(16)),
                    _mm256_loadu_ps(panel.add(24)),
                ];
                panel = panel.add(NR);
                for (row, sum) in sums.iter_mut().enumerate() {
                    let value = _mm256_set1_ps(*x.add(row * stride + input));
                    for (sum, column) in sum.iter_mut().zip(columns) {
                        *sum = _mm256_fmadd_ps(value, column, *sum);
                    }
                }
            }
            for (row, sum) in sums.iter().enumerate() {
                for (index, value) in sum.iter().enumerate() {
                    _mm256_storeu_ps(out.as_mut_ptr().add(row * NR + 8 * index), *value);
                }
            }
        }
    }
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
            for rows in 1..=isa.rows() {
                let (mut expected, mut got) = ([0.0; MAX_ROWS * NR], [0.0; MAX_ROWS * NR]);
                tile_portable(&x, stride, rows, &weights, &initial, &mut expected);
                isa.tile(&x, stride, rows, &weights, &initial, &mut got);
                for (got, expected) in got.iter().zip(expected) {
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
