//! The table of kept histories, in the engine's schema of a node: for each row its base, and each of
//! its writes by its order.

use std::collections::HashMap;

use super::history::{Entry, Histories, Kept, KeptBase, Unkept};
use super::key::KeyHash;
use crate::connection::{NodeConnection, quote_identifier};
use crate::error::{Error, Result};
use crate::own_schema::HISTORY;
use crate::position::LogPos;

/// Final histories that one transaction clears away besides.
const CLEARED_AT_ONCE: usize = 20;

/// Statements that keep these histories, for the transaction that merges their rows, and clear away
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
        let key = key.to_hex();
        statements.push(format!(
            "DELETE FROM {table} WHERE row_key = '{key}' AND effective > 0 AND effective < {}",
            unkept.first.effective
        ));
        let last = unkept.last_local;
        let base = quoted(&unkept.base)?;
        rows.push(format!(
            "('{key}', 0, 0, 0, {}, {}, {base})",
            last.file, last.offset
        ));
        for entry in &unkept.entries {
            let order = entry.order;
            rows.push(format!(
                "('{key}', {}, {}, {}, 0, 0, {})",
                order.effective,
                order.rank,
                order.change,
                quoted(entry)?
            ));
        }
    }
    statements.push(format!(
        "REPLACE INTO {table} (row_key, effective, node_rank, change_number, last_file, last_pos, \
         content) VALUES {}",
        rows.join(",")
    ));
    Ok(statements)
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
    let sql = format!(
        "SELECT row_key, effective, content FROM {}.{HISTORY}",
        quote_identifier(schema)
    );
    let unreadable = || {
        Error::Internal(format!(
            "{}.{HISTORY} has rows that another version of twinlog wrote. Start that version again, stop \
             all writers, run `twinlog wait` (then none of them is needed any more), stop both engines, \
             and TRUNCATE {}.{HISTORY} on both nodes",
            quote_identifier(schema),
            quote_identifier(schema),
        ))
    };
    let rows: Vec<(String, u64, String)> =
        connection.all(&sql, "reading the kept histories").await?;
    let mut bases: HashMap<KeyHash, KeptBase> = HashMap::new();
    let mut entries: HashMap<KeyHash, Vec<Entry>> = HashMap::new();
    for (key, effective, text) in rows {
        let key = KeyHash::from_hex(&key).ok_or_else(unreadable)?;
        if effective == 0 {
            let base = serde_json::from_str(&text).map_err(|_| unreadable())?;
            bases.insert(key, base);
        } else {
            let entry = serde_json::from_str(&text).map_err(|_| unreadable())?;
            entries.entry(key).or_default().push(entry);
        }
    }
    for (key, base) in bases {
        let entries = entries.remove(&key).unwrap_or_default();
        histories.load(key, Kept { base, entries }, acknowledged, starting);
    }
    Ok(())
}
