//! Whole transactions, and the stages that they go through.
//!
//! The stage types make skipping a stage a compile error: [`crate::assemble`] makes an
//! [`Assembled`], only [`crate::origin`] can make a [`Local`] of it, and only a `Local` of another
//! node can be applied.

use std::sync::Arc;

use crate::decode::ddl::{Ddl, DdlKind, Statement, Xid};
use crate::decode::event::LoggedQuery;
use crate::error::Result;
use crate::gtid::Gtid;
use crate::position::LogPos;
use crate::row::{RowChange, SourceTable};
use crate::spill::{Parts, Spilled};

/// One row's change, with its table.
#[derive(Debug, Clone, PartialEq)]
pub struct TableChange {
    /// The table as it was at the origin.
    pub table: Arc<SourceTable>,
    /// What happened.
    pub change: RowChange,
    /// What its origin did about foreign keys.
    pub foreign_keys: ForeignKeyMode,
}

/// What the origin did about foreign keys as it wrote a row, and so what the target has to do.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Hash, serde::Serialize, serde::Deserialize,
)]
pub enum ForeignKeyMode {
    /// The storage engine checked, and cascaded without a trace in the log: so does the target's.
    #[default]
    Engine,
    /// MySQL 9.6 and later: checked, and what it cascaded to is in the log. The target must not
    /// cascade again, and its server does not check then: see `apply::foreign_key`.
    Logged,
    /// The session had `foreign_key_checks=0`: neither checked nor cascaded, here as there.
    Off,
}

/// A transaction as it stands in one server's log.
#[derive(Debug, Clone)]
pub struct Assembled {
    /// Where its first event begins.
    pub start: LogPos,
    /// Where its last event ends: the place to go on from once it is settled.
    pub end: LogPos,
    /// Its GTID, where the server has GTIDs.
    pub gtid: Option<Gtid>,
    /// `server_id` in its event headers.
    pub server_id: u32,
    /// Commit time at the server, in microseconds since 1970 (whole seconds on MariaDB).
    pub committed_at: u64,
    /// The statement, where it is one. With `CREATE TABLE .. SELECT` rows follow it.
    pub statement: Option<LoggedStatement>,
    /// Row changes in the order of the log. Of a transaction that an engine applied only those of the
    /// engine's own tables from its marker on: nobody needs the others.
    pub changes: Vec<TableChange>,
    /// Row changes that did not fit into memory: then `changes` has only those of the engine's own
    /// tables.
    pub spilled: Option<Spilled>,
    /// Memory that it takes, roughly, in bytes.
    pub weight: usize,
}

/// An XA transaction whose first phase stands in a log: its rows are locked at its node until it is
/// decided, and nobody sees them.
#[derive(Debug, Clone)]
pub struct XaPrepared {
    /// Its name. It is free again once it was decided.
    pub xid: Xid,
    /// Its rows, and the place and time of the XA PREPARE.
    pub whole: Assembled,
}

/// The second phase of an XA transaction.
#[derive(Debug, Clone)]
pub struct XaDecided {
    /// Its name.
    pub xid: Xid,
    /// XA COMMIT, and not XA ROLLBACK.
    pub commit: bool,
    /// All but the rows: place, time and GTID of the transaction are those of the decision.
    pub head: Assembled,
}

/// A statement in the log, recognised.
#[derive(Debug, Clone)]
pub struct LoggedStatement {
    /// What it is.
    pub statement: Statement,
    /// Its bytes and settings.
    pub logged: LoggedQuery,
    /// Error that it met at its origin, having done some of its work (0 for none).
    pub error_code: u16,
}

/// A transaction that clients of the log's node wrote, or an upstream source fed to it: not yet at
/// the other nodes. Made only by [`crate::origin`].
#[derive(Debug, Clone)]
pub struct Local {
    /// Where its first event begins.
    pub start: LogPos,
    /// Where its last event ends.
    pub end: LogPos,
    /// Its GTID, where the server has GTIDs.
    pub gtid: Option<Gtid>,
    /// Commit time at its node, microseconds since 1970.
    pub committed_at: u64,
    /// Effective timestamp, microseconds since 1970; see [`crate::clock`].
    pub effective: u64,
    /// What it had seen of the other node's log.
    pub seen: Seen,
    /// The replicated DDL statement, where it is one.
    pub definition: Option<Definition>,
    /// Changes of replicated tables, in the order of the log.
    pub changes: Vec<TableChange>,
    /// Memory that it takes, roughly, in bytes.
    pub weight: usize,
    /// Number, within its transaction, of its first write: not 0 in a part of a [`Huge`] one.
    pub first_write: u32,
    /// Whether it only touches the engine's own barrier table.
    pub barrier: bool,
    /// Whether DDL of the other node was run in front of it, and `seen` does not say so because it is
    /// not known which one.
    pub unplaced: bool,
    /// When its log file was begun; see [`crate::source::Source::birth`].
    pub log_birth: u32,
    /// Nobody reads it: it is there so that nobody else can make one.
    pub(crate) _sealed: Sealed,
}

/// A transaction like [`Local`] whose row changes are on disk, because they do not fit into memory.
/// Made only by [`crate::origin`].
#[derive(Debug)]
pub struct Huge {
    head: Local,
    spilled: Spilled,
}

impl Huge {
    /// For the origin filter only; `head` is the transaction without the changes on disk.
    pub(crate) fn new(head: Local, spilled: Spilled) -> Self {
        Self { head, spilled }
    }

    /// The transaction, without its changes.
    #[must_use]
    pub fn head(&self) -> &Local {
        &self.head
    }

    /// The file that it was in, for the head: see [`Local::log_birth`].
    pub(crate) fn born(&mut self, log_birth: u32) {
        self.head.log_birth = log_birth;
    }

    /// Number of row changes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.head.changes.len() + self.spilled.len()
    }

    /// Whether there is no change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory that its changes on disk would take, roughly, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.spilled.weight()
    }

    /// Its changes in the log's order, in parts that each look like a transaction of their own.
    #[must_use]
    pub fn parts(&self) -> HugeParts<'_> {
        HugeParts {
            huge: self,
            parts: self.spilled.parts(),
            begun: false,
            writes: 0,
        }
    }
}

/// Gives the parts of a [`Huge`] transaction.
#[derive(Debug)]
pub struct HugeParts<'h> {
    huge: &'h Huge,
    parts: Parts,
    begun: bool,
    /// Most writes in the parts so far: a change is one or two.
    writes: u32,
}

impl HugeParts<'_> {
    /// The next part; `None` behind the last one.
    ///
    /// # Errors
    /// [`crate::Error::Store`].
    pub fn next_part(&mut self) -> Result<Option<Local>> {
        let head = &self.huge.head;
        let changes = if !self.begun && !head.changes.is_empty() {
            Some(head.changes.clone())
        } else {
            self.parts.next_part()?
        };
        self.begun = true;
        let Some(changes) = changes else {
            return Ok(None);
        };
        let first_write = self.writes;
        let writes = u32::try_from(changes.len() * 2).unwrap_or(u32::MAX);
        self.writes = self.writes.saturating_add(writes);
        Ok(Some(Local {
            changes,
            first_write,
            definition: None,
            gtid: head.gtid.clone(),
            _sealed: head._sealed.clone(),
            ..*head
        }))
    }
}

/// Keeps [`Local`] from being made anywhere but in [`crate::origin`].
#[derive(Debug, Clone)]
pub(crate) struct Sealed(());

impl Sealed {
    /// For the origin filter only.
    pub(crate) fn by_origin_filter() -> Self {
        Self(())
    }
}

/// How much of the other node's log a node had applied at a place in its own log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// Position in the other node's log.
    pub position: LogPos,
    /// The other node's effective clock there.
    pub clock: u64,
}

/// What a DDL statement does to the rows of its tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowEffect {
    /// They stay.
    Kept,
    /// They go, and the table stays: a delete of every row.
    Emptied,
    /// They go, or some of them, or to another table: this must not meet rows which the origin had
    /// not seen.
    Removed,
}

impl Definition {
    /// The tables that it makes, changes or removes, as (database, table); with an empty table name
    /// where it is about a whole database.
    #[must_use]
    pub fn tables(&self) -> Vec<(&str, &str)> {
        if matches!(self.ddl.kind, DdlKind::DropDatabase) {
            let databases = self.ddl.databases.iter();
            return databases.map(|database| (database.as_str(), "")).collect();
        }
        let tables = self.ddl.tables.iter();
        tables
            .map(|table| (table.database.as_str(), table.name.as_str()))
            .collect()
    }

    /// What it does to the rows of its tables.
    #[must_use]
    pub fn effect(&self) -> RowEffect {
        match self.ddl.kind {
            DdlKind::TruncateTable => RowEffect::Emptied,
            _ if self.removes_rows() => RowEffect::Removed,
            _ => RowEffect::Kept,
        }
    }

    fn removes_rows(&self) -> bool {
        let words = || {
            String::from_utf8_lossy(&self.statement.sql)
                .to_ascii_uppercase()
                .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .filter(|word| !word.is_empty())
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        match self.ddl.kind {
            DdlKind::DropDatabase | DdlKind::DropTable | DdlKind::RenameTable => true,
            // RENAME TO names two tables; partitions take their rows along.
            DdlKind::AlterTable => {
                self.ddl.tables.len() > 1
                    || words().windows(2).any(|pair| {
                        pair[1] == "PARTITION"
                            && matches!(
                                pair[0].as_str(),
                                "DROP" | "TRUNCATE" | "EXCHANGE" | "CONVERT"
                            )
                    })
            }
            DdlKind::CreateTable => words()
                .windows(2)
                .any(|pair| pair[0] == "OR" && pair[1] == "REPLACE"),
            DdlKind::CreateDatabase
            | DdlKind::AlterDatabase
            | DdlKind::TruncateTable
            | DdlKind::CreateIndex
            | DdlKind::DropIndex
            | DdlKind::CreateView
            | DdlKind::AlterView
            | DdlKind::DropView => false,
        }
    }
}

/// A DDL statement that is replicated.
#[derive(Debug, Clone)]
pub struct Definition {
    /// What it does and touches.
    pub ddl: Ddl,
    /// Its bytes as they are to be run, and its settings.
    pub statement: LoggedQuery,
    /// Error that it met at its origin, and has to meet at the target too (0 for none).
    pub error_code: u16,
}
