//! How many frames each token lasts: logarithms, from the states of the encoder.

use host_kernels::encoder::Activation;

use super::config::{Config, Durations};
use super::layers::{Compute, Convolution, Depthwise, Norm, activated, add_to_rows, read};
use super::spline::Spline;
use crate::tensors::Tensors;

/// The reference's, where no configuration says another.
const EPSILON: f32 = 1e-5;

pub(super) struct DurationPredictor {
    /// From the vector of a voice.
    condition: Option<Convolution>,
    width: usize,
    kind: Kind,
}

enum Kind {
    Stochastic(Box<Stochastic>),
    Deterministic { convolutions: Vec<(Convolution, Norm)>, project: Convolution },
}

struct Stochastic {
    before: Convolution,
    separable: Separable,
    project: Convolution,
    /// The last of them first, as they are undone.
    flows: Vec<ConvFlow>,
    /// Of each of the two channels: what is taken off, and the logarithm of what it is divided by.
    shift: Vec<f32>,
    log_scale: Vec<f32>,
}

/// Convolutions of single channels and of single rows in turns, growing more and more dilated.
struct Separable {
    layers: Vec<(Depthwise, Norm, Convolution, Norm)>,
    width: usize,
}

/// One channel of two is bent by a spline that the other chooses (Durkan et al. 2019).
struct ConvFlow {
    before: Convolution,
    separable: Separable,
    project: Convolution,
    spline: Spline,
}

impl DurationPredictor {
    pub(super) fn load(tensors: &mut Tensors, config: &Config) -> Result<DurationPredictor, String> {
        let (width, name) = (config.text.width, "duration_predictor");
        let condition = config
            .voices
            .as_ref()
            .map(|voices| Convolution::pointwise(tensors, &format!("{name}.cond"), width, voices.width));
        let condition = condition.transpose()?;
        let kind = match config.durations {
            Durations::Deterministic { kernel, filters } => {
                let part = |tensors: &mut Tensors, number: usize, inputs: usize| {
                    let convolution = format!("{name}.conv_{number}");
                    let convolution = Convolution::load(tensors, &convolution, [filters, inputs, kernel], 1, true)?;
                    let norm = format!("{name}.norm_{number}");
                    Ok::<_, String>((convolution, Norm::load(tensors, &norm, filters, config.text.epsilon)?))
                };
                let convolutions = vec![part(tensors, 1, width)?, part(tensors, 2, filters)?];
                let project = Convolution::pointwise(tensors, &format!("{name}.proj"), 1, filters)?;
                Kind::Deterministic { convolutions, project }
            }
            Durations::Stochastic { flows, .. } => {
                let pointwise = |tensors: &mut Tensors, part: &str| {
                    Convolution::pointwise(tensors, &format!("{name}.{part}"), width, width)
                };
                let before = pointwise(tensors, "conv_pre")?;
                let project = pointwise(tensors, "conv_proj")?;
                let separable = Separable::load(tensors, &format!("{name}.conv_dds"), config)?;
                // The first of them is left out when they are undone, as in the reference.
                let flows = (2..=flows).rev();
                let flows = flows.map(|flow| ConvFlow::load(tensors, &format!("{name}.flows.{flow}"), config));
                let flows = flows.collect::<Result<_, _>>()?;
                let shift = read(tensors, &format!("{name}.flows.0.translate"), &[2, 1])?;
                let log_scale = read(tensors, &format!("{name}.flows.0.log_scale"), &[2, 1])?;
                Kind::Stochastic(Box::new(Stochastic { before, separable, project, flows, shift, log_scale }))
            }
        };
        Ok(DurationPredictor { condition, width, kind })
    }

    /// How many values of noise a token takes.
    pub(super) fn noise(&self) -> usize {
        if matches!(self.kind, Kind::Stochastic(_)) { 2 } else { 0 }
    }

    /// The logarithms of the frames of each token. `noise` holds one value for each token, then another for each.
    pub(super) fn forward(&self, compute: &Compute, states: &[f32], voice: &[f32], noise: &[f32]) -> Vec<f32> {
        let condition = self.condition.as_ref().map(|condition| condition.forward(compute, voice));
        match &self.kind {
            Kind::Deterministic { convolutions, project } => {
                let mut x = states.to_vec();
                if let Some(condition) = &condition {
                    add_to_rows(compute, &mut x, condition);
                }
                for (convolution, norm) in convolutions {
                    x = convolution.forward(compute, &x);
                    activated(compute, &mut x, convolution.outputs(), Activation::Relu);
                    norm.apply(compute, &mut x, &[]);
                }
                project.forward(compute, &x)
            }
            Kind::Stochastic(stochastic) => {
                let mut x = stochastic.before.forward(compute, states);
                if let Some(condition) = &condition {
                    add_to_rows(compute, &mut x, condition);
                }
                stochastic.separable.forward(compute, &mut x);
                let x = stochastic.project.forward(compute, &x);
                stochastic.undo(compute, &x, noise, states.len() / self.width)
            }
        }
    }
}

impl Stochastic {
    /// From noise to logarithms of durations.
    fn undo(&self, compute: &Compute, condition: &[f32], noise: &[f32], count: usize) -> Vec<f32> {
        let (mut first, mut second) = (noise[..count].to_vec(), noise[count..2 * count].to_vec());
        for flow in &self.flows {
            std::mem::swap(&mut first, &mut second);
            flow.undo(compute, condition, &first, &mut second);
        }
        // They change places once more, and only one of them is of use then.
        let scale = (-self.log_scale[0]).exp();
        second.iter().map(|value| (value - self.shift[0]) * scale).collect()
    }
}

impl ConvFlow {
    fn load(tensors: &mut Tensors, name: &str, config: &Config) -> Result<ConvFlow, String> {
        let Durations::Stochastic { bins, bound, .. } = config.durations else {
            return Err("a flow of durations without its shape".to_owned());
        };
        let width = config.text.width;
        Ok(ConvFlow {
            before: Convolution::pointwise(tensors, &format!("{name}.conv_pre"), width, 1)?,
            separable: Separable::load(tensors, &format!("{name}.conv_dds"), config)?,
            project: Convolution::pointwise(tensors, &format!("{name}.conv_proj"), 3 * bins - 1, width)?,
            spline: Spline { bins, bound, scale: (width as f32).sqrt().recip() },
        })
    }

    fn undo(&self, compute: &Compute, condition: &[f32], first: &[f32], second: &mut [f32]) {
        let mut x = self.before.forward(compute, first);
        x.iter_mut().zip(condition).for_each(|(x, condition)| *x += condition);
        self.separable.forward(compute, &mut x);
        let chosen = self.project.forward(compute, &x);
        for (value, chosen) in second.iter_mut().zip(chosen.chunks_exact(self.project.outputs())) {
            *value = self.spline.inverse(*value, chosen);
        }
    }
}

impl Separable {
    fn load(tensors: &mut Tensors, name: &str, config: &Config) -> Result<Separable, String> {
        let (width, Durations::Stochastic { kernel, layers, .. }) = (config.text.width, &config.durations) else {
            return Err("a flow of durations without its shape".to_owned());
        };
        let layer = |index: usize| {
            let dilation = kernel.pow(index as u32);
            let depthwise = format!("{name}.convs_dilated.{index}");
            Ok::<_, String>((
                Depthwise::load(tensors, &depthwise, [width, *kernel], dilation)?,
                Norm::load(tensors, &format!("{name}.norms_1.{index}"), width, EPSILON)?,
                Convolution::pointwise(tensors, &format!("{name}.convs_pointwise.{index}"), width, width)?,
                Norm::load(tensors, &format!("{name}.norms_2.{index}"), width, EPSILON)?,
            ))
        };
        Ok(Separable { layers: (0..*layers).map(layer).collect::<Result<_, _>>()?, width })
    }

    fn forward(&self, compute: &Compute, x: &mut [f32]) {
        for (depthwise, first, pointwise, second) in &self.layers {
            let mut y = depthwise.forward(compute, x);
            first.apply(compute, &mut y, &[]);
            activated(compute, &mut y, self.width, Activation::Gelu);
            let mut y = pointwise.forward(compute, &y);
            second.apply(compute, &mut y, &[]);
            activated(compute, &mut y, self.width, Activation::Gelu);
            x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
        }
    }
}
