//! Reading one block of a file: the layouts are those of ggml's `ggml-common.h`.

use super::format::{Format, Scales, pack_factors};
use super::{TILE_COLUMNS, TILE_ROWS};

/// The stored integers of columns `32 · tile ..` of a block.
pub(super) fn quants(format: Format, block: &[u8], tile: usize) -> [u8; TILE_COLUMNS] {
    let mut out = [0; TILE_COLUMNS];
    match format {
        Format::Q4_0 | Format::Q4_1 | Format::Q5_0 | Format::Q5_1 => {
            // Byte i holds column i in its low half and column i + 16 in its high half.
            let packed = &block[block.len() - 16..];
            for (i, byte) in packed.iter().enumerate() {
                out[i] = byte & 15;
                out[i + 16] = byte >> 4;
            }
            if format.high_bits() == 1 {
                let high = &block[block.len() - 20..];
                for (c, out) in out.iter_mut().enumerate() {
                    *out |= (high[c / 8] >> (c % 8) & 1) << 4;
                }
            }
        }
        Format::Q8_0 => {
            for (out, q) in out.iter_mut().zip(&block[2..]) {
                *out = q.wrapping_add(128);
            }
        }
        Format::Q4K | Format::Q5K => {
            // 32 bytes hold two tiles, one in the low and one in the high halves.
            let packed = &block[block.len() - 128 + tile / 2 * TILE_COLUMNS..];
            for (out, byte) in out.iter_mut().zip(packed) {
                *out = byte >> (tile % 2 * 4) & 15;
            }
            if format == Format::Q5K {
                for (out, high) in out.iter_mut().zip(&block[16..]) {
                    *out |= (high >> tile & 1) << 4;
                }
            }
        }
        Format::Q6K => {
            // 64 + 32 bytes hold four tiles: two in the low halves, two in the high ones.
            let (half, part) = (tile / 4, tile % 4);
            let low = &block[half * 64 + part % 2 * TILE_COLUMNS..];
            let high = &block[128 + half * TILE_COLUMNS..];
            for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
                *out = low >> (part / 2 * 4) & 15 | (high >> (part * 2) & 3) << 4;
            }
        }
    }
    out
}

/// Writes a block's scales as those of row `r` of 16.
pub(super) fn place_scales(format: Format, block: &[u8], r: usize, scales: &mut [u8]) {
    let mut half = |at: usize, value: [u8; 2]| scales[at + 2 * r..][..2].copy_from_slice(&value);
    match format.scales() {
        Scales::Plain => half(0, [block[0], block[1]]),
        Scales::Minimum => {
            half(0, [block[0], block[1]]);
            half(2 * TILE_ROWS, [block[2], block[3]]);
        }
        Scales::Nested => {
            half(0, [block[0], block[1]]);
            // Negated, so that the product adds it like any other minimum.
            half(2 * TILE_ROWS, [block[2], block[3] ^ 0x80]);
            let packed = &block[4..16];
            for tile in 0..format.block_tiles() {
                let (scale, minimum) = if tile < 4 {
                    (packed[tile] & 63, packed[tile + 4] & 63)
                } else {
                    let (low, high) = (packed[tile + 4], tile - 4);
                    (low & 15 | packed[high] >> 6 << 4, low >> 4 | packed[tile] >> 6 << 4)
                };
                pack_factors(&mut scales[4 * TILE_ROWS..], tile, r, scale, minimum);
            }
        }
        Scales::NestedBytes => {
            half(0, [block[208], block[209]]);
            for (run, scale) in block[192..208].iter().enumerate() {
                scales[2 * TILE_ROWS + run * TILE_ROWS + r] = *scale;
            }
        }
    }
}

/// The float that a run of row `r` is multiplied with, and the one that is added.
pub(super) fn factors(format: Format, scales: &[u8], tile: usize, run: usize, r: usize) -> (f32, f32) {
    let half = |at: usize| half::f16::from_le_bytes([scales[at + 2 * r], scales[at + 2 * r + 1]]).to_f32();
    match format.scales() {
        Scales::Plain => (half(0), 0.0),
        Scales::Minimum => (half(0), half(2 * TILE_ROWS)),
        Scales::Nested => {
            let (scale, minimum) = super::format::unpack_factors(&scales[4 * TILE_ROWS..], tile, r);
            (half(0) * f32::from(scale), half(2 * TILE_ROWS) * f32::from(minimum))
        }
        Scales::NestedBytes => {
            let scale = scales[2 * TILE_ROWS + (tile * format.runs() + run) * TILE_ROWS + r] as i8;
            (half(0) * f32::from(scale), 0.0)
        }
    }
}
