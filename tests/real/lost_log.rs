//! A log that lost something, or is not the log that it was: each check that is to notice it, with what
//! it says and the next step that it names. Nothing is overwritten or passed over meanwhile.

use std::time::Instant;

use mysql_async::prelude::Queryable as _;
use twinlog_cli::sandbox::ServerKind;
use twinlog_engine::status::State;
use twinlog_harness::image::{Image, Part};
use twinlog_harness::pair::PATIENCE;
use twinlog_harness::{Pair, PairOptions};

const SCHEMA: &str = "CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY, v INT NOT NULL)";

on_both!(
    log_and_tables_lost_the_same,
    log_lost_what_the_peer_has,
    log_lost_what_the_tables_have,
    tables_lost_what_the_log_has,
    crash_stays_in_status,
    restored_backup,
    another_server,
    own_log_purged,
    numbers_left_out,
);

/// Servers that sync nothing at a commit, with engines.
async fn pair(kind: ServerKind) -> Pair {
    let mut options = PairOptions::new(kind);
    options.extra_args = vec![
        "--sync-binlog=0".to_owned(),
        "--innodb-flush-log-at-trx-commit=2".to_owned(),
    ];
    Pair::start(&options, SCHEMA).await
}

/// One transaction for each of these rows.
async fn insert(pair: &Pair, node: usize, ids: std::ops::Range<i32>) {
    let mut client = pair.servers[node].connect().await.unwrap();
    for id in ids {
        client
            .query_drop(format!("INSERT INTO d.t VALUES ({id}, {node})"))
            .await
            .unwrap();
    }
}

async fn ids(pair: &Pair, node: usize) -> Vec<i32> {
    pair.query(node, "SELECT id FROM d.t ORDER BY id").await
}

/// The machine of node a crashes: of these files only what the image has was on disk.
async fn crash(pair: &mut Pair, image: &Image, part: Part) {
    pair.servers[0].kill9().await;
    image.restore(&pair.servers[0], part);
    pair.servers[0].start_again().await.unwrap();
}

/// What a message must have.
fn says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
}

/// A file of the log is known by the second in which it was begun.
async fn next_second(pair: &Pair) {
    let clock = "SELECT UNIX_TIMESTAMP()";
    let now: Vec<i64> = pair.query(1, clock).await;
    let deadline = Instant::now() + PATIENCE;
    while pair.query::<i64>(1, clock).await == now {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Both engines are stopped; the nodes are made alike as messages say, here by what node b has.
async fn made_alike(pair: &mut Pair) {
    pair.stop_engine(0).await;
    pair.stop_engine(1).await;
    let rows: Vec<(i32, i32)> = pair.query(1, "SELECT id, v FROM d.t").await;
    let rows: Vec<String> = rows.iter().map(|row| format!("{row:?}")).collect();
    pair.run(
        0,
        &format!(
            "SET sql_log_bin = 0; DELETE FROM d.t; INSERT INTO d.t VALUES {}",
            rows.join(", ")
        ),
    )
    .await;
    pair.assert_equal().await;
    twinlog_engine::init::init(&pair.config, true)
        .await
        .unwrap();
    pair.start_engine(0).await;
    pair.start_engine(1).await;
    insert(pair, 0, 9000..9003).await;
    insert(pair, 1, 9003..9006).await;
    pair.wait().await;
    pair.assert_equal().await;
}

/// Node a goes back to an earlier moment, log and tables alike, with engines that run on. Both say so,
/// and what the other one has is not touched.
async fn log_and_tables_lost_the_same(kind: ServerKind) {
    let mut pair = pair(kind).await;
    insert(&pair, 0, 0..5).await;
    pair.wait().await;
    let image = Image::of(&pair.servers[0]);
    insert(&pair, 0, 5..25).await;
    pair.wait().await;
    crash(&mut pair, &image, Part::Everything).await;
    let message = pair.halted(1).await;
    println!("{kind}: {message}");
    says(
        &message,
        &[
            "binlog of node a",
            "lost committed transactions in a crash",
            "twinlog verify",
            "twinlog init --force",
        ],
    );
    let message = pair.halted(0).await;
    println!("{kind}: {message}");
    says(&message, &["node a", "twinlog init --force"]);
    assert_eq!(ids(&pair, 0).await, (0..5).collect::<Vec<_>>());
    assert_eq!(ids(&pair, 1).await, (0..25).collect::<Vec<_>>());
    made_alike(&mut pair).await;
}

/// The same, and by the time that the engines look, clients of a have written more than was lost: the
/// GTIDs that b knows are given out anew.
async fn log_lost_what_the_peer_has(kind: ServerKind) {
    let mut pair = pair(kind).await;
    insert(&pair, 0, 0..5).await;
    pair.wait().await;
    let image = Image::of(&pair.servers[0]);
    insert(&pair, 0, 5..10).await;
    pair.wait().await;
    pair.stop_engine(0).await;
    pair.stop_engine(1).await;
    crash(&mut pair, &image, Part::Everything).await;
    insert(&pair, 0, 100..160).await;
    pair.start_engine(1).await;
    let message = pair.halted(1).await;
    println!("{kind}: {message}");
    says(
        &message,
        &["binlog of node a", "lost", "twinlog init --force"],
    );
    // The other way: node b must not take what it has for what a has now. Its writes to rows that a's
    // clients wrote since are concurrent, and none of them may be put over a's.
    pair.run(1, "SET sql_log_bin = 0; INSERT INTO d.t VALUES (100, 0)")
        .await;
    pair.run(1, "UPDATE d.t SET v = 7 WHERE id = 100").await;
    pair.start_engine(0).await;
    let message = pair.halted(0).await;
    println!("{kind}: {message}");
    says(&message, &["node a", "twinlog init --force"]);
    let v: Vec<i32> = pair.query(0, "SELECT v FROM d.t WHERE id = 100").await;
    assert_eq!(v, [0], "a's write is not overwritten");
}

/// The log alone lost transactions, which the tables have and b does not: it was away. What b misses
/// would never come.
async fn log_lost_what_the_tables_have(kind: ServerKind) {
    let mut pair = pair(kind).await;
    insert(&pair, 0, 0..5).await;
    pair.wait().await;
    pair.stop_engine(0).await;
    pair.stop_engine(1).await;
    let image = Image::of(&pair.servers[0]);
    pair.start_engine(0).await;
    insert(&pair, 0, 5..25).await;
    // Engine a has read these in its node's log, and writes that down.
    let (_, end) = log_end(&pair).await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let read = pair.engines[0].as_ref().unwrap().status().tailer.position;
        let read: u64 = read.rsplit(':').next().unwrap().parse().unwrap();
        if read >= end {
            break;
        }
        assert!(Instant::now() < deadline);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    pair.stop_engine(0).await;
    pair.run(0, "FLUSH ENGINE LOGS").await;
    crash(&mut pair, &image, Part::Log).await;
    assert_eq!(ids(&pair, 0).await.len(), 25, "the tables have them");
    insert(&pair, 0, 25..30).await;
    pair.start_engine(0).await;
    pair.start_engine(1).await;
    let message = pair.halted(0).await;
    println!("{kind}: {message}");
    says(
        &message,
        &[
            "node a",
            "this engine has read it up to",
            "twinlog init --force",
        ],
    );
    if kind == ServerKind::MySql {
        let message = pair.halted(1).await;
        println!("{kind}: {message}");
        says(
            &message,
            &[
                "its GTIDs go from number",
                "sync_binlog",
                "twinlog verify",
                "twinlog init --force",
            ],
        );
        assert_eq!(ids(&pair, 1).await, (0..5).collect::<Vec<_>>());
    }
}

async fn log_end(pair: &Pair) -> (String, u64) {
    let status = match pair.servers[0].kind() {
        ServerKind::MySql => "SHOW BINARY LOG STATUS",
        ServerKind::MariaDb => "SHOW MASTER STATUS",
    };
    let rows: Vec<mysql_async::Row> = pair.query(0, status).await;
    (rows[0].get(0).unwrap(), rows[0].get(1).unwrap())
}

/// A crash with relaxed settings that nothing else shows is said in status until the engine is started
/// anew.
async fn crash_stays_in_status(kind: ServerKind) {
    let mut pair = pair(kind).await;
    insert(&pair, 0, 0..5).await;
    pair.wait().await;
    assert_eq!(pair.link_to(1).source_crash, None);
    pair.servers[0].kill9().await;
    pair.servers[0].start_again().await.unwrap();
    insert(&pair, 0, 5..10).await;
    pair.wait().await;
    let said = pair.link_to(1).source_crash.unwrap();
    says(
        &said,
        &["its server crashed", "sync_binlog = 0", "twinlog verify"],
    );
    assert_eq!(pair.link_to(0).source_crash, None);
    pair.stop_engine(1).await;
    pair.start_engine(1).await;
    insert(&pair, 0, 10..15).await;
    pair.wait().await;
    assert_eq!(pair.link_to(1).source_crash, None);
}

/// The tables alone lost transactions, which the log and so b have. The marker row, which they had too,
/// gives it away.
async fn tables_lost_what_the_log_has(kind: ServerKind) {
    let mut pair = pair(kind).await;
    insert(&pair, 0, 0..5).await;
    insert(&pair, 1, 1000..1005).await;
    pair.wait().await;
    let image = Image::of(&pair.servers[0]);
    insert(&pair, 0, 5..25).await;
    insert(&pair, 1, 1005..1010).await;
    pair.wait().await;
    crash(&mut pair, &image, Part::Tables).await;
    // What was applied at a comes again, and moves the marker row once more.
    for node in [1, 0] {
        let message = pair.halted(node).await;
        println!("{kind}: {message}");
        says(
            &message,
            &[
                "the marker row of node b goes on from",
                "the tables lost transactions that the log has",
                "innodb_flush_log_at_trx_commit",
                "twinlog verify",
                "twinlog init --force",
            ],
        );
    }
    made_alike(&mut pair).await;
}

/// A backup of the whole folder is put back: positions lie behind the log's end, or in a log of the same
/// name that has grown past them.
async fn restored_backup(kind: ServerKind) {
    let mut pair = pair(kind).await;
    insert(&pair, 0, 0..5).await;
    pair.wait().await;
    pair.stop_engine(0).await;
    pair.servers[0].stop().await;
    let image = Image::of(&pair.servers[0]);
    pair.servers[0].start_again().await.unwrap();
    pair.start_engine(0).await;
    insert(&pair, 0, 5..25).await;
    pair.wait().await;
    pair.stop_engine(0).await;
    pair.stop_engine(1).await;
    pair.servers[0].stop().await;
    next_second(&pair).await;
    image.restore(&pair.servers[0], Part::Everything);
    pair.servers[0].start_again().await.unwrap();
    pair.start_engine(1).await;
    let message = pair.halted(1).await;
    println!("{kind}: {message}");
    says(
        &message,
        &[
            "node b has applied its log up to",
            "restored from a backup",
            "twinlog init --force",
        ],
    );
    // The engine of the node itself.
    pair.start_engine(0).await;
    let message = pair.halted(0).await;
    println!("{kind}: {message}");
    says(&message, &["node a", "twinlog init --force"]);
    pair.stop_engine(0).await;
    pair.stop_engine(1).await;

    // Longer than the old one, by one transaction.
    pair.run(
        0,
        "INSERT INTO d.t WITH RECURSIVE n (i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n WHERE i < 1900) \
         SELECT i, 0 FROM n",
    )
    .await;
    pair.start_engine(1).await;
    let message = pair.halted(1).await;
    println!("{kind}: {message}");
    says(
        &message,
        &[
            "is not among those that the server knows of",
            "restored from a backup",
            "twinlog verify",
            "twinlog init --force",
        ],
    );
    pair.stop_engine(1).await;

    // And by so many that the old GTIDs are given out anew.
    insert(&pair, 0, 100..160).await;
    pair.start_engine(1).await;
    let message = pair.halted(1).await;
    println!("{kind}: {message}");
    says(
        &message,
        &[
            "is not the file that was read before",
            "restored from a backup",
            "twinlog init --force",
        ],
    );
    pair.start_engine(0).await;
    let message = pair.halted(0).await;
    println!("{kind}: {message}");
    says(&message, &["node a", "twinlog init --force"]);
    assert_eq!(ids(&pair, 1).await, (0..25).collect::<Vec<_>>());
    made_alike(&mut pair).await;
}

/// Another server answers under the node's address: by its UUID (MySQL), which a server without its
/// auto.cnf makes anew; by its server_id on both. MariaDB has no UUID.
async fn another_server(kind: ServerKind) {
    let mut pair = pair(kind).await;
    insert(&pair, 0, 0..5).await;
    pair.wait().await;
    let relaxed = pair.servers[0].options().extra_args.clone();
    if kind == ServerKind::MySql {
        pair.servers[0].stop().await;
        let auto = pair.servers[0].datadir().join("auto.cnf");
        let kept = std::fs::read(&auto).unwrap();
        std::fs::remove_file(&auto).unwrap();
        pair.servers[0].start_again().await.unwrap();
        insert(&pair, 0, 5..10).await;
        for node in [1, 0] {
            let message = pair.halted(node).await;
            println!("{kind}: {message}");
            says(
                &message,
                &[
                    "node a",
                    "its server_uuid is",
                    "another server, or was set up anew",
                    "twinlog init --force",
                ],
            );
        }
        assert_eq!(ids(&pair, 1).await.len(), 5);
        // Put back, it is the node again. What it wrote under the other name is still its own.
        pair.stop_engine(0).await;
        pair.stop_engine(1).await;
        pair.servers[0].stop().await;
        std::fs::write(&auto, kept).unwrap();
        pair.servers[0].start_again().await.unwrap();
        pair.start_engine(0).await;
        pair.start_engine(1).await;
        pair.wait().await;
        pair.assert_equal().await;
    }
    let mut other = relaxed.clone();
    other.push("--server-id=77".to_owned());
    pair.servers[0].restart_with(&other).await.unwrap();
    for node in [1, 0] {
        let message = pair.halted(node).await;
        println!("{kind}: {message}");
        says(
            &message,
            &[
                "node a",
                "its server_id is 77, and was 1",
                "twinlog init --force",
            ],
        );
    }
    pair.stop_engine(0).await;
    pair.stop_engine(1).await;
    pair.servers[0].restart_with(&relaxed).await.unwrap();
    pair.start_engine(0).await;
    pair.start_engine(1).await;
    insert(&pair, 0, 10..15).await;
    pair.wait().await;
    pair.assert_equal().await;
}

/// The node's own log was purged while both engines were away: the window cannot be rebuilt.
async fn own_log_purged(kind: ServerKind) {
    let mut pair = pair(kind).await;
    insert(&pair, 0, 0..5).await;
    pair.wait().await;
    pair.stop_engine(0).await;
    pair.stop_engine(1).await;
    insert(&pair, 0, 5..10).await;
    pair.run(0, "FLUSH BINARY LOGS").await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let logs: Vec<mysql_async::Row> = pair.query(0, "SHOW BINARY LOGS").await;
        if logs.len() == 1 {
            break;
        }
        let last: String = logs.last().unwrap().get(0).unwrap();
        pair.run(0, &format!("PURGE BINARY LOGS TO '{last}'")).await;
        assert!(Instant::now() < deadline, "the log cannot be purged");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    pair.start_engine(0).await;
    let message = pair.halted(0).await;
    println!("{kind}: {message}");
    says(
        &message,
        &[
            "the tailer of node a is halted",
            "cannot send its log from",
            "purged",
            "twinlog init --force",
        ],
    );
    assert_eq!(pair.link_to(0).state, State::Halted);
}

/// GTIDs whose numbers go on behind a gap, at a node that its peer has not read up to there. A MySQL server leaves
/// none out by itself: both engines stop in front of it, and the step that they name takes them over it. On
/// MariaDB any higher number may be next.
async fn numbers_left_out(kind: ServerKind) {
    let mut pair = pair(kind).await;
    insert(&pair, 0, 0..5).await;
    pair.wait().await;
    pair.stop_engine(0).await;
    pair.stop_engine(1).await;
    insert(&pair, 0, 5..7).await;
    if kind == ServerKind::MariaDb {
        pair.run(
            0,
            "SET gtid_seq_no = 4711000; INSERT INTO d.t VALUES (7, 0)",
        )
        .await;
    } else {
        let uuid: Vec<String> = pair.query(0, "SELECT @@server_uuid").await;
        let executed: Vec<String> = pair.query(0, "SELECT @@GLOBAL.gtid_executed").await;
        let own = executed[0]
            .split(',')
            .map(str::trim)
            .find(|set| set.starts_with(&uuid[0]));
        let last: u64 = own
            .unwrap()
            .rsplit([':', '-'])
            .next()
            .unwrap()
            .parse()
            .unwrap();
        let (from, to) = (last + 1, last + 10);
        pair.run(
            0,
            &format!("SET GLOBAL gtid_purged = '+{}:{from}-{to}'", uuid[0]),
        )
        .await;
        insert(&pair, 0, 7..8).await;
        pair.start_engine(1).await;
        pair.start_engine(0).await;
        let mut next_step = String::new();
        for node in [0, 1] {
            let message = pair.halted(node).await;
            println!("{kind}: {message}");
            let gap = format!("its GTIDs go from number {last} to {}", to + 1);
            says(&message, &[&gap, "gtid_purged", "twinlog verify"]);
            let step = message.split("`twinlog positions set .. ").nth(1);
            step.unwrap()
                .split('`')
                .next()
                .unwrap()
                .clone_into(&mut next_step);
        }
        // What stands in front of it is applied, and nothing behind it.
        assert_eq!(ids(&pair, 1).await, (0..7).collect::<Vec<_>>());
        pair.stop_engine(0).await;
        pair.stop_engine(1).await;
        twinlog_engine::position::operate::set(&pair.config, "a", "b", &next_step)
            .await
            .unwrap();
    }
    pair.start_engine(1).await;
    pair.start_engine(0).await;
    insert(&pair, 0, 8..10).await;
    insert(&pair, 1, 10..12).await;
    pair.wait().await;
    pair.assert_equal().await;
    assert_eq!(ids(&pair, 1).await, (0..12).collect::<Vec<_>>());
}
