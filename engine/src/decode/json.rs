//! MySQL's binary JSON: read, changed by the differences of partial updates.
//!
//! [`super::json_sql`] turns documents into SQL.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::reader::{DecodeError, Reader, Result, malformed, utf8};

/// A JSON document as the binlog carries it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Json(Document);

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Document {
    /// As the server stores it.
    Stored(Box<[u8]>),
    /// After a partial update. Boxed to keep every [`crate::row::Value`] small.
    Tree(Box<Tree>),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Tree {
    root: Node,
    /// Bytes, roughly.
    weight: usize,
}

/// A part of a document.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Node {
    Null,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Double(f64),
    String(Box<str>),
    Array(Vec<Node>),
    /// In the server's order of keys: by length, then by bytes.
    Object(Vec<(Box<str>, Node)>),
    /// A value of an SQL type, with MySQL's number for the type.
    Opaque(u8, Box<[u8]>),
}

/// The server's limit is 100.
const MAX_DEPTH: usize = 101;

/// Numbers by their bits, so that a zero and its negative differ.
impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Node::Null, Node::Null) => true,
            (Node::Bool(one), Node::Bool(two)) => one == two,
            (Node::Int(one), Node::Int(two)) => one == two,
            (Node::UInt(one), Node::UInt(two)) => one == two,
            (Node::Double(one), Node::Double(two)) => one.to_bits() == two.to_bits(),
            (Node::String(one), Node::String(two)) => one == two,
            (Node::Array(one), Node::Array(two)) => one == two,
            (Node::Object(one), Node::Object(two)) => one == two,
            (Node::Opaque(kind, one), Node::Opaque(other, two)) => (kind, one) == (other, two),
            _ => false,
        }
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Document::Stored(one), Document::Stored(two)) if one == two => true,
            _ => match (self.tree(), other.tree()) {
                (Ok(one), Ok(two)) => one == two,
                _ => false,
            },
        }
    }
}

impl Json {
    /// Takes a document as stored; it is read when it is used.
    pub(crate) fn new(stored: &[u8]) -> Self {
        Self(Document::Stored(stored.into()))
    }

    /// Memory that the document takes, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        match &self.0 {
            Document::Stored(bytes) => bytes.len(),
            Document::Tree(tree) => tree.weight,
        }
    }

    /// The document as the server stores it, where the log has it so.
    pub(crate) fn stored(&self) -> Option<&[u8]> {
        match &self.0 {
            Document::Stored(bytes) => Some(bytes),
            Document::Tree(_) => None,
        }
    }

    /// The bytes of a document that is as stored.
    pub(crate) fn stored_mut(&mut self) -> Option<&mut Box<[u8]>> {
        match &mut self.0 {
            Document::Stored(bytes) => Some(bytes),
            Document::Tree(_) => None,
        }
    }

    /// Appends an SQL expression that gives exactly this document on MySQL: the same values of the
    /// same types, DECIMAL, temporal and binary values inside included.
    ///
    /// # Errors
    /// The document is damaged, or holds a value that no SQL expression makes.
    pub fn write_sql_expr(&self, out: &mut Vec<u8>) -> Result<()> {
        super::json_sql::write(&*self.tree()?, out)
    }

    /// The document by its parts.
    ///
    /// # Errors
    /// It is damaged.
    pub(crate) fn tree(&self) -> Result<Cow<'_, Node>> {
        match &self.0 {
            Document::Stored(bytes) => Ok(Cow::Owned(parse(bytes)?)),
            Document::Tree(tree) => Ok(Cow::Borrowed(&tree.root)),
        }
    }

    /// The document that a partial update makes of this one.
    pub(super) fn patched(&self, differences: &[u8]) -> Result<Self> {
        const REPLACE: u8 = 0;
        const INSERT: u8 = 1;
        const REMOVE: u8 = 2;
        if differences.is_empty() {
            return Ok(self.clone());
        }
        let mut root = self.tree()?.into_owned();
        let mut reader = Reader::new(differences);
        while !reader.is_empty() {
            let operation = reader.u8()?;
            let length = reader.length()?;
            let path = utf8(reader.bytes(length)?)?;
            let value = if operation == REMOVE {
                None
            } else {
                let length = reader.length()?;
                Some(parse(reader.bytes(length)?)?)
            };
            let legs = parse_path(path)?;
            let done = match (operation, value) {
                (REPLACE, Some(value)) => replace(&mut root, &legs, value),
                (INSERT, Some(value)) => insert(&mut root, &legs, value),
                (REMOVE, None) => remove(&mut root, &legs),
                _ => return malformed(format!("change {operation} of a JSON document")),
            };
            if done.is_none() {
                return malformed(format!(
                    "a change of a JSON document at {path} does not fit the before image"
                ));
            }
        }
        let weight = self.weight() + differences.len();
        Ok(Self(Document::Tree(Box::new(Tree { root, weight }))))
    }
}

/// Reads a stored document.
fn parse(bytes: &[u8]) -> Result<Node> {
    // The server takes an empty value for null.
    let Some((kind, rest)) = bytes.split_first() else {
        return Ok(Node::Null);
    };
    // Each part takes at least two bytes in a sound document; damaged offsets must not make one
    // part count many times over.
    let mut budget = bytes.len();
    parse_value(*kind, rest, MAX_DEPTH, &mut budget)
        .map_err(|error| DecodeError(format!("JSON: {error}")))
}

fn parse_value(kind: u8, bytes: &[u8], depth: usize, budget: &mut usize) -> Result<Node> {
    let Some(left) = budget.checked_sub(1) else {
        return malformed("the document's parts overlap");
    };
    *budget = left;
    let mut reader = Reader::new(bytes);
    Ok(match kind {
        0..=3 => {
            let Some(depth) = depth.checked_sub(1) else {
                return malformed("the document is nested too deeply");
            };
            let (large, object) = (kind & 1 != 0, kind < 2);
            return parse_container(bytes, large, object, depth, budget);
        }
        4 => match reader.u8()? {
            0 => Node::Null,
            1 => Node::Bool(true),
            2 => Node::Bool(false),
            other => return malformed(format!("literal {other}")),
        },
        5 => Node::Int(i64::from(reader.u16()? as i16)),
        6 => Node::UInt(u64::from(reader.u16()?)),
        7 => Node::Int(i64::from(reader.u32()? as i32)),
        8 => Node::UInt(u64::from(reader.u32()?)),
        9 => Node::Int(reader.u64()? as i64),
        10 => Node::UInt(reader.u64()?),
        11 => Node::Double(f64::from_le_bytes(reader.array()?)),
        12 => {
            let length = variable_length(&mut reader)?;
            Node::String(utf8(reader.bytes(length)?)?.into())
        }
        15 => {
            let field_type = reader.u8()?;
            let length = variable_length(&mut reader)?;
            Node::Opaque(field_type, reader.bytes(length)?.into())
        }
        other => return malformed(format!("type {other}")),
    })
}

/// Seven bits a byte, the lowest first, the high bit set while more follow.
fn variable_length(reader: &mut Reader<'_>) -> Result<usize> {
    let mut length = 0;
    for shift in [0, 7, 14, 21, 28] {
        let byte = reader.u8()?;
        length |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return usize::try_from(length)
                .map_err(|_| DecodeError(format!("a length of {length}")));
        }
    }
    malformed("a length of more than five bytes")
}

fn parse_container(
    bytes: &[u8],
    large: bool,
    object: bool,
    depth: usize,
    budget: &mut usize,
) -> Result<Node> {
    let width = if large { 4 } else { 2 };
    let mut header = Reader::new(bytes);
    let count = header.uint(width)? as usize;
    let size = header.uint(width)? as usize;
    let Some(bytes) = bytes.get(..size) else {
        return malformed(format!("a part of {size} bytes"));
    };
    let part = |offset: usize| match bytes.get(offset..) {
        Some(part) => Ok(part),
        None => malformed(format!("a part at {offset}")),
    };
    let mut header = Reader::new(part(2 * width)?);
    // The smallest entry has three bytes: more of them cannot be there, whatever the count says.
    if count > bytes.len() / 3 {
        return malformed(format!("{count} parts"));
    }
    let mut keys = Vec::with_capacity(if object { count } else { 0 });
    if object {
        for _ in 0..count {
            let offset = header.uint(width)? as usize;
            let length = usize::from(header.u16()?);
            keys.push(utf8(Reader::new(part(offset)?).bytes(length)?)?);
        }
    }
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        let kind = header.u8()?;
        let entry = header.bytes(width)?;
        let inlined = matches!(kind, 4..=6) || (large && matches!(kind, 7 | 8));
        values.push(if inlined {
            parse_value(kind, entry, depth, budget)?
        } else {
            let offset = Reader::new(entry).uint(width)? as usize;
            parse_value(kind, part(offset)?, depth, budget)?
        });
    }
    if object {
        let keys = keys.into_iter().map(Box::from);
        Ok(Node::Object(keys.zip(values).collect()))
    } else {
        Ok(Node::Array(values))
    }
}

/// One step of a JSON path.
#[derive(Debug, Clone, PartialEq)]
enum Leg {
    Member(Box<str>),
    Cell(usize),
}

/// Reads a path as the server writes it into the log: `$.name."quo\"ted"[3]`.
fn parse_path(path: &str) -> Result<Vec<Leg>> {
    let broken = || DecodeError(format!("a JSON path {path:?}"));
    let mut rest = path.strip_prefix('$').unwrap_or(path);
    let mut legs = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('[') {
            let (index, after) = after.split_once(']').ok_or_else(broken)?;
            legs.push(Leg::Cell(index.trim().parse().map_err(|_| broken())?));
            rest = after;
        } else if let Some(after) = rest.strip_prefix('.') {
            if after.starts_with('"') {
                let mut values = serde_json::Deserializer::from_str(after).into_iter::<String>();
                let name = values
                    .next()
                    .and_then(|name| name.ok())
                    .ok_or_else(broken)?;
                rest = after.get(values.byte_offset()..).ok_or_else(broken)?;
                legs.push(Leg::Member(name.into()));
            } else {
                let end = after.find(['.', '[']).unwrap_or(after.len());
                let (name, after) = after.split_at(end);
                legs.push(Leg::Member(name.into()));
                rest = after;
            }
        } else {
            return Err(broken());
        }
    }
    Ok(legs)
}

/// The part that a path leads to. The first cell of what is not an array is the thing itself.
fn seek<'a>(mut node: &'a mut Node, legs: &[Leg]) -> Option<&'a mut Node> {
    for leg in legs {
        node = match (leg, node) {
            (Leg::Cell(index), Node::Array(cells)) => cells.get_mut(*index)?,
            (Leg::Cell(0), other) => other,
            (Leg::Member(name), Node::Object(members)) => members
                .iter_mut()
                .find_map(|(key, value)| (key == name).then_some(value))?,
            _ => return None,
        };
    }
    Some(node)
}

fn replace(root: &mut Node, legs: &[Leg], value: Node) -> Option<()> {
    *seek(root, legs)? = value;
    Some(())
}

fn insert(root: &mut Node, legs: &[Leg], value: Node) -> Option<()> {
    let (last, parents) = legs.split_last()?;
    match (last, seek(root, parents)?) {
        (Leg::Cell(index), Node::Array(cells)) => {
            let index = (*index).min(cells.len());
            cells.insert(index, value);
        }
        (Leg::Member(name), Node::Object(members)) => {
            let order = |key: &str| (key.len(), key.as_bytes().to_vec());
            let wanted = order(name);
            match members.binary_search_by(|(key, _)| order(key).cmp(&wanted)) {
                Ok(_) => return None,
                Err(place) => members.insert(place, (name.clone(), value)),
            }
        }
        _ => return None,
    }
    Some(())
}

fn remove(root: &mut Node, legs: &[Leg]) -> Option<()> {
    let (last, parents) = legs.split_last()?;
    match (last, seek(root, parents)?) {
        (Leg::Cell(index), Node::Array(cells)) if *index < cells.len() => {
            cells.remove(*index);
        }
        (Leg::Member(name), Node::Object(members)) => {
            let place = members.iter().position(|(key, _)| key == name)?;
            members.remove(place);
        }
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let member = |name: &str| Leg::Member(name.into());
        assert_eq!(
            parse_path(r#"$.a."b \"c".d[3]"#).unwrap(),
            [member("a"), member("b \"c"), member("d"), Leg::Cell(3)]
        );
        assert_eq!(parse_path("$").unwrap(), []);
        assert!(parse_path("$x").is_err());
        assert!(parse_path("$[").is_err());
    }

    #[test]
    fn a_captured_document_and_its_changes() {
        // {"a": 1}, as MySQL 9.7.4 stores it.
        let json = Json::new(&[0, 1, 0, 12, 0, 11, 0, 1, 0, 5, 1, 0, b'a']);
        let one = Node::Object(vec![("a".into(), Node::Int(1))]);
        assert_eq!(*json.tree().unwrap(), one);
        let differences = [
            &[0, 3][..],
            b"$.a",
            &[2, 4, 0],
            &[1, 4],
            b"$.bb",
            &[3, 5, 7, 0],
        ]
        .concat();
        let patched = json.patched(&differences).unwrap();
        let two = Node::Object(vec![("a".into(), Node::Null), ("bb".into(), Node::Int(7))]);
        assert_eq!(*patched.tree().unwrap(), two);
        let gone = patched.patched(&[2, 3, b'$', b'.', b'a']).unwrap();
        let three = Node::Object(vec![("bb".into(), Node::Int(7))]);
        assert_eq!(*gone.tree().unwrap(), three);
        assert!(gone.patched(&[2, 3, b'$', b'.', b'a']).is_err());
    }

    #[test]
    fn overlapping_parts_end() {
        // An array of two entries that both lead to the array itself.
        let bytes = [2, 2, 0, 10, 0, 2, 0, 0, 2, 0, 0];
        assert!(Json::new(&bytes).tree().is_err());
    }
}
