//! When two texts are the same key: as the column's collation says, by its weights.
//!
//! 'A' and 'a' are one key value under a `_ci` collation, 'e' and 'é' under an `_ai` one, 'a' and
//! 'a ' where the collation pads. The servers' tables of weights are large and differ from version
//! to version, so the node's own server is asked (`WEIGHT_STRING`), in batches, and the answers are
//! remembered. Collations that compare bytes need no question. The window of a node and the changes
//! that arrive there are hashed with the weights of the same server, so it is enough that the server
//! agrees with itself.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use xxhash_rust::xxh3::Xxh3;

use crate::config::NodeConfig;
use crate::connection::{NodeConnection, quote_identifier};
use crate::error::{Error, Result};
use crate::row::Value;
use crate::schema::{ColumnSchema, TableSchema};

/// Texts that one query asks about.
const ASKED_AT_ONCE: usize = 500;
/// Answers that are remembered: 32 bytes each.
const REMEMBERED: usize = 500_000;

/// How a column's text becomes part of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Its bytes, at most so many.
    Bytes(Option<u32>),
    /// Its bytes without trailing spaces.
    Padded,
    /// Its weights.
    Weights,
}

/// How a column's text is compared within a key that holds the whole of it, or `prefix` of it.
pub(super) fn form(column: &ColumnSchema, prefix: Option<u32>) -> Form {
    let (Some(charset), Some(collation)) = (&column.charset, &column.collation) else {
        return Form::Bytes(prefix);
    };
    if charset == "binary" {
        return Form::Bytes(prefix);
    }
    // In these a space is one byte, and that byte is always a space.
    let plain = matches!(
        charset.as_str(),
        "utf8mb4" | "utf8mb3" | "utf8" | "latin1" | "ascii"
    );
    if collation.ends_with("_bin") && plain && prefix.is_none() {
        return if pads(collation) {
            Form::Padded
        } else {
            Form::Bytes(None)
        };
    }
    Form::Weights
}

/// Whether trailing spaces do not count.
fn pads(collation: &str) -> bool {
    !collation.contains("_0900_") && !collation.contains("_nopad_")
}

/// The levels of a collation that has several and pads, as MariaDB's `WEIGHT_STRING` names them.
fn levels(collation: &str) -> &'static [&'static str] {
    if collation.ends_with("_w2") {
        return &[" LEVEL 1", " LEVEL 2"];
    }
    let several = collation.contains("uca1400");
    match collation.rsplit_once("_as_") {
        Some((_, "ci")) if several => &[" LEVEL 1", " LEVEL 2"],
        Some((_, "cs")) if several => &[" LEVEL 1", " LEVEL 2", " LEVEL 3"],
        _ => &[],
    }
}

/// Texts whose weights are wanted.
#[derive(Debug, Default)]
pub struct Requests(HashMap<u128, Vec<u8>>);

impl Requests {
    /// Adds the texts in the keys of a row image; `value` as for [`super::key::image_keys`].
    pub fn add<'v>(&mut self, schema: &TableSchema, value: impl Fn(usize) -> Option<&'v Value>) {
        let row_key = schema.row_key.iter().map(|column| (*column, None));
        let unique = schema.unique_keys.iter().flat_map(|unique| {
            let prefixes = unique.prefixes.iter().copied();
            unique.columns.iter().copied().zip(prefixes)
        });
        for (index, prefix) in row_key.chain(unique) {
            let Some(column) = schema.columns.get(index) else {
                continue;
            };
            if form(column, prefix) != Form::Weights {
                continue;
            }
            if let Some(Value::Bytes(text)) = value(index) {
                self.0
                    .entry(identity(column, prefix, text))
                    .or_insert_with(|| expression(column, prefix, text));
            }
        }
    }
}

/// Whether a table has keys of which the server must be asked.
#[must_use]
pub fn needs_weights(schema: &TableSchema) -> bool {
    let weighed = |index: &usize, prefix| {
        schema
            .columns
            .get(*index)
            .is_some_and(|column| form(column, prefix) == Form::Weights)
    };
    schema.row_key.iter().any(|index| weighed(index, None))
        || schema.unique_keys.iter().any(|unique| {
            let mut columns = unique.columns.iter().zip(&unique.prefixes);
            columns.any(|(index, prefix)| weighed(index, *prefix))
        })
}

/// Whether the texts of a table's row key, if any, are told apart by their bytes.
#[must_use]
pub fn row_key_is_plain(schema: &TableSchema) -> bool {
    let mut columns = schema
        .row_key
        .iter()
        .map(|index| schema.columns.get(*index));
    columns.all(|column| column.is_some_and(|column| form(column, None) == Form::Bytes(None)))
}

/// The weights of some texts, as 128 bits each.
#[derive(Debug, Default)]
pub struct Weights(HashMap<u128, u128>);

impl Weights {
    /// Of a text of this column; `None` for one that was not asked for.
    pub(super) fn of(
        &self,
        column: &ColumnSchema,
        prefix: Option<u32>,
        text: &[u8],
    ) -> Option<u128> {
        self.0.get(&identity(column, prefix, text)).copied()
    }
}

/// Names a text together with the rules by which it is compared.
fn identity(column: &ColumnSchema, prefix: Option<u32>, text: &[u8]) -> u128 {
    let mut hasher = Xxh3::new();
    hasher.update(column.collation.as_deref().unwrap_or_default().as_bytes());
    hasher.update(&[0]);
    hasher.update(&prefix.unwrap_or(0).to_le_bytes());
    hasher.update(text);
    hasher.digest128()
}

fn expression(column: &ColumnSchema, prefix: Option<u32>, text: &[u8]) -> Vec<u8> {
    let charset = column.charset.as_deref().unwrap_or_default();
    let collation = column.collation.as_deref().unwrap_or_default();
    let digits: String = text.iter().map(|byte| format!("{byte:02x}")).collect();
    let literal = format!(
        "_{charset} x'{digits}' COLLATE {}",
        quote_identifier(collation)
    );
    let text = match prefix {
        Some(length) => format!("LEFT({literal}, {length})"),
        None => literal,
    };
    let weighed = if pads(collation) {
        // Spaces at the end weigh nothing, nor do those in front of letters that weigh nothing. The weights of
        // each level stand together, so that a level's spaces are at the end of the level.
        let of = |level: &str| {
            let space = format!(
                "WEIGHT_STRING(CONVERT(' ' USING {charset}) COLLATE {}{level})",
                quote_identifier(collation)
            );
            let weights = format!("WEIGHT_STRING(TRIM(TRAILING ' ' FROM {text}){level})");
            format!("TRIM(TRAILING {space} FROM {weights})")
        };
        match levels(collation) {
            [] => of(""),
            levels => {
                let weights: Vec<String> = levels.iter().map(|level| of(level)).collect();
                format!("CONCAT_WS('|', {})", weights.join(", "))
            }
        }
    } else {
        format!("WEIGHT_STRING({text})")
    };
    format!("SHA2({weighed}, 256)").into_bytes()
}

/// Asks one node's server for weights.
#[derive(Debug)]
pub struct Collator {
    node: NodeConfig,
    connection: tokio::sync::Mutex<Option<NodeConnection>>,
    known: Mutex<HashMap<u128, u128>>,
}

impl Collator {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(node: NodeConfig) -> Self {
        Self {
            node,
            connection: tokio::sync::Mutex::new(None),
            known: Mutex::default(),
        }
    }

    /// The weights of all that is requested.
    ///
    /// # Errors
    /// The connection's.
    pub async fn weigh(&self, requests: Requests) -> Result<Weights> {
        let mut weights = HashMap::with_capacity(requests.0.len());
        let mut asked: Vec<(u128, Vec<u8>)> = Vec::new();
        {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            for (identity, expression) in requests.0 {
                match known.get(&identity) {
                    Some(weight) => {
                        weights.insert(identity, *weight);
                    }
                    None => asked.push((identity, expression)),
                }
            }
        }
        for chunk in asked.chunks(ASKED_AT_ONCE) {
            let answers = self.ask(chunk).await?;
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() + answers.len() > REMEMBERED {
                known.clear();
            }
            known.extend(answers.iter().copied());
            weights.extend(answers);
        }
        Ok(Weights(weights))
    }

    async fn ask(&self, chunk: &[(u128, Vec<u8>)]) -> Result<Vec<(u128, u128)>> {
        let expressions: Vec<&[u8]> = chunk.iter().map(|(_, asked)| &asked[..]).collect();
        let sql = [b"SELECT ".to_vec(), expressions.join(&b","[..])].concat();
        let mut slot = self.connection.lock().await;
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => NodeConnection::open(&self.node).await?,
        };
        let context = "asking for the weights of key values";
        let row = connection.row(&sql, context).await?;
        // A connection that failed is not put back: the next call opens another.
        *slot = Some(connection);
        drop(slot);
        let answer = |index: usize| -> Option<u128> {
            let digits: String = row.as_ref()?.get_opt(index)?.ok()?;
            u128::from_str_radix(digits.get(..32)?, 16).ok()
        };
        chunk
            .iter()
            .enumerate()
            .map(|(index, (identity, _))| {
                let weight = answer(index).ok_or_else(|| {
                    Error::Internal(format!(
                        "node {} gave no weight for a key value",
                        self.node.name
                    ))
                })?;
                Ok((*identity, weight))
            })
            .collect()
    }
}
