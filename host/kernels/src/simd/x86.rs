//! AVX2, AVX2 with VNNI in 256 bits, and AVX-512 with VNNI.

use std::arch::x86_64::*;

use super::{Simd, operations};

/// 256-bit registers.
pub(crate) struct Avx2;

/// 256-bit registers, with `vpdpbusd`.
pub(crate) struct AvxVnni;

/// 512-bit registers, with `vpdpbusd`.
pub(crate) struct Avx512Vnni;

macro_rules! in_256_bits {
    () => {
        const LANES: usize = 8;
        type Int = __m256i;
        type Float = __m256;

        operations! {
            fn zero() -> __m256 { _mm256_setzero_ps() }
            fn splat(value: f32) -> __m256 { _mm256_set1_ps(value) }
            fn splat_int(value: i32) -> __m256i { _mm256_set1_epi32(value) }
            fn four(bytes: *const i8) -> __m256i { _mm256_set1_epi32(bytes.cast::<i32>().read_unaligned()) }
            fn load(bytes: *const u8) -> __m256i { _mm256_loadu_si256(bytes.cast()) }
            fn unsigned_bytes(bytes: *const u8) -> __m256i { _mm256_cvtepu8_epi32(_mm_loadl_epi64(bytes.cast())) }
            fn signed_bytes(bytes: *const u8) -> __m256i { _mm256_cvtepi8_epi32(_mm_loadl_epi64(bytes.cast())) }
            fn halves(bytes: *const u8) -> __m256 { _mm256_cvtph_ps(_mm_loadu_si128(bytes.cast())) }
            fn floats(bytes: *const u8) -> __m256 { _mm256_loadu_ps(bytes.cast()) }
            fn upper_halves(bytes: *const u8) -> __m256 {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(bytes.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            }
            fn store(values: __m256, to: *mut f32) { _mm256_storeu_ps(to, values) }
            fn low(x: __m256i) -> __m256i { _mm256_and_si256(x, _mm256_set1_epi8(15)) }
            fn high(x: __m256i) -> __m256i { _mm256_and_si256(_mm256_srli_epi16::<4>(x), _mm256_set1_epi8(15)) }
            fn merge(x: __m256i, bits: __m256i, mask: i8) -> __m256i {
                _mm256_or_si256(x, _mm256_and_si256(bits, _mm256_set1_epi8(mask)))
            }
            fn left[BITS](x: __m256i) -> __m256i { _mm256_sllv_epi32(x, _mm256_set1_epi32(BITS as i32)) }
            fn right[BITS](x: __m256i) -> __m256i { _mm256_srlv_epi32(x, _mm256_set1_epi32(BITS as i32)) }
            fn to_float(x: __m256i) -> __m256 { _mm256_cvtepi32_ps(x) }
            fn add(a: __m256, b: __m256) -> __m256 { _mm256_add_ps(a, b) }
            fn sub(a: __m256, b: __m256) -> __m256 { _mm256_sub_ps(a, b) }
            fn mul(a: __m256, b: __m256) -> __m256 { _mm256_mul_ps(a, b) }
            fn fma(a: __m256, b: __m256, c: __m256) -> __m256 { _mm256_fmadd_ps(a, b, c) }
        }
    };
}

impl Simd for Avx2 {
    in_256_bits!();

    const TAKES_OFF_BIAS: bool = true;

    operations! {
        // `vpmaddubsw` adds two products in 16 bits and saturates: four of 63 · 127 still fit.
        fn dot_pair(sum: __m256i, first: (__m256i, __m256i), second: (__m256i, __m256i)) -> __m256i {
            let products =
                _mm256_add_epi16(_mm256_maddubs_epi16(first.0, first.1), _mm256_maddubs_epi16(second.0, second.1));
            _mm256_add_epi32(sum, _mm256_madd_epi16(products, _mm256_set1_epi16(1)))
        }
        // The sign moves from the weight to `x` first, so that two products of 128 · 127 fit.
        fn dot_biased(sum: __m256i, weights: __m256i, x: __m256i) -> __m256i {
            let weights = _mm256_xor_si256(weights, _mm256_set1_epi8(i8::MIN));
            let products = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(x, weights));
            _mm256_add_epi32(sum, _mm256_madd_epi16(products, _mm256_set1_epi16(1)))
        }
    }
}

impl Simd for AvxVnni {
    in_256_bits!();

    const TAKES_OFF_BIAS: bool = false;

    operations! {
        fn dot_pair(sum: __m256i, first: (__m256i, __m256i), second: (__m256i, __m256i)) -> __m256i {
            _mm256_dpbusd_avx_epi32(_mm256_dpbusd_avx_epi32(sum, first.0, first.1), second.0, second.1)
        }
        fn dot_biased(sum: __m256i, weights: __m256i, x: __m256i) -> __m256i { _mm256_dpbusd_avx_epi32(sum, weights, x) }
    }
}

impl Simd for Avx512Vnni {
    const LANES: usize = 16;
    const TAKES_OFF_BIAS: bool = false;
    type Int = __m512i;
    type Float = __m512;

    operations! {
        fn zero() -> __m512 { _mm512_setzero_ps() }
        fn splat(value: f32) -> __m512 { _mm512_set1_ps(value) }
        fn splat_int(value: i32) -> __m512i { _mm512_set1_epi32(value) }
        fn four(bytes: *const i8) -> __m512i { _mm512_set1_epi32(bytes.cast::<i32>().read_unaligned()) }
        fn load(bytes: *const u8) -> __m512i { _mm512_loadu_si512(bytes.cast()) }
        fn unsigned_bytes(bytes: *const u8) -> __m512i { _mm512_cvtepu8_epi32(_mm_loadu_si128(bytes.cast())) }
        fn signed_bytes(bytes: *const u8) -> __m512i { _mm512_cvtepi8_epi32(_mm_loadu_si128(bytes.cast())) }
        fn halves(bytes: *const u8) -> __m512 { _mm512_cvtph_ps(_mm256_loadu_si256(bytes.cast())) }
        fn floats(bytes: *const u8) -> __m512 { _mm512_loadu_ps(bytes.cast()) }
        fn upper_halves(bytes: *const u8) -> __m512 {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(bytes.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
        fn store(values: __m512, to: *mut f32) { _mm512_storeu_ps(to, values) }
        fn low(x: __m512i) -> __m512i { _mm512_and_si512(x, _mm512_set1_epi8(15)) }
        fn high(x: __m512i) -> __m512i { _mm512_and_si512(_mm512_srli_epi16::<4>(x), _mm512_set1_epi8(15)) }
        fn merge(x: __m512i, bits: __m512i, mask: i8) -> __m512i {
            _mm512_or_si512(x, _mm512_and_si512(bits, _mm512_set1_epi8(mask)))
        }
        fn left[BITS](x: __m512i) -> __m512i { _mm512_slli_epi32::<BITS>(x) }
        fn right[BITS](x: __m512i) -> __m512i { _mm512_srli_epi32::<BITS>(x) }
        fn dot_pair(sum: __m512i, first: (__m512i, __m512i), second: (__m512i, __m512i)) -> __m512i {
            _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(sum, first.0, first.1), second.0, second.1)
        }
        fn dot_biased(sum: __m512i, weights: __m512i, x: __m512i) -> __m512i { _mm512_dpbusd_epi32(sum, weights, x) }
        fn to_float(x: __m512i) -> __m512 { _mm512_cvtepi32_ps(x) }
        fn add(a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
        fn sub(a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
        fn mul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        fn fma(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
    }
}
