//! Weights that are floats in the file, kept as they are and widened in registers.
//!
//! Published safetensors are mostly bfloat16; as float32 they would take twice the memory, and decoding, which reads
//! every weight for each token, twice the time. A panel is 32 rows, column by column, so that a load holds one column of
//! neighbouring rows and meets one broadcast activation: the layout that [`crate::linear`] uses for float32, whose
//! kernels are these.

pub(crate) mod kernel;

use candle_core::quantized::GgmlDType;

use crate::isa::Isa;
use crate::threads::{Scatter, ThreadPool};
use crate::tiles::Line;
use kernel::{Bf16, Element, F16, F32, PANEL_ROWS};

/// The float types that have panels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FloatFormat {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
}

impl FloatFormat {
    /// The format for a type of candle's, if it is one of floats.
    pub fn from_dtype(dtype: GgmlDType) -> Option<Self> {
        match dtype {
            GgmlDType::F32 => Some(Self::F32),
            GgmlDType::F16 => Some(Self::F16),
            GgmlDType::BF16 => Some(Self::Bf16),
            _ => None,
        }
    }

    /// Bytes of one weight.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// A weight that is not what it says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a {format:?} weight of {rows} rows by {columns} columns needs {expected:?} bytes and has {found}")]
pub struct FloatError {
    /// The weight's format.
    pub format: FloatFormat,
    /// Its rows.
    pub rows: usize,
    /// Its columns.
    pub columns: usize,
    /// What the shape asks for; none if that is more than can be addressed.
    pub expected: Option<usize>,
    /// What there is.
    pub found: usize,
}

/// A weight matrix in panels: `rows` outputs by `columns` inputs, each any number above 0.
#[derive(Debug, Clone)]
pub struct FloatMatrix {
    format: FloatFormat,
    rows: usize,
    columns: usize,
    panels: Vec<Line>,
}

impl FloatMatrix {
    /// Repacks a row-major matrix of little-endian floats. Rows are padded with zeros to a multiple of 32.
    ///
    /// # Errors
    /// When `raw` is not exactly `rows` by `columns` of `format`.
    pub fn repack(format: FloatFormat, rows: usize, columns: usize, raw: &[u8]) -> Result<Self, FloatError> {
        let width = format.bytes();
        let expected = rows.checked_mul(columns).and_then(|n| n.checked_mul(width));
        if expected != Some(raw.len()) || raw.is_empty() {
            return Err(FloatError { format, rows, columns, expected, found: raw.len() });
        }
        // A panel's column is one line of 16-bit floats or two of 32-bit ones.
        let column_lines = PANEL_ROWS * width / size_of::<Line>();
        let mut panels = vec![Line([0; 64]); rows.div_ceil(PANEL_ROWS) * columns * column_lines];
        for (panel, raw) in
            panels.chunks_exact_mut(columns * column_lines).zip(raw.chunks(PANEL_ROWS * columns * width))
        {
            for (r, raw) in raw.chunks_exact(columns * width).enumerate() {
                let (line, at) = (r * width / size_of::<Line>(), r * width % size_of::<Line>());
                for (lines, value) in panel.chunks_exact_mut(column_lines).zip(raw.chunks_exact(width)) {
                    lines[line].0[at..at + width].copy_from_slice(value);
                }
            }
        }
        Ok(Self { format, rows, columns, panels })
    }

    /// Packs a row-major matrix of `rows` rows of values.
    ///
    /// # Errors
    /// When there are no values, or not whole rows of them.
    pub fn from_values(values: &[f32], rows: usize) -> Result<Self, FloatError> {
        let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self::repack(FloatFormat::F32, rows, values.len().checked_div(rows).unwrap_or(0), &raw)
    }

    /// The format of the weights.
    pub fn format(&self) -> FloatFormat {
        self.format
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        std::mem::size_of_val(&self.panels[..])
    }

    /// One panel's floats, column after column.
    pub(crate) fn panel(&self, panel: usize) -> &[u8] {
        let lines = self.columns * PANEL_ROWS * self.format.bytes() / size_of::<Line>();
        let lines = &self.panels[panel * lines..][..lines];
        // SAFETY: a line is 64 bytes without padding, and bytes have no alignment.
        unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), std::mem::size_of_val(lines)) }
    }

    /// Some rows of activations times one panel; see [`kernel::product`].
    pub(crate) fn panel_product(
        &self,
        isa: Isa,
        panel: usize,
        x: &[f32],
        stride: usize,
        initial: Option<&[f32; PANEL_ROWS]>,
        out: &mut [[f32; PANEL_ROWS]],
    ) {
        let weights = self.panel(panel);
        match self.format {
            FloatFormat::F32 => kernel::product::<F32>(isa, weights, x, stride, initial, out),
            FloatFormat::F16 => kernel::product::<F16>(isa, weights, x, stride, initial, out),
            FloatFormat::Bf16 => kernel::product::<Bf16>(isa, weights, x, stride, initial, out),
        }
    }

    /// Writes row `row` as 32-bit floats: what an embedding lookup needs.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.columns);
        let (width, r) = (self.format.bytes(), row % PANEL_ROWS);
        for (out, column) in out.iter_mut().zip(self.panel(row / PANEL_ROWS).chunks_exact(PANEL_ROWS * width)) {
            let value = &column[r * width..];
            *out = match self.format {
                FloatFormat::F32 => F32::read(value),
                FloatFormat::F16 => F16::read(value),
                FloatFormat::Bf16 => Bf16::read(value),
            };
        }
    }
}

/// A weight and where its product goes: as many rows of `weight.rows()` values as there are of activations.
pub struct FloatProduct<'a> {
    /// The weight.
    pub weight: &'a FloatMatrix,
    /// The outputs.
    pub out: &'a mut [f32],
}

/// Multiplies the rows of `x`, each `columns` long, with each weight: `out[i][j] = Σ_c x[i][c] · weight[j][c]`, summed in
/// the order of the columns whatever the number of rows.
pub fn matmul_floats(isa: Isa, pool: &ThreadPool, x: &[f32], columns: usize, products: &mut [FloatProduct<'_>]) {
    assert!(columns > 0 && x.len().is_multiple_of(columns), "{} by {columns}", x.len());
    let rows = x.len() / columns;
    let mut targets = Vec::with_capacity(products.len());
    let mut panels = 0;
    for product in products.iter_mut() {
        let weight = product.weight;
        assert_eq!(weight.columns, columns, "activations and weight disagree on the columns");
        assert_eq!(product.out.len(), rows * weight.rows, "an output of the wrong size");
        targets.push((weight, panels, Scatter::new(product.out)));
        panels += weight.rows.div_ceil(PANEL_ROWS);
    }
    pool.for_each_chunk(
        panels,
        panels / (pool.threads() * 6),
        || (),
        |(), range| {
            for unit in range {
                let Some((weight, first, out)) = targets.iter().rev().find(|(_, first, _)| *first <= unit) else {
                    continue;
                };
                match weight.format {
                    FloatFormat::F32 => panel_product::<F32>(isa, weight, unit - first, x, out),
                    FloatFormat::F16 => panel_product::<F16>(isa, weight, unit - first, x, out),
                    FloatFormat::Bf16 => panel_product::<Bf16>(isa, weight, unit - first, x, out),
                }
            }
        },
    );
}

/// All rows of activations times one panel.
fn panel_product<E: Element>(isa: Isa, weight: &FloatMatrix, panel: usize, x: &[f32], out: &Scatter<'_>) {
    let weights = weight.panel(panel);
    let start = panel * PANEL_ROWS;
    let valid = (weight.rows - start).min(PANEL_ROWS);
    let mut sums = [[0f32; PANEL_ROWS]; kernel::MAX_ROWS];
    for (group, x) in x.chunks(weight.columns * kernel::MAX_ROWS).enumerate() {
        let sums = &mut sums[..x.len() / weight.columns];
        kernel::product::<E>(isa, weights, x, weight.columns, Some(&[0.0; PANEL_ROWS]), sums);
        for (i, sums) in sums.iter().enumerate() {
            let start = (group * kernel::MAX_ROWS + i) * weight.rows + start;
            // SAFETY: a panel's outputs are written by the one thread that took the panel, one slice at a time.
            let out = unsafe { out.slice(start..start + valid) };
            out.copy_from_slice(&sums[..valid]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use proptest::prelude::*;

    use super::*;

    const FORMATS: [FloatFormat; 3] = [FloatFormat::F32, FloatFormat::F16, FloatFormat::Bf16];

    /// A matrix of `format`, and the floats that it holds.
    fn weight(format: FloatFormat, rows: usize, columns: usize) -> (FloatMatrix, Vec<f32>) {
        let values = (0..rows * columns).map(|i| (i as f32 * 0.731).sin());
        let (mut raw, mut exact) = (Vec::new(), Vec::new());
        for value in values {
            match format {
                FloatFormat::F32 => {
                    raw.extend(value.to_le_bytes());
                    exact.push(value);
                }
                FloatFormat::F16 => {
                    raw.extend(half::f16::from_f32(value).to_le_bytes());
                    exact.push(half::f16::from_f32(value).to_f32());
                }
                FloatFormat::Bf16 => {
                    raw.extend(half::bf16::from_f32(value).to_le_bytes());
                    exact.push(half::bf16::from_f32(value).to_f32());
                }
            }
        }
        (FloatMatrix::repack(format, rows, columns, &raw).unwrap(), exact)
    }

    fn run(isa: Isa, pool: &ThreadPool, x: &[f32], weight: &FloatMatrix) -> Vec<f32> {
        let mut out = vec![f32::NAN; x.len() / weight.columns * weight.rows];
        matmul_floats(isa, pool, x, weight.columns, &mut [FloatProduct { weight, out: &mut out }]);
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn twins_agree(m in 1usize..30, n in 1usize..100, columns in 1usize..80, threads in 1usize..4, kind in 0usize..3) {
            let pool = ThreadPool::new("test", NonZeroUsize::new(threads).unwrap()).unwrap();
            let (weight, exact) = weight(FORMATS[kind], n, columns);
            let x: Vec<f32> = (0..m * columns).map(|i| (i as f32 * 0.37).cos()).collect();
            for isa in Isa::available() {
                let found = run(isa, &pool, &x, &weight);
                for (x, found) in x.chunks(columns).zip(found.chunks(n)) {
                    // A row alone gives the same bits as in the batch.
                    prop_assert_eq!(&run(isa, &pool, x, &weight)[..], found);
                    for (exact, found) in exact.chunks(columns).zip(found) {
                        let expected: f64 = exact.iter().zip(x).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                        // At most 80 terms of at most 1, each rounded to 2^-24 of a sum of at most 80.
                        prop_assert!((expected - f64::from(*found)).abs() < 1e-4, "{} {expected} {found}", isa.name());
                    }
                }
            }
        }
    }

    #[test]
    fn rows_read_back_and_two_bytes_stay_two() {
        for format in FORMATS {
            let (weight, exact) = weight(format, 70, 33);
            assert_eq!(weight.bytes(), 96 * 33 * format.bytes());
            let mut row = vec![0.0; 33];
            for (r, exact) in exact.chunks(33).enumerate() {
                weight.row(r, &mut row);
                assert_eq!(row, exact);
            }
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let error = FloatMatrix::repack(FloatFormat::Bf16, 3, 5, &[0; 29]).unwrap_err();
        let text = "a Bf16 weight of 3 rows by 5 columns needs Some(30) bytes and has 29";
        assert_eq!(error.to_string(), text);
        assert!(FloatMatrix::repack(FloatFormat::F32, 0, 5, &[]).is_err());
        assert_eq!(FloatMatrix::repack(FloatFormat::F32, usize::MAX, 5, &[0; 4]).unwrap_err().expected, None);
    }
}
