//! Runs the statements of a plan and holds each to the row count that it must have.

use super::encode::{Form, Statement};
use super::mapping::Mapping;
use super::row_events::Path;
use crate::connection::NodeConnection;
use crate::error::{ER_NET_PACKET_TOO_LARGE, Error, Result, is_packet_too_large};
use crate::transaction::ForeignKeyMode;

/// Bytes of statements that are sent together, if there is more than one: a round trip for each
/// small statement would cost more than the statement. Small enough for every `max_allowed_packet`.
const PACKET_BYTES: usize = 256 * 1024;

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
    /// The table's columns are not those that it had when it was looked at, and its log does not say so.
    Columns {
        /// The table.
        table: String,
    },
    /// The target's settings are such that row events could do something else than they say.
    Settings {
        /// The table.
        table: String,
    },
    /// The marker row is not as it was read.
    MarkerMoved,
    /// Anything that the rows are not to blame for.
    Error(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Error(error)
    }
}

/// Runs the statements in order within the open transaction, many to a round trip: each packet's
/// are run until one fails. `head` is the first. `checks` is the session's `foreign_key_checks`, which is
/// changed where a table has foreign keys.
///
/// # Errors
/// [`Failure`]; the transaction must then be rolled back.
pub(super) async fn execute(
    connection: &mut NodeConnection,
    head: Option<Head<'_>>,
    statements: &[Statement],
    checks: &mut bool,
) -> Result<(), Failure> {
    let mut packet = Packet::default();
    let mut planned = *checks;
    match head {
        Some(Head::Marker(sql)) => packet.push(sql.as_bytes(), Part::Marker),
        Some(Head::Sign(sql)) => packet.push(sql.as_bytes(), Part::Sign),
        None => {}
    }
    for statement in statements {
        let mapping = &statement.mapping;
        if packet.sql.len() + statement.sql.len() > PACKET_BYTES {
            packet.send(connection, checks).await?;
        }
        if let Some((sql, wanted)) = foreign_key_setting(mapping, mapping.foreign_keys, planned) {
            packet.push(sql.as_bytes(), Part::Setting(wanted));
            planned = wanted;
        }
        if statement.sql.len() > PACKET_BYTES {
            // By itself, as it stands: it may be the size of the largest row there is.
            packet.send(connection, checks).await?;
            packet.parts.push(Part::Rows(statement));
            packet.send_as(&statement.sql, connection, checks).await?;
        } else {
            packet.push(&statement.sql, Part::Rows(statement));
            if statement.form == Form::RowEvents {
                packet.send(connection, checks).await?;
            }
        }
    }
    packet.send(connection, checks).await
}

/// What stands in front of all rows of a transaction, so that who reads it in the log need not look at
/// them.
#[derive(Debug, Clone, Copy)]
pub(super) enum Head<'s> {
    /// Moves the marker row.
    Marker(&'s str),
    /// Writes the sign of a lane.
    Sign(&'s str),
}

/// Statements that are sent together.
#[derive(Default)]
struct Packet<'s> {
    sql: Vec<u8>,
    parts: Vec<Part<'s>>,
}

#[derive(Clone, Copy)]
enum Part<'s> {
    Marker,
    Sign,
    /// Of `foreign_key_checks`.
    Setting(bool),
    Rows(&'s Statement),
}

impl<'s> Packet<'s> {
    fn push(&mut self, sql: &[u8], part: Part<'s>) {
        if !self.parts.is_empty() {
            self.sql.push(b';');
        }
        self.sql.extend_from_slice(sql);
        self.parts.push(part);
    }

    async fn send(
        &mut self,
        connection: &mut NodeConnection,
        checks: &mut bool,
    ) -> Result<(), Failure> {
        if self.parts.is_empty() {
            return Ok(());
        }
        let sql = std::mem::take(&mut self.sql);
        self.send_as(&sql, connection, checks).await?;
        self.sql = sql;
        self.sql.clear();
        Ok(())
    }

    /// Sends `sql` for the parts.
    async fn send_as(
        &mut self,
        sql: &[u8],
        connection: &mut NodeConnection,
        checks: &mut bool,
    ) -> Result<(), Failure> {
        let (found, error) = connection.execute_together(sql, self.parts.len()).await;
        // A setting stays, whatever becomes of the transaction.
        for part in &self.parts[..found.len()] {
            if let Part::Setting(wanted) = part {
                *checks = *wanted;
            }
        }
        for (part, found) in self.parts.iter().zip(&found) {
            match part {
                Part::Setting(_) | Part::Sign => {}
                Part::Marker if *found == 1 => {}
                Part::Marker => return Err(Failure::MarkerMoved),
                Part::Rows(statement) if *found == statement.expected => {}
                Part::Rows(statement) if statement.form == Form::ColumnsCheck => {
                    return Err(Failure::Columns {
                        table: statement.mapping.target.to_string(),
                    });
                }
                Part::Rows(statement) if statement.form == Form::SettingsCheck => {
                    return Err(Failure::Settings {
                        table: statement.mapping.target.to_string(),
                    });
                }
                Part::Rows(statement) => {
                    return Err(Failure::Missing {
                        table: statement.mapping.target.to_string(),
                        action: statement.action,
                    });
                }
            }
        }
        if let Some(error) = error {
            let node = connection.node();
            return Err(match self.parts.get(found.len()) {
                Some(Part::Rows(statement)) => {
                    classify(node, &statement.mapping, statement.action, error)
                }
                Some(Part::Setting(_)) => Failure::Error(Error::from_driver(
                    node,
                    "setting foreign_key_checks",
                    error,
                )),
                Some(Part::Sign) => Failure::Error(Error::from_driver(
                    node,
                    "writing the sign of a lane",
                    error,
                )),
                Some(Part::Marker) | None => {
                    Failure::Error(Error::from_driver(node, "moving the marker", error))
                }
            });
        }
        self.parts.clear();
        Ok(())
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
    if let Some((sql, wanted)) = foreign_key_setting(mapping, mode, *checks) {
        connection
            .execute(sql, "setting foreign_key_checks")
            .await?;
        *checks = wanted;
    }
    connection
        .try_execute(sql)
        .await
        .map_err(|error| classify(connection.node(), mapping, action, error))
}

/// The statement that sets the session's `foreign_key_checks` as the mapping's rows were written,
/// where they are not so already; and what they are then.
fn foreign_key_setting(
    mapping: &Mapping,
    mode: ForeignKeyMode,
    checks: bool,
) -> Option<(String, bool)> {
    let wanted = mode == ForeignKeyMode::Engine;
    if !mapping.target.in_foreign_keys() || checks == wanted {
        return None;
    }
    let sql = format!("SET SESSION foreign_key_checks = {}", u8::from(wanted));
    Some((sql, wanted))
}

fn classify(node: &str, mapping: &Mapping, action: &str, error: mysql_async::Error) -> Failure {
    let context = format!("{action} on {}", mapping.target);
    if let mysql_async::Error::Server(server) = &error
        && mapping.path == Path::RowEvents
        && server.code == 1032
    {
        return Failure::Missing {
            table: mapping.target.to_string(),
            action: if action == "delete" {
                "delete"
            } else {
                "update"
            },
        };
    }
    if let mysql_async::Error::Server(server) = &error
        && (is_about_rows(server.code) || mapping.path == Path::RowEvents && server.code == 1105)
    {
        return Failure::Refused {
            table: mapping.target.to_string(),
            code: server.code,
            message: without_values(server.code, &server.message),
        };
    }
    if mapping.path == Path::RowEvents && !mapping.target.triggers && is_packet_too_large(&error) {
        return Failure::Refused {
            table: mapping.target.to_string(),
            code: ER_NET_PACKET_TOO_LARGE,
            message: "a row is larger than max_allowed_packet takes as a row event".to_owned(),
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
        // All that BINLOG says of a table that a row event does not fit.
        1105 => "its columns are not those of the origin's table; compare SHOW CREATE TABLE on both nodes".to_owned(),
        1761 | 1762 => "a foreign key of another table collides".to_owned(),
        _ => message.to_owned(),
    }
}
