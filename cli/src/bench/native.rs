//! The servers' own replication, as a contender: MySQL's multi-threaded applier with its WRITESET
//! dependencies, MariaDB's parallel replication in optimistic mode.

use anyhow::{Context as _, bail};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row};

use crate::sandbox::{Server, ServerKind};

/// Where a server's own log ends.
#[derive(Debug, Clone)]
pub struct LogEnd {
    /// Name of the file.
    pub file: String,
    /// Offset in it.
    pub offset: u64,
}

/// Where the server's log ends now.
///
/// # Errors
/// The server's.
pub async fn log_end(server: &Server) -> anyhow::Result<LogEnd> {
    let sql = match server.kind() {
        ServerKind::MariaDb => "SHOW MASTER STATUS",
        ServerKind::MySql => "SHOW BINARY LOG STATUS",
    };
    let rows: Vec<Row> = server.query(sql).await?;
    let row = rows.first().context("the server writes no binlog")?;
    let (file, offset) = (row.get(0), row.get(1));
    match (file, offset) {
        (Some(file), Some(offset)) => Ok(LogEnd { file, offset }),
        _ => bail!("{sql} cannot be read"),
    }
}

/// Bytes of all binlogs of a server.
///
/// # Errors
/// The server's.
pub async fn log_bytes(conn: &mut Conn) -> anyhow::Result<u64> {
    let rows: Vec<Row> = conn.query("SHOW BINARY LOGS").await?;
    Ok(rows.iter().filter_map(|row| row.get::<u64, _>(1)).sum())
}

/// Has `replica` replicate from `source`, from this place on, once it is started.
///
/// # Errors
/// A server's.
pub async fn set_up(
    replica: &Server,
    source: &Server,
    from: &LogEnd,
    workers: u32,
) -> anyhow::Result<()> {
    let (port, file, offset) = (source.port(), &from.file, from.offset);
    let statements = match replica.kind() {
        ServerKind::MySql => vec![
            format!(
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {port}, \
                 SOURCE_USER = 'root', SOURCE_LOG_FILE = '{file}', SOURCE_LOG_POS = {offset}, \
                 SOURCE_CONNECT_RETRY = 1, GET_SOURCE_PUBLIC_KEY = 1"
            ),
            format!("SET GLOBAL replica_parallel_workers = {workers}"),
            "SET GLOBAL replica_preserve_commit_order = ON".to_owned(),
        ],
        ServerKind::MariaDb => vec![
            format!(
                "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {port}, \
                 MASTER_USER = 'root', MASTER_LOG_FILE = '{file}', MASTER_LOG_POS = {offset}, \
                 MASTER_CONNECT_RETRY = 1, MASTER_USE_GTID = no"
            ),
            // One worker beside the thread that hands out is slower than none.
            format!(
                "SET GLOBAL slave_parallel_threads = {}",
                if workers == 1 { 0 } else { workers }
            ),
            "SET GLOBAL slave_parallel_mode = 'optimistic'".to_owned(),
        ],
    };
    for statement in statements {
        replica.query_drop(&statement).await?;
    }
    Ok(())
}

/// The statement that starts it.
#[must_use]
pub fn start(kind: ServerKind) -> &'static str {
    match kind {
        ServerKind::MySql => "START REPLICA",
        ServerKind::MariaDb => "START SLAVE",
    }
}

/// Ends it, and forgets the source.
///
/// # Errors
/// The server's.
pub async fn remove(replica: &Server) -> anyhow::Result<()> {
    replica
        .query_drop(match replica.kind() {
            ServerKind::MySql => "STOP REPLICA; RESET REPLICA ALL",
            ServerKind::MariaDb => "STOP SLAVE; RESET SLAVE ALL",
        })
        .await
}

/// What has stopped it, if anything has.
///
/// # Errors
/// The server's.
pub async fn trouble(conn: &mut Conn, kind: ServerKind) -> anyhow::Result<Option<String>> {
    let row: Option<Row> = conn
        .query_first(match kind {
            ServerKind::MySql => "SHOW REPLICA STATUS",
            ServerKind::MariaDb => "SHOW SLAVE STATUS",
        })
        .await?;
    let row = row.context("the server's own replication is not set up")?;
    for name in ["Last_SQL_Error", "Last_IO_Error"] {
        let error: Option<String> = row.get_opt(name).and_then(Result::ok);
        if let Some(error) = error.filter(|error| !error.is_empty()) {
            return Ok(Some(format!("{name}: {error}")));
        }
    }
    Ok(None)
}

/// Which of the source's transactions count: those that it wrote after `base`.
#[derive(Debug, Clone)]
pub struct Counted {
    kind: ServerKind,
    /// The source's server_uuid (MySQL) or server_id (MariaDB).
    source: String,
    /// How many it had written before.
    base: u64,
}

impl Counted {
    /// From now on.
    ///
    /// # Errors
    /// The source's.
    pub async fn from_now(source: &Server) -> anyhow::Result<Self> {
        let sql = match source.kind() {
            ServerKind::MySql => "SELECT @@server_uuid",
            ServerKind::MariaDb => "SELECT CAST(@@server_id AS CHAR)",
        };
        let id: Vec<String> = source.query(sql).await?;
        let mut counted = Self {
            kind: source.kind(),
            source: id
                .into_iter()
                .next()
                .context("the server has no identity")?,
            base: 0,
        };
        let mut conn = source.connect().await?;
        counted.base = counted.of(&mut conn, "gtid_binlog_pos").await?;
        conn.disconnect().await?;
        Ok(counted)
    }

    /// How many it has written by now.
    ///
    /// # Errors
    /// The source's.
    pub async fn written(&self, source: &Server) -> anyhow::Result<u64> {
        let mut conn = source.connect().await?;
        let all = self.of(&mut conn, "gtid_binlog_pos").await?;
        conn.disconnect().await?;
        Ok(all.saturating_sub(self.base))
    }

    /// How many of them the replica has applied, one connection to it given.
    ///
    /// # Errors
    /// The replica's.
    pub async fn applied(&self, replica: &mut Conn) -> anyhow::Result<u64> {
        let applied = self.of(replica, "gtid_slave_pos").await?;
        Ok(match self.kind {
            // The replica has never been given the ones before the base.
            ServerKind::MySql => applied,
            ServerKind::MariaDb => applied.saturating_sub(self.base),
        })
    }

    async fn of(&self, conn: &mut Conn, mariadb: &str) -> anyhow::Result<u64> {
        let sql = match self.kind {
            ServerKind::MySql => "SELECT @@GLOBAL.gtid_executed".to_owned(),
            ServerKind::MariaDb => format!("SELECT @@GLOBAL.{mariadb}"),
        };
        let text: Option<String> = conn.query_first(sql).await?;
        let text = text.unwrap_or_default();
        Ok(match self.kind {
            ServerKind::MySql => count_of(&text, &self.source),
            ServerKind::MariaDb => sequence_of(&text, &self.source),
        })
    }
}

/// How many GTIDs of this server_uuid are in a GTID set of MySQL.
fn count_of(set: &str, uuid: &str) -> u64 {
    set.split(',')
        .filter_map(|part| part.trim().strip_prefix(uuid))
        .flat_map(|intervals| intervals.split(':'))
        .filter_map(|interval| {
            let (first, last) = interval.split_once('-').unwrap_or((interval, interval));
            let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
            Some((last + 1).saturating_sub(first))
        })
        .sum()
}

/// The number of this server_id's last transaction in a GTID position of MariaDB.
fn sequence_of(position: &str, server_id: &str) -> u64 {
    position
        .split(',')
        .filter_map(|gtid| {
            let mut parts = gtid.trim().split('-').skip(1);
            (parts.next() == Some(server_id)).then(|| parts.next()?.parse().ok())?
        })
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gtids_are_counted() {
        let set = "0a:1-3:7,\n0b:1-5:tag:1-2";
        assert_eq!(count_of(set, "0a"), 4);
        assert_eq!(count_of(set, "0b"), 7);
        assert_eq!(count_of("", "0a"), 0);
        assert_eq!(sequence_of("0-1-42,1-1-3,0-2-99", "1"), 42);
        assert_eq!(sequence_of("", "1"), 0);
    }
}
