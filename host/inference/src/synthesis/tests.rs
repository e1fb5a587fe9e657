//! Each stage against transformers, with the noise that it was given: tiny checkpoints of random weights, which
//! `tests/golden/make_synthesis.py` made.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::config::Config;
use super::text::Encoded;
use super::tokens::Tokens;
use super::vits::Vits;
use super::{Settings, Synthesizer};
use crate::AiError;
use crate::backend::{SpeakRequest, TextToSpeech};
use crate::store::read_config;
use crate::tensors::Tensors;
use futures::StreamExt;

/// Of a stage's range. Sums in another order differ in the sixth digit, and the longest stage is a dozen layers; a wrong
/// padding, order or sign shows in the first.
const TOLERANCE: f32 = 1e-4;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/synthesis").join(name)
}

fn golden() -> Value {
    serde_json::from_slice(&std::fs::read(folder("golden.json")).unwrap()).unwrap()
}

fn model(name: &str, threads: usize) -> Vits {
    let config = Config::parse(read_config(&folder(name)).unwrap()).unwrap();
    Vits::load(&folder(name), config, threads.try_into().unwrap()).unwrap()
}

struct Stages(Tensors);

impl Stages {
    fn of(name: &str) -> Stages {
        Stages(Tensors::open_files(&[folder(name).join("stages.safetensors")]).unwrap())
    }

    fn get(&mut self, stage: &str) -> Vec<f32> {
        let shape = self.0.shape(stage).unwrap().to_vec();
        self.0.read(stage, &shape).unwrap()
    }

    fn check(&mut self, stage: &str, got: &[f32]) {
        let expected = self.get(stage);
        assert_eq!(got.len(), expected.len(), "{stage}");
        let (least, most) = expected.iter().fold((0.0_f32, 0.0_f32), |(l, m), value| (l.min(*value), m.max(*value)));
        let worst = got.iter().zip(&expected).map(|(got, expected)| (got - expected).abs()).fold(0.0, f32::max);
        assert!(worst <= TOLERANCE * (most - least), "{stage} is off by {worst} in a range of {}", most - least);
    }
}

fn numbers(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|number| number.as_u64().unwrap() as u32).collect()
}

#[test]
fn each_stage_is_the_reference_s() {
    for name in ["letters", "phonemes"] {
        let (model, mut stages, golden) = (model(name, 2), Stages::of(name), golden());
        let compute = &model.compute;
        let voice = model.voice(golden["speaker"][name].as_u64().unwrap_or(0) as usize);
        let encoded = model.text.encode(compute, &numbers(&golden["ids"][name]));
        stages.check("states", &encoded.states);
        stages.check("means", &encoded.means);
        stages.check("log_variances", &encoded.log_deviations);
        // What follows is given the reference's values, so that no stage is judged by the one before it.
        let states = stages.get("states");
        let chance = if model.durations.noise() > 0 { stages.get("duration_noise") } else { Vec::new() };
        let chance: Vec<f32> = chance.iter().map(|value| value * model.config.duration_noise).collect();
        let logs = model.durations.forward(compute, &states, voice, &chance);
        stages.check("log_durations", &logs);
        let frames = model.frames(&stages.get("log_durations"), 1.0).unwrap();
        let (means, log_deviations) = (stages.get("means"), stages.get("log_variances"));
        let encoded = Encoded { states, means, log_deviations };
        let noise = stages.get("prior_noise");
        stages.check("prior", &model.prior(&encoded, &frames, &noise));
        let mut x = stages.get("prior");
        model.flow.undo(compute, &mut x, voice, || Ok::<_, AiError>(())).unwrap();
        stages.check("latents", &x);
        let latents = stages.get("latents");
        let waveform = model.decoder.forward(compute, &latents, voice, || Ok::<_, AiError>(())).unwrap();
        stages.check("waveform", &waveform);
    }
}

#[test]
fn texts_are_the_reference_s_tokens() {
    let tokens = Tokens::load(&folder("letters"), 1000).unwrap();
    let plain = tempfile::tempdir().unwrap();
    std::fs::copy(folder("letters/vocab.json"), plain.path().join("vocab.json")).unwrap();
    let config = json!({
        "pad_token": "k", "unk_token": "<unk>", "language": "ron", "add_blank": false, "normalize": false,
        "phonemize": false,
    });
    std::fs::write(plain.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let plain = Tokens::load(plain.path(), 1000).unwrap();
    for (key, tokens) in [("normalized", &tokens), ("plain", &plain)] {
        for pair in golden()["tokens"][key].as_array().unwrap() {
            let text = pair[0].as_str().unwrap();
            assert_eq!(tokens.encode(text).unwrap(), numbers(&pair[1]), "{key}: {text:?}");
        }
    }
    let few = Tokens::load(&folder("letters"), 9).unwrap();
    assert!(few.encode("azure").unwrap().iter().all(|token| *token < 9), "what has no vector is a blank");
}

#[test]
fn parts_of_a_waveform_are_those_of_the_whole() {
    let model = model("letters", 2);
    // Two parts and a bit.
    let frames = 600;
    let x: Vec<f32> = (0..frames * 8).map(|at| (at as f32 * 0.37).sin() * 1.5).collect();
    let go_on = || Ok::<_, AiError>(());
    let whole = model.decoder.forward(&model.compute, &x, &[], go_on).unwrap();
    assert_eq!(whole.len(), frames * 8);
    // The end of the whole is that of its last frames alone, but for what depends on those before.
    let tail = model.decoder.forward(&model.compute, &x[400 * 8..], &[], go_on).unwrap();
    let apart = whole[440 * 8..].iter().zip(&tail[40 * 8..]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart < 1e-5, "{apart}");
}

fn asked(text: &str) -> SpeakRequest {
    SpeakRequest {
        tenant: "t".into(),
        property: "prompt",
        text: text.to_owned(),
        phonemes: false,
        language: None,
        speaker: None,
        speed: 1.0,
        seed: Some(7),
        deadline: None,
    }
}

fn synthesizer(name: &str, threads: usize) -> Synthesizer {
    let (threads, queue) = (threads.try_into().unwrap(), 4.try_into().unwrap());
    Synthesizer::load(&folder(name), Settings { threads, queue }).unwrap()
}

async fn said(model: &Synthesizer, request: SpeakRequest) -> Vec<Vec<f32>> {
    let stream = model.speak(request).await.unwrap();
    stream.map(Result::unwrap).collect().await
}

async fn refusal(model: &Synthesizer, request: SpeakRequest) -> AiError {
    model.speak(request).await.err().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_determines_the_sound_whatever_the_threads() {
    let text = "the quiet house. a line of rain, then nothing.";
    let [one, two] = [synthesizer("letters", 1), synthesizer("letters", 3)];
    let first = said(&one, asked(text)).await;
    assert_eq!(first.len(), 2, "a piece for each sentence");
    assert_eq!(said(&two, asked(text)).await, first);
    assert_ne!(said(&one, SpeakRequest { seed: Some(8), ..asked(text) }).await, first);
    assert!(first.iter().flatten().all(|sample| (-1.0..=1.0).contains(sample)));
    let pause = &first[0][first[0].len() - 3200..];
    assert!(pause.iter().all(|sample| *sample == 0.0) && first[1].iter().any(|sample| *sample != 0.0));
    let slow = said(&one, SpeakRequest { speed: 0.5, ..asked(text) }).await;
    assert!(slow[1].len() > first[1].len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_said_is_refused_by_name() {
    let (letters, phonemes) = (synthesizer("letters", 1), synthesizer("phonemes", 1));
    let ask = |speaker: Option<&str>, language: Option<&str>| SpeakRequest {
        speaker: speaker.map(str::to_owned),
        language: language.map(str::to_owned),
        ..asked("house")
    };
    let in_phonemes = |speaker: Option<&str>| SpeakRequest { phonemes: true, ..ask(speaker, None) };
    for (model, request, name) in [
        (&letters, asked("!?."), "'/prompt'"),
        (&letters, asked("日本"), "'/prompt'"),
        (&letters, ask(Some("angus"), None), "'/speaker'"),
        (&letters, ask(Some("1"), None), "'/speaker'"),
        (&letters, ask(None, Some("fr")), "'/lang'"),
        (&letters, SpeakRequest { phonemes: true, ..asked("a") }, "'/phonemes'"),
        (&phonemes, asked("house"), "'/prompt'"),
        (&phonemes, in_phonemes(Some("3")), "'/speaker'"),
        (&phonemes, in_phonemes(Some("-1")), "'/speaker'"),
    ] {
        let error = refusal(model, request).await;
        assert!(error.code == 5006 && error.message.contains(name), "{error}");
    }
    for language in ["en", "EN-us", "eng"] {
        assert_eq!(said(&letters, ask(Some("0"), Some(language))).await.len(), 1);
    }
    let voices = [said(&phonemes, in_phonemes(Some("0"))).await, said(&phonemes, in_phonemes(Some("2"))).await];
    assert_ne!(voices[0], voices[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_nobody_waits_for_is_not_said_to_its_end() {
    let model = synthesizer("letters", 1);
    let mut stream = model.speak(asked(&"one more line. ".repeat(300))).await.unwrap();
    assert!(stream.next().await.unwrap().is_ok());
    drop(stream);
    // The line is free at once: the rest was never made.
    assert_eq!(said(&model, asked("now this.")).await.len(), 1);
    let late = SpeakRequest { deadline: Some(std::time::Instant::now()), ..asked("a") };
    assert_eq!(refusal(&model, late).await, AiError::timeout());
}

#[test]
fn romanized_models_say_what_they_need_and_files_what_is_wrong_with_them() {
    let copy = tempfile::tempdir().unwrap();
    for file in ["vocab.json", "config.json", "model.safetensors"] {
        std::fs::copy(folder("letters").join(file), copy.path().join(file)).unwrap();
    }
    std::fs::write(copy.path().join("tokenizer_config.json"), r#"{"is_uroman":true,"phonemize":false}"#).unwrap();
    let tokens = Tokens::load(copy.path(), 32).unwrap();
    assert!(tokens.encode("annyeong").is_ok());
    assert!(tokens.encode("안녕").unwrap_err().to_string().contains("uroman"));
    for text in ["[]", r#"{"a":-1}"#, r#"{"":1}"#, r#"{"a":1.5}"#, "{"] {
        std::fs::write(copy.path().join("vocab.json"), text).unwrap();
        assert!(Tokens::load(copy.path(), 32).unwrap_err().contains("vocab.json"), "{text}");
    }
    std::fs::write(copy.path().join("vocab.json"), r#"{"a":1}"#).unwrap();
    let original = read_config(copy.path()).unwrap();
    let error = |changes: Value| {
        let mut config = original.clone();
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        std::fs::write(copy.path().join("config.json"), config.to_string()).unwrap();
        let settings = Settings { threads: 1.try_into().unwrap(), queue: 1.try_into().unwrap() };
        Synthesizer::load(copy.path(), settings).err().unwrap()
    };
    let wrong = error(json!({ "ffn_dim": 25 }));
    assert!(wrong.contains("feed_forward.conv_1.weight") && wrong.contains("model.safetensors"), "{wrong}");
    // The same weights, looking so far that no part of a waveform would be small.
    let wide = error(json!({ "resblock_dilation_sizes": [[64, 64], [64, 64]], "upsample_rates": [2, 2] }));
    assert!(wide.contains("resblock_dilation_sizes"), "{wide}");
}
