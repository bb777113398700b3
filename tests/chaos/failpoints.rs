//! The engine dies at each named place of the way, under load from both sides.

use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use twinlog_cli::sandbox::ServerKind;
use twinlog_engine::failpoint::{ALL, Failpoint};
use twinlog_harness::ledger::{self, Ledger, Outcome, Style};
use twinlog_harness::pair::PATIENCE;
use twinlog_harness::{Cluster, ClusterOptions};

use crate::{TWINLOG, number};

on_both!(
    dies_at_each_step_of_a_transaction,
    dies_at_each_step_of_a_definition,
);

/// Those that rows without conflicts come by, again and again.
fn ordinary(point: Failpoint) -> bool {
    !careful(point)
        && !matches!(
            point,
            Failpoint::IntentWritten
                | Failpoint::IntentCommitted
                | Failpoint::DefinitionSent
                | Failpoint::DefinitionRun
                | Failpoint::MarkerAlone
                | Failpoint::HugeWritten
                | Failpoint::Stopping
        )
}

/// Those that conflicts come by.
fn careful(point: Failpoint) -> bool {
    matches!(
        point,
        Failpoint::MarkerWritten
            | Failpoint::CarefulLocked
            | Failpoint::CarefulSettled
            | Failpoint::CarefulJournalled
            | Failpoint::CarefulCommitSent
            | Failpoint::CarefulCommitted
    )
}

async fn cluster(kind: ServerKind) -> Cluster {
    let mut options = ClusterOptions::new(kind);
    // Only engines die here.
    options.durable = false;
    // Small groups: what has piled up while an engine was dead is applied in lanes.
    options.replication = format!("group_transactions = 4\n{}", ledger::RULES);
    Cluster::start(TWINLOG, &options, ledger::SCHEMA).await
}

/// Waits until the engine of `node` has died at its failpoint.
async fn dies(cluster: &mut Cluster, node: usize, failpoint: &str) {
    let Some(status) = cluster.ended_within(node, PATIENCE).await else {
        panic!("{failpoint} was not reached: {}", cluster.log(node));
    };
    assert_eq!(
        status.signal(),
        Some(Signal::SIGABRT as i32),
        "{failpoint}: {status}: {}",
        cluster.log(node)
    );
}

async fn dies_at_each_step_of_a_transaction(kind: ServerKind) {
    let seed = number("TWINLOG_CHAOS_SEED").unwrap_or_else(rand::random);
    println!("seed: TWINLOG_CHAOS_SEED={seed}");
    let mut cluster = cluster(kind).await;
    for node in [0, 1] {
        cluster.start_engine(node, None);
    }
    let mut style = Style {
        clients: 2,
        totals: 0,
        hot: 0,
        pause: Duration::from_millis(10),
    };
    let only = std::env::var("TWINLOG_CHAOS_POINT").ok();
    let wanted = |name: &str| only.as_ref().is_none_or(|only| only == name);
    let mut kills = 0;
    let points = ALL
        .iter()
        .filter(|(point, name)| (ordinary(*point) || careful(*point)) && wanted(name));
    for (index, (point, name)) in points.enumerate() {
        let node = index % 2;
        if careful(*point) {
            (style.totals, style.hot) = (5, 4);
        }
        let load = Ledger::start(&cluster.servers, style, seed);
        // At once, and with something done before.
        for nth in [1, 5] {
            let nth = if *point == Failpoint::Claimed { 1 } else { nth };
            let failpoint = format!("{name}:{nth}");
            cluster.kill_engine(node);
            cluster.start_engine(node, Some(&failpoint));
            dies(&mut cluster, node, &failpoint).await;
            kills += 1;
        }
        cluster.start_engine(node, None);
        load.go_on_for(20).await;
        settled(&cluster, load, name).await;
    }
    // Asked to stop, it dies as it says goodbye.
    cluster.kill_engine(0);
    let from = cluster.log_length(0);
    cluster.start_engine(0, Some("stopping"));
    cluster.says(0, from, "the link runs").await;
    let engine = cluster.engines[0].as_ref().unwrap().id();
    kill(
        Pid::from_raw(i32::try_from(engine).unwrap()),
        Signal::SIGTERM,
    )
    .unwrap();
    dies(&mut cluster, 0, "stopping").await;
    // The marker is moved without rows once another file of the log lies behind it.
    cluster.start_engine(0, Some("marker-alone"));
    let begun = Instant::now();
    while cluster
        .ended_within(0, Duration::from_millis(200))
        .await
        .is_none()
    {
        assert!(begun.elapsed() < PATIENCE, "{}", cluster.log(0));
        cluster.run(1, "FLUSH BINARY LOGS").await;
    }
    cluster.start_engine(0, None);
    let load = Ledger::start(&cluster.servers, style, seed);
    load.go_on_for(20).await;
    let outcome = settled(&cluster, load, "marker-alone").await;
    println!("{kind}: {} kills, {outcome:?}", kills + 2);
    assert!(
        outcome.transactions > 100 && outcome.prefixes_seen > 0,
        "{outcome:?}"
    );
}

/// Ends the load and proves that all of it took effect once at each node.
async fn settled(cluster: &Cluster, load: Ledger, name: &str) -> Outcome {
    let load = load.finish().await;
    cluster.wait_for(PATIENCE).await;
    let outcome = load.settle(&cluster.servers, [0, 0]).await;
    assert_eq!(
        (outcome.lost, outcome.doubled),
        (0, 0),
        "{name}: {outcome:?}"
    );
    cluster.assert_equal().await;
    outcome
}

/// Statements that are run once or not at all; rows stand between them, so that each has something
/// to lose.
const DEFINITIONS: [&str; 5] = [
    "CREATE TABLE d.made (id INT AUTO_INCREMENT PRIMARY KEY, v INT)",
    "ALTER TABLE d.made ADD COLUMN w INT DEFAULT 5",
    "TRUNCATE TABLE d.made",
    "RENAME TABLE d.made TO d.renamed",
    "DROP TABLE d.renamed",
];

async fn dies_at_each_step_of_a_definition(kind: ServerKind) {
    let seed = number("TWINLOG_CHAOS_SEED").unwrap_or_else(rand::random);
    println!("seed: TWINLOG_CHAOS_SEED={seed}");
    let mut cluster = cluster(kind).await;
    let style = Style {
        clients: 1,
        totals: 4,
        hot: 0,
        pause: Duration::from_millis(5),
    };
    let load = Ledger::start(&cluster.servers, style, seed);
    for node in [0, 1] {
        cluster.start_engine(node, None);
    }
    let mut besides = [0; 2];
    for (round, point) in [
        Failpoint::IntentWritten,
        Failpoint::IntentCommitted,
        Failpoint::DefinitionSent,
        Failpoint::DefinitionRun,
    ]
    .into_iter()
    .enumerate()
    {
        let (_, name) = ALL.iter().find(|(known, _)| *known == point).unwrap();
        let (node, other) = (round % 2, 1 - round % 2);
        for definition in DEFINITIONS {
            cluster.kill_engine(node);
            cluster.start_engine(node, Some(name));
            cluster.run(other, definition).await;
            besides[other] += 1;
            if !definition.starts_with("DROP") && !definition.starts_with("RENAME") {
                cluster
                    .run(other, "INSERT INTO d.made (v) VALUES (1), (2), (3)")
                    .await;
                besides[other] += 1;
            }
            dies(&mut cluster, node, name).await;
            cluster.start_engine(node, None);
            load.go_on_for(5).await;
            cluster.wait_for(PATIENCE).await;
        }
    }
    let load = load.finish().await;
    cluster.wait_for(PATIENCE).await;
    let outcome = load.settle(&cluster.servers, besides).await;
    println!("{kind}: {outcome:?}");
    assert_eq!((outcome.lost, outcome.doubled), (0, 0), "{outcome:?}");
    cluster.assert_equal().await;
}
