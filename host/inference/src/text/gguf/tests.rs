use candle_core::quantized::GgmlDType;
use proptest::prelude::*;

use super::*;
use crate::text::testing::{Writer, file, tiny_llama, vocabulary};
use crate::text::{LoadError, LoadOptions, TextModel};

fn header() -> Writer {
    Writer::default()
        .text("general.architecture", "llama")
        .number("n", 7)
        .float("f", 0.5)
        .texts("tokens", &["a".into(), "é".into()])
        .numbers("types", &[1, -3])
        .tensor("w", &[2, 32], 8, vec![1; 68])
        .tensor("v", &[3], 0, vec![0; 12])
}

fn fault(bytes: &[u8]) -> String {
    Header::parse(bytes).unwrap_err().to_string()
}

/// Where `needle` first occurs.
fn place(bytes: &[u8], needle: &[u8]) -> usize {
    bytes.windows(needle.len()).position(|window| window == needle).unwrap()
}

/// The file with the eight bytes after `needle` and `skip` more replaced.
fn patched(needle: &str, skip: usize, value: u64) -> Vec<u8> {
    let mut bytes = header().bytes();
    let at = place(&bytes, needle.as_bytes()) + needle.len() + skip;
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    bytes
}

#[test]
fn a_file_reads_back_as_it_was_written() {
    let bytes = header().bytes();
    let header = Header::parse(&bytes).unwrap();
    let view = header.view(&bytes);
    assert_eq!(view.text("general.architecture").unwrap(), Some("llama"));
    assert_eq!(view.unsigned("n").unwrap(), Some(7));
    assert_eq!(view.float("f").unwrap(), Some(0.5));
    assert_eq!(view.float("n").unwrap(), Some(7.0));
    assert_eq!(view.texts("tokens").unwrap(), Some(vec!["a", "é"]));
    assert_eq!(view.integers("types").unwrap(), Some(vec![1, -3]));
    assert_eq!(view.unsigned("absent").unwrap(), None);
    let (info, raw) = view.tensor("w").unwrap();
    assert_eq!((info.dtype, &info.shape[..], info.elements()), (GgmlDType::Q8_0, &[2, 32][..], 64));
    assert_eq!(raw, [1u8; 68]);
    assert_eq!(view.tensor("v").unwrap().1, [0; 12]);
    assert!(view.text("n").unwrap_err().to_string().contains("\"n\": is a U32, not a string"));
    assert!(view.unsigned("types").is_err() && view.texts("types").is_err() && view.boolean("f").is_err());
}

#[test]
fn a_truncated_file_says_where_it_ends() {
    let bytes = header().bytes();
    for length in 0..bytes.len() {
        let error = fault(&bytes[..length]);
        assert!(error.contains("truncated"), "{length}: {error}");
    }
    assert!(Header::parse(&bytes).is_ok());
}

#[test]
fn absurd_counts_and_sizes_are_refused_before_memory_is_taken() {
    let mut many_tensors = header().bytes();
    many_tensors[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut many_entries = header().bytes();
    many_entries[16..24].copy_from_slice(&(1u64 << 40).to_le_bytes());
    for (bytes, part) in [
        (many_tensors, "the number of tensors: 18446744073709551615"),
        (many_entries, "the number of metadata entries"),
        (patched("general.architecture", 4, u64::MAX), "\"general.architecture\": 18446744073709551615"),
        (patched("general.architecture", 4, 1 << 23), "truncated"),
        (patched("tokens", 8, u64::MAX), "\"tokens\": 18446744073709551615"),
        // The strings run on into the next entry, whose bytes are no length.
        (patched("tokens", 8, 1 << 20), "\"tokens\""),
        (patched("types", 8, 1 << 22), "truncated"),
        // The tensor's columns, and its place in the file.
        (patched("v", 4, u64::MAX), "tensor \"v\""),
        (patched("v", 4, 0), "empty dimension"),
        (patched("v", 4, 1 << 40), "truncated"),
        (patched("v", 16, 1 << 40), "truncated"),
        (patched("v", 16, u64::MAX - 31), "truncated"),
        (patched("v", 16, 33), "not a multiple of the alignment"),
    ] {
        let error = fault(&bytes);
        assert!(error.contains(part), "{error} lacks {part}");
    }
}

#[test]
fn other_faults_name_their_place() {
    let overflow = Writer::default().tensor("w", &[1 << 40, 1 << 40], 0, Vec::new());
    let five = Writer::default().tensor("w", &[1, 1, 1, 1, 1], 0, vec![0; 4]);
    let none = Writer::default().tensor("w", &[], 0, vec![0; 4]);
    let ragged = Writer::default().tensor("w", &[2, 33], 8, vec![0; 99]);
    let unknown = Writer::default().tensor("w", &[32], 19, vec![0; 99]);
    let twice = Writer::default().number("k", 1).number("k", 2);
    let same = Writer::default().tensor("w", &[1], 0, vec![0; 4]).tensor("w", &[1], 0, vec![0; 4]);
    let odd = Writer::default().number("general.alignment", 24);
    let huge = Writer::default().number("general.alignment", 1 << 30);
    for (writer, part) in [
        (overflow, "tensor \"w\": its shape"),
        (five, "tensor \"w\": has 5 dimensions"),
        (none, "tensor \"w\": has 0 dimensions"),
        (ragged, "rows of 33 values do not divide into Q8_0 blocks"),
        (unknown, "weight type 19 is not supported"),
        (twice, "metadata \"k\": occurs twice"),
        (same, "tensor \"w\": occurs twice"),
        (odd, "24 is not a power of two"),
        (huge, "is not a power of two"),
    ] {
        let error = fault(&writer.bytes());
        assert!(error.contains(part), "{error} lacks {part}");
    }
    assert!(fault(b"PK\x03\x04").contains("not a GGUF file"));
    assert!(fault(b"GGUF\0\0\0\x03").contains("big-endian"));
    assert!(fault(b"GGUF\x01\0\0\0").contains("version 1"));
}

#[test]
fn nested_arrays_end() {
    let mut bytes = Writer::default().texts("a", &[]).bytes();
    let at = place(&bytes, b"a\x09") + 5;
    bytes.truncate(at);
    for _ in 0..100_000 {
        bytes.extend(9u32.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
    }
    assert!(fault(&bytes).contains("nest deeper"));
}

#[test]
fn a_vocabulary_is_read_from_the_fixture() {
    let vocabulary = vocabulary();
    assert_eq!(vocabulary.encode("hi <|im_end|>").unwrap(), [104, 105, 32, 257]);
    assert_eq!(vocabulary.token(104), b"h");
    assert!(vocabulary.ends_turn(257) && !vocabulary.ends_turn(256));
    assert!(vocabulary.token(257).is_empty() && vocabulary.token(9999).is_empty());
}

fn load(bytes: &[u8]) -> Result<TextModel, LoadError> {
    let (_directory, path) = file(bytes);
    TextModel::load(&path, LoadOptions { memory: Some(1 << 22), ..LoadOptions::default() })
}

#[test]
fn models_that_contradict_themselves_are_refused_by_name() {
    let llama = || tiny_llama(&[GgmlDType::Q8_0]);
    assert!(load(&llama().bytes()).is_ok());
    for (writer, part) in [
        (llama().number("llama.expert_count", 8), "mixtures of experts"),
        (llama().tensor("blk.0.ffn_up.bias", &[64], 0, vec![0; 256]), "blk.0.ffn_up.bias"),
        (llama().text("llama.rope.scaling.type", "ntk"), "ntk"),
        (llama().number("llama.rope.dimension_count", 18), "do not fit together"),
        (llama().number("llama.attention.key_length", 32), "attn_q.weight: its shape"),
        (llama().number("tokenizer.ggml.eot_token_id", 258), "token 258 is not in the vocabulary"),
        (llama().tensor("rope_freqs.weight", &[8], 0, vec![0xff; 32]), "not finite"),
        (
            Writer::default().text("general.architecture", "mamba"),
            "\"mamba\"; the architectures that are read are gemma2",
        ),
        (Writer::default().text("general.architecture", "llama"), "llama.embedding_length is missing"),
    ] {
        let error = load(&writer.bytes()).err().unwrap().to_string();
        assert!(error.contains(part), "{error} lacks {part}");
    }
    let (_directory, path) = file(&llama().bytes());
    let small = TextModel::load(&path, LoadOptions { memory: Some(1000), ..LoadOptions::default() });
    assert!(small.err().unwrap().to_string().contains("may have 1000 bytes"));
}

proptest! {
    #[test]
    fn random_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400), magic in any::<bool>()) {
        if magic && bytes.len() >= 24 {
            bytes[..8].copy_from_slice(b"GGUF\x03\0\0\0");
            bytes[10..16].fill(0);
            bytes[18..24].fill(0);
        }
        let _ = Header::parse(&bytes);
    }

    #[test]
    fn flipped_bits_in_a_header_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 1..6)) {
        let mut bytes = header().bytes();
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        if let Ok(header) = Header::parse(&bytes) {
            let view = header.view(&bytes);
            for key in view.keys() {
                let _ = (view.text(key), view.texts(key), view.integers(key));
                let _ = (view.unsigned(key), view.float(key), view.boolean(key));
            }
            for name in view.tensor_names() {
                let (info, raw) = view.tensor(name).unwrap();
                prop_assert_eq!(info.elements() / info.dtype.block_size() * info.dtype.type_size(), raw.len());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn flipped_bits_in_a_model_never_panic(flips in prop::collection::vec((0usize..9000, 0u8..8), 1..4)) {
        let mut bytes = tiny_llama(&[GgmlDType::Q8_0, GgmlDType::F32]).bytes();
        for (at, bit) in flips {
            bytes[at] ^= 1 << bit;
        }
        let _ = load(&bytes);
    }
}
