//! Normalization: over groups of channels, over rows.

use super::Scatter;
use crate::elementwise::{exp, madd};
use crate::encoder::add_and_normalize;
use crate::isa::{Isa, per_isa};
use crate::threads::ThreadPool;

/// Pixels whose moments are summed in float32 before they join the others in float64.
const PIXELS: usize = 128;

/// `out = LayerNorm(x)` (Ba et al. 2016) for each row of `width` values. Empty weights are ones, an empty bias zeros.
#[allow(clippy::too_many_arguments)]
pub fn layer_norm(
    isa: Isa,
    pool: &ThreadPool,
    x: &[f32],
    width: usize,
    weight: &[f32],
    bias: &[f32],
    epsilon: f32,
    out: &mut [f32],
) {
    let (ones, zeros) = (vec![1.0; if weight.is_empty() { width } else { 0 }], vec![0.0; width]);
    let weight = if weight.is_empty() { &ones } else { weight };
    let bias = if bias.is_empty() { &zeros } else { bias };
    assert!(weight.len() == width && bias.len() == width, "weights of the wrong size");
    per_row(pool, x, width, out, |row| add_and_normalize(isa, row, &[], weight, bias, epsilon));
}

/// `out = x / sqrt(mean(x²) + epsilon) · weight` (Zhang and Sennrich 2019) for each row of `weight.len()` values.
pub fn rms_norm(pool: &ThreadPool, x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    per_row(pool, x, weight.len(), out, |row| {
        let squares: f64 = row.iter().map(|value| f64::from(*value) * f64::from(*value)).sum();
        let scale = 1.0 / (squares / row.len() as f64 + f64::from(epsilon)).sqrt();
        row.iter_mut().zip(weight).for_each(|(value, weight)| *value *= scale as f32 * weight);
    });
}

fn per_row(pool: &ThreadPool, x: &[f32], width: usize, out: &mut [f32], body: impl Fn(&mut [f32]) + Sync) {
    assert!(x.len() == out.len() && x.len().is_multiple_of(width), "rows of the wrong size");
    let target = Scatter::new(out);
    pool.for_each_chunk(
        x.len() / width,
        64,
        || (),
        |(), rows| {
            for row in rows {
                let range = row * width..(row + 1) * width;
                // SAFETY: each row is written by the one thread that took it.
                let out = unsafe { target.slice(range.clone()) };
                out.copy_from_slice(&x[range]);
                body(out);
            }
        },
    );
}

/// `out = GroupNorm(x)` (Wu and He 2018), then SiLU if `silu`, over rows of `weight.len()` channels in `groups`.
#[allow(clippy::too_many_arguments)]
pub fn group_norm(
    isa: Isa,
    pool: &ThreadPool,
    x: &[f32],
    groups: usize,
    weight: &[f32],
    bias: &[f32],
    epsilon: f32,
    silu: bool,
    out: &mut [f32],
) {
    let mut moments = Moments::new(weight.len());
    moments.add(isa, pool, x);
    moments.factors(groups, weight, bias, epsilon).apply(isa, pool, x, silu, out);
}

/// Sums over the pixels of a map, for each channel, of which group norms are made. A map may come in parts.
pub struct Moments {
    /// Moments are taken about the first pixel, so that a mean far from zero costs no precision.
    about: Vec<f32>,
    /// Of the distances, then of their squares.
    sums: Vec<f64>,
    pixels: usize,
}

/// What each channel is multiplied with, and what is added then.
pub struct Factors {
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl Moments {
    /// Of nothing yet.
    pub fn new(channels: usize) -> Moments {
        assert!(channels > 0, "a map without channels");
        Moments { about: Vec::new(), sums: vec![0.0; 2 * channels], pixels: 0 }
    }

    /// Takes in rows of pixels.
    pub fn add(&mut self, isa: Isa, pool: &ThreadPool, x: &[f32]) {
        let channels = self.sums.len() / 2;
        assert!(x.len().is_multiple_of(channels), "a part of the wrong size");
        if x.is_empty() {
            return;
        }
        if self.about.is_empty() {
            self.about.extend_from_slice(&x[..channels]);
        }
        let (about, pixels) = (&self.about, x.len() / channels);
        let chunks = pixels.div_ceil(PIXELS);
        let mut partial = vec![0.0_f32; chunks * 2 * channels];
        let target = Scatter::new(&mut partial);
        pool.for_each_chunk(
            chunks,
            1,
            || (),
            |(), range| {
                for chunk in range {
                    // SAFETY: each chunk is written by the one thread that took it.
                    let sums = unsafe { target.slice(chunk * 2 * channels..(chunk + 1) * 2 * channels) };
                    let pixels = chunk * PIXELS * channels..((chunk + 1) * PIXELS).min(pixels) * channels;
                    moments(isa, &x[pixels], about, sums);
                }
            },
        );
        for chunk in partial.chunks_exact(2 * channels) {
            self.sums.iter_mut().zip(chunk).for_each(|(sum, part)| *sum += f64::from(*part));
        }
        self.pixels += pixels;
    }

    /// The norm of what was taken in, with one weight and one bias for each channel.
    pub fn factors(&self, groups: usize, weight: &[f32], bias: &[f32], epsilon: f32) -> Factors {
        let channels = self.sums.len() / 2;
        assert!(groups > 0 && channels.is_multiple_of(groups), "{channels} channels in {groups} groups");
        assert!(weight.len() == channels && bias.len() == channels, "weights of the wrong size");
        let (mut scale, mut shift) = (vec![0.0; channels], vec![0.0; channels]);
        if self.pixels == 0 {
            return Factors { scale, shift };
        }
        let (sums, each, count) = (&self.sums, channels / groups, self.pixels as f64);
        for group in 0..groups {
            let channels_of = group * each..(group + 1) * each;
            let mean_of = |channel: usize| f64::from(self.about[channel]) + sums[channel] / count;
            let mean = channels_of.clone().map(mean_of).sum::<f64>() / each as f64;
            let spread = |channel: usize| {
                let within = sums[channels + channel] / count - (sums[channel] / count).powi(2);
                within + (mean_of(channel) - mean).powi(2)
            };
            let variance = (channels_of.clone().map(spread).sum::<f64>() / each as f64).max(0.0);
            let inverse = 1.0 / (variance + f64::from(epsilon)).sqrt();
            for channel in channels_of {
                let factor = inverse * f64::from(weight[channel]);
                scale[channel] = factor as f32;
                shift[channel] = (f64::from(bias[channel]) - mean * factor) as f32;
            }
        }
        Factors { scale, shift }
    }
}

impl Factors {
    /// `out = x · scale + shift` for each pixel, then SiLU if `silu`.
    pub fn apply(&self, isa: Isa, pool: &ThreadPool, x: &[f32], silu: bool, out: &mut [f32]) {
        let channels = self.scale.len();
        assert!(x.len() == out.len() && x.len().is_multiple_of(channels), "an output of the wrong size");
        let target = Scatter::new(out);
        pool.for_each_chunk(
            x.len() / channels,
            PIXELS,
            || (),
            |(), range| {
                let range = range.start * channels..range.end * channels;
                // SAFETY: each pixel is written by the one thread that took it.
                let out = unsafe { target.slice(range.clone()) };
                scale_rows(isa, &x[range], &self.scale, &self.shift, silu, out);
            },
        );
    }
}

per_isa! {
    /// Adds up, for each channel, how far pixels are from `about`, and the squares of that.
    fn moments(isa, pixels: &[f32], about: &[f32], sums: &mut [f32]) = moments_body
}
per_isa! {
    fn scale_rows(isa, x: &[f32], scale: &[f32], shift: &[f32], silu: bool, out: &mut [f32]) = scale_rows_body
}

#[inline(always)]
fn moments_body<const FMA: bool>(pixels: &[f32], about: &[f32], sums: &mut [f32]) {
    let channels = about.len();
    let (first, second) = sums.split_at_mut(channels);
    for pixel in pixels.chunks_exact(channels) {
        for (((value, about), first), second) in pixel.iter().zip(about).zip(first.iter_mut()).zip(second.iter_mut()) {
            let distance = value - about;
            *first += distance;
            *second = madd::<FMA>(distance, distance, *second);
        }
    }
}

#[inline(always)]
fn scale_rows_body<const FMA: bool>(x: &[f32], scale: &[f32], shift: &[f32], silu: bool, out: &mut [f32]) {
    let channels = scale.len();
    for (x, out) in x.chunks_exact(channels).zip(out.chunks_exact_mut(channels)) {
        for (((x, scale), shift), out) in x.iter().zip(scale).zip(shift).zip(out.iter_mut()) {
            *out = madd::<FMA>(*x, *scale, *shift);
        }
        if silu {
            for value in out {
                *value /= 1.0 + exp::<FMA>(-*value);
            }
        }
    }
}
