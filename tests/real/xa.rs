//! XA in two phases: rows take effect at the other node where the log has XA COMMIT, whatever ends and
//! begins between XA PREPARE and XA COMMIT.

use std::time::{Duration, Instant};

use mysql_async::Row;
use twinlog_cli::sandbox::ServerKind;
use twinlog_engine::position::operate;
use twinlog_harness::pair::PATIENCE;
use twinlog_harness::{Pair, PairOptions};

const SCHEMA: &str = "CREATE DATABASE d; \
    CREATE TABLE d.t (id INT PRIMARY KEY, n INT NOT NULL, name VARCHAR(40)); \
    INSERT INTO d.t VALUES (1, 0, NULL), (2, 0, NULL), (3, 0, NULL)";

on_both!(
    takes_effect_at_commit,
    outlives_the_engines_and_their_stores,
    outlives_the_servers,
    conflicts_as_of_its_commit,
    does_not_have_to_fit_into_memory,
    prepared_before_the_nodes_were_set_up,
    halts_where_the_rows_are_not_in_the_log,
);

/// MySQL writes no decision to its log whose first phase is not there.
#[tokio::test(flavor = "multi_thread")]
async fn mariadb_forgets_in_a_crash() {
    what_a_server_forgot_in_a_crash(ServerKind::MariaDb).await;
}

/// An XA transaction, prepared; its connection is gone afterwards.
fn prepare(name: &str, statements: &str) -> String {
    format!("XA START {name}; {statements}; XA END {name}; XA PREPARE {name}")
}

/// Commits one or rolls it back. The server may not know yet that the connection is gone which
/// prepared it.
async fn decide(pair: &Pair, node: usize, sql: &str) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = pair.servers[node].query_drop(sql).await {
        // XAER_NOTA, XAER_RMFAIL.
        let early = ["1397", "1399"]
            .iter()
            .any(|code| format!("{error:?}").contains(code));
        assert!(early && Instant::now() < deadline, "{sql}: {error:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until the link that ends at `node` says that so many are prepared at its origin.
async fn counted(pair: &Pair, node: usize, number: u64) {
    let prepared = || pair.link_to(node).xa_prepared == Some(number);
    crate::until(PATIENCE, prepared).await;
}

async fn ids(pair: &Pair, node: usize) -> Vec<i32> {
    pair.query(node, "SELECT id FROM d.t ORDER BY id").await
}

async fn row(pair: &Pair, node: usize, id: i32) -> Option<(i32, Option<String>)> {
    let sql = format!("SELECT n, name FROM d.t WHERE id = {id}");
    pair.query(node, &sql).await.pop()
}

async fn takes_effect_at_commit(kind: ServerKind) {
    let pair = Pair::start(&PairOptions::new(kind), SCHEMA).await;
    pair.run(
        0,
        &prepare(
            "'x', 'branch', 7",
            "INSERT INTO d.t VALUES (10, 1, 'x'); SAVEPOINT s; INSERT INTO d.t VALUES (11, 1, 'x'); \
             ROLLBACK TO SAVEPOINT s; UPDATE d.t SET n = 1 WHERE id = 1",
        ),
    )
    .await;
    pair.run(0, "INSERT INTO d.t VALUES (4, 1, 'between')")
        .await;
    pair.run(
        0,
        &prepare(
            "x'00ff27'",
            "INSERT INTO d.t VALUES (5, 1, 'y'); DELETE FROM d.t WHERE id = 3",
        ),
    )
    .await;
    pair.run(1, &prepare("'z'", "INSERT INTO d.t VALUES (13, 1, 'z')"))
        .await;
    pair.wait().await;
    counted(&pair, 1, 2).await;
    counted(&pair, 0, 1).await;
    assert_eq!(
        ids(&pair, 1).await,
        [1, 2, 3, 4],
        "prepared rows are not there"
    );
    decide(&pair, 0, "XA COMMIT x'00ff27'").await;
    pair.wait().await;
    assert_eq!(ids(&pair, 1).await, [1, 2, 4, 5]);
    assert_eq!(ids(&pair, 0).await, [1, 2, 4, 5]);
    decide(&pair, 1, "XA ROLLBACK 'z'").await;
    decide(&pair, 0, "XA COMMIT 'x', 'branch', 7").await;
    pair.wait().await;
    assert_eq!(ids(&pair, 1).await, [1, 2, 4, 5, 10]);
    assert_eq!(row(&pair, 1, 1).await, Some((1, None)));
    // The names are free again.
    pair.run(0, &prepare("'x', 'branch', 7", "UPDATE d.t SET n = 7"))
        .await;
    decide(&pair, 0, "XA ROLLBACK 'x', 'branch', 7").await;
    pair.run(0, "UPDATE d.t SET n = n + 1 WHERE id = 2").await;
    pair.run(
        0,
        &prepare(
            "'x', 'branch', 7",
            "UPDATE d.t SET name = 'again' WHERE id = 2",
        ),
    )
    .await;
    pair.run(0, "FLUSH BINARY LOGS").await;
    decide(&pair, 0, "XA COMMIT 'x', 'branch', 7").await;
    pair.wait().await;
    assert_eq!(row(&pair, 1, 2).await, Some((1, Some("again".to_owned()))));
    pair.assert_equal().await;
    pair.assert_no_loops();
    for node in [0, 1] {
        counted(&pair, node, 0).await;
        assert_eq!(pair.link_to(node).last_error, None);
        assert_eq!(pair.link_to(node).xa_oldest_seconds, Some(0));
    }
}

async fn outlives_the_engines_and_their_stores(kind: ServerKind) {
    let mut pair = Pair::start(&PairOptions::new(kind), SCHEMA).await;
    for (name, id) in [("'x'", 10), ("'y'", 11), ("'z'", 12)] {
        let insert = format!(
            "UPDATE d.t SET n = 1 WHERE id = {}; INSERT INTO d.t VALUES ({id}, 1, {name})",
            id - 9
        );
        pair.run(0, &prepare(name, &insert)).await;
        if id == 11 {
            pair.run(0, "FLUSH BINARY LOGS").await;
        }
        pair.run(
            0,
            &format!("INSERT INTO d.t VALUES ({}, 1, 'between')", id + 20),
        )
        .await;
    }
    pair.wait().await;
    // Both engines begin behind all three.
    for node in [0, 1] {
        pair.kill_engine(node).await;
    }
    pair.run(0, "INSERT INTO d.t VALUES (40, 1, 'between')")
        .await;
    decide(&pair, 0, "XA COMMIT 'x'").await;
    pair.wait().await;
    assert_eq!(ids(&pair, 1).await, [1, 2, 3, 10, 30, 31, 32, 40]);
    for (node, name) in [(0, "a"), (1, "b")] {
        pair.stop_engine(node).await;
        std::fs::remove_dir_all(pair.folder().join(format!("data/{name}/positions"))).unwrap();
    }
    pair.run(0, "FLUSH BINARY LOGS").await;
    decide(&pair, 0, "XA ROLLBACK 'y'").await;
    decide(&pair, 0, "XA COMMIT 'z'").await;
    for node in [0, 1] {
        pair.start_engine(node).await;
    }
    pair.wait().await;
    assert_eq!(ids(&pair, 1).await, [1, 2, 3, 10, 12, 30, 31, 32, 40]);
    // Read again by engines that have nothing left to do: nothing is done twice.
    let applied = pair.link_to(1).applied_transactions;
    for node in [0, 1] {
        pair.kill_engine(node).await;
    }
    pair.wait().await;
    assert_eq!(pair.link_to(1).applied_transactions, applied);
    pair.assert_equal().await;
    pair.assert_no_loops();
}

async fn outlives_the_servers(kind: ServerKind) {
    let mut pair = Pair::start(
        &PairOptions {
            extra_args: vec![
                "--sync-binlog=1".to_owned(),
                "--innodb-flush-log-at-trx-commit=1".to_owned(),
            ],
            ..PairOptions::new(kind)
        },
        SCHEMA,
    )
    .await;
    for (name, id) in [("'x'", 10), ("'y'", 11)] {
        let insert = format!("INSERT INTO d.t VALUES ({id}, 1, {name})");
        pair.run(0, &prepare(name, &insert)).await;
    }
    pair.wait().await;
    pair.servers[0].kill9().await;
    pair.servers[1].kill9().await;
    pair.servers[0].start_again().await.unwrap();
    pair.servers[1].start_again().await.unwrap();
    let prepared: Vec<Row> = pair.query(0, "XA RECOVER").await;
    assert_eq!(prepared.len(), 2);
    pair.run(0, "INSERT INTO d.t VALUES (20, 1, 'between')")
        .await;
    decide(&pair, 0, "XA COMMIT 'x'").await;
    pair.wait().await;
    assert_eq!(ids(&pair, 1).await, [1, 2, 3, 10, 20]);
    decide(&pair, 0, "XA ROLLBACK 'y'").await;
    pair.run(0, "INSERT INTO d.t VALUES (11, 2, 'other')").await;
    pair.wait().await;
    assert_eq!(row(&pair, 1, 11).await, Some((2, Some("other".to_owned()))));
    pair.assert_equal().await;
}

/// A write at the other node meets the transaction as of its COMMIT, on both sides, also where both
/// engines begin to read between the two phases.
async fn conflicts_as_of_its_commit(kind: ServerKind) {
    let mut pair = Pair::start(&PairOptions::new(kind), SCHEMA).await;
    let second = Duration::from_millis(1100);
    pair.run(
        0,
        &prepare("'later'", "UPDATE d.t SET n = 1, name = 'a' WHERE id = 1"),
    )
    .await;
    pair.run(
        0,
        &prepare("'earlier'", "UPDATE d.t SET n = 1, name = 'a' WHERE id = 2"),
    )
    .await;
    // Seen by both, and behind both phases' rows in a's log.
    pair.run(1, "UPDATE d.t SET n = 5 WHERE id = 3").await;
    pair.wait().await;
    for node in [0, 1] {
        pair.stop_engine(node).await;
    }
    decide(&pair, 0, "XA COMMIT 'earlier'").await;
    tokio::time::sleep(second).await;
    pair.run(1, "UPDATE d.t SET n = 2, name = 'b' WHERE id IN (1, 2)")
        .await;
    tokio::time::sleep(second).await;
    decide(&pair, 0, "XA COMMIT 'later'").await;
    for node in [0, 1] {
        pair.start_engine(node).await;
    }
    pair.wait().await;
    pair.assert_equal().await;
    // Prepared before b's write and committed behind it.
    assert_eq!(row(&pair, 0, 1).await, Some((1, Some("a".to_owned()))));
    assert_eq!(row(&pair, 0, 2).await, Some((2, Some("b".to_owned()))));
    for node in [0, 1] {
        let conflicts: u64 = pair.link_to(node).conflicts.iter().map(|of| of.count).sum();
        assert!(conflicts > 0, "{:#?}", pair.link_to(node));
    }
    // Seen before it was prepared, or locked until it was committed: no conflict.
    let before: Vec<i64> = pair.query(0, "SELECT COUNT(*) FROM twinlog.conflict").await;
    pair.run(1, "UPDATE d.t SET n = 8 WHERE id = 3").await;
    pair.wait().await;
    pair.run(
        0,
        &prepare("'seen'", "UPDATE d.t SET n = n + 1 WHERE id = 3"),
    )
    .await;
    pair.run(1, "INSERT INTO d.t VALUES (50, 0, NULL)").await;
    pair.wait().await;
    decide(&pair, 0, "XA COMMIT 'seen'").await;
    pair.wait().await;
    pair.run(1, "UPDATE d.t SET n = n + 1 WHERE id = 3").await;
    pair.wait().await;
    pair.assert_equal().await;
    assert_eq!(row(&pair, 0, 3).await, Some((10, None)));
    let after: Vec<i64> = pair.query(0, "SELECT COUNT(*) FROM twinlog.conflict").await;
    assert_eq!(before, after);
    pair.assert_no_loops();
}

/// Rows that are not held, since there are too many or since they are on disk, are read again.
async fn does_not_have_to_fit_into_memory(kind: ServerKind) {
    let mut options = PairOptions::new(kind);
    // A transaction goes to disk from 2 MiB on, and so much is held of all that are prepared.
    options.engine = "memory = \"64MiB\"".to_owned();
    let mut pair = Pair::start(
        &options,
        "CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY, pad LONGBLOB)",
    )
    .await;
    let rows = |first: i32, number: i32| {
        let rows: Vec<String> = (first..first + number)
            .map(|id| format!("({id}, REPEAT('x', 100000))"))
            .collect();
        format!("INSERT INTO d.t VALUES {}", rows.join(", "))
    };
    for (place, number) in [(0, 15), (1, 15), (2, 80), (3, 15), (4, 80)] {
        pair.run(
            0,
            &prepare(&format!("'x{place}'"), &rows(place * 100, number)),
        )
        .await;
    }
    pair.wait().await;
    assert_eq!(pair.link_to(1).huge_transactions, 0);
    for place in [4, 1, 0] {
        decide(&pair, 0, &format!("XA COMMIT 'x{place}'")).await;
    }
    pair.wait().await;
    assert_eq!(pair.link_to(1).huge_transactions, 1);
    for node in [0, 1] {
        pair.kill_engine(node).await;
    }
    for place in [2, 3] {
        decide(&pair, 0, &format!("XA COMMIT 'x{place}'")).await;
    }
    pair.wait().await;
    assert_eq!(pair.link_to(1).huge_transactions, 1);
    let counted: Vec<i64> = pair.query(1, "SELECT COUNT(*) FROM d.t").await;
    assert_eq!(counted, [205]);
    pair.assert_equal().await;
}

/// The copy that the nodes began with cannot have its rows: it is applied as any other.
async fn prepared_before_the_nodes_were_set_up(kind: ServerKind) {
    let mut pair = Pair::servers(&PairOptions::new(kind)).await;
    pair.both(SCHEMA).await;
    pair.run(0, &prepare("'x'", "INSERT INTO d.t VALUES (10, 1, 'x')"))
        .await;
    twinlog_engine::init::init(&pair.config, false)
        .await
        .unwrap();
    for node in [0, 1] {
        pair.start_engine(node).await;
    }
    pair.wait().await;
    decide(&pair, 0, "XA COMMIT 'x'").await;
    pair.wait().await;
    assert_eq!(ids(&pair, 1).await, [1, 2, 3, 10]);
    pair.assert_equal().await;
}

async fn halts_where_the_rows_are_not_in_the_log(kind: ServerKind) {
    let mut pair = Pair::start(&PairOptions::new(kind), SCHEMA).await;
    for (name, id) in [("'x'", 10), ("'y'", 11)] {
        let insert = format!("INSERT INTO d.t VALUES ({id}, 1, {name})");
        pair.run(0, &prepare(name, &insert)).await;
    }
    pair.wait().await;
    for node in [0, 1] {
        pair.stop_engine(node).await;
    }
    pair.run(0, "FLUSH BINARY LOGS; INSERT INTO d.t VALUES (20, 1, NULL)")
        .await;
    for node in [0, 1] {
        pair.start_engine(node).await;
    }
    pair.wait().await;
    let ends: Vec<Row> = pair.query(0, "SHOW BINARY LOGS").await;
    let last: String = ends.last().unwrap().get(0).unwrap();
    // Not as long as the stream of an engine that has ended is still open.
    let purge = format!("PURGE BINARY LOGS TO '{last}'");
    let deadline = Instant::now() + PATIENCE;
    loop {
        pair.run(0, &purge).await;
        let files: Vec<Row> = pair.query(0, "SHOW BINARY LOGS").await;
        if files.len() == 1 {
            break;
        }
        assert!(Instant::now() < deadline, "{files:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Nobody needs its rows.
    decide(&pair, 0, "XA ROLLBACK 'y'").await;
    pair.run(0, "INSERT INTO d.t VALUES (21, 1, NULL)").await;
    pair.wait().await;
    for node in [0, 1] {
        pair.kill_engine(node).await;
    }
    decide(&pair, 0, "XA COMMIT 'x'").await;
    for node in [0, 1] {
        let message = pair.halted(node).await;
        assert!(message.contains("XA COMMIT 'x'"), "{message}");
        assert!(
            message.contains(&format!("the log, which begins with {last}")),
            "{message}"
        );
        assert!(
            message.contains("positions set --origin a --target b"),
            "{message}"
        );
    }
    let message = pair.halted(1).await;
    let (_, place) = message.rsplit_once("--target b ").unwrap();
    for node in [0, 1] {
        pair.stop_engine(node).await;
    }
    pair.run(
        1,
        "SET SESSION sql_log_bin = 0; INSERT INTO d.t VALUES (10, 1, 'x')",
    )
    .await;
    let place = place.trim_end_matches('`');
    // The server gives the lock of an engine that has ended back in its own time.
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = operate::set(&pair.config, "a", "b", place).await {
        let fenced = matches!(error, twinlog_engine::Error::Fenced(_));
        assert!(fenced && Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for node in [0, 1] {
        pair.start_engine(node).await;
    }
    pair.run(0, "UPDATE d.t SET n = 2 WHERE id = 10").await;
    pair.wait().await;
    assert_eq!(row(&pair, 1, 10).await, Some((2, Some("x".to_owned()))));
    pair.assert_equal().await;
}

/// MariaDB can forget in a crash that it committed (or rolled back) what it had prepared, though its
/// log says so, and have it prepared again; or that it prepared it at all. The log looks then as here,
/// where what "was forgotten" was never written to it.
async fn what_a_server_forgot_in_a_crash(kind: ServerKind) {
    let mut pair = Pair::start(&PairOptions::new(kind), SCHEMA).await;
    let unlogged = |sql: &str| format!("SET SESSION sql_log_bin = 0; {sql}");
    // Prepared and forgotten, and prepared again.
    pair.run(0, &prepare("'p'", "INSERT INTO d.t VALUES (10, 1, 'lost')"))
        .await;
    decide(&pair, 0, &unlogged("XA ROLLBACK 'p'")).await;
    pair.run(0, &prepare("'p'", "INSERT INTO d.t VALUES (11, 1, 'p')"))
        .await;
    decide(&pair, 0, "XA COMMIT 'p'").await;
    pair.wait().await;
    assert_eq!(ids(&pair, 1).await, [1, 2, 3, 11]);
    // Rolled back and forgotten, then committed.
    pair.run(0, &prepare("'r'", "INSERT INTO d.t VALUES (12, 1, 'r')"))
        .await;
    decide(&pair, 0, "XA ROLLBACK 'r'").await;
    pair.run(
        0,
        &unlogged(&prepare("'r'", "INSERT INTO d.t VALUES (12, 1, 'r')")),
    )
    .await;
    decide(&pair, 0, "XA COMMIT 'r'").await;
    pair.wait().await;
    assert_eq!(ids(&pair, 1).await, [1, 2, 3, 11, 12]);
    // Committed and forgotten, then committed again: the second time says nothing new, whoever reads it.
    for (id, restart) in [(1, false), (2, true)] {
        pair.run(
            0,
            &prepare("'c'", &format!("UPDATE d.t SET n = n + 1 WHERE id = {id}")),
        )
        .await;
        decide(&pair, 0, "XA COMMIT 'c'").await;
        pair.wait().await;
        if restart {
            for node in [0, 1] {
                pair.kill_engine(node).await;
            }
        }
        pair.run(
            0,
            &unlogged(&prepare(
                "'c'",
                &format!("UPDATE d.t SET name = 'c' WHERE id = {id}"),
            )),
        )
        .await;
        decide(&pair, 0, "XA COMMIT 'c'").await;
        pair.wait().await;
    }
    assert_eq!(row(&pair, 1, 1).await, Some((1, None)));
    assert_eq!(row(&pair, 1, 2).await, Some((1, None)));
    pair.run(
        1,
        "SET SESSION sql_log_bin = 0; UPDATE d.t SET name = 'c' WHERE id < 3",
    )
    .await;
    pair.assert_equal().await;
    // Committed and forgotten, then rolled back: the nodes have parted.
    pair.run(0, &prepare("'d'", "INSERT INTO d.t VALUES (13, 1, 'd')"))
        .await;
    decide(&pair, 0, "XA COMMIT 'd'").await;
    pair.wait().await;
    pair.run(
        0,
        &unlogged(&prepare("'d'", "DELETE FROM d.t WHERE id = 13")),
    )
    .await;
    decide(&pair, 0, "XA ROLLBACK 'd'").await;
    for node in [0, 1] {
        let message = pair.halted(node).await;
        assert!(message.contains("XA ROLLBACK 'd'"), "{message}");
        assert!(message.contains("its XA COMMIT stands at"), "{message}");
        assert!(
            message.contains("are at node b and not at node a"),
            "{message}"
        );
    }
}
