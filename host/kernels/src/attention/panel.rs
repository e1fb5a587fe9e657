//! The one product that both halves of attention are made of: some queries' coefficients times 32 columns of a matrix.

use crate::isa::{Isa, Level};
use crate::kv::BLOCK_TOKENS;
use crate::simd::Simd;

/// Queries that one call takes at most.
pub(super) const MAX_QUERIES: usize = 4;

/// Columns of the matrix that one call takes.
const WIDTH: usize = BLOCK_TOKENS;

/// `sums[q · step] += Σ_j coefficients[q · row + j] · matrix[j · stride ..][..32]` for `j < depth`, in this order. `sums`
/// holds every `step`-th panel of up to [`MAX_QUERIES`] queries.
pub(super) fn product(
    isa: Isa,
    coefficients: &[f32],
    (row, depth): (usize, usize),
    matrix: &[f32],
    stride: usize,
    sums: &mut [[f32; WIDTH]],
    step: usize,
) {
    let queries = sums.len().div_ceil(step);
    assert!(depth > 0 && depth <= row && coefficients.len() >= queries * row && queries <= MAX_QUERIES);
    assert!(matrix.len() >= (depth - 1) * stride + WIDTH);
    match isa.0 {
        Level::Scalar => {
            for (q, sums) in sums.iter_mut().step_by(step).enumerate() {
                for (j, c) in coefficients[q * row..][..depth].iter().enumerate() {
                    for (sum, m) in sums.iter_mut().zip(&matrix[j * stride..][..WIDTH]) {
                        *sum += c * m;
                    }
                }
            }
        }
        // SAFETY: here and below, an `Isa` of this level exists only where detection found these features; sizes are
        // asserted above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 | Level::AvxVnni => unsafe {
            avx2::product(coefficients, (row, depth), matrix, stride, sums, step);
        },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Vnni => unsafe { avx512::product(coefficients, (row, depth), matrix, stride, sums, step) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Level::Neon | Level::NeonDot => unsafe {
            neon::product(coefficients, (row, depth), matrix, stride, sums, step);
        },
    }
}

/// The product of `Q` queries with `P` registers of the 32 columns, from register `part` on.
///
/// # Safety
/// The processor has the instructions of `S`; `coefficients` has `Q` rows of `row`, of which the last may end after
/// `depth`; `matrix` has 32 values at each multiple of `stride` below `depth`.
#[inline(always)]
unsafe fn queries<S: Simd, const Q: usize, const P: usize>(
    coefficients: *const f32,
    (row, depth): (usize, usize),
    (matrix, stride): (*const f32, usize),
    part: usize,
    sums: &mut [[f32; WIDTH]],
    step: usize,
) {
    assert!((part + P) * S::LANES <= WIDTH);
    // SAFETY: the caller's promises, and registers in 32 columns by the assertion.
    unsafe {
        let mut registers = [[S::zero(); P]; Q];
        for (q, registers) in registers.iter_mut().enumerate() {
            for (p, register) in registers.iter_mut().enumerate() {
                *register = S::floats(sums[q * step][(part + p) * S::LANES..].as_ptr().cast());
            }
        }
        for j in 0..depth {
            let mut columns = [S::zero(); P];
            for (p, column) in columns.iter_mut().enumerate() {
                *column = S::floats(matrix.add(j * stride + (part + p) * S::LANES).cast());
            }
            for (q, registers) in registers.iter_mut().enumerate() {
                let c = S::splat(*coefficients.add(q * row + j));
                for (register, column) in registers.iter_mut().zip(columns) {
                    *register = S::fma(c, column, *register);
                }
            }
        }
        for (q, registers) in registers.into_iter().enumerate() {
            for (p, register) in registers.into_iter().enumerate() {
                S::store(register, sums[q * step][(part + p) * S::LANES..].as_mut_ptr());
            }
        }
    }
}

/// Defines `product` for an instruction set, with the registers that one pass takes for as many queries.
macro_rules! entry {
    ($simd:ty, $features:literal, [$($queries:literal by $registers:literal),*]) => {
        use super::{Simd, WIDTH};

        /// # Safety
        /// The processor has the features of this instruction set; the sizes are those of the function above.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn product(
            coefficients: &[f32],
            shape: (usize, usize),
            matrix: &[f32],
            stride: usize,
            sums: &mut [[f32; WIDTH]],
            step: usize,
        ) {
            let (coefficients, matrix) = (coefficients.as_ptr(), (matrix.as_ptr(), stride));
            match sums.len().div_ceil(step) {
                $(
                    $queries => {
                        for part in (0..WIDTH / <$simd>::LANES).step_by($registers) {
                            // SAFETY: this function has the features; the caller promises the sizes.
                            unsafe {
                                super::queries::<$simd, $queries, $registers>(
                                    coefficients, shape, matrix, part, sums, step,
                                );
                            }
                        }
                    }
                )*
                count => unreachable!("{count} queries"),
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use crate::simd::x86::Avx2;

    entry!(Avx2, "avx2,fma,f16c", [4 by 2, 3 by 4, 2 by 4, 1 by 4]);
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use crate::simd::x86::Avx512Vnni;

    entry!(
        Avx512Vnni,
        "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c",
        [4 by 2, 3 by 2, 2 by 2, 1 by 2]
    );
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use crate::simd::neon::Neon;

    entry!(Neon, "neon", [4 by 4, 3 by 4, 2 by 8, 1 by 8]);
}
