//! Kills a process that sends and consumes, again and again, and looks whether anything is missing.
//!
//! The child is this program itself. It says a message's name once it has been accepted, before it has its end written, and
//! after that. Each time it was killed, whatever was accepted and has no end must be in the queue or its dead-letter queue,
//! and nothing that has ended may be; what was about to end may be either. `HOST_KILL_ROUNDS` says how often it is killed;
//! the default is short.

#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use host_queues::{Batch, Consumer, ContentType, Decision, NewMessage, Policy, Queue, Queues};
use host_state::Directory;

const FOLDER: &str = "HOST_KILL_QUEUES";

/// A small generator: which instants are tried depends on the machine anyway.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// What has to be there.
#[derive(Default)]
struct Ledger {
    /// Accepted, and not ended.
    alive: BTreeSet<String>,
    ended: BTreeSet<String>,
    accepted: usize,
}

impl Ledger {
    /// Takes in what a child has said, and compares it with what is there now that it is dead.
    fn settle(&mut self, said: &[String], present: &BTreeSet<String>) {
        let mut ending = BTreeSet::new();
        for (what, name) in said.iter().filter_map(|line| line.split_once(' ')) {
            match what {
                "accepted" => {
                    self.accepted += 1;
                    self.alive.insert(name.to_owned());
                }
                "ending" => {
                    ending.insert(name.to_owned());
                }
                _ => {
                    self.ended.insert(name.to_owned());
                }
            }
        }
        let gone: Vec<String> = self.alive.iter().filter(|name| !present.contains(*name)).cloned().collect();
        let (ended, lost): (Vec<_>, Vec<_>) =
            gone.into_iter().partition(|name| self.ended.contains(name) || ending.contains(name));
        assert!(lost.is_empty(), "{} messages were accepted and are gone: {lost:?}", lost.len());
        ended.iter().for_each(|name| {
            self.alive.remove(name);
        });
        let undead: Vec<_> = self.ended.intersection(present).collect();
        assert!(undead.is_empty(), "{} messages had ended and are back: {undead:?}", undead.len());
    }
}

fn main() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return work_until_killed(Path::new(&folder));
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let wanted: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let named = wanted.is_empty() || wanted.iter().any(|filter| "kill_queues".contains(filter.as_str()));
    if named && !arguments.iter().any(|argument| argument == "--list") {
        nothing_accepted_is_lost();
    }
}

fn nothing_accepted_is_lost() {
    let rounds = std::env::var("HOST_KILL_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(5);
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (mut dice, mut ledger) = (Dice(std::process::id().into()), Ledger::default());
    for round in 0..rounds {
        let said = round_of(folder.path(), round, 1 + dice.roll(120), Duration::from_micros(dice.roll(4000)));
        let present = runtime.block_on(present(folder.path()));
        ledger.settle(&said, &present);
    }
    // What is left can be had, and is had once.
    let left = runtime.block_on(drain(folder.path()));
    assert_eq!(ledger.alive.difference(&left).count(), 0);
    let (accepted, ended) = (ledger.accepted, ledger.ended.len());
    println!("kill_queues: {rounds} kills, {accepted} accepted, {ended} ended, {} left, none lost", left.len());
    assert!(accepted as u64 >= rounds && ended > 0, "the child hardly worked");
}

/// What the files hold.
async fn present(folder: &Path) -> BTreeSet<String> {
    let queues = Queues::new(Directory::new(folder));
    let mut present = BTreeSet::new();
    for name in ["q", "dead"] {
        let peeked = queues.queue(name).unwrap().peek(1_000_000).await.unwrap();
        present.extend(peeked.into_iter().map(|message| String::from_utf8(message.body).unwrap()));
    }
    present
}

/// Lets a child work until it has said so much, kills it, and gives what it has said.
fn round_of(folder: &Path, round: u64, lines: u64, then: Duration) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(FOLDER, folder)
        .env("HOST_KILL_ROUND", round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = Vec::new();
    while (said.len() as u64) < lines {
        let line = output.next().expect("the child works until it is killed").unwrap();
        said.extend(is_word(&line).then_some(line));
    }
    std::thread::sleep(then);
    child.kill().unwrap();
    child.wait().unwrap();
    // A line that was cut off names nothing that was told.
    said.extend(output.map_while(Result::ok).filter(|line| is_word(line)));
    said
}

fn is_word(line: &str) -> bool {
    ["accepted ", "ending ", "ended "].iter().any(|word| line.starts_with(word)) && line.ends_with('.')
}

/// All that is left, each message once.
async fn drain(folder: &Path) -> BTreeSet<String> {
    let queues = Queues::new(Directory::new(folder));
    let mut left = BTreeSet::new();
    for name in ["q", "dead"] {
        let queue = queues.queue(name).unwrap();
        let expected = queue.metrics().await.unwrap().backlog_count;
        let consumer =
            Consumer::new(queue.clone(), Policy { retries: 1_000_000, wait: Duration::ZERO, ..policy() }, None);
        for _ in 0..expected {
            if queue.metrics().await.unwrap().backlog_count == 0 {
                break;
            }
            let batch = consumer.batch().await.unwrap();
            left.extend(batch.messages.iter().map(|message| String::from_utf8(message.body.clone()).unwrap()));
            let done = vec![Decision::Ack; batch.messages.len()];
            consumer.settle(batch, &done).await.unwrap();
        }
        assert_eq!(queue.metrics().await.unwrap().backlog_count, 0, "{name} can be emptied");
    }
    left
}

fn policy() -> Policy {
    Policy { batch: 4, wait: Duration::ZERO, retries: 2, ..Policy::default() }
}

/// The child: sends and consumes.
fn work_until_killed(folder: &Path) {
    let round: u64 = std::env::var("HOST_KILL_ROUND").unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let queues = Queues::new(Directory::new(folder));
        for task in 0..3 {
            tokio::spawn(send(queues.queue("q").unwrap(), round, task));
        }
        for task in 0..2 {
            let (queue, dead) = (queues.queue("q").unwrap(), queues.queue("dead").unwrap());
            tokio::spawn(consume(Consumer::new(queue, policy(), Some(dead)), round * 2 + task));
        }
        std::future::pending::<()>().await;
    });
}

/// Writes a line at once: what is killed flushes nothing.
fn tell(what: &str, name: &str) {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{what} {name}").unwrap();
    output.flush().unwrap();
}

async fn send(queue: Queue, round: u64, task: u64) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let names: Vec<String> =
            (0..1 + task).map(|_| format!("{round}-{}.", NEXT.fetch_add(1, Ordering::Relaxed))).collect();
        let message =
            |name: &String| NewMessage { body: name.clone().into(), content_type: ContentType::Text, delay: 0 };
        queue.send(names.iter().map(message).collect()).await.unwrap();
        names.iter().for_each(|name| tell("accepted", name));
    }
}

async fn consume(consumer: Consumer, seed: u64) {
    let mut dice = Dice(seed);
    loop {
        let batch: Batch = consumer.batch().await.unwrap();
        let names: Vec<String> =
            batch.messages.iter().map(|message| String::from_utf8(message.body.clone()).unwrap()).collect();
        let decisions: Vec<Decision> = names
            .iter()
            .map(|_| match dice.roll(8) {
                0..5 => Decision::Ack,
                5..7 => Decision::Retry { delay: None },
                _ => Decision::Return,
            })
            .collect();
        let done = || names.iter().zip(&decisions).filter(|(_, decision)| **decision == Decision::Ack);
        done().for_each(|(name, _)| tell("ending", name));
        consumer.settle(batch, &decisions).await.unwrap();
        done().for_each(|(name, _)| tell("ended", name));
    }
}
