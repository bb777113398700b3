//! What is found at a server that is there anyway: its version, what a commit waits for, how far away
//! it is. Nothing of it is changed.

use std::time::Instant;

use serde::Serialize;
use twinlog_engine::config::NodeConfig;
use twinlog_engine::connection::NodeConnection;

use crate::bench::spread::{Spread, few_digits};

/// Questions by which the distance is measured.
const ROUND_TRIPS: usize = 30;

/// One server as it was found.
#[derive(Debug, Clone, Serialize)]
pub struct OwnServer {
    /// Name of the node.
    pub node: String,
    /// Where it was reached.
    pub address: String,
    /// `VERSION()`
    pub version: String,
    /// `sync_binlog`
    pub sync_binlog: u64,
    /// `innodb_flush_log_at_trx_commit`
    pub innodb_flush_log_at_trx_commit: u64,
    /// `innodb_buffer_pool_size`, bytes.
    pub innodb_buffer_pool_size: u64,
    /// Median of the time from this machine to the server and back, seconds.
    pub round_trip_seconds: f64,
}

impl OwnServer {
    /// Asks a server.
    ///
    /// # Errors
    /// The connection's.
    pub async fn look(
        connection: &mut NodeConnection,
        node: &NodeConfig,
    ) -> twinlog_engine::Result<Self> {
        let sql = "SELECT VERSION(), @@GLOBAL.sync_binlog, @@GLOBAL.innodb_flush_log_at_trx_commit, \
                   @@GLOBAL.innodb_buffer_pool_size";
        let found: Option<(String, u64, u64, u64)> =
            connection.first(sql, "asking for the settings").await?;
        let (version, sync_binlog, innodb_flush_log_at_trx_commit, innodb_buffer_pool_size) =
            found.unwrap_or_default();
        let mut trips = Vec::new();
        for _ in 0..ROUND_TRIPS {
            let begun = Instant::now();
            connection.execute("DO 0", "measuring the distance").await?;
            trips.push(begun.elapsed().as_secs_f64());
        }
        Ok(Self {
            node: node.name.clone(),
            address: node.address(),
            version,
            sync_binlog,
            innodb_flush_log_at_trx_commit,
            innodb_buffer_pool_size,
            round_trip_seconds: Spread::of(trips).map_or(0.0, |trips| trips.median),
        })
    }

    /// Whether a commit is on the disk when it returns.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.sync_binlog == 1 && self.innodb_flush_log_at_trx_commit == 1
    }

    /// What a commit waits for, as settings.
    #[must_use]
    pub fn durability(&self) -> String {
        format!(
            "sync_binlog={}, innodb_flush_log_at_trx_commit={}",
            self.sync_binlog, self.innodb_flush_log_at_trx_commit
        )
    }

    /// One line for people.
    #[must_use]
    pub fn describe(&self) -> String {
        format!(
            "node {}: {} at {}, {}, innodb_buffer_pool_size={} MiB, {} ms away",
            self.node,
            self.version,
            self.address,
            self.durability(),
            self.innodb_buffer_pool_size >> 20,
            few_digits(self.round_trip_seconds * 1000.0),
        )
    }
}
