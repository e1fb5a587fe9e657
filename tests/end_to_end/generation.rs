//! Real text generation under load: a small model, one server, many clients that ask, stream, leave and want schemas.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::{Value, json};

use crate::harness::{Host, PATIENCE, Reply, guest};

const REQUESTS: usize = 1000;
const CLIENTS: usize = 32;
/// What the models of the host may take.
const BUDGET_MB: u64 = 384;

/// What a client does with its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Whole,
    Streamed,
    /// Streamed, and the client leaves after the first piece.
    Left,
    /// With a schema, whole or streamed.
    Schema {
        streamed: bool,
    },
}

/// The nth request: what it asks and how. Everything follows from `n`, so that a failure can be had again.
fn request(n: usize) -> (Kind, Value) {
    // SplitMix64 of the number: neighbours have nothing in common.
    let mut state = (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut below = |bound: u64| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z >> 33) % bound
    };
    let kind = match below(5) {
        0 => Kind::Whole,
        1 => Kind::Streamed,
        2 => Kind::Left,
        3 => Kind::Schema { streamed: false },
        _ => Kind::Schema { streamed: true },
    };
    const WORDS: [&str; 8] = ["river", "stone", "red", "under", "seven", "lamp", "slowly", "north"];
    let question: Vec<&str> = (0..1 + below(90)).map(|_| WORDS[below(8) as usize]).collect();
    let mut inputs = json!({
        "messages": [
            { "role": "system", "content": "You answer in few words. You know rivers, stones and lamps." },
            { "role": "user", "content": question.join(" ") },
        ],
        "seed": 1 + n,
        "temperature": if below(2) == 0 { 0.0 } else { 1.0 },
        "max_tokens": 2 + below(24),
    });
    if let Kind::Schema { .. } = kind {
        inputs["response_format"] = json!({ "type": "json_schema", "json_schema": schema() });
        // The longest answer of this schema has fewer bytes than this, and no token is shorter than a byte.
        inputs["max_tokens"] = json!(120);
    }
    (kind, json!({ "model": "smollm2-135m-instruct", "inputs": inputs }))
}

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "colour": { "enum": ["red", "green", "blue"] },
            "count": { "type": "integer", "minimum": 1, "maximum": 99 },
            "code": { "type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$" },
            "tags": { "type": "array", "items": { "$ref": "#/$defs/tag" }, "minItems": 1, "maxItems": 2 },
        },
        "required": ["colour", "count", "code", "tags"],
        "additionalProperties": false,
        "$defs": { "tag": { "anyOf": [{ "type": "boolean" }, { "type": "null" }] } },
    })
}

/// Whether `answer` is what [`schema`] asks for.
fn follows_the_schema(answer: &Value) -> bool {
    let code = answer["code"].as_str().unwrap_or_default().as_bytes();
    let (letters, digits) = (code.iter().take(2), code.iter().skip(3));
    let tags = answer["tags"].as_array().map(Vec::as_slice).unwrap_or_default();
    answer.as_object().is_some_and(|map| map.len() == 4)
        && ["red", "green", "blue"].contains(&answer["colour"].as_str().unwrap_or_default())
        && answer["count"].as_u64().is_some_and(|count| (1..=99).contains(&count))
        && code.len() == 6
        && code[2] == b'-'
        && letters.copied().all(|letter| letter.is_ascii_uppercase())
        && digits.copied().all(|digit| digit.is_ascii_digit())
        && (1..=2).contains(&tags.len())
        && tags.iter().all(|tag| tag.is_boolean() || tag.is_null())
}

/// The text of a stream of events that must have ended well.
fn streamed_text(reply: &Reply) -> String {
    let text = reply.text();
    assert!(reply.complete && text.ends_with("data: [DONE]\n\n"), "not a whole stream: {text}");
    let events = text.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    events
        .map(|data| {
            serde_json::from_str::<Value>(data).expect("an event")["response"].as_str().unwrap_or("").to_owned()
        })
        .collect()
}

fn serve(host: &Host, n: usize) {
    let (kind, call) = request(n);
    let body = call.to_string();
    let send = |path: &str| host.send("POST", path, &[("content-type", "application/json")], body.as_bytes());
    match kind {
        Kind::Left => {
            let mut head = send("/stream").head();
            assert_eq!(head.status, 200, "request {n}");
            assert!(head.piece().expect("a piece").is_some(), "request {n}");
        }
        Kind::Whole | Kind::Schema { streamed: false } => {
            let reply = send("/run").read();
            assert_eq!(reply.status, 200, "request {n}: {}", reply.text());
            let answer = reply.json();
            let limit = call["inputs"]["max_tokens"].as_u64();
            assert!(answer["usage"]["completion_tokens"].as_u64() <= limit, "request {n}: {answer}");
            let fine = kind == Kind::Whole || follows_the_schema(&answer["response"]);
            assert!(fine, "request {n}: {answer}");
        }
        Kind::Streamed | Kind::Schema { streamed: true } => {
            let reply = send("/stream").read();
            assert_eq!(reply.status, 200, "request {n}: {}", reply.text());
            let text = streamed_text(&reply);
            let fine =
                kind == Kind::Streamed || serde_json::from_str(&text).is_ok_and(|json| follows_the_schema(&json));
            assert!(fine, "request {n}: {text}");
        }
    }
}

/// The process's peak of resident memory in MiB.
pub(crate) fn peak_mb(host: &Host) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", host.id())).expect("the process's status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") / 1024
}

#[test]
fn a_thousand_requests_leave_nothing_behind() {
    let lines = format!("[ai]\nbinding = \"AI\"\nmemory_mb = {BUDGET_MB}\n");
    let host = Host::worker(&guest("ai", "p3"), &lines);
    assert_eq!(host.get("/none").status, 500, "a worker runs, no model is loaded");
    let before = if cfg!(target_os = "linux") { peak_mb(&host) } else { 0 };
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= REQUESTS {
                        break;
                    }
                    serve(&host, n);
                }
            });
        }
    });
    if cfg!(target_os = "linux") {
        let taken = peak_mb(&host) - before;
        // Beside the model, each client has an instance of the worker and a connection.
        let most = BUDGET_MB + 2 * CLIENTS as u64;
        assert!(taken <= most, "{taken} MiB were taken where {most} may be");
    }
    // One more request, so that the model falls idle after all others have ended.
    assert_eq!(host.post("/run", &request(0).1).status, 200);
    let start = Instant::now();
    let idle = || host.log().lines().rfind(|line| line.contains("text model idle")).map(str::to_owned);
    while !idle().is_some_and(|line| line.contains("held=0")) {
        assert!(start.elapsed() < PATIENCE, "blocks are left: {:?}", idle());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}
