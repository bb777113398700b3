//! DDL goes to the other node once, in its place among the rows, and never comes back.

use twinlog_cli::sandbox::ServerKind;
use twinlog_harness::{Pair, PairOptions};

const STATEMENTS: &[&str] = &[
    "CREATE DATABASE crm DEFAULT CHARACTER SET latin1",
    "CREATE TABLE crm.person (id INT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(50), born DATE)",
    "INSERT INTO crm.person (name, born) VALUES ('Ada', '1815-12-10'), ('Grace', '1906-12-09')",
    "ALTER TABLE crm.person ADD COLUMN mail VARCHAR(80) NOT NULL DEFAULT 'none' AFTER name",
    "INSERT INTO crm.person (name, mail) VALUES ('Edsger', 'e@x')",
    "UPDATE crm.person SET mail = CONCAT(name, '@y') WHERE id > 1",
    "CREATE INDEX by_mail ON crm.person (mail)",
    "ALTER TABLE crm.person DROP COLUMN born, MODIFY name VARCHAR(60) CHARACTER SET utf8mb4",
    "CREATE TABLE crm.copy LIKE crm.person",
    "INSERT INTO crm.copy SELECT * FROM crm.person",
    "RENAME TABLE crm.copy TO crm.kept",
    "CREATE TABLE crm.chosen (PRIMARY KEY (id)) SELECT id, name FROM crm.person WHERE id > 1",
    "CREATE VIEW crm.mails AS SELECT mail FROM crm.person",
    "CREATE TABLE crm.gone (id INT PRIMARY KEY)",
    "INSERT INTO crm.gone VALUES (1), (2)",
    "TRUNCATE TABLE crm.gone",
    "INSERT INTO crm.gone VALUES (3)",
    "DROP TABLE crm.kept",
    "DROP INDEX by_mail ON crm.person",
    "CREATE DATABASE away",
    "CREATE TABLE away.t (id INT PRIMARY KEY)",
    "DROP DATABASE away",
];

async fn show(pair: &Pair, node: usize) -> Vec<String> {
    let mut shown: Vec<String> = pair.query(node, "SHOW DATABASES").await;
    for table in ["person", "chosen", "gone"] {
        let create: Vec<(String, String)> = pair
            .query(node, &format!("SHOW CREATE TABLE crm.{table}"))
            .await;
        // The next AUTO_INCREMENT value is each node's own.
        let text = &create[0].1;
        let without: String = match text.split_once(" AUTO_INCREMENT=") {
            Some((front, rest)) => {
                front.to_owned() + rest.split_once(' ').map_or("", |(_, rest)| rest)
            }
            None => text.clone(),
        };
        shown.push(without);
    }
    shown.extend(
        pair.query::<String>(
            node,
            "SELECT VIEW_DEFINITION FROM information_schema.VIEWS WHERE TABLE_SCHEMA = 'crm'",
        )
        .await,
    );
    shown
}

async fn replicated(kind: ServerKind) {
    let mut pair = Pair::start(&PairOptions::new(kind), "SELECT 1").await;
    for (index, statement) in STATEMENTS.iter().enumerate() {
        pair.run(0, statement).await;
        if index % 7 == 6 {
            pair.wait().await;
        }
    }
    pair.wait().await;
    pair.assert_equal().await;
    assert_eq!(show(&pair, 0).await, show(&pair, 1).await);
    let link = pair.link_to(1);
    assert_eq!(link.ddl_statements, 16, "{link:#?}");
    // The other way, and then both have seen everything: nothing is run a second time.
    pair.run(1, "ALTER TABLE crm.person ADD COLUMN note TEXT; INSERT INTO crm.person (name, note) VALUES ('Barbara', 'b')").await;
    pair.wait().await;
    pair.wait().await;
    pair.assert_equal().await;
    assert_eq!(show(&pair, 0).await, show(&pair, 1).await);
    assert_eq!(pair.link_to(0).ddl_statements, 1);
    assert_eq!(pair.link_to(1).ddl_statements, 16);
    pair.assert_no_loops();
    // A restart does not run any of it again.
    for node in [0, 1] {
        pair.stop_engine(node).await;
        pair.start_engine(node).await;
    }
    pair.wait().await;
    assert_eq!(
        pair.link_to(0).ddl_statements + pair.link_to(1).ddl_statements,
        0
    );
    pair.assert_equal().await;
}

#[tokio::test]
async fn mariadb_replicates_ddl() {
    replicated(ServerKind::MariaDb).await;
}

#[tokio::test]
async fn mysql_replicates_ddl() {
    replicated(ServerKind::MySql).await;
}

/// Rows of a node that has not seen an ALTER of the other yet still fit.
async fn alter_under_load(kind: ServerKind) {
    let mut pair = Pair::start(
        &PairOptions::new(kind),
        "CREATE DATABASE d; CREATE TABLE d.t (id INT AUTO_INCREMENT PRIMARY KEY, v INT, w INT)",
    )
    .await;
    // Both engines down: each node changes the table without having seen the other's change.
    pair.stop_engine(0).await;
    pair.stop_engine(1).await;
    pair.run(0, "ALTER TABLE d.t ADD COLUMN added INT NOT NULL DEFAULT 7; INSERT INTO d.t (v, added) VALUES (1, 8)").await;
    pair.run(
        1,
        "INSERT INTO d.t (v, w) VALUES (2, 2), (3, 3); UPDATE d.t SET v = 4 WHERE v = 3",
    )
    .await;
    pair.start_engine(0).await;
    pair.start_engine(1).await;
    pair.wait().await;
    pair.assert_equal().await;
    let added: Vec<(i32, i32)> = pair.query(0, "SELECT v, added FROM d.t ORDER BY v").await;
    assert_eq!(added, [(1, 8), (2, 7), (4, 7)]);
}

#[tokio::test]
async fn mariadb_alter_under_load() {
    alter_under_load(ServerKind::MariaDb).await;
}

#[tokio::test]
async fn mysql_alter_under_load() {
    alter_under_load(ServerKind::MySql).await;
}

async fn policies(kind: ServerKind) {
    let mut options = PairOptions::new(kind);
    options.replication = "ddl = \"ignore\"\ndatabases = [\"d\"]".to_owned();
    let pair = Pair::start(
        &options,
        "CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY)",
    )
    .await;
    pair.run(0, "CREATE TABLE d.own (id INT PRIMARY KEY); CREATE DATABASE private; CREATE TABLE private.t (id INT PRIMARY KEY); INSERT INTO private.t VALUES (1); INSERT INTO d.t VALUES (5)").await;
    pair.wait().await;
    let tables: Vec<String> = pair.query(1, "SELECT CONCAT(TABLE_SCHEMA, '.', TABLE_NAME) FROM information_schema.TABLES WHERE TABLE_SCHEMA IN ('d', 'private')").await;
    assert_eq!(tables, ["d.t"]);
    let rows: Vec<i32> = pair.query(1, "SELECT id FROM d.t").await;
    assert_eq!(rows, [5]);
    assert!(pair.link_to(1).left_out >= 4, "{:#?}", pair.link_to(1));

    options.replication = "ddl = \"halt\"".to_owned();
    let pair = Pair::start(
        &options,
        "CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY)",
    )
    .await;
    pair.run(
        0,
        "INSERT INTO d.t VALUES (1); ALTER TABLE d.t ADD COLUMN v INT",
    )
    .await;
    let message = pair.halted(1).await;
    assert!(
        message.contains("AlterTable") && message.contains("halt"),
        "{message}"
    );
    let rows: Vec<i32> = pair.query(1, "SELECT id FROM d.t").await;
    assert_eq!(rows, [1], "what stood in front of it is applied");
}

#[tokio::test]
async fn mariadb_ddl_policies() {
    policies(ServerKind::MariaDb).await;
}

#[tokio::test]
async fn mysql_ddl_policies() {
    policies(ServerKind::MySql).await;
}

/// MariaDB drops what there is, reports what is missing and logs the statement.
#[tokio::test]
async fn mariadb_drops_of_which_some_are_missing() {
    let pair = Pair::start(
        &PairOptions::new(ServerKind::MariaDb),
        "CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY); CREATE TABLE d.u (id INT PRIMARY KEY); \
         CREATE VIEW d.v AS SELECT 1; CREATE TABLE d.kept (id INT PRIMARY KEY)",
    )
    .await;
    for (statement, code) in [
        ("DROP TABLE d.t, d.missing", 1051),
        ("DROP VIEW d.v, d.missing", 4092),
    ] {
        let error = pair.servers[0].query_drop(statement).await.unwrap_err();
        let error = format!("{error:?}");
        assert!(error.contains(&code.to_string()), "{error}");
    }
    pair.run(0, "INSERT INTO d.kept VALUES (1)").await;
    pair.wait().await;
    pair.assert_equal().await;
    let left: Vec<String> = pair
        .query(
            1,
            "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'd' ORDER BY 1",
        )
        .await;
    assert_eq!(left, ["kept", "u"]);
    assert_eq!(pair.link_to(1).ddl_statements, 2);
    pair.assert_no_loops();
}

/// MariaDB logs rows that were rolled back, where a table without transactions or a temporary table
/// came between.
#[tokio::test]
async fn mariadb_rows_that_were_rolled_back() {
    let pair = Pair::start(
        &PairOptions::new(ServerKind::MariaDb),
        "CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY); CREATE DATABASE log; \
         CREATE TABLE log.m (id INT PRIMARY KEY) ENGINE=MyISAM",
    )
    .await;
    pair.run(
        0,
        "CREATE TEMPORARY TABLE d.tmp (id INT); START TRANSACTION; INSERT INTO d.t VALUES (1); \
         DROP TEMPORARY TABLE d.tmp; INSERT INTO d.t VALUES (2); ROLLBACK",
    )
    .await;
    pair.run(
        0,
        "CREATE TEMPORARY TABLE d.tmp (id INT); START TRANSACTION; INSERT INTO d.t VALUES (3); SAVEPOINT s; \
         INSERT INTO d.t VALUES (4); DROP TEMPORARY TABLE d.tmp; INSERT INTO d.t VALUES (5); \
         ROLLBACK TO s; INSERT INTO d.t VALUES (6); COMMIT",
    )
    .await;
    pair.wait().await;
    pair.assert_equal().await;
    let rows: Vec<i32> = pair.query(1, "SELECT id FROM d.t ORDER BY id").await;
    assert_eq!(rows, [3, 6]);
}

#[tokio::test]
async fn mariadb_savepoints_with_tables_without_transactions() {
    let mut options = PairOptions::new(ServerKind::MariaDb);
    options.replication = "databases = [\"d\"]".to_owned();
    let pair = Pair::start(
        &options,
        "CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY); CREATE DATABASE own; \
         CREATE TABLE own.m (id INT PRIMARY KEY) ENGINE=MyISAM",
    )
    .await;
    pair.run(
        0,
        "START TRANSACTION; INSERT INTO d.t VALUES (1); SAVEPOINT s; INSERT INTO d.t VALUES (2); \
         INSERT INTO own.m VALUES (1); INSERT INTO d.t VALUES (3); ROLLBACK TO s; INSERT INTO d.t VALUES (4); COMMIT",
    )
    .await;
    pair.run(
        0,
        "START TRANSACTION; INSERT INTO d.t VALUES (10); INSERT INTO own.m VALUES (2); ROLLBACK",
    )
    .await;
    pair.wait().await;
    let rows: Vec<i32> = pair.query(1, "SELECT id FROM d.t ORDER BY id").await;
    assert_eq!(rows, [1, 4]);
}

#[tokio::test]
async fn mariadb_alter_in_two_phases_is_refused() {
    let pair = Pair::start(
        &PairOptions::new(ServerKind::MariaDb),
        "CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY)",
    )
    .await;
    pair.run(0, "INSERT INTO d.t VALUES (1); SET SESSION binlog_alter_two_phase = 1; ALTER TABLE d.t ADD COLUMN v INT").await;
    let message = pair.halted(1).await;
    assert!(
        message.contains("binlog_alter_two_phase=OFF") && message.contains("positions set"),
        "{message}"
    );
    let rows: Vec<i32> = pair.query(1, "SELECT id FROM d.t").await;
    assert_eq!(rows, [1], "what stood in front of it is applied");
}

/// The target server dies amid DDL of the other node. MariaDB finishes or undoes it when it starts,
/// and logs that as its own.
async fn target_dies_amid_ddl(kind: ServerKind) {
    let mut pair = Pair::start(
        &PairOptions {
            extra_args: vec![
                "--sync-binlog=1".to_owned(),
                "--innodb-flush-log-at-trx-commit=1".to_owned(),
            ],
            ..PairOptions::new(kind)
        },
        "CREATE DATABASE d; CREATE TABLE d.t (id INT AUTO_INCREMENT PRIMARY KEY, v INT, w VARCHAR(100)); \
         INSERT INTO d.t VALUES (1, 1, REPEAT('x', 100))",
    )
    .await;
    for _ in 0..16 {
        pair.run(0, "INSERT INTO d.t (v, w) SELECT v + 1, w FROM d.t")
            .await;
    }
    pair.wait().await;
    let statements = [
        "ALTER TABLE d.t ADD COLUMN a1 INT NOT NULL DEFAULT 1, FORCE",
        "CREATE INDEX by_v ON d.t (v, w)",
        "ALTER TABLE d.t MODIFY v BIGINT",
        "DROP INDEX by_v ON d.t",
        "ALTER TABLE d.t ADD COLUMN a2 INT NOT NULL DEFAULT 2 FIRST, FORCE",
        "ALTER TABLE d.t MODIFY w VARCHAR(200) CHARACTER SET latin1",
    ];
    let total = statements.len() as u64;
    for (number, statement) in statements.into_iter().enumerate() {
        pair.run(0, statement).await;
        // At another moment each time, from the first sight of the statement on.
        let word = statement.split_whitespace().next().unwrap();
        let running = format!(
            "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE INFO LIKE '{word} %' AND ID <> CONNECTION_ID()"
        );
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while pair.query::<i64>(1, &running).await == [0]
            && pair.link_to(1).ddl_statements <= number as u64
        {
            assert!(std::time::Instant::now() < deadline, "never run");
        }
        for _ in 0..number * 15 {
            let _: Vec<i64> = pair.query(1, "SELECT 1").await;
        }
        pair.servers[1].kill9().await;
        pair.servers[1].start_again().await.unwrap();
        pair.run(0, "INSERT INTO d.t (v, w) VALUES (0, 'behind')")
            .await;
        pair.wait().await;
        assert_eq!(show_create(&pair, 0).await, show_create(&pair, 1).await);
    }
    pair.wait().await;
    pair.assert_equal().await;
    pair.assert_no_loops();
    assert_eq!(pair.link_to(0).ddl_statements, 0, "nothing went back");
    assert!(pair.link_to(1).ddl_statements <= total + 1);
}

/// Short statements one behind the other, so that the server dies at their ends rather than in their
/// midst.
#[tokio::test(flavor = "multi_thread")]
async fn mariadb_target_dies_at_the_end_of_ddl() {
    let mut pair = Pair::start(
        &PairOptions::new(ServerKind::MariaDb),
        "CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY); INSERT INTO d.t VALUES (1), (2), (3)",
    )
    .await;
    pair.wait().await;
    pair.stop_engine(1).await;
    let mut total = 0;
    for number in 0..60 {
        for statement in [
            format!("ALTER TABLE d.t ADD COLUMN c{number} INT DEFAULT {number}, FORCE"),
            format!("CREATE INDEX i{number} ON d.t (c{number})"),
            format!("INSERT INTO d.t (id) VALUES ({})", number + 10),
            format!("DROP INDEX i{number} ON d.t"),
            format!(
                "CREATE OR REPLACE TABLE d.r{} (id INT PRIMARY KEY, c{number} INT)",
                number % 3
            ),
            format!("INSERT INTO d.r{} VALUES ({number}, 1)", number % 3),
        ] {
            total += u64::from(!statement.starts_with("INSERT"));
            pair.run(0, &statement).await;
        }
    }
    pair.start_engine(1).await;
    let mut kills = 0;
    loop {
        let before = pair.link_to(1).ddl_statements;
        let deadline = std::time::Instant::now() + twinlog_harness::pair::PATIENCE;
        while pair.link_to(1).ddl_statements < before + 5
            && pair.link_to(1).ddl_statements + 5 < total
        {
            assert!(
                std::time::Instant::now() < deadline,
                "{:#?}",
                pair.link_to(1)
            );
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        if pair.link_to(1).ddl_statements + 10 > total || kills == 20 {
            break;
        }
        pair.servers[1].kill9().await;
        kills += 1;
        pair.servers[1].start_again().await.unwrap();
        // About one kill in twenty meets the moment.
        if finished_by_the_server(&pair).await > 0 {
            break;
        }
    }
    pair.wait().await;
    pair.assert_equal().await;
    pair.assert_no_loops();
    assert_eq!(show_create(&pair, 0).await, show_create(&pair, 1).await);
    assert_eq!(pair.link_to(0).ddl_statements, 0, "nothing went back");
    let finished = finished_by_the_server(&pair).await;
    println!("{kills} kills, {finished} statements in the log by the server's own recovery");
}

/// The same without waiting for the moment: a statement with the timestamp 0 under the server's own
/// `server_id` is all that its recovery leaves in the log.
#[tokio::test(flavor = "multi_thread")]
async fn mariadb_ddl_that_the_server_finished_is_not_run_again() {
    use mysql_async::prelude::Queryable;
    const ALTER: &str = "ALTER TABLE d.t ADD COLUMN v INT DEFAULT 5";
    let mut pair = Pair::start(
        &PairOptions::new(ServerKind::MariaDb),
        "CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY); INSERT INTO d.t VALUES (1)",
    )
    .await;
    pair.wait().await;
    // A reader keeps the engine's statement waiting, with its intent written down.
    let mut reader = pair.servers[1].connect().await.unwrap();
    reader.query_drop("START TRANSACTION").await.unwrap();
    reader.query_drop("SELECT * FROM d.t").await.unwrap();
    pair.run(0, ALTER).await;
    pair.run(0, "INSERT INTO d.t VALUES (2, 7)").await;
    let waiting = "SELECT ID FROM information_schema.PROCESSLIST WHERE INFO LIKE 'ALTER TABLE%'";
    let deadline = std::time::Instant::now() + twinlog_harness::pair::PATIENCE;
    let id = loop {
        if let [id] = pair.query::<u64>(1, waiting).await[..] {
            break id;
        }
        assert!(std::time::Instant::now() < deadline, "{:#?}", pair.links());
    };
    drop(pair.engines[1].take());
    // The connection may have ended by itself.
    let _ = pair.servers[1].query_drop(&format!("KILL {id}")).await;
    while !pair.query::<u64>(1, waiting).await.is_empty() {
        assert!(std::time::Instant::now() < deadline, "still running");
    }
    reader.query_drop("ROLLBACK").await.unwrap();
    pair.run(1, "INSERT INTO d.t VALUES (10)").await;
    pair.run(1, &format!("SET timestamp = 0.1; {ALTER}")).await;
    pair.run(1, "INSERT INTO d.t VALUES (11, 8)").await;
    let again = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        // The server may need a moment to see that the old engine's connections are gone.
        let engine = twinlog_engine::replicator::Engine::start(
            std::sync::Arc::clone(&pair.config),
            twinlog_harness::pair::NODES[1],
        );
        match engine.await {
            Ok(engine) => {
                pair.engines[1] = Some(engine);
                break;
            }
            Err(error) => assert!(std::time::Instant::now() < again, "{error}"),
        }
    }
    pair.wait().await;
    pair.assert_equal().await;
    pair.assert_no_loops();
    assert_eq!(pair.link_to(0).ddl_statements, 0, "it went back");
    let rows: Vec<(i32, i32)> = pair.query(1, "SELECT id, v FROM d.t ORDER BY id").await;
    assert_eq!(rows, [(1, 5), (2, 7), (10, 5), (11, 8)]);
}

/// How many statements of this test stand in b's log under b's own `server_id`: none was a client's.
async fn finished_by_the_server(pair: &Pair) -> usize {
    let own: Vec<u32> = pair.query(1, "SELECT @@GLOBAL.server_id").await;
    let files: Vec<mysql_async::Row> = pair.query(1, "SHOW BINARY LOGS").await;
    let mut found = 0;
    for file in files {
        let file: String = file.get(0).unwrap();
        let events: Vec<mysql_async::Row> = pair
            .query(1, &format!("SHOW BINLOG EVENTS IN '{file}'"))
            .await;
        for event in events {
            let (kind, server_id, info): (String, u32, String) = (
                event.get("Event_type").unwrap(),
                event.get("Server_id").unwrap(),
                event.get("Info").unwrap(),
            );
            let ddl = info.contains("INDEX i") || info.contains("d.t") || info.contains("`d`.`r");
            found += usize::from(kind == "Query" && server_id == own[0] && ddl);
        }
    }
    found
}

async fn show_create(pair: &Pair, node: usize) -> String {
    let create: Vec<(String, String)> = pair.query(node, "SHOW CREATE TABLE d.t").await;
    let text = &create[0].1;
    text.split(") ENGINE").next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_target_dies_amid_ddl() {
    target_dies_amid_ddl(ServerKind::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_target_dies_amid_ddl() {
    target_dies_amid_ddl(ServerKind::MySql).await;
}
