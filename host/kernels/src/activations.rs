//! Rows of activations as 8-bit integers, the other operand of the integer products.
//!
//! Each run of 32 values has one scale (its largest magnitude / 127) and the sum of its integers times that scale,
//! which is what formats with a minimum need: `Σ (d·q + m)·x = d·Σ q·x + m·Σ x`. This is what llama.cpp's Q8_1 holds,
//! with 32-bit scales; the rounding error it brings is the price of integer products. Formats with a fixed offset start
//! their integer sum at the offset times the negated sum of the integers, which is kept too, for each 16 and each 32.

use crate::isa::{Isa, Level};
use crate::threads::ThreadPool;

/// Values per scale.
pub const BLOCK: usize = 32;

/// Quantized rows. Reuse one: its buffers only grow.
#[derive(Debug, Default, Clone)]
pub struct QuantizedRows {
    rows: usize,
    columns: usize,
    pub(crate) quants: Vec<i8>,
    pub(crate) scales: Vec<f32>,
    pub(crate) sums: Vec<f32>,
    /// The negated sums of each block's integers: of its first half, its second half, and all.
    pub(crate) negated: Vec<[i32; 3]>,
}

/// Sums of a block: of its values, and the negated ones of its integers.
type Sums = (f32, [i32; 3]);

impl QuantizedRows {
    /// An empty set of rows.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many rows it holds.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How long a row is.
    pub fn columns(&self) -> usize {
        self.columns
    }

    pub(crate) fn blocks(&self) -> usize {
        self.columns / BLOCK
    }

    /// Quantizes the rows of `x`, each `columns` long (a multiple of 32). A row with a NaN or an infinity gets NaN as
    /// the scale of the block it is in, so that the fault shows in the product and is not rounded away.
    pub fn quantize(&mut self, isa: Isa, pool: &ThreadPool, x: &[f32], columns: usize) {
        assert!(
            columns > 0 && columns.is_multiple_of(BLOCK) && x.len().is_multiple_of(columns),
            "{} by {columns}",
            x.len()
        );
        self.rows = x.len() / columns;
        self.columns = columns;
        let blocks = x.len() / BLOCK;
        self.quants.resize(x.len(), 0);
        self.scales.resize(blocks, 0.0);
        self.sums.resize(blocks, 0.0);
        self.negated.resize(blocks, [0; 3]);
        // A few rows take less time than waking a thread.
        let parts = if self.rows < 8 || pool.threads() == 1 { 1 } else { 4 * pool.threads() };
        if parts == 1 {
            quantize_blocks(isa, x, &mut self.quants, &mut self.scales, &mut self.sums, &mut self.negated);
            return;
        }
        let share = blocks.div_ceil(parts);
        let parts: Vec<_> = x
            .chunks(share * BLOCK)
            .zip(self.quants.chunks_mut(share * BLOCK))
            .zip(self.scales.chunks_mut(share).zip(self.sums.chunks_mut(share).zip(self.negated.chunks_mut(share))))
            .map(|((x, quants), (scales, (sums, negated)))| std::sync::Mutex::new((x, quants, scales, sums, negated)))
            .collect();
        pool.for_each_chunk(
            parts.len(),
            1,
            || (),
            |(), range| {
                for part in &parts[range] {
                    let mut part = part.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    let (x, quants, scales, sums, negated) = &mut *part;
                    quantize_blocks(isa, x, quants, scales, sums, negated);
                }
            },
        );
    }
}

fn quantize_blocks(
    isa: Isa,
    x: &[f32],
    quants: &mut [i8],
    scales: &mut [f32],
    sums: &mut [f32],
    negated: &mut [[i32; 3]],
) {
    let blocks = x.as_chunks::<BLOCK>().0.iter().zip(quants.as_chunks_mut::<BLOCK>().0);
    for ((x, quants), (scale, (sum, negated))) in blocks.zip(scales.iter_mut().zip(sums.iter_mut().zip(negated))) {
        (*scale, (*sum, *negated)) = match isa.0 {
            Level::Scalar => quantize_scalar(x, quants),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Isa` of these levels exists only where detection found avx2.
            Level::Avx2 | Level::AvxVnni => unsafe { quantize_avx2(x, quants) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Isa` of this level exists only where detection found these features.
            Level::Avx512Vnni => unsafe { quantize_avx512(x, quants) },
            #[cfg(target_arch = "aarch64")]
            // The target's baseline has NEON, for which the compiler vectorizes this.
            Level::Neon | Level::NeonDot => quantize_scalar(x, quants),
        };
    }
}

#[inline(always)]
fn quantize_scalar(x: &[f32; BLOCK], quants: &mut [i8; BLOCK]) -> (f32, Sums) {
    let (mut lanes, mut faults) = ([0f32; 8], [0f32; 8]);
    for chunk in x.as_chunks::<8>().0 {
        for ((lane, fault), v) in lanes.iter_mut().zip(&mut faults).zip(chunk) {
            *lane = if v.abs() > *lane { v.abs() } else { *lane };
            *fault += v * 0.0;
        }
    }
    let largest = lanes.iter().copied().fold(0f32, f32::max);
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    let mut halves = [0i32; 2];
    for (half, (quants, x)) in halves.iter_mut().zip(quants.chunks_exact_mut(16).zip(x.chunks_exact(16))) {
        for (q, v) in quants.iter_mut().zip(x) {
            // Adding 1.5 * 2^23 leaves the value, rounded half to even, in the low bits.
            let rounded = (v * inverse + 12_582_912.0).to_bits() as i8;
            *q = rounded;
            *half += i32::from(rounded);
        }
    }
    let scale = largest / 127.0 + faults.iter().sum::<f32>();
    let sum = halves[0] + halves[1];
    (scale, (scale * sum as f32, [-halves[0], -halves[1], -sum]))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn quantize_avx2(x: &[f32; BLOCK], quants: &mut [i8; BLOCK]) -> (f32, Sums) {
    quantize_scalar(x, quants)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn quantize_avx512(x: &[f32; BLOCK], quants: &mut [i8; BLOCK]) -> (f32, Sums) {
    use std::arch::x86_64::*;
    // SAFETY: 16 values are read at 0 and at 16 of an array of 32.
    let (a, b) = unsafe { (_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16))) };
    let largest = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
    let zero = _mm512_setzero_ps();
    let fault = _mm512_fmadd_ps(a, zero, _mm512_mul_ps(b, zero));
    let faulty = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(fault, fault) != 0;
    let inverse = _mm512_set1_ps(if largest > 0.0 { 127.0 / largest } else { 0.0 });
    let a = _mm512_cvtps_epi32(_mm512_mul_ps(a, inverse));
    let b = _mm512_cvtps_epi32(_mm512_mul_ps(b, inverse));
    // SAFETY: 16 bytes are written at 0 and at 16 of an array of 32.
    unsafe {
        _mm_storeu_si128(quants.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(a));
        _mm_storeu_si128(quants.as_mut_ptr().add(16).cast(), _mm512_cvtepi32_epi8(b));
    }
    let scale = if faulty { f32::NAN } else { largest / 127.0 };
    // Of faulty values the integers are arbitrary, so these sums may overflow.
    let halves = [_mm512_reduce_add_epi32(a), _mm512_reduce_add_epi32(b)];
    let sum = halves[0].wrapping_add(halves[1]);
    (scale, (scale * sum as f32, [halves[0].wrapping_neg(), halves[1].wrapping_neg(), sum.wrapping_neg()]))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn twins_agree_and_errors_are_half_a_step(x in prop::collection::vec(-9f32..9.0, 20 * BLOCK), threads in 1usize..4) {
            let pool = ThreadPool::new("test", NonZeroUsize::new(threads).unwrap()).unwrap();
            let mut first = QuantizedRows::new();
            first.quantize(Isa::SCALAR, &pool, &x, 2 * BLOCK);
            for (b, block) in x.chunks(BLOCK).enumerate() {
                let sums = first.quants[b * BLOCK..][..BLOCK].chunks(16).map(|q| -q.iter().map(|q| i32::from(*q)).sum::<i32>());
                let sums: Vec<i32> = sums.collect();
                prop_assert_eq!(first.negated[b], [sums[0], sums[1], sums[0] + sums[1]]);
                for (i, v) in block.iter().enumerate() {
                    let back = f32::from(first.quants[b * BLOCK + i]) * first.scales[b];
                    prop_assert!((back - v).abs() <= first.scales[b] * 0.5001);
                }
            }
            for isa in Isa::available() {
                let mut other = QuantizedRows::new();
                other.quantize(isa, &pool, &x, 2 * BLOCK);
                prop_assert_eq!(&first.quants, &other.quants);
                prop_assert_eq!(&first.scales, &other.scales);
                prop_assert_eq!(&first.sums, &other.sums);
                prop_assert_eq!(&first.negated, &other.negated);
            }
        }
    }

    #[test]
    fn a_fault_is_not_rounded_away() {
        let pool = ThreadPool::new("test", NonZeroUsize::MIN).unwrap();
        for fault in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in [0, 5, 31] {
                let mut x = [1.0f32; 2 * BLOCK];
                x[place] = fault;
                for isa in Isa::available() {
                    let mut rows = QuantizedRows::new();
                    rows.quantize(isa, &pool, &x, 2 * BLOCK);
                    assert!(rows.scales[0].is_nan() && rows.sums[0].is_nan(), "{fault} {place} {}", isa.name());
                    assert!(rows.scales[1] > 0.0);
                }
            }
        }
    }
}
