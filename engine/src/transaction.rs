//! Whole transactions, and the stages that they go through.
//!
//! The stage types make skipping a stage a compile error: only [`crate::assemble`] makes an
//! [`Assembled`], only [`crate::origin`] turns one into a [`Foreign`], and only a `Foreign` can be
//! applied.

use std::sync::Arc;

use crate::decode::event::SessionContext;
use crate::gtid::Gtid;
use crate::position::LogPos;
use crate::row::{RowChange, SourceTable};

/// One row's change, with its table.
#[derive(Debug, Clone, PartialEq)]
pub struct TableChange {
    /// The table as it was at the origin.
    pub table: Arc<SourceTable>,
    /// What happened.
    pub change: RowChange,
}

/// A DDL statement as the log has it.
#[derive(Debug, Clone, PartialEq)]
pub struct DdlStatement {
    /// Default database of the session that ran it; empty for none.
    pub database: String,
    /// The statement's bytes, in the client character set of `session`.
    pub sql: Vec<u8>,
    /// Settings that give the statement its meaning.
    pub session: SessionContext,
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
    /// The DDL statement, where it is one. With `CREATE TABLE .. SELECT` rows follow it.
    pub ddl: Option<DdlStatement>,
    /// Row changes in the order of the log.
    pub changes: Vec<TableChange>,
    /// Memory that it takes, roughly, in bytes.
    pub weight: usize,
}
