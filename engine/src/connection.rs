//! A connection to one node, whose errors say which node and what was being done.

use std::sync::Arc;
use std::time::Duration;

use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Conn, OptsBuilder};

use crate::answer::Watch;
use crate::config::NodeConfig;
use crate::decode::event::Flavor;
use crate::error::{Error, Result};
use crate::gtid::parse_uuid;
use crate::position::{LogName, LogPos};

/// Idle time after which TCP asks whether the other side is still there.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// An open connection to a node.
#[derive(Debug)]
pub struct NodeConnection {
    node: Arc<str>,
    conn: Conn,
    watch: Watch,
    /// The server's `max_allowed_packet`, where it was asked for.
    packet_limit: Option<usize>,
}

impl NodeConnection {
    /// Connects to a node.
    ///
    /// Affected rows are counted as *found* rows, so that an UPDATE which meets its row counts 1
    /// even where the row already held the new values.
    ///
    /// # Errors
    /// [`Error::Connection`] when the node cannot be reached within its `silence`, [`Error::Server`] when it
    /// refuses the account.
    pub async fn open(node: &NodeConfig) -> Result<Self> {
        let opts = OptsBuilder::from_opts(node.opts.clone())
            .client_found_rows(true)
            .prefer_socket(false)
            .tcp_nodelay(true)
            // The driver would hold statements and binlog events to the server's own limit, which
            // the server checks itself, and names.
            .max_allowed_packet(Some(1 << 30))
            .tcp_keepalive(Some(KEEPALIVE));
        let opts = mysql_async::Opts::from(opts);
        let name: Arc<str> = node.name.as_str().into();
        let connecting = Conn::new(opts.clone());
        match tokio::time::timeout(node.silence, connecting).await {
            Ok(Ok(conn)) => Ok(Self {
                node: name,
                watch: Watch::new(opts, conn.id(), node.silence),
                conn,
                packet_limit: None,
            }),
            Ok(Err(error)) => Err(Error::from_driver(&name, "cannot connect", error)),
            Err(_) => Err(Error::Connection {
                node: name.to_string(),
                message: format!(
                    "no answer within {}",
                    humantime::format_duration(node.silence)
                ),
            }),
        }
    }

    /// Name of the node.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Runs a statement whose result does not matter; gives the number of rows found.
    ///
    /// # Errors
    /// The server's or the connection's, with `context`.
    pub async fn execute(&mut self, sql: impl AsRef<[u8]>, context: &str) -> Result<u64> {
        self.watch
            .answered(sql.as_ref().len(), self.conn.query_drop(sql.as_ref()))
            .await
            .map_err(|error| Error::from_driver(&self.node, context, error))?;
        Ok(self.conn.affected_rows())
    }

    /// Like [`Self::execute`], with the server's error number still in reach.
    ///
    /// # Errors
    /// The driver's.
    pub async fn try_execute(&mut self, sql: &[u8]) -> Result<u64, mysql_async::Error> {
        // The server would close the connection, mostly before its reason is read.
        if self.packet_limit.is_some_and(|limit| sql.len() >= limit) {
            return Err(mysql_async::DriverError::PacketTooLarge.into());
        }
        self.watch
            .answered(sql.len(), self.conn.query_drop(sql))
            .await?;
        Ok(self.conn.affected_rows())
    }

    /// Runs `number` statements that are sent at once, separated by `;`, in their order, up to the
    /// first that fails. Gives for each that went through how many rows it found, or the one number
    /// that it gave, or, for a query without rows, the [`column_hash`] of its columns; and the error of the next one.
    pub async fn execute_together(
        &mut self,
        sql: &[u8],
        number: usize,
    ) -> (Vec<u64>, Option<mysql_async::Error>) {
        if self.packet_limit.is_some_and(|limit| sql.len() >= limit) {
            return (
                Vec::new(),
                Some(mysql_async::DriverError::PacketTooLarge.into()),
            );
        }
        let together = run_together(&mut self.conn, sql, number);
        match self.watch.answered(sql.len(), together).await {
            Ok(outcome) => outcome,
            Err(error) => (Vec::new(), Some(error)),
        }
    }

    /// The one number of a query whose bytes need not be UTF-8; 0 where it gives no row.
    ///
    /// # Errors
    /// The server's or the connection's, with `context`.
    pub async fn count(&mut self, sql: &[u8], context: &str) -> Result<u64> {
        let found: Option<u64> = self
            .watch
            .answered(sql.len(), self.conn.query_first(sql))
            .await
            .map_err(|error| Error::from_driver(&self.node, context, error))?;
        Ok(found.unwrap_or(0))
    }

    /// The first value of a query whose bytes need not be UTF-8, as text.
    ///
    /// # Errors
    /// The server's or the connection's, with `context`.
    pub async fn text(&mut self, sql: &[u8], context: &str) -> Result<Option<String>> {
        let found: Option<Option<Vec<u8>>> = self
            .watch
            .answered(sql.len(), self.conn.query_first(sql))
            .await
            .map_err(|error| Error::from_driver(&self.node, context, error))?;
        Ok(found.map(|text| String::from_utf8_lossy(&text.unwrap_or_default()).into_owned()))
    }

    /// The first values of a query's rows, as text; NULL as nothing.
    ///
    /// # Errors
    /// The server's or the connection's, with `context`.
    pub async fn texts(&mut self, sql: &[u8], context: &str) -> Result<Vec<String>> {
        let found: Vec<Option<Vec<u8>>> = self
            .watch
            .answered(sql.len(), self.conn.query(sql))
            .await
            .map_err(|error| Error::from_driver(&self.node, context, error))?;
        let texts = found.into_iter().flatten();
        Ok(texts
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .collect())
    }

    /// The one row of a query whose bytes need not be UTF-8.
    ///
    /// # Errors
    /// The server's or the connection's, with `context`.
    pub async fn row(&mut self, sql: &[u8], context: &str) -> Result<Option<mysql_async::Row>> {
        self.watch
            .answered(sql.len(), self.conn.query_first(sql))
            .await
            .map_err(|error| Error::from_driver(&self.node, context, error))
    }

    /// First row of a query's result.
    ///
    /// # Errors
    /// The server's or the connection's, with `context`.
    pub async fn first<T>(&mut self, sql: &str, context: &str) -> Result<Option<T>>
    where
        T: FromRow + Send + 'static,
    {
        self.watch
            .answered(sql.len(), self.conn.query_first(sql))
            .await
            .map_err(|error| Error::from_driver(&self.node, context, error))
    }

    /// All rows of a query's result.
    ///
    /// # Errors
    /// The server's or the connection's, with `context`.
    pub async fn all<T>(&mut self, sql: &str, context: &str) -> Result<Vec<T>>
    where
        T: FromRow + Send + 'static,
    {
        self.watch
            .answered(sql.len(), self.conn.query(sql))
            .await
            .map_err(|error| Error::from_driver(&self.node, context, error))
    }

    /// Gives the driver's connection away, for a binlog stream.
    #[must_use]
    pub fn into_driver(self) -> Conn {
        self.conn
    }

    /// Asks for the server's `max_allowed_packet`, and holds [`Self::try_execute`] to it.
    ///
    /// # Errors
    /// The connection's.
    pub async fn learn_packet_limit(&mut self) -> Result<()> {
        self.packet_limit = self
            .first(
                "SELECT @@SESSION.max_allowed_packet",
                "asking for max_allowed_packet",
            )
            .await?;
        Ok(())
    }

    /// Says goodbye; errors do not matter any more.
    pub async fn close(self) {
        let _ = self.conn.disconnect().await;
    }

    /// Asks who the server is.
    ///
    /// # Errors
    /// [`Error::Preflight`] where the server has no binlog; else the connection's.
    pub async fn identity(&mut self) -> Result<Identity> {
        let context = "asking for the server's identity";
        let (version, server_id): (String, u32) = self
            .first("SELECT VERSION(), @@GLOBAL.server_id", context)
            .await?
            .ok_or_else(|| Error::Internal("SELECT VERSION() gave no row".to_owned()))?;
        let flavor = if version.contains("MariaDB") {
            Flavor::MariaDb
        } else {
            Flavor::MySql
        };
        let uuid = match flavor {
            Flavor::MySql => self
                .first::<String>("SELECT @@GLOBAL.server_uuid", context)
                .await?
                .as_deref()
                .and_then(parse_uuid),
            Flavor::MariaDb => None,
        };
        let (log_name, _) = self.log_end(flavor).await?;
        Ok(Identity {
            node: Arc::clone(&self.node),
            flavor,
            version,
            server_id,
            uuid,
            log_name,
        })
    }

    /// The settings by which a crash of the machine may lose commits, where they are such, as text.
    ///
    /// # Errors
    /// The connection's.
    pub async fn relaxed_settings(&mut self) -> Result<Option<String>> {
        let sql = "SELECT @@GLOBAL.sync_binlog, @@GLOBAL.innodb_flush_log_at_trx_commit";
        let context = "asking what is synced at a commit";
        let settings: Option<(u64, u64)> = self.first(sql, context).await?;
        Ok(settings
            .filter(|both| *both != (1, 1))
            .map(|(log, tables)| {
                format!("sync_binlog = {log} and innodb_flush_log_at_trx_commit = {tables}")
            }))
    }

    /// Size in bytes of one of the server's binlog files; `None` where it has none of that name.
    ///
    /// # Errors
    /// The connection's.
    pub async fn log_size(&mut self, file: &str) -> Result<Option<u64>> {
        let context = "asking for the sizes of the binlog's files";
        let rows: Vec<mysql_async::Row> = self.all("SHOW BINARY LOGS", context).await?;
        let found = rows
            .iter()
            .find(|row| matches!(row.get_opt::<String, _>(0), Some(Ok(name)) if name == file));
        Ok(found.and_then(|row| row.get_opt(1)?.ok()))
    }

    /// The present end of the server's binlog.
    ///
    /// What was committed (row locks released) before the call lies in front of the position that
    /// it returns, on both servers; `gtid_executed` does not promise that on MySQL.
    ///
    /// # Errors
    /// [`Error::Preflight`] where the binlog is off; else the connection's.
    pub async fn log_end(&mut self, flavor: Flavor) -> Result<(LogName, LogPos)> {
        let sql = match flavor {
            Flavor::MySql => "SHOW BINARY LOG STATUS",
            Flavor::MariaDb => "SHOW MASTER STATUS",
        };
        let context = "asking for the binlog position";
        let row: mysql_async::Row = match self.first(sql, context).await {
            // MySQL before 8.2 has the old name only.
            Err(Error::Server { code: 1064, .. }) => {
                self.first("SHOW MASTER STATUS", context).await?
            }
            other => other?,
        }
        .ok_or_else(|| {
            Error::Preflight(format!(
                "node {}: the binary log is off; set log_bin in its my.cnf and restart the server",
                self.node
            ))
        })?;
        let file: String = row
            .get_opt(0)
            .and_then(|value| value.ok())
            .unwrap_or_default();
        let offset: u64 = row
            .get_opt(1)
            .and_then(|value| value.ok())
            .unwrap_or_default();
        let (name, number) = LogName::split(&file).ok_or_else(|| Error::LogLost {
            node: self.node.to_string(),
            problem: format!("the server calls its binlog {file:?}, a name without a number"),
        })?;
        Ok((name, LogPos::new(number, offset)))
    }
}

/// Stands for the names of columns, in their order.
pub(crate) fn column_hash<'n>(names: impl Iterator<Item = &'n [u8]>) -> u64 {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    for name in names {
        hasher.update(name);
        hasher.update(&[0]);
    }
    hasher.digest()
}

/// How many rows each statement found, up to the first that failed, and the error of that one.
type Together = (Vec<u64>, Option<mysql_async::Error>);

async fn run_together(conn: &mut Conn, sql: &[u8], number: usize) -> mysql_async::Result<Together> {
    let mut found = Vec::with_capacity(number);
    let mut results = match conn.query_iter(sql).await {
        Ok(results) => results,
        Err(error) => return Ok((found, Some(error))),
    };
    for _ in 0..number {
        let affected = results.affected_rows();
        let columns = results.columns().filter(|columns| !columns.is_empty());
        match results.try_collect::<u64>().await {
            Ok(rows) => found.push(match (columns, rows.into_iter().next()) {
                (None, _) => affected,
                (Some(_), Some(Ok(number))) => number,
                (Some(_), Some(Err(_))) => 0,
                (Some(columns), None) => {
                    column_hash(columns.iter().map(mysql_async::Column::name_ref))
                }
            }),
            // The driver keeps the error of a statement until the turn of its result.
            Err(error) => return Ok((found, Some(error))),
        }
    }
    Ok((found, None))
}

/// Who a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Name of the node in the config file.
    pub node: Arc<str>,
    /// Its dialect.
    pub flavor: Flavor,
    /// `VERSION()`.
    pub version: String,
    /// `server_id`.
    pub server_id: u32,
    /// `server_uuid` (MySQL).
    pub uuid: Option<[u8; 16]>,
    /// What its binlog files are called.
    pub log_name: LogName,
}

/// Quotes an identifier.
#[must_use]
pub fn quote_identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// Quotes a string of ours (names, positions) for a statement under any `sql_mode`: as a
/// hexadecimal literal where it has anything but plain characters.
#[must_use]
pub fn quote_string(text: &str) -> String {
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'\'' | b'\\') || byte == b' ');
    // It may stand within a comment that only one kind of server reads.
    if plain && !text.contains("*/") {
        format!("'{text}'")
    } else {
        let digits: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
        format!("_utf8mb4 x'{digits}'")
    }
}
