//! One contender applies a backlog, watched from its start to the last transaction.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::bail;
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use twinlog_engine::status::EngineStatus;

use super::curve::Curve;
use super::{DrainOptions, PATIENCE, Ready, Run};
use crate::bench::engine::EngineProcess;
use crate::bench::machine::{Watch, cpu_seconds, peak_memory_bytes};
use crate::bench::native::{self, Counted};
use crate::bench::progress::Progress;
use crate::sandbox::ServerKind;

/// How often the target is asked how far it is.
const POLL: Duration = Duration::from_millis(20);
/// How often a contender is asked whether it still runs.
const CHECK: Duration = Duration::from_secs(1);

/// What a contender applies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Task<'a> {
    /// Transactions of the backlog.
    pub(super) transactions: u64,
    /// Processes of origin and target, where they may be looked at.
    pub(super) pids: &'a [u32],
    pub(super) progress: &'a Progress,
}

/// An engine at the second node applies what the first one has written, `watcher` being a connection to
/// the second.
///
/// # Errors
/// The engine's or the server's; nothing is applied for too long.
pub(super) async fn by_engine(
    task: Task<'_>,
    ready: &Ready,
    folder: &Path,
    watcher: &mut Conn,
) -> anyhow::Result<Run> {
    let (config, file) = (&ready.config, &ready.file);
    let (origin, target) = (&config.nodes[0].name, &config.nodes[1].name);
    let sql = format!(
        "SELECT transactions FROM `{}`.marker WHERE origin = '{origin}'",
        config.engine.schema
    );
    let before: Option<u64> = watcher.query_first(sql.as_str()).await?;
    let before = before.unwrap_or(0);
    let watch = Watch::begin(task.pids);
    let begun = Instant::now();
    let mut engine = EngineProcess::start(config, file, target, folder)?;
    let mut curve = Curve::new(begun, task.transactions);
    let mut checked = Instant::now();
    loop {
        let applied: Option<u64> = watcher.query_first(sql.as_str()).await?;
        if curve.add(applied.unwrap_or(0).saturating_sub(before), task.progress)? {
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
    note(&mut run, &status, origin);
    engine.stop().await;
    Ok(run)
}

/// What the engine counted.
fn note(run: &mut Run, status: &EngineStatus, origin: &str) {
    if let Some(link) = status.links.iter().find(|link| link.origin == origin) {
        run.commits = Some(link.commits);
        run.retries = Some(link.retries);
        run.regrouped = Some(link.regrouped);
        run.conflicts = Some(link.conflicts.iter().map(|of| of.count).sum());
    }
}

/// The target's own replication, which is set up, applies it.
///
/// # Errors
/// The server's; it stops, or applies nothing for too long.
pub(super) async fn by_server(
    task: Task<'_>,
    kind: ServerKind,
    counted: &Counted,
    watcher: &mut Conn,
) -> anyhow::Result<Run> {
    let watch = Watch::begin(task.pids);
    let begun = Instant::now();
    watcher.query_drop(native::start(kind)).await?;
    let mut curve = Curve::new(begun, task.transactions);
    let mut checked = Instant::now();
    loop {
        let applied = counted.applied(watcher).await?;
        if curve.add(applied, task.progress)? {
            break;
        }
        if checked.elapsed() > CHECK {
            if let Some(trouble) = native::trouble(watcher, kind).await? {
                bail!("the server's own replication has stopped: {trouble}");
            }
            checked = Instant::now();
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(curve.run(&watch, 0.0))
}

/// Lets both engines run until both nodes have everything.
///
/// # Errors
/// An engine's; they did not come to agree in time.
pub(super) async fn send_back(
    ready: &Ready,
    folder: &Path,
    options: &DrainOptions,
) -> anyhow::Result<()> {
    let (config, file) = (&ready.config, &ready.file);
    let mut engines = Vec::new();
    for node in &config.nodes {
        engines.push(EngineProcess::start(config, file, &node.name, folder)?);
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
