//! Quantized weights, repacked once so that the product reads them front to back.
//!
//! GGUF stores a row as blocks of 32 weights with their scale in between: a layout for one row at a time. Here a tile is
//! 16 rows by 32 columns, ordered so that one 64-byte load holds four neighbouring weights of each of the 16 rows: the
//! operand that `vpdpbusd` multiplies with four broadcast activations, giving 16 rows' sums without a horizontal add.
//! Scales lie in an array of their own, which keeps the 64-byte loads aligned. A repacked weight takes the bits it took
//! in the file (4.5 in Q4_0, 5 in Q4_1, 8.5 in Q8_0), so the file's copy can be dropped.

use candle_core::quantized::GgmlDType;
use half::f16;

/// Rows in a tile.
pub const TILE_ROWS: usize = 16;
/// Columns in a tile: one block of the file's format.
pub const TILE_COLUMNS: usize = 32;

/// The formats that have tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// 4 bits, `d · (q - 8)`.
    Q4_0,
    /// 4 bits, `d · q + m`.
    Q4_1,
    /// 8 bits, `d · q`.
    Q8_0,
}

impl Format {
    /// The format for a type of candle's, if it has tiles.
    pub fn from_dtype(dtype: GgmlDType) -> Option<Self> {
        match dtype {
            GgmlDType::Q4_0 => Some(Self::Q4_0),
            GgmlDType::Q4_1 => Some(Self::Q4_1),
            GgmlDType::Q8_0 => Some(Self::Q8_0),
            _ => None,
        }
    }

    /// Bytes of one block of 32 weights in a file.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::Q4_0 => 2 + 16,
            Self::Q4_1 => 4 + 16,
            Self::Q8_0 => 2 + 32,
        }
    }

    /// 64-byte lines of one tile's quants.
    pub(crate) const fn tile_lines(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 => 4,
            Self::Q8_0 => 8,
        }
    }

    /// 16-bit scales of one tile: 16 of `d`, then for Q4_1 16 of `m`.
    pub(crate) const fn tile_scales(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q8_0 => TILE_ROWS,
            Self::Q4_1 => 2 * TILE_ROWS,
        }
    }
}

/// A weight that is not what it says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TileError {
    /// Columns do not divide into blocks.
    #[error("a {format:?} weight has {columns} columns, which is not a positive multiple of {TILE_COLUMNS}")]
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
    pub(crate) scales: Vec<u16>,
}

impl TiledMatrix {
    /// Repacks the `raw` blocks of a row-major matrix. Rows are padded with zeros to a multiple of 16.
    ///
    /// # Errors
    /// When `raw` is not exactly `rows` by `columns` of `format`.
    pub fn repack(format: Format, rows: usize, columns: usize, raw: &[u8]) -> Result<Self, TileError> {
        if columns == 0 || !columns.is_multiple_of(TILE_COLUMNS) {
            return Err(TileError::Columns { format, columns });
        }
        let blocks = columns / TILE_COLUMNS;
        let expected = rows.checked_mul(blocks).and_then(|n| n.checked_mul(format.block_bytes()));
        if expected != Some(raw.len()) || rows == 0 {
            return Err(TileError::Bytes { format, rows, columns, expected, found: raw.len() });
        }
        let tiles = rows.div_ceil(TILE_ROWS) * blocks;
        let mut quants = vec![Line([0; 64]); tiles * format.tile_lines()];
        let mut scales = vec![0u16; tiles * format.tile_scales()];
        for (row, raw) in raw.chunks_exact(blocks * format.block_bytes()).enumerate() {
            let first = row / TILE_ROWS * blocks;
            for (b, block) in raw.chunks_exact(format.block_bytes()).enumerate() {
                let tile = first + b;
                place(
                    format,
                    block,
                    row % TILE_ROWS,
                    &mut quants[tile * format.tile_lines()..][..format.tile_lines()],
                    &mut scales[tile * format.tile_scales()..][..format.tile_scales()],
                );
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
    pub(crate) fn tile(&self, tile: usize) -> (&[Line], &[u16]) {
        let blocks = self.columns / TILE_COLUMNS;
        let (lines, scales) = (blocks * self.format.tile_lines(), blocks * self.format.tile_scales());
        (&self.quants[tile * lines..][..lines], &self.scales[tile * scales..][..scales])
    }

    /// Writes row `row` as floats: what an embedding lookup needs.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.columns);
        let (lines, scales) = self.tile(row / TILE_ROWS);
        let r = row % TILE_ROWS;
        let blocks = lines.chunks_exact(self.format.tile_lines()).zip(scales.chunks_exact(self.format.tile_scales()));
        for ((lines, scales), out) in blocks.zip(out.as_chunks_mut::<TILE_COLUMNS>().0) {
            let d = f16::from_bits(scales[r]).to_f32();
            let (offset, m) = match self.format {
                Format::Q4_0 => (-8.0, 0.0),
                Format::Q4_1 => (0.0, f16::from_bits(scales[TILE_ROWS + r]).to_f32()),
                Format::Q8_0 => (-128.0, 0.0),
            };
            for (c, out) in out.iter_mut().enumerate() {
                *out = d * (f32::from(quant(self.format, lines, r, c)) + offset) + m;
            }
        }
    }
}

/// Writes one block of the file as row `r` of a tile.
fn place(format: Format, block: &[u8], r: usize, lines: &mut [Line], scales: &mut [u16]) {
    scales[r] = u16::from_le_bytes([block[0], block[1]]);
    if format == Format::Q4_1 {
        scales[TILE_ROWS + r] = u16::from_le_bytes([block[2], block[3]]);
    }
    match format {
        Format::Q4_0 | Format::Q4_1 => {
            let packed = &block[block.len() - 16..];
            // In the file byte i holds column i in its low half and column i + 16 in its high half.
            let column = |c: usize| if c < 16 { packed[c] & 15 } else { packed[c - 16] >> 4 };
            for (g, line) in lines.iter_mut().enumerate() {
                for j in 0..4 {
                    line.0[r * 4 + j] = column(8 * g + j) | column(8 * g + 4 + j) << 4;
                }
            }
        }
        Format::Q8_0 => {
            for (line, columns) in lines.iter_mut().zip(block[2..].as_chunks::<4>().0) {
                for (j, q) in columns.iter().enumerate() {
                    // vpdpbusd takes the weight unsigned; the 128 comes off again with the activations' sum.
                    line.0[r * 4 + j] = q.wrapping_add(128);
                }
            }
        }
    }
}

/// The stored integer of row `r`, column `c` of a tile.
pub(crate) fn quant(format: Format, lines: &[Line], r: usize, c: usize) -> u8 {
    match format {
        Format::Q4_0 | Format::Q4_1 => {
            let byte = lines[c / 8].0[r * 4 + c % 4];
            if c % 8 < 4 { byte & 15 } else { byte >> 4 }
        }
        Format::Q8_0 => lines[c / 4].0[r * 4 + c % 4],
    }
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::{QStorage, QTensor};
    use candle_core::{Device, Tensor};

    use super::*;

    /// candle's own reading of the same blocks is the oracle.
    #[test]
    fn rows_read_back_as_candle_reads_them() {
        for (dtype, format) in
            [(GgmlDType::Q4_0, Format::Q4_0), (GgmlDType::Q4_1, Format::Q4_1), (GgmlDType::Q8_0, Format::Q8_0)]
        {
            for (rows, columns) in [(1, 32), (16, 64), (37, 96)] {
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
                let again =
                    QTensor::new(QStorage::from_data(raw.into(), &Device::Cpu, dtype).unwrap(), (rows, columns));
                assert!(again.is_ok());
            }
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let error = TiledMatrix::repack(Format::Q4_1, 2, 48, &[0; 60]).unwrap_err();
        assert!(matches!(error, TileError::Columns { columns: 48, .. }));
        let error = TiledMatrix::repack(Format::Q4_1, 2, 64, &[0; 79]).unwrap_err();
        assert!(matches!(error, TileError::Bytes { expected: Some(80), found: 79, .. }));
        let error = TiledMatrix::repack(Format::Q8_0, usize::MAX, 64, &[]).unwrap_err();
        assert!(matches!(error, TileError::Bytes { expected: None, .. }));
    }
}
