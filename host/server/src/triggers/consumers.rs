//! Has a worker handle the messages of a queue.
//!
//! One task leases batches, and a task for each batch has it handled. How many run at once the binding file says, or it
//! follows from how it goes: one more after each full batch that went well, half as many after one that failed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use host_bindings::Bindings;
use host_queues::{Batch, Consumer, ContentType, Decision, MAX_DELAY};
use host_runtime::{EventFault, Failure, Worker};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Course, WALL};

/// Batches of a queue that are handled at once, where the binding file does not say.
const MOST_AT_ONCE: usize = 10;
/// How long to wait after a fault that is not the messages' own: a busy worker, a file that cannot be read.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Batches longer than this are written as JSON on a thread that may take its time.
const LONG_BATCH: usize = 128 << 10;

/// Handles messages until it is halted.
pub(super) async fn consume(worker: Worker<Bindings>, consumer: Arc<Consumer>, at_once: Option<usize>, course: Course) {
    let slots = Arc::new(Slots::new(at_once));
    let mut pause = PAUSE;
    loop {
        let waited = async {
            let slot = slots.semaphore.clone().acquire_owned().await.ok();
            consumer.ready().await.map(|()| slot)
        };
        let ready = tokio::select! {
            biased;
            () = course.halt.cancelled() => return,
            ready = waited => ready,
        };
        // Not given up half-way: a lease would stay behind.
        let leased = match ready {
            Ok(slot) => consumer.lease().await.map(|batch| batch.zip(slot)),
            Err(error) => Err(error),
        };
        match leased {
            Ok(None) => {}
            Ok(Some((batch, slot))) => {
                pause = PAUSE;
                let (worker, consumer, slots) = (worker.clone(), consumer.clone(), slots.clone());
                course.tasks.spawn(handle(worker, consumer, slots, batch, course.clone(), slot));
            }
            Err(error) => {
                let queue = consumer.queue().name();
                tracing::error!(worker = worker.name(), queue, "no messages can be read: {error}");
                tokio::select! {
                    () = course.halt.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

async fn handle(
    worker: Worker<Bindings>,
    consumer: Arc<Consumer>,
    slots: Arc<Slots>,
    batch: Batch,
    course: Course,
    slot: OwnedSemaphorePermit,
) {
    let context = worker.admit_event(WALL);
    let (name, request, queue) = (worker.name(), context.id(), consumer.queue().name());
    let count = batch.messages.len();
    let work = async {
        let (payload, batch) = payload(queue, batch).await;
        let answered = tokio::select! {
            biased;
            answered = worker.event(&context, "queue", payload) => Some(answered),
            never = consumer.keep(&batch) => match never {},
            () = course.cut.cancelled() => None,
        };
        (answered, batch)
    };
    let (answered, batch) = work.await;
    let mut pause = false;
    let decisions = match answered {
        None => vec![Decision::Return; count],
        Some(Err(EventFault::Failed(Failure::Busy))) => {
            tracing::warn!(worker = name, queue, "the worker is busy; {count} messages wait");
            pause = true;
            vec![Decision::Return; count]
        }
        Some(Err(fault)) => {
            tracing::warn!(worker = name, request, queue, "{count} messages were not handled: {fault}");
            slots.went_badly();
            Vec::new()
        }
        Some(Ok(answer)) => {
            let said = Said::read(&answer);
            match &said.threw {
                Some(_) => slots.went_badly(),
                None => slots.went_well(count >= consumer.batch_size()),
            }
            said.decide(&batch)
        }
    };
    let acked = decisions.iter().filter(|decision| **decision == Decision::Ack).count();
    if let Err(error) = consumer.settle(batch, &decisions).await {
        tracing::error!(worker = name, request, queue, "what became of {count} messages cannot be written: {error}");
    } else {
        tracing::debug!(worker = name, request, queue, messages = count, acked, "batch handled");
    }
    if pause {
        tokio::select! {
            () = course.halt.cancelled() => {}
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
    drop(slot);
}

/// What a worker is given: `{queue, metrics, messages: [{id, timestamp, attempts, contentType, body}]}`, where the body of
/// bytes is base64.
async fn payload(queue: &str, batch: Batch) -> (String, Batch) {
    let queue = queue.to_owned();
    let long = batch.messages.iter().map(|message| message.body.len()).sum::<usize>() > LONG_BATCH;
    let write = move || {
        let messages = batch.messages.iter().map(|message| {
            let body = match message.content_type {
                ContentType::Bytes => STANDARD.encode(&message.body),
                _ => String::from_utf8_lossy(&message.body).into_owned(),
            };
            json!({
                "id": message.id,
                "timestamp": message.sent_ms,
                "attempts": message.attempts,
                "contentType": message.content_type,
                "body": body,
            })
        });
        let messages: Vec<_> = messages.collect();
        (json!({ "queue": queue, "metrics": batch.metrics, "messages": messages }).to_string(), batch)
    };
    match long {
        true => match tokio::task::spawn_blocking(write).await {
            Ok(written) => written,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        },
        false => write(),
    }
}

/// What a worker said of a batch. It may be anything.
#[derive(Debug, Default, Deserialize)]
struct Said {
    /// What its handler threw, if it did.
    threw: Option<String>,
    batch: Option<Word>,
    #[serde(default)]
    messages: HashMap<String, Word>,
}

/// One word about messages.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Ack,
    Retry {
        #[serde(rename = "delaySeconds")]
        delay: Option<f64>,
    },
}

impl From<Word> for Decision {
    fn from(word: Word) -> Self {
        match word {
            Word::Ack => Self::Ack,
            // The cast ends at the bounds, and what is no number is none.
            Word::Retry { delay } => Self::Retry { delay: delay.map(|seconds| (seconds as u32).min(MAX_DELAY)) },
        }
    }
}

impl Said {
    /// An answer that says nothing sensible counts as that of a handler that failed.
    fn read(answer: &[u8]) -> Self {
        serde_json::from_slice(answer)
            .unwrap_or_else(|error| Self { threw: Some(format!("the answer is none: {error}")), ..Self::default() })
    }

    /// The rules of Cloudflare: what was said of a message counts, else what was said of the batch; else a message is done
    /// if the handler returned, and tried again if it threw.
    fn decide(&self, batch: &Batch) -> Vec<Decision> {
        let rest = match (self.batch, &self.threw) {
            (Some(word), _) => word.into(),
            (None, Some(_)) => Decision::Retry { delay: None },
            (None, None) => Decision::Ack,
        };
        let decide = |id: &str| self.messages.get(id).map_or(rest, |word| Decision::from(*word));
        batch.messages.iter().map(|message| decide(&message.id)).collect()
    }
}

/// How many batches are handled at once.
struct Slots {
    semaphore: Arc<Semaphore>,
    allowed: Mutex<usize>,
    /// Up to how many it may grow.
    most: usize,
    /// Whether it follows from how it goes.
    moves: bool,
}

impl Slots {
    fn new(at_once: Option<usize>) -> Self {
        let allowed = at_once.unwrap_or(1).max(1);
        Self {
            semaphore: Arc::new(Semaphore::new(allowed)),
            allowed: Mutex::new(allowed),
            most: at_once.unwrap_or(MOST_AT_ONCE),
            moves: at_once.is_none(),
        }
    }

    fn went_well(&self, full: bool) {
        let mut allowed = self.allowed.lock().unwrap_or_else(PoisonError::into_inner);
        if self.moves && full && *allowed < self.most {
            *allowed += 1;
            self.semaphore.add_permits(1);
        }
    }

    fn went_badly(&self) {
        let mut allowed = self.allowed.lock().unwrap_or_else(PoisonError::into_inner);
        if self.moves && *allowed > 1 {
            // Those that are in use stay until the next time.
            *allowed -= self.semaphore.forget_permits(*allowed / 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_may_be_anything() {
        for nonsense in [
            "",
            "null",
            "[]",
            "1",
            "{\"batch\":\"drop\"}",
            "{\"messages\":{\"a\":{\"retry\":{\"delaySeconds\":\"x\"}}}}",
        ] {
            assert!(Said::read(nonsense.as_bytes()).threw.is_some(), "{nonsense}");
        }
        assert!(Said::read(b"{}").threw.is_none());
        let said =
            Said::read(b"{\"messages\":{\"a\":\"ack\",\"b\":{\"retry\":{\"delaySeconds\":7.9}},\"c\":{\"retry\":{}}}}");
        assert_eq!(Decision::from(said.messages["a"]), Decision::Ack);
        assert_eq!(Decision::from(said.messages["b"]), Decision::Retry { delay: Some(7) });
        assert_eq!(Decision::from(said.messages["c"]), Decision::Retry { delay: None });
        for (seconds, delay) in [(-1.0, 0), (1e300, MAX_DELAY), (f64::INFINITY, MAX_DELAY)] {
            assert_eq!(Decision::from(Word::Retry { delay: Some(seconds) }), Decision::Retry { delay: Some(delay) });
        }
    }

    #[test]
    fn slots_follow_from_how_it_goes_or_stay() {
        let slots = Slots::new(None);
        for _ in 0..20 {
            slots.went_well(true);
        }
        slots.went_well(false);
        assert_eq!(slots.semaphore.available_permits(), MOST_AT_ONCE);
        slots.went_badly();
        assert_eq!(slots.semaphore.available_permits(), MOST_AT_ONCE / 2);
        for _ in 0..9 {
            slots.went_badly();
        }
        assert_eq!(slots.semaphore.available_permits(), 1);
        let fixed = Slots::new(Some(3));
        fixed.went_well(true);
        fixed.went_badly();
        assert_eq!(fixed.semaphore.available_permits(), 3);
    }
}
