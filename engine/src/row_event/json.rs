//! A JSON document to MySQL's binary form (`sql-common/json_binary.cc`), for documents that the log has as
//! differences only.

use crate::decode::json::Node;

/// Containers whose offsets have two bytes hold no more than this; others have four.
const SMALL: usize = u16::MAX as usize;

/// The document as the server stores it.
///
/// # Errors
/// Why it has no such form: a member's name or a container of a size that the server does not take either.
pub(super) fn write(root: &Node) -> Result<Vec<u8>, String> {
    let mut out = vec![0];
    match value(&mut out, root, false)? {
        Some(kind) => out[0] = kind,
        None => return Err("a JSON document of more than 4 GiB".to_owned()),
    }
    Ok(out)
}

/// Appends a value without its type; gives the type. `small`: it stands within a small container, so that a container
/// of its own has to be small too; `None` where it does not fit then.
fn value(out: &mut Vec<u8>, node: &Node, small: bool) -> Result<Option<u8>, String> {
    Ok(Some(match node {
        Node::Null => literal(out, 0),
        Node::Bool(true) => literal(out, 1),
        Node::Bool(false) => literal(out, 2),
        Node::Int(number) => {
            if let Ok(number) = i16::try_from(*number) {
                out.extend_from_slice(&number.to_le_bytes());
                5
            } else if let Ok(number) = i32::try_from(*number) {
                out.extend_from_slice(&number.to_le_bytes());
                7
            } else {
                out.extend_from_slice(&number.to_le_bytes());
                9
            }
        }
        Node::UInt(number) => {
            if let Ok(number) = u16::try_from(*number) {
                out.extend_from_slice(&number.to_le_bytes());
                6
            } else if let Ok(number) = u32::try_from(*number) {
                out.extend_from_slice(&number.to_le_bytes());
                8
            } else {
                out.extend_from_slice(&number.to_le_bytes());
                10
            }
        }
        Node::Double(number) => {
            out.extend_from_slice(&number.to_le_bytes());
            11
        }
        Node::String(text) => {
            variable_length(out, text.len());
            out.extend_from_slice(text.as_bytes());
            12
        }
        Node::Opaque(field_type, bytes) => {
            out.push(*field_type);
            variable_length(out, bytes.len());
            out.extend_from_slice(bytes);
            15
        }
        Node::Object(members) => {
            let names = members.iter().map(|(name, _)| Some(&**name));
            let values = members.iter().map(|(_, value)| value);
            return container(out, &names.zip(values).collect::<Vec<_>>(), 0, small);
        }
        Node::Array(cells) => {
            let cells = cells.iter().map(|cell| (None, cell));
            return container(out, &cells.collect::<Vec<_>>(), 2, small);
        }
    }))
}

fn literal(out: &mut Vec<u8>, number: u8) -> u8 {
    out.push(number);
    4
}

/// Seven bits a byte, the lowest first, the high bit set while more follow.
fn variable_length(out: &mut Vec<u8>, mut length: usize) {
    loop {
        let low = (length & 0x7f) as u8;
        length >>= 7;
        if length == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Appends an object or array, small if it fits; `kind` is the type that it has then, and one more is that of a large
/// one. `small`: only a small one will do.
fn container(
    out: &mut Vec<u8>,
    parts: &[(Option<&str>, &Node)],
    kind: u8,
    small: bool,
) -> Result<Option<u8>, String> {
    let start = out.len();
    if container_of(out, parts, 2)? {
        return Ok(Some(kind));
    }
    out.truncate(start);
    let fits = !small && container_of(out, parts, 4)?;
    Ok(fits.then_some(kind + 1))
}

/// Whether the parts fit with offsets of so many bytes: number of parts and bytes of it all; for each member where
/// its name is, and how long; for each part its type, and where it is or what it is; names; parts.
fn container_of(
    out: &mut Vec<u8>,
    parts: &[(Option<&str>, &Node)],
    width: usize,
) -> Result<bool, String> {
    let start = out.len();
    let most = if width == 2 { SMALL } else { u32::MAX as usize };
    let put = |out: &mut [u8], at: usize, number: usize| {
        out[at..at + width].copy_from_slice(&(number as u64).to_le_bytes()[..width]);
    };
    let names: usize = parts.iter().filter(|(name, _)| name.is_some()).count();
    let entries = start + 2 * width;
    let values = entries + names * (width + 2);
    out.resize(values + parts.len() * (1 + width), 0);
    put(out, start, parts.len().min(most));
    let mut entry = entries;
    for name in parts.iter().filter_map(|(name, _)| *name) {
        let offset = out.len() - start;
        if offset > most {
            return Ok(false);
        }
        let length = u16::try_from(name.len())
            .map_err(|_| "a JSON member's name of more than 64 KiB".to_owned())?;
        put(out, entry, offset);
        out[entry + width..entry + width + 2].copy_from_slice(&length.to_le_bytes());
        entry += width + 2;
        out.extend_from_slice(name.as_bytes());
    }
    let mut entry = values;
    for (_, part) in parts {
        let offset = out.len();
        if offset - start > most {
            return Ok(false);
        }
        let Some(kind) = value(out, part, width == 2)? else {
            return Ok(false);
        };
        out[entry] = kind;
        if matches!(kind, 4..=6) || (width == 4 && matches!(kind, 7 | 8)) {
            // It is its own offset.
            let inlined = out.split_off(offset);
            out[entry + 1..entry + 1 + inlined.len()].copy_from_slice(&inlined);
        } else {
            put(out, entry + 1, offset - start);
        }
        entry += 1 + width;
    }
    let size = out.len() - start;
    if size > most || parts.len() > most {
        return Ok(false);
    }
    put(out, start + width, size);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::captured::{MYSQL, decode_all};
    use crate::decode::event::{Event, Flavor};
    use crate::decode::json::Json;
    use crate::row::{RowChange, Value};

    fn comes_back(node: &Node) {
        let stored = write(node).unwrap();
        let read = Json::new(&stored);
        assert_eq!(&*read.tree().unwrap(), node);
    }

    #[test]
    fn documents_of_the_server_are_written_as_it_stores_them() {
        let (mut alike, mut others) = (0, 0);
        for event in decode_all(Flavor::MySql, MYSQL) {
            let Event::Rows { changes, .. } = event else {
                continue;
            };
            for value in changes.iter().flat_map(RowChange::images).flatten() {
                let Value::Json(document) = value else {
                    continue;
                };
                let tree = document.tree().unwrap();
                comes_back(&tree);
                // What was updated in place has room to spare.
                match document.stored() {
                    Some(stored) if stored == write(&tree).unwrap() => alike += 1,
                    _ => others += 1,
                }
            }
        }
        assert!(alike > 10 && others < alike, "{alike} and {others}");
    }

    #[test]
    fn sizes_at_which_the_form_changes() {
        let text = |length: usize| Node::String("x".repeat(length).into());
        for length in [
            0, 1, 127, 128, 16_383, 16_384, 65_500, 65_535, 70_000, 2_097_152,
        ] {
            comes_back(&text(length));
            comes_back(&Node::Array(vec![
                text(length),
                Node::Int(-40_000),
                Node::UInt(70_000),
            ]));
            let member = ("name".into(), text(length));
            comes_back(&Node::Object(vec![
                (
                    "a".into(),
                    Node::Array(vec![Node::Null, Node::Bool(true), Node::Bool(false)]),
                ),
                member,
                (
                    "other".into(),
                    Node::Opaque(246, Box::from(*b"\x05\x02\x80")),
                ),
            ]));
        }
        let many: Vec<Node> = (0..30_000).map(Node::Int).collect();
        comes_back(&Node::Array(many));
        for number in [i64::MIN, -32_769, -1, 32_767, 32_768, 1 << 31, i64::MAX] {
            comes_back(&Node::Array(vec![
                Node::Int(number),
                Node::UInt(number.cast_unsigned()),
            ]));
        }
        // Trying each level both ways would take a while.
        let deep = (0..90).fold(text(70_000), |inner, _| {
            Node::Array(vec![inner, Node::Null])
        });
        comes_back(&deep);
        comes_back(&Node::Object(Vec::new()));
        comes_back(&Node::Double(-0.0));
        let named = |length: usize| Node::Object(vec![("x".repeat(length).into(), Node::Null)]);
        comes_back(&named(65_535));
        assert!(write(&named(65_536)).is_err());
    }
}
