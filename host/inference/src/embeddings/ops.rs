//! What stands between the products: sums, normalization, softmax and the activations, all in place.
//!
//! Bodies are plain Rust in shapes that compilers vectorize: sums run in [`LANES`] independent lanes because floating
//! addition may not be reordered, and exponentials are polynomials because a library call is scalar. Each body is
//! compiled three times, for AVX-512, for AVX2 and for the build's baseline, and picked at run time.

use super::config::Activation;

const LANES: usize = 16;

/// Compiles a body for wider registers too, and calls the widest version this machine has.
macro_rules! dispatched {
    ($(#[$doc:meta])* $name:ident = $body:ident($($argument:ident: $kind:ty),*)) => {
        $(#[$doc])*
        pub(super) fn $name($($argument: $kind),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
                fn avx512($($argument: $kind),*) {
                    $body($($argument),*);
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($argument: $kind),*) {
                    $body($($argument),*);
                }
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                {
                    // SAFETY: the processor has these features; the function is safe in every other respect.
                    return unsafe { avx512($($argument),*) };
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: as above.
                    return unsafe { avx2($($argument),*) };
                }
            }
            $body($($argument),*);
        }
    };
}

dispatched! {
    /// `row = LayerNorm(row + other_row)` for each row of `weight.len()` values; an empty `other` adds nothing.
    add_and_normalize = add_and_normalize_body(rows: &mut [f32], other: &[f32], weight: &[f32], bias: &[f32], epsilon: f32)
}
dispatched! {
    /// `row = softmax(row)` for each row of `width` values.
    softmax = softmax_body(rows: &mut [f32], width: usize)
}
dispatched! {
    /// The activation of every value.
    activate = activate_body(values: &mut [f32], activation: Activation)
}

#[inline(always)]
fn add_and_normalize_body(rows: &mut [f32], other: &[f32], weight: &[f32], bias: &[f32], epsilon: f32) {
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
        let scale = 1.0 / (sum_of_squares(row) / width as f32 + epsilon).sqrt();
        for ((value, weight), bias) in row.iter_mut().zip(weight).zip(bias) {
            *value = *value * scale * weight + bias;
        }
    }
}

#[inline(always)]
fn softmax_body(rows: &mut [f32], width: usize) {
    for row in rows.chunks_exact_mut(width) {
        let most = greatest(row);
        for value in row.iter_mut() {
            *value = exp(*value - most);
        }
        let scale = 1.0 / sum(row);
        for value in row.iter_mut() {
            *value *= scale;
        }
    }
}

#[inline(always)]
fn activate_body(values: &mut [f32], activation: Activation) {
    match activation {
        Activation::Gelu => {
            for value in values {
                let x = *value;
                *value = 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
            }
        }
        Activation::GeluTanh => {
            for value in values {
                let x = *value;
                let inner = 0.797_884_6 * (x + 0.044_715 * x * x * x);
                // tanh(y) = 1 - 2 / (exp(2 y) + 1)
                *value = 0.5 * x * (2.0 - 2.0 / (exp(2.0 * inner) + 1.0));
            }
        }
        Activation::Relu => {
            for value in values {
                *value = value.max(0.0);
            }
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
fn sum_of_squares(values: &[f32]) -> f32 {
    lanes(values, 0.0, |sum, value| sum + value * value, |a, b| a + b)
}

#[inline(always)]
fn greatest(values: &[f32]) -> f32 {
    let greater = |most, value| if value > most { value } else { most };
    lanes(values, f32::NEG_INFINITY, greater, greater)
}

/// `e^x` to two units in the last place for |x| < 87, saturating beyond: `2^n e^r` with the polynomial of Cephes'
/// `expf` for `r`.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 leaves no bits for a fraction, which rounds to the nearest integer without a call.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 87.0);
    let n = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 0.166_666_65;
    p = p * r + 0.5;
    let fraction = p * r * r + r + 1.0;
    // The low bits of n + ROUND are n itself.
    let exponent = (n + ROUND).to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    fraction * f32::from_bits(exponent)
}

/// The error function to 5e-7: Abramowitz and Stegun, 7.1.26.
#[inline(always)]
fn erf(x: f32) -> f32 {
    let magnitude = x.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * magnitude);
    let mut p = 1.061_405_4;
    p = p * t - 1.453_152;
    p = p * t + 1.421_413_7;
    p = p * t - 0.284_496_74;
    p = p * t + 0.254_829_6;
    let erf = 1.0 - p * t * exp(-magnitude * magnitude);
    erf.copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_those_of_the_library() {
        for step in -860..=860 {
            let x = step as f32 / 10.0;
            let error = (exp(x) / x.exp() - 1.0).abs();
            assert!(error < 3e-7, "exp({x}) is off by {error}");
        }
        assert!(exp(f32::NEG_INFINITY) < 1e-37 && exp(1e9).is_finite());
    }

    #[test]
    fn error_functions_are_those_of_the_tables() {
        // Abramowitz and Stegun, table 7.1.
        for (x, value) in [(0.0, 0.0), (0.1, 0.112_462_92), (0.5, 0.520_499_9), (1.0, 0.842_700_8), (2.0, 0.995_322_3)]
        {
            assert!((erf(x) - value).abs() < 5e-7 && (erf(-x) + value).abs() < 5e-7, "erf({x}) = {}", erf(x));
        }
    }

    #[test]
    fn rows_are_normalized() {
        let width = 37;
        let mut rows: Vec<f32> = (0..2 * width).map(|index| (index as f32 * 0.7).sin() + 3.0).collect();
        let other = vec![0.5; 2 * width];
        add_and_normalize(&mut rows, &other, &vec![2.0; width], &vec![1.0; width], 1e-12);
        for row in rows.chunks(width) {
            let mean = row.iter().sum::<f32>() / width as f32;
            let variance = row.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / width as f32;
            assert!((mean - 1.0).abs() < 1e-5 && (variance - 4.0).abs() < 1e-4, "{mean} {variance}");
        }
    }

    #[test]
    fn softmax_sums_to_one_and_keeps_the_order() {
        let mut rows = [1000.0, 1001.0, 999.0, -5.0, -5.0, -5.0];
        softmax(&mut rows, 3);
        assert!((rows[..3].iter().sum::<f32>() - 1.0).abs() < 1e-6 && rows[1] > rows[0] && rows[0] > rows[2]);
        assert!(rows[3..].iter().all(|value| (value - 1.0 / 3.0).abs() < 1e-6));
    }

    #[test]
    fn activations() {
        let close = |activation, x: f32, y: f32| {
            let mut values = [x];
            activate(&mut values, activation);
            assert!((values[0] - y).abs() < 2e-6, "{activation:?}({x}) = {}", values[0]);
        };
        close(Activation::Gelu, 1.0, 0.841_344_7);
        close(Activation::Gelu, -2.0, -0.045_500_264);
        close(Activation::GeluTanh, 1.0, 0.841_192);
        close(Activation::Relu, -2.0, 0.0);
        close(Activation::Relu, 2.0, 2.0);
    }
}
