//! The marker row: how far a node has applied an origin, written in the same transaction as what it
//! describes. It is the truth about positions (INV-ONCE) and the way that loops are recognised
//! (INV-NO-LOOP): a transaction whose log has a marker row was written by an engine.

use crate::connection::{quote_identifier, quote_string};
use crate::error::{Error, Result};
use crate::position::{LogName, LogPos};
use crate::row::Value;

pub use crate::own_schema::{BARRIER as BARRIER_TABLE, MARKER as MARKER_TABLE};

/// What a marker row says. All positions but `seen` are of the origin's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    /// Name of the node whose transactions it counts.
    pub origin: String,
    /// The origin's `server_id`.
    pub server_id: u32,
    /// The origin's `server_uuid`; empty where the server has none (MariaDB).
    pub server_uuid: String,
    /// Names of the origin's log files.
    pub log_name: LogName,
    /// Everything of the origin in front of this has been applied here.
    pub position: LogPos,
    /// GTID of the last transaction applied; empty where it had none.
    pub gtid: String,
    /// The origin's effective clock at `position`, microseconds since 1970.
    pub clock: u64,
    /// Names of this node's own log files.
    pub seen_name: LogName,
    /// How much of this node's own log the origin had applied at `position`.
    pub seen: LogPos,
    /// This node's effective clock at `seen`.
    pub seen_clock: u64,
    /// End of a DDL statement in the origin's log that is about to be run here.
    pub intent: Option<LogPos>,
    /// That statement, where only its words tell it in the log (MariaDB).
    pub intended: Option<Intended>,
    /// Rises with every start of an engine; an engine with an older one is stale.
    pub epoch: u64,
    /// Origin transactions applied.
    pub transactions: u64,
    /// Row changes applied.
    pub changes: u64,
    /// When the log file of `position` was begun, seconds since 1970; 0 where that is not known. A
    /// file of the same name that was begun at another time is another log: it was reset.
    pub log_birth: u32,
    /// The origin's effective clock at `intent`; 0 without one, or where an earlier version wrote it.
    pub intent_clock: u64,
}

/// Columns of the table, in their order.
const COLUMNS: [&str; 18] = [
    "origin",
    "server_id",
    "server_uuid",
    "log_file",
    "log_pos",
    "gtid",
    "clock",
    "seen_file",
    "seen_pos",
    "seen_clock",
    "intent_file",
    "intent_pos",
    "intent_statement",
    "epoch",
    "transactions",
    "changes",
    "log_birth",
    "intent_clock",
];
/// How many of them the first version had: its images may stand in the logs still.
const FIRST_COLUMNS: usize = 17;

impl Marker {
    /// Query for the marker of one origin; its row is read by [`Marker::from_row`].
    #[must_use]
    pub fn select(schema: &str, origin: &str) -> String {
        format!(
            "SELECT {} FROM {}.{MARKER_TABLE} WHERE origin = {}",
            COLUMNS.join(", "),
            quote_identifier(schema),
            quote_string(origin)
        )
    }

    /// Statement that writes a marker where there may be none (`init`, `positions set`).
    #[must_use]
    pub fn replace(&self, schema: &str) -> String {
        let assignments = self.assignments();
        let values: Vec<&str> = assignments
            .iter()
            .map(|(_, value)| value.as_str())
            .collect();
        let names: Vec<&str> = assignments.iter().map(|(name, _)| *name).collect();
        format!(
            "REPLACE INTO {}.{MARKER_TABLE} ({}) VALUES ({})",
            quote_identifier(schema),
            names.join(", "),
            values.join(", ")
        )
    }

    /// Statement that moves the marker within an apply transaction, from where it was read.
    ///
    /// It finds no row when another engine has taken the node over (its epoch is higher), or when a
    /// commit whose answer was lost with its connection went through after all: applying on top of
    /// that would apply twice. The transaction must then be rolled back.
    #[must_use]
    pub fn update(&self, schema: &str, from: &Marker) -> String {
        let assignments: Vec<String> = self
            .assignments()
            .into_iter()
            .filter(|(name, _)| !matches!(*name, "origin" | "epoch"))
            .map(|(name, value)| format!("{name} = {value}"))
            .collect();
        format!(
            "UPDATE {}.{MARKER_TABLE} SET {} WHERE origin = {} AND epoch = {} AND log_file = {} AND \
             log_pos = {} AND intent_pos <=> {}",
            quote_identifier(schema),
            assignments.join(", "),
            quote_string(&self.origin),
            self.epoch,
            quote_string(&from.log_name.file(from.position.file)),
            from.position.offset,
            from.intent
                .map_or_else(|| "NULL".to_owned(), |intent| intent.offset.to_string())
        )
    }

    fn assignments(&self) -> Vec<(&'static str, String)> {
        let values = [
            quote_string(&self.origin),
            self.server_id.to_string(),
            quote_string(&self.server_uuid),
            quote_string(&self.log_name.file(self.position.file)),
            self.position.offset.to_string(),
            quote_string(&self.gtid),
            self.clock.to_string(),
            quote_string(&self.seen_name.file(self.seen.file)),
            self.seen.offset.to_string(),
            self.seen_clock.to_string(),
            self.intent.map_or_else(
                || "NULL".to_owned(),
                |intent| quote_string(&self.log_name.file(intent.file)),
            ),
            self.intent
                .map_or_else(|| "NULL".to_owned(), |intent| intent.offset.to_string()),
            self.intended.as_ref().map_or_else(
                || "NULL".to_owned(),
                |intended| hexadecimal(&intended.to_bytes()),
            ),
            self.epoch.to_string(),
            self.transactions.to_string(),
            self.changes.to_string(),
            self.log_birth.to_string(),
            self.intent_clock.to_string(),
        ];
        COLUMNS.into_iter().zip(values).collect()
    }

    /// Reads a row of [`Marker::select`].
    ///
    /// # Errors
    /// [`Error::Preflight`] where the table is not of this version's form.
    pub fn from_row(mut row: mysql_async::Row) -> Result<Self> {
        fn take<T: mysql_async::prelude::FromValue>(
            row: &mut mysql_async::Row,
            column: &'static str,
        ) -> Result<T> {
            row.take_opt(column)
                .and_then(|value| value.ok())
                .ok_or_else(|| wrong_form(column))
        }
        let (log_name, file) = split(&take::<String>(&mut row, "log_file")?)?;
        let (seen_name, seen_file) = split(&take::<String>(&mut row, "seen_file")?)?;
        let intent_file: Option<String> = take(&mut row, "intent_file")?;
        let intent_pos: Option<u64> = take(&mut row, "intent_pos")?;
        let intent = match (intent_file, intent_pos) {
            (Some(file), Some(offset)) => Some(LogPos::new(split(&file)?.1, offset)),
            _ => None,
        };
        let intended: Option<Vec<u8>> = take(&mut row, "intent_statement")?;
        let intended = intended
            .map(|bytes| Intended::from_bytes(&bytes).ok_or_else(|| wrong_form("intent_statement")))
            .transpose()?;
        Ok(Self {
            origin: take(&mut row, "origin")?,
            server_id: take(&mut row, "server_id")?,
            server_uuid: take(&mut row, "server_uuid")?,
            log_name,
            position: LogPos::new(file, take(&mut row, "log_pos")?),
            gtid: take(&mut row, "gtid")?,
            clock: take(&mut row, "clock")?,
            seen_name,
            seen: LogPos::new(seen_file, take(&mut row, "seen_pos")?),
            seen_clock: take(&mut row, "seen_clock")?,
            intent,
            intended,
            epoch: take(&mut row, "epoch")?,
            transactions: take(&mut row, "transactions")?,
            changes: take(&mut row, "changes")?,
            log_birth: take(&mut row, "log_birth")?,
            intent_clock: take(&mut row, "intent_clock")?,
        })
    }

    /// Reads the row image of a marker in a log.
    ///
    /// # Errors
    /// What is wrong with it, as text.
    pub fn from_image(image: &[Value]) -> Result<Self, String> {
        let text = |index: usize| -> Result<String, String> {
            match image.get(index) {
                Some(Value::Bytes(bytes)) => {
                    String::from_utf8(bytes.to_vec()).map_err(|_| problem(index))
                }
                _ => Err(problem(index)),
            }
        };
        let number = |index: usize| -> Result<u64, String> {
            match image.get(index) {
                Some(Value::UInt(number)) => Ok(*number),
                // Without metadata the log does not say that the column is unsigned.
                Some(Value::Int(number)) => Ok(number.cast_unsigned()),
                _ => Err(problem(index)),
            }
        };
        let place = |index: usize| -> Result<(LogName, LogPos), String> {
            let (name, file) = LogName::split(&text(index)?).ok_or_else(|| problem(index))?;
            Ok((name, LogPos::new(file, number(index + 1)?)))
        };
        if !(FIRST_COLUMNS..=COLUMNS.len()).contains(&image.len()) {
            return Err(format!(
                "the marker row has {} columns instead of {}: another version of twinlog wrote it",
                image.len(),
                COLUMNS.len()
            ));
        }
        let (log_name, position) = place(3)?;
        let (seen_name, seen) = place(7)?;
        let intent = match image.get(10) {
            Some(Value::Null) | None => None,
            Some(_) => Some(place(10)?.1),
        };
        let intended = match image.get(12) {
            Some(Value::Null) | None => None,
            Some(Value::Bytes(bytes)) => {
                Some(Intended::from_bytes(bytes).ok_or_else(|| problem(12))?)
            }
            Some(_) => return Err(problem(12)),
        };
        Ok(Self {
            origin: text(0)?,
            server_id: u32::try_from(number(1)? & 0xFFFF_FFFF).map_err(|_| problem(1))?,
            server_uuid: text(2)?,
            log_name,
            position,
            gtid: text(5)?,
            clock: number(6)?,
            seen_name,
            seen,
            seen_clock: number(9)?,
            intent,
            intended,
            epoch: number(13)?,
            transactions: number(14)?,
            changes: number(15)?,
            log_birth: u32::try_from(number(16)? & 0xFFFF_FFFF).map_err(|_| problem(16))?,
            intent_clock: if image.len() > FIRST_COLUMNS {
                number(17)?
            } else {
                0
            },
        })
    }
}

/// A statement that is about to be run, as far as it is needed to know it again in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intended {
    /// `sql_mode` bits that it is run with.
    pub sql_mode: u64,
    /// Default database; empty for none.
    pub database: String,
    /// Its bytes.
    pub sql: Vec<u8>,
}

impl Intended {
    /// The number, the database and the statement, each of the first two ended by a NUL, which a
    /// database's name cannot hold.
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{}\0{}\0", self.sql_mode, self.database).into_bytes();
        bytes.extend_from_slice(&self.sql);
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut parts = bytes.splitn(3, |byte| *byte == 0);
        let mut text = || std::str::from_utf8(parts.next()?).ok();
        let sql_mode = text()?.parse().ok()?;
        let database = text()?.to_owned();
        Some(Self {
            sql_mode,
            database,
            sql: parts.next()?.to_vec(),
        })
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(bytes.len() * 2 + 3);
    text.push_str("x'");
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text.push('\'');
    text
}

fn problem(index: usize) -> String {
    format!(
        "column {} of a marker row cannot be read; the engine's schema was changed by hand or by \
         another version",
        COLUMNS.get(index).copied().unwrap_or("?")
    )
}

fn wrong_form(column: &str) -> Error {
    Error::Preflight(format!(
        "the engine's table `{MARKER_TABLE}` has no readable column {column}: it is of another \
         version; run `twinlog init` with this one"
    ))
}

fn split(file: &str) -> Result<(LogName, u32)> {
    LogName::split(file).ok_or_else(|| wrong_form("log_file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_intended_statement_reads_back() {
        let intended = Intended {
            sql_mode: 1 << 33,
            database: "d\u{e4}".into(),
            sql: b"ALTER TABLE t COMMENT '\0\xff'".to_vec(),
        };
        assert_eq!(Intended::from_bytes(&intended.to_bytes()), Some(intended));
        for broken in [b"".as_slice(), b"x\0d\0sql", b"1\0d", b"1\0\xff\0sql"] {
            assert_eq!(Intended::from_bytes(broken), None);
        }
    }

    #[test]
    fn an_image_of_the_first_version_reads_back() {
        let text = |text: &str| Value::Bytes(text.as_bytes().into());
        let mut image = vec![
            text("a"),
            Value::UInt(1),
            text(""),
            text("bin.000003"),
            Value::UInt(40),
            text("0-1-7"),
            Value::UInt(5),
            text("log.000001"),
            Value::UInt(4),
            Value::UInt(6),
            text("bin.000003"),
            Value::UInt(90),
            Value::Null,
        ];
        image.extend([1, 2, 3, 0].map(Value::UInt));
        let first = Marker::from_image(&image).unwrap();
        assert_eq!(
            (first.intent, first.intent_clock),
            (Some(LogPos::new(3, 90)), 0)
        );
        image.push(Value::UInt(8));
        let marker = Marker::from_image(&image).unwrap();
        assert_eq!(marker.intent_clock, 8);
        image.push(Value::UInt(0));
        assert!(Marker::from_image(&image).is_err());
    }
}
