//! What a statement in the log is, and which databases and tables it touches.
//!
//! Pure: bytes in, a [`Statement`] out. It knows nothing of configuration or servers; the rules for
//! what is replicated, left out and refused are in `docs/decisions/0003-ddl.md`.

mod cursor;
mod lexer;
mod reader;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use self::lexer::Quoting;
use self::reader::recognise_quoted;
use crate::decode::event::{Flavor, LoggedQuery};

/// `ANSI_QUOTES` in `sql_mode`, the same bit on both servers.
const MODE_ANSI_QUOTES: u64 = 1 << 2;
/// `NO_BACKSLASH_ESCAPES` in `sql_mode`, the same bit on both servers.
const MODE_NO_BACKSLASH_ESCAPES: u64 = 1 << 20;

/// A table, view or sequence that a statement names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ObjectName {
    /// As written, or the session's default database.
    pub database: String,
    /// As written.
    pub name: String,
}

/// Name of an XA transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Xid {
    /// Global part.
    pub gtrid: Vec<u8>,
    /// Branch qualifier.
    pub bqual: Vec<u8>,
    /// Format number; 1 where the statement does not say.
    pub format: u64,
}

impl fmt::Display for Xid {
    /// As the statements take it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |f: &mut fmt::Formatter<'_>, bytes: &[u8]| {
            let plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'\'' | b'\\');
            match std::str::from_utf8(bytes) {
                Ok(text) if bytes.iter().all(plain) => write!(f, "'{text}'"),
                _ => {
                    f.write_str("x'")?;
                    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                    f.write_str("'")
                }
            }
        };
        part(f, &self.gtrid)?;
        if !self.bqual.is_empty() || self.format != 1 {
            f.write_str(",")?;
            part(f, &self.bqual)?;
        }
        if self.format != 1 {
            write!(f, ",{}", self.format)?;
        }
        Ok(())
    }
}

/// What a statement in the log is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// `BEGIN`, `START TRANSACTION`.
    Begin,
    /// `COMMIT`: ends a transaction of tables without transactions.
    Commit,
    /// `ROLLBACK`: ends a transaction that is to take no effect where it could be undone.
    Rollback,
    /// `SAVEPOINT name`: the place that `ROLLBACK TO` goes back to.
    Savepoint(String),
    /// `ROLLBACK TO name`: what the log has since that savepoint is to be undone.
    RollbackTo(String),
    /// `RELEASE SAVEPOINT name`: changes nothing.
    ReleaseSavepoint,
    /// `XA START xid`: opens a transaction whose rows follow.
    XaStart(Xid),
    /// `XA END xid`: its rows are all there; a prepare or one-phase commit follows.
    XaEnd(Xid),
    /// `XA PREPARE xid` as a statement.
    XaPrepare(Xid),
    /// `XA COMMIT xid`: what was prepared under it takes effect now.
    XaCommit {
        /// Which one.
        xid: Xid,
        /// It was not prepared before: its rows stand just before this statement.
        one_phase: bool,
    },
    /// `XA ROLLBACK xid`: what was prepared under it never takes effect.
    XaRollback(Xid),
    /// Changes the schema: replicated.
    Ddl(Ddl),
    /// Makes, changes or drops only temporary tables: left out. The rows that temporary tables give
    /// to others are in the log as rows.
    TemporaryTable,
    /// Upkeep of one server, without effect on the data (`ANALYZE`, `FLUSH`, tablespaces, plugins):
    /// left out.
    Administrative(&'static str),
    /// Accounts, roles and grants: left out; each node keeps its own.
    Account(&'static str),
    /// A stored procedure, function, event or package, or the drop of a trigger: left out. What
    /// such programs did at the origin is in the log as rows.
    StoredProgram(&'static str),
    /// Makes a trigger. Left out like other programs where rows are written as row events, which fire none; else as
    /// [`Self::Refused`].
    Trigger(Refusal),
    /// Cannot be replicated without risk: halts the link if any of `databases` is replicated.
    Refused(Refusal),
    /// Not known. Its first words. Halts the link: it may change data.
    Other(String),
}

/// Why a statement is not replicated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What the statement is, such as `CREATE TRIGGER`.
    pub kind: &'static str,
    /// Why not, and what to do.
    pub why: &'static str,
    /// The databases that it touches. Empty where it does not say.
    pub databases: Vec<String>,
}

/// Kinds of replicated DDL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the statement of that name")]
pub enum DdlKind {
    CreateDatabase,
    AlterDatabase,
    DropDatabase,
    CreateTable,
    AlterTable,
    DropTable,
    RenameTable,
    TruncateTable,
    CreateIndex,
    DropIndex,
    CreateView,
    AlterView,
    DropView,
}

/// A replicated DDL statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ddl {
    /// What it does.
    pub kind: DdlKind,
    /// Every database that it touches or reads the shape of a table from, once each.
    pub databases: Vec<String>,
    /// Tables and views that it makes, changes or drops, old and new names both. With
    /// [`DdlKind::DropDatabase`] and [`DdlKind::AlterDatabase`] empty: all of that database's.
    pub tables: Vec<ObjectName>,
    /// MySQL: a `CREATE TABLE .. SELECT` whose rows follow in the same transaction. MariaDB's text
    /// does not tell; there it is a `CREATE TABLE` in a group whose GTID event is not standalone.
    pub create_table_select: bool,
    /// The bytes of `START TRANSACTION` that the server added.
    added: Option<Range<usize>>,
}

/// Whether the databases of a statement are replicated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coverage {
    /// All are.
    Replicated,
    /// None is: the statement is left out.
    LeftOut,
    /// Some are: the statement can neither be run nor left out.
    Mixed,
}

/// Says whether all, none or some of `databases` are replicated; `includes` tells for one. A
/// statement that names no database counts as replicated: it must not be passed over.
pub fn coverage(databases: &[String], includes: impl Fn(&str) -> bool) -> Coverage {
    let included = databases
        .iter()
        .filter(|database| includes(database))
        .count();
    if included == databases.len() {
        Coverage::Replicated
    } else if included == 0 {
        Coverage::LeftOut
    } else {
        Coverage::Mixed
    }
}

/// Recognises a statement from the log with the lexical rules that it was written under.
#[must_use]
pub fn recognise_logged(statement: &LoggedQuery, flavor: Flavor) -> Statement {
    let mode = statement.session.sql_mode.unwrap_or(0);
    let quoting = Quoting {
        ansi_quotes: mode & MODE_ANSI_QUOTES != 0,
        no_backslash_escapes: mode & MODE_NO_BACKSLASH_ESCAPES != 0,
    };
    recognise_quoted(&statement.sql, &statement.database, flavor, quoting)
}

/// Recognises a statement. `ansi_quotes`: the session had `ANSI_QUOTES` in its `sql_mode`.
///
/// Never fails: what cannot be read is [`Statement::Other`].
#[must_use]
pub fn recognise(
    sql: &[u8],
    default_database: &str,
    flavor: Flavor,
    ansi_quotes: bool,
) -> Statement {
    let quoting = Quoting {
        ansi_quotes,
        no_backslash_escapes: false,
    };
    recognise_quoted(sql, default_database, flavor, quoting)
}

/// The statement as it is to be run at the target: without the `START TRANSACTION` that MySQL adds
/// to a `CREATE TABLE .. SELECT`, else as it is.
#[must_use]
pub fn rerunnable<'sql>(statement: &Statement, sql: &'sql [u8]) -> Cow<'sql, [u8]> {
    if let Statement::Ddl(Ddl {
        added: Some(added), ..
    }) = statement
        && let (Some(before), Some(after)) = (sql.get(..added.start), sql.get(added.end..))
    {
        return Cow::Owned([before, after].concat());
    }
    Cow::Borrowed(sql)
}

/// What a statement that MariaDB logged while it recovered from a crash says about the statement that
/// was being run. Such events are told by the timestamp 0 in their header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// The server finished it: it is done.
    Finished,
    /// The server dropped some of what it is about: it has to be run again, and may then find
    /// nothing to drop ([`tolerates`]).
    Partly,
    /// The server speaks of another statement.
    Unrelated,
}

/// Compares what MariaDB logged during crash recovery (`logged`) with the statement that was being
/// run (`intended`); each with its bytes.
#[must_use]
pub fn recovery(intended: (&Ddl, &[u8]), logged: (&Statement, &[u8])) -> Recovery {
    let (intended, intended_sql) = intended;
    let (Statement::Ddl(found), found_sql) = logged else {
        return Recovery::Unrelated;
    };
    if found.kind == intended.kind && found_sql.trim_ascii() == intended_sql.trim_ascii() {
        return Recovery::Finished;
    }
    // Only drops are logged in other words than the client's.
    const ADDED: &[u8] = b"/* generated by ddl recovery */";
    if !found_sql.ends_with(ADDED) {
        return Recovery::Unrelated;
    }
    let all_intended = found
        .tables
        .iter()
        .all(|table| intended.tables.contains(table));
    match (intended.kind, found.kind) {
        (DdlKind::DropTable, DdlKind::DropTable) | (DdlKind::DropView, DdlKind::DropView)
            if all_intended =>
        {
            if found.tables.len() == intended.tables.len() {
                Recovery::Finished
            } else {
                Recovery::Partly
            }
        }
        // OR REPLACE: dropped and not yet made.
        (DdlKind::CreateTable, DdlKind::DropTable) | (DdlKind::CreateView, DdlKind::DropView)
            if all_intended =>
        {
            Recovery::Partly
        }
        (DdlKind::DropDatabase, DdlKind::DropTable | DdlKind::DropView)
            if found.databases == intended.databases =>
        {
            Recovery::Partly
        }
        _ => Recovery::Unrelated,
    }
}

/// Whether the target's error `code` for this statement is no failure: what it was to drop is gone.
/// `rerun`: it may have been run before a crash already.
///
/// MariaDB drops what there is of `DROP TABLE a, missing` and of `DROP VIEW a, missing`, logs the
/// statement and reports the error; run at the target it reports the same error.
#[must_use]
pub fn tolerates(ddl: &Ddl, flavor: Flavor, code: u16, rerun: bool) -> bool {
    const UNKNOWN_TABLE: u16 = 1051;
    const UNKNOWN_VIEW: u16 = 4092;
    const UNKNOWN_DATABASE: u16 = 1008;
    if flavor != Flavor::MariaDb {
        return false;
    }
    let several = rerun || ddl.tables.len() > 1;
    match ddl.kind {
        DdlKind::DropTable => code == UNKNOWN_TABLE && several,
        DdlKind::DropView => (code == UNKNOWN_VIEW || code == UNKNOWN_TABLE) && several,
        DdlKind::DropDatabase => code == UNKNOWN_DATABASE && rerun,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
