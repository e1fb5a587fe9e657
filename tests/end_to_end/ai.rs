//! `env.AI` over the mock backend: streams, cancellation, grants and crowds.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{FLAVOURS, Host, PATIENCE, guest};

/// A worker with an AI binding and a scripted model `scripted`.
fn scripted(flavour: &str, script: &str) -> Host {
    Host::worker(
        &guest("ai", flavour),
        &format!(
            "[ai]\nbinding = \"AI\"\n[[ai.models]]\nname = \"scripted\"\ntask = \"text-generation\"\nbackend = \"mock\"\n\
             [ai.models.mock]\n{script}\n"
        ),
    )
}

fn call(prompt: &str) -> serde_json::Value {
    json!({ "model": "scripted", "inputs": { "prompt": prompt } })
}

#[test]
fn the_first_piece_of_a_stream_leaves_before_the_last_is_made() {
    for flavour in FLAVOURS {
        let host = scripted(flavour, "reply = \"one two three four five\"\ndelay_ms = 200");
        let body = call("x").to_string();
        let mut head = host.send("POST", "/stream", &[], body.as_bytes()).head();
        assert_eq!(head.status, 200, "{flavour}");
        assert_eq!(head.header("content-type"), Some("text/event-stream"), "{flavour}");
        let mut text = String::from_utf8(head.piece().unwrap().unwrap()).unwrap();
        assert!(text.starts_with("data: {") && !text.contains("[DONE]"), "{flavour}: not a piece but all: {text}");
        while let Some(piece) = head.piece().unwrap() {
            text.push_str(&String::from_utf8(piece).unwrap());
        }
        assert!(text.ends_with("data: [DONE]\n\n"), "{flavour}: {text}");
    }
}

#[test]
fn whole_streamed_and_read_answers_are_the_same() {
    for flavour in FLAVOURS {
        let host = scripted(flavour, "reply = \"you said {prompt} twice\"");
        let whole = host.post("/run", &call("héllo 🙂")).json();
        let read = host.post("/events", &call("héllo 🙂")).json();
        assert_eq!(whole["response"], json!("you said héllo 🙂 twice"), "{flavour}");
        assert_eq!(read["text"], whole["response"], "{flavour}");
        assert_eq!(read["usage"], whole["usage"], "{flavour}");
    }
}

#[test]
fn parallel_calls_run_in_parallel() {
    for flavour in FLAVOURS {
        let host = scripted(flavour, "reply = \"a b c d\"\ndelay_ms = 250");
        let outputs = host.post("/parallel?n=8", &call("x")).json();
        assert_eq!(outputs["outputs"].as_array().map(Vec::len), Some(8), "{flavour}: {outputs}");
        host.wait_for_log("generation ended");
        let log = host.log();
        let before_the_first_end = log.split("generation ended").next().unwrap();
        assert_eq!(before_the_first_end.matches("generation started").count(), 8, "{flavour}: {log}");
    }
}

#[test]
fn a_client_that_leaves_cancels_the_generation() {
    for flavour in FLAVOURS {
        let host = scripted(flavour, "reply = \"word\"\ntokens = 100000\ndelay_ms = 20");
        let body = call("x").to_string();
        let mut head = host.send("POST", "/stream", &[], body.as_bytes()).head();
        assert!(head.piece().unwrap().is_some());
        host.wait_for_log("generation started");
        assert!(!host.log().contains("generation ended"), "{flavour}");
        drop(head);
        host.wait_for_log("generation ended");
    }
}

#[test]
fn a_dropped_call_cancels_the_generation() {
    for flavour in FLAVOURS {
        let host = scripted(flavour, "reply = \"word\"\ntokens = 100000\ndelay_ms = 20");
        assert_eq!(host.post("/cancel?ms=200", &call("x")).text(), "cancelled", "{flavour}");
        host.wait_for_log("generation ended");
        assert_eq!(host.post("/first", &call("x")).status, 200, "{flavour}");
    }
}

#[test]
fn two_hundred_streams_at_once_lose_nothing() {
    const STREAMS: usize = 200;
    const TOKENS: usize = 50;
    for flavour in FLAVOURS {
        let host = scripted(flavour, &format!("reply = \"word\"\ntokens = {TOKENS}\ndelay_ms = 5"));
        let body = call("x").to_string();
        let whole = std::thread::scope(|scope| {
            let streams: Vec<_> = (0..STREAMS)
                .map(|_| scope.spawn(|| host.send("POST", "/stream", &[], body.as_bytes()).read()))
                .collect();
            streams.into_iter().map(|stream| stream.join().unwrap()).collect::<Vec<_>>()
        });
        for reply in whole {
            assert_eq!(reply.status, 200, "{flavour}: {}", reply.text());
            assert!(reply.complete && reply.text().ends_with("data: [DONE]\n\n"), "{flavour}: {}", reply.text());
            // Beside each token stand random letters, which may spell the word too.
            assert_eq!(reply.text().matches(r#"word","p""#).count(), TOKENS, "{flavour}");
        }
        let start = Instant::now();
        while host.log().matches("generation ended").count() < STREAMS {
            assert!(start.elapsed() < PATIENCE, "{flavour}: generations are left");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn a_narrowed_grant_refuses_other_models() {
    for flavour in FLAVOURS {
        let host = Host::worker(
            &guest("ai", flavour),
            "[ai]\nbinding = \"AI\"\nmodels = [\n\"allowed\",\n\
             { name = \"allowed\", task = \"text-generation\", backend = \"mock\" },\n\
             { name = \"other\", task = \"text-generation\", backend = \"mock\" },\n]\n",
        );
        let call = |model: &str| host.post("/run", &json!({ "model": model, "inputs": { "prompt": "hi" } }));
        assert_eq!(call("allowed").json()["response"], json!("hi"), "{flavour}");
        let refused = call("other");
        assert_eq!(refused.status, 403, "{flavour}: {}", refused.text());
        assert_eq!(refused.json()["error"]["code"], json!(5018), "{flavour}");
    }
}

#[test]
fn a_failing_model_fails_in_band_once_a_stream_has_begun() {
    for flavour in FLAVOURS {
        let host =
            scripted(flavour, "reply = \"a b c d\"\nfail = { code = 3043, message = \"on purpose\", after = 2 }");
        let text = host.post("/stream", &call("x")).text();
        assert!(text.contains("\"error\"") && text.contains("3043"), "{flavour}: {text}");
        assert!(!text.contains("[DONE]"), "{flavour}: {text}");
        let whole = host.post("/run", &call("x"));
        assert_eq!(whole.json()["error"]["code"], json!(3043), "{flavour}: {}", whole.text());
        assert_eq!(scripted(flavour, "reply = \"fine\"").post("/run", &call("x")).status, 200, "{flavour}");
    }
}

/// Writes a LoRA adapter for SmolLM2 into a folder: rank 1 on the output of one layer's attention.
fn write_adapter(folder: &std::path::Path) {
    const WIDTH: usize = 576;
    let tensor = |part: &str, shape: [usize; 2], offset: usize| {
        let name = format!("base_model.model.model.layers.3.self_attn.o_proj.lora_{part}.weight");
        (name, json!({ "dtype": "F32", "shape": shape, "data_offsets": [offset, offset + WIDTH * 4] }))
    };
    let tensors = [tensor("A", [1, WIDTH], 0), tensor("B", [WIDTH, 1], WIDTH * 4)];
    let header = json!(tensors.into_iter().collect::<std::collections::BTreeMap<_, _>>()).to_string();
    let values = (0..2 * WIDTH).flat_map(|i| ((i as f32 * 0.7).sin() * 0.5).to_le_bytes());
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.into_bytes().into_iter().chain(values));
    std::fs::write(folder.join("adapter_model.safetensors"), file).unwrap();
    let config = json!({ "peft_type": "LORA", "r": 1, "lora_alpha": 2 });
    std::fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
}

#[test]
fn a_request_may_name_an_adapter_that_its_worker_may_use() {
    let folder = tempfile::tempdir().unwrap();
    write_adapter(folder.path());
    let table = |name: &str| {
        let path = json!(folder.path());
        format!("{{ name = \"{name}\", path = {path}, models = [\"smollm2-135m-instruct\"] }}")
    };
    let start = |narrowed: &str| {
        let lines =
            format!("[ai]\nbinding = \"AI\"\nloras = [{narrowed}\n{},\n{},\n]\n", table("style"), table("other"));
        Host::worker(&guest("ai", FLAVOURS[0]), &lines)
    };
    let ask = |host: &Host, lora: Option<&str>| {
        let inputs =
            json!({ "prompt": "The boat", "raw": true, "temperature": 0, "max_tokens": 12, "seed": 1, "lora": lora });
        host.post("/run", &json!({ "model": "smollm2-135m-instruct", "inputs": inputs }))
    };

    let host = start("");
    let plain = ask(&host, None).json()["response"].clone();
    let changed = ask(&host, Some("style"));
    assert_eq!(changed.status, 200, "{}", changed.text());
    assert_ne!(changed.json()["response"], plain);
    assert_eq!(ask(&host, Some("other")).json()["response"], changed.json()["response"]);
    assert_eq!(ask(&host, None).json()["response"], plain);
    let unknown = ask(&host, Some("stile"));
    assert_eq!((unknown.status, &unknown.json()["error"]["code"]), (400, &json!(5006)), "{}", unknown.text());
    assert!(unknown.text().contains("did you mean") && unknown.text().contains("[[ai.loras]]"), "{}", unknown.text());

    let narrowed = start("\"style\",");
    let refused = ask(&narrowed, Some("other"));
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (403, &json!(5018)), "{}", refused.text());
    assert!(refused.text().contains("loras = "), "{}", refused.text());
    assert_eq!(ask(&narrowed, Some("style")).json()["response"], changed.json()["response"]);
}
