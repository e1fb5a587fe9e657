//! What requests take of the memory budget, through the engine.

use std::num::NonZeroUsize;

use host_inference::{Engine, EngineConfig, LocalModel, LocalSource, RunOutput};
use serde_json::{Value, json};

use crate::diffusion::shapes;
use crate::support::{request, request_of};

const MIB: u64 = 1 << 20;

/// The small real model under two names, in so many bytes.
fn engine(budget: Option<u64>) -> Engine {
    let mut config = EngineConfig::new(std::env::temp_dir().join("no-models-here"));
    config.models = ["one", "two"].map(|name| LocalModel::new(name, LocalSource::Path(shapes()))).into();
    config.threads = NonZeroUsize::new(1);
    config.memory_bytes = budget;
    Engine::new(config).unwrap()
}

fn inputs(side: usize) -> Value {
    json!({ "prompt": "a red circle", "num_steps": 1, "height": side, "width": side, "seed": 1 })
}

/// Bytes of the model's weights, as the engine counts them.
fn weights() -> u64 {
    engine(None).models().into_iter().find(|model| model.name == "one").and_then(|model| model.bytes).unwrap()
}

/// How many MiB the refusal of a picture of that size speaks of.
async fn asked(side: usize) -> u64 {
    let error = engine(Some(weights() + 1)).run(request("one", inputs(side))).await.unwrap_err();
    assert_eq!((error.code, error.status, error.retry_after), (5006, 400, None), "{error}");
    for named in ["'/height'", "'/width'", "memory_mb"] {
        assert!(error.message.contains(named), "{error}");
    }
    let words: Vec<&str> = error.message.split(' ').collect();
    let takes = words.iter().position(|word| *word == "takes").unwrap();
    words[takes + 1].parse().unwrap()
}

#[tokio::test]
async fn a_picture_that_does_not_fit_beside_its_model_is_refused_and_a_smaller_one_drawn() {
    let (small, large) = (asked(64).await, asked(256).await);
    assert!(large > 4 * small.max(1), "{small} and {large} MiB");
    let engine = engine(Some(weights() + small * MIB));
    assert_eq!(engine.run(request("one", inputs(256))).await.unwrap_err().code, 5006);
    let drawn = engine.run(request("one", inputs(64))).await.unwrap();
    assert!(matches!(drawn.output, RunOutput::Stream { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_that_fit_only_one_after_the_other_are_all_drawn() {
    let peak = asked(128).await * MIB;
    // Both models, and one picture.
    let engine = engine(Some(2 * weights() + peak + peak / 2));
    let asked = ["one", "two", "one", "two"].map(|model| {
        let engine = engine.clone();
        tokio::spawn(async move { engine.run(request_of(model, model, inputs(128))).await.map(drop) })
    });
    for drawn in asked {
        drawn.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_model_that_nobody_uses_leaves_for_a_picture() {
    let peak = asked(128).await * MIB;
    let engine = engine(Some(weights() + peak));
    engine.warm("two").await.unwrap();
    // Where both models fit beside each other, they do until memory is wanted for work.
    drop(engine.run(request("one", inputs(128))).await.unwrap());
    let loaded =
        engine.models().into_iter().filter(|model| model.availability == host_inference::engine::Availability::Loaded);
    assert_eq!(loaded.map(|model| model.name).collect::<Vec<_>>(), ["one"]);
}
