//! Providers behind a gateway that are odd, slow, broken or curious, and inputs that are bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde_json::{Value, json};

use crate::gateway::{ask, chat, served, step};
use crate::harness::{FLAVOURS, Host, PATIENCE, command};
use crate::scripted::{Scripted, Seen};

/// The key that `served` gives the provider.
const KEY: &str = "sk-operator";

fn with(mut step: Value, headers: &[(&str, &str)]) -> Value {
    for (name, value) in headers {
        step["headers"][*name] = json!(value);
    }
    step
}

/// What the operator reads of the log, the oldest entry first.
fn logged(host: &Host) -> Vec<Value> {
    let printed = command().current_dir(host.folder()).args(["gateway", "logs", "--json"]).output().unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn cached(host: &Host, steps: &[Value]) -> Option<String> {
    let reply = ask(host, steps);
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.header("cf-aig-cache-status").map(str::to_owned)
}

#[test]
fn a_question_that_means_the_same_has_the_same_answer() {
    let server = Scripted::start(chat);
    let gateway = "[[ai.gateways]]\nid = \"front\"\nsimilar_model = \"all-minilm-l6-v2\"\nsimilar_percent = 90";
    let host = served("p2", &server.url(), gateway);
    let asked = |system: &str, question: &str| {
        let messages = json!([{ "role": "system", "content": system }, { "role": "user", "content": question }]);
        [step("elsewhere", "chat/completions", &json!({ "model": "big", "messages": messages }))]
    };
    for (system, question, expected) in [
        ("be brief", "How do I reset my password?", "MISS"),
        ("be brief", "How can I reset my password?", "HIT"),
        ("be brief", "What is the capital of France?", "MISS"),
        ("be verbose", "How can I reset my password?", "MISS"),
    ] {
        assert_eq!(cached(&host, &asked(system, question)).as_deref(), Some(expected), "{system}: {question}");
    }
    assert_eq!(server.seen().len(), 3);
}

#[test]
fn anthropics_interface_is_passed_on_and_understood_by_the_log() {
    for flavour in FLAVOURS {
        let server = Scripted::start(|_, seen, line| {
            let asked: Value = serde_json::from_str(&seen.body).unwrap();
            if asked["stream"] != true {
                let call = json!({ "type": "tool_use", "id": "t1", "name": "look", "input": { "at": "sky" } });
                let usage = json!({ "input_tokens": 2000, "output_tokens": 500 });
                line.json(200, &json!({ "content": [call], "stop_reason": "tool_use", "usage": usage }).to_string());
                return true;
            }
            line.begin_events();
            for event in [
                json!({ "type": "message_start", "message": { "usage": { "input_tokens": 2000, "output_tokens": 1 } } }),
                json!({ "type": "content_block_delta", "delta": { "type": "input_json_delta", "partial_json": "{}" } }),
                json!({ "type": "message_delta", "usage": { "output_tokens": 500 } }),
            ] {
                line.event(&event.to_string());
            }
            line.event(r#"{"type":"message_stop"}"#);
            line.raw("0\r\n\r\n");
            true
        });
        let lines = format!(
            "[[ai.providers]]\nname = \"claude\"\nkind = \"anthropic\"\nurl = {:?}\nkey = \"PROVIDER_KEY\"\n\
             [[ai.gateways]]\nid = \"front\"\nprices = {{ big = {{ input = 3.0, output = 4.0 }} }}",
            server.url()
        );
        let host = served(flavour, &server.url(), &lines);
        let asked = |stream: bool| {
            let messages = json!([{ "role": "user", "content": "?" }]);
            let query = json!({ "model": "big", "max_tokens": 9, "messages": messages, "stream": stream });
            let mine = [("x-api-key", "mine"), ("anthropic-beta", "tools")];
            [with(step("claude", "messages", &query), &mine)]
        };
        let whole = ask(&host, &asked(false));
        assert_eq!(whole.json()["content"][0]["input"]["at"], "sky", "{flavour}: {}", whole.text());
        let streamed = ask(&host, &asked(true));
        assert!(streamed.text().contains("input_json_delta") && streamed.complete, "{flavour}: {}", streamed.text());
        let seen = &server.seen()[0];
        assert_eq!((seen.path.as_str(), seen.header("x-api-key")), ("/v1/messages", Some(KEY)), "{flavour}");
        assert_eq!(seen.header("anthropic-beta"), Some("tools"), "{flavour}");
        assert!(seen.header("anthropic-version").is_some() && seen.header("authorization").is_none(), "{seen:?}");
        for log in logged(&host) {
            let tokens = (&log["tokens_in"], &log["tokens_out"], &log["cost"], &log["success"]);
            assert_eq!(tokens, (&json!(2000), &json!(500), &json!(0.008), &json!(true)), "{flavour}: {log}");
        }
        assert_eq!(cached(&host, &asked(true)).as_deref(), Some("HIT"), "{flavour}");
    }
}

#[test]
fn the_hosts_models_answer_in_openais_shape_too() {
    for flavour in FLAVOURS {
        let host = served(flavour, "http://127.0.0.1:1/v1", "");
        let asked = |stream: bool| {
            let messages = json!([{ "role": "user", "content": "?" }]);
            let query = json!({ "model": "local", "messages": messages, "stream": stream });
            [step("workers-ai", "v1/chat/completions", &query)]
        };
        let whole = ask(&host, &asked(false)).json();
        let choice = &whole["choices"][0];
        assert_eq!((&choice["message"]["content"], &choice["finish_reason"]), (&json!("from here"), &json!("stop")));
        let streamed = ask(&host, &asked(true)).text();
        let data: Vec<&str> = streamed.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).collect();
        let (done, chunks) = data.split_last().unwrap();
        let chunks: Vec<Value> = chunks.iter().map(|chunk| serde_json::from_str(chunk).unwrap()).collect();
        let text = |chunk: &Value| chunk["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_owned();
        assert_eq!((chunks.iter().map(text).collect::<String>().as_str(), *done), ("from here", "[DONE]"), "{flavour}");
        assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "stop", "{flavour}: {streamed}");
        let unknown = ask(&host, &[step("workers-ai", "v1/chat/completions", &json!({ "model": "nothing" }))]);
        assert_eq!((unknown.status, &unknown.json()["errors"][0]["code"]), (400, &json!(5007)), "{flavour}");
        let logs = logged(&host);
        let told = (&logs[1]["model"], &logs[1]["tokens_out"], &logs[1]["success"]);
        assert_eq!(told, (&json!("local"), &json!(2), &json!(true)), "{flavour}");
    }
}

#[test]
fn limits_say_when_there_is_room_again() {
    for flavour in FLAVOURS {
        let server = Scripted::start(|before, seen, line| {
            if before == 0 {
                return chat(before, seen, line);
            }
            line.answer(429, "application/json", "retry-after: 30\r\n", r#"{"error":"too fast"}"#);
            true
        });
        let limit = "rate_limit = { requests = 2, window_s = 3600, technique = \"fixed\" }";
        let host = served(flavour, &server.url(), &format!("[[ai.gateways]]\nid = \"front\"\n{limit}"));
        let asked = |question: &str| ask(&host, &[step("elsewhere", "completions", &json!({ "prompt": question }))]);
        assert_eq!(asked("a").status, 200, "{flavour}");
        let refused = asked("b");
        assert_eq!((refused.status, refused.header("retry-after")), (429, Some("30")), "{flavour}: {}", refused.text());
        let limited = asked("c");
        let seconds: u64 = limited.header("retry-after").unwrap().parse().unwrap();
        assert!(limited.status == 429 && (1..=3600).contains(&seconds), "{flavour}: {limited:?}");
        assert_eq!(limited.json()["errors"][0]["code"], 2003, "{flavour}");
        assert_eq!(server.seen().len(), 2, "{flavour}: a call past the limit asks nobody");
    }
}

#[test]
fn a_step_is_tried_as_often_as_it_says() {
    for flavour in FLAVOURS {
        let server = Scripted::start(|before, seen, line| match before {
            0 | 3 => {
                line.json(503, "{}");
                true
            }
            1 => {
                line.answer(429, "application/json", "retry-after: 0\r\n", "{}");
                true
            }
            _ => chat(before, seen, line),
        });
        let host = served(flavour, &server.url(), "");
        let tries = |most: &str, backoff: &str| {
            let headers = [("cf-aig-max-attempts", most), ("cf-aig-retry-delay", "1"), ("cf-aig-backoff", backoff)];
            ask(&host, &[with(step("elsewhere", "completions", &json!({ "prompt": backoff })), &headers)])
        };
        assert_eq!(tries("3", "exponential").status, 200, "{flavour}");
        assert_eq!(server.seen().len(), 3, "{flavour}");
        assert_eq!(tries("1", "constant").status, 503, "{flavour}");
        assert_eq!(server.seen().len(), 4, "{flavour}");
        assert_eq!(tries("6", "constant").status, 400, "{flavour}: more than may be asked for");
    }
}

#[test]
fn a_provider_that_hangs_is_left_in_the_time_that_the_call_gives_it() {
    for flavour in FLAVOURS {
        let left = Arc::new(AtomicBool::new(false));
        let told = left.clone();
        let server = Scripted::start(move |_, _, line| {
            line.wait_for_close();
            told.store(true, Ordering::SeqCst);
            false
        });
        let host = served(flavour, &server.url(), "");
        let query = json!({ "prompt": "a" });
        let slow = with(step("elsewhere", "completions", &query), &[("cf-aig-request-timeout", "100")]);
        let alone = ask(&host, std::slice::from_ref(&slow));
        assert_eq!(alone.status, 504, "{flavour}: {}", alone.text());
        assert!(alone.text().contains("elsewhere"), "{flavour}: {}", alone.text());
        let reply = ask(&host, &[slow, step("workers-ai", "local", &query)]);
        assert_eq!((reply.status, reply.header("cf-aig-step")), (200, Some("1")), "{flavour}: {}", reply.text());
        let start = Instant::now();
        while !left.load(Ordering::SeqCst) {
            assert!(start.elapsed() < PATIENCE, "{flavour}: its connection stays open");
        }
    }
}

#[test]
fn answers_that_are_not_what_they_say_are_errors_and_nobody_elses_answer() {
    for flavour in FLAVOURS {
        let server = Scripted::start(|before, seen, line| match before {
            0 => {
                line.raw("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{}");
                false
            }
            1 => {
                // More than it says, in the shape of the next answer.
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ";
                line.raw(&format!("{head}2\r\n\r\n{{}}{head}7\r\n\r\n\"false\""));
                true
            }
            2 => chat(before, seen, line),
            3 => {
                line.begin_events();
                line.raw("7\r\nfield\n\n\r\n0\r\n\r\n");
                true
            }
            _ => {
                line.begin_events();
                line.event("half");
                false
            }
        });
        let host = served(flavour, &server.url(), "");
        let asked = |question: &str| ask(&host, &[step("elsewhere", "completions", &json!({ "prompt": question }))]);
        let short = asked("a");
        assert_eq!(short.status, 502, "{flavour}: {}", short.text());
        assert!(!short.text().contains("127.0.0.1"), "{flavour}: {}", short.text());
        assert_eq!(asked("b").text(), "{}", "{flavour}");
        assert_eq!(asked("c").json()["choices"][0]["message"]["content"], "from there", "{flavour}");
        for question in ["d", "e"] {
            let before = server.seen().len();
            asked(question);
            let log = logged(&host).pop().unwrap();
            assert_eq!((&log["success"], &log["ended"]), (&json!(false), &json!(true)), "{flavour}: {log}");
            asked(question);
            assert_eq!(server.seen().len(), before + 2, "{flavour}: what is not whole is not kept");
        }
    }
}

/// A provider that shows what it was sent.
fn curious(before: usize, seen: &Seen, line: &mut crate::scripted::Line) -> bool {
    let key = seen.header("authorization").unwrap_or_default();
    match before {
        0 => line.json(401, &format!(r#"{{"error":"{key} is no key"}}"#)),
        1 => line.answer(200, "application/json", &format!("x-echo: {key}\r\n"), &format!(r#"{{"sent":"{key}"}}"#)),
        2 => line.answer(200, &format!("text/plain; {key}"), "", key),
        3 => line.json(500, &format!(r#"{{"error":"{key}"}}"#)),
        _ => {
            line.begin_events();
            for part in key.as_bytes().chunks(4) {
                line.raw(&format!("{:x}\r\n{}\r\n", part.len(), String::from_utf8_lossy(part)));
            }
            line.raw("2\r\n\n\n\r\n");
            line.end_events();
        }
    }
    true
}

#[test]
fn a_worker_never_reads_a_key_whatever_a_provider_does_with_it() {
    for flavour in FLAVOURS {
        let server = Scripted::start(curious);
        let host = served(flavour, &server.url(), "");
        for answer in 0..5 {
            let reply = ask(&host, &[step("elsewhere", "completions", &json!({ "n": answer }))]);
            assert!(!format!("{:?} {}", reply.headers, reply.text()).contains(KEY), "{flavour}: {reply:?}");
            let shown = reply.text().contains("[key]");
            assert!(shown, "{flavour}, {answer}: {}", reply.text());
            if let Some(id) = reply.header("cf-aig-log-id") {
                let log = host.post("/log", &json!({ "model": "front", "inputs": id, "options": null }));
                assert!(log.status == 200 && !log.text().contains(KEY), "{flavour}: {}", log.text());
            }
        }
        let all = Value::from(logged(&host)).to_string();
        assert!(!all.contains(KEY) && !host.log().contains(KEY), "{flavour}: {all}");
        assert!(server.seen().iter().all(|seen| seen.header("authorization").is_some_and(|key| key.ends_with(KEY))));
    }
}

#[test]
fn inputs_that_are_bytes_are_cached_limited_and_logged_without_them() {
    for flavour in FLAVOURS {
        let lines = "[[ai.models]]\nname = \"ears\"\nbackend = \"mock\"\ntask = \"automatic-speech-recognition\"\n\
            mock = { reply = \"{prompt} bytes\" }\n\
            [[ai.models]]\nname = \"brush\"\nbackend = \"mock\"\ntask = \"text-to-image\"\n\
            [[ai.gateways]]\nid = \"front\"\nrate_limit = { requests = 5, window_s = 3600, technique = \"fixed\" }";
        let host = served(flavour, "http://127.0.0.1:1/v1", lines);
        let options = json!({ "gateway": { "id": "front", "cacheTtl": 60 } });
        let hear = |bytes: &[u8]| {
            let audio = json!({ "property": "audio", "bytes": bytes, "contentType": "audio/wav" });
            host.post("/run", &json!({ "model": "ears", "inputs": {}, "attachments": [audio], "options": options }))
        };
        let first = hear(b"one");
        assert_eq!((first.status, &first.json()["text"]), (200, &json!("3 bytes")), "{flavour}: {}", first.text());
        assert_eq!(hear(b"one").json(), first.json(), "{flavour}");
        assert_eq!(hear(b"two").json(), first.json(), "{flavour}");
        let inputs = json!({ "prompt": "a cat", "width": 64, "height": 64 });
        let draw = || host.post("/run", &json!({ "model": "brush", "inputs": inputs, "options": options }));
        let picture = draw();
        assert_eq!(draw().body, picture.body, "{flavour}");
        assert_eq!(hear(b"one").status, 429, "{flavour}");

        let logs = logged(&host);
        let of = |name: &str| logs.iter().map(|log| log[name].clone()).collect::<Vec<_>>();
        assert_eq!(Value::from(of("cached")), json!([false, true, false, false, true]), "{flavour}: {logs:?}");
        let described = json!({ "audio": { "content_type": "audio/wav", "size": 3 } });
        let head: Value = serde_json::from_str(logs[0]["request_head"].as_str().unwrap()).unwrap();
        assert_eq!((head, &logs[3]["response_head"]), (described, &Value::Null), "{flavour}");
        assert_eq!(logs[3]["response_size"], picture.body.len(), "{flavour}");
    }
}
