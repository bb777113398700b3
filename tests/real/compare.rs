//! The comparison finds exactly the rows that differ.

use twinlog_cli::compare::{DifferenceKind, compare};
use twinlog_cli::sandbox::{Server, ServerKind, ServerOptions};

use crate::base;

const SCHEMA: &str = "
    CREATE DATABASE d CHARACTER SET utf8mb4;
    CREATE DATABASE other;
    CREATE TABLE d.t (a INT, b VARCHAR(20), f FLOAT, at TIMESTAMP NULL, raw VARBINARY(9),
                      PRIMARY KEY (b, a));
    CREATE TABLE d.bag (v INT NULL);
    CREATE TABLE d.empty (v INT PRIMARY KEY);
    SET time_zone = '+03:00';
    INSERT INTO d.t VALUES (1, 'one', 0.1, '2020-01-01 00:00:00', x'ff00'), (2, 'zwei ß', -0, NULL, ''),
                           (3, 'three', 1e30, '1999-12-31 23:59:59', x'00');
    INSERT INTO d.bag VALUES (1), (1), (NULL)";

async fn pair(left: ServerKind, right: ServerKind) -> (Server, Server) {
    let (a, b) = tokio::join!(
        Server::start(left, base(), ServerOptions::node("compare", 1, 2)),
        Server::start(right, base(), ServerOptions::node("compare", 2, 2)),
    );
    let (a, b) = (a.unwrap(), b.unwrap());
    a.query_drop(SCHEMA).await.unwrap();
    b.query_drop(SCHEMA).await.unwrap();
    (a, b)
}

/// A database that does not count may differ.
fn includes(database: &str) -> bool {
    database == "d"
}

async fn finds_differences(kind: ServerKind) {
    let (a, b) = pair(kind, kind).await;
    a.query_drop("CREATE TABLE other.only_here (v INT)")
        .await
        .unwrap();
    let equal = compare(("a", a.opts()), ("b", b.opts()), &includes)
        .await
        .unwrap();
    assert!(equal.equal, "{equal:#?}");
    assert_eq!(equal.tables.len(), 3);
    assert_eq!(equal.rows(), 6);
    assert!(equal.tables.iter().all(|table| table.checksums.is_some()));

    a.query_drop("INSERT INTO d.t VALUES (9, 'left', 0, NULL, NULL)")
        .await
        .unwrap();
    b.query_drop(
        "UPDATE d.t SET f = 0.10001 WHERE a = 1; DELETE FROM d.t WHERE a = 3;
         INSERT INTO d.bag VALUES (1); DELETE FROM d.bag WHERE v IS NULL;
         CREATE TABLE d.right_only (v INT)",
    )
    .await
    .unwrap();
    let found = compare(("a", a.opts()), ("b", b.opts()), &includes)
        .await
        .unwrap();
    assert!(!found.equal);
    let mut differing: Vec<_> = found
        .differing()
        .flat_map(|table| {
            table
                .differences
                .iter()
                .map(|row| (table.table.as_str(), row.key.as_str(), row.kind))
        })
        .collect();
    differing.sort_unstable_by_key(|(table, key, _)| (*table, *key));
    assert_eq!(
        differing,
        [
            ("bag", "1", DifferenceKind::OnlyRight),
            ("bag", "NULL", DifferenceKind::OnlyLeft),
            ("t", "'left', 9", DifferenceKind::OnlyLeft),
            ("t", "'one', 1", DifferenceKind::Differs),
            ("t", "'three', 3", DifferenceKind::OnlyLeft),
        ]
    );
    let missing: Vec<_> = found
        .differing()
        .filter_map(|table| {
            table
                .problem
                .as_deref()
                .map(|why| (table.table.as_str(), why))
        })
        .collect();
    assert_eq!(missing, [("right_only", "node a has no such table")]);
}

#[tokio::test]
async fn mariadb_differences_are_found() {
    finds_differences(ServerKind::MariaDb).await;
}

#[tokio::test]
async fn mysql_differences_are_found() {
    finds_differences(ServerKind::MySql).await;
}

#[tokio::test]
async fn a_differing_definition_is_reported() {
    let (a, b) = pair(ServerKind::MariaDb, ServerKind::MariaDb).await;
    b.query_drop("ALTER TABLE d.empty MODIFY v BIGINT; ALTER TABLE d.t MODIFY f FLOAT FIRST")
        .await
        .unwrap();
    let found = compare(("a", a.opts()), ("b", b.opts()), &includes)
        .await
        .unwrap();
    let differing: Vec<_> = found
        .differing()
        .map(|table| table.table.as_str())
        .collect();
    // Another order of the columns changes the checksum of d.t, but not what its rows say.
    assert_eq!(differing, ["empty"], "{found:#?}");
    let problem = found.differing().next().unwrap().problem.clone().unwrap();
    assert!(
        problem.contains("int(11), collation -, nullable NO at a, bigint(20)"),
        "{problem}"
    );
    assert!(problem.ends_with(" at b"), "{problem}");
}
