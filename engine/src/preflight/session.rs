//! The preflight's connection to one server: everything it reads is text.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, Value};

use super::Finding;
use crate::config::NodeConfig;
use crate::error::{Error, Result, plainly};

/// A host that drops packets must not hold the check for the minutes that TCP would.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Server errors that mean: reached, but not let in.
const REFUSED: [u16; 8] = [1044, 1045, 1130, 1251, 1698, 1862, 3118, 4151];

/// A row, every value as the server writes it.
pub(super) type TextRow = Vec<Option<String>>;

/// An open connection.
pub(super) struct Session {
    node: String,
    conn: Conn,
}

impl Session {
    /// Connects; a node that cannot be reached and one that refuses the account are two findings.
    pub(super) async fn open(node: &NodeConfig) -> Result<Self, Finding> {
        let address = node.address();
        let unreachable = |why: String| {
            Finding::fail(
                "server.reachable",
                format!("cannot be reached at {address}: {why}"),
            )
            .remedy(
                "start the server, or correct the node's url; check bind_address, skip_networking \
                 and the firewall",
            )
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, Conn::new(node.opts.clone())).await {
            Ok(Ok(conn)) => Ok(Self {
                node: node.name.clone(),
                conn,
            }),
            Ok(Err(mysql_async::Error::Server(error))) if REFUSED.contains(&error.code) => {
                let user = node.opts.user().unwrap_or_default().replace('\'', "''");
                let refused = Finding::fail(
                    "server.login",
                    format!(
                        "{address} refuses the account: {} (error {})",
                        error.message, error.code
                    ),
                );
                Err(refused.remedy(format!(
                    "correct the account or its password in the config file, or on the server: \
                     ALTER USER '{user}'@'%' IDENTIFIED BY '...'"
                )))
            }
            Ok(Err(error)) => Err(unreachable(plainly(&error))),
            Err(_) => Err(unreachable(format!(
                "no answer within {} s",
                CONNECT_TIMEOUT.as_secs()
            ))),
        }
    }

    /// All rows of a query.
    pub(super) async fn rows(&mut self, sql: &str) -> Result<Vec<TextRow>> {
        let rows: Vec<Row> = self.conn.query(sql).await.map_err(|error| {
            let what = sql.split_whitespace().take(8).collect::<Vec<_>>().join(" ");
            Error::from_driver(&self.node, what, error)
        })?;
        Ok(rows.into_iter().map(text_row).collect())
    }

    /// Rows with the names of their columns, for statements whose columns vary with the version.
    pub(super) async fn named_rows(&mut self, sql: &str) -> Result<Vec<Vec<(String, String)>>> {
        let rows: Vec<Row> = self
            .conn
            .query(sql)
            .await
            .map_err(|error| Error::from_driver(&self.node, sql, error))?;
        Ok(rows
            .into_iter()
            .map(|row| {
                let names: Vec<String> = row
                    .columns_ref()
                    .iter()
                    .map(|column| column.name_str().into_owned())
                    .collect();
                let values = text_row(row);
                names
                    .into_iter()
                    .zip(values)
                    .map(|(name, value)| (name, value.unwrap_or_default()))
                    .collect()
            })
            .collect())
    }

    /// First value of the first row.
    pub(super) async fn value(&mut self, sql: &str) -> Result<Option<String>> {
        let rows = self.rows(sql).await?;
        Ok(rows.into_iter().flatten().next().flatten())
    }

    /// Says goodbye; errors do not matter any more.
    pub(super) async fn close(self) {
        let _ = self.conn.disconnect().await;
    }
}

fn text_row(row: Row) -> TextRow {
    row.unwrap()
        .into_iter()
        .map(|value| match value {
            Value::NULL => None,
            Value::Bytes(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
            // The text protocol gives bytes only.
            other => Some(other.as_sql(false)),
        })
        .collect()
}
