//! From the logits of one window to its most likely text.
//!
//! Beam search at temperature 0; where what it finds is repetitive or unlikely, samples at rising temperatures until one is
//! neither, as the reference does. Hypotheses share the slots of their common tokens.

use std::io::Write;
use std::rc::Rc;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::network::{Cache, Heard};
use super::rounds::{OwnRow, Read, Rounds, sequence_rows};
use super::rules::Rules;
use super::transcribe::Voice;
use crate::AiError;
use crate::desk::Ticket;

/// Samples that are drawn at a temperature above 0.
pub(super) const BEST_OF: usize = 5;
const TEMPERATURES: [f32; 6] = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0];

/// How a window is decoded.
#[derive(Debug, Clone)]
pub(crate) struct Search {
    pub(crate) beams: usize,
    pub(crate) timestamps: bool,
    /// Text that compresses better than this repeats itself.
    pub(crate) most_compression: f64,
    /// A text whose tokens are less likely than this, on average, was not understood.
    pub(crate) least_log_probability: f64,
    /// A window that is more likely than this to have no speech may have none.
    pub(crate) most_silence: f64,
}

/// What a window says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Found {
    /// Text and timestamps.
    pub(crate) tokens: Vec<u32>,
    pub(crate) log_probability: f64,
    pub(crate) silence: f64,
    pub(crate) temperature: f32,
    pub(crate) compression: f64,
}

/// What decodes a window.
pub(crate) struct Decoding<'a> {
    pub(crate) rounds: &'a Rounds,
    pub(crate) voice: &'a Voice,
    pub(crate) heard: &'a Rc<Heard>,
    pub(crate) ticket: &'a Ticket,
}

#[derive(Clone)]
struct Hypothesis {
    tokens: Vec<u32>,
    sum: f64,
    /// The slots of the prompt and of all tokens that have been read.
    slots: Vec<u32>,
}

impl Hypothesis {
    fn score(&self, end: u32) -> f64 {
        let length = self.tokens.iter().filter(|token| **token != end).count();
        self.sum / length.max(1) as f64
    }

    fn ended(&self, end: u32) -> bool {
        self.tokens.last() == Some(&end)
    }
}

impl Decoding<'_> {
    /// The text after `prompt`, whose token `opening` is the start of the transcript. The last `given` tokens of the prompt
    /// are of the text already.
    pub(crate) async fn run(
        &self,
        prompt: &[u32],
        (opening, given): (usize, usize),
        search: &Search,
    ) -> Result<Found, AiError> {
        let mut last = None;
        for (attempt, temperature) in TEMPERATURES.into_iter().enumerate() {
            let mut random = StdRng::seed_from_u64(attempt as u64);
            let (best, silence) = self.attempt(prompt, (opening, given), search, temperature, &mut random).await?;
            let end = self.voice.tokens.end;
            let tokens: Vec<u32> = best.tokens.iter().copied().filter(|token| *token != end).collect();
            let found = Found {
                log_probability: best.sum / (tokens.len() + 1) as f64,
                compression: compression(&self.voice.tokens.decode(&tokens)),
                silence,
                temperature,
                tokens,
            };
            let unlikely = found.log_probability < search.least_log_probability;
            let doubtful = found.compression > search.most_compression || unlikely;
            let silent = found.silence > search.most_silence && unlikely;
            if !doubtful || silent {
                return Ok(found);
            }
            tracing::debug!(temperature, compression = found.compression, probability = found.log_probability, "again");
            last = Some(found);
        }
        last.ok_or_else(|| AiError::internal("no temperature to decode at"))
    }

    async fn attempt(
        &self,
        prompt: &[u32],
        (opening, given): (usize, usize),
        search: &Search,
        temperature: f32,
        random: &mut StdRng,
    ) -> Result<(Hypothesis, f64), AiError> {
        self.ticket.check()?;
        let Voice { config, tokens, generation, .. } = self.voice;
        let mut rules = Rules::new(tokens, generation, search.timestamps);
        let end = tokens.end;
        let slots: Vec<u32> = (0..prompt.len() as u32).collect();
        let wanted = vec![opening, prompt.len() - 1];
        let answer = self.rounds.read(Read { rows: sequence_rows(prompt), wanted, ..Read::new(self.heard) }).await?;
        let (mut cache, mut logits) = (answer.cache, answer.logits);
        let vocabulary = config.vocabulary;
        let silence = logits[tokens.no_speech as usize] - rules.log_sum(&logits[..vocabulary]);
        logits.drain(..vocabulary);
        let width = if temperature > 0.0 { BEST_OF } else { search.beams };
        let mut live = vec![Hypothesis { tokens: prompt[prompt.len() - given..].to_vec(), sum: 0.0, slots }];
        let mut finished: Vec<Hypothesis> = Vec::new();
        // As in the reference, a window has at most half as many tokens as the decoder has positions.
        let positions = config.decoder.positions;
        let most = (positions / 2).min(positions - prompt.len());
        for step in 0..most {
            self.ticket.check()?;
            for (logits, hypothesis) in logits.chunks_exact_mut(vocabulary).zip(&live) {
                rules.apply(logits, &hypothesis.tokens);
            }
            let next = if temperature > 0.0 {
                sample(&live, &logits, if step == 0 { width } else { 1 }, temperature, random)
            } else {
                extend(&live, &logits, width)
            };
            live.clear();
            for hypothesis in next {
                if live.len() == width {
                    break;
                }
                let into = if hypothesis.ended(end) { &mut finished } else { &mut live };
                into.push(hypothesis);
            }
            if finished.len() >= width || live.is_empty() || step + 1 == most {
                break;
            }
            (cache, logits) = self.step(cache, &mut live, prompt.len() + step).await?;
        }
        finished.truncate(width);
        if finished.len() < width {
            live.sort_by(|a, b| b.sum.total_cmp(&a.sum));
            finished.extend(live.into_iter().take(width - finished.len()));
        }
        let best = finished.into_iter().max_by(|a, b| a.score(end).total_cmp(&b.score(end)));
        let best = best.ok_or_else(|| AiError::model_unavailable("its weights give no token a probability"))?;
        Ok((best, f64::from(silence).exp()))
    }

    /// Reads the last token of each hypothesis; gives the logits after them.
    async fn step(&self, cache: Cache, live: &mut [Hypothesis], position: usize) -> Result<(Cache, Vec<f32>), AiError> {
        // Slots of hypotheses that were dropped are used again.
        let used: std::collections::HashSet<u32> = live.iter().flat_map(|one| &one.slots).copied().collect();
        let mut free = (0..).filter(|slot| !used.contains(slot));
        for hypothesis in live.iter_mut() {
            hypothesis.slots.extend(free.next());
        }
        let row = |one: &Hypothesis| {
            Some(OwnRow { token: *one.tokens.last()?, position, slot: *one.slots.last()?, sees: one.slots.clone() })
        };
        let rows: Vec<OwnRow> = live.iter().filter_map(row).collect();
        let wanted = (0..rows.len()).collect();
        let answer = self.rounds.read(Read { cache, rows, wanted, ..Read::new(self.heard) }).await?;
        Ok((answer.cache, answer.logits))
    }
}

/// The most likely continuations of all hypotheses, best first: as many as can matter.
fn extend(live: &[Hypothesis], logits: &[f32], width: usize) -> Vec<Hypothesis> {
    let vocabulary = logits.len() / live.len();
    let mut candidates: Vec<(f64, usize, u32)> = Vec::new();
    for (index, (hypothesis, logits)) in live.iter().zip(logits.chunks_exact(vocabulary)).enumerate() {
        for (token, value) in top(logits, width + 1) {
            candidates.push((hypothesis.sum + f64::from(value), index, token));
        }
    }
    candidates.sort_by(|a, b| b.0.total_cmp(&a.0));
    // No more than `width` go on, and no more than one end for each hypothesis lies between them.
    candidates.truncate(2 * width + 1);
    let make = |(sum, index, token): (f64, usize, u32)| grown(&live[index], token, sum);
    candidates.into_iter().map(make).collect()
}

fn grown(hypothesis: &Hypothesis, token: u32, sum: f64) -> Hypothesis {
    let mut grown = hypothesis.clone();
    grown.tokens.push(token);
    grown.sum = sum;
    grown
}

/// The `count` most likely tokens that are possible at all.
fn top(logits: &[f32], count: usize) -> Vec<(u32, f32)> {
    let mut best: Vec<(u32, f32)> = Vec::with_capacity(count + 1);
    let mut least = f32::NEG_INFINITY;
    for (token, value) in logits.iter().enumerate() {
        if *value > least {
            let at = best.partition_point(|(_, other)| other >= value);
            best.insert(at, (token as u32, *value));
            best.truncate(count);
            if best.len() == count {
                least = best[count - 1].1;
            }
        }
    }
    best
}

/// `copies` drawn continuations of each hypothesis.
fn sample(
    live: &[Hypothesis],
    logits: &[f32],
    copies: usize,
    temperature: f32,
    random: &mut StdRng,
) -> Vec<Hypothesis> {
    let vocabulary = logits.len() / live.len();
    let mut drawn = Vec::new();
    for (hypothesis, logits) in live.iter().zip(logits.chunks_exact(vocabulary)) {
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weights: Vec<f32> = logits.iter().map(|value| ((value - most) / temperature).exp()).collect();
        let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        for _ in 0..copies {
            let mut point = random.random::<f64>() * total;
            let token = weights.iter().position(|weight| {
                point -= f64::from(*weight);
                point < 0.0 && *weight > 0.0
            });
            let Some(token) = token.or_else(|| weights.iter().rposition(|weight| *weight > 0.0)) else { continue };
            drawn.push(grown(hypothesis, token as u32, hypothesis.sum + f64::from(logits[token])));
        }
    }
    drawn
}

/// How many times smaller zlib makes a text.
fn compression(text: &str) -> f64 {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    // Memory does not refuse writes.
    let written = encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish());
    written.map_or(0.0, |compressed| text.len() as f64 / compressed.len().max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetition_compresses() {
        assert!(compression(&"and so on ".repeat(40)) > 2.4);
        assert!(compression("ask not what your country can do for you") < 1.3);
        assert_eq!(compression(""), 0.0);
    }

    #[test]
    fn the_best_tokens_come_first_and_impossible_ones_never() {
        let logits = [0.5, f32::NEG_INFINITY, 3.0, -1.0, 3.5];
        assert_eq!(top(&logits, 3), [(4, 3.5), (2, 3.0), (0, 0.5)]);
        assert_eq!(top(&[f32::NEG_INFINITY; 4], 3), []);
    }

    #[test]
    fn a_beam_keeps_the_best_of_all_hypotheses() {
        let one = Hypothesis { tokens: vec![7], sum: -1.0, slots: Vec::new() };
        let two = Hypothesis { tokens: vec![8], sum: -1.5, slots: Vec::new() };
        let next = extend(&[one, two], &[-3.0, -0.1, -5.0, -0.2, -9.0, -4.0], 2);
        let tokens: Vec<_> = next.iter().map(|hypothesis| hypothesis.tokens.clone()).collect();
        assert_eq!(tokens[..2], [vec![7, 1], vec![8, 0]]);
    }
}
