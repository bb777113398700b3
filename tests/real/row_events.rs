//! Rows that come to the target as row events. Those of tables with triggers do: what a trigger did at the origin is in
//! the log as rows, and nothing at the target does it again. Those of wide tables do, as long as they may.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use twinlog_cli::sandbox::ServerKind;
use twinlog_engine::preflight;
use twinlog_harness::{Pair, PairOptions};

/// Each change of `d.t` is written down, and a new row's `v` is one higher than what a client gives.
const SCHEMA: &str = "CREATE DATABASE d; \
    CREATE TABLE d.t (id INT PRIMARY KEY, v INT NOT NULL, u INT UNIQUE, w INT UNIQUE, twice INT AS (v * 2) STORED, \
    thrice INT AS (v * 3) VIRTUAL, s VARCHAR(20), at TIMESTAMP(3) NULL ON UPDATE CURRENT_TIMESTAMP(3)); \
    CREATE TABLE d.seen (n BIGINT AUTO_INCREMENT PRIMARY KEY, what VARCHAR(9), id INT); \
    CREATE TRIGGER d.higher BEFORE INSERT ON d.t FOR EACH ROW SET NEW.v = NEW.v + 1; \
    CREATE TRIGGER d.inserted AFTER INSERT ON d.t FOR EACH ROW INSERT INTO d.seen (what, id) VALUES ('insert', NEW.id); \
    CREATE TRIGGER d.updated AFTER UPDATE ON d.t FOR EACH ROW INSERT INTO d.seen (what, id) VALUES ('update', NEW.id); \
    CREATE TRIGGER d.deleted AFTER DELETE ON d.t FOR EACH ROW INSERT INTO d.seen (what, id) VALUES ('delete', OLD.id); \
    INSERT INTO d.t (id, v, u, s) VALUES (1, 0, 1, 'one'), (2, 0, 2, 'two'), (3, 0, 3, 'three'); DELETE FROM d.seen";

on_both!(
    triggers_fire_where_a_client_writes,
    conflicts_fire_no_triggers,
    a_trigger_that_a_client_makes_is_minded_from_there_on,
    drift_is_found_in_front_of_row_events,
    settings_that_change_row_events_halt_the_link,
    wide_rows_go_as_row_events_while_they_may,
    without_row_events_a_table_with_triggers_is_refused,
    tables_that_are_not_alike_are_refused,
    columns_may_come_and_go_and_stand_elsewhere,
    wide_tables_that_are_not_alike_go_by_sql,
    rows_that_fit_only_as_sql_go_by_sql,
    rows_are_logged_with_the_time_of_day,
    a_delete_that_would_fire_triggers_of_children_is_not_guessed,
    truncating_a_table_with_triggers,
);

/// BINLOG statements that a node has run.
pub(crate) async fn statements(pair: &Pair, node: usize) -> i64 {
    let status = "SHOW GLOBAL STATUS LIKE 'Com_binlog'";
    pair.query::<(String, i64)>(node, status).await[0].1
}

async fn seen(pair: &Pair, node: usize) -> Vec<(String, i32)> {
    pair.query(node, "SELECT what, id FROM d.seen ORDER BY id, n")
        .await
}

fn told(expected: &[(&str, i32)]) -> Vec<(String, i32)> {
    let expected = expected.iter();
    expected
        .map(|(what, id)| ((*what).to_owned(), *id))
        .collect()
}

async fn triggers_fire_where_a_client_writes(kind: ServerKind) {
    let mut options = PairOptions::new(kind);
    if kind == ServerKind::MariaDb {
        // For replicas that are to run triggers which their source has not.
        options.extra_args = vec!["--slave-run-triggers-for-rbr=LOGGING".to_owned()];
    }
    let pair = Pair::start(&options, SCHEMA).await;
    let findings = preflight::check(&pair.config).await;
    let of_triggers = findings
        .iter()
        .filter(|finding| finding.subject == "tables.triggers");
    let levels: Vec<_> = of_triggers.map(|finding| finding.level).collect();
    assert_eq!(levels, [preflight::Level::Pass; 2]);
    pair.run(
        0,
        "INSERT INTO d.t (id, v, s) VALUES (10, 5, 'ten'), (11, 5, 'x'); UPDATE d.t SET v = 8, at = '2024-02-29 10:11:12.5' \
         WHERE id = 10; DELETE FROM d.t WHERE id = 11; UPDATE d.t SET id = 12 WHERE id = 1",
    )
    .await;
    pair.wait().await;
    pair.run(
        1,
        "BEGIN; INSERT INTO d.t (id, v) VALUES (20, 1); UPDATE d.t SET v = 3, s = NULL WHERE id = 20; UPDATE d.t SET u = 33 \
         WHERE id = 3; UPDATE d.t SET u = 3 WHERE id = 2; COMMIT; DELETE FROM d.t WHERE id = 10",
    )
    .await;
    pair.wait().await;
    pair.assert_equal().await;
    pair.assert_no_loops();
    let rows: Vec<(i32, i32, Option<i32>, i32, i32)> = pair
        .query(0, "SELECT id, v, u, twice, thrice FROM d.t ORDER BY id")
        .await;
    let expected = [
        (2, 1, Some(3), 2, 3),
        (3, 1, Some(33), 2, 3),
        (12, 1, Some(1), 2, 3),
        (20, 3, None, 6, 9),
    ];
    assert_eq!(rows, expected);
    let expected = told(&[
        ("update", 2),
        ("update", 3),
        ("insert", 10),
        ("update", 10),
        ("delete", 10),
        ("insert", 11),
        ("delete", 11),
        ("update", 12),
        ("insert", 20),
        ("update", 20),
    ]);
    assert_eq!(seen(&pair, 0).await, expected);
}

async fn conflicts_fire_no_triggers(kind: ServerKind) {
    let mut pair = Pair::start(&PairOptions::new(kind), SCHEMA).await;
    pair.wait().await;
    pair.stop_engine(0).await;
    pair.stop_engine(1).await;
    let second = Duration::from_millis(1100);
    pair.run(
        0,
        "UPDATE d.t SET v = 10 WHERE id = 1; DELETE FROM d.t WHERE id = 2; INSERT INTO d.t (id, v, u) VALUES (30, 1, 77); \
         INSERT INTO d.t (id, v, s) VALUES (32, 1, 'a'); INSERT INTO d.t (id, v, u, w) VALUES (40, 1, 88, 88)",
    )
    .await;
    tokio::time::sleep(second).await;
    pair.run(
        1,
        "UPDATE d.t SET v = 20 WHERE id = 1; UPDATE d.t SET v = 21 WHERE id = 2; INSERT INTO d.t (id, v, u) VALUES (31, 2, 77); \
         INSERT INTO d.t (id, v, s) VALUES (32, 2, 'b'); INSERT INTO d.t (id, v, u, w) VALUES (41, 2, 88, 88); DELETE FROM d.t WHERE id = 3",
    )
    .await;
    tokio::time::sleep(second).await;
    pair.run(0, "UPDATE d.t SET s = 'late' WHERE id = 3").await;
    pair.start_engine(0).await;
    pair.start_engine(1).await;
    pair.wait().await;
    pair.assert_equal().await;
    pair.assert_no_loops();
    let rows: Vec<(i32, i32, Option<i32>, Option<String>)> = pair
        .query(1, "SELECT id, v, u, s FROM d.t ORDER BY id")
        .await;
    let text = |text: &str| Some(text.to_owned());
    let expected = [
        (1, 20, Some(1), text("one")),
        (2, 21, Some(2), text("two")),
        (3, 1, Some(3), text("late")),
        (31, 3, Some(77), None),
        (32, 3, None, text("b")),
        (41, 3, Some(88), None),
    ];
    assert_eq!(rows, expected);
    // What the clients did, and nothing that an engine did.
    let expected = told(&[
        ("update", 1),
        ("update", 1),
        ("delete", 2),
        ("update", 2),
        ("delete", 3),
        ("update", 3),
        ("insert", 30),
        ("insert", 31),
        ("insert", 32),
        ("insert", 32),
        ("insert", 40),
        ("insert", 41),
    ]);
    let mut found = seen(&pair, 0).await;
    found.sort_by(|one, other| (one.1, &one.0).cmp(&(other.1, &other.0)));
    assert_eq!(found, expected);
    let journal: Vec<i64> = pair.query(1, "SELECT COUNT(*) FROM twinlog.conflict").await;
    assert!(journal[0] >= 5, "{journal:?}");
}

async fn a_trigger_that_a_client_makes_is_minded_from_there_on(kind: ServerKind) {
    let pair = Pair::start(
        &PairOptions::new(kind),
        "CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY, v INT); CREATE TABLE d.seen (n INT AUTO_INCREMENT PRIMARY \
         KEY, id INT)",
    )
    .await;
    pair.run(0, "INSERT INTO d.t VALUES (1, 1)").await;
    pair.wait().await;
    let trigger = "CREATE TRIGGER d.watch AFTER INSERT ON d.t FOR EACH ROW INSERT INTO d.seen (id) VALUES (NEW.id)";
    pair.run(1, trigger).await;
    pair.run(0, "INSERT INTO d.t VALUES (2, 2)").await;
    pair.wait().await;
    pair.run(0, trigger).await;
    pair.run(0, "INSERT INTO d.t VALUES (3, 3)").await;
    pair.run(1, "INSERT INTO d.t VALUES (4, 4)").await;
    pair.wait().await;
    pair.run(1, "DROP TRIGGER d.watch; INSERT INTO d.t VALUES (5, 5)")
        .await;
    pair.run(0, "INSERT INTO d.t VALUES (6, 6)").await;
    pair.wait().await;
    pair.assert_equal().await;
    let seen: Vec<i32> = pair.query(1, "SELECT id FROM d.seen ORDER BY id").await;
    assert_eq!(seen, [3, 4, 6]);
    for link in pair.links() {
        assert!(link.left_out >= 1, "{link:#?}");
    }
}

async fn drift_is_found_in_front_of_row_events(kind: ServerKind) {
    for (at_b, on_a, part) in [
        (
            "DELETE FROM d.t WHERE id = 1",
            "UPDATE d.t SET v = 7 WHERE id = 1",
            "update",
        ),
        (
            "DELETE FROM d.t WHERE id = 1",
            "DELETE FROM d.t WHERE id = 1",
            "delete",
        ),
        (
            "INSERT INTO d.t (id, v) VALUES (30, 5)",
            "INSERT INTO d.t (id, v) VALUES (30, 6)",
            "PRIMARY",
        ),
    ] {
        let pair = Pair::start(&PairOptions::new(kind), SCHEMA).await;
        pair.run(1, &format!("SET sql_log_bin = 0; {at_b}")).await;
        pair.run(
            0,
            &format!("INSERT INTO d.t (id, v) VALUES (20, 0); {on_a}"),
        )
        .await;
        let message = pair.halted(1).await;
        assert!(
            message.starts_with("drift") && message.contains("d.t") && message.contains(part),
            "{message}"
        );
        let before: Vec<i32> = pair.query(1, "SELECT id FROM d.t WHERE id = 20").await;
        assert_eq!(before, [20], "what stood in front of it is applied");
    }
}

async fn settings_that_change_row_events_halt_the_link(kind: ServerKind) {
    let mut settings = vec!["slave_type_conversions = 'ALL_LOSSY'"];
    if kind == ServerKind::MariaDb {
        settings.extend([
            "slave_exec_mode = 'IDEMPOTENT'",
            "slave_run_triggers_for_rbr = 'ENFORCE'",
        ]);
    }
    let mut pair = Pair::start(&PairOptions::new(kind), SCHEMA).await;
    for (number, setting) in settings.into_iter().enumerate() {
        pair.run(0, &format!("INSERT INTO d.t (id, v) VALUES ({number}0, 0)"))
            .await;
        pair.wait().await;
        let name = setting.split(' ').next().unwrap();
        let before: Vec<String> = pair.query(1, &format!("SELECT @@GLOBAL.{name}")).await;
        pair.run(1, &format!("SET GLOBAL {setting}")).await;
        pair.run(0, &format!("INSERT INTO d.t (id, v) VALUES ({number}5, 0)"))
            .await;
        let message = pair.halted(1).await;
        assert!(
            message.contains("d.t") && message.contains("triggers") && message.contains(name),
            "{message}"
        );
        // Nor does an engine that starts then.
        pair.kill_engine(1).await;
        let message = pair.halted(1).await;
        assert!(
            message.contains("triggers") && message.contains(name),
            "{message}"
        );
        pair.run(1, &format!("SET GLOBAL {name} = '{}'", before[0]))
            .await;
        pair.kill_engine(1).await;
        pair.wait().await;
    }
    pair.assert_equal().await;
    let mut options = PairOptions::new(kind);
    options.extra_args = vec!["--slave-skip-errors=1062".to_owned()];
    let pair = Pair::start(&options, SCHEMA).await;
    pair.run(0, "INSERT INTO d.t (id, v) VALUES (50, 0)").await;
    let message = pair.halted(1).await;
    assert!(message.contains("slave_skip_errors"), "{message}");
}

/// A table with so many columns, `c0` and on, and two rows that have `value` in each.
fn wide(columns: usize, column_type: &str, value: &str) -> String {
    let named: Vec<String> = (0..columns)
        .map(|number| format!("c{number} {column_type} NOT NULL"))
        .collect();
    let values = vec![value; columns].join(", ");
    format!(
        "CREATE DATABASE d; CREATE TABLE d.wide (id INT PRIMARY KEY, {}); \
         INSERT INTO d.wide VALUES (1, {values}), (2, {values})",
        named.join(", ")
    )
}

/// Not for triggers, but since that costs the target less.
async fn wide_rows_go_as_row_events_while_they_may(kind: ServerKind) {
    let schema = wide(70, "INT", "7");
    let pair = Pair::start(&PairOptions::new(kind), &schema).await;
    pair.wait().await;
    let count = async || statements(&pair, 1).await;
    let before = count().await;
    pair.run(0, "UPDATE d.wide SET c5 = 1, c69 = 2 WHERE id = 1")
        .await;
    pair.wait().await;
    let behind = count().await;
    assert_eq!(behind, before + 1);
    pair.assert_equal().await;
    pair.run(1, "SET GLOBAL slave_type_conversions = 'ALL_LOSSY'")
        .await;
    pair.run(
        0,
        "UPDATE d.wide SET c6 = 1 WHERE id = 1; DELETE FROM d.wide WHERE id = 2",
    )
    .await;
    pair.wait().await;
    pair.assert_equal().await;
    // One was tried.
    let tried = count().await;
    pair.run(0, "UPDATE d.wide SET c7 = 1 WHERE id = 1").await;
    pair.wait().await;
    assert_eq!(count().await, tried);
    assert_eq!(pair.link_to(1).retries, 0);
    pair.assert_equal().await;
}

/// MariaDB takes it from the event, and others read it in the log.
async fn rows_are_logged_with_the_time_of_day(kind: ServerKind) {
    let pair = Pair::start(&PairOptions::new(kind), SCHEMA).await;
    pair.wait().await;
    let end = |kind| match kind {
        ServerKind::MariaDb => "SHOW MASTER STATUS",
        ServerKind::MySql => "SHOW BINARY LOG STATUS",
    };
    let at: Vec<mysql_async::Row> = pair.query(1, end(kind)).await;
    let (file, from): (String, u64) = (at[0].get(0).unwrap(), at[0].get(1).unwrap());
    pair.run(0, "UPDATE d.t SET v = 70 WHERE id = 1").await;
    pair.wait().await;
    let log = std::fs::read(pair.servers[1].datadir().join(&file)).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.unwrap().as_secs();
    let mut at = usize::try_from(from).unwrap();
    let mut count = 0;
    while at + 19 <= log.len() {
        let number = |from: usize| u32::from_le_bytes(log[from..from + 4].try_into().unwrap());
        let age = now - u64::from(number(at));
        assert!(age < 300, "event {} is {age} s old", log[at + 4]);
        count += 1;
        at += number(at + 9) as usize;
    }
    assert!(count > 5, "{count}");
}

async fn without_row_events_a_table_with_triggers_is_refused(kind: ServerKind) {
    let mut options = PairOptions::new(kind);
    options.replication = "row_events = \"never\"".to_owned();
    let pair = Pair::start(&options, SCHEMA).await;
    pair.run(0, "UPDATE d.t SET v = 7 WHERE id = 1").await;
    let message = pair.halted(1).await;
    for part in ["d.t", "triggers", "row_events = \"never\""] {
        assert!(message.contains(part), "{message}");
    }
    pair.run(
        1,
        "CREATE TRIGGER d.one_more BEFORE DELETE ON d.t FOR EACH ROW SET @x = 1",
    )
    .await;
    let message = pair.halted(0).await;
    assert!(message.contains("CREATE TRIGGER"), "{message}");
    if kind == ServerKind::MariaDb {
        // Its account has the privilege in any case.
        return;
    }
    let mut options = PairOptions::new(kind);
    options.replication = "ddl = \"ignore\"".to_owned();
    let mut pair = Pair::servers(&options).await;
    pair.both(SCHEMA).await;
    twinlog_engine::init::init(&pair.config, false)
        .await
        .unwrap();
    for server in &pair.servers {
        let mut conn = server.connect().await.unwrap();
        conn.query_drop(
            "SET sql_log_bin = 0; CREATE USER poor@'127.0.0.1' IDENTIFIED BY 'secret'; GRANT SELECT, INSERT, UPDATE, DELETE, \
             CREATE, ALTER, DROP, INDEX, TRIGGER, REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO poor@'127.0.0.1'; GRANT \
             SESSION_VARIABLES_ADMIN ON *.* TO poor@'127.0.0.1'",
        )
        .await
        .unwrap();
        conn.disconnect().await.unwrap();
    }
    pair.log_in_as("poor", "secret");
    let findings = preflight::check(&pair.config).await;
    let lacks = findings
        .iter()
        .find(|finding| finding.subject == "tables.triggers")
        .unwrap();
    let remedy = lacks.remedy.clone().unwrap_or_default();
    assert!(remedy.starts_with("GRANT REPLICATION_APPLIER"), "{lacks:?}");
    pair.start_engine(0).await;
    pair.start_engine(1).await;
    pair.run(0, "UPDATE d.t SET v = 7 WHERE id = 1").await;
    let message = pair.halted(1).await;
    assert!(message.contains("GRANT REPLICATION_APPLIER"), "{message}");
    pair.run(
        1,
        "SET sql_log_bin = 0; GRANT REPLICATION_APPLIER ON *.* TO poor@'127.0.0.1'",
    )
    .await;
    pair.kill_engine(1).await;
    pair.wait().await;
    pair.assert_equal().await;
}

async fn tables_that_are_not_alike_are_refused(kind: ServerKind) {
    let given = "UPDATE d.t SET s = 'new' WHERE id = 1";
    let set_null = "UPDATE d.t SET s = NULL WHERE id = 1";
    for (at_b, on_a, part) in [
        (
            "ALTER TABLE d.t MODIFY s VARCHAR(20) CHARACTER SET latin1",
            given,
            "latin1",
        ),
        // Only the server knows.
        ("ALTER TABLE d.t MODIFY s VARCHAR(10)", given, "columns"),
        // The server would put '' there.
        (
            "ALTER TABLE d.t MODIFY s VARCHAR(20) NOT NULL",
            set_null,
            "NULL",
        ),
    ] {
        let pair = Pair::start(&PairOptions::new(kind), SCHEMA).await;
        pair.run(1, &format!("SET sql_log_bin = 0; {at_b}")).await;
        pair.run(0, on_a).await;
        let message = pair.halted(1).await;
        assert!(
            message.contains("d.t") && message.contains(part),
            "{message}"
        );
        assert!(message.contains("binlog.0"), "no place: {message}");
    }
    // A key that events name in another way than by its columns.
    let watched = "CREATE TRIGGER d.watch BEFORE INSERT ON d.k FOR EACH ROW SET @seen = 1";
    let (table, part) = match kind {
        ServerKind::MariaDb => (
            "CREATE TABLE d.k (a INT NOT NULL, b INT NOT NULL, UNIQUE KEY z (a), UNIQUE KEY k (b))",
            "no PRIMARY KEY",
        ),
        ServerKind::MySql => (
            "SET sql_generate_invisible_primary_key = 1; CREATE TABLE d.k (a INT NOT NULL, b INT NOT NULL)",
            "the server generated",
        ),
    };
    let schema = format!("CREATE DATABASE d; {table}; {watched}");
    let pair = Pair::start(&PairOptions::new(kind), &schema).await;
    pair.run(0, "INSERT INTO d.k (a, b) VALUES (1, 2)").await;
    let message = pair.halted(1).await;
    assert!(
        message.contains("d.k") && message.contains(part),
        "{message}"
    );
}

/// Columns are matched by name, and may come and go while rows are on the way.
async fn columns_may_come_and_go_and_stand_elsewhere(kind: ServerKind) {
    let mut pair = Pair::start(&PairOptions::new(kind), SCHEMA).await;
    pair.run(
        1,
        "SET sql_log_bin = 0; ALTER TABLE d.t MODIFY s VARCHAR(20) AFTER id",
    )
    .await;
    pair.run(0, "UPDATE d.t SET s = 'new', u = 11 WHERE id = 1; INSERT INTO d.t (id, v, s) VALUES (9, 1, 'nine')").await;
    pair.wait().await;
    let rows: Vec<(i32, Option<String>, Option<i32>)> = pair
        .query(1, "SELECT id, s, u FROM d.t WHERE id IN (1, 9) ORDER BY id")
        .await;
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(rows, [(1, text("new"), Some(11)), (9, text("nine"), None)]);
    pair.run(
        1,
        "SET sql_log_bin = 0; ALTER TABLE d.t MODIFY s VARCHAR(20) AFTER thrice",
    )
    .await;
    // Unseen by the engine, and of the same type, so that the server would take it.
    for (place, w) in [("FIRST", 21), ("AFTER v", 22), ("AFTER u", 23)] {
        pair.run(
            1,
            &format!("SET sql_log_bin = 0; ALTER TABLE d.t MODIFY w INT {place}"),
        )
        .await;
        pair.run(0, &format!("UPDATE d.t SET w = {w} WHERE id = 2; INSERT INTO d.t (id, v, w) VALUES ({w}, 4, -{w})")).await;
        pair.wait().await;
        let rows: Vec<(i32, i32, Option<i32>, Option<i32>)> = pair
            .query(
                1,
                &format!("SELECT id, v, u, w FROM d.t WHERE id IN (2, {w}) ORDER BY id"),
            )
            .await;
        assert_eq!(rows, [(2, 1, Some(2), Some(w)), (w, 5, None, Some(-w))]);
    }
    for definition in ["ADD COLUMN more INT NOT NULL DEFAULT 3", "DROP COLUMN s"] {
        pair.wait().await;
        pair.stop_engine(0).await;
        pair.stop_engine(1).await;
        pair.run(
            0,
            "UPDATE d.t SET v = v + 1; INSERT INTO d.t (id, v) SELECT MAX(id) + 1, 5 FROM d.t",
        )
        .await;
        pair.run(1, &format!("ALTER TABLE d.t {definition}")).await;
        pair.start_engine(0).await;
        pair.start_engine(1).await;
        pair.wait().await;
        pair.assert_equal().await;
    }
}

/// A wide table without triggers need not go as row events: it goes on by SQL where it cannot.
async fn wide_tables_that_are_not_alike_go_by_sql(kind: ServerKind) {
    let schema = wide(30, "VARCHAR(9)", "'x'");
    let pair = Pair::start(&PairOptions::new(kind), &schema).await;
    pair.run(
        1,
        "SET sql_log_bin = 0; ALTER TABLE d.wide MODIFY c7 VARCHAR(12) NOT NULL",
    )
    .await;
    pair.run(
        0,
        "UPDATE d.wide SET c7 = 'y' WHERE id = 1; DELETE FROM d.wide WHERE id = 2",
    )
    .await;
    pair.wait().await;
    pair.run(0, "UPDATE d.wide SET c8 = 'z'").await;
    pair.wait().await;
    let rows: Vec<(i32, String, String)> = pair.query(1, "SELECT id, c7, c8 FROM d.wide").await;
    assert_eq!(rows, [(1, "y".to_owned(), "z".to_owned())]);
}

/// A row event is written in base64, a third longer than it is.
async fn rows_that_fit_only_as_sql_go_by_sql(kind: ServerKind) {
    let schema = wide(30, "INT", "7") + "; ALTER TABLE d.wide ADD s LONGTEXT";
    let mut options = PairOptions::new(kind);
    options.extra_args = vec!["--max-allowed-packet=4M".to_owned()];
    let mut pair = Pair::start(&options, &schema).await;
    pair.wait().await;
    let before = statements(&pair, 1).await;
    pair.run(0, "UPDATE d.wide SET c5 = 1 WHERE id = 1").await;
    pair.wait().await;
    assert_eq!(statements(&pair, 1).await, before + 1);
    pair.run(
        0,
        "UPDATE d.wide SET s = REPEAT('x', 3400000), c6 = 2 WHERE id = 1",
    )
    .await;
    pair.wait().await;
    pair.assert_equal().await;
    // A conflict is settled so as well, by an engine that has not met it.
    pair.stop_engine(0).await;
    pair.stop_engine(1).await;
    pair.run(0, "UPDATE d.wide SET c7 = 3 WHERE id = 2").await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    pair.run(1, "UPDATE d.wide SET s = REPEAT('y', 3400000) WHERE id = 2")
        .await;
    pair.start_engine(0).await;
    pair.start_engine(1).await;
    pair.wait().await;
    pair.assert_equal().await;
    let sizes: Vec<u32> = pair
        .query(0, "SELECT LENGTH(s) FROM d.wide ORDER BY id")
        .await;
    assert_eq!(sizes, [3_400_000, 3_400_000]);
}

/// What refers to a parent that goes is removed by SQL, which would fire.
async fn a_delete_that_would_fire_triggers_of_children_is_not_guessed(kind: ServerKind) {
    let mut pair = Pair::start(
        &PairOptions::new(kind),
        "CREATE DATABASE d; CREATE TABLE d.p (id INT PRIMARY KEY); CREATE TABLE d.c (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) \
         REFERENCES d.p (id)); CREATE TABLE d.seen (n INT AUTO_INCREMENT PRIMARY KEY); CREATE TRIGGER d.gone AFTER DELETE ON \
         d.c FOR EACH ROW INSERT INTO d.seen VALUES (NULL); INSERT INTO d.p VALUES (1), (2); INSERT INTO d.c VALUES (1, 1)",
    )
    .await;
    pair.run(0, "DELETE FROM d.c WHERE id = 1").await;
    pair.wait().await;
    pair.stop_engine(0).await;
    pair.stop_engine(1).await;
    pair.run(0, "INSERT INTO d.c VALUES (5, 2)").await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    pair.run(1, "DELETE FROM d.p WHERE id = 2").await;
    pair.start_engine(0).await;
    pair.start_engine(1).await;
    let message = pair.halted(0).await;
    assert!(message.contains("d.c, which has triggers"), "{message}");
    let seen: Vec<i64> = pair.query(0, "SELECT COUNT(*) FROM d.seen").await;
    assert_eq!(seen, [1]);
}

async fn truncating_a_table_with_triggers(kind: ServerKind) {
    let pair = Pair::start(&PairOptions::new(kind), SCHEMA).await;
    pair.run(0, "TRUNCATE TABLE d.t").await;
    pair.wait().await;
    pair.run(1, "INSERT INTO d.t (id, v) VALUES (1, 1)").await;
    pair.wait().await;
    pair.assert_equal().await;
    assert_eq!(seen(&pair, 0).await, told(&[("insert", 1)]));
}
