//! `tests/conformance/<case>/`: a call and what the contract says comes back.
//!
//! A case is a folder with `call.json` (what the `ai` guest is sent), `expected.json` (`status` and the parts of the
//! answer that must be there) and optionally `worker.toml` (lines for the binding file, else the shared ones). All cases
//! with the same binding file run against one host, in both flavours.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use crate::harness::{FLAVOURS, Host, guest, workspace};

struct Case {
    name: String,
    path: String,
    call: Value,
    expected: Value,
}

#[test]
fn every_case_answers_as_the_contract_says() {
    let folder = workspace().join("tests/conformance");
    let shared = std::fs::read_to_string(folder.join("worker.toml")).unwrap();
    let mut cases: BTreeMap<String, Vec<Case>> = BTreeMap::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let folder = entry.unwrap().path();
        if folder.is_dir() {
            let worker = std::fs::read_to_string(folder.join("worker.toml")).unwrap_or_else(|_| shared.clone());
            cases.entry(worker).or_default().push(read(folder));
        }
    }
    let count: usize = cases.values().map(Vec::len).sum();
    assert!(count >= 20, "only {count} cases were found");
    for flavour in FLAVOURS {
        for (worker, cases) in &cases {
            let host = Host::worker(&guest("ai", flavour), worker);
            for case in cases {
                check(&host, case, flavour);
            }
        }
    }
}

fn read(folder: PathBuf) -> Case {
    let json = |file: &str| {
        let path = folder.join(file);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_json::from_str::<Value>(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let call = json("call.json");
    Case {
        name: folder.file_name().unwrap().to_string_lossy().into_owned(),
        path: call["path"].as_str().unwrap_or("/run").to_owned(),
        call,
        expected: json("expected.json"),
    }
}

fn check(host: &Host, case: &Case, flavour: &str) {
    let reply = host.post(&case.path, &case.call);
    let place = format!("{} ({flavour})", case.name);
    let answer = serde_json::from_slice(&reply.body).unwrap_or_else(|_| Value::String(reply.text()));
    assert_eq!(Value::from(reply.status), case.expected["status"], "{place}: {answer}");
    if let Some(whole) = case.expected.get("answer") {
        assert_eq!(&answer, whole, "{place}");
    }
    if let Some(parts) = case.expected.get("parts") {
        contains(&answer, parts, &place);
    }
    for text in case.expected["texts"].as_array().into_iter().flatten() {
        assert!(reply.text().contains(text.as_str().unwrap()), "{place}: no {text} in {}", reply.text());
    }
}

/// Whether everything in `parts` is in `answer`, which may hold more.
fn contains(answer: &Value, parts: &Value, place: &str) {
    match parts {
        Value::Object(parts) => {
            for (key, part) in parts {
                contains(&answer[key], part, &format!("{place}.{key}"));
            }
        }
        _ => assert_eq!(answer, parts, "{place}"),
    }
}
