//! Random work on a queue beside a model of it: a list that is searched from its beginning.

use host_queues::{Batch, Consumer, Decision, LEASE, NewMessage, Policy};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::{World, message};

const BATCH: usize = 3;
const RETRIES: u32 = 2;
const RETRY_DELAY: u32 = 4;

#[derive(Debug, Clone)]
enum Step {
    /// Messages with their delays.
    Send(Vec<u32>),
    Lease,
    /// What becomes of one of the batches that are held, message by message.
    Settle(usize, Vec<Decision>),
    Pass(i64),
    /// One of the batches is forgotten, as by a consumer that was killed.
    Forget(usize),
}

fn decision() -> impl Strategy<Value = Decision> {
    prop_oneof![
        3 => Just(Decision::Ack),
        2 => Just(Decision::Retry { delay: None }),
        2 => (0u32..8).prop_map(|delay| Decision::Retry { delay: Some(delay) }),
        1 => Just(Decision::Return),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => vec(0u32..4, 1..5).prop_map(Step::Send),
        4 => Just(Step::Lease),
        4 => (any::<usize>(), vec(decision(), 0..4)).prop_map(|(at, decisions)| Step::Settle(at, decisions)),
        3 => (0i64..6000).prop_map(Step::Pass),
        1 => Just(Step::Pass(LEASE.as_millis() as i64)),
        1 => any::<usize>().prop_map(Step::Forget),
    ]
}

#[derive(Debug, Clone)]
struct Known {
    body: String,
    visible: i64,
    attempts: u32,
    /// Which lease holds it.
    lease: Option<u64>,
}

#[derive(Default)]
struct Model {
    /// In the order in which they were sent.
    messages: Vec<Known>,
    dead: Vec<String>,
    sent: usize,
    leases: u64,
}

impl Model {
    fn send(&mut self, now: i64, delays: &[u32]) -> Vec<NewMessage> {
        let mut new = Vec::new();
        for delay in delays {
            let body = self.sent.to_string();
            self.sent += 1;
            new.push(NewMessage { delay: *delay, ..message(&body) });
            self.messages.push(Known { body, visible: now + i64::from(*delay) * 1000, attempts: 0, lease: None });
        }
        new
    }

    /// What is leased, as bodies with their attempts.
    fn lease(&mut self, now: i64) -> Vec<(String, u32)> {
        self.leases += 1;
        let mut order: Vec<usize> = (0..self.messages.len()).filter(|at| self.messages[*at].visible <= now).collect();
        order.sort_by_key(|at| (self.messages[*at].visible, *at));
        order.truncate(BATCH);
        let (mut leased, mut over) = (Vec::new(), Vec::new());
        for at in order {
            let known = &mut self.messages[at];
            if known.attempts > RETRIES {
                over.push(known.body.clone());
                continue;
            }
            known.attempts += 1;
            known.visible = now + LEASE.as_millis() as i64;
            known.lease = Some(self.leases);
            leased.push((known.body.clone(), known.attempts));
        }
        over.into_iter().for_each(|body| self.bury(&body));
        leased
    }

    fn bury(&mut self, body: &str) {
        self.messages.retain(|known| known.body != body);
        self.dead.push(body.to_owned());
    }

    fn settle(&mut self, now: i64, lease: u64, body: &str, decision: Decision) {
        let Some(at) = self.messages.iter().position(|known| known.body == body && known.lease == Some(lease)) else {
            return;
        };
        let known = &mut self.messages[at];
        match decision {
            Decision::Ack => {
                self.messages.remove(at);
            }
            Decision::Return => {
                known.attempts -= 1;
                (known.visible, known.lease) = (now, None);
            }
            Decision::Retry { .. } if known.attempts > RETRIES => self.bury(body),
            Decision::Retry { delay } => {
                (known.visible, known.lease) = (now + i64::from(delay.unwrap_or(RETRY_DELAY)) * 1000, None);
            }
        }
    }
}

struct Held {
    batch: Batch,
    lease: u64,
}

async fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let world = World::new();
    let policy = Policy { batch: BATCH, retries: RETRIES, retry_delay: RETRY_DELAY, ..Policy::default() };
    let consumer = world.consumer(policy);
    let (mut model, mut held) = (Model::default(), Vec::<Held>::new());
    for step in steps {
        let now = world.now();
        match step {
            Step::Send(delays) => {
                let messages = model.send(now, &delays);
                let metrics = world.queue("q").send(messages).await.unwrap();
                prop_assert_eq!(metrics.backlog_count, model.messages.len() as u64);
            }
            Step::Lease => {
                let expected = model.lease(now);
                let batch = consumer.lease().await.unwrap();
                let found: Vec<(String, u32)> = batch.iter().flat_map(|batch| &batch.messages).map(seen).collect();
                prop_assert_eq!(found, expected);
                held.extend(batch.map(|batch| Held { batch, lease: model.leases }));
            }
            Step::Settle(at, decisions) if !held.is_empty() => {
                let Held { batch, lease } = held.swap_remove(at % held.len());
                let retry = Decision::Retry { delay: None };
                let all = decisions.iter().copied().chain(std::iter::repeat(retry));
                for (message, decision) in batch.messages.iter().zip(all) {
                    model.settle(now, lease, &seen(message).0, decision);
                }
                consumer.settle(batch, &decisions).await.unwrap();
            }
            Step::Forget(at) if !held.is_empty() => {
                held.swap_remove(at % held.len());
            }
            Step::Pass(ms) => world.pass(ms),
            Step::Settle(..) | Step::Forget(_) => {}
        }
    }
    compare(&world, &consumer, &model).await
}

fn seen(message: &host_queues::Delivery) -> (String, u32) {
    (String::from_utf8(message.body.clone()).unwrap(), message.attempts)
}

/// Whether the files hold what the model does.
async fn compare(world: &World, consumer: &Consumer, model: &Model) -> Result<(), TestCaseError> {
    let text = |body: &[u8]| String::from_utf8(body.to_vec()).unwrap();
    let left = consumer.queue().peek(1000).await.unwrap();
    let left: Vec<_> = left.iter().map(|peeked| (text(&peeked.body), peeked.attempts)).collect();
    let expected: Vec<_> = model.messages.iter().map(|known| (known.body.clone(), known.attempts)).collect();
    prop_assert_eq!(left, expected);
    let dead = world.queue("dead").peek(1000).await.unwrap();
    let mut dead: Vec<_> = dead.iter().map(|peeked| text(&peeked.body)).collect();
    let mut expected = model.dead.clone();
    dead.sort();
    expected.sort();
    prop_assert_eq!(dead, expected);
    let info = consumer.queue().info().await.unwrap();
    let bytes: usize = model.messages.iter().map(|known| known.body.len()).sum();
    prop_assert_eq!((info.messages, info.bytes), (model.messages.len() as u64, bytes as u64));
    prop_assert_eq!(info.ready + info.delayed + info.leased, info.messages);
    prop_assert_eq!(info.dead_lettered, model.dead.len() as u64);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_queue_does_what_its_model_does(steps in vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(run(steps))?;
    }
}
