//! Rotary position embedding (Su et al. 2021) and the ways to stretch it over longer contexts.
//!
//! A model's parameters become a [`Rope`] once: by how much each pair of values turns per position, and a factor on all
//! rotated values. The names of parameters are those of Hugging Face's `rope_parameters`, whose results the tests hold
//! this module to. Frequencies are computed in double precision and rounded once.

use std::f64::consts::{E, PI};

use crate::isa::per_isa;

/// How frequencies are changed for contexts that are longer than those of the training.
#[derive(Debug, Clone, PartialEq)]
pub enum Scaling {
    /// Not at all.
    None,
    /// Positions count as `1 / factor` (Chen et al. 2023).
    Linear {
        /// At least 1.
        factor: f64,
    },
    /// Llama 3.1: low frequencies turn slower by `factor`, high ones stay, those in between are mixed.
    Llama3 {
        /// At least 1.
        factor: f64,
        /// Turns in the original context below which a frequency is low.
        low_freq_factor: f64,
        /// Turns above which it is high.
        high_freq_factor: f64,
        /// Positions in training.
        original_max_position_embeddings: f64,
    },
    /// YaRN (Peng et al. 2023).
    Yarn(Yarn),
    /// A divisor for each pair and a factor on rotated values: LongRoPE (Ding et al. 2024), or `rope_freqs` of a GGUF
    /// file.
    Factors {
        /// One for each pair.
        factors: Vec<f32>,
        /// 1 if values keep their size: see [`longrope_attention_scale`].
        attention_scale: f32,
    },
}

/// Parameters of YaRN.
#[derive(Debug, Clone, PartialEq)]
pub struct Yarn {
    /// By how much the context is longer than in training; at least 1.
    pub factor: f64,
    /// Positions in training.
    pub original_max_position_embeddings: f64,
    /// Turns above which a frequency stays; commonly 32.
    pub beta_fast: f64,
    /// Turns below which it is divided by `factor`; commonly 1.
    pub beta_slow: f64,
    /// The factor on rotated values, if it is not to be computed from the next two.
    pub attention_factor: Option<f64>,
    /// How much of `0.1 · ln(factor) + 1` is taken for that factor, with the next one.
    pub mscale: Option<f64>,
    /// What the attention's own scale makes up for, which is divided by.
    pub mscale_all_dim: Option<f64>,
    /// Whether the bounds of the mixed pairs are rounded to whole pairs; commonly true.
    pub truncate: bool,
}

impl Yarn {
    /// With the common values of everything else.
    pub fn new(factor: f64, original_max_position_embeddings: f64) -> Self {
        Self {
            factor,
            original_max_position_embeddings,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: None,
            mscale: None,
            mscale_all_dim: None,
            truncate: true,
        }
    }

    fn attention_scale(&self) -> f64 {
        let scale = |mscale: f64| if self.factor <= 1.0 { 1.0 } else { 0.1 * mscale * self.factor.ln() + 1.0 };
        self.attention_factor.unwrap_or_else(|| match (self.mscale, self.mscale_all_dim) {
            (Some(mscale), Some(all)) if mscale != 0.0 && all != 0.0 => scale(mscale) / scale(all),
            _ => scale(1.0),
        })
    }

    /// How much of pair `j`'s frequency is divided by `factor`, from 0 to 1.
    fn interpolated(&self, j: usize, rotated: usize, base: f64) -> f64 {
        let rotated = rotated as f64;
        // The pair that makes `turns` turns in the original context.
        let pair = |turns: f64| {
            rotated * (self.original_max_position_embeddings / (turns * 2.0 * PI)).ln() / (2.0 * base.ln())
        };
        let (mut low, mut high) = (pair(self.beta_fast), pair(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(rotated - 1.0));
        let width = if low == high { 0.001 } else { high - low };
        ((j as f64 - low) / width).clamp(0.0, 1.0)
    }
}

/// LongRoPE's factor on rotated values where a file gives none: `sqrt(1 + ln(factor) / ln(original))`.
pub fn longrope_attention_scale(factor: f64, original_max_position_embeddings: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original_max_position_embeddings.max(E).ln()).sqrt() }
}

/// The rotation of a model's heads.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// The angle by which each pair turns per position.
    pub frequencies: Vec<f32>,
    /// What rotated values are multiplied with.
    pub attention_scale: f32,
}

impl Rope {
    /// For heads of which `rotated` values (an even number) turn, the pair `j` by `base^(-2j / rotated)` before scaling.
    /// Parameters are taken as they are: absurd ones give absurd frequencies, see [`Self::is_finite`].
    pub fn new(base: f64, rotated: usize, scaling: &Scaling) -> Self {
        assert!(rotated.is_multiple_of(2), "{rotated} values do not make pairs");
        let pairs = rotated / 2;
        let plain = |j: usize| base.powf(-2.0 * j as f64 / rotated as f64);
        let scaled = |j: usize| match scaling {
            Scaling::None => plain(j),
            Scaling::Linear { factor } => plain(j) / factor,
            Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let turns = original_max_position_embeddings * plain(j) / (2.0 * PI);
                let kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                plain(j) * (kept + (1.0 - kept) / factor)
            }
            Scaling::Yarn(yarn) => {
                let interpolated = yarn.interpolated(j, rotated, base);
                plain(j) * (1.0 - interpolated + interpolated / yarn.factor)
            }
            Scaling::Factors { factors, .. } => plain(j) / f64::from(factors[j]),
        };
        let attention_scale = match scaling {
            Scaling::None | Scaling::Linear { .. } | Scaling::Llama3 { .. } => 1.0,
            Scaling::Yarn(yarn) => yarn.attention_scale() as f32,
            Scaling::Factors { factors, attention_scale } => {
                assert_eq!(factors.len(), pairs, "a factor for each pair");
                *attention_scale
            }
        };
        Self { frequencies: (0..pairs).map(|j| scaled(j) as f32).collect(), attention_scale }
    }

    /// Whether all of it can be computed with: what a loader asks of parameters from outside.
    pub fn is_finite(&self) -> bool {
        self.attention_scale.is_finite() && self.frequencies.iter().all(|f| f.is_finite())
    }

    /// The rotation of each pair at `position`: cosine and sine, times the attention scale.
    pub fn angles(&self, position: usize, out: &mut [(f32, f32)]) {
        assert_eq!(self.frequencies.len(), out.len());
        for (frequency, out) in self.frequencies.iter().zip(out) {
            let (sin, cos) = (position as f32 * frequency).sin_cos();
            *out = (cos * self.attention_scale, sin * self.attention_scale);
        }
    }
}

#[inline(always)]
fn rope_interleaved_body<const FMA: bool>(row: &mut [f32], head: usize, angles: &[(f32, f32)]) {
    assert!(row.len().is_multiple_of(head) && angles.len() * 2 <= head);
    for head in row.chunks_exact_mut(head) {
        for ([even, odd], (cos, sin)) in head.as_chunks_mut::<2>().0.iter_mut().zip(angles) {
            let (x, y) = (*even, *odd);
            *even = x * cos - y * sin;
            *odd = x * sin + y * cos;
        }
    }
}

per_isa! {
    /// Rotates one row of heads in the order of GGUF files of the llama family: values `2j` and `2j + 1` of a head are
    /// one pair. Values behind `2 * angles.len()` stay as they are.
    pub fn rope_interleaved(isa, row: &mut [f32], head: usize, angles: &[(f32, f32)]) = rope_interleaved_body
}

#[inline(always)]
fn rope_half_body<const FMA: bool>(row: &mut [f32], head: usize, angles: &[(f32, f32)]) {
    assert!(row.len().is_multiple_of(head) && angles.len() * 2 <= head);
    for head in row.chunks_exact_mut(head) {
        let (first, second) = head[..2 * angles.len()].split_at_mut(angles.len());
        for ((first, second), (cos, sin)) in first.iter_mut().zip(second).zip(angles) {
            let (x, y) = (*first, *second);
            *first = x * cos - y * sin;
            *second = x * sin + y * cos;
        }
    }
}

per_isa! {
    /// Rotates one row of heads in the order of GPT-NeoX and of Hugging Face's checkpoints: values `j` and
    /// `j + angles.len()` of a head are one pair. Values behind `2 * angles.len()` stay as they are.
    pub fn rope_half(isa, row: &mut [f32], head: usize, angles: &[(f32, f32)]) = rope_half_body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;

    fn expect(base: f64, scaling: &Scaling, frequencies: [f64; 8], attention_scale: f64) {
        let rope = Rope::new(base, 16, scaling);
        assert!(rope.is_finite());
        for (found, expected) in rope.frequencies.iter().zip(frequencies) {
            // The references are float32 arithmetic.
            assert!((f64::from(*found) - expected).abs() < 2e-6 * expected, "{scaling:?}: {found} {expected}");
        }
        assert!((f64::from(rope.attention_scale) - attention_scale).abs() < 1e-6, "{scaling:?}: {rope:?}");
    }

    /// Expected values are those of `ROPE_INIT_FUNCTIONS` in transformers 5.24 for heads of 16 values.
    #[test]
    fn frequencies_are_those_of_transformers() {
        let linear = [0.125, 0.039_528_47, 0.0125, 0.003_952_847, 0.00125, 0.000_395_284_7, 0.000_125, 3.952_847e-5];
        expect(10_000.0, &Scaling::Linear { factor: 8.0 }, linear, 1.0);
        let llama3 = Scaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192.0,
        };
        let frequencies =
            [1.0, 0.193_922_8, 0.037_606_03, 0.007_292_665, 0.000_524_846, 3.428_102e-5, 6.647_87e-6, 1.289_173e-6];
        expect(500_000.0, &llama3, frequencies, 1.0);
        let frequencies = [1.0, 0.316_227_8, 0.1, 0.031_622_78, 0.01, 0.002_569_351, 0.000_625, 0.000_138_349_7];
        expect(10_000.0, &Scaling::Yarn(Yarn::new(4.0, 32_768.0)), frequencies, 1.138_629_436_111_989);
        let yarn = Yarn { mscale: Some(0.707), mscale_all_dim: Some(1.0), ..Yarn::new(40.0, 4096.0) };
        let frequencies = [1.0, 0.316_227_8, 0.1, 0.023_914_72, 0.005_125, 0.000_849_862_2, 2.5e-5, 7.905_694e-6];
        expect(10_000.0, &Scaling::Yarn(yarn), frequencies, 0.921_042_355_316_339_9);
        let yarn = Yarn { truncate: false, ..Yarn::new(32.0, 4096.0) };
        let frequencies =
            [1.0, 0.225_418, 0.050_813_27, 0.006_794_959, 0.000_456_483_9, 1.818_834e-5, 4.099_978e-6, 9.242_09e-7];
        expect(150_000.0, &Scaling::Yarn(yarn.clone()), frequencies, 1.346_573_590_279_972_7);
        let given = Yarn { attention_factor: Some(1.5), ..yarn };
        expect(150_000.0, &Scaling::Yarn(given), frequencies, 1.5);
        let scale = longrope_attention_scale(32.0, 4096.0);
        let longrope = Scaling::Factors {
            factors: (0..8u8).map(|i| 1.0 + 0.1 * f32::from(i)).collect(),
            attention_scale: scale as f32,
        };
        let frequencies =
            [1.0, 0.287_479_8, 0.083_333_34, 0.024_325_21, 0.007_142_857, 0.002_108_185, 0.000_625, 0.000_186_016_3];
        expect(10_000.0, &longrope, frequencies, 1.190_238_071_423_808_3);
    }

    #[test]
    fn absurd_parameters_are_noticed() {
        assert!(!Rope::new(10_000.0, 16, &Scaling::Linear { factor: 0.0 }).is_finite());
        assert!(!Rope::new(f64::NAN, 16, &Scaling::None).is_finite());
        assert!(!Rope::new(10_000.0, 16, &Scaling::Yarn(Yarn::new(f64::NAN, 4096.0))).is_finite());
        let factors = Scaling::Factors { factors: vec![0.0; 8], attention_scale: 1.0 };
        assert!(!Rope::new(10_000.0, 16, &factors).is_finite());
    }

    #[test]
    fn a_rotation_keeps_lengths_and_depends_on_the_distance_alone() {
        let rope = Rope { frequencies: vec![1.0, 0.1], attention_scale: 1.0 };
        for isa in Isa::available() {
            for rotate in [rope_interleaved, rope_half] {
                let turn = |x: [f32; 4], position| {
                    let (mut x, mut angles) = (x, [(0.0, 0.0); 2]);
                    rope.angles(position, &mut angles);
                    rotate(isa, &mut x, 4, &angles);
                    x
                };
                let dot = |a: [f32; 4], b: [f32; 4]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
                let (q, k) = ([1.0, 2.0, 3.0, 4.0], [0.5, -1.0, 2.0, 1.0]);
                assert!((dot(turn(q, 5), turn(q, 5)) - 30.0).abs() < 1e-4);
                assert!((dot(turn(q, 7), turn(k, 3)) - dot(turn(q, 104), turn(k, 100))).abs() < 1e-3);
                assert_eq!(turn(q, 0), q);
            }
        }
    }

    /// The two orders are one rotation of differently ordered values.
    #[test]
    fn the_orders_differ_by_a_permutation() {
        const PAIRS: usize = 20;
        const HEAD: usize = 48;
        let rope = Rope { attention_scale: 1.25, ..Rope::new(10_000.0, 2 * PAIRS, &Scaling::None) };
        let mut angles = [(0.0, 0.0); PAIRS];
        rope.angles(17, &mut angles);
        let halves: Vec<f32> = (0..3 * HEAD).map(|i| (i as f32 * 0.7).sin()).collect();
        let place = |i: usize| match i % HEAD {
            j if j < 2 * PAIRS => i - j + j % 2 * PAIRS + j / 2,
            _ => i,
        };
        for isa in Isa::available() {
            let mut interleaved: Vec<f32> = (0..3 * HEAD).map(|i| halves[place(i)]).collect();
            let mut turned = halves.clone();
            rope_interleaved(isa, &mut interleaved, HEAD, &angles);
            rope_half(isa, &mut turned, HEAD, &angles);
            for (i, found) in interleaved.iter().enumerate() {
                assert!((found - turned[place(i)]).abs() < 1e-6, "{} {i}", isa.name());
            }
            let expected = halves[3] * angles[3].0 - halves[3 + PAIRS] * angles[3].1;
            assert!((turned[3] - expected).abs() < 1e-6);
            assert_eq!(turned[2 * PAIRS..HEAD], halves[2 * PAIRS..HEAD], "the rest of a head stays");
        }
    }
}
