//! Sets nodes up: the engine's schema on each, and the first positions.

use crate::config::{Config, DdlPolicy};
use crate::connection::{Identity, NodeConnection, quote_identifier, quote_string};
use crate::decode::event::Flavor;
use crate::error::{Error, Result};
use crate::link::uuid_text;
use crate::monitor;
use crate::own_schema;
use crate::position::LogPos;
use crate::position::marker::{BARRIER_TABLE, Marker};
use crate::preflight::gtids;

/// What was set up.
#[derive(Debug, Clone, serde::Serialize)]
pub struct InitReport {
    /// Links, each with its first position.
    pub links: Vec<InitLink>,
}

/// One link's first position.
#[derive(Debug, Clone, serde::Serialize)]
pub struct InitLink {
    /// The node whose log is read.
    pub origin: String,
    /// The node where it is applied.
    pub target: String,
    /// Where the reading begins, `file:offset` of the origin's log.
    pub position: String,
    /// Whether the position was there before and was left alone.
    pub kept: bool,
}

/// Makes the engine's schema on every node and notes where each link begins: at the present end of
/// the origin's log. Both nodes must hold the same data at this moment; what is written afterwards
/// is replicated.
///
/// Links that have a position keep it, unless `force`.
///
/// # Errors
/// The connections'; [`Error::Fenced`] when an engine is running and `force` would pull the
/// positions away under it; [`Error::Preflight`] when DDL of a node would be passed over at the
/// other one.
pub async fn init(config: &Config, force: bool) -> Result<InitReport> {
    let schema = &config.engine.schema;
    let mut nodes: Vec<(NodeConnection, Identity)> = Vec::new();
    for node in &config.nodes {
        let mut connection = NodeConnection::open(node).await?;
        let identity = connection.identity().await?;
        if force {
            refuse_running(&mut connection, &node.name).await?;
        }
        nodes.push((connection, identity));
    }
    if config.replication.ddl == DdlPolicy::Replicate {
        refuse_unknown_gtids(&mut nodes).await?;
    }
    for (connection, identity) in &mut nodes {
        own_schema::ensure(connection, schema).await?;
        // So that a wait never has to tell an insert from an update.
        let row = format!(
            "INSERT IGNORE INTO {}.{BARRIER_TABLE} (node, token) VALUES {}",
            quote_identifier(schema),
            config
                .nodes
                .iter()
                .map(|node| format!("({}, 0)", quote_string(&node.name)))
                .collect::<Vec<_>>()
                .join(", ")
        );
        connection.execute(row, "making the barrier rows").await?;
        tracing::debug!(node = %identity.node, "schema is there");
    }
    // Every node's position is taken before any marker is written, so that what one link calls the
    // origin's position and the other calls seen is the same place.
    let mut ends: Vec<LogPos> = Vec::new();
    for (connection, identity) in &mut nodes {
        let (name, end) = connection.log_end(identity.flavor).await?;
        identity.log_name = name;
        ends.push(end);
    }
    let identities: Vec<Identity> = nodes.iter().map(|(_, identity)| identity.clone()).collect();
    let mut report = InitReport { links: Vec::new() };
    for (target, (connection, own)) in nodes.iter_mut().enumerate() {
        for (origin, identity) in identities.iter().enumerate() {
            if origin == target {
                continue;
            }
            let existing: Option<mysql_async::Row> = connection
                .first(
                    &Marker::select(schema, &identity.node),
                    "reading the marker row",
                )
                .await?;
            let existing = existing.map(Marker::from_row).transpose()?;
            if let (Some(marker), false) = (&existing, force) {
                report.links.push(InitLink {
                    origin: identity.node.to_string(),
                    target: own.node.to_string(),
                    position: marker.log_name.show(marker.position),
                    kept: true,
                });
                continue;
            }
            let marker = Marker {
                origin: identity.node.to_string(),
                server_id: identity.server_id,
                server_uuid: uuid_text(identity),
                log_name: identity.log_name.clone(),
                position: ends[origin],
                gtid: String::new(),
                clock: 0,
                seen_name: own.log_name.clone(),
                seen: ends[target],
                seen_clock: 0,
                intent: None,
                intended: None,
                epoch: existing.as_ref().map_or(0, |marker| marker.epoch) + 1,
                transactions: 0,
                changes: 0,
                log_birth: 0,
                intent_clock: 0,
            };
            connection
                .execute(marker.replace(schema), "writing the first position")
                .await?;
            report.links.push(InitLink {
                origin: identity.node.to_string(),
                target: own.node.to_string(),
                position: identity.log_name.show(ends[origin]),
                kept: false,
            });
        }
    }
    for (connection, _) in nodes {
        connection.close().await;
    }
    Ok(report)
}

/// Refuses where a node will give out GTIDs again that the other one calls executed.
async fn refuse_unknown_gtids(nodes: &mut [(NodeConnection, Identity)]) -> Result<()> {
    let context = "comparing gtid_executed";
    let mut executed: Vec<String> = Vec::new();
    for (connection, identity) in nodes.iter_mut() {
        executed.push(match identity.flavor {
            Flavor::MySql => connection
                .first("SELECT @@GLOBAL.gtid_executed", context)
                .await?
                .unwrap_or_default(),
            Flavor::MariaDb => String::new(),
        });
    }
    let names: Vec<String> = nodes
        .iter()
        .map(|(_, identity)| identity.node.to_string())
        .collect();
    for (index, (connection, identity)) in nodes.iter_mut().enumerate() {
        for (other, executed) in names.iter().zip(&executed) {
            if *other == names[index] {
                continue;
            }
            let Some(question) = gtids::question(&uuid_text(identity), executed) else {
                continue;
            };
            let missing: Option<String> = connection.first(&question, context).await?;
            if let Some(missing) = missing.filter(|missing| !missing.is_empty()) {
                let (message, remedy) = gtids::unknown(&names[index], other, &missing);
                return Err(Error::Preflight(format!("{message}. To mend it, {remedy}")));
            }
        }
    }
    Ok(())
}

/// Refuses while an engine holds its lock on the node.
///
/// # Errors
/// [`Error::Fenced`].
pub async fn refuse_running(connection: &mut NodeConnection, node: &str) -> Result<()> {
    let lock = monitor::lock_name(node);
    let holder: Option<Option<u64>> = connection
        .first(
            &format!("SELECT IS_USED_LOCK({lock})"),
            "looking for a running engine",
        )
        .await?;
    match holder.flatten() {
        None => Ok(()),
        Some(id) => Err(Error::Fenced(format!(
            "the engine of node {node} is running (connection {id} of the server): stop it first"
        ))),
    }
}
