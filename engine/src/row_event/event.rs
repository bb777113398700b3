//! The events themselves.

use mysql_common::io::BufMutExt;

use super::value::{self, Limits};
use crate::decode::event::Flavor;
use crate::row::{ColumnKind, Row, Value};

/// Bytes of an event's header.
const HEADER: usize = 19;
const FORMAT_DESCRIPTION: u8 = 15;
const TABLE_MAP: u8 = 19;
/// Most event types that a format description has to name.
const TYPES: usize = 40;
/// The number by which rows name the table map in front of them; it means nothing beyond.
const TABLE_ID: u64 = 1;
/// In a table map: lengths are exact.
const EXACT_LENGTHS: u16 = 1;
/// In a table map of MariaDB: the table had triggers where the rows were written, which did their work there.
const HAD_TRIGGERS: u16 = 1 << 14;
/// In a table map: the field that says how long vectors may be.
const VECTOR_DIMENSIONS: u8 = 13;
/// In a rows event: the last of its statement.
const ENDS_STATEMENT: u16 = 1;
/// In a rows event: as in a session with `foreign_key_checks = 0`.
const NO_FOREIGN_KEY_CHECKS: u16 = 1 << 1;

/// The event that says of which version those behind it are: without checksums. It has to come first in a session.
pub(crate) fn format_description(flavor: Flavor) -> Vec<u8> {
    // What matters of the version is that it knows checksums.
    let version: &[u8] = match flavor {
        Flavor::MySql => b"8.0.0-twinlog",
        Flavor::MariaDb => b"10.6.0-MariaDB-twinlog",
    };
    let mut lengths = [0; TYPES];
    let mut set = |kind: u8, length: u8| lengths[usize::from(kind) - 1] = length;
    set(2, 13);
    set(FORMAT_DESCRIPTION, (2 + 50 + 4 + 1 + TYPES) as u8);
    for kind in [TABLE_MAP, 23, 24, 25] {
        set(kind, 8);
    }
    for kind in [30, 31, 32] {
        set(kind, 10);
    }
    let mut body = 4_u16.to_le_bytes().to_vec();
    body.extend_from_slice(version);
    body.resize(2 + 50, 0);
    body.extend_from_slice(&0_u32.to_le_bytes());
    body.push(HEADER as u8);
    body.extend_from_slice(&lengths);
    // No checksums; this event has the room of one all the same.
    body.extend_from_slice(&[0; 5]);
    event(FORMAT_DESCRIPTION, 0, &body)
}

fn event(kind: u8, time: u32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + body.len());
    push_header(&mut out, kind, time, body.len());
    out.extend_from_slice(body);
    out
}

/// The server takes no `server_id` from it: rows are logged as the session's. `time` is in seconds since 1970; MariaDB
/// logs the rows with it.
fn push_header(out: &mut Vec<u8>, kind: u8, time: u32, body: usize) {
    out.extend_from_slice(&time.to_le_bytes());
    out.push(kind);
    out.extend_from_slice(&1_u32.to_le_bytes());
    let size = u32::try_from(HEADER + body).unwrap_or(u32::MAX);
    out.extend_from_slice(&size.to_le_bytes());
    out.extend_from_slice(&0_u32.to_le_bytes());
    out.extend_from_slice(&0_u16.to_le_bytes());
}

/// What a rows event does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Rows come to be: one image each.
    Write,
    /// Rows change: an image that finds the row and one that says what becomes of it.
    Update,
    /// Rows go: an image that finds each.
    Delete,
}

impl Operation {
    /// MySQL has version 2 of these events, MariaDB version 1.
    fn number(self, flavor: Flavor) -> u8 {
        let first = match flavor {
            Flavor::MySql => 30,
            Flavor::MariaDb => 23,
        };
        match self {
            Operation::Write => first,
            Operation::Update => first + 1,
            Operation::Delete => first + 2,
        }
    }
}

/// A column of the target's table, as events have it.
#[derive(Debug, Clone)]
pub(crate) struct EventColumn {
    /// How its bytes are written.
    pub(crate) kind: ColumnKind,
    /// What it takes.
    pub(crate) limits: Limits,
    /// Where its value stands in the origin's image.
    pub(crate) source: usize,
}

/// A rows event that is being written, with its table map in front.
#[derive(Debug)]
pub(crate) struct RowsEvent<'t> {
    columns: &'t [EventColumn],
    /// Columns of each of a row's images, by their numbers.
    present: Vec<Vec<usize>>,
    operation: Operation,
    flavor: Flavor,
    time: u32,
    /// Table map, then body of the rows event up to where the images begin.
    out: Vec<u8>,
    /// Where the rows event begins in it.
    rows_at: usize,
    empty_at: usize,
}

impl<'t> RowsEvent<'t> {
    /// Of rows of the table `named` (database, table) with these columns, the first ones that it has. `present` has for
    /// each image of a row the numbers of the columns that it holds, in rising order. `time` is in seconds since 1970.
    pub(crate) fn begin(
        (flavor, time): (Flavor, u32),
        named: (&str, &str),
        columns: &'t [EventColumn],
        operation: Operation,
        present: Vec<Vec<usize>>,
        foreign_key_checks: bool,
    ) -> Self {
        let mut out = event(TABLE_MAP, time, &table_map(flavor, named, columns));
        let rows_at = out.len();
        let count = columns.len();
        let mut body = TABLE_ID.to_le_bytes()[..6].to_vec();
        let mut flags = ENDS_STATEMENT;
        if !foreign_key_checks {
            flags |= NO_FOREIGN_KEY_CHECKS;
        }
        body.extend_from_slice(&flags.to_le_bytes());
        if flavor == Flavor::MySql {
            // Extra data: none but its length.
            body.extend_from_slice(&2_u16.to_le_bytes());
        }
        body.put_lenenc_int(count as u64);
        for columns in &present {
            body.extend_from_slice(&bits(count, columns.iter().copied()));
        }
        out.resize(rows_at + HEADER, 0);
        out.extend_from_slice(&body);
        Self {
            columns,
            present,
            operation,
            flavor,
            time,
            rows_at,
            empty_at: out.len(),
            out,
        }
    }

    /// Adds a row by its images, as the origin's log has them; of each the columns are written that it was said to hold.
    ///
    /// # Errors
    /// The column (its number) that does not take the value, or whose type has no bytes for it, and why.
    pub(crate) fn push(&mut self, images: &[&Row]) -> Result<(), (usize, String)> {
        for (row, present) in images.iter().zip(&self.present) {
            let held = present.iter().filter_map(|number| {
                let column = self.columns.get(*number)?;
                Some((
                    *number,
                    column,
                    row.get(column.source).unwrap_or(&Value::Null),
                ))
            });
            let nulls = held.clone().enumerate();
            let nulls = nulls.filter(|(_, (.., value))| value.is_null());
            let nulls = bits(present.len(), nulls.map(|(at, _)| at));
            self.out.extend_from_slice(&nulls);
            for (number, column, value) in held {
                value::write(&mut self.out, column.kind, column.limits, value)
                    .map_err(|problem| (number, problem))?;
            }
        }
        Ok(())
    }

    /// Bytes of the rows that it has.
    pub(crate) fn bytes(&self) -> usize {
        self.out.len() - self.empty_at
    }

    /// The events as they are, and an empty one of the same form in their place.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        let empty = self.out[..self.empty_at].to_vec();
        let mut whole = std::mem::replace(&mut self.out, empty);
        let mut header = Vec::with_capacity(HEADER);
        let body = whole.len() - self.rows_at - HEADER;
        let number = self.operation.number(self.flavor);
        push_header(&mut header, number, self.time, body);
        whole[self.rows_at..self.rows_at + HEADER].copy_from_slice(&header);
        whole
    }
}

fn table_map(flavor: Flavor, (database, name): (&str, &str), columns: &[EventColumn]) -> Vec<u8> {
    let mut body = TABLE_ID.to_le_bytes()[..6].to_vec();
    let flags = match flavor {
        Flavor::MySql => EXACT_LENGTHS,
        Flavor::MariaDb => EXACT_LENGTHS | HAD_TRIGGERS,
    };
    body.extend_from_slice(&flags.to_le_bytes());
    for name in [database, name] {
        // At most 64 characters of three bytes.
        body.push(name.len() as u8);
        body.extend_from_slice(name.as_bytes());
        body.push(0);
    }
    body.put_lenenc_int(columns.len() as u64);
    let mut metadata = Vec::new();
    for column in columns {
        body.push(push_type(column.kind, &mut metadata));
    }
    body.put_lenenc_int(metadata.len() as u64);
    body.extend_from_slice(&metadata);
    let nullable = columns.iter().enumerate();
    let nullable = nullable.filter(|(_, column)| column.limits.nullable);
    body.extend_from_slice(&bits(columns.len(), nullable.map(|(index, _)| index)));
    let mut vectors = Vec::new();
    for column in columns {
        if let ColumnKind::Vector { dimensions, .. } = column.kind {
            vectors.put_lenenc_int(u64::from(dimensions));
        }
    }
    // Of what may be said besides, this alone is minded by those who write the rows.
    if !vectors.is_empty() {
        body.push(VECTOR_DIMENSIONS);
        body.put_lenenc_int(vectors.len() as u64);
        body.extend_from_slice(&vectors);
    }
    body
}

/// The number of a column's type; appends what is said of it besides.
fn push_type(kind: ColumnKind, metadata: &mut Vec<u8>) -> u8 {
    match kind {
        ColumnKind::Tiny => 1,
        ColumnKind::Short => 2,
        ColumnKind::Long => 3,
        ColumnKind::LongLong => 8,
        ColumnKind::Int24 => 9,
        ColumnKind::Float => {
            metadata.push(4);
            4
        }
        ColumnKind::Double => {
            metadata.push(8);
            5
        }
        ColumnKind::Date => 10,
        ColumnKind::Year => 13,
        ColumnKind::VarChar { max_bytes } => {
            metadata.extend_from_slice(&max_bytes.to_le_bytes());
            15
        }
        ColumnKind::Bit { bits } => {
            metadata.extend_from_slice(&[bits % 8, bits / 8]);
            16
        }
        ColumnKind::Timestamp { fsp } => {
            metadata.push(fsp);
            17
        }
        ColumnKind::DateTime { fsp } => {
            metadata.push(fsp);
            18
        }
        ColumnKind::Time { fsp } => {
            metadata.push(fsp);
            19
        }
        ColumnKind::Vector { length_bytes, .. } => {
            metadata.push(length_bytes);
            242
        }
        ColumnKind::Json { length_bytes } => {
            metadata.push(length_bytes);
            245
        }
        ColumnKind::Decimal { precision, scale } => {
            metadata.extend_from_slice(&[precision, scale]);
            246
        }
        ColumnKind::Blob { length_bytes } => {
            metadata.push(length_bytes);
            252
        }
        // CHAR, ENUM and SET share a number: the first byte tells them apart, and has two bits of a CHAR's
        // length, turned.
        ColumnKind::Enum { bytes } => {
            metadata.extend_from_slice(&[247, bytes]);
            254
        }
        ColumnKind::Set { bytes } => {
            metadata.extend_from_slice(&[248, bytes]);
            254
        }
        ColumnKind::Char { max_bytes } => {
            let [low, high] = max_bytes.to_le_bytes();
            metadata.extend_from_slice(&[254 ^ (high & 3) << 4, low]);
            254
        }
        ColumnKind::Geometry { length_bytes } => {
            metadata.push(length_bytes);
            255
        }
    }
}

/// A bit for each of `count`, of which these are set.
fn bits(count: usize, set: impl Iterator<Item = usize>) -> Vec<u8> {
    let mut bits = vec![0_u8; count.div_ceil(8)];
    for index in set {
        if let Some(byte) = bits.get_mut(index / 8) {
            *byte |= 1 << (index % 8);
        }
    }
    bits
}

#[cfg(test)]
mod tests;
