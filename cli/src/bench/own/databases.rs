//! The two databases that a benchmark makes at servers that are there anyway, and takes away again.
//! Each has a table that says who made it: nothing else is ever dropped.

use mysql_async::prelude::Queryable as _;
use twinlog_engine::config::NodeConfig;
use twinlog_engine::connection::NodeConnection;

use super::{DATABASE, SCHEMA};
use crate::bench::joined;
use crate::bench::load::{self, LoadOptions};
use crate::bench::master::Master;

/// The table by which a database is known as ours.
const SIGN: &str = "made_by_twinlog_bench";
/// How long a DROP DATABASE waits for what still uses it.
const PATIENCE_SECONDS: u32 = 60;

/// What stands at a node under the name of one of our databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing.
    Nothing,
    /// A database without tables.
    Empty,
    /// What a benchmark has left behind.
    Ours,
    /// Somebody else's.
    Foreign,
}

/// Looks what is there.
///
/// # Errors
/// The connection's.
pub(super) async fn look(
    connection: &mut NodeConnection,
    database: &str,
) -> twinlog_engine::Result<Found> {
    let sql = format!(
        "SELECT (SELECT COUNT(*) FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = '{database}'), \
         (SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = '{database}'), \
         (SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = '{database}' AND \
         TABLE_NAME = '{SIGN}')"
    );
    let found: Option<(u64, u64, u64)> = connection
        .first(&sql, "looking for the benchmark's databases")
        .await?;
    Ok(match found.unwrap_or_default() {
        (0, ..) => Found::Nothing,
        (_, 0, _) => Found::Empty,
        (_, _, 0) => Found::Foreign,
        _ => Found::Ours,
    })
}

/// Makes both databases anew at a node, and fills the load's tables. All of it goes into the server's
/// log: what replicates from it must not be left without the tables.
///
/// # Errors
/// The server's.
pub(super) async fn make(
    node: &NodeConfig,
    master: &Master,
    load: &LoadOptions,
) -> anyhow::Result<()> {
    let mut connection = NodeConnection::open(node).await?;
    for database in [DATABASE, SCHEMA] {
        drop_one(&mut connection, database).await?;
        let context = "making the benchmark's databases";
        for statement in [
            format!("CREATE DATABASE {database} DEFAULT CHARACTER SET utf8mb4"),
            format!("CREATE TABLE {database}.{SIGN} (id INT PRIMARY KEY) ENGINE=InnoDB"),
        ] {
            connection.execute(statement, context).await?;
        }
    }
    connection.close().await;
    let mut conn = master.connect().await?;
    load::fill(&mut conn, load).await?;
    conn.query_drop(joined::probe_table(DATABASE)).await?;
    conn.disconnect().await?;
    Ok(())
}

/// Drops what carries our sign, and what was made but not yet signed when the benchmark was
/// interrupted.
///
/// # Errors
/// The server's.
pub(super) async fn remove(node: &NodeConfig) -> anyhow::Result<()> {
    let mut connection = NodeConnection::open(node).await?;
    for database in [DATABASE, SCHEMA] {
        if let Found::Ours | Found::Empty = look(&mut connection, database).await? {
            drop_one(&mut connection, database).await?;
        }
    }
    connection.close().await;
    Ok(())
}

async fn drop_one(connection: &mut NodeConnection, database: &str) -> twinlog_engine::Result<()> {
    let context = "removing the benchmark's databases";
    let patience = format!("SET SESSION lock_wait_timeout = {PATIENCE_SECONDS}");
    connection.execute(patience, context).await?;
    let statement = format!("DROP DATABASE IF EXISTS {database}");
    connection.execute(statement, context).await?;
    Ok(())
}
