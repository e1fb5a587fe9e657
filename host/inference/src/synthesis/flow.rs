//! The flow (Rezende & Mohamed 2015) that turns samples of the text's distribution into what the decoder makes sound of: in
//! each of its steps one half of the channels is moved by what a network says of the other.

use super::config::Config;
use super::layers::{Compute, Convolution, each_row};
use crate::tensors::Tensors;

pub(super) struct Flow {
    size: usize,
    steps: Vec<Step>,
}

struct Step {
    before: Convolution,
    layers: Vec<WaveLayer>,
    /// From the vector of a voice to what is added in all layers.
    condition: Option<Convolution>,
    after: Convolution,
    width: usize,
}

/// A gated convolution (van den Oord et al. 2016).
struct WaveLayer {
    gated: Convolution,
    /// Its first half goes on to the next layer, its second to the result; that of the last layer has only the latter.
    out: Convolution,
}

impl Flow {
    pub(super) fn load(tensors: &mut Tensors, config: &Config) -> Result<Flow, String> {
        let step = |index: usize| Step::load(tensors, &format!("flow.flows.{index}"), config);
        Ok(Flow { size: config.flow_size, steps: (0..config.flows).map(step).collect::<Result<_, _>>()? })
    }

    /// Undoes the steps, in rows of `x`, one a frame. `go_on` is asked before each.
    pub(super) fn undo<E>(
        &self,
        compute: &Compute,
        x: &mut [f32],
        voice: &[f32],
        go_on: impl Fn() -> Result<(), E>,
    ) -> Result<(), E> {
        let half = self.size / 2;
        for step in self.steps.iter().rev() {
            go_on()?;
            x.chunks_exact_mut(self.size).for_each(<[f32]>::reverse);
            let first: Vec<f32> = x.chunks_exact(self.size).flat_map(|row| &row[..half]).copied().collect();
            let moved = step.forward(compute, &first, voice);
            for (row, moved) in x.chunks_exact_mut(self.size).zip(moved.chunks_exact(half)) {
                row[half..].iter_mut().zip(moved).for_each(|(value, moved)| *value -= moved);
            }
        }
        Ok(())
    }
}

impl Step {
    fn load(tensors: &mut Tensors, name: &str, config: &Config) -> Result<Step, String> {
        let (width, half, shape) = (config.text.width, config.flow_size / 2, &config.wave_net);
        let net = format!("{name}.wavenet");
        let layer = |tensors: &mut Tensors, index: usize| {
            let dilation = shape.dilation_rate.pow(index as u32);
            let (gated, out) = (format!("{net}.in_layers.{index}"), format!("{net}.res_skip_layers.{index}"));
            let outputs = if index + 1 < shape.layers { 2 * width } else { width };
            Ok::<_, String>(WaveLayer {
                gated: Convolution::load(tensors, &gated, [2 * width, width, shape.kernel], dilation, true)?,
                out: Convolution::pointwise(tensors, &out, outputs, width)?,
            })
        };
        let layers = (0..shape.layers).map(|index| layer(tensors, index)).collect::<Result<_, _>>()?;
        let condition = config.voices.as_ref().map(|voices| {
            Convolution::pointwise(tensors, &format!("{net}.cond_layer"), 2 * width * shape.layers, voices.width)
        });
        Ok(Step {
            before: Convolution::pointwise(tensors, &format!("{name}.conv_pre"), width, half)?,
            after: Convolution::pointwise(tensors, &format!("{name}.conv_post"), half, width)?,
            condition: condition.transpose()?,
            layers,
            width,
        })
    }

    fn forward(&self, compute: &Compute, first: &[f32], voice: &[f32]) -> Vec<f32> {
        let width = self.width;
        let mut x = self.before.forward(compute, first);
        let mut result = vec![0.0; x.len()];
        let condition = self.condition.as_ref().map(|condition| condition.forward(compute, voice));
        let (mut sorted, mut wide, mut gated) = (Vec::new(), Vec::new(), vec![0.0; x.len()]);
        for (index, layer) in self.layers.iter().enumerate() {
            layer.gated.forward_with(compute, &x, 1.0, &mut sorted, &mut wide);
            let condition = condition.as_ref().map_or(&[][..], |all| &all[index * 2 * width..][..2 * width]);
            each_row(compute, &mut gated, width, |first, rows| {
                for (index, row) in rows.chunks_exact_mut(width).enumerate() {
                    gate(&wide[(first + index) * 2 * width..][..2 * width], condition, row);
                }
            });
            let out = layer.out.forward(compute, &gated);
            if layer.out.outputs() == width {
                result.iter_mut().zip(out).for_each(|(result, out)| *result += out);
                continue;
            }
            for ((x, result), out) in
                x.chunks_exact_mut(width).zip(result.chunks_exact_mut(width)).zip(out.chunks_exact(2 * width))
            {
                x.iter_mut().zip(&out[..width]).for_each(|(x, out)| *x += out);
                result.iter_mut().zip(&out[width..]).for_each(|(result, out)| *result += out);
            }
        }
        self.after.forward(compute, &result)
    }
}

/// `out = tanh(first half) · sigmoid(second half)` of `wide + condition`; an empty condition is zero.
fn gate(wide: &[f32], condition: &[f32], out: &mut [f32]) {
    let width = out.len();
    for (index, out) in out.iter_mut().enumerate() {
        let [filter, gate] = [index, width + index].map(|at| wide[at] + condition.get(at).unwrap_or(&0.0));
        *out = filter.tanh() / (1.0 + (-gate).exp());
    }
}
