//! A handful of hot rows, hammered by several clients of both nodes at once with everything that
//! collides, engines killed in the midst. Both nodes must hold the same rows afterwards.
//!
//! `TWINLOG_HOT_SECONDS` makes it longer, `TWINLOG_HOT_SEED` repeats a run's choices (the servers'
//! timing differs all the same).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use twinlog_cli::sandbox::ServerKind;
use twinlog_engine::status::State;
use twinlog_harness::pair::PATIENCE;
use twinlog_harness::{Pair, PairOptions};

/// Clients of each node.
const CLIENTS: usize = 3;
/// Row keys, and values of each unique key.
const KEYS: i64 = 8;

const SCHEMA: &str = "CREATE DATABASE d; \
    CREATE TABLE d.t (id INT PRIMARY KEY, v BIGINT, u INT, w INT, UNIQUE KEY (u), UNIQUE KEY (w)); \
    CREATE TABLE d.s (name VARCHAR(20) CHARACTER SET utf8mb4 PRIMARY KEY, v BIGINT); \
    CREATE TABLE d.p (id INT PRIMARY KEY, v BIGINT); \
    CREATE TABLE d.c (id INT PRIMARY KEY, p INT, v BIGINT, FOREIGN KEY (p) REFERENCES d.p (id) ON DELETE CASCADE)";

on_both!(everything_collides);

async fn everything_collides(kind: ServerKind) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seed = number("TWINLOG_HOT_SEED").unwrap_or_else(rand::random);
    let seconds = number("TWINLOG_HOT_SECONDS").unwrap_or(8);
    println!("seed: TWINLOG_HOT_SEED={seed}");
    let mut options = PairOptions::new(kind);
    if u64::is_multiple_of(seed, 2) {
        // What piles up is tried in lanes.
        options.replication = "group_transactions = 8\napply_connections = 3".to_owned();
    }
    if seed % 3 == 0 {
        options.replication.push_str("\nrow_events = \"always\"");
    }
    let mut pair = Pair::start(&options, SCHEMA).await;
    pair.wait().await;
    let stop = Arc::new(AtomicBool::new(false));
    let written = Arc::new(AtomicU64::new(0));
    let mut clients = Vec::new();
    for node in [0, 1] {
        for client in 0..CLIENTS {
            let opts = pair.servers[node].opts();
            let random = StdRng::seed_from_u64(seed ^ ((node * CLIENTS + client) as u64) << 32);
            let (stop, written) = (Arc::clone(&stop), Arc::clone(&written));
            clients.push(tokio::spawn(hammer(opts, random, stop, written)));
        }
    }
    let begun = Instant::now();
    let mut random = StdRng::seed_from_u64(seed);
    let mut kills = 0;
    while begun.elapsed() < Duration::from_secs(seconds) {
        // How long an engine lives is part of what is tried out.
        tokio::time::sleep(Duration::from_millis(random.random_range(200..3000))).await;
        let node = random.random_range(0..2);
        pair.kill_engine(node).await;
        kills += 1;
        for link in pair.links() {
            assert_ne!(link.state, State::Halted, "{link:#?}");
        }
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    // The clients write faster than conflicts are settled: the longer they wrote, the more waits.
    pair.wait_for(PATIENCE + 2 * begun.elapsed()).await;
    pair.assert_equal().await;
    pair.assert_no_loops();
    for node in [0, 1] {
        let kinds: Vec<(String, String, i64)> = pair
            .query(
                node,
                "SELECT kind, winner, COUNT(*) FROM twinlog.conflict GROUP BY 1, 2 ORDER BY 1, 2",
            )
            .await;
        println!("journal of node {node}: {kinds:?}");
        assert!(
            kinds.iter().all(|(kind, _, _)| !kind.starts_with("drift")),
            "{kinds:?}"
        );
    }
    let written = written.load(Ordering::Relaxed);
    println!("{kind:?}: {written} transactions, {kills} engines killed");
    assert!(written > 500, "{written}");
}

async fn hammer(
    opts: mysql_async::Opts,
    mut random: StdRng,
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
) {
    let mut conn = mysql_async::Conn::new(opts).await.unwrap();
    while !stop.load(Ordering::Relaxed) {
        conn.query_drop("BEGIN").await.unwrap();
        let mut failed = false;
        for _ in 0..random.random_range(1..4) {
            if let Err(error) = conn.query_drop(statement(&mut random)).await {
                let mysql_async::Error::Server(server) = &error else {
                    panic!("{error}");
                };
                // Duplicate keys, deadlocks and lock timeouts are what clients meet.
                assert!(
                    matches!(server.code, 1062 | 1213 | 1205 | 1020 | 1452),
                    "{error}"
                );
                failed = !matches!(server.code, 1062 | 1452);
                if failed {
                    break;
                }
            }
        }
        let end = if failed { "ROLLBACK" } else { "COMMIT" };
        conn.query_drop(end).await.unwrap();
        if !failed {
            written.fetch_add(1, Ordering::Relaxed);
        }
    }
    conn.disconnect().await.unwrap();
}

fn statement(random: &mut StdRng) -> String {
    let id = random.random_range(1..=KEYS);
    let other = random.random_range(1..=KEYS);
    let v: u32 = random.random();
    let mut unique = || match random.random_range(0..=KEYS) {
        0 => "NULL".to_owned(),
        value => value.to_string(),
    };
    let (u, w) = (unique(), unique());
    match random.random_range(0..17) {
        0..3 => format!("INSERT INTO d.t VALUES ({id}, {v}, {u}, {w})"),
        3..5 => format!("UPDATE d.t SET v = {v} WHERE id = {id}"),
        5 => format!("UPDATE d.t SET u = {u} WHERE id = {id}"),
        6 => format!("UPDATE d.t SET u = {u}, w = {w}, v = {v} WHERE id = {id}"),
        7 => format!("DELETE FROM d.t WHERE id = {id}"),
        8 => format!("UPDATE d.t SET id = {other} WHERE id = {id}"),
        // Two rows swap a value through NULL.
        9 => format!(
            "UPDATE d.t SET u = IF(id = {id}, NULL, {id}) WHERE id IN ({id}, {other}) ORDER BY id = {other}"
        ),
        10 => format!(
            "REPLACE INTO d.s VALUES ('{}', {v})",
            ["a", "B", "c ", "d", "A", "b", "c", "D "][id as usize % 8]
        ),
        11 => format!("INSERT INTO d.p VALUES ({id}, {v})"),
        12 => format!("UPDATE d.p SET v = {v} WHERE id = {id}"),
        13 => format!("DELETE FROM d.p WHERE id = {id}"),
        14 => format!("INSERT INTO d.c VALUES ({other}, {id}, {v})"),
        15 => format!("UPDATE d.c SET p = {id}, v = {v} WHERE id = {other}"),
        _ => format!(
            "DELETE FROM d.s WHERE name = '{}'",
            ["a", "b", "c", "d"][id as usize % 4]
        ),
    }
}
