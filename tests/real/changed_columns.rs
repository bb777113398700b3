//! Updates that write only the columns that changed.

use twinlog_cli::sandbox::ServerKind;
use twinlog_harness::{Pair, PairOptions};

on_both!(
    only_what_changed_is_written,
    whatever_the_table_asks_for,
    a_missing_row_is_not_mistaken_for_another,
);

const ROWS: usize = 40;

/// Writes at a while no engine runs, so that groups are merged.
async fn behind(pair: &mut Pair, statements: &[String]) {
    pair.stop_engine(1).await;
    for statement in statements {
        pair.run(0, statement).await;
    }
    pair.start_engine(1).await;
    pair.wait().await;
    let regrouped: u64 = pair.links().iter().map(|link| link.regrouped).sum();
    assert_eq!(regrouped, 0, "the merged statements were not taken");
}

/// What was made different at b, unlogged, in a column that a leaves alone, stays.
async fn only_what_changed_is_written(kind: ServerKind) {
    let insert: Vec<String> = (1..=ROWS)
        .map(|id| format!("({id}, {id}, 'text', {id})"))
        .collect();
    let schema = format!(
        "CREATE DATABASE d; CREATE TABLE d.`täfel` (id INT PRIMARY KEY, a INT NOT NULL, b LONGTEXT NOT NULL, \
         c BIGINT, UNIQUE (c)); INSERT INTO d.`täfel` VALUES {}",
        insert.join(",")
    );
    let mut pair = Pair::start(&PairOptions::new(kind), &schema).await;
    pair.wait().await;
    pair.run(
        1,
        "SET SESSION sql_log_bin = 0; UPDATE d.`täfel` SET b = 'drifted'",
    )
    .await;
    // By groups of many rows and of few, and by themselves.
    for round in 0..3 {
        let statements: Vec<String> = (1..=ROWS >> (2 * round))
            .map(|id| match (round + id) % 3 {
                0 => format!("UPDATE d.`täfel` SET a = a + 1000 WHERE id = {id}"),
                1 => format!("UPDATE d.`täfel` SET c = c + 1000 WHERE id = {id}"),
                _ => format!("UPDATE d.`täfel` SET a = -a - 7, c = c + 1000 WHERE id = {id}"),
            })
            .collect();
        behind(&mut pair, &statements).await;
    }
    let of = async |node| -> Vec<(i64, i64, i64)> {
        pair.query(node, "SELECT id, a, c FROM d.`täfel` ORDER BY id")
            .await
    };
    assert_eq!(of(0).await, of(1).await);
    let texts: Vec<(String, u64)> = pair
        .query(1, "SELECT b, COUNT(*) FROM d.`täfel` GROUP BY b")
        .await;
    assert_eq!(texts, [("drifted".to_owned(), ROWS as u64)]);
    pair.run(0, "UPDATE d.`täfel` SET b = 'written'").await;
    pair.wait().await;
    pair.assert_equal().await;
}

/// Columns that an INSERT may not leave out, or that the server sets by itself.
async fn whatever_the_table_asks_for(kind: ServerKind) {
    let (json, of_one) = match kind {
        ServerKind::MariaDb => ("JSON_VALUE(doc, '$.n')", ""),
        ServerKind::MySql => (
            "doc->>'$.n'",
            ", INDEX by_number ((CAST(doc->>'$.m' AS UNSIGNED)))",
        ),
    };
    let schema = format!(
        "CREATE DATABASE d; CREATE TABLE d.`täfel` (id INT PRIMARY KEY, n INT NOT NULL, kind ENUM('x', 'y') NOT NULL, \
         doc JSON NOT NULL, body TEXT NOT NULL CHECK (body <> ''), `größe` TEXT NOT NULL, code BINARY(3) NOT NULL, \
         day DATE NOT NULL, price DECIMAL(9,2) NOT NULL CHECK (price > 1), point POINT NOT NULL, bits BIT(3) NOT NULL, \
         gone VARCHAR(9) DEFAULT 'x', made VARCHAR(40) DEFAULT (CONCAT('made ', 1 + 1)), f FLOAT NOT NULL, \
         number INT AS (CAST({json} AS SIGNED)) STORED, serial BIGINT NOT NULL AUTO_INCREMENT UNIQUE, \
         touched TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6){of_one})"
    );
    let insert = |id: usize| {
        format!(
            "({id}, {id}, 'x', '{{\"n\": {id}, \"m\": {id}}}', 'body', 'free', 'abc', '2024-01-0{}', 2.50, \
             POINT(1, 2), 5, 'gone', 'own', 0.0, {id})",
            id % 9 + 1
        )
    };
    let rows: Vec<String> = (1..=ROWS).map(insert).collect();
    let mut pair = Pair::start(&PairOptions::new(kind), &schema).await;
    let sql = format!(
        "INSERT INTO d.`täfel` (id, n, kind, doc, body, `größe`, code, day, price, point, bits, gone, made, f, serial) VALUES {}",
        rows.join(",")
    );
    pair.run(0, "ALTER TABLE d.`täfel` ALTER gone DROP DEFAULT")
        .await;
    pair.run(0, &sql).await;
    pair.wait().await;
    let changes = [
        "n = -n, touched = touched",
        "f = -f",
        "`größe` = 'groß \\\\ \\' 大'",
        "kind = 'y', touched = '2020-02-02 02:02:02.000002'",
        "doc = '{\"n\": 7, \"m\": 8}'",
        "body = 'changed'",
        "price = 1.01",
        "made = NULL",
        "bits = 0, code = 'abd'",
        "day = '2023-03-03'",
        "serial = serial + 1000",
        "point = POINT(3, 4)",
    ];
    // Each by itself, so that its columns stand in statements of their own.
    for set in changes {
        behind(&mut pair, &[format!("UPDATE d.`täfel` SET {set}")]).await;
        pair.assert_equal().await;
    }
    // All in one group, a few rows each.
    let mixed: Vec<String> = (1..=ROWS)
        .map(|id| {
            format!(
                "UPDATE d.`täfel` SET {} WHERE id = {id}",
                changes[id % changes.len()]
            )
        })
        .collect();
    behind(&mut pair, &mixed).await;
    pair.assert_equal().await;
    let rows: Vec<(u64, u64)> = pair
        .query(1, "SELECT COUNT(*), COUNT(DISTINCT serial) FROM d.`täfel`")
        .await;
    assert_eq!(rows, [(ROWS as u64, ROWS as u64)]);
}

/// A row is gone at b, unlogged, and another one holds its unique value there.
async fn a_missing_row_is_not_mistaken_for_another(kind: ServerKind) {
    let numbered = (
        "id INT AUTO_INCREMENT PRIMARY KEY, a INT, u INT UNIQUE",
        "(1, 1, 1), (2, 2, 2), (3, 3, 3)",
        "u = 1",
    );
    let named = (
        "day DATE, name VARCHAR(9) COLLATE utf8mb4_general_ci, a INT, u INT UNIQUE, PRIMARY KEY (name, day)",
        "('2024-01-01', 'Ä', 1, 1), ('2024-01-02', 'Ä', 2, 2), ('2024-01-01', 'b', 3, 3)",
        "u = 1, day = '2025-05-05'",
    );
    for (columns, rows, taken_over) in [numbered, named] {
        let schema = format!(
            "CREATE DATABASE d; CREATE TABLE d.t ({columns}); INSERT INTO d.t VALUES {rows}"
        );
        let mut pair = Pair::start(&PairOptions::new(kind), &schema).await;
        pair.wait().await;
        pair.stop_engine(1).await;
        let unlogged = format!(
            "SET SESSION sql_log_bin = 0; DELETE FROM d.t WHERE u = 1; \
             UPDATE d.t SET {taken_over} WHERE u = 3"
        );
        pair.run(1, &unlogged).await;
        pair.run(0, "UPDATE d.t SET a = 20 WHERE u = 2").await;
        pair.run(0, "UPDATE d.t SET a = 10 WHERE u = 1").await;
        pair.start_engine(1).await;
        let halted = pair.halted(1).await;
        assert!(halted.contains("d.t"), "{halted}");
        let left: Vec<(i64, i64)> = pair.query(1, "SELECT a, u FROM d.t ORDER BY u").await;
        assert_eq!(left, [(3, 1), (20, 2)], "{columns}");
    }
}
