//! Encoder-decoders against transformers: states, teacher-forced logits, and what a search finds.
//!
//! The checkpoints are tiny and random, made by `golden/make_seq2seq.py`, and stored as bfloat16, float16 or float32.

use std::collections::HashMap;
use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use host_inference::seq2seq::{Generation, Transformer};
use serde::Deserialize;
use serde_json::{Map, Value};

const ARCHITECTURES: [&str; 6] = ["m2m_100", "marian", "bart", "mbart", "t5", "flan_t5"];

#[derive(Deserialize)]
struct Reference {
    cases: Vec<Case>,
    generations: Vec<Found>,
}

#[derive(Deserialize)]
struct Case {
    source: Vec<u32>,
    target: Vec<u32>,
    states: HashMap<usize, Vec<f32>>,
    logits: HashMap<usize, Vec<f32>>,
}

#[derive(Deserialize)]
struct Found {
    source: Vec<u32>,
    settings: Map<String, Value>,
    tokens: Vec<u32>,
}

fn folder(architecture: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/seq2seq").join(architecture)
}

fn reference(architecture: &str) -> Reference {
    serde_json::from_slice(&std::fs::read(folder(architecture).join("reference.json")).unwrap()).unwrap()
}

fn model(architecture: &str, threads: usize) -> Transformer {
    Transformer::load(&folder(architecture), NonZeroUsize::new(threads).unwrap()).unwrap()
}

/// Never stops.
fn on() -> Result<(), Infallible> {
    Ok(())
}

fn distance(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(found, expected)| (found - expected).abs()).fold(0.0, f32::max)
}

#[test]
fn states_and_logits_are_those_of_the_reference() {
    for architecture in ARCHITECTURES {
        let mut model = model(architecture, 2);
        let width = model.description().width;
        let (mut states, mut logits) = (0f32, 0f32);
        for case in reference(architecture).cases {
            let encoded = model.encode(&case.source, &mut on).unwrap();
            for (place, expected) in &case.states {
                states = states.max(distance(&encoded.states[place * width..(place + 1) * width], expected));
            }
            let mut beams = model.begin();
            for (step, token) in case.target.iter().enumerate() {
                let found = model.step(&encoded, &mut beams, &[*token]);
                if let Some(expected) = case.logits.get(&step) {
                    logits = logits.max(distance(found, expected));
                }
            }
        }
        println!("{architecture}: states within {states}, logits within {logits}");
        assert!(states < 1e-4 && logits < 1e-4, "{architecture}: states within {states}, logits within {logits}");
    }
}

#[test]
fn searches_find_what_transformers_finds() {
    for architecture in ARCHITECTURES {
        let mut model = model(architecture, 1);
        let vocabulary = model.description().vocabulary();
        for (index, found) in reference(architecture).generations.into_iter().enumerate() {
            let generation = Generation::read(&[&found.settings], vocabulary).unwrap();
            let encoded = model.encode(&found.source, &mut on).unwrap();
            let tokens = model.generate(&encoded, &generation, &mut on).unwrap();
            assert_eq!(tokens, found.tokens, "{architecture} {index}: {:?}", found.settings);
        }
    }
}
