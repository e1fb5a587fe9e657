//! The scheduler as a state machine: one call is one step of the model.
//!
//! **Admission** is optimistic: a sequence starts when there are blocks for the tokens that it has, not for those that
//! it may come to. When blocks run out, the youngest sequence gives its own back and waits at the front of its tenant's
//! line to be read again; what it has said stays said, and as a step's results do not depend on what else is in it, the
//! answer is the one that it would have given undisturbed. The oldest is never asked to leave, and the cache is as large
//! as the longest sequence may become, so something always moves. A newcomer must leave a block for each that runs, or
//! it would be the first to leave again.
//!
//! **Prompts** share what is left of a step's budget evenly between tenants. Where two sequences would read the same
//! block, the younger waits until it can take the block over, so that a prompt which many begin with is read once even
//! if they all come together.
//!
//! **Faults** stay where they arise as far as possible: logits that are not numbers, a grammar that breaks a limit or a
//! panic while a token is picked end one sequence; a forward pass that fails ends those that it was for.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::drafts::odds_that_pay;
use super::masks::Masks;
use super::queue::Place;
use super::turns::Turns;
use super::{Limits, Statistics};
use crate::text::forward::{ForwardPass, KvCache as _};
use crate::text::kv_blocks::BlockPool;
use crate::text::sequence::{Job, Sequence};
use crate::text::tokenizer::Vocabulary;
use crate::{AiError, Tenant};

/// A sequence with so few tokens to read counts as answering: they are what a grammar forced, or the end of a prompt.
const SHORT: usize = 16;

/// Decides what `model` computes.
pub(crate) struct Scheduler<M: ForwardPass> {
    model: M,
    cache: M::Cache,
    pool: BlockPool,
    vocabulary: Arc<Vocabulary>,
    limits: Limits,
    turns: Turns,
    /// The oldest first.
    running: Vec<Sequence>,
    arrivals: u64,
    statistics: Arc<Statistics>,
    masks: Masks,
}

impl<M: ForwardPass> Scheduler<M> {
    /// A scheduler with nothing to do. `pool` has the blocks of `cache`.
    pub(crate) fn new(model: M, cache: M::Cache, pool: BlockPool, vocabulary: Arc<Vocabulary>, limits: Limits) -> Self {
        let (turns, running, statistics, masks) = (Turns::default(), Vec::new(), Arc::default(), Masks::default());
        Self { model, cache, pool, vocabulary, limits, turns, running, arrivals: 0, statistics, masks }
    }

    pub(crate) fn statistics(&self) -> Arc<Statistics> {
        self.statistics.clone()
    }

    /// Lets `job` wait for its turn. Its prompt and longest answer together must fit the cache.
    pub(crate) fn submit(&mut self, job: Job, place: Option<Place>) {
        self.arrivals += 1;
        let detokenizer = self.vocabulary.detokenizer(&job.prompt);
        self.turns.push(Sequence::new(job, self.arrivals, &self.pool, detokenizer), place);
    }

    /// Whether there is nothing to do before the next job arrives.
    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_empty() && self.turns.is_empty()
    }

    /// Writes to the log what has been done and which blocks are held, of which there are none while nothing runs.
    pub(crate) fn report(&self) {
        let (s, held) = (&self.statistics, self.pool.total() - self.pool.available());
        let (steps, read, reused, preemptions) = (s.steps(), s.tokens_read(), s.tokens_reused(), s.preemptions());
        tracing::debug!(held, reusable = self.pool.reusable(), steps, read, reused, preemptions, "text model idle");
    }

    /// Ends everything.
    pub(crate) fn end(&mut self, error: &AiError) {
        self.turns.retain(|sequence| {
            sequence.fail(error.clone());
            false
        });
        for sequence in self.running.drain(..) {
            sequence.fail(error.clone());
        }
    }

    /// Ends what runs because of `fault`, except the sequences of which a step of `counts` was to read nothing.
    pub(super) fn fail(&mut self, fault: &str, counts: &[usize]) {
        let (running, mut counts) = (self.running.len(), counts.iter());
        self.running.retain_mut(|sequence| {
            let apart = counts.next() == Some(&0);
            if !apart {
                sequence.fault(AiError::internal(fault));
            }
            apart
        });
        let generations = running - self.running.len();
        tracing::error!(fault, generations, "a step failed and ends the generations in it");
    }

    /// Drops what is over at `now`, admits what fits and runs the model once, if there is anything to run.
    pub(crate) fn step(&mut self, now: Instant) {
        self.running.retain(|sequence| !sequence.given_up(now));
        self.turns.retain(|sequence| !sequence.given_up(now));
        self.admit();
        if self.running.is_empty() {
            self.turns.settle();
            return;
        }
        for sequence in &mut self.running {
            Statistics::add(&self.statistics.reused, sequence.catch_up());
        }
        let mut counts = self.plan();
        self.make_room(&mut counts);
        if self.limits.speculation {
            self.guess(&counts);
        }
        if let Err(fault) = self.compute(&counts) {
            self.fail(&fault, &counts);
        }
    }

    fn admit(&mut self) {
        while self.running.len() < self.limits.sequences.get() {
            // As many blocks as the next tokens of all may need.
            let (pool, margin) = (&self.pool, self.running.len());
            let Some(mut sequence) = self.turns.next(|sequence| sequence.enter(pool, margin)) else { break };
            sequence.take_part(|from, to| self.cache.copy(from, to));
            Statistics::add(&self.statistics.reused, sequence.computed());
            self.turns.charge(&sequence.tenant().clone(), sequence.charge());
            let at = self.running.partition_point(|other| other.number() < sequence.number());
            self.running.insert(at, sequence);
        }
    }

    /// How many tokens of each sequence the next step reads.
    fn plan(&self) -> Vec<usize> {
        let answering = |sequence: &Sequence| sequence.pending() <= SHORT;
        let mut counts: Vec<usize> = self.running.iter().map(|s| if answering(s) { s.pending() } else { 0 }).collect();
        let answers: usize = counts.iter().sum();
        let budget = if answers == 0 { self.limits.prefill } else { self.limits.mixed };
        // With more answers than the budget has tokens, prompts must still move.
        let left = budget.get().saturating_sub(answers).max(1);
        let mut claimed = HashSet::new();
        let mut reads = |sequence: &Sequence| {
            let first = sequence.block_in_progress().is_none_or(|link| claimed.insert(link));
            !answering(sequence) && (first || !sequence.could_take_over())
        };
        let reading: Vec<usize> = (0..counts.len()).filter(|i| reads(&self.running[*i])).collect();
        self.divide(&reading, left, &mut counts);
        counts
    }

    /// Divides `left` tokens between the tenants of the sequences `reading`, evenly as far as they need them, and each
    /// tenant's between its own, the oldest first.
    fn divide(&self, reading: &[usize], mut left: usize, counts: &mut [usize]) {
        let mut tenants: Vec<(&Tenant, usize)> = Vec::new();
        for sequence in reading.iter().map(|i| &self.running[*i]) {
            match tenants.iter_mut().find(|(tenant, _)| *tenant == sequence.tenant()) {
                Some((_, need)) => *need += sequence.pending(),
                None => tenants.push((sequence.tenant(), sequence.pending())),
            }
        }
        // Who needs least gets it all if that is no more than a share; what is over is shared by the others.
        tenants.sort_by_key(|(_, need)| *need);
        let mut sharing = tenants.len();
        for (tenant, need) in tenants {
            let mut share = need.min(left.div_ceil(sharing));
            left -= share;
            sharing -= 1;
            for i in reading.iter().filter(|i| self.running[**i].tenant() == tenant) {
                counts[*i] = self.running[*i].pending().min(share);
                share -= counts[*i];
            }
        }
    }

    /// Finds blocks for what the step reads, from the oldest sequence on; while there are too few, the youngest leaves.
    fn make_room(&mut self, counts: &mut Vec<usize>) {
        let mut next = 0;
        while let Some(sequence) = self.running.get_mut(next) {
            if sequence.make_room(counts[next]) {
                next += 1;
                continue;
            }
            counts.pop();
            if let Some(mut youngest) = self.running.pop() {
                youngest.leave();
                self.turns.push(youngest, None);
                Statistics::add(&self.statistics.preemptions, 1);
            }
        }
    }

    /// Lets sequences that will pick a token guess what follows, as long as that pays in a step of so many rows. Blocks
    /// that are free are used for that, none is taken from anybody.
    fn guess(&mut self, counts: &[usize]) {
        let mut rows: usize = counts.iter().sum();
        for (sequence, count) in self.running.iter_mut().zip(counts) {
            if sequence.rows(*count) > 0 {
                let more = sequence.guess(odds_that_pay(rows));
                Statistics::add(&self.statistics.drafted, more);
                rows += more;
            }
        }
    }

    /// Runs the model and gives each sequence what it asked for. An error is the step's.
    fn compute(&mut self, counts: &[usize]) -> Result<(), String> {
        let (mut lenders, mut grammars) = (Vec::new(), Vec::new());
        for (i, (sequence, count)) in self.running.iter_mut().zip(counts).enumerate() {
            if let Some(grammar) = sequence.lend_grammar(*count) {
                lenders.push(i);
                grammars.push(grammar);
            }
        }
        let spans = self.running.iter().zip(counts).filter(|(_, count)| **count > 0);
        let spans: Vec<_> = spans.map(|(sequence, count)| sequence.span(*count)).collect();
        let asked: usize = spans.iter().map(|span| span.logits).sum();
        let read: usize = spans.iter().map(|span| span.tokens.len()).sum();
        let (model, cache) = (&mut self.model, &mut self.cache);
        let (logits, grammars) = self.masks.beside(grammars, || guarded(|| model.forward(cache, &spans)));
        let grammars = grammars.ok_or("the thread that computes masks has ended")?;
        lenders.into_iter().zip(grammars).for_each(|(i, grammar)| self.running[i].return_grammar(grammar));
        let logits = logits.ok_or("the model's thread panicked; the log has the place")?;
        let logits = logits.map_err(|error| error.to_string())?;
        let width = self.vocabulary.len();
        if logits.len() != asked * width {
            return Err(format!("the model gave {} logits for {asked} rows of {width}", logits.len()));
        }
        Statistics::add(&self.statistics.steps, 1);
        Statistics::add(&self.statistics.read, read);
        let mut rows = logits;
        let mut counts = counts.iter();
        let (vocabulary, turns, statistics) = (&self.vocabulary, &mut self.turns, &self.statistics);
        self.running.retain_mut(|sequence| {
            let count = counts.next().copied().unwrap_or(0);
            let asked = sequence.rows(count);
            sequence.read(count);
            if asked == 0 {
                return true;
            }
            let (own, others) = rows.split_at(asked * width);
            rows = others;
            let own = own.chunks_exact(width);
            let (goes_on, right) = contained(sequence, |sequence| sequence.follow(own, vocabulary));
            Statistics::add(&statistics.accepted, right);
            turns.charge(&sequence.tenant().clone(), sequence.charge());
            goes_on
        });
        Ok(())
    }
}

/// What `work` gives; none if it panics. Nothing that it may have left half done is used afterwards: the sequences
/// concerned end, and a model's buffers mean nothing between steps.
fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

/// What `work` says of `sequence`, or that it has ended, which a panic brings to it alone.
pub(super) fn contained(sequence: &mut Sequence, work: impl FnOnce(&mut Sequence) -> (bool, usize)) -> (bool, usize) {
    guarded(|| work(sequence)).unwrap_or_else(|| {
        sequence.fault(AiError::internal("picking a token panicked; the log has the place"));
        (false, 0)
    })
}
