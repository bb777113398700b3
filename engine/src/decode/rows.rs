//! Rows events: the images of the rows that a statement wrote.

use super::event::{Flavor, RowsFlags};
use super::reader::{DecodeError, Reader, Result, malformed};
use super::table_map::Codec;
use super::unpack;
use super::value;
use crate::row::{ColumnKind, Row, RowChange, SourceTable, Value};

/// Which rows event it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Write,
    Update,
    /// Its after images may hold changes to JSON documents instead of documents.
    PartialUpdate,
    Delete,
}

/// The shape of a rows event, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) operation: Operation,
    /// Version 2 has room for extra data in its header.
    pub(super) version: u8,
    /// MariaDB's compressed form.
    pub(super) compressed: bool,
}

/// What a rows event number stands for.
pub(super) fn form(event_type: u8) -> Option<Form> {
    let (operation, version, compressed) = match event_type {
        23 => (Operation::Write, 1, false),
        24 => (Operation::Update, 1, false),
        25 => (Operation::Delete, 1, false),
        30 => (Operation::Write, 2, false),
        31 => (Operation::Update, 2, false),
        32 => (Operation::Delete, 2, false),
        39 => (Operation::PartialUpdate, 2, false),
        166 => (Operation::Write, 1, true),
        167 => (Operation::Update, 1, true),
        168 => (Operation::Delete, 1, true),
        169 => (Operation::Write, 2, true),
        170 => (Operation::Update, 2, true),
        171 => (Operation::Delete, 2, true),
        _ => return None,
    };
    Some(Form {
        operation,
        version,
        compressed,
    })
}

/// The flags of a rows event.
pub(super) fn flags(body: &[u8]) -> Result<RowsFlags> {
    let mut reader = Reader::new(body);
    let _table_id = reader.uint(6)?;
    Ok(RowsFlags(reader.u16()?))
}

/// Decodes the row images of an event whose table is known.
pub(super) fn decode(
    flavor: Flavor,
    form: Form,
    body: &[u8],
    table: &SourceTable,
    codecs: &[Codec],
) -> Result<Vec<RowChange>> {
    images(flavor, form, body, table, codecs)
        .map_err(|error| DecodeError(format!("rows of {table}: {error}")))
}

fn images(
    flavor: Flavor,
    form: Form,
    body: &[u8],
    table: &SourceTable,
    codecs: &[Codec],
) -> Result<Vec<RowChange>> {
    let mut reader = Reader::new(body);
    let _table_id = reader.uint(6)?;
    let _flags = reader.u16()?;
    if form.version == 2 {
        // The length counts itself.
        let extra = usize::from(reader.u16()?);
        match extra.checked_sub(2) {
            Some(extra) => reader.bytes(extra)?,
            None => return malformed(format!("extra data of {extra} bytes")),
        };
    }
    let columns = reader.lenenc()?;
    if columns != codecs.len() as u64 {
        return malformed(format!(
            "{columns} columns, but the table map has {}",
            codecs.len()
        ));
    }
    let updates = matches!(form.operation, Operation::Update | Operation::PartialUpdate);
    all_present(&mut reader, table)?;
    if updates {
        all_present(&mut reader, table)?;
    }
    let unpacked;
    if form.compressed {
        unpacked = unpack::event_part(reader.rest())?;
        reader = Reader::new(&unpacked);
    }
    let mut decoder = Images {
        flavor,
        table,
        codecs,
        reader,
    };
    let mut changes = Vec::new();
    while !decoder.reader.is_empty() {
        changes.push(match form.operation {
            Operation::Write => RowChange::Insert {
                after: decoder.image()?,
            },
            Operation::Delete => RowChange::Delete {
                before: decoder.image()?,
            },
            Operation::Update => RowChange::Update {
                before: decoder.image()?,
                after: decoder.image()?,
            },
            Operation::PartialUpdate => {
                let before = decoder.image()?;
                let after = decoder.partial_image(&before)?;
                RowChange::Update { before, after }
            }
        });
    }
    Ok(changes)
}

/// Checks that no column is left out of the images.
fn all_present(reader: &mut Reader<'_>, table: &SourceTable) -> Result<()> {
    let count = table.columns.len();
    let present = reader.bytes(count.div_ceil(8))?;
    for index in 0..count {
        if present[index / 8] & (1 << (index % 8)) == 0 {
            let name = table.columns[index].name.as_deref().unwrap_or("not named");
            return malformed(format!(
                "column {} ({name}) is left out of the row image: set binlog_row_image=FULL at \
                 the source, in running sessions too",
                index + 1
            ));
        }
    }
    Ok(())
}

struct Images<'a> {
    flavor: Flavor,
    table: &'a SourceTable,
    codecs: &'a [Codec],
    reader: Reader<'a>,
}

impl Images<'_> {
    fn image(&mut self) -> Result<Row> {
        let nulls = self.reader.bytes(self.codecs.len().div_ceil(8))?;
        let mut row = Vec::with_capacity(self.codecs.len());
        for (index, (codec, column)) in self.codecs.iter().zip(&self.table.columns).enumerate() {
            if nulls[index / 8] & (1 << (index % 8)) != 0 {
                row.push(Value::Null);
                continue;
            }
            match value::decode(self.flavor, *codec, column.unsigned, &mut self.reader) {
                Ok(value) => row.push(value),
                Err(error) => return Err(self.in_column(index, &error)),
            }
        }
        Ok(row.into())
    }

    /// An after image that may hold differences to the before image's JSON documents.
    fn partial_image(&mut self, before: &Row) -> Result<Row> {
        const PARTIAL_JSON: u64 = 1;
        let options = self.reader.lenenc()?;
        if options & !PARTIAL_JSON != 0 {
            return malformed(format!("row value options {options}, which are not known"));
        }
        let documents = self
            .codecs
            .iter()
            .filter(|codec| matches!(codec.kind, ColumnKind::Json { .. }))
            .count();
        let partial = if options & PARTIAL_JSON == 0 {
            &[]
        } else {
            self.reader.bytes(documents.div_ceil(8))?
        };
        let nulls = self.reader.bytes(self.codecs.len().div_ceil(8))?;
        let mut row = Vec::with_capacity(self.codecs.len());
        let mut document = 0;
        for (index, (codec, column)) in self.codecs.iter().zip(&self.table.columns).enumerate() {
            let mut differences = false;
            if let ColumnKind::Json { .. } = codec.kind {
                differences = partial
                    .get(document / 8)
                    .is_some_and(|bits| bits & (1 << (document % 8)) != 0);
                document += 1;
            }
            if nulls[index / 8] & (1 << (index % 8)) != 0 {
                row.push(Value::Null);
                continue;
            }
            let value = match (codec.kind, &before[index]) {
                (ColumnKind::Json { length_bytes }, Value::Json(before)) if differences => {
                    value::prefixed(&mut self.reader, length_bytes)
                        .and_then(|differences| before.patched(differences))
                        .map(Value::Json)
                }
                (_, _) if differences => malformed("a change to a JSON document that is NULL"),
                _ => value::decode(self.flavor, *codec, column.unsigned, &mut self.reader),
            };
            row.push(value.map_err(|error| self.in_column(index, &error))?);
        }
        Ok(row.into())
    }

    #[cold]
    fn in_column(&self, index: usize, error: &DecodeError) -> DecodeError {
        let name = self.table.columns[index]
            .name
            .as_deref()
            .unwrap_or("not named");
        DecodeError(format!("column {} ({name}): {error}", index + 1))
    }
}
