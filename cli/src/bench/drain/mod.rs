//! `bench drain`: how fast a backlog is applied, by twinlog and by the servers' own replication,
//! each from an identical copy of the same two servers.

mod applying;
mod copies;
mod curve;
mod given;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Serialize;
use twinlog_engine::config::Config;

use super::arena;
use super::load::{self, LoadOptions, Shape};
use super::master::Master;
use super::progress::Progress;
use super::spread::Spread;
use super::{Place, Setting};
use crate::sandbox::Server;

/// Nothing applied for this long: it hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is drained.
#[derive(Debug, Clone)]
pub struct DrainOptions {
    /// The servers.
    pub place: Place,
    /// What is written first.
    pub load: LoadOptions,
    /// Transactions of the backlog.
    pub transactions: u64,
    /// Who drains.
    pub contenders: Vec<Contender>,
    /// How often each does.
    pub runs: u32,
    /// Where the servers' folders are made; the system's temporary folder where `None`.
    pub base: Option<PathBuf>,
}

/// Who drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Contender {
    /// The engine, in a process of its own, detecting conflicts.
    Twinlog,
    /// The server's own replication with this many workers.
    Native(u32),
}

impl Contender {
    /// For tables.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Contender::Twinlog => "twinlog".to_owned(),
            Contender::Native(1) => "native, 1 worker".to_owned(),
            Contender::Native(workers) => format!("native, {workers} workers"),
        }
    }
}

/// The whole outcome.
#[derive(Debug, Clone, Serialize)]
pub struct DrainReport {
    /// `drain`
    pub bench: &'static str,
    /// Where and how.
    pub setting: Setting,
    /// Transactions of the backlog.
    pub transactions: u64,
    /// Seconds that it took to write them.
    pub written_seconds: f64,
    /// Bytes of the origin's log for them.
    pub origin_log_bytes: u64,
    /// Each contender's runs.
    pub contenders: Vec<Outcome>,
    /// The fastest native contender's median time over twinlog's; `None` without one of them.
    pub times_as_fast: Option<f64>,
}

/// One contender's runs.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// For people.
    pub name: String,
    /// Who.
    pub contender: Contender,
    /// Seconds from the start of applying to the last transaction applied.
    pub seconds: Spread,
    /// Transactions applied a second.
    pub transactions_per_second: Spread,
    /// Each run.
    pub runs: Vec<Run>,
}

/// One drain.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    /// Seconds from the start of applying to the last transaction applied. A new process for
    /// twinlog, `START REPLICA` for native: both connect first.
    pub seconds: f64,
    /// Seconds until the first transaction was seen applied.
    pub first_seconds: f64,
    /// Seconds since the start, and transactions applied.
    pub curve: Vec<(f64, u64)>,
    /// Processor seconds of the engine; `None` for native, which is part of the server.
    pub engine_cpu_seconds: Option<f64>,
    /// Most memory of the engine at a time.
    pub engine_peak_memory_bytes: Option<u64>,
    /// Processor seconds of the target server; `None` where it may not be looked at.
    pub target_cpu_seconds: Option<f64>,
    /// Processor seconds of the origin server, likewise.
    pub origin_cpu_seconds: Option<f64>,
    /// The machine's share that other programs took, 0 to 1.
    pub others_share: Option<f64>,
    /// Bytes that the target wrote to its log, for whomever.
    pub target_log_bytes: u64,
    /// Those of them that are events of the marker row.
    pub marker_log_bytes: Option<u64>,
    /// Commits of the engine.
    pub commits: Option<u64>,
    /// Attempts repeated by the engine.
    pub retries: Option<u64>,
    /// Groups that the engine took apart.
    pub regrouped: Option<u64>,
    /// Conflicts that the engine settled.
    pub conflicts: Option<u64>,
    /// Whether all rows were equal afterwards.
    pub equal: bool,
    /// Which tables were not.
    pub differing: Option<String>,
}

/// A backlog between two masters, or what makes one for each run.
pub(super) enum Ground {
    /// Copies of the same throwaway servers.
    Copies(Box<copies::Copies>),
    /// Servers that are there anyway.
    Given(given::Given),
}

/// Two running masters with the backlog between them, and their engines' config.
pub(super) struct Ready {
    pub(super) masters: [Master; 2],
    pub(super) config: Arc<Config>,
    file: PathBuf,
    /// Those that end with this.
    servers: Vec<Server>,
}

impl Ground {
    /// Fills the masters, and writes the backlog where one is enough.
    ///
    /// # Errors
    /// The servers'.
    pub(super) async fn prepare(
        options: &DrainOptions,
        progress: &Progress,
    ) -> anyhow::Result<(Self, Setting)> {
        match &options.place {
            Place::Throwaway(arena) => {
                let (copies, setting) = copies::Copies::prepare(options, arena, progress).await?;
                Ok((Ground::Copies(Box::new(copies)), setting))
            }
            Place::Own(own) => {
                let given = given::Given::prepare(options, own, progress).await?;
                Ok((Ground::Given(given), Setting::of_own(own, &options.load)))
            }
        }
    }

    /// The masters for one run.
    ///
    /// # Errors
    /// The servers'.
    pub(super) async fn ready(
        &mut self,
        options: &DrainOptions,
        progress: &Progress,
    ) -> anyhow::Result<Ready> {
        let ready = match self {
            Ground::Copies(copies) => copies.ready().await?,
            Ground::Given(given) => given.ready(options, progress).await?,
        };
        arena::warm_up(&ready.masters[1], &options.load.database).await?;
        if let Ground::Copies(_) = self {
            // What copying the files left to be written is not to be written during the run.
            tokio::task::spawn_blocking(nix::unistd::sync).await?;
        }
        Ok(ready)
    }

    /// One contender applies the backlog, and the rows are compared.
    ///
    /// # Errors
    /// The contender's; rows differ that must not.
    pub(super) async fn apply(
        &self,
        options: &DrainOptions,
        ready: &Ready,
        contender: Contender,
        progress: &Progress,
    ) -> anyhow::Result<Run> {
        let mut run = match self {
            Ground::Copies(copies) => copies.apply(options, ready, contender, progress).await?,
            Ground::Given(given) => given.apply(options, ready, contender, progress).await?,
        };
        let comparison = arena::compare_rows(&ready.masters, &options.load.database).await?;
        run.equal = comparison.equal;
        run.differing = arena::differing(&comparison);
        verify_rows(options, contender, &run)?;
        Ok(run)
    }

    pub(super) fn backlog(&self) -> Backlog {
        match self {
            Ground::Copies(copies) => copies.backlog(),
            Ground::Given(given) => given.backlog(),
        }
    }
}

/// What writing backlogs took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Backlog {
    pub(super) seconds: f64,
    pub(super) log_bytes: u64,
}

/// Runs it.
///
/// # Errors
/// A server or a contender failed.
pub async fn run(options: &DrainOptions, progress: &Progress) -> anyhow::Result<DrainReport> {
    options.load.check()?;
    let (mut ground, setting) = Ground::prepare(options, progress).await?;
    let mut runs: Vec<Vec<Run>> = vec![Vec::new(); options.contenders.len()];
    for round in 0..options.runs {
        for turn in 0..options.contenders.len() {
            // Another one begins each round, so that no one always has the machine at its best.
            let index = (turn + round as usize) % options.contenders.len();
            let contender = options.contenders[index];
            let name = contender.name();
            let of = options.runs;
            progress.step(&format!("round {} of {of}: {name} drains", round + 1));
            let drained = async {
                let ready = ground.ready(options, progress).await?;
                ground.apply(options, &ready, contender, progress).await
            };
            let run = drained
                .await
                .with_context(|| format!("{name}, round {}", round + 1))?;
            progress.step(&format!(
                "round {} of {of}: {name}: {:.2} s, {:.0} transactions/s, rows {}",
                round + 1,
                run.seconds,
                options.transactions as f64 / run.seconds,
                if run.equal { "equal" } else { "DIFFERENT" },
            ));
            runs[index].push(run);
        }
    }
    progress.finish();
    let backlog = ground.backlog();
    let mut report = DrainReport {
        bench: "drain",
        setting,
        transactions: options.transactions,
        written_seconds: backlog.seconds,
        origin_log_bytes: backlog.log_bytes,
        contenders: Vec::new(),
        times_as_fast: None,
    };
    for (contender, runs) in options.contenders.iter().zip(runs) {
        let rate = |run: &Run| options.transactions as f64 / run.seconds;
        let (Some(seconds), Some(rates)) = (
            Spread::of(runs.iter().map(|run| run.seconds)),
            Spread::of(runs.iter().map(rate)),
        ) else {
            continue;
        };
        report.contenders.push(Outcome {
            name: contender.name(),
            contender: *contender,
            seconds,
            transactions_per_second: rates,
            runs,
        });
    }
    let median = |native: bool| {
        report
            .contenders
            .iter()
            .filter(|outcome| (outcome.contender != Contender::Twinlog) == native)
            .map(|outcome| outcome.seconds.median)
            .min_by(f64::total_cmp)
    };
    report.times_as_fast = median(true)
        .zip(median(false))
        .map(|(native, own)| native / own);
    Ok(report)
}

/// Whether the target writes rows of the backlog too, so that both servers change in a run.
fn both_write(options: &DrainOptions) -> bool {
    options.load.shape == Shape::HotRows
}

/// Refuses rows that differ, unless native replication has met conflicts, which it does not know.
fn verify_rows(options: &DrainOptions, contender: Contender, run: &Run) -> anyhow::Result<()> {
    let may_differ = both_write(options) && contender != Contender::Twinlog;
    if !run.equal && !may_differ {
        bail!(
            "the rows differ after {} has drained: {}",
            contender.name(),
            run.differing.as_deref().unwrap_or_default()
        );
    }
    Ok(())
}

async fn write_contested(master: &Master, options: &LoadOptions, first: u32) -> anyhow::Result<()> {
    let mut conn = load::connect(&master.opts, &options.database).await?;
    load::write_contested(&mut conn, options, first).await?;
    conn.disconnect().await?;
    Ok(())
}
