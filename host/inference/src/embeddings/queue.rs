//! Requests that wait for an encoder, fairly between tenants.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use futures::channel::oneshot;

use crate::backend::{Embeddings, Pooling};
use crate::{AiError, Tenant};

/// A turn's bound in bytes of text: a few thousand tokens at the very most, about a second of work at worst.
const TURN_BYTES: usize = 4096;
/// Below this, sharing work between threads costs more than it gains.
const SHARE_BYTES: usize = 256;
/// A turn's bound in texts; special tokens make even the shortest text cost something.
const TURN_TEXTS: usize = 128;

type Answer = Result<Embeddings, AiError>;

/// The waiting requests.
pub(super) struct Queue {
    state: Mutex<State>,
    arrived: Condvar,
    bound: usize,
    threads: usize,
}

#[derive(Default)]
struct State {
    /// Tenants with waiting work, next turn first. A tenant is here exactly when its lane is not empty.
    turns: VecDeque<Tenant>,
    lanes: HashMap<Tenant, VecDeque<Waiting>>,
    bytes: usize,
    closed: bool,
}

/// A request of which some texts have not been taken yet.
struct Waiting {
    request: Arc<Request>,
    next: usize,
    /// Of the texts not yet taken.
    bytes: usize,
}

struct Request {
    texts: Vec<String>,
    pooling: Pooling,
    progress: Mutex<Progress>,
}

struct Progress {
    vectors: Vec<Vec<f32>>,
    tokens: usize,
    missing: usize,
    /// Gone once answered.
    answer: Option<oneshot::Sender<Answer>>,
}

/// Consecutive texts of one request, taken for one turn.
pub(super) struct Piece {
    request: Arc<Request>,
    range: Range<usize>,
}

impl Queue {
    pub(super) fn new(bound: NonZeroUsize, threads: NonZeroUsize) -> Self {
        Self { state: Mutex::default(), arrived: Condvar::new(), bound: bound.get(), threads: threads.get() }
    }

    /// Lets a request wait; `None` when the tenant's lane is full or the queue closed. Dropping the receiver gives the
    /// request up.
    pub(super) fn push(
        &self,
        tenant: Tenant,
        texts: Vec<String>,
        pooling: Pooling,
    ) -> Option<oneshot::Receiver<Answer>> {
        let (sender, receiver) = oneshot::channel();
        let count = texts.len();
        if count == 0 {
            // Nobody waits on the other side yet, so this cannot fail.
            let _ = sender.send(Ok(Embeddings { vectors: Vec::new(), tokens: 0 }));
            return Some(receiver);
        }
        let mut state = lock(&self.state);
        if state.waiting(&tenant) >= self.bound {
            state.prune();
        }
        if state.closed || state.waiting(&tenant) >= self.bound {
            return None;
        }
        let bytes = texts.iter().map(String::len).sum::<usize>();
        state.bytes += bytes;
        let progress = Progress { vectors: vec![Vec::new(); count], tokens: 0, missing: count, answer: Some(sender) };
        let request = Arc::new(Request { texts, pooling, progress: Mutex::new(progress) });
        let lane = state.lanes.entry(tenant.clone()).or_default();
        lane.push_back(Waiting { request, next: 0, bytes });
        if lane.len() == 1 {
            state.turns.push_back(tenant);
        }
        drop(state);
        self.arrived.notify_all();
        Some(receiver)
    }

    /// Waits for work and takes a turn's worth; `None` once the queue is closed.
    pub(super) fn take(&self) -> Option<Vec<Piece>> {
        let mut state = lock(&self.state);
        loop {
            if state.closed {
                return None;
            }
            // Work for several threads is shared between them rather than taken by the first to wake.
            let budget = (state.bytes / self.threads).clamp(SHARE_BYTES, TURN_BYTES);
            let pieces = state.turn(budget);
            if !pieces.is_empty() {
                return Some(pieces);
            }
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends every [`Queue::take`] and answers what waits with an abort.
    pub(super) fn close(&self) {
        let lanes = {
            let mut state = lock(&self.state);
            state.closed = true;
            state.turns.clear();
            state.bytes = 0;
            std::mem::take(&mut state.lanes)
        };
        self.arrived.notify_all();
        for waiting in lanes.into_values().flatten() {
            waiting.request.answer(Err(AiError::aborted()));
        }
    }
}

impl State {
    /// How many requests of a tenant wait. The bound is a tenant's own, so that nobody is refused because another asks much.
    fn waiting(&self, tenant: &Tenant) -> usize {
        self.lanes.get(tenant).map_or(0, VecDeque::len)
    }

    /// Tenants in turn give a share of their oldest request each, until the budget is used up.
    fn turn(&mut self, budget: usize) -> Vec<Piece> {
        let mut pieces: Vec<Piece> = Vec::new();
        let (mut bytes, mut texts) = (0, 0);
        while bytes < budget && texts < TURN_TEXTS {
            let Some(tenant) = self.turns.pop_front() else { break };
            let Some(lane) = self.lanes.get_mut(&tenant) else { continue };
            if let Some(waiting) = lane.front_mut() {
                let before = waiting.bytes;
                let piece = waiting.take(budget - bytes, TURN_TEXTS - texts);
                let taken = before - waiting.bytes;
                self.bytes -= taken;
                if let Some(piece) = piece {
                    bytes += taken;
                    texts += piece.range.len();
                    pieces.push(piece);
                }
                if waiting.next == waiting.request.texts.len() {
                    lane.pop_front();
                }
            }
            if lane.is_empty() {
                self.lanes.remove(&tenant);
            } else {
                self.turns.push_back(tenant);
            }
        }
        pieces
    }

    /// Forgets requests whose sender has gone.
    fn prune(&mut self) {
        for lane in self.lanes.values_mut() {
            lane.retain(|waiting| !waiting.request.given_up());
        }
        self.lanes.retain(|_, lane| !lane.is_empty());
        self.turns.retain(|tenant| self.lanes.contains_key(tenant));
        self.bytes = self.lanes.values().flatten().map(|waiting| waiting.bytes).sum();
    }
}

impl Waiting {
    /// The next texts, at least one; none when the request has been given up, which also ends it.
    fn take(&mut self, bytes: usize, texts: usize) -> Option<Piece> {
        if self.request.given_up() {
            self.next = self.request.texts.len();
            self.bytes = 0;
            return None;
        }
        let (mut used, mut count) = (0, 0);
        for text in self.request.texts[self.next..].iter().take(texts) {
            if count > 0 && used + text.len() > bytes {
                break;
            }
            used += text.len();
            count += 1;
        }
        let range = self.next..self.next + count;
        self.next = range.end;
        self.bytes -= used;
        Some(Piece { request: Arc::clone(&self.request), range })
    }
}

impl Request {
    fn given_up(&self) -> bool {
        lock(&self.progress).answer.as_ref().is_none_or(oneshot::Sender::is_canceled)
    }

    fn answer(&self, answer: Answer) {
        if let Some(sender) = lock(&self.progress).answer.take() {
            // The receiver may have gone meanwhile.
            let _ = sender.send(answer);
        }
    }
}

impl Piece {
    pub(super) fn texts(&self) -> &[String] {
        &self.request.texts[self.range.clone()]
    }

    pub(super) fn pooling(&self) -> Pooling {
        self.request.pooling
    }

    /// Puts the piece's vectors in their place; the last piece, or the first that failed, answers the request.
    pub(super) fn finish(self, result: Answer) {
        let embeddings = match result {
            Ok(embeddings) => embeddings,
            Err(error) => return self.request.answer(Err(error)),
        };
        let complete = {
            let mut progress = lock(&self.request.progress);
            for (place, vector) in self.range.clone().zip(embeddings.vectors) {
                progress.vectors[place] = vector;
            }
            progress.tokens += embeddings.tokens;
            progress.missing -= self.range.len();
            (progress.missing == 0)
                .then(|| Embeddings { vectors: std::mem::take(&mut progress.vectors), tokens: progress.tokens })
        };
        if let Some(embeddings) = complete {
            self.request.answer(Ok(embeddings));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures::executor::block_on;

    use super::*;

    fn queue(bound: usize, threads: usize) -> Queue {
        Queue::new(NonZeroUsize::new(bound).unwrap(), NonZeroUsize::new(threads).unwrap())
    }

    fn texts(count: usize, length: usize) -> Vec<String> {
        (0..count).map(|index| format!("{index:0length$}")).collect()
    }

    /// Answers each text with its own number.
    fn answer(piece: Piece) {
        let vectors = piece.texts().iter().map(|text| vec![text.parse().unwrap()]).collect();
        let tokens = piece.texts().len();
        piece.finish(Ok(Embeddings { vectors, tokens }));
    }

    #[test]
    fn vectors_come_back_in_order_whoever_computed_them() {
        let queue = queue(4, 2);
        let receiver = queue.push("a".into(), texts(1000, 100), Pooling::Mean).unwrap();
        let mut pieces = Vec::new();
        while pieces.iter().map(|piece: &Piece| piece.range.len()).sum::<usize>() < 1000 {
            pieces.extend(queue.take().unwrap());
        }
        pieces.into_iter().rev().for_each(answer);
        let embeddings = block_on(receiver).unwrap().unwrap();
        assert_eq!(embeddings.tokens, 1000);
        assert!(embeddings.vectors.iter().enumerate().all(|(index, vector)| vector[..] == [index as f32]));
    }

    #[test]
    fn a_large_request_delays_another_tenant_by_one_turn() {
        let queue = queue(4, 1);
        let _many = queue.push("greedy".into(), texts(3000, 100), Pooling::Mean).unwrap();
        assert!(queue.take().unwrap().iter().all(|piece| piece.texts().len() <= TURN_TEXTS));
        let one = queue.push("modest".into(), texts(1, 10), Pooling::Cls).unwrap();
        let turns = [queue.take().unwrap(), queue.take().unwrap()];
        let piece = turns.into_iter().flatten().find(|piece| piece.pooling() == Pooling::Cls);
        answer(piece.expect("it is taken within two turns"));
        assert_eq!(block_on(one).unwrap().unwrap().vectors.len(), 1);
    }

    #[test]
    fn work_is_shared_between_threads_and_small_requests_share_a_turn() {
        let shared = queue(64, 2);
        let _batch = shared.push("a".into(), texts(32, 50), Pooling::Mean).unwrap();
        let first: usize = shared.take().unwrap().iter().map(|piece| piece.texts().len()).sum();
        assert_eq!(first, 16);
        let single = queue(64, 1);
        let _receivers: Vec<_> =
            (0..20).map(|_| single.push("a".into(), texts(1, 20), Pooling::Mean).unwrap()).collect();
        assert_eq!(single.take().unwrap().len(), 20);
    }

    #[test]
    fn a_full_queue_refuses_until_someone_leaves() {
        let queue = queue(2, 1);
        let first = queue.push("a".into(), texts(2, 5), Pooling::Mean).unwrap();
        let _second = queue.push("a".into(), texts(2, 5), Pooling::Mean).unwrap();
        assert!(queue.push("a".into(), texts(1, 5), Pooling::Mean).is_none());
        let _other = queue.push("b".into(), texts(1, 5), Pooling::Mean).unwrap();
        drop(first);
        let third = queue.push("a".into(), texts(1, 5), Pooling::Cls);
        assert!(third.is_some());
        let taken = queue.take().unwrap();
        assert_eq!(taken.len(), 3, "the one given up is skipped");
        assert_eq!(lock(&queue.state).bytes, 0);
    }

    #[test]
    fn the_first_failure_answers_and_the_rest_is_not_computed() {
        let queue = queue(2, 1);
        let receiver = queue.push("a".into(), texts(3000, 100), Pooling::Mean).unwrap();
        for piece in queue.take().unwrap() {
            piece.finish(Err(AiError::internal("broken")));
        }
        assert_eq!(block_on(receiver).unwrap().unwrap_err().code, 3043);
        let _next = queue.push("a".into(), texts(1, 5), Pooling::Cls).unwrap();
        let taken = queue.take().unwrap();
        assert!(taken.iter().all(|piece| piece.pooling() == Pooling::Cls));
    }

    #[test]
    fn closing_answers_those_who_wait() {
        let queue = queue(2, 1);
        let waiting = queue.push("a".into(), texts(1, 5), Pooling::Mean).unwrap();
        queue.close();
        assert_eq!(block_on(waiting).unwrap().unwrap_err().code, 3008);
        assert!(queue.take().is_none());
        assert!(queue.push("a".into(), texts(1, 5), Pooling::Mean).is_none());
        let none = queue.push("a".into(), Vec::new(), Pooling::Mean).unwrap();
        assert!(block_on(none).unwrap().unwrap().vectors.is_empty());
    }
}
