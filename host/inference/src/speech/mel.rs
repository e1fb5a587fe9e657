//! The log-mel spectrogram that Whisper reads.
//!
//! Frames of 400 samples every 160, centred, with the sound mirrored beyond its ends; a periodic Hann window; power
//! spectrum; triangular mel filters on Slaney's scale, each of area 1; the logarithm to base 10, cut at eight decades below
//! the loudest value of the window, and moved so that silence is about -1. The reference is the feature extractor of
//! `transformers`, which tests compare with.

use std::sync::Arc;

use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};

use super::audio::RATE;

/// Samples from one frame's centre to the next's.
pub(crate) const HOP: usize = 160;
const WINDOW: usize = 400;
const BINS: usize = WINDOW / 2 + 1;

/// Makes spectrograms of one number of mel bands.
pub(crate) struct MelSpectrogram {
    bands: Vec<Band>,
    hann: Vec<f32>,
    fft: Arc<dyn RealToComplex<f32>>,
}

/// A filter: the first bin that it weighs, and the weights.
struct Band {
    first: usize,
    weights: Vec<f32>,
}

impl MelSpectrogram {
    pub(crate) fn new(bands: usize) -> MelSpectrogram {
        let angle = |index: usize| 2.0 * std::f64::consts::PI * index as f64 / WINDOW as f64;
        MelSpectrogram {
            bands: filters(bands),
            hann: (0..WINDOW).map(|index| (0.5 - 0.5 * angle(index).cos()) as f32).collect(),
            fft: RealFftPlanner::new().plan_fft_forward(WINDOW),
        }
    }

    /// The spectrogram of `samples`, followed by silence to `frames` frames: frame after frame, in each one value for
    /// each band.
    pub(crate) fn compute(&self, samples: &[f32], frames: usize) -> Vec<f32> {
        let whole = frames * HOP;
        let samples = &samples[..samples.len().min(whole)];
        let mut out = vec![0.0; frames * self.bands.len()];
        let (mut frame, mut spectrum) = (vec![0.0; WINDOW], vec![Complex::default(); BINS]);
        let mut scratch = self.fft.make_scratch_vec();
        let mut power = [0.0_f32; BINS];
        let mut loudest = f32::NEG_INFINITY;
        for (index, out) in out.chunks_exact_mut(self.bands.len()).enumerate() {
            let start = (index * HOP) as isize - (WINDOW / 2) as isize;
            for (offset, (value, window)) in frame.iter_mut().zip(&self.hann).enumerate() {
                let at = mirrored(start + offset as isize, whole);
                *value = samples.get(at).copied().unwrap_or(0.0) * window;
            }
            // Lengths are the plan's own, the only fault it knows.
            let transformed = self.fft.process_with_scratch(&mut frame, &mut spectrum, &mut scratch);
            debug_assert!(transformed.is_ok());
            for (power, value) in power.iter_mut().zip(&spectrum) {
                *power = value.norm_sqr();
            }
            for (out, band) in out.iter_mut().zip(&self.bands) {
                let bins = &power[band.first..band.first + band.weights.len()];
                let sum: f32 = bins.iter().zip(&band.weights).map(|(bin, weight)| bin * weight).sum();
                *out = sum.max(1e-10).log10();
                loudest = loudest.max(*out);
            }
        }
        for value in &mut out {
            *value = (value.max(loudest - 8.0) + 4.0) / 4.0;
        }
        out
    }
}

/// The sample at `at`, mirrored at the ends of a sound of `count` samples without repeating the last one.
fn mirrored(at: isize, count: usize) -> usize {
    let last = count.saturating_sub(1) as isize;
    let at = at.abs();
    if at > last { (2 * last - at).max(0) as usize } else { at as usize }
}

/// Slaney's mel scale: linear below 1 kHz, logarithmic above.
fn mel(hertz: f64) -> f64 {
    if hertz < 1000.0 { 3.0 * hertz / 200.0 } else { 15.0 + (hertz / 1000.0).ln() * 27.0 / 6.4_f64.ln() }
}

fn hertz(mel: f64) -> f64 {
    if mel < 15.0 { 200.0 * mel / 3.0 } else { 1000.0 * (6.4_f64.ln() / 27.0 * (mel - 15.0)).exp() }
}

fn filters(bands: usize) -> Vec<Band> {
    let most = mel(RATE as f64 / 2.0);
    let edge = |index: usize| hertz(most * index as f64 / (bands + 1) as f64);
    let band = |index: usize| {
        let (low, centre, high) = (edge(index), edge(index + 1), edge(index + 2));
        let weight = |bin: usize| {
            let at = bin as f64 * (RATE / WINDOW) as f64;
            let slope = ((at - low) / (centre - low)).min((high - at) / (high - centre));
            (slope.max(0.0) * 2.0 / (high - low)) as f32
        };
        let weights: Vec<f32> = (0..BINS).map(weight).collect();
        let first = weights.iter().position(|weight| *weight > 0.0).unwrap_or(0);
        let end = weights.iter().rposition(|weight| *weight > 0.0).map_or(first, |last| last + 1);
        Band { first, weights: weights[first..end].to_vec() }
    };
    (0..bands).map(band).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::speech::testing::{file, furthest, numbers, reference, samples};

    /// Both sum some hundred float32 products; 1e-4 is what the reference's own float32 differs from its float64 by.
    const TOLERANCE: f32 = 1e-4;

    #[test]
    fn it_is_the_reference_s() {
        let sound = samples(file("jfk.flac")).unwrap();
        for case in reference()["mel"].as_array().unwrap() {
            let whole = |key: &str| case[key].as_u64().unwrap() as usize;
            let (bands, frames) = (whole("bands"), whole("seconds") * RATE / HOP);
            let spectrogram = MelSpectrogram::new(bands).compute(&sound, frames);
            for (frame, values) in numbers(&case["frames"]).iter().zip(case["values"].as_array().unwrap()) {
                let got = &spectrogram[*frame as usize * bands..][..bands];
                let far = furthest(got, &numbers(values));
                assert!(far < TOLERANCE, "{bands} bands, frame {frame}: {far}");
            }
            let mean = spectrogram.iter().map(|value| f64::from(*value)).sum::<f64>() / spectrogram.len() as f64;
            assert!((mean - case["mean"].as_f64().unwrap()).abs() < f64::from(TOLERANCE), "{mean}");
        }
    }

    #[test]
    fn silence_and_nothing_are_the_same_everywhere() {
        let spectrogram = MelSpectrogram::new(80).compute(&[], 100);
        assert!(spectrogram.iter().all(|value| (value + 1.5).abs() < 1e-6), "{}", spectrogram[0]);
    }

    #[test]
    fn positions_beyond_the_ends_are_mirrored() {
        assert_eq!([-3, -1, 0, 4, 5, 7].map(|at| mirrored(at, 5)), [3, 1, 0, 4, 3, 1]);
        assert_eq!(mirrored(9, 1), 0);
    }
}
