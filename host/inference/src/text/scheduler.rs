//! Which generations run, and in what steps: continuous batching on one thread per model.
//!
//! Each step reads one token of every sequence that is answering and, with what is left of a budget of tokens, further
//! pieces of prompts; then each sequence that has read all its tokens picks the next one. So an answer never waits for
//! another to end, and a long prompt delays a step by a bounded amount. Sequences are admitted from their tenants'
//! queues in turn, when the cache has room for all that they may need. The next in turn is waited for even if a smaller
//! one would fit: otherwise large prompts might never run.
//!
//! The thread outlives every fault of a sequence: a panic or an error in a step fails the generations in flight and
//! leaves the model ready for the next. It ends when the model is dropped.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use host_kernels::kv::KvStore;

use super::forward::ForwardPass;
use super::kv_blocks::{BlockPool, BlockTable};
use super::sequence::{Job, Sequence};
use super::tokenizer::Vocabulary;
use crate::{AiError, Tenant};

/// After how long a refused caller should try again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How much work is taken on at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Generations that may run together.
    pub(crate) sequences: NonZeroUsize,
    /// Tokens a step while nobody is answering.
    pub(crate) prefill: NonZeroUsize,
    /// Tokens a step while somebody is: what bounds the pause between two tokens.
    pub(crate) mixed: NonZeroUsize,
}

/// A tenant's place in the queue, given back when the job starts or is given up.
pub(crate) struct Place {
    places: Arc<Mutex<HashMap<Tenant, usize>>>,
    tenant: Tenant,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = places.get_mut(&self.tenant) {
            *taken -= 1;
            if *taken == 0 {
                places.remove(&self.tenant);
            }
        }
    }
}

/// The queue between callers and the model's thread.
pub(crate) struct Queue {
    state: Mutex<Waiting>,
    changed: Condvar,
    /// How many jobs of each tenant wait. The bound is a tenant's own, so that nobody is refused because another asks much.
    places: Arc<Mutex<HashMap<Tenant, usize>>>,
    limit: usize,
}

#[derive(Default)]
struct Waiting {
    /// Tenants with waiting jobs, the next in turn first.
    tenants: VecDeque<(Tenant, VecDeque<(Job, Place)>)>,
    stopping: bool,
}

impl Queue {
    pub(crate) fn new(limit: usize) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), places: Arc::default(), limit }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place.
    ///
    /// # Errors
    /// [`AiError::capacity_exceeded`] when as many of the tenant's jobs wait as may.
    pub(crate) fn place(&self, tenant: &Tenant) -> Result<Place, AiError> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = places.entry(tenant.clone()).or_insert(0);
        if *taken >= self.limit {
            return Err(AiError::capacity_exceeded(RETRY_AFTER));
        }
        *taken += 1;
        Ok(Place { places: self.places.clone(), tenant: tenant.clone() })
    }

    /// Lets `job` wait for its turn.
    pub(crate) fn push(&self, job: Job, place: Place) {
        let mut state = self.lock();
        match state.tenants.iter().position(|(tenant, _)| *tenant == job.tenant) {
            Some(at) => state.tenants[at].1.push_back((job, place)),
            None => state.tenants.push_back((job.tenant.clone(), VecDeque::from([(job, place)]))),
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Ends the model's thread at its next step.
    pub(crate) fn stop(&self) {
        let mut state = self.lock();
        state.stopping = true;
        state.tenants.clear();
        drop(state);
        self.changed.notify_one();
    }

    /// Waits until there is a job; false when the thread should end.
    fn wait(&self) -> bool {
        let idle = |state: &mut Waiting| !state.stopping && state.tenants.is_empty();
        let state = self.changed.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        !state.stopping
    }

    fn stopping(&self) -> bool {
        self.lock().stopping
    }

    /// Forgets the jobs that nobody waits for.
    fn forget_cancelled(&self) {
        let mut state = self.lock();
        for (_, jobs) in &mut state.tenants {
            jobs.retain(|(job, _)| !job.cancelled());
        }
        state.tenants.retain(|(_, jobs)| !jobs.is_empty());
    }

    /// The next job in turn if `pool` has room for it. Its tenant goes to the end of the line.
    fn admit(&self, pool: &BlockPool) -> Option<(Job, BlockTable)> {
        let mut state = self.lock();
        let next = state.tenants.front()?.1.front()?.0.tokens();
        let table = pool.reserve(next)?;
        let (tenant, mut jobs) = state.tenants.pop_front()?;
        let (job, _place) = jobs.pop_front()?;
        if !jobs.is_empty() {
            state.tenants.push_back((tenant, jobs));
        }
        Some((job, table))
    }
}

/// The model's thread.
pub(crate) struct Worker<M> {
    pub(crate) queue: Arc<Queue>,
    pub(crate) model: M,
    pub(crate) store: KvStore,
    pub(crate) pool: BlockPool,
    pub(crate) vocabulary: Arc<Vocabulary>,
    pub(crate) limits: Limits,
    pub(crate) running: Vec<Sequence>,
}

impl<M: ForwardPass> Worker<M> {
    /// Runs until the queue is stopped.
    pub(crate) fn run(mut self) {
        while self.take_on() {
            if self.running.is_empty() {
                continue;
            }
            let fault = match catch_unwind(AssertUnwindSafe(|| self.step())) {
                Ok(Ok(())) => continue,
                Ok(Err(fault)) => fault,
                Err(_) => "the model's thread panicked; the log has the place".to_owned(),
            };
            tracing::error!(
                fault,
                generations = self.running.len(),
                "a step failed and ends the generations in flight"
            );
            for sequence in self.running.drain(..) {
                sequence.fail(AiError::internal(&fault));
            }
        }
        for sequence in self.running.drain(..) {
            sequence.fail(AiError::aborted());
        }
    }

    /// Drops what was cancelled and admits what fits, waiting if there is nothing to do. False ends the thread.
    fn take_on(&mut self) -> bool {
        let go_on = if self.running.is_empty() { self.queue.wait() } else { !self.queue.stopping() };
        self.running.retain(|sequence| !sequence.cancelled());
        self.queue.forget_cancelled();
        while self.running.len() < self.limits.sequences.get() {
            let Some((job, table)) = self.queue.admit(&self.pool) else { break };
            self.running.push(Sequence::new(job, table));
        }
        go_on
    }

    /// How many tokens of each sequence the next step reads.
    fn plan(&self) -> Vec<usize> {
        let decoding = self.running.iter().filter(|s| s.pending() == 1).count();
        let budget = if decoding == 0 { self.limits.prefill } else { self.limits.mixed };
        let mut left = budget.get().saturating_sub(decoding);
        let mut counts = Vec::with_capacity(self.running.len());
        for sequence in &self.running {
            let pending = sequence.pending();
            let count = if pending == 1 { 1 } else { pending.min(left) };
            if pending > 1 {
                left -= count;
            }
            counts.push(count);
        }
        // With more answers than the budget has tokens, prompts must still move.
        let moves = counts.iter().zip(&self.running).any(|(count, s)| *count > 0 && s.pending() > 1);
        if !moves && let Some(first) = counts.iter().position(|count| *count == 0) {
            counts[first] = 1;
        }
        counts
    }

    fn step(&mut self) -> Result<(), String> {
        let counts = self.plan();
        let mut spans = Vec::with_capacity(counts.len());
        for (sequence, count) in self.running.iter_mut().zip(&counts) {
            if !sequence.make_room(*count) {
                return Err("a sequence outgrew its reservation".into());
            }
            if *count > 0 {
                spans.push(sequence.span(*count));
            }
        }
        let asked = spans.iter().filter(|span| span.logits).count();
        let logits = self.model.forward(&mut self.store, &spans).map_err(|e| e.to_string())?;
        let width = self.vocabulary.len();
        if logits.len() != asked * width {
            return Err(format!("the model gave {} logits for {asked} rows of {width}", logits.len()));
        }
        let mut rows = logits.chunks_exact(width);
        let mut counts = counts.iter();
        let vocabulary = &self.vocabulary;
        self.running.retain_mut(|sequence| {
            let count = counts.next().copied().unwrap_or(0);
            sequence.read(count);
            if count == 0 || sequence.pending() > 0 {
                return true;
            }
            rows.next().is_none_or(|row| sequence.advance(row, vocabulary))
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
