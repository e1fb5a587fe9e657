//! The vector operations that the products are written in, once for all instruction sets.
//!
//! A kernel is a generic function over [`Simd`] that is inlined into an entry point compiled for the instruction set
//! (`#[target_feature]`), where the operations below become single instructions. That keeps one body to test and one
//! order of additions, which is what makes a row's result the same in every variant of a kernel.
//!
//! All operations are unsafe for two reasons: the processor must have the instructions, and pointers must be valid for
//! as many bytes as the operation says. None asks for an alignment.

#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86;

/// Registers of [`Self::LANES`] 32-bit lanes, one for each of as many rows of weights.
#[allow(clippy::missing_safety_doc)]
pub(crate) trait Simd {
    /// 32-bit lanes of a register.
    const LANES: usize;
    /// Whether [`Self::dot_biased`] takes off the 128 that are added to stored 8-bit weights.
    const TAKES_OFF_BIAS: bool;
    /// Integers: one of 32 bits, or four of 8 bits, in each lane.
    type Int: Copy;
    /// A float in each lane.
    type Float: Copy;

    unsafe fn zero() -> Self::Float;
    /// One float to all lanes.
    unsafe fn splat(value: f32) -> Self::Float;
    /// One integer to all lanes.
    unsafe fn splat_int(value: i32) -> Self::Int;
    /// Four bytes to all lanes.
    unsafe fn four(bytes: *const i8) -> Self::Int;
    /// Four bytes to each lane.
    unsafe fn load(bytes: *const u8) -> Self::Int;
    /// One unsigned byte to each lane, as 32 bits.
    unsafe fn unsigned_bytes(bytes: *const u8) -> Self::Int;
    /// One signed byte to each lane, as 32 bits.
    unsafe fn signed_bytes(bytes: *const u8) -> Self::Int;
    /// One half precision float to each lane.
    unsafe fn halves(bytes: *const u8) -> Self::Float;
    /// One 32-bit float to each lane.
    unsafe fn floats(bytes: *const u8) -> Self::Float;
    /// One bfloat16, the upper half of a 32-bit float, to each lane.
    unsafe fn upper_halves(bytes: *const u8) -> Self::Float;
    /// Writes one float of each lane.
    unsafe fn store(values: Self::Float, to: *mut f32);

    /// The lower half of each byte.
    unsafe fn low(x: Self::Int) -> Self::Int;
    /// The upper half of each byte.
    unsafe fn high(x: Self::Int) -> Self::Int;
    /// `x` with those bits of `bits` that are in each byte of `mask`.
    unsafe fn merge(x: Self::Int, bits: Self::Int, mask: i8) -> Self::Int;
    /// Shifts lanes of 32 bits to the left.
    unsafe fn left<const BITS: u32>(x: Self::Int) -> Self::Int;
    /// Shifts lanes of 32 bits to the right, filling with zeros.
    unsafe fn right<const BITS: u32>(x: Self::Int) -> Self::Int;

    /// `sum` plus, in each lane, the products of four unsigned `weights` of at most 63 with four signed `x` for the
    /// first pair and for the second.
    unsafe fn dot_pair(sum: Self::Int, first: (Self::Int, Self::Int), second: (Self::Int, Self::Int)) -> Self::Int;
    /// `sum` plus, in each lane, the products of four `weights`, stored with 128 added, with four `x` of at least -127.
    unsafe fn dot_biased(sum: Self::Int, weights: Self::Int, x: Self::Int) -> Self::Int;

    /// Integers as floats.
    unsafe fn to_float(x: Self::Int) -> Self::Float;
    unsafe fn add(a: Self::Float, b: Self::Float) -> Self::Float;
    unsafe fn sub(a: Self::Float, b: Self::Float) -> Self::Float;
    unsafe fn mul(a: Self::Float, b: Self::Float) -> Self::Float;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;
}

/// Writes operations as `fn name(argument: Type) -> Type { expression }`.
macro_rules! operations {
    ($($(#[$meta:meta])* fn $name:ident $([$bits:ident])? ($($arg:ident: $ty:ty),*) $(-> $out:ty)? { $($body:tt)* })*) => {
        $(
            $(#[$meta])*
            // Where instructions belong to the target's baseline some of these bodies are safe.
            #[allow(unused_unsafe)]
            #[inline(always)]
            unsafe fn $name $(<const $bits: u32>)? ($($arg: $ty),*) $(-> $out)? {
                // SAFETY: the caller promises the instructions and the bytes behind pointers.
                unsafe { $($body)* }
            }
        )*
    };
}
pub(crate) use operations;
