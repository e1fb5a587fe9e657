//! Models in the forms of other programs: what they become in the store is what their makers published.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use half::f16;
use host_inference::store::{ModelName, NoProgress, Origin, Store, StoreError, inspect};
use host_inference::{Attachment, Engine, EngineConfig, Task};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use crate::support::{json_of, real, request};

/// Name, shape and values of each tensor.
type Weights = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn name(text: &str) -> ModelName {
    text.parse().unwrap()
}

fn weights(folder: &Path) -> Weights {
    let bytes = fs::read(folder.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let values = |dtype, data: &[u8]| match dtype {
        Dtype::F16 => data.as_chunks::<2>().0.iter().map(|two| f16::from_le_bytes(*two).to_f32()).collect(),
        Dtype::F32 => data.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect(),
        other => panic!("{other:?}"),
    };
    let tensor = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        (name, (view.shape().to_vec(), values(view.dtype(), view.data())))
    };
    file.tensors().into_iter().map(tensor).collect()
}

fn halves(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect()
}

/// What a tensor is as blocks of `dtype`, and the values that these stand for.
fn quantized(values: &[f32], columns: usize, dtype: GgmlDType) -> (Vec<u8>, Vec<f32>) {
    let tensor = Tensor::from_slice(values, (values.len() / columns, columns), &Device::Cpu).unwrap();
    let blocks = QTensor::quantize(&tensor, dtype).unwrap();
    let back = blocks.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    (blocks.data().unwrap().to_vec(), back)
}

/// The words of a `tokenizer.json`, in the order of their numbers.
fn words(folder: &Path) -> Vec<String> {
    let file: Value = serde_json::from_slice(&fs::read(folder.join("tokenizer.json")).unwrap()).unwrap();
    let mut words: Vec<(u64, String)> = file["model"]["vocab"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(word, id)| (id.as_u64().unwrap(), word.clone()))
        .collect();
    words.sort();
    words.into_iter().map(|(_, word)| word).collect()
}

fn is_special(word: &str) -> bool {
    word.starts_with("<|") && word.ends_with("|>")
}

/// The bytes of a word, as a byte-level vocabulary writes it.
fn bytes_of(word: &str) -> Vec<u8> {
    let printable: Vec<u32> = (0x21..=0x7e).chain(0xa1..=0xac).chain(0xae..=0xff).collect();
    let others: Vec<u32> = (0..256).filter(|byte| !printable.contains(byte)).collect();
    let byte = |letter: char| match u32::from(letter) {
        code if code < 256 => code as u8,
        code => others[code as usize - 256] as u8,
    };
    word.chars().map(byte).collect()
}

/// The original's name of a published one.
fn original(published: &str) -> String {
    let name = published.strip_prefix("model.").unwrap();
    match name {
        "encoder.embed_positions.weight" => return "encoder.positional_embedding".to_owned(),
        "decoder.embed_positions.weight" => return "decoder.positional_embedding".to_owned(),
        "encoder.layer_norm.weight" | "encoder.layer_norm.bias" => return name.replace("layer_norm", "ln_post"),
        "decoder.layer_norm.weight" | "decoder.layer_norm.bias" => return name.replace("layer_norm", "ln"),
        _ => {}
    }
    let parts = [
        ("embed_tokens", "token_embedding"),
        (".layers.", ".blocks."),
        ("self_attn_layer_norm", "attn_ln"),
        ("encoder_attn_layer_norm", "cross_attn_ln"),
        ("final_layer_norm", "mlp_ln"),
        ("self_attn.", "attn."),
        ("encoder_attn.", "cross_attn."),
        ("q_proj", "query"),
        ("k_proj", "key"),
        ("v_proj", "value"),
        ("out_proj", "out"),
        ("fc1", "mlp.0"),
        ("fc2", "mlp.2"),
    ];
    parts.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// The model in `folder` as whisper.cpp has it, matrices as blocks of `dtype`, and what its values are then.
fn ggml(folder: &Path, dtype: GgmlDType, kind: u32) -> (Vec<u8>, Weights) {
    let config: Value = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
    let size = |key: &str| config[key].as_u64().unwrap() as u32;
    let sizes = ["vocab_size", "max_source_positions", "d_model", "encoder_attention_heads", "encoder_layers"];
    let decoder = ["max_target_positions", "d_model", "decoder_attention_heads", "decoder_layers", "num_mel_bins"];
    let mut bytes = 0x6767_6d6c_u32.to_le_bytes().to_vec();
    let mut put = |value: u32| bytes.extend(value.to_le_bytes());
    sizes.iter().chain(&decoder).for_each(|key| put(size(key)));
    [2000 + kind, 80, 201].into_iter().for_each(&mut put);
    bytes.extend(vec![0; 80 * 201 * 4]);
    let words: Vec<String> = words(folder).into_iter().filter(|word| !is_special(word)).collect();
    bytes.extend((words.len() as u32).to_le_bytes());
    for word in words {
        let word = bytes_of(&word);
        bytes.extend((word.len() as u32).to_le_bytes());
        bytes.extend(word);
    }
    let mut expected = Weights::new();
    for (published, (shape, values)) in weights(folder) {
        // As its converter does: matrices in the file's type, all else in float32, biases of convolutions as columns.
        let matrix = shape.len() == 2 && !published.contains("positions") && dtype != GgmlDType::F16;
        let (number, data, values) = match (matrix, shape.len()) {
            (true, _) => {
                let (data, values) = quantized(&values, shape[1], dtype);
                (kind, data, values)
            }
            (false, 1) => (0, values.iter().flat_map(|value| value.to_le_bytes()).collect(), values),
            (false, _) => (1, halves(&values), values),
        };
        let column = published.contains("conv") && shape.len() == 1;
        let sides: Vec<usize> = if column { vec![shape[0], 1] } else { shape.clone() };
        let original = original(&published);
        for value in [sides.len() as u32, original.len() as u32, number] {
            bytes.extend(value.to_le_bytes());
        }
        sides.iter().rev().for_each(|side| bytes.extend((*side as u32).to_le_bytes()));
        bytes.extend(original.as_bytes());
        bytes.extend(data);
        let rounded = values.iter().map(|value| f16::from_f32(*value).to_f32()).collect();
        expected.insert(published, (shape, rounded));
    }
    (bytes, expected)
}

/// The model in `folder` as CTranslate2 has it, weights in half precision or as integers with a scale for each row.
fn ctranslate2(folder: &Path, int8: bool) -> Vec<u8> {
    let weights = weights(folder);
    let config: Value = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
    let mut variables: Vec<Vec<u8>> = Vec::new();
    let text = |text: &str| [&(text.len() as u16 + 1).to_le_bytes()[..], text.as_bytes(), &[0]].concat();
    let mut put = |name: &str, shape: &[usize], kind: u8, data: &[u8]| {
        let mut bytes = text(name);
        bytes.push(shape.len() as u8);
        shape.iter().for_each(|side| bytes.extend((*side as u32).to_le_bytes()));
        bytes.push(kind);
        bytes.extend((data.len() as u32).to_le_bytes());
        bytes.extend(data);
        variables.push(bytes);
    };
    let mut tensor = |name: &str, shape: &[usize], values: &[f32]| {
        if !(int8 && name.ends_with("/weight")) {
            return put(name, shape, 4, &halves(values));
        }
        let (mut data, mut scales) = (Vec::new(), Vec::new());
        for row in values.chunks(values.len() / shape[0]) {
            let most = row.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
            let scale = 127.0 / if most == 0.0 { 127.0 } else { most };
            data.extend(row.iter().map(|value| (value * scale).round_ties_even() as i8 as u8));
            scales.extend(scale.to_le_bytes());
        }
        put(name, shape, 1, &data);
        put(&format!("{name}_scale"), &shape[..1], 0, &scales);
    };
    let get = |name: &str| &weights[name];
    let mut plain = |from: &str, to: &str| {
        let (shape, values) = get(from);
        tensor(to, shape, values);
    };
    plain("model.decoder.embed_tokens.weight", "decoder/embeddings/weight");
    for (side, attentions) in [("encoder", 1), ("decoder", 2)] {
        plain(&format!("model.{side}.embed_positions.weight"), &format!("{side}/position_encodings/encodings"));
        for (end, to) in [("weight", "gamma"), ("bias", "beta")] {
            plain(&format!("model.{side}.layer_norm.{end}"), &format!("{side}/layer_norm/{to}"));
        }
        for layer in 0..config[format!("{side}_layers")].as_u64().unwrap() {
            let (from, to) = (format!("model.{side}.layers.{layer}"), format!("{side}/layer_{layer}"));
            for (end, norm) in [("weight", "gamma"), ("bias", "beta")] {
                plain(&format!("{from}.final_layer_norm.{end}"), &format!("{to}/ffn/layer_norm/{norm}"));
                plain(&format!("{from}.fc1.{end}"), &format!("{to}/ffn/linear_0/{end}"));
                plain(&format!("{from}.fc2.{end}"), &format!("{to}/ffn/linear_1/{end}"));
                for (own, other) in
                    [("self_attn", "self_attention"), ("encoder_attn", "attention")].into_iter().take(attentions)
                {
                    plain(&format!("{from}.{own}_layer_norm.{end}"), &format!("{to}/{other}/layer_norm/{norm}"));
                    let last = if own == "self_attn" { 1 } else { 2 };
                    plain(&format!("{from}.{own}.out_proj.{end}"), &format!("{to}/{other}/linear_{last}/{end}"));
                    if own == "encoder_attn" {
                        plain(&format!("{from}.{own}.q_proj.{end}"), &format!("{to}/{other}/linear_0/{end}"));
                    }
                }
            }
        }
    }
    for conv in ["conv1", "conv2"] {
        for end in ["weight", "bias"] {
            plain(&format!("model.encoder.{conv}.{end}"), &format!("encoder/{conv}/{end}"));
        }
    }
    // Query, key and value are one matrix; keys have no bias.
    let width = config["d_model"].as_u64().unwrap() as usize;
    for (side, own, to, parts) in [
        ("encoder", "self_attn", "self_attention/linear_0", &["q_proj", "k_proj", "v_proj"][..]),
        ("decoder", "self_attn", "self_attention/linear_0", &["q_proj", "k_proj", "v_proj"]),
        ("decoder", "encoder_attn", "attention/linear_1", &["k_proj", "v_proj"]),
    ] {
        for layer in 0..config[format!("{side}_layers")].as_u64().unwrap() {
            let from = |part: &str, end: &str| format!("model.{side}.layers.{layer}.{own}.{part}.{end}");
            let matrix: Vec<f32> = parts.iter().flat_map(|part| get(&from(part, "weight")).1.clone()).collect();
            let bias =
                |part: &&str| weights.get(&from(part, "bias")).map_or(vec![0.0; width], |(_, values)| values.clone());
            let bias: Vec<f32> = parts.iter().flat_map(bias).collect();
            tensor(&format!("{side}/layer_{layer}/{to}/weight"), &[parts.len() * width, width], &matrix);
            tensor(&format!("{side}/layer_{layer}/{to}/bias"), &[parts.len() * width], &bias);
        }
    }
    for side in ["encoder", "decoder"] {
        let heads = config[format!("{side}_attention_heads")].as_u64().unwrap() as i8;
        put(&format!("{side}/num_heads"), &[], 1, &[heads as u8]);
    }
    let head = [&6_u32.to_le_bytes()[..], &text("WhisperSpec"), &3_u32.to_le_bytes()].concat();
    let count = (variables.len() as u32).to_le_bytes();
    [head, count.to_vec(), variables.concat(), vec![0; 4]].concat()
}

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        Place { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn store(&self) -> Store {
        Store::open(self.folder.path().join("models"))
    }

    /// Imports, and looks at what lies there then.
    fn import(&self, called: &str, path: &Path) -> PathBuf {
        let store = self.store();
        let installed = store.import(&name(called), path, None, &mut NoProgress).unwrap();
        assert_eq!(installed.manifest.origin, Origin::Imported);
        assert_eq!(store.find(&name(called)).unwrap(), Some(installed.clone()));
        store.verify(&name(called), &mut NoProgress).unwrap();
        let again = store.import(&name(called), path, None, &mut NoProgress);
        assert!(matches!(again, Err(StoreError::Taken(_))));
        installed.layout.folder().to_path_buf()
    }

    async fn transcript(&self, called: &str) -> String {
        let engine = Engine::new(EngineConfig::new(self.store().directory())).unwrap();
        let mut request = request(called, json!({ "beam_size": 1 }));
        let data = fs::read(golden("speech/jfk.flac")).unwrap().into();
        request.attachments.push(Attachment { property: String::new(), content_type: None, data });
        let answer = json_of(engine.run(request).await.unwrap().output);
        answer["text"].as_str().unwrap().to_lowercase().replace([',', '.'], "")
    }
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

const SAID: &str =
    "and so my fellow americans ask not what your country can do for you ask what you can do for your country";

fn generation(folder: &Path, key: &str) -> Value {
    let value: Value = serde_json::from_slice(&fs::read(folder.join("generation_config.json")).unwrap()).unwrap();
    value[key].clone()
}

#[tokio::test]
async fn whisper_cpps_file_becomes_the_published_model() {
    let (place, published) = (Place::new(), real("whisper-tiny.en"));
    let (bytes, expected) = ggml(&published, GgmlDType::F16, 1);
    let path = place.path("ggml-tiny.en.bin");
    fs::write(&path, bytes).unwrap();
    let refused = inspect(&path).unwrap_err().to_string();
    assert!(refused.contains("whisper.cpp") && refused.contains("host models import"), "{refused}");
    let folder = place.import("tiny", &path);
    assert_eq!(weights(&folder), expected);
    assert_eq!(weights(&folder), weights(&published), "the published values, to the bit");
    assert_eq!(generation(&folder, "alignment_heads"), generation(&published, "alignment_heads"));
    assert_eq!(place.transcript("tiny").await, SAID);
    let found = inspect(&folder).unwrap();
    assert_eq!(found.task, Task::AutomaticSpeechRecognition);
    place.store().remove(&name("tiny")).unwrap();
    assert!(place.store().list().unwrap().is_empty());
}

#[tokio::test]
async fn quantized_files_of_whisper_cpp_keep_the_values_of_their_blocks() {
    let (place, published) = (Place::new(), real("whisper-tiny.en"));
    for (called, dtype, kind) in
        [("q5_0", GgmlDType::Q5_0, 6), ("q5_1", GgmlDType::Q5_1, 7), ("q8_0", GgmlDType::Q8_0, 8)]
    {
        let (bytes, expected) = ggml(&published, dtype, kind);
        // In a folder of its own, as downloads come.
        let path = place.path(&format!("{called}/ggml-tiny.en-{called}.bin"));
        fs::write(&path, bytes).unwrap();
        let folder = place.import(called, path.parent().unwrap());
        assert!(weights(&folder) == expected, "{called}");
    }
    assert_eq!(place.transcript("q5_0").await, SAID);
}

#[tokio::test]
async fn ctranslate2s_folder_becomes_the_published_model() {
    let (place, published) = (Place::new(), real("whisper-tiny.en"));
    let config = json!({
        "alignment_heads": generation(&published, "alignment_heads"),
        "suppress_ids": generation(&published, "suppress_tokens"), "suppress_ids_begin": [220, 50256]
    });
    for (called, int8) in [("half", false), ("int8", true)] {
        let path = place.path(&format!("{called}/model.bin"));
        fs::write(&path, ctranslate2(&published, int8)).unwrap();
        fs::write(place.path(&format!("{called}/config.json")), config.to_string()).unwrap();
        let missing = place.store().import(&name(called), path.parent().unwrap(), None, &mut NoProgress).unwrap_err();
        assert!(missing.to_string().contains("vocabulary"), "{missing}");
        let mut list: Vec<String> = words(&published).into_iter().filter(|word| !is_special(word)).collect();
        let names = ["endoftext", "startoftranscript", "en", "translate", "transcribe", "startoflm", "startofprev"];
        list.extend(names.iter().chain(&["nocaptions", "notimestamps"]).map(|token| format!("<|{token}|>")));
        // The languages that the English model has no use for stand in its list all the same.
        let at = list.iter().position(|token| token == "<|en|>").unwrap();
        list.splice(at + 1..at + 1, (1..99).map(|language| format!("<|language-{language}|>")));
        fs::write(place.path(&format!("{called}/vocabulary.txt")), list.join("\n")).unwrap();
        let folder = place.import(called, path.parent().unwrap());
        if int8 {
            let (ours, theirs) = (weights(&folder), weights(&published));
            for (name, (shape, values)) in &theirs {
                let row = values.len() / shape[0];
                for (a, b) in ours[name].1.chunks(row).zip(values.chunks(row)) {
                    let most = b.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
                    let near = |(a, b): (&f32, &f32)| (a - b).abs() <= most * (0.5 / 127.0 + 1e-3) + 1e-6;
                    assert!(a.iter().zip(b).all(near), "{name}: half a step of its row");
                }
            }
        } else {
            assert_eq!(weights(&folder), weights(&published));
        }
        assert_eq!(place.transcript(called).await, SAID, "{called}");
    }
}

/// A GGUF file of these tensors without any metadata, as candle's tools write Whisper.
fn gguf(tensors: &Weights) -> Vec<u8> {
    let mut bytes =
        [&b"GGUF"[..], &3_u32.to_le_bytes(), &(tensors.len() as u64).to_le_bytes(), &0_u64.to_le_bytes()].concat();
    let mut data = Vec::new();
    for (name, (shape, values)) in tensors {
        bytes.extend((name.len() as u64).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|side| bytes.extend((*side as u64).to_le_bytes()));
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend((data.len() as u64).to_le_bytes());
        data.extend(halves(values));
        data.resize(data.len().next_multiple_of(32), 0);
    }
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    [bytes, data].concat()
}

#[test]
fn whisper_in_gguf_takes_the_files_beside_it() {
    let (place, published) = (Place::new(), golden("speech/tiny"));
    let path = place.path("whisper/model-tiny.gguf");
    let rounded = |values: &[f32]| values.iter().map(|value| f16::from_f32(*value).to_f32()).collect::<Vec<_>>();
    let expected: Weights =
        weights(&published).into_iter().map(|(name, (shape, values))| (name, (shape, rounded(&values)))).collect();
    fs::write(&path, gguf(&expected)).unwrap();
    let error = place.store().import(&name("x"), &path, None, &mut NoProgress).unwrap_err().to_string();
    assert!(error.contains("config.json") && error.contains("model-tiny.gguf"), "{error}");
    for file in ["config.json", "tokenizer.json", "generation_config.json"] {
        fs::copy(published.join(file), path.parent().unwrap().join(file)).unwrap();
    }
    let folder = place.import("whisper", path.parent().unwrap());
    assert_eq!(weights(&folder), expected);
    let mut short = expected;
    short.remove("model.decoder.layers.0.fc2.bias");
    fs::write(&path, gguf(&short)).unwrap();
    let error = place.store().import(&name("x"), &path, None, &mut NoProgress).unwrap_err().to_string();
    assert!(error.contains("model.decoder.layers.0.fc2.bias"), "{error}");
}

#[tokio::test]
async fn encoders_in_onnx_give_the_vectors_that_onnxruntime_gives() {
    let reference: Value = serde_json::from_slice(&fs::read(golden("onnx/reference.json")).unwrap()).unwrap();
    // Products of rounded activations part from those of floats by what is rounded.
    for (form, tolerance) in [("float", 1e-5), ("int8", 5e-2)] {
        let place = Place::new();
        place.import(form, &golden("onnx").join(form));
        let engine = Engine::new(EngineConfig::new(place.store().directory())).unwrap();
        let inputs = json!({ "text": reference["texts"] });
        let answer = json_of(engine.run(request(form, inputs)).await.unwrap().output);
        let rows = |value: &Value| {
            let row = |row: &Value| row.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>();
            value.as_array().unwrap().iter().map(row).collect::<Vec<_>>()
        };
        for (ours, theirs) in rows(&answer["data"]).iter().zip(rows(&reference[form])) {
            let apart = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(apart < tolerance, "{form}: {apart}");
        }
    }
}

#[test]
fn what_is_not_understood_is_named_and_leaves_nothing() {
    let place = Place::new();
    let refused = |path: &Path| {
        let error = place.store().import(&name("x"), path, None, &mut NoProgress).unwrap_err().to_string();
        assert!(place.store().list().unwrap().is_empty());
        error
    };
    let graph = place.path("onnx/model.onnx");
    fs::copy(golden("onnx/float/model.onnx"), &graph).unwrap();
    let folder = graph.parent().unwrap();
    assert!(refused(&graph).contains("config.json"));
    fs::write(place.path("onnx/config.json"), r#"{"model_type": "llama"}"#).unwrap();
    fs::copy(golden("onnx/float/tokenizer.json"), place.path("onnx/tokenizer.json")).unwrap();
    assert!(refused(folder).contains("llama"));
    let mut config: Value = serde_json::from_slice(&fs::read(golden("onnx/float/config.json")).unwrap()).unwrap();
    config["num_hidden_layers"] = json!(9);
    fs::write(place.path("onnx/config.json"), config.to_string()).unwrap();
    assert!(refused(folder).contains("encoder.layer.2"), "a layer that the file has not got");
    let bytes = fs::read(&graph).unwrap();
    for end in [0, 1, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&graph, &bytes[..end]).unwrap();
        assert!(refused(folder).contains("model.onnx"), "cut at {end}");
    }
    fs::remove_file(&graph).unwrap();
    for file in ["a.onnx", "b.onnx"] {
        fs::write(place.path(&format!("onnx/{file}")), b"").unwrap();
    }
    assert!(refused(folder).contains("a.onnx, b.onnx"));
}
