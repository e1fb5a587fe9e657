//! Every architecture against transformers, teacher-forced, from every format.
//!
//! The checkpoints are tiny and random, made by `golden/make_decoders.py` so that all formats hold the same weights.
//! They differ from the published models in size alone: grouped heads, windows shorter than the text, norms of heads,
//! soft caps, and every way of stretching a rotation are in them.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use host_inference::text::decoder::checkpoint::Checkpoint;
use host_inference::text::decoder::{self, Decoder, Description, Source};
use host_inference::text::forward::{ForwardPass, Span};
use host_inference::text::gguf::GgufFile;
use host_inference::text::weights::Compute;
use host_kernels::kv::KvStore;
use host_kernels::threads::ThreadPool;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde_json::json;

const ARCHITECTURES: [&str; 7] = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"];

#[derive(Deserialize)]
struct Reference {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    ids: Vec<u32>,
    /// The best next token at each place.
    top: Vec<usize>,
    /// All logits at some places.
    logits: HashMap<usize, Vec<f32>>,
    /// The same with keys and values rounded to half precision, as the cache here rounds them.
    logits_half_cache: HashMap<usize, Vec<f32>>,
}

fn folder(architecture: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/decoders").join(architecture)
}

fn cases(architecture: &str) -> Vec<Case> {
    let text = std::fs::read(folder(architecture).join("reference.json")).unwrap();
    serde_json::from_slice::<Reference>(&text).unwrap().cases
}

fn decoder(description: Description, source: Source<'_>) -> (Decoder, KvStore) {
    let store = KvStore::new(description.kv_shape(), 8);
    let pool = ThreadPool::new("test", NonZeroUsize::new(2).unwrap()).unwrap();
    (Decoder::read(description, source, Compute::new(pool)).unwrap(), store)
}

fn from_gguf(architecture: &str, kind: &str, context: usize) -> (Decoder, KvStore) {
    let file = GgufFile::open(&folder(architecture).join(format!("{kind}.gguf"))).unwrap();
    let mut description = decoder::gguf::describe(file.view()).unwrap();
    description.limit_context(context);
    decoder(description, Source::Gguf(file.view()))
}

fn from_directory(path: &Path, context: usize) -> (Decoder, KvStore) {
    let checkpoint = Checkpoint::open(path).unwrap();
    let source = Source::Checkpoint(&checkpoint);
    let mut description = decoder::hugging_face::describe(&checkpoint.config, source).unwrap();
    description.limit_context(context);
    decoder(description, source)
}

/// The checkpoint with its values as `dtype`, in `shards` files.
fn rewritten(architecture: &str, dtype: Dtype, shards: usize) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::copy(folder(architecture).join("config.json"), directory.path().join("config.json")).unwrap();
    let bytes = std::fs::read(folder(architecture).join("model.safetensors")).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = stored
        .iter()
        .map(|(name, view)| {
            assert_eq!(view.dtype(), Dtype::BF16);
            let values = view.data().chunks_exact(2).map(|b| f32::from_bits(u32::from_le_bytes([0, 0, b[0], b[1]])));
            let bytes = match dtype {
                Dtype::F32 => values.flat_map(f32::to_le_bytes).collect(),
                Dtype::F16 => values.flat_map(|value| half::f16::from_f32(value).to_le_bytes()).collect(),
                _ => view.data().to_vec(),
            };
            (name.to_owned(), view.shape().to_vec(), bytes)
        })
        .collect();
    let mut index = serde_json::Map::new();
    for (i, part) in tensors.chunks(tensors.len().div_ceil(shards)).enumerate() {
        let file = if shards == 1 { "model.safetensors".into() } else { format!("model-{i}.safetensors") };
        let views = part.iter().map(|(name, shape, data)| (name, TensorView::new(dtype, shape.clone(), data).unwrap()));
        std::fs::write(directory.path().join(&file), safetensors::serialize(views, None).unwrap()).unwrap();
        index.extend(part.iter().map(|(name, _, _)| (name.clone(), json!(file))));
    }
    if shards > 1 {
        let index = json!({ "weight_map": index }).to_string();
        std::fs::write(directory.path().join("model.safetensors.index.json"), index).unwrap();
    }
    directory
}

/// The logits after each token, read one by one.
fn rows(model: &mut Decoder, store: &mut KvStore, ids: &[u32], blocks: &[u32]) -> Vec<Vec<f32>> {
    let step = |(i, token): (usize, &u32)| {
        let span = Span { tokens: &[*token], position: i, blocks, logits: true, adapter: None };
        model.forward(store, &[span]).unwrap().to_vec()
    };
    ids.iter().enumerate().map(step).collect()
}

fn log_softmax(row: &[f32]) -> Vec<f64> {
    let most = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let total = row.iter().map(|logit| (f64::from(*logit) - most).exp()).sum::<f64>().ln() + most;
    row.iter().map(|logit| f64::from(*logit) - total).collect()
}

fn divergence(expected: &[f32], found: &[f32]) -> f64 {
    let (expected, found) = (log_softmax(expected), log_softmax(found));
    expected.iter().zip(&found).map(|(p, q)| p.exp() * (p - q)).sum()
}

/// How far a model is from the reference.
#[derive(Debug, Default)]
struct Distance {
    /// The largest Kullback-Leibler divergence from the reference's distribution at one place.
    divergence: f64,
    /// The largest divergence from the reference with a cache in half precision, and the largest difference of a logit.
    same_cache: (f64, f32),
    /// Places whose best token is another.
    missed: usize,
}

fn distance(rows: &[Vec<f32>], case: &Case) -> Distance {
    let mut distance = Distance::default();
    for (row, top) in rows.iter().zip(&case.top) {
        let best = (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]));
        distance.missed += usize::from(best != Some(*top));
    }
    for (place, expected) in &case.logits {
        distance.divergence = distance.divergence.max(divergence(expected, &rows[*place]));
    }
    for (place, expected) in &case.logits_half_cache {
        let (worst, row) = (&mut distance.same_cache, &rows[*place]);
        worst.0 = worst.0.max(divergence(expected, row));
        worst.1 = row.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(worst.1, f32::max);
    }
    distance
}

/// The context that makes LongRoPE take the factors which the reference took for so many tokens.
fn context_for(tokens: usize) -> usize {
    if tokens <= 32 { 32 } else { usize::MAX }
}

/// Compares with each case; `load` takes the context.
fn compare(architecture: &str, format: &str, load: impl Fn(usize) -> (Decoder, KvStore)) -> Distance {
    let mut worst = Distance::default();
    for case in cases(architecture) {
        let (mut model, mut store) = load(context_for(case.ids.len()));
        let found = distance(&rows(&mut model, &mut store, &case.ids, &[5, 2]), &case);
        println!("{architecture} {format}: {found:?}");
        worst.divergence = worst.divergence.max(found.divergence);
        worst.same_cache.0 = worst.same_cache.0.max(found.same_cache.0);
        worst.same_cache.1 = worst.same_cache.1.max(found.same_cache.1);
        worst.missed += found.missed;
    }
    worst
}

/// Measured: the cache in half precision costs a divergence of up to 2.6e-5; beside that nothing is left.
fn assert_exact(what: &str, found: &Distance) {
    assert!(found.missed == 0 && found.divergence < 1e-4, "{what}: {found:?}");
    assert!(found.same_cache.0 < 1e-6 && found.same_cache.1 < 5e-3, "{what}: {found:?}");
}

#[test]
fn floats_match_transformers() {
    for architecture in ARCHITECTURES {
        let formats = [("f32", Dtype::F32, 2), ("bf16", Dtype::BF16, 1), ("f16", Dtype::F16, 3)];
        for (format, dtype, shards) in formats {
            let directory = rewritten(architecture, dtype, shards);
            let found = compare(architecture, format, |context| from_directory(directory.path(), context));
            assert_exact(&format!("{architecture} {format}"), &found);
        }
        let found = compare(architecture, "f16 gguf", |context| from_gguf(architecture, "f16", context));
        assert_exact(architecture, &found);
    }
}

#[test]
fn eight_bits_match_transformers() {
    for architecture in ARCHITECTURES {
        let found = compare(architecture, "q8_0 gguf", |context| from_gguf(architecture, "q8_0", context));
        assert!(found.divergence < 0.1 && found.missed < 5, "{architecture}: {found:?}");
    }
}

#[test]
fn pieces_and_company_change_no_bit() {
    for (architecture, kind) in ARCHITECTURES.iter().flat_map(|name| [(name, "q8_0"), (name, "f16")]) {
        let (mut model, mut store) = from_gguf(architecture, kind, usize::MAX);
        let case = &cases(architecture)[0];
        let alone = rows(&mut model, &mut store, &case.ids, &[5, 2]);
        for piece in [3, 17, 48] {
            for (i, tokens) in case.ids.chunks(piece).enumerate() {
                let span = Span { tokens, position: i * piece, blocks: &[1, 7], logits: true, adapter: None };
                let found = model.forward(&mut store, &[span]).unwrap();
                assert_eq!(found, alone[i * piece + tokens.len() - 1], "{architecture} {kind} in pieces of {piece}");
            }
        }
        let (first, second) = (&case.ids[..20], &case.ids[..33]);
        let spans = [(first, &[0u32, 3][..]), (second, &[4, 6])].map(|(tokens, blocks)| Span {
            tokens,
            position: 0,
            blocks,
            logits: true,
            adapter: None,
        });
        let together = model.forward(&mut store, &spans).unwrap();
        assert_eq!(together, [&alone[19][..], &alone[32]].concat(), "{architecture} {kind} together");
    }
}
