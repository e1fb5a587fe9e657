//! Models on other servers, which here are scripts on loopback.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use host_inference::engine::{Availability, Engine, EngineConfig, LocalModel, LocalSource};
use host_inference::remote::{RemoteModel, Schemas};
use host_inference::{AiError, RunOutput, Task};
use host_upstream::Key;
use serde_json::{Value, json};

use crate::scripted::{Line, Scripted, Seen};
use crate::support::{json_of, request};

fn remote(urls: &[String], attempts: u32) -> RemoteModel {
    RemoteModel {
        addresses: urls.iter().map(|url| url.parse().unwrap()).collect(),
        model: "big".to_owned(),
        key: Key::bearer("sk-operator"),
        timeout: Duration::from_secs(60),
        attempts,
        concurrency: NonZeroUsize::new(64).unwrap(),
        dimensions: None,
        batch: NonZeroUsize::new(2).unwrap(),
        schemas: Schemas::JsonSchema,
        health: "/models".to_owned(),
    }
}

fn engine(task: Task, remote: RemoteModel) -> Engine {
    let folder = tempfile::tempdir().unwrap();
    let model = LocalModel { task: Some(task), ..LocalModel::new("@cf/remote/model", LocalSource::Remote(remote)) };
    // A budget of one byte: what is elsewhere takes none of it.
    let config = EngineConfig { models: vec![model], memory_bytes: Some(1), ..EngineConfig::new(folder.path()) };
    Engine::new(config).unwrap()
}

async fn run(engine: &Engine, inputs: Value) -> Result<Value, AiError> {
    engine.run(request("@cf/remote/model", inputs)).await.map(|response| json_of(response.output))
}

/// The events of a streamed answer, without padding.
async fn events(engine: &Engine, inputs: Value) -> Result<Vec<Value>, AiError> {
    let RunOutput::Stream { content_type, mut body } = engine.run(request("@cf/remote/model", inputs)).await?.output
    else {
        panic!("no stream");
    };
    assert_eq!(content_type, "text/event-stream");
    let mut text = String::new();
    while let Some(piece) = body.next().await {
        text.push_str(std::str::from_utf8(&piece.unwrap()).unwrap());
    }
    let events = text.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
    let parse = |event: &str| {
        let mut event: Value = serde_json::from_str(event).unwrap_or_else(|_| event.into());
        if let Some(event) = event.as_object_mut() {
            event.remove("p");
        }
        event
    };
    Ok(events.map(parse).collect())
}

fn chunk(delta: Value) -> String {
    json!({ "object": "chat.completion.chunk", "choices": [{ "index": 0, "delta": delta, "finish_reason": null }] })
        .to_string()
}

const USAGE: &str = r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}"#;

/// Says the last message again, streamed or not.
fn echo(_: usize, seen: &Seen, line: &mut Line) -> bool {
    let asked: Value = serde_json::from_str(&seen.body).unwrap();
    let said = asked["messages"]
        .as_array()
        .and_then(|messages| messages.last())
        .map_or("", |message| message["content"].as_str().unwrap());
    if asked["stream"] == true {
        line.begin_events();
        line.event(&chunk(json!({ "role": "assistant", "content": "" })));
        for word in said.split_inclusive(' ') {
            line.event(&chunk(json!({ "content": word })));
        }
        line.event(r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#);
        line.event(USAGE);
        line.end_events();
    } else {
        let answer = json!({ "choices": [{ "message": { "role": "assistant", "content": said }, "finish_reason": "stop" }],
            "usage": { "prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9 } });
        line.json(200, &answer.to_string());
    }
    true
}

#[tokio::test]
async fn a_server_answers_as_a_model_of_the_engine() {
    let server = Scripted::start(echo);
    let engine = engine(Task::TextGeneration, remote(&[server.url()], 1));
    let usage = json!({ "prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9 });
    let answer = run(&engine, json!({ "prompt": "hello you", "temperature": 0.2 })).await.unwrap();
    assert_eq!(answer, json!({ "response": "hello you", "usage": usage }));
    let streamed = events(&engine, json!({ "messages": [{ "role": "user", "content": "hello you" }], "stream": true }))
        .await
        .unwrap();
    let expected = [
        json!({ "response": "hello " }),
        json!({ "response": "you" }),
        json!({ "response": "", "usage": usage }),
        json!("[DONE]"),
    ];
    assert_eq!(streamed, expected);
    let seen = server.seen();
    assert_eq!(
        (seen[0].path.as_str(), seen[0].header("authorization")),
        ("/v1/chat/completions", Some("Bearer sk-operator"))
    );
    let asked: Value = serde_json::from_str(&seen[0].body).unwrap();
    assert_eq!((&asked["model"], &asked["temperature"]), (&json!("big"), &json!(0.2)));
    assert_eq!(server.connections(), 1, "the end of a stream keeps its connection");
    let listed = engine.models().into_iter().find(|model| model.name == "@cf/remote/model").unwrap();
    assert_eq!((listed.availability, listed.servers), (Availability::Remote, vec![server.url()]));
}

#[tokio::test]
async fn tools_go_both_ways() {
    let server = Scripted::start(|_, seen, line| {
        let asked: Value = serde_json::from_str(&seen.body).unwrap();
        assert_eq!(asked["tools"][0]["function"]["name"], "weather");
        assert_eq!(asked["tool_choice"], "required");
        let call = json!({ "index": 0, "id": "call_1", "type": "function", "function": { "name": "weather", "arguments": "{\"city\":" } });
        if asked["stream"] == true {
            line.begin_events();
            line.event(&chunk(json!({ "tool_calls": [call] })));
            line.event(&chunk(json!({ "tool_calls": [{ "index": 0, "function": { "arguments": "\"Oslo\"}" } }] })));
            line.event(USAGE);
            line.end_events();
        } else {
            let call = json!({ "id": "call_1", "function": { "name": "weather", "arguments": "{\"city\":\"Oslo\"}" } });
            line.json(
                200,
                &json!({ "choices": [{ "message": { "content": null, "tool_calls": [call] } }] }).to_string(),
            );
        }
        true
    });
    let engine = engine(Task::TextGeneration, remote(&[server.url()], 1));
    let tool = json!({ "name": "weather", "parameters": { "type": "object", "properties": { "city": { "type": "string" } } } });
    let inputs = |stream: bool| json!({ "messages": [{ "role": "user", "content": "?" }], "tools": [tool], "tool_choice": "required", "stream": stream });
    let calls = json!([{ "name": "weather", "arguments": { "city": "Oslo" } }]);
    let answer = run(&engine, inputs(false)).await.unwrap();
    assert_eq!((&answer["response"], &answer["tool_calls"]), (&Value::Null, &calls));
    let streamed = events(&engine, inputs(true)).await.unwrap();
    assert_eq!(streamed[0], json!({ "response": "", "tool_calls": calls }));
}

#[tokio::test]
async fn a_call_that_was_asked_for_and_does_not_come_is_an_error() {
    let server = Scripted::start(echo);
    let engine = engine(Task::TextGeneration, remote(&[server.url()], 1));
    let inputs = |stream: bool| {
        json!({ "messages": [{ "role": "user", "content": "text" }], "tools": [{ "name": "weather" }],
            "tool_choice": { "name": "weather" }, "stream": stream })
    };
    let error = run(&engine, inputs(false)).await.unwrap_err();
    assert!(error.code == 3043 && error.message.contains("'tool_choice'"), "{error}");
    let streamed = events(&engine, inputs(true)).await.unwrap();
    assert!(streamed.last().unwrap()["error"]["message"].as_str().unwrap().contains("'tool_choice'"), "{streamed:?}");
}

#[tokio::test]
async fn schemas_go_there_and_json_comes_back() {
    let server = Scripted::start(|_, seen, line| {
        let asked: Value = serde_json::from_str(&seen.body).unwrap();
        assert_eq!(asked["response_format"]["json_schema"]["schema"]["required"], json!(["a"]));
        line.json(200, &json!({ "choices": [{ "message": { "content": "{\"a\": 1}" } }] }).to_string());
        true
    });
    let engine = engine(Task::TextGeneration, remote(&[server.url()], 1));
    let format = json!({ "type": "json_schema", "json_schema": { "type": "object", "required": ["a"] } });
    let answer = run(&engine, json!({ "prompt": "?", "response_format": format })).await.unwrap();
    assert_eq!(answer["response"], json!({ "a": 1 }));
}

#[tokio::test]
async fn many_texts_go_in_batches_and_their_vectors_come_back_in_order() {
    let server = Scripted::start(|_, seen, line| {
        let asked: Value = serde_json::from_str(&seen.body).unwrap();
        let texts = asked["input"].as_array().unwrap();
        assert!(texts.len() <= 2);
        let vector = |text: &Value| text.as_str().unwrap().parse::<f32>().unwrap();
        // In the wrong order, as a server may.
        let data: Vec<Value> = texts
            .iter()
            .enumerate()
            .rev()
            .map(|(index, text)| json!({ "index": index, "embedding": [vector(text), 0.0] }))
            .collect();
        line.json(200, &json!({ "data": data, "usage": { "prompt_tokens": 3 } }).to_string());
        true
    });
    let engine = engine(Task::TextEmbeddings, remote(&[server.url()], 1));
    let answer = run(&engine, json!({ "text": ["1", "-2", "3", "-4", "5"] })).await.unwrap();
    assert_eq!(answer["shape"], json!([5, 2]));
    let signs: Vec<f64> = answer["data"].as_array().unwrap().iter().map(|vector| vector[0].as_f64().unwrap()).collect();
    assert_eq!(signs, [1.0, -1.0, 1.0, -1.0, 1.0]);
    assert_eq!(server.seen().len(), 3);
    assert_eq!(run(&engine, json!({ "text": "1", "pooling": "cls" })).await.unwrap_err().code, 5006);
}

#[tokio::test]
async fn a_stream_that_fails_before_its_first_word_is_tried_again_and_none_after() {
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = tries.clone();
    let server = Scripted::start(move |before, seen, line| {
        counted.fetch_add(1, Ordering::SeqCst);
        match before {
            0 => {
                line.begin_events();
                line.event(&chunk(json!({ "role": "assistant", "content": "" })));
                false
            }
            1 => echo(before, seen, line),
            _ => {
                line.begin_events();
                line.event(&chunk(json!({ "content": "half an" })));
                false
            }
        }
    });
    let engine = engine(Task::TextGeneration, remote(&[server.url()], 2));
    let inputs = json!({ "prompt": "whole", "stream": true });
    let streamed = events(&engine, inputs.clone()).await.unwrap();
    assert_eq!((&streamed[0], streamed.last()), (&json!({ "response": "whole" }), Some(&json!("[DONE]"))));
    assert_eq!(tries.load(Ordering::SeqCst), 2);
    let streamed = events(&engine, inputs).await.unwrap();
    assert_eq!(streamed[0], json!({ "response": "half an" }));
    assert_eq!(streamed[1]["error"]["code"], 3043, "told in band, without an end: {streamed:?}");
    assert_eq!((streamed.len(), tries.load(Ordering::SeqCst)), (2, 3));
}

#[tokio::test]
async fn one_of_two_servers_may_die_without_a_failed_request() {
    let (stays, dies) = (Scripted::start(echo), Scripted::start(echo));
    let engine = engine(Task::TextGeneration, remote(&[stays.url(), dies.url()], 3));
    let mut calls = Vec::new();
    for call in 0..40 {
        if call == 20 {
            dies.wait_for(1);
        }
        let engine = engine.clone();
        calls.push(tokio::spawn(async move { run(&engine, json!({ "prompt": format!("say {call}") })).await }));
        if call % 10 == 9 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    drop(dies);
    for (at, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.unwrap().unwrap()["response"], format!("say {at}"));
    }
    for call in 0..20 {
        assert!(run(&engine, json!({ "prompt": format!("say {call}") })).await.is_ok());
    }
}

#[tokio::test]
async fn what_servers_refuse_is_told_in_the_services_words() {
    for (status, code) in [(400, 5006), (401, 3046), (404, 3046), (413, 3006), (429, 3040), (500, 3043), (503, 3040)] {
        let server = Scripted::start(move |_, _, line| {
            line.json(status, r#"{"error":{"message":"no"}}"#);
            true
        });
        let engine = engine(Task::TextGeneration, remote(&[server.url()], 1));
        let error = run(&engine, json!({ "prompt": "?" })).await.unwrap_err();
        assert_eq!(error.code, code, "{status}: {error}");
        let address = server.address.to_string();
        assert!(!error.message.contains(&address), "a guest learns no address: {error}");
    }
}

#[tokio::test]
async fn hostile_answers_are_errors() {
    for body in ["", "{", "[]", r#"{"choices":[]}"#, r#"{"error":"broken"}"#] {
        let server = Scripted::start(move |_, _, line| {
            line.json(200, body);
            true
        });
        let engine = engine(Task::TextGeneration, remote(&[server.url()], 1));
        assert_eq!(run(&engine, json!({ "prompt": "?" })).await.unwrap_err().code, 3043, "{body}");
    }
    for event in ["{", r#"{"error":{"message":"out of memory"}}"#, &"x".repeat(2 << 20)] {
        let event = event.to_owned();
        let server = Scripted::start(move |_, _, line| {
            line.begin_events();
            line.event(&event);
            line.wait_for_close();
            false
        });
        let engine = engine(Task::TextGeneration, remote(&[server.url()], 1));
        assert_eq!(events(&engine, json!({ "prompt": "?", "stream": true })).await.unwrap_err().code, 3043);
    }
}

#[tokio::test]
async fn a_deadline_ends_a_server_that_hangs() {
    let server = Scripted::start(|_, seen, line| {
        if seen.body.contains("\"stream\":true") {
            line.begin_events();
            line.event(&chunk(json!({ "content": "so" })));
        }
        line.wait_for_close();
        false
    });
    let engine = engine(Task::TextGeneration, remote(&[server.url()], 3));
    let ask = |stream: bool| {
        let mut request = request("@cf/remote/model", json!({ "prompt": "?", "stream": stream }));
        request.options.insert("gateway".to_owned(), json!({ "id": "g", "requestTimeoutMs": 300 }));
        request
    };
    assert_eq!(engine.run(ask(false)).await.unwrap_err().code, 3007);
    let RunOutput::Stream { mut body, .. } = engine.run(ask(true)).await.unwrap().output else { panic!("no stream") };
    let mut text = String::new();
    while let Some(piece) = body.next().await {
        text.push_str(std::str::from_utf8(&piece.unwrap()).unwrap());
    }
    assert!(text.contains("\"so\"") && text.contains("3007") && !text.contains("[DONE]"), "{text}");
}

#[tokio::test]
async fn a_caller_who_leaves_closes_the_connection() {
    let closed = Arc::new(AtomicBool::new(false));
    let told = closed.clone();
    let server = Scripted::start(move |_, _, line| {
        line.begin_events();
        line.event(&chunk(json!({ "content": "so" })));
        line.wait_for_close();
        told.store(true, Ordering::SeqCst);
        false
    });
    let engine = engine(Task::TextGeneration, remote(&[server.url()], 1));
    let inputs = json!({ "prompt": "?", "stream": true });
    let RunOutput::Stream { mut body, .. } = engine.run(request("@cf/remote/model", inputs)).await.unwrap().output
    else {
        panic!("no stream");
    };
    assert!(body.next().await.is_some());
    drop(body);
    let ended = async {
        while !closed.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ended).await.expect("the server sees it");
}
