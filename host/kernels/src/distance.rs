//! Distances between vectors of float32, for searching among many of them.
//!
//! One pair at a time: a search meets its vectors in an order that only the search knows. The sums of a pair are kept in
//! as many lanes as four of the widest registers hold and added up at the end, so the compiler may use any width, and
//! the sum of a pair is the same wherever it is asked for.

use crate::elementwise::madd;
use crate::isa::{Isa, per_isa};

/// Sums that are kept apart.
const LANES: usize = 64;

/// The sum of the products of `a` and `b`, which are of one length.
#[inline]
pub fn dot(isa: Isa, a: &[f32], b: &[f32]) -> f32 {
    let mut sum = 0.0;
    dots(isa, a, b, &mut sum);
    sum
}

/// The square of the Euclidean distance between `a` and `b`, which are of one length.
#[inline]
pub fn squared_distance(isa: Isa, a: &[f32], b: &[f32]) -> f32 {
    let mut sum = 0.0;
    squares(isa, a, b, &mut sum);
    sum
}

per_isa! {
    fn dots(isa, a: &[f32], b: &[f32], sum: &mut f32) = dot_body
}

per_isa! {
    fn squares(isa, a: &[f32], b: &[f32], sum: &mut f32) = squares_body
}

#[inline(always)]
fn dot_body<const FMA: bool>(a: &[f32], b: &[f32], sum: &mut f32) {
    *sum = lanes(a, b, madd::<FMA>);
}

#[inline(always)]
fn squares_body<const FMA: bool>(a: &[f32], b: &[f32], sum: &mut f32) {
    *sum = lanes(a, b, |a, b, sum| madd::<FMA>(a - b, a - b, sum));
}

#[inline(always)]
fn lanes(a: &[f32], b: &[f32], add: impl Fn(f32, f32, f32) -> f32) -> f32 {
    debug_assert_eq!(a.len(), b.len());
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0.0f32; LANES];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] = add(a[lane], b[lane], sums[lane]);
        }
    }
    for ((a, b), sum) in a_rest.iter().zip(b_rest).zip(&mut sums) {
        *sum = add(*a, *b, *sum);
    }
    // Halves are added to each other, so that the last sums are of few numbers of like size.
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_instruction_set_agrees_with_the_definition(
            pairs in prop::collection::vec((-1.0f32..1.0, -1.0f32..1.0), 0..300),
        ) {
            let (a, b): (Vec<f32>, Vec<f32>) = pairs.iter().copied().unzip();
            let product: f64 = pairs.iter().map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let square: f64 = pairs.iter().map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
            for isa in Isa::available() {
                prop_assert!((f64::from(dot(isa, &a, &b)) - product).abs() < 1e-4, "{}", isa.name());
                prop_assert!((f64::from(squared_distance(isa, &a, &b)) - square).abs() < 1e-4, "{}", isa.name());
            }
        }
    }
}
