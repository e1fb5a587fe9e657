//! The product with AVX2, for processors without VNNI: half a tile's rows at a time in 256-bit registers.
//!
//! `vpmaddubsw` adds two products in 16 bits and saturates. With 4-bit weights that is out of reach (2 · 15 · 127).
//! For 8-bit weights the sign moves from the weight to the activation first, so that 2 · 128 · 127 still fits.

use std::arch::x86_64::*;

use crate::activations::QuantizedRows;
use crate::tiles::{Format, TILE_COLUMNS, TILE_ROWS, TiledMatrix};

/// Rows `first..first + sums.len()` of `x` times one row tile. Only for an `Isa` with AVX2, FMA and F16C.
pub(super) fn tile(weight: &TiledMatrix, tile: usize, x: &QuantizedRows, first: usize, sums: &mut [[f32; TILE_ROWS]]) {
    assert!(first + sums.len() <= x.rows() && weight.columns() == x.columns());
    let pairs = sums.len() / 2 * 2;
    // SAFETY: the caller holds an `Isa` with these features; rows and columns are in bounds by the assertion.
    unsafe {
        for i in (0..pairs).step_by(2) {
            kernel::<2>(weight, tile, x, first + i, &mut sums[i..i + 2]);
        }
        for i in pairs..sums.len() {
            kernel::<1>(weight, tile, x, first + i, &mut sums[i..i + 1]);
        }
    }
}

/// # Safety
/// The processor has these features, `first + M` rows exist in `x`, whose columns are those of `weight`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn kernel<const M: usize>(
    weight: &TiledMatrix,
    tile: usize,
    x: &QuantizedRows,
    first: usize,
    out: &mut [[f32; TILE_ROWS]],
) {
    let format = weight.format();
    let (lines, scales) = weight.tile(tile);
    let blocks = x.blocks();
    let quants = x.quants[first * x.columns()..(first + M) * x.columns()].as_ptr();
    let (x_scales, x_sums) =
        (&x.scales[first * blocks..(first + M) * blocks], &x.sums[first * blocks..(first + M) * blocks]);
    let mut sums = [[_mm256_setzero_ps(); 2]; M];
    for b in 0..blocks {
        let mut dots = [[_mm256_setzero_si256(); 2]; M];
        let line = lines[b * format.tile_lines()..][..format.tile_lines()].as_ptr();
        let scale = scales[b * format.tile_scales()..][..format.tile_scales()].as_ptr();
        // SAFETY: four activations at `column < 32` of block `b` of row `i < M`; all rows have `blocks` blocks.
        let four = |i: usize, column: usize| unsafe {
            let at = quants.add((i * blocks + b) * TILE_COLUMNS + column);
            _mm256_set1_epi32(at.cast::<i32>().read_unaligned())
        };
        for g in 0..format.tile_lines() {
            for half in 0..2 {
                // SAFETY: `g` is a line of this tile; each line has two aligned halves of 32 bytes.
                let w = unsafe { _mm256_load_si256(line.add(g).cast::<__m256i>().add(half)) };
                for (i, dot) in dots.iter_mut().enumerate() {
                    dot[half] = match format {
                        Format::Q8_0 => signed(dot[half], w, four(i, 4 * g)),
                        Format::Q4_0 | Format::Q4_1 => nibbles(dot[half], w, four(i, 8 * g), four(i, 8 * g + 4)),
                    };
                }
            }
        }
        for half in 0..2 {
            // SAFETY: a tile has 16 scales `d` and, in Q4_1, 16 more, `m`.
            let d = unsafe { _mm256_cvtph_ps(_mm_loadu_si128(scale.add(half * 8).cast())) };
            for (i, (sum, dot)) in sums.iter_mut().zip(dots).enumerate() {
                let (x_scale, x_sum) =
                    (_mm256_set1_ps(x_scales[i * blocks + b]), _mm256_set1_ps(x_sums[i * blocks + b]));
                let dot = _mm256_cvtepi32_ps(dot[half]);
                sum[half] = match format {
                    Format::Q4_1 => {
                        // SAFETY: as above.
                        let m = unsafe { _mm256_cvtph_ps(_mm_loadu_si128(scale.add(TILE_ROWS + half * 8).cast())) };
                        _mm256_fmadd_ps(dot, _mm256_mul_ps(d, x_scale), _mm256_fmadd_ps(m, x_sum, sum[half]))
                    }
                    Format::Q4_0 => {
                        let offset = _mm256_mul_ps(_mm256_set1_ps(-8.0), x_sum);
                        _mm256_fmadd_ps(_mm256_fmadd_ps(dot, x_scale, offset), d, sum[half])
                    }
                    // A NaN scale makes the product NaN, as the sum does in the other formats.
                    Format::Q8_0 => _mm256_fmadd_ps(_mm256_mul_ps(dot, x_scale), d, sum[half]),
                };
            }
        }
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        // SAFETY: twice 8 floats into an array of 16.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), sum[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), sum[1]);
        }
    }
}

/// Adds the products of eight rows' eight 4-bit weights with `low` (the first four columns) and `high` activations.
#[target_feature(enable = "avx2")]
fn nibbles(sum: __m256i, weights: __m256i, low: __m256i, high: __m256i) -> __m256i {
    let mask = _mm256_set1_epi8(15);
    let lower = _mm256_maddubs_epi16(_mm256_and_si256(weights, mask), low);
    let upper = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16::<4>(weights), mask), high);
    // Four products of at most 15 · 127: 16 bits hold them.
    _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_add_epi16(lower, upper), _mm256_set1_epi16(1)))
}

/// Adds the products of eight rows' four 8-bit weights, stored with 128 added, with four activations.
#[target_feature(enable = "avx2")]
fn signed(sum: __m256i, weights: __m256i, x: __m256i) -> __m256i {
    let weights = _mm256_xor_si256(weights, _mm256_set1_epi8(i8::MIN));
    let products = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(x, weights));
    _mm256_add_epi32(sum, _mm256_madd_epi16(products, _mm256_set1_epi16(1)))
}
