//! The cheap operations between the products of a decoder layer: norms, gates and sums.
//!
//! They run over whole rows in place, without a tensor or an allocation per operation; at one row a step that overhead
//! is what dominates. Bodies are plain Rust that the compiler vectorizes for each instruction set.

use crate::isa::{Isa, Level, per_isa};

/// `a * b + c`, fused where the instruction set has it.
#[inline(always)]
pub(crate) fn madd<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// `e^x` to a relative error of 2e-7, in a shape that vectorizes: the argument is split into a power of two and a rest
/// in ±ln 2 / 2, for which a polynomial of degree 6 (Cephes' `expf`) is enough. Arguments are clamped to ±87, NaN stays.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    /// Adding this rounds to an integer in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.0, 87.0);
    let shifted = madd::<FMA>(clamped, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let rest = madd::<FMA>(n, -0.693_359_4, clamped);
    let rest = madd::<FMA>(n, 2.121_944_4e-4, rest);
    let mut p = 1.987_569_1e-4;
    p = madd::<FMA>(p, rest, 1.398_2e-3);
    p = madd::<FMA>(p, rest, 8.333_452e-3);
    p = madd::<FMA>(p, rest, 4.166_579_6e-2);
    p = madd::<FMA>(p, rest, 1.666_666_5e-1);
    p = madd::<FMA>(p, rest, 0.5);
    p = madd::<FMA>(p, rest * rest, rest) + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    p * power
}

/// The sum of squares, in 16 lanes so that it vectorizes and has one order of addition.
#[inline(always)]
fn sum_of_squares<const FMA: bool>(x: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    let (chunks, rest) = x.as_chunks::<16>();
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane = madd::<FMA>(*v, *v, *lane);
        }
    }
    let mut sum = lanes.iter().sum();
    for v in rest {
        sum = madd::<FMA>(*v, *v, sum);
    }
    sum
}

#[inline(always)]
fn rms_norm_body<const FMA: bool>(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    let width = weight.len();
    assert!(x.len() == out.len() && x.len().is_multiple_of(width));
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let mean = sum_of_squares::<FMA>(x) / width as f32;
        let scale = 1.0 / (mean + epsilon).sqrt();
        for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * w;
        }
    }
}

per_isa! {
    /// RMSNorm (Zhang & Sennrich 2019) of each row of `x`: `x / sqrt(mean(x²) + epsilon) * weight`.
    pub fn rms_norm(isa, x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) = rms_norm_body
}

#[inline(always)]
fn silu_mul_body<const FMA: bool>(gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len());
    for (g, u) in gate.iter_mut().zip(up) {
        *g = *g / (1.0 + exp::<FMA>(-*g)) * u;
    }
}

per_isa! {
    /// The gate of SwiGLU: `gate = gate * sigmoid(gate) * up`.
    pub fn silu_mul(isa, gate: &mut [f32], up: &[f32]) = silu_mul_body
}

/// `tanh(x)` to an absolute error of 3e-7.
#[inline(always)]
fn tanh<const FMA: bool>(x: f32) -> f32 {
    1.0 - 2.0 / (exp::<FMA>(2.0 * x) + 1.0)
}

#[inline(always)]
fn gelu_mul_body<const FMA: bool>(gate: &mut [f32], up: &[f32]) {
    /// 2 · sqrt(2 / π).
    const SCALE: f32 = 1.595_769;
    assert_eq!(gate.len(), up.len());
    for (g, u) in gate.iter_mut().zip(up) {
        // 0.5 · (1 + tanh(x)) is sigmoid(2x), which loses nothing where tanh comes near -1.
        let inner = SCALE * *g * madd::<FMA>(0.044_715 * *g, *g, 1.0);
        *g = *g / (1.0 + exp::<FMA>(-inner)) * u;
    }
}

per_isa! {
    /// The gate of GeGLU (Shazeer 2020) with the tanh form of GELU (Hendrycks & Gimpel 2016): `gate = gelu(gate) * up`.
    pub fn gelu_mul(isa, gate: &mut [f32], up: &[f32]) = gelu_mul_body
}

#[inline(always)]
fn softcap_body<const FMA: bool>(x: &mut [f32], cap: f32) {
    let inverse = 1.0 / cap;
    for x in x {
        *x = cap * tanh::<FMA>(*x * inverse);
    }
}

per_isa! {
    /// Bounds each value smoothly: `x = cap * tanh(x / cap)`, as Gemma 2 does with scores and logits.
    pub fn softcap(isa, x: &mut [f32], cap: f32) = softcap_body
}

#[inline(always)]
fn scale_body<const FMA: bool>(x: &mut [f32], factor: f32) {
    for x in x {
        *x *= factor;
    }
}

per_isa! {
    /// `x *= factor`, as Gemma does with embeddings.
    pub fn scale(isa, x: &mut [f32], factor: f32) = scale_body
}

#[inline(always)]
fn add_body<const FMA: bool>(x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len());
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

per_isa! {
    /// `x += y`.
    pub fn add(isa, x: &mut [f32], y: &[f32]) = add_body
}

#[inline(always)]
fn softmax_terms_body<const FMA: bool>(x: &mut [f32], max: f32, total: &mut f32) {
    let mut lanes = [0f32; 16];
    let (chunks, rest) = x.as_chunks_mut::<16>();
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *v = exp::<FMA>(*v - max);
            *lane += *v;
        }
    }
    let mut sum: f32 = lanes.iter().sum();
    for v in rest {
        *v = exp::<FMA>(*v - max);
        sum += *v;
    }
    *total = sum;
}

per_isa! {
    /// Replaces each `x` by `e^(x - max)` and gives their sum: softmax without the division.
    pub fn softmax_terms(isa, x: &mut [f32], max: f32, total: &mut f32) = softmax_terms_body
}

/// Widens half precision values, in hardware where there is any.
pub(crate) fn widen(isa: Isa, from: &[u16], to: &mut [f32]) {
    assert_eq!(from.len(), to.len());
    match isa.0 {
        Level::Scalar => {
            for (from, to) in from.iter().zip(to) {
                *to = half::f16::from_bits(*from).to_f32();
            }
        }
        #[cfg(target_arch = "x86_64")]
        // SAFETY: these levels exist only where detection found f16c and avx.
        Level::Avx2 | Level::AvxVnni | Level::Avx512Vnni => unsafe { widen_f16c(from, to) },
        #[cfg(target_arch = "aarch64")]
        Level::Neon | Level::NeonDot => widen_neon(from, to),
    }
}

#[cfg(target_arch = "aarch64")]
fn widen_neon(from: &[u16], to: &mut [f32]) {
    use std::arch::aarch64::{vld1_u16, vst1q_f32};
    let (blocks, rest) = from.as_chunks::<4>();
    let (outs, out_rest) = to.as_chunks_mut::<4>();
    for (block, out) in blocks.iter().zip(outs) {
        // SAFETY: four values of 16 bits are read, four of 32 bits written, both inside their arrays.
        unsafe { vst1q_f32(out.as_mut_ptr(), crate::simd::neon::widen(vld1_u16(block.as_ptr()))) };
    }
    for (from, to) in rest.iter().zip(out_rest) {
        *to = half::f16::from_bits(*from).to_f32();
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx,f16c")]
fn widen_f16c(from: &[u16], to: &mut [f32]) {
    use std::arch::x86_64::{_mm_loadu_si128, _mm256_cvtph_ps, _mm256_storeu_ps};
    let (blocks, rest) = from.as_chunks::<8>();
    let (outs, out_rest) = to.as_chunks_mut::<8>();
    for (block, out) in blocks.iter().zip(outs) {
        // SAFETY: eight values of 16 bits are read, eight of 32 bits written, both inside their arrays.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(block.as_ptr().cast()))) };
    }
    for (from, to) in rest.iter().zip(out_rest) {
        *to = half::f16::from_bits(*from).to_f32();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn close(a: &[f32], b: &[f32]) {
        for (a, b) in a.iter().zip(b) {
            assert!((a - b).abs() <= 1e-5 * a.abs().max(b.abs()).max(1e-3), "{a} {b}");
        }
    }

    #[test]
    fn exp_matches_the_library() {
        let mut worst = 0f64;
        for i in -870_000..870_000 {
            let x = i as f32 / 10_000.0;
            let exact = f64::from(x).exp();
            worst = worst.max(((f64::from(exp::<true>(x)) - exact) / exact).abs());
        }
        assert!(worst < 2e-7, "{worst}");
        assert!(exp::<true>(f32::NAN).is_nan() && exp::<false>(f32::NAN).is_nan());
        assert!(exp::<true>(f32::NEG_INFINITY) < 1e-37);
    }

    proptest! {
        #[test]
        fn twins_agree(x in prop::collection::vec(-20f32..20.0, 64..200), epsilon in 1e-6f32..1e-3) {
            let n = x.len() / 2;
            let (a, b) = (&x[..n], &x[n..2 * n]);
            for isa in Isa::available() {
                let (mut one, mut two) = (vec![0.0; n], vec![0.0; n]);
                rms_norm(Isa::SCALAR, a, b, epsilon, &mut one);
                rms_norm(isa, a, b, epsilon, &mut two);
                close(&one, &two);
                let (mut one, mut two) = (a.to_vec(), a.to_vec());
                silu_mul(Isa::SCALAR, &mut one, b);
                silu_mul(isa, &mut two, b);
                close(&one, &two);
                let (mut one, mut two) = (a.to_vec(), a.to_vec());
                gelu_mul(Isa::SCALAR, &mut one, b);
                gelu_mul(isa, &mut two, b);
                close(&one, &two);
                for ((g, u), found) in a.iter().zip(b).zip(&two) {
                    let (g, u) = (f64::from(*g), f64::from(*u));
                    let inner = (2.0 / std::f64::consts::PI).sqrt() * (g + 0.044_715 * g.powi(3));
                    let exact = 0.5 * g * (1.0 + inner.tanh()) * u;
                    prop_assert!((exact - f64::from(*found)).abs() < 1e-4, "{exact} {found}");
                }
                let mut capped = a.to_vec();
                softcap(isa, &mut capped, 15.0);
                for (x, found) in a.iter().zip(&capped) {
                    let exact = 15.0 * (f64::from(*x) / 15.0).tanh();
                    prop_assert!((exact - f64::from(*found)).abs() < 1e-5, "{exact} {found}");
                }
                let (mut sum_one, mut sum_two) = (0.0, 0.0);
                let (mut one, mut two) = (a.to_vec(), a.to_vec());
                softmax_terms(Isa::SCALAR, &mut one, 20.0, &mut sum_one);
                softmax_terms(isa, &mut two, 20.0, &mut sum_two);
                close(&[sum_one], &[sum_two]);
            }
        }

        #[test]
        fn halves_widen_exactly(bits in prop::collection::vec(any::<u16>(), 0..40)) {
            for isa in Isa::available() {
                let mut wide = vec![0.0; bits.len()];
                widen(isa, &bits, &mut wide);
                for (bits, wide) in bits.iter().zip(&wide) {
                    let exact = half::f16::from_bits(*bits).to_f32();
                    prop_assert!(exact.is_nan() && wide.is_nan() || exact == *wide);
                }
            }
        }
    }
}
