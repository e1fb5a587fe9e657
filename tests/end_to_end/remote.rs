//! A model on another server, as workers of both flavours call it.

use serde_json::{Value, json};

use crate::harness::{FLAVOURS, Host, command, guest};
use crate::scripted::{Line, Scripted, Seen};

fn model(_: usize, seen: &Seen, line: &mut Line) -> bool {
    let asked: Value = serde_json::from_str(&seen.body).unwrap();
    if asked["stream"] == true {
        line.begin_events();
        for word in ["good", " day"] {
            line.event(&json!({ "choices": [{ "delta": { "content": word } }] }).to_string());
        }
        line.event(r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#);
        line.end_events();
    } else {
        line.json(
            200,
            r#"{"choices":[{"message":{"content":"good day"}}],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#,
        );
    }
    true
}

#[test]
fn a_server_answers_under_a_models_name() {
    for flavour in FLAVOURS {
        let server = Scripted::start(model);
        let config = format!(
            "[ai]\nbinding = \"AI\"\n[[ai.models]]\nname = \"@cf/meta/llama-3.1-8b-instruct\"\nbackend = \"openai\"\n\
             url = {:?}\nmodel = \"big\"",
            server.url()
        );
        let host = Host::worker(&guest("ai", flavour), &config);
        let call = json!({ "model": "@cf/meta/llama-3.1-8b-instruct", "inputs": { "prompt": "hello" } });
        let usage = json!({ "prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5 });
        assert_eq!(host.post("/run", &call).json(), json!({ "response": "good day", "usage": usage }), "{flavour}");
        let read = host.post("/events", &call).json();
        assert_eq!((&read["text"], &read["usage"]), (&json!("good day"), &usage), "{flavour}");
        let streamed = host.post("/stream", &call).text();
        assert!(streamed.ends_with("data: [DONE]\n\n"), "{flavour}: {streamed}");

        let listed = command().current_dir(host.folder()).args(["models", "list", "--json"]).output().unwrap();
        let listed: Vec<Value> = serde_json::from_slice(&listed.stdout).unwrap();
        let found = listed.iter().find(|model| model["name"] == "@cf/meta/llama-3.1-8b-instruct").unwrap();
        assert_eq!((&found["availability"], &found["servers"]), (&json!("remote"), &json!([server.url()])));
    }
}
