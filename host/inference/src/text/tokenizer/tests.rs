//! Vocabularies against reference implementations, token by token: `tests/golden/make_tokenizers.py` says which.

use std::collections::HashSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::text::gguf::Header;
use crate::text::template::ChatTemplate;
use crate::text::testing::Writer;

fn golden() -> &'static Value {
    static GOLDEN: std::sync::OnceLock<Value> = std::sync::OnceLock::new();
    GOLDEN.get_or_init(|| serde_json::from_str(include_str!("../../../tests/golden/tokenizers.json")).unwrap())
}

fn texts(value: &Value) -> Vec<String> {
    serde_json::from_value(value.clone()).unwrap()
}

/// The vocabulary of byte-level tokens that all byte-level rules share.
fn byte_tokens_and_types() -> (Vec<String>, Vec<i32>) {
    let bytes = &golden()["bytes"];
    let mut stand_ins: Vec<(u8, char)> = stand_ins().into_iter().map(|(c, byte)| (byte, c)).collect();
    stand_ins.sort_unstable();
    let mut tokens: Vec<String> = stand_ins.into_iter().map(|(_, c)| c.to_string()).collect();
    let mut seen: HashSet<String> = tokens.iter().cloned().collect();
    let merged = texts(&bytes["merges"]).into_iter().map(|merge| merge.replace(' ', ""));
    for token in merged.chain(texts(&bytes["whole"])) {
        if seen.insert(token.clone()) {
            tokens.push(token);
        }
    }
    let plain = tokens.len();
    tokens.extend(texts(&bytes["added"]));
    tokens.extend(texts(&bytes["special"]));
    let types = (0..tokens.len())
        .map(|at| {
            if at < plain {
                1
            } else if at == plain {
                4
            } else {
                3
            }
        })
        .collect();
    (tokens, types)
}

fn byte_level(rule: &str) -> Writer {
    let (tokens, types) = byte_tokens_and_types();
    let last = tokens.len() as u32 - 1;
    Writer::default()
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", rule)
        .texts("tokenizer.ggml.tokens", &tokens)
        .texts("tokenizer.ggml.merges", &texts(&golden()["bytes"]["merges"]))
        .numbers("tokenizer.ggml.token_type", &types)
        .number("tokenizer.ggml.bos_token_id", last - 1)
        .number("tokenizer.ggml.eos_token_id", last)
        .boolean("tokenizer.ggml.add_bos_token", false)
}

fn characters(rule: &Value) -> Writer {
    let part = &golden()["characters"];
    let tokens = texts(&part["tokens"]);
    let merges: Vec<Vec<String>> = serde_json::from_value(part["merges"].clone()).unwrap();
    let merges: Vec<String> = merges.iter().map(|pair| pair.join(" ")).filter(|merge| !merge.contains('\n')).collect();
    let mut types = vec![2, 3, 3];
    types.extend([6; 256]);
    types.resize(tokens.len() - 1, 1);
    types.push(4);
    Writer::default()
        .text("tokenizer.ggml.model", rule["model"].as_str().unwrap())
        .text("tokenizer.ggml.pre", rule["name"].as_str().unwrap())
        .texts("tokenizer.ggml.tokens", &tokens)
        .texts("tokenizer.ggml.merges", &merges)
        .numbers("tokenizer.ggml.token_type", &types)
        .number("tokenizer.ggml.bos_token_id", 1)
        .number("tokenizer.ggml.eos_token_id", 2)
        .boolean("tokenizer.ggml.add_bos_token", false)
}

fn sentence_piece(space_prefix: bool, collapse: bool) -> Writer {
    let pieces: Vec<(String, f32, i32)> = serde_json::from_value(golden()["sentence_piece"]["pieces"].clone()).unwrap();
    let tokens: Vec<String> = pieces.iter().map(|(text, ..)| text.clone()).collect();
    let scores: Vec<f32> = pieces.iter().map(|(_, score, _)| *score).collect();
    let types: Vec<i32> = pieces.iter().map(|(.., kind)| *kind).collect();
    Writer::default()
        .text("tokenizer.ggml.model", "llama")
        .texts("tokenizer.ggml.tokens", &tokens)
        .floats("tokenizer.ggml.scores", &scores)
        .numbers("tokenizer.ggml.token_type", &types)
        .boolean("tokenizer.ggml.add_bos_token", false)
        .boolean("tokenizer.ggml.add_space_prefix", space_prefix)
        .boolean("tokenizer.ggml.remove_extra_whitespaces", collapse)
}

fn open(file: &Writer) -> Result<Vocabulary, TokenizerError> {
    let bytes = file.bytes();
    let header = Header::parse(&bytes).unwrap();
    Vocabulary::from_gguf(header.view(&bytes))
}

/// A checkpoint's directory with one of the golden pipelines.
fn directory(parts: &Value, tokens: &[String], merges: &Value, added: Value, flags: Value) -> tempfile::TempDir {
    let vocabulary: serde_json::Map<String, Value> =
        tokens.iter().enumerate().map(|(id, token)| (token.clone(), id.into())).collect();
    let mut model = json!({ "type": "BPE", "vocab": vocabulary, "merges": merges, "dropout": null });
    model.as_object_mut().unwrap().extend(flags.as_object().unwrap().clone());
    let file = json!({
        "normalizer": parts["normalizer"],
        "pre_tokenizer": parts["pre_tokenizer"],
        "decoder": parts["decoder"],
        "post_processor": parts["post_processor"],
        "truncation": { "max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right" },
        "padding": { "strategy": { "Fixed": 9 }, "pad_id": 0, "pad_token": "x", "pad_type_id": 0, "direction": "Left" },
        "added_tokens": added,
        "model": model,
    });
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("tokenizer.json"), file.to_string()).unwrap();
    directory
}

fn compare(name: &str, vocabulary: &Vocabulary, expected: &Value, wrong: &mut Vec<String>) {
    for (text, ids) in texts(&golden()["texts"]).iter().zip(expected.as_array().unwrap()) {
        // Null where the reference has another notion of the text.
        let Ok(expected) = serde_json::from_value::<Vec<u32>>(ids.clone()) else { continue };
        let found = vocabulary.encode(text).unwrap();
        if found != expected {
            let shown = |ids: &[u32]| -> Vec<String> {
                ids.iter().map(|id| String::from_utf8_lossy(vocabulary.token(*id)).into_owned()).collect()
            };
            wrong.push(format!("{name} {text:?}\n  {:?}\n  {:?}", shown(&found), shown(&expected)));
        }
    }
}

/// The text that `ids` stand for, control tokens written out.
fn text_of(vocabulary: &Vocabulary, ids: &[u32]) -> String {
    let bytes = ids.iter().flat_map(|id| match vocabulary.control_text(*id) {
        Some(text) => text.into_bytes(),
        None => vocabulary.token(*id).to_vec(),
    });
    String::from_utf8(bytes.collect()).unwrap()
}

#[test]
fn every_byte_level_rule_gives_the_tokens_of_the_reference() {
    let mut wrong = Vec::new();
    let mut seen = HashSet::new();
    let mut rules: Vec<Vec<Value>> = Vec::new();
    for rule in golden()["bytes"]["rules"].as_array().unwrap() {
        // Null stands for what another rule gives.
        let mut ids = rule["ids"].as_array().unwrap().clone();
        if let Some(like) = rule["like"].as_u64() {
            ids.iter_mut()
                .zip(&rules[like as usize])
                .filter(|(ids, _)| ids.is_null())
                .for_each(|(ids, other)| *ids = other.clone());
        }
        rules.push(ids.clone());
        let ids = Value::Array(ids);
        let names = texts(&rule["names"]);
        // The names of one entry share its patterns, which take a while to compile.
        assert!(rules::groups().any(|group| group == names), "{names:?} are no longer one rule");
        compare(&names[0], &open(&byte_level(&names[0])).unwrap(), &ids, &mut wrong);
        seen.extend(names);
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    let characters = golden()["characters"]["rules"].as_array().unwrap();
    seen.extend(characters.iter().map(|rule| rule["name"].as_str().unwrap().to_owned()));
    let unseen: Vec<&str> = rules::names().filter(|name| !seen.contains(*name)).collect();
    assert!(unseen.is_empty(), "no reference for {unseen:?}");
}

#[test]
fn rules_of_characters_give_the_tokens_of_the_reference() {
    let mut wrong = Vec::new();
    for rule in golden()["characters"]["rules"].as_array().unwrap() {
        let mut vocabulary = open(&characters(rule)).unwrap();
        // Gemma 4's rule says so whatever the file says.
        vocabulary.add_bos = false;
        compare(rule["name"].as_str().unwrap(), &vocabulary, &rule["ids"], &mut wrong);
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn sentence_piece_gives_the_tokens_of_the_reference() {
    let mut wrong = Vec::new();
    for case in golden()["sentence_piece"]["cases"].as_array().unwrap() {
        let flag = |name: &str| case[name].as_bool().unwrap();
        let vocabulary = open(&sentence_piece(flag("space_prefix"), flag("collapse"))).unwrap();
        let name = format!("prefix {} collapse {}", case["space_prefix"], case["collapse"]);
        compare(&name, &vocabulary, &case["ids"], &mut wrong);
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// A pipeline of bytes is the rule of the same pattern.
#[test]
fn byte_level_pipelines_of_tokenizer_json_are_their_rules() {
    let (tokens, _) = byte_tokens_and_types();
    let tail = r"|\s*[\r\n]+|\s+(?!\S)|\s+";
    let contractions = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?";
    let split = |pattern: &str| json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false });
    let words = |digits: &str| split(&format!(r"{contractions}\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*{tail}"));
    let bytes = |regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "use_regex": regex });
    let sequence = |steps: &[Value]| json!({ "type": "Sequence", "pretokenizers": steps });
    let digits = json!({ "type": "Digits", "individual_digits": true });
    let nfc = json!({ "type": "NFC" });
    let added: Vec<Value> = ["<added>", "<|im_start|>", "<|im_end|>"]
        .iter()
        .map(|text| {
            let id = tokens.iter().position(|token| token == text).unwrap();
            json!({ "id": id, "content": text, "special": *text != "<added>" })
        })
        .collect();
    let merges = &golden()["bytes"]["merges"];
    for (rule, normalizer, pre_tokenizer, whole) in [
        ("gpt-2", Value::Null, bytes(true), false),
        ("smollm", Value::Null, sequence(&[digits, bytes(true)]), false),
        ("llama-bpe", Value::Null, sequence(&[words(r"\p{N}{1,3}"), bytes(false)]), true),
        ("qwen2", nfc, sequence(&[words(r"\p{N}"), bytes(false)]), false),
    ] {
        let parts =
            json!({ "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "decoder": { "type": "ByteLevel" } });
        let directory = directory(&parts, &tokens, merges, json!(added), json!({ "ignore_merges": whole }));
        let from_directory = Vocabulary::from_hugging_face(directory.path()).unwrap();
        let from_gguf = open(&byte_level(rule)).unwrap();
        assert_eq!((from_directory.len(), &from_directory.bytes), (from_gguf.len(), &from_gguf.bytes));
        for text in texts(&golden()["texts"]) {
            assert_eq!(from_directory.encode(&text).unwrap(), from_gguf.encode(&text).unwrap(), "{rule} {text:?}");
        }
    }
}

#[test]
fn files_beside_the_tokenizer_say_where_sequences_begin_and_end() {
    let (tokens, _) = byte_tokens_and_types();
    let id = |text: &str| tokens.iter().position(|token| token == text).unwrap() as u32;
    let (start, end) = (id("<|im_start|>"), id("<|im_end|>"));
    let added = json!([
        { "id": start, "content": "<|im_start|>", "special": true },
        { "id": end, "content": "<|im_end|>", "special": true },
    ]);
    let template = json!({ "type": "TemplateProcessing", "single": [{ "SpecialToken": { "id": "<|im_start|>" } }, { "Sequence": { "id": "A" } }] });
    let parts =
        json!({ "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false }, "post_processor": template });
    let directory = directory(&parts, &tokens, &golden()["bytes"]["merges"], added, json!({}));
    let read = || Vocabulary::from_hugging_face(directory.path()).unwrap();
    let write = |name: &str, value: Value| std::fs::write(directory.path().join(name), value.to_string()).unwrap();
    assert_eq!((read().bos_text(), read().encode("a").unwrap()), ("<|im_start|>", vec![start, 97]));
    write(
        "tokenizer_config.json",
        json!({ "add_bos_token": false, "eos_token": { "content": "<|im_end|>" }, "chat_template": [
        { "name": "tool_use", "template": "t" }, { "name": "default", "template": "{{ eos_token }}d" },
    ] }),
    );
    write("generation_config.json", json!({ "eos_token_id": [7, end] }));
    write("config.json", json!({ "eos_token_id": 8 }));
    let vocabulary = read();
    assert_eq!((vocabulary.eos_text(), vocabulary.encode("a").unwrap()), ("<|im_end|>", vec![97]));
    assert_eq!((0..vocabulary.len() as u32).filter(|id| vocabulary.ends_turn(*id)).collect::<Vec<_>>(), [7, end]);
    assert_eq!(vocabulary.end_of_turn(), Some(end));
    let render = || {
        let template = ChatTemplate::from_hugging_face(directory.path(), "b", vocabulary.eos_text()).unwrap().unwrap();
        template.render(&[]).unwrap()
    };
    assert_eq!(render(), "<|im_end|>d");
    write("chat_template.json", json!({ "chat_template": "j" }));
    assert_eq!(render(), "j");
    std::fs::write(directory.path().join("chat_template.jinja"), "{{ bos_token }}").unwrap();
    assert_eq!(render(), "b");
    write("generation_config.json", json!({ "eos_token_id": 99999 }));
    let error = Vocabulary::from_hugging_face(directory.path()).err().unwrap().to_string();
    assert!(error.contains("99999"), "{error}");
}

#[test]
fn pipelines_of_other_parts_are_refused_by_name() {
    let tokens: Vec<String> = ["a", "b", "ab"].map(str::to_owned).to_vec();
    let read = |parts: Value, flags: Value| {
        let directory = directory(&parts, &tokens, &json!([["a", "b"]]), json!([]), flags);
        Vocabulary::from_hugging_face(directory.path()).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(read(json!({}), json!({})), Ok(()));
    for (parts, flags, named) in [
        (
            json!({ "normalizer": { "type": "Lowercase" } }),
            json!({}),
            "/normalizer has a part that is not supported: \"Lowercase\"",
        ),
        (json!({ "pre_tokenizer": { "type": "UnicodeScripts" } }), json!({}), "UnicodeScripts"),
        (
            json!({ "pre_tokenizer": { "type": "Split", "pattern": { "Regex": "a(?=b)" }, "behavior": "Isolated" } }),
            json!({}),
            "a(?=b)",
        ),
        (json!({ "decoder": { "type": "WordPiece" } }), json!({}), "WordPiece"),
        (json!({}), json!({ "type": "Unigram" }), "Unigram"),
        (json!({}), json!({ "dropout": 0.1 }), "dropout"),
        (json!({}), json!({ "end_of_word_suffix": "</w>" }), "end_of_word_suffix"),
        (json!({}), json!({ "unk_token": "?" }), "unk_token"),
        (json!({}), json!({ "merges": [["a", "c"]] }), "/model/merges/0"),
        (json!({}), json!({ "merges": ["ab"] }), "/model/merges/0"),
        (json!({}), json!({ "vocab": { "a": 0, "b": 0 } }), "token 0 twice"),
        (json!({}), json!({ "vocab": { "a": 4_000_000_000u32 } }), "4000000000"),
        (json!({}), json!({ "vocab": {} , "merges": [] }), "no tokens"),
    ] {
        let error = read(parts, flags).unwrap_err();
        assert!(error.contains(named) && error.contains("tokenizer.json"), "{error} lacks {named}");
    }
    let empty = tempfile::tempdir().unwrap();
    assert!(Vocabulary::from_hugging_face(empty.path()).err().unwrap().to_string().contains("has no tokenizer.json"));
}

#[test]
fn broken_vocabularies_are_refused_by_key() {
    let base = || {
        Writer::default()
            .text("tokenizer.ggml.model", "gpt2")
            .texts("tokenizer.ggml.tokens", &["a", "b", "ab"].map(str::to_owned))
    };
    let merges = |file: Writer, merges: &[&str]| {
        file.texts("tokenizer.ggml.merges", &merges.iter().map(|merge| (*merge).to_owned()).collect::<Vec<_>>())
    };
    let spm = |tokens: &[&str], scores: &[f32]| {
        let tokens: Vec<String> = tokens.iter().map(|token| (*token).to_owned()).collect();
        let file = Writer::default().text("tokenizer.ggml.model", "llama").texts("tokenizer.ggml.tokens", &tokens);
        file.floats("tokenizer.ggml.scores", scores)
    };
    assert!(open(&merges(base(), &["a b"])).is_ok() && open(&spm(&["<unk>", "a"], &[0.0, -1.0])).is_ok());
    for (file, named) in [
        (base(), "tokenizer.ggml.merges is missing"),
        (merges(base(), &["ab"]), "tokenizer.ggml.merges"),
        (merges(base(), &["a c"]), "tokenizer.ggml.merges"),
        (merges(base(), &["b a"]), "tokenizer.ggml.merges"),
        (merges(base(), &[]).text("tokenizer.ggml.pre", "no-such-rule"), "no-such-rule"),
        (merges(base(), &[]).numbers("tokenizer.ggml.token_type", &[1]), "token types"),
        (Writer::default().text("tokenizer.ggml.model", "t5"), "\"t5\""),
        (spm(&["<unk>", "a", "a"], &[0.0; 3]), "tokenizer.ggml.tokens"),
        (spm(&["a", "b"], &[0.0; 2]), "neither tokens for all bytes"),
        (spm(&["<unk>", "a"], &[0.0, f32::NAN]), "tokenizer.ggml.scores"),
        (spm(&["<unk>", "a"], &[0.0]), "tokenizer.ggml.scores"),
        (spm(&["<unk>"], &[0.0]).number("tokenizer.ggml.bos_token_id", 9), "tokenizer.ggml.bos_token_id"),
    ] {
        let error = open(&file).err().unwrap_or_else(|| panic!("{named}")).to_string();
        assert!(error.contains(named), "{error} lacks {named}");
        assert!(!error.contains("no-such-rule") || error.contains("llama-bpe") && error.contains("tekken"), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a byte of a vocabulary is changed to, it is refused or gives tokens that it has.
    #[test]
    fn no_change_of_a_vocabulary_panics(at in any::<prop::sample::Index>(), bits in 1u8.., kind in 0usize..3) {
        let small = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let file = match kind {
            0 => Writer::default()
                .text("tokenizer.ggml.model", "gpt2")
                .text("tokenizer.ggml.pre", "llama-bpe")
                .texts("tokenizer.ggml.tokens", &small("a b c Ġ ab Ġab <|im_end|> <x>"))
                .texts("tokenizer.ggml.merges", &["a b", "Ġ ab"].map(str::to_owned))
                .numbers("tokenizer.ggml.token_type", &[1, 1, 1, 1, 1, 1, 3, 4])
                .number("tokenizer.ggml.eos_token_id", 6),
            1 => Writer::default()
                .text("tokenizer.ggml.model", "llama")
                .texts("tokenizer.ggml.tokens", &small("<unk> <s> </s> a b ab ▁ ▁ab"))
                .floats("tokenizer.ggml.scores", &[0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -4.0, -5.0])
                .numbers("tokenizer.ggml.token_type", &[2, 3, 3, 1, 1, 1, 1, 1])
                .boolean("tokenizer.ggml.add_space_prefix", true),
            _ => Writer::default()
                .text("tokenizer.ggml.model", "gemma4")
                .texts("tokenizer.ggml.tokens", &small("<unk> <bos> ▁ a b ▁a <0x41>"))
                .texts("tokenizer.ggml.merges", &["▁ a".to_owned()])
                .numbers("tokenizer.ggml.token_type", &[2, 3, 1, 1, 1, 1, 6]),
        };
        let mut bytes = file.bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= bits;
        if let Ok(header) = Header::parse(&bytes)
            && let Ok(vocabulary) = Vocabulary::from_gguf(header.view(&bytes))
        {
            let ids = vocabulary.encode("ab <s> ab\u{1f980}c<|im_end|> <x>").unwrap();
            prop_assert!(ids.iter().all(|id| (*id as usize) < vocabulary.len()));
            let _ = (vocabulary.encode_plain("<s>ab"), vocabulary.fewest_tokens(9), text_lossy(&vocabulary, &ids));
        }
    }

    /// The same of a tokenizer.json.
    #[test]
    fn no_change_of_a_tokenizer_file_panics(at in any::<prop::sample::Index>(), bits in 1u8.., text in "[ab <>x]{0,12}") {
        let file = json!({
            "added_tokens": [{ "id": 3, "content": "<x>", "special": true, "rstrip": true }],
            "normalizer": { "type": "Sequence", "normalizers": [{ "type": "Prepend", "prepend": "▁" }, { "type": "Replace", "pattern": { "String": " " }, "content": "▁" }] },
            "pre_tokenizer": { "type": "Split", "pattern": { "Regex": "a+|\\s+(?!\\S)" }, "behavior": "Isolated", "invert": false },
            "decoder": { "type": "Fuse" },
            "model": { "type": "BPE", "vocab": { "a": 0, "b": 1, "ab": 2, "<x>": 3, "▁": 4 }, "merges": ["a b"], "byte_fallback": true },
        });
        let mut bytes = file.to_string().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= bits;
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("tokenizer.json"), &bytes).unwrap();
        if let Ok(vocabulary) = Vocabulary::from_hugging_face(directory.path()) {
            let ids = vocabulary.encode(&text).unwrap();
            prop_assert!(ids.iter().all(|id| (*id as usize) < vocabulary.len()));
        }
    }
}

fn text_lossy(vocabulary: &Vocabulary, ids: &[u32]) -> String {
    let mut detokenizer = vocabulary.detokenizer(&[]);
    ids.iter().map(|id| detokenizer.push(vocabulary.token(*id))).collect()
}

#[test]
fn pipelines_of_tokenizer_json_give_the_tokens_of_the_reference() {
    let part = &golden()["characters"];
    let tokens = texts(&part["tokens"]);
    let added: Vec<Value> = ["<unk>", "<s>", "</s>", "<added>"]
        .iter()
        .map(|text| {
            let id = tokens.iter().position(|token| token == text).unwrap();
            json!({ "id": id, "content": text, "special": *text != "<added>", "rstrip": *text == "</s>" })
        })
        .collect();
    let flags = json!({ "byte_fallback": true, "unk_token": "<unk>", "fuse_unk": true });
    let mut wrong = Vec::new();
    for shape in part["shapes"].as_array().unwrap() {
        let directory = directory(shape, &tokens, &part["merges"], json!(added), flags.clone());
        let vocabulary = Vocabulary::from_hugging_face(directory.path()).unwrap();
        compare(shape["name"].as_str().unwrap(), &vocabulary, &shape["ids"], &mut wrong);
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// A text after which a round trip is the same text: what NFC composes is composed.
fn composed(text: &str) -> String {
    let mut normalized = NormalizedString::from(text);
    NFC.normalize(&mut normalized).unwrap();
    normalized.get().to_owned()
}

#[test]
fn tokens_stand_for_the_bytes_of_their_text() {
    let byte_level = ["llama-bpe", "qwen2", "deepseek-llm", "jais-2", "superbpe"].map(byte_level);
    for file in byte_level.into_iter().chain([sentence_piece(false, false)]) {
        let vocabulary = open(&file).unwrap();
        for text in texts(&golden()["texts"]) {
            let back = text_of(&vocabulary, &vocabulary.encode(&text).unwrap());
            // SentencePiece writes a space as this character, and one that a text brings reads as a space.
            let expected =
                text.replace('▁', if vocabulary.space == Space::Never && back.contains('▁') { "▁" } else { " " });
            assert!(back == expected || back == composed(&expected), "{text:?} became {back:?}");
        }
    }
    let spaced = open(&sentence_piece(true, false)).unwrap();
    assert_eq!(text_of(&spaced, &spaced.encode("Hello world").unwrap()), " Hello world");
}

#[test]
fn only_the_beginning_of_a_section_gets_a_space() {
    let vocabulary = open(&sentence_piece(true, false)).unwrap();
    let shown = |ids: Vec<u32>| text_of(&vocabulary, &ids);
    assert_eq!(shown(vocabulary.encode("<s>a</s>b").unwrap()), "<s> a</s> b");
    // A message that holds the text of a control token is cut there, and what follows goes on with it.
    let cut = vocabulary.marks().cut_text("a</s>b".to_owned());
    assert_eq!(shown(vocabulary.encode_rendered(&format!("<s>{cut}")).unwrap()), "<s> a</s>b");
    assert!(!vocabulary.encode_rendered(&cut).unwrap().contains(&2));
    assert_eq!(shown(vocabulary.encode_plain("a")), "a");
    let answer = |prompt: &[u32]| {
        let mut detokenizer = vocabulary.detokenizer(prompt);
        vocabulary.encode("so it").unwrap().iter().map(|id| detokenizer.push(vocabulary.token(*id))).collect::<String>()
    };
    assert_eq!(answer(&[1]), "so it");
    assert_eq!(answer(&vocabulary.encode("<s>and").unwrap()), " so it");
}

#[test]
fn byte_tokens_of_sentence_piece_are_bytes() {
    let vocabulary = open(&sentence_piece(false, false)).unwrap();
    let ids = vocabulary.encode("\u{1f980}").unwrap();
    assert_eq!(ids.len(), 4);
    let mut detokenizer = vocabulary.detokenizer(&[]);
    let shown: Vec<String> = ids.iter().map(|id| detokenizer.push(vocabulary.token(*id))).collect();
    assert_eq!(shown, ["", "", "", "\u{1f980}"]);
}

#[test]
fn marks_of_calls_are_text_that_no_message_can_hold() {
    let (mut tokens, mut types) = byte_tokens_and_types();
    tokens.push("[TOOL_CALLS]".into());
    types.push(3);
    let mark = tokens.len() as u32 - 1;
    let file = Writer::default()
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "tekken")
        .texts("tokenizer.ggml.tokens", &tokens)
        .texts("tokenizer.ggml.merges", &[])
        .numbers("tokenizer.ggml.token_type", &types);
    let vocabulary = open(&file).unwrap();
    assert_eq!((vocabulary.token(mark), vocabulary.control_text(mark)), (&b"[TOOL_CALLS]"[..], None));
    assert_eq!(vocabulary.encode_plain("[TOOL_CALLS]"), [mark]);
    let cut = vocabulary.marks().cut_text("[TOOL_CALLS]".to_owned());
    assert!(!vocabulary.encode_rendered(&cut).unwrap().contains(&mark));
}

#[test]
fn long_texts_of_one_character_are_read_in_little_time() {
    // Each took minutes or a panic from an engine that backtracks.
    for (file, text) in [
        (byte_level("deepseek-llm"), format!("{}x", " ".repeat(1 << 19))),
        (byte_level("llama-bpe"), " ".repeat(1 << 19)),
        (byte_level("tekken"), "A".repeat(1 << 19)),
        (byte_level("gpt-4o"), "\u{301}".repeat(1 << 18)),
        (byte_level("qwen2"), "1".repeat(1 << 19)),
        (byte_level("superbpe"), "1".repeat(1 << 19)),
        (sentence_piece(true, false), "a".repeat(1 << 19)),
    ] {
        let vocabulary = open(&file).unwrap();
        let ids = vocabulary.encode(&text).unwrap();
        assert_eq!(text_of(&vocabulary, &ids).trim_start(), text.trim_start());
        assert!(ids.len() >= vocabulary.fewest_tokens(text.len()));
    }
}
