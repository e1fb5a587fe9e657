//! Convolutions as products: the pixels under the kernel become a row, and rows meet the packed weights.
//!
//! Those of 3 by 3 pixels that [`maps`] has a shorter way for are computed there.

use crate::encoder;
use crate::floats::FloatMatrix;
use crate::isa::Isa;
use crate::linear::{Packed, Rows, linear};
use crate::maps::{self, Geometry, Mode};
use crate::threads::{Scatter, ThreadPool};
use crate::vision::rows::{Activation, activate, each_row_block};

/// Output pixels that are gathered and multiplied together at most.
const MAX_ROWS: usize = 96;
/// And at least: what a tile of the product holds.
const MIN_ROWS: usize = 12;

/// A picture or what a layer made of one: row after row of pixels, in each pixel channel beside channel.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Map {
    /// Rows of pixels.
    pub height: usize,
    /// Pixels of a row.
    pub width: usize,
    /// Values of a pixel.
    pub channels: usize,
    /// The values.
    pub data: Vec<f32>,
}

impl Map {
    /// A map of zeros.
    pub fn zeros(height: usize, width: usize, channels: usize) -> Map {
        Map { height, width, channels, data: vec![0.0; height * width * channels] }
    }

    /// How many pixels it has.
    pub fn pixels(&self) -> usize {
        self.height * self.width
    }
}

/// What batch normalization (Ioffe & Szegedy 2015) does once training is over: a scale and a shift per channel.
#[derive(Debug, Clone)]
pub struct BatchNorm {
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl BatchNorm {
    /// From the learned `weight` and `bias` and the running `mean` and `variance`, one value per channel each.
    pub fn new(weight: &[f32], bias: &[f32], mean: &[f32], variance: &[f32], epsilon: f32) -> BatchNorm {
        let scale: Vec<f32> = weight.iter().zip(variance).map(|(w, v)| w / (v + epsilon).sqrt()).collect();
        let shift = bias.iter().zip(mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
        BatchNorm { scale, shift }
    }

    /// Scales the rows of `weight` (one per output channel) in place and gives the bias that remains.
    pub fn fold(self, weight: &mut [f32]) -> Vec<f32> {
        let inputs = weight.len() / self.scale.len().max(1);
        if inputs > 0 {
            for (row, scale) in weight.chunks_exact_mut(inputs).zip(&self.scale) {
                row.iter_mut().for_each(|value| *value *= scale);
            }
        }
        self.shift
    }
}

/// A two-dimensional convolution over all channels with a square kernel.
#[derive(Debug, Clone)]
pub struct Conv {
    weight: Weight,
    bias: Vec<f32>,
    channels: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
}

/// Inputs in the order row, column, channel.
#[derive(Debug, Clone)]
enum Weight {
    Rows(Packed),
    /// For [`maps::convolve`].
    Panels(FloatMatrix),
}

impl Conv {
    /// Packs `weight`, in the published order output, channel, row, column. An empty bias is zero.
    pub fn new(weight: &[f32], bias: Vec<f32>, channels: usize, kernel: usize, stride: usize, padding: usize) -> Conv {
        let inputs = channels * kernel * kernel;
        let outputs = weight.len() / inputs;
        assert!(weight.len() == outputs * inputs && stride > 0, "a weight of {} for {inputs} inputs", weight.len());
        let at = |output: usize, input: usize| {
            let (place, channel) = (input / channels, input % channels);
            weight[(output * channels + channel) * kernel * kernel + place]
        };
        let panels = if maps::is_shortened(kernel, stride, channels, outputs) {
            let values: Vec<f32> = (0..weight.len()).map(|i| at(i / inputs, i % inputs)).collect();
            FloatMatrix::from_values(&values, outputs).ok().map(Weight::Panels)
        } else {
            None
        };
        let weight = panels.unwrap_or_else(|| {
            let mut packed = Packed::default();
            packed.pack(outputs, inputs, at);
            Weight::Rows(packed)
        });
        Conv { weight, bias, channels, kernel, stride, padding }
    }

    /// Channels of the result.
    pub fn outputs(&self) -> usize {
        match &self.weight {
            Weight::Rows(weight) => weight.outputs(),
            Weight::Panels(weight) => weight.rows(),
        }
    }

    /// Height and width of what comes out of a map of this size; 0 where the kernel does not fit.
    pub fn size(&self, height: usize, width: usize) -> (usize, usize) {
        let one = |side: usize| match (side + 2 * self.padding).checked_sub(self.kernel) {
            Some(rest) => rest / self.stride + 1,
            None => 0,
        };
        (one(height), one(width))
    }

    /// The convolution of `x`, followed by `max(0, ·)` if `relu`.
    pub fn apply(&self, isa: Isa, pool: &ThreadPool, x: &Map, relu: bool) -> Map {
        assert_eq!(x.channels, self.channels, "a map of other channels");
        assert_eq!(x.data.len(), x.pixels() * x.channels, "a map that is not of its size");
        let (height, width) = self.size(x.height, x.width);
        let outputs = self.outputs();
        let mut y = Map::zeros(height, width, outputs);
        let weight = match &self.weight {
            Weight::Rows(weight) => weight,
            Weight::Panels(weight) => {
                self.shortened(isa, pool, x, weight, &mut y);
                if relu {
                    each_row_block(pool, &mut y.data, outputs, |_, block| activate(isa, block, Activation::Relu));
                }
                return y;
            }
        };
        let chunk = y.pixels().div_ceil(pool.threads() * 4).clamp(MIN_ROWS, MAX_ROWS);
        let inputs = weight.inputs();
        let plain = self.kernel == 1 && self.stride == 1 && self.padding == 0;
        let pixels = y.pixels();
        let out = Scatter::new(&mut y.data);
        pool.for_each_chunk(pixels, chunk, Vec::new, |gathered: &mut Vec<f32>, range| {
            // One thread alone gets everything at once.
            for start in range.clone().step_by(MAX_ROWS) {
                let end = (start + MAX_ROWS).min(range.end);
                let rows = if plain {
                    &x.data[start * inputs..end * inputs]
                } else {
                    gathered.resize((end - start) * inputs, 0.0);
                    for (pixel, row) in (start..end).zip(gathered.chunks_exact_mut(inputs)) {
                        self.gather(x, pixel / width * self.stride, pixel % width * self.stride, row);
                    }
                    &gathered[..]
                };
                // SAFETY: ranges of pixels do not overlap.
                let out = unsafe { out.slice(start * outputs..end * outputs) };
                linear(isa, Rows::dense(rows, inputs), weight, &self.bias, out, outputs);
                if relu {
                    encoder::activate(isa, out, encoder::Activation::Relu);
                }
            }
        });
        y
    }

    /// As [`maps`] does it.
    fn shortened(&self, isa: Isa, pool: &ThreadPool, x: &Map, weight: &FloatMatrix, y: &mut Map) {
        if y.data.is_empty() {
            return;
        }
        let map = maps::Map { data: &x.data, first: 0, height: x.height, width: x.width, channels: x.channels };
        let geometry = Geometry {
            kernel: self.kernel,
            stride: self.stride,
            padding: self.padding,
            resized: None,
            output: (y.height, y.width),
            rows: 0..y.height,
        };
        maps::convolve(isa, pool, map, &geometry, weight, &self.bias, Mode::Replace, &mut y.data);
    }

    /// The pixels under the kernel whose corner is at `top`, `left` of the padded map.
    fn gather(&self, x: &Map, top: usize, left: usize, row: &mut [f32]) {
        let channels = self.channels;
        let line = self.kernel * channels;
        for (offset, values) in row.chunks_exact_mut(line).enumerate() {
            values.fill(0.0);
            let Some(y) = (top + offset).checked_sub(self.padding).filter(|y| *y < x.height) else { continue };
            let first = self.padding.saturating_sub(left);
            let last = (x.width + self.padding).saturating_sub(left).min(self.kernel);
            if first >= last {
                continue;
            }
            let from = (y * x.width + left + first - self.padding) * channels;
            let count = (last - first) * channels;
            values[first * channels..][..count].copy_from_slice(&x.data[from..from + count]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use proptest::prelude::*;

    use super::*;

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7 + seed) as f32 * 0.61).sin()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_convolution_is_its_definition(
            height in 1usize..9, width in 1usize..9, channels in 1usize..4, outputs in 1usize..40,
            kernel in 1usize..5, stride in 1usize..3, padding in 0usize..3, threads in 1usize..3,
        ) {
            let pool = ThreadPool::new("test", NonZeroUsize::new(threads).unwrap()).unwrap();
            let x = Map { height, width, channels, data: numbers(height * width * channels, 1) };
            let weight = numbers(outputs * channels * kernel * kernel, 2);
            let bias = numbers(outputs, 3);
            let conv = Conv::new(&weight, bias.clone(), channels, kernel, stride, padding);
            let y = conv.apply(Isa::best(), &pool, &x, false);
            prop_assert_eq!((y.height, y.width), conv.size(height, width));
            for (place, value) in y.data.iter().enumerate() {
                let expected = defined(&x, &weight, &bias, (kernel, stride, padding), y.width, place);
                prop_assert!((value - expected).abs() < 1e-4, "{value} {expected}");
            }
        }

        /// The maps are so large that the way of `maps` is taken in most cases, and so small that it is not in others.
        #[test]
        fn a_shortened_convolution_is_its_definition(
            height in 1usize..13, width in 1usize..13, channels in 16usize..35, outputs in 16usize..40,
            padding in 0usize..3, threads in 1usize..3, relu: bool,
        ) {
            let pool = ThreadPool::new("test", NonZeroUsize::new(threads).unwrap()).unwrap();
            let x = Map { height, width, channels, data: numbers(height * width * channels, 1) };
            let (weight, bias) = (numbers(outputs * channels * 9, 2), numbers(outputs, 3));
            let conv = Conv::new(&weight, bias.clone(), channels, 3, 1, padding);
            prop_assert!(matches!(conv.weight, Weight::Panels(_)) && conv.outputs() == outputs);
            let y = conv.apply(Isa::best(), &pool, &x, relu);
            prop_assert_eq!((y.height, y.width), conv.size(height, width));
            for (place, value) in y.data.iter().enumerate() {
                let expected = defined(&x, &weight, &bias, (3, 1, padding), y.width, place);
                let expected = if relu { expected.max(0.0) } else { expected };
                // Sums of up to 300 products, of about 1 each.
                prop_assert!((value - expected).abs() < 2e-4, "{value} {expected}");
            }
        }
    }

    /// The value `place` of the convolution of `x`, whose rows have `across` pixels.
    fn defined(
        x: &Map,
        weight: &[f32],
        bias: &[f32],
        (kernel, stride, padding): (usize, usize, usize),
        across: usize,
        place: usize,
    ) -> f32 {
        let (pixel, output) = (place / bias.len(), place % bias.len());
        let inputs = x.channels * kernel * kernel;
        let mut sum = bias[output];
        for (at, weight) in weight[output * inputs..][..inputs].iter().enumerate() {
            let (channel, dy, dx) = (at / (kernel * kernel), at / kernel % kernel, at % kernel);
            let row = (pixel / across * stride + dy).checked_sub(padding).filter(|row| *row < x.height);
            let column = (pixel % across * stride + dx).checked_sub(padding).filter(|column| *column < x.width);
            if let (Some(row), Some(column)) = (row, column) {
                sum += weight * x.data[(row * x.width + column) * x.channels + channel];
            }
        }
        sum
    }

    #[test]
    fn a_folded_norm_is_the_norm_after_the_product() {
        let (weight, x) = ([1.0, -2.0, 0.5, 3.0], [0.3, 0.7]);
        let (gamma, beta, mean, variance) = ([1.5, 0.5], [0.1, -0.2], [0.4, 0.6], [2.0, 0.25]);
        let mut folded = weight;
        let bias = BatchNorm::new(&gamma, &beta, &mean, &variance, 1e-5).fold(&mut folded);
        for output in 0..2 {
            let plain = weight[output * 2] * x[0] + weight[output * 2 + 1] * x[1];
            let expected = (plain - mean[output]) / (variance[output] + 1e-5_f32).sqrt() * gamma[output] + beta[output];
            let got = folded[output * 2] * x[0] + folded[output * 2 + 1] * x[1] + bias[output];
            assert!((got - expected).abs() < 1e-6, "{got} {expected}");
        }
    }
}
