//! What holds of the scheduler whatever is asked of it, seen through the model of [`super::historian`].

use proptest::prelude::*;

use super::core::contained;
use super::historian::{Asked, Fixture, collect, limits, short};
use super::*;
use crate::backend::{AnswerFormat, FinishReason};
use crate::text::kv_blocks::BlockPool;
use crate::text::sequence::Sequence;
use crate::text::tokenizer::Detokenizer;

#[derive(Debug, Clone)]
enum Event {
    Arrive(Asked),
    Steps(u8),
    Cancel(usize),
}

/// Prompts out of few parts, so that many begin alike and go on differently.
fn prompt() -> impl Strategy<Value = Vec<u32>> {
    let part = |number: u8| (0..20u32).map(move |i| u32::from(b'a') + (i * 7 + u32::from(number) * 11) % 13);
    (prop::collection::vec(0u8..3, 0..5), 1u32..12, prop::bool::weighted(0.05)).prop_map(
        move |(parts, tail, poisoned)| {
            let end = if poisoned { u32::from(b'N') } else { u32::from(b'z') };
            parts
                .into_iter()
                .flat_map(part)
                .chain(std::iter::repeat_n(u32::from(b'y'), tail as usize))
                .chain([end])
                .collect()
        },
    )
}

fn asked() -> impl Strategy<Value = Asked> {
    let format = prop_oneof![
        8 => Just(None),
        1 => Just(Some(AnswerFormat::Regex("(ab|ba){2,30}forced text[a-e]{1,40}".into()))),
        1 => Just(Some(AnswerFormat::Json(serde_json::json!({ "enum": ["abcdabcd", "bcda", 17] })))),
    ];
    let stop = prop_oneof![4 => Just(None), 1 => Just(Some("ab")), 1 => Just(Some("dea"))];
    let deadline = prop::option::weighted(0.15, 0u64..60);
    (0u8..3, prompt(), 1usize..60, prop::option::of(1u64..1000), deadline, format, stop).prop_map(
        |(tenant, prompt, max_tokens, seed, deadline, format, stop)| Asked {
            tenant,
            prompt,
            max_tokens,
            seed,
            deadline,
            format,
            stop,
        },
    )
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => asked().prop_map(Event::Arrive),
        4 => (0u8..12).prop_map(Event::Steps),
        1 => any::<usize>().prop_map(Event::Cancel),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    /// Whatever arrives, is cancelled, comes too late, is guessed or preempted, in caches that hold little more than the
    /// longest: every request ends, with the answer that it has alone or at its deadline, and no block stays held.
    #[test]
    fn answers_are_those_of_running_alone(
        events in prop::collection::vec(event(), 1..40),
        blocks in 6usize..14, sequences in 1usize..7, prefill in 1usize..120, mixed in 1usize..40,
        speculation: bool,
    ) {
        let fixture = Fixture::new();
        let limits = Limits { speculation, ..limits(sequences, prefill, mixed) };
        let (mut scheduler, pool, record) = fixture.scheduler(blocks, limits);
        let mut asked = Vec::new();
        let mut step = 0;
        for event in events {
            match event {
                Event::Arrive(one) => {
                    let (job, receiver) = fixture.job(&one, step);
                    scheduler.submit(job, None);
                    asked.push((one, Some(receiver)));
                }
                Event::Steps(count) => for _ in 0..count {
                    scheduler.step(fixture.at(step));
                    step += 1;
                },
                Event::Cancel(who) if !asked.is_empty() => {
                    let who = who % asked.len();
                    asked[who].1 = None;
                }
                Event::Cancel(_) => {}
            }
        }
        let work: usize = asked.iter().map(|(one, _)| one.prompt.len() + one.max_tokens).sum();
        let bound = step + 100 + 4 * work as u64;
        while !scheduler.is_idle() {
            prop_assert!(step < bound, "{work} tokens of work are not done after {step} steps");
            scheduler.step(fixture.at(step));
            step += 1;
        }
        prop_assert_eq!(pool.available(), blocks);
        prop_assert_eq!(&record.lock().unwrap().faults, &Vec::<String>::new());
        for (one, receiver) in &mut asked {
            let Some(receiver) = receiver else { continue };
            let (found, alone) = (collect(receiver), fixture.alone(one));
            if one.deadline.is_some() && found.1 == Some(Err(3007)) {
                prop_assert!(alone.0.starts_with(&found.0), "{found:?} {alone:?}");
            } else {
                prop_assert_eq!(found, alone);
            }
        }
        drop(scheduler);
        prop_assert_eq!(pool.available(), blocks);
    }
}

#[test]
fn a_shared_beginning_is_read_once_even_by_those_that_come_together() {
    let fixture = Fixture::new();
    let (mut scheduler, ..) = fixture.scheduler(64, limits(8, 512, 128));
    let statistics = scheduler.statistics();
    let mut receivers = Vec::new();
    for last in b'1'..=b'6' {
        let (job, receiver) = fixture.job(&short(0, 201, last, 4), 0);
        scheduler.submit(job, None);
        receivers.push((last, receiver));
    }
    while !scheduler.is_idle() {
        scheduler.step(fixture.start);
    }
    // 6 full blocks are shared; the other 9 tokens and 3 of the answer (the fourth is not read) are each one's own.
    assert_eq!(statistics.tokens_reused(), 5 * 192);
    assert_eq!(statistics.tokens_read(), 192 + 6 * (9 + 3));
    for (last, receiver) in &mut receivers {
        assert_eq!(collect(receiver), fixture.alone(&short(0, 201, *last, 4)));
    }
    // Another tenant's reads its own.
    let (job, _receiver) = fixture.job(&short(1, 201, b'1', 1), 0);
    scheduler.submit(job, None);
    scheduler.step(fixture.start);
    assert_eq!(statistics.tokens_reused(), 5 * 192);
}

#[test]
fn a_conversation_goes_on_from_the_answer() {
    let fixture = Fixture::new();
    let (mut scheduler, ..) = fixture.scheduler(64, limits(8, 512, 128));
    let statistics = scheduler.statistics();
    let first = Asked { stop: None, ..short(0, 40, b'x', 60) };
    let (job, mut receiver) = fixture.job(&first, 0);
    scheduler.submit(job, None);
    while !scheduler.is_idle() {
        scheduler.step(fixture.start);
    }
    let (text, end) = collect(&mut receiver);
    assert_eq!(end, Some(Ok((FinishReason::Length, 60))));
    let answer = text.bytes().map(u32::from);
    let prompt = first.prompt.iter().copied().chain(answer).chain([u32::from(b'?')]).collect();
    let (job, mut receiver) = fixture.job(&Asked { prompt, ..short(0, 1, b'x', 5) }, 0);
    scheduler.submit(job, None);
    while !scheduler.is_idle() {
        scheduler.step(fixture.start);
    }
    assert!(collect(&mut receiver).1.is_some_and(|end| end.is_ok()));
    assert_eq!(statistics.tokens_reused(), 96, "the blocks of prompt and answer that are full");
}

#[test]
fn the_youngest_leaves_when_blocks_run_out_and_says_the_same() {
    let fixture = Fixture::new();
    let (mut scheduler, pool, record) = fixture.scheduler(6, limits(4, 512, 128));
    let statistics = scheduler.statistics();
    let jobs: Vec<Asked> = (0..3).map(|i| Asked { seed: Some(i), ..short(i as u8, 30, b'a' + i as u8, 120) }).collect();
    let mut receivers = Vec::new();
    for asked in &jobs {
        let (job, receiver) = fixture.job(asked, 0);
        scheduler.submit(job, None);
        receivers.push(receiver);
    }
    let mut ended = Vec::new();
    while !scheduler.is_idle() {
        scheduler.step(fixture.start);
        ended.extend(
            (0..3).filter(|i| !ended.contains(i) && receivers[*i].sender_strong_count() == 0).collect::<Vec<_>>(),
        );
    }
    assert!(statistics.preemptions() >= 2, "{}", statistics.preemptions());
    assert_eq!(ended, [0, 1, 2]);
    for (asked, receiver) in jobs.iter().zip(&mut receivers) {
        assert_eq!(collect(receiver), fixture.alone(asked));
    }
    assert_eq!(pool.available(), 6);
    assert!(record.lock().unwrap().faults.is_empty());
}

#[test]
fn tenants_get_equal_shares_of_tokens_and_not_of_requests() {
    let fixture = Fixture::new();
    let (mut scheduler, _, record) = fixture.scheduler(64, limits(1, 512, 128));
    let cost = |tenant| if tenant == 0 { 400 } else { 40 };
    let mut receivers = Vec::new();
    for tenant in [0, 1] {
        for i in 0..24 {
            // Nothing in common, so nothing is cached.
            let mut asked = short(tenant, cost(tenant), b'0' + tenant, 1);
            asked.prompt[0] = 130 + i;
            let (job, receiver) = fixture.job(&asked, 0);
            scheduler.submit(job, None);
            receivers.push(receiver);
        }
    }
    while !scheduler.is_idle() {
        scheduler.step(fixture.start);
    }
    let mut used = [0usize; 2];
    for (i, last) in record.lock().unwrap().started.iter().enumerate() {
        let tenant = (*last - u32::from(b'0')) as usize;
        used[tenant] += cost(tenant as u8);
        // A quantum, and what is in flight.
        assert!(used[1] == 24 * 40 || used[0].abs_diff(used[1]) <= 512 + 400, "{used:?} after {i}");
    }
    assert_eq!(used, [24 * 400, 24 * 40]);
}

#[test]
fn a_step_shares_its_prompts_between_tenants() {
    let fixture = Fixture::new();
    let (mut scheduler, ..) = fixture.scheduler(64, limits(8, 100, 100));
    let mut receivers = Vec::new();
    for (tenant, length) in [(0, 500), (0, 450), (1, 50)] {
        let mut asked = short(tenant, length, b'x', 1);
        asked.prompt[0] = 130 + length as u32 % 100;
        let (job, receiver) = fixture.job(&asked, 0);
        scheduler.submit(job, None);
        receivers.push(receiver);
    }
    scheduler.step(fixture.start);
    assert!(collect(&mut receivers[2]).1.is_some(), "the short prompt does not wait for the long ones before it");
    assert!(collect(&mut receivers[0]).1.is_none());
}

#[test]
fn what_comes_too_late_fails_waiting_or_running() {
    let fixture = Fixture::new();
    let (mut scheduler, pool, _) = fixture.scheduler(8, limits(1, 512, 128));
    let (running, mut first) = fixture.job(&Asked { deadline: Some(5), ..short(0, 10, b'x', 100) }, 0);
    let (waiting, mut second) = fixture.job(&Asked { deadline: Some(3), ..short(0, 10, b'x', 100) }, 0);
    scheduler.submit(running, None);
    scheduler.submit(waiting, None);
    for step in 0..5 {
        scheduler.step(fixture.at(step));
    }
    assert_eq!(collect(&mut second), (String::new(), Some(Err(3007))));
    let (text, end) = collect(&mut first);
    assert!(!text.is_empty() && end.is_none());
    scheduler.step(fixture.at(5));
    assert_eq!(collect(&mut first).1, Some(Err(3007)));
    assert!(scheduler.is_idle());
    assert_eq!(pool.available(), 8);
}

#[test]
fn a_panic_over_one_token_ends_one_sequence() {
    let fixture = Fixture::new();
    let pool = BlockPool::new(4);
    let (job, mut receiver) = fixture.job(&short(0, 10, b'x', 5), 0);
    let mut sequence = Sequence::new(job, 1, &pool, Detokenizer::default());
    assert!(sequence.enter(&pool, 0));
    assert_eq!(contained(&mut sequence, |_| (true, 3)), (true, 3));
    assert_eq!(contained(&mut sequence, |_| panic!("a fault while a token is picked")), (false, 0));
    assert_eq!(collect(&mut receiver).1, Some(Err(3043)));
    assert_eq!(pool.available(), 4);
}

#[test]
fn guesses_save_steps_and_change_nothing() {
    let fixture = Fixture::new();
    let format = |format: &str| Some(AnswerFormat::Regex(format.into()));
    for (seed, format, stop) in [
        (None, None, None),
        (Some(3), None, Some("dbd")),
        (None, format("((abcab|badge)[a-e]){40}"), None),
        (Some(4), format("((abcab|badge)[a-e]){40}"), Some("geab")),
    ] {
        let asked = Asked { seed, format, stop, ..short(0, 40, b'x', 150) };
        let (mut scheduler, ..) = fixture.scheduler(8, Limits { speculation: true, ..limits(4, 512, 128) });
        let statistics = scheduler.statistics();
        let (job, mut receiver) = fixture.job(&asked, 0);
        scheduler.submit(job, None);
        while !scheduler.is_idle() {
            scheduler.step(fixture.start);
        }
        let found = collect(&mut receiver);
        assert_eq!(found, fixture.alone(&asked));
        assert!(statistics.tokens_drafted() > statistics.drafts_accepted());
        assert!(statistics.drafts_accepted() > 0, "{found:?}");
    }
}

#[test]
fn a_failed_pass_ends_those_that_it_was_for() {
    let fixture = Fixture::new();
    let (mut scheduler, pool, _) = fixture.scheduler(16, limits(4, 512, 128));
    let waiting = short(0, 201, b'x', 5);
    let (job, mut guilty) = fixture.job(&short(0, 201, b'P', 5), 0);
    scheduler.submit(job, None);
    // It begins like the other and waits for that one's blocks.
    let (job, mut receiver) = fixture.job(&waiting, 0);
    scheduler.submit(job, None);
    while !scheduler.is_idle() {
        scheduler.step(fixture.start);
    }
    assert_eq!(collect(&mut guilty), (String::new(), Some(Err(3043))));
    assert_eq!(collect(&mut receiver), fixture.alone(&waiting));
    assert_eq!(pool.available(), 16);
}

#[test]
fn what_a_fault_may_have_touched_is_not_used_again() {
    let fixture = Fixture::new();
    let (mut scheduler, pool, _) = fixture.scheduler(8, limits(4, 512, 128));
    let (job, mut receiver) = fixture.job(&short(0, 70, b'N', 5), 0);
    scheduler.submit(job, None);
    while !scheduler.is_idle() {
        scheduler.step(fixture.start);
    }
    assert_eq!(collect(&mut receiver), (String::new(), Some(Err(3043))));
    assert_eq!((pool.available(), pool.reusable()), (8, 0));
}
