//! Row images as the journal keeps them: for each column the text of an SQL literal, or null.
//!
//! The server makes the texts, from a column of a stored row or from a literal of the log's image,
//! with the same expression for both, so that the same value reads the same and both can be put
//! side by side. Each text stands for its value in a statement under the session settings of
//! [`super::literal::SESSION_SETTINGS`].

use super::mapping::Mapping;
use super::statement::StatementWriter;
use crate::connection::{quote_identifier, quote_string};
use crate::error::Result;
use crate::row::{Row, Value};
use crate::schema::{ColumnSchema, TableSchema};

/// Longest value, in bytes, that the journal takes whole: a row of large ones would not fit into a
/// packet. Of a longer one it says how long it is.
const LONGEST: usize = 256 * 1024;
/// How the text begins that stands for a value that was left out. No literal begins so.
pub(crate) const LEFT_OUT: &str = "/*";

/// The expression that reads a stored row as a journal image: a JSON array in the order of the
/// table's columns.
#[must_use]
pub(crate) fn of_stored_row(table: &TableSchema) -> String {
    let texts = table.columns.iter().map(|column| {
        let operand = quote_identifier(&column.name);
        guarded(column, operand.as_bytes(), true)
    });
    let texts: Vec<Vec<u8>> = texts.collect();
    // Names are text, so the whole is.
    String::from_utf8_lossy(&array(&texts)).into_owned()
}

/// The expression for an image of the log, aligned to the table's columns. Columns that the image
/// does not have read as null.
///
/// # Errors
/// [`crate::Error::Unsupported`] where a value has no literal.
pub(super) fn of_log_image(
    mapping: &Mapping,
    writer: &StatementWriter<'_>,
    row: &Row,
) -> Result<Vec<u8>> {
    let mut texts = Vec::with_capacity(mapping.target.columns.len());
    for (target, column) in mapping.target.columns.iter().enumerate() {
        let Some(source) = mapping.image_index(target) else {
            texts.push(b"NULL".to_vec());
            continue;
        };
        let text = match row.get(source) {
            None | Some(Value::Null) => b"NULL".to_vec(),
            Some(Value::Enum(number)) => label(column, |index| index + 1 == usize::from(*number)),
            Some(Value::Set(bits)) => label(column, |index| bits & (1_u64 << (index & 63)) != 0),
            Some(Value::Bytes(bytes)) if bytes.len() > LONGEST => {
                format!("'{LEFT_OUT} {} bytes left out */'", bytes.len()).into_bytes()
            }
            Some(_) => {
                let mut operand = Vec::new();
                writer.push_literal(&mut operand, row, source, target)?;
                guarded(column, &operand, false)
            }
        };
        texts.push(text);
    }
    Ok(array(&texts))
}

/// Names of the table's columns as a JSON array.
#[must_use]
pub(super) fn columns(mapping: &Mapping) -> String {
    columns_of(&mapping.target)
}

/// Likewise of any table.
#[must_use]
pub(super) fn columns_of(table: &TableSchema) -> String {
    names(table.columns.iter())
}

/// Names of the row key's columns as a JSON array.
#[must_use]
pub(super) fn key_columns(mapping: &Mapping) -> String {
    key_columns_of(&mapping.target)
}

/// Likewise of any table.
#[must_use]
pub(super) fn key_columns_of(table: &TableSchema) -> String {
    let key = table.row_key.iter();
    names(key.filter_map(|index| table.columns.get(*index)))
}

fn names<'c>(columns: impl Iterator<Item = &'c ColumnSchema>) -> String {
    let names: Vec<&str> = columns.map(|column| column.name.as_str()).collect();
    serde_json::Value::from(names).to_string()
}

fn array(texts: &[Vec<u8>]) -> Vec<u8> {
    let mut out = b"JSON_ARRAY(".to_vec();
    out.extend_from_slice(&texts.join(&b","[..]));
    out.push(b')');
    out
}

/// [`literal`], and null for NULL: QUOTE would make a text of it.
fn guarded(column: &ColumnSchema, operand: &[u8], stored: bool) -> Vec<u8> {
    let text = literal(column, operand, stored);
    if !stored {
        return text;
    }
    let length = [b"LENGTH(", operand, b")"].concat();
    let left_out = [
        format!("CONCAT('{LEFT_OUT} ',").as_bytes(),
        &length,
        b",' bytes left out */')",
    ]
    .concat();
    let longer = [&length[..], format!(">{LONGEST}").as_bytes()].concat();
    let text = [b"IF(", &longer[..], b",", &left_out, b",", &text, b")"].concat();
    [b"IF(", operand, b" IS NULL,NULL,", &text, b")"].concat()
}

/// An expression whose value is the text of a literal for `operand`.
fn literal(column: &ColumnSchema, operand: &[u8], stored: bool) -> Vec<u8> {
    let around =
        |before: &str, after: &str| [before.as_bytes(), operand, after.as_bytes()].concat();
    let kind = column.data_type.as_str();
    match kind {
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "decimal" | "double" | "year" => {
            around("CAST(", " AS CHAR)")
        }
        // As a float it would be printed with six digits.
        "float" => around("CAST(CAST(", " AS DOUBLE) AS CHAR)"),
        "bit" => around("CONCAT('b''',BIN(", "+0),'''')"),
        "date" | "time" | "datetime" | "timestamp" if !stored => {
            let cast = match kind {
                "date" => "DATE".to_owned(),
                "time" => format!("TIME({})", fraction(column)),
                _ => format!("DATETIME({})", fraction(column)),
            };
            // A date that the cast does not know (0000-00-00) stays as the log has it.
            let mut out = around(
                "QUOTE(COALESCE(CAST(CAST(",
                &format!(" AS {cast}) AS CHAR),"),
            );
            out.extend_from_slice(operand);
            out.extend_from_slice(b"))");
            out
        }
        "date" | "time" | "datetime" | "timestamp" => around("QUOTE(CAST(", " AS CHAR))"),
        _ if column.charset.as_deref().is_some_and(|set| set != "binary") || kind == "json" => {
            around("QUOTE(CONVERT(", " USING utf8mb4))")
        }
        "uuid" | "inet6" | "inet4" if stored => around("QUOTE(CAST(", " AS CHAR))"),
        "uuid" | "inet6" | "inet4" => around("QUOTE(", ")"),
        _ => around("CONCAT('X''',HEX(", "),'''')"),
    }
}

/// Digits behind the second.
fn fraction(column: &ColumnSchema) -> u8 {
    let digits = column.column_type.split_once('(');
    digits
        .and_then(|(_, rest)| rest.bytes().next())
        .filter(u8::is_ascii_digit)
        .map_or(0, |digit| digit - b'0')
}

/// The labels of an ENUM or SET that are `chosen` by their index, as the server would quote them.
fn label(column: &ColumnSchema, chosen: impl Fn(usize) -> bool) -> Vec<u8> {
    let labels = column.labels();
    let chosen: Vec<&str> = labels
        .iter()
        .enumerate()
        .filter(|(index, _)| chosen(*index))
        .map(|(_, label)| label.as_str())
        .collect();
    format!("QUOTE({})", quote_string(&chosen.join(","))).into_bytes()
}
