//! Models that look at pictures against transformers: tiny checkpoints of each architecture, loaded and asked as programs
//! do it. `golden/make_vision.py` made them and their values.

use std::path::{Path, PathBuf};

use futures::StreamExt;
use host_inference::backend::Model;
use host_inference::store::{self, NoProgress, Store};
use host_inference::{Attachment, Engine, EngineConfig, LocalModel, LocalSource, Task, vision};
use serde_json::{Map, Value, json};

use crate::support;

/// The reference sums in another order and prints six digits; through a few layers of some dozens of values, float32
/// differs in the sixth digit. Wrong padding, activation or order shows in the first.
const TOLERANCE: f64 = 2e-5;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/vision").join(name)
}

fn file(name: &str) -> Vec<u8> {
    std::fs::read(folder(name)).unwrap()
}

fn golden(key: &str) -> Value {
    serde_json::from_slice::<Value>(&file("golden.json")).unwrap()[key].take()
}

fn settings() -> vision::Settings {
    vision::Settings { threads: 2.try_into().unwrap(), queue: 8.try_into().unwrap() }
}

fn local(name: &str, source: LocalSource, task: Option<Task>) -> LocalModel {
    LocalModel { task, ..LocalModel::new(name, source) }
}

fn engine(models: Vec<LocalModel>) -> Engine {
    let mut config = EngineConfig::new(std::env::temp_dir().join("no-models-here"));
    config.models = models;
    config.threads = Some(2.try_into().unwrap());
    Engine::new(config).unwrap()
}

/// An engine with one fixture under its own name.
fn with(name: &str) -> Engine {
    engine(vec![local(name, LocalSource::Path(folder(name)), None)])
}

async fn run(engine: &Engine, model: &str, inputs: Value) -> Value {
    support::json_of(engine.run(support::request(model, inputs)).await.unwrap().output)
}

async fn fails(engine: &Engine, model: &str, inputs: Value) -> (u32, String) {
    let error = engine.run(support::request(model, inputs)).await.unwrap_err();
    (error.code, error.message)
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let powers: Vec<f64> = logits.iter().map(|logit| logit.exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}

fn close(got: f64, expected: f64, scale: f64) -> bool {
    (got - expected).abs() <= TOLERANCE * scale
}

#[tokio::test]
async fn classifiers_match_the_reference() {
    for (name, pictures) in golden("classification").as_object().unwrap() {
        let engine = with(name);
        assert_eq!(engine.resolve(name).unwrap().task, Task::ImageClassification);
        for (picture, logits) in ["cat.png", "tall.png"].iter().zip(pictures.as_array().unwrap()) {
            let mut expected: Vec<(usize, f64)> = softmax(&numbers(logits)).into_iter().enumerate().collect();
            expected.sort_by(|a, b| b.1.total_cmp(&a.1));
            let got = run(&engine, name, json!({ "image": file(picture) })).await;
            let got = got.as_array().unwrap();
            assert_eq!(got.len(), expected.len().min(5));
            for (got, (class, score)) in got.iter().zip(expected) {
                assert_eq!(got["label"], format!("label {class}"), "{name} {picture}");
                assert!(close(got["score"].as_f64().unwrap(), score, 1.0), "{name} {picture}: {got} {score}");
                assert_eq!(got.as_object().unwrap().len(), 2);
            }
        }
    }
}

#[tokio::test]
async fn every_form_of_a_picture_is_taken() {
    use base64::Engine as _;
    let engine = with("resnet-basic");
    let bytes = file("cat.jpg");
    let expected = run(&engine, "resnet-basic", json!({ "image": bytes })).await;
    let encoded = base64::engine::general_purpose::STANDARD.encode(&bytes);
    for image in [json!(encoded), json!({ "body": encoded, "contentType": "image/jpeg" })] {
        assert_eq!(run(&engine, "resnet-basic", json!({ "image": image })).await, expected);
    }
    let mut raw = support::request("resnet-basic", json!({}));
    raw.attachments.push(Attachment { property: String::new(), content_type: None, data: bytes.into() });
    assert_eq!(support::json_of(engine.run(raw).await.unwrap().output), expected);
}

#[tokio::test]
async fn pictures_and_texts_match_the_reference() {
    for (name, case) in golden("contrastive").as_object().unwrap() {
        let engine = with(name);
        let texts = case["texts"].clone();
        for (file_name, expected) in ["cat.png", "tall.png"].iter().zip(case["pictures"].as_array().unwrap()) {
            let picture = file(file_name);
            let got = run(&engine, name, json!({ "image": picture, "text": texts })).await;
            let width = expected["image"].as_array().unwrap().len();
            assert_eq!(got["shape"], json!([4, width]));
            let vectors = got["data"].as_array().unwrap();
            let wanted = [&expected["image"]].into_iter().chain(expected["texts"].as_array().unwrap());
            for (got, wanted) in vectors.iter().zip(wanted) {
                for (got, wanted) in numbers(got).into_iter().zip(numbers(wanted)) {
                    assert!(close(got, wanted, 1.0), "{name} {file_name}: {got} {wanted}");
                }
            }
            let inputs = json!({ "image": picture, "labels": texts, "hypothesis_template": "{}" });
            let got = run(&engine, name, inputs).await;
            let logits = numbers(&expected["logits"]);
            let scores = match name.as_str() {
                "clip" => softmax(&logits),
                _ => logits.iter().map(|logit| 1.0 / (1.0 + (-logit).exp())).collect(),
            };
            let scored = got.as_array().unwrap();
            assert!(scored.windows(2).all(|pair| pair[0]["score"].as_f64() >= pair[1]["score"].as_f64()));
            for (text, score) in texts.as_array().unwrap().iter().zip(scores) {
                let got = scored.iter().find(|label| label["label"] == *text).unwrap();
                assert!(close(got["score"].as_f64().unwrap(), score, 10.0), "{name} {file_name}: {got} {score}");
            }
        }
    }
}

#[tokio::test]
async fn comparing_has_two_names_and_two_forms() {
    let path = || LocalSource::Path(folder("clip"));
    let engine = engine(vec![
        local("zero-shot", path(), Some(Task::ZeroShotImageClassification)),
        local("vectors", path(), None),
    ]);
    assert_eq!(engine.resolve("vectors").unwrap().task, Task::ImageEmbeddings);
    assert_eq!(engine.resolve("zero-shot").unwrap().task, Task::ZeroShotImageClassification);
    let picture = file("cat.png");
    let one = run(&engine, "zero-shot", json!({ "image": picture, "labels": ["cat", "dog"] })).await;
    let two = run(&engine, "vectors", json!({ "image": picture, "candidate_labels": ["cat", "dog"] })).await;
    assert_eq!(one, two);
    let text = run(&engine, "vectors", json!({ "text": "a cat" })).await;
    assert_eq!(text["shape"], json!([1, 16]));
    let length: f64 = numbers(&text["data"][0]).iter().map(|value| value * value).sum();
    assert!((length - 1.0).abs() < 1e-5);
    for (inputs, property) in [
        (json!({}), "'image'"),
        (json!({ "labels": ["a"] }), "'image'"),
        (json!({ "image": picture, "labels": [] }), "'/labels'"),
        (json!({ "image": picture, "labels": ["a", 1] }), "'/labels/1'"),
        (json!({ "image": picture, "labels": vec!["a"; 1001] }), "'/labels'"),
        (json!({ "image": picture, "labels": ["a"], "hypothesis_template": "x" }), "'/hypothesis_template'"),
        (json!({ "text": "" }), "'/text'"),
    ] {
        let (code, message) = fails(&engine, "vectors", inputs).await;
        assert!(code == 5006 && message.contains(property), "{property}: {message}");
    }
}

/// `detr` with its residual network under the names that timm gives it, as the first published checkpoints have it.
fn timm() -> tempfile::TempDir {
    const ROOT: &str = "model.backbone.conv_encoder.model.";
    let folder = copy("detr");
    let path = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Map<String, Value> = serde_json::from_slice(&bytes[8..start]).unwrap();
    let renamed: Map<String, Value> = header
        .into_iter()
        .map(|(name, tensor)| {
            let Some(place) = name.strip_prefix(ROOT) else { return (name, tensor) };
            let parts: Vec<&str> = place.split('.').collect();
            let number = |at: usize| parts[at].parse::<usize>().unwrap() + 1;
            let place = match parts[..] {
                ["embedder", _, "convolution", value] => format!("conv1.{value}"),
                ["embedder", _, "normalization", value] => format!("bn1.{value}"),
                [.., "shortcut", "convolution", value] => {
                    format!("layer{}.{}.downsample.0.{value}", number(2), parts[4])
                }
                [.., "shortcut", "normalization", value] => {
                    format!("layer{}.{}.downsample.1.{value}", number(2), parts[4])
                }
                [.., "convolution", value] => format!("layer{}.{}.conv{}.{value}", number(2), parts[4], number(6)),
                [.., "normalization", value] => format!("layer{}.{}.bn{}.{value}", number(2), parts[4], number(6)),
                _ => panic!("{name}"),
            };
            (format!("{ROOT}{place}"), tensor)
        })
        .collect();
    let header = serde_json::to_vec(&renamed).unwrap();
    let bytes = [&(header.len() as u64).to_le_bytes()[..], &header, &bytes[start..]].concat();
    std::fs::write(&path, bytes).unwrap();
    folder
}

#[tokio::test]
async fn objects_match_the_reference_under_both_names() {
    let cases = golden("detection");
    let timm = timm();
    for (name, path) in [("detr", folder("detr")), ("detr-timm", timm.path().to_path_buf())] {
        let engine = engine(vec![local(name, LocalSource::Path(path), None)]);
        for (picture, case) in ["cat.png", "tall.png"].iter().zip(cases.as_array().unwrap()) {
            let mut expected = case["found"].as_array().unwrap().clone();
            assert!(!expected.is_empty());
            expected.sort_by(|a, b| b["score"].as_f64().unwrap().total_cmp(&a["score"].as_f64().unwrap()));
            let got = run(&engine, name, json!({ "image": file(picture) })).await;
            let got = got.as_array().unwrap();
            assert_eq!(got.len(), expected.len(), "{name} {picture}");
            for (got, expected) in got.iter().zip(&expected) {
                assert_eq!(got["label"], format!("label {}", expected["label"]));
                let scores = (got["score"].as_f64().unwrap(), expected["score"].as_f64().unwrap());
                assert!(close(scores.0, scores.1, 10.0), "{name} {picture}: {scores:?}");
                let sides = ["xmin", "ymin", "xmax", "ymax"].map(|side| got["box"][side].as_f64().unwrap());
                for (got, expected) in sides.into_iter().zip(numbers(&expected["box"])) {
                    assert!(close(got, expected, 100.0), "{name} {picture}: {got} {expected}");
                }
                assert_eq!((got.as_object().unwrap().len(), got["box"].as_object().unwrap().len()), (3, 4));
            }
        }
    }
}

#[tokio::test]
async fn captions_match_the_reference() {
    let engine = with("blip");
    for case in golden("captions").as_array().unwrap() {
        let picture = file(&format!("{}.png", case["picture"].as_str().unwrap()));
        let inputs = json!({ "image": picture, "prompt": case["prompt"], "max_tokens": 12 });
        assert_eq!(run(&engine, "blip", inputs).await, json!({ "description": case["text"] }), "{case}");
    }
    let picture = file("cat.png");
    let (code, _) = fails(&engine, "blip", json!({ "image": picture, "prompt": "a ".repeat(40) })).await;
    assert_eq!(code, 5021);
    for (inputs, property) in [
        (json!({}), "'image'"),
        (json!({ "image": picture, "prompt": 1 }), "'/prompt'"),
        (json!({ "image": picture, "max_tokens": 0 }), "'/max_tokens'"),
    ] {
        let (code, message) = fails(&engine, "blip", inputs).await;
        assert!(code == 5006 && message.contains(property), "{message}");
    }
}

#[tokio::test]
async fn answers_about_pictures_match_the_reference() {
    let engine = with("llava");
    let cases = golden("questions");
    assert!(cases.as_array().unwrap().len() > 4);
    for case in cases.as_array().unwrap() {
        let picture = file(&format!("{}.png", case["picture"].as_str().unwrap()));
        let inputs = json!({ "image": picture, "prompt": case["prompt"], "max_tokens": 16 });
        assert_eq!(run(&engine, "llava", inputs).await, json!({ "description": case["text"] }), "{case}");
        let raw = format!("USER: <image>\n{} ASSISTANT:", case["prompt"].as_str().unwrap());
        let inputs = json!({ "image": picture, "prompt": raw, "raw": true, "max_tokens": 16 });
        assert_eq!(run(&engine, "llava", inputs).await, json!({ "description": case["text"] }), "{case}");
    }
    let picture = file("cat.png");
    let ask = |more: Value| {
        let mut inputs = json!({ "image": picture, "max_tokens": 8 });
        inputs.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        inputs
    };
    let warm = json!({ "temperature": 2.0, "seed": 7, "prompt": "Who?" });
    assert_eq!(run(&engine, "llava", ask(warm.clone())).await, run(&engine, "llava", ask(warm)).await);
    for (more, code, part) in [
        (json!({ "prompt": "<image>" }), 5006, "'/prompt'"),
        (json!({ "prompt": "x".repeat(200) }), 5021, "context"),
        (json!({ "prompt": "x", "temperature": 9 }), 5006, "/temperature"),
        (json!({ "prompt": "x", "raw": "yes" }), 5006, "'/raw'"),
    ] {
        let (found, message) = fails(&engine, "llava", ask(more)).await;
        assert!(found == code && message.contains(part), "{found} {message}");
    }
}

/// Texts of the events of a streamed description, after a check that usage and the end follow.
async fn streamed(engine: &Engine, model: &str, mut inputs: Value) -> (Vec<String>, Value) {
    inputs["stream"] = true.into();
    let output = engine.run(support::request(model, inputs)).await.unwrap().output;
    let host_inference::RunOutput::Stream { content_type, body } = output else { panic!("no stream") };
    assert_eq!(content_type, "text/event-stream");
    let bytes: Vec<_> = body.map(Result::unwrap).collect().await;
    let text = String::from_utf8(bytes.concat()).unwrap();
    let text = text.strip_suffix("data: [DONE]\n\n").unwrap();
    let read = |event: &str| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap();
    let mut events: Vec<Value> = text.split_terminator("\n\n").map(read).collect();
    let usage = events.pop().unwrap()["usage"].take();
    (events.iter().map(|event| event["response"].as_str().unwrap().to_owned()).collect(), usage)
}

#[tokio::test]
async fn descriptions_are_streamed_as_they_are_written() {
    for (name, key, most) in [("blip", "captions", 12), ("llava", "questions", 16)] {
        let engine = with(name);
        let mut several = false;
        for case in golden(key).as_array().unwrap() {
            let picture = file(&format!("{}.png", case["picture"].as_str().unwrap()));
            let inputs = json!({ "image": picture, "prompt": case["prompt"], "max_tokens": most });
            let (pieces, usage) = streamed(&engine, name, inputs).await;
            several |= pieces.len() > 1;
            assert_eq!(json!(pieces.concat()), case["text"], "{name} {pieces:?}");
            let [prompt, completion, total] =
                ["prompt_tokens", "completion_tokens", "total_tokens"].map(|key| usage[key].as_u64().unwrap());
            assert!(prompt > 0 && (1..=most).contains(&completion) && total == prompt + completion, "{usage}");
        }
        assert!(several, "{name} came in one piece");
        // What is wrong before the first word is an error of the call.
        let broken = json!({ "image": [1, 2, 3], "stream": true });
        assert_eq!(fails(&engine, name, broken).await.0, 5006);
    }
}

#[tokio::test]
async fn what_picks_words_is_heard_by_both_families() {
    for name in ["blip", "llava"] {
        let engine = with(name);
        let ask = |more: Value| {
            let mut inputs = json!({ "image": file("cat.png"), "prompt": "a", "max_tokens": 12 });
            inputs.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            run(&engine, name, inputs)
        };
        let greedy = ask(json!({})).await;
        // Without a temperature the likeliest words, whatever else is asked for.
        assert_eq!(greedy, ask(json!({ "temperature": 0, "seed": 3, "top_p": 0.5, "top_k": 9 })).await, "{name}");
        assert_eq!(greedy, ask(json!({ "temperature": 5, "top_k": 1 })).await, "{name}");
        assert_eq!(greedy, ask(json!({ "temperature": 5, "top_p": 0.001 })).await, "{name}");
        let mut drawn = Vec::new();
        for seed in 1..9 {
            let one = ask(json!({ "temperature": 5, "seed": seed })).await;
            assert_eq!(one, ask(json!({ "temperature": 5, "seed": seed })).await, "{name}");
            drawn.push(one.to_string());
        }
        drawn.sort();
        drawn.dedup();
        assert!(drawn.len() > 4, "{name}: {drawn:?}");
        assert_ne!(greedy, ask(json!({ "repetition_penalty": 0.01 })).await, "{name}");
        let picture = file("cat.png");
        for (property, value) in [
            ("top_p", json!(0)),
            ("top_k", json!(51)),
            ("seed", json!(0)),
            ("repetition_penalty", json!(3)),
            ("stream", json!("yes")),
            ("messages", json!([{ "role": "user", "content": "a" }])),
            ("ignore_eos", json!(true)),
        ] {
            let (code, message) = fails(&engine, name, json!({ "image": picture, property: value })).await;
            assert!(code == 5006 && message.contains(&format!("/{property}'")), "{message}");
        }
    }
}

/// A picture of one colour.
fn plain(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_pixel(width, height, image::Rgb([200, 10, 90]))
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

const MODELS: [&str; 9] =
    ["resnet-basic", "resnet-bottleneck", "vit", "deit", "clip", "siglip", "detr", "blip", "llava"];

#[tokio::test]
async fn pictures_of_any_shape_are_answered() {
    let shapes = [plain(1, 1), plain(8000, 1), plain(1, 8000)];
    for name in MODELS {
        let engine = with(name);
        for picture in &shapes {
            run(&engine, name, json!({ "image": picture, "max_tokens": 2 })).await;
        }
    }
}

#[tokio::test]
async fn broken_pictures_are_refused_by_name() {
    let whole = plain(40, 40);
    let mut bomb = whole.clone();
    bomb[16..24].copy_from_slice(&[0, 1, 0x86, 0xa0, 0, 1, 0x86, 0xa0]);
    let broken = [vec![7; 3], whole[..whole.len() / 2].to_vec(), bomb];
    for name in MODELS {
        let engine = with(name);
        for picture in &broken {
            let (code, message) = fails(&engine, name, json!({ "image": picture })).await;
            assert!(code == 5006 && message.contains("'/image'"), "{name}: {message}");
        }
        for inputs in [json!({}), json!({ "image": [] }), json!({ "image": "" }), json!({ "image": true })] {
            assert_eq!(fails(&engine, name, inputs).await.0, 5006, "{name}");
        }
        // And the model still works.
        run(&engine, name, json!({ "image": whole, "max_tokens": 2 })).await;
    }
}

fn copy(name: &str) -> tempfile::TempDir {
    let target = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder(name)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), target.path().join(entry.file_name())).unwrap();
    }
    target
}

#[tokio::test]
async fn weights_that_are_no_numbers_are_an_error() {
    for name in MODELS {
        let folder = copy(name);
        let path = folder.path().join("model.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        for pair in bytes[8 + header..].as_chunks_mut::<2>().0 {
            *pair = half::f16::NAN.to_le_bytes();
        }
        std::fs::write(&path, bytes).unwrap();
        let engine = engine(vec![local(name, LocalSource::Path(folder.path().to_path_buf()), None)]);
        let (code, message) = fails(&engine, name, json!({ "image": plain(9, 9), "max_tokens": 2 })).await;
        assert!(
            code == 3046 && (message.contains("no numbers") || message.contains("not finite")),
            "{name}: {message}"
        );
    }
}

/// Configurations that contradict the weights or ask for too much; each must be an error that says where.
#[test]
fn contradicting_configurations_are_refused() {
    let huge = json!(1u64 << 40);
    let changes: [(&str, &str, Value); 25] = [
        ("vit", "/hidden_size", json!(28)),
        ("vit", "/hidden_size", huge.clone()),
        ("vit", "/num_attention_heads", json!(5)),
        ("vit", "/num_hidden_layers", json!(3)),
        ("vit", "/patch_size", json!(64)),
        ("vit", "/image_size", json!(64)),
        ("vit", "/hidden_act", json!("mystery")),
        ("vit", "/layer_norm_eps", json!(-1)),
        ("vit", "/id2label", json!({ "0": "one" })),
        ("resnet-basic", "/depths", json!([1, 1, 1])),
        ("resnet-basic", "/hidden_act", json!("gelu")),
        ("detr", "/d_model", json!(30)),
        ("detr", "/dilation", json!(true)),
        ("detr", "/position_embedding_type", json!("learned")),
        ("detr", "/num_queries", huge.clone()),
        ("clip", "/projection_dim", json!(17)),
        ("clip", "/text_config/vocab_size", json!(3)),
        ("siglip", "/vision_config/patch_size", json!(4)),
        ("blip", "/text_config/sep_token_id", json!(1000)),
        ("llava", "/image_token_index", json!(3)),
        ("llava", "/vision_feature_layer", json!(-9)),
        ("llava", "/vision_feature_select_strategy", json!("some")),
        ("llava", "/text_config/hidden_size", json!(40)),
        ("llava", "/text_config/model_type", json!("mystery")),
        ("llava", "/projector_hidden_act", json!("mystery")),
    ];
    for (name, pointer, value) in changes {
        let folder = copy(name);
        let path = folder.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        match config.pointer_mut(pointer) {
            Some(place) => *place = value,
            None => drop(config.as_object_mut().unwrap().insert(pointer[1..].into(), value)),
        }
        std::fs::write(&path, config.to_string()).unwrap();
        let error = vision::load(folder.path(), &settings()).err();
        let error = error.unwrap_or_else(|| panic!("{name} {pointer} was taken"));
        assert!(error.contains(".json") || error.contains(".safetensors"), "{name} {pointer}: {error}");
    }
    for missing in ["preprocessor_config.json", "config.json", "model.safetensors", "tokenizer.json"] {
        let folder = copy("clip");
        std::fs::remove_file(folder.path().join(missing)).unwrap();
        let error = vision::load(folder.path(), &settings()).err().unwrap();
        assert!(error.contains(missing), "{missing}: {error}");
    }
}

#[tokio::test]
async fn tokens_beyond_the_vocabulary_are_an_error() {
    for name in ["clip", "siglip", "blip"] {
        let folder = copy(name);
        let path = folder.path().join("tokenizer.json");
        let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for token in tokenizer["post_processor"]["special_tokens"].as_object_mut().unwrap().values_mut() {
            token["ids"] = json!([100_000]);
        }
        std::fs::write(&path, tokenizer.to_string()).unwrap();
        let engine = engine(vec![local(name, LocalSource::Path(folder.path().to_path_buf()), None)]);
        let inputs = json!({ "image": file("cat.png"), "text": "a", "prompt": "a", "max_tokens": 2 });
        let (code, message) = fails(&engine, name, inputs).await;
        assert!(code == 3046 && message.contains("100000"), "{name}: {message}");
    }
}

#[test]
fn every_fixture_is_told_by_its_files() {
    for (name, task) in [
        ("resnet-basic", Task::ImageClassification),
        ("deit", Task::ImageClassification),
        ("detr", Task::ObjectDetection),
        ("blip", Task::ImageToText),
        ("siglip", Task::ImageEmbeddings),
    ] {
        let found = store::inspect(&folder(name)).unwrap();
        assert_eq!(found.task, task, "{name}");
        let has = |file: &str| found.files.iter().any(|path| path.ends_with(file));
        assert!(has("preprocessor_config.json") && has("model.safetensors"), "{name}");
        let loaded = vision::load(&folder(name), &settings()).unwrap();
        let does = match loaded {
            Model::ImageClassification(_) => Task::ImageClassification,
            Model::ObjectDetection(_) => Task::ObjectDetection,
            Model::ImageToText(_) => Task::ImageToText,
            Model::ImageEmbeddings(_) => Task::ImageEmbeddings,
            _ => panic!("{name} is another task's model"),
        };
        assert_eq!(does, task);
    }
}

#[tokio::test]
async fn an_imported_model_has_all_its_files() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path());
    let task = Some(Task::ZeroShotImageClassification);
    store.import(&"mine".parse().unwrap(), &folder("siglip"), task, &mut NoProgress).unwrap();
    let engine = Engine::new(EngineConfig::new(directory.path())).unwrap();
    assert_eq!(engine.resolve("mine").unwrap().task, Task::ZeroShotImageClassification);
    let got = run(&engine, "mine", json!({ "image": file("cat.png"), "labels": ["a cat"] })).await;
    assert_eq!(got[0]["label"], "a cat");
}

#[tokio::test]
async fn scripts_stand_in_for_every_task() {
    let script = json!({ "labels": ["cat", "sofa"], "reply": "{prompt}: {width} by {height}", "dimensions": 4 });
    let mock = |name: &str, task| local(name, LocalSource::Mock(script.clone()), Some(task));
    let engine = engine(vec![
        mock("classes", Task::ImageClassification),
        mock("objects", Task::ObjectDetection),
        mock("words", Task::ImageToText),
        mock("vectors", Task::ImageEmbeddings),
    ]);
    let picture = plain(30, 20);
    let inputs = |more: Value| {
        let mut map = Map::from_iter([("image".to_owned(), json!(picture))]);
        map.extend(more.as_object().unwrap().clone());
        Value::Object(map)
    };
    let (two, one) = (f64::from(2.0f32 / 3.0), f64::from(1.0f32 / 3.0));
    let got = run(&engine, "classes", inputs(json!({}))).await;
    assert_eq!(got, json!([{ "label": "cat", "score": two }, { "label": "sofa", "score": one }]));
    let got = run(&engine, "objects", inputs(json!({}))).await;
    let bounds = json!({ "xmin": 0.0, "ymin": 0.0, "xmax": 30.0, "ymax": 20.0 });
    assert_eq!(got, json!([{ "label": "cat", "score": two, "box": bounds }]));
    let got = run(&engine, "words", inputs(json!({ "prompt": "It is" }))).await;
    assert_eq!(got, json!({ "description": "It is: 30 by 20" }));
    let got = run(&engine, "vectors", inputs(json!({ "text": ["a", "b"] }))).await;
    assert_eq!(got["shape"], json!([3, 4]));
    let got = run(&engine, "vectors", inputs(json!({ "labels": ["a", "b"] }))).await;
    assert_eq!(got[0]["label"], "a");
    for name in ["classes", "objects", "words", "vectors"] {
        assert_eq!(fails(&engine, name, json!({ "image": [1, 2] })).await.0, 5006);
    }
}
