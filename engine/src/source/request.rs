//! Asking a server for its binlog.

use std::time::Duration;

use mysql_async::{BinlogStream, BinlogStreamRequest};
use mysql_common::binlog::events::Event as DriverEvent;
use rand::RngExt as _;

use crate::config::NodeConfig;
use crate::connection::{Identity, NodeConnection};
use crate::decode::event::{EventHeader, Flavor};
use crate::error::{Error, Result};
use crate::position::LogPos;

/// Seconds that the server waits for us to read on.
const WRITE_TIMEOUT: u32 = 3600;

/// Registers as a replica and starts the stream.
pub(super) async fn open(
    node: &NodeConfig,
    identity: &Identity,
    start: LogPos,
    heartbeat: Duration,
) -> Result<BinlogStream> {
    if start.offset > u64::from(u32::MAX) {
        return Err(Error::LogLost {
            node: node.name.clone(),
            problem: format!(
                "the place to go on from, {}, lies behind 4 GiB of its file, which a server cannot \
                 be asked for. Copy one node to the other, then run `twinlog init --force`; \
                 transactions of more than 3 GiB make such files",
                identity.log_name.show(start)
            ),
        });
    }
    let mut connection = NodeConnection::open(node).await?;
    let context = "preparing the binlog stream";
    let nanoseconds = heartbeat.as_nanos();
    connection
        .execute(
            format!(
                "SET @master_heartbeat_period = {nanoseconds}, \
                 @source_heartbeat_period = {nanoseconds}"
            ),
            context,
        )
        .await?;
    // The apply may be busy with one large transaction for longer than the minute that a server gives
    // a reader which does not take what it sends.
    connection
        .execute(
            format!("SET SESSION net_write_timeout = {WRITE_TIMEOUT}"),
            context,
        )
        .await?;
    if identity.flavor == Flavor::MariaDb {
        // Without it the server sends stand-ins for its own event types and no GTIDs.
        connection
            .execute("SET @mariadb_slave_capability = 4", context)
            .await?;
    }
    // A server ends the stream of another replica that comes with the same server_id, so each
    // stream takes one of its own, far from those that people give.
    let server_id = rand::rng().random_range(0xF000_0000_u32..=0xFFFF_FFFE);
    let file = identity.log_name.file(start.file);
    let request = BinlogStreamRequest::new(server_id)
        .with_filename(file.as_bytes())
        .with_pos(start.offset);
    let opening = connection.into_driver().get_binlog_stream(request);
    match tokio::time::timeout(node.silence, opening).await {
        Ok(opened) => opened
            .map_err(|error| Error::from_driver(&node.name, "opening the binlog stream", error)),
        Err(_) => Err(Error::Connection {
            node: node.name.clone(),
            message: format!(
                "the binlog stream did not begin within {}",
                humantime::format_duration(node.silence)
            ),
        }),
    }
}

/// The parts of a driver event's header that we act on.
pub(super) fn header_of(event: &DriverEvent) -> EventHeader {
    let header = event.header();
    EventHeader {
        timestamp: header.timestamp(),
        event_type: header.event_type_raw(),
        server_id: header.server_id(),
        end_log_pos: header.log_pos(),
        flags: header.flags_raw(),
    }
}
