//! One row tile times some rows of activations, for every format and instruction set.

use crate::activations::QuantizedRows;
use crate::simd::Simd;
use crate::tiles::{Format, PAIR_BYTES, Scales, TILE_COLUMNS, TILE_ROWS, TiledMatrix};

/// A format as a type, so that the compiler makes a kernel for each.
pub(super) trait Layout {
    const FORMAT: Format;
}

macro_rules! layouts {
    ($($name:ident),*) => {
        $(
            pub(super) struct $name;
            impl Layout for $name {
                const FORMAT: Format = Format::$name;
            }
        )*
    };
}
layouts!(Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4K, Q5K, Q6K);

/// Defines `tile` for an instruction set: all of a call's rows, in the largest groups that `kernels` lists as
/// `rows by registers`.
macro_rules! entry {
    ($simd:ty, $features:literal, [$($rows:literal by $registers:literal),*]) => {
        /// Rows `first..first + sums.len()` of `x` times one row tile.
        ///
        /// # Safety
        /// The processor has the features of this instruction set.
        pub(in crate::matmul) unsafe fn tile(
            weight: &TiledMatrix,
            tile: usize,
            x: &QuantizedRows,
            first: usize,
            sums: &mut [[f32; TILE_ROWS]],
        ) {
            use crate::matmul::kernel::{self, Layout};

            #[target_feature(enable = $features)]
            fn rows<L: Layout, const M: usize, const P: usize>(
                weight: &TiledMatrix,
                tile: usize,
                x: &QuantizedRows,
                first: usize,
                sums: &mut [[f32; TILE_ROWS]],
            ) {
                for part in (0..TILE_ROWS / <$simd as Simd>::LANES).step_by(P) {
                    // SAFETY: this function has the features of the instruction set, and `part` is in the tile.
                    unsafe { kernel::rows::<$simd, L, M, P>(weight, tile, part, x, first, sums) };
                }
            }

            /// # Safety
            /// As for `tile`.
            unsafe fn format<L: Layout>(
                weight: &TiledMatrix,
                tile: usize,
                x: &QuantizedRows,
                first: usize,
                sums: &mut [[f32; TILE_ROWS]],
            ) {
                let mut done = 0;
                $(
                    while sums.len() - done >= $rows {
                        let sums = &mut sums[done..done + $rows];
                        // SAFETY: the caller promises the features.
                        unsafe { rows::<L, $rows, $registers>(weight, tile, x, first + done, sums) };
                        done += $rows;
                    }
                )*
            }

            // SAFETY: the caller promises the features.
            unsafe {
                match weight.format() {
                    Format::Q4_0 => format::<kernel::Q4_0>(weight, tile, x, first, sums),
                    Format::Q4_1 => format::<kernel::Q4_1>(weight, tile, x, first, sums),
                    Format::Q5_0 => format::<kernel::Q5_0>(weight, tile, x, first, sums),
                    Format::Q5_1 => format::<kernel::Q5_1>(weight, tile, x, first, sums),
                    Format::Q8_0 => format::<kernel::Q8_0>(weight, tile, x, first, sums),
                    Format::Q4K => format::<kernel::Q4K>(weight, tile, x, first, sums),
                    Format::Q5K => format::<kernel::Q5K>(weight, tile, x, first, sums),
                    Format::Q6K => format::<kernel::Q6K>(weight, tile, x, first, sums),
                }
            }
        }
    };
}
pub(super) use entry;

/// `M` rows of `x` from `first` on times `P` registers of a row tile from register `part` on.
///
/// # Safety
/// The processor has the instructions of `S`, and the tile has registers `part..part + P`.
#[inline(always)]
pub(super) unsafe fn rows<S: Simd, L: Layout, const M: usize, const P: usize>(
    weight: &TiledMatrix,
    tile: usize,
    part: usize,
    x: &QuantizedRows,
    first: usize,
    out: &mut [[f32; TILE_ROWS]],
) {
    let format = L::FORMAT;
    let (lines, scales) = weight.tile(tile);
    let blocks = x.blocks();
    assert!(weight.format() == format && weight.columns() == x.columns() && first + M <= x.rows() && out.len() == M);
    let x_quants = x.quants[first * x.columns()..].as_ptr();
    let (x_scales, x_sums) = (x.scales[first * blocks..].as_ptr(), x.sums[first * blocks..].as_ptr());
    let x_negated = x.negated[first * blocks..].as_ptr();
    let mut line: *const u8 = lines.as_ptr().cast();
    // SAFETY: a tile has `TILE_COLUMNS * blocks` columns as `x` has, so `line` and `scale` move over exactly the tile's
    // lines and scales; registers from `part` on are in each line. `b` is below `blocks` and `i` below `M`, rows that
    // exist by the assertion. The instructions are there by the caller's promise.
    unsafe {
        line = line.add(part * 4 * S::LANES);
        let mut scale = scales.as_ptr();
        let mut sums = [[S::zero(); P]; M];
        for block in 0..blocks / format.block_tiles() {
            let (mut d, mut minimum) = ([S::zero(); P], [S::zero(); P]);
            for p in 0..P {
                d[p] = S::halves(scale.add(2 * S::LANES * (part + p)));
                if matches!(format.scales(), Scales::Minimum | Scales::Nested) {
                    minimum[p] = S::halves(scale.add(2 * TILE_ROWS + 2 * S::LANES * (part + p)));
                }
            }
            for tile in 0..format.block_tiles() {
                let b = block * format.block_tiles() + tile;
                for run in 0..format.runs() {
                    let (run_scale, run_minimum) = factors::<S, L, P>(scale, part, tile, run, &d, &minimum);
                    let mut dots = [[S::splat_int(0); P]; M];
                    for (i, dot) in dots.iter_mut().enumerate() {
                        let negated = &*x_negated.add(i * blocks + b);
                        *dot = [start::<S, L>(if format.runs() == 1 { negated[2] } else { negated[run] }); P];
                    }
                    let run_columns = TILE_COLUMNS / format.runs();
                    let quants = x_quants.add(b * TILE_COLUMNS + run * run_columns);
                    dot_run::<S, L, M, P>(line, quants, blocks * TILE_COLUMNS, &mut dots);
                    line = line.add(64 * format.run_lines());
                    for (i, (sums, dots)) in sums.iter_mut().zip(&dots).enumerate() {
                        let x_scale = S::splat(*x_scales.add(i * blocks + b));
                        for p in 0..P {
                            sums[p] = S::fma(S::mul(S::to_float(dots[p]), x_scale), run_scale[p], sums[p]);
                            if matches!(format.scales(), Scales::Minimum | Scales::Nested) {
                                sums[p] = S::fma(S::splat(*x_sums.add(i * blocks + b)), run_minimum[p], sums[p]);
                            }
                        }
                    }
                }
            }
            scale = scale.add(format.scale_bytes());
        }
        for (out, sums) in out.iter_mut().zip(sums) {
            for (p, sum) in sums.into_iter().enumerate() {
                S::store(sum, out[(part + p) * S::LANES..][..S::LANES].as_mut_ptr());
            }
        }
    }
}

/// The integer product's first value: the offset times the negated sum of the activations.
///
/// # Safety
/// The processor has the instructions of `S`.
#[inline(always)]
unsafe fn start<S: Simd, L: Layout>(negated: i32) -> S::Int {
    // SAFETY: the caller's promise.
    unsafe {
        match L::FORMAT.offset() {
            8 => S::left::<3>(S::splat_int(negated)),
            16 => S::left::<4>(S::splat_int(negated)),
            32 => S::left::<5>(S::splat_int(negated)),
            128 if !S::TAKES_OFF_BIAS => S::left::<7>(S::splat_int(negated)),
            _ => S::splat_int(0),
        }
    }
}

/// Scale and minimum of each of `P` registers of rows, for one run of a tile of a block.
///
/// # Safety
/// The processor has the instructions of `S`; `scale` points to a block's scales, in which `tile`, `run` and the
/// registers are.
#[inline(always)]
unsafe fn factors<S: Simd, L: Layout, const P: usize>(
    scale: *const u8,
    part: usize,
    tile: usize,
    run: usize,
    d: &[S::Float; P],
    minimum: &[S::Float; P],
) -> ([S::Float; P], [S::Float; P]) {
    let (mut scales, mut minimums) = (*d, *minimum);
    for p in 0..P {
        let rows = (part + p) * S::LANES;
        // SAFETY: the caller's promises.
        unsafe {
            match L::FORMAT.scales() {
                Scales::Plain | Scales::Minimum => {}
                Scales::Nested => {
                    let pair = scale.add(4 * TILE_ROWS + tile / 2 * PAIR_BYTES + rows);
                    let low = S::unsigned_bytes(pair.add(tile % 2 * TILE_ROWS));
                    let mut high = S::unsigned_bytes(pair.add(2 * TILE_ROWS));
                    if tile % 2 == 1 {
                        high = S::right::<4>(high);
                    }
                    let factor = S::merge(S::low(low), S::left::<4>(high), 0x30);
                    scales[p] = S::mul(d[p], S::to_float(factor));
                    let factor = S::merge(S::high(low), S::left::<2>(high), 0x30);
                    minimums[p] = S::mul(minimum[p], S::to_float(factor));
                }
                Scales::NestedBytes => {
                    let run = tile * L::FORMAT.runs() + run;
                    let factor = S::signed_bytes(scale.add(2 * TILE_ROWS + run * TILE_ROWS + rows));
                    scales[p] = S::mul(d[p], S::to_float(factor));
                }
            }
        }
    }
    (scales, minimums)
}

/// Adds the integer products of one run to `dots`.
///
/// # Safety
/// The processor has the instructions of `S`; `line` points to the first register of a run's lines, `x` to the run's
/// activations in the first of `M` rows, `stride` bytes apart.
#[inline(always)]
unsafe fn dot_run<S: Simd, L: Layout, const M: usize, const P: usize>(
    mut line: *const u8,
    x: *const i8,
    stride: usize,
    dots: &mut [[S::Int; P]; M],
) {
    let format = L::FORMAT;
    // SAFETY: the caller's promises; the loops cover a run's lines and as many columns.
    unsafe {
        let (mut above, mut below) = ([S::splat_int(0); P], [S::splat_int(0); P]);
        if format.high_bits() > 0 {
            for p in 0..P {
                above[p] = S::load(line.add(p * 4 * S::LANES));
                below[p] = if format.high_bits() == 1 { S::left::<1>(above[p]) } else { S::left::<2>(above[p]) };
            }
            line = line.add(64);
        }
        for l in 0..format.low_lines() {
            for p in 0..P {
                let weights = S::load(line.add(p * 4 * S::LANES));
                if matches!(format, Format::Q8_0) {
                    for (i, dots) in dots.iter_mut().enumerate() {
                        dots[p] = S::dot_biased(dots[p], weights, S::four(x.add(i * stride + 4 * l)));
                    }
                    continue;
                }
                let (mut low, mut high) = (S::low(weights), S::high(weights));
                if format.high_bits() == 1 {
                    (low, high) = (S::merge(low, above[p], 0x10), S::merge(high, below[p], 0x10));
                    (above[p], below[p]) = (S::right::<1>(above[p]), S::left::<1>(below[p]));
                } else if format.high_bits() == 2 {
                    (low, high) = (S::merge(low, above[p], 0x30), S::merge(high, below[p], 0x30));
                    (above[p], below[p]) = (S::right::<2>(above[p]), S::left::<2>(below[p]));
                }
                for (i, dots) in dots.iter_mut().enumerate() {
                    let (first, second) = (S::four(x.add(i * stride + 8 * l)), S::four(x.add(i * stride + 8 * l + 4)));
                    dots[p] = S::dot_pair(dots[p], (low, first), (high, second));
                }
            }
            line = line.add(64);
        }
    }
}
