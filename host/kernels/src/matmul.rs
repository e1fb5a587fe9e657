//! Products of quantized rows with tiled weights.
//!
//! Every output is one sum over the columns' blocks in order, whatever the instruction set's width and however many
//! rows share a call, so a row's result is the same alone and in any batch. Weights that read the same activations
//! (query, key and value; gate and up) go into one call, which is one parallel region.

mod kernel;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::activations::{BLOCK, QuantizedRows};
use crate::isa::{Isa, Level};
use crate::threads::{Scatter, ThreadPool};
use crate::tiles::{Run, TILE_ROWS, TiledMatrix};

/// Rows of activations that one pass over a tile serves at most.
const MAX_ROWS: usize = 12;

/// A weight and where its product goes: `x.rows()` rows of `weight.rows()` values.
pub struct Product<'a> {
    /// The weight.
    pub weight: &'a TiledMatrix,
    /// The outputs.
    pub out: &'a mut [f32],
}

/// Multiplies `x` with each weight: `out[i][j] = Σ_c x[i][c] · weight[j][c]`.
pub fn matmul(isa: Isa, pool: &ThreadPool, x: &QuantizedRows, products: &mut [Product<'_>]) {
    let rows = x.rows();
    if rows == 0 {
        return;
    }
    let mut targets = Vec::with_capacity(products.len());
    let mut tiles = 0;
    for product in products.iter_mut() {
        let weight = product.weight;
        assert_eq!(weight.columns(), x.columns(), "activations and weight disagree on the columns");
        assert_eq!(product.out.len(), rows * weight.rows(), "an output of the wrong size");
        targets.push((weight, tiles, Scatter::new(product.out)));
        tiles += weight.row_tiles();
    }
    let chunk = tiles / (pool.threads() * 6);
    pool.for_each_chunk(
        tiles,
        chunk,
        || (),
        |(), range| {
            for unit in range {
                let Some((weight, first, out)) = targets.iter().rev().find(|(_, first, _)| *first <= unit) else {
                    continue;
                };
                row_tile(isa, weight, unit - first, x, out);
            }
        },
    );
}

/// All rows of activations times one row tile.
fn row_tile(isa: Isa, weight: &TiledMatrix, tile: usize, x: &QuantizedRows, out: &Scatter<'_>) {
    let mut sums = [[0f32; TILE_ROWS]; MAX_ROWS];
    let column = tile * TILE_ROWS;
    let valid = (weight.rows() - column).min(TILE_ROWS);
    let mut row = 0;
    while row < x.rows() {
        let taken = MAX_ROWS.min(x.rows() - row);
        let sums = &mut sums[..taken];
        match isa.0 {
            Level::Scalar => scalar(weight, tile, x, row, sums),
            // SAFETY: here and below, an `Isa` of this level exists only where detection found its features.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { x86::avx2::tile(weight, tile, x, row, sums) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::AvxVnni => unsafe { x86::avx_vnni::tile(weight, tile, x, row, sums) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Vnni => unsafe { x86::avx512_vnni::tile(weight, tile, x, row, sums) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Level::Neon => unsafe { neon::plain::tile(weight, tile, x, row, sums) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Level::NeonDot => unsafe { neon::dot::tile(weight, tile, x, row, sums) },
        }
        for (i, sums) in sums.iter().enumerate() {
            let start = (row + i) * weight.rows() + column;
            // SAFETY: a tile's columns are written by the one thread that took the tile, one slice at a time.
            let out = unsafe { out.slice(start..start + valid) };
            out.copy_from_slice(&sums[..valid]);
        }
        row += taken;
    }
}

/// The definition that the vector kernels are tested against.
fn scalar(weight: &TiledMatrix, tile: usize, x: &QuantizedRows, first: usize, sums: &mut [[f32; TILE_ROWS]]) {
    let offset = weight.format().offset();
    for sums in sums.iter_mut() {
        *sums = [0.0; TILE_ROWS];
    }
    let rows = tile * TILE_ROWS..weight.rows().min((tile + 1) * TILE_ROWS);
    for (r, row) in rows.enumerate() {
        let mut column = 0;
        for Run { quants, columns, scale, minimum } in weight.runs(row) {
            let quants = &quants[..columns];
            for (i, sums) in sums.iter_mut().enumerate() {
                let start = (first + i) * x.columns() + column;
                let (x_scale, x_sum) = (x.scales[start / BLOCK], x.sums[start / BLOCK]);
                let x = &x.quants[start..start + columns];
                let products = x.iter().zip(quants).map(|(x, q)| i32::from(*x) * (i32::from(*q) - offset));
                sums[r] += products.sum::<i32>() as f32 * x_scale * scale;
                if minimum != 0.0 {
                    sums[r] += minimum * x_sum;
                }
            }
            column += columns;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use candle_core::quantized::GgmlDType;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{FORMATS, weight};
    use crate::tiles::Format;

    fn pool(threads: usize) -> ThreadPool {
        ThreadPool::new("test", NonZeroUsize::new(threads).unwrap()).unwrap()
    }

    fn run(isa: Isa, pool: &ThreadPool, x: &[f32], weight: &TiledMatrix) -> Vec<f32> {
        let mut rows = QuantizedRows::new();
        rows.quantize(isa, pool, x, weight.columns());
        let mut out = vec![f32::NAN; rows.rows() * weight.rows()];
        matmul(isa, pool, &rows, &mut [Product { weight, out: &mut out }]);
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn twins_agree(
            m in 1usize..30, n in 1usize..70, blocks in 1usize..5, threads in 1usize..4, kind in 0usize..8, seed in any::<u64>(),
        ) {
            use rand::{Rng, SeedableRng};
            let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
            let (dtype, format) = FORMATS[kind];
            let columns = blocks * format.block_columns();
            let (weight, exact) = weight(dtype, format, n, columns);
            let pool = pool(threads);
            let x: Vec<f32> = (0..m * columns).map(|_| rng.random_range(-3.0..3.0)).collect();
            let expected = run(Isa::SCALAR, &pool, &x, &weight);
            for isa in Isa::available() {
                let found = run(isa, &pool, &x, &weight);
                for (i, (a, b)) in found.iter().zip(&expected).enumerate() {
                    prop_assert!((a - b).abs() <= 2e-4 * columns as f32, "{} at {i}: {a} {b}", isa.name());
                }
                for (row, out) in x.chunks(columns).zip(found.chunks(n)) {
                    // A row alone gives the same bits as in the batch.
                    prop_assert_eq!(&run(isa, &pool, row, &weight)[..], out);
                    for (exact, out) in exact.iter().zip(out) {
                        let full: f32 = exact.iter().zip(row).map(|(a, b)| a * b).sum();
                        // Rounding x to 8 bits: at most half a step of 3/127 on each of the columns, and errors average.
                        prop_assert!((full - out).abs() <= 0.2 * (columns as f32).sqrt(), "{full} {out}");
                    }
                }
            }
        }
    }

    #[test]
    fn extreme_quants_do_not_saturate() {
        // Every weight at an end of its range and every activation ±127: the largest sums that 16-bit intermediates meet.
        let one = half::f16::from_f32(1.0).to_bits().to_le_bytes();
        let q8: Vec<u8> = (0..16).flat_map(|_| one.into_iter().chain([0x80; 32])).collect();
        let q5: Vec<u8> = (0..16).flat_map(|_| one.into_iter().chain([0; 2]).chain([0xff; 20])).collect();
        let q6: Vec<u8> = (0..16).flat_map(|_| [0xff; 192].into_iter().chain([127; 16]).chain(one)).collect();
        for (format, raw, columns, value) in
            [(Format::Q8_0, q8, 32, -128.0), (Format::Q5_1, q5, 32, 31.0), (Format::Q6K, q6, 256, 31.0 * 127.0)]
        {
            let weight = TiledMatrix::repack(format, 16, columns, &raw).unwrap();
            for x in [127.0f32, -127.0] {
                for isa in Isa::available() {
                    let out = run(isa, &pool(1), &vec![x; columns], &weight);
                    let expected = value * columns as f32 * x;
                    assert!(out.iter().all(|o| *o == expected), "{format:?} {} {x}: {out:?}", isa.name());
                }
            }
        }
    }

    #[test]
    fn several_products_share_a_region() {
        let pool = pool(2);
        let (a, _) = weight(GgmlDType::Q4_1, Format::Q4_1, 40, 64);
        let (b, _) = weight(GgmlDType::Q8_0, Format::Q8_0, 17, 64);
        let x: Vec<f32> = (0..5 * 64).map(|i| (i as f32 * 0.37).sin()).collect();
        let isa = Isa::best();
        let mut rows = QuantizedRows::new();
        rows.quantize(isa, &pool, &x, 64);
        let (mut one, mut two) = (vec![0.0; 5 * 40], vec![0.0; 5 * 17]);
        let mut products = [Product { weight: &a, out: &mut one }, Product { weight: &b, out: &mut two }];
        matmul(isa, &pool, &rows, &mut products);
        assert_eq!(one, run(isa, &pool, &x, &a));
        assert_eq!(two, run(isa, &pool, &x, &b));
    }

    #[test]
    fn a_fault_in_the_activations_shows_in_the_product() {
        for (dtype, format) in FORMATS {
            let (weight, _) = weight(dtype, format, 16, 256);
            let mut x = vec![1.0; 256];
            x[40] = f32::NAN;
            for isa in Isa::available() {
                let out = run(isa, &pool(1), &x, &weight);
                assert!(out.iter().all(|v| v.is_nan()), "{format:?} {}", isa.name());
            }
        }
    }
}
