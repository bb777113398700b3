//! Foreign keys: what cascades at one node is the same at the other, whichever of the two servers
//! logs it, and no child is left without its parent.

use mysql_async::prelude::Queryable;
use twinlog_cli::sandbox::ServerKind;
use twinlog_harness::pair::PATIENCE;
use twinlog_harness::{Pair, PairOptions};

on_both!(
    cascades_are_applied_once,
    checks_that_were_off_stay_off,
    parent_removed_under_a_new_child,
    child_written_under_a_removed_parent,
    local_writers_are_waited_for,
);

const SCHEMA: &str = "CREATE DATABASE d; USE d; \
    CREATE TABLE p (id INT PRIMARY KEY, code VARCHAR(20) CHARACTER SET latin1 NOT NULL UNIQUE, v INT); \
    CREATE TABLE c (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES p (id) ON DELETE CASCADE ON UPDATE CASCADE); \
    CREATE TABLE g (id INT PRIMARY KEY, c INT, FOREIGN KEY (c) REFERENCES c (id) ON DELETE CASCADE ON UPDATE CASCADE); \
    CREATE TABLE n (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES p (id) ON DELETE SET NULL ON UPDATE SET NULL); \
    CREATE TABLE w (id INT PRIMARY KEY, code VARCHAR(20) CHARACTER SET latin1, FOREIGN KEY (code) REFERENCES p (code) ON UPDATE CASCADE); \
    CREATE TABLE s (id INT PRIMARY KEY, up INT, FOREIGN KEY (up) REFERENCES s (id) ON DELETE CASCADE); \
    CREATE TABLE pp (a INT, b VARCHAR(10), PRIMARY KEY (a, b)); \
    CREATE TABLE cc (id INT, part INT, a INT, b VARCHAR(10), PRIMARY KEY (id, part), \
        FOREIGN KEY (a, b) REFERENCES pp (a, b) ON UPDATE CASCADE ON DELETE CASCADE)";

/// Each is waited for, and the nodes compared.
const STATEMENTS: &[&str] = &[
    "INSERT INTO d.p VALUES (1, 'one', 0), (2, 'two', 0), (3, 'three', 0), (4, 'four', 0), (5, 'f\u{fc}nf', 0)",
    "INSERT INTO d.c VALUES (10, 1), (11, 1), (20, 2), (30, 3), (40, 4), (99, NULL)",
    "INSERT INTO d.g VALUES (100, 10), (101, 10), (110, 11), (200, 20), (300, 30), (999, NULL)",
    "INSERT INTO d.n VALUES (1, 1), (2, 2), (3, 3); INSERT INTO d.w VALUES (1, 'one'), (5, 'f\u{fc}nf'), (6, NULL)",
    // ON UPDATE CASCADE and SET NULL.
    "UPDATE d.p SET id = 6 WHERE id = 1",
    "UPDATE d.p SET id = id + 100 ORDER BY id DESC",
    "UPDATE d.p SET id = id - 100 ORDER BY id",
    "UPDATE d.p SET code = 'neu\u{e4}' WHERE code = 'f\u{fc}nf'",
    "UPDATE d.p SET v = v + 1",
    // Over two levels; with SET NULL beside it.
    "DELETE FROM d.p WHERE id = 2",
    // All in one transaction with the children that came in it.
    "START TRANSACTION; INSERT INTO d.p VALUES (50, 'fifty', 0); INSERT INTO d.c VALUES (500, 50); \
     INSERT INTO d.g VALUES (5000, 500); UPDATE d.p SET id = 51 WHERE id = 50; UPDATE d.c SET id = 501 WHERE id = 500; \
     DELETE FROM d.p WHERE id = 51; COMMIT",
    // Of a row that is there: MySQL keeps the children, MariaDB deletes them.
    "REPLACE INTO d.p VALUES (3, 'drei', 1)",
    "REPLACE INTO d.p VALUES (7, 'four', 1)",
    "INSERT INTO d.p VALUES (3, 'trois', 9) ON DUPLICATE KEY UPDATE id = 33",
    // To itself.
    "INSERT INTO d.s VALUES (1, NULL), (2, 1), (3, 2), (4, 2), (5, 4), (6, 6)",
    "DELETE FROM d.s WHERE id = 2",
    "DELETE FROM d.s",
    // Several columns.
    "INSERT INTO d.pp VALUES (1, 'x'), (1, 'y'), (2, 'x'); \
     INSERT INTO d.cc VALUES (1, 1, 1, 'x'), (1, 2, 1, 'y'), (2, 1, 1, NULL), (3, 1, NULL, 'none')",
    "UPDATE d.pp SET b = 'z' WHERE a = 1 AND b = 'x'",
    "DELETE FROM d.pp WHERE b = 'y'",
    "DELETE FROM d.c; DELETE FROM d.p WHERE id > 30",
];

async fn cascades_are_applied_once(kind: ServerKind) {
    let pair = Pair::start(&PairOptions::new(kind), SCHEMA).await;
    for (number, statement) in STATEMENTS.iter().enumerate() {
        pair.run(number % 2, statement).await;
        pair.wait().await;
        pair.assert_equal().await;
    }
    // Again as one batch, from nothing.
    let empty = "SET foreign_key_checks = 0; DELETE FROM d.p; DELETE FROM d.c; DELETE FROM d.g; DELETE FROM d.n; \
        DELETE FROM d.w; DELETE FROM d.pp; DELETE FROM d.cc";
    pair.run(0, empty).await;
    pair.wait().await;
    let mut pair = pair;
    pair.stop_engine(1).await;
    for statement in STATEMENTS {
        pair.run(0, statement).await;
    }
    pair.start_engine(1).await;
    pair.wait().await;
    pair.assert_equal().await;
    pair.assert_no_loops();
    let rest: Vec<i64> = pair.query(1, "SELECT COUNT(*) FROM d.p").await;
    assert!(rest[0] > 0, "nothing is left to compare");
}

async fn checks_that_were_off_stay_off(kind: ServerKind) {
    let pair = Pair::start(&PairOptions::new(kind), SCHEMA).await;
    pair.run(
        0,
        "SET foreign_key_checks = 0; INSERT INTO d.c VALUES (1, 77), (2, 78); INSERT INTO d.g VALUES (1, 1)",
    )
    .await;
    pair.wait().await;
    // Nothing cascades; and the next session's rows are checked again.
    pair.run(
        0,
        "SET foreign_key_checks = 0; DELETE FROM d.c WHERE id = 1",
    )
    .await;
    pair.run(
        0,
        "INSERT INTO d.p VALUES (1, 'one', 0); INSERT INTO d.c VALUES (5, 1)",
    )
    .await;
    pair.wait().await;
    pair.assert_equal().await;
    let left: Vec<(i32, i32)> = pair.query(1, "SELECT id, p FROM d.c ORDER BY id").await;
    assert_eq!(left, [(2, 78), (5, 1)]);
    let orphans: Vec<i32> = pair.query(1, "SELECT id FROM d.g").await;
    assert_eq!(orphans, [1]);
}

/// Runs a statement at each node without the other's knowledge, with a transaction in front at a.
async fn concurrently(kind: ServerKind, on_a: &str, on_b: &str) -> Pair {
    let mut pair = Pair::start(
        &PairOptions::new(kind),
        &format!("{SCHEMA}; INSERT INTO p VALUES (1, 'one', 0), (2, 'two', 0); INSERT INTO c VALUES (10, 1)"),
    )
    .await;
    pair.wait().await;
    pair.stop_engine(0).await;
    pair.stop_engine(1).await;
    pair.run(0, "INSERT INTO d.p VALUES (8, 'eight', 0)").await;
    pair.run(0, on_a).await;
    pair.run(1, on_b).await;
    pair.start_engine(1).await;
    pair
}

async fn refused(pair: &Pair) {
    let message = pair.halted(1).await;
    assert!(
        message.contains("foreign key") && message.contains("positions set"),
        "{message}"
    );
    let before: Vec<i32> = pair.query(1, "SELECT id FROM d.p WHERE id = 8").await;
    assert_eq!(before, [8], "what stood in front of it is applied");
}

async fn parent_removed_under_a_new_child(kind: ServerKind) {
    // With NO ACTION, so that MariaDB does not cascade at the target.
    let pair = concurrently(
        kind,
        "DELETE FROM d.p WHERE id = 2",
        "INSERT INTO d.w VALUES (5, 'two')",
    )
    .await;
    refused(&pair).await;
    let there: Vec<i32> = pair.query(1, "SELECT id FROM d.p WHERE id = 2").await;
    assert_eq!(there, [2], "nothing of it is applied");
    if kind == ServerKind::MySql {
        // The log has no cascade for the child that its origin did not know.
        let pair = concurrently(
            kind,
            "DELETE FROM d.p WHERE id = 1",
            "INSERT INTO d.c VALUES (11, 1)",
        )
        .await;
        refused(&pair).await;
    }
}

async fn child_written_under_a_removed_parent(kind: ServerKind) {
    for child in [
        "INSERT INTO d.c VALUES (12, 2)",
        "UPDATE d.c SET p = 2 WHERE id = 10",
    ] {
        let pair = concurrently(kind, child, "DELETE FROM d.p WHERE id = 2").await;
        refused(&pair).await;
    }
}

/// A local transaction that is not committed yet when the other node's rows come.
async fn local_writers_are_waited_for(kind: ServerKind) {
    for (at_b, at_a) in [
        (
            "INSERT INTO d.w VALUES (5, 'two')",
            "DELETE FROM d.p WHERE id = 2",
        ),
        (
            "DELETE FROM d.p WHERE id = 2",
            "INSERT INTO d.w VALUES (5, 'two')",
        ),
    ] {
        for commits in [false, true] {
            let pair = Pair::start(
                &PairOptions {
                    extra_args: vec!["--innodb-lock-wait-timeout=1".to_owned()],
                    ..PairOptions::new(kind)
                },
                &format!("{SCHEMA}; INSERT INTO p VALUES (1, 'one', 0), (2, 'two', 0)"),
            )
            .await;
            pair.wait().await;
            let mut client = pair.servers[1].connect().await.unwrap();
            // Without the locks on gaps that would keep our rows waiting before we ask.
            let isolation = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED";
            client.query_drop(isolation).await.unwrap();
            client.query_drop("START TRANSACTION").await.unwrap();
            client.query_drop(at_b).await.unwrap();
            pair.run(0, "INSERT INTO d.p VALUES (8, 'eight', 0)").await;
            pair.run(0, at_a).await;
            let deadline = std::time::Instant::now() + PATIENCE;
            while pair.link_to(1).retries == 0 {
                let link = pair.link_to(1);
                assert!(
                    std::time::Instant::now() < deadline,
                    "did not wait: {link:#?}"
                );
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            if commits {
                client.query_drop("COMMIT").await.unwrap();
                refused(&pair).await;
            } else {
                client.query_drop("ROLLBACK").await.unwrap();
                pair.wait().await;
                pair.assert_equal().await;
            }
        }
    }
}
