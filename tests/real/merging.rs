//! Rows that are brought together column by column.

use std::sync::Arc;

use mysql_async::prelude::Queryable;
use twinlog_cli::sandbox::ServerKind;
use twinlog_harness::{Pair, PairOptions};

on_both!(
    a_counter_counts_every_increment,
    columns_of_both_sides_are_kept,
    sums_and_bounds_of_every_kind,
    a_sum_out_of_range_halts,
);

const INCREMENTS: i64 = 10_000;
/// Clients of each node.
const CLIENTS: i64 = 2;

fn with_rule(kind: ServerKind, rule: &str) -> PairOptions {
    let mut options = PairOptions::new(kind);
    options.replication = rule.to_owned();
    options
}

/// 10,000 increments on each side at once, engines killed in the midst: 20,000.
async fn a_counter_counts_every_increment(kind: ServerKind) {
    let rule = "[[conflict]]\ntables = \"d.*\"\ncolumns = { n = \"delta\" }";
    let mut pair = Pair::start(
        &with_rule(kind, rule),
        "CREATE DATABASE d; CREATE TABLE d.counter (id INT PRIMARY KEY, n INT UNSIGNED NOT NULL, who CHAR(1)); \
         INSERT INTO d.counter VALUES (1, 0, '-')",
    )
    .await;
    pair.wait().await;
    let mut clients = Vec::new();
    for (node, who) in [(0, 'a'), (1, 'b')] {
        for _ in 0..CLIENTS {
            let opts = pair.servers[node].opts();
            clients.push(tokio::spawn(async move {
                let mut conn = mysql_async::Conn::new(opts).await.unwrap();
                conn.query_drop("SET SESSION innodb_lock_wait_timeout = 50")
                    .await
                    .unwrap();
                for _ in 0..INCREMENTS / CLIENTS {
                    let sql = format!("UPDATE d.counter SET n = n + 1, who = '{who}' WHERE id = 1");
                    // A deadlock with the engine took nothing.
                    while let Err(error) = conn.query_drop(&sql).await {
                        let code = match &error {
                            mysql_async::Error::Server(server) => server.code,
                            _ => 0,
                        };
                        assert!(matches!(code, 1213 | 1205 | 1020), "{error}");
                    }
                }
                conn.disconnect().await.unwrap();
            }));
        }
    }
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let written = {
        let stop = Arc::clone(&stop);
        tokio::spawn(async move {
            for client in clients {
                client.await.unwrap();
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        })
    };
    let mut node = 0;
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        tokio::time::sleep(std::time::Duration::from_millis(700)).await;
        pair.kill_engine(node).await;
        node = 1 - node;
    }
    written.await.unwrap();
    pair.wait().await;
    pair.assert_equal().await;
    let counted: Vec<i64> = pair.query(0, "SELECT n FROM d.counter").await;
    assert_eq!(counted, [2 * INCREMENTS]);
    let settled: Vec<i64> = pair.query(0, "SELECT COUNT(*) FROM twinlog.conflict").await;
    println!("{kind:?}: {settled:?} conflicts at a");
}

async fn concurrently(kind: ServerKind, rule: &str, schema: &str, on_a: &str, on_b: &str) -> Pair {
    let mut pair = Pair::start(&with_rule(kind, rule), schema).await;
    pair.wait().await;
    pair.stop_engine(0).await;
    pair.stop_engine(1).await;
    pair.run(0, on_a).await;
    pair.run(1, on_b).await;
    pair.start_engine(0).await;
    pair.start_engine(1).await;
    pair
}

async fn columns_of_both_sides_are_kept(kind: ServerKind) {
    let rule = "[[conflict]]\ntables = \"d.*\"\npolicy = \"column_merge\"";
    let pair = concurrently(
        kind,
        rule,
        "CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY, street VARCHAR(20), phone VARCHAR(20), f FLOAT, b BLOB); \
         INSERT INTO d.t VALUES (1, 'old', 'old', 0.1, x'00'), (2, 'old', 'old', 0, '')",
        "UPDATE d.t SET street = 'new' WHERE id = 1; UPDATE d.t SET f = 0.3 WHERE id = 1; UPDATE d.t SET street = 'x' WHERE id = 2",
        "UPDATE d.t SET phone = '555' WHERE id = 1; UPDATE d.t SET b = x'ff00' WHERE id = 1; DELETE FROM d.t WHERE id = 2",
    )
    .await;
    pair.wait().await;
    pair.assert_equal().await;
    let row: Vec<(String, String, f32, Vec<u8>)> = pair
        .query(0, "SELECT street, phone, f, b FROM d.t WHERE id = 1")
        .await;
    assert_eq!(
        row,
        [("new".to_owned(), "555".to_owned(), 0.3, vec![0xff, 0])]
    );
    let winners: Vec<(String, Option<String>)> = pair
        .query(0, "SELECT DISTINCT winner, CONVERT(LEFT(result_image, 1), CHAR) FROM twinlog.conflict WHERE kind = 'update_origin_differs'")
        .await;
    assert_eq!(winners, [("merged".to_owned(), Some("[".to_owned()))]);
}

async fn sums_and_bounds_of_every_kind(kind: ServerKind) {
    let rule = "[[conflict]]\ntables = \"d.t\"\ncolumns = { i = \"delta\", u = \"delta\", d = \"delta\", \
        top = \"max\", low = \"min\", at = \"max\", day = \"min\" }";
    let pair = concurrently(
        kind,
        rule,
        "CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY, i BIGINT, u TINYINT UNSIGNED, d DECIMAL(30,4), \
         top INT, low DECIMAL(6,2), at DATETIME(3), day DATE); \
         INSERT INTO d.t VALUES (1, -5, 200, 1.5, 7, 2.5, '2026-01-01 00:00:00', '2026-06-01')",
        "UPDATE d.t SET i = i - 10, u = u + 20, d = d + 12345678901234567890.0001, top = 9, low = 1.25, at = '2026-02-01 00:00:00.5', day = '2026-05-01'",
        "UPDATE d.t SET i = i + 3, u = u + 30, d = d - 0.5, top = 8, low = 2, at = '2026-01-15 00:00:00', day = '2026-04-01'; \
         UPDATE d.t SET u = u - 1",
    )
    .await;
    pair.wait().await;
    pair.assert_equal().await;
    let row: Vec<(i64, u8, String, i32, String, String, String)> = pair
        .query(0, "SELECT i, u, CAST(d AS CHAR), top, CAST(low AS CHAR), CAST(at AS CHAR), CAST(day AS CHAR) FROM d.t")
        .await;
    let text = str::to_owned;
    let expected = (
        -12,
        249,
        text("12345678901234567891.0001"),
        9,
        text("1.25"),
        text("2026-02-01 00:00:00.500"),
        text("2026-04-01"),
    );
    assert_eq!(row, [expected]);
}

/// What no column can hold is not cut off: the nodes would differ from then on.
async fn a_sum_out_of_range_halts(kind: ServerKind) {
    let rule = "[[conflict]]\ntables = \"d.t\"\ncolumns = { n = \"delta\" }";
    let pair = concurrently(
        kind,
        rule,
        "CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY, n TINYINT UNSIGNED); INSERT INTO d.t VALUES (1, 100)",
        "UPDATE d.t SET n = n + 100",
        "UPDATE d.t SET n = n + 90",
    )
    .await;
    for node in [0, 1] {
        let message = pair.halted(node).await;
        assert!(
            message.contains("d.t") && message.contains("column"),
            "{message}"
        );
    }
}
