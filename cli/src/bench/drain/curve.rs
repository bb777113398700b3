//! How much is applied when: the curve of one drain.

use std::time::Instant;

use anyhow::bail;

use super::{PATIENCE, Run};
use crate::bench::machine::Watch;
use crate::bench::progress::Progress;

/// Most points of a curve in the report.
const POINTS: usize = 200;

/// Transactions applied over time.
pub(super) struct Curve {
    begun: Instant,
    of: u64,
    points: Vec<(f64, u64)>,
    moved: Instant,
}

impl Curve {
    pub(super) fn new(begun: Instant, of: u64) -> Self {
        Self {
            begun,
            of,
            points: vec![(0.0, 0)],
            moved: Instant::now(),
        }
    }

    /// Adds a point; true when everything is applied.
    pub(super) fn add(&mut self, applied: u64, progress: &Progress) -> anyhow::Result<bool> {
        let last = self.points.last().map_or(0, |(_, applied)| *applied);
        if applied > last {
            self.moved = Instant::now();
            let seconds = self.begun.elapsed().as_secs_f64();
            self.points.push((seconds, applied));
            progress.done("applied", applied, self.of);
        } else if self.moved.elapsed() > PATIENCE {
            bail!("nothing was applied for {PATIENCE:?}, after {last} transactions");
        }
        Ok(applied >= self.of)
    }

    /// The run, as far as it is known from here.
    pub(super) fn run(self, watch: &Watch, engine_cpu: f64) -> Run {
        let taken = watch.taken();
        let seconds = self.points.last().map_or(0.0, |(seconds, _)| *seconds);
        Run {
            seconds,
            first_seconds: self.points.get(1).map_or(seconds, |(seconds, _)| *seconds),
            engine_cpu_seconds: None,
            engine_peak_memory_bytes: None,
            target_cpu_seconds: taken.get(1).copied(),
            origin_cpu_seconds: taken.first().copied(),
            others_share: watch.others_share(engine_cpu),
            target_log_bytes: 0,
            marker_log_bytes: None,
            commits: None,
            retries: None,
            regrouped: None,
            conflicts: None,
            equal: false,
            differing: None,
            curve: thinned(&self.points),
        }
    }
}

/// At most [`POINTS`] of the points, evenly, the last one among them.
fn thinned(points: &[(f64, u64)]) -> Vec<(f64, u64)> {
    let step = points.len().div_ceil(POINTS).max(1);
    let mut thin: Vec<(f64, u64)> = points.iter().copied().step_by(step).collect();
    if let (Some(last), Some(kept)) = (points.last(), thin.last())
        && last != kept
    {
        thin.push(*last);
    }
    thin
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thinned_curve_keeps_its_ends() {
        let points: Vec<(f64, u64)> = (0..1001).map(|n| (n as f64, n)).collect();
        let thin = thinned(&points);
        assert!(thin.len() <= POINTS + 1);
        assert_eq!(thin.first(), points.first());
        assert_eq!(thin.last(), points.last());
        assert_eq!(thinned(&points[..3]), &points[..3]);
        assert!(thinned(&[]).is_empty());
    }
}
