//! Asks what the server would have checked of foreign keys, where it was told not to look.
//!
//! MySQL logs the rows that a foreign key cascaded to (docs/decisions/0004), children in front of
//! parents. They are applied with `foreign_key_checks=0`, and then nothing tells that a local client
//! removed a parent, or wrote a child of a parent that is removed now. So both are asked for, with
//! the rows written and not yet committed. The reads lock what they find: a parent that is there
//! stays until the commit. A local client that writes a child later finds the parent's row locked by
//! us, and is refused or goes on by what we commit.

use std::collections::HashMap;
use std::sync::Arc;

use super::execute::Failure;
use super::mapping::Mapping;
use super::statement::StatementWriter;
use crate::conflict::key::{KeyHash, row_key};
use crate::connection::{NodeConnection, quote_identifier};
use crate::decode::event::Flavor;
use crate::error::{Error, Result};
use crate::row::{Row, RowChange, Value};
use crate::schema::ForeignKey;
use crate::transaction::{ForeignKeyMode, Local};

/// Rows that one query asks about.
const QUERY_ROWS: usize = 500;

/// A query that counts child rows without a parent.
pub(super) struct Question {
    sql: Vec<u8>,
    orphan: (String, String, String),
}

/// What is asked about one foreign key.
struct Asked<'b> {
    key: &'b ForeignKey,
    /// Child rows written, whose parents must be there.
    children: HashMap<KeyHash, (&'b Arc<Mapping>, &'b Row)>,
    /// Parent rows that went, to which no child may refer, by the values of the key.
    gone: HashMap<String, (&'b Arc<Mapping>, &'b Row)>,
}

/// What has to be asked about the rows of these transactions; nothing where no table has foreign
/// keys.
///
/// # Errors
/// [`Error::Schema`] where a row does not have the columns of a foreign key.
pub(super) fn questions<'b>(
    transactions: &'b [Local],
    mappings: impl Iterator<Item = &'b [Arc<Mapping>]>,
    flavor: Flavor,
) -> Result<Vec<Question>> {
    let mut asked: Vec<Asked<'_>> = Vec::new();
    let changes = transactions
        .iter()
        .zip(mappings)
        .flat_map(|(transaction, mappings)| transaction.changes.iter().zip(mappings));
    for (change, mapping) in changes {
        if !mapping.target.in_foreign_keys() {
            continue;
        }
        let (before, after) = match &change.change {
            RowChange::Insert { after } => (None, Some(after)),
            RowChange::Update { before, after } => (Some(before), Some(after)),
            RowChange::Delete { before } => (Some(before), None),
        };
        let logged = mapping.foreign_keys == ForeignKeyMode::Logged;
        if let (true, Some(after)) = (logged, after) {
            for key in &mapping.target.parents {
                let of = |row| values(mapping, row, key.columns.iter().map(|(child, _)| child));
                let refers = of(after);
                let unchanged = before.is_some_and(|before| of(before) == refers);
                if unchanged || refers.is_some_and(|values| has_null(&values)) {
                    continue;
                }
                let Some(row) = row_key(&mapping.target, |column| mapping.value(after, column))
                else {
                    return Err(incomplete(mapping, key));
                };
                entry(&mut asked, key)
                    .children
                    .insert(row, (mapping, after));
            }
        }
        for key in &mapping.target.children {
            let of = |row| values(mapping, row, key.columns.iter().map(|(_, parent)| parent));
            let left = before.map(of);
            let taken = after.map(of);
            if left == taken {
                continue;
            }
            if let (Some(before), Some(values), true) = (before, left, logged) {
                let values = values.ok_or_else(|| incomplete(mapping, key))?;
                if !has_null(&values) {
                    entry(&mut asked, key)
                        .gone
                        .insert(format!("{values:?}"), (mapping, before));
                }
            }
            if let Some(Some(values)) = taken {
                // There again. That leaves fewer to ask about, and is not needed for being right.
                if let Some(known) = asked.iter_mut().find(|known| known.key == key) {
                    known.gone.remove(&format!("{values:?}"));
                }
            }
        }
    }
    let mut questions = Vec::new();
    for asked in &asked {
        let children: Vec<_> = asked.children.values().copied().collect();
        for rows in children.chunks(QUERY_ROWS) {
            let named = |mapping: &Mapping| {
                let row_key = mapping.row_key.iter();
                row_key
                    .map(|(source, target)| {
                        let name = mapping.target.columns[*target].name.as_str();
                        (name.to_owned(), *source, *target)
                    })
                    .collect()
            };
            questions.push(question(asked.key, rows, flavor, named)?);
        }
        let gone: Vec<_> = asked.gone.values().copied().collect();
        for rows in gone.chunks(QUERY_ROWS) {
            let named = |mapping: &Mapping| {
                let columns = asked.key.columns.iter();
                columns
                    .filter_map(|(child, parent)| {
                        let target = mapping.target.column(parent)?;
                        Some((child.clone(), mapping.image_index(target)?, target))
                    })
                    .collect()
            };
            questions.push(question(asked.key, rows, flavor, named)?);
        }
    }
    Ok(questions)
}

/// Asks; gives the first child row without a parent as a failure.
///
/// # Errors
/// The connection's.
pub(super) async fn ask(
    connection: &mut NodeConnection,
    questions: &[Question],
) -> Result<Option<Failure>> {
    for question in questions {
        let orphans = connection
            .count(&question.sql, "looking for child rows without a parent")
            .await?;
        if orphans > 0 {
            let (table, constraint, parent) = question.orphan.clone();
            return Ok(Some(Failure::Orphan {
                table,
                constraint,
                parent,
            }));
        }
    }
    Ok(None)
}

fn entry<'a, 'b>(asked: &'a mut Vec<Asked<'b>>, key: &'b ForeignKey) -> &'a mut Asked<'b> {
    let index = asked.iter().position(|known| known.key == key);
    let index = index.unwrap_or_else(|| {
        asked.push(Asked {
            key,
            children: HashMap::new(),
            gone: HashMap::new(),
        });
        asked.len() - 1
    });
    &mut asked[index]
}

/// Values of columns in an image; `None` where it does not have them all.
fn values<'b, 'n>(
    mapping: &Mapping,
    row: &'b Row,
    mut columns: impl Iterator<Item = &'n String>,
) -> Option<Vec<&'b Value>> {
    columns.try_fold(Vec::new(), |mut values, name| {
        values.push(mapping.value(row, mapping.target.column(name)?)?);
        Some(values)
    })
}

/// A foreign key with a NULL in it refers to nothing.
fn has_null(values: &[&Value]) -> bool {
    values.iter().any(|value| matches!(value, Value::Null))
}

fn incomplete(mapping: &Mapping, key: &ForeignKey) -> Error {
    Error::Schema {
        table: mapping.source.to_string(),
        problem: format!(
            "the origin's rows do not have all columns of the foreign key {} at the target; make \
             the tables alike with ALTER TABLE, then start again",
            key.name
        ),
    }
}

/// A query over child rows that are named by some of their columns: for each row of `rows` the
/// values that its mapping has for the columns that `named` gives (name in the child, index in the
/// image, index in the mapping's table).
fn question(
    key: &ForeignKey,
    rows: &[(&Arc<Mapping>, &Row)],
    flavor: Flavor,
    named: impl Fn(&Mapping) -> Vec<(String, usize, usize)>,
) -> Result<Question> {
    let table = |(database, name): &(String, String)| {
        format!("{}.{}", quote_identifier(database), quote_identifier(name))
    };
    let parent_column = |name: &str| format!("parent.{}", quote_identifier(name));
    let child_column = |name: &str| format!("child.{}", quote_identifier(name));
    let first = key.columns.first().map_or("", |(_, parent)| parent);
    let joined: Vec<String> = key
        .columns
        .iter()
        .map(|(child, parent)| format!("{} = {}", parent_column(parent), child_column(child)))
        .collect();
    let refers: Vec<String> = key
        .columns
        .iter()
        .map(|(child, _)| format!("{} IS NOT NULL", child_column(child)))
        .collect();
    // No condition rejects a parent row that was found: the server gives up the locks of rows that
    // it rejects. NO_BNL: go by the parent's index, not through (and over the locks of) all of it.
    let mut sql = format!(
        "SELECT /*+ NO_BNL(parent) */ CAST(COALESCE(SUM({} IS NULL), 0) AS UNSIGNED) FROM {} AS child \
         LEFT JOIN {} AS parent ON {} WHERE {} AND (",
        parent_column(first),
        table(&key.child),
        table(&key.parent),
        joined.join(" AND "),
        refers.join(" AND "),
    )
    .into_bytes();
    for (number, (mapping, row)) in rows.iter().enumerate() {
        let writer = StatementWriter::new(mapping, flavor);
        let columns = named(mapping);
        if let [(name, source, target)] = &columns[..] {
            if number == 0 {
                sql.extend_from_slice(child_column(name).as_bytes());
                sql.extend_from_slice(b" IN (");
            } else {
                sql.push(b',');
            }
            writer.push_literal(&mut sql, row, *source, *target)?;
            if number + 1 == rows.len() {
                sql.push(b')');
            }
            continue;
        }
        sql.extend_from_slice(if number == 0 { b"(" } else { b" OR (" });
        for (place, (name, source, target)) in columns.iter().enumerate() {
            if place > 0 {
                sql.extend_from_slice(b" AND ");
            }
            sql.extend_from_slice(child_column(name).as_bytes());
            sql.push(b'=');
            writer.push_literal(&mut sql, row, *source, *target)?;
        }
        sql.push(b')');
    }
    sql.extend_from_slice(match flavor {
        Flavor::MySql => b") FOR SHARE".as_slice(),
        Flavor::MariaDb => b") LOCK IN SHARE MODE",
    });
    Ok(Question {
        sql,
        orphan: (
            format!("{}.{}", key.child.0, key.child.1),
            key.name.clone(),
            format!("{}.{}", key.parent.0, key.parent.1),
        ),
    })
}
