//! Which token may come next.
//!
//! A transcript with timestamps is a text between two of them, again and again, and timestamps never go back. The model
//! mostly keeps to that by itself; where it would not, these rules make it.

use host_kernels::elementwise::softmax_terms;
use host_kernels::isa::Isa;

use super::config::Generation;
use super::tokens::Tokens;

/// A first segment begins within the first second unless a checkpoint says otherwise.
const FIRST_SECOND: usize = 50;

pub(crate) struct Rules {
    isa: Isa,
    suppress: Vec<u32>,
    blank: Vec<u32>,
    timestamps: bool,
    end: usize,
    first_timestamp: usize,
    no_timestamps: usize,
    latest_start: usize,
    scratch: Vec<f32>,
}

impl Rules {
    pub(crate) fn new(tokens: &Tokens, generation: &Generation, timestamps: bool) -> Rules {
        let mut suppress = generation.suppress.clone();
        suppress.extend([tokens.start, tokens.translate, tokens.transcribe, tokens.previous, tokens.no_speech]);
        if tokens.previous > 0 {
            // `<|startoflm|>`, of no use to anyone, stands before it.
            suppress.push(tokens.previous - 1);
        }
        Rules {
            isa: Isa::best(),
            suppress,
            blank: (0..=tokens.end).filter(|token| tokens.is_blank(*token)).collect(),
            timestamps,
            end: tokens.end as usize,
            first_timestamp: tokens.first_timestamp as usize,
            no_timestamps: tokens.no_timestamps as usize,
            latest_start: generation.max_initial_timestamp.unwrap_or(FIRST_SECOND),
            scratch: Vec::new(),
        }
    }

    /// Turns logits into log probabilities of what may follow `sampled`.
    pub(crate) fn apply(&mut self, logits: &mut [f32], sampled: &[u32]) {
        for token in &self.suppress {
            logits[*token as usize] = f32::NEG_INFINITY;
        }
        if sampled.is_empty() {
            for token in &self.blank {
                logits[*token as usize] = f32::NEG_INFINITY;
            }
        }
        logits[self.no_timestamps] = f32::NEG_INFINITY;
        if self.timestamps {
            self.pair_timestamps(logits, sampled);
        } else {
            logits[self.first_timestamp..].fill(f32::NEG_INFINITY);
        }
        let total = self.log_sum(logits);
        for value in logits {
            *value -= total;
        }
    }

    fn pair_timestamps(&mut self, logits: &mut [f32], sampled: &[u32]) {
        let first = self.first_timestamp;
        let is_timestamp = |token: &u32| *token as usize >= first;
        let last = sampled.last().is_some_and(is_timestamp);
        let before = sampled.len() < 2 || is_timestamp(&sampled[sampled.len() - 2]);
        match (last, before) {
            (true, true) => logits[first..].fill(f32::NEG_INFINITY),
            (true, false) => logits[..self.end].fill(f32::NEG_INFINITY),
            (false, _) => {}
        }
        if let Some(latest) = sampled.iter().rfind(|token| is_timestamp(token)) {
            // A segment that ended may begin the next one where it did; one that is open ends later than it began.
            let just_ended = last && !before;
            let least = *latest as usize + usize::from(!just_ended);
            let least = least.min(logits.len());
            logits[first..least].fill(f32::NEG_INFINITY);
        }
        if sampled.is_empty() {
            logits[..first].fill(f32::NEG_INFINITY);
            let latest = (first + self.latest_start + 1).min(logits.len());
            logits[latest..].fill(f32::NEG_INFINITY);
        }
        let text = logits[..first].iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if text > f32::NEG_INFINITY && self.log_sum(&logits[first..]) > text {
            logits[..first].fill(f32::NEG_INFINITY);
        }
    }

    /// The logarithm of the sum of exponentials.
    pub(crate) fn log_sum(&mut self, values: &[f32]) -> f32 {
        let most = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if most == f32::NEG_INFINITY {
            return most;
        }
        self.scratch.clear();
        self.scratch.extend_from_slice(values);
        let mut total = 0.0;
        softmax_terms(self.isa, &mut self.scratch, most, &mut total);
        most + total.ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::speech::config::Config;
    use crate::speech::testing::golden;
    use crate::store::read_config;

    const FIRST: u32 = 267;

    /// What may follow, of the tiny model's 318 tokens, where the logits are all the same but for `likely`.
    fn allowed(sampled: &[u32], likely: &[u32], timestamps: bool) -> Vec<u32> {
        let config = Config::parse(read_config(&golden("tiny")).unwrap()).unwrap();
        let tokens = Tokens::load(&golden("tiny"), &config, true).unwrap();
        assert_eq!((tokens.first_timestamp, config.vocabulary), (FIRST, 318));
        let generation = Generation { max_initial_timestamp: Some(10), ..Generation::default() };
        let mut rules = Rules::new(&tokens, &generation, timestamps);
        let mut logits = vec![0.0; config.vocabulary];
        likely.iter().for_each(|token| logits[*token as usize] = 20.0);
        rules.apply(&mut logits, sampled);
        let total: f32 = logits.iter().map(|value| value.exp()).sum();
        assert!((total - 1.0).abs() < 1e-4, "probabilities sum to {total}");
        (0..318).filter(|token| logits[*token as usize] > f32::NEG_INFINITY).collect()
    }

    #[test]
    fn a_transcript_begins_with_an_early_timestamp() {
        assert_eq!(allowed(&[], &[65], true), (FIRST..=FIRST + 10).collect::<Vec<_>>());
        assert!(!allowed(&[], &[65], false).contains(&32), "a space says nothing");
    }

    #[test]
    fn timestamps_come_in_pairs_and_do_not_go_back() {
        let text = allowed(&[FIRST], &[65], true);
        assert!(text.contains(&65) && text.iter().all(|token| *token < FIRST), "text follows the first");
        let open = allowed(&[FIRST + 5, 65], &[65], true);
        assert!(open.contains(&66) && !open.contains(&(FIRST + 5)) && open.contains(&(FIRST + 6)));
        let ended = allowed(&[FIRST, 65, FIRST + 9], &[65, 256], true);
        assert!(ended.contains(&256) && ended.contains(&(FIRST + 9)) && !ended.contains(&(FIRST + 8)));
        assert!(!ended.contains(&65), "no text outside of a pair");
        let again = allowed(&[FIRST, 65, FIRST + 9, FIRST + 9], &[65], true);
        assert!(again.contains(&65) && again.iter().all(|token| *token < FIRST));
    }

    #[test]
    fn a_timestamp_comes_when_all_of_them_are_likelier_than_any_text() {
        let every: Vec<u32> = (FIRST..318).collect();
        assert!(allowed(&[FIRST, 65], &every, true).iter().all(|token| *token >= FIRST));
        assert!(allowed(&[65], &every, false).iter().all(|token| *token < FIRST));
    }
}
