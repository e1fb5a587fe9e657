//! Quantized weights, repacked once so that the product reads them front to back.
//!
//! GGUF stores a row as blocks of 32 or 256 weights with their scales in between: a layout for one row at a time. Here a
//! tile is 16 rows by 32 columns, ordered so that one 64-byte line holds four neighbouring weights of each of the 16
//! rows: the operand that `vpdpbusd` multiplies with four broadcast activations, giving 16 rows' sums without a
//! horizontal add. A line of 4-bit integers holds four columns in the low halves of its bytes and the next four in the
//! high halves. Fifth and sixth bits lie in a line of their own before those that they belong to; [`quant`] says where.
//! Scales lie in an array of their own, which keeps the lines aligned.
//!
//! A repacked weight takes exactly the bits it took in the file, six-bit scales included, so the file's copy can be
//! dropped.

mod blocks;
mod format;

pub use format::Format;
pub(crate) use format::{PAIR_BYTES, Scales};

/// Rows in a tile.
pub const TILE_ROWS: usize = 16;
/// Columns in a tile.
pub const TILE_COLUMNS: usize = 32;

/// A weight that is not what it says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TileError {
    /// Columns do not divide into blocks.
    #[error("a {format:?} weight has {columns} columns, which is not a positive multiple of {}", .format.block_columns())]
    Columns {
        /// The weight's format.
        format: Format,
        /// Its columns.
        columns: usize,
    },
    /// Bytes and shape disagree.
    #[error("a {format:?} weight of {rows} rows by {columns} columns needs {expected:?} bytes and has {found}")]
    Bytes {
        /// The weight's format.
        format: Format,
        /// Its rows.
        rows: usize,
        /// Its columns.
        columns: usize,
        /// What the shape asks for; none if that is more than can be addressed.
        expected: Option<usize>,
        /// What there is.
        found: usize,
    },
}

/// One aligned line of quants.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [u8; 64]);

/// A weight matrix in tiles: `rows` outputs by `columns` inputs.
#[derive(Debug, Clone)]
pub struct TiledMatrix {
    format: Format,
    rows: usize,
    columns: usize,
    pub(crate) quants: Vec<Line>,
    pub(crate) scales: Vec<u8>,
}

impl TiledMatrix {
    /// Repacks the `raw` blocks of a row-major matrix. Rows are padded with zeros to a multiple of 16.
    ///
    /// # Errors
    /// When `raw` is not exactly `rows` by `columns` of `format`.
    pub fn repack(format: Format, rows: usize, columns: usize, raw: &[u8]) -> Result<Self, TileError> {
        if columns == 0 || !columns.is_multiple_of(format.block_columns()) {
            return Err(TileError::Columns { format, columns });
        }
        let blocks = columns / format.block_columns();
        let expected = rows.checked_mul(blocks).and_then(|n| n.checked_mul(format.block_bytes()));
        if expected != Some(raw.len()) || rows == 0 {
            return Err(TileError::Bytes { format, rows, columns, expected, found: raw.len() });
        }
        let all = rows.div_ceil(TILE_ROWS) * blocks;
        let (block_lines, scale_bytes) = (format.block_tiles() * format.tile_lines(), format.scale_bytes());
        let mut quants = vec![Line([0; 64]); all * block_lines];
        let mut scales = vec![0u8; all * scale_bytes];
        for (row, raw) in raw.chunks_exact(blocks * format.block_bytes()).enumerate() {
            let (first, r) = (row / TILE_ROWS * blocks, row % TILE_ROWS);
            for (b, block) in raw.chunks_exact(format.block_bytes()).enumerate() {
                let lines = &mut quants[(first + b) * block_lines..][..block_lines];
                for (tile, lines) in lines.chunks_exact_mut(format.tile_lines()).enumerate() {
                    place(format, &blocks::quants(format, block, tile), r, lines);
                }
                let scales = &mut scales[(first + b) * scale_bytes..][..scale_bytes];
                blocks::place_scales(format, block, r, scales);
            }
        }
        Ok(Self { format, rows, columns, quants, scales })
    }

    /// The format of the weights.
    pub fn format(&self) -> Format {
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
        std::mem::size_of_val(&self.quants[..]) + std::mem::size_of_val(&self.scales[..])
    }

    /// Tiles along the rows: the unit of work of a product.
    pub fn row_tiles(&self) -> usize {
        self.rows.div_ceil(TILE_ROWS)
    }

    /// Quants and scales of row tile `tile`, block after block.
    pub(crate) fn tile(&self, tile: usize) -> (&[Line], &[u8]) {
        let lines = self.columns / TILE_COLUMNS * self.format.tile_lines();
        let scales = self.columns / self.format.block_columns() * self.format.scale_bytes();
        (&self.quants[tile * lines..][..lines], &self.scales[tile * scales..][..scales])
    }

    /// What row `row` holds: the stored integers, scale and minimum of each run of columns with one scale, in order.
    pub(crate) fn runs(&self, row: usize) -> impl Iterator<Item = Run> {
        assert!(row < self.rows);
        let (format, r) = (self.format, row % TILE_ROWS);
        let (lines, scales) = self.tile(row / TILE_ROWS);
        let runs = lines.chunks_exact(format.run_lines()).enumerate();
        runs.map(move |(index, lines)| {
            let (tile, run) = (index / format.runs(), index % format.runs());
            let block = tile / format.block_tiles();
            let scales = &scales[block * format.scale_bytes()..][..format.scale_bytes()];
            let (scale, minimum) = blocks::factors(format, scales, tile % format.block_tiles(), run, r);
            let mut quants = [0; TILE_COLUMNS];
            let columns = TILE_COLUMNS / format.runs();
            for (c, q) in quants[..columns].iter_mut().enumerate() {
                *q = quant(format, lines, r, c);
            }
            Run { quants, columns, scale, minimum }
        })
    }

    /// Writes row `row` as floats: what an embedding lookup needs.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.columns);
        let offset = self.format.offset();
        let mut out = out.iter_mut();
        for Run { quants, columns, scale, minimum } in self.runs(row) {
            for (q, out) in quants[..columns].iter().zip(&mut out) {
                *out = scale * (i32::from(*q) - offset) as f32 + minimum;
            }
        }
    }
}

/// Columns of one row that share a scale: a weight is `scale · (quant - offset) + minimum`.
pub(crate) struct Run {
    /// Of which the first `columns` count.
    pub(crate) quants: [u8; TILE_COLUMNS],
    pub(crate) columns: usize,
    pub(crate) scale: f32,
    pub(crate) minimum: f32,
}

/// Writes 32 stored integers as row `r` of a tile.
fn place(format: Format, quants: &[u8; TILE_COLUMNS], r: usize, lines: &mut [Line]) {
    let columns = TILE_COLUMNS / format.runs();
    for (lines, quants) in lines.chunks_exact_mut(format.run_lines()).zip(quants.chunks_exact(columns)) {
        if format == Format::Q8_0 {
            for (line, four) in lines.iter_mut().zip(quants.as_chunks::<4>().0) {
                line.0[r * 4..][..4].copy_from_slice(four);
            }
            continue;
        }
        let low = format.run_lines() - format.low_lines();
        for (l, eight) in quants.as_chunks::<8>().0.iter().enumerate() {
            for j in 0..4 {
                let (first, second) = (eight[j], eight[j + 4]);
                lines[low + l].0[r * 4 + j] = first & 15 | (second & 15) << 4;
                if low > 0 {
                    let (above, below) = high_places(format, l);
                    lines[0].0[r * 4 + j] |= first >> 4 << above | second >> 4 << below;
                }
            }
        }
    }
}

/// Where in its byte the high line keeps the high bits that belong to the low and to the high halves of low line `l`.
///
/// A kernel needs them above bit 3. Upwards from bit 4 for the low halves and downwards from there for the high halves
/// means that it shifts by the same constant from one line to the next, right for the first and left for the second.
fn high_places(format: Format, l: usize) -> (u32, u32) {
    let (bits, l) = (format.high_bits(), l as u32);
    (4 + bits * l, 4 - bits * (l + 1))
}

/// The stored integer of row `r`, column `c` of a run.
fn quant(format: Format, lines: &[Line], r: usize, c: usize) -> u8 {
    if format == Format::Q8_0 {
        return lines[c / 4].0[r * 4 + c % 4];
    }
    let (low, at) = (format.run_lines() - format.low_lines(), r * 4 + c % 4);
    let shift = if c % 8 < 4 { 0 } else { 4 };
    let q = lines[low + c / 8].0[at] >> shift & 15;
    if low == 0 {
        return q;
    }
    let (above, below) = high_places(format, c / 8);
    let place = if shift == 0 { above } else { below };
    q | (lines[0].0[at] >> place & ((1 << format.high_bits()) - 1)) << 4
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::QTensor;
    use candle_core::{Device, Tensor};

    use super::*;

    /// candle's own reading of the same blocks is the oracle.
    #[test]
    fn rows_read_back_as_candle_reads_them() {
        for (dtype, format) in crate::testing::FORMATS {
            for (rows, blocks) in [(1, 1), (16, 2), (37, 3)] {
                let columns = blocks * format.block_columns();
                let x = Tensor::randn(0f32, 1.0, (rows, columns), &Device::Cpu).unwrap();
                let q = QTensor::quantize(&x, dtype).unwrap();
                let raw = q.data().unwrap().to_vec();
                let expected: Vec<Vec<f32>> = q.dequantize(&Device::Cpu).unwrap().to_vec2().unwrap();
                let tiled = TiledMatrix::repack(format, rows, columns, &raw).unwrap();
                assert_eq!(Format::from_dtype(dtype), Some(format));
                assert_eq!(format.block_bytes(), dtype.type_size());
                let mut row = vec![0.0; columns];
                for (r, expected) in expected.iter().enumerate() {
                    tiled.dequantize_row(r, &mut row);
                    for (a, b) in row.iter().zip(expected) {
                        assert!((a - b).abs() <= 1e-6 * b.abs().max(1.0), "{format:?} {a} {b}");
                    }
                }
                // Nothing is added to what the file holds but the padding to whole tiles.
                assert_eq!(tiled.bytes(), raw.len() / rows * rows.next_multiple_of(TILE_ROWS));
            }
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let error = TiledMatrix::repack(Format::Q4_1, 2, 48, &[0; 60]).unwrap_err();
        assert!(matches!(error, TileError::Columns { columns: 48, .. }));
        let error = TiledMatrix::repack(Format::Q6K, 2, 128, &[0; 210]).unwrap_err();
        assert_eq!(error.to_string(), "a Q6K weight has 128 columns, which is not a positive multiple of 256");
        let error = TiledMatrix::repack(Format::Q4_1, 2, 64, &[0; 79]).unwrap_err();
        assert!(matches!(error, TileError::Bytes { expected: Some(80), found: 79, .. }));
        let error = TiledMatrix::repack(Format::Q8_0, usize::MAX, 64, &[]).unwrap_err();
        assert!(matches!(error, TileError::Bytes { expected: None, .. }));
    }
}
