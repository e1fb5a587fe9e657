//! Some rows of activations times one panel of weights.

use crate::isa::{Isa, Level};
use crate::simd::Simd;

/// Rows of weights in a panel: two AVX-512 registers, four of AVX2, eight of NEON.
pub(crate) const PANEL_ROWS: usize = 32;

/// The most rows of activations that one call takes.
pub(crate) const MAX_ROWS: usize = 12;

/// A type of floats that weights are stored in.
pub(crate) trait Element {
    /// Bytes of one.
    const BYTES: usize;
    /// The first of `bytes`, which are at least as many.
    fn read(bytes: &[u8]) -> f32;
    /// One to each lane.
    ///
    /// # Safety
    /// As for the operations of [`Simd`].
    unsafe fn load<S: Simd>(bytes: *const u8) -> S::Float;
}

macro_rules! elements {
    ($($(#[$doc:meta])* $name:ident: $bytes:literal, $read:expr, $load:ident;)*) => {
        $(
            $(#[$doc])*
            pub(crate) struct $name;

            impl Element for $name {
                const BYTES: usize = $bytes;

                fn read(bytes: &[u8]) -> f32 {
                    let mut first = [0; $bytes];
                    first.copy_from_slice(&bytes[..$bytes]);
                    $read(first)
                }

                #[inline(always)]
                unsafe fn load<S: Simd>(bytes: *const u8) -> S::Float {
                    // SAFETY: the caller's promise.
                    unsafe { S::$load(bytes) }
                }
            }
        )*
    };
}

elements! {
    /// 32-bit floats.
    F32: 4, f32::from_le_bytes, floats;
    /// Half precision.
    F16: 2, |bytes| half::f16::from_le_bytes(bytes).to_f32(), halves;
    /// bfloat16.
    Bf16: 2, |bytes| half::bf16::from_le_bytes(bytes).to_f32(), upper_halves;
}

/// `out[i] = initial + Σ_c x[i · stride + c] · weights[c]`, in the order of the columns; without `initial` the products are
/// added to what `out` holds.
pub(crate) fn product<E: Element>(
    isa: Isa,
    weights: &[u8],
    x: &[f32],
    stride: usize,
    initial: Option<&[f32; PANEL_ROWS]>,
    out: &mut [[f32; PANEL_ROWS]],
) {
    let columns = weights.len() / (E::BYTES * PANEL_ROWS);
    assert!(!out.is_empty() && (out.len() - 1) * stride + columns <= x.len(), "x is shorter than its rows");
    match isa.0 {
        Level::Scalar => scalar::<E>(weights, x, stride, initial, out),
        // SAFETY: here and below, an `Isa` of this level exists only where detection found its features; `x` is long
        // enough by the assertion.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 | Level::AvxVnni => unsafe { avx2::product::<E>(weights, x, stride, initial, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Vnni => unsafe { avx512::product::<E>(weights, x, stride, initial, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Level::Neon | Level::NeonDot => unsafe { neon::product::<E>(weights, x, stride, initial, out) },
    }
}

/// The definition that the vector kernels are tested against.
pub(crate) fn scalar<E: Element>(
    weights: &[u8],
    x: &[f32],
    stride: usize,
    initial: Option<&[f32; PANEL_ROWS]>,
    out: &mut [[f32; PANEL_ROWS]],
) {
    for (i, sums) in out.iter_mut().enumerate() {
        if let Some(initial) = initial {
            *sums = *initial;
        }
        for (x, column) in x[i * stride..].iter().zip(weights.chunks_exact(PANEL_ROWS * E::BYTES)) {
            for (sum, weight) in sums.iter_mut().zip(column.chunks_exact(E::BYTES)) {
                *sum += x * E::read(weight);
            }
        }
    }
}

/// `M` rows of activations times `P` registers of a panel from register `part` on.
///
/// # Safety
/// The processor has the instructions of `S`; `weights` points to a panel of `columns` columns, which has registers
/// `part..part + P`; each of `M` rows of `x`, `stride` apart, has as many values.
#[inline(always)]
unsafe fn rows<S: Simd, E: Element, const M: usize, const P: usize>(
    weights: *const u8,
    columns: usize,
    part: usize,
    (x, stride): (*const f32, usize),
    initial: Option<&[f32; PANEL_ROWS]>,
    out: &mut [[f32; PANEL_ROWS]],
) {
    assert!(out.len() == M && (part + P) * S::LANES <= PANEL_ROWS);
    // SAFETY: the caller's promises; `initial` and each row of `out` are as long as a panel is wide.
    unsafe {
        let mut sums = [[S::zero(); P]; M];
        for (sums, out) in sums.iter_mut().zip(out.iter()) {
            let initial = initial.unwrap_or(out);
            for (p, sum) in sums.iter_mut().enumerate() {
                *sum = S::floats(initial.as_ptr().add((part + p) * S::LANES).cast());
            }
        }
        let mut column = weights.add(part * S::LANES * E::BYTES);
        for c in 0..columns {
            let mut registers = [S::zero(); P];
            for (p, register) in registers.iter_mut().enumerate() {
                *register = E::load::<S>(column.add(p * S::LANES * E::BYTES));
            }
            column = column.add(PANEL_ROWS * E::BYTES);
            for (i, sums) in sums.iter_mut().enumerate() {
                let x = S::splat(*x.add(i * stride + c));
                for (sum, register) in sums.iter_mut().zip(registers) {
                    *sum = S::fma(x, register, *sum);
                }
            }
        }
        for (out, sums) in out.iter_mut().zip(sums) {
            for (p, sum) in sums.into_iter().enumerate() {
                S::store(sum, out[(part + p) * S::LANES..].as_mut_ptr());
            }
        }
    }
}

/// Defines `product` for an instruction set: all of a call's rows, in the largest groups listed, each `rows by registers`.
macro_rules! entry {
    ($simd:ty, $features:literal, [$($rows:literal by $registers:literal),*]) => {
        use super::{Element, PANEL_ROWS, Simd};

        /// # Safety
        /// The processor has the features of this instruction set; `x` is as long as its rows.
        pub(super) unsafe fn product<E: Element>(
            weights: &[u8],
            x: &[f32],
            stride: usize,
            initial: Option<&[f32; PANEL_ROWS]>,
            out: &mut [[f32; PANEL_ROWS]],
        ) {
            /// # Safety
            /// `x` has `M` rows.
            #[target_feature(enable = $features)]
            unsafe fn rows<E: Element, const M: usize, const P: usize>(
                weights: &[u8],
                x: (*const f32, usize),
                initial: Option<&[f32; PANEL_ROWS]>,
                out: &mut [[f32; PANEL_ROWS]],
            ) {
                let columns = weights.len() / (E::BYTES * PANEL_ROWS);
                for part in (0..PANEL_ROWS / <$simd>::LANES).step_by(P) {
                    // SAFETY: this function has the features; `weights` has `columns` columns, and `x` its rows.
                    unsafe { super::rows::<$simd, E, M, P>(weights.as_ptr(), columns, part, x, initial, out) };
                }
            }

            let mut done = 0;
            $(
                while out.len() - done >= $rows {
                    let x = (x[done * stride..].as_ptr(), stride);
                    // SAFETY: the caller promises the features and the rows.
                    unsafe { rows::<E, $rows, $registers>(weights, x, initial, &mut out[done..done + $rows]) };
                    done += $rows;
                }
            )*
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use crate::simd::x86::Avx2;

    // Twelve sums are what sixteen registers have room for.
    entry!(Avx2, "avx2,fma,f16c", [6 by 2, 3 by 4, 2 by 4, 1 by 4]);
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use crate::simd::x86::Avx512Vnni;

    // All that are left go together: a text of few tokens is often less than the largest group.
    entry!(
        Avx512Vnni,
        "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c",
        [12 by 2, 11 by 2, 10 by 2, 9 by 2, 8 by 2, 7 by 2, 6 by 2, 5 by 2, 4 by 2, 3 by 2, 2 by 2, 1 by 2]
    );
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use crate::simd::neon::Neon;

    entry!(Neon, "neon", [4 by 4, 2 by 8, 1 by 8]);
}
