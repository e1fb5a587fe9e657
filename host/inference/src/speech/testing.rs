//! What the tests of speech share: sound, the tiny model, and what the references gave for them.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde_json::Value;

use super::audio::Sound;

pub(super) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/speech").join(name)
}

pub(super) fn file(name: &str) -> Bytes {
    std::fs::read(golden(name)).unwrap().into()
}

pub(super) fn reference() -> Value {
    serde_json::from_slice(&file("reference.json")).unwrap()
}

pub(super) fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

/// All samples of a file.
pub(super) fn samples(bytes: Bytes) -> Result<Vec<f32>, String> {
    let mut sound = Sound::open(bytes)?;
    let mut out = Vec::new();
    sound.fill(&mut out, usize::MAX)?;
    Ok(out)
}

pub(super) fn furthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The folder of the catalogue's real model.
pub(crate) fn tiny_en() -> PathBuf {
    let folder = crate::store::default_directory().join("whisper-tiny.en");
    assert!(folder.join("config.json").exists(), "this test needs a model: host models pull whisper-tiny.en");
    folder
}
