use std::num::NonZeroUsize;
use std::path::Path;

use super::*;
use crate::speech::mel::MelSpectrogram;
use crate::speech::testing::{file, furthest, golden, numbers, reference, samples, tiny_en};
use crate::store::read_config;

fn load(folder: &Path, precision: Precision, threads: usize) -> Network {
    let config = Config::parse(read_config(folder).unwrap()).unwrap();
    Network::load(folder, config, precision, NonZeroUsize::new(threads).unwrap()).unwrap()
}

/// What the network hears, and the encoder's states.
fn hear(network: &mut Network, sound: &str) -> (Heard, Vec<f32>) {
    let sound = samples(file(sound)).unwrap();
    let spectrogram = MelSpectrogram::new(network.config.mels).compute(&sound, network.config.frames());
    (network.hear(&spectrogram), network.states(&spectrogram))
}

/// The logits of `rows` alone.
fn read(network: &mut Network, heard: &Heard, cache: &mut Cache, rows: &[Row<'_>], wanted: &[usize]) -> Vec<f32> {
    let mut groups = [Group { heard, cache, rows, wanted, watch: None, logits: Vec::new() }];
    network.read(&mut groups);
    let [group] = groups;
    group.logits
}

/// The logits after each of `tokens`, read at once.
fn logits(network: &mut Network, heard: &Heard, tokens: &[u32]) -> Vec<Vec<f32>> {
    let slots: Vec<u32> = (0..tokens.len() as u32).collect();
    let rows: Vec<Row<'_>> = tokens
        .iter()
        .enumerate()
        .map(|(at, token)| Row { token: *token, position: at, slot: at as u32, sees: &slots[..=at] })
        .collect();
    let wanted: Vec<usize> = (0..tokens.len()).collect();
    let all = read(network, heard, &mut Cache::default(), &rows, &wanted);
    all.chunks(network.config.vocabulary).map(<[f32]>::to_vec).collect()
}

fn tokens(value: &serde_json::Value) -> Vec<u32> {
    numbers(value).into_iter().map(|token| token as u32).collect()
}

#[test]
fn a_tiny_model_is_the_reference_s() {
    let reference = &reference()["tiny"];
    let mut network = load(&golden("tiny"), Precision::Float, 2);
    let (heard, states) = hear(&mut network, "clip.wav");
    let (first, last) = (numbers(&reference["encoder_first"]), numbers(&reference["encoder_last"]));
    let far = furthest(&states[..32], &first).max(furthest(&states[49 * 32..], &last));
    // float32 sums in another order, through four blocks; logits are of the order of 10.
    assert!(far < 1e-4, "states: {far}");
    let logits = logits(&mut network, &heard, &tokens(&reference["tokens"]));
    let far = furthest(&logits[2], &numbers(&reference["logits_third"]))
        .max(furthest(&logits[9], &numbers(&reference["logits_last"])));
    assert!(far < 1e-3, "logits: {far}");
}

#[test]
fn tokens_one_by_one_give_what_they_give_at_once() {
    let all = tokens(&reference()["tiny"]["tokens"]);
    for precision in [Precision::Float, Precision::Int8] {
        let mut network = load(&golden("tiny"), precision, 1);
        let (heard, _) = hear(&mut network, "clip.wav");
        let at_once = logits(&mut network, &heard, &all);
        let mut cache = Cache::default();
        // Slots in any order: here backwards.
        let slots: Vec<u32> = (0..all.len() as u32).map(|at| 20 - at).collect();
        for (at, token) in all.iter().enumerate() {
            let row = Row { token: *token, position: at, slot: slots[at], sees: &slots[..=at] };
            let one = read(&mut network, &heard, &mut cache, &[row], &[0]);
            assert!(furthest(&one, &at_once[at]) < 1e-4, "{precision:?} {at}");
        }
    }
}

#[test]
fn requests_read_together_give_what_each_gives_alone() {
    let all = tokens(&reference()["tiny"]["tokens"]);
    for precision in [Precision::Float, Precision::Int8] {
        let mut network = load(&golden("tiny"), precision, 2);
        let sound = samples(file("clip.wav")).unwrap();
        let window = |network: &mut Network, from: usize| {
            let spectrogram = MelSpectrogram::new(network.config.mels).compute(&sound[from..], network.config.frames());
            network.hear(&spectrogram)
        };
        let heard = [0, 2000, 4000].map(|from| window(&mut network, from));
        // As many tokens as it is the turn of, so that groups of one row and of many stand side by side.
        let texts: Vec<&[u32]> = vec![&all, &all[..1], &all[2..7]];
        let slots: Vec<u32> = (0..all.len() as u32).collect();
        let rows = |text: &[u32]| -> Vec<Row<'_>> {
            let row =
                |(at, token): (usize, &u32)| Row { token: *token, position: at, slot: at as u32, sees: &slots[..=at] };
            text.iter().enumerate().map(row).collect()
        };
        let rows: Vec<_> = texts.iter().map(|text| rows(text)).collect();
        let wanted: Vec<Vec<usize>> = texts.iter().map(|text| (0..text.len()).collect()).collect();
        let alone: Vec<Vec<f32>> =
            (0..3).map(|at| read(&mut network, &heard[at], &mut Cache::default(), &rows[at], &wanted[at])).collect();
        let mut caches = [(); 3].map(|()| Cache::default());
        let heads = vec![(0, 1), (1, 0)];
        let mut watch = Watch { scores: vec![Vec::new(); heads.len()], heads };
        let groups = heard.iter().zip(&mut caches).zip(rows.iter().zip(&wanted));
        let mut groups: Vec<Group<'_, '_>> = groups
            .map(|((heard, cache), (rows, wanted))| Group {
                heard,
                cache,
                rows,
                wanted,
                watch: None,
                logits: Vec::new(),
            })
            .collect();
        groups[1].watch = Some(&mut watch);
        network.read(&mut groups);
        for (group, alone) in groups.iter().zip(&alone) {
            // Products of few rows and of many add in another order.
            assert!(furthest(&group.logits, alone) < 1e-4, "{precision:?}");
        }
        assert!(watch.scores.iter().all(|scores| scores.len() == network.config.encoder.positions), "one row was read");
    }
}

#[test]
fn tiny_en_is_the_reference_s() {
    let reference = &reference()["tiny_en"];
    for precision in [Precision::Float, Precision::Int8] {
        let mut network = load(&tiny_en(), precision, 2);
        let (heard, states) = hear(&mut network, "jfk.flac");
        let mean = states.iter().sum::<f32>() / states.len() as f32;
        let exact = precision == Precision::Float;
        // Eight bits are 1 % of a product; the reference's logits lie around 10.
        let (near, scores) = if exact { (1e-3, 1e-3) } else { (0.3, 0.5) };
        assert!((mean - reference["encoder_mean"].as_f64().unwrap() as f32).abs() < near, "{precision:?} {mean}");
        let last = &states[1499 * 384..][..8];
        let far = furthest(last, &numbers(&reference["encoder_last8"]));
        assert!(far < near, "{precision:?} states: {far}");
        let logits = logits(&mut network, &heard, &tokens(&reference["tokens"]));
        let mut most = 0.0_f32;
        for (row, top) in logits.iter().zip(reference["top5"].as_array().unwrap()) {
            for pair in top.as_array().unwrap() {
                let [token, value] = numbers(pair)[..] else { panic!() };
                most = most.max((row[token as usize] - value).abs());
            }
            let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
            assert_eq!(best as u64, top[0][0].as_u64().unwrap(), "{precision:?}");
        }
        assert!(most < scores, "{precision:?} logits: {most}");
    }
}

#[test]
fn weights_that_are_not_there_or_no_numbers_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(golden("tiny").join(name), folder.path().join(name)).unwrap();
    }
    let mut config = Config::parse(read_config(folder.path()).unwrap()).unwrap();
    config.decoder.layers = 3;
    let error = Network::load(folder.path(), config.clone(), Precision::Float, NonZeroUsize::MIN).err().unwrap();
    assert!(error.contains("decoder.layers.2") && error.contains("model.safetensors"), "{error}");
    config.decoder.layers = 2;
    config.vocabulary = 7;
    let error = Network::load(folder.path(), config, Precision::Float, NonZeroUsize::MIN).err().unwrap();
    assert!(error.contains("embed_tokens"), "{error}");
}
