//! Concurrent writes are found by log order and settled the same way on both nodes.

use twinlog_cli::sandbox::ServerKind;
use twinlog_harness::{Pair, PairOptions};

const SCHEMA: &str = "CREATE DATABASE d; \
    CREATE TABLE d.t (id INT PRIMARY KEY, v INT, u INT UNIQUE); \
    INSERT INTO d.t VALUES (1, 0, 1), (2, 0, 2), (3, 0, 3)";

on_both!(
    the_later_write_of_a_row_wins,
    aba_is_a_conflict,
    the_later_claim_of_a_unique_value_wins,
    deletes_meet_updates,
    a_late_arrival_displaces_though_it_does_not_stand,
    concurrent_writes_of_an_unsigned_key,
    both_journals_name_the_winner,
    the_first_node_wins_by_priority,
    policy_halt_stops_both_links,
    drift_is_repaired_where_that_is_wanted,
    engines_with_other_rules_wait,
    rules_that_cannot_converge_are_refused,
    an_earlier_version_is_brought_up_to_date,
    a_verdict_is_taken_back,
    large_values_are_left_out_of_the_journal,
    a_window_on_disk_finds_what_it_holds,
    children_go_with_a_parent_that_was_deleted,
    a_parent_that_moves_is_not_guessed,
    what_a_lost_delete_cascaded_to_goes,
);

/// Both nodes are written to while no engine runs; then both engines start and all drains.
async fn concurrently(kind: ServerKind, schema: &str, on_a: &str, on_b: &str) -> Pair {
    let mut pair = Pair::start(&PairOptions::new(kind), schema).await;
    pair.wait().await;
    pair.stop_engine(0).await;
    pair.stop_engine(1).await;
    pair.run(0, on_a).await;
    // The log of MariaDB has whole seconds: the second write is to be later by the clock too.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    pair.run(1, on_b).await;
    pair.start_engine(0).await;
    pair.start_engine(1).await;
    pair.wait().await;
    pair.assert_equal().await;
    pair.assert_no_loops();
    pair
}

async fn rows(pair: &Pair) -> Vec<(i32, i32, Option<i32>)> {
    pair.query(0, "SELECT id, v, u FROM d.t ORDER BY id").await
}

async fn the_later_write_of_a_row_wins(kind: ServerKind) {
    let pair = concurrently(
        kind,
        SCHEMA,
        "UPDATE d.t SET v = 1 WHERE id = 1; INSERT INTO d.t VALUES (10, 1, 10)",
        "UPDATE d.t SET v = 2 WHERE id = 1; INSERT INTO d.t VALUES (10, 2, NULL), (11, 2, 11)",
    )
    .await;
    let expected = [
        (1, 2, Some(1)),
        (2, 0, Some(2)),
        (3, 0, Some(3)),
        (10, 2, None),
        (11, 2, Some(11)),
    ];
    assert_eq!(rows(&pair).await, expected);
}

async fn aba_is_a_conflict(kind: ServerKind) {
    // Comparing images would find nothing wrong with b's row, and take a's write there.
    let pair = concurrently(
        kind,
        SCHEMA,
        "UPDATE d.t SET v = 9 WHERE id = 1",
        "UPDATE d.t SET v = 5 WHERE id = 1; UPDATE d.t SET v = 0 WHERE id = 1",
    )
    .await;
    assert_eq!(rows(&pair).await[0], (1, 0, Some(1)));
}

async fn the_later_claim_of_a_unique_value_wins(kind: ServerKind) {
    let pair = concurrently(
        kind,
        SCHEMA,
        "INSERT INTO d.t VALUES (10, 1, 77)",
        "INSERT INTO d.t VALUES (11, 2, 77)",
    )
    .await;
    assert_eq!(rows(&pair).await[3..], [(11, 2, Some(77))]);
}

async fn deletes_meet_updates(kind: ServerKind) {
    let pair = concurrently(
        kind,
        SCHEMA,
        "DELETE FROM d.t WHERE id = 1; UPDATE d.t SET v = 1 WHERE id = 2; DELETE FROM d.t WHERE id = 3",
        "UPDATE d.t SET v = 2 WHERE id = 1; DELETE FROM d.t WHERE id = 2; DELETE FROM d.t WHERE id = 3",
    )
    .await;
    assert_eq!(rows(&pair).await, [(1, 2, Some(1))]);
}

/// Design section 3.
async fn a_late_arrival_displaces_though_it_does_not_stand(kind: ServerKind) {
    let mut pair = Pair::start(&PairOptions::new(kind), SCHEMA).await;
    pair.wait().await;
    pair.stop_engine(0).await;
    pair.stop_engine(1).await;
    let second = std::time::Duration::from_millis(1100);
    pair.run(0, "INSERT INTO d.t VALUES (10, 1, 24)").await;
    tokio::time::sleep(second).await;
    pair.run(1, "UPDATE d.t SET v = 2, u = 24 WHERE id = 2")
        .await;
    tokio::time::sleep(second).await;
    pair.run(0, "UPDATE d.t SET v = 3, u = 26 WHERE id = 2")
        .await;
    pair.start_engine(0).await;
    pair.start_engine(1).await;
    pair.wait().await;
    pair.assert_equal().await;
    let expected = [(1, 0, Some(1)), (2, 3, Some(26)), (3, 0, Some(3))];
    assert_eq!(rows(&pair).await, expected);
}

/// A log without metadata does not say that a key is unsigned.
async fn concurrent_writes_of_an_unsigned_key(kind: ServerKind) {
    let mut options = PairOptions::new(kind);
    options.extra_args = vec![match kind {
        ServerKind::MariaDb => "--binlog-row-metadata=NO_LOG".to_owned(),
        ServerKind::MySql => "--binlog-row-metadata=MINIMAL".to_owned(),
    }];
    let mut pair = Pair::start(
        &options,
        "CREATE DATABASE d; CREATE TABLE d.u (id TINYINT UNSIGNED PRIMARY KEY, v INT); INSERT INTO d.u VALUES (200, 0)",
    )
    .await;
    pair.stop_engine(0).await;
    pair.stop_engine(1).await;
    pair.run(0, "UPDATE d.u SET v = 1").await;
    pair.run(1, "UPDATE d.u SET v = 2").await;
    pair.start_engine(0).await;
    pair.start_engine(1).await;
    pair.wait().await;
    pair.assert_equal().await;
}

/// Rows of the journal at a node: kind, winner, and the three images.
async fn journal(pair: &Pair, node: usize) -> Vec<Journalled> {
    pair.query(
        node,
        "SELECT kind, winner_node, local_image, before_image, after_image FROM twinlog.conflict ORDER BY id",
    )
    .await
}

type Journalled = (
    String,
    String,
    Option<String>,
    Option<String>,
    Option<String>,
);

/// The same conflict, seen from both sides: one winner, both images.
async fn both_journals_name_the_winner(kind: ServerKind) {
    let schema = "CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY, name VARCHAR(20) CHARACTER SET utf8mb4, \
        price DECIMAL(8,2), raw VARBINARY(10), at DATETIME(3), colour ENUM('red', 'it''s'), f FLOAT); \
        INSERT INTO d.t VALUES (1, 'o''ne', 1.50, x'00ff', '2026-01-02 03:04:05.678', 'red', 0.1)";
    let pair = concurrently(
        kind,
        schema,
        "UPDATE d.t SET name = 'a\\\\', colour = 'it''s' WHERE id = 1",
        "UPDATE d.t SET price = NULL, f = 1e20 WHERE id = 1",
    )
    .await;
    let a = "[\"1\",\"'a\\\\\\\\'\",\"1.50\",\"X'00FF'\",\"'2026-01-02 03:04:05.678'\",\"'it\\\\'s'\",\"0.10000000149011612\"]";
    let [of_a, of_b] = [journal(&pair, 0).await, journal(&pair, 1).await];
    for entries in [&of_a, &of_b] {
        assert_eq!(entries.len(), 1, "{entries:#?}");
        assert_eq!(entries[0].0, "update_origin_differs");
        assert_eq!(entries[0].1, "b");
    }
    let plain = |text: &Option<String>| text.as_ref().map(|text| text.replace(", ", ","));
    // A's image as the log of a told it to b, and as it stood at a.
    assert_eq!(plain(&of_b[0].4).as_deref(), Some(a));
    assert_eq!(plain(&of_a[0].2), plain(&of_b[0].4));
    assert_eq!(plain(&of_b[0].2), plain(&of_a[0].4));
    assert_eq!(of_a[0].3, of_b[0].3);
}

fn with_rule(kind: ServerKind, rule: &str) -> PairOptions {
    let mut options = PairOptions::new(kind);
    options.replication = rule.to_owned();
    options
}

/// As [`concurrently`], under a rule; without waiting for the end.
async fn under_a_rule(kind: ServerKind, rule: &str, on_a: &str, on_b: &str) -> Pair {
    let mut pair = Pair::start(&with_rule(kind, rule), SCHEMA).await;
    pair.wait().await;
    pair.stop_engine(0).await;
    pair.stop_engine(1).await;
    pair.run(0, on_a).await;
    pair.run(1, on_b).await;
    pair.start_engine(0).await;
    pair.start_engine(1).await;
    pair
}

async fn the_first_node_wins_by_priority(kind: ServerKind) {
    let pair = under_a_rule(
        kind,
        "[[conflict]]\ntables = \"d.*\"\npolicy = \"node_priority\"",
        "UPDATE d.t SET v = 1 WHERE id = 1; INSERT INTO d.t VALUES (10, 1, 50); DELETE FROM d.t WHERE id = 2",
        "UPDATE d.t SET v = 2 WHERE id = 1; INSERT INTO d.t VALUES (11, 2, 50); UPDATE d.t SET v = 2 WHERE id = 2",
    )
    .await;
    pair.wait().await;
    pair.assert_equal().await;
    let expected = [(1, 1, Some(1)), (3, 0, Some(3)), (10, 1, Some(50))];
    assert_eq!(rows(&pair).await, expected);
}

async fn policy_halt_stops_both_links(kind: ServerKind) {
    let pair = under_a_rule(
        kind,
        "[[conflict]]\ntables = \"d.t\"\npolicy = \"halt\"",
        "INSERT INTO d.t VALUES (10, 0, 10); UPDATE d.t SET v = 1 WHERE id = 1; INSERT INTO d.t VALUES (12, 0, 12)",
        "INSERT INTO d.t VALUES (11, 0, 11); UPDATE d.t SET v = 2 WHERE id = 1",
    )
    .await;
    for node in [0, 1] {
        let message = pair.halted(node).await;
        assert!(
            message.contains("update_origin_differs") && message.contains("positions set"),
            "{message}"
        );
    }
    // Neither overwrote the other; what stood in front is there, what stands behind is not.
    let of_a: Vec<(i32, i32)> = pair.query(0, "SELECT id, v FROM d.t ORDER BY id").await;
    assert_eq!(of_a, [(1, 1), (2, 0), (3, 0), (10, 0), (11, 0), (12, 0)]);
    let of_b: Vec<(i32, i32)> = pair.query(1, "SELECT id, v FROM d.t ORDER BY id").await;
    assert_eq!(of_b, [(1, 2), (2, 0), (3, 0), (10, 0), (11, 0)]);
}

async fn drift_is_repaired_where_that_is_wanted(kind: ServerKind) {
    let pair = Pair::start(&with_rule(kind, "drift = \"repair\""), SCHEMA).await;
    let away =
        "SET sql_log_bin = 0; DELETE FROM d.t WHERE id < 3; INSERT INTO d.t VALUES (9, 9, 9)";
    pair.run(1, away).await;
    pair.run(0, "UPDATE d.t SET v = 7 WHERE id = 1; DELETE FROM d.t WHERE id = 2; INSERT INTO d.t VALUES (9, 1, 2)").await;
    pair.wait().await;
    pair.assert_equal().await;
    let kinds: Vec<String> = pair
        .query(1, "SELECT kind FROM twinlog.conflict ORDER BY id")
        .await;
    assert_eq!(kinds, ["drift_missing", "drift_missing", "drift_exists"]);
    let counted: u64 = pair.link_to(1).conflicts.iter().map(|of| of.count).sum();
    assert_eq!(counted, 3);
}

/// Engines that would settle differently do not run together, and go on once they agree.
async fn engines_with_other_rules_wait(kind: ServerKind) {
    let mut pair = Pair::start(&PairOptions::new(kind), SCHEMA).await;
    pair.wait().await;
    let agreed = std::sync::Arc::clone(&pair.config);
    let mut other = (*agreed).clone();
    other.replication.drift = twinlog_engine::config::DriftPolicy::Repair;
    pair.stop_engine(1).await;
    pair.config = std::sync::Arc::new(other);
    pair.start_engine(1).await;
    let deadline = std::time::Instant::now() + twinlog_harness::pair::PATIENCE;
    loop {
        let link = pair.link_to(1);
        if let Some(error) = link.last_error {
            assert!(
                error.contains("drift is \"halt\" there and \"repair\" here"),
                "{error}"
            );
            break;
        }
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    pair.stop_engine(1).await;
    pair.config = agreed;
    pair.start_engine(1).await;
    pair.run(0, "UPDATE d.t SET v = 5 WHERE id = 1").await;
    pair.wait().await;
    pair.assert_equal().await;
}

async fn rules_that_cannot_converge_are_refused(kind: ServerKind) {
    let rule = "[[conflict]]\ntables = \"d.*\"\ncolumns = { u = \"delta\" }";
    let pair = Pair::servers(&with_rule(kind, rule)).await;
    pair.both(SCHEMA).await;
    twinlog_engine::init::init(&pair.config, false)
        .await
        .unwrap();
    let started =
        twinlog_engine::replicator::Engine::start(std::sync::Arc::clone(&pair.config), "a").await;
    let message = started.map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("part of a key"), "{message}");
    let findings = twinlog_engine::preflight::check(&pair.config).await;
    assert!(twinlog_engine::preflight::any_fail(&findings));
}

/// The engine's tables of an earlier version get what they lack.
async fn an_earlier_version_is_brought_up_to_date(kind: ServerKind) {
    let mut pair = Pair::start(&PairOptions::new(kind), SCHEMA).await;
    pair.stop_engine(1).await;
    pair.run(
        1,
        "DROP TABLE twinlog.conflict; ALTER TABLE twinlog.marker DROP COLUMN log_birth",
    )
    .await;
    pair.start_engine(1).await;
    pair.run(0, "UPDATE d.t SET v = 5 WHERE id = 1").await;
    pair.wait().await;
    pair.assert_equal().await;
    assert!(journal(&pair, 1).await.is_empty());
}

/// What lost is written again, and stands everywhere.
async fn a_verdict_is_taken_back(kind: ServerKind) {
    use twinlog_engine::conflict::ledger::{self, Filter};
    let pair = concurrently(
        kind,
        SCHEMA,
        "UPDATE d.t SET v = 1 WHERE id = 1; DELETE FROM d.t WHERE id = 2; UPDATE d.t SET v = 1 WHERE id = 3",
        "UPDATE d.t SET v = 2 WHERE id = 1; UPDATE d.t SET v = 2 WHERE id = 2; DELETE FROM d.t WHERE id = 3",
    )
    .await;
    let node = &pair.config.nodes[1];
    let entries = ledger::list(&pair.config, node, &Filter::default())
        .await
        .unwrap();
    let keys: Vec<String> = entries.iter().map(|entry| entry.key()).collect();
    assert_eq!(keys, ["id=3", "id=2", "id=1"]);
    for entry in &entries {
        assert_eq!(entry.winner, "local");
        let plan = ledger::flip(node, entry, false, false).await.unwrap();
        assert!(plan.unchanged && !plan.written, "{plan:?}");
        assert!(
            ledger::flip(node, entry, true, false)
                .await
                .unwrap()
                .written
        );
    }
    pair.wait().await;
    pair.assert_equal().await;
    assert_eq!(rows(&pair).await, [(1, 1, Some(1)), (3, 1, Some(3))]);
    // It is not what the conflict left any more.
    let again = ledger::flip(node, &entries[2], true, false).await;
    assert!(again.unwrap_err().to_string().contains("--force"));
}

/// An image of a child that refers to a parent whose concurrent delete exists does not stand, whether
/// that delete stands or not, or the parent came back.
async fn children_go_with_a_parent_that_was_deleted(kind: ServerKind) {
    for on_delete in ["", "ON DELETE CASCADE"] {
        let schema = format!(
            "CREATE DATABASE d; CREATE TABLE d.p (id INT PRIMARY KEY, v INT); CREATE TABLE d.c (id INT PRIMARY KEY, \
             p INT, v INT, FOREIGN KEY (p) REFERENCES d.p (id) {on_delete}); \
             INSERT INTO d.p VALUES (1, 0), (2, 0), (3, 0), (4, 0); INSERT INTO d.c VALUES (40, 4, 0)"
        );
        let pair = concurrently(
            kind,
            &schema,
            // 2 comes back; 3 loses against b's update.
            "DELETE FROM d.p WHERE id = 1; DELETE FROM d.p WHERE id = 2; INSERT INTO d.p VALUES (2, 9); \
             DELETE FROM d.p WHERE id = 3",
            "INSERT INTO d.c VALUES (10, 1, 1), (20, 2, 1), (30, 3, 1), (41, 4, 1); UPDATE d.p SET v = 7 WHERE id = 3; \
             UPDATE d.c SET p = 1 WHERE id = 40; UPDATE d.c SET v = 5 WHERE id = 20",
        )
        .await;
        let parents: Vec<(i32, i32)> = pair.query(0, "SELECT id, v FROM d.p ORDER BY id").await;
        assert_eq!(parents, [(2, 9), (3, 7), (4, 0)]);
        let children: Vec<(i32, i32)> = pair.query(1, "SELECT id, p FROM d.c ORDER BY id").await;
        assert_eq!(children, [(41, 4)]);
        for node in [0, 1] {
            let kinds: Vec<String> = pair
                .query(node, "SELECT DISTINCT kind FROM twinlog.conflict WHERE table_name = 'c' ORDER BY kind")
                .await;
            assert!(
                kinds.contains(&"foreign_key".to_owned()),
                "node {node}: {kinds:?}"
            );
        }
        // Later ones, which have seen it all, go through.
        pair.run(0, "INSERT INTO d.c VALUES (50, 2, 2); DELETE FROM d.c WHERE id = 41; DELETE FROM d.p WHERE id = 4").await;
        pair.wait().await;
        pair.assert_equal().await;
    }
}

/// More local writes than the window's memory holds: each is still found.
async fn a_window_on_disk_finds_what_it_holds(kind: ServerKind) {
    let mut pair = Pair::start(
        &with_rule(kind, "window_bytes = \"1MiB\""),
        "CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY, v INT)",
    )
    .await;
    pair.wait().await;
    pair.stop_engine(0).await;
    pair.stop_engine(1).await;
    let rows = |v: i32| -> String {
        let rows: Vec<String> = (0..20_000).map(|id| format!("({id}, {v})")).collect();
        format!("INSERT INTO d.t VALUES {}", rows.join(","))
    };
    pair.run(1, &rows(2)).await;
    // Its own link cannot run yet, and what it holds is not acknowledged by a.
    pair.run(0, "INSERT INTO d.t VALUES (19999, 1), (5, 1), (30000, 1)")
        .await;
    pair.start_engine(1).await;
    crate::until(twinlog_harness::pair::PATIENCE, || {
        let engine = pair.engines[1].as_ref().unwrap();
        engine.status().tailer.window_spilled > 10_000
    })
    .await;
    pair.start_engine(0).await;
    pair.wait().await;
    pair.assert_equal().await;
    let conflicts: Vec<i64> = pair.query(1, "SELECT COUNT(*) FROM twinlog.conflict").await;
    assert_eq!(conflicts, [2]);
    crate::until(twinlog_harness::pair::PATIENCE, || {
        let tailer = pair.engines[1].as_ref().unwrap().status().tailer;
        (tailer.window_keys, tailer.window_spilled) == (0, 0)
    })
    .await;
}

/// MariaDB moves the children of a row whose key changes, and does not log it; MySQL from 9.6 on does.
async fn a_parent_that_moves_is_not_guessed(kind: ServerKind) {
    let mut pair = Pair::start(
        &PairOptions::new(kind),
        "CREATE DATABASE d; CREATE TABLE d.p (id INT PRIMARY KEY, v INT); CREATE TABLE d.c (id INT PRIMARY KEY, p INT, \
         FOREIGN KEY (p) REFERENCES d.p (id) ON UPDATE CASCADE ON DELETE CASCADE); \
         INSERT INTO d.p VALUES (1, 0); INSERT INTO d.c VALUES (10, 1)",
    )
    .await;
    pair.wait().await;
    pair.stop_engine(0).await;
    pair.stop_engine(1).await;
    pair.run(0, "UPDATE d.p SET id = 2 WHERE id = 1").await;
    pair.run(1, "UPDATE d.p SET v = 5 WHERE id = 1").await;
    pair.start_engine(0).await;
    pair.start_engine(1).await;
    match kind {
        ServerKind::MariaDb => {
            let message = pair.halted(1).await;
            assert!(message.contains("foreign_key"), "{message}");
            let children: Vec<(i32, i32)> = pair.query(1, "SELECT id, p FROM d.c").await;
            assert_eq!(children, [(10, 1)], "nothing of it is applied");
        }
        ServerKind::MySql => {
            pair.wait().await;
            pair.assert_equal().await;
        }
    }
}

/// b's delete of the parent cascades there, and loses against a's later update.
async fn what_a_lost_delete_cascaded_to_goes(kind: ServerKind) {
    let pair = concurrently_b_first(
        kind,
        "CREATE DATABASE d; CREATE TABLE d.p (id INT PRIMARY KEY, v INT); CREATE TABLE d.c (id INT PRIMARY KEY, p INT, \
         FOREIGN KEY (p) REFERENCES d.p (id) ON DELETE CASCADE); \
         INSERT INTO d.p VALUES (1, 0), (2, 0); INSERT INTO d.c VALUES (10, 1), (20, 2)",
        "UPDATE d.p SET v = 5 WHERE id = 1",
        "DELETE FROM d.p WHERE id = 1",
    )
    .await;
    let parents: Vec<(i32, i32)> = pair.query(1, "SELECT id, v FROM d.p ORDER BY id").await;
    assert_eq!(parents, [(1, 5), (2, 0)]);
    let children: Vec<i32> = pair.query(0, "SELECT id FROM d.c").await;
    assert_eq!(children, [20]);
}

/// As [`concurrently`], with b's write the earlier one.
async fn concurrently_b_first(kind: ServerKind, schema: &str, on_a: &str, on_b: &str) -> Pair {
    let mut pair = Pair::start(&PairOptions::new(kind), schema).await;
    pair.wait().await;
    pair.stop_engine(0).await;
    pair.stop_engine(1).await;
    pair.run(1, on_b).await;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    pair.run(0, on_a).await;
    pair.start_engine(0).await;
    pair.start_engine(1).await;
    pair.wait().await;
    pair.assert_equal().await;
    pair
}

/// A row of large values is settled like any other; the journal says how long they are.
async fn large_values_are_left_out_of_the_journal(kind: ServerKind) {
    use twinlog_engine::conflict::ledger::{self, Filter};
    let pair = concurrently(
        kind,
        "CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY, v LONGBLOB, w LONGTEXT); INSERT INTO d.t VALUES (1, 'x', 'y')",
        "UPDATE d.t SET v = REPEAT(x'ff00', 3000000), w = REPEAT('a', 3000000)",
        "UPDATE d.t SET v = REPEAT(x'00ff', 3000000), w = REPEAT('b', 3000000)",
    )
    .await;
    let node = &pair.config.nodes[1];
    let entries = ledger::list(&pair.config, node, &Filter::default())
        .await
        .unwrap();
    let lost = entries[0].after_image.as_ref().unwrap();
    assert_eq!(lost[1].as_deref(), Some("/* 6000000 bytes left out */"));
    assert_eq!(
        entries[0].local_image.as_ref().unwrap()[2].as_deref(),
        Some("/* 3000000 bytes left out */")
    );
    let flip = ledger::flip(node, &entries[0], true, false).await;
    assert!(flip.unwrap_err().to_string().contains("too long"));
}
