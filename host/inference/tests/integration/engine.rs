//! The engine: names, aliases, loading on first use, and what a request gets that asks for what is not there.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;

use crate::support::{self, json_of, request, request_of, tiny_checkpoint, tiny_encoder};
use host_inference::backend::Pooling;
use host_inference::engine::{Availability, ConfigFault};
use host_inference::store::{NoProgress, Store};
use host_inference::{Engine, EngineConfig, EngineError, LocalModel, LocalSource, Task};
use serde_json::{Value, json};

fn local(name: &str, path: &Path) -> LocalModel {
    LocalModel::new(name, LocalSource::Path(path.into()))
}

/// An engine with tiny encoders of these names, all in one temporary folder.
fn engine(names: &[&str], change: impl FnOnce(&mut EngineConfig)) -> (tempfile::TempDir, Engine) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = EngineConfig::new(folder.path().join("models"));
    config.threads = NonZeroUsize::new(1);
    for (index, name) in names.iter().enumerate() {
        let path = folder.path().join(name);
        tiny_encoder(&path, index as u32);
        config.models.push(local(name, &path));
    }
    change(&mut config);
    (folder, Engine::new(config).unwrap())
}

async fn run(engine: &Engine, model: &str, inputs: Value) -> Value {
    json_of(engine.run(request(model, inputs)).await.unwrap().output)
}

async fn refused(engine: &Engine, model: &str, inputs: Value) -> (u32, u16, String) {
    let error = engine.run(request(model, inputs)).await.unwrap_err();
    (error.code, error.status, error.message)
}

fn availability(engine: &Engine, name: &str) -> Availability {
    engine.models().into_iter().find(|model| model.name == name).unwrap().availability
}

#[tokio::test]
async fn embeddings_have_the_contracts_shape() {
    let (_folder, engine) = engine(&["tiny"], |_| {});
    let one = run(&engine, "tiny", json!({ "text": "hello" })).await;
    assert_eq!((&one["shape"], &one["pooling"]), (&json!([1, support::HIDDEN]), &json!("mean")));
    assert_eq!(one["data"][0].as_array().unwrap().len(), support::HIDDEN);
    let keys: Vec<_> = one.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["shape", "data", "pooling"]);
    let two = run(&engine, "tiny", json!({ "text": ["hello", "you"], "pooling": "cls" })).await;
    assert_eq!((&two["shape"], &two["pooling"]), (&json!([2, support::HIDDEN]), &json!("cls")));
    assert_ne!(one["data"][0], two["data"][0], "pooling matters");
    let none = run(&engine, "tiny", json!({ "text": [] })).await;
    assert_eq!((&none["shape"], &none["data"]), (&json!([0, support::HIDDEN]), &json!([])));
    let many = run(&engine, "tiny", json!({ "text": vec!["word"; 3000] })).await;
    assert_eq!(many["shape"], json!([3000, support::HIDDEN]));
    assert_eq!(many["data"][0], many["data"][2999]);
}

#[tokio::test]
async fn inputs_that_break_the_schema_are_refused_with_the_property() {
    let (_folder, engine) = engine(&["tiny"], |_| {});
    let cases = [
        (json!({}), "'text'"),
        (json!({ "text": null }), "'text'"),
        (json!({ "text": "" }), "'/text'"),
        (json!({ "text": 7 }), "number"),
        (json!({ "text": ["a", ""] }), "'/text/1'"),
        (json!({ "text": ["a", {}] }), "'/text/1'"),
        (json!({ "text": vec!["a"; 3001] }), "3000"),
        (json!({ "text": "a", "pooling": "max" }), "'/pooling'"),
        (json!({ "text": "a", "pooling": 1 }), "'/pooling'"),
    ];
    for (inputs, part) in cases {
        let (code, status, message) = refused(&engine, "tiny", inputs.clone()).await;
        assert_eq!((code, status), (5006, 400), "{inputs}");
        assert!(message.contains(part), "{message}");
    }
}

#[tokio::test]
async fn the_configured_pooling_is_the_default() {
    let (_folder, engine) = engine(&["tiny"], |config| config.models[0].pooling = Some(Pooling::Cls));
    assert_eq!(run(&engine, "tiny", json!({ "text": "hello" })).await["pooling"], "cls");
}

#[tokio::test]
async fn aliases_lead_to_models_and_unknown_names_nowhere() {
    let (_folder, engine) = engine(&["tiny"], |config| {
        config.aliases = [("@cf/baai/bge-small-en-v1.5", "middle"), ("middle", "tiny")]
            .map(|(alias, target)| (alias.to_owned(), target.to_owned()))
            .into();
    });
    let direct = run(&engine, "tiny", json!({ "text": "hello" })).await;
    assert_eq!(run(&engine, "@cf/baai/bge-small-en-v1.5", json!({ "text": "hello" })).await, direct);
    assert_eq!(engine.resolve("middle").unwrap().name, "tiny");
    assert_eq!(engine.resolve("middle").unwrap().task, Task::TextEmbeddings);
    for name in ["Tiny", "nothing", "../tiny", "", "tiny\0", "@cf/openai/whispers", &"x".repeat(10_000)] {
        assert!(engine.resolve(name).is_none());
        let (code, status, message) = refused(&engine, name, json!({ "text": "a" })).await;
        assert_eq!((code, status), (5007, 400), "{name:?}");
        assert!(message.starts_with("No such model") && message.len() < 300, "{message}");
    }
}

#[tokio::test]
async fn known_models_that_are_not_here_say_how_to_get_them() {
    let (_folder, engine) = engine(&[], |_| {});
    let (code, status, message) = refused(&engine, "bge-small-en-v1.5", json!({ "text": "a" })).await;
    assert_eq!((code, status), (3046, 503));
    assert!(message.contains("host models pull bge-small-en-v1.5"), "{message}");
    let (code, _, message) = refused(&engine, "@cf/meta/llama-3.1-8b-instruct", json!({ "prompt": "a" })).await;
    assert_eq!(code, 3046);
    let lines = "[ai.aliases]\n  \"@cf/meta/llama-3.1-8b-instruct\" = \"smollm2-135m-instruct\"";
    assert!(message.contains(lines) && message.contains("meta-llama/Llama-3.1-8B-Instruct"), "{message}");
    assert_eq!(availability(&engine, "bge-small-en-v1.5"), Availability::Pullable);
    assert_eq!(availability(&engine, "@cf/meta/llama-3.1-8b-instruct"), Availability::Absent);
}

#[tokio::test]
async fn a_model_imported_while_the_engine_runs_is_found() {
    let (folder, engine) = engine(&[], |_| {});
    assert_eq!(refused(&engine, "late", json!({ "text": "a" })).await.0, 5007);
    tiny_encoder(&folder.path().join("files"), 9);
    let store = Store::open(folder.path().join("models"));
    store.import(&"late".parse().unwrap(), &folder.path().join("files"), None, &mut NoProgress).unwrap();
    assert_eq!(availability(&engine, "late"), Availability::OnDisk);
    run(&engine, "late", json!({ "text": "a" })).await;
    assert_eq!(availability(&engine, "late"), Availability::Loaded);
}

fn faults(change: impl FnOnce(&mut EngineConfig)) -> Vec<ConfigFault> {
    let mut config = EngineConfig::new("/nonexistent/models");
    change(&mut config);
    match Engine::new(config) {
        Err(EngineError::Config(faults)) => faults,
        Err(other) => panic!("{other}"),
        Ok(_) => Vec::new(),
    }
}

fn aliases(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(alias, target)| ((*alias).to_owned(), (*target).to_owned())).collect()
}

#[test]
fn every_fault_of_the_configuration_is_reported_at_once() {
    let circle = faults(|config| config.aliases = aliases(&[("a", "b"), ("b", "c"), ("c", "b"), ("d", "d")]));
    let circles: Vec<_> = circle.iter().map(ToString::to_string).collect();
    assert_eq!(circle.len(), 2, "{circles:?}");
    assert!(circles.iter().any(|fault| fault.contains("b -> c -> b")), "{circles:?}");

    let found = faults(|config| {
        config.aliases = aliases(&[("x", "smollm2-135m-instrukt"), ("bad name", "smollm2-135m-instruct")]);
        config.models = vec![local("gone", Path::new("/nonexistent/file.gguf"))];
    });
    let texts: Vec<_> = found.iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), 3, "{texts:?}");
    assert!(texts.iter().any(|fault| fault.contains("did you mean \"smollm2-135m-instruct\"?")), "{texts:?}");
    assert!(texts.iter().any(|fault| fault.contains("/nonexistent/file.gguf")), "{texts:?}");
    assert!(texts.iter().any(|fault| fault.contains("bad name")), "{texts:?}");

    let folder = tempfile::tempdir().unwrap();
    tiny_encoder(folder.path(), 1);
    let twice = faults(|config| {
        config.models = vec![local("twice", folder.path()), local("twice", folder.path())];
        config.aliases = aliases(&[("twice", "smollm2-135m-instruct")]);
    });
    assert_eq!(twice, vec![ConfigFault::Duplicate("twice".into()); 2]);
    let task = faults(|config| {
        config.models = vec![LocalModel { task: Some(Task::TextGeneration), ..local("other", folder.path()) }];
    });
    assert!(task[0].to_string().contains("text-embeddings"), "{task:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_first_requests_share_one_load_and_all_are_answered() {
    let (_folder, engine) = engine(&["tiny"], |_| {});
    let asked = (0..50).map(|index| {
        let engine = engine.clone();
        tokio::spawn(async move {
            let tenant = format!("tenant-{}", index % 7);
            engine.run(request_of(&tenant, "tiny", json!({ "text": ["a b c", "d"] }))).await.unwrap()
        })
    });
    let mut ids = std::collections::HashSet::new();
    let mut answers = Vec::new();
    for answer in futures::future::join_all(asked).await {
        let answer = answer.unwrap();
        assert_eq!((answer.request_id.len(), answer.request_id.as_bytes()[14]), (36, b'4'));
        ids.insert(answer.request_id);
        answers.push(json_of(answer.output));
    }
    assert_eq!(ids.len(), 50);
    assert!(answers.iter().all(|answer| answer["shape"] == json!([2, support::HIDDEN])));
}

#[tokio::test]
async fn a_failed_load_is_reported_and_tried_again() {
    let (folder, engine) = engine(&["tiny"], |_| {});
    let file = folder.path().join("tiny/model.safetensors");
    let sound = std::fs::read(&file).unwrap();
    let hostile: Vec<(Vec<u8>, &str)> = vec![
        (sound[..100].to_vec(), "model.safetensors"),
        (support::safetensors(&BTreeMap::from([("x".to_owned(), vec![1])]), 1), "embeddings.word_embeddings.weight"),
        (
            {
                let mut shapes = support::shapes();
                shapes.insert("encoder.layer.1.output.dense.weight".into(), vec![support::HIDDEN, 7]);
                support::safetensors(&shapes, 1)
            },
            "encoder.layer.1.output.dense.weight has the shape [24, 7]",
        ),
    ];
    for (bytes, part) in hostile {
        std::fs::write(&file, bytes).unwrap();
        let (code, status, message) = refused(&engine, "tiny", json!({ "text": "a" })).await;
        assert_eq!((code, status), (3046, 503));
        assert!(message.contains(part), "{message}");
    }
    std::fs::write(&file, &sound).unwrap();
    engine.warm("tiny").await.unwrap();
}

#[tokio::test]
async fn hostile_configurations_and_tokenizers_are_refused() {
    let (folder, engine) = engine(&["tiny"], |_| {});
    let path = |name: &str| folder.path().join("tiny").join(name);
    let mut cases: Vec<(&str, Vec<u8>, &str)> =
        vec![("tokenizer.json", b"{".to_vec(), "tokenizer.json"), ("config.json", b"[1]".to_vec(), "config.json")];
    for (key, value, part) in [
        ("hidden_size", json!(u64::MAX), "config.json"),
        ("hidden_size", json!(1_u64 << 40), "hidden_size"),
        ("hidden_size", json!(0), "hidden_size"),
        ("hidden_size", json!(-1), "config.json"),
        ("num_attention_heads", json!(5), "num_attention_heads"),
        ("num_attention_heads", json!(0), "num_attention_heads"),
        ("num_hidden_layers", json!(100_000), "num_hidden_layers"),
        ("num_hidden_layers", json!(3), "encoder.layer.2"),
        ("vocab_size", json!(10), "vocab_size"),
        ("layer_norm_eps", json!(-1.0), "layer_norm_eps"),
        ("hidden_act", json!("mish"), "hidden_act"),
        ("position_embedding_type", json!("relative_key"), "position_embedding_type"),
    ] {
        let mut config = support::config();
        config[key] = value;
        cases.push(("config.json", serde_json::to_vec(&config).unwrap(), part));
    }
    let mut tokenizer = support::tokenizer();
    tokenizer["model"]["vocab"]["huge"] = json!(4_000_000_000_u32);
    cases.push(("tokenizer.json", serde_json::to_vec(&tokenizer).unwrap(), "4000000000"));
    for (file, bytes, part) in cases {
        let sound = std::fs::read(path(file)).unwrap();
        std::fs::write(path(file), &bytes).unwrap();
        let (code, _, message) = refused(&engine, "tiny", json!({ "text": "a" })).await;
        assert_eq!(code, 3046, "{message}");
        assert!(message.contains(part), "{part}: {message}");
        std::fs::write(path(file), sound).unwrap();
    }
    engine.warm("tiny").await.unwrap();
}

#[tokio::test]
async fn weights_that_are_no_numbers_give_an_error_and_not_null() {
    let (folder, engine) = engine(&["tiny"], |_| {});
    let file = folder.path().join("tiny/model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    // The header's length, the header, then every value of the model.
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for value in bytes[8 + header..].chunks_exact_mut(4) {
        value.copy_from_slice(&f32::NAN.to_le_bytes());
    }
    std::fs::write(&file, bytes).unwrap();
    assert_eq!(refused(&engine, "tiny", json!({ "text": "hello" })).await.0, 3046);
}

#[tokio::test]
async fn the_least_recently_used_model_makes_room() {
    let folder = tempfile::tempdir().unwrap();
    let size = tiny_encoder(&folder.path().join("size"), 0);
    let (_folder, engine) = engine(&["one", "two", "three"], |config| config.memory_bytes = Some(2 * size + size / 2));
    for name in ["one", "two", "one", "three"] {
        run(&engine, name, json!({ "text": "a" })).await;
    }
    assert_eq!(availability(&engine, "one"), Availability::Loaded);
    assert_eq!(availability(&engine, "two"), Availability::OnDisk, "it was used longest ago");
    assert_eq!(availability(&engine, "three"), Availability::Loaded);
    run(&engine, "two", json!({ "text": "a" })).await;
    assert_eq!(availability(&engine, "one"), Availability::OnDisk);
}

#[tokio::test]
async fn a_model_larger_than_the_budget_says_so() {
    let (_folder, engine) = engine(&["tiny"], |config| config.memory_bytes = Some(1000));
    let (code, _, message) = refused(&engine, "tiny", json!({ "text": "a" })).await;
    assert_eq!(code, 3046);
    assert!(message.contains("1000"), "{message}");
}

#[tokio::test]
async fn after_shutdown_everything_is_refused() {
    let (_folder, engine) = engine(&["tiny"], |_| {});
    run(&engine, "tiny", json!({ "text": "a" })).await;
    engine.shutdown().await;
    assert_eq!(refused(&engine, "tiny", json!({ "text": "a" })).await.0, 3008);
    assert_eq!(availability(&engine, "tiny"), Availability::OnDisk);
}

#[tokio::test]
async fn published_checkpoints_generate_text() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("checkpoint");
    let bytes = tiny_checkpoint(&path);
    let store = Store::open(place.path().join("models"));
    let installed = store.import(&"me/copy".parse().unwrap(), &path, None, &mut NoProgress).unwrap();
    assert_eq!((installed.bytes(), installed.manifest.task), (bytes, Task::TextGeneration));
    assert_eq!(installed.manifest.files.len(), 6);
    let mut config = EngineConfig::new(place.path().join("models"));
    config.threads = NonZeroUsize::new(1);
    config.models.push(local("own", &path));
    let engine = Engine::new(config).unwrap();
    let prompt = json!({ "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 8, "temperature": 0 });
    let (own, copy) = (run(&engine, "own", prompt.clone()).await, run(&engine, "me/copy", prompt).await);
    assert_eq!(own, copy);
    // `<|im_start|>user\nhi<|im_end|>` is two tokens, five bytes and two more.
    assert_eq!(own["usage"]["prompt_tokens"], json!(9), "{own}");
    assert!(own["usage"]["completion_tokens"].as_u64().unwrap() > 0, "{own}");
}
