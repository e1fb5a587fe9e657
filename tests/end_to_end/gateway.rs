//! The gateway with a provider on loopback, and batches across a restart, in both flavours of WASI.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{FLAVOURS, Host, PATIENCE, Reply, command, guest, workspace};
use crate::scripted::{Line, Scripted, Seen};

/// A worker with a provider `elsewhere` at `url`, whose key is a line of the secrets file, and more lines.
pub(crate) fn served(flavour: &str, url: &str, lines: &str) -> Host {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(".dev.vars"), "PROVIDER_KEY=sk-operator\nOWN=mine\n").unwrap();
    let main = guest("ai", flavour).display().to_string();
    let config = format!(
        "name = \"w\"\nmain = {main:?}\n[ai]\nbinding = \"AI\"\n[[ai.models]]\nname = \"local\"\nbackend = \"mock\"\n\
         mock = {{ reply = \"from here\" }}\n[[ai.providers]]\nname = \"elsewhere\"\nurl = {url:?}\nkey = \"PROVIDER_KEY\"\n\
         max_attempts = 1\n{lines}\n"
    );
    std::fs::write(folder.path().join("wrangler.toml"), config).unwrap();
    Host::launch(folder, "serve", &[]).unwrap_or_else(|ended| panic!("the host ended: {ended:?}"))
}

pub(crate) fn step(provider: &str, endpoint: &str, query: &Value) -> Value {
    json!({ "provider": provider, "endpoint": endpoint, "headers": { "cf-aig-cache-ttl": "60" }, "query": query })
}

pub(crate) fn ask(host: &Host, steps: &[Value]) -> Reply {
    host.post("/gateway", &json!({ "model": "front", "inputs": steps }))
}

pub(crate) fn chat(_: usize, _: &Seen, line: &mut Line) -> bool {
    let answer = json!({ "choices": [{ "message": { "content": "from there" } }], "usage": { "prompt_tokens": 1000, "completion_tokens": 500 } });
    line.json(200, &answer.to_string());
    true
}

#[test]
fn a_provider_gets_the_hosts_key_and_the_log_what_it_cost() {
    for flavour in FLAVOURS {
        let server = Scripted::start(chat);
        let prices = "[[ai.gateways]]\nid = \"front\"\nprices = { big = { input = 2.0, output = 4.0 } }\nredact = [\"messages\"]";
        let host = served(flavour, &server.url(), prices);
        let query = json!({ "model": "big", "messages": [{ "role": "user", "content": "a secret" }] });
        let reply = ask(&host, &[step("elsewhere", "chat/completions", &query)]);
        assert_eq!(reply.status, 200, "{flavour}: {}", reply.text());
        assert_eq!(reply.json()["choices"][0]["message"]["content"], "from there");
        assert_eq!(reply.header("cf-aig-cache-status"), Some("MISS"));
        let id = reply.header("cf-aig-log-id").unwrap().to_owned();

        let seen = &server.seen()[0];
        assert_eq!(
            (seen.path.as_str(), seen.header("authorization")),
            ("/v1/chat/completions", Some("Bearer sk-operator"))
        );
        assert_eq!(serde_json::from_str::<Value>(&seen.body).unwrap(), query);
        let table = host.log();
        assert!(
            table.contains("env.OWN") && !table.contains("PROVIDER_KEY") && !table.contains("sk-operator"),
            "{table}"
        );

        let log = host.post("/log", &json!({ "model": "front", "inputs": id, "options": { "score": 7 } })).json();
        assert_eq!((&log["tokens_in"], &log["tokens_out"], &log["cost"]), (&json!(1000), &json!(500), &json!(0.004)));
        assert_eq!((&log["model"], &log["score"], &log["success"]), (&json!("big"), &json!(7.0), &json!(true)));
        assert!(!log.to_string().contains("a secret"), "{log}");
        let again = ask(&host, &[step("elsewhere", "chat/completions", &query)]);
        assert_eq!((again.header("cf-aig-cache-status"), again.text()), (Some("HIT"), reply.text()));
        assert_eq!(server.seen().len(), 1);

        let printed =
            command().current_dir(host.folder()).args(["gateway", "logs", "--json", "--gateway", "front"]).output();
        let printed = String::from_utf8(printed.unwrap().stdout).unwrap();
        let lines: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{printed}");
        assert_eq!((&lines[0]["id"], &lines[1]["cached"], &lines[1]["cost"]), (&json!(id), &json!(true), &json!(0.0)));
    }
}

#[test]
fn a_run_through_a_gateway_and_a_providers_address_share_its_log() {
    for flavour in FLAVOURS {
        let server = Scripted::start(chat);
        let host = served(flavour, &server.url(), "");
        let run = json!({
            "model": "local", "inputs": { "prompt": "a" },
            "options": { "gateway": { "id": "front", "cacheTtl": 60, "metadata": { "user": 7 } } },
        });
        for _ in 0..2 {
            assert_eq!(host.post("/run", &run).json()["response"], "from here", "{flavour}");
        }
        let query = json!({ "model": "big", "messages": [] });
        let mut asked = step("elsewhere", "chat/completions", &query);
        for cached in ["MISS", "HIT"] {
            let reply = host.post("/gateway-url", &json!({ "model": "front", "inputs": asked }));
            assert_eq!(reply.json()["choices"][0]["message"]["content"], "from there", "{flavour}");
            assert_eq!(reply.header("cf-aig-cache-status"), Some(cached), "{flavour}");
        }
        asked["headers"] = json!({ "cf-aig-skip-cache": "true", "cf-aig-collect-log": "false" });
        let reply = host.post("/gateway-url", &json!({ "model": "front", "inputs": asked }));
        assert_eq!(reply.status, 200, "{flavour}: {}", reply.text());
        assert_eq!((server.seen().len(), reply.header("cf-aig-log-id")), (2, None), "{flavour}");

        let printed = command().current_dir(host.folder()).args(["gateway", "logs", "--json"]).output().unwrap();
        let printed = String::from_utf8(printed.stdout).unwrap();
        let lines: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let told: Vec<_> = lines.iter().map(|log| (log["provider"].as_str().unwrap(), log["cached"] == true)).collect();
        let expected = [("workers-ai", false), ("workers-ai", true), ("elsewhere", false), ("elsewhere", true)];
        assert_eq!(told, expected, "{flavour}");
        assert_eq!(lines[0]["metadata"], json!({ "user": 7 }), "{flavour}");
    }
}

#[test]
fn a_local_model_answers_for_a_provider_that_fails() {
    for flavour in FLAVOURS {
        let server = Scripted::start(|_, _, line| {
            line.json(500, "{}");
            true
        });
        let host = served(flavour, &server.url(), "");
        let query = json!({ "prompt": "a" });
        let reply = ask(&host, &[step("elsewhere", "completions", &query), step("workers-ai", "local", &query)]);
        assert_eq!((reply.status, reply.header("cf-aig-step")), (200, Some("1")), "{flavour}: {}", reply.text());
        assert_eq!(reply.json()["result"]["response"], "from here");
        let failed = ask(&host, &[step("elsewhere", "completions", &query)]);
        assert_eq!(failed.status, 500, "{flavour}: {}", failed.text());
        assert!(!failed.text().contains("127.0.0.1"), "a worker learns no address: {}", failed.text());
    }
}

#[test]
fn a_stream_is_kept_once_it_has_ended_whole() {
    for flavour in FLAVOURS {
        let server = Scripted::start(|before, _, line| {
            line.begin_events();
            line.event(r#"{"choices":[{"delta":{"content":"one"}}]}"#);
            if before == 0 {
                // It breaks off, and is not kept.
                return false;
            }
            line.event(r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}"#);
            line.end_events();
            true
        });
        let host = served(flavour, &server.url(), "");
        let steps = [step("elsewhere", "chat/completions", &json!({ "model": "big", "stream": true }))];
        assert!(!ask(&host, &steps).text().contains("[DONE]"), "{flavour}");
        let whole = ask(&host, &steps);
        assert_eq!((whole.header("cf-aig-cache-status"), whole.complete), (Some("MISS"), true), "{flavour}");
        assert!(whole.text().ends_with("data: [DONE]\n\n"), "{flavour}: {}", whole.text());
        // The end of the stream is kept after it was given.
        let start = Instant::now();
        let kept = loop {
            let reply = ask(&host, &steps);
            if reply.header("cf-aig-cache-status") == Some("HIT") {
                break reply;
            }
            assert!(start.elapsed() < PATIENCE, "{flavour}: it is never kept");
        };
        assert_eq!(kept.text(), whole.text(), "{flavour}");
        assert_eq!(kept.header("content-type"), Some("text/event-stream"));
    }
}

/// A worker with a model that takes its time, whose state lies in `state`.
fn queueing(flavour: &str, state: &Path, delay: u32) -> Host {
    let main = guest("ai", flavour).display().to_string();
    let config = format!(
        "name = \"w\"\nmain = {main:?}\n[ai]\nbinding = \"AI\"\n[[ai.models]]\nname = \"local\"\nbackend = \"mock\"\n\
         mock = {{ reply = \"{{prompt}}\", delay_ms = {delay} }}\n"
    );
    Host::start(&config, &["--persist-to", &state.display().to_string()])
}

#[test]
fn a_batch_outlives_the_process() {
    for flavour in FLAVOURS {
        let state = tempfile::tempdir().unwrap();
        let host = queueing(flavour, state.path(), 600_000);
        let requests = json!({ "requests": [{ "prompt": "one", "external_reference": "a" }, { "prompt": "two" }] });
        let queued = host
            .post("/run", &json!({ "model": "local", "inputs": requests, "options": { "queueRequest": true } }))
            .json();
        assert_eq!((&queued["status"], &queued["model"]), (&json!("queued"), &json!("local")), "{flavour}: {queued}");
        let poll = json!({ "model": "local", "inputs": { "request_id": queued["request_id"] } });
        assert_eq!(host.post("/run", &poll).json()["status"], "queued", "{flavour}");
        drop(host);
        let host = queueing(flavour, state.path(), 0);
        let start = Instant::now();
        let done = loop {
            let answer = host.post("/run", &poll).json();
            if answer["responses"].is_array() {
                break answer;
            }
            assert!(start.elapsed() < PATIENCE, "{flavour}: {answer}");
            std::thread::sleep(Duration::from_millis(20));
        };
        let first = json!({ "id": 0, "success": true, "external_reference": "a" });
        for (name, value) in first.as_object().unwrap() {
            assert_eq!(&done["responses"][0][name], value, "{flavour}: {done}");
        }
        assert_eq!(done["responses"][0]["result"]["response"], "one");
        assert_eq!(done["usage"]["completion_tokens"], 2);
        let missing = host.post("/run", &json!({ "model": "local", "inputs": { "request_id": "nothing" } }));
        assert_eq!((missing.status, &missing.json()["error"]["code"]), (400, &json!(5006)), "{flavour}");
    }
}

/// The example with another address for its provider.
fn fallback(url: &str) -> Host {
    let sources = workspace().join("examples/fallback");
    let text = std::fs::read_to_string(sources.join("wrangler.toml")).unwrap();
    assert!(text.contains("http://127.0.0.1:1/v1"));
    let main = sources.join("src/index.ts").display().to_string();
    Host::serve(&text.replace("http://127.0.0.1:1/v1", url).replace("src/index.ts", &main))
}

#[test]
fn the_example_falls_back_and_remembers() {
    let host = fallback("http://127.0.0.1:1/v1");
    let ask = |method: &str, path: &str| host.send_to("fallback.localhost", method, path, &[], b"").read();
    let first = ask("GET", "/?q=Why+is+the+sky+blue").json();
    assert_eq!((&first["by"], &first["cached"]), (&json!("local"), &json!(false)), "{first}");
    assert!(first["answer"].as_str().is_some_and(|answer| !answer.trim().is_empty()), "{first}");
    let again = ask("GET", "/?q=Why+is+the+sky+blue").json();
    assert_eq!((&again["answer"], &again["cached"]), (&first["answer"], &json!(true)), "{again}");
    let liked = ask("POST", &format!("/?log={}", first["log"].as_str().unwrap()));
    assert_eq!(liked.status, 200, "{}", liked.text());
    assert_eq!(ask("GET", "/").status, 400);

    let printed = command().current_dir(host.folder()).args(["gateway", "logs", "--json"]).output().unwrap();
    let lines: Vec<Value> =
        String::from_utf8(printed.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told = |log: &Value| (log["provider"].clone(), log["success"].clone(), log["feedback"].clone());
    assert_eq!(told(&lines[0]), (json!("big"), json!(false), Value::Null));
    assert_eq!(told(&lines[1]), (json!("workers-ai"), json!(true), json!(1)));

    let server = Scripted::start(chat);
    let host = fallback(&server.url());
    let reply = host.send_to("fallback.localhost", "GET", "/?q=Why", &[], b"").read().json();
    assert_eq!((&reply["by"], &reply["answer"]), (&json!("big"), &json!("from there")), "{reply}");
}
