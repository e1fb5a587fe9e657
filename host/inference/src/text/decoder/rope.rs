//! The frequencies of rotary embeddings, from what files say about them.
//!
//! A model that was stretched to a longer context turns slower than `base^(-2j / rotated)` per position. Each way of
//! stretching is a function from those frequencies to others, computed once in double precision.

use super::description::{Rope, ShortRope};

/// How frequencies differ from plain ones.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Scaling {
    /// They do not.
    None,
    /// All are divided by a factor: position interpolation (Chen et al. 2023).
    Linear { factor: f64 },
    /// Llama 3.1's: ones that turn less than `low` times within the original context are divided by the factor, ones
    /// that turn more than `high` times stay, with a ramp between.
    Llama3 { factor: f64, low: f64, high: f64, original: f64 },
    /// YaRN (Peng et al. 2023): slow ones are divided by the factor, fast ones stay, with a ramp between; rotated values grow by `attention`.
    Yarn { factor: f64, original: f64, fast: f64, slow: f64, truncate: bool, attention: f64 },
    /// LongRoPE (Ding et al. 2024): each has its divisor, which depends on whether the context is longer than the
    /// original; rotated values grow by `attention`.
    Long { short: Vec<f32>, long: Vec<f32>, original: usize, attention: f64 },
}

/// YaRN's recommended growth of rotated values for a factor.
pub(super) fn yarn_attention(factor: f64, scale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 }
}

/// The rotation of `rotated` values of a head. `divisors` divide the plain frequencies before anything else.
///
/// # Errors
/// When a frequency comes out that is not a positive number, or there are not `rotated / 2` divisors.
pub(super) fn rope(base: f64, rotated: usize, divisors: Option<&[f32]>, scaling: &Scaling) -> Result<Rope, String> {
    let pairs = rotated / 2;
    let plain = |divisors: Option<&[f32]>| -> Result<Vec<f64>, String> {
        if let Some(divisors) = divisors.filter(|divisors| divisors.len() != pairs) {
            return Err(format!("there are {} factors for {pairs} frequencies", divisors.len()));
        }
        let divisor = |j: usize| divisors.map_or(1.0, |divisors| f64::from(divisors[j]));
        Ok((0..pairs).map(|j| base.powf(-2.0 * j as f64 / rotated as f64) / divisor(j)).collect())
    };
    let (frequencies, scale) = match *scaling {
        Scaling::None => (plain(divisors)?, 1.0),
        Scaling::Linear { factor } => (plain(divisors)?.iter().map(|f| f / factor).collect(), 1.0),
        Scaling::Llama3 { factor, low, high, original } => {
            let stretch = |frequency: f64| {
                let turns = original * frequency / std::f64::consts::TAU;
                let keep = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                (1.0 - keep) * frequency / factor + keep * frequency
            };
            (plain(divisors)?.into_iter().map(stretch).collect(), 1.0)
        }
        Scaling::Yarn { factor, original, fast, slow, truncate, attention } => {
            let width = rotated as f64;
            // The pair that turns this often within the original context.
            let pair = |turns: f64| width * (original / (turns * std::f64::consts::TAU)).ln() / (2.0 * base.ln());
            let round = |at: f64, to: fn(f64) -> f64| if truncate { to(at) } else { at };
            let first = round(pair(fast), f64::floor).max(0.0);
            let last = round(pair(slow), f64::ceil).min(width - 1.0);
            let span = (last - first).max(0.001);
            let stretch = |(j, frequency): (usize, f64)| {
                let slowed = ((j as f64 - first) / span).clamp(0.0, 1.0);
                slowed * frequency / factor + (1.0 - slowed) * frequency
            };
            (plain(divisors)?.into_iter().enumerate().map(stretch).collect(), attention)
        }
        Scaling::Long { ref long, attention, .. } => (plain(Some(long))?, attention),
    };
    let short = match scaling {
        Scaling::Long { short, original, .. } => {
            Some(ShortRope { context: *original, frequencies: narrowed(&plain(Some(short))?)? })
        }
        _ => None,
    };
    if !(scale.is_finite() && scale > 0.0) {
        return Err(format!("rotated values are to grow by {scale}, which is no positive number"));
    }
    Ok(Rope { frequencies: narrowed(&frequencies)?, scale: scale as f32, short })
}

fn narrowed(frequencies: &[f64]) -> Result<Vec<f32>, String> {
    match frequencies.iter().find(|f| !(f.is_finite() && **f > 0.0)) {
        Some(frequency) => Err(format!("a frequency comes out as {frequency}, which is no positive number")),
        None => Ok(frequencies.iter().map(|f| *f as f32).collect()),
    }
}

/// Rotary position embedding of one row of heads in the order of GPT-NeoX: values `j` and `j + angles.len()` of a head
/// are one pair. Values behind `2 * angles.len()` stay as they are.
pub(super) fn rope_halves(row: &mut [f32], head: usize, angles: &[(f32, f32)]) {
    let pairs = angles.len();
    for head in row.chunks_exact_mut(head) {
        let (first, rest) = head.split_at_mut(pairs);
        for ((x, y), (cos, sin)) in first.iter_mut().zip(rest).zip(angles) {
            (*x, *y) = (*x * cos - *y * sin, *x * sin + *y * cos);
        }
    }
}
