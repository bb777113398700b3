//! `bench lag`: how long after its commit at one master a transaction is visible at the other, at
//! fixed rates of writing.
//!
//! The load is open-loop: transactions are due at fixed times, whether or not the servers keep up.
//! Beside it a probe commits a numbered row at fixed times, and a reader at the other node notes
//! when it sees which number. Every probe counts, those included that became visible together after
//! a stall. Two latencies are taken of each: from the moment when its COMMIT returned (replication
//! alone), and from the moment when it was due (what a stall at the first master adds to it, which a
//! measurement that waits for its own stalls would omit).

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use hdrhistogram::Histogram;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Opts};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::joined::{Joined, Joint, Masters, PROBE};
use super::load::{self, Client, LoadOptions, Until, Written};
use super::machine::Watch;
use super::progress::Progress;
use super::spread::Spread;
use super::{Place, Setting};

/// Pause of the reader between two looks: what it costs the target, and how exact it is.
pub const RESOLUTION: Duration = Duration::from_millis(1);
/// Probes a second.
pub const PROBES_PER_SECOND: u64 = 200;
/// Before the first probe that counts, at each rate.
const WARM_UP: Duration = Duration::from_secs(1);
/// Longest latency that the histogram holds.
const LONGEST_MICROS: u64 = 3_600_000_000;

/// What is measured.
#[derive(Debug, Clone)]
pub struct LagOptions {
    /// The servers.
    pub place: Place,
    /// What is written at node a.
    pub load: LoadOptions,
    /// What the percentages are of, in transactions a second; measured when `None`.
    pub rate: Option<f64>,
    /// Percentages of it.
    pub levels: Vec<u32>,
    /// How long at each.
    pub seconds: u64,
    /// What joins the masters, in turns.
    pub joints: Vec<Joint>,
    /// How often each.
    pub runs: u32,
    /// Where the servers' folders are made.
    pub base: Option<PathBuf>,
}

/// The whole outcome.
#[derive(Debug, Clone, Serialize)]
pub struct LagReport {
    /// `lag`
    pub bench: &'static str,
    /// Where and how.
    pub setting: Setting,
    /// What the percentages are of, transactions a second.
    pub rate: f64,
    /// Whether that was measured here: the slowest contender's rate of writing and applying at once.
    pub rate_measured: bool,
    /// Seconds at each level.
    pub seconds: u64,
    /// Probes a second.
    pub probes_per_second: u64,
    /// Seconds between two looks of the reader: latencies are not more exact than that.
    pub resolution_seconds: f64,
    /// Each contender at each level.
    pub contenders: Vec<LagOutcome>,
}

/// One contender at one level.
#[derive(Debug, Clone, Serialize)]
pub struct LagOutcome {
    /// For people.
    pub name: String,
    /// What joined the masters.
    pub joint: Joint,
    /// Per cent of the rate.
    pub level: u32,
    /// Transactions a second that were due.
    pub due_per_second: f64,
    /// Transactions a second that were committed.
    pub written_per_second: Spread,
    /// From COMMIT's return at a to visible at b, in milliseconds.
    pub from_commit: Percentiles,
    /// From when the probe was due.
    pub from_due: Percentiles,
    /// Each run.
    pub runs: Vec<LagRun>,
}

/// Medians and ranges over the runs, milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Percentiles {
    /// Half of the probes were not slower.
    pub p50: Spread,
    /// 99 of 100.
    pub p99: Spread,
    /// 999 of 1000.
    pub p999: Spread,
    /// All.
    pub max: Spread,
}

/// One run at one level.
#[derive(Debug, Clone, Serialize)]
pub struct LagRun {
    /// Transactions a second that were committed.
    pub written_per_second: f64,
    /// Probes.
    pub probes: u64,
    /// The machine's share that other programs took, 0 to 1.
    pub others_share: Option<f64>,
    /// Latencies from the commit.
    pub from_commit: Latencies,
    /// Latencies from when it was due.
    pub from_due: Latencies,
}

/// One run's latencies, milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Latencies {
    /// Half of the probes were not slower.
    pub p50: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1000.
    pub p999: f64,
    /// All.
    pub max: f64,
    /// Percentile (0 to 100) and latency, for plots.
    pub curve: Vec<(f64, f64)>,
}

impl Latencies {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |percentile: f64| histogram.value_at_percentile(percentile) as f64 / 1000.0;
        // Twice as fine with every step towards 100.
        let mut curve = vec![(0.0, at(0.0))];
        let mut rest = 100.0;
        while rest > 0.05 {
            for step in 1..=4 {
                let percentile = 100.0 - rest + rest / 2.0 * f64::from(step) / 4.0;
                curve.push((percentile, at(percentile)));
            }
            rest /= 2.0;
        }
        Self {
            p50: at(50.0),
            p99: at(99.0),
            p999: at(99.9),
            max: at(100.0),
            curve,
        }
    }
}

/// Runs it.
///
/// # Errors
/// A server or a contender failed.
pub async fn run(options: &LagOptions, progress: &Progress) -> anyhow::Result<LagReport> {
    options.load.check()?;
    let base = options.base.as_deref();
    let masters = Masters::prepare(&options.place, &options.load, base, progress).await?;
    let setting = masters.setting();
    let rate = match options.rate {
        Some(rate) => rate,
        None => sustained(options, &masters, progress).await?,
    };
    let places = options.joints.len() * options.levels.len();
    let mut runs: Vec<Vec<LagRun>> = vec![Vec::new(); places];
    for round in 0..options.runs {
        for turn in 0..options.joints.len() {
            let index = (turn + round as usize) % options.joints.len();
            let joint = options.joints[index];
            let mut joined = masters.join(joint).await?;
            for (place, level) in options.levels.iter().enumerate() {
                let due = rate * f64::from(*level) / 100.0;
                let label = format!(
                    "round {} of {}: {} at {level} %, {due:.0} transactions/s",
                    round + 1,
                    options.runs,
                    joint.name()
                );
                progress.step(&label);
                let run = measure(options, &mut joined, due)
                    .await
                    .with_context(|| label.clone())?;
                progress.step(&format!(
                    "{label}: p50 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms",
                    run.from_commit.p50, run.from_commit.p99, run.from_commit.p999
                ));
                runs[index * options.levels.len() + place].push(run);
            }
            if let Some(tables) = joined.differing().await? {
                bail!("{}: the rows differ: {tables}", joint.name());
            }
            joined.stop().await;
        }
    }
    progress.finish();
    let mut contenders = Vec::new();
    let mut runs = runs.into_iter();
    for joint in &options.joints {
        for level in &options.levels {
            let runs = runs.next().unwrap_or_default();
            if let Some(outcome) = outcome(*joint, *level, rate, runs) {
                contenders.push(outcome);
            }
        }
    }
    Ok(LagReport {
        bench: "lag",
        setting,
        rate,
        rate_measured: options.rate.is_none(),
        seconds: options.seconds,
        probes_per_second: PROBES_PER_SECOND,
        resolution_seconds: RESOLUTION.as_secs_f64(),
        contenders,
    })
}

fn outcome(joint: Joint, level: u32, rate: f64, runs: Vec<LagRun>) -> Option<LagOutcome> {
    let spread = |of: &dyn Fn(&LagRun) -> f64| Spread::of(runs.iter().map(of));
    let percentiles = |of: &dyn Fn(&LagRun) -> Latencies| {
        Some(Percentiles {
            p50: spread(&|run| of(run).p50)?,
            p99: spread(&|run| of(run).p99)?,
            p999: spread(&|run| of(run).p999)?,
            max: spread(&|run| of(run).max)?,
        })
    };
    Some(LagOutcome {
        name: joint.name(),
        joint,
        level,
        due_per_second: rate * f64::from(level) / 100.0,
        written_per_second: spread(&|run| run.written_per_second)?,
        from_commit: percentiles(&|run| run.from_commit.clone())?,
        from_due: percentiles(&|run| run.from_due.clone())?,
        runs,
    })
}

/// What the slowest contender sustains: transactions a second that clients write as fast as they can
/// while they are applied, over the time until the last of them is.
async fn sustained(
    options: &LagOptions,
    masters: &Masters,
    progress: &Progress,
) -> anyhow::Result<f64> {
    let mut least = f64::INFINITY;
    for joint in &options.joints {
        let mut joined = masters.join(*joint).await?;
        let written = Arc::new(Written::default());
        let stop = CancellationToken::new();
        let opts = joined.masters[0].opts.clone();
        let begun = Instant::now();
        let writing = load::write(&opts, &options.load, Until::Stopped(stop.clone()), &written);
        let end = async {
            tokio::time::sleep(Duration::from_secs(options.seconds.min(10))).await;
            stop.cancel();
            anyhow::Ok(())
        };
        tokio::try_join!(writing, end)?;
        joined
            .settle(Duration::from_secs(60 + 20 * options.seconds))
            .await?;
        let rate = written.transactions() as f64 / begun.elapsed().as_secs_f64();
        progress.step(&format!(
            "{} sustains {rate:.0} transactions/s of this load",
            joint.name()
        ));
        least = least.min(rate);
        joined.stop().await;
    }
    Ok(least)
}

/// A probe on its way: its number, when it was due, when its commit returned.
type Probe = (i64, Instant, Instant);

/// One contender at one rate.
async fn measure(
    options: &LagOptions,
    joined: &mut Joined,
    per_second: f64,
) -> anyhow::Result<LagRun> {
    let table = format!("`{}`.probe", joined.database);
    let writer = joined.masters[0].connect().await?;
    let reader = joined.masters[1].connect().await?;
    let sent: Arc<Mutex<VecDeque<Probe>>> = Arc::default();
    let over = Arc::new(AtomicBool::new(false));
    let stop = CancellationToken::new();
    // Whatever ends this function ends the writers.
    let _guard = stop.clone().drop_guard();
    let written = Arc::new(Written::default());
    let load = tokio::spawn(open_loop(
        joined.masters[0].opts.clone(),
        options.load.clone(),
        per_second,
        stop.clone(),
        Arc::clone(&written),
    ));
    let (watch, before) = (Watch::begin(&joined.server_pids()), joined.cost());
    let begun = Instant::now();
    let counts_from = begun + WARM_UP;
    let ends = counts_from + Duration::from_secs(options.seconds);
    let reading = tokio::spawn(read(
        reader,
        table.clone(),
        Arc::clone(&sent),
        Arc::clone(&over),
        counts_from,
    ));
    probe(writer, &table, ends, &sent).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let committed = written.transactions();
    stop.cancel();
    load.await??;
    over.store(true, Ordering::Release);
    let patience = Duration::from_secs(60 + 10 * options.seconds);
    let Ok(histograms) = tokio::time::timeout(patience, reading).await else {
        joined.check().await?;
        bail!("the last probe was not visible after {patience:?}");
    };
    let (from_commit, from_due) = histograms??;
    joined.settle(patience).await?;
    Ok(LagRun {
        written_per_second: committed as f64 / seconds,
        probes: from_commit.len(),
        others_share: watch.others_share(joined.cost().cpu_seconds - before.cpu_seconds),
        from_commit: Latencies::of(&from_commit),
        from_due: Latencies::of(&from_due),
    })
}

/// Commits a numbered row again and again, each at its time, or as soon after it as the last one is
/// through.
async fn probe(
    mut conn: Conn,
    table: &str,
    ends: Instant,
    sent: &Mutex<VecDeque<Probe>>,
) -> anyhow::Result<()> {
    let sql = format!("UPDATE {table} SET seq = ? WHERE id = {PROBE}");
    let begun = Instant::now();
    let last = format!("SELECT seq FROM {table} WHERE id = {PROBE}");
    let first: Option<i64> = conn.query_first(last).await?;
    let first = first.unwrap_or(0);
    for number in 1.. {
        let due = begun + Duration::from_secs(1) * number / PROBES_PER_SECOND as u32;
        if due > ends {
            break;
        }
        tokio::time::sleep_until(due.into()).await;
        let seq = first + i64::from(number);
        conn.exec_drop(sql.as_str(), (seq,)).await?;
        sent.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back((seq, due, Instant::now()));
    }
    conn.disconnect().await?;
    Ok(())
}

/// Looks which probe is visible, until all are; gives latencies in microseconds from the commit and
/// from when it was due.
async fn read(
    mut conn: Conn,
    table: String,
    sent: Arc<Mutex<VecDeque<Probe>>>,
    over: Arc<AtomicBool>,
    counts_from: Instant,
) -> anyhow::Result<(Histogram<u64>, Histogram<u64>)> {
    let sql = format!("SELECT seq FROM {table} WHERE id = {PROBE}");
    let new = || Histogram::<u64>::new_with_bounds(1, LONGEST_MICROS, 3);
    let (mut from_commit, mut from_due) = (new()?, new()?);
    loop {
        let all_sent = over.load(Ordering::Acquire);
        let seen: Option<i64> = conn.exec_first(sql.as_str(), ()).await?;
        let (seen, now) = (seen.unwrap_or(0), Instant::now());
        let waiting = {
            let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
            while let Some((seq, due, committed)) = sent.front().copied()
                && seq <= seen
            {
                sent.pop_front();
                if due >= counts_from {
                    // Visible there before COMMIT has returned here is as good as at once.
                    let micros = |since: Instant| {
                        let micros = now.saturating_duration_since(since).as_micros();
                        u64::try_from(micros).unwrap_or(u64::MAX).max(1)
                    };
                    from_commit.saturating_record(micros(committed));
                    from_due.saturating_record(micros(due));
                }
            }
            !sent.is_empty()
        };
        if all_sent && !waiting {
            break;
        }
        tokio::time::sleep(RESOLUTION).await;
    }
    conn.disconnect().await?;
    Ok((from_commit, from_due))
}

/// Transactions at fixed times from `threads` connections. One that is late is written at once: what
/// is due stays due.
async fn open_loop(
    opts: Opts,
    options: LoadOptions,
    per_second: f64,
    stop: CancellationToken,
    written: Arc<Written>,
) -> anyhow::Result<()> {
    let next = Arc::new(AtomicU64::new(0));
    let mut clients = tokio::task::JoinSet::new();
    let begun = tokio::time::Instant::now();
    for number in 0..options.threads {
        let (opts, mut client) = (opts.clone(), Client::new(&options, number));
        let (next, stop, written) = (Arc::clone(&next), stop.clone(), Arc::clone(&written));
        clients.spawn(async move {
            let mut conn = load::connect(&opts, client.database()).await?;
            loop {
                let turn = next.fetch_add(1, Ordering::Relaxed);
                let due = begun + Duration::from_secs_f64(turn as f64 / per_second);
                tokio::select! {
                    () = tokio::time::sleep_until(due) => {}
                    () = stop.cancelled() => break,
                }
                if stop.is_cancelled() {
                    break;
                }
                let (rows, _) = client.commit(&mut conn, &stop).await?;
                if rows > 0 {
                    written.add(rows);
                }
            }
            conn.disconnect().await?;
            anyhow::Ok(())
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.context("a client of the load was lost")??;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_in_milliseconds() {
        let mut histogram = Histogram::<u64>::new_with_bounds(1, LONGEST_MICROS, 3).unwrap();
        for millis in 1..=1000_u64 {
            histogram.record(millis * 1000).unwrap();
        }
        let latencies = Latencies::of(&histogram);
        assert!((latencies.p50 - 500.0).abs() < 1.0, "{latencies:?}");
        assert!((latencies.p99 - 990.0).abs() < 2.0, "{latencies:?}");
        assert!((latencies.max - 1000.0).abs() < 2.0, "{latencies:?}");
        let ordered = latencies.curve.windows(2).all(|pair| {
            let [(before, fast), (after, slow)] = pair else {
                return false;
            };
            before < after && fast <= slow
        });
        assert!(ordered, "{latencies:?}");
    }
}
