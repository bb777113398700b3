//! `bench stages`: what each stage of the way in costs. A backlog is read with nothing at the end, up to
//! each stage in turn, and then drained: what that takes more is the target.

use std::time::Instant;

use anyhow::Context as _;
use serde::Serialize;
use twinlog_engine::stages::{self, Passage, Stage};

use super::Setting;
use super::drain::{Contender, DrainOptions, Ground, Ready};
use super::machine::cpu_seconds;
use super::progress::Progress;
use super::spread::Spread;

/// The whole outcome.
#[derive(Debug, Clone, Serialize)]
pub struct StagesReport {
    /// `stages`
    pub bench: &'static str,
    /// Where and how.
    pub setting: Setting,
    /// Transactions of the backlog.
    pub transactions: u64,
    /// Row changes in them.
    pub rows: u64,
    /// Bytes of the origin's log for them.
    pub origin_log_bytes: u64,
    /// Each way, the shortest first, the whole of it last.
    pub ways: Vec<WayOutcome>,
}

/// Where a way ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum End {
    /// Behind this stage, with nothing written.
    Nothing(Stage),
    /// At the target, by an engine of its own process.
    #[serde(serialize_with = "target")]
    Target,
}

fn target<S: serde::Serializer>(serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str("target")
}

impl End {
    /// All of them, the nearest first.
    fn all() -> Vec<Self> {
        let stages = Stage::ALL.into_iter().map(End::Nothing);
        stages.chain([End::Target]).collect()
    }

    /// For tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            End::Nothing(Stage::Read) => "read",
            End::Nothing(Stage::Decode) => "+ decode",
            End::Nothing(Stage::Assemble) => "+ assemble, judge",
            End::Nothing(Stage::Prepare) => "+ gather, prepare",
            End::Target => "+ apply: all of it",
        }
    }
}

/// All runs of one way.
#[derive(Debug, Clone, Serialize)]
pub struct WayOutcome {
    /// For people.
    pub name: &'static str,
    /// Where it ends.
    pub end: End,
    /// Seconds for the backlog; connecting included, starting an engine too where there is one.
    pub seconds: Spread,
    /// Processor seconds of the process that runs the stages.
    pub cpu_seconds: Spread,
    /// Transactions a second.
    pub transactions_per_second: Spread,
    /// Row changes a second.
    pub rows_per_second: Spread,
    /// Median of the processor seconds beyond those of the way before.
    pub added_cpu_seconds: f64,
    /// Processor seconds of the target server; `None` where nothing is written, or it may not be looked
    /// at.
    pub target_cpu_seconds: Option<Spread>,
    /// Each run.
    pub runs: Vec<WayRun>,
}

/// One run of one way.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct WayRun {
    /// Seconds.
    pub seconds: f64,
    /// Processor seconds of the process that runs the stages.
    pub cpu_seconds: f64,
    /// Processor seconds of the target server.
    pub target_cpu_seconds: Option<f64>,
    /// What went through, where nothing is at the end.
    pub passage: Option<Passage>,
}

/// Runs it. Who contends in the options does not matter.
///
/// # Errors
/// A server, a stage or the engine failed.
pub async fn run(options: &DrainOptions, progress: &Progress) -> anyhow::Result<StagesReport> {
    options.load.check()?;
    let (mut ground, setting) = Ground::prepare(options, progress).await?;
    let ends = End::all();
    let mut runs: Vec<Vec<WayRun>> = vec![Vec::new(); ends.len()];
    for round in 0..options.runs {
        let ready = ground.ready(options, progress).await?;
        for (end, runs) in ends.iter().zip(&mut runs) {
            let label = format!("round {} of {}: {}", round + 1, options.runs, end.name());
            progress.step(&label);
            let way = match end {
                End::Nothing(stage) => through(&ready, *stage, options.transactions).await,
                End::Target => whole(&ground, options, &ready, progress).await,
            };
            let way = way.with_context(|| label.clone())?;
            progress.step(&format!(
                "{label}: {:.2} s, {:.2} s of processor time",
                way.seconds, way.cpu_seconds
            ));
            runs.push(way);
        }
    }
    progress.finish();
    let passages = runs.iter().flatten().filter_map(|run| run.passage);
    let rows = passages.map(|passage| passage.rows).max().unwrap_or(0);
    let mut ways: Vec<WayOutcome> = Vec::new();
    for (end, runs) in ends.into_iter().zip(runs) {
        let spread = |of: &dyn Fn(&WayRun) -> f64| Spread::of(runs.iter().map(of));
        let transactions = options.transactions as f64;
        let (Some(seconds), Some(cpu), Some(per_second), Some(rows_per_second)) = (
            spread(&|run| run.seconds),
            spread(&|run| run.cpu_seconds),
            spread(&|run| transactions / run.seconds),
            spread(&|run| rows as f64 / run.seconds),
        ) else {
            continue;
        };
        let before = ways.last().map_or(0.0, |before| before.cpu_seconds.median);
        ways.push(WayOutcome {
            name: end.name(),
            end,
            seconds,
            cpu_seconds: cpu,
            transactions_per_second: per_second,
            rows_per_second,
            added_cpu_seconds: cpu.median - before,
            target_cpu_seconds: Spread::of(runs.iter().filter_map(|run| run.target_cpu_seconds)),
            runs,
        });
    }
    Ok(StagesReport {
        bench: "stages",
        setting,
        transactions: options.transactions,
        rows,
        origin_log_bytes: ground.backlog().log_bytes,
        ways,
    })
}

/// Reads the backlog up to a stage, in this process.
async fn through(ready: &Ready, stage: Stage, transactions: u64) -> anyhow::Result<WayRun> {
    let cpu = || cpu_seconds(std::process::id()).unwrap_or(0.0);
    let nodes = &ready.config.nodes;
    let (before, begun) = (cpu(), Instant::now());
    let passage = stages::pass(&ready.config, &nodes[0].name, &nodes[1].name, stage).await?;
    let (seconds, cpu_seconds) = (begun.elapsed().as_secs_f64(), cpu() - before);
    let counts = matches!(stage, Stage::Assemble | Stage::Prepare);
    anyhow::ensure!(
        !counts || passage.transactions == transactions,
        "{transactions} transactions were written, {} went through",
        passage.transactions
    );
    Ok(WayRun {
        seconds,
        cpu_seconds,
        target_cpu_seconds: None,
        passage: Some(passage),
    })
}

/// An engine applies the backlog.
async fn whole(
    ground: &Ground,
    options: &DrainOptions,
    ready: &Ready,
    progress: &Progress,
) -> anyhow::Result<WayRun> {
    let run = ground
        .apply(options, ready, Contender::Twinlog, progress)
        .await?;
    Ok(WayRun {
        seconds: run.seconds,
        cpu_seconds: run.engine_cpu_seconds.unwrap_or(0.0),
        target_cpu_seconds: run.target_cpu_seconds,
        passage: None,
    })
}
