//! XA transactions of both nodes, prepared for a moment or for long, while engines and servers are
//! killed and others write. `TWINLOG_CHAOS_SECONDS` makes it longer, `TWINLOG_CHAOS_SEED` repeats the
//! choices of a run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Opts};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use twinlog_cli::sandbox::ServerKind;
use twinlog_harness::pair::PATIENCE;
use twinlog_harness::{Cluster, ClusterOptions};

use crate::storm::{engines, kill_servers};
use crate::{TWINLOG, number};

on_both!(amid_kills);

const SECONDS: u64 = 12;
/// Clients of each node that prepare; one more does not.
const CLIENTS: i64 = 2;
/// Transactions that a client has prepared at a time.
const PREPARED: usize = 4;
/// How long a client waits for a server that is away.
const AWAY: Duration = Duration::from_millis(50);

const SCHEMA: &str = "CREATE DATABASE d; \
    CREATE TABLE d.entry (node INT, client INT, seq BIGINT, pad VARCHAR(200) NOT NULL, PRIMARY KEY (node, client, seq))";

/// Each fifth is rolled back. Who decides once more has to decide as before.
fn commits(seq: i64) -> bool {
    seq % 5 != 0
}

/// What the servers acknowledged.
#[derive(Debug, Default)]
struct Account {
    there: BTreeSet<(i64, i64, i64)>,
    not_there: BTreeSet<(i64, i64, i64)>,
}

async fn amid_kills(kind: ServerKind) {
    let seed = number("TWINLOG_CHAOS_SEED").unwrap_or_else(rand::random);
    let seconds = number("TWINLOG_CHAOS_SECONDS").unwrap_or(SECONDS);
    println!("seed: TWINLOG_CHAOS_SEED={seed}");
    let mut cluster = Cluster::start(TWINLOG, &ClusterOptions::new(kind), SCHEMA).await;
    let begun = Instant::now();
    let end = begun + Duration::from_secs(seconds);
    let stop = Arc::new(AtomicBool::new(false));
    let random = |stream: u64| StdRng::seed_from_u64(seed.wrapping_add(stream << 56));
    let mut clients = Vec::new();
    for node in [0_i64, 1] {
        for client in 0..=CLIENTS {
            let opts = cluster.servers[usize::try_from(node).unwrap()].opts();
            let random = random(10 + 3 * node.unsigned_abs() + client.unsigned_abs());
            let client = Client {
                opts,
                node,
                client,
                stop: Arc::clone(&stop),
                account: Account::default(),
            };
            clients.push(tokio::spawn(client.run(random)));
        }
    }
    let folder = cluster.folder().to_owned();
    let (engines_a, engines_b, killed) = tokio::join!(
        engines(&folder, 0, random(1), end),
        engines(&folder, 1, random(2), end),
        kill_servers(&mut cluster.servers, random(3), end),
    );
    stop.store(true, Ordering::Relaxed);
    let mut account = Account::default();
    for client in clients {
        let of_client = client.await.unwrap();
        account.there.extend(of_client.there);
        account.not_there.extend(of_client.not_there);
    }
    // MariaDB can have forgotten, in a crash, what it had acknowledged.
    let mut forgotten = 0;
    for node in [0, 1] {
        let prepared: Vec<(u64, u64, u64, String)> = cluster.query(node, "XA RECOVER").await;
        for (_, _, _, name) in prepared {
            forgotten += 1;
            let seq = name.rsplit_once('.').unwrap().1.parse().unwrap();
            cluster.run(node, &decision(&name, commits(seq))).await;
        }
    }
    let written = begun.elapsed();
    for node in [0, 1] {
        cluster.start_engine(node, None);
    }
    cluster.wait_for(PATIENCE + 2 * written).await;
    let mut rows = Vec::new();
    for node in [0, 1] {
        let found: Vec<(i64, i64, i64)> = cluster
            .query(node, "SELECT node, client, seq FROM d.entry")
            .await;
        rows.push(found.into_iter().collect::<BTreeSet<_>>());
    }
    println!(
        "{kind}: {} s, seed {seed}; engines: {engines_a:?} {engines_b:?}, servers: {killed:?}; {} entries, {} committed \
         and {} rolled back for sure, {forgotten} to be decided once more",
        written.as_secs(),
        rows[0].len(),
        account.there.len(),
        account.not_there.len(),
    );
    let missing: Vec<_> = account.there.difference(&rows[0]).collect();
    assert_eq!(missing, Vec::<&(i64, i64, i64)>::new(), "lost");
    let undone: Vec<_> = account.not_there.intersection(&rows[0]).collect();
    assert_eq!(undone, Vec::<&(i64, i64, i64)>::new(), "rolled back");
    cluster.assert_equal().await;
    // Each entry is a transaction, and was counted as one where it was applied.
    let mut written = BTreeMap::new();
    for (node, _, _) in &rows[0] {
        *written.entry(*node).or_insert(0_u64) += 1;
    }
    for node in [0_usize, 1] {
        let counted: Vec<u64> = cluster
            .query(1 - node, "SELECT transactions FROM twinlog.marker")
            .await;
        assert_eq!(counted, [written[&i64::try_from(node).unwrap()]]);
    }
    for name in ["a", "b"] {
        let log = std::fs::read_to_string(folder.join(format!("{name}.log"))).unwrap();
        for words in ["halted", "panicked", "internal:"] {
            let line = log.lines().find(|line| line.contains(words));
            assert_eq!(line, None, "log of engine {name}");
        }
    }
    assert!(account.there.len() > 20 && account.not_there.len() > 2);
}

fn decision(name: &str, commit: bool) -> String {
    format!("XA {} '{name}'", if commit { "COMMIT" } else { "ROLLBACK" })
}

struct Client {
    opts: Opts,
    node: i64,
    client: i64,
    stop: Arc<AtomicBool>,
    account: Account,
}

/// A transaction that is prepared, or may be.
struct Open {
    seq: i64,
    /// Whether the server said that it is.
    prepared: bool,
    due: Instant,
}

impl Client {
    async fn run(mut self, mut random: StdRng) -> Account {
        let mut open: Vec<Open> = Vec::new();
        let mut seq = 0;
        loop {
            let stopped = self.stop.load(Ordering::Relaxed);
            if stopped && open.is_empty() {
                return self.account;
            }
            // A new connection each time: what is prepared is decided by others than who prepared it.
            let Ok(mut conn) = Conn::new(self.opts.clone()).await else {
                tokio::time::sleep(AWAY).await;
                continue;
            };
            if !stopped && open.len() < PREPARED {
                seq += 1;
                if self.client == CLIENTS {
                    let insert = self.insert(seq, 1);
                    if conn.query_drop(insert).await.is_ok() {
                        self.account.there.insert((self.node, self.client, seq));
                    }
                } else {
                    let pad = random.random_range(1..200);
                    let prepared = self.prepare(&mut conn, seq, pad).await.is_ok();
                    let long = random.random_bool(0.2);
                    let most = if long { 6000 } else { 300 };
                    let wait = Duration::from_millis(random.random_range(0..most));
                    open.push(Open {
                        seq,
                        prepared,
                        due: Instant::now() + wait,
                    });
                }
            }
            let _ = conn.disconnect().await;
            let now = Instant::now();
            let mut still = Vec::new();
            for one in open {
                if (stopped || one.due <= now) && self.decide(&one).await {
                    continue;
                }
                still.push(one);
            }
            open = still;
            tokio::time::sleep(Duration::from_millis(random.random_range(5..40))).await;
        }
    }

    fn name(&self, seq: i64) -> String {
        format!("{}.{}.{seq}", self.node, self.client)
    }

    fn insert(&self, seq: i64, pad: usize) -> String {
        let (node, client, pad) = (self.node, self.client, "x".repeat(pad));
        format!("INSERT INTO d.entry VALUES ({node}, {client}, {seq}, '{pad}')")
    }

    async fn prepare(&self, conn: &mut Conn, seq: i64, pad: usize) -> mysql_async::Result<()> {
        let name = self.name(seq);
        conn.query_drop(format!("XA START '{name}'")).await?;
        conn.query_drop(self.insert(seq, pad)).await?;
        conn.query_drop(format!("XA END '{name}'")).await?;
        conn.query_drop(format!("XA PREPARE '{name}'")).await
    }

    /// Decides one; says whether that is over.
    async fn decide(&mut self, open: &Open) -> bool {
        let Ok(mut conn) = Conn::new(self.opts.clone()).await else {
            return false;
        };
        let commit = commits(open.seq);
        let decided = conn
            .query_drop(decision(&self.name(open.seq), commit))
            .await;
        let _ = conn.disconnect().await;
        let entry = (self.node, self.client, open.seq);
        match decided {
            Ok(()) if commit => self.account.there.insert(entry),
            Ok(()) => self.account.not_there.insert(entry),
            // Not known: it was decided by an attempt whose answer was lost, or never prepared, or
            // the server has not noticed yet that the connection is gone which prepared it.
            Err(mysql_async::Error::Server(error)) if error.code == 1397 => {
                return !open.prepared || open.due.elapsed() > Duration::from_secs(3);
            }
            Err(_) => return false,
        };
        true
    }
}
