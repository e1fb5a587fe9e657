//! Samplers that look at the current prediction only.

use super::{Prediction, Steps};

impl Steps<'_> {
    /// Song et al. 2020, equation 12, with no noise added.
    pub(super) fn ddim(&self, predicted: &[f32], x: &mut [f32]) {
        let schedule = self.schedule;
        let time = self.times[self.at];
        let now = schedule.kept_at(time);
        let next = schedule.kept_at(time - (schedule.kept.len() / self.count) as f64);
        let mixture = (now.sqrt(), (1.0 - now).sqrt());
        let (signal, noise) = (next.sqrt(), (1.0 - next).sqrt());
        for (x, predicted) in x.iter_mut().zip(predicted) {
            let (picture, rest) = schedule.parts(f64::from(*predicted), f64::from(*x), mixture);
            *x = (signal * picture + noise * rest) as f32;
        }
    }

    /// Karras et al. 2022, algorithm 1 by Euler's method; with `noise` ancestral, as much of it as keeps the mixture.
    pub(super) fn euler(&self, predicted: &[f32], x: &mut [f32], noise: Option<&mut dyn FnMut(usize) -> Vec<f32>>) {
        let (now, next) = (self.sigmas[self.at], self.sigmas[self.at + 1]);
        let up = (next * next * (now * now - next * next) / (now * now)).max(0.0).sqrt();
        let (to, fresh) = match noise {
            Some(noise) => ((next * next - up * up).max(0.0).sqrt(), noise(x.len())),
            None => (next, Vec::new()),
        };
        let wide = now * now + 1.0;
        for (at, (x, predicted)) in x.iter_mut().zip(predicted).enumerate() {
            let (value, predicted) = (f64::from(*x), f64::from(*predicted));
            let picture = match self.schedule.prediction {
                Prediction::Noise => value - now * predicted,
                Prediction::Velocity => value / wide - predicted * now / wide.sqrt(),
                Prediction::Picture => predicted,
            };
            let more = fresh.get(at).map_or(0.0, |fresh| f64::from(*fresh) * up);
            *x = (value + (value - picture) / now * (to - now) + more) as f32;
        }
    }

    /// Luo et al. 2023, algorithm 3: to the picture, and back to the next time's mixture with fresh noise.
    pub(super) fn lcm(&self, predicted: &[f32], x: &mut [f32], scaling: f64, noise: &mut dyn FnMut(usize) -> Vec<f32>) {
        /// The standard deviation of pictures.
        const SPREAD: f64 = 0.5;
        let time = self.times[self.at];
        let (now, next) = (self.mixture(self.at), self.mixture(self.at + 1));
        let scaled = time * scaling;
        let wide = scaled * scaled + SPREAD * SPREAD;
        let (skip, through) = (SPREAD * SPREAD / wide, scaled / wide.sqrt());
        let last = self.at + 1 == self.times.len();
        let fresh = if last { Vec::new() } else { noise(x.len()) };
        for (at, (x, predicted)) in x.iter_mut().zip(predicted).enumerate() {
            let (picture, _) = self.schedule.parts(f64::from(*predicted), f64::from(*x), now);
            let denoised = through * picture + skip * f64::from(*x);
            let more = fresh.get(at).map_or(0.0, |fresh| f64::from(*fresh) * next.1);
            *x = (if last { denoised } else { next.0 * denoised + more }) as f32;
        }
    }
}
