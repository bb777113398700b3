//! Keys that a row claims, as hashes: its row key and each value of its unique keys.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::claim::ImageKeys;
use super::collation::{self, Form, Weights};
use crate::row::Value;
use crate::schema::{ColumnSchema, TableSchema};

/// A key of a table: 128 bits over table, index and values, so that a collision need not be
/// reckoned with (2^-64 at four billion keys in the window).
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Default,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct KeyHash(u128);

impl Hash for KeyHash {
    /// The bits are spread already.
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0 as u64);
    }
}

/// A map by keys, which are hashes by themselves.
pub type KeyMap<V> = HashMap<KeyHash, V, BuildHasherDefault<Spread>>;

/// Takes a [`KeyHash`] as it is.
#[derive(Debug, Default)]
pub struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxhash_rust::xxh3::xxh3_64_with_seed(bytes, self.0);
    }
    fn write_u64(&mut self, bits: u64) {
        self.0 = bits;
    }
}

thread_local! {
    /// The bytes of the key that is being hashed: each row has one or two.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A table, as a hash of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TableHash(u64);

impl TableHash {
    /// Hashes a table's name.
    #[must_use]
    pub fn new(database: &str, table: &str) -> Self {
        let parts = [database.as_bytes(), &[0], table.as_bytes()];
        Self(joined(&parts, xxh3_64))
    }
}

impl KeyHash {
    /// As bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }

    /// As 32 hexadecimal digits.
    #[must_use]
    pub fn to_hex(self) -> String {
        format!("{:032x}", self.0)
    }

    /// The delete of the row at this row key, which a later image does not undo.
    #[must_use]
    pub fn tombstone(self) -> Self {
        self.derived(b"\0gone")
    }

    /// References to the row at this row key.
    #[must_use]
    pub fn referred(self) -> Self {
        self.derived(b"\0referred")
    }

    fn derived(self, what: &[u8]) -> Self {
        Self(joined(&[&self.0.to_le_bytes(), what], xxh3_128))
    }

    /// From [`Self::to_hex`].
    #[must_use]
    pub fn from_hex(digits: &str) -> Option<Self> {
        u128::from_str_radix(digits, 16).ok().map(Self)
    }

    /// Stands for all rows of a table at once, or of a database (with an empty table name): claimed
    /// by DDL that removes or moves rows in a way that cannot be settled.
    #[must_use]
    pub fn whole_table(database: &str, table: &str) -> Self {
        Self::of_table(database, table, b"\0every row")
    }

    /// Stands for the row keys of all rows that a table may have: claimed by TRUNCATE.
    #[must_use]
    pub fn emptied(database: &str, table: &str) -> Self {
        Self::of_table(database, table, b"\0emptied")
    }

    fn of_table(database: &str, table: &str, what: &[u8]) -> Self {
        let table = TableHash::new(database, table).0.to_le_bytes();
        Self(joined(&[&table, what], xxh3_128))
    }
}

/// The hash of these parts as they stand behind each other, at one go: what a hasher needs to take them one
/// by one costs more than to copy them.
fn joined<H>(parts: &[&[u8]], hash: impl FnOnce(&[u8]) -> H) -> H {
    SCRATCH.with_borrow_mut(|bytes| {
        bytes.clear();
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        hash(bytes)
    })
}

/// The keys that a row claims: its row key first, then every unique key without a NULL in it.
///
/// A key is known by the names of its columns, so that it is the same key before and after DDL that
/// makes another one the primary key or adds one in front of it.
///
/// `value` gives the row's value of a column of the schema, or `None` where the image has none (a
/// column that only this node has); a key with such a column is left out. `weights` must hold those
/// of all of the image's texts ([`super::collation::Requests`]).
pub fn row_keys<'v>(
    schema: &TableSchema,
    value: impl Fn(usize) -> Option<&'v Value>,
    weights: &Weights,
    mut claim: impl FnMut(KeyHash),
) {
    let keys = image_keys(schema, value, weights);
    let unique = keys.unique.into_iter().map(|(_, key)| key);
    keys.row.into_iter().chain(unique).for_each(&mut claim);
}

/// The keys of a row image, told apart; `value` as for [`row_keys`].
pub fn image_keys<'v>(
    schema: &TableSchema,
    value: impl Fn(usize) -> Option<&'v Value>,
    weights: &Weights,
) -> ImageKeys {
    let table = TableHash::new(&schema.database, &schema.name);
    let weights = Some(weights);
    let unique = schema.unique_keys.iter().enumerate();
    let unique = unique.filter_map(|(number, key)| {
        let columns = key
            .columns
            .iter()
            .copied()
            .zip(key.prefixes.iter().copied());
        Some((number, hash_key(table, schema, columns, &value, weights)?))
    });
    let row_key = schema.row_key.iter().map(|column| (*column, None));
    ImageKeys {
        unique: unique.collect(),
        row: hash_key(table, schema, row_key, &value, weights),
    }
}

/// The row key alone; `None` where the image does not hold it whole. Texts are told apart by their
/// bytes, whatever the collation says: for use within one group of changes, not for the window.
pub fn row_key<'v>(
    schema: &TableSchema,
    value: impl Fn(usize) -> Option<&'v Value>,
) -> Option<KeyHash> {
    let table = TableHash::new(&schema.database, &schema.name);
    let row_key = schema.row_key.iter().map(|column| (*column, None));
    hash_key(table, schema, row_key, &value, None)
}

/// The key of a table over these columns, whole; `None` where one of them is NULL or missing.
pub(super) fn key_over<'v>(
    schema: &TableSchema,
    columns: &[usize],
    value: impl Fn(usize) -> Option<&'v Value>,
    weights: &Weights,
) -> Option<KeyHash> {
    let table = TableHash::new(&schema.database, &schema.name);
    let columns = columns.iter().map(|column| (*column, None));
    hash_key(table, schema, columns, &value, Some(weights))
}

/// Columns come with the length of their prefix that the key holds.
fn hash_key<'v>(
    table: TableHash,
    schema: &TableSchema,
    columns: impl Iterator<Item = (usize, Option<u32>)>,
    value: &impl Fn(usize) -> Option<&'v Value>,
    weights: Option<&Weights>,
) -> Option<KeyHash> {
    SCRATCH.with_borrow_mut(|bytes| {
        bytes.clear();
        push_key(bytes, table, schema, columns, value, weights).then(|| KeyHash(xxh3_128(bytes)))
    })
}

/// Says whether it is a key: it has columns, and none of them is NULL or missing.
fn push_key<'v>(
    bytes: &mut Vec<u8>,
    table: TableHash,
    schema: &TableSchema,
    columns: impl Iterator<Item = (usize, Option<u32>)>,
    value: &impl Fn(usize) -> Option<&'v Value>,
    weights: Option<&Weights>,
) -> bool {
    bytes.extend_from_slice(&table.0.to_le_bytes());
    let mut empty = true;
    for (index, prefix) in columns {
        empty = false;
        let (Some(column), Some(value)) = (schema.columns.get(index), value(index)) else {
            return false;
        };
        let name = bytes.len();
        bytes.extend_from_slice(column.name.as_bytes());
        bytes[name..].make_ascii_lowercase();
        bytes.push(0);
        match value {
            // SQL's unique keys let NULLs stand beside each other.
            Value::Null => return false,
            // A log without metadata does not say that a column is unsigned; the schema does.
            Value::Int(number) if column.unsigned => {
                bytes.extend_from_slice(&column.as_unsigned(*number).to_le_bytes());
            }
            Value::Bytes(text) => push_text(column, prefix, text, weights, bytes),
            value => push_value(value, bytes),
        }
    }
    !empty
}

/// Adds a text as its column compares it.
fn push_text(
    column: &ColumnSchema,
    prefix: Option<u32>,
    text: &[u8],
    weights: Option<&Weights>,
    bytes: &mut Vec<u8>,
) {
    let form = match weights {
        Some(_) => collation::form(column, prefix),
        None => Form::Bytes(None),
    };
    let text = match form {
        Form::Weights => {
            let weight = weights.and_then(|weights| weights.of(column, prefix, text));
            debug_assert!(weight.is_some(), "a text was not asked for");
            if let Some(weight) = weight {
                bytes.extend_from_slice(&weight.to_le_bytes());
                return;
            }
            text
        }
        Form::Padded => {
            let spaces = text.iter().rev().take_while(|byte| **byte == b' ').count();
            &text[..text.len() - spaces]
        }
        Form::Bytes(Some(length)) => text.get(..length as usize).unwrap_or(text),
        Form::Bytes(None) => text,
    };
    bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
    bytes.extend_from_slice(text);
}

/// Adds a value so that equal keys are alike and neighbouring values cannot run together.
fn push_value(value: &Value, bytes: &mut Vec<u8>) {
    match value {
        Value::Int(number) => bytes.extend_from_slice(&number.to_le_bytes()),
        Value::UInt(number) | Value::Bit(number) | Value::Set(number) => {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        Value::Decimal(digits) => {
            bytes.extend_from_slice(&(digits.len() as u64).to_le_bytes());
            bytes.extend_from_slice(digits.as_bytes());
        }
        // Negative zero equals zero as a key.
        Value::Float(number) => bytes.extend_from_slice(&(number + 0.0).to_le_bytes()),
        Value::Double(number) => bytes.extend_from_slice(&(number + 0.0).to_le_bytes()),
        other => {
            // Texts come another way. The temporal kinds, YEAR and ENUM; JSON cannot be a key.
            bytes.extend_from_slice(format!("{other:?}").as_bytes());
            bytes.push(0xff);
        }
    }
}

#[cfg(test)]
mod tests {
    use xxhash_rust::xxh3::Xxh3;

    use super::*;

    /// Hashes of keys are kept on disk and in journals, and each has that of its table in it.
    #[test]
    fn a_table_has_the_hash_that_it_had() {
        for (database, table) in [("d", "t"), ("", ""), ("d", &"t".repeat(256))] {
            let mut parts = Xxh3::new();
            for part in [database.as_bytes(), &[0], table.as_bytes()] {
                parts.update(part);
            }
            assert_eq!(TableHash::new(database, table).0, parts.digest());
            let emptied = of_parts(&parts.digest().to_le_bytes(), b"\0emptied");
            assert_eq!(KeyHash::emptied(database, table), emptied);
        }
        let (row, gone) = (KeyHash(7), of_parts(&7_u128.to_le_bytes(), b"\0gone"));
        assert_eq!(row.tombstone(), gone);
    }

    fn of_parts(one: &[u8], other: &[u8]) -> KeyHash {
        let mut parts = Xxh3::new();
        parts.update(one);
        parts.update(other);
        KeyHash(parts.digest128())
    }
}
