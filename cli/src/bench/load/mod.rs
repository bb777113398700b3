//! The write load of the benchmarks: what sysbench's write tests do, and a few shapes that they lack.
//!
//! It is our own generator, so that a host needs nothing but this program. Tables, statements and
//! the order of statements of `write-only`, `insert`, `update-index` and `update-non-index` are
//! those of sysbench 1.0 (`oltp_write_only` and so on), and so is the default choice of rows
//! (`special`). All choices come from a seed; which thread is faster does not.

mod client;
mod shape;
mod tables;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use anyhow::Context as _;
use mysql_async::{Conn, Opts};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use client::{Client, write_contested};
pub use shape::{Distribution, Shape};
pub use tables::{create, fill};

/// Rows of each table that both nodes write in [`Shape::HotRows`]; the last ones.
pub const CONTESTED_ROWS: u32 = 200;
/// Rows of each table that the rest of [`Shape::HotRows`] goes to; the first ones of the node's range.
pub const HOT_ROWS: u32 = 500;

/// What is written, and where.
#[derive(Debug, Clone, Serialize)]
pub struct LoadOptions {
    /// Database that holds the tables.
    pub database: String,
    /// What a transaction does.
    pub shape: Shape,
    /// How rows are chosen.
    pub distribution: Distribution,
    /// Tables.
    pub tables: u32,
    /// Rows of each table at the start.
    pub rows: u32,
    /// Clients that write at the same time, at each node that is written to.
    pub threads: u32,
    /// Seed of all choices.
    pub seed: u64,
    /// Number of this node, from 0.
    #[serde(skip)]
    pub node: u32,
    /// How many nodes are written to at once: each has its own share of the ids, so that nothing
    /// but [`Shape::HotRows`] comes into conflict.
    pub writers: u32,
}

impl LoadOptions {
    /// The same load at another node.
    #[must_use]
    pub fn at_node(&self, node: u32) -> Self {
        Self {
            node,
            ..self.clone()
        }
    }

    /// First and last id of this node's share.
    #[must_use]
    pub fn ids(&self) -> (u32, u32) {
        let share = self.rows / self.writers.max(1);
        let first = 1 + share * (self.node % self.writers.max(1));
        (first, first + share - 1)
    }

    /// Says what is wrong with the sizes.
    ///
    /// # Errors
    /// Too few rows for the shape.
    pub fn check(&self) -> anyhow::Result<()> {
        let least = match self.shape {
            Shape::HotRows => 2 * self.writers * (HOT_ROWS + CONTESTED_ROWS),
            Shape::MixedSizes => 2 * self.writers * client::LARGEST_RANGE,
            _ => 2 * self.writers,
        };
        anyhow::ensure!(
            self.rows >= least,
            "--rows {} is too small for --workload {}: at least {least}",
            self.rows,
            self.shape
        );
        Ok(())
    }
}

/// What has been written so far, by all clients that share it.
#[derive(Debug, Default)]
pub struct Written {
    transactions: AtomicU64,
    rows: AtomicU64,
    rolled_back: AtomicU64,
}

impl Written {
    /// Committed transactions.
    #[must_use]
    pub fn transactions(&self) -> u64 {
        self.transactions.load(Ordering::Relaxed)
    }

    /// Row changes in them.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Transactions that the server rolled back (deadlocks, lock timeouts); others took their place.
    #[must_use]
    pub fn rolled_back(&self) -> u64 {
        self.rolled_back.load(Ordering::Relaxed)
    }

    /// Counts one committed transaction.
    pub fn add(&self, rows: u64) {
        self.transactions.fetch_add(1, Ordering::Relaxed);
        self.rows.fetch_add(rows, Ordering::Relaxed);
    }
}

/// Until when a load writes.
#[derive(Debug, Clone)]
pub enum Until {
    /// So many transactions are committed.
    Count(u64),
    /// It is told to stop.
    Stopped(CancellationToken),
}

/// Writes from `options.threads` connections as fast as the server takes it.
///
/// # Errors
/// A statement failed for another reason than a deadlock or lock timeout.
pub async fn write(
    opts: &Opts,
    options: &LoadOptions,
    until: Until,
    written: &Arc<Written>,
) -> anyhow::Result<()> {
    let left = Arc::new(AtomicI64::new(match &until {
        Until::Count(count) => i64::try_from(*count).unwrap_or(i64::MAX),
        Until::Stopped(_) => i64::MAX,
    }));
    let stop = match until {
        Until::Stopped(stop) => stop.child_token(),
        Until::Count(_) => CancellationToken::new(),
    };
    let mut clients = JoinSet::new();
    for number in 0..options.threads {
        let (opts, mut client) = (opts.clone(), Client::new(options, number));
        let (left, stop, written) = (Arc::clone(&left), stop.clone(), Arc::clone(written));
        clients.spawn(async move {
            let mut conn = connect(&opts, client.database()).await?;
            while !stop.is_cancelled() && left.fetch_sub(1, Ordering::Relaxed) > 0 {
                let (rows, again) = client.commit(&mut conn, &stop).await?;
                written.rolled_back.fetch_add(again, Ordering::Relaxed);
                if rows > 0 {
                    written.add(rows);
                }
            }
            conn.disconnect().await?;
            anyhow::Ok(())
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.context("a client of the load was lost")??;
    }
    Ok(())
}

/// A connection to the load's database.
///
/// # Errors
/// The server is away or refuses.
pub async fn connect(opts: &Opts, database: &str) -> anyhow::Result<Conn> {
    let opts = mysql_async::OptsBuilder::from_opts(opts.clone()).db_name(Some(database));
    Conn::new(opts)
        .await
        .context("a client of the load cannot connect")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(rows: u32, writers: u32, node: u32, shape: Shape) -> LoadOptions {
        LoadOptions {
            database: "bench".into(),
            shape,
            distribution: Distribution::Uniform,
            tables: 1,
            rows,
            threads: 1,
            seed: 1,
            node,
            writers,
        }
    }

    #[test]
    fn nodes_share_the_ids() {
        let ids = |writers, node| options(1000, writers, node, Shape::WriteOnly).ids();
        assert_eq!(ids(1, 0), (1, 1000));
        assert_eq!((ids(2, 0), ids(2, 1)), ((1, 500), (501, 1000)));
    }

    #[test]
    fn too_few_rows_are_refused() {
        assert!(options(2, 1, 0, Shape::WriteOnly).check().is_ok());
        let error = options(1000, 1, 0, Shape::HotRows).check().unwrap_err();
        assert!(error.to_string().contains("at least 1400"), "{error}");
    }
}
