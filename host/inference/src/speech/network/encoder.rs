//! The encoder: two convolutions and a stack of blocks with attention in both directions.

use host_kernels::elementwise::{add, scale};
use host_kernels::encoder::{Activation, activate, add_and_normalize};
use host_kernels::fixed::FixedHeads;

use super::Precision;
use super::matrix::{Linear, Machine, read_finite};
use crate::speech::config::{Config, Stack};
use crate::tensors::Tensors;

/// The reference's; no checkpoint says another.
pub(super) const EPSILON: f32 = 1e-5;
/// Frames that a convolution looks at.
const KERNEL: usize = 3;

pub(super) struct Encoder {
    stack: Stack,
    width: usize,
    mels: usize,
    convolutions: [Linear; 2],
    positions: Vec<f32>,
    layers: Vec<Layer>,
    norm: Norm,
    scratch: Scratch,
}

struct Layer {
    attention_norm: Norm,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    feed: Feed,
}

/// The two products of a block's end.
pub(super) struct Feed {
    norm: Norm,
    up: Linear,
    down: Linear,
}

/// A layer normalization.
pub(super) struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

/// Buffers that one window leaves to the next.
#[derive(Default)]
struct Scratch {
    normed: Vec<f32>,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    wide: Vec<f32>,
    heads: FixedHeads,
}

impl Norm {
    pub(super) fn load(tensors: &mut Tensors, name: &str, width: usize) -> Result<Norm, String> {
        Ok(Norm {
            weight: read_finite(tensors, &format!("{name}.weight"), &[width])?,
            bias: read_finite(tensors, &format!("{name}.bias"), &[width])?,
        })
    }

    /// Puts the normalized rows of `x` into `out`.
    pub(super) fn apply(&self, machine: &Machine, x: &[f32], out: &mut Vec<f32>) {
        let width = self.weight.len();
        out.resize(x.len(), 0.0);
        machine.pool.for_each_row(out, width, 16, |first, rows| {
            rows.copy_from_slice(&x[first * width..][..rows.len()]);
            add_and_normalize(machine.isa, rows, &[], &self.weight, &self.bias, EPSILON);
        });
    }
}

impl Feed {
    pub(super) fn load(
        tensors: &mut Tensors,
        name: &str,
        width: usize,
        intermediate: usize,
        precision: Precision,
    ) -> Result<Feed, String> {
        Ok(Feed {
            norm: Norm::load(tensors, &format!("{name}.final_layer_norm"), width)?,
            up: Linear::load(tensors, &format!("{name}.fc1"), [intermediate, width], true, precision)?,
            down: Linear::load(tensors, &format!("{name}.fc2"), [width, intermediate], true, precision)?,
        })
    }

    /// `x += down(gelu(up(norm(x))))`.
    pub(super) fn apply(&self, machine: &Machine, x: &mut [f32], normed: &mut Vec<f32>, wide: &mut Vec<f32>) {
        self.norm.apply(machine, x, normed);
        wide.resize(x.len() / self.down.outputs() * self.up.outputs(), 0.0);
        machine.products(normed, &mut [(&self.up, wide)]);
        machine.pool.for_each_row(wide, self.up.outputs(), 8, |_, rows| {
            self.up.add_bias(machine.isa, rows);
            activate(machine.isa, rows, Activation::Gelu);
        });
        machine.products(wide, &mut [(&self.down, normed)]);
        add_product(machine, x, normed, &self.down);
    }
}

/// `x += product + bias`.
pub(super) fn add_product(machine: &Machine, x: &mut [f32], product: &[f32], linear: &Linear) {
    let width = linear.outputs();
    machine.pool.for_each_row(x, width, 32, |first, rows| {
        add(machine.isa, rows, &product[first * width..][..rows.len()]);
        linear.add_bias(machine.isa, rows);
    });
}

impl Encoder {
    pub(super) fn load(tensors: &mut Tensors, config: &Config, precision: Precision) -> Result<Encoder, String> {
        let (width, stack) = (config.width, config.encoder.clone());
        let layer = |tensors: &mut Tensors, index: usize| {
            let name = format!("encoder.layers.{index}");
            let linear = |tensors: &mut Tensors, part: &str, bias: bool| {
                Linear::load(tensors, &format!("{name}.self_attn.{part}"), [width, width], bias, precision)
            };
            Ok::<_, String>(Layer {
                attention_norm: Norm::load(tensors, &format!("{name}.self_attn_layer_norm"), width)?,
                query: linear(tensors, "q_proj", true)?,
                key: linear(tensors, "k_proj", false)?,
                value: linear(tensors, "v_proj", true)?,
                out: linear(tensors, "out_proj", true)?,
                feed: Feed::load(tensors, &name, width, stack.intermediate, precision)?,
            })
        };
        let convolutions = [
            convolution(tensors, "encoder.conv1", [width, config.mels])?,
            convolution(tensors, "encoder.conv2", [width, width])?,
        ];
        Ok(Encoder {
            convolutions,
            positions: read_finite(tensors, "encoder.embed_positions.weight", &[stack.positions, width])?,
            layers: (0..stack.layers).map(|index| layer(tensors, index)).collect::<Result<_, _>>()?,
            norm: Norm::load(tensors, "encoder.layer_norm", width)?,
            scratch: Scratch::default(),
            mels: config.mels,
            stack,
            width,
        })
    }

    /// Lets go of the buffers that one window leaves to the next.
    pub(super) fn forget(&mut self) {
        self.scratch = Scratch::default();
    }

    /// The states of a spectrogram, one row for each position.
    pub(super) fn forward(&mut self, machine: &Machine, spectrogram: &[f32]) -> Vec<f32> {
        let Scratch { normed, query, key, value, wide, heads } = &mut self.scratch;
        let (width, head) = (self.width, self.width / self.stack.heads);
        let [first, second] = &self.convolutions;
        convolve(machine, spectrogram, self.mels, 1, first, wide, normed);
        let mut x = Vec::new();
        convolve(machine, normed, width, 2, second, wide, &mut x);
        machine.pool.for_each_row(&mut x, width, 64, |first, rows| {
            add(machine.isa, rows, &self.positions[first * width..][..rows.len()]);
        });
        for layer in &self.layers {
            layer.attention_norm.apply(machine, &x, normed);
            for buffer in [&mut *query, &mut *key, &mut *value] {
                buffer.resize(x.len(), 0.0);
            }
            machine.products(normed, &mut [(&layer.query, query), (&layer.key, key), (&layer.value, value)]);
            machine.pool.for_each_row(query, width, 32, |_, rows| {
                layer.query.add_bias(machine.isa, rows);
                scale(machine.isa, rows, (head as f32).powf(-0.5));
            });
            machine.pool.for_each_row(value, width, 32, |_, rows| layer.value.add_bias(machine.isa, rows));
            heads.pack(&machine.pool, key, value, self.stack.heads, head);
            heads.attend(machine.isa, &machine.pool, query, normed);
            machine.products(normed, &mut [(&layer.out, key)]);
            add_product(machine, &mut x, key, &layer.out);
            layer.feed.apply(machine, &mut x, normed, wide);
        }
        self.norm.apply(machine, &x, normed);
        normed.clone()
    }
}

/// The weight `[outputs, inputs, 3]` with its columns in the order in which frames lie in memory. Always of floats: what
/// is lost here is lost to every layer.
fn convolution(tensors: &mut Tensors, name: &str, [outputs, inputs]: [usize; 2]) -> Result<Linear, String> {
    let values = read_finite(tensors, &format!("{name}.weight"), &[outputs, inputs, KERNEL])?;
    let bias = read_finite(tensors, &format!("{name}.bias"), &[outputs])?;
    let mut turned = Vec::with_capacity(values.len());
    for row in values.chunks_exact(inputs * KERNEL) {
        for tap in 0..KERNEL {
            turned.extend((0..inputs).map(|input| row[input * KERNEL + tap]));
        }
    }
    Linear::new(&turned, [outputs, inputs * KERNEL], bias, Precision::Float)
}

/// The convolution of every `stride`th frame of `x` with its neighbours, zeros beyond the ends, and its activation.
fn convolve(
    machine: &Machine,
    x: &[f32],
    inputs: usize,
    stride: usize,
    linear: &Linear,
    gathered: &mut Vec<f32>,
    out: &mut Vec<f32>,
) {
    let count = x.len() / inputs;
    let rows = count.div_ceil(stride);
    gathered.resize(rows * inputs * KERNEL, 0.0);
    machine.pool.for_each_row(gathered, inputs * KERNEL, 32, |first, rows| {
        for (index, row) in rows.chunks_exact_mut(inputs * KERNEL).enumerate() {
            for (tap, values) in row.chunks_exact_mut(inputs).enumerate() {
                let frame = ((first + index) * stride + tap).checked_sub(1).filter(|frame| *frame < count);
                match frame {
                    Some(frame) => values.copy_from_slice(&x[frame * inputs..][..inputs]),
                    None => values.fill(0.0),
                }
            }
        }
    });
    out.resize(rows * linear.outputs(), 0.0);
    machine.products(gathered, &mut [(linear, out)]);
    machine.pool.for_each_row(out, linear.outputs(), 8, |_, rows| {
        linear.add_bias(machine.isa, rows);
        activate(machine.isa, rows, Activation::Gelu);
    });
}
