//! NEON, with the dot product instructions of Armv8.2 where there are any.
//!
//! Two instructions are written in assembly because the compiler has no stable name for them: `sdot`, and the conversion
//! between half and single precision, which every Armv8 processor has.

use std::arch::aarch64::*;
use std::arch::asm;

use super::{Simd, operations};

/// 128-bit registers.
pub(crate) struct Neon;

/// 128-bit registers, with `sdot`.
pub(crate) struct NeonDot;

/// Four half precision floats as single ones.
#[inline(always)]
pub(crate) fn widen(halves: uint16x4_t) -> float32x4_t {
    let wide: float32x4_t;
    // SAFETY: an instruction of the target's baseline that touches nothing but its registers.
    unsafe { asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) wide, in(vreg) halves, options(pure, nomem, nostack)) };
    wide
}

/// Four floats in half precision, rounded to nearest.
#[inline(always)]
pub(crate) fn narrow(floats: float32x4_t) -> uint16x4_t {
    let halves: uint16x4_t;
    // SAFETY: as in `widen`.
    unsafe { asm!("fcvtn {0:v}.4h, {1:v}.4s", out(vreg) halves, in(vreg) floats, options(pure, nomem, nostack)) };
    halves
}

/// `sum` plus the products of four bytes with four bytes in each lane.
///
/// # Safety
/// The processor has the dot product instructions.
#[inline(always)]
unsafe fn sdot(sum: int32x4_t, weights: int8x16_t, x: int8x16_t) -> int32x4_t {
    let mut sum = sum;
    // SAFETY: the caller's promise; nothing but registers is touched.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b",
            inout(vreg) sum, in(vreg) weights, in(vreg) x,
            options(pure, nomem, nostack)
        );
    }
    sum
}

/// As [`sdot`], without the instruction: two products of 128 · 127 fit into the 16 bits between.
#[inline(always)]
fn widening_dot(sum: int32x4_t, weights: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: NEON is part of the target's baseline.
    #[allow(unused_unsafe)]
    unsafe {
        let lower = vmull_s8(vget_low_s8(weights), vget_low_s8(x));
        let upper = vmull_high_s8(weights, x);
        vpadalq_s16(sum, vpaddq_s16(lower, upper))
    }
}

macro_rules! in_128_bits {
    ($dot:ident) => {
        const LANES: usize = 4;
        const TAKES_OFF_BIAS: bool = true;
        type Int = int32x4_t;
        type Float = float32x4_t;

        operations! {
            fn zero() -> float32x4_t { vdupq_n_f32(0.0) }
            fn splat(value: f32) -> float32x4_t { vdupq_n_f32(value) }
            fn splat_int(value: i32) -> int32x4_t { vdupq_n_s32(value) }
            fn four(bytes: *const i8) -> int32x4_t { vdupq_n_s32(bytes.cast::<i32>().read_unaligned()) }
            fn load(bytes: *const u8) -> int32x4_t { vreinterpretq_s32_u8(vld1q_u8(bytes)) }
            fn unsigned_bytes(bytes: *const u8) -> int32x4_t {
                let four = vreinterpret_u8_u32(vdup_n_u32(bytes.cast::<u32>().read_unaligned()));
                vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(four))))
            }
            fn signed_bytes(bytes: *const u8) -> int32x4_t {
                let four = vreinterpret_s8_u32(vdup_n_u32(bytes.cast::<u32>().read_unaligned()));
                vmovl_s16(vget_low_s16(vmovl_s8(four)))
            }
            fn halves(bytes: *const u8) -> float32x4_t { widen(vreinterpret_u16_u8(vld1_u8(bytes))) }
            fn floats(bytes: *const u8) -> float32x4_t { vreinterpretq_f32_u8(vld1q_u8(bytes)) }
            fn upper_halves(bytes: *const u8) -> float32x4_t {
                vreinterpretq_f32_u32(vshlq_n_u32::<16>(vmovl_u16(vreinterpret_u16_u8(vld1_u8(bytes)))))
            }
            fn store(values: float32x4_t, to: *mut f32) { vst1q_f32(to, values) }
            fn low(x: int32x4_t) -> int32x4_t { vandq_s32(x, vdupq_n_s32(0x0f0f_0f0f)) }
            fn high(x: int32x4_t) -> int32x4_t {
                vreinterpretq_s32_u8(vshrq_n_u8::<4>(vreinterpretq_u8_s32(x)))
            }
            fn merge(x: int32x4_t, bits: int32x4_t, mask: i8) -> int32x4_t {
                vorrq_s32(x, vandq_s32(bits, vreinterpretq_s32_s8(vdupq_n_s8(mask))))
            }
            fn left[BITS](x: int32x4_t) -> int32x4_t { vshlq_s32(x, vdupq_n_s32(BITS as i32)) }
            fn right[BITS](x: int32x4_t) -> int32x4_t {
                vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(x), vdupq_n_s32(-(BITS as i32))))
            }
            fn dot_pair(
                sum: int32x4_t,
                first: (int32x4_t, int32x4_t),
                second: (int32x4_t, int32x4_t)
            ) -> int32x4_t {
                let sum = $dot(sum, vreinterpretq_s8_s32(first.0), vreinterpretq_s8_s32(first.1));
                $dot(sum, vreinterpretq_s8_s32(second.0), vreinterpretq_s8_s32(second.1))
            }
            fn dot_biased(sum: int32x4_t, weights: int32x4_t, x: int32x4_t) -> int32x4_t {
                let weights = veorq_s8(vreinterpretq_s8_s32(weights), vdupq_n_s8(i8::MIN));
                $dot(sum, weights, vreinterpretq_s8_s32(x))
            }
            fn to_float(x: int32x4_t) -> float32x4_t { vcvtq_f32_s32(x) }
            fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t { vaddq_f32(a, b) }
            fn sub(a: float32x4_t, b: float32x4_t) -> float32x4_t { vsubq_f32(a, b) }
            fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t { vmulq_f32(a, b) }
            fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t { vfmaq_f32(c, a, b) }
        }
    };
}

impl Simd for Neon {
    in_128_bits!(widening_dot);
}

impl Simd for NeonDot {
    in_128_bits!(sdot);
}
