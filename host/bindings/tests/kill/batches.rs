//! Batches under `kill -9`: queued by one task, run and asked after while the process is killed.
//!
//! A batch counts as acknowledged when its id was given. It must be known from then on, never be further back than it was
//! seen, and end once: its answers are those that were seen first. Each process answers in words of its own, so that a
//! request whose answer was kept and that was run again would show.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use host_batch::{Batches, Progress};
use host_state::Directory;
use serde_json::{Value, json};

use crate::{Model, Random, Report, engine};

const WORKER: &str = "writer";
const MODEL: &str = "parrot";
/// How long results are kept: longer than the test takes.
const KEEP: Duration = Duration::from_secs(24 * 3600);
/// How long a batch may take to end on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// Batches that are asked after again and again, the newest.
const WATCHED: usize = 16;

fn open(directory: &Path, reply: &str) -> Batches {
    Batches::new(engine(directory, reply), Directory::new(directory), KEEP)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Writes until the process is killed.
pub(crate) fn write(directory: &Path, seed: u64, report: &Report) {
    let batches = open(directory, &format!("{{prompt}} {seed}"));
    runtime().block_on(async {
        batches.resume();
        let mut random = Random(seed);
        let mut watched: Vec<String> = Vec::new();
        loop {
            let requests = 1 + random.below(4);
            let inputs = json!({ "requests": (0..requests).map(|at| json!({ "prompt": format!("n{at}") })).collect::<Vec<_>>() });
            let queued = batches.submit(WORKER, MODEL, inputs.as_object().unwrap().clone()).await.unwrap();
            report.done(&json!({ "id": queued, "requests": requests }).to_string());
            watched.push(queued);
            if watched.len() > WATCHED {
                watched.remove(0);
            }
            for _ in 0..random.below(4) {
                let id = &watched[random.below(watched.len() as u64) as usize];
                let seen = batches.progress(WORKER, MODEL, id).await.unwrap();
                report.done(&told(id, &seen).to_string());
            }
        }
    });
}

/// How far a batch was seen to be: 0 when it has not begun, 1, or 2 with its answers.
fn told(id: &str, seen: &Progress) -> Value {
    match seen {
        Progress::Queued => json!({ "id": id, "far": 0 }),
        Progress::Running => json!({ "id": id, "far": 1 }),
        Progress::Done(document) => json!({ "id": id, "far": 2, "answers": document["responses"] }),
    }
}

/// The batches that must be there.
#[derive(Default)]
pub(crate) struct Queued(BTreeMap<String, Batch>);

#[derive(Default)]
struct Batch {
    requests: u64,
    far: u64,
    answers: Value,
}

impl Batch {
    fn see(&mut self, id: &str, seen: &Value) -> Result<(), String> {
        let far = seen["far"].as_u64().unwrap();
        if far < self.far {
            return Err(format!("the batch {id} went back from {} to {far}", self.far));
        }
        if self.far == 2 && self.answers != seen["answers"] {
            return Err(format!("the batch {id} ended twice: {} and {}", self.answers, seen["answers"]));
        }
        if far == 2 {
            let answers = seen["answers"].as_array().unwrap();
            let right = |(at, answer): (usize, &Value)| {
                let begins = format!("n{at} ");
                answer["success"] == true
                    && answer["result"]["response"].as_str().is_some_and(|text| text.starts_with(&begins))
            };
            if answers.len() as u64 != self.requests || !answers.iter().enumerate().all(right) {
                return Err(format!("the batch {id} of {} requests ended with {}", self.requests, seen["answers"]));
            }
            self.answers = seen["answers"].clone();
        }
        self.far = far;
        Ok(())
    }
}

impl Queued {
    async fn look(&mut self, batches: &Batches) -> Result<(), String> {
        for (id, batch) in &mut self.0 {
            let seen = batches.progress(WORKER, MODEL, id).await;
            batch.see(id, &told(id, &seen.map_err(|error| format!("the batch {id} is lost: {error}"))?))?;
        }
        Ok(())
    }
}

impl Model for Queued {
    fn tried(&mut self, _change: &str) {}

    fn acknowledged(&mut self, change: &str) {
        let change: Value = serde_json::from_str(change).unwrap();
        let id = change["id"].as_str().unwrap();
        match change["requests"].as_u64() {
            Some(requests) => {
                self.0.insert(id.to_owned(), Batch { requests, ..Batch::default() });
            }
            None => self.0.get_mut(id).unwrap().see(id, &change).unwrap(),
        }
    }

    fn check(&mut self, directory: &Path) -> Result<(), String> {
        // Nothing is run by one who only looks.
        let batches = open(directory, "nobody");
        runtime().block_on(self.look(&batches))
    }

    fn finish(&mut self, directory: &Path) -> Result<(), String> {
        let batches = open(directory, "{prompt} last");
        runtime().block_on(async {
            batches.resume();
            let ended = async {
                loop {
                    self.look(&batches).await?;
                    if self.0.values().all(|batch| batch.far == 2) {
                        return Ok(());
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(PATIENCE, ended).await.unwrap_or_else(|_| Err("a batch never ends".to_owned()))
        })
    }
}
