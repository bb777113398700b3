//! The loop filter: which transactions of a log its own clients wrote, and which came from an engine.
//!
//! What an engine applied carries a marker row as its first change, on both servers, and on MariaDB
//! its origin's `server_id` in the event headers besides. DDL cannot carry a marker: on MariaDB the
//! `server_id` tells, on MySQL the GTID, which is the origin's own. Neither is ever sent back
//! (INV-NO-LOOP). A transaction of a third server (an upstream source feeding this node) is treated
//! as this node's own and so is forwarded once.

use crate::clock::Clock;
use crate::config::ReplicationConfig;
use crate::connection::Identity;
use crate::decode::ddl::{self, Coverage, Statement};
use crate::decode::event::Flavor;
use crate::error::{Error, Result};
use crate::gtid::Gtid;
use crate::position::LogPos;
use crate::position::marker::{BARRIER_TABLE, MARKER_TABLE, Marker};
use crate::row::RowChange;
use crate::transaction::{Assembled, Definition, Local, Sealed, Seen};

/// What a transaction turned out to be.
#[derive(Debug)]
pub enum Origin {
    /// Written at the log's node: goes to the other node, and into the node's own window.
    Local(Box<Local>),
    /// Nothing that goes anywhere: the place behind it is settled once it is reached.
    Passed(Passed),
}

/// A transaction that needs no write at the other node.
#[derive(Debug, Clone)]
pub struct Passed {
    /// Where it ends.
    pub end: LogPos,
    /// Why it needs no write.
    pub reason: Reason,
    /// What the log's node had seen of the other node's log from here on.
    pub seen: Seen,
    /// Effective clock of the log from here on.
    pub clock: u64,
}

/// Why a transaction needs no write at the other node.
#[derive(Debug, Clone)]
pub enum Reason {
    /// An engine applied it here; the marker says from where.
    Applied(Box<Marker>),
    /// An engine ran this DDL here for another node.
    AppliedDefinition,
    /// It came from the other node by another way than this engine, such as the servers' own
    /// replication still running.
    Returned,
    /// Only databases, statements or tables that are not replicated. Names the rule.
    LeftOut(&'static str),
}

/// Judges the transactions of one log.
#[derive(Debug)]
pub struct OriginFilter {
    log_of: Identity,
    peer: Identity,
    schema: String,
    replication: ReplicationConfig,
    clock: Clock,
    seen: Seen,
}

impl OriginFilter {
    /// For the log of `log_of`, of which `peer` is the other node, going on with what was known at
    /// the position where the reading begins.
    #[must_use]
    pub fn new(
        log_of: Identity,
        peer: Identity,
        schema: String,
        replication: ReplicationConfig,
        clock: u64,
        seen: Seen,
    ) -> Self {
        Self {
            log_of,
            peer,
            schema,
            replication,
            clock: Clock::resume(clock),
            seen,
        }
    }

    /// Says what a transaction is. Must be given every transaction of the log, in its order.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for what may not be passed over in silence and cannot be replicated.
    pub fn judge(&mut self, transaction: Assembled) -> Result<Origin> {
        let marker = self.marker_of(&transaction)?;
        if let Some(marker) = marker {
            // The marker lifts the clock: what stands behind it here has seen what it brought.
            self.clock.observe(marker.clock);
            if *marker.origin == *self.peer.node && marker.position > self.seen.position {
                self.seen = Seen {
                    position: marker.position,
                    clock: marker.clock,
                };
            }
            return Ok(self.passed(transaction.end, Reason::Applied(Box::new(marker))));
        }
        if self.is_peers(&transaction) {
            let reason = if transaction.statement.is_some() {
                Reason::AppliedDefinition
            } else {
                Reason::Returned
            };
            return Ok(self.passed(transaction.end, reason));
        }
        self.local(transaction)
    }

    fn local(&mut self, transaction: Assembled) -> Result<Origin> {
        let effective = self.clock.tick(transaction.committed_at);
        let definition = match &transaction.statement {
            None => None,
            Some(logged) => match self.definition(&transaction, &logged.statement)? {
                Ok(()) => {
                    let Statement::Ddl(ddl) = &logged.statement else {
                        return Err(Error::Internal("only DDL is a definition".to_owned()));
                    };
                    let mut statement = logged.logged.clone();
                    statement.sql =
                        ddl::rerunnable(&logged.statement, &logged.logged.sql).into_owned();
                    Some(Definition {
                        ddl: ddl.clone(),
                        statement,
                    })
                }
                Err(rule) => return Ok(self.passed(transaction.end, Reason::LeftOut(rule))),
            },
        };
        let mut changes = transaction.changes;
        let is_barrier = |database: &str, table: &str| {
            database.eq_ignore_ascii_case(&self.schema) && table == BARRIER_TABLE
        };
        changes.retain(|change| {
            is_barrier(&change.table.database, &change.table.name)
                || self
                    .replication
                    .includes(&change.table.database, &self.schema)
        });
        if changes.is_empty() && definition.is_none() {
            return Ok(self.passed(
                transaction.end,
                Reason::LeftOut("not a replicated database"),
            ));
        }
        let barrier = definition.is_none()
            && changes
                .iter()
                .all(|change| is_barrier(&change.table.database, &change.table.name));
        Ok(Origin::Local(Box::new(Local {
            start: transaction.start,
            end: transaction.end,
            gtid: transaction.gtid,
            committed_at: transaction.committed_at,
            effective,
            seen: self.seen,
            definition,
            changes,
            weight: transaction.weight,
            barrier,
            _sealed: Sealed::by_origin_filter(),
        })))
    }

    /// `Ok(Ok(()))`: replicated. `Ok(Err(rule))`: left out by a rule. `Err`: halts.
    fn definition(
        &self,
        transaction: &Assembled,
        statement: &Statement,
    ) -> Result<Result<(), &'static str>> {
        let includes = |database: &str| self.replication.includes(database, &self.schema);
        let unsupported = |what: &str, problem: &str| Error::Unsupported {
            node: self.log_of.node.to_string(),
            position: self.log_of.log_name.show(transaction.start),
            what: what.to_owned(),
            problem: format!(
                "{problem}. Once both nodes agree, go on behind it with `twinlog positions set`"
            ),
        };
        let unreadable = transaction
            .statement
            .as_ref()
            .and_then(|logged| logged.logged.session.unreadable.as_deref());
        match statement {
            Statement::Ddl(ddl) => match ddl::coverage(&ddl.databases, includes) {
                Coverage::LeftOut => Ok(Err("DDL of a database that is not replicated")),
                Coverage::Mixed => Err(unsupported(
                    &format!("{:?} over several databases", ddl.kind),
                    "some of the databases are replicated and some are not",
                )),
                Coverage::Replicated => match self.replication.ddl {
                    crate::config::DdlPolicy::Replicate => match unreadable {
                        None => Ok(Ok(())),
                        Some(problem) => Err(unsupported(&format!("{:?}", ddl.kind), problem)),
                    },
                    crate::config::DdlPolicy::Ignore => Ok(Err("DDL, by ddl = \"ignore\"")),
                    crate::config::DdlPolicy::Halt => Err(unsupported(
                        &format!("{:?}", ddl.kind),
                        "the config says ddl = \"halt\": run it at the other node yourself",
                    )),
                },
            },
            Statement::TemporaryTable => Ok(Err("temporary table")),
            Statement::Administrative(_) => Ok(Err("upkeep of one server")),
            Statement::Account(_) => Ok(Err("accounts and grants")),
            Statement::StoredProgram(_) => Ok(Err("stored program")),
            Statement::Refused(refusal) => {
                if !refusal.databases.is_empty()
                    && !refusal.databases.iter().any(|database| includes(database))
                {
                    return Ok(Err("statement on a database that is not replicated"));
                }
                Err(unsupported(refusal.kind, refusal.why))
            }
            Statement::Other(words) => Err(unsupported(
                words,
                "this version does not know the statement and may not pass over it",
            )),
            Statement::Begin
            | Statement::Commit
            | Statement::Rollback
            | Statement::Savepoint
            | Statement::RollbackTo(_)
            | Statement::ReleaseSavepoint
            | Statement::XaStart(_)
            | Statement::XaEnd(_)
            | Statement::XaPrepare(_)
            | Statement::XaCommit { .. }
            | Statement::XaRollback(_) => Err(Error::Internal(
                "a transaction's bracket reached the origin filter".to_owned(),
            )),
        }
    }

    fn marker_of(&self, transaction: &Assembled) -> Result<Option<Marker>> {
        let markers = transaction.changes.iter().filter(|change| {
            change.table.database.eq_ignore_ascii_case(&self.schema)
                && &*change.table.name == MARKER_TABLE
        });
        let mut last = None;
        for change in markers {
            let image = match &change.change {
                RowChange::Insert { after } | RowChange::Update { after, .. } => after,
                // `REPLACE` on some servers is a delete and an insert; the insert speaks.
                RowChange::Delete { before } => before,
            };
            let marker = Marker::from_image(image).map_err(|problem| Error::Binlog {
                node: self.log_of.node.to_string(),
                position: self.log_of.log_name.show(transaction.start),
                problem,
            })?;
            last = Some(marker);
        }
        Ok(last)
    }

    /// Whether the transaction came from the other node, going by the log alone.
    fn is_peers(&self, transaction: &Assembled) -> bool {
        if transaction.server_id == self.peer.server_id {
            return true;
        }
        match (self.peer.flavor, &transaction.gtid, self.peer.uuid) {
            (Flavor::MySql, Some(Gtid::MySql { uuid, .. }), Some(peer)) => *uuid == peer,
            _ => false,
        }
    }

    fn passed(&self, end: LogPos, reason: Reason) -> Origin {
        Origin::Passed(Passed {
            end,
            reason,
            seen: self.seen,
            clock: self.clock.value(),
        })
    }
}
