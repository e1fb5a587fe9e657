//! The search for an answer: greedy, or with beams as transformers searches.
//!
//! Beams differ from the textbook in what is kept: at each step the best `2 · beams` continuations are looked at (more with
//! several ends), those among the best `beams` that end are finished, and the best that do not end go on. A search starts
//! with one beam, since all would be the same, and has as many as wanted once there are as many continuations.

use host_kernels::elementwise::softmax_terms;
use host_kernels::isa::Isa;

use super::forward::{Encoded, Transformer};
use super::generation::{EarlyStopping, Generation};

/// Why a search gave no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SearchError<E> {
    /// It was told to stop.
    Stopped(E),
    /// Scores are no numbers: the weights are not.
    NotFinite,
}

/// A beam, or what became of one.
#[derive(Debug, Clone)]
struct Hypothesis {
    tokens: Vec<u32>,
    score: f32,
}

/// How a beam may go on.
#[derive(Debug, Clone, Copy)]
struct Continuation {
    beam: usize,
    token: u32,
    score: f32,
}

impl Transformer {
    /// The decoder's tokens for a text, its start among them. `proceed` is asked before each step.
    ///
    /// # Errors
    /// What `proceed` says; scores that are no numbers.
    pub fn generate<E>(
        &mut self,
        source: &Encoded,
        generation: &Generation,
        proceed: &mut dyn FnMut() -> Result<(), E>,
    ) -> Result<Vec<u32>, SearchError<E>> {
        let mut generation = generation.clone();
        generation.limit(self.description().positions_limit);
        if generation.beams == 1 {
            self.greedy(source, &generation, proceed)
        } else {
            self.beams(source, &generation, proceed)
        }
    }

    fn greedy<E>(
        &mut self,
        source: &Encoded,
        generation: &Generation,
        proceed: &mut dyn FnMut() -> Result<(), E>,
    ) -> Result<Vec<u32>, SearchError<E>> {
        let mut said = vec![generation.start];
        let mut beams = self.begin();
        loop {
            proceed().map_err(SearchError::Stopped)?;
            let last = said[said.len() - 1];
            let scores = self.step(source, &mut beams, &[last]);
            if scores.iter().any(|score| !score.is_finite()) {
                return Err(SearchError::NotFinite);
            }
            generation.forbid(&said, scores);
            let mut best = 0;
            for (token, score) in scores.iter().enumerate() {
                if *score > scores[best] {
                    best = token;
                }
            }
            let ended = generation.ended(&said, best as u32);
            said.push(best as u32);
            if ended {
                return Ok(said);
            }
        }
    }

    fn beams<E>(
        &mut self,
        source: &Encoded,
        generation: &Generation,
        proceed: &mut dyn FnMut() -> Result<(), E>,
    ) -> Result<Vec<u32>, SearchError<E>> {
        let vocabulary = self.description().vocabulary();
        let wanted = generation.beams;
        let looked_at = wanted * (1 + generation.ends.len()).max(2);
        let mut running = vec![Hypothesis { tokens: vec![generation.start], score: 0.0 }];
        let mut finished: Vec<Hypothesis> = Vec::new();
        let mut beams = self.begin();
        let mut terms = Vec::new();
        loop {
            proceed().map_err(SearchError::Stopped)?;
            let last: Vec<u32> = running.iter().map(|beam| beam.tokens[beam.tokens.len() - 1]).collect();
            let scores = self.step(source, &mut beams, &last);
            let mut best = Best::new(looked_at);
            for (index, (scores, beam)) in scores.chunks_exact_mut(vocabulary).zip(&running).enumerate() {
                if !to_log_probabilities(scores, &mut terms) {
                    return Err(SearchError::NotFinite);
                }
                generation.forbid(&beam.tokens, scores);
                best.look(index, beam.score, scores);
            }
            // Tokens of an answer do not count its start.
            let length = running[0].tokens.len();
            let (mut next, mut parents) = (Vec::with_capacity(wanted), Vec::with_capacity(wanted));
            for (rank, found) in best.0.iter().enumerate() {
                let said = &running[found.beam].tokens;
                let grown = || [said, &[found.token][..]].concat();
                if generation.ended(said, found.token) {
                    if rank < wanted {
                        let score = found.score / penalty(length, generation);
                        finished.push(Hypothesis { tokens: grown(), score });
                    }
                } else if next.len() < wanted {
                    parents.push(found.beam);
                    next.push(Hypothesis { tokens: grown(), score: found.score });
                }
            }
            // Stable: what came first stays before its equals.
            finished.sort_by(|a, b| b.score.total_cmp(&a.score));
            finished.truncate(wanted);
            running = next;
            if running.is_empty() || done(generation, &finished, running[0].score, length) {
                break;
            }
            beams.keep(&parents);
        }
        // A search whose every continuation is forbidden has said no more than its start.
        Ok(finished.into_iter().next().map_or_else(|| vec![generation.start], |best| best.tokens))
    }
}

/// What a score is divided by.
fn penalty(length: usize, generation: &Generation) -> f32 {
    (length as f64).powf(generation.length_penalty) as f32
}

/// Whether no beam can, or is thought to, become better than those that are finished. `length` is that of the beams.
fn done(generation: &Generation, finished: &[Hypothesis], best: f32, length: usize) -> bool {
    let Some(worst) = finished.get(generation.beams - 1) else { return false };
    let length = match generation.early_stopping {
        EarlyStopping::Full => return true,
        EarlyStopping::Never if generation.length_penalty > 0.0 => generation.max_length - 1,
        EarlyStopping::Never | EarlyStopping::Guess => length,
    };
    best / penalty(length, generation) <= worst.score
}

/// Makes log probabilities of logits; false where they are no numbers.
fn to_log_probabilities(scores: &mut [f32], terms: &mut Vec<f32>) -> bool {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    terms.clear();
    terms.extend_from_slice(scores);
    let mut total = 0.0;
    softmax_terms(Isa::best(), terms, most, &mut total);
    let normalizer = most + total.ln();
    scores.iter_mut().for_each(|score| *score -= normalizer);
    normalizer.is_finite()
}

/// The best continuations, best first and of equals the first.
struct Best(Vec<Continuation>, usize);

impl Best {
    fn new(count: usize) -> Self {
        Self(Vec::with_capacity(count + 1), count)
    }

    fn look(&mut self, beam: usize, base: f32, scores: &[f32]) {
        let mut bar = self.bar();
        for (token, score) in scores.iter().enumerate() {
            let score = base + score;
            if score > bar {
                let at = self.0.partition_point(|other| other.score >= score);
                self.0.insert(at, Continuation { beam, token: token as u32, score });
                self.0.truncate(self.1);
                bar = self.bar();
            }
        }
    }

    /// What a score must be above.
    fn bar(&self) -> f32 {
        if self.0.len() < self.1 { f32::NEG_INFINITY } else { self.0[self.1 - 1].score }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_are_found_in_order() {
        let mut best = Best::new(3);
        best.look(0, -1.0, &[0.0, -5.0, f32::NEG_INFINITY, -1.0]);
        assert_eq!(best.0.len(), 3);
        best.look(1, 0.0, &[-1.0, -4.0, -0.5]);
        let found: Vec<_> = best.0.iter().map(|c| (c.beam, c.token, c.score)).collect();
        assert_eq!(found, [(1, 2, -0.5), (0, 0, -1.0), (1, 0, -1.0)]);
    }

    #[test]
    fn logits_become_log_probabilities() {
        let mut scores = vec![1.0, 2.0, 3.0, -40.0];
        assert!(to_log_probabilities(&mut scores, &mut Vec::new()));
        assert!((scores.iter().map(|score| score.exp()).sum::<f32>() - 1.0).abs() < 1e-6);
        assert!((scores[2] - scores[1] - 1.0).abs() < 1e-6);
        assert!(!to_log_probabilities(&mut [f32::NAN, 1.0], &mut Vec::new()));
        assert!(!to_log_probabilities(&mut [f32::INFINITY, 1.0], &mut Vec::new()));
    }
}
