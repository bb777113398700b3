//! `bench write`: how much clients of both masters can write while nothing, the engines or the
//! servers' own two-way replication joins them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::joined::{Joint, Masters};
use super::load::{self, LoadOptions, Shape, Until, Written};
use super::machine::Watch;
use super::progress::Progress;
use super::spread::Spread;
use super::{Place, Setting};

/// Between two points of the curve.
const POINT: Duration = Duration::from_millis(500);

/// What is measured.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    /// The servers.
    pub place: Place,
    /// What is written at each.
    pub load: LoadOptions,
    /// How long.
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
pub struct WriteReport {
    /// `write`
    pub bench: &'static str,
    /// Where and how.
    pub setting: Setting,
    /// Seconds of writing.
    pub seconds: u64,
    /// Each contender's runs.
    pub contenders: Vec<WriteOutcome>,
    /// Twinlog's median of transactions applied everywhere a second, over native's.
    pub ratio_applied: Option<f64>,
    /// The same of transactions written a second.
    pub ratio_written: Option<f64>,
}

/// One contender's runs.
#[derive(Debug, Clone, Serialize)]
pub struct WriteOutcome {
    /// For people.
    pub name: String,
    /// What joined the masters.
    pub joint: Joint,
    /// Transactions that clients of both nodes committed a second, while they wrote.
    pub written_per_second: Spread,
    /// The same over the time until both nodes had all of them; `None` when nothing joins them.
    pub applied_per_second: Option<Spread>,
    /// Each run.
    pub runs: Vec<WriteRun>,
}

/// One run.
#[derive(Debug, Clone, Serialize)]
pub struct WriteRun {
    /// Seconds that clients wrote.
    pub seconds: f64,
    /// Transactions committed by clients at each node.
    pub transactions: [u64; 2],
    /// Row changes in them.
    pub rows: [u64; 2],
    /// Transactions that the servers rolled back under clients.
    pub rolled_back: u64,
    /// Seconds after the last write until both nodes had everything; `None` when nothing joins them.
    pub drained_seconds: Option<f64>,
    /// Seconds since the start, and transactions of both nodes committed by then.
    pub curve: Vec<(f64, u64)>,
    /// Processor seconds of both engines, drain included.
    pub engine_cpu_seconds: f64,
    /// Most memory of an engine at a time.
    pub engine_peak_memory_bytes: u64,
    /// Processor seconds of both servers, drain included; `None` where they may not be looked at.
    pub server_cpu_seconds: Option<f64>,
    /// The machine's share that other programs took, 0 to 1.
    pub others_share: Option<f64>,
    /// Conflicts that the engines settled.
    pub conflicts: u64,
    /// Which tables differ afterwards; `None` when all are equal (or nothing joins them).
    pub differing: Option<String>,
}

impl WriteRun {
    fn all(&self) -> f64 {
        (self.transactions[0] + self.transactions[1]) as f64
    }

    fn written_per_second(&self) -> f64 {
        self.all() / self.seconds
    }

    fn applied_per_second(&self) -> Option<f64> {
        let drained = self.drained_seconds?;
        Some(self.all() / (self.seconds + drained))
    }
}

/// Runs it.
///
/// # Errors
/// A server or a contender failed, or rows differ where they must not.
pub async fn run(options: &WriteOptions, progress: &Progress) -> anyhow::Result<WriteReport> {
    options.load.check()?;
    let base = options.base.as_deref();
    let masters = Masters::prepare(&options.place, &options.load, base, progress).await?;
    let setting = masters.setting();
    let mut runs: Vec<Vec<WriteRun>> = vec![Vec::new(); options.joints.len()];
    for round in 0..options.runs {
        for turn in 0..options.joints.len() {
            let index = (turn + round as usize) % options.joints.len();
            let joint = options.joints[index];
            let label = format!("round {} of {}: {}", round + 1, options.runs, joint.name());
            progress.step(&label);
            let run = write(options, &masters, joint, progress)
                .await
                .with_context(|| label.clone())?;
            progress.step(&format!(
                "{label}: {:.0} transactions/s written{}",
                run.written_per_second(),
                run.drained_seconds
                    .map_or_else(String::new, |seconds| format!(
                        ", applied everywhere {seconds:.2} s after the last"
                    )),
            ));
            runs[index].push(run);
        }
    }
    progress.finish();
    let mut contenders = Vec::new();
    for (joint, runs) in options.joints.iter().zip(runs) {
        let Some(written_per_second) = Spread::of(runs.iter().map(WriteRun::written_per_second))
        else {
            continue;
        };
        contenders.push(WriteOutcome {
            name: joint.name(),
            joint: *joint,
            written_per_second,
            applied_per_second: Spread::of(runs.iter().filter_map(WriteRun::applied_per_second)),
            runs,
        });
    }
    let ratio = |of: &dyn Fn(&WriteOutcome) -> Option<f64>| {
        let own = contenders.iter().find(|one| one.joint == Joint::Twinlog);
        let native = contenders
            .iter()
            .find(|one| matches!(one.joint, Joint::Native(_)));
        Some(of(own?)? / of(native?)?)
    };
    let ratio_applied = ratio(&|one| one.applied_per_second.map(|spread| spread.median));
    let ratio_written = ratio(&|one| Some(one.written_per_second.median));
    Ok(WriteReport {
        bench: "write",
        setting,
        seconds: options.seconds,
        contenders,
        ratio_applied,
        ratio_written,
    })
}

async fn write(
    options: &WriteOptions,
    masters: &Masters,
    joint: Joint,
    progress: &Progress,
) -> anyhow::Result<WriteRun> {
    let mut joined = masters.join(joint).await?;
    let before = joined.cost();
    let watch = Watch::begin(&joined.server_pids());
    let written = [Arc::new(Written::default()), Arc::new(Written::default())];
    let stop = CancellationToken::new();
    // Whatever ends this function ends the writers.
    let _guard = stop.clone().drop_guard();
    let mut writers = tokio::task::JoinSet::new();
    for (node, (master, written)) in (0..).zip(joined.masters.iter().zip(&written)) {
        let (opts, load) = (master.opts.clone(), options.load.at_node(node));
        let (stop, written) = (stop.clone(), Arc::clone(written));
        writers
            .spawn(async move { load::write(&opts, &load, Until::Stopped(stop), &written).await });
    }
    let begun = Instant::now();
    let count = || written[0].transactions() + written[1].transactions();
    let mut curve = vec![(0.0, 0)];
    while begun.elapsed() < Duration::from_secs(options.seconds) {
        tokio::select! {
            ended = writers.join_next() => match ended {
                Some(ended) => {
                    ended??;
                    bail!("the clients of a node stopped writing");
                }
                None => bail!("nobody writes"),
            },
            () = tokio::time::sleep(POINT) => {}
        }
        curve.push((begun.elapsed().as_secs_f64(), count()));
        let seconds = begun.elapsed().as_secs_f64();
        progress.show(format!("{:.0} transactions/s", count() as f64 / seconds));
    }
    stop.cancel();
    while let Some(ended) = writers.join_next().await {
        ended??;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let patience = Duration::from_secs(60 + 20 * options.seconds);
    let drained = joined.settle(patience).await?;
    let cost = joined.cost();
    let engine_cpu_seconds = cost.cpu_seconds - before.cpu_seconds;
    let taken = watch.taken();
    let server_cpu_seconds = (!taken.is_empty()).then(|| taken.iter().sum());
    let others_share = watch.others_share(engine_cpu_seconds);
    let (differing, conflicts) = if joint == Joint::Off {
        (None, 0)
    } else {
        (joined.differing().await?, joined.conflicts().await?)
    };
    // Native replication does not know conflicts: only where there are none must rows be equal.
    let may_differ = options.load.shape == Shape::HotRows && joint != Joint::Twinlog;
    if let Some(tables) = &differing
        && !may_differ
    {
        bail!("the rows differ: {tables}");
    }
    joined.stop().await;
    Ok(WriteRun {
        seconds,
        transactions: [written[0].transactions(), written[1].transactions()],
        rows: [written[0].rows(), written[1].rows()],
        rolled_back: written[0].rolled_back() + written[1].rolled_back(),
        drained_seconds: (joint != Joint::Off).then_some(drained.as_secs_f64()),
        curve,
        engine_cpu_seconds,
        engine_peak_memory_bytes: cost.peak_memory_bytes,
        server_cpu_seconds,
        others_share,
        conflicts,
        differing,
    })
}
