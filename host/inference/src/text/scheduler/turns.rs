//! Whose turn it is to start: deficit round robin over tenants, counted in tokens.
//!
//! Tenants take turns of one job each. What a job costs (the tokens of its prompt that are not cached, then each token of
//! its answer) is taken from its tenant's credit, and a tenant in debt is passed over until the others have used as
//! much: when all that wait are in debt, every tenant is given the same. Costs are charged as they arise, because how
//! long an answer becomes is not known when it starts (Shreedhar & Varghese 1995 charge before; as tokens are small
//! beside a quantum the bound on unfairness is the same: a quantum and what a tenant has in flight).
//!
//! Credit is not saved up: it is at most one quantum, and forgotten when nothing is left to do. Debt is kept by those who
//! have nothing waiting, so nobody gets rid of it by asking one thing after another.

use std::collections::VecDeque;

use super::queue::Place;
use crate::Tenant;
use crate::text::sequence::Sequence;

/// Tokens that a tenant may use before the others must have had their turns.
const QUANTUM: i64 = 512;

/// A sequence that waits. A job holds its place in the queue meanwhile; a sequence that ran before has none.
struct Waiting {
    sequence: Sequence,
    _place: Option<Place>,
}

struct Line {
    tenant: Tenant,
    credit: i64,
    /// In the order of arrival.
    waiting: VecDeque<Waiting>,
}

/// The lines of all tenants, the next in turn first.
#[derive(Default)]
pub(super) struct Turns {
    lines: VecDeque<Line>,
}

impl Turns {
    fn line(&mut self, tenant: &Tenant) -> &mut Line {
        let at = self.lines.iter().position(|line| line.tenant == *tenant).unwrap_or_else(|| {
            self.lines.push_back(Line { tenant: tenant.clone(), credit: QUANTUM, waiting: VecDeque::new() });
            self.lines.len() - 1
        });
        &mut self.lines[at]
    }

    /// Lets `sequence` wait, behind those of its tenant that arrived before it.
    pub(super) fn push(&mut self, sequence: Sequence, place: Option<Place>) {
        let line = self.line(sequence.tenant());
        let at = line.waiting.partition_point(|other| other.sequence.number() < sequence.number());
        line.waiting.insert(at, Waiting { sequence, _place: place });
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.lines.iter().all(|line| line.waiting.is_empty())
    }

    /// Takes `tokens` from the tenant's credit.
    pub(super) fn charge(&mut self, tenant: &Tenant, tokens: usize) {
        let line = self.line(tenant);
        line.credit = line.credit.saturating_sub(i64::try_from(tokens).unwrap_or(i64::MAX));
    }

    /// Where the next in turn stands, after everybody was given what that takes.
    fn turn(&mut self) -> Option<usize> {
        let richest = self.lines.iter().filter(|line| !line.waiting.is_empty()).map(|line| line.credit).max()?;
        if richest <= 0 {
            let rounds = (1 - richest).unsigned_abs().div_ceil(QUANTUM.unsigned_abs());
            let gift = i64::try_from(rounds).unwrap_or(i64::MAX).saturating_mul(QUANTUM);
            for line in &mut self.lines {
                line.credit = line.credit.saturating_add(gift).min(QUANTUM);
            }
            // One with all its credit and nothing waiting is as one that never came.
            self.lines.retain(|line| line.credit < QUANTUM || !line.waiting.is_empty());
        }
        self.lines.iter().position(|line| line.credit > 0 && !line.waiting.is_empty())
    }

    /// The next in turn goes, if `enters` agrees, and its tenant to the end. Nobody else goes before it, even one that
    /// could: otherwise those that need much might never start.
    pub(super) fn next(&mut self, enters: impl FnOnce(&mut Sequence) -> bool) -> Option<Sequence> {
        let turn = self.turn()?;
        if !enters(&mut self.lines[turn].waiting.front_mut()?.sequence) {
            return None;
        }
        let mut line = self.lines.remove(turn)?;
        let next = line.waiting.pop_front();
        self.lines.push_back(line);
        next.map(|waiting| waiting.sequence)
    }

    /// Drops the sequences that `keep` does not want.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Sequence) -> bool) {
        for line in &mut self.lines {
            line.waiting.retain(|waiting| keep(&waiting.sequence));
        }
    }

    /// Forgets all credit and debt.
    pub(super) fn settle(&mut self) {
        self.lines.retain_mut(|line| {
            line.credit = QUANTUM;
            !line.waiting.is_empty()
        });
    }
}
