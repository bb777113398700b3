//! The engine's own schema at each node: its tables, made where they are missing, and the columns
//! that an earlier version did not have yet. Nothing of it is replicated but the barrier.

use crate::connection::{NodeConnection, quote_identifier, quote_string};
use crate::error::Result;

/// How far each origin has been applied; see [`crate::position::marker`].
pub const MARKER: &str = "marker";
/// The sign of a connection that applies beside others; see [`crate::apply::lane`].
pub const LANE: &str = "lane";
/// Rises with every `twinlog wait`; see [`crate::barrier`].
pub const BARRIER: &str = "barrier";
/// Settled conflicts; see [`crate::conflict::journal`].
pub const CONFLICT: &str = "conflict";
/// Histories of merged rows; see [`crate::conflict::history`].
pub const HISTORY: &str = "history";
/// Engines and the rules that they go by; see [`crate::agreement`].
pub const ENGINE: &str = "engine";

/// One table.
struct OwnTable {
    name: &'static str,
    comment: &'static str,
    /// Name and definition. New ones go last, with a default, so that they can be added.
    columns: &'static [(&'static str, &'static str)],
    keys: &'static str,
}

const NAME: &str = "VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL";

const TABLES: [OwnTable; 6] = [
    OwnTable {
        name: MARKER,
        comment: "how far each origin has been applied here",
        columns: &[
            ("origin", NAME),
            ("server_id", "INT UNSIGNED NOT NULL"),
            (
                "server_uuid",
                "VARCHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL",
            ),
            ("log_file", "VARCHAR(255) NOT NULL"),
            ("log_pos", "BIGINT UNSIGNED NOT NULL"),
            (
                "gtid",
                "VARCHAR(120) CHARACTER SET ascii COLLATE ascii_bin NOT NULL",
            ),
            ("clock", "BIGINT UNSIGNED NOT NULL"),
            ("seen_file", "VARCHAR(255) NOT NULL"),
            ("seen_pos", "BIGINT UNSIGNED NOT NULL"),
            ("seen_clock", "BIGINT UNSIGNED NOT NULL"),
            ("intent_file", "VARCHAR(255) NULL"),
            ("intent_pos", "BIGINT UNSIGNED NULL"),
            ("intent_statement", "LONGBLOB NULL"),
            ("epoch", "BIGINT UNSIGNED NOT NULL"),
            ("transactions", "BIGINT UNSIGNED NOT NULL"),
            ("changes", "BIGINT UNSIGNED NOT NULL"),
            ("log_birth", "INT UNSIGNED NOT NULL DEFAULT 0"),
            ("intent_clock", "BIGINT UNSIGNED NOT NULL DEFAULT 0"),
        ],
        keys: "PRIMARY KEY (origin)",
    },
    OwnTable {
        name: LANE,
        comment: "first row of what is applied beside other groups; the marker row is its last",
        columns: &[
            ("origin", NAME),
            ("lane", "TINYINT UNSIGNED NOT NULL"),
            ("turns", "BIGINT UNSIGNED NOT NULL"),
        ],
        keys: "PRIMARY KEY (origin, lane)",
    },
    OwnTable {
        name: BARRIER,
        comment: "replicated; rises with every twinlog wait",
        columns: &[("node", NAME), ("token", "BIGINT UNSIGNED NOT NULL")],
        keys: "PRIMARY KEY (node)",
    },
    OwnTable {
        name: CONFLICT,
        comment: "settled conflicts; `twinlog conflicts` reads them",
        columns: &[
            ("id", "BIGINT UNSIGNED NOT NULL AUTO_INCREMENT"),
            (
                "settled_at",
                "TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)",
            ),
            ("origin", NAME),
            ("database_name", "VARCHAR(64) NOT NULL"),
            ("table_name", "VARCHAR(64) NOT NULL"),
            ("kind", NAME),
            ("policy", NAME),
            ("winner", NAME),
            ("winner_node", NAME),
            ("column_names", "LONGTEXT NOT NULL"),
            ("key_columns", "LONGTEXT NOT NULL"),
            ("local_position", "VARCHAR(300) NULL"),
            ("local_effective", "BIGINT UNSIGNED NULL"),
            ("origin_position", "VARCHAR(300) NOT NULL"),
            ("origin_gtid", "VARCHAR(120) NOT NULL"),
            ("origin_effective", "BIGINT UNSIGNED NOT NULL"),
            ("local_image", "LONGTEXT NULL"),
            ("before_image", "LONGTEXT NULL"),
            ("after_image", "LONGTEXT NULL"),
            ("result_image", "LONGTEXT NULL"),
            ("met", "LONGTEXT NOT NULL"),
            ("note", "VARCHAR(500) NOT NULL"),
        ],
        keys: "PRIMARY KEY (id), KEY (settled_at), KEY (database_name, table_name, id)",
    },
    OwnTable {
        name: HISTORY,
        comment: "writes of merged rows that may still meet others",
        columns: &[
            (
                "row_key",
                "CHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL",
            ),
            ("effective", "BIGINT UNSIGNED NOT NULL"),
            ("node_rank", "TINYINT UNSIGNED NOT NULL"),
            ("change_number", "INT UNSIGNED NOT NULL"),
            ("last_file", "BIGINT UNSIGNED NOT NULL"),
            ("last_pos", "BIGINT UNSIGNED NOT NULL"),
            ("content", "LONGTEXT NOT NULL"),
        ],
        keys: "PRIMARY KEY (row_key, effective, node_rank, change_number), KEY (effective, last_file)",
    },
    OwnTable {
        name: ENGINE,
        comment: "the engine of this node and the rules that it goes by",
        columns: &[
            ("node", NAME),
            ("digest", NAME),
            ("agreed", "LONGTEXT NOT NULL"),
            ("version", NAME),
            (
                "started_at",
                "TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)",
            ),
        ],
        keys: "PRIMARY KEY (node)",
    },
];

/// Makes what is missing of the engine's schema at a node. Nothing is written where nothing is.
///
/// # Errors
/// The connection's; the server's where the account may not.
pub async fn ensure(connection: &mut NodeConnection, schema: &str) -> Result<()> {
    let context = "looking at the engine's schema";
    let there: Vec<(String, String)> = connection
        .all(
            &format!(
                "SELECT LOWER(TABLE_NAME), LOWER(COLUMN_NAME) FROM information_schema.COLUMNS WHERE \
                 TABLE_SCHEMA = {}",
                quote_string(schema)
            ),
            context,
        )
        .await?;
    let database = quote_identifier(schema);
    if there.is_empty() {
        let make =
            format!("CREATE DATABASE IF NOT EXISTS {database} DEFAULT CHARACTER SET utf8mb4");
        connection
            .execute(make, "making the engine's schema")
            .await?;
    }
    for table in &TABLES {
        let has = |column: &str| {
            there
                .iter()
                .any(|(of, name)| of == table.name && name == column)
        };
        let name = table.name;
        if !has(table.columns[0].0) {
            let columns: Vec<String> = table
                .columns
                .iter()
                .map(|(column, definition)| format!("{column} {definition}"))
                .collect();
            let make = format!(
                "CREATE TABLE IF NOT EXISTS {database}.{name} ({}, {}) ENGINE=InnoDB DEFAULT CHARACTER \
                 SET utf8mb4 COMMENT={}",
                columns.join(", "),
                table.keys,
                quote_string(&format!("twinlog: {}", table.comment))
            );
            connection
                .execute(make, "making the engine's tables")
                .await?;
            continue;
        }
        let missing: Vec<String> = table
            .columns
            .iter()
            .filter(|(column, _)| !has(column))
            .map(|(column, definition)| format!("ADD COLUMN {column} {definition}"))
            .collect();
        if !missing.is_empty() {
            tracing::info!(
                node = connection.node(),
                table = name,
                "the table is of an earlier version: adding what it lacks"
            );
            let alter = format!("ALTER TABLE {database}.{name} {}", missing.join(", "));
            connection
                .execute(alter, "bringing the engine's tables up to date")
                .await?;
        }
    }
    Ok(())
}
