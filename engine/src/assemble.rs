//! Events to whole transactions.
//!
//! Contract: transactions come out in the log's order, each once and whole, with its first and last
//! position. What cannot be made whole or carried (a half-undone transaction, a statement in place of
//! rows) is an error that stops the link, never a transaction with less in it. One that does not fit
//! into memory goes to disk ([`crate::spill`]). XA in two phases comes as the log has it, in two
//! groups; [`crate::xa`] joins them.

use std::sync::Arc;

use crate::decode::ddl::{self, Statement, Xid};
use crate::decode::event::{Event, EventHeader, Flavor, LoggedQuery};
use crate::error::{Error, Result};
use crate::gtid::Gtid;
use crate::own_schema::LANE;
use crate::position::LogPos;
use crate::position::marker::MARKER_TABLE;
use crate::source::Placed;
use crate::spill::{Gathered, Room};
use crate::transaction::{
    Assembled, ForeignKeyMode, LoggedStatement, TableChange, XaDecided, XaPrepared,
};

/// What stands in a log under one GTID.
#[derive(Debug)]
pub enum Group {
    /// A whole transaction.
    Transaction(Assembled),
    /// The first phase of an XA transaction: nothing of it takes effect yet.
    Prepared(XaPrepared),
    /// The second phase of one: what was prepared takes effect here, or never.
    Decided(XaDecided),
}

/// MariaDB's GTID event says that no end event follows (DDL and its like).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Ends with XID, COMMIT or its like.
    Bracketed,
    /// One statement.
    Single,
    /// A GTID event of MySQL: BEGIN or a statement follows and tells.
    Unknown,
}

#[derive(Debug)]
struct Open {
    start: LogPos,
    gtid: Option<Gtid>,
    server_id: u32,
    committed_at: Option<u64>,
    shape: Shape,
    /// Name of the XA transaction that it is.
    xid: Option<Xid>,
    statement: Option<LoggedStatement>,
    changes: Gathered,
    /// Changes of the engine's own tables: few, and wanted at once.
    own: Vec<TableChange>,
    /// Which of `changes` is the first of the statement whose end was not read yet.
    statement_from: usize,
    /// Savepoints, each with the number of `changes` and of `own` in front of it.
    savepoints: Vec<(String, Place)>,
    weight: usize,
}

/// Numbers of changes, and of changes of the engine's own tables.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    changes: usize,
    own: usize,
}

/// Assembles one log's transactions.
#[derive(Debug)]
pub struct Assembler {
    node: Arc<str>,
    flavor: Flavor,
    /// The engine's own schema.
    schema: Box<str>,
    room: Room,
    open: Option<Open>,
}

impl Assembler {
    /// For the log of `node`, beginning at a transaction boundary. `schema` is the engine's own; what
    /// does not fit into memory goes to `room`.
    #[must_use]
    pub fn new(node: Arc<str>, flavor: Flavor, schema: &str, room: Room) -> Self {
        Self {
            node,
            flavor,
            schema: schema.into(),
            room,
            open: None,
        }
    }

    /// Whether the log stands between two transactions.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.open.is_none()
    }

    /// Takes the next event; gives what it completes.
    ///
    /// # Errors
    /// [`Error::Unsupported`] and [`Error::Binlog`].
    pub fn take(&mut self, placed: Placed) -> Result<Option<Group>> {
        let Placed {
            start,
            end,
            header,
            event,
        } = placed;
        self.take_event(start, end, &header, event)
    }

    fn take_event(
        &mut self,
        start: LogPos,
        end: LogPos,
        header: &EventHeader,
        event: Event,
    ) -> Result<Option<Group>> {
        match event {
            Event::Gtid {
                gtid,
                immediate_commit,
                standalone,
                two_phase_alter,
                ..
            } => {
                if self.open.is_some() {
                    return Err(self.malformed(start, "a transaction begins within another one"));
                }
                if two_phase_alter {
                    return Err(Error::Unsupported {
                        node: self.node.to_string(),
                        position: start.to_string(),
                        what: "an ALTER that is logged in two phases".to_owned(),
                        problem:
                            "set binlog_alter_two_phase=OFF at this node, for running sessions \
                                  and in its my.cnf too; then run the ALTER at the other node by \
                                  hand and go on behind it with `twinlog positions set`"
                                .to_owned(),
                    });
                }
                let shape = match (self.flavor, standalone) {
                    (Flavor::MySql, _) => Shape::Unknown,
                    (Flavor::MariaDb, true) => Shape::Single,
                    (Flavor::MariaDb, false) => Shape::Bracketed,
                };
                self.open = Some(Open {
                    gtid,
                    committed_at: immediate_commit,
                    ..Open::without_gtid(start, header, shape)
                });
                Ok(None)
            }
            Event::Query { query, error_code } => {
                self.statement(start, end, header, *query, error_code)
            }
            Event::Xid => self.finish(start, end, header),
            Event::XaPrepare { one_phase: true } => self.finish(start, end, header),
            Event::XaPrepare { one_phase: false } => self.prepared(start, end, header),
            Event::Rows {
                table,
                flags,
                changes,
            } => {
                let foreign_keys =
                    match (flags.cascades_are_logged(), flags.no_foreign_key_checks()) {
                        (true, _) => ForeignKeyMode::Logged,
                        (false, true) => ForeignKeyMode::Off,
                        (false, false) => ForeignKeyMode::Engine,
                    };
                let Some(open) = &mut self.open else {
                    return Err(self.malformed(
                        start,
                        "row changes outside a transaction; the stream must begin at a transaction",
                    ));
                };
                if table.database.eq_ignore_ascii_case(&self.schema) {
                    open.own
                        .extend(changes.into_iter().map(|change| TableChange {
                            table: Arc::clone(&table),
                            change,
                            foreign_keys,
                        }));
                } else if !open.is_applied() {
                    open.changes
                        .push(&self.room, &table, changes, foreign_keys)?;
                }
                if flags.ends_statement() {
                    // MySQL flags cascaded rows like those of a session with foreign_key_checks=0.
                    // What a statement cascades to stands in front of the row that it came from, so
                    // the last event tells which of the two it is.
                    if flags.no_foreign_key_checks() {
                        open.changes
                            .set_mode(open.statement_from, ForeignKeyMode::Off);
                    }
                    open.statement_from = open.changes.len();
                }
                Ok(None)
            }
            Event::Payload(inner) => {
                let mut whole = None;
                for (inner_header, inner_event) in inner {
                    if whole.is_some() {
                        return Err(self.malformed(
                            start,
                            "events behind the end of a compressed transaction",
                        ));
                    }
                    whole = self.take_event(start, end, &inner_header, inner_event)?;
                }
                Ok(whole)
            }
            Event::Incident(message) => Err(Error::LogLost {
                node: self.node.to_string(),
                problem: format!(
                    "at {start} the log says that changes were lost ({message}): the nodes may \
                     differ. Compare them, repair, and go on with `twinlog positions set`"
                ),
            }),
            // A crashed server's log can end within a transaction: the next file begins anew, and
            // what was open never committed.
            Event::FormatDescription { .. } if header.end_log_pos != 0 => {
                if self.open.take().is_some() {
                    tracing::warn!(
                        node = %self.node,
                        position = %start,
                        "a binlog file ended within a transaction (server crash): it never committed"
                    );
                }
                Ok(None)
            }
            Event::FormatDescription { .. }
            | Event::Rotate { .. }
            | Event::TableMap(_)
            | Event::Heartbeat
            | Event::Ignorable => Ok(None),
        }
    }

    fn statement(
        &mut self,
        start: LogPos,
        end: LogPos,
        header: &EventHeader,
        logged: LoggedQuery,
        error_code: u16,
    ) -> Result<Option<Group>> {
        let statement = ddl::recognise_logged(&logged, self.flavor);
        match statement {
            Statement::Begin => {
                match &mut self.open {
                    Some(open) => open.shape = Shape::Bracketed,
                    // A log without GTID events (MariaDB's of old, or an upstream of that kind).
                    None => self.open = Some(Open::without_gtid(start, header, Shape::Bracketed)),
                }
                Ok(None)
            }
            Statement::Commit => self.finish(start, end, header),
            Statement::Savepoint(name) => {
                if let Some(open) = &mut self.open {
                    open.savepoints.push((name, open.place()));
                }
                Ok(None)
            }
            Statement::ReleaseSavepoint => Ok(None),
            Statement::Rollback => {
                if let Some(open) = &mut self.open
                    && !open.roll_back(Place::default(), self.flavor)
                {
                    return Err(self.half_undone(start));
                }
                self.finish(start, end, header)
            }
            Statement::RollbackTo(name) => {
                let Some(open) = &mut self.open else {
                    return Ok(None);
                };
                // The last of that name counts, and stays; those behind it are gone.
                let savepoint = open.savepoints.iter().rposition(|(known, _)| {
                    known.eq_ignore_ascii_case(&name) || known.to_lowercase() == name.to_lowercase()
                });
                let undone = match savepoint {
                    Some(index) => {
                        open.savepoints.truncate(index + 1);
                        open.roll_back(open.savepoints[index].1, self.flavor)
                    }
                    None => open.changes.is_empty() && open.own.is_empty(),
                };
                if !undone {
                    return Err(self.half_undone(start));
                }
                Ok(None)
            }
            // MySQL has both statements, MariaDB the second one. The event behind them has but 32 bits
            // of the format's number.
            Statement::XaStart(xid) | Statement::XaEnd(xid) => match &mut self.open {
                Some(open) => {
                    open.shape = Shape::Bracketed;
                    open.xid = Some(xid);
                    Ok(None)
                }
                None => Err(self.malformed(start, "an XA transaction that did not begin")),
            },
            Statement::XaCommit {
                one_phase: true, ..
            } => self.finish(start, end, header),
            Statement::XaCommit { xid, .. } => {
                self.decided(start, end, header, (xid, true), error_code)
            }
            Statement::XaRollback(xid) => {
                self.decided(start, end, header, (xid, false), error_code)
            }
            Statement::XaPrepare(_) => Err(self.malformed(
                start,
                "XA PREPARE as a statement, where the servers write an event",
            )),
            statement => {
                // DDL is held to the same error at the target.
                if error_code != 0 && !matches!(statement, Statement::Ddl(_)) {
                    return Err(self.half_done(start, error_code));
                }
                let open = self
                    .open
                    .get_or_insert_with(|| Open::without_gtid(start, header, Shape::Single));
                // MariaDB logs CREATE TABLE .. SELECT as a statement and rows in one group.
                let bracketed = open.shape == Shape::Bracketed;
                // Rows of the same transaction are none of its business.
                if bracketed && matches!(statement, Statement::TemporaryTable) {
                    return Ok(None);
                }
                open.weight += logged.sql.len() + 512;
                if open.statement.is_some() {
                    return Err(self.malformed(start, "two statements in one transaction"));
                }
                open.statement = Some(LoggedStatement {
                    statement,
                    logged,
                    error_code,
                });
                if bracketed {
                    Ok(None)
                } else {
                    self.finish(start, end, header)
                }
            }
        }
    }

    fn finish(
        &mut self,
        start: LogPos,
        end: LogPos,
        header: &EventHeader,
    ) -> Result<Option<Group>> {
        let (whole, _) = self.close(start, end, header)?;
        Ok(Some(Group::Transaction(whole)))
    }

    /// The end of an XA transaction's first phase.
    fn prepared(
        &mut self,
        start: LogPos,
        end: LogPos,
        header: &EventHeader,
    ) -> Result<Option<Group>> {
        let (whole, xid) = self.close(start, end, header)?;
        let Some(xid) = xid else {
            return Err(self.malformed(start, "an XA PREPARE without an XA END in front of it"));
        };
        // No engine prepares, and a statement would end the transaction.
        let is_marker = |change: &TableChange| {
            change.table.database.eq_ignore_ascii_case(&self.schema)
                && [MARKER_TABLE, LANE].contains(&&*change.table.name)
        };
        if whole.statement.is_some() || whole.changes.iter().any(is_marker) {
            return Err(self.malformed(start, "an XA transaction with more in it than rows"));
        }
        Ok(Some(Group::Prepared(XaPrepared { xid, whole })))
    }

    /// The second phase of an XA transaction, whose rows stand further in front.
    fn decided(
        &mut self,
        start: LogPos,
        end: LogPos,
        header: &EventHeader,
        (xid, commit): (Xid, bool),
        error_code: u16,
    ) -> Result<Option<Group>> {
        if error_code != 0 {
            return Err(self.half_done(start, error_code));
        }
        self.open
            .get_or_insert_with(|| Open::without_gtid(start, header, Shape::Single));
        let (head, _) = self.close(start, end, header)?;
        if head.statement.is_some() || !head.changes.is_empty() || head.spilled.is_some() {
            return Err(self.malformed(start, "rows in the second phase of an XA transaction"));
        }
        Ok(Some(Group::Decided(XaDecided { xid, commit, head })))
    }

    /// Ends what is open; gives it, and its name if it is an XA transaction.
    fn close(
        &mut self,
        start: LogPos,
        end: LogPos,
        header: &EventHeader,
    ) -> Result<(Assembled, Option<Xid>)> {
        let Some(open) = self.open.take() else {
            return Err(self.malformed(start, "the end of a transaction that did not begin"));
        };
        let weight = open.weight + open.changes.weight();
        let (mut changes, spilled) = open.changes.finish()?;
        changes.splice(0..0, open.own);
        let whole = Assembled {
            start: open.start,
            end,
            gtid: open.gtid,
            server_id: open.server_id,
            committed_at: open
                .committed_at
                .filter(|micros| *micros != 0)
                .unwrap_or(u64::from(header.timestamp) * 1_000_000),
            statement: open.statement,
            changes,
            spilled,
            weight: weight + size_of::<Assembled>(),
        };
        Ok((whole, open.xid))
    }

    fn malformed(&self, position: LogPos, problem: &str) -> Error {
        Error::Binlog {
            node: self.node.to_string(),
            position: position.to_string(),
            problem: problem.to_owned(),
        }
    }

    fn half_undone(&self, position: LogPos) -> Error {
        Error::Unsupported {
            node: self.node.to_string(),
            position: position.to_string(),
            what: "a transaction that was rolled back in part".to_owned(),
            problem: "it changed tables without transactions (such as MyISAM), whose rows stayed; \
                      convert them with ALTER TABLE .. ENGINE=InnoDB, compare the nodes, and go on \
                      behind it with `twinlog positions set`"
                .to_owned(),
        }
    }

    fn half_done(&self, position: LogPos, error_code: u16) -> Error {
        Error::Unsupported {
            node: self.node.to_string(),
            position: position.to_string(),
            what: "a statement that failed half-way at its origin".to_owned(),
            problem: format!(
                "it ended there with error {error_code}; look what it did, do the same at the other \
                 node, and go on behind it with `twinlog positions set`"
            ),
        }
    }
}

impl Open {
    /// Drops the changes from `keep` on; says whether that is all that a rollback undoes. On MariaDB
    /// it is: writes to tables without transactions are groups of their own in front of this one.
    fn roll_back(&mut self, keep: Place, flavor: Flavor) -> bool {
        let place = self.place();
        if place.changes <= keep.changes && place.own <= keep.own {
            return true;
        }
        if flavor != Flavor::MariaDb || self.statement.is_some() {
            return false;
        }
        self.own.truncate(keep.own);
        self.statement_from = self.changes.truncate(keep.changes);
        true
    }

    fn place(&self) -> Place {
        Place {
            changes: self.changes.len(),
            own: self.own.len(),
        }
    }

    /// Whether an engine applied it: its marker row, or the sign of a lane, comes first. What it
    /// applied is of no use to those who read it back.
    fn is_applied(&self) -> bool {
        self.own
            .iter()
            .any(|change| [MARKER_TABLE, LANE].contains(&&*change.table.name))
    }

    fn without_gtid(start: LogPos, header: &EventHeader, shape: Shape) -> Self {
        Self {
            start,
            gtid: None,
            server_id: header.server_id,
            committed_at: None,
            shape,
            xid: None,
            statement: None,
            changes: Gathered::default(),
            own: Vec::new(),
            statement_from: 0,
            savepoints: Vec::new(),
            weight: 0,
        }
    }
}

#[cfg(test)]
mod tests;
