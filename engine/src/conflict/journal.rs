//! The journal: one row for each settled conflict, in the engine's schema of the node where it was
//! settled, written in the transaction that settles it (INV-NO-SILENCE). Not replicated: the other
//! node has its own row of the same conflict, seen from there.

use super::policy::Winner;
use crate::apply::literal::SESSION_SETTINGS;
use crate::config::NodeConfig;
use crate::connection::{NodeConnection, quote_identifier, quote_string};
use crate::error::Result;
use crate::own_schema::CONFLICT;

/// Rows that one statement of the purge removes: short locks.
const PURGED_AT_ONCE: usize = 1000;

/// Kind of an entry about DDL that removes rows in a way that is not settled.
pub const DEFINITION: &str = "definition";

/// How a row image gets into the journal.
#[derive(Debug, Clone)]
pub enum ImageSql {
    /// There is none.
    None,
    /// A JSON array of literals, as the server gave it.
    Text(String),
    /// An expression of which the server makes that array.
    Expression(Vec<u8>),
}

/// Whose write stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum JournalWinner {
    /// That of this node's client.
    Local,
    /// The one that arrived.
    Remote,
    /// Parts of both.
    Merged,
    /// Nobody's: nothing was settled, and the link halts.
    Nobody,
}

impl JournalWinner {
    /// As the journal has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Remote => "remote",
            Self::Merged => "merged",
            Self::Nobody => "none",
        }
    }
}

impl From<Winner> for JournalWinner {
    fn from(winner: Winner) -> Self {
        match winner {
            Winner::Local => Self::Local,
            Winner::Remote => Self::Remote,
        }
    }
}

/// One row of the journal, to be written.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Node whose write arrived.
    pub origin: String,
    /// Database of the row.
    pub database: String,
    /// Table of the row.
    pub table: String,
    /// A [`super::resolve::ConflictKind`], [`DEFINITION`], `drift_missing` or `drift_exists`.
    pub kind: &'static str,
    /// The table's policy.
    pub policy: String,
    /// Whose write stands.
    pub winner: JournalWinner,
    /// Name of its node; empty for both and for none.
    pub winner_node: String,
    /// Names of the table's columns, JSON array. The images are aligned to it.
    pub columns: String,
    /// Names of the row key's columns, JSON array.
    pub key_columns: String,
    /// End of the local transaction in the node's own log; `None` for drift.
    pub local_position: Option<String>,
    /// Its effective timestamp, microseconds.
    pub local_effective: Option<u64>,
    /// Begin of the transaction that arrived, in its origin's log.
    pub origin_position: String,
    /// Its GTID; empty for none.
    pub origin_gtid: String,
    /// Its effective timestamp, microseconds.
    pub origin_effective: u64,
    /// The row that stood here, or the one that held the unique value.
    pub local_image: ImageSql,
    /// The arriving write's row as its origin had it before.
    pub before_image: ImageSql,
    /// The arriving write's row; none for a delete.
    pub after_image: ImageSql,
    /// What stands now, where it is neither.
    pub result_image: ImageSql,
    /// The keys that both claimed, JSON.
    pub met: String,
    /// What else is to be said.
    pub note: &'static str,
}

/// The statement that writes the entries.
#[must_use]
pub fn insert(schema: &str, entries: &[Entry]) -> Vec<u8> {
    let mut sql = format!(
        "INSERT INTO {}.{CONFLICT} (origin, database_name, table_name, kind, policy, winner, \
         winner_node, column_names, key_columns, local_position, local_effective, origin_position, \
         origin_gtid, origin_effective, met, note, local_image, before_image, after_image, \
         result_image) VALUES ",
        quote_identifier(schema)
    )
    .into_bytes();
    for (number, entry) in entries.iter().enumerate() {
        if number > 0 {
            sql.push(b',');
        }
        let texts = [
            quote_string(&entry.origin),
            quote_string(&entry.database),
            quote_string(&entry.table),
            quote_string(entry.kind),
            quote_string(&entry.policy),
            quote_string(entry.winner.as_str()),
            quote_string(&entry.winner_node),
            quote_string(&entry.columns),
            quote_string(&entry.key_columns),
            entry
                .local_position
                .as_ref()
                .map_or_else(|| "NULL".to_owned(), |position| quote_string(position)),
            entry
                .local_effective
                .map_or_else(|| "NULL".to_owned(), |effective| effective.to_string()),
            quote_string(&entry.origin_position),
            quote_string(&entry.origin_gtid),
            entry.origin_effective.to_string(),
            quote_string(&entry.met),
            quote_string(entry.note),
        ];
        sql.push(b'(');
        sql.extend_from_slice(texts.join(",").as_bytes());
        for image in [
            &entry.local_image,
            &entry.before_image,
            &entry.after_image,
            &entry.result_image,
        ] {
            sql.push(b',');
            match image {
                ImageSql::None => sql.extend_from_slice(b"NULL"),
                ImageSql::Text(text) => sql.extend_from_slice(quote_string(text).as_bytes()),
                ImageSql::Expression(expression) => sql.extend_from_slice(expression),
            }
        }
        sql.push(b')');
    }
    sql
}

/// Writes an entry of what is not settled, unless it is there already: an engine that is started
/// again meets the same. Says whether it was new.
///
/// # Errors
/// The connection's.
pub async fn note_unsettled(node: &NodeConfig, schema: &str, entry: &Entry) -> Result<bool> {
    let context = "writing the conflict journal";
    let mut connection = NodeConnection::open(node).await?;
    connection.execute(SESSION_SETTINGS, context).await?;
    let there: Option<u64> = connection
        .first(
            &format!(
                "SELECT COUNT(*) FROM {}.{CONFLICT} WHERE winner = {} AND origin = {} AND \
                 origin_position = {} AND kind = {} AND table_name = {}",
                quote_identifier(schema),
                quote_string(JournalWinner::Nobody.as_str()),
                quote_string(&entry.origin),
                quote_string(&entry.origin_position),
                quote_string(entry.kind),
                quote_string(&entry.table),
            ),
            context,
        )
        .await?;
    let new = there == Some(0);
    if new {
        let sql = insert(schema, std::slice::from_ref(entry));
        connection.execute(sql, context).await?;
    }
    connection.close().await;
    Ok(new)
}

/// Removes entries older than `keep_seconds`, in small steps. Gives how many.
///
/// # Errors
/// The connection's.
pub async fn purge(
    connection: &mut NodeConnection,
    schema: &str,
    keep_seconds: u64,
) -> Result<u64> {
    let sql = format!(
        "DELETE FROM {}.{CONFLICT} WHERE settled_at < NOW(6) - INTERVAL {keep_seconds} SECOND ORDER \
         BY settled_at LIMIT {PURGED_AT_ONCE}",
        quote_identifier(schema)
    );
    let mut purged = 0;
    loop {
        let removed = connection
            .execute(&sql, "purging the conflict journal")
            .await?;
        purged += removed;
        if removed < PURGED_AT_ONCE as u64 {
            return Ok(purged);
        }
    }
}
