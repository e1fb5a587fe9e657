//! The layers that the parts are made of, over rows: one row of channels for each moment.
//!
//! In that order the values that a convolution sees lie beside each other, moment after moment, so it is a product whose
//! rows overlap and nothing is gathered. Where it is dilated the moments are sorted by their remainder first, and are
//! neighbours again.

use std::num::NonZeroUsize;

use host_kernels::encoder::{Activation, activate, add_and_normalize};
use host_kernels::floats::{FloatFormat, FloatMatrix};
use host_kernels::isa::Isa;
use host_kernels::linear::Rows;
use host_kernels::maps::{self, Mode};
use host_kernels::threads::ThreadPool;

use crate::tensors::Tensors;

/// The spellings of a normalized weight: a length for each of its rows, and their directions.
const NORMALIZED: [(&str, &str); 2] =
    [("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1")];
/// Rows that a thread takes at least.
pub(super) const LEAST_ROWS: usize = 64;

/// What computes.
pub(super) struct Compute {
    pub(super) isa: Isa,
    pub(super) pool: ThreadPool,
}

impl Compute {
    pub(super) fn new(threads: NonZeroUsize) -> Result<Compute, String> {
        let pool =
            ThreadPool::new("synthesis", threads).map_err(|error| format!("no threads for the model: {error}"))?;
        Ok(Compute { isa: Isa::best(), pool })
    }
}

/// The tensor `name`, without values that are no numbers.
pub(super) fn read(tensors: &mut Tensors, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
    let values = tensors.read(name, shape)?;
    finite(name, values)
}

fn finite(name: &str, values: Vec<f32>) -> Result<Vec<f32>, String> {
    if values.iter().all(|value| value.is_finite()) {
        return Ok(values);
    }
    Err(format!("tensor {name} has values that are no numbers; verify the model"))
}

/// `name.weight`, or what its normalization (Salimans & Kingma 2016) says that it is.
fn weight(tensors: &mut Tensors, name: &str, shape: [usize; 3]) -> Result<Vec<f32>, String> {
    let spelled = NORMALIZED.iter().find(|(length, _)| tensors.shape(&format!("{name}.{length}")).is_some());
    let Some((length, direction)) = spelled else {
        return read(tensors, &format!("{name}.weight"), &shape);
    };
    let lengths = tensors.read(&format!("{name}.{length}"), &[shape[0], 1, 1])?;
    let mut values = tensors.read(&format!("{name}.{direction}"), &shape)?;
    for (row, length) in values.chunks_exact_mut(shape[1] * shape[2]).zip(lengths) {
        let own = row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        row.iter_mut().for_each(|value| *value = (f64::from(*value) * f64::from(length) / own) as f32);
    }
    finite(&format!("{name}.{direction}"), values)
}

fn matrix(name: &str, outputs: usize, inputs: usize, values: &[f32]) -> Result<FloatMatrix, String> {
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    FloatMatrix::repack(FloatFormat::F32, outputs, inputs, &raw).map_err(|error| format!("{name}: {error}"))
}

/// Every row of `out` from a block of rows, on several threads. `body` also gets the number of its first row.
pub(super) fn each_row(compute: &Compute, out: &mut [f32], width: usize, body: impl Fn(usize, &mut [f32]) + Sync) {
    compute.pool.for_each_row(out, width, LEAST_ROWS, body);
}

/// `x = activation(x)`.
pub(super) fn activated(compute: &Compute, x: &mut [f32], width: usize, activation: Activation) {
    each_row(compute, x, width, |_, rows| activate(compute.isa, rows, activation));
}

/// `x += vector` in each row.
pub(super) fn add_to_rows(compute: &Compute, x: &mut [f32], vector: &[f32]) {
    maps::add_to_rows(&compute.pool, x, vector);
}

/// A convolution that keeps the number of rows.
pub(super) struct Convolution {
    weight: FloatMatrix,
    bias: Vec<f32>,
    inputs: usize,
    kernel: usize,
    dilation: usize,
}

impl Convolution {
    /// Reads `name`, which looks at `kernel` rows that are `dilation` apart; zeros lie beyond the ends.
    pub(super) fn load(
        tensors: &mut Tensors,
        name: &str,
        [outputs, inputs, kernel]: [usize; 3],
        dilation: usize,
        bias: bool,
    ) -> Result<Convolution, String> {
        let values = weight(tensors, name, [outputs, inputs, kernel])?;
        let bias = if bias { read(tensors, &format!("{name}.bias"), &[outputs])? } else { Vec::new() };
        // Published channel by channel; in memory a moment's channels lie together.
        let mut turned = Vec::with_capacity(values.len());
        for row in values.chunks_exact(inputs * kernel) {
            for tap in 0..kernel {
                turned.extend((0..inputs).map(|input| row[input * kernel + tap]));
            }
        }
        let weight = matrix(name, outputs, inputs * kernel, &turned)?;
        Ok(Convolution { weight, bias, inputs, kernel, dilation })
    }

    /// A convolution of single rows: `y = x Wᵀ + b`.
    pub(super) fn pointwise(
        tensors: &mut Tensors,
        name: &str,
        outputs: usize,
        inputs: usize,
    ) -> Result<Convolution, String> {
        Self::load(tensors, name, [outputs, inputs, 1], 1, true)
    }

    /// A linear layer, whose weight is published as a matrix.
    pub(super) fn linear(tensors: &mut Tensors, name: &str, width: usize, bias: bool) -> Result<Convolution, String> {
        let values = read(tensors, &format!("{name}.weight"), &[width, width])?;
        let bias = if bias { read(tensors, &format!("{name}.bias"), &[width])? } else { Vec::new() };
        Ok(Convolution { weight: matrix(name, width, width, &values)?, bias, inputs: width, kernel: 1, dilation: 1 })
    }

    pub(super) fn outputs(&self) -> usize {
        self.weight.rows()
    }

    /// How far a row sees to each side.
    pub(super) fn reach(&self) -> usize {
        (self.kernel - 1) * self.dilation / 2
    }

    /// The convolution of `x`.
    pub(super) fn forward(&self, compute: &Compute, x: &[f32]) -> Vec<f32> {
        let mut out = Vec::new();
        self.forward_with(compute, x, 1.0, &mut Vec::new(), &mut out);
        out
    }

    /// The convolution of `x` after `max(x, slope x)`. `sorted` is memory to use.
    pub(super) fn forward_with(
        &self,
        compute: &Compute,
        x: &[f32],
        slope: f32,
        sorted: &mut Vec<f32>,
        out: &mut Vec<f32>,
    ) {
        let (inputs, outputs, apart) = (self.inputs, self.outputs(), self.dilation);
        let count = x.len() / inputs;
        if count == 0 {
            out.clear();
            return;
        }
        if self.kernel == 1 && slope == 1.0 {
            out.resize(count * outputs, 0.0);
            maps::project(
                compute.isa,
                &compute.pool,
                Rows::dense(x, inputs),
                &self.weight,
                &self.bias,
                Mode::Replace,
                out,
            );
            return;
        }
        // Of each remainder as many rows, the last of them zeros where they do not come out even.
        let each = count.div_ceil(apart) + self.kernel - 1;
        sorted.resize(each * apart * inputs, 0.0);
        let before = self.reach();
        each_row(compute, sorted, inputs, |first, rows| {
            for (index, row) in rows.chunks_exact_mut(inputs).enumerate() {
                let place = (first + index) % each * apart + (first + index) / each;
                match place.checked_sub(before).filter(|row| *row < count) {
                    None => row.fill(0.0),
                    Some(from) => leaky(&x[from * inputs..][..inputs], slope, row),
                }
            }
        });
        let rows = Rows { data: sorted, stride: inputs, count: each * apart - (self.kernel - 1) };
        out.resize(rows.count * outputs, 0.0);
        maps::project(compute.isa, &compute.pool, rows, &self.weight, &self.bias, Mode::Replace, out);
        if apart > 1 {
            std::mem::swap(out, sorted);
            out.resize(count * outputs, 0.0);
            each_row(compute, out, outputs, |first, rows| {
                for (index, row) in rows.chunks_exact_mut(outputs).enumerate() {
                    let from = (first + index) % apart * each + (first + index) / apart;
                    row.copy_from_slice(&sorted[from * outputs..][..outputs]);
                }
            });
        }
    }
}

/// `out = max(x, slope x)`, for a slope of at most 1.
pub(super) fn leaky(x: &[f32], slope: f32, out: &mut [f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = x.max(slope * x);
    }
}

/// A transposed convolution that makes the signal `rate` times as long.
pub(super) struct Upsampling {
    /// One row of outputs is `rate` rows of the result.
    weight: FloatMatrix,
    bias: Vec<f32>,
    inputs: usize,
    /// Rows that are seen before and after a row.
    before: usize,
    after: usize,
}

impl Upsampling {
    /// Reads `name`, whose kernel is `kernel` rows of the result, as many of them cut off at each end as are too many.
    pub(super) fn load(
        tensors: &mut Tensors,
        name: &str,
        [inputs, outputs]: [usize; 2],
        (rate, kernel): (usize, usize),
    ) -> Result<Upsampling, String> {
        let values = weight(tensors, name, [inputs, outputs, kernel])?;
        let bias = read(tensors, &format!("{name}.bias"), &[outputs])?;
        let cut = (kernel - rate) / 2;
        // Row `t` reaches rows `rate t - cut` to `rate t - cut + kernel - 1` of the result.
        let (before, after) = ((kernel - 1 - cut) / rate, cut.div_ceil(rate));
        let seen = before + 1 + after;
        let mut turned = Vec::with_capacity(rate * outputs * seen * inputs);
        for (step, output) in (0..rate).flat_map(|step| (0..outputs).map(move |output| (step, output))) {
            for row in 0..seen {
                let tap = (step + cut + before * rate).checked_sub(row * rate).filter(|tap| *tap < kernel);
                turned.extend((0..inputs).map(|input| match tap {
                    Some(tap) => values[(input * outputs + output) * kernel + tap],
                    None => 0.0,
                }));
            }
        }
        let weight = matrix(name, rate * outputs, seen * inputs, &turned)?;
        Ok(Upsampling { weight, bias: bias.repeat(rate), inputs, before, after })
    }

    /// How many times as long the signal becomes, rows of `outputs`.
    pub(super) fn rate(&self, outputs: usize) -> usize {
        self.weight.rows() / outputs
    }

    /// How far a row sees to each side.
    pub(super) fn reach(&self) -> usize {
        self.before.max(self.after)
    }

    /// The longer signal made of `max(x, slope x)`.
    pub(super) fn forward(&self, compute: &Compute, x: &[f32], slope: f32) -> Vec<f32> {
        let inputs = self.inputs;
        let count = x.len() / inputs;
        let mut padded = vec![0.0; (count + self.before + self.after) * inputs];
        each_row(compute, &mut padded[self.before * inputs..][..x.len()], inputs, |first, rows| {
            leaky(&x[first * inputs..][..rows.len()], slope, rows);
        });
        let mut out = vec![0.0; count * self.weight.rows()];
        let rows = Rows { data: &padded, stride: inputs, count };
        maps::project(compute.isa, &compute.pool, rows, &self.weight, &self.bias, Mode::Replace, &mut out);
        out
    }
}

/// A convolution of each channel by itself.
pub(super) struct Depthwise {
    /// Tap by tap.
    weight: Vec<f32>,
    bias: Vec<f32>,
    kernel: usize,
    dilation: usize,
}

impl Depthwise {
    pub(super) fn load(
        tensors: &mut Tensors,
        name: &str,
        [channels, kernel]: [usize; 2],
        dilation: usize,
    ) -> Result<Depthwise, String> {
        let values = weight(tensors, name, [channels, 1, kernel])?;
        let turned = (0..kernel).flat_map(|tap| values.iter().skip(tap).step_by(kernel)).copied().collect();
        Ok(Depthwise { weight: turned, bias: read(tensors, &format!("{name}.bias"), &[channels])?, kernel, dilation })
    }

    pub(super) fn forward(&self, compute: &Compute, x: &[f32]) -> Vec<f32> {
        let channels = self.bias.len();
        let (count, before) = (x.len() / channels, (self.kernel - 1) * self.dilation / 2);
        let mut out = vec![0.0; x.len()];
        each_row(compute, &mut out, channels, |first, rows| {
            for (index, row) in rows.chunks_exact_mut(channels).enumerate() {
                row.copy_from_slice(&self.bias);
                for (tap, weight) in self.weight.chunks_exact(channels).enumerate() {
                    let seen = (first + index + tap * self.dilation).checked_sub(before).filter(|seen| *seen < count);
                    let Some(seen) = seen else { continue };
                    let x = &x[seen * channels..][..channels];
                    row.iter_mut().zip(weight).zip(x).for_each(|((out, weight), x)| *out += weight * x);
                }
            }
        });
        out
    }
}

/// A layer normalization.
pub(super) struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    epsilon: f32,
}

impl Norm {
    pub(super) fn load(tensors: &mut Tensors, name: &str, width: usize, epsilon: f32) -> Result<Norm, String> {
        Ok(Norm {
            weight: read(tensors, &format!("{name}.weight"), &[width])?,
            bias: read(tensors, &format!("{name}.bias"), &[width])?,
            epsilon,
        })
    }

    /// `x = norm(x + more)`; an empty `more` adds nothing.
    pub(super) fn apply(&self, compute: &Compute, x: &mut [f32], more: &[f32]) {
        let width = self.weight.len();
        each_row(compute, x, width, |first, rows| {
            let more = if more.is_empty() { more } else { &more[first * width..][..rows.len()] };
            add_and_normalize(compute.isa, rows, more, &self.weight, &self.bias, self.epsilon);
        });
    }
}
