//! The preflight against servers: a good pair passes, each bad thing has its own finding, and the
//! remedy that a finding names mends it.

use twinlog_cli::sandbox::{Server, ServerKind, ServerOptions};
use twinlog_engine::config::Config;
use twinlog_engine::preflight::{self, Finding, Level};

use crate::base;
use privileges::privileges;

mod privileges;

const PASSWORD: &str = "s3cret-of-the-check";

/// Two servers with an account for the engine and a schema that is fine.
struct Pair {
    a: Server,
    b: Server,
}

impl Pair {
    async fn start(kind: ServerKind) -> Self {
        let options = |offset: u32| {
            let name = if offset == 1 { "check-a" } else { "check-b" };
            let mut options = ServerOptions::node(name, offset, 2);
            options.durable = true;
            options.extra_args = vec!["--max-allowed-packet=64M".to_owned()];
            options
        };
        let (a, b) = tokio::join!(
            Server::start(kind, base(), options(1)),
            Server::start(kind, base(), options(2)),
        );
        let pair = Self {
            a: a.unwrap(),
            b: b.unwrap(),
        };
        pair.both(&format!(
            "CREATE USER 'twinlog'@'%' IDENTIFIED BY '{PASSWORD}';
             GRANT ALL PRIVILEGES ON *.* TO 'twinlog'@'%';
             CREATE DATABASE shop;
             CREATE TABLE shop.items (id INT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(20),
                                      price DECIMAL(10,2) NOT NULL);
             CREATE TABLE shop.tags (tag CHAR(8) NOT NULL, UNIQUE KEY (tag));
             CREATE VIEW shop.cheap AS SELECT id FROM shop.items WHERE price < 1"
        ))
        .await;
        pair
    }

    async fn both(&self, sql: &str) {
        self.a.query_drop(sql).await.unwrap();
        self.b.query_drop(sql).await.unwrap();
    }

    fn config_as(&self, account: &str, replication: &str) -> Config {
        config(
            &format!("mysql://{account}:{PASSWORD}@127.0.0.1:{}", self.a.port()),
            &format!("mysql://{account}:{PASSWORD}@127.0.0.1:{}", self.b.port()),
            replication,
        )
    }

    fn config(&self) -> Config {
        self.config_as("twinlog", "")
    }

    /// Expects exactly one finding at this level or above.
    async fn finds(&self, level: Level, subject: &str, parts: &[&str]) -> Finding {
        only(&self.config(), level, subject, parts).await
    }

    /// Breaks node b, expects the finding, mends it.
    async fn breaks(&self, sql: &str, mend: &str, level: Level, subject: &str, parts: &[&str]) {
        self.b.query_drop(sql).await.unwrap();
        self.finds(level, subject, parts).await;
        self.b.query_drop(mend).await.unwrap();
    }
}

fn config(a: &str, b: &str, replication: &str) -> Config {
    let text = format!(
        "[engine]\ndata_dir = \"unused\"\n[replication]\n{replication}\n\
         [[node]]\nname = \"a\"\nurl = \"{a}\"\n[[node]]\nname = \"b\"\nurl = \"{b}\"\n"
    );
    Config::parse(&text, &|_| None).unwrap()
}

/// Runs the check; no finding may show the password.
async fn check(config: &Config) -> Vec<Finding> {
    let findings = preflight::check(config).await;
    let shown = serde_json::to_string(&findings).unwrap();
    assert!(!shown.contains(PASSWORD), "{shown}");
    findings
}

async fn only(config: &Config, level: Level, subject: &str, parts: &[&str]) -> Finding {
    let mut findings = check(config).await;
    findings.retain(|finding| finding.level >= level);
    assert_eq!(findings.len(), 1, "expected one {subject}: {findings:#?}");
    let finding = findings.remove(0);
    assert_eq!(
        (finding.subject, finding.level),
        (subject, level),
        "{finding:#?}"
    );
    for part in parts {
        let there = finding.message.contains(part)
            || finding
                .remedy
                .as_ref()
                .is_some_and(|remedy| remedy.contains(part));
        assert!(there, "'{part}' is not in {finding:#?}");
    }
    finding
}

/// As after RESET BINARY LOGS AND GTIDS at node a: b has DDL of a that a does not know.
#[tokio::test]
async fn mysql_gtids_that_would_be_given_out_again_are_found() {
    let pair = Pair::start(ServerKind::MySql).await;
    let uuid: Vec<String> = pair.a.query("SELECT @@GLOBAL.server_uuid").await.unwrap();
    let missing = format!("{}:1000000", uuid[0]);
    pair.b
        .query_drop(&format!(
            "SET gtid_next = '{missing}'; CREATE DATABASE of_a; SET gtid_next = 'AUTOMATIC'"
        ))
        .await
        .unwrap();
    pair.a
        .query_drop("SET sql_log_bin = 0; CREATE DATABASE of_a")
        .await
        .unwrap();
    let finding = pair
        .finds(Level::Fail, "gtid.executed", &[&missing, "gtid_purged"])
        .await;
    assert_eq!(finding.node.as_deref(), Some("a"));
    let refused = twinlog_engine::init::init(&pair.config(), false).await;
    let message = refused.unwrap_err().to_string();
    assert!(message.contains(&missing), "{message}");
    let databases: Vec<String> = pair.b.query("SHOW DATABASES LIKE 'twinlog'").await.unwrap();
    assert!(databases.is_empty(), "nothing is changed");

    let remedy = finding.remedy.unwrap();
    let (_, statement) = remedy.split_once("SET GLOBAL").unwrap();
    let (statement, _) = statement.split_once(';').unwrap();
    pair.a
        .query_drop(&format!("SET GLOBAL{statement}"))
        .await
        .unwrap();
    let findings = check(&pair.config()).await;
    assert!(!preflight::any_fail(&findings), "{findings:#?}");
    let known = |finding: &&Finding| finding.subject == "gtid.executed";
    assert_eq!(findings.iter().filter(known).count(), 1, "{findings:#?}");
    let done = twinlog_engine::init::init(&pair.config(), false).await;
    assert!(done.is_ok(), "{done:?}");
}

async fn a_good_pair_passes(kind: ServerKind) {
    let pair = Pair::start(kind).await;
    let findings = check(&pair.config()).await;
    let bad: Vec<_> = findings
        .iter()
        .filter(|finding| finding.level != Level::Pass)
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
    for subject in [
        "binlog.format",
        "privileges",
        "tables.key",
        "server.auto-increment",
    ] {
        let count = findings
            .iter()
            .filter(|finding| finding.subject == subject)
            .count();
        assert_eq!(count, 2, "{subject} of each node");
    }
    assert!(
        findings
            .iter()
            .any(|finding| finding.message.contains("2 tables are the same"))
    );

    let node = preflight::check_node(&pair.config(), &pair.config().nodes[0]).await;
    assert!(!preflight::any_fail(&node));
}

async fn places_and_accounts(kind: ServerKind) {
    let mut pair = Pair::start(kind).await;
    let url = |account: &str, host: &str, port: u16| format!("mysql://{account}@{host}:{port}");
    let good = format!("twinlog:{PASSWORD}");
    let (a, b) = (pair.a.port(), pair.b.port());

    let wrong = config(
        &url(&good, "127.0.0.1", a),
        &url("twinlog:wrong-s3cret", "127.0.0.1", b),
        "",
    );
    let finding = only(
        &wrong,
        Level::Fail,
        "server.login",
        &["refuses the account", "ALTER USER"],
    )
    .await;
    assert_eq!(finding.node.as_deref(), Some("b"));
    assert!(!format!("{finding:?}").contains("wrong-s3cret"));

    // 127.1 is the same server under another name, which the text cannot show.
    let twice = config(&url(&good, "127.0.0.1", a), &url(&good, "127.1", a), "");
    let findings = check(&twice).await;
    let same: Vec<_> = findings
        .iter()
        .filter(|finding| finding.subject == "server.same")
        .collect();
    assert_eq!(same.len(), 1, "{findings:#?}");
    assert_eq!(same[0].level, Level::Fail);
    assert!(same[0].message.contains("one and the same server"));

    pair.b.kill9().await;
    let finding = pair
        .finds(
            Level::Fail,
            "server.reachable",
            &["cannot be reached at 127.0.0.1:"],
        )
        .await;
    assert_eq!(finding.node.as_deref(), Some("b"));
}

async fn settings(kind: ServerKind) {
    use Level::{Fail, Warn};
    let pair = Pair::start(kind).await;
    for (variable, bad, good, level, subject, part) in [
        (
            "binlog_format",
            "'STATEMENT'",
            "'ROW'",
            Fail,
            "binlog.format",
            "STATEMENT",
        ),
        (
            "binlog_row_image",
            "'MINIMAL'",
            "'FULL'",
            Fail,
            "binlog.row-image",
            "MINIMAL",
        ),
        (
            "binlog_row_metadata",
            "'MINIMAL'",
            "'FULL'",
            Warn,
            "binlog.row-metadata",
            "by their order",
        ),
        (
            "server_id",
            "1",
            "2",
            Fail,
            "server.id",
            "nodes a and b both have server_id = 1",
        ),
        ("server_id", "0", "2", Fail, "server.id", "server_id = 0"),
        (
            "auto_increment_offset",
            "1",
            "2",
            Fail,
            "server.auto-increment",
            "meets node a's 1",
        ),
        (
            "auto_increment_offset",
            "9",
            "2",
            Fail,
            "server.auto-increment",
            "ignores it",
        ),
        (
            "auto_increment_increment",
            "1",
            "2",
            Fail,
            "server.auto-increment",
            "with 2 nodes",
        ),
        (
            "sync_binlog",
            "0",
            "1",
            Warn,
            "server.durability",
            "sync_binlog = 0",
        ),
        (
            "binlog_expire_logs_seconds",
            "600",
            "864000",
            Warn,
            "binlog.retention",
            "10m",
        ),
        (
            "time_zone",
            "'+03:00'",
            "'SYSTEM'",
            Warn,
            "server.time-zone",
            "+03:00 on b",
        ),
    ] {
        // MariaDB takes 0 for 1.
        if kind == ServerKind::MariaDb && part == "server_id = 0" {
            continue;
        }
        let set = |value: &str| format!("SET GLOBAL {variable} = {value}");
        pair.breaks(&set(bad), &set(good), level, subject, &[part])
            .await;
    }
    if kind == ServerKind::MariaDb {
        let set = |value: &str| format!("SET GLOBAL binlog_alter_two_phase = {value}");
        let subject = "binlog.alter-two-phase";
        pair.breaks(&set("ON"), &set("OFF"), Fail, subject, &["in two parts"])
            .await;
    }
    let set = |value: &str| format!("SET GLOBAL read_only = {value}");
    pair.breaks(
        &set("ON"),
        &set("OFF"),
        Warn,
        "server.read-only",
        &["read_only is on"],
    )
    .await;

    // The server's own replication beside ours, set up and stopped.
    let (change, reset) = match kind {
        ServerKind::MySql => (
            format!(
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={}, \
                 SOURCE_USER='x'",
                pair.a.port()
            ),
            "RESET REPLICA ALL",
        ),
        ServerKind::MariaDb => (
            format!(
                "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={}, MASTER_USER='x'",
                pair.a.port()
            ),
            "RESET SLAVE ALL",
        ),
    };
    pair.breaks(
        &change,
        reset,
        Warn,
        "server.replication",
        &["from node a", reset],
    )
    .await;
    let (start, stop) = match kind {
        ServerKind::MySql => ("START REPLICA", "STOP REPLICA"),
        ServerKind::MariaDb => ("START SLAVE", "STOP SLAVE"),
    };
    pair.breaks(
        &format!("{change}; {start}"),
        &format!("{stop}; {reset}"),
        Fail,
        "server.replication",
        &["applied twice", reset],
    )
    .await;
    pair.finds_nothing().await;
}

impl Pair {
    async fn finds_nothing(&self) {
        let findings = check(&self.config()).await;
        let bad: Vec<_> = findings
            .iter()
            .filter(|finding| finding.level != Level::Pass)
            .collect();
        assert!(bad.is_empty(), "{bad:#?}");
    }
}

async fn settings_from_the_start(kind: ServerKind) {
    use Level::{Fail, Warn};
    let updates = match kind {
        ServerKind::MySql => "--log-replica-updates=OFF",
        ServerKind::MariaDb => "--log-slave-updates=OFF",
    };
    let mut cases = vec![
        (
            vec!["--binlog-do-db=shop"],
            Fail,
            "binlog.filters",
            "binlog_do_db = shop",
        ),
        (vec![updates], Warn, "binlog.replica-updates", "OFF"),
        (
            vec!["--collation-server=utf8mb4_bin"],
            Warn,
            "server.charset",
            "utf8mb4_bin on b",
        ),
        (
            vec!["--max-allowed-packet=1M"],
            Warn,
            "server.max-allowed-packet",
            "1048576",
        ),
    ];
    if kind == ServerKind::MySql {
        cases.push((
            vec!["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"],
            Fail,
            "gtid.mode",
            "gtid_mode = OFF",
        ));
    }
    let mut pair = Pair::start(kind).await;
    for (args, level, subject, part) in cases {
        let mut all = vec!["--max-allowed-packet=64M".to_owned()];
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        pair.b.restart_with(&all).await.unwrap();
        let findings = check(&pair.config()).await;
        let found: Vec<_> = findings
            .iter()
            .filter(|finding| finding.level == level && finding.subject == subject)
            .collect();
        assert!(
            found.iter().any(|finding| finding.message.contains(part)),
            "{args:?}: {findings:#?}"
        );
    }
    pair.b
        .restart_with(&[
            "--max-allowed-packet=64M".to_owned(),
            "--skip-log-bin".to_owned(),
        ])
        .await
        .unwrap();
    let findings = check(&pair.config()).await;
    let off = findings
        .iter()
        .find(|finding| finding.subject == "binlog.enabled" && finding.level == Fail);
    assert!(
        off.is_some_and(|off| off.node.as_deref() == Some("b")),
        "{findings:#?}"
    );
}

async fn tables(kind: ServerKind) {
    use Level::{Fail, Warn};
    let pair = Pair::start(kind).await;
    for (name, sql, level, subject, parts) in [
        (
            "nokey",
            "CREATE TABLE shop.nokey (a INT, UNIQUE KEY (a))",
            Fail,
            "tables.key",
            vec!["shop.nokey", "ALTER TABLE `shop`.`nokey` ADD"],
        ),
        (
            "old",
            "CREATE TABLE shop.old (a INT PRIMARY KEY) ENGINE = MyISAM",
            Fail,
            "tables.engine",
            vec![
                "shop.old (MyISAM)",
                "ALTER TABLE `shop`.`old` ENGINE = InnoDB;",
            ],
        ),
        (
            "child",
            "CREATE TABLE shop.child (a INT PRIMARY KEY,
            CONSTRAINT f FOREIGN KEY (a) REFERENCES shop.items (id) ON DELETE CASCADE)",
            Warn,
            "tables.foreign-keys",
            vec!["f of shop.child"],
        ),
    ] {
        // On both nodes, so that the schema does not differ besides.
        pair.both(sql).await;
        let findings = check(&pair.config()).await;
        // From MySQL 9.6 on cascaded changes are in the log: said, and nothing to warn of.
        if kind == ServerKind::MySql && subject == "tables.foreign-keys" {
            let said = findings.iter().filter(|finding| {
                finding.subject == subject && finding.message.contains("the log has these changes")
            });
            assert_eq!(said.count(), 2, "{findings:#?}");
            assert!(findings.iter().all(|finding| finding.level == Level::Pass));
            pair.both(&format!("DROP TABLE shop.{name}")).await;
            continue;
        }
        let bad: Vec<_> = findings
            .iter()
            .filter(|finding| finding.level > Level::Pass)
            .collect();
        assert_eq!(bad.len(), 2, "{name} on each node: {bad:#?}");
        for finding in bad {
            assert_eq!(
                (finding.level, finding.subject),
                (level, subject),
                "{finding:#?}"
            );
            let text = format!("{finding:?}");
            for part in &parts {
                assert!(text.contains(part), "'{part}' is not in {text}");
            }
        }
        pair.both(&format!("DROP TABLE shop.{name}")).await;
    }
    if kind == ServerKind::MariaDb {
        pair.both("CREATE SEQUENCE shop.s").await;
        let findings = check(&pair.config()).await;
        let kinds = findings
            .iter()
            .filter(|finding| finding.subject == "tables.kind")
            .count();
        assert_eq!(kinds, 2, "{findings:#?}");
        pair.both("DROP SEQUENCE shop.s").await;
    }
    pair.finds_nothing().await;

    // A remedy as it stands.
    pair.both("CREATE TABLE shop.nokey (a INT)").await;
    let findings = check(&pair.config()).await;
    let finding = findings
        .iter()
        .find(|finding| finding.subject == "tables.key")
        .unwrap();
    let statement = finding
        .remedy
        .as_deref()
        .unwrap()
        .split(';')
        .next()
        .unwrap();
    pair.both(statement).await;
    pair.finds_nothing().await;
}

async fn schemas(kind: ServerKind) {
    use Level::{Fail, Warn};
    let pair = Pair::start(kind).await;
    let table = "ALTER TABLE shop.items";
    for (sql, mend, part) in [
        (
            "CREATE TABLE shop.more (a INT PRIMARY KEY)",
            "DROP TABLE shop.more",
            "shop.more is missing on a",
        ),
        (
            "CREATE DATABASE extra",
            "DROP DATABASE extra",
            "database extra is missing on a",
        ),
        (
            &*format!("{table} MODIFY price DECIMAL(12,2) NOT NULL"),
            &*format!("{table} MODIFY price DECIMAL(10,2) NOT NULL"),
            "shop.items.price is decimal(10,2) not null on a but decimal(12,2) not null on b",
        ),
        (
            &*format!("{table} ADD colour INT"),
            &*format!("{table} DROP colour"),
            "shop.items.colour is missing on a",
        ),
        (
            &*format!("{table} ADD UNIQUE KEY by_name (name)"),
            &*format!("{table} DROP KEY by_name"),
            "unique key by_name of shop.items is missing on a",
        ),
        (
            &*format!("{table} MODIFY name VARCHAR(20) AFTER price"),
            &*format!("{table} MODIFY name VARCHAR(20) AFTER id"),
            "in the order (id, name, price) on a but (id, price, name) on b",
        ),
        (
            &*format!("{table} MODIFY name VARCHAR(20) COLLATE utf8mb4_bin"),
            &*format!("{table} MODIFY name VARCHAR(20)"),
            "collate utf8mb4_bin null on b",
        ),
    ] {
        pair.breaks(sql, mend, Fail, "schema.same", &[part]).await;
    }
    pair.breaks(
        "DROP VIEW shop.cheap",
        "CREATE VIEW shop.cheap AS SELECT id FROM shop.items WHERE price < 1",
        Warn,
        "schema.views",
        &["shop.cheap (not on b)"],
    )
    .await;
    pair.finds_nothing().await;
    // What is not replicated may differ.
    pair.b.query_drop("CREATE DATABASE extra").await.unwrap();
    let config = pair.config_as("twinlog", "databases = [\"shop\"]");
    assert!(!preflight::any_fail(&check(&config).await));
}

/// Mixed kinds are refused before anything else is compared.
#[tokio::test]
async fn mysql_with_mariadb_is_refused() {
    let start = |kind, offset| Server::start(kind, base(), ServerOptions::node("mixed", offset, 2));
    let (a, b) = tokio::join!(start(ServerKind::MySql, 1), start(ServerKind::MariaDb, 2));
    let (a, b) = (a.unwrap(), b.unwrap());
    let config = config(&a.url(), &b.url(), "");
    let finding = only(
        &config,
        Level::Fail,
        "cluster.flavor",
        &["cannot be joined"],
    )
    .await;
    assert_eq!(finding.node, None);
}

macro_rules! on_both_servers {
    ($($case:ident),*) => {
        mod mariadb { $(#[tokio::test] async fn $case() {
            super::$case(super::ServerKind::MariaDb).await;
        })* }
        mod mysql { $(#[tokio::test] async fn $case() {
            super::$case(super::ServerKind::MySql).await;
        })* }
    };
}

on_both_servers!(
    a_good_pair_passes,
    places_and_accounts,
    settings,
    settings_from_the_start,
    tables,
    schemas,
    privileges
);
