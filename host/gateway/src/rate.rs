//! Rate limits: how many calls a gateway takes in a window of time.

use std::time::{Duration, Instant};

use crate::{RateLimit, Technique};

/// Counts the calls of one gateway.
///
/// A sliding window is counted as the last whole window's calls, weighed by how much of it the sliding one still covers,
/// and those of the current one: two numbers, whatever the limit, and off by less than the calls were uneven.
#[derive(Debug)]
pub(crate) struct Meter {
    began: Instant,
    before: u32,
    now: u32,
}

impl Meter {
    pub(crate) fn new(now: Instant) -> Self {
        Self { began: now, before: 0, now: 0 }
    }

    /// Counts a call, or says when there is room for it.
    pub(crate) fn admit(&mut self, limit: RateLimit, now: Instant) -> Result<(), Duration> {
        let window = limit.window.max(Duration::from_millis(1));
        let passed = now.saturating_duration_since(self.began);
        let windows = u32::try_from(passed.as_millis() / window.as_millis()).unwrap_or(u32::MAX);
        if windows > 0 {
            self.before = if windows == 1 { self.now } else { 0 };
            self.now = 0;
            self.began =
                self.began.checked_add(window.saturating_mul(windows)).filter(|began| *began <= now).unwrap_or(now);
        }
        let into = now.saturating_duration_since(self.began);
        let left = window.saturating_sub(into);
        let counted = match limit.technique {
            Technique::Fixed => f64::from(self.now),
            Technique::Sliding => {
                f64::from(self.now) + f64::from(self.before) * left.as_secs_f64() / window.as_secs_f64()
            }
        };
        if counted + 1.0 > f64::from(limit.requests) {
            return Err(left);
        }
        self.now = self.now.saturating_add(1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_take_what_they_should() {
        let window = Duration::from_secs(10);
        let limit = |technique| RateLimit { requests: 4, window, technique };
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut fixed = Meter::new(start);
        assert!((0..4).all(|_| fixed.admit(limit(Technique::Fixed), at(9)).is_ok()));
        assert_eq!(fixed.admit(limit(Technique::Fixed), at(9)), Err(Duration::from_secs(1)));
        assert!((0..4).all(|_| fixed.admit(limit(Technique::Fixed), at(10)).is_ok()));
        let mut sliding = Meter::new(start);
        assert!((0..4).all(|_| sliding.admit(limit(Technique::Sliding), at(9)).is_ok()));
        assert!(sliding.admit(limit(Technique::Sliding), at(10)).is_err());
        assert!((0..2).all(|_| sliding.admit(limit(Technique::Sliding), at(15)).is_ok()));
        assert!(sliding.admit(limit(Technique::Sliding), at(15)).is_err());
        assert!((0..4).all(|_| sliding.admit(limit(Technique::Sliding), at(60)).is_ok()));
    }
}
