//! `examples/rag` with the real small models: documents through the queue, answers with citations, and a restart.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::examples::binding_file;
use crate::harness::{Host, PATIENCE, Reply, workspace};

/// Questions, and the document that answers each.
const QUESTIONS: [(&str, &str); 3] = [
    ("When is the workshop open?", "opening-hours"),
    ("What does a membership cost for students?", "membership"),
    ("Why must PVC not be cut with the laser?", "laser-cutter"),
];

/// The root's binding file served with what is kept in `state`.
fn serve(state: &Path) -> Host {
    Host::start(&binding_file(), &["--persist-to", &state.display().to_string()])
}

fn send(host: &Host, method: &str, path: &str, body: &str) -> Reply {
    host.send_to("rag.localhost", method, path, &[], body.as_bytes()).read()
}

fn passages(host: &Host) -> u64 {
    let reply = send(host, "GET", "/status", "");
    assert_eq!(reply.status, 200, "{}", reply.text());
    let status = reply.json();
    assert_eq!(status["dimensions"], json!(384), "{status}");
    status["passages"].as_u64().unwrap_or_else(|| panic!("{status}"))
}

/// Waits until the index has so many passages.
fn wait_for(host: &Host, wanted: u64) {
    let start = Instant::now();
    while passages(host) != wanted {
        assert!(start.elapsed() < PATIENCE, "{} passages, not {wanted}", passages(host));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Sends documents and waits until their passages can be found, and no more than those and `others`.
fn ingest(host: &Host, documents: &str, others: u64) -> u64 {
    let reply = send(host, "POST", "/documents", documents);
    assert_eq!(reply.status, 202, "{}", reply.text());
    let queued = reply.json()["passages"].as_u64().unwrap();
    wait_for(host, others + queued);
    queued
}

fn documents() -> String {
    let text = std::fs::read_to_string(workspace().join("examples/rag/documents.json")).unwrap();
    assert!(serde_json::from_str::<Vec<Value>>(&text).unwrap().len() >= 8);
    text
}

/// Three passages, the closest first, and what the first one is a passage of.
fn cited(citations: &Value) -> &str {
    let list = citations.as_array().unwrap_or_else(|| panic!("{citations}"));
    assert_eq!(list.len(), 3, "{citations}");
    for citation in list {
        assert!(["id", "source", "title"].iter().all(|key| citation[*key].as_str() > Some("")), "{citations}");
    }
    let scores: Vec<f64> = list.iter().map(|citation| citation["score"].as_f64().unwrap()).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b) && scores[0] > 0.5, "{scores:?}");
    list[0]["id"].as_str().unwrap().split('#').next().unwrap()
}

fn answers(host: &Host) {
    for (question, document) in QUESTIONS {
        let reply = send(host, "POST", "/ask", &json!({ "question": question }).to_string());
        assert_eq!(reply.status, 200, "{}", reply.text());
        let answer = reply.json();
        assert!(answer["answer"].as_str().is_some_and(|text| !text.trim().is_empty()), "{answer}");
        assert_eq!(cited(&answer["citations"]), document, "{question}: {answer}");
    }
}

#[test]
fn documents_are_cited_and_are_there_after_a_restart() {
    let state = tempfile::tempdir().unwrap();
    let mut host = serve(state.path());
    assert_eq!(send(&host, "GET", "/ask?q=Why", "").status, 404);
    let stored = ingest(&host, &documents(), 0);
    answers(&host);
    // What is being handled is finished first, so that nothing has to be delivered again.
    host.terminate();
    assert!(host.wait().success());

    let host = serve(state.path());
    assert_eq!(passages(&host), stored);
    answers(&host);
    assert!(!host.log().contains("stored "), "a document was stored again");
}

#[test]
fn an_answer_is_streamed_after_its_citations() {
    let state = tempfile::tempdir().unwrap();
    let host = serve(state.path());
    ingest(&host, &documents(), 0);
    let reply = send(&host, "GET", "/ask?q=when+is+the+workshop+open&stream", "");
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("text/event-stream")), "{}", reply.text());
    let text = reply.text();
    let (first, rest) = text.split_once("\n\n").unwrap();
    let citations = first.strip_prefix("event: citations\ndata: ").unwrap_or_else(|| panic!("{text}"));
    assert_eq!(cited(&serde_json::from_str(citations).unwrap()), "opening-hours");
    assert!(rest.starts_with("data: {") && rest.ends_with("data: [DONE]\n\n") && reply.complete, "{text}");
}

#[test]
fn documents_are_replaced_and_removed() {
    let state = tempfile::tempdir().unwrap();
    let host = serve(state.path());
    let document = |id: &str, text: &str| json!({ "id": id, "title": id, "source": "test", "text": text });
    let long = "The bees are fed in the evening. ".repeat(100);
    let both = json!([document("bees", &long), document("hens", "The hens lay eggs in the morning.")]);
    let stored = ingest(&host, &both.to_string(), 0);
    assert!(stored > 4, "{stored}");
    assert_eq!(ingest(&host, &document("bees", "The bees sleep.").to_string(), 1), 1);

    let removed = send(&host, "DELETE", "/documents/bees", "");
    assert_eq!(removed.json(), json!({ "removed": "bees", "passages": 1 }));
    assert_eq!((passages(&host), send(&host, "DELETE", "/documents/bees", "").status), (1, 404));
}

#[test]
fn what_is_wrong_with_a_request_is_said() {
    let state = tempfile::tempdir().unwrap();
    let host = serve(state.path());
    let good = json!({ "id": "a", "title": "A", "source": "a.md", "text": "A text." });
    let with = |key: &str, value: Value| {
        let mut document = good.clone();
        document[key] = value;
        document.to_string()
    };
    let long = format!("{}. ", "x".repeat(400)).repeat(100);
    let many: Vec<Value> =
        (0..11).map(|number| json!({ "id": number.to_string(), "title": "A", "source": "a", "text": long })).collect();
    let many = Value::from(many);
    for (body, part) in [
        ("{".to_owned(), "no JSON"),
        ("null".to_owned(), "Document 0: An id has"),
        ("[]".to_owned(), "1 to 100 documents"),
        (json!([good, good]).to_string(), "the same id"),
        (with("id", json!("a/b")), "An id has"),
        (with("title", json!("x".repeat(201))), "\"title\" has"),
        (with("source", json!(7)), "\"source\" has"),
        (with("text", json!("  ")), "\"text\" has"),
        (with("text", json!("x".repeat(70_001))), "\"text\" has"),
        (with("text", json!(format!("{}. ", "x".repeat(400)).repeat(101))), "more than 100 passages"),
        (many.to_string(), "at most 1000 passages"),
        (with("text", json!("x".repeat(1_000_001))), "at most 1000000 characters"),
    ] {
        let refused = send(&host, "POST", "/documents", &body);
        assert_eq!(refused.status, 400, "{part}: {}", refused.text());
        let error = refused.json()["error"].as_str().unwrap().to_owned();
        assert!(error.contains(part), "{part}: {error}");
    }
    for (method, path, status) in [
        ("GET", "/", 200),
        ("GET", "/documents", 404),
        ("DELETE", "/documents/a/b", 404),
        ("DELETE", "/documents/%20", 400),
        ("DELETE", "/documents/nothing", 404),
        ("GET", "/ask?q=+", 400),
    ] {
        assert_eq!(send(&host, method, path, "").status, status, "{method} {path}");
    }
    assert_eq!(passages(&host), 0);
}
