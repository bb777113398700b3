//! How far a link is behind, in seconds. Arithmetic only: [`super::LinkProgress`] keeps what it needs.

use std::time::{Duration, Instant};

/// What a link's lag is reckoned from, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behind {
    /// Everything that the source is known to have is applied.
    Nothing,
    /// Transactions have arrived and are not applied. Commit time of the oldest of them, in
    /// microseconds since 1970; 0 where the log did not say.
    Queued {
        /// Commit time of the oldest one, or 0.
        oldest_committed_at: u64,
    },
    /// The source's log goes on, and nothing of that has arrived.
    Unread,
}

/// Seconds that a link is behind. `now` is in microseconds since 1970, `since_caught_up` the time
/// since the link last had everything.
///
/// Never negative: MariaDB's commit times are whole seconds and the nodes' clocks may differ.
pub(super) fn seconds(behind: Behind, now: u64, since_caught_up: Duration) -> f64 {
    match behind {
        Behind::Nothing => 0.0,
        Behind::Queued {
            oldest_committed_at,
        } if oldest_committed_at > 0 => now.saturating_sub(oldest_committed_at) as f64 / 1e6,
        Behind::Queued { .. } | Behind::Unread => since_caught_up.as_secs_f64(),
    }
}

/// When a link last had everything, as far as asking the source now and then can tell.
#[derive(Debug, Clone, Copy)]
pub(super) struct CaughtUp {
    last: Instant,
    asked: Option<Instant>,
}

impl CaughtUp {
    /// Nothing is known yet; counted from here.
    pub(super) fn unknown(now: Instant) -> Self {
        Self {
            last: now,
            asked: None,
        }
    }

    /// The source was asked for the end of its log. `had_previous`: whether the end that it gave
    /// when it was asked before is applied by now; `has_this`: whether the new one is.
    ///
    /// Under a steady load the new end is never there yet, though the link keeps up: that it has
    /// reached the one before says so.
    pub(super) fn asked(&mut self, now: Instant, had_previous: bool, has_this: bool) {
        if has_this {
            self.last = now;
        } else if let (true, Some(asked)) = (had_previous, self.asked) {
            self.last = self.last.max(asked);
        }
        self.asked = Some(now);
    }

    /// How long ago that was.
    pub(super) fn since(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_500_000;
    const LONG: Duration = Duration::from_secs(3600);

    fn queued(oldest_committed_at: u64) -> Behind {
        Behind::Queued {
            oldest_committed_at,
        }
    }

    #[test]
    fn nothing_missing_is_no_lag_however_long_the_link_was_idle() {
        assert!(seconds(Behind::Nothing, NOW, LONG).abs() < f64::EPSILON);
    }

    #[test]
    fn the_oldest_queued_transaction_counts() {
        let lag = seconds(queued(NOW - 2_250_000), NOW, LONG);
        assert!((lag - 2.25).abs() < 1e-6, "{lag}");
    }

    #[test]
    fn a_commit_time_ahead_of_the_clock_is_no_lag() {
        assert!(seconds(queued(NOW + 500_000), NOW, LONG).abs() < f64::EPSILON);
    }

    #[test]
    fn without_a_commit_time_the_time_behind_counts() {
        for behind in [queued(0), Behind::Unread] {
            let lag = seconds(behind, NOW, Duration::from_millis(1500));
            assert!((lag - 1.5).abs() < 1e-6, "{behind:?}: {lag}");
        }
    }

    #[test]
    fn under_steady_load_the_end_before_counts() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut caught_up = CaughtUp::unknown(begun);
        // Never asked before: having reached "the end before" says nothing.
        caught_up.asked(at(10), true, false);
        assert_eq!(caught_up.since(at(10)), Duration::from_secs(10));
        for second in 11..100 {
            caught_up.asked(at(second), true, false);
            assert_eq!(caught_up.since(at(second)), Duration::from_secs(1));
        }
        // It stands still.
        caught_up.asked(at(100), false, false);
        caught_up.asked(at(101), false, false);
        assert_eq!(caught_up.since(at(101)), Duration::from_secs(3));
        caught_up.asked(at(102), true, true);
        assert_eq!(caught_up.since(at(104)), Duration::from_secs(2));
    }
}
