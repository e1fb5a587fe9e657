//! Row-wise work on several threads: activations and whatever else treats rows alike.

use crate::elementwise::exp;
use crate::encoder;
use crate::isa::{Isa, per_isa};
use crate::threads::{Scatter, ThreadPool};

/// The least and the most rows that one thread takes at once.
const ROWS: (usize, usize) = (12, 96);

/// The nonlinearity of a feed-forward block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * Phi(x)` with the normal distribution's Phi.
    Gelu,
    /// The same with Phi approximated by tanh.
    GeluTanh,
    /// `x * sigmoid(1.702 x)`: another approximation, which CLIP was trained with.
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
    /// `x * sigmoid(x)`.
    Silu,
}

#[inline(always)]
fn sigmoid_gate_body<const FMA: bool>(values: &mut [f32], slope: f32) {
    for value in values {
        *value /= 1.0 + exp::<FMA>(-slope * *value);
    }
}

per_isa! {
    /// `x * sigmoid(slope x)` of every value.
    fn sigmoid_gate(isa, values: &mut [f32], slope: f32) = sigmoid_gate_body
}

/// The activation of every value, in place.
pub fn activate(isa: Isa, values: &mut [f32], activation: Activation) {
    match activation {
        Activation::Gelu => encoder::activate(isa, values, encoder::Activation::Gelu),
        Activation::GeluTanh => encoder::activate(isa, values, encoder::Activation::GeluTanh),
        Activation::Relu => encoder::activate(isa, values, encoder::Activation::Relu),
        Activation::QuickGelu => sigmoid_gate(isa, values, 1.702),
        Activation::Silu => sigmoid_gate(isa, values, 1.0),
    }
}

/// Lets threads work on blocks of the rows of `data`, each `width` values; `work` also gets the number of a block's
/// first row.
///
/// # Panics
/// When `data` is not whole rows.
pub fn each_row_block(pool: &ThreadPool, data: &mut [f32], width: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    assert!(width > 0 && data.len().is_multiple_of(width), "{} values in rows of {width}", data.len());
    let rows = data.len() / width;
    let chunk = rows.div_ceil(pool.threads() * 4).clamp(ROWS.0, ROWS.1);
    let out = Scatter::new(data);
    pool.for_each_chunk(
        rows,
        chunk,
        || (),
        |(), range| {
            // One thread alone gets everything at once.
            for start in range.clone().step_by(ROWS.1) {
                let end = (start + ROWS.1).min(range.end);
                // SAFETY: blocks of rows do not overlap.
                work(start, unsafe { out.slice(start * width..end * width) });
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activations_are_their_formulas() {
        for isa in Isa::available() {
            for x in [-20.0_f32, -1.5, 0.0, 0.4, 30.0] {
                for (activation, slope) in [(Activation::QuickGelu, 1.702), (Activation::Silu, 1.0)] {
                    let mut values = [x];
                    activate(isa, &mut values, activation);
                    let expected = f64::from(x) / (1.0 + (-slope * f64::from(x)).exp());
                    assert!(
                        (f64::from(values[0]) - expected).abs() < 1e-5,
                        "{activation:?} {x}: {values:?} {expected}"
                    );
                }
            }
        }
    }
}
