//! Bad input to every task, through workers in Rust and in JavaScript: 400 with the property named, in bounded memory.

use serde_json::{Value, json};

use crate::generation::peak_mb;
use crate::harness::workspace;
use crate::tasks::{bindings, hosts};

/// Beyond any float32.
const HUGE: f64 = 1e308;
/// What refusing may take beside the models, which are tiny, and what decoding a sound picture takes.
const MOST_MB: u64 = 512;

/// A PNG that claims to be 100,000 pixels wide and high.
fn bomb() -> Vec<u8> {
    let mut picture = std::fs::read(workspace().join("host/inference/tests/golden/vision/cat.png")).unwrap();
    for side in [16..20, 20..24] {
        picture[side].copy_from_slice(&100_000_u32.to_be_bytes());
    }
    picture
}

/// The first quarter of a picture.
fn cut() -> Vec<u8> {
    let mut picture = std::fs::read(workspace().join("host/inference/tests/golden/vision/cat.png")).unwrap();
    picture.truncate(picture.len() / 4);
    picture
}

/// A wav file whose header claims 4 GB of a thousand channels, and which ends there.
fn wav() -> Vec<u8> {
    let mut wav = b"RIFF\xff\xff\xff\xffWAVEfmt \x10\x00\x00\x00\x01\x00".to_vec();
    wav.extend(1000_u16.to_le_bytes());
    wav.extend(4_000_000_000_u32.to_le_bytes());
    wav.extend([0xff; 4]);
    wav.extend([0xd0, 0x07, 0x10, 0x00]);
    wav.extend(b"data\xff\xff\xff\xff");
    wav
}

/// Model, inputs, a file among them, and what the refusal names.
type Row = (&'static str, Value, Option<(&'static str, Vec<u8>)>, &'static str);

fn texts() -> Vec<Row> {
    let contexts = json!([{ "text": "a" }]);
    vec![
        ("talker", json!({ "prompt": "" }), None, "prompt"),
        ("talker", json!({ "prompt": "a", "temperature": HUGE }), None, "temperature"),
        ("talker", json!({ "prompt": "a", "top_p": -HUGE }), None, "top_p"),
        ("talker", json!({ "prompt": "a", "max_tokens": -1 }), None, "max_tokens"),
        ("points", json!({ "text": "" }), None, "text"),
        ("points", json!({ "text": ["a", ""] }), None, "text/1"),
        ("@cf/baai/bge-reranker-base", json!({ "query": "", "contexts": contexts }), None, "query"),
        ("@cf/baai/bge-reranker-base", json!({ "query": "a", "contexts": [{ "text": "" }] }), None, "contexts/0/text"),
        ("@cf/baai/bge-reranker-base", json!({ "query": "a", "contexts": contexts, "top_k": HUGE }), None, "top_k"),
        ("sentiment", json!({ "text": "" }), None, "text"),
        ("names", json!({ "text": "" }), None, "text"),
        ("translator", json!({ "text": "", "target_lang": "fr" }), None, "text"),
        ("summarizer", json!({ "input_text": "" }), None, "input_text"),
        ("summarizer", json!({ "input_text": "a", "max_length": -HUGE }), None, "max_length"),
        ("voice", json!({ "prompt": "" }), None, "prompt"),
        ("voice", json!({ "text": "a", "speed": HUGE }), None, "speed"),
        ("voice", json!({ "text": "a", "seed": HUGE }), None, "seed"),
        ("voice", json!({ "text": "a", "encoding": "linear16", "sample_rate": HUGE }), None, "sample_rate"),
    ]
}

fn media() -> Vec<Row> {
    let whisper = "@cf/openai/whisper-tiny-en";
    let mut rows: Vec<Row> = vec![
        (whisper, json!({}), Some(("audio", Vec::new())), "audio"),
        (whisper, json!({}), Some(("audio", wav())), "audio"),
        (whisper, json!({}), Some(("audio", vec![7; 1000])), "audio"),
        ("chooser", json!({ "labels": [""] }), Some(("image", cut())), "labels/0"),
        ("blip", json!({ "max_tokens": HUGE }), Some(("image", cut())), "max_tokens"),
        ("shapes", json!({ "prompt": "" }), None, "prompt"),
        ("shapes", json!({ "prompt": "a", "width": HUGE }), None, "width"),
        ("shapes", json!({ "prompt": "a", "height": 1_000_000_000 }), None, "height"),
        ("shapes", json!({ "prompt": "a", "num_steps": HUGE }), None, "num_steps"),
        ("shapes", json!({ "prompt": "a", "guidance": HUGE }), None, "guidance"),
        ("shapes", json!({ "prompt": "a", "strength": -HUGE }), None, "strength"),
    ];
    for model in ["vit", "detr", "blip", "clip", "chooser", "shapes"] {
        for picture in [Vec::new(), cut(), bomb()] {
            let inputs = match model {
                "chooser" => json!({ "labels": ["a"] }),
                "shapes" => json!({ "prompt": "a" }),
                _ => json!({}),
            };
            rows.push((model, inputs, Some(("image", picture)), "image"));
        }
    }
    rows
}

#[test]
fn bad_input_to_any_task_is_refused_by_its_property_in_bounded_memory() {
    let mut bindings = bindings();
    for (name, task, mock) in
        [("talker", "text-generation", "{ reply = \"x\" }"), ("points", "text-embeddings", "{ dimensions = 4 }")]
    {
        bindings
            .push_str(&format!("[[ai.models]]\nname = {name:?}\ntask = {task:?}\nbackend = \"mock\"\nmock = {mock}\n"));
    }
    for (worker, host) in hosts(&bindings) {
        for (model, inputs, file, property) in texts().into_iter().chain(media()) {
            let sent = file.as_ref().map_or(0, |(_, bytes)| bytes.len());
            let attachments: Vec<Value> =
                file.iter().map(|(property, bytes)| json!({ "property": property, "bytes": bytes })).collect();
            let place = format!("{model} asked by {worker} with {inputs} and {sent} bytes");
            let call = json!({ "model": model, "inputs": inputs, "attachments": attachments });
            let reply = host.post("/run", &call);
            let text: String = reply.text().chars().take(600).collect();
            assert_eq!(reply.status, 400, "{place}: {text}");
            let error = &reply.json()["error"];
            assert_eq!(error["status"], 400, "{place}: {text}");
            assert!(error["message"].as_str().is_some_and(|said| said.contains(property)), "{place}: {text}");
        }
        if cfg!(target_os = "linux") {
            let peak = peak_mb(&host);
            assert!(peak < MOST_MB, "{worker}: {peak} MiB were taken");
        }
    }
}
