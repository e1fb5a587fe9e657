//! Convolutions of each channel by itself, which have no product to become.
//!
//! Two multiplications for each value that is read: nothing is gathered, and channels, which lie beside each other, fill
//! the registers. A value's sum is in the order of the window whatever the processor and the threads.

use super::conv::Map;
use crate::elementwise::madd;
use crate::isa::{Isa, per_isa};
use crate::threads::{Scatter, ThreadPool};

/// A two-dimensional convolution with a square kernel of odd side for each channel and half of it in zeros around.
#[derive(Debug, Clone)]
pub struct Depthwise {
    /// Place by place of the window, channels.
    weight: Vec<f32>,
    bias: Vec<f32>,
    kernel: usize,
    stride: usize,
}

impl Depthwise {
    /// From `weight` in the published order channel, row, column and a bias for each channel.
    ///
    /// # Panics
    /// When the weight is not a window of odd side for each bias.
    pub fn new(weight: &[f32], bias: Vec<f32>, kernel: usize, stride: usize) -> Depthwise {
        let (places, channels) = (kernel * kernel, bias.len());
        assert!(kernel % 2 == 1 && stride > 0 && weight.len() == places * channels, "a weight of {}", weight.len());
        let weight = (0..places * channels).map(|at| weight[at % channels * places + at / channels]).collect();
        Depthwise { weight, bias, kernel, stride }
    }

    /// Channels of its maps.
    pub fn channels(&self) -> usize {
        self.bias.len()
    }

    /// Height and width of what comes out of a map of this size.
    pub fn size(&self, height: usize, width: usize) -> (usize, usize) {
        (height.div_ceil(self.stride), width.div_ceil(self.stride))
    }

    /// The convolution of `x`, followed by `max(0, ·)` if `relu`.
    ///
    /// # Panics
    /// When `x` has other channels.
    pub fn apply(&self, isa: Isa, pool: &ThreadPool, x: &Map, relu: bool) -> Map {
        let channels = self.channels();
        assert_eq!(x.channels, channels, "a map of other channels");
        assert_eq!(x.data.len(), x.pixels() * channels, "a map that is not of its size");
        let (height, width) = self.size(x.height, x.width);
        let mut y = Map::zeros(height, width, channels);
        let line = y.width * channels;
        let out = Scatter::new(&mut y.data);
        pool.for_each_chunk(
            y.height,
            1,
            || (),
            |(), rows| {
                for at in rows {
                    // SAFETY: rows do not overlap.
                    row(isa, self, x, at, relu, unsafe { out.slice(at * line..(at + 1) * line) });
                }
            },
        );
        y
    }

    /// Which places of the window from `start` on lie on a side of that length.
    fn seen(&self, start: usize, side: usize) -> std::ops::Range<usize> {
        let padding = self.kernel / 2;
        padding.saturating_sub(start)..(side + padding).saturating_sub(start).min(self.kernel)
    }
}

per_isa! {
    /// One row of pixels of the result.
    fn row(isa, conv: &Depthwise, x: &Map, at: usize, relu: bool, out: &mut [f32]) = row_body
}

#[inline(always)]
fn row_body<const FMA: bool>(conv: &Depthwise, x: &Map, at: usize, relu: bool, out: &mut [f32]) {
    let channels = conv.channels();
    for (column, out) in out.chunks_exact_mut(channels.max(1)).enumerate() {
        let (wide, rest) = out.as_chunks_mut::<32>();
        let first = wide.len() * 32;
        wide.iter_mut().enumerate().for_each(|(i, out)| pixel::<FMA, 32>(conv, x, [at, column, 32 * i], out));
        let (narrow, rest) = rest.as_chunks_mut::<8>();
        let last = first + narrow.len() * 8;
        narrow.iter_mut().enumerate().for_each(|(i, out)| pixel::<FMA, 8>(conv, x, [at, column, first + 8 * i], out));
        let (single, _) = rest.as_chunks_mut::<1>();
        single.iter_mut().enumerate().for_each(|(i, out)| pixel::<FMA, 1>(conv, x, [at, column, last + i], out));
    }
    if relu {
        // A NaN stays, so that broken weights are seen at the end.
        out.iter_mut().for_each(|value| *value = if *value < 0.0 { 0.0 } else { *value });
    }
}

/// `N` channels from the third of `place` on of one pixel of the result.
#[inline(always)]
fn pixel<const FMA: bool, const N: usize>(conv: &Depthwise, x: &Map, place: [usize; 3], out: &mut [f32; N]) {
    let [row, column, first] = place;
    let (channels, padding) = (conv.channels(), conv.kernel / 2);
    let (top, left) = (row * conv.stride, column * conv.stride);
    let mut sums = [0.0; N];
    sums.copy_from_slice(&conv.bias[first..first + N]);
    for dy in conv.seen(top, x.height) {
        for dx in conv.seen(left, x.width) {
            let from = ((top + dy - padding) * x.width + left + dx - padding) * channels + first;
            let values = &x.data[from..from + N];
            let weights = &conv.weight[(dy * conv.kernel + dx) * channels + first..][..N];
            for i in 0..N {
                sums[i] = madd::<FMA>(values[i], weights[i], sums[i]);
            }
        }
    }
    *out = sums;
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use proptest::prelude::*;

    use super::*;
    use crate::vision::Conv;

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7 + seed) as f32 * 0.61).sin()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn it_is_a_convolution_whose_other_weights_are_zero(
            height in 1usize..9, width in 1usize..9, channels in 1usize..45, half in 0usize..3, stride in 1usize..3,
            threads in 1usize..3, relu: bool,
        ) {
            let pool = ThreadPool::new("test", NonZeroUsize::new(threads).unwrap()).unwrap();
            let (kernel, places) = (2 * half + 1, (2 * half + 1) * (2 * half + 1));
            let x = Map { height, width, channels, data: numbers(height * width * channels, 1) };
            let (weight, bias) = (numbers(channels * places, 2), numbers(channels, 3));
            let mut all = vec![0.0; channels * channels * places];
            for (channel, weight) in weight.chunks_exact(places).enumerate() {
                all[(channel * channels + channel) * places..][..places].copy_from_slice(weight);
            }
            for isa in Isa::available() {
                let expected = Conv::new(&all, bias.clone(), channels, kernel, stride, half).apply(isa, &pool, &x, relu);
                let got = Depthwise::new(&weight, bias.clone(), kernel, stride).apply(isa, &pool, &x, relu);
                prop_assert_eq!((got.height, got.width), (expected.height, expected.width));
                for (got, expected) in got.data.iter().zip(&expected.data) {
                    prop_assert!((got - expected).abs() < 1e-5, "{got} {expected}");
                }
            }
        }
    }
}
