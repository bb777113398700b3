//! Random kills of engines and servers and a network that breaks, under load from both sides with
//! writes that collide. `make chaos MINUTES=n [SEED=..]` makes it longer.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use twinlog_cli::sandbox::{Server, ServerKind};
use twinlog_engine::failpoint::{ALL, Failpoint};
use twinlog_harness::cluster::engine_command;
use twinlog_harness::ledger::{self, Ledger, Style};
use twinlog_harness::pair::PATIENCE;
use twinlog_harness::proxy::{Fault, Proxy};
use twinlog_harness::{Cluster, ClusterOptions};

use crate::{TWINLOG, number};

on_both!(storm);

/// How long the short version lasts, which runs with all tests.
const SECONDS: u64 = 30;

/// What was done to an engine, a server or the network, and how often.
type Counts = BTreeMap<&'static str, u64>;

async fn storm(kind: ServerKind) {
    let seed = number("TWINLOG_CHAOS_SEED").unwrap_or_else(rand::random);
    let seconds = number("TWINLOG_CHAOS_SECONDS").unwrap_or(SECONDS);
    println!("seed: TWINLOG_CHAOS_SEED={seed}");
    let mut options = ClusterOptions::new(kind);
    options.engine = "heartbeat = \"200ms\"".to_owned();
    // With small groups, what has piled up while an engine was dead is applied in lanes.
    let most = if seed.is_multiple_of(4) {
        5000
    } else {
        2 + seed % 15
    };
    let lanes = 1 + (seed >> 8) % 3;
    let row_events = if (seed >> 16).is_multiple_of(2) {
        "auto"
    } else {
        "always"
    };
    options.replication = format!(
        "group_transactions = {most}\napply_connections = {lanes}\nrow_events = {row_events:?}\n{}",
        ledger::RULES
    );
    let mut cluster = Cluster::start(TWINLOG, &options, ledger::SCHEMA).await;
    let style = Style {
        clients: 2,
        totals: 4,
        hot: 4,
        // Conflicts are settled more slowly than they can be made, the more so by engines that die.
        pause: Duration::from_millis(20),
    };
    let begun = Instant::now();
    let load = Ledger::start(&cluster.servers, style, seed);
    let end = begun + Duration::from_secs(seconds);
    let folder = cluster.folder().to_owned();
    let random = |stream: u64| StdRng::seed_from_u64(seed.wrapping_add(stream << 56));
    let Cluster {
        servers, proxies, ..
    } = &mut cluster;
    let (engines_a, engines_b, killed, broken) = tokio::join!(
        engines(&folder, 0, random(1), end),
        engines(&folder, 1, random(2), end),
        kill_servers(servers, random(3), end),
        break_network(proxies, random(4), end),
    );
    for proxy in proxies.iter().flatten() {
        proxy.set(Fault::None);
    }
    let load = load.finish().await;
    let written = begun.elapsed();
    for node in [0, 1] {
        cluster.start_engine(node, None);
    }
    cluster.wait_for(PATIENCE + 2 * written).await;
    let drained = begun.elapsed() - written;
    let outcome = load.settle(&cluster.servers, [0, 0]).await;
    let mut engines = engines_a;
    for (what, times) in engines_b {
        *engines.entry(what).or_default() += times;
    }
    let named = ALL.iter().filter_map(|(_, name)| engines.get(name));
    let named: u64 = named.sum();
    let at_random = engines.get("killed").copied().unwrap_or(0);
    println!(
        "{kind}: {} s of storm, seed {seed}, groups of {most}, {lanes} lanes, row events {row_events}\n  engines: {} killed, {named} of them at failpoints\n    \
         {engines:?}\n  servers: {killed:?}\n  network: {broken:?}\n  \
         drained in {:.1} s; {} transactions, lost {}, doubled {}; {} looks found whole prefixes",
        written.as_secs(),
        named + at_random,
        drained.as_secs_f64(),
        outcome.transactions,
        outcome.lost,
        outcome.doubled,
        outcome.prefixes_seen,
    );
    assert_eq!((outcome.lost, outcome.doubled), (0, 0), "{outcome:?}");
    cluster.assert_equal().await;
    println!("{kind}: tables equal");
    for name in ["a", "b"] {
        let log = std::fs::read_to_string(folder.join(format!("{name}.log"))).unwrap();
        for words in ["halted", "panicked", "internal:"] {
            let line = log.lines().find(|line| line.contains(words));
            assert_eq!(line, None, "log of engine {name}");
        }
    }
    assert!(outcome.transactions > 100, "{outcome:?}");
}

/// What this load does not come by: it has no DDL, no huge transactions and none that moves nothing
/// but the marker.
fn out_of_reach(point: Failpoint) -> bool {
    matches!(
        point,
        Failpoint::MarkerAlone
            | Failpoint::HugeWritten
            | Failpoint::IntentWritten
            | Failpoint::IntentCommitted
            | Failpoint::DefinitionSent
            | Failpoint::DefinitionRun
    )
}

/// Lets the engine of one node live for a moment, again and again: every other one is to die at a
/// failpoint, by whose name its death is counted, and is killed if it has not come by after a while.
pub(crate) async fn engines(
    folder: &Path,
    node: usize,
    mut random: StdRng,
    end: Instant,
) -> Counts {
    let mut counts = Counts::new();
    let points: Vec<(Failpoint, &str)> = ALL
        .into_iter()
        .filter(|(point, _)| !out_of_reach(*point))
        .collect();
    while Instant::now() < end {
        let mut command = engine_command(Path::new(TWINLOG), folder, node);
        let point = points[random.random_range(0..points.len())];
        let armed = Some(point).filter(|_| random.random_bool(0.5));
        if let Some((_, name)) = armed {
            let nth = match random.random_range(0..4) {
                0 | 1 => 1,
                2 => random.random_range(1..4),
                _ => random.random_range(1..20),
            };
            command.env(twinlog_engine::failpoint::VARIABLE, format!("{name}:{nth}"));
        }
        let mut engine = command.spawn().unwrap();
        let most = match armed {
            // The server may have to start first.
            Some(_) => 8000,
            // Now and then it lives long enough to work off what has piled up.
            None if random.random_bool(0.1) => 6000,
            None => 1500,
        };
        let least = if armed.is_some() { 3000 } else { 100 };
        let mut dies = Instant::now() + Duration::from_millis(random.random_range(least..most));
        let mut politely = random.random_bool(0.1);
        if matches!(armed, Some((Failpoint::Stopping, _))) {
            // Which is reached by being stopped.
            dies = Instant::now() + Duration::from_millis(random.random_range(300..2000));
            politely = true;
        }
        let what = loop {
            if let Some(status) = engine.try_wait().unwrap() {
                break match status.signal() {
                    Some(signal) if signal == Signal::SIGABRT as i32 => {
                        armed.map_or("died by itself", |(_, name)| name)
                    }
                    // As a service manager does.
                    _ => "ended by itself and was started again",
                };
            }
            if Instant::now() >= dies {
                if politely {
                    let id = Pid::from_raw(i32::try_from(engine.id()).unwrap());
                    kill(id, Signal::SIGTERM).unwrap();
                    tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
                    if let Some(status) = engine.try_wait().unwrap() {
                        break match (status.signal(), armed) {
                            (Some(_), Some((_, name))) => name,
                            _ => "stopped",
                        };
                    }
                }
                engine.kill().unwrap();
                engine.wait().unwrap();
                break "killed";
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        *counts.entry(what).or_default() += 1;
        if what.starts_with("ended") {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    counts
}

/// Kills one server or both, again and again.
pub(crate) async fn kill_servers(
    servers: &mut [Server; 2],
    mut random: StdRng,
    end: Instant,
) -> Counts {
    let mut counts = Counts::new();
    let mut took = Duration::ZERO;
    loop {
        // A server that takes long to start is killed as often as one that does not, and is up for a
        // moment all the same.
        let up = Duration::from_millis(random.random_range(500..1500));
        let apart = Duration::from_millis(random.random_range(500..6000));
        tokio::time::sleep(up.max(apart.saturating_sub(took))).await;
        if Instant::now() >= end {
            return counts;
        }
        let killed = Instant::now();
        let [a, b] = servers;
        let down = Duration::from_millis(random.random_range(0..500));
        match random.random_range(0..6) {
            0 | 1 => {
                tokio::join!(a.kill9(), b.kill9());
                tokio::time::sleep(down).await;
                let (a, b) = tokio::join!(a.start_again(), b.start_again());
                a.and(b).unwrap();
                *counts.entry("killed").or_default() += 2;
            }
            which => {
                let server = if which % 2 == 0 { a } else { b };
                server.kill9().await;
                tokio::time::sleep(down).await;
                server.start_again().await.unwrap();
                *counts.entry("killed").or_default() += 1;
            }
        }
        took = killed.elapsed();
    }
}

/// Breaks the way between one engine and one server, again and again; mostly that to the other node.
async fn break_network(proxies: &[[Proxy; 2]; 2], mut random: StdRng, end: Instant) -> Counts {
    let mut counts = Counts::new();
    loop {
        tokio::time::sleep(Duration::from_millis(random.random_range(200..2000))).await;
        if Instant::now() >= end {
            return counts;
        }
        let engine = random.random_range(0..2);
        let server = if random.random_bool(0.3) {
            engine
        } else {
            1 - engine
        };
        let proxy = &proxies[engine][server];
        let (what, fault) = match random.random_range(0..6) {
            0 => ("refused", Fault::Refuse),
            1 => ("black hole", Fault::BlackHole),
            2 => (
                "reset in mid packet",
                Fault::ResetAfter(random.random_range(1..3000)),
            ),
            3 => (
                "latency",
                Fault::Latency(Duration::from_millis(random.random_range(5..100))),
            ),
            4 => (
                "throttled",
                Fault::Throttle(random.random_range(2000..200_000)),
            ),
            _ => {
                proxy.half_open();
                *counts.entry("half open").or_default() += 1;
                continue;
            }
        };
        proxy.set(fault);
        *counts.entry(what).or_default() += 1;
        tokio::time::sleep(Duration::from_millis(random.random_range(100..2500))).await;
        proxy.set(Fault::None);
    }
}
