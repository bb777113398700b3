//! The events that the engine acts on, as plain values.

use std::sync::Arc;

use crate::gtid::Gtid;
use crate::row::{RowChange, SourceTable};

/// Which server's dialect a log, a connection or a statement is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flavor {
    /// Oracle MySQL and builds of it.
    MySql,
    /// MariaDB.
    MariaDb,
}

/// The parts of an event's header that matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventHeader {
    /// Seconds since 1970.
    pub timestamp: u32,
    /// Raw event type.
    pub event_type: u8,
    /// The server where the event came to be.
    pub server_id: u32,
    /// End of the event in its file; 0 for events that are not in the file.
    pub end_log_pos: u32,
    /// Raw flags.
    pub flags: u16,
}

/// Session settings that a statement in the log was run with. `None`: the log does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionContext {
    /// `sql_mode` bits as the origin's flavor numbers them.
    pub sql_mode: Option<u64>,
    /// `foreign_key_checks`, `unique_checks`, `sql_auto_is_null` and others (Q_FLAGS2).
    pub flags2: Option<u32>,
    /// Collation numbers of `character_set_client`, `collation_connection`, `collation_server`.
    pub charsets: Option<[u16; 3]>,
    /// `time_zone`.
    pub time_zone: Option<String>,
    /// `lc_time_names` number.
    pub lc_time_names: Option<u16>,
    /// `collation_database` number.
    pub collation_database: Option<u16>,
    /// MySQL: `default_collation_for_utf8mb4` number.
    pub default_collation_for_utf8mb4: Option<u16>,
    /// MySQL: `sql_require_primary_key`.
    pub sql_require_primary_key: Option<bool>,
    /// MySQL: `explicit_defaults_for_timestamp`.
    pub explicit_defaults_for_timestamp: Option<bool>,
    /// `auto_increment_increment` and `auto_increment_offset`.
    pub auto_increment: Option<(u16, u16)>,
    /// Seconds since 1970 at which the statement began (for `SET TIMESTAMP`).
    pub timestamp: u32,
    /// Microseconds within it, where the log says.
    pub microseconds: u32,
    /// Why not all settings could be read, where that is so: the statement must not be run then.
    pub unreadable: Option<String>,
}

/// A statement as the log has it.
#[derive(Debug, Clone, PartialEq)]
pub struct LoggedQuery {
    /// Default database of the session that ran it; empty for none.
    pub database: String,
    /// The statement's bytes, in the client character set of `session`.
    pub sql: Vec<u8>,
    /// Settings that give the statement its meaning.
    pub session: SessionContext,
}

/// Flags of a rows event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RowsFlags(pub u16);

impl RowsFlags {
    const STATEMENT_END: u16 = 0x01;
    const NO_FOREIGN_KEY_CHECKS: u16 = 0x02;
    const USE_SQL_FOREIGN_KEY: u16 = 0x10;

    /// The last rows event of its statement.
    #[must_use]
    pub fn ends_statement(self) -> bool {
        self.0 & Self::STATEMENT_END != 0
    }

    /// The rows were written without foreign key checks: by a session with `foreign_key_checks=0`,
    /// or (with [`Self::cascades_are_logged`]) by a cascade.
    #[must_use]
    pub fn no_foreign_key_checks(self) -> bool {
        self.0 & Self::NO_FOREIGN_KEY_CHECKS != 0
    }

    /// MySQL: what the foreign keys cascaded to is in the log as rows of its own.
    #[must_use]
    pub fn cascades_are_logged(self) -> bool {
        self.0 & Self::USE_SQL_FOREIGN_KEY != 0
    }
}

/// One event, decoded.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Start of a file (or of the stream): what the following bytes are like.
    FormatDescription {
        /// Such as `9.7.4` or `10.11.19-MariaDB-log`.
        server_version: String,
    },
    /// The log goes on in another file.
    Rotate {
        /// File name.
        file: String,
        /// Offset of its first event.
        offset: u64,
    },
    /// The start of a transaction (MySQL GTID, tagged and anonymous; MariaDB GTID).
    Gtid {
        /// `None` for anonymous transactions.
        gtid: Option<Gtid>,
        /// Commit time at the immediate server, microseconds since 1970, where recorded (MySQL).
        immediate_commit: Option<u64>,
        /// Commit time at the first server, where recorded (MySQL).
        original_commit: Option<u64>,
        /// MariaDB: the group is one statement without an end event (DDL).
        standalone: bool,
        /// MariaDB: the group belongs to a prepared XA transaction (prepare or its completion).
        xa: bool,
        /// MariaDB: the group is the start, the commit or the rollback of an ALTER that is logged in
        /// two phases (`binlog_alter_two_phase=1`).
        two_phase_alter: bool,
    },
    /// A statement: BEGIN, COMMIT, DDL, SAVEPOINT, XA.
    Query {
        /// The statement; behind a pointer, for events are handed on by value and most are small.
        query: Box<LoggedQuery>,
        /// Error that the statement met at the origin (0 for none).
        error_code: u16,
    },
    /// Commit of a transaction.
    Xid,
    /// End of an XA transaction's first phase, or of a one-phase commit.
    XaPrepare {
        /// `XA COMMIT .. ONE PHASE`: a commit.
        one_phase: bool,
    },
    /// A table map: names the table that the next row events mean. Already remembered.
    TableMap(Arc<SourceTable>),
    /// Row changes.
    Rows {
        /// Their table, as mapped before.
        table: Arc<SourceTable>,
        /// Raw flags of the event; see [`RowsFlags`].
        flags: RowsFlags,
        /// In the log's order.
        changes: Vec<RowChange>,
    },
    /// A compressed transaction (MySQL), already unpacked. The inner events carry no positions.
    Payload(Vec<(EventHeader, Event)>),
    /// The server is alive and has nothing new.
    Heartbeat,
    /// The server lost part of its log: what it says about that.
    Incident(String),
    /// The server stopped, or lists its GTIDs, or annotates: nothing to do.
    Ignorable,
}
