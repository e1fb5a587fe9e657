//! The two modules that everything is made of: products with bias, and layer norms.

use host_kernels::encoder;
use host_kernels::isa::Isa;
use host_kernels::linear::{Packed, Rows, linear};

use super::description::Part;
use crate::tensors::Tensors;

/// `x W + b`.
pub(super) struct Linear {
    pub(super) weight: Packed,
    /// Empty where there is none.
    pub(super) bias: Vec<f32>,
}

/// Weight and bias in the order of the file: a row for each output.
pub(super) struct Raw {
    pub(super) weight: Vec<f32>,
    pub(super) bias: Vec<f32>,
}

impl Raw {
    pub(super) fn read(
        tensors: &mut Tensors,
        name: &str,
        bias: bool,
        outputs: usize,
        inputs: usize,
    ) -> Result<Raw, String> {
        let weight = tensors.read(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias = if bias { tensors.read(&format!("{name}.bias"), &[outputs])? } else { Vec::new() };
        Ok(Raw { weight, bias })
    }

    /// These outputs, then those of `other`, which has a bias if this has one.
    pub(super) fn then(mut self, mut other: Raw) -> Raw {
        self.weight.append(&mut other.weight);
        self.bias.append(&mut other.bias);
        self
    }

    pub(super) fn pack(&self, inputs: usize) -> Linear {
        let outputs = self.weight.len() / inputs;
        Linear { weight: Packed::from_rows(&self.weight, outputs, inputs), bias: self.bias.clone() }
    }
}

impl Linear {
    pub(super) fn load(
        tensors: &mut Tensors,
        name: &str,
        bias: bool,
        outputs: usize,
        inputs: usize,
    ) -> Result<Linear, String> {
        Ok(Raw::read(tensors, name, bias, outputs, inputs)?.pack(inputs))
    }

    /// The product of every row of `x`.
    pub(super) fn apply(&self, x: &[f32], y: &mut Vec<f32>) {
        let rows = Rows::dense(x, self.weight.inputs());
        resize(y, rows.count * self.weight.outputs());
        linear(Isa::best(), rows, &self.weight, &self.bias, y, self.weight.outputs());
    }
}

/// A layer norm.
pub(super) struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    epsilon: f32,
}

impl Norm {
    pub(super) fn load(
        tensors: &mut Tensors,
        name: &str,
        part: Part,
        width: usize,
        epsilon: f32,
    ) -> Result<Norm, String> {
        let weight = tensors.read(&format!("{name}.weight"), &[width])?;
        let bias = if part.bias { tensors.read(&format!("{name}.bias"), &[width])? } else { vec![0.0; width] };
        Ok(Norm { weight, bias, epsilon })
    }

    /// `rows = norm(rows + other)`; an empty `other` adds nothing.
    pub(super) fn apply(&self, rows: &mut [f32], other: &[f32]) {
        encoder::add_and_normalize(Isa::best(), rows, other, &self.weight, &self.bias, self.epsilon);
    }
}

/// Every value is written before it is read, so what the memory held before does not matter.
pub(super) fn resize(values: &mut Vec<f32>, length: usize) {
    values.resize(length, 0.0);
}
