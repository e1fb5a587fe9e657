use candle_core::quantized::GgmlDType;
use futures::StreamExt;
use futures::executor::block_on;
use futures::future::join_all;
use host_kernels::threads::ThreadPool;

use std::num::NonZeroUsize;

use host_kernels::kv::KvStore;

use super::*;
use crate::backend::{FinishReason, GenerateEvent, GenerateRequest, Sampling, TextGeneration, Usage};
use crate::text::forward::{ForwardError, ForwardPass, Span};
use crate::text::gguf::Header;
use crate::text::testing::{VOCABULARY, Writer, file, greedy, request, tiny_llama};
use crate::text::weights::Compute;
use crate::text::{LoadOptions, TextModel};

fn read(writer: &Writer, threads: usize) -> (Decoder, KvStore) {
    let bytes = writer.bytes();
    let header = Header::parse(&bytes).unwrap();
    let file = header.view(&bytes);
    let description = gguf::describe(file).unwrap();
    let store = KvStore::new(description.kv_shape(), 16);
    let pool = ThreadPool::new("test", NonZeroUsize::new(threads).unwrap()).unwrap();
    (Decoder::read(description, Source::Gguf(file), Compute::new(pool)).unwrap(), store)
}

fn tokens(seed: u32, count: u32) -> Vec<u32> {
    (0..count).map(|i| (i * 37 + seed * 101 + i * i) % 256).collect()
}

/// The last row's logits when the prompt is read in pieces of `piece` tokens.
fn logits(model: &mut Decoder, store: &mut KvStore, prompt: &[u32], piece: usize, blocks: &[u32]) -> Vec<f32> {
    let mut last = Vec::new();
    for (i, tokens) in prompt.chunks(piece).enumerate() {
        let span = Span { tokens, position: i * piece, blocks, logits: 1, adapter: None };
        last = model.forward(store, &[span]).unwrap().to_vec();
    }
    last
}

#[test]
fn pieces_of_a_prompt_and_other_sequences_change_no_bit() {
    for kind in [GgmlDType::Q4_0, GgmlDType::Q4_1, GgmlDType::Q8_0] {
        let (mut model, mut store) = read(&tiny_llama(&[kind]), 2);
        let prompts = [tokens(1, 70), tokens(2, 33), tokens(3, 1)];
        let tables = [[4u32, 1, 9], [0, 7, 2], [3, 5, 6]];
        let mut whole = Vec::new();
        for (prompt, table) in prompts.iter().zip(&tables) {
            let expected = logits(&mut model, &mut store, prompt, 70, table);
            for piece in [1, 7, 32] {
                let found = logits(&mut model, &mut store, prompt, piece, table);
                assert_eq!(found, expected, "{kind:?} in pieces of {piece}");
            }
            whole.extend(expected);
        }
        let spans = prompts.iter().zip(&tables);
        let spans: Vec<Span<'_>> =
            spans.map(|(tokens, blocks)| Span { tokens, position: 0, blocks, logits: 1, adapter: None }).collect();
        assert_eq!(model.forward(&mut store, &spans).unwrap(), whole, "{kind:?} together");
    }
}

#[test]
fn logits_of_several_tokens_are_those_of_each() {
    let (mut model, mut store) = read(&tiny_llama(&[GgmlDType::Q4_1]), 2);
    let (prompt, other) = (tokens(1, 40), tokens(2, 9));
    let rows = [37, 38, 39, 40].map(|end| logits(&mut model, &mut store, &prompt[..end], 40, &[0, 1]));
    let last = logits(&mut model, &mut store, &other, 9, &[2]);
    let found = model.forward(
        &mut store,
        &[
            Span { tokens: &prompt, position: 0, blocks: &[0, 1], logits: 4, adapter: None },
            Span { tokens: &other[..3], position: 0, blocks: &[3], logits: 0, adapter: None },
            Span { tokens: &other, position: 0, blocks: &[2], logits: 1, adapter: None },
        ],
    );
    assert_eq!(found.unwrap(), [rows.concat(), last].concat());
}

/// The same weights through candle as float32 and through our tiles differ by the rounding of activations alone.
#[test]
fn tiles_and_candle_agree() {
    let prompt = tokens(5, 40);
    for kind in [GgmlDType::Q4_0, GgmlDType::Q4_1, GgmlDType::Q8_0] {
        let (mut tiled, mut store) = read(&tiny_llama(&[kind]), 1);
        let (mut exact, mut exact_store) = read(&tiny_llama(&[kind]).dequantized(), 1);
        let found = logits(&mut tiled, &mut store, &prompt, 40, &[0, 1]);
        let expected = logits(&mut exact, &mut exact_store, &prompt, 40, &[0, 1]);
        let error: f32 = found.iter().zip(&expected).map(|(a, b)| (a - b) * (a - b)).sum();
        let size: f32 = expected.iter().map(|b| b * b).sum();
        let difference = (error / size).sqrt();
        // 8-bit activations carry about 0.6 % of noise each, which ten products in a row add up; measured: 2.2 to 3.2 %.
        assert!(difference < 0.05, "{kind:?}: {difference}");
    }
}

#[test]
fn weights_of_every_kind_run() {
    for kind in [GgmlDType::F32, GgmlDType::F16, GgmlDType::Q5_0] {
        let (mut model, mut store) = read(&tiny_llama(&[kind, GgmlDType::Q8_0]), 2);
        let row = logits(&mut model, &mut store, &tokens(1, 40), 13, &[0, 1]);
        assert!(row.len() == VOCABULARY && row.iter().all(|l| l.is_finite()), "{kind:?}");
    }
}

#[test]
fn batches_that_cannot_be_computed_are_errors() {
    let (mut model, mut store) = read(&tiny_llama(&[GgmlDType::Q8_0]), 1);
    for span in [
        Span { tokens: &[], position: 0, blocks: &[0], logits: 1, adapter: None },
        Span { tokens: &[1, 2], position: 31, blocks: &[0], logits: 1, adapter: None },
        Span { tokens: &[VOCABULARY as u32], position: 0, blocks: &[0], logits: 1, adapter: None },
        Span { tokens: &[1, 2], position: 0, blocks: &[0], logits: 3, adapter: None },
    ] {
        assert!(matches!(model.forward(&mut store, &[span]), Err(ForwardError::Batch(_))));
    }
}

#[test]
fn the_rotation_follows_the_files_factors() {
    let factors: Vec<u8> = (1..=8u8).flat_map(|i| f32::from(i).to_le_bytes()).collect();
    let writer = tiny_llama(&[GgmlDType::Q8_0]).tensor("rope_freqs.weight", &[8], 0, factors);
    let bytes = writer.float("llama.rope.freq_base", 500_000.0).bytes();
    let header = Header::parse(&bytes).unwrap();
    let file = header.view(&bytes);
    for (j, frequency) in gguf::describe(file).unwrap().ropes[0].turns.frequencies.iter().enumerate() {
        let expected = 500_000f64.powf(-2.0 * j as f64 / 16.0) / (j + 1) as f64;
        assert!((f64::from(*frequency) - expected).abs() < 1e-5 * expected, "{j}: {frequency} {expected}");
    }
}

async fn answer(model: &TextModel, request: GenerateRequest) -> (String, FinishReason, Usage) {
    let mut events = model.generate(request).await.unwrap();
    let mut text = String::new();
    while let Some(event) = events.next().await {
        match event {
            GenerateEvent::Text(more) => text.push_str(&more),
            GenerateEvent::Calls(_) => panic!("no text model gives calls"),
            GenerateEvent::Done { finish, usage } => return (text, finish, usage),
            GenerateEvent::Failed(error) => panic!("{error}"),
        }
    }
    panic!("no end")
}

#[test]
fn answers_are_the_same_alone_and_together() {
    let (_directory, path) = file(&tiny_llama(&[GgmlDType::Q4_1, GgmlDType::Q8_0]).bytes());
    let model = TextModel::load(&path, LoadOptions::default()).unwrap();
    let requests: Vec<GenerateRequest> = (0..12u64)
        .map(|i| {
            let prompt: String = (0..5 + i * 11).map(|j| char::from(b'a' + ((i * 7 + j * j) % 26) as u8)).collect();
            let sampling =
                Sampling { temperature: 1.0, seed: Some(i + 1), top_k: 40, repetition_penalty: 1.1, ..greedy() };
            GenerateRequest { sampling, ..request(&prompt, 20 + i as usize) }
        })
        .collect();
    let alone: Vec<_> = requests.iter().map(|r| block_on(answer(&model, r.clone()))).collect();
    let together = block_on(join_all(requests.iter().map(|r| answer(&model, r.clone()))));
    assert_eq!(alone, together);
    let different: std::collections::HashSet<&str> = alone.iter().map(|(text, _, _)| text.as_str()).collect();
    assert!(different.len() > 6, "the answers depend on their prompts");
    for ((_, finish, usage), request) in alone.iter().zip(&requests) {
        assert_eq!(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
        assert!(*finish == FinishReason::Stop || usage.completion_tokens == request.max_tokens);
    }
}

#[test]
fn guessing_changes_no_answer() {
    let (_directory, path) = file(&tiny_llama(&[GgmlDType::Q4_1, GgmlDType::Q8_0]).bytes());
    let load = |speculation| TextModel::load(&path, LoadOptions { speculation, ..LoadOptions::default() }).unwrap();
    let requests: Vec<GenerateRequest> = (0..8u64)
        .map(|i| {
            // A model of random weights says what its sharpened favourites are, which repeat themselves.
            let sampling = Sampling { temperature: 0.3 * (i % 3) as f32, seed: Some(i + 1), top_k: 3, ..greedy() };
            GenerateRequest { sampling, ..request(&"abcabd".repeat(3 + i as usize), 100) }
        })
        .collect();
    let (plain, guessing) = (load(false), load(true));
    let ask = |model: &TextModel| block_on(join_all(requests.iter().map(|r| answer(model, r.clone()))));
    assert_eq!(ask(&plain), ask(&guessing));
    for request in requests {
        assert_eq!(block_on(answer(&plain, request.clone())), block_on(answer(&guessing, request)));
    }
    let (drafted, right) = (guessing.statistics().tokens_drafted(), guessing.statistics().drafts_accepted());
    assert!(right > 0 && right < drafted, "{right} of {drafted} guesses were right");
    assert_eq!(plain.statistics().tokens_drafted(), 0);
}
