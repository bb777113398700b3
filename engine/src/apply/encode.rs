//! The steps of a plan as statements, each with what the server has to report for it.

use std::sync::Arc;

use super::column_set::{ColumnSet, alike};
use super::locking::named;
use super::mapping::Mapping;
use super::row_events::{EventWriter, Path, settings_check};
use super::statement::StatementWriter;
use crate::connection::column_hash;
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
    pub(super) form: Form,
}

/// What kind of statement it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// SQL that writes rows, or locks and counts them.
    Sql,
    /// Asks whether row events may be written with the target's settings; gives 1 where they may.
    SettingsCheck,
    /// Reads no row; gives the [`column_hash`] of the table's visible columns.
    ColumnsCheck,
    /// BINLOG. The servers do not say behind it that more results follow, so it ends its packet; and it counts no
    /// rows.
    RowEvents,
}

/// Writes the statements of a plan, in its order.
///
/// # Errors
/// [`crate::Error::Unsupported`] naming the column that has no faithful literal.
pub fn encode(steps: &[Step<'_>], flavor: Flavor) -> Result<Vec<Statement>> {
    let mut statements = Vec::new();
    for step in steps {
        match step.mapping().path {
            Path::Sql => sql(&mut statements, step, flavor)?,
            Path::RowEvents => row_events(&mut statements, step, flavor)?,
        }
    }
    Ok(statements)
}

fn sql(statements: &mut Vec<Statement>, step: &Step<'_>, flavor: Flavor) -> Result<()> {
    let mapping = step.mapping();
    let writer = StatementWriter::new(mapping, flavor);
    match step {
        Step::Insert(_, rows) => {
            let parts = Parts {
                action: "insert",
                head: writer.insert_head(),
                tail: Vec::new(),
                found_per_row: 1,
            };
            let push = |out: &mut _, row: &_, first| writer.push_row(out, row, first);
            many(statements, mapping, parts, rows, push)
        }
        Step::Upsert(_, rows) => {
            for alike in alike(mapping, rows) {
                let rows = &alike.rows;
                // What differs is not there at the target, or made by it.
                if alike.columns.is_empty() {
                    lock(statements, mapping, flavor, "update", rows)?;
                    continue;
                }
                let mut upsert = writer.upsert(alike.columns);
                let parts = Parts {
                    action: "update",
                    head: std::mem::take(&mut upsert.head),
                    tail: std::mem::take(&mut upsert.tail),
                    found_per_row: 2,
                };
                let push = |out: &mut _, row: &_, first| upsert.push_row(out, row, first);
                many(statements, mapping, parts, rows, push)?;
            }
            Ok(())
        }
        Step::Delete(_, rows) => {
            let parts = Parts {
                action: "delete",
                head: writer.delete_head(),
                tail: writer.delete_tail().to_vec(),
                found_per_row: 1,
            };
            let push = |out: &mut _, row: &_, first| writer.push_key(out, row, first);
            many(statements, mapping, parts, rows, push)
        }
        Step::Lock(_, rows) => lock(statements, mapping, flavor, "update", rows),
        Step::Update(_, before, after) => {
            statements.push(Statement {
                sql: writer.update(before, after, ColumnSet::differing(mapping, before, after))?,
                mapping: Arc::clone(mapping),
                action: "update",
                expected: 1,
                form: Form::Sql,
            });
            Ok(())
        }
    }
}

/// What is asked in front of row events of a table.
pub(super) fn checks(mapping: &Arc<Mapping>, flavor: Flavor) -> [Statement; 2] {
    [ask_settings(mapping, flavor), ask_columns(mapping)]
}

fn ask_settings(mapping: &Arc<Mapping>, flavor: Flavor) -> Statement {
    Statement {
        sql: settings_check(flavor).into(),
        mapping: Arc::clone(mapping),
        action: "insert",
        expected: 1,
        form: Form::SettingsCheck,
    }
}

/// Row events name columns by their place, which DDL that is not in the log may have changed.
fn ask_columns(mapping: &Arc<Mapping>) -> Statement {
    let columns = mapping.target.columns.iter();
    let visible = columns.filter(|column| !column.invisible);
    Statement {
        sql: format!("SELECT * FROM {} LIMIT 0", named(&mapping.target)).into_bytes(),
        mapping: Arc::clone(mapping),
        action: "insert",
        expected: column_hash(visible.map(|column| column.name.as_bytes())),
        form: Form::ColumnsCheck,
    }
}

/// Rows that have to be there are counted in front, since BINLOG does not say what it found. A row that has to be
/// new and is there already is refused by the server.
fn row_events(statements: &mut Vec<Statement>, step: &Step<'_>, flavor: Flavor) -> Result<()> {
    let mapping = step.mapping();
    let target = &mapping.target;
    let has = |known: &Statement, form| known.form == form;
    if !statements
        .iter()
        .any(|known| has(known, Form::SettingsCheck))
    {
        statements.push(ask_settings(mapping, flavor));
    }
    let looked = |known: &Statement| {
        has(known, Form::ColumnsCheck) && Arc::ptr_eq(&known.mapping.target, target)
    };
    if !statements.iter().any(looked) {
        statements.push(ask_columns(mapping));
    }
    match step {
        Step::Insert(_, rows) => {
            let writer = EventWriter::insert(mapping, flavor);
            events(statements, writer, mapping, rows.iter().map(|row| [*row]))
        }
        Step::Upsert(_, rows) => {
            for alike in alike(mapping, rows) {
                lock(statements, mapping, flavor, "update", &alike.rows)?;
                if alike.columns.is_empty() {
                    continue;
                }
                let writer = EventWriter::update(mapping, flavor, alike.columns);
                let images = alike.rows.iter().map(|row| [*row, *row]);
                events(statements, writer, mapping, images)?;
            }
            Ok(())
        }
        Step::Delete(_, rows) => {
            lock(statements, mapping, flavor, "delete", rows)?;
            let writer = EventWriter::delete(mapping, flavor, mapping.foreign_keys);
            events(statements, writer, mapping, rows.iter().map(|row| [*row]))
        }
        Step::Lock(_, rows) => lock(statements, mapping, flavor, "update", rows),
        Step::Update(_, before, after) => {
            lock(statements, mapping, flavor, "update", &[before])?;
            let columns = ColumnSet::differing(mapping, before, after);
            if columns.is_empty() {
                return Ok(());
            }
            let writer = EventWriter::update(mapping, flavor, columns);
            events(
                statements,
                writer,
                mapping,
                std::iter::once([*before, *after]),
            )
        }
    }
}

fn events<'r, const IMAGES: usize>(
    statements: &mut Vec<Statement>,
    mut writer: EventWriter<'_>,
    mapping: &Arc<Mapping>,
    rows: impl Iterator<Item = [&'r Row; IMAGES]>,
) -> Result<()> {
    let mut end = |writer: &mut EventWriter<'_>| {
        statements.push(Statement {
            action: writer.action(),
            sql: writer.statement(),
            mapping: Arc::clone(mapping),
            expected: 0,
            form: Form::RowEvents,
        });
    };
    for images in rows {
        writer.push(&images)?;
        let (rows, bytes) = writer.held();
        if bytes >= STATEMENT_BYTES || rows >= STATEMENT_ROWS {
            end(&mut writer);
        }
    }
    if writer.held().0 > 0 {
        end(&mut writer);
    }
    Ok(())
}

/// What the statements of many rows have in common.
struct Parts {
    action: &'static str,
    head: Vec<u8>,
    tail: Vec<u8>,
    found_per_row: u64,
}

fn lock(
    statements: &mut Vec<Statement>,
    mapping: &Arc<Mapping>,
    flavor: Flavor,
    action: &'static str,
    rows: &[&Row],
) -> Result<()> {
    let writer = StatementWriter::new(mapping, flavor);
    let parts = Parts {
        action,
        head: writer.lock_head(),
        tail: writer.lock_tail(),
        found_per_row: 1,
    };
    let push = |out: &mut _, row: &_, first| writer.push_key(out, row, first);
    many(statements, mapping, parts, rows, push)
}

fn many(
    statements: &mut Vec<Statement>,
    mapping: &Arc<Mapping>,
    parts: Parts,
    rows: &[&Row],
    push: impl Fn(&mut Vec<u8>, &Row, bool) -> Result<()>,
) -> Result<()> {
    let mut end = |mut sql: Vec<u8>, rows: usize| {
        sql.extend_from_slice(&parts.tail);
        statements.push(Statement {
            sql,
            mapping: Arc::clone(mapping),
            action: parts.action,
            expected: rows as u64 * parts.found_per_row,
            form: Form::Sql,
        });
    };
    let mut sql = parts.head.clone();
    let mut count = 0;
    for row in rows {
        push(&mut sql, row, count == 0)?;
        count += 1;
        if sql.len() >= STATEMENT_BYTES || count >= STATEMENT_ROWS {
            let begun = parts.head.clone();
            end(std::mem::replace(&mut sql, begun), count);
            count = 0;
        }
    }
    if count > 0 {
        end(sql, count);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::column_set::tests::{mapping, row};
    use crate::group::Changed;

    #[test]
    fn row_events_stand_behind_a_count_of_what_has_to_be_there() {
        let mut mapping = mapping(2);
        mapping.path = Path::RowEvents;
        let mapping = Arc::new(mapping);
        let (from, to) = (row(1, &["a", "b"]), row(1, &["a", "c"]));
        let changed = |from, to| Changed {
            from: Some(from),
            to,
        };
        let steps = [
            Step::Delete(&mapping, vec![&from]),
            // Nothing to write, but it has to be there.
            Step::Upsert(&mapping, vec![changed(&from, &from)]),
            Step::Upsert(&mapping, vec![changed(&from, &to)]),
            Step::Update(&mapping, &from, &to),
            Step::Insert(&mapping, vec![&from, &to]),
        ];
        let statements = encode(&steps, Flavor::MySql).unwrap();
        let found: Vec<(&str, Form, u64)> = statements
            .iter()
            .map(|statement| (statement.action, statement.form, statement.expected))
            .collect();
        let (counted, event) = (Form::Sql, Form::RowEvents);
        let expected = [
            ("insert", Form::SettingsCheck, 1),
            ("insert", Form::ColumnsCheck, statements[1].expected),
            ("delete", counted, 1),
            ("delete", event, 0),
            ("update", counted, 1),
            ("update", counted, 1),
            ("update", event, 0),
            ("update", counted, 1),
            ("update", event, 0),
            ("insert", event, 0),
        ];
        assert_eq!(found, expected);
        for statement in &statements {
            let begins = match statement.form {
                Form::RowEvents => "BINLOG '",
                _ => "SELECT ",
            };
            assert!(statement.sql.starts_with(begins.as_bytes()));
        }
    }
}
