//! The layers that the parts are made of.

use std::num::NonZeroUsize;
use std::ops::Range;

use host_kernels::floats::{FloatFormat, FloatMatrix};
use host_kernels::isa::Isa;
use host_kernels::linear::Rows;
use host_kernels::maps::{self, Factors, Geometry, Map, Mode, Moments};
use host_kernels::threads::ThreadPool;

use crate::AiError;
use crate::tensors::Tensors;

/// Bytes of a map that a norm is applied to at a time: they stay in the caches until a convolution has read them. Tests
/// have small maps and want several bands of them.
const BAND_BYTES: usize = if cfg!(test) { 1 << 10 } else { 2 << 20 };
/// Rows of a band at least, so that those that two bands see are few.
const FEWEST_ROWS: usize = 8;

/// Says whether to go on; asked between layers, which may take seconds each.
pub type Check<'a> = &'a dyn Fn() -> Result<(), AiError>;

/// What computes.
pub(super) struct Compute {
    pub(super) isa: Isa,
    pub(super) pool: ThreadPool,
}

impl Compute {
    pub(super) fn new(threads: NonZeroUsize) -> Result<Compute, String> {
        let pool = ThreadPool::new("diffusion", threads).map_err(|error| format!("no threads: {error}"))?;
        Ok(Compute { isa: Isa::best(), pool })
    }
}

/// A map of features that owns its values: rows of `channels`, pixel by pixel.
#[derive(Debug, Clone, PartialEq)]
pub struct Plane {
    /// The values.
    pub data: Vec<f32>,
    /// Rows of pixels.
    pub height: usize,
    /// Pixels in a row.
    pub width: usize,
    /// Values of a pixel.
    pub channels: usize,
}

impl Plane {
    /// A plane of zeros.
    pub fn new(height: usize, width: usize, channels: usize) -> Plane {
        Plane { data: vec![0.0; height * width * channels], height, width, channels }
    }

    /// Of the same size, with other values.
    pub(super) fn with(&self, data: Vec<f32>) -> Plane {
        let channels = data.len() / (self.height * self.width);
        Plane { data, height: self.height, width: self.width, channels }
    }

    /// The channels of `self`, then those of `other`, at each pixel.
    pub(super) fn beside(&self, other: &Plane) -> Plane {
        let mut data = Vec::with_capacity(self.data.len() + other.data.len());
        for (a, b) in self.data.chunks_exact(self.channels).zip(other.data.chunks_exact(other.channels)) {
            data.extend_from_slice(a);
            data.extend_from_slice(b);
        }
        self.with(data)
    }

    /// The channels `range` of each pixel.
    pub(super) fn part(&self, range: Range<usize>) -> Plane {
        let data = self.data.chunks_exact(self.channels).flat_map(|pixel| &pixel[range.clone()]).copied().collect();
        self.with(data)
    }
}

/// A weight as it is in the file, its last dimension the inputs.
fn matrix(tensors: &mut Tensors, name: &str, shape: &[usize]) -> Result<FloatMatrix, String> {
    let (format, bytes) = tensors.raw(name, shape)?;
    let columns = shape[1..].iter().product();
    FloatMatrix::repack(format, shape[0], columns, &bytes).map_err(|error| format!("tensor {name}: {error}"))
}

/// `y = x Wᵀ + b`.
pub(super) struct Linear {
    weight: FloatMatrix,
    bias: Vec<f32>,
}

impl Linear {
    /// A layer that has a bias.
    pub(super) fn load(tensors: &mut Tensors, name: &str, outputs: usize, inputs: usize) -> Result<Linear, String> {
        let bias = tensors.read(&format!("{name}.bias"), &[outputs])?;
        Ok(Linear { bias, ..Self::load_plain(tensors, name, outputs, inputs)? })
    }

    /// A layer that has none. Its weight may be written as a convolution of one pixel.
    pub(super) fn load_plain(
        tensors: &mut Tensors,
        name: &str,
        outputs: usize,
        inputs: usize,
    ) -> Result<Linear, String> {
        let name = format!("{name}.weight");
        let pixelwise = [outputs, inputs, 1, 1];
        let shape = if tensors.shape(&name) == Some(&pixelwise) { &pixelwise[..] } else { &pixelwise[..2] };
        Ok(Linear { weight: matrix(tensors, &name, shape)?, bias: Vec::new() })
    }

    pub(super) fn outputs(&self) -> usize {
        self.weight.rows()
    }

    /// The product of dense rows.
    pub(super) fn forward(&self, compute: &Compute, x: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; x.len() / self.weight.columns() * self.weight.rows()];
        self.multiply(compute, x, Mode::Replace, &mut out);
        out
    }

    /// The product of dense rows, to `out`.
    pub(super) fn write(&self, compute: &Compute, x: &[f32], out: &mut [f32]) {
        self.multiply(compute, x, Mode::Replace, out);
    }

    /// The product of dense rows, added to `out`.
    pub(super) fn add_to(&self, compute: &Compute, x: &[f32], out: &mut [f32]) {
        self.multiply(compute, x, Mode::Add, out);
    }

    fn multiply(&self, compute: &Compute, x: &[f32], mode: Mode, out: &mut [f32]) {
        let rows = Rows::dense(x, self.weight.columns());
        maps::project(compute.isa, &compute.pool, rows, &self.weight, &self.bias, mode, out);
    }
}

/// A table of vectors.
pub(super) struct Embedding(FloatMatrix);

impl Embedding {
    pub(super) fn load(tensors: &mut Tensors, name: &str, count: usize, width: usize) -> Result<Embedding, String> {
        matrix(tensors, &format!("{name}.weight"), &[count, width]).map(Embedding)
    }

    pub(super) fn row(&self, index: usize, out: &mut [f32]) {
        self.0.row(index, out);
    }
}

/// A convolution.
pub(super) struct Conv {
    weight: FloatMatrix,
    bias: Vec<f32>,
    kernel: usize,
}

impl Conv {
    pub(super) fn load(
        tensors: &mut Tensors,
        name: &str,
        outputs: usize,
        inputs: usize,
        kernel: usize,
    ) -> Result<Conv, String> {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        let (format, bytes) = tensors.raw(&weight, &[outputs, inputs, kernel, kernel])?;
        let bytes = channels_last(bytes, format, inputs, kernel * kernel);
        let columns = inputs * kernel * kernel;
        let weight = FloatMatrix::repack(format, outputs, columns, &bytes)
            .map_err(|error| format!("tensor {weight}: {error}"))?;
        Ok(Conv { weight, bias: tensors.read(&bias, &[outputs])?, kernel })
    }

    /// Channels of what it gives.
    pub(super) fn outputs(&self) -> usize {
        self.weight.rows()
    }

    /// Keeps the size.
    pub(super) fn forward(&self, compute: &Compute, x: &Plane) -> Plane {
        self.resizing(compute, x, (x.height, x.width))
    }

    /// The convolution of `x` after `norm` and SiLU, to or onto `out`; `more` is added to every pixel.
    ///
    /// What the norm makes of the map exists some rows at a time: they are still in the cache when they are read, and a
    /// large picture needs no second map.
    pub(super) fn after(
        &self,
        compute: &Compute,
        norm: &GroupNorm,
        x: &Plane,
        more: &[f32],
        mode: Mode,
        out: &mut Plane,
    ) {
        let factors = norm.factors(compute, x);
        let row = x.width * x.channels;
        let mut band = Vec::new();
        for rows in bands(x.height, row) {
            let seen = self.seen(&rows, x.height);
            band.resize(seen.len() * row, 0.0);
            let pixels = &x.data[seen.start * row..seen.end * row];
            factors.apply(compute.isa, &compute.pool, pixels, true, &mut band);
            let map = Map { data: &band, first: seen.start, height: x.height, width: x.width, channels: x.channels };
            self.rows(compute, map, rows, more, mode, out);
        }
    }

    /// The rows of pixels that `rows` of the output see, of `height`.
    pub(super) fn seen(&self, rows: &Range<usize>, height: usize) -> Range<usize> {
        let reach = self.kernel / 2;
        rows.start.saturating_sub(reach)..height.min(rows.end + reach)
    }

    /// Some rows of pixels of a convolution that keeps the size, to or onto those of `out`; `more` is added to every pixel.
    pub(super) fn rows(
        &self,
        compute: &Compute,
        map: Map<'_>,
        rows: Range<usize>,
        more: &[f32],
        mode: Mode,
        out: &mut Plane,
    ) {
        let mut bias = self.bias.clone();
        bias.iter_mut().zip(more).for_each(|(bias, more)| *bias += more);
        let written = out.width * out.channels;
        let target = rows.start * written..rows.end * written;
        let geometry = Geometry { rows, ..self.keeping((map.height, map.width), None) };
        let (isa, pool) = (compute.isa, &compute.pool);
        maps::convolve(isa, pool, map, &geometry, &self.weight, &bias, mode, &mut out.data[target]);
    }

    /// As [`Conv::after`], to a map of its own.
    pub(super) fn forward_after(&self, compute: &Compute, norm: &GroupNorm, x: &Plane, more: &[f32]) -> Plane {
        let mut out = Plane::new(x.height, x.width, self.weight.rows());
        self.after(compute, norm, x, more, Mode::Replace, &mut out);
        out
    }

    /// Brings `x` to another size first, by repeating pixels.
    pub(super) fn resizing(&self, compute: &Compute, x: &Plane, to: (usize, usize)) -> Plane {
        self.whole(compute, x, &self.keeping(to, Some(to).filter(|to| *to != (x.height, x.width))))
    }

    /// The rows of pixels `rows` of what [`Conv::resizing`] gives.
    pub(super) fn resizing_rows(
        &self,
        compute: &Compute,
        x: &Plane,
        to: (usize, usize),
        rows: Range<usize>,
        out: &mut Vec<f32>,
    ) {
        out.resize(rows.len() * to.1 * self.weight.rows(), 0.0);
        let geometry = Geometry { rows, ..self.keeping(to, Some(to).filter(|to| *to != (x.height, x.width))) };
        let map = Map { data: &x.data, first: 0, height: x.height, width: x.width, channels: x.channels };
        let (isa, pool) = (compute.isa, &compute.pool);
        maps::convolve(isa, pool, map, &geometry, &self.weight, &self.bias, Mode::Replace, out);
    }

    /// Halves the size, with `padding` zeros above and to the left and at least one below and to the right.
    pub(super) fn halving(&self, compute: &Compute, x: &Plane, padding: usize) -> Plane {
        let output = halved((x.height, x.width), padding);
        let rows = 0..output.0;
        self.whole(compute, x, &Geometry { kernel: self.kernel, stride: 2, padding, resized: None, output, rows })
    }

    fn keeping(&self, output: (usize, usize), resized: Option<(usize, usize)>) -> Geometry {
        let rows = 0..output.0;
        Geometry { kernel: self.kernel, stride: 1, padding: self.kernel / 2, resized, output, rows }
    }

    fn whole(&self, compute: &Compute, x: &Plane, geometry: &Geometry) -> Plane {
        let mut out = Plane::new(geometry.output.0, geometry.output.1, self.weight.rows());
        let map = Map { data: &x.data, first: 0, height: x.height, width: x.width, channels: x.channels };
        let (isa, pool) = (compute.isa, &compute.pool);
        maps::convolve(isa, pool, map, geometry, &self.weight, &self.bias, Mode::Replace, &mut out.data);
        out
    }
}

/// The size of a map that [`Conv::halving`] gives.
pub(super) fn halved((height, width): (usize, usize), padding: usize) -> (usize, usize) {
    // With one zero before, the last window ends at or one beyond the last pixel.
    let half = |size: usize| if padding == 1 { size.div_ceil(2) } else { size / 2 };
    (half(height).max(1), half(width).max(1))
}

/// A map's rows of pixels, of `row` values each, in bands of about [`BAND_BYTES`].
pub(super) fn bands(height: usize, row: usize) -> impl Iterator<Item = Range<usize>> {
    let each = band(row);
    (0..height).step_by(each).map(move |first| first..height.min(first + each))
}

/// Rows of a band. An even number: tiles of two rows then lie as in the whole map.
fn band(row: usize) -> usize {
    (BAND_BYTES / (row * size_of::<f32>()) / 2 * 2).max(FEWEST_ROWS)
}

/// Values of a band with the rows that it sees, of a map of that size.
pub(super) fn band_values((height, width): (usize, usize), channels: usize) -> usize {
    let row = width * channels;
    (band(row) + 2).min(height) * row
}

/// Channels that are moved together: with the pixels of a usual window they and their places stay in the first cache.
const MOVED: usize = 64;

/// From channel by channel to pixel by pixel, within each output's window. Weights of hundreds of megabytes come through
/// here when a model is loaded, so nothing is allocated for them anew.
fn channels_last(mut bytes: Vec<u8>, format: FloatFormat, channels: usize, pixels: usize) -> Vec<u8> {
    match format {
        _ if pixels == 1 => {}
        FloatFormat::F32 => transpose::<4>(&mut bytes, channels, pixels),
        FloatFormat::F16 | FloatFormat::Bf16 => transpose::<2>(&mut bytes, channels, pixels),
    }
    bytes
}

/// The same of values of `N` bytes.
fn transpose<const N: usize>(bytes: &mut [u8], channels: usize, pixels: usize) {
    let mut before = vec![[0; N]; channels * pixels];
    for window in bytes.as_chunks_mut::<N>().0.chunks_exact_mut(channels * pixels) {
        before.copy_from_slice(window);
        for first in (0..channels).step_by(MOVED) {
            let end = channels.min(first + MOVED);
            for pixel in 0..pixels {
                let values = before[first * pixels + pixel..].iter().step_by(pixels);
                let row = &mut window[pixel * channels..][first..end];
                row.iter_mut().zip(values).for_each(|(to, from)| *to = *from);
            }
        }
    }
}

/// Normalization over groups of channels.
pub(super) struct GroupNorm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    groups: usize,
    epsilon: f32,
}

impl GroupNorm {
    pub(super) fn load(
        tensors: &mut Tensors,
        name: &str,
        channels: usize,
        groups: usize,
        epsilon: f32,
    ) -> Result<GroupNorm, String> {
        if !channels.is_multiple_of(groups) {
            return Err(format!("norm_num_groups {groups} does not divide the {channels} channels of {name}"));
        }
        let weight = tensors.read(&format!("{name}.weight"), &[channels])?;
        Ok(GroupNorm { weight, bias: tensors.read(&format!("{name}.bias"), &[channels])?, groups, epsilon })
    }

    pub(super) fn forward(&self, compute: &Compute, x: &Plane) -> Plane {
        let mut out = vec![0.0; x.data.len()];
        self.factors(compute, x).apply(compute.isa, &compute.pool, &x.data, false, &mut out);
        x.with(out)
    }

    /// What the norm does to each channel of `x`.
    fn factors(&self, compute: &Compute, x: &Plane) -> Factors {
        let mut moments = Moments::new(self.weight.len());
        moments.add(compute.isa, &compute.pool, &x.data);
        self.factors_of(&moments)
    }

    /// What the norm does to each channel of a map with these moments.
    pub(super) fn factors_of(&self, moments: &Moments) -> Factors {
        moments.factors(self.groups, &self.weight, &self.bias, self.epsilon)
    }
}

/// Normalization of rows.
pub(super) struct LayerNorm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    epsilon: f32,
}

impl LayerNorm {
    pub(super) fn load(tensors: &mut Tensors, name: &str, width: usize, epsilon: f32) -> Result<LayerNorm, String> {
        let weight = tensors.read(&format!("{name}.weight"), &[width])?;
        Ok(LayerNorm { weight, bias: tensors.read(&format!("{name}.bias"), &[width])?, epsilon })
    }

    pub(super) fn forward(&self, compute: &Compute, x: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; x.len()];
        let Self { weight, bias, epsilon } = self;
        maps::layer_norm(compute.isa, &compute.pool, x, weight.len(), weight, bias, *epsilon, &mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_moved_value_by_value() {
        for (outputs, channels, pixels) in [(1, 1, 9), (3, 64, 9), (2, 131, 4), (2, 5, 1)] {
            for (format, size) in [(FloatFormat::F32, 4), (FloatFormat::F16, 2), (FloatFormat::Bf16, 2)] {
                let bytes: Vec<u8> = (0..outputs * channels * pixels * size).map(|i| (i * 31 % 251) as u8).collect();
                let moved = channels_last(bytes.clone(), format, channels, pixels);
                assert_eq!(moved.len(), bytes.len());
                for (at, value) in bytes.chunks(size).enumerate() {
                    let (output, channel, pixel) = (at / (channels * pixels), at / pixels % channels, at % pixels);
                    let to = ((output * pixels + pixel) * channels + channel) * size;
                    assert_eq!(&moved[to..to + size], value, "{channels} {pixels} {at}");
                }
            }
        }
    }
}
