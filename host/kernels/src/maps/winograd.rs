//! Convolutions of 3 by 3 pixels with 16 multiplications in place of 36: F(2×2, 3×3) of Lavin and Gray (2016).
//!
//! Windows of 4 by 4 pixels, two apart, and the weights go through small sums; then each of the 16 places is a product of
//! its own, tiles by channels by outputs, and sums of its results are 2 by 2 outputs. All factors are 1 and a half, so
//! little precision is lost: less than a sum over the channels loses anyway.
//!
//! Weights stay as they are in the file, since transformed ones take 16 floats for each 9: a panel of outputs and some
//! of its channels are transformed when they are about to be used, by as many tiles as fit with them into a core's
//! second cache.

use std::ops::Range;

use super::{Geometry, Map, Mode};
use crate::floats::kernel::{Bf16, Element, F16, F32, MAX_ROWS, PANEL_ROWS, product};
use crate::floats::{FloatFormat, FloatMatrix};
use crate::isa::{Isa, Level};
use crate::linear::as_bytes;
use crate::simd::Simd;
use crate::threads::{Scatter, ThreadPool};

/// Places of a transformed tile.
const PLACES: usize = 16;
/// Tiles that are worked on together at most.
const TILES: usize = 72;
/// Tiles where that lets all channels be worked on at once, which saves adding up.
const FEW_TILES: usize = 48;
/// Bytes of transformed pixels that are worked on together: half of a usual second-level cache.
const BYTES: usize = 1 << 20;

/// Whether a convolution is faster this way: not if the map or its number of channels is so small that the transforms
/// outweigh the products.
pub(super) fn suits(map: &Map<'_>, geometry: &Geometry, outputs: usize) -> bool {
    let tiles = geometry.rows.len().div_ceil(2) * geometry.output.1.div_ceil(2);
    fits(geometry.kernel, geometry.stride, map.channels, outputs) && tiles >= 8
}

/// What [`suits`] asks of the convolution alone.
pub(super) fn fits(kernel: usize, stride: usize, channels: usize, outputs: usize) -> bool {
    kernel == 3 && stride == 1 && channels >= 16 && outputs >= 16
}

/// A convolution, and how it is cut up.
struct Job<'a> {
    isa: Isa,
    map: &'a Map<'a>,
    geometry: &'a Geometry,
    weight: &'a FloatMatrix,
    bias: &'a [f32],
    mode: Mode,
    /// Channels that are worked on together.
    chunk: usize,
}

#[derive(Default)]
struct Scratch {
    /// Place by place, tile by tile, channels.
    inputs: Vec<f32>,
    /// Place by place, channel by channel, a panel's outputs.
    weights: Vec<f32>,
    /// Panel by panel, place by place, tile by tile, a panel's outputs.
    sums: Vec<[f32; PANEL_ROWS]>,
    zeros: Vec<f32>,
}

/// The convolution; see [`super::convolve`]. How work is cut up depends on the map and not on the threads.
pub(super) fn convolve(
    isa: Isa,
    pool: &ThreadPool,
    (map, geometry): (&Map<'_>, &Geometry),
    (weight, bias): (&FloatMatrix, &[f32]),
    mode: Mode,
    out: &mut [f32],
) {
    let per_tile = PLACES * map.channels * size_of::<f32>();
    let most = if FEW_TILES * per_tile <= BYTES { FEW_TILES } else { TILES };
    let tiles = geometry.rows.len().div_ceil(2) * geometry.output.1.div_ceil(2);
    let height = tiles.div_ceil(tiles.div_ceil(most)).next_multiple_of(MAX_ROWS).min(tiles);
    let chunks = (height * per_tile).div_ceil(BYTES);
    let chunk = map.channels.div_ceil(chunks).next_multiple_of(16).min(map.channels);
    let job = Job { isa, map, geometry, weight, bias, mode, chunk };
    let panels = weight.rows().div_ceil(PANEL_ROWS);
    let blocks = tiles.div_ceil(height);
    let units = if pool.threads() == 1 { 1 } else { pool.threads() * 3 };
    let each = panels.div_ceil(units.div_ceil(blocks).min(panels));
    let splits = panels.div_ceil(each);
    let out = Scatter::new(out);
    pool.for_each_chunk(blocks * splits, 1, Scratch::default, |scratch, units| {
        for unit in units {
            let first = unit / splits * height;
            let panel = unit % splits * each;
            job.block(scratch, first..(first + height).min(tiles), panel..(panel + each).min(panels), &out);
        }
    });
}

impl Job<'_> {
    /// Some tiles of some panels of outputs.
    fn block(&self, scratch: &mut Scratch, tiles: Range<usize>, panels: Range<usize>, out: &Scatter<'_>) {
        let (channels, count) = (self.map.channels, tiles.len());
        let whole = self.chunk >= channels;
        let held = if whole { 1 } else { panels.len() };
        scratch.sums.resize(held * PLACES * count, [0.0; PANEL_ROWS]);
        scratch.zeros.resize(self.chunk, 0.0);
        for first in (0..channels).step_by(self.chunk) {
            let chunk = first..(first + self.chunk).min(channels);
            let width = chunk.len();
            scratch.inputs.resize(PLACES * count * width, 0.0);
            self.inputs(tiles.clone(), chunk.clone(), &scratch.zeros[..width], &mut scratch.inputs);
            scratch.weights.resize(PLACES * width * PANEL_ROWS, 0.0);
            for (at, panel) in panels.clone().enumerate() {
                let taps = self.weight.panel(panel);
                match self.weight.format() {
                    FloatFormat::F32 => weights::<F32>(self.isa, taps, channels, first, &mut scratch.weights),
                    FloatFormat::F16 => weights::<F16>(self.isa, taps, channels, first, &mut scratch.weights),
                    FloatFormat::Bf16 => weights::<Bf16>(self.isa, taps, channels, first, &mut scratch.weights),
                }
                let at = if whole { 0 } else { at };
                let sums = &mut scratch.sums[at * PLACES * count..(at + 1) * PLACES * count];
                let initial = (first == 0).then_some(&[0.0; PANEL_ROWS]);
                for (place, weights) in scratch.weights.chunks_exact(width * PANEL_ROWS).enumerate() {
                    for group in (0..count).step_by(MAX_ROWS) {
                        let rows = place * count + group..place * count + (group + MAX_ROWS).min(count);
                        let x = &scratch.inputs[rows.start * width..rows.end * width];
                        product::<F32>(self.isa, as_bytes(weights), x, width, initial, &mut sums[rows]);
                    }
                }
                if chunk.end == channels {
                    self.outputs(tiles.clone(), panel, sums, out);
                }
            }
        }
    }

    /// The pixels that `tiles` see, transformed.
    fn inputs(&self, tiles: Range<usize>, channels: Range<usize>, zeros: &[f32], out: &mut [f32]) {
        let (map, geometry) = (self.map, self.geometry);
        let across = geometry.output.1.div_ceil(2);
        let (height, width) = geometry.resized.unwrap_or((map.height, map.width));
        let place = tiles.len() * channels.len();
        for (tile, start) in tiles.zip((0..).step_by(channels.len())) {
            let mut pixels = [zeros; PLACES];
            for (at, pixel) in pixels.iter_mut().enumerate() {
                let y = (geometry.rows.start + tile / across * 2 + at / 4).wrapping_sub(geometry.padding);
                let x = (tile % across * 2 + at % 4).wrapping_sub(geometry.padding);
                if y < height && x < width {
                    let (y, x) = (y * map.height / height, x * map.width / width);
                    *pixel = &map.data[((y - map.first) * map.width + x) * map.channels..][channels.clone()];
                }
            }
            inputs(self.isa, &pixels, &mut out[start..], place);
        }
    }

    /// Where the sums of `tiles` go.
    fn outputs(&self, tiles: Range<usize>, panel: usize, sums: &[[f32; PANEL_ROWS]], out: &Scatter<'_>) {
        let (height, width) = (self.geometry.rows.len(), self.geometry.output.1);
        let outputs = self.weight.rows();
        let (across, count) = (width.div_ceil(2), tiles.len());
        let start = panel * PANEL_ROWS;
        let valid = (outputs - start).min(PANEL_ROWS);
        let mut bias = [0.0; PANEL_ROWS];
        if !self.bias.is_empty() {
            bias[..valid].copy_from_slice(&self.bias[start..start + valid]);
        }
        let mut pixels = [[0.0; PANEL_ROWS]; 4];
        for (at, tile) in tiles.enumerate() {
            outputs_of(self.isa, &sums[at..], count, &bias, &mut pixels);
            for (pixel, values) in pixels.iter().enumerate() {
                let (y, x) = (tile / across * 2 + pixel / 2, tile % across * 2 + pixel % 2);
                if y >= height || x >= width {
                    continue;
                }
                let from = (y * width + x) * outputs + start;
                // SAFETY: a panel's outputs of a tile are written by the one thread that took both, one slice at a time.
                let out = unsafe { out.slice(from..from + valid) };
                self.mode.put(&values[..valid], out);
            }
        }
    }
}

/// One float, or one in each lane of a register.
#[allow(clippy::missing_safety_doc)]
trait Value: Copy {
    const LANES: usize;
    unsafe fn load(from: *const f32) -> Self;
    /// Weights as they are in the file.
    unsafe fn widen<E: Element>(from: *const u8) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn plus(self, other: Self) -> Self;
    unsafe fn minus(self, other: Self) -> Self;
    unsafe fn halved(self) -> Self;
}

impl Value for f32 {
    const LANES: usize = 1;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { *from }
    }

    #[inline(always)]
    unsafe fn widen<E: Element>(from: *const u8) -> Self {
        // SAFETY: the caller's promise; bytes have no alignment.
        E::read(unsafe { std::slice::from_raw_parts(from, E::BYTES) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { *to = self }
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        self + other
    }

    #[inline(always)]
    unsafe fn minus(self, other: Self) -> Self {
        self - other
    }

    #[inline(always)]
    unsafe fn halved(self) -> Self {
        self * 0.5
    }
}

/// A register.
struct Lanes<S: Simd>(S::Float);

impl<S: Simd> Clone for Lanes<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Simd> Copy for Lanes<S> {}

impl<S: Simd> Value for Lanes<S> {
    const LANES: usize = S::LANES;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: here and below, the caller's promise.
        Self(unsafe { S::floats(from.cast()) })
    }

    #[inline(always)]
    unsafe fn widen<E: Element>(from: *const u8) -> Self {
        // SAFETY: as above.
        Self(unsafe { E::load::<S>(from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { S::store(self.0, to) }
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { S::add(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn minus(self, other: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { S::sub(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn halved(self) -> Self {
        // SAFETY: as above.
        Self(unsafe { S::mul(self.0, S::splat(0.5)) })
    }
}

/// Four pixels in a row or column.
///
/// # Safety
/// The processor has the instructions of `V`; so for all that follow.
#[inline(always)]
unsafe fn four_inputs<V: Value>([a, b, c, d]: [V; 4]) -> [V; 4] {
    // SAFETY: the caller's promise.
    unsafe { [a.minus(c), b.plus(c), c.minus(b), b.minus(d)] }
}

/// # Safety
/// As above.
#[inline(always)]
unsafe fn three_weights<V: Value>([a, b, c]: [V; 3]) -> [V; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let ends = a.plus(c);
        [a, ends.plus(b).halved(), ends.minus(b).halved(), c]
    }
}

/// # Safety
/// As above.
#[inline(always)]
unsafe fn two_outputs<V: Value>([a, b, c, d]: [V; 4]) -> [V; 2] {
    // SAFETY: the caller's promise.
    unsafe { [a.plus(b).plus(c), b.minus(c).minus(d)] }
}

/// Transforms channels from `first` on as long as a register is full; says how far.
///
/// # Safety
/// As above; the pixels are equally long, and `out` has room for 16 of them, `place` apart.
#[inline(always)]
unsafe fn inputs_from<V: Value>(pixels: &[&[f32]; PLACES], first: usize, out: *mut f32, place: usize) -> usize {
    let mut c = first;
    while c + V::LANES <= pixels[0].len() {
        // SAFETY: the caller's promises.
        unsafe {
            let mut tile = [[V::load(pixels[0].as_ptr().add(c)); 4]; 4];
            for (y, row) in tile.iter_mut().enumerate() {
                for (x, value) in row.iter_mut().enumerate() {
                    *value = V::load(pixels[4 * y + x].as_ptr().add(c));
                }
                *row = four_inputs(*row);
            }
            let [first, second, third, fourth] = tile;
            for (x, (((one, two), three), four)) in first.into_iter().zip(second).zip(third).zip(fourth).enumerate() {
                let column = four_inputs([one, two, three, four]);
                for (y, value) in column.into_iter().enumerate() {
                    value.store(out.add((4 * y + x) * place + c));
                }
            }
        }
        c += V::LANES;
    }
    c
}

/// # Safety
/// As above; `taps` is a panel of 9 times `channels` columns of `E`, of which `begin` and some after it are transformed.
#[inline(always)]
unsafe fn weights_from<V: Value, E: Element>(
    taps: *const u8,
    (channels, begin, count): (usize, usize, usize),
    out: *mut f32,
) {
    for c in 0..count {
        for lane in (0..PANEL_ROWS).step_by(V::LANES) {
            // SAFETY: the caller's promises; a panel's column has 32 weights.
            unsafe {
                let mut rows = [[V::widen::<E>(taps); 4]; 3];
                for (y, row) in rows.iter_mut().enumerate() {
                    let mut three = [row[0]; 3];
                    for (x, tap) in three.iter_mut().enumerate() {
                        let column = (3 * y + x) * channels + begin + c;
                        *tap = V::widen::<E>(taps.add((column * PANEL_ROWS + lane) * E::BYTES));
                    }
                    *row = three_weights(three);
                }
                let [first, second, third] = rows;
                for (x, ((one, two), three)) in first.into_iter().zip(second).zip(third).enumerate() {
                    let column = three_weights([one, two, three]);
                    for (y, value) in column.into_iter().enumerate() {
                        value.store(out.add(((4 * y + x) * count + c) * PANEL_ROWS + lane));
                    }
                }
            }
        }
    }
}

/// # Safety
/// As above; `sums` has 16 rows, `count` apart.
#[inline(always)]
unsafe fn outputs_from<V: Value>(
    sums: *const [f32; PANEL_ROWS],
    count: usize,
    bias: &[f32; PANEL_ROWS],
    out: &mut [[f32; PANEL_ROWS]; 4],
) {
    for lane in (0..PANEL_ROWS).step_by(V::LANES) {
        // SAFETY: the caller's promises; rows are 32 long.
        unsafe {
            let bias = V::load(bias.as_ptr().add(lane));
            let mut rows = [[bias; 2]; 4];
            for (y, row) in rows.iter_mut().enumerate() {
                let mut values = [bias; 4];
                for (x, value) in values.iter_mut().enumerate() {
                    *value = V::load(sums.add((4 * y + x) * count).cast::<f32>().add(lane));
                }
                *row = two_outputs(values);
            }
            let [first, second, third, fourth] = rows;
            for (x, (((one, two), three), four)) in first.into_iter().zip(second).zip(third).zip(fourth).enumerate() {
                let [above, below] = two_outputs([one, two, three, four]);
                above.plus(bias).store(out[x].as_mut_ptr().add(lane));
                below.plus(bias).store(out[2 + x].as_mut_ptr().add(lane));
            }
        }
    }
}

/// Defines the three transforms for an instruction set.
macro_rules! entry {
    ($simd:ty, $features:literal) => {
        use super::{Element, Lanes, PANEL_ROWS, PLACES};

        /// # Safety
        /// As for [`super::inputs_from`].
        #[target_feature(enable = $features)]
        pub(super) unsafe fn inputs(pixels: &[&[f32]; PLACES], out: *mut f32, place: usize) {
            // SAFETY: this function has the features; the rest is the caller's promise.
            unsafe {
                let rest = super::inputs_from::<Lanes<$simd>>(pixels, 0, out, place);
                super::inputs_from::<f32>(pixels, rest, out, place);
            }
        }

        /// # Safety
        /// As for [`super::weights_from`].
        #[target_feature(enable = $features)]
        pub(super) unsafe fn weights<E: Element>(taps: *const u8, of: (usize, usize, usize), out: *mut f32) {
            // SAFETY: as above.
            unsafe { super::weights_from::<Lanes<$simd>, E>(taps, of, out) }
        }

        /// # Safety
        /// As for [`super::outputs_from`].
        #[target_feature(enable = $features)]
        pub(super) unsafe fn outputs(
            sums: *const [f32; PANEL_ROWS],
            count: usize,
            bias: &[f32; PANEL_ROWS],
            out: &mut [[f32; PANEL_ROWS]; 4],
        ) {
            // SAFETY: as above.
            unsafe { super::outputs_from::<Lanes<$simd>>(sums, count, bias, out) }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use crate::simd::x86::Avx2;

    entry!(Avx2, "avx2,fma,f16c");
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use crate::simd::x86::Avx512Vnni;

    entry!(Avx512Vnni, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c");
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use crate::simd::neon::Neon;

    entry!(Neon, "neon");
}

/// `pixels` transformed, place by place from the beginning of `out`, `place` apart.
fn inputs(isa: Isa, pixels: &[&[f32]; PLACES], out: &mut [f32], place: usize) {
    let width = pixels[0].len();
    assert!(pixels.iter().all(|pixel| pixel.len() == width) && (PLACES - 1) * place + width <= out.len());
    let out = out.as_mut_ptr();
    // SAFETY: an `Isa` of a level exists only where detection found its features; lengths by the assertion.
    unsafe {
        match isa.0 {
            Level::Scalar => {
                inputs_from::<f32>(pixels, 0, out, place);
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 | Level::AvxVnni => avx2::inputs(pixels, out, place),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Vnni => avx512::inputs(pixels, out, place),
            #[cfg(target_arch = "aarch64")]
            Level::Neon | Level::NeonDot => neon::inputs(pixels, out, place),
        }
    }
}

/// Fills `out` with a panel's weights for as many channels from `first` on as it has room for.
fn weights<E: Element>(isa: Isa, taps: &[u8], channels: usize, first: usize, out: &mut [f32]) {
    let count = out.len() / (PLACES * PANEL_ROWS);
    assert!(taps.len() == 9 * channels * PANEL_ROWS * E::BYTES && first + count <= channels);
    let (taps, of, out) = (taps.as_ptr(), (channels, first, count), out.as_mut_ptr());
    // SAFETY: as in `inputs`.
    unsafe {
        match isa.0 {
            Level::Scalar => weights_from::<f32, E>(taps, of, out),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 | Level::AvxVnni => avx2::weights::<E>(taps, of, out),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Vnni => avx512::weights::<E>(taps, of, out),
            #[cfg(target_arch = "aarch64")]
            Level::Neon | Level::NeonDot => neon::weights::<E>(taps, of, out),
        }
    }
}

/// The four pixels of the tile that `sums` begin with, its places `count` apart.
fn outputs_of(
    isa: Isa,
    sums: &[[f32; PANEL_ROWS]],
    count: usize,
    bias: &[f32; PANEL_ROWS],
    out: &mut [[f32; PANEL_ROWS]; 4],
) {
    assert!((PLACES - 1) * count < sums.len());
    let sums = sums.as_ptr();
    // SAFETY: as in `inputs`.
    unsafe {
        match isa.0 {
            Level::Scalar => outputs_from::<f32>(sums, count, bias, out),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 | Level::AvxVnni => avx2::outputs(sums, count, bias, out),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Vnni => avx512::outputs(sums, count, bias, out),
            #[cfg(target_arch = "aarch64")]
            Level::Neon | Level::NeonDot => neon::outputs(sums, count, bias, out),
        }
    }
}
