//! Adapters through the engine: SmolLM2 with a small random one, and what a configuration or a request gets that asks for
//! what is not there. That an adapter computes what it should is tested beside its code.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use futures::future::join_all;
use futures::{FutureExt, StreamExt};
use host_inference::engine::{ConfigFault, LocalAdapter};
use host_inference::{Engine, EngineConfig, EngineError, LocalModel, LocalSource, RunOutput, store};
use serde_json::{Value, json};

use crate::support::{real_gguf, request, safetensors, tiny_encoder};

const MODEL: &str = "smollm2-135m-instruct";

/// Writes an adapter of rank 4 for models of SmolLM2's width and gives its folder.
fn write_adapter(parent: &Path, name: &str, seed: u32, width: usize) -> PathBuf {
    let folder = parent.join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let mut shapes = BTreeMap::new();
    for layer in (0..30).step_by(7) {
        for module in ["self_attn.q_proj", "self_attn.o_proj"] {
            let name = format!("base_model.model.model.layers.{layer}.{module}");
            shapes.insert(format!("{name}.lora_A.weight"), vec![4, width]);
            shapes.insert(format!("{name}.lora_B.weight"), vec![width, 4]);
        }
    }
    std::fs::write(folder.join("adapter_model.safetensors"), safetensors(&shapes, seed)).unwrap();
    let config = json!({ "peft_type": "LORA", "r": 4, "lora_alpha": 2, "target_modules": ["q_proj", "o_proj"] });
    std::fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    folder
}

fn adapter(name: &str, path: PathBuf, models: &[&str]) -> LocalAdapter {
    LocalAdapter { name: name.into(), path, models: models.iter().map(|model| (*model).to_owned()).collect() }
}

fn config(folder: &Path, adapters: Vec<LocalAdapter>) -> EngineConfig {
    let mut config = EngineConfig::new(store::default_directory());
    config.threads = NonZeroUsize::new(2);
    config.adapters = adapters;
    config.aliases = BTreeMap::from([("@cf/meta/llama-3.1-8b-instruct".to_owned(), MODEL.to_owned())]);
    let path = folder.join("encoder");
    tiny_encoder(&path, 1);
    let encoder = |path| LocalSource::Path(path);
    config.models.push(LocalModel::new("encoder", encoder(path)));
    let mock = LocalSource::Mock(json!({ "reply": "x" }));
    config.models.push(LocalModel::new("mock", mock));
    config
}

async fn answer(engine: &Engine, model: &str, lora: Option<&str>, stream: bool) -> String {
    // Long enough that what was read of it is cached, which must not be used for another adapter.
    let prompt = "The little boat left the harbour in the early morning and sailed along the coast. ".repeat(5);
    let inputs = json!({
        "prompt": prompt, "raw": true, "lora": lora, "temperature": 0, "max_tokens": 24,
        "stream": stream,
    });
    match engine.run(request(model, inputs)).await.unwrap().output {
        RunOutput::Json(value) => value["response"].as_str().unwrap().to_owned(),
        RunOutput::Stream { body, .. } => {
            let bytes: Vec<u8> = body.map(Result::unwrap).collect::<Vec<_>>().await.concat();
            let events = std::str::from_utf8(&bytes).unwrap().split_terminator("\n\n").map(|event| &event[6..]);
            let texts = events.filter_map(|event| serde_json::from_str::<Value>(event).ok());
            texts.map(|event| event["response"].as_str().unwrap_or_default().to_owned()).collect()
        }
    }
}

#[tokio::test]
async fn requests_with_adapters_and_without_share_batches_and_change_each_other_in_nothing() {
    assert!(real_gguf(MODEL).exists());
    let folder = tempfile::tempdir().unwrap();
    let alias = "@cf/meta/llama-3.1-8b-instruct";
    let one = adapter("one", write_adapter(folder.path(), "one", 1, 576), &[MODEL]);
    let two = adapter("team/two", write_adapter(folder.path(), "two", 2, 576), &[alias, MODEL]);
    let wide = adapter("wide", write_adapter(folder.path(), "wide", 3, 640), &[MODEL]);
    let adapters = vec![one, two, wide];
    let fresh = Engine::new(config(folder.path(), adapters.clone())).unwrap();
    let with = Engine::new(config(folder.path(), adapters)).unwrap();
    let without = Engine::new(config(folder.path(), Vec::new())).unwrap();
    let base = answer(&without, MODEL, None, false).await;
    let mut alone = Vec::new();
    for lora in [None, Some("one"), Some("team/two")] {
        alone.push(answer(&with, MODEL, lora, false).await);
    }
    assert_eq!(alone[0], base, "adapters that nobody asks for change nothing");
    assert!(alone[1] != base && alone[2] != base && alone[1] != alone[2], "{alone:?}");
    let kinds = [None, Some("one"), Some("team/two")];
    for (i, lora) in kinds.into_iter().enumerate().rev() {
        assert_eq!(answer(&fresh, MODEL, lora, false).await, alone[i], "{lora:?} first, where another one was");
    }
    let together = (0..9).map(|i| answer(&with, if i % 2 == 0 { MODEL } else { alias }, kinds[i % 3], i % 4 == 0));
    for (i, answer) in join_all(together).await.into_iter().enumerate() {
        assert_eq!(answer, alone[i % 3], "request {i}");
    }

    let refused = |lora: &'static str, model: &'static str| {
        let inputs = json!({ "prompt": "a", "text": "a", "lora": lora });
        with.run(request(model, inputs)).map(|result| result.unwrap_err())
    };
    let error = refused("team/too", alias).await;
    assert_eq!((error.code, error.status), (5006, 400));
    let lines =
        "[[ai.loras]]\n  name = \"team/too\"\n  path = \"FOLDER\"\n  models = [\"@cf/meta/llama-3.1-8b-instruct\"]";
    assert!(error.message.contains(lines) && error.message.contains("did you mean \"team/two\"?"), "{error}");
    let error = refused("wide", MODEL).await;
    assert_eq!((error.code, error.status), (3046, 503));
    assert!(error.message.contains("lora_A.weight has the shape [4, 640]"), "{error}");
    for model in ["encoder", "mock"] {
        let error = refused("one", model).await;
        assert_eq!((error.code, error.status), (5005, 405), "{model}");
    }
}

#[tokio::test]
async fn adapters_count_as_memory_of_their_model() {
    let folder = tempfile::tempdir().unwrap();
    let one = || adapter("one", write_adapter(folder.path(), "one", 1, 576), &[MODEL]);
    let weights = std::fs::metadata(real_gguf(MODEL)).unwrap().len();
    let adapters = std::fs::metadata(folder_file(&one().path)).unwrap().len();
    let error = |budget: u64| {
        let mut config = config(folder.path(), vec![one()]);
        config.memory_bytes = Some(budget);
        let engine = Engine::new(config).unwrap();
        async move { engine.warm(MODEL).await.err().map(|error| error.message) }
    };
    let message = error(weights + adapters / 2).await.unwrap();
    assert!(message.contains("bytes of memory"), "{message}");
    assert_eq!(error(weights + adapters + (64 << 20)).await, None);
}

fn folder_file(folder: &Path) -> PathBuf {
    folder.join("adapter_model.safetensors")
}

#[test]
fn faults_of_adapters_are_told_before_anything_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let good = write_adapter(folder.path(), "good", 1, 576);
    let faults = |adapters: Vec<LocalAdapter>| match Engine::new(config(folder.path(), adapters)) {
        Err(EngineError::Config(faults)) => faults.iter().map(ConfigFault::to_string).collect::<Vec<_>>(),
        Err(other) => panic!("{other}"),
        Ok(_) => Vec::new(),
    };
    assert_eq!(faults(vec![adapter("good", good.clone(), &["@cf/meta/llama-3.1-8b-instruct", MODEL])]), [""; 0]);
    let cases = [
        (adapter("gone", folder.path().join("gone"), &[MODEL]), "\"gone\": "),
        (adapter("lost", good.clone(), &["smollm2-135m-instrukt"]), "did you mean \"smollm2-135m-instruct\"?"),
        (adapter("encoder-adapter", good.clone(), &["encoder"]), "\"encoder\" cannot apply adapters"),
        (adapter("mock-adapter", good.clone(), &["mock"]), "\"mock\" cannot apply adapters"),
        (adapter("none", good.clone(), &[]), "`models` is empty"),
        (adapter("bad name", good.clone(), &[MODEL]), "bad name"),
    ];
    let found = faults(cases.iter().map(|(adapter, _)| adapter.clone()).collect());
    assert_eq!(found.len(), cases.len(), "{found:?}");
    for (_, part) in &cases {
        assert!(found.iter().any(|fault| fault.contains(part)), "{part}: {found:?}");
    }
    let twice = || adapter("twice", good.clone(), &[MODEL]);
    assert!(faults(vec![twice(), twice()])[0].contains("\"twice\" is given twice"));
    std::fs::write(folder_file(&good), b"short").unwrap();
    assert!(faults(vec![twice()])[0].contains("adapter_model.safetensors: it has 5 bytes"));
}
