//! Runs the steps of a plan and holds each statement to the row count that it must have.

use super::mapping::Mapping;
use super::statement::StatementWriter;
use crate::connection::NodeConnection;
use crate::decode::event::Flavor;
use crate::error::{Error, Result};
use crate::group::Step;
use crate::row::Row;
use crate::transaction::ForeignKeyMode;

/// Bytes after which a multi-row statement is sent and another begun: large enough to spread the
/// cost of a round trip, small enough for every `max_allowed_packet`.
const STATEMENT_BYTES: usize = 512 * 1024;
/// Rows likewise: the servers' parse trees grow with them.
const STATEMENT_ROWS: usize = 1000;

/// Why a plan did not go through as expected.
#[derive(Debug)]
pub enum Failure {
    /// The server refused a row: a duplicate key, a foreign key, a value. With its error.
    Refused {
        /// The table.
        table: String,
        /// The server's error number.
        code: u16,
        /// The server's message.
        message: String,
    },
    /// Rows that should be there are not (or are already as they should become).
    Missing {
        /// The table.
        table: String,
        /// What the statement was.
        action: &'static str,
    },
    /// A child row would be left without its parent; the server was not asked to look.
    Orphan {
        /// The child's table.
        table: String,
        /// Name of the constraint.
        constraint: String,
        /// The parent's table.
        parent: String,
    },
    /// Anything that the rows are not to blame for.
    Error(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Error(error)
    }
}

/// Runs the steps in order within the open transaction. `checks` is the session's
/// `foreign_key_checks`, which is changed where a table has foreign keys.
///
/// # Errors
/// [`Failure`]; the transaction must then be rolled back.
pub async fn execute(
    connection: &mut NodeConnection,
    flavor: Flavor,
    steps: &[Step<'_>],
    checks: &mut bool,
) -> Result<(), Failure> {
    for step in steps {
        let mapping = step.mapping();
        mind_foreign_keys(connection, mapping, mapping.foreign_keys, checks).await?;
        match step {
            Step::Insert(mapping, rows) => {
                let writer = StatementWriter::new(mapping, flavor);
                let form = Form {
                    action: "insert",
                    head: writer.insert_head(),
                    tail: Vec::new(),
                    found_per_row: 1,
                };
                many(connection, mapping, form, rows, |out, row, first| {
                    writer.push_row(out, row, first)
                })
                .await?;
            }
            Step::Upsert(mapping, rows) => {
                let writer = StatementWriter::new(mapping, flavor);
                if !writer.has_payload() {
                    continue;
                }
                let form = Form {
                    action: "update",
                    head: writer.insert_head(),
                    tail: writer.upsert_tail(),
                    found_per_row: 2,
                };
                many(connection, mapping, form, rows, |out, row, first| {
                    writer.push_row(out, row, first)
                })
                .await?;
            }
            Step::Delete(mapping, rows) => {
                let writer = StatementWriter::new(mapping, flavor);
                let form = Form {
                    action: "delete",
                    head: writer.delete_head(),
                    tail: writer.delete_tail().to_vec(),
                    found_per_row: 1,
                };
                many(connection, mapping, form, rows, |out, row, first| {
                    writer.push_key(out, row, first)
                })
                .await?;
            }
            Step::Update(mapping, before, after) => {
                let sql = StatementWriter::new(mapping, flavor).update(before, after)?;
                send(connection, mapping, &sql, "update", 1).await?;
            }
        }
    }
    Ok(())
}

struct Form {
    action: &'static str,
    head: Vec<u8>,
    tail: Vec<u8>,
    found_per_row: u64,
}

async fn many(
    connection: &mut NodeConnection,
    mapping: &Mapping,
    form: Form,
    rows: &[&Row],
    push: impl Fn(&mut Vec<u8>, &Row, bool) -> Result<()>,
) -> Result<(), Failure> {
    let mut sql = form.head.clone();
    let mut count = 0;
    for row in rows {
        push(&mut sql, row, count == 0)?;
        count += 1;
        if sql.len() >= STATEMENT_BYTES || count >= STATEMENT_ROWS {
            sql.extend_from_slice(&form.tail);
            send(
                connection,
                mapping,
                &sql,
                form.action,
                count as u64 * form.found_per_row,
            )
            .await?;
            sql.clear();
            sql.extend_from_slice(&form.head);
            count = 0;
        }
    }
    if count > 0 {
        sql.extend_from_slice(&form.tail);
        send(
            connection,
            mapping,
            &sql,
            form.action,
            count as u64 * form.found_per_row,
        )
        .await?;
    }
    Ok(())
}

async fn send(
    connection: &mut NodeConnection,
    mapping: &Mapping,
    sql: &[u8],
    action: &'static str,
    expected: u64,
) -> Result<(), Failure> {
    match connection.try_execute(sql).await {
        Ok(found) if found == expected => Ok(()),
        Ok(_) => Err(Failure::Missing {
            table: mapping.target.to_string(),
            action,
        }),
        Err(error) => Err(classify(connection.node(), mapping, action, error)),
    }
}

/// Sends one statement of any number of rows; gives how many it found. `mode` says how foreign keys
/// are minded, `checks` is as for [`execute`].
///
/// # Errors
/// [`Failure`].
pub(super) async fn one(
    connection: &mut NodeConnection,
    mapping: &Mapping,
    mode: ForeignKeyMode,
    sql: &[u8],
    action: &'static str,
    checks: &mut bool,
) -> Result<u64, Failure> {
    mind_foreign_keys(connection, mapping, mode, checks).await?;
    connection
        .try_execute(sql)
        .await
        .map_err(|error| classify(connection.node(), mapping, action, error))
}

/// Sets the session's `foreign_key_checks` as the mapping's rows were written.
async fn mind_foreign_keys(
    connection: &mut NodeConnection,
    mapping: &Mapping,
    mode: ForeignKeyMode,
    checks: &mut bool,
) -> Result<()> {
    if !mapping.target.in_foreign_keys() {
        return Ok(());
    }
    let wanted = mode == ForeignKeyMode::Engine;
    if *checks != wanted {
        let sql = format!("SET SESSION foreign_key_checks = {}", u8::from(wanted));
        connection
            .execute(sql, "setting foreign_key_checks")
            .await?;
        *checks = wanted;
    }
    Ok(())
}

fn classify(node: &str, mapping: &Mapping, action: &str, error: mysql_async::Error) -> Failure {
    let context = format!("{action} on {}", mapping.target);
    if let mysql_async::Error::Server(server) = &error
        && is_about_rows(server.code)
    {
        return Failure::Refused {
            table: mapping.target.to_string(),
            code: server.code,
            message: without_values(server.code, &server.message),
        };
    }
    match error {
        // These quote values, or the statement that we made of them.
        mysql_async::Error::Server(mut server)
            if matches!(server.code, 1064 | 1292 | 1367 | 1411 | 3140..=3158) =>
        {
            server.message =
                "the statement that twinlog made of the row was refused; please report \
                              it with the table's definition"
                    .to_owned();
            Failure::Error(Error::from_driver(
                node,
                context,
                mysql_async::Error::Server(server),
            ))
        }
        error => Failure::Error(Error::from_driver(node, context, error)),
    }
}

/// Errors that a row meets because of other rows or of the table's form.
fn is_about_rows(code: u16) -> bool {
    matches!(
        code,
        // duplicate key
        1022 | 1062 | 1169 | 1586
        // foreign keys
        | 1216 | 1217 | 1451 | 1452 | 1761 | 1762
        // NULL, default, range, truncation, check constraints, partitions
        | 1048 | 1364 | 1264 | 1265 | 1366 | 1406 | 3819 | 4025 | 1526 | 1748
        // unknown column or table: our picture of the schema is old
        | 1054 | 1136 | 1146
    )
}

/// The server's messages quote values of rows; logs and status must not.
fn without_values(code: u16, message: &str) -> String {
    match code {
        1062 | 1586 => {
            let key = message.rsplit("for key").next().unwrap_or_default().trim();
            format!("duplicate entry for key {key}")
        }
        1366 | 1265 | 1264 | 1406 => {
            let column = message
                .split("column")
                .nth(1)
                .unwrap_or_default()
                .split(" at row")
                .next()
                .unwrap_or_default()
                .trim_matches([' ', ':']);
            format!("value does not fit column {column}")
        }
        1526 | 1748 => "no partition takes the row".to_owned(),
        1761 | 1762 => "a foreign key of another table collides".to_owned(),
        _ => message.to_owned(),
    }
}
