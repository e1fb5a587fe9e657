//! Every architecture against transformers, teacher-forced, from every format.
//!
//! The checkpoints are tiny and random, made by `golden/make_decoders.py` so that all formats hold the same weights.
//! They differ from the published models in size alone: grouped heads, windows shorter than the text, norms of heads,
//! soft caps, and every way of stretching a rotation are in them.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use candle_core::Device;
use host_inference::text::decoder::checkpoint::Checkpoint;
use host_inference::text::decoder::{self, Decoder, Description, Source};
use host_inference::text::forward::{ForwardPass, Span};
use host_inference::text::gguf::GgufFile;
use host_inference::text::tensors::{TensorCache, TensorDecoder};
use host_inference::text::weights::Compute;
use host_kernels::kv::KvStore;
use host_kernels::threads::ThreadPool;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde_json::{Value, json};

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

/// The same model built of tensors, on the processor.
fn tensors(description: Description, source: Source<'_>) -> (TensorDecoder, TensorCache) {
    let cache = TensorCache::new(&description, 8, &Device::Cpu).unwrap();
    (TensorDecoder::read(description, source, &Device::Cpu).unwrap(), cache)
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
fn rows<M: ForwardPass>(model: &mut M, cache: &mut M::Cache, ids: &[u32], blocks: &[u32]) -> Vec<Vec<f32>> {
    let step = |(i, token): (usize, &u32)| {
        let span = Span { tokens: &[*token], position: i, blocks, logits: 1, adapter: None };
        model.forward(cache, &[span]).unwrap().to_vec()
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
fn compare<M: ForwardPass>(architecture: &str, format: &str, load: impl Fn(usize) -> (M, M::Cache)) -> Distance {
    let mut worst = Distance::default();
    for case in cases(architecture) {
        let (mut model, mut cache) = load(context_for(case.ids.len()));
        let found = distance(&rows(&mut model, &mut cache, &case.ids, &[5, 2]), &case);
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
fn tensors_match_transformers() {
    for architecture in ARCHITECTURES {
        let checkpoint = Checkpoint::open(&folder(architecture)).unwrap();
        let found = compare(architecture, "tensors of bf16", |context| {
            let source = Source::Checkpoint(&checkpoint);
            let mut description = decoder::hugging_face::describe(&checkpoint.config, source).unwrap();
            description.limit_context(context);
            tensors(description, source)
        });
        assert_exact(&format!("{architecture} bf16"), &found);
        for (kind, most, missed) in [("f16", 1e-4, 0), ("q8_0", 0.1, 4)] {
            let file = GgufFile::open(&folder(architecture).join(format!("{kind}.gguf"))).unwrap();
            let found = compare(architecture, &format!("tensors of {kind} gguf"), |context| {
                let mut description = decoder::gguf::describe(file.view()).unwrap();
                description.limit_context(context);
                tensors(description, Source::Gguf(file.view()))
            });
            assert!(found.divergence < most && found.missed <= missed, "{architecture} {kind}: {found:?}");
        }
    }
}

/// Pieces of prompts beside each other in the pass built of tensors, against the kernels, whose own test they pass.
#[test]
fn ragged_batches_of_tensors_match_kernels() {
    for architecture in ARCHITECTURES {
        let file = GgufFile::open(&folder(architecture).join("f16.gguf")).unwrap();
        let description = decoder::gguf::describe(file.view()).unwrap();
        let (mut kernels, mut store) = decoder(description.clone(), Source::Gguf(file.view()));
        let (mut model, mut cache) = tensors(description, Source::Gguf(file.view()));
        let ids = &cases(architecture)[0].ids;
        let mut read = [0; 3];
        for pieces in [[17, 1, 9], [1, 8, 1], [9, 1, 11], [1, 1, 1], [2, 20, 1]] {
            let spans = (0..3).map(|i| {
                let (tokens, blocks) = (&ids[read[i]..read[i] + pieces[i]], [&[5u32, 2], &[0, 7], &[6, 1]][i]);
                Span { tokens, position: read[i], blocks, logits: 1, adapter: None }
            });
            let spans: Vec<Span<'_>> = spans.collect();
            let expected = kernels.forward(&mut store, &spans).unwrap();
            let found = model.forward(&mut cache, &spans).unwrap();
            let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 2e-3, "{architecture}: {worst} after {read:?}");
            read.iter_mut().zip(pieces).for_each(|(read, piece)| *read += piece);
        }
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
                let span = Span { tokens, position: i * piece, blocks: &[1, 7], logits: 1, adapter: None };
                let found = model.forward(&mut store, &[span]).unwrap();
                assert_eq!(found, alone[i * piece + tokens.len() - 1], "{architecture} {kind} in pieces of {piece}");
            }
        }
        let (first, second) = (&case.ids[..20], &case.ids[..33]);
        let spans = [(first, &[0u32, 3][..]), (second, &[4, 6])].map(|(tokens, blocks)| Span {
            tokens,
            position: 0,
            blocks,
            logits: 1,
            adapter: None,
        });
        let together = model.forward(&mut store, &spans).unwrap();
        assert_eq!(together, [&alone[19][..], &alone[32]].concat(), "{architecture} {kind} together");
    }
}

fn config_of(architecture: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder(architecture).join("config.json")).unwrap()).unwrap()
}

/// What becomes of the checkpoint in `directory` before any weight is read.
fn described(directory: &Path) -> Result<Description, String> {
    let checkpoint = Checkpoint::open(directory).map_err(|error| error.to_string())?;
    let source = Source::Checkpoint(&checkpoint);
    let description = decoder::hugging_face::describe(&checkpoint.config, source).map_err(|error| error.to_string())?;
    description.check(source).map_err(|error| error.to_string())?;
    Ok(description)
}

fn write_config(directory: &Path, config: &Value) {
    std::fs::write(directory.join("config.json"), config.to_string()).unwrap();
}

#[test]
fn configurations_that_are_not_supported_are_refused_by_key() {
    let cases = [
        ("llama", "/model_type", json!("mamba"), "\"mamba\"; the architectures that are read are gemma2"),
        ("llama", "/model_type", json!(null), "model_type: it is missing"),
        ("llama", "/hidden_size", json!(1u64 << 40), "hidden_size: 1099511627776 is no whole number from 1 to"),
        ("llama", "/hidden_size", json!(-3), "hidden_size: -3 is no whole number"),
        ("llama", "/hidden_size", json!(64), "self_attn.q_proj.weight: its shape is [32, 32]"),
        ("llama", "/num_hidden_layers", json!(3), "model.layers.2.self_attn.q_proj.weight is missing"),
        (
            "llama",
            "/num_hidden_layers",
            json!(1),
            "\"model.layers.1.input_layernorm.weight\": is not part of the llama",
        ),
        ("llama", "/num_key_value_heads", json!(3), "4 heads, 3 key-value heads"),
        ("llama", "/rms_norm_eps", json!(0), "rms_norm_eps: 0 is no number above 0"),
        ("llama", "/mlp_bias", json!(true), "mlp_bias: this is not supported"),
        ("llama", "/attention_bias", json!(true), "self_attn.q_proj.bias is missing"),
        ("llama", "/hidden_act", json!("relu"), "hidden_act: \"relu\" is not supported"),
        ("llama", "/rope_parameters/rope_type", json!("dynamic"), "rope_type: \"dynamic\" is not supported"),
        ("llama", "/rope_parameters/factor", json!(0.5), "rope_parameters.factor: 0.5 is below 1"),
        ("llama", "/rope_parameters/high_freq_factor", json!(1.0), "1 is not above low_freq_factor 1"),
        ("llama", "/rope_parameters/rope_theta", json!(1e300), "rope_theta: 1e+300 is no number above 0"),
        ("phi3", "/rope_parameters/long_factor", json!([1.0]), "there are 1 factors for 4 frequencies"),
        (
            "phi3",
            "/rope_parameters/short_factor",
            json!([1, 0, 1, 1]),
            "short_factor: it is no list of numbers above 0",
        ),
        ("qwen3", "/layer_types", json!(["full_attention"]), "layer_types: it is no list of 2 types"),
        ("gemma3", "/layer_types/0", json!("chunked_attention"), "\"chunked_attention\" is not supported"),
    ];
    for (architecture, key, value, part) in cases {
        let directory = rewritten(architecture, Dtype::BF16, 1);
        let mut config = config_of(architecture);
        *config.pointer_mut(key).unwrap() = value;
        write_config(directory.path(), &config);
        let error = described(directory.path()).unwrap_err();
        assert!(error.contains(part), "{error} lacks {part}");
    }
    let directory = rewritten("llama", Dtype::BF16, 1);
    let mut config = config_of("llama");
    config["quantization_config"] = json!({ "quant_method": "gptq" });
    write_config(directory.path(), &config);
    assert!(described(directory.path()).unwrap_err().contains("quantization_config: quantized checkpoints"));
}

#[test]
fn files_of_weights_that_are_not_right_are_refused_by_name() {
    let one = |change: &dyn Fn(&Path)| {
        let directory = rewritten("llama", Dtype::F32, 2);
        change(directory.path());
        described(directory.path()).unwrap_err()
    };
    let index = |path: &Path, file: &str| {
        let map = json!({ "weight_map": { "a": file, "b": "model-0.safetensors" } });
        std::fs::write(path.join("model.safetensors.index.json"), map.to_string()).unwrap();
    };
    let faults = [
        (one(&|path| std::fs::remove_file(path.join("model-1.safetensors")).unwrap()), "model-1.safetensors"),
        (one(&|path| index(path, "../model.safetensors")), "names the file \"../model.safetensors\""),
        (one(&|path| index(path, "config.json")), "which is no name of a safetensors file"),
        (one(&|path| std::fs::write(path.join("model-1.safetensors"), [0xff; 64]).unwrap()), "header claims"),
        (
            one(&|path| {
                std::fs::copy(path.join("model-0.safetensors"), path.join("model-1.safetensors")).unwrap();
            }),
            "is in another file too",
        ),
        (
            one(&|path| {
                std::fs::remove_file(path.join("model.safetensors.index.json")).unwrap();
                std::fs::rename(path.join("model-0.safetensors"), path.join("model.safetensors")).unwrap();
            }),
            "is missing",
        ),
        (
            one(&|path| {
                let file = std::fs::File::options().write(true).open(path.join("model-1.safetensors")).unwrap();
                file.set_len(file.metadata().unwrap().len() - 1).unwrap();
            }),
            "it may be truncated",
        ),
    ];
    for (error, part) in faults {
        assert!(error.contains(part), "{error} lacks {part}");
    }
    let directory = rewritten("llama", Dtype::BF16, 1);
    let bytes = std::fs::read(directory.path().join("model.safetensors")).unwrap();
    let header = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    let text = std::str::from_utf8(&bytes[8..8 + header]).unwrap().replacen("BF16", "U16", 1);
    let text = format!("{text}{}", " ".repeat(header - text.len()));
    std::fs::write(
        directory.path().join("model.safetensors"),
        [&bytes[..8], text.as_bytes(), &bytes[8 + header..]].concat(),
    )
    .unwrap();
    let error = described(directory.path()).unwrap_err();
    assert!(error.contains("it holds U16; F32, F16 and BF16 are read"), "{error}");
}

/// Files of before 2026 keep rotary parameters in two places, and those with a part for images nest what is read here.
#[test]
fn older_and_nested_configurations_say_the_same() {
    let directory = rewritten("llama", Dtype::BF16, 1);
    let expected = described(directory.path()).unwrap();
    let mut config = config_of("llama");
    let mut scaling = config.as_object_mut().unwrap().remove("rope_parameters").unwrap();
    config["rope_theta"] = scaling.as_object_mut().unwrap().remove("rope_theta").unwrap();
    config["rope_scaling"] = scaling;
    write_config(directory.path(), &config);
    assert_eq!(described(directory.path()).unwrap(), expected);

    let directory = rewritten("gemma3", Dtype::BF16, 1);
    let expected = described(directory.path()).unwrap();
    let mut text = config_of("gemma3");
    let fields = text.as_object_mut().unwrap();
    for default in ["layer_types", "_sliding_window_pattern", "rope_parameters", "hidden_activation", "rms_norm_eps"] {
        fields.remove(default);
    }
    text["rope_scaling"] = json!({ "rope_type": "linear", "factor": 8.0 });
    write_config(directory.path(), &json!({ "model_type": "gemma3", "text_config": text, "vision_config": {} }));
    let bytes = std::fs::read(directory.path().join("model.safetensors")).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<(String, TensorView<'_>)> =
        stored.iter().map(|(name, view)| (format!("language_model.{name}"), view)).collect();
    tensors.push(("vision_tower.encoder.weight".into(), TensorView::new(Dtype::BF16, vec![1], &[0; 2]).unwrap()));
    std::fs::write(directory.path().join("model.safetensors"), safetensors::serialize(tensors, None).unwrap()).unwrap();
    let mut found = described(directory.path()).unwrap();
    assert_eq!(found.layers[5].query.name, "language_model.model.layers.5.self_attn.q_proj.weight");
    assert_eq!(found.layers.iter().map(|l| l.window).collect::<Vec<_>>(), {
        expected.layers.iter().map(|l| l.window).collect::<Vec<_>>()
    });
    found.ropes.truncate(2);
    assert_eq!(
        (&found.ropes, found.epsilon, found.activation),
        (&expected.ropes, expected.epsilon, expected.activation)
    );
}
