//! `twinlog demo`: two throwaway masters, two engines, a write load on both, and the proof that
//! both hold the same rows in the end.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use comfy_table::{Cell, CellAlignment, Table, presets};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use twinlog_engine::status::LinkStatus;

use crate::cluster::{Cluster, NODES};
use crate::compare::Comparison;
use crate::sandbox::ServerKind;
use crate::workload::rivals::{self, Rival};
use crate::workload::{Counters, DATABASE, Params, Workload, create_schema};

/// Arguments of `twinlog demo`.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// Which server to run two of
    #[arg(long, value_enum, default_value_t = ServerKind::MariaDb)]
    pub server: ServerKind,
    /// How long to write, in seconds
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// Clients that write to each of the two masters
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub clients: u32,
    /// Print the outcome as JSON
    #[arg(long)]
    pub json: bool,
}

/// Everything that the demo found out.
#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    server: ServerKind,
    version: String,
    seconds: f64,
    drain_seconds: f64,
    directions: Vec<Direction>,
    conflicts: Vec<Settled>,
    counter: Counter,
    comparison: Comparison,
    /// Why it is not ok; empty when it is.
    failures: Vec<String>,
}

/// Conflicts that were settled at one node.
#[derive(Debug, Serialize)]
struct Settled {
    node: String,
    kind: String,
    winner: String,
    count: u64,
}

/// Rows that both nodes incremented at once.
#[derive(Debug, Serialize)]
struct Counter {
    /// Increments that clients of both nodes committed.
    increments: u64,
    /// What the counters come to at each node.
    counted: [u64; 2],
}

/// One way: written at one node, applied at the other.
#[derive(Debug, Serialize)]
struct Direction {
    origin: String,
    target: String,
    written_transactions: u64,
    written_rows: u64,
    deadlocks_of_clients: u64,
    applied_transactions: u64,
    applied_rows: u64,
    commits: u64,
    /// Applied transactions found in the target's log and not sent back by the other link.
    loops_prevented: u64,
    returned: u64,
    retries: u64,
    worst_lag_seconds: f64,
}

/// Runs the demo. Exit code 0 says that both masters hold the same rows, that every transaction
/// was applied once, and that none went back to where it came from.
///
/// # Errors
/// A server or an engine failed. A difference between the masters is no error but exit code 1.
pub async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        report = demo(&args) => {
            let report = report?;
            if args.json {
                println!("{}", serde_json::to_string_pretty(&report)?);
            } else {
                print!("{}", describe(&report)?);
            }
            Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        // Leaving this function ends engines and servers and removes their files.
        _ = tokio::signal::ctrl_c() => Ok(interrupted(130)),
        _ = terminate.recv() => Ok(interrupted(143)),
    }
}

fn interrupted(code: u8) -> ExitCode {
    eprintln!("interrupted: servers and engines of the demo are ended, their files removed");
    ExitCode::from(code)
}

async fn demo(args: &DemoArgs) -> anyhow::Result<Report> {
    let progress = Progress::new(args.json);
    progress.step(&format!("starting two masters ({})", args.server));
    let base = std::env::temp_dir();
    let settings = format!("databases = [{DATABASE:?}]\n{}", rivals::RULE);
    let mut cluster = Cluster::start(args.server, &base, true, &[], &settings).await?;
    for server in &cluster.servers {
        let mut conn = server.connect().await?;
        create_schema(&mut conn, DATABASE).await?;
        rivals::create_tables(&mut conn, DATABASE).await?;
        conn.disconnect().await?;
    }
    let version = cluster.servers[0].version().to_owned();
    progress.step(&format!(
        "{} {version}: starting an engine for each",
        args.server
    ));
    cluster.join().await?;
    progress.step(&format!(
        "writing to both for {} s, {} clients each and one that writes the other node's rows",
        args.seconds, args.clients
    ));

    let counters = [Arc::new(Counters::default()), Arc::new(Counters::default())];
    let mut worst_lag = [0.0_f64; 2];
    let begun = Instant::now();
    let increments = write_load(args, &cluster, &counters, &progress, &mut worst_lag).await?;
    let seconds = begun.elapsed().as_secs_f64();

    progress.step("stopped writing; draining both links");
    let drained = Instant::now();
    let deadline = Duration::from_secs(60).max(Duration::from_secs(args.seconds) * 10);
    {
        let watch = watch(&cluster, &counters, &progress, &mut worst_lag);
        tokio::select! {
            drained = cluster.drain(deadline) => drained?,
            trouble = watch => trouble?,
        }
    }
    let drain_seconds = drained.elapsed().as_secs_f64();
    let status = cluster.status();
    progress.step("comparing every table");
    cluster.stop_engines().await;
    let comparison = cluster.compare().await?;
    let mut counted = [0; 2];
    for (server, counted) in cluster.servers.iter().zip(&mut counted) {
        let mut conn = server.connect().await?;
        *counted = rivals::counted(&mut conn, DATABASE).await?;
        conn.disconnect().await?;
    }
    let counter = Counter {
        increments,
        counted,
    };
    progress.finish();

    let links: Vec<LinkStatus> = status.into_iter().flat_map(|engine| engine.links).collect();
    let mut directions = Vec::new();
    for (index, origin) in NODES.into_iter().enumerate() {
        let link = links
            .iter()
            .find(|link| link.origin == origin)
            .with_context(|| format!("there is no link from node {origin}"))?;
        let back = links.iter().find(|link| link.target == origin);
        directions.push(Direction {
            origin: origin.to_owned(),
            target: link.target.clone(),
            written_transactions: counters[index].transactions(),
            written_rows: counters[index].rows(),
            deadlocks_of_clients: counters[index].deadlocks(),
            applied_transactions: link.applied_transactions,
            applied_rows: link.applied_rows,
            commits: link.commits,
            loops_prevented: back.map_or(0, |back| back.loops_prevented),
            returned: link.returned,
            retries: link.retries,
            worst_lag_seconds: worst_lag[index],
        });
    }
    let settled = links.iter().flat_map(|link| {
        link.conflicts.iter().map(|conflict| Settled {
            node: link.target.clone(),
            kind: conflict.kind.clone(),
            winner: conflict.winner.clone(),
            count: conflict.count,
        })
    });
    let conflicts = settled.collect();
    let mut failures = failures(&directions, &comparison);
    if counter.counted != [counter.increments; 2] {
        failures.push(format!(
            "the counters were incremented {} times and stand at {} and {}",
            counter.increments, counter.counted[0], counter.counted[1]
        ));
    }
    Ok(Report {
        ok: failures.is_empty(),
        server: args.server,
        version,
        seconds,
        drain_seconds,
        directions,
        conflicts,
        counter,
        comparison,
        failures,
    })
}

fn failures(directions: &[Direction], comparison: &Comparison) -> Vec<String> {
    let mut failures = Vec::new();
    for way in directions {
        if way.written_transactions == 0 {
            failures.push(format!("nothing was written at node {}", way.origin));
        }
        if way.applied_transactions != way.written_transactions {
            failures.push(format!(
                "{} transactions were written at node {}, {} were applied at node {}",
                way.written_transactions, way.origin, way.applied_transactions, way.target
            ));
        }
        if way.returned > 0 {
            failures.push(format!(
                "{} changes of node {} came back to it",
                way.returned, way.target
            ));
        }
    }
    if comparison.tables.is_empty() {
        failures.push("no table was compared".to_owned());
    }
    for table in comparison.differing() {
        let mut text = format!("{}.{} differs", table.database, table.table);
        if let Some(problem) = &table.problem {
            text.push_str(": ");
            text.push_str(problem);
        }
        if let Some(row) = table.differences.first() {
            // Writing to a string does not fail.
            let _ = write!(text, ": first at key {} ({:?})", row.key, row.kind);
        }
        failures.push(text);
    }
    failures
}

/// Writes to both masters for the time that was asked for.
async fn write_load(
    args: &DemoArgs,
    cluster: &Cluster,
    counters: &[Arc<Counters>; 2],
    progress: &Progress,
    worst_lag: &mut [f64; 2],
) -> anyhow::Result<u64> {
    let stop = CancellationToken::new();
    let load = |index: usize, node: u32| {
        Workload::new(
            cluster.servers[index].opts(),
            Params::new(args.clients, node, 1),
        )
    };
    let (a, b) = (load(0, 0), load(1, 1));
    let rival = |index: usize| {
        let opts = cluster.servers[index].opts();
        let rival = Rival::new(opts, DATABASE, NODES[index], index as u64);
        rival.run(stop.clone(), Arc::clone(&counters[index]))
    };
    let loads = async {
        let (_, _, a, b) = tokio::try_join!(
            a.run(stop.clone(), Arc::clone(&counters[0])),
            b.run(stop.clone(), Arc::clone(&counters[1])),
            rival(0),
            rival(1)
        )?;
        anyhow::Ok(a + b)
    };
    tokio::pin!(loads);
    tokio::select! {
        ended = &mut loads => return ended,
        trouble = watch(cluster, counters, progress, worst_lag) => trouble?,
        () = tokio::time::sleep(Duration::from_secs(args.seconds)) => {}
    }
    stop.cancel();
    loads.await
}

/// Shows the progress until dropped; ends only when a link has stopped for good.
async fn watch(
    cluster: &Cluster,
    counters: &[Arc<Counters>; 2],
    progress: &Progress,
    worst_lag: &mut [f64; 2],
) -> anyhow::Result<()> {
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before: Option<(Instant, [u64; 2], [u64; 2])> = None;
    loop {
        ticks.tick().await;
        if let Some(trouble) = cluster.trouble() {
            anyhow::bail!(trouble);
        }
        let now = Instant::now();
        let written = [counters[0].rows(), counters[1].rows()];
        let mut applied = [0; 2];
        let mut lines = Vec::new();
        let status = cluster.status();
        for (index, origin) in NODES.into_iter().enumerate() {
            let link = status
                .iter()
                .flat_map(|engine| &engine.links)
                .find(|link| link.origin == origin);
            let Some(link) = link else { continue };
            applied[index] = link.applied_rows;
            worst_lag[index] = worst_lag[index].max(link.lag_seconds);
            let rates = before.map(|(then, written_then, applied_then)| {
                let seconds = now.duration_since(then).as_secs_f64();
                let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
                (
                    rate(written[index], written_then[index]),
                    rate(applied[index], applied_then[index]),
                )
            });
            let (written_rate, applied_rate) = rates.unwrap_or_default();
            lines.push(format!(
                "{origin} {written_rate:>7.0} rows/s written   {origin} -> {} {applied_rate:>7.0} \
                 rows/s applied   {:>6} transactions behind   lag {:>5.1} s   {}",
                link.target, link.lag_transactions, link.lag_seconds, link.state
            ));
        }
        if before.is_some() {
            progress.show(&lines);
        }
        before = Some((now, written, applied));
    }
}

/// Steps, and two lines that change in place on a terminal. All on standard error: standard output
/// is for the outcome.
struct Progress {
    begun: Instant,
    terminal: Option<(MultiProgress, Vec<ProgressBar>)>,
    quiet: bool,
}

impl Progress {
    fn new(quiet: bool) -> Self {
        let terminal = (std::io::stderr().is_terminal() && !quiet).then(|| {
            let all = MultiProgress::new();
            let style = ProgressStyle::with_template("{spinner} {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner());
            let bars = NODES
                .iter()
                .map(|_| {
                    let bar = all.add(ProgressBar::new_spinner().with_style(style.clone()));
                    bar.enable_steady_tick(Duration::from_millis(100));
                    bar
                })
                .collect();
            (all, bars)
        });
        Self {
            begun: Instant::now(),
            terminal,
            quiet,
        }
    }

    fn step(&self, text: &str) {
        if self.quiet {
            return;
        }
        let line = format!("[{:>5.1} s] {text}", self.begun.elapsed().as_secs_f64());
        match &self.terminal {
            // Above the lines that change; a terminal that is gone is no reason to stop.
            Some((all, _)) => drop(all.println(line)),
            None => eprintln!("{line}"),
        }
    }

    fn show(&self, lines: &[String]) {
        match &self.terminal {
            Some((_, bars)) => {
                for (bar, line) in bars.iter().zip(lines) {
                    bar.set_message(line.clone());
                }
            }
            None => lines.iter().for_each(|line| self.step(line)),
        }
    }

    fn finish(&self) {
        if let Some((_, bars)) = &self.terminal {
            bars.iter().for_each(ProgressBar::finish_and_clear);
        }
    }
}

fn describe(report: &Report) -> Result<String, std::fmt::Error> {
    let number = |value: u64| Cell::new(thousands(value)).set_alignment(CellAlignment::Right);
    let mut flow = Table::new();
    flow.load_style(presets::UTF8_FULL_CONDENSED).set_header([
        "direction",
        "written trx",
        "applied trx",
        "written rows",
        "applied rows",
        "commits",
        "rows/s",
        "kept from going back",
        "came back",
        "worst lag",
    ]);
    for way in &report.directions {
        let rate = way.written_rows as f64 / report.seconds.max(0.001);
        flow.add_row([
            Cell::new(format!("{} -> {}", way.origin, way.target)),
            number(way.written_transactions),
            number(way.applied_transactions),
            number(way.written_rows),
            number(way.applied_rows),
            number(way.commits),
            number(rate as u64),
            number(way.loops_prevented),
            number(way.returned),
            Cell::new(format!("{:.1} s", way.worst_lag_seconds))
                .set_alignment(CellAlignment::Right),
        ]);
    }
    let mut tables = Table::new();
    tables.load_style(presets::UTF8_FULL_CONDENSED).set_header([
        "table",
        "rows at a",
        "rows at b",
        "checksum",
        "ms",
        "",
    ]);
    let count = |rows: Option<u64>| rows.map_or_else(|| Cell::new("missing"), number);
    for table in &report.comparison.tables {
        let checksum = match table.checksums {
            Some((a, b)) if a == b => a.to_string(),
            Some((a, b)) => format!("{a} / {b}"),
            None => "-".to_owned(),
        };
        tables.add_row([
            Cell::new(format!("{}.{}", table.database, table.table)),
            count(table.rows.0),
            count(table.rows.1),
            Cell::new(checksum).set_alignment(CellAlignment::Right),
            number(table.ms),
            Cell::new(if table.equal { "equal" } else { "DIFFERENT" }),
        ]);
    }
    let conflicts = conflicts_table(report);
    let mut text = String::new();
    writeln!(text, "{flow}\n{conflicts}\n{tables}")?;
    let counter = &report.counter;
    writeln!(
        text,
        "counters that both nodes incremented: {} increments, {} at a, {} at b",
        thousands(counter.increments),
        thousands(counter.counted[0]),
        thousands(counter.counted[1])
    )?;
    let (wrote, drained) = (report.seconds, report.drain_seconds);
    writeln!(text, "wrote for {wrote:.1} s, drained in {drained:.1} s")?;
    if report.ok {
        writeln!(
            text,
            "EQUAL: {} tables with {} rows are identical on both {} {} masters",
            report.comparison.tables.len(),
            thousands(report.comparison.rows()),
            report.server,
            report.version
        )?;
    } else {
        for failure in &report.failures {
            writeln!(text, "- {failure}")?;
        }
        let verdict = if report.comparison.equal {
            "FAILED: the tables are equal, but see above"
        } else {
            "NOT EQUAL: the masters differ, see above"
        };
        writeln!(text, "{verdict}")?;
    }
    Ok(text)
}

/// One line for each kind of conflict; for each node, whose write stands.
fn conflicts_table(report: &Report) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header([
        "conflicts settled",
        "at a: own stands",
        "other's",
        "both, merged",
        "at b: own stands",
        "other's",
        "both, merged",
    ]);
    let mut kinds: Vec<&str> = report.conflicts.iter().map(|of| of.kind.as_str()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    for kind in kinds {
        let mut row = vec![Cell::new(kind)];
        for node in NODES {
            for winner in ["local", "remote", "merged"] {
                let of_kind = report.conflicts.iter().filter(|of| of.kind == kind);
                let counted = of_kind.filter(|of| of.node == node && of.winner == winner);
                let count = thousands(counted.map(|of| of.count).sum());
                row.push(Cell::new(count).set_alignment(CellAlignment::Right));
            }
        }
        table.add_row(row);
    }
    table
}

/// 1234567 as "1,234,567".
fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::TableComparison;

    fn direction(written: u64, applied: u64) -> Direction {
        Direction {
            origin: "a".into(),
            target: "b".into(),
            written_transactions: written,
            written_rows: written,
            deadlocks_of_clients: 0,
            applied_transactions: applied,
            applied_rows: applied,
            commits: 1,
            loops_prevented: 0,
            returned: 0,
            retries: 0,
            worst_lag_seconds: 0.0,
        }
    }

    fn comparison(equal: bool) -> Comparison {
        Comparison {
            equal,
            tables: vec![TableComparison {
                database: "shop".into(),
                table: "stock".into(),
                equal,
                rows: (Some(1200), Some(1200)),
                checksums: Some((1, if equal { 1 } else { 2 })),
                ms: 3,
                problem: None,
                differences: Vec::new(),
                more_differences: false,
            }],
            ms: 3,
        }
    }

    #[test]
    fn only_equal_tables_and_equal_counts_are_success() {
        assert!(failures(&[direction(7, 7)], &comparison(true)).is_empty());
        for (written, applied, equal, says) in [
            (7, 7, false, "shop.stock differs"),
            (7, 6, true, "6 were applied"),
            (0, 0, true, "nothing was written"),
        ] {
            let found = failures(&[direction(written, applied)], &comparison(equal));
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].contains(says), "{found:?}");
        }
    }

    #[test]
    fn the_last_line_is_the_verdict() {
        let report = |equal| {
            let (directions, comparison) = (vec![direction(7, 7)], comparison(equal));
            let failures = failures(&directions, &comparison);
            Report {
                ok: failures.is_empty(),
                server: ServerKind::MySql,
                version: "9.7".into(),
                seconds: 1.0,
                drain_seconds: 0.1,
                directions,
                conflicts: Vec::new(),
                counter: Counter {
                    increments: 5,
                    counted: [5, 5],
                },
                comparison,
                failures,
            }
        };
        let last = |equal| {
            let text = describe(&report(equal)).unwrap();
            text.lines().last().unwrap().to_owned()
        };
        assert_eq!(
            last(true),
            "EQUAL: 1 tables with 1,200 rows are identical on both mysql 9.7 masters"
        );
        assert!(last(false).starts_with("NOT EQUAL"));
    }

    #[test]
    fn thousands_are_grouped() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_234_567), "1,234,567");
    }
}
