//! The table of kept histories, in the engine's schema of a node: for each row its base, and each of
//! its writes by its order.

use super::history::{Entry, Histories, Kept, KeptBase, Unkept};
use super::key::KeyHash;
use crate::connection::{NodeConnection, quote_identifier};
use crate::error::{Error, Result};
use crate::own_schema::HISTORY;
use crate::position::LogPos;

/// Final histories that one transaction clears away besides.
const CLEARED_AT_ONCE: usize = 20;
/// A statement has at most about so many bytes, whatever the server's `max_allowed_packet`.
const STATEMENT_BYTES: usize = 1 << 20;
/// Writes that are taken from disk at once, in bytes of memory.
pub const MORE_BYTES: usize = 4 << 20;
/// Rows of the table that are read at once.
const READ_AT_ONCE: usize = 2000;

/// Statements that keep these histories, but for their writes on disk ([`more`]), for the transaction that merges their rows, and clear away
/// some that are final since the peer has everything up to `acknowledged`.
///
/// # Errors
/// [`Error::Internal`] for a value that cannot be kept.
pub fn statements(
    schema: &str,
    histories: &[(KeyHash, Unkept)],
    acknowledged: LogPos,
) -> Result<Vec<String>> {
    let table = format!("{}.{HISTORY}", quote_identifier(schema));
    let mut statements = vec![format!(
        "DELETE FROM {table} WHERE row_key IN (SELECT row_key FROM (SELECT row_key FROM {table} WHERE \
         effective = 0 AND (last_file < {file} OR (last_file = {file} AND last_pos <= {offset})) LIMIT \
         {CLEARED_AT_ONCE}) AS final_histories)",
        file = acknowledged.file,
        offset = acknowledged.offset,
    )];
    let mut rows: Vec<String> = Vec::new();
    for (key, unkept) in histories {
        let hex = key.to_hex();
        statements.push(format!(
            "DELETE FROM {table} WHERE row_key = '{hex}' AND effective > 0 AND effective < {}",
            unkept.first.effective
        ));
        let last = unkept.last_local;
        let base = quoted(&unkept.base)?;
        rows.push(format!(
            "('{hex}', 0, 0, 0, {}, {}, {base})",
            last.file, last.offset
        ));
        for entry in &unkept.entries {
            rows.push(row(*key, entry)?);
        }
    }
    statements.extend(replace(schema, rows));
    Ok(statements)
}

/// Statements that keep more writes of a row.
///
/// # Errors
/// As [`statements`].
pub fn more(schema: &str, key: KeyHash, entries: &[Entry]) -> Result<Vec<String>> {
    let rows = entries.iter().map(|entry| row(key, entry));
    Ok(replace(schema, rows.collect::<Result<_>>()?))
}

fn row(key: KeyHash, entry: &Entry) -> Result<String> {
    let order = entry.order;
    Ok(format!(
        "('{}', {}, {}, {}, 0, 0, {})",
        key.to_hex(),
        order.effective,
        order.rank,
        order.change,
        quoted(entry)?
    ))
}

/// As few statements as fit into packets.
fn replace(schema: &str, rows: Vec<String>) -> Vec<String> {
    let mut statements: Vec<String> = Vec::new();
    for row in rows {
        match statements.last_mut() {
            Some(last) if last.len() + row.len() < STATEMENT_BYTES => {
                last.push(',');
                last.push_str(&row);
            }
            _ => statements.push(format!(
                "REPLACE INTO {}.{HISTORY} (row_key, effective, node_rank, change_number, last_file, \
                 last_pos, content) VALUES {row}",
                quote_identifier(schema)
            )),
        }
    }
    statements
}

fn quoted(content: &impl serde::Serialize) -> Result<String> {
    let text = serde_json::to_string(content)
        .map_err(|error| Error::Internal(format!("a history cannot be kept: {error}")))?;
    // Shorter than in hexadecimal digits.
    Ok(format!(
        "'{}'",
        text.replace('\\', "\\\\").replace('\'', "\\'")
    ))
}

/// Reads the histories that were kept; see [`Histories::load`].
///
/// # Errors
/// The connection's; [`Error::Internal`] where a row does not read.
pub async fn load(
    connection: &mut NodeConnection,
    schema: &str,
    histories: &Histories,
    acknowledged: LogPos,
    starting: bool,
) -> Result<()> {
    let table = format!("{}.{HISTORY}", quote_identifier(schema));
    let unreadable = || {
        Error::Internal(format!(
            "{table} has rows that another version of twinlog wrote. Start that version again, stop all \
             writers, run `twinlog wait` (then none of them is needed any more), stop both engines, and \
             TRUNCATE {table} on both nodes"
        ))
    };
    let (mut behind, mut current): (Option<Place>, Option<Loading>) = (None, None);
    loop {
        let from = behind.as_ref().map_or_else(
            || "TRUE".to_owned(),
            |(key, effective, rank, change)| {
                format!(
                    "row_key >= '{key}' AND (row_key, effective, node_rank, change_number) > ('{key}', \
                     {effective}, {rank}, {change})"
                )
            },
        );
        let sql = format!(
            "SELECT row_key, effective, node_rank, change_number, last_file, last_pos, content FROM {table} \
             WHERE {from} ORDER BY row_key, effective, node_rank, change_number LIMIT {READ_AT_ONCE}"
        );
        let rows: Vec<(String, u64, u64, u64, u64, u64, String)> =
            connection.all(&sql, "reading the kept histories").await?;
        let last = rows.len() < READ_AT_ONCE;
        for (hex, effective, rank, change, file, offset, text) in rows {
            let key = KeyHash::from_hex(&hex).ok_or_else(unreadable)?;
            // The base of a row stands in front of its writes.
            if effective == 0 {
                if let Some(current) = current.take() {
                    current.load(histories, acknowledged, starting);
                }
                let file = u32::try_from(file).map_err(|_| unreadable())?;
                current = Some(Loading {
                    key,
                    base: Some(serde_json::from_str(&text).map_err(|_| unreadable())?),
                    last_local: LogPos::new(file, offset),
                    entries: Vec::new(),
                    wanted: true,
                });
            } else if let Some(current) = current.as_mut().filter(|current| current.key == key) {
                let entry = serde_json::from_str(&text).map_err(|_| unreadable())?;
                current.entries.push(entry);
            }
            behind = Some((hex, effective, rank, change));
        }
        // Not more than these in memory.
        if let Some(loading) = current.take() {
            current = Some(loading.load(histories, acknowledged, starting));
        }
        if last {
            return Ok(());
        }
    }
}

/// Key, effective timestamp, rank and change of a row of the table.
type Place = (String, u64, u64, u64);

/// A history that is being read.
struct Loading {
    key: KeyHash,
    /// Until it is handed over.
    base: Option<KeptBase>,
    last_local: LogPos,
    entries: Vec<Entry>,
    /// Whether it is not final.
    wanted: bool,
}

impl Loading {
    /// Hands over what was read of it; gives it back without that.
    fn load(mut self, histories: &Histories, acknowledged: LogPos, starting: bool) -> Self {
        let entries = std::mem::take(&mut self.entries);
        match self.base.take() {
            Some(base) => {
                let kept = Kept {
                    base,
                    entries,
                    last_local: self.last_local,
                };
                self.wanted = histories.load(self.key, kept, acknowledged, starting);
            }
            None if self.wanted => histories.load_more(self.key, entries, starting),
            None => {}
        }
        self
    }
}
