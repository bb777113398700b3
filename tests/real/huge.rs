//! Transactions that do not fit into the engine's memory: they go to disk, and everything that holds of
//! a transaction holds of them.

use twinlog_cli::sandbox::ServerKind;
use twinlog_harness::{Pair, PairOptions};

/// The least that may be configured: a transaction goes to disk from 2 MiB on.
const MEMORY: &str = "memory = \"64MiB\"\nshutdown_timeout = \"1s\"";

/// `number` is there to fill tables from; rows of `big` are large, `name` is a text key that the server
/// weighs, `part` refers to `big` on the way.
const SCHEMA: &str = "CREATE DATABASE d; USE d; \
    CREATE TABLE digit (n INT PRIMARY KEY); INSERT INTO digit VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9); \
    CREATE TABLE big (id INT PRIMARY KEY, n INT NOT NULL, pad VARCHAR(300) NOT NULL); \
    CREATE TABLE name (id INT PRIMARY KEY, name VARCHAR(60) NOT NULL, UNIQUE KEY (name)) DEFAULT CHARSET utf8mb4; \
    CREATE TABLE part (id INT PRIMARY KEY, big INT NOT NULL, pad VARCHAR(200) NOT NULL, \
      FOREIGN KEY (big) REFERENCES big (id) ON DELETE CASCADE)";

/// 0 to 4999.
const NUMBERS: &str = "SELECT a.n + 10 * b.n + 100 * c.n + 1000 * e.n AS n \
    FROM digit a, digit b, digit c, digit e WHERE e.n < 5";

on_both!(
    is_applied_whole,
    meets_concurrent_writes,
    is_begun_anew_when_the_engine_dies,
    a_client_writes_one_of_its_rows_meanwhile,
);

async fn pair(kind: ServerKind) -> Pair {
    let mut options = PairOptions::new(kind);
    options.engine = MEMORY.to_owned();
    Pair::start(&options, SCHEMA).await
}

/// A reader at the target sees all of a transaction or nothing of it (INV-PREFIX), once (INV-ONCE),
/// with what was rolled back to a savepoint left out.
async fn is_applied_whole(kind: ServerKind) {
    let pair = pair(kind).await;
    let write = async {
        pair.run(
            0,
            &format!(
                "USE d; BEGIN; \
                 INSERT INTO big SELECT n, 0, REPEAT('x', 200) FROM ({NUMBERS}) AS t; \
                 SAVEPOINT here; \
                 INSERT INTO big SELECT n + 10000, 0, REPEAT('y', 200) FROM ({NUMBERS}) AS t; \
                 ROLLBACK TO here; \
                 INSERT INTO big SELECT n + 10000, 1, REPEAT('z', 200) FROM ({NUMBERS}) AS t; \
                 INSERT INTO name SELECT n, CONCAT('Näme ', n) FROM ({NUMBERS}) AS t; \
                 UPDATE big SET n = n + 1 WHERE id < 4500; \
                 INSERT INTO part SELECT n, n, REPEAT('p', 200) FROM ({NUMBERS}) AS t; \
                 DELETE FROM big WHERE id BETWEEN 500 AND 599; \
                 UPDATE name SET name = CONCAT('n', id) WHERE id < 2500; \
                 COMMIT"
            ),
        )
        .await;
        pair.wait().await;
    };
    let look = async {
        let mut seen = Vec::new();
        loop {
            let counts: Vec<(i64, i64)> = pair
                .query(
                    1,
                    "SELECT (SELECT COUNT(*) FROM d.big), (SELECT COUNT(*) FROM d.part)",
                )
                .await;
            if seen.last() != Some(&counts[0]) {
                seen.push(counts[0]);
            }
            if counts[0].1 != 0 {
                return seen;
            }
        }
    };
    let ((), seen) = tokio::join!(write, look);
    assert_eq!(seen, [(0, 0), (9_900, 4_900)]);
    pair.assert_equal().await;
    let link = pair.link_to(1);
    assert_eq!(
        (link.huge_transactions, link.applied_transactions),
        (1, 1),
        "{link:#?}"
    );
    // And back: rows that came this way may be changed in one transaction at the other node.
    pair.run(
        1,
        "USE d; BEGIN; UPDATE big SET pad = CONCAT(pad, n) WHERE LENGTH(pad) < 200 OR id > 0; \
         DELETE FROM name WHERE id % 3 = 0; COMMIT",
    )
    .await;
    pair.wait().await;
    pair.assert_equal().await;
    assert_eq!(pair.link_to(0).huge_transactions, 1);
    pair.assert_no_loops();
}

/// Concurrent writes of some of its rows, one of them as large itself, are settled alike at both nodes.
async fn meets_concurrent_writes(kind: ServerKind) {
    let mut pair = pair(kind).await;
    pair.run(
        0,
        &format!(
            "USE d; INSERT INTO big SELECT n, 0, REPEAT('x', 180) FROM ({NUMBERS}) AS t; \
             INSERT INTO name SELECT n, CONCAT('a', n) FROM ({NUMBERS}) AS t"
        ),
    )
    .await;
    pair.wait().await;
    pair.stop_engine(0).await;
    pair.stop_engine(1).await;
    let all = "BEGIN; UPDATE big SET n = n + 1, pad = CONCAT(pad, 'a'); \
        UPDATE name SET name = CONCAT('A', id + 20000) WHERE id < 4000; COMMIT";
    pair.run(0, &format!("USE d; {all}")).await;
    // Rows at both ends, a unique value that the other takes too, a delete; and half of all rows.
    pair.run(
        1,
        "USE d; UPDATE big SET n = 100 WHERE id IN (0, 4999); DELETE FROM big WHERE id = 2500; \
         UPDATE name SET name = 'a20007' WHERE id = 4500; \
         BEGIN; UPDATE big SET pad = REPEAT('b', 190) WHERE id % 20 = 3; COMMIT",
    )
    .await;
    pair.start_engine(0).await;
    pair.start_engine(1).await;
    pair.wait().await;
    pair.assert_equal().await;
    let conflicts: Vec<i64> = pair.query(1, "SELECT COUNT(*) FROM twinlog.conflict").await;
    assert!(conflicts[0] >= 250, "{conflicts:?}");
    assert_eq!(pair.link_to(1).huge_transactions, 1);
    let counted: u64 = pair.link_to(1).conflicts.iter().map(|of| of.count).sum();
    assert_eq!(i64::try_from(counted).unwrap(), conflicts[0]);
}

/// Killed in the middle of it, and stopped in the middle of it: nothing is lost or doubled.
async fn is_begun_anew_when_the_engine_dies(kind: ServerKind) {
    let mut pair = pair(kind).await;
    pair.run(
        0,
        &format!(
            "USE d; BEGIN; INSERT INTO big SELECT n, 0, REPEAT('x', 200) FROM ({NUMBERS}) AS t; \
             INSERT INTO big SELECT n + 10000, 0, REPEAT('x', 200) FROM ({NUMBERS}) AS t; \
             UPDATE big SET n = n + 1; COMMIT"
        ),
    )
    .await;
    for round in 0..3 {
        // Its rows are being written: their locks are there, they are not.
        let begun = std::time::Instant::now();
        let held = loop {
            let modified = "SELECT CAST(COALESCE(MAX(trx_rows_modified), 0) AS UNSIGNED) \
                 FROM information_schema.INNODB_TRX";
            let modified: Vec<u64> = pair.query(1, modified).await;
            let there: Vec<i64> = pair.query(1, "SELECT COUNT(*) FROM d.big").await;
            if there[0] > 0 {
                break false;
            }
            if modified[0] > 1000 {
                break true;
            }
            assert!(begun.elapsed() < twinlog_harness::pair::PATIENCE);
            // Asked more often than ten times a second, InnoDB gives the old answer.
            tokio::time::sleep(std::time::Duration::from_millis(120)).await;
        };
        if !held {
            break;
        }
        if round == 1 {
            // Within the time that is configured, and three seconds more for a goodbye.
            let begun = std::time::Instant::now();
            pair.stop_engine(1).await;
            let stopped = begun.elapsed();
            assert!(stopped < std::time::Duration::from_secs(6), "{stopped:?}");
            pair.start_engine(1).await;
        } else {
            pair.kill_engine(1).await;
        }
    }
    pair.wait().await;
    pair.assert_equal().await;
    let sums: Vec<(i64, i64)> = pair
        .query(1, "SELECT COUNT(*), CAST(SUM(n) AS SIGNED) FROM d.big")
        .await;
    assert_eq!(sums, [(10_000, 10_000)]);
    assert_eq!(pair.link_to(1).applied_transactions, 1);
}

/// A client's write that is not committed when the window is asked, and is when the row's lock is given on:
/// only what is asked before the commit can find it.
async fn a_client_writes_one_of_its_rows_meanwhile(kind: ServerKind) {
    use mysql_async::prelude::Queryable as _;
    let pair = pair(kind).await;
    pair.run(
        0,
        &format!("USE d; INSERT INTO big SELECT n, 0, REPEAT('x', 180) FROM ({NUMBERS}) AS t"),
    )
    .await;
    pair.wait().await;
    let mut client = pair.servers[1].connect().await.unwrap();
    client
        .query_drop("BEGIN; UPDATE d.big SET n = 777 WHERE id = 4000")
        .await
        .unwrap();
    pair.run(0, "UPDATE d.big SET n = n + 1, pad = CONCAT(pad, 'a')")
        .await;
    let waits = "SELECT COUNT(*) FROM information_schema.INNODB_TRX WHERE trx_state = 'LOCK WAIT'";
    let begun = std::time::Instant::now();
    while pair.query::<i64>(1, waits).await == [0] {
        assert!(begun.elapsed() < twinlog_harness::pair::PATIENCE);
        // Asked more often than ten times a second, InnoDB gives the old answer.
        tokio::time::sleep(std::time::Duration::from_millis(120)).await;
    }
    client.query_drop("COMMIT").await.unwrap();
    pair.wait().await;
    pair.assert_equal().await;
    // Who wins is open where commit times are whole seconds (MariaDB); that they met is not.
    let link = pair.link_to(1);
    assert_eq!(link.huge_transactions, 1, "{link:#?}");
    let counted: u64 = link.conflicts.iter().map(|of| of.count).sum();
    assert_eq!(counted, 1, "{link:#?}");
}
