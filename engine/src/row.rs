//! Typed rows: what the decoder makes of a binlog row image, and what the apply writes.
//!
//! A [`Value`] keeps exactly what the log said, without a time zone or character set conversion;
//! [`SourceTable`] says what the columns were at the origin when the row was written.

use serde::{Deserialize, Serialize};

use crate::decode::json::Json;

/// A FLOAT by its bits: text would not give all of them back.
mod float_bits {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &f32, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_u32(value.to_bits())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f32, D::Error> {
        u32::deserialize(from).map(f32::from_bits)
    }
}

/// A DOUBLE by its bits.
mod double_bits {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &f64, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_u64(value.to_bits())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        u64::deserialize(from).map(f64::from_bits)
    }
}

/// Bytes as a whole, where the format can, and not one by one.
mod byte_string {
    use std::fmt;

    use serde::de::{SeqAccess, Visitor};
    use serde::{Deserializer, Serializer};

    // By reference, as serde calls it.
    #[allow(clippy::borrowed_box)]
    pub(super) fn serialize<S: Serializer>(value: &Box<[u8]>, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_bytes(value)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Box<[u8]>, D::Error> {
        from.deserialize_byte_buf(Bytes)
    }

    struct Bytes;

    impl<'de> Visitor<'de> for Bytes {
        type Value = Box<[u8]>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bytes")
        }

        fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Self::Value, E> {
            Ok(bytes.into())
        }

        // JSON has them as a list of numbers.
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut bytes = Vec::new();
            while let Some(byte) = list.next_element()? {
                bytes.push(byte);
            }
            Ok(bytes.into())
        }
    }
}

/// One column's value in a row image.
///
/// Its serialised form is for the histories of merged rows ([`crate::conflict::history`]) and for rows
/// on disk ([`crate::spill`]).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// SQL NULL.
    Null,
    /// TINYINT .. BIGINT, signed. Where the log does not say whether the column is unsigned
    /// ([`SourceColumn::unsigned`] is `None`) the bits are sign-extended here and the apply
    /// reads them again by the target's schema.
    Int(i64),
    /// TINYINT .. BIGINT, unsigned.
    UInt(u64),
    /// FLOAT.
    Float(#[serde(with = "float_bits")] f32),
    /// DOUBLE.
    Double(#[serde(with = "double_bits")] f64),
    /// DECIMAL as plain digits with all its decimals, such as `-12.340`.
    Decimal(Box<str>),
    /// CHAR, VARCHAR, TEXT in the column's own character set; BINARY, VARBINARY, BLOB, GEOMETRY,
    /// VECTOR and MariaDB's INET/UUID types as stored. The log leaves out the trailing spaces of
    /// CHAR and the trailing zero bytes of BINARY, INET and UUID.
    Bytes(#[serde(with = "byte_string")] Box<[u8]>),
    /// BIT(1..64).
    Bit(u64),
    /// YEAR, 0 or 1901..=2155.
    Year(u16),
    /// DATE; any part may be zero.
    Date {
        /// 0..=9999
        year: u16,
        /// 0..=12
        month: u8,
        /// 0..=31
        day: u8,
    },
    /// TIME.
    Time {
        /// Whether the value is below zero.
        negative: bool,
        /// 0..=838
        hours: u16,
        /// 0..=59
        minutes: u8,
        /// 0..=59
        seconds: u8,
        /// 0..=999_999
        micros: u32,
    },
    /// DATETIME; any part may be zero.
    DateTime {
        /// 0..=9999
        year: u16,
        /// 0..=12
        month: u8,
        /// 0..=31
        day: u8,
        /// 0..=23
        hour: u8,
        /// 0..=59
        minute: u8,
        /// 0..=59
        second: u8,
        /// 0..=999_999
        micros: u32,
    },
    /// TIMESTAMP: seconds since 1970 UTC, with (0, 0) standing for the zero date.
    Timestamp {
        /// Seconds since the epoch.
        seconds: u32,
        /// 0..=999_999
        micros: u32,
    },
    /// ENUM by number, 1 the first; 0 is the error value ''.
    Enum(u16),
    /// SET by its bits.
    Set(u64),
    /// MySQL's JSON, as stored.
    Json(Json),
}

impl Value {
    /// Memory that the value takes, roughly, in bytes; used to bound queues.
    #[must_use]
    pub fn weight(&self) -> usize {
        let heap = match self {
            Value::Bytes(bytes) => bytes.len(),
            Value::Decimal(digits) => digits.len(),
            Value::Json(json) => json.weight(),
            _ => 0,
        };
        size_of::<Self>() + heap
    }

    /// Whether it is SQL NULL.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// Whether the server tells the two apart: by their bits, so that a zero and its negative differ.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Value::Float(one), Value::Float(other)) => one.to_bits() == other.to_bits(),
            (Value::Double(one), Value::Double(other)) => one.to_bits() == other.to_bits(),
            (one, other) => one == other,
        }
    }
}

impl Value {
    /// The bytes of a value that is kept as bytes.
    pub(crate) fn bytes_mut(&mut self) -> Option<&mut Box<[u8]>> {
        match self {
            Value::Bytes(bytes) => Some(bytes),
            Value::Json(json) => json.stored_mut(),
            _ => None,
        }
    }
}

/// A full row image: one value for each column of the [`SourceTable`], in its order.
pub type Row = Box<[Value]>;

/// What a column's bytes in the log stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ColumnKind {
    /// TINYINT, 1 byte.
    Tiny,
    /// SMALLINT, 2 bytes.
    Short,
    /// MEDIUMINT, 3 bytes.
    Int24,
    /// INT, 4 bytes.
    Long,
    /// BIGINT, 8 bytes.
    LongLong,
    /// FLOAT.
    Float,
    /// DOUBLE.
    Double,
    /// DECIMAL(precision, scale).
    Decimal {
        /// Digits in all.
        precision: u8,
        /// Digits behind the point.
        scale: u8,
    },
    /// BIT(bits).
    Bit {
        /// 1..=64
        bits: u8,
    },
    /// YEAR.
    Year,
    /// DATE.
    Date,
    /// TIME(fsp).
    Time {
        /// Digits of the fraction, 0..=6.
        fsp: u8,
    },
    /// DATETIME(fsp).
    DateTime {
        /// Digits of the fraction, 0..=6.
        fsp: u8,
    },
    /// TIMESTAMP(fsp).
    Timestamp {
        /// Digits of the fraction, 0..=6.
        fsp: u8,
    },
    /// VARCHAR, VARBINARY.
    VarChar {
        /// Greatest length in bytes.
        max_bytes: u16,
    },
    /// CHAR, BINARY, MariaDB's UUID and INET types.
    Char {
        /// Greatest length in bytes.
        max_bytes: u16,
    },
    /// TEXT and BLOB of all sizes.
    Blob {
        /// Bytes of the length prefix, 1..=4.
        length_bytes: u8,
    },
    /// ENUM.
    Enum {
        /// 1 or 2.
        bytes: u8,
    },
    /// SET.
    Set {
        /// 1..=8.
        bytes: u8,
    },
    /// MySQL's binary JSON.
    Json {
        /// Bytes of the length prefix.
        length_bytes: u8,
    },
    /// GEOMETRY and its kinds: SRID and WKB.
    Geometry {
        /// Bytes of the length prefix.
        length_bytes: u8,
    },
    /// MySQL's VECTOR.
    Vector {
        /// Bytes of the length prefix.
        length_bytes: u8,
        /// Most numbers that it holds; 0 where the log does not say.
        dimensions: u32,
    },
}

/// A column as the table map describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceColumn {
    /// Known with `binlog_row_metadata=FULL` only.
    pub name: Option<Box<str>>,
    /// How its bytes read.
    pub kind: ColumnKind,
    /// For numeric columns, where the log says (`MINIMAL` and `FULL`).
    pub unsigned: Option<bool>,
    /// Collation number of a character column, where the log says; 63 is binary.
    pub collation: Option<u16>,
    /// Whether NULL is allowed.
    pub nullable: bool,
}

/// A table as it was at the origin when the rows that follow were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceTable {
    /// Database name.
    pub database: Box<str>,
    /// Table name.
    pub name: Box<str>,
    /// Columns in the table's order, generated and invisible ones included. Empty for tables that
    /// the decoder's filter left out.
    pub columns: Box<[SourceColumn]>,
    /// Columns of the primary key (indexes into `columns`), where the log says (`FULL` only).
    pub primary_key: Option<Box<[usize]>>,
}

impl SourceTable {
    /// Whether every column's name is known (`binlog_row_metadata=FULL`).
    #[must_use]
    pub fn has_names(&self) -> bool {
        self.columns.iter().all(|column| column.name.is_some())
    }
}

impl std::fmt::Display for SourceTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.database, self.name)
    }
}

/// What happened to one row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum RowChange {
    /// A row came to be.
    Insert {
        /// The new row.
        after: Row,
    },
    /// A row changed; its key may have changed too.
    Update {
        /// The row as it was.
        before: Row,
        /// The row as it is.
        after: Row,
    },
    /// A row went.
    Delete {
        /// The row as it was.
        before: Row,
    },
}

impl RowChange {
    /// The row before it, where there was one.
    #[must_use]
    pub fn before(&self) -> Option<&Row> {
        match self {
            RowChange::Delete { before } | RowChange::Update { before, .. } => Some(before),
            RowChange::Insert { .. } => None,
        }
    }

    /// The row after it, where there is one.
    #[must_use]
    pub fn after(&self) -> Option<&Row> {
        match self {
            RowChange::Insert { after } | RowChange::Update { after, .. } => Some(after),
            RowChange::Delete { .. } => None,
        }
    }

    /// Its images: the row before, where there was one, then the row after.
    pub fn images(&self) -> impl Iterator<Item = &Row> {
        let (before, after) = match self {
            RowChange::Insert { after } => (None, Some(after)),
            RowChange::Update { before, after } => (Some(before), Some(after)),
            RowChange::Delete { before } => (Some(before), None),
        };
        before.into_iter().chain(after)
    }

    /// [`Self::images`], to be changed.
    pub(crate) fn images_mut(&mut self) -> impl Iterator<Item = &mut Row> {
        let (before, after) = match self {
            RowChange::Insert { after } => (None, Some(after)),
            RowChange::Update { before, after } => (Some(before), Some(after)),
            RowChange::Delete { before } => (Some(before), None),
        };
        before.into_iter().chain(after)
    }

    /// Memory that the change takes, roughly, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        let row = |row: &Row| row.iter().map(Value::weight).sum::<usize>();
        match self {
            RowChange::Insert { after } => row(after),
            RowChange::Update { before, after } => row(before) + row(after),
            RowChange::Delete { before } => row(before),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_from_both_forms() {
        let row: Row = Box::new([
            Value::Bytes(Box::from(*b"\0x\xff")),
            Value::Float(-0.0),
            Value::Null,
            Value::UInt(u64::MAX),
        ]);
        let text = serde_json::to_string(&row).unwrap();
        assert!(text.contains(r#"{"Bytes":[0,120,255]}"#), "{text}");
        assert_eq!(serde_json::from_str::<Row>(&text).unwrap(), row);
        let bytes = postcard::to_extend(&row, Vec::new()).unwrap();
        assert_eq!(postcard::from_bytes::<Row>(&bytes).unwrap(), row);
        assert!(bytes.len() < 30, "{}", bytes.len());
    }
}
