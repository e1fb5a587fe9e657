//! Whisper's tokens: texts as bytes, and the special ones that steer a transcript.
//!
//! Which number a special token has differs between the English and the multilingual models and again since large-v3, so
//! each is looked up by its name. Timestamps are the tokens after the last named one, in steps of 20 ms.

use std::path::Path;

use tokenizers::Tokenizer;

use super::config::Config;
use crate::store::read_text;

const TOKENIZER_BYTES: u64 = 256 << 20;
/// Texts that are put before a transcript are cut long before the tokenizer's work could grow.
const PROMPT_BYTES: usize = 16 << 10;
/// Languages whose writing has no spaces between words.
const UNSPACED: [&str; 6] = ["zh", "ja", "th", "lo", "my", "yue"];

pub(crate) struct Tokens {
    tokenizer: Tokenizer,
    /// The bytes of each token of text.
    bytes: Vec<Vec<u8>>,
    pub(crate) end: u32,
    pub(crate) start: u32,
    pub(crate) translate: u32,
    pub(crate) transcribe: u32,
    pub(crate) previous: u32,
    pub(crate) no_speech: u32,
    pub(crate) no_timestamps: u32,
    /// The timestamp 0.
    pub(crate) first_timestamp: u32,
    /// Code and token of each language; none in a model that knows English only.
    pub(crate) languages: Vec<(String, u32)>,
}

impl Tokens {
    /// Reads `tokenizer.json` of `folder`. The error says what it lacks.
    pub(crate) fn load(folder: &Path, config: &Config, multilingual: bool) -> Result<Tokens, String> {
        let path = folder.join("tokenizer.json");
        let data = read_text(&path, TOKENIZER_BYTES).map_err(|error| error.to_string())?;
        let mut tokenizer =
            Tokenizer::from_bytes(&data).map_err(|error| format!("{} is broken: {error}", path.display()))?;
        tokenizer.with_padding(None);
        let _ = tokenizer.with_truncation(None);
        let find = |names: &[&str]| {
            let token = names.iter().find_map(|name| tokenizer.token_to_id(name));
            token
                .filter(|token| (*token as usize) < config.vocabulary)
                .ok_or_else(|| format!("{} has no token {} that the model knows", path.display(), names.join(" or ")))
        };
        let start = find(&["<|startoftranscript|>"])?;
        let translate = find(&["<|translate|>"])?;
        let no_timestamps = find(&["<|notimestamps|>"])?;
        let end = find(&["<|endoftext|>"])?;
        if no_timestamps as usize + config.encoder.positions + 1 >= config.vocabulary {
            return Err(format!("{}: no timestamps follow <|notimestamps|>", path.display()));
        }
        let language = |token: u32| {
            let name = tokenizer.id_to_token(token)?;
            Some((name.strip_prefix("<|")?.strip_suffix("|>")?.to_owned(), token))
        };
        let languages: Vec<_> =
            if multilingual { (start + 1..translate).filter_map(language).collect() } else { Vec::new() };
        let text = |token: u32| tokenizer.id_to_token(token).map(|text| bytes_of(&text)).unwrap_or_default();
        Ok(Tokens {
            bytes: (0..end.min(config.vocabulary as u32)).map(text).collect(),
            transcribe: find(&["<|transcribe|>"])?,
            previous: find(&["<|startofprev|>"])?,
            no_speech: find(&["<|nospeech|>", "<|nocaptions|>"])?,
            first_timestamp: no_timestamps + 1,
            end,
            start,
            translate,
            no_timestamps,
            languages,
            tokenizer,
        })
    }

    /// The tokens that a transcript begins with.
    pub(crate) fn opening(&self, language: &str, translate: bool) -> Vec<u32> {
        let mut opening = vec![self.start];
        if let Some((_, token)) = self.languages.iter().find(|(code, _)| code == language) {
            opening.extend([*token, if translate { self.translate } else { self.transcribe }]);
        }
        opening
    }

    /// A text's tokens, special ones in it taken as text. Long texts lose their beginning.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        let mut begin = text.len().saturating_sub(PROMPT_BYTES);
        while !text.is_char_boundary(begin) {
            begin += 1;
        }
        let encoding = self.tokenizer.encode_fast(&text[begin..], false).map_err(|error| error.to_string())?;
        Ok(encoding.get_ids().iter().copied().filter(|token| *token < self.end).collect())
    }

    /// The text of the tokens, special ones left out.
    pub(crate) fn decode(&self, tokens: &[u32]) -> String {
        String::from_utf8_lossy(&self.raw(tokens)).into_owned()
    }

    fn raw(&self, tokens: &[u32]) -> Vec<u8> {
        tokens.iter().filter_map(|token| self.bytes.get(*token as usize)).flatten().copied().collect()
    }

    /// Whether a token can only be text of silence: a space, or none at all.
    pub(crate) fn is_blank(&self, token: u32) -> bool {
        token == self.end || self.bytes.get(token as usize).is_some_and(|bytes| bytes == b" ")
    }

    /// Cuts tokens of text into words: their text and how many tokens make it.
    pub(crate) fn words(&self, tokens: &[u32], language: &str) -> Vec<(String, usize)> {
        let characters = self.characters(tokens);
        if UNSPACED.contains(&language) {
            return characters;
        }
        let mut words: Vec<(String, usize)> = Vec::new();
        for (text, count) in characters {
            let alone = text.starts_with(' ') || text.trim().chars().all(|c| c.is_ascii_punctuation());
            match words.last_mut().filter(|_| !alone) {
                Some((word, tokens)) => {
                    word.push_str(&text);
                    *tokens += count;
                }
                None => words.push((text, count)),
            }
        }
        words
    }

    /// The smallest runs of tokens that are whole characters.
    fn characters(&self, tokens: &[u32]) -> Vec<(String, usize)> {
        let (mut runs, mut begin) = (Vec::new(), 0);
        for end in 1..=tokens.len() {
            let text = String::from_utf8(self.raw(&tokens[begin..end]));
            if let Ok(text) = text {
                runs.push((text, end - begin));
                begin = end;
            } else if end == tokens.len() {
                runs.push((self.decode(&tokens[begin..]), end - begin));
            }
        }
        runs
    }
}

/// The bytes that a token of a byte-level vocabulary is written for: printable ones stand for themselves, the others
/// are counted up from U+0100.
fn bytes_of(token: &str) -> Vec<u8> {
    token.chars().filter_map(byte_of).collect()
}

pub(crate) fn byte_of(letter: char) -> Option<u8> {
    let printable = |byte: u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let code = u32::from(letter);
    match u8::try_from(code) {
        Ok(byte) => printable(byte).then_some(byte),
        Err(_) => (0..=255).filter(|byte| !printable(*byte)).nth(code.checked_sub(256)? as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::speech::testing::{golden, tiny_en};
    use crate::store::read_config;

    fn load(folder: &Path, multilingual: bool) -> Tokens {
        let config = Config::parse(read_config(folder).unwrap()).unwrap();
        Tokens::load(folder, &config, multilingual).unwrap()
    }

    #[test]
    fn the_english_model_has_no_languages() {
        let tokens = load(&tiny_en(), false);
        assert_eq!((tokens.end, tokens.start, tokens.no_timestamps), (50256, 50257, 50362));
        assert_eq!(tokens.opening("en", false), [50257]);
        let text = " And so my fellow Americans";
        assert_eq!(tokens.encode(text).unwrap(), [843, 523, 616, 5891, 3399]);
        assert_eq!(tokens.decode(&[843, 523, 616, 5891, 3399, 50256, 50400]), text);
    }

    #[test]
    fn every_byte_is_a_letter() {
        let tokens = load(&golden("tiny"), true);
        assert_eq!(tokens.languages.iter().map(|(code, _)| code.as_str()).collect::<Vec<_>>(), ["en", "de", "fr"]);
        assert_eq!(tokens.opening("de", true), [257, 259, 261]);
        let text = "Grüße, 日本! <|endoftext|>";
        let encoded = tokens.encode(text).unwrap();
        assert_eq!(tokens.decode(&encoded), "Grüße, 日本! ", "special tokens in a text are not the text's to give");
    }

    #[test]
    fn words_are_cut_at_spaces_and_signs_and_never_in_a_character() {
        let tokens = load(&golden("tiny"), true);
        let words = |text: &str, language: &str| {
            let encoded = tokens.encode(text).unwrap();
            let words = tokens.words(&encoded, language);
            assert_eq!(words.iter().map(|(_, count)| count).sum::<usize>(), encoded.len());
            words.into_iter().map(|(word, _)| word).collect::<Vec<_>>()
        };
        assert_eq!(words(" Grüße, dear", "de"), [" Grüße", ",", " dear"]);
        assert_eq!(words("日本", "ja"), ["日", "本"]);
        assert_eq!(tokens.words(&[0xe6], "de"), [("\u{fffd}".to_owned(), 1)]);
    }
}
