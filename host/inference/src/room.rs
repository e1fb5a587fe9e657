//! Memory for the work of requests, out of the budget that weights are counted in.
//!
//! A model that begins with a request says how many bytes the work will hold at most, by its shapes, and computes while
//! it has a [`Reservation`] of them. Where the budget has no room the model's own thread waits: for others to give
//! back what they have, with models unloaded that nobody uses. Nobody waits while holding something, so whoever holds
//! comes to an end, and those who wait are served in the order in which they came. What could never be had is refused
//! at once. This file knows neither models nor which of them may leave: that is its [`Lender`]'s matter. Where no budget is
//! set nothing is counted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::AiError;

/// How often those who wait look whether anybody still waits for them, and for models that came to be idle.
const LOOK: Duration = Duration::from_millis(20);
/// How long models in use are waited for when no reservation is under way: those whose requests just ended leave soon,
/// and two whose requests wait for each other's memory would wait forever.
const PATIENCE: Duration = Duration::from_secs(2);
/// When to ask again after that.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Who gives memory out.
pub(crate) trait Lender: Send + Sync {
    /// Tries to set `bytes` aside for the model `name`; `place` is that of one who waits.
    fn lend(&self, name: &str, bytes: u64, place: Option<u64>) -> Lending;

    /// Takes back what was lent.
    fn give_back(&self, bytes: u64);

    /// A place in the line of those who wait.
    fn stand(&self) -> u64;

    /// Gives a place up.
    fn leave(&self, place: u64);

    /// Returns when something was given back, and after `most` anyway.
    fn wait(&self, most: Duration);

    /// Bytes of everything together.
    fn budget(&self) -> u64;
}

/// What a [`Lender`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lending {
    /// They are set aside.
    Lent,
    /// Others have them, who give them back, or wait before this one.
    Later,
    /// Models in use have them.
    Full,
}

/// What one model may ask for memory.
#[derive(Clone, Default)]
pub(crate) struct Room(Option<Arc<Tenancy>>);

struct Tenancy {
    lender: Arc<dyn Lender>,
    model: String,
    /// What of the budget the model itself takes.
    weights: u64,
}

/// Bytes set aside until it is dropped.
#[must_use = "what is reserved is given back when this is dropped"]
pub(crate) struct Reservation(Option<(Arc<Tenancy>, u64)>);

impl Room {
    /// For the model `name`, which takes `weights` bytes.
    pub(crate) fn new(lender: Arc<dyn Lender>, name: &str, weights: u64) -> Room {
        Room(Some(Arc::new(Tenancy { lender, model: name.to_owned(), weights })))
    }

    /// Whether there is a budget.
    pub(crate) fn bounded(&self) -> bool {
        self.0.is_some()
    }

    /// The most that can ever be had beside the model itself; no bound where there is no budget.
    pub(crate) fn most(&self) -> u64 {
        self.0.as_ref().map_or(u64::MAX, |tenancy| tenancy.lender.budget().saturating_sub(tenancy.weights))
    }

    /// Reserves `bytes` for `what`, waiting for them; `check` is asked meanwhile whether to go on. Blocks the thread.
    ///
    /// # Errors
    /// 5006 when they could never be had, 3040 when models in use do not leave them, and what `check` says.
    pub(crate) fn reserve(
        &self,
        bytes: u64,
        what: &str,
        check: &dyn Fn() -> Result<(), AiError>,
    ) -> Result<Reservation, AiError> {
        if let Some(reservation) = self.reserve_now(bytes, what)? {
            return Ok(reservation);
        }
        let Some(tenancy) = &self.0 else { return Ok(Reservation(None)) };
        let standing = Standing { lender: &*tenancy.lender, place: tenancy.lender.stand() };
        let mut full_since = None;
        loop {
            check()?;
            match tenancy.lender.lend(&tenancy.model, bytes, Some(standing.place)) {
                Lending::Lent => return Ok(Reservation(Some((tenancy.clone(), bytes)))),
                Lending::Later => full_since = None,
                Lending::Full => {
                    if full_since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                        return Err(AiError::capacity_exceeded(RETRY_AFTER));
                    }
                }
            }
            tenancy.lender.wait(LOOK);
        }
    }

    /// As [`Self::reserve`], without waiting: none when they cannot be had now.
    ///
    /// # Errors
    /// 5006 when they could never be had.
    pub(crate) fn reserve_now(&self, bytes: u64, what: &str) -> Result<Option<Reservation>, AiError> {
        let Some(tenancy) = &self.0 else { return Ok(Some(Reservation(None))) };
        if bytes > self.most() {
            return Err(AiError::bad_input(format_args!(
                "{what} takes {} MiB of memory while it is computed, beside the {} MiB of the model, and all models together \
                 may have {} MiB. Ask for less, or raise memory_mb under [ai]",
                bytes.div_ceil(1 << 20),
                tenancy.weights.div_ceil(1 << 20),
                tenancy.lender.budget() >> 20,
            )));
        }
        let lent = tenancy.lender.lend(&tenancy.model, bytes, None) == Lending::Lent;
        Ok(lent.then(|| Reservation(Some((tenancy.clone(), bytes)))))
    }
}

impl Reservation {
    /// Takes `bytes` out, to be given back on their own.
    pub(crate) fn split(&mut self, bytes: u64) -> Reservation {
        let Some((tenancy, held)) = &mut self.0 else { return Reservation(None) };
        let bytes = bytes.min(*held);
        *held -= bytes;
        Reservation(Some((tenancy.clone(), bytes)))
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some((tenancy, bytes)) = self.0.take() {
            tenancy.lender.give_back(bytes);
        }
    }
}

/// A place in the line, given up when dropped.
struct Standing<'a> {
    lender: &'a dyn Lender,
    place: u64,
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        self.lender.leave(self.place);
    }
}

/// Bytes of so many float32 values.
pub(crate) fn floats(count: usize) -> u64 {
    (count as u64).saturating_mul(size_of::<f32>() as u64)
}
