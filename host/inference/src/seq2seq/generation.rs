//! How an answer is searched for: what `generation_config.json` says, or an older `config.json`, in transformers' words.

use serde_json::{Map, Value};

use super::config::Keys;

/// Beams are rows of every product; published settings have up to 12.
const MAX_BEAMS: usize = 16;
const MAX_TOKENS: usize = 1 << 16;
/// The bound on an answer where the files give none.
const DEFAULT_LENGTH: usize = 200;
/// Bounds on what may not be said.
const MAX_BAD_WORDS: usize = 4096;
const MAX_BAD_WORD: usize = 64;
const MAX_ENDS: usize = 16;

/// When a search with beams stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlyStopping {
    /// When no beam is better now than the worst of the finished ones: the usual guess.
    Guess,
    /// As soon as there are as many finished ones as beams.
    Full,
    /// When no beam can become better than the worst of the finished ones.
    Never,
}

/// Settings of a search. Lengths count the decoder's start token.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The decoder's first token.
    pub start: u32,
    /// Tokens that end an answer.
    pub ends: Vec<u32>,
    /// What must follow the start.
    pub forced_first: Option<u32>,
    /// What must be the last where `max_length` is reached.
    pub forced_last: Option<u32>,
    /// Beams; 1 is greedy.
    pub beams: usize,
    /// Scores are divided by the length to this power.
    pub length_penalty: f64,
    /// When to stop.
    pub early_stopping: EarlyStopping,
    /// No run of so many tokens comes twice; 0 for no such rule.
    pub no_repeat: usize,
    /// No end before so many tokens.
    pub min_length: usize,
    /// The most tokens.
    pub max_length: usize,
    /// Runs of tokens that may not come.
    pub bad_words: Vec<Vec<u32>>,
}

impl Generation {
    /// Reads settings, each out of the first of `sources` that has it. Tokens are below `vocabulary`.
    ///
    /// Sampling is not among them: an answer is the best that is found, also where the files ask for a random one.
    ///
    /// # Errors
    /// The key whose value is out of bounds.
    pub fn read(sources: &[&Map<String, Value>], vocabulary: usize) -> Result<Self, String> {
        let of = |key: &str| {
            let found = sources.iter().find(|source| source.get(key).is_some_and(|value| !value.is_null()));
            Keys(found.unwrap_or(&sources[0]))
        };
        let number = |key: &str, most: usize| of(key).number(key, 0, most);
        let token = |key: &str| -> Result<Option<u32>, String> {
            Ok(number(key, vocabulary - 1)?.and_then(|token| u32::try_from(token).ok()))
        };
        let ends = match of("eos_token_id").get("eos_token_id") {
            None => Vec::new(),
            Some(Value::Array(list)) => {
                tokens(list, vocabulary, MAX_ENDS).ok_or("eos_token_id is no list of tokens")?
            }
            Some(_) => token("eos_token_id")?.into_iter().collect(),
        };
        let Some(start) = token("decoder_start_token_id")?.or(token("bos_token_id")?) else {
            return Err("decoder_start_token_id is missing".to_owned());
        };
        // Where an end is forced it may be given as a list of one.
        let forced_last = match of("forced_eos_token_id").get("forced_eos_token_id") {
            Some(Value::Array(list)) => {
                tokens(list, vocabulary, MAX_ENDS).ok_or("forced_eos_token_id is no token")?.first().copied()
            }
            _ => token("forced_eos_token_id")?,
        };
        let early_stopping = match of("early_stopping").get("early_stopping") {
            None | Some(Value::Bool(false)) => EarlyStopping::Guess,
            Some(Value::Bool(true)) => EarlyStopping::Full,
            Some(Value::String(word)) if word == "never" => EarlyStopping::Never,
            Some(other) => return Err(format!("early_stopping is {other:.40}; true, false and \"never\" are known")),
        };
        let length_penalty = match of("length_penalty").get("length_penalty") {
            None => 1.0,
            Some(value) => value.as_f64().filter(|value| value.abs() <= 100.0).ok_or("length_penalty is no number")?,
        };
        let new = number("max_new_tokens", MAX_TOKENS)?.map(|new| new + 1);
        let generation = Self {
            start,
            ends,
            forced_first: token("forced_bos_token_id")?,
            forced_last,
            beams: of("num_beams").number("num_beams", 1, MAX_BEAMS)?.unwrap_or(1),
            length_penalty,
            early_stopping,
            no_repeat: number("no_repeat_ngram_size", MAX_TOKENS)?.unwrap_or(0),
            min_length: number("min_length", MAX_TOKENS)?.unwrap_or(0),
            max_length: new.or(number("max_length", MAX_TOKENS)?).unwrap_or(DEFAULT_LENGTH).max(2),
            bad_words: bad_words(of("bad_words_ids").get("bad_words_ids"), vocabulary)?,
        };
        Ok(generation)
    }

    /// Lowers the bound on the length to `max_length`, and with it the least length.
    pub fn limit(&mut self, max_length: usize) {
        self.max_length = self.max_length.min(max_length.max(2));
        self.min_length = self.min_length.min(self.max_length - 1);
    }
}

fn tokens(list: &[Value], vocabulary: usize, most: usize) -> Option<Vec<u32>> {
    if list.len() > most {
        return None;
    }
    let token = |value: &Value| value.as_u64().filter(|token| *token < vocabulary as u64);
    list.iter().map(|value| token(value).and_then(|token| u32::try_from(token).ok())).collect()
}

fn bad_words(value: Option<&Value>, vocabulary: usize) -> Result<Vec<Vec<u32>>, String> {
    let Some(value) = value else { return Ok(Vec::new()) };
    let lists = value.as_array().filter(|lists| lists.len() <= MAX_BAD_WORDS);
    let words = lists.and_then(|lists| {
        let word = |list: &Value| tokens(list.as_array()?, vocabulary, MAX_BAD_WORD).filter(|word| !word.is_empty());
        lists.iter().map(word).collect()
    });
    words.ok_or_else(|| "bad_words_ids is no list of lists of tokens".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(settings: Value) -> Result<Generation, String> {
        Generation::read(&[settings.as_object().unwrap()], 64)
    }

    #[test]
    fn the_first_source_that_says_something_counts() {
        let (own, old) = (
            json!({ "num_beams": 3, "max_length": null }),
            json!({ "num_beams": 5, "max_length": 40,
            "decoder_start_token_id": 2, "eos_token_id": [2, 3] }),
        );
        let read = Generation::read(&[own.as_object().unwrap(), old.as_object().unwrap()], 64).unwrap();
        assert_eq!((read.beams, read.max_length, read.start, read.ends), (3, 40, 2, vec![2, 3]));
    }

    #[test]
    fn settings_out_of_bounds_are_named() {
        let cases = [
            (json!({}), "decoder_start_token_id is missing"),
            (json!({ "decoder_start_token_id": 64 }), "decoder_start_token_id is 64, no whole number from 0 to 63"),
            (json!({ "decoder_start_token_id": 0, "num_beams": 17 }), "num_beams is 17, no whole number from 1 to 16"),
            (json!({ "decoder_start_token_id": 0, "eos_token_id": [64] }), "eos_token_id is no list of tokens"),
            (json!({ "decoder_start_token_id": 0, "bad_words_ids": [[]] }), "bad_words_ids is no list of lists"),
            (json!({ "decoder_start_token_id": 0, "early_stopping": "now" }), "early_stopping is \"now\""),
            (json!({ "decoder_start_token_id": 0, "length_penalty": "much" }), "length_penalty is no number"),
        ];
        for (settings, message) in cases {
            let error = read(settings).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn a_lower_bound_lowers_the_least_length_too() {
        let mut generation = read(json!({ "decoder_start_token_id": 0, "min_length": 56, "max_length": 142 })).unwrap();
        generation.limit(1024);
        assert_eq!((generation.min_length, generation.max_length), (56, 142));
        generation.limit(10);
        assert_eq!((generation.min_length, generation.max_length), (9, 10));
        generation.limit(0);
        assert_eq!((generation.min_length, generation.max_length), (1, 2));
    }
}
