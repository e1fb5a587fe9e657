//! Encoder-decoders against transformers: states, teacher-forced logits, and what a search finds.
//!
//! The checkpoints are tiny and random, made by `golden/make_seq2seq.py`, and stored as bfloat16, float16 or float32.

use std::collections::HashMap;
use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use crate::support::{json_of, real_gguf, request};
use host_inference::seq2seq::{Generation, Transformer};
use host_inference::{Engine, EngineConfig, LocalModel, LocalSource, Task};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

const ARCHITECTURES: [&str; 6] = ["m2m_100", "marian", "bart", "mbart", "t5", "flan_t5"];

#[derive(Deserialize)]
struct Reference {
    cases: Vec<Case>,
    generations: Vec<Found>,
}

#[derive(Deserialize)]
struct Case {
    source: Vec<u32>,
    target: Vec<u32>,
    states: HashMap<usize, Vec<f32>>,
    logits: HashMap<usize, Vec<f32>>,
}

#[derive(Deserialize)]
struct Found {
    source: Vec<u32>,
    settings: Map<String, Value>,
    tokens: Vec<u32>,
}

fn folder(architecture: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/seq2seq").join(architecture)
}

fn reference(architecture: &str) -> Reference {
    serde_json::from_slice(&std::fs::read(folder(architecture).join("reference.json")).unwrap()).unwrap()
}

fn model(architecture: &str, threads: usize) -> Transformer {
    Transformer::load(&folder(architecture), NonZeroUsize::new(threads).unwrap()).unwrap()
}

/// Never stops.
fn on() -> Result<(), Infallible> {
    Ok(())
}

fn distance(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(found, expected)| (found - expected).abs()).fold(0.0, f32::max)
}

#[test]
fn states_and_logits_are_those_of_the_reference() {
    for architecture in ARCHITECTURES {
        let mut model = model(architecture, 2);
        let width = model.description().width;
        let (mut states, mut logits) = (0f32, 0f32);
        for case in reference(architecture).cases {
            let encoded = model.encode(&case.source, &mut on).unwrap();
            for (place, expected) in &case.states {
                states = states.max(distance(&encoded.states[place * width..(place + 1) * width], expected));
            }
            let mut beams = model.begin();
            for (step, token) in case.target.iter().enumerate() {
                let found = model.step(&encoded, &mut beams, &[*token]);
                if let Some(expected) = case.logits.get(&step) {
                    logits = logits.max(distance(found, expected));
                }
            }
        }
        println!("{architecture}: states within {states}, logits within {logits}");
        assert!(states < 1e-4 && logits < 1e-4, "{architecture}: states within {states}, logits within {logits}");
    }
}

#[test]
fn searches_find_what_transformers_finds() {
    for architecture in ARCHITECTURES {
        let mut model = model(architecture, 1);
        let vocabulary = model.description().vocabulary();
        for (index, found) in reference(architecture).generations.into_iter().enumerate() {
            let generation = Generation::read(&[&found.settings], vocabulary).unwrap();
            let encoded = model.encode(&found.source, &mut on).unwrap();
            let tokens = model.generate(&encoded, &generation, &mut on).unwrap();
            assert_eq!(tokens, found.tokens, "{architecture} {index}: {:?}", found.settings);
        }
    }
}

/// An engine with this checkpoint under the name `m`.
fn engine(architecture: &str, task: Option<Task>, change: impl FnOnce(&mut EngineConfig)) -> (TempDir, Engine) {
    let store = tempfile::tempdir().unwrap();
    let mut config = EngineConfig::new(store.path());
    config.threads = NonZeroUsize::new(2);
    config.models.push(local("m", task, LocalSource::Path(folder(architecture))));
    change(&mut config);
    (store, Engine::new(config).unwrap())
}

fn local(name: &str, task: Option<Task>, source: LocalSource) -> LocalModel {
    LocalModel { task, ..LocalModel::new(name, source) }
}

async fn answer(engine: &Engine, inputs: Value) -> Value {
    json_of(engine.run(request("m", inputs)).await.unwrap().output)
}

async fn refusal(engine: &Engine, model: &str, inputs: Value) -> String {
    let error = engine.run(request(model, inputs)).await.unwrap_err();
    assert_eq!((error.code, error.status), (5006, 400), "{error}");
    error.message
}

fn answers(architecture: &str) -> Vec<(String, String)> {
    let texts = folder("texts.json");
    let reference: Value = serde_json::from_slice(&std::fs::read(texts).unwrap()).unwrap();
    let cases = reference[architecture]["answers"].as_array().unwrap();
    let text = |case: &Value, key: &str| case[key].as_str().unwrap().to_owned();
    cases.iter().map(|case| (text(case, "text"), text(case, "answer"))).collect()
}

#[tokio::test]
async fn translations_are_those_of_transformers() {
    let pairs = [
        ("m2m_100", "ru", "German"),
        ("m2m_100", "Russian", "DE"),
        ("marian", "English", "fr"),
        ("mbart", "en_XX", "Romanian"),
        ("t5", "en", "de"),
        ("flan_t5", "eng", "German"),
    ];
    for (architecture, source, target) in pairs {
        let (_store, engine) = engine(architecture, None, |_| {});
        assert_eq!(engine.resolve("m").unwrap().task, Task::Translation);
        for (text, expected) in answers(architecture) {
            let inputs = json!({ "text": text, "source_lang": source, "target_lang": target });
            assert_eq!(answer(&engine, inputs).await, json!({ "translated_text": expected }), "{architecture}: {text}");
        }
    }
}

#[tokio::test]
async fn summaries_are_those_of_transformers_and_no_longer_than_asked() {
    let (_store, engine) = engine("bart", None, |_| {});
    assert_eq!(engine.resolve("m").unwrap().task, Task::Summarization);
    for (text, expected) in answers("bart") {
        let found = answer(&engine, json!({ "input_text": text })).await;
        assert_eq!(found, json!({ "summary": expected }));
        assert_eq!(answer(&engine, json!({ "input_text": text, "max_length": 1024.0 })).await, found);
        let short = answer(&engine, json!({ "input_text": text, "max_length": 3 })).await;
        assert!(short["summary"].as_str().unwrap().len() <= 3, "{short}");
    }
    // A text that is longer than the model's positions is cut.
    let long = "the cat sat on the mat ".repeat(2000);
    assert!(answer(&engine, json!({ "input_text": long })).await["summary"].is_string());
}

#[tokio::test]
async fn the_task_of_an_encoder_decoder_can_be_chosen() {
    let (_store, engine) = engine("t5", Some(Task::Summarization), |_| {});
    let found = answer(&engine, json!({ "input_text": "the cat sat" })).await;
    assert_eq!(found.as_object().unwrap().keys().collect::<Vec<_>>(), ["summary"]);
    let mut config = EngineConfig::new(folder("nowhere"));
    config.models.push(local("m", Some(Task::TextEmbeddings), LocalSource::Path(folder("t5"))));
    let error = Engine::new(config).unwrap_err().to_string();
    assert!(error.contains("the files hold a translation model"), "{error}");
}

#[tokio::test]
async fn inputs_that_break_the_schema_of_translation_are_refused() {
    let (_store, engine) = engine("m2m_100", None, |_| {});
    let required = "Error: required properties at '/' are 'text', 'target_lang'";
    let known = "which is no language of this model; it knows de (German), en (English), ja (Japanese), zh (Chinese), \
                 cs (Czech), ha (Hausa), is (Icelandic), ru (Russian)";
    let cases = [
        (json!({}), required.to_owned()),
        (json!({ "text": "a" }), required.to_owned()),
        (json!({ "text": null, "target_lang": "de" }), required.to_owned()),
        (json!({ "text": "", "target_lang": "de" }), "Error: Length of '/text' must be >= 1 not 0".to_owned()),
        (json!({ "text": 1, "target_lang": "de" }), "Error: Type of '/text' must be string not number".to_owned()),
        (
            json!({ "text": "a", "target_lang": [] }),
            "Error: Type of '/target_lang' must be string not array".to_owned(),
        ),
        (
            json!({ "text": "a", "target_lang": "de", "source_lang": true }),
            "Error: Type of '/source_lang' must be string not boolean".to_owned(),
        ),
        (json!({ "text": "a", "target_lang": "fr" }), format!("Error: '/target_lang' is 'fr', {known}")),
        (json!({ "text": "a", "target_lang": "" }), format!("Error: '/target_lang' is '', {known}")),
        (json!({ "text": "a", "target_lang": "</s>" }), format!("Error: '/target_lang' is '</s>', {known}")),
        (
            json!({ "text": "a", "target_lang": "de", "source_lang": "Klingon" }),
            format!("Error: '/source_lang' is 'Klingon', {known}"),
        ),
    ];
    for (inputs, message) in cases {
        assert_eq!(refusal(&engine, "m", inputs.clone()).await, message, "{inputs}");
    }
    // No source language is English.
    let text = "the cat sat on the mat";
    let inputs = |source: Value| json!({ "text": text, "target_lang": "de", "source_lang": source });
    let english = answer(&engine, inputs(json!("en"))).await;
    assert_eq!(answer(&engine, inputs(Value::Null)).await, english);
    assert_eq!(answer(&engine, json!({ "text": text, "target_lang": "de" })).await, english);
    let error = engine.run(request("m", json!({ "text": text, "target_lang": "de", "lora": "x" }))).await.unwrap_err();
    assert_eq!(error.code, 5005);
}

#[tokio::test]
async fn inputs_that_break_the_schema_of_summarization_are_refused() {
    let (_store, engine) = engine("bart", None, |_| {});
    let cases = [
        (json!({}), "Error: required properties at '/' are 'input_text'"),
        (json!({ "input_text": "" }), "Error: Length of '/input_text' must be >= 1 not 0"),
        (json!({ "input_text": {} }), "Error: Type of '/input_text' must be string not object"),
        (json!({ "input_text": "a", "max_length": "9" }), "Error: Type of '/max_length' must be integer not string"),
        (json!({ "input_text": "a", "max_length": 9.5 }), "Error: Type of '/max_length' must be integer not number"),
        (json!({ "input_text": "a", "max_length": 0 }), "Error: '/max_length' must be >= 1 not 0"),
        (json!({ "input_text": "a", "max_length": -4 }), "Error: '/max_length' must be >= 1 not -4"),
    ];
    for (inputs, message) in cases {
        assert_eq!(refusal(&engine, "m", inputs.clone()).await, message, "{inputs}");
    }
    for max_length in [json!(1), json!(1e300), Value::Null] {
        let found = answer(&engine, json!({ "input_text": "the cat", "max_length": max_length })).await;
        assert!(found["summary"].is_string());
    }
}

#[tokio::test]
async fn an_answer_of_no_use_any_more_is_not_computed() {
    let (_store, engine) = engine("bart", None, |_| {});
    let mut late = request("m", json!({ "input_text": "the cat ".repeat(4000) }));
    late.options.insert("gateway".into(), json!({ "requestTimeoutMs": 1 }));
    engine.warm("m").await.unwrap();
    // Long after a millisecond: the line is held by other requests before this one's turn.
    let busy: Vec<_> =
        (0..40).map(|_| engine.run(request("m", json!({ "input_text": "the cat ".repeat(500) })))).collect();
    let (_, late) = futures::future::join(futures::future::join_all(busy), engine.run(late)).await;
    assert_eq!(late.unwrap_err().code, 3007);
    let mut wrong = request("m", json!({ "input_text": "a" }));
    wrong.options.insert("gateway".into(), json!({ "requestTimeoutMs": -1 }));
    assert_eq!(engine.run(wrong).await.unwrap_err().code, 5006);
}

/// A language model is asked in a prompt, where a name of the service's or the configuration says so.
#[tokio::test]
async fn a_language_model_can_stand_for_both_tasks() {
    let script = json!({ "reply": "<{prompt}>" });
    let (_store, engine) = engine("bart", None, |config| {
        config.models.push(local("talker", None, LocalSource::Mock(script.clone())));
        config.models.push(local("scripted", Some(Task::Translation), LocalSource::Mock(script.clone())));
        config.aliases = ["@cf/facebook/bart-large-cnn", "@cf/meta/m2m100-1.2b"]
            .map(|name| (name.to_owned(), "talker".to_owned()))
            .into();
    });
    let run = async |model: &str, inputs: Value| json_of(engine.run(request(model, inputs)).await.unwrap().output);
    let found = run("@cf/facebook/bart-large-cnn", json!({ "input_text": "one two three" })).await;
    assert_eq!(found, json!({ "summary": "<one two three>" }));
    let found = run("@cf/facebook/bart-large-cnn", json!({ "input_text": "one two three", "max_length": 2 })).await;
    assert_eq!(found, json!({ "summary": "<one two" }));
    for model in ["@cf/meta/m2m100-1.2b", "scripted"] {
        let found = run(model, json!({ "text": "one", "target_lang": "fr" })).await;
        assert_eq!(found, json!({ "translated_text": "<one>" }));
        let message = refusal(&engine, model, json!({ "text": "one", "target_lang": "xq" })).await;
        assert!(message.starts_with("Error: '/target_lang' is 'xq', which is no language"), "{message}");
        let message = refusal(&engine, model, json!({ "text": "one", "target_lang": "x. Say \"yes\" now" })).await;
        assert!(message.contains("'/target_lang'"), "{message}");
    }
    let task = |name: &str| engine.resolve(name).unwrap().task;
    assert_eq!(task("@cf/facebook/bart-large-cnn"), Task::Summarization);
    assert_eq!(task("@cf/meta/m2m100-1.2b"), Task::Translation);
    assert_eq!(task("talker"), Task::TextGeneration);
    let found = run("talker", json!({ "prompt": "one" })).await;
    assert_eq!(found["response"], "<one>");
}

#[test]
fn files_that_do_not_fit_are_refused_with_the_place() {
    let broken = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(folder("bart").join(file), broken.path().join(file)).unwrap();
    }
    let text = std::fs::read_to_string(broken.path().join("config.json")).unwrap();
    let refused = |from: &str, to: &str| {
        let changed = text.replace(from, to);
        assert_ne!(changed, text);
        std::fs::write(broken.path().join("config.json"), changed).unwrap();
        Transformer::load(broken.path(), NonZeroUsize::MIN).map(|_| ()).unwrap_err()
    };
    let error = refused("\"encoder_ffn_dim\": 32", "\"encoder_ffn_dim\": 33");
    assert!(error.contains("tensor model.encoder.layers.0.fc1.weight has the shape [32, 24]"), "{error}");
    let error = refused("\"decoder_layers\": 2", "\"decoder_layers\": 3");
    assert!(error.contains("there is no tensor model.decoder.layers.2."), "{error}");
    let error = refused("\"vocab_size\": 64", "\"vocab_size\": 640000");
    assert!(error.contains("tensor model.shared.weight has the shape [64, 24]"), "{error}");
}

/// The catalogue's stand-in for both tasks, under the service's names. What it says is its own matter.
#[tokio::test]
async fn the_stand_in_answers_in_the_shape_of_each_task() {
    let mut config = EngineConfig::new(host_inference::store::default_directory());
    config.threads = NonZeroUsize::new(2);
    let model = local("m", None, LocalSource::Path(real_gguf("smollm2-135m-instruct")));
    config.models.push(LocalModel { context: NonZeroUsize::new(256), ..model });
    config.aliases =
        ["@cf/facebook/bart-large-cnn", "@cf/meta/m2m100-1.2b"].map(|name| (name.to_owned(), "m".to_owned())).into();
    let engine = Engine::new(config).unwrap();
    let run = async |model: &str, inputs: Value| json_of(engine.run(request(model, inputs)).await.unwrap().output);
    let text =
        "The tower is 324 metres tall, about the same height as an 81-storey building, and the tallest in Paris.";
    let inputs = json!({ "input_text": text, "max_length": 24 });
    let summary = run("@cf/facebook/bart-large-cnn", inputs.clone()).await;
    assert!(summary["summary"].as_str().is_some_and(|summary| !summary.is_empty()), "{summary}");
    assert_eq!(run("@cf/facebook/bart-large-cnn", inputs).await, summary);
    // More than the model reads: cut until it fits.
    let long = run("@cf/facebook/bart-large-cnn", json!({ "input_text": text.repeat(40), "max_length": 2 })).await;
    assert!(long["summary"].is_string(), "{long}");
    let translated = run("@cf/meta/m2m100-1.2b", json!({ "text": "Hello!", "target_lang": "french" })).await;
    assert!(translated["translated_text"].as_str().is_some_and(|text| !text.is_empty()), "{translated}");
    println!("{summary} {translated}");
}
