//! TRUNCATE against rows that its origin had not seen.

use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use twinlog_cli::sandbox::ServerKind;
use twinlog_engine::conflict::ledger::{self, Filter};
use twinlog_harness::{Pair, PairOptions};

on_both!(
    a_truncate_meets_rows,
    a_truncate_that_is_not_settled,
    truncates_under_load,
);

/// Who won of each row, as a node's journal has it: kind, row key, node.
async fn winners(pair: &Pair, node: usize) -> Vec<(String, String, String)> {
    let filter = Filter::default();
    let node = &pair.config.nodes[node];
    let entries = ledger::list(&pair.config, node, &filter).await.unwrap();
    let mut winners: Vec<_> = entries
        .iter()
        .map(|entry| (entry.kind.clone(), entry.key(), entry.winner_node.clone()))
        .collect();
    winners.sort();
    winners
}

/// TRUNCATE is a delete of every row that there may be: what was written here later than it stands on
/// both nodes, and what was written before goes on both; each is in both journals with one winner.
async fn a_truncate_meets_rows(kind: ServerKind) {
    let mut pair = Pair::start(
        &PairOptions::new(kind),
        "CREATE DATABASE d; \
         CREATE TABLE d.t (id VARCHAR(20) COLLATE utf8mb4_general_ci PRIMARY KEY, v INT, u INT UNIQUE); \
         INSERT INTO d.t VALUES ('one', 0, 1), ('two', 0, 2), ('three', 0, 3), ('four', 0, 4), ('five', 0, 5)",
    )
    .await;
    pair.wait().await;
    pair.stop_engine(0).await;
    pair.stop_engine(1).await;
    let second = Duration::from_millis(1100);
    pair.run(
        1,
        "INSERT INTO d.t VALUES ('early', 1, 101), ('both', 1, 102); UPDATE d.t SET v = 1 WHERE id = 'one'; \
         DELETE FROM d.t WHERE id = 'four'",
    )
    .await;
    tokio::time::sleep(second).await;
    pair.run(
        0,
        "TRUNCATE TABLE d.t; INSERT INTO d.t VALUES ('One', 2, 1), ('new', 2, 50)",
    )
    .await;
    tokio::time::sleep(second).await;
    pair.run(
        1,
        "UPDATE d.t SET v = 3 WHERE id = 'Two'; UPDATE d.t SET u = 99 WHERE id = 'both'; \
         INSERT INTO d.t VALUES ('late', 3, 50); DELETE FROM d.t WHERE id = 'five'",
    )
    .await;
    pair.start_engine(0).await;
    pair.start_engine(1).await;
    pair.wait().await;
    pair.assert_equal().await;
    pair.assert_no_loops();
    let rows: Vec<(String, i32, i32)> = pair.query(0, "SELECT id, v, u FROM d.t ORDER BY id").await;
    let row = |id: &str, v, u| (id.to_owned(), v, u);
    let expected = [
        row("both", 1, 99),
        row("late", 3, 50),
        row("One", 2, 1),
        row("two", 3, 2),
    ];
    assert_eq!(rows, expected);
    let at_b = winners(&pair, 1).await;
    let truncated = |entries: &[(String, String, String)]| {
        let truncated = entries.iter().filter(|entry| entry.0 == "truncate");
        truncated.cloned().collect::<Vec<_>>()
    };
    let said =
        |id: &str, node: &str| ("truncate".to_owned(), format!("id='{id}'"), node.to_owned());
    let expected = [
        said("both", "b"),
        said("early", "a"),
        said("five", "b"),
        said("four", "a"),
        said("late", "b"),
        said("one", "a"),
        said("two", "b"),
    ];
    assert_eq!(truncated(&at_b), expected);
    let at_a = winners(&pair, 0).await;
    for entry in truncated(&at_a) {
        // The write that 'both' came by was settled too, before the later one.
        let known = expected.contains(&entry) || entry == said("both", "a");
        assert!(known, "{entry:?}: {at_a:?}");
    }
    for id in ["both", "early", "two"] {
        let entry = expected.iter().find(|entry| entry.1.contains(id)).unwrap();
        assert!(at_a.contains(entry), "{entry:?}: {at_a:?}");
    }
    // What was lost is taken back as any other.
    let node = &pair.config.nodes[1];
    let entries = ledger::list(&pair.config, node, &Filter::default())
        .await
        .unwrap();
    let early = entries
        .iter()
        .find(|entry| entry.key() == "id='early'")
        .unwrap();
    ledger::flip(node, early, true, false).await.unwrap();
    pair.wait().await;
    pair.assert_equal().await;
    let back: Vec<i32> = pair.query(0, "SELECT u FROM d.t WHERE id = 'early'").await;
    assert_eq!(back, [101]);
}

/// Where rows come to more than their own writes, a TRUNCATE that meets them stops both links, and both
/// journals say so, once.
async fn a_truncate_that_is_not_settled(kind: ServerKind) {
    let mut options = PairOptions::new(kind);
    options.replication = "[[conflict]]\ntables = \"d.m\"\ncolumns = { n = \"delta\" }".to_owned();
    let mut pair = Pair::start(
        &options,
        "CREATE DATABASE d; CREATE TABLE d.m (id INT PRIMARY KEY, n INT); INSERT INTO d.m VALUES (1, 1)",
    )
    .await;
    pair.wait().await;
    for round in 0..2 {
        pair.stop_engine(0).await;
        pair.stop_engine(1).await;
        if round == 0 {
            pair.run(0, "TRUNCATE TABLE d.m").await;
            pair.run(1, "UPDATE d.m SET n = n + 1").await;
        }
        pair.start_engine(0).await;
        pair.start_engine(1).await;
        for node in [0, 1] {
            let message = pair.halted(node).await;
            assert!(message.contains("positions set"), "{message}");
        }
    }
    for node in [0, 1] {
        let unsettled: Vec<String> = pair
            .query(
                node,
                "SELECT table_name FROM twinlog.conflict WHERE winner = 'none'",
            )
            .await;
        assert_eq!(unsettled, ["m"], "node {node}");
    }
}

/// Both nodes write one table and empty it, again and again.
async fn truncates_under_load(kind: ServerKind) {
    let pair = Pair::start(
        &PairOptions::new(kind),
        "CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY, v INT, u INT UNIQUE)",
    )
    .await;
    let until = Instant::now() + Duration::from_secs(6);
    let pair = &pair;
    let writing = (0..6_usize).map(|client| async move {
        let node = client % 2;
        let mut number = client;
        let opts = pair.servers[node].opts();
        let mut conn = mysql_async::Conn::new(opts).await.unwrap();
        while Instant::now() < until {
            number += 7;
            let (id, u) = (number % 40, number % 31);
            let sql = match (client, number % 60) {
                // One client of each node, now and then.
                (0 | 1, 0) if number % 180 == 0 => "TRUNCATE TABLE d.t".to_owned(),
                (_, 0..8) => format!("DELETE FROM d.t WHERE id = {id}"),
                (_, 8..20) => {
                    format!("UPDATE IGNORE d.t SET id = {u}, v = {number} WHERE id = {id}")
                }
                _ => format!("INSERT IGNORE INTO d.t VALUES ({id}, {number}, {u})"),
            };
            if let Err(error) = conn.query_drop(&sql).await {
                let mysql_async::Error::Server(server) = &error else {
                    panic!("{error}");
                };
                assert!(matches!(server.code, 1062 | 1213 | 1205 | 1020), "{error}");
            }
        }
    });
    futures_util::future::join_all(writing).await;
    pair.wait().await;
    pair.assert_equal().await;
    pair.assert_no_loops();
    let settled: Vec<i64> = pair
        .query(
            0,
            "SELECT COUNT(*) FROM twinlog.conflict WHERE kind = 'truncate'",
        )
        .await;
    assert!(settled[0] > 0, "no row met a TRUNCATE");
}
