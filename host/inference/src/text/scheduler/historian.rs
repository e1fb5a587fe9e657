//! A model whose every answer shows whether it was given the right cache.
//!
//! [`Historian`]'s cache keeps, for each place, the token that was written there, and it computes logits as a function
//! of the whole history that a sequence's block table leads to. A wrong block, a block written by two, a token left out
//! or read twice: each changes the answer. So "outputs are those of running alone" covers the cache's whole life.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use host_kernels::kv::BLOCK_TOKENS;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::backend::{AnswerFormat, FinishReason, GenerateEvent, Sampling};
use crate::text::forward::{ForwardError, ForwardPass, KvCache, Span};
use crate::text::grammar::Grammars;
use crate::text::kv_blocks::BlockPool;
use crate::text::sequence::Job;
use crate::text::testing::{VOCABULARY, greedy, vocabulary};
use crate::text::tokenizer::Vocabulary;

/// What the model was asked, and what was wrong with it.
#[derive(Default)]
pub(super) struct Record {
    pub(super) faults: Vec<String>,
    /// The last token of each prompt's first span, in order: prompts of the tests that look at it are short.
    pub(super) started: Vec<u32>,
}

/// The token at each place, where one was written.
pub(super) struct Places(Vec<Option<u32>>);

impl KvCache for Places {
    fn blocks(&self) -> usize {
        self.0.len() / BLOCK_TOKENS
    }

    fn copy(&mut self, from: u32, to: u32) -> bool {
        let start = from as usize * BLOCK_TOKENS;
        self.0.copy_within(start..start + BLOCK_TOKENS, to as usize * BLOCK_TOKENS);
        true
    }
}

pub(super) struct Historian {
    record: Arc<Mutex<Record>>,
    logits: Vec<f32>,
}

impl Historian {
    fn place(span: &Span<'_>, position: usize) -> usize {
        span.blocks[position / BLOCK_TOKENS] as usize * BLOCK_TOKENS + position % BLOCK_TOKENS
    }

    /// Each token is mostly followed by one that depends on the two before it, so that answers repeat themselves; which
    /// of the less likely ones come depends on everything.
    fn row(&mut self, places: &Places, span: &Span<'_>, end: usize) {
        let history: Vec<u32> = (0..end).filter_map(|p| places.0[Self::place(span, p)]).collect();
        let mut record = self.record.lock().unwrap();
        if history.len() < end {
            record.faults.push(format!("only {} of {end} places were written", history.len()));
        }
        let mix = |hash: u64, token: u32| (hash ^ u64::from(token)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        let (all, tail) = (history.iter().copied().fold(7, mix), history.iter().rev().take(2).copied().fold(9, mix));
        let likely = b'a' + (tail % 5) as u8;
        let poisoned = history.last() == Some(&u32::from(b'N'));
        self.logits.extend((0..VOCABULARY as u32).map(|token| match token {
            _ if poisoned => f32::NAN,
            token if [b'N', b'P'].map(u32::from).contains(&token) => -100.0,
            token if token == u32::from(likely) => 6.0,
            token if (u32::from(b'a')..u32::from(b'k')).contains(&token) => {
                (mix(all, token) >> 40) as f32 / (1 << 24) as f32 * 6.3
            }
            _ => -4.0,
        }));
    }
}

impl ForwardPass for Historian {
    type Cache = Places;
    const PREFILL: usize = 256;

    fn forward(&mut self, places: &mut Places, spans: &[Span<'_>]) -> Result<&[f32], ForwardError> {
        self.logits.clear();
        if spans.iter().any(|span| span.tokens.contains(&u32::from(b'P'))) {
            return Err(ForwardError::Batch("a scripted fault".into()));
        }
        for (i, span) in spans.iter().enumerate() {
            let end = span.position + span.tokens.len();
            let written = &span.blocks[span.position / BLOCK_TOKENS..end.div_ceil(BLOCK_TOKENS)];
            for (j, other) in spans.iter().enumerate() {
                if i != j && written.iter().any(|block| other.blocks.contains(block)) {
                    self.record.lock().unwrap().faults.push(format!("{written:?} are written and held by another"));
                }
            }
            for (position, token) in (span.position..).zip(span.tokens) {
                let place = Self::place(span, position);
                places.0[place] = Some(*token);
            }
            if span.position == 0 {
                self.record.lock().unwrap().started.push(*span.tokens.last().unwrap());
            }
        }
        for span in spans {
            let end = span.position + span.tokens.len();
            (end - span.logits..end).for_each(|place| self.row(places, span, place + 1));
        }
        Ok(&self.logits)
    }

    fn vocabulary(&self) -> usize {
        VOCABULARY
    }
}

/// One request of a scenario.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) tenant: u8,
    pub(super) prompt: Vec<u32>,
    pub(super) max_tokens: usize,
    pub(super) seed: Option<u64>,
    /// Steps from its arrival.
    pub(super) deadline: Option<u64>,
    pub(super) format: Option<AnswerFormat>,
    pub(super) stop: Option<&'static str>,
}

pub(super) struct Fixture {
    pub(super) vocabulary: Arc<Vocabulary>,
    pub(super) grammars: Grammars,
    pub(super) start: Instant,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let vocabulary = Arc::new(vocabulary());
        Self { grammars: Grammars::new(vocabulary.clone()), vocabulary, start: Instant::now() }
    }

    pub(super) fn at(&self, step: u64) -> Instant {
        self.start + Duration::from_millis(step)
    }

    pub(super) fn job(&self, asked: &Asked, now: u64) -> (Job, UnboundedReceiver<GenerateEvent>) {
        let (events, receiver) = unbounded_channel();
        let temperature = if asked.seed.is_some() { 1.0 } else { 0.0 };
        let job = Job {
            tenant: ["a", "b", "c"][usize::from(asked.tenant)].into(),
            salt: 0,
            prompt: asked.prompt.clone(),
            sampling: Sampling { temperature, seed: asked.seed, frequency_penalty: 0.1, ..greedy() },
            stop: asked.stop.map(String::from).into_iter().collect(),
            grammar: asked.format.as_ref().map(|format| self.grammars.start(format, "/p").unwrap()),
            adapter: None,
            max_tokens: asked.max_tokens,
            deadline: asked.deadline.map(|steps| self.at(now + steps)),
            events,
        };
        (job, receiver)
    }

    pub(super) fn scheduler(
        &self,
        blocks: usize,
        limits: Limits,
    ) -> (Scheduler<Historian>, BlockPool, Arc<Mutex<Record>>) {
        let record: Arc<Mutex<Record>> = Arc::default();
        let model = Historian { record: record.clone(), logits: Vec::new() };
        let places = Places(vec![None; blocks * BLOCK_TOKENS]);
        let pool = BlockPool::new(blocks as u32);
        (Scheduler::new(model, places, pool.clone(), self.vocabulary.clone(), limits), pool, record)
    }

    /// What `asked` gives with the whole machine to itself.
    pub(super) fn alone(&self, asked: &Asked) -> (String, Ended) {
        let (mut scheduler, ..) = self.scheduler(64, limits(1, 1 << 20, 1 << 20));
        let (job, mut events) = self.job(&Asked { deadline: None, ..asked.clone() }, 0);
        scheduler.submit(job, None);
        while !scheduler.is_idle() {
            scheduler.step(self.start);
        }
        collect(&mut events)
    }
}

pub(super) fn limits(sequences: usize, prefill: usize, mixed: usize) -> Limits {
    let size = |n| NonZeroUsize::new(n).unwrap();
    Limits { sequences: size(sequences), prefill: size(prefill), mixed: size(mixed), speculation: false }
}

pub(super) type Ended = Option<Result<(FinishReason, usize), u32>>;

pub(super) fn collect(events: &mut UnboundedReceiver<GenerateEvent>) -> (String, Ended) {
    let mut text = String::new();
    while let Ok(event) = events.try_recv() {
        match event {
            GenerateEvent::Text(more) => text.push_str(&more),
            GenerateEvent::Calls(_) => panic!("no text model gives calls"),
            GenerateEvent::Done { finish, usage } => return (text, Some(Ok((finish, usage.completion_tokens)))),
            GenerateEvent::Failed(error) => return (text, Some(Err(error.code))),
        }
    }
    (text, None)
}

pub(super) fn short(tenant: u8, length: usize, last: u8, max_tokens: usize) -> Asked {
    let prompt = (0..length as u32 - 1).map(|i| u32::from(b'a') + i % 26).chain([u32::from(last)]).collect();
    Asked { tenant, prompt, max_tokens, seed: None, deadline: None, format: None, stop: None }
}
