//! TABLE_MAP events: which table the following rows mean and how their bytes read.

use super::event::Flavor;
use super::reader::{DecodeError, Reader, Result, malformed, utf8};
use crate::row::{ColumnKind, SourceColumn, SourceTable};

/// How a column's bytes in a row image are read: its kind, and whether MariaDB compressed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Codec {
    pub(super) kind: ColumnKind,
    pub(super) compressed: bool,
}

/// The number by which rows name their table.
pub(super) fn table_id(body: &[u8]) -> Result<u64> {
    Reader::new(body).uint(6)
}

/// Database and table name, without the columns.
pub(super) fn names(body: &[u8]) -> Result<(&str, &str)> {
    names_of(&mut Reader::new(body))
}

fn names_of<'a>(reader: &mut Reader<'a>) -> Result<(&'a str, &'a str)> {
    let _table_id = reader.uint(6)?;
    let _flags = reader.u16()?;
    let length = usize::from(reader.u8()?);
    let database = utf8(reader.bytes(length)?)?;
    reader.u8()?;
    let length = usize::from(reader.u8()?);
    let table = utf8(reader.bytes(length)?)?;
    reader.u8()?;
    Ok((database, table))
}

/// Decodes a table map whole.
pub(super) fn decode(flavor: Flavor, body: &[u8]) -> Result<(SourceTable, Box<[Codec]>)> {
    let mut reader = Reader::new(body);
    let (database, name) = names_of(&mut reader)?;
    columns_of(flavor, &mut reader, database, name)
        .map_err(|error| DecodeError(format!("table map of {database}.{name}: {error}")))
}

fn columns_of(
    flavor: Flavor,
    reader: &mut Reader<'_>,
    database: &str,
    name: &str,
) -> Result<(SourceTable, Box<[Codec]>)> {
    let count = reader.length()?;
    if count == 0 {
        return malformed("it has no columns");
    }
    let types = reader.bytes(count)?;
    let metadata_length = reader.length()?;
    let mut metadata = Reader::new(reader.bytes(metadata_length)?);
    let mut codecs = Vec::with_capacity(count);
    for (index, raw_type) in types.iter().enumerate() {
        let codec = codec(*raw_type, &mut metadata)
            .map_err(|error| DecodeError(format!("column {}: {error}", index + 1)))?;
        codecs.push(codec);
    }
    let nullable = reader.bytes(count.div_ceil(8))?;
    let mut columns: Vec<SourceColumn> = codecs
        .iter()
        .enumerate()
        .map(|(index, codec)| SourceColumn {
            name: None,
            kind: codec.kind,
            unsigned: None,
            collation: None,
            nullable: nullable[index / 8] & (1 << (index % 8)) != 0,
        })
        .collect();
    let mut primary_key = None;
    while !reader.is_empty() {
        let field = reader.u8()?;
        let length = reader.length()?;
        let mut value = Reader::new(reader.bytes(length)?);
        optional_field(flavor, field, &mut value, &mut columns, &mut primary_key)?;
    }
    let table = SourceTable {
        database: database.into(),
        name: name.into(),
        columns: columns.into(),
        primary_key,
    };
    Ok((table, codecs.into()))
}

/// Reads a column's metadata.
fn codec(raw_type: u8, metadata: &mut Reader<'_>) -> Result<Codec> {
    let old_temporal = |what: &str| {
        malformed(format!(
            "{what} in the format of before MySQL 5.6, which does not say its precision: rebuild \
             the table with `ALTER TABLE .. FORCE` (MariaDB: with mysql56_temporal_format=ON)"
        ))
    };
    let length_bytes = |metadata: &mut Reader<'_>| match metadata.u8()? {
        length_bytes @ 1..=4 => Ok(length_bytes),
        other => malformed(format!("a length prefix of {other} bytes")),
    };
    let fsp = |metadata: &mut Reader<'_>| match metadata.u8()? {
        fsp @ 0..=6 => Ok(fsp),
        other => malformed(format!("{other} digits of a second's fraction")),
    };
    let mut compressed = false;
    let kind = match raw_type {
        1 => ColumnKind::Tiny,
        2 => ColumnKind::Short,
        3 => ColumnKind::Long,
        4 => {
            metadata.u8()?;
            ColumnKind::Float
        }
        5 => {
            metadata.u8()?;
            ColumnKind::Double
        }
        7 => return old_temporal("TIMESTAMP"),
        8 => ColumnKind::LongLong,
        9 => ColumnKind::Int24,
        10 | 14 => ColumnKind::Date,
        11 => return old_temporal("TIME"),
        12 => return old_temporal("DATETIME"),
        13 => ColumnKind::Year,
        15 | 141 | 253 => {
            compressed = raw_type == 141;
            ColumnKind::VarChar {
                max_bytes: metadata.u16()?,
            }
        }
        16 => {
            let (bits, bytes) = (metadata.u8()?, metadata.u8()?);
            let bits = u16::from(bytes) * 8 + u16::from(bits);
            match u8::try_from(bits) {
                Ok(bits @ 1..=64) => ColumnKind::Bit { bits },
                _ => return malformed(format!("BIT({bits})")),
            }
        }
        17 => ColumnKind::Timestamp {
            fsp: fsp(metadata)?,
        },
        18 => ColumnKind::DateTime {
            fsp: fsp(metadata)?,
        },
        19 => ColumnKind::Time {
            fsp: fsp(metadata)?,
        },
        140 | 249..=252 => {
            compressed = raw_type == 140;
            ColumnKind::Blob {
                length_bytes: length_bytes(metadata)?,
            }
        }
        242 => ColumnKind::Vector {
            length_bytes: length_bytes(metadata)?,
            dimensions: 0,
        },
        245 => ColumnKind::Json {
            length_bytes: length_bytes(metadata)?,
        },
        246 => {
            let (precision, scale) = (metadata.u8()?, metadata.u8()?);
            if precision == 0 || precision > 65 || scale > precision {
                return malformed(format!("DECIMAL({precision},{scale})"));
            }
            ColumnKind::Decimal { precision, scale }
        }
        247 | 248 | 254 => string(metadata.u8()?, metadata.u8()?)?,
        255 => ColumnKind::Geometry {
            length_bytes: length_bytes(metadata)?,
        },
        20 => return malformed("a typed array cannot be replicated"),
        other => {
            return malformed(format!(
                "the type number {other} is not known to twinlog; take the table out of the \
                 replication or change the column"
            ));
        }
    };
    Ok(Codec { kind, compressed })
}

/// CHAR, ENUM and SET share one type number; the metadata's first byte tells them apart and holds
/// two bits of a CHAR's length, inverted.
fn string(first: u8, second: u8) -> Result<ColumnKind> {
    let (real_type, max_bytes) = if first & 0x30 == 0x30 {
        (first, u16::from(second))
    } else {
        let high = u16::from((first & 0x30) ^ 0x30) << 4;
        (first | 0x30, high | u16::from(second))
    };
    match (real_type, second) {
        (254, _) => Ok(ColumnKind::Char { max_bytes }),
        (247, bytes @ 1..=2) => Ok(ColumnKind::Enum { bytes }),
        (248, bytes @ 1..=8) => Ok(ColumnKind::Set { bytes }),
        _ => malformed(format!("string metadata {first:#04x} {second:#04x}")),
    }
}

/// Whether the optional fields about signedness count the column.
fn is_numeric(kind: ColumnKind) -> bool {
    matches!(
        kind,
        ColumnKind::Tiny
            | ColumnKind::Short
            | ColumnKind::Int24
            | ColumnKind::Long
            | ColumnKind::LongLong
            | ColumnKind::Float
            | ColumnKind::Double
            | ColumnKind::Decimal { .. }
            | ColumnKind::Year
    )
}

/// Whether the optional fields about character sets count the column. Binary strings count.
fn is_character(flavor: Flavor, kind: ColumnKind) -> bool {
    match kind {
        ColumnKind::VarChar { .. } | ColumnKind::Char { .. } | ColumnKind::Blob { .. } => true,
        ColumnKind::Vector { .. } => flavor == Flavor::MySql,
        ColumnKind::Geometry { .. } => flavor == Flavor::MariaDb,
        _ => false,
    }
}

fn is_enum_or_set(kind: ColumnKind) -> bool {
    matches!(kind, ColumnKind::Enum { .. } | ColumnKind::Set { .. })
}

fn optional_field(
    flavor: Flavor,
    field: u8,
    value: &mut Reader<'_>,
    columns: &mut [SourceColumn],
    primary_key: &mut Option<Box<[usize]>>,
) -> Result<()> {
    match field {
        1 => {
            let numeric = columns
                .iter_mut()
                .filter(|column| is_numeric(column.kind))
                .collect::<Vec<_>>();
            let bits = value.bytes(numeric.len().div_ceil(8))?;
            for (index, column) in numeric.into_iter().enumerate() {
                column.unsigned = Some(bits[index / 8] & (0x80 >> (index % 8)) != 0);
            }
        }
        2 | 10 => {
            let mut columns = charset_columns(flavor, field == 10, columns);
            let default = collation(value)?;
            for column in &mut columns {
                column.collation = Some(default);
            }
            while !value.is_empty() {
                let index = value.lenenc()?;
                let collation = collation(value)?;
                match usize::try_from(index)
                    .ok()
                    .and_then(|index| columns.get_mut(index))
                {
                    Some(column) => column.collation = Some(collation),
                    None => return malformed(format!("a collation for text column {index}")),
                }
            }
            return Ok(());
        }
        3 | 11 => {
            for column in charset_columns(flavor, field == 11, columns) {
                column.collation = Some(collation(value)?);
            }
        }
        4 => {
            for column in columns.iter_mut() {
                let length = value.length()?;
                column.name = Some(utf8(value.bytes(length)?)?.into());
            }
        }
        8 | 9 => {
            let mut key = Vec::new();
            while !value.is_empty() {
                let index = value.lenenc()?;
                if field == 9 {
                    let _prefix_length = value.lenenc()?;
                }
                match usize::try_from(index) {
                    Ok(index) if index < columns.len() => key.push(index),
                    _ => return malformed(format!("a primary key on column {index}")),
                }
            }
            *primary_key = Some(key.into());
        }
        13 if flavor == Flavor::MySql => {
            for column in columns.iter_mut() {
                if let ColumnKind::Vector { dimensions, .. } = &mut column.kind {
                    let number = value.lenenc()?;
                    *dimensions = u32::try_from(number)
                        .map_err(|_| DecodeError(format!("VECTOR({number})")))?;
                }
            }
        }
        // Names of ENUM and SET members, geometry kinds, visibility, and what later versions add: optional by the format's own rule.
        _ => return Ok(()),
    }
    if !value.is_empty() {
        return malformed(format!(
            "optional field {field} does not fit the columns ({} bytes too many)",
            value.left()
        ));
    }
    Ok(())
}

fn charset_columns(
    flavor: Flavor,
    enums: bool,
    columns: &mut [SourceColumn],
) -> Vec<&mut SourceColumn> {
    columns
        .iter_mut()
        .filter(|column| {
            if enums {
                is_enum_or_set(column.kind)
            } else {
                is_character(flavor, column.kind)
            }
        })
        .collect()
}

fn collation(value: &mut Reader<'_>) -> Result<u16> {
    let number = value.lenenc()?;
    u16::try_from(number).map_err(|_| DecodeError(format!("collation number {number}")))
}
