//! What there is to know of one server, read with a few large queries.

use std::collections::BTreeMap;

use super::session::{Session, TextRow};
use crate::config::{Config, NodeConfig, SERVERS_OWN};
use crate::error::{Error, Result};

/// Database and name of a table, view or trigger.
pub(super) type Name = (String, String);

/// What one server says of itself.
#[derive(Debug, Clone, Default)]
pub(super) struct NodeFacts {
    /// Name of the node.
    pub(super) node: String,
    /// Where it was reached.
    pub(super) address: String,
    pub(super) version: String,
    pub(super) maria: bool,
    /// The account as the server matched it, `user@host`.
    pub(super) account: String,
    /// `SHOW GLOBAL VARIABLES`, names in lower case.
    pub(super) variables: BTreeMap<String, String>,
    /// `sql_log_bin` of a fresh session.
    pub(super) sql_log_bin: bool,
    /// `SHOW GRANTS`, a line each.
    pub(super) grants: Vec<String>,
    /// binlog_do_db and binlog_ignore_db; `None` where the account may not see them.
    pub(super) filters: Option<(String, String)>,
    /// Rows of SHOW REPLICA STATUS; `None` where the account may not see them.
    pub(super) replication: Option<Vec<Upstream>>,
    /// Replicated databases with their default collations.
    pub(super) databases: BTreeMap<String, String>,
    pub(super) tables: BTreeMap<Name, Table>,
    pub(super) views: Vec<Name>,
    /// Enabled events in replicated databases; empty where the account may not see them.
    pub(super) events: Vec<Name>,
}

/// Another server that this one replicates from by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Upstream {
    pub(super) host: String,
    pub(super) port: String,
    pub(super) server_id: String,
    pub(super) uuid: String,
    pub(super) running: bool,
}

/// A table of a replicated database.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    /// `BASE TABLE`, or one of MariaDB's own kinds.
    pub(super) kind: String,
    pub(super) engine: String,
    pub(super) columns: Vec<Column>,
    /// Indexes by name.
    pub(super) indexes: BTreeMap<String, Index>,
    /// Names of its triggers.
    pub(super) triggers: Vec<String>,
    /// Foreign keys by name.
    pub(super) foreign_keys: BTreeMap<String, ForeignKey>,
}

/// A column.
#[derive(Debug, Clone, Default)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) data_type: String,
    pub(super) column_type: String,
    pub(super) nullable: bool,
    pub(super) collation: Option<String>,
    /// `auto_increment`, `STORED GENERATED`, `INVISIBLE` and the like.
    pub(super) extra: String,
    pub(super) generation: Option<String>,
}

/// An index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Index {
    pub(super) unique: bool,
    /// Columns with the length of their prefix, where only that is indexed; `None` for an
    /// expression.
    pub(super) columns: Vec<(Option<String>, Option<String>)>,
    pub(super) nullable: bool,
}

/// A foreign key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ForeignKey {
    pub(super) references: Name,
    pub(super) on_update: String,
    pub(super) on_delete: String,
}

impl NodeFacts {
    /// A variable; empty where the server has none of that name.
    pub(super) fn variable(&self, name: &str) -> &str {
        self.variables.get(name).map_or("", String::as_str)
    }

    /// A variable that counts something.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        // MariaDB writes some of them with decimals.
        self.variable(name).split('.').next()?.parse().ok()
    }

    /// Whether a switch is on.
    pub(super) fn is_on(&self, name: &str) -> bool {
        matches!(self.variable(name), "ON" | "1" | "YES")
    }

    /// Reads everything.
    pub(super) async fn read(
        session: &mut Session,
        config: &Config,
        node: &NodeConfig,
    ) -> Result<Self> {
        let mut facts = Self {
            node: node.name.clone(),
            address: node.address(),
            ..Self::default()
        };
        facts.version = session.value("SELECT VERSION()").await?.unwrap_or_default();
        facts.maria = facts.version.contains("MariaDB");
        facts.account = session
            .value("SELECT CURRENT_USER()")
            .await?
            .unwrap_or_default();
        facts.variables = session
            .rows("SHOW GLOBAL VARIABLES")
            .await?
            .into_iter()
            .map(|row| (text(&row, 0).to_ascii_lowercase(), text(&row, 1)))
            .collect();
        facts.sql_log_bin = session
            .value("SELECT @@SESSION.sql_log_bin")
            .await?
            .is_some_and(|value| value == "1" || value == "ON");
        facts.grants = session
            .rows("SHOW GRANTS")
            .await?
            .iter()
            .map(|row| text(row, 0))
            .collect();
        facts.filters = facts.read_filters(session).await?;
        facts.replication = facts.read_replication(session).await?;
        facts.read_schema(session, config).await?;
        Ok(facts)
    }

    async fn read_filters(&self, session: &mut Session) -> Result<Option<(String, String)>> {
        let statements = if self.maria {
            ["SHOW MASTER STATUS", ""]
        } else {
            // MySQL before 8.2 has the old name only.
            ["SHOW BINARY LOG STATUS", "SHOW MASTER STATUS"]
        };
        let rows = allowed(first_of(session, statements).await)?;
        Ok(rows.map(|rows| {
            let row = rows.into_iter().next().unwrap_or_default();
            (
                field(&row, &["Binlog_Do_DB"]),
                field(&row, &["Binlog_Ignore_DB"]),
            )
        }))
    }

    async fn read_replication(&self, session: &mut Session) -> Result<Option<Vec<Upstream>>> {
        let statements = if self.maria {
            ["SHOW ALL SLAVES STATUS", ""]
        } else {
            ["SHOW REPLICA STATUS", "SHOW SLAVE STATUS"]
        };
        let rows = allowed(first_of(session, statements).await)?;
        Ok(rows.map(|rows| {
            rows.iter()
                .map(|row| {
                    let running = |names: &[&str]| {
                        let state = field(row, names);
                        !state.is_empty() && state != "No"
                    };
                    Upstream {
                        host: field(row, &["Source_Host", "Master_Host"]),
                        port: field(row, &["Source_Port", "Master_Port"]),
                        server_id: field(row, &["Source_Server_Id", "Master_Server_Id"]),
                        uuid: field(row, &["Source_UUID", "Master_UUID"]),
                        running: running(&["Replica_IO_Running", "Slave_IO_Running"])
                            || running(&["Replica_SQL_Running", "Slave_SQL_Running"]),
                    }
                })
                .collect()
        }))
    }

    async fn read_schema(&mut self, session: &mut Session, config: &Config) -> Result<()> {
        let schemata = session
            .rows(
                "SELECT SCHEMA_NAME, DEFAULT_COLLATION_NAME FROM information_schema.SCHEMATA \
                 ORDER BY SCHEMA_NAME",
            )
            .await?;
        self.databases = schemata
            .into_iter()
            .map(|row| (text(&row, 0), text(&row, 1)))
            .filter(|(name, _)| {
                !SERVERS_OWN.contains(&name.to_ascii_lowercase().as_str())
                    && config.replication.includes(name, &config.engine.schema)
            })
            .collect();
        if self.databases.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = self.databases.keys().map(|name| quote(name)).collect();
        let within = names.join(", ");

        let sql = format!(
            "SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_TYPE, ENGINE \
             FROM information_schema.TABLES WHERE TABLE_SCHEMA IN ({within}) \
             ORDER BY TABLE_SCHEMA, TABLE_NAME"
        );
        for row in session.rows(&sql).await? {
            let name = (text(&row, 0), text(&row, 1));
            let kind = text(&row, 2);
            if kind.contains("VIEW") {
                self.views.push(name);
                continue;
            }
            let table = Table {
                kind,
                engine: text(&row, 3),
                ..Table::default()
            };
            self.tables.insert(name, table);
        }

        let sql = format!(
            "SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, IS_NULLABLE, \
             COLLATION_NAME, EXTRA, GENERATION_EXPRESSION FROM information_schema.COLUMNS \
             WHERE TABLE_SCHEMA IN ({within}) ORDER BY TABLE_SCHEMA, TABLE_NAME, ORDINAL_POSITION"
        );
        for row in session.rows(&sql).await? {
            if let Some(table) = self.tables.get_mut(&(text(&row, 0), text(&row, 1))) {
                table.columns.push(Column {
                    name: text(&row, 2),
                    data_type: text(&row, 3).to_ascii_lowercase(),
                    column_type: text(&row, 4),
                    nullable: text(&row, 5) == "YES",
                    collation: row.get(6).cloned().flatten(),
                    extra: text(&row, 7),
                    generation: row
                        .get(8)
                        .cloned()
                        .flatten()
                        .filter(|text| !text.is_empty()),
                });
            }
        }

        let sql = format!(
            "SELECT TABLE_SCHEMA, TABLE_NAME, INDEX_NAME, NON_UNIQUE, COLUMN_NAME, SUB_PART, \
             NULLABLE FROM information_schema.STATISTICS WHERE TABLE_SCHEMA IN ({within}) \
             ORDER BY TABLE_SCHEMA, TABLE_NAME, INDEX_NAME, SEQ_IN_INDEX"
        );
        for row in session.rows(&sql).await? {
            if let Some(table) = self.tables.get_mut(&(text(&row, 0), text(&row, 1))) {
                let index = table.indexes.entry(text(&row, 2)).or_default();
                index.unique = text(&row, 3) == "0";
                index.nullable |= text(&row, 6) == "YES";
                let prefix = row.get(5).cloned().flatten();
                index.columns.push((row.get(4).cloned().flatten(), prefix));
            }
        }

        let sql = format!(
            "SELECT EVENT_OBJECT_SCHEMA, EVENT_OBJECT_TABLE, TRIGGER_NAME \
             FROM information_schema.TRIGGERS WHERE EVENT_OBJECT_SCHEMA IN ({within}) \
             ORDER BY TRIGGER_NAME"
        );
        for row in session.rows(&sql).await? {
            if let Some(table) = self.tables.get_mut(&(text(&row, 0), text(&row, 1))) {
                table.triggers.push(text(&row, 2));
            }
        }

        let sql = format!(
            "SELECT CONSTRAINT_SCHEMA, TABLE_NAME, CONSTRAINT_NAME, UNIQUE_CONSTRAINT_SCHEMA, \
             REFERENCED_TABLE_NAME, UPDATE_RULE, DELETE_RULE \
             FROM information_schema.REFERENTIAL_CONSTRAINTS WHERE CONSTRAINT_SCHEMA IN ({within})"
        );
        for row in session.rows(&sql).await? {
            if let Some(table) = self.tables.get_mut(&(text(&row, 0), text(&row, 1))) {
                let key = ForeignKey {
                    references: (text(&row, 3), text(&row, 4)),
                    on_update: text(&row, 5),
                    on_delete: text(&row, 6),
                };
                table.foreign_keys.insert(text(&row, 2), key);
            }
        }

        let sql = format!(
            "SELECT EVENT_SCHEMA, EVENT_NAME FROM information_schema.EVENTS \
             WHERE STATUS = 'ENABLED' AND EVENT_SCHEMA IN ({within}) ORDER BY EVENT_SCHEMA, \
             EVENT_NAME"
        );
        self.events = session
            .rows(&sql)
            .await?
            .iter()
            .map(|row| (text(row, 0), text(row, 1)))
            .collect();
        Ok(())
    }
}

/// A name or other text as a literal that means the same under every `sql_mode`.
fn quote(text: &str) -> String {
    let digits: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("_utf8mb4 x'{digits}'")
}

fn text(row: &TextRow, index: usize) -> String {
    row.get(index).cloned().flatten().unwrap_or_default()
}

fn field(row: &[(String, String)], names: &[&str]) -> String {
    row.iter()
        .find(|(name, _)| names.iter().any(|wanted| name.eq_ignore_ascii_case(wanted)))
        .map(|(_, value)| value.clone())
        .unwrap_or_default()
}

/// Runs the statement, or where the server does not know it, the other one.
async fn first_of(
    session: &mut Session,
    [new, old]: [&str; 2],
) -> Result<Vec<Vec<(String, String)>>> {
    match session.named_rows(new).await {
        Err(Error::Server { code: 1064, .. }) if !old.is_empty() => session.named_rows(old).await,
        other => other,
    }
}

/// Turns "you may not see that" into `None`: the privileges have a finding of their own.
fn allowed<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Error::Server {
            code: 1227 | 1044 | 1142 | 1381,
            ..
        }) => Ok(None),
        Err(error) => Err(error),
    }
}
