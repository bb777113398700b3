//! Waits until everything that was committed anywhere before a moment is applied everywhere.
//!
//! A barrier is an ordinary row that is written at every node and replicated like any other: it
//! stands in each log behind all that was committed before. When every other node has it, it has
//! everything in front of it too (INV-PREFIX). This needs no word with the engines.

use std::time::{Duration, Instant};

use crate::config::Config;
use crate::connection::{NodeConnection, quote_identifier, quote_string};
use crate::error::{Error, Result};
use crate::position::marker::BARRIER_TABLE;

/// How often the targets are asked.
const POLL: Duration = Duration::from_millis(20);

/// What is still outstanding.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Outstanding {
    /// Whose barrier.
    pub origin: String,
    /// Where it has not arrived.
    pub target: String,
}

/// Waits. `None` waits for ever. Gives what has not arrived when the time was up: empty when
/// everything has.
///
/// # Errors
/// The connections'; [`Error::Preflight`] when the nodes were not set up.
pub async fn wait(config: &Config, timeout: Option<Duration>) -> Result<Vec<Outstanding>> {
    let table = format!(
        "{}.{BARRIER_TABLE}",
        quote_identifier(&config.engine.schema)
    );
    let mut nodes: Vec<NodeConnection> = Vec::new();
    for node in &config.nodes {
        nodes.push(NodeConnection::open(node).await?);
    }
    let mut tokens: Vec<u64> = Vec::new();
    for (origin, node) in config.nodes.iter().enumerate() {
        // A node that was restored from a backup has an older token than the others have of it: above
        // all of them, or the wait would be over before it began.
        let mut highest = 0;
        for connection in &mut nodes {
            highest = highest.max(token(connection, &table, &node.name).await?);
        }
        tokens.push(raise(&mut nodes[origin], &table, highest).await?);
    }
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let mut outstanding: Vec<(usize, usize)> = (0..nodes.len())
        .flat_map(|origin| (0..nodes.len()).map(move |target| (origin, target)))
        .filter(|(origin, target)| origin != target)
        .collect();
    loop {
        let mut waiting = Vec::new();
        for (origin, target) in outstanding {
            let name = &config.nodes[origin].name;
            if token(&mut nodes[target], &table, name).await? < tokens[origin] {
                waiting.push((origin, target));
            }
        }
        outstanding = waiting;
        if outstanding.is_empty() || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    for connection in nodes {
        connection.close().await;
    }
    Ok(outstanding
        .into_iter()
        .map(|(origin, target)| Outstanding {
            origin: config.nodes[origin].name.clone(),
            target: config.nodes[target].name.clone(),
        })
        .collect())
}

/// What a node has of the barrier of `origin`; 0 where it has none.
async fn token(connection: &mut NodeConnection, table: &str, origin: &str) -> Result<u64> {
    let sql = format!(
        "SELECT token FROM {table} WHERE node = {}",
        quote_string(origin)
    );
    let found = match connection.first(&sql, "reading the barrier").await {
        Err(Error::Server {
            code: 1049 | 1146, ..
        }) => return Err(not_set_up(connection.node())),
        other => other?,
    };
    Ok(found.unwrap_or(0))
}

fn not_set_up(node: &str) -> Error {
    Error::Preflight(format!(
        "node {node} is not set up: run `twinlog init` once, while both nodes hold the same data"
    ))
}

/// Raises the node's own barrier by one, from `highest` at least, and gives it.
async fn raise(connection: &mut NodeConnection, table: &str, highest: u64) -> Result<u64> {
    let node = connection.node().to_owned();
    let context = "raising the barrier";
    let name = quote_string(&node);
    connection.execute("START TRANSACTION", context).await?;
    let raised = connection
        .execute(
            format!(
                "UPDATE {table} SET token = GREATEST(token, {highest}) + 1 WHERE node = {name}"
            ),
            context,
        )
        .await;
    match raised {
        Ok(0)
        | Err(Error::Server {
            code: 1049 | 1146, ..
        }) => return Err(not_set_up(&node)),
        other => other?,
    };
    let token: Option<u64> = connection
        .first(
            &format!("SELECT token FROM {table} WHERE node = {name}"),
            context,
        )
        .await?;
    connection.execute("COMMIT", context).await?;
    token.ok_or_else(|| not_set_up(&node))
}
