//! The examples, served from the root's binding file with the real small models.

use serde_json::{Value, json};

use crate::harness::{Host, component, workspace};

/// The root's binding file, with the components where this build put them.
fn examples() -> Host {
    let text = std::fs::read_to_string(workspace().join("wrangler-like.toml")).unwrap();
    let folder = component("chat.wasm").parent().unwrap().display().to_string();
    Host::serve(&text.replace("target/wasm32-wasip2/release", &folder))
}

#[test]
fn chat_answers_whole_and_in_a_stream() {
    let host = examples();
    let ask = |path: &str| host.send_to("chat.localhost", "GET", path, &[], b"").read();
    let whole = ask("/?q=What+is+the+capital+of+France%3F");
    assert_eq!(whole.status, 200, "{}", whole.text());
    let answer = whole.json();
    assert!(answer["response"].as_str().is_some_and(|text| !text.trim().is_empty()), "{answer}");
    let usage = &answer["usage"];
    let count = |key: &str| usage[key].as_u64().unwrap_or_else(|| panic!("no {key} in {usage}"));
    assert_eq!(count("total_tokens"), count("prompt_tokens") + count("completion_tokens"));
    assert!(count("prompt_tokens") > 10 && count("completion_tokens") > 0, "{usage}");

    let streamed = ask("/?q=What+is+the+capital+of+France%3F&stream");
    assert_eq!(streamed.header("content-type"), Some("text/event-stream"));
    let text = streamed.text();
    let events: Vec<&str> = text.split("\n\n").filter(|event| !event.is_empty()).collect();
    assert!(events.len() > 2 && events.iter().all(|event| event.starts_with("data: ")), "{text}");
    assert_eq!(events.last(), Some(&"data: [DONE]"));
    let usage: Value = serde_json::from_str(&events[events.len() - 2]["data: ".len()..]).unwrap();
    assert_eq!(usage["response"], json!(""));
    assert!(usage["usage"]["total_tokens"].as_u64() > Some(0), "{usage}");

    assert_eq!(ask("/").status, 400);
}

#[test]
fn search_ranks_by_meaning() {
    let host = examples();
    let ask = |path: &str| host.send_to("search.localhost", "GET", path, &[], b"").read();
    for (question, word) in [("how+do+plants+make+energy", "plants"), ("why+does+the+ground+shake", "Earthquakes")] {
        let reply = ask(&format!("/?q={question}"));
        assert_eq!(reply.status, 200, "{}", reply.text());
        let results = reply.json();
        let results = results.as_array().unwrap();
        assert_eq!(results.len(), 5);
        let scores: Vec<f64> = results.iter().map(|result| result["score"].as_f64().unwrap()).collect();
        assert!(scores.windows(2).all(|pair| pair[0] >= pair[1]), "{scores:?}");
        let best = results[0]["text"].as_str().unwrap();
        assert!(best.contains(word), "{question}: {best}");
    }
}

#[test]
fn hello_says_hello() {
    let host = examples();
    let reply = host.send_to("hello.localhost", "GET", "/", &[], b"").read();
    assert_eq!((reply.status, reply.text().as_str()), (200, "Hello, world!\n"));
}
