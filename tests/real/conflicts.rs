//! Concurrent writes are found by log order and settled the same way on both nodes.

use twinlog_cli::sandbox::ServerKind;
use twinlog_harness::{Pair, PairOptions};

const SCHEMA: &str = "CREATE DATABASE d; \
    CREATE TABLE d.t (id INT PRIMARY KEY, v INT, u INT UNIQUE); \
    INSERT INTO d.t VALUES (1, 0, 1), (2, 0, 2), (3, 0, 3)";

on_both!(
    the_later_write_of_a_row_wins,
    aba_is_a_conflict,
    the_later_claim_of_a_unique_value_wins,
    deletes_meet_updates,
    a_late_arrival_displaces_though_it_does_not_stand,
    concurrent_writes_of_an_unsigned_key,
);

/// Both nodes are written to while no engine runs; then both engines start and all drains.
async fn concurrently(kind: ServerKind, schema: &str, on_a: &str, on_b: &str) -> Pair {
    let mut pair = Pair::start(&PairOptions::new(kind), schema).await;
    pair.wait().await;
    pair.stop_engine(0).await;
    pair.stop_engine(1).await;
    pair.run(0, on_a).await;
    // The log of MariaDB has whole seconds: the second write is to be later by the clock too.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    pair.run(1, on_b).await;
    pair.start_engine(0).await;
    pair.start_engine(1).await;
    pair.wait().await;
    pair.assert_equal().await;
    pair.assert_no_loops();
    pair
}

async fn rows(pair: &Pair) -> Vec<(i32, i32, Option<i32>)> {
    pair.query(0, "SELECT id, v, u FROM d.t ORDER BY id").await
}

async fn the_later_write_of_a_row_wins(kind: ServerKind) {
    let pair = concurrently(
        kind,
        SCHEMA,
        "UPDATE d.t SET v = 1 WHERE id = 1; INSERT INTO d.t VALUES (10, 1, 10)",
        "UPDATE d.t SET v = 2 WHERE id = 1; INSERT INTO d.t VALUES (10, 2, NULL), (11, 2, 11)",
    )
    .await;
    let expected = [
        (1, 2, Some(1)),
        (2, 0, Some(2)),
        (3, 0, Some(3)),
        (10, 2, None),
        (11, 2, Some(11)),
    ];
    assert_eq!(rows(&pair).await, expected);
}

async fn aba_is_a_conflict(kind: ServerKind) {
    // Comparing images would find nothing wrong with b's row, and take a's write there.
    let pair = concurrently(
        kind,
        SCHEMA,
        "UPDATE d.t SET v = 9 WHERE id = 1",
        "UPDATE d.t SET v = 5 WHERE id = 1; UPDATE d.t SET v = 0 WHERE id = 1",
    )
    .await;
    assert_eq!(rows(&pair).await[0], (1, 0, Some(1)));
}

async fn the_later_claim_of_a_unique_value_wins(kind: ServerKind) {
    let pair = concurrently(
        kind,
        SCHEMA,
        "INSERT INTO d.t VALUES (10, 1, 77)",
        "INSERT INTO d.t VALUES (11, 2, 77)",
    )
    .await;
    assert_eq!(rows(&pair).await[3..], [(11, 2, Some(77))]);
}

async fn deletes_meet_updates(kind: ServerKind) {
    let pair = concurrently(
        kind,
        SCHEMA,
        "DELETE FROM d.t WHERE id = 1; UPDATE d.t SET v = 1 WHERE id = 2; DELETE FROM d.t WHERE id = 3",
        "UPDATE d.t SET v = 2 WHERE id = 1; DELETE FROM d.t WHERE id = 2; DELETE FROM d.t WHERE id = 3",
    )
    .await;
    assert_eq!(rows(&pair).await, [(1, 2, Some(1))]);
}

/// Design section 3.
async fn a_late_arrival_displaces_though_it_does_not_stand(kind: ServerKind) {
    let mut pair = Pair::start(&PairOptions::new(kind), SCHEMA).await;
    pair.wait().await;
    pair.stop_engine(0).await;
    pair.stop_engine(1).await;
    let second = std::time::Duration::from_millis(1100);
    pair.run(0, "INSERT INTO d.t VALUES (10, 1, 24)").await;
    tokio::time::sleep(second).await;
    pair.run(1, "UPDATE d.t SET v = 2, u = 24 WHERE id = 2").await;
    tokio::time::sleep(second).await;
    pair.run(0, "UPDATE d.t SET v = 3, u = 26 WHERE id = 2").await;
    pair.start_engine(0).await;
    pair.start_engine(1).await;
    pair.wait().await;
    pair.assert_equal().await;
    let expected = [(1, 0, Some(1)), (2, 3, Some(26)), (3, 0, Some(3))];
    assert_eq!(rows(&pair).await, expected);
}

/// A log without metadata does not say that a key is unsigned.
async fn concurrent_writes_of_an_unsigned_key(kind: ServerKind) {
    let mut options = PairOptions::new(kind);
    options.extra_args = vec![match kind {
        ServerKind::MariaDb => "--binlog-row-metadata=NO_LOG".to_owned(),
        ServerKind::MySql => "--binlog-row-metadata=MINIMAL".to_owned(),
    }];
    let mut pair = Pair::start(
        &options,
        "CREATE DATABASE d; CREATE TABLE d.u (id TINYINT UNSIGNED PRIMARY KEY, v INT); INSERT INTO d.u VALUES (200, 0)",
    )
    .await;
    pair.stop_engine(0).await;
    pair.stop_engine(1).await;
    pair.run(0, "UPDATE d.u SET v = 1").await;
    pair.run(1, "UPDATE d.u SET v = 2").await;
    pair.start_engine(0).await;
    pair.start_engine(1).await;
    pair.wait().await;
    pair.assert_equal().await;
}
