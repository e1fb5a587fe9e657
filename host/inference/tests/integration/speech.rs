//! Speech to text from outside: the engine with the catalogue's real model, a tiny one of many languages, and a script.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use host_inference::{Attachment, Engine, EngineConfig, LocalModel, LocalSource, RunRequest, Task};
use serde_json::{Value, json};

use crate::support::{json_of, real, request};

/// What faster-whisper 1.2 (CTranslate2, float32, beams of 5) writes down of the same weights, and when its words begin.
const SAID: &str = "And so, my fellow Americans ask not what your country can do for you ask what you can do for your \
                    country.";
const BEGINS: [f64; 22] = [
    0.0, 0.76, 1.38, 1.44, 1.76, 2.26, 3.88, 4.54, 5.7, 6.02, 6.36, 6.76, 7.02, 7.26, 8.02, 8.66, 8.94, 9.28, 9.5,
    9.72, 9.92, 10.24,
];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/speech").join(name)
}

fn audio(name: &str) -> Vec<u8> {
    std::fs::read(golden(name)).unwrap()
}

fn engine(models: Vec<(&str, Option<Task>, LocalSource)>) -> (tempfile::TempDir, Engine) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = EngineConfig::new(folder.path().join("models"));
    config.threads = NonZeroUsize::new(2);
    for (name, task, source) in models {
        let model = LocalModel { task, ..LocalModel::new(name, source) };
        config.models.push(model);
    }
    (folder, Engine::new(config).unwrap())
}

/// The real model under the names of both shapes.
fn real_engine() -> (tempfile::TempDir, Engine) {
    let source = || LocalSource::Path(real("whisper-tiny.en"));
    engine(vec![("@cf/openai/whisper-tiny-en", None, source()), ("@cf/openai/whisper-large-v3-turbo", None, source())])
}

fn tiny_engine() -> (tempfile::TempDir, Engine) {
    engine(vec![("tiny", None, LocalSource::Path(golden("tiny")))])
}

fn with_bytes(model: &str, property: &str, bytes: Vec<u8>) -> RunRequest {
    let mut request = request(model, json!({}));
    let attachment = Attachment { property: property.into(), content_type: None, data: bytes.into() };
    request.attachments.push(attachment);
    request
}

async fn run(engine: &Engine, request: RunRequest) -> Value {
    json_of(engine.run(request).await.unwrap().output)
}

async fn refused(engine: &Engine, model: &str, inputs: Value) -> (u32, String) {
    let error = engine.run(request(model, inputs)).await.unwrap_err();
    (error.code, error.message)
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[tokio::test]
async fn the_speech_is_written_down_with_the_times_of_its_words() {
    let (_folder, engine) = real_engine();
    let answer = run(&engine, with_bytes("@cf/openai/whisper-tiny-en", "", audio("jfk.flac"))).await;
    assert_eq!(keys(&answer), ["text", "word_count", "words", "vtt"]);
    assert_eq!((&answer["text"], &answer["word_count"]), (&json!(SAID), &json!(22)));
    let words = answer["words"].as_array().unwrap();
    assert_eq!(words.iter().map(|word| word["word"].as_str().unwrap()).collect::<Vec<_>>().join(" "), SAID);
    let mut before = 0.0;
    for word in words {
        assert_eq!(keys(word), ["word", "start", "end"]);
        let (start, end) = (word["start"].as_f64().unwrap(), word["end"].as_f64().unwrap());
        assert!(before <= start && start <= end && end <= 11.0, "{word}");
        before = start;
    }
    for (word, begin) in words.iter().zip(BEGINS) {
        // Paths through nearly the same attention part by a few steps of 20 ms.
        assert!((word["start"].as_f64().unwrap() - begin).abs() < 0.15, "{word}: the reference has {begin}");
    }
    let vtt = answer["vtt"].as_str().unwrap();
    assert!(vtt.starts_with("WEBVTT\n\n00:00:00.000 --> 00:00:"), "{vtt}");
}

#[tokio::test]
async fn segments_have_the_contracts_shape() {
    let (_folder, engine) = real_engine();
    let inputs = json!({ "audio": STANDARD.encode(audio("jfk.flac")), "beam_size": 1, "vad_filter": true });
    let answer = run(&engine, request("@cf/openai/whisper-large-v3-turbo", inputs)).await;
    assert_eq!(keys(&answer), ["transcription_info", "text", "word_count", "segments", "vtt"]);
    let info = &answer["transcription_info"];
    assert_eq!(keys(info), ["language", "language_probability", "duration", "duration_after_vad"]);
    assert_eq!((&info["language"], &info["language_probability"]), (&json!("en"), &json!(1.0)));
    assert_eq!(info["duration"], json!(11.0));
    assert!(info["duration_after_vad"].as_f64().unwrap() <= 11.0);
    // Greedy search leaves out one comma of the beams' text, here and in the reference.
    assert_eq!(answer["text"], SAID.replace("so,", "so"));
    let segment = &answer["segments"][0];
    let expected =
        ["start", "end", "text", "temperature", "avg_logprob", "compression_ratio", "no_speech_prob", "words"];
    assert_eq!(keys(segment), expected);
    assert_eq!(segment["temperature"], 0.0);
    let number = |key: &str| segment[key].as_f64().unwrap();
    assert!((-0.5..0.0).contains(&number("avg_logprob")), "{segment}");
    assert!((1.0..2.0).contains(&number("compression_ratio")) && number("no_speech_prob") < 0.3, "{segment}");
}

#[tokio::test]
async fn every_form_of_the_sound_is_taken() {
    let (_folder, engine) = tiny_engine();
    let bytes = audio("clip_44k.mp3");
    let encoded = STANDARD.encode(&bytes);
    let expected = run(&engine, with_bytes("tiny", "audio", bytes.clone())).await;
    for inputs in [
        json!({ "audio": bytes }),
        json!({ "audio": encoded }),
        json!({ "audio": { "body": encoded, "contentType": "audio/mpeg" } }),
    ] {
        assert_eq!(run(&engine, request("tiny", inputs)).await, expected);
    }
}

#[tokio::test]
async fn a_model_of_many_languages_hears_which_or_is_told() {
    let (_folder, engine) = tiny_engine();
    let clip = audio("clip.wav");
    let heard = run(&engine, request("tiny", json!({ "audio": clip, "beam_size": 2 }))).await;
    let info = &heard["transcription_info"];
    assert!(["en", "de", "fr"].contains(&info["language"].as_str().unwrap()), "{info}");
    let probability = info["language_probability"].as_f64().unwrap();
    assert!((1.0 / 3.0..=1.0).contains(&probability), "{info}");
    let inputs = json!({
        "audio": clip, "language": "de-DE", "task": "translate", "initial_prompt": "Names: Grüße", "prefix": "So",
        "condition_on_previous_text": false, "no_speech_threshold": 1.0, "compression_ratio_threshold": 100,
        "log_prob_threshold": -100, "hallucination_silence_threshold": 2
    });
    let told = run(&engine, request("tiny", inputs)).await;
    assert_eq!(told["transcription_info"]["language"], "de");
    assert!(told["text"].as_str().unwrap().starts_with("So"), "{}", told["text"]);
}

#[tokio::test]
async fn the_same_sound_gives_the_same_text() {
    let (_folder, engine) = tiny_engine();
    // Random weights write gibberish, which goes through every temperature.
    let inputs = json!({ "audio": audio("clip.wav"), "no_speech_threshold": 1.0 });
    let one = run(&engine, request("tiny", inputs.clone())).await;
    assert_eq!(run(&engine, request("tiny", inputs)).await, one);
}

#[tokio::test]
async fn inputs_that_break_the_schema_are_refused_by_name() {
    let (_folder, engine) = tiny_engine();
    let clip = STANDARD.encode(audio("clip.wav"));
    for (key, value) in [
        ("task", json!("sing")),
        ("task", json!(1)),
        ("language", json!("xx")),
        ("language", json!(["en"])),
        ("vad_filter", json!("yes")),
        ("initial_prompt", json!({})),
        ("prefix", json!("a".repeat(20_000))),
        ("beam_size", json!(0)),
        ("beam_size", json!(1000)),
        ("condition_on_previous_text", json!(1)),
        ("no_speech_threshold", json!("much")),
    ] {
        let mut inputs = json!({ "audio": clip });
        inputs[key] = value.clone();
        let (code, message) = refused(&engine, "tiny", inputs).await;
        assert!(code == 5006 && message.contains(&format!("'/{key}'")), "{key} {value}: {message}");
    }
    for (audio, code) in [
        (json!([1, 2, 3]), 5006),
        (json!(STANDARD.encode("RIFF\u{0}\u{0}WAVE")), 5006),
        (json!([]), 5006),
        (json!(7), 5006),
        (json!("no base64!"), 5004),
    ] {
        let (got, message) = refused(&engine, "tiny", json!({ "audio": audio })).await;
        assert!(got == code && (code == 5004 || message.contains("'/audio")), "{audio}: {message}");
    }
    let (code, message) = refused(&engine, "tiny", json!({})).await;
    assert!(code == 5006 && message.contains("'audio'"), "{message}");
    assert_eq!(refused(&engine, "tiny", json!({ "audio": clip, "lora": "x" })).await.0, 5005);
}

#[tokio::test]
async fn a_model_of_english_refuses_other_languages() {
    let (_folder, engine) = real_engine();
    let inputs = json!({ "audio": STANDARD.encode(audio("clip.wav")), "language": "de" });
    let (code, message) = refused(&engine, "@cf/openai/whisper-tiny-en", inputs).await;
    assert!(code == 5006 && message.contains("'/language'"), "{message}");
}

#[tokio::test]
async fn a_deadline_ends_the_work() {
    let (_folder, engine) = tiny_engine();
    // Ten minutes, which take many times a millisecond.
    let clip = audio("clip.wav");
    let mut long = clip[..44].to_vec();
    (0..800).for_each(|_| long.extend(&clip[44..]));
    let length = (long.len() - 44) as u32;
    long[40..44].copy_from_slice(&length.to_le_bytes());
    long[4..8].copy_from_slice(&(length + 36).to_le_bytes());
    let mut request = with_bytes("tiny", "audio", long);
    request.options.insert("gateway".into(), json!({ "requestTimeoutMs": 1 }));
    assert_eq!(engine.run(request).await.unwrap_err().code, 3007);
    let short = run(&engine, with_bytes("tiny", "audio", clip)).await;
    assert_eq!(short["transcription_info"]["duration"], 0.75);
}

#[tokio::test]
async fn a_script_stands_in() {
    let script = json!({ "reply": "three small words" });
    let task = Some(Task::AutomaticSpeechRecognition);
    let (_folder, engine) = engine(vec![("whisper", task, LocalSource::Mock(script))]);
    let answer = run(&engine, with_bytes("whisper", "audio", vec![1, 2, 3])).await;
    assert_eq!(
        answer,
        json!({
            "text": "three small words",
            "word_count": 3,
            "words": [
                { "word": "three", "start": 0.0, "end": 0.5 },
                { "word": "small", "start": 0.5, "end": 1.0 },
                { "word": "words", "start": 1.0, "end": 1.5 }
            ],
            "vtt": "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nthree small words\n\n"
        })
    );
}

#[tokio::test]
async fn eight_bit_products_hear_the_same_words_and_are_for_speech_alone() {
    let folder = tempfile::tempdir().unwrap();
    let with = |name: &str, path: PathBuf| {
        let mut config = EngineConfig::new(folder.path().join("models"));
        let source = LocalSource::Path(path);
        let precision = Some(host_inference::speech::Precision::Int8);
        config.models = vec![LocalModel { precision, ..LocalModel::new(name, source) }];
        Engine::new(config)
    };
    let engine = with("ears", real("whisper-tiny.en")).unwrap();
    let mut heard = with_bytes("ears", "", audio("jfk.flac"));
    heard.inputs.insert("beam_size".into(), json!(1));
    let answer = run(&engine, heard).await;
    let words = |text: &str| text.to_lowercase().replace([',', '.'], "");
    assert_eq!(words(answer["text"].as_str().unwrap()), words(SAID));
    let refused = with("vectors", real("bge-small-en-v1.5")).err().unwrap().to_string();
    assert!(refused.contains("`precision` is for models of speech"), "{refused}");
}
