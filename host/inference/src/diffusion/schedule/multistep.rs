//! Samplers that look at earlier predictions too.

use serde_json::json;

use super::{Config, Prediction, Steps};

/// DPM-Solver++ (Lu et al. 2022), of first or second order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Solver {
    order: usize,
    heun: bool,
    /// Adds noise in each step.
    stochastic: bool,
    lower_order_final: bool,
    euler_at_final: bool,
}

/// What [`Steps::pndm`] remembers beside predictions.
#[derive(Debug, Default)]
pub(super) struct Pndm {
    calls: usize,
    /// The first step's input, which the second starts from again.
    first: Vec<f32>,
}

impl Solver {
    pub(super) fn read(config: &Config) -> Result<Solver, String> {
        config.only("solver_order", &[json!(1), json!(2)])?;
        config.only("solver_type", &[json!("midpoint"), json!("heun")])?;
        config.only("algorithm_type", &[json!("dpmsolver++"), json!("sde-dpmsolver++")])?;
        Ok(Solver {
            order: config.size("solver_order", Some(2), 2)?,
            heun: config.text("solver_type") == Some("heun"),
            stochastic: config.text("algorithm_type") == Some("sde-dpmsolver++"),
            lower_order_final: config.flag("lower_order_final", true)?,
            euler_at_final: config.flag("euler_at_final", false)?,
        })
    }
}

/// Shares of picture and noise where noise is `sigma` for a picture of one.
pub(super) fn split(sigma: f64) -> (f64, f64) {
    let signal = 1.0 / (sigma * sigma + 1.0).sqrt();
    (signal, sigma * signal)
}

impl Steps<'_> {
    /// DPM-Solver++(2M), Lu et al. 2022, algorithm 2.
    pub(super) fn multistep(
        &mut self,
        solver: Solver,
        predicted: &[f32],
        x: &mut [f32],
        noise: &mut dyn FnMut(usize) -> Vec<f32>,
    ) {
        let at = self.at;
        let now = split(self.sigmas[at]);
        let next = split(self.sigmas[at + 1]);
        let parts = predicted.iter().zip(x.iter());
        let pictures: Vec<f32> = parts
            .map(|(predicted, x)| self.schedule.parts(f64::from(*predicted), f64::from(*x), now).0 as f32)
            .collect();
        let last = at + 1 == self.times.len();
        let short = solver.lower_order_final && self.times.len() < 15;
        let first_order = solver.order == 1
            || self.earlier.is_empty()
            || last && (solver.euler_at_final || short || self.schedule.end_at_zero);
        let log_ratio = |(signal, noise): (f64, f64)| signal.ln() - noise.ln();
        let h = log_ratio(next) - log_ratio(now);
        let fresh = if solver.stochastic { noise(x.len()) } else { Vec::new() };
        // How much of the way to the picture is gone, how much of the input stays, how much noise comes in.
        let (gone, stays, comes) = if solver.stochastic {
            let gone = 1.0 - (-2.0 * h).exp();
            (gone, next.1 / now.1 * (-h).exp(), next.1 * gone.sqrt())
        } else {
            (1.0 - (-h).exp(), next.1 / now.1, 0.0)
        };
        let slope = match self.earlier.last() {
            Some(earlier) if !first_order => {
                let before = log_ratio(now) - log_ratio(split(self.sigmas[at - 1]));
                let span = if solver.stochastic { 2.0 * h } else { h };
                let weight = if solver.heun { 1.0 - gone / span } else { 0.5 * gone };
                Some((earlier, next.0 * weight * h / before))
            }
            _ => None,
        };
        for (at, x) in x.iter_mut().enumerate() {
            let picture = f64::from(pictures[at]);
            let mut value = stays * f64::from(*x) + next.0 * gone * picture;
            if let Some((earlier, weight)) = slope {
                value += weight * (picture - f64::from(earlier[at]));
            }
            if let Some(fresh) = fresh.get(at) {
                value += comes * f64::from(*fresh);
            }
            *x = value as f32;
        }
        self.earlier = vec![pictures];
    }

    /// Liu et al. 2022, the linear multistep method, begun by a step that is looked at twice.
    pub(super) fn pndm(&mut self, predicted: &[f32], x: &mut Vec<f32>) {
        let distance = (self.schedule.kept.len() / self.count) as f64;
        let mut time = self.times[self.at];
        let mut next = time - distance;
        if self.pndm.calls == 1 {
            (time, next) = (time + distance, time);
        } else {
            if self.earlier.len() > 3 {
                self.earlier.remove(0);
            }
            self.earlier.push(predicted.to_vec());
        }
        let weights: &[f64] = match (self.earlier.len(), self.pndm.calls) {
            (1, 0) => {
                self.pndm.first.clone_from(x);
                &[1.0]
            }
            (1, 1) => {
                std::mem::swap(x, &mut self.pndm.first);
                &[0.5]
            }
            (1, _) => &[1.0],
            (2, _) => &[-0.5, 1.5],
            (3, _) => &[5.0 / 12.0, -16.0 / 12.0, 23.0 / 12.0],
            _ => &[-9.0 / 24.0, 37.0 / 24.0, -59.0 / 24.0, 55.0 / 24.0],
        };
        let (now, then) = (self.schedule.kept_at(time), self.schedule.kept_at(next));
        let scale = (then / now).sqrt();
        let factor = (then - now) / (now * (1.0 - then).sqrt() + (now * (1.0 - now) * then).sqrt());
        for (at, x) in x.iter_mut().enumerate() {
            let mut mean: f64 =
                self.earlier.iter().zip(weights).map(|(earlier, weight)| f64::from(earlier[at]) * weight).sum();
            if self.pndm.calls == 1 {
                mean += 0.5 * f64::from(predicted[at]);
            }
            let value = f64::from(*x);
            if self.schedule.prediction == Prediction::Velocity {
                mean = now.sqrt() * mean + (1.0 - now).sqrt() * value;
            }
            *x = (scale * value - factor * mean) as f32;
        }
        self.pndm.calls += 1;
    }
}
