//! The product with AVX-512 VNNI: `vpdpbusd` adds four products of 8-bit integers to each of 16 sums.

use std::arch::x86_64::*;

use crate::activations::QuantizedRows;
use crate::tiles::{Format, TILE_COLUMNS, TILE_ROWS, TiledMatrix};

const Q4_0: u8 = 0;
const Q4_1: u8 = 1;
const Q8_0: u8 = 2;

/// Rows `first..first + sums.len()` of `x` times one row tile. Only for an `Isa` with AVX-512 VNNI.
pub(super) fn tile(weight: &TiledMatrix, tile: usize, x: &QuantizedRows, first: usize, sums: &mut [[f32; TILE_ROWS]]) {
    match weight.format() {
        Format::Q4_0 => rows::<Q4_0>(weight, tile, x, first, sums),
        Format::Q4_1 => rows::<Q4_1>(weight, tile, x, first, sums),
        Format::Q8_0 => rows::<Q8_0>(weight, tile, x, first, sums),
    }
}

fn rows<const FORMAT: u8>(
    weight: &TiledMatrix,
    tile: usize,
    x: &QuantizedRows,
    first: usize,
    sums: &mut [[f32; TILE_ROWS]],
) {
    assert!(first + sums.len() <= x.rows() && weight.columns() == x.columns());
    // SAFETY: the caller holds an `Isa` with these features; rows and columns are in bounds by the assertion.
    unsafe {
        match sums.len() {
            12 => kernel::<FORMAT, 12>(weight, tile, x, first, sums),
            8 => kernel::<FORMAT, 8>(weight, tile, x, first, sums),
            4 => kernel::<FORMAT, 4>(weight, tile, x, first, sums),
            2 => kernel::<FORMAT, 2>(weight, tile, x, first, sums),
            _ => {
                for (i, sum) in sums.iter_mut().enumerate() {
                    kernel::<FORMAT, 1>(weight, tile, x, first + i, std::slice::from_mut(sum));
                }
            }
        }
    }
}

/// # Safety
/// The processor has these features, `first + M` rows exist in `x`, whose columns are those of `weight`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn kernel<const FORMAT: u8, const M: usize>(
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
    let low = _mm512_set1_epi8(15);
    let mut sums = [_mm512_setzero_ps(); M];
    for b in 0..blocks {
        let mut dots = [_mm512_setzero_si512(); M];
        let line = lines[b * format.tile_lines()..][..format.tile_lines()].as_ptr();
        let scale = scales[b * format.tile_scales()..][..format.tile_scales()].as_ptr();
        // SAFETY: four activations at `column < 32` of block `b` of row `i < M`; all rows have `blocks` blocks.
        let four = |i: usize, column: usize| unsafe {
            let at = quants.add((i * blocks + b) * TILE_COLUMNS + column);
            _mm512_set1_epi32(at.cast::<i32>().read_unaligned())
        };
        if FORMAT == Q8_0 {
            for g in 0..8 {
                // SAFETY: a Q8_0 tile has eight aligned lines.
                let w = unsafe { _mm512_load_si512(line.add(g).cast()) };
                for (i, dot) in dots.iter_mut().enumerate() {
                    *dot = _mm512_dpbusd_epi32(*dot, w, four(i, 4 * g));
                }
            }
        } else {
            for g in 0..4 {
                // SAFETY: a Q4 tile has four aligned lines.
                let w = unsafe { _mm512_load_si512(line.add(g).cast()) };
                let lower = _mm512_and_si512(w, low);
                let upper = _mm512_and_si512(_mm512_srli_epi16::<4>(w), low);
                for (i, dot) in dots.iter_mut().enumerate() {
                    *dot = _mm512_dpbusd_epi32(*dot, lower, four(i, 8 * g));
                    *dot = _mm512_dpbusd_epi32(*dot, upper, four(i, 8 * g + 4));
                }
            }
        }
        // SAFETY: every tile has 16 scales `d`.
        let d = unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(scale.cast())) };
        for (i, (sum, dot)) in sums.iter_mut().zip(dots).enumerate() {
            let (x_scale, x_sum) = (_mm512_set1_ps(x_scales[i * blocks + b]), x_sums[i * blocks + b]);
            let dot = _mm512_cvtepi32_ps(dot);
            if FORMAT == Q4_1 {
                // SAFETY: a Q4_1 tile has 16 more scales, `m`.
                let m = unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(scale.add(TILE_ROWS).cast())) };
                *sum = _mm512_fmadd_ps(dot, _mm512_mul_ps(d, x_scale), _mm512_fmadd_ps(m, _mm512_set1_ps(x_sum), *sum));
            } else {
                let offset = if FORMAT == Q4_0 { -8.0 } else { -128.0 };
                *sum = _mm512_fmadd_ps(_mm512_fmadd_ps(dot, x_scale, _mm512_set1_ps(offset * x_sum)), d, *sum);
            }
        }
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        // SAFETY: 16 floats into an array of 16.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), sum) };
    }
}
