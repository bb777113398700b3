//! JSON documents as SQL expressions that give exactly the same document.

use super::json::Node;
use super::reader::{Reader, Result, malformed};
use super::value;
use crate::apply::literal;
use crate::row::Value;

/// Appends the expression. Parts that JSON text keeps exactly travel as text; the others are built
/// by JSON_OBJECT and JSON_ARRAY around SQL values.
pub(super) fn write(node: &Node, out: &mut Vec<u8>) -> Result<()> {
    if survives_text(node) {
        return write_cast(node, out);
    }
    match node {
        Node::Array(_) | Node::Object(_) => write_argument(node, out),
        _ => {
            // CAST takes an SQL value as it is.
            out.extend_from_slice(b"CAST(");
            write_argument(node, out)?;
            out.extend_from_slice(b" AS JSON)");
            Ok(())
        }
    }
}

/// Whether the server's JSON parser gives back the very same node: it knows no SQL types, and takes
/// whole numbers for unsigned exactly when they are greater than 32 bits hold.
fn survives_text(node: &Node) -> bool {
    match node {
        Node::Null | Node::Bool(_) | Node::String(_) => true,
        Node::Int(value) => *value <= i64::from(u32::MAX),
        Node::UInt(value) => *value > u64::from(u32::MAX),
        Node::Double(_) | Node::Opaque(..) => false,
        Node::Array(cells) => cells.iter().all(survives_text),
        Node::Object(members) => members.iter().all(|(_, value)| survives_text(value)),
    }
}

fn write_cast(node: &Node, out: &mut Vec<u8>) -> Result<()> {
    let mut text = Vec::new();
    write_text(node, &mut text);
    out.extend_from_slice(b"CAST(_utf8mb4");
    literal::write_quoted(out, &text);
    out.extend_from_slice(b" AS JSON)");
    Ok(())
}

fn write_text(node: &Node, text: &mut Vec<u8>) {
    match node {
        Node::Null | Node::Double(_) | Node::Opaque(..) => text.extend_from_slice(b"null"),
        Node::Bool(true) => text.extend_from_slice(b"true"),
        Node::Bool(false) => text.extend_from_slice(b"false"),
        Node::Int(value) => text.extend_from_slice(value.to_string().as_bytes()),
        Node::UInt(value) => text.extend_from_slice(value.to_string().as_bytes()),
        Node::String(string) => write_json_string(string, text),
        Node::Array(cells) => {
            text.push(b'[');
            for (index, cell) in cells.iter().enumerate() {
                if index > 0 {
                    text.push(b',');
                }
                write_text(cell, text);
            }
            text.push(b']');
        }
        Node::Object(members) => {
            text.push(b'{');
            for (index, (key, value)) in members.iter().enumerate() {
                if index > 0 {
                    text.push(b',');
                }
                write_json_string(key, text);
                text.push(b':');
                write_text(value, text);
            }
            text.push(b'}');
        }
    }
}

fn write_json_string(string: &str, text: &mut Vec<u8>) {
    text.push(b'"');
    for byte in string.bytes() {
        match byte {
            b'"' | b'\\' => text.extend_from_slice(&[b'\\', byte]),
            0..=31 => text.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => text.push(byte),
        }
    }
    text.push(b'"');
}

/// Appends an SQL value that becomes the node as an argument of JSON_ARRAY or JSON_OBJECT.
fn write_argument(node: &Node, out: &mut Vec<u8>) -> Result<()> {
    match node {
        Node::Null => out.extend_from_slice(b"NULL"),
        Node::Bool(true) => out.extend_from_slice(b"TRUE"),
        Node::Bool(false) => out.extend_from_slice(b"FALSE"),
        Node::UInt(value) => {
            out.extend_from_slice(format!("CAST({value} AS UNSIGNED)").as_bytes());
        }
        Node::Double(value) => literal::write_double(out, *value),
        Node::String(string) => {
            out.extend_from_slice(b"_utf8mb4");
            literal::write_quoted(out, string.as_bytes());
        }
        Node::Opaque(field_type, bytes) => write_opaque(*field_type, bytes, out)?,
        Node::Int(value) => out.extend_from_slice(value.to_string().as_bytes()),
        _ if survives_text(node) => write_cast(node, out)?,
        Node::Array(cells) => {
            out.extend_from_slice(b"JSON_ARRAY(");
            for (index, cell) in cells.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_argument(cell, out)?;
            }
            out.push(b')');
        }
        Node::Object(members) => {
            out.extend_from_slice(b"JSON_OBJECT(");
            for (index, (key, value)) in members.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                out.extend_from_slice(b"_utf8mb4");
                literal::write_quoted(out, key.as_bytes());
                out.push(b',');
                write_argument(value, out)?;
            }
            out.push(b')');
        }
    }
    Ok(())
}

/// Appends an SQL value of the type that the part has. The server remembers the type's number, so
/// types that CAST cannot name come from a column of a JSON_TABLE.
fn write_opaque(field_type: u8, bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let mut reader = Reader::new(bytes);
    match field_type {
        246 => {
            let (precision, scale) = (reader.u8()?, reader.u8()?);
            let digits = value::decimal(&mut reader, precision, scale)?;
            // The server keeps the precision too: a literal has as many digits as it is written
            // with, a cast those of the type.
            let (sign, rest) = match digits.strip_prefix('-') {
                Some(rest) => ("-", rest),
                None => ("", &*digits),
            };
            let whole = rest.split('.').next().unwrap_or("");
            let literal = match usize::from(precision) - usize::from(scale) {
                0 if whole == "0" => format!("{sign}{}", &rest[1..]),
                digits_before if digits_before == whole.len() => digits.to_string(),
                _ => format!("CAST({digits} AS DECIMAL({precision},{scale}))"),
            };
            out.extend_from_slice(literal.as_bytes());
            Ok(())
        }
        7 | 10..=12 => write_opaque_temporal(field_type, reader.u64()? as i64, out),
        15 => {
            literal::write_hex(out, bytes, bytes.len());
            Ok(())
        }
        16 => {
            let bits = bytes.len() * 8;
            if !(1..=8).contains(&bytes.len()) {
                return malformed(format!("JSON: BIT({bits})"));
            }
            let number = reader.uint_be(bytes.len())?;
            write_column(out, &format!("BIT({bits})"), |out| {
                out.extend_from_slice(number.to_string().as_bytes());
            });
            Ok(())
        }
        249..=252 | 254 => {
            let column = match field_type {
                249 => "TINYBLOB".to_owned(),
                250 => "MEDIUMBLOB".to_owned(),
                251 => "LONGBLOB".to_owned(),
                252 => "BLOB".to_owned(),
                _ => format!("BINARY({})", bytes.len()),
            };
            write_column(out, &column, |out| {
                literal::write_hex(out, bytes, bytes.len())
            });
            Ok(())
        }
        _ => malformed(format!(
            "the JSON document holds a value of the SQL type number {field_type}, which no SQL \
             expression makes: convert it to text or a number before it is stored"
        )),
    }
}

/// TIMESTAMP, DATE, TIME, DATETIME: 24 bits of microseconds below the packed value.
fn write_opaque_temporal(field_type: u8, packed: i64, out: &mut Vec<u8>) -> Result<()> {
    let magnitude = packed.unsigned_abs();
    let micros = (magnitude & 0xff_ffff) as u32;
    let whole = magnitude >> 24;
    if micros > 999_999 {
        return malformed(format!("JSON: a fraction of {micros} microseconds"));
    }
    if field_type == 11 {
        let value = Value::Time {
            negative: packed < 0,
            hours: (whole >> 12) as u16 & 1023,
            minutes: (whole >> 6) as u8 & 63,
            seconds: whole as u8 & 63,
            micros,
        };
        out.extend_from_slice(b"CAST(");
        literal::write_temporal(out, &value);
        out.extend_from_slice(b" AS TIME(6))");
        return Ok(());
    }
    let value = value::datetime(whole, micros);
    if field_type == 7 {
        write_column(out, "TIMESTAMP(6)", |out| {
            literal::write_temporal(out, &value);
        });
        return Ok(());
    }
    out.extend_from_slice(b"CAST(");
    literal::write_temporal(out, &value);
    out.extend_from_slice(if field_type == 10 {
        &b" AS DATE)"[..]
    } else {
        b" AS DATETIME(6))"
    });
    Ok(())
}

/// Appends a JSON value that was a column of the type once.
fn write_column(out: &mut Vec<u8>, column_type: &str, value: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(
        b"(SELECT JSON_EXTRACT(JSON_ARRAY(c),'$[0]') FROM JSON_TABLE(JSON_ARRAY(",
    );
    value(out);
    out.extend_from_slice(b"),'$[*]' COLUMNS(c ");
    out.extend_from_slice(column_type.as_bytes());
    out.extend_from_slice(b" PATH '$')) AS t)");
}
