//! What an answer may say next, guessed without the model: prompt lookup.
//!
//! Where the last tokens occurred before, in the prompt or in the answer, the answer is likely to go on as it did there
//! (Saxena 2023, "Prompt Lookup Decoding"). The model reads the guess together with the token before it and so gives the
//! logits after each of its tokens in one step. Each is then picked as ever, and the guess is followed as long as it is
//! what was picked: the answer is token for token the one without guesses, whatever the temperature.
//!
//! A row more in a step is cheap while steps are bound by reading weights, but not free, so a guess is as long as it is
//! likely to pay: its tokens' odds are those that this answer's guesses had so far, and a step of many rows asks for
//! better ones.

use std::collections::HashMap;

/// Tokens that must agree before a guess is made.
const AGREE: usize = 3;
/// How far an agreement is followed back, and how many places are compared for the longest.
const LONGEST: usize = 32;
const PLACES: usize = 8;
/// Tokens of a guess.
const MAX_DRAFT: usize = 12;
/// What a row more costs, as a share of a step of one row: 0.28 for SmolLM2 in Q4_1 on one AVX-512 thread.
const ROW: f32 = 0.3;
/// The odds of a first guess, and how fast experience changes them.
const FIRST_ODDS: f32 = 0.7;
const RATE: f32 = 0.15;
/// Guesses that do not pay are left out for this many tokens, twice as many each time.
const PAUSE: usize = 16;
const LONGEST_PAUSE: usize = 256;

/// The odds above which one more token of a guess pays in a step of `rows` rows: a token that is accepted saves its
/// share of a later step, which costs `1 + ROW * (rows - 1)` for `rows` tokens.
pub(super) fn odds_that_pay(rows: usize) -> f32 {
    let rows = rows.max(1) as f32;
    ROW * rows / (1.0 + ROW * (rows - 1.0))
}

/// The guesses of one sequence.
#[derive(Default)]
pub(crate) struct Drafts {
    /// Where the tokens after an [`AGREE`]-gram stand, the last place of each.
    last: HashMap<[u32; AGREE], u32>,
    /// For each place, the one before it that follows the same tokens; 0 where there is none.
    before: Vec<u32>,
    odds: Option<f32>,
    paused_until: usize,
    pause: usize,
}

impl Drafts {
    /// Up to `limit` tokens that may follow `tokens`; none where tokens of lower odds than `paying` would not help.
    pub(crate) fn propose(&mut self, tokens: &[u32], limit: usize, paying: f32) -> Vec<u32> {
        self.index(tokens);
        if tokens.len() < self.paused_until {
            return Vec::new();
        }
        let odds = self.odds.unwrap_or(FIRST_ODDS);
        if odds <= paying {
            // Only a step that guesses can find that it pays again.
            if odds <= odds_that_pay(1) {
                self.pause = (self.pause * 2).clamp(PAUSE, LONGEST_PAUSE);
                self.paused_until = tokens.len() + self.pause;
                self.odds = None;
            }
            return Vec::new();
        }
        let Some(place) = self.find(tokens) else { return Vec::new() };
        // The token at depth n is reached with odds to the power of n.
        let depth = if odds < 1.0 { (paying.ln() / odds.ln()) as usize } else { MAX_DRAFT };
        let length = depth.clamp(1, MAX_DRAFT).min(limit);
        let mut draft: Vec<u32> = Vec::with_capacity(length);
        for i in place..place + length {
            let next = tokens.get(i).or_else(|| draft.get(i - tokens.len())).copied();
            draft.extend(next);
        }
        draft
    }

    /// Learns that of a guess of `drafted` tokens the first `accepted` were right.
    pub(crate) fn judge(&mut self, drafted: usize, accepted: usize) {
        let mut odds = self.odds.unwrap_or(FIRST_ODDS);
        for _ in 0..accepted {
            odds += RATE * (1.0 - odds);
        }
        if accepted < drafted {
            odds -= RATE * odds;
        }
        if accepted > 0 {
            self.pause = 0;
        }
        self.odds = Some(odds);
    }

    /// Enters the places up to the last token's.
    fn index(&mut self, tokens: &[u32]) {
        while self.before.len() < tokens.len() {
            let place = self.before.len();
            let gram = place.checked_sub(AGREE).and_then(|start| tokens[start..place].first_chunk::<AGREE>());
            let known = gram.and_then(|gram| self.last.insert(*gram, u32::try_from(place).unwrap_or(0)));
            self.before.push(known.unwrap_or(0));
        }
    }

    /// The place before which the most tokens are those at the end of `tokens`; of equals, the last.
    fn find(&self, tokens: &[u32]) -> Option<usize> {
        let mut place = *self.last.get(tokens.last_chunk::<AGREE>()?)? as usize;
        let (mut best, mut longest) = (0, 0);
        for _ in 0..PLACES {
            if place == 0 {
                break;
            }
            let agreed = tokens[..place].iter().rev().zip(tokens.iter().rev()).take(LONGEST);
            let length = agreed.take_while(|(a, b)| a == b).count();
            if length > longest {
                (best, longest) = (place, length);
            }
            place = self.before[place] as usize;
        }
        (longest >= AGREE).then_some(best)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALWAYS: f32 = 0.01;

    #[test]
    fn the_longest_agreement_is_followed() {
        let tokens = [9, 1, 2, 3, 70, 71, 5, 1, 2, 3, 80, 81, 9, 1, 2, 3];
        assert_eq!(Drafts::default().propose(&tokens, 2, ALWAYS), [70, 71]);
        assert_eq!(Drafts::default().propose(&tokens[..12], 3, ALWAYS), [0u32; 0], "nothing ends so");
        // Of two agreements of the same length the later one.
        assert_eq!(Drafts::default().propose(&[1, 2, 3, 7, 1, 2, 3, 8, 1, 2, 3], 1, ALWAYS), [8]);
        for short in [&[][..], &[1], &[1, 1, 1]] {
            assert!(Drafts::default().propose(short, 4, ALWAYS).is_empty());
        }
    }

    #[test]
    fn a_repetition_goes_on_beyond_its_end() {
        assert_eq!(Drafts::default().propose(&[1, 2, 1, 2, 1, 2], 5, ALWAYS), [1, 2, 1, 2, 1]);
    }

    #[test]
    fn an_index_that_grows_is_that_of_the_whole() {
        let tokens: Vec<u32> = (0..400u32).map(|i| (i * i + i / 7) % 5).collect();
        let mut growing = Drafts::default();
        for end in 0..tokens.len() {
            let whole = Drafts::default().propose(&tokens[..end], 6, ALWAYS);
            assert_eq!(growing.propose(&tokens[..end], 6, ALWAYS), whole);
        }
    }

    #[test]
    fn guesses_are_as_long_as_they_pay() {
        let tokens = [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3];
        let mut drafts = Drafts::default();
        let mut length = |paying| drafts.propose(&tokens, 99, paying).len();
        assert_eq!((length(0.5), length(0.3), length(0.9)), (1, 3, 0));
        for _ in 0..30 {
            drafts.judge(4, 4);
        }
        assert_eq!(drafts.propose(&tokens, 99, odds_that_pay(1)).len(), MAX_DRAFT);
        assert_eq!(drafts.propose(&tokens, 3, odds_that_pay(1)).len(), 3);
        // Guesses that fail are left out for a while and then tried again.
        for _ in 0..40 {
            drafts.judge(4, 0);
        }
        let mut tokens: Vec<u32> = std::iter::repeat_n(5, 20).collect();
        assert!(drafts.propose(&tokens, 4, odds_that_pay(1)).is_empty());
        tokens.extend(std::iter::repeat_n(5, PAUSE - 1));
        assert!(drafts.propose(&tokens, 4, odds_that_pay(1)).is_empty());
        tokens.push(5);
        assert!(!drafts.propose(&tokens, 4, odds_that_pay(1)).is_empty());
    }

    #[test]
    fn many_rows_ask_for_better_odds() {
        let odds: Vec<f32> = [1, 4, 16, 128].map(odds_that_pay).to_vec();
        assert!(odds.is_sorted() && odds[0] == ROW && odds[3] < 1.0 && odds[2] > 0.85, "{odds:?}");
    }
}
