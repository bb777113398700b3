//! A transaction that is applied from disk, by the real program: killed as it is about to commit it, and
//! asked to stop in the middle of it.

use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use twinlog_cli::sandbox::ServerKind;
use twinlog_harness::pair::PATIENCE;
use twinlog_harness::{Cluster, ClusterOptions};

use crate::TWINLOG;

on_both!(is_stopped_and_killed_within_a_huge_transaction,);

/// A transaction goes to disk from 2 MiB on.
const ENGINE: &str = "memory = \"64MiB\"\nshutdown_timeout = \"1s\"";

/// What the goodbye may take besides, as docs/operating.md has it; and a busy machine.
const GOODBYE: Duration = Duration::from_secs(3 + 4);

const SCHEMA: &str = "CREATE DATABASE d; USE d; \
    CREATE TABLE digit (n INT PRIMARY KEY); INSERT INTO digit VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9); \
    CREATE TABLE big (id INT PRIMARY KEY, n INT NOT NULL, pad VARCHAR(300) NOT NULL); \
    CREATE TABLE last (id INT PRIMARY KEY, n INT NOT NULL); INSERT INTO last VALUES (1, 0)";

/// 10,000 rows, and one that is written last.
const HUGE: &str = "USE d; BEGIN; \
    INSERT INTO big SELECT 10000 * @round + a.n + 10 * b.n + 100 * c.n + 1000 * e.n, 0, REPEAT('x', 250) \
    FROM digit a, digit b, digit c, digit e; UPDATE big SET n = n + 1; \
    UPDATE last SET n = n + 1; COMMIT";

async fn is_stopped_and_killed_within_a_huge_transaction(kind: ServerKind) {
    let mut options = ClusterOptions::new(kind);
    options.durable = false;
    options.engine = ENGINE.to_owned();
    let mut cluster = Cluster::start(TWINLOG, &options, SCHEMA).await;
    cluster.start_engine(0, None);

    // Killed with all of it written.
    cluster.start_engine(1, Some("huge-written"));
    cluster.run(0, &format!("SET @round = 0; {HUGE}")).await;
    let status = cluster.ended(1).await;
    assert_eq!(
        status.signal(),
        Some(Signal::SIGABRT as i32),
        "{}",
        cluster.log(1)
    );
    assert_eq!(there(&cluster).await, [(0, None)], "nothing of it");
    cluster.start_engine(1, None);
    cluster.wait_for(PATIENCE).await;
    assert_eq!(there(&cluster).await, [(10_000, Some(10_000))]);

    // Asked to stop while its last row is kept from it.
    let mut client = cluster.servers[1].connect().await.unwrap();
    client
        .query_drop("BEGIN; SELECT n FROM d.last FOR UPDATE")
        .await
        .unwrap();
    cluster.run(0, &format!("SET @round = 1; {HUGE}")).await;
    let waits =
        "SELECT trx_rows_modified FROM information_schema.INNODB_TRX WHERE trx_state = 'LOCK WAIT'";
    let begun = Instant::now();
    loop {
        let modified: Vec<u64> = cluster.query(1, waits).await;
        if modified.iter().any(|rows| *rows > 5000) {
            break;
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "{modified:?} {}",
            cluster.log(1)
        );
        // Asked more often than ten times a second, InnoDB gives the old answer.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let from = cluster.log_length(1);
    let engine = cluster.engines[1].as_ref().unwrap().id();
    let begun = Instant::now();
    kill(
        Pid::from_raw(i32::try_from(engine).unwrap()),
        Signal::SIGTERM,
    )
    .unwrap();
    let status = cluster.ended(1).await;
    let took = begun.elapsed();
    println!("{kind}: stopped after {took:?}");
    assert_eq!(status.code(), Some(0), "{}", cluster.log(1));
    assert!(took < Duration::from_secs(1) + GOODBYE, "{took:?}");
    cluster.says(1, from, "did not stop in time").await;
    assert_eq!(there(&cluster).await, [(10_000, Some(10_000))]);
    client.query_drop("ROLLBACK").await.unwrap();
    cluster.start_engine(1, None);
    cluster.wait_for(PATIENCE).await;
    // The rows of the first round were raised again by the second one.
    assert_eq!(there(&cluster).await, [(20_000, Some(30_000))]);
    cluster.assert_equal().await;
    let counted: Vec<u64> = cluster
        .query(1, "SELECT transactions FROM twinlog.marker")
        .await;
    assert_eq!(counted, [2]);
}

/// What is to be seen of it at node b.
async fn there(cluster: &Cluster) -> Vec<(i64, Option<i64>)> {
    cluster
        .query(1, "SELECT COUNT(*), CAST(SUM(n) AS SIGNED) FROM d.big")
        .await
}
