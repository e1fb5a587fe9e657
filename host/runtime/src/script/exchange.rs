//! The request that an instance handles, as its imports and the internal authority see it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use wasmtime_wasi_http::WasiBody;

use super::MapStack;
use super::calls::Calls;
use super::pipe::PipeWriter;

/// Bodies that the host holds for one request at once.
const HELD: usize = 256;

/// What a handler came to.
pub(crate) enum Answer {
    /// A response.
    Response(http::Response<WasiBody>),
    /// It threw; the log says what.
    Threw,
}

/// One instance's present request. Empty between requests and while the script is being started.
#[derive(Default)]
pub(crate) struct Exchange {
    /// Whether there is a request or an event, and not only a script that is being started.
    open: bool,
    answer: Option<oneshot::Sender<Answer>>,
    pub(super) incoming: Option<WasiBody>,
    pub(super) outgoing: Option<PipeWriter>,
    pub(super) held: Held,
    pub(crate) calls: Calls,
    pub(super) map_stack: Option<MapStack>,
}

impl Exchange {
    pub(crate) fn new(map_stack: Option<MapStack>) -> Self {
        Self { map_stack, ..Self::default() }
    }

    /// Begins with a request whose answer goes to `answer` and whose body, if it is not at hand, is `incoming`.
    pub(super) fn begin(&mut self, answer: oneshot::Sender<Answer>, incoming: Option<WasiBody>) {
        self.begin_event();
        self.answer = Some(answer);
        self.incoming = incoming;
    }

    /// Begins with what has no answer.
    pub(super) fn begin_event(&mut self) {
        self.end();
        self.open = true;
    }

    /// Forgets the request and ends what it started. A body that is still being written breaks off.
    pub(super) fn end(&mut self) {
        self.open = false;
        self.answer = None;
        self.incoming = None;
        self.outgoing = None;
        self.held.clear();
        self.calls.clear();
    }

    /// Whether the script may reach the host: not while it is being started.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// Gives the answer; only the first counts.
    pub(super) fn give(&mut self, answer: Answer) {
        if let Some(sender) = self.answer.take() {
            // Nobody waits for it when the client has left.
            let _ = sender.send(answer);
        }
    }

    pub(super) fn unanswered(&self) -> bool {
        self.answer.is_some()
    }
}

/// Bodies that the host holds until the script reads or forwards them.
#[derive(Clone, Default)]
pub(crate) struct Held(Arc<Mutex<Bodies>>);

#[derive(Default)]
struct Bodies {
    next: u32,
    bodies: HashMap<u32, WasiBody>,
}

impl Held {
    fn lock(&self) -> MutexGuard<'_, Bodies> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds a body under a number; the body itself if there are too many.
    pub(super) fn hold(&self, body: WasiBody) -> Result<u32, WasiBody> {
        let mut held = self.lock();
        if held.bodies.len() >= HELD {
            return Err(body);
        }
        let number = held.next;
        held.next = held.next.wrapping_add(1);
        held.bodies.insert(number, body);
        Ok(number)
    }

    /// Gives a body away.
    pub(super) fn take(&self, number: u32) -> Option<WasiBody> {
        self.lock().bodies.remove(&number)
    }

    fn clear(&self) {
        let bodies = std::mem::take(&mut self.lock().bodies);
        drop(bodies);
    }
}
