//! The gateway's log under `kill -9`: calls that are answered whole or streamed, some of them patched afterwards.
//!
//! A call counts as acknowledged when its answer has begun, with the id that is read with it. Its row must be there from
//! then on, once, with what the caller said of the call; a patch that was acknowledged must be in it. Whether a streamed
//! call ended well is only promised for one that was read to its end and whose row was looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use futures::StreamExt as _;
use host_gateway::{Body, Call, Filter, Gateways, Options, Patch, Step, WORKERS_AI};
use host_state::Directory;
use serde_json::{Value, json};

use crate::{Model, Random, Report, engine};

const GATEWAY: &str = "killed";
const WORKER: &str = "writer";
/// Calls that are made at the same time.
const CALLERS: u64 = 3;

/// Writes until the process is killed.
pub(crate) fn write(directory: &Path, seed: u64, report: &Report) {
    let gateways =
        Gateways::new(Vec::new(), Vec::new(), engine(directory, "{prompt}"), Directory::new(directory)).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let calls = (0..CALLERS).map(|caller| calls(&gateways, caller, seed, report));
    runtime.block_on(futures::future::join_all(calls));
}

async fn calls(gateways: &Gateways, caller: u64, seed: u64, report: &Report) {
    let mut random = Random(seed ^ (caller << 32));
    loop {
        // Drawn from so many that two are hardly alike.
        let call = random.below(1 << 50);
        let about = json!({ "call": call });
        report.trying(&about.to_string());
        let answered = gateways.run(asked(call, random.below(2) == 0)).await.unwrap();
        let id = answered.log_id.expect("calls are logged");
        report.done(&json!({ "call": call, "id": id }).to_string());
        if let Body::Stream(mut body) = answered.body {
            // Some are left in their middle.
            let pieces = random.below(6);
            for _ in 0..pieces {
                if body.next().await.is_none() {
                    break;
                }
            }
        }
        if random.below(3) == 0 {
            let score = random.below(100);
            let patch = json!({ "id": id, "score": score });
            report.trying(&patch.to_string());
            let patched = Patch { score: Some(score.into()), ..Patch::default() };
            gateways.patch_log(WORKER, GATEWAY, &id, patched).await.unwrap();
            report.done(&patch.to_string());
        }
    }
}

fn asked(call: u64, stream: bool) -> Call {
    let step = Step {
        provider: WORKERS_AI.to_owned(),
        endpoint: "parrot".to_owned(),
        query: json!({ "prompt": "one two three", "stream": stream }),
        ..Step::default()
    };
    let metadata = json!({ "call": call.to_string() }).as_object().unwrap().clone();
    Call {
        worker: WORKER.into(),
        gateway: GATEWAY.to_owned(),
        steps: vec![step],
        options: Options { metadata, ..Options::default() },
        allows: Arc::new(|_| Ok(())),
    }
}

/// What the log must hold.
#[derive(Default)]
pub(crate) struct Logs {
    /// Calls that were begun, and the ids of those that were answered.
    begun: BTreeSet<u64>,
    calls: BTreeMap<String, u64>,
    /// By id: scores that were acknowledged, and one that may be there.
    scores: BTreeMap<String, u64>,
    under_way: BTreeMap<String, u64>,
}

impl Model for Logs {
    fn tried(&mut self, change: &str) {
        let change: Value = serde_json::from_str(change).unwrap();
        match change["call"].as_u64() {
            Some(call) => {
                self.begun.insert(call);
            }
            None => {
                let (id, score) = patched(&change);
                self.under_way.insert(id, score);
            }
        }
    }

    fn acknowledged(&mut self, change: &str) {
        let change: Value = serde_json::from_str(change).unwrap();
        match change["call"].as_u64() {
            Some(call) => {
                self.calls.insert(change["id"].as_str().unwrap().to_owned(), call);
            }
            None => {
                let (id, score) = patched(&change);
                self.under_way.remove(&id);
                self.scores.insert(id, score);
            }
        }
    }

    fn check(&mut self, directory: &Path) -> Result<(), String> {
        let filter = Filter { gateway: Some(GATEWAY.to_owned()), most: usize::MAX, ..Filter::default() };
        let listed = Gateways::logs(&Directory::new(directory), &filter).map_err(|error| error.to_string())?;
        let mut found = BTreeMap::new();
        for log in listed {
            let call = log.metadata.get("call").and_then(Value::as_str).and_then(|call| call.parse().ok());
            let call: u64 = call.ok_or_else(|| format!("a row says nothing of its call: {log:?}"))?;
            if !self.begun.contains(&call) {
                return Err(format!("the call {call} was never made, and is logged"));
            }
            let score = log.score.map(|score| score as u64);
            let may_be = self.under_way.remove(&log.id).filter(|_| score != self.scores.get(&log.id).copied());
            if let Some(may_be) = may_be {
                self.scores.insert(log.id.clone(), may_be);
            }
            if score != self.scores.get(&log.id).copied() {
                return Err(format!("the row {} has the score {score:?}", log.id));
            }
            found.insert(call, log.id);
        }
        self.under_way.clear();
        match self.calls.iter().find(|(id, call)| found.get(call) != Some(id)) {
            Some((id, call)) => Err(format!("the call {call} was answered with the id {id}, and its row is lost")),
            None => Ok(()),
        }
    }
}

fn patched(change: &Value) -> (String, u64) {
    (change["id"].as_str().unwrap().to_owned(), change["score"].as_u64().unwrap())
}
