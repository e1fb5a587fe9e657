//! What may not be said next, whatever its score.

use super::generation::Generation;

impl Generation {
    /// Puts the scores of what may not follow `said` down to negative infinity.
    pub(super) fn forbid(&self, said: &[u32], scores: &mut [f32]) {
        let mut ban = |token: u32| scores[token as usize] = f32::NEG_INFINITY;
        if self.no_repeat > 0 && said.len() + 1 >= self.no_repeat {
            let recent = &said[said.len() + 1 - self.no_repeat..];
            for run in said.windows(self.no_repeat).filter(|run| run[..self.no_repeat - 1] == *recent) {
                ban(run[self.no_repeat - 1]);
            }
        }
        for word in &self.bad_words {
            // A word that is an end alone is not forbidden: nothing could end.
            let (Some((last, before)), false) = (word.split_last(), word.len() == 1 && self.ends.contains(&word[0]))
            else {
                continue;
            };
            if said.ends_with(before) {
                ban(*last);
            }
        }
        if said.len() < self.min_length {
            self.ends.iter().for_each(|end| ban(*end));
        }
        if let Some(first) = self.forced_first.filter(|_| said.len() == 1) {
            only(first, scores);
        }
        if let Some(last) = self.forced_last.filter(|_| said.len() + 1 == self.max_length) {
            only(last, scores);
        }
    }

    /// Whether an answer of these tokens goes no further.
    pub(super) fn ended(&self, said: &[u32], next: u32) -> bool {
        self.ends.contains(&next) || said.len() + 1 >= self.max_length
    }
}

fn only(token: u32, scores: &mut [f32]) {
    scores.fill(f32::NEG_INFINITY);
    scores[token as usize] = 0.0;
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn banned(settings: Value, said: &[u32]) -> Vec<usize> {
        let mut map = json!({ "decoder_start_token_id": 0, "eos_token_id": 9 });
        map.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        let generation = Generation::read(&[map.as_object().unwrap()], 10).unwrap();
        let mut scores = [1.0; 10];
        generation.forbid(said, &mut scores);
        (0..10).filter(|token| scores[*token] == f32::NEG_INFINITY).collect()
    }

    #[test]
    fn rules_ban_what_they_say() {
        assert_eq!(banned(json!({ "no_repeat_ngram_size": 2 }), &[0, 1, 2, 1, 3, 1]), [2, 3]);
        assert_eq!(banned(json!({ "no_repeat_ngram_size": 3 }), &[0, 1, 2, 3, 1, 2]), [3]);
        assert_eq!(banned(json!({ "no_repeat_ngram_size": 1 }), &[0, 4]), [0, 4]);
        assert_eq!(banned(json!({ "no_repeat_ngram_size": 5 }), &[0, 4]), [0; 0]);
        assert_eq!(banned(json!({ "bad_words_ids": [[5], [1, 2], [9]] }), &[0, 1]), [2, 5]);
        assert_eq!(banned(json!({ "min_length": 3 }), &[0, 1]), [9]);
        assert_eq!(banned(json!({ "min_length": 2 }), &[0, 1]), [0; 0]);
        assert_eq!(banned(json!({ "forced_bos_token_id": 4 }), &[0]), [0, 1, 2, 3, 5, 6, 7, 8, 9]);
        let forced = json!({ "forced_eos_token_id": 9, "max_length": 4, "no_repeat_ngram_size": 1 });
        assert_eq!(banned(forced.clone(), &[0, 9, 1]), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(banned(forced, &[0, 1]), [0, 1]);
    }
}
