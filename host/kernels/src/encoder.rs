//! What stands between the products of an encoder: sums, normalization, softmax and the activations, all in place.
//!
//! Bodies are plain Rust in shapes that compilers vectorize: sums run in [`LANES`] independent lanes because floating
//! addition may not be reordered, and exponentials are polynomials because a library call is scalar.

use crate::elementwise::{exp, madd};
use crate::isa::per_isa;

const LANES: usize = 16;

/// The nonlinearity between the two feed-forward products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * Phi(x)` with the normal distribution's Phi.
    Gelu,
    /// The same with Phi approximated by tanh.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `x * sigmoid(x)`.
    Silu,
}

per_isa! {
    /// `row = LayerNorm(row + other_row)` (Ba et al. 2016) for each row of `weight.len()` values; an empty `other` adds
    /// nothing.
    pub fn add_and_normalize(isa, rows: &mut [f32], other: &[f32], weight: &[f32], bias: &[f32], epsilon: f32) = add_and_normalize_body
}
per_isa! {
    /// `row = softmax(row)` for each row of `width` values.
    pub fn softmax(isa, rows: &mut [f32], width: usize) = softmax_body
}
per_isa! {
    /// The activation of every value.
    pub fn activate(isa, values: &mut [f32], activation: Activation) = activate_body
}
per_isa! {
    /// The gate of a gated linear unit (Shazeer 2020): each row of `rows` holds `width` gates, then as many values;
    /// `out = activation(gate) * value`. The gates are overwritten.
    pub fn gate(isa, rows: &mut [f32], width: usize, activation: Activation, out: &mut [f32]) = gate_body
}

#[inline(always)]
fn add_and_normalize_body<const FMA: bool>(
    rows: &mut [f32],
    other: &[f32],
    weight: &[f32],
    bias: &[f32],
    epsilon: f32,
) {
    let width = weight.len();
    for (index, row) in rows.chunks_exact_mut(width).enumerate() {
        if !other.is_empty() {
            for (value, more) in row.iter_mut().zip(&other[index * width..(index + 1) * width]) {
                *value += more;
            }
        }
        let mean = sum(row) / width as f32;
        for value in row.iter_mut() {
            *value -= mean;
        }
        let scale = 1.0 / (sum_of_squares::<FMA>(row) / width as f32 + epsilon).sqrt();
        for ((value, weight), bias) in row.iter_mut().zip(weight).zip(bias) {
            *value = madd::<FMA>(*value * scale, *weight, *bias);
        }
    }
}

#[inline(always)]
fn softmax_body<const FMA: bool>(rows: &mut [f32], width: usize) {
    for row in rows.chunks_exact_mut(width) {
        let most = greatest(row);
        for value in row.iter_mut() {
            *value = exp::<FMA>(*value - most);
        }
        let scale = 1.0 / sum(row);
        for value in row.iter_mut() {
            *value *= scale;
        }
    }
}

#[inline(always)]
fn activate_body<const FMA: bool>(values: &mut [f32], activation: Activation) {
    match activation {
        Activation::Gelu => {
            for value in values {
                let x = *value;
                *value = 0.5 * x * (1.0 + erf::<FMA>(x * std::f32::consts::FRAC_1_SQRT_2));
            }
        }
        Activation::GeluTanh => {
            for value in values {
                let x = *value;
                let inner = 0.797_884_6 * (x + 0.044_715 * x * x * x);
                // tanh(y) = 1 - 2 / (exp(2 y) + 1)
                *value = 0.5 * x * (2.0 - 2.0 / (exp::<FMA>(2.0 * inner) + 1.0));
            }
        }
        Activation::Relu => {
            for value in values {
                *value = value.max(0.0);
            }
        }
        Activation::Silu => {
            for value in values {
                let x = *value;
                *value = x / (1.0 + exp::<FMA>(-x));
            }
        }
    }
}

#[inline(always)]
fn gate_body<const FMA: bool>(rows: &mut [f32], width: usize, activation: Activation, out: &mut [f32]) {
    assert_eq!(rows.len(), 2 * out.len(), "a gate for each value");
    for (row, out) in rows.chunks_exact_mut(2 * width).zip(out.chunks_exact_mut(width)) {
        let (gates, values) = row.split_at_mut(width);
        activate_body::<FMA>(gates, activation);
        for ((out, gate), value) in out.iter_mut().zip(gates).zip(values) {
            *out = *gate * *value;
        }
    }
}

/// Folds lane by lane, then the lanes with each other.
#[inline(always)]
fn lanes(values: &[f32], start: f32, combine: impl Fn(f32, f32) -> f32, merge: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = combine(*lane, *value);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane = combine(*lane, *value);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for index in 0..width {
            lanes[index] = merge(lanes[index], lanes[index + width]);
        }
        width /= 2;
    }
    lanes[0]
}

#[inline(always)]
fn sum(values: &[f32]) -> f32 {
    lanes(values, 0.0, |sum, value| sum + value, |a, b| a + b)
}

#[inline(always)]
fn sum_of_squares<const FMA: bool>(values: &[f32]) -> f32 {
    lanes(values, 0.0, |sum, value| madd::<FMA>(value, value, sum), |a, b| a + b)
}

#[inline(always)]
fn greatest(values: &[f32]) -> f32 {
    let greater = |most, value| if value > most { value } else { most };
    lanes(values, f32::NEG_INFINITY, greater, greater)
}

/// The error function to 5e-7: Abramowitz and Stegun, 7.1.26.
#[inline(always)]
fn erf<const FMA: bool>(x: f32) -> f32 {
    let magnitude = x.abs();
    let t = 1.0 / madd::<FMA>(0.327_591_1, magnitude, 1.0);
    let mut p = 1.061_405_4;
    p = madd::<FMA>(p, t, -1.453_152);
    p = madd::<FMA>(p, t, 1.421_413_7);
    p = madd::<FMA>(p, t, -0.284_496_74);
    p = madd::<FMA>(p, t, 0.254_829_6);
    let erf = 1.0 - p * t * exp::<FMA>(-magnitude * magnitude);
    erf.copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;

    #[test]
    fn error_functions_are_those_of_the_tables() {
        // Abramowitz and Stegun, table 7.1.
        for (x, value) in [(0.0, 0.0), (0.1, 0.112_462_92), (0.5, 0.520_499_9), (1.0, 0.842_700_8), (2.0, 0.995_322_3)]
        {
            for erf in [erf::<true>, erf::<false>] {
                assert!((erf(x) - value).abs() < 5e-7 && (erf(-x) + value).abs() < 5e-7, "erf({x}) = {}", erf(x));
            }
        }
    }

    #[test]
    fn rows_are_normalized() {
        let width = 37;
        for isa in Isa::available() {
            let mut rows: Vec<f32> = (0..2 * width).map(|index| (index as f32 * 0.7).sin() + 3.0).collect();
            let other = vec![0.5; 2 * width];
            add_and_normalize(isa, &mut rows, &other, &vec![2.0; width], &vec![1.0; width], 1e-12);
            for row in rows.chunks(width) {
                let mean = row.iter().sum::<f32>() / width as f32;
                let variance = row.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / width as f32;
                assert!((mean - 1.0).abs() < 1e-5 && (variance - 4.0).abs() < 1e-4, "{isa:?}: {mean} {variance}");
            }
        }
    }

    #[test]
    fn softmax_sums_to_one_and_keeps_the_order() {
        for isa in Isa::available() {
            let mut rows = [1000.0, 1001.0, 999.0, -5.0, -5.0, -5.0];
            softmax(isa, &mut rows, 3);
            assert!((rows[..3].iter().sum::<f32>() - 1.0).abs() < 1e-6 && rows[1] > rows[0] && rows[0] > rows[2]);
            assert!(rows[3..].iter().all(|value| (value - 1.0 / 3.0).abs() < 1e-6));
        }
    }

    #[test]
    fn activations() {
        let close = |activation, x: f32, y: f32| {
            for isa in Isa::available() {
                let mut values = [x];
                activate(isa, &mut values, activation);
                assert!((values[0] - y).abs() < 2e-6, "{isa:?}: {activation:?}({x}) = {}", values[0]);
            }
        };
        close(Activation::Gelu, 1.0, 0.841_344_7);
        close(Activation::Gelu, -2.0, -0.045_500_264);
        close(Activation::GeluTanh, 1.0, 0.841_192);
        close(Activation::Relu, -2.0, 0.0);
        close(Activation::Relu, 2.0, 2.0);
        close(Activation::Silu, 1.0, 0.731_058_6);
        close(Activation::Silu, -3.0, -0.142_277_6);
        close(Activation::Silu, -100.0, 0.0);
    }

    #[test]
    fn gates_stand_before_their_values() {
        for isa in Isa::available() {
            let (mut rows, mut out) = ([1.0, -1.0, 2.0, 3.0, 5.0, 0.0, 7.0, 9.0], [0.0; 4]);
            gate(isa, &mut rows, 2, Activation::Relu, &mut out);
            assert_eq!(out, [2.0, 0.0, 35.0, 0.0]);
        }
    }
}
