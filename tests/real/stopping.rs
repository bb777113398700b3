//! What stops a link, and what it says then: nothing is overwritten in silence, nothing is guessed.

use twinlog_cli::sandbox::ServerKind;
use twinlog_engine::Error;
use twinlog_engine::position::operate;
use twinlog_engine::replicator::Engine;
use twinlog_harness::pair::PATIENCE;
use twinlog_harness::{Pair, PairOptions};

const SCHEMA: &str = "CREATE DATABASE d; \
    CREATE TABLE d.t (id INT PRIMARY KEY, v INT, u INT UNIQUE); INSERT INTO d.t VALUES (1, 0, 1), (2, 0, 2)";

on_both!(
    writes_one_after_the_other_are_no_conflict,
    a_row_that_is_missing,
    a_row_that_is_there_already,
    table_without_key,
    schema_that_differs,
    purged_log,
    reset_log,
    second_engine,
    statement_format,
    not_set_up,
    row_larger_than_a_packet,
    rows_meet_ddl,
    reset_log_that_grew,
    log_reset_under_the_engine,
);

async fn writes_one_after_the_other_are_no_conflict(kind: ServerKind) {
    let pair = Pair::start(&PairOptions::new(kind), SCHEMA).await;
    for round in 0..10 {
        pair.run(round % 2, &format!("UPDATE d.t SET v = {round} WHERE id = 1; DELETE FROM d.t WHERE id = 2; INSERT INTO d.t VALUES (2, {round}, 2)")).await;
        pair.wait().await;
        pair.assert_equal().await;
    }
    let v: Vec<i32> = pair.query(0, "SELECT v FROM d.t").await;
    assert_eq!(v, [9, 9]);
}

/// Removes or adds a row at b without the log's knowledge, so that the nodes drift apart.
async fn drifted(kind: ServerKind, at_b: &str, on_a: &str) -> String {
    let pair = Pair::start(&PairOptions::new(kind), SCHEMA).await;
    pair.run(1, &format!("SET sql_log_bin = 0; {at_b}")).await;
    pair.run(0, &format!("INSERT INTO d.t VALUES (20, 0, 20); {on_a}"))
        .await;
    let message = pair.halted(1).await;
    let before: Vec<i32> = pair.query(1, "SELECT id FROM d.t WHERE id = 20").await;
    assert_eq!(before, [20], "what stood in front of it is applied");
    message
}

async fn a_row_that_is_missing(kind: ServerKind) {
    for statement in [
        "UPDATE d.t SET v = 1 WHERE id = 1",
        "DELETE FROM d.t WHERE id = 1",
    ] {
        let message = drifted(kind, "DELETE FROM d.t WHERE id = 1", statement).await;
        assert!(
            message.starts_with("drift") && message.contains("d.t"),
            "{message}"
        );
    }
}

async fn a_row_that_is_there_already(kind: ServerKind) {
    let message = drifted(
        kind,
        "INSERT INTO d.t VALUES (30, 5, 30)",
        "INSERT INTO d.t VALUES (30, 6, 31)",
    )
    .await;
    assert!(
        message.starts_with("drift") && message.contains("PRIMARY"),
        "{message}"
    );
    assert!(!message.contains("'30'"), "no cell values: {message}");
}

async fn table_without_key(kind: ServerKind) {
    let pair = Pair::start(
        &PairOptions::new(kind),
        "CREATE DATABASE d; CREATE TABLE d.bare (v INT)",
    )
    .await;
    pair.run(0, "INSERT INTO d.bare VALUES (1)").await;
    let message = pair.halted(1).await;
    assert!(
        message.contains("d.bare") && message.contains("ADD PRIMARY KEY"),
        "{message}"
    );
}

async fn schema_that_differs(kind: ServerKind) {
    let pair = Pair::start(&PairOptions::new(kind), SCHEMA).await;
    pair.run(1, "SET sql_log_bin = 0; ALTER TABLE d.t DROP COLUMN v")
        .await;
    pair.run(0, "INSERT INTO d.t VALUES (5, 5, 5)").await;
    let message = pair.halted(1).await;
    assert!(
        message.contains("schema of d.t") && message.contains(" v "),
        "{message}"
    );
}

async fn purged_log(kind: ServerKind) {
    let mut pair = Pair::start(&PairOptions::new(kind), SCHEMA).await;
    pair.stop_engine(1).await;
    pair.run(
        0,
        "INSERT INTO d.t VALUES (5, 5, 5); FLUSH BINARY LOGS; INSERT INTO d.t VALUES (6, 6, 6)",
    )
    .await;
    pair.stop_engine(0).await;
    let last: Vec<mysql_async::Row> = pair.query(0, "SHOW BINARY LOGS").await;
    let file: String = last.last().unwrap().get(0).unwrap();
    // A file that a stream still reads is not purged, and the server sees only with its next
    // heartbeat that the stream has gone.
    let streams =
        "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE COMMAND LIKE 'Binlog Dump%'";
    let deadline = std::time::Instant::now() + PATIENCE;
    while pair.query::<i64>(0, streams).await != [0] {
        assert!(std::time::Instant::now() < deadline, "streams stay open");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    // MariaDB keeps a file, with no more than a warning, until InnoDB needs it no longer for its own
    // recovery.
    loop {
        pair.run(0, &format!("PURGE BINARY LOGS TO '{file}'")).await;
        let left: Vec<mysql_async::Row> = pair.query(0, "SHOW BINARY LOGS").await;
        if left[0].get::<String, _>(0).unwrap() == file {
            break;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "the log cannot be purged"
        );
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    pair.start_engine(1).await;
    let message = pair.halted(1).await;
    assert!(
        message.contains("cannot send its log") && message.contains("positions set"),
        "{message}"
    );

    // The way out that it names.
    pair.run(
        1,
        "SET sql_log_bin = 0; INSERT INTO d.t VALUES (5, 5, 5), (6, 6, 6)",
    )
    .await;
    assert!(
        matches!(
            operate::set(&pair.config, "a", "b", "end").await,
            Err(Error::Fenced(_))
        ),
        "not while the engine runs"
    );
    pair.stop_engine(1).await;
    let (_, set) = operate::set(&pair.config, "a", "b", "end").await.unwrap();
    assert!(set.starts_with(&file), "{set}");
    pair.start_engine(0).await;
    pair.start_engine(1).await;
    pair.run(0, "INSERT INTO d.t VALUES (7, 7, 7)").await;
    pair.wait().await;
    pair.assert_equal().await;
}

async fn reset_log(kind: ServerKind) {
    let mut pair = Pair::start(&PairOptions::new(kind), SCHEMA).await;
    pair.run(0, "INSERT INTO d.t VALUES (5, 5, 5)").await;
    pair.wait().await;
    pair.stop_engine(0).await;
    pair.stop_engine(1).await;
    let reset = match kind {
        ServerKind::MariaDb => "RESET MASTER",
        ServerKind::MySql => "RESET BINARY LOGS AND GTIDS",
    };
    pair.run(0, reset).await;
    pair.start_engine(1).await;
    let message = pair.halted(1).await;
    assert!(
        message.contains("reset") && message.contains("positions set"),
        "{message}"
    );
}

async fn second_engine(kind: ServerKind) {
    let pair = Pair::start(&PairOptions::new(kind), SCHEMA).await;
    // With the same folder, and with one of its own as on another host.
    let same = Engine::start(std::sync::Arc::clone(&pair.config), "b").await;
    assert!(matches!(same, Err(Error::Fenced(_))), "{same:?}");
    let mut other = (*pair.config).clone();
    other.engine.data_dir = pair.folder().join("other");
    let other = Engine::start(std::sync::Arc::new(other), "b").await;
    let message = other.map(|_| ()).unwrap_err().to_string();
    assert!(
        message.contains("another engine is running for node b"),
        "{message}"
    );
    pair.run(0, "INSERT INTO d.t VALUES (5, 5, 5)").await;
    pair.wait().await;
    pair.assert_equal().await;
}

async fn statement_format(kind: ServerKind) {
    let pair = Pair::start(&PairOptions::new(kind), SCHEMA).await;
    pair.run(
        0,
        "SET SESSION binlog_format = 'STATEMENT'; UPDATE d.t SET v = 3 WHERE id = 1",
    )
    .await;
    let message = pair.halted(1).await;
    assert!(message.contains("ROW"), "{message}");
}

async fn not_set_up(kind: ServerKind) {
    let pair = Pair::servers(&PairOptions::new(kind)).await;
    let started = Engine::start(std::sync::Arc::clone(&pair.config), "a").await;
    let message = started.map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("twinlog init"), "{message}");
}

async fn row_larger_than_a_packet(kind: ServerKind) {
    let mut options = PairOptions::new(kind);
    options.extra_args = vec!["--max-allowed-packet=4M".to_owned()];
    let pair = Pair::start(
        &options,
        "CREATE DATABASE d; CREATE TABLE d.big (id INT PRIMARY KEY, v LONGBLOB)",
    )
    .await;
    // Fits: twice its size is below the limit.
    pair.run(
        0,
        "INSERT INTO d.big VALUES (1, RANDOM_BYTES(1024)), (2, REPEAT(x'ff00', 800000))",
    )
    .await;
    pair.wait().await;
    pair.assert_equal().await;
    pair.run(0, "INSERT INTO d.big VALUES (3, REPEAT(x'ff00', 1800000))")
        .await;
    let message = pair.halted(1).await;
    assert!(message.contains("max_allowed_packet"), "{message}");
}

/// DDL that removes or moves rows must not do that to rows which its origin had not seen; nor may
/// rows come in behind it as if nothing were.
async fn rows_meet_ddl(kind: ServerKind) {
    let mut statements = vec![
        "DROP TABLE d.p",
        "ALTER TABLE d.p TRUNCATE PARTITION p0",
        "ALTER TABLE d.p DROP PARTITION p0",
        "RENAME TABLE d.p TO d.x, d.q TO d.p",
        "ALTER TABLE d.p RENAME TO d.x",
        "DROP DATABASE d",
    ];
    if kind == ServerKind::MariaDb {
        statements.push("CREATE OR REPLACE TABLE d.p (id INT PRIMARY KEY)");
    }
    let mut pair = Pair::start(&PairOptions::new(kind), "SELECT 1").await;
    for statement in statements {
        pair.stop_engine(0).await;
        pair.stop_engine(1).await;
        pair.both(
            "SET sql_log_bin = 0; DROP DATABASE IF EXISTS d; CREATE DATABASE d; CREATE TABLE d.p (id INT PRIMARY KEY) \
             PARTITION BY RANGE (id) (PARTITION p0 VALUES LESS THAN (100), PARTITION p1 VALUES LESS \
             THAN MAXVALUE); CREATE TABLE d.q LIKE d.p",
        )
        .await;
        twinlog_engine::init::init(&pair.config, true)
            .await
            .unwrap();
        pair.run(0, statement).await;
        pair.run(1, "INSERT INTO d.p VALUES (5)").await;
        pair.start_engine(0).await;
        pair.start_engine(1).await;
        for node in [0, 1] {
            let message = pair.halted(node).await;
            assert!(
                message.contains("concurrent") || message.contains("no such table"),
                "{statement}: {message}"
            );
        }
        let kept: Vec<i32> = pair.query(1, "SELECT id FROM d.p").await;
        assert_eq!(kept, [5], "{statement}");
        // Written down once, whoever is started again.
        for node in [0, 1] {
            pair.stop_engine(node).await;
        }
        for node in [0, 1] {
            pair.start_engine(node).await;
        }
        for node in [0, 1] {
            pair.halted(node).await;
        }
        let unsettled: Vec<(String, String)> = pair
            .query(
                1,
                "SELECT kind, origin FROM twinlog.conflict WHERE winner = 'none'",
            )
            .await;
        assert_eq!(
            unsettled,
            [("definition".to_owned(), "a".to_owned())],
            "{statement}"
        );
        pair.both("DELETE FROM twinlog.conflict").await;
    }
}

/// The log was reset, and has grown past the old position since.
async fn reset_log_that_grew(kind: ServerKind) {
    let mut pair = Pair::start(&PairOptions::new(kind), SCHEMA).await;
    pair.run(0, "INSERT INTO d.t VALUES (5, 5, 5)").await;
    pair.wait().await;
    pair.stop_engine(0).await;
    pair.stop_engine(1).await;
    // A file is known by the second in which it was begun.
    let born: Vec<i64> = pair.query(0, "SELECT UNIX_TIMESTAMP()").await;
    let deadline = std::time::Instant::now() + PATIENCE;
    while pair.query::<i64>(0, "SELECT UNIX_TIMESTAMP()").await == born {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let reset = match kind {
        ServerKind::MariaDb => "RESET MASTER",
        ServerKind::MySql => "RESET BINARY LOGS AND GTIDS",
    };
    pair.run(0, reset).await;
    for id in 100..160 {
        pair.run(0, &format!("INSERT INTO d.t VALUES ({id}, 0, {id})"))
            .await;
    }
    pair.start_engine(1).await;
    let message = pair.halted(1).await;
    assert!(message.contains("reset"), "{message}");
}

/// The node's own log goes backwards under the running engine: what it said of local writes is void.
async fn log_reset_under_the_engine(kind: ServerKind) {
    let pair = Pair::start(&PairOptions::new(kind), SCHEMA).await;
    pair.run(0, "INSERT INTO d.t VALUES (5, 5, 5)").await;
    pair.wait().await;
    let reset = match kind {
        ServerKind::MariaDb => "RESET MASTER",
        ServerKind::MySql => "RESET BINARY LOGS AND GTIDS",
    };
    pair.run(0, reset).await;
    pair.run(0, "UPDATE d.t SET v = 100 WHERE id = 1").await;
    pair.run(1, "UPDATE d.t SET v = 200 WHERE id = 1").await;
    let message = pair.halted(0).await;
    assert!(
        message.contains("reset") && message.contains("twinlog init --force"),
        "{message}"
    );
    let v: Vec<i32> = pair.query(0, "SELECT v FROM d.t WHERE id = 1").await;
    assert_eq!(v, [100], "not overwritten");
}
