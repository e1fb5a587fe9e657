//! `tokenizer.json` of a Whisper model whose form has its words and nothing of how they are joined.
//!
//! Words are numbered in the order in which they were learned, so a word's number is the rank of the join that makes it:
//! the two halves are what the joins before it leave of its bytes. That is how the original's tokenizer works too, which
//! has ranks and no list of joins. The special tokens after the words have the same order in every published model.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};
use tokenizers::Tokenizer;

/// The longest word of a published model has 128 bytes.
const WORD_BYTES: usize = 160;
/// Published models have some 51 thousand words.
const WORDS: usize = 1 << 18;

/// The languages, in the order of their tokens. The last came with large-v3.
const LANGUAGES: &str = "en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th ur \
                         hr bg lt la mi ml cy sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr pa si \
                         km sn yo so af oc ka be tg sd gu am yi lo uz fo ht ps tk nn mt sa lb my bo tl mg as tt haw ln \
                         ha ba jw su yue";

/// What stands around sounds that are no speech, and signs of music.
const SIGNS: &str = "\" # ( ) * + / : ; < = > @ [ \\ ] ^ _ ` { | } ~ 「 」 『 』 << >> <<< >>> -- --- -( -[ (' (\" (( )) \
                     ((( ))) [[ ]] {{ }} ♪♪ ♪♪♪";
const MUSIC: &str = "♩ ♪ ♫ ♬ ♭ ♮ ♯";

/// The special tokens of a model with so many languages, in order, from the one that ends a text to the one before the
/// timestamps. Languages beyond those that are known have no name.
pub(in crate::store) fn special(languages: usize) -> Vec<String> {
    let mut known = LANGUAGES.split_whitespace();
    let mut language =
        |at: usize| known.next().map_or_else(|| format!("<|language-{at}|>"), |code| format!("<|{code}|>"));
    let owned = |names: &[&str]| names.iter().map(|name| format!("<|{name}|>")).collect::<Vec<_>>();
    let mut tokens = owned(&["endoftext", "startoftranscript"]);
    tokens.extend((0..languages.min(WORDS)).map(&mut language));
    tokens.extend(owned(&["translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps"]));
    tokens
}

/// Makes a `tokenizer.json` of words, in the order of their numbers, and the special tokens that follow them.
///
/// # Errors
/// What the words are that no vocabulary has.
pub(in crate::store) fn tokenizer(words: &[Vec<u8>], special: &[String]) -> Result<Value, String> {
    if words.len() > WORDS {
        return Err(format!("it has {} words; {WORDS} are accepted", words.len()));
    }
    let mut ranks: HashMap<&[u8], usize> = HashMap::with_capacity(words.len());
    let mut vocabulary = serde_json::Map::new();
    for (rank, word) in words.iter().enumerate() {
        if word.len() > WORD_BYTES {
            return Err(format!("word {rank} has {} bytes; {WORD_BYTES} are accepted", word.len()));
        }
        if ranks.insert(word, rank).is_some() {
            return Err(format!("word {rank} stands twice"));
        }
        vocabulary.insert(letters(word), json!(rank));
    }
    if let Some(byte) = (0..=u8::MAX).find(|byte| !ranks.contains_key([*byte].as_slice())) {
        return Err(format!("no word is the byte {byte:#04x} alone, which others are made of"));
    }
    let merges: Vec<[String; 2]> =
        words.iter().enumerate().filter_map(|(rank, word)| halves(word, rank, &ranks)).collect();
    let added: Vec<Value> = special
        .iter()
        .enumerate()
        .map(|(at, content)| {
            json!({ "id": words.len() + at, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true })
        })
        .collect();
    let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": bytes, "post_processor": null, "decoder": bytes,
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
                   "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                   "vocab": vocabulary, "merges": merges }
    }))
}

/// The two parts that the joins before `rank` leave of a word; none of one that they do not make.
fn halves(word: &[u8], rank: usize, ranks: &HashMap<&[u8], usize>) -> Option<[String; 2]> {
    // Where the parts begin, and where the last one ends.
    let mut cuts: Vec<usize> = (0..=word.len()).collect();
    while cuts.len() > 3 {
        let pair = |at: usize| ranks.get(&word[cuts[at]..cuts[at + 2]]).filter(|joined| **joined < rank);
        let (_, at) = (0..cuts.len() - 2).filter_map(|at| Some((pair(at)?, at))).min()?;
        cuts.remove(at + 1);
    }
    let [begin, middle, end] = cuts[..] else { return None };
    Some([letters(&word[begin..middle]), letters(&word[middle..end])])
}

/// A word as byte-level vocabularies write it: bytes that are printable signs stand for themselves, the others are counted
/// up from U+0100.
fn letters(word: &[u8]) -> String {
    let printable = |byte: u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let letter = |byte: u8| {
        let code =
            if printable(byte) { u32::from(byte) } else { 256 + (0..byte).filter(|b| !printable(*b)).count() as u32 };
        char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
    };
    word.iter().copied().map(letter).collect()
}

/// A list of all tokens as they are written, words as in `tokenizer.json` and special ones between `<|` and `|>`: the
/// bytes of the words, and the special ones before the timestamps.
///
/// # Errors
/// What is not written so.
pub(in crate::store) fn split(list: &[String]) -> Result<(Vec<Vec<u8>>, Vec<String>), String> {
    let end = list.iter().position(|token| token == "<|endoftext|>").ok_or("it has no token <|endoftext|>")?;
    let word = |(at, token): (usize, &String)| {
        let bytes: Option<Vec<u8>> = token.chars().map(speech_byte).collect();
        bytes.ok_or_else(|| format!("token {at} is {token:.40?}, which is no word of a byte-level vocabulary"))
    };
    let words = list[..end].iter().enumerate().map(word).collect::<Result<_, _>>()?;
    let named = |token: &&String| !token.starts_with("<|0.") && token.starts_with("<|") && token.ends_with("|>");
    Ok((words, list[end..].iter().take_while(named).cloned().collect()))
}

fn speech_byte(letter: char) -> Option<u8> {
    crate::speech::byte_of(letter)
}

/// The tokens that no transcript of speech has: signs that stand around sounds, each alone and after a space.
///
/// # Errors
/// When the tokenizer cannot be used.
pub(in crate::store) fn no_speech(tokenizer: &Value) -> Result<Vec<u32>, String> {
    let tokenizer = Tokenizer::from_bytes(tokenizer.to_string()).map_err(|error| error.to_string())?;
    let encode = |text: &str| {
        let encoding = tokenizer.encode_fast(text, false).map_err(|error| error.to_string())?;
        Ok::<_, String>(encoding.get_ids().to_vec())
    };
    let mut tokens = HashSet::new();
    for text in [" -", " '"] {
        tokens.extend(encode(text)?.first());
    }
    for (signs, always) in [(SIGNS, false), (MUSIC, true)] {
        for sign in signs.split_whitespace() {
            for text in [sign.to_owned(), format!(" {sign}")] {
                let encoded = encode(&text)?;
                // Signs of music are several tokens each, of which the first begins nothing else.
                tokens.extend(encoded.first().filter(|_| always || encoded.len() == 1));
            }
        }
    }
    let mut tokens: Vec<u32> = tokens.into_iter().collect();
    tokens.sort_unstable();
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::speech::testing::tiny_en;
    use crate::store::read_text;

    /// The words of the real model, and its own `tokenizer.json`.
    fn real() -> (Vec<Vec<u8>>, Value) {
        let file: Value =
            serde_json::from_slice(&read_text(&tiny_en().join("tokenizer.json"), 1 << 24).unwrap()).unwrap();
        let mut list = vec![String::new(); 50_256];
        for (word, id) in file["model"]["vocab"].as_object().unwrap() {
            if let Some(place) = list.get_mut(id.as_u64().unwrap() as usize) {
                place.clone_from(word);
            }
        }
        list.extend(special(99));
        let (words, after) = split(&list).unwrap();
        assert_eq!(after, special(99));
        (words, file)
    }

    #[test]
    fn the_joins_of_the_published_tokenizer_are_found_again() {
        let (words, file) = real();
        let made = tokenizer(&words, &special(99)).unwrap();
        let pair = |merge: &Value| match merge {
            Value::String(text) => text.clone(),
            pair => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
        };
        let merges = |file: &Value| file["model"]["merges"].as_array().unwrap().iter().map(pair).collect::<Vec<_>>();
        assert_eq!(merges(&made), merges(&file));
        let id = |file: &Value, name: &str| {
            let tokens = file["added_tokens"].as_array().unwrap();
            tokens.iter().find(|token| token["content"] == name).map(|token| token["id"].clone())
        };
        for name in ["endoftext", "startoftranscript", "translate", "transcribe", "startofprev", "notimestamps", "su"] {
            let name = format!("<|{name}|>");
            assert!(id(&made, &name).is_some() && id(&made, &name) == id(&file, &name), "{name}");
        }
    }

    #[test]
    fn what_is_never_said_is_what_the_checkpoint_lists() {
        let (words, _) = real();
        let made = no_speech(&tokenizer(&words, &special(99)).unwrap()).unwrap();
        let text = read_text(&tiny_en().join("generation_config.json"), 1 << 20).unwrap();
        let generation: Value = serde_json::from_slice(&text).unwrap();
        let listed =
            generation["suppress_tokens"].as_array().unwrap().iter().map(|token| token.as_u64().unwrap() as u32);
        assert_eq!(made, listed.filter(|token| *token < 50_256).collect::<Vec<_>>());
    }

    #[test]
    fn words_that_no_vocabulary_has_are_refused() {
        let bytes: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
        assert!(tokenizer(&bytes, &special(1)).is_ok());
        assert!(tokenizer(&bytes[1..], &special(1)).unwrap_err().contains("0x00"));
        assert!(tokenizer(&[&bytes[..], &[vec![7]]].concat(), &[]).unwrap_err().contains("twice"));
        assert!(tokenizer(&[&bytes[..], &[vec![7; 161]]].concat(), &[]).unwrap_err().contains("161"));
        assert!(split(&["a".to_owned()]).is_err() && split(&["\u{4e00}".to_owned(), special(0)[0].clone()]).is_err());
        assert_eq!(special(100).len(), 108);
        assert!(special(100).contains(&"<|yue|>".to_owned()) && !special(99).contains(&"<|yue|>".to_owned()));
    }
}
