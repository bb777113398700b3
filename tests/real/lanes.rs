//! What has piled up is applied by several connections beside each other: in the origin's order all the
//! same, each transaction once, and with conflicts found.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable as _;
use twinlog_cli::sandbox::ServerKind;
use twinlog_engine::init;
use twinlog_harness::pair::PATIENCE;
use twinlog_harness::{Pair, PairOptions};

/// Transactions of the backlog.
const BACKLOG: u64 = 600;

const SCHEMA: &str = "CREATE DATABASE d; \
    CREATE TABLE d.trail (n INT PRIMARY KEY); \
    CREATE TABLE d.counted (id INT PRIMARY KEY, v BIGINT NOT NULL); \
    CREATE TABLE d.swapped (id INT PRIMARY KEY, u INT UNIQUE, w INT UNIQUE, v INT); \
    CREATE TABLE d.once (id INT PRIMARY KEY, v INT); \
    CREATE TABLE d.parent (id INT PRIMARY KEY, v INT); \
    CREATE TABLE d.child (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES d.parent (id)); \
    INSERT INTO d.counted VALUES (1, 0), (2, 0), (3, 0); \
    INSERT INTO d.once VALUES (1, 0); \
    INSERT INTO d.swapped VALUES (1, 1, 1, 0), (2, 2, 2, 0), (3, 3, 3, 0)";

on_both!(
    a_backlog_keeps_its_order,
    a_backlog_meets_local_writes,
    a_client_writes_while_a_lane_waits_for_its_row,
);

/// Servers that are set up, and no engine yet.
async fn servers(kind: ServerKind) -> Pair {
    let mut options = PairOptions::new(kind);
    options.replication = "group_transactions = 7\napply_connections = 3".to_owned();
    let pair = Pair::servers(&options).await;
    pair.both(SCHEMA).await;
    init::init(&pair.config, false).await.unwrap();
    pair
}

/// Likewise, with a backlog at a.
async fn backlog(kind: ServerKind) -> Pair {
    let pair = servers(kind).await;
    let mut conn = mysql_async::Conn::new(pair.servers[0].opts())
        .await
        .unwrap();
    for n in 1..=BACKLOG {
        let row = n % 3 + 1;
        let more = match n % 4 {
            0 => format!("INSERT INTO d.swapped VALUES ({}, {0}, {0}, {n})", n + 10),
            1 => format!("UPDATE d.swapped SET u = NULL, v = {n} WHERE id = {row}"),
            2 => format!("UPDATE d.swapped SET u = {row}, w = {row}, v = {n} WHERE id = {row}"),
            _ => format!(
                "INSERT INTO d.parent VALUES ({n}, 0); INSERT INTO d.child VALUES ({n}, {n})"
            ),
        };
        conn.query_drop(format!(
            "BEGIN; INSERT INTO d.trail VALUES ({n}); UPDATE d.counted SET v = v + 1 WHERE id = {row}; \
             {more}; COMMIT"
        ))
        .await
        .unwrap();
    }
    conn.disconnect().await.unwrap();
    pair
}

async fn a_backlog_keeps_its_order(kind: ServerKind) {
    let mut pair = backlog(kind).await;
    let stop = Arc::new(AtomicBool::new(false));
    let looks = Arc::new(AtomicU64::new(0));
    let watching = tokio::spawn({
        let (stop, looks) = (Arc::clone(&stop), Arc::clone(&looks));
        let opts = pair.servers[1].opts();
        async move {
            let mut conn = mysql_async::Conn::new(opts).await.unwrap();
            while !stop.load(Ordering::Relaxed) {
                // One statement sees one state.
                let sql = "SELECT COUNT(*), COALESCE(MAX(n), 0), (SELECT CAST(SUM(v) AS UNSIGNED) FROM \
                           d.counted) FROM d.trail";
                let seen: Option<(u64, u64, u64)> = conn.query_first(sql).await.unwrap();
                let (rows, last, counted) = seen.unwrap();
                assert_eq!((rows, last), (counted, counted), "not a prefix");
                if rows > 0 && rows < BACKLOG {
                    looks.fetch_add(1, Ordering::Relaxed);
                }
            }
            conn.disconnect().await.unwrap();
        }
    });
    pair.start_engine(1).await;
    pair.start_engine(0).await;
    pair.wait().await;
    stop.store(true, Ordering::Relaxed);
    watching.await.unwrap();
    pair.assert_equal().await;
    pair.assert_no_loops();
    let link = pair.link_to(1);
    assert_eq!(link.applied_transactions, BACKLOG, "{link:#?}");
    // Neighbours of unique values are locked as well: now and then a group gives way.
    assert!(link.beside > 20 && link.gave_way < 10, "{link:#?}");
    assert!(looks.load(Ordering::Relaxed) > 0, "nobody looked on");
    // And over a stop: positions stand behind what was applied, and nothing comes again.
    pair.kill_engine(1).await;
    pair.run(0, "INSERT INTO d.trail VALUES (100000)").await;
    pair.wait().await;
    pair.assert_equal().await;
    assert_eq!(pair.link_to(1).applied_transactions, BACKLOG + 1);
}

async fn a_backlog_meets_local_writes(kind: ServerKind) {
    let mut pair = backlog(kind).await;
    // Concurrent with the backlog.
    pair.run(1, "UPDATE d.counted SET v = -5 WHERE id = 2")
        .await;
    pair.run(1, "DELETE FROM d.swapped WHERE id = 3").await;
    pair.run(1, "INSERT INTO d.trail VALUES (400)").await;
    pair.start_engine(0).await;
    pair.start_engine(1).await;
    pair.wait().await;
    pair.assert_equal().await;
    let link = pair.link_to(1);
    assert!(link.beside > 0 && link.gave_way > 0, "{link:#?}");
    assert!(!link.conflicts.is_empty(), "{link:#?}");
}

/// The client's write was not there when the group was looked at, and the group finds it by the guard alone.
async fn a_client_writes_while_a_lane_waits_for_its_row(kind: ServerKind) {
    let mut pair = servers(kind).await;
    let mut origin = pair.servers[0].connect().await.unwrap();
    for n in 1..=100 {
        let row = if n == 50 { "1" } else { "0" };
        let sql = format!(
            "BEGIN; INSERT INTO d.trail VALUES ({n}); UPDATE d.once SET v = 1 WHERE id = {row}; COMMIT"
        );
        origin.query_drop(sql).await.unwrap();
    }
    let mut client = pair.servers[1].connect().await.unwrap();
    let held = "BEGIN; UPDATE d.once SET v = 2 WHERE id = 1";
    client.query_drop(held).await.unwrap();
    pair.start_engine(1).await;
    pair.start_engine(0).await;
    // Each lane's connection has a lock of its own, by which it is known.
    let lanes: Vec<String> = (1..=3)
        .map(|lane| format!("IS_USED_LOCK('twinlog.apply.{lane}.a')"))
        .collect();
    let waiting = format!(
        "SELECT COUNT(*) FROM information_schema.INNODB_TRX WHERE trx_state = 'LOCK WAIT' AND \
         trx_mysql_thread_id IN ({})",
        lanes.join(", ")
    );
    let begun = Instant::now();
    while pair.query::<u64>(1, &waiting).await == [0] {
        assert!(begun.elapsed() < PATIENCE, "{:#?}", pair.link_to(1));
        // The servers keep what this table shows for as long as it is asked for within 100 ms.
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    client.query_drop("COMMIT").await.unwrap();
    pair.wait().await;
    pair.assert_equal().await;
    let link = pair.link_to(1);
    assert!(link.beside > 0 && link.gave_way > 0, "{link:#?}");
    for node in [0, 1] {
        let counted: u64 = pair.link_to(node).conflicts.iter().map(|of| of.count).sum();
        assert_eq!(counted, 1, "{:#?}", pair.link_to(node));
        let kinds = "SELECT kind FROM twinlog.conflict";
        let journal: Vec<String> = pair.query(node, kinds).await;
        assert_eq!(journal, ["update_origin_differs"]);
    }
}
