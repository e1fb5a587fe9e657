//! Queues over real files, with a clock that the tests set.

#![allow(clippy::unwrap_used)]

mod consuming;
mod model;
mod rules;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use host_queues::{Consumer, ContentType, NewMessage, Policy, Queue, Queues};
use host_state::Directory;

/// A directory of queues at a time of its own.
struct World {
    folder: tempfile::TempDir,
    now: Arc<AtomicI64>,
    queues: Queues,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let now = Arc::new(AtomicI64::new(1_700_000_000_000));
        let queues = open(&folder, &now);
        Self { folder, now, queues }
    }

    /// The same files, as another process has them.
    fn another(&self) -> Queues {
        open(&self.folder, &self.now)
    }

    fn queue(&self, name: &str) -> Queue {
        self.queues.queue(name).unwrap()
    }

    fn consumer(&self, policy: Policy) -> Consumer {
        Consumer::new(self.queue("q"), policy, Some(self.queue("dead")))
    }

    fn now(&self) -> i64 {
        self.now.load(Ordering::SeqCst)
    }

    fn pass(&self, ms: i64) {
        self.now.fetch_add(ms, Ordering::SeqCst);
    }
}

fn open(folder: &tempfile::TempDir, now: &Arc<AtomicI64>) -> Queues {
    let now = now.clone();
    Queues::with_clock(Directory::new(folder.path()), move || now.load(Ordering::SeqCst))
}

fn message(body: &str) -> NewMessage {
    NewMessage { body: body.into(), content_type: ContentType::Text, delay: 0 }
}

fn bodies(batch: &host_queues::Batch) -> Vec<String> {
    batch.messages.iter().map(|message| String::from_utf8(message.body.clone()).unwrap()).collect()
}
