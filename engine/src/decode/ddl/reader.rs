//! Reads the tokens of a logged statement from the left and decides what it is.

use super::cursor::{Name, Reader};
use super::lexer::{self, Kind, Quoting, Token};
use super::{Ddl, DdlKind, ObjectName, Refusal, Statement};
use crate::decode::event::Flavor;

/// Recognises a statement under these lexical rules.
pub(super) fn recognise_quoted(
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
const WHY_TRIGGER: &str = "a trigger would fire a second time for every row that is applied by SQL, and the config says \
     row_events = \"never\"; drop it at the origin, then go on behind this statement";
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

impl Reader<'_> {
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
            Statement::Savepoint(self.identifier()?.0)
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
                let names = [self.name()?];
                Statement::Trigger(refusal("CREATE TRIGGER", WHY_TRIGGER, &names))
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
    Statement::Refused(refusal(kind, why, names))
}

fn refusal(kind: &'static str, why: &'static str, names: &[Name]) -> Refusal {
    // A database whose name cannot be read might be a replicated one.
    let readable = names.iter().all(|name| name.utf8);
    Refusal {
        kind,
        why,
        databases: if readable {
            databases_of(names)
        } else {
            Vec::new()
        },
    }
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
