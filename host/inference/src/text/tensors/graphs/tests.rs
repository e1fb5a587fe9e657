//! Recordings that repeat the work itself, on the processor.

use std::cell::Cell;

use candle_core::quantized::GgmlDType;

use super::*;
use crate::text::decoder::{Source, gguf};
use crate::text::forward::{ForwardPass, Span};
use crate::text::gguf::Header;
use crate::text::tensors::{TensorCache, TensorDecoder};
use crate::text::testing::{VOCABULARY, tiny_llama};

thread_local! {
    static RECORDED: Cell<usize> = const { Cell::new(0) };
    static LAUNCHED: Cell<usize> = const { Cell::new(0) };
}

fn count(counter: &'static std::thread::LocalKey<Cell<usize>>) {
    counter.with(|count| count.set(count.get() + 1));
}

struct Again(Box<dyn Fn() -> Result<()> + Send>);

impl Recording for Again {
    fn record(_: &Device, work: impl Fn() -> Result<()> + Send + 'static) -> Result<Option<Self>> {
        count(&RECORDED);
        work()?;
        Ok(Some(Self(Box::new(work))))
    }

    fn launch(&mut self) -> Result<()> {
        count(&LAUNCHED);
        (self.0)()
    }
}

/// A device that cannot record.
struct Never;

impl Recording for Never {
    fn record(_: &Device, _: impl Fn() -> Result<()> + Send + 'static) -> Result<Option<Self>> {
        count(&RECORDED);
        bail!("not permitted while capturing")
    }

    fn launch(&mut self) -> Result<()> {
        bail!("nothing was recorded")
    }
}

fn model() -> (TensorDecoder, TensorCache) {
    let bytes = tiny_llama(&[GgmlDType::F32]).bytes();
    let header = Header::parse(&bytes).unwrap();
    let file = header.view(&bytes);
    let description = gguf::describe(file).unwrap();
    let cache = TensorCache::new(&description, 40, &Device::Cpu).unwrap();
    (TensorDecoder::read(description, Source::Gguf(file), &Device::Cpu).unwrap(), cache)
}

fn span<'a>(tokens: &'a [u32], position: usize, blocks: &'a [u32]) -> Span<'a> {
    Span { tokens, position, blocks, logits: 1, adapter: None }
}

const TABLES: [&[u32]; 3] = [&[3, 7, 9, 12, 2, 30, 31, 32], &[5], &[20, 21]];

/// Steps with three sequences, of which two end, on recordings and without.
#[test]
fn recorded_steps_compute_what_others_do() {
    let (mut recorded, mut plain) = (model(), model());
    let texts = [vec![1; 240], vec![2; 20], vec![3; 33]];
    let prompts: Vec<Span<'_>> = texts.iter().zip(TABLES).map(|(text, table)| span(text, 0, table)).collect();
    for (model, cache) in [&mut recorded, &mut plain] {
        model.forward(cache, &prompts).unwrap();
    }
    let mut graphs = Graphs::<Again>::default();
    let mut lengths = [240, 20, 33];
    for (step, sequences) in [3, 3, 3, 2, 2, 1, 1, 1, 1].into_iter().enumerate() {
        let tokens: Vec<[u32; 1]> = (0..3).map(|i| [(step * 29 + i * 7) as u32 % VOCABULARY as u32]).collect();
        let spans: Vec<Span<'_>> = (0..sequences).map(|i| span(&tokens[i], lengths[i], TABLES[i])).collect();
        let expected = plain.0.forward(&mut plain.1, &spans).unwrap();
        let (network, blocks) = (&recorded.0.network, &recorded.1.blocks);
        let batch = Batch::of(&spans, VOCABULARY, blocks).unwrap();
        let mut found = Vec::new();
        assert!(graphs.decode(network, blocks, &batch, &mut found).unwrap());
        assert_eq!(found.len(), expected.len());
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert!((found - expected).abs() < 1e-3 * expected.abs().max(1.0), "step {step}, logit {i}");
        }
        lengths.iter_mut().for_each(|length| *length += 1);
    }
    // For 4, 2 and 1 sequences, all with tables of 8 blocks.
    assert_eq!((RECORDED.get(), LAUNCHED.get()), (3, 9));
    assert!(graphs.recorded.contains_key(&(4, 8)) && graphs.recorded.contains_key(&(1, 8)));

    // A wider step than any before moves what recordings point to.
    graphs.computed(WIDEST);
    assert_eq!(graphs.recorded.len(), 3);
    graphs.computed(WIDEST + 1);
    assert!(graphs.recorded.is_empty());
    let batch = Batch::of(&[span(&[1], 20, TABLES[1])], VOCABULARY, &recorded.1.blocks).unwrap();
    assert!(graphs.decode(&recorded.0.network, &recorded.1.blocks, &batch, &mut Vec::new()).unwrap());
    assert_eq!(graphs.recorded.len(), 1);
    graphs.release();
    assert!(graphs.recorded.is_empty());
}

#[test]
fn steps_that_are_not_recorded_are_left_to_others() {
    let (decoder, cache) = model();
    let mut graphs = Graphs::<Again>::default();
    let table = [[0u32], [1]];
    let many: Vec<Span<'_>> = std::iter::repeat_n(span(&[1], 0, &table[0]), 33).collect();
    let silent = [Span { logits: 0, ..span(&[1], 0, &table[0]) }];
    for spans in
        [&[span(&[1, 2], 0, &table[0])][..], &[span(&[1, 2], 0, &table[0]), span(&[1], 0, &table[1])], &silent, &many]
    {
        let batch = Batch::of(spans, VOCABULARY, &cache.blocks).unwrap();
        assert!(!graphs.decode(&decoder.network, &cache.blocks, &batch, &mut Vec::new()).unwrap());
    }
    assert_eq!(RECORDED.get(), 0);
}

#[test]
fn a_device_that_cannot_record_is_asked_once() {
    let (decoder, cache) = model();
    let mut graphs = Graphs::<Never>::default();
    let batch = Batch::of(&[span(&[1], 0, &[4])], VOCABULARY, &cache.blocks).unwrap();
    for _ in 0..3 {
        assert!(!graphs.decode(&decoder.network, &cache.blocks, &batch, &mut Vec::new()).unwrap());
    }
    assert_eq!(RECORDED.get(), 1);
}
