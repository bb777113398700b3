//! A mixed write load: what a shop's masters have to take, on a key range of this node's own, so
//! that two nodes that run it never write the same row or the same unique value.

mod client;
pub mod rivals;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Opts};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The database that the workload uses where nothing else is said.
pub const DATABASE: &str = "shop";

/// How many keys of `stock` each node may write; its clients share some of them.
const STOCK_PER_NODE: u64 = 1_000_000;
/// Clients of a node are numbered within this many.
const CLIENTS_PER_NODE: u32 = 1_000;

/// What has been written so far, by all clients that share it.
#[derive(Debug, Default)]
pub struct Counters {
    transactions: AtomicU64,
    rows: AtomicU64,
    deadlocks: AtomicU64,
    in_doubt: AtomicU64,
}

impl Counters {
    /// Committed transactions that changed at least one row; each is one transaction of the binlog.
    #[must_use]
    pub fn transactions(&self) -> u64 {
        self.transactions.load(Ordering::Relaxed)
    }

    /// Row changes in them.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Transactions that the server rolled back because of a deadlock or lock timeout; the client
    /// went on with another one.
    #[must_use]
    pub fn deadlocks(&self) -> u64 {
        self.deadlocks.load(Ordering::Relaxed)
    }

    /// Transactions whose connection broke during COMMIT: they may or may not have taken effect.
    #[must_use]
    pub fn in_doubt(&self) -> u64 {
        self.in_doubt.load(Ordering::Relaxed)
    }
}

/// Who writes.
#[derive(Debug, Clone)]
pub struct Params {
    /// Database that holds the tables.
    pub database: String,
    /// Connections that write at the same time.
    pub clients: u32,
    /// Number of this node, from 0; it chooses the key range.
    pub node_index: u32,
    /// Makes the sequence of each client's transactions repeatable.
    pub seed: u64,
    /// Whether a client whose connection breaks connects again and goes on (for tests that kill
    /// the server); otherwise a broken connection ends the run with an error.
    pub reconnect: bool,
}

impl Params {
    /// `clients` writers of node `node_index`, in the usual database.
    #[must_use]
    pub fn new(clients: u32, node_index: u32, seed: u64) -> Self {
        Self {
            database: DATABASE.to_owned(),
            clients,
            node_index,
            seed,
            reconnect: false,
        }
    }
}

/// The load against one server.
#[derive(Debug)]
pub struct Workload {
    opts: Opts,
    params: Params,
}

impl Workload {
    /// A load that is not running yet.
    #[must_use]
    pub fn new(opts: Opts, params: Params) -> Self {
        Self { opts, params }
    }

    /// Writes until stopped. Each client ends its transaction in hand first.
    ///
    /// # Errors
    /// A statement failed for another reason than a deadlock, or a connection broke and
    /// [`Params::reconnect`] is off. The other clients are stopped then.
    pub async fn run(
        &self,
        stop: CancellationToken,
        counters: Arc<Counters>,
    ) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.params.clients <= CLIENTS_PER_NODE,
            "at most {CLIENTS_PER_NODE} clients on a node"
        );
        // A failure stops the other clients, but not what else the caller's token may stop.
        let stop = stop.child_token();
        let mut clients = JoinSet::new();
        for number in 0..self.params.clients {
            let client = client::Client::new(self.opts.clone(), &self.params, number);
            clients.spawn(client.run(stop.clone(), Arc::clone(&counters)));
        }
        let mut result = Ok(());
        while let Some(ended) = clients.join_next().await {
            let ended = ended.context("a client of the workload panicked")?;
            if result.is_ok() && ended.is_err() {
                stop.cancel();
                result = ended;
            }
        }
        result
    }
}

/// Creates the database and its tables.
///
/// # Errors
/// They exist already, or the server refuses.
pub async fn create_schema(conn: &mut Conn, database: &str) -> anyhow::Result<()> {
    conn.query_drop(format!(
        "CREATE DATABASE `{database}` CHARACTER SET utf8mb4"
    ))
    .await
    .with_context(|| format!("cannot create database {database}"))?;
    for (table, definition) in TABLES {
        conn.query_drop(format!(
            "CREATE TABLE `{database}`.`{table}` ({definition}) ENGINE=InnoDB"
        ))
        .await
        .with_context(|| format!("cannot create table {database}.{table}"))?;
    }
    Ok(())
}

/// `owner` says which client of which node wrote a row, so that a client finds its own rows again
/// after its connection broke.
const TABLES: &[(&str, &str)] = &[
    (
        "customer",
        "id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
         owner INT UNSIGNED NOT NULL,
         email VARCHAR(100) NOT NULL,
         name VARCHAR(80) NOT NULL,
         balance DECIMAL(14,2) NOT NULL DEFAULT 0,
         birthday DATE NULL,
         status ENUM('new','regular','vip','closed') NOT NULL DEFAULT 'new',
         interests SET('books','music','films','games') NOT NULL DEFAULT '',
         created DATETIME(6) NOT NULL,
         note TEXT NULL,
         UNIQUE KEY email (email),
         KEY owner (owner)",
    ),
    (
        "purchase",
        "id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
         owner INT UNSIGNED NOT NULL,
         customer_id BIGINT UNSIGNED NOT NULL,
         state ENUM('open','paid','sent','returned') NOT NULL DEFAULT 'open',
         total DECIMAL(12,2) NOT NULL,
         placed TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
         KEY owner (owner),
         CONSTRAINT purchase_customer FOREIGN KEY (customer_id) REFERENCES customer (id)",
    ),
    (
        "purchase_line",
        "purchase_id BIGINT UNSIGNED NOT NULL,
         line SMALLINT UNSIGNED NOT NULL,
         sku BIGINT UNSIGNED NOT NULL,
         quantity INT NOT NULL,
         price DECIMAL(10,2) NOT NULL,
         PRIMARY KEY (purchase_id, line),
         CONSTRAINT line_purchase FOREIGN KEY (purchase_id) REFERENCES purchase (id)",
    ),
    (
        "stock",
        "sku BIGINT UNSIGNED NOT NULL PRIMARY KEY,
         on_hand BIGINT NOT NULL,
         moves INT UNSIGNED NOT NULL,
         weight FLOAT NULL,
         tag BINARY(8) NULL",
    ),
    (
        "visit",
        "id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
         owner INT UNSIGNED NOT NULL,
         kind VARCHAR(30) NOT NULL,
         detail JSON NULL,
         score DOUBLE NULL,
         body BLOB NULL,
         lasted TIME(3) NULL,
         flags BIT(9) NOT NULL DEFAULT b'0',
         at DATETIME NOT NULL,
         KEY owner (owner)",
    ),
];
