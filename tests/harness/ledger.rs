//! A load whose every transaction can be accounted for, and the account.
//!
//! Each transaction writes one entry under its client's next number. Most raise a counter as well:
//! one of the client's own, or one that clients of both nodes raise and whose rows are merged by
//! `delta`. A transaction that is lost is missing among the entries; one that took effect twice
//! shows in the merged counters, which add what a change added, and in the number of transactions
//! that the marker rows have counted. Some also write a few hot rows that collide in every way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Opts, TxOpts};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinHandle;
use twinlog_cli::sandbox::Server;

/// The tables, to be made at both nodes.
pub const SCHEMA: &str = "CREATE DATABASE d; \
    CREATE TABLE d.entry (node INT, client INT, seq BIGINT, hit INT NOT NULL, PRIMARY KEY (node, client, seq)); \
    CREATE TABLE d.own (node INT, client INT, n BIGINT NOT NULL, PRIMARY KEY (node, client)); \
    CREATE TABLE d.total (id INT PRIMARY KEY, n BIGINT NOT NULL); \
    INSERT INTO d.total VALUES (1, 0), (2, 0), (3, 0), (4, 0); \
    CREATE TABLE d.t (id INT PRIMARY KEY, v BIGINT, u INT, w INT, UNIQUE KEY (u), UNIQUE KEY (w)); \
    CREATE TABLE d.s (name VARCHAR(20) CHARACTER SET utf8mb4 PRIMARY KEY, v BIGINT); \
    CREATE TABLE d.p (id INT PRIMARY KEY, v BIGINT); \
    CREATE TABLE d.c (id INT PRIMARY KEY, p INT, v BIGINT, FOREIGN KEY (p) REFERENCES d.p (id) ON DELETE CASCADE)";

/// The rule that the merged counters need, for the config file.
pub const RULES: &str = "[[conflict]]\ntables = \"d.total\"\ncolumns = { n = \"delta\" }";

/// Merged counters.
const TOTALS: i64 = 4;
/// Hot rows of each table.
const KEYS: i64 = 8;
/// How long a client waits before it tries a server again that is away.
const AWAY: Duration = Duration::from_millis(50);

/// What clients do.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// Clients of each node.
    pub clients: usize,
    /// Of ten transactions, how many raise a counter that both nodes raise.
    pub totals: u32,
    /// Of ten transactions, how many also write hot rows.
    pub hot: u32,
    /// Pause of a client between two transactions.
    pub pause: Duration,
}

/// A running load.
#[derive(Debug)]
pub struct Ledger {
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Account>>,
    readers: Vec<JoinHandle<u64>>,
}

/// What a client knows of its own transactions.
#[derive(Debug, Clone, Copy)]
struct Account {
    node: usize,
    client: usize,
    /// The last one whose COMMIT was answered.
    acknowledged: i64,
}

/// What came out.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outcome {
    /// Transactions of the clients of both nodes.
    pub transactions: i64,
    /// Of them, those missing at a node that were acknowledged.
    pub lost: i64,
    /// Effects that are there more than once.
    pub doubled: i64,
    /// Looks of the readers that found whole transactions and no gap.
    pub prefixes_seen: u64,
}

impl Ledger {
    /// Starts the clients and a reader at each node. `seed` decides what is written.
    #[must_use]
    pub fn start(servers: &[Server; 2], style: Style, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let committed = Arc::new(AtomicU64::new(0));
        let mut clients = Vec::new();
        let mut readers = Vec::new();
        for (node, server) in servers.iter().enumerate() {
            for client in 0..style.clients {
                let random = StdRng::seed_from_u64(seed ^ ((node * 64 + client) as u64 + 1) << 32);
                let client = Client {
                    opts: server.opts(),
                    node,
                    client,
                    style,
                    random,
                    stop: Arc::clone(&stop),
                    committed: Arc::clone(&committed),
                };
                clients.push(tokio::spawn(client.run()));
            }
            readers.push(tokio::spawn(read(server.opts(), node, Arc::clone(&stop))));
        }
        Self {
            stop,
            committed,
            clients,
            readers,
        }
    }

    /// Transactions committed so far.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }

    /// Waits until this many more transactions were committed.
    pub async fn go_on_for(&self, transactions: u64) {
        let until = self.committed() + transactions;
        let deadline = std::time::Instant::now() + crate::pair::PATIENCE;
        while self.committed() < until {
            assert!(std::time::Instant::now() < deadline, "no client commits");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends the load; what the clients know is for [`Finished::settle`] once everything is applied.
    pub async fn finish(self) -> Finished {
        self.stop.store(true, Ordering::Relaxed);
        let mut accounts = Vec::new();
        for client in self.clients {
            accounts.push(client.await.unwrap());
        }
        let mut prefixes_seen = 0;
        for reader in self.readers {
            prefixes_seen += reader.await.unwrap();
        }
        Finished {
            accounts,
            prefixes_seen,
        }
    }
}

/// A load that has ended.
#[derive(Debug)]
pub struct Finished {
    accounts: Vec<Account>,
    prefixes_seen: u64,
}

impl Finished {
    /// Compares what the clients know with what both nodes hold. All must be applied everywhere.
    /// `besides` is how many transactions others have committed at each node.
    pub async fn settle(&self, servers: &[Server; 2], besides: [i64; 2]) -> Outcome {
        let mut outcome = Outcome {
            prefixes_seen: self.prefixes_seen,
            ..Outcome::default()
        };
        for (at, server) in servers.iter().enumerate() {
            let entries: Vec<(usize, usize, i64, i64)> = server
                .query("SELECT node, client, COUNT(*), MAX(seq) FROM d.entry GROUP BY 1, 2")
                .await
                .unwrap();
            let mut of_node = [0; 2];
            for (node, client, count, last) in &entries {
                of_node[*node] += count;
                // Numbers that are missing in front of the last one.
                outcome.lost += last - count;
                let account = self
                    .accounts
                    .iter()
                    .find(|account| (account.node, account.client) == (*node, *client));
                outcome.lost += (account.unwrap().acknowledged - last).max(0);
            }
            outcome.transactions = of_node[0] + of_node[1];
            let known = |account: &&Account| {
                entries
                    .iter()
                    .any(|(node, client, ..)| (account.node, account.client) == (*node, *client))
            };
            let missing = self.accounts.iter().filter(|account| !known(account));
            outcome.lost += missing.map(|account| account.acknowledged).sum::<i64>();
            let counters: Vec<(i64, i64)> = server
                .query(
                    "SELECT n, (SELECT COUNT(*) FROM d.entry WHERE hit = t.id) FROM d.total t \
                     UNION ALL SELECT n, (SELECT COUNT(*) FROM d.entry e WHERE hit = 0 AND e.node = o.node \
                     AND e.client = o.client) FROM d.own o",
                )
                .await
                .unwrap();
            for (counter, entries) in counters {
                if counter != entries {
                    println!("node {at}: a counter of {entries} increments is at {counter}");
                }
                outcome.doubled += (counter - entries).max(0);
                outcome.lost += (entries - counter).max(0);
            }
            // What the engine of this node has counted of the other one's transactions.
            let counted: Vec<i64> = server
                .query("SELECT transactions FROM twinlog.marker")
                .await
                .unwrap();
            let theirs = of_node[1 - at] + besides[1 - at];
            if counted[0] != theirs {
                println!(
                    "node {at}: {} transactions applied, of {theirs}",
                    counted[0]
                );
            }
            outcome.doubled += (counted[0] - theirs).max(0);
            outcome.lost += (theirs - counted[0]).max(0);
        }
        outcome
    }
}

struct Client {
    opts: Opts,
    node: usize,
    client: usize,
    style: Style,
    random: StdRng,
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
}

impl Client {
    async fn run(mut self) -> Account {
        let mut account = Account {
            node: self.node,
            client: self.client,
            acknowledged: 0,
        };
        while !self.stop.load(Ordering::Relaxed) {
            if self.work(&mut account).await.is_err() {
                tokio::time::sleep(AWAY).await;
            }
        }
        account
    }

    /// Until the connection breaks or the load ends.
    async fn work(&mut self, account: &mut Account) -> mysql_async::Result<()> {
        let mut conn = Conn::new(self.opts.clone()).await?;
        let (node, client) = (self.node, self.client);
        // A COMMIT whose answer was lost may have gone through.
        let last: Option<Option<i64>> = conn
            .query_first(format!(
                "SELECT MAX(seq) FROM d.entry WHERE node = {node} AND client = {client}"
            ))
            .await?;
        let last = last.flatten().unwrap_or(0);
        assert!(
            last >= account.acknowledged,
            "the server of node {node} lost a commit that it had acknowledged: {last} after {account:?}"
        );
        account.acknowledged = last;
        while !self.stop.load(Ordering::Relaxed) {
            match self.transaction(&mut conn, account.acknowledged + 1).await {
                Ok(()) => {
                    account.acknowledged += 1;
                    self.committed.fetch_add(1, Ordering::Relaxed);
                }
                // Deadlocks and lock timeouts are what clients meet.
                Err(mysql_async::Error::Server(error))
                    if matches!(error.code, 1213 | 1205 | 1020 | 1305) =>
                {
                    if error.code == 1305 {
                        println!("node {node}: a transaction was rolled back without a word");
                    }
                    conn.query_drop("ROLLBACK").await?;
                }
                Err(error) => {
                    if let mysql_async::Error::Server(error) = &error {
                        // Going down, or going up.
                        assert!(
                            matches!(error.code, 1053 | 1079 | 1158..=1161 | 1927 | 3032),
                            "{error:?}"
                        );
                    }
                    return Err(error);
                }
            }
            if !self.style.pause.is_zero() {
                tokio::time::sleep(self.style.pause).await;
            }
        }
        conn.disconnect().await
    }

    async fn transaction(&mut self, conn: &mut Conn, seq: i64) -> mysql_async::Result<()> {
        let (node, client) = (self.node, self.client);
        let hit = if self.random.random_range(0..10) < self.style.totals {
            self.random.random_range(1..=TOTALS)
        } else {
            0
        };
        conn.query_drop("START TRANSACTION").await?;
        conn.query_drop("SAVEPOINT begun").await?;
        if hit > 0 {
            conn.query_drop(format!("UPDATE d.total SET n = n + 1 WHERE id = {hit}"))
                .await?;
        } else {
            conn.query_drop(format!(
                "INSERT INTO d.own VALUES ({node}, {client}, 1) ON DUPLICATE KEY UPDATE n = n + 1"
            ))
            .await?;
        }
        if self.random.random_range(0..10) < self.style.hot {
            for _ in 0..self.random.random_range(1..3) {
                conn.query_drop("SAVEPOINT hot").await?;
                match conn.query_drop(hot(&mut self.random)).await {
                    // A duplicate key or a missing parent. Whether that has cost no more than the
                    // statement: a transaction that was rolled back has no savepoint (1305).
                    Err(mysql_async::Error::Server(error)) if matches!(error.code, 1062 | 1452) => {
                        conn.query_drop("ROLLBACK TO hot").await?;
                    }
                    other => other?,
                }
            }
        }
        // MySQL has been seen to roll a transaction back without a word to its client, and to let what
        // comes behind it stand alone. Whoever has no savepoint any more (1305) begins anew.
        conn.query_drop("RELEASE SAVEPOINT begun").await?;
        conn.query_drop(format!(
            "INSERT INTO d.entry VALUES ({node}, {client}, {seq}, {hit})"
        ))
        .await?;
        conn.query_drop("COMMIT").await
    }
}

/// A statement on rows that collide in every way.
fn hot(random: &mut StdRng) -> String {
    let id = random.random_range(1..=KEYS);
    let other = random.random_range(1..=KEYS);
    let v: u32 = random.random();
    let mut unique = || match random.random_range(0..=KEYS) {
        0 => "NULL".to_owned(),
        value => value.to_string(),
    };
    let (u, w) = (unique(), unique());
    match random.random_range(0..14) {
        0..2 => format!("INSERT INTO d.t VALUES ({id}, {v}, {u}, {w})"),
        2 => format!("UPDATE d.t SET v = {v} WHERE id = {id}"),
        3 => format!("UPDATE d.t SET u = {u}, w = {w}, v = {v} WHERE id = {id}"),
        4 => format!("DELETE FROM d.t WHERE id = {id}"),
        5 => format!("UPDATE d.t SET id = {other} WHERE id = {id}"),
        6..8 => format!(
            "REPLACE INTO d.s VALUES ('{}', {v})",
            ["a", "B", "c ", "d", "A", "b", "c", "D "][id as usize % 8]
        ),
        8 => format!(
            "DELETE FROM d.s WHERE name = '{}'",
            ["a", "b", "c", "d"][id as usize % 4]
        ),
        9 => format!("INSERT INTO d.p VALUES ({id}, {v})"),
        10 => format!("UPDATE d.p SET v = {v} WHERE id = {id}"),
        11 => format!("DELETE FROM d.p WHERE id = {id}"),
        12 => format!("INSERT INTO d.c VALUES ({other}, {id}, {v})"),
        _ => format!("UPDATE d.c SET p = {id}, v = {v} WHERE id = {other}"),
    }
}

/// Looks at a node again and again: what it shows of each client is whole transactions, and all in
/// front of the last one (INV-PREFIX). Gives the number of looks.
async fn read(opts: Opts, node: usize, stop: Arc<AtomicBool>) -> u64 {
    let mut looks = 0;
    while !stop.load(Ordering::Relaxed) {
        if let Ok(seen) = look(&opts).await {
            for ((origin, client), [entries, last, of_own, counter]) in seen {
                assert!(
                    entries == last && of_own == counter,
                    "node {node} shows {entries} transactions of client {client} of node {origin}, the \
                     last of which is number {last}; its counter is {counter}, after {of_own}"
                );
            }
            looks += 1;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    looks
}

async fn look(opts: &Opts) -> mysql_async::Result<BTreeMap<(i64, i64), [i64; 4]>> {
    let mut conn = Conn::new(opts.clone()).await?;
    let mut options = TxOpts::new();
    options.with_consistent_snapshot(true);
    options.with_isolation_level(mysql_async::IsolationLevel::RepeatableRead);
    let mut snapshot = conn.start_transaction(options).await?;
    let entries: Vec<(i64, i64, i64, i64, i64)> = snapshot
        .query("SELECT node, client, COUNT(*), MAX(seq), CAST(SUM(hit = 0) AS SIGNED) FROM d.entry GROUP BY 1, 2")
        .await?;
    let counters: Vec<(i64, i64, i64)> =
        snapshot.query("SELECT node, client, n FROM d.own").await?;
    snapshot.rollback().await?;
    conn.disconnect().await?;
    let mut seen = BTreeMap::new();
    for (node, client, count, last, of_own) in entries {
        seen.insert((node, client), [count, last, of_own, 0]);
    }
    for (node, client, n) in counters {
        seen.entry((node, client)).or_insert([0; 4])[3] = n;
    }
    Ok(seen)
}
