//! What a network does to two masters in two places. Both go on taking writes meanwhile; afterwards
//! what has piled up is applied.

use std::time::{Duration, Instant};

use twinlog_cli::sandbox::ServerKind;
use twinlog_harness::ledger::{self, Ledger, Style};
use twinlog_harness::pair::PATIENCE;
use twinlog_harness::proxy::Fault;
use twinlog_harness::{Cluster, ClusterOptions};

use crate::TWINLOG;

on_both!(the_network_breaks, a_slow_network_is_no_broken_one,);

/// As configured here.
const SILENCE: Duration = Duration::from_secs(2);

async fn started(kind: ServerKind) -> (Cluster, Ledger) {
    let mut options = ClusterOptions::new(kind);
    options.durable = false;
    options.engine = "heartbeat = \"200ms\"\nsilence = \"2s\"".to_owned();
    options.replication = ledger::RULES.to_owned();
    let mut cluster = Cluster::start(TWINLOG, &options, ledger::SCHEMA).await;
    let style = Style {
        clients: 1,
        totals: 3,
        hot: 2,
        pause: Duration::from_millis(20),
    };
    for node in [0, 1] {
        cluster.start_engine(node, None);
    }
    for node in [0, 1] {
        cluster.says(node, 0, "the link runs").await;
    }
    let load = Ledger::start(&cluster.servers, style, 1);
    (cluster, load)
}

async fn account(cluster: &Cluster, load: Ledger) {
    let load = load.finish().await;
    cluster.wait_for(PATIENCE).await;
    let outcome = load.settle(&cluster.servers, [0, 0]).await;
    assert_eq!((outcome.lost, outcome.doubled), (0, 0), "{outcome:?}");
    cluster.assert_equal().await;
    for node in [0, 1] {
        let log = cluster.log(node);
        assert!(
            !log.contains("halted") && !log.contains("panicked"),
            "{log}"
        );
    }
}

async fn the_network_breaks(kind: ServerKind) {
    let (cluster, load) = started(kind).await;
    // Engine b, to the other node and to its own.
    let (far, near) = (&cluster.proxies[1][0], &cluster.proxies[1][1]);

    // Unreachable: tried again and again, at growing intervals that end at `backoff_max`.
    let from = cluster.log_length(1);
    far.set(Fault::Refuse);
    cluster.says(1, from, "the link tries again").await;
    let down = Instant::now();
    load.go_on_for(100).await;
    let from = cluster.log_length(1);
    cluster.says(1, from, "the link tries again").await;
    assert!(down.elapsed() < PATIENCE);
    far.set(Fault::None);
    let line = cluster.says(1, from, "the link runs").await;
    assert!(line.contains("because="), "{line}");
    cluster.wait_for(PATIENCE).await;

    // Half open: the engine is not told. Heartbeats decide.
    for (proxy, words) in [
        (far, "silent for 2s, not even a heartbeat"),
        (near, "no answer within 2s"),
    ] {
        let from = cluster.log_length(1);
        let begun = Instant::now();
        proxy.half_open();
        cluster.says(1, from, words).await;
        let noticed = begun.elapsed();
        println!("{kind}: half open, noticed after {noticed:?}");
        // A machine that is busy may be late.
        assert!(noticed < 5 * SILENCE, "{noticed:?}");
        cluster.says(1, from, "the link runs").await;
        load.go_on_for(10).await;
        cluster.wait_for(PATIENCE).await;
    }

    // A black hole, for longer than silence is borne: packets pass again, to connections that nobody
    // waits for any more.
    let from = cluster.log_length(1);
    far.set(Fault::BlackHole);
    cluster.says(1, from, "the link tries again").await;
    load.go_on_for(50).await;
    far.set(Fault::None);
    cluster.says(1, from, "the link runs").await;
    cluster.wait_for(PATIENCE).await;

    // And for less: nobody notices.
    let from = cluster.log_length(1);
    far.set(Fault::BlackHole);
    tokio::time::sleep(SILENCE / 4).await;
    far.set(Fault::None);
    load.go_on_for(10).await;
    cluster.wait_for(PATIENCE).await;
    let noticed = cluster.log(1);
    let new = usize::try_from(cluster.log_length(1) - from).unwrap();
    let new = &noticed[noticed.len().saturating_sub(new)..];
    assert!(!new.contains("tries again"), "{new}");

    // Reset in mid packet.
    for bytes in [1, 3, 17, 61, 250, 1000, 5000] {
        for proxy in [far, near] {
            proxy.set(Fault::ResetAfter(bytes));
            load.go_on_for(5).await;
            proxy.set(Fault::None);
        }
        load.go_on_for(5).await;
    }
    account(&cluster, load).await;
}

async fn a_slow_network_is_no_broken_one(kind: ServerKind) {
    let (cluster, load) = started(kind).await;
    let from = [cluster.log_length(0), cluster.log_length(1)];
    for fault in [
        Fault::Latency(Duration::from_millis(100)),
        Fault::Throttle(60_000),
    ] {
        for engine in [0, 1] {
            cluster.proxies[engine][1 - engine].set(fault);
        }
        load.go_on_for(50).await;
        cluster.wait_for(PATIENCE).await;
    }
    for node in [0, 1] {
        assert_eq!(
            cluster.log_length(node),
            from[node],
            "{}",
            cluster.log(node)
        );
    }
    account(&cluster, load).await;
}
