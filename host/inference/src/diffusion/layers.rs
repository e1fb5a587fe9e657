//! The layers that the parts are made of.

use std::num::NonZeroUsize;

use host_kernels::floats::{FloatFormat, FloatMatrix};
use host_kernels::isa::Isa;
use host_kernels::linear::Rows;
use host_kernels::maps::{self, Geometry, Map};
use host_kernels::threads::ThreadPool;

use crate::AiError;
use crate::tensors::Tensors;

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
    pub(super) fn part(&self, range: std::ops::Range<usize>) -> Plane {
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
        let rows = Rows::dense(x, self.weight.columns());
        maps::project(compute.isa, &compute.pool, rows, &self.weight, &self.bias, &mut out);
        out
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
        let bytes = channels_last(&bytes, format, inputs, kernel * kernel);
        let columns = inputs * kernel * kernel;
        let weight = FloatMatrix::repack(format, outputs, columns, &bytes)
            .map_err(|error| format!("tensor {weight}: {error}"))?;
        Ok(Conv { weight, bias: tensors.read(&bias, &[outputs])?, kernel })
    }

    /// Keeps the size.
    pub(super) fn forward(&self, compute: &Compute, x: &Plane) -> Plane {
        self.resizing(compute, x, (x.height, x.width))
    }

    /// Brings `x` to another size first, by repeating pixels.
    pub(super) fn resizing(&self, compute: &Compute, x: &Plane, to: (usize, usize)) -> Plane {
        let resized = Some(to).filter(|to| *to != (x.height, x.width));
        self.with(
            compute,
            x,
            Geometry { kernel: self.kernel, stride: 1, padding: self.kernel / 2, resized, output: to },
        )
    }

    /// Halves the size, with `padding` zeros above and to the left and at least one below and to the right.
    pub(super) fn halving(&self, compute: &Compute, x: &Plane, padding: usize) -> Plane {
        // With one zero before, the last window ends at or one beyond the last pixel.
        let half = |size: usize| if padding == 1 { size.div_ceil(2) } else { size / 2 };
        let output = (half(x.height).max(1), half(x.width).max(1));
        self.with(compute, x, Geometry { kernel: self.kernel, stride: 2, padding, resized: None, output })
    }

    fn with(&self, compute: &Compute, x: &Plane, geometry: Geometry) -> Plane {
        let mut out = Plane::new(geometry.output.0, geometry.output.1, self.weight.rows());
        let map = Map { data: &x.data, height: x.height, width: x.width, channels: x.channels };
        maps::convolve(compute.isa, &compute.pool, map, geometry, &self.weight, &self.bias, &mut out.data);
        out
    }
}

/// From channel by channel to pixel by pixel, within each output's window.
fn channels_last(bytes: &[u8], format: FloatFormat, channels: usize, pixels: usize) -> Vec<u8> {
    let size = format.bytes();
    let mut out = Vec::with_capacity(bytes.len());
    for window in bytes.chunks_exact(channels * pixels * size) {
        for pixel in 0..pixels {
            for channel in 0..channels {
                let start = (channel * pixels + pixel) * size;
                out.extend_from_slice(&window[start..start + size]);
            }
        }
    }
    out
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

    /// Followed by SiLU if `silu`.
    pub(super) fn forward(&self, compute: &Compute, x: &Plane, silu: bool) -> Plane {
        let mut out = vec![0.0; x.data.len()];
        let Self { weight, bias, groups, epsilon } = self;
        maps::group_norm(compute.isa, &compute.pool, &x.data, *groups, weight, bias, *epsilon, silu, &mut out);
        x.with(out)
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
