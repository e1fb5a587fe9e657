use host_inference::engine::{EngineConfig, LocalModel, LocalSource};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn engine(folder: &std::path::Path) -> Engine {
    let model = |name: &str, script: Value| LocalModel::new(name, LocalSource::Mock(script));
    let models =
        vec![model("parrot", json!({})), model("slow", json!({ "tokens": 1_000_000, "reply": "word", "delay_ms": 5 }))];
    Engine::new(EngineConfig { models, ..EngineConfig::new(folder.join("models")) }).unwrap()
}

fn batch(requests: Value) -> Map<String, Value> {
    json!({ "requests": requests }).as_object().unwrap().clone()
}

async fn done(batches: &Batches, id: &str) -> Value {
    let ended = async {
        loop {
            if let Progress::Done(document) = batches.progress("w", "parrot", id).await.unwrap() {
                return document;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ended).await.expect("the batch ends")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_answered_in_order_with_what_failed_in_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let batches = Batches::new(engine(folder.path()), Directory::new(folder.path()), HOUR);
    let requests = json!([{ "prompt": "one two", "external_reference": "x" }, { "prompt": 3 }, { "prompt": "three" }]);
    let id = batches.submit("w", "parrot", batch(requests)).await.unwrap();
    let document = done(&batches, &id).await;
    let responses = &document["responses"];
    assert_eq!(responses[0]["result"]["response"], "one two");
    assert_eq!((&responses[0]["success"], &responses[0]["external_reference"]), (&json!(true), &json!("x")));
    assert_eq!((&responses[1]["success"], &responses[1]["result"]["error"]["code"]), (&json!(false), &json!(5006)));
    assert_eq!((&responses[2]["id"], &responses[2]["result"]["response"]), (&json!(2), &json!("three")));
    assert_eq!(document["usage"]["completion_tokens"], 3);
    for (worker, model, id) in [("other", "parrot", id.as_str()), ("w", "slow", &id), ("w", "parrot", "nothing")] {
        assert_eq!(batches.progress(worker, model, id).await.unwrap_err().code, 5006);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_waits_while_anybody_else_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(folder.path());
    let batches = Batches::new(engine.clone(), Directory::new(folder.path()), HOUR);
    let inputs = json!({ "prompt": "x", "stream": true, "max_tokens": 1_000_000 }).as_object().unwrap().clone();
    let request = RunRequest {
        tenant: Tenant::from("v"),
        model: "slow".into(),
        inputs,
        attachments: Vec::new(),
        options: Map::new(),
    };
    let stream = engine.run(request).await.unwrap();
    let id = batches.submit("w", "parrot", batch(json!([{ "prompt": "a" }]))).await.unwrap();
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_eq!(batches.progress("w", "parrot", &id).await.unwrap(), Progress::Queued);
    }
    drop(stream);
    assert_eq!(done(&batches, &id).await["responses"][0]["result"]["response"], "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_queued_is_run_by_the_next_process_and_forgotten_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(folder.path());
    let store = Store::new(Directory::new(folder.path()));
    let id = store.add("w", "parrot", vec![(None, json!({ "prompt": "a" }).to_string())], 1).await.unwrap().unwrap();
    assert!(store.add("w", "parrot", Vec::new(), 1).await.unwrap().is_none(), "one too many");
    let batches = Batches::new(engine.clone(), Directory::new(folder.path()), HOUR);
    batches.resume();
    done(&batches, &id).await;
    let forgetful = Batches::new(engine, Directory::new(folder.path()), Duration::ZERO);
    forgetful.resume();
    let forgotten = async {
        while forgetful.progress("w", "parrot", &id).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), forgotten).await.expect("it is forgotten");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_batch_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let batches = Batches::new(engine(folder.path()), Directory::new(folder.path()), HOUR);
    for (requests, part) in [
        (json!([]), "'/requests'"),
        (json!("x"), "'requests'"),
        (json!([1]), "'/requests/0'"),
        (json!([{ "prompt": "a", "external_reference": 3 }]), "'/requests/0/external_reference'"),
        (json!([{ "prompt": "a" }, { "prompt": "a", "stream": true }]), "'/requests/1/stream'"),
        (Value::from(vec![json!({}); MAX_REQUESTS + 1]), "1 to 1000"),
    ] {
        let error = batches.submit("w", "parrot", batch(requests)).await.unwrap_err();
        assert!(error.code == 5006 && error.message.contains(part), "{error} lacks {part}");
    }
    assert_eq!(batches.submit("w", "nothing", batch(json!([{}]))).await.unwrap_err().code, 5007);
    assert!(!batches.0.store.exists(), "nothing was written");
}
