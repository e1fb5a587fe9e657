//! Every task through a worker in Rust, in both flavours, and one in JavaScript: real models, exact names and types, and
//! the same answer whoever asks. What the numbers must be is held to by the tests of `host-inference`.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::harness::{FLAVOURS, Host, Reply, guest, workspace};

/// Runs the call that it is sent, as the fixture in Rust does.
const SCRIPT: &str = "
export default {
  async fetch(request, env) {
    const { model, inputs, attachments = [] } = await request.json();
    for (const { property, bytes } of attachments) inputs[property] = new Uint8Array(bytes);
    try {
      const output = await env.AI.run(model, inputs);
      return output instanceof ReadableStream ? new Response(output) : Response.json(output);
    } catch ({ message }) {
      const status = /^500[46]:/.test(message) ? 400 : 500;
      return Response.json({ error: { message, status } }, { status });
    }
  },
};
";

/// Small models of the true architectures, below `host/inference/tests/golden`, and the one of `examples/draw`.
const MODELS: [(&str, &str); 10] = [
    ("sentiment", "host/inference/tests/golden/encoders/distilbert"),
    ("names", "host/inference/tests/golden/encoders/bert_ner"),
    ("translator", "host/inference/tests/golden/seq2seq/marian"),
    ("summarizer", "host/inference/tests/golden/seq2seq/bart"),
    ("vit", "host/inference/tests/golden/vision/vit"),
    ("detr", "host/inference/tests/golden/vision/detr"),
    ("blip", "host/inference/tests/golden/vision/blip"),
    ("clip", "host/inference/tests/golden/vision/clip"),
    ("voice", "host/inference/tests/golden/synthesis/letters"),
    ("shapes", "examples/draw/model"),
];

pub(crate) fn bindings() -> String {
    let mut lines = String::from(
        "[ai]\nbinding = \"AI\"\n[ai.aliases]\n\"@cf/baai/bge-reranker-base\" = \"ms-marco-minilm-l12-v2\"\n\
         \"@cf/openai/whisper-tiny-en\" = \"whisper-tiny.en\"\n\"@cf/myshell-ai/melotts\" = \"voice\"\n\
         \"@cf/deepgram/aura-1\" = \"voice\"\n",
    );
    for (name, path) in MODELS {
        let path = workspace().join(path);
        lines.push_str(&format!("[[ai.models]]\nname = {name:?}\npath = {:?}\n", path.display().to_string()));
    }
    let clip = workspace().join("host/inference/tests/golden/vision/clip").display().to_string();
    lines.push_str(&format!(
        "[[ai.models]]\nname = \"chooser\"\ntask = \"zero-shot-image-classification\"\npath = {clip:?}\n"
    ));
    lines
}

/// A call and what has to be true of its answer.
struct Case {
    call: Value,
    holds: fn(&Reply, &Value) -> bool,
}

fn case(model: &str, inputs: Value, file: Option<(&str, &str)>, holds: fn(&Reply, &Value) -> bool) -> Case {
    let attachment = |(property, path): (&str, &str)| {
        let path: PathBuf = workspace().join("host/inference/tests/golden").join(path);
        json!({ "property": property, "bytes": std::fs::read(&path).unwrap() })
    };
    let attachments: Vec<Value> = file.into_iter().map(attachment).collect();
    Case { call: json!({ "model": model, "inputs": inputs, "attachments": attachments }), holds }
}

/// Whether `labels` are some, each with a score from 0 to 1, in the order of their scores where `ranked`.
fn scored(labels: &Value, ranked: bool) -> bool {
    let scores: Vec<f64> = labels.as_array().unwrap().iter().map(|label| label["score"].as_f64().unwrap()).collect();
    let bounded = scores.iter().all(|score| (0.0..=1.0).contains(score));
    bounded && !scores.is_empty() && (!ranked || scores.is_sorted_by(|one, next| one >= next))
}

fn cases() -> Vec<Case> {
    let query = json!({
        "query": "How do plants make energy?",
        "contexts": [{ "text": "The train leaves at noon." }, { "text": "Plants turn light into sugar." }],
    });
    let aura = json!({ "text": "a line. of rain.", "encoding": "linear16", "sample_rate": 8000, "seed": 7 });
    vec![
        case("@cf/baai/bge-reranker-base", query, None, |_, answer| {
            scored(&answer["response"], true) && answer["response"][0]["id"] == 1
        }),
        case("sentiment", json!({ "text": "a fine film" }), None, |_, answer| {
            scored(answer, false) && answer[0]["label"] == "NEGATIVE" && answer[1]["label"] == "POSITIVE"
        }),
        case("names", json!({ "text": "The cat sits on the mat." }), None, |_, answer| {
            answer.as_array().unwrap().iter().all(|entity| entity["word"].is_string() && entity["start"].is_u64())
        }),
        case("translator", json!({ "text": "the cat sat on the mat", "target_lang": "fr" }), None, |_, answer| {
            !answer["translated_text"].as_str().unwrap().is_empty()
        }),
        case("summarizer", json!({ "input_text": "the cat sat on the mat" }), None, |_, answer| {
            !answer["summary"].as_str().unwrap().is_empty()
        }),
        case("@cf/openai/whisper-tiny-en", json!({}), Some(("audio", "speech/jfk.flac")), |_, answer| {
            let text = answer["text"].as_str().unwrap();
            text.contains("ask not what your country can do for you")
                && answer["word_count"] == 22
                && answer["words"][0]["start"].is_number()
                && answer["vtt"].as_str().unwrap().starts_with("WEBVTT")
        }),
        case("vit", json!({}), Some(("image", "vision/cat.jpg")), |_, answer| {
            scored(answer, true) && answer.as_array().unwrap().len() == 5 && answer[0]["label"].is_string()
        }),
        case("detr", json!({}), Some(("image", "vision/cat.jpg")), |_, answer| {
            answer.as_array().unwrap().iter().all(|object| object["box"]["xmin"].is_number())
        }),
        case("blip", json!({}), Some(("image", "vision/cat.jpg")), |_, answer| answer["description"].is_string()),
        case("clip", json!({}), Some(("image", "vision/cat.jpg")), |_, answer| answer["shape"] == json!([1, 16])),
        case("chooser", json!({ "labels": ["a cat", "a dog"] }), Some(("image", "vision/cat.jpg")), |_, answer| {
            scored(answer, true) && answer.as_array().unwrap().len() == 2
        }),
        case(
            "@cf/myshell-ai/melotts",
            json!({ "prompt": "a line of rain", "lang": "en", "seed": 7 }),
            None,
            |_, answer| {
                // A WAV file begins with RIFF.
                answer["audio"].as_str().unwrap().starts_with("UklGR") && answer.as_object().unwrap().len() == 1
            },
        ),
        case("@cf/deepgram/aura-1", aura, None, |reply, _| {
            reply.body.starts_with(b"RIFF") && reply.body[24..28] == 8000_u32.to_le_bytes() && reply.body.len() > 1000
        }),
        case("shapes", json!({ "prompt": "a red circle", "num_steps": 3, "seed": 7 }), None, |reply, _| {
            reply.body.starts_with(b"\x89PNG\r\n")
        }),
    ]
}

/// Whether two answers are the same: a script writes 0 where there was 0.0.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.keys().eq(other.keys()) && one.values().zip(other.values()).all(|(one, other)| same(one, other))
        }
        _ => one == other,
    }
}

/// Every flavour of worker with these lines in its binding file.
pub(crate) fn hosts(bindings: &str) -> Vec<(&'static str, Host)> {
    let mut hosts: Vec<_> =
        FLAVOURS.into_iter().map(|flavour| (flavour, Host::worker(&guest("ai", flavour), bindings))).collect();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("worker.js"), SCRIPT).unwrap();
    let script = format!("name = \"w\"\nmain = \"worker.js\"\n{bindings}");
    std::fs::write(folder.path().join("wrangler.toml"), script).unwrap();
    let script = Host::launch(folder, "serve", &[]).unwrap_or_else(|ended| panic!("the host ended: {ended:?}"));
    hosts.push(("script", script));
    hosts
}

#[test]
fn every_task_answers_workers_in_rust_and_in_javascript_alike() {
    let hosts = hosts(&bindings());
    for Case { call, holds } in cases() {
        let mut first: Option<Vec<u8>> = None;
        for (worker, host) in &hosts {
            let reply = host.post("/run", &call);
            let place = format!("{} asked by {worker}", call["model"]);
            let shown: String = reply.text().chars().take(600).collect();
            assert_eq!(reply.status, 200, "{place}: {shown}\n{}", host.log());
            let answer = serde_json::from_slice(&reply.body).unwrap_or(Value::Null);
            assert!(holds(&reply, &answer), "{place}: {shown}");
            let first = first.get_or_insert_with(|| reply.body.clone());
            let alike = match serde_json::from_slice::<Value>(first) {
                Ok(first) => same(&first, &answer),
                Err(_) => *first == reply.body,
            };
            assert!(alike, "{place}: {shown}\n{}", String::from_utf8_lossy(first));
        }
    }
}

#[test]
fn what_is_no_sound_and_no_picture_is_refused_by_its_property() {
    let host = Host::worker(&guest("ai", FLAVOURS[0]), &bindings());
    for (model, property) in [("@cf/openai/whisper-tiny-en", "audio"), ("vit", "image"), ("blip", "image")] {
        for data in [json!([]), json!([1, 2, 3]), json!("%%%"), json!({ "body": 7 }), json!(true)] {
            let reply = host.post("/run", &json!({ "model": model, "inputs": { property: data } }));
            let error = &reply.json()["error"];
            assert_eq!((reply.status, &error["status"]), (400, &json!(400)), "{model} {data}: {error}");
            let named = error["message"].as_str().unwrap().contains(property) || error["code"] == 5004;
            assert!(named, "{model} {data}: {error}");
        }
    }
}

#[test]
fn what_nobody_can_say_is_refused_by_its_property() {
    let host = Host::worker(&guest("ai", FLAVOURS[0]), &bindings());
    for (inputs, property) in [
        (json!({}), "prompt"),
        (json!({ "prompt": " " }), "prompt"),
        (json!({ "prompt": "!?" }), "prompt"),
        (json!({ "prompt": 7 }), "prompt"),
        (json!({ "text": "x".repeat(9000) }), "text"),
        (json!({ "text": "a", "encoding": "mp3" }), "encoding"),
        (json!({ "text": "a", "speaker": "angus" }), "speaker"),
    ] {
        let reply = host.post("/run", &json!({ "model": "voice", "inputs": inputs }));
        let error = &reply.json()["error"];
        assert_eq!((reply.status, &error["code"]), (400, &json!(5006)), "{inputs}: {error}");
        assert!(error["message"].as_str().unwrap().contains(property), "{inputs}: {error}");
    }
}
