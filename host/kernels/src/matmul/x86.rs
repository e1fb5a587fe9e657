//! The kernels compiled for each instruction set of x86-64.
//!
//! How many rows and registers one pass takes is what fits in the registers: with AVX-512 twelve rows' float sums and
//! integer sums are 24 of 32; with AVX2 four rows of half a tile are 8 of 16.

pub(super) mod avx2 {
    use crate::activations::QuantizedRows;
    use crate::matmul::kernel::entry;
    use crate::simd::Simd;
    use crate::simd::x86::Avx2;
    use crate::tiles::{Format, TILE_ROWS, TiledMatrix};

    entry!(Avx2, "avx2,fma,f16c", [4 by 1, 2 by 2, 1 by 2]);
}

pub(super) mod avx_vnni {
    use crate::activations::QuantizedRows;
    use crate::matmul::kernel::entry;
    use crate::simd::Simd;
    use crate::simd::x86::AvxVnni;
    use crate::tiles::{Format, TILE_ROWS, TiledMatrix};

    entry!(AvxVnni, "avx2,fma,f16c,avxvnni", [4 by 1, 2 by 2, 1 by 2]);
}

pub(super) mod avx512_vnni {
    use crate::activations::QuantizedRows;
    use crate::matmul::kernel::entry;
    use crate::simd::Simd;
    use crate::simd::x86::Avx512Vnni;
    use crate::tiles::{Format, TILE_ROWS, TiledMatrix};

    entry!(
        Avx512Vnni,
        "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c",
        [12 by 1, 8 by 1, 4 by 1, 2 by 1, 1 by 1]
    );
}
