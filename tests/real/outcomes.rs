//! Every pair of concurrent writes under every policy, on real servers: what both nodes end with, as
//! docs/conflict-outcomes.md shows it. `TWINLOG_WRITE_OUTCOMES=1` writes that page anew.

use std::fmt::Write as _;
use std::path::Path;

use twinlog_cli::sandbox::ServerKind;
use twinlog_harness::{Pair, PairOptions};

on_both!(outcomes_are_as_the_page_says, row_events_come_to_the_same);

/// Policy, as its database is called, and its rule.
const POLICIES: [(&str, &str); 6] = [
    ("last_write_wins", "policy = \"last_write_wins\""),
    ("node_priority", "policy = \"node_priority\""),
    ("delta", "columns = { n = \"delta\" }"),
    ("max", "columns = { n = \"max\" }"),
    ("min", "columns = { n = \"min\" }"),
    ("column_merge", "policy = \"column_merge\""),
];

/// What a node writes: its name, and the statement at a and at b.
const WRITES: [(&str, [&str; 2]); 5] = [
    (
        "insert 5",
        [
            "INSERT INTO {t} VALUES (5, 50, 77, 'a')",
            "INSERT INTO {t} VALUES (5, 51, 77, 'b')",
        ],
    ),
    (
        "update 1",
        [
            "UPDATE {t} SET n = n + 1, note = 'a' WHERE id = 1",
            "UPDATE {t} SET n = n + 2 WHERE id = 1",
        ],
    ),
    (
        "delete 1",
        [
            "DELETE FROM {t} WHERE id = 1",
            "DELETE FROM {t} WHERE id = 1",
        ],
    ),
    (
        "key 1 to 5",
        [
            "UPDATE {t} SET id = 5, note = 'a' WHERE id = 1",
            "UPDATE {t} SET id = 5, note = 'b' WHERE id = 1",
        ],
    ),
    (
        "take u 77",
        [
            "UPDATE {t} SET u = 77, note = 'a' WHERE id = 2",
            "UPDATE {t} SET u = 77, note = 'b' WHERE id = 3",
        ],
    ),
];

/// The rows before: id, n, u, note.
const BEFORE: [(i32, i32, i32, &str); 3] =
    [(1, 10, 1, "old"), (2, 20, 2, "old"), (3, 30, 3, "old")];

async fn outcomes_are_as_the_page_says(kind: ServerKind) {
    outcomes(PairOptions::new(kind)).await;
}

async fn row_events_come_to_the_same(kind: ServerKind) {
    let mut options = PairOptions::new(kind);
    options.replication = "row_events = \"always\"".to_owned();
    let pair = outcomes(options).await;
    assert!(crate::row_events::statements(&pair, 1).await > 100);
}

async fn outcomes(mut options: PairOptions) -> Pair {
    for (policy, rule) in POLICIES {
        write!(
            options.replication,
            "\n[[conflict]]\ntables = \"{policy}.*\"\n{rule}\n"
        )
        .unwrap();
    }
    let rows: Vec<String> = BEFORE
        .iter()
        .map(|(id, n, u, note)| format!("({id}, {n}, {u}, '{note}')"))
        .collect();
    let mut schema = String::new();
    let mut statements = [String::new(), String::new()];
    for (policy, _) in POLICIES {
        write!(schema, "CREATE DATABASE {policy};").unwrap();
        for (first, (_, at_a)) in WRITES.iter().enumerate() {
            for (second, (_, at_b)) in WRITES.iter().enumerate() {
                let table = format!("{policy}.t{first}{second}");
                write!(
                    schema,
                    "CREATE TABLE {table} (id INT PRIMARY KEY, n INT, u INT UNIQUE, note VARCHAR(9)); \
                     INSERT INTO {table} VALUES {};",
                    rows.join(", ")
                )
                .unwrap();
                statements[0].push_str(&at_a[0].replace("{t}", &table));
                statements[1].push_str(&at_b[1].replace("{t}", &table));
                statements[0].push(';');
                statements[1].push(';');
            }
        }
    }
    let mut pair = Pair::start(&options, &schema).await;
    pair.wait().await;
    pair.stop_engine(0).await;
    pair.stop_engine(1).await;
    pair.run(0, &statements[0]).await;
    // The log of MariaDB has whole seconds, and b's writes are to be the later ones.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    pair.run(1, &statements[1]).await;
    pair.start_engine(0).await;
    pair.start_engine(1).await;
    pair.wait().await;
    pair.assert_equal().await;
    let page = page(&pair).await;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/conflict-outcomes.md");
    if std::env::var_os("TWINLOG_WRITE_OUTCOMES").is_some() {
        std::fs::write(&file, &page).unwrap();
    }
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        page == written,
        "docs/conflict-outcomes.md says something else; TWINLOG_WRITE_OUTCOMES=1 writes it anew:\n{page}"
    );
    pair
}

async fn page(pair: &Pair) -> String {
    let mut page = "# What both nodes end with\n\n\
        Made by `tests/real/outcomes.rs` on real servers, MariaDB and MySQL alike; do not edit it. [conflicts.md](conflicts.md)\n\
        says why.\n\n\
        A table (id, n, u, note) with a unique key over u holds (1, 10, 1, old), (2, 20, 2, old) and (3, 30, 3, old). Node a,\n\
        the first in the config, writes; a second later node b writes without having seen it. Shown is what is different\n\
        afterwards, the same at both nodes: `-1` says that row 1 is gone. Under `halt` every pair that meets stops both links, and neither\n\
        write is taken over. `update 1` adds 1 to n and sets note at a, and adds 2 to n at b. Both `insert 5` and `take u 77` claim the\n\
        value 77 of u (for row 2 at a, row 3 at b).\n\n"
        .to_owned();
    let policies: Vec<&str> = POLICIES.iter().map(|(policy, _)| *policy).collect();
    writeln!(page, "| a | b | kind | {} |", policies.join(" | ")).unwrap();
    writeln!(page, "|---|---|---|{}", "---|".repeat(policies.len())).unwrap();
    let mut apart = Vec::new();
    for (first, (at_a, _)) in WRITES.iter().enumerate() {
        for (second, (at_b, _)) in WRITES.iter().enumerate() {
            let name = format!("t{first}{second}");
            let kinds: Vec<String> = pair
                .query(
                    1,
                    &format!(
                        "SELECT DISTINCT kind FROM twinlog.conflict WHERE database_name = 'last_write_wins' AND \
                         table_name = '{name}' ORDER BY kind"
                    ),
                )
                .await;
            if kinds.is_empty() {
                apart.push(format!("{at_a} and {at_b}"));
                continue;
            }
            let mut line = format!("| {at_a} | {at_b} | {} |", kinds.join(", "));
            for policy in &policies {
                let rows: Vec<(i32, i32, i32, String)> = pair
                    .query(
                        0,
                        &format!("SELECT id, n, u, note FROM {policy}.{name} ORDER BY id"),
                    )
                    .await;
                write!(line, " {} |", different(&rows)).unwrap();
            }
            writeln!(page, "{line}").unwrap();
        }
    }
    apart.sort_unstable();
    writeln!(
        page,
        "\nThese do not meet, and both stand: {}.",
        apart.join("; ")
    )
    .unwrap();
    page
}

fn different(rows: &[(i32, i32, i32, String)]) -> String {
    let mut parts = Vec::new();
    for (id, ..) in BEFORE {
        if !rows.iter().any(|row| row.0 == id) {
            parts.push(format!("-{id}"));
        }
    }
    for (id, n, u, note) in rows {
        let before = BEFORE
            .iter()
            .any(|row| (row.0, row.1, row.2, row.3) == (*id, *n, *u, note));
        if !before {
            parts.push(format!("({id}, {n}, {u}, {note})"));
        }
    }
    if parts.is_empty() {
        "nothing".to_owned()
    } else {
        parts.join(" ")
    }
}
