//! The main job: two masters, both written to, kept in agreement.

use twinlog_cli::sandbox::ServerKind;
use twinlog_harness::{Pair, PairOptions};

const SCHEMA: &str = "CREATE DATABASE shop; CREATE TABLE shop.item (
    id BIGINT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(100) NOT NULL, price DECIMAL(10,2), \
    changed TIMESTAMP(3) NULL) DEFAULT CHARSET utf8mb4";

async fn both_ways(kind: ServerKind) {
    let pair = Pair::start(&PairOptions::new(kind), SCHEMA).await;
    pair.run(0, "INSERT INTO shop.item (name, price, changed) VALUES ('a1', 1.50, NOW(3)), ('ä2', NULL, NULL)").await;
    pair.run(
        1,
        "INSERT INTO shop.item (name, price) VALUES ('b1', 2.50), ('b2', -3)",
    )
    .await;
    pair.wait().await;
    pair.assert_equal().await;
    let names: Vec<(i64, String)> = pair
        .query(0, "SELECT id, name FROM shop.item ORDER BY id")
        .await;
    assert_eq!(names.len(), 4);

    // Rows that came from the other node may be changed once they are here.
    pair.run(1, "UPDATE shop.item SET name = CONCAT(name, '!') WHERE id % 2 = 1; DELETE FROM shop.item WHERE id = 2").await;
    pair.wait().await;
    pair.run(
        0,
        "UPDATE shop.item SET id = id + 1000 WHERE id = 4; DELETE FROM shop.item WHERE id = 1",
    )
    .await;
    pair.wait().await;
    pair.assert_equal().await;
    let ids: Vec<i64> = pair.query(1, "SELECT id FROM shop.item ORDER BY id").await;
    assert_eq!(ids, [3, 1004]);
    pair.assert_no_loops();
    let [to_a, to_b] = [pair.link_to(0), pair.link_to(1)];
    assert_eq!(to_b.applied_transactions, 3, "{to_b:#?}");
    assert_eq!(to_a.applied_transactions, 3, "{to_a:#?}");
    assert!(to_a.loops_prevented > 0 && to_b.loops_prevented > 0);
}

#[tokio::test]
async fn mariadb_both_ways() {
    both_ways(ServerKind::MariaDb).await;
}

#[tokio::test]
async fn mysql_both_ways() {
    both_ways(ServerKind::MySql).await;
}

/// An AUTO_INCREMENT value that belongs to the other node is carried, counted and warned about.
async fn stray_auto_increment(kind: ServerKind) {
    let pair = Pair::start(&PairOptions::new(kind), SCHEMA).await;
    // The settings are asked for once a second.
    let deadline = std::time::Instant::now() + twinlog_harness::pair::PATIENCE;
    while pair.link_to(1).source_position.ends_with(":0") {
        assert!(
            std::time::Instant::now() < deadline,
            "{:#?}",
            pair.link_to(1)
        );
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    pair.run(0, "INSERT INTO shop.item (name) VALUES ('own'); INSERT INTO shop.item (id, name) VALUES (20, 'stray'), (21, 'own')").await;
    pair.wait().await;
    pair.assert_equal().await;
    assert_eq!(
        pair.link_to(1).auto_increment_strays,
        1,
        "{:#?}",
        pair.link_to(1)
    );
    assert_eq!(pair.link_to(0).auto_increment_strays, 0);
}

#[tokio::test]
async fn mariadb_stray_auto_increment() {
    stray_auto_increment(ServerKind::MariaDb).await;
}

#[tokio::test]
async fn mysql_stray_auto_increment() {
    stray_auto_increment(ServerKind::MySql).await;
}

/// A session that logs less than whole rows stops the link: nothing is guessed.
async fn minimal_image(kind: ServerKind) {
    let pair = Pair::start(&PairOptions::new(kind), SCHEMA).await;
    pair.run(0, "INSERT INTO shop.item (name) VALUES ('whole'); SET SESSION binlog_row_image = 'MINIMAL'; UPDATE shop.item SET name = 'part'").await;
    let message = pair.halted(1).await;
    assert!(message.contains("binlog_row_image"), "{message}");
    let names: Vec<String> = pair.query(1, "SELECT name FROM shop.item").await;
    assert_eq!(names, ["whole"], "what stood in front of it is applied");
}

#[tokio::test]
async fn mariadb_minimal_image() {
    minimal_image(ServerKind::MariaDb).await;
}

#[tokio::test]
async fn mysql_minimal_image() {
    minimal_image(ServerKind::MySql).await;
}
