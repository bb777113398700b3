//! Effective timestamps: commit times made to respect causality. The only place that knows of time.
//!
//! A hybrid logical clock (Kulkarni et al., "Logical Physical Clocks", 2014) that is driven by the
//! order of a log instead of by messages: within one log, timestamps strictly rise, and a marker in
//! the log (a group applied from elsewhere) lifts the clock above everything that had been seen.
//! So if `y` saw `x`, `effective(x) < effective(y)`, whatever the servers' clocks said.

/// The running clock of one log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Clock {
    last: u64,
}

impl Clock {
    /// Goes on from a kept value, in microseconds since 1970.
    #[must_use]
    pub const fn resume(last: u64) -> Self {
        Self { last }
    }

    /// The effective timestamp of the next transaction in the log, from its commit time; both in
    /// microseconds since 1970.
    pub fn tick(&mut self, committed_at: u64) -> u64 {
        self.last = committed_at.max(self.last.saturating_add(1));
        self.last
    }

    /// A group that was applied from elsewhere stands here in the log; everything behind it has
    /// seen what it brought.
    pub fn observe(&mut self, effective: u64) {
        self.last = self.last.max(effective);
    }

    /// The value to keep.
    #[must_use]
    pub const fn value(self) -> u64 {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_when_the_wall_clock_steps_back() {
        let mut clock = Clock::default();
        assert_eq!(clock.tick(30), 30);
        assert_eq!(clock.tick(5), 31);
        clock.observe(20);
        assert_eq!(clock.tick(6), 32);
        clock.observe(1000);
        assert_eq!(clock.tick(40), 1001);
    }
}
