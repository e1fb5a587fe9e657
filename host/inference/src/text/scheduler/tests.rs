use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use futures::{FutureExt, StreamExt};

use crate::AiError;
use crate::backend::{
    FinishReason, GenerateEvent, GenerateRequest, GenerateStream, Message, Prompt, TextGeneration, Usage,
};
use crate::text::testing::{request, scripted};
use crate::text::{LoadOptions, TextModel};

fn options(queue: usize, sequences: usize) -> LoadOptions {
    LoadOptions { queue, sequences: NonZeroUsize::new(sequences).unwrap(), ..LoadOptions::default() }
}

fn start(model: &TextModel, request: GenerateRequest) -> GenerateStream {
    block_on(model.generate(request)).unwrap()
}

fn refused(model: &TextModel, request: GenerateRequest) -> AiError {
    block_on(model.generate(request)).err().unwrap()
}

/// The text, and how it ended.
fn collect(stream: GenerateStream) -> (String, Result<(FinishReason, usize), AiError>) {
    let mut text = String::new();
    for event in block_on(stream.collect::<Vec<_>>()) {
        match event {
            GenerateEvent::Text(more) => text.push_str(&more),
            GenerateEvent::Calls(_) => panic!("no text model gives calls"),
            GenerateEvent::Done { finish, usage } => return (text, Ok((finish, usage.completion_tokens))),
            GenerateEvent::Failed(error) => return (text, Err(error)),
        }
    }
    panic!("no end")
}

/// Waits for something that another thread brings about.
fn until(what: &str, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(120), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn an_answer_comes_token_by_token_and_ends() {
    let scripted = scripted(&options(4, 4), 8, false);
    let events = block_on(start(&scripted.model, request("xyz", 9)).collect::<Vec<_>>());
    assert_eq!(events.len(), 5);
    for (event, byte) in events.iter().zip(["{", "|", "}", "~"]) {
        assert_eq!(*event, GenerateEvent::Text(byte.into()));
    }
    let usage = Usage { prompt_tokens: 3, completion_tokens: 4, total_tokens: 7 };
    assert_eq!(events[4], GenerateEvent::Done { finish: FinishReason::Stop, usage });
    assert_eq!(collect(start(&scripted.model, request("a", 3))), ("bcd".into(), Ok((FinishReason::Length, 3))));
}

#[test]
fn stop_texts_end_an_answer_and_are_not_shown() {
    let scripted = scripted(&options(4, 4), 8, false);
    let stopping = GenerateRequest { stop: vec!["fgh".into(), "zzz".into()], ..request("a", 50) };
    assert_eq!(collect(start(&scripted.model, stopping)), ("bcde".into(), Ok((FinishReason::Stop, 7))));
    let held = GenerateRequest { stop: vec!["def".into()], ..request("a", 4) };
    assert_eq!(collect(start(&scripted.model, held)), ("bcde".into(), Ok((FinishReason::Length, 4))));
}

#[test]
fn bytes_that_begin_no_character_are_replaced() {
    let scripted = scripted(&options(4, 4), 8, false);
    // The prompt ends in byte 0x82, so the answer is 0x83 and 0x84.
    let (text, end) = collect(start(&scripted.model, request("\u{c2}", 2)));
    assert_eq!((text.as_str(), end), ("\u{fffd}\u{fffd}", Ok((FinishReason::Length, 2))));
    // 0xc2 to 0xc5 each could begin one, and none gets its rest.
    let (text, _) = collect(start(&scripted.model, request("\u{c2}", 0x43)));
    assert_eq!(text, "\u{fffd}".repeat(0x43));
}

#[test]
fn what_cannot_fit_is_refused_before_any_work() {
    let scripted = scripted(&options(4, 4), 2, false);
    let error = refused(&scripted.model, request("aaaa", 61));
    assert_eq!((error.code, error.status), (5021, 413));
    assert!(error.message.contains("(65)") && error.message.contains("(64)"), "{error}");
    assert_eq!(refused(&scripted.model, request(&"a".repeat(1 << 20), 1)).code, 5021);
    assert_eq!(refused(&scripted.model, request("a", usize::MAX)).code, 5021);
    assert_eq!(refused(&scripted.model, request("", 1)).code, 5006);
    assert_eq!(scripted.steps.load(Ordering::SeqCst), 0);
    assert!(collect(start(&scripted.model, request("xyz", 61))).1.is_ok());
}

#[test]
fn a_full_queue_refuses_and_then_takes_again() {
    let scripted = scripted(&options(2, 1), 8, true);
    let first = start(&scripted.model, request("z", 9));
    until("the first step", || scripted.steps.load(Ordering::SeqCst) == 1);
    let waiting = [start(&scripted.model, request("y", 9)), start(&scripted.model, request("x", 9))];
    let error = refused(&scripted.model, request("w", 9));
    assert_eq!((error.code, error.status), (3040, 429));
    assert!(error.retry_after.is_some());
    // Another tenant has places of its own.
    let other = start(&scripted.model, GenerateRequest { tenant: "other".into(), ..request("v", 9) });
    drop(scripted.gate);
    assert_eq!(collect(first).0, "{|}~");
    for stream in waiting {
        assert!(collect(stream).1.is_ok());
    }
    assert!(collect(other).1.is_ok());
    assert!(collect(start(&scripted.model, request("z", 9))).1.is_ok());
}

#[test]
fn a_dropped_stream_ends_its_generation_and_frees_its_blocks() {
    let scripted = scripted(&options(4, 4), 8, true);
    let gate = scripted.gate.clone().unwrap();
    let stream = start(&scripted.model, request("!", 90));
    gate.send(()).unwrap();
    until("two steps", || scripted.steps.load(Ordering::SeqCst) == 2);
    assert_eq!(scripted.model.free_blocks(), (7, 8));
    drop(stream);
    gate.send(()).unwrap();
    until("the blocks' return", || scripted.model.free_blocks() == (8, 8));
    // Waiting ones are forgotten too, without a step for them.
    let running = start(&scripted.model, request("z", 200));
    until("a third step", || scripted.steps.load(Ordering::SeqCst) == 3);
    drop(start(&scripted.model, request("a", 200)));
    drop((scripted.gate, gate));
    assert_eq!(collect(running).0, "{|}~");
    assert_eq!(*scripted.started.lock().unwrap(), b"!z");
    until("the end", || scripted.model.free_blocks() == (8, 8));
}

#[test]
fn a_panic_ends_what_is_in_flight_and_not_the_model() {
    let scripted = scripted(&options(8, 8), 8, true);
    let bystander = start(&scripted.model, request("!", 60));
    until("a step", || scripted.steps.load(Ordering::SeqCst) == 1);
    let guilty = start(&scripted.model, request("aP", 9));
    drop(scripted.gate);
    for stream in [bystander, guilty] {
        let error = collect(stream).1.unwrap_err();
        assert_eq!((error.code, error.status), (3043, 500));
    }
    assert_eq!(collect(start(&scripted.model, request("z", 9))).0, "{|}~");
    until("the blocks' return", || scripted.model.free_blocks() == (8, 8));
}

#[test]
fn logits_that_are_no_numbers_end_one_generation_alone() {
    let scripted = scripted(&options(8, 8), 8, true);
    let bystander = start(&scripted.model, request("a", 30));
    until("a step", || scripted.steps.load(Ordering::SeqCst) == 1);
    let faulty = start(&scripted.model, request("L", 9));
    drop(scripted.gate);
    let (text, end) = collect(faulty);
    assert_eq!((text.as_str(), end.unwrap_err().code), ("MN", 3043));
    assert_eq!(collect(bystander).0, "bcdefghijklmnopqrstuvwxyz{|}~");
}

#[test]
fn tenants_take_turns() {
    let scripted = scripted(&options(9, 1), 8, true);
    let of = |tenant: &str, prompt: &str| GenerateRequest { tenant: tenant.into(), ..request(prompt, 1) };
    let mut streams = vec![start(&scripted.model, of("greedy", "a"))];
    until("a step", || scripted.steps.load(Ordering::SeqCst) == 1);
    let later = [("greedy", "b"), ("greedy", "c"), ("greedy", "d"), ("modest", "m"), ("other", "o"), ("modest", "n")];
    for (tenant, prompt) in later {
        streams.push(start(&scripted.model, of(tenant, prompt)));
    }
    drop(scripted.gate);
    for stream in streams {
        assert!(collect(stream).1.is_ok());
    }
    assert_eq!(*scripted.started.lock().unwrap(), b"abmocnd");
}

#[test]
fn a_long_prompt_does_not_hold_up_an_answer() {
    let scripted = scripted(&options(4, 4), 200, true);
    let gate = scripted.gate.clone().unwrap();
    let mut answering = start(&scripted.model, request("!", 90));
    gate.send(()).unwrap();
    until("two steps", || scripted.steps.load(Ordering::SeqCst) == 2);
    // 2000 tokens at 127 a step beside the answer take 16 steps, and each step brings the answer a token.
    let mut long = start(&scripted.model, request(&"z".repeat(2000), 4));
    for _ in 0..15 {
        gate.send(()).unwrap();
    }
    until("the steps", || scripted.steps.load(Ordering::SeqCst) == 17);
    let mut seen = 0;
    while let Some(Some(_)) = answering.next().now_or_never() {
        seen += 1;
    }
    assert!(seen >= 15, "{seen} tokens in 16 steps");
    assert!(long.next().now_or_never().is_none(), "the long prompt is still being read");
    drop((scripted.gate, gate));
    assert_eq!(collect(long).0, "{|}~");
}

#[test]
fn messages_go_through_the_template() {
    let scripted = scripted(&options(4, 4), 8, false);
    let message = Message { role: "user".into(), content: "xyz".into(), extra: serde_json::Map::new() };
    let chat = GenerateRequest { prompt: Prompt::Messages(vec![message]), ..request("", 9) };
    assert_eq!(collect(start(&scripted.model, chat)).0, "{|}~");
}

#[test]
fn a_stream_outlives_the_model_and_then_the_thread_ends() {
    let scripted = scripted(&options(4, 4), 8, true);
    let stream = start(&scripted.model, request("z", 9));
    let steps = scripted.steps;
    drop((scripted.model, scripted.gate));
    assert_eq!(collect(stream).0, "{|}~");
    // The model's thread holds the other one until it ends.
    until("the thread's end", || Arc::strong_count(&steps) == 1);
}
