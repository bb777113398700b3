//! What clients can write besides plain statements, each as docs/operating.md ("What is carried") has it.

use mysql_async::prelude::Queryable as _;
use twinlog_cli::sandbox::ServerKind;
use twinlog_harness::{Pair, PairOptions};

const SCHEMA: &str = "CREATE DATABASE d; USE d; \
    CREATE TABLE t (id INT PRIMARY KEY, n INT NOT NULL, name VARCHAR(40)); \
    CREATE TABLE u (id INT PRIMARY KEY, t INT NOT NULL, n INT NOT NULL); \
    CREATE TABLE old (id INT PRIMARY KEY, n INT NOT NULL) ENGINE = MyISAM";

on_both!(are_carried, without_transactions_are_refused,);

async fn are_carried(kind: ServerKind) {
    let pair = Pair::start(&PairOptions::new(kind), SCHEMA).await;
    let file = pair.servers[0].datadir().with_file_name("rows.csv");
    std::fs::write(&file, "100,1,x\n101,2,y\n102,3,\\N\n").unwrap();
    let load = format!(
        "LOAD DATA INFILE '{}' INTO TABLE t FIELDS TERMINATED BY ','",
        file.display()
    );
    for (what, statements) in [
        (
            "savepoints: what was rolled back is not there",
            "BEGIN; INSERT INTO t VALUES (1, 1, 'a'); SAVEPOINT one; INSERT INTO t VALUES (2, 2, 'b'); \
             SAVEPOINT two; UPDATE t SET n = 9; ROLLBACK TO SAVEPOINT one; INSERT INTO t VALUES (3, 3, 'c'); \
             RELEASE SAVEPOINT one; COMMIT",
        ),
        (
            "a transaction that is rolled back",
            "BEGIN; INSERT INTO t VALUES (4, 4, 'd'); ROLLBACK",
        ),
        (
            "LOCK TABLES",
            "LOCK TABLES t WRITE, u READ; INSERT INTO t VALUES (5, 5, 'e'); UPDATE t SET n = n + 1; \
             UNLOCK TABLES",
        ),
        ("LOAD DATA", load.as_str()),
        (
            "INSERT .. SELECT",
            "INSERT INTO u SELECT id + 1000, id, n FROM t; INSERT IGNORE INTO u SELECT id + 1000, id, 0 FROM t; \
             REPLACE INTO u SELECT id + 1000, id, n + 1 FROM t WHERE id < 3; \
             INSERT INTO u VALUES (1003, 3, 0), (7, 3, 0) ON DUPLICATE KEY UPDATE n = n + 100",
        ),
        (
            "multi-table UPDATE and DELETE",
            "UPDATE t JOIN u ON u.t = t.id SET t.n = t.n + 10, u.n = u.n + 20 WHERE t.id >= 3; \
             DELETE t, u FROM t JOIN u ON u.t = t.id WHERE t.id = 101",
        ),
        (
            "temporary tables: theirs stay, what is made of them goes",
            "CREATE TEMPORARY TABLE scratch (id INT PRIMARY KEY, n INT); INSERT INTO scratch VALUES (50, 1), (51, 2); \
             BEGIN; UPDATE scratch SET n = n + 1; INSERT INTO t SELECT id, n, 'from scratch' FROM scratch; \
             COMMIT; DROP TEMPORARY TABLE scratch",
        ),
        (
            "XA in one phase",
            "XA START 'x1', 'branch', 7; INSERT INTO t VALUES (60, 6, 'xa'); UPDATE t SET n = 0 WHERE id = 1; \
             XA END 'x1', 'branch', 7; XA COMMIT 'x1', 'branch', 7 ONE PHASE",
        ),
        (
            "XA in two phases",
            "XA START 'x3'; INSERT INTO t VALUES (62, 6, 'two phases'); XA END 'x3'; XA PREPARE 'x3'; \
             XA COMMIT 'x3'; XA START 'x3'; DELETE FROM t WHERE id = 60; XA END 'x3'; XA PREPARE 'x3'; \
             XA ROLLBACK 'x3'",
        ),
        (
            "XA that is rolled back before it is prepared",
            "XA START 'x2'; INSERT INTO t VALUES (61, 6, 'xa'); XA END 'x2'; XA ROLLBACK 'x2'",
        ),
    ] {
        pair.run(0, &format!("USE d; {statements}")).await;
        pair.wait().await;
        let link = pair.link_to(1);
        assert_eq!(link.last_error, None, "{what}");
        pair.assert_equal().await;
    }
    let rows: Vec<(i32, i32, Option<String>)> =
        pair.query(1, "SELECT * FROM d.t ORDER BY id").await;
    let named = |name: &str| Some(name.to_owned());
    assert_eq!(
        rows,
        [
            (1, 0, named("a")),
            (3, 14, named("c")),
            (5, 16, named("e")),
            (50, 2, named("from scratch")),
            (51, 3, named("from scratch")),
            (60, 6, named("xa")),
            (62, 6, named("two phases")),
            (100, 11, named("x")),
            (102, 13, None),
        ]
    );
    pair.assert_no_loops();
}

async fn without_transactions_are_refused(kind: ServerKind) {
    let pair = Pair::start(&PairOptions::new(kind), SCHEMA).await;
    pair.run(0, "INSERT INTO d.t VALUES (1, 1, 'before')").await;
    let mut client = pair.servers[0].connect().await.unwrap();
    let mixed =
        "BEGIN; INSERT INTO d.t VALUES (2, 2, 'in it'); INSERT INTO d.old VALUES (1, 1); COMMIT";
    match (kind, client.query_drop(mixed).await) {
        // With GTIDs the server itself refuses it.
        (ServerKind::MySql, Err(mysql_async::Error::Server(error))) => {
            assert_eq!(error.code, 1785, "{error}");
            client
                .query_drop("ROLLBACK; INSERT INTO d.old VALUES (1, 1)")
                .await
                .unwrap();
        }
        (ServerKind::MariaDb, Ok(())) => {}
        (_, other) => panic!("{other:?}"),
    }
    let message = pair.halted(1).await;
    assert!(message.contains("d.old"), "{message}");
    assert!(message.contains("storage engine"), "{message}");
    let rows: Vec<i32> = pair.query(1, "SELECT id FROM d.t ORDER BY id").await;
    assert_eq!(
        rows,
        [1],
        "what stood in front of it is applied, and no part of it"
    );
}
