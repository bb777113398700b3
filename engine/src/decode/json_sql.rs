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

/// Whether the server's JSON parser gives back the very same node: it knows neither SQL types nor
/// unsigned numbers that would fit a signed one.
fn survives_text(node: &Node) -> bool {
    match node {
        Node::Null | Node::Bool(_) | Node::Int(_) | Node::String(_) => true,
        Node::UInt(value) => *value > i64::MAX as u64,
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

fn write_opaque(field_type: u8, bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let mut reader = Reader::new(bytes);
    match field_type {
        246 => {
            let (precision, scale) = (reader.u8()?, reader.u8()?);
            let digits = value::decimal(&mut reader, precision, scale)?;
            let cast = format!("CAST({digits} AS DECIMAL({precision},{scale}))");
            out.extend_from_slice(cast.as_bytes());
        }
        // TIMESTAMP, DATE, TIME, DATETIME: 24 bits of microseconds below the packed value.
        7 | 10..=12 => {
            let packed = reader.u64()? as i64;
            let magnitude = packed.unsigned_abs();
            let micros = (magnitude & 0xff_ffff) as u32;
            let whole = magnitude >> 24;
            let (value, cast) = match field_type {
                11 => (
                    Value::Time {
                        negative: packed < 0,
                        hours: (whole >> 12) as u16 & 1023,
                        minutes: (whole >> 6) as u8 & 63,
                        seconds: whole as u8 & 63,
                        micros,
                    },
                    "TIME(6)",
                ),
                10 => (value::datetime(whole, micros), "DATE"),
                12 => (value::datetime(whole, micros), "DATETIME(6)"),
                _ => return unsupported(field_type),
            };
            out.extend_from_slice(b"CAST(");
            literal::write_temporal(out, &value);
            out.extend_from_slice(format!(" AS {cast})").as_bytes());
        }
        _ => return unsupported(field_type),
    }
    Ok(())
}

fn unsupported(field_type: u8) -> Result<()> {
    malformed(format!(
        "the JSON document holds a value of the SQL type number {field_type}, which no SQL \
         expression makes: convert it to text or a number before it is stored"
    ))
}
