//! The loop filter: which transactions of a log its own clients wrote, and which came from an engine.
//!
//! What an engine applied carries a marker row as its first change, on both servers, and on MariaDB
//! its origin's `server_id` in the event headers besides. DDL cannot carry a marker: on MariaDB the
//! `server_id` tells, on MySQL the GTID, which is the origin's own. Neither is ever sent back
//! (INV-NO-LOOP). A transaction of a third server (an upstream source feeding this node) is treated
//! as this node's own and so is forwarded once.

use crate::clock::Clock;
use crate::config::{ReplicationConfig, RowEventPolicy};
use crate::connection::Identity;
use crate::decode::ddl::{self, Coverage, Recovery, Statement};
use crate::decode::event::{Flavor, LoggedQuery, SessionContext};
use crate::error::{Error, Result};
use crate::gtid::Gtid;
use crate::own_schema::LANE;
use crate::position::LogPos;
use crate::position::marker::{BARRIER_TABLE, Intended, MARKER_TABLE, Marker};
use crate::row::{RowChange, Value};
use crate::transaction::{Assembled, Definition, Huge, Local, Sealed, Seen};

/// What a transaction turned out to be.
#[derive(Debug)]
pub enum Origin {
    /// Written at the log's node: goes to the other node, and into the node's own window.
    Local(Box<Local>),
    /// The same, with its changes on disk.
    Huge(Box<Huge>),
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
    /// When the log file of `end` was begun, seconds since 1970; 0 where that is not known.
    pub log_birth: u32,
    /// Number of the last GTID under the UUID of the log's node (MySQL), if that is known.
    pub numbered: Option<u64>,
    /// As [`crate::log_reader::Start::xa_from`].
    pub xa_from: Option<LogPos>,
}

/// The rule by which statements about triggers are left out. What a table's rows go by depends on them.
pub(crate) const TRIGGER: &str = "trigger";

/// The rule by which DDL is left out that could be replicated.
pub(crate) const IGNORED_DDL: &str = "DDL, by ddl = \"ignore\"";

/// Why a transaction needs no write at the other node.
#[derive(Debug, Clone)]
pub enum Reason {
    /// An engine applied it here; the marker says from where.
    Applied(Box<Marker>),
    /// An engine ran this DDL here for another node.
    AppliedDefinition,
    /// MariaDB undid, as it recovered from a crash, some of a DDL statement that an engine ran here
    /// for another node: it is to be run again.
    UndoneDefinition,
    /// It came from the other node by another way than this engine, such as the servers' own
    /// replication still running.
    Returned,
    /// Only databases, statements or tables that are not replicated. Names the rule.
    LeftOut(&'static str),
    /// The first phase of an XA transaction: its rows go where it is committed.
    Prepared,
    /// An XA transaction that is rolled back, or decided once more as it was before.
    Dropped,
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
    /// DDL that an engine was about to run for the peer, of which the log does not say yet whether
    /// it ran.
    intended: Option<Intended>,
    /// Where, in the peer's log, the last such statement ends that the log says did run. Markers
    /// repeat an intent when an engine starts.
    settled: Option<LogPos>,
    /// The same of the intent that is open, with the peer's clock there.
    intent: Option<Seen>,
    /// Where the log's last image of the peer's marker row left it.
    marked: Option<LogPos>,
    /// See [`Local::unplaced`].
    unplaced: bool,
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
        intended: Option<Intended>,
    ) -> Self {
        Self {
            log_of,
            peer,
            schema,
            replication,
            clock: Clock::resume(clock),
            seen,
            intended,
            settled: None,
            intent: None,
            marked: None,
            unplaced: false,
        }
    }

    /// Goes on behind an image of the marker row that left it here; see [`Self::marked`].
    #[must_use]
    pub fn behind_mark(mut self, marked: Option<LogPos>) -> Self {
        self.marked = marked;
        self
    }

    /// Where the log read so far has left the peer's marker row: to be handed to the filter that
    /// goes on from here.
    #[must_use]
    pub fn marked(&self) -> Option<LogPos> {
        self.marked
    }

    /// DDL that an engine was about to run for the peer, of which the log read so far does not say
    /// whether it ran: to be handed to the filter that goes on from here.
    #[must_use]
    pub fn intended(&self) -> Option<&Intended> {
        self.intended.as_ref()
    }

    /// Says what a transaction is. Must be given every transaction of the log, in its order.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for what may not be passed over in silence and cannot be replicated.
    pub fn judge(&mut self, transaction: Assembled) -> Result<Origin> {
        let marker = self.marker_of(&transaction)?;
        if let Some(marker) = marker {
            self.follow(&transaction)?;
            // The marker lifts the clock: what stands behind it here has seen what it brought.
            self.clock.observe(marker.clock);
            if *marker.origin == *self.peer.node && marker.position > self.seen.position {
                self.seen = Seen {
                    position: marker.position,
                    clock: marker.clock,
                };
            }
            if *marker.origin == *self.peer.node {
                self.unplaced = false;
                self.intent = marker.intent.map(|position| Seen {
                    position,
                    clock: marker.intent_clock,
                });
                if marker.intent.is_none() || marker.intent != self.settled {
                    self.intended.clone_from(&marker.intended);
                }
            }
            return Ok(self.passed(transaction.end, Reason::Applied(Box::new(marker))));
        }
        if let Some(reason) = self.recovered(&transaction) {
            return Ok(self.passed(transaction.end, reason));
        }
        if self.is_peers(&transaction) {
            let reason = if transaction.statement.is_some() {
                self.settle();
                Reason::AppliedDefinition
            } else {
                Reason::Returned
            };
            return Ok(self.passed(transaction.end, reason));
        }
        self.local(transaction)
    }

    fn intended_end(&self) -> Option<LogPos> {
        self.intent.map(|intent| intent.position)
    }

    /// DDL of the peer was run here. What stands behind it in this log has seen it, though the marker
    /// says so only later.
    fn settle(&mut self) {
        self.intended = None;
        match self.intent {
            // Place and clock belong together: whoever goes on from the place gives all that stands
            // behind it the timestamps that others know it by.
            Some(end) if end.clock > 0 => {
                if end.position > self.seen.position {
                    self.seen = end;
                }
            }
            // The reading began between its intent and itself, or an earlier version wrote that.
            _ => self.unplaced = true,
        }
        self.settled = self.intended_end();
    }

    /// Whether the transaction is DDL of an engine that MariaDB finished or undid when it started
    /// after a crash. It logs that under its own `server_id`; the event's timestamp is 0, and its
    /// words tell which statement it is about.
    fn recovered(&mut self, transaction: &Assembled) -> Option<Reason> {
        if self.log_of.flavor != Flavor::MariaDb || transaction.committed_at != 0 {
            return None;
        }
        let (logged, intended) = (transaction.statement.as_ref()?, self.intended.as_ref()?);
        let statement = LoggedQuery {
            database: intended.database.clone(),
            sql: intended.sql.clone(),
            session: SessionContext {
                sql_mode: Some(intended.sql_mode),
                ..SessionContext::default()
            },
        };
        let Statement::Ddl(ddl) = ddl::recognise_logged(&statement, Flavor::MariaDb) else {
            return None;
        };
        let found = (&logged.statement, &logged.logged.sql[..]);
        match ddl::recovery((&ddl, &intended.sql), found) {
            Recovery::Finished => {
                self.settle();
                Some(Reason::AppliedDefinition)
            }
            Recovery::Partly => Some(Reason::UndoneDefinition),
            Recovery::Unrelated => None,
        }
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
                        error_code: logged.error_code,
                    })
                }
                Err(rule) => {
                    let included =
                        |database: &str| self.replication.includes(database, &self.schema);
                    let mut held = transaction.changes.iter();
                    // What is on disk is of replicated databases: the decoder leaves others out.
                    let rows = held.any(|change| included(&change.table.database))
                        || transaction
                            .spilled
                            .as_ref()
                            .is_some_and(|rows| !rows.is_empty());
                    if !rows {
                        return Ok(self.passed(transaction.end, Reason::LeftOut(rule)));
                    }
                    // The rows of a CREATE TABLE .. SELECT cannot go without their table.
                    if matches!(logged.statement, Statement::Ddl(_)) {
                        return Err(Error::Unsupported {
                            node: self.log_of.node.to_string(),
                            position: self.log_of.log_name.show(transaction.start),
                            what: format!("the rows of a statement that is left out ({rule})"),
                            problem: format!(
                                "make the table with its rows at the other node by hand, then stop \
                                 both engines and go on behind it with `twinlog positions set .. {}`",
                                self.log_of.log_name.show(transaction.end)
                            ),
                        });
                    }
                    None
                }
            },
        };
        let mut changes = transaction.changes;
        let is_barrier = |database: &str, table: &str| {
            database.eq_ignore_ascii_case(&self.schema) && table == BARRIER_TABLE
        };
        changes.retain(|change| {
            // The rows themselves are made at every node when it is set up.
            (is_barrier(&change.table.database, &change.table.name)
                && matches!(change.change, RowChange::Update { .. }))
                || self
                    .replication
                    .includes(&change.table.database, &self.schema)
        });
        let spilled = transaction.spilled.filter(|rows| !rows.is_empty());
        if changes.is_empty() && definition.is_none() && spilled.is_none() {
            return Ok(self.passed(
                transaction.end,
                Reason::LeftOut("not a replicated database"),
            ));
        }
        let barrier = definition.is_none()
            && spilled.is_none()
            && changes
                .iter()
                .all(|change| is_barrier(&change.table.database, &change.table.name));
        let local = Local {
            start: transaction.start,
            end: transaction.end,
            gtid: transaction.gtid,
            committed_at: transaction.committed_at,
            effective,
            seen: self.seen,
            definition,
            changes,
            weight: transaction.weight,
            first_write: 0,
            barrier,
            unplaced: self.unplaced,
            log_birth: 0,
            _sealed: Sealed::by_origin_filter(),
        };
        Ok(match spilled {
            None => Origin::Local(Box::new(local)),
            Some(spilled) => Origin::Huge(Box::new(Huge::new(local, spilled))),
        })
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
                "{problem}. Once both nodes agree, stop both engines and go on behind it with \
                 `twinlog positions set --origin {} --target {} {}`",
                self.log_of.node,
                self.peer.node,
                self.log_of.log_name.show(transaction.end)
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
                    crate::config::DdlPolicy::Ignore => Ok(Err(IGNORED_DDL)),
                    crate::config::DdlPolicy::Halt => Err(unsupported(
                        &format!("{:?}", ddl.kind),
                        "the config says ddl = \"halt\": run it at the other node yourself",
                    )),
                },
            },
            Statement::TemporaryTable => Ok(Err("temporary table")),
            Statement::Administrative(_) => Ok(Err("upkeep of one server")),
            Statement::Account(_) => Ok(Err("accounts and grants")),
            Statement::StoredProgram("DROP TRIGGER") => Ok(Err(TRIGGER)),
            Statement::StoredProgram(_) => Ok(Err("stored program")),
            Statement::Trigger(_) if self.replication.row_events != RowEventPolicy::Never => {
                Ok(Err(TRIGGER))
            }
            Statement::Refused(refusal) | Statement::Trigger(refusal) => {
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
            | Statement::Savepoint(_)
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
        // Behind the sign of a lane the rows were left unread.
        let signed = transaction.changes.iter().any(|change| {
            change.table.database.eq_ignore_ascii_case(&self.schema) && &*change.table.name == LANE
        });
        if signed && last.is_none() {
            return Err(Error::Binlog {
                node: self.log_of.node.to_string(),
                position: self.log_of.log_name.show(transaction.start),
                problem: format!(
                    "the transaction has a row of {}.{LANE}, which only engines write, and no marker \
                     row: the engine's schema was changed by hand",
                    self.schema
                ),
            });
        }
        Ok(last)
    }

    /// Each change of the marker row begins where the change before it in this log left the row, for
    /// the row's lock puts them into one order. Where it does not, log and tables have parted: one of
    /// the two lost commits that the other one has, of clients too (a crash of a server that does not
    /// sync both at each commit).
    fn follow(&mut self, transaction: &Assembled) -> Result<()> {
        for change in &transaction.changes {
            if !change.table.database.eq_ignore_ascii_case(&self.schema)
                || &*change.table.name != MARKER_TABLE
            {
                continue;
            }
            let place = |image: &[Value]| {
                let marker = Marker::from_image(image).ok()?;
                (*marker.origin == *self.peer.node).then_some(marker.position)
            };
            let (before, after) = (change.change.before(), change.change.after());
            let before = before.and_then(|image| place(image));
            if let (Some(left), Some(found)) = (self.marked, before)
                && left != found
            {
                let (from, to) = (&self.peer.log_name, &self.log_of.node);
                let what = if found > left {
                    "the log lost transactions that the tables have"
                } else {
                    "the tables lost transactions that the log has"
                };
                return Err(Error::LogLost {
                    node: to.to_string(),
                    problem: format!(
                        "at {} the marker row of node {} goes on from {}, and the log had left it at \
                         {}: {what}. That is what a crash does with sync_binlog or \
                         innodb_flush_log_at_trx_commit other than 1, and clients' transactions can \
                         be among them. Compare the nodes (`twinlog verify`), make them alike, then \
                         stop both engines and run `twinlog init --force`",
                        self.log_of.log_name.show(transaction.start),
                        self.peer.node,
                        from.show(found),
                        from.show(left),
                    ),
                });
            }
            let after = after.and_then(|image| place(image));
            if before.is_some() || after.is_some() {
                self.marked = after;
            }
        }
        Ok(())
    }

    /// Whether the transaction came from the other node, going by the log alone.
    fn is_peers(&self, transaction: &Assembled) -> bool {
        if transaction.server_id == self.peer.server_id {
            return true;
        }
        let Some(Gtid::MySql { uuid, .. }) = &transaction.gtid else {
            return false;
        };
        // A statement that the peer had from a source of its own runs here under that source's
        // GTID. Only an engine that has said what it is about to do runs such a one.
        let about_to_run = self.intent.is_some() && self.intended_end() != self.settled;
        self.peer.uuid == Some(*uuid)
            || (about_to_run && transaction.statement.is_some() && self.log_of.uuid != Some(*uuid))
    }

    /// What ends here needs no write.
    pub(crate) fn passed(&self, end: LogPos, reason: Reason) -> Origin {
        Origin::Passed(Passed {
            end,
            reason,
            seen: self.seen,
            clock: self.clock.value(),
            log_birth: 0,
            numbered: None,
            xa_from: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::DdlPolicy;
    use crate::position::LogName;
    use crate::transaction::LoggedStatement;

    fn identity(node: &str, server_id: u32) -> Identity {
        Identity {
            node: Arc::from(node),
            flavor: Flavor::MariaDb,
            version: String::new(),
            server_id,
            uuid: None,
            log_name: LogName::split("bin.000001").unwrap().0,
        }
    }

    /// A filter of b's log, in which an engine was about to run a statement of a.
    fn filter(intended: &str) -> OriginFilter {
        OriginFilter::new(
            identity("b", 2),
            identity("a", 1),
            "twinlog".into(),
            ReplicationConfig {
                row_events: RowEventPolicy::Auto,
                databases: Vec::new(),
                drift: crate::config::DriftPolicy::Halt,
                ddl: DdlPolicy::Replicate,
                group_transactions: 1,
                group_rows: 1,
                group_bytes: 1,
                group_time: std::time::Duration::from_millis(1),
                apply_connections: 1,
                queue_bytes: 1,
                window_bytes: 1,
            },
            0,
            Seen::default(),
            Some(Intended {
                sql_mode: 0,
                database: "d".into(),
                sql: intended.into(),
            }),
        )
    }

    fn logged(server_id: u32, committed_at: u64, sql: &str) -> Assembled {
        let logged = LoggedQuery {
            database: "d".into(),
            sql: sql.into(),
            session: SessionContext::default(),
        };
        Assembled {
            start: LogPos::new(1, 4),
            end: LogPos::new(1, 100),
            gtid: None,
            server_id,
            committed_at,
            statement: Some(LoggedStatement {
                statement: ddl::recognise_logged(&logged, Flavor::MariaDb),
                logged,
                error_code: 0,
            }),
            changes: Vec::new(),
            spilled: None,
            weight: 0,
        }
    }

    fn reason(filter: &mut OriginFilter, transaction: Assembled) -> Option<Reason> {
        match filter.judge(transaction).unwrap() {
            Origin::Local(_) | Origin::Huge(_) => None,
            Origin::Passed(passed) => Some(passed.reason),
        }
    }

    #[test]
    fn ddl_that_the_server_finished_is_the_engines_once() {
        const ALTER: &str = "ALTER TABLE t ADD COLUMN v INT";
        let mut filter = filter(ALTER);
        // A client's, at its time; and another that was recovered.
        assert!(reason(&mut filter, logged(2, 5, ALTER)).is_none());
        assert!(reason(&mut filter, logged(2, 0, "ALTER TABLE u ADD COLUMN v INT")).is_none());
        assert!(filter.intended().is_some());
        let found = reason(&mut filter, logged(2, 0, ALTER));
        assert!(
            matches!(found, Some(Reason::AppliedDefinition)),
            "{found:?}"
        );
        assert!(filter.intended().is_none());
        // Settled: what looks the same now is a client's.
        assert!(reason(&mut filter, logged(2, 0, ALTER)).is_none());
    }

    #[test]
    fn ddl_that_was_undone_is_run_again() {
        let mut filter = filter("CREATE OR REPLACE TABLE t (id INT PRIMARY KEY)");
        let dropped = "DROP TABLE IF EXISTS `d`.`t` /* generated by ddl recovery */";
        let found = reason(&mut filter, logged(2, 0, dropped));
        assert!(matches!(found, Some(Reason::UndoneDefinition)), "{found:?}");
        assert!(filter.intended().is_some());
        // Run again, and logged as the origin's.
        let create = "CREATE OR REPLACE TABLE t (id INT PRIMARY KEY)";
        let found = reason(&mut filter, logged(1, 9, create));
        assert!(
            matches!(found, Some(Reason::AppliedDefinition)),
            "{found:?}"
        );
        assert!(filter.intended().is_none());
    }

    #[test]
    fn ddl_that_was_run_is_seen_with_the_clock_of_its_place() {
        const CREATE: &str = "CREATE TABLE t (id INT PRIMARY KEY)";
        let intent = Seen {
            position: LogPos::new(1, 500),
            clock: 70,
        };
        let mut known = filter(CREATE);
        known.intent = Some(intent);
        known.judge(logged(1, 9, CREATE)).unwrap();
        // Of an earlier version's intent the clock is not known: it cannot be told where it stands.
        let mut unknown = filter(CREATE);
        unknown.intent = Some(Seen { clock: 0, ..intent });
        unknown.judge(logged(1, 9, CREATE)).unwrap();
        for (filter, seen, unplaced) in [
            (&mut known, intent, false),
            (&mut unknown, Seen::default(), true),
        ] {
            let behind = logged(2, 9, "ALTER TABLE t ADD COLUMN v INT");
            let Origin::Local(local) = filter.judge(behind).unwrap() else {
                panic!("a client's statement");
            };
            assert_eq!((local.seen, local.unplaced), (seen, unplaced));
        }
    }
}
