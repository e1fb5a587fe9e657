//! The encoder against references: golden values of the real models, and candle's `BertModel` as an oracle.

use std::num::NonZeroUsize;
use std::path::Path;

use candle_core::{DType, Device, IndexOp, Tensor};
use candle_transformers::models::bert::{BertModel, Config};
use host_inference::backend::{Pooling, TextEmbeddings};
use host_inference::encoder::{Encoder, Settings};
use serde_json::Value;

use crate::support;

fn settings(threads: usize) -> Settings {
    Settings {
        threads: NonZeroUsize::new(threads).unwrap(),
        queue: NonZeroUsize::new(64).unwrap(),
        context: None,
        pooling: None,
    }
}

async fn embed(encoder: &Encoder, texts: &[&str], pooling: Pooling) -> Vec<Vec<f32>> {
    let texts = texts.iter().map(|text| (*text).to_owned()).collect();
    encoder.embed("test".into(), texts, pooling).await.unwrap().vectors
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn furthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The reference values were printed with six decimals by an implementation that sums in another order; float32 sums
/// over 384 and 1536 terms through 6 and 12 layers differ in the sixth decimal, so 1e-4 is a wide margin for rounding
/// and far below what any mistake in masks, pooling or activation makes.
const GOLDEN: f64 = 1e-4;

async fn golden(name: &str) {
    let cases: Vec<Value> = serde_json::from_str(include_str!("../golden/bert.json")).unwrap();
    let case = cases.iter().find(|case| case["model"] == name).unwrap();
    let pooling: Pooling = serde_json::from_value(case["pooling"].clone()).unwrap();
    let sentences: Vec<&str> =
        case["sentences"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    let encoder = Encoder::load(&support::real(name), settings(2)).unwrap();
    let vectors = embed(&encoder, &sentences, pooling).await;
    for (row, vector) in vectors.iter().enumerate() {
        assert_eq!(vector.len() as u64, case["dim"].as_u64().unwrap());
        assert!((dot(vector, vector) - 1.0).abs() < 1e-5, "vector {row} has length {}", dot(vector, vector).sqrt());
        for (column, value) in vector.iter().take(8).enumerate() {
            let expected = case["first8"][row][column].as_f64().unwrap();
            assert!((f64::from(*value) - expected).abs() < GOLDEN, "{name} [{row}][{column}]: {value} {expected}");
        }
        for (column, other) in vectors.iter().enumerate() {
            let expected = case["cosine"][row][column].as_f64().unwrap();
            let cosine = dot(vector, other);
            assert!((cosine - expected).abs() < GOLDEN, "{name} cosine [{row}][{column}]: {cosine} {expected}");
        }
    }
    let tokens: usize = case["token_ids"].as_array().unwrap().iter().map(|ids| ids.as_array().unwrap().len()).sum();
    let texts = sentences.iter().map(|text| (*text).to_owned()).collect();
    assert_eq!(encoder.embed("test".into(), texts, pooling).await.unwrap().tokens, tokens);
}

#[tokio::test]
async fn minilm_matches_the_reference() {
    golden("all-minilm-l6-v2").await;
}

#[tokio::test]
async fn bge_small_matches_the_reference() {
    golden("bge-small-en-v1.5").await;
}

/// What candle's model gives for one text alone.
fn oracle(folder: &Path, texts: &[&str], pooling: Pooling, limit: usize) -> Vec<Vec<f32>> {
    let config: Config = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    let tensors = candle_core::safetensors::load(folder.join("model.safetensors"), &Device::Cpu).unwrap();
    let weights = candle_nn::VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let model = BertModel::load(weights, &config).unwrap();
    let mut tokenizer = tokenizers::Tokenizer::from_file(folder.join("tokenizer.json")).unwrap();
    tokenizer.with_padding(None);
    let truncation = tokenizers::TruncationParams { max_length: limit, ..Default::default() };
    tokenizer.with_truncation(Some(truncation)).unwrap();
    let one = |text: &&str| {
        let ids = tokenizer.encode(*text, true).unwrap().get_ids().to_vec();
        let ids = Tensor::new(ids, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let states = model.forward(&ids, &ids.zeros_like().unwrap(), None).unwrap().i(0).unwrap();
        let vector = match pooling {
            Pooling::Mean => states.mean(0).unwrap(),
            Pooling::Cls => states.i(0).unwrap(),
            Pooling::Last => unreachable!("the oracle has no such pooling"),
        };
        let length = vector.sqr().unwrap().sum_all().unwrap().sqrt().unwrap();
        vector.broadcast_div(&length).unwrap().to_vec1().unwrap()
    };
    texts.iter().map(one).collect()
}

const WORDS: [&str; 6] = ["a", "hello world", "the quick brown fox jumps over the lazy dog", "zzz !?", " ", "x y z"];

#[tokio::test]
async fn a_tiny_encoder_agrees_with_candle() {
    let folder = tempfile::tempdir().unwrap();
    support::tiny_encoder(folder.path(), 1);
    let encoder = Encoder::load(folder.path(), settings(1)).unwrap();
    for pooling in [Pooling::Mean, Pooling::Cls] {
        let expected = oracle(folder.path(), &WORDS, pooling, support::POSITIONS);
        let vectors = embed(&encoder, &WORDS, pooling).await;
        for ((vector, expected), text) in vectors.iter().zip(&expected).zip(WORDS) {
            // The same sums in another order, and erf and exp to 5e-7.
            assert!(furthest(vector, expected) < 1e-5, "{text:?} {pooling:?}: {}", furthest(vector, expected));
        }
    }
}

#[tokio::test]
async fn a_real_encoder_agrees_with_candle_up_to_its_longest_text() {
    let folder = support::real("bge-small-en-v1.5");
    let long = "every good boy deserves fudge, and some of them get it. ".repeat(80);
    let texts = [long.as_str(), "short", &long[..700]];
    let encoder = Encoder::load(&folder, settings(2)).unwrap();
    let expected = oracle(&folder, &texts, Pooling::Mean, 512);
    for (vector, expected) in embed(&encoder, &texts, Pooling::Mean).await.iter().zip(&expected) {
        assert!(furthest(vector, expected) < 1e-5, "{}", furthest(vector, expected));
    }
}

#[tokio::test]
async fn a_batch_equals_its_texts_alone() {
    let folder = support::real("all-minilm-l6-v2");
    let encoder = Encoder::load(&folder, settings(2)).unwrap();
    let texts: Vec<String> = (0..70).map(|index| format!("text {index} {}", "and more ".repeat(index % 13))).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let batch = embed(&encoder, &texts, Pooling::Mean).await;
    assert_eq!(batch.len(), texts.len());
    for (text, together) in texts.iter().zip(&batch) {
        let alone = embed(&encoder, &[text], Pooling::Mean).await;
        // Rows do not meet in a packed batch, so what remains is at most another order of the same sums.
        assert!(furthest(&alone[0], together) < 1e-5, "{text:?}: {}", furthest(&alone[0], together));
    }
}

#[tokio::test]
async fn texts_are_cut_to_the_bound_and_never_padded() {
    let folder = tempfile::tempdir().unwrap();
    support::tiny_encoder(folder.path(), 2);
    let bounded = Settings { context: NonZeroUsize::new(10), ..settings(1) };
    let encoder = Encoder::load(folder.path(), bounded).unwrap();
    let tokens = |text: &str| {
        let embedded = encoder.embed("test".into(), vec![text.to_owned()], Pooling::Mean);
        async move { embedded.await.unwrap().tokens }
    };
    // The file's own settings would make 6 of each.
    assert_eq!(tokens("a b").await, 4);
    assert_eq!(tokens(&"a ".repeat(100)).await, 10);
    assert_eq!(tokens(&"a ".repeat(1_000_000)).await, 10);
    let whole = Encoder::load(folder.path(), settings(1)).unwrap();
    let long = whole.embed("test".into(), vec!["a ".repeat(1000)], Pooling::Mean).await.unwrap();
    assert_eq!(long.tokens, support::POSITIONS, "no more than the model has positions");
}

#[tokio::test]
async fn a_full_queue_refuses_and_dropped_requests_are_skipped() {
    let folder = tempfile::tempdir().unwrap();
    support::tiny_encoder(folder.path(), 3);
    let narrow = Settings { queue: NonZeroUsize::MIN, ..settings(1) };
    let encoder = Encoder::load(folder.path(), narrow).unwrap();
    let many = || vec!["some text of several words".to_owned(); 200_000];
    // The first keeps the only thread busy, however much of it has been taken: the queue's one place stays used.
    let busy = encoder.embed("a".into(), many(), Pooling::Mean);
    let refused = encoder.embed("a".into(), vec!["x".to_owned()], Pooling::Mean).await.unwrap_err();
    assert_eq!((refused.code, refused.status), (3040, 429));
    assert!(refused.retry_after.is_some());
    // Another tenant is not refused, and waits a turn and no longer.
    let other = encoder.embed("b".into(), vec!["x".to_owned()], Pooling::Mean).await.unwrap();
    assert_eq!(other.vectors.len(), 1);
    drop(busy);
    // Its place is free at once, not after two hundred thousand texts.
    let answered = encoder.embed("a".into(), vec!["x".to_owned()], Pooling::Mean).await.unwrap();
    assert_eq!(answered.vectors.len(), 1);
}
