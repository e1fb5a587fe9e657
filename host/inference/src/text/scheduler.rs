//! Which generations run, and in what steps: continuous batching on one thread per model.
//!
//! [`Scheduler`] is a state machine without threads or clocks: jobs go in, each call of [`Scheduler::step`] is one
//! forward pass, events come out. [`run`] drives it on the model's thread with the jobs that callers leave in the
//! [`Queue`]. Whose turn it is to start is decided by [`turns`].
//!
//! Each step reads the next token of every sequence that is answering and, with what is left of a budget of tokens,
//! further pieces of prompts; then each sequence that has read all its tokens picks the next one. So an answer never
//! waits for another to end, and a long prompt delays a step by a bounded amount.

mod core;
mod drafts;
mod masks;
mod queue;
mod turns;
mod worker;

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use self::core::Scheduler;
pub(crate) use drafts::Drafts;
pub(crate) use queue::{Place, Queue};
pub(crate) use worker::run;

/// How much work is taken on at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Generations that may run together.
    pub(crate) sequences: NonZeroUsize,
    /// Tokens a step while nobody is answering.
    pub(crate) prefill: NonZeroUsize,
    /// Tokens a step while somebody is: what bounds the pause between two tokens.
    pub(crate) mixed: NonZeroUsize,
    /// Whether what answers say next is guessed where that pays.
    pub(crate) speculation: bool,
}

/// What a model's scheduler has done since the model was loaded. Counts only grow.
#[derive(Debug, Default)]
pub struct Statistics {
    steps: AtomicU64,
    read: AtomicU64,
    reused: AtomicU64,
    preemptions: AtomicU64,
    drafted: AtomicU64,
    accepted: AtomicU64,
}

impl Statistics {
    /// Forward passes.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// Tokens that the model has read, guesses among them.
    pub fn tokens_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Tokens whose keys and values were in the cache when they were needed.
    pub fn tokens_reused(&self) -> u64 {
        self.reused.load(Ordering::Relaxed)
    }

    /// How often a generation had to give its blocks to an older one.
    pub fn preemptions(&self) -> u64 {
        self.preemptions.load(Ordering::Relaxed)
    }

    /// Tokens that were guessed.
    pub fn tokens_drafted(&self) -> u64 {
        self.drafted.load(Ordering::Relaxed)
    }

    /// Guessed tokens that were right.
    pub fn drafts_accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    fn add(count: &AtomicU64, more: usize) {
        count.fetch_add(more as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod historian;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
