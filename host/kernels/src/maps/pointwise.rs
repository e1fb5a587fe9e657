//! What is done to each value by itself.

use super::Scatter;
use crate::elementwise::exp;
use crate::encoder::{Activation, activate};
use crate::isa::{Isa, per_isa};
use crate::threads::ThreadPool;

/// Values that a thread takes at a time.
const CHUNK: usize = 1 << 14;

/// A nonlinearity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pointwise {
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `x / (1 + exp(-1.702 x))`.
    QuickGelu,
    /// One of the encoders'.
    Of(Activation),
}

impl Pointwise {
    fn to(self, isa: Isa, values: &mut [f32]) {
        match self {
            Pointwise::Silu => sigmoid_linear(isa, values, 1.0),
            Pointwise::QuickGelu => sigmoid_linear(isa, values, 1.702),
            Pointwise::Of(activation) => activate(isa, values, activation),
        }
    }
}

per_isa! {
    fn sigmoid_linear(isa, values: &mut [f32], steepness: f32) = sigmoid_linear_body
}

#[inline(always)]
fn sigmoid_linear_body<const FMA: bool>(values: &mut [f32], steepness: f32) {
    for value in values {
        *value /= 1.0 + exp::<FMA>(-steepness * *value);
    }
}

/// Chunks of `values`, with where they begin.
fn in_chunks(pool: &ThreadPool, values: &mut [f32], body: impl Fn(usize, &mut [f32]) + Sync) {
    let count = values.len();
    let target = Scatter::new(values);
    pool.for_each_chunk(
        count,
        CHUNK,
        || (),
        |(), range| {
            // SAFETY: each value belongs to the one thread that took it.
            body(range.start, unsafe { target.slice(range) });
        },
    );
}

/// `function` of every value.
pub fn apply(isa: Isa, pool: &ThreadPool, values: &mut [f32], function: Pointwise) {
    in_chunks(pool, values, |_, values| function.to(isa, values));
}

/// `values += other`.
pub fn add(pool: &ThreadPool, values: &mut [f32], other: &[f32]) {
    assert_eq!(values.len(), other.len(), "sums of different lengths");
    in_chunks(pool, values, |start, values| {
        values.iter_mut().zip(&other[start..]).for_each(|(value, other)| *value += other);
    });
}

/// Rows of `width` values that `body` changes, each by the one thread that took it.
fn in_rows(pool: &ThreadPool, values: &mut [f32], width: usize, body: impl Fn(usize, &mut [f32]) + Sync) {
    assert!(width > 0 && values.len().is_multiple_of(width), "rows of the wrong size");
    let rows = values.len() / width;
    let target = Scatter::new(values);
    pool.for_each_chunk(
        rows,
        (CHUNK / width).max(1),
        || (),
        |(), range| {
            for row in range {
                // SAFETY: each row belongs to the one thread that took it.
                body(row, unsafe { target.slice(row * width..(row + 1) * width) });
            }
        },
    );
}

/// `row += vector` for each row of `vector.len()` values.
pub fn add_to_rows(pool: &ThreadPool, values: &mut [f32], vector: &[f32]) {
    in_rows(pool, values, vector.len(), |_, row| row.iter_mut().zip(vector).for_each(|(value, more)| *value += more));
}

/// `row = row · (1 + scale) + shift` for each row of `scale.len()` values.
pub fn scale_and_shift(pool: &ThreadPool, values: &mut [f32], scale: &[f32], shift: &[f32]) {
    assert_eq!(scale.len(), shift.len(), "as many shifts as scales");
    in_rows(pool, values, scale.len(), |_, row| {
        row.iter_mut()
            .zip(scale)
            .zip(shift)
            .for_each(|((value, scale), shift)| *value = *value * (1.0 + scale) + shift);
    });
}

/// Of each row of `x`, which is twice as wide as one of `out`: `out = first half · function(second half)`.
pub fn gate(isa: Isa, pool: &ThreadPool, x: &[f32], width: usize, function: Pointwise, out: &mut [f32]) {
    assert_eq!(x.len(), 2 * out.len(), "a gate for each value");
    in_rows(pool, out, width, |row, out| {
        let (values, gates) = x[row * 2 * width..(row + 1) * 2 * width].split_at(width);
        out.copy_from_slice(gates);
        function.to(isa, out);
        out.iter_mut().zip(values).for_each(|(gate, value)| *gate *= value);
    });
}
