//! Maps of features, as the networks that draw pictures pass them on: products, convolutions, norms and attention.
//!
//! A map is rows of channels, one row for each pixel from the upper left on (NHWC): then a convolution of one pixel, a
//! linear layer and the projections of attention are the same product, and attention reads pixels as its tokens without
//! moving anything. Wider convolutions gather the pixels around a block of outputs into rows of that product's inputs,
//! block by block, so that what is gathered stays in a core's cache whatever the size of the picture. Those of 3 by 3
//! pixels go through `winograd` where that saves time.
//!
//! Weights keep the type of their file ([`crate::floats`]). How work is shared between threads changes no result: every
//! output is summed in the order of its inputs by one thread.

mod attend;
mod norm;
mod pointwise;
mod winograd;

use std::ops::Range;

use crate::floats::FloatMatrix;
use crate::floats::kernel::{MAX_ROWS, PANEL_ROWS};
use crate::isa::Isa;
use crate::linear::Rows;
use crate::threads::{Scatter, ThreadPool};

pub use attend::{Attention, attend};
pub use norm::{Factors, Moments, group_norm, layer_norm, rms_norm};
pub use pointwise::{Pointwise, add, add_to_rows, apply, gate, scale_and_shift};

/// Bytes of gathered rows that a thread works on at a time: half of a usual second-level cache.
const BLOCK_BYTES: usize = 512 << 10;

/// A map of features, `height` by `width` rows of `channels`, or some rows of pixels of one.
#[derive(Clone, Copy)]
pub struct Map<'a> {
    /// The rows, dense.
    pub data: &'a [f32],
    /// The row of pixels that `data` begins with.
    pub first: usize,
    /// Rows of pixels of the whole map.
    pub height: usize,
    /// Pixels in a row.
    pub width: usize,
    /// Features of a pixel.
    pub channels: usize,
}

/// What a convolution does beside multiplying.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Geometry {
    /// Pixels along each side of the window.
    pub kernel: usize,
    /// Pixels from one window to the next.
    pub stride: usize,
    /// Zeros above and to the left of the map; below and to the right there are as many as the outputs reach for.
    pub padding: usize,
    /// The size that the map is brought to first, by repeating pixels; its own where absent.
    pub resized: Option<(usize, usize)>,
    /// Height and width of the whole output.
    pub output: (usize, usize),
    /// The rows of pixels of the output that are computed.
    pub rows: Range<usize>,
}

/// What becomes of what an output holds before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It is overwritten.
    Replace,
    /// The result is added to it.
    Add,
}

/// `out = x Wᵀ + b`, or `out += x Wᵀ + b`, rows of `out` one behind the other. An empty bias is zero.
pub fn project(
    isa: Isa,
    pool: &ThreadPool,
    x: Rows<'_>,
    weight: &FloatMatrix,
    bias: &[f32],
    mode: Mode,
    out: &mut [f32],
) {
    let columns = weight.columns();
    assert!(x.count == 0 || (x.count - 1) * x.stride + columns <= x.data.len(), "x is shorter than its rows");
    multiply(isa, pool, &Source::Rows(x), x.count, weight, bias, mode, out);
}

/// The convolution of `map` with `weight`, whose inputs are window row by window row, pixel by pixel, channel by channel.
#[allow(clippy::too_many_arguments)]
pub fn convolve(
    isa: Isa,
    pool: &ThreadPool,
    map: Map<'_>,
    geometry: &Geometry,
    weight: &FloatMatrix,
    bias: &[f32],
    mode: Mode,
    out: &mut [f32],
) {
    let row = map.width * map.channels;
    assert!(row > 0 && map.data.len().is_multiple_of(row), "a map of the wrong size");
    assert!(sees(&map, geometry), "rows of the map that the output needs are missing");
    assert_eq!(weight.columns(), geometry.kernel * geometry.kernel * map.channels, "a window of the wrong size");
    let rows = geometry.rows.len() * geometry.output.1;
    if winograd::suits(&map, geometry, weight.rows()) {
        assert_eq!(out.len(), rows * weight.rows(), "an output of the wrong size");
        assert!(bias.is_empty() || bias.len() == weight.rows(), "bias and weight differ");
        winograd::convolve(isa, pool, (&map, geometry), (weight, bias), mode, out);
    } else {
        multiply(isa, pool, &Source::Map(map, geometry), rows, weight, bias, mode, out);
    }
}

/// Whether [`convolve`] takes fewer multiplications than the definition has, where the map is not very small.
pub(crate) fn is_shortened(kernel: usize, stride: usize, channels: usize, outputs: usize) -> bool {
    winograd::fits(kernel, stride, channels, outputs)
}

/// Whether `map` has the rows of pixels that the output's see.
fn sees(map: &Map<'_>, geometry: &Geometry) -> bool {
    let height = geometry.resized.map_or(map.height, |(height, _)| height);
    let Some(last) = geometry.rows.end.checked_sub(1) else { return true };
    if geometry.rows.is_empty() {
        return true;
    }
    let top = (geometry.rows.start * geometry.stride).saturating_sub(geometry.padding).min(height.saturating_sub(1));
    let bottom = (last * geometry.stride + geometry.kernel - 1).saturating_sub(geometry.padding).min(height - 1);
    let (top, bottom) = (top * map.height / height, bottom * map.height / height);
    map.first <= top && bottom < map.first + map.data.len() / (map.width * map.channels)
}

/// Where the rows of inputs come from.
enum Source<'a> {
    Rows(Rows<'a>),
    Map(Map<'a>, &'a Geometry),
}

impl Source<'_> {
    /// The rows `range`, and how far apart they begin.
    fn rows<'s>(&'s self, range: Range<usize>, columns: usize, scratch: &'s mut Vec<f32>) -> (&'s [f32], usize) {
        match self {
            Source::Rows(rows) => (&rows.data[range.start * rows.stride..], rows.stride),
            Source::Map(map, geometry) => {
                scratch.resize(range.len() * columns, 0.0);
                for (row, out) in range.zip(scratch.chunks_exact_mut(columns)) {
                    window(map, geometry, row, out);
                }
                (scratch, columns)
            }
        }
    }
}

/// Gathers the pixels that the output `row` sees.
fn window(map: &Map<'_>, geometry: &Geometry, row: usize, out: &mut [f32]) {
    let (row, column) = (geometry.rows.start + row / geometry.output.1, row % geometry.output.1);
    let (top, left) = (row * geometry.stride, column * geometry.stride);
    let (height, width) = geometry.resized.unwrap_or((map.height, map.width));
    for (at, out) in out.chunks_exact_mut(map.channels).enumerate() {
        let y = (top + at / geometry.kernel).wrapping_sub(geometry.padding);
        let x = (left + at % geometry.kernel).wrapping_sub(geometry.padding);
        if y >= height || x >= width {
            out.fill(0.0);
            continue;
        }
        let (y, x) = match geometry.resized {
            Some(_) => (y * map.height / height, x * map.width / width),
            None => (y, x),
        };
        let start = ((y - map.first) * map.width + x) * map.channels;
        out.copy_from_slice(&map.data[start..start + map.channels]);
    }
}

/// The product of all rows, in blocks of rows and, where those are few, of outputs.
#[allow(clippy::too_many_arguments)]
fn multiply(
    isa: Isa,
    pool: &ThreadPool,
    source: &Source<'_>,
    rows: usize,
    weight: &FloatMatrix,
    bias: &[f32],
    mode: Mode,
    out: &mut [f32],
) {
    let (columns, outputs) = (weight.columns(), weight.rows());
    assert_eq!(out.len(), rows * outputs, "an output of the wrong size");
    assert!(bias.is_empty() || bias.len() == outputs, "bias and weight differ");
    if rows == 0 {
        return;
    }
    let height = (BLOCK_BYTES / (columns * size_of::<f32>()) / MAX_ROWS).clamp(1, 16) * MAX_ROWS;
    let panels = outputs.div_ceil(PANEL_ROWS);
    let blocks = rows.div_ceil(height);
    let units = if pool.threads() == 1 { 1 } else { pool.threads() * 3 };
    let each = panels.div_ceil(units.div_ceil(blocks).min(panels));
    let splits = panels.div_ceil(each);
    let out = Scatter::new(out);
    pool.for_each_chunk(blocks * splits, 1, Vec::new, |scratch, units| {
        for unit in units {
            let first = unit / splits * height;
            let range = first..(first + height).min(rows);
            let count = range.len();
            let (x, stride) = source.rows(range, columns, scratch);
            for panel in unit % splits * each..(unit % splits * each + each).min(panels) {
                panel_rows(isa, weight, panel, bias, x, stride, first, count, mode, &out);
            }
        }
    });
}

/// `count` rows times one panel, to the rows of `out` from `first` on.
#[allow(clippy::too_many_arguments)]
fn panel_rows(
    isa: Isa,
    weight: &FloatMatrix,
    panel: usize,
    bias: &[f32],
    x: &[f32],
    stride: usize,
    first: usize,
    count: usize,
    mode: Mode,
    out: &Scatter<'_>,
) {
    let outputs = weight.rows();
    let start = panel * PANEL_ROWS;
    let valid = (outputs - start).min(PANEL_ROWS);
    let mut initial = [0.0; PANEL_ROWS];
    if !bias.is_empty() {
        initial[..valid].copy_from_slice(&bias[start..start + valid]);
    }
    let mut sums = [[0.0; PANEL_ROWS]; MAX_ROWS];
    for group in (0..count).step_by(MAX_ROWS) {
        let sums = &mut sums[..MAX_ROWS.min(count - group)];
        weight.panel_product(isa, panel, &x[group * stride..], stride, Some(&initial), sums);
        for (i, sums) in sums.iter().enumerate() {
            let start = (first + group + i) * outputs + start;
            // SAFETY: a panel's outputs of a block of rows are written by the one thread that took both, one slice at a
            // time.
            let out = unsafe { out.slice(start..start + valid) };
            mode.put(&sums[..valid], out);
        }
    }
}

impl Mode {
    /// `values` to `out`, which is as long.
    fn put(self, values: &[f32], out: &mut [f32]) {
        match self {
            Mode::Replace => out.copy_from_slice(values),
            Mode::Add => out.iter_mut().zip(values).for_each(|(out, value)| *out += value),
        }
    }
}

#[cfg(test)]
mod tests;
