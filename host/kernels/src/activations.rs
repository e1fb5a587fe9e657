//! Rows of activations as 8-bit integers, the other operand of the integer products.
//!
//! Each run of 32 values has one scale (its largest magnitude / 127) and the sum of its integers times that scale,
//! which is what formats with an offset need: `Σ (d·q + m)·x = d·Σ q·x + m·Σ x`. This is what llama.cpp's Q8_1 holds,
//! with 32-bit scales; the rounding error it brings is the price of integer products.

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
}

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
        let threads = if self.rows < 8 { 1 } else { pool.threads() };
        if threads == 1 {
            quantize_blocks(isa, x, &mut self.quants, &mut self.scales, &mut self.sums);
            return;
        }
        let share = blocks.div_ceil(threads);
        let parts: Vec<_> = x
            .chunks(share * BLOCK)
            .zip(self.quants.chunks_mut(share * BLOCK))
            .zip(self.scales.chunks_mut(share).zip(self.sums.chunks_mut(share)))
            .map(|((x, quants), (scales, sums))| std::sync::Mutex::new((x, quants, scales, sums)))
            .collect();
        pool.run(&|thread| {
            if let Some(part) = parts.get(thread) {
                let mut part = part.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let (x, quants, scales, sums) = &mut *part;
                quantize_blocks(isa, x, quants, scales, sums);
            }
        });
    }
}

fn quantize_blocks(isa: Isa, x: &[f32], quants: &mut [i8], scales: &mut [f32], sums: &mut [f32]) {
    let blocks = x.as_chunks::<BLOCK>().0.iter().zip(quants.as_chunks_mut::<BLOCK>().0);
    for ((x, quants), (scale, sum)) in blocks.zip(scales.iter_mut().zip(sums)) {
        (*scale, *sum) = match isa.0 {
            Level::Scalar => quantize_scalar(x, quants),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Isa` of this level exists only where detection found avx2.
            Level::Avx2 => unsafe { quantize_avx2(x, quants) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Isa` of this level exists only where detection found these features.
            Level::Avx512Vnni => unsafe { quantize_avx512(x, quants) },
        };
    }
}

#[inline(always)]
fn quantize_scalar(x: &[f32; BLOCK], quants: &mut [i8; BLOCK]) -> (f32, f32) {
    let (mut lanes, mut faults) = ([0f32; 8], [0f32; 8]);
    for chunk in x.as_chunks::<8>().0 {
        for ((lane, fault), v) in lanes.iter_mut().zip(&mut faults).zip(chunk) {
            *lane = if v.abs() > *lane { v.abs() } else { *lane };
            *fault += v * 0.0;
        }
    }
    let largest = lanes.iter().copied().fold(0f32, f32::max);
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    let mut sum = 0i32;
    for (q, v) in quants.iter_mut().zip(x) {
        // Adding 1.5 * 2^23 leaves the value, rounded half to even, in the low bits.
        let rounded = (v * inverse + 12_582_912.0).to_bits() as i8;
        *q = rounded;
        sum += i32::from(rounded);
    }
    let scale = largest / 127.0 + faults.iter().sum::<f32>();
    (scale, scale * sum as f32)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn quantize_avx2(x: &[f32; BLOCK], quants: &mut [i8; BLOCK]) -> (f32, f32) {
    quantize_scalar(x, quants)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn quantize_avx512(x: &[f32; BLOCK], quants: &mut [i8; BLOCK]) -> (f32, f32) {
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
    (scale, scale * _mm512_reduce_add_epi32(_mm512_add_epi32(a, b)) as f32)
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
