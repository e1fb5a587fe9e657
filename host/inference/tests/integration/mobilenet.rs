//! MobileNetV4 against timm: tiny checkpoints in its published layout. `golden/make_vision_timm.py` made them and their
//! values.

use std::path::{Path, PathBuf};

use host_inference::store::{self, Layout};
use host_inference::{Engine, EngineConfig, LocalModel, LocalSource, Task};
use serde_json::{Value, json};

use crate::support;

/// As for the other classifiers: float32 through dozens of layers, summed in another order.
const TOLERANCE: f64 = 2e-5;
const NAMES: [&str; 3] = ["mobilenetv4-small", "mobilenetv4-medium", "mobilenetv4-large"];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/vision").join(name)
}

fn engine(path: &Path) -> Engine {
    let mut config = EngineConfig::new(std::env::temp_dir().join("no-models-here"));
    config.models = vec![LocalModel {
        name: "mobilenet".into(),
        task: None,
        source: LocalSource::Path(path.to_path_buf()),
        context: None,
        pooling: None,
        precision: None,
        speculate: false,
    }];
    config.threads = Some(2.try_into().unwrap());
    Engine::new(config).unwrap()
}

async fn classify(engine: &Engine, picture: &str) -> Result<Value, host_inference::AiError> {
    let image = std::fs::read(folder(picture)).unwrap();
    let response = engine.run(support::request("mobilenet", json!({ "image": image }))).await?;
    Ok(support::json_of(response.output))
}

/// `mobilenetv4-small` with other values of some keys of `config.json`.
fn changed(keys: Value) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    let from = folder(NAMES[0]);
    std::fs::copy(from.join("model.safetensors"), copy.path().join("model.safetensors")).unwrap();
    let mut config: Value = serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
    for (key, value) in keys.as_object().unwrap() {
        match value {
            Value::Null => drop(config.as_object_mut().unwrap().remove(key)),
            value => config[key] = value.clone(),
        }
    }
    std::fs::write(copy.path().join("config.json"), config.to_string()).unwrap();
    copy
}

#[tokio::test]
async fn labels_match_those_of_timm() {
    let golden: Value = serde_json::from_slice(&std::fs::read(folder("timm.json")).unwrap()).unwrap();
    for name in NAMES {
        let inspected = store::inspect(&folder(name)).unwrap();
        assert_eq!((inspected.task, inspected.layout), (Task::ImageClassification, Layout::Safetensors(folder(name))));
        assert_eq!(inspected.files.len(), 2);
        let engine = engine(&folder(name));
        for (picture, logits) in ["cat.png", "tall.png"].iter().zip(golden[name].as_array().unwrap()) {
            let powers: Vec<f64> = logits.as_array().unwrap().iter().map(|x| x.as_f64().unwrap().exp()).collect();
            let sum: f64 = powers.iter().sum();
            let mut expected: Vec<(usize, f64)> = powers.iter().map(|power| power / sum).enumerate().collect();
            expected.sort_by(|a, b| b.1.total_cmp(&a.1));
            let got = classify(&engine, picture).await.unwrap();
            assert_eq!(got.as_array().unwrap().len(), 5);
            for (got, (class, score)) in got.as_array().unwrap().iter().zip(expected) {
                assert_eq!(got["label"], format!("label {class}"), "{name} {picture}");
                let found = got["score"].as_f64().unwrap();
                assert!((found - score).abs() <= TOLERANCE, "{name} {picture}: {found} {score}");
            }
        }
    }
}

#[tokio::test]
async fn classes_without_names_are_numbered() {
    let unnamed = changed(json!({ "label_names": null, "label_descriptions": null }));
    let got = classify(&engine(unnamed.path()), "cat.png").await.unwrap();
    let named = classify(&engine(&folder(NAMES[0])), "cat.png").await.unwrap();
    for (got, named) in got.as_array().unwrap().iter().zip(named.as_array().unwrap()) {
        assert_eq!(got["label"].as_str().unwrap().replace("LABEL_", "label "), named["label"].as_str().unwrap());
    }
}

#[tokio::test]
async fn networks_that_are_computed_otherwise_are_refused_by_name() {
    for other in ["mobilenetv4_hybrid_medium", "mobilenetv4_conv_aa_large", "mobilenetv4_conv_blur_medium", "resnet50"]
    {
        let error = store::inspect(changed(json!({ "architecture": other })).path()).unwrap_err().to_string();
        assert!(error.contains(other) && error.contains("mobilenetv4_conv_medium"), "{error}");
    }
    for (keys, part) in [
        (json!({ "num_classes": 9, "label_names": null }), "classifier.weight"),
        (json!({ "global_pool": "max" }), "global_pool"),
        (json!({ "model_args": { "aa_layer": "avg" } }), "aa_layer"),
        (json!({ "pretrained_cfg": { "crop_mode": "border" } }), "crop_mode"),
        (json!({ "pretrained_cfg": null }), "pretrained_cfg"),
    ] {
        let error = classify(&engine(changed(keys).path()), "cat.png").await.unwrap_err();
        assert!(error.message.contains(part), "{part}: {error}");
    }
}

#[tokio::test]
async fn a_missing_tensor_is_named() {
    let copy = changed(json!({}));
    let path = copy.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    // Another name of the same length, so that the header stays as long.
    let at = bytes.windows(16).position(|part| part == b"conv_head.weight").unwrap();
    let mut broken = bytes.clone();
    broken[at] = b'x';
    std::fs::write(&path, broken).unwrap();
    let error = classify(&engine(copy.path()), "cat.png").await.unwrap_err();
    assert!(error.message.contains("conv_head.weight is missing"), "{error}");
}
