//! From logits to a token.
//!
//! A sampler belongs to one sequence and owns its random numbers, so what a seed gives does not depend on what else the
//! model is doing. The order is that of the servers whose parameters these are: penalties, temperature, top-k, top-p.

use std::collections::HashMap;

use llguidance::toktrie::SimpleVob;

use crate::backend::Sampling;

/// The smallest repetition penalty that is applied: requests may ask for 0, which would divide by it.
const LEAST_REPETITION_PENALTY: f32 = 1e-6;
/// Tokens this far below the best, in natural logarithms of probability, are left out. All of a vocabulary of a million
/// together then weigh less than 1e-7.
const NEGLIGIBLE: f32 = -30.0;

/// The model computed something that is not a number, so there is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the model's logits are not numbers")]
pub struct NotANumber;

/// Picks the tokens of one sequence.
pub struct Sampler {
    settings: Sampling,
    random: SplitMix64,
    /// How often each token occurs in the answer; 0 for tokens of the prompt alone.
    occurrences: HashMap<u32, u32>,
    adjusted: Vec<f32>,
    candidates: Vec<(f32, u32)>,
}

impl Sampler {
    /// A sampler for an answer to `prompt`. Without a seed it takes one from the system.
    pub fn new(settings: Sampling, prompt: &[u32]) -> Self {
        let random = SplitMix64(settings.seed.unwrap_or_else(rand::random));
        // Only the repetition penalty looks at the prompt.
        let seen: &[u32] = if settings.repetition_penalty == 1.0 { &[] } else { prompt };
        let occurrences = seen.iter().map(|token| (*token, 0)).collect();
        Self { settings, random, occurrences, adjusted: Vec::new(), candidates: Vec::new() }
    }

    /// The next token, which counts as part of the answer from now on. With `allowed` it is one of those.
    ///
    /// # Errors
    /// When a logit is NaN, or the largest of those that are allowed is infinite.
    pub fn sample(&mut self, logits: &[f32], allowed: Option<&SimpleVob>) -> Result<u32, NotANumber> {
        let mut adjusted = self.penalize(logits);
        if let Some(allowed) = allowed {
            if !adjusted {
                self.adjusted.clear();
                self.adjusted.extend_from_slice(logits);
            }
            adjusted = true;
            let logits = &mut self.adjusted;
            allowed.iter_unset_entries(|token| {
                if let Some(logit) = logits.get_mut(token) {
                    *logit = f32::NEG_INFINITY;
                }
            });
        }
        let logits: &[f32] = if adjusted { &self.adjusted } else { logits };
        let best = best(logits)?;
        let token = if self.settings.temperature <= 0.0 {
            best
        } else {
            let largest = logits[best as usize];
            let inverse = 1.0 / self.settings.temperature;
            let scaled = logits.iter().map(|l| (l - largest) * inverse);
            self.candidates.clear();
            self.candidates.extend(scaled.zip(0u32..).filter(|(l, _)| *l >= NEGLIGIBLE));
            draw(&mut self.candidates, &self.settings, &mut self.random).unwrap_or(best)
        };
        self.count(token);
        Ok(token)
    }

    /// Counts a token as part of the answer that was not sampled.
    pub fn count(&mut self, token: u32) {
        if self.penalizes() {
            *self.occurrences.entry(token).or_insert(0) += 1;
        }
    }

    fn penalizes(&self) -> bool {
        let s = &self.settings;
        s.repetition_penalty != 1.0 || s.frequency_penalty != 0.0 || s.presence_penalty != 0.0
    }

    /// Fills `adjusted`; false if there is nothing to change.
    fn penalize(&mut self, logits: &[f32]) -> bool {
        if !self.penalizes() {
            return false;
        }
        self.adjusted.clear();
        self.adjusted.extend_from_slice(logits);
        let repetition = self.settings.repetition_penalty.max(LEAST_REPETITION_PENALTY);
        for (token, count) in &self.occurrences {
            let Some(logit) = self.adjusted.get_mut(*token as usize) else { continue };
            *logit = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
            if *count > 0 {
                *logit -= self.settings.frequency_penalty * *count as f32 + self.settings.presence_penalty;
            }
        }
        true
    }
}

/// The first of the largest.
fn best(logits: &[f32]) -> Result<u32, NotANumber> {
    let (mut best, mut largest, mut faults) = (0, f32::NEG_INFINITY, false);
    for (token, logit) in (0u32..).zip(logits) {
        faults |= logit.is_nan();
        if *logit > largest {
            (best, largest) = (token, *logit);
        }
    }
    if faults || !largest.is_finite() { Err(NotANumber) } else { Ok(best) }
}

/// One of `candidates` (logit minus the largest, token), after top-k and top-p.
fn draw(candidates: &mut Vec<(f32, u32)>, settings: &Sampling, random: &mut SplitMix64) -> Option<u32> {
    // Equal logits stand in the order of their tokens, so that the same seed picks the same one.
    let order = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    if settings.top_k > 0 && settings.top_k < candidates.len() {
        candidates.select_nth_unstable_by(settings.top_k - 1, order);
        candidates.truncate(settings.top_k);
    }
    let ordered = settings.top_p < 1.0;
    if ordered {
        candidates.sort_unstable_by(order);
    } else {
        candidates.sort_unstable_by_key(|(_, token)| *token);
    }
    let mut total = 0f64;
    for (logit, _) in candidates.iter_mut() {
        *logit = logit.exp();
        total += f64::from(*logit);
    }
    if ordered {
        let wanted = total * f64::from(settings.top_p);
        let (mut kept, mut sum) = (0, 0f64);
        for (weight, _) in candidates.iter() {
            kept += 1;
            sum += f64::from(*weight);
            if sum >= wanted {
                break;
            }
        }
        candidates.truncate(kept);
        total = sum;
    }
    let mut left = random.unit() * total;
    for (weight, token) in candidates.iter() {
        left -= f64::from(*weight);
        if left < 0.0 {
            return Some(*token);
        }
    }
    candidates.last().map(|(_, token)| *token)
}

/// SplitMix64 (Steele, Lea & Flood 2014). Written out so that a seed means the same in every version of every library.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly from [0, 1).
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Sampling {
        Sampling {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            seed: Some(7),
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
        }
    }

    fn many(settings: Sampling, logits: &[f32], count: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(settings, &[]);
        (0..count).map(|_| sampler.sample(logits, None).unwrap()).collect()
    }

    #[test]
    fn only_what_is_allowed_is_picked() {
        for temperature in [0.0, 1.0] {
            let mut sampler = Sampler::new(Sampling { temperature, ..settings() }, &[]);
            let mut allowed = SimpleVob::alloc(40);
            allowed.allow_token(2);
            assert_eq!(sampler.sample(&[9.0, 8.0, -50.0, 7.0], Some(&allowed)), Ok(2));
            assert_eq!(sampler.sample(&[9.0, 8.0, 1.0], Some(&SimpleVob::alloc(40))), Err(NotANumber));
        }
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let logits = [0.0f32, 1.0, 2.0, -1.0];
        let total: f32 = logits.iter().map(|l| l.exp()).sum();
        let tokens = many(settings(), &logits, 40_000);
        for (token, logit) in logits.iter().enumerate() {
            let expected = logit.exp() / total;
            let found = tokens.iter().filter(|t| **t as usize == token).count() as f32 / 40_000.0;
            // Four standard deviations of a proportion at 40,000 draws are below 0.011.
            assert!((expected - found).abs() < 0.011, "{token}: {expected} {found}");
        }
    }

    #[test]
    fn a_seed_gives_the_same_tokens_and_another_seed_others() {
        let logits: Vec<f32> = (0..100).map(|i| (i as f32 * 0.7).sin()).collect();
        let first = many(settings(), &logits, 50);
        assert_eq!(first, many(settings(), &logits, 50));
        assert_ne!(first, many(Sampling { seed: Some(8), ..settings() }, &logits, 50));
    }

    #[test]
    fn splitmix_matches_its_reference() {
        // The first outputs for seed 1234567 of the authors' C code.
        let mut random = SplitMix64(1_234_567);
        assert_eq!([random.next(), random.next()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }

    #[test]
    fn top_k_and_top_p_cut_the_tail() {
        let logits = [0.0, 3.0, 2.0, 1.0, 2.9];
        let picked = |s: Sampling| {
            let mut tokens = many(s, &logits, 2_000);
            tokens.sort_unstable();
            tokens.dedup();
            tokens
        };
        assert_eq!(picked(Sampling { top_k: 2, ..settings() }), [1, 4]);
        assert_eq!(picked(Sampling { top_k: 1, temperature: 5.0, ..settings() }), [1]);
        // Probabilities: 0.41 (1), 0.37 (4), 0.15 (2), 0.06 (3), 0.02 (0).
        assert_eq!(picked(Sampling { top_p: 0.5, ..settings() }), [1, 4]);
        assert_eq!(picked(Sampling { top_p: 0.001, ..settings() }), [1]);
        assert_eq!(picked(Sampling { top_p: 0.9, ..settings() }), [1, 2, 4]);
        assert_eq!(picked(Sampling { top_p: 0.9, top_k: 2, ..settings() }), [1, 4]);
    }

    #[test]
    fn temperature_zero_is_greedy_and_ties_go_to_the_first() {
        assert_eq!(many(Sampling { temperature: 0.0, ..settings() }, &[1.0, 4.0, 4.0], 3), [1, 1, 1]);
        assert_eq!(many(Sampling { temperature: 1e-30, ..settings() }, &[1.0, 4.0, 3.99], 3), [1, 1, 1]);
    }

    #[test]
    fn penalties() {
        let greedy = Sampling { temperature: 0.0, ..settings() };
        assert_eq!(many(Sampling { presence_penalty: 0.3, ..greedy.clone() }, &[1.0, 0.8, 0.0], 3), [0, 1, 0]);
        assert_eq!(many(Sampling { frequency_penalty: 0.3, ..greedy.clone() }, &[1.0, 0.8, 0.0], 5), [0, 1, 0, 1, 0]);
        // The prompt counts for the repetition penalty alone.
        let mut sampler = Sampler::new(Sampling { repetition_penalty: 2.0, ..greedy.clone() }, &[0]);
        assert_eq!(sampler.sample(&[1.0, 0.8], None), Ok(1));
        let mut sampler = Sampler::new(Sampling { presence_penalty: 2.0, ..greedy.clone() }, &[0]);
        assert_eq!(sampler.sample(&[1.0, 0.8], None), Ok(0));
        let mut sampler = Sampler::new(Sampling { repetition_penalty: 2.0, ..greedy.clone() }, &[0]);
        assert_eq!(sampler.sample(&[-1.0, -1.5], None), Ok(1));
        // A penalty of 0 favours what was seen and stays a number.
        let mut sampler = Sampler::new(Sampling { repetition_penalty: 0.0, ..greedy }, &[1]);
        assert_eq!(sampler.sample(&[1.0, 0.8], None), Ok(1));
    }

    #[test]
    fn what_is_not_a_number_is_an_error() {
        for logits in [&[1.0, f32::NAN][..], &[f32::INFINITY, 1.0], &[f32::NEG_INFINITY; 2], &[]] {
            for temperature in [0.0, 1.0] {
                let mut sampler = Sampler::new(Sampling { temperature, ..settings() }, &[]);
                assert_eq!(sampler.sample(logits, None), Err(NotANumber));
            }
        }
    }
}
