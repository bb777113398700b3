//! The engine's own store is deleted, truncated, flipped, kept from being written: it is moved aside
//! and made anew, or refused with the reason, and never believed over the marker row. And two engines
//! for one node.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use twinlog_cli::sandbox::ServerKind;
use twinlog_harness::ledger::{self, Ledger, Style};
use twinlog_harness::pair::PATIENCE;
use twinlog_harness::{Cluster, ClusterOptions};

use crate::{TWINLOG, number};

on_both!(
    a_damaged_store_is_not_believed,
    a_store_that_cannot_be_written,
    a_stale_engine_is_fenced,
);

const STYLE: Style = Style {
    clients: 1,
    totals: 4,
    hot: 0,
    pause: Duration::from_millis(10),
};

async fn started(kind: ServerKind) -> (Cluster, Ledger) {
    let mut options = ClusterOptions::new(kind);
    options.durable = false;
    options.replication = ledger::RULES.to_owned();
    let mut cluster = Cluster::start(TWINLOG, &options, ledger::SCHEMA).await;
    for node in [0, 1] {
        cluster.start_engine(node, None);
    }
    let load = Ledger::start(&cluster.servers, STYLE, 1);
    (cluster, load)
}

async fn account(cluster: &Cluster, load: Ledger) {
    let load = load.finish().await;
    cluster.wait_for(PATIENCE).await;
    let outcome = load.settle(&cluster.servers, [0, 0]).await;
    assert_eq!((outcome.lost, outcome.doubled), (0, 0), "{outcome:?}");
    cluster.assert_equal().await;
}

/// The files of a store, largest first.
fn files(store: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(store)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    files.sort_by_key(|path| std::cmp::Reverse(std::fs::metadata(path).unwrap().len()));
    files
}

async fn a_damaged_store_is_not_believed(kind: ServerKind) {
    let seed = number("TWINLOG_CHAOS_SEED").unwrap_or_else(rand::random);
    println!("seed: TWINLOG_CHAOS_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (mut cluster, load) = started(kind).await;
    let store = cluster.folder().join("data/b/positions");
    let mut moved = 0;
    for round in 0..12 {
        load.go_on_for(20).await;
        // sled writes its memory out twice a second.
        tokio::time::sleep(Duration::from_millis(random.random_range(0..600))).await;
        cluster.kill_engine(1);
        let what = match round {
            0 => {
                std::fs::remove_dir_all(&store).unwrap();
                "deleted"
            }
            _ => {
                let files = files(&store);
                let file = &files[round % files.len().min(2)];
                let mut bytes = std::fs::read(file).unwrap();
                if round < 5 {
                    bytes.truncate(random.random_range(0..bytes.len().max(1)));
                } else {
                    for _ in 0..random.random_range(1..40) {
                        // Where something is written, mostly.
                        let end = bytes.len().min(1 << random.random_range(4..20));
                        let place = random.random_range(0..end.max(1));
                        if let Some(byte) = bytes.get_mut(place) {
                            *byte ^= 1 << random.random_range(0..8);
                        }
                    }
                }
                std::fs::write(file, bytes).unwrap();
                if round < 5 { "truncated" } else { "flipped" }
            }
        };
        let from = cluster.log_length(1);
        cluster.start_engine(1, None);
        let line = cluster.says(1, from, "the link runs").await;
        if what == "deleted" {
            assert!(line.contains("by the marker row"), "{what}: {line}");
        }
        let log = cluster.log(1);
        moved += usize::from(log.contains("moved aside"));
        cluster.wait_for(PATIENCE).await;
    }
    println!("{kind}: moved aside {moved} times");
    assert!(moved > 0);
    account(&cluster, load).await;
}

/// A folder that cannot be made or written to: refused with the reason.
async fn a_store_that_cannot_be_written(kind: ServerKind) {
    let (mut cluster, load) = started(kind).await;
    load.go_on_for(20).await;
    cluster.kill_engine(1);
    let store = cluster.folder().join("data/b");
    // Root may write anywhere, so a file stands in its way.
    std::fs::rename(&store, cluster.folder().join("kept")).unwrap();
    std::fs::write(&store, "").unwrap();
    let from = cluster.log_length(1);
    cluster.start_engine(1, None);
    let status = cluster.ended(1).await;
    assert_eq!(status.code(), Some(1));
    let log = cluster.log(1);
    assert!(
        log.contains("cannot make the folder") && log.contains("engine.data_dir"),
        "{log}"
    );
    assert!(cluster.log_length(1) > from);
    std::fs::remove_file(&store).unwrap();
    std::fs::rename(cluster.folder().join("kept"), &store).unwrap();
    cluster.start_engine(1, None);
    account(&cluster, load).await;
}

/// An engine that was stopped in its tracks wakes after another one has taken its node over. It was
/// within an apply transaction, with the marker row and a client's row locked.
async fn a_stale_engine_is_fenced(kind: ServerKind) {
    use mysql_async::prelude::Queryable as _;
    let (mut cluster, load) = started(kind).await;
    cluster.says(1, 0, "the link runs").await;
    load.go_on_for(20).await;
    // A client of b keeps a row that the engine of b is to write, so that it waits within the
    // transaction.
    let mut client = cluster.servers[1].connect().await.unwrap();
    client
        .query_drop("BEGIN; SELECT n FROM d.total FOR UPDATE")
        .await
        .unwrap();
    let stale = cluster.engines[1].take().unwrap();
    let pid = Pid::from_raw(i32::try_from(stale.id()).unwrap());
    let held = async || {
        let free = "SELECT epoch FROM twinlog.marker FOR UPDATE SKIP LOCKED";
        cluster.query::<u64>(1, free).await.is_empty()
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        kill(pid, Signal::SIGSTOP).unwrap();
        // A COMMIT may be on its way.
        let before = held().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        if before && held().await {
            break;
        }
        kill(pid, Signal::SIGCONT).unwrap();
        assert!(Instant::now() < deadline, "the engine does not wait");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    client.query_drop("ROLLBACK").await.unwrap();
    assert!(held().await, "the stale engine has the marker row");
    // Its host is gone, as far as anyone knows; another one starts with a folder of its own.
    let config = cluster.folder().join("b.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("/data\"", "/other\"")).unwrap();
    let from = cluster.log_length(1);
    cluster.start_engine(1, None);
    let refused = cluster.ended(1).await;
    assert_eq!(refused.code(), Some(1));
    let line = cluster
        .says(1, from, "another engine is running for node b")
        .await;
    let connection = line.split("(connection ").nth(1).unwrap();
    let connection = connection.split(' ').next().unwrap();
    // As the message says.
    cluster.run(1, &format!("KILL {connection}")).await;
    let from = cluster.log_length(1);
    cluster.start_engine(1, None);
    cluster.says(1, from, "the link runs").await;
    let log = cluster.log(1);
    assert!(!log.contains("Lock wait timeout"), "{log}");
    load.go_on_for(20).await;
    let from = cluster.log_length(1);
    kill(pid, Signal::SIGCONT).unwrap();
    let fresh = cluster.engines[1].replace(stale);
    let ended = cluster.ended(1).await;
    assert_eq!(ended.code(), Some(1), "{}", cluster.log(1));
    cluster.says(1, from, "fenced").await;
    cluster.engines[1] = fresh;
    account(&cluster, load).await;
}
