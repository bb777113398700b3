//! DDL as real servers log it: what `recognise` says of each statement, and that the statement makes
//! the same schema at another server under the session that `ddl_session` gives it.

use std::collections::BTreeMap;
use std::path::Path;

use futures_util::StreamExt;
use mysql_async::prelude::Queryable;
use mysql_async::{BinlogStreamRequest, Conn, Row};
use twinlog_cli::sandbox::{Server, ServerKind, ServerOptions};
use twinlog_engine::apply::session::{apply_session, ddl_session};
use twinlog_engine::decode::Decoder;
use twinlog_engine::decode::ddl::{self, Statement};
use twinlog_engine::decode::event::{Event, EventHeader, Flavor, LoggedQuery};
use twinlog_engine::gtid::Gtid;

use Flavor::{MariaDb, MySql};

/// A statement and what the log's statements for it are recognised as, `;` between several; nothing
/// for a statement that is not logged. Another text for MariaDB where it differs.
type Case = (&'static str, &'static str, Option<&'static str>);

const BOTH: &[Case] = &[
    ("CREATE DATABASE d1", "CreateDatabase d1", None),
    (
        "CREATE DATABASE d2 CHARACTER SET latin1",
        "CreateDatabase d2",
        None,
    ),
    ("USE d1", "", None),
    (
        "CREATE TABLE t (id INT PRIMARY KEY, v INT)",
        "CreateTable d1.t",
        None,
    ),
    ("INSERT INTO t VALUES (1, 1), (2, 2)", "", None),
    (
        "CREATE TABLE ctas (k INT AUTO_INCREMENT PRIMARY KEY) COMMENT 'START TRANSACTION' AS SELECT id, v FROM t",
        "CreateTable+rows d1.ctas",
        Some("CreateTable d1.ctas"),
    ),
    (
        "CREATE TABLE d2.ctas_empty SELECT * FROM t WHERE 0",
        "CreateTable+rows d2.ctas_empty",
        Some("CreateTable d2.ctas_empty"),
    ),
    ("CREATE TABLE lk LIKE t", "CreateTable d1.lk", None),
    ("CREATE TEMPORARY TABLE tmp (a INT)", "", None),
    ("INSERT INTO tmp VALUES (1)", "", None),
    ("CREATE TABLE lk2 LIKE tmp", "CreateTable d1.lk2", None),
    ("ALTER TABLE tmp ADD b INT", "", None),
    ("DROP TEMPORARY TABLE tmp", "", None),
    (
        "CREATE /*!999999 OR REPLACE */ TABLE x (a INT /*!50100 NOT NULL */, b INT) -- end",
        "CreateTable d1.x",
        None,
    ),
    (
        "CREATE OR REPLACE VIEW v AS SELECT id FROM t",
        "CreateView d1.v",
        None,
    ),
    (
        "ALTER VIEW v AS SELECT id, v FROM t",
        "AlterView d1.v",
        None,
    ),
    (
        "RENAME TABLE x TO x2, lk TO d2.lk",
        "RenameTable d1.x d1.x2 d1.lk d2.lk",
        None,
    ),
    ("TRUNCATE x2", "TruncateTable d1.x2", None),
    (
        "ALTER TABLE x2 ADD c VARCHAR(30) DEFAULT 'RENAME TO y', RENAME TO x3",
        "AlterTable d1.x2 d1.x3",
        None,
    ),
    ("ALTER TABLE x3 FORCE", "AlterTable d1.x3", None),
    (
        "CREATE UNIQUE INDEX `on` ON x3 (c)",
        "CreateIndex d1.x3",
        None,
    ),
    ("DROP INDEX `on` ON x3", "DropIndex d1.x3", None),
    ("ANALYZE TABLE x3", "Administrative ANALYZE", None),
    ("OPTIMIZE TABLE x3", "Administrative OPTIMIZE", None),
    ("OPTIMIZE NO_WRITE_TO_BINLOG TABLE x3", "", None),
    ("FLUSH TABLES", "Administrative FLUSH", None),
    (
        "CREATE USER u1 IDENTIFIED BY 'secret'",
        "Account USER",
        None,
    ),
    ("GRANT SELECT ON d1.* TO u1", "Account GRANT", None),
    ("CREATE ROLE r1", "Account ROLE", None),
    ("GRANT r1 TO u1", "Account GRANT", None),
    ("REVOKE r1 FROM u1", "Account REVOKE", None),
    ("DROP ROLE r1", "Account ROLE", None),
    ("RENAME USER u1 TO u2", "Account RENAME USER", None),
    ("DROP USER u2", "Account USER", None),
    (
        "CREATE PROCEDURE p() SELECT 1",
        "StoredProgram PROCEDURE",
        None,
    ),
    ("DROP PROCEDURE p", "StoredProgram PROCEDURE", None),
    (
        "CREATE TRIGGER tg BEFORE INSERT ON t FOR EACH ROW SET NEW.v = 5",
        "Trigger CREATE TRIGGER d1",
        None,
    ),
    ("DROP TRIGGER tg", "StoredProgram DROP TRIGGER", None),
    (
        "CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO SELECT 1",
        "StoredProgram EVENT",
        None,
    ),
    ("DROP EVENT e", "StoredProgram EVENT", None),
    (
        "CREATE TABLE part (a INT PRIMARY KEY) PARTITION BY RANGE (a) (PARTITION p0 VALUES LESS THAN (10), PARTITION p1 VALUES LESS THAN (20))",
        "CreateTable d1.part",
        None,
    ),
    (
        "CREATE TABLE pex (a INT PRIMARY KEY)",
        "CreateTable d1.pex",
        None,
    ),
    (
        "ALTER TABLE part EXCHANGE PARTITION p0 WITH TABLE pex",
        "AlterTable d1.part d1.pex",
        None,
    ),
    (
        "ALTER TABLE part TRUNCATE PARTITION p0",
        "AlterTable d1.part",
        None,
    ),
    (
        "ALTER TABLE part DROP PARTITION p0",
        "AlterTable d1.part",
        None,
    ),
    (
        "SET sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES'",
        "",
        None,
    ),
    (
        "CREATE TABLE \"q\"\"x\" (\"a b\" INT COMMENT 'c:\\')",
        "CreateTable d1.q\"x",
        None,
    ),
    ("CREATE TABLE \"gone\" (a INT)", "CreateTable d1.gone", None),
    ("DROP TABLE \"gone\"", "DropTable d1.gone", None),
    ("SET sql_mode = ''", "", None),
    ("DROP TABLE IF EXISTS nonex", "DropTable d1.nonex", None),
    ("SET time_zone = '+05:00'", "", None),
    (
        "CREATE TABLE zoned (a INT, ts TIMESTAMP NULL DEFAULT '2020-01-01 00:00:00')",
        "CreateTable d1.zoned",
        None,
    ),
    (
        "SET character_set_client = latin1, collation_connection = latin1_german1_ci",
        "",
        None,
    ),
    (
        "CREATE VIEW vl AS SELECT 'x' AS c",
        "CreateView d1.vl",
        None,
    ),
    ("SET NAMES utf8mb4, collation_server = latin1_bin", "", None),
    ("CREATE DATABASE d3", "CreateDatabase d3", None),
    ("SET foreign_key_checks = 0", "", None),
    (
        "CREATE TABLE child (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES parent (id))",
        "CreateTable d1.child",
        None,
    ),
    (
        "SET foreign_key_checks = 1, explicit_defaults_for_timestamp = 0",
        "",
        None,
    ),
    (
        "CREATE TABLE implied (ts TIMESTAMP)",
        "CreateTable d1.implied",
        None,
    ),
    ("SET explicit_defaults_for_timestamp = 1", "", None),
    (
        "CREATE TABLE explicit (ts TIMESTAMP)",
        "CreateTable d1.explicit",
        None,
    ),
    ("XA START 'x', 'b', 7", "", None),
    ("INSERT INTO t VALUES (10, 10)", "", None),
    ("XA END 'x', 'b', 7", "", None),
    ("XA PREPARE 'x', 'b', 7", "XaStart; XaEnd", Some("XaEnd")),
    ("XA COMMIT 'x', 'b', 7", "XaCommit", None),
    ("USE d2", "", None),
    (
        "ALTER DATABASE CHARACTER SET utf8mb4",
        "AlterDatabase d2",
        None,
    ),
    ("USE d3", "", None),
    ("DROP DATABASE d3", "DropDatabase d3", None),
];

const ONLY_MYSQL: &[Case] = &[
    ("USE d1", "", None),
    (
        "SET default_collation_for_utf8mb4 = utf8mb4_general_ci",
        "",
        None,
    ),
    (
        "CREATE TABLE collated (a CHAR(1) CHARACTER SET utf8mb4)",
        "CreateTable d1.collated",
        None,
    ),
    ("SET sql_generate_invisible_primary_key = 1", "", None),
    (
        "CREATE TABLE keyless (a INT)",
        "CreateTable d1.keyless",
        None,
    ),
    ("SET PASSWORD = ''", "Account USER", None),
    (
        "CREATE TABLESPACE ts ADD DATAFILE 'ts.ibd'",
        "Administrative TABLESPACE",
        None,
    ),
    (
        "CREATE JSON RELATIONAL DUALITY VIEW jv AS SELECT JSON_DUALITY_OBJECT('_id': id, 'v': v) FROM t",
        "CreateView d1.jv",
        None,
    ),
];

const ONLY_MARIADB: &[Case] = &[
    ("USE d1", "", None),
    (
        "CREATE OR REPLACE TABLE t (id INT PRIMARY KEY, v INT, w INT)",
        "CreateTable d1.t",
        None,
    ),
    (
        "SET STATEMENT sql_mode = '' FOR CREATE TABLE ss (a INT)",
        "CreateTable d1.ss",
        None,
    ),
    (
        "ALTER TABLE t ADD COLUMN u UUID DEFAULT UUID()",
        "Refused ALTER TABLE .. ADD COLUMN d1",
        None,
    ),
    (
        "ALTER TABLE t DROP COLUMN IF EXISTS u",
        "AlterTable d1.t",
        None,
    ),
    ("CREATE SEQUENCE sq", "Refused CREATE SEQUENCE d1", None),
    ("DROP SEQUENCE sq", "Refused DROP SEQUENCE d1", None),
    (
        "CREATE /*M!100100 OR REPLACE */ TABLE m (a INT)",
        "CreateTable d1.m",
        None,
    ),
    ("SET sql_mode = ORACLE", "", None),
    (
        "CREATE TABLE ora (a VARCHAR2(10))",
        "CreateTable d1.ora",
        None,
    ),
    (
        "CREATE PACKAGE pk AS PROCEDURE p; END",
        "StoredProgram PACKAGE",
        None,
    ),
    ("SET sql_mode = '', check_constraint_checks = 0", "", None),
    (
        "CREATE TABLE c (a INT CHECK (a > 5))",
        "CreateTable d1.c",
        None,
    ),
    ("SET PASSWORD = PASSWORD('')", "Account SET PASSWORD", None),
];

fn base() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

fn described(statement: &Statement) -> Option<String> {
    let text = match statement {
        Statement::Begin | Statement::Commit | Statement::Rollback => return None,
        Statement::Ddl(ddl) => {
            let names = match ddl.tables.is_empty() {
                true => ddl.databases.clone(),
                false => ddl
                    .tables
                    .iter()
                    .map(|table| format!("{}.{}", table.database, table.name))
                    .collect(),
            };
            let rows = if ddl.create_table_select { "+rows" } else { "" };
            format!("{:?}{rows} {}", ddl.kind, names.join(" "))
        }
        Statement::Administrative(kind) => format!("Administrative {kind}"),
        Statement::Account(kind) => format!("Account {kind}"),
        Statement::StoredProgram(kind) => format!("StoredProgram {kind}"),
        Statement::Refused(refusal) => {
            format!("Refused {} {}", refusal.kind, refusal.databases.join(" "))
        }
        Statement::Trigger(refusal) => {
            format!("Trigger {} {}", refusal.kind, refusal.databases.join(" "))
        }
        Statement::XaStart(_) => "XaStart".to_owned(),
        Statement::XaEnd(_) => "XaEnd".to_owned(),
        Statement::XaCommit { .. } => "XaCommit".to_owned(),
        other => format!("{other:?}"),
    };
    Some(text)
}

struct Logged {
    end: u64,
    gtid: Option<Gtid>,
    statement: LoggedQuery,
}

async fn position(conn: &mut Conn, flavor: Flavor) -> (String, u64) {
    let sql = match flavor {
        MySql => "SHOW BINARY LOG STATUS",
        MariaDb => "SHOW MASTER STATUS",
    };
    let row: Row = conn.query_first(sql).await.unwrap().unwrap();
    (row.get(0).unwrap(), row.get(1).unwrap())
}

/// Every statement in the log from `start` to `end`, which are in one file.
async fn read_log(server: &Server, flavor: Flavor, start: &(String, u64), end: u64) -> Vec<Logged> {
    let mut conn = server.connect().await.unwrap();
    if flavor == MariaDb {
        conn.query_drop("SET @mariadb_slave_capability=4")
            .await
            .unwrap();
    }
    let request = BinlogStreamRequest::new(4712)
        .with_non_blocking()
        .with_filename(start.0.as_bytes())
        .with_pos(start.1);
    let mut stream = conn.get_binlog_stream(request).await.unwrap();
    let mut decoder = Decoder::new(flavor);
    let mut statements = Vec::new();
    let mut group = None;
    while let Some(event) = stream.next().await {
        let event = event.unwrap();
        let raw = event.header();
        let header = EventHeader {
            timestamp: raw.timestamp(),
            event_type: raw.event_type_raw(),
            server_id: raw.server_id(),
            end_log_pos: raw.log_pos(),
            flags: raw.flags_raw(),
        };
        match decoder.decode(&header, event.data()).unwrap() {
            Event::Gtid { gtid, .. } => group = gtid,
            Event::Query { query, .. } => statements.push(Logged {
                end: u64::from(header.end_log_pos),
                gtid: group.clone(),
                statement: *query,
            }),
            _ => {}
        }
        if u64::from(header.end_log_pos) >= end {
            break;
        }
    }
    statements
}

/// SHOW CREATE of every database, table and view.
async fn definitions(server: &Server) -> BTreeMap<String, String> {
    let mut conn = server.connect().await.unwrap();
    conn.query_drop("SET time_zone = '+00:00'").await.unwrap();
    let mut all = BTreeMap::new();
    let databases: Vec<String> = conn.query("SHOW DATABASES LIKE 'd_'").await.unwrap();
    for database in databases {
        let row: Row = conn
            .query_first(format!("SHOW CREATE DATABASE {database}"))
            .await
            .unwrap()
            .unwrap();
        all.insert(database.clone(), row.get(1).unwrap());
        let tables: Vec<String> = conn
            .query(format!("SHOW TABLES FROM {database}"))
            .await
            .unwrap();
        for table in tables {
            let name = format!("{database}.`{}`", table.replace('`', "``"));
            let row: Row = conn
                .query_first(format!("SHOW CREATE TABLE {name}"))
                .await
                .unwrap()
                .unwrap();
            let mut text: String = row.get(1).unwrap();
            // The rows were not applied here.
            if let Some(at) = text.find(" AUTO_INCREMENT=") {
                let digits = &text[at + " AUTO_INCREMENT=".len()..];
                let length = digits.bytes().take_while(u8::is_ascii_digit).count();
                text.replace_range(at..at + " AUTO_INCREMENT=".len() + length, "");
            }
            // Of a view also the character set and collation that it was made with.
            for column in 2..row.len() {
                text.push_str(&row.get::<String, _>(column).unwrap());
            }
            all.insert(name, text);
        }
    }
    all
}

/// Runs the statement at the target as the origin ran it. On MySQL twice: the second time it must be
/// passed over.
async fn rerun(conn: &mut Conn, flavor: Flavor, logged: &Logged, statement: &Statement) {
    let text = || String::from_utf8_lossy(&logged.statement.sql).into_owned();
    let sql = ddl::rerunnable(statement, &logged.statement.sql);
    let times = match flavor {
        MySql => 2,
        MariaDb => 1,
    };
    for _ in 0..times {
        for setting in ddl_session(&logged.statement, flavor) {
            conn.query_drop(&setting)
                .await
                .unwrap_or_else(|error| panic!("{setting}, for {}: {error}", text()));
        }
        if flavor == MySql {
            let gtid = logged.gtid.as_ref().unwrap();
            conn.query_drop(format!("SET gtid_next = '{gtid}'"))
                .await
                .unwrap();
        }
        conn.query_drop(sql.as_ref())
            .await
            .unwrap_or_else(|error| panic!("{}: {error}", text()));
        if flavor == MySql {
            conn.query_drop("SET gtid_next = 'AUTOMATIC'")
                .await
                .unwrap();
        }
        for setting in apply_session(flavor, 1) {
            conn.query_drop(&setting)
                .await
                .unwrap_or_else(|error| panic!("{setting}, after {}: {error}", text()));
        }
    }
}

async fn recognises(kind: ServerKind, flavor: Flavor, own: &[Case]) {
    let options = |offset| ServerOptions::node("ddl", offset, 2);
    let (origin, target) = tokio::join!(
        Server::start(kind, base(), options(1)),
        Server::start(kind, base(), options(2)),
    );
    let (origin, target) = (origin.unwrap(), target.unwrap());
    let mut conn = origin.connect().await.unwrap();
    let start = position(&mut conn, flavor).await;
    let mut ends = Vec::new();
    for (sql, ..) in BOTH.iter().chain(own) {
        conn.query_drop(*sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        let (file, end) = position(&mut conn, flavor).await;
        assert_eq!(file, start.0);
        ends.push(end);
    }
    let end = *ends.last().unwrap();
    let log = read_log(&origin, flavor, &start, end).await;

    let mut applier = target.connect().await.unwrap();
    for setting in apply_session(flavor, 1) {
        applier.query_drop(setting).await.unwrap();
    }
    let target_start = position(&mut applier, flavor).await;
    let mut entries = log.iter().peekable();
    let mut replicated = 0;
    for ((sql, mysql, mariadb), end) in BOTH.iter().chain(own).zip(&ends) {
        let expected = match flavor {
            MySql => mysql,
            MariaDb => mariadb.as_ref().unwrap_or(mysql),
        };
        let mut found = Vec::new();
        while let Some(logged) = entries.next_if(|logged| logged.end <= *end) {
            let statement = ddl::recognise_logged(&logged.statement, flavor);
            found.extend(described(&statement));
            if let Statement::Ddl(_) = statement {
                rerun(&mut applier, flavor, logged, &statement).await;
                replicated += 1;
            }
        }
        assert_eq!(found.join("; "), **expected, "{flavor:?}: {sql}");
    }
    let (mut there, mut here) = (definitions(&origin).await, definitions(&target).await);
    // Refused and left-out statements made these at the origin only.
    for only_origin in ["d1.`sq`", "d1.`pk`"] {
        there.remove(only_origin);
        here.remove(only_origin);
    }
    assert!(here.len() > 15, "{here:?}");
    for (name, text) in &there {
        assert_eq!(here.get(name), Some(text), "{flavor:?}: {name}");
    }
    assert_eq!(there.len(), here.len());

    // What came from the origin is known by it in the target's own log, and is there once.
    let (_, target_end) = position(&mut applier, flavor).await;
    let own_log = read_log(&target, flavor, &target_start, target_end).await;
    let own_ddl: Vec<_> = own_log
        .iter()
        .filter(|logged| {
            matches!(
                ddl::recognise_logged(&logged.statement, flavor),
                Statement::Ddl(_)
            )
        })
        .collect();
    assert_eq!(own_ddl.len(), replicated);
    let origin_gtids: Vec<_> = log.iter().map(|logged| &logged.gtid).collect();
    for logged in own_ddl {
        match &logged.gtid {
            Some(Gtid::MariaDb { server_id, .. }) => assert_eq!(*server_id, 1),
            gtid => assert!(origin_gtids.contains(&gtid), "{gtid:?}"),
        }
    }
}

#[tokio::test]
async fn mysql_ddl_is_recognised_and_rerun() {
    recognises(ServerKind::MySql, MySql, ONLY_MYSQL).await;
}

#[tokio::test]
async fn mariadb_ddl_is_recognised_and_rerun() {
    recognises(ServerKind::MariaDb, MariaDb, ONLY_MARIADB).await;
}
