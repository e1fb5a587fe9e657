//! When a server is left alone: after so many failures in a row, for a time that doubles while it goes on failing.

use std::time::{Duration, Instant};

/// Failures in a row after which a server is left alone.
const FAILURES: u32 = 5;
/// How long it is left alone at first, and at most.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(60);

/// What is known of a server's health.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    failures: u32,
    /// Set while the server is left alone: when it is checked next.
    open: Option<Open>,
    /// Until when it has asked not to be.
    busy_until: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    until: Instant,
    rest: Duration,
}

impl Breaker {
    /// It has answered as it should.
    pub(crate) fn succeeded(&mut self) {
        *self = Self { busy_until: self.busy_until, ..Self::default() };
    }

    /// It has failed. True when it is left alone from now on.
    pub(crate) fn failed(&mut self, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(1);
        if self.open.is_some() || self.failures < FAILURES {
            return false;
        }
        self.open = Some(Open { until: now + FIRST_REST, rest: FIRST_REST });
        true
    }

    /// A health check has failed: the next one comes after a longer rest. Gives that.
    pub(crate) fn still_down(&mut self, now: Instant) -> Duration {
        let rest = self.open.map_or(FIRST_REST, |open| (open.rest * 2).min(LONGEST_REST));
        self.open = Some(Open { until: now + rest, rest });
        rest
    }

    /// It wants not to be asked for so long.
    pub(crate) fn busy(&mut self, now: Instant, rest: Duration) {
        self.busy_until = Some(now + rest.min(LONGEST_REST));
    }

    /// How long it is left alone yet; none while it is not.
    pub(crate) fn resting(&self, now: Instant) -> Option<Duration> {
        self.open.map(|open| open.until.saturating_duration_since(now))
    }

    /// Whether it has asked not to be asked now.
    pub(crate) fn is_busy(&self, now: Instant) -> bool {
        self.busy_until.is_some_and(|until| until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_open_it_and_a_success_closes_it() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        for _ in 1..FAILURES {
            assert!(!breaker.failed(now));
        }
        breaker.succeeded();
        for _ in 1..FAILURES {
            assert!(!breaker.failed(now));
        }
        assert!(breaker.resting(now).is_none());
        assert!(breaker.failed(now) && !breaker.failed(now), "it opens once");
        assert_eq!(breaker.resting(now), Some(FIRST_REST));
        assert_eq!(breaker.still_down(now), FIRST_REST * 2);
        (0..20).for_each(|_| {
            breaker.still_down(now);
        });
        assert_eq!(breaker.resting(now), Some(LONGEST_REST));
        breaker.succeeded();
        assert!(breaker.resting(now).is_none());
    }

    #[test]
    fn a_busy_server_is_busy_for_as_long_as_it_says() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        breaker.busy(now, Duration::from_secs(3));
        assert!(breaker.is_busy(now) && !breaker.is_busy(now + Duration::from_secs(3)));
        breaker.busy(now, Duration::MAX);
        assert!(!breaker.is_busy(now + LONGEST_REST));
    }
}
