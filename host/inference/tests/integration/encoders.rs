//! Encoders of every described architecture against references: tiny checkpoints of random weights whose values
//! transformers computed in float32 (`golden/make_encoders.py` says where each comes from), and the real reranker.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use host_inference::backend::{Pooling, Rerank, TextClassification, TextEmbeddings, TokenClassification};
use host_inference::encoder::{Encoder, Reranker, Settings, TextClassifier, TokenClassifier};
use host_inference::{Engine, EngineConfig, LocalModel, LocalSource, Task};
use serde_json::{Value, json};

use crate::support::{self, json_of, request};

fn settings(threads: usize) -> Settings {
    Settings {
        threads: NonZeroUsize::new(threads).unwrap(),
        queue: NonZeroUsize::new(64).unwrap(),
        context: None,
        pooling: None,
    }
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/encoders").join(name)
}

fn reference(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(golden(name).join("reference.json")).unwrap()).unwrap()
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

fn texts(reference: &Value) -> Vec<String> {
    let texts = reference["texts"].as_array().unwrap();
    texts.iter().map(|entry| entry["text"].as_str().unwrap().to_owned()).collect()
}

fn furthest(got: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    got.iter().zip(expected).map(|(got, expected)| (f64::from(*got) - expected).abs()).fold(0.0, f64::max)
}

/// Float32 sums in another order and `erf` and `exp` to 5e-7, through a few layers; a wrong mask, position or
/// activation is off by thousands of times as much.
const TOLERANCE: f64 = 1e-5;

async fn vectors_match(name: &str) {
    let reference = reference(name);
    let encoder = Encoder::load(&golden(name), settings(1)).unwrap();
    for (pooling, key) in [(Pooling::Mean, "mean"), (Pooling::Cls, "cls"), (Pooling::Last, "last")] {
        let embedded = encoder.embed("test".into(), texts(&reference), pooling).await.unwrap();
        let mut tokens = 0;
        for (vector, entry) in embedded.vectors.iter().zip(reference["texts"].as_array().unwrap()) {
            let expected = floats(&entry[key]);
            let cosine: f64 = vector.iter().zip(&expected).map(|(a, b)| f64::from(*a) * b).sum();
            let distance = furthest(vector, &expected);
            assert!(distance < TOLERANCE, "{name} {key} {}: {distance}", entry["text"]);
            assert!(cosine > 0.999_999_9, "{name} {key} {}: {cosine}", entry["text"]);
            tokens += entry["ids"].as_array().unwrap().len();
        }
        assert_eq!(embedded.tokens, tokens, "{name}: as many tokens as the reference");
    }
}

async fn pairs_match(name: &str) {
    let reference = reference(name);
    let reranker = Reranker::load(&golden(name), settings(1)).unwrap();
    for pair in reference["pairs"].as_array().unwrap() {
        let text = |key: &str| pair[key].as_str().unwrap().to_owned();
        let scores = reranker.rerank("test".into(), text("query"), vec![text("text")]).await.unwrap();
        let expected = 1.0 / (1.0 + (-pair["logit"].as_f64().unwrap()).exp());
        assert!(furthest(&scores, &[expected]) < TOLERANCE, "{name}: {scores:?} {expected}");
    }
}

/// The probabilities of each text, of the reference's logits.
async fn labels_match(name: &str, labels: &[&str], probability: impl Fn(&[f64], usize) -> f64) {
    let reference = reference(name);
    let classifier = TextClassifier::load(&golden(name), settings(1)).unwrap();
    let classified = classifier.classify("test".into(), texts(&reference)).await.unwrap();
    for (got, entry) in classified.iter().zip(reference["texts"].as_array().unwrap()) {
        assert!(got.iter().map(|label| label.label.as_str()).eq(labels.iter().copied()), "{name}: the model's order");
        let logits = floats(&entry["logits"]);
        let expected: Vec<f64> = (0..logits.len()).map(|index| probability(&logits, index)).collect();
        let scores: Vec<f32> = got.iter().map(|label| label.score).collect();
        assert!(furthest(&scores, &expected) < TOLERANCE, "{name} {}: {scores:?} {expected:?}", entry["text"]);
    }
}

fn softmax(logits: &[f64], index: usize) -> f64 {
    logits[index].exp() / logits.iter().map(|logit| logit.exp()).sum::<f64>()
}

#[tokio::test]
async fn bert_matches_transformers() {
    vectors_match("bert_rerank").await;
    pairs_match("bert_rerank").await;
    vectors_match("bert_ner").await;
}

#[tokio::test]
async fn distilbert_matches_transformers() {
    vectors_match("distilbert").await;
    labels_match("distilbert", &["NEGATIVE", "POSITIVE"], softmax).await;
}

#[tokio::test]
async fn roberta_matches_transformers() {
    vectors_match("roberta").await;
    let sigmoid = |logits: &[f64], index: usize| 1.0 / (1.0 + (-logits[index]).exp());
    labels_match("roberta", &["joy", "anger", "fear"], sigmoid).await;
}

#[tokio::test]
async fn xlm_roberta_with_a_unigram_vocabulary_matches_transformers() {
    vectors_match("xlm_roberta").await;
    pairs_match("xlm_roberta").await;
}

#[tokio::test]
async fn nomic_bert_matches_transformers() {
    vectors_match("nomic").await;
}

#[tokio::test]
async fn gte_matches_transformers() {
    vectors_match("gte").await;
    pairs_match("gte").await;
}

#[tokio::test]
async fn modernbert_matches_transformers() {
    vectors_match("modernbert").await;
    labels_match("modernbert", &["no", "yes"], softmax).await;
}

#[tokio::test]
async fn jina_bert_matches_its_description() {
    vectors_match("jina").await;
}

#[tokio::test]
async fn entities_are_grouped_as_transformers_groups_them() {
    let reference = reference("bert_ner");
    let classifier = TokenClassifier::load(&golden("bert_ner"), settings(1)).unwrap();
    let found = classifier.entities("test".into(), texts(&reference)).await.unwrap();
    for (entities, expected) in found.iter().zip(reference["entities"].as_array().unwrap()) {
        let expected = expected.as_array().unwrap();
        assert_eq!(entities.len(), expected.len());
        for (entity, expected) in entities.iter().zip(expected) {
            let got = json!([entity.label, entity.word, entity.start, entity.end]);
            let key = |key: &str| expected[key].clone();
            assert_eq!(got, json!([key("entity_group"), key("word"), key("start"), key("end")]));
            assert!((f64::from(entity.score) - expected["score"].as_f64().unwrap()).abs() < TOLERANCE);
        }
    }
}

#[tokio::test]
async fn the_real_reranker_matches_the_reference() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("../golden/bert.json")).unwrap();
    let case = cases.iter().find(|case| case["model"] == "ms-marco-minilm-l12-v2").unwrap();
    let folder = support::real("ms-marco-minilm-l12-v2");
    let reranker = Reranker::load(&folder, settings(2)).unwrap();
    let documents: Vec<String> = serde_json::from_value(case["documents"].clone()).unwrap();
    let query = || case["query"].as_str().unwrap().to_owned();
    let scores = reranker.rerank("test".into(), query(), documents.clone()).await.unwrap();
    let logits = floats(&case["logits"]);
    for (score, logit) in scores.iter().zip(&logits) {
        // The reference has five decimals; as logits, because those of good and bad pairs are near 1 and 0.
        let got = (f64::from(*score) / (1.0 - f64::from(*score))).ln();
        let margin = if logit.abs() < 5.0 { 1e-4 } else { 5e-3 };
        assert!((got - logit).abs() < margin, "{got} {logit}");
    }
    // Many contexts take several turns and give what each gives alone.
    let many: Vec<String> = (0..300).map(|index| documents[index % documents.len()].clone()).collect();
    let together = reranker.rerank("test".into(), query(), many).await.unwrap();
    for (index, score) in together.iter().enumerate() {
        assert!((score - scores[index % documents.len()]).abs() < 1e-6);
    }
}

#[tokio::test]
async fn batches_equal_their_parts_in_every_task() {
    let many: Vec<String> =
        (0..200).map(|index| format!("a cat in Paris {}", "and a dog ".repeat(index % 11))).collect();
    let tenant = || "test".into();
    let classifier = TextClassifier::load(&golden("modernbert"), settings(2)).unwrap();
    let tagger = TokenClassifier::load(&golden("bert_ner"), settings(2)).unwrap();
    let reranker = Reranker::load(&golden("xlm_roberta"), settings(2)).unwrap();
    let classes = classifier.classify(tenant(), many.clone()).await.unwrap();
    let entities = tagger.entities(tenant(), many.clone()).await.unwrap();
    let scores = reranker.rerank(tenant(), "a dog?".into(), many.clone()).await.unwrap();
    for (index, text) in many.iter().enumerate().step_by(7) {
        let alone = || vec![text.clone()];
        assert_eq!(classifier.classify(tenant(), alone()).await.unwrap()[0], classes[index]);
        assert_eq!(tagger.entities(tenant(), alone()).await.unwrap()[0], entities[index]);
        assert_eq!(reranker.rerank(tenant(), "a dog?".into(), alone()).await.unwrap()[0], scores[index]);
    }
}

#[test]
fn weights_that_are_missing_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::copy(golden("nomic").join(file), folder.path().join(file)).unwrap();
    }
    let error = |loaded: Result<(), String>| loaded.unwrap_err();
    let wrong = error(TextClassifier::load(folder.path(), settings(1)).map(drop));
    assert!(wrong.contains("pooler.dense.weight") && wrong.contains("model.safetensors"), "{wrong}");
    let wrong = error(Reranker::load(&golden("distilbert"), settings(1)).map(drop));
    assert!(wrong.contains("2 labels"), "{wrong}");
    std::fs::write(folder.path().join("modules.json"), r#"[{"type": "x.Dense", "path": "2_Dense"}]"#).unwrap();
    let wrong = error(Encoder::load(folder.path(), settings(1)).map(drop));
    assert!(wrong.contains("x.Dense"), "{wrong}");
}

fn engine(models: Vec<(&str, LocalSource, Option<Task>)>) -> (tempfile::TempDir, Engine) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = EngineConfig::new(folder.path().join("models"));
    config.threads = NonZeroUsize::new(1);
    config.models =
        models.into_iter().map(|(name, source, task)| LocalModel { task, ..LocalModel::new(name, source) }).collect();
    (folder, Engine::new(config).unwrap())
}

async fn run(engine: &Engine, model: &str, inputs: Value) -> Value {
    json_of(engine.run(request(model, inputs)).await.unwrap().output)
}

#[tokio::test]
async fn answers_have_the_contracts_shapes() {
    let local = |name: &'static str, of: &str| (name, LocalSource::Path(golden(of)), None);
    let models = vec![local("rerank", "bert_rerank"), local("class", "distilbert"), local("ner", "bert_ner")];
    let (_folder, engine) = engine([models, vec![local("embed", "nomic")]].concat());
    for (name, task) in
        [("rerank", Task::Rerank), ("class", Task::TextClassification), ("ner", Task::TokenClassification)]
    {
        assert_eq!(engine.resolve(name).unwrap().task, task);
    }
    let contexts = json!([{ "text": "The cat." }, { "text": "Paris is in France." }, { "text": "x" }]);
    let answer = run(&engine, "rerank", json!({ "query": "Where is Paris?", "contexts": contexts })).await;
    let response = answer["response"].as_array().unwrap();
    assert_eq!((answer.as_object().unwrap().len(), response.len()), (1, 3));
    assert!(response.windows(2).all(|pair| pair[0]["score"].as_f64() >= pair[1]["score"].as_f64()), "{answer}");
    let mut ids: Vec<_> = response.iter().map(|entry| entry["id"].as_u64().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, [0, 1, 2]);
    let best = run(&engine, "rerank", json!({ "query": "Where is Paris?", "contexts": contexts, "top_k": 1 })).await;
    assert_eq!(best, json!({ "response": [response[0]] }));
    let none = run(&engine, "rerank", json!({ "query": "a", "contexts": [] })).await;
    assert_eq!(none, json!({ "response": [] }));

    let labels = run(&engine, "class", json!({ "text": "The cat sits." })).await;
    let sum: f64 = labels.as_array().unwrap().iter().map(|label| label["score"].as_f64().unwrap()).sum();
    assert_eq!((&labels[0]["label"], &labels[1]["label"]), (&json!("NEGATIVE"), &json!("POSITIVE")));
    assert!((sum - 1.0).abs() < 1e-6 && labels[0].as_object().unwrap().keys().eq(["label", "score"]), "{labels}");

    let entities =
        run(&engine, "ner", json!({ "text": "Paris is the capital of France, and Berlin of Germany!" })).await;
    let keys = entities[0].as_object().unwrap().keys().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(keys, ["entity_group", "score", "word", "start", "end"]);

    let ranked = run(&engine, "embed", json!({ "query": "Where is Paris?", "contexts": contexts })).await;
    assert_eq!(ranked["response"].as_array().unwrap().len(), 3);
    let query = run(&engine, "embed", json!({ "text": "Where is Paris?" })).await;
    let embedded = run(&engine, "embed", json!({ "contexts": contexts })).await;
    assert_eq!((&embedded["shape"], &embedded["pooling"]), (&json!([3, support::HIDDEN]), &json!("mean")));
    let vector = |value: &Value| floats(value);
    let best = &ranked["response"][0];
    let id = usize::try_from(best["id"].as_u64().unwrap()).unwrap();
    let dot: f64 = vector(&query["data"][0]).iter().zip(vector(&embedded["response"][id])).map(|(a, b)| a * b).sum();
    assert!((best["score"].as_f64().unwrap() - dot).abs() < 1e-6, "{best} {dot}");
}

#[tokio::test]
async fn inputs_that_break_the_schema_are_refused_with_the_property() {
    let local = |name: &'static str, of: &str| (name, LocalSource::Path(golden(of)), None);
    let (_folder, engine) =
        engine(vec![local("rerank", "bert_rerank"), local("class", "distilbert"), local("embed", "nomic")]);
    let one = json!([{ "text": "a" }]);
    let cases = [
        ("rerank", json!({}), "'query', 'contexts'"),
        ("rerank", json!({ "query": "a" }), "'contexts'"),
        ("rerank", json!({ "query": "", "contexts": one }), "'/query'"),
        ("rerank", json!({ "query": 1, "contexts": one }), "'/query'"),
        ("rerank", json!({ "query": "a", "contexts": "b" }), "'/contexts'"),
        ("rerank", json!({ "query": "a", "contexts": ["b"] }), "'/contexts/0'"),
        ("rerank", json!({ "query": "a", "contexts": [{}] }), "'/contexts/0'"),
        ("rerank", json!({ "query": "a", "contexts": [{ "text": "" }] }), "'/contexts/0/text'"),
        ("rerank", json!({ "query": "a", "contexts": [{ "text": 1 }] }), "'/contexts/0/text'"),
        ("rerank", json!({ "query": "a", "contexts": vec![json!({ "text": "a" }); 3001] }), "3000"),
        ("rerank", json!({ "query": "a", "contexts": one, "top_k": 0 }), "'/top_k'"),
        ("rerank", json!({ "query": "a", "contexts": one, "top_k": "all" }), "'/top_k'"),
        ("class", json!({}), "'text'"),
        ("class", json!({ "text": "" }), "'/text'"),
        ("class", json!({ "text": ["a"] }), "'/text'"),
        ("embed", json!({ "query": "a" }), "'contexts'"),
        ("embed", json!({ "query": "a", "contexts": [1] }), "'/contexts/0'"),
        ("embed", json!({ "text": "a", "contexts": one }), "'/'"),
    ];
    for (model, inputs, part) in cases {
        let error = engine.run(request(model, inputs.clone())).await.unwrap_err();
        assert_eq!((error.code, error.status), (5006, 400), "{model} {inputs}");
        assert!(error.message.contains(part), "{}", error.message);
    }
}

#[tokio::test]
async fn scripts_stand_in_for_every_task() {
    let mock = |name: &'static str, script: Value, task| (name, LocalSource::Mock(script), Some(task));
    let failing = json!({ "fail": { "code": 3040 } });
    let (_folder, engine) = engine(vec![
        mock("rerank", json!({}), Task::Rerank),
        mock("class", json!({ "labels": ["a", "b", "c"] }), Task::TextClassification),
        mock("ner", json!({ "labels": ["PER"] }), Task::TokenClassification),
        mock("broken", failing, Task::Rerank),
    ]);
    let contexts = json!([{ "text": "nothing" }, { "text": "red and blue" }, { "text": "red" }]);
    let ranked = run(&engine, "rerank", json!({ "query": "Red, blue", "contexts": contexts })).await;
    let expected = [(1, 1.0), (2, 0.5), (0, 0.0)].map(|(id, score)| json!({ "id": id, "score": score }));
    assert_eq!(ranked, json!({ "response": expected }));
    let labels = run(&engine, "class", json!({ "text": "hello" })).await;
    assert_eq!(labels, run(&engine, "class", json!({ "text": "hello" })).await);
    let sum: f64 = labels.as_array().unwrap().iter().map(|label| label["score"].as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-5 && labels[2]["label"] == "c", "{labels}");
    let entities = run(&engine, "ner", json!({ "text": "so É. Ada met Bob" })).await;
    let entity = |word: &str, start: u32, end: u32| json!({ "entity_group": "PER", "score": 1.0, "word": word, "start": start, "end": end });
    assert_eq!(entities, json!([entity("É.", 3, 5), entity("Ada", 6, 9), entity("Bob", 14, 17)]));
    let error = engine.run(request("broken", json!({ "query": "a", "contexts": [] }))).await.unwrap_err();
    assert_eq!(error.code, 3040);
}
