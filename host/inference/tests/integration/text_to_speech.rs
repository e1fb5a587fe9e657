//! Speech through the engine: the JSON of the task, a small model of the true architecture, a scripted one, the catalogue.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt;
use host_inference::store::{NoProgress, Store};
use host_inference::{AiError, Engine, EngineConfig, LocalModel, LocalSource, RunOutput, Task};
use serde_json::{Value, json};

use crate::support::{json_of, request};

const MELO: &str = "@cf/myshell-ai/melotts";
const AURA: &str = "@cf/deepgram/aura-1";

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/synthesis").join(name)
}

fn engine(store: &Path) -> Engine {
    let local =
        |name: &str, source: LocalSource, task: Option<Task>| LocalModel { task, ..LocalModel::new(name, source) };
    let models = vec![
        local("voice", LocalSource::Path(folder("letters")), None),
        local("voices", LocalSource::Path(folder("phonemes")), None),
        local("mock", LocalSource::Mock(json!({})), Some(Task::TextToSpeech)),
        local("breaks", LocalSource::Mock(json!({ "fail": { "code": 3043, "after": 2 } })), Some(Task::TextToSpeech)),
    ];
    let aliases = [(MELO, "voice"), (AURA, "voice")];
    let aliases: BTreeMap<_, _> = aliases.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    let threads = Some(2.try_into().unwrap());
    Engine::new(EngineConfig { models, aliases, threads, ..EngineConfig::new(store) }).unwrap()
}

fn here() -> Engine {
    engine(&std::env::temp_dir().join("no-models-here"))
}

/// The sound of an answer in JSON.
async fn audio(engine: &Engine, model: &str, inputs: Value) -> Vec<u8> {
    let answer = json_of(engine.run(request(model, inputs)).await.unwrap().output);
    assert_eq!(answer.as_object().unwrap().len(), 1, "{answer}");
    STANDARD.decode(answer["audio"].as_str().unwrap()).unwrap()
}

/// The media type and the parts of an answer in bytes.
async fn streamed(engine: &Engine, model: &str, inputs: Value) -> (String, Vec<Result<Vec<u8>, AiError>>) {
    match engine.run(request(model, inputs)).await.unwrap().output {
        RunOutput::Stream { content_type, body } => {
            (content_type, body.map(|part| part.map(|bytes| bytes.to_vec())).collect().await)
        }
        RunOutput::Json(value) => panic!("JSON: {value}"),
    }
}

fn whole(parts: Vec<Result<Vec<u8>, AiError>>) -> Vec<u8> {
    parts.into_iter().flat_map(Result::unwrap).collect()
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shape_is_that_of_the_property_of_the_text() {
    let engine = here();
    assert_eq!(engine.resolve("voice").unwrap().task, Task::TextToSpeech);
    let whole_sound = audio(&engine, MELO, json!({ "prompt": "a line. of rain.", "lang": "en", "seed": 7 })).await;
    assert_eq!(
        (&whole_sound[..4], &whole_sound[8..16], number(&whole_sound, 24)),
        (&b"RIFF"[..], &b"WAVEfmt "[..], 16_000)
    );
    assert_eq!(number(&whole_sound, 4) as usize, whole_sound.len() - 8);
    assert_eq!(number(&whole_sound, 40) as usize, whole_sound.len() - 44);
    let (content_type, parts) = streamed(&engine, AURA, json!({ "text": "a line. of rain.", "seed": 7 })).await;
    assert_eq!(content_type, "audio/wav");
    assert!(parts.len() >= 3, "a header, and a part for each sentence");
    let sound = whole(parts);
    assert_eq!(sound[44..], whole_sound[44..], "the same sound");
    assert_eq!((number(&sound, 4), number(&sound, 40)), (u32::MAX, u32::MAX), "of a length that nobody knew");
    let (content_type, parts) =
        streamed(&engine, MELO, json!({ "prompt": "a line. of rain.", "seed": 7, "stream": true })).await;
    assert_eq!((content_type.as_str(), whole(parts)), ("audio/wav", sound));
}

#[tokio::test(flavor = "multi_thread")]
async fn sound_comes_in_the_form_that_was_asked_for() {
    let engine = here();
    let ask = |more: Value| {
        let mut inputs = json!({ "text": "the quiet house", "seed": 7 });
        inputs.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        inputs
    };
    let samples = whole(streamed(&engine, AURA, ask(json!({ "container": "none" }))).await.1);
    for (more, content_type, rate, bytes, header) in [
        (json!({ "encoding": "linear16", "container": "wav" }), "audio/wav", 16_000, 2, 44),
        (json!({ "container": "none" }), "audio/pcm;rate=16000;bits=16;channels=1;endianness=little", 16_000, 2, 0),
        (json!({ "encoding": "mulaw", "container": "none" }), "audio/PCMU;rate=16000;channels=1", 16_000, 1, 0),
        (json!({ "encoding": "alaw", "container": "none" }), "audio/PCMA;rate=16000;channels=1", 16_000, 1, 0),
        (json!({ "encoding": "mulaw", "sample_rate": 8000 }), "audio/wav", 8_000, 1, 46),
        (json!({ "sample_rate": 24000 }), "audio/wav", 24_000, 2, 44),
    ] {
        let (found, parts) = streamed(&engine, AURA, ask(more.clone())).await;
        assert_eq!(found, content_type, "{more}");
        let expected = (samples.len() / 2 * rate).div_ceil(16_000) * bytes + header;
        assert_eq!(whole(parts).len(), expected, "{more}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_asked_is_refused_by_name() {
    let engine = here();
    for (inputs, property) in [
        (json!({}), "'prompt'"),
        (json!({ "prompt": "a", "text": "a" }), "'/prompt'"),
        (json!({ "prompt": "" }), "'/prompt'"),
        (json!({ "text": "\n\t " }), "'/text'"),
        (json!({ "text": "?!" }), "'/text'"),
        (json!({ "prompt": ["a"] }), "'/prompt'"),
        (json!({ "prompt": "a".repeat(9000) }), "'/prompt'"),
        (json!({ "prompt": "a", "lang": "fr" }), "'/lang'"),
        (json!({ "prompt": "a", "lang": 7 }), "'/lang'"),
        (json!({ "prompt": "a", "phonemes": true }), "'/phonemes'"),
        (json!({ "prompt": "a", "phonemes": "yes" }), "'/phonemes'"),
        (json!({ "prompt": "a", "speed": 0 }), "'/speed'"),
        (json!({ "prompt": "a", "speed": "fast" }), "'/speed'"),
        (json!({ "prompt": "a", "seed": -1 }), "'/seed'"),
        (json!({ "prompt": "a", "seed": 0.5 }), "'/seed'"),
        (json!({ "text": "a", "speaker": "angus" }), "'/speaker'"),
        (json!({ "text": "a", "speaker": {} }), "'/speaker'"),
        (json!({ "text": "a", "encoding": "mp3" }), "'/encoding'"),
        (json!({ "text": "a", "encoding": "morse" }), "'/encoding'"),
        (json!({ "text": "a", "container": "ogg" }), "'/container'"),
        (json!({ "text": "a", "container": "box" }), "'/container'"),
        (json!({ "text": "a", "sample_rate": 12345 }), "'/sample_rate'"),
        (json!({ "text": "a", "sample_rate": 1e300 }), "'/sample_rate'"),
        (json!({ "text": "a", "bit_rate": 48000 }), "'/bit_rate'"),
    ] {
        let error = engine.run(request("voice", inputs.clone())).await.unwrap_err();
        assert!(error.code == 5006 && error.message.contains(property), "{inputs}: {error}");
    }
    let error = engine.run(request("voice", json!({ "prompt": "a", "lora": "x" }))).await.unwrap_err();
    assert_eq!(error.code, 5005);
    let error = engine.run(request("voices", json!({ "prompt": "house" }))).await.unwrap_err();
    assert!(error.code == 5006 && error.message.contains("phonemes"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn voices_are_numbers_and_phonemes_are_said_when_they_are_called_that() {
    let engine = here();
    let ask = |speaker: Value| json!({ "prompt": "hˈaʊs", "phonemes": true, "speaker": speaker, "seed": 7 });
    let [first, third] =
        [audio(&engine, "voices", ask(json!(0))).await, audio(&engine, "voices", ask(json!("2"))).await];
    assert_eq!(number(&first, 24), 22_050);
    assert_ne!(first, third);
    assert_eq!(audio(&engine, "voices", ask(Value::Null)).await, first, "the first is the usual one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_stands_in_and_can_break_on_the_way() {
    let engine = here();
    let sound = audio(&engine, "mock", json!({ "prompt": "one two three" })).await;
    assert_eq!(sound.len(), 44 + 3 * 2 * 1600);
    let (_, parts) = streamed(&engine, "breaks", json!({ "text": "one two three four" })).await;
    assert_eq!(parts.iter().filter(|part| part.is_ok()).count(), 3, "a header and two words");
    assert_eq!(parts.last().unwrap().as_ref().unwrap_err().code, 3043);
    let error = engine.run(request("breaks", json!({ "prompt": "one two three four" }))).await.unwrap_err();
    assert_eq!(error.code, 3043);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_the_service_say_what_can_stand_in_and_imported_models_speak() {
    let place = tempfile::tempdir().unwrap();
    let bare = Engine::new(EngineConfig::new(place.path())).unwrap();
    for (name, repository) in [
        (MELO, "hf:facebook/mms-tts-eng"),
        (AURA, "hf:facebook/mms-tts-eng"),
        ("@cf/deepgram/aura-2-es", "mms-tts-spa"),
    ] {
        assert_eq!(bare.resolve(name).unwrap().task, Task::TextToSpeech);
        let error = bare.run(request(name, json!({ "prompt": "a" }))).await.unwrap_err();
        assert!(error.code == 3046 && error.message.contains(repository) && error.message.contains(name), "{error}");
    }
    let store = Store::open(place.path());
    let installed = store.import(&"mine".parse().unwrap(), &folder("letters"), None, &mut NoProgress).unwrap();
    assert_eq!(installed.manifest.task, Task::TextToSpeech);
    let engine = Engine::new(EngineConfig::new(place.path())).unwrap();
    let sound = audio(&engine, "mine", json!({ "prompt": "kit", "seed": 1 })).await;
    assert_eq!(sound, audio(&here(), "voice", json!({ "prompt": "kit", "seed": 1 })).await, "nothing was left behind");
}
