//! What people do with positions: look at them, and set one by hand.

use crate::config::Config;
use crate::connection::NodeConnection;
use crate::error::{Error, Result};
use crate::init::refuse_running;
use crate::link::read_marker;
use crate::position::store::Store;
use crate::position::{LogName, LogPos};

/// One link's position, as the target's marker row says.
#[derive(Debug, Clone, serde::Serialize)]
pub struct PositionReport {
    /// The node whose log is read.
    pub origin: String,
    /// The node where it is applied.
    pub target: String,
    /// Everything of the origin in front of this is applied, `file:offset`.
    pub applied: String,
    /// GTID of the last transaction applied.
    pub gtid: String,
    /// How much of the target's own log the origin had applied there, `file:offset`.
    pub seen: String,
    /// DDL that was about to run.
    pub intent: Option<String>,
    /// End of the origin's log now, where it can be asked.
    pub source: Option<String>,
    /// What the engine's own store says, where it can be opened (no engine running here).
    pub stored: Option<String>,
    /// Origin transactions applied.
    pub transactions: u64,
    /// Row changes applied.
    pub changes: u64,
    /// Epoch of the engine.
    pub epoch: u64,
}

/// Reads the positions of every link.
///
/// # Errors
/// The targets' connections'.
pub async fn report(config: &Config) -> Result<Vec<PositionReport>> {
    let mut reports = Vec::new();
    for target in &config.nodes {
        let mut connection = NodeConnection::open(target).await?;
        for origin in config
            .nodes
            .iter()
            .filter(|other| other.name != target.name)
        {
            let marker = read_marker(&mut connection, &config.engine.schema, &origin.name).await?;
            let source = match NodeConnection::open(origin).await {
                Ok(mut connection) => match connection.identity().await {
                    Ok(identity) => connection
                        .log_end(identity.flavor)
                        .await
                        .ok()
                        .map(|(name, end)| name.show(end)),
                    Err(_) => None,
                },
                Err(_) => None,
            };
            let folder = config.engine.data_dir.join(&target.name);
            let stored = if folder.join("positions").exists() {
                Store::open(&folder)
                    .and_then(|(store, _)| store.link(&origin.name))
                    .ok()
                    .flatten()
                    .map(|record| marker.log_name.show(record.settled))
            } else {
                None
            };
            reports.push(PositionReport {
                origin: origin.name.clone(),
                target: target.name.clone(),
                applied: marker.log_name.show(marker.position),
                gtid: marker.gtid.clone(),
                seen: marker.seen_name.show(marker.seen),
                intent: marker.intent.map(|intent| marker.log_name.show(intent)),
                source,
                stored,
                transactions: marker.transactions,
                changes: marker.changes,
                epoch: marker.epoch,
            });
        }
        connection.close().await;
    }
    Ok(reports)
}

/// Sets where a link goes on, by hand: everything of the origin in front of `position`
/// (`file:offset`, a transaction boundary; or `end` for the present end of its log) counts as
/// applied. Gives the position before and the new one.
///
/// # Errors
/// [`Error::Fenced`] while an engine of either node runs; [`Error::Config`] for a position that cannot
/// be; the connections'.
pub async fn set(
    config: &Config,
    origin: &str,
    target: &str,
    position: &str,
) -> Result<(String, String)> {
    if origin == target {
        return Err(Error::Config(
            "origin and target of a link are two nodes".to_owned(),
        ));
    }
    let target_node = config.node(target)?;
    let origin_node = config.node(origin)?;
    let mut connection = NodeConnection::open(target_node).await?;
    refuse_running(&mut connection, target).await?;
    let mut marker = read_marker(&mut connection, &config.engine.schema, origin).await?;
    let mut origin_connection = NodeConnection::open(origin_node).await?;
    refuse_running(&mut origin_connection, origin).await?;
    let identity = origin_connection.identity().await?;
    let (name, end) = origin_connection.log_end(identity.flavor).await?;
    let (name, position) = if position == "end" {
        (name, end)
    } else {
        let (given, position) = parse(position)?;
        if !given.same_log(&name) {
            return Err(Error::Config(format!(
                "the log of node {origin} is called {}, not as in {position:?}",
                name.file(end.file)
            )));
        }
        if position > end {
            return Err(Error::Config(format!(
                "{} lies behind the end of node {origin}'s log, {}",
                name.show(position),
                name.show(end)
            )));
        }
        (name, position)
    };
    let before = marker.log_name.show(marker.position);
    // Both engines compute effective timestamps from here on, so both must begin with the same
    // clock; what lies between is skipped and cannot be reckoned with.
    let clock = marker.clock.max(now_micros());
    marker.log_name = name.clone();
    marker.position = position;
    marker.clock = clock;
    marker.server_id = identity.server_id;
    marker.server_uuid = crate::link::uuid_text(&identity);
    marker.gtid = String::new();
    marker.intent = None;
    marker.intended = None;
    // An engine that was started before must not write its own idea over this.
    marker.epoch += 1;
    // What counts as applied at the target counts as seen by it: the origin's engine need not look
    // for it in its own log, which may be purged.
    let mut reverse = read_marker(&mut origin_connection, &config.engine.schema, target).await?;
    reverse.seen_name = name.clone();
    reverse.seen = position;
    reverse.seen_clock = clock;
    reverse.epoch += 1;
    origin_connection
        .execute(
            reverse.replace(&config.engine.schema),
            "setting what was seen",
        )
        .await?;
    connection
        .execute(
            marker.replace(&config.engine.schema),
            "setting the position",
        )
        .await?;
    connection.close().await;
    origin_connection.close().await;
    Ok((before, name.show(position)))
}

fn now_micros() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |elapsed| {
            u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
        })
}

fn parse(text: &str) -> Result<(LogName, LogPos)> {
    text.rsplit_once(':')
        .and_then(|(file, offset)| {
            let (name, number) = LogName::split(file)?;
            let offset: u64 = offset.parse().ok()?;
            // The first four bytes of a file are its magic number.
            (offset >= 4).then(|| (name, LogPos::new(number, offset)))
        })
        .ok_or_else(|| {
            Error::Config(format!(
                "{text:?} is no position; write file:offset, such as mysql-bin.000012:4711, or `end`"
            ))
        })
}
