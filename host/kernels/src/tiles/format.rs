//! The block formats and how a tile of each is laid out.

use candle_core::quantized::GgmlDType;

use super::{TILE_COLUMNS, TILE_ROWS};

/// The formats that have tiles, as ggml defines them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// 4 bits, `d · (q - 8)`.
    Q4_0,
    /// 4 bits, `d · q + m`.
    Q4_1,
    /// 5 bits, `d · (q - 16)`.
    Q5_0,
    /// 5 bits, `d · q + m`.
    Q5_1,
    /// 8 bits, `d · q`.
    Q8_0,
    /// 4 bits in blocks of 256, `d · s · q - dmin · m` with 6-bit `s` and `m` for each 32.
    Q4K,
    /// 5 bits in blocks of 256, as [`Self::Q4K`].
    Q5K,
    /// 6 bits in blocks of 256, `d · s · (q - 32)` with 8-bit `s` for each 16.
    Q6K,
}

/// Where a tile's scales come from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scales {
    /// `d` for each 32 columns.
    Plain,
    /// `d` and `m` for each 32 columns.
    Minimum,
    /// `d` and `-dmin` for each 256 columns, 6-bit factors of both for each 32.
    Nested,
    /// `d` for each 256 columns, an 8-bit factor for each 16.
    NestedBytes,
}

impl Format {
    /// The format for a type of candle's, if it has tiles.
    pub fn from_dtype(dtype: GgmlDType) -> Option<Self> {
        match dtype {
            GgmlDType::Q4_0 => Some(Self::Q4_0),
            GgmlDType::Q4_1 => Some(Self::Q4_1),
            GgmlDType::Q5_0 => Some(Self::Q5_0),
            GgmlDType::Q5_1 => Some(Self::Q5_1),
            GgmlDType::Q8_0 => Some(Self::Q8_0),
            GgmlDType::Q4K => Some(Self::Q4K),
            GgmlDType::Q5K => Some(Self::Q5K),
            GgmlDType::Q6K => Some(Self::Q6K),
            _ => None,
        }
    }

    /// Columns of one block in a file: what a row's length must divide by.
    pub const fn block_columns(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes of one block in a file.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::Q4_0 => 2 + 16,
            Self::Q4_1 => 4 + 16,
            Self::Q5_0 => 2 + 4 + 16,
            Self::Q5_1 => 4 + 4 + 16,
            Self::Q8_0 => 2 + 32,
            Self::Q4K => 4 + 12 + 128,
            Self::Q5K => 4 + 12 + 32 + 128,
            Self::Q6K => 2 + 16 + 64 + 128,
        }
    }

    pub(crate) const fn scales(self) -> Scales {
        match self {
            Self::Q4_0 | Self::Q5_0 | Self::Q8_0 => Scales::Plain,
            Self::Q4_1 | Self::Q5_1 => Scales::Minimum,
            Self::Q4K | Self::Q5K => Scales::Nested,
            Self::Q6K => Scales::NestedBytes,
        }
    }

    /// What is subtracted from a stored integer.
    pub(crate) const fn offset(self) -> i32 {
        match self {
            Self::Q4_0 => 8,
            Self::Q5_0 => 16,
            Self::Q6K => 32,
            // Stored with 128 added, because `vpdpbusd` takes the weight unsigned.
            Self::Q8_0 => 128,
            Self::Q4_1 | Self::Q5_1 | Self::Q4K | Self::Q5K => 0,
        }
    }

    /// Bits of a stored integer beyond the four in the low lines; 8-bit integers are whole in the low lines.
    pub(crate) const fn high_bits(self) -> u32 {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q8_0 | Self::Q4K => 0,
            Self::Q5_0 | Self::Q5_1 | Self::Q5K => 1,
            Self::Q6K => 2,
        }
    }

    /// Runs of columns with one scale in a tile.
    pub(crate) const fn runs(self) -> usize {
        match self.scales() {
            Scales::NestedBytes => 2,
            Scales::Plain | Scales::Minimum | Scales::Nested => 1,
        }
    }

    /// Lines of a run without its high bits: 4 columns each with 8 bits, else 8 columns.
    pub(crate) const fn low_lines(self) -> usize {
        let columns = TILE_COLUMNS / self.runs();
        if matches!(self, Self::Q8_0) { columns / 4 } else { columns / 8 }
    }

    /// Lines of a run: one with the high bits if there are any, then the low ones.
    pub(crate) const fn run_lines(self) -> usize {
        self.low_lines() + (self.high_bits() > 0) as usize
    }

    /// 64-byte lines of one tile's quants.
    pub(crate) const fn tile_lines(self) -> usize {
        self.runs() * self.run_lines()
    }

    /// Tiles along a block's columns.
    pub(crate) const fn block_tiles(self) -> usize {
        self.block_columns() / TILE_COLUMNS
    }

    /// Bytes of the scales of 16 rows of one block.
    pub(crate) const fn scale_bytes(self) -> usize {
        let half = 2 * TILE_ROWS;
        match self.scales() {
            Scales::Plain => half,
            Scales::Minimum => 2 * half,
            Scales::Nested => 2 * half + self.block_tiles() / 2 * PAIR_BYTES,
            Scales::NestedBytes => half + self.block_tiles() * self.runs() * TILE_ROWS,
        }
    }
}

/// Bytes of two neighbouring tiles' 6-bit factors: see [`pack_factors`].
pub(crate) const PAIR_BYTES: usize = 3 * TILE_ROWS;

/// Stores the 6-bit factors of `d` and of `dmin` of row `r` in tile `tile` of a block. Two neighbouring tiles share three
/// runs of 16 bytes: each tile's low four bits of both factors, then the high two bits of all four.
pub(crate) fn pack_factors(pairs: &mut [u8], tile: usize, r: usize, scale: u8, minimum: u8) {
    let pair = &mut pairs[tile / 2 * PAIR_BYTES..][..PAIR_BYTES];
    pair[tile % 2 * TILE_ROWS + r] = scale & 15 | (minimum & 15) << 4;
    pair[2 * TILE_ROWS + r] |= (scale >> 4 | minimum >> 4 << 2) << (tile % 2 * 4);
}

/// What [`pack_factors`] stored.
pub(crate) fn unpack_factors(pairs: &[u8], tile: usize, r: usize) -> (u8, u8) {
    let pair = &pairs[tile / 2 * PAIR_BYTES..][..PAIR_BYTES];
    let (low, high) = (pair[tile % 2 * TILE_ROWS + r], pair[2 * TILE_ROWS + r] >> (tile % 2 * 4));
    (low & 15 | (high & 3) << 4, low >> 4 | (high >> 2 & 3) << 4)
}
