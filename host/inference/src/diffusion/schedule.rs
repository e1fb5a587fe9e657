//! The way from noise to a picture, step by step: the samplers of `scheduler_config.json`.
//!
//! All of them know how much of the training picture is left at each of some thousand times (`kept`, the cumulated
//! product of the alphas of Ho et al. 2020), choose a few of these times and say how to go from one to the next with
//! what the network predicts. Formulas are those of the papers that are named at each, the choice of times and the
//! conventions at both ends are diffusers', because published configurations mean them.

mod multistep;
mod single;
mod times;

use super::config::Config;
use multistep::{Pndm, Solver};

/// The most times of training that a configuration may have.
const TRAINING: usize = 100_000;

/// A sampler as configured.
#[derive(Debug, Clone)]
pub struct Schedule {
    kind: Kind,
    /// How much of the squared picture is left at each time of training.
    kept: Vec<f64>,
    prediction: Prediction,
    spacing: Spacing,
    offset: usize,
    /// Of the time before the first.
    kept_at_end: f64,
    karras: bool,
    end_at_zero: bool,
    clip: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Ddim,
    Pndm,
    Euler,
    Ancestral,
    Multistep(Solver),
    Lcm { original: usize, scaling: f64 },
}

/// What the network predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Prediction {
    Noise,
    Velocity,
    Picture,
}

/// Which times are chosen (Lin et al. 2023, table 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spacing {
    Leading,
    Trailing,
    Linspace,
}

/// The samplers that are known, by diffusers' names.
pub(super) const KNOWN: &str = "DDIMScheduler, PNDMScheduler, EulerDiscreteScheduler, EulerAncestralDiscreteScheduler, \
                                DPMSolverMultistepScheduler, LCMScheduler";

impl Schedule {
    /// Reads `scheduler_config.json`.
    pub(super) fn read(config: &Config) -> Result<Schedule, String> {
        let class = config.text("_class_name").unwrap_or_default();
        let kind = match class {
            "DDIMScheduler" => Kind::Ddim,
            "PNDMScheduler" if config.flag("skip_prk_steps", false)? => Kind::Pndm,
            "PNDMScheduler" => return Err(config.fault("skip_prk_steps is false; only true is known here")),
            "EulerDiscreteScheduler" => Kind::Euler,
            "EulerAncestralDiscreteScheduler" => Kind::Ancestral,
            "DPMSolverMultistepScheduler" => Kind::Multistep(Solver::read(config)?),
            "LCMScheduler" => Kind::Lcm {
                original: config.size("original_inference_steps", Some(50), TRAINING)?,
                scaling: config.number("timestep_scaling", Some(10.0))?,
            },
            other => {
                return Err(config.fault(format_args!("the scheduler {other:.60?} is not known; known are {KNOWN}")));
            }
        };
        refuse_unknown(config)?;
        let kept = kept(config, kind)?;
        let clips = config.flag("clip_sample", kind == Kind::Ddim)? && matches!(kind, Kind::Ddim | Kind::Lcm { .. });
        let range = config.number("clip_sample_range", Some(1.0))?;
        let spacing = match config.text("timestep_spacing") {
            Some("leading") => Spacing::Leading,
            Some("trailing") => Spacing::Trailing,
            Some("linspace") => Spacing::Linspace,
            None if matches!(kind, Kind::Euler | Kind::Ancestral | Kind::Multistep(_)) => Spacing::Linspace,
            None => Spacing::Leading,
            Some(other) => return Err(config.fault(format_args!("timestep_spacing is {other:.40?}"))),
        };
        let to_one = config.flag("set_alpha_to_one", kind != Kind::Pndm)?;
        Ok(Schedule {
            prediction: match config.text("prediction_type") {
                None | Some("epsilon") => Prediction::Noise,
                Some("v_prediction") => Prediction::Velocity,
                Some("sample") => Prediction::Picture,
                Some(other) => return Err(config.fault(format_args!("prediction_type is {other:.40?}"))),
            },
            spacing,
            offset: config.get("steps_offset").and_then(serde_json::Value::as_u64).unwrap_or(0).min(TRAINING as u64)
                as usize,
            kept_at_end: if to_one { 1.0 } else { kept[0] },
            karras: config.flag("use_karras_sigmas", false)?,
            end_at_zero: config.text("final_sigmas_type").is_none_or(|kind| kind == "zero"),
            clip: clips.then_some(range),
            kind,
            kept,
        })
    }

    /// The most steps that make sense.
    pub fn most(&self) -> usize {
        match self.kind {
            Kind::Lcm { original, .. } => original.min(self.kept.len()),
            _ => self.kept.len() - 1,
        }
    }

    /// A way of `count` steps, from 1 to [`Schedule::most`].
    pub fn steps(&self, count: usize) -> Steps<'_> {
        times::choose(self, count.clamp(1, self.most()))
    }
}

/// One way from noise to a picture.
pub struct Steps<'a> {
    schedule: &'a Schedule,
    count: usize,
    /// The time of each step.
    times: Vec<f64>,
    /// The noise at each step for a picture of one, and after the last; for samplers that count so.
    sigmas: Vec<f64>,
    at: usize,
    /// Earlier predictions, the last one last.
    earlier: Vec<Vec<f32>>,
    pndm: Pndm,
}

impl Steps<'_> {
    /// How often the network is asked: one more than was wanted for `PNDMScheduler`.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// The time that the network is told in the step `at`.
    pub fn time(&self, at: usize) -> f64 {
        self.times[at]
    }

    /// Begins at a later step: what a picture to start from is for.
    pub fn begin_at(&mut self, at: usize) {
        self.at = at.min(self.times.len() - 1);
    }

    /// How strong the noise is that a picture begins as.
    pub fn initial(&self) -> f64 {
        if !self.counts_sigmas() {
            return 1.0;
        }
        let most = self.sigmas.iter().copied().fold(0.0, f64::max);
        match self.schedule.spacing {
            Spacing::Leading => (most * most + 1.0).sqrt(),
            Spacing::Linspace | Spacing::Trailing => most,
        }
    }

    /// What the current step's input is multiplied with before the network sees it.
    pub fn input_scale(&self) -> f64 {
        if self.counts_sigmas() { 1.0 / (self.sigmas[self.at].powi(2) + 1.0).sqrt() } else { 1.0 }
    }

    /// How much of a picture and how much noise there is at the step `at`; all of the picture after the last.
    pub fn mixture(&self, at: usize) -> (f64, f64) {
        if at >= self.times.len() {
            return (1.0, 0.0);
        }
        match self.schedule.kind {
            Kind::Euler | Kind::Ancestral => (1.0, self.sigmas[at]),
            Kind::Multistep(_) => multistep::split(self.sigmas[at]),
            _ => {
                let kept = self.schedule.kept_at(self.times[at]);
                (kept.sqrt(), (1.0 - kept).sqrt())
            }
        }
    }

    fn counts_sigmas(&self) -> bool {
        matches!(self.schedule.kind, Kind::Euler | Kind::Ancestral)
    }

    /// Goes one step with what the network predicted. `noise` is asked for as many values of a normal distribution as
    /// `x` has, by samplers that add any.
    pub fn step(&mut self, predicted: &[f32], x: &mut Vec<f32>, noise: &mut dyn FnMut(usize) -> Vec<f32>) {
        match self.schedule.kind {
            Kind::Ddim => self.ddim(predicted, x),
            Kind::Euler => self.euler(predicted, x, None),
            Kind::Ancestral => self.euler(predicted, x, Some(noise)),
            Kind::Lcm { scaling, .. } => self.lcm(predicted, x, scaling, noise),
            Kind::Multistep(solver) => self.multistep(solver, predicted, x, noise),
            Kind::Pndm => self.pndm(predicted, x),
        }
        self.at += 1;
    }
}

/// How much of the squared picture is left at each time.
fn kept(config: &Config, kind: Kind) -> Result<Vec<f64>, String> {
    let count = config.size("num_train_timesteps", Some(1000), TRAINING)?;
    if count < 2 {
        return Err(config.fault("num_train_timesteps is 1"));
    }
    // What the configuration leaves out is its class's default in diffusers.
    let (start, end, shape) =
        if matches!(kind, Kind::Lcm { .. }) { (0.00085, 0.012, "scaled_linear") } else { (1e-4, 0.02, "linear") };
    let (start, end) = (config.number("beta_start", Some(start))?, config.number("beta_end", Some(end))?);
    if !(0.0..1.0).contains(&start) || !(0.0..1.0).contains(&end) {
        return Err(config.fault(format_args!("beta_start {start} or beta_end {end} is not from 0 to below 1")));
    }
    let between = |start: f64, end: f64, at: usize| start + (end - start) * at as f64 / (count - 1) as f64;
    let cosine = |at: usize| ((at as f64 / count as f64 + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
    let beta: Box<dyn Fn(usize) -> f64> = match config.text("beta_schedule").unwrap_or(shape) {
        "linear" => Box::new(|at| between(start, end, at)),
        "scaled_linear" => Box::new(|at| between(start.sqrt(), end.sqrt(), at).powi(2)),
        "squaredcos_cap_v2" => Box::new(|at| (1.0 - cosine(at + 1) / cosine(at)).min(0.999)),
        other => return Err(config.fault(format_args!("beta_schedule is {other:.40?}"))),
    };
    let mut left = 1.0;
    let mut kept: Vec<f64> = (0..count)
        .map(|at| {
            left *= 1.0 - beta(at);
            left
        })
        .collect();
    if config.flag("rescale_betas_zero_snr", false)? {
        // Lin et al. 2023, algorithm 1.
        let (first, last) = (kept[0].sqrt(), kept[count - 1].sqrt());
        for value in &mut kept {
            *value = ((value.sqrt() - last) * first / (first - last)).powi(2);
        }
        // Samplers that divide by it stop just short of zero.
        kept[count - 1] = if matches!(kind, Kind::Ddim | Kind::Lcm { .. }) { 0.0 } else { 2_f64.powi(-24) };
    }
    Ok(kept)
}

/// Settings that would change the result and are not computed here.
fn refuse_unknown(config: &Config) -> Result<(), String> {
    use serde_json::json;
    for key in ["thresholding", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "use_flow_sigmas"] {
        config.only(key, &[json!(false)])?;
    }
    config.only("trained_betas", &[])?;
    config.only("interpolation_type", &[json!("linear")])?;
    config.only("timestep_type", &[json!("discrete")])?;
    config.only("variance_type", &[])?;
    config.only("lambda_min_clipped", &[])
}

impl Schedule {
    /// At a time, which may be one before the first.
    fn kept_at(&self, time: f64) -> f64 {
        if time < 0.0 { self.kept_at_end } else { self.kept[(time as usize).min(self.kept.len() - 1)] }
    }

    /// Picture and noise in `x`, if `predicted` is right, where picture and noise are mixed as `(signal, noise)`.
    fn parts(&self, predicted: f64, x: f64, (signal, noise): (f64, f64)) -> (f64, f64) {
        let (picture, rest) = match self.prediction {
            Prediction::Noise => ((x - noise * predicted) / signal, predicted),
            Prediction::Velocity => (signal * x - noise * predicted, signal * predicted + noise * x),
            Prediction::Picture => (predicted, (x - signal * predicted) / noise),
        };
        (self.clip.map_or(picture, |range| picture.clamp(-range, range)), rest)
    }
}

#[cfg(test)]
mod tests;
