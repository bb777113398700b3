//! `bench drain`: how fast a backlog is applied, by twinlog and by the servers' own replication,
//! each from an identical copy of the same two servers.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use serde::Serialize;
use tempfile::TempDir;
use twinlog_engine::config::Config;
use twinlog_engine::init;
use twinlog_engine::status::EngineStatus;

use super::arena::{self, ArenaOptions};
use super::engine::EngineProcess;
use super::load::{self, LoadOptions, Shape, Until, Written};
use super::machine::{Watch, cpu_seconds, peak_memory_bytes};
use super::native::{self, Counted, LogEnd};
use super::progress::Progress;
use super::spread::Spread;
use super::{Setting, marker_bytes};
use crate::cluster::NODES;
use crate::sandbox::Server;

/// How often the target is asked how far it is.
const POLL: Duration = Duration::from_millis(20);
/// How often a contender is asked whether it still runs.
const CHECK: Duration = Duration::from_secs(1);
/// Nothing applied for this long: it hangs.
const PATIENCE: Duration = Duration::from_secs(120);
/// Most points of a curve in the report.
const POINTS: usize = 200;

/// What is drained.
#[derive(Debug, Clone)]
pub struct DrainOptions {
    /// The servers.
    pub arena: ArenaOptions,
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
    /// Processor seconds of the target server.
    pub target_cpu_seconds: f64,
    /// Processor seconds of the origin server.
    pub origin_cpu_seconds: f64,
    /// The machine's share that other programs took, 0 to 1.
    pub others_share: Option<f64>,
    /// Bytes that the target wrote to its log.
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

/// Two stopped servers with a backlog between them.
struct Prepared {
    /// The origin, running, unless each run needs one of its own.
    origin: Option<Server>,
    stopped: Vec<Server>,
    counted: Counted,
    begin: LogEnd,
    transactions: u64,
    folder: TempDir,
}

/// Runs it.
///
/// # Errors
/// A server or a contender failed.
pub async fn run(options: &DrainOptions, progress: &Progress) -> anyhow::Result<DrainReport> {
    options.load.check()?;
    let (prepared, mut report) = prepare(options, progress).await?;
    let mut runs: Vec<Vec<Run>> = vec![Vec::new(); options.contenders.len()];
    for round in 0..options.runs {
        for turn in 0..options.contenders.len() {
            // Another one begins each round, so that no one always has the machine at its best.
            let index = (turn + round as usize) % options.contenders.len();
            let contender = options.contenders[index];
            let name = contender.name();
            let of = options.runs;
            progress.step(&format!("round {} of {of}: {name} drains", round + 1));
            let run = drain(options, &prepared, contender, progress)
                .await
                .with_context(|| format!("{name}, round {}", round + 1))?;
            progress.step(&format!(
                "round {} of {of}: {name}: {:.2} s, {:.0} transactions/s, rows {}",
                round + 1,
                run.seconds,
                prepared.transactions as f64 / run.seconds,
                if run.equal { "equal" } else { "DIFFERENT" },
            ));
            runs[index].push(run);
        }
    }
    progress.finish();
    for (contender, runs) in options.contenders.iter().zip(runs) {
        let rate = |run: &Run| prepared.transactions as f64 / run.seconds;
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

async fn prepare(
    options: &DrainOptions,
    progress: &Progress,
) -> anyhow::Result<(Prepared, DrainReport)> {
    let load = &options.load;
    progress.step(&format!(
        "starting two durable {} servers, {} tables x {} rows on each",
        options.arena.kind, load.tables, load.rows
    ));
    let folder = arena::folder(options.base.as_deref())?;
    let [mut a, mut b] = arena::fresh(&options.arena, load, folder.path()).await?;
    let setting = Setting::now(
        options.arena.kind,
        a.version(),
        load,
        options.arena.settings(),
    );
    let (config, _) = options.arena.config([&a, &b], folder.path())?;
    init::init(&config, false).await?;
    let begin = native::log_end(&a).await?;
    let counted = Counted::from_now(&a).await?;
    if both_write(options) {
        write_contested(&b, load, 0).await?;
    }
    progress.step(&format!(
        "writing a backlog of {} transactions ({}, {} threads)",
        options.transactions, load.shape, load.threads
    ));
    let written = Arc::new(Written::default());
    let begun = Instant::now();
    let opts = a.opts();
    let writing = load::write(&opts, load, Until::Count(options.transactions), &written);
    tokio::pin!(writing);
    loop {
        tokio::select! {
            ended = &mut writing => break ended?,
            () = tokio::time::sleep(Duration::from_millis(200)) => {
                progress.done("backlog", written.transactions(), options.transactions);
            }
        }
    }
    let written_seconds = begun.elapsed().as_secs_f64();
    if both_write(options) {
        write_contested(&b, load, 1).await?;
    }
    let transactions = counted.written(&a).await?;
    if transactions != options.transactions {
        bail!(
            "{} transactions were committed at the origin, {transactions} are in its log: \
             does somebody else write there?",
            options.transactions
        );
    }
    let end = native::log_end(&a).await?;
    let origin_log_bytes = if end.file == begin.file {
        end.offset - begin.offset
    } else {
        let mut conn = a.connect().await?;
        let all = native::log_bytes(&mut conn).await?;
        conn.disconnect().await?;
        all - begin.offset
    };
    progress.step(&format!(
        "the backlog took {written_seconds:.1} s and {:.1} MB of binlog",
        origin_log_bytes as f64 / 1e6
    ));
    b.stop().await;
    let (origin, stopped) = if both_write(options) {
        a.stop().await;
        (None, vec![b, a])
    } else {
        (Some(a), vec![b])
    };
    let prepared = Prepared {
        origin,
        stopped,
        counted,
        begin,
        transactions,
        folder,
    };
    let report = DrainReport {
        bench: "drain",
        setting,
        transactions,
        written_seconds,
        origin_log_bytes,
        contenders: Vec::new(),
        times_as_fast: None,
    };
    Ok((prepared, report))
}

async fn write_contested(server: &Server, load: &LoadOptions, first: u32) -> anyhow::Result<()> {
    let mut conn = load::connect(&server.opts(), &load.database).await?;
    load::write_contested(&mut conn, load, first).await?;
    conn.disconnect().await?;
    Ok(())
}

/// One contender, once, on servers of its own.
async fn drain(
    options: &DrainOptions,
    prepared: &Prepared,
    contender: Contender,
    progress: &Progress,
) -> anyhow::Result<Run> {
    let folder = prepared.folder.path();
    let copy = |node: usize, stopped: &Server| {
        let data = stopped.datadir().to_owned();
        let server = options.arena.server(node);
        async move { Server::start_on_copy(options.arena.kind, folder, server, &data).await }
    };
    let target = copy(1, &prepared.stopped[0]).await?;
    let own;
    let origin = match &prepared.origin {
        Some(origin) => origin,
        None => {
            own = copy(0, &prepared.stopped[1]).await?;
            &own
        }
    };
    arena::warm_up(&target, &options.load.database).await?;
    // What copying the files left to be written is not to be written during the run.
    tokio::task::spawn_blocking(nix::unistd::sync).await?;

    let mut watcher = target.connect().await?;
    let log_before = native::log_bytes(&mut watcher).await?;
    let (config, file) = options.arena.config([origin, &target], folder)?;
    let mut run = match contender {
        Contender::Twinlog => {
            let own_log = marker_bytes::in_folder(target.datadir(), &config.engine.schema)?;
            let engine = Engine::new(&config, &file, &target, origin, folder);
            let mut run = engine.drain(prepared, &mut watcher, progress).await?;
            let log = marker_bytes::in_folder(target.datadir(), &config.engine.schema)?;
            run.marker_log_bytes = Some(log - own_log);
            run
        }
        Contender::Native(workers) => {
            native::set_up(&target, origin, &prepared.begin, workers).await?;
            native_drain(prepared, [origin, &target], &mut watcher, progress).await?
        }
    };
    run.target_log_bytes = native::log_bytes(&mut watcher).await? - log_before;
    watcher.disconnect().await?;
    match contender {
        Contender::Native(_) => native::remove(&target).await?,
        // The other engine has not run: the rows that the target wrote are still to go back.
        Contender::Twinlog if both_write(options) => {
            send_back(&config, &file, folder, options).await?;
        }
        Contender::Twinlog => {}
    }
    let comparison = arena::compare_rows([origin, &target], &options.load.database).await?;
    run.equal = comparison.equal;
    run.differing = arena::differing(&comparison);
    // Native replication overwrites what it did not see: only without conflicts must rows be equal.
    let may_differ = both_write(options) && contender != Contender::Twinlog;
    if !run.equal && !may_differ {
        bail!(
            "the rows differ after {} has drained: {}",
            contender.name(),
            run.differing.unwrap_or_default()
        );
    }
    Ok(run)
}

/// Lets both engines run until both nodes have everything.
async fn send_back(
    config: &Arc<Config>,
    file: &Path,
    folder: &Path,
    options: &DrainOptions,
) -> anyhow::Result<()> {
    let mut engines = Vec::new();
    for node in NODES {
        engines.push(EngineProcess::start(config, file, node, folder)?);
    }
    let patience = PATIENCE + Duration::from_millis(options.transactions);
    let outstanding = twinlog_engine::barrier::wait(config, Some(patience)).await?;
    for engine in &mut engines {
        engine.check().await?;
    }
    if !outstanding.is_empty() {
        bail!("the nodes did not come to agree within {patience:?}");
    }
    for engine in engines {
        engine.stop().await;
    }
    Ok(())
}

/// The engine as a contender.
struct Engine<'a> {
    config: &'a Config,
    file: &'a Path,
    servers: [&'a Server; 2],
    folder: &'a Path,
}

impl<'a> Engine<'a> {
    fn new(
        config: &'a Config,
        file: &'a Path,
        target: &'a Server,
        origin: &'a Server,
        folder: &'a Path,
    ) -> Self {
        Self {
            config,
            file,
            servers: [origin, target],
            folder,
        }
    }

    async fn drain(
        &self,
        prepared: &Prepared,
        watcher: &mut Conn,
        progress: &Progress,
    ) -> anyhow::Result<Run> {
        let sql = format!(
            "SELECT transactions FROM `{}`.marker WHERE origin = '{}'",
            self.config.engine.schema, NODES[0]
        );
        let watch = Watch::begin(&[self.servers[0].pid(), self.servers[1].pid()]);
        let begun = Instant::now();
        let mut engine = EngineProcess::start(self.config, self.file, NODES[1], self.folder)?;
        let mut curve = Curve::new(begun, prepared.transactions);
        let mut checked = Instant::now();
        loop {
            let applied: Option<u64> = watcher.query_first(sql.as_str()).await?;
            if curve.add(applied.unwrap_or(0), progress)? {
                break;
            }
            if checked.elapsed() > CHECK {
                engine.check().await?;
                checked = Instant::now();
            }
            tokio::time::sleep(POLL).await;
        }
        let cpu = cpu_seconds(engine.pid());
        let memory = peak_memory_bytes(engine.pid());
        let mut run = curve.run(&watch, cpu.unwrap_or(0.0));
        run.engine_cpu_seconds = cpu;
        run.engine_peak_memory_bytes = memory;
        let status = engine.status().await?;
        note(&mut run, &status);
        engine.stop().await;
        Ok(run)
    }
}

/// What the engine counted.
fn note(run: &mut Run, status: &EngineStatus) {
    if let Some(link) = status.links.iter().find(|link| link.origin == NODES[0]) {
        run.commits = Some(link.commits);
        run.retries = Some(link.retries);
        run.regrouped = Some(link.regrouped);
        run.conflicts = Some(link.conflicts.iter().map(|of| of.count).sum());
    }
}

async fn native_drain(
    prepared: &Prepared,
    [origin, target]: [&Server; 2],
    watcher: &mut Conn,
    progress: &Progress,
) -> anyhow::Result<Run> {
    let watch = Watch::begin(&[origin.pid(), target.pid()]);
    let begun = Instant::now();
    watcher.query_drop(native::start(target.kind())).await?;
    let mut curve = Curve::new(begun, prepared.transactions);
    let mut checked = Instant::now();
    loop {
        let applied = prepared.counted.applied(watcher).await?;
        if curve.add(applied, progress)? {
            break;
        }
        if checked.elapsed() > CHECK {
            if let Some(trouble) = native::trouble(watcher, target.kind()).await? {
                bail!("the server's own replication has stopped: {trouble}");
            }
            checked = Instant::now();
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(curve.run(&watch, 0.0))
}

/// Transactions applied over time.
struct Curve {
    begun: Instant,
    of: u64,
    points: Vec<(f64, u64)>,
    moved: Instant,
}

impl Curve {
    fn new(begun: Instant, of: u64) -> Self {
        Self {
            begun,
            of,
            points: vec![(0.0, 0)],
            moved: Instant::now(),
        }
    }

    /// Adds a point; true when everything is applied.
    fn add(&mut self, applied: u64, progress: &Progress) -> anyhow::Result<bool> {
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

    fn run(self, watch: &Watch, engine_cpu: f64) -> Run {
        let taken = watch.taken();
        let seconds = self.points.last().map_or(0.0, |(seconds, _)| *seconds);
        Run {
            seconds,
            first_seconds: self.points.get(1).map_or(seconds, |(seconds, _)| *seconds),
            engine_cpu_seconds: None,
            engine_peak_memory_bytes: None,
            target_cpu_seconds: taken.get(1).copied().unwrap_or(0.0),
            origin_cpu_seconds: taken.first().copied().unwrap_or(0.0),
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
