//! Requests that wait for an encoder, fairly between tenants.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use futures::channel::oneshot;

use super::tokens::Place;
use crate::backend::Pooling;
use crate::{AiError, Tenant};

/// A turn's bound in bytes of text: a few thousand tokens at the very most, about a second of work at worst.
const TURN_BYTES: usize = 4096;
/// Below this, sharing work between threads costs more than it gains.
const SHARE_BYTES: usize = 256;
/// A turn's bound in texts; special tokens make even the shortest text cost something.
const TURN_TEXTS: usize = 128;
/// Special tokens of a text at most.
const AROUND: usize = 4;

type Answer = Result<Outputs, AiError>;

/// What is read.
#[derive(Debug)]
pub(super) enum Input {
    /// One text.
    Text(String),
    /// Two texts, the first of which is many pairs'.
    Pair(Arc<str>, String),
}

impl Input {
    fn len(&self) -> usize {
        match self {
            Input::Text(text) => text.len(),
            Input::Pair(first, second) => first.len().saturating_add(second.len()),
        }
    }
}

/// What is wanted of each input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Its vector.
    Vector(Pooling),
    /// The scores of the whole.
    Scores,
    /// The scores of each token that stands for text.
    TokenScores,
}

/// What came of one input.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Output {
    /// The vector or the scores.
    pub(super) values: Vec<f32>,
    /// Where [`Wanted::TokenScores`] of each token stand.
    pub(super) places: Vec<Place>,
}

/// What came of a request, or of a piece of it.
#[derive(Debug)]
pub(super) struct Outputs {
    pub(super) outputs: Vec<Output>,
    /// Tokens read, special tokens included.
    pub(super) tokens: usize,
}

/// The waiting requests.
pub(super) struct Queue {
    state: Mutex<State>,
    arrived: Condvar,
    bound: usize,
    threads: usize,
    most: Turn,
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
    inputs: Vec<Input>,
    wanted: Wanted,
    progress: Mutex<Progress>,
}

struct Progress {
    outputs: Vec<Output>,
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

/// How much a turn takes at most.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    bytes: usize,
    texts: usize,
}

impl Turn {
    /// The usual one, or as much as cannot have more than so many tokens; one text is always taken.
    pub(super) fn within(tokens: usize) -> Turn {
        let texts = (tokens / (4 * AROUND)).clamp(1, TURN_TEXTS);
        Turn { texts, bytes: tokens.saturating_sub(texts * AROUND).clamp(1, TURN_BYTES) }
    }
}

impl Queue {
    pub(super) fn new(bound: NonZeroUsize, threads: NonZeroUsize, most: Turn) -> Self {
        Self { state: Mutex::default(), arrived: Condvar::new(), bound: bound.get(), threads: threads.get(), most }
    }

    /// Lets a request wait; `None` when the tenant's lane is full or the queue closed. Dropping the receiver gives the
    /// request up.
    pub(super) fn push(&self, tenant: Tenant, inputs: Vec<Input>, wanted: Wanted) -> Option<oneshot::Receiver<Answer>> {
        let (sender, receiver) = oneshot::channel();
        let count = inputs.len();
        if count == 0 {
            // Nobody waits on the other side yet, so this cannot fail.
            let _ = sender.send(Ok(Outputs { outputs: Vec::new(), tokens: 0 }));
            return Some(receiver);
        }
        let mut state = lock(&self.state);
        if state.waiting(&tenant) >= self.bound {
            state.prune();
        }
        if state.closed || state.waiting(&tenant) >= self.bound {
            return None;
        }
        let bytes = inputs.iter().map(Input::len).sum::<usize>();
        state.bytes += bytes;
        let progress =
            Progress { outputs: vec![Output::default(); count], tokens: 0, missing: count, answer: Some(sender) };
        let request = Arc::new(Request { inputs, wanted, progress: Mutex::new(progress) });
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
            let bytes = (state.bytes / self.threads).clamp(SHARE_BYTES, TURN_BYTES).min(self.most.bytes);
            let pieces = state.turn(Turn { bytes, ..self.most });
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
    fn turn(&mut self, most: Turn) -> Vec<Piece> {
        let mut pieces: Vec<Piece> = Vec::new();
        let (mut bytes, mut texts) = (0, 0);
        while bytes < most.bytes && texts < most.texts {
            let Some(tenant) = self.turns.pop_front() else { break };
            let Some(lane) = self.lanes.get_mut(&tenant) else { continue };
            if let Some(waiting) = lane.front_mut() {
                let before = waiting.bytes;
                let piece = waiting.take(most.bytes - bytes, most.texts - texts);
                let taken = before - waiting.bytes;
                self.bytes -= taken;
                if let Some(piece) = piece {
                    bytes += taken;
                    texts += piece.range.len();
                    pieces.push(piece);
                }
                if waiting.next == waiting.request.inputs.len() {
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
            self.next = self.request.inputs.len();
            self.bytes = 0;
            return None;
        }
        let (mut used, mut count) = (0, 0);
        for text in self.request.inputs[self.next..].iter().take(texts) {
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
    /// Whether nobody waits for it any more.
    pub(super) fn given_up(&self) -> bool {
        self.request.given_up()
    }

    pub(super) fn inputs(&self) -> &[Input] {
        &self.request.inputs[self.range.clone()]
    }

    pub(super) fn wanted(&self) -> Wanted {
        self.request.wanted
    }

    /// Puts the piece's outputs in their place; the last piece, or the first that failed, answers the request.
    pub(super) fn finish(self, result: Answer) {
        let piece = match result {
            Ok(piece) => piece,
            Err(error) => return self.request.answer(Err(error)),
        };
        let complete = {
            let mut progress = lock(&self.request.progress);
            for (place, output) in self.range.clone().zip(piece.outputs) {
                progress.outputs[place] = output;
            }
            progress.tokens += piece.tokens;
            progress.missing -= self.range.len();
            (progress.missing == 0)
                .then(|| Outputs { outputs: std::mem::take(&mut progress.outputs), tokens: progress.tokens })
        };
        if let Some(outputs) = complete {
            self.request.answer(Ok(outputs));
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
        Queue::new(NonZeroUsize::new(bound).unwrap(), NonZeroUsize::new(threads).unwrap(), Turn::within(usize::MAX))
    }

    const MEAN: Wanted = Wanted::Vector(Pooling::Mean);
    const CLS: Wanted = Wanted::Vector(Pooling::Cls);

    fn texts(count: usize, length: usize) -> Vec<Input> {
        (0..count).map(|index| Input::Text(format!("{index:0length$}"))).collect()
    }

    /// Answers each text with its own number.
    fn answer(piece: Piece) {
        let number = |input: &Input| match input {
            Input::Text(text) | Input::Pair(_, text) => text.parse().unwrap(),
        };
        let output = |input| Output { values: vec![number(input)], places: Vec::new() };
        let outputs = piece.inputs().iter().map(output).collect();
        let tokens = piece.inputs().len();
        piece.finish(Ok(Outputs { outputs, tokens }));
    }

    #[test]
    fn outputs_come_back_in_order_whoever_computed_them() {
        let queue = queue(4, 2);
        let receiver = queue.push("a".into(), texts(1000, 100), MEAN).unwrap();
        let mut pieces = Vec::new();
        while pieces.iter().map(|piece: &Piece| piece.range.len()).sum::<usize>() < 1000 {
            pieces.extend(queue.take().unwrap());
        }
        pieces.into_iter().rev().for_each(answer);
        let answered = block_on(receiver).unwrap().unwrap();
        assert_eq!(answered.tokens, 1000);
        let in_order = |(index, output): (usize, &Output)| output.values[..] == [index as f32];
        assert!(answered.outputs.iter().enumerate().all(in_order));
    }

    #[test]
    fn a_large_request_delays_another_tenant_by_one_turn() {
        let queue = queue(4, 1);
        let _many = queue.push("greedy".into(), texts(3000, 100), MEAN).unwrap();
        assert!(queue.take().unwrap().iter().all(|piece| piece.inputs().len() <= TURN_TEXTS));
        let one = queue.push("modest".into(), texts(1, 10), CLS).unwrap();
        let turns = [queue.take().unwrap(), queue.take().unwrap()];
        let piece = turns.into_iter().flatten().find(|piece| piece.wanted() == CLS);
        answer(piece.expect("it is taken within two turns"));
        assert_eq!(block_on(one).unwrap().unwrap().outputs.len(), 1);
    }

    #[test]
    fn work_is_shared_between_threads_and_small_requests_share_a_turn() {
        let shared = queue(64, 2);
        let _batch = shared.push("a".into(), texts(32, 50), MEAN).unwrap();
        let first: usize = shared.take().unwrap().iter().map(|piece| piece.inputs().len()).sum();
        assert_eq!(first, 16);
        let single = queue(64, 1);
        let _receivers: Vec<_> = (0..20).map(|_| single.push("a".into(), texts(1, 20), MEAN).unwrap()).collect();
        assert_eq!(single.take().unwrap().len(), 20);
    }

    #[test]
    fn a_full_queue_refuses_until_someone_leaves() {
        let queue = queue(2, 1);
        let first = queue.push("a".into(), texts(2, 5), MEAN).unwrap();
        let _second = queue.push("a".into(), texts(2, 5), MEAN).unwrap();
        assert!(queue.push("a".into(), texts(1, 5), MEAN).is_none());
        let _other = queue.push("b".into(), texts(1, 5), MEAN).unwrap();
        drop(first);
        let third = queue.push("a".into(), texts(1, 5), CLS);
        assert!(third.is_some());
        let taken = queue.take().unwrap();
        assert_eq!(taken.len(), 3, "the one given up is skipped");
        assert_eq!(lock(&queue.state).bytes, 0);
    }

    #[test]
    fn the_first_failure_answers_and_the_rest_is_not_computed() {
        let queue = queue(2, 1);
        let receiver = queue.push("a".into(), texts(3000, 100), MEAN).unwrap();
        for piece in queue.take().unwrap() {
            piece.finish(Err(AiError::internal("broken")));
        }
        assert_eq!(block_on(receiver).unwrap().unwrap_err().code, 3043);
        let _next = queue.push("a".into(), texts(1, 5), CLS).unwrap();
        let taken = queue.take().unwrap();
        assert!(taken.iter().all(|piece| piece.wanted() == CLS));
    }

    #[test]
    fn closing_answers_those_who_wait() {
        let queue = queue(2, 1);
        let waiting = queue.push("a".into(), texts(1, 5), MEAN).unwrap();
        queue.close();
        assert_eq!(block_on(waiting).unwrap().unwrap_err().code, 3008);
        assert!(queue.take().is_none());
        assert!(queue.push("a".into(), texts(1, 5), MEAN).is_none());
        let none = queue.push("a".into(), Vec::new(), MEAN).unwrap();
        assert!(block_on(none).unwrap().unwrap().outputs.is_empty());
    }
}
