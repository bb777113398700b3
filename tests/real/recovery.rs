//! After a stop, a crash or a lost connection each link goes on where it left off, and every
//! transaction takes effect once.

use std::time::Duration;

use twinlog_cli::sandbox::ServerKind;
use twinlog_harness::image::copy;
use twinlog_harness::{Pair, PairOptions};

const SCHEMA: &str = "CREATE DATABASE d; \
    CREATE TABLE d.counter (id INT PRIMARY KEY, n BIGINT NOT NULL); INSERT INTO d.counter VALUES (1, 0), (2, 0); \
    CREATE TABLE d.log (id BIGINT AUTO_INCREMENT PRIMARY KEY, node INT, n BIGINT)";

on_both!(
    engine_dies_again_and_again,
    servers_die,
    store_is_lost_or_stale,
    logs_rotate,
    locked_rows_only_delay,
    a_server_that_hangs,
    a_node_out_of_writing,
);

/// Counts up on each node's own row, and writes down every step.
async fn write(pair: &Pair, node: usize, rounds: u32) {
    let mut conn = pair.servers[node].connect().await.unwrap();
    use mysql_async::prelude::Queryable;
    let id = node + 1;
    for _ in 0..rounds {
        conn.query_drop("START TRANSACTION").await.unwrap();
        conn.query_drop(format!("UPDATE d.counter SET n = n + 1 WHERE id = {id}"))
            .await
            .unwrap();
        conn.query_drop(format!(
            "INSERT INTO d.log (node, n) SELECT {id}, n FROM d.counter WHERE id = {id}"
        ))
        .await
        .unwrap();
        conn.query_drop("COMMIT").await.unwrap();
    }
}

async fn assert_counted(pair: &Pair, expected: i64) {
    pair.assert_equal().await;
    for node in [0, 1] {
        let counters: Vec<i64> = pair
            .query(node, "SELECT n FROM d.counter ORDER BY id")
            .await;
        assert_eq!(counters, [expected, expected]);
        let logged: Vec<(i64, i64)> = pair
            .query(
                node,
                "SELECT COUNT(*), COUNT(DISTINCT n) FROM d.log GROUP BY node",
            )
            .await;
        assert_eq!(logged, [(expected, expected); 2]);
    }
    pair.assert_no_loops();
}

async fn engine_dies_again_and_again(kind: ServerKind) {
    let mut pair = Pair::start(&PairOptions::new(kind), SCHEMA).await;
    let rounds = 40;
    for round in 0..10 {
        write(&pair, 0, rounds / 2).await;
        write(&pair, 1, rounds).await;
        // Dropped, not shut down: whatever it had in hand is gone.
        drop(pair.engines[round % 2].take());
        write(&pair, 0, rounds / 2).await;
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        loop {
            // The server may need a moment to see that the old engine's connections are gone.
            let started = twinlog_engine::replicator::Engine::start(
                std::sync::Arc::clone(&pair.config),
                twinlog_harness::pair::NODES[round % 2],
            )
            .await;
            match started {
                Ok(engine) => {
                    pair.engines[round % 2] = Some(engine);
                    break;
                }
                Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
            }
        }
    }
    pair.wait().await;
    assert_counted(&pair, i64::from(rounds) * 10).await;
}

async fn servers_die(kind: ServerKind) {
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
    for round in 0..4 {
        tokio::join!(write(&pair, 0, 50), write(&pair, 1, 50));
        pair.servers[round % 2].kill9().await;
        write(&pair, (round + 1) % 2, 25).await;
        pair.servers[round % 2].start_again().await.unwrap();
        write(&pair, round % 2, 25).await;
    }
    pair.wait().await;
    assert_counted(&pair, 300).await;
}

async fn store_is_lost_or_stale(kind: ServerKind) {
    let mut pair = Pair::start(&PairOptions::new(kind), SCHEMA).await;
    write(&pair, 0, 30).await;
    write(&pair, 1, 30).await;
    pair.wait().await;
    pair.stop_engine(1).await;
    let store = pair.folder().join("data/b/positions");
    let stale = pair.folder().join("stale");
    copy(&store, &stale);
    pair.start_engine(1).await;
    write(&pair, 0, 30).await;
    write(&pair, 1, 30).await;
    pair.wait().await;
    pair.stop_engine(1).await;
    // An old one in its place: believed nowhere.
    std::fs::remove_dir_all(&store).unwrap();
    copy(&stale, &store);
    pair.start_engine(1).await;
    write(&pair, 0, 30).await;
    write(&pair, 1, 30).await;
    pair.wait().await;
    pair.stop_engine(1).await;
    // None at all.
    std::fs::remove_dir_all(&store).unwrap();
    pair.start_engine(1).await;
    write(&pair, 0, 10).await;
    write(&pair, 1, 10).await;
    pair.wait().await;
    assert_counted(&pair, 100).await;
}

async fn logs_rotate(kind: ServerKind) {
    let mut pair = Pair::start(&PairOptions::new(kind), SCHEMA).await;
    for round in 0..5 {
        write(&pair, 0, 10).await;
        pair.run(0, "FLUSH BINARY LOGS").await;
        write(&pair, 1, 10).await;
        if round % 2 == 0 {
            pair.run(1, "FLUSH BINARY LOGS").await;
        }
    }
    pair.wait().await;
    pair.stop_engine(0).await;
    pair.stop_engine(1).await;
    pair.run(0, "FLUSH BINARY LOGS; FLUSH BINARY LOGS").await;
    pair.start_engine(0).await;
    pair.start_engine(1).await;
    pair.wait().await;
    assert_counted(&pair, 50).await;
}

async fn locked_rows_only_delay(kind: ServerKind) {
    use mysql_async::prelude::Queryable;
    let pair = Pair::start(
        &PairOptions {
            extra_args: vec!["--innodb-lock-wait-timeout=1".to_owned()],
            ..PairOptions::new(kind)
        },
        SCHEMA,
    )
    .await;
    let mut client = pair.servers[1].connect().await.unwrap();
    client.query_drop("START TRANSACTION").await.unwrap();
    client
        .query_drop("SELECT n FROM d.counter WHERE id = 1 FOR UPDATE")
        .await
        .unwrap();
    write(&pair, 0, 5).await;
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while pair.link_to(1).retries == 0 {
        assert!(
            std::time::Instant::now() < deadline,
            "{:#?}",
            pair.link_to(1)
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(
        pair.link_to(1).regrouped,
        0,
        "a lock is no reason to take a group apart"
    );
    client.query_drop("ROLLBACK").await.unwrap();
    write(&pair, 1, 5).await;
    pair.wait().await;
    assert_counted(&pair, 5).await;
}

/// A server that keeps its connections and says nothing any more, as behind a broken link.
async fn a_server_that_hangs(kind: ServerKind) {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    let pair = Pair::start(&PairOptions::new(kind), SCHEMA).await;
    write(&pair, 0, 5).await;
    pair.wait().await;
    let server = Pid::from_raw(i32::try_from(pair.servers[0].pid()).unwrap());
    kill(server, Signal::SIGSTOP).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        let link = pair.link_to(1);
        if link.state == twinlog_engine::status::State::Retrying {
            let message = link.last_error.unwrap();
            assert!(message.contains("node a"), "{message}");
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{link:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The other master goes on taking writes meanwhile.
    write(&pair, 1, 10).await;
    kill(server, Signal::SIGCONT).unwrap();
    write(&pair, 0, 5).await;
    pair.wait().await;
    assert_counted(&pair, 10).await;
}

/// Taken out of writing for a backup, and put back: the links wait, and lose nothing.
async fn a_node_out_of_writing(kind: ServerKind) {
    let mut pair = Pair::servers(&PairOptions::new(kind)).await;
    pair.both(SCHEMA).await;
    // root could write all the same; the engine's account must not.
    let account = match kind {
        ServerKind::MariaDb => {
            "CREATE USER engine@'127.0.0.1' IDENTIFIED BY 'word'; \
             GRANT REPLICATION SLAVE, BINLOG MONITOR, BINLOG REPLAY, BINLOG ADMIN ON *.* TO engine@'127.0.0.1'; \
             GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, LOCK TABLES, REFERENCES, CREATE VIEW, \
             SHOW VIEW, TRIGGER ON *.* TO engine@'127.0.0.1'"
        }
        ServerKind::MySql => {
            "CREATE USER engine@'127.0.0.1' IDENTIFIED BY 'word'; \
             GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO engine@'127.0.0.1'; \
             GRANT REPLICATION_APPLIER, SESSION_VARIABLES_ADMIN ON *.* TO engine@'127.0.0.1'; \
             GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, LOCK TABLES, REFERENCES, CREATE VIEW, \
             SHOW VIEW, TRIGGER ON *.* TO engine@'127.0.0.1'"
        }
    };
    pair.both(account).await;
    pair.log_in_as("engine", "word");
    twinlog_engine::init::init(&pair.config, false)
        .await
        .unwrap();
    pair.start_engine(0).await;
    pair.start_engine(1).await;
    write(&pair, 0, 5).await;
    write(&pair, 1, 5).await;
    pair.wait().await;
    pair.run(1, "SET GLOBAL read_only = 1").await;
    write(&pair, 0, 5).await;
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        let link = pair.link_to(1);
        if link.state == twinlog_engine::status::State::Retrying {
            assert!(
                link.last_error.as_ref().unwrap().contains("read-only"),
                "{link:#?}"
            );
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{link:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    pair.run(1, "SET GLOBAL read_only = 0").await;
    write(&pair, 1, 5).await;
    pair.wait().await;
    assert_counted(&pair, 10).await;
}
