//! What people do with positions: look at them, and set one by hand.

use crate::config::Config;
use crate::connection::NodeConnection;
use crate::error::{Error, Result};
use crate::init::refuse_running;
use crate::link::read_marker;
use crate::position::marker::Marker;
use crate::position::store::Store;
use crate::position::{LogName, LogPos};

/// One link's position, as the target's marker row says.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct PositionReport {
    /// The node whose log is read.
    pub origin: String,
    /// The node where it is applied.
    pub target: String,
    /// Why the target could not be asked. What its marker would say is empty or 0 then.
    pub error: Option<String>,
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

/// Reads the positions of every link. A node that is away is no error: with one node lost, how far
/// the other one had come is just what is asked for.
pub async fn report(config: &Config) -> Vec<PositionReport> {
    // All at once: each that is away takes its time to be found so.
    let asked = config.nodes.iter().map(NodeConnection::open);
    let opened = futures_util::future::join_all(asked).await;
    let mut connections = Vec::new();
    let mut ends = Vec::new();
    for mut connection in opened {
        let end = match &mut connection {
            Ok(connection) => log_end(connection).await.ok(),
            Err(_) => None,
        };
        ends.push(end);
        connections.push(connection);
    }
    let mut reports = Vec::new();
    for (target, connection) in config.nodes.iter().zip(&mut connections) {
        let others = config.nodes.iter().zip(&ends);
        for (origin, source) in others.filter(|(other, _)| other.name != target.name) {
            let mut report = PositionReport {
                origin: origin.name.clone(),
                target: target.name.clone(),
                source: source.clone(),
                ..PositionReport::default()
            };
            let marker = match connection {
                Ok(connection) => {
                    read_marker(connection, &config.engine.schema, &origin.name).await
                }
                Err(error) => {
                    report.error = Some(error.to_string());
                    reports.push(report);
                    continue;
                }
            };
            match marker {
                Ok(marker) => fill(&mut report, config, marker),
                Err(error) => report.error = Some(error.to_string()),
            }
            reports.push(report);
        }
    }
    for connection in connections.into_iter().flatten() {
        connection.close().await;
    }
    reports
}

async fn log_end(connection: &mut NodeConnection) -> Result<String> {
    let identity = connection.identity().await?;
    let (name, end) = connection.log_end(identity.flavor).await?;
    Ok(name.show(end))
}

/// What the marker says, and the store beside it.
fn fill(report: &mut PositionReport, config: &Config, marker: Marker) {
    let folder = config.engine.data_dir.join(&report.target);
    if folder.join("positions").exists() {
        report.stored = Store::open(&folder)
            .and_then(|(store, _)| store.link(&report.origin))
            .ok()
            .flatten()
            .map(|record| marker.log_name.show(record.settled));
    }
    report.applied = marker.log_name.show(marker.position);
    report.seen = marker.seen_name.show(marker.seen);
    report.intent = marker.intent.map(|intent| marker.log_name.show(intent));
    report.gtid = marker.gtid;
    report.transactions = marker.transactions;
    report.changes = marker.changes;
    report.epoch = marker.epoch;
}

/// Sets where a link goes on, by hand: everything of the origin in front of `position`
/// (`file:offset`, a transaction boundary; or `end` for the present end of its log) counts as
/// applied. Gives the position before and the new one.
///
/// # Errors
/// [`Error::Fenced`] while an engine of either node runs: both must be stopped; [`Error::Config`] for a position that cannot
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
                "{} lies behind the end of node {origin}'s log, {}; write a position of node \
                 {origin}'s own log",
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
    // Of the file of the position before.
    marker.log_birth = 0;
    marker.clock = clock;
    marker.server_id = identity.server_id;
    marker.server_uuid = crate::link::uuid_text(&identity);
    marker.gtid = String::new();
    marker.intent = None;
    marker.intent_clock = 0;
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
    // The position first. If the second write fails, the origin's engine believes that less was seen
    // than was, and at worst calls concurrent what was not; the other way about it would miss a
    // conflict. Both can be done again.
    connection
        .execute(
            marker.replace(&config.engine.schema),
            "setting the position",
        )
        .await?;
    origin_connection
        .execute(
            reverse.replace(&config.engine.schema),
            "the position is set, but what counts as seen is not: run the same command again",
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
