//! The kernels compiled for NEON: four rows' sums of half a tile are 16 of 32 registers.

pub(super) mod plain {
    use crate::activations::QuantizedRows;
    use crate::matmul::kernel::entry;
    use crate::simd::Simd;
    use crate::simd::neon::Neon;
    use crate::tiles::{Format, TILE_ROWS, TiledMatrix};

    entry!(Neon, "neon", [4 by 2, 2 by 4, 1 by 4]);
}

pub(super) mod dot {
    use crate::activations::QuantizedRows;
    use crate::matmul::kernel::entry;
    use crate::simd::Simd;
    use crate::simd::neon::NeonDot;
    use crate::tiles::{Format, TILE_ROWS, TiledMatrix};

    entry!(NeonDot, "neon,dotprod", [4 by 2, 2 by 4, 1 by 4]);
}
