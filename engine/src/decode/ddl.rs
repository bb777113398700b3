//! What a statement in the log is, and which databases and tables it touches.
//!
//! Pure: bytes in, a [`Statement`] out. It knows nothing of configuration or servers; the rules for
//! what is replicated, left out and refused are in `docs/decisions/0003-ddl.md`.

mod lexer;

use std::borrow::Cow;
use std::ops::Range;

use self::lexer::{Kind, Quoting, Token};
use crate::decode::event::Flavor;
use crate::transaction::DdlStatement;

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

/// What a statement in the log is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// `BEGIN`, `START TRANSACTION`.
    Begin,
    /// `COMMIT`: ends a transaction of tables without transactions.
    Commit,
    /// `ROLLBACK`: ends a transaction that is to take no effect where it could be undone.
    Rollback,
    /// `SAVEPOINT name`: changes nothing.
    Savepoint,
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
pub fn recognise_logged(statement: &DdlStatement, flavor: Flavor) -> Statement {
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

fn recognise_quoted(
    sql: &[u8],
    default_database: &str,
    flavor: Flavor,
    quoting: Quoting,
) -> Statement {
    let tokens = lexer::tokens(sql, flavor, quoting);
    let mut reader = Reader {
        tokens: &tokens,
        at: 0,
        default_database,
    };
    reader
        .statement()
        .unwrap_or_else(|| Statement::Other(first_words(&tokens)))
}

/// The first words of a statement that is not known. Never a string of it: it may hold a secret.
fn first_words(tokens: &[Token]) -> String {
    let words = tokens.iter().map_while(|token| match &token.kind {
        Kind::Word(word) => Some(String::from_utf8_lossy(word)),
        _ => None,
    });
    words.take(4).collect::<Vec<_>>().join(" ")
}

const WHY_SEQUENCE: &str = "two masters would hand out the same values of a sequence, and a sequence \
     has no key to settle that by; use AUTO_INCREMENT with an offset per node, or keep the sequence \
     in a database that is not replicated";
const WHY_TRIGGER: &str = "a trigger would fire a second time for every applied row; drop it at the \
     origin, then go on behind this statement";
const WHY_TABLESPACE: &str =
    "the rows are in a file that the log does not carry; load them as rows";
const WHY_STATEMENT: &str = "the log has a change as a statement and not as rows; set \
     binlog_format=ROW for every session of the origin";
const WHY_SELECT: &str = "the log has the SELECT and not the rows that it gave; set \
     binlog_format=ROW for every session of the origin";
const WHY_NAME: &str = "a name in it is not UTF-8; run the statement with SET NAMES utf8mb4";
const WHY_VALUES: &str = "the new column's value is computed anew on every node and would differ; \
     add the column without that default, fill it with UPDATE, then set the default";
const WHY_EXTERNAL: &str = "its rows are kept outside of the tables that the log speaks of; make it \
     on each node by hand, in a database that is not replicated";

/// Functions whose value differs from node to node. The clock's are not among them: the statement
/// is run under the origin's TIMESTAMP.
const DIFFERING: [&str; 18] = [
    "UUID",
    "UUID_SHORT",
    "UUID_V4",
    "UUID_V7",
    "SYS_GUID",
    "RAND",
    "RANDOM_BYTES",
    "SYSDATE",
    "CONNECTION_ID",
    "CURRENT_USER",
    "USER",
    "SESSION_USER",
    "SYSTEM_USER",
    "CURRENT_ROLE",
    "LAST_INSERT_ID",
    "NEXTVAL",
    "LASTVAL",
    "VERSION",
];

/// What stands behind `CREATE`, `ALTER`, `DROP` and decides what the statement is.
const SUBJECTS: [&str; 24] = [
    "DATABASE",
    "SCHEMA",
    "TABLE",
    "TABLES",
    "INDEX",
    "VIEW",
    "SEQUENCE",
    "TRIGGER",
    "PROCEDURE",
    "FUNCTION",
    "EVENT",
    "PACKAGE",
    "LIBRARY",
    "USER",
    "ROLE",
    "SERVER",
    "TABLESPACE",
    "LOGFILE",
    "INSTANCE",
    "RESOURCE",
    "REFERENCE",
    "CATALOG",
    "MASKING",
    "PREPARE",
];

/// Reads tokens from the left. A method that gives `None` did not find what it looks for; the
/// statement is then unknown.
struct Reader<'a> {
    tokens: &'a [Token],
    at: usize,
    default_database: &'a str,
}

/// A name in the statement: database (where given) and object.
struct Name {
    object: ObjectName,
    utf8: bool,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.at)
    }

    fn rest(&self) -> &'a [Token] {
        self.tokens.get(self.at..).unwrap_or_default()
    }

    /// Passes over `words` if all of them are next.
    fn skip(&mut self, words: &[&str]) -> bool {
        let rest = self.rest();
        let found =
            words.len() <= rest.len() && words.iter().zip(rest).all(|(word, token)| token.is(word));
        if found {
            self.at += words.len();
        }
        found
    }

    fn skip_symbol(&mut self, symbol: u8) -> bool {
        let found = self.peek().is_some_and(|token| token.is_symbol(symbol));
        self.at += usize::from(found);
        found
    }

    fn skip_if_exists(&mut self) {
        let _ = self.skip(&["IF", "EXISTS"]) || self.skip(&["IF", "NOT", "EXISTS"]);
    }

    fn identifier(&mut self) -> Option<(String, bool)> {
        let bytes = match &self.peek()?.kind {
            Kind::Word(bytes) | Kind::Quoted(bytes) => bytes,
            _ => return None,
        };
        let text = std::str::from_utf8(bytes);
        let identifier = match text {
            Ok(text) => (text.to_owned(), true),
            Err(_) => (String::from_utf8_lossy(bytes).into_owned(), false),
        };
        self.at += 1;
        Some(identifier)
    }

    /// `name`, `.name` or `database.name`.
    fn name(&mut self) -> Option<Name> {
        self.skip_symbol(b'.');
        let (first, first_utf8) = self.identifier()?;
        if self.skip_symbol(b'.') {
            let (second, second_utf8) = self.identifier()?;
            return Some(Name {
                object: ObjectName {
                    database: first,
                    name: second,
                },
                utf8: first_utf8 && second_utf8,
            });
        }
        Some(Name {
            object: ObjectName {
                database: self.default_database.to_owned(),
                name: first,
            },
            utf8: first_utf8,
        })
    }

    /// Names with commas between them.
    fn names(&mut self) -> Option<Vec<Name>> {
        let mut names = vec![self.name()?];
        while self.skip_symbol(b',') {
            names.push(self.name()?);
        }
        Some(names)
    }

    fn statement(&mut self) -> Option<Statement> {
        // MariaDB: SET STATEMENT variable=value, .. FOR statement. FOR is reserved.
        if self.skip(&["SET", "STATEMENT"]) {
            let length = self
                .rest()
                .iter()
                .position(|token| token.depth == 0 && token.is("FOR"))?;
            self.at += length + 1;
        }
        self.transaction_control()
            .or_else(|| self.schema_change())
            .or_else(|| self.data_change())
            .or_else(|| self.upkeep())
    }

    fn transaction_control(&mut self) -> Option<Statement> {
        let statement = if self.skip(&["BEGIN"]) || self.skip(&["START", "TRANSACTION"]) {
            Statement::Begin
        } else if self.skip(&["COMMIT"]) {
            Statement::Commit
        } else if self.skip(&["ROLLBACK"]) {
            let _ = self.skip(&["WORK"]);
            if self.skip(&["TO"]) {
                let _ = self.skip(&["SAVEPOINT"]);
                Statement::RollbackTo(self.identifier()?.0)
            } else {
                Statement::Rollback
            }
        } else if self.skip(&["SAVEPOINT"]) {
            Statement::Savepoint
        } else if self.skip(&["RELEASE", "SAVEPOINT"]) {
            Statement::ReleaseSavepoint
        } else if self.skip(&["XA"]) {
            if self.skip(&["START"]) || self.skip(&["BEGIN"]) {
                Statement::XaStart(self.xid()?)
            } else if self.skip(&["END"]) {
                Statement::XaEnd(self.xid()?)
            } else if self.skip(&["PREPARE"]) {
                Statement::XaPrepare(self.xid()?)
            } else if self.skip(&["COMMIT"]) {
                let xid = self.xid()?;
                let one_phase = self.skip(&["ONE", "PHASE"]);
                Statement::XaCommit { xid, one_phase }
            } else if self.skip(&["ROLLBACK"]) {
                Statement::XaRollback(self.xid()?)
            } else {
                return None;
            }
        } else {
            return None;
        };
        Some(statement)
    }

    fn xid(&mut self) -> Option<Xid> {
        let gtrid = self.literal()?;
        let mut bqual = Vec::new();
        let mut format = 1;
        if self.skip_symbol(b',') {
            bqual = self.literal()?;
            if self.skip_symbol(b',') {
                let (number, _) = self.identifier()?;
                format = match number.strip_prefix("0x") {
                    Some(digits) => u64::from_str_radix(digits, 16).ok()?,
                    None => number.parse().ok()?,
                };
            }
        }
        Some(Xid {
            gtrid,
            bqual,
            format,
        })
    }

    /// `'text'`, `X'hex'` or `0xhex`.
    fn literal(&mut self) -> Option<Vec<u8>> {
        if self.skip(&["X"]) {
            let Kind::Text(digits) = &self.peek()?.kind else {
                return None;
            };
            let bytes = unhex(digits);
            self.at += 1;
            return bytes;
        }
        let bytes = match &self.peek()?.kind {
            Kind::Text(text) => Some(text.clone()),
            Kind::Word(word) => unhex(word.strip_prefix(b"0x")?),
            _ => None,
        };
        self.at += 1;
        bytes
    }

    fn schema_change(&mut self) -> Option<Statement> {
        if self.skip(&["CREATE"]) {
            self.create()
        } else if self.skip(&["ALTER"]) {
            self.alter()
        } else if self.skip(&["DROP"]) {
            self.drop()
        } else if self.skip(&["RENAME"]) {
            self.rename()
        } else if self.skip(&["TRUNCATE"]) {
            let _ = self.skip(&["TABLE"]);
            let table = self.name()?;
            Some(ddl(DdlKind::TruncateTable, vec![table]))
        } else {
            None
        }
    }

    /// Goes forward to the word that says what is made, changed or dropped, past `OR REPLACE`,
    /// `TEMPORARY`, `UNIQUE`, `DEFINER = ..` and the like. Gives it and whether `TEMPORARY` was
    /// before it.
    fn subject(&mut self) -> Option<(&'static str, bool)> {
        let mut temporary = false;
        let mut passed = 0;
        while let Some(token) = self.peek() {
            if let Some(subject) = SUBJECTS.iter().find(|subject| token.is(subject)) {
                // As in DEFINER = user@host: a name is never a subject.
                let previous = self.at.checked_sub(1).and_then(|at| self.tokens.get(at));
                if !previous.is_some_and(|token| token.is_symbol(b'=') || token.is_symbol(b'@')) {
                    self.at += 1;
                    return Some((subject, temporary));
                }
            }
            temporary |= token.is("TEMPORARY");
            // Longest: ONLINE OR REPLACE ALGORITHM = x DEFINER = a @ b SQL SECURITY x VIEW.
            passed += 1;
            if passed > 24 {
                return None;
            }
            self.at += 1;
        }
        None
    }

    fn create(&mut self) -> Option<Statement> {
        let from = self.at;
        let (subject, temporary) = self.subject()?;
        let adjectives = self.tokens.get(from..self.at).unwrap_or_default();
        let elsewhere_kept = ["EXTERNAL", "MATERIALIZED"]
            .iter()
            .any(|word| adjectives.iter().any(|token| token.is(word)));
        if elsewhere_kept {
            self.skip_if_exists();
            return Some(refused(
                "CREATE EXTERNAL TABLE or MATERIALIZED VIEW",
                WHY_EXTERNAL,
                &[self.name()?],
            ));
        }
        let statement = match subject {
            "DATABASE" | "SCHEMA" => {
                self.skip_if_exists();
                database(DdlKind::CreateDatabase, self.identifier()?)
            }
            "TABLE" if temporary => Statement::TemporaryTable,
            "SEQUENCE" if temporary => Statement::TemporaryTable,
            "TABLE" => {
                self.skip_if_exists();
                let table = self.name()?;
                self.create_table(table)?
            }
            "INDEX" => {
                self.skip_if_exists();
                let _ = self.identifier()?;
                self.on_table(DdlKind::CreateIndex)?
            }
            "VIEW" => {
                self.skip_if_exists();
                let view = self.name()?;
                ddl(DdlKind::CreateView, vec![view])
            }
            "SEQUENCE" => {
                self.skip_if_exists();
                refused("CREATE SEQUENCE", WHY_SEQUENCE, &[self.name()?])
            }
            "TRIGGER" => {
                self.skip_if_exists();
                // The table of a trigger is in the trigger's database.
                refused("CREATE TRIGGER", WHY_TRIGGER, &[self.name()?])
            }
            other => elsewhere(other)?,
        };
        Some(statement)
    }

    fn create_table(&mut self, table: Name) -> Option<Statement> {
        let from = self.at;
        let _ = self.skip_symbol(b'(');
        if self.skip(&["LIKE"]) {
            let model = self.name()?;
            if !model.utf8 {
                return Some(refused("CREATE TABLE", WHY_NAME, &[table, model]));
            }
            let mut statement = ddl(DdlKind::CreateTable, vec![table]);
            if let Statement::Ddl(ddl) = &mut statement {
                add_database(&mut ddl.databases, &model.object.database);
            }
            return Some(statement);
        }
        self.at = from;
        let rest = self.rest();
        // Behind the columns, before or between the options.
        let added = rest.windows(2).find_map(|pair| match pair {
            [start, transaction]
                if start.depth == 0 && start.is("START") && transaction.is("TRANSACTION") =>
            {
                Some(start.span.start..transaction.span.end)
            }
            _ => None,
        });
        // SELECT is reserved and has no place in a definition; AS outside of parentheses
        // introduces a query (VALUES and TABLE are queries too).
        if rest
            .iter()
            .any(|token| token.is("SELECT") || (token.depth == 0 && token.is("AS")))
        {
            return Some(refused("CREATE TABLE .. SELECT", WHY_SELECT, &[table]));
        }
        let mut statement = ddl(DdlKind::CreateTable, vec![table]);
        if let Statement::Ddl(ddl) = &mut statement {
            ddl.create_table_select = added.is_some();
            ddl.added = added;
        }
        Some(statement)
    }

    /// `.. ON table`, as index statements have it.
    fn on_table(&mut self, kind: DdlKind) -> Option<Statement> {
        let on = self.rest().iter().position(|token| token.is("ON"))?;
        self.at += on + 1;
        let table = self.name()?;
        Some(ddl(kind, vec![table]))
    }

    fn alter(&mut self) -> Option<Statement> {
        let (subject, _) = self.subject()?;
        let statement = match subject {
            "DATABASE" | "SCHEMA" => {
                // Without a name it is the default database; every option is one of these.
                let options = [
                    "DEFAULT",
                    "CHARACTER",
                    "CHARSET",
                    "COLLATE",
                    "COMMENT",
                    "READ",
                    "ENCRYPTION",
                ];
                let named = self
                    .peek()
                    .is_some_and(|token| !options.iter().any(|option| token.is(option)));
                let name = if named {
                    self.identifier()?
                } else {
                    (self.default_database.to_owned(), true)
                };
                database(DdlKind::AlterDatabase, name)
            }
            "TABLE" => {
                self.skip_if_exists();
                let table = self.name()?;
                self.alter_table(table)?
            }
            "VIEW" => {
                self.skip_if_exists();
                let view = self.name()?;
                ddl(DdlKind::AlterView, vec![view])
            }
            "SEQUENCE" => {
                self.skip_if_exists();
                refused("ALTER SEQUENCE", WHY_SEQUENCE, &[self.name()?])
            }
            "INSTANCE" => Statement::Administrative("ALTER INSTANCE"),
            other => elsewhere(other)?,
        };
        Some(statement)
    }

    /// Looks through the actions of an ALTER TABLE for other tables and for what cannot be rerun.
    fn alter_table(&mut self, table: Name) -> Option<Statement> {
        let mut tables = vec![table];
        let mut starts_action = true;
        while let Some(token) = self.peek() {
            let depth = token.depth;
            if depth > 0 {
                self.at += 1;
                continue;
            }
            let after_comma = token.is_symbol(b',');
            if starts_action && self.skip(&["ADD"]) {
                if self.adds_differing_values() {
                    return Some(refused("ALTER TABLE .. ADD COLUMN", WHY_VALUES, &tables));
                }
            } else if starts_action && self.skip(&["RENAME"]) {
                let part = ["COLUMN", "INDEX", "KEY", "CONSTRAINT"];
                if !part.iter().any(|part| self.skip(&[part])) {
                    let _ = self.skip(&["TO"]) || self.skip(&["AS"]) || self.skip_symbol(b'=');
                    tables.push(self.name()?);
                }
            } else if self.skip(&["EXCHANGE", "PARTITION"]) {
                let _ = self.identifier()?;
                if self.skip(&["WITH", "TABLE"]) {
                    tables.push(self.name()?);
                }
            } else if self.skip(&["CONVERT", "PARTITION"]) {
                let _ = self.identifier()?;
                if self.skip(&["TO", "TABLE"]) {
                    tables.push(self.name()?);
                }
            } else if self.skip(&["CONVERT", "TABLE"]) {
                tables.push(self.name()?);
            } else if self.skip(&["IMPORT"]) || self.skip(&["DISCARD"]) {
                if starts_action {
                    return Some(refused(
                        "ALTER TABLE .. TABLESPACE",
                        WHY_TABLESPACE,
                        &tables,
                    ));
                }
            } else {
                // MariaDB's WAIT n and NOWAIT stand between the name and the first action.
                let waits = starts_action && ["WAIT", "NOWAIT"].iter().any(|word| token.is(word));
                self.at += 1;
                if waits {
                    let _ = self.rest().first().is_some_and(|token| {
                        matches!(&token.kind, Kind::Word(word) if word.iter().all(u8::is_ascii_digit))
                    }) && self.identifier().is_some();
                    continue;
                }
            }
            starts_action = after_comma;
        }
        Some(ddl(DdlKind::AlterTable, tables))
    }

    /// Whether the action behind `ADD` makes a column whose value differs from node to node. Does
    /// not move.
    fn adds_differing_values(&self) -> bool {
        let rest = self.rest();
        let not_a_column = [
            "INDEX",
            "KEY",
            "UNIQUE",
            "PRIMARY",
            "FULLTEXT",
            "SPATIAL",
            "VECTOR",
            "CONSTRAINT",
            "FOREIGN",
            "CHECK",
            "PARTITION",
            "PERIOD",
            "SYSTEM",
        ];
        if rest
            .first()
            .is_some_and(|token| not_a_column.iter().any(|word| token.is(word)))
        {
            return false;
        }
        let action = rest
            .iter()
            .take_while(|token| !(token.depth == 0 && token.is_symbol(b',')));
        let action: Vec<&Token> = action.collect();
        action.windows(2).any(|pair| {
            let [word, next] = pair else { return false };
            let called = DIFFERING.iter().any(|name| word.is(name)) && next.is_symbol(b'(');
            called
                || ((word.is("NEXT") || word.is("PREVIOUS")) && next.is("VALUE"))
                || (word.is("DEFAULT") && next.is("CURRENT_USER"))
        })
    }

    fn drop(&mut self) -> Option<Statement> {
        let (subject, temporary) = self.subject()?;
        let statement = match subject {
            "DATABASE" | "SCHEMA" => {
                self.skip_if_exists();
                database(DdlKind::DropDatabase, self.identifier()?)
            }
            "TABLE" | "TABLES" | "SEQUENCE" if temporary => Statement::TemporaryTable,
            "TABLE" | "TABLES" => {
                self.skip_if_exists();
                ddl(DdlKind::DropTable, self.names()?)
            }
            "INDEX" => {
                self.skip_if_exists();
                let _ = self.identifier()?;
                self.on_table(DdlKind::DropIndex)?
            }
            "VIEW" => {
                self.skip_if_exists();
                ddl(DdlKind::DropView, self.names()?)
            }
            "SEQUENCE" => {
                self.skip_if_exists();
                refused("DROP SEQUENCE", WHY_SEQUENCE, &self.names()?)
            }
            "TRIGGER" => Statement::StoredProgram("DROP TRIGGER"),
            // DROP PREPARE is never logged.
            "PREPARE" => return None,
            other => elsewhere(other)?,
        };
        Some(statement)
    }

    fn rename(&mut self) -> Option<Statement> {
        if self.skip(&["USER"]) {
            return Some(Statement::Account("RENAME USER"));
        }
        if !self.skip(&["TABLE"]) && !self.skip(&["TABLES"]) {
            return None;
        }
        self.skip_if_exists();
        let mut tables = Vec::new();
        loop {
            tables.push(self.name()?);
            if self.skip(&["WAIT"]) {
                let _ = self.identifier()?;
            } else {
                let _ = self.skip(&["NOWAIT"]);
            }
            if !self.skip(&["TO"]) {
                return None;
            }
            tables.push(self.name()?);
            if !self.skip_symbol(b',') {
                break;
            }
        }
        Some(ddl(DdlKind::RenameTable, tables))
    }

    /// Rows as statements: the origin's session did not log in ROW format.
    fn data_change(&mut self) -> Option<Statement> {
        const KINDS: [&str; 9] = [
            "INSERT", "REPLACE", "UPDATE", "DELETE", "LOAD", "CALL", "WITH", "SELECT", "DO",
        ];
        let token = self.peek()?;
        let kind = KINDS.iter().find(|kind| token.is(kind))?;
        // LOAD INDEX INTO CACHE changes nothing.
        if *kind == "LOAD" && self.skip(&["LOAD", "INDEX"]) {
            return Some(Statement::Administrative("LOAD INDEX"));
        }
        Some(Statement::Refused(Refusal {
            kind,
            why: WHY_STATEMENT,
            databases: Vec::new(),
        }))
    }

    fn upkeep(&mut self) -> Option<Statement> {
        const UPKEEP: [&str; 17] = [
            "ANALYZE",
            "OPTIMIZE",
            "REPAIR",
            "CHECK",
            "CHECKSUM",
            "FLUSH",
            "RESET",
            "PURGE",
            "CACHE",
            "INSTALL",
            "UNINSTALL",
            "LOCK",
            "UNLOCK",
            "KILL",
            "SHUTDOWN",
            "RESTART",
            "BACKUP",
        ];
        if self.skip(&["GRANT"]) {
            return Some(Statement::Account("GRANT"));
        }
        if self.skip(&["REVOKE"]) {
            return Some(Statement::Account("REVOKE"));
        }
        if self.skip(&["SET"]) {
            return if self.skip(&["PASSWORD"]) {
                Some(Statement::Account("SET PASSWORD"))
            } else if self.skip(&["DEFAULT", "ROLE"]) || self.skip(&["ROLE"]) {
                Some(Statement::Account("SET DEFAULT ROLE"))
            } else {
                None
            };
        }
        if self.skip(&["IMPORT", "TABLE"]) {
            return Some(Statement::Refused(Refusal {
                kind: "IMPORT TABLE",
                why: WHY_TABLESPACE,
                databases: Vec::new(),
            }));
        }
        let token = self.peek()?;
        let kind = UPKEEP.iter().find(|kind| token.is(kind))?;
        Some(Statement::Administrative(kind))
    }
}

/// Statements on things that are not replicated; the same rule for CREATE, ALTER and DROP.
fn elsewhere(subject: &'static str) -> Option<Statement> {
    let statement = match subject {
        "PROCEDURE" | "FUNCTION" | "EVENT" | "PACKAGE" | "LIBRARY" => {
            Statement::StoredProgram(subject)
        }
        "USER" | "ROLE" => Statement::Account(subject),
        "SERVER" | "TABLESPACE" => Statement::Administrative(subject),
        "LOGFILE" => Statement::Administrative("LOGFILE GROUP"),
        "RESOURCE" => Statement::Administrative("RESOURCE GROUP"),
        "REFERENCE" => Statement::Administrative("SPATIAL REFERENCE SYSTEM"),
        _ => return None,
    };
    Some(statement)
}

fn add_database(databases: &mut Vec<String>, database: &str) {
    if !databases.iter().any(|known| known == database) {
        databases.push(database.to_owned());
    }
}

fn databases_of(names: &[Name]) -> Vec<String> {
    let mut databases = Vec::new();
    for name in names {
        add_database(&mut databases, &name.object.database);
    }
    databases
}

fn refused(kind: &'static str, why: &'static str, names: &[Name]) -> Statement {
    // A database whose name cannot be read might be a replicated one.
    let readable = names.iter().all(|name| name.utf8);
    Statement::Refused(Refusal {
        kind,
        why,
        databases: if readable {
            databases_of(names)
        } else {
            Vec::new()
        },
    })
}

fn ddl(kind: DdlKind, names: Vec<Name>) -> Statement {
    if names.iter().any(|name| !name.utf8) {
        return refused("DDL", WHY_NAME, &names);
    }
    Statement::Ddl(Ddl {
        kind,
        databases: databases_of(&names),
        tables: names.into_iter().map(|name| name.object).collect(),
        create_table_select: false,
        added: None,
    })
}

fn database(kind: DdlKind, (name, utf8): (String, bool)) -> Statement {
    if !utf8 {
        return refused(
            "DDL",
            WHY_NAME,
            &[Name {
                object: ObjectName {
                    database: name.clone(),
                    name,
                },
                utf8,
            }],
        );
    }
    Statement::Ddl(Ddl {
        kind,
        databases: vec![name],
        tables: Vec::new(),
        create_table_select: false,
        added: None,
    })
}

fn unhex(digits: &[u8]) -> Option<Vec<u8>> {
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let pairs = digits.chunks_exact(2);
    pairs
        .map(|pair| {
            let digits = std::str::from_utf8(pair).ok()?;
            u8::from_str_radix(digits, 16).ok()
        })
        .collect()
}

#[cfg(test)]
mod tests;
