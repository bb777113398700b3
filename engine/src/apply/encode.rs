//! The steps of a plan as statements, each with what the server has to report for it.

use std::sync::Arc;

use super::column_set::{ColumnSet, alike};
use super::mapping::Mapping;
use super::statement::StatementWriter;
use crate::decode::event::Flavor;
use crate::error::Result;
use crate::group::Step;
use crate::row::Row;

/// Bytes after which a multi-row statement is ended and another begun: large enough to spread the
/// cost of a round trip, small enough for every `max_allowed_packet`.
const STATEMENT_BYTES: usize = 512 * 1024;
/// Rows likewise: the servers' parse trees grow with them.
const STATEMENT_ROWS: usize = 1000;

/// A statement ready to be sent.
#[derive(Debug)]
pub struct Statement {
    pub(super) sql: Vec<u8>,
    pub(super) mapping: Arc<Mapping>,
    /// What it does, for messages.
    pub(super) action: &'static str,
    /// Rows that it must find; of a query, the number that it must give.
    pub(super) expected: u64,
}

/// Writes the statements of a plan, in its order.
///
/// # Errors
/// [`crate::Error::Unsupported`] naming the column that has no faithful literal.
pub fn encode(steps: &[Step<'_>], flavor: Flavor) -> Result<Vec<Statement>> {
    let mut statements = Vec::new();
    for step in steps {
        let mapping = step.mapping();
        let writer = StatementWriter::new(mapping, flavor);
        match step {
            Step::Insert(_, rows) => {
                let form = Form {
                    action: "insert",
                    head: writer.insert_head(),
                    tail: Vec::new(),
                    found_per_row: 1,
                };
                let push = |out: &mut _, row: &_, first| writer.push_row(out, row, first);
                many(&mut statements, mapping, form, rows, push)?;
            }
            Step::Upsert(_, rows) => {
                for alike in alike(mapping, rows) {
                    let rows = &alike.rows;
                    // What differs is not there at the target, or made by it.
                    if alike.columns.is_empty() {
                        lock(&mut statements, mapping, writer, rows)?;
                        continue;
                    }
                    let mut upsert = writer.upsert(alike.columns);
                    let form = Form {
                        action: "update",
                        head: std::mem::take(&mut upsert.head),
                        tail: std::mem::take(&mut upsert.tail),
                        found_per_row: 2,
                    };
                    let push = |out: &mut _, row: &_, first| upsert.push_row(out, row, first);
                    many(&mut statements, mapping, form, rows, push)?;
                }
            }
            Step::Delete(_, rows) => {
                let form = Form {
                    action: "delete",
                    head: writer.delete_head(),
                    tail: writer.delete_tail().to_vec(),
                    found_per_row: 1,
                };
                let push = |out: &mut _, row: &_, first| writer.push_key(out, row, first);
                many(&mut statements, mapping, form, rows, push)?;
            }
            Step::Lock(_, rows) => lock(&mut statements, mapping, writer, rows)?,
            Step::Update(_, before, after) => statements.push(Statement {
                sql: writer.update(before, after, ColumnSet::differing(mapping, before, after))?,
                mapping: Arc::clone(mapping),
                action: "update",
                expected: 1,
            }),
        }
    }
    Ok(statements)
}

struct Form {
    action: &'static str,
    head: Vec<u8>,
    tail: Vec<u8>,
    found_per_row: u64,
}

fn lock(
    statements: &mut Vec<Statement>,
    mapping: &Arc<Mapping>,
    writer: StatementWriter<'_>,
    rows: &[&Row],
) -> Result<()> {
    let form = Form {
        action: "update",
        head: writer.lock_head(),
        tail: writer.lock_tail(),
        found_per_row: 1,
    };
    let push = |out: &mut _, row: &_, first| writer.push_key(out, row, first);
    many(statements, mapping, form, rows, push)
}

fn many(
    statements: &mut Vec<Statement>,
    mapping: &Arc<Mapping>,
    form: Form,
    rows: &[&Row],
    push: impl Fn(&mut Vec<u8>, &Row, bool) -> Result<()>,
) -> Result<()> {
    let mut end = |mut sql: Vec<u8>, rows: usize| {
        sql.extend_from_slice(&form.tail);
        statements.push(Statement {
            sql,
            mapping: Arc::clone(mapping),
            action: form.action,
            expected: rows as u64 * form.found_per_row,
        });
    };
    let mut sql = form.head.clone();
    let mut count = 0;
    for row in rows {
        push(&mut sql, row, count == 0)?;
        count += 1;
        if sql.len() >= STATEMENT_BYTES || count >= STATEMENT_ROWS {
            let begun = form.head.clone();
            end(std::mem::replace(&mut sql, begun), count);
            count = 0;
        }
    }
    if count > 0 {
        end(sql, count);
    }
    Ok(())
}
